"""Configuration of Omni-Emotion (arXiv 2501.09502): its base, its towers, and the ablations of its Tables 1 and 3."""

from dataclasses import field
from math import ceil
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from .configuration_emotion import EmotionConfig, TowerSpec

# The encoder's part of openai/whisper-large-v3.
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
class OmniEmotionConfig(EmotionConfig):
    """Configuration of `OmniEmotionModel` and `OmniEmotionForConditionalGeneration`.

    The defaults are the paper's model: LLaVA-OneVision-7B (SigLIP so400m at 384 pixels, Qwen2-7B), Whisper-large-v3's
    encoder and FaceXFormer's encoder. Table 1's rows are missing sub-configs: "v" is `audio_config=None,
    face_config=None`, "v+a" is `face_config=None`.

    Args:
        vision_config: "We keep the general visual encoder and projector from LLaVA-OneVision-7B" (4.4).
        vision_feature_layer: hidden state of the vision tower that is projected: LLaVA-OneVision's -1, which is taken
            before the tower's last LayerNorm.
        projector_hidden_act, multimodal_projector_bias: of LLaVA-OneVision's projector.
        audio_config: "the audio encoder from Whisper-large-v3" (4.1); `None` builds the model without sound.
        audio_pool_stride: "a pooling layer with a stride 3" (4.1), over steps of 20 ms; average, kernel as wide as the
            stride (neither is specified in the paper; as in HumanOmni, by the same team).
        keep_padding: whether a chunk of sound that ends early keeps all its tokens (500 for 30 s), as HumanOmni's does.
            `False` crops to ceil(mel frames / 6). Not specified in the paper.
        face_config: "the encoder in FaceXFormer" (4.2); `None` builds the model without the face branch.
        face_grid: rows and columns to which the fused map is averaged before the projector. The paper flattens it
            (4.2), which is 56 x 56 = 3,136 tokens per frame, and does not say how 8 frames of it fit; `face_grid=56` is
            literally the paper.
        fusion: Figure 6: `"clip_concat"` is (c), "concatenation on the whole clip", the paper's default;
            `"frame_concat"` is (a); `"frame_cross_attention"` is (b).
        fusion_attention_heads: attention heads of (b). Not specified in the paper.
        num_frame_positions: size of the table behind "For the features of each frame, we add a learnable parameter"
            (4.4, Phase 3); a clip with more frames interpolates it. It starts at zero. Neither is specified in the
            paper.
        special_markers: whether the modality markers are tokens of their own rather than plain text: "we use specific
            tokens to label them" (4.4). HumanOmni, by the same team, writes them as text.
        text_config: Qwen2-7B, LLaVA-OneVision-7B's language model.
        missing_modality: `"zero_input"`: "If one modality is absent, we use a zero tensor to replace it" (4.4), read as
            zeros as the tower's input, with placeholders kept, as in HumanOmni; `"zero_feature"`: zeros in the language
            model's space; `"drop"`: a placeholder without its modality is an error.
    """

    model_type = "omni_emotion"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="siglip_vision_model",
            init_kwargs={
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "patch_size": 14,
                "image_size": 384,
                "num_hidden_layers": 26,
                "num_attention_heads": 16,
                "vision_use_head": False,
            },
        ),
        "audio_config": TowerSpec(config_class=AutoConfig, model_type="whisper", optional=True),
        "face_config": TowerSpec(config_class=AutoConfig, model_type="facexformer", optional=True),
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
    vision_feature_layer: int = -1
    projector_hidden_act: str = "gelu"
    multimodal_projector_bias: bool = True
    audio_config: dict | PreTrainedConfig | None = field(default_factory=WHISPER_LARGE_V3.copy)
    audio_pool_stride: int = 3
    keep_padding: bool = False
    face_config: dict | PreTrainedConfig | None = field(default_factory=dict)
    face_grid: int = 7
    fusion: Literal["clip_concat", "frame_concat", "frame_cross_attention"] = "clip_concat"
    fusion_attention_heads: int = 8
    num_frame_positions: int = 32
    special_markers: bool = False
    video_token_id: int = 151647
    audio_token_id: int = 151648
    face_token_id: int = 151649
    missing_modality: Literal["zero_input", "zero_feature", "drop"] = "zero_input"

    @property
    def vision_grid(self) -> int:
        """Number of rows, and of columns, of the vision tower's patches: 27 at full size."""
        return self.vision_config.image_size // self.vision_config.patch_size

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of a frame after LLaVA-OneVision's pooling to half the grid, rounded up: 14 x 14 = 196."""
        return ceil(self.vision_grid / 2) ** 2

    @property
    def face_tokens_per_frame(self) -> int:
        """Tokens of a face: 49 for a grid of 7."""
        return 0 if self.face_config is None else self.face_grid**2

    @property
    def mel_frames_per_token(self) -> int:
        """Frames of the spectrum, of 10 ms, in a token of sound: Whisper halves their rate, the pooling divides it by
        its stride; 6, "approximately ... a 60ms segment" (4.1)."""
        return 2 * self.audio_pool_stride

    @property
    def audio_tokens_per_chunk(self) -> int:
        """Tokens of a whole chunk of sound: 500 for 30 s."""
        return self.audio_config.max_source_positions // self.audio_pool_stride

    def validate_towers(self):
        if self.audio_config is not None and self.audio_config.model_type != "whisper":
            raise ValueError(f"audio_config is of type {self.audio_config.model_type!r}; 'whisper' is accepted")
        if self.face_config is not None and not 1 <= self.face_grid <= self.face_config.grid:
            raise ValueError(f"face_grid is {self.face_grid}; accepted are 1 to {self.face_config.grid}")
        if self.fusion == "frame_cross_attention" and self.text_config.hidden_size % self.fusion_attention_heads:
            raise ValueError(
                f"text_config.hidden_size {self.text_config.hidden_size} is not a multiple of fusion_attention_heads "
                f"{self.fusion_attention_heads}"
            )

    def tokens_per_clip(
        self, num_frames: int, num_utterances: int = 0, seconds: float = 30.0, face_grid: int | None = None
    ) -> dict[str, int]:
        """Media tokens of a clip in the language model's prompt; utterances do not change them.

        Args:
            num_frames: number of video frames.
            num_utterances: not used; other papers' counts depend on it.
            seconds: length of the sound.
            face_grid: a grid to use instead of the configuration's, to see its cost.
        """
        face = 0 if self.face_config is None else num_frames * (face_grid or self.face_grid) ** 2
        audio = 0
        if self.audio_config is not None and seconds > 0:
            whole, rest = divmod(round(seconds * 100), 2 * self.audio_config.max_source_positions)
            last = min(ceil(rest / self.mel_frames_per_token), self.audio_tokens_per_chunk)
            if self.keep_padding and rest:
                last = self.audio_tokens_per_chunk
            audio = whole * self.audio_tokens_per_chunk + last
        return {"video": num_frames * self.tokens_per_frame + 1, "face": face, "audio": audio}

    def token_choices(self, num_frames: int) -> dict[str, dict[str, int]]:
        """Tokens for each grid that divides the face tower's map: 56 is literally the paper, 7 the default (see
        `face_grid`)."""
        if self.face_config is None:
            return {}
        whole = self.face_config.grid
        grids = [grid for grid in range(1, whole + 1) if whole % grid == 0]
        return {f"face_grid={grid}, 30 s of sound": self.tokens_per_clip(num_frames, face_grid=grid) for grid in grids}


# The source files are saved with the model, so that a folder loads without this package.
OmniEmotionConfig.register_for_auto_class()

__all__ = ["OmniEmotionConfig"]
