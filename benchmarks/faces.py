"""Faces: detection rates on clips and on small faces, and the time a frame takes, beside a bare FaceMesh in one run.

The bare way: one FaceMesh graph, called frame after frame on the whole picture, one filled polygon a region (PIL).

    python benchmarks/faces.py --clips FOLDER_WITH_VIDEOS_AND_PICTURES
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

from hf_emotion.processing import faces


def read(path, num_frames):
    """Video or picture -> (T, H, W, 3) uint8, evenly spaced."""
    if path.suffix in (".jpg", ".jpeg", ".png"):
        return np.asarray(Image.open(path).convert("RGB"))[None]
    with av.open(path) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack([frames[t] for t in np.linspace(0, len(frames) - 1, num_frames).round().astype(int)])


def bare_masks(landmarks, grid):
    """(478, 2) -> (R, P): each hull filled on a canvas of 14 pixels a patch, then averaged over the patches."""
    rows, columns = grid
    masks = []
    for indices in faces.REGIONS.values():
        points = landmarks[indices].astype(float) * (columns * 14, rows * 14)
        canvas = Image.new("L", (columns * 14, rows * 14))
        ImageDraw.Draw(canvas).polygon([tuple(p) for p in faces._hulls(points[None])[0]], fill=1)
        masks.append(np.asarray(canvas).reshape(rows, 14, columns, 14).mean((1, 3)).reshape(-1) >= 0.1)
    return np.stack(masks)


def timed(work, repeats):
    """Result of `work()`, its median milliseconds by the clock, and of processor time over all threads."""
    clock, processor = [], []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        result = work()
        clock.append(1e3 * (time.perf_counter() - start[0]))
        processor.append(1e3 * (time.process_time() - start[1]))
    return result, statistics.median(clock), statistics.median(processor)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=Path, required=True, help="folder with videos and pictures")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "faces.json")
    arguments = parser.parse_args()
    from skimage.data import astronaut

    grid = (16, 16)
    finder = faces.FaceFinder("solutions")
    one_thread = faces.FaceFinder("solutions", threads=1)
    portrait = astronaut()
    landmarks = finder(portrait[None]).landmarks[0] * 512
    one_thread(portrait[None])
    with finder._borrowed("solutions", 1) as [model]:
        mesh = model.mesh
    clips, sizes = [], []
    heads = "frames", "found (bare)", "faces", "bare ms", "1 thread ms", "ms a frame", "ratio", "cpu ms (bare)"
    print(f"{'clip':28} {'  '.join(heads)}  masks ms (bare)")
    for path in sorted(arguments.clips.iterdir()):
        if path.suffix not in (".mp4", ".mov", ".jpg", ".png"):
            continue
        frames = read(path, arguments.frames)
        finder(frames)
        bare, bare_ms, bare_cpu = timed(lambda frames=frames: [mesh(frame) for frame in frames], arguments.repeats)
        _, single_ms, _ = timed(lambda frames=frames: one_thread(frames), arguments.repeats)
        track, ms, cpu = timed(lambda frames=frames: finder(frames), arguments.repeats)
        _, bare_masks_ms, _ = timed(lambda b=bare: [bare_masks(f[0], grid) for f in b if f], arguments.repeats)
        _, masks_ms, _ = timed(lambda track=track: finder.region_masks(track, grid), arguments.repeats)
        n = len(frames)
        row = {
            "clip": path.name,
            "frames": n,
            "found": int(track.found.sum()),
            "found_bare": sum(bool(b) for b in bare),
            "most_faces": int(track.num_faces.max()),
            "bare_ms_per_frame": bare_ms / n,
            "one_thread_ms_per_frame": single_ms / n,
            "ms_per_frame": ms / n,
            "ratio": bare_ms / ms,
            "bare_cpu_ms_per_frame": bare_cpu / n,
            "cpu_ms_per_frame": cpu / n,
            "masks_ms_per_frame": masks_ms / n,
            "bare_masks_ms_per_frame": bare_masks_ms / n,
        }
        clips.append(row)
        counts = f"{n:6}  {row['found']:5} ({row['found_bare']:4})  {row['most_faces']:5}"
        speeds = f"{bare_ms / n:7.2f}  {single_ms / n:11.2f}  {ms / n:10.2f}  {row['ratio']:5.2f}"
        work = f"{cpu / n:6.2f} ({bare_cpu / n:5.2f})"
        print(f"{path.name:28} {counts}  {speeds}  {work}  {masks_ms / n:8.2f} ({bare_masks_ms / n:.2f})")
    print("\nfaces of a given height pasted into 1280 x 720, 24 frames each, every frame searched")
    print("height  found  found by the bare mesh  mean landmark error / face height")
    thorough = faces.FaceFinder("solutions", search_every=1)
    rng = np.random.default_rng(0)
    for pixels in (300, 200, 120, 90, 70, 60, 50, 40, 30):
        scale = pixels / np.ptp(landmarks[:, 1])
        side = round(512 * scale)
        small = np.asarray(Image.fromarray(portrait).resize((side, side), Image.Resampling.BICUBIC))
        frames = rng.integers(90, 110, (24, 720, 1280, 3)).astype(np.uint8)
        corners = []
        for frame in frames:
            high, wide = min(side, 720), min(side, 1280)
            y, x = rng.integers(0, 720 - high + 1), rng.integers(0, 1280 - wide + 1)
            frame[y : y + high, x : x + wide] = small[:high, :wide]
            corners.append((x, y))
        track = thorough(frames)
        errors = [
            np.abs(track.landmarks[t] * (1280, 720) - landmarks * scale - corners[t]).mean() / pixels
            for t in np.flatnonzero(track.found)
        ]
        row = {
            "face_height_px": pixels,
            "found": int(track.found.sum()),
            "found_bare": sum(bool(mesh(frame)) for frame in frames),
            "frames": 24,
            "mean_error": float(np.mean(errors)) if errors else None,
        }
        sizes.append(row)
        error = f"{row['mean_error']:.4f}" if errors else "-"
        print(f"{pixels:6}  {row['found']:5}  {row['found_bare']:22}  {error}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    machine = {"load_average": os.getloadavg()[0], "cores": os.cpu_count()}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({**machine, "clips": clips, "small_faces": sizes}, indent=1) + "\n")


if __name__ == "__main__":
    main()
