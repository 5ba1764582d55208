"""Rows -> one padded batch with labels on the answer only.

Letters: B batch, S text tokens.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

import torch

from ..data.schema import messages
from ..processing.processing_emotion import EmotionProcessor, pad, source_of

# Names of the roles in LLaVA's files.
ROLES = {"human": "user", "gpt": "assistant"}


def conversation(row: Mapping) -> list[dict]:
    """A row as chat messages, with its utterances beside the clip.

    Args:
        row: a data row (`data.schema.messages`), or one as trl and LLaMA-Factory write it: `messages` (or
            `conversations` of `from` and `value`) with columns `videos`, `audios`, `images`. There, a `<video>` in a
            text, or a part `{"type": "video"}` without a source, takes the next entry of its column; entries without
            such a mark stand before the first question.

    Raises:
        ValueError: marks and media differ in number.
    """
    turns = messages(row) if not (row.get("messages") or row.get("conversations")) else with_columns(row)
    if row.get("utterances"):
        media = (part for turn in turns if not isinstance(turn["content"], str) for part in turn["content"])
        next(part for part in media if part["type"] != "text")["utterances"] = row["utterances"]
    return turns


def with_columns(row: Mapping) -> list[dict]:
    """The messages of a row with the entries of its media columns in their places; see `conversation`."""
    columns = {}
    for kind in ("video", "audio", "image"):
        entries = row.get(f"{kind}s") or row.get(kind) or []
        columns[kind] = list(entries) if isinstance(entries, (list, tuple)) else [entries]
    left = {kind: list(entries) for kind, entries in columns.items()}

    def take(kind: str) -> Any:
        if not left[kind]:
            raise ValueError(
                f"row {row.get('id')!r} has more {kind} places in its messages than its {len(columns[kind])} {kind} "
                f"entries; one for each is accepted"
            )
        return {"type": kind, kind: left[kind].pop(0)}

    turns = []
    for turn in row.get("messages") or row["conversations"]:
        role = turn.get("role") or ROLES.get(turn.get("from") or "", turn.get("from"))
        content = turn["content"] if turn.get("content") is not None else turn.get("value") or ""
        marked = [kind for kind, entries in columns.items() if entries]
        if isinstance(content, str):
            # Only what has a column is a mark; all else is text.
            pieces = re.split(f"<({'|'.join(marked)})>", content) if marked else [content]
            parts = [take(piece) if i % 2 else {"type": "text", "text": piece} for i, piece in enumerate(pieces)]
            content = [part for part in parts if part["type"] != "text" or part["text"].strip()]
        else:
            bare = [part.get("type") in marked and source_of(part) is None for part in content]
            content = [
                take(part["type"]) if is_bare else dict(part) for part, is_bare in zip(content, bare, strict=True)
            ]
        turns.append({"role": role, "content": content})
    first = next((turn for turn in turns if turn["role"] == "user"), None)
    for kind, entries in left.items():
        if not entries:
            continue
        if first is None or len(entries) < len(columns[kind]):
            raise ValueError(
                f"row {row.get('id')!r} has {len(columns[kind])} {kind} entries and "
                f"{len(columns[kind]) - len(entries)} places for them; one for each is accepted"
            )
        first["content"] = [*(take(kind) for _ in columns[kind]), *first["content"]]
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
        rows: see `conversation`; a row's `video` may be the `ClipInputs` of its clip.
        emotions: classes; the batch then has `emotion_ids` (B,), the number of each row's `label` among them, -1 for
            another, and `clip_ids` (B,), a number for each row's `id`, -1 without one.
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
        batch["emotion_ids"] = torch.tensor([numbers.get(row.get("label") or "", -1) for row in rows])
        batch["clip_ids"] = torch.tensor([crc32(str(row["id"]).encode()) if row.get("id") else -1 for row in rows])
    answer = torch.as_tensor(batch.pop("assistant_masks")).bool()
    return {**batch, "labels": batch["input_ids"].masked_fill(~answer, -100)}


def stack(samples: Sequence[Mapping[str, torch.Tensor]], padding: Mapping[str, int]) -> dict[str, torch.Tensor]:
    """Samples of batch size 1, encoded one by one, -> one batch, as if they had been encoded together.

    Args:
        samples: what `encode` gives for one row each; they need not have the same tensors.
        padding: the processor's `padding`.
    """
    return pad([{name: tensor[0] for name, tensor in sample.items()} for sample in samples], padding)


def encode_preferences(processor: EmotionProcessor, rows: Sequence[Mapping], **options: Any) -> dict[str, torch.Tensor]:
    """Rows with a better and a worse answer -> a batch for trl's `DPOTrainer`: B better answers, then B worse ones.

    Args:
        processor: the model's.
        rows: with `chosen` and `rejected`, messages or texts, each the answer to `prompt` (messages, with media columns
            as in `conversation`) or to a data row's question.
        options: for the processor.

    Returns:
        the processor's batch of 2 B rows, with `completion_mask` (2 B, S): 1 on the answers.
    """
    answered = []
    for kind in ("chosen", "rejected"):
        for row in rows:
            reply = row[kind]
            if row.get("prompt"):
                reply = [{"role": "assistant", "content": reply}] if isinstance(reply, str) else reply
                answered.append({**row, "messages": [*row["prompt"], *reply]})
            else:
                answered.append({**row, "answer": reply if isinstance(reply, str) else reply[0]["content"]})
    batch = encode(processor, answered, **options)
    is_answer = batch.pop("labels") != -100
    # Earlier answers in a prompt are part of the question: only the last run of labels is compared.
    runs = (is_answer.int().diff(dim=1, prepend=torch.zeros(len(is_answer), 1, dtype=torch.int)) == 1).cumsum(1)
    return {**batch, "completion_mask": (is_answer & (runs == runs.amax(1, keepdim=True))).long()}


class EmotionCollator:
    """What `Trainer` needs as `data_collator`: rows, or samples that `encode` made before, -> one batch.

    trl's `SFTTrainer` and, for rows with `chosen` and `rejected`, its `DPOTrainer` take it too.

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
        if not any(name in rows[0] for name in ("question", "messages", "conversations", "prompt")):
            columns = ", ".join(rows[0]) or "nothing"
            raise ValueError(
                f"the rows have neither a question nor messages, only {columns}; if their columns were removed, set "
                f"remove_unused_columns=False in TrainingArguments"
            )
        if self.features is not None:
            rows = [self.features.fill(row) for row in rows]
        if "chosen" in rows[0] and "rejected" in rows[0]:
            return encode_preferences(self.processor, rows, **self.options)
        return encode(self.processor, rows, **self.options)
