"""Rows of the demo corpus (`data.demo` makes it)."""

import json
import os
from pathlib import Path

from ..files import DataError, MediaFolder, Reading, read_lines
from ..schema import FIELDS, make_row

METADATA, NEUTRAL = "metadata.jsonl", "neutral"


class DemoError(ValueError):
    """A demo corpus that cannot be created or read."""


def read_demo(folder: str | os.PathLike, split: str | None = None) -> list[dict]:
    """Rows of a corpus created by `make_demo`, with `video` joined to the folder.

    In addition to `schema.FIELDS` they have `cue`; `control` (whether the cue is absent); `twin` (id of the matching
    clip, or None); `planted` (the label of the cue clip, also on its control, which does not show it); `moved_regions`;
    `emotional_utterance` (0-based; None if the cue is in none); `offset_ms` (delay of the sound after the picture; None
    if the lips do not move); `split`.

    Raises:
        DemoError: no `metadata.jsonl` in the folder.
    """
    path = Path(folder) / METADATA
    if not path.is_file():
        raise DemoError(f"{folder} has no {METADATA}; make_demo writes it once all clips are created")
    rows = [json.loads(line) for _, line in read_lines(path)]
    return [row | {"video": str(Path(folder) / row["video"])} for row in rows if split in (None, row["split"])]


def read_corpus(annotations, media: MediaFolder) -> Reading:
    """Rows of a corpus as a source of `build`; the emotion of each utterance is known."""
    splits, utterance_labels = {}, {}
    try:
        corpus = read_demo(annotations)
    except DemoError as error:
        raise DataError(annotations, None, str(error)) from None
    for row in corpus:
        if not Path(row["video"]).is_file():
            media.missing.append(row["id"])
            row["video"] = None
        # The corpus has its own questions for the quickstart; a dataset gets its questions from its tasks.
        fields = {name: row[name] for name in FIELDS} | {"question": None, "answer": None}
        splits.setdefault(row["split"], []).append(make_row(**fields))
        # A control has no cue in any utterance; agreement between sound and picture belongs to no utterance.
        if row["emotional_utterance"] is not None or (row["control"] and row["cue"] != "agreement"):
            labels = utterance_labels[row["id"]] = [NEUTRAL] * len(row["utterances"])
            if row["emotional_utterance"] is not None:
                labels[row["emotional_utterance"]] = row["label"]
    notes = ["a generator planted every emotion; the corpus contains nobody's feelings"]
    return Reading(splits, notes, utterance_labels)
