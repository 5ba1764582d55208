"""Two processes compute what one does: DDP through `Trainer`, FSDP2 through `fully_shard`; on CPU, with gloo."""

import json
import os
import socket
import subprocess
import sys
from importlib.resources import files

import pytest
import torch
import yaml

from hf_emotion.data.demo import make_demo
from hf_emotion.data.rows import read_rows
from hf_emotion.papers import PAPERS, build
from hf_emotion.training.collator import EmotionCollator
from hf_emotion.training.recipe import limited_to, read_recipe
from hf_emotion.training.train import run_phases

CONFIGS = files("hf_emotion.training") / "accelerate"

# One optimizer step on the same batch, with each layer's parameters split over the processes.
SHARDED = """
import sys
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from torch.distributed import destroy_process_group, get_rank, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from hf_emotion.inference import load

folder, config, sample, result = sys.argv[1:]
torch.set_num_threads(1)
init_process_group("gloo")
model, _ = load(folder, device="cpu")
model.freeze().train()
import yaml
settings = yaml.safe_load(open(config))["fsdp_config"]
plugin = FullyShardedDataParallelPlugin(
    fsdp_version=settings["fsdp_version"],
    auto_wrap_policy=settings["fsdp_auto_wrap_policy"],
    reshard_after_forward=settings["fsdp_reshard_after_forward"],
)
plugin.set_auto_wrap_policy(model)
chosen = fsdp2_prepare_auto_wrap_policy(plugin, model)
mesh = init_device_mesh("cpu", (2,))
wrapped = []
for module in reversed(list(model.modules())):
    if module is not model and chosen(module):
        name = type(module).__name__  # sharding gives it another
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
        wrapped.append(name)
fully_shard(model, mesh=mesh)
batch = torch.load(sample)
optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
losses = []
for _ in range(2):
    loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
if get_rank() == 0:
    torch.save({"losses": losses, "wrapped": wrapped}, result)
destroy_process_group()
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Four clips; the first lacks its sound and the second its picture."""
    import wave

    folder = tmp_path_factory.mktemp("demo")
    rows = make_demo(folder, 4, cues=("prosody",), controls=0.0, size=64, fps=4, num_workers=0, progress=False)
    processor = build("acoustemo")[1]
    for row in rows[1::2]:
        [clip] = processor.load_clips([row["video"]], modalities=["audio"])
        path = folder / f"{row['id']}.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, clip.sampling_rate, 0, "NONE", None))
            file.writeframes((clip.waveform.clip(-1, 1) * 32767).astype("<i2").tobytes())
        row.update(video=None, audio=str(path))
    return rows


def launch(*arguments):
    """Run a module or a script in two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.mark.parametrize("recipe", ["microemo_1_instruction", "omni_emotion_3_tune"])
def test_two_processes_train_as_one_even_where_each_lacks_another_modality(recipe, rows, tmp_path):
    name = read_recipe(recipe).model
    model, processor = build(name)
    model.save_pretrained(tmp_path / "start")
    processor.save_pretrained(tmp_path / "start")
    with open(tmp_path / "rows.jsonl", "w", encoding="utf-8") as file:
        for row in rows:
            kept = ("id", "video", "audio", "utterances", "description", "labels", "label")
            file.write(json.dumps({field: row[field] for field in kept}) + "\n")
    lora = read_recipe(recipe, "tiny").lora
    changes = {"epochs": 2, "batch_size": 2, "tasks": ["clues"], "num_frames": 2, "warmup": 0}
    changes |= {} if lora is None else {"lora": {**lora, "dropout": 0.0}}
    one = read_recipe(recipe, "tiny", **changes)
    read = read_rows(tmp_path / "rows.jsonl")
    [alone] = run_phases(tmp_path / "start", read, [one], tmp_path / "alone", use_cpu=True, save_strategy="no")
    settings = {**changes, "use_cpu": True, "ddp_backend": "gloo", "save_strategy": "no"}
    settings |= {"ddp_find_unused_parameters": False}
    pairs = [text for key, value in settings.items() for text in ("--set", f"{key}={json.dumps(value)}")]
    launch(
        *("-m", "hf_emotion.cli", "train", recipe, "--size", "tiny", "--data", tmp_path / "rows.jsonl"),
        *("--start-from", tmp_path / "start", "--output", tmp_path / "two", *pairs),
    )
    [folder] = (tmp_path / "two").glob("phase_*")
    together = json.loads((folder / "phase.json").read_text())
    assert len(together["loss"]) == len(alone["loss"]) == 4
    assert max(abs(a - b) for a, b in zip(together["loss"], alone["loss"], strict=True)) < 1e-4
    assert together["trained"] == alone["trained"]


def test_a_sharded_step_gives_the_losses_of_a_whole_one(rows, tmp_path):
    model, processor = build("microemo")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    asked = [{**row, "question": "What is felt?", "answer": row["description"]} for row in rows[:2]]
    batch = EmotionCollator(processor, num_frames=2)(asked)
    torch.save(batch, tmp_path / "batch.pt")
    (tmp_path / "sharded.py").write_text(SHARDED)
    launch(
        *(tmp_path / "sharded.py", tmp_path / "model", CONFIGS / "fsdp2.yaml"),
        *(tmp_path / "batch.pt", tmp_path / "result.pt"),
    )
    found = torch.load(tmp_path / "result.pt")
    # The policy of the shipped configuration takes the layers that the model lists.
    assert found["wrapped"].count("LlamaDecoderLayer") == 2
    assert set(found["wrapped"]) <= set(model._no_split_modules)
    model.freeze().train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(2):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    assert max(abs(a - b) for a, b in zip(losses, found["losses"], strict=True)) < 1e-4


@pytest.mark.parametrize("name", PAPERS)
def test_the_paper_size_shards_layer_by_layer(name):
    """What FSDP2 keeps together at paper size: never more than a layer of the language model, a tower or a Q-Former."""
    paper = PAPERS[name]
    with torch.device("meta"):
        model = paper.model(paper.config("paper"))
    layers = set(model._no_split_modules)
    names = {type(module).__name__ for module in model.modules()}
    decoder = type(model.model.language_model.layers[0]).__name__
    assert decoder in layers
    assert decoder in names
    total = sum(parameter.numel() for parameter in model.parameters())
    kept = sum(
        parameter.numel()
        for module in model.modules()
        if type(module).__name__ in layers
        for parameter in module.parameters()
    )
    # The rest, embeddings and projectors, is sharded with the root.
    assert kept / total > 0.85, sorted(layers & names)


@pytest.mark.parametrize("name", ["ddp.yaml", "fsdp2.yaml", "zero3.yaml"])
def test_accelerate_takes_the_shipped_configurations(name, tmp_path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(CONFIGS / name))
    written = yaml.safe_load((CONFIGS / name).read_text())
    assert config.mixed_precision == "bf16"
    assert config.distributed_type.value == written["distributed_type"]
    if name == "fsdp2.yaml":
        assert config.fsdp_config["fsdp_version"] == 2


def test_limits_of_an_ablation_keep_a_recipe_with_lora():
    recipe = read_recipe("acoustemo_1_instruction", "tiny")
    assert limited_to(recipe, []).trains == ()


def test_logged_terms_of_two_processes_add_up_to_the_logged_loss(rows, tmp_path):
    with open(tmp_path / "rows.jsonl", "w", encoding="utf-8") as file:
        for i, row in enumerate(rows):
            # Answers of different length, so that the mean of the processes' means is not the mean.
            kept = {field: row[field] for field in ("id", "video", "audio", "utterances", "labels", "label")}
            file.write(json.dumps({**kept, "description": "sad " * (1 + 12 * (i % 2))}) + "\n")
    settings = {"max_steps": 2, "batch_size": 4, "tasks": ["clues"], "num_frames": 4, "use_cpu": True}
    settings |= {"ddp_backend": "gloo", "save_strategy": "no"}
    launch(
        *("-m", "hf_emotion.cli", "train", "esva_1_emotion", "--size", "tiny"),
        *("--data", tmp_path / "rows.jsonl", "--output", tmp_path / "out", "--per-device-batch-size", "1"),
        *(text for name, value in settings.items() for text in ("--set", f"{name}={json.dumps(value)}")),
    )
    logged = json.loads((tmp_path / "out" / "phase_1" / "phase.json").read_text())["log"]
    config = json.loads((tmp_path / "out" / "start" / "config.json").read_text())
    steps = [entry for entry in logged if "loss" in entry]
    assert len(steps) == 2
    for entry in steps:
        terms = config["emotion_weight"] * entry["loss_emotion"] + entry.get("loss_align", 0.0)
        terms += config["contrast_weight"] * entry.get("loss_contrast", 0.0)
        assert entry["loss"] == pytest.approx(terms, rel=1e-4)
