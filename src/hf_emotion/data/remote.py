"""Rows and clips that lie elsewhere: on the Hub (`hf://`), in an object store (`s3://`), behind an address (`https://`).

Whatever `fsspec` has a file system for can be read; object stores need its package (`s3fs`, `gcsfs`). A clip is copied
to this machine while it is worked on. The network is used only where the caller says so (`allow_urls`), since a table
may name any address.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

from .files import DataError, short, write_whole
from .schema import FIELDS, RowError, make_row
from .shares import processes

MAX_CLIP_BYTES = 2**31
KINDS = ("video", "audio")
# Endings of the parts of a sample of a WebDataset.
SHARD_PARTS = {
    **dict.fromkeys(("mp4", "mkv", "webm", "avi", "mov", "m4v"), "video"),
    **dict.fromkeys(("wav", "flac", "mp3", "ogg", "m4a", "opus"), "audio"),
}


def is_url(source) -> bool:
    """Whether a source is an address such as `s3://bucket/clip.mp4`, and not a path."""
    return isinstance(source, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source) is not None


def joined(base: str, name: str) -> str:
    """The address of a file below a folder's address; an address stays as it is.

    Raises:
        ValueError: the name leads out of the folder.
    """
    if is_url(name):
        return name
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"{short(name)} leads out of {base}; a path below it is accepted")
    return f"{base.rstrip('/')}/{name}"


def refuse_urls(rows, source, allow_urls: bool) -> None:
    """Raise `DataError` for a row that names an address, unless addresses are allowed."""
    for row in rows if not allow_urls else ():
        for kind in KINDS:
            if is_url(row.get(kind)):
                raise DataError(
                    source, None, f"row {row['id']!r} names {short(row[kind])}; add --allow-urls to read addresses"
                )


@contextmanager
def local_copy(url: str) -> Iterator[Path]:
    """A copy of the file at an address, with its ending, for as long as the block lasts.

    Raises:
        MediaError: it cannot be read, or has more than `MAX_CLIP_BYTES`.
    """
    import fsspec

    from ..processing.media import MediaError  # with PyAV, which reading tables does not need

    with tempfile.TemporaryDirectory(prefix="hf_emotion_") as folder:
        name = re.sub(r"[^A-Za-z0-9._-]", "_", url.partition("?")[0].rsplit("/", 1)[1])[-100:]
        path = Path(folder) / (name or "clip")
        try:
            with fsspec.open(url, "rb") as source, path.open("wb") as copy:
                while block := source.read(2**20):
                    if copy.tell() + len(block) > MAX_CLIP_BYTES:
                        raise MediaError(f"{short(url)} has more than the {MAX_CLIP_BYTES:,} bytes that are read.")
                    copy.write(block)
        except MediaError:
            raise
        except Exception as error:  # every file system raises its own kinds
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise MediaError(f"{short(url)} cannot be read ({reason}).") from error
        yield path


@contextmanager
def local_media(row: Mapping, allow_urls: bool = False) -> Iterator[Mapping]:
    """A row with its clips on this machine, for as long as the block lasts; a row without addresses stays as it is.

    Raises:
        MediaError: an address cannot be read, or addresses are not allowed.
    """
    urls = {kind: row[kind] for kind in KINDS if is_url(row.get(kind))}
    if urls and not allow_urls:
        from ..processing.media import MediaError

        raise MediaError(f"{short(next(iter(urls.values())))} is an address; it is read only with allow_urls=True.")
    with ExitStack() as stack:
        copies = {kind: str(stack.enter_context(local_copy(url))) for kind, url in urls.items()}
        yield {**row, **copies} if copies else row


def stamp_of_url(url: str) -> dict:
    """What a file system knows of a file without reading it: `size` (or -1) and `sha256` of its ETag, time or name."""
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    return {"size": system.info(path).get("size") or -1, "time": 0, "sha256": system.ukey(path)}


def unpack_shards(shards: str, folder: str | Path) -> list[dict]:
    """Rows of a WebDataset, whose clips are unpacked into a folder; what was unpacked before is not read again.

    A sample is a clip (`.mp4`, `.wav` ...) with a row's fields in its `.json`, and optionally its subtitle in `.txt`.
    The shards are streamed by `datasets`, by the first of several processes.

    Args:
        shards: path, address or pattern of `.tar` files, such as `s3://bucket/train-*.tar`.
        folder: for the clips, and `rows.json`.

    Raises:
        DataError: a sample is not a row.
    """
    folder, share = Path(folder), processes()
    record = folder / "rows.json"
    if share.is_first and (not record.is_file() or json.loads(record.read_text(encoding="utf-8"))["shards"] != shards):
        rows = list(_samples(shards, folder))
        write_whole(record, json.dumps({"shards": shards, "rows": rows}, ensure_ascii=False))
    share.wait()
    return json.loads(record.read_text(encoding="utf-8"))["rows"]


def _samples(shards: str, folder: Path) -> Iterator[dict]:
    from datasets import Value, load_dataset

    stream = load_dataset("webdataset", data_files={"train": shards}, split="train", streaming=True)
    for name, feature in (stream.features or {}).items():
        if hasattr(feature, "decode"):  # a clip stays bytes, for which no decoder need be installed
            stream = stream.cast_column(name, {"path": Value("string"), "bytes": Value("binary")})
    folder.mkdir(parents=True, exist_ok=True)
    for sample in stream:
        key, fields = sample["__key__"], {}
        about = sample.get("json") or {}
        about = json.loads(about) if isinstance(about, (str, bytes)) else about
        fields = {name: about[name] for name in FIELDS if about.get(name) is not None}
        fields |= {"id": about.get("id") or key, "video": None, "audio": None}
        if sample.get("txt") is not None:
            text = sample["txt"]
            fields["subtitle"] = text.decode("utf-8") if isinstance(text, bytes) else text
        for ending, kind in SHARD_PARTS.items():
            if (content := sample.get(ending)) is not None:
                content = content["bytes"] if isinstance(content, dict) else content
                path = folder / f"{quote(key, safe='')}.{ending}"
                temporary = path.with_name(f".{path.name}.{os.getpid()}")
                temporary.write_bytes(content)
                shutil.move(temporary, path)
                fields[kind] = str(path.resolve())
        try:
            yield make_row(**fields)
        except RowError as error:
            raise DataError(shards, None, str(error)) from None


__all__ = ["is_url", "joined", "local_copy", "local_media", "refuse_urls", "unpack_shards"]
