"""`hf-emotion convert`."""

import argparse
from importlib import import_module
from inspect import signature
from pathlib import Path

from .arguments import OK, parse_fields

# Name of a published checkpoint -> its module in `hf_emotion.convert`, and the command that its folder is for.
CHECKPOINTS = {
    "affectgpt": ("convert_affectgpt_to_hf", "init affectgpt --parts affectgpt="),
    "emotion-llama": ("convert_emotion_llama_to_hf", "init esva --parts emotion_llama="),
    "emotion-llama-v2": ("convert_emotion_llama_v2_to_hf", "init emotion_llama_v2 --parts emotion_llama_v2="),
    "eva-vit": ("convert_eva_vit_to_hf", "init microemo --parts vision="),
    "facexformer": ("convert_facexformer_to_hf", "init omni_emotion --parts face="),
    "humanomni": ("convert_humanomni_to_hf", "init humanomni --parts humanomni="),
    "imagebind-audio": ("convert_imagebind_audio_to_hf", "init acoustemo --parts audio="),
    "video-llama": ("convert_videollama_qformer_to_hf", "init microemo --parts video_llama="),
    "pickle": ("convert_pickle_to_safetensors", "predict CLIP --model "),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Rename the tensors of a published checkpoint by a strict table and write a folder that "
        "`hf-emotion init --parts` reads. A checkpoint of another model, or one with unknown tensors, is refused. "
        "pickle rewrites a model folder with .bin weights as safetensors."
    )
    parser.add_argument("name", choices=CHECKPOINTS, metavar="NAME", help=", ".join(CHECKPOINTS))
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="weights or the published folder; a later file overrides"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="folder to write; new or empty")
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="read .pth and .bin files; a pickle can run code of its author, so only for files you trust",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a size that the weights do not hold, such as num_attention_heads=12 (default: as published)",
    )


def run(args: argparse.Namespace) -> int:
    """Convert a checkpoint; returns 0."""
    module, following = CHECKPOINTS[args.name]
    convert = import_module(f"..convert.{module}", __package__).convert
    sizes, accepted = parse_fields(args.set), list(signature(convert).parameters)[3:]
    for name in sizes:
        if name not in accepted:
            raise ValueError(f"--set {name}: {args.name} takes {', '.join(accepted) or 'no sizes'}")
    print(convert(args.files, args.output, args.allow_pickle, **sizes))
    print(f"{args.output}: continue with hf-emotion {following}{args.output} ...")
    return OK
