"""Reading what people annotate with, CSV, Excel, JSON, label archives and media folders, with the file and line in
every error.

`pandas.read_csv` and `load_dataset("csv")` turn the name `00012` into 12 and the name `None` into a missing value.
Here a cell stays the text it is; each reader converts what its source defines as a number.

Annotations come from strangers: the limits below are checked before a file is read or unpacked.
"""

import csv
import io
import json
import math
import os
import pickle
import re
import shutil
import threading
import zipfile
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ..processing.utterances import json_problem

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".flv", ".m4v", ".mpg")
AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".ogg", ".aac", ".opus")
MAX_BYTES = 2**28  # of a file
MAX_UNPACKED_BYTES = 2**26  # of what is read of a workbook or an archive; a hundred thousand rows of sentences
MAX_COLUMNS = 16_384  # of a table, as in Excel


class DataError(ValueError):
    """An annotation or media folder that cannot be read: `path`, `line` (None where there is none) and one sentence."""

    def __init__(self, path, line: int | None, message: str):
        self.path, self.line = str(path), line
        super().__init__(f"{path}:{line}: {message}" if line else f"{path}: {message}")


class MissingMediaError(ValueError):
    """Clips without a media file. `missing` names them all, and so does the message."""

    def __init__(self, root, missing: list[str], total: int):
        self.missing = missing
        super().__init__(
            f"{root}: {len(missing)} of {total} clips have neither a video nor an audio file there: "
            f"{', '.join(missing)}. Give the folder that holds them, or build with missing='drop' (leave them out) or "
            "missing='keep' (rows without media)"
        )


@dataclass
class Reading:
    """What a reader found: `splits` (name -> rows in file order), `notes` (a sentence for each thing worth knowing)
    and, where a source knows them, `utterance_labels` (id -> emotion of each utterance)."""

    splits: dict[str, list[dict]]
    notes: list[str] = field(default_factory=list)
    utterance_labels: dict[str, list[str]] = field(default_factory=dict)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'epochs'?"` for the known name that is most like `name`, or `""` where none is."""
    similar = get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f"; did you mean {similar[0]!r}?" if similar else ""


def find_file(annotations, *names: str) -> Path:
    """`annotations` itself when it is a file, else the first of `names` inside that folder (names may hold `*`)."""
    path = Path(annotations)
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(path, None, "no such file or folder")
    for name in names:
        matches = sorted(path.glob(name))
        if len(matches) > 1:
            raise DataError(
                path, None, f"several files match {name}: {', '.join(p.name for p in matches)}; name the one"
            )
        if matches:
            return matches[0]
    raise DataError(path, None, f"none of {', '.join(names)} is in this folder")


@contextmanager
def replacing(path: str | Path, overwrite: bool = True) -> Iterator[Path]:
    """A temporary path beside `path` to write a file or a folder to; it takes the place of `path` when the block ends.

    If the block fails (full disk, interruption), what was written is removed and `path` stays as it was.

    Args:
        overwrite: replace an existing file or folder. If false, only an empty folder is replaced.

    Raises:
        OSError: the disk is full or read-only, or `path` exists and `overwrite` is false; it names `path`.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.{threading.get_ident()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if overwrite and path.is_dir():
            # A folder that holds files cannot be replaced in one step.
            previous = temporary.with_name(f"{temporary.name}.previous")
            os.replace(path, previous)
            os.replace(temporary, path)
            shutil.rmtree(previous, ignore_errors=True)
        else:
            os.replace(temporary, path)
    except BaseException as error:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
        about_it = isinstance(error, OSError) and error.errno and str(temporary) in str(error.filename or temporary)
        if about_it:
            raise type(error)(error.errno, error.strerror, str(path)) from error
        if type(error).__name__ == "SafetensorError":  # a full disk, not as an OSError
            raise OSError(f"{path} could not be written: {error}") from error
        raise


def write_whole(path: str | Path, text: str, encoding: str = "utf-8") -> None:
    """Write a text file so that a half-written one is never seen; its folder is made if needed."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding=encoding, newline="")


def check_file(path) -> None:
    """Raise `DataError` for what is not a file (opening a pipe waits for its other end) or has too many bytes."""
    try:
        size = os.stat(path).st_size
    except (OSError, ValueError) as error:
        raise DataError(path, None, f"cannot be opened ({error})") from None
    if not os.path.isfile(path):
        raise DataError(path, None, "not a file")
    if size > MAX_BYTES:
        raise DataError(path, None, f"the file has {size:,} bytes; at most {MAX_BYTES:,} are read")


def read_text(path) -> str:
    """The whole of a UTF-8 file (a byte-order mark is allowed); the line of the first byte that is not UTF-8."""
    check_file(path)
    data = Path(path).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # A byte-order mark is three bytes that utf-8-sig leaves out of its count.
        start = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        line = data.count(b"\n", 0, start) + 1
        raise DataError(
            path,
            line,
            f"byte 0x{data[start]:02x} is not UTF-8; save the file as UTF-8 (GBK and Windows-1252 are not read)",
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(path, line, "a zero byte; this is not a text file, or UTF-16: save it as UTF-8")
    return text


def read_lines(path) -> Iterator[tuple[int, str]]:
    """Yield (line number, line) of a UTF-8 file. Unlike `str.splitlines`, only line feeds and carriage returns end a
    line: U+2028 and its like may stand inside a JSON string."""
    for number, line in enumerate(io.StringIO(read_text(path), newline=None), 1):
        yield number, line.removesuffix("\n")


def read_csv(path, columns: Collection[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line on which the record starts, cells by column) for each record of a comma-separated file with a header.

    All cells are text. Raises `DataError` for a wrong encoding, a missing, unnamed or doubled column, a record with too
    few or too many cells, a quote that is never closed.
    """
    records = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    header, line = None, 1
    while True:
        try:
            cells = next(records, None)
        except csv.Error as error:
            raise DataError(path, line, f"not readable as comma-separated values ({error})") from None
        if cells is None:
            break
        start, line = line, records.line_num + 1
        if not cells:
            continue
        if header is None:
            header = cells
            if len(header) > MAX_COLUMNS:
                raise DataError(path, start, f"{len(header):,} columns; at most {MAX_COLUMNS:,} are read")
            missing = [name for name in columns if name not in header]
            if missing:
                raise DataError(path, start, f"no column {', '.join(missing)}; the columns are {_named(header)}")
            doubled = sorted(name for name, count in Counter(header).items() if count > 1)
            if doubled:
                raise DataError(path, start, f"column {_named(map(repr, doubled))} occurs more than once")
            continue
        if len(cells) != len(header):
            raise DataError(path, start, f"{len(cells)} cells where the header has {len(header)}")
        yield start, dict(zip(header, cells, strict=True))
    if header is None:
        raise DataError(path, 1, f"the file is empty; a header with {', '.join(columns)} is needed")


def _named(names) -> str:
    """The first names, as a message may list them."""
    names = [name if len(name) <= 60 else f"{name[:57]}..." for name in names]
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


_SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def read_xlsx(path) -> Iterator[tuple[int, list[str]]]:
    """Yield (row number, texts of its cells from column A on) for each row of the first sheet that holds anything.

    A number comes as the text the file holds, a formula as its stored result, an empty cell as "".

    Raises:
        DataError: a file that is no xlsx workbook.
    """
    check_file(path)
    try:
        with zipfile.ZipFile(path) as book:
            shared = []
            if "xl/sharedStrings.xml" in book.namelist():
                for item in _elements(path, book, "xl/sharedStrings.xml", f"{_SHEET}si"):
                    # Phonetic hints (rPh) are not part of the text.
                    runs = [item, *item.findall(f"{_SHEET}r")]
                    shared.append("".join(text.text or "" for run in runs for text in run.findall(f"{_SHEET}t")))
            for row in _elements(path, book, "xl/worksheets/sheet1.xml", f"{_SHEET}row"):
                number, cells = int(row.get("r", "")), []
                for cell in row.findall(f"{_SHEET}c"):
                    text = _cell_text(cell, shared)
                    cells += [""] * (_column(cell.get("r", "")) - len(cells) - 1) + [text]
                if any(cells):
                    yield number, cells
    except DataError:
        raise
    except Exception as error:  # a damaged archive makes its readers raise whatever its bytes lead to
        raise DataError(
            path, None, f"not an xlsx workbook ({' '.join(str(error).split())[:200]}); save it as xlsx"
        ) from None


def _elements(path, book: zipfile.ZipFile, member: str, tag: str) -> Iterator[ElementTree.Element]:
    """The elements of that tag in a part of a workbook, one after the other: the whole would fill the memory."""
    check_unpacked(path, book.getinfo(member))
    try:
        with book.open(member) as stream:
            events = ElementTree.iterparse(stream, ("start", "end"))
            root = None
            for event, element in events:
                root = element if root is None else root
                if event == "end" and element.tag == tag:
                    yield element
                    root.clear()
                    element.clear()
    except ElementTree.ParseError as error:
        raise ValueError(f"{member}: {error}") from None


def check_unpacked(path, *members: zipfile.ZipInfo) -> None:
    """Raise `DataError` for more bytes than allowed; zipfile itself unpacks no more than a member declares."""
    size = sum(member.file_size for member in members)
    if size > MAX_UNPACKED_BYTES:
        raise DataError(path, None, f"{size:,} bytes when unpacked; at most {MAX_UNPACKED_BYTES:,} are read")


def _column(reference: str) -> int:
    """The number of a cell's column, from 1: 28 for "AB7"."""
    column = 0
    for letter in re.match(r"[A-Z]{0,4}", reference).group():
        column = 26 * column + ord(letter) - ord("A") + 1
    if not 1 <= column <= MAX_COLUMNS:
        raise ValueError(f"a cell at {reference[:20]!r}")
    return column


def _cell_text(cell: ElementTree.Element, shared: list[str]) -> str:
    value = cell.find(f"{_SHEET}v")
    text = "" if value is None else value.text or ""
    if cell.get("t") == "s":
        if not re.fullmatch(r"\d{1,9}", text) or int(text) >= len(shared):
            raise ValueError(f"the cell {cell.get('r')} names a text that is not there")
        return shared[int(text)]
    if cell.get("t") == "inlineStr":
        return "".join(text.text or "" for text in cell.iter(f"{_SHEET}t"))
    return text


def parse_json(path, text: str, line: int = 1, what: str = "", object_pairs_hook=None):
    """The value of a JSON text that begins on `line` of a file; `DataError` with the line where it is not JSON.

    Args:
        what: head of the message, such as "column labels is ".
    """
    problem = json_problem(text)
    if problem is not None:
        raise DataError(path, line + problem[0] - 1, f"{what}{problem[1]}")
    try:
        return json.loads(text, object_pairs_hook=object_pairs_hook)
    except json.JSONDecodeError as error:
        raise DataError(path, line + error.lineno - 1, f"{what}not JSON ({error.msg})") from None


def read_json(path):
    """A JSON document; a name that occurs twice in one object is an error, not a silent loss of the first."""
    text = read_text(path)

    def pairs(items):
        seen = {}
        for key, value in items:
            if key in seen:
                raise DataError(path, _line_of_key(text, key, 2), f"{key!r} occurs more than once")
            seen[key] = value
        return seen

    return parse_json(path, text, object_pairs_hook=pairs)


def json_line(path, key: str) -> int | None:
    """The line on which `key` stands in a JSON file, for messages."""
    return _line_of_key(read_text(path), key, 1)


def _line_of_key(text: str, key: str, occurrence: int) -> int | None:
    at = -1
    for quoted in {json.dumps(key), json.dumps(key, ensure_ascii=False)}:
        at = -1
        for _ in range(occurrence):
            at = text.find(quoted, at + 1)
            while at >= 0 and not _COLON.match(text, at + len(quoted)):
                at = text.find(quoted, at + 1)
            if at < 0:
                break
        if at >= 0:
            break
    return text.count("\n", 0, at) + 1 if at >= 0 else None


_COLON = re.compile(r"\s*:")


def _reconstruct(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """An array to be filled, as NumPy's pickles begin with one; NumPy's own function makes one of any size and type."""
    if shape != (0,):
        raise pickle.UnpicklingError(f"it begins an array of shape {str(shape)[:40]}")
    return np.ndarray((0,), "b")


class _PlainUnpickler(pickle.Unpickler):
    """Unpickles dicts, lists, text, numbers and NumPy arrays. Anything else in a label archive could run code."""

    ALLOWED = {
        ("_reconstruct", "multiarray"): _reconstruct,
        ("scalar", "multiarray"): np.float64(0).__reduce__()[0],  # wherever a version of NumPy keeps it
        ("ndarray", "numpy"): None,  # only ever an argument of `_reconstruct`
        ("dtype", "numpy"): np.dtype,
    }

    def find_class(self, module, name):
        part = module.split(".")
        if part[0] == "numpy" and (name, part[-1]) in self.ALLOWED:
            return self.ALLOWED[name, part[-1]]
        raise pickle.UnpicklingError(f"it holds {module}.{name}")


def read_corpus(path) -> dict[str, dict[str, dict]]:
    """A MERBench label archive (`label*.npz`): split -> name -> {"emo": class name or index, "val": number}.

    The archive holds pickled dicts under `train_corpus`, `val_corpus`, `test_corpus`, `test1_corpus`...,
    `whole_corpus`. Only plain values are unpickled, so a file from the internet cannot run code here.
    """
    check_file(path)
    splits = {}
    try:
        with zipfile.ZipFile(path) as archive:
            check_unpacked(path, *archive.infolist())
            for member in archive.namelist():
                with archive.open(member) as stream:
                    np.lib.format.read_magic(stream)
                    _, _, dtype = np.lib.format.read_array_header_1_0(stream)
                    if not dtype.hasobject:
                        raise DataError(path, None, f"{member} holds {dtype} values; a pickled dict is expected")
                    value = _PlainUnpickler(stream).load()
                splits[member.removesuffix(".npy").removesuffix("_corpus")] = value.item()
    except DataError:
        raise
    except Exception as error:  # a damaged pickle makes its reader raise whatever its bytes lead to
        raise DataError(
            path, None, f"not a label archive of plain values ({' '.join(str(error).split())[:200]})"
        ) from None
    for split, corpus in splits.items():
        if not isinstance(corpus, dict) or not all(
            isinstance(item, dict) and "emo" in item for item in corpus.values()
        ):
            raise DataError(path, None, f"{split}_corpus is not a dict of name -> {{'emo': ..., 'val': ...}}")
    return splits


def short(value) -> str:
    """A value as a message may show it."""
    try:
        text = repr(value[:200] if isinstance(value, (str, list)) else value)
    except (ValueError, RecursionError):  # a number of too many digits, a list in itself
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:97]}..."


def number(path, line: int | None, column: str, text, low: float = -math.inf, high: float = math.inf) -> float | None:
    """`text` as a number in [low, high]; None for an empty cell. Raises `DataError` naming the column."""
    if text is None or (isinstance(text, str) and not text.strip()):
        return None
    try:
        if isinstance(text, str) and "_" in text:  # 1_000 is a number to Python alone
            raise ValueError
        value = float(text)
    except (TypeError, ValueError, OverflowError):
        raise DataError(path, line, f"column {column} is {short(text)}; a number is needed") from None
    if not math.isfinite(value) or not low <= value <= high:
        bounds = f" between {low:g} and {high:g}" if math.isfinite(low) else ""
        raise DataError(path, line, f"column {column} is {short(text)}; a finite number{bounds} is needed")
    return value


def choice(path, line: int | None, column: str, text: str, classes: Collection[str]) -> str:
    """`text` if it is one of `classes`, else `DataError` naming them."""
    if not isinstance(text, str) or text not in classes:
        raise DataError(path, line, f"column {column} is {short(text)}; one of {', '.join(classes)} is needed")
    return text


def word_list(path, line: int | None, column: str, text: str) -> list[str]:
    """Words of an open-vocabulary cell such as `['worried', 'hurt']`, as MER2025 reads it: brackets off, then split at
    quotes and commas. An empty cell is an empty list. Unlike there, an unclosed bracket is an error."""
    text = text.strip()
    if text.startswith("[") != text.endswith("]"):
        raise DataError(path, line, f"column {column} is {short(text)}; a list in brackets is needed")
    for mark in "'\"":
        text = text.replace(mark, ",")
    return [word.strip() for word in text.removeprefix("[").removesuffix("]").split(",") if word.strip()]


class Ids:
    """The ids of one file, each with its line, to name both lines when one comes twice."""

    def __init__(self, path):
        self.path, self.lines = path, {}

    def add(self, line: int | None, name: str) -> str:
        if not name.strip():
            raise DataError(self.path, line, "an empty name; each clip needs one")
        if name in self.lines:
            first = self.lines[name]
            where = f" (first on line {first})" if first else ""
            raise DataError(self.path, line, f"the name {name!r} occurs more than once{where}")
        self.lines[name] = line
        return name


class MediaFolder:
    """Media files under one folder, found by name in one walk. `root=None`: no media asked for, nothing is missing.

    `missing` collects the clips without any file, `sound_only` those with a sound but no picture file.
    """

    def __init__(self, root):
        self.root = None if root is None else Path(root)
        self.missing: list[str] = []
        self.sound_only: list[str] = []
        self.files = {"video": defaultdict(list), "audio": defaultdict(list)}
        if self.root is None:
            return
        if not self.root.is_dir():
            raise DataError(self.root, None, "no such media folder")
        for folder, folders, names in os.walk(self.root):
            folders.sort()
            for name in sorted(names):
                stem, suffix = os.path.splitext(name)
                # macOS leaves `._clip.mp4` beside `clip.mp4`; the MELD archive is full of them.
                if name.startswith("."):
                    continue
                for kind, suffixes in (("video", VIDEO_SUFFIXES), ("audio", AUDIO_SUFFIXES)):
                    if suffix.lower() in suffixes:
                        self.files[kind][stem].append(Path(folder, name).resolve())

    def find(self, name: str, kind: str) -> str | None:
        """The file of that kind ("video", "audio") whose stem is `name`; `train*/clip` wants a folder that matches.

        Raises `DataError` when several files answer to the name.
        """
        *folders, stem = name.split("/")
        matches = []
        for path in self.files[kind].get(stem, ()):
            parents = path.parent.parts[len(path.parent.parts) - len(folders) :]
            if len(parents) == len(folders) and all(map(fnmatch, parents, folders)):
                matches.append(str(path))
        if len(matches) > 1:
            raise DataError(
                self.root, None, f"{len(matches)} {kind} files for {name!r}: {', '.join(matches)}; keep one of them"
            )
        return matches[0] if matches else None

    def take(self, *names: str) -> dict[str, str | None]:
        """{"video": path or None, "audio": path or None} of a clip; several names are tried in turn."""
        if self.root is None:
            return {"video": None, "audio": None}
        paths = {
            kind: next(filter(None, (self.find(name, kind) for name in names)), None) for kind in ("video", "audio")
        }
        if paths["video"] is None:
            (self.missing if paths["audio"] is None else self.sound_only).append(names[0])
        return paths


def subtitles_of(path, language: str = "english") -> dict[str, str | None]:
    """name -> what is said, from a transcript table: `name` and one of `<language>`, `sentence_en`, `sentence`, `text`.

    MER2023: `name, sentence`; MER2024 (Emotion-LLaMA): `name, sentence_en`; MER2025, MER2026, MERBench: `name, chinese,
    english`. An empty cell is None: nothing is said.
    """
    if path is None:
        return {}
    candidates = {"english": ("english", "sentence_en", "sentence", "text"), "chinese": ("chinese", "sentence", "text")}
    ids, texts, column = Ids(path), {}, None
    for line, cells in read_csv(path, ("name",)):
        if column is None:
            column = next((c for c in candidates[language] if c in cells), None)
            if column is None:
                wanted = ", ".join(candidates[language])
                raise DataError(path, 1, f"no column with what is said ({wanted}); the columns are {', '.join(cells)}")
        texts[ids.add(line, cells["name"])] = cells[column].strip() or None
    return texts
