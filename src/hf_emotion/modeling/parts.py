"""Building a model from published checkpoints of its parts: safetensors in, a report of what came from where.

A part is read tensor by tensor through a table of prefixes, from a Hub repository or a local folder, one file or many;
only the files that contain wanted tensors are fetched. Pickled weights (`.bin`, `.pth`) are refused: reading them can
run arbitrary code. The scripts in `hf_emotion.convert` convert them, once and with explicit consent, into folders that
this file reads.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from huggingface_hub import ModelCard, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Blip2QFormerConfig,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
)

from .configuration_imagebind_audio import ImageBindAudioConfig

PICKLE_SUFFIXES = (".bin", ".pth", ".pt", ".ckpt", ".pkl")

# The model type in config.json of folders that `convert_videollama_qformer_to_hf` writes.
PARTS_MODEL_TYPE = "microemo_parts"

# Prefix of the tower in a checkpoint of this model type, for towers whose class cannot load it; "" = the checkpoint is
# the tower.
VISION_PREFIXES = {
    "instructblip": "vision_model.",
    "instructblipvideo": "vision_model.",
    "blip-2": "vision_model.",
    "instructblip_vision_model": "",
    "blip_2_vision_model": "",
}
AUDIO_PREFIXES = {"imagebind_audio": "", "whisper": "model.encoder."}

# Towers that every paper's forward supports. `ONE_CLASS_TOKEN` lists those that give one token for the image, then the
# patches.
ONE_CLASS_TOKEN = ("instructblip_vision_model", "clip_vision_model", "dinov2", "vit", "beit", "data2vec-vision")
VISION_TOWERS = (*ONE_CLASS_TOKEN, "siglip_vision_model", "dinov2_with_registers", "dinov3_vit", "deit")
AUDIO_TOWERS = (
    "imagebind_audio",
    "whisper",
    "hubert",
    "wav2vec2",
    "wavlm",
    "data2vec-audio",
    "unispeech",
    "unispeech-sat",
    "wav2vec2-conformer",
)

# Prefix of the names of LoRA weights in a folder of parts; the module that they change follows it.
LORA = "lora."

ELSEWHERE = "belongs to another part of that checkpoint"


class PartsError(ValueError):
    """A part that cannot be read, or does not fit the others."""


@dataclass
class PartsReport:
    """Where every tensor came from or why it was not used: `print(report)` shows it by module.

    Attributes:
        loaded: name in the model -> the source it came from.
        new: names in the model that no source contained; they are initialised at random.
        ignored: "name in the source (source)" -> why it was left out.
        notes: anything else a user should know, one sentence each.
        parameters: name in the model -> its number of parameters.
    """

    loaded: dict[str, str] = field(default_factory=dict)
    new: list[str] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    parameters: dict[str, int] = field(default_factory=dict)

    def update(self, other: "PartsReport"):
        """Add the entries of `other`."""
        self.loaded.update(other.loaded)
        self.new.extend(other.new)
        self.ignored.update(other.ignored)
        self.notes.extend(other.notes)
        self.parameters.update(other.parameters)

    def origins(self, **hub) -> dict[str, list[dict]]:
        """Module of the model -> where its weights came from, as `origin_of` returns it (`EmotionConfig.parts`)."""
        origins: dict[str, list[dict]] = {}
        for module, source in sorted({(module_of(name), source) for name, source in self.loaded.items()}):
            origins.setdefault(module, []).append(origin_of(source, **hub))
        return origins

    def to_dict(self) -> dict:
        """The report as JSON-serialisable data."""
        return {"loaded": self.loaded, "new": self.new, "ignored": self.ignored, "notes": self.notes}

    def __str__(self) -> str:
        lines = []
        for module, source in sorted({(module_of(name), source) for name, source in self.loaded.items()}):
            names = [n for n, s in self.loaded.items() if module_of(n) == module and s == source]
            count = sum(self.parameters.get(name, 0) for name in names)
            lines.append(f"loaded   {module}: {len(names)} tensors, {count:,} parameters, from {source}")
        for module, tensors in sorted(Counter(map(module_of, self.new)).items()):
            count = sum(self.parameters.get(name, 0) for name in self.new if module_of(name) == module)
            lines.append(f"new      {module}: {tensors} tensors, {count:,} parameters, start at random")
        for reason, tensors in sorted(Counter(self.ignored.values()).items()):
            first = next(name for name, why in self.ignored.items() if why == reason)
            more = f" and {tensors - 1} more" if tensors > 1 else ""
            lines.append(f"ignored  {first}{more}: {reason}")
        lines += [f"note     {note}" for note in self.notes]
        return "\n".join(lines)


def module_of(name: str) -> str:
    """The module of the model a tensor belongs to: `model.video_qformer.global_qformer.x` -> `video_qformer`."""
    return name.removeprefix("model.").split(".")[0]


def find_file(source: str, name: str, **hub) -> str | None:
    """Local path of a file in a folder or Hub repository; `None` if there is no such file.

    Raises:
        PartsError: `source` is neither a folder nor a reachable repository.
    """
    if os.path.isdir(source):
        path = os.path.join(source, name)
        return path if os.path.isfile(path) else None
    try:
        return hf_hub_download(source, name, **hub)
    except (LocalEntryNotFoundError, EntryNotFoundError):
        return None
    except HFValidationError as error:
        raise PartsError(f"{source!r} is neither a folder nor the name of a Hub repository") from error
    except GatedRepoError as error:
        raise PartsError(f"the Hub repository {source!r} is gated; accept its terms there and log in") from error
    except RepositoryNotFoundError as error:
        raise PartsError(f"the Hub has no repository {source!r} that you can read; log in if it is private") from error
    except HfHubHTTPError as error:
        raise PartsError(f"could not download {name} of {source!r} from the Hub: {error}") from error


def origin_of(source: str, **hub) -> dict:
    """The origin of a source, or of the published checkpoint that it was converted from: its `source` (for a folder
    only its name), the `revision` (commit) of a Hub repository and the `license` that its model card states; `None`
    where unknown."""
    folder = os.path.isdir(source)
    config, card = (find_file(source, name, **hub) for name in ("config.json", "README.md"))
    commit = re.search(r"/snapshots/([0-9a-f]{40})/", (config or "").replace(os.sep, "/"))
    terms = None
    if card is not None:
        stated = ModelCard.load(card, ignore_metadata_errors=True).data
        terms = stated.get("license_name") if stated.get("license") == "other" else stated.get("license")
    if config is not None:
        with open(config, encoding="utf-8") as file:
            converted = json.load(file)
        if isinstance(converted, dict) and "origin" in converted:
            # A folder of `hf-emotion convert`: its origin is the checkpoint that it was made from.
            return {**converted["origin"], "revision": None}
    return {
        "source": os.path.basename(os.path.abspath(source)) if folder else source,
        "revision": None if folder or commit is None else commit[1],
        "license": terms,
    }


def read_config(source: str, **hub) -> dict:
    """`config.json` of a part.

    Raises:
        PartsError: there is none (offline: none in the cache), or it is not a JSON object.
    """
    source = checked(source)
    path = find_file(source, "config.json", **hub)
    if path is None:
        raise PartsError(
            f"{source!r} has no config.json (only the local cache was searched if the Hub is unreachable or "
            f"offline mode is on); accepted is a Hub repository or a folder in transformers' layout"
        )
    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
    except json.JSONDecodeError as error:
        raise PartsError(f"config.json of {source!r} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise PartsError(f"config.json of {source!r} holds a {type(config).__name__}; accepted is an object")
    return config


def check_tower(part: str, source: str, config, accepted: tuple[str, ...]) -> None:
    """Refuse a tower that the model's forward does not support.

    Raises:
        PartsError: the tower's type is not one of `accepted`.
    """
    if config.model_type not in accepted:
        raise PartsError(
            f"{source!r} has a tower of type {config.model_type!r}; accepted for {part} are {', '.join(accepted)}"
        )


def check_type(part, source, accepted, **hub):
    """Refuse a checkpoint whose model type is not `accepted`."""
    model_type = read_config(source, **hub).get("model_type")
    if model_type != accepted:
        raise PartsError(f"{source!r} is a {model_type!r} checkpoint; accepted for {part} is a {accepted!r} one")


def checked(source) -> str:
    """`source` as a string; a pickle file is refused here."""
    source = os.fspath(source)
    if source.endswith(PICKLE_SUFFIXES):
        raise PartsError(pickle_refusal(source))
    return source


def pickle_refusal(source: str) -> str:
    return (
        f"{source!r} holds weights in pickle form, and reading pickle files can run arbitrary code; convert it with "
        f"`hf-emotion convert`, or use a repository with safetensors"
    )


def safetensors_names(source: str, **hub) -> dict[str, str]:
    """Name of every tensor of a part -> name of the safetensors file that contains it.

    Raises:
        PartsError: the part has no safetensors, or its index names a file outside its folder.
    """
    index = find_file(source, "model.safetensors.index.json", **hub)
    if index is not None:
        with open(index, encoding="utf-8") as file:
            names = json.load(file)["weight_map"]
        for shard in set(names.values()):
            if os.path.basename(shard) != shard:
                raise PartsError(f"the index of {source!r} names the file {shard!r} outside its folder")
        return names
    path = find_file(source, "model.safetensors", **hub)
    if path is not None:
        with safe_open(path, framework="pt") as file:
            return dict.fromkeys(file.keys(), "model.safetensors")
    if os.path.isdir(source) and any(name.endswith(PICKLE_SUFFIXES) for name in os.listdir(source)):
        raise PartsError(pickle_refusal(source))
    raise PartsError(
        f"{source!r} has no model.safetensors or model.safetensors.index.json (only the local cache was searched if "
        f"the Hub is unreachable or offline mode is on); weights in pickle form (.bin, .pth) are not read: convert "
        f"them with hf-emotion convert"
    )


def trained_fields(part: str, source: str, cls, **hub) -> tuple[dict, dict]:
    """The fields of the model's configuration that a folder of `hf-emotion convert` sets, and its whole config.json.

    Raises:
        PartsError: the folder has another model type.
    """
    check_type(part, source, f"{part}_parts", **hub)
    whole = read_config(source, **hub)
    fields = {name: value for name, value in whole.items() if name in cls.config_class.__dataclass_fields__}
    fields.pop("model_type", None)
    return fields, whole


def load_part(
    source: str, prefix_map: dict[str, str], ignore: dict[str, str] | None = None, **hub
) -> tuple[dict[str, torch.Tensor], PartsReport]:
    """Read the tensors of one part, with the names they have in the model.

    Args:
        source: a Hub repository or a folder, with safetensors in one file or many.
        prefix_map: prefix in the source -> prefix in the model; the longest match is used; "" matches everything.
        ignore: prefix in the source -> why such tensors are left out. A tensor that matches nothing is left out too.
        hub: `revision`, `cache_dir`, `token`, `local_files_only` of `hf_hub_download`, which honours HF_HUB_OFFLINE.

    Returns:
        the tensors under their new names, and a report whose `new` is empty.

    Raises:
        PartsError: no such source, no safetensors, or no tensor that matches `prefix_map`.
    """
    source = checked(source)
    ignore = ignore or {}
    names = safetensors_names(source, **hub)
    report = PartsReport()
    wanted: dict[str, list[str]] = {}
    for name, shard in names.items():
        prefix = longest_prefix(name, [*prefix_map, *ignore])
        if name.endswith("position_ids"):
            report.ignored[f"{name} ({source})"] = "a table of consecutive numbers, computed again"
        elif prefix in prefix_map:
            wanted.setdefault(shard, []).append(name)
        else:
            report.ignored[f"{name} ({source})"] = ignore.get(prefix, ELSEWHERE)
    if not wanted:
        raise PartsError(
            f"{source!r} has no tensor named {' or '.join(repr(prefix + '*') for prefix in prefix_map)}; it has "
            f"{', '.join(sorted({name.split('.')[0] for name in names}))}"
        )
    tensors = {}
    for shard, shard_names in wanted.items():
        path = find_file(source, shard, **hub)
        if path is None:
            raise PartsError(f"the index of {source!r} names {shard}, which does not exist")
        with safe_open(path, framework="pt") as file:
            for name in shard_names:
                prefix = longest_prefix(name, prefix_map)
                tensors[prefix_map[prefix] + name.removeprefix(prefix)] = file.get_tensor(name)
    report.loaded = dict.fromkeys(tensors, source)
    report.parameters = {name: tensor.numel() for name, tensor in tensors.items()}
    return tensors, report


def longest_prefix(name: str, prefixes: Iterable[str]) -> str | None:
    return max((prefix for prefix in prefixes if name.startswith(prefix)), key=len, default=None)


def load_tower(
    tower_class, source: str, config, prefix: str, known: dict[str, str], **hub
) -> tuple[dict[str, torch.Tensor], PartsReport]:
    """Read a tower: with a prefix if its model type is in `known`, else with the tower's own class.

    Args:
        tower_class: the tower's class in the model.
        config: the tower's configuration.
        prefix: the tower's prefix in the model.
        known: model type of a source -> the tower's prefix in the source.
    """
    model_type = read_config(source, **hub).get("model_type")
    if model_type in known:
        return load_part(source, {known[model_type]: prefix}, **hub)
    source = checked(source)
    safetensors_names(source, **hub)
    tower, info = tower_class.from_pretrained(
        source, config=config, use_safetensors=True, output_loading_info=True, **hub
    )
    tensors = {prefix + name: tensor for name, tensor in tower.state_dict().items() if name not in info["missing_keys"]}
    report = PartsReport(loaded=dict.fromkeys(tensors, source))
    report.ignored = {f"{name} ({source})": ELSEWHERE for name in info["unexpected_keys"]}
    report.parameters = {name: tensor.numel() for name, tensor in tensors.items()}
    return tensors, report


def text_fields(source: str, **hub) -> dict:
    """Fields of a configuration for a language model: its own, and the ids of the placeholders.

    Placeholders beyond the vocabulary are never looked up, whatever the language model.
    """
    config = AutoConfig.from_pretrained(source, trust_remote_code=False, **hub).get_text_config()
    tokens = {"video_token_id": config.vocab_size, "audio_token_id": config.vocab_size + 1}
    return {"text_config": config.to_dict(), **tokens}


def load_language_model(source: str, dtype=None, **hub) -> tuple[dict[str, torch.Tensor], PartsReport, torch.dtype]:
    """Read a causal language model with its names in a paper's model: `model.language_model.*`, `lm_head.*`."""
    source = checked(source)
    safetensors_names(source, **hub)
    model, info = AutoModelForCausalLM.from_pretrained(
        source, dtype=dtype or "auto", use_safetensors=True, output_loading_info=True, trust_remote_code=False, **hub
    )
    if info["missing_keys"]:
        raise PartsError(f"the language model {source!r} lacks {sorted(info['missing_keys'])[:3]}")
    base = f"{model.base_model_prefix}."
    head = next(f"{name}." for name, module in model.named_modules() if module is model.get_output_embeddings())
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(base):
            tensors["model.language_model." + name.removeprefix(base)] = tensor
        elif name.startswith(head):
            tensors["lm_head." + name.removeprefix(head)] = tensor
        else:
            raise PartsError(f"the language model {source!r} has {name!r} outside its body and head")
    report = PartsReport(loaded=dict.fromkeys(tensors, source))
    report.ignored = {f"{name} ({source})": ELSEWHERE for name in info["unexpected_keys"]}
    report.parameters = {name: tensor.numel() for name, tensor in tensors.items()}
    return tensors, report, model.dtype


def vision_config_of(source: str, **hub):
    """Configuration of the vision tower inside `source`."""
    config = read_config(source, **hub)
    model_type = config.get("model_type")
    if model_type in VISION_PREFIXES:
        # BLIP-2 and InstructBLIP have the same vision tower under two names.
        tower = config if VISION_PREFIXES[model_type] == "" else config.get("vision_config", {})
        return InstructBlipVisionConfig.from_dict({k: v for k, v in tower.items() if k != "model_type"})
    whole = AutoConfig.from_pretrained(source, trust_remote_code=False, **hub)
    return getattr(whole, "vision_config", whole)


def audio_config_of(source: str, **hub):
    """Configuration of the audio tower inside `source`."""
    config = read_config(source, **hub)
    if config.get("model_type") == ImageBindAudioConfig.model_type:
        return ImageBindAudioConfig.from_dict(config)
    whole = AutoConfig.from_pretrained(source, trust_remote_code=False, **hub)
    return getattr(whole, "audio_config", whole)


def qformer_fields_of(source: str, reads_text: bool, **hub) -> tuple[dict, dict[str, str]]:
    """Fields of the model's configuration for the image Q-Former inside `source`, and its table of prefixes.

    Args:
        reads_text: whether the model's image Q-Former reads text beside its queries: MicroEmo's reads each frame's
            timestamp (3.2); AcoustEmo's reads none.

    Raises:
        PartsError: the source's Q-Former reads text and the model's does not, or vice versa.
    """
    config = read_config(source, **hub)
    model_type = config.get("model_type")
    if reads_text and model_type == PARTS_MODEL_TYPE and "image_qformer_config" in config:
        fields = {name: config[name] for name in ("image_qformer_config", "num_query_tokens")}
        return fields, {"image_qformer.": "model.image_qformer."}
    if model_type in (("instructblip", "instructblipvideo") if reads_text else ("blip-2",)):
        values = {k: v for k, v in config.get("qformer_config", {}).items() if k != "model_type"}
        qformer_config = (InstructBlipQFormerConfig if reads_text else Blip2QFormerConfig).from_dict(values)
        fields = {
            "image_qformer_config": qformer_config.to_dict(),
            "num_query_tokens": config.get("num_query_tokens", 32),
        }
        return fields, {
            "qformer.": "model.image_qformer.qformer.",
            "query_tokens": "model.image_qformer.query_tokens",
        }
    if not reads_text:
        raise PartsError(
            f"{source!r} is a {model_type!r} checkpoint; the image Q-Former reads frames only, so accepted are BLIP-2 "
            f"checkpoints"
        )
    raise PartsError(
        f"{source!r} is a {model_type!r} checkpoint; the image Q-Former must read each frame's timestamp, so accepted "
        f"are InstructBLIP checkpoints and folders that convert_videollama_qformer_to_hf made from a text-conditioned "
        f"Q-Former (TimeChat, InstructBLIP)"
    )


def check_sources(cls, sources: dict, overrides: dict) -> None:
    """Refuse an assembly without parts, or with a field that the configuration of `cls` does not have.

    Args:
        cls: the generating class.
        sources: part -> its source or `None`.
        overrides: fields of the configuration.
    """
    if all(source is None for source in sources.values()):
        raise PartsError(f"no part is given; accepted are {', '.join(sources)}")
    unknown = sorted(set(overrides) - set(cls.config_class.__dataclass_fields__))
    if unknown:
        raise PartsError(
            f"{unknown[0]!r} is neither a part ({', '.join(sources)}) nor a field of {cls.config_class.__name__}"
        )


class Assembly:
    """A model under assembly: the tensors it needs, those already loaded, and the report.

    Attributes:
        skeleton: the model on the meta device, without memory.
        expected: name in the model -> its tensor on the meta device.
        report: what happened to every tensor so far.
    """

    def __init__(self, cls, config):
        self.cls, self.config = cls, config
        with torch.device("meta"):
            self.skeleton = cls(config)
        self.expected = self.skeleton.state_dict()
        self.tensors: dict[str, torch.Tensor] = {}
        self.report = PartsReport()

    def take(self, part: str, tensors: dict[str, torch.Tensor], part_report: PartsReport) -> None:
        """Add a part's tensors and report, as `load_tower` and the other loaders return them. If two sources have the
        same tensor, the first is used.

        Raises:
            PartsError: a tensor's shape differs from the one expected.
        """
        for name, tensor in tensors.items():
            source = part_report.loaded[name]
            reason = None
            if name in self.tensors:
                reason = f"{module_of(name)} comes from {self.report.loaded[name]}"
            elif name not in self.expected:
                reason = "the assembled configuration has no place for it"
            elif tensor.shape != self.expected[name].shape:
                raise PartsError(
                    f"{name} has shape {tuple(tensor.shape)} in {source!r} ({part}) and "
                    f"{tuple(self.expected[name].shape)} in the assembled model; the parts do not fit each other"
                )
            if reason is None:
                self.tensors[name] = tensor
            else:
                part_report.ignored[f"{name} ({source})"] = reason
                del part_report.loaded[name]
        self.report.update(part_report)

    def take_trained(self, part: str, source: str, **hub) -> dict[str, torch.Tensor]:
        """Add the tensors of a folder that `hf-emotion convert` wrote; its LoRA weights are returned for `merge`."""
        tensors, part_report = load_part(source, {"": ""}, **hub)
        lora = {name: tensor for name, tensor in tensors.items() if name.startswith(LORA)}
        for name in lora:
            del tensors[name], part_report.loaded[name]
        self.take(part, tensors, part_report)
        return lora

    def merge(self, lora: dict[str, torch.Tensor], alpha: float) -> None:
        """Add LoRA weights to the weights that they change: W + alpha / r * B A, in float32 at least.

        Raises:
            PartsError: a weight that they change is missing, most often because its part was not given.
        """
        for name, down in lora.items():
            if not name.endswith(".lora_A.weight"):
                continue
            module = name.removeprefix(LORA).removesuffix(".lora_A.weight")
            weight = self.tensors.get(f"{module}.weight")
            if weight is None:
                raise PartsError(
                    f"the LoRA weights change {module}, which no part has; give the language model (text=)"
                )
            up = lora[name.replace("lora_A", "lora_B")]
            if weight.shape != (len(up), down.shape[1]):
                raise PartsError(
                    f"the LoRA weights of {module} are for a weight of shape {(len(up), down.shape[1])}; the language "
                    f"model's has {tuple(weight.shape)}"
                )
            wide = torch.promote_types(weight.dtype, torch.float32)
            changed = weight.to(wide) + alpha / len(down) * (up.to(wide) @ down.to(wide))
            self.tensors[f"{module}.weight"] = changed.to(weight.dtype)
        if lora:
            self.report.notes.append(
                f"LoRA weights of {len(lora) // 2} layers are added to the language model's weights"
            )

    def finish(self, dtype: torch.dtype | None, **hub) -> tuple:
        """The model with the tensors loaded so far, in eval mode and `dtype` (float32 by default), and its report."""
        model, info = self.cls.from_pretrained(
            None,
            config=self.config,
            state_dict=self.tensors,
            dtype=dtype or torch.float32,
            output_loading_info=True,
        )
        self.report.new = sorted(info["missing_keys"])
        self.report.parameters.update({name: self.expected[name].numel() for name in self.report.new})
        model.config.parts = self.report.origins(**hub)
        return model.eval(), self.report


def assemble(
    cls,
    vision: str | None = None,
    qformer: str | None = None,
    audio: str | None = None,
    text: str | None = None,
    video_llama: str | None = None,
    config=None,
    dtype: torch.dtype | None = None,
    cache_dir: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    **overrides,
):
    """A paper's model from checkpoints of its parts (MicroEmo 4.1; AcoustEmo 3.2 and 4.1).

    Args:
        cls: the generating class.
        vision: EVA ViT-g: an InstructBLIP or BLIP-2 checkpoint, a folder of `convert_eva_vit_to_hf`, or any vision
            model of transformers.
        qformer: the image Q-Former. MicroEmo's, which reads timestamps: an InstructBLIP checkpoint, or a folder of
            `convert_videollama_qformer_to_hf`. AcoustEmo's: a BLIP-2 checkpoint.
        audio: a folder of `convert_imagebind_audio_to_hf`, or any audio encoder of transformers.
        text: any causal language model of transformers.
        video_llama: a folder of `convert_videollama_qformer_to_hf`: video and audio Q-Formers, positions, projectors
            (MicroEmo; no part of AcoustEmo has their shape).
        config: the model's configuration for what no part determines; the paper's by default.
        dtype: of the whole model; by default the language model's, or float32 without one.
        cache_dir, token, local_files_only: as everywhere in huggingface_hub.
        overrides: fields of the configuration, such as `use_utterances=False`.

    Returns:
        the model, in eval mode, and its `PartsReport`. Parts not given are new.

    Raises:
        PartsError: no part given, a part cannot be read, or two parts do not fit.
    """
    sources = {"vision": vision, "qformer": qformer, "audio": audio, "text": text, "video_llama": video_llama}
    check_sources(cls, sources, overrides)
    hub = {"cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}

    fields = {} if config is None else config.to_dict()
    qformer_map: dict[str, str] = {}
    if vision is not None:
        vision_config = vision_config_of(vision, **hub)
        check_tower("vision", vision, vision_config, VISION_TOWERS)
        fields["vision_config"] = vision_config.to_dict()
        if fields["vision_config"]["model_type"] != InstructBlipVisionConfig.model_type:
            fields["vision_post_layernorm_eps"] = None
    if video_llama is not None:
        parts = read_config(video_llama, **hub)
        if parts.get("model_type") != PARTS_MODEL_TYPE:
            raise PartsError(
                f"{video_llama!r} is a {parts.get('model_type')!r} checkpoint; accepted for video_llama is a folder "
                f"that convert_videollama_qformer_to_hf wrote"
            )
        fields.update({name: value for name, value in parts.items() if name in cls.config_class.__dataclass_fields__})
        fields.pop("model_type", None)
    if qformer is not None:
        default = cls.config_class.sub_configs_defaults["image_qformer_config"].config_class
        qformer_fields, qformer_map = qformer_fields_of(qformer, default is InstructBlipQFormerConfig, **hub)
        fields.update(qformer_fields)
    if audio is not None:
        audio_config = audio_config_of(audio, **hub)
        check_tower("audio", audio, audio_config, AUDIO_TOWERS)
        fields["audio_config"] = audio_config.to_dict()
        if "audio_feature" in cls.config_class.__dataclass_fields__:
            # One vector per chunk is ImageBind's; other encoders give time steps.
            pooled = audio_config.model_type == ImageBindAudioConfig.model_type
            fields["audio_feature"] = "pooled" if pooled else "frames"
        # The tower's own rate, for models that have this field.
        fields.pop("audio_frame_rate", None)
    if text is not None:
        read_config(text, **hub)
        fields |= text_fields(text, **hub)
    config = cls.config_class.from_dict({**fields, **overrides})

    assembly = Assembly(cls, config)
    if vision is not None:
        tower = type(assembly.skeleton.model.vision_tower)
        part = load_tower(tower, vision, config.vision_config, "model.vision_tower.", VISION_PREFIXES, **hub)
        assembly.take("vision", *part)
        if config.vision_post_layernorm_eps is not None:
            assembly.report.notes.append(
                f"the last LayerNorm of the vision tower has eps {config.vision_post_layernorm_eps}, as in the LAVIS "
                f"family; transformers' own class would use {config.vision_config.layer_norm_eps}"
            )
    if qformer is not None:
        assembly.take("qformer", *load_part(qformer, qformer_map, **hub))
    if audio is not None and config.audio_config is not None:
        tower = type(assembly.skeleton.model.audio_tower)
        part = load_tower(tower, audio, config.audio_config, "model.audio_tower.", AUDIO_PREFIXES, **hub)
        assembly.take("audio", *part)
    if video_llama is not None:
        assembly.take("video_llama", *load_part(video_llama, {"": "model."}, **hub))
    if text is not None:
        tensors, text_report, text_dtype = load_language_model(text, dtype, **hub)
        unexpected = [name for name in tensors if name not in assembly.expected]
        if unexpected:
            raise PartsError(f"the language model {text!r} has {unexpected[0]!r}, for which the model has no place")
        assembly.take("text", tensors, text_report)
        dtype = dtype or text_dtype

    return assembly.finish(dtype, **hub)


__all__ = [
    "Assembly",
    "PartsError",
    "PartsReport",
    "assemble",
    "check_sources",
    "check_tower",
    "check_type",
    "load_language_model",
    "load_part",
    "load_tower",
    "text_fields",
    "trained_fields",
]
