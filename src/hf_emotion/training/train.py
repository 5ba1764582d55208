"""Training by recipe, phase after phase: each phase starts from the folder that the one before it wrote.

    hf-emotion train omni_emotion --size tiny --data DEMO --output runs/omni

A phase is one `Trainer` run over the questions about the rows, in which only the parts named by its recipe are trained.
Its folder holds the model or adapter, the processor and `phase.json`: what was trained and how the loss went. A killed
run continues from its last checkpoint with `--resume` and ends with the weights of an uninterrupted run.

On many devices: `torchrun --nproc_per_node N -m hf_emotion.cli train ...`, or
`accelerate launch --config_file CONFIG -m hf_emotion.cli train ...` with one of the files in `accelerate/`.
"""

import json
import os
import random
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForMultimodalLM,
    AutoProcessor,
    BitsAndBytesConfig,
    EarlyStoppingCallback,
    TrainingArguments,
    set_seed,
)
from transformers.utils import is_bitsandbytes_available

from ..data.files import write_whole
from ..data.loading import ClipDataset, usual_workers, worker_options
from ..data.questions import TASKS, answer, instruction_rows
from ..data.remote import local_media
from ..data.schema import FIELDS
from ..inference import load
from .cache import FeatureCache, media_of, record
from .check_rows import check_rows, clip_key
from .collator import EmotionCollator, encode
from .recipe import OWN_TASKS, REPORT, Recipe, limited_to
from .trainer import EmotionTrainer

# Models with fewer parameters in their language model are trained with the recipes' section `tiny`.
TINY_PARAMETERS = 50_000_000


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
    asked = [question for row in rows for question in questions_about(row, recipe, options or labels_of(rows), seed)]
    if not asked:
        raise TrainingError(f"none of the {len(rows)} rows answers {' or '.join(recipe.tasks)} ({recipe.name})")
    return asked


def labels_of(rows: Sequence[Mapping]) -> list[str]:
    """The labels that occur, sorted."""
    return sorted({row["label"] for row in rows if row.get("label")})


def _text(value) -> str:
    return (value or "").strip()


def questions_about(row: Mapping, recipe: Recipe, options: Sequence[str], seed: int) -> list[dict]:
    """The recipe's questions about one row, or the row itself where it brings its own question and answer."""
    # The demo corpus has its own questions for the quickstart alone; recipes ask theirs.
    use_own = recipe.use_row_questions and "planted" not in row
    row = {name: row.get(name) for name in FIELDS}
    if use_own and _text(row["question"]) and _text(row["answer"]):
        return [row]
    asked = []
    for task in recipe.tasks:
        if task in OWN_TASKS:
            reply, questions = row[OWN_TASKS[task]], recipe.questions[task]
            chosen = random.Random(f"{seed}/{task}/{row['id']}").sample(questions, min(recipe.per_task, len(questions)))
            prompts = [
                {**row, "id": f"{row['id']}#{task}-{number}", "question": question, "answer": reply}
                for number, question in enumerate(chosen if reply else ())
            ]
        else:
            prompts = instruction_rows(row, [task], per_task=recipe.per_task, seed=seed, options=options)
        mark = f"{recipe.marks[task]} " if task in recipe.marks else ""
        asked += [{**item, "question": mark + item["question"]} for item in prompts]
    return [question for question in asked if _text(question["answer"])]


def why_unasked(row: Mapping, recipe: Recipe) -> str:
    """Why `questions_about` makes no question of a row: the missing columns, and the option that helps."""
    columns = " or ".join(dict.fromkeys(f"{recipe.column_of(task)} (for {task})" for task in recipe.tasks))
    row = {name: row.get(name) for name in FIELDS}
    possible = [task for task in TASKS if task not in recipe.tasks and _text(answer(row, task))]
    if not recipe.use_row_questions and _text(row["question"]) and _text(row["answer"]):
        help_ = "its own question and answer are used without --tasks"
    elif possible:
        help_ = f"fill the column, or ask what the row can answer: --tasks {' '.join(possible)}"
    else:
        help_ = "fill the column, or give the row a question and an answer of its own"
    return f"it has no {columns}; {help_}"


class Samples(ClipDataset):
    """Questions as inputs of the model, encoded on demand.

    Args:
        rows: from `question_rows`.
        processor: the model's.
        remember: keep what the processor makes of a clip, for its other questions and for the next epoch.
        features: a `FeatureCache` of the clips, which are then not opened, and nothing is kept.
        allow_urls: read clips that are addresses.
        options: as for `collator.encode`.
    """

    def __init__(self, rows, processor, remember=True, features=None, allow_urls=False, **options):
        self.rows = list(rows)
        self.allow_urls = allow_urls
        self.processor = processor
        self.features = features
        self.options = options
        self.clips = {} if remember and features is None else None

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        if self.features is not None:
            return self.features.encode(self.processor, row, **self.options)
        if self.clips is not None and media_of(row):
            key = clip_key(row)
            if key not in self.clips:
                reading = {name: value for name, value in self.options.items() if name != "emotions"}
                with local_media(row, self.allow_urls) as local:
                    self.clips[key] = record(self.processor, local, reading)
            row = {**row, "video": self.clips[key], "audio": None, "utterances": None}
        with local_media(row, self.allow_urls) as local:
            return encode(self.processor, [local], **self.options)

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each sample's texts, and its utterances' media tokens: what differs most between clips.

        The number of frames is the same for all; no clip is opened for the length of its sound.
        """
        spoken = [row.get("utterances") or [] for row in self.rows]
        texts = [
            " ".join(filter(None, [row.get("question"), row.get("answer"), *(part.get("text") for part in parts)]))
            for row, parts in zip(self.rows, spoken, strict=True)
        ]
        numbers = self.processor._get_num_multimodal_tokens(
            video_sizes=texts, audio_lengths=texts, num_utterances=[len(parts) for parts in spoken]
        )
        media = zip(numbers.num_video_tokens, numbers.num_audio_tokens, strict=True)
        ids = self.processor.tokenizer(texts).input_ids if texts else []
        return [len(words) + sum(tokens) for words, tokens in zip(ids, media, strict=True)]


def select(model, recipe: Recipe):
    """Freeze everything but the parts that the recipe trains, and add its LoRA adapter if it has one.

    Returns:
        the model, or the PEFT model around it.

    Raises:
        TrainingError: the model lacks a part, or has another adapter than the recipe asks for.
    """
    base = without_adapter(model)
    parts = {name for name, _ in base.base_model.named_children()}
    for part in sorted(set(recipe.trains) - parts):
        raise TrainingError(f"{recipe.name} trains {part!r}, which the model lacks; it has {', '.join(sorted(parts))}")
    if recipe.lora is not None:
        config = lora_config(recipe)
        if base is model:
            return get_peft_model(model, config)
        _check_same_adapter(model, config, recipe)
        return model
    if base is not model:
        raise TrainingError(f"{recipe.name} trains no adapter, but the model has one; merge it first")
    bare = {name for name, _ in model.base_model.named_parameters(recurse=False)}
    model.freeze(tuple(sorted((parts | bare) - set(recipe.trains))))
    return model


def without_adapter(model):
    """The model inside a PEFT model, or the model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def lora_config(recipe: Recipe) -> LoraConfig:
    """LoRA in the language model alone; the other trained parts are saved whole in the adapter."""
    # Towers have layers of the same names, so the path is part of the pattern.
    targets = "|".join(recipe.lora["targets"])
    return LoraConfig(
        r=recipe.lora["r"],
        lora_alpha=recipe.lora["alpha"],
        lora_dropout=recipe.lora["dropout"],
        target_modules=rf"model\.language_model\..*\.({targets})",
        modules_to_save=list(recipe.trains) or None,
        # Without it, PEFT's Auto classes do not recognise the adapter.
        task_type="CAUSAL_LM",
    )


def _check_same_adapter(model, wanted: LoraConfig, recipe: Recipe) -> None:
    """An adapter of an earlier phase is trained on only if this phase asks for the same one."""
    [present] = model.peft_config.values()
    for name in ("r", "lora_alpha", "target_modules", "modules_to_save"):
        one, other = getattr(wanted, name), getattr(present, name)
        # PEFT turns lists of names into sets.
        if (set(one) if isinstance(one, list) else one) != (set(other) if isinstance(other, list) else other):
            raise TrainingError(
                f"{recipe.name} asks for an adapter with {name} {one!r}; that of the phase before has {other!r}"
            )


def check_folder(config, recipe: Recipe, folder="the model") -> None:
    """Refuse a recipe for another paper, or for an ablation that the model is not.

    Args:
        config: the model's configuration.

    Raises:
        TrainingError: it names the field, its value in the model and in the recipe.
    """
    if config.model_type != recipe.model:
        raise TrainingError(f"{recipe.name} is a recipe for {recipe.model}; {folder} holds {config.model_type}")
    for name, wanted in recipe.fields.items():
        value = getattr(config, name)
        if (list(value) if isinstance(value, tuple) else value) != wanted:
            raise TrainingError(
                f"{recipe.name} is for a model with {name} = {wanted!r}; {folder} has {name} = {value!r}. Choose "
                f"another recipe, or start from a folder made with --set {name}={json.dumps(wanted)}"
            )


def last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint in a folder; `trainer_state.json` is the last file written."""
    complete = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return str(max(complete, key=lambda path: int(path.name.split("-")[1]))) if complete else None


def training_arguments(recipe: Recipe, output: Path, per_device: int | None, **arguments) -> TrainingArguments:
    """The recipe as `TrainingArguments`, which also start distributed training.

    Args:
        per_device: batch size of one device; gradients are accumulated up to the recipe's batch.
        arguments: take precedence over the recipe's.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    per_device = per_device or max(1, recipe.batch_size // world)
    workers = arguments.get("dataloader_num_workers", 0)
    settings = {
        "output_dir": str(output),
        "num_train_epochs": recipe.epochs,
        "max_steps": recipe.max_steps or -1,
        "per_device_train_batch_size": per_device,
        "per_device_eval_batch_size": per_device,
        "gradient_accumulation_steps": max(1, recipe.batch_size // (per_device * world)),
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.lr_scheduler,
        "lr_scheduler_kwargs": dict(recipe.lr_scheduler_kwargs),
        "warmup_steps": recipe.warmup,
        "weight_decay": recipe.weight_decay,
        "adam_beta1": recipe.betas[0],
        "adam_beta2": recipe.betas[1],
        "max_grad_norm": recipe.max_grad_norm,
        "logging_steps": 1,
        "include_num_input_tokens_seen": "non_padding",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "report_to": "none",
        "disable_tqdm": not sys.stderr.isatty(),
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "dataloader_pin_memory": torch.cuda.is_available(),
        **{f"dataloader_{name}": value for name, value in worker_options(workers).items()},
    }
    return TrainingArguments(**{**settings, **arguments})


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
    features=None,
    eval_rows: Sequence[Mapping] | None = None,
    early_stopping: int | None = None,
    skip_bad_rows: bool = False,
    resume: bool = False,
    base_id: str | None = None,
    checked: dict | None = None,
    allow_urls: bool = False,
    **arguments,
) -> dict:
    """Train one phase and write its folder.

    Args:
        model, processor: where the phase starts.
        rows: data rows.
        recipe: what is trained, and how.
        output: folder to write.
        options: the closed set of `"recognition"`.
        per_device_batch_size: gradients are accumulated up to the recipe's batch. By default no accumulation.
        remember: keep the encoded clips in memory.
        features: folder of a feature cache; towers are then not run.
        eval_rows: rows to evaluate on after each epoch: the loss and the words of generated answers (`eval_f`).
        early_stopping: stop after this many evaluations without a better `eval_f`, and keep the best weights.
        skip_bad_rows: skip unusable rows and report them; by default they are an error before training starts.
        resume: continue from the newest checkpoint in `output`, if there is one.
        base_id: Hub id that an adapter names as its base; by default where the base was loaded from.
        checked: problems of clips that an earlier phase opened; see `find_problems`.
        allow_urls: read clips that are addresses, such as `s3://bucket/clip.mp4`. Each is fetched again whenever it is
            needed, unless it is remembered or `features` holds it.
        arguments: more of `TrainingArguments`. `dataloader_num_workers=None` chooses by cores and rows.

    Returns:
        the content of `phase.json`: the recipe, the names of the trained tensors, `loss` step by step, `log` with
        everything logged, `seconds`, `skipped` rows with their reasons, and `notes`.

    Raises:
        BadRowsError, StaleFeaturesError, TrainingError: before anything is trained.
    """
    if early_stopping is not None and not eval_rows:
        raise TrainingError("early stopping needs rows to evaluate on")
    output = Path(output)
    if arguments.get("dataloader_num_workers", 0) is None:
        arguments["dataloader_num_workers"] = 0 if features is not None else usual_workers(len(rows))
    inner = without_adapter(model)
    check_folder(inner.config, recipe)
    chosen = {"num_frames": recipe.num_frames, "modalities": available(recipe, processor)}
    if features is not None:
        features = FeatureCache(features)
        features.check(model, processor, **chosen)
    classes = options or labels_of(rows)
    evaluation = {"eval_strategy": "epoch"} if eval_rows else {}
    if early_stopping is not None:
        evaluation |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_f", "greater_is_better": True}
    settings = training_arguments(recipe, output, per_device_batch_size, **{"seed": seed, **evaluation, **arguments})
    usable, skipped = check_rows(
        rows,
        # Cached clips could be read; `verify` checks that they are still the same.
        None if features is not None else processor,
        skip=skip_bad_rows,
        make_questions=lambda row: questions_about(row, recipe, classes, seed),
        explain=lambda row: why_unasked(row, recipe),
        progress=sys.stderr.isatty(),
        checked=checked,
        allow_urls=allow_urls,
        share=(settings.process_index, settings.world_size),
    )
    questions = question_rows(usable, recipe, classes, seed)
    eval_questions = question_rows(eval_rows, recipe, classes, seed) if eval_rows else None
    if features is not None:
        features.verify([*usable, *(eval_rows or ())])
    # The start of an adapter depends on the seed alone, not on earlier random draws.
    set_seed(seed)
    model = select(model, recipe)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if base_id is not None and inner is not model:
        model.peft_config["default"].base_model_name_or_path = base_id
    # Only a loss that compares clips by their emotion takes it.
    emotions = {"emotions": classes} if "emotion_ids" in inner.loss_inputs else {}

    def samples(rows):
        return Samples(rows, processor, remember, features, allow_urls, **chosen, **emotions)

    def encode_prompts(batch):
        with ExitStack() as stack:
            if features is None:
                batch = [stack.enter_context(local_media(row, allow_urls)) for row in batch]
            else:
                batch = [features.fill(row) for row in batch]
            return encode(processor, batch, prompts=True, **chosen)

    trainer = EmotionTrainer(
        model=model,
        args=settings,
        train_dataset=samples(questions),
        eval_dataset=samples(eval_questions) if eval_rows else None,
        data_collator=EmotionCollator(processor),
        processing_class=processor,
        callbacks=[] if early_stopping is None else [EarlyStoppingCallback(early_stopping)],
        answer_rows=eval_questions,
        encode_prompts=encode_prompts,
    )
    result = trainer.train(resume_from_checkpoint=last_checkpoint(output) if resume else None)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    report = {
        "recipe": {name: getattr(recipe, name) for name in recipe.__dataclass_fields__},
        "rows": len(usable),
        "questions": len(questions),
        "skipped": skipped,
        "trained": trained,
        "loss": losses,
        "notes": notes_on(losses, settings),
        "log": trainer.state.log_history,
        "seconds": round(result.metrics["train_runtime"], 2),
    }
    save_model(trainer, output)
    if trainer.is_world_process_zero():
        write_whole(output / REPORT, json.dumps(report, indent=2) + "\n")
    inner.eval()
    return report


def save_model(trainer: EmotionTrainer, output: Path) -> None:
    """Save the model and processor beside the checkpoints in `output`: every file is whole, or none is there.

    Raises:
        OSError: they could not be written, for instance because the disk is full.
    """
    unfinished = output / ".unfinished"  # the same in every process: each of them saves a share of a sharded model
    try:
        trainer.save_model(str(unfinished))
        if trainer.is_world_process_zero():
            # A pickle of this run's arguments, which nobody who loads the folder should have to trust.
            (unfinished / "training_args.bin").unlink(missing_ok=True)
            for path in unfinished.iterdir():
                os.replace(path, output / path.name)
    except (OSError, SafetensorError) as error:
        raise OSError(f"the model could not be saved in {output}: {error}") from error
    finally:
        if trainer.is_world_process_zero():
            shutil.rmtree(unfinished, ignore_errors=True)


def notes_on(losses: Sequence[float], settings: TrainingArguments) -> list[str]:
    """A sentence for a run that taught nothing: the mean loss of its last quarter is not below that of its first."""
    if len(losses) < 2:
        return []
    quarter = max(1, len(losses) // 4)
    first, last = (sum(part) / quarter for part in (losses[:quarter], losses[-quarter:]))
    if last < first:
        return []
    rate = settings.learning_rate
    return [
        f"the loss did not fall: {first:.3f} over the first {quarter} steps, {last:.3f} over the last. Train longer "
        f"(--set epochs={2 * settings.num_train_epochs:g}), try another learning rate (--set learning_rate="
        f"{10 * rate:g} for a model with random weights, {rate / 10:g} if it jumps), or check the answers of the rows"
    ]


def available(recipe: Recipe, processor) -> list[str]:
    """The recipe's modalities that the model has.

    Raises:
        TrainingError: it has none of them.
    """
    present = [name for name in recipe.modalities if name in processor.modalities]
    if not present:
        raise TrainingError(f"{recipe.name} takes {', '.join(recipe.modalities)}; the model has {processor.modalities}")
    return present


def base_of(folder: str | Path) -> str:
    """The folder of the model: that of the base, for an adapter."""
    adapted = (Path(folder) / "adapter_config.json").is_file()
    return PeftConfig.from_pretrained(str(folder)).base_model_name_or_path if adapted else str(folder)


def wait_for(file: Path, seconds: float = 600) -> None:
    """Wait for a file that the first of several processes writes.

    Raises:
        TrainingError: it is not there after so many seconds.
    """
    end = time.monotonic() + seconds
    while not file.is_file():
        if time.monotonic() > end:
            raise TrainingError(
                f"{file} was not written by the first process within {seconds:.0f} s; an --output that all "
                "processes see is accepted"
            )
        time.sleep(0.1)


def size_of(folder: str | Path) -> str:
    """`"tiny"` or `"paper"`: which values of a recipe fit the model in a folder."""
    config = AutoConfig.from_pretrained(base_of(folder), trust_remote_code=False).text_config
    # Layers of a decoder: four attention matrices and two or three of the feed-forward, whatever the family.
    layer = 4 * config.hidden_size**2 + 3 * config.hidden_size * config.intermediate_size
    return "tiny" if layer * config.num_hidden_layers < TINY_PARAMETERS else "paper"


def load_trainable(folder: str | Path, device=None, quantize: bool = False):
    """The model and processor in a folder; an adapter comes with its base and is trainable.

    Args:
        device: as for `inference.load`.
        quantize: hold the language model in four bits, for QLoRA; needs bitsandbytes.
    """
    base_folder = base_of(folder)
    adapted = base_folder != str(folder)
    if quantize:
        base = AutoModelForMultimodalLM.from_pretrained(
            base_folder, quantization_config=four_bit(base_folder), device_map={"": 0}, trust_remote_code=False
        )
    else:
        base, processor = load(base_folder, device=device)
    if quantize or adapted:
        processor = AutoProcessor.from_pretrained(str(folder), trust_remote_code=False)
    return PeftModel.from_pretrained(base, str(folder), is_trainable=True) if adapted else base, processor


def four_bit(source: str) -> BitsAndBytesConfig:
    """QLoRA's quantization (NF4 with double quantization) of the language model alone.

    Raises:
        TrainingError: bitsandbytes is not installed.
    """
    if not is_bitsandbytes_available():
        raise TrainingError("QLoRA needs bitsandbytes: pip install bitsandbytes")
    with torch.device("meta"):
        model = AutoModelForMultimodalLM.from_config(AutoConfig.from_pretrained(source, trust_remote_code=False))
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=unquantized(model),
    )


def unquantized(model) -> list[str]:
    """Modules outside the language model, which stay as they are; names are matched from the root of the model."""
    return [f"model.{name}" for name, _ in model.base_model.named_children() if name != "language_model"] + ["lm_head"]


def run_phases(
    start: str | Path,
    rows: Sequence[Mapping] | Mapping[int, Sequence[Mapping]],
    recipes: Sequence[Recipe],
    output: str | Path,
    *,
    eval_rows: Sequence[Mapping] | Mapping[int, Sequence[Mapping]] | None = None,
    processor_fields: Mapping | None = None,
    resume: bool = False,
    quantize: bool = False,
    **options,
) -> list[dict]:
    """Train the phases of a paper one after the other; each loads the folder of the one before it.

    Args:
        start: folder of the model and processor that the first phase starts from.
        rows: data rows of all phases, or phase -> its rows.
        recipes: in their order. Parts that the model lacks (an ablation) are left out of them, and a phase without any
            part is skipped.
        output: folder; each phase writes `phase_<n>` in it.
        eval_rows: as `rows`.
        processor_fields: settings of the processor that differ from those in `start`.
        resume: completed phases are left as they are, and the interrupted one continues.
        quantize: hold the language model in four bits (QLoRA), for recipes with LoRA.
        options: for `run_phase`.

    Returns:
        the phases' reports, each with its `folder`.

    Raises:
        TrainingError: a recipe that contradicts the model in `start`, before anything is trained.
    """
    if quantize and any(recipe.lora is None for recipe in recipes):
        full = next(recipe.name for recipe in recipes if recipe.lora is None)
        raise TrainingError(f"{full} trains without LoRA; only an adapted language model can be held in four bits")
    config = AutoConfig.from_pretrained(base_of(start), trust_remote_code=False)
    for recipe in recipes:
        check_folder(config, recipe, start)
    folder, reports, checked = Path(start), [], {}
    for recipe in recipes:
        done = Path(output) / f"phase_{recipe.phase}"
        if resume and (done / REPORT).is_file():
            folder = done
            reports.append({**json.loads((done / REPORT).read_text(encoding="utf-8")), "folder": str(done)})
            continue
        model, processor = load_trainable(folder, "cpu" if options.get("use_cpu") else None, quantize)
        if processor_fields:
            processor = type(processor).from_pretrained(str(folder), **processor_fields)
        recipe = limited_to(recipe, [name for name, _ in without_adapter(model).base_model.named_children()])
        if recipe is None:
            continue
        phase_rows, phase_eval_rows = (
            choice[recipe.phase] if isinstance(choice, Mapping) else choice for choice in (rows, eval_rows)
        )
        report = run_phase(
            model,
            processor,
            phase_rows,
            recipe,
            done,
            eval_rows=phase_eval_rows,
            resume=resume,
            checked=checked,
            **options,
        )
        folder = done
        reports.append({**report, "folder": str(folder)})
    if not reports:
        raise TrainingError(f"the model in {start} has no part that these recipes train")
    return reports
