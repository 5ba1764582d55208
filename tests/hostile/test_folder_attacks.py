"""Model folders that are malformed, that ask for more than they hold, or that try to take others along."""

import json
import os
import re
import shutil
from contextlib import suppress

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_emotion import hub
from hf_emotion.data.build import plain
from hf_emotion.inference import ModelFolderError, load
from hf_emotion.papers import build

FILES = ("config.json", "processor_config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    model, processor = build("microemo")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def change(folder, name, **fields):
    content = json.loads((folder / name).read_text())
    for path, value in fields.items():
        *outer, last = path.split("__")
        inner = content
        for key in outer:
            inner = inner[key]
        inner[last] = value
    (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", ["", "null", "[]", "{", "[" * 100_000, '{"a": ' + "1" * 5000 + "}", "\x00\xff"])
def test_a_malformed_file_is_one_sentence_or_harmless(folder, name, content):
    (folder / name).write_bytes(content.encode("latin-1"))
    if name in ("generation_config.json", "tokenizer_config.json"):
        # transformers goes on without some of these.
        with suppress(ModelFolderError):
            load(folder, device="cpu")
        return
    with pytest.raises(ModelFolderError) as caught:
        load(folder, device="cpu")
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("config.json", {"auto_map": 3}),
        ("config.json", {"model_type": ["microemo"]}),
        ("config.json", {"text_config": None}),
        ("config.json", {"text_config__hidden_act": "exec"}),
        ("config.json", {"text_config__num_attention_heads": 0}),
        ("config.json", {"vision_config": [1]}),
        ("config.json", {"dtype": "float1"}),
        ("processor_config.json", {"face_config": 1.5}),
        ("processor_config.json", {"modalities": {"smell": 1}}),
        ("processor_config.json", {"num_frames": 10**9}),
        ("processor_config.json", {"image_processor__size": {"height": 10**6, "width": 10**6}}),
        ("processor_config.json", {"feature_extractor__sampling_rate": "fast"}),
        ("processor_config.json", {"image_processor__image_processor_type": 1.5}),
        ("tokenizer_config.json", {"eos_token": False}),
    ],
)
def test_a_field_of_another_type_is_one_sentence(folder, name, fields):
    change(folder, name, **fields)
    with pytest.raises(ModelFolderError, match=r"cannot be loaded: ") as caught:
        load(folder, device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"text_config__vocab_size": 2**40}, "describes .* weights, and 1,677,536 are there"),
        ({"text_config__intermediate_size": 2**40}, "describes .* weights"),
        ({"text_config__num_hidden_layers": 10**9}, "num_hidden_layers=1000000000, for weights of 329 tensors"),
        ({"vision_config__num_hidden_layers": 10**6}, "num_hidden_layers=1000000, for weights of 329 tensors"),
    ],
)
def test_a_configuration_of_a_far_larger_model_is_refused_before_memory_is_taken(folder, fields, sentence):
    change(folder, "config.json", **fields)
    with pytest.raises(ModelFolderError, match=sentence):
        load(folder, device="cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_not_numbers_are_refused(folder, value, dtype):
    weights = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    name = next(name for name in weights if name.endswith("mlp.up_proj.weight"))
    weights[name][3, 5] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelFolderError, match=f"not finite numbers: .*{re.escape(name[-20:])} holds NaN or infinity"):
        load(folder, device="cpu")


@pytest.mark.parametrize(
    "template",
    [
        "{time.__class__.__init__.__globals__}",
        "{time:>1000000000}",
        "{time!r}",
        "{0}",
        "{time}{time}",
        "{{time}}",
        "no time",
        "{time:.1f}" + "x" * 1000,
        3,
        None,
    ],
)
def test_a_folders_template_follows_no_attribute_and_makes_no_giant_text(folder, template):
    change(folder, "processor_config.json", timestamp_template=template)
    with pytest.raises(ModelFolderError, match="timestamp_template is"):
        load(folder, device="cpu")


def test_a_chat_template_that_writes_a_book_is_refused_when_the_folder_is_loaded(folder):
    # Each token of a prompt costs time and memory, of which the attention takes the square.
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text("a" * 30_000 + template)
    with pytest.raises(
        ModelFolderError, match=r"template writes 30,\d+ characters for a question of one; at most 20,000"
    ):
        load(folder)


def test_a_chat_template_reaches_nothing_of_python(folder):
    (folder / "chat_template.jinja").write_text("{{ messages.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(ModelFolderError, match="unsafe"):
        load(folder, device="cpu")


def test_links_out_of_a_folder_are_not_published_and_the_files_are_listed_first(folder, tmp_path, monkeypatch):
    secret = tmp_path / "id_rsa"
    secret.write_text("secret")
    facts = hub.facts_of(folder)
    names = set(hub.files_of(facts))
    os.symlink(folder / "config.json", folder / "config_again.json")  # inside: harmless
    assert set(hub.files_of(facts)) == {*names, "config_again.json"}
    lines = hub.listing(hub.files_of(facts)).splitlines()
    assert {line.split()[-1] for line in lines} == {*names, "config_again.json"}
    monkeypatch.setattr(hub, "HfApi", None)  # before anything is sent
    for target, link in ((secret, folder / "notes.txt"), (tmp_path, folder / "more")):
        os.symlink(target, link)
        with pytest.raises(hub.HubError, match=f"{link.name} is a link to .*outside of the folder"):
            hub.push(folder, "me/model")
        link.unlink()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "[]"),
        ("config.json", '{"auto_map": {"AutoModel": 3}}'),
        ("processor_config.json", "{"),
        ("model.safetensors", "\xff" * 100),
        ("model.safetensors", ""),
        ("modeling_microemo.py", "def"),
    ],
)
def test_a_malformed_folder_is_not_published_and_the_file_is_named(folder, name, content):
    (folder / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=re.escape(str(folder))) as caught:
        hub.push(folder, "me/model")
    assert isinstance(caught.value, (hub.HubError, hub.data_files.DataError))


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"metrics": {"a": 1}}', '{"metrics": {"a": {}}}', '{"scores": {"all": {}}}', "[" * 10_000]
)
def test_a_malformed_results_file_is_one_sentence(tmp_path, content):
    (tmp_path / "scores.json").write_text(content)
    with pytest.raises(hub.HubError, match=r"scores\.json"):
        hub.read_results(tmp_path / "scores.json")


HOSTILE = "x\n\n# Buy | <script>alert(1)</script> ```\n---\nlicense: mit"


def test_names_from_files_do_not_become_the_structure_of_a_card(folder):
    change(folder, "config.json", parts={"audio": [{"source": HOSTILE, "revision": HOSTILE, "license": HOSTILE}]})
    change(folder, "processor_config.json", default_question=HOSTILE)
    plain_card = str(hub.card_of(hub.facts_of(folder), "me/model"))
    headings = [line for line in plain_card.splitlines() if line.startswith("#")]
    card = hub.card_of(hub.facts_of(folder), "me/model", examples=["examples/a.mp4"])
    text = str(card)
    assert "<script>" not in text.partition("---\n")[2].partition("\n---\n")[2]
    assert [line for line in text.splitlines() if line.startswith("#")] == headings
    assert not any("Buy" in heading for heading in headings)
    assert card.data.license != "mit"
    rows = [line for line in text.splitlines() if "Buy" in line and line.startswith("|")]
    assert rows
    assert all(row.count("|") == 5 for row in rows)


def test_plain_text_keeps_ordinary_names():
    names = {"meta-llama/Llama-2-7b": ["v1.0", "cc-by-4.0", None, 3, 0.5]}
    assert plain(names) == names
    assert plain("a\nb\0`c`") == "a b\ufffd'c'"
