"""`hf-emotion benchmark`."""

import argparse
import sys
from functools import partial
from pathlib import Path

from ..evaluation.evaluate import EvaluationError
from ..evaluation.suite import constant, load_suite, run_suite, suites
from .arguments import (
    OK,
    SOME_FAILED,
    add_answer_options,
    add_clip_options,
    add_loading_options,
    chosen,
    parse_fields,
    positive_int,
)
from .metric_options import add_metric_options, settings_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Runs a benchmark of the field and writes its table: OUTPUT/README.md, OUTPUT/results.json, the answers of "
        "each task, and .eval_results for suites whose data set is on the Hub. Run again to continue. Exit code 1: "
        "some clips could not be described."
    )
    suite_names = ", ".join(suites())
    parser.add_argument("suite", metavar="SUITE", help=f"{suite_names}, or a suite file of your own (.yaml)")
    system = parser.add_mutually_exclusive_group()
    system.add_argument("--model", help="model folder or Hub id (default: --answer or --predictions)")
    system.add_argument("--answer", metavar="TEXT", help="the same answer to every clip (default: a model's)")
    system.add_argument(
        "--predictions",
        nargs="+",
        metavar="TASK=FILE",
        help="files of answers, csv, json, jsonl or npz, which bring the references where --data is not given "
        "(default: a model's)",
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="folder of the benchmark's data (default: none)")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="folder for table and answers")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="tasks to run (default: all of the suite)")
    parser.add_argument("--fold", type=int, help="fold of the dataset (default: all, or no split)")
    parser.add_argument("--split", help="split of the dataset (default: the suite's)")
    parser.add_argument(
        "--reader", nargs="+", default=[], metavar="KEY=VALUE", help="options of the dataset's reader (default: none)"
    )
    parser.add_argument(
        "--limit", type=positive_int, metavar="N", help="only the first N clips of a task (default: all)"
    )
    parser.add_argument(
        "--shard", type=shard, metavar="I/N", help="answer every N-th clip from clip I, score nothing (default: all)"
    )
    parser.add_argument(
        "--lmms-eval",
        type=Path,
        metavar="FOLDER",
        help="write the tasks for lmms-eval --include_path (default: do not)",
    )
    parser.add_argument("--dataset-id", metavar="ID", help="Hub id for .eval_results (default: the suite's)")
    add_answer_options(parser)
    add_clip_options(parser)
    add_loading_options(parser)
    add_metric_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run a benchmark; returns 0, or 1 where some clips could not be described."""
    suite, settings = load_suite(args.suite), settings_of(args)
    options = parse_fields(args.reader, "--reader")
    options |= chosen(args, "fold", "split")
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
            shard=args.shard,
            record=chosen(args, "num_frames", "modalities", "max_new_tokens", "num_beams"),
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

    def describe(clips, **options):
        nonlocal asking
        if asking is None:
            from ..inference import describe as ask
            from ..inference import load

            model, processor = load(args.model, device=args.device, trust_remote_code=args.trust_remote_code)
            asking = partial(
                ask,
                model=model,
                processor=processor,
                batch_size=args.batch_size,
                per_utterance=False,
                **chosen(args, "num_frames", "modalities", "max_new_tokens", "num_beams"),
            )
        return asking(clips, **options)

    return describe


def _predictions(args, suite) -> dict[str, str] | None:
    if not args.predictions:
        return None
    if len(args.predictions) == 1 and "=" not in args.predictions[0]:
        tasks = args.tasks or list(suite.tasks)
        return {tasks[0]: args.predictions[0]}
    missing = [text for text in args.predictions if "=" not in text]
    if missing:
        raise EvaluationError(f"--predictions {missing[0]}: found no '='; TASK=FILE is accepted")
    return dict(text.split("=", 1) for text in args.predictions)


def shard(text: str) -> tuple[int, int]:
    """`2/4` -> (2, 4)."""
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a shard; I/N with 1 <= I <= N is accepted, such as 2/4")
    return int(number), int(of)
