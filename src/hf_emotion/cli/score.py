"""`hf-emotion score`."""

import argparse
import json

from ..evaluation import classes
from ..evaluation.evaluate import METRICS, score, storable, table, write_json
from ..evaluation.score_files import read_cells
from .arguments import OK
from .metric_options import add_metric_options, settings_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description += " Files: the official formats (csv, npz, npy folder or zip, txt), json, jsonl."
    parser.add_argument("metric", metavar="METRIC", choices=METRICS, help=", ".join(METRICS))
    parser.add_argument("--predictions", required=True, metavar="FILE", help="answers of the system")
    parser.add_argument("--references", required=True, metavar="FILE", help="what they should be")
    parser.add_argument(
        "--against", metavar="FILE", help="predictions of a second system to compare with (default: none)"
    )
    parser.add_argument("--column", metavar="NAME", help="value column of the predictions (default: the usual ones)")
    parser.add_argument("--reference-column", metavar="NAME", help="that of the references (default: the usual ones)")
    parser.add_argument("--output", metavar="FILE", help="JSON file for the report (default: only print it)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead of a table")
    add_metric_options(parser)


def run(args: argparse.Namespace) -> int:
    """Score files; returns 0."""
    metric, settings = METRICS[args.metric], settings_of(args)
    predicted = (args.column,) if args.column else metric.predicted
    reference = (args.reference_column,) if args.reference_column else metric.reference
    predictions, references = read_cells(args.predictions, predicted), read_cells(args.references, reference)
    if settings.track in classes.VALENCE_TRACKS:
        settings.predicted_valence = read_cells(args.predictions, ("valence", "val"), optional=True)
        settings.valence = read_cells(args.references, ("valence", "val"), optional=True)
    try:
        report = score(
            args.metric,
            predictions,
            references,
            settings,
            args.bootstrap,
            not args.no_baselines,
            read_cells(args.against, predicted) if args.against else None,
            args.seed,
        )
    finally:
        settings.cache.save()
    report |= {"predictions": str(args.predictions), "references": str(args.references)}
    if args.output:
        write_json(args.output, storable(report))
    print(json.dumps(storable(report), ensure_ascii=False, indent=2, sort_keys=True) if args.json else table(report))
    return OK
