"""The encoders of the papers, built from their configurations."""

from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.instructblip.modeling_instructblip import InstructBlipVisionModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from .modeling_face_motion import FaceMotionModel
from .modeling_facexformer import FaceXFormerModel
from .modeling_imagebind_audio import ImageBindAudioModel
from .modeling_voice_prosody import VoiceProsodyModel

# Towers that AutoModel cannot build: transformers has no FaceXFormer and no ImageBind, does not list EVA ViT-g
# (InstructBLIP) separately, and "whisper" is its encoder and decoder together.
OTHER_TOWERS = {
    "face_motion": FaceMotionModel,
    "facexformer": FaceXFormerModel,
    "imagebind_audio": ImageBindAudioModel,
    "instructblip_vision_model": InstructBlipVisionModel,
    "voice_prosody": VoiceProsodyModel,
    "whisper": WhisperEncoder,
}


def build_tower(config: PreTrainedConfig) -> PreTrainedModel:
    """The encoder that `config` describes, with random weights."""
    tower_class = OTHER_TOWERS.get(config.model_type)
    return AutoModel.from_config(config) if tower_class is None else tower_class(config)
