"""Outputs of frozen towers, computed once: training then reads them instead of pixels and sound.

    hf-emotion cache MODEL --data DATA --output FEATURES

A folder of Arrow files, read by memory mapping, with one row for each clip, and `features.json`, which says for which
processor settings and tower weights they hold. Features that no longer belong to the clip, the processor or the towers
are refused, and so are damaged ones. Several processes may fill one folder: each writes files of its own; under
`torchrun` they share the clips.
"""

import hashlib
import json
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from tqdm import tqdm

from ..data.files import replacing, write_whole
from ..data.loading import ClipDataset, clip_loader
from ..data.remote import is_url, local_media, stamp_of_url
from ..data.shares import Processes, processes
from ..processing.faces import FaceError
from ..processing.processing_emotion import ClipInputs, EmotionProcessor
from .collator import encode

MANIFEST = "features.json"
# Of the files' layout: another number makes older folders stale.
FORMAT = 2
# Steps of a chunk of sound that are stored after its last one with sound: a model's token may cover some of them.
STEPS_AFTER_SOUND = 8
# A file is written when it holds so much, or when so much time has passed: what an interrupted run loses at most.
SHARD_BYTES = 512 * 2**20
SHARD_SECONDS = 600.0
# How the towers' states are stored: as they are computed; rounded; or as whole numbers with a scale for each vector.
STORAGES = ("full", "bfloat16", "int8")
# Fields of a configuration that say which towers there are, and what is taken from them.
TOWER_FIELDS = ("vision", "audio", "face", "motion")
# What loading and saving add to settings without changing them.
VOLATILE = {"_name_or_path", "architectures", "auto_map", "dtype", "processor_class", "transformers_version"}


class FeatureCacheError(ValueError):
    """Cached features that are missing or damaged."""


class StaleFeaturesError(FeatureCacheError):
    """Cached features of another clip, processor or tower."""


def towered(model):
    """The part of a model (with or without adapters) that holds the towers."""
    return (model.get_base_model() if isinstance(model, PeftModel) else model).base_model


def settled(value):
    """Settings without the fields that loading and saving add."""
    if isinstance(value, Mapping):
        return {str(name): settled(inner) for name, inner in value.items() if name not in VOLATILE}
    if isinstance(value, (list, tuple)):
        return [settled(inner) for inner in value]
    return value


def fingerprint(settings) -> str:
    """SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(settled(settings), sort_keys=True, default=str).encode()).hexdigest()


def tower_fingerprint(model) -> str:
    """SHA-256 of the towers: every weight, and the settings that select from their outputs."""
    base = towered(model)
    settings = {
        name: value
        for name, value in base.config.to_dict().items()
        if name.startswith(TOWER_FIELDS) and not name.endswith("_token_id")
    }
    digest = hashlib.sha256(fingerprint(settings).encode())
    for name, tensor in sorted(base.state_dict().items()):
        if name.split(".")[0].endswith("_tower"):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def processor_fingerprint(processor, options: Mapping) -> str:
    """SHA-256 of all settings that decide what a processor makes of a clip; the wording of prompts may change."""
    words = {"chat_template", "default_question"}
    settings = {name: value for name, value in processor.to_dict().items() if name not in words}
    return fingerprint([settings, options])


def stamp_of(path: str | Path) -> dict:
    """Size, time (ns) and SHA-256 of a file, to recognise it later; of an address, what its file system says."""
    if is_url(str(path)):
        return stamp_of_url(str(path))
    status = Path(path).stat()
    with Path(path).open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": status.st_size, "time": status.st_mtime_ns, "sha256": content}


def is_unchanged(path: str | Path, stamp: Mapping) -> bool:
    """Whether the file is still that of `stamp`; its content is read only if its time differs."""
    if is_url(str(path)):
        return stamp_of(path) == stamp
    try:
        status = Path(path).stat()
    except OSError:
        return False
    if status.st_size != stamp["size"]:
        return False
    return status.st_mtime_ns == stamp["time"] or stamp_of(path)["sha256"] == stamp["sha256"]


def checksum(row: Mapping) -> str:
    """SHA-256 of all that is stored of a clip."""
    digest = hashlib.sha256()
    for name in ("key", "stamps", "about", "data"):
        value = row[name]
        digest.update(value.encode() if isinstance(value, str) else value)
    return digest.hexdigest()


def media_of(row: Mapping) -> dict[str, str]:
    """The files of a row: paths or addresses."""
    media = {kind: row[kind] for kind in ("video", "audio") if row.get(kind)}
    return {kind: path if is_url(path) else os.path.abspath(path) for kind, path in media.items()}


def key_of(row: Mapping, root: str) -> str:
    """The key of a row's features: its files, relative to the folder of the data, and its utterances, on which the
    features depend."""
    prefix = os.path.join(root, "")
    media = {kind: path.removeprefix(prefix) for kind, path in media_of(row).items()}
    return json.dumps([media, row.get("utterances")], sort_keys=True)


def root_of(rows: Sequence[Mapping]) -> str:
    """The folder that holds the files of all rows; addresses are keys as they are."""
    folders = {os.path.dirname(path) for row in rows for path in media_of(row).values() if not is_url(path)}
    return os.path.commonpath(folders) if folders else os.path.abspath(os.curdir)


def record(processor: EmotionProcessor, row: Mapping, options: Mapping) -> ClipInputs:
    """What the processor makes of a row's clip."""
    options = dict(options)
    searched = {name: options.pop(name) for name in ("faces", "landmarks") if name in options}
    clip = processor.load(row.get("video"), row.get("utterances") or None, audio=row.get("audio"), **options)
    return processor.measure(clip, **searched)


def shapes_of(inputs: ClipInputs) -> tuple:
    """Shapes of all that towers may read; the number of utterances and the words of timestamps are not among it."""
    texts = ("utterance_spans", "video_timestamp_ids", "video_timestamp_mask")
    return tuple((name, tuple(values.shape)) for name, values in inputs.tensors.items() if name not in texts)


def encode_clips(base, processor, clips: Sequence[ClipInputs]) -> list[ClipInputs]:
    """Clips of the same shapes with the outputs of the towers of `base` instead of pixels and sound."""
    batch = processor.pad([inputs.tensors for inputs in clips])
    batch = {name: tensor.to(base.device) for name, tensor in batch.items()}
    features = base.tower_features(**batch)
    encoded = []
    for i, inputs in enumerate(clips):
        # What the towers do not read is stored as it was, without the padding of this batch.
        tensors = {
            name: torch.as_tensor(inputs.tensors[name]) if tensor is batch.get(name) else tensor[i]
            for name, tensor in features.items()
        }
        encoded.append(replace(inputs, tensors=tensors))
    return encoded


class _Clips(ClipDataset):
    """Rows as `record` makes them, or one sentence for a row that cannot be read."""

    def __init__(self, processor, rows, options, allow_urls=False):
        self.processor, self.rows, self.options, self.allow_urls = processor, rows, options, allow_urls

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        try:
            with local_media(row, self.allow_urls) as local:
                stamps = {kind: stamp_of(path) for kind, path in media_of(row).items()}
                return record(self.processor, local, self.options), stamps
        except (ValueError, OSError, FaceError) as error:
            return f"{row.get('id')}: {error}"


class FeatureCache:
    """Features of clips on disk.

    Args:
        folder: what `FeatureCache.build` or `hf-emotion cache` wrote.

    Raises:
        FeatureCacheError: no such folder.
    """

    def __init__(self, folder: str | Path):
        from datasets import Dataset, concatenate_datasets

        # What `build` left out, and how many clips it encoded in this process.
        self.skipped: list[str] = []
        self.added = 0
        # Mean over the clips that `build` added, see `storage_error`; `None` where nothing was stored otherwise.
        self.storage_error: float | None = None
        self.folder = Path(folder)
        if not (self.folder / MANIFEST).is_file():
            raise FeatureCacheError(f"{folder} holds no {MANIFEST}; a folder that `hf-emotion cache` wrote is accepted")
        self.manifest = read_manifest(self.folder)
        # In the order of their names, which begin with the time: of a clip that was encoded twice, the later row holds.
        self.files = sorted(self.folder.glob("features-*.arrow"))
        parts = []
        for path in self.files:
            try:
                parts.append(Dataset.from_file(str(path)))
                # Offsets and texts; the features themselves have a checksum each.
                parts[-1].data.table.validate(full=True)
                parts[-1].data.column("checksum")
            except Exception as error:  # Arrow raises many kinds for a damaged file
                reason = " ".join(str(error).split())[:150]
                raise FeatureCacheError(
                    f"{path} is damaged ({reason}); delete it and run hf-emotion cache again"
                ) from error
        self.sizes = [len(part) for part in parts]
        self.rows = concatenate_datasets(parts).with_format("arrow") if parts else None
        self.places = {key: i for i, key in enumerate(self._column("key"))}
        self.root = self.manifest["root"]

    def _column(self, name: str) -> list:
        return [] if self.rows is None else self.rows.data.column(name).to_pylist()

    def __len__(self) -> int:
        return len(self.places)

    def key(self, row: Mapping) -> str:
        """The key of a row; data that was moved as a whole is recognised."""
        key = key_of(row, self.root)
        if key not in self.places:
            for root in (str(parent) for path in media_of(row).values() for parent in reversed(Path(path).parents)):
                if (moved := key_of(row, root)) in self.places:
                    self.root = root
                    return moved
        return key

    def __contains__(self, row: Mapping) -> bool:
        return self.key(row) in self.places

    @classmethod
    def build(
        cls,
        folder: str | Path,
        model,
        processor,
        rows: Sequence[Mapping],
        *,
        batch_size: int = 8,
        num_workers: int | None = 0,
        skip_bad_rows: bool = False,
        progress: bool = False,
        share: Processes | None = None,
        allow_urls: bool = False,
        storage: str = "full",
        **options,
    ) -> "FeatureCache":
        """Encode the clips of `rows` that the folder does not hold yet; an interrupted run continues.

        Under `torchrun`, `accelerate launch` or `srun` each process encodes its share and returns when all have.

        Args:
            folder: new, or of an earlier run with the same processor, towers and options.
            model, processor: whose towers encode, where the model lies.
            rows: data rows; a clip that occurs in several is encoded once.
            batch_size: clips that pass the towers together; only clips of the same shapes do, so nothing is padded.
            num_workers: processes that decode; `None` for their usual number. See `inference.Describer`.
            skip_bad_rows: leave out clips that cannot be read; `skipped` of the cache has a sentence for each.
            share: this process among several; default those that a launcher started.
            allow_urls: fetch clips that are addresses (`s3://bucket/clip.mp4`).
            storage: one of `STORAGES`. "bfloat16" halves float32, "int8" takes a quarter; what that costs is measured
                while it is written, `storage_error` of the cache. Features are read in the type they were computed in.
            options: for the processor (`num_frames`, `modalities`, ...), as they will be in training.

        Raises:
            StaleFeaturesError: the folder holds features of other towers, settings or options.
            FeatureCacheError: clips that cannot be read, each with its reason.
        """
        if storage not in STORAGES:
            raise FeatureCacheError(f"storage is {storage!r}; accepted are {', '.join(STORAGES)}")
        folder, share = Path(folder), processes() if share is None else share
        wanted = cls.prepare(folder, model, processor, rows, storage, **options)
        # All know what is there before one of them adds to it, so they share the rest evenly.
        share.wait()
        wanted = dict(share.share(list(wanted.items())))
        base = towered(model)
        training = base.training
        base.eval()
        skipped, waiting = [], {}
        loader = clip_loader(_Clips(processor, list(wanted.values()), options, allow_urls), num_workers)
        writer = _Writer(folder, share.rank, not getattr(base.config, "keep_padding", False), storage)

        def encode_together(clips):
            keys, stamps, inputs = zip(*clips, strict=True)
            for one in zip(keys, stamps, encode_clips(base, processor, inputs), strict=True):
                writer.add(*one)

        for key, result in zip(wanted, tqdm(loader, desc="towers", unit="clip", disable=not progress), strict=True):
            if isinstance(result, str):
                skipped.append(result)
                continue
            inputs, stamps = result
            clips = waiting.setdefault(shapes_of(inputs), [])
            clips.append((key, stamps, inputs))
            if len(clips) >= batch_size:
                encode_together(waiting.pop(shapes_of(inputs)))
        for clips in waiting.values():
            encode_together(clips)
        writer.write()
        base.train(training)
        share.wait()
        if skipped and not skip_bad_rows:
            listed = "\n  ".join(skipped)
            raise FeatureCacheError(f"{len(skipped)} of {len(wanted)} clips cannot be read:\n  {listed}")
        cache = cls(folder)
        cache.skipped, cache.added = skipped, len(wanted) - len(skipped)
        cache.storage_error = sum(writer.errors) / len(writer.errors) if writer.errors else None
        return cache

    @classmethod
    def prepare(
        cls, folder: Path, model, processor, rows: Sequence[Mapping], storage: str = "full", **options
    ) -> dict[str, Mapping]:
        """Begin or check a folder; returns the rows that it lacks by their keys. See `build`."""
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / MANIFEST).is_file():
            manifest = {**describe_features(model, processor, options), "root": root_of(rows), "storage": storage}
            write_whole(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        cache = cls(folder)
        cache.check(model, processor, **options)
        if storage != (present := cache.manifest.get("storage", "full")):
            raise FeatureCacheError(
                f"{folder} holds features stored as {present}; storage {storage!r} needs another folder"
            )
        stale = set(cache.changed(rows))
        wanted = {cache.key(row): row for row in rows if media_of(row)}
        return {key: row for key, row in wanted.items() if key not in cache.places or key in stale}

    def check(self, model, processor, **options) -> None:
        """Raise `StaleFeaturesError` unless the features are of these towers, this processor and these options."""
        current = describe_features(model, processor, options)
        reasons = {
            "format": "were written by another version of this package",
            "model_type": f"are {self.manifest.get('model_type')}'s and not {current['model_type']}'s",
            "towers": "were made by towers with other weights or settings",
            "processor": f"were made with other settings of the processor (then {self.manifest.get('options')}, now "
            f"{current['options']}, and the folder's own settings)",
        }
        for name, reason in reasons.items():
            if current[name] != self.manifest.get(name):
                raise StaleFeaturesError(f"the features in {self.folder} {reason}; make new ones with hf-emotion cache")

    def changed(self, rows: Sequence[Mapping]) -> list[str]:
        """Keys of the rows whose files are no longer those that were encoded."""
        known = {self.key(row): row for row in rows if row in self}
        stamps = self._column("stamps")
        changed = []
        for key, row in known.items():
            place = self.places[key]
            try:
                stored = json.loads(stamps[place])
                same = all(is_unchanged(path, stored[kind]) for kind, path in media_of(row).items())
            except (ValueError, KeyError, TypeError) as error:
                raise self._damaged(row, place) from error
            if not same:
                changed.append(key)
        return changed

    def _damaged(self, row: Mapping, place: int) -> FeatureCacheError:
        """The error of a row whose file was changed after it was written."""
        ends = np.cumsum(self.sizes)
        path = self.files[int(np.searchsorted(ends, place, side="right"))]
        return FeatureCacheError(
            f"the features of {row.get('id')} in {path} are damaged; delete this file and run hf-emotion cache again"
        )

    def verify(self, rows: Sequence[Mapping]) -> None:
        """Raise unless every row has its features, and they are of the file as it is now."""
        missing = [row["id"] for row in rows if media_of(row) and row not in self]
        if missing:
            raise FeatureCacheError(
                f"{self.folder} lacks {len(missing)} of {len(rows)} rows, the first is {missing[0]}; "
                f"run hf-emotion cache again to add them"
            )
        changed = self.changed(rows)
        if changed:
            files = ", ".join(os.path.join(self.root, name) for name in json.loads(changed[0])[0].values())
            raise StaleFeaturesError(
                f"{len(changed)} clips have changed since their features in {self.folder} were made, the first is "
                f"{files}; run hf-emotion cache again"
            )

    def __getitem__(self, row: Mapping) -> ClipInputs:
        """The features of a row's clip, instead of its pixels and its sound.

        Raises:
            FeatureCacheError: there are none, or the file was damaged after it was written.
        """
        place = self.places.get(self.key(row))
        if place is None:
            raise FeatureCacheError(f"{self.folder} holds no features of {row.get('id')}: run hf-emotion cache again")
        stored = self.rows[place]
        stored = {name: stored.column(name)[0] for name in ("key", "stamps", "about", "data", "checksum")}
        stored = {name: value.as_buffer() if name == "data" else value.as_py() for name, value in stored.items()}
        if checksum(stored) != stored["checksum"]:
            raise self._damaged(row, place)
        inputs = json.loads(stored["about"])
        chunks = inputs.pop("chunks")
        tensors = {}
        for name, (dtype, shape, start, size, *computed) in inputs.pop("tensors").items():
            # Copied, since what is mapped cannot be written to; an empty array has no bytes to be seen as numbers.
            values = np.frombuffer(stored["data"], dtype=np.uint8, count=size, offset=start).copy()
            kind = getattr(torch, dtype)
            tensor = torch.from_numpy(values).view(kind).view(shape) if size else torch.empty(shape, dtype=kind)
            # Files of before have no type of the computation: it is the stored one.
            tensors[name] = unpacked(tensor, getattr(torch, *computed)) if computed not in ([], [dtype]) else tensor
        if chunks is not None:
            tensors["audio_features"] = whole_chunks(tensors["audio_features"], **chunks)
        return ClipInputs(**inputs, tensors=tensors)

    def fill(self, row: Mapping) -> dict:
        """A row with the features of its clip instead of its files; nothing is decoded.

        Raises:
            FeatureCacheError: as `__getitem__`; a row whose clip stands in `messages`.
        """
        if row.get("messages") or row.get("conversations"):
            raise FeatureCacheError(
                f"row {row.get('id')!r} has its clip in messages; a data row with video is accepted"
            )
        return {**row, "video": self[row], "audio": None, "utterances": None} if media_of(row) else dict(row)

    def encode(self, processor: EmotionProcessor, row: Mapping, **options) -> dict[str, torch.Tensor]:
        """As `collator.encode` for one row, with the features instead of pixels and sound."""
        return encode(processor, [self.fill(row)], **options)


def describe_features(model, processor, options: Mapping) -> dict:
    """What identifies the features of this model's towers and this processor."""
    return {
        "format": FORMAT,
        "model_type": towered(model).config.model_type,
        "towers": tower_fingerprint(model),
        "processor": processor_fingerprint(processor, options),
        "options": {name: settled(value) for name, value in options.items()},
    }


def read_manifest(folder: Path) -> dict:
    """The content of `features.json`.

    Raises:
        FeatureCacheError: it is not the JSON that `FeatureCache.build` writes.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        # Older folders have no root; they are refused by their format.
        return {"root": "", **manifest}
    except (ValueError, TypeError) as error:
        raise FeatureCacheError(
            f"{folder / MANIFEST} is damaged ({error}); delete {folder} and make it again"
        ) from error


def cropped_chunks(states: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, dict]:
    """The states of chunks of sound without most of those that have no sound: 4 s take 208 of Whisper's 1,500.

    Args:
        states: (C * l, D), l states a chunk.
        mask: (C, F) bool, True for the spectrum frames that are sound.

    Returns:
        the states (sum of `kept`, D), and the arguments of `whole_chunks`.
    """
    steps = len(states) // len(mask)
    kept = [min(steps, -(-n * steps // mask.shape[1]) + STEPS_AFTER_SOUND) if n else 0 for n in mask.sum(-1).tolist()]
    chunks = states.unflatten(0, (len(mask), steps))
    return torch.cat([chunk[:n] for chunk, n in zip(chunks, kept, strict=True)]), {"steps": steps, "kept": kept}


def whole_chunks(states: torch.Tensor, steps: int, kept: Sequence[int]) -> torch.Tensor:
    """`cropped_chunks` undone, with zeros instead of what was not stored: (C * l, D)."""
    whole = states.new_zeros(len(kept), steps, states.shape[1])
    for chunk, part in zip(whole, states.split(list(kept)), strict=True):
        chunk[: len(part)] = part
    return whole.flatten(0, 1)


def packed(tensor: torch.Tensor, storage: str) -> torch.Tensor:
    """States (..., D) as they are stored: rounded, or (..., D + 4) int8 with a float32 scale at the end of a vector."""
    if storage == "bfloat16":
        return tensor.to(torch.bfloat16)
    values = tensor.detach().cpu().float()
    scale = values.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
    return torch.cat([(values / scale).round().to(torch.int8), scale.contiguous().view(torch.int8)], dim=-1)


def unpacked(stored: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
    """`packed` undone, up to rounding."""
    if stored.dtype == torch.int8 and kind.is_floating_point:
        scale = stored[..., -4:].contiguous().view(torch.float32)
        return (stored[..., :-4] * scale).to(kind)
    return stored.to(kind)


def storage_error(states: Sequence[torch.Tensor], storage: str) -> float:
    """RMS of what storing changes, as a share of the RMS of the states."""
    changed = sum(float((unpacked(packed(x, storage), x.dtype).float() - x.float()).square().sum()) for x in states)
    whole = sum(float(x.float().square().sum()) for x in states)
    return (changed / max(whole, 1e-30)) ** 0.5


def is_packed(name: str, tensor: torch.Tensor, storage: str) -> bool:
    """Whether a tensor is stored in another way than it is: the towers' states, where that makes them smaller."""
    return storage != "full" and name.endswith("_features") and tensor.is_floating_point()


def stored_row(key: str, stamps: Mapping, inputs: ClipInputs, crop: bool = True, storage: str = "full") -> dict:
    """A clip's features as a row of a file.

    Args:
        crop: leave out the states of sound that is not there (`cropped_chunks`).
        storage: one of `STORAGES`.
    """
    tensors, chunks = dict(inputs.tensors), None
    mask = tensors.get("audio_attention_mask")
    if crop and "audio_features" in tensors and mask.dim() == 2:
        tensors["audio_features"], chunks = cropped_chunks(tensors["audio_features"], mask.bool())
    index, parts, start = {}, [], 0
    for name, tensor in tensors.items():
        computed = str(tensor.dtype).removeprefix("torch.")
        tensor = packed(tensor, storage) if is_packed(name, tensor, storage) else tensor
        data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        index[name] = (str(tensor.dtype).removeprefix("torch."), list(tensor.shape), start, len(data), computed)
        # Numbers start where any dtype may.
        padding = -len(data) % 16
        parts += [data, bytes(padding)]
        start += len(data) + padding
    about = {name: getattr(inputs, name) for name in ("source", "utterances", "placeholders", "report")}
    about = json.dumps({**about, "tensors": index, "chunks": chunks})
    row = {"key": key, "stamps": json.dumps(stamps), "about": about, "data": b"".join(parts)}
    return {**row, "checksum": checksum(row)}


def write_rows(path: Path, rows: Sequence[Mapping]) -> None:
    """Write a file of the cache; it is whole from the moment it exists."""
    from datasets import Features, Value
    from datasets.arrow_writer import ArrowWriter

    kinds = {**dict.fromkeys(("key", "stamps", "about", "checksum"), "string"), "data": "large_binary"}
    features = Features({name: Value(kind) for name, kind in kinds.items()})
    with replacing(path) as partial, ArrowWriter(path=str(partial), features=features) as writer:
        for row in rows:
            writer.write(row)
        writer.finalize()


class _Writer:
    """Rows -> Arrow files of one process."""

    def __init__(self, folder: Path, rank: int = 0, crop: bool = True, storage: str = "full"):
        self.folder, self.rank, self.crop, self.storage = folder, rank, crop, storage
        self.rows, self.bytes, self.started = [], 0, time.monotonic()
        self.errors: list[float] = []  # of each clip, see `storage_error`

    def add(self, key: str, stamps: Mapping, inputs: ClipInputs) -> None:
        self.rows.append(stored_row(key, stamps, inputs, self.crop, self.storage))
        states = [x for name, x in inputs.tensors.items() if is_packed(name, x, self.storage) and x.numel()]
        self.errors += [storage_error(states, self.storage)] if states else []
        self.bytes += len(self.rows[-1]["data"])
        if self.bytes >= SHARD_BYTES or time.monotonic() - self.started > SHARD_SECONDS:
            self.write()

    def write(self) -> None:
        if self.rows:
            # No two processes, and no two files of one, share a name.
            name = f"features-{time.time_ns()}-{self.rank:04d}-{secrets.token_hex(4)}.arrow"
            write_rows(self.folder / name, self.rows)
        self.rows, self.bytes, self.started = [], 0, time.monotonic()


__all__ = ["FeatureCache", "FeatureCacheError", "StaleFeaturesError", "processor_fingerprint", "tower_fingerprint"]
