"""Fine-tune a model on your clips with LoRA, with nothing but transformers, peft and this package's collator.

    python examples/02_fine_tune.py --data rows.jsonl --output_dir out --num_train_epochs 3 [--model MODEL] [--bf16]

MODEL is a folder or a Hub id; by default the model in the box is trained. Each row of the table names a clip and the
answer that the model should give: {"id": "a", "video": "a.mp4", "question": "How does she feel?", "answer": "Relieved:
she smiles and her voice is soft.", "utterances": [{"start": 0.2, "end": 1.1, "text": "There you are."}]}. Every field
of `TrainingArguments` is an option. Several GPUs: `torchrun --nproc_per_node N` instead of `python`. The adapter and
the processor are written to --output_dir.
"""

import sys
from dataclasses import dataclass, field

from peft import LoraConfig, get_peft_model
from transformers import AutoModelForMultimodalLM, AutoProcessor, HfArgumentParser, Trainer, TrainingArguments

import hf_emotion  # noqa: F401  (registers the models)
from hf_emotion.data.rows import read_rows
from hf_emotion.starter import FOLDER
from hf_emotion.training.check_rows import check_rows
from hf_emotion.training.collator import EmotionCollator


@dataclass
class Choices:
    """What to train, and on what."""

    data: str = field(metadata={"help": "table of rows: jsonl, json or csv, or a folder that datasets saved"})
    model: str = field(default=str(FOLDER), metadata={"help": "folder or Hub id of the base model"})
    num_frames: int = field(default=8, metadata={"help": "frames of each clip"})
    rank: int = field(default=16, metadata={"help": "of LoRA"})
    dropout: float = field(default=0.05, metadata={"help": "of LoRA"})
    skip_bad_rows: bool = field(default=False, metadata={"help": "leave out rows that cannot be used"})


def main(arguments: list[str] | None = None) -> None:
    choices, settings = HfArgumentParser((Choices, TrainingArguments)).parse_args_into_dataclasses(arguments)
    # Rows are not tensors yet, so Trainer must not drop their columns.
    settings.remove_unused_columns = False
    settings.label_names = ["labels"]

    processor = AutoProcessor.from_pretrained(choices.model, trust_remote_code=False)
    model = AutoModelForMultimodalLM.from_pretrained(choices.model, trust_remote_code=False)

    # Every bad row is reported before training starts.
    rows, skipped = check_rows(read_rows(choices.data), processor, skip=choices.skip_bad_rows, make_questions=has_both)
    for reason in skipped:
        print(f"skipped {reason}", file=sys.stderr)

    # LoRA in the language model only, selected by its place: towers have layers of the same names. Projectors and
    # Q-Formers are trained in full and saved with the adapter.
    trained = [name for name, _ in model.base_model.named_children() if name not in model.frozen_parts]
    adapter = LoraConfig(
        r=choices.rank,
        lora_alpha=2 * choices.rank,
        lora_dropout=choices.dropout,
        target_modules=r"model\.language_model\..*\.(q_proj|k_proj|v_proj|o_proj)",
        modules_to_save=[name for name in trained if name != "language_model"],
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, adapter)
    model.print_trainable_parameters()

    trainer = Trainer(
        model=model,
        args=settings,
        train_dataset=rows,
        data_collator=EmotionCollator(processor, num_frames=choices.num_frames),
        processing_class=processor,
    )
    trainer.train(resume_from_checkpoint=settings.resume_from_checkpoint)
    trainer.save_model()


def has_both(row: dict) -> bool:
    """Whether the row has a question and an answer."""
    return bool(row["question"] and row["answer"])


if __name__ == "__main__":
    main()
