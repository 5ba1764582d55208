"""A folder with weights in pickle form -> the same folder with safetensors, once and by explicit consent.

    python -m hf_emotion.convert.convert_pickle_to_safetensors FOLDER --output NEW --allow-pickle

Models and adapters of this package are read from safetensors only. What is written is one file, `model.safetensors` or
`adapter_model.safetensors`, beside the other files of the folder; pickles are left behind.
"""

import argparse
import shutil
import sys
from pathlib import Path

from safetensors.torch import save_file

from hf_emotion.data.files import replacing
from hf_emotion.modeling.parts import PICKLE_SUFFIXES

from .checkpoints import ConversionError, own_memory, read_checkpoints

# Name of the safetensors file -> how the pickles begin that it replaces.
WEIGHTS = {"adapter_model.safetensors": "adapter_model", "model.safetensors": "pytorch_model"}


def convert(folder, output, allow_pickle: bool = False) -> list[str]:
    """Write `output`, all of it or nothing; returns the names of the pickles that were read.

    Args:
        folder: holds `pytorch_model*.bin` or `adapter_model.bin`.
        output: folder to make; an existing one must be empty.
        allow_pickle: consent to unpickling; it stays restricted to tensors and plain containers.

    Raises:
        ConversionError: no such weights, no consent, or pickles that hold more than tensors and plain containers.
    """
    folder, output = Path(folder), Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConversionError(f"{output} exists and is not an empty folder; give a new one")
    pickles = sorted(file for file in folder.glob("*") if file.suffix in PICKLE_SUFFIXES)
    found = {name: [file for file in pickles if file.stem.startswith(start)] for name, start in WEIGHTS.items()}
    name = next((name for name, files in found.items() if files), None)
    if name is None:
        raise ConversionError(f"{folder} holds neither pytorch_model*.bin nor adapter_model.bin")
    tensors = read_checkpoints(found[name], allow_pickle)
    with replacing(output, overwrite=False) as partial:
        partial.mkdir()
        for file in folder.iterdir():
            if file.is_file() and file not in pickles and not file.name.endswith(".bin.index.json"):
                shutil.copyfile(file, partial / file.name)
        save_file(own_memory(tensors), partial / name, metadata={"format": "pt"})
    return [file.name for file in found[name]]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write; new or empty")
    parser.add_argument("--allow-pickle", action="store_true", help="you trust whoever wrote the weights")
    args = parser.parse_args(arguments)
    try:
        read = convert(args.folder, args.output, args.allow_pickle)
    except (ConversionError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{args.output}: safetensors from {', '.join(read)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
