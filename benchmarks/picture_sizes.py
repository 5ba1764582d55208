"""Preprocessing of clips of 360 to 2,160 lines beside the straightforward way and beside 0.1.0.

    python benchmarks/picture_sizes.py FOLDER_OF_CLIPS

Every clip is cut to 5 s, scaled to each number of lines and encoded again (x264, yuv420p). Four ways make the same
things of it, 32 frames at 224 x 224, normalised, the regions of the face as 16 x 16 masks, the sound at 16 kHz:

* `ours`: `load_clip(max_lines=540)` and one batch through the image processor, the mesh on every frame;
* `followed`: the same with `FaceFinder(mesh_every=4)`;
* `released`: the code of 0.1.0, checked out at its commit;
* `plain`: every frame decoded and converted, PIL, librosa (`preprocessing.plain`), with the mesh on every frame.

Each way runs in a process of its own, with one thread in torch, OpenMP and the face finder (FFmpeg has its own); they
take turns, clip by clip, and their order changes. Reported are processor and clock milliseconds a clip, medians over
the repetitions, and the ratios of their sums over clips. Pixels are compared with PIL's of the full frame, and
followed faces with the mesh's: landmarks in shares of the distance of the outer corners of the eyes, and the overlap of
the masks.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
COMMIT = "5db6b59"  # 0.1.0
LINES = (360, 540, 720, 1080, 1440, 2160)
SECONDS = 5.0
SIDES = ("ours", "followed", "released", "plain")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# Runs in each side's process: a line with a path in, a line of JSON out; the tensors go to a file where one is named.
WORKER = """
import json, sys, time
import numpy as np, torch
torch.set_num_threads(1)
side, benchmarks = sys.argv[1:3]
sys.path.insert(0, benchmarks)
from hf_emotion.processing.faces import FaceFinder
from hf_emotion.processing.image_processing_emotion import EmotionImageProcessor
from hf_emotion.processing.media import load_clip
finder = FaceFinder(threads=1, **({"mesh_every": 4} if side == "followed" else {}))
processor = EmotionImageProcessor(size={"height": 224, "width": 224})
if side == "plain":
    from preprocessing import plain
def run(path):
    if side == "plain":
        _, (pixels, masks, _) = plain(path, finder, processor)
        return pixels, masks, None
    options = {} if side == "released" else {"max_lines": 540, "keep_full": True}
    clip = load_clip(path, num_frames=32, **options)
    pixels = processor.frames_to_pixels(clip.frames)
    track = finder(clip.frames) if side == "released" else finder(clip.frames, full=clip.full)
    return pixels, finder.region_masks(track, (16, 16)), track
print("ready", flush=True)
for line in sys.stdin:
    path, target = json.loads(line)
    clock, cores = time.perf_counter(), time.process_time()
    pixels, masks, track = run(path)
    print(json.dumps([time.perf_counter() - clock, time.process_time() - cores]), flush=True)
    if target:
        arrays = {"pixels": pixels.numpy(), "masks": masks}
        if track is not None:
            arrays |= {"landmarks": track.landmarks, "found": track.found, "num_faces": track.num_faces}
        np.savez(target, **arrays)
        print("written", flush=True)
"""


def rescale(source: Path, target: Path, lines: int) -> None:
    """The first seconds of a clip with so many lines."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        picture, sound = reader.streams.video[0], reader.streams.best("audio")
        video = writer.add_stream("libx264", rate=picture.average_rate, options={"preset": "veryfast", "crf": "23"})
        video.width, video.height, video.pix_fmt = (
            round(picture.width * lines / picture.height / 2) * 2,
            lines,
            "yuv420p",
        )
        video.codec_context.time_base = video.time_base = picture.time_base
        audio = writer.add_stream("aac", rate=sound.rate, layout="stereo")
        last = -1
        for packet in reader.demux([picture, sound]):
            for frame in packet.decode():
                if frame.time is None or frame.time > SECONDS:
                    continue
                if isinstance(frame, av.AudioFrame):
                    frame.pts = None
                    writer.mux(audio.encode(frame))
                elif frame.pts is not None and frame.pts > last:
                    last = frame.pts
                    scaled = frame.reformat(video.width, lines, "yuv420p", interpolation="BICUBIC")
                    scaled.pts, scaled.time_base = frame.pts, frame.time_base
                    writer.mux(video.encode(scaled))
        writer.mux(video.encode())
        writer.mux(audio.encode())


def start(side: str, checkout: Path) -> subprocess.Popen:
    source = checkout if side == "released" else ROOT
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(source / "src")}
    command = [sys.executable, "-c", WORKER, side, str(ROOT / "benchmarks")]
    worker = subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    if worker.stdout.readline() != "ready\n":
        raise SystemExit(f"the process of {side} did not start")
    return worker


def ask(worker: subprocess.Popen, clip: Path, target: Path | None = None) -> tuple[float, float]:
    """Seconds of the clock and of the processor."""
    worker.stdin.write(json.dumps([str(clip), None if target is None else str(target)]) + "\n")
    worker.stdin.flush()
    clock, cores = json.loads(worker.stdout.readline())
    if target is not None:
        worker.stdout.readline()
    return clock, cores


def levels(pixels: np.ndarray) -> np.ndarray:
    """Normalised pixels (T, 3, h, w) -> levels of 0 to 255."""
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    mean, std = (np.reshape(values, (3, 1, 1)) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return np.round((pixels * std + mean) * 255)


def compare(results: dict[str, Path], size: tuple[int, int]) -> dict:
    """Pixels of `ours` and `plain` where both took the same frames; faces of `followed` and of `ours`."""
    ours, followed, released = (np.load(results[side]) for side in ("ours", "followed", "released"))
    apart = np.abs(levels(ours["pixels"]) - levels(released["pixels"]))
    row = {
        "pixels_mean": float(apart.mean()),
        "pixels_p99": float(np.percentile(apart, 99)),
        "pixels_p999": float(np.percentile(apart, 99.9)),
        "pixels_max": float(apart.max()),
        "faces": int(ours["found"].sum()),
        "faces_released": int(released["found"].sum()),
        "faces_followed": int(followed["found"].sum()),
        "same_frames_with_a_face": bool((ours["found"] == followed["found"]).all()),
    }
    for name, one, other in (("followed", followed, ours), ("smaller", ours, released)):
        both = one["found"] & other["found"]
        if both.any():
            points, truth = (track["landmarks"][both] * size for track in (one, other))
            eyes = np.linalg.norm(truth[:, 33] - truth[:, 263], axis=-1)
            error = np.linalg.norm(points - truth, axis=-1) / eyes[:, None]
            a, b = one["masks"][both], other["masks"][both]
            row[f"{name}_landmarks_mean"] = float(error.mean())
            row[f"{name}_landmarks_p99"] = float(np.percentile(error, 99))
            row[f"{name}_masks_overlap"] = float((a & b).sum() / (a | b).sum())
            if name == "followed":
                row["followed_frames"] = int((error > 0).any(1).sum())
    return row


def measure(clips: dict[int, list[Path]], repeats: int, folder: Path) -> dict:
    checkout = folder / "checkout"
    subprocess.run(
        ["git", "-C", ROOT, "worktree", "add", "--detach", checkout, COMMIT], check=True, capture_output=True
    )
    workers = {}
    try:
        workers = {side: start(side, checkout) for side in SIDES}
        table = {}
        for lines, paths in clips.items():
            rows = {}
            for place, clip in enumerate(paths):
                targets = {side: folder / f"{side}.npz" for side in SIDES}
                for side, worker in workers.items():  # not counted: caches are warm afterwards
                    ask(worker, clip, targets[side])
                with av.open(str(clip)) as container:
                    size = container.streams.video[0].width, lines
                row = compare(targets, size)
                times = {side: [] for side in SIDES}
                for repeat in range(repeats):
                    first = (place + repeat) % len(SIDES)
                    for side in (*SIDES[first:], *SIDES[:first]):
                        times[side].append(ask(workers[side], clip))
                for side, pairs in times.items():
                    row[side] = {
                        "clock_ms": 1000 * statistics.median(pair[0] for pair in pairs),
                        "core_ms": 1000 * statistics.median(pair[1] for pair in pairs),
                    }
                rows[clip.stem] = row
            table[lines] = {"clips": rows, "ratios": ratios(rows), "repeats": repeats}
            print(lines, json.dumps(table[lines]["ratios"]), flush=True)
        return table
    finally:
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()
        subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", checkout], check=True)


def ratios(rows: dict) -> dict:
    """How much more another side takes, summed over clips."""
    total = {
        what: {side: sum(row[side][what] for row in rows.values()) for side in SIDES}
        for what in ("core_ms", "clock_ms")
    }
    pairs = [("plain", "ours"), ("plain", "followed"), ("released", "ours"), ("released", "followed")]
    return {
        f"{slow}_over_{fast}_{what[:-3]}": round(total[what][slow] / total[what][fast], 3)
        for what in total
        for slow, fast in pairs
    }


def draw(table: dict, path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for side in SIDES:
        sums = [sum(row[side]["core_ms"] for row in entry["clips"].values()) for entry in table.values()]
        means = [value / len(entry["clips"]) for value, entry in zip(sums, table.values(), strict=True)]
        axes[0].plot(list(table), means, marker="o", label=side)
    axes[0].set(xlabel="lines", ylabel="processor ms a clip, 32 frames", xscale="log", yscale="log")
    for name in (
        "plain_over_ours_core",
        "plain_over_followed_core",
        "released_over_ours_core",
        "released_over_followed_core",
    ):
        axes[1].plot(list(table), [entry["ratios"][name] for entry in table.values()], marker="o", label=name[:-5])
    axes[1].set(xlabel="lines", ylabel="ratio of processor time", xscale="log")
    for axis in axes:
        axis.set_xticks(list(table), [str(lines) for lines in table])
        axis.minorticks_off()
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of clips with sound")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--lines", type=int, nargs="+", default=LINES, help="those of others stay in the results")
    parser.add_argument("--rescaled", type=Path, help="keep the rescaled clips in this folder, and use those in it")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "picture_sizes.json")
    args = parser.parse_args()
    sources = sorted(path for path in args.folder.iterdir() if path.suffix.lower() in {".mp4", ".mov", ".mkv", ".webm"})
    if not sources:
        raise SystemExit(f"no clips (mp4, mov, mkv, webm) in {args.folder}")
    with tempfile.TemporaryDirectory() as name:
        folder, clips = Path(name), {}
        for lines in args.lines:
            clips[lines] = [(args.rescaled or folder) / f"{source.stem}_{lines}.mp4" for source in sources]
            for source, clip in zip(sources, clips[lines], strict=True):
                if not clip.exists():
                    rescale(source, clip, lines)
        started = time.time()
        table = measure(clips, args.repeats, folder)
    load = os.getloadavg()[0]
    if set(args.lines) != set(LINES) and args.output.exists():
        known = json.loads(args.output.read_text())["lines"]
        table = dict(sorted(({int(lines): entry for lines, entry in known.items()} | table).items()))
    result = {"frames": 32, "repeats": args.repeats, "cores": os.cpu_count(), "load_average": load, "lines": table}
    result["seconds"] = round(time.time() - started)
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    draw(table, args.output.with_suffix(".png"))
    print(f"written: {args.output} and {args.output.with_suffix('.png').name}")


if __name__ == "__main__":
    main()
