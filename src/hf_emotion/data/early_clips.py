"""Clips that a second process reads while `hf-emotion predict` imports torch and loads its model.

The start of a run takes seconds in which one core imports and the others wait. Decoding and finding faces need neither
torch nor transformers, and what a model's folder asks of them stands in its `processor_config.json`; so a process that
imports only these two begins with the first clip at once, and goes on with the others while the model answers. When the
processor is there, it is asked whether it would have read the clips in the same way; if not, they are read as usual.

Only the command line starts that process, never an import or a call of the library.
"""

import contextlib
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, BinaryIO

from .cores import usual_cores, usual_threads

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

# With fewer clips there is less to gain than the process costs.
FEWEST_CLIPS = 8
# Memory of the clips that are read before they are asked for.
BYTES_AHEAD = 2**28
# Of the pipe between the processes; with the usual 64 KB they would take turns too often.
PIPE_BYTES = 2**20
# Options of `predict` that change how a clip is read.
READING = ("num_frames", "sampling", "fps", "max_duration", "modalities")
STARTER = Path(__file__).resolve().parents[1] / "starter" / "weights"
PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from {module} import serve; serve()"


class EarlyClips:
    """Clips, decoded and searched for faces by a process that starts now; use it in a `with` statement.

    Args:
        sources: paths of clips.
        settings: of `settings_of`.
    """

    def __init__(self, sources: Sequence[str], settings: dict[str, Any]) -> None:
        self.sources, self.settings = list(sources), settings
        self._held: dict[int, Any] = {}
        self._next = 0
        self._lock = threading.Lock()
        program = PROGRAM.format(module=__name__)
        # Its errors are not shown: a clip that it cannot read is read again here, and the error reported.
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        with contextlib.suppress(AttributeError, OSError):  # not on every system; not beyond a user's limit
            fcntl.fcntl(self._process.stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._running = True
        task = {"sources": self.sources, "settings": settings, "threads": usual_threads(len(self.sources)) or 1}
        with contextlib.suppress(OSError):  # it has ended; `take` finds nothing
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
            self._process.stdin.flush()

    def __enter__(self) -> "EarlyClips":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """End the process; what it has read and nobody took is lost."""
        self._running = False
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()

    def fits(self, processor: Any, options: Mapping[str, Any]) -> bool:
        """Whether a processor would read its clips in the same way.

        Args:
            processor: of a loaded model.
            options: of its `load`.
        """
        from ..processing.faces import FaceFinder
        from ..processing.processing_microemo import MicroEmoProcessor

        # Other processors cut their clips, or look at the frames at full size again, which stay in their process.
        if type(processor) is not MicroEmoProcessor or processor.face_finder.task_path:
            return False
        same_faces = FaceFinder(**self.settings["faces"]).to_dict() == processor.face_finder.to_dict()
        return same_faces and processor.reading_arguments(**options) == self.settings["clips"]

    def take(self, number: int) -> tuple[Any, Any] | None:
        """Clip `number` and its `FaceTrack`, each once; `None` if the process could not read it, or has ended."""
        with self._lock:
            while self._running and number not in self._held and self._next < len(self.sources):
                try:
                    self._held[self._next] = received(self._process.stdout)
                except (OSError, EOFError, ValueError, pickle.UnpicklingError):
                    self._running = False
                self._next += 1
            return self._held.pop(number, None)


def beginning(args: Any) -> EarlyClips | contextlib.nullcontext:
    """`EarlyClips` for a call of `predict`, or `nullcontext()` where they would gain nothing or might not fit.

    Args:
        args: as `predict` has parsed them.
    """
    clips = args.clips
    usual = args.engine != "ray" and not args.trust_remote_code and args.num_workers is None and args.output is None
    usual = usual and all(getattr(args, name) is None for name in READING)
    several = len(clips) >= FEWEST_CLIPS and len(set(clips)) == len(clips) and usual_cores() > 1
    if not (usual and several and usual_threads(len(clips)) and all(map(os.path.isfile, clips))):
        return contextlib.nullcontext()
    settings = settings_of(STARTER if args.model is None else Path(args.model))
    if settings is not None and sys.executable:
        with contextlib.suppress(OSError):  # no process can be started: clips are read as usual
            return EarlyClips(clips, settings)
    return contextlib.nullcontext()


def settings_of(folder: Path) -> dict[str, Any] | None:
    """How the processor in a folder reads its clips, as its file says; `None` where that cannot be told.

    Returns:
        `clips`: arguments of `load_clip`; `faces`: of `FaceFinder`.
    """
    try:
        config = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))
        if config["processor_class"] != "MicroEmoProcessor" or config["sampling"] == "peak":
            return None
        size = (config.get("image_processor") or {}).get("size") or {}
        lines = config.get("max_lines", 540)
        faces = dict(config["face_config"])
        faces["regions"] = dict(faces["regions"])
        clips = {
            "frames": "video" in config["modalities"],
            "sound": "audio" in config["modalities"],
            "sampling_rate": config["feature_extractor"]["sampling_rate"],
            "max_lines": None if lines is None else max(lines, *size.values()),
            "keep_full": True,
            **{name: config[name] for name in ("num_frames", "sampling", "max_duration")},
            "fps": config["fps"] if config["sampling"] == "fps" else None,
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return {"clips": clips, "faces": faces}


def serve() -> None:
    """The process: clips are read as the first line of standard input says, and written to standard output in order.

    It ends when its standard input does, with which it learns that the process that started it has ended.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one, which ends it
    task = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=end_with_input, daemon=True).start()
    output = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # nothing that a library prints comes between the clips
    with contextlib.suppress(OSError), ThreadPoolExecutor(task["threads"], "clips") as pool:
        reading = Reading(task["settings"])
        waiting = deque(pool.submit(reading.read, *pair) for pair in enumerate(task["sources"]))
        while waiting:
            reading.ask()
            item = waiting.popleft().result()
            send(item, output)
            reading.forget(item)
    os._exit(0)  # MediaPipe's destructors need threads that the interpreter has ended by then


class Reading:
    """Reads clips in several threads, as long as those that wait to be sent need no more than `BYTES_AHEAD`.

    Args:
        settings: of `settings_of`.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings, self.asked, self.bytes = settings, -1, 0
        self._room, self._here = threading.Condition(), threading.local()

    def ask(self) -> None:
        """The next clip is wanted now: it is read however much memory the others need."""
        with self._room:
            self.asked += 1
            self._room.notify_all()

    def forget(self, item: Any) -> None:
        """What `read` returned has been sent."""
        with self._room:
            self.bytes -= bytes_of(item)
            self._room.notify_all()

    def read(self, number: int, source: str) -> tuple[Any, Any] | None:
        """A clip and its `FaceTrack`; `None` where anything stands against it."""
        from ..processing.faces import FaceFinder
        from ..processing.media import load_clip

        with self._room:
            self._room.wait_for(lambda: self.bytes < BYTES_AHEAD or self.asked >= number)
        try:
            if not hasattr(self._here, "finder"):
                self._here.finder = FaceFinder(**self.settings["faces"], threads=1)
            clip = load_clip(source, **self.settings["clips"])
            track = None if clip.frames is None else self._here.finder(clip.frames, full=clip.full)
        except Exception:  # whatever it is, the process that asked meets it again and reports it
            return None
        if track is not None and track.backend == "none":
            return None
        with self._room:
            self.bytes += bytes_of((clip, track))
        return clip, track


def bytes_of(item: tuple[Any, Any] | None) -> int:
    """Memory of a clip that was read."""
    arrays = [] if item is None else [item[0].frames, item[0].waveform]
    return sum(array.nbytes for array in arrays if array is not None)


def end_with_input() -> None:
    while sys.stdin.buffer.read(1):
        pass
    os._exit(1)


def send(item: Any, output: BinaryIO) -> None:
    """Write an object; its arrays go as they lie in memory."""
    buffers: list[pickle.PickleBuffer] = []
    parts = [pickle.dumps(item, protocol=5, buffer_callback=buffers.append)]
    parts += [buffer.raw() for buffer in buffers]
    sizes = [memoryview(part).nbytes for part in parts]
    for part in (struct.pack("<Q", len(sizes)), struct.pack(f"<{len(sizes)}Q", *sizes), *parts):
        rest = memoryview(part)
        while rest.nbytes:
            rest = rest[output.write(rest) :]


def received(source: IO[bytes]) -> Any:
    """Read what `send` wrote.

    Raises:
        EOFError: there is no more, or only a part.
    """
    (count,) = struct.unpack("<Q", exactly(source, 8))
    sizes = struct.unpack(f"<{count}Q", exactly(source, 8 * count))
    pickled, *buffers = [exactly(source, size) for size in sizes]
    return pickle.loads(pickled, buffers=buffers)


def exactly(source: Any, size: int) -> bytearray:
    """The next bytes, of which the arrays are then made without a copy."""
    data = bytearray(size)
    rest = memoryview(data)
    while rest.nbytes:
        read = source.readinto(rest)
        if not read:
            raise EOFError("the process that reads clips has ended")
        rest = rest[read:]
    return data


__all__ = ["EarlyClips", "beginning", "serve", "settings_of"]
