"""`hf-emotion space`."""

import argparse
from pathlib import Path

from .arguments import OK


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("repo", metavar="REPO", help="of the model or adapter: name/model")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder to write; new or empty")
    parser.add_argument("--push", metavar="SPACE", help="publish it as name/space")
    parser.add_argument("--title", help="of the page")


def run(args) -> int:
    from ..hub import push_space, write_space

    if args.output is None and args.push is None:
        raise ValueError("nothing to do: give --output DIR, --push name/space, or both")
    if args.output is not None:
        print(write_space(args.repo, args.output, args.title))
    if args.push is not None:
        print(push_space(args.repo, args.push, title=args.title))
    return OK
