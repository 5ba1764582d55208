"""Rows shared over processes: who does what, and what is left when one of them dies."""

import json
import os
import subprocess
import sys
import wave
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from hf_emotion.data import shares
from hf_emotion.data.shares import Processes, ResultFile, ResultFileError, processes
from hf_emotion.evaluation import evaluate

ROWS = [{"id": str(i), "video": f"{i}.mp4"} for i in range(7)]


class Threads:
    """Two processes, played by threads that meet as processes do."""

    def __init__(self, count=2):
        meeting = Barrier(count, timeout=20)

        class Thread(Processes):
            def wait(self):
                meeting.wait()

        self.shares = [Thread(rank, count) for rank in range(count)]

    def run(self, work):
        with ThreadPoolExecutor(len(self.shares)) as pool:
            return list(pool.map(work, self.shares))


def describe(clips, utterances, question):
    return [{"clip": clip, "description": f"about {clip}"} for clip in clips]


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def without_times(answers):
    return [{name: value for name, value in answer.items() if name != "seconds"} for answer in answers]


def test_two_processes_answer_what_one_answers(tmp_path):
    alone = evaluate.predict(ROWS, describe, tmp_path / "alone.jsonl", {"model": "m"}, batch_size=2)
    path = tmp_path / "results[1].jsonl"  # not a pattern
    first, second = Threads().run(lambda share: evaluate.predict(ROWS, describe, path, {"model": "m"}, share=share))
    assert without_times(first) == without_times(second) == without_times(alone)
    assert (first.written, second.written) == (4, 3)
    assert [answer["id"] for answer in lines(path)] == [row["id"] for row in ROWS]
    assert sorted(os.listdir(tmp_path)) == ["alone.jsonl", "alone.run.json", "results[1].jsonl", "results[1].run.json"]


def test_what_a_dead_process_wrote_is_kept_and_the_rest_is_shared_anew(tmp_path):
    path, asked = tmp_path / "results.jsonl", []

    def dies(clips, utterances, question):
        if clips[0] in ("3.mp4", "4.mp4"):
            raise KeyboardInterrupt
        return describe(clips, utterances, question)

    def run(share):
        with pytest.raises(KeyboardInterrupt):
            evaluate.predict(ROWS, dies, path, {"model": "m"}, batch_size=1, share=share)

    Threads().run(run)  # 0, 2 and 1 were answered
    [part] = tmp_path.glob("results.2-of-2.*.jsonl")
    with part.open("a") as file:
        file.write('{"id": "3", "descr')  # killed in the middle of a line
    assert not path.exists()

    def counted(clips, utterances, question):
        asked.extend(clips)
        return describe(clips, utterances, question)

    three = Threads(3).run(lambda share: evaluate.predict(ROWS, counted, path, {"model": "m"}, share=share))
    assert sorted(asked) == ["3.mp4", "4.mp4", "5.mp4", "6.mp4"]
    assert [results.written for results in three] == [2, 1, 1]
    assert [answer["description"] for answer in lines(path)] == [f"about {row['video']}" for row in ROWS]


def test_a_result_stands_before_an_error_and_a_later_one_before_an_earlier_one(tmp_path):
    path = tmp_path / "results.jsonl"
    for contents in ([("a", 1), ("b", 1)], [("a", 2), ("c", None)], [("b", None)]):
        file = ResultFile(path, separate=True)
        with file.writing():
            for name, value in contents:
                file.add({"id": name, "error": "broken"} if value is None else {"id": name, "value": value})
    results = ResultFile(path)
    assert set(results.places(only_good=True)) == {"a", "b"}
    results.merge(["c", "a"])
    assert list(results) == [{"id": "c", "error": "broken"}, {"id": "a", "value": 2}]
    assert lines(path) == [*results, {"id": "b", "value": 1}]  # rows of another call are kept
    assert os.listdir(tmp_path) == ["results.jsonl"]


def test_a_line_that_is_not_a_result_is_named(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"id": "a"}\n[1]\n')
    with pytest.raises(ResultFileError, match="the line at byte 12 is not a result"):
        ResultFile(path).places()


def test_a_single_process_is_recognised_and_tasks_of_slurm_are_counted(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "SLURM_STEP_NUM_TASKS", "MASTER_ADDR", "SLURM_LAUNCH_NODE_IPADDR"):
        monkeypatch.delenv(name, raising=False)
    assert processes() == Processes(0, 1)
    step = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "70123"}
    for name, value in step.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="MASTER_ADDR is not set"):
        processes()
    monkeypatch.setenv("MASTER_ADDR", "node1")
    expected = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node1", "MASTER_PORT": "20123"}
    assert shares.variables_of_slurm() == expected


def test_torchrun_shares_the_sound_of_a_build(tmp_path):
    for name in "abc":
        with wave.open(str(tmp_path / f"{name}.wav"), "wb") as file:
            file.setparams((1, 2, 16000, 0, "NONE", None))
            file.writeframes(bytes(16000))
    (tmp_path / "table.csv").write_text("name,label\n" + "".join(f"{name},happy\n" for name in "abc"))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    command += ["-m", "hf_emotion.cli", "build", "table", "--annotations", str(tmp_path / "table.csv")]
    command += ["--media", str(tmp_path), "--utterances", "whole", "--licence", "cc0-1.0"]
    command += ["--output", str(tmp_path / "built"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    [report] = [json.loads(done.stdout)]  # one process reports
    assert report["splits"]["train"]["utterances"] == 3
    assert not list(tmp_path.glob(".built*"))
