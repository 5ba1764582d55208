"""AffectGPT (`.pth` of MER2025 or MER2026) -> a folder that `AffectGPTForConditionalGeneration.from_pretrained_parts`
reads.

    hf-emotion convert affectgpt checkpoint_000060.pth --allow-pickle --output affectgpt-parts
    hf-emotion init affectgpt --output affectgpt --parts affectgpt=affectgpt-parts \\
        text=Qwen/Qwen2.5-7B-Instruct vision=openai/clip-vit-large-patch14 audio=TencentGameMate/chinese-hubert-large

Both years' code builds the same model. The weights say how each fusion works: by attention (all released setups), a
mean or a Q-Former. They do not say how many tokens a fusion without a Q-Former makes; the released setups make one, and
`--set num_video_query_tokens=...` names another number.
"""

import torch
from transformers import Blip2QFormerModel

from hf_emotion.modeling.parts import LORA, PartsReport

from .checkpoints import (
    ORIGINS,
    ConversionError,
    check_against,
    check_is,
    convert_files,
    new_report,
    read_checkpoints,
    rename_all,
    write_folder,
)
from .convert_videollama_qformer_to_hf import below, qformer_config, rename_qformer

TABLE = {
    r"affectgpt_proj\.(weight|bias)": r"model.video_projector.\1",
    r"audio_llama_proj\.(weight|bias)": r"model.audio_projector.\1",
    r"(video|audio)_attention_mlp\.(weight|bias)": r"model.\1_attention.\2",
    r"(video_frame|audio|multi)_position_embedding\.weight": r"model.\1_qformer.positions.weight",
    r"(video|audio|multi)_query_tokens": r"model.\1_qformer.reader.query_tokens",
    r"(video|audio|multi)_Qformer\.bert\.(.+)": r"model.\1_qformer.reader.qformer.\2",
    r"multi_(video|audio)_embs\.(weight|bias)": r"model.fusion_\1.\2",
    r"attention_mlp\.(weight|bias)": r"model.fusion_hidden.\1",
    r"fc_att\.(weight|bias)": r"model.fusion_attention.\1",
    r"multi_llama_proj\.(weight|bias)": r"model.fusion_projector.\1",
    r"llama_model\.base_model\.model\.model\.(layers\..+)\.(lora_[AB])(?:\.default)?\.weight": (
        LORA + r"model.language_model.\1.\2.weight"
    ),
}
REASONS = {
    r"(video|audio|multi)_Qformer\.(cls\..+|.+\.position_ids)": "BERT's head and position numbers, which nothing reads",
    r"image_llama_proj\..+": "the projector of single images, which the prompts for clips do not use",
    r"llama_model\.(?!.*lora_).+": "Qwen2.5's own, which comes from its own checkpoint (text=)",
    r"(visual_encoder|acoustic_encoder)\..+": "an encoder's own, which comes from its own checkpoint",
}
LORA_ALPHA = 32


# Our names of the fusions -> the field for how each works, the one for its positions, the weights of its attention.
FUSIONS = {
    "video": ("video_fusion", "num_frame_positions", "model.video_attention.weight"),
    "audio": ("audio_fusion", "num_audio_positions", "model.audio_attention.weight"),
    "fusion": ("fusion", "num_fusion_positions", "model.fusion_attention.weight"),
}


def convert_state_dict(
    state_dict: dict[str, torch.Tensor], head_size: int = 64, **tokens: int
) -> tuple[dict[str, torch.Tensor], PartsReport, dict]:
    """AffectGPT's tensors -> ours, a report, and the fields of `AffectGPTConfig` that they fit.

    Args:
        head_size: width of an attention head of the Q-Formers (BERT: 64).
        tokens: `num_video_query_tokens`, `num_audio_query_tokens`, `num_fusion_query_tokens` of fusions without a
            Q-Former.

    Raises:
        ConversionError: another model's checkpoint, a tensor without a place, or a Q-Former that is not whole.
    """
    check_is(state_dict, "AffectGPT")
    tensors, ignored = rename_all(state_dict, TABLE, REASONS, "the checkpoint")
    tensors = {rename_inside(name): tensor for name, tensor in tensors.items()}
    fields: dict = {"projection_dim": tensors["model.fusion_video.weight"].shape[1]}
    for name, (how, positions, attention) in FUSIONS.items():
        count = f"num_{name}_query_tokens"
        qformer = below(tensors, f"model.{name}_qformer.")
        if not qformer:
            fields[how] = "attention" if attention in tensors else "mean"
            fields[count] = tokens.get(count, 1)
            continue
        block = below(qformer, "reader.qformer.")
        if not block or not {"reader.query_tokens", "positions.weight"} <= set(qformer):
            raise ConversionError(f"the checkpoint has only some of the Q-Former of {name}, its queries and positions")
        config = qformer_config(block, head_size)
        with torch.device("meta"):
            check_against(Blip2QFormerModel(config), block, f"the Q-Former of {name}")
        fields |= {
            how: "qformer",
            f"{name}_qformer_config": config.to_dict(),
            count: qformer["reader.query_tokens"].shape[1],
            positions: len(qformer["positions.weight"]),
        }
    if fields["fusion"] == "mean":
        raise ConversionError("the checkpoint has neither attention nor a Q-Former for picture and sound together")
    return tensors, new_report(tensors, ignored), fields


def rename_inside(name: str) -> str:
    """What the table leaves of the authors' names: those inside a BERT, and those of the fusion."""
    name = name.replace("model.video_frame_qformer.", "model.video_qformer.")
    name = name.replace("model.multi_qformer.", "model.fusion_qformer.")
    if ".reader.qformer." not in name:
        return name
    place, inside = name.split(".reader.qformer.")
    return f"{place}.reader.qformer.{rename_qformer(inside).removeprefix('embeddings.')}"


def convert(
    files,
    output,
    allow_pickle: bool = False,
    num_video_query_tokens: int = 1,
    num_audio_query_tokens: int = 1,
    num_fusion_query_tokens: int = 1,
    head_size: int = 64,
) -> PartsReport:
    """Write the folder of parts; if several files have a tensor, the last one is used."""
    files, _ = convert_files(files)
    tensors, report, fields = convert_state_dict(
        read_checkpoints(files, allow_pickle),
        head_size,
        num_video_query_tokens=num_video_query_tokens,
        num_audio_query_tokens=num_audio_query_tokens,
        num_fusion_query_tokens=num_fusion_query_tokens,
    )
    config = {"model_type": "affectgpt_parts", "lora_alpha": LORA_ALPHA, "origin": ORIGINS["AffectGPT"]}
    write_folder(output, tensors, {**config, **fields}, report)
    return report
