"""Omni-Emotion's three phases at tiny size, and what sound is worth where the label is in the voice.

    python benchmarks/omni_phases.py [--clips 120] [--seed 0]

A demo corpus is made whose two labels differ in the voice of one utterance alone. A tiny model of random weights goes
through the three phases by their recipes (phase 3 on recognition, as section 5.4 of the paper tunes for closed sets),
once as v+a+f and once as v, which has nothing to train in phases 1 and 2. Both answer the option-list question about
the clips of the test split; replies are parsed by the first option named and scored with the metric
`emotion_recognition`. Chance is a UAR of 50. The result is written to benchmarks/results/omni_phases.json.
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

import torch
import transformers

from hf_emotion.data.demo import make_demo
from hf_emotion.data.questions import instruction_rows
from hf_emotion.data.schema import FIELDS, messages
from hf_emotion.evaluation import load as load_metric
from hf_emotion.inference import load
from hf_emotion.sizes import build
from hf_emotion.training.recipe import recipes_of
from hf_emotion.training.train import run_phases

RESULTS = Path(__file__).parent / "results" / "omni_phases.json"
LABELS = ("angry", "sad")
MODELS = {"v+a+f": {}, "v": {"audio_config": None, "face_config": None}}


def train(fields, rows, folder, seed, epochs):
    """Three phases from random weights; their reports and the seconds that all of it took."""
    started = time.perf_counter()
    model, processor = build("omni_emotion", seed=seed, **fields)
    model.save_pretrained(folder / "start")
    processor.save_pretrained(folder / "start")
    recipes = recipes_of("omni_emotion", "tiny")
    recipes[-1] = replace(recipes[-1], tasks=("recognition",), epochs=epochs or recipes[-1].epochs)
    reports = run_phases(folder / "start", rows, recipes, folder, options=LABELS, seed=seed, use_cpu=True)
    return reports, time.perf_counter() - started


def answers(folder, rows, num_frames, seed):
    """One reply to the option-list question about each clip."""
    model, processor = load(folder, device="cpu")
    replies = []
    for row in rows:
        row = {name: row[name] for name in FIELDS}
        [asked] = instruction_rows(row, ["recognition"], seed=seed, options=LABELS)
        batch = processor.apply_chat_template(
            messages({**asked, "answer": None}),
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
            processor_kwargs={"num_frames": num_frames},
        )
        with torch.inference_mode():
            generated = model.generate(**batch, max_new_tokens=8, do_sample=False)
        replies.append(
            processor.tokenizer.decode(generated[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        )
    return replies


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=float, help="of phase 3 (default: the recipe's)")
    parser.add_argument("--demo", type=Path, help="folder for the clips, kept (default: a temporary one)")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    metric = load_metric("emotion_recognition")
    result = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "clips": args.clips,
        "seed": args.seed,
        "models": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        rows = make_demo(
            args.demo or Path(folder) / "demo",
            num_clips=args.clips,
            seed=args.seed,
            cues=("prosody",),
            emotions=LABELS,
            controls=0.0,
            size=64,
            fps=5.0,
            num_workers=2,
            progress=False,
        )
        result["demo_seconds"] = round(time.perf_counter() - started, 1)
        training = [row for row in rows if row["split"] == "train"]
        tests = [row for row in rows if row["split"] != "train"]
        result |= {"train_clips": len(training), "test_clips": len(tests)}
        for name, fields in MODELS.items():
            reports, seconds = train(fields, training, Path(folder) / name, args.seed, args.epochs)
            frames = reports[-1]["recipe"]["num_frames"]
            replies = answers(reports[-1]["folder"], tests, frames, args.seed)
            scores = metric.compute(
                predictions=replies, references=[row["label"] for row in tests], labels=list(LABELS)
            )
            phases = [
                {
                    "recipe": report["recipe"]["name"],
                    "questions": report["questions"],
                    "steps": len(report["loss"]),
                    "first_loss": sum(report["loss"][:5]) / len(report["loss"][:5]),
                    "last_loss": sum(report["loss"][-5:]) / len(report["loss"][-5:]),
                    "seconds": report["seconds"],
                }
                for report in reports
            ]
            scores = {score: round(float(scores[score]), 4) for score in ("uar", "war", "invalid_rate")}
            result["models"][name] = {"seconds": round(seconds, 1), "phases": phases, **scores}
            for phase in phases:
                print(
                    f"{name:6} {phase['recipe']:24} {phase['steps']:4} steps  loss {phase['first_loss']:.3f} -> "
                    f"{phase['last_loss']:.3f}  {phase['seconds']:6.1f} s",
                    flush=True,
                )
            print(f"{name:6} all phases {seconds:.1f} s; on {len(tests)} clips {scores}", flush=True)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    partial = args.output.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, args.output)
    heard, seen = (result["models"][name]["uar"] for name in ("v+a+f", "v"))
    return 0 if heard > seen else 1


if __name__ == "__main__":
    sys.exit(main())
