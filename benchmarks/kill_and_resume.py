"""Commands that are killed again and again: do they end with the same results as a run that nobody disturbed?

    python benchmarks/kill_and_resume.py [--kills 20] [--verbs build cache evaluate train review push] [--seed 0]

Each command works on a small demo corpus, made here. It runs once from end to end; then it is started, killed by
SIGKILL after a random part of the time that it took, and started again, `--kills` times, and at last runs to its end.
What it leaves is compared with the undisturbed run: rows of the dataset (build), cached tensors (cache), answers and
scores (evaluate), weights (train), records (review), files of a repository on a loopback Hub (push). Each run is a fork
of this process, which has imported everything, so that the kills fall into the work and not into imports. The exit code
is 1 where a result differs. Result: benchmarks/results/kill_and_resume.json.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "kill_and_resume.json"
VERBS = ("build", "cache", "evaluate", "train", "review", "push")


def run(argv: list, after: float | None = None, log: Path | None = None) -> tuple[int | None, float]:
    """A command in a fork of this process: its exit code, `None` where it was killed `after` s, and how long it ran."""
    from hf_emotion import cli

    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        output = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = 99
        try:
            code = cli.main([str(word) for word in argv])
        finally:
            os._exit(code)
    status = None
    while after is None or time.monotonic() < begun + after:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), time.monotonic() - begun
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None, time.monotonic() - begun


def digest(*parts: str | bytes) -> str:
    return hashlib.sha256(b"\0".join(part if isinstance(part, bytes) else part.encode() for part in parts)).hexdigest()


def dataset(folder: Path) -> dict[str, str]:
    from datasets import load_from_disk

    splits = load_from_disk(str(folder))
    return {f"{name}/{row['id']}": digest(json.dumps(row, sort_keys=True)) for name in splits for row in splits[name]}


def cached(folder: Path) -> dict[str, str]:
    from datasets import Dataset

    rows = {}
    for file in sorted(folder.rglob("features-*.arrow")):
        for row in Dataset.from_file(str(file), in_memory=True):
            if row["key"] not in rows:  # a killed writer's rows may be there again
                rows[row["key"]] = digest(row["data"], row["about"])
    return rows


def answers(folder: Path) -> dict[str, str]:
    contents = {}
    for file in sorted([*folder.rglob("*.jsonl"), *folder.rglob("scores.json")]):
        lines = (
            file.read_text(encoding="utf-8").split("\n")
            if file.suffix == ".jsonl"
            else [file.read_text(encoding="utf-8")]
        )
        lines = [re.sub(r'"seconds": [0-9.e-]+', "", line) for line in lines if line]
        for number, line in enumerate(sorted(lines)):
            contents[f"{file.relative_to(folder)}:{number}"] = digest(line.replace(str(folder), "FOLDER"))
    return contents


def weights(folder: Path) -> dict[str, str]:
    from safetensors.torch import load_file

    found = {}
    for file in sorted(folder.glob("phase_*/*.safetensors")):
        for name, tensor in load_file(file).items():
            found[f"{file.relative_to(folder)}:{name}"] = digest(tensor.contiguous().view(-1).float().numpy().tobytes())
    return found


def records(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): digest(file.read_bytes()) for file in sorted(folder.rglob("*.json"))}


def repository(name: str) -> dict[str, str]:
    from huggingface_hub import snapshot_download

    with tempfile.TemporaryDirectory() as folder:
        snapshot_download(name, local_dir=folder)
        files = [file for file in Path(folder).rglob("*") if file.is_file() and ".cache" not in file.parts]
        texts = {str(file.relative_to(folder)): file.read_bytes().replace(name[3:].encode(), b"NAME") for file in files}
    return {path: digest(content) for path, content in sorted(texts.items())}


def jobs(work: Path) -> dict[str, tuple[Callable, Callable]]:
    """verb -> the command for a target, and what is compared of a target."""
    rows, model = work / "rows.jsonl", work / "model"
    train = ["train", "microemo_1_instruction", "--data", rows, "--set", "epochs=1", "--start-from", model, "--resume"]
    train += ["--tasks", "clues"]
    review = ["review", "run", rows, "--describe", "offline", "--listen", "offline", "--judge", "offline"]
    evaluate = ["evaluate", "--model", model, "--data", rows, "--metrics", "emotion_recognition", "--bootstrap", 20]
    evaluate += ["--max-new-tokens", 8, "--batch-size", 1]
    return {
        "build": (lambda to: ["build", "table", "--annotations", rows, "--output", to, "--overwrite"], dataset),
        "cache": (lambda to: ["cache", model, "--data", rows, "--output", to], cached),
        "evaluate": (lambda to: [*evaluate, "--output", to], answers),
        "train": (lambda to: [*train, "--output", to], weights),
        "review": (lambda to: [*review, "--output", to], records),
        "push": (lambda to: ["push", model, f"me/{to.name}"], lambda to: repository(f"me/{to.name}")),
    }


def prepare(work: Path, clips: int) -> None:
    """A demo corpus of rows, and a tiny model."""
    from hf_emotion.data.demo import make_demo
    from hf_emotion.papers import build

    rows = make_demo(work / "media", clips, seed=1, size=64, fps=6, num_workers=0, progress=False)
    rows = [{name: value for name, value in row.items() if value is not None} for row in rows]
    rows = [{**row, "licence": row.get("licence") or "CC0"} for row in rows]
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model, processor = build("microemo")
    model.save_pretrained(work / "model")
    processor.save_pretrained(work / "model")


def measure(verb: str, work: Path, kills: int, draw: random.Random) -> dict:
    command, compare = jobs(work)[verb]
    whole, disturbed, log = work / f"{verb}-whole", work / f"{verb}-killed", work / f"{verb}.log"
    code, seconds = run(command(whole), log=log)
    if code != 0:
        return {"error": f"exit code {code}: {log.read_text()[-400:]}"}
    done, finished = [], 0
    for _ in range(kills):
        if disturbed.exists() and code == 0 and finished:
            shutil.rmtree(disturbed)  # it ended before it was killed: from the start again
            finished = 0
        code, ran = run(command(disturbed), after=draw.uniform(0.02, seconds), log=log)
        finished = code == 0
        done.append(round(ran, 2))
        if code not in (0, None):
            return {"error": f"exit code {code} after a kill: {log.read_text()[-400:]}"}
    if not finished:
        code, _ = run(command(disturbed), log=log)
        if code != 0:
            return {"error": f"exit code {code} in the last run: {log.read_text()[-400:]}"}
    first, second = compare(whole), compare(disturbed)
    left = [path.name for path in work.iterdir() if path.name.startswith(".") and disturbed.name in path.name]
    left += [str(path.relative_to(disturbed)) for path in disturbed.rglob(".*")] if disturbed.is_dir() else []
    return {
        "seconds_undisturbed": round(seconds, 2),
        "killed_after_seconds": done,
        "compared": len(first),
        "differing": sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))[:10],
        "temporary_files_left": len(left),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=VERBS)
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a fork takes one thread along
    with tempfile.TemporaryDirectory() as temporary:
        work, hub = Path(temporary), None
        sys.path.insert(0, str(ROOT / "tests"))
        import fake_hub

        if "push" in args.verbs:
            command = [sys.executable, str(ROOT / "tests" / "fake_hub.py"), "8765"]
            hub = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            os.environ.update(fake_hub.environment("http://127.0.0.1:8765", work / "home"))
        try:
            import torch

            import hf_emotion.cli.evaluate
            import hf_emotion.hub
            import hf_emotion.training.cache
            import hf_emotion.training.train  # noqa: F401

            torch.set_num_threads(1)
            child = os.fork()  # MediaPipe, once used, is refused in forks
            if child == 0:
                prepare(work, args.clips)
                os._exit(0)
            if os.waitpid(child, 0)[1]:
                raise RuntimeError("the demo corpus could not be made")
            results = json.loads(args.output.read_text(encoding="utf-8")) if args.output.is_file() else {}
            for verb in args.verbs:
                results[verb] = {"kills": args.kills, **measure(verb, work, args.kills, random.Random(args.seed))}
                print(verb, json.dumps(results[verb]), flush=True)
        finally:
            if hub is not None:
                hub.kill()
    args.output.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return int(any("error" in result or result["differing"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
