"""FaceXFormer's checkpoint -> a folder that `FaceXFormerModel` loads.

Only the encoder is kept: Swin-B and the fusion of its four scales. The decoder with its heads (parsing, landmarks, head
pose, attributes, age) is left out and listed in the report.

    hf-emotion convert facexformer model.pt --allow-pickle --output facexformer
"""

import re

import torch

from hf_emotion.convert.checkpoints import (
    ConversionError,
    check_against,
    new_report,
    read_checkpoints,
    write_folder,
)
from hf_emotion.modeling.configuration_facexformer import FaceXFormerConfig
from hf_emotion.modeling.modeling_facexformer import FaceXFormerModel
from hf_emotion.modeling.parts import PartsReport

# torchvision's Swin is a list of stem, stage, merging, stage, merging ...; the numbers are rewritten by `place`.
RENAMES = [
    (r"backbone\.0\.0\.0\.(weight|bias)", r"backbone.embeddings.patch_embeddings.projection.\1"),
    (r"backbone\.0\.0\.2\.(weight|bias)", r"backbone.embeddings.norm.\1"),
    (r"backbone\.0\.{stage}\.(\d+)\.norm1\.(weight|bias)", r"{layer}.blocks.\1.layernorm_before.\2"),
    (r"backbone\.0\.{stage}\.(\d+)\.norm2\.(weight|bias)", r"{layer}.blocks.\1.layernorm_after.\2"),
    (r"backbone\.0\.{stage}\.(\d+)\.attn\.qkv\.(weight|bias)", r"{layer}.blocks.\1.attention.qkv.\2"),
    (r"backbone\.0\.{stage}\.(\d+)\.attn\.proj\.(weight|bias)", r"{layer}.blocks.\1.attention.o_proj.\2"),
    (
        r"backbone\.0\.{stage}\.(\d+)\.attn\.relative_position_bias_table",
        r"{layer}.blocks.\1.attention.relative_position_bias.relative_position_bias_table",
    ),
    (r"backbone\.0\.{stage}\.(\d+)\.mlp\.0\.(weight|bias)", r"{layer}.blocks.\1.mlp.fc1.\2"),
    (r"backbone\.0\.{stage}\.(\d+)\.mlp\.3\.(weight|bias)", r"{layer}.blocks.\1.mlp.fc2.\2"),
    (r"backbone\.0\.{merging}\.norm\.(weight|bias)", r"{layer}.downsample.norm.\1"),
    (r"backbone\.0\.{merging}\.reduction\.weight", r"{layer}.downsample.reduction.weight"),
    (r"backbone\.1\.(weight|bias)", r"backbone.layernorm.\1"),
    (r"linear_c\.(\d+)\.proj\.(weight|bias)", r"fusion.projections.\1.\2"),
    (r"linear_fuse\.weight", "fusion.fuse.weight"),
]
# The wrapper for several GPUs adds this prefix to every name.
PREFIX = "module."
QKV = ("q_proj", "k_proj", "v_proj")


def rename(key: str) -> str | None:
    """FaceXFormer's name of a tensor -> ours, `qkv` still in one; `None` for one that has no place."""
    key = key.removeprefix(PREFIX)
    position = re.match(r"backbone\.0\.(\d+)\.", key)
    number = int(position[1]) if position else 0
    # Stage i is at 2i + 1, and the merging after it at 2i + 2.
    layer = f"backbone.encoder.layers.{(number - 1) // 2}"
    for pattern, replacement in RENAMES:
        if ("{stage}" in pattern and number % 2 == 0) or ("{merging}" in pattern and number % 2 == 1):
            continue
        pattern = pattern.replace("{stage}", str(number)).replace("{merging}", str(number))
        if re.fullmatch(pattern, key):
            return re.sub(pattern, replacement.replace("{layer}", layer), key)
    return None


def reason(key: str) -> str:
    """Why `rename` returns `None` for a tensor."""
    if key.endswith("relative_position_index"):
        return "a table of offsets, computed again"
    if "face_decoder." in key or "pe_layer." in key:
        return "the decoder, which Omni-Emotion does not use"
    return "no part of the encoder"


def config_for(tensors: dict[str, torch.Tensor], image_size: int, head_size: int) -> FaceXFormerConfig:
    """The configuration for renamed tensors, which do not contain the image size or the width of a head."""
    for name in ("backbone.embeddings.patch_embeddings.projection.weight", "fusion.fuse.weight"):
        if name not in tensors:
            raise ConversionError(f"the checkpoint lacks {name}, so it is not a FaceXFormer encoder")
    embed_dim, _, patch_size, _ = tensors["backbone.embeddings.patch_embeddings.projection.weight"].shape
    depths: dict[int, int] = {}
    for name in tensors:
        match = re.match(r"backbone\.encoder\.layers\.(\d+)\.blocks\.(\d+)\.", name)
        if match:
            depths[int(match[1])] = max(depths.get(int(match[1]), 0), int(match[2]) + 1)
    table = next((t for name, t in tensors.items() if name.endswith("relative_position_bias_table")), None)
    if table is None or sorted(depths) != list(range(len(depths))):
        raise ConversionError("the checkpoint's Swin Transformer is incomplete")
    return FaceXFormerConfig(
        backbone_config={
            "model_type": "swin",
            "image_size": image_size,
            "patch_size": patch_size,
            "embed_dim": embed_dim,
            "depths": [depths[i] for i in range(len(depths))],
            "num_heads": [embed_dim * 2**i // head_size for i in range(len(depths))],
            # The table has one row for each offset in a window: (2 * window - 1) squared.
            "window_size": (round(len(table) ** 0.5) + 1) // 2,
            "drop_path_rate": 0.0,
        },
        hidden_size=len(tensors["fusion.fuse.weight"]),
        architectures=["FaceXFormerModel"],
    )


def convert_state_dict(
    state_dict: dict[str, torch.Tensor], image_size: int = 224, head_size: int = 32
) -> tuple[dict[str, torch.Tensor], PartsReport, FaceXFormerConfig]:
    """FaceXFormer's tensors -> ours, a report, and the configuration they fit.

    Args:
        state_dict: the checkpoint's.
        image_size: side of an image in pixels.
        head_size: width of an attention head; 32 in every published Swin.

    Raises:
        ConversionError: the encoder is incomplete.
    """
    tensors = {}
    for key, tensor in state_dict.items():
        name = rename(key)
        if name is None:
            continue
        if ".qkv." in name:
            for part, chunk in zip(QKV, tensor.chunk(3), strict=True):
                tensors[name.replace("qkv", part)] = chunk.clone()
        else:
            tensors[name] = tensor
    ignored = {key: reason(key) for key in state_dict if rename(key) is None}
    config = config_for(tensors, image_size, head_size)
    with torch.device("meta"):
        check_against(FaceXFormerModel(config), tensors, "the FaceXFormer encoder")
    return tensors, new_report(tensors, ignored), config


def convert(files, output, allow_pickle: bool = False, image_size: int = 224) -> PartsReport:
    """Write the folder of FaceXFormer's encoder; if several files have a tensor, the last one is used."""
    tensors, report, config = convert_state_dict(read_checkpoints(files, allow_pickle), image_size)
    write_folder(output, tensors, config.to_dict(), report)
    return report
