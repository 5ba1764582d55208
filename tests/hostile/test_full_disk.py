"""A full disk, and one that cannot be written: one sentence, an exit code that is not 0, and nothing half-written under
a final name, for each verb.

What `build` and `train` leave on a full disk is tested beside their code.
"""

import json
import tempfile
from types import SimpleNamespace

import av
import numpy as np
import pytest

from hf_emotion import hub, papers
from hf_emotion.cli import main

TOLD = {"description": "The voice is happy.", "question": "What do you hear?", "answer": "Joy."}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk") / "model"
    assert main(["init", "acoustemo", "--set", "vision_config=null", "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    lines = []
    for i in range(3):
        path = folder / f"{i}.wav"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=16000, layout="mono")
            samples = np.random.default_rng(i).integers(-3000, 3000, (1, 16000), dtype=np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        lines.append(json.dumps({"id": str(i), "audio": path.name, "labels": ["happy"], "label": "happy", **TOLD}))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "rows.jsonl"


@pytest.fixture
def run(capsys, files_limited_to):
    """The error of a command whose files may not grow beyond `limit` bytes: run(limit, *words)."""

    def run_limited(limit: int, *words) -> str:
        capsys.readouterr()
        with files_limited_to(limit):
            code = main([str(word) for word in words])
        error = capsys.readouterr().err
        assert code in (1, 2)
        assert "Traceback" not in error
        lines = [line for line in error.splitlines() if line.startswith("hf-emotion")]
        assert len(lines) == 1, error
        return lines[0]

    return run_limited


def test_init_leaves_no_folder(tmp_path, run):
    run(100_000, "init", "microemo", "--output", tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_space_leaves_no_folder(tmp_path, run):
    run(100, "space", "me/model", "--output", tmp_path / "space")
    assert list(tmp_path.iterdir()) == []


def test_inspect_leaves_no_page(tmp_path, run, rows):
    run(100, "inspect", rows.parent / "0.wav", "--output", tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_cache_leaves_no_file_of_features_and_can_be_repeated(tmp_path, run, capsys, model, rows):
    words = ("cache", model, "--data", rows, "--output", tmp_path / "features")
    run(3_000, *words)
    assert not list((tmp_path / "features").glob("features-*.arrow"))
    assert main([str(word) for word in words]) == 0
    assert "3 clips" in capsys.readouterr().out


def test_evaluate_keeps_whole_answers_and_can_be_repeated(tmp_path, run, capsys, model, rows):
    words = ("evaluate", "--model", model, "--data", rows, "--metrics", "emotion_lexicon", "--output", tmp_path / "out")
    words += ("--max-new-tokens", 2, "--bootstrap", 0, "--batch-size", 1)
    run(700, *words)
    assert not (tmp_path / "out" / "scores.json").exists()
    assert main([str(word) for word in words]) == 0
    answers = (tmp_path / "out" / "predictions.jsonl").read_text().strip().split("\n")
    assert sorted(json.loads(line)["id"] for line in answers if "id" in json.loads(line)) == ["0", "1", "2"]


def test_predict_keeps_whole_results(tmp_path, run, model, rows):
    clips = [rows.parent / f"{i}.wav" for i in range(3)]
    words = ("predict", *clips, "--model", model, "--output", tmp_path / "results.jsonl", "--max-new-tokens", 2)
    run(500, *words)
    assert main([str(word) for word in words]) == 0
    results = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().strip().split("\n")]
    assert [result["clip"] for result in results] == [str(clip) for clip in clips]


@pytest.fixture
def hub_of_a_test(monkeypatch):
    """A Hub that only notes the commits it gets."""
    commits = []

    class Api:
        def __init__(self, token=None):
            pass

        def create_commit(self, repo_id, operations, **options):
            commits.append({operation.path_in_repo for operation in operations})
            return SimpleNamespace(commit_url=f"https://hub/{repo_id}")

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub, "prepare", lambda *args: None)
    return commits


def test_push_of_a_model_that_cannot_be_saved_sends_nothing_and_leaves_nothing(
    tmp_path, monkeypatch, hub_of_a_test, files_limited_to
):
    model, processor = papers.build("acoustemo")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with files_limited_to(100_000), pytest.raises(Exception, match=r"File too large|os error 27|Errno 27"):
        hub.push(model, "me/model", processor=processor)
    assert list(tmp_path.iterdir()) == []
    assert hub_of_a_test == []


def test_push_of_a_folder_needs_no_disk(hub_of_a_test, files_limited_to, capsys, model):
    before = {path: path.stat().st_mtime_ns for path in model.rglob("*")}
    with files_limited_to(0):
        assert main(["push", str(model), "me/model"]) == 0
    assert {"README.md", "config.json", "model.safetensors", "handler.py"} <= hub_of_a_test[0]
    assert {path: path.stat().st_mtime_ns for path in model.rglob("*")} == before
    assert "https://hub/me/model" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ("init", "acoustemo", "--output", "OUT"),
        ("space", "me/model", "--output", "OUT"),
        ("inspect", "CLIP", "--output", "OUT"),
        ("predict", "CLIP", "--model", "MODEL", "--output", "OUT"),
        ("cache", "MODEL", "--data", "ROWS", "--output", "OUT"),
        ("evaluate", "--model", "MODEL", "--data", "ROWS", "--metrics", "emotion_lexicon", "--output", "OUT"),
        ("build", "table", "--annotations", "ROWS", "--output", "OUT"),
        ("train", "acoustemo_1_instruction", "--data", "ROWS", "--start-from", "MODEL", "--output", "OUT"),
        ("review", "run", "ROWS", "--describe", "offline", "--judge", "offline", "--output", "OUT"),
    ],
    ids=lambda words: words[0],
)
def test_a_place_that_cannot_be_written_is_one_sentence(capsys, model, rows, words):
    # Not even root can make a file there.
    places = {"OUT": "/proc/hf_emotion/out", "MODEL": model, "ROWS": rows, "CLIP": rows.parent / "0.wav"}
    code = main([str(places.get(word, word)) for word in words])
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("hf-emotion")]
    assert (code, len(lines)) == (2, 1), error
    assert "/proc/hf_emotion" in lines[0]
    assert "unexpected" not in lines[0]
    assert "Traceback" not in error
