"""Reading other projects' checkpoints and writing ours: code shared by the conversion scripts.

Other projects publish `.pth` files, which are pickles: reading one can run arbitrary code. The scripts refuse them
unless `--allow-pickle` is given, and even then read with `weights_only=True`, which allows tensors and plain containers
only. They write safetensors, a `config.json` and `conversion_report.json`.
"""

import json
import re
import zipfile
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import load_file, save_file

from hf_emotion.data.files import replacing
from hf_emotion.modeling.parts import PartsReport

# Keys under which other projects' training scripts save a model's tensors.
WRAPPERS = ("model", "state_dict", "module", "state_dict_backbone")

# Published models, and patterns of tensor names that a checkpoint of each must have. The first match is used.
SIGNATURES = {
    "HumanOmni": (r"model\.bert_gate\.", r"model\.mm_projector\."),
    "AffectGPT": (r"(affectgpt|multi_llama|face_llama|video_llama)_proj\.|multi_video_embs\.",),
    "Emotion-LLaMA-v2": (r"conv_pro_module\.", r"llama_proj_fusion\."),
    "Emotion-LLaMA": (r"cls_tk_llama_proj\.", r"feats_llama_proj1\."),
    "ImageBind": (r"modality_trunks\.",),
    "FaceXFormer": (r"face_decoder\.|linear_fuse\.", r"backbone\."),
    "TimeChat or Video-LLaMA": (r"video_Qformer\.|audio_Qformer\.",),
    "BLIP-2 or InstructBLIP": (r"Qformer\.bert\.",),
    "MiniGPT-v2": (r"llama_proj\.", r"llama_model\."),
    "EVA": (r"(visual_encoder\.)?blocks\.\d+\.attn\.q_bias",),
}


# Sources of the released models and the terms of their weights, for the cards of converted models.
ORIGINS = {
    "AffectGPT": {"source": "zeroQiaoba/AffectGPT", "license": "non-commercial"},
    "Emotion-LLaMA": {"source": "ZebangCheng/Emotion-LLaMA", "license": "research-only"},
    "Emotion-LLaMA-v2": {"source": "ooochen-30/Emotion-LLaMA-v2", "license": "research-only"},
    "HumanOmni": {"source": "HumanMLLM/R1-Omni", "license": "no-licence-stated"},
}


class ConversionError(ValueError):
    """A checkpoint that cannot be read, or does not contain what it should."""


def read_checkpoint(path, allow_pickle: bool = False) -> dict[str, torch.Tensor]:
    """The tensors of a `.safetensors` file or, with `allow_pickle`, of a `torch.save` file.

    Args:
        path: the file.
        allow_pickle: consent to unpickling; it stays restricted to tensors and plain containers.

    Raises:
        ConversionError: no such file, a pickle without consent, or a pickle that contains more than tensors and plain
            containers.
    """
    path = Path(path)
    if not path.is_file():
        raise ConversionError(f"{path} is not a file")
    if path.suffix == ".safetensors":
        return load_file(path)
    if not allow_pickle:
        raise ConversionError(
            f"{path} is a pickle, and reading a pickle can run arbitrary code; if you trust its source, pass "
            f"--allow-pickle (it is then read with weights_only=True)"
        )
    try:
        # Files older than torch 1.6 are not zip archives and cannot be mapped into memory.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (UnpicklingError, EOFError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConversionError(f"{path} cannot be read as tensors and plain containers: {reason}") from error
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    tensors = {k: v for k, v in content.items() if isinstance(v, torch.Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise ConversionError(f"{path} holds no named tensors")
    return tensors


def read_checkpoints(paths, allow_pickle: bool = False) -> dict[str, torch.Tensor]:
    """Several files as one: if two contain the same name, the later one is used (a later training stage)."""
    tensors: dict[str, torch.Tensor] = {}
    for path in paths:
        tensors.update(read_checkpoint(path, allow_pickle))
    return tensors


def convert_files(files) -> tuple[list[Path], Path]:
    """The weight files among `files`, or in `files` if it is one published folder, and the folder they are in.

    Raises:
        ConversionError: no such file, or a folder without weights.
    """
    files = [Path(file) for file in files]
    if len(files) == 1 and files[0].is_dir():
        folder = files[0]
        weights = sorted(folder.glob("*.safetensors")) or sorted([*folder.glob("*.bin"), *folder.glob("*.pth")])
        if not weights:
            raise ConversionError(f"{folder} contains no weights; .safetensors, .bin or .pth are accepted")
        return weights, folder
    return files, files[0].parent


def recognise(names) -> str | None:
    """The published model that tensors with these names belong to; `None` for an unknown one."""
    for model, patterns in SIGNATURES.items():
        if all(any(re.match(pattern, name) for name in names) for pattern in patterns):
            return model
    return None


def check_is(state_dict: dict[str, torch.Tensor], accepted: str) -> None:
    """Refuse a checkpoint of a model other than `accepted`, a key of `SIGNATURES`.

    Raises:
        ConversionError: names the model that the checkpoint belongs to, or some of its tensors.
    """
    model = recognise(state_dict)
    if model != accepted:
        some = ", ".join(sorted(state_dict)[:3])
        what = f"a checkpoint of {model}" if model else f"not a known model (its tensors are {some}, ...)"
        raise ConversionError(f"this is {what}; a checkpoint of {accepted} is accepted")


def refuse_others(state_dict: dict[str, torch.Tensor], *accepted: str) -> None:
    """Refuse a checkpoint that is recognised as a model other than `accepted`; an unknown one passes.

    Raises:
        ConversionError: names the model that the checkpoint belongs to.
    """
    model = recognise(state_dict)
    if model is not None and model not in accepted:
        raise ConversionError(f"this is a checkpoint of {model}; one of {' or '.join(accepted)} is accepted")


def rename_all(
    state_dict: dict[str, torch.Tensor], table: dict[str, str | None], reasons: dict[str, str], what: str
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Rename every tensor by a table; a tensor that is in neither table is an error.

    Args:
        table: pattern of a whole name -> the new name, with references to the pattern's groups.
        reasons: pattern of a whole name -> why such a tensor is left out; checked first.
        what: the checkpoint, for the message.

    Returns:
        the renamed tensors, and the names that were left out with the reason for each.

    Raises:
        ConversionError: a tensor has no place in either table.
    """
    tensors, ignored = {}, {}
    for name, tensor in state_dict.items():
        reason = next((why for pattern, why in reasons.items() if re.fullmatch(pattern, name)), None)
        if reason is not None:
            ignored[name] = reason
            continue
        pattern = next((pattern for pattern in table if re.fullmatch(pattern, name)), None)
        if pattern is None:
            raise ConversionError(
                f"{what} contains {name}, which has no place in the model and is not known to be unused"
            )
        tensors[re.sub(pattern, table[pattern], name)] = tensor
    return tensors, ignored


def check_against(model: torch.nn.Module, tensors: dict[str, torch.Tensor], what: str):
    """Strict load, of names and shapes only: `model` can be on the meta device.

    Raises:
        ConversionError: a tensor is missing, has no place, or has another shape.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing = sorted(set(expected) - set(tensors))
    unexpected = sorted(set(tensors) - set(expected))
    if missing:
        raise ConversionError(f"{what} lacks {len(missing)} tensors, among them {missing[0]}")
    if unexpected:
        raise ConversionError(f"{what} has {len(unexpected)} tensors without a place, among them {unexpected[0]}")
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise ConversionError(f"{what}: {name} has shape {tuple(tensors[name].shape)}, expected {shape}")


def new_report(tensors: dict[str, torch.Tensor], ignored: dict[str, str]) -> PartsReport:
    """A report on converted tensors, with the original names of those left out and the reasons."""
    report = PartsReport(ignored=ignored)
    report.loaded = dict.fromkeys(tensors, "the checkpoint")
    report.parameters = {name: tensor.numel() for name, tensor in tensors.items()}
    return report


def write_folder(output, tensors: dict[str, torch.Tensor], config: dict, report: PartsReport, adapter=None):
    """Write `model.safetensors`, `config.json` and `conversion_report.json`, all of them or nothing.

    Args:
        output: folder to create; an existing one must be empty.
        adapter: (tensors, config) of a PEFT adapter, written to the folder `adapter` inside.
    """
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConversionError(f"{output} exists and is not an empty folder; pass a new one")
    with replacing(output, overwrite=False) as partial:
        partial.mkdir()
        if tensors:
            save_file(without_shared_memory(tensors), partial / "model.safetensors", metadata={"format": "pt"})
        write_json(partial / "config.json", config)
        write_json(partial / "conversion_report.json", report.to_dict())
        if adapter is not None:
            (partial / "adapter").mkdir()
            save_file(
                without_shared_memory(adapter[0]), partial / "adapter" / "adapter_model.safetensors", {"format": "pt"}
            )
            write_json(partial / "adapter" / "adapter_config.json", adapter[1])


def without_shared_memory(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous tensors that share no memory, as safetensors requires."""
    pointers: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        tensor = tensor.contiguous()
        separate[name] = tensor.clone() if tensor.untyped_storage().data_ptr() in pointers else tensor
        pointers.add(tensor.untyped_storage().data_ptr())
    return separate


def write_json(path: Path, content: dict):
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
