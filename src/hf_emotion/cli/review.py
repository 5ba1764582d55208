"""`hf-emotion review`."""

import argparse
import json
import os
import sys
from pathlib import Path

from ..curation.people import export_sheet, import_sheets, make_dataset
from ..curation.reviewers import Offline, model_of
from ..curation.stages import ROLES, ReviewError, Settings, review
from ..data.files import read_lines
from ..data.questions import TASKS
from ..data.rows import read_rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    run = steps.add_parser("run", help="describe and score clips, or go on where a run was interrupted")
    add = run.add_argument
    add("data", type=Path, help="a dataset saved by `build`, a demo corpus, a folder of clips, or a table")
    add("--output", required=True, type=Path, help="folder of the review")
    add("--split", default="train", choices=("train", "all"), help="of a dataset; test clips are never taken")
    add("--media-root", type=Path, help="folder of the clips, where the data does not say")
    add("--source", help="name of the source, for rows without one")
    add("--licence", help="licence of the clips, for rows without one")
    for role, text in WHO.items():
        default = "offline" if role in Offline.roles else None
        add(f"--{role}", metavar="MODEL", default=default, help=f"{text}: offline, hf:TASK:MODEL or server:MODEL@URL")
    add("--key-env", metavar="NAME", help="environment variable that holds the servers' key")
    add("--threshold", type=float, default=Settings.threshold, help="least score that is kept (default 5)")
    add("--exclude", nargs="*", default=list(Settings.exclude), metavar="SOURCE", help="left out (default ravdess)")
    add("--held-out", type=Path, nargs="+", default=[], metavar="FILE", help="names of test clips, one a line")
    add("--face-fps", type=float, default=Settings.face_fps, help="frames a second for faces (default 10)")
    add("--workers", type=int, default=1, help="clips at a time (default 1)")
    add("--retry-unread", action="store_true", help="ask again for replies that could not be read before")
    add("--json", action="store_true", help="print JSON")
    run.set_defaults(step_run=run_review)

    export = steps.add_parser("export", help="write the sheet that reviewers fill")
    export.add_argument("folder", type=Path, help="of the review")
    export.add_argument("sheet", type=Path, help=".csv, or .json for Label Studio")
    export.add_argument("--per-source", type=int, default=700, help="clips of each source (default 700)")
    export.add_argument("--seed", type=int, default=0)
    export.add_argument("--from-kept", action="store_true", help="draw from the kept clips, which stay kept")
    export.set_defaults(step_run=run_export)

    back = steps.add_parser("import", help="take filled sheets back")
    back.add_argument("folder", type=Path, help="of the review")
    back.add_argument("sheets", type=Path, nargs="+", help="one for each reviewer, named after them")
    back.add_argument("--final", type=Path, help="a sheet that decides what is disputed")
    back.add_argument("--needed", type=int, default=2, help="verdicts that a clip must have (default 2)")
    back.set_defaults(step_run=run_import)

    dataset = steps.add_parser("dataset", help="save the kept and accepted clips as a dataset")
    dataset.add_argument("folder", type=Path, help="of the review")
    dataset.add_argument("--output", required=True, type=Path, help="folder for the dataset")
    dataset.add_argument("--tasks", nargs="*", default=[], choices=TASKS, help="questions to ask (default: none)")
    dataset.add_argument("--per-task", type=int, default=1)
    dataset.add_argument("--seed", type=int, default=0)
    dataset.add_argument("--media", type=Path, help="folder below which the clips lie, left out of what is published")
    dataset.set_defaults(step_run=run_dataset)


WHO = {
    "describe": "who looks at frames and faces (default offline)",
    "listen": "who describes the voice (default offline)",
    "judge": "who checks, explains and scores (default offline)",
    "transcribe": "who writes down speech that the data does not bring (default nobody)",
    "person": "who estimates age and gender, sensitive attributes (default nobody)",
}


def run(args) -> int:
    return args.step_run(args)


def run_review(args) -> int:
    key = os.environ.get(args.key_env) if args.key_env else None
    if args.key_env and not key:
        raise ReviewError(f"--key-env names {args.key_env}, which is not set")
    models = {}
    for role in ROLES:
        if text := getattr(args, role):
            models[role] = model_of(text, key)
            if role not in models[role].roles:
                raise ReviewError(f"--{role} {text}: it can {', '.join(models[role].roles)}, and not {role}")
    rows = read_rows(args.data, args.split, args.media_root)
    for row in rows:
        for name in ("source", "licence"):
            row[name] = row.get(name) or getattr(args, name)
    report = review(
        rows,
        args.output,
        models,
        Settings(threshold=args.threshold, exclude=tuple(args.exclude), face_fps=args.face_fps),
        held_out=[name.strip() for file in args.held_out for _, name in read_lines(file) if name.strip()],
        workers=args.workers,
        retry_unread=args.retry_unread,
        progress=sys.stderr.isatty(),
    )
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
    return 0 if not failed else 2 if len(failed) == len(report.outcomes) else 1


def run_export(args) -> int:
    count = export_sheet(args.folder, args.sheet, args.per_source, args.seed, args.from_kept)
    print(f"{args.sheet}: {count} clips; give each reviewer a copy named after them")
    return 0


def run_import(args) -> int:
    people = import_sheets(args.folder, args.sheets, args.final, args.needed)
    print(", ".join(f"{len(clips)} {kind}" for kind, clips in people["clips_by_outcome"].items()))
    found = people["agreement"]
    print(
        f"{len(people['verdicts'])} reviewers, {found['clips']} clips that two or more judged: "
        f"same verdict {found['same']}, Krippendorff's alpha {found['alpha']}, labels shared {found['labels']}"
    )
    for name in people["clips_by_outcome"]["disputed"]:
        print(f"  disputed  {name}")
    return 0


def run_dataset(args) -> int:
    _, report = make_dataset(args.folder, args.output, args.tasks, args.per_task, args.seed, args.media)
    for name, numbers in report["splits"].items():
        print(f"{name}: {numbers['clips']} clips, {numbers['rows']} rows")
    print(f"licence: {report['licence'] or 'see each row'}")
    for note in report["notes"]:
        print(f"note: {note}")
    return 0
