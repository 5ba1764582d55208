"""The model in the box: a small MicroEmo, taught on synthetic faces and voices alone, that works right after install.

    from hf_emotion.starter import load
    model, processor = load()

It reads the landmarks of the face mesh and the prosody of the voice, never pixels or words. `train.py` teaches it from
nothing with what `faces.py`, `voices.py`, `scenes.py` and `sentences.py` make; its weights lie beside them.
"""

from pathlib import Path

import torch

from ..inference import load as load_folder
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


__all__ = ["FOLDER", "load"]
