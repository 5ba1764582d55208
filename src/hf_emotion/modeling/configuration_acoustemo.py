"""Configuration of AcoustEmo: its towers, the utterance-aware acoustic Q-Former and the ablations of its Table 2."""

from dataclasses import field
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, Blip2QFormerConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from .configuration_emotion import EmotionConfig, TowerSpec, frame_rate_of


@strict
class AcoustEmoConfig(EmotionConfig):
    """Configuration of `AcoustEmoModel` and `AcoustEmoForConditionalGeneration`.

    The defaults are the paper's model as far as specified; "a pre-trained Vision Transformer and an Image Q-Former"
    (3.1) are read as those of Video-LLaMA, on which the paper's line builds.

    Args:
        vision_config: the frozen vision tower; `None` builds the model without picture.
        vision_post_layernorm_eps: see `MicroEmoConfig`.
        image_qformer_config, num_query_tokens: the image Q-Former (BLIP-2: 12 layers, 32 queries), frozen: "We
            exclusively fine-tune the proposed Utterance-Aware Acoustic Q-Former, the projection layers, and the LoRA
            parameters" (4.1).
        audio_config: "a pre-trained acoustic encoder (e.g., ImageBind)" (3.2); HuBERT, wav2vec 2.0, WavLM or a Whisper
            encoder also work.
        audio_layers, audio_layer_reduction: layers of the audio tower whose states give F_A, and how they are combined;
            `None` takes the last one. Not specified in the paper.
        audio_frame_rate: f_s of Eq. 1 in Hz, frames per second of F_A. `None` takes the tower's own: 10 for
            ImageBind's trunk, 50 for HuBERT and similar towers at 16 kHz and for Whisper. Not specified in the paper.
        audio_frame_times: `"start"`: frame i covers i / f_s to (i + 1) / f_s, as in Eq. 1. `"middle"`, as in 0.1.0,
            places a frame of ImageBind at the middle of its patch, where both roundings miss a frame at the edges.
        num_audio_positions: size of the table of positions over F_A, interpolated for longer sound; 0 for none. Not
            specified in the paper.
        acoustic_qformer_config, num_audio_query_tokens: "learnable queries Q in R^{K x d_model}, where K = 32 [...] and
            d_model = 768" (3.3). Eq. 2 is read as shorthand for Video-LLaMA's two-layer Q-Former.
        rounding: how an utterance's times become frames: `"outward"` takes every frame the utterance touches (floor
            of the start, ceiling of the end), `"paper"` is Eq. 1 as printed (ceiling of both). Either keeps at least
            one frame.
        use_global: `False` is Table 2's "w/o Global" row: utterance tokens only.
        use_utterances: `False` is Table 2's "w/o Utterance-Aware A-QF": global tokens only. The third row, fixed
            windows of 2 s, is set in the processor: `window_seconds`.
    """

    model_type = "acoustemo"
    defaults_of_0_1 = {"audio_frame_times": "middle"}
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="instructblip_vision_model", optional=True),
        "image_qformer_config": SubConfigSpec(config_class=Blip2QFormerConfig),
        "audio_config": TowerSpec(config_class=AutoConfig, model_type="imagebind_audio"),
        "acoustic_qformer_config": SubConfigSpec(
            config_class=Blip2QFormerConfig, init_kwargs={"num_hidden_layers": 2, "cross_attention_frequency": 1}
        ),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    vision_config: dict | PreTrainedConfig | None = field(default_factory=dict)
    vision_post_layernorm_eps: float | None = 1e-5
    image_qformer_config: dict | PreTrainedConfig | None = None
    num_query_tokens: int = 32
    audio_config: dict | PreTrainedConfig | None = None
    audio_layers: list[int] | None = None
    audio_layer_reduction: Literal["mean", "sum"] = "mean"
    audio_frame_rate: float | int | None = None
    audio_frame_times: Literal["start", "middle"] = "start"
    num_audio_positions: int = 256
    acoustic_qformer_config: dict | PreTrainedConfig | None = None
    num_audio_query_tokens: int = 32
    missing_modality: Literal["drop"] = "drop"
    rounding: Literal["outward", "paper"] = "outward"
    use_global: bool = True
    use_utterances: bool = True

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.vision_config is not None:
            self.image_qformer_config.encoder_hidden_size = self.vision_config.hidden_size
        self.acoustic_qformer_config.encoder_hidden_size = self.audio_config.hidden_size
        if self.audio_frame_rate is None:
            self.audio_frame_rate = frame_rate_of(self.audio_config)

    def validate_windows(self):
        if not (self.use_global or self.use_utterances):
            raise ValueError("use_global and use_utterances are both False; at least one of them must be True")

    def tokens_per_clip(self, num_frames: int, num_utterances: int) -> dict[str, int]:
        """Media tokens of a clip in the language model's prompt."""
        windows = (1 if self.use_global else 0) + (num_utterances if self.use_utterances else 0)
        video = 0 if self.vision_config is None else self.num_query_tokens * num_frames
        return {"video": video, "audio": self.num_audio_query_tokens * max(windows, 1)}


# The source files are saved with the model, so that a folder loads without this package.
AcoustEmoConfig.register_for_auto_class()

__all__ = ["AcoustEmoConfig"]
