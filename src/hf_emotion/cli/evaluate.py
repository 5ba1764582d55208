"""`hf-emotion evaluate`."""

import argparse
import sys
from functools import partial
from pathlib import Path

from ..data.rows import read_rows
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
from .arguments import OK, SOME_FAILED
from .metric_options import add_metric_options, settings_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Writes OUTPUT/predictions.jsonl (row by row; run again to go on after an interruption) and "
        "OUTPUT/scores.json, and prints a table. Exit code 1: some clips could not be described."
    )
    parser.add_argument("--model", required=True, help="a model folder or Hub id")
    parser.add_argument("--data", required=True, help="jsonl, json or csv table, folder of clips, or saved dataset")
    parser.add_argument("--metrics", required=True, nargs="+", metavar="METRIC", help=", ".join(METRICS))
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--split", help="which split of the data")
    parser.add_argument("--media-root", metavar="FOLDER", help="folder of the clips (default: as the data says)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N rows")
    parser.add_argument("--question", help="asked of every clip (default: the row's question, or the model's own)")
    parser.add_argument("--num-frames", type=int, help="frames to look at (default: the model's)")
    parser.add_argument("--modalities", nargs="+", metavar="NAME", help="what to use: video, audio (default: all)")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="length limit of an answer (default 128)")
    parser.add_argument("--num-beams", type=int, default=1, help="beam search with that many beams (default greedy)")
    parser.add_argument("--batch-size", type=int, default=4, help="clips generated together (default 4)")
    parser.add_argument("--device", help="such as cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the code of the model's repository")
    add_metric_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run a model on data and score it; returns 0, or 1 where some clips could not be described."""
    from ..inference import describe, load

    unknown = [name for name in args.metrics if name not in METRICS]
    if unknown:
        raise EvaluationError(f"metric {unknown[0]!r} is not one of {', '.join(METRICS)}")
    settings = settings_of(args)
    rows = read_rows(args.data, args.split, args.media_root)[: args.limit]
    if not rows:
        raise EvaluationError(f"--data {args.data} holds no rows")
    # What the metrics need is checked before the model runs for hours.
    references = {name: references_of(name, rows) for name in args.metrics}
    for name in args.metrics:
        METRICS[name].clips([], [], settings, [])

    model, processor = load(args.model, device=args.device, trust_remote_code=args.trust_remote_code)
    options = {"num_frames": args.num_frames, "modalities": args.modalities}
    asking = {"max_new_tokens": args.max_new_tokens, "num_beams": args.num_beams}
    options = {key: value for key, value in options.items() if value is not None}
    answers = predict(
        rows,
        partial(
            describe,
            model=model,
            processor=processor,
            batch_size=args.batch_size,
            per_utterance=False,
            **options,
            **asking,
        ),
        args.output / "predictions.jsonl",
        {
            "model": args.model,
            "data": str(args.data),
            "split": args.split,
            "question": args.question,
            **options,
            **asking,
        },
        args.batch_size,
        args.question,
        progress=sys.stderr.isatty(),
    )
    return score_answers(args.metrics, answers, rows, references, settings, args)


def score_answers(metrics, answers, rows, references, settings: Settings, args) -> int:
    """Score the answers of a model with every metric; writes OUTPUT/scores.json and prints the tables."""
    failed = [answer for answer in answers if "error" in answer]
    reports = {}
    try:
        for name in metrics:
            # A clip that could not be described answered nothing; it is scored as such, not left out.
            predictions = {
                answer["id"]: next(
                    (label_words(answer[key]) for key in METRICS[name].predicted if answer.get(key) is not None), None
                )
                for answer in answers
            }
            if name in ("emotion_recognition", "mer_challenge"):
                predictions = {answer["id"]: answer.get("description") for answer in answers}
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
