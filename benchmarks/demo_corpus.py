"""Proofs about the demo corpus (`hf_emotion.data.demo`), measured on the mp4 files it writes.

1. Regions: where the picture of a face clip differs from its control, against the region masks that `FaceFinder` lays
   on the control: share of the change inside the regions said to be moved, beside the share of the frame they cover.
2. Probes: logistic regression on four small sets of measurements (landmarks, voice, words, lips against sound) for
   clips of every cue and for their controls, cross-validated; only the set that sees the cue may beat chance, and none
   may on the controls. The probe is asked for the label planted in the pair, which a control does not show.
3. Faces found, and the offset between lips and sound measured from the files against `offset_ms`.
4. Time and hashes: the corpus made twice.

    python benchmarks/demo_corpus.py --clips 800 --timed-clips 500

A part that is skipped (`--clips 0`, `--timed-clips 0`) keeps its last figures in benchmarks/results/demo_corpus.json.
"""

import argparse
import hashlib
import json
import resource
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from hf_emotion.data import demo
from hf_emotion.processing.faces import FaceFinder

RESULTS = Path(__file__).parent / "results"
SETS = {"landmarks": "face", "voice": "prosody", "words": "words", "lips against sound": "agreement"}


def decode(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T, H, W, 3) uint8 and sound (S,) float32 of one file, as a player would give them."""
    with av.open(path) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    with av.open(path) as container:
        blocks = [(frame.time, frame.to_ndarray()[0]) for frame in container.decode(audio=0)]
    sound = np.concatenate([block for _, block in blocks])
    early = round(-blocks[0][0] * demo.SAMPLING_RATE)
    return frames, sound[early:] if early > 0 else np.pad(sound, (-early, 0))


def extremes(track: np.ndarray, span: int) -> np.ndarray:
    """(2 * J,) for a track (T, J): its highest and its lowest mean over `span` frames against the median of the clip.
    The times of the utterances have no part in it: they come from the sound."""
    known = track[np.isfinite(track).all(1)]
    means = np.lib.stride_tricks.sliding_window_view(known, span, axis=0).mean(-1) - np.median(known, axis=0)
    return np.concatenate([means.max(0), means.min(0)])


def face_distances(landmarks: np.ndarray) -> np.ndarray:
    """(T, 478, 2) -> (T, 9), lengths within the face in distances between the outer eye corners."""

    def point(*indices):
        return landmarks[:, list(indices)].mean(1)

    right = point(263) - point(33)
    unit = np.linalg.norm(right, axis=1, keepdims=True)
    right = right / unit
    down = np.stack([-right[:, 1], right[:, 0]], -1)

    def below(a, b):
        return ((a - b) * down).sum(1) / unit[:, 0]

    eyes = point(33, 133, 263, 362)
    return np.stack(
        [
            below(eyes, point(107, 66, 55, 65, 336, 296, 285, 295)),
            below(eyes, point(63, 105, 53, 293, 334, 283)),
            np.linalg.norm(point(107, 55) - point(336, 285), axis=1) / unit[:, 0],
            below(point(145, 374), point(159, 386)),
            below(point(1, 4), eyes),
            below(point(64, 48, 294, 278), eyes),
            below(point(61, 291), point(0, 17)),
            np.linalg.norm(point(61) - point(291), axis=1) / unit[:, 0],
            below(point(0), point(1)),
        ],
        axis=1,
    )


def voice_track(sound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(T, 5) pitch in semitones, level in dB, brightness, voicing, whether there is sound; and times (T,) in s."""
    size, step, rate = 640, 160, demo.SAMPLING_RATE
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(sound, (size // 2, size // 2)), size)[::step]
    times = np.arange(len(windows)) * step / rate
    level = 20 * np.log10(windows.std(1) + 1e-5)
    spectrum = np.abs(np.fft.rfft(windows * np.hanning(size), 2 * size)) ** 2
    frequency = np.fft.rfftfreq(2 * size, 1 / rate)
    brightness = np.log2((spectrum * frequency).sum(1) / (spectrum.sum(1) + 1e-12) + 1)
    shape = np.fft.irfft(spectrum)[:, :size]
    lags = slice(rate // 500, rate // 65)
    best = shape[:, lags].argmax(1) + lags.start
    voicing = shape[np.arange(len(shape)), best] / (shape[:, 0] + 1e-9)
    pitch = 12 * np.log2(rate / best)
    loud = level > level.max() - 35
    quiet = np.where(loud, 0, np.nan)
    return np.stack([pitch + quiet, level + quiet, brightness + quiet, voicing + quiet, loud], 1), times


def voice_numbers(sound: np.ndarray, utterances: list[dict]) -> np.ndarray:
    track, times = voice_track(sound)
    rows = []
    for u in utterances:
        inside = (times >= u["start"]) & (times < u["end"])
        part, at = track[inside], times[inside] - u["start"]
        heard = np.isfinite(part[:, 0])
        slope, spread = 0.0, 0.0
        if heard.sum() > 4:
            slope = np.polyfit(at[heard], part[heard, 0], 1)[0]
            spread = np.std(part[heard, 0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            rows.append([*np.nan_to_num(np.nanmean(part, axis=0)), slope, spread])
    rows = np.array(rows) - np.median(rows, axis=0)
    return np.concatenate([rows.max(0), rows.min(0)])


def lag(lips: np.ndarray, sound: np.ndarray, fps: float) -> tuple[float, float]:
    """Milliseconds by which the sound is later than the lips where the two agree best, and that correlation."""
    fine = 100
    times = np.arange(0, len(lips) / fps - 1 / fps, 1 / fine)
    opening = np.interp(times, np.arange(len(lips)) / fps, lips)
    size = int(0.08 * demo.SAMPLING_RATE)
    level = np.sqrt(np.convolve(sound**2, np.ones(size) / size, mode="same"))
    level = np.log(np.interp(times, np.arange(len(sound)) / demo.SAMPLING_RATE, level) + 3e-3)
    best = (-2.0, 0)
    for shift in range(-60, 61):
        a, b = (opening[: len(opening) - shift], level[shift:]) if shift >= 0 else (opening[-shift:], level[:shift])
        if a.std() > 0:
            best = max(best, (float(np.corrcoef(a, b)[0, 1]), shift))
    return 1000 * best[1] / fine, best[0]


def measure(rows: list[dict], finder: FaceFinder) -> dict:
    """The measurements of every clip, and how many frames had a face."""
    numbers = defaultdict(list)
    frames_seen = faces_seen = 0
    for row in tqdm(rows, desc="measure"):
        frames, sound = decode(row["video"])
        # Every other frame is enough for a movement; only the offset needs them all.
        stride = 1 if row["cue"] == "agreement" else 2
        frames, fps = frames[::stride], 12.5 / stride
        track = finder(frames)
        frames_seen += len(frames)
        faces_seen += int(track.found.sum())
        distances = face_distances(track.landmarks)
        times = np.arange(len(frames)) / fps
        numbers["landmarks"].append(extremes(distances, span=round(0.5 * fps)))
        numbers["voice"].append(voice_numbers(sound, row["utterances"]))
        lips = np.linalg.norm(track.landmarks[:, 13] - track.landmarks[:, 14], axis=1)
        known = np.isfinite(lips)
        lips = np.interp(times, times[known], lips[known])
        offset, strength = lag(lips, sound, fps)
        numbers["lips against sound"].append([abs(offset), strength])
        numbers["offset"].append(offset)
    return {"frames": frames_seen, "faces": faces_seen} | {name: np.array(v) for name, v in numbers.items()}


def probe(features: np.ndarray, labels: list[str]) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, C=0.3))
    folds = min(5, min(Counter(labels).values()))
    splits = StratifiedKFold(folds, shuffle=True, random_state=0)
    return float(cross_val_score(model, features, labels, cv=splits).mean())


def probes(rows: list[dict], measured: dict) -> dict:
    from sklearn.feature_extraction.text import CountVectorizer

    words = CountVectorizer().fit_transform([row["subtitle"] for row in rows]).toarray().astype(np.float64)
    table = {}
    for cue in demo.CUES:
        for control in (False, True):
            chosen = [n for n, row in enumerate(rows) if row["cue"] == cue and row["control"] == control]
            labels = [rows[n]["planted"] for n in chosen]
            chance = 1 / len(set(labels))
            entry = {
                "clips": len(chosen),
                "chance": chance,
                "chance_upper_95": chance + 1.645 * (chance * (1 - chance) / len(chosen)) ** 0.5,
            }
            for name in SETS:
                entry[name] = probe((words if name == "words" else measured[name])[chosen], labels)
            table[f"{cue}{' control' if control else ''}"] = entry
    return table


def regions(rows: list[dict], finder: FaceFinder, per_emotion: int, grid: int) -> tuple[dict, dict]:
    """Per emotion: shares of change and of area, moved regions together and each region alone; and one picture each."""
    by_id = {row["id"]: row for row in rows}
    table, pictures = {}, {}
    for emotion in demo.EMOTIONS:
        pairs = [row for row in rows if row["cue"] == "face" and not row["control"] and row["planted"] == emotion]
        inside, area, other = [], [], []
        alone = defaultdict(list)
        for row in pairs[:per_emotion]:
            moved, _ = decode(row["video"])
            still, _ = decode(by_id[row["twin"]]["video"])
            utterance = row["utterances"][row["emotional_utterance"]]
            middle = (utterance["start"] + utterance["end"]) / 2
            t = min(round(middle * 12.5), len(moved) - 1)
            track = finder(still[t : t + 1])
            if not track.found[0]:
                continue
            change = ((moved[t].astype(float) - still[t]) ** 2).sum(-1)
            # Differences below 12 grey levels are the encoder's.
            change[change < 3 * 12**2] = 0
            side = change.shape[0] // grid
            energy = change.reshape(grid, side, grid, side).sum((1, 3)).ravel()
            masks = finder.region_masks(track, (grid, grid))[0]
            names = list(finder.region_names)
            chosen = masks[[names.index(name) for name in row["moved_regions"]]].any(0)
            inside.append(energy[chosen].sum() / energy.sum())
            area.append(chosen.mean())
            face = masks.any(0)
            other.append(energy[face & ~chosen].sum() / energy.sum() / max((face & ~chosen).mean(), 1e-9))
            for n, name in enumerate(names):
                alone[name].append(energy[masks[n]].sum() / energy.sum() / max(masks[n].mean(), 1e-9))
            pictures.setdefault(emotion, (still[t], moved[t], change, chosen.reshape(grid, grid)))
        table[emotion] = {
            "clips": len(inside),
            "regions": pairs[0]["moved_regions"],
            "share_of_change_inside": float(np.mean(inside)),
            "worst_clip": float(np.min(inside)),
            "share_of_frame_covered": float(np.mean(area)),
            "density_inside": float(np.mean(np.array(inside) / np.array(area))),
            "density_in_the_other_regions": float(np.mean(other)),
            "density_by_region": {name: float(np.mean(values)) for name, values in alone.items()},
        }
    return table, pictures


def timing(clips: int, workers: int) -> dict:
    def once(folder, **options):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        demo.make_demo(folder, clips, num_workers=workers, **options)
        seconds = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        files = sorted(Path(folder).rglob("*.mp4"))
        hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        return seconds, cpu, hashes, sum(path.stat().st_size for path in files)

    with tempfile.TemporaryDirectory() as folder:
        first, cpu, hashes, size = once(Path(folder) / "a")
        again = time.perf_counter()
        demo.make_demo(Path(folder) / "a", clips, num_workers=workers, progress=False)
        again = time.perf_counter() - again
        second, cpu_second, same, _ = once(Path(folder) / "b")
    return {
        "clips": clips,
        "workers": workers,
        "seconds": [round(first, 1), round(second, 1)],
        "cpu_seconds": [round(cpu, 1), round(cpu_second, 1)],
        "seconds_when_all_is_there": round(again, 2),
        "megabytes": round(size / 1e6, 1),
        "equal_hashes": sum(hashes[name] == same.get(name) for name in hashes),
        "distinct_hashes": len(set(hashes.values())),
    }


def draw(result: dict, pictures: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(pictures) + 1, 4, figsize=(9, 2.4 * len(pictures) + 3))
    for line, (emotion, (still, moved, change, chosen)) in zip(axes, pictures.items(), strict=False):
        numbers = result["regions"][emotion]
        side = change.shape[0] / chosen.shape[0]
        for axis, picture, title in zip(
            line,
            (still, moved, np.sqrt(change), np.sqrt(change)),
            (
                "control",
                emotion,
                "change",
                f"{numbers['share_of_change_inside']:.0%} in {numbers['share_of_frame_covered']:.0%}",
            ),
            strict=True,
        ):
            axis.imshow(picture)
            axis.set_title(title, fontsize=9)
            axis.axis("off")
        for y, x in zip(*np.nonzero(chosen), strict=True):
            line[3].add_patch(
                plt.Rectangle((x * side - 0.5, y * side - 0.5), side, side, fill=False, color="white", lw=0.5)
            )
    for axis in axes[-1]:
        axis.remove()
    axis = figure.add_subplot(len(pictures) + 1, 1, len(pictures) + 1)
    names = list(result["probes"])
    values = np.array([[result["probes"][name][kind] for kind in SETS] for name in names])
    axis.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axis.set_xticks(range(len(SETS)), SETS)
    axis.set_yticks(range(len(names)), [f"{n} (chance {result['probes'][n]['chance']:.2f})" for n in names])
    for (y, x), value in np.ndenumerate(values):
        axis.text(x, y, f"{value:.2f}", ha="center", va="center", color="white" if value < 0.6 else "black")
    axis.set_title("accuracy of a probe for the planted label", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=70)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--clips", type=int, default=800, help="clips for regions and probes, half of them controls; 0 skips them"
    )
    parser.add_argument("--timed-clips", type=int, default=500, help="clips made twice for time and hashes; 0 skips it")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--grid", type=int, default=20, help="patches a side for the region masks; divides 160")
    parser.add_argument("--corpus", help="folder to keep the probed clips in (default: a temporary one)")
    args = parser.parse_args()

    path = RESULTS / "demo_corpus.json"
    result = json.loads(path.read_text()) if path.is_file() else {}
    RESULTS.mkdir(exist_ok=True)
    if args.timed_clips:
        result["time"] = timing(args.timed_clips, args.workers)
        print(json.dumps(result["time"]))
        path.write_text(json.dumps(result, indent=1) + "\n")
    if not args.clips:
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.corpus or temporary
        rows = demo.make_demo(folder, args.clips, num_workers=args.workers)
        finder = FaceFinder()
        result["regions"], pictures = regions(rows, finder, per_emotion=20, grid=args.grid)
        measured = measure(rows, finder)
    result["faces_found"] = measured["faces"] / measured["frames"]
    result["frames"] = measured["frames"]
    speaking = [n for n, row in enumerate(rows) if row["cue"] == "agreement" and not row["control"]]
    error = np.abs(measured["offset"][speaking] - [rows[n]["offset_ms"] for n in speaking])
    result["offset_error_ms"] = {"median": float(np.median(error)), "within_80": float((error <= 80).mean())}
    result["probes"] = probes(rows, measured)

    print(f"faces found in {result['faces_found']:.2%} of {result['frames']} frames")
    print(f"offset measured from the files: {result['offset_error_ms']}")
    for emotion, numbers in result["regions"].items():
        print(
            f"{emotion:10s} {numbers['share_of_change_inside']:.1%} of the change in "
            f"{numbers['share_of_frame_covered']:.1%} of the frame ({', '.join(numbers['regions'])}); density "
            f"{numbers['density_inside']:.1f}, other regions {numbers['density_in_the_other_regions']:.2f}"
        )
    print(f"{'':20s}" + "".join(f"{name:>20s}" for name in SETS) + f"{'chance':>10s}{'clips':>7s}")
    for name, entry in result["probes"].items():
        cells = "".join(f"{entry[kind]:20.2f}" for kind in SETS)
        print(f"{name:20s}{cells}{entry['chance']:10.2f}{entry['clips']:7d}")
    path.write_text(json.dumps(result, indent=1) + "\n")
    draw(result, pictures, RESULTS / "demo_corpus.png")


if __name__ == "__main__":
    main()
