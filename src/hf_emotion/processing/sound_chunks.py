"""Sounds of any length for audio towers that take one length (Whisper) or a whole waveform (HuBERT and similar).

Whisper's encoder reads exactly 30 s. Its own feature extractor drops the rest; here a longer sound becomes consecutive
chunks, each with its start time and a mask of the frames that are sound. For waveforms, a sound too short for the
tower's first convolutions is followed by silence.

Letters: B batch, C chunks of sound, F spectrum frames of a chunk.
"""

import numpy as np
from transformers import SequenceFeatureExtractor, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from .feature_extraction_imagebind import ImageBindFeatureExtractor
from .feature_extraction_voice import VoiceCueExtractor

# The towers' convolutions, and an analysis window, need 25 ms of sound to give one frame.
SHORTEST_SECONDS = 0.025


def whole_sound_extractor(audio_config) -> SequenceFeatureExtractor:
    """The feature extractor of an audio tower that reads a whole sound: consecutive chunks, or the waveform.

    Args:
        audio_config: the tower's; `None` for a model without one, whose clips are then read at 16 kHz.
    """
    if audio_config is not None and audio_config.model_type == "imagebind_audio":
        return ImageBindFeatureExtractor(hop_seconds=2.0)
    if audio_config is not None and audio_config.model_type == "voice_prosody":
        return VoiceCueExtractor()
    if audio_config is not None and audio_config.model_type == "whisper":
        # 100 spectrum frames a second, two of which make a position.
        seconds = audio_config.max_source_positions // 50
        return WhisperFeatureExtractor(feature_size=audio_config.num_mel_bins, chunk_length=seconds)
    return Wav2Vec2FeatureExtractor(return_attention_mask=True, do_normalize=True)


def sound_input_names(feature_extractor) -> list[str]:
    """The names of the model inputs that `whole_sound_features` returns."""
    names = [
        "audio_attention_mask" if name == "attention_mask" else name for name in feature_extractor.model_input_names
    ]
    chunks = ["audio_times"] if hasattr(feature_extractor, "n_samples") else []
    ends = ["audio_ends"] if getattr(feature_extractor, "hop_seconds", None) is not None else []
    return list(dict.fromkeys([*names, "audio_attention_mask", *chunks, *ends]))


def chunk_lengths(feature_extractor, num_samples: int) -> list[int]:
    """Samples in each chunk of a sound, at least one chunk; a rest shorter than 25 ms makes none."""
    length, shortest = feature_extractor.n_samples, round(SHORTEST_SECONDS * feature_extractor.sampling_rate)
    return [min(length, num_samples - start) for start in range(0, max(1, num_samples - shortest + 1), length)]


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
    starts = [[i * length for i in range(len(chunk_lengths(feature_extractor, len(w))))] for w in waveforms]
    pieces = [w[start : start + length] for w, firsts in zip(waveforms, starts, strict=True) for start in firsts]
    features = feature_extractor(
        pieces, sampling_rate=rate, padding="max_length", return_attention_mask=True, return_tensors="np"
    )
    spectra, frames = features["input_features"], features["attention_mask"].astype(bool)
    times = np.full((len(waveforms), max(map(len, starts))), -1, dtype=np.int64)
    inputs = np.zeros((*times.shape, *spectra.shape[1:]), dtype=np.float32)
    mask = np.zeros((*times.shape, frames.shape[1]), dtype=bool)
    first = 0
    for i, firsts in enumerate(starts):
        rows, count = slice(first, first + len(firsts)), len(firsts)
        inputs[i, :count], mask[i, :count] = spectra[rows], frames[rows]
        times[i, :count] = [start * 1000 // rate for start in firsts]
        first += count
    return {"input_features": inputs, "attention_mask": mask, "audio_times": times}


def check_length(feature_extractor, waveform, longest_seconds, source="the input") -> None:
    """Refuse a sound that is too long for a tower that attends to a whole waveform; other towers accept any length.

    Raises:
        ValueError: it is longer than `longest_seconds`; the message names `source`.
    """
    seconds = len(waveform) / feature_extractor.sampling_rate
    if "input_values" in feature_extractor.model_input_names and seconds > longest_seconds:
        raise ValueError(
            f"{source}: a sound of {seconds:.1f} s was passed to an audio tower that attends to whole waveforms; up to "
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
    """The inputs of an audio tower that reads all of a sound: `waveform_features`, `chunked_features`, or what an
    extractor that makes chunks itself (ImageBind's) returns."""
    if "input_values" in feature_extractor.model_input_names:
        return waveform_features(feature_extractor, waveforms, longest_seconds)
    if hasattr(feature_extractor, "n_samples"):
        return chunked_features(feature_extractor, waveforms)
    return feature_extractor(
        waveforms, sampling_rate=feature_extractor.sampling_rate, padding=True, return_tensors="np"
    )


__all__ = [
    "check_length",
    "chunk_lengths",
    "chunked_features",
    "sound_input_names",
    "waveform_features",
    "whole_sound_extractor",
    "whole_sound_features",
]
