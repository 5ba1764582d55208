"""Registers every model of the package with the Auto classes of transformers; `auto.py` says when."""

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
from .modeling.configuration_esva import ESVAConfig
from .modeling.configuration_facexformer import FaceXFormerConfig
from .modeling.configuration_imagebind_audio import ImageBindAudioConfig
from .modeling.configuration_microemo import MicroEmoConfig
from .modeling.configuration_omni_emotion import OmniEmotionConfig
from .modeling.modeling_acoustemo import AcoustEmoForConditionalGeneration
from .modeling.modeling_esva import ESVAForConditionalGeneration
from .modeling.modeling_facexformer import FaceXFormerModel
from .modeling.modeling_imagebind_audio import ImageBindAudioModel
from .modeling.modeling_microemo import MicroEmoForConditionalGeneration
from .modeling.modeling_omni_emotion import OmniEmotionForConditionalGeneration
from .processing.feature_extraction_imagebind import ImageBindFeatureExtractor
from .processing.image_processing_emotion import EmotionImageProcessor
from .processing.processing_acoustemo import AcoustEmoProcessor
from .processing.processing_esva import ESVAProcessor
from .processing.processing_microemo import MicroEmoProcessor
from .processing.processing_omni_emotion import OmniEmotionProcessor

AutoConfig.register("imagebind_audio", ImageBindAudioConfig)
AutoModel.register(ImageBindAudioConfig, ImageBindAudioModel)
AutoFeatureExtractor.register(ImageBindAudioConfig, ImageBindFeatureExtractor)
AutoConfig.register("facexformer", FaceXFormerConfig)
AutoModel.register(FaceXFormerConfig, FaceXFormerModel)

for config, model, processor in (
    (MicroEmoConfig, MicroEmoForConditionalGeneration, MicroEmoProcessor),
    (AcoustEmoConfig, AcoustEmoForConditionalGeneration, AcoustEmoProcessor),
    (OmniEmotionConfig, OmniEmotionForConditionalGeneration, OmniEmotionProcessor),
    (ESVAConfig, ESVAForConditionalGeneration, ESVAProcessor),
):
    AutoConfig.register(config.model_type, config)
    for auto in (AutoModel, AutoModelForMultimodalLM, AutoModelForImageTextToText, AutoModelForCausalLM):
        auto.register(config, model)
    AutoProcessor.register(config, processor)
    # One class serves with and without torchvision.
    image_processors = dict.fromkeys(("pil", "torchvision"), EmotionImageProcessor)
    AutoImageProcessor.register(config, image_processor_classes=image_processors)
