"""Rows -> one padded batch with labels on the answer only.

Letters: B batch, S text tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..data.schema import messages
from ..processing.processing_emotion import EmotionProcessor, pad


def conversation(row: Mapping) -> list[dict]:
    """A data row as chat messages, with its utterances beside the clip; see `data.schema.messages`."""
    turns = messages(row)
    if row.get("utterances"):
        turns[0]["content"][0]["utterances"] = row["utterances"]
    return turns


def encode(
    processor: EmotionProcessor,
    rows: Sequence[Mapping],
    emotions: Sequence[str] | None = None,
    prompts: bool = False,
    **options: Any,
) -> dict[str, torch.Tensor]:
    """Rows with answers -> the processor's batch with `labels` (B, S), -100 outside the answers.

    Args:
        processor: the model's.
        rows: data rows (`data.schema`); a row's `video` may be the `ClipInputs` of its clip.
        emotions: classes; the batch then has `emotion_ids` (B,), the number of each row's `label` among them, -1 for
            another.
        prompts: leave the answers out, for `generate`; there are no labels then.
        options: for the processor (`num_frames`, `modalities`, ...).
    """
    more = {"add_generation_prompt": True} if prompts else {"return_assistant_tokens_mask": True}
    batch = processor.apply_chat_template(
        [conversation({**row, "answer": None} if prompts else row) for row in rows],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=options,
        **more,
    )
    if prompts:
        return dict(batch)
    if emotions is not None:
        numbers = {emotion: i for i, emotion in enumerate(emotions)}
        batch["emotion_ids"] = torch.tensor([numbers.get(row.get("label"), -1) for row in rows])
    answer = torch.as_tensor(batch.pop("assistant_masks")).bool()
    return {**batch, "labels": batch["input_ids"].masked_fill(~answer, -100)}


def stack(samples: Sequence[Mapping[str, torch.Tensor]], padding: Mapping[str, int]) -> dict[str, torch.Tensor]:
    """Samples of batch size 1, encoded one by one, -> one batch, as if they had been encoded together.

    Args:
        samples: what `encode` gives for one row each; they need not have the same tensors.
        padding: the processor's `padding`.
    """
    return pad([{name: tensor[0] for name, tensor in sample.items()} for sample in samples], padding)


class EmotionCollator:
    """What `Trainer` needs as `data_collator`: rows, or samples that `encode` made before, -> one batch.

    Args:
        processor: the model's.
        features: a `FeatureCache` of the rows' clips, which are then not opened.
        options: as in `encode`.
    """

    def __init__(self, processor: EmotionProcessor, features: Any = None, **options: Any) -> None:
        self.processor = processor
        self.features = features
        self.options = options

    def __call__(self, rows: Sequence[Mapping]) -> dict[str, torch.Tensor]:
        if "input_ids" in rows[0]:
            return stack(rows, self.processor.padding)
        if self.features is not None:
            rows = [self.features.fill(row) for row in rows]
        return encode(self.processor, rows, **self.options)
