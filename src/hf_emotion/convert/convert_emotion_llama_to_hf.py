"""Emotion-LLaMA (`.pth` of any stage) -> a folder that `ESVAForConditionalGeneration.from_pretrained_parts` reads.

    hf-emotion convert emotion-llama Emoation_LLaMA.pth --allow-pickle --output emotion-llama-parts
    hf-emotion init esva --output emotion-llama --parts emotion_llama=emotion-llama-parts \\
        text=meta-llama/Llama-2-7b-chat-hf vision=Salesforce/instructblip-vicuna-7b \\
        audio=TencentGameMate/chinese-hubert-large

The file has the trained weights: five projectors and LoRA weights of LLaMA-2's query and value projections, which the
second command adds to the language model. EVA ViT-g is the one in InstructBLIP, but for its last LayerNorm, which
MiniGPT-v2's code leaves as it initialises it. The MAE and VideoMAE whose features two
of the projectors read were never published; the model gives these projectors zeros, as the authors advise, and the
report says so. Emotion-LLaMA is ESVA without MSFE, alignment and contrast, so it uses ESVA's class.
"""

import torch

from hf_emotion.modeling.parts import LORA, PartsReport

from .checkpoints import ORIGINS, check_is, convert_files, new_report, read_checkpoints, rename_all, write_folder

TABLE = {
    r"ln_vision\.(weight|bias)": r"model.vision_tower.post_layernorm.\1",
    r"llama_proj\.(weight|bias)": r"model.video_projector.\1",
    r"cls_tk_llama_proj\.(weight|bias)": r"model.cls_projector.\1",
    r"feats_llama_proj1\.(weight|bias)": r"model.face_projector.\1",
    r"feats_llama_proj2\.(weight|bias)": r"model.motion_projector.\1",
    r"feats_llama_proj3\.(weight|bias)": r"model.audio_projector.\1",
    # peft 0.2 has no adapter name in its keys, later versions have "default".
    r"llama_model\.base_model\.model\.model\.(layers\..+)\.(lora_[AB])(?:\.default)?\.weight": (
        LORA + r"model.language_model.\1.\2.weight"
    ),
}
REASONS = {
    r"attention\..+": "a classifier of an experiment that the authors' code builds and never calls",
    r"llama_model\.(?!.*lora_).+": "LLaMA-2's own, which comes from its own checkpoint (text=)",
    r"visual_encoder\..+": "EVA ViT-g's own, which comes from its own checkpoint (vision=)",
}
LORA_ALPHA = 16
LAST_NORM = (
    "the last LayerNorm of EVA ViT-g has weight one and bias zero, not BLIP-2's values: MiniGPT-v2's code neither "
    "trains nor loads it"
)


def plain_last_norm(tensors: dict[str, torch.Tensor], size: int) -> None:
    """Add the LayerNorm behind EVA ViT-g as MiniGPT-v2's code makes it, unless the checkpoint has it (`ln_vision`)."""
    tensors.setdefault("model.vision_tower.post_layernorm.weight", torch.ones(size))
    tensors.setdefault("model.vision_tower.post_layernorm.bias", torch.zeros(size))


def convert_state_dict(state_dict: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], PartsReport, dict]:
    """Emotion-LLaMA's tensors -> ours, a report, and the fields of `ESVAConfig` that they fit.

    Raises:
        ConversionError: another model's checkpoint, or a tensor without a place.
    """
    check_is(state_dict, "Emotion-LLaMA")
    tensors, ignored = rename_all(state_dict, TABLE, REASONS, "the checkpoint")
    fields = {
        "msfe_kernel_sizes": [],
        "use_alignment": False,
        "contrast_weight": 0.0,
        "face_config": None,
        "motion_config": None,
        "face_feature_size": tensors["model.face_projector.weight"].shape[1],
        "motion_feature_size": tensors["model.motion_projector.weight"].shape[1],
    }
    plain_last_norm(tensors, len(tensors["model.cls_projector.weight"].T))
    report = new_report(tensors, ignored)
    report.notes.append(LAST_NORM)
    report.notes.append(
        "the MAE and VideoMAE that Emotion-LLaMA was trained with were never published: their projectors read zeros"
    )
    return tensors, report, fields


def convert(files, output, allow_pickle: bool = False) -> PartsReport:
    """Write the folder of parts; if several files have a tensor, the last one is used (a later stage)."""
    files, _ = convert_files(files)
    tensors, report, fields = convert_state_dict(read_checkpoints(files, allow_pickle))
    config = {"model_type": "emotion_llama_parts", "lora_alpha": LORA_ALPHA, "processor": {"keyframe": "first"}}
    write_folder(output, tensors, {**config, "origin": ORIGINS["Emotion-LLaMA"], **fields}, report)
    return report
