"""Clips read ahead of a model: one loader for predict, evaluate, cache and train.

Threads or worker processes decode and measure clips while the model works. FFmpeg and MediaPipe release the
interpreter's lock, so a few threads keep a few cores busy, and they cost no start; a process costs seconds of imports
first, but never waits for the lock. Processes are spawned, since MediaPipe's graphs do not survive a fork, and stay
until the loader ends. Each thread or process reads one clip at a time and finds its faces in one thread. The command
line may have a process that began to read before torch was imported (`early_clips`); threads then take clips from it.
"""

import copy
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from multiprocessing import connection
from typing import Any

from torch.utils.data import DataLoader, Dataset

from ..answers.pipeline_emotion import CLIP_FAILURES, decode, failure, with_urls_read
from ..processing.processing_emotion import ClipInputs, EmotionProcessor
from .cores import usual_threads, usual_workers

# Clips that threads read ahead: four batches of the usual size.
CLIPS_AHEAD = 16
# Clips that are kept for further questions: those that were used last.
KEPT_CLIPS = 64


def worker_options(num_workers: int) -> dict[str, Any]:
    """Arguments of a `DataLoader` for spawned workers that stay; for 0 those of a loader in this process."""
    if not num_workers:
        return {"num_workers": 0}
    options = {"multiprocessing_context": "spawn", "persistent_workers": True, "prefetch_factor": 2}
    return {"num_workers": num_workers, **options}


@cache
def end_with_parent() -> None:
    """Let a worker process, into which a dataset is unpickled, end when the process that started it is killed.

    torch's workers notice that, but then wait forever to hand over their last clip to it.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        while os.getppid() == parent.pid and not connection.wait([parent.sentinel], timeout=1.0):
            pass
        os._exit(1)

    threading.Thread(target=wait, name="end_with_parent", daemon=True).start()


class ClipDataset(Dataset):
    """A dataset with a `processor`, of which a copy in another process or thread finds faces in one thread."""

    processor: Any

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        end_with_parent()
        self._take(state)

    def _take(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        if hasattr(self.processor, "face_finder"):
            self.processor.face_finder.threads = 1

    def for_thread(self) -> "ClipDataset":
        """A copy with a processor of its own: tokenizers cannot be used by two threads at once."""
        twin = self.__class__.__new__(self.__class__)
        twin._take({**self.__dict__, "processor": copy.deepcopy(self.processor)})
        return twin


def clip_loader(dataset: ClipDataset, num_workers: int | None = None, ahead: int = CLIPS_AHEAD) -> Iterable[Any]:
    """The items of a dataset of clips, one by one and in order.

    Args:
        dataset: a `ClipDataset`; it is sent to the workers.
        num_workers: processes; 0 reads in this thread, when an item is asked for; `None` for `usual_workers` where
            these are more than `cores.MAX_THREADS`, else for threads.
        ahead: items that threads read before they are asked for.
    """
    clips = len(dataset)  # type: ignore[arg-type]
    workers = usual_workers(clips) if num_workers is None else num_workers
    if num_workers is None and (threads := usual_threads(clips)):
        return ThreadLoader(dataset, threads, ahead)
    # Arrays come through a pipe: shared memory is as small as 64 MB in a container.
    return DataLoader(dataset, batch_size=None, collate_fn=as_it_is, **worker_options(workers))


class ThreadLoader:
    """The items of a dataset of clips, in order, read by threads of this process.

    Args:
        dataset: each thread has a copy of it.
        threads: number of threads.
        ahead: items that are read before they are asked for.
    """

    def __init__(self, dataset: ClipDataset, threads: int, ahead: int) -> None:
        self.dataset, self.threads, self.ahead = dataset, threads, max(ahead, threads)

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        here = threading.local()

        def read(index: int) -> Any:
            if not hasattr(here, "dataset"):
                here.dataset = self.dataset.for_thread()
            return here.dataset[index]

        pool = ThreadPoolExecutor(self.threads, "clips")
        waiting: deque[Future] = deque()
        try:
            for index in range(len(self)):
                waiting.append(pool.submit(read, index))
                if len(waiting) > self.ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


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
        early: what has a clip and its `FaceTrack` already, by the number of its source (`early_clips.EarlyClips`).
    """

    def __init__(
        self,
        processor: EmotionProcessor,
        sources: Sequence[Any],
        utterances: Sequence[Any],
        every: float | None = None,
        options: Mapping[str, Any] | None = None,
        allow_urls: bool = False,
        early: Any = None,
    ) -> None:
        self.processor, self.sources, self.utterances = processor, sources, utterances
        self.every, self.options, self.allow_urls = every, dict(options or {}), allow_urls
        self.early = early

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> ClipInputs | str:
        try:
            source, spoken = with_urls_read(self.sources[index], self.allow_urls), self.utterances[index]
            early = None if self.early is None else self.early.take(index)
            source, track = early or (source, None)
            clip = decode(self.processor, source, spoken, every=self.every, load_options=self.options)
            known = {} if track is None else {"landmarks": track}
            return replace(self.processor.measure(clip, **known), track=None)
        except CLIP_FAILURES as error:
            return failure(error)["error"]


def each_once(keys: Iterable[Any], size: int = KEPT_CLIPS) -> tuple[list[int], list[int]]:
    """Which clips have to be read for rows with these keys, so that a clip with several questions is read once.

    A clip is kept while it is among the `size` that were used last, so that memory does not grow with the rows.

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
        if len(recent) > size:
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
