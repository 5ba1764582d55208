"""Several processes do what one does, and a corpus of 100,000 rows passes through.

    python benchmarks/many_processes.py [--parts verbs writers corpus] [--verbs predict evaluate cache review build]

verbs    each verb runs on a small demo corpus in one process, in two under `torchrun`, and in two of which one is
         killed (SIGKILL) when it has written results, after which the command is started again. Compared with the
         single process: the results; whether each row is there once; how many rows each process did. In the runs that
         are killed every result is followed by a pause, so that the kill falls between the first row and the last.
writers  two processes that know nothing of each other fill one cache folder, 20 times: rows that are lost.
corpus   100,000 rows, one clip linked as many times, through `hf-emotion evaluate` and `hf-emotion cache` with a
         stand-in for decoding, towers and generation: memory while rows pass, time a row, and the time from the start
         to the first new row when a run that was killed near its end is started again.

Result: benchmarks/results/many_processes.json.
"""

import argparse
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from kill_and_resume import answers, cached, dataset, prepare, records

HERE = Path(__file__).resolve()
RESULTS = HERE.parent / "results" / "many_processes.json"
VERBS = ("predict", "evaluate", "cache", "review", "build")
PAUSE = 0.25  # s after each result of a run that is killed
WORKED = re.compile(r"process (\d) of 2: (\d+) rows")


def described(folder: Path) -> dict:
    """The rows of a file of results, without their times."""
    found = {}
    for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines():
        result = json.loads(line)
        result.pop("seconds")
        if result["id"] in found:
            raise RuntimeError(f"{result['id']} is there twice")
        found[result["id"]] = json.dumps(result, sort_keys=True)
    return found


# Verb -> what is compared, and which files hold results while the verb runs.
COMPARED = {
    "predict": (described, "results.*-of-*.jsonl"),
    "evaluate": (answers, "predictions.*-of-*.jsonl"),
    "cache": (cached, "features-*.arrow"),
    "review": (records, "outcomes.*-of-*.jsonl"),
    "build": (dataset, "../.build-killed.utterances.*-of-*.jsonl"),
}


def command(verb: str, work: Path, to: Path) -> list:
    """The arguments of a verb that writes to the folder `to`."""
    rows, model = work / "rows.jsonl", work / "model"
    short = ["--max-new-tokens", 8, "--batch-size", 1]
    clips = sorted((work / "media" / "clips").glob("*.mp4"))
    review = ["review", "run", rows, "--describe", "offline", "--listen", "offline", "--judge", "offline"]
    evaluate = ["evaluate", "--model", model, "--data", rows, "--metrics", "emotion_recognition"]
    build = ["build", "table", "--annotations", work / "silent.jsonl", "--media", work / "media"]
    return {
        "predict": ["predict", *clips, "--model", model, "--whole-clip-only", *short, "--output", to / "results.jsonl"],
        "evaluate": [*evaluate, *short, "--bootstrap", 20, "--output", to],
        "cache": ["cache", model, "--data", rows, "--output", to],
        "review": [*review, "--output", to],
        "build": [*build, "--utterances", "voice", "--output", to],
    }[verb]


def start(arguments: list, processes: int, pause: float = 0.0) -> subprocess.Popen:
    """The command, in this many processes."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--standalone"]
    words = [sys.executable, *(launcher if processes > 1 else ()), str(HERE), "as-rank", *map(str, arguments)]
    environment = {**os.environ, "PAUSE": str(pause), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def run_verb(arguments: list) -> int:
    """The command in this process, with a pause after each result where one is asked for."""
    from hf_emotion import cli
    from hf_emotion.data.shares import ResultFile
    from hf_emotion.training import cache

    pause, cache.SHARD_BYTES = float(os.environ["PAUSE"]), 1  # a file for each clip, or a small run writes only one

    def paused(method):
        def slow(self, *values):
            method(self, *values)
            time.sleep(pause)

        return slow

    ResultFile.add, cache._Writer.add = paused(ResultFile.add), paused(cache._Writer.add)
    return cli.main(arguments)


def finish(process: subprocess.Popen) -> list[int]:
    """Wait for a command; the rows that each of its processes did."""
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {errors[-3000:]}")
    return [int(count) for _, count in sorted(WORKED.findall(errors))]


def kill_one(process: subprocess.Popen, folder: Path, pattern: str) -> None:
    """Kill one process of the command as soon as two results are written; then the launcher ends the other."""

    def written():
        files = list((folder.parent if pattern.startswith("../") else folder).glob(pattern.removeprefix("../")))
        if pattern.endswith(".arrow"):
            return len(files)
        return sum(file.read_bytes().count(b"\n") for file in files if file.exists())

    while written() < 2:
        if process.poll() is not None:
            raise RuntimeError(f"the command ended before it was killed: {process.stderr.read()[-2000:]}")
        time.sleep(0.01)
    ranks = [child for child in psutil.Process(process.pid).children() if "as-rank" in child.cmdline()]
    os.kill(ranks[-1].pid, signal.SIGKILL)
    process.communicate()
    if process.returncode == 0:
        raise RuntimeError("one process was killed, but the command ended with 0")


def measure_verb(verb: str, work: Path) -> dict:
    compare, pattern = COMPARED[verb]
    one, two, killed = (work / f"{verb}-{name}" for name in ("one", "two", "killed"))
    seconds = {}
    for name, folder, processes in (("one process", one, 1), ("two processes", two, 2)):
        begun = time.monotonic()
        rows = finish(start(command(verb, work, folder), processes))
        seconds[name] = round(time.monotonic() - begun, 1)
    process = start(command(verb, work, killed), 2, PAUSE)
    kill_one(process, killed, pattern)
    again = finish(start(command(verb, work, killed), 2))
    results = [compare(folder) for folder in (one, two, killed)]
    return {
        "compared": len(results[0]),
        "two_differ_from_one": _differing(results[0], results[1]),
        "killed_and_resumed_differ_from_one": _differing(results[0], results[2]),
        "rows_of_each_process": rows,
        "rows_of_each_process_after_the_kill": again,
        "seconds_with_imports": seconds,
        "files_left": [str(path.relative_to(work)) for path in work.glob(f".{verb}-*")]
        + [str(path.relative_to(work)) for path in work.glob(f"{verb}-*/*-of-*") if not path.name.startswith("log.")],
    }


def _differing(first: dict, second: dict) -> list[str]:
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def measure_writers(work: Path, runs: int) -> dict:
    """Rows that are missing after two independent commands filled one folder."""
    rows = [json.loads(line) for line in (work / "rows.jsonl").read_text(encoding="utf-8").splitlines()][:4]
    spoken = [[{"start": 0.0, "end": 0.02 * n, "text": None, "speaker": None}] for n in range(1, 25)]
    rows = [{**row, "id": f"{row['id']} {n}", "utterances": said} for row in rows for n, said in enumerate(spoken)]
    for half in range(2):
        lines = "".join(json.dumps(row) + "\n" for row in rows[half::2])
        (work / f"half-{half}.jsonl").write_text(lines, encoding="utf-8")
    lost = []
    for number in range(runs):
        folder = work / f"writers-{number}"
        children = []
        for half in range(2):
            child = os.fork()  # everything is imported
            if child == 0:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                code = 99
                try:
                    from hf_emotion import cli

                    code = cli.main([str(word) for word in (
                        "cache", work / "sound", "--data", work / f"half-{half}.jsonl", "--output", folder,
                        "--modalities", "audio",
                    )])  # fmt: skip
                finally:
                    os._exit(code)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        if any(codes):
            raise RuntimeError(f"exit codes {codes}")
        lost.append(len(rows) - len(cached(folder)))
    return {"runs": runs, "rows": len(rows), "rows_lost": lost}


def memory() -> float:
    """MB of this process."""
    return psutil.Process().memory_info().rss / 2**20


def run_corpus(verb: str, work: Path, count: int, stop: int) -> None:
    """A verb over `count` rows with stand-ins; after `stop` new rows the process kills itself. Prints measurements."""
    import torch

    from hf_emotion import cli, inference
    from hf_emotion.data.loading import Clips
    from hf_emotion.processing.processing_emotion import ClipInputs
    from hf_emotion.training import cache

    begun, seen = time.monotonic(), 0

    def passed(clips: int) -> None:
        nonlocal seen
        before, seen = seen, seen + clips
        now, usage = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_SELF)
        cpu = usage.ru_utime + usage.ru_stime
        if before == 0:
            print(json.dumps({"first": round(now, 2), "cpu": round(cpu, 2)}), flush=True)
        if before // 10_000 != seen // 10_000:
            print(json.dumps({"memory": [seen, round(memory(), 1), round(now, 2), round(cpu, 2)]}), flush=True)
        if stop and seen >= stop:
            os.kill(os.getpid(), signal.SIGKILL)

    features = {"video_features": torch.zeros(4, 16), "video_times": torch.zeros(8, dtype=torch.long)}

    class Answering:
        """A pipeline whose answers are as long as real ones."""

        def __init__(self, model, processor):
            self.processor = processor

        def __call__(self, inputs, **options):
            passed(len(inputs))
            answer = {
                "description": "The brows are drawn together and the voice rises. " * 4,
                "labels": [{"label": word, "score": 0.5} for word in ("angry", "tense", "worried")],
                "frames": [{"time": 0.25 * n, "face": True} for n in range(8)],
                "utterances": [],
                "modalities": ["video", "audio"],
            }
            return [dict(answer) for _ in inputs]

    def record(processor, row, options):
        passed(1)
        return ClipInputs(source=row["video"], utterances=[], placeholders={}, report={}, tensors=features)

    inference.pipeline_of = Answering
    Clips.__getitem__ = lambda clips, index: ClipInputs(source=clips.sources[index], tensors={"a": np.zeros(64)})
    cache.record = record
    cache.SHARD_BYTES = 2**20  # these features have 320 bytes, a thousandth of real ones
    arguments = {
        "evaluate": ["evaluate", "--metrics", "emotion_recognition", "--bootstrap", "0", "--model", work / "sound"],
        "cache": ["cache", work / "sound"],
    }[verb]
    if verb == "cache":
        from hf_emotion.modeling.modeling_acoustemo import AcoustEmoModel

        AcoustEmoModel.tower_features = lambda self, **batch: batch
    # Workers would be other processes, without the stand-ins.
    data = ("--data", work / "corpus.jsonl", "--output", work / verb, "--num-workers", 0)
    code = cli.main([str(word) for word in (*arguments, *data)])
    print(json.dumps({"code": code, "rows": seen, "seconds": round(time.monotonic() - begun, 2)}), flush=True)


def measure_corpus(work: Path, count: int) -> dict:
    """See the head of this file."""
    links = work / "links"
    links.mkdir()
    clip = min((work / "media" / "clips").glob("*.mp4"), key=lambda path: path.stat().st_size)
    with (work / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for number in range(count):
            path = links / f"{number // 1000:04d}" / f"{number:07d}.mp4"
            if number % 1000 == 0:  # a file cannot have 100,000 links
                path.parent.mkdir()
                copied = shutil.copy(clip, path.parent / "clip")
            os.link(copied, path)
            row = {"id": f"{number:07d}", "video": str(path), "label": "happy" if number % 2 else "sad"}
            file.write(json.dumps(row) + "\n")
    found = {}
    for verb in ("evaluate", "cache"):
        runs = []
        for stop in (int(count * 0.9), 0):
            words = [sys.executable, str(HERE), "--run-corpus", verb, str(work), str(count), str(stop)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
            if done.returncode != (-signal.SIGKILL if stop else 0) or not lines:
                raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-3000:]}")
            runs.append(lines)
        passing = [line["memory"] for line in runs[0] if "memory" in line]
        (rows, megabytes, seconds, cpu), (last_rows, last_megabytes, last_seconds, last_cpu) = passing[0], passing[-1]
        again = runs[1][-1]
        found[verb] = {
            "rows": count,
            "rows_before_the_kill": int(count * 0.9),
            "rows_after_it": again["rows"],
            "memory_mb_at": {str(line[0]): line[1] for line in passing},
            "memory_growth_bytes_a_row": round((last_megabytes - megabytes) * 2**20 / (last_rows - rows)),
            "clock_ms_a_row": round(1000 * (last_seconds - seconds) / (last_rows - rows), 3),
            "processor_ms_a_row": round(1000 * (last_cpu - cpu) / (last_rows - rows), 3),
            "seconds_to_first_new_row_after_resume": runs[1][0]["first"],
            "processor_seconds_to_it": runs[1][0]["cpu"],
            "rows_in_the_result": _rows_in(verb, work),
        }
        print(verb, json.dumps(found[verb]), flush=True)
    return found


def _rows_in(verb: str, work: Path) -> int:
    if verb == "cache":
        return len(cached(work / verb))
    with (work / verb / "predictions.jsonl").open("rb") as file:
        return len({json.loads(line)["id"] for line in file})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=("verbs", "writers", "corpus"), default=[])
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=VERBS)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    results = json.loads(args.output.read_text(encoding="utf-8")) if args.output.is_file() else {}

    def save():
        args.output.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    parts = args.parts or ("verbs", "writers", "corpus")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        # In a process of its own: MediaPipe, once used, is refused in forks.
        subprocess.run([sys.executable, HERE, "--prepare", work, str(args.clips)], check=True)
        if "verbs" in parts:
            for verb in args.verbs:
                results.setdefault("verbs", {})[verb] = measure_verb(verb, work)
                print(verb, json.dumps(results["verbs"][verb]), flush=True)
                save()
        if "writers" in parts:
            import hf_emotion.inference
            import hf_emotion.training.cache  # noqa: F401

            results["writers"] = measure_writers(work, args.runs)
            print("writers", json.dumps(results["writers"]), flush=True)
            save()
        if "corpus" in parts:
            results["corpus"] = measure_corpus(work, args.rows)
    save()
    differing = [
        name for name, verb in results.get("verbs", {}).items()
        if verb["two_differ_from_one"] or verb["killed_and_resumed_differ_from_one"] or verb["files_left"]
    ]  # fmt: skip
    return int(bool(differing) or any(results.get("writers", {}).get("rows_lost", ())))


def prepare_all(work: Path, clips: int) -> None:
    """The demo corpus, its rows without utterances, a model that sees and one that hears."""
    from hf_emotion.papers import build

    prepare(work, clips)
    rows = [json.loads(line) for line in (work / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = ("id", "label", "source")
    silent = [{name: row[name] for name in kept if name in row} | {"video": row["video"]} for row in rows]
    (work / "silent.jsonl").write_text("".join(json.dumps(row) + "\n" for row in silent), encoding="utf-8")
    model, processor = build("acoustemo")
    model.save_pretrained(work / "sound")
    processor.save_pretrained(work / "sound")


if __name__ == "__main__":
    if sys.argv[1:2] == ["as-rank"]:
        sys.exit(run_verb(sys.argv[2:]))
    if sys.argv[1:2] == ["--prepare"]:
        prepare_all(Path(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1:2] == ["--run-corpus"]:
        run_corpus(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
    else:
        sys.exit(main())
