"""Publishing: a model or adapter with processor, code, card, licence and handler in one commit; and a Space to try it.

    hf-emotion push my_model name/model --results scores.json

A card is filled from files and nothing else: the model's folder (configuration, weights' headers, reports of training
and conversion) and the results files of `hf-emotion evaluate` or the quickstart. A parent is a checkpoint that the
weights started from; if the licence of one restricts who may use the weights, they are published privately by default.
"""

import ast
import json
import math
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distribution, version
from pathlib import Path

import jinja2
import yaml
from huggingface_hub import (
    CommitOperationAdd,
    EvalResult,
    EvalResultEntry,
    HfApi,
    ModelCard,
    ModelCardData,
    SpaceCard,
    SpaceCardData,
    hf_hub_download,
)
from huggingface_hub import eval_result_entries_to_yaml as entries_to_yaml
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open

from .data import files as data_files
from .data.build import HUB_LICENCES, card_template, plain
from .data.demo import make_demo
from .data.files import replacing
from .evaluation import path as metric_path
from .evaluation.evaluate import METRICS
from .modeling.parts import PICKLE_SUFFIXES
from .modeling.remote_code import PIPELINE_FILES, no_safetensors
from .starter import load as load_starter
from .training.recipe import REPORT as TRAINING_REPORT

TASK = "video-text-to-text"
TAGS = ("emotion-recognition", "multimodal", "custom_code", "hf_emotion")
# Licences that let everyone use and redistribute the weights, with no more than a notice.
OPEN_LICENCES = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "unlicense")
# Parents whose repository does not state its licence well: how the name begins -> the licence, and where it is stated.
KNOWN_PARENTS = (
    ("imagebind", "cc-by-nc-sa-4.0", "https://github.com/facebookresearch/ImageBind/blob/main/LICENSE"),
    ("llama-2", "llama2", "https://ai.meta.com/llama/license/"),
    ("llama2", "llama2", "https://ai.meta.com/llama/license/"),
    ("vicuna", "llama2", "https://ai.meta.com/llama/license/"),
    ("instructblip-vicuna", "llama2", "https://ai.meta.com/llama/license/"),
    ("affectgpt", "non-commercial", "https://github.com/zeroQiaoba/MERTools/tree/master/MER2025"),
    ("emotion-llama-v2", "research-only", "https://github.com/ooochen-30/Emotion-LLaMA-v2/blob/main/LICENSE_EULA.md"),
    ("emotion-llama", "research-only", "https://github.com/ZebangCheng/Emotion-LLaMA#-license"),
    ("r1-omni", "no-licence-stated", "https://github.com/HumanMLLM/R1-Omni/blob/main/user_policy.md"),
)
# Terms that do not let the weights be passed on to everyone: `push` publishes them privately or not at all.
NOT_FOR_EVERYONE = ("research-only", "no-licence-stated")
# The release with which the Space's page was checked.
GRADIO_VERSION = "6.31.0"
NUM_EXAMPLES = 4  # clips in a Space
ABOUT_STARTER = (
    "**A small model, taught on synthetic faces and voices alone.** It was never trained on a real person. It reads "
    "the movements of the face and the melody of the voice, not the words, and it is often wrong."
)
# Never published: the remains of a run, and files that would have to be unpickled.
LEFT_BEHIND = ("README.md", "checkpoint-*", "runs", "optimizer*", "scheduler*", "rng_state*", "trainer_state.json")


class HubError(ValueError):
    """A model, adapter, result or Space that cannot be published as asked."""


@dataclass(frozen=True)
class Result:
    """One score of a results file, for the card and the Hub's metadata.

    Attributes:
        file: name of the file.
        metric, name: the metric, and which of its scores.
        value: the number in the file.
        low, high: its 95 % interval, if the file has one.
        baselines: description of a trivial answer -> its score on the same clips.
        dataset, split, clips: the data of the measurement.
    """

    file: str
    metric: str
    name: str
    value: float
    low: float | None
    high: float | None
    baselines: dict[str, float]
    dataset: str
    split: str | None
    clips: int | None


def read_results(path) -> list[Result]:
    """The scores in a file that `hf-emotion evaluate` or the quickstart wrote.

    Raises:
        HubError: the file is missing, is not JSON, or is of another kind.
    """
    path = Path(path)
    try:
        content = data_files.read_json(path)
        return results_in(path, content)
    except (KeyError, TypeError, AttributeError) as error:
        raise HubError(f"{path} is not a results file: {type(error).__name__} at {error}") from error
    except HubError:
        raise
    except ValueError as error:
        raise HubError(f"results file {path} cannot be read ({error})") from error


def results_in(path: Path, content) -> list[Result]:
    """The scores in the content of a results file."""
    if not isinstance(content, dict) or not isinstance(content.get("metrics", content.get("scores")), dict):
        raise HubError(f"{path} holds no scores; a scores.json of `hf-emotion evaluate` or quickstart is accepted")
    if "metrics" not in content:
        return [
            Result(
                path.name,
                "accuracy",
                f"emotion named, clips whose cue is {cue}" if cue != "all" else "emotion named",
                float(score["model"]),
                None,
                None,
                {f"constant: {content['constant']}": score["constant"], "shuffled answers": score["shuffled"]},
                "hf_emotion demo corpus",
                "test",
                score["clips"],
            )
            for cue, score in content["scores"].items()
        ]
    results = []
    for metric, report in content["metrics"].items():
        scores = report["scores"]
        shown = METRICS[metric].shown if metric in METRICS else tuple(scores)
        for name in shown:
            if isinstance(scores.get(name), float):
                low, high = report.get("intervals", {}).get(name, (None, None))
                baselines = {text: row[name] for text, row in report.get("baselines", {}).items() if name in row}
                results.append(
                    Result(
                        path.name,
                        metric,
                        name,
                        scores[name],
                        low,
                        high,
                        baselines,
                        os.path.basename(os.path.normpath(content["data"])),
                        content.get("split"),
                        scores.get("n"),
                    )
                )
    return results


# Licences


def licence_of(part: dict) -> tuple[str | None, str | None]:
    """Licence of a parent (an entry of `EmotionConfig.parts`) and where it is stated; `None` where it is unknown."""
    name = part["source"].rpartition("/")[2].lower().replace("_", "-")
    for start, licence, link in KNOWN_PARENTS:
        if name.startswith(start):
            return licence, link
    return part.get("license"), f"https://huggingface.co/{part['source']}" if "/" in part["source"] else None


def parents_of(parts: dict | None) -> list[dict]:
    """Each parent once: `source`, `revision`, `modules` that started from it, `licence` and its `link`."""
    parents = {}
    for module, origins in (parts or {}).items():
        for part in origins:
            entry = parents.setdefault((part["source"], part["revision"]), {**part, "modules": []})
            entry["modules"].append(module)
            entry["licence"], entry["link"] = licence_of(part)
    return list(parents.values())


def private_because(parents: Sequence[dict]) -> str | None:
    """Why weights with these parents are published privately by default; `None` if nothing requires it."""
    bound = [parent for parent in parents if parent["licence"] not in OPEN_LICENCES]
    if not bound:
        return None
    named = "; ".join(f"{parent['source']} ({parent['licence'] or 'licence unknown'})" for parent in bound)
    return f"the licences of parents restrict the use of the weights: {named}"


def check_may_be_public(parents: Sequence[dict]) -> None:
    """Refuse to publish publicly what a parent's terms do not let everyone have.

    Raises:
        HubError: names the parents, their terms and where they stand.
    """
    bound = [parent for parent in parents if parent["licence"] in NOT_FOR_EVERYONE]
    if bound:
        named = "; ".join(f"{parent['source']} ({parent['licence']}, see {parent['link']})" for parent in bound)
        raise HubError(
            f"the weights may not be published for everyone: {named}; publish them privately, or ask their authors"
        )


def licence_metadata(parents: Sequence[dict]) -> dict[str, str]:
    """`license` and, where the Hub has no name for it, `license_name` and `license_link` of a card."""
    licences = sorted({parent["licence"] or "unknown" for parent in parents})
    bound = [licence for licence in licences if licence not in OPEN_LICENCES]
    if not bound:
        return {"license": "apache-2.0"}
    if len(bound) == 1 and bound[0] in (*HUB_LICENCES, "llama2"):
        return {"license": bound[0]}
    return {"license": "other", "license_name": "those-of-its-parents", "license_link": "LICENSE"}


def licence_text(parents: Sequence[dict]) -> str:
    """The file LICENSE of a repository: the terms of the weights' parents, then the licence of the code."""
    text = distribution("hf_emotion").read_text("licenses/LICENSE")
    if text is None:
        text = (Path(__file__).parents[2] / "LICENSE").read_text(encoding="utf-8")
    if not parents:
        return text
    lines = ["The weights started from these checkpoints, whose licences apply to them as well:", ""]
    for parent in parents:
        terms = ", ".join(filter(None, [parent["licence"] or "unknown", parent["link"]]))
        lines.append(f"- {parent['source']} ({', '.join(parent['modules'])}): {terms}")
    return "\n".join([*lines, "", "The code in this repository is under the following licence.", "", text])


# Facts


@dataclass
class Facts:
    """The facts in a folder; a card's template uses these names."""

    folder: Path
    adapter: dict | None
    base: str | None
    config: dict
    processor: dict
    generation: dict
    training: dict | None
    parents: list[dict]
    parameters: int
    dtypes: dict[str, int]
    about: str


def facts_of(folder, base: str | None = None, token=None, whole: bool = True) -> Facts:
    """Read the facts of a folder to publish.

    Args:
        folder: of a model with its processor, or of a PEFT adapter.
        base: Hub id of an adapter's base model, if the adapter's file names a folder.
        token: for reading the base model of an adapter.
        whole: a model without its processor is an error.

    Raises:
        HubError: weights, processor or code are missing, or are not in safetensors; an adapter without a base on the
            Hub.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise HubError(f"{folder} is not a directory; one that save_pretrained or Trainer wrote is accepted")
    adapter = read_json(folder / "adapter_config.json")
    weights = "adapter_model.safetensors" if adapter else "model.safetensors"
    files = sorted(folder.glob(weights)) or sorted(folder.glob("model-*-of-*.safetensors"))
    if not adapter and not (folder / "config.json").is_file():
        raise HubError(
            f"{folder} has neither config.json nor adapter_config.json; the folder of a model or an adapter is accepted"
        )
    if not files:
        raise HubError(no_safetensors(folder, weights))
    source = folder
    if adapter:
        base = base or adapter["base_model_name_or_path"]
        source = base_folder(base, adapter.get("revision"), token)
    config = read_json(source / "config.json") or {}
    code = {kind: f"{name.partition('.')[0]}.py" for kind, name in (config.get("auto_map") or {}).items()}
    needed = [*dict.fromkeys(code.values()), *PIPELINE_FILES, "processor_config.json"]
    if not whole:
        needed = [name for name in needed if name not in (code.get("AutoProcessor"), "processor_config.json")]
    missing = [name for name in needed if not (folder / name).is_file()]
    if not adapter and (missing or not code):
        lacking = missing[0] if missing else "auto_map in its config.json"
        raise HubError(
            f"{folder} lacks {lacking} and would not load elsewhere; save the model and its processor there with "
            f"save_pretrained"
        )
    parameters, dtypes = count(files)
    modeling = source / f"modeling_{config.get('model_type')}.py"
    return Facts(
        folder=folder,
        adapter=adapter,
        base=base if adapter else None,
        config=config,
        processor=read_json(folder / "processor_config.json") or read_json(source / "processor_config.json") or {},
        generation=read_json(folder / "generation_config.json") or {},
        training=read_json(folder / TRAINING_REPORT),
        parents=parents_of(config.get("parts")),
        parameters=parameters,
        dtypes=dtypes,
        about=ast.get_docstring(ast.parse(modeling.read_text(encoding="utf-8"))) or "" if modeling.is_file() else "",
    )


def base_folder(base: str, revision, token) -> Path:
    """The folder with the configuration and code of an adapter's base model.

    Raises:
        HubError: the base cannot be read from the Hub.
    """
    if Path(base).exists() or base.count("/") != 1:
        raise HubError(
            f"the adapter's base model is {base!r}, a local folder that others cannot load; publish the base first "
            f"and give its repository (--base name/model)"
        )
    options = {"revision": revision, "token": token}
    try:
        config = Path(hf_hub_download(base, "config.json", **options))
        for name in ("processor_config.json", f"modeling_{read_json(config)['model_type']}.py"):
            hf_hub_download(base, name, **options)
    except (EntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise HubError(f"the adapter's base model {base!r} cannot be read: {' '.join(str(error).split())}") from error
    return config.parent


def read_json(path: Path):
    """The content of a JSON file; `None` if there is no such file."""
    return data_files.read_json(path) if path.is_file() else None


def count(files: Sequence[Path]) -> tuple[int, dict[str, int]]:
    """Number of parameters in safetensors files, in all and of each type, from the headers."""
    dtypes: Counter[str] = Counter()
    for file in files:
        with safe_open(file, "np") as content:
            for name in content.keys():  # noqa: SIM118
                tensor = content.get_slice(name)
                dtypes[tensor.get_dtype()] += math.prod(tensor.get_shape())
    return sum(dtypes.values()), dict(dtypes)


# Cards


def card_of(
    facts: Facts, repo_id: str, results: Sequence[Result] = (), examples: Sequence[str] = (), dataset: str | None = None
) -> ModelCard:
    """The model or adapter card, head and text.

    Args:
        facts: of the folder.
        repo_id: where it is published.
        results: scores to show.
        examples: paths in the repository of clips that the model page can play.
        dataset: Hub id of the data the results were measured on.
    """
    bases = [facts.base] if facts.adapter else [p["source"] for p in facts.parents if p["source"].count("/") == 1]
    relation = {"base_model_relation": "adapter" if facts.adapter else "finetune"} if bases else {}
    question = facts.processor.get("default_question", "Which emotions does the person show?")
    address = f"https://huggingface.co/{repo_id}/resolve/main"
    metrics = list(dict.fromkeys(result.metric for result in results))
    head = ModelCardData(
        **licence_metadata(facts.parents),
        language=["en"],
        library_name="peft" if facts.adapter else "transformers",
        pipeline_tag=TASK,
        tags=list(TAGS),
        **({"base_model": bases[0] if facts.adapter else bases} if bases else {}),
        **relation,
        **({"metrics": metrics, "datasets": [dataset] if dataset else None} if metrics else {}),
        **(
            {
                "widget": [
                    {"src": f"{address}/{path}", "text": question, "example_title": Path(path).stem}
                    for path in examples
                ]
            }
            if examples
            else {}
        ),
        model_name=repo_id.rpartition("/")[2],
        eval_results=[
            EvalResult(
                task_type=TASK,
                dataset_type=dataset or slug(result.dataset),
                dataset_name=result.dataset,
                dataset_split=result.split,
                metric_type=result.metric,
                metric_name=f"{result.metric}: {result.name}",
                metric_value=result.value,
            )
            for result in results
        ]
        or None,
    )
    template = "adapter_card.md.jinja" if facts.adapter else "model_card.md.jinja"
    text = render(
        template,
        card_data=head.to_yaml(original_order=list(head.to_dict())),
        repo_id=repo_id,
        results=results,
        result_files=sorted({result.file for result in results}),
        examples=examples,
        question=question,
        private_because=private_because(facts.parents),
        **vars(facts),
    )
    return ModelCard(text)


def render(template: str, **names) -> str:
    """A template of `hub_cards/`; the cards share pieces, so it may include others.

    What comes from files and people becomes plain text in it (see `plain`), except for `card_data`, which is YAML.
    """
    folder = card_template(template).parent
    loader = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    names = {name: value if name in ("card_data", "about") else plain(value) for name, value in names.items()}
    # The docstring of the folder's code keeps its paragraphs and its figure.
    names["about"] = re.sub(r"<(?=[A-Za-z/!?])", "< ", (names.get("about") or "").replace("```", "'''"))
    return loader.get_template(card_template(template).name).render(names)


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def eval_files(results: Sequence[Result], dataset: str | None) -> dict[str, str]:
    """`.eval_results/<data>.yaml`, the Hub's newer form of what `model-index` says: path -> content.

    Empty without `dataset`, the Hub id of the data: the form needs one, and none is made up.
    """
    files: dict[str, str] = {}
    if dataset is None:
        return files
    for name in dict.fromkeys(result.dataset for result in results):
        entries = [
            EvalResultEntry(
                dataset_id=dataset,
                task_id=slug(f"{result.metric} {result.name}"),
                value=result.value,
                notes=", ".join(
                    [f"split {result.split}"] * bool(result.split) + [f"{result.clips} clips"] * bool(result.clips)
                )
                or None,
            )
            for result in results
            if result.dataset == name
        ]
        files[f".eval_results/{slug(name)}.yaml"] = yaml.safe_dump(entries_to_yaml(entries), sort_keys=False)
    return files


# Publishing


def push(
    source,
    repo_id: str,
    *,
    processor=None,
    results: Sequence = (),
    examples: Sequence = (),
    dataset: str | None = None,
    base: str | None = None,
    readme=None,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    commit_description: str | None = None,
    max_shard_size: int | str = "50GB",
    tags: Sequence[str] = (),
    announce: Callable[[str], None] = lambda text: None,
) -> str:
    """Publish a model, or a PEFT adapter, in one commit; returns the commit's address.

    The commit holds the weights (safetensors), configuration and generation configuration, the processor, the code of
    all of them, the pipeline, the card, LICENSE, the results in `.eval_results/`, and for models `handler.py` with
    `requirements.txt` for Inference Endpoints.

    Args:
        source: a folder, or a model; a model is saved first.
        repo_id: `"name/model"`; made if it is not there.
        processor: of a model; it is published with it. A model without one can be loaded, but takes tensors only.
        results: files that `hf-emotion evaluate` or the quickstart wrote; their scores go on the card.
        examples: clips that the model page can play; publish only faces of people who agreed to it.
        dataset: Hub id of the data behind the results.
        base: Hub id of an adapter's base model, where the adapter was trained from a folder.
        readme: a card to publish instead of the one made here.
        private: by default as the parents' licences require (`private_because`), else the Hub's default.
        token, revision, create_pr, commit_message, commit_description: as everywhere in huggingface_hub.
        max_shard_size: of the weights' files, for a model.
        tags: further tags for the card.
        announce: called with the list of files, one a line with its size, before anything is sent.

    Raises:
        HubError: before anything is sent: the folder is not whole, or holds a link that leads out of it; a card that
            the Hub would refuse; a public repository for weights that demand a private one, unless `private=False` is
            given.
    """
    with tempfile.TemporaryDirectory() as saved:
        folder, whole = source, True
        if not isinstance(source, (str, os.PathLike)):
            folder, whole = saved, processor is not None
            source.save_pretrained(folder, max_shard_size=max_shard_size)
            if whole:
                processor.save_pretrained(folder)
        try:
            facts = facts_of(folder, base, token, whole)
        except (AttributeError, TypeError, KeyError, IndexError, SyntaxError, SafetensorError) as error:
            raise HubError(f"{folder}: a file in it is malformed ({type(error).__name__}: {error})") from error
        scores = [result for file in results for result in read_results(file)]
        clips = {f"examples/{Path(clip).name}": Path(clip) for clip in examples}
        files = {**files_of(facts), **clips}
        if readme is None:
            card = card_of(facts, repo_id, scores, list(clips), dataset)
            card.data.tags = list(dict.fromkeys([*card.data.tags, *tags]))
        else:
            card = ModelCard.load(readme)
        files["README.md"] = str(card).encode()
        files |= {path: text.encode() for path, text in eval_files(scores, dataset).items()}
        announce(listing(files))
        api = HfApi(token=token)
        if private is False:
            check_may_be_public(facts.parents)
        prepare(api, card, repo_id, "model", private, private_because(facts.parents))
        if revision is not None and not create_pr:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.create_commit(
            repo_id,
            operations=operations(files),
            commit_message=commit_message or f"Upload {'adapter' if facts.adapter else facts.config['model_type']}",
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
        )
        return commit.commit_url


def listing(files: dict[str, Path | bytes]) -> str:
    """One line for each file, with its size in bytes."""
    sizes = {name: len(file) if isinstance(file, bytes) else file.stat().st_size for name, file in files.items()}
    return "\n".join(f"{size:>16,}  {name}" for name, size in sorted(sizes.items()))


def files_of(facts: Facts) -> dict[str, Path | bytes]:
    """What of a folder is published, and what is added to it: path in the repository -> file or content.

    Raises:
        HubError: a link leads out of the folder: what is behind it was never meant to be published with the model.
    """
    files: dict[str, Path | bytes] = {}
    for file in sorted(facts.folder.rglob("*")):
        path = file.relative_to(facts.folder)
        if file.is_symlink() and not file.resolve().is_relative_to(facts.folder.resolve()):
            raise HubError(f"{file} is a link to {file.resolve()}, outside of the folder; put a copy in its place")
        left = any(part.startswith(".") or any(map(Path(part).match, LEFT_BEHIND)) for part in path.parts)
        if file.is_file() and not left and file.suffix not in PICKLE_SUFFIXES and "__pycache__" not in path.parts:
            files[path.as_posix()] = file
    files["LICENSE"] = licence_text(facts.parents).encode()
    if facts.adapter:
        # The adapter's file may name the folder that it was trained from.
        adapter = {**facts.adapter, "base_model_name_or_path": facts.base}
        files["adapter_config.json"] = (json.dumps(adapter, indent=2, sort_keys=True) + "\n").encode()
    else:
        files["handler.py"] = card_template("handler.py")
        files["requirements.txt"] = card_template("handler_requirements.txt")
    return files


def operations(files: Mapping[str, Path | bytes]) -> list[CommitOperationAdd]:
    return [
        CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
        for path, content in files.items()
    ]


def prepare(api: HfApi, card, repo_id: str, kind: str, private: bool | None, reason: str | None, **options) -> None:
    """Check card and repository, and create the repository if it does not exist.

    Args:
        card: validated as the Hub does it.
        private: as the user asked.
        reason: why it must be private, if anything requires it.
        options: of `create_repo`.

    Raises:
        HubError: the card is refused, or a repository that should be private is public.
    """
    try:
        validate_repo_id(repo_id)
        card.validate(repo_type=kind)
    except (HFValidationError, ValueError) as error:
        raise HubError(f"{repo_id}: not published, the Hub refuses it: {' '.join(str(error).split())}") from error
    if private is None and reason is not None:
        private = True
    try:
        api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True, **options)
        public = private and not api.repo_info(repo_id, repo_type=kind).private
    except HfHubHTTPError as error:
        raise HubError(f"{repo_id} cannot be written: {' '.join(str(error).split())[:300]}") from error
    if public:
        why = f" ({reason})" if reason else ""
        raise HubError(
            f"{repo_id} exists and is public{why}; make it private, choose another repository, or allow it to be "
            f"public (--public)"
        )


# Space


def space_files(model_id: str | None = None, title: str | None = None) -> dict[str, bytes]:
    """A Gradio Space that shows a published model, or the model in the box, with example clips: path -> content.

    Args:
        model_id: the repository of the model or adapter; `None`: the model in the box, which is put into the Space.
        title: of the page.
    """
    title = title or f"Emotions in a clip: {model_id.rpartition('/')[2] if model_id else 'the model in the box'}"
    card = render("space/README.md.jinja", card_data=space_data(model_id, title), model_id=model_id, title=title)
    app = card_template("space/app.py").read_text(encoding="utf-8")
    for name, value in (
        ("MODEL_ID", model_id or "model"),
        ("TITLE", title),
        ("ABOUT", "" if model_id else ABOUT_STARTER),
        ("TRAINING_REPORT", TRAINING_REPORT),
    ):
        app = app.replace(json.dumps(name), json.dumps(value))
    requirements = card_template("space/requirements.txt").read_text(encoding="utf-8")
    for name in ("transformers", "torch", "peft"):
        # The versions that the model was published with; a local build tag is no release.
        requirements = re.sub(rf"(?m)^{name}$", f"{name}=={version(name).partition('+')[0]}", requirements)
    files = {"README.md": card.encode(), "app.py": app.encode(), "requirements.txt": requirements.encode()}
    with tempfile.TemporaryDirectory() as work:
        if model_id is None:
            for part in load_starter(device="cpu"):
                part.save_pretrained(Path(work) / "model")
        rows = make_demo(Path(work) / "demo", NUM_EXAMPLES, num_workers=0, progress=False)
        (Path(work) / "examples").mkdir()
        for i, row in enumerate(rows, 1):
            shutil.copyfile(row["video"], Path(work) / "examples" / f"{i}_{row['label']}.mp4")
            (Path(work) / "examples" / f"{i}_{row['label']}.vtt").write_text(subtitles(row["utterances"]), "utf-8")
        for folder in ("model", "examples"):
            for file in sorted((Path(work) / folder).rglob("*")):
                if file.is_file():
                    files[file.relative_to(work).as_posix()] = file.read_bytes()
    return files


def subtitles(utterances: list[dict]) -> str:
    """Utterances as WebVTT."""
    cues = []
    for utterance in utterances:
        start, end = (
            f"{int(time // 3600):02}:{int(time // 60 % 60):02}:{time % 60:06.3f}"
            for time in (utterance["start"], utterance["end"])
        )
        cues.append(f"{start} --> {end}\n{utterance['text']}\n")
    return "\n".join(["WEBVTT\n", *cues])


def space_data(model_id: str | None, title: str):
    """The front matter of the Space's README."""
    return SpaceCardData(
        title=title,
        sdk="gradio",
        sdk_version=GRADIO_VERSION,
        python_version="3.12",
        app_file="app.py",
        license="apache-2.0",
        models=[model_id] if model_id else None,
        tags=["emotion-recognition", "hf_emotion"],
        short_description="Emotions of a talking face, and the clues for them",
    )


def write_space(model_id: str | None, folder, title: str | None = None) -> Path:
    """Write a Space for a published model, or with `None` for the one in the box, to a new or empty folder.

    Raises:
        HubError: the folder exists and is not empty.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise HubError(f"{folder} exists and is not empty; a new or empty folder is accepted")
    with replacing(folder, overwrite=False) as unfinished:
        unfinished.mkdir()
        for name, content in space_files(model_id, title).items():
            (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
            (unfinished / name).write_bytes(content)
    return folder


def push_space(
    model_id: str | None,
    space_id: str,
    *,
    title: str | None = None,
    private: bool | None = None,
    token: str | None = None,
) -> str:
    """Publish a Space for a published model, or with `None` for the one in the box, in one commit; returns its address.

    A Space of a private model is private, and needs the secret HF_TOKEN in its settings to read the model.

    Raises:
        HubError: the Hub refuses it, or a public Space exists already for a private model.
    """
    files = space_files(model_id, title)
    api = HfApi(token=token)
    try:
        hidden = model_id is not None and api.model_info(model_id).private
    except HfHubHTTPError as error:
        raise HubError(f"{model_id} cannot be read as a model; publish it first") from error
    reason = f"the model {model_id} is private" if hidden else None
    card = SpaceCard(files["README.md"].decode())
    prepare(api, card, space_id, "space", private, reason, space_sdk="gradio")
    commit = api.create_commit(
        space_id,
        operations=operations(files),
        commit_message=f"A Space for {model_id or 'the model in the box'}",
        repo_type="space",
    )
    return commit.commit_url


def push_metric(name: str, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
    """Publish a metric of this package for `evaluate.load(repo_id)`, in one commit; returns the commit's address.

    Metrics are Spaces on the Hub. The module imports `hf_emotion`, which whoever loads it must have installed.

    Args:
        name: one of `evaluation.metrics()`.
        repo_id: `"user/NAME"`; `evaluate` looks for `NAME.py`, so NAME must be the metric's.
        private, token: as everywhere in huggingface_hub.

    Raises:
        ValueError: no such metric.
        HubError: the repository has another name than the metric, or the Hub refuses it.
    """
    module = Path(metric_path(name), f"{name}.py")
    if repo_id.rpartition("/")[2] != name:
        raise HubError(
            f"evaluate.load reads NAME.py of user/NAME: {name} is published as user/{name}, not as {repo_id}"
        )
    source = module.read_text(encoding="utf-8")
    about = (ast.get_docstring(ast.parse(source)) or name).splitlines()[0]
    head = SpaceCardData(title=name, sdk="static", app_file="index.html", tags=["evaluate", "metric"], pinned=False)
    usage = f'evaluate.load("{repo_id}").compute(predictions=predictions, references=references)'
    text = f"# {name}\n\n{about}\n\n```python\nimport evaluate\n\n{usage}\n```\n\nNeeds `pip install hf_emotion`.\n"
    card = SpaceCard(f"---\n{head.to_yaml()}\n---\n{text}")
    files: dict[str, Path | bytes] = {
        module.name: source.encode(),
        "README.md": str(card).encode(),
        "index.html": f"<!doctype html><title>{name}</title><h1>{name}</h1><p>{about}<pre>{usage}</pre>".encode(),
    }
    api = HfApi(token=token)
    prepare(api, card, repo_id, "space", private, None, space_sdk="static")
    return api.create_commit(
        repo_id, operations=operations(files), commit_message=f"Upload {name}", repo_type="space"
    ).commit_url
