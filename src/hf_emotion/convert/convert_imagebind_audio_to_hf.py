"""`imagebind_huge.pth` -> a folder that `ImageBindAudioModel` loads.

Of the six modalities only sound is kept. The weights are CC-BY-NC-SA 4.0, and so is the output of this script.

    hf-emotion convert imagebind-audio imagebind_huge.pth --allow-pickle --output imagebind
"""

import math
import re

import torch

from hf_emotion.convert.checkpoints import (
    ConversionError,
    check_against,
    new_report,
    read_checkpoints,
    write_folder,
)
from hf_emotion.modeling.configuration_imagebind_audio import ImageBindAudioConfig
from hf_emotion.modeling.modeling_imagebind_audio import ImageBindAudioModel
from hf_emotion.modeling.parts import PartsReport

LICENCE = "ImageBind's weights are CC-BY-NC-SA 4.0 (non-commercial, share alike), and so is this folder."

RENAMES = [
    (r"modality_preprocessors\.audio\.cls_token", "embeddings.cls_token"),
    (r"modality_preprocessors\.audio\.rgbt_stem\.proj\.weight", "embeddings.patch_embedding.weight"),
    (r"modality_preprocessors\.audio\.rgbt_stem\.norm_layer\.(weight|bias)", r"embeddings.layernorm.\1"),
    (r"modality_preprocessors\.audio\.pos_embedding_helper\.pos_embed", "embeddings.position_embedding"),
    (r"modality_trunks\.audio\.blocks\.(\d+)\.attn\.in_proj_(weight|bias)", r"layers.\1.self_attn.qkv.\2"),
    (r"modality_trunks\.audio\.blocks\.(\d+)\.attn\.(bias_k|bias_v)", r"layers.\1.self_attn.\2"),
    (r"modality_trunks\.audio\.blocks\.(\d+)\.attn\.out_proj\.(weight|bias)", r"layers.\1.self_attn.projection.\2"),
    (r"modality_trunks\.audio\.blocks\.(\d+)\.norm_([12])\.(weight|bias)", r"layers.\1.layer_norm\2.\3"),
    (r"modality_trunks\.audio\.blocks\.(\d+)\.mlp\.(fc[12])\.(weight|bias)", r"layers.\1.\2.\3"),
    (r"modality_heads\.audio\.0\.(weight|bias)", r"layernorm.\1"),
    (r"modality_heads\.audio\.2\.weight", "projection.weight"),
]
LOGIT_SCALE = "modality_postprocessors.audio.1.log_logit_scale"


def rename(key: str) -> str | None:
    """ImageBind's name of a tensor -> ours; `None` for one that has no place. Video-LLaMA's prefix is accepted."""
    key = key.removeprefix("audio_encoder.")
    for pattern, replacement in RENAMES:
        if re.fullmatch(pattern, key):
            return re.sub(pattern, replacement, key)
    return None


def reason(key: str) -> str:
    """Why `rename` returns `None` for a tensor."""
    key = key.removeprefix("audio_encoder.")
    if key == LOGIT_SCALE:
        return "kept in the configuration as logit_scale"
    match = re.match(r"modality_\w+\.(\w+)\.", key)
    if match and match[1] != "audio":
        return f"another modality ({match[1]})"
    return "no part of the audio tower"


def config_for(tensors: dict[str, torch.Tensor], num_attention_heads: int, logit_scale: float) -> ImageBindAudioConfig:
    """The configuration that renamed tensors fit; the number of heads is not written in them."""
    for name in ("embeddings.patch_embedding.weight", "layers.0.fc1.weight", "projection.weight"):
        if name not in tensors:
            raise ConversionError(f"the checkpoint lacks {name}, so it is not an ImageBind audio tower")
    hidden_size, _, patch_size, _ = tensors["embeddings.patch_embedding.weight"].shape
    return ImageBindAudioConfig(
        hidden_size=hidden_size,
        num_hidden_layers=1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("layers.")),
        num_attention_heads=num_attention_heads,
        intermediate_size=len(tensors["layers.0.fc1.weight"]),
        projection_dim=len(tensors["projection.weight"]),
        patch_size=patch_size,
        logit_scale=logit_scale,
        add_bias_kv="layers.0.self_attn.bias_k" in tensors,
        architectures=["ImageBindAudioModel"],
    )


def convert_state_dict(
    state_dict: dict[str, torch.Tensor], num_attention_heads: int = 12
) -> tuple[dict[str, torch.Tensor], PartsReport, ImageBindAudioConfig]:
    """ImageBind's tensors -> ours, a report, and the configuration they fit.

    Raises:
        ConversionError: the audio tower is not whole.
    """
    tensors = {new: tensor for key, tensor in state_dict.items() if (new := rename(key)) is not None}
    ignored = {key: reason(key) for key in state_dict if rename(key) is None}
    scale = next((t for key, t in state_dict.items() if key.removeprefix("audio_encoder.") == LOGIT_SCALE), None)
    # The released value is log(20); rounding restores it from float32.
    logit_scale = 20.0 if scale is None else round(math.exp(float(scale)), 4)
    config = config_for(tensors, num_attention_heads, logit_scale)
    with torch.device("meta"):
        check_against(ImageBindAudioModel(config), tensors, "the ImageBind audio tower")
    report = new_report(tensors, ignored)
    report.notes.append(LICENCE)
    return tensors, report, config


def convert(files, output, allow_pickle: bool = False, num_attention_heads: int = 12) -> PartsReport:
    """Write the folder of ImageBind's audio tower; of tensors in several files the later file counts."""
    tensors, report, config = convert_state_dict(read_checkpoints(files, allow_pickle), num_attention_heads)
    write_folder(output, tensors, config.to_dict(), report)
    return report
