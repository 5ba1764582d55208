"""Emotion over time: the answers about the utterances of a clip, or about windows of equal length, as a track.

    result = pipe("clip.mp4", every=1.0)        # or per utterance: pipe("clip.mp4", utterances="clip.srt")
    write_track(result, "clip.TextGrid")        # Praat and ELAN; also .json, .csv, and .png or .svg as a plot

A segment of a track is `start`, `end` (s), `label` (the best one, None where the answer names none), `score`, `labels`
(all of them), `text` and `speaker`.
"""

import csv
import importlib
import io
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

SUFFIXES = (".json", ".csv", ".TextGrid", ".png", ".svg", ".pdf")
# More windows than this are a mistake: each one is a question to the model.
MAX_WINDOWS = 10_000


class TrackError(ValueError):
    """A track that cannot be made or written."""


def windows(duration: float, every: float, utterances: Iterable[Mapping] = ()) -> list[dict]:
    """Windows of `every` seconds over a clip, as utterances; the last one ends with the clip.

    Args:
        duration: of the clip, s; a still picture (0 s) has no windows.
        every: length of a window, s.
        utterances: of the clip; what is said in a window becomes its text, so that the question can quote it. A window
            has a speaker where all that is said in it is said by one.

    Raises:
        TrackError: a length that is not positive, or more than `MAX_WINDOWS` windows.
    """
    if not (isinstance(every, (int, float)) and math.isfinite(every) and every > 0):
        raise TrackError(f"every is {every!r}; a length in seconds above 0 is accepted")
    number = math.ceil(round(duration / every, 6))
    if number > MAX_WINDOWS:
        raise TrackError(f"{number:,} windows of {every:g} s in {duration:.1f} s; {MAX_WINDOWS:,} are accepted")
    spoken, cut = list(utterances), []
    for i in range(number):
        start, end = i * every, min((i + 1) * every, duration)
        inside = [u for u in spoken if u["start"] < end and u["end"] > start]
        speakers = {u.get("speaker") for u in inside}
        cut.append(
            {
                "start": round(start, 6),
                "end": round(end, 6),
                "text": " ".join(u["text"] for u in inside if u.get("text")) or None,
                "speaker": speakers.pop() if len(speakers) == 1 else None,
            }
        )
    return cut


def track_of(result: Mapping) -> list[dict]:
    """The segments of a result of the pipeline (or of `describe`), in the order of time.

    Raises:
        TrackError: the result has no utterance with an answer.
    """
    segments = []
    for utterance in result.get("utterances") or ():
        if "labels" not in utterance:
            continue
        labels = [dict(label) for label in utterance["labels"]]
        best = max(labels, key=lambda label: label["score"], default={"label": None, "score": None})
        segments.append(
            {
                "start": float(utterance["start"]),
                "end": float(utterance["end"]),
                "label": best["label"],
                "score": best["score"],
                "labels": labels,
                "text": utterance.get("text"),
                "speaker": utterance.get("speaker"),
            }
        )
    if not segments:
        raise TrackError(
            f"{result.get('clip', 'the clip')} has no utterance with an answer; give utterances or every, and leave "
            "per_utterance on"
        )
    return sorted(segments, key=lambda segment: (segment["start"], segment["end"]))


def write_track(result: Mapping, path: str | Path) -> Path:
    """Write the track of a result; the suffix of `path` says how (`SUFFIXES`). Returns the path.

    Raises:
        TrackError: an unknown suffix, nothing to write, or a plot without matplotlib.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise TrackError(f"{path} has the suffix {path.suffix!r}; accepted are {', '.join(SUFFIXES)}")
    segments = track_of(result)
    duration = max(float(result.get("duration") or 0.0), max(segment["end"] for segment in segments))
    if path.suffix in (".png", ".svg", ".pdf"):
        content = _plot(segments, duration, str(result.get("clip", "")), path.suffix[1:])
    else:
        content = {".json": _json, ".csv": _csv, ".TextGrid": textgrid}[path.suffix](segments, duration).encode("utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _json(segments: list[dict], duration: float) -> str:
    return json.dumps({"duration": duration, "segments": segments}, ensure_ascii=False, indent=1) + "\n"


def _csv(segments: list[dict], duration: float) -> str:
    """One row a segment; ELAN imports it (start and end in seconds)."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["start", "end", "label", "score", "speaker", "text", "labels"])
    for segment in segments:
        score = "" if segment["score"] is None else f"{segment['score']:.4f}"
        listed = "; ".join(f"{label['label']} {label['score']:.4f}" for label in segment["labels"])
        row = [f"{segment['start']:.3f}", f"{segment['end']:.3f}", segment["label"] or "", score]
        writer.writerow([*row, segment["speaker"] or "", segment["text"] or "", listed])
    return file.getvalue()


def textgrid(segments: list[dict], duration: float) -> str:
    """A track in Praat's long text format: a tier `emotion` for each speaker, and below it what is said.

    Intervals of a tier cannot overlap, so a segment ends where the next one of its speaker begins.
    """
    tiers = []
    for speaker in dict.fromkeys(segment["speaker"] for segment in segments):
        of_speaker = [segment for segment in segments if segment["speaker"] == speaker]
        name = f" {speaker}" if speaker else ""
        tiers.append((f"emotion{name}", _intervals(of_speaker, "label", duration)))
        if any(segment["text"] for segment in of_speaker):
            tiers.append((f"said{name}", _intervals(of_speaker, "text", duration)))
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {duration:.6f}"]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, intervals) in enumerate(tiers, 1):
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f"        name = {_quoted(name)}"]
        lines += ["        xmin = 0", f"        xmax = {duration:.6f}", f"        intervals: size = {len(intervals)}"]
        for place, (start, end, text) in enumerate(intervals, 1):
            lines += [
                f"        intervals [{place}]:",
                f"            xmin = {start:.6f}",
                f"            xmax = {end:.6f}",
            ]
            lines.append(f"            text = {_quoted(text)}")
    return "\n".join(lines) + "\n"


def _intervals(segments: list[dict], key: str, duration: float) -> list[tuple[float, float, str]]:
    """Segments without overlaps, with empty intervals between them: a tier covers the whole clip."""
    intervals, time = [], 0.0
    for i, segment in enumerate(segments):
        following = segments[i + 1]["start"] if i + 1 < len(segments) else duration
        start, end = max(segment["start"], time), min(segment["end"], max(following, segment["start"]), duration)
        if end <= start:
            continue
        if start > time:
            intervals.append((time, start, ""))
        intervals.append((start, end, segment[key] or ""))
        time = end
    if time < duration:
        intervals.append((time, duration, ""))
    return intervals


def _quoted(text: str) -> str:
    """A Praat string: quotes are doubled, and it stays on one line."""
    return '"' + " ".join(str(text).split()).replace('"', '""') + '"'


def _plot(segments: list[dict], duration: float, title: str, form: str) -> bytes:
    """A line for each label that is ever the best; a bar is as dark as the label's score is high."""
    try:
        # Here and not at the top: its import is slow, and only plots need it.
        pictures = importlib.import_module("matplotlib.figure")
    except ImportError:
        raise TrackError("a plot needs matplotlib; install it, or write .json, .csv or .TextGrid") from None
    names = list(dict.fromkeys(segment["label"] for segment in segments if segment["label"])) or ["(no emotion named)"]
    figure = pictures.Figure(figsize=(10, 1.2 + 0.35 * len(names)), layout="constrained")
    axes = figure.subplots()
    for segment in segments:
        for label in segment["labels"]:
            if label["label"] in names:
                best = label["label"] == segment["label"]
                axes.broken_barh(
                    [(segment["start"], segment["end"] - segment["start"])],
                    (names.index(label["label"]) - 0.4, 0.8),
                    facecolors="tab:blue" if best else "tab:gray",
                    alpha=min(1.0, 0.15 + 0.85 * label["score"]),
                    edgecolors="white",
                )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, duration)
    axes.set_xlabel("s")
    axes.set_title(title[-80:], fontsize=9)
    file = io.BytesIO()
    figure.savefig(file, format=form, dpi=120)
    return file.getvalue()


__all__ = ["TrackError", "textgrid", "track_of", "windows", "write_track"]
