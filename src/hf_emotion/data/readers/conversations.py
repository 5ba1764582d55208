"""Rows from, and to, the conversation files of other trainers: LLaMA-Factory, ms-swift, LLaVA.

A file is a JSON list or JSON lines of objects with `conversations` [{from, value}] or `messages` [{role, content}] and
`video`/`videos`, `audio`/`audios`. EmoBench-M publishes its questions in the same form. The first question and the
first answer of an object become a row; further turns are left out and reported.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..files import DataError, Ids, MediaFolder, Reading, read_text, write_whole
from ..schema import make_row

ASKING, ANSWERING, SYSTEM = ("human", "user"), ("gpt", "assistant"), ("system",)
_PLACEHOLDER = re.compile(r"<(?:video|audio|image)>\s*", re.IGNORECASE)
# Entry of LLaMA-Factory's dataset_info.json for what `write_conversations` writes.
_COLUMNS = {"messages": "messages", "videos": "videos", "audios": "audios"}
_TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}


def read_conversations(annotations, media: MediaFolder) -> Reading:
    """Rows of a conversation file: `question`, `answer`, and `label` where the answer is one short line.

    Args:
        annotations: the `.json` or `.jsonl` file.
        media: folder that the file's paths are relative to; absolute paths are used unchanged.

    Raises:
        DataError: not a conversation file, or an object without a question or media; the message names the object.
    """
    path = Path(annotations)
    rows, ids, longer = [], Ids(path), 0
    for number, item in enumerate(_objects(path), 1):
        turns = item.get("conversations") or item.get("messages")
        if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
            raise DataError(path, number, "the object has neither 'conversations' nor 'messages'; a list is needed")
        texts = [
            (str(turn.get("from") or turn.get("role")), turn.get("value") or turn.get("content")) for turn in turns
        ]
        questions = [text for role, text in texts if role in ASKING]
        answers = [text for role, text in texts if role in ANSWERING]
        if not questions or not isinstance(questions[0], str):
            raise DataError(path, number, f"the object has no turn of {' or '.join(ASKING)} with text")
        longer += len(questions) > 1
        answer = answers[0].strip() if answers and isinstance(answers[0], str) else None
        files = {kind: _file(path, number, item, kind, media) for kind in ("video", "audio")}
        if not any(files.values()):
            raise DataError(path, number, "the object has neither a video nor an audio file")
        name = item.get("id")
        rows.append(
            make_row(
                id=ids.add(number, str(number - 1 if name is None else name)),
                **files,
                question=_PLACEHOLDER.sub("", questions[0]).strip(),
                answer=answer,
                label=answer if answer and len(answer) <= 80 and "\n" not in answer else None,
            )
        )
    notes = [f"{longer} conversations have more than one question; the first is used"] if longer else []
    return Reading({"all": rows}, notes)


def _objects(path: Path) -> list[dict]:
    try:
        text = read_text(path)
        if path.suffix == ".jsonl":
            items = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            items = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(path, getattr(error, "lineno", None), f"not JSON: {error}") from None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise DataError(path, None, "a list of objects is needed")
    return items


def _file(path: Path, number: int, item: Mapping, kind: str, media: MediaFolder) -> str | None:
    listed = item.get(kind) or item.get(f"{kind}s") or []
    listed = [listed] if isinstance(listed, str) else listed
    if not listed:
        return None
    if len(listed) > 1 or not isinstance(listed[0], str):
        raise DataError(path, number, f"the object names {len(listed)} files as {kind}; one path is needed")
    name = listed[0]
    if media.root is None or Path(name).is_absolute():
        return name
    for folder in (media.root, path.parent):
        if (folder / name).is_file():
            return str((folder / name).resolve())
    media.missing.append(name)
    return None if kind == "audio" else str(media.root / name)


def write_conversations(rows: Iterable[Mapping], path: str | Path, form: str) -> int:
    """Write rows that have a question and an answer for another trainer; returns how many.

    Args:
        rows: data rows (`schema.FIELDS`).
        path: the file; `.json` for LLaMA-Factory (its `dataset_info.json` entry is written beside it), `.jsonl` for
            ms-swift.
        form: "llama-factory" or "ms-swift".

    Raises:
        ValueError: an unknown form, the wrong suffix for it, or no row with a question, an answer and media.
    """
    if form not in ("llama-factory", "ms-swift"):
        raise ValueError(f"form is {form!r}; accepted are llama-factory and ms-swift")
    items = []
    for row in rows:
        if not row.get("question") or not row.get("answer") or not (row.get("video") or row.get("audio")):
            continue
        media = {f"{kind}s": [row[kind]] for kind in ("video", "audio") if row.get(kind)}
        marks = "".join(f"<{kind}>" for kind in ("video", "audio") if row.get(kind))
        # A placeholder in the question would be read as another file.
        question = _PLACEHOLDER.sub("", row["question"])
        turns = [
            {"role": "user", "content": f"{marks}{question}"},
            {"role": "assistant", "content": row["answer"]},
        ]
        items.append({"id": row["id"], "messages": turns, **media})
    if not items:
        raise ValueError("no row has a question, an answer and a media file; build with --tasks to make questions")
    path = Path(path)
    suffix = ".jsonl" if form == "ms-swift" else ".json"
    if path.suffix != suffix:
        raise ValueError(f"{path} has the suffix {path.suffix!r}; {form} reads {suffix}")
    if form == "ms-swift":
        text = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    else:
        kinds = {key for item in items for key in item if key in ("videos", "audios")}
        columns = {key: value for key, value in _COLUMNS.items() if key == "messages" or key in kinds}
        entry = {"file_name": path.name, "formatting": "sharegpt", "columns": columns, "tags": _TAGS}
        write_whole(path.with_name("dataset_info.json"), json.dumps({path.stem: entry}, indent=2) + "\n")
        # One list per object, empty if it has no such file: the trainer reads the columns as a table.
        items = [{**{key: [] for key in sorted(kinds)}, **item} for item in items]
        text = json.dumps(items, ensure_ascii=False, indent=1) + "\n"
    write_whole(path, text)
    return len(items)
