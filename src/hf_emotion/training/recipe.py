"""What one training run does: a small YAML file in which every value quotes its sentence of the paper.

A recipe is data: which parts of the model are trained, on which questions, with which optimizer. A paper that trains in
phases has one recipe per phase, named `<model>_<phase>_<what>.yaml`. The section `tiny` of a recipe holds the values
that differ when a tiny model is trained on a CPU; no paper says anything about those.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path

import yaml

from ..data.files import did_you_mean
from ..data.questions import NEEDS, TASKS

# What a phase writes into its folder, beside the model: its recipe and how training went.
REPORT = "phase.json"
RECIPES = files("hf_emotion.training") / "recipes"
# Tasks that a recipe asks in its own words, beside those of `data.questions` -> the column that holds the answer.
OWN_TASKS = {"caption": "description", "transcript": "subtitle", "label": "label"}
LORA = {"r", "alpha", "dropout", "targets"}


class RecipeError(ValueError):
    """A recipe that cannot be read or that asks for something that does not exist."""


@dataclass(frozen=True)
class Recipe:
    """One phase of training.

    Args:
        name: file name without its suffix.
        model: the paper, a key of `papers.PAPERS`.
        phase: 1 for the first.
        trains: trained parts of the model, children of its base model; `language_model` includes the head. All other
            parts are frozen.
        tasks: what is asked: tasks of `data.questions.TASKS`, or, in the recipe's own words, `"caption"`, answered by
            the row's description, `"transcript"`, answered by its subtitle, and `"label"`, answered by its label.
        modalities: which of the model's modalities are read from the clips.
        epochs, batch_size, learning_rate: of the whole run; the batch is that of all devices together.
        lr_scheduler, warmup: name of the schedule, and the share of steps, or the number of steps, that warm it up.
        weight_decay, max_grad_norm, betas: of AdamW.
        num_frames: frames per clip.
        per_task: questions per task and clip.
        questions: task -> questions, for tasks in the recipe's own words.
        marks: task -> text in front of its questions.
        lora: `r`, `alpha`, `dropout` and `targets` (names of linear layers) of adapters in the frozen language model;
            the parts in `trains` are then saved whole in the adapter.
        lr_scheduler_kwargs: of the schedule, such as `min_lr`.
        max_steps: ends the run whatever `epochs` says.
        fields: fields of the model's configuration, for a published ablation of the paper.
        start: "starter" starts from the model in the box unless another folder is given.
        use_row_questions: rows that bring a question and an answer are trained as they are; the recipe's tasks are
            asked of the others.
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
    start: str | None = None
    use_row_questions: bool = True

    def __post_init__(self):
        for name in ("trains", "tasks", "modalities"):
            value = getattr(self, name)
            self._check(_is_list_of_texts(value), f"{name} is {value!r}; a list of texts is accepted")
            object.__setattr__(self, name, tuple(value))
        tasks = (*TASKS, *OWN_TASKS)
        self._check(
            self.tasks and set(self.tasks) <= set(tasks), f"tasks is {self.tasks}; accepted: {', '.join(tasks)}"
        )
        valid = isinstance(self.questions, Mapping) and all(map(_is_list_of_texts, self.questions.values()))
        self._check(valid, f"questions is {self.questions!r}; a mapping of task to a list of texts is accepted")
        object.__setattr__(self, "questions", {task: tuple(asked) for task, asked in self.questions.items()})
        for task in set(self.tasks) & set(OWN_TASKS):
            self._check(self.questions.get(task), f"the task {task!r} needs questions, and there are none")
        for name in ("epochs", "batch_size", "learning_rate", "num_frames", "per_task", "phase"):
            value = getattr(self, name)
            positive = isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
            self._check(positive, f"{name} is {value!r}; a number above 0 is accepted")
        self._check(self.start in (None, "starter"), f"start is {self.start!r}; 'starter' or nothing is accepted")
        if self.lora is None:
            self._check(self.trains, "trains names no part of the model")
        else:
            lora_fields = ", ".join(self.lora) or "nothing"
            self._check(set(self.lora) == LORA, f"lora holds {lora_fields}; {', '.join(sorted(LORA))} are needed")
            self._check("language_model" not in self.trains, "language_model is in trains, but lora needs it frozen")

    def _check(self, valid, message: str) -> None:
        if not valid:
            raise RecipeError(f"recipe {self.name}: {message}")

    def column_of(self, task: str) -> str:
        """The column of a row that answers `task`."""
        return OWN_TASKS.get(task) or NEEDS[task]


def _is_list_of_texts(value) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)


def read_recipe(source: str | Path, size: str = "paper", **changes) -> Recipe:
    """A recipe from a file, or a shipped one by its name.

    Args:
        source: a path, or a name such as `"omni_emotion_1_audio"`.
        size: `"tiny"` replaces the paper's values by those of the section `tiny`.
        changes: fields with other values.

    Raises:
        RecipeError: no such recipe, not a YAML mapping, missing or unknown fields, values of the wrong type.
    """
    path = Path(source) if Path(source).suffix else Path(str(RECIPES)) / f"{source}.yaml"
    if not path.is_file():
        known = recipe_names()
        raise RecipeError(f"no recipe {source}; shipped are {', '.join(known)}{did_you_mean(str(source), known)}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path} holds a {type(content).__name__}; a mapping of fields is accepted")
    tiny = content.pop("tiny", None) or {}
    accepted = sorted(item.name for item in fields(Recipe) if item.name != "name")
    for name in sorted({*content, *tiny, *changes} - set(accepted)):
        hint = did_you_mean(name, accepted)
        raise RecipeError(f"{path}: {name!r} is not a field of a recipe{hint or '; accepted: ' + ', '.join(accepted)}")
    try:
        return Recipe(**{**content, **(tiny if size == "tiny" else {}), **changes, "name": path.stem})
    except TypeError as error:
        raise RecipeError(f"{path}: {error}") from error


def recipe_names(model: str | None = None) -> list[str]:
    """Names of the shipped recipes in the order of their phases; of one model, or of all."""
    names = sorted(Path(str(path)).stem for path in RECIPES.iterdir() if str(path).endswith(".yaml"))
    return [name for name in names if model is None or name.startswith(f"{model}_")]


def recipes_of(model: str, size: str = "paper", **changes) -> list[Recipe]:
    """All phases of a paper, or of a published ablation of it: the shipped recipes whose names begin with `model`.

    Raises:
        RecipeError: there is none.
    """
    recipes = [read_recipe(name, size, **changes) for name in recipe_names(model)]
    if not recipes:
        raise RecipeError(f"no recipe is shipped for {model!r}; shipped are {', '.join(recipe_names())}")
    return sorted(recipes, key=lambda recipe: recipe.phase)


def limited_to(recipe: Recipe, parts: Sequence[str]) -> Recipe | None:
    """The recipe for a model that lacks some parts (an ablation); `None` if nothing is left to train."""
    trains = tuple(part for part in recipe.trains if part in parts)
    return replace(recipe, trains=trains) if trains or recipe.lora else None


__all__ = ["Recipe", "RecipeError", "limited_to", "read_recipe", "recipe_names", "recipes_of"]
