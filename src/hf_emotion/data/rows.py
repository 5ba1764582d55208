"""Rows from whatever holds them: a saved dataset, a demo corpus, a table, a folder of clips."""

import os
from pathlib import Path

from .files import DataError, MediaFolder, did_you_mean
from .readers.demo import METADATA, read_demo
from .readers.own import read_folder, read_table

SAVED_DATASET = ("dataset_dict.json", "dataset_info.json", "state.json")


def read_rows(
    data: str | Path,
    split: str | None = None,
    media_root: str | Path | None = None,
    default_split: str | None = None,
) -> list[dict]:
    """Data rows (`schema.FIELDS`) of a table, a folder of clips, a demo corpus or a folder saved by `datasets`.

    Args:
        data: a jsonl, json or csv file, or a folder.
        split: its name, several separated by commas, or `"all"`; needed only where there are several.
        media_root: folder of the clips; by default the folder of the table. Paths in a saved dataset are joined to it.
        default_split: used where there are several splits and `split` is None.

    Raises:
        DataError: no such data or split, or several splits and none named.
    """
    data = Path(data)
    if not data.exists():
        raise DataError(data, None, "no such file or folder")
    if data.is_dir() and any((data / name).is_file() for name in SAVED_DATASET):
        from datasets import DatasetDict, load_from_disk  # takes seconds to import

        loaded = load_from_disk(str(data))
        splits = dict(loaded) if isinstance(loaded, DatasetDict) else {"all": loaded}
    elif (data / METADATA).is_file() and media_root is None:
        splits = {}
        for row in read_demo(data):
            splits.setdefault(row["split"], []).append(row)
    elif data.is_dir():
        splits = read_folder(data).splits
    else:
        splits = read_table(data, MediaFolder(media_root)).splits
    if split is None and (len(splits) == 1 or default_split in splits):
        split = default_split if default_split in splits else next(iter(splits))
    if split is None:
        raise DataError(data, None, f"it has the splits {', '.join(splits)}; choose one with --split, or all")
    names = list(splits) if split == "all" else split.split(",")
    for name in names:
        if name not in splits:
            raise DataError(data, None, f"no split {name!r}{did_you_mean(name, splits)}; it has {', '.join(splits)}")
    rows = [dict(row) for name in names for row in splits[name]]
    if media_root is not None:
        for row in rows:
            for kind in ("video", "audio"):
                if row.get(kind):
                    row[kind] = os.path.join(media_root, row[kind])
    return rows


__all__ = ["read_rows"]
