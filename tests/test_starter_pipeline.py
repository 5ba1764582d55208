"""The model in the box: the same answer about a real clip from Python, from the pipeline and from the shell."""

import json

from transformers import pipeline

import hf_emotion
from hf_emotion.cli import main


def test_a_smile_is_called_happy_by_every_entrance(shared_data, capsys):
    clip = str(shared_data / "face_clips" / "single_face.mp4")
    result = hf_emotion.starter("cpu")(clip)
    assert result["labels"][0]["label"] == "happy"
    assert result["modalities"] == ["video", "face", "audio"]
    assert pipeline("emotion-recognition", device=-1)(clip) == result
    assert main(["predict", clip, "--json", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out) == [result]
