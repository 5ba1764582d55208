"""The command line: one clear sentence for each bad input, the other clips still described, exit codes for scripts."""

import argparse
import json
import shutil
import subprocess
from fractions import Fraction

import av
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import hf_emotion
from hf_emotion.cli import VERBS, main, parser
from hf_emotion.papers import PAPERS


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "model"
    assert main(["init", "microemo", "--output", str(folder)]) == 0
    return folder


def write_clip(path, size=(64, 64), frames=8, sound=True):
    generator = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=4)
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        audio = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for _ in range(frames):
            frame = av.VideoFrame.from_ndarray(generator.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if sound:
            samples = generator.normal(0, 0.1, (1, 32000)).astype(np.float32)
            block = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            block.sample_rate, block.time_base, block.pts = 16000, Fraction(1, 16000), 0
            container.mux(audio.encode(block))
            container.mux(audio.encode())
    return path


def test_predict_describes_good_clips_beside_bad_ones_and_says_so_by_its_exit_code(model_folder, tmp_path, capsys):
    good = write_clip(tmp_path / "good.mp4")
    silent = write_clip(tmp_path / "silent.mp4", sound=False)
    text = tmp_path / "text.mp4"
    text.write_text("no video at all")
    torn = tmp_path / "torn.mp4"
    torn.write_bytes(good.read_bytes()[:400])
    clips = [str(path) for path in (good, tmp_path / "missing.mp4", text, silent, torn)]
    code = main(["predict", *clips, "--model", str(model_folder), "--max-new-tokens", "4", "--json"])
    captured = capsys.readouterr()
    results = json.loads(captured.out)
    assert code == 1
    assert ["error" in result for result in results] == [False, True, True, False, True]
    assert results[0]["modalities"] == ["video", "audio"]
    assert results[3]["modalities"] == ["video"]
    assert {"description", "labels", "utterances", "frames"} <= set(results[0])
    errors = [line for line in captured.err.splitlines() if line.startswith("hf-emotion:")]
    assert len(errors) == 3
    assert "Traceback" not in captured.err
    assert "missing.mp4: no such file" in errors[0]


def test_predict_fails_when_no_clip_can_be_read(model_folder, tmp_path, capsys):
    assert main(["predict", str(tmp_path / "a.mp4"), "--model", str(model_folder)]) == 2


def test_predict_reads_utterances_and_names_the_line_of_a_malformed_subtitle(model_folder, tmp_path, capsys):
    clip = str(write_clip(tmp_path / "clip.mp4"))
    good, bad = tmp_path / "good.srt", tmp_path / "bad.srt"
    good.write_text("1\n00:00:00,200 --> 00:00:00,900\nhello\n\n2\n00:00:01,000 --> 00:00:01,500\nwell\n")
    bad.write_text("1\n00:00:00,200 --> 00:00:00,900\nhello\n\n2\n00:00:xx,000 --> 00:00:01,500\nwell\n")
    arguments = ["predict", clip, clip, "--model", str(model_folder), "--max-new-tokens", "2", "--json"]
    assert main([*arguments, "--utterances", str(good), str(bad)]) == 1
    captured = capsys.readouterr()
    results = json.loads(captured.out)
    assert [utterance["text"] for utterance in results[0]["utterances"]] == ["hello", "well"]
    assert all({"labels", "description"} <= set(utterance) for utterance in results[0]["utterances"])
    assert "bad.srt" in results[1]["error"]
    assert "6" in results[1]["error"]
    assert main([*arguments, "--utterances", str(good)]) == 2
    assert "1 files for 2 clips" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("missing", "lack what its config.json describes: 1 tensors, among them model.video_projector.weight"),
        ("extra", "hold more than what its config.json describes: 1 tensors, among them model.nowhere.weight"),
        ("shape", "differ in shape from what its config.json describes: 1 tensors, among them model.video_projector"),
        ("torn", "cannot be loaded: Error while deserializing header"),
    ],
)
def test_a_model_folder_with_other_weights_than_its_config_is_refused(model_folder, tmp_path, capfd, change, words):
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    path = folder / "model.safetensors"
    weights = load_file(path)
    if change == "missing":
        weights.pop("model.video_projector.weight")
    elif change == "shape":
        weights["model.video_projector.weight"] = np.zeros((2, 3), dtype=np.float32)
    else:
        weights["model.nowhere.weight"] = np.zeros(3, dtype=np.float32)
    save_file(weights, path, metadata={"format": "pt"})
    if change == "torn":
        path.write_bytes(path.read_bytes()[:10_000])
    assert main(["predict", "x.mp4", "--model", str(folder)]) == 2
    message = [line for line in capfd.readouterr().err.splitlines() if line and "Loading weights" not in line]
    assert len(message) == 1, message
    assert words in message[0]


def test_a_device_that_is_not_there_is_refused_in_one_sentence(model_folder, capsys):
    for device in ("foo", "meta:x", "xpu"):
        assert main(["predict", "x.mp4", "--model", str(model_folder), "--device", device]) == 2
        assert f"device {device!r} cannot be used here" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--num-frames", "--num-beams", "--batch-size", "--max-new-tokens"])
@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_a_count_below_one_is_refused_before_anything_is_loaded(option, value, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["predict", "x.mp4", "--model", "nowhere", option, value])
    assert stop.value.code == 2
    assert f"{value!r} is not a positive integer" in capsys.readouterr().err


def test_a_folder_without_a_model_is_refused(tmp_path, capsys):
    assert main(["predict", "x.mp4", "--model", str(tmp_path)]) == 2
    assert "has no config.json" in capsys.readouterr().err
    assert main(["info", str(tmp_path / "nothing")]) == 2


def test_info_states_the_published_size_without_the_memory_for_it(capsys):
    assert main(["info", "microemo", "--size", "paper", "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    parts = {part["part"]: part for part in info["parts"]}
    assert parts["language_model"]["parameters"] == 6_738_415_616
    assert parts["vision_tower"]["training"] == "frozen"
    assert parts["video_qformer"]["training"] == "trained"
    assert info["tokens_per_clip"][2] == {"frames": 8, "utterances": 3, "video": 128, "audio": 8}


def test_info_counts_tokens_for_every_grid_and_says_what_the_base_adds(capsys):
    assert main(["info", "omni_emotion", "--size", "paper", "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    parts = {part["part"]: part for part in info["parts"]}
    assert parts["language_model"]["parameters"] == 7_615_616_512
    assert parts["audio_tower"]["parameters"] == 636_968_960
    assert parts["face_tower"]["inside"]["backbone"] == 86_743_224
    assert sum(part["parameters"] for part in info["parts"]) == info["parameters"]
    choices = {setting.partition(",")[0]: counts for setting, counts in info["token_choices"].items()}
    assert choices["face_grid=7"] == {"video": 1569, "face": 392, "audio": 500}
    assert [counts["face"] for counts in choices.values()] == [8 * n**2 for n in (1, 2, 4, 7, 8, 14, 28, 56)]
    # 64 rows for two tokens, in the table and in the head.
    adds = info["base"]["adds"]
    assert adds["vocabulary of 152,128"] == 2 * 64 * 3584
    assert adds["vision_tower"] == parts["vision_tower"]["parameters"]
    assert info["base"]["parameters"] == 7_615_616_512 + sum(adds.values())
    assert main(["info", "omni_emotion"]) == 0
    assert "face_grid=16" in capsys.readouterr().out


def test_init_refuses_a_folder_in_use_and_an_unknown_model(model_folder, tmp_path, capsys):
    assert main(["init", "microemo", "--output", str(model_folder)]) == 2
    assert "not empty" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["init", "macroemo", "--output", str(tmp_path / "new")])
    message = capsys.readouterr().err
    assert "did you mean 'microemo'? Accepted are " in message
    assert all(name in message for name in PAPERS)
    assert main(["init", "microemo", "--size", "paper", "--output", str(tmp_path / "new")]) == 2
    assert "tokenizers" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_ablation_can_be_set_from_the_command_line(tmp_path, capsys):
    assert main(["init", "microemo", "--set", "use_utterances=false", "--output", str(tmp_path / "m")]) == 0
    assert json.loads((tmp_path / "m" / "config.json").read_text())["use_utterances"] is False
    assert json.loads((tmp_path / "m" / "processor_config.json").read_text())["use_utterances"] is False


def test_without_a_model_the_one_in_the_box_describes_the_clip(model_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("hf_emotion.starter.FOLDER", model_folder)
    clip = str(write_clip(tmp_path / "clip.mp4"))
    options = ["--max-new-tokens", "2", "--json"]
    assert main(["predict", clip, *options]) == 0
    results = json.loads(capsys.readouterr().out)
    assert main(["predict", clip, "--model", str(model_folder), *options]) == 0
    assert results == json.loads(capsys.readouterr().out)


def test_without_a_command_a_first_one_is_shown(capsys):
    assert main([]) == 0
    assert "hf-emotion predict clip.mp4" in capsys.readouterr().out


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"hf-emotion {hf_emotion.__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_shell_gets_a_script_that_completes_commands_options_and_choices(shell, capsys):
    pytest.importorskip("shtab", reason="shtab is not installed")
    with pytest.raises(SystemExit) as stop:
        main(["--print-completion", shell])
    assert stop.value.code == 0
    script = capsys.readouterr().out
    for word in (*VERBS, "--max-new-tokens", "omni_emotion"):
        assert word.removeprefix("--") in script, word
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_completion_without_shtab_names_the_extra_that_brings_it(monkeypatch, capsys):
    monkeypatch.setattr("hf_emotion.cli.shtab", None)
    with pytest.raises(SystemExit) as stop:
        main(["--print-completion", "bash"])
    assert stop.value.code == 2
    assert "pip install 'hf_emotion[completion]'" in capsys.readouterr().err


def options_of(command, name):
    """(command, option) of a parser and of the steps below it."""
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            for step, below in action.choices.items():
                yield from options_of(below, f"{name} {step}")
        elif action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction):
            yield name, command, action


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_explained_in_one_style_and_names_its_default(verb):
    [commands] = [action for action in parser(verb)._actions if action.dest == "command"]
    for name, command, action in options_of(commands.choices[verb], verb):
        text = command._get_formatter()._expand_help(action) if action.help else ""
        shown = f"{name} {'/'.join(action.option_strings) or action.dest}: {text!r}"
        assert text, shown
        assert not text.endswith("."), shown
        if action.option_strings and action.nargs != 0:
            assert "(default: " in text or text.endswith("(required)"), shown


def test_results_are_written_as_they_come_and_a_second_run_continues(model_folder, tmp_path, capsys):
    first, second = (str(write_clip(tmp_path / name)) for name in ("a.mp4", "b.mp4"))
    missing, output = str(tmp_path / "c.mp4"), tmp_path / "new" / "results.jsonl"
    command = ["--model", str(model_folder), "--max-new-tokens", "2", "--output", str(output)]
    assert main(["predict", first, missing, *command]) == 1
    assert "1 of 2 clips described" in capsys.readouterr().out
    before = output.read_text()
    write_clip(tmp_path / "c.mp4")
    assert main(["predict", first, missing, second, *command]) == 0
    assert "3 of 3 clips described" in capsys.readouterr().out
    lines = output.read_text().splitlines()
    assert lines[0] == before.splitlines()[0]  # with its time: the first clip was not described again
    assert [json.loads(line)["id"] for line in lines] == [first, missing, second]
    assert main(["predict", first, "--num-beams", "2", *command]) == 2
    assert "num_beams was 1 and is now 2" in capsys.readouterr().err
    assert main(["predict", first, first, *command]) == 2
    assert "named twice" in capsys.readouterr().err


def test_the_course_of_a_clip_is_written_as_a_track(model_folder, tmp_path, capsys):
    clip, track = str(write_clip(tmp_path / "clip.mp4")), tmp_path / "clip.TextGrid"
    command = ["--model", str(model_folder), "--max-new-tokens", "2", "--every", "1", "--track", str(track)]
    assert main(["predict", clip, *command]) == 0
    assert capsys.readouterr().out.count("utterance ") == 2
    assert track.read_text(encoding="utf-8").startswith("File type")
    assert main(["predict", clip, clip, *command]) == 2
    assert "course of one clip" in capsys.readouterr().err
