"""`hf-emotion benchmark`."""

import argparse
import json
import sys
from functools import partial
from pathlib import Path

from ..evaluation.evaluate import EvaluationError
from ..evaluation.suite import constant, load_suite, run_suite, suites
from .arguments import OK, SOME_FAILED
from .metric_options import add_metric_options, settings_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Runs a benchmark of the field and writes its table: OUTPUT/README.md, OUTPUT/results.json, the answers of "
        "each task, and .eval_results for suites whose data set is on the Hub. Run again to continue. Exit code 1: "
        "some clips could not be described."
    )
    parser.add_argument("suite", metavar="SUITE", help=f"{', '.join(suites())}, or a suite file of your own (.yaml)")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--model", help="a model folder or Hub id")
    who.add_argument("--answer", metavar="TEXT", help="in place of a model: the same answer for every clip")
    who.add_argument(
        "--predictions",
        nargs="+",
        metavar="TASK=FILE",
        help="in place of a model: files of answers (csv, json, jsonl, npz); without --data they bring the references",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the benchmark's data")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="only these tasks of the suite")
    parser.add_argument("--fold", type=int, help="one of the data set's folds (default: all, or no split)")
    parser.add_argument("--split", help="another split than the suite's")
    parser.add_argument("--reader", nargs="+", default=[], metavar="KEY=VALUE", help="further options of the reader")
    parser.add_argument("--question", help="asked in place of the suite's question")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N clips of each task")
    parser.add_argument("--lmms-eval", type=Path, metavar="DIR", help="write the tasks for lmms-eval --include_path")
    parser.add_argument("--dataset-id", metavar="ID", help="Hub id for .eval_results where the suite has none")
    parser.add_argument("--num-frames", type=int, help="frames to look at (default: the model's)")
    parser.add_argument("--modalities", nargs="+", metavar="NAME", help="what to use: video, audio (default: all)")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="length limit of an answer (default 128)")
    parser.add_argument("--batch-size", type=int, default=4, help="clips generated together (default 4)")
    parser.add_argument("--device", help="such as cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the code of the model's repository")
    add_metric_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run a benchmark; returns 0, or 1 where some clips could not be described."""
    suite, settings = load_suite(args.suite), settings_of(args)
    options = dict(_pair(text, "--reader") for text in args.reader)
    options |= {key: value for key, value in (("fold", args.fold), ("split", args.split)) if value is not None}
    if args.lmms_eval:
        from ..evaluation.lmms_tasks import write_tasks

        if args.data is None:
            raise EvaluationError("--lmms-eval needs --data, the folder with the clips of the benchmark")
        print(" ".join(write_tasks(suite, args.data, args.lmms_eval, options, args.tasks or ())))
    if args.model is None and args.answer is None and not args.predictions:
        if args.lmms_eval:
            return OK
        raise EvaluationError("give one of --model, --answer and --predictions")
    try:
        results = run_suite(
            suite,
            args.data,
            args.output,
            describe=_describe(args),
            predictions=_predictions(args, suite),
            model=args.model or (f"always {args.answer!r}" if args.answer is not None else ", ".join(args.predictions)),
            tasks=args.tasks,
            options=options,
            settings=settings,
            question=args.question,
            batch_size=args.batch_size,
            limit=args.limit,
            draws=args.bootstrap,
            seed=args.seed,
            dataset_id=args.dataset_id,
            say=lambda text: print(text, file=sys.stderr),
        )
    finally:
        settings.cache.save()
    print((args.output / "README.md").read_text(encoding="utf-8"))
    for name, report in results["tasks"].items():
        for clip, error in report["failed"].items():
            print(f"{name}: not described: {clip}: {error}", file=sys.stderr)
    return SOME_FAILED if any(report["n_failed"] for report in results["tasks"].values()) else OK


def _describe(args):
    """The model as `run_suite` calls it; it is loaded when the first clip is asked about."""
    if args.answer is not None:
        return constant(args.answer)
    if args.predictions:
        return None
    asking = None

    def describe(clips, **given):
        nonlocal asking
        if asking is None:
            from ..inference import describe as ask
            from ..inference import load

            model, processor = load(args.model, device=args.device, trust_remote_code=args.trust_remote_code)
            load_options = {"num_frames": args.num_frames, "modalities": args.modalities}
            asking = partial(
                ask,
                model=model,
                processor=processor,
                batch_size=args.batch_size,
                max_new_tokens=args.max_new_tokens,
                load_options={key: value for key, value in load_options.items() if value is not None},
            )
        return asking(clips, **given)

    return describe


def _predictions(args, suite) -> dict[str, str] | None:
    if not args.predictions:
        return None
    if len(args.predictions) == 1 and "=" not in args.predictions[0]:
        tasks = args.tasks or list(suite.tasks)
        return {tasks[0]: args.predictions[0]}
    return dict(_pair(text, "--predictions", plain=True) for text in args.predictions)


def _pair(text: str, option: str, plain: bool = False) -> tuple:
    key, equals, value = text.partition("=")
    if not equals:
        raise EvaluationError(f"{option} {text!r}; accepted is KEY=VALUE")
    if plain:
        return key, value
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value
