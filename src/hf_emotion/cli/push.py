"""`hf-emotion push`."""

import argparse
import sys
from pathlib import Path

from .arguments import OK


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description += (
        " The card is filled from the folder and the results files. Weights are published privately if the licence of "
        "a checkpoint that they started from demands it, unless --public is given."
    )
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="folder of the model or adapter, or the name of a metric"
    )
    parser.add_argument("repo", metavar="REPO", help="repository to publish to: name/model")
    parser.add_argument(
        "--results", nargs="+", default=[], metavar="FILE", help="scores.json of evaluate or quickstart (default: none)"
    )
    parser.add_argument("--dataset", metavar="ID", help="Hub id of the data behind the results (default: none)")
    parser.add_argument(
        "--examples", nargs="+", default=[], metavar="CLIP", help="clips to play on the model page (default: none)"
    )
    parser.add_argument("--base", metavar="REPO", help="base model of an adapter (default: the one that it names)")
    parser.add_argument("--readme", metavar="FILE", help="card to publish (default: one made from the folder)")
    parser.add_argument("--revision", help="branch to publish to (default: main)")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request")
    parser.add_argument("--message", help="commit message (default: Upload and the model's name)")
    access = parser.add_mutually_exclusive_group()
    access.add_argument(
        "--private",
        dest="private",
        action="store_const",
        const=True,
        help="publish privately (default: as the licences demand)",
    )
    access.add_argument(
        "--public",
        dest="private",
        action="store_const",
        const=False,
        help="publish publicly, even if a licence demands otherwise (default: as the licences demand)",
    )


def run(args: argparse.Namespace) -> int:
    """List the files of a folder, publish it and print the address of the commit; returns 0."""
    from ..evaluation import metrics
    from ..hub import push, push_metric

    if str(args.folder) in metrics() and not args.folder.exists():
        print(push_metric(str(args.folder), args.repo, private=args.private))
        return OK
    address = push(
        args.folder,
        args.repo,
        results=args.results,
        examples=args.examples,
        dataset=args.dataset,
        base=args.base,
        readme=args.readme,
        private=args.private,
        revision=args.revision,
        create_pr=args.create_pr,
        commit_message=args.message,
        announce=lambda text: print(text, file=sys.stderr),
    )
    print(address)
    return OK
