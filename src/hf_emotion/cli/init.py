"""`hf-emotion init`."""

import argparse
import json
from pathlib import Path

from ..data.files import replacing
from .arguments import OK, count_parameters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="microemo or acoustemo")
    parser.add_argument("--size", default="tiny", help="tiny (default) or paper (billions of weights)")
    parser.add_argument("--output", required=True, type=Path, help="folder to write; must not exist or be empty")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default 0)")
    parser.add_argument("--tokenizer", help="folder or Hub id of the language model's tokenizer (paper size)")
    parser.add_argument("--qformer-tokenizer", help="folder or Hub id of the image Q-Former's tokenizer (paper size)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="a configuration field, such as an ablation"
    )


def fields_of(pairs: list[str]) -> dict:
    """`["use_regions=false"]` -> `{"use_regions": False}`; what is no JSON is text."""
    fields = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--set {pair}: found no '='; FIELD=VALUE is accepted")
        try:
            fields[name] = json.loads(value)
        except json.JSONDecodeError:
            fields[name] = value
    return fields


def run(args) -> int:
    from transformers import AutoTokenizer

    from ..papers import build

    if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        raise ValueError(f"--output {args.output} exists and is not empty; a new or empty folder is accepted")
    tokenizers = {
        name: AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        for name, source in (("tokenizer", args.tokenizer), ("qformer_tokenizer", args.qformer_tokenizer))
        if source is not None
    }
    model, processor = build(args.name, args.size, seed=args.seed, **tokenizers, **fields_of(args.set))
    with replacing(args.output, overwrite=False) as unfinished:
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
    size = sum(file.stat().st_size for file in args.output.rglob("*") if file.is_file())
    print(
        f"{args.output}: {args.name} at {args.size} size with random weights, {count_parameters(model):,} parameters, "
        f"{size / 1e6:.1f} MB"
    )
    return OK
