"""`hf-emotion init`."""

import argparse
from pathlib import Path

from ..auto import MODELS
from ..data.files import replacing
from .arguments import OK, chosen, count_parameters, parse_fields

SIZES = ("tiny", "paper")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", choices=MODELS, metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument(
        "--parts",
        nargs="+",
        metavar="PART=SOURCE",
        help="published checkpoints to assemble it from, each a folder or Hub id, such as "
        "vision=google/siglip-base-patch16-384 text=Qwen/Qwen3-0.6B; 'open' stands for these and a small Whisper "
        "(default: random weights)",
    )
    parser.add_argument(
        "--size", choices=SIZES, default="tiny", help="of random weights; paper has billions of parameters"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="folder to write; new or empty")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random weights")
    parser.add_argument(
        "--tokenizer",
        metavar="SOURCE",
        help="folder or Hub id of the language model's tokenizer (default: the part's own; a small one at tiny size)",
    )
    parser.add_argument(
        "--qformer-tokenizer",
        metavar="SOURCE",
        help="the same for the image Q-Former's tokenizer (default: a small one at tiny size)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a field of the configuration, such as an ablation: use_utterances=false (default: the paper's values)",
    )


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
    parts.update(parse_fields([word for word in words if word != "open"], "--parts"))
    unknown = sorted(set(parts) - set(accepted))
    if unknown:
        raise ValueError(f"--parts {unknown[0]}: {name} has no such part; accepted are {', '.join(accepted)}")
    return parts


def run(args) -> int:
    """Write a model folder; returns 0."""
    from transformers import AutoTokenizer

    from ..papers import build
    from ..parts import from_pretrained_parts

    if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        raise ValueError(f"--output {args.output} exists and is not empty; a new or empty folder is accepted")
    sources = chosen(args, "tokenizer", "qformer_tokenizer")
    if args.parts is not None:
        parts = {**parts_of(args.name, args.parts), **sources}
        model, processor = from_pretrained_parts(args.name, **parts, **parse_fields(args.set))
        print(model.parts_report)
        kind = "from published parts"
    else:
        tokenizers = {
            name: AutoTokenizer.from_pretrained(source, trust_remote_code=False) for name, source in sources.items()
        }
        model, processor = build(args.name, args.size, seed=args.seed, **tokenizers, **parse_fields(args.set))
        kind = f"at {args.size} size with random weights"
    with replacing(args.output, overwrite=False) as unfinished:
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
    size = sum(file.stat().st_size for file in args.output.rglob("*") if file.is_file())
    print(f"{args.output}: {args.name} {kind}, {count_parameters(model):,} parameters, {size / 1e6:.1f} MB")
    return OK
