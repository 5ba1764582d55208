"""`hf-emotion build`."""

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from ..data.build import SOURCES, LicenceError, build, check_output, push
from ..data.files import DataError, MissingMediaError
from ..data.questions import TASKS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Sources: " + ", ".join(SOURCES)
    parser.add_argument("source", choices=SOURCES, metavar="SOURCE", help="one of the sources above")
    parser.add_argument("--annotations", help="file or folder with the annotations, as the source publishes them")
    parser.add_argument("--media", help="folder with the clips, searched with all below it")
    parser.add_argument("--output", help="folder for the dataset (needed, except with --json alone for a dry run)")
    parser.add_argument("--missing", choices=("error", "drop", "keep"), default="error", help="clips without a file")
    parser.add_argument(
        "--split", type=_pair, action="append", metavar="NAME=FILE", help="a split by a list of clip names"
    )
    parser.add_argument(
        "--utterances", choices=("voice", "whole"), help="fill utterances that are not known, from the sound"
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=[], help="make questions of these tasks")
    parser.add_argument("--per-task", type=int, default=1, help="questions of each task about each clip")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--subtitles", help="transcript table (name, and english, chinese, sentence or text)")
    parser.add_argument("--labels", help="table of open-vocabulary words (name, openset)")
    parser.add_argument("--language", choices=("english", "chinese"), help="language of subtitles and descriptions")
    parser.add_argument("--fold", type=int, help="fold of DFEW, MAFW, RAVDESS (1 to 5)")
    parser.add_argument("--test-session", type=int, help="session of IEMOCAP that is the test set")
    parser.add_argument(
        "--speakers", type=_speakers, action="append", metavar="NAME=1-16,20", help="RAVDESS actors of a split"
    )
    parser.add_argument("--licence", help="licence of your own data")
    parser.add_argument(
        "--against", action="append", default=[], metavar="DATASET|FILE", help="report clips that are also there"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset built here before")
    parser.add_argument("--num-proc", type=int, help="processes")
    parser.add_argument("--clips", type=int, default=500, help="demo: number of clips to make")
    parser.add_argument("--cues", nargs="+", help="demo: the cues to plant (all by default)")
    parser.add_argument("--push-to-hub", metavar="REPO", help="publish the dataset after it is built")
    parser.add_argument("--private", action="store_true", help="publish to a private repository")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


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
    """Run `hf-emotion build`. Exit code 0, or 1 with one message for data that cannot be built or may not be
    published."""
    from ..processing.media import MediaError

    try:
        return _run(args)
    except (DataError, MissingMediaError, LicenceError, MediaError, ValueError, OSError) as error:
        print(f"hf-emotion build: {error}", file=sys.stderr)
        return 1


def _run(args: argparse.Namespace) -> int:
    if args.push_to_hub and not args.output:
        raise ValueError("--push-to-hub needs --output: what is published is the saved dataset")
    if not args.output and not args.json:
        raise ValueError("--output is needed, the folder for the dataset (or --json to see only the report)")
    options = {
        name: value
        for name in ("subtitles", "labels", "language", "fold", "test_session", "speakers")
        if (value := getattr(args, name)) is not None
    }
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
    if args.json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        _print_report(report, args.output)
    if args.push_to_hub:
        print(push(args.output, args.push_to_hub, private=args.private))
    return 0


def _make_demo(args: argparse.Namespace) -> Path:
    """Make the demo corpus (or finish it) beside the dataset: an output folder is replaced whole, its clips must
    stay."""
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
