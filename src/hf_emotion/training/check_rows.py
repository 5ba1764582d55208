"""Everything that is wrong with the rows of a dataset, before training starts.

An unusable row is never replaced by another: either training does not start, or the row is skipped and reported.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from accelerate.utils import gather_object
from tqdm import tqdm

from ..data.remote import local_media
from ..data.schema import FIELDS, RowError, make_row
from ..processing.faces import FaceError
from .cache import media_of

NAMED = 5  # ids of rows that share a problem, in a message


class BadRowsError(ValueError):
    """Rows that cannot be trained on; the message names them and their reasons."""


def problem_of_row(row: Mapping) -> str | None:
    """Why a row cannot be used, or `None`; its clip is not opened. The answer may be missing, but not empty."""
    try:
        make_row(**{name: row.get(name) for name in FIELDS})
    except RowError as error:
        return str(error)
    for name in ("question", "answer"):
        if row.get(name) is not None and not row[name].strip():
            return f"the {name} is empty"
    if not media_of(row):
        return "it has neither video nor audio: the columns are empty, or the files were not found"
    return None


def clip_key(row: Mapping) -> str:
    """What `problem_of_clip` depends on: rows with the same files and utterances are checked once."""
    return json.dumps([media_of(row), row.get("utterances")], sort_keys=True)


def problem_of_clip(row: Mapping, processor, allow_urls: bool = False) -> str | None:
    """Why a row's clip cannot be used, or `None`; its first frame is decoded, or its sound if it has no picture."""
    try:
        with local_media(row, allow_urls) as local:
            media = media_of(local)
            # One frame shows that a picture can be read and how long it is; a sound is read whole.
            kind = "video" if "video" in media and "video" in processor.modalities else "audio"
            source = {"videos": [media["video"]]} if "video" in media else {"audio": [media["audio"]]}
            [clip] = processor.load_clips(**source, modalities=[kind], num_frames=1, sampling="first")
    except (ValueError, OSError, FaceError) as error:
        return str(error)
    for spoken in row.get("utterances") or []:
        if clip.duration and spoken["start"] * 1000 >= clip.duration:
            return (
                f"an utterance starts at {spoken['start']} s, but the clip ends at {clip.duration / 1000} s: "
                f"{spoken.get('text')!r}"
            )
    return None


def find_problems(
    rows: Sequence[Mapping],
    processor=None,
    *,
    progress: bool = False,
    checked: dict | None = None,
    share: tuple[int, int] = (0, 1),
    allow_urls: bool = False,
) -> list[str | None]:
    """Why each row cannot be used, or `None`. Each clip is opened once, in parallel over threads and processes.

    Args:
        processor: opens the clips; `None` leaves them closed.
        checked: problems of clips that were opened before; those opened now are added.
        share: number of this process and of all; each opens its share of the clips and learns of the others'.
        allow_urls: read clips that are addresses.
    """
    problems = [problem_of_row(row) for row in rows]
    if processor is None:
        return problems
    checked = {} if checked is None else checked
    keys = [None if problem else clip_key(row) for row, problem in zip(rows, problems, strict=True)]
    clips = {key: row for key, row in zip(keys, rows, strict=True) if key is not None and key not in checked}
    rank, world = share
    of_rank = list(clips)[rank::world]
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // world)) as pool:
        opened = tqdm(
            pool.map(lambda key: problem_of_clip(clips[key], processor, allow_urls), of_rank),
            desc="checking clips",
            unit="clip",
            total=len(of_rank),
            disable=not progress,
            delay=2,
        )
        pairs = list(zip(of_rank, opened, strict=True))
    checked.update(gather_object(pairs) if world > 1 else pairs)
    return [problem or checked[key] for key, problem in zip(keys, problems, strict=True)]


def check_rows(
    rows: Sequence[Mapping],
    processor=None,
    *,
    skip: bool = False,
    make_questions: Callable[[Mapping], Sequence] | None = None,
    explain: Callable[[Mapping], str] = lambda row: "it has no question and answer",
    **options,
) -> tuple[list[Mapping], list[str]]:
    """The rows that can be trained on, and one sentence for each other row.

    Args:
        rows: data rows.
        processor: opens the clips; `None` leaves them closed.
        skip: skip unusable rows.
        make_questions: row -> its questions; a row without any is unusable.
        explain: row -> why it has no question.
        options: see `find_problems`.

    Raises:
        BadRowsError: there are unusable rows and `skip` is false, or no row is left.
    """
    usable, reasons, ids_by_reason = [], [], {}
    for row, problem in zip(rows, find_problems(rows, processor, **options), strict=True):
        if problem is None and make_questions is not None:
            try:
                problem = None if make_questions(row) else explain(row)
            except ValueError as error:
                problem = str(error)
        if problem is None:
            usable.append(row)
        else:
            reasons.append(f"{row.get('id')}: {problem}")
            ids_by_reason.setdefault(problem, []).append(str(row.get("id")))
    if reasons and (not skip or not usable):
        lines = []
        for problem, ids in ids_by_reason.items():
            more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
            rows_ = f"{len(ids)} rows ({', '.join(ids[:NAMED])}{more})" if len(ids) > 1 else ids[0]
            lines.append(f"{rows_}: {problem}")
        advice = "" if skip else "; repair them, or skip them with --skip-bad-rows"
        listed = "\n  ".join(lines)
        raise BadRowsError(f"{len(reasons)} of {len(rows)} rows cannot be used{advice}:\n  {listed}")
    return usable, reasons


__all__ = ["BadRowsError", "check_rows", "find_problems"]
