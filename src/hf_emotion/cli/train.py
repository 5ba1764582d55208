"""`hf-emotion train`."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from ..training.recipe import Recipe, RecipeError, read_recipe, recipe_names, recipes_of
from ..training.train import TrainingError, run_phases


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Each phase starts from the folder that the one before it wrote: OUTPUT/phase_1, phase_2, ..."
    parser.add_argument(
        "recipe", nargs="+", help="a paper (omni_emotion, emotion_llama: all its phases), or recipes by name or file"
    )
    parser.add_argument("--data", required=True, help="rows: what hf-emotion build or make_demo wrote")
    parser.add_argument("--split", help="split of the rows (default: train, or the only one)")
    parser.add_argument("--eval-split", help="rows to evaluate on after each epoch, by loss and by generated answers")
    parser.add_argument("--media-root", help="folder that the rows' media paths start from")
    parser.add_argument("--output", required=True, type=Path, help="folder for the phases; must be new or empty")
    parser.add_argument("--resume", action="store_true", help="continue a run that was interrupted, in its --output")
    # Not --start, which torchrun would take for its own --start-method.
    parser.add_argument("--start-from", help="folder or Hub id to start from (default: random weights, tiny size only)")
    parser.add_argument("--size", default="paper", choices=("tiny", "paper"), help="whose values of a recipe to use")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a field of the recipes (epochs=1), or of transformers' TrainingArguments (bf16=true, save_steps=100)",
    )
    parser.add_argument("--tasks", nargs="+", help="ask these instead of the recipe's (recognition, clues, ...)")
    parser.add_argument("--options", nargs="+", metavar="LABEL", help="closed set of recognition (default: the labels)")
    parser.add_argument("--features", help="folder that hf-emotion cache wrote: towers do not run")
    parser.add_argument("--skip-bad-rows", action="store_true", help="leave out rows that cannot be used; they count")
    parser.add_argument("--early-stopping", type=int, metavar="N", help="end after N evaluations without improvement")
    parser.add_argument("--four-bit", action="store_true", help="QLoRA: the language model in four bits (bitsandbytes)")
    parser.add_argument("--base-id", metavar="REPO", help="Hub id that an adapter names as its base")
    parser.add_argument("--per-device-batch-size", type=int, help="gradients are accumulated to the recipe's batch")
    parser.add_argument("--seed", type=int, default=0)


def settings_of(pairs: Sequence[str]) -> tuple[dict, dict]:
    """`["epochs=1", "bf16=true"]` -> changes of the recipe, and of `TrainingArguments`.

    Raises:
        TrainingError: no `=`, or a name that neither has.
    """
    from transformers import TrainingArguments

    changes, arguments = {}, {}
    of_recipe = {item.name for item in fields(Recipe)} - {"name", "model", "phase"}
    of_trainer = {item.name for item in fields(TrainingArguments) if item.init}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or name not in of_recipe | of_trainer:
            raise TrainingError(
                f"--set {pair}: KEY=VALUE is accepted, with a field of TrainingArguments or one of "
                f"{', '.join(sorted(of_recipe))}"
            )
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        (changes if name in of_recipe else arguments)[name] = value
    return changes, arguments


def run(args) -> int:
    """`hf-emotion train`."""
    from ..data.rows import read_rows
    from ..papers import build

    changes, arguments = settings_of(args.set)
    recipes = []
    for name in args.recipe:
        several = recipe_names(name)
        recipes += recipes_of(name, args.size, **changes) if several else [read_recipe(name, args.size, **changes)]
    if args.tasks:
        # Only what is tuned last is asked otherwise; what is aligned before keeps its own questions.
        recipes[-1] = replace(recipes[-1], tasks=args.tasks)
    models = {recipe.model for recipe in recipes}
    if len(models) > 1:
        raise RecipeError(f"the recipes are for {' and '.join(sorted(models))}; those of one model are accepted")
    main_process = os.environ.get("RANK", "0") == "0"
    taken = main_process and not args.resume and args.output.exists()
    if taken and (not args.output.is_dir() or any(args.output.iterdir())):
        raise TrainingError(
            f"--output {args.output} exists and is not empty; a new or empty folder is accepted, or --resume"
        )
    rows = read_rows(args.data, args.split, args.media_root, default_split="train")
    eval_rows = read_rows(args.data, args.eval_split, args.media_root) if args.eval_split else None
    start = args.start_from
    if start is None:
        if args.size != "tiny":
            raise TrainingError(
                "at paper size give --start-from: a folder that from_pretrained_parts and save_pretrained made"
            )
        start = args.output / "start"
        if not (start / "processor_config.json").is_file():
            # Each process makes the same one, and only whole folders are seen.
            model, processor = build(models.pop(), "tiny", seed=args.seed, **recipes[0].fields)
            unfinished = start.with_name(f".start.{os.getpid()}")
            model.save_pretrained(unfinished)
            processor.save_pretrained(unfinished)
            try:
                os.replace(unfinished, start)
            except OSError:
                shutil.rmtree(unfinished)
    reports = run_phases(
        start,
        rows,
        recipes,
        args.output,
        resume=args.resume,
        quantize=args.four_bit,
        options=args.options,
        seed=args.seed,
        per_device_batch_size=args.per_device_batch_size,
        remember=args.size == "tiny",
        features=args.features,
        eval_rows=eval_rows,
        early_stopping=args.early_stopping,
        skip_bad_rows=args.skip_bad_rows,
        base_id=args.base_id,
        **arguments,
    )
    for report in reports if main_process else []:
        loss = report["loss"]
        for reason in report["skipped"]:
            print(f"skipped {reason}", file=sys.stderr)
        print(
            f"{report['recipe']['name']}: {report['questions']} questions, {len(report['skipped'])} rows skipped, "
            f"{len(loss)} steps, loss {loss[0]:.3f} -> {loss[-1]:.3f}, {report['seconds']:.0f} s, {report['folder']}"
        )
    return 0
