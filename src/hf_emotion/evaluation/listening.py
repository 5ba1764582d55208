"""Where in time a model listens: the attention of AcoustEmo over the sound (arXiv Figure 2).

from hf_emotion.evaluation.listening import listen, plot_listening

listening = listen(model, processor, "clip.mp4", utterances="clip.srt")
plot_listening(listening, "clip.png")
"""

from dataclasses import dataclass

import numpy as np

from ..data.files import replacing


@dataclass
class Listening:
    """The attention of each window over a clip's sound. Letters: N utterances, L audio frames, S samples.

    Args:
        waveform: (S,) float32, at `sampling_rate` Hz.
        times: (L,) s, of the audio tower's frames.
        weights: (1 + N, L), the whole clip, then its windows; each row sums to 1 over the frames of its window, and is
            zero if the model does not use that window.
        windows: `[{"start", "end", "text", "speaker"}]`, s, the N windows.
        layer: the Q-Former's layer.
    """

    waveform: np.ndarray
    sampling_rate: int
    times: np.ndarray
    weights: np.ndarray
    windows: list[dict]
    layer: int


def listen(model, processor, clip, utterances=None, layer=-1) -> Listening:
    """Cross-attention of AcoustEmo's acoustic Q-Former over the time of one clip, mean over heads and queries.

    Args:
        model, processor: AcoustEmo's, as `inference.load` gives them.
        clip: what `media.load_clip` takes.
        utterances: what `utterances.read` takes.
        layer: which of the Q-Former's layers.

    Raises:
        ValueError: the model has no windows of sound, or the clip has no sound.
    """
    if not hasattr(model, "attention_over_time"):
        raise ValueError(f"{type(model).__name__} has no windows of sound; an AcoustEmo model is accepted")
    [loaded] = processor.load_clips([clip], utterances=[utterances], modalities=["audio"])
    batch = processor(videos=[loaded], return_tensors="pt", modalities=["audio"]).to(model.device)
    weights, times = model.attention_over_time(layer=layer, **batch)
    real = times[0] >= 0
    return Listening(
        waveform=loaded.waveform,
        sampling_rate=loaded.sampling_rate,
        times=times[0, real].cpu().numpy() / 1000,
        weights=weights[0][:, real].float().cpu().numpy(),
        windows=processor.windows(loaded) if model.config.use_utterances else [],
        layer=layer,
    )


def plot_listening(listening: Listening, path=None):
    """The waveform with its utterances, and below it the attention of each window over time (Figure 2).

    Args:
        listening: from `listen`.
        path: picture file to write; its suffix chooses the format.

    Returns:
        the matplotlib figure (closed, if it was written).

    Raises:
        ImportError: matplotlib is missing; the extra `demo` installs it.
    """
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "hf_emotion[demo]"') from error
    rows = [i for i, row in enumerate(listening.weights) if row.any()]
    figure, (sound, heat) = pyplot.subplots(
        2, 1, sharex=True, figsize=(10, 2.5 + 0.4 * len(rows)), height_ratios=(2, len(rows)), layout="constrained"
    )
    seconds = np.arange(len(listening.waveform)) / listening.sampling_rate
    step = max(1, len(seconds) // 20000)
    sound.plot(seconds[::step], listening.waveform[::step], color="0.3", linewidth=0.4)
    sound.set_ylabel("waveform")
    for i, row in enumerate(listening.windows, 1):
        sound.axvspan(row["start"], row["end"], color=f"C{(i - 1) % 10}", alpha=0.2)
        sound.text(row["start"], sound.get_ylim()[1], f" {i}", va="top", fontsize=9)
    # Each row on its own scale: a long window spreads its weight over more frames.
    shown = listening.weights[rows] / listening.weights[rows].max(axis=1, keepdims=True)
    half = np.diff(listening.times).min() / 2 if len(listening.times) > 1 else 0.05
    edges = np.append(listening.times, listening.times[-1] + 2 * half)
    heat.pcolormesh(edges, np.arange(len(rows) + 1), shown, cmap="magma", vmin=0, vmax=1)
    heat.invert_yaxis()
    names = ["whole clip" if i == 0 else f"{i}: {listening.windows[i - 1]['text'] or 'utterance'}"[:40] for i in rows]
    heat.set_yticks(np.arange(len(rows)) + 0.5, names)
    heat.set_xlabel("time, s")
    if path is not None:
        with replacing(path) as unfinished:
            figure.savefig(unfinished, dpi=120)
        pyplot.close(figure)
    return figure


__all__ = ["Listening", "listen", "plot_listening"]
