"""Suites as tasks of lmms-eval: what is written, and what its functions give. The model needs lmms-eval itself."""

import importlib.util
import json
import sys
import wave

import numpy as np
import pytest
import yaml

from hf_emotion.evaluation.lmms_tasks import doc_to_text, doc_to_visual, write_tasks
from hf_emotion.evaluation.suite import load_suite

NAME = "hf_emotion_ravdess_speech"


@pytest.fixture
def tasks(tmp_path):
    data = tmp_path / "ravdess" / "Actor_01"
    data.mkdir(parents=True)
    for emotion in ("01", "05"):
        with wave.open(str(data / f"03-01-{emotion}-01-01-01-01.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16_000)
            file.writeframes(np.zeros(1600, np.int16).tobytes())
    assert write_tasks(load_suite("ravdess"), data.parent, tmp_path / "tasks") == [NAME]
    return tmp_path / "tasks"


def functions(tasks):
    specification = importlib.util.spec_from_file_location("made", tasks / f"{NAME}_utils.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_a_suite_becomes_a_folder_of_tasks_and_a_group(tasks):
    group = yaml.safe_load((tasks / "hf_emotion_ravdess.yaml").read_text())
    assert group == {"group": "hf_emotion_ravdess", "task": [NAME]}
    text = (tasks / f"{NAME}.yaml").read_text()
    config = yaml.safe_load(text.replace("!function ", ""))
    assert config["dataset_kwargs"]["data_files"]["test"] == str(tasks / f"{NAME}.jsonl")
    assert [metric["metric"] for metric in config["metric_list"]] == ["uar", "war"]
    docs = [json.loads(line) for line in (tasks / f"{NAME}.jsonl").read_text().splitlines()]
    assert [json.loads(doc["truth"]) for doc in docs] == ["neutral", "angry"]


def test_the_functions_of_a_task_ask_and_score_as_the_suite_does(tasks):
    made = functions(tasks)
    docs = [json.loads(line) for line in (tasks / f"{NAME}.jsonl").read_text().splitlines()]
    [sound] = doc_to_visual(docs[0])
    assert (len(sound["array"]), sound["sampling_rate"]) == (1600, 16_000)
    assert doc_to_text(docs[0], {"post_prompt": " Answer:"}).endswith("clearly expressed? Answer:")
    replies = ["<think>angry?</think><answer>neutral</answer>", "calm"]
    found = [made.process_results(doc, [reply]) for doc, reply in zip(docs, replies, strict=True)]
    assert made.uar([one["uar"] for one in found]) == 0.5
    assert made.war([one["war"] for one in found]) == 0.5


def test_data_without_clips_of_the_suite_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="RAVDESS"):
        write_tasks(load_suite("ravdess"), tmp_path / "empty", tmp_path / "tasks")
    assert not (tmp_path / "tasks").exists()


def test_the_entry_point_names_the_model_and_its_class():
    pytest.importorskip("lmms_eval", reason="lmms-eval is not installed")
    from hf_emotion.evaluation import lmms_plugin

    manifest = lmms_plugin.manifest()
    module, _, name = manifest.simple_class_path.rpartition(".")
    assert manifest.model_id == "hf_emotion"
    assert getattr(sys.modules[module], name) is lmms_plugin.EmotionLMM
