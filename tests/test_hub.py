"""Publishing: one commit, a card filled from files, privacy by licence; and what is published loads by its id where
this package cannot be imported, with the same logits bit for bit.

One process publishes everything to the loopback Hub, another one, which cannot import the package, loads it; the tests
look at what they left. `benchmarks/hub_round_trip.py` does the same with a second virtual environment.
"""

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from fake_hub import environment, problems_of, start
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from test_cli import write_clip

from hf_emotion import hub
from hf_emotion.papers import PAPERS, build

NAMES = list(PAPERS)
ADAPTED = NAMES[0]
RESTRICTED = {
    "audio_tower": [{"source": "imagebind_huge", "revision": None, "license": None}],
    "language_model": [{"source": "meta-llama/Llama-2-7b-hf", "revision": "a" * 40, "license": "llama2"}],
}
SCORES = {
    "model": "m",
    "data": "rows/mer_test.jsonl",
    "split": "test",
    "metrics": {
        "emotion_lexicon": {
            "metric": "emotion_lexicon",
            "scores": {"f": 0.51731, "level1_f": 0.62519, "coverage": 0.98113, "predicted_labels": 2.13379, "n": 97},
            "intervals": {"f": [0.46117, 0.57239], "level1_f": [0.57123, 0.67891]},
            "baselines": {"constant: happy": {"f": 0.21013, "level1_f": 0.24007}},
        }
    },
}

COMMON = """
import json, os, sys, traceback
from pathlib import Path
import torch
torch.set_num_threads(1)
from transformers.utils import logging
logging.set_verbosity_error()
logging.disable_progress_bar()
work, clip, names = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
options = {"max_new_tokens": 4}
utterances = [(0.2, 0.9, "well")]

def logits_of(model, name):
    with torch.no_grad():
        return model(**torch.load(work / f"{name}.batch.pt")).logits
"""

PUBLISH = (
    COMMON
    + """
from peft import LoraConfig, get_peft_model
from hf_emotion import cli, hub
from hf_emotion.inference import load
from hf_emotion.papers import build

refused = {}

def refuse(what, call):
    try:
        call()
    except (hub.HubError, OSError) as error:
        refused[what] = str(error)

for i, name in enumerate(names):
    model, processor = build(name)
    folder = work / name
    if i == 0:
        # transformers' own calls: the model with its card, and the processor after it.
        model.push_to_hub(f"me/{name}")
        processor.push_to_hub(f"me/{name}")
        model.push_to_hub("me/together", processor=processor, tags=["mine"])
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    else:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        assert cli.main(["push", str(folder), f"me/{name}"]) == 0
    batch = processor(videos=[clip], utterances=[utterances], return_tensors="pt")
    torch.save(dict(batch), work / f"{name}.batch.pt")
    loaded, _ = load(folder, device="cpu")
    torch.save(logits_of(loaded, name), work / f"{name}.here.pt")

first = names[0]
base, processor = load(work / first, device="cpu")
from hf_emotion.answers.pipeline_emotion import EmotionRecognitionPipeline
pipe = EmotionRecognitionPipeline(model=base, processor=processor, device=-1)
(work / "answer.json").write_text(json.dumps(pipe({"video": clip, "utterances": utterances}, **options)))

torch.manual_seed(1)
lora = LoraConfig(r=2, target_modules=r"model\\.language_model\\.layers\\.\\d+\\.self_attn\\.(q|v)_proj",
                  task_type="CAUSAL_LM", init_lora_weights=False)
adapted = get_peft_model(base, lora).eval()
adapted.save_pretrained(work / "adapter")
torch.save(logits_of(adapted, first), work / "adapter.memory.pt")
refuse("adapter of a folder", lambda: hub.push(work / "adapter", "me/adapter"))
hub.push(work / "adapter", "me/adapter", base=f"me/{first}", results=[work / "scores.json"])
adapted.peft_config["default"].base_model_name_or_path = f"me/{first}"
adapted.push_to_hub("me/adapter-by-peft")

restricted = work / first / "config.json"
config = json.loads(restricted.read_text())
bound = work / "bound"
import shutil; shutil.copytree(work / first, bound)
(bound / "config.json").write_text(json.dumps({**config, "parts": json.loads(sys.argv[4])}))
hub.push(bound, "me/bound", results=[work / "scores.json"], dataset="me/rows", examples=[clip])
hub.HfApi().create_repo("me/open", private=False)
refuse("public", lambda: hub.push(bound, "me/open"))
hub.push(bound, "me/open", private=False)
hub.push(work / first, "me/branch", revision="dev")
(work / "bad.md").write_text("---\\npipeline_tag: mind-reading\\n---\\n# Bad")
refuse("card", lambda: hub.push(work / first, "me/bad", readme=work / "bad.md"))
refuse("name", lambda: hub.push(work / first, "a/b/c"))
hub.push_space("me/bound", "me/space")
refuse("space of nothing", lambda: hub.push_space("me/nothing", "me/space2"))
import runpy
sys.argv = ["03_publish.py", str(work / first), "me/example", clip, str(work / "scores.json")]
runpy.run_path(str(Path(hub.__file__).parents[2] / "examples" / "03_publish.py"), run_name="__main__")
(work / "refused.json").write_text(json.dumps(refused))
"""
)

LOAD = (
    COMMON
    + """
sys.modules["hf_emotion"] = None  # any import of it now fails
import transformers
from transformers import AutoModelForMultimodalLM, AutoProcessor, pipeline
remote = {"trust_remote_code": True}
found = {"classes": {}}
for name in names:
    repository = f"me/{name}"
    config = transformers.AutoConfig.from_pretrained(repository, **remote)
    processor = AutoProcessor.from_pretrained(repository, **remote)
    tokenizer = transformers.AutoTokenizer.from_pretrained(repository, **remote)
    assert tokenizer.convert_tokens_to_ids(processor.video_token) == config.video_token_id
    for auto in ("AutoModel", "AutoModelForMultimodalLM"):
        model = getattr(transformers, auto).from_pretrained(repository, **remote).eval()
        torch.save(logits_of(model, name), work / f"{name}.{auto}.pt")
    batch = processor(videos=[clip], utterances=[utterances], return_tensors="pt")
    here = torch.load(work / f"{name}.batch.pt")
    assert set(batch) == set(here) and all(torch.equal(batch[key], here[key]) for key in here)
    found["classes"][name] = type(model).__module__
first = names[0]
pipe = pipeline("emotion-recognition", model=f"me/{first}", device=-1, **remote)
found["answer"] = pipe({"video": clip, "utterances": utterances}, **options)
by_task = pipeline(model="me/together", device=-1, **remote)
found["task"] = by_task.task
for repository in ("me/adapter", "me/adapter-by-peft"):
    model = AutoModelForMultimodalLM.from_pretrained(repository, **remote).eval()
    torch.save(logits_of(model, first), work / f"{repository.split('/')[1]}.there.pt")
from peft import PeftModel
model = AutoModelForMultimodalLM.from_pretrained(f"me/{first}", **remote)
torch.save(logits_of(PeftModel.from_pretrained(model, "me/adapter").eval(), first), work / "adapter.peft.pt")
found["adapter"] = pipeline("emotion-recognition", model="me/adapter", device=-1, **remote)(clip, **options)
# What was loaded by remote code alone goes back to the Hub as transformers sends it, pipeline and all.
pipe.model.push_to_hub("me/again")
(work / "found.json").write_text(json.dumps(found))
"""
)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """What the two processes left, and the Hub's store."""
    work = tmp_path_factory.mktemp("hub")
    (work / "scores.json").write_text(json.dumps(SCORES))
    clip = write_clip(work / "clip.mp4")
    server, store, url = start()

    def run(program, home, *arguments):
        child = subprocess.run(
            [sys.executable, "-c", program, str(work), str(clip), json.dumps(NAMES), *arguments],
            env=environment(url, work / home, HF_MODULES_CACHE=str(work / home / "modules")),
            cwd=work,
            capture_output=True,
            text=True,
            check=False,
        )
        assert child.returncode == 0, child.stderr[-3000:]

    run(PUBLISH, "here", json.dumps(RESTRICTED))
    run(LOAD, "there")
    yield work, store
    server.shutdown()


def files_of(store, name, kind="model", branch="main"):
    return store.head((kind, name), branch)[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_published_model_gives_the_same_logits_bit_for_bit_where_the_package_cannot_be_imported(published, name):
    work, _ = published
    here = torch.load(work / f"{name}.here.pt")
    for auto in ("AutoModel", "AutoModelForMultimodalLM"):
        assert torch.equal(torch.load(work / f"{name}.{auto}.pt"), here)
    found = json.loads((work / "found.json").read_text())
    assert found["classes"][name].startswith("transformers_modules.me.")


def test_the_pipeline_answers_alike_by_repository_id(published):
    work, _ = published
    found = json.loads((work / "found.json").read_text())
    assert found["answer"] == json.loads((work / "answer.json").read_text())
    assert found["answer"]["utterances"][0]["description"]
    assert found["task"] == "emotion-recognition"


def test_an_adapter_loads_by_its_id_with_the_code_of_its_base(published):
    work, store = published
    # PEFT computes the same sum in memory: equal to rounding there, and bit for bit among all ways of loading.
    loaded = torch.load(work / "adapter.there.pt")
    torch.testing.assert_close(loaded, torch.load(work / "adapter.memory.pt"), rtol=0, atol=2e-5)
    assert not torch.equal(loaded, torch.load(work / f"{ADAPTED}.here.pt"))
    assert torch.equal(torch.load(work / "adapter-by-peft.there.pt"), loaded)
    assert torch.equal(torch.load(work / "adapter.peft.pt"), loaded)
    files = files_of(store, "me/adapter")
    assert set(files) >= {"adapter_config.json", "adapter_model.safetensors", "README.md", "LICENSE"}
    assert not [path for path in files if path.endswith(".py")]
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == f"me/{ADAPTED}"
    head = ModelCard(files["README.md"].decode()).data
    assert (head.base_model, head.base_model_relation, head.library_name) == (f"me/{ADAPTED}", "adapter", "peft")
    assert json.loads((work / "found.json").read_text())["adapter"]["description"]


@pytest.mark.parametrize("name", NAMES[1:])
def test_one_commit_holds_all_of_a_model(published, name):
    _, store = published
    commits = store.branches["model", f"me/{name}"]["main"]
    assert len(commits) == 2  # the first is the Hub's own
    files = commits[-1][1]
    config = json.loads(files["config.json"])
    code = {f"{reference.partition('.')[0]}.py" for reference in config["auto_map"].values()}
    expected = {"model.safetensors", "generation_config.json", "processor_config.json", "README.md", "LICENSE"}
    expected |= {
        "handler.py",
        "requirements.txt",
        "pipeline_emotion.py",
        "words.py",
        "replies.py",
        "lexicon.py",
        "lexicon.tsv",
    }
    assert expected | code <= set(files)
    assert config["custom_pipelines"]["emotion-recognition"]["impl"].startswith("pipeline_emotion.")
    assert files["LICENSE"].decode().lstrip().startswith("Apache License")
    assert "model.safetensors" in store.lfs_paths["model", f"me/{name}"]


def test_push_to_hub_of_a_model_takes_its_processor_into_the_same_commit(published):
    _, store = published
    assert len(store.branches["model", "me/together"]["main"]) == 2
    files = files_of(store, "me/together")
    assert {"model.safetensors", "processor_config.json", "README.md", "handler.py"} <= set(files)
    assert "mine" in ModelCard(files["README.md"].decode()).data.tags
    # Model and processor one after the other end with the same files.
    assert set(files_of(store, f"me/{ADAPTED}")) == set(files)
    # Remote code alone publishes with what transformers has, and the pipeline still travels.
    assert {"pipeline_emotion.py", "lexicon.tsv", "model.safetensors"} <= set(files_of(store, "me/again"))


def test_weights_of_restricted_parents_are_private_unless_the_user_says_otherwise(published):
    work, store = published
    assert store.private["model", "me/bound"]
    assert not store.private["model", "me/together"]
    refused = json.loads((work / "refused.json").read_text())
    assert "me/open exists and is public" in refused["public"]
    assert "imagebind_huge (cc-by-nc-sa-4.0)" in refused["public"]
    assert "model.safetensors" in files_of(store, "me/open")  # the second push said private=False
    licence = files_of(store, "me/bound")["LICENSE"].decode()
    assert "imagebind_huge (audio_tower): cc-by-nc-sa-4.0" in licence
    assert "Apache License" in licence
    head = ModelCard(files_of(store, "me/bound")["README.md"].decode()).data
    assert (head.license, head.license_name) == ("other", "those-of-its-parents")
    assert head.base_model == ["meta-llama/Llama-2-7b-hf"]
    assert store.private["space", "me/space"]  # as its model


def test_what_the_hub_would_refuse_is_refused_before_anything_is_sent(published):
    work, store = published
    refused = json.loads((work / "refused.json").read_text())
    assert "pipeline_tag 'mind-reading' is not known" in refused["card"]
    assert ("model", "me/bad") not in store.branches
    assert "a/b/c" in refused["name"]
    assert "a local folder that others cannot load" in refused["adapter of a folder"]
    assert "me/nothing cannot be read as a model" in refused["space of nothing"]


def test_the_example_publishes_and_writes_a_space(published):
    work, store = published
    assert "0.5173" in files_of(store, "me/example")["README.md"].decode()
    names = {"app.py", "requirements.txt", "README.md", "examples"}
    assert {file.name for file in (work / "example_space").iterdir()} == names


def test_a_branch_can_be_published_to(published):
    _, store = published
    assert "model.safetensors" in files_of(store, "me/branch", branch="dev")
    assert "model.safetensors" not in files_of(store, "me/branch")


def test_every_published_card_passes_the_hubs_checks(published):
    _, store = published
    seen = 0
    for kind, name in store.branches:
        if (kind, name) != ("model", "me/adapter-by-peft") and name != "me/again":
            card = files_of(store, name, kind).get("README.md")
            if card is not None:
                assert problems_of(card.decode(), kind) == [], name
                seen += 1
    assert seen >= len(NAMES) + 4
    # The client asked the Hub itself before each commit.
    assert [path for _, path in store.log].count("/api/validate-yaml") > seen


def test_a_space_is_one_commit_of_its_page_and_examples(published):
    _, store = published
    files = files_of(store, "me/space", "space")
    assert {"app.py", "requirements.txt", "README.md"} <= set(files)
    tree = ast.parse(files["app.py"])
    values = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    assert "me/bound" in values
    assert "MODEL_ID" not in values
    assert re.search(r"(?m)^transformers==\d", files["requirements.txt"].decode())
    head = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert (head["sdk"], head["app_file"], head["models"]) == ("gradio", "app.py", ["me/bound"])


# Cards and folders, without a Hub


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card") / "model"
    model, processor = build(ADAPTED)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def numbers_of(text: str) -> set[str]:
    """The numbers with decimals of a card's results, as they are written."""
    return set(re.findall(r"\b\d+\.\d+\b", text.partition("## Results")[2].partition("## Intended use")[0]))


def values_of(content) -> list[float]:
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list):
        return [value for item in content for value in values_of(item)]
    return [content] if isinstance(content, float) else []


def test_every_score_on_a_card_is_in_a_results_file_and_changes_with_it(folder, tmp_path):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(SCORES))
    facts = hub.facts_of(folder)
    card = hub.card_of(facts, "me/model", hub.read_results(path), dataset="me/rows")
    shown = numbers_of(card.text)
    written = {f"{value:.4f}" for value in values_of(SCORES)}
    assert shown
    assert shown <= written
    assert {"0.5173", "0.4612", "0.5724", "0.2101"} <= shown
    [entry] = card.data.to_dict()["model-index"]
    index = {m["name"]: m["value"] for result in entry["results"] for m in result["metrics"]}
    assert index == {
        f"emotion_lexicon: {name}": SCORES["metrics"]["emotion_lexicon"]["scores"][name]
        for name in ("f", "level1_f", "coverage", "predicted_labels")
    }
    [(place, content)] = hub.eval_files(hub.read_results(path), "me/rows").items()
    assert place == ".eval_results/mer-test-jsonl.yaml"
    entries = yaml.safe_load(content)
    assert {entry["value"] for entry in entries} == set(index.values())
    assert entries[0]["dataset"]["id"] == "me/rows"

    changed = json.loads(json.dumps(SCORES))
    changed["metrics"]["emotion_lexicon"]["scores"]["f"] = 0.73331
    path.write_text(json.dumps(changed))
    again = hub.card_of(facts, "me/model", hub.read_results(path), dataset="me/rows")
    assert "0.7333" in numbers_of(again.text)
    assert "0.5173" not in numbers_of(again.text)
    assert str(again) != str(card)


def test_a_card_without_results_shows_no_score_and_says_so(folder):
    card = hub.card_of(hub.facts_of(folder), "me/model")
    assert numbers_of(card.text) == set()
    assert "These weights were not evaluated" in card.text
    assert card.data.eval_results is None
    for word in ("consent", "Bias", "AI Act", "workplace and in education", "notes"):
        assert word in card.text
    parameters = sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())
    assert f"{parameters:,} parameters (F32)" in card.text


def test_the_quickstarts_scores_are_results(folder, tmp_path):
    path = tmp_path / "scores.json"
    path.write_text(
        json.dumps(
            {
                "constant": "angry",
                "scores": {
                    "all": {"clips": 40, "model": 0.475, "constant": 0.225, "shuffled": 0.125},
                    "face": {"clips": 24, "model": 0.625, "constant": 0.25, "shuffled": 0.2},
                },
            }
        )
    )
    results = hub.read_results(path)
    assert [(r.metric, r.value, r.clips) for r in results] == [("accuracy", 0.475, 40), ("accuracy", 0.625, 24)]
    card = hub.card_of(hub.facts_of(folder), "me/model", results)
    assert {"0.4750", "0.2250", "0.1250"} <= numbers_of(card.text)


def test_a_record_of_training_is_on_the_card(folder, tmp_path):
    trained = tmp_path / "trained"
    shutil.copytree(folder, trained)
    record = {"recipe": {"name": "tiny", "learning_rate": 0.0021, "trains": ["audio_projector"]}, "questions": 12}
    (trained / hub.TRAINING_REPORT).write_text(json.dumps({**record, "loss": [5.25, 1.75], "seconds": 31.5}))
    text = hub.card_of(hub.facts_of(trained), "me/model").text
    for word in ("12 questions", "2 logged steps", "5.25", "1.75", "| learning_rate | 0.0021 |", "audio_projector"):
        assert word in text


@pytest.mark.parametrize(
    ("licences", "private", "metadata"),
    [
        ([], False, "apache-2.0"),
        (["apache-2.0", "mit"], False, "apache-2.0"),
        (["cc-by-nc-4.0"], True, "cc-by-nc-4.0"),
        (["llama2", "apache-2.0"], True, "llama2"),
        (["llama2", "cc-by-nc-sa-4.0"], True, "other"),
        ([None], True, "other"),
    ],
)
def test_the_licences_of_the_parents_decide(licences, private, metadata):
    parts = {f"part{i}": [{"source": f"a/b{i}", "revision": None, "license": x}] for i, x in enumerate(licences)}
    parents = hub.parents_of(parts)
    assert (hub.private_because(parents) is not None) == private
    assert hub.licence_metadata(parents)["license"] == metadata


def test_what_parts_came_from_is_remembered_with_licence_and_revision(tmp_path):
    from hf_emotion.modeling.parts import origin_of

    part = tmp_path / "a_part"
    part.mkdir()
    (part / "config.json").write_text("{}")
    assert origin_of(str(part)) == {"source": "a_part", "revision": None, "license": None}
    (part / "README.md").write_text("---\nlicense: other\nlicense_name: odd-terms\n---\n# Part")
    assert origin_of(str(part))["license"] == "odd-terms"


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: (folder / "processor_config.json").unlink(), "lacks processor_config.json"),
        (lambda folder: (folder / "pipeline_emotion.py").unlink(), "lacks pipeline_emotion.py"),
        (lambda folder: (folder / "config.json").unlink(), "neither config.json nor adapter_config.json"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "holds no model.safetensors .found pytorch_model.bin.",
        ),
    ],
)
def test_a_folder_that_is_not_whole_is_not_published(folder, tmp_path, spoil, sentence):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    spoil(broken)
    with pytest.raises(hub.HubError, match=sentence):
        hub.push(broken, "me/broken")


def test_what_a_run_leaves_behind_is_not_published(folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folder, run)
    (run / "checkpoint-10").mkdir()
    for name in ("checkpoint-10/model.safetensors", "optimizer.pt", "training_args.bin", ".secret", "README.md"):
        (run / name).write_text("left behind")
    files = hub.files_of(hub.facts_of(run))
    assert set(files) == set(hub.files_of(hub.facts_of(folder)))
    assert "README.md" not in files


@pytest.mark.parametrize("content", ["", "[1]", '{"metrics": 3}', '{"other": {}}'])
def test_a_file_that_holds_no_scores_is_refused(tmp_path, content):
    path = tmp_path / "scores.json"
    path.write_text(content)
    with pytest.raises(hub.HubError, match=r"scores\.json"):
        hub.read_results(path)


def test_every_template_goes_into_the_wheel():
    top = Path(__file__).parents[1]
    rules = tomllib.loads((top / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    templates = [file for file in (top / "hub_cards").rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    assert len(templates) > 8
    for file in templates:
        # Python files are the package's own; the rest goes by pattern.
        assert file.suffix == ".py" or any(file.match(rule) for rule in rules), file
        assert (top / "src" / "hf_emotion" / "hub_cards" / file.relative_to(top / "hub_cards")).samefile(file)


def test_space_folders_are_written_whole_or_not_at_all(tmp_path, capsys):
    from hf_emotion.cli import main

    assert main(["space", "me/model", "--output", str(tmp_path / "space"), "--title", 'A "title"']) == 0
    names = {"app.py", "requirements.txt", "README.md", "examples"}
    assert {file.name for file in (tmp_path / "space").iterdir()} == names
    assert len(list((tmp_path / "space" / "examples").glob("*.mp4"))) >= 2
    assert ast.parse((tmp_path / "space" / "app.py").read_text())
    assert problems_of((tmp_path / "space" / "README.md").read_text(), "space") == []
    assert main(["space", "me/model", "--output", str(tmp_path / "space")]) == 2
    assert main(["space", "me/model"]) == 2
    assert "nothing to do" in capsys.readouterr().err


def test_without_a_repository_the_space_holds_the_model_in_the_box_and_says_how_it_was_taught(tmp_path):
    from transformers import AutoConfig

    from hf_emotion.cli import main

    assert main(["space", "--output", str(tmp_path / "space")]) == 0
    folder = tmp_path / "space"
    assert AutoConfig.from_pretrained(folder / "model").model_type == "microemo"
    assert (folder / "model" / "face_landmarker.task").is_file()
    app = ast.parse((folder / "app.py").read_text())
    values = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in app.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    }
    assert "never trained on a real person" in values["ABOUT"]
    assert all((folder / "examples" / f"{file.stem}.vtt").is_file() for file in (folder / "examples").glob("*.mp4"))
    assert problems_of((folder / "README.md").read_text(), "space") == []


# Weights in pickle form


def test_loading_never_unpickles(folder, tmp_path, monkeypatch):
    from transformers import AutoModel

    from hf_emotion import cli
    from hf_emotion.inference import ModelFolderError, load

    pickled = tmp_path / "pickled"
    shutil.copytree(folder, pickled)
    tensors = load_file(pickled / "model.safetensors")
    (pickled / "model.safetensors").unlink()
    torch.save(tensors, pickled / "pytorch_model.bin")

    opened = []
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: opened.append(args))
    with pytest.raises(OSError, match=r"found pytorch_model.bin.*can run code.*hf-emotion convert pickle"):
        AutoModel.from_pretrained(pickled)
    with pytest.raises(OSError, match="use_safetensors=False"):
        AutoModel.from_pretrained(folder, use_safetensors=False)
    with pytest.raises(ModelFolderError, match="can run code of whoever wrote it"):
        load(pickled)
    assert opened == []
    monkeypatch.undo()

    # The way out that the message names.
    command = ["convert", "pickle", str(pickled), "--output", str(tmp_path / "safe")]
    assert cli.main(command) == 2
    assert not (tmp_path / "safe").exists()
    assert cli.main([*command, "--allow-pickle"]) == 0
    model, _ = load(tmp_path / "safe", device="cpu")
    assert torch.equal(model.state_dict()["lm_head.weight"], tensors["lm_head.weight"])


def test_an_adapter_in_pickle_form_is_refused(folder, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForMultimodalLM

    model = AutoModelForMultimodalLM.from_pretrained(folder)
    lora = LoraConfig(r=2, target_modules=r"model\.language_model\.layers\.0\.self_attn\.q_proj", task_type="CAUSAL_LM")
    get_peft_model(model, lora).save_pretrained(tmp_path / "adapter")
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    assert AutoModelForMultimodalLM.from_pretrained(tmp_path / "adapter").active_adapters() == ["default"]
    torch.save(load_file(weights), tmp_path / "adapter" / "adapter_model.bin")
    weights.unlink()
    with pytest.raises(OSError, match=r"holds no adapter_model.safetensors .found adapter_model.bin"):
        AutoModelForMultimodalLM.from_pretrained(tmp_path / "adapter")
