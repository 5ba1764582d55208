"""How long RAVDESS takes to build, and how its utterance spans compare with an independent trimming (librosa).

    python benchmarks/build_ravdess.py FOLDER [--num-proc 2] [--runs 3]

`FOLDER` holds `Actor_*/*.wav` or `.flac`. Prints a table and writes benchmarks/results/build_ravdess.json. The
comparison is with `librosa.effects.trim` at 25 dB below the peak; negative = our span starts (or ends) earlier.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import numpy as np

from hf_emotion.data.build import build
from hf_emotion.processing.media import load_clip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num-proc", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "build_ravdess.json")
    args = parser.parse_args()
    import librosa

    seconds = []
    for _ in range(args.runs):
        began = time.perf_counter()
        dataset, _ = build("ravdess", args.folder, utterances="voice", num_proc=args.num_proc)
        seconds.append(time.perf_counter() - began)
    rows = [row for split in dataset.values() for row in split]
    starts, ends, lengths = [], [], []
    for row in rows:
        waveform = load_clip(row["audio"], frames=False).waveform
        _, (first, last) = librosa.effects.trim(waveform, top_db=25, frame_length=400, hop_length=160)
        (span,) = row["utterances"]
        starts.append(span["start"] - first / 16000)
        ends.append(span["end"] - last / 16000)
        lengths.append(span["end"] - span["start"])
    result = {
        "rows": {name: len(split) for name, split in dataset.items()},
        "num_proc": args.num_proc,
        "cores": os.cpu_count(),
        "seconds_median": round(statistics.median(seconds), 2),
        "seconds_all": [round(value, 2) for value in seconds],
        "percentiles": [5, 50, 95],
        "span_seconds": np.percentile(lengths, [5, 50, 95]).round(3).tolist(),
        "start_minus_trim": np.percentile(starts, [5, 50, 95]).round(3).tolist(),
        "end_minus_trim": np.percentile(ends, [5, 50, 95]).round(3).tolist(),
    }
    for name, value in result.items():
        print(f"{name:18} {value}")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    partial = args.output.with_suffix(".part")
    partial.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, args.output)


if __name__ == "__main__":
    main()
