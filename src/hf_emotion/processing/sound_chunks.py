"""Sounds of any length for audio towers that take one length (Whisper) or a whole waveform (HuBERT and its kin).

Whisper's encoder reads exactly 30 s. What differs from its own feature extractor, which drops the rest: a longer sound
becomes consecutive chunks, each with the time at which it starts and a mask of the frames that are sound. What differs
for waveforms: a sound too short for the tower's first convolutions is followed by silence.

Letters: B batch, C chunks of sound, F spectrum frames of a chunk.
"""

import numpy as np

# The towers' convolutions, and an analysis window, need 25 ms of sound to give one frame.
SHORTEST_SECONDS = 0.025


def chunked_features(feature_extractor, waveforms) -> dict[str, np.ndarray]:
    """Consecutive chunks over whole sounds, for a tower that takes chunks of one length.

    Args:
        feature_extractor: a `WhisperFeatureExtractor` or one like it: `n_samples` make a chunk. Its `chunk_length`
            (s) decides how long chunks are; the tower's `max_source_positions` must fit it.
        waveforms: B arrays (samples,), mono at the extractor's rate.

    Returns:
        `input_features` (B, C, mel, F) float32, `attention_mask` (B, C, F) bool, True for frames that are sound, and
        `audio_times` (B, C) int64 ms, start of each chunk, -1 where padded. A rest shorter than 25 ms makes no chunk.
    """
    length, rate = feature_extractor.n_samples, feature_extractor.sampling_rate
    shortest = round(SHORTEST_SECONDS * rate)
    starts = [range(0, max(1, len(w) - shortest + 1), length) for w in waveforms]
    pieces = [w[start : start + length] for w, own in zip(waveforms, starts, strict=True) for start in own]
    features = feature_extractor(
        pieces, sampling_rate=rate, padding="max_length", return_attention_mask=True, return_tensors="np"
    )
    spectra, frames = features["input_features"], features["attention_mask"].astype(bool)
    times = np.full((len(waveforms), max(map(len, starts))), -1, dtype=np.int64)
    inputs = np.zeros((*times.shape, *spectra.shape[1:]), dtype=np.float32)
    mask = np.zeros((*times.shape, frames.shape[1]), dtype=bool)
    first = 0
    for i, own in enumerate(starts):
        rows = slice(first, first + len(own))
        inputs[i, : len(own)], mask[i, : len(own)] = spectra[rows], frames[rows]
        times[i, : len(own)] = [start * 1000 // rate for start in own]
        first += len(own)
    return {"input_features": inputs, "attention_mask": mask, "audio_times": times}


def check_length(feature_extractor, waveform, longest_seconds, source="the input") -> None:
    """Refuse a sound that is too long for a tower that attends to a whole waveform; other towers take any length.

    Raises:
        ValueError: it is longer than `longest_seconds`; the message names `source`.
    """
    seconds = len(waveform) / feature_extractor.sampling_rate
    if "input_values" in feature_extractor.model_input_names and seconds > longest_seconds:
        raise ValueError(
            f"{source}: a sound of {seconds:.1f} s came for an audio tower that attends to whole waveforms; up to "
            f"{longest_seconds:g} s is accepted (max_waveform_seconds), and towers that take chunks (ImageBind, "
            f"Whisper) have no such limit."
        )


def waveform_features(feature_extractor, waveforms, longest_seconds) -> dict[str, np.ndarray]:
    """Padded waveforms, for a tower that attends to a whole sound at once.

    Args:
        feature_extractor: a `Wav2Vec2FeatureExtractor`.
        waveforms: B arrays (samples,), mono at the extractor's rate; under 25 ms, silence is added.
        longest_seconds: longest sound taken; the tower's memory grows with the square of it.

    Returns:
        `input_values` (B, samples) float32 and `attention_mask` (B, samples) int64.

    Raises:
        ValueError: a sound longer than `longest_seconds`.
    """
    rate = feature_extractor.sampling_rate
    check_length(feature_extractor, max(waveforms, key=len), longest_seconds)
    shortest = round(SHORTEST_SECONDS * rate)
    waveforms = [np.pad(w, (0, max(0, shortest - len(w)))) for w in waveforms]
    features = feature_extractor(
        waveforms, sampling_rate=rate, padding=True, return_attention_mask=True, return_tensors="np"
    )
    return {"input_values": features["input_values"], "attention_mask": features["attention_mask"]}


def whole_sound_features(feature_extractor, waveforms, longest_seconds) -> dict[str, np.ndarray]:
    """The inputs of an audio tower that hears all of a sound: `waveform_features`, `chunked_features`, or what an
    extractor that makes chunks by itself (ImageBind's) gives."""
    if "input_values" in feature_extractor.model_input_names:
        return waveform_features(feature_extractor, waveforms, longest_seconds)
    if hasattr(feature_extractor, "n_samples"):
        return chunked_features(feature_extractor, waveforms)
    return feature_extractor(
        waveforms, sampling_rate=feature_extractor.sampling_rate, padding=True, return_tensors="np"
    )


__all__ = ["check_length", "chunked_features", "waveform_features", "whole_sound_features"]
