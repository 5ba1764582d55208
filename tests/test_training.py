"""Training by recipe: what a recipe says, what a phase moves, and that each phase starts where the last one ended."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments

from hf_emotion.cli import main, parser
from hf_emotion.cli.train import by_phase, route_fields
from hf_emotion.data.demo import make_demo
from hf_emotion.data.rows import read_rows
from hf_emotion.inference import load
from hf_emotion.modeling.modeling_emotion import answer_positions
from hf_emotion.papers import build
from hf_emotion.training.cache import FeatureCache
from hf_emotion.training.check_rows import BadRowsError, check_rows
from hf_emotion.training.collator import encode
from hf_emotion.training.recipe import RECIPES, RecipeError, limited_to, read_recipe, recipe_names, recipes_of
from hf_emotion.training.train import (
    REPORT,
    Samples,
    TrainingError,
    last_checkpoint,
    question_rows,
    run_phase,
    run_phases,
    select,
    wait_for,
)
from hf_emotion.training.trainer import EmotionTrainer

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


def test_every_value_of_a_recipe_quotes_the_paper_or_says_that_it_is_not_given():
    for name in recipe_names():
        lines = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").split("\ntiny:")[0].splitlines()
        explained = False
        for line in lines:
            if line.startswith("#"):
                explained = explained or bool(re.search(r'"|[Nn]ot given|Phase|section', line))
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
        assert asked["question"] in caption.questions["caption"]
        assert asked["answer"] == row["description"]
    for asked, row in zip(question_rows(rows, recognition, ("angry", "sad", "happy"), 0), rows, strict=True):
        assert asked["answer"] == row["label"]
        assert all(option in asked["question"] for option in ("angry", "sad", "happy"))


def test_sound_is_captioned_and_written_down_where_the_row_says_what_there_is(demo):
    first = read_recipe("omni_emotion_1_audio")
    speech = {**demo[1][0], "id": "speech", "description": None, "subtitle": "Well then."}
    noise = {**demo[1][0], "id": "noise", "description": "Rain on a roof.", "subtitle": None}
    asked = {item["id"]: item for item in question_rows([speech, noise], first, None, 0)}
    assert {name: item["answer"] for name, item in asked.items()} == {
        "speech#transcript-0": "Well then.",
        "noise#caption-0": "Rain on a roof.",
    }
    assert asked["speech#transcript-0"]["question"] in first.questions["transcript"]


def test_a_phase_takes_only_its_modalities(demo):
    model, processor = build("omni_emotion")
    recipe = recipes_of("omni_emotion", "tiny")[0]
    samples = Samples(question_rows(demo[1], recipe, None, 0), processor, num_frames=2, modalities=["audio"])
    assert "pixel_values_videos" not in samples[0]
    assert model.config.video_token_id not in samples[0]["input_ids"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "holds a list"),
        ("a: [", "is not YAML"),
        ("colour: blue", "'colour' is not a field of a recipe; accepted: batch_size"),
        ("tiny: {batchsize: 4}", "'batchsize' is not a field of a recipe; did you mean 'batch_size'"),
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
        ({"tasks": ["juggling"]}, "tasks is"),
        ({"questions": {"caption": ["What is heard?"]}}, "'transcript' needs questions"),
        ({"questions": ["What is heard?"]}, "a mapping of task to a list of texts"),
        ({"trains": []}, "no part"),
        ({"learning_rat": 1e-3}, "'learning_rat' is not a field of a recipe; did you mean 'learning_rate'"),
    ],
)
def test_values_that_cannot_be_are_refused(change, message):
    with pytest.raises(RecipeError, match=message):
        read_recipe("omni_emotion_1_audio", **change)


def test_unknown_recipes_and_parts_are_refused():
    with pytest.raises(RecipeError, match=r"no recipe esva_1_emotions; .*did you mean 'esva_1_emotion'"):
        read_recipe("esva_1_emotions")
    model, _ = build("omni_emotion", face_config=None)
    second = recipes_of("omni_emotion")[1]
    with pytest.raises(TrainingError, match="'face_projector', which the model lacks"):
        select(model, second)
    assert limited_to(second, ["audio_projector"]) is None


def test_rows_that_answer_nothing_are_refused(demo):
    silent = [{**row, "description": None, "subtitle": None} for row in demo[1]]
    with pytest.raises(TrainingError, match="none of the 6 rows"):
        question_rows(silent, recipes_of("omni_emotion")[0], None, 0)


def test_the_command_runs_the_phases_one_after_the_other(demo, tmp_path, capsys):
    for name in recipe_names("omni_emotion"):
        text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").split("\ntiny:")[0]
        text += "\ntiny: {epochs: 1, batch_size: 6, num_frames: 2}\n"
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    recipes = [str(tmp_path / f"{name}.yaml") for name in recipe_names("omni_emotion")]
    arguments = ["train", *recipes, "--size", "tiny", "--data", str(demo[0]), "--output", str(tmp_path / "out")]
    args = parser("train").parse_args(arguments)
    assert args.func(args) == 0
    assert len(capsys.readouterr().out.strip().splitlines()[-3:]) == 3
    assert all((tmp_path / "out" / f"phase_{n}" / REPORT).is_file() for n in (1, 2, 3))
    with pytest.raises(TrainingError, match="exists and is not empty"):
        args.func(args)


def test_only_the_first_process_writes_the_start_and_the_others_wait_for_it(demo, tmp_path, monkeypatch):
    def stop(file):
        raise TrainingError(f"waits for {file.name}")

    command = ["train", "microemo", "--size", "tiny", "--data", str(demo[0]), "--output", str(tmp_path / "out")]
    args = parser("train").parse_args(command)
    with monkeypatch.context() as patch:
        patch.setenv("RANK", "1")
        patch.setattr("hf_emotion.training.train.wait_for", stop)
        with pytest.raises(TrainingError, match=r"waits for processor_config\.json"):
            args.func(args)
    assert not (tmp_path / "out").exists()
    with pytest.raises(TrainingError, match="within 0 s; an --output that all processes see is accepted"):
        wait_for(tmp_path / "out" / "start", seconds=0)


WITH_LORA = (
    "microemo_1_instruction",
    "acoustemo_1_instruction",
    "emotion_llama_1_emotion",
    "emotion_llama_2_reason",
    "esva_1_emotion",
    "esva_2_reason",
)
# Published ablations and zero-initialised gates aside: what no loss depends on. Of the Q-Former that reads timestamps,
# the last layer's feed-forward of the text; of a softmax over one scale or a bias of all keys alike, nothing.
WITHOUT_EFFECT = {"microemo": r"image_qformer\..*\.encoder\.layer\.1\.(intermediate|output)\.|\.key\.bias$"}


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Clips large enough for a face to be found."""
    folder = tmp_path_factory.mktemp("faces")
    return make_demo(
        folder,
        4,
        cues=("face",),
        emotions=("angry", "sad"),
        controls=0.0,
        size=128,
        fps=4,
        num_workers=0,
        progress=False,
    )


@pytest.mark.parametrize("name", WITH_LORA)
def test_a_recipe_with_lora_moves_its_parts_tensor_by_tensor_and_nothing_else(name, faces, tmp_path, caplog):
    recipe = read_recipe(
        name, "tiny", epochs=4, batch_size=4, num_frames=2, learning_rate=1e-2, warmup=0, weight_decay=0
    )
    fields = {"local_gate_init": 1.0} if recipe.model == "microemo" else recipe.fields
    model, processor = build(recipe.model, **fields)
    recipe = limited_to(recipe, [part for part, _ in model.model.named_children()])
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    report = run_phase(model, processor, faces, recipe, tmp_path, use_cpu=True, save_strategy="no")
    after = {key.replace(".base_layer", ""): tensor for key, tensor in model.state_dict().items()}
    saved = load_file(tmp_path / "adapter_model.safetensors")
    still = []
    for key, tensor in before.items():
        part = "lm_head" if key.startswith("lm_head") else key.split(".")[1]
        if part in recipe.trains:
            own = key.replace(f"model.{part}", f"model.{part}.modules_to_save.default")
            assert torch.equal(after[key.replace(f"model.{part}", f"model.{part}.original_module")], tensor), key
            assert torch.equal(saved[f"base_model.model.{key}"], after[own]), key
            if own in dict(model.named_parameters()) and torch.equal(after[own], tensor):
                still.append(key)
        else:
            assert torch.equal(after[key], tensor), key
    allowed = WITHOUT_EFFECT.get(recipe.model, r"$^")
    assert [key for key in still if not re.search(allowed, key)] == []
    trained = {key for key in report["trained"] if "lora_" in key}
    assert all(".language_model.layers." in key for key in trained)
    layers = {key.split(".lora_")[0].rsplit(".", 1)[1] for key in trained}
    assert layers == set(recipe.lora["targets"])
    assert all(after[key.removeprefix("base_model.model.")].abs().sum() > 0 for key in trained)
    assert sum(report["loss"][-2:]) < sum(report["loss"][:2])
    assert "new PAD/BOS/EOS" not in caplog.text
    logged = report["log"][0]
    assert logged["train_tokens_per_second"] > 0
    terms = {key for key in logged if key.startswith("loss_")}
    assert terms >= ({"loss_emotion", "loss_contrast", "loss_align"} if name.startswith("esva") else set())


# Killed while the eighth step is on its way, so that nothing is closed or written afterwards.
KILLED_AT_STEP_7 = """
import os, signal, sys
from hf_emotion.cli import main
from hf_emotion.training.trainer import EmotionTrainer

def step(self, *arguments):
    if self.state.global_step == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, *arguments)

real, EmotionTrainer.training_step = EmotionTrainer.training_step, step
sys.exit(main(sys.argv[1:]))
"""


def command(folder, *more):
    """`hf-emotion train` of MicroEmo with a checkpoint after each of twelve steps, two epochs."""
    settings = {"use_cpu": True, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 12, "batch_size": 1}
    settings |= {"epochs": 2, "num_frames": 2, "warmup": 0}
    pairs = [text for key, value in settings.items() for text in ("--set", f"{key}={json.dumps(value)}")]
    return ["train", "microemo", "--size", "tiny", "--output", str(folder), *pairs, *more]


def test_a_run_killed_in_mid_epoch_and_resumed_ends_with_the_weights_of_an_uninterrupted_one(demo, tmp_path):
    data = ("--data", str(demo[0]))
    arguments = command(tmp_path / "killed", *data)
    phase = tmp_path / "killed" / "phase_1"
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_STEP_7, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # As many threads as here: sums are added in their order.
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    state = json.loads(Path(last_checkpoint(phase), "trainer_state.json").read_text())
    assert not (phase / REPORT).exists()
    assert state["epoch"] % 1 != 0
    assert main(arguments) == 2  # not without being told to continue
    assert main([*arguments, "--resume"]) == 0
    assert main(command(tmp_path / "whole", *data)) == 0
    whole, resumed = (
        load_file(tmp_path / name / "phase_1" / "adapter_model.safetensors") for name in ("whole", "killed")
    )
    assert whole.keys() == resumed.keys()
    losses = [json.loads((tmp_path / name / "phase_1" / REPORT).read_text())["loss"] for name in ("whole", "killed")]
    assert losses[0] == losses[1]
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []
    # A run that is complete is left as it is.
    written = (phase / REPORT).stat().st_mtime_ns
    assert main([*arguments, "--resume"]) == 0
    assert (phase / REPORT).stat().st_mtime_ns == written


def test_training_from_cached_features_has_the_losses_of_training_from_clips(demo, tmp_path):
    recipe = read_recipe("acoustemo_1_instruction", "tiny", epochs=2, batch_size=3, num_frames=2)
    chosen = {"num_frames": 2, "modalities": ["video", "audio"]}
    losses = {}
    for kind in ("clips", "features"):
        model, processor = build("acoustemo")
        features = None
        if kind == "features":
            FeatureCache.build(tmp_path / "features", model, processor, demo[1], **chosen)
            features = tmp_path / "features"
        report = run_phase(
            model, processor, demo[1], recipe, tmp_path / kind, features=features, use_cpu=True, save_strategy="no"
        )
        losses[kind] = report["loss"]
    assert len(losses["clips"]) == 4
    assert max(abs(a - b) for a, b in zip(*losses.values(), strict=True)) < 1e-5


def test_activation_checkpointing_changes_no_loss_and_bf16_trains(demo, tmp_path):
    recipe = read_recipe("microemo_1_instruction", "tiny", epochs=1, batch_size=3, num_frames=2)
    recipe.lora["dropout"] = 0.0
    losses = {}
    for kind, more in {"plain": {}, "checkpointed": {"activation_checkpointing": True}, "bf16": {"bf16": True}}.items():
        model, processor = build("microemo")
        limited = limited_to(recipe, [part for part, _ in model.model.named_children()])
        report = run_phase(
            model, processor, demo[1], limited, tmp_path / kind, use_cpu=True, save_strategy="no", **more
        )
        losses[kind] = torch.tensor(report["loss"])
    torch.testing.assert_close(losses["checkpointed"], losses["plain"], rtol=0, atol=1e-5)
    torch.testing.assert_close(losses["bf16"], losses["plain"], rtol=0, atol=0.1)
    assert not torch.equal(losses["bf16"], losses["plain"])


def test_answers_are_generated_in_the_loop_and_their_score_ends_training(demo, tmp_path):
    recipe = read_recipe(
        "acoustemo_1_instruction", "tiny", epochs=5, batch_size=3, num_frames=2, tasks=["open_vocabulary"]
    )
    model, processor = build("acoustemo")
    report = run_phase(
        model,
        processor,
        demo[1][:3],
        recipe,
        tmp_path,
        eval_rows=demo[1][3:],
        early_stopping=1,
        use_cpu=True,
        learning_rate=1e-6,
    )
    evaluations = [entry for entry in report["log"] if "eval_f" in entry]
    # Nothing is learned at such a rate: the second evaluation is no better than the first, and no third is made.
    assert len(evaluations) == 2
    assert evaluations[0].keys() >= {"eval_loss", "eval_f", "eval_level1_precision", "eval_level1_recall"}
    with pytest.raises(TrainingError, match="needs rows to evaluate on"):
        run_phase(model, processor, demo[1], recipe, tmp_path, early_stopping=1, use_cpu=True)


def test_generated_answers_are_scored_by_their_words():
    from hf_emotion.training.trainer import word_scores

    rows = [{"id": "a", "labels": ["angry"]}, {"id": "b", "label": "sad"}]
    assert word_scores(rows, ["angry", "sad"])["f"] == 1.0
    assert word_scores(rows, ["sad", "angry"])["f"] == 0.0
    with pytest.raises(ValueError, match="row c has neither labels nor a label"):
        word_scores([*rows, {"id": "c"}], ["angry", "sad", "happy"])


@pytest.fixture
def broken(demo, tmp_path):
    """A good row and one of each kind of bad ones, with what is said of each."""
    good = demo[1][0]
    (tmp_path / "torn.mp4").write_bytes(b"no film")
    late = [{"start": 60.0, "end": 61.0, "text": "late", "speaker": None}]
    backwards = [{"start": 2.0, "end": 1.0, "text": "no", "speaker": None}]
    bad = {
        "gone": ({"video": str(tmp_path / "gone.mp4")}, "gone.mp4"),
        "torn": ({"video": str(tmp_path / "torn.mp4")}, "not a video or sound file"),
        "none": ({"video": None}, "neither video nor audio"),
        "late": ({"utterances": late}, "an utterance starts at 60.0 s"),
        "backwards": ({"utterances": backwards}, "from 2.0 s to 1.0 s"),
        "blank": ({"answer": " "}, "the answer is empty"),
        "silent": ({"description": None}, "it has no description (for clues)"),
        "white": ({"description": "  "}, "it has no description (for clues)"),
    }
    return [good, *({**good, "id": name, **fields} for name, (fields, _) in bad.items())], bad


def test_every_bad_row_is_named_before_anything_is_trained(broken, tmp_path):
    rows, bad = broken
    model, processor = build("acoustemo")
    recipe = read_recipe("acoustemo_1_instruction", "tiny", num_frames=2)
    with pytest.raises(BadRowsError) as error:
        run_phase(model, processor, rows, recipe, tmp_path / "out", use_cpu=True)
    lines = str(error.value).splitlines()
    assert lines[0] == f"{len(bad)} of {len(rows)} rows cannot be used; repair them, or skip them with --skip-bad-rows:"
    # Rows with the same problem share a line.
    assert len(lines) == len(bad)
    for name, (_, reason) in list(bad.items())[:-2]:
        assert any(line.startswith(f"  {name}: ") and reason in line for line in lines)
    assert lines[-1] == (
        "  2 rows (silent, white): it has no description (for clues); fill the column, or ask what the row can answer: "
        "--tasks recognition open_vocabulary tracing"
    )
    assert not (tmp_path / "out").exists()


def test_bad_rows_are_skipped_and_counted_if_so_asked(broken, tmp_path):
    rows, bad = broken
    model, processor = build("acoustemo")
    recipe = read_recipe("acoustemo_1_instruction", "tiny", num_frames=2, epochs=1)
    report = run_phase(model, processor, rows, recipe, tmp_path, skip_bad_rows=True, use_cpu=True, save_strategy="no")
    assert report["questions"] == 1
    assert [reason.split(":")[0] for reason in report["skipped"]] == list(bad)
    with pytest.raises(BadRowsError, match="8 of 8 rows cannot be used"):
        check_rows(rows[1:], processor, skip=True, make_questions=lambda row: (row["description"] or "").strip())


def test_a_value_of_the_command_line_goes_where_its_name_is_known():
    values = {"epochs": 2, "bf16": True, "save_steps": 5, "window_seconds": 2, "use_global": False}
    assert route_fields("acoustemo", values) == {
        "recipe": {"epochs": 2},
        "trainer": {"bf16": True, "save_steps": 5},
        "processor": {"window_seconds": 2},
        "config": {"use_global": False},
    }


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("epoch", "epochs"),
        ("use_golbal", "use_global"),
        ("window_second", "window_seconds"),
        ("save_step", "save_steps"),
    ],
)
def test_an_unknown_name_of_the_command_line_is_refused_with_the_nearest_one(name, nearest):
    with pytest.raises(ValueError, match=f"--set {name}: .*did you mean '{nearest}'"):
        route_fields("acoustemo", {name: 1})


@pytest.mark.parametrize(
    ("model", "pair", "read"),
    [
        ("microemo", "use_regions=false", lambda model, processor: model.config.use_regions),
        ("acoustemo", "window_seconds=2", lambda model, processor: processor.window_seconds),
        ("esva", "keyframe=first", lambda model, processor: processor.keyframe),
        ("esva", "task=reason", lambda model, processor: processor.task),
    ],
)
def test_fields_of_configuration_and_processor_are_set_by_init_and_by_train(model, pair, read, demo, tmp_path, capsys):
    wanted = {"false": False, "2": 2}.get(pair.split("=")[1], pair.split("=")[1])
    assert main(["init", model, "--output", str(tmp_path / "init"), "--set", pair]) == 0
    assert read(*load(tmp_path / "init", device="cpu")) == wanted
    # The first phase alone, on one row, for one step.
    recipe = {"esva": "esva_1_emotion"}.get(model, model)
    (tmp_path / "rows.jsonl").write_text(json.dumps({**demo[1][0], "split": "train"}) + "\n")
    settings = [pair, "max_steps=1", "num_frames=2", "use_cpu=true", "save_strategy=no"]
    arguments = [
        "train",
        recipe,
        "--size",
        "tiny",
        "--data",
        str(tmp_path / "rows.jsonl"),
        "--output",
        str(tmp_path / "out"),
    ]
    assert main([*arguments, *(text for value in settings for text in ("--set", value))]) == 0, capsys.readouterr().err
    assert read(*load(tmp_path / "out" / "phase_1", device="cpu")) == wanted


def test_init_refuses_a_misspelt_field_with_the_nearest_one(tmp_path, capsys):
    assert main(["init", "microemo", "--output", str(tmp_path / "out"), "--set", "use_regoins=false"]) == 2
    assert (
        "no field 'use_regoins' in its configuration or processor; did you mean 'use_regions'?"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


def test_a_recipe_for_another_model_than_the_folder_holds_is_refused(demo, tmp_path):
    for name in ("esva", "acoustemo"):
        model, processor = build(name)
        model.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
    baseline = recipes_of("emotion_llama", "tiny")
    with pytest.raises(
        TrainingError, match=r"emotion_llama_1_emotion is for a model with msfe_kernel_sizes = \[\]; .* has "
    ):
        run_phases(tmp_path / "esva", demo[1], baseline, tmp_path / "out", use_cpu=True)
    with pytest.raises(TrainingError, match=r"emotion_llama_1_emotion is a recipe for esva; .* holds acoustemo"):
        run_phases(tmp_path / "acoustemo", demo[1], baseline, tmp_path / "out", use_cpu=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("batches", [1, 3])
def test_logged_terms_add_up_to_the_logged_loss_however_many_batches_make_a_step(batches, demo, tmp_path):
    # Answers of very different length, so that a mean of means is not the mean.
    rows = [{**row, "planted": "", "description": "sad " * (1 + 12 * (i % 3))} for i, row in enumerate(demo[1])]
    recipe = read_recipe("esva_1_emotion", "tiny", max_steps=4, batch_size=3, num_frames=4, tasks=["clues"])
    model, processor = build("esva")
    report = run_phase(
        model, processor, rows, recipe, tmp_path, per_device_batch_size=3 // batches, use_cpu=True,
        save_strategy="no", logging_steps=2,
    )  # fmt: skip
    logged = [entry for entry in report["log"] if "loss" in entry]
    assert len(logged) == 2
    for entry in logged:
        terms = entry["loss_emotion"] * model.config.emotion_weight + entry.get("loss_align", 0.0)
        terms += model.config.contrast_weight * entry.get("loss_contrast", 0.0)
        assert entry["loss"] == pytest.approx(terms, rel=1e-4)


def test_a_clip_with_three_questions_is_decoded_once(demo, monkeypatch):
    _, processor = build("omni_emotion")
    row = {**demo[1][0], "answer": "sad", "question": "How?"}
    rows = [{**row, "id": str(n), "question": question} for n, question in enumerate(("How?", "Why?", "What?"))]
    plain = [encode(processor, [row], num_frames=2) for row in rows]
    load, opened = processor.load, []
    monkeypatch.setattr(processor, "load", lambda *args, **options: opened.append(1) or load(*args, **options))
    samples = Samples(rows, processor, num_frames=2)
    for expected, sample in zip(plain * 2, [*samples, *samples], strict=True):
        assert expected.keys() == sample.keys()
        assert all(torch.equal(expected[name], sample[name]) for name in expected)
    assert len(opened) == 1


def test_grouping_by_length_opens_no_clip_and_puts_like_lengths_together(demo, tmp_path, monkeypatch):
    model, processor = build("acoustemo")
    monkeypatch.setattr(processor, "load", lambda *args, **options: pytest.fail("a clip was opened"))
    rows = [{**demo[1][0], "id": str(n), "question": "How?", "answer": "sad " * (1 + 30 * (n % 2))} for n in range(64)]
    samples = Samples(rows, processor)
    settings = TrainingArguments(
        output_dir=tmp_path, per_device_train_batch_size=4, train_sampling_strategy="group_by_length", use_cpu=True,
        report_to="none",
    )  # fmt: skip
    trainer = EmotionTrainer(model=model, args=settings, train_dataset=samples, processing_class=processor)
    sampler = trainer._get_train_sampler()
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert sorted(orders[0]) == list(range(64))
    assert orders[0] == orders[2] != orders[1]
    for order in orders:
        mixed = [len({n % 2 for n in order[first : first + 4]}) == 2 for first in range(0, 64, 4)]
        assert sum(mixed) <= 6  # of 16; in random order 14


def test_logits_of_the_answers_alone_give_the_same_loss_and_gradients(demo, tmp_path):
    rows = [{**row, "answer": "sad " * (1 + 5 * (i % 3)), "question": "How?"} for i, row in enumerate(demo[1][:3])]
    for name in ("acoustemo", "esva", "omni_emotion"):
        model, processor = build(name)
        batch = encode(processor, rows, num_frames=2)
        results = []
        for extra in ({}, {"logits_to_keep": answer_positions(batch["labels"])}):
            model.zero_grad()
            torch.manual_seed(0)
            outputs = model.train()(**batch, **extra, num_items_in_batch=40)
            outputs.loss.backward()
            results.append((outputs, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
        (full, gradients), (short, others) = results
        assert short.logits.shape == (int((batch["labels"] != -100).sum()), full.logits.shape[-1])
        torch.testing.assert_close(short.loss, full.loss, rtol=1e-6, atol=0)
        assert gradients.keys() == others.keys()
        for parameter, gradient in gradients.items():
            torch.testing.assert_close(others[parameter], gradient, rtol=1e-4, atol=1e-7)


def test_the_trainer_computes_logits_of_the_answers_alone(demo, tmp_path, monkeypatch):
    recipe = read_recipe("acoustemo_1_instruction", "tiny", max_steps=1, batch_size=3, num_frames=2)
    model, processor = build("acoustemo")
    shapes = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    run_phase(model, processor, demo[1], recipe, tmp_path, use_cpu=True, save_strategy="no")
    assert len(shapes) == 1
    assert len(shapes[0]) == 2


def test_two_runs_with_the_same_seed_are_equal_whatever_the_number_of_workers(demo, tmp_path):
    recipe = read_recipe("acoustemo_1_instruction", "tiny", epochs=2, batch_size=3, num_frames=2)
    weights, losses = [], []
    for workers in (0, 0, 1):
        torch.rand(1 + workers)  # what was drawn before has no influence
        model, processor = build("acoustemo")
        folder = tmp_path / str(len(weights))
        report = run_phase(
            model, processor, demo[1], recipe, folder, seed=3, use_cpu=True, save_strategy="no",
            dataloader_num_workers=workers,
        )  # fmt: skip
        weights.append(load_file(folder / "adapter_model.safetensors"))
        losses.append(report["loss"])
    for other in (1, 2):
        assert losses[other] == losses[0]
        assert [name for name, tensor in weights[0].items() if not torch.equal(tensor, weights[other][name])] == []


def test_data_and_splits_of_a_phase_replace_those_of_all_phases():
    phases = [1, 2, 3]
    assert by_phase(["a", "b"], phases, "--data") == {1: ["a", "b"], 2: ["a", "b"], 3: ["a", "b"]}
    assert by_phase(["a", "3=sre", "3=hre"], phases, "--data") == {1: ["a"], 2: ["a"], 3: ["sre", "hre"]}
    with pytest.raises(RecipeError, match="--data 4=x: the phases trained here are 1, 2, 3"):
        by_phase(["4=x"], phases, "--data")


def test_each_phase_is_trained_on_its_own_data(demo, tmp_path, capsys):
    for name, rows in {"sound": demo[1][:2], "sre": demo[1][2:4], "hre": demo[1][4:]}.items():
        lines = [json.dumps({**row, "question": None, "split": "kept" if name == "sre" else "train"}) for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    recipes = [f"omni_emotion_{phase}" for phase in ("1_audio", "3_tune")]
    arguments = ["train", *recipes, "--size", "tiny", "--output", str(tmp_path / "out"), "--split", "all"]
    for data in ("1=sound", "3=sre", "3=hre"):
        arguments += ["--data", f"{data.split('=')[0]}={tmp_path / data.split('=')[1]}.jsonl"]
    for value in ("max_steps=1", "batch_size=2", "num_frames=2", "use_cpu=true", "save_strategy=no"):
        arguments += ["--set", value]
    assert main(arguments) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "omni_emotion_1_audio: 2 questions about 2 rows" in printed
    # Both of its data sets, with two tasks each.
    assert "omni_emotion_3_tune: 8 questions about 4 rows" in printed


@pytest.fixture
def table(demo, tmp_path):
    """Clips with a question and an answer each, as people bring them."""
    lines = ["id,video,question,answer"]
    lines += [f"{row['id']},{row['video']},Does {i} shout?,Yes." for i, row in enumerate(demo[1][:4])]
    (tmp_path / "clips.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "clips.csv"


def test_rows_with_a_question_and_an_answer_are_trained_as_they_are(table):
    recipe = read_recipe("microemo_1_instruction", "tiny")
    asked = question_rows(read_rows(table), recipe, None, 0)
    assert [(row["question"], row["answer"]) for row in asked] == [(f"Does {i} shout?", "Yes.") for i in range(4)]


def test_rows_that_cannot_be_asked_are_refused_together_with_the_option_that_helps(table, tmp_path, capsys):
    arguments = ["train", "microemo", "--size", "tiny", "--data", str(table), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--tasks", "recognition"]) == 2
    error = capsys.readouterr().err
    assert "4 of 4 rows cannot be used" in error
    assert "it has no label (for recognition); its own question and answer are used without --tasks" in error
    assert error.count("it has no label") == 1


def test_the_values_of_a_recipe_follow_the_size_of_the_folder_and_a_run_that_learns_nothing_says_so(
    table, tmp_path, capsys
):
    assert main(["init", "acoustemo", "--output", str(tmp_path / "start")]) == 0
    arguments = [
        "train",
        "acoustemo",
        "--data",
        str(table),
        "--start-from",
        str(tmp_path / "start"),
        "--set",
        "use_cpu=true",
    ]
    assert main([*arguments, "--output", str(tmp_path / "one"), "--set", "max_steps=4"]) == 0
    written = json.loads((tmp_path / "one" / "phase_1" / REPORT).read_text())
    assert written["recipe"]["learning_rate"] == read_recipe("acoustemo_1_instruction", "tiny").learning_rate
    assert "the loss did not fall" not in capsys.readouterr().out
    assert (
        main([*arguments, "--output", str(tmp_path / "two"), "--set", "max_steps=4", "--set", "learning_rate=1e-12"])
        == 0
    )
    assert "note: the loss did not fall: " in capsys.readouterr().out
    written = json.loads((tmp_path / "two" / "phase_1" / REPORT).read_text())
    assert "--set learning_rate=1e-11" in written["notes"][0]


def test_a_full_disk_leaves_no_half_written_model_and_the_run_can_be_resumed(demo, tmp_path, monkeypatch):
    recipe = read_recipe("acoustemo_1_instruction", "tiny", max_steps=2, batch_size=3, num_frames=2)
    save = EmotionTrainer._save
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_a_full_disk(self, output_dir=None, state_dict=None):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        try:
            save(self, output_dir, state_dict)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    model, processor = build("acoustemo")
    monkeypatch.setattr(EmotionTrainer, "_save", on_a_full_disk)
    with pytest.raises(OSError, match=r"the model could not be saved in .*phase"):
        run_phase(model, processor, demo[1], recipe, tmp_path / "phase", use_cpu=True, save_strategy="no")
    assert list((tmp_path / "phase").iterdir()) == []
    monkeypatch.undo()
    model, processor = build("acoustemo")
    run_phase(model, processor, demo[1], recipe, tmp_path / "phase", use_cpu=True, save_strategy="no", resume=True)
    assert (tmp_path / "phase" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "phase" / "training_args.bin").exists()


def test_each_clip_is_opened_once_before_training(demo, tmp_path, monkeypatch):
    opened = []
    processor = build("acoustemo")[1]
    monkeypatch.setattr(
        type(processor), "load_clips", lambda self, videos, **options: opened.append(videos) or [Clip()]
    )
    rows = [{**row, "id": f"{row['id']}-{n}", "planted": ""} for row in demo[1] for n in range(3)]
    checked = {}
    usable, _ = check_rows(rows, processor, checked=checked)
    assert (len(usable), len(opened)) == (18, 6)
    check_rows(rows, processor, checked=checked)
    assert len(opened) == 6


class Clip:
    duration = None


@pytest.mark.parametrize(
    ("lora", "message"),
    [({"r": 4}, "lora holds r; alpha, dropout, r, targets are needed"), (None, "names no part of the model")],
)
def test_an_adapter_needs_its_settings_and_a_recipe_without_one_needs_parts(lora, message):
    with pytest.raises(RecipeError, match=message):
        read_recipe("microemo_1_instruction", trains=[], lora=lora)
    with pytest.raises(RecipeError, match="lora needs it frozen"):
        read_recipe("microemo_1_instruction", trains=["language_model"])


@pytest.fixture
def store(demo):
    """`memory://clips` with two clips, and a table of their names, labels and one more that is not there."""
    system = fsspec.filesystem("memory")
    rows = [{**row, "video": f"{i}.mp4", "audio": None, "split": "train"} for i, row in enumerate(demo[1][:2])]
    for row, local in zip(rows, demo[1], strict=False):
        system.pipe(f"/clips/{row['video']}", Path(local["video"]).read_bytes())
    system.pipe("/clips/rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    system.pipe("/clips/gone.jsonl", (json.dumps({**rows[0], "id": "gone", "video": "gone.mp4"}) + "\n").encode())
    yield
    system.store.clear()


def test_clips_behind_addresses_are_trained_as_local_ones_with_consent(demo, store, tmp_path, capsys):
    def losses(data, folder, *more):
        arguments = ["train", "acoustemo_1_instruction", "--size", "tiny", "--data", str(data), "--output", str(folder)]
        settings = ("use_cpu=true", "max_steps=2", "batch_size=2", "num_frames=2")
        code = main([*arguments, *(word for setting in settings for word in ("--set", setting)), *more])
        return json.loads((folder / "phase_1" / REPORT).read_text())["loss"] if code == 0 else code

    local = tmp_path / "rows.jsonl"
    rows = [{**row, "video": str(row["video"]), "audio": None, "split": "train"} for row in demo[1][:2]]
    local.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert losses("memory://clips/rows.jsonl", tmp_path / "far", "--allow-urls") == losses(local, tmp_path / "near")
    capsys.readouterr()
    assert losses("memory://clips/rows.jsonl", tmp_path / "refused") == 2
    assert "--allow-urls" in capsys.readouterr().err
    assert losses("memory://clips/gone.jsonl", tmp_path / "gone", "--allow-urls") == 2
    assert "'memory://clips/gone.mp4' cannot be read" in capsys.readouterr().err


def test_clips_behind_addresses_are_inspected_with_consent(store, capsys):
    assert main(["inspect", "memory://clips/rows.jsonl", "--allow-urls", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["rows"], summary["bad_rows"]) == (2, {})
    assert main(["inspect", "memory://clips/0.mp4", "--allow-urls", "--num-frames", "2", "--json"]) == 0
    [view] = json.loads(capsys.readouterr().out)
    assert (view["source"], len(view["frames"])) == ("memory://clips/0.mp4", 2)
    for source in ("memory://clips/rows.jsonl", "memory://clips/0.mp4"):
        assert main(["inspect", source]) == 2
        assert "--allow-urls" in capsys.readouterr().err


def test_a_resumed_trainer_has_the_queue_of_earlier_clips(tmp_path):
    def trainer():
        model, _ = build("esva")
        return EmotionTrainer(model, args=TrainingArguments(str(tmp_path), use_cpu=True, report_to="none"))

    first, second = trainer(), trainer()
    head = first.model.model.contrast_head
    head.push(torch.randn(3, head.queue.shape[1]), torch.tensor([0, 1, 0]), torch.tensor([7, 8, 9]))
    checkpoint = tmp_path / "checkpoint-1"
    first.save_model(str(checkpoint))
    first._save_rng_state(str(checkpoint))
    second._load_from_checkpoint(str(checkpoint))
    assert second.model.model.contrast_head.queue_clips[:4].tolist() == [7, 8, 9, -1]
    assert torch.equal(second.model.model.contrast_head.queue, head.queue)
    assert torch.equal(second.model.model.contrast_head.queue_ids, head.queue_ids)
