"""Look before you train: what a processor sees in a clip, without any model, and what a folder of rows holds.

    view = look(processor, "clip.mp4", utterances="clip.srt")
    write_page([view], "page.html")

The page needs no other file and no network.
"""

import html
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.files import write_whole
from ..processing.faces import draw_regions
from ..processing.media import Clip
from ..processing.processing_emotion import ClipInputs, EmotionProcessor
from ..processing.voice_activity import voice_spans
from .check_rows import find_problems

WIDTH = 600  # of a timeline, in the units of its drawing
BARS = 300


@dataclass
class View:
    """What a processor sees in a clip.

    Args:
        clip: decoded, with the frames that were chosen.
        inputs: the processor's measurements of it.
        voice: stretches with a voice, (start, end) in s.
        prompt: the text that the language model reads, media as one mark each.
        tokens: number of tokens: `"prompt"` in all, and of each medium.
        pictures: each frame, (H, W, 3) uint8, with the facial regions drawn in where a face was found.
    """

    clip: Clip
    inputs: ClipInputs
    voice: list[tuple[float, float]]
    prompt: str
    tokens: dict[str, int]
    pictures: list[np.ndarray]

    def summary(self) -> dict[str, Any]:
        """The report of the processor with voice activity, prompt and token counts; plain JSON values."""
        voice = [{"start": round(start, 3), "end": round(end, 3)} for start, end in self.voice]
        return {**self.inputs.report, "voice": voice, "prompt": self.prompt, "tokens": self.tokens}


def look(
    processor: EmotionProcessor, source: Any, utterances: Any = None, question: str | None = None, **options
) -> View:
    """What a processor makes of a clip.

    Args:
        source, utterances: see `EmotionProcessor.load`.
        question: `None` takes the processor's default question.
        options: of `EmotionProcessor.load`.

    Raises:
        MediaError, UtteranceError, FaceError: the clip cannot be used.
    """
    clip = processor.load(source, utterances, **options)
    # Faces are drawn even for a model that does not look at them.
    track = processor.find_face(clip)
    inputs = processor.measure(clip, **({"landmarks": track} if processor.looks_at_faces and track is not None else {}))
    ids = processor.write(question, inputs.utterances, inputs.placeholders)
    prompt, tokens = processor.tokenizer.decode(ids), {"prompt": len(ids)}
    for name, texts in inputs.placeholders.items():
        tokens[name] = 0
        for text in texts:
            token = getattr(processor, f"{name}_token")
            tokens[name] += text.count(token)
            prompt = prompt.replace(text, f"<{name}: {text.count(token)} tokens>", 1)
    frames = [] if clip.frames is None else list(clip.frames)
    drawn = [
        draw_regions(frame, track, place, processor.face_finder) if track is not None and track.found[place] else frame
        for place, frame in enumerate(frames)
    ]
    voice = [] if clip.waveform is None else voice_spans(clip.waveform, clip.sampling_rate)
    return View(clip, inputs, voice, prompt, tokens, drawn)


def write_page(views: Sequence[View], path: str | Path) -> None:
    """A page with a section for each clip."""
    body = "\n".join(section(view) for view in views)
    page = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>hf_emotion: what the processor sees</title>
<style>{STYLE}</style>
{body}
</html>
"""
    write_whole(Path(path), page)


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 1rem auto; padding: 0 1rem; color: #222 }
.frames { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: .6rem }
figure { margin: 0 } figure img { width: 100% } figcaption { color: #666; font-size: .85rem }
svg { width: 100%; background: #fafafa } svg .wave { fill: #56718a } svg .voice { fill: #2b7a9b; opacity: .6 }
svg .utterance { fill: #e69f00 } svg line { stroke: #c33 } svg text { font-size: 11px }
h1, li, td { overflow-wrap: anywhere }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f2f6fa; padding: .6rem }
.legend { color: #666; font-size: .9rem }
"""


def section(view: View) -> str:
    """The part of the page about one clip."""
    clip, report = view.clip, view.inputs.report
    track = view.inputs.track
    captions = []
    for frame in report["frames"]:
        face = {True: ", face used", False: ", no face"}.get(frame.get("face"), "")
        several = frame.get("num_faces", 0)
        captions.append(f"{frame['time']:.2f} s{face}" + (f", {several} faces seen" if several > 1 else ""))
    figures = "".join(
        f'<figure><img src="{data_url(picture)}" alt="frame at {html.escape(text)}"><figcaption>{html.escape(text)}'
        f"</figcaption></figure>"
        for picture, text in zip(view.pictures, captions, strict=True)
    )
    utterances = "".join(
        f"<li>{u['start']:.2f} to {u['end']:.2f} s{': ' + html.escape(u['text']) if u['text'] else ''}</li>"
        for u in report["utterances"]
    )
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in report["notes"])
    tokens = ", ".join(f"{count} {name}" for name, count in view.tokens.items())
    backend = "" if track is None else f" Faces by {html.escape(str(report['face_backend']))}."
    return f"""<h1>{html.escape(clip.source)}</h1>
<p>{report["duration"]:.2f} s. Used: {", ".join(report["modalities"])}.{backend}</p>
<h2>Frames</h2><div class="frames">{figures or "No picture."}</div>
<h2>Sound</h2>{timeline(view)}
<p class="legend">Grey: level of the sound. Red: frames. Blue: voice activity. Orange: utterances.</p>
<ol>{utterances or "<li>No utterances.</li>"}</ol>
<h2>Prompt</h2><p>Tokens: {tokens}.</p><pre>{html.escape(view.prompt)}</pre>
{f"<h2>Notes</h2><ul>{notes}</ul>" if notes else ""}"""


def timeline(view: View) -> str:
    """Sound, frames, voice activity and utterances from left to right, as SVG."""
    clip = view.clip
    seconds = max(clip.duration / 1000, 0.001)

    def x(time: float) -> float:
        return WIDTH * min(max(time / seconds, 0.0), 1.0)

    def bar(kind: str, start: float, end: float, y: int) -> str:
        return f'<rect class="{kind}" x="{x(start):.1f}" y="{y}" width="{max(x(end) - x(start), 1):.1f}" height="12"/>'

    parts = []
    if clip.waveform is not None and len(clip.waveform):
        levels = [float(np.abs(part).max()) if len(part) else 0.0 for part in np.array_split(clip.waveform, BARS)]
        top = max(*levels, 1e-6)
        for place, level in enumerate(levels):
            height = 76 * level / top
            parts.append(
                f'<rect class="wave" x="{2 * place}" y="{40 - height / 2:.1f}" width="1.5" height="{height:.1f}"/>'
            )
    for frame in view.inputs.report["frames"]:
        parts.append(f'<line x1="{x(frame["time"]):.1f}" x2="{x(frame["time"]):.1f}" y1="0" y2="80"/>')
    parts += [bar("voice", start, end, 84) for start, end in view.voice]
    for place, utterance in enumerate(view.inputs.report["utterances"], 1):
        parts.append(bar("utterance", utterance["start"], utterance["end"], 100))
        parts.append(f'<text x="{x(utterance["start"]) + 2:.1f}" y="110">{place}</text>')
    return f'<svg viewBox="0 0 {WIDTH} 116" role="img" aria-label="timeline">{"".join(parts)}</svg>'


def data_url(picture: np.ndarray) -> str:
    """(H, W, 3) uint8 as a JPEG in a data URL, at most 480 pixels wide."""
    image = Image.fromarray(picture)
    image.thumbnail((480, 480))
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{b64encode(buffer.getvalue()).decode()}"


def summarise(rows: Sequence[Mapping], processor: EmotionProcessor, allow_urls: bool = False) -> dict[str, Any]:
    """What a set of rows holds: bad rows with their reasons, and counts of media, labels, questions and utterances."""
    problems = find_problems(rows, processor, allow_urls=allow_urls)
    labels = Counter(label for row in rows for label in row.get("labels") or [row.get("label")] if label)
    return {
        "rows": len(rows),
        "bad_rows": {str(rows[place].get("id")): problem for place, problem in enumerate(problems) if problem},
        "video": sum(bool(row.get("video")) for row in rows),
        "audio": sum(bool(row.get("audio")) for row in rows),
        "with_utterances": sum(bool(row.get("utterances")) for row in rows),
        "with_question_and_answer": sum(bool(row.get("question") and row.get("answer")) for row in rows),
        "with_description": sum(bool(row.get("description")) for row in rows),
        "labels": dict(labels.most_common()),
    }


__all__ = ["View", "look", "summarise", "write_page"]
