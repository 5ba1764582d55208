"""`hf-emotion space`."""

import argparse
from pathlib import Path

from .arguments import OK


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "repo",
        nargs="?",
        metavar="REPO",
        help="repository of the model or adapter: name/model; without it, the model in the box is put into the Space",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="folder to write; new or empty (default: write none)"
    )
    parser.add_argument("--push", metavar="SPACE", help="publish it as name/space (default: do not publish)")
    parser.add_argument("--title", help="title of the page (default: the model's name)")


def run(args: argparse.Namespace) -> int:
    """Write or publish a Space; returns 0."""
    from ..hub import push_space, write_space

    if args.output is None and args.push is None:
        raise ValueError("nothing to do: give --output FOLDER, --push name/space, or both")
    if args.output is not None:
        print(write_space(args.repo, args.output, args.title))
    if args.push is not None:
        print(push_space(args.repo, args.push, title=args.title))
    return OK
