"""`hf-emotion init`."""

import argparse
import json
from pathlib import Path

from ..data.files import replacing
from .arguments import OK, count_parameters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="a model's name, such as acoustemo; a wrong one lists them all")
    parser.add_argument(
        "--parts",
        nargs="+",
        metavar="PART=SOURCE",
        help="assemble it from published checkpoints, each a folder or Hub id, such as vision=google/siglip-base-"
        "patch16-384 audio=openai/whisper-small text=Qwen/Qwen3-0.6B; the word open stands for just these",
    )
    parser.add_argument("--size", default="tiny", help="tiny (default) or paper (billions of weights)")
    parser.add_argument("--output", required=True, type=Path, help="folder to write; must not exist or be empty")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default 0)")
    parser.add_argument("--tokenizer", help="folder or Hub id of the language model's tokenizer (paper size)")
    parser.add_argument("--qformer-tokenizer", help="folder or Hub id of the image Q-Former's tokenizer (paper size)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="a configuration field, such as an ablation"
    )


def split(option: str, pairs: list[str]) -> list[tuple[str, str]]:
    """`["use_regions=false"]` -> `[("use_regions", "false")]`."""
    for pair in pairs:
        if "=" not in pair:
            raise ValueError(f"{option} {pair}: found no '='; NAME=VALUE is accepted")
    return [tuple(pair.split("=", 1)) for pair in pairs]


def fields_of(pairs: list[str]) -> dict:
    """`["use_regions=false"]` -> `{"use_regions": False}`; a value that is not JSON is text."""
    fields = {}
    for name, value in split("--set", pairs):
        try:
            fields[name] = json.loads(value)
        except json.JSONDecodeError:
            fields[name] = value
    return fields


def parts_of(name: str, words: list[str]) -> dict[str, str]:
    """`["open", "text=Qwen/Qwen3-4B"]` -> the open parts of a model with another language model.

    Raises:
        ValueError: a part that the model does not have, or no open parts for it.
    """
    from ..parts import OPEN_PARTS, part_names

    accepted = part_names(name)
    parts = {}
    if "open" in words:
        if name not in OPEN_PARTS:
            raise ValueError(f"--parts open: {name} has no open parts; accepted are {', '.join(OPEN_PARTS)}")
        parts = dict(OPEN_PARTS[name])
    parts.update(split("--parts", [word for word in words if word != "open"]))
    unknown = sorted(set(parts) - set(accepted))
    if unknown:
        raise ValueError(f"--parts {unknown[0]}: {name} has no such part; accepted are {', '.join(accepted)}")
    return parts


def run(args) -> int:
    from transformers import AutoTokenizer

    from ..papers import build
    from ..parts import from_pretrained_parts

    if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        raise ValueError(f"--output {args.output} exists and is not empty; a new or empty folder is accepted")
    given = {"tokenizer": args.tokenizer, "qformer_tokenizer": args.qformer_tokenizer}
    given = {name: source for name, source in given.items() if source is not None}
    if args.parts is not None:
        parts = {**parts_of(args.name, args.parts), **given}
        model, processor = from_pretrained_parts(args.name, **parts, **fields_of(args.set))
        print(model.parts_report)
        kind = "from published parts"
    else:
        tokenizers = {
            name: AutoTokenizer.from_pretrained(source, trust_remote_code=False) for name, source in given.items()
        }
        model, processor = build(args.name, args.size, seed=args.seed, **tokenizers, **fields_of(args.set))
        kind = f"at {args.size} size with random weights"
    with replacing(args.output, overwrite=False) as unfinished:
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
    size = sum(file.stat().st_size for file in args.output.rglob("*") if file.is_file())
    print(f"{args.output}: {args.name} {kind}, {count_parameters(model):,} parameters, {size / 1e6:.1f} MB")
    return OK
