"""What one run of training does: a small YAML file, in which every value quotes its sentence of the paper.

A recipe is data: which parts of the model move, on which questions, with which optimiser. A paper that is trained in
phases has one recipe for each, named `<model>_<phase>_<what>.yaml`. The section `tiny` of a recipe holds the values
that differ where a tiny model is trained on a CPU; no paper says anything about those.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path

import yaml

from ..data.questions import TASKS

RECIPES = files("hf_emotion.training") / "recipes"
# What a recipe may ask beside the questions of `data.questions`, in its own words -> the row's field that answers.
OWN_TASKS = {"caption": "description", "transcript": "subtitle"}
LORA = {"r", "alpha", "dropout", "targets"}


class RecipeError(ValueError):
    """A recipe that cannot be read, or asks for what there is not."""


@dataclass(frozen=True)
class Recipe:
    """One phase of training.

    Args:
        name: of the file, without its ending.
        model: the paper it is for, a key of `sizes.PAPERS`.
        phase: 1 for the first.
        trains: parts of the model that move, children of its base model; `language_model` takes the head along, and
            every other part is frozen.
        tasks: what is asked: of `data.questions.TASKS`; or, in the recipe's own words, `"caption"`, answered by the
            row's description, and `"transcript"`, answered by its subtitle.
        modalities: what is taken from the clips, of the model's.
        epochs, batch_size, learning_rate: of the whole run; the batch is that of all devices together.
        lr_scheduler, warmup: name of the schedule, and share of the steps that warm it up, or their number.
        weight_decay, max_grad_norm, betas: of AdamW.
        num_frames: of each clip.
        per_task: questions of each task about each clip.
        questions: of the tasks in the recipe's own words, by task.
        marks: what stands before the questions of a task, by task.
        lora: `r`, `alpha`, `dropout` and `targets`, the language model's linear layers by name, for a language model
            that is frozen and adapted; `trains` then goes into the adapter whole.
        lr_scheduler_kwargs: of the schedule, such as `min_lr`.
        max_steps: ends the run whatever `epochs` says.
        fields: of the model's configuration, where the recipe is for an ablation of the paper.
    """

    name: str
    model: str
    phase: int
    trains: tuple[str, ...]
    tasks: tuple[str, ...]
    modalities: tuple[str, ...]
    epochs: float
    batch_size: int
    learning_rate: float
    lr_scheduler: str
    warmup: float
    weight_decay: float
    max_grad_norm: float
    num_frames: int
    per_task: int = 1
    questions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    marks: dict = field(default_factory=dict)
    lora: dict | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    lr_scheduler_kwargs: dict = field(default_factory=dict)
    max_steps: int | None = None
    fields: dict = field(default_factory=dict)

    def __post_init__(self):
        for name in ("trains", "tasks", "modalities"):
            value = getattr(self, name)
            if isinstance(value, str) or not all(isinstance(item, str) for item in value):
                raise RecipeError(f"recipe {self.name}: {name} is {value!r}; a list of texts is accepted")
            object.__setattr__(self, name, tuple(value))
        unknown = sorted(set(self.tasks) - {*TASKS, *OWN_TASKS})
        if unknown or not self.tasks:
            raise RecipeError(
                f"recipe {self.name}: tasks are {self.tasks}; accepted are {', '.join((*TASKS, *OWN_TASKS))}"
            )
        if not isinstance(self.questions, Mapping) or not all(
            isinstance(asked, (list, tuple)) and all(isinstance(question, str) for question in asked)
            for asked in self.questions.values()
        ):
            raise RecipeError(
                f"recipe {self.name}: questions are {self.questions!r}; lists of texts by task are accepted"
            )
        object.__setattr__(self, "questions", {task: tuple(asked) for task, asked in self.questions.items()})
        for task in OWN_TASKS:
            if task in self.tasks and not self.questions.get(task):
                raise RecipeError(f"recipe {self.name}: the task {task!r} needs questions, and there are none")
        for name in ("epochs", "batch_size", "learning_rate", "num_frames", "per_task", "phase"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
                raise RecipeError(f"recipe {self.name}: {name} is {value!r}; a number above 0 is accepted")
        if self.lora is None and not self.trains:
            raise RecipeError(f"recipe {self.name}: trains names no part of the model")
        if self.lora is not None:
            if set(self.lora) != LORA:
                found = ", ".join(self.lora) or "nothing"
                raise RecipeError(f"recipe {self.name}: lora holds {found}; {', '.join(sorted(LORA))} are needed")
            if "language_model" in self.trains:
                raise RecipeError(f"recipe {self.name}: language_model is in trains, and lora adapts a frozen one")


def read_recipe(source: str | Path, size: str = "paper", **changes) -> Recipe:
    """A recipe from a file, or by the name of one that is shipped.

    Args:
        source: a path, or a name such as `"omni_emotion_1_audio"`.
        size: `"tiny"` puts the values of the recipe's section `tiny` in place of the paper's.
        changes: fields that are to have other values.

    Raises:
        RecipeError: no such recipe, no YAML mapping, fields that are missing or unknown, values of another kind.
    """
    path = Path(source) if Path(source).suffix else Path(str(RECIPES)) / f"{source}.yaml"
    if not path.is_file():
        raise RecipeError(f"there is no recipe {source}; shipped are {', '.join(recipe_names())}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path} holds a {type(content).__name__}; a mapping of fields is accepted")
    tiny = content.pop("tiny", None) or {}
    content = {**content, **(tiny if size == "tiny" else {}), **changes, "name": path.stem}
    accepted = {item.name for item in fields(Recipe)}
    unknown = sorted(set(content) - accepted)
    if unknown:
        raise RecipeError(f"{path}: {unknown[0]!r} is no field of a recipe; accepted are {', '.join(sorted(accepted))}")
    try:
        return Recipe(**content)
    except TypeError as error:
        raise RecipeError(f"{path}: {error}") from error


def recipe_names(model: str | None = None) -> list[str]:
    """Names of the shipped recipes, in the order of their phases; of one model, or of all."""
    names = sorted(Path(str(path)).stem for path in RECIPES.iterdir() if str(path).endswith(".yaml"))
    return [name for name in names if model is None or name.startswith(f"{model}_")]


def recipes_of(model: str, size: str = "paper", **changes) -> list[Recipe]:
    """The shipped recipes whose names begin alike, phase by phase: a paper's, or those of a published ablation of it.

    Raises:
        RecipeError: there is none.
    """
    found = [read_recipe(name, size, **changes) for name in recipe_names(model)]
    if not found:
        raise RecipeError(f"no recipe is shipped for {model!r}; there are {', '.join(recipe_names())}")
    return sorted(found, key=lambda recipe: recipe.phase)


def limited_to(recipe: Recipe, parts: Sequence[str]) -> Recipe | None:
    """The recipe for a model that lacks some parts (an ablation); `None` if nothing is left to train."""
    kept = tuple(part for part in recipe.trains if part in parts)
    return replace(recipe, trains=kept) if kept or recipe.lora else None


__all__ = ["Recipe", "RecipeError", "limited_to", "read_recipe", "recipe_names", "recipes_of"]
