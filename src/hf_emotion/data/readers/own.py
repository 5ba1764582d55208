"""Your own data: a folder of clips, a CSV, or JSON rows.

Folder: each media file is a clip, named by its stem; its folder is its label; folders named train, validation (val,
dev) or test above it are splits. Next to a clip, a `.srt`, `.vtt`, `.json` or `.TextGrid` file has its utterances and
a `.txt` file its subtitle. Tables (`.csv`, `.jsonl`, `.json`): a column or key for any field of the schema; `name` is
read as `id`; `split` names the split ("train" if absent); `utterances` is a list of rows or the path of a subtitle
file. Paths are relative to the media folder, or else to the folder of the table. For a row without `video` and `audio`,
the media folder is searched by id.
"""

from pathlib import Path

from ..files import (
    AUDIO_SUFFIXES,
    VIDEO_SUFFIXES,
    DataError,
    Ids,
    MediaFolder,
    Reading,
    number,
    parse_json,
    read_csv,
    read_json,
    read_lines,
    read_text,
    short,
    word_list,
)
from ..remote import is_url, joined
from ..schema import FIELDS, RowError, make_row

SPLITS = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "test": "test",
}
UTTERANCE_SUFFIXES = (".srt", ".vtt", ".json", ".TextGrid")


def _utterances(path: Path) -> list[dict]:
    from hf_emotion.processing.utterances import UtteranceError, read

    try:
        return [{key: item.get(key) for key in ("start", "end", "text", "speaker")} for item in read(path)]
    except (UtteranceError, OSError) as error:
        raise DataError(path, None, str(error)) from None


def read_folder(annotations, media: MediaFolder | None = None) -> Reading:
    """Rows of a folder of clips; a video and an audio file of one stem in one folder are one clip."""
    root = Path(annotations).resolve()
    files = MediaFolder(root).files
    clips = {}
    for kind in ("video", "audio"):
        for paths in files[kind].values():
            for path in paths:
                clip = clips.setdefault(path.parent / path.stem, {"video": None, "audio": None})
                if clip[kind] is not None:
                    raise DataError(path, None, f"a second {kind} file of {path.stem!r}; the first is {clip[kind]}")
                clip[kind] = str(path)
    if not clips:
        suffixes = ", ".join((*VIDEO_SUFFIXES, *AUDIO_SUFFIXES))
        raise DataError(root, None, f"no clips in this folder ({suffixes})")
    splits, folder_of = {}, {}
    for stem, paths in sorted(clips.items()):
        folders = list(stem.parent.relative_to(root).parts)
        split = SPLITS[folders.pop(0).lower()] if folders and folders[0].lower() in SPLITS else "train"
        name = stem.name
        if name in folder_of:
            message = f"the clip name {name!r} occurs more than once (first in {folder_of[name]})"
            raise DataError(stem.parent, None, message)
        folder_of[name] = stem.parent
        words, timed = (
            Path(f"{stem}.txt"),
            [Path(f"{stem}{s}") for s in UTTERANCE_SUFFIXES if Path(f"{stem}{s}").is_file()],
        )
        if len(timed) > 1:
            raise DataError(timed[1], None, f"a second file with utterances; the first is {timed[0].name}")
        label = folders[-1] if folders else None
        splits.setdefault(split, []).append(
            make_row(
                id=name,
                **paths,
                utterances=_utterances(timed[0]) if timed else None,
                subtitle=read_text(words).strip() or None if words.is_file() else None,
                label=label,
                labels=[label] if label else None,
            )
        )
    return Reading(splits)


def read_table(annotations, media: MediaFolder, base: str | None = None) -> Reading:
    """Rows of a CSV, JSON Lines, JSON or Parquet table. Raises `DataError` with the line of the first invalid row.

    A clip may be an address (`s3://bucket/clip.mp4`); nothing is read from there.

    Args:
        base: address that relative names of clips are joined to; by default they are paths.
    """
    path = Path(annotations)
    ids, splits, ignored = Ids(path), {}, set()
    for line, cells in _records(path):
        cells = dict(cells)
        if "name" in cells and "id" not in cells:
            cells["id"] = cells.pop("name")
        if not isinstance(cells.get("id"), str):
            raise DataError(
                path,
                line,
                f"the id is {short(cells.get('id'))}; a text under 'id' or 'name' is needed (\"00012\", not 12)",
            )
        split = str(cells.pop("split", None) or "train")
        split = SPLITS.get(split.lower(), split)
        ignored |= set(cells) - set(FIELDS)
        fields = {key: value for key, value in cells.items() if key in FIELDS}
        if path.suffix == ".csv":
            fields = {key: value if key == "id" or value.strip() else None for key, value in fields.items()}
            fields["valence"] = number(path, line, "valence", fields.get("valence"))
            if fields.get("labels") is not None:
                fields["labels"] = word_list(path, line, "labels", fields["labels"])
        fields["utterances"] = _utterances_of(path, line, fields.get("utterances"), media)
        ids.add(line, fields["id"])
        fields.update(_media(path, line, fields, media, base))
        if fields.get("labels") is None and isinstance(fields.get("label"), str):
            fields["labels"] = [fields["label"]]
        try:
            splits.setdefault(split, []).append(make_row(**fields))
        except RowError as error:
            raise DataError(path, line, str(error)) from None
    if not splits:
        raise DataError(path, 1, "there are no rows in this file")
    notes = [f"columns that are not in the schema are left out: {', '.join(sorted(ignored))}"] if ignored else []
    return Reading(splits, notes)


def _records(path: Path):
    if path.suffix == ".csv":
        # The id can be under either name, so read_table checks for it, not read_csv.
        yield from read_csv(path, ())
    elif path.suffix == ".jsonl":
        for line, text in read_lines(path):
            if not text.strip():
                continue
            record = parse_json(path, text, line)
            if not isinstance(record, dict):
                raise DataError(path, line, f"{short(text)} is not an object")
            yield line, record
    elif path.suffix == ".json":
        records = read_json(path)
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise DataError(path, 1, "a list of objects is needed")
        yield from ((None, record) for record in records)
    elif path.suffix == ".parquet":
        yield from ((None, record) for record in _parquet_records(path))
    else:
        raise DataError(path, None, "a folder of clips, or a .csv, .jsonl, .json or .parquet table is needed")


def _parquet_records(path: Path):
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(1000):
                for record in batch.to_pylist():
                    yield {name: value for name, value in record.items() if value is not None}
    except (ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(path, None, f"the file is not a Parquet table that can be read: {reason}") from error


def _utterances_of(path: Path, line: int | None, value, media: MediaFolder) -> list[dict] | None:
    if value is None or isinstance(value, list):
        return value
    if isinstance(value, str) and value.lstrip().startswith("["):
        return parse_json(path, value, line or 1, "column utterances is ")
    if not isinstance(value, str):
        raise DataError(
            path, line, f"utterances is {short(value)}; a list of rows or the path of a subtitle file is needed"
        )
    file = _resolve(path, value, media)
    if not file.is_file():
        raise DataError(path, line, f"the file of utterances {value} does not exist")
    return _utterances(file)


def _resolve(path: Path, name: str, media: MediaFolder) -> Path:
    return (media.root if media.root is not None else path.parent).joinpath(name).resolve()


def _media(path: Path, line: int | None, fields: dict, media: MediaFolder, base: str | None) -> dict:
    """The media of a row: the paths it names (missing files are recorded as missing), else the files with its id."""
    named = {kind: fields.get(kind) for kind in ("video", "audio") if fields.get(kind) is not None}
    if not named:
        return media.take(fields["id"])
    for kind, name in named.items():
        if not isinstance(name, str):
            raise DataError(path, line, f"{kind} is {short(name)}; a path is needed")
    try:
        urls = {kind: joined(base or "", name) for kind, name in named.items() if base or is_url(name)}
    except ValueError as error:
        raise DataError(path, line, str(error)) from None
    files = {kind: _resolve(path, name, media) for kind, name in named.items() if kind not in urls}
    absent = [kind for kind, file in files.items() if not file.is_file()]
    if absent:
        media.missing.append(f"{fields['id']} ({', '.join(named[kind] for kind in absent)})")
    return urls | {kind: None if kind in absent else str(file) for kind, file in files.items()}
