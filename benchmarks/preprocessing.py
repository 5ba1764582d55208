"""Time and memory from a file to a tower's inputs, beside the straightforward way, in one process.

    python benchmarks/preprocessing.py FOLDER_OF_CLIPS [--long]

Both sides make the same things of every clip: 32 frames at 224 x 224, normalised; the face's region masks on a 16 x 16
patch grid; the sound at 16 kHz mono. Both use the same face finder on 32 whole frames.

* `ours`: `load_clip` (one pass, only what the chosen frames depend on is decoded), one batch through
  `EmotionImageProcessor`, sound resampled as it is decoded.
* `plain`: decode every frame to RGB with PyAV, keep 32; PIL resize and numpy normalisation frame by frame; all sound
  decoded to one array, then librosa.

Every repetition runs both sides on every clip in turn, so that a noisy machine disturbs both alike; the ratio is taken
within each repetition, over the time summed over clips, and its median is reported; beside it the same ratio of the
time that the cores spent on this process, which other programs disturb less. `--long` makes a 20-minute clip in a
temporary folder and reports the peak memory of a fresh process that reads it; the plain way, at 2.8 MB a frame, would
hold 83 GB.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import librosa
import matplotlib
import numpy as np
import torch
from PIL import Image

from hf_emotion.processing.faces import FaceFinder
from hf_emotion.processing.image_processing_emotion import EmotionImageProcessor
from hf_emotion.processing.media import load_clip

matplotlib.use("Agg")
from matplotlib import pyplot as plt

FRAMES, SIDE, GRID, RATE = 32, 224, (16, 16), 16000
STAGES = ("decode", "pixels", "faces", "masks")


class Watch:
    """Seconds by stage: of the clock, and of all cores together."""

    def __init__(self):
        self.clock, self.cores = {}, {}
        self.mark = time.perf_counter(), time.process_time()

    def lap(self, stage):
        now = time.perf_counter(), time.process_time()
        self.clock[stage], self.cores[stage] = now[0] - self.mark[0], now[1] - self.mark[1]
        self.mark = now


def ours(path, finder, processor):
    watch = Watch()
    clip = load_clip(path, num_frames=FRAMES)
    watch.lap("decode")
    pixels = processor.frames_to_pixels(clip.frames)
    watch.lap("pixels")
    track = finder(clip.frames)
    watch.lap("faces")
    masks = finder.region_masks(track, GRID)
    watch.lap("masks")
    return watch, (pixels, masks, clip.waveform)


def plain(path, finder, processor):
    watch = Watch()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    frames = np.stack(
        [decoded[i] for i in np.linspace(0, len(decoded) - 1, min(FRAMES, len(decoded))).round().astype(int)]
    )
    del decoded
    waveform = None
    with av.open(str(path)) as container:
        if container.streams.audio:
            stream = container.streams.audio[0]
            samples = np.concatenate([frame.to_ndarray() for frame in container.decode(stream)], axis=1)
            waveform = librosa.resample(librosa.to_mono(samples), orig_sr=stream.rate, target_sr=RATE)
    watch.lap("decode")
    mean, std = np.array(processor.image_mean, np.float32), np.array(processor.image_std, np.float32)
    pixels = []
    for frame in frames:
        small = np.asarray(Image.fromarray(frame).resize((SIDE, SIDE), Image.BICUBIC), dtype=np.float32)
        pixels.append(((small / 255 - mean) / std).transpose(2, 0, 1))
    pixels = torch.from_numpy(np.stack(pixels))
    watch.lap("pixels")
    track = finder(frames)
    watch.lap("faces")
    masks = finder.region_masks(track, GRID)
    watch.lap("masks")
    return watch, (pixels, masks, waveform)


def compare(folder, repeats):
    clips = sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in {".mp4", ".mov", ".mkv", ".webm", ".avi"}
    )
    if not clips:
        raise SystemExit(f"no clips (mp4, mov, mkv, webm, avi) in {folder}")
    finder, processor = FaceFinder(), EmotionImageProcessor(size={"height": SIDE, "width": SIDE})
    runs = {side: {clip.name: [] for clip in clips} for side in ("ours", "plain")}
    made = {}
    for repeat in range(repeats + 1):  # the first warms up and is not counted
        for place, clip in enumerate(clips):
            sides = [("ours", ours), ("plain", plain)]
            for side, run in sides if (place + repeat) % 2 else sides[::-1]:
                watch, (pixels, masks, waveform) = run(clip, finder, processor)
                if repeat:
                    runs[side][clip.name].append(watch)
                else:
                    made[side] = (pixels.shape, masks.shape, waveform is None)
            if not repeat and made["ours"] != made["plain"]:
                raise SystemExit(f"the two sides made different things of {clip.name}: {made}")
        print(f"repetition {repeat} of {repeats}", file=sys.stderr)

    def total(side, repeat, stages, what):
        return sum(getattr(runs[side][clip.name][repeat], what)[stage] for clip in clips for stage in stages)

    def ratio(stages, what="clock"):
        """Median, least and most over the repetitions of plain / ours, summed over clips."""
        values = [total("plain", i, stages, what) / total("ours", i, stages, what) for i in range(repeats)]
        return {"median": statistics.median(values), "min": min(values), "max": max(values)}

    def medians(watches, what):
        return {stage: 1000 * statistics.median(getattr(watch, what)[stage] for watch in watches) for stage in STAGES}

    def table(what):
        return {side: {name: medians(watches, what) for name, watches in runs[side].items()} for side in runs}

    own = [stage for stage in STAGES if stage not in ("faces", "masks")]
    return {
        "clips": [clip.name for clip in clips],
        "milliseconds": table("clock"),
        "core_milliseconds": table("cores"),
        "speedup": ratio(STAGES),
        "speedup_without_faces": ratio(own),
        "speedup_in_core_time": ratio(STAGES, "cores"),
        "speedup_in_core_time_without_faces": ratio(own, "cores"),
        "speedup_by_stage": {stage: ratio([stage]) for stage in own},
    }


def write_long_clip(path, minutes, width=1280, height=720, piece=20):
    """A clip of `minutes`: `piece` seconds are encoded, their packets repeated."""
    rng = np.random.default_rng(0)
    ground = np.kron(
        rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8), np.ones((16, 16, 1), np.uint8)
    )
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "26", "g": "250"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        audio = container.add_stream("aac", rate=44100, layout="stereo")
        packets = []
        for index in range(piece * 25):
            frame = np.roll(ground, (index * 3, index * 5), axis=(0, 1))
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, 25)
            packets += video.encode(picture)
        packets += video.encode()
        for at in range(0, piece * 44100, 1024):
            noise = rng.standard_normal((2, min(1024, piece * 44100 - at))).astype(np.float32) * 0.1
            frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = 44100, at, Fraction(1, 44100)
            packets += audio.encode(frame)
        packets += audio.encode()
        rows = [(bytes(p), p.stream, p.pts, p.dts, p.duration, p.time_base, p.is_keyframe) for p in packets]
        rows.sort(key=lambda row: float(row[3] * row[5]))
        # Whole packets of sound only, or their times would overlap from one piece to the next.
        sound_length = max(row[2] + row[4] for row in rows if row[1] is audio) - min(
            row[2] for row in rows if row[1] is audio
        )
        for turn in range(minutes * 60 // piece):
            for data, stream, pts, dts, duration, time_base, key in rows:
                shift = turn * (sound_length if stream is audio else round(piece / time_base))
                packet = av.Packet(data)
                packet.stream, packet.time_base, packet.duration = stream, time_base, duration
                packet.pts, packet.dts, packet.is_keyframe = pts + shift, dts + shift, key
                container.mux(packet)


# VmHWM is the peak of this process alone; ru_maxrss would start from its parent's.
CHILD = """
import json, re, sys, time
from hf_emotion.processing.media import load_clip
def peak_mb():
    return int(re.search("VmHWM:\\\\s*([0-9]+)", open("/proc/self/status").read())[1]) / 1024
before, start = peak_mb(), time.perf_counter()
clip = load_clip(sys.argv[1], num_frames=int(sys.argv[2]))
print(json.dumps({
    "seconds": time.perf_counter() - start,
    "peak_rss_mb": peak_mb(),
    "rss_after_import_mb": before,
    "frames": list(clip.frames.shape),
    "duration_s": clip.duration / 1000,
    "sound_s": len(clip.waveform) / clip.sampling_rate,
    "notes": clip.notes,
}))
"""


def read_long_clip(minutes):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.mp4"
        write_long_clip(path, minutes)
        result = {"file_mb": path.stat().st_size / 2**20, "minutes": minutes}
        answer = subprocess.run(
            [sys.executable, "-c", CHILD, str(path), str(FRAMES)], check=True, capture_output=True, text=True
        )
        return {**result, **json.loads(answer.stdout)}


def draw(result, path):
    clips = result["clips"]
    colours = dict(zip(STAGES, ("#4477aa", "#228833", "#ccbb44", "#ee6677"), strict=True))
    figure, axes = plt.subplots(figsize=(9, 0.9 * len(clips) + 1.6), layout="constrained")
    for row, clip in enumerate(clips):
        for offset, side in ((-0.2, "ours"), (0.2, "plain")):
            left = 0.0
            for stage in STAGES:
                width = result["milliseconds"][side][clip][stage]
                label = stage if row == 0 and side == "ours" else None
                axes.barh(row + offset, width, 0.36, left=left, color=colours[stage], label=label)
                left += width
            axes.text(left, row + offset, f" {side} {left:.0f} ms", va="center", fontsize=8)
    axes.set_yticks(range(len(clips)), clips)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel(f"ms a clip, {FRAMES} frames (medians)")
    axes.set_title(f"Preprocessing: {result['speedup']['median']:.2f}x over the plain way")
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of clips, searched with its subfolders")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="torch threads; default: torch's own")
    parser.add_argument("--long", action="store_true", help="also read a 20-minute clip in a process of its own")
    parser.add_argument("--minutes", type=int, default=20, help="length of the long clip")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "preprocessing.json")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    result = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "av": av.__version__,
            "python": platform.python_version(),
        },
        "frames": FRAMES,
        "repeats": args.repeats,
        **compare(args.folder, args.repeats),
    }
    print(f"{'clip':28}{'side':>7}" + "".join(f"{stage:>10}" for stage in STAGES) + f"{'sum':>10}   (ms)")
    for clip in result["clips"]:
        for side in ("ours", "plain"):
            laps = result["milliseconds"][side][clip]
            print(
                f"{clip[:27]:28}{side:>7}"
                + "".join(f"{laps[stage]:10.1f}" for stage in STAGES)
                + f"{sum(laps.values()):10.1f}"
            )
    for name, values in result.items():
        if not name.startswith("speedup") or name == "speedup_by_stage":
            continue
        print(f"{name}: {values['median']:.2f} (from {values['min']:.2f} to {values['max']:.2f})")
    for stage, values in result["speedup_by_stage"].items():
        print(f"  {stage}: {values['median']:.2f}")
    if args.long:
        result["long"] = read_long_clip(args.minutes)
        print("long clip:", json.dumps(result["long"]))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    part = args.output.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(part, args.output)
    picture = args.output.with_suffix(".png")
    part = picture.with_suffix(".part.png")
    draw(result, part)
    os.replace(part, picture)
    print(f"written: {args.output} and {picture.name}")


if __name__ == "__main__":
    main()
