"""Reading what the field scores: predictions and references in the official challenge formats, and our own.

| suffix | what | from |
| --- | --- | --- |
| .csv | a name column and value columns | MER2023 to MER2026 labels and submissions, EMER, DFEW |
| .npz | `filenames`, `fileitems` | MER2025 / MER2026 Track2 submissions, AffectGPT |
| folder or .zip of .npy | one string per clip, file name = clip name | MER2024 `openset-synonym`, AffectGPT results |
| .txt | `name label` | MAFW splits |
| .jsonl | one object a line with `id` or `name` | `hf-emotion evaluate` |
| .json | {name: value}, or a list of such objects | any |

Names stay text: `00012` and `None` are names, not a number and a gap. In value columns of a csv the empty cell and
None, nan, NA, null are no value, because the official scripts read them so (they use pandas, whose default it is).
"""

import csv
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

NAME_COLUMNS = ("id", "name", "names", "video_name", "video_id", "filename", "video")
MEDIA_SUFFIXES = (".mp4", ".avi", ".wav", ".mkv", ".mov", ".npy")
EMPTY_CELLS = frozenset(["", "nan", "NaN", "NA", "N/A", "n/a", "null", "NULL", "None", "<NA>", "#N/A", "-nan", "-NaN"])


class ScoreFileError(ValueError):
    """A file of predictions or references that cannot be read, or in which a column is missing."""


def read_cells(path: str | Path, columns: Sequence[str], optional: bool = False) -> dict[str, object]:
    """Clip name -> value, of the first of `columns` that the file has.

    A clip that occurs twice has its last value (as in the official scripts, and as a resumed run needs). A media suffix
    of the name is dropped. Values are text, lists where the file holds lists, numbers in JSON; a missing value is None.

    Args:
        path: file or folder in one of the formats above.
        columns: names of the value column, the best first; not used by formats with one value per clip.
        optional: {} instead of an error where no such column is there.

    Raises:
        ScoreFileError: no such file, an unknown format, no name column, none of `columns`.
    """
    path = Path(path)
    if not path.exists():
        raise ScoreFileError(f"{path} does not exist")
    if path.is_dir() or path.suffix == ".zip":
        return {} if optional else _arrays(path)
    readers = {".csv": _csv, ".jsonl": _json, ".json": _json, ".npz": _npz, ".txt": _lines}
    if path.suffix not in readers:
        raise ScoreFileError(
            f"{path} has the suffix {path.suffix!r}; accepted are {', '.join(readers)}, .zip, and a folder of .npy "
            f"files"
        )
    if optional and path.suffix in (".npz", ".txt"):
        return {}
    return readers[path.suffix](path, columns, optional)


def _name(text) -> str:
    text = str(text).strip()
    return next((text[: -len(suffix)] for suffix in MEDIA_SUFFIXES if text.lower().endswith(suffix)), text)


def _csv(path: Path, columns: Sequence[str], optional: bool) -> dict:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        header = reader.fieldnames or []
        rows = list(reader)
    key, column = _columns(path, header, columns, optional)
    if column is None:
        return {}
    return {_name(row[key]): None if row[column] in EMPTY_CELLS else row[column] for row in rows}


def _columns(path: Path, header: Sequence[str], columns: Sequence[str], optional: bool) -> tuple[str, str | None]:
    key = next((name for name in NAME_COLUMNS if name in header), None)
    column = next((name for name in columns if name in header and name != key), None)
    if key is None:
        raise ScoreFileError(
            f"{path} has no column with clip names ({', '.join(NAME_COLUMNS)}); found {', '.join(header)}"
        )
    if column is None and not optional:
        raise ScoreFileError(
            f"{path} has none of the columns {', '.join(columns)}; found {', '.join(header)} (name yours with --column)"
        )
    return key, column


def _json(path: Path, columns: Sequence[str], optional: bool) -> dict:
    text = path.read_text(encoding="utf-8")
    try:
        if path.suffix == ".jsonl":
            content = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ScoreFileError(f"{path} is not JSON: {error}") from error
    if isinstance(content, dict):
        if not any(isinstance(value, dict) for value in content.values()):
            return {} if optional else {_name(name): value for name, value in content.items()}
        content = [{"name": name, **value} for name, value in content.items()]
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ScoreFileError(f"{path} holds neither an object of clips nor a list of objects")
    header = list(dict.fromkeys(key for row in content for key in row))
    if not content:
        return {}
    # A failed clip has no answer; where all failed, there is no column either.
    if all("error" in row for row in content) and not optional:
        return {_name(row[next(key for key in NAME_COLUMNS if key in row)]): None for row in content}
    key, column = _columns(path, header, columns, optional)
    if column is None:
        return {}
    return {_name(row[key]): label_words(row.get(column)) for row in content if key in row}


def label_words(value):
    """The words of the pipeline's labels, `[{"label", "score"}]`; any other value as it is."""
    if isinstance(value, list) and value and all(isinstance(item, dict) and "label" in item for item in value):
        return [item["label"] for item in value]
    return value


def _npz(path: Path, columns: Sequence[str], optional: bool) -> dict:
    with np.load(path, allow_pickle=False) as archive:
        if not {"filenames", "fileitems"} <= set(archive.files):
            raise ScoreFileError(f"{path} has no filenames and fileitems; found {', '.join(archive.files)}")
        try:
            names, items = archive["filenames"], archive["fileitems"]
        except ValueError as error:
            raise ScoreFileError(
                f"{path} holds pickled objects, which are not read because loading them can run code; save the label "
                f"lists as text, "
                "for instance str(list)"
            ) from error
    return {_name(name): item.tolist() if item.ndim else str(item) for name, item in zip(names, items, strict=True)}


def _lines(path: Path, columns: Sequence[str], optional: bool) -> dict:
    cells = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        name, _, value = line.strip().partition(" ")
        if not value.strip():
            raise ScoreFileError(f"{path} line {number} is {line!r}; expected a clip name, a blank and a label")
        cells[_name(name)] = value.strip()
    return cells


def _arrays(path: Path) -> dict:
    if path.is_dir():
        contents = {file.stem: file.read_bytes() for file in sorted(path.glob("*.npy"))}
    else:
        with zipfile.ZipFile(path) as archive:
            contents = {
                Path(name).stem: archive.read(name)
                for name in sorted(archive.namelist())
                if name.endswith(".npy") and not Path(name).name.startswith(".")
            }
    if not contents:
        raise ScoreFileError(f"{path} holds no .npy files")
    cells = {}
    for name, content in contents.items():
        try:
            value = np.load(io.BytesIO(content), allow_pickle=False)
        except ValueError as error:
            raise ScoreFileError(f"{path}: {name}.npy holds pickled objects, which are not read") from error
        cells[name] = value.tolist() if value.ndim else str(value)
    return cells
