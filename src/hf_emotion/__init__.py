"""Multimodal emotion LLMs, native to transformers: a raw clip in, open-vocabulary emotions and the clues for them out.

Importing the package registers its models with the Auto classes of transformers, and does nothing else.
"""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

from .modeling.configuration_acoustemo import AcoustEmoConfig
from .modeling.configuration_facexformer import FaceXFormerConfig
from .modeling.configuration_imagebind_audio import ImageBindAudioConfig
from .modeling.configuration_microemo import MicroEmoConfig
from .modeling.configuration_omni_emotion import OmniEmotionConfig
from .modeling.modeling_acoustemo import AcoustEmoForConditionalGeneration, AcoustEmoModel
from .modeling.modeling_facexformer import FaceXFormerModel
from .modeling.modeling_imagebind_audio import ImageBindAudioModel
from .modeling.modeling_microemo import MicroEmoForConditionalGeneration, MicroEmoModel
from .modeling.modeling_omni_emotion import OmniEmotionForConditionalGeneration, OmniEmotionModel
from .processing.feature_extraction_imagebind import ImageBindFeatureExtractor
from .processing.image_processing_emotion import EmotionImageProcessor
from .processing.processing_acoustemo import AcoustEmoProcessor
from .processing.processing_emotion import EmotionProcessor
from .processing.processing_microemo import MicroEmoProcessor
from .processing.processing_omni_emotion import OmniEmotionProcessor

__version__ = "0.1.0"

AutoConfig.register("imagebind_audio", ImageBindAudioConfig)
AutoModel.register(ImageBindAudioConfig, ImageBindAudioModel)
AutoConfig.register("facexformer", FaceXFormerConfig)
AutoModel.register(FaceXFormerConfig, FaceXFormerModel)
for _config, _model in (
    (MicroEmoConfig, MicroEmoForConditionalGeneration),
    (AcoustEmoConfig, AcoustEmoForConditionalGeneration),
    (OmniEmotionConfig, OmniEmotionForConditionalGeneration),
):
    AutoConfig.register(_config.model_type, _config)
    for _auto in (AutoModel, AutoModelForMultimodalLM, AutoModelForImageTextToText, AutoModelForCausalLM):
        _auto.register(_config, _model)
    # With these the classes' own files travel with whatever is saved, so that a folder loads without this package.
    _config.register_for_auto_class()
    _model.register_for_auto_class("AutoModel")
AutoProcessor.register(MicroEmoConfig, MicroEmoProcessor)
AutoProcessor.register(AcoustEmoConfig, AcoustEmoProcessor)
AutoProcessor.register(OmniEmotionConfig, OmniEmotionProcessor)
AutoFeatureExtractor.register(ImageBindAudioConfig, ImageBindFeatureExtractor)
# One class serves with and without torchvision.
for _config in (MicroEmoConfig, AcoustEmoConfig, OmniEmotionConfig):
    AutoImageProcessor.register(
        _config, image_processor_classes={"pil": EmotionImageProcessor, "torchvision": EmotionImageProcessor}
    )

__all__ = [
    "AcoustEmoConfig",
    "AcoustEmoForConditionalGeneration",
    "AcoustEmoModel",
    "AcoustEmoProcessor",
    "EmotionImageProcessor",
    "EmotionProcessor",
    "FaceXFormerConfig",
    "FaceXFormerModel",
    "ImageBindAudioConfig",
    "ImageBindAudioModel",
    "ImageBindFeatureExtractor",
    "MicroEmoConfig",
    "MicroEmoForConditionalGeneration",
    "MicroEmoModel",
    "MicroEmoProcessor",
    "OmniEmotionConfig",
    "OmniEmotionForConditionalGeneration",
    "OmniEmotionModel",
    "OmniEmotionProcessor",
]
