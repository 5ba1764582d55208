"""Waveforms -> how somebody speaks: pitch, energy, spectral tilt, rate, and their changes, for the voice tower.

Every 20 ms a frame of 64 ms, long enough to separate harmonics, gives level, pitch, periodicity and two spectral tilts.
Every 100 ms the tower's frame describes the 1.3 s around it by their medians and spreads, absolute and relative to the
whole clip: differences within a clip show how the voice changes, not whose it is or how far away the microphone was.
The cues are those that reviews of vocal emotion tabulate (Scherer 2003; Juslin & Laukka 2003):
mean, range and contour of F0, intensity and its variability, energy at high frequencies, rate, pauses, irregularity.
"""

import numpy as np
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature

HOP_MS = 20
WINDOW_SAMPLES = 1024
LOWEST_PITCH, HIGHEST_PITCH = 70, 600  # Hz
# Analysis frames between two frames of the tower, and the number it uses on either side.
STEP, REACH = 5, 32
# A frame is speech from this level on: dB below the clip's loudest, and dB above full scale's floor.
SPEECH_RANGE_DB, SILENCE_DB = 30.0, -62.0

# Name, middle and half range of each cue: (value - middle) / half range goes to the tower.
CUES = {
    "pitch": (0.2, 0.6),  # octaves over 150 Hz, median
    "pitch_to_clip": (0.0, 0.3),  # octaves over the clip's median
    "pitch_range": (0.5, 0.35),  # octaves from the 10th to the 90th percentile
    "pitch_slope": (0.0, 0.5),  # octaves over the window
    "tilt": (-13.0, 6.0),  # dB, 1-5 kHz over below 1 kHz, median
    "tilt_to_clip": (0.0, 4.0),
    "tilt_range": (11.0, 5.0),
    "low_tilt": (-7.0, 7.0),  # dB, 500-1000 Hz over below 500 Hz, median
    "low_tilt_to_clip": (0.0, 5.0),
    "level_to_clip": (-8.0, 8.0),  # dB under the clip's loudest frame, mean of speech
    "level_spread": (6.5, 3.0),  # dB
    "level_change": (2.0, 1.0),  # dB a frame
    "voiced": (0.7, 0.3),  # share of speech
    "speech": (0.8, 0.3),  # share of the window
    "rate": (4.5, 2.0),  # peaks of the level a second
    "periodicity": (0.85, 0.1),
    "irregularity": (0.05, 0.04),  # octaves from frame to frame
    "heard": (0.5, 0.5),  # 1 where there is a voice at all
}

NUM_CUES = len(CUES)


class VoiceCueExtractor(SequenceFeatureExtractor):
    """Makes `input_features` for `VoiceProsodyModel`.

    Args:
        sampling_rate: Hz.
    """

    model_input_names = ["input_features", "audio_attention_mask", "audio_times"]

    def __init__(self, feature_size=NUM_CUES, sampling_rate=16000, padding_value=0.0, **kwargs):
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)

    def analyse(self, waveform) -> np.ndarray:
        """(samples,) -> (F, 5), every 20 ms: level dB, pitch in octaves over 150 Hz, periodicity, two tilts dB."""
        rate, size = self.sampling_rate, WINDOW_SAMPLES
        window = np.hanning(size + 1)[:-1].astype(np.float32)
        padded = np.pad(np.asarray(waveform, np.float32), size // 2)
        frames = np.lib.stride_tricks.sliding_window_view(padded, size)[:: rate * HOP_MS // 1000]
        # A constant offset in the recording would look perfectly periodic.
        frames = (frames - frames.mean(1, keepdims=True)) * window
        power = np.abs(np.fft.rfft(frames, 2 * size, axis=1)) ** 2
        frequency = np.fft.rfftfreq(2 * size, 1 / rate)

        def band(low, high):
            return power[:, (frequency >= low) & (frequency < high)].sum(1) + 1e-9

        # 0 dB is a sine of amplitude 1, whose energy a padded Hann window spreads over three bins.
        level = 10 * np.log10(band(50, 5000) / (0.75 * window.sum() ** 2))
        tilt = 10 * np.log10(band(1000, 5000) / band(50, 1000))
        low_tilt = 10 * np.log10(band(500, 1000) / band(50, 500))
        # Autocorrelation, divided by that of the window (Boersma 1993).
        longest = rate // LOWEST_PITCH
        window_correlation = np.fft.irfft(np.abs(np.fft.rfft(window, 2 * size)) ** 2)[:longest]
        correlation = np.fft.irfft(power, axis=1)[:, :longest]
        correlation = correlation / (correlation[:, :1] + 1e-9) / (window_correlation / window_correlation[0] + 1e-3)
        lags = np.arange(rate // HIGHEST_PITCH, longest)
        # Of equally good lags the shortest: the others are its multiples.
        strength = correlation[:, lags] - 0.03 * np.log2(lags / lags[0])
        best = strength.argmax(1)
        return np.stack([level, np.log2(rate / lags[best] / 150), strength.max(1), tilt, low_tilt], 1)

    def cues(self, analysed) -> np.ndarray:
        """(F, 5) of a whole clip -> (len(CUES), frames) float32, every 100 ms; zero where there is no speech."""
        level, pitch, periodicity, tilt, low_tilt = analysed.T
        loud = level > max(np.percentile(level, 99) - SPEECH_RANGE_DB, SILENCE_DB)
        voiced = loud & (periodicity > 0.5)
        cues = np.zeros((len(CUES), -(-len(level) // STEP)), np.float32)
        if voiced.sum() < 5:
            return cues
        usual = {name: np.median(x[voiced]) for name, x in (("pitch", pitch), ("tilt", tilt), ("low", low_tilt))}
        top = np.percentile(level, 99)
        smooth = np.convolve(np.pad(np.maximum(level, top - 35), 2, "edge"), np.ones(5) / 5, "valid")
        change = np.diff(smooth, append=smooth[-1])
        peaks = (change[:-1] > 0) & (change[1:] <= 0)
        peaks = np.pad(peaks, (1, 0)) & loud
        step = np.abs(np.diff(pitch, append=pitch[-1]))
        steps = voiced & np.roll(voiced, -1)

        def around(x, where):
            """Values of x in each window, NaN where not `where`, sorted, and how many there are."""
            x = np.pad(np.where(where, x, np.nan), REACH, constant_values=np.nan)
            windows = np.lib.stride_tricks.sliding_window_view(x, 2 * REACH + 1)[::STEP]
            return np.sort(windows, axis=1), np.isfinite(windows).sum(1)

        def quantile(ordered, share):
            values, count = ordered
            place = (share * (count - 1).clip(0)).round().astype(int)
            return np.nan_to_num(values[np.arange(len(values)), place])

        def counted(where):
            total = np.cumsum(np.pad(where.astype(int), (REACH + 1, REACH)))
            return (total[2 * REACH + 1 :] - total[: -2 * REACH - 1])[::STEP]

        def share(where, of):
            return counted(where & of) / counted(of).clip(1)

        # Pauses count, the silence before the first and after the last word does not.
        spoken = np.logical_or.accumulate(loud) & np.logical_or.accumulate(loud[::-1])[::-1]
        pitches, tilts, lows, levels = (
            around(pitch, voiced),
            around(tilt, voiced),
            around(low_tilt, voiced),
            around(level, loud),
        )
        positions = np.arange(-REACH, REACH + 1) / (2 * REACH + 1)
        plain = np.pad(np.where(voiced, pitch, np.nan), REACH, constant_values=np.nan)
        plain = np.lib.stride_tricks.sliding_window_view(plain, 2 * REACH + 1)[::STEP]
        known = np.isfinite(plain)
        at = np.where(known, positions, 0.0)
        count = known.sum(1).clip(1)
        at = np.where(known, at - (at.sum(1) / count)[:, None], 0.0)
        slope = (at * np.nan_to_num(plain)).sum(1) / np.maximum((at**2).sum(1), 0.5)
        middle = quantile(pitches, 0.5)
        values = {
            "pitch": middle,
            "pitch_to_clip": middle - usual["pitch"],
            "pitch_range": quantile(pitches, 0.9) - quantile(pitches, 0.1),
            "pitch_slope": slope,
            "tilt": quantile(tilts, 0.5),
            "tilt_to_clip": quantile(tilts, 0.5) - usual["tilt"],
            "tilt_range": quantile(tilts, 0.8) - quantile(tilts, 0.2),
            "low_tilt": quantile(lows, 0.5),
            "low_tilt_to_clip": quantile(lows, 0.5) - usual["low"],
            "level_to_clip": quantile(levels, 0.5) - top,
            "level_spread": (quantile(levels, 0.85) - quantile(levels, 0.15)) / 2,
            "level_change": quantile(around(np.abs(change), loud), 0.5),
            "voiced": share(voiced, loud),
            "speech": share(loud, spoken),
            "rate": share(peaks, spoken) * 1000 / HOP_MS,
            "periodicity": quantile(around(periodicity, voiced), 0.5),
            "irregularity": quantile(around(step, steps), 0.5),
            "heard": np.ones_like(middle),
        }
        for row, (name, (centre, half)) in zip(cues, CUES.items(), strict=True):
            row[:] = ((values[name] - centre) / half).clip(-4, 4)
        # A window with almost no voice carries no information.
        cues[:, counted(voiced) < 5] = 0.0
        return cues

    def __call__(self, raw_speech, sampling_rate=None, return_tensors=None, padding=None) -> BatchFeature:
        """Cues of sounds.

        Args:
            raw_speech: a waveform (samples,) or a list of them: mono, floating-point, in [-1, 1].
            sampling_rate: Hz of `raw_speech`, to be checked; `None` skips the check.
            return_tensors: "pt", "np" or `None`.
            padding: accepted because transformers' processors pass it; batches are always padded.

        Returns:
            input_features (B, 1, 18, F) float32: one "chunk" a clip, as long as the longest clip of the batch;
            audio_attention_mask (B, 1, F) bool, True where the clip has sound; audio_times (B, 1) int64 ms, zero.

        Raises:
            ValueError: another sampling rate; an empty waveform; NaN or infinite samples.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(
                f"raw_speech is sampled at {sampling_rate} Hz; the voice tower takes {self.sampling_rate} Hz"
            )
        sounds = raw_speech if isinstance(raw_speech, (list, tuple)) else [raw_speech]
        cues = []
        for i, sound in enumerate(sounds):
            sound = np.asarray(sound, np.float32)
            if sound.ndim != 1 or sound.size == 0 or not np.isfinite(sound).all():
                raise ValueError(
                    f"waveform {i} has shape {sound.shape}, {int((~np.isfinite(sound)).sum())} samples of it not "
                    f"finite; mono sound with at least one sample, all finite, is accepted"
                )
            cues.append(self.cues(self.analyse(sound)))
        return BatchFeature(pad_cues(cues), tensor_type=return_tensors)


def pad_cues(cues) -> dict[str, np.ndarray]:
    """(channels, F) arrays of different lengths -> the extractor's batch."""
    longest = max(x.shape[1] for x in cues)
    features = np.zeros((len(cues), 1, len(CUES), longest), np.float32)
    mask = np.zeros((len(cues), 1, longest), bool)
    for i, x in enumerate(cues):
        features[i, 0, :, : x.shape[1]] = x
        mask[i, 0, : x.shape[1]] = True
    times = np.zeros((len(cues), 1), np.int64)
    return {"input_features": features, "audio_attention_mask": mask, "audio_times": times}


VoiceCueExtractor.register_for_auto_class()

__all__ = ["CUES", "VoiceCueExtractor"]
