"""`hf-emotion review`."""

import argparse
import json
import os
import sys
from pathlib import Path

from ..curation.people import export_sheet, import_sheets, make_dataset
from ..curation.reviewers import model_of
from ..curation.stages import ROLES, ReviewError, Settings, review
from ..data.files import read_lines
from ..data.questions import TASKS
from .arguments import FAILED, OK, SOME_FAILED, add_engine_options, add_url_option, positive_int

WHO = {
    "describe": "looks at frames and faces",
    "listen": "describes the voice",
    "judge": "checks, explains and scores",
    "transcribe": "writes down speech which the data does not bring",
    "person": "estimates age and gender, which are sensitive attributes",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP", help="run, export, import or dataset")
    run = steps.add_parser("run", help="describe and score clips, or continue an interrupted run")
    run.epilog = (
        "MODEL is chat:MODEL (any chat model of transformers), hf:TASK:MODEL, server:MODEL@URL, or offline: templates "
        "over measurements, which show the procedure and replace no model. --judge is needed, and at least one of "
        "--describe and --listen."
    )
    add = run.add_argument
    add("data", metavar="DATA", help="dataset written by build, demo corpus, folder of clips, or table")
    add("--output", required=True, type=Path, metavar="FOLDER", help="folder of the review")
    add("--split", default="train", choices=("train", "all"), help="split of a dataset; test clips are never taken")
    add("--media-root", metavar="FOLDER", help="folder of the clips (default: the data's)")
    add("--source", help="name of the source, for rows without one (default: none)")
    add("--licence", help="licence of the clips, for rows without one (default: none)")
    for role, text in WHO.items():
        add(f"--{role}", metavar="MODEL", help=f"{text} (default: none)")
    add("--key-env", metavar="NAME", help="environment variable that holds the servers' key (default: no key)")
    add("--threshold", type=float, default=Settings.threshold, metavar="SCORE", help="lowest score to keep")
    add("--exclude", nargs="*", default=list(Settings.exclude), metavar="SOURCE", help="sources to leave out")
    add("--held-out", type=Path, nargs="+", default=[], metavar="FILE", help="names of test clips (default: none)")
    add("--face-fps", type=float, default=Settings.face_fps, metavar="FPS", help="frames per second for faces")
    add("--workers", type=positive_int, default=1, metavar="N", help="clips at a time")
    add("--retry-unread", action="store_true", help="ask again where a reply could not be read")
    add("--json", action="store_true", help="print JSON")
    add_url_option(run)
    add_engine_options(run)
    run.set_defaults(step_run=run_review)

    export = steps.add_parser("export", help="write the sheet that reviewers fill")
    export.add_argument("folder", type=Path, metavar="FOLDER", help="folder of the review")
    export.add_argument("sheet", type=Path, metavar="SHEET", help=".csv, or .json for Label Studio")
    export.add_argument("--per-source", type=positive_int, default=700, metavar="N", help="clips of each source")
    export.add_argument("--seed", type=int, default=0, help="seed of the choice and order")
    export.add_argument("--from-kept", action="store_true", help="choose from the kept clips, which stay kept")
    export.set_defaults(step_run=run_export)

    back = steps.add_parser("import", help="read the filled sheets")
    back.add_argument("folder", type=Path, metavar="FOLDER", help="folder of the review")
    back.add_argument("sheets", type=Path, nargs="+", metavar="SHEET", help="one for each reviewer, named after them")
    back.add_argument("--final", type=Path, metavar="SHEET", help="sheet that decides disputed clips (default: none)")
    back.add_argument("--needed", type=positive_int, default=2, metavar="N", help="verdicts that each clip needs")
    back.set_defaults(step_run=run_import)

    dataset = steps.add_parser("dataset", help="save the kept and accepted clips as a dataset")
    dataset.add_argument("folder", type=Path, metavar="FOLDER", help="folder of the review")
    dataset.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="folder for the dataset")
    dataset.add_argument(
        "--tasks", nargs="*", default=[], choices=TASKS, help="make questions of these (default: none)"
    )
    dataset.add_argument("--per-task", type=positive_int, default=1, metavar="N", help="questions of each task")
    dataset.add_argument("--seed", type=int, default=0, help="seed of the questions")
    dataset.add_argument(
        "--media", type=Path, metavar="FOLDER", help="folder that paths are relative to (default: none)"
    )
    dataset.set_defaults(step_run=run_dataset)


def run(args: argparse.Namespace) -> int:
    """Run a step of the review; returns its exit code."""
    return args.step_run(args)


def run_review(args: argparse.Namespace) -> int:
    """Describe and score clips; returns 0, 1 (some failed) or 2 (all failed)."""
    from ..data.rows import read_rows
    from ..data.shares import processes

    key = os.environ.get(args.key_env) if args.key_env else None
    if args.key_env and not key:
        raise ReviewError(f"--key-env names {args.key_env}, which is not set")
    if not args.judge or not (args.describe or args.listen):
        raise ReviewError("review run needs --judge MODEL and at least one of --describe MODEL and --listen MODEL")
    models = {}
    for role in ROLES:
        if text := getattr(args, role):
            models[role] = model_of(text, key)
            if role not in models[role].roles:
                raise ReviewError(f"--{role} {text}: this model can {', '.join(models[role].roles)}, not {role}")
    rows = read_rows(args.data, args.split, args.media_root, allow_urls=args.allow_urls)
    for row in rows:
        for name in ("source", "licence"):
            row[name] = row.get(name) or getattr(args, name)
    engine = None
    if args.engine == "ray":
        from .. import cluster

        cluster.connect(args.address)
        texts = {role: getattr(args, role) for role in models}
        engine = cluster.reviewing(texts, key, args.actors or (args.workers if args.workers > 1 else None))
    report = review(
        rows,
        args.output,
        models,
        Settings(threshold=args.threshold, exclude=tuple(args.exclude), face_fps=args.face_fps),
        held_out=[name.strip() for file in args.held_out for _, name in read_lines(file) if name.strip()],
        workers=args.workers,
        retry_unread=args.retry_unread,
        progress=sys.stderr.isatty(),
        engine=engine,
        allow_urls=args.allow_urls,
    )
    share = processes()
    if share.count > 1:
        print(f"process {share.rank + 1} of {share.count}: {len(share.share(rows))} rows", file=sys.stderr)
    if not share.is_first:
        return OK
    failed = [item for item in report.outcomes if item.status == "failed"]
    if args.json:
        counted = {"stages_before": report.stages_before, "stages_now": report.stages_now, "seconds": report.seconds}
        clips = [vars(item) for item in report.outcomes]
        print(json.dumps({**counted, "counts": report.counts, "clips": clips}, indent=2, ensure_ascii=False))
    else:
        print(f"{args.output}: {report.stages_before} stages were done before, {report.stages_now} now")
        print(", ".join(f"{count} {status}" for status, count in report.counts.items()))
        for item in report.outcomes:
            score = "" if item.score is None else f" {item.score:g}"
            print(f"  {item.status:9} {item.id}{score}: {item.reason}")
    for item in failed:
        print(f"hf-emotion: {item.id}: {item.reason}", file=sys.stderr)
    return OK if not failed else FAILED if len(failed) == len(report.outcomes) else SOME_FAILED


def run_export(args) -> int:
    count = export_sheet(args.folder, args.sheet, args.per_source, args.seed, args.from_kept)
    print(f"{args.sheet}: {count} clips; give each reviewer a copy named after them")
    return OK


def run_import(args) -> int:
    people = import_sheets(args.folder, args.sheets, args.final, args.needed)
    print(", ".join(f"{len(clips)} {kind}" for kind, clips in people["clips_by_outcome"].items()))
    agreement = people["agreement"]
    print(
        f"{len(people['verdicts'])} reviewers, {agreement['clips']} clips that two or more judged: "
        f"same verdict {agreement['same']}, Krippendorff's alpha {agreement['alpha']}, "
        f"labels shared {agreement['labels']}"
    )
    for name in people["clips_by_outcome"]["disputed"]:
        print(f"  disputed  {name}")
    return OK


def run_dataset(args) -> int:
    _, report = make_dataset(args.folder, args.output, args.tasks, args.per_task, args.seed, args.media)
    for name, numbers in report["splits"].items():
        print(f"{name}: {numbers['clips']} clips, {numbers['rows']} rows")
    print(f"licence: {report['licence'] or 'see each row'}")
    for note in report["notes"]:
        print(f"note: {note}")
    return OK
