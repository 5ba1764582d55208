"""MicroEmo and its ablations (Table 2) on the demo corpus, over seeds: the quickstart's way, once per row and seed.

All rows see the same clips in both stages and take the same number of steps. Results are written after each
run, and a run that is already in the file is not repeated.

    python benchmarks/microemo_demo.py --seeds 0 1 2 --rows full "w/o global-local AVE"
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import matplotlib
import torch

from hf_emotion.training.quickstart import (
    CUES,
    DISTRACTORS,
    EPOCHS,
    GATE,
    LISTEN_EPOCHS,
    LOOK_EPOCHS,
    NUM_CLIPS,
    NUM_FACES,
    NUM_VOICES,
    STRENGTH,
    answers,
    encode_rows,
    learn_to_listen,
    learn_to_look,
    new_model,
    prepare,
    rendered,
    score,
    train,
    with_features,
)

matplotlib.use("Agg")
ROWS = {
    "full": {},
    "w/o utterance-aware V-QF": {"use_utterances": False},
    "w/o global-local AVE": {"use_regions": False},
    "w/o all proposed modules": {"use_utterances": False, "use_regions": False},
    "full + local dynamics": {"local_dynamics": True},
}
RESULTS = Path(__file__).parent / "results" / "microemo_demo.json"


def write(path: Path, found: dict) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def plot(summary: dict, path: Path) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    names = ["all", *CUES]
    for i, (row, found) in enumerate(summary.items()):
        places = [x + 0.8 * (i + 0.5) / len(summary) - 0.4 for x in range(len(names))]
        axes.bar(places, [found[name]["mean"] for name in names], 0.8 / len(summary), label=row)
        for place, name in zip(places, names, strict=True):
            axes.plot([place] * len(found[name]["runs"]), found[name]["runs"], "k.", markersize=4)
    constant = next(iter(summary.values()))
    for x, name in enumerate(names):
        axes.hlines(constant[name]["constant"], x - 0.42, x + 0.42, "k", "dashed")
    axes.set_xticks(range(len(names)), [f"label carried by {name}" if name != "all" else "all clips" for name in names])
    axes.set_ylabel("held-out clips named rightly")
    axes.set_title("MicroEmo, tiny, on the demo corpus (dots: seeds; dashed: best constant answer)")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=["full", "w/o global-local AVE"])
    parser.add_argument("--corpus", type=Path, help="folder of a corpus made before (default: a temporary one)")
    parser.add_argument("--corpus-seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    setting = {
        "clips": NUM_CLIPS,
        "cues": list(CUES),
        "strength": STRENGTH,
        "distractors": DISTRACTORS,
        "faces": NUM_FACES,
        "look_epochs": LOOK_EPOCHS,
        "voices": NUM_VOICES,
        "listen_epochs": LISTEN_EPOCHS,
        "epochs": EPOCHS,
        "gate": GATE,
        "corpus_seed": arguments.corpus_seed,
    }
    found = {"setting": setting, "torch": torch.__version__, "runs": []}
    if arguments.output.is_file():
        before = json.loads(arguments.output.read_text(encoding="utf-8"))
        if before["setting"] == setting:
            found = before

    with tempfile.TemporaryDirectory() as scratch:
        rows = prepare(arguments.corpus or Path(scratch) / "corpus", arguments.corpus_seed)
        learnt = [i for i, row in enumerate(rows) if row["split"] != "test"]
        held_out = [i for i, row in enumerate(rows) if row["split"] == "test"]
        labels = [rows[i]["label"] for i in learnt]
        constant = max(sorted(set(labels)), key=labels.count)
        encoded = {}  # by whether the processor makes a window of each utterance
        for seed in arguments.seeds:
            for name in arguments.rows:
                if any(run["row"] == name and run["seed"] == seed for run in found["runs"]):
                    continue
                model, processor = new_model(seed, **ROWS[name])
                windows = processor.use_utterances
                if windows not in encoded:
                    encoded[windows] = encode_rows(processor, rows), rendered(processor, arguments.corpus_seed)
                samples, drawn = encoded[windows]
                started = time.process_time()
                explained = learn_to_look(model, processor, drawn["face"], seed)
                recognised = learn_to_listen(model, processor, drawn["prosody"], seed)
                samples = with_features(model, samples)
                learning = [samples[i] for i in learnt] + with_features(model, drawn["face"] + drawn["prosody"])
                losses = train(model, processor, learning, Path(scratch) / "training", seed)
                texts = answers(model, processor, [samples[i] for i in held_out])
                scores = score([rows[i] for i in held_out], texts, constant)
                run = {
                    "row": name,
                    "seed": seed,
                    "explained_variance": explained,
                    "voices_recognised": recognised,
                    "last_loss": losses[-1]["loss"],
                    "scores": scores,
                    "core_seconds": round(time.process_time() - started),
                }
                found["runs"].append(run)
                write(arguments.output, found)
                print(
                    name, seed, f"{explained:.2f}", {cue: round(s["model"], 3) for cue, s in scores.items()}, flush=True
                )

    summary = {}
    for name in ROWS:
        runs = [run for run in found["runs"] if run["row"] == name]
        if runs:
            summary[name] = {}
            for cue in ("all", *CUES):
                values = [run["scores"][cue]["model"] for run in runs]
                summary[name][cue] = {
                    "runs": values,
                    "mean": statistics.mean(values),
                    "spread": max(values) - min(values),
                    "constant": runs[0]["scores"][cue]["constant"],
                    "clips": runs[0]["scores"][cue]["clips"],
                }
    found["summary"] = summary
    write(arguments.output, found)
    plot(summary, arguments.output.with_suffix(".png"))
    for name, scores in summary.items():
        print(
            f"{name:<28}" + "  ".join(f"{cue} {s['mean']:.2f} (spread {s['spread']:.2f})" for cue, s in scores.items())
        )


if __name__ == "__main__":
    main()
