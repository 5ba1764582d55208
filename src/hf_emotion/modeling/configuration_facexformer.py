"""Configuration of FaceXFormer's encoder (arXiv 2403.12960), the face tower of Omni-Emotion."""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec


@strict
class FaceXFormerConfig(PreTrainedConfig):
    """Configuration of `FaceXFormerModel`; the defaults are the released network: Swin-B at 224 pixels, width 256.

    Args:
        backbone_config: a Swin Transformer. Stochastic depth is off: the papers that use this encoder freeze it.
        hidden_size: width of each projected scale and of the fused map.
    """

    model_type = "facexformer"
    base_config_key = "face_config"
    sub_configs_defaults = {
        "backbone_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="swin",
            init_kwargs={
                "embed_dim": 128,
                "depths": [2, 2, 18, 2],
                "num_heads": [4, 8, 16, 32],
                "drop_path_rate": 0.0,
            },
        ),
    }

    backbone_config: dict | PreTrainedConfig | None = None
    hidden_size: int = 256
    initializer_range: float = 0.02

    @property
    def image_size(self) -> int:
        """Side of the picture in pixels."""
        return self.backbone_config.image_size

    @property
    def grid(self) -> int:
        """Number of rows, and of columns, of the fused map: 56 at full size."""
        return self.backbone_config.image_size // self.backbone_config.patch_size

    @property
    def widths(self) -> list[int]:
        """Channels of each of the backbone's scales, finest first: 128, 256, 512, 1024 at full size."""
        return [self.backbone_config.embed_dim * 2**i for i in range(len(self.backbone_config.depths))]


__all__ = ["FaceXFormerConfig"]
