"""Adapters: what they hold, that they load by themselves on a base from its folder, switch and merge."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers.utils import is_bitsandbytes_available

from hf_emotion.data.demo import make_demo
from hf_emotion.inference import load
from hf_emotion.papers import build
from hf_emotion.training.check_rows import BadRowsError
from hf_emotion.training.collator import encode
from hf_emotion.training.recipe import limited_to, read_recipe
from hf_emotion.training.train import TrainingError, four_bit, run_phases, select, unquantized

# Runs where hf_emotion cannot be imported: code and processor come with the base's folder.
CHILD = """
import sys
sys.modules["hf_emotion"] = None
import torch
from peft import PeftModel
from transformers import AutoModel, AutoModelForCausalLM, AutoProcessor
base, adapter, other, sample, result = sys.argv[1:]
batch = torch.load(sample)
AutoProcessor.from_pretrained(base, trust_remote_code=True)
logits = {}
with torch.no_grad():
    plain = AutoModelForCausalLM.from_pretrained(base, trust_remote_code=True).eval()
    logits["base"] = plain(**batch).logits
    peft = PeftModel.from_pretrained(plain, adapter).eval()
    logits["peft"] = peft(**batch).logits
    peft.load_adapter(other, "other")
    peft.set_adapter("other")
    logits["other"] = peft(**batch).logits
    peft.set_adapter("default")
    logits["back"] = peft(**batch).logits
    with peft.disable_adapter():
        logits["disabled"] = peft(**batch).logits
    logits["merged"] = peft.merge_and_unload()(**batch).logits
    loaded = AutoModel.from_pretrained(base, trust_remote_code=True)
    loaded.load_adapter(adapter)
    logits["load_adapter"] = loaded.eval()(**batch).logits
torch.save(logits, result)
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return make_demo(folder, 4, cues=("prosody",), controls=0.0, size=64, fps=4, num_workers=0, progress=False)


@pytest.fixture(scope="module")
def trained(demo, tmp_path_factory):
    """MicroEmo's base folder, its adapter's and another adapter's, each after two steps."""
    folder = tmp_path_factory.mktemp("runs")
    model, processor = build("microemo")
    model.save_pretrained(folder / "base")
    processor.save_pretrained(folder / "base")
    recipe = read_recipe("microemo_1_instruction", "tiny", epochs=1, max_steps=2, learning_rate=1e-2, warmup=0)
    options = {"use_cpu": True, "save_strategy": "no"}
    [report] = run_phases(folder / "base", demo, [recipe], folder / "one", **options)
    run_phases(folder / "base", demo[::-1], [recipe], folder / "two", seed=1, **options)
    return folder / "base", folder / "one" / "phase_1", folder / "two" / "phase_1", report


def tensors(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_the_adapter_holds_all_that_was_trained_and_nothing_else(trained):
    base, adapter, _, report = trained
    assert not (adapter / "model.safetensors").exists()
    kept = tensors(adapter / "adapter_model.safetensors")
    named = {name.replace(".default", "").replace(".modules_to_save", "") for name in report["trained"]}
    assert {name.replace(".modules_to_save", "") for name in kept} == named
    before = tensors(base / "model.safetensors")
    lora = [name for name in kept if "lora_" in name]
    assert lora
    assert all(".language_model.layers." in name for name in lora)
    whole = {name.removeprefix("base_model.model."): tensor for name, tensor in kept.items() if "lora_" not in name}
    parts = {name.split(".")[1] for name in whole}
    assert parts == set(report["recipe"]["trains"])
    assert whole.keys() == {name for name in before if name.split(".")[1] in parts}


def test_only_the_named_layers_of_the_language_model_have_lora(trained):
    base, *_ = trained
    model, _ = load(base, device="cpu")
    recipe = read_recipe("microemo_1_instruction", "tiny")
    recipe = limited_to(recipe, [name for name, _ in model.model.named_children()])
    adapted = select(model, recipe)
    with_lora = {name.rsplit(".lora_", 1)[0] for name, _ in adapted.named_parameters() if ".lora_" in name}
    expected = {
        f"base_model.model.model.language_model.layers.{i}.self_attn.{name}"
        for i in range(2)
        for name in recipe.lora["targets"]
    }
    assert with_lora == expected


def test_a_fresh_process_without_the_package_gives_the_same_logits(trained, demo, tmp_path):
    base, adapter, other, _ = trained
    model, processor = load(base, device="cpu")
    batch = encode(processor, demo[:2], num_frames=2)
    batch.pop("labels")
    torch.save(batch, tmp_path / "batch.pt")
    with torch.no_grad():
        expected = {"base": model(**batch).logits}
        expected["peft"] = PeftModel.from_pretrained(model, adapter).eval()(**batch).logits
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    files = [base, adapter, other, tmp_path / "batch.pt", tmp_path / "logits.pt"]
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, files)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    found = torch.load(tmp_path / "logits.pt")
    for name, logits in expected.items():
        assert torch.equal(found[name], logits), name
    # Merged weights round otherwise.
    close = {"rtol": 0, "atol": 2e-5}
    for same, as_ in (("load_adapter", "peft"), ("back", "peft"), ("merged", "peft"), ("disabled", "base")):
        torch.testing.assert_close(found[same], found[as_], **close, msg=lambda text, name=same: f"{name}: {text}")
    for name in ("base", "other"):
        assert (found["peft"] - found[name]).abs().max() > 1e-2, name


def test_the_adapter_folder_answers_by_itself(trained, demo):
    _, adapter, _, _ = trained
    model, processor = load(adapter, device="cpu")
    batch = encode(processor, demo[:1], num_frames=2)
    batch.pop("labels")
    base, _ = load(json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"], device="cpu")
    with torch.no_grad():
        expected = PeftModel.from_pretrained(base, adapter).eval()(**batch).logits
        torch.testing.assert_close(model(**batch).logits, expected, rtol=0, atol=2e-5)


def test_an_adapter_names_the_hub_id_it_was_given(demo, tmp_path):
    model, processor = build("microemo")
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    recipe = read_recipe("microemo_1_instruction", "tiny", max_steps=1, batch_size=1)
    run_phases(
        tmp_path / "base", demo[:1], [recipe], tmp_path / "out", use_cpu=True, save_strategy="no", base_id="us/microemo"
    )
    written = json.loads((tmp_path / "out" / "phase_1" / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == "us/microemo"


def test_the_next_phase_trains_the_same_adapter_on_and_refuses_another(demo, tmp_path):
    model, processor = build("esva")
    model.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    options = {"epochs": 1, "max_steps": 1, "learning_rate": 1e-2, "num_frames": 2, "warmup": 0}
    first, second = (read_recipe(f"esva_{name}", "tiny", **options) for name in ("1_emotion", "2_reason"))
    [one, two] = run_phases(
        tmp_path / "base", demo, [first, second], tmp_path / "out", use_cpu=True, save_strategy="no"
    )
    assert one["trained"] == two["trained"]
    before, after = (tensors(tmp_path / "out" / f"phase_{phase}" / "adapter_model.safetensors") for phase in (1, 2))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before if "lora_A" in name)
    other = read_recipe("esva_2_reason", "tiny", **options, lora={**first.lora, "r": 2})
    with pytest.raises(TrainingError, match="adapter with r 2; that of the phase before has 4"):
        run_phases(tmp_path / "out" / "phase_1", demo, [other], tmp_path / "again", use_cpu=True)


def test_only_the_language_model_is_held_in_four_bits(trained):
    base, *_ = trained
    model, _ = load(base, device="cpu")
    kept = unquantized(model)
    skipped = {
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and any(name == part or name.startswith(f"{part}.") for part in kept)
    }
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert {name.split(".")[1] for name in linear - skipped} == {"language_model"}
    if not is_bitsandbytes_available():
        with pytest.raises(TrainingError, match="needs bitsandbytes"):
            four_bit(str(base))
    with pytest.raises(TrainingError, match="omni_emotion_1_audio trains without LoRA"):
        run_phases(base, [], [read_recipe("omni_emotion_1_audio", "tiny")], base, quantize=True)


def test_the_example_fine_tunes_with_transformers_and_peft_alone(trained, demo, tmp_path, capsys):
    base, *_ = trained
    script = Path(__file__).parents[1] / "examples" / "02_fine_tune.py"
    assert len(script.read_text(encoding="utf-8").splitlines()) < 120
    example = runpy.run_path(str(script))
    with open(tmp_path / "rows.jsonl", "w", encoding="utf-8") as file:
        for row in (*demo[:2], {**demo[0], "id": "mute", "answer": None}):
            kept = ("id", "video", "utterances", "question", "answer")
            file.write(json.dumps({name: row[name] for name in kept}) + "\n")
    arguments = ["--model", str(base), "--data", str(tmp_path / "rows.jsonl"), "--output_dir", str(tmp_path / "out")]
    arguments += ["--num_frames", "2", "--max_steps", "1", "--use_cpu", "--report_to", "none", "--save_strategy", "no"]
    with pytest.raises(BadRowsError, match="mute: it has no question and answer"):
        example["main"](arguments)
    example["main"]([*arguments, "--skip_bad_rows"])
    assert "skipped mute" in capsys.readouterr().err
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "out" / "processor_config.json").is_file()
