"""Configuration of MicroEmo (arXiv 2407.16552): its towers, Q-Formers and the ablations of its Table 2."""

from dataclasses import field
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, Blip2QFormerConfig, InstructBlipQFormerConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from .configuration_emotion import EmotionConfig, TowerSpec


@strict
class MicroEmoConfig(EmotionConfig):
    """Configuration of `MicroEmoModel` and `MicroEmoForConditionalGeneration`.

    The defaults are the paper's model: `MicroEmoConfig()` describes EVA ViT-g/14, the InstructBLIP Q-Former, ImageBind
    audio, the Video-LLaMA Q-Formers and LLaMA-2-7B. Any transformers vision, audio or causal language model can be used
    instead.

    Args:
        vision_config: "ViT-G/14 from EVA-CLIP as the image encoder" (4.1).
        vision_post_layernorm_eps: eps of the vision tower's last LayerNorm only; 1e-5 in the LAVIS family of
            checkpoints, where transformers' class has one eps for all. `None` leaves the tower unchanged.
        image_qformer_config: "the image Q-Former [is] initialized from InstructBLIP's checkpoint" (4.1).
        num_query_tokens: queries of the image Q-Former (InstructBLIP: 32).
        video_qformer_config, num_video_query_tokens: "the video Q-Former for vision and audio is initialized from
            Video-LLaMA's checkpoint" (4.1): 2 layers, 32 queries.
        num_frame_positions: size of the table of frame positions (Video-LLaMA: 32); clips with more frames interpolate
            it. The paper does not mention positions.
        audio_config: "Imagebind as the audio encoder" (4.1); `None` builds the model without sound.
        audio_feature: `"pooled"` takes one vector per chunk of sound (ImageBind in Video-LLaMA), `"frames"` every time
            step of the tower (HuBERT, Whisper).
        audio_qformer_config, num_audio_query_tokens, num_audio_positions: Video-LLaMA's audio Q-Former, 8 queries over
            8 chunks.
        audio_windows: `"clip"` reads the sound as a whole, as in the paper; `"utterances"` is AcoustEmo's branch in
            this model: one window for the clip and one for each utterance. It needs `audio_feature="frames"`.
        text_config: "LLaMA-2 (7B) as the language foundation model" (4.1).
        use_regions: `False` is Table 2's "w/o global-local AVE".
        use_utterances: `False` is Table 2's "w/o utterance-aware V-QF"; both `False` is "w/o all proposed modules".
        region_attention_size, region_attention_heads: inner width and heads of the regional attention. Not
            specified in the paper.
        num_regions: facial regions, R of `video_region_masks`; 13 in the processor's table.
        local_qformer: whether global and local features go through one image Q-Former or two. The paper says "the image
            Q-Former" (3.2), so `"shared"`.
        local_fusion: how "the global and local results are fused" (3.2); the paper does not name the operator. `"gate"`
            is a learnable weight per channel, `"sum"` adds, `"concat"` concatenates both and projects.
        local_gate_init: initial value of the gate; with 0 training starts from the model without the local branch.
        local_dynamics: add the change of the local result from frame to frame, through a separate gate ("local facial
            features of temporal dynamics", 1). The paper does not say how; off by default.
        share_video_qformers: one set of weights for the utterance-aware and the global video Q-Former. The paper has
            "a global video Q-Former" in addition to the utterance-aware one (3.3), so `False`.
        label_temperatures: divisors of the log-likelihoods of labels before their shares are computed, by what a clip
            has tokens of: "video", "audio" or "video+audio". `None`, and a missing key, leave the shares as they are.
    """

    model_type = "microemo"
    sub_configs_defaults = {
        "vision_config": TowerSpec(config_class=AutoConfig, model_type="instructblip_vision_model"),
        "image_qformer_config": SubConfigSpec(
            config_class=InstructBlipQFormerConfig, init_kwargs={"vocab_size": 30523}
        ),
        "video_qformer_config": SubConfigSpec(
            config_class=Blip2QFormerConfig, init_kwargs={"num_hidden_layers": 2, "cross_attention_frequency": 1}
        ),
        "audio_config": TowerSpec(config_class=AutoConfig, model_type="imagebind_audio", optional=True),
        "audio_qformer_config": SubConfigSpec(
            config_class=Blip2QFormerConfig, init_kwargs={"num_hidden_layers": 2, "cross_attention_frequency": 1}
        ),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    vision_config: dict | PreTrainedConfig | None = None
    vision_post_layernorm_eps: float | None = 1e-5
    image_qformer_config: dict | PreTrainedConfig | None = None
    num_query_tokens: int = 32
    video_qformer_config: dict | PreTrainedConfig | None = None
    num_video_query_tokens: int = 32
    num_frame_positions: int = 32
    audio_config: dict | PreTrainedConfig | None = field(default_factory=dict)
    audio_feature: Literal["pooled", "frames"] = "pooled"
    audio_qformer_config: dict | PreTrainedConfig | None = None
    num_audio_query_tokens: int = 8
    num_audio_positions: int = 8
    audio_windows: Literal["clip", "utterances"] = "clip"
    missing_modality: Literal["drop"] = "drop"
    use_regions: bool = True
    use_utterances: bool = True
    region_attention_size: int = 512
    region_attention_heads: int = 8
    num_regions: int = 13
    local_qformer: Literal["shared", "separate"] = "shared"
    local_fusion: Literal["gate", "sum", "concat"] = "gate"
    local_gate_init: float | int = 0.0
    local_dynamics: bool = False
    share_video_qformers: bool = False
    label_temperatures: dict[str, float | int] | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self.image_qformer_config.encoder_hidden_size = self.vision_config.hidden_size
        self.video_qformer_config.encoder_hidden_size = self.image_qformer_config.hidden_size
        if self.audio_config is not None:
            self.audio_qformer_config.encoder_hidden_size = self.audio_width

    @property
    def audio_width(self) -> int:
        """Width of the audio tower's output, as read by the audio Q-Former."""
        pooled_width = getattr(self.audio_config, "projection_dim", self.audio_config.hidden_size)
        return pooled_width if self.audio_feature == "pooled" else self.audio_config.hidden_size

    def tokens_per_clip(self, num_frames: int, num_utterances: int) -> dict[str, int]:
        """Media tokens of a clip in the language model's prompt; frames do not change them."""
        windows = 1 + (num_utterances if self.use_utterances else 0)
        audio = 0 if self.audio_config is None else self.num_audio_query_tokens
        if self.audio_windows == "utterances":
            audio *= windows
        return {"video": self.num_video_query_tokens * windows, "audio": audio}


# The source files are saved with the model, so that a folder loads without this package.
MicroEmoConfig.register_for_auto_class()

__all__ = ["MicroEmoConfig"]
