"""The voice tower: two layers over the prosodic cues of each frame (`feature_extraction_voice.py`).

It stands where an audio tower stands, and AcoustEmo's utterance windows run on it. The cues are already statistics over
a second of speech, so a frame is read by itself.
"""

from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel

from .configuration_voice_prosody import VoiceProsodyConfig


class VoiceProsodyModel(PreTrainedModel):
    """A state for each frame of voice cues."""

    config: VoiceProsodyConfig
    # It has no attention: a model that holds it may choose any for its other parts.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    main_input_name = "input_features"
    input_modalities = ("audio",)

    def __init__(self, config: VoiceProsodyConfig):
        super().__init__(config)
        self.input = nn.Linear(config.num_channels, config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.layernorm = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def forward(self, input_features, return_dict=True, **kwargs) -> BaseModelOutputWithPooling:
        """input_features (chunks, channels, F) -> `last_hidden_state` (chunks, F, D), `pooler_output` its mean."""
        states = self.layernorm(self.output(nn.functional.gelu(self.input(input_features.transpose(1, 2)))))
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=states.mean(1))


VoiceProsodyModel.register_for_auto_class("AutoModel")

__all__ = ["VoiceProsodyModel"]
