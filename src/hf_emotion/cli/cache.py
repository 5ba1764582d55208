"""`hf-emotion cache`."""

import argparse
import sys
from pathlib import Path

from .arguments import (
    OK,
    add_clip_options,
    add_engine_options,
    add_loading_options,
    add_row_options,
    add_worker_option,
    chosen,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description += " An interrupted run continues. Train with the same data, frames and modalities."
    parser.add_argument("model", metavar="MODEL", help="model folder or Hub id")
    add_row_options(parser)
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="folder to write or continue")
    add_clip_options(parser)
    add_worker_option(parser)
    parser.add_argument("--skip-bad-rows", action="store_true", help="skip unusable clips and report them")
    add_loading_options(parser)
    add_engine_options(parser)
    parser.add_argument("--dtype", default="auto", help="of the towers, such as bfloat16; auto is the model's")
    parser.add_argument(
        "--storage",
        choices=("full", "bfloat16", "int8"),
        default="full",
        help="of the features: bfloat16 is recommended for large data, int8 takes half of that; the error is measured "
        "and printed (default: full, as they are computed)",
    )


def run(args: argparse.Namespace) -> int:
    """Compute or complete a feature cache; returns 0."""
    from ..data.rows import read_rows
    from ..data.shares import processes
    from ..inference import load
    from ..training.cache import FeatureCache

    rows = read_rows(args.data, args.split, args.media_root, default_split="train", allow_urls=args.allow_urls)
    loading = {"device": args.device, "dtype": args.dtype, "trust_remote_code": args.trust_remote_code}
    options = {
        "skip_bad_rows": args.skip_bad_rows,
        "allow_urls": args.allow_urls,
        **chosen(args, "num_frames", "modalities"),
    }
    if args.engine == "ray":
        if args.storage != "full":
            raise ValueError(
                f"--storage {args.storage} is not available with --engine ray; give --dtype bfloat16 instead"
            )
        from .. import cluster

        cluster.connect(args.address)
        cache = cluster.build_cache(args.output, args.model, rows, actors=args.actors, **loading, **options)
    else:
        model, processor = load(args.model, **loading)
        options |= {"num_workers": args.num_workers, "progress": sys.stderr.isatty(), "storage": args.storage}
        cache = FeatureCache.build(args.output, model, processor, rows, **options)
    for reason in cache.skipped:
        print(f"skipped {reason}", file=sys.stderr)
    share = processes()
    if share.count > 1:
        print(f"process {share.rank + 1} of {share.count}: {cache.added} rows", file=sys.stderr)
    if not share.is_first:
        return OK
    size = sum(path.stat().st_size for path in args.output.glob("features-*.arrow"))
    each = f"{size / 2**20:.1f} MB ({size / max(1, len(cache)) / 2**20:.2f} MB a clip)"
    print(f"{len(cache)} clips, {each}, {len(cache.skipped)} skipped: {args.output}")
    if cache.storage_error is not None:
        print(f"stored as {args.storage}: states differ by {cache.storage_error:.2%} of their size (RMS)")
    return OK
