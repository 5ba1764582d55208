"""The quickstart's own pieces: the adapter, its training, the fresh process, the scores and the page."""

import copy
from pathlib import Path

import pytest
import torch

from hf_emotion import starter
from hf_emotion.data import demo
from hf_emotion.training import quickstart

pytest.importorskip("skimage", reason="the demo corpus needs scikit-image: pip install 'hf_emotion[demo]'")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    model, processor = starter.load("cpu")
    folder = tmp_path_factory.mktemp("corpus")
    rows = quickstart.prepare(folder, 0, num_clips=2, size=64, fps=4, num_workers=0, progress=False)
    return model, processor, rows, [quickstart.encode(processor, [row]) for row in rows]


def test_the_question_and_its_answers_are_the_starters_own(small):
    _, processor, rows, samples = small
    for row, sample in zip(rows, samples, strict=True):
        assert row["answer"] in starter.sentences.LABELS
        learnt = processor.tokenizer.decode(sample["labels"][0][sample["labels"][0] != -100], skip_special_tokens=True)
        assert learnt.strip() == row["answer"]
    assert set(demo.EMOTIONS) | {demo.NEUTRAL} <= set(starter.sentences.LABELS)


def test_an_adapter_is_trained_saved_and_asked_in_a_process_without_the_package(small, tmp_path, monkeypatch):
    starter_model, processor, rows, samples = small
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quickstart, "LEARNING_RATE", 1e-2)
    model = copy.deepcopy(starter_model)
    model.save_pretrained("base")
    processor.save_pretrained("base")
    model = quickstart.with_adapter(model, 0)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    # One clip, again and again, until it is named.
    wanted = rows[1]["answer"]
    losses = quickstart.train(model, processor, samples[1:] * 8, tmp_path / "training", seed=0, epochs=20)
    assert losses[-1]["loss"] < 0.5
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert any("language_model" in name and "lora_" in name for name in changed)
    assert all("lora_" in name or "modules_to_save" in name for name in changed)
    assert not any("tower" in name for name in changed)
    assert quickstart.answers(model, processor, samples[1:]) == [wanted]
    model.save_pretrained("adapter")
    assert quickstart.ask_afresh(Path("base"), Path("adapter"), rows[1:]) == [wanted]


def test_folders_that_do_not_load_are_reported_with_the_reason(tmp_path):
    (tmp_path / "adapter").mkdir()
    with pytest.raises(RuntimeError, match="does not load by itself"):
        quickstart.ask_afresh(tmp_path / "base", tmp_path / "adapter", [])


def test_the_score_counts_clips_whose_emotion_alone_is_named():
    rows = [
        {"cue": "face", "labels": ["happy"]},
        {"cue": "face", "labels": ["sad"]},
        {"cue": "prosody", "labels": ["happy"]},
    ]
    found = quickstart.score(rows, ["sad", "sad", "calm"], ["happy", "happy", "happy and sad"], "happy")
    assert found["face"]["clips"] == 2
    assert [found["face"][name] for name in ("before", "after", "model", "constant")] == [0.5] * 4
    assert found["prosody"]["after"] == 0.0
    assert found["all"]["constant"] == pytest.approx(2 / 3)


def test_the_verdict_is_honest():
    numbers = {"clips": 10, "before": 0.3, "after": 0.2, "constant": 0.4}
    assert "did not help" in quickstart.verdict_on(numbers)
    assert "one constant answer is at least as good" in quickstart.verdict_on({**numbers, "after": 0.4})
    assert "5 more of 10 clips" in quickstart.verdict_on({**numbers, "after": 0.8})


def test_the_page_shows_right_and_wrong_answers_and_the_clips_of_the_user(small, tmp_path):
    _, processor, rows, _ = small
    numbers = {"clips": 2, "before": 0.0, "after": 0.5, "constant": 0.5}
    report = {
        "train_clips": 7,
        "constant": "happy",
        "scores": {"all": numbers},
        "verdict": quickstart.verdict_on(numbers),
        "fresh_process": {"asked": 2, "same": 1},
        "described": [{"clip": "mine.mp4", "description": "A <smile>."}, {"clip": "b.mp4", "error": "b.mp4: no file"}],
    }
    after = [rows[0]["answer"], "<nothing>"]
    quickstart.write_report(tmp_path / "report.html", processor, rows, ["afraid", "bored"], after, report)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert (page.count(": correct</h2>"), page.count(": wrong</h2>")) == (1, 1)
    assert "mine.mp4: A &lt;smile&gt;." in page
    assert "&lt;nothing&gt;" in page
    assert "do not judge anybody by it" in page
    assert "to\n1 of 2 clips" in page
