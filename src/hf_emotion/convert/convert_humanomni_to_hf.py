"""HumanOmni or R1-Omni (0.5B, 7B) -> a folder that `HumanOmniForConditionalGeneration.from_pretrained_parts` reads.

    hf-emotion convert humanomni R1-Omni-0.5B --output r1-omni-parts
    hf-emotion init humanomni --output r1-omni --parts humanomni=r1-omni-parts tokenizer=R1-Omni-0.5B \\
        vision=google/siglip-base-patch16-224 audio=openai/whisper-large-v3 \\
        instruction_tokenizer=google-bert/bert-base-uncased

The first argument is the published folder: its `config.json` says which projector the weights are for. The authors load
SigLIP and Whisper separately, so the second command names them; if a folder contains towers, those are used.
"""

import json
from pathlib import Path

import torch
from transformers import BertConfig, Qwen2Config

from hf_emotion.modeling.parts import PartsReport

from .checkpoints import (
    ORIGINS,
    ConversionError,
    check_is,
    convert_files,
    new_report,
    read_checkpoints,
    rename_all,
    write_folder,
)

# timm's RegNet block -> ours.
BLOCK = {
    r"conv([123])\.conv\.weight": r"conv\1.weight",
    r"conv([123])\.bn\.(weight|bias)": r"norm\1.\2",
    r"se\.fc1\.(weight|bias)": r"squeeze.\1",
    r"se\.fc2\.(weight|bias)": r"excite.\1",
    r"downsample\.conv\.weight": r"shortcut.0.weight",
    r"downsample\.bn\.(weight|bias)": r"shortcut.1.\1",
}
TABLE = {
    r"model\.(embed_tokens|layers|norm)\.(.+)": r"model.language_model.\1.\2",
    r"lm_head\.weight": "lm_head.weight",
    r"model\.mm_projector\.sampler_(video|body)\.0\.(weight|bias)": r"model.\1_branch.sampler.\2",
    r"model\.mm_projector\.readout_(video|body)\.(0|2)\.(weight|bias)": r"model.\1_branch.readout.\2.\3",
    r"model\.mm_projector\.mlp_2xgelu_face\.(0|2)\.(weight|bias)": r"model.face_branch.\1.\2",
    r"model\.mm_projector\.s([12])_(video|body)\.b(\d+)\.(.+)": r"model.\2_branch.stage\1.\3.\4",
    r"model\.bert_model\.((?:embeddings|encoder)\..+)": r"model.instruction_encoder.\1",
    r"model\.bert_gate\.(0|2)\.(weight|bias)": r"model.gate.\1.\2",
    r"model\.audio_projector\.(0|2)\.(weight|bias)": r"model.audio_projector.\1.\2",
    r"model\.vision_tower\.vision_tower\.(.+)": r"model.vision_tower.\1",
    r"model\.audio_tower\.audio_tower\.encoder\.(.+)": r"model.audio_tower.\1",
}
REASONS = {
    r"model\.bert_model\.pooler\..+": "BERT's pooler; the gate reads the first token's last state",
    r".+\.position_ids": "a table of consecutive numbers, computed again",
    r".+\.rotary_emb\.inv_freq": "computed from the configuration",
    r"model\.feature_compressor\..+": "the frame compressor's projections, which the authors' code never calls",
    r"model\.vision_tower\.vision_tower\.vision_model\.head\..+": "SigLIP's pooling head; patches are read before it",
    r"model\.audio_tower\.audio_tower\.(projector|classifier)\..+": "Whisper's classifier of sounds, unused",
}
# Kind of projector in the published config.json -> blocks of a stage, padding of the sampler.
PROJECTORS = {"all_in_one_small": (2, 0), "all_in_one": (4, 1)}


def rename_block(name: str) -> str:
    """`model.video_branch.stage1.1.conv1.conv.weight`, still in timm's names and counted from one -> ours."""
    branch, stage, block, rest = name.removeprefix("model.").split(".", 3)
    renamed, _ = rename_all({rest: None}, BLOCK, {}, "a RegNet block of the projector")
    return f"model.{branch}.{stage}.{int(block) - 1}.{next(iter(renamed))}"


def convert_state_dict(
    state_dict: dict[str, torch.Tensor], published: dict
) -> tuple[dict[str, torch.Tensor], PartsReport, dict]:
    """HumanOmni's tensors -> ours, a report, and the fields of `HumanOmniConfig` that they fit.

    Args:
        published: `config.json` of the checkpoint.

    Raises:
        ConversionError: another model's checkpoint, a tensor without a place, or an unknown projector.
    """
    check_is(state_dict, "HumanOmni")
    tensors, ignored = rename_all(state_dict, TABLE, REASONS, "the checkpoint")
    tensors = {rename_block(name) if ".stage" in name else name: tensor for name, tensor in tensors.items()}
    kind = published.get("mm_projector_type")
    if kind not in PROJECTORS:
        raise ConversionError(
            f"config.json has mm_projector_type {kind!r}; accepted are {' and '.join(map(repr, PROJECTORS))}"
        )
    depth, padding = PROJECTORS[kind]
    words = tensors["model.instruction_encoder.embeddings.word_embeddings.weight"]
    layers = {name.split(".")[4] for name in tensors if name.startswith("model.instruction_encoder.encoder.layer.")}
    text = {name: value for name, value in published.items() if name in Qwen2Config().to_dict()}
    text.pop("model_type", None)
    fields = {
        "vision_feature_layer": published.get("mm_vision_select_layer", -2),
        "stage_depth": depth,
        "sampler_padding": padding,
        "compress_frames": any(name.startswith("model.feature_compressor.") for name in state_dict),
        "gate_size": len(tensors["model.gate.0.weight"]),
        "instruction_config": BertConfig(
            vocab_size=len(words),
            hidden_size=words.shape[1],
            num_hidden_layers=len(layers),
            num_attention_heads=published.get("bert_attention_heads", words.shape[1] // 64),
            intermediate_size=len(tensors["model.instruction_encoder.encoder.layer.0.intermediate.dense.weight"]),
            max_position_embeddings=len(tensors["model.instruction_encoder.embeddings.position_embeddings.weight"]),
        ).to_dict(),
        "text_config": Qwen2Config(**text).to_dict(),
    }
    if not any(name.startswith("model.audio_projector.") for name in tensors):
        fields["audio_config"] = None
    report = new_report(tensors, ignored)
    for tower in ("vision", "audio"):
        if not any(name.startswith(f"model.{tower}_tower.") for name in tensors):
            report.notes.append(f"the checkpoint has no {tower} tower; name the published one with {tower}=")
    return tensors, report, fields


def convert(files, output, allow_pickle: bool = False) -> PartsReport:
    """Write the folder of parts; `files` are the published folder, or its weights beside a config.json."""
    files, folder = convert_files(files)
    path = folder / "config.json"
    if not path.is_file():
        raise ConversionError(f"{folder} has no config.json, which says what the weights are; give the whole folder")
    published = json.loads(Path(path).read_text(encoding="utf-8"))
    tensors, report, fields = convert_state_dict(read_checkpoints(files, allow_pickle), published)
    processor = {"num_frames": published.get("num_frames", 8)}
    config = {"model_type": "humanomni_parts", "origin": ORIGINS["HumanOmni"], "processor": processor}
    write_folder(output, tensors, {**config, **fields}, report)
    return report
