"""The face models in the package, run by one or more releases of MediaPipe, against the models that 0.10.21 bundles.

Run it where mediapipe 0.10.21 is installed; each further environment needs mediapipe, numpy, pillow and
huggingface_hub:

    python benchmarks/face_models.py --clips FOLDER --python /path/to/other/environment/bin/python

Figures per clip and release: frames in which both find a face, or both none; frames with as many faces; overlap of the
region masks (intersection over union of all regions' patches, over all frames); the largest distance of a landmark, in
pixels; milliseconds a frame.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
GRIDS = (16, 32)  # EVA ViT-g at 224 pixels, and at 448
PICTURES = (".jpg", ".jpeg", ".png")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=Path, help="folder with videos and pictures")
    parser.add_argument("--python", nargs="*", default=[], help="interpreters with other releases of mediapipe")
    parser.add_argument("--frames", type=int, default=16, help="frames per video (default: 16)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "face_models.json")
    parser.add_argument("--find", nargs=3, metavar=("BACKEND", "FRAMES", "RESULT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.find:
        return find(*arguments.find)
    if arguments.clips is None:
        parser.error("--clips is needed")
    with tempfile.TemporaryDirectory() as folder:
        clips = read_clips(arguments.clips, arguments.frames)
        np.savez(Path(folder) / "frames.npz", **clips)
        runs = [run(sys.executable, "solutions", folder)]
        runs += [run(python, "tasks", folder) for python in (sys.executable, *arguments.python)]
    report = {
        "clips": {name: list(frames.shape[:3]) for name, frames in clips.items()},
        "reference": {"mediapipe": runs[0]["mediapipe"], "models": "bundled"},
        "releases": [compare(runs[0], other, clips) for other in runs[1:]],
    }
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    for release in report["releases"]:
        print(release["mediapipe"], release["all"])


def read_clips(folder, num_frames):
    """{file name: (T, H, W, 3) uint8}, frames evenly spaced."""
    import av
    from PIL import Image

    clips = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in PICTURES:
            clips[path.name] = np.asarray(Image.open(path).convert("RGB"))[None]
        else:
            with av.open(path) as container:
                frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            clips[path.name] = np.stack(
                [frames[t] for t in np.linspace(0, len(frames) - 1, num_frames).round().astype(int)]
            )
    return clips


def run(python, backend, folder):
    """The finder's answers in another interpreter."""
    result = Path(folder) / "result.npz"
    subprocess.run([python, __file__, "--find", backend, f"{folder}/frames.npz", str(result)], check=True)
    with np.load(result) as stored:
        return {name: stored[name].tolist() if stored[name].ndim == 0 else stored[name] for name in stored}


def find(backend, frames, result):
    # faces.py stands by itself, as in a model's folder.
    spec = importlib.util.spec_from_file_location("faces", ROOT / "src" / "hf_emotion" / "processing" / "faces.py")
    faces = sys.modules["faces"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(faces)
    import mediapipe

    finder = faces.FaceFinder(backend, threads=1)
    finder(np.zeros((1, 64, 64, 3), np.uint8))  # opens the models
    found = {"mediapipe": mediapipe.__version__, "python": sys.version.split()[0], "numpy": np.__version__}
    with np.load(frames) as clips:
        for name in clips:
            clip = clips[name]
            start = time.perf_counter()
            track = finder(clip)
            found[f"{name}/ms"] = 1e3 * (time.perf_counter() - start) / len(clip)
            found[f"{name}/found"], found[f"{name}/faces"] = track.found, track.num_faces
            found[f"{name}/landmarks"] = track.landmarks
            for grid in GRIDS:
                found[f"{name}/masks{grid}"] = finder.region_masks(track, grid)
    np.savez(result, **found)


def compare(bundled, other, clips):
    rows, sums = {}, dict.fromkeys((f"{kind}{grid}" for kind in ("both", "either") for grid in GRIDS), 0)
    for name, frames in clips.items():
        scale = frames.shape[2], frames.shape[1]
        away = np.abs(other[f"{name}/landmarks"] - bundled[f"{name}/landmarks"]) * scale
        row = {
            "frames": len(frames),
            "same_found": int((other[f"{name}/found"] == bundled[f"{name}/found"]).sum()),
            "same_number_of_faces": int((other[f"{name}/faces"] == bundled[f"{name}/faces"]).sum()),
            "largest_distance_in_pixels": round(float(np.nanmax(away)), 3) if np.isfinite(away).any() else None,
        }
        for grid in GRIDS:
            a, b = bundled[f"{name}/masks{grid}"], other[f"{name}/masks{grid}"]
            both, either = int((a & b).sum()), int((a | b).sum())
            row[f"overlap_{grid}x{grid}"] = round(both / either, 4) if either else None
            sums[f"both{grid}"] += both
            sums[f"either{grid}"] += either
        row["ms_per_frame"] = {"bundled": round(bundled[f"{name}/ms"], 1), "package": round(other[f"{name}/ms"], 1)}
        rows[name] = row
    total = {key: sum(row[key] for row in rows.values()) for key in ("frames", "same_found", "same_number_of_faces")}
    total |= {f"overlap_{grid}x{grid}": round(sums[f"both{grid}"] / sums[f"either{grid}"], 4) for grid in GRIDS}
    return {key: other[key] for key in ("mediapipe", "python", "numpy")} | {"all": total, "clips": rows}


if __name__ == "__main__":
    main()
