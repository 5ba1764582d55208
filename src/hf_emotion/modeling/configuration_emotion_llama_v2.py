"""Configuration of Emotion-LLaMA-v2 (github.com/ooochen-30/Emotion-LLaMA-v2)."""

from dataclasses import field
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from .configuration_emotion import EmotionConfig

WHISPER_LARGE = {
    "d_model": 1280,
    "num_mel_bins": 128,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
}
EVA_448 = {"model_type": "instructblip_vision_model", "image_size": 448}
# All blocks of EVA ViT-g; the first tower takes the output of the 39th.
EVA_224 = {"model_type": "instructblip_vision_model", "image_size": 224, "num_hidden_layers": 40}


@strict
class EmotionLLaMAV2Config(EmotionConfig):
    """Configuration of `EmotionLLaMAV2Model` and `EmotionLLaMAV2ForConditionalGeneration`.

    The defaults are the released model.

    Args:
        vision_config: EVA ViT-g at 448 pixels, for the key frame.
        vision_post_layernorm_eps: eps of its last LayerNorm only, as in `MicroEmoConfig`.
        patches_per_token: consecutive patches of the key frame in one token.
        frame_config: EVA ViT-g at 224 pixels with all 40 blocks, for the frames.
        num_frames, frame_grid: frames, and side of the grid to which the patches of each are averaged: 16 x 2 x 2
            steps. The sound is averaged to as many.
        audio_config: the encoder of Whisper-large-v3.
        fusion_sizes: widths of the two layers of each MLP in the fusion; the last is the width inside it.
        fusion_size: width of its output.
        fusion_blocks: convolutions in a row.
        fusion_dropout: in its MLPs.
        text_config: LLaMA-2-7B-chat.
        missing_modality: `"zero_feature"`: zeros replace a tower's output and are projected, as in the authors' code.
    """

    model_type = "emotion_llama_v2"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="instructblip_vision_model"),
        "frame_config": SubConfigSpec(config_class=AutoConfig, model_type="instructblip_vision_model"),
        "audio_config": SubConfigSpec(config_class=AutoConfig, model_type="whisper", init_kwargs=WHISPER_LARGE),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    vision_config: dict | PreTrainedConfig | None = field(default_factory=EVA_448.copy)
    vision_post_layernorm_eps: float | None = 1e-5
    patches_per_token: int = 4
    frame_config: dict | PreTrainedConfig | None = field(default_factory=EVA_224.copy)
    num_frames: int = 16
    frame_grid: int = 2
    audio_config: dict | PreTrainedConfig | None = None
    fusion_sizes: list[int] = field(default_factory=lambda: [512, 128])
    fusion_size: int = 256
    fusion_blocks: int = 4
    fusion_dropout: float = 0.1
    missing_modality: Literal["zero_feature"] = "zero_feature"

    @property
    def keep_padding(self) -> bool:
        """Sound is averaged over whole chunks, silence included, so a feature cache keeps all of their states."""
        return True

    @property
    def num_steps(self) -> int:
        """Tokens of the frames, of the sound and of the fusion, each: 64 in the released model."""
        return self.num_frames * self.frame_grid**2

    @property
    def num_patch_tokens(self) -> int:
        """Tokens of the key frame's patches: 256 in the released model."""
        return (self.vision_config.image_size // self.vision_config.patch_size) ** 2 // self.patches_per_token

    def validate_towers(self):
        patches = (self.vision_config.image_size // self.vision_config.patch_size) ** 2
        if patches % self.patches_per_token:
            raise ValueError(
                f"the vision tower has {patches} patches, which patches_per_token {self.patches_per_token} does not "
                f"divide"
            )
        if len(self.fusion_sizes) != 2:
            raise ValueError(f"fusion_sizes are {self.fusion_sizes}; two widths are accepted")

    def tokens_per_clip(self, num_frames: int, num_utterances: int = 0) -> dict[str, int]:
        """Media tokens of a clip: fusion, patches and frames under the picture's placeholder, then the sound."""
        return {"video": self.num_patch_tokens + 2 * self.num_steps, "audio": self.num_steps}


# The source files are saved with the model, so that a folder loads without this package.
EmotionLLaMAV2Config.register_for_auto_class()

__all__ = ["EmotionLLaMAV2Config"]
