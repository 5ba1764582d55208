"""Training by recipe, phase after phase: each starts from the folder that the one before it wrote.

    hf-emotion train omni_emotion --size tiny --data DEMO --output runs/omni

A phase is a `Trainer` run over the rows' questions with only the parts moving that its recipe names; its folder holds
the model, the processor and `phase.json`, what was trained and how the loss went.
"""

import argparse
import json
import os
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from .recipe import CAPTION, Recipe, RecipeError, limited_to, read_recipe, recipes_of

REPORT = "phase.json"


class TrainingError(ValueError):
    """Training that cannot be done as asked."""


def question_rows(rows: Sequence[Mapping], recipe: Recipe, options: Sequence[str] | None, seed: int) -> list[dict]:
    """The recipe's questions about the rows, with answers; a row that cannot answer a task gives none for it.

    Args:
        rows: data rows (`data.schema`).
        options: the closed set of `"recognition"`; by default the labels that occur.

    Raises:
        TrainingError: no row answers any of the tasks.
    """
    from ..data.questions import instruction_rows
    from ..data.schema import FIELDS

    options = options or sorted({row["label"] for row in rows if row.get("label")})
    asked = []
    for row in rows:
        row = {name: row.get(name) for name in FIELDS}
        tasks = [task for task in recipe.tasks if task != CAPTION]
        asked += instruction_rows(row, tasks, per_task=recipe.per_task, seed=seed, options=options)
        if CAPTION in recipe.tasks and row["description"]:
            draw = random.Random(f"{seed}/{CAPTION}/{row['id']}")
            for number, question in enumerate(
                draw.sample(recipe.questions, min(recipe.per_task, len(recipe.questions)))
            ):
                name = f"{row['id']}#{CAPTION}-{number}"
                asked.append({**row, "id": name, "question": question, "answer": row["description"]})
    if not asked:
        raise TrainingError(f"none of the {len(rows)} rows answers {' or '.join(recipe.tasks)} ({recipe.name})")
    return asked


class Samples:
    """Questions as the model's inputs, made when they are asked for; each clip is decoded once while it is remembered.

    Args:
        rows: from `question_rows`.
        processor: the model's.
        remember: keep what was made, for the next epoch.
        options: for the processor.
    """

    def __init__(self, rows, processor, remember=True, **options):
        self.rows = list(rows)
        self.processor = processor
        self.options = options
        self.made = {} if remember else None

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        from .collator import encode

        if self.made is not None and index in self.made:
            return self.made[index]
        sample = encode(self.processor, [self.rows[index]], **self.options)
        if self.made is not None:
            self.made[index] = sample
        return sample


def select(model, recipe: Recipe) -> list[str]:
    """Freeze all but the recipe's parts; the names of the parameters that train.

    Raises:
        TrainingError: the model lacks a part, or has none of them.
    """
    parts = {name for name, _ in model.base_model.named_children()}
    unknown = sorted(set(recipe.trains) - parts)
    if unknown:
        raise TrainingError(
            f"{recipe.name} trains {unknown[0]!r}, which the model lacks; it has {', '.join(sorted(parts))}"
        )
    bare = {name for name, _ in model.base_model.named_parameters(recurse=False)}
    model.freeze(tuple(sorted((parts | bare) - set(recipe.trains))))
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def run_phase(
    model,
    processor,
    rows: Sequence[Mapping],
    recipe: Recipe,
    output: str | Path,
    *,
    options: Sequence[str] | None = None,
    seed: int = 0,
    per_device_batch_size: int | None = None,
    remember: bool = True,
    **arguments,
) -> dict:
    """Train one phase and write its folder.

    Args:
        model, processor: where the phase starts.
        rows: data rows.
        recipe: what trains, and how.
        output: folder to write.
        options: the closed set of `"recognition"`.
        per_device_batch_size: of one device; gradients are accumulated to the recipe's batch. By default the whole.
        remember: keep the processed clips in memory.
        arguments: more of `TrainingArguments`.

    Returns:
        what `phase.json` holds: the recipe, the names of the tensors that trained, `loss` step by step, `seconds`.
    """
    from transformers import Trainer, TrainingArguments

    from .collator import EmotionCollator

    output = Path(output)
    trained = select(model, recipe)
    chosen = {"num_frames": recipe.num_frames, "modalities": available(recipe, processor)}
    samples = Samples(question_rows(rows, recipe, options, seed), processor, remember, **chosen)
    each = per_device_batch_size or recipe.batch_size
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            **{
                "output_dir": str(output),
                "num_train_epochs": recipe.epochs,
                "per_device_train_batch_size": each,
                "gradient_accumulation_steps": max(1, recipe.batch_size // each),
                "learning_rate": recipe.learning_rate,
                "lr_scheduler_type": recipe.lr_scheduler,
                "warmup_steps": recipe.warmup,
                "weight_decay": recipe.weight_decay,
                "max_grad_norm": recipe.max_grad_norm,
                "logging_steps": 1,
                "save_strategy": "no",
                "report_to": "none",
                "disable_tqdm": True,
                "remove_unused_columns": False,
                "label_names": ["labels"],
                "dataloader_pin_memory": False,
                "seed": seed,
                **arguments,
            }
        ),
        train_dataset=samples,
        data_collator=EmotionCollator(processor, **chosen),
        processing_class=processor,
    )
    result = trainer.train()
    report = {
        "recipe": {name: getattr(recipe, name) for name in recipe.__dataclass_fields__},
        "questions": len(samples),
        "trained": trained,
        "loss": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "seconds": round(result.metrics["train_runtime"], 2),
    }
    model.eval()
    model.save_pretrained(output)
    processor.save_pretrained(output)
    partial = output / f".{REPORT}.{os.getpid()}"
    partial.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, output / REPORT)
    return report


def available(recipe: Recipe, processor) -> list[str]:
    """The recipe's modalities that the model has.

    Raises:
        TrainingError: it has none of them.
    """
    found = [name for name in recipe.modalities if name in processor.modalities]
    if not found:
        raise TrainingError(f"{recipe.name} takes {', '.join(recipe.modalities)}; the model has {processor.modalities}")
    return found


def run_phases(
    start: str | Path, rows: Sequence[Mapping], recipes: Sequence[Recipe], output: str | Path, **options
) -> list[dict]:
    """Train the phases of a paper one after the other; each loads the folder of the one before it.

    Args:
        start: folder of the model and processor that phase 1 starts from.
        rows: data rows.
        recipes: in their order. Parts that the model lacks (an ablation) are left out of them, and a phase without any
            part is skipped.
        output: folder; each phase writes `phase_<n>` in it.
        options: for `run_phase`.

    Returns:
        the phases' reports, each with its `folder`.
    """
    from ..inference import load

    folder, reports = Path(start), []
    for recipe in recipes:
        model, processor = load(folder, device="cpu" if options.get("use_cpu") else None)
        recipe = limited_to(recipe, [name for name, _ in model.base_model.named_children()])
        if recipe is None:
            continue
        folder = Path(output) / f"phase_{recipe.phase}"
        report = run_phase(model, processor, rows, recipe, folder, **options)
        reports.append({**report, "folder": str(folder)})
    if not reports:
        raise TrainingError(f"the model in {start} has no part that these recipes train")
    return reports


def add_train_parser(subparsers) -> argparse.ArgumentParser:
    """Add `hf-emotion train` to the command line; `args.func(args)` runs it and returns the exit code."""
    parser = subparsers.add_parser(
        "train",
        help="train a paper's phases one after the other, by its recipes",
        description="Each phase starts from the folder that the one before it wrote: OUTPUT/phase_1, phase_2, ...",
    )
    parser.add_argument("recipe", nargs="+", help="a paper (omni_emotion: all its phases), or recipes by name or file")
    parser.add_argument("--data", required=True, help="rows: what hf-emotion build or make_demo wrote")
    parser.add_argument("--split", help="of the rows; needed where there are several (default for the demo: train)")
    parser.add_argument("--media-root", help="folder that the rows' media paths start from")
    parser.add_argument("--output", required=True, type=Path, help="folder for the phases; must be new or empty")
    parser.add_argument("--start", help="folder or Hub id to start from (default: random weights, tiny size only)")
    parser.add_argument("--size", default="paper", choices=("tiny", "paper"), help="whose values of a recipe to use")
    parser.add_argument("--tasks", nargs="+", help="ask these instead of the recipe's (recognition, clues, ...)")
    parser.add_argument("--options", nargs="+", metavar="LABEL", help="closed set of recognition (default: the labels)")
    parser.add_argument("--per-device-batch-size", type=int, help="gradients are accumulated to the recipe's batch")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(func=run_train)
    return parser


def rows_of(data: str | Path, split: str | None = None, media_root: str | Path | None = None) -> list[dict]:
    """Data rows of what `make_demo` (by default its training split), `hf-emotion build` or `datasets` wrote."""
    from ..data.demo import read_demo
    from ..evaluation.evaluate import read_rows

    if (Path(data) / "metadata.jsonl").is_file() and media_root is None:
        return read_demo(data, split or "train")
    return read_rows(data, split, media_root)


def run_train(args) -> int:
    """`hf-emotion train`."""
    from ..sizes import PAPERS, build

    recipes = []
    for name in args.recipe:
        recipes += recipes_of(name, args.size) if name in PAPERS else [read_recipe(name, args.size)]
    if args.tasks:
        # Only what is tuned last is asked otherwise; what is aligned before keeps its own questions.
        recipes[-1] = replace(recipes[-1], tasks=args.tasks)
    models = {recipe.model for recipe in recipes}
    if len(models) > 1:
        raise RecipeError(f"the recipes are for {' and '.join(sorted(models))}; those of one model are accepted")
    if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        raise TrainingError(f"--output {args.output} exists and is not empty; a new or empty folder is accepted")
    rows = rows_of(args.data, args.split, args.media_root)
    start = args.start
    if start is None:
        if args.size != "tiny":
            raise TrainingError(
                "at paper size give --start: a folder that from_pretrained_parts and save_pretrained made"
            )
        start = args.output / "start"
        model, processor = build(models.pop(), "tiny", seed=args.seed)
        model.save_pretrained(start)
        processor.save_pretrained(start)
    reports = run_phases(
        start,
        rows,
        recipes,
        args.output,
        options=args.options,
        seed=args.seed,
        per_device_batch_size=args.per_device_batch_size,
        remember=args.size == "tiny",
    )
    for report in reports:
        loss = report["loss"]
        print(
            f"{report['recipe']['name']}: {report['questions']} questions, {len(loss)} steps, loss {loss[0]:.3f} -> "
            f"{loss[-1]:.3f}, {report['seconds']:.0f} s, {report['folder']}"
        )
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m hf_emotion.training.train", description=__doc__.splitlines()[0])
    add_train_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(arguments)
    try:
        return args.func(args)
    except (ValueError, OSError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
