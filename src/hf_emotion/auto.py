"""Registration with the Auto classes of transformers at their first use, so that importing the package stays cheap.

`registration.py` needs the models' classes, and with them torch and transformers: seconds. The Auto classes keep what
was registered with them in `_extra_content` of their mappings; here that is replaced by a dict which imports
`registration.py` as soon as someone asks it for something of this package, or for all there is. A mapping that is not
there yet gets its dict once its module has been imported.
"""

from collections.abc import Iterator, MutableMapping
from functools import partial
from importlib import import_module
from pathlib import Path

import wrapt

# Generating models -> how their classes begin: "microemo" has MicroEmoConfig in modeling/configuration_microemo.py,
# MicroEmoForConditionalGeneration in modeling/modeling_microemo.py and MicroEmoProcessor in
# processing/processing_microemo.py. A line here registers a new paper. The keys are those of `papers.PAPERS`, which
# takes seconds to import.
MODELS = {
    "microemo": "MicroEmo",
    "acoustemo": "AcoustEmo",
    "omni_emotion": "OmniEmotion",
    "esva": "ESVA",
    "humanomni": "HumanOmni",
    "affectgpt": "AffectGPT",
    "emotion_llama_v2": "EmotionLLaMAV2",
}
# Encoders that transformers lacks, likewise: configuration and model.
ENCODERS = {
    "face_motion": "FaceMotion",
    "facexformer": "FaceXFormer",
    "imagebind_audio": "ImageBindAudio",
    "voice_prosody": "VoiceProsody",
}
MODEL_TYPES = (*MODELS, *ENCODERS)

# The model in the box: what `pipeline("emotion-recognition")` takes without a model.
STARTER_FOLDER = str(Path(__file__).parent / "starter" / "weights")

# Module of transformers.models.auto -> its mappings that `registration.py` adds to.
MAPPINGS = {
    "configuration_auto": ["CONFIG_MAPPING"],
    "feature_extraction_auto": ["FEATURE_EXTRACTOR_MAPPING"],
    "image_processing_auto": ["IMAGE_PROCESSOR_MAPPING"],
    "modeling_auto": [
        "MODEL_MAPPING",
        "MODEL_FOR_MULTIMODAL_LM_MAPPING",
        "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
        "MODEL_FOR_CAUSAL_LM_MAPPING",
    ],
    "processing_auto": ["PROCESSOR_MAPPING"],
}


class RegisteredAtFirstUse(MutableMapping):
    """What was registered with one Auto class: model type or configuration class -> class."""

    def __init__(self, registered: dict):
        self.registered = registered

    def register(self) -> dict:
        # The import system itself sees to "once", to threads, and to questions asked while registering.
        import_module(".registration", __package__)
        return self.registered

    def of(self, key: str | type) -> dict:
        # transformers asks for its own models while their modules are being imported: ours could not import them then.
        ours = key in MODEL_TYPES or getattr(key, "__module__", "").partition(".")[0] == __package__
        return self.register() if ours else self.registered

    def __contains__(self, key) -> bool:
        return key in self.of(key)

    def __getitem__(self, key):
        return self.of(key)[key]

    def __setitem__(self, key, value):
        self.registered[key] = value

    def __delitem__(self, key):
        del self.of(key)[key]

    def __iter__(self) -> Iterator:
        return iter(self.register())

    def __len__(self) -> int:
        return len(self.register())


def defer(names: list[str], module) -> None:
    """Let the mappings `names` of an auto module of transformers find this package's classes at their first use."""
    for name in names:
        mapping = getattr(module, name)
        mapping._extra_content = RegisteredAtFirstUse(mapping._extra_content)


def add_pipeline(module) -> None:
    """Let `pipeline("emotion-recognition", model=...)` find this package's own, which is imported when it is used."""
    module.PIPELINE_REGISTRY.supported_tasks["emotion-recognition"] = {
        "impl": f"{__package__}.answers.pipeline_emotion.EmotionRecognitionPipeline",
        "pt": (module.AutoModelForMultimodalLM,),
        "default": {"model": (STARTER_FOLDER, "main")},
        "type": "multimodal",
    }


def publish(model, repo_id: str, **options) -> str:
    """`push_to_hub` of the package's models: see `hub.push`, which is imported when something is published."""
    from .hub import push

    return push(model, repo_id, **options)


def add_publishing(module) -> None:
    """Let the models of this package, which know nothing above them, be published with card and licence."""
    module.SharingMixin.publish = publish


def register_at_first_use() -> None:
    """Register with the Auto classes when they are first used, whether transformers is imported already or later."""
    wrapt.register_post_import_hook(add_publishing, f"{__package__}.modeling.remote_code")
    wrapt.register_post_import_hook(add_pipeline, "transformers.pipelines")
    for module, names in MAPPINGS.items():
        wrapt.register_post_import_hook(partial(defer, names), f"transformers.models.auto.{module}")
