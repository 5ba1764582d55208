"""A model's folder wherever it goes: its pipeline travels along, its weights are safetensors, it is published whole.

Mixed into the base of all papers' models. transformers copies the files of a model and of a processor by itself; those
of a pipeline it copies only when a pipeline object is saved.

Folders come from strangers: a configuration that asks for far more memory than its weights fill is refused before the
memory is taken, and weights that are not numbers are refused.
"""

import copy
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from .parts import PICKLE_SUFFIXES, PartsError, find_file

# As `pipeline("emotion-recognition", model=folder, trust_remote_code=True)` reads it from config.json.
PIPELINES = {
    "emotion-recognition": {
        "impl": "pipeline_emotion.EmotionRecognitionPipeline",
        "pt": ["AutoModelForMultimodalLM"],
        "type": "multimodal",
    }
}
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
SLACK = 2**24  # weights that a configuration may describe beyond those that are there: they are reported as missing
PIPELINE_FILES = ("pipeline_emotion.py", "words.py", "replies.py", "track.py", "lexicon.py", "lexicon.tsv")


class SharingMixin:
    """`from_pretrained`, `save_pretrained` and `push_to_hub` of the papers' models."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, use_safetensors=None, **kwargs):
        """As transformers', but from safetensors only, and only weights that are finite numbers.

        Raises:
            OSError: there are no safetensors; the message names what was found, why it is not read and the way out.
            ValueError: the configuration in a folder describes a far larger model than its weights; weights are NaN or
                infinite.
        """
        source = pretrained_model_name_or_path
        if kwargs.get("quantization_config") is not None:
            kwargs["quantization_config"] = with_whole_names(kwargs["quantization_config"])
        if use_safetensors is False:
            raise OSError(f"use_safetensors=False was given for {source}: {PICKLE_REFUSAL}")
        if kwargs.get("config") is not None and source is not None and os.path.isdir(source):
            check_size(source, cls, kwargs["config"])
        try:
            loaded = super().from_pretrained(source, *args, use_safetensors=True, **kwargs)
        except OSError as error:
            if "safetensors" not in str(error) or PICKLE_REFUSAL in str(error):
                raise
            raise OSError(no_safetensors(source, "model.safetensors")) from error
        check_finite(source, loaded[0] if isinstance(loaded, tuple) else loaded)
        return loaded

    def load_adapter(self, peft_model_id=None, *args, adapter_kwargs=None, **kwargs):
        """As transformers', but from safetensors only; raises OSError as `from_pretrained` does."""
        name = "adapter_model.safetensors"
        if peft_model_id is not None and find_file(peft_model_id, name, **(adapter_kwargs or {})) is None:
            raise OSError(no_safetensors(peft_model_id, name))
        return super().load_adapter(peft_model_id, *args, adapter_kwargs=adapter_kwargs, **kwargs)

    def save_pretrained(self, save_directory, **kwargs):
        """As transformers', with the files of the pipeline, so that `pipeline` works from the folder."""
        files = {name: pipeline_file(name, self.config) for name in PIPELINE_FILES}
        whole = self.can_generate() and None not in files.values()
        self.config.__dict__.pop("custom_pipelines", None)
        if whole:
            self.config.custom_pipelines = copy.deepcopy(PIPELINES)
        super().save_pretrained(save_directory, **kwargs)
        if whole:
            for name, file in files.items():
                shutil.copyfile(file, Path(save_directory) / name)

    # The package's own `hub.push`, set where the package is installed.
    publish = None

    def push_to_hub(self, repo_id, **options):
        """Publish the model with its card, licence and, if given as `processor=`, its processor, in one commit.

        Where `hf_emotion` is installed this is `hf_emotion.hub.push`, which see; a model that was loaded by remote code
        alone is pushed as transformers does it, with the card that its repository has.
        """
        push = super().push_to_hub if self.publish is None else self.publish
        return push(repo_id, **options)


def check_size(folder: str | os.PathLike, model_class: type, config: Any) -> None:
    """Raise `ValueError` where `config` describes a model that is far larger than the weights in `folder`."""
    tensors = weights = 0
    for file in Path(folder).glob("*.safetensors"):
        with safe_open(file, "pt") as content:
            for name in content.keys():  # noqa: SIM118
                tensors += 1
                weights += torch.Size(content.get_slice(name).get_shape()).numel()
    if not tensors:
        return  # transformers says which file it misses
    for name, layers in layer_counts(config.to_dict()):
        if layers > tensors:
            raise ValueError(f"its config.json has {name}={layers}, for weights of {tensors} tensors")
    with torch.device("meta"):  # which takes no memory
        described = sum(parameter.numel() for parameter in model_class(copy.deepcopy(config)).parameters())
    # Quantised weights are packed, up to eight in a number.
    if described > SLACK + 8 * weights:
        raise ValueError(f"its config.json describes {described:,} weights, and {weights:,} are there")


def layer_counts(values: Any, prefix: str = "") -> list[tuple[str, int]]:
    """The numbers of layers in a configuration and in those within it, by their names."""
    counts = []
    for name, value in values.items() if isinstance(values, dict) else ():
        if isinstance(value, int) and "layers" in str(name):
            counts.append((f"{prefix}{name}", value))
        counts += layer_counts(value, f"{prefix}{name}.")
    return counts


def with_whole_names(quantization: Any) -> Any:
    """A copy of a quantisation config that leaves out the modules it names by their short names, too.

    transformers compares a name with the beginning of a module's path and with its end: `vision_tower` alone names
    neither `model.vision_tower` nor what is in it.
    """
    quantization = copy.deepcopy(quantization)
    settings = quantization if isinstance(quantization, dict) else vars(quantization)
    for field in ("llm_int8_skip_modules", "modules_to_not_convert"):
        if settings.get(field):
            settings[field] = [*settings[field], *(rf".*\.{name}" for name in settings[field])]
    return quantization


def check_finite(source: Any, model: torch.nn.Module) -> None:
    """Raise `ValueError` for weights that are NaN or infinite: their answers would be noise, without a word of it."""
    for name, parameter in model.named_parameters():
        if parameter.is_meta or parameter.dtype not in FLOATS or not parameter.numel():
            continue
        values = parameter.detach()
        if type(values) is not torch.Tensor:
            continue  # a quantiser's tensor: integers and their scales
        # Both are NaN where one weight is; many times faster than a look at each.
        if not all(map(torch.isfinite, torch.aminmax(values))):
            raise ValueError(f"the weights in {source} are not finite numbers: {name} holds NaN or infinity")


def pipeline_file(name: str, config) -> str | Path | None:
    """Where a file of the pipeline lies: in the package, else beside the weights; `None` if in neither."""
    inside = Path(__file__).parents[1] / "answers" / name
    if inside.is_file():
        return inside
    if not config.name_or_path:
        return None
    try:
        return find_file(config.name_or_path, name, revision=getattr(config, "_commit_hash", None))
    except PartsError:
        return None


PICKLE_REFUSAL = (
    "weights in pickle form (.bin, .pth) are not read, because reading a pickle can run code of whoever wrote it. Ask "
    "its author for safetensors (save_pretrained writes them), or, if you trust the file, convert it once with "
    "`hf-emotion convert pickle FOLDER --output NEW --allow-pickle`"
)


def no_safetensors(source, name: str) -> str:
    """Why a source without safetensors is refused, what was found there, and the way out."""
    pickles = []
    if os.path.isdir(source):
        pickles = sorted(file for file in os.listdir(source) if file.endswith(PICKLE_SUFFIXES))
    others = f" (found {', '.join(pickles[:3])})" if pickles else ""
    return f"{source} holds no {name}{others}: {PICKLE_REFUSAL}"


__all__ = ["SharingMixin"]
