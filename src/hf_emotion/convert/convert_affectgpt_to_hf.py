"""AffectGPT (`.pth` of MER2025 or MER2026) -> a folder that `AffectGPTForConditionalGeneration.from_pretrained_parts`
reads.

    hf-emotion convert affectgpt checkpoint_000060.pth --allow-pickle --output affectgpt-parts
    hf-emotion init affectgpt --output affectgpt --parts affectgpt=affectgpt-parts \\
        text=Qwen/Qwen2.5-7B-Instruct vision=openai/clip-vit-large-patch14 audio=TencentGameMate/chinese-hubert-large

Both years' code builds the same model. The released best setup, attention in all three fusions, is supported; a
checkpoint with a Q-Former in a fusion is refused.
"""

import torch

from hf_emotion.modeling.parts import LORA, PartsReport

from .checkpoints import ORIGINS, check_is, convert_files, new_report, read_checkpoints, rename_all, write_folder

TABLE = {
    r"affectgpt_proj\.(weight|bias)": r"model.video_projector.\1",
    r"audio_llama_proj\.(weight|bias)": r"model.audio_projector.\1",
    r"(video|audio)_attention_mlp\.(weight|bias)": r"model.\1_attention.\2",
    r"multi_(video|audio)_embs\.(weight|bias)": r"model.fusion_\1.\2",
    r"attention_mlp\.(weight|bias)": r"model.fusion_hidden.\1",
    r"fc_att\.(weight|bias)": r"model.fusion_attention.\1",
    r"multi_llama_proj\.(weight|bias)": r"model.fusion_projector.\1",
    r"llama_model\.base_model\.model\.model\.(layers\..+)\.(lora_[AB])(?:\.default)?\.weight": (
        LORA + r"model.language_model.\1.\2.weight"
    ),
}
REASONS = {
    r"image_llama_proj\..+": "the projector of single images, which the prompts for clips do not use",
    r"llama_model\.(?!.*lora_).+": "Qwen2.5's own, which comes from its own checkpoint (text=)",
    r"(visual_encoder|acoustic_encoder)\..+": "an encoder's own, which comes from its own checkpoint",
}
LORA_ALPHA = 32


def convert_state_dict(state_dict: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], PartsReport, dict]:
    """AffectGPT's tensors -> ours, a report, and the fields of `AffectGPTConfig` that they fit.

    Raises:
        ConversionError: another model's checkpoint, or a tensor without a place.
    """
    check_is(state_dict, "AffectGPT")
    tensors, ignored = rename_all(state_dict, TABLE, REASONS, "the checkpoint")
    fields = {"projection_dim": tensors["model.video_projector.weight"].shape[1]}
    return tensors, new_report(tensors, ignored), fields


def convert(files, output, allow_pickle: bool = False) -> PartsReport:
    """Write the folder of parts; if several files have a tensor, the last one is used."""
    files, _ = convert_files(files)
    tensors, report, fields = convert_state_dict(read_checkpoints(files, allow_pickle))
    config = {"model_type": "affectgpt_parts", "lora_alpha": LORA_ALPHA, "origin": ORIGINS["AffectGPT"]}
    write_folder(output, tensors, {**config, **fields}, report)
    return report
