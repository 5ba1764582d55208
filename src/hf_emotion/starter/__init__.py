"""The model in the box: a small MicroEmo, taught on synthetic faces and voices alone, that works right after install.

    pipe = hf_emotion.starter()
    pipe("clip.mp4")
    model, processor = hf_emotion.starter.load()

It reads the landmarks of the face mesh and the prosody of the voice, never pixels or words. `train.py` teaches it from
nothing with what `faces.py`, `voices.py`, `scenes.py` and `sentences.py` make; its weights lie beside them.
"""

import sys
from pathlib import Path
from types import ModuleType

import torch

from ..answers.pipeline_emotion import EmotionRecognitionPipeline
from ..inference import load as load_folder
from ..inference import pipeline_of
from ..modeling.modeling_microemo import MicroEmoForConditionalGeneration
from ..processing.processing_microemo import MicroEmoProcessor

# The saved model, as `pipeline("emotion-recognition", model=str(FOLDER))` takes it.
FOLDER = Path(__file__).parent / "weights"


def load(device: str | torch.device | None = None) -> tuple[MicroEmoForConditionalGeneration, MicroEmoProcessor]:
    """The starter and its processor, from the files of this package; nothing is downloaded.

    Args:
        device: as for `torch.device`; `None` takes a GPU where there is one.

    Returns:
        the model, in eval mode, in float32 (it is stored in 16 bits), and its processor.
    """
    return load_folder(FOLDER, device=device, dtype=torch.float32, local_files_only=True)


class Starter(ModuleType):
    """This module, which can be called: `hf_emotion.starter()` is the pipeline of the model in the box."""

    def __call__(self, device: str | torch.device | None = None) -> EmotionRecognitionPipeline:
        return pipeline_of(*load(device))


sys.modules[__name__].__class__ = Starter

__all__ = ["FOLDER", "load"]
