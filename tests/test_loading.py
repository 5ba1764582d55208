"""Clips read ahead of a model: in order, each once, by workers or without, with the same results."""

import inspect
import math
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest

from hf_emotion.data.demo import make_demo
from hf_emotion.data.loading import (
    ClipDataset,
    Clips,
    ThreadLoader,
    clip_loader,
    each_once,
    end_with_parent,
    items_of_rows,
    usual_workers,
)
from hf_emotion.evaluation.evaluate import predict
from hf_emotion.inference import Describer, describe, pipeline_of
from hf_emotion.papers import build


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return make_demo(folder, 3, cues=("prosody",), controls=0.0, size=64, fps=4, num_workers=0, progress=False)


@pytest.fixture(scope="module")
def parts():
    model, processor = build("microemo")
    return model.eval(), processor


def test_a_clip_with_several_questions_is_read_once_while_it_is_kept():
    read, places = each_once("abacbdda", size=2)
    assert ["abacbdda"[row] for row in read] == ["a", "b", "c", "b", "d", "a"]
    items = (letter for letter in ["a", "b", "c", "b", "d", "a"])
    assert "".join(items_of_rows(items, places)) == "abacbdda"
    rng = np.random.default_rng(0)
    keys = rng.integers(0, 30, 500).tolist()
    for kept in (1, 5, 100):
        read, places = each_once(keys, kept)
        assert list(items_of_rows((keys[row] for row in read), places)) == keys
    assert len(each_once(keys)[0]) == len(set(keys))


def test_workers_follow_cores_processes_and_clips(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(16)), raising=False)
    for name in ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE", "OMPI_COMM_WORLD_LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert [usual_workers(clips) for clips in (10, 100, 10_000)] == [0, 4, 16]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert usual_workers(10_000) == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert usual_workers(10_000) == 1


def test_worker_processes_and_threads_give_what_this_thread_gives(rows, parts, tmp_path):
    processor = parts[1]
    sources = [rows[0]["video"], str(tmp_path / "none.mp4"), rows[1]["video"]]
    clips = Clips(processor, sources, [rows[0]["utterances"], None, None], options={"num_frames": 2})
    assert pickle.loads(pickle.dumps(clips)).processor.face_finder.threads == 1
    expected = list(clip_loader(clips, 0))
    assert expected[1] == f"{sources[1]}: no such file; the path of a video, sound or picture file is accepted."
    threads = clip_loader(clips, None)
    assert isinstance(threads, ThreadLoader)
    assert len(threads) == 3
    for loader in (clip_loader(clips, 1), threads):
        for one, other in zip(expected, loader, strict=True):
            if isinstance(one, str):
                assert one == other
                continue
            assert (one.source, one.utterances, one.placeholders, one.report) == (
                (other.source, other.utterances, other.placeholders, other.report)
            )
            assert one.tensors.keys() == other.tensors.keys()
            assert all(np.array_equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


class Slow(ClipDataset):
    """Numbers that take longer the smaller they are; notes which of them were read."""

    def __init__(self, count):
        self.processor, self.count, self.read = None, count, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        time.sleep(0.002 * (self.count - index))
        self.read.append(index)
        if index == 11:
            raise KeyError(index)
        return index


def test_threads_read_in_order_no_further_ahead_than_asked_and_stop_with_their_reader():
    numbers = Slow(10)
    assert list(ThreadLoader(numbers, 3, 4)) == list(range(10))
    numbers = Slow(40)
    reader = iter(ThreadLoader(numbers, 2, 4))
    assert next(reader) == 0
    time.sleep(0.3)
    assert max(numbers.read) == 4
    reader.close()
    time.sleep(0.1)
    assert len(numbers.read) == 5
    with pytest.raises(KeyError):
        list(ThreadLoader(Slow(12), 2, 4))


# A worker, and the process that starts it, without the seconds that this package's imports take and the threads that a
# fork of the test's process would miss.
PARENT = """
import multiprocessing, os, sys, threading, time
from functools import cache
from multiprocessing import connection
{function}
def work():
    end_with_parent()
    print(os.getpid(), flush=True)
    time.sleep(60)

worker = multiprocessing.get_context("fork").Process(target=work)
worker.start()
worker.join()
"""


def test_a_copy_for_a_thread_does_not_tie_this_process_to_its_parent(parts, monkeypatch):
    def refuse():
        raise AssertionError("a thread is not a worker process")

    monkeypatch.setattr("hf_emotion.data.loading.end_with_parent", refuse)
    clips = Clips(parts[1], ["a.mp4"], [None])
    twin = clips.for_thread()
    assert twin.processor is not clips.processor
    assert twin.processor.face_finder.threads == 1
    with pytest.raises(AssertionError, match="not a worker"):
        pickle.loads(pickle.dumps(clips))


def test_a_worker_process_ends_with_the_process_that_started_it():
    script = PARENT.format(function=inspect.getsource(end_with_parent))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        assert worker != parent.pid
        parent.kill()
        # The pipe ends when the last of its writers does.
        begun = time.monotonic()
        assert parent.stdout.read() == ""
    assert time.monotonic() - begun < 20, "the worker outlived its parent"


def test_results_come_in_order_and_as_the_pipeline_gives_them(rows, parts, tmp_path, monkeypatch):
    model, processor = parts
    load, opened = processor._load, []
    monkeypatch.setattr(processor, "_load", lambda video, *args: opened.append(video) or load(video, *args))
    options = {"num_frames": 2, "max_new_tokens": 4, "per_utterance": False}
    clips = [rows[i]["video"] for i in (0, 1, 0, 2, 0)] + ["none.mp4"]
    questions = ["How?", None, "Why?", None, "What?", None]
    describer = Describer(model, processor, batch_size=2, **options)
    results = list(describer.stream(clips, None, questions))
    assert sorted(path for path in opened if isinstance(path, str)) == sorted({*clips})
    pipe = pipeline_of(model, processor)
    for clip, question, result in zip(clips, questions, results, strict=True):
        expected = pipe([{"clip": clip, "question": question}], **options)[0]
        assert result.keys() == expected.keys()
        assert result["clip"] == clip
        assert result.get("description") == expected.get("description")
        assert result.get("error") == expected.get("error")
        for label, other in zip(result.get("labels", []), expected.get("labels", []), strict=True):
            assert math.isclose(label["score"], other["score"], rel_tol=1e-3)
    asked = [{**row, "question": question} for row, question in zip(rows, ("How?", "Why?", None), strict=True)]
    answers = list(predict(asked, describer, tmp_path / "a.jsonl", {}))
    alone = [
        describe([row["video"]], *parts, utterances=[row["utterances"]], question=row["question"], **options)
        for row in asked
    ]
    assert [answer["description"] for answer in answers] == [result["description"] for [result] in alone]
