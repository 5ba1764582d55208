"""Speed of ESVA's offset search (3.4, Eqs. 4-9): its forms beside a plain loop over offsets, in one process.

    python benchmarks/esva_offset.py

Two streams of random numbers, 64 wide, with windows of 25 steps (1 s at 25 Hz). The whole search is timed: D(tau),
C(tau), L(tau) and its least value, over ranges from a few offsets to all of them, in double precision, as in the model.

* `loop`: for each offset the streams are laid over each other and Eqs. 4 and 5 are computed as they stand;
* `numpy`: the same loop in NumPy, `einsum` and `add.reduceat` for the sums;
* `scipy`: `scipy.signal.correlate` (method "auto", which times direct against FFT) for each of the 64 channels over all
  offsets, and for the norms of the overlaps: C(tau) of Eq. 5 without the windowed D(tau) of Eq. 9, so it does less;
* `banded`, `fft`: `alignment.window_sums` in that form;
* `chosen`: the form that `alignment.fastest_form` takes for the range.

Every repetition runs every way in turn, on one core; time is the processor's, which other programs disturb less than
the clock's. Ratios are taken within a repetition, and their median is reported. The last
measurement is Eq. 6, one window as long as the streams. The largest difference of D and C from the loop stands beside
each. With `--short` the searches whose loop takes minutes are left out and keep their last figures.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from scipy import signal
from tqdm import tqdm

from hf_emotion.modeling.alignment_esva import fastest_form, window_sums

RESULTS = Path(__file__).parent / "results"
WIDTH, WINDOW = 64, 25
# (steps, largest offset): a clip of 4 s, of 12 s, of 40 s, and 10,000 steps; from +-1 s to all the offsets there are.
SHAPES = (
    (100, 25),
    (300, 25),
    (1000, 25),
    (1000, 250),
    (1000, 999),
    (10_000, 25),
    (10_000, 250),
    (10_000, 2500),
    (10_000, 9999),
)


def plain_loop(audio, video, max_offset, window):
    """D(tau) and C(tau), each (O,), one offset after the other; streams (G, E)."""
    steps = len(audio)
    starts = torch.arange(steps) // window
    distances, correlations = [], []
    for offset in range(-max_offset, max_offset + 1):
        first, last = max(0, -offset), min(steps, steps - offset)
        sound, picture = audio[first:last], video[first + offset : last + offset]
        square = (sound - picture).square().sum(-1)
        windows = starts[last - 1] - starts[first] + 1
        sums = square.new_zeros(2, windows)
        sums[0].index_add_(0, starts[first:last] - starts[first], square)
        sums[1].index_add_(0, starts[first:last] - starts[first], torch.ones_like(square))
        distances.append((sums[0] / sums[1]).sqrt().mean())
        norms = sound.square().sum() * picture.square().sum()
        correlations.append((sound * picture).sum() / norms.sqrt())
    return torch.stack(distances), torch.stack(correlations)


def numpy_loop(audio, video, max_offset, window):
    """As `plain_loop`, on arrays."""
    steps = len(audio)
    starts = np.arange(steps) // window
    distances, correlations = [], []
    for offset in range(-max_offset, max_offset + 1):
        first, last = max(0, -offset), min(steps, steps - offset)
        sound, picture = audio[first:last], video[first + offset : last + offset]
        apart = sound - picture
        square = np.einsum("ge,ge->g", apart, apart)
        edges = np.flatnonzero(np.diff(starts[first:last], prepend=-1))
        counts = np.diff(edges, append=last - first)
        distances.append(np.sqrt(np.add.reduceat(square, edges) / counts).mean())
        norms = np.einsum("ge,ge->", sound, sound) * np.einsum("ge,ge->", picture, picture)
        correlations.append(np.einsum("ge,ge->", sound, picture) / np.sqrt(norms))
    return torch.tensor(np.array(distances)), torch.tensor(np.array(correlations))


def scipy_correlate(audio, video, max_offset, window):
    """C(tau) alone, (O,), by correlating channel by channel; D(tau) is not what `correlate` computes."""
    steps = len(audio)
    places = slice(steps - 1 - max_offset, steps + max_offset)
    products = sum(signal.correlate(video[:, e], audio[:, e])[places] for e in range(audio.shape[1]))
    ones = np.ones(steps)
    norms = [signal.correlate(*pair)[places] for pair in ((ones, (audio**2).sum(1)), ((video**2).sum(1), ones))]
    return None, torch.tensor(products / np.sqrt(norms[0] * norms[1]))


def search(audio, video, max_offset, window, form):
    """As the model's: D(tau) and C(tau), each (O,)."""
    mask = torch.ones(1, len(audio), dtype=torch.bool)
    sums = window_sums(audio[None], video[None], mask, mask, max_offset, window, form)
    return sums.distance()[0], sums.correlation()[0]


def timed(way, *arguments):
    start = time.process_time()
    distance, correlation = way(*arguments)
    best = (-correlation if distance is None else distance - correlation).argmin()
    return time.process_time() - start, distance, correlation, int(best)


PLAIN = {"loop": plain_loop, "numpy": numpy_loop, "scipy": scipy_correlate}


def measure(steps, max_offset, window, repetitions, bar):
    """One shape: seconds of each way, ratios to the loop, and differences from it."""
    generator = torch.Generator().manual_seed(steps + max_offset)
    audio, video = (
        (stream - stream.mean(0)) / stream.norm(dim=-1).square().mean().sqrt()
        for stream in torch.randn(2, steps, WIDTH, generator=generator, dtype=torch.float64)
    )
    seconds, difference, places = {}, 0.0, set()
    for _ in range(repetitions):
        for name in ("loop", "numpy", "scipy", "banded", "fft"):
            # A band as wide as the streams is no band: a matrix of all pairs of steps.
            if name == "banded" and steps * (window + 2 * max_offset) > 2e8:
                continue
            way, last = (PLAIN[name], ()) if name in PLAIN else (search, (name,))
            streams = (audio.numpy(), video.numpy()) if name in ("numpy", "scipy") else (audio, video)
            # What is over soon is run three times: a single run of it is mostly the first touch of its memory.
            runs = [timed(way, *streams, max_offset, window, *last) for _ in range(1 if name in PLAIN else 3)]
            _, distance, correlation, best = runs[-1]
            seconds.setdefault(name, []).append(statistics.median(run[0] for run in runs))
            if name == "loop":
                expected = distance, correlation
            else:
                pairs = zip((distance, correlation), expected, strict=True)
                apart = [float((mine - plain).abs().max()) for mine, plain in pairs if mine is not None]
                difference = max(difference, *apart)
            if distance is not None:
                places.add(best)
            bar.set_postfix_str(f"{steps} steps, +-{max_offset}, {name}")
        bar.update()
    chosen = fastest_form(steps, max_offset, window)
    ratios = {
        name: [plain / own for plain, own in zip(seconds["loop"], taken, strict=True)]
        for name, taken in seconds.items()
        if name != "loop"
    }
    rivals = {
        name: statistics.median(other / own for other, own in zip(seconds[name], seconds[chosen], strict=True))
        for name in PLAIN
    }
    return {
        "steps": steps,
        "max_offset": max_offset,
        "window": window,
        "seconds": {name: statistics.median(taken) for name, taken in seconds.items()},
        "times_faster_than_the_loop": {name: statistics.median(values) for name, values in ratios.items()},
        "lowest_and_highest_ratio": {name: [min(values), max(values)] for name, values in ratios.items()},
        "chosen": chosen,
        "chosen_times_faster_than": rivals,
        "largest_difference_from_the_loop": difference,
        "same_offset": len(places) == 1,
        "repetitions": repetitions,
    }


def is_long(steps, max_offset):
    return steps * max_offset > 3e6


def plot(rows, path):
    from matplotlib import pyplot

    colours = {"loop": "0.4", "numpy": "0.6", "scipy": "C2", "banded": "C0", "fft": "C3"}
    shapes = sorted({row["steps"] for row in rows if row["window"] == WINDOW and row["steps"] >= 1000})
    figure, axes = pyplot.subplots(1, len(shapes), figsize=(5 * len(shapes), 4), layout="constrained", squeeze=False)
    for axis, steps in zip(axes[0], shapes, strict=True):
        chosen = [row for row in rows if row["steps"] == steps and row["window"] == WINDOW]
        for name, colour in colours.items():
            points = [(row["max_offset"], row["seconds"][name]) for row in chosen if name in row["seconds"]]
            axis.loglog(*zip(*points, strict=True), "o-", color=colour, label=name)
        axis.set(title=f"{steps} steps, {WIDTH} wide", xlabel="largest offset, steps", ylabel="s")
        axis.legend()
    unfinished = path.with_name(f".{os.getpid()}.{path.name}")
    figure.savefig(unfinished, dpi=120)
    os.replace(unfinished, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5, help="of the shapes whose loop is short (default 5)")
    parser.add_argument("--short", action="store_true", help="only searches whose loop takes seconds")
    parser.add_argument("--output", type=Path, default=RESULTS / "esva_offset.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    # The loop over all 19,999 offsets of 10,000 steps takes minutes.
    plan = [(*shape, WINDOW, 1 if is_long(*shape) else args.repetitions) for shape in SHAPES]
    plan.append((10_000, 9999, 10_000, 1))
    kept = []
    if args.short:
        last = json.loads(args.output.read_text(encoding="utf-8"))["searches"]
        kept = [row for row in last if is_long(row["steps"], row["max_offset"])]
        plan = [row for row in plan if not is_long(*row[:2])]
    with tqdm(total=sum(row[-1] for row in plan), desc="Searching", unit="repetition") as bar, torch.inference_mode():
        rows = [measure(*shape, bar) for shape in plan] + kept
    report = {
        "width": WIDTH,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "searches": rows,
    }
    for row in rows:
        faster = ", ".join(f"{name} {times:.1f}x" for name, times in row["times_faster_than_the_loop"].items())
        windows = "Eq. 6" if row["window"] == row["steps"] else "Eq. 9"
        print(
            f"{row['steps']:>6} steps, +-{row['max_offset']:<5} {windows}: loop {row['seconds']['loop']:.4f} s, "
            f"{faster} faster than it; chosen {row['chosen']}; difference {row['largest_difference_from_the_loop']:.1e}"
        )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = args.output.with_name(f".{os.getpid()}.{args.output.name}")
    unfinished.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, args.output)
    plot(rows, args.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
