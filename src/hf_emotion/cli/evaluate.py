"""`hf-emotion evaluate`."""

import argparse
import sys
from pathlib import Path

from ..evaluation.evaluate import (
    METRICS,
    EvaluationError,
    Settings,
    predict,
    references_of,
    score,
    storable,
    table,
    write_json,
)
from ..evaluation.score_files import label_words
from .arguments import (
    OK,
    SOME_FAILED,
    add_answer_options,
    add_clip_options,
    add_engine_options,
    add_loading_options,
    add_row_options,
    add_worker_option,
    chosen,
    positive_int,
    report_share,
)
from .metric_options import add_metric_options, settings_of
from .predict import ray_engine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description += (
        " Writes OUTPUT/predictions.jsonl (row by row; run again to continue) and OUTPUT/scores.json, and prints a "
        "table. Exit code 1: some clips could not be described."
    )
    parser.add_argument("--model", required=True, help="model folder or Hub id")
    add_row_options(parser)
    parser.add_argument(
        "--metrics", required=True, nargs="+", choices=METRICS, metavar="METRIC", help=", ".join(METRICS)
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="folder for answers and scores")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="only the first N rows (default: all)")
    add_answer_options(parser)
    add_worker_option(parser)
    add_clip_options(parser)
    add_loading_options(parser)
    add_engine_options(parser)
    add_metric_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run a model on data and score it; returns 0, or 1 if some clips could not be described."""
    from ..data.rows import read_rows
    from ..inference import Describer, load

    settings = settings_of(args)
    rows = read_rows(args.data, args.split, args.media_root, allow_urls=args.allow_urls)[: args.limit]
    if not rows:
        raise EvaluationError(f"--data {args.data} holds no rows")
    # What the metrics need is checked before the model runs for hours.
    references = {name: references_of(name, rows) for name in args.metrics}
    for name in args.metrics:
        METRICS[name].clips([], [], settings, [])

    options = chosen(args, "num_frames", "modalities", "max_new_tokens", "num_beams")
    answer = engine = None
    if args.engine == "ray":
        engine = ray_engine(args, per_utterance=False, **options)
    else:
        model, processor = load(args.model, device=args.device, trust_remote_code=args.trust_remote_code)
        reading = {"batch_size": args.batch_size, "num_workers": args.num_workers}
        answer = Describer(model, processor, per_utterance=False, **reading, **options)
    record = {"model": args.model, "data": str(args.data), "split": args.split, "question": args.question, **options}
    path = args.output / "predictions.jsonl"
    running = {"progress": sys.stderr.isatty(), "engine": engine, "allow_urls": args.allow_urls}
    answers = predict(rows, answer, path, record, args.batch_size, args.question, **running)
    report_share(answers)
    if not answers.processes.is_first:
        return OK
    return score_answers(args.metrics, answers, rows, references, settings, args)


def score_answers(metrics, answers, rows, references, settings: Settings, args) -> int:
    """Score the answers of a model with every metric; writes OUTPUT/scores.json and prints the tables."""
    failed = [answer for answer in answers if "error" in answer]
    reports = {}
    try:
        for name in metrics:
            columns = ("description",) if name in ("emotion_recognition", "mer_challenge") else METRICS[name].predicted
            # A clip that could not be described has no answer; it is scored as such, not left out.
            predictions = {
                answer["id"]: next((label_words(answer[key]) for key in columns if answer.get(key) is not None), None)
                for answer in answers
            }
            report = score(
                name, predictions, references[name], settings, args.bootstrap, not args.no_baselines, seed=args.seed
            )
            report["n_failed"] = len(failed)
            report["n_no_reference"] = len(rows) - len(references[name])
            reports[name] = report
            print(table(report), end="\n\n")
    finally:
        settings.cache.save()
    content = {"model": str(args.model), "data": str(args.data), "split": args.split, "metrics": storable(reports)}
    write_json(args.output / "scores.json", content)
    for answer in failed:
        print(f"not described: {answer['id']}: {answer['error']}")
    return SOME_FAILED if failed else OK
