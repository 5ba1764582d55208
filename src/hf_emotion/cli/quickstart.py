"""`hf-emotion quickstart`."""

import argparse
from pathlib import Path

from .arguments import OK


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clips", nargs="*", metavar="CLIP", help="clips of yours to describe (default: one made here)")
    parser.add_argument(
        "--output", type=Path, default=Path("quickstart_output"), metavar="FOLDER", help="folder to write"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of corpus and training")


def run(args: argparse.Namespace) -> int:
    """Run the quickstart; returns 0."""
    from ..training.quickstart import quickstart

    quickstart(args.output, clips=args.clips, seed=args.seed)
    return OK
