# The public names, and where they come from: read by type checkers, and by `lazy_loader` when the package is imported.
from . import starter as starter
from .inference import describe as describe
from .inference import load as load
from .modeling.configuration_acoustemo import AcoustEmoConfig as AcoustEmoConfig
from .modeling.configuration_affectgpt import AffectGPTConfig as AffectGPTConfig
from .modeling.configuration_emotion_llama_v2 import EmotionLLaMAV2Config as EmotionLLaMAV2Config
from .modeling.configuration_esva import ESVAConfig as ESVAConfig
from .modeling.configuration_facexformer import FaceXFormerConfig as FaceXFormerConfig
from .modeling.configuration_humanomni import HumanOmniConfig as HumanOmniConfig
from .modeling.configuration_imagebind_audio import ImageBindAudioConfig as ImageBindAudioConfig
from .modeling.configuration_microemo import MicroEmoConfig as MicroEmoConfig
from .modeling.configuration_omni_emotion import OmniEmotionConfig as OmniEmotionConfig
from .modeling.modeling_acoustemo import AcoustEmoForConditionalGeneration as AcoustEmoForConditionalGeneration
from .modeling.modeling_acoustemo import AcoustEmoModel as AcoustEmoModel
from .modeling.modeling_affectgpt import AffectGPTForConditionalGeneration as AffectGPTForConditionalGeneration
from .modeling.modeling_affectgpt import AffectGPTModel as AffectGPTModel
from .modeling.modeling_emotion_llama_v2 import (
    EmotionLLaMAV2ForConditionalGeneration as EmotionLLaMAV2ForConditionalGeneration,
)
from .modeling.modeling_emotion_llama_v2 import EmotionLLaMAV2Model as EmotionLLaMAV2Model
from .modeling.modeling_esva import ESVAForConditionalGeneration as ESVAForConditionalGeneration
from .modeling.modeling_esva import ESVAModel as ESVAModel
from .modeling.modeling_facexformer import FaceXFormerModel as FaceXFormerModel
from .modeling.modeling_humanomni import HumanOmniForConditionalGeneration as HumanOmniForConditionalGeneration
from .modeling.modeling_humanomni import HumanOmniModel as HumanOmniModel
from .modeling.modeling_imagebind_audio import ImageBindAudioModel as ImageBindAudioModel
from .modeling.modeling_microemo import MicroEmoForConditionalGeneration as MicroEmoForConditionalGeneration
from .modeling.modeling_microemo import MicroEmoModel as MicroEmoModel
from .modeling.modeling_omni_emotion import OmniEmotionForConditionalGeneration as OmniEmotionForConditionalGeneration
from .modeling.modeling_omni_emotion import OmniEmotionModel as OmniEmotionModel
from .processing.feature_extraction_imagebind import ImageBindFeatureExtractor as ImageBindFeatureExtractor
from .processing.image_processing_emotion import EmotionImageProcessor as EmotionImageProcessor
from .processing.processing_acoustemo import AcoustEmoProcessor as AcoustEmoProcessor
from .processing.processing_affectgpt import AffectGPTProcessor as AffectGPTProcessor
from .processing.processing_emotion import EmotionProcessor as EmotionProcessor
from .processing.processing_emotion_llama_v2 import EmotionLLaMAV2Processor as EmotionLLaMAV2Processor
from .processing.processing_esva import ESVAProcessor as ESVAProcessor
from .processing.processing_humanomni import HumanOmniProcessor as HumanOmniProcessor
from .processing.processing_microemo import MicroEmoProcessor as MicroEmoProcessor
from .processing.processing_omni_emotion import OmniEmotionProcessor as OmniEmotionProcessor

__version__: str
