"""`hf-emotion cache`."""

import argparse
import sys
from pathlib import Path

from ..data.rows import read_rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "An interrupted run continues. Give training the same data, frames and modalities."
    parser.add_argument("model", help="a model folder or Hub id")
    parser.add_argument("--data", required=True, help="rows: what hf-emotion build or make_demo wrote")
    parser.add_argument("--split", help="of the rows; needed where there are several")
    parser.add_argument("--media-root", help="folder that the rows' media paths start from")
    parser.add_argument("--output", required=True, type=Path, help="folder; new, or of an earlier run")
    parser.add_argument("--num-frames", type=int, help="of each clip (default: the model's)")
    parser.add_argument("--modalities", nargs="+", metavar="NAME", help="what to take of the clips (default: all)")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that decode (default 0: this one)")
    parser.add_argument("--skip-bad-rows", action="store_true", help="leave out clips that cannot be read; they count")
    parser.add_argument("--device", help="such as cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("--dtype", default="auto", help="of the towers, such as bfloat16 (default: the folder's)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the code of the model's repository")


def run(args) -> int:
    """`hf-emotion cache`."""
    from ..inference import load
    from ..training.cache import FeatureCache

    rows = read_rows(args.data, args.split, args.media_root, default_split="train")
    model, processor = load(args.model, device=args.device, dtype=args.dtype, trust_remote_code=args.trust_remote_code)
    options = {"num_frames": args.num_frames, "modalities": args.modalities}
    cache = FeatureCache.build(
        args.output,
        model,
        processor,
        rows,
        num_workers=args.num_workers,
        skip_bad_rows=args.skip_bad_rows,
        progress=sys.stderr.isatty(),
        **{name: value for name, value in options.items() if value is not None},
    )
    for reason in cache.skipped:
        print(f"skipped {reason}", file=sys.stderr)
    size = sum(path.stat().st_size for path in args.output.glob("features-*.arrow"))
    print(f"{len(cache)} clips, {size / 2**20:.1f} MB, {len(cache.skipped)} skipped: {args.output}")
    return 0
