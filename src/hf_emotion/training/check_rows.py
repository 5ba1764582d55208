"""What is wrong with the rows of a dataset, all of it, before training begins.

A row that cannot be used is never replaced by another: training either does not begin, or leaves the row out and counts
it.
"""

from collections.abc import Callable, Mapping, Sequence

from tqdm import tqdm

from ..data.schema import FIELDS, RowError, make_row
from ..processing.faces import FaceError
from .cache import media_of


class BadRowsError(ValueError):
    """Rows that cannot be trained on; the message lists every one of them, with its reason."""


def fault(row: Mapping, processor=None) -> str | None:
    """Why a row cannot be used, or `None`.

    Args:
        row: a data row. An answer may be missing, since a recipe makes its own; an empty one is an error.
        processor: opens the row's clip, of which the first frame (or the sound, where there is no picture) is decoded;
            `None` leaves the clip closed.
    """
    try:
        make_row(**{name: row.get(name) for name in FIELDS})
    except RowError as error:
        return str(error)
    for name in ("question", "answer"):
        if row.get(name) is not None and not row[name].strip():
            return f"the {name} is empty"
    media = media_of(row)
    if not media:
        return "it has neither video nor audio; the file was not found, or none is named"
    if processor is None:
        return None
    # One frame says that a picture can be read, and how long it is; a sound is read whole.
    kind = "video" if "video" in media and "video" in processor.modalities else "audio"
    source = {"videos": [media["video"]]} if "video" in media else {"audio": [media["audio"]]}
    try:
        [clip] = processor.load_clips(**source, modalities=[kind], num_frames=1, sampling="first")
    except (ValueError, OSError, FaceError) as error:
        return str(error)
    for spoken in row.get("utterances") or []:
        if clip.duration and spoken["start"] * 1000 >= clip.duration:
            return (
                f"an utterance begins at {spoken['start']} s, and the clip ends at {clip.duration / 1000} s: "
                f"{spoken.get('text')!r}"
            )
    return None


def usable(
    rows: Sequence[Mapping],
    processor=None,
    *,
    skip: bool = False,
    asked: Callable[[Mapping], Sequence] | None = None,
    progress: bool = False,
) -> tuple[list[Mapping], list[str]]:
    """The rows that can be trained on, and one sentence for each other.

    Args:
        rows: data rows.
        processor: see `fault`.
        skip: leave bad rows out.
        asked: row -> the questions that are made of it; a row of which none is made is bad.
        progress: show a bar.

    Raises:
        BadRowsError: there are bad rows and `skip` is `False`, or no row is left.
    """
    good, reasons = [], []
    for row in tqdm(rows, desc="checking rows", unit="row", disable=not progress, delay=2):
        reason = fault(row, processor)
        if reason is None and asked is not None:
            try:
                reason = None if asked(row) else "it has no answer to any question that is asked"
            except ValueError as error:
                reason = str(error)
        if reason is None:
            good.append(row)
        else:
            reasons.append(f"{row.get('id')}: {reason}")
    if reasons and (not skip or not good):
        listed = "\n  ".join(reasons)
        advice = "" if skip else "; repair them, or leave them out with --skip-bad-rows"
        raise BadRowsError(f"{len(reasons)} of {len(rows)} rows cannot be used{advice}:\n  {listed}")
    return good, reasons


__all__ = ["BadRowsError", "fault", "usable"]
