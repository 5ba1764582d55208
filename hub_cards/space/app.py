"""A page for one model: a clip in; labels, the description while it is written, and a timeline out.

Runs as a Space, on a CPU, a GPU or ZeroGPU, and on any machine: `pip install gradio -r requirements.txt`, then
`python app.py`. With a model in the folder `model` beside this file it needs no network.
"""

import html
import json
import os
from pathlib import Path

try:  # on ZeroGPU; it must come before torch
    import spaces
except ImportError:
    spaces = None

import gradio as gr
import torch
from transformers import pipeline
from transformers.utils import cached_file

HERE = Path(__file__).parent
MODEL = os.environ.get("MODEL", "MODEL_ID")
TITLE = "TITLE"
ABOUT = "ABOUT"  # what is known of the model when this file is written
MAX_SECONDS = 120
GPU_SECONDS = 60  # that a visitor of ZeroGPU borrows for one clip
FOLDER = str(HERE / MODEL) if (HERE / MODEL).is_dir() else MODEL

pipe = pipeline(
    "emotion-recognition", model=FOLDER, trust_remote_code=True, device=0 if torch.cuda.is_available() else -1
)


def about() -> str:
    """What a visitor has to know of the model before believing it."""
    if ABOUT:
        return ABOUT
    # What `hf-emotion train` leaves beside the weights.
    file = cached_file(FOLDER, "TRAINING_REPORT", _raise_exceptions_for_missing_entries=False)
    if file is None:
        count = sum(parameter.numel() for parameter in pipe.model.parameters())
        return (
            f"**This model, of {count / 1e6:,.1f} million parameters, has no record of training. Its weights may be "
            "random, and then its words mean nothing.**"
        )
    data = json.loads(Path(file).read_text(encoding="utf-8")).get("data")
    return f"Trained on {html.escape(data if isinstance(data, str) else json.dumps(data))}." if data else ""


STYLE = """
.timeline { overflow-x: auto } .timeline svg { width: 100%; min-width: 34rem; font: 13px system-ui, sans-serif }
.timeline text { fill: var(--body-text-color) } .timeline .small { font-size: 11px; opacity: .75 }
.timeline .track { fill: var(--background-fill-secondary) }
.timeline .face { fill: #2b7a9b } .timeline .noface { fill: #b8860b }
.timeline .spoken { fill: #e69f00; opacity: .35 }
"""


def timeline(result: dict) -> str:
    """The clip from left to right: the frames that were used, and each utterance with its labels."""
    seconds = max(result["duration"], 0.1)
    left, width, row = 90, 800, 38

    def x(time: float) -> float:
        return left + width * min(time / seconds, 1.0)

    parts = [f'<text x="0" y="22">frames</text><rect class="track" x="{left}" y="6" width="{width}" height="24"/>']
    for frame in result["frames"]:
        kind = "noface" if frame.get("face") is False else "face"
        title = {True: "a face", False: "no face"}.get(frame.get("face"), "frame")
        parts.append(
            f'<rect class="{kind}" x="{x(frame["time"]) - 2:.1f}" y="6" width="4" height="24">'
            f"<title>{frame['time']:.2f} s: {title}</title></rect>"
        )
    if not result["frames"]:
        parts.append(f'<text x="{left + 8}" y="22">no picture</text>')
    for i, spoken in enumerate(result["utterances"]):
        top = 6 + row * (i + 1)
        words = ", ".join(label["label"] for label in spoken.get("labels", ())) or "no emotion word"
        said = f"{spoken['start']:.1f} - {spoken['end']:.1f} s {spoken['text'] or ''}"
        # Text that would run over the end of the track is aligned to that end; a letter is about 7 wide.
        fits = x(spoken["start"]) + 7 * max(len(words), len(said)) < left + width
        at, anchor = (x(spoken["start"]) + 4, "start") if fits else (left + width - 4, "end")
        parts.append(
            f'<text x="0" y="{top + 16}">utterance {i + 1}</text>'
            f'<rect class="track" x="{left}" y="{top}" width="{width}" height="30"/>'
            f'<rect class="spoken" x="{x(spoken["start"]):.1f}" y="{top}" height="30" '
            f'width="{max(x(spoken["end"]) - x(spoken["start"]), 2):.1f}"/>'
            f'<text x="{at:.1f}" y="{top + 13}" text-anchor="{anchor}">{html.escape(words)}</text>'
            f'<text class="small" x="{at:.1f}" y="{top + 26}" text-anchor="{anchor}">'
            f"{html.escape(said)}</text>"
        )
    bottom = 6 + row * (len(result["utterances"]) + 1)
    for i in range(5):
        time = seconds * i / 4
        anchor = ("start", "middle", "middle", "middle", "end")[i]
        parts.append(
            f'<text class="small" x="{x(time):.1f}" y="{bottom + 14}" text-anchor="{anchor}">{time:.1f} s</text>'
        )
    return (
        f'<div class="timeline"><svg viewBox="0 0 {left + width + 4} {bottom + 20}" role="img" '
        f'aria-label="timeline of the clip">{"".join(parts)}</svg></div>'
    )


def on_gpu(function):
    """On ZeroGPU the function borrows a GPU for each call; elsewhere it stays as it is."""
    return function if spaces is None else spaces.GPU(duration=GPU_SECONDS)(function)


def keep_result(writing, results: list):
    """The pieces of a stream; its return value is appended to `results`."""
    results.append((yield from writing))


@on_gpu
def describe(video, subtitles, question, candidates, frames, length):
    """Show the text while it is written, then the labels, the timeline and the parts of the clip that were used."""
    if not video:
        raise gr.Error("Choose a clip first.")
    options = {"num_frames": int(frames), "max_new_tokens": int(length), "max_duration": MAX_SECONDS}
    if subtitles:
        options["utterances"] = subtitles
    if question.strip():
        options["question"] = question
    labels = [label.strip() for label in candidates.split(",") if label.strip()]
    if labels:
        options["candidate_labels"] = labels
    text, results = "", []
    try:
        for piece in keep_result(pipe.stream(video, **options), results):
            text += piece
            yield text, None, "", ""
    except (ValueError, OSError) as error:
        raise gr.Error(str(error)) from error
    [result] = results
    scores = {label["label"]: label["score"] for label in result["labels"]} or None
    used = [
        f"Used: {', '.join(result['modalities'])}. {len(result['frames'])} frames of {result['duration']:.1f} s.",
        *result["notes"],
    ]
    if scores is None:
        used.append("The description names no emotion word.")
    yield result["description"], scores, timeline(result), "\n".join(f"- {html.escape(line)}" for line in used)


with gr.Blocks(title=TITLE) as page:
    source = "in this Space" if FOLDER != MODEL else f"[{MODEL}](https://huggingface.co/{MODEL})"
    gr.Markdown(
        f"# {TITLE}\n{about()}\n\nModel: {source}. Clips of up to {MAX_SECONDS} seconds. "
        "Upload only clips of people who agreed to it.",
        elem_id="about",
    )
    with gr.Row():
        with gr.Column():
            clip = gr.Video(label="Clip", sources=["upload"], elem_id="clip")
            spoken = gr.File(
                label="Subtitles (optional)",
                file_types=[".srt", ".vtt", ".json", ".TextGrid"],
                height=150,
                elem_id="subtitles",
            )
            asked = gr.Textbox(
                label="Question", placeholder=getattr(pipe.processor, "default_question", ""), elem_id="question"
            )
            closed = gr.Textbox(
                label="Choose among these labels only", placeholder="happy, sad, neutral", elem_id="candidates"
            )
            with gr.Accordion("More", open=False):
                count = gr.Slider(1, 32, value=pipe.processor.num_frames, step=1, label="Frames to look at")
                limit = gr.Slider(16, 512, value=128, step=16, label="Length limit of the answer, tokens")
            run = gr.Button("Describe", variant="primary", elem_id="run")
        with gr.Column():
            labels = gr.Label(
                label="Labels, and how sure the model was of each word", num_top_classes=6, elem_id="labels"
            )
            description = gr.Textbox(label="Description", lines=4, elem_id="description")
            notes = gr.Markdown(elem_id="notes")
    examples = sorted((HERE / "examples").glob("*.mp4"))
    if examples:
        gr.Examples(
            [[str(file), str(file.with_suffix(".vtt"))] for file in examples],
            [clip, spoken],
            label="Examples, made by hf_emotion: one photograph, warped, and a synthetic voice",
            cache_examples=False,
        )
    chart = gr.HTML(label="Timeline", elem_id="timeline")
    gr.Markdown(
        "An expression is not a feeling. The model guesses from appearance, voice and words, and it makes things up. "
        "Do not use it to judge anybody. The European Union's AI Act prohibits such systems at work and in education."
    )
    run.click(describe, [clip, spoken, asked, closed, count, limit], [description, labels, chart, notes])

if __name__ == "__main__":
    page.launch(css=STYLE)
