"""`hf-emotion starter`."""

import argparse
from pathlib import Path

from .arguments import OK, positive_int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="FOLDER", help="folder of the model")
    add("--seed", type=int, default=0, help="seed of scenes, weights and training")
    add("--speakers", type=positive_int, default=120, metavar="N", help="synthetic voices")
    add(
        "--frames",
        type=positive_int,
        default=30000,
        metavar="N",
        help="single frames that the landmark tower reads first",
    )
    add("--steps", type=positive_int, default=700, metavar="N", help="steps of the first stage")
    add("--batch", type=positive_int, default=36, metavar="N", help="scenes per step of the first stage")
    add("--pictures", type=positive_int, default=64, metavar="N", help="further pictures per step of the first stage")
    add("--rate", type=float, default=2e-3, help="learning rate of the first stage")
    add("--scenes", type=positive_int, default=6000, metavar="N", help="scenes of the second stage")
    add("--text-pictures", type=positive_int, default=4000, metavar="N", help="further pictures of the second stage")
    add("--epochs", type=positive_int, default=3, metavar="N", help="epochs of the second stage")
    add("--text-batch", type=positive_int, default=32, metavar="N", help="questions per step of the second stage")
    add("--text-rate", type=float, default=3e-3, help="learning rate of the second stage")
    add("--bfloat16", action="store_true", help="store bfloat16 instead of float16")
    add("--threads", type=positive_int, default=1, metavar="N", help="threads of torch; sums differ with their number")


def run(args: argparse.Namespace) -> int:
    """Teach the model in the box from nothing; returns 0."""
    import torch

    from ..starter.train import teach

    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    report = teach(args)
    size = (args.output / "model.safetensors").stat().st_size
    print(f"{args.output}: {size / 1e6:.1f} MB after {report['seconds']:.0f} s")
    return OK
