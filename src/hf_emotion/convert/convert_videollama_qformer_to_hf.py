"""Q-Formers, positions, projectors and LoRA of Video-LLaMA and TimeChat -> a folder of MicroEmo's parts.

    hf-emotion convert video-llama VL_LLaMA_2_7B_Finetuned.pth \
        AL_LLaMA_2_7B_Finetuned.pth --allow-pickle --output video-llama-parts

`MicroEmoForConditionalGeneration.from_pretrained_parts(video_llama=DIR)` reads the folder. A text-conditioned image
Q-Former (TimeChat's `timechat_7b.pth`, InstructBLIP's `instruct_blip_vicuna7b_trimmed.pth`) becomes MicroEmo's image
Q-Former; Video-LLaMA's cannot read timestamps and is left out. The video Q-Former is written twice, for the whole clip
and for utterances, since the paper initialises both from it. LoRA weights become a PEFT adapter in DIR/adapter, to be
loaded over the assembled model with `PeftModel.from_pretrained`.
"""

import re

import torch
from transformers import Blip2QFormerConfig, Blip2QFormerModel, InstructBlipQFormerConfig
from transformers.models.instructblip.modeling_instructblip import InstructBlipQFormerModel

from hf_emotion.convert.checkpoints import (
    ConversionError,
    check_against,
    new_report,
    read_checkpoints,
    refuse_others,
    write_folder,
)
from hf_emotion.modeling.parts import PARTS_MODEL_TYPE, PartsReport

# The original Q-Formers and their prefixes in MicroEmo.
QFORMERS = {
    "Qformer.bert.": "image_qformer.qformer.",
    "video_Qformer.bert.": "video_qformer.global_qformer.qformer.",
    "audio_Qformer.bert.": "audio_qformer.qformer.",
}
RENAMES = {
    "query_tokens": "image_qformer.query_tokens",
    "video_query_tokens": "video_qformer.global_qformer.query_tokens",
    "audio_query_tokens": "audio_qformer.query_tokens",
    "video_frame_position_embedding.weight": "frame_position_embedding.weight",
    "audio_position_embedding.weight": "audio_position_embedding.weight",
    "llama_proj.weight": "video_projector.weight",
    "llama_proj.bias": "video_projector.bias",
    "audio_llama_proj.weight": "audio_projector.weight",
    "audio_llama_proj.bias": "audio_projector.bias",
}
LORA = re.compile(r"llama_model\.base_model\.model\.model\.(layers\..+\.lora_[AB])(?:\.default)?\.weight")
LORA_PREFIX = "base_model.model.model.language_model."

NO_TEXT = "this image Q-Former has no text branch, so it cannot read timestamps; use InstructBLIP's or TimeChat's"
REASONS = {
    "visual_encoder.": "the vision tower; convert_eva_vit_to_hf reads it",
    "ln_vision.": "the vision tower's last norm; convert_eva_vit_to_hf reads it",
    "audio_encoder.": "ImageBind; convert_imagebind_audio_to_hf reads it",
    "llama_model.": "the language model's own weights and buffers; it comes from its own checkpoint",
    "llm_model.": "the language model's own weights and buffers; it comes from its own checkpoint",
    "t5_model.": "the language model's own weights and buffers; it comes from its own checkpoint",
    "llm_proj.": "InstructBLIP's projection of image tokens; MicroEmo projects video tokens",
    "t5_proj.": "BLIP-2's projection of image tokens; MicroEmo projects video tokens",
}


def rename_qformer(key: str) -> str | None:
    """A tensor of the original BERT (after `..Qformer.bert.`) -> its name in transformers' Q-Formers.

    The norm of the embeddings is `embeddings.layernorm` if the Q-Former reads text and `layernorm` if it does not; this
    returns the first, and `rename` shortens it for the query-only ones.
    """
    if key.endswith("position_ids"):
        return None
    key = key.replace("embeddings.LayerNorm.", "embeddings.layernorm.")
    return re.sub(r"\.(attention|crossattention)\.self\.", r".\1.attention.", key)


def rename(key: str) -> str | None:
    """A tensor of Video-LLaMA or TimeChat -> its name in MicroEmo (without `model.`); `None` if it has no place.

    LoRA weights get their names in a PEFT adapter of the whole model.
    """
    if key in RENAMES:
        return RENAMES[key]
    if match := LORA.fullmatch(key):
        return f"{LORA_PREFIX}{match[1]}.weight"
    for peer, ours in QFORMERS.items():
        if key.startswith(peer):
            name = rename_qformer(key.removeprefix(peer))
            if name is None:
                return None
            if peer != "Qformer.bert.":
                name = name.removeprefix("embeddings.")
            return ours + name
    return None


def reason(key: str) -> str:
    """Why `rename` returns `None` for a tensor."""
    if key.endswith("position_ids"):
        return "a table of consecutive numbers, computed again"
    if re.match(r"(video_|audio_)?Qformer\.cls\.", key):
        return "BERT's language-modelling head, which the original models do not use either"
    prefix = next((prefix for prefix in REASONS if key.startswith(prefix)), None)
    return REASONS.get(prefix, "no part of MicroEmo")


def qformer_config(tensors: dict[str, torch.Tensor], head_size: int) -> InstructBlipQFormerConfig | Blip2QFormerConfig:
    """The configuration of a Q-Former from its tensors, which do not contain the size of a head."""
    layers = {int(match[1]) for name in tensors if (match := re.match(r"encoder\.layer\.(\d+)\.", name))}
    crossed = sorted({int(n.split(".")[2]) for n in tensors if re.match(r"encoder\.layer\.\d+\.crossattention\.", n)})
    if not crossed:
        raise ConversionError("a Q-Former of the checkpoint has no cross-attention, so it reads nothing")
    first = f"encoder.layer.{crossed[0]}."
    hidden_size, encoder_hidden_size = tensors[first + "crossattention.attention.key.weight"].shape
    sizes = {
        "hidden_size": hidden_size,
        "num_hidden_layers": len(layers),
        "num_attention_heads": hidden_size // head_size,
        "intermediate_size": len(tensors[first + "intermediate_query.dense.weight"]),
        "cross_attention_frequency": crossed[1] - crossed[0] if len(crossed) > 1 else len(layers),
        "encoder_hidden_size": encoder_hidden_size,
    }
    if "embeddings.word_embeddings.weight" not in tensors:
        return Blip2QFormerConfig(**sizes)
    return InstructBlipQFormerConfig(
        vocab_size=len(tensors["embeddings.word_embeddings.weight"]),
        max_position_embeddings=len(tensors["embeddings.position_embeddings.weight"]),
        **sizes,
    )


def below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors under a prefix, named without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def convert_state_dict(
    state_dict: dict[str, torch.Tensor], head_size: int = 64
) -> tuple[dict[str, torch.Tensor], PartsReport, dict]:
    """The peers' tensors -> MicroEmo's, a report, and the fields of `MicroEmoConfig` they fit.

    Args:
        state_dict: one stage's tensors, or several stages' merged.
        head_size: width of an attention head (BERT: 64).

    Returns:
        the tensors (LoRA weights under names that begin with `base_model.`), the report, the fields.

    Raises:
        ConversionError: a Q-Former is not whole, nothing in the checkpoint has a place, or it is another model's.
    """
    refuse_others(state_dict, "TimeChat or Video-LLaMA", "BLIP-2 or InstructBLIP")
    tensors = {new: tensor for key, tensor in state_dict.items() if (new := rename(key)) is not None}
    ignored = {key: reason(key) for key in state_dict if rename(key) is None}
    fields: dict = {}

    image = below(tensors, "image_qformer.")
    if image and "qformer.embeddings.word_embeddings.weight" not in image:
        ignored.update({key: NO_TEXT for key in state_dict if (rename(key) or "").startswith("image_qformer.")})
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("image_qformer.")}

    for prefix, config_field, queries_field, model_class in (
        ("image_qformer.", "image_qformer_config", "num_query_tokens", InstructBlipQFormerModel),
        ("video_qformer.global_qformer.", "video_qformer_config", "num_video_query_tokens", Blip2QFormerModel),
        ("audio_qformer.", "audio_qformer_config", "num_audio_query_tokens", Blip2QFormerModel),
    ):
        block = below(tensors, prefix + "qformer.")
        queries = tensors.get(prefix + "query_tokens")
        if not block and queries is None:
            continue
        if not block or queries is None:
            raise ConversionError(f"the checkpoint holds only one of the Q-Former and the queries of {prefix[:-1]}")
        config = qformer_config(block, head_size)
        with torch.device("meta"):
            check_against(model_class(config), block, prefix[:-1])
        fields[config_field] = config.to_dict()
        fields[queries_field] = queries.shape[1]
    for name, positions_field in (
        ("frame_position_embedding.weight", "num_frame_positions"),
        ("audio_position_embedding.weight", "num_audio_positions"),
    ):
        if name in tensors:
            fields[positions_field] = len(tensors[name])
    if not tensors:
        raise ConversionError("the checkpoint holds no Q-Former, projector or LoRA weight of Video-LLaMA or TimeChat")

    for name in [name for name in tensors if name.startswith("video_qformer.global_qformer.")]:
        tensors[name.replace("global_qformer", "utterance_qformer")] = tensors[name]
    report = new_report(tensors, ignored)
    if "video_qformer_config" in fields:
        report.notes.append("the video Q-Former is written twice: for the whole clip and for utterances")
    if "image_qformer_config" in fields and "num_frame_positions" in fields:
        report.notes.append(
            "TimeChat's image Q-Former was trained on timestamps in LLaMA's token ids and is run on BERT's; train on"
        )
    if "audio_qformer_config" in fields:
        report.notes.append(
            "Video-LLaMA's audio branch was trained on ImageBind's image vectors, of norm 1; train on before use"
        )
    return tensors, report, fields


def lora_adapter(
    tensors: dict[str, torch.Tensor], alpha: float | None = None
) -> tuple[dict[str, torch.Tensor], dict] | None:
    """The LoRA weights among converted tensors as a PEFT adapter of the whole model: its tensors and configuration.

    Args:
        alpha: LoRA's scale, which weights do not tell; by default the rank, TimeChat's choice (32 and 32).
    """
    weights = {name: tensor for name, tensor in tensors.items() if name.startswith(LORA_PREFIX)}
    if not weights:
        return None
    rank = next(tensor.shape[0] for name, tensor in weights.items() if name.endswith("lora_A.weight"))
    projections = sorted({name.split(".")[-3] for name in weights})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": rank if alpha is None else alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        # The towers have projections of the same names: only those of the language model are meant.
        "target_modules": rf"model\.language_model\.layers\.\d+\.\w+\.({'|'.join(projections)})",
        "inference_mode": True,
    }
    return weights, config


def convert(
    files, output, allow_pickle: bool = False, head_size: int = 64, lora_alpha: float | None = None
) -> PartsReport:
    """Write the folder of parts, and LoRA weights as an adapter inside it; of several files the later one counts."""
    tensors, report, fields = convert_state_dict(read_checkpoints(files, allow_pickle), head_size)
    adapter = lora_adapter(tensors, lora_alpha)
    parts = {name: tensor for name, tensor in tensors.items() if not name.startswith(LORA_PREFIX)}
    write_folder(output, parts, {"model_type": PARTS_MODEL_TYPE, **fields}, report, adapter)
    return report
