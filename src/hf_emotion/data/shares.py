"""Rows shared over processes, and the file that their results come together in.

`torchrun`, `accelerate launch` and `srun` start the same command several times. `processes()` says which of them this
one is; each takes its share of the rows and writes results to a file of its own (`ResultFile`), line by line. A process
that dies loses nothing that it wrote, the next run continues, and the first process puts all lines in order.
"""

import glob
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from .files import replacing

# The first process waits for the slowest, however long that one takes: a dead process ends the wait, time does not.
LONGEST_WAIT = timedelta(days=30)


class ResultFileError(ValueError):
    """A file of results that cannot be continued."""


@dataclass(frozen=True)
class Processes:
    """This process among those of a run.

    Attributes:
        rank: its number, from 0.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, rows: Sequence) -> Sequence:
        """Every `count`-th row, beginning with row `rank`."""
        return rows[self.rank :: self.count]

    def wait(self) -> None:
        """Wait until every process has come here.

        Raises:
            RuntimeError: one of them has ended.
        """
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


def processes() -> Processes:
    """The processes of this run, by `accelerate`'s state; one, where no launcher started several.

    They exchange nothing but "I am here", so they meet on the CPU (gloo), whatever device the model is on.

    Raises:
        ValueError: `srun` started several tasks and the address of the first is not known.
    """
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and "RANK" not in os.environ:
        os.environ.update(variables_of_slurm())
    names = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
    if all(int(os.environ.get(name, "1")) == 1 for name in names):
        return Processes()
    from accelerate import PartialState

    state = PartialState(cpu=True, timeout=LONGEST_WAIT)
    return Processes(state.process_index, state.num_processes)


def variables_of_slurm() -> dict[str, str]:
    """The variables of `torchrun` for a task of `srun`."""
    address = os.environ.get("MASTER_ADDR") or os.environ.get("SLURM_LAUNCH_NODE_IPADDR")
    if not address:
        raise ValueError("srun started several tasks, but MASTER_ADDR is not set; export the host name of the first")
    return {
        "RANK": os.environ["SLURM_PROCID"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "WORLD_SIZE": os.environ["SLURM_STEP_NUM_TASKS"],
        "MASTER_ADDR": address,
        "MASTER_PORT": os.environ.get("MASTER_PORT", str(20_000 + int(os.environ["SLURM_JOB_ID"]) % 10_000)),
    }


class ResultFile:
    """Results of rows, one JSON object with an `id` per line.

    One process appends to `path`. Each of several creates a file of its own beside it, exclusively, with its number and
    a name of the run in the file's name: `results.2-of-8.18c3f2a9d1b04e7a-5f0c.jsonl`. `merge` puts the lines of all
    files into `path`. What is held in memory is where the lines are, not the results.

    Args:
        path: the JSONL file.
        processes: this process among those that write.
        separate: write a file of its own even if this is the only process.
    """

    def __init__(self, path: str | Path, processes: Processes = Processes(), separate: bool = False):
        self.path, self.processes = Path(path), processes
        self.separate = separate or processes.count > 1
        self.written = 0
        self.rows: dict[str, tuple[Path, int]] = {}

    def parts(self) -> list[Path]:
        """The files of single processes, of this run and of earlier ones, the oldest run first."""
        pattern = f"{glob.escape(self.path.stem)}.*-of-*{glob.escape(self.path.suffix)}"
        return sorted(self.path.parent.glob(pattern), key=lambda path: (path.name.split(".")[-2], path.name))

    def exists(self) -> bool:
        """Whether there are results of an earlier run."""
        return self.path.exists() or bool(self.parts())

    def places(self, only_good: bool = False) -> dict[str, tuple[Path, int]]:
        """Row -> the file and the byte where its line begins: a result before an error, and the latest of several.

        An incomplete last line (a process was killed, or is writing it) is left out.

        Args:
            only_good: leave out rows whose result is an `error`.

        Raises:
            ResultFileError: a line is not a result.
        """
        good, failed = {}, {}
        for file in [self.path, *self.parts()]:
            if not file.exists():
                continue
            start = 0
            with file.open("rb") as lines:
                for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    if line.strip():
                        result = _result(file, start, line)
                        (failed if "error" in result else good)[result["id"]] = (file, start)
                    start += len(line)
        return good if only_good else failed | good

    @contextmanager
    def writing(self) -> Iterator["ResultFile"]:
        """A block in which `add` can be called."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.separate:
            rank, count = self.processes.rank + 1, self.processes.count
            run = f"{time.time_ns():016x}-{secrets.token_hex(2)}"
            path, mode = self.path.with_name(f"{self.path.stem}.{rank}-of-{count}.{run}{self.path.suffix}"), "xb"
        else:
            path, mode = self.path, "ab"
            _cut_incomplete_line(path)
        with path.open(mode) as self._file:
            yield self

    def add(self, result: Mapping[str, Any]) -> None:
        """Write a result; from now on a killed process does not lose it."""
        line = json.dumps(result, ensure_ascii=False, default=plain) + "\n"
        self._file.write(line.encode("utf-8"))
        self._file.flush()
        self.written += 1

    def merge(self, order: Iterable[str]) -> None:
        """Put the lines of all files into `path`, each row once: those of `order`, then any others."""
        parts, places = self.parts(), self.places()
        self.rows = {name: places.pop(name) for name in dict.fromkeys(order) if name in places}
        with replacing(self.path) as temporary, temporary.open("wb") as merged:
            for others, chosen in enumerate((self.rows, places)):
                for name, line in self._lines(chosen):
                    if not others:
                        self.rows[name] = (self.path, merged.tell())
                    merged.write(line)
        for part in parts:
            part.unlink(missing_ok=True)

    def select(self, order: Iterable[str]) -> None:
        """Find the results of these rows, in whichever file they are."""
        places = self.places()
        self.rows = {name: places[name] for name in dict.fromkeys(order) if name in places}

    def clear(self) -> None:
        """Remove the results of earlier runs."""
        for path in (self.path, *self.parts()):
            path.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict]:
        """The results of the rows of `merge` or `select`, in their order, read one after the other."""
        return (json.loads(line) for _, line in self._lines(self.rows))

    def _lines(self, places: Mapping[str, tuple[Path, int]]) -> Iterator[tuple[str, bytes]]:
        with ExitStack() as stack:
            files = {file: stack.enter_context(file.open("rb")) for file in {file for file, _ in places.values()}}
            for name, (file, start) in list(places.items()):
                files[file].seek(start)
                yield name, files[file].readline()


def _result(file: Path, start: int, line: bytes) -> dict:
    try:
        result = json.loads(line)
        if isinstance(result["id"], str):
            return result
    except (ValueError, KeyError, TypeError):
        pass
    raise ResultFileError(f"{file}: the line at byte {start} is not a result, JSON with an id; remove the line")


def _cut_incomplete_line(path: Path) -> None:
    """Remove what a killed process left of a line at the end of a file."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 2**16)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                file.truncate(start + newline + 1)
                return
            end = start
        file.truncate(0)


def plain(value):
    """What JSON has no form for, as `json.dumps` asks: arrays and their numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


__all__ = ["Processes", "ResultFile", "ResultFileError", "plain", "processes"]
