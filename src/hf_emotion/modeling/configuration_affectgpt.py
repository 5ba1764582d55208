"""Configuration of AffectGPT (zeroQiaoba; arXiv 2501.16566), as released with MER2025 and MER2026."""

from dataclasses import field
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, Blip2QFormerConfig
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

    The defaults are the released "best setup" of MER2025 and MER2026: attention in all three fusions, one token each.
    The authors' code has the other fusions too.

    Args:
        vision_config, projection_dim: CLIP ViT-L/14; its projected image embedding is used.
        audio_config, audio_layers: chinese-HuBERT-large; the mean of these hidden states, and over time.
        text_config: Qwen2.5-7B.
        video_fusion, audio_fusion: how frames, and segments of sound, become tokens: `"attention"`, a sum with learned
            weights; `"mean"`; `"qformer"`, learned queries over all of them.
        fusion: the pre-fusion of picture and sound: `"attention"`, a weighted sum of their means; `"qformer"`, learned
            queries over the frames followed by the segments.
        num_video_query_tokens, num_audio_query_tokens, num_fusion_query_tokens: tokens of each. Without a Q-Former the
            one token is repeated, as in the authors' code.
        video_qformer_config, audio_qformer_config, fusion_qformer_config: BERT-base's width and two layers where a
            Q-Former is used, else `None`.
        num_frame_positions, num_audio_positions, num_fusion_positions: learned positions before the Q-Formers.
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
        "video_qformer_config": SubConfigSpec(config_class=Blip2QFormerConfig, optional=True),
        "audio_qformer_config": SubConfigSpec(config_class=Blip2QFormerConfig, optional=True),
        "fusion_qformer_config": SubConfigSpec(config_class=Blip2QFormerConfig, optional=True),
    }

    vision_config: dict | PreTrainedConfig | None = None
    projection_dim: int = 768
    audio_config: dict | PreTrainedConfig | None = None
    audio_layers: list[int] = field(default_factory=lambda: [-4, -3, -2, -1])
    video_fusion: Literal["attention", "mean", "qformer"] = "attention"
    audio_fusion: Literal["attention", "mean", "qformer"] = "attention"
    fusion: Literal["attention", "qformer"] = "attention"
    num_video_query_tokens: int = 1
    num_audio_query_tokens: int = 1
    num_fusion_query_tokens: int = 1
    video_qformer_config: dict | PreTrainedConfig | None = None
    audio_qformer_config: dict | PreTrainedConfig | None = None
    fusion_qformer_config: dict | PreTrainedConfig | None = None
    num_frame_positions: int = 32
    num_audio_positions: int = 8
    num_fusion_positions: int = 264
    video_token_id: int = 152064
    audio_token_id: int = 152065
    missing_modality: Literal["drop"] = "drop"

    def __post_init__(self, **kwargs):
        for name, (how, _) in self.fusions.items():
            if how != "qformer":
                setattr(self, f"{name}_qformer_config", None)
            elif getattr(self, f"{name}_qformer_config") is None:
                default = Blip2QFormerConfig(num_hidden_layers=2, cross_attention_frequency=1)
                setattr(self, f"{name}_qformer_config", default)
        super().__post_init__(**kwargs)
        for name, size in self.fusion_sizes.items():
            if getattr(self, f"{name}_qformer_config") is not None:
                getattr(self, f"{name}_qformer_config").encoder_hidden_size = size

    @property
    def fusion_sizes(self) -> dict[str, int]:
        """Width of the frames, of the segments of sound, and of both where they are fused."""
        video, audio = self.projection_dim, self.audio_config.hidden_size
        return {"video": video, "audio": audio, "fusion": max(video, audio)}

    @property
    def fusions(self) -> dict[str, tuple[str, int]]:
        """How frames, segments of sound and both together become tokens, and how many."""
        return {
            "video": (self.video_fusion, self.num_video_query_tokens),
            "audio": (self.audio_fusion, self.num_audio_query_tokens),
            "fusion": (self.fusion, self.num_fusion_query_tokens),
        }

    def tokens_per_clip(self, num_frames: int, num_utterances: int = 0) -> dict[str, int]:
        """Media tokens of a clip with picture and sound: the faces' and the fusion's, and the sound's."""
        return {
            "video": self.num_fusion_query_tokens + self.num_video_query_tokens,
            "audio": self.num_audio_query_tokens,
        }


# The source files are saved with the model, so that a folder loads without this package.
AffectGPTConfig.register_for_auto_class()

__all__ = ["AffectGPTConfig"]
