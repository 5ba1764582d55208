"""What can be measured in a clip without a large model: light and movement, facial movements, the voice.

In Omni-Emotion's curation (arXiv 2501.09502, section 3), Qwen2-VL-72B describes the frames and the face, and Whisper
and a language model the sound. The template describer (`reviewers.Offline`) uses these numbers instead; with a model
they are stored beside its words. What is usual for a person is not known: movements and loudness are relative to the
clip itself, and only the mouth corners are also judged by their resting position.

Letters: T frames, S samples.
"""

from itertools import pairwise

import numpy as np

from ..processing.faces import FaceTrack

# name -> meaning of low and of high values, relative to the clip's median. Landmark numbers are MediaPipe's; lengths
# are in distances between the outer eye corners.
MOVEMENTS = {
    "brow_height": ("the brows are low (AU4)", "the brows are high (AU1+2)"),
    "brow_distance": ("the brows are close together (AU4)", "the brows are far apart"),
    "eye_opening": ("the eyes are narrow or closed (AU7, AU43)", "the eyes are wide (AU5)"),
    "mouth_corners": ("the corners of the mouth are low (AU15)", "the corners of the mouth are high (AU12)"),
    "mouth_width": ("the mouth is narrow (AU18)", "the mouth is wide (AU20)"),
    "mouth_opening": ("the mouth is closed", "the mouth is open (AU25, AU26)"),
    "upper_lip": ("the upper lip is raised (AU9, AU10)", "the upper lip is low"),
}
_BROWS = [105, 66, 63, 334, 296, 293]


def face_measures(track: FaceTrack, size: tuple[int, int]) -> np.ndarray:
    """Shape of the face in each frame, without head position, size and tilt (2-D, by the outer eye corners).

    Args:
        track: over T frames.
        size: width and height of the frames in pixels.

    Returns:
        (T, 7) float64 in the order of `MOVEMENTS`, in eye distances; NaN without a face.
    """
    points = track.landmarks.astype(np.float64) * size  # (T, 478, 2)
    plane = points[..., 0] + 1j * points[..., 1]
    right, left = plane[:, 33], plane[:, 263]
    # One complex division rotates, scales and translates: the eye corners move to -0.5 and 0.5.
    with np.errstate(invalid="ignore"):
        plane = (plane - ((right + left) / 2)[:, None]) / (left - right)[:, None]
    x, down = plane.real, plane.imag
    return np.stack(
        [
            -down[:, _BROWS].mean(1),
            x[:, 336] - x[:, 107],
            ((down[:, 145] - down[:, 159]) + (down[:, 374] - down[:, 386])) / 2,
            down[:, [13, 14]].mean(1) - down[:, [61, 291]].mean(1),
            np.abs(plane[:, 291] - plane[:, 61]),
            down[:, 14] - down[:, 13],
            down[:, 0] - down[:, 2],
        ],
        axis=1,
    )


def movements(measures: np.ndarray, times: np.ndarray) -> dict[str, dict[str, float]]:
    """How far each measure departs from its median over the clip, and when.

    Args:
        measures: (T, 7) from `face_measures`.
        times: (T,) s.

    Returns:
        name -> `rest` (median), `low` and `high` (greatest distance below and above it, of the median over three
        neighbouring frames, so that one misplaced mesh does not look like a movement), `low_at`, `high_at` (s). {}
        without a face.
    """
    seen = np.isfinite(measures).all(1)
    if not seen.any():
        return {}
    values, times = measures[seen], np.asarray(times)[seen]
    padded = np.concatenate([values[:1], values, values[-1:]])
    smooth = np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)
    rest = np.median(values, axis=0)
    result = {}
    for place, name in enumerate(MOVEMENTS):
        course = smooth[:, place] - rest[place]
        low, high = int(course.argmin()), int(course.argmax())
        result[name] = {
            "rest": round(float(rest[place]), 4),
            "low": round(max(0.0, float(-course[low])), 4),
            "low_at": round(float(times[low]), 3),
            "high": round(max(0.0, float(course[high])), 4),
            "high_at": round(float(times[high]), 3),
        }
    return result


def picture_measures(frames: np.ndarray) -> dict[str, float]:
    """Light, colour and change of a clip's frames.

    Args:
        frames: (T, H, W, 3) uint8 RGB.

    Returns:
        `brightness` and `contrast` (mean and standard deviation of the grey, of 255), `colour` (mean distance between
        the largest and the smallest channel, of 255), `change` (mean difference between neighbouring frames, of 255; 0
        for one frame).
    """
    # Every fourth pixel is enough for means over a picture.
    small = frames[:, ::4, ::4].astype(np.float32)
    grey = small.mean(-1)
    return {
        "brightness": round(float(grey.mean()), 2),
        "contrast": round(float(grey.std()), 2),
        "colour": round(float((small.max(-1) - small.min(-1)).mean()), 2),
        "change": round(float(np.abs(np.diff(grey, axis=0)).mean()), 2) if len(grey) > 1 else 0.0,
    }


def pitch(waveform: np.ndarray, sampling_rate: int, low: float = 60.0, high: float = 500.0) -> np.ndarray:
    """Pitch of a voice: the first strong peak of the normalised autocorrelation over 40 ms.

    Args:
        waveform: (S,) float32.
        sampling_rate: Hz.
        low, high: range of pitches, Hz.

    Returns:
        (steps,) float64, Hz every 10 ms; NaN where nothing is periodic (peak below 0.5) and in silence.
    """
    width, hop = round(0.04 * sampling_rate), round(0.01 * sampling_rate)
    if len(waveform) < width:
        return np.empty(0)
    frames = np.lib.stride_tricks.sliding_window_view(np.asarray(waveform, np.float64), width)[::hop]
    frames = (frames - frames.mean(1, keepdims=True)) * np.hanning(width)
    size = 1 << (2 * width - 1).bit_length()
    correlation = np.fft.irfft(np.abs(np.fft.rfft(frames, size)) ** 2)[:, :width]
    window = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(width), size)) ** 2)[:width]
    power = correlation[:, :1]
    # The window's own autocorrelation falls with the lag; dividing by it puts long and short periods on a par.
    strength = correlation / np.maximum(power, 1e-12) / (window / window[0])
    first, last = int(sampling_rate / high), min(int(sampling_rate / low), width - 2)
    inner = strength[:, first - 1 : last + 2]
    peaks = (inner[:, 1:-1] >= inner[:, :-2]) & (inner[:, 1:-1] > inner[:, 2:])
    heights = np.where(peaks, inner[:, 1:-1], -np.inf)
    best = heights.max(1)
    # The peak at twice the period is as high as the true one; the period is the earliest of nearly equal peaks.
    lag = first + (heights >= 0.9 * best[:, None]).argmax(1)
    loud = power[:, 0] > 1e-4 * max(power.max(), 1e-12)
    return np.where(loud & (best > 0.5), sampling_rate / lag, np.nan)


def voice_measures(waveform: np.ndarray, sampling_rate: int, spans: list[tuple[float, float]]) -> dict[str, float]:
    """How a voice sounds.

    Args:
        waveform: (S,) float32.
        sampling_rate: Hz.
        spans: where it is heard (`voice_activity.voice_spans`), s.

    Returns:
        `seconds` (of the sound), `speaking` (share of it), `pauses` (between spans), `longest_pause` (s), and, where
        there is a pitch, `pitch` (median, Hz), `pitch_range` (10th to 90th percentile, semitones), `loudness_range`
        (likewise, dB).
    """
    seconds = len(waveform) / sampling_rate
    gaps = [after[0] - before[1] for before, after in pairwise(spans)]
    measures = {
        "seconds": round(seconds, 3),
        "speaking": round(sum(end - start for start, end in spans) / max(seconds, 1e-9), 3),
        "pauses": len(gaps),
        "longest_pause": round(max(gaps, default=0.0), 3),
    }
    parts = [waveform[round(start * sampling_rate) : round(end * sampling_rate)] for start, end in spans]
    tones = np.concatenate([pitch(part, sampling_rate) for part in parts]) if parts else np.empty(0)
    tones = tones[np.isfinite(tones)]
    # Less than 100 ms of periodic sound is accidental.
    if len(tones) >= 10:
        hop = round(0.02 * sampling_rate)
        levels = np.concatenate(
            [
                10 * np.log10(np.square(part[: len(part) // hop * hop].reshape(-1, hop)).mean(1) + 1e-10)
                for part in parts
            ]
        )
        measures["pitch"] = round(float(np.median(tones)), 1)
        measures["pitch_range"] = round(float(12 * np.log2(np.percentile(tones, 90) / np.percentile(tones, 10))), 2)
        measures["loudness_range"] = round(float(np.percentile(levels, 90) - np.percentile(levels, 10)), 1)
    return measures


__all__ = ["MOVEMENTS", "face_measures", "movements", "picture_measures", "pitch", "voice_measures"]
