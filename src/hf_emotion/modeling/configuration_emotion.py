"""What the configurations of all papers share: language model, placeholder ids and missing-modality policy."""

import math
from difflib import get_close_matches
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import GenerationConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from .configuration_face_motion import FaceMotionConfig
from .configuration_facexformer import FaceXFormerConfig
from .configuration_imagebind_audio import ImageBindAudioConfig
from .configuration_voice_prosody import VoiceProsodyConfig

# Names that transformers reads or writes in a configuration in addition to the fields.
FOREIGN_NAMES = {
    *GenerationConfig._get_default_generation_params(),
    *("attn_implementation", "auto_map", "custom_pipelines", "experts_implementation", "name_or_path", "num_labels"),
    *("output_attentions", "per_layer_config", "quantization_config", "torch_dtype", "use_cache"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
}

# Encoders that this package provides.
OWN_CONFIGS = {
    config.model_type: config
    for config in (FaceMotionConfig, FaceXFormerConfig, ImageBindAudioConfig, VoiceProsodyConfig)
}


class TowerSpec(SubConfigSpec):
    """A sub-config of any transformers encoder, or of an encoder that this package provides.

    The lookup is done here, not by registration: a model folder must load even where nothing was registered.
    """

    def get_config_class(self, model_type: str | None = None):
        return OWN_CONFIGS.get(model_type) or super().get_config_class(model_type)


def frame_rate_of(audio_config) -> float | int:
    """Frames per second of an audio tower's output, Hz."""
    if audio_config.model_type == "imagebind_audio":
        return 1000 // (audio_config.patch_stride * audio_config.mel_hop_ms)
    if hasattr(audio_config, "frame_rate"):
        return audio_config.frame_rate
    strides = getattr(audio_config, "conv_stride", None)
    return 50 if strides is None else 16000 / math.prod(strides)


@strict
class EmotionConfig(PreTrainedConfig):
    """Base of the papers' configurations; each paper adds its towers as sub-configs and its ablations as fields.

    Args:
        text_config: configuration of the language model; any causal language model of transformers.
        video_token_id, audio_token_id: ids of the placeholders that media tokens replace. They can lie beyond the
            language model's vocabulary: a placeholder is never looked up in the embedding table, so a published
            language model keeps its published size.
        missing_modality: what replaces a modality that a clip lacks: `"drop"` (its placeholders are left out of the
            prompt), `"zero_input"` (zeros are the tower's input), `"zero_feature"` (zeros replace the tower's output).
        parts: the published checkpoints that the weights of each module started from, as `from_pretrained_parts` read
            them: `{module: [{"source", "revision", "license"}]}` (`parts.origin_of`). The model card is filled from it,
            and the licences of the sources decide whether a model is published privately.
    """

    model_type = "emotion"
    # Fields that 0.1.0 did not have -> their values in a folder that 0.1.0 saved.
    defaults_of_0_1: ClassVar[dict[str, Any]] = {}
    keys_to_ignore_at_inference = ["past_key_values", "modalities"]

    text_config: dict | PreTrainedConfig | None = None
    video_token_id: int = 32000
    audio_token_id: int = 32001
    missing_modality: Literal["drop", "zero_input", "zero_feature"] = "drop"
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    parts: dict | None = None

    def refuse_unknown(self, names):
        """Raise a ValueError for a name that is neither a field nor known to transformers.

        In a saved configuration, where other packages add their own names, only for a name similar to a field.
        """
        fields = self.__dataclass_fields__
        for name in names:
            if name in fields or name in FOREIGN_NAMES or name.startswith("_"):
                continue
            near = get_close_matches(name, fields, 1, cutoff=0.8 if self.transformers_version else 0.6)
            if near or not self.transformers_version:
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"{type(self).__name__} has no field {name!r}{hint}")

    def token_choices(self, num_frames: int) -> dict[str, dict[str, int]]:
        """Media tokens of a clip with other settings, for those that a paper leaves open: setting -> tokens."""
        return {}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        if "transformers_version" in config_dict:  # it was saved
            config_dict = {**cls.defaults_of_0_1, **config_dict}
        return super().from_dict(config_dict, **kwargs)

    def __post_init__(self, **kwargs):
        self.refuse_unknown(kwargs)
        if not __name__.startswith("transformers_modules."):
            # An installed package registers the pipeline itself; if the configuration named it too, transformers would
            # ask for consent to remote code.
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)
        if getattr(self.text_config, "tie_word_embeddings", False):
            self.tie_word_embeddings = True


__all__ = ["EmotionConfig", "TowerSpec", "frame_rate_of"]
