"""Rows on a cluster, by Ray Data (`pip install 'hf_emotion[ray]'`, `--engine ray [--address ADDRESS]`).

Clips are decoded and measured by tasks that need one core each, as many at a time as the cluster has cores left; models
are actors that hold one copy each and take what the tasks have made. Ray moves the clips between them, slows the tasks
down when the actors fall behind, and repeats what a lost worker or machine was doing. What happens to a row is what
happens to it in one process: `decode`, `measure` and the pipeline for answers, `encode_clips` for features, `Runner`
for reviews. An answer is taken once, however often its row was tried.

A cluster needs this package on each machine, and the clips, model and output under the same names; all of Ray's rows
are small but the clips in memory.
"""

import hashlib
import json
import logging
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from math import ceil
from pathlib import Path

import fsspec
import numpy as np
import pyarrow
from pyarrow import parquet
from transformers import AutoProcessor

from . import starter
from .answers.pipeline_emotion import CLIP_FAILURES, LOAD_OPTIONS, decode, failure
from .chat_models import ChatProcessor
from .curation.reviewers import model_of, runs_here
from .curation.stages import Outcome, Runner
from .data.remote import local_media
from .data.shares import plain, processes
from .inference import load, pipeline_of
from .processing.faces import FaceError
from .training.cache import (
    FeatureCache,
    FeatureCacheError,
    encode_clips,
    media_of,
    record,
    shapes_of,
    stamp_of,
    stored_row,
    towered,
    write_rows,
)

# Nothing is reported to Ray's makers unless the user's environment says so.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
try:
    import ray
    import ray.data
except ImportError:
    ray = None

# Features of so many clips make one file of a cache.
ROWS_OF_SHARD = 256
# Answers to so many clips make one file of a folder of answers.
ROWS_OF_PART = 1024
# A file of answers as Parquet; `result` is all of an answer, as JSON.
LABEL = pyarrow.struct([("label", pyarrow.string()), ("score", pyarrow.float64())])
ANSWERS = pyarrow.schema(
    [
        *((name, pyarrow.string()) for name in ("id", "clip", "description", "error")),
        ("labels", pyarrow.list_(LABEL)),
        ("seconds", pyarrow.float64()),
        ("result", pyarrow.string()),
    ]
)
# Memory that a task is counted with.
TASK_BYTES = 2**28


class ClusterError(RuntimeError):
    """Ray is missing, or there is no cluster at the address."""


def connect(address: str | None = None) -> None:
    """Join the cluster at `address` (as for `ray.init`; "auto" finds one on this machine), or start one here.

    Raises:
        ClusterError: Ray is not installed, or there is no such cluster.
    """
    if ray is None:
        raise ClusterError("--engine ray needs Ray, which is not installed: pip install 'hf_emotion[ray]'")
    if processes().count > 1:
        raise ClusterError("Ray starts its own processes; run the command without torchrun, accelerate or srun")
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = sys.stderr.isatty()
    # A machine may be lost while a model is loaded there.
    context.max_consecutive_actor_init_deaths = 3
    if ray.is_initialized():
        return
    options = {"include_dashboard": False} if address is None else {}
    try:
        # Without an address Ray would join any cluster that happens to run on this machine.
        ray.init(address or "local", logging_level="warning", log_to_driver=False, **options)
    except (ConnectionError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ClusterError(f"no Ray cluster at {address!r}: {reason}") from error


def flow(
    rows: Sequence[Mapping],
    task: Callable[..., dict],
    task_options: Mapping,
    actor: type,
    actor_options: Mapping,
    batch_size: int,
    actors: int | None = None,
    uses_gpu: bool = True,
):
    """Rows through `task` (on one core each) and `actor` (which holds a model): a `ray.data.Dataset`.

    Args:
        rows: of JSON values.
        task: (row, **task_options) -> dict of text, numbers and bytes.
        actor: made with `actor_options`, and called with a batch: name -> array.
        batch_size: rows of a call.
        actors: how many; `None` is one for each GPU of the cluster, or one.
        uses_gpu: whether an actor takes a GPU, where there are any.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0)) if uses_gpu else 0
    blocks = max(1, ceil(len(rows) / batch_size))
    data = ray.data.from_items([{"row": json.dumps(row)} for row in rows], override_num_blocks=blocks)
    # Tasks and actors that need the same are run by Ray as one, in the actor, one after the other.
    data = data.map(task, fn_kwargs=dict(task_options), num_cpus=1, memory=TASK_BYTES)
    return data.map_batches(
        actor,
        fn_constructor_kwargs=dict(actor_options),
        batch_size=batch_size,
        compute=ray.data.ActorPoolStrategy(size=actors or max(1, gpus)),
        **({"num_gpus": 1} if gpus else {"num_cpus": 1}),
    )


# Answers


@lru_cache(maxsize=1)
def processor_of(source: str | None, trust_remote_code: bool):
    """The processor of a model, once in each worker."""
    if source is None:
        return starter.load("cpu")[1]
    processor = AutoProcessor.from_pretrained(source, trust_remote_code=trust_remote_code)
    return processor if hasattr(processor, "load_clips") else ChatProcessor(processor)


def measure(row: dict, source: str | None, trust_remote_code, question: str | None, allow_urls, options) -> dict:
    """A row's clip as the model takes it, pickled; or its result, if it cannot be used."""
    started = time.perf_counter()
    row = json.loads(row["row"])
    clip = row.get("video") or row.get("audio")
    found = {"id": row["id"], "clip": b"", "failed": "", "question": question or row.get("question") or ""}
    try:
        processor = processor_of(source, trust_remote_code)
        load_options = {name: options[name] for name in LOAD_OPTIONS if options.get(name) is not None}
        with local_media(row, allow_urls) as local:
            path = local.get("video") or local.get("audio")
            decoded = decode(processor, path, row.get("utterances"), None, options.get("every"), load_options)
            # A chat model's processor takes decoded clips.
            measured = processor.measure(decoded) if hasattr(processor, "measure") else decoded
        found["clip"] = pickle.dumps(replace(measured, source=clip))
    except CLIP_FAILURES as error:
        found["failed"] = json.dumps({"clip": str(clip), "error": failure(error)["error"]})
    return {**found, "seconds": time.perf_counter() - started}


class Describe:
    """An actor that answers questions about measured clips."""

    def __init__(self, source, device, trust_remote_code, options):
        if source is None:
            model, processor = starter.load(device)
        else:
            model, processor = load(source, device=device, trust_remote_code=trust_remote_code)
        self.pipeline, self.options = pipeline_of(model, processor), options

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict:
        started = time.perf_counter()
        inputs = [
            {"clip": pickle.loads(clip), "question": question or None}
            for clip, question in zip(batch["clip"], batch["question"], strict=True)
            if clip
        ]
        described = iter(self.pipeline(inputs, batch_size=len(inputs), **self.options) if inputs else [])
        results = [json.loads(failed) if failed else next(described) for failed in batch["failed"]]
        each = (time.perf_counter() - started) / len(results)
        answers = [
            json.dumps({"id": name, **result, "seconds": round(float(seconds) + each, 4)}, default=plain)
            for name, result, seconds in zip(batch["id"], results, batch["seconds"], strict=True)
        ]
        return {"answer": answers}


def answers(
    rows: Sequence[Mapping],
    source: str | None,
    *,
    question: str | None = None,
    batch_size: int = 4,
    actors: int | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    allow_urls: bool = False,
    **options,
):
    """A `ray.data.Dataset` of the answers about rows, as JSON in the column `answer`.

    Args:
        rows: data rows.
        source: model folder or Hub id; `None` is the model in the box.
        question: asked about every clip; `None` asks the row's, or the model's own.
        batch_size, options: as for `inference.describe`.
        actors: copies of the model; `None` is one for each GPU, or one.
        device, trust_remote_code: as for `inference.load`.
        allow_urls: fetch clips that are addresses.
    """
    where = {"source": source, "trust_remote_code": trust_remote_code}
    reading = {name: value for name, value in options.items() if name in (*LOAD_OPTIONS, "every")}
    answering = {name: value for name, value in options.items() if name not in reading and value is not None}
    tasks = {**where, "question": question, "allow_urls": allow_urls, "options": reading}
    return flow(rows, measure, tasks, Describe, {**where, "device": device, "options": answering}, batch_size, actors)


def describing(source: str | None, **options) -> Callable[[Sequence[Mapping]], Iterator[tuple[str, dict]]]:
    """The `engine` of `evaluation.evaluate.predict`: rows -> (id, answer) in the order in which they are ready."""

    def engine(rows: Sequence[Mapping]) -> Iterator[tuple[str, dict]]:
        for row in answers(rows, source, **options).iter_rows() if rows else ():
            answer = json.loads(row["answer"])
            yield answer.pop("id"), answer

    return engine


def read_ids(output: str) -> set[str]:
    """Ids of the rows whose answers are in a folder that `write` filled."""
    system, folder = fsspec.core.url_to_fs(output)
    ids = set()
    for path in system.find(folder) if system.exists(folder) else ():
        with system.open(path, "rb") as file:
            if path.endswith(".parquet"):
                ids.update(parquet.read_table(file, columns=["id"])["id"].to_pylist())
            else:
                ids.update(json.loads(line)["id"] for line in file)
    return ids


def write(data, output: str) -> int:
    """Write `answers` to a folder on any store, each file by the task that has its rows; returns how many failed.

    Args:
        data: of `answers`.
        output: folder or its address; of Parquet files if its name ends in `.parquet`, otherwise of JSON Lines.
    """
    system, folder = fsspec.core.url_to_fs(output)
    suffix = "parquet" if output.endswith(".parquet") else "jsonl"
    system.makedirs(folder, exist_ok=True)
    run = str(time.time_ns())
    where = {"output": output, "suffix": suffix, "run": run}
    written = data.map_batches(write_part, fn_kwargs=where, batch_size=ROWS_OF_PART, num_cpus=1)
    return sum(row["failed"] for row in written.iter_rows())


def name_of(rows: Iterable[str]) -> str:
    """A name that follows from the rows of a file: a repeated task replaces its file by the same one."""
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]


def write_part(batch: Mapping[str, np.ndarray], output: str, suffix: str, run: str) -> dict:
    """Write a file of answers, named by its rows."""
    rows = [json.loads(answer) for answer in batch["answer"]]
    system, folder = fsspec.core.url_to_fs(output)
    with system.open(f"{folder}/{run}-{name_of(row['id'] for row in rows)}.{suffix}", "wb") as file:
        if suffix == "parquet":
            fields = [{**row, "result": answer} for row, answer in zip(rows, batch["answer"], strict=True)]
            parquet.write_table(pyarrow.Table.from_pylist(fields, schema=ANSWERS), file)
        else:
            file.writelines(f"{answer}\n".encode() for answer in batch["answer"])
    return {"failed": ["error" in row for row in rows]}


# Features


def measure_for_cache(row: dict, source: str, trust_remote_code: bool, allow_urls: bool, options: Mapping) -> dict:
    """A row's clip as the towers take it, pickled; or what is wrong with it."""
    key, row = json.loads(row["row"])
    measured = {"key": key, "stamps": "", "clip": b"", "failed": ""}
    try:
        stamps = {kind: stamp_of(path) for kind, path in media_of(row).items()}
        with local_media(row, allow_urls) as local:
            inputs = record(processor_of(source, trust_remote_code), local, options)
        return {**measured, "stamps": json.dumps(stamps), "clip": pickle.dumps(inputs)}
    except (ValueError, OSError, FaceError) as error:
        return {**measured, "failed": f"{row.get('id')}: {error}"}


class Encode:
    """An actor that passes measured clips through the towers; only clips of the same shapes go together."""

    def __init__(self, source, device, dtype, trust_remote_code):
        model, self.processor = load(source, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
        self.base = towered(model)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict:
        rows, groups = [], {}
        for key, stamps, clip, failed in zip(*(batch[n] for n in ("key", "stamps", "clip", "failed")), strict=True):
            if failed:
                empty = dict.fromkeys(("stamps", "about", "checksum"), "")
                rows.append({"key": key, **empty, "data": b"", "failed": failed})
            else:
                inputs = pickle.loads(clip)
                groups.setdefault(shapes_of(inputs), []).append((key, json.loads(stamps), inputs))
        crop = not getattr(self.base.config, "keep_padding", False)
        for group in groups.values():
            keys, stamps, inputs = zip(*group, strict=True)
            for one in zip(keys, stamps, encode_clips(self.base, self.processor, inputs), strict=True):
                rows.append({**stored_row(*one, crop=crop), "failed": ""})
        return {name: [row[name] for row in rows] for name in rows[0]}


def write_shard(batch: Mapping[str, np.ndarray], folder: str, run: str) -> dict:
    """Write a file of the cache, named by its rows."""
    names = ("key", "stamps", "about", "checksum", "data")
    rows = [dict(zip(names, values, strict=True)) for values in zip(*(batch[n] for n in names), strict=True)]
    rows = [row for row in rows if row["checksum"]]
    if rows:
        write_rows(Path(folder) / f"features-{run}-{name_of(row['key'] for row in rows)}.arrow", rows)
    return {"key": batch["key"], "failed": batch["failed"]}


def build_cache(
    folder: str | Path,
    source: str,
    rows: Sequence[Mapping],
    *,
    batch_size: int = 8,
    actors: int | None = None,
    device: str | None = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    skip_bad_rows: bool = False,
    allow_urls: bool = False,
    **options,
) -> FeatureCache:
    """`FeatureCache.build` on the cluster, into a folder that all its machines see.

    Raises:
        StaleFeaturesError, FeatureCacheError: as `FeatureCache.build`.
    """
    folder = Path(folder)
    model, processor = load(source, device="cpu", dtype=dtype, trust_remote_code=trust_remote_code)
    wanted = FeatureCache.prepare(folder, model, processor, rows, **options)
    del model
    skipped = []
    if wanted:
        where = {"source": source, "trust_remote_code": trust_remote_code}
        actor = {**where, "device": device, "dtype": dtype}
        tasks = {**where, "allow_urls": allow_urls, "options": options}
        data = flow(list(wanted.items()), measure_for_cache, tasks, Encode, actor, batch_size, actors)
        shard = {"folder": str(folder.resolve()), "run": str(time.time_ns())}
        written = data.map_batches(write_shard, fn_kwargs=shard, batch_size=ROWS_OF_SHARD, num_cpus=1)
        skipped = [row["failed"] for row in written.iter_rows() if row["failed"]]
    if skipped and not skip_bad_rows:
        listed = "\n  ".join(sorted(skipped))
        raise FeatureCacheError(f"{len(skipped)} of {len(wanted)} clips cannot be read:\n  {listed}")
    cache = FeatureCache(folder)
    cache.skipped, cache.added = skipped, len(wanted) - len(skipped)
    return cache


# Reviews


def prepare_review(row: dict, output: str, settings, allow_urls: bool) -> dict:
    """The stages of a clip that need no model."""
    log = f"log.{os.uname().nodename}-{os.getpid()}.jsonl"
    Runner(output, {}, settings, log=log, allow_urls=allow_urls).prepare(json.loads(row["row"]))
    return row


class Review:
    """An actor that asks the models about a clip."""

    def __init__(self, output, settings, allow_urls, retry_unread, models, key):
        by_role = {role: model_of(text, key) for role, text in models.items()}
        log = f"log.{ray.get_runtime_context().get_actor_id()}.jsonl"
        self.runner = Runner(output, by_role, settings, retry_unread, log, allow_urls)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict:
        columns = {"outcome": [], "before": [], "now": []}
        for row in batch["row"]:
            before, now = self.runner.before, self.runner.now
            columns["outcome"].append(json.dumps(vars(self.runner.run(json.loads(row)))))
            columns["before"].append(self.runner.before - before)
            columns["now"].append(self.runner.now - now)
        return columns


def reviewing(models: Mapping[str, str], key: str | None = None, actors: int | None = None) -> Callable:
    """The `engine` of `curation.stages.review`.

    Args:
        models: role -> model, as `curation.reviewers.model_of` reads it; each actor makes its own.
        key: of the models' servers.
        actors: clips that are asked about at a time; `None` is one for each GPU, or one.
    """

    def engine(runner: Runner, rows: Sequence[Mapping]) -> Iterable[tuple[Outcome, int, int]]:
        where = {"output": str(runner.output.resolve()), "settings": runner.settings, "allow_urls": runner.allow_urls}
        actor = {**where, "retry_unread": runner.retry_unread, "models": dict(models), "key": key}
        uses_gpu = any(map(runs_here, models.values()))
        data = flow(rows, prepare_review, where, Review, actor, 1, actors, uses_gpu)
        for row in data.iter_rows():
            runner.count(row["before"], row["now"])
            yield Outcome(**json.loads(row["outcome"])), runner.before, runner.now

    return engine


__all__ = ["ClusterError", "answers", "build_cache", "connect", "describing", "read_ids", "reviewing", "write"]
