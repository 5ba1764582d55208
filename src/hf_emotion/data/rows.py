"""Rows from whatever holds them: a saved dataset, a demo corpus, a table, a folder of clips."""

import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

from .files import DataError, MediaFolder, did_you_mean
from .readers.demo import METADATA, read_demo
from .readers.own import read_folder, read_table
from .remote import is_url, local_copy, refuse_urls, unpack_shards

SAVED_DATASET = ("dataset_dict.json", "dataset_info.json", "state.json")


def read_rows(
    data: str | Path,
    split: str | None = None,
    media_root: str | Path | None = None,
    default_split: str | None = None,
    allow_urls: bool = False,
) -> list[dict]:
    """Data rows (`schema.FIELDS`) of a table, a folder of clips, a demo corpus or a folder saved by `datasets`.

    Args:
        data: a jsonl, json, csv or parquet file, a folder, or the tar files of a WebDataset (`train-*.tar`), whose
            clips are unpacked into `media_root`. A table and tar files may lie elsewhere (`s3://bucket/rows.jsonl`).
        split: its name, several separated by commas, or `"all"`; needed only where there are several.
        media_root: folder of the clips; by default the folder of the table. Paths in a saved dataset are joined to it.
        default_split: used where there are several splits and `split` is None.
        allow_urls: read addresses: `data`, `media_root`, and clips that rows name.

    Raises:
        DataError: no such data or split, or several splits and none named.
    """
    named = [str(source) for source in (data, media_root) if is_url(str(source))]
    if named and not allow_urls:
        raise DataError(named[0], None, "this is an address; add --allow-urls to read it")
    if str(data).endswith(".tar"):
        if media_root is None or is_url(str(media_root)):
            raise DataError(data, None, "--media-root FOLDER is needed, where the clips of tar files are unpacked")
        return unpack_shards(str(data), media_root)
    if named:
        base = str(media_root or str(data).rpartition("/")[0])
        with local_copy(str(data)) if is_url(str(data)) else nullcontext(data) as table:
            splits = read_table(table, MediaFolder(None), base).splits
        return [row for name in names_of(data, split, splits, default_split) for row in splits[name]]
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
    rows = [dict(row) for name in names_of(data, split, splits, default_split) for row in splits[name]]
    if media_root is not None:
        for row in rows:
            for kind in ("video", "audio"):
                if row.get(kind) and not is_url(row[kind]):
                    row[kind] = os.path.join(media_root, row[kind])
    refuse_urls(rows, data, allow_urls)
    return rows


def names_of(data, split: str | None, splits: Mapping, default_split: str | None) -> list[str]:
    """The splits that are asked for."""
    if split is None and (len(splits) == 1 or default_split in splits):
        split = default_split if default_split in splits else next(iter(splits))
    if split is None:
        raise DataError(data, None, f"it has the splits {', '.join(splits)}; choose one with --split, or all")
    names = list(splits) if split == "all" else split.split(",")
    for name in names:
        if name not in splits:
            raise DataError(data, None, f"no split {name!r}{did_you_mean(name, splits)}; it has {', '.join(splits)}")
    return names


__all__ = ["read_rows"]
