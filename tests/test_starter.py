"""The model in the box: its teacher, and what it says."""

import json
import os
import wave
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_emotion.cli import main
from hf_emotion.modeling.modeling_face_motion import face_motion
from hf_emotion.processing.feature_extraction_voice import CUES as VOICE_CUES
from hf_emotion.processing.feature_extraction_voice import VoiceCueExtractor
from hf_emotion.starter import FOLDER, load
from hf_emotion.starter.faces import ACTION_UNITS, EMOTIONS, FACE, MIRROR, Movement, fields, intensities, people, render
from hf_emotion.starter.scenes import draw_picture, draw_scene, draw_voices
from hf_emotion.starter.sentences import (
    FACE_CLUES,
    GRAMMAR,
    LABELS,
    NO_FACE,
    NO_SIGN,
    NO_VOICE,
    Expression,
    Facts,
    Speech,
    describe,
    expression,
    is_whole,
    label,
)
from hf_emotion.starter.train import repetitions
from hf_emotion.starter.voices import CUES as PROSODY
from hf_emotion.starter.voices import Speaker, speak

CLIPS = Path(os.environ.get("HF_EMOTION_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")) / "face_clips"


def moved(unit, landmark):
    return fields()["units"][ACTION_UNITS.index(unit), :, landmark].sum(0)


@cache
def some_voices():
    return draw_voices(np.random.default_rng(0), 2)


# The teacher's faces


def test_action_units_move_what_facs_says_they_move():
    left_corner, inner_brow, outer_brow, upper_lid, lower_lip, upper_lip = 291, 336, 300, 386, 17, 0
    assert (moved("12", left_corner) > 0.5).all()  # out and up
    assert moved("15", left_corner)[1] < -0.2
    assert moved("1", inner_brow)[1] > 0.3 > moved("1", outer_brow)[1]
    assert moved("2", outer_brow)[1] > max(0.3, moved("2", inner_brow)[1])
    assert moved("4", inner_brow)[1] < -0.1
    assert moved("5", upper_lid)[1] > 0.1 > moved("7", upper_lid)[1]
    assert moved("10", upper_lip)[1] > 0.2
    assert moved("27", lower_lip)[1] < 1.5 * moved("26", lower_lip)[1] < -0.9
    assert moved("24", lower_lip)[1] > 0.2


def test_a_unit_of_the_left_side_is_the_mirror_image_of_that_of_the_right():
    units = fields()["units"]
    np.testing.assert_allclose(units[:, 0], units[:, 1, MIRROR] * [-1, 1], atol=2e-3)
    smile = np.linalg.norm(units[ACTION_UNITS.index("12")], axis=-1)
    assert smile[0, 291] > 2 * smile[0, 61]  # the left one moves the left corner


def test_fields_have_the_shapes_that_they_are_said_to_have():
    model, count = fields(), len(ACTION_UNITS)
    assert model["units"].shape == (count, 2, len(FACE), 2)
    assert model["gap"].shape == (count, 2)
    assert model["mean"].shape == model["closing"].shape == (len(FACE), 2)
    for name in ("identity", "rest"):
        assert model[name].shape[1:] == (len(FACE), 2)
    assert model["closing"][17, 1] > model["closing"][0, 1]  # the lower lip comes up to the upper one


def test_lips_that_are_lifted_stay_together_unless_another_unit_parts_them():
    def opening(*names):
        moved = np.zeros((200, 1, len(ACTION_UNITS), 2))
        for name in names:
            moved[:, :, ACTION_UNITS.index(name)] = 1.0
        pixels = render(np.random.default_rng(0), moved)
        motion, _ = face_motion(torch.from_numpy(pixels), torch.zeros((200, 1), dtype=torch.long), torch.tensor(FACE))
        return float((motion[:, 0, 13, 1] - motion[:, 0, 14, 1]).median())

    assert opening("10") < opening("10", "25") - 0.3
    assert opening("10") - opening() < 0.5


def test_people_differ_and_their_mean_is_the_average_face():
    shapes = people(np.random.default_rng(0), 400)
    np.testing.assert_allclose(shapes.mean(0), fields()["mean"], atol=0.1)
    assert 0.1 < shapes.std(0).mean() < 0.6


def test_every_emotion_is_spelled_in_action_units_that_exist():
    names = {unit.strip("?LR") for sets in EMOTIONS.values() for units in sets for unit in units.split()}
    assert names <= set(ACTION_UNITS)
    assert {unit for units in FACE_CLUES.values() for unit in units} <= set(ACTION_UNITS)


def test_a_movement_begins_peaks_and_ends_when_it_is_said_to():
    movement = Movement("happy", {"12": (1.0, 0.8)}, 1.0, 3.0, 0.4)
    strength = movement.strength(np.array([0.5, 1.0, 2.0, 3.0, 3.5]))
    np.testing.assert_allclose(strength, [0.0, 0.5, 1.0, 0.5, 0.0], atol=1e-9)
    sizes = intensities([movement], np.array([2.0]))[0, ACTION_UNITS.index("12")]
    np.testing.assert_allclose(sizes, [1.0, 0.8])


def test_a_rendered_smile_is_read_by_the_tower_as_a_movement_of_the_corners_of_the_mouth():
    times = np.arange(6) * 0.5
    smile = intensities([Movement("happy", {"12": (1.0, 1.0)}, 1.2, 9.0, 0.4)], times)
    pixels = render(np.random.default_rng(0), smile[None])
    motion, found = face_motion(
        torch.from_numpy(pixels), torch.from_numpy((times * 1000).astype(np.int64))[None], torch.tensor(FACE)
    )
    assert found.all()
    own = motion[0, :, [61, 291], 3].mean(1)  # up, from the own calm face
    assert own[:2].abs().max() < 0.25
    assert own[4:].min() > own[:2].max() + 0.1


# The teacher's voices


@pytest.mark.parametrize(
    ("emotion", "cue", "sign"),
    [("angry", "pitch", 1), ("angry", "tilt", 1), ("sad", "rate", -1), ("bored", "rate", -1), ("sad", "tilt", -1)],
)
def test_an_emotion_changes_a_synthetic_voice_as_the_tables_say(emotion, cue, sign):
    extractor, row = VoiceCueExtractor(), list(VOICE_CUES).index(cue)

    def mean(name):
        values = []
        for seed in range(6):
            rng = np.random.default_rng(seed)
            cues = extractor.cues(extractor.analyse(0.1 * speak(rng, Speaker.draw(rng), name, 1.0, 1.5)))
            values.append(cues[row, cues[-1] > 0].mean())
        return np.mean(values)

    assert sign * (mean(emotion) - mean("neutral")) > 0.15


def test_every_voice_has_a_neutral_utterance_to_compare_with():
    for voice in some_voices():
        assert voice.emotions.count("neutral") == 2
        assert set(voice.emotions) <= set(PROSODY)


# What is told


def test_every_scene_is_told_in_sentences_that_the_grammar_accepts():
    rng = np.random.default_rng(1)
    for _ in range(60):
        scene = draw_scene(rng, some_voices())
        for facts in (scene.facts, *scene.parts):
            assert GRAMMAR.fullmatch(describe(facts)), describe(facts)
            assert label(facts) in LABELS


def test_the_grammar_refuses_half_sentences_and_words_out_of_place():
    good = "The face shows raised lip corners. No voice is heard. This looks happy."
    assert GRAMMAR.fullmatch(good)
    for bad in (good[:-1], "The face shows. No voice is heard. This looks happy.", good.replace("happy", "raised"), ""):
        assert not GRAMMAR.fullmatch(bad)
    assert is_whole(good)
    assert not is_whole(good.replace("No voice is heard.", "The voice is high and high."))


def test_face_and_voice_are_told_apart_where_they_differ():
    smile, sad = Expression("happy", ["raised lip corners"], 0.5, 2.0), Speech("sad", ["low", "soft"])
    assert describe(Facts([smile], [sad])) == (
        "From 0.5 to 2.0 s the face shows raised lip corners. The voice is low and soft. "
        "The face looks happy and the voice sounds sad."
    )
    assert describe(Facts(None, None)) == f"{NO_FACE} {NO_VOICE} {NO_SIGN}"


def test_a_weak_expression_has_a_label_but_no_conclusion():
    frown = expression(Movement("angry", {"4": (0.4, 0.4)}, -1.0, 9.0, 0.3), 5.0)
    facts = Facts([frown], [Speech("sad", ["soft"], clear=False)])
    assert describe(facts) == f"The face shows lowered brows. The voice is soft. {NO_SIGN}"
    assert (label(facts, 0), label(facts, 1)) == ("angry", "sad")
    assert expression(Movement("angry", {"4": (0.8, 0.8)}, -1.0, 9.0, 0.3), 5.0).clear


def test_a_picture_is_a_scene_of_one_frame_without_sound():
    scene = draw_picture(np.random.default_rng(0), calm=0.0)
    assert (scene.times.tolist(), scene.cues, scene.spans, len(scene.units)) == ([0], None, [], 1)
    assert scene.facts.face[0].emotion in EMOTIONS
    assert NO_VOICE in describe(scene.facts)


def test_times_are_rounded_outward_to_half_seconds_and_left_out_where_they_fill_the_clip():
    part = expression(Movement("sad", {"15": (1.0, 1.0)}, 1.2, 2.6, 0.3), 5.0)
    assert (part.start, part.end, part.clues) == (1.0, 3.0, ["lowered lip corners"])
    assert expression(Movement("sad", {"15": (1.0, 1.0)}, -1.0, 9.0, 0.3), 5.0).start is None


# What ships

shipped = pytest.mark.skipif(not (FOLDER / "model.safetensors").is_file(), reason="the weights are not made yet")


@cache
def starter():
    from hf_emotion.inference import pipeline_of

    return pipeline_of(*load("cpu"))


@shipped
def test_the_weights_are_small_and_say_how_they_were_made():
    assert (FOLDER / "model.safetensors").stat().st_size < 10e6
    assert (FOLDER / "training.json").is_file()
    assert not list(FOLDER.glob("*.py")), "the code is the package's own"


@shipped
def test_a_voice_is_not_called_varied_and_varied():
    model, tokenizer = starter().model, starter().processor.tokenizer
    refused = model.generation_config.bad_words_ids
    assert refused == repetitions(tokenizer)
    texts = {tokenizer.decode(ids).strip() for ids in refused}
    assert {"varied and varied", "varied, varied"} <= texts
    for text in texts:
        assert not is_whole(f"No face is visible. The voice is {text}. {NO_SIGN}")


@shipped
def test_silence_and_a_picture_without_a_face_have_no_sign():
    silence = {"waveform": np.zeros(32000, np.float32), "sampling_rate": 16000}
    grey = {"frames": np.full((4, 96, 128, 3), 120, np.uint8), "fps": 2}
    for source, missing in ((silence, NO_VOICE), (grey, NO_FACE)):
        text = starter()(source)["description"]
        assert GRAMMAR.fullmatch(text), text
        assert missing in text
        assert NO_SIGN in text


@shipped
def test_temperatures_flatten_the_scores_of_labels_of_their_modality_alone(monkeypatch):
    rng = np.random.default_rng(0)
    voice = {"waveform": 0.1 * speak(rng, Speaker.draw(rng), "angry", 1.0, 1.5), "sampling_rate": 16000}

    def scores(temperatures):
        monkeypatch.setattr(starter().model.config, "label_temperatures", temperatures, raising=False)
        labels = starter()(voice, candidate_labels=["angry", "sad", "happy"], max_new_tokens=1)["labels"]
        return np.array([label["score"] for label in sorted(labels, key=lambda label: label["label"])])

    plain = scores(None)
    np.testing.assert_allclose(scores({"video": 2.0}), plain)
    np.testing.assert_allclose(scores({"audio": 2.0}), plain**0.5 / (plain**0.5).sum(), rtol=1e-4)


@shipped
def test_one_command_fine_tunes_the_starter_on_labelled_sounds(tmp_path):
    rng = np.random.default_rng(0)
    for emotion in ("angry", "sad"):
        folder = tmp_path / "clips" / "train" / emotion
        folder.mkdir(parents=True)
        sound = 0.1 * speak(rng, Speaker.draw(rng), emotion, 1.0, 1.0)
        with wave.open(str(folder / f"{emotion}_1.wav"), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", ""))
            file.writeframes((sound.clip(-1, 1) * 32767).astype("<i2").tobytes())
    command = ["train", "starter", "--data", str(tmp_path / "clips"), "--output", str(tmp_path / "out")]
    assert main([*command, "--set", "epochs=3", "--set", "batch_size=2", "--set", "use_cpu=true"]) == 0
    report = json.loads((tmp_path / "out" / "phase_1" / "phase.json").read_text(encoding="utf-8"))
    assert report["rows"] == 2
    assert report["loss"][2] < report["loss"][0] < 5, "it starts from what the starter knows"
    assert (tmp_path / "out" / "phase_1" / "model.safetensors").is_file()


@shipped
def test_a_time_after_the_end_of_the_clip_is_not_told(monkeypatch):
    text = "From 1.0 to 9.0 s the face shows raised lip corners. No voice is heard. This looks happy."
    monkeypatch.setattr(starter(), "answer", lambda *_: [{"description": text, "labels": []}])
    clip = {"frames": np.full((10, 96, 128, 3), 120, np.uint8), "fps": 4}
    result = starter()(clip)
    assert result["duration"] == 2.5
    assert result["description"] == text.replace("9.0", "2.5")


@shipped
@pytest.mark.skipif(not CLIPS.is_dir(), reason=f"{CLIPS} is not there")
def test_a_real_clip_is_described_in_whole_sentences():
    result = starter()(CLIPS / "single_face.mp4")
    assert GRAMMAR.fullmatch(result["description"]), result["description"]
    assert NO_FACE not in result["description"]
