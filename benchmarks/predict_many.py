"""`hf-emotion predict` on many clips, this version beside 0.1.0, with one model of 0.1.0.

    python benchmarks/predict_many.py FOLDER_OF_CLIPS

0.1.0, checked out at its commit, makes a tiny model; both versions then describe the same clips with the same command
(`predict CLIPS --model FOLDER --json`), each in a process that starts, imports and loads. The clips are copies of those
in the folder. The two take turns and change places; reported are clips a second and processor seconds a clip, of the
process and its workers.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMIT = "5db6b59"  # 0.1.0


def call(source: Path, *arguments: str | Path) -> tuple[str, float, float]:
    """What `hf-emotion` of a checkout prints; seconds of the clock and of the processor, its children included."""
    before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(source / "src")}
    command = [sys.executable, "-m", "hf_emotion.cli", *map(str, arguments)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cores = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return answer.stdout, time.perf_counter() - clock, cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of clips")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="microemo")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "predict_many.json")
    args = parser.parse_args()
    sources = sorted(path for path in args.folder.iterdir() if path.suffix.lower() in {".mp4", ".mov", ".mkv", ".webm"})
    if not sources:
        raise SystemExit(f"no clips (mp4, mov, mkv, webm) in {args.folder}")
    with tempfile.TemporaryDirectory() as name:
        folder, checkout = Path(name), Path(name) / "checkout"
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "--detach", checkout, COMMIT], check=True)
        try:
            call(checkout, "init", args.model, "--output", folder / "model")
            clips = []
            for number in range(args.clips):
                source = sources[number % len(sources)]
                clips.append(folder / f"{number:03d}{source.suffix}")
                shutil.copy(source, clips[-1])
            runs, answers = {"released": [], "ours": []}, {}
            command = ("predict", *clips, "--model", folder / "model", "--json", "--max-new-tokens", "32")
            for repeat in range(args.repeats):
                for side in list(runs)[:: -1 if repeat % 2 else 1]:
                    text, *seconds = call(checkout if side == "released" else ROOT, *command)
                    runs[side].append(seconds)
                    answers[side] = [result["description"] for result in json.loads(text)]
                    print(repeat, side, *(round(value, 1) for value in seconds), flush=True)
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", checkout], check=True)
    pairs = list(zip(runs["released"], runs["ours"], strict=True))
    result = {
        "model": f"{args.model}, tiny",
        "clips": args.clips,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "clips_a_second": {side: args.clips / statistics.median(run[0] for run in runs[side]) for side in runs},
        "core_seconds_a_clip": {side: statistics.median(run[1] for run in runs[side]) / args.clips for side in runs},
        "faster_by_the_clock": statistics.median(old[0] / new[0] for old, new in pairs),
        "less_core_time": statistics.median(old[1] / new[1] for old, new in pairs),
        "equal_answers": sum(one == other for one, other in zip(answers["released"], answers["ours"], strict=True)),
        "runs": runs,
    }
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name != "runs"}))


if __name__ == "__main__":
    main()
