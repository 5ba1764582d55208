"""A model's folder wherever it goes: its pipeline travels along, its weights are safetensors, it is published whole.

Mixed into the base of all papers' models. transformers copies the files of a model and of a processor by itself; those
of a pipeline it copies only when a pipeline object is saved.
"""

import copy
import os
import shutil
from pathlib import Path

from .parts import PICKLE_SUFFIXES, PartsError, find_file

# As `pipeline("emotion-recognition", model=folder, trust_remote_code=True)` reads it from config.json.
PIPELINES = {
    "emotion-recognition": {
        "impl": "pipeline_emotion.EmotionRecognitionPipeline",
        "pt": ["AutoModelForMultimodalLM"],
        "type": "multimodal",
    }
}
PIPELINE_FILES = ("pipeline_emotion.py", "words.py", "replies.py", "lexicon.py", "lexicon.tsv")


class SharingMixin:
    """`from_pretrained`, `save_pretrained` and `push_to_hub` of the papers' models."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, use_safetensors=None, **kwargs):
        """As transformers', but from safetensors only.

        Raises:
            OSError: there are no safetensors; the message names what was found, why it is not read and the way out.
        """
        source = pretrained_model_name_or_path
        if use_safetensors is False:
            raise OSError(f"use_safetensors=False was given for {source}: {PICKLE_REFUSAL}")
        try:
            return super().from_pretrained(source, *args, use_safetensors=True, **kwargs)
        except OSError as error:
            if "safetensors" not in str(error) or PICKLE_REFUSAL in str(error):
                raise
            raise OSError(no_safetensors(source, "model.safetensors")) from error

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
    found = f" (found {', '.join(pickles[:3])})" if pickles else ""
    return f"{source} holds no {name}{found}: {PICKLE_REFUSAL}"


__all__ = ["SharingMixin"]
