"""Rows on a Ray cluster: whatever dies on the way, each row has one result."""

import json
import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest

from hf_emotion.cli import main

# In a process of its own: Ray leaves threads and handlers behind. What Ray runs is defined in a function, so that its
# workers need not import this file.
FLOW = """
import json, os, signal, sys
from pathlib import Path
from hf_emotion import cluster

folder = Path(sys.argv[1])

def main():
    def once(name):
        try:
            (folder / name).touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    def task(row, word):
        number = json.loads(row["row"])
        if number == 5:
            once("task")
        return {"text": f"{word} {number}", "pid": os.getpid()}

    class Actor:
        def __init__(self, times):
            self.times = times

        def __call__(self, batch):
            if "row 9" in batch["text"]:
                once("actor")
            return {"text": [text * self.times for text in batch["text"]], "task": batch["pid"],
                    "actor": [os.getpid()] * len(batch["text"])}

    cluster.connect()
    data = cluster.flow(list(range(12)), task, {"word": "row"}, Actor, {"times": 2}, batch_size=2)
    rows = list(data.iter_rows())
    label = {"label": "sad", "score": 0.5}
    answers = [{"id": row["text"], "labels": [label] if i else []} for i, row in enumerate(rows)]
    answers = cluster.ray.data.from_items([{"answer": json.dumps(answer)} for answer in answers])
    for name in ("jsonl", "parquet"):
        output = f"file://{folder}/answers.{name}"
        assert cluster.read_ids(output) == set()
        assert cluster.write(answers, output) == 0
        assert len(cluster.read_ids(output)) == 12
    (folder / "rows.json").write_text(json.dumps(rows, default=int))

main()
"""


def test_rows_pass_tasks_and_actors_once_though_a_worker_of_each_kind_is_killed(tmp_path):
    pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'hf_emotion[ray]'")
    # A busy machine starts Ray slowly.
    environment = {**os.environ, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_raylet_start_wait_time_s": "300"}
    command = [sys.executable, "-c", FLOW, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert sorted(row["text"] for row in rows) == sorted(f"row {i}row {i}" for i in range(12))
    assert {"actor", "task"} <= set(os.listdir(tmp_path))  # both were killed
    assert not {row["task"] for row in rows} & {row["actor"] for row in rows}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_answers_are_written_to_a_store_and_a_repeated_task_writes_the_same_file(suffix):
    from hf_emotion import cluster

    output = f"memory://answers.{suffix}"
    assert cluster.read_ids(output) == set()
    answers = [
        {"id": "a", "description": "calm", "labels": [{"label": "calm", "score": 0.5}], "seconds": 1},
        {"id": "b", "error": "no such file", "seconds": 0.5},
    ]
    batch = {"answer": list(map(json.dumps, answers))}
    for _ in range(2):
        assert cluster.write_part(batch, output, suffix, "1") == {"failed": [False, True]}
    system = fsspec.filesystem("memory")
    try:
        assert cluster.read_ids(output) == {"a", "b"}
        assert len(system.find(f"answers.{suffix}")) == 1
    finally:
        system.rm(f"answers.{suffix}", recursive=True)


def test_an_engine_that_cannot_be_used_is_refused_in_a_sentence(tmp_path, monkeypatch, capsys):
    from hf_emotion import cluster

    clip, output = str(tmp_path / "a.mp4"), str(tmp_path / "results.jsonl")
    assert main(["predict", clip, "--engine", "ray"]) == 2
    assert "--engine ray needs --output" in capsys.readouterr().err
    monkeypatch.setattr(cluster, "ray", None)
    assert main(["predict", clip, "--engine", "ray", "--output", output]) == 2
    assert "pip install 'hf_emotion[ray]'" in capsys.readouterr().err
    assert not Path(output).exists()
