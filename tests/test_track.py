"""Emotion over time: windows, tracks, and the files they are written to."""

import csv
import json

import pytest
from test_cli import write_clip

from hf_emotion.answers.pipeline_emotion import EmotionRecognitionPipeline
from hf_emotion.answers.track import TrackError, textgrid, track_of, windows, write_track
from hf_emotion.papers import build
from hf_emotion.processing.utterances import read

SPOKEN = [
    {"start": 0.2, "end": 1.4, "text": 'well, "yes"', "speaker": "ann"},
    {"start": 1.6, "end": 2.2, "text": "no", "speaker": "bob"},
]


def result(*segments, duration=3.0):
    utterances = [
        {"start": start, "end": end, "text": text, "speaker": speaker, "labels": labels}
        for start, end, text, speaker, labels in segments
    ]
    return {"clip": "c.mp4", "duration": duration, "utterances": utterances}


def label(word, score):
    return {"label": word, "score": score}


EXAMPLE = result(
    (1.6, 2.2, "no", "bob", [label("sad", 0.4), label("angry", 0.6)]),
    (0.2, 1.4, 'well, "yes"', "ann", [label("happy", 0.9)]),
    (1.2, 1.5, None, "ann", []),
)


def test_windows_cover_the_clip_and_carry_what_is_said_in_them():
    found = windows(2.5, 1.0, SPOKEN)
    assert [(one["start"], one["end"]) for one in found] == [(0.0, 1.0), (1.0, 2.0), (2.0, 2.5)]
    assert [one["text"] for one in found] == ['well, "yes"', 'well, "yes" no', "no"]
    assert [one["speaker"] for one in found] == ["ann", None, "bob"]
    assert len(windows(0.3, 0.1)) == 3  # and no fourth one by rounding
    assert windows(0.0, 1.0) == []


@pytest.mark.parametrize("every", [0, -1, float("nan"), float("inf"), "1", None])
def test_a_window_needs_a_length(every):
    with pytest.raises(TrackError, match="a length in seconds above 0"):
        windows(3.0, every)


def test_too_many_windows_are_refused_before_they_are_made():
    with pytest.raises(TrackError, match=r"3,600,000 windows of 0\.001 s"):
        windows(3600.0, 0.001)


def test_a_track_is_ordered_and_names_the_best_label():
    segments = track_of(EXAMPLE)
    assert [(one["start"], one["label"], one["score"]) for one in segments] == [
        (0.2, "happy", 0.9),
        (1.2, None, None),
        (1.6, "angry", 0.6),
    ]


def test_a_result_without_answers_about_utterances_has_no_track():
    with pytest.raises(TrackError, match=r"c\.mp4 has no utterance with an answer"):
        track_of({"clip": "c.mp4", "utterances": [{"start": 0, "end": 1, "text": "x"}]})


def test_a_textgrid_covers_the_clip_without_overlaps_and_is_read_back(tmp_path):
    path = write_track(EXAMPLE, tmp_path / "c.TextGrid")
    text = path.read_text(encoding="utf-8")
    assert 'name = "emotion ann"' in text
    assert 'name = "said bob"' in text
    assert 'text = "well, ""yes"""' in text
    spans = [(float(line.split("= ")[1])) for line in text.splitlines() if line.startswith("            xm")]
    starts, ends = spans[::2], spans[1::2]
    assert all(start < end for start, end in zip(starts, ends, strict=True))
    assert (starts[0], ends[-1]) == (0.0, 3.0)
    found = [(round(one["start"], 3), round(one["end"], 3), one["text"]) for one in read(path) if one["text"]]
    assert (0.2, 1.2, "happy") in found  # it ends where ann's next segment begins
    assert (1.6, 2.2, "angry") in found


def test_json_and_csv_hold_every_label(tmp_path):
    content = json.loads(write_track(EXAMPLE, tmp_path / "c.json").read_text(encoding="utf-8"))
    assert content["duration"] == 3.0
    assert content["segments"] == track_of(EXAMPLE)
    with write_track(EXAMPLE, tmp_path / "c.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == ["happy", "", "angry"]
    assert rows[2]["labels"] == "sad 0.4000; angry 0.6000"
    assert rows[0]["text"] == 'well, "yes"'


def test_a_plot_is_a_picture_and_other_suffixes_are_refused(tmp_path):
    pytest.importorskip("matplotlib")
    assert write_track(EXAMPLE, tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(TrackError, match=r"suffix '\.xml'"):
        write_track(EXAMPLE, tmp_path / "c.xml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.png"]


def test_text_of_a_label_cannot_break_out_of_a_textgrid():
    segments = [{"start": 0.0, "end": 1.0, "label": 'a"\n    item [9]:', "text": None, "speaker": None}]
    assert 'text = "a"" item [9]:"' in textgrid(segments, 1.0)


def test_the_pipeline_answers_about_windows_as_about_utterances(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4")
    model, processor = build("acoustemo")
    pipe = EmotionRecognitionPipeline(model=model, processor=processor, device=-1)
    by_window = pipe(str(clip), every=1.0, max_new_tokens=4)
    segments = track_of(by_window)
    spans = windows(by_window["duration"], 1.0)
    assert [(one["start"], one["end"]) for one in segments] == [(one["start"], one["end"]) for one in spans]
    given = pipe(str(clip), utterances=spans, max_new_tokens=4)
    assert given["utterances"] == by_window["utterances"]
