"""`Trainer` with two additions: the terms of a loss in the log, and evaluation by `generate`.

`Seq2SeqTrainer` generates too, but from all of `input_ids`, which for a language model contain the answer.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file
from torch.utils.data import SequentialSampler
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler

from ..answers.words import emotion_words
from ..evaluation.sets import lexicon_clips
from ..modeling.modeling_emotion import answer_positions

# Of a checkpoint: the buffers that its weights leave out.
BUFFERS = "buffers.safetensors"


def word_scores(rows: Sequence[Mapping], texts: Sequence[str]) -> dict[str, float]:
    """How well the emotion words in answers fit the rows' labels: `lexicon_clips`' F at both levels, and at the first.

    Raises:
        ValueError: a row without labels.
    """
    references = [row.get("labels") or [label for label in [row.get("label")] if label] for row in rows]
    if not all(references):
        row = rows[references.index([])]
        raise ValueError(f"row {row.get('id')} has neither labels nor a label to compare the answer with")
    scores = lexicon_clips([emotion_words(text) for text in texts], references).scores()
    return {name: scores[name] for name in ("f", "level1_f", "level1_precision", "level1_recall")}


class SeededLengthSampler(LengthGroupedSampler):
    """transformers' grouping by length, in an order that depends on the seed and the epoch alone."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int) -> None:
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.generator.manual_seed(self.seed + epoch)


class EmotionTrainer(Trainer):
    """`Trainer` for this package's models; anything but the following works with a plain `Trainer` too.

    - A model's `loss_terms` (name -> scalar, its part of the batch's loss before weighting) are logged as
      `loss_<name>` on the scale of the logged `loss`: added up over the batches of a step and over processes, like the
      loss itself, and averaged over the steps since the last log.
    - In training, logits are computed for the answers alone: the loss is the same, and media tokens take no memory
      for logits.
    - With `train_sampling_strategy="group_by_length"`, clips are grouped by the `lengths` of the data set, which need
      no clip to be opened.
    - Two runs with the same seed are equal, whatever the number of loader workers, and wherever one was resumed:
      checkpoints hold the buffers that weights leave out, such as ESVA's queue of earlier clips.
    - With `answer_rows`, each evaluation also generates answers to the questions of these rows and adds their scores
      to the metrics (`eval_f` and others), for early stopping and the choice of the best checkpoint.

    Args:
        answer_rows: data rows with questions; in distributed training each process answers its share.
        encode_prompts: rows -> a batch without answers.
        score: (rows, answers) -> scores.
        max_new_tokens: of an answer.
        others: `Trainer`'s.
    """

    def __init__(
        self,
        *args,
        answer_rows: Sequence[Mapping] | None = None,
        encode_prompts: Callable | None = None,
        score: Callable[[Sequence[Mapping], Sequence[str]], dict[str, float]] = word_scores,
        max_new_tokens: int = 64,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.answer_rows = answer_rows
        self.encode_prompts = encode_prompts
        self.score = score
        self.max_new_tokens = max_new_tokens
        self.term_sums = defaultdict(float)
        self.step_of_last_log = None
        self.terms_are_sums = False
        self.seeded_step = self.batch_of_step = -1

    def training_step(self, model, inputs, num_items_in_batch=None):
        # Dropout depends on the seed and the place of the batch alone: not on the number of loader workers, which draw
        # from the same generator, and not on where a resumed run started.
        step = self.state.global_step
        self.batch_of_step = self.batch_of_step + 1 if step == self.seeded_step else 0
        self.seeded_step = step
        place = f"{self.args.seed}/{step}/{self.batch_of_step}/{self.args.process_index}"
        torch.manual_seed(random.Random(place).getrandbits(63))
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self.step_of_last_log is None:
            self.step_of_last_log = self.state.global_step
        # A smoothed loss, or one of the caller's, is of all logits.
        if model.training and "labels" in inputs and self.label_smoother is None and self.compute_loss_func is None:
            inputs = {"logits_to_keep": answer_positions(inputs["labels"]), **inputs}
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if model.training:
            # Without the number of tokens in a step, each batch's loss is a mean, and Trainer averages over batches.
            share = 1.0 if num_items_in_batch is not None else 1 / self.current_gradient_accumulation_steps
            for name, term in (outputs.get("loss_terms") or {}).items():
                self.term_sums[name] += term.detach() * share
            self.terms_are_sums = num_items_in_batch is not None and self.args.average_tokens_across_devices
        return (loss, outputs) if return_outputs else loss

    def log(self, logs, start_time=None):
        if "loss" in logs and self.step_of_last_log is not None:
            logs.update(self.mean_terms(self.state.global_step - self.step_of_last_log))
            self.term_sums.clear()
            self.step_of_last_log = self.state.global_step
        super().log(logs, start_time)

    def temporary_buffers(self) -> dict[str, torch.Tensor]:
        """The buffers that are not saved with the weights, by name."""
        modules = self.accelerator.unwrap_model(self.model).named_modules()
        buffers = (
            (f"{name}.{buffer}", getattr(module, buffer))
            for name, module in modules
            for buffer in sorted(module._non_persistent_buffers_set)
        )
        return {name: buffer for name, buffer in buffers if buffer is not None}

    def _save_rng_state(self, output_dir):
        super()._save_rng_state(output_dir)
        if self.args.should_save:
            # Copies, since safetensors refuses buffers that share their memory.
            save_file(
                {name: buffer.clone() for name, buffer in self.temporary_buffers().items()}, Path(output_dir, BUFFERS)
            )

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        file = Path(resume_from_checkpoint, BUFFERS)
        if file.is_file():  # not in checkpoints of version 0.1.0
            present = self.temporary_buffers()
            for name, buffer in load_file(file).items():
                present[name].copy_(buffer)

    def _get_train_sampler(self, train_dataset=None):
        lengths = self._lengths(self.train_dataset if train_dataset is None else train_dataset)
        if lengths is None:
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return SeededLengthSampler(self.args.train_batch_size * self.args.gradient_accumulation_steps, lengths, seed)

    def _get_eval_sampler(self, eval_dataset):
        if self._lengths(eval_dataset) is None:
            return super()._get_eval_sampler(eval_dataset)
        return None if self.args.world_size > 1 else SequentialSampler(eval_dataset)

    def _lengths(self, dataset) -> list[int] | None:
        """Lengths to group by; transformers would encode every sample, and take its batch dimension for its length."""
        return getattr(dataset, "lengths", None) if self.args.train_sampling_strategy == "group_by_length" else None

    def mean_terms(self, num_steps: int) -> dict[str, float]:
        """`loss_<name>` per step, of all processes."""
        world = self.args.world_size
        sums = [{name: float(term) for name, term in self.term_sums.items()}]
        sums = gather_object(sums) if world > 1 else sums
        scale = num_steps * (1 if self.terms_are_sums else world)
        names = sorted({name for terms in sums for name in terms})
        return {f"loss_{name}": sum(terms.get(name, 0.0) for terms in sums) / scale for name in names}

    def evaluation_loop(self, dataloader, description, *args, metric_key_prefix="eval", **kwargs):
        output = super().evaluation_loop(dataloader, description, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self.answer_rows:
            scores = self.score(self.answer_rows, self.answers(self.answer_rows))
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in scores.items()})
        return output

    @torch.no_grad()
    def answers(self, rows: Sequence[Mapping]) -> list[str]:
        """Greedy answers to the rows' questions, from all processes."""
        model = self.accelerator.unwrap_model(self.model)
        training = model.training
        model.eval()
        # Each process answers every n-th row.
        numbers = list(range(self.args.process_index, len(rows), self.args.world_size))
        size = self.args.per_device_eval_batch_size
        texts = []
        for first in range(0, len(numbers), size):
            batch = self._prepare_inputs(self.encode_prompts([rows[i] for i in numbers[first : first + size]]))
            generated = model.generate(**batch, max_new_tokens=self.max_new_tokens, do_sample=False)
            texts += self.processing_class.batch_decode(
                generated[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
            )
        model.train(training)
        pairs = list(zip(numbers, texts, strict=True))
        if self.args.world_size > 1:
            pairs = gather_object(pairs)
        return [text for _, text in sorted(pairs)]


__all__ = ["EmotionTrainer", "word_scores"]
