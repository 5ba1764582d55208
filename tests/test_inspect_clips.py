"""Looking before training: the page and the summary say what the processor used, and need nothing from outside."""

import json
import re

import pytest
from test_cli import write_clip

from hf_emotion.cli import main
from hf_emotion.papers import build
from hf_emotion.training.inspect_clips import look, write_page

SPOKEN = [(0.1, 0.9, "<b>well</b>, yes"), (1.0, 1.7)]


@pytest.fixture(scope="module")
def processor():
    return build("microemo")[1]


def test_the_view_agrees_with_the_batch_that_the_model_would_get(processor, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4")
    view = look(processor, str(clip), SPOKEN, "Why?", num_frames=4)
    batch = processor(videos=[str(clip)], utterances=[SPOKEN], text=["Why?"], num_frames=4, return_tensors="pt")
    assert view.tokens["prompt"] == batch["input_ids"].shape[1]
    assert view.tokens["video"] == int((batch["input_ids"] == processor.video_token_id).sum())
    assert view.tokens["audio"] == int((batch["input_ids"] == processor.audio_token_id).sum())
    assert f"<video: {view.tokens['video']} tokens>" in view.prompt
    assert "Why?" in view.prompt
    assert len(view.pictures) == 4
    assert json.loads(json.dumps(view.summary()))["modalities"] == ["video", "audio"]


def test_the_page_is_one_file_in_which_texts_are_texts(processor, tmp_path):
    silent = write_clip(tmp_path / "silent.mp4", sound=False)
    views = [look(processor, str(write_clip(tmp_path / "a.mp4")), SPOKEN, num_frames=2), look(processor, str(silent))]
    write_page(views, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<h1>") == 2
    assert "&lt;b&gt;well&lt;/b&gt;, yes" in page
    assert "<b>" not in page
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page)


def test_a_real_face_is_drawn_and_named_in_the_page(processor, shared_data, tmp_path):
    view = look(processor, str(shared_data / "face_clips" / "single_face.mp4"), num_frames=2)
    assert [frame["face"] for frame in view.inputs.report["frames"]] == [True, True]
    assert view.pictures[0].shape != view.clip.frames[0].shape  # with the legend of the regions
    write_page([view], tmp_path / "page.html")
    assert "face used" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_command_inspects_clips_and_tables(tmp_path, capsys):
    clip = write_clip(tmp_path / "clip.mp4")
    page = tmp_path / "page.html"
    assert main(["inspect", str(clip), "--num-frames", "2", "--output", str(page)]) == 0
    assert page.is_file()
    assert "tokens" in capsys.readouterr().out
    rows = [
        {"id": "a", "video": "clip.mp4", "label": "sad", "question": "?", "answer": "!"},
        {"id": "b", "video": "nothing.mp4", "label": "sad"},
    ]
    table = tmp_path / "rows.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["inspect", str(table)]) == 0
    out = capsys.readouterr().out
    assert "2 rows" in out
    assert "labels: sad 2" in out
    assert "1 rows cannot be used:\n  b: " in out
    assert main(["inspect", str(table), "--output", str(page)]) == 2
