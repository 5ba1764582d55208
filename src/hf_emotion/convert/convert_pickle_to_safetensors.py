"""A folder with pickled weights -> the same folder with safetensors, once and with explicit consent.

    hf-emotion convert pickle FOLDER --output NEW --allow-pickle

Models and adapters of this package are read from safetensors only. The new folder has one file of weights,
`model.safetensors` or `adapter_model.safetensors`, and copies of the other files; the pickles are not copied.
"""

import shutil
from pathlib import Path

from safetensors.torch import save_file

from hf_emotion.data.files import replacing
from hf_emotion.modeling.parts import PICKLE_SUFFIXES

from .checkpoints import ConversionError, read_checkpoints, without_shared_memory

# Name of the safetensors file -> prefix of the pickles that it replaces.
WEIGHTS = {"adapter_model.safetensors": "adapter_model", "model.safetensors": "pytorch_model"}


def convert(folders, output, allow_pickle: bool = False) -> str:
    """Write `output`, all of it or nothing; returns a sentence that names the pickles.

    Args:
        folders: one folder, with `pytorch_model*.bin` or `adapter_model.bin`.
        output: folder to create; an existing one must be empty.
        allow_pickle: consent to unpickling; it stays restricted to tensors and plain containers.

    Raises:
        ConversionError: no such weights, no consent, or pickles that contain more than tensors and plain containers.
    """
    if len(folders) != 1:
        raise ConversionError(f"{len(folders)} folders were passed; one is accepted")
    folder, output = Path(folders[0]), Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConversionError(f"{output} exists and is not an empty folder; pass a new one")
    pickles = sorted(file for file in folder.glob("*") if file.suffix in PICKLE_SUFFIXES)
    by_name = {name: [file for file in pickles if file.stem.startswith(start)] for name, start in WEIGHTS.items()}
    name = next((name for name, files in by_name.items() if files), None)
    if name is None:
        raise ConversionError(f"{folder} contains neither pytorch_model*.bin nor adapter_model.bin")
    tensors = read_checkpoints(by_name[name], allow_pickle)
    with replacing(output, overwrite=False) as partial:
        partial.mkdir()
        for file in folder.iterdir():
            if file.is_file() and file not in pickles and not file.name.endswith(".bin.index.json"):
                shutil.copyfile(file, partial / file.name)
        save_file(without_shared_memory(tensors), partial / name, metadata={"format": "pt"})
    return f"{name} was written from {', '.join(file.name for file in by_name[name])}"
