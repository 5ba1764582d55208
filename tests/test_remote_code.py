"""A model folder stands on its own: it loads and generates where `hf_emotion` cannot be imported."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

import hf_emotion
from hf_emotion.papers import PAPERS, build
from hf_emotion.processing.faces import FaceError

AUTO_CLASSES = ("AutoModel", "AutoModelForMultimodalLM", "AutoModelForImageTextToText", "AutoModelForCausalLM")

CHILD = """
import json, sys
sys.modules["hf_emotion"] = None  # any import of it now fails
import numpy as np, torch, transformers
folder, clip, result = sys.argv[1:]
config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=True)
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
stored = np.load(clip)
clip = {"frames": stored["frames"], "fps": 4, "waveform": stored["waveform"], "sampling_rate": 16000}
batch = processor(videos=[clip], text=["How does she feel?"], utterances=[[(0.2, 0.9, "well")]], return_tensors="pt")
found = {"model_type": config.model_type, "generated": {}, "face_models": processor.face_finder.task_path}
found["video_token"] = tokenizer.convert_tokens_to_ids(processor.video_token)
for name in json.loads(sys.stdin.read()):
    model = getattr(transformers, name).from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        found["generated"][name] = model.generate(**batch, max_new_tokens=6, do_sample=False)[0].tolist()
        logits = model(**batch).logits
torch.save({"logits": logits, "batch": dict(batch)}, result)
model.save_pretrained(result + "_again")
processor.save_pretrained(result + "_again")
print(json.dumps(found))
"""


@pytest.mark.parametrize("name", PAPERS)
def test_a_folder_loads_and_generates_alike_without_the_package(name, tmp_path):
    import numpy as np

    model, processor = build(name)
    folder = tmp_path / name
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    generator = np.random.default_rng(0)
    media = {
        "frames": generator.integers(0, 255, (8, 64, 64, 3), dtype=np.uint8),
        "waveform": generator.normal(0, 0.1, 32000).astype(np.float32),
    }
    np.savez(tmp_path / "clip.npz", **media)
    clip = {**media, "fps": 4, "sampling_rate": 16000}
    batch = processor(
        videos=[clip], text=["How does she feel?"], utterances=[[(0.2, 0.9, "well")]], return_tensors="pt"
    )
    # Both sides read their weights from the file: weights made in memory lie on other boundaries, where matrix products
    # may round otherwise in the last bits.
    loaded = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = loaded(**batch).logits
        generated = model.generate(**batch, max_new_tokens=6, do_sample=False)[0].tolist()

    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    result = tmp_path / "result.pt"
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), str(tmp_path / "clip.npz"), str(result)],
        input=json.dumps(AUTO_CLASSES),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    found = json.loads(child.stdout.splitlines()[-1])
    assert found["model_type"] == name
    assert found["video_token"] == model.config.video_token_id
    assert found["face_models"] == (str(folder / "face_landmarker.task") if processor.looks_at_faces else None)
    assert found["generated"] == dict.fromkeys(AUTO_CLASSES, generated)
    theirs = torch.load(result, weights_only=False)
    for key, value in batch.items():
        assert torch.equal(theirs["batch"][key], value), key
    assert torch.equal(theirs["logits"], logits)
    # What was loaded by remote code can be saved again, code and all.
    assert {path.name for path in folder.iterdir()} == {path.name for path in (tmp_path / "result.pt_again").iterdir()}


def files_needed_by(*names):
    """The shipped files that these import, directly or through others, and they themselves."""
    folder = Path(hf_emotion.__file__).parent
    files = {file.name: file for room in ("modeling", "processing", "answers") for file in (folder / room).glob("*.py")}
    needed, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        needed.add(name)
        imported = re.findall(r"^from \.(\w+) import", files[name].read_text(encoding="utf-8"), flags=re.MULTILINE)
        waiting += {f"{module}.py" for module in imported} - needed
    return needed


def test_the_folder_holds_exactly_the_files_that_the_model_the_processor_and_the_pipeline_need(tmp_path):
    model, processor = build("microemo")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    files = {path.name for path in tmp_path.glob("*.py")}
    components = ("feature_extraction_imagebind.py", "image_processing_emotion.py")
    assert files == files_needed_by(
        "modeling_microemo.py", "processing_microemo.py", "pipeline_emotion.py", *components
    )
    assert {"modeling_emotion.py", "generation_emotion.py", "sound.py", "qformer.py", "words.py"} <= files
    assert not any("esva" in name for name in files)
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert auto_map == {
        "AutoConfig": "configuration_microemo.MicroEmoConfig",
        "AutoProcessor": "processing_microemo.MicroEmoProcessor",
        **dict.fromkeys(AUTO_CLASSES, "modeling_microemo.MicroEmoForConditionalGeneration"),
    }


def test_face_models_of_a_folder_are_refused_if_they_are_not_those_that_its_code_expects(tmp_path, monkeypatch):
    processor = build("microemo")[1]
    processor.save_pretrained(tmp_path)
    monkeypatch.setattr("hf_emotion.processing.processing_emotion.models_file", lambda: None)  # as without the package
    monkeypatch.delenv("HF_EMOTION_FACE_LANDMARKER", raising=False)
    models = tmp_path / "face_landmarker.task"
    assert type(processor).from_pretrained(tmp_path).face_finder.task_path == str(models)
    models.write_bytes(b"something else")
    with pytest.raises(FaceError, match=r"face_landmarker\.task is not hf_emotion's file of face models"):
        type(processor).from_pretrained(tmp_path)
    models.unlink()
    assert type(processor).from_pretrained(tmp_path).face_finder.task_path is None


def test_the_package_needs_no_remote_code_for_its_own_models(tmp_path):
    from transformers import AutoProcessor

    model, processor = build("microemo")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path)) is hf_emotion.MicroEmoForConditionalGeneration
    assert type(AutoProcessor.from_pretrained(tmp_path)) is hf_emotion.MicroEmoProcessor
