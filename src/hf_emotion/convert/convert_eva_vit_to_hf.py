"""EVA ViT-g (`eva_vit_g.pth`, or LAVIS' `visual_encoder.*`) -> a folder that `InstructBlipVisionModel` loads.

The tower ends in a LayerNorm (`ln_vision`) which LAVIS keeps with the Q-Former, so two files are needed:

    hf-emotion convert eva-vit eva_vit_g.pth blip2_pretrained_flant5xxl.pth \
        --allow-pickle --output eva-vit-g

The trap: `ln_vision` has eps 1e-5, the blocks 1e-6, and transformers' configuration has one eps for all. The folder's
config.json records `post_layernorm_eps`; `MicroEmoConfig.vision_post_layernorm_eps` (1e-5) applies it.

`--set all_blocks=true` keeps all 40 blocks and ends in EVA's own last norm (`norm`, at its initial values if the file
lacks it), as timm's `eva_giant_patch14_224` does; Emotion-LLaMA-v2 looks at frames through it. One file is enough then.
"""

import math
import re

import torch
from transformers import InstructBlipVisionConfig
from transformers.models.instructblip.modeling_instructblip import InstructBlipVisionModel

from hf_emotion.convert.checkpoints import (
    ConversionError,
    check_against,
    new_report,
    read_checkpoints,
    write_folder,
)
from hf_emotion.modeling.parts import PartsReport

# "eva_vit_g.pth" has 40 blocks; the models that use it take the output of the 39th.
BLOCKS_IN_FILE, BLOCKS_USED = 40, 39
POST_LAYERNORM_EPS = 1e-5

RENAMES = [
    (r"cls_token", "embeddings.class_embedding"),
    (r"pos_embed", "embeddings.position_embedding"),
    (r"patch_embed\.proj\.(weight|bias)", r"embeddings.patch_embedding.\1"),
    (r"blocks\.(\d+)\.norm([12])\.(weight|bias)", r"encoder.layers.\1.layer_norm\2.\3"),
    (r"blocks\.(\d+)\.attn\.qkv\.weight", r"encoder.layers.\1.self_attn.qkv.weight"),
    (r"blocks\.(\d+)\.attn\.(?:q_bias|v_bias)", r"encoder.layers.\1.self_attn.qkv.bias"),
    (r"blocks\.(\d+)\.attn\.proj\.(weight|bias)", r"encoder.layers.\1.self_attn.projection.\2"),
    (r"blocks\.(\d+)\.mlp\.(fc[12])\.(weight|bias)", r"encoder.layers.\1.mlp.\2.\3"),
    (r"ln_vision\.(weight|bias)", r"post_layernorm.\1"),
]


def rename(key: str) -> str | None:
    """EVA's name of a tensor -> transformers'; `None` for one that has no place.

    `q_bias` and `v_bias` of a block both map to the one bias they become: query, zero for the key, value.
    """
    key = key.removeprefix("visual_encoder.")
    for pattern, replacement in RENAMES:
        if re.fullmatch(pattern, key):
            return re.sub(pattern, replacement, key)
    return None


def reason(key: str) -> str:
    """Why `rename` returns `None` for a tensor."""
    key = key.removeprefix("visual_encoder.")
    if re.match(r"(norm|fc_norm|head)\.", key):
        return "EVA's own last norm and classifier; the models that use it end in ln_vision"
    if key.split(".")[0] in ("Qformer", "query_tokens", "video_Qformer", "audio_Qformer"):
        return "the Q-Former's; convert_videollama_qformer_to_hf reads it"
    return "no part of the vision tower"


def config_for(tensors: dict[str, torch.Tensor], num_attention_heads: int) -> InstructBlipVisionConfig:
    """The configuration for renamed tensors, which do not contain the number of heads."""
    for name in (
        "embeddings.patch_embedding.weight",
        "embeddings.position_embedding",
        "encoder.layers.0.mlp.fc1.weight",
    ):
        if name not in tensors:
            raise ConversionError(f"the checkpoint lacks {name}, so it is not an EVA vision tower")
    hidden_size, _, patch_size, _ = tensors["embeddings.patch_embedding.weight"].shape
    side = math.isqrt(tensors["embeddings.position_embedding"].shape[1] - 1)
    return InstructBlipVisionConfig(
        hidden_size=hidden_size,
        intermediate_size=len(tensors["encoder.layers.0.mlp.fc1.weight"]),
        num_hidden_layers=1 + max(int(n.split(".")[2]) for n in tensors if n.startswith("encoder.layers.")),
        num_attention_heads=num_attention_heads,
        image_size=side * patch_size,
        patch_size=patch_size,
        architectures=["InstructBlipVisionModel"],
        post_layernorm_eps=POST_LAYERNORM_EPS,
    )


def convert_state_dict(
    state_dict: dict[str, torch.Tensor], num_attention_heads: int = 16, all_blocks: bool = False
) -> tuple[dict[str, torch.Tensor], PartsReport, InstructBlipVisionConfig]:
    """EVA's tensors -> transformers', a report, and the configuration they fit.

    Args:
        all_blocks: keep all of the file's blocks and its own last norm, instead of 39 and `ln_vision`.

    Raises:
        ConversionError: the tower is incomplete; most often `ln_vision` is in another file.
    """
    if all_blocks:
        state_dict = with_own_norm(state_dict)
    names = {key.removeprefix("visual_encoder."): key for key in state_dict}
    blocks = {int(match[1]) for name in names if (match := re.match(r"blocks\.(\d+)\.", name))}
    unused = set(range(BLOCKS_USED, BLOCKS_IN_FILE)) if len(blocks) == BLOCKS_IN_FILE and not all_blocks else set()

    tensors: dict[str, torch.Tensor] = {}
    ignored: dict[str, str] = {}
    for name, key in names.items():
        block = re.match(r"blocks\.(\d+)\.", name)
        if block and int(block[1]) in unused:
            ignored[key] = f"block {block[1]}: the {BLOCKS_USED}th of {BLOCKS_IN_FILE} is the last one used"
        elif rename(key) is None:
            ignored[key] = reason(key)
        elif name.endswith(".q_bias"):
            value_name = name.removesuffix("q_bias") + "v_bias"
            if value_name not in names:
                raise ConversionError(f"the checkpoint has {key} but no {value_name}")
            query_bias, value_bias = state_dict[key], state_dict[names[value_name]]
            tensors[rename(key)] = torch.cat([query_bias, torch.zeros_like(query_bias), value_bias])
        elif not name.endswith(".v_bias"):
            tensors[rename(key)] = state_dict[key]
    config = config_for(tensors, num_attention_heads)
    if "post_layernorm.weight" not in tensors:
        raise ConversionError(
            "the files do not contain ln_vision, the tower's last LayerNorm; add the LAVIS file that has it, such as "
            "blip2_pretrained_flant5xxl.pth or instruct_blip_vicuna7b_trimmed.pth"
        )
    with torch.device("meta"):
        check_against(InstructBlipVisionModel(config), tensors, "the EVA vision tower")
    report = new_report(tensors, ignored)
    if all_blocks:
        config.post_layernorm_eps = config.layer_norm_eps
        report.notes.append(f"all {len(blocks)} blocks are kept, and post_layernorm is EVA's own last norm")
        return tensors, report, config
    report.notes.append(
        f"post_layernorm must run with eps {POST_LAYERNORM_EPS}; transformers' own class would use "
        f"{config.layer_norm_eps}, MicroEmo sets it"
    )
    return tensors, report, config


def with_own_norm(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """EVA's own last norm in the place of `ln_vision`; at its initial values where the checkpoint lacks it."""
    tensors = {key: tensor for key, tensor in state_dict.items() if "ln_vision." not in key}
    size = next((tensor for key, tensor in tensors.items() if key.endswith("cls_token")), torch.empty(0)).shape[-1]
    for kind, initial in (("weight", torch.ones(size)), ("bias", torch.zeros(size))):
        norm = next(
            (tensors.pop(key) for key in (f"norm.{kind}", f"visual_encoder.norm.{kind}") if key in tensors), initial
        )
        tensors[f"ln_vision.{kind}"] = norm
    return tensors


def convert(
    files, output, allow_pickle: bool = False, num_attention_heads: int = 16, all_blocks: bool = False
) -> PartsReport:
    """Write the folder of the EVA vision tower; if several files have a tensor, the last one is used."""
    tensors, report, config = convert_state_dict(read_checkpoints(files, allow_pickle), num_attention_heads, all_blocks)
    write_folder(output, tensors, config.to_dict(), report)
    return report
