"""Rows from whatever holds them: a saved dataset, a demo corpus, a table, a folder of clips."""

import os
from pathlib import Path

from .demo import read_demo
from .files import DataError, MediaFolder
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
        split: which split; needed only where there are several. `"all"` takes every split.
        media_root: folder of the clips; by default the folder of the table. Paths in a saved dataset are joined to it.
        default_split: taken where there are several splits and `split` is None.

    Raises:
        DataError: no such data or split, or several splits and none named.
    """
    data = Path(data)
    if not data.exists():
        raise DataError(f"--data {data} does not exist")
    if data.is_dir() and any((data / name).is_file() for name in SAVED_DATASET):
        from datasets import DatasetDict, load_from_disk  # takes seconds to import

        loaded = load_from_disk(str(data))
        splits = dict(loaded) if isinstance(loaded, DatasetDict) else {"all": loaded}
    elif (data / "metadata.jsonl").is_file() and media_root is None:
        splits = {}
        for row in read_demo(data):
            splits.setdefault(row["split"], []).append(row)
    elif data.is_dir():
        splits = read_folder(data).splits
    else:
        splits = read_table(data, MediaFolder(media_root)).splits
    if split == "all" and "all" not in splits:
        splits = {"all": [row for rows in splits.values() for row in rows]}
    if split is None:
        split = default_split if default_split in splits else next(iter(splits))
        if len(splits) > 1 and split != default_split:
            raise DataError(f"--data {data} has the splits {', '.join(splits)}; choose one with --split")
    if split not in splits:
        raise DataError(f"--data {data} has no split {split!r}; it has {', '.join(splits)}")
    rows = [dict(row) for row in splits[split]]
    if media_root is not None:
        for row in rows:
            for kind in ("video", "audio"):
                if row.get(kind):
                    row[kind] = os.path.join(media_root, row[kind])
    return rows


__all__ = ["read_rows"]
