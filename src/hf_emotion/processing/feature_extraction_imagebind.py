"""Waveforms -> the 2-s log-mel chunks that the ImageBind audio tower reads (arXiv 2305.05665, section 4.1).

The spectrogram is Kaldi's filter bank (25 ms Hann windows every 10 ms, no dither, 128 HTK-mel bins), computed for all
chunks of a batch at once. What differs from the peers' input code:

- The chunks reach the end of the sound. Theirs start at `i * (D - 2) / n`, so the last `(D - 2) / n` seconds are never
  read; `clip_sampling="pytorchvideo015"` does the same, for comparison.
- `hop_seconds` cuts the whole sound into consecutive chunks, for AcoustEmo's frame-level features.
- A sound under 2 s is followed by silence, and the chunks that a clip does not fill are masked; the peers repeat the
  short chunk and pad its spectrogram with zeros before normalisation, which then mean a loud sound (+0.467).

A full chunk has 198 spectrum frames; 204 are expected, and the last six are filled as the peers fill them (0 before
normalisation). The tower's patches end at frame 196, so nothing ever reads them.
"""

import functools
import math
from typing import Literal

import numpy as np
import torch
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature

WINDOW_MS = 25
HOP_MS = 10
PREEMPHASIS = 0.97
LOWEST_FREQUENCY = 20.0
# Chunks transformed at once: their frames and spectra take 0.7 MB a chunk, and a long sound has hundreds.
CHUNKS_AT_ONCE = 64


@functools.lru_cache(maxsize=4)
def kaldi_matrices(sampling_rate: int, num_mel_bins: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The two linear maps of Kaldi's filter bank, built in float64.

    All that Kaldi does to a frame before its squared magnitude is linear (mean removal, pre-emphasis, window, Fourier
    transform), so one matrix product does it for every frame of a batch.

    Returns:
        float32 (samples of a frame, 2 * frequencies), real parts then imaginary parts, and
        float32 (frequencies, num_mel_bins). The Nyquist frequency, which no filter reaches, is left out.
    """
    length = sampling_rate * WINDOW_MS // 1000
    fft_length = 1 << (length - 1).bit_length()
    frame = torch.eye(length, dtype=torch.float64)
    frame = frame - frame.mean(-1, keepdim=True)
    # Kaldi lets a frame's first sample follow a copy of itself.
    frame = frame - PREEMPHASIS * torch.cat([frame[:, :1], frame[:, :-1]], dim=-1)
    frame = frame * torch.hann_window(length, periodic=False, dtype=torch.float64)
    spectrum = torch.fft.rfft(frame, fft_length)[:, :-1]

    def mel(frequency):
        return 1127.0 * np.log1p(np.asarray(frequency) / 700.0)

    edges = np.linspace(mel(LOWEST_FREQUENCY), mel(sampling_rate / 2), num_mel_bins + 2)
    bins = mel(np.arange(fft_length // 2) * sampling_rate / fft_length)[:, None]
    rise = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters = torch.from_numpy(np.minimum(rise, fall).clip(min=0.0))
    return torch.cat([spectrum.real, spectrum.imag], dim=-1).float(), filters.float()


def log_mel(waveforms: torch.Tensor, sampling_rate: int, num_mel_bins: int) -> torch.Tensor:
    """Kaldi's log filter bank of many waveforms of one length.

    Args:
        waveforms: (N, samples) float32.

    Returns:
        (N, num_mel_bins, frames) float32; frames = 1 + (samples - 25 ms) // 10 ms.
    """
    transform, filters = kaldi_matrices(sampling_rate, num_mel_bins)
    frames = waveforms.unfold(-1, len(transform), sampling_rate * HOP_MS // 1000)  # (N, frames, samples of a frame)
    real, imaginary = (frames @ transform).square_().chunk(2, dim=-1)
    energy = (real + imaginary) @ filters
    return energy.clamp_min(torch.finfo(torch.float32).eps).log_().transpose(1, 2)


class ImageBindFeatureExtractor(SequenceFeatureExtractor):
    """Makes `input_features` for `ImageBindAudioModel`.

    Args:
        feature_size: mel bins.
        sampling_rate: Hz.
        padding_value: what a masked chunk is filled with.
        num_frames: spectrum frames of a chunk, padding included.
        chunk_seconds: length of a chunk, s.
        num_clips: chunks per sound, spread evenly from its start to its end (Video-LLaMA: 8). With 1, the middle.
        clip_sampling: `"uniform"`, or `"pytorchvideo015"` for the peers' starts, which miss the end.
        hop_seconds: if given, chunks start every so many seconds until the sound is covered, as many as it takes, in
            place of `num_clips`. The last one may run over the end, into silence; a rest shorter than one analysis
            window (25 ms) makes no chunk.
        mean, std: of the normalisation `(x - mean) / std`. The peers' constants: AudioSet's mean and twice its spread.
    """

    model_input_names = ["input_features", "audio_attention_mask", "audio_times"]

    def __init__(
        self,
        feature_size: int = 128,
        sampling_rate: int = 16000,
        padding_value: float = 0.0,
        num_frames: int = 204,
        chunk_seconds: float = 2.0,
        num_clips: int = 8,
        clip_sampling: Literal["uniform", "pytorchvideo015"] = "uniform",
        hop_seconds: float | None = None,
        mean: float = -4.268,
        std: float = 9.138,
        **kwargs,
    ):
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        if clip_sampling not in ("uniform", "pytorchvideo015"):
            raise ValueError(f"clip_sampling is {clip_sampling!r}; accepted are 'uniform' and 'pytorchvideo015'")
        if num_clips < 1:
            raise ValueError(f"num_clips is {num_clips}; at least 1 chunk per sound is needed")
        if hop_seconds is not None and not 0 < hop_seconds <= chunk_seconds:
            raise ValueError(
                f"hop_seconds is {hop_seconds}; accepted is more than 0 and at most chunk_seconds ({chunk_seconds}), "
                f"so that no part of the sound is skipped"
            )
        self.num_frames = num_frames
        self.chunk_seconds = chunk_seconds
        self.num_clips = num_clips
        self.clip_sampling = clip_sampling
        self.hop_seconds = hop_seconds
        self.mean = mean
        self.std = std

    @property
    def chunk_length(self) -> int:
        """Samples of a chunk."""
        return round(self.chunk_seconds * self.sampling_rate)

    def chunk_starts(self, num_samples: int) -> list[int]:
        """First sample of each chunk of a sound of `num_samples` samples; at least one."""
        rest = num_samples - self.chunk_length
        if rest <= 0:
            return [0]
        if self.hop_seconds is not None:
            hop = round(self.hop_seconds * self.sampling_rate)
            shortest = self.sampling_rate * WINDOW_MS // 1000
            return [i * hop for i in range(1 + max(0, math.ceil((rest - shortest + 1) / hop)))]
        if self.clip_sampling == "pytorchvideo015":
            return [i * rest // self.num_clips for i in range(self.num_clips)]
        if self.num_clips == 1:
            return [rest // 2]
        return [round(i * rest / (self.num_clips - 1)) for i in range(self.num_clips)]

    def check(self, waveform, index: int) -> np.ndarray:
        """One waveform as float32 (samples,), or a `ValueError` that says what is wrong with it."""
        waveform = waveform.detach().cpu().numpy() if isinstance(waveform, torch.Tensor) else np.asarray(waveform)
        if waveform.ndim != 1:
            raise ValueError(
                f"waveform {index} has shape {waveform.shape}; accepted is mono sound, one dimension of samples"
            )
        if not np.issubdtype(waveform.dtype, np.floating):
            raise ValueError(
                f"waveform {index} holds {waveform.dtype} samples; accepted are floating-point samples in [-1, 1]"
            )
        if waveform.size == 0:
            raise ValueError(f"waveform {index} has no samples; give None for a clip without sound")
        finite = np.isfinite(waveform)
        if not finite.all():
            raise ValueError(
                f"waveform {index} has {waveform.size - int(finite.sum())} NaN or infinite samples of {waveform.size}, "
                f"the first at {int(finite.argmin()) / self.sampling_rate:.3f} s; accepted are finite samples"
            )
        return waveform.astype(np.float32, copy=False)

    def __call__(self, raw_speech, sampling_rate: int | None = None, return_tensors=None, padding=None) -> BatchFeature:
        """Cut sounds into chunks and compute their spectrograms.

        Args:
            raw_speech: a waveform (samples,) or a list of them: mono, floating-point, in [-1, 1]. `None` in the list
                is a clip without sound.
            sampling_rate: Hz of `raw_speech`, to be checked; `None` skips the check.
            return_tensors: "pt", "np" or `None`.
            padding: accepted because transformers' processors pass it; no effect, since all chunks have one size.

        Returns:
            input_features (B, C, feature_size, num_frames) float32, normalised log-mel chunks;
            audio_attention_mask (B, C) bool, True where a chunk is real; all False for a clip without sound;
            audio_times (B, C) int64 ms, where each chunk starts, -1 where it is padding.
            With `hop_seconds` also audio_ends (B, C) int64 ms, where the sound in each chunk ends, -1 where it is
            padding: the last chunk may be silence from there on.
            C is `num_clips`, or with `hop_seconds` the largest count in the batch, at least 1.

        Raises:
            ValueError: for another sampling rate, stereo sound, integer samples, no samples, NaN or infinity.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(
                f"raw_speech is sampled at {sampling_rate} Hz; the ImageBind audio tower takes {self.sampling_rate} Hz"
            )
        if not isinstance(raw_speech, (list, tuple)):
            raw_speech = [raw_speech]
        waveforms = [None if w is None else self.check(w, i) for i, w in enumerate(raw_speech)]
        starts = [[] if w is None else self.chunk_starts(len(w)) for w in waveforms]
        width = self.num_clips if self.hop_seconds is None else max([1, *map(len, starts)])

        mask = np.zeros((len(waveforms), width), dtype=bool)
        times = np.full(mask.shape, -1, dtype=np.int64)
        ends = np.full(mask.shape, -1, dtype=np.int64)
        chunks = np.zeros((sum(map(len, starts)), self.chunk_length), dtype=np.float32)
        row = 0
        for i, (waveform, first_samples) in enumerate(zip(waveforms, starts, strict=True)):
            for j, start in enumerate(first_samples):
                sound = waveform[start : start + self.chunk_length]
                chunks[row, : len(sound)] = sound - sound.mean()
                mask[i, j] = True
                times[i, j] = start * 1000 // self.sampling_rate
                ends[i, j] = (start + len(sound)) * 1000 // self.sampling_rate
                row += 1

        features = torch.full((*mask.shape, self.feature_size, self.num_frames), self.padding_value)
        if len(chunks):
            features[torch.from_numpy(mask)] = self.spectrograms(torch.from_numpy(chunks))
        data = {"input_features": features.numpy(), "audio_attention_mask": mask, "audio_times": times}
        if self.hop_seconds is not None:
            data["audio_ends"] = ends
        return BatchFeature(data, tensor_type=return_tensors)

    def spectrograms(self, chunks: torch.Tensor) -> torch.Tensor:
        """(N, samples of a chunk) -> normalised (N, feature_size, num_frames)."""
        spectra = torch.cat(
            [log_mel(part, self.sampling_rate, self.feature_size) for part in chunks.split(CHUNKS_AT_ONCE)]
        )[..., : self.num_frames]
        spectra = torch.nn.functional.pad(spectra, (0, self.num_frames - spectra.shape[-1]))
        return spectra.sub_(self.mean).div_(self.std)


ImageBindFeatureExtractor.register_for_auto_class()

__all__ = ["ImageBindFeatureExtractor"]
