"""`Trainer` with the two things it lacks: the terms of a loss in the log, and evaluation by `generate`.

`Seq2SeqTrainer` generates too, but from all of `input_ids`, which for a language model hold the answer.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from accelerate.utils import gather_object
from transformers import Trainer

from ..answers.words import emotion_words
from ..evaluation.sets import lexicon_clips


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


class EmotionTrainer(Trainer):
    """`Trainer` for this package's models; whatever they take and give otherwise, `Trainer` can do itself.

    - A model's `loss_terms` (name -> scalar) are logged as `loss_<name>`, means over the batches since the last log; in
      distributed training those of the first process.
    - With `answer_rows`, each evaluation also generates answers to these rows' questions and adds their scores to the
      metrics, `eval_f` and others: early stopping and the choice of the best checkpoint may go by them.

    Args:
        answer_rows: data rows with questions; in distributed training each process answers its share.
        encode_prompts: rows -> a batch without answers.
        score: rows and their answers -> scores.
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
        self.terms = defaultdict(list)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if model.training:
            for name, term in (outputs.get("loss_terms") or {}).items():
                self.terms[name].append(term.detach())
        return (loss, outputs) if return_outputs else loss

    def log(self, logs, start_time=None):
        if "loss" in logs:
            logs.update({f"loss_{name}": torch.stack(terms).mean().item() for name, terms in self.terms.items()})
            self.terms.clear()
        super().log(logs, start_time)

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
        own = list(range(self.args.process_index, len(rows), self.args.world_size))
        size = self.args.per_device_eval_batch_size
        found = []
        for first in range(0, len(own), size):
            batch = self._prepare_inputs(self.encode_prompts([rows[i] for i in own[first : first + size]]))
            generated = model.generate(**batch, max_new_tokens=self.max_new_tokens, do_sample=False)
            found += self.processing_class.batch_decode(
                generated[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
            )
        model.train(training)
        pairs = list(zip(own, found, strict=True))
        if self.args.world_size > 1:
            pairs = gather_object(pairs)
        return [text for _, text in sorted(pairs)]


__all__ = ["EmotionTrainer", "word_scores"]
