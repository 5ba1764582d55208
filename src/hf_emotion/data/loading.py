"""Clips read ahead of a model: one loader for predict, evaluate, cache and train.

Worker processes decode and measure clips while the model works. They are spawned, since MediaPipe's graphs do not
survive a fork, and stay until the loader ends. Each of them computes, and finds faces, in one thread.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch.utils.data import DataLoader, Dataset

from ..answers.pipeline_emotion import CLIP_FAILURES, decode, failure, with_urls_read
from ..processing.processing_emotion import ClipInputs, EmotionProcessor

# Starting a worker costs about as much processor time as decoding so many short clips.
CLIPS_PER_WORKER = 24
# Clips that are kept for further questions: those that were used last.
KEPT_CLIPS = 64


def usual_workers(clips: int) -> int:
    """Loader workers for so many clips: one per core, shared with the launcher's other processes on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    names = ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE")
    processes = next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdecimal()), 1)
    return min(max(1, cores // processes), clips // CLIPS_PER_WORKER)


def worker_options(num_workers: int) -> dict[str, Any]:
    """Arguments of a `DataLoader` for spawned workers that stay; for 0 those of a loader in this process."""
    if not num_workers:
        return {"num_workers": 0}
    options = {"multiprocessing_context": "spawn", "persistent_workers": True, "prefetch_factor": 2}
    return {"num_workers": num_workers, **options}


class ClipDataset(Dataset):
    """A dataset with a `processor`, of which a copy in another process finds faces in one thread."""

    processor: Any

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        if hasattr(self.processor, "face_finder"):
            self.processor.face_finder.threads = 1


def clip_loader(dataset: ClipDataset, num_workers: int | None = None) -> DataLoader:
    """The items of a dataset of clips, one by one and in order.

    Args:
        dataset: a `ClipDataset`; it is sent to the workers.
        num_workers: `None` for `usual_workers`; 0 reads in this process, when an item is asked for.
    """
    workers = usual_workers(len(dataset)) if num_workers is None else num_workers  # type: ignore[arg-type]
    # Arrays come through a pipe: shared memory is as small as 64 MB in a container.
    return DataLoader(dataset, batch_size=None, collate_fn=as_it_is, **worker_options(workers))


def as_it_is(item: Any) -> Any:
    return item


class Clips(ClipDataset):
    """Sources of clips -> what the processor makes of each, or one sentence for a clip that cannot be used.

    Args:
        processor: an `EmotionProcessor`.
        sources: what `EmotionProcessor.load` takes.
        utterances: for each source what `utterances.read` takes, or `None`.
        every, allow_urls: see the pipeline.
        options: of `EmotionProcessor.load`.
    """

    def __init__(
        self,
        processor: EmotionProcessor,
        sources: Sequence[Any],
        utterances: Sequence[Any],
        every: float | None = None,
        options: Mapping[str, Any] | None = None,
        allow_urls: bool = False,
    ) -> None:
        self.processor, self.sources, self.utterances = processor, sources, utterances
        self.every, self.options, self.allow_urls = every, dict(options or {}), allow_urls

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> ClipInputs | str:
        try:
            source, spoken = with_urls_read(self.sources[index], self.allow_urls), self.utterances[index]
            clip = decode(self.processor, source, spoken, every=self.every, load_options=self.options)
            return replace(self.processor.measure(clip), track=None)
        except CLIP_FAILURES as error:
            return failure(error)["error"]


def each_once(keys: Iterable[Any], kept: int = KEPT_CLIPS) -> tuple[list[int], list[int]]:
    """Which clips have to be read for rows with these keys, so that a clip with several questions is read once.

    A clip is kept while it is among the `kept` that were used last, so that memory does not grow with the rows.

    Returns:
        the rows whose clips are read; and for each row the number of its clip among these.
    """
    recent: dict[Any, int] = {}
    read, places = [], []
    for row, key in enumerate(keys):
        if key not in recent:
            recent[key] = len(read)
            read.append(row)
        recent[key] = recent.pop(key)  # to the end: used last
        places.append(recent[key])
        if len(recent) > kept:
            del recent[next(iter(recent))]
    return read, places


def items_of_rows(items: Iterable[Any], places: Sequence[int]) -> Iterator[Any]:
    """The item of each row, by the `places` of `each_once`; an item is dropped after its last row."""
    last = {place: row for row, place in enumerate(places)}
    held: dict[int, Any] = {}
    numbered = enumerate(items)
    for row, place in enumerate(places):
        while place not in held:
            number, item = next(numbered)
            held[number] = item
        yield held[place]
        if last[place] == row:
            del held[place]


__all__ = ["ClipDataset", "Clips", "clip_loader", "each_once", "items_of_rows", "usual_workers", "worker_options"]
