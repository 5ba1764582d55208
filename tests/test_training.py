"""Training by recipe: what a recipe says, what a phase moves, and that each phase starts where the last one ended."""

import argparse
import json
import re

import pytest
import torch

from hf_emotion.data.demo import make_demo
from hf_emotion.inference import load
from hf_emotion.sizes import build
from hf_emotion.training.recipe import RECIPES, RecipeError, limited_to, read_recipe, recipe_names, recipes_of
from hf_emotion.training.train import (
    REPORT,
    Samples,
    TrainingError,
    add_train_parser,
    question_rows,
    run_phases,
    select,
)

PHASES = {
    1: {"audio_projector"},
    2: {"face_projector"},
    3: {"multi_modal_projector", "face_projector", "audio_projector", "frame_embedding", "language_model"},
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    rows = make_demo(
        folder,
        6,
        cues=("prosody",),
        emotions=("angry", "sad"),
        controls=0.0,
        size=64,
        fps=4,
        num_workers=0,
        progress=False,
    )
    return folder, rows


@pytest.fixture(scope="module")
def phases(demo, tmp_path_factory):
    """The weights before phase 1 and after each, and the reports."""
    folder = tmp_path_factory.mktemp("runs")
    model, processor = build("omni_emotion")
    model.save_pretrained(folder / "start")
    processor.save_pretrained(folder / "start")
    recipes = [read_recipe(name, "tiny", epochs=4, batch_size=3, num_frames=2) for name in recipe_names("omni_emotion")]
    reports = run_phases(folder / "start", demo[1], recipes, folder / "out", use_cpu=True)
    states = [
        {name: tensor.clone() for name, tensor in load(where, device="cpu")[0].state_dict().items()}
        for where in (folder / "start", *(report["folder"] for report in reports))
    ]
    return reports, states


@pytest.mark.parametrize("phase", PHASES)
def test_a_phase_moves_its_parts_tensor_by_tensor_and_no_other(phases, phase):
    _, states = phases
    before, after = states[phase - 1], states[phase]
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    parts = {"language_model" if name.startswith("lm_head") else name.split(".")[1] for name in moved}
    assert parts == PHASES[phase]
    named = {
        name for name in before if name.startswith("lm_head") * (phase == 3) or name.split(".")[1] in PHASES[phase]
    }
    assert moved == named


def test_the_loss_falls_in_every_phase(phases):
    for report in phases[0]:
        loss = report["loss"]
        assert sum(loss[-2:]) < sum(loss[:2]), report["recipe"]["name"]


def test_a_phase_folder_tells_what_was_trained(phases):
    for report in phases[0]:
        with open(f"{report['folder']}/{REPORT}", encoding="utf-8") as file:
            written = json.load(file)
        assert written["recipe"]["phase"] == report["recipe"]["phase"]
        parts = {name.split(".")[1] for name in written["trained"] if not name.startswith("lm_head")}
        assert parts == PHASES[written["recipe"]["phase"]]


def test_an_ablation_skips_what_it_cannot_train(demo, tmp_path):
    model, processor = build("omni_emotion", audio_config=None, face_config=None)
    model.save_pretrained(tmp_path / "start")
    processor.save_pretrained(tmp_path / "start")
    recipes = [read_recipe(name, "tiny", epochs=1, batch_size=6, num_frames=2) for name in recipe_names("omni_emotion")]
    [report] = run_phases(tmp_path / "start", demo[1], recipes, tmp_path / "out", use_cpu=True)
    assert report["recipe"]["phase"] == 3
    assert {name.split(".")[1] for name in report["trained"] if not name.startswith("lm_head")} == {
        "multi_modal_projector",
        "frame_embedding",
        "language_model",
    }


def test_every_value_of_a_recipe_quotes_the_paper_or_says_that_it_is_silent():
    for name in recipe_names():
        lines = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").split("\ntiny:")[0].splitlines()
        explained = False
        for line in lines:
            if line.startswith("#"):
                explained = explained or bool(re.search(r'"|silent|Phase|section', line))
            elif re.match(r"\w+:", line):
                assert explained or line.startswith(("model:", "phase:")), f"{name}: {line}"


def test_the_papers_values_are_those_of_section_4():
    first, second, third = recipes_of("omni_emotion")
    assert (first.epochs, first.batch_size, first.learning_rate, first.trains) == (1, 256, 1e-3, ("audio_projector",))
    assert (second.epochs, second.batch_size, second.learning_rate) == (1, 256, 1e-3)
    assert (second.trains, second.modalities) == (("face_projector",), ("video",))
    assert (third.epochs, third.batch_size, third.learning_rate, third.num_frames) == (3, 128, 1e-5, 8)


def test_questions_follow_the_recipe_and_answers_the_annotation(demo):
    rows = demo[1]
    caption, recognition, _ = recipes_of("omni_emotion", "tiny")
    for asked, row in zip(question_rows(rows, caption, None, 0), rows, strict=True):
        assert asked["question"] in caption.questions
        assert asked["answer"] == row["description"]
    for asked, row in zip(question_rows(rows, recognition, ("angry", "sad", "happy"), 0), rows, strict=True):
        assert asked["answer"] == row["label"]
        assert all(option in asked["question"] for option in ("angry", "sad", "happy"))


def test_a_phase_takes_only_its_modalities(demo):
    model, processor = build("omni_emotion")
    recipe = recipes_of("omni_emotion", "tiny")[0]
    samples = Samples(question_rows(demo[1], recipe, None, 0), processor, num_frames=2, modalities=["audio"])
    assert "pixel_values_videos" not in samples[0]
    assert model.config.video_token_id not in samples[0]["input_ids"]
    assert samples[0] is samples[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "holds a list"),
        ("a: [", "is no YAML"),
        ("colour: blue", "'colour' is no field"),
        ("model: omni_emotion", "missing"),
    ],
)
def test_a_recipe_that_is_none_is_refused(tmp_path, text, message):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        read_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"trains": "audio_projector"}, "a list of texts"),
        ({"tasks": ["juggling"]}, "tasks are"),
        ({"questions": []}, "needs questions"),
        ({"trains": []}, "no part"),
    ],
)
def test_values_that_cannot_be_are_refused(change, message):
    with pytest.raises(RecipeError, match=message):
        read_recipe("omni_emotion_1_audio", **change)


def test_unknown_recipes_and_parts_are_refused():
    with pytest.raises(RecipeError, match="no recipe nothing"):
        read_recipe("nothing")
    model, _ = build("omni_emotion", face_config=None)
    second = recipes_of("omni_emotion")[1]
    with pytest.raises(TrainingError, match="'face_projector', which the model lacks"):
        select(model, second)
    assert limited_to(second, ["audio_projector"]) is None


def test_rows_that_answer_nothing_are_refused(demo):
    silent = [{**row, "description": None} for row in demo[1]]
    with pytest.raises(TrainingError, match="none of the 6 rows"):
        question_rows(silent, recipes_of("omni_emotion")[0], None, 0)


def test_the_command_runs_the_phases_one_after_the_other(demo, tmp_path, capsys):
    for name in recipe_names("omni_emotion"):
        text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").split("\ntiny:")[0]
        text += "\ntiny: {epochs: 1, batch_size: 6, num_frames: 2}\n"
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    parser = argparse.ArgumentParser()
    add_train_parser(parser.add_subparsers())
    recipes = [str(tmp_path / f"{name}.yaml") for name in recipe_names("omni_emotion")]
    arguments = ["train", *recipes, "--size", "tiny", "--data", str(demo[0]), "--output", str(tmp_path / "out")]
    args = parser.parse_args(arguments)
    assert args.func(args) == 0
    assert len(capsys.readouterr().out.strip().splitlines()[-3:]) == 3
    assert all((tmp_path / "out" / f"phase_{n}" / REPORT).is_file() for n in (1, 2, 3))
    with pytest.raises(TrainingError, match="exists and is not empty"):
        args.func(args)
