"""Commands that are stopped, or run out of disk: one line, an exit code, and nothing half written."""

import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from hf_emotion import cli
from hf_emotion.cli import info


@pytest.fixture(autouse=True)
def interruptible():
    """A runner that was started in the background hands down an ignored interrupt."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def run(monkeypatch, action) -> int:
    monkeypatch.setattr(info, "run", lambda args: action())
    return cli.main(["info", "microemo"])


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_unwinds_the_command_and_is_one_line(monkeypatch, capsys, number, code, word):
    unwound = []

    def action():
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        finally:
            unwound.append(True)

    before = signal.getsignal(signal.SIGTERM)
    assert run(monkeypatch, action) == code
    assert capsys.readouterr().err == f"hf-emotion: {word}\n"
    assert unwound
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("clip.mp4 is empty"), "clip.mp4 is empty"),
        (KeyError("name"), "unexpected KeyError: 'name' (HF_EMOTION_DEBUG=1 shows where)"),
        (MemoryError(), "out of memory"),
        (RecursionError("too deep"), "too deep"),
        (AssertionError(), "unexpected AssertionError: no message (HF_EMOTION_DEBUG=1 shows where)"),
    ],
)
def test_an_error_of_any_kind_is_one_line_and_exit_code_2(monkeypatch, capsys, error, sentence):
    def action():
        raise error

    assert run(monkeypatch, action) == 2
    assert capsys.readouterr().err == f"hf-emotion: {sentence}\n"
    monkeypatch.setenv("HF_EMOTION_DEBUG", "1")
    with pytest.raises(type(error)):
        run(monkeypatch, action)


def command(*arguments, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "hf_emotion.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize("limit", [1000, 300_000])
def test_init_on_a_full_disk_leaves_nothing_and_says_so_in_one_line(tmp_path, limit):
    process = command(
        "init",
        "microemo",
        "--output",
        tmp_path / "model",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert len(errors.strip().splitlines()) == 1, errors
    assert "model" in errors
    assert list(tmp_path.iterdir()) == []


def test_init_stopped_by_sigterm_leaves_nothing(tmp_path):
    process = command("init", "microemo", "--output", tmp_path / "model")
    deadline = time.monotonic() + 100
    while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    if process.returncode == 0:
        assert [file.name for file in tmp_path.iterdir()] == ["model"]
    else:
        assert (process.returncode, errors) == (143, "hf-emotion: terminated\n")
        assert list(tmp_path.iterdir()) == []
