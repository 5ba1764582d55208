"""Sound through an audio tower: its states, which of them are real, and when each one begins.

A tower reads chunks of a spectrogram (ImageBind, Whisper) or a waveform (HuBERT, wav2vec 2.0, WavLM). Letters as in
`modeling_emotion.py`, and C chunks per clip.
"""

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput

from .modeling_imagebind_audio import ImageBindAudioModel


def encode_sound(
    tower: nn.Module,
    feature: str,
    input_features: Tensor | None = None,
    input_values: Tensor | None = None,
    audio_attention_mask: Tensor | None = None,
    layers: list[int] | None = None,
    layer_reduction: str = "mean",
    **kwargs,
) -> tuple[ModelOutput, Tensor, Tensor]:
    """Run an audio tower over a padded batch.

    Args:
        tower: the audio encoder.
        feature: `"pooled"` for one vector per chunk, `"frames"` for every time step.
        input_features: (B, C, mel, frames), chunks of sound, or
        input_values: (B, samples), a waveform.
        audio_attention_mask: (B, C) for chunks that are real throughout, (B, C, frames) for chunks whose end may be
            padding, or (B, samples); True where real. A row can be all False: a clip without sound.
        layers, layer_reduction: the tower's hidden states (0 is the embedding, -1 the last layer) whose `"mean"` or
            `"sum"` gives the frames; `None` takes the tower's output.
        kwargs: passed to the tower, such as `output_attentions`.

    Returns:
        the tower's own output over the real chunks or clips, the states (B, L, D), zero where padded, and their mask
        (B, L) bool.
    """
    audio_attention_mask = audio_attention_mask.bool()
    if layers is not None:
        kwargs["output_hidden_states"] = True
    real = audio_attention_mask if input_features is not None else audio_attention_mask.any(-1)
    real = real.any(-1) if real.dim() == 3 else real  # (B, C) chunks or (B,) clips
    if input_features is not None:
        output = tower(input_features[real].to(tower.dtype), **kwargs)
    else:
        sample_mask = audio_attention_mask[real].long()
        output = tower(input_values[real].to(tower.dtype), attention_mask=sample_mask, **kwargs)
    if feature == "pooled":
        states = output.pooler_output[:, None]
    else:
        states = output.last_hidden_state
        if layers is not None:
            states = torch.stack([output.hidden_states[layer] for layer in layers])
            states = states.mean(0) if layer_reduction == "mean" else states.sum(0)
        if isinstance(tower, ImageBindAudioModel):
            states = tower.frame_states(states)
    steps = states.new_ones(states.shape[:2], dtype=torch.bool)  # (chunks or clips, l)
    if input_features is None:
        steps = tower._get_feature_vector_attention_mask(states.shape[1], sample_mask).bool()
    elif audio_attention_mask.dim() == 3 and feature == "frames":
        steps = audio_attention_mask[real].unflatten(-1, (states.shape[1], -1)).any(-1)
    mask = steps.new_zeros(*real.shape, states.shape[1])
    mask[real] = steps
    padded = states.new_zeros(*mask.shape, states.shape[-1])
    padded[real] = states * steps.unsqueeze(-1)
    return output, padded.flatten(1, -2), mask.flatten(1)


def chunks_with_sound(audio_attention_mask: Tensor) -> Tensor:
    """(B, C) bool, from the mask of chunks (B, C) or of their frames (B, C, frames)."""
    mask = audio_attention_mask.bool()
    return mask.any(-1) if mask.dim() == 3 else mask


def chunk_states(
    tower: nn.Module,
    input_features: Tensor | None,
    audio_attention_mask: Tensor,
    audio_features: Tensor | None = None,
    **kwargs,
) -> tuple[ModelOutput, Tensor, Tensor]:
    """Every state of whole chunks, what pads their end included, from one pass of a tower or from its cached output.

    Args:
        tower, input_features, audio_attention_mask: as for `encode_sound`.
        audio_features: (B, C * l, D), cached states of the tower, instead of sound.
        kwargs: passed to the tower.

    Returns:
        the tower's output, the states (B, C * l, D), and the chunks with sound (B, C) bool.
    """
    chunks = chunks_with_sound(audio_attention_mask)
    if audio_features is not None:
        return BaseModelOutputWithPooling(), audio_features, chunks
    output, states, _ = encode_sound(tower, "frames", input_features, None, chunks, **kwargs)
    return output, states, chunks


def cached_mask(tower: nn.Module, states: Tensor, audio_attention_mask: Tensor) -> Tensor:
    """The mask (B, L) of cached states (B, L, D), from the mask of the sound as for `encode_sound` or from (B, L)."""
    mask = audio_attention_mask.bool()
    if mask.dim() == 3:
        mask = mask.unflatten(-1, (states.shape[1] // mask.shape[1], -1)).any(-1).flatten(1)
    elif mask.shape[1] > states.shape[1]:  # of a waveform
        with_sound = mask.any(-1, keepdim=True)
        mask = tower._get_feature_vector_attention_mask(states.shape[1], mask.long()).bool() & with_sound
    return mask.repeat_interleave(states.shape[1] // mask.shape[1], dim=1)


def sound_times(
    tower: nn.Module, mask: Tensor, frame_rate: float, audio_times: Tensor | None = None, moment: str = "middle"
) -> Tensor:
    """Times of the states that `encode_sound` returned as frames.

    Args:
        tower, mask: the audio tower, and the states' mask (B, L) bool.
        frame_rate: steps per second (f_s of AcoustEmo's Eq. 1), Hz.
        audio_times: (B, C) int64 ms, start of each chunk, -1 where padded; `None` for a waveform.
        moment: `"start"`: step i begins at i / frame_rate; `"middle"`: a step of ImageBind is at the middle of its
            patches.

    Returns:
        (B, L) int64 ms, -1 where padded.
    """
    if audio_times is None:
        audio_times = torch.zeros_like(mask[:, :1], dtype=torch.long)
    if moment == "middle" and isinstance(tower, ImageBindAudioModel):
        times = tower.frame_times(audio_times)
    else:
        steps = torch.arange(mask.shape[1] // audio_times.shape[1], device=mask.device)
        times = audio_times.unsqueeze(-1) + (steps * 1000 / frame_rate).floor().long()
    return torch.where(mask, times.flatten(1), -1)


def sound_frames(
    tower: nn.Module,
    frame_rate: float,
    input_features: Tensor | None = None,
    input_values: Tensor | None = None,
    audio_attention_mask: Tensor | None = None,
    audio_times: Tensor | None = None,
    audio_ends: Tensor | None = None,
    audio_features: Tensor | None = None,
    moment: str = "middle",
    **kwargs,
) -> tuple[ModelOutput, Tensor, Tensor]:
    """Every frame of a batch's sound with its time, from one pass of an audio tower or from its cached output.

    Args:
        tower: the audio encoder.
        frame_rate, moment: as for `sound_times`.
        input_features, input_values, audio_attention_mask: as for `encode_sound`.
        audio_times: (B, C) int64 ms, start of each chunk, -1 where padded; not needed for a waveform.
        audio_ends: (B, C) int64 ms, where the sound in each chunk ends; `None` if the mask shows it.
        audio_features: (B, L, D), cached frames of the tower, instead of sound; their mask can also be (B, L).
        kwargs: `layers` and `layer_reduction` of `encode_sound`, and arguments of the tower.

    Returns:
        the tower's output, the frames (B, L, D), and their times (B, L) int64 ms, -1 where there is no sound.
    """
    if audio_features is None:
        output, states, mask = encode_sound(
            tower, "frames", input_features, input_values, audio_attention_mask, **kwargs
        )
    else:
        output, states = BaseModelOutputWithPooling(), audio_features
        mask = cached_mask(tower, states, audio_attention_mask)
    times = sound_times(tower, mask, frame_rate, audio_times, moment)
    if audio_ends is not None:
        # A chunk can extend past the end of its sound, into silence; its first frame always contains some sound.
        steps = mask.shape[1] // audio_ends.shape[1]
        within = times < audio_ends.repeat_interleave(steps, dim=1)
        within[:, ::steps] = True
        times = times.masked_fill(~(mask & within), -1)
    return output, states, times
