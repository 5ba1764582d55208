"""Emotion-LLaMA-v2 (`.pth` of any stage) -> a folder that its class's `from_pretrained_parts` reads.

    hf-emotion convert emotion-llama-v2 checkpoint_9.pth --allow-pickle --output emotion-llama-v2-parts
    hf-emotion convert eva-vit eva_vit_g.pth --allow-pickle --set all_blocks=true --output eva-40
    hf-emotion init emotion_llama_v2 --output emotion-llama-v2 --parts emotion_llama_v2=emotion-llama-v2-parts \\
        text=meta-llama/Llama-2-7b-chat-hf vision=Salesforce/instructblip-vicuna-7b frames=eva-40 \\
        audio=openai/whisper-large-v3

The file has the trained weights: projectors, fusion, and LoRA weights of LLaMA-2's query and value projections, which
the last command adds to the language model. All encoders are published.
"""

import torch

from hf_emotion.modeling.parts import LORA, PartsReport

from .checkpoints import ORIGINS, check_is, convert_files, new_report, read_checkpoints, rename_all, write_folder
from .convert_emotion_llama_to_hf import LAST_NORM, LORA_ALPHA, plain_last_norm

TABLE = {
    r"ln_vision\.(weight|bias)": r"model.vision_tower.post_layernorm.\1",
    r"llama_proj\.(weight|bias)": r"model.video_projector.\1",
    r"llama_proj_video\.(weight|bias)": r"model.frame_projector.\1",
    r"llama_proj_audio\.(weight|bias)": r"model.audio_projector.\1",
    r"llama_proj_fusion\.(weight|bias)": r"model.fusion_projector.\1",
    r"conv_pro_module\.feats_prep\.(\d)\.([03])\.(weight|bias)": r"model.fusion.streams.\1.\2.\3",
    r"conv_pro_module\.attention_mlp\.([03])\.(weight|bias)": r"model.fusion.attention.\1.\2",
    r"conv_pro_module\.fc_att\.(weight|bias)": r"model.fusion.weights.\1",
    r"conv_pro_module\.conv_entry\.(weight|bias)": r"model.fusion.entry.\1",
    r"conv_pro_module\.conv_module\.conv_blocks\.(\d+)\.conv_block\.0\.(weight|bias)": r"model.fusion.blocks.\1.\2",
    r"conv_pro_module\.fc_final\.(weight|bias)": r"model.fusion.output.\1",
    r"llama_model\.base_model\.model\.model\.(layers\..+)\.(lora_[AB])(?:\.default)?\.weight": (
        LORA + r"model.language_model.\1.\2.weight"
    ),
}
REASONS = {
    r"llama_model\.(?!.*lora_).+": "LLaMA-2's own, which comes from its own checkpoint (text=)",
    r"visual_encoder\..+": "EVA ViT-g's own, which comes from its own checkpoint (vision=)",
}


def convert_state_dict(state_dict: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], PartsReport, dict]:
    """Emotion-LLaMA-v2's tensors -> ours, a report, and the fields of `EmotionLLaMAV2Config` that they fit.

    Raises:
        ConversionError: another model's checkpoint, or a tensor without a place.
    """
    check_is(state_dict, "Emotion-LLaMA-v2")
    tensors, ignored = rename_all(state_dict, TABLE, REASONS, "the checkpoint")
    plain_last_norm(tensors, tensors["model.fusion.streams.1.0.weight"].shape[1])
    first, second = (len(tensors[f"model.fusion.attention.{layer}.weight"]) for layer in (0, 3))
    fields = {
        "fusion_sizes": [first, second],
        "fusion_size": len(tensors["model.fusion.output.weight"]),
        "fusion_blocks": sum(name.startswith("model.fusion.blocks.") for name in tensors) // 2,
    }
    report = new_report(tensors, ignored)
    report.notes.append(LAST_NORM)
    return tensors, report, fields


def convert(files, output, allow_pickle: bool = False) -> PartsReport:
    """Write the folder of parts; if several files have a tensor, the last one is used (a later stage)."""
    files, _ = convert_files(files)
    tensors, report, fields = convert_state_dict(read_checkpoints(files, allow_pickle))
    config = {"model_type": "emotion_llama_v2_parts", "lora_alpha": LORA_ALPHA, "origin": ORIGINS["Emotion-LLaMA-v2"]}
    write_folder(output, tensors, {**config, **fields}, report)
    return report
