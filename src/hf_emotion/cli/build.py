"""`hf-emotion build`."""

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path

from ..data.build import SOURCES, build, check_output, push
from ..data.questions import TASKS
from .arguments import OK, chosen, positive_int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description += f" Sources: {', '.join(SOURCES)}."
    add = parser.add_argument
    add("source", choices=SOURCES, metavar="SOURCE", help="kind of the data; see above")
    add("--annotations", metavar="PATH", help="annotation file or folder, as published (default: --media)")
    add("--media", metavar="FOLDER", help="folder with the clips, searched recursively (default: the annotations')")
    add("--output", metavar="FOLDER", help="folder for the dataset (default: none, a dry run with --json)")
    add("--missing", choices=("error", "drop", "keep"), default="error", help="what to do with clips without a file")
    add(
        "--split",
        type=_pair,
        action="append",
        metavar="NAME=FILE",
        help="split by a list of names (default: published)",
    )
    add("--utterances", choices=("voice", "whole"), help="fill unknown utterances from the sound (default: do not)")
    add("--tasks", nargs="+", choices=TASKS, default=[], help="make questions of these tasks (default: none)")
    add("--per-task", type=positive_int, default=1, metavar="N", help="questions of each task about each clip")
    add("--seed", type=int, default=0, help="seed of the questions and of the demo")
    add("--subtitles", metavar="FILE", help="table with name and english, chinese, sentence or text (default: none)")
    add("--labels", metavar="FILE", help="table of open-vocabulary words: name, openset (default: none)")
    add("--language", choices=("english", "chinese"), help="of subtitles and descriptions (default: the source's)")
    add("--fold", type=int, help="fold of DFEW, MAFW or RAVDESS, 1 to 5 (default: the source's)")
    add("--test-session", type=int, metavar="N", help="test session of IEMOCAP (default: the source's)")
    add(
        "--speakers",
        type=_speakers,
        action="append",
        metavar="NAME=1-16,20",
        help="RAVDESS actors of a split (default: the source's)",
    )
    add("--licence", help="licence of your own data (default: the source's)")
    add(
        "--against",
        action="append",
        default=[],
        metavar="DATASET|FILE",
        help="report clips that are also in this one (default: none)",
    )
    add("--overwrite", action="store_true", help="replace a dataset built here before")
    add("--num-proc", type=positive_int, metavar="N", help="processes (default: one)")
    add("--clips", type=positive_int, default=500, metavar="N", help="demo: number of clips to make")
    add("--cues", nargs="+", metavar="CUE", help="demo: cues to plant (default: all)")
    add("--push-to-hub", metavar="REPO", help="publish the dataset after it is built (default: do not)")
    add("--private", action="store_true", help="publish to a private repository")
    add("--json", action="store_true", help="print the report as JSON")


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    if not name or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _speakers(text: str) -> tuple[str, list[int]]:
    name, value = _pair(text)
    actors = []
    for part in value.split(","):
        match = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", part.strip())
        if not match:
            raise argparse.ArgumentTypeError(f"{text!r} is not NAME=1-16,20")
        actors += range(int(match[1]), int(match[2] or match[1]) + 1)
    return name, actors


def run(args: argparse.Namespace) -> int:
    """Build a dataset; returns 0."""
    if args.push_to_hub and not args.output:
        raise ValueError("--push-to-hub needs --output: what is published is the saved dataset")
    if not args.output and not args.json:
        raise ValueError("--output is needed, the folder for the dataset (or --json to see only the report)")
    options = chosen(args, "subtitles", "labels", "language", "fold", "test_session", "speakers")
    if "speakers" in options:
        options["speakers"] = dict(options["speakers"])
    source, annotations, media = args.source, args.annotations, args.media
    if source == "demo" and annotations is None:
        annotations = media = _make_demo(args)
    elif annotations is None:
        if not SOURCES[source].by_name or media is None:
            raise ValueError(f"--annotations is needed for {source}: the file or folder it is published as")
        annotations = media
    _, report = build(
        source,
        annotations,
        media,
        output=args.output,
        missing=args.missing,
        splits=dict(args.split) if args.split else None,
        utterances=args.utterances,
        tasks=args.tasks,
        per_task=args.per_task,
        seed=args.seed,
        licence=args.licence,
        against=args.against,
        overwrite=args.overwrite,
        num_proc=args.num_proc,
        **options,
    )
    if report is None:  # another process reports
        return OK
    if args.json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        _print_report(report, args.output)
    if args.push_to_hub:
        print(push(args.output, args.push_to_hub, private=args.private))
    return OK


def _make_demo(args: argparse.Namespace) -> Path:
    """Make or complete the demo corpus, next to the dataset: a dataset folder is replaced as a whole, clips stay."""
    from ..data.demo import CUES, make_demo

    if not args.output:
        raise ValueError("--output is needed, the folder for the dataset; its clips go to --media, or OUTPUT_media")
    check_output(args.output, args.overwrite)
    output = Path(args.output)
    folder = Path(args.media) if args.media else output.with_name(output.name + "_media")
    make_demo(folder, num_clips=args.clips, seed=args.seed, cues=args.cues or CUES, num_workers=args.num_proc)
    return folder


def _print_report(report: Mapping, output) -> None:
    print(f"{report['title']} -> {output} in {report['seconds']} s")
    for name, numbers in report["splits"].items():
        labels = ", ".join(f"{label} {count}" for label, count in numbers["labels"].items())
        print(
            f"  {name}: {numbers['clips']} clips, {numbers['rows']} rows, {numbers['utterances']} utterances. {labels}"
        )
    for note in report["notes"]:
        print(f"  note: {note}")
