"""Configuration of HumanOmni and R1-Omni (HumanMLLM; arXiv 2501.15111 and 2503.05379), in their released sizes."""

from dataclasses import field
from math import ceil
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from .configuration_emotion import EmotionConfig, TowerSpec

# The encoder of openai/whisper-large-v3.
WHISPER_LARGE_V3 = {
    "model_type": "whisper",
    "d_model": 1280,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "num_mel_bins": 128,
    "max_source_positions": 1500,
}


@strict
class HumanOmniConfig(EmotionConfig):
    """Configuration of `HumanOmniModel` and `HumanOmniForConditionalGeneration`.

    The defaults are HumanOmni-0.5B and R1-Omni-0.5B. HumanOmni-7B has SigLIP so400m at 384 pixels, Qwen2.5-7B,
    `stage_depth=4`, `sampler_padding=1` and `compress_frames=True` (`convert/humanomni.py` reads all of it from the
    checkpoint).

    Args:
        vision_config: SigLIP.
        vision_feature_layer: hidden state of the vision tower that is projected.
        stage_depth: number of blocks in each RegNet stage of the projector: 2 (`AllInOneSmall`) or 4 (`AllInOne`).
        sampler_padding: padding of the convolution between the stages, in height and width: 0 (`AllInOneSmall`) or 1
            (`AllInOne`); both even and odd grids of patches are halved, rounded up.
        compress_frames: the 7B model's `SFDynamicCompressor`: all frames at half the grid, then every fourth frame,
            from the second on, at the full grid.
        instruction_config: BERT, which reads the instruction; the three branches are weighted by its output.
        gate_size: width of the gate's hidden layer; 3,584 in both sizes.
        audio_config: the encoder of Whisper-large-v3; `None` builds the model without sound.
        audio_pool_stride: three steps of 20 ms become one token.
        text_config: Qwen2.5-0.5B.
        missing_modality: `"drop"`: a modality that a clip lacks has no placeholder, as in the authors' inference code.
    """

    model_type = "humanomni"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(
            config_class=AutoConfig, model_type="siglip_vision_model", init_kwargs={"vision_use_head": False}
        ),
        "instruction_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
        "audio_config": TowerSpec(config_class=AutoConfig, model_type="whisper", optional=True),
        "text_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="qwen2",
            init_kwargs={
                "vocab_size": 151936,
                "hidden_size": 896,
                "intermediate_size": 4864,
                "num_hidden_layers": 24,
                "num_attention_heads": 14,
                "num_key_value_heads": 2,
                "max_position_embeddings": 32768,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
                "tie_word_embeddings": True,
            },
        ),
    }

    vision_config: dict | PreTrainedConfig | None = None
    vision_feature_layer: int = -2
    stage_depth: int = 2
    sampler_padding: int = 0
    compress_frames: bool = False
    instruction_config: dict | PreTrainedConfig | None = None
    gate_size: int = 3584
    audio_config: dict | PreTrainedConfig | None = field(default_factory=WHISPER_LARGE_V3.copy)
    audio_pool_stride: int = 3
    video_token_id: int = 151936
    audio_token_id: int = 151937
    missing_modality: Literal["drop"] = "drop"

    @property
    def vision_grid(self) -> int:
        """Number of rows, and of columns, of the vision tower's patches: 14 in the 0.5B models, 27 in the 7B."""
        return self.vision_config.image_size // self.vision_config.patch_size

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of a frame at half the grid, rounded up."""
        return ceil(self.vision_grid / 2) ** 2

    @property
    def audio_tokens_per_chunk(self) -> int:
        """Number of tokens of 30 s of sound, padded with silence: 500."""
        return self.audio_config.max_source_positions // self.audio_pool_stride

    def validate_projector(self):
        sampled = (self.vision_grid + 2 * self.sampler_padding - 2) // 2 + 1
        if sampled**2 != self.tokens_per_frame:
            raise ValueError(
                f"a grid of {self.vision_grid} patches with sampler_padding {self.sampler_padding} is sampled to "
                f"{sampled}, and the face branch gives {ceil(self.vision_grid / 2)}; an even grid needs "
                f"sampler_padding 0, an odd one 1"
            )
        if self.audio_config is not None and self.audio_config.model_type != "whisper":
            raise ValueError(f"audio_config is of type {self.audio_config.model_type!r}; 'whisper' is accepted")

    def num_video_tokens(self, num_frames: int) -> int:
        """Number of tokens of a clip of `num_frames` frames."""
        if not self.compress_frames:
            return num_frames * self.tokens_per_frame
        side = ceil(self.vision_grid / 2)
        return num_frames * (side // 2) ** 2 + max(len(range(1, num_frames, 4)), 1) * side**2

    def tokens_per_clip(self, num_frames: int, num_utterances: int = 0, seconds: float = 30.0) -> dict[str, int]:
        """Media tokens of a clip in the language model's prompt; utterances do not change them."""
        chunks = 0 if self.audio_config is None else ceil(seconds * 50 / self.audio_config.max_source_positions)
        audio = chunks * self.audio_tokens_per_chunk if chunks else 0
        return {"video": self.num_video_tokens(num_frames), "audio": audio}


# The source files are saved with the model, so that a folder loads without this package.
HumanOmniConfig.register_for_auto_class()

__all__ = ["HumanOmniConfig"]
