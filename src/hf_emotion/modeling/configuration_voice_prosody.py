"""Configuration of the voice tower: an audio tower that reads pitch, energy, tilt and rate instead of spectra."""

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig


@strict
class VoiceProsodyConfig(PreTrainedConfig):
    """Configuration of `VoiceProsodyModel`.

    Args:
        num_channels: number of cues per frame from the feature extractor.
        frame_rate: frames per second, Hz.
        hidden_size: D, width of a frame's state.
        intermediate_size: width inside.
    """

    model_type = "voice_prosody"

    num_channels: int = 18
    frame_rate: int = 10
    hidden_size: int = 64
    intermediate_size: int = 128
    initializer_range: float = 0.1


VoiceProsodyConfig.register_for_auto_class()

__all__ = ["VoiceProsodyConfig"]
