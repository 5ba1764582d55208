"""`hf-emotion export`."""

import argparse
from pathlib import Path

from ..data.readers.conversations import write_conversations
from ..data.rows import read_rows
from .arguments import OK, add_row_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description += (
        " Rows need a question and an answer (`build --tasks` makes them). LLaMA-Factory's dataset_info.json is "
        "written beside its file. `build conversations FILE` reads such files."
    )
    parser.add_argument("form", choices=("llama-factory", "ms-swift"), help="whose format")
    add_row_options(parser)
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help=".json, for ms-swift .jsonl")


def run(args: argparse.Namespace) -> int:
    """Write the file; returns 0."""
    rows = read_rows(args.data, args.split, args.media_root, allow_urls=args.allow_urls)
    written = write_conversations(rows, args.output, args.form)
    print(f"{args.output}: {written} conversations of {len(rows)} rows")
    return OK
