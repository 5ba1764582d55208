"""`hf-emotion push`."""

import argparse
from pathlib import Path

from .arguments import OK


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "The card is filled from the folder and the results files. Weights whose parents' licences demand it "
        "are published privately unless --public is given."
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="what save_pretrained, Trainer or PEFT wrote")
    parser.add_argument("repo", metavar="REPO", help="name/model")
    parser.add_argument(
        "--results", nargs="+", default=[], metavar="FILE", help="scores.json of evaluate or quickstart"
    )
    parser.add_argument("--dataset", metavar="ID", help="Hub id of the data behind the results")
    parser.add_argument("--examples", nargs="+", default=[], metavar="CLIP", help="clips that the model page can play")
    parser.add_argument("--base", metavar="REPO", help="base model of an adapter, where it was trained from a folder")
    parser.add_argument("--readme", metavar="FILE", help="a card of your own, in place of the one made here")
    parser.add_argument("--revision", help="branch to publish to (default main)")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request")
    parser.add_argument("--message", help="of the commit")
    seen = parser.add_mutually_exclusive_group()
    seen.add_argument("--private", dest="private", action="store_const", const=True, help="whatever the licences say")
    seen.add_argument("--public", dest="private", action="store_const", const=False, help="whatever the licences say")


def run(args) -> int:
    from ..hub import push

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
    )
    print(address)
    return OK
