"""`hf-emotion train`."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from ..data.files import did_you_mean, replacing
from ..training.recipe import Recipe, RecipeError, read_recipe, recipe_names, recipes_of
from .arguments import add_url_option, parse_fields


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Each phase starts from the folder that the one before it wrote: OUTPUT/phase_1, phase_2, ..."
    parser.add_argument(
        "recipe",
        nargs="+",
        help="microemo, acoustemo, omni_emotion, esva or emotion_llama: all its phases; starter (the model in the "
        "box); or recipes by name or file",
    )
    parser.add_argument(
        "--data",
        required=True,
        action="append",
        metavar="[PHASE=]PATH",
        help="rows: a table, a folder of clips, or what hf-emotion build or review wrote. Give it several times to "
        "join data, or with a phase (--data 1=captions --data 3=sre --data 3=hre) for data of its own",
    )
    parser.add_argument(
        "--split",
        action="append",
        default=[],
        metavar="[PHASE=]NAME[,NAME]",
        help="splits of the rows, or all (default: train, or the only one there is)",
    )
    parser.add_argument(
        "--eval-split",
        action="append",
        default=[],
        metavar="[PHASE=]NAME",
        help="rows to evaluate on after each epoch, by loss and by generated answers (default: none)",
    )
    parser.add_argument("--media-root", help="folder that the rows' media paths start from (default: the table's)")
    add_url_option(parser)
    parser.add_argument("--output", required=True, type=Path, help="folder for the phases; must be new or empty")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run in its --output")
    # Not --start, which torchrun would take for its own --start-method.
    parser.add_argument(
        "--start-from",
        help="folder or Hub id to start from (default: random weights, tiny size only; for starter, its own weights)",
    )
    parser.add_argument(
        "--size",
        choices=("tiny", "paper"),
        help="whose values of a recipe to use (default: those that fit the model in --start-from)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a field of the recipes (epochs=1), of TrainingArguments (bf16=true), of the processor (window_seconds=2) "
        "or, for random weights, of the model's configuration (use_regions=false) (default: nothing)",
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        help="ask these in the last phase: recognition, open_vocabulary, clues, tracing (default: the recipe's)",
    )
    parser.add_argument("--options", nargs="+", metavar="LABEL", help="closed set of recognition (default: the labels)")
    parser.add_argument(
        "--features", help="folder that hf-emotion cache wrote; the towers are then not run (default: none)"
    )
    parser.add_argument("--skip-bad-rows", action="store_true", help="skip unusable rows and report them")
    parser.add_argument(
        "--early-stopping", type=int, metavar="N", help="stop after N evaluations without gain (default: never)"
    )
    parser.add_argument("--four-bit", action="store_true", help="QLoRA: the language model in four bits (bitsandbytes)")
    parser.add_argument(
        "--base-id", metavar="REPO", help="Hub id that an adapter names as its base (default: where it is from)"
    )
    parser.add_argument(
        "--per-device-batch-size",
        type=int,
        metavar="N",
        help="accumulate gradients up to the recipe's batch (default: that)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights, questions and order")


def route_fields(model: str, values: dict) -> dict[str, dict]:
    """Values of `--set` by where they belong: "recipe", "processor", "config" or "trainer".

    Raises:
        ValueError: a name that none of them has; the most similar one is named.
    """
    from transformers import TrainingArguments

    from ..papers import split_fields

    names = {
        "recipe": {item.name for item in fields(Recipe)} - {"name", "model", "phase", "fields"},
        "trainer": {item.name for item in fields(TrainingArguments) if item.init},
    }
    routed = {"recipe": {}, "trainer": {}, "config": {}, "processor": {}}
    for name, value in values.items():
        place = next((place for place, known in names.items() if name in known), None)
        if place is not None:
            routed[place][name] = value
            continue
        try:
            config, processor = split_fields(model, {name: value})
        except ValueError as error:
            # A recipe's field is looked for first; transformers has 150 arguments, of which many are alike.
            hint = did_you_mean(name, names["recipe"]) or did_you_mean(name, names["trainer"])
            raise ValueError(f"--set {name}: " + (f"not a field of a recipe{hint}" if hint else str(error))) from None
        routed["config"] |= config
        routed["processor"] |= processor
    return routed


def by_phase(values: Sequence[str], phases: Sequence[int], option: str) -> dict[int, list[str]]:
    """`["a", "3=b"]` -> `{1: ["a"], 2: ["a"], 3: ["b"]}`: what is given for a phase replaces what is given for all.

    Raises:
        RecipeError: a phase that is not trained.
    """
    shared, of_phase = [], {}
    for value in values:
        phase, equals, rest = value.partition("=")
        if not equals or not phase.isdecimal():
            shared.append(value)
        elif int(phase) in phases:
            of_phase.setdefault(int(phase), []).append(rest)
        else:
            raise RecipeError(f"{option} {value}: the phases trained here are {', '.join(map(str, phases))}")
    return {phase: of_phase.get(phase, shared) for phase in phases}


def rows_of_phases(args, phases: Sequence[int]) -> tuple[dict[int, list[dict]], dict[int, list[dict]] | None]:
    """Phase -> rows to train on, and to evaluate on; a table that several phases use is read once."""
    from ..data.rows import read_rows

    data, split = by_phase(args.data, phases, "--data"), by_phase(args.split, phases, "--split")
    eval_split = by_phase(args.eval_split, phases, "--eval-split")
    known = {}

    def read(phase: int, names: str | None) -> list[dict]:
        rows = []
        for path in data[phase]:
            if (path, names) not in known:
                known[path, names] = read_rows(
                    path, names, args.media_root, default_split="train", allow_urls=args.allow_urls
                )
            rows += known[path, names]
        return rows

    for phase in phases:
        if not data[phase]:
            raise RecipeError(f"phase {phase} has no data; give --data {phase}=PATH, or --data PATH for all phases")
    rows = {phase: read(phase, ",".join(split[phase]) or None) for phase in phases}
    if not args.eval_split:
        return rows, None
    return rows, {phase: read(phase, ",".join(eval_split[phase])) if eval_split[phase] else [] for phase in phases}


def run(args) -> int:
    """`hf-emotion train`."""
    from .. import starter
    from ..papers import build
    from ..training.train import TrainingError, run_phases, size_of, wait_for

    def read_all(size="paper", **changes) -> list[Recipe]:
        recipes = []
        for name in args.recipe:
            several = recipe_names(name)
            recipes += recipes_of(name, size, **changes) if several else [read_recipe(name, size, **changes)]
        return recipes

    recipes = read_all()
    models = {recipe.model for recipe in recipes}
    if len(models) > 1:
        raise RecipeError(f"the recipes are for {' and '.join(sorted(models))}; those of one model are accepted")
    [name] = models
    start = args.start_from or (starter.FOLDER if recipes[0].start == "starter" else None)
    size = args.size or (size_of(start) if start else "paper")
    values = route_fields(name, parse_fields(args.set))
    recipes = read_all(size, **values["recipe"])
    if args.tasks:
        # Only the last phase is asked otherwise; alignment phases keep their own questions.
        recipes[-1] = replace(recipes[-1], tasks=args.tasks, use_row_questions=False)
    main_process = os.environ.get("RANK", "0") == "0"
    taken = main_process and not args.resume and args.output.exists()
    if taken and (not args.output.is_dir() or any(args.output.iterdir())):
        raise TrainingError(
            f"--output {args.output} exists and is not empty; a new or empty folder is accepted, or --resume"
        )
    rows, eval_rows = rows_of_phases(args, [recipe.phase for recipe in recipes])
    if start is None and size != "tiny":
        raise TrainingError(
            "--start-from is needed: a folder or Hub id with a model; --size tiny starts a tiny one from random weights"
        )
    if start is not None and values["config"]:
        field = next(iter(values["config"]))
        raise TrainingError(
            f"--set {field}: it is part of the model's configuration, which --start-from fixes; make the folder with "
            f"hf-emotion init --set {field}=..."
        )
    if start is None:
        start = args.output / "start"
        if main_process and not (start / "processor_config.json").is_file():
            model, processor = build(name, "tiny", seed=args.seed, **{**recipes[0].fields, **values["config"]})
            with replacing(start, overwrite=False) as unfinished:
                model.save_pretrained(unfinished)
                processor.save_pretrained(unfinished)
        wait_for(start / "processor_config.json")
    reports = run_phases(
        start,
        rows,
        recipes,
        args.output,
        processor_fields=values["processor"],
        resume=args.resume,
        quantize=args.four_bit,
        options=args.options,
        seed=args.seed,
        per_device_batch_size=args.per_device_batch_size,
        remember=size == "tiny",
        features=args.features,
        eval_rows=eval_rows,
        early_stopping=args.early_stopping,
        skip_bad_rows=args.skip_bad_rows,
        base_id=args.base_id,
        allow_urls=args.allow_urls,
        **{"dataloader_num_workers": 0 if size == "tiny" else None, **values["trainer"]},
    )
    for report in reports if main_process else []:
        loss = report["loss"]
        for reason in report["skipped"]:
            print(f"skipped {reason}", file=sys.stderr)
        print(
            f"{report['recipe']['name']}: {report['questions']} questions about {report['rows']} rows, "
            f"{len(report['skipped'])} rows skipped, {len(loss)} steps, loss {loss[0]:.3f} -> {loss[-1]:.3f}, "
            f"{report['seconds']:.0f} s, {report['folder']}"
        )
        for note in report["notes"]:
            print(f"  note: {note}")
    return 0
