"""On paper: cores, GPUs, hours and disk for 125,000 clips (MER2025), for each model at paper size.

    python benchmarks/costs.py

Operations and bytes are counted (`hf_emotion.costs`, torch's meta device); what a machine makes of them is assumed, and
stated in the result: the share of an H200's peak that dense bfloat16 work reaches, the share of its memory bandwidth
that decoding reaches, the processor time that a clip takes before a model sees it, and the length of prompts and
answers. A training step from cached features is counted with activations computed again: three passes of the language
model for LoRA, four where it is trained whole, which only Omni-Emotion's third phase does.
"""

import argparse
import json
from pathlib import Path

import torch

import hf_emotion.registration  # noqa: F401
from hf_emotion.costs import language_cost, tower_costs
from hf_emotion.papers import PAPERS

ASSUMED = {
    "clips": 125_000,
    "seconds_of_a_clip": 5.0,
    "frames": 8,
    "utterances": 1,
    "text_tokens": 150,
    "answer_tokens": 64,
    "gpu": "H200",
    "peak_flop_per_second": 989e12,
    "share_of_peak": 0.4,
    "bytes_per_second": 4.8e12,
    "share_of_bandwidth": 0.6,
    "decoding_batch": 32,
    "core_seconds_of_preprocessing": 0.5,
}


def row_of(name: str, assumed: dict) -> dict:
    """One model: per clip what is counted, for all clips what follows from the assumptions."""
    config = PAPERS[name].config("paper")
    with torch.device("meta"):
        model = PAPERS[name].model(config)
    towers = tower_costs(model, assumed["frames"], assumed["seconds_of_a_clip"])
    media = sum(config.tokens_per_clip(assumed["frames"], assumed["utterances"]).values())
    prompt = media + assumed["text_tokens"]
    weights = sum(parameter.numel() for parameter in model.base_model.language_model.parameters())
    passes = 4 if name == "omni_emotion" else 3
    speed = assumed["peak_flop_per_second"] * assumed["share_of_peak"]
    tower_flop = sum(tower.flop for tower in towers)
    prefill = language_cost(model, prompt)
    read = 2 * weights / assumed["decoding_batch"] / (assumed["bytes_per_second"] * assumed["share_of_bandwidth"])
    seconds = {
        "towers": tower_flop / speed,
        "step_from_features": passes * language_cost(model, prompt + assumed["answer_tokens"]) / speed,
        "answer": prefill / speed + assumed["answer_tokens"] * read,
    }
    kept = sum(tower.bytes for tower in towers)
    clips = assumed["clips"]
    core_hours = clips * assumed["core_seconds_of_preprocessing"] / 3600
    describing = seconds["towers"] + seconds["answer"]
    return {
        "per_clip": {
            "tower_tflop": {tower.name: tower.flop / 1e12 for tower in towers},
            "prompt_tokens": prompt,
            "prefill_tflop": prefill / 1e12,
            "cached_bytes_bfloat16": kept,
        },
        "core_hours_of_preprocessing": core_hours,
        "disk_gb_bfloat16": clips * kept / 1e9,
        "disk_gb_int8": clips * kept / 2e9,
        "gpu_hours": {
            "cache": clips * seconds["towers"] / 3600,
            "epoch_from_features": clips * seconds["step_from_features"] / 3600,
            "epoch_from_clips": clips * (seconds["towers"] + seconds["step_from_features"]) / 3600,
            "describe": clips * describing / 3600,
        },
        "cores_that_feed_one_gpu": {
            "cache": assumed["core_seconds_of_preprocessing"] / seconds["towers"],
            "describe": assumed["core_seconds_of_preprocessing"] / describing,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(PAPERS))
    for name, value in ASSUMED.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "costs.json")
    args = parser.parse_args()
    assumed = {name: getattr(args, name) for name in ASSUMED}
    rows = {}
    for name in args.models:
        rows[name] = row = row_of(name, assumed)
        hours, cores = row["gpu_hours"], row["cores_that_feed_one_gpu"]
        cells = [
            f"{row['core_hours_of_preprocessing']:.0f}",
            f"{hours['cache']:.2f}",
            f"{row['disk_gb_bfloat16']:,.0f}",
            *(f"{hours[what]:.1f}" for what in ("epoch_from_features", "epoch_from_clips", "describe")),
            f"{cores['cache']:.0f} / {cores['describe']:.0f}",
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    args.output.write_text(json.dumps({"assumed": assumed, "models": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
