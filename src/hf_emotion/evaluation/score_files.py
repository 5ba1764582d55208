"""Reading files to score: predictions and references in the official challenge formats and in ours.

| suffix | what | from |
| --- | --- | --- |
| .csv | a name column and value columns | MER2023 to MER2026 labels and submissions, EMER, DFEW |
| .npz | `filenames`, `fileitems` | MER2025 / MER2026 Track2 submissions, AffectGPT |
| folder or .zip of .npy | one string per clip, file name = clip name | MER2024 `openset-synonym`, AffectGPT results |
| .txt | `name label` | MAFW splits |
| .jsonl | one object a line with `id` or `name` | `hf-emotion evaluate` |
| .json | {name: value}, or a list of such objects | any |

Names stay text: `00012` and `None` are names, not a number and a gap. In value columns of a csv the empty cell and
None, nan, NA, null are missing values, as the official scripts read them (they use pandas, whose default it is).
"""

import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..data.files import DataError, read_csv, read_lines, read_text

NAME_COLUMNS = ("id", "name", "names", "video_name", "video_id", "filename", "video")
MEDIA_SUFFIXES = (".mp4", ".avi", ".wav", ".mkv", ".mov", ".npy")
EMPTY_CELLS = frozenset(["", "nan", "NaN", "NA", "N/A", "n/a", "null", "NULL", "None", "<NA>", "#N/A", "-nan", "-NaN"])

# Maximum total size in bytes of an archive's contents; a file that declares more is not opened.
MAX_UNPACKED = 2**30


class ScoreFileError(ValueError):
    """A file of predictions or references that cannot be read, or in which a column is missing."""


def read_cells(path: str | Path, columns: Sequence[str], optional: bool = False) -> dict[str, object]:
    """Clip name -> value, of the first of `columns` that the file has.

    A clip that occurs twice has its last value (as in the official scripts, and as a resumed run needs). A media suffix
    of the name is dropped. Values are text, lists where the file holds lists, numbers in JSON; a missing value is None.

    Args:
        path: file or folder in one of the formats above.
        columns: names of the value column, the best first; not used by formats with one value per clip.
        optional: {} instead of an error if there is no such column.

    Raises:
        ScoreFileError: no such file, an unknown format, no name column, none of `columns`, or contents that cannot be
            read; the message names the file and, where there is one, the line or clip.
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
    try:
        return readers[path.suffix](path, columns, optional)
    except DataError as error:
        raise ScoreFileError(str(error)) from error


def _name(text) -> str:
    text = str(text).strip()
    return next((text[: -len(suffix)] for suffix in MEDIA_SUFFIXES if text.lower().endswith(suffix)), text)


def _csv(path: Path, columns: Sequence[str], optional: bool) -> dict:
    rows = [cells for _, cells in read_csv(path, ())]
    header = list(rows[0]) if rows else []
    if not rows:
        return {}
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
    try:
        if path.suffix == ".jsonl":
            content = []
            for number, line in read_lines(path):
                if line.strip():
                    content.append(_parsed(line, f"{path} line {number}"))
        else:
            content = _parsed(read_text(path), str(path))
    except RecursionError:
        raise ScoreFileError(f"{path} is nested too deeply to be read") from None
    if isinstance(content, dict):
        if not any(isinstance(value, dict) for value in content.values()):
            return {} if optional else {_name(name): _value(path, name, value) for name, value in content.items()}
        content = [{"name": name, **value} if isinstance(value, dict) else value for name, value in content.items()]
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise ScoreFileError(f"{path} holds neither an object of clips nor a list of objects")
    header = list(dict.fromkeys(key for row in content for key in row))
    if not content:
        return {}
    nameless = next((row for row in content if not any(key in row for key in NAME_COLUMNS)), None)
    if nameless is not None:
        raise ScoreFileError(
            f"{path}: an object with {', '.join(map(str, nameless)) or 'nothing'} names no clip; one of "
            f"{', '.join(NAME_COLUMNS)} is needed"
        )
    # A failed clip has no answer; if all failed, there is no column either.
    if all("error" in row for row in content) and not optional:
        return {_name(row[next(key for key in NAME_COLUMNS if key in row)]): None for row in content}
    key, column = _columns(path, header, columns, optional)
    if column is None:
        return {}
    return {_name(row[key]): _value(path, row[key], row.get(column)) for row in content if key in row}


def _parsed(text: str, where: str):
    try:
        return json.loads(text)
    except ValueError as error:  # also a number of more digits than Python reads
        raise ScoreFileError(f"{where} is not JSON: {error}") from error


def _value(path: Path, name, value):
    """A cell as metrics take it: text, a number, a list of texts, None."""
    value = label_words(value)
    if isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(x, (list, dict)) for x in value)):
        raise ScoreFileError(f"{path}: the value of {name!r} is nested; a text, a number or a list of texts is needed")
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")  # half of a surrogate pair cannot be written again
    return value


def label_words(value):
    """The words of the pipeline's labels, `[{"label", "score"}]`; any other value as it is."""
    if isinstance(value, list) and value and all(isinstance(item, dict) and "label" in item for item in value):
        return [item["label"] for item in value]
    return value


def _npz(path: Path, columns: Sequence[str], optional: bool) -> dict:
    arrays = dict(_members(path))
    if not {"filenames", "fileitems"} <= set(arrays):
        raise ScoreFileError(f"{path} has no filenames and fileitems; found {', '.join(arrays) or 'nothing'}")
    names, items = (_array(path, name, arrays[name]) for name in ("filenames", "fileitems"))
    if names.ndim != 1 or items.ndim == 0 or len(names) != len(items):
        raise ScoreFileError(f"{path}: filenames {names.shape} and fileitems {items.shape} differ in length")
    return {_name(name): item.tolist() if item.ndim else str(item) for name, item in zip(names, items, strict=True)}


def _lines(path: Path, columns: Sequence[str], optional: bool) -> dict:
    cells = {}
    for number, line in read_lines(path):
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
        contents = dict(_members(path))
    if not contents:
        raise ScoreFileError(f"{path} holds no .npy files")
    cells = {}
    for name, content in contents.items():
        value = _array(path, name, content)
        cells[name] = value.tolist() if value.ndim else str(value)
    return cells


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Stem and bytes of each .npy file in a zip archive, whose sizes are checked before anything is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
            members = [m for m in members if not Path(m.filename).name.startswith(".")]
            size = sum(member.file_size for member in members)
            if size > MAX_UNPACKED:
                raise ScoreFileError(f"{path} unpacks to {size:,} bytes; {MAX_UNPACKED:,} are accepted")
            for member in sorted(members, key=lambda one: one.filename):
                yield Path(member.filename).stem, archive.read(member)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise ScoreFileError(f"{path} is not a zip archive that can be read: {error}") from error


def _array(path: Path, name: str, content: bytes) -> np.ndarray:
    """The array in the bytes of an .npy file; its header is checked before memory is taken for it."""
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = read(file)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ScoreFileError(f"{path}: {name}.npy has no header that can be read: {error}") from error
    if kind.hasobject:
        raise ScoreFileError(
            f"{path}: {name}.npy holds pickled objects, which are not read because loading them can run code; save "
            "label lists as text, for instance str(list)"
        )
    wanted = int(np.prod(shape, dtype=object)) * kind.itemsize
    if wanted < 0 or wanted != len(content) - file.tell():
        raise ScoreFileError(
            f"{path}: {name}.npy claims {wanted:,} bytes of data and holds {len(content) - file.tell():,}"
        )
    file.seek(0)
    return np.load(file, allow_pickle=False)
