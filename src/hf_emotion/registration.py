"""Registers every model of the package with the Auto classes of transformers; `auto.py` decides when."""

from importlib import import_module

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from .auto import ENCODERS, MODELS
from .modeling.configuration_imagebind_audio import ImageBindAudioConfig
from .modeling.configuration_voice_prosody import VoiceProsodyConfig
from .processing.feature_extraction_imagebind import ImageBindFeatureExtractor
from .processing.feature_extraction_voice import VoiceCueExtractor
from .processing.image_processing_emotion import EmotionImageProcessor


def register_paper(
    config: type[PreTrainedConfig], model: type[PreTrainedModel], processor: type[ProcessorMixin]
) -> None:
    """Let the Auto classes find a paper's model by its `model_type`; for a paper outside this package, too."""
    AutoConfig.register(config.model_type, config)
    for auto in (AutoModel, AutoModelForMultimodalLM, AutoModelForImageTextToText, AutoModelForCausalLM):
        auto.register(config, model)
    AutoProcessor.register(config, processor)
    # One class serves with and without torchvision.
    image_processors = dict.fromkeys(("pil", "torchvision"), EmotionImageProcessor)
    AutoImageProcessor.register(config, image_processor_classes=image_processors)


def class_of(room: str, kind: str, model_type: str, name: str) -> type:
    return getattr(import_module(f".{room}.{kind}_{model_type}", __package__), name)


for model_type, name in ENCODERS.items():
    config = class_of("modeling", "configuration", model_type, f"{name}Config")
    AutoConfig.register(model_type, config)
    AutoModel.register(config, class_of("modeling", "modeling", model_type, f"{name}Model"))
AutoFeatureExtractor.register(ImageBindAudioConfig, ImageBindFeatureExtractor)
AutoFeatureExtractor.register(VoiceProsodyConfig, VoiceCueExtractor)

for model_type, name in MODELS.items():
    register_paper(
        class_of("modeling", "configuration", model_type, f"{name}Config"),
        class_of("modeling", "modeling", model_type, f"{name}ForConditionalGeneration"),
        class_of("processing", "processing", model_type, f"{name}Processor"),
    )
