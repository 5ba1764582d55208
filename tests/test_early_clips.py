"""Clips that a second process reads while `predict` imports torch: the same results, and nothing lost without it."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from argparse import Namespace

import numpy as np
import pytest

from hf_emotion.cli import main
from hf_emotion.data import early_clips
from hf_emotion.data.demo import make_demo
from hf_emotion.data.early_clips import FEWEST_CLIPS, EarlyClips, Reading, beginning, received, send, settings_of
from hf_emotion.inference import load
from hf_emotion.processing.faces import FaceFinder
from hf_emotion.processing.media import load_clip


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("early")
    rows = make_demo(folder / "demo", 2, cues=("prosody",), controls=0.0, size=64, fps=4, num_workers=0, progress=False)
    sources = [row["video"] for row in rows]
    paths = []
    for number in range(FEWEST_CLIPS):
        paths.append(str(folder / f"{number}.mp4"))
        shutil.copy(sources[number % len(sources)], paths[-1])
    return paths


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1}, raising=False)


def arguments(clips, **changes):
    usual = dict.fromkeys(["num_workers", "output", "num_frames", "sampling", "fps", "max_duration", "modalities"])
    return Namespace(
        **{**usual, "clips": clips, "engine": "local", "trust_remote_code": False, "model": None, **changes}
    )


def answers(clips, capsys, *options):
    code = main(["predict", *clips, "--json", "--max-new-tokens", "8", "--whole-clip-only", *options])
    printed = capsys.readouterr()
    return code, json.loads(printed.out), printed.err


def test_a_folder_says_how_its_processor_reads(tmp_path):
    folders = [early_clips.STARTER, tmp_path / "model"]
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["init", "microemo", "--output", str(folders[1])]) == 0
    for folder in folders:
        settings, (_, processor) = settings_of(folder), load(folder)
        assert settings["clips"] == processor.reading_arguments()
        assert FaceFinder(**settings["faces"]).to_dict() == processor.face_finder.to_dict()
    assert EarlyClips.fits(Namespace(settings=settings), processor, {})
    assert not EarlyClips.fits(Namespace(settings=settings), processor, {"num_frames": 3})
    processor.face_finder.min_area = 0.2
    assert not EarlyClips.fits(Namespace(settings=settings), processor, {})
    assert not EarlyClips.fits(Namespace(settings=settings), object(), {})


def test_of_other_folders_nothing_is_said(tmp_path):
    assert settings_of(tmp_path) is None
    config = json.loads((early_clips.STARTER / "processor_config.json").read_text())
    changes = {"processor_class": "ESVAProcessor", "sampling": "peak", "face_config": None, "modalities": 3}
    for name, value in changes.items():
        (tmp_path / "processor_config.json").write_text(json.dumps({**config, name: value}))
        assert settings_of(tmp_path) is None
    (tmp_path / "processor_config.json").write_text("[")
    assert settings_of(tmp_path) is None


def test_answers_are_those_without_the_process(clips, capsys, monkeypatch, two_cores):
    taken = []
    take = EarlyClips.take
    monkeypatch.setattr(EarlyClips, "take", lambda self, number: taken.append(take(self, number)) or taken[-1])
    early = answers(clips, capsys)
    assert len(taken) == len(clips)
    assert all(taken)
    monkeypatch.setattr(early_clips, "FEWEST_CLIPS", len(clips) + 1)
    assert answers(clips, capsys)[:2] == early[:2]
    assert len(taken) == len(clips)  # not used again


def test_a_clip_that_cannot_be_read_is_reported_and_the_others_are_described(clips, capsys, tmp_path, two_cores):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no clip at all")
    code, results, errors = answers([*clips[:3], str(broken), *clips[3:]], capsys)
    assert code == 1
    assert ["error" in result for result in results] == [number == 3 for number in range(len(clips) + 1)]
    assert "broken.mp4" in errors


def test_nothing_is_lost_when_the_process_is_killed(clips, capsys, monkeypatch, two_cores):
    expected = answers(clips, capsys)
    take, used = EarlyClips.take, []

    def take_or_kill(self, number):
        if number == 2:
            self._process.kill()
            self._process.wait()
        used.append(take(self, number))
        return used[-1]

    monkeypatch.setattr(EarlyClips, "take", take_or_kill)
    assert answers(clips, capsys)[:2] == expected[:2]
    assert used[0] is not None


def test_only_calls_that_gain_start_the_process(clips, monkeypatch, two_cores):
    started = []
    monkeypatch.setattr(early_clips, "EarlyClips", lambda *given: started.append(given) or contextlib.nullcontext())
    for changes in (
        {"clips": clips[:-1]},
        {"clips": [*clips[:-1], clips[0]]},
        {"clips": [*clips[:-1], "https://example.org/clip.mp4"]},
        {"num_workers": 0},
        {"output": "answers.jsonl"},
        {"engine": "ray"},
        {"trust_remote_code": True},
        {"fps": 2.0},
        {"model": "someone/model"},
    ):
        beginning(arguments(**{"clips": clips, **changes}))
    assert not started
    beginning(arguments(clips))
    assert len(started) == 1
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0}, raising=False)
    beginning(arguments(clips))
    assert len(started) == 1


def test_the_process_needs_no_torch():
    code = "import hf_emotion.data.early_clips, hf_emotion.processing.media, hf_emotion.processing.faces, sys;"
    code += "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_objects_pass_a_pipe_whole():
    item = {"frames": np.arange(70_000, dtype=np.uint8).reshape(100, 700), "empty": np.zeros((0, 3)), "text": "a"}
    pipe = io.BytesIO()
    send(item, pipe)
    send(None, pipe)
    pipe.seek(0)
    copy = received(pipe)
    np.testing.assert_array_equal(copy["frames"], item["frames"])
    copy["frames"][0] = 1  # as writable as an array made here
    assert copy["empty"].shape == (0, 3)
    assert received(pipe) is None
    with pytest.raises(EOFError):
        received(pipe)
    with pytest.raises(EOFError):
        received(io.BytesIO(pipe.getvalue()[:-20][: len(pipe.getvalue()) // 2]))


def test_memory_of_clips_read_ahead_is_bounded(clips, monkeypatch):
    monkeypatch.setattr(early_clips, "BYTES_AHEAD", 1)
    settings = settings_of(early_clips.STARTER)
    settings["faces"]["backend"] = "given"  # no search: it fails, and the clip counts nothing
    reading = Reading(settings)
    reading.bytes = 2
    reading.ask()
    assert reading.read(0, clips[0]) is None  # the clip that is wanted, whatever the others need
    another = threading.Thread(target=reading.read, args=(1, clips[1]), daemon=True)
    another.start()
    another.join(0.3)
    assert another.is_alive()
    reading.forget((load_clip(clips[0], num_frames=1), None))
    assert reading.bytes < 1
    another.join(60)
    assert not another.is_alive()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="a process cannot be killed like this here")
def test_the_process_ends_with_the_one_that_started_it(clips, tmp_path):
    script = (
        "import json, sys, time; from hf_emotion.data.early_clips import *; from hf_emotion.data import early_clips;"
        "early = EarlyClips(json.loads(sys.argv[1]) * 50, settings_of(early_clips.STARTER));"
        "early.take(0); print(early._process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, json.dumps(clips)], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    os.kill(child, 0)
    parent.kill()
    parent.wait()
    for _ in range(100):
        try:
            os.kill(child, 0)
            with open(f"/proc/{child}/stat") as file:
                if ") Z " in file.read():
                    break
        except (ProcessLookupError, FileNotFoundError):
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        pytest.fail("the process lives on")
    parent.stdout.close()
