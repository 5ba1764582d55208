"""Feeds hostile inputs to the package in worker processes, and keeps each input that does harm.

    python tests/hostile/fuzz.py --seed 1 --cases 3000
    python tests/hostile/fuzz.py --minutes 60 --workers 2

Harm is an exception of an unexpected type (a traceback), an answer that breaks a rule (a wrong result), a case that
takes more than 30 s (a hang), a process that dies (a crash) or that needs more than its memory limit. A worker is warm
before its first case, and time that its threads spend waiting for a core does not count, so a loaded machine makes no
hangs. Each new harmful input is kept as `tests/hostile/kept/KIND-DIGEST`, where `test_kept_inputs.py` finds it. The
exit code is 1 where there was any.
"""

import argparse
import hashlib
import json
import os
import resource
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
KEPT = HERE / "kept"
CASE_SECONDS = 30.0  # of a case, without the time that it waited for a core
START_SECONDS = 600.0  # for a worker to import the package and build the tiny model
MOST_SECONDS = 600.0  # of a case by the clock, whatever the machine does
MEMORY = 6 * 2**30  # bytes of address space of a worker; what it really used is measured
PEAK = 2 * 2**30  # bytes of resident memory that no case may make a worker reach
OUTCOMES = ("accepted", "refused", "traceback", "wrong result", "hang", "crash", "memory")
RECYCLE = 1000  # cases after which a worker is replaced, so that a leak of one kind does not count for another


def peak_bytes() -> int:
    """The most resident memory that this program had. `ru_maxrss` would include the program that started it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def work() -> None:
    """A worker: reads `seed index` or `kind path` lines, writes one JSON line for each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    from cases import check_case, make_case, warm_up

    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        (root / "case").mkdir()
        try:
            warm_up(root / "case")
        except Exception:
            answers.write(json.dumps({"start": traceback.format_exc()}) + "\n")
            return
        answers.write(json.dumps({"ready": True}) + "\n")
        answers.flush()
        for line in sys.stdin:
            asked = json.loads(line)
            folder = root / "case"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            begun, kind, data = time.monotonic(), "?", b""
            try:
                if "path" in asked:
                    kind, data = asked["kind"], Path(asked["path"]).read_bytes()
                else:
                    kind, data = make_case(asked["seed"], asked["index"], folder)
                    (root / "input").write_bytes(data)
                    answers.write(json.dumps({"kind": kind, "input": str(root / "input")}) + "\n")
                    answers.flush()
                outcome, report = check_case(kind, data, folder), ""
            except AssertionError:
                outcome, report = "wrong result", traceback.format_exc()
            except MemoryError:
                outcome, report = "memory", traceback.format_exc()
            except Exception:
                outcome, report = "traceback", traceback.format_exc()
            answer = {"outcome": outcome, "kind": kind, "report": report, "seconds": time.monotonic() - begun}
            answer["peak"] = peak_bytes()
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
    finally:
        shutil.rmtree(root, ignore_errors=True)


def times_of(process: int) -> tuple[float, dict[str, float]]:
    """Processor time of a process, and how long each of its threads waited for a core, in s so far."""
    spent, waited = 0, {}
    for thread in Path(f"/proc/{process}/task").glob("*/schedstat"):
        try:
            running, waiting, _ = map(int, thread.read_text().split())
        except (OSError, ValueError):  # the thread ended
            continue
        spent += running
        waited[thread.parent.name] = waiting / 1e9
    return spent / 1e9, waited


class Worker:
    """A worker process and the case that it is at."""

    def __init__(self, selector: selectors.BaseSelector):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "fuzz.py"), "--work"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        os.set_blocking(self.process.stdout.fileno(), False)
        self.selector, self.received, self.count, self.peak, self.ready = selector, b"", 0, 0, False
        selector.register(self.process.stdout, selectors.EVENT_READ, self)

    def ask(self, case: dict) -> None:
        self.case, self.input = case, None
        self.begin()
        self.count += 1
        self.process.stdin.write(json.dumps(case).encode() + b"\n")
        self.process.stdin.flush()

    def begin(self) -> None:
        """Start the clock of the case."""
        self.begun = time.monotonic()
        self.spent, self.waited = times_of(self.process.pid)

    def late(self) -> bool:
        """Whether the case, or the start of the worker, takes too long."""
        clock = time.monotonic() - self.begun
        if not self.ready:
            return clock > START_SECONDS
        if clock <= CASE_SECONDS:
            return False
        spent, waited = times_of(self.process.pid)
        longest = max((wait - self.waited.get(thread, 0.0) for thread, wait in waited.items()), default=0.0)
        return clock > MOST_SECONDS or max(spent - self.spent, clock - longest) > CASE_SECONDS

    def answers(self) -> list[dict] | None:
        """The complete lines that came; None where the process ended."""
        block = self.process.stdout.read()
        if block == b"":
            return None
        *lines, self.received = (self.received + (block or b"")).split(b"\n")
        return [json.loads(line) for line in lines]

    def end(self) -> int:
        self.selector.unregister(self.process.stdout)
        self.process.stdin.close()
        try:
            code = self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.process.stdout.close()
        return code


def run(cases, workers: int = 1, keep: Path | None = KEPT, say=print) -> dict:
    """Run cases and return what came of them.

    Args:
        cases: an iterable of `{"seed", "index"}` or `{"kind", "path"}`.
        workers: processes at once.
        keep: folder for harmful inputs; None keeps none.
        say: called with a line for each harmful input.
    """
    cases, selector = iter(cases), selectors.DefaultSelector()
    totals, kinds, findings, peaks, slowest = Counter(), Counter(), {}, [0], (0.0, None)

    def harm(worker: Worker, outcome: str, kind: str, report: str) -> None:
        last = report.strip().splitlines()[-1] if report.strip() else ""
        place = [line.strip() for line in report.splitlines() if line.strip().startswith("File ")][-1:] or [""]
        signature = (kind, outcome, place[0], last[:60])
        if signature in findings:
            findings[signature]["times"] += 1
            return
        findings[signature] = {"case": worker.case, "times": 1, "report": report}
        name = None
        if keep is not None and worker.input is not None and os.path.exists(worker.input):
            data = Path(worker.input).read_bytes()
            keep.mkdir(exist_ok=True)
            name = keep / f"{kind}-{hashlib.sha256(data).hexdigest()[:12]}"
            name.write_bytes(data)
        say(f"{outcome}: {kind} {worker.case} {place[0]} {last[:300]} {name.name if name else ''}")

    def start(worker: Worker) -> bool:
        case = next(cases, None)
        if case is not None:
            worker.ask(case)
        return case is not None

    active = set()
    for _ in range(workers):
        worker = Worker(selector)
        if start(worker):
            active.add(worker)
        else:
            worker.end()
    while active:
        ready = {key.data for key, _ in selector.select(timeout=1.0)}
        for worker in list(active):
            ended = False
            answers = worker.answers() if worker in ready else []
            if answers is None:
                ended, answers = True, []
            for answer in answers:
                if "start" in answer:
                    raise RuntimeError(f"a worker cannot start: {answer['start']}")
                if "ready" in answer:
                    worker.ready = True
                    worker.begin()
                elif "outcome" not in answer:
                    worker.input, worker.kind = answer["input"], answer["kind"]
                else:
                    totals[answer["outcome"]] += 1
                    kinds[answer["kind"], answer["outcome"]] += 1
                    slowest = max(slowest, (answer["seconds"], str(worker.case)))
                    peaks.append(answer["peak"])
                    if answer["outcome"] not in ("accepted", "refused"):
                        harm(worker, answer["outcome"], answer["kind"], answer["report"])
                    elif answer["peak"] > PEAK >= worker.peak:
                        totals["memory"] += 1
                        harm(worker, "memory", answer["kind"], f"{answer['peak'] / 2**30:.2f} GiB")
                    worker.peak = answer["peak"]
                    if worker.count >= RECYCLE:
                        worker.end()
                        active.discard(worker)
                        worker = Worker(selector)
                        active.add(worker)
                    if not start(worker):
                        worker.end()
                        active.discard(worker)
            late = worker in active and worker.late()
            if ended or late:
                kind = getattr(worker, "kind", "?")
                outcome = "hang" if late else "crash"
                if late:
                    worker.process.kill()
                    worker.process.wait()
                totals[outcome] += 1
                harm(worker, outcome, kind, f"exit code {worker.process.poll()}")
                worker.end()
                active.discard(worker)
                worker = Worker(selector)
                active.add(worker)
                if not start(worker):
                    worker.end()
                    active.discard(worker)
    return {"totals": totals, "kinds": kinds, "findings": findings, "peak": max(peaks), "slowest": slowest}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the cases (default: the time)")
    parser.add_argument("--cases", type=int, help="how many (default: as many as the time allows)")
    parser.add_argument("--first", type=int, default=0, help="index of the first case (default 0)")
    parser.add_argument("--minutes", type=float, default=None, help="for how long (default: until the cases are done)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--kinds", nargs="+", help="only cases of these kinds (default: all)")
    parser.add_argument("--json", type=Path, help="file to which the figures are added, under the seed")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work()
        return 0
    begun = time.monotonic()
    minutes = args.minutes if args.minutes is not None else 10.0 if args.cases is None else float("inf")

    if args.kinds is not None:
        from cases import kind_of

    def cases():
        index = args.first
        while (args.cases is None or index < args.first + args.cases) and time.monotonic() < begun + 60 * minutes:
            if args.kinds is None or kind_of(args.seed, index) in args.kinds:
                yield {"seed": args.seed, "index": index}
            index += 1

    result = run(cases(), args.workers)
    totals = result["totals"]
    print(f"seed {args.seed}: {sum(totals.values())} cases in {time.monotonic() - begun:.0f} s")
    for name in OUTCOMES:
        print(f"  {name:<13}{totals[name]:>7}")
    print(f"  peak memory  {result['peak'] / 2**20:>7,.0f} MiB")
    print(f"  slowest case {result['slowest'][0]:>7.1f} s  {result['slowest'][1]}")
    for kind in sorted({kind for kind, _ in result["kinds"]}):
        counts = ", ".join(f"{outcome} {count}" for (k, outcome), count in sorted(result["kinds"].items()) if k == kind)
        print(f"  {kind:<13}{counts}")
    if args.json is not None:
        figures = json.loads(args.json.read_text(encoding="utf-8")) if args.json.is_file() else {}
        kinds = {f"{kind} {outcome}": count for (kind, outcome), count in sorted(result["kinds"].items())}
        harmful = [{"case": finding["case"], "times": finding["times"]} for finding in result["findings"].values()]
        figures[str(args.seed)] = {
            "cases": sum(totals.values()),
            **{name: totals[name] for name in OUTCOMES},
            "peak_MiB": result["peak"] // 2**20,
            "slowest_case_seconds": round(result["slowest"][0], 1),
            "kinds": kinds,
            "findings": harmful,
        }
        args.json.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return int(bool(result["findings"]))


if __name__ == "__main__":
    sys.exit(main())
