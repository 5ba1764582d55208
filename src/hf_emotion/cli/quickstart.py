"""`hf-emotion quickstart`."""

import argparse
from pathlib import Path

from .arguments import OK


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clips", nargs="*", metavar="CLIP", help="own clips to describe at the end")
    parser.add_argument("--output", type=Path, default=Path("quickstart_output"), help="folder to write")
    parser.add_argument("--seed", type=int, default=0)


def run(args) -> int:
    from ..quickstart import quickstart

    quickstart(args.output, clips=args.clips, seed=args.seed)
    return OK
