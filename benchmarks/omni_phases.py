"""Omni-Emotion's three phases at tiny size, and what sound is worth where the label is in the voice.

    python benchmarks/omni_phases.py [--clips 240] [--seeds 0 1 2]

For each seed a demo corpus is made whose two labels differ in the voice of one utterance alone. A tiny model of random
weights goes through the three phases by their recipes, each phase from the last one's folder (phase 3 on recognition,
as section 5.4 of the paper tunes for closed sets): once as v+a+f, once as v+a, which skips phase 2, and once as v, with
nothing to train before phase 3. All answer the option-list question about clips that no phase has seen; replies are
parsed by the first option named and scored with the metric `emotion_recognition`. Chance is a UAR of 50 %.

The language model is random, not the paper's pretrained one: phases 1 and 2 can teach a projector to steer it and no
more, and what is read off the sound is learnt in phase 3. It is the machinery that is shown.

Each run's result is kept in --work as soon as it is there, so a benchmark that was stopped goes on where it was. The
exit code is 1 if a phase moved another tensor than its recipe names, a loss did not fall, or v+a+f did not beat v for
every seed. Results: benchmarks/results/omni_phases.json and .png.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import matplotlib
import torch
import transformers
from safetensors.torch import load_file

from hf_emotion.data.demo import make_demo
from hf_emotion.data.questions import instruction_rows
from hf_emotion.data.schema import FIELDS, messages
from hf_emotion.evaluation import load as load_metric
from hf_emotion.inference import load
from hf_emotion.papers import build
from hf_emotion.training.recipe import recipes_of
from hf_emotion.training.train import run_phases

RESULTS = Path(__file__).parent / "results" / "omni_phases.json"
LABELS = ("angry", "sad")
# Table 1's rows: the whole model, without the face branch, without both.
MODELS = {"v+a+f": {}, "v+a": {"face_config": None}, "v": {"audio_config": None, "face_config": None}}
SCORES = ("uar", "war", "invalid_rate")


def train(fields, rows, folder, seed):
    """Three phases from random weights.

    Returns:
        their reports, each with its folder, and the seconds that all of it took.
    """
    started = time.perf_counter()
    model, processor = build("omni_emotion", seed=seed, **fields)
    model.save_pretrained(folder / "start")
    processor.save_pretrained(folder / "start")
    recipes = recipes_of("omni_emotion", "tiny")
    recipes[-1] = replace(recipes[-1], tasks=("recognition",))
    reports = run_phases(folder / "start", rows, recipes, folder, options=LABELS, seed=seed, use_cpu=True)
    return reports, time.perf_counter() - started


def check_moved(before, after, trained):
    """Compare two folders' weights tensor by tensor with the names that were to train.

    Returns:
        how many moved and how many stayed; the names of tensors that moved or stayed against the recipe.
    """
    old, new = (load_file(Path(folder) / "model.safetensors") for folder in (before, after))
    assert old.keys() == new.keys()
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    return {"moved": len(moved), "unmoved": len(old) - len(moved), "wrong": sorted(moved ^ set(trained))}


def answers(folder, rows, num_frames, seed, batch_size=12):
    """One reply to the option-list question about each clip, and the seconds that all of them took."""
    started = time.perf_counter()
    model, processor = load(folder, device="cpu")
    replies = []
    for first in range(0, len(rows), batch_size):
        asked = []
        for row in rows[first : first + batch_size]:
            row = {name: row[name] for name in FIELDS}
            [question] = instruction_rows(row, ["recognition"], seed=seed, options=LABELS)
            asked.append(messages({**question, "answer": None}))
        batch = processor.apply_chat_template(
            asked,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
            processor_kwargs={"num_frames": num_frames},
        )
        with torch.inference_mode():
            generated = model.generate(**batch, max_new_tokens=8, do_sample=False)
        replies += processor.tokenizer.batch_decode(
            generated[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
        )
    return replies, time.perf_counter() - started


def ends(loss):
    """Mean of the first and of the last tenth of the steps."""
    tenth = max(1, len(loss) // 10)
    return mean(loss[:tenth]), mean(loss[-tenth:])


def run(name, rows, folder, seed):
    """Train one row of Table 1 for one seed, and ask it about the clips it has not seen."""
    training = [row for row in rows if row["split"] == "train"]
    tests = [row for row in rows if row["split"] != "train"]
    reports, seconds = train(MODELS[name], training, folder, seed)
    phases, before = [], folder / "start"
    for report in reports:
        first, last = ends(report["loss"])
        phases.append(
            {
                "recipe": report["recipe"]["name"],
                "trains": list(report["recipe"]["trains"]),
                "questions": report["questions"],
                "tensors": check_moved(before, report["folder"], report["trained"]),
                "first_loss": round(first, 4),
                "last_loss": round(last, 4),
                "loss": [round(value, 4) for value in report["loss"]],
                "seconds": report["seconds"],
            }
        )
        before = report["folder"]
    replies, asking = answers(before, tests, reports[-1]["recipe"]["num_frames"], seed)
    scores = load_metric("emotion_recognition").compute(
        predictions=replies, references=[row["label"] for row in tests], labels=list(LABELS)
    )
    return {
        "model": name,
        "seed": seed,
        "train_clips": len(training),
        "test_clips": len(tests),
        "phases": phases,
        "train_seconds": round(seconds, 1),
        "answer_seconds": round(asking, 1),
        **{score: round(float(scores[score]), 4) for score in SCORES},
    }


def problems(runs):
    """One sentence for each claim that a run does not bear out."""
    found = []
    for result in runs:
        for phase in result["phases"]:
            where = f"{result['model']}, seed {result['seed']}, {phase['recipe']}"
            if phase["tensors"]["wrong"]:
                found.append(f"{where}: moved or stayed against the recipe: {', '.join(phase['tensors']['wrong'])}")
            if phase["last_loss"] >= phase["first_loss"]:
                found.append(f"{where}: the loss went from {phase['first_loss']} to {phase['last_loss']}")
    uar = {(result["model"], result["seed"]): result["uar"] for result in runs}
    for seed in sorted({seed for _, seed in uar}):
        if uar["v+a+f", seed] <= uar["v", seed]:
            found.append(f"seed {seed}: v+a+f has a UAR of {uar['v+a+f', seed]} and v of {uar['v', seed]}")
    return found


def plot(result, path):
    """Losses of the whole model's phases, and the rows' UAR on unseen clips with one point for each seed."""
    matplotlib.use("agg")
    from matplotlib import pyplot

    whole = [item for item in result["runs"] if item["model"] == "v+a+f"]
    figure, axes = pyplot.subplots(1, len(whole[0]["phases"]) + 1, figsize=(14, 3.4), layout="constrained")
    for axis, phase in zip(axes, range(len(whole[0]["phases"])), strict=False):
        for item in whole:
            axis.plot(item["phases"][phase]["loss"], label=f"seed {item['seed']}")
        axis.set(title=whole[0]["phases"][phase]["recipe"], xlabel="step", ylabel="loss")
        axis.legend()
    for place, name in enumerate(MODELS):
        uar = [100 * item["uar"] for item in result["runs"] if item["model"] == name]
        axes[-1].bar(place, mean(uar), color="tab:blue", alpha=0.5)
        axes[-1].plot([place] * len(uar), uar, "k.")
    axes[-1].axhline(50, color="grey", linestyle="--", label="chance")
    axes[-1].set_xticks(range(len(MODELS)), list(MODELS))
    axes[-1].set(title="label in the voice, unseen clips", ylabel="UAR in %", ylim=(0, 105))
    axes[-1].legend(loc="lower left")
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=240)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, help="folder for clips and finished runs (default: a temporary one)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    runs, demo_seconds = [], []
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        for seed in args.seeds:
            started = time.perf_counter()
            rows = make_demo(
                work / f"demo_{seed}",
                num_clips=args.clips,
                seed=seed,
                cues=("prosody",),
                emotions=LABELS,
                controls=0.0,
                size=64,
                fps=5.0,
                num_workers=0,
                progress=sys.stderr.isatty(),
            )
            demo_seconds.append(round(time.perf_counter() - started, 1))
            for name in MODELS:
                kept = work / f"{name}_{seed}_{args.clips}.json"
                if kept.is_file():
                    runs.append(json.loads(kept.read_text(encoding="utf-8")))
                else:
                    with tempfile.TemporaryDirectory() as folder:
                        runs.append(run(name, rows, Path(folder), seed))
                    write(kept, runs[-1])
                for phase in runs[-1]["phases"]:
                    tensors = phase["tensors"]
                    print(
                        f"seed {seed}  {name:6}{phase['recipe']:22}{len(phase['loss']):4} steps  loss "
                        f"{phase['first_loss']:.3f} -> {phase['last_loss']:.3f}  {tensors['moved']} tensors moved, "
                        f"{tensors['unmoved']} stayed, {len(tensors['wrong'])} wrongly  {phase['seconds']:.1f} s",
                        flush=True,
                    )
                scores = ", ".join(f"{score} {runs[-1][score]:.4f}" for score in SCORES)
                print(
                    f"seed {seed}  {name:6}phases {runs[-1]['train_seconds']:.1f} s, answers "
                    f"{runs[-1]['answer_seconds']:.1f} s; {runs[-1]['test_clips']} unseen clips: {scores}",
                    flush=True,
                )
    result = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "clips": args.clips,
        "demo_seconds": demo_seconds,
        "uar": {
            name: {"mean": round(mean(uar), 4), "sd": round(stdev(uar), 4) if len(uar) > 1 else None, "seeds": uar}
            for name in MODELS
            for uar in [[item["uar"] for item in runs if item["model"] == name]]
        },
        "problems": problems(runs),
        "runs": runs,
    }
    write(args.output, result)
    plot(result, args.output.with_suffix(".png"))
    for name, uar in result["uar"].items():
        print(f"{name:6} UAR {100 * uar['mean']:.1f} %" + (f" (sd {100 * uar['sd']:.1f})" if uar["sd"] else ""))
    for sentence in result["problems"]:
        print(sentence, file=sys.stderr)
    return 1 if result["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
