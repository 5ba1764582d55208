"""Training by recipe, phase after phase: each starts from the folder that the one before it wrote.

    hf-emotion train omni_emotion --size tiny --data DEMO --output runs/omni

A phase is a `Trainer` run over the rows' questions with only the parts moving that its recipe names; its folder holds
the model or the adapter, the processor and `phase.json`, what was trained and how the loss went. A run that was killed
continues from its last checkpoint with `--resume`, and ends with the weights that it would have had.

On many devices: `torchrun --nproc_per_node N -m hf_emotion.cli train ...`, or
`accelerate launch --config_file CONFIG -m hf_emotion.cli train ...` with one of the files in `accelerate/`.
"""

import inspect
import json
import os
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from .recipe import OWN_TASKS, Recipe, limited_to

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
    asked = [question for row in rows for question in questions_of(row, recipe, options or labels_of(rows), seed)]
    if not asked:
        raise TrainingError(f"none of the {len(rows)} rows answers {' or '.join(recipe.tasks)} ({recipe.name})")
    return asked


def labels_of(rows: Sequence[Mapping]) -> list[str]:
    """The labels that occur, sorted."""
    return sorted({row["label"] for row in rows if row.get("label")})


def questions_of(row: Mapping, recipe: Recipe, options: Sequence[str], seed: int) -> list[dict]:
    """The recipe's questions about one row."""
    from ..data.questions import instruction_rows
    from ..data.schema import FIELDS

    row = {name: row.get(name) for name in FIELDS}
    asked = []
    for task in recipe.tasks:
        if task in OWN_TASKS:
            answer, questions = row[OWN_TASKS[task]], recipe.questions[task]
            chosen = random.Random(f"{seed}/{task}/{row['id']}").sample(questions, min(recipe.per_task, len(questions)))
            made = [
                {**row, "id": f"{row['id']}#{task}-{number}", "question": question, "answer": answer}
                for number, question in enumerate(chosen if answer else ())
            ]
        else:
            made = instruction_rows(row, [task], per_task=recipe.per_task, seed=seed, options=options)
        mark = f"{recipe.marks[task]} " if task in recipe.marks else ""
        asked += [{**item, "question": mark + item["question"]} for item in made]
    return [question for question in asked if question["answer"].strip()]


class Samples:
    """Questions as the model's inputs, made when they are asked for; each clip is decoded once while it is remembered.

    Args:
        rows: from `question_rows`.
        processor: the model's.
        remember: keep what was made, for the next epoch.
        features: a `FeatureCache` of the clips, which are then not opened, and nothing is remembered.
        options: as for `collator.encode`.
    """

    def __init__(self, rows, processor, remember=True, features=None, **options):
        self.rows = list(rows)
        self.processor = processor
        self.features = features
        self.options = options
        self.made = {} if remember and features is None else None

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        from .collator import encode

        if self.made is not None and index in self.made:
            return self.made[index]
        if self.features is not None:
            return self.features.encode(self.processor, self.rows[index], **self.options)
        sample = encode(self.processor, [self.rows[index]], **self.options)
        if self.made is not None:
            self.made[index] = sample
        return sample


def select(model, recipe: Recipe):
    """The model with the recipe's parts trained and all others frozen; with LoRA beside them where it is asked for.

    Raises:
        TrainingError: the model lacks a part, or has other adapters than the recipe asks for.
    """
    base = without_adapter(model)
    adapted = base is not model
    parts = {name for name, _ in base.base_model.named_children()}
    unknown = sorted(set(recipe.trains) - parts)
    if unknown:
        raise TrainingError(
            f"{recipe.name} trains {unknown[0]!r}, which the model lacks; it has {', '.join(sorted(parts))}"
        )
    if recipe.lora is not None:
        return resumed_adapter(model, recipe) if adapted else with_lora(model, recipe)
    if adapted:
        raise TrainingError(f"{recipe.name} trains no adapter, and the model has one; merge it first")
    bare = {name for name, _ in model.base_model.named_parameters(recurse=False)}
    model.freeze(tuple(sorted((parts | bare) - set(recipe.trains))))
    return model


def without_adapter(model):
    """The model that an adapter was put around, or the model itself."""
    from peft import PeftModel

    return model.get_base_model() if isinstance(model, PeftModel) else model


def lora_config(recipe: Recipe):
    """PEFT's configuration of a recipe: LoRA in the language model alone, the trained parts whole in the adapter."""
    from peft import LoraConfig

    # Towers own layers of the same names, so these are told by their place.
    targets = "|".join(recipe.lora["targets"])
    return LoraConfig(
        r=recipe.lora["r"],
        lora_alpha=recipe.lora["alpha"],
        lora_dropout=recipe.lora["dropout"],
        target_modules=rf"model\.language_model\..*\.({targets})",
        modules_to_save=list(recipe.trains) or None,
        # Without it, PEFT's automatic classes do not know the adapter again.
        task_type="CAUSAL_LM",
    )


def with_lora(model, recipe: Recipe):
    from peft import get_peft_model

    return get_peft_model(model, lora_config(recipe))


def resumed_adapter(model, recipe: Recipe):
    """A model whose adapter an earlier phase trained, to train it on."""
    [found], wanted = model.peft_config.values(), lora_config(recipe)
    differing = [
        name
        for name in ("r", "lora_alpha", "target_modules", "modules_to_save")
        if set_of(getattr(found, name)) != set_of(getattr(wanted, name))
    ]
    if differing:
        name = differing[0]
        raise TrainingError(
            f"{recipe.name} asks for an adapter with {name} {getattr(wanted, name)!r}; the one of the phase before has "
            f"{getattr(found, name)!r}"
        )
    return model


def set_of(value):
    return set(value) if isinstance(value, (list, tuple, set)) else value


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint in a folder; `trainer_state.json` is written last."""
    found = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return str(max(found, key=lambda path: int(path.name.split("-")[1]))) if found else None


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
        features: folder of a feature cache; towers then do not run.
        eval_rows: rows to evaluate on after each epoch: the loss, and the answers' emotion words (`eval_f`).
        early_stopping: end after so many evaluations without a better `eval_f`, and keep the best weights.
        skip_bad_rows: leave out rows that cannot be used, and count them; by default they are an error before training.
        resume: continue from the newest checkpoint in `output`, if there is one.
        base_id: Hub id that an adapter shall name as its base; by default where the base was loaded from.
        arguments: more of `TrainingArguments`.

    Returns:
        what `phase.json` holds: the recipe, the names of the tensors that trained, `loss` step by step, `log` with all
        that was logged, `seconds`, and `skipped` rows with their reasons.

    Raises:
        BadRowsError, StaleFeaturesError, TrainingError: before anything is trained.
    """
    from transformers import EarlyStoppingCallback, TrainingArguments, set_seed

    from ..data.files import write_whole
    from .cache import FeatureCache
    from .check_rows import usable
    from .collator import EmotionCollator, encode
    from .trainer import EmotionTrainer

    if early_stopping is not None and not eval_rows:
        raise TrainingError("early stopping needs rows to evaluate on")
    output = Path(output)
    chosen = {"num_frames": recipe.num_frames, "modalities": available(recipe, processor)}
    if features is not None:
        features = FeatureCache(features)
        features.check(model, processor, **chosen)
    classes = options or labels_of(rows)
    # Features are of clips that could be read; whether they still are those clips, `verify` says.
    good, skipped = usable(
        rows,
        None if features is not None else processor,
        skip=skip_bad_rows,
        asked=lambda row: questions_of(row, recipe, classes, seed),
        progress=sys.stderr.isatty(),
    )
    if features is not None:
        features.verify(good)
    questions = question_rows(good, recipe, classes, seed)
    # What an adapter starts from depends on the seed alone, and not on what was drawn before.
    set_seed(seed)
    model = select(model, recipe)
    inner = without_adapter(model)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if base_id is not None and inner is not model:
        model.peft_config["default"].base_model_name_or_path = base_id
    # Only a loss that compares clips by their emotion asks for it.
    emotions = {"emotions": classes} if "emotion_ids" in inspect.signature(inner.forward).parameters else {}
    samples = Samples(questions, processor, remember, features, **chosen, **emotions)
    asked_back = None
    if eval_rows:
        asked_back = question_rows(eval_rows, recipe, classes, seed)
        if features is not None:
            features.verify(eval_rows)

    def encode_prompts(batch):
        if features is None:
            return encode(processor, batch, prompts=True, **chosen)
        return encode(processor, [features.fill(row) for row in batch], prompts=True, **chosen)

    each = per_device_batch_size or max(1, recipe.batch_size // int(os.environ.get("WORLD_SIZE", "1")))
    together = each * int(os.environ.get("WORLD_SIZE", "1"))
    by_epoch = "epoch" if eval_rows else "no"
    settings = {
        "output_dir": str(output),
        "num_train_epochs": recipe.epochs,
        "max_steps": recipe.max_steps or -1,
        "per_device_train_batch_size": each,
        "per_device_eval_batch_size": each,
        "gradient_accumulation_steps": max(1, recipe.batch_size // together),
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
        "eval_strategy": by_epoch,
        "report_to": "none",
        "disable_tqdm": not sys.stderr.isatty(),
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "dataloader_pin_memory": False,
        "seed": seed,
    }
    callbacks = []
    if early_stopping is not None:
        callbacks.append(EarlyStoppingCallback(early_stopping))
        settings |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_f", "greater_is_better": True}
    trainer = EmotionTrainer(
        model=model,
        args=TrainingArguments(**{**settings, **arguments}),
        train_dataset=samples,
        eval_dataset=Samples(asked_back, processor, remember, features, **chosen, **emotions) if eval_rows else None,
        data_collator=EmotionCollator(processor),
        processing_class=processor,
        callbacks=callbacks,
        answer_rows=asked_back,
        encode_prompts=encode_prompts,
    )
    result = trainer.train(resume_from_checkpoint=last_checkpoint(output) if resume else None)
    history = trainer.state.log_history
    report = {
        "recipe": {name: getattr(recipe, name) for name in recipe.__dataclass_fields__},
        "questions": len(samples),
        "skipped": skipped,
        "trained": trained,
        "loss": [entry["loss"] for entry in history if "loss" in entry],
        "log": history,
        "seconds": round(result.metrics["train_runtime"], 2),
    }
    trainer.save_model(str(output))
    if trainer.is_world_process_zero():
        # A pickle of this run's arguments, which nobody who loads the folder should have to trust.
        (output / "training_args.bin").unlink(missing_ok=True)
        write_whole(output / REPORT, json.dumps(report, indent=2) + "\n")
    inner.eval()
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


def load_trainable(folder: str | Path, device=None, quantize: bool = False):
    """The model and processor in a folder; an adapter's comes with its base, to be trained on.

    Args:
        device: as for `inference.load`.
        quantize: hold the language model in four bits, for QLoRA; needs bitsandbytes.
    """
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForMultimodalLM, AutoProcessor

    from ..inference import load

    adapted = (Path(folder) / "adapter_config.json").is_file()
    base_folder = PeftConfig.from_pretrained(str(folder)).base_model_name_or_path if adapted else str(folder)
    if quantize:
        base = AutoModelForMultimodalLM.from_pretrained(
            base_folder, quantization_config=four_bit(base_folder), device_map={"": 0}, trust_remote_code=False
        )
    else:
        base, processor = load(base_folder, device=device)
    if quantize or adapted:
        processor = AutoProcessor.from_pretrained(str(folder), trust_remote_code=False)
    return PeftModel.from_pretrained(base, str(folder), is_trainable=True) if adapted else base, processor


def four_bit(source: str):
    """The quantization of QLoRA (NF4, twice quantized) for the language model alone.

    Raises:
        TrainingError: bitsandbytes is not installed.
    """
    import torch
    from transformers import AutoConfig, AutoModelForMultimodalLM, BitsAndBytesConfig
    from transformers.utils import is_bitsandbytes_available

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
    """What stays as it is when the language model is quantized; names are matched from the root of the model."""
    return [f"model.{name}" for name, _ in model.base_model.named_children() if name != "language_model"] + ["lm_head"]


def run_phases(
    start: str | Path,
    rows: Sequence[Mapping],
    recipes: Sequence[Recipe],
    output: str | Path,
    *,
    resume: bool = False,
    quantize: bool = False,
    **options,
) -> list[dict]:
    """Train the phases of a paper one after the other; each loads the folder of the one before it.

    Args:
        start: folder of the model and processor that phase 1 starts from.
        rows: data rows.
        recipes: in their order. Parts that the model lacks (an ablation) are left out of them, and a phase without any
            part is skipped.
        output: folder; each phase writes `phase_<n>` in it.
        resume: phases that were completed are left as they are, and the one that was interrupted continues.
        quantize: hold the language model in four bits (QLoRA), for recipes with LoRA.
        options: for `run_phase`.

    Returns:
        the phases' reports, each with its `folder`.
    """
    if quantize and any(recipe.lora is None for recipe in recipes):
        full = next(recipe.name for recipe in recipes if recipe.lora is None)
        raise TrainingError(f"{full} trains without LoRA; only what is adapted can be held in four bits")
    folder, reports = Path(start), []
    for recipe in recipes:
        done = Path(output) / f"phase_{recipe.phase}"
        if resume and (done / REPORT).is_file():
            folder = done
            reports.append({**json.loads((done / REPORT).read_text(encoding="utf-8")), "folder": str(done)})
            continue
        model, processor = load_trainable(folder, "cpu" if options.get("use_cpu") else None, quantize)
        parts = [name for name, _ in without_adapter(model).base_model.named_children()]
        recipe = limited_to(recipe, parts)
        if recipe is None:
            continue
        report = run_phase(model, processor, rows, recipe, done, resume=resume, **options)
        folder = done
        reports.append({**report, "folder": str(folder)})
    if not reports:
        raise TrainingError(f"the model in {start} has no part that these recipes train")
    return reports
