"""The one row every dataset becomes, as `datasets.Features`, and the conversation that is derived from it.

A row is one question about one clip (question and answer may be missing: then it is the clip alone). What a source does
not tell is None; an empty list means that the source says there is nothing. Paths are plain strings: the `Video()` and
`Audio()` features of datasets decode with torchcodec, while our processor decodes each file once, for all towers.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from .files import short


class RowError(ValueError):
    """A row that does not follow the schema."""


TEXT_FIELDS = ("id", "video", "audio", "subtitle", "question", "answer", "label", "description", "source", "licence")
FIELDS = (
    "id",
    "video",
    "audio",
    "utterances",
    "subtitle",
    "question",
    "answer",
    "labels",
    "label",
    "valence",
    "description",
    "source",
    "licence",
)


@cache
def _features():
    # Reading needs no datasets; importing it would take most of a second from every command of the command line.
    from datasets import Features, List, Value

    span = {"start": Value("float64"), "end": Value("float64"), "text": Value("string"), "speaker": Value("string")}
    kinds = {"utterances": List(span), "labels": List(Value("string")), "valence": Value("float64")}
    return Features({name: kinds.get(name, Value("string")) for name in FIELDS})


def __getattr__(name: str):
    if name == "FEATURES":
        return _features()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def make_row(**fields) -> dict:
    """One checked row with every field of `FIELDS`, None where nothing was given.

    Args: `id` (text, never empty: `00012` and `None` are names); `video`, `audio` (paths); `utterances` (list of
    `start`, `end` in seconds from the start of the clip, `text`, `speaker`); `subtitle`; `question`; `answer`; `labels`
    (open-vocabulary words); `label` (one class of a closed set); `valence` (on the source's own scale); `description`;
    `source`; `licence`.
    Raises `RowError` naming the row, the field, what was found and what is accepted.
    """
    unknown = sorted(set(fields) - set(FIELDS))
    name = fields.get("id")
    if unknown:
        raise RowError(f"row {name!r}: unknown fields {unknown}; a row has {', '.join(FIELDS)}")
    if not isinstance(name, str) or not name.strip():
        raise RowError(f"row {short(name)}: 'id' is {short(name)}; a non-empty text is needed")
    name = name if len(name) <= 100 else f"{name[:97]}..."  # as messages show it
    row = dict.fromkeys(FIELDS)
    row.update(fields)
    for field in TEXT_FIELDS:
        _check_text(name, field, row[field])
    if row["valence"] is not None:
        row["valence"] = _finite(name, "valence", row["valence"])
    if row["labels"] is not None:
        labels = row["labels"]
        if not isinstance(labels, Sequence) or isinstance(labels, str) or not all(isinstance(w, str) for w in labels):
            raise RowError(f"row {name!r}: 'labels' is {short(labels)}; a list of texts or None is needed")
        for word in labels:
            _check_text(name, "labels", word)
        row["labels"] = list(labels)
    if row["utterances"] is not None:
        if not isinstance(row["utterances"], Sequence) or isinstance(row["utterances"], str):
            raise RowError(f"row {name!r}: 'utterances' is {short(row['utterances'])}; a list or None is needed")
        row["utterances"] = [_utterance(name, item) for item in row["utterances"]]
    return row


def _check_text(name: str, field: str, value) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise RowError(f"row {name!r}: {field!r} is {short(value)}; a text or None is needed")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowError(f"row {name!r}: {field!r} is {short(value)}, which holds half a character") from None


def _finite(name: str, field: str, value) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RowError(f"row {name!r}: {field!r} is {short(value)}; a finite number is needed")
    return number


def _utterance(name: str, item: Mapping) -> dict:
    if not isinstance(item, Mapping):
        raise RowError(f"row {name!r}: utterance {short(item)} is not an object with 'start' and 'end'")
    unknown = set(item) - {"start", "end", "text", "speaker"}
    if unknown or "start" not in item or "end" not in item:
        raise RowError(
            f"row {name!r}: utterance {short(dict(item))} needs 'start' and 'end', and may have 'text', 'speaker'"
        )
    start, end = (_finite(name, f"utterance {side}", item[side]) for side in ("start", "end"))
    if start < 0 or end <= start:
        raise RowError(f"row {name!r}: utterance from {start} s to {end} s; 0 <= start < end is needed")
    for field in ("text", "speaker"):
        _check_text(name, f"utterance {field}", item.get(field))
    return {"start": start, "end": end, "text": item.get("text"), "speaker": item.get("speaker")}


def messages(row: Mapping) -> list[dict]:
    """The conversation of one row, as `apply_chat_template` takes it: a user turn and, where there is an answer, the
    reply.

    The user turn holds the video (its sound with it), the audio where it is a file of its own, and the question. What
    was said travels beside the conversation, in `utterances` and `subtitle`, because only the processor knows how each
    paper writes it. Raises `RowError` for a row without a question.
    """
    if not row.get("question"):
        raise RowError(f"row {row['id']!r} has no question; make questions with hf_emotion.data.questions")
    content = [{"type": kind, "path": row[kind]} for kind in ("video", "audio") if row.get(kind)]
    conversation = [{"role": "user", "content": [*content, {"type": "text", "text": row["question"]}]}]
    if row.get("answer") is not None:
        conversation.append({"role": "assistant", "content": [{"type": "text", "text": row["answer"]}]})
    return conversation


def bad_rows(rows: Iterable[Mapping]) -> list[str]:
    """One sentence for each row that breaks the schema or repeats an id; empty when all is well."""
    problems, seen = [], set()
    for row in rows:
        try:
            make_row(**row)
        except RowError as error:
            problems.append(str(error))
        if row.get("id") in seen:
            problems.append(f"row {row.get('id')!r}: this id occurs more than once")
        seen.add(row.get("id"))
    return problems
