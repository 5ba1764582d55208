"""FaceXFormer's encoder (arXiv 2403.12960): a face -> one fused map of four scales.

Swin-B, the features of its four stages before each is merged into the next, one linear layer per stage, bilinear
resizing to the finest grid, and a 1 x 1 convolution over all of them. Differences from the original: only the encoder
is implemented (Omni-Emotion does not use the decoder with its task heads), the module stores nothing between calls, and
the backbone is transformers' `SwinModel`. `SwinBackbone` cannot be used: it adds a LayerNorm after each stage.
"""

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.models.swin.modeling_swin import SwinModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .configuration_facexformer import FaceXFormerConfig


class FaceXFormerBackbone(SwinModel):
    """Swin, unchanged, except that its input embedding is the layer that returns a tensor, as adapters require."""

    def get_input_embeddings(self):
        return self.embeddings.patch_embeddings.projection


class FaceXFormerFusion(nn.Module):
    """The "lightweight MLP-fusion module" (Omni-Emotion, 4.2): four maps -> one, at the finest resolution."""

    def __init__(self, widths, hidden_size):
        super().__init__()
        self.projections = nn.ModuleList([nn.Linear(width, hidden_size) for width in widths])
        self.fuse = nn.Conv2d(len(widths) * hidden_size, hidden_size, kernel_size=1, bias=False)

    def forward(self, maps):
        """maps: list of (N, C_i, h_i, w_i), finest first -> (N, D, h_0, w_0)."""
        finest = maps[0].shape[-2:]
        scales = []
        for scale, projection in zip(maps, self.projections, strict=True):
            # As a sequence: quantised projections take no pictures.
            tokens = projection(scale.flatten(2).transpose(1, 2))  # (N, h_i * w_i, D)
            scale = tokens.transpose(1, 2).unflatten(2, scale.shape[-2:])
            scales.append(nn.functional.interpolate(scale, size=finest, mode="bilinear", align_corners=False))
        # The released weights have the coarsest scale first.
        return self.fuse(torch.cat(scales[::-1], dim=1))


class FaceXFormerPreTrainedModel(PreTrainedModel):
    """Flags of FaceXFormer."""

    config: FaceXFormerConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["SwinStage", "FaceXFormerFusion"]
    _supports_sdpa = True
    _supports_attention_backend = True


class FaceXFormerModel(FaceXFormerPreTrainedModel):
    """Images of faces -> tokens of the fused map.

    The backbone's last LayerNorm belongs to Swin-B and to the released weights; FaceXFormer does not use it.
    """

    def __init__(self, config: FaceXFormerConfig):
        super().__init__(config)
        self.backbone = FaceXFormerBackbone(config.backbone_config, add_pooling_layer=False)
        self.fusion = FaceXFormerFusion(config.widths, config.hidden_size)
        self.post_init()

    def get_input_embeddings(self):
        return self.backbone.get_input_embeddings()

    @can_return_tuple
    def forward(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> tuple | BaseModelOutput:
        """Encode N images.

        Args:
            pixel_values: (N, 3, image_size, image_size), RGB with ImageNet's mean and deviation; N may be 0.

        Returns:
            `last_hidden_state` (N, grid * grid, hidden_size), the fused map row by row; 56 x 56 x 256 at full size.

        Raises:
            ValueError: images of another size.
        """
        size = self.config.image_size
        if pixel_values.dim() != 4 or tuple(pixel_values.shape[1:]) != (3, size, size):
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}; FaceXFormer takes (N, 3, {size}, {size})"
            )
        if len(pixel_values) == 0:
            # transformers' attention cannot reshape an empty batch: a batch of clips without any picture.
            empty = pixel_values.new_zeros(0, self.config.grid**2, self.config.hidden_size)
            return BaseModelOutput(last_hidden_state=empty)
        kwargs["output_hidden_states"] = True
        maps = self.backbone(
            pixel_values, output_hidden_states_before_downsampling=True, **kwargs
        ).reshaped_hidden_states[1:]
        return BaseModelOutput(last_hidden_state=self.fusion(maps).flatten(2).transpose(1, 2))


__all__ = ["FaceXFormerModel", "FaceXFormerPreTrainedModel"]
