"""Configuration of AffectGPT (zeroQiaoba; arXiv 2501.16566), as released with MER2025 and MER2026."""

from dataclasses import field
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from .configuration_emotion import EmotionConfig

# openai/clip-vit-large-patch14's vision tower, and TencentGameMate/chinese-hubert-large.
CLIP_LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
              "patch_size": 14}  # fmt: skip
HUBERT_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "do_stable_layer_norm": True,
    "feat_proj_layer_norm": True,
}


@strict
class AffectGPTConfig(EmotionConfig):
    """Configuration of `AffectGPTModel` and `AffectGPTForConditionalGeneration`.

    The defaults are the released "best setup": attention in all three fusions, one token each.

    Args:
        vision_config, projection_dim: CLIP ViT-L/14; its projected image embedding is used.
        audio_config, audio_layers: chinese-HuBERT-large; the mean of these hidden states, and over time.
        text_config: Qwen2.5-7B.
        missing_modality: `"drop"`: a modality that a clip lacks has no placeholder and no sentence, as in the authors'
            prompts for fewer modalities.
    """

    model_type = "affectgpt"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="clip_vision_model", init_kwargs=CLIP_LARGE),
        "audio_config": SubConfigSpec(config_class=AutoConfig, model_type="hubert", init_kwargs=HUBERT_LARGE),
        "text_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="qwen2",
            init_kwargs={
                "vocab_size": 152064,
                "hidden_size": 3584,
                "intermediate_size": 18944,
                "num_hidden_layers": 28,
                "num_attention_heads": 28,
                "num_key_value_heads": 4,
                "max_position_embeddings": 32768,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
            },
        ),
    }

    vision_config: dict | PreTrainedConfig | None = None
    projection_dim: int = 768
    audio_config: dict | PreTrainedConfig | None = None
    audio_layers: list[int] = field(default_factory=lambda: [-4, -3, -2, -1])
    video_token_id: int = 152064
    audio_token_id: int = 152065
    missing_modality: Literal["drop"] = "drop"

    def tokens_per_clip(self, num_frames: int, num_utterances: int = 0) -> dict[str, int]:
        """Media tokens of a clip with picture and sound: the faces' and the fusion's, and the sound's."""
        return {"video": 2, "audio": 1}


# The source files are saved with the model, so that a folder loads without this package.
AffectGPTConfig.register_for_auto_class()

__all__ = ["AffectGPTConfig"]
