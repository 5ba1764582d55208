"""What several commands share: exit codes, the parser and its help format, argument types, options."""

import argparse
import json
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..data.shares import ResultFile

OK, SOME_FAILED, FAILED = 0, 1, 2
INTERRUPTED, TERMINATED = 130, 143  # as shells report Ctrl-C and SIGTERM


class HelpFormatter(argparse.HelpFormatter):
    """Help in which every option names its default; one that depends on other things says so in its text."""

    def _get_help_string(self, action):
        text = action.help or ""
        if action.required and action.option_strings:
            return f"{text} (required)"
        default = action.default
        if default is None or default is False or default is argparse.SUPPRESS or default == [] or "(default" in text:
            return text
        if isinstance(default, (list, tuple)):
            default = " ".join(map(str, default))
        return f"{text} (default: {default})"


class Parser(argparse.ArgumentParser):
    """A parser that suggests the nearest accepted value for a wrong one."""

    def __init__(self, **options):
        super().__init__(**{"formatter_class": HelpFormatter, **options})

    def _check_value(self, action, value):
        if action.choices is not None and value not in action.choices:
            accepted = [str(choice) for choice in action.choices]
            near = get_close_matches(str(value), accepted, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise argparse.ArgumentError(action, f"{value!r} is unknown; {hint}Accepted are {', '.join(accepted)}")


def positive_int(text: str) -> int:
    """A positive integer from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def parse_fields(pairs: Sequence[str], option: str = "--set") -> dict:
    """`["use_regions=false", "task=reason"]` -> `{"use_regions": False, "task": "reason"}`; what is not JSON is text.

    Raises:
        ValueError: a pair without `=`.
    """
    fields = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{option} {pair}: found no '='; NAME=VALUE is accepted")
        try:
            fields[name] = json.loads(value)
        except json.JSONDecodeError:
            fields[name] = value
    return fields


def add_loading_options(parser: argparse.ArgumentParser) -> None:
    """`--device`, `--trust-remote-code`."""
    parser.add_argument("--device", help="such as cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the code of the model's repository")


def add_clip_options(parser: argparse.ArgumentParser) -> None:
    """`--num-frames`, `--modalities`: what is taken from each clip."""
    parser.add_argument("--num-frames", type=positive_int, metavar="N", help="frames per clip (default: the model's)")
    parser.add_argument(
        "--modalities", nargs="+", metavar="NAME", help="use only these: video, audio (default: all of the model's)"
    )


def add_answer_options(parser: argparse.ArgumentParser) -> None:
    """`--question`, `--max-new-tokens`, `--num-beams`, `--batch-size`."""
    parser.add_argument("--question", help="question about each clip (default: the row's, else the model's own)")
    parser.add_argument(
        "--max-new-tokens", type=positive_int, default=128, metavar="N", help="longest answer, in tokens"
    )
    parser.add_argument("--num-beams", type=positive_int, default=1, metavar="N", help="beams; 1 is greedy search")
    parser.add_argument("--batch-size", type=positive_int, default=4, metavar="N", help="clips generated together")


def add_worker_option(parser: argparse.ArgumentParser) -> None:
    """`--num-workers`."""
    parser.add_argument(
        "--num-workers",
        type=int,
        metavar="N",
        help="processes that decode clips; 0 decodes in this one (default: by the cores and the number of clips)",
    )


def add_row_options(parser: argparse.ArgumentParser) -> None:
    """`--data`, `--split`, `--media-root`, `--allow-urls`."""
    parser.add_argument(
        "--data",
        required=True,
        help="jsonl, json, csv or parquet table, folder of clips, dataset written by build, or tar files (WebDataset)",
    )
    parser.add_argument("--split", help="split of the data (default: the only one)")
    parser.add_argument(
        "--media-root", metavar="FOLDER", help="folder of the clips; tar files are unpacked there (default: the data's)"
    )
    add_url_option(parser)


def add_url_option(parser: argparse.ArgumentParser) -> None:
    """`--allow-urls`."""
    parser.add_argument(
        "--allow-urls",
        action="store_true",
        help="read data and clips that are addresses, such as hf:// or s3:// (default: refuse them)",
    )


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """`--engine`, `--address`, `--actors`: where the rows are worked on."""
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="local: this process, or those of torchrun, accelerate launch or srun; ray: a cluster",
    )
    parser.add_argument("--address", help="Ray cluster, such as auto or ray://HOST:10001 (default: start one here)")
    parser.add_argument(
        "--actors", type=positive_int, metavar="N", help="copies of the model on a cluster (default: one for each GPU)"
    )


def report_share(results: "ResultFile") -> None:
    """Say how many rows this process did, if there are several."""
    share = results.processes
    if share.count > 1:
        print(f"process {share.rank + 1} of {share.count}: {results.written} rows", file=sys.stderr)


def chosen(args: argparse.Namespace, *names: str) -> dict:
    """The options of these names that were given."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def count_parameters(*modules) -> int:
    """Number of parameters of `modules`; a shared parameter is counted once."""
    return sum(parameter.numel() for parameter in {id(p): p for m in modules for p in m.parameters()}.values())
