"""`hf-emotion info`."""

import argparse
import json
from pathlib import Path

from ..auto import MODELS
from .arguments import OK, count_parameters, positive_int
from .init import SIZES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="MODEL", help=f"{', '.join(MODELS)}; or a folder or Hub id")
    parser.add_argument("--size", choices=SIZES, help="size of a named model (default: tiny)")
    parser.add_argument("--frames", type=positive_int, default=8, metavar="N", help="frames per clip, for the tokens")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args) -> int:
    """Print a model's parts; returns 0."""
    import torch
    from transformers import AutoConfig, AutoModelForMultimodalLM

    from ..papers import PAPERS, tiny_tokenizer

    if args.name in PAPERS:
        size = args.size or "tiny"
        vocabulary = {"vocab_size": len(tiny_tokenizer())} if size == "tiny" else {}
        config = PAPERS[args.name].config(size, **vocabulary)
    elif args.size is not None:
        raise ValueError(f"--size needs the name of a model ({', '.join(PAPERS)}), not {args.name!r}")
    elif not Path(args.name).exists() and "/" not in args.name:
        raise ValueError(f"{args.name!r} is not a model ({', '.join(PAPERS)}), a folder or a Hub id")
    else:
        size = None
        try:
            config = AutoConfig.from_pretrained(args.name, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"{args.name} cannot be read: {' '.join(str(error).split())[:300]}") from error
    # No memory is taken: only shapes are made.
    with torch.device("meta"):
        model = AutoModelForMultimodalLM.from_config(config)
    parts = [
        {**part, "training": "frozen" if part["part"] in model.frozen_parts else "trained"} for part in parts_of(model)
    ]
    tokens = [{"frames": args.frames, "utterances": n, **config.tokens_per_clip(args.frames, n)} for n in (0, 1, 3, 10)]
    result = {
        "model": config.model_type,
        "source": args.name,
        "size": size,
        "parameters": count_parameters(model),
        "parts": parts,
        "tokens_per_clip": tokens,
        "token_choices": config.token_choices(args.frames),
        "base": base_of(PAPERS[args.name], parts) if size == "paper" else None,
        "clip": clip_of(model, args.frames),
    }
    if args.json:
        print(json.dumps(result, indent=2))
        return OK
    print(f"{config.model_type}{f' at {size} size' if size else ''}: {result['parameters']:,} parameters")
    print(f"\n{'part':<26}{'class':<35}{'parameters':>15}  as in the paper")
    for part in parts:
        adapted = part["part"] == "language_model" and part["training"] == "frozen"
        note = f"{part['training']}{' (LoRA)' if adapted else ''}"
        print(f"{part['part']:<26}{part['class']:<35}{part['parameters']:>15,}  {note}")
    print(
        f"\ntokens per clip of {args.frames} frames: utterances" + "".join(f"{row['utterances']:>7}" for row in tokens)
    )
    for name in config.tokens_per_clip(args.frames, 0):
        print(f"{name:>44}" + "".join(f"{row[name]:>7}" for row in tokens))
    for setting, counts in result["token_choices"].items():
        kinds = ", ".join(f"{kind} {number:,}" for kind, number in counts.items())
        print(f"{setting:>44}  {sum(counts.values()):>7,}: {kinds}")
    if result["clip"]:
        clip = result["clip"]
        size_mb = sum(tower["cached_bytes_bfloat16"] for tower in clip["towers"].values()) / 2**20
        kind = f"{args.frames} frames and {clip['seconds']:g} s of sound"
        print(f"\na clip of {kind}: {size_mb:.2f} MB of features in bfloat16")
        for name, tower in clip["towers"].items():
            print(f"{name:<26}{tower['tflop']:>10.3f} TFLOP{tower['cached_bytes_bfloat16'] / 2**20:>10.2f} MB")
    if result["base"]:
        base = result["base"]
        print(f"\nstarts from {base['checkpoint']}: {base['parameters']:,} parameters; to the language model it adds")
        for name, added in base["adds"].items():
            print(f"{name:<54}{added:>15,}")
    return OK


def parts_of(model) -> list[dict]:
    """Parts of a generating model, its head with the language model, bare parameters last; and what is in each part."""
    parts = []
    for name, module in model.model.named_children():
        modules = [module, model.lm_head] if name == "language_model" else [module]
        inside = {child: count_parameters(part) for child, part in module.named_children()}
        parts.append(
            {"part": name, "class": type(module).__name__, "parameters": count_parameters(*modules), "inside": inside}
        )
    for name, parameter in model.model.named_parameters(recurse=False):
        parts.append({"part": name, "class": "Parameter", "parameters": parameter.numel(), "inside": {}})
    return parts


def clip_of(model, frames: int, seconds: float = 5.0) -> dict | None:
    """What a clip costs each tower, and the bytes of its cached features; `None` for a model whose towers are tiny."""
    from ..costs import tower_costs

    try:
        towers = tower_costs(model, frames, seconds)
    except ValueError:
        return None
    counted = {tower.name: {"tflop": tower.flop / 1e12, "cached_bytes_bfloat16": tower.bytes} for tower in towers}
    return {"frames": frames, "seconds": seconds, "towers": counted}


def base_of(paper, parts: list[dict]) -> dict | None:
    """The published checkpoint that a paper's model starts from, and what it adds to the paper's language model."""
    import torch
    from transformers import AutoModelForImageTextToText

    if paper.base is None:
        return None
    checkpoint, config = paper.base[0], paper.base[1]()
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    adds = {part["part"]: part["parameters"] for part in parts_of(model)}
    [language_model] = [part["parameters"] for part in parts if part["part"] == "language_model"]
    words = adds.pop("language_model") - language_model
    adds[f"vocabulary of {config.text_config.vocab_size:,}"] = words
    return {"checkpoint": checkpoint, "parameters": count_parameters(model), "adds": adds}
