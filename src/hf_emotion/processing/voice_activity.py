"""Voice activity by energy alone: when somebody speaks, for clips that come without utterances.

Any sound counts as a voice; music and noise are not told apart from speech.
"""

import numpy as np


def voice_spans(
    waveform: np.ndarray, sampling_rate: int, pause: float = 0.3, margin: float = 0.05
) -> list[tuple[float, float]]:
    """The stretches of a sound in which somebody speaks.

    A frame (25 ms every 10 ms) is voiced when its level lies more than 40 % of the way from the quiet parts of the
    recording (10th percentile, in dB) to its loud parts (95th percentile). Stretches shorter than 100 ms are dropped.

    Args:
        waveform: (S,) mono, in [-1, 1].
        sampling_rate: Hz.
        pause: s; a shorter gap does not end a stretch.
        margin: s, added before and after each stretch.

    Returns:
        (start, end) of each stretch, s; none for silence.
    """
    hop, width = sampling_rate // 100, sampling_rate // 40
    if len(waveform) < width:
        return []
    energy = np.concatenate([[0.0], np.cumsum(np.square(waveform, dtype=np.float64))])
    starts = np.arange(0, len(waveform) - width + 1, hop)
    level = 10 * np.log10((energy[starts + width] - energy[starts]) / width + 1e-10)
    quiet, loud = np.percentile(level, [10, 95])
    # Quiet speech of RAVDESS peaks below -50 dBFS, so a low level alone is no silence; a low and steady one is.
    steady = loud - quiet < 6
    if loud < -75 or (steady and loud < -50):
        return []
    voiced = np.ones_like(level, bool) if steady else level > quiet + 0.4 * (loud - quiet)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], voiced, [False]]).astype(np.int8)))
    spans, duration = [], len(waveform) / sampling_rate
    for first, last in edges.reshape(-1, 2):
        start, end = starts[first] / sampling_rate, (starts[last - 1] + width) / sampling_rate
        if spans and start - spans[-1][1] < pause:
            spans[-1][1] = end
        else:
            spans.append([start, end])
    return [(max(0.0, s - margin), min(duration, e + margin)) for s, e in spans if e - s >= 0.1]


__all__ = ["voice_spans"]
