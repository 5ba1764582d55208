"""ESVA from published checkpoints of its four encoders and its language model (3.1, 3.2).

Unlike in the other papers' assembly, EVA was trained at 224 pixels and runs at 448 here, so its positions are
interpolated, as Emotion-LLaMA does when it loads them.
"""

import torch
from torch.nn import functional
from transformers import AutoConfig, InstructBlipVisionConfig, ViTMAEModel

from .parts import (
    AUDIO_PREFIXES,
    AUDIO_TOWERS,
    ONE_CLASS_TOKEN,
    VISION_PREFIXES,
    Assembly,
    audio_config_of,
    check_sources,
    check_tower,
    check_type,
    load_language_model,
    load_tower,
    text_fields,
    trained_fields,
    vision_config_of,
)


def interpolate_positions(positions, side):
    """Learned positions for a square of another size: (1, 1 + P, D) -> (1, 1 + side ** 2, D), bicubic; the class
    token's position is unchanged."""
    trained_side = round((positions.shape[1] - 1) ** 0.5)
    grid = positions[:, 1:].unflatten(1, (trained_side, trained_side)).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid.float(), size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)], dim=1)


def interpolated(tensors, report, place, config):
    """The tensors and the report of an EVA tower at `place`, its positions fitted to the image size of `config`."""
    name = f"{place}embeddings.position_embedding"
    side = config.image_size // config.patch_size
    if name in tensors and tensors[name].shape[1] != 1 + side**2:
        tensors[name] = interpolate_positions(tensors[name], side)
        report.notes.append(
            f"the positions of the vision tower are interpolated to {config.image_size} pixels, bicubic"
        )
    return tensors, report


def assemble_esva(
    cls,
    vision: str | None = None,
    face: str | None = None,
    motion: str | None = None,
    audio: str | None = None,
    text: str | None = None,
    emotion_llama: str | None = None,
    image_size: int = 448,
    config=None,
    dtype: torch.dtype | None = None,
    cache_dir: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    **overrides,
):
    """ESVA from checkpoints of its parts, before any training: its projectors, MSFE, alignment and contrast are new.

    Args:
        cls: the generating class.
        vision: EVA ViT-g: an InstructBLIP or BLIP-2 checkpoint, or a folder of `convert_eva_vit_to_hf`; or any vision
            model of transformers whose first token is a class token, at its own size.
        face: an MAE checkpoint (`vit_mae`), with or without its decoder.
        motion: a VideoMAE checkpoint.
        audio: any audio encoder of transformers; the paper's is a HuBERT-large.
        text: any causal language model of transformers.
        emotion_llama: a folder that `hf-emotion convert emotion-llama` wrote: projectors, and LoRA weights that are
            added to the language model (`text`), LLaMA-2-7B-chat's. It switches MSFE, alignment and contrast off.
        image_size: EVA's input size in pixels: "448", as in Emotion-LLaMA.
        config: the model's configuration for what no part determines; the paper's by default.
        dtype: of the whole model; by default the language model's, or float32 without one.
        cache_dir, token, local_files_only: as everywhere in huggingface_hub.
        overrides: fields of the configuration, such as `face_config=None`.

    Returns:
        the model, in eval mode, and its `PartsReport`. Parts not given are new.

    Raises:
        PartsError: no part given, a part cannot be read or has the wrong type, or two parts do not fit.
    """
    sources = {"vision": vision, "face": face, "motion": motion, "audio": audio, "text": text}
    sources["emotion_llama"] = emotion_llama
    check_sources(cls, sources, overrides)
    hub = {"cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}

    fields = {} if config is None else config.to_dict()
    trained: dict = {}
    if emotion_llama is not None:
        trained_values, trained = trained_fields("emotion_llama", emotion_llama, cls, **hub)
        fields.update(trained_values)
    if vision is not None:
        vision_config = vision_config_of(vision, **hub)
        check_tower("vision", vision, vision_config, ONE_CLASS_TOKEN)
        fields["vision_config"] = vision_config.to_dict()
        if fields["vision_config"]["model_type"] == InstructBlipVisionConfig.model_type:
            fields["vision_config"]["image_size"] = image_size
        else:
            fields["vision_post_layernorm_eps"] = None
    for name, source, accepted in (("face", face, "vit_mae"), ("motion", motion, "videomae")):
        if source is not None:
            check_type(name, source, accepted, **hub)
            tower_config = AutoConfig.from_pretrained(source, trust_remote_code=False, **hub)
            fields[f"{name}_config"] = tower_config.to_dict()
    if audio is not None:
        audio_config = audio_config_of(audio, **hub)
        check_tower("audio", audio, audio_config, AUDIO_TOWERS)
        fields["audio_config"] = audio_config.to_dict()
        # The tower's own rate.
        fields.pop("audio_frame_rate", None)
    if text is not None:
        fields |= text_fields(text, **hub)
    config = cls.config_class.from_dict({**fields, **overrides})

    assembly = Assembly(cls, config)
    # First, because it has the last LayerNorm of EVA as the weights were trained with.
    lora = {} if emotion_llama is None else assembly.take_trained("emotion_llama", emotion_llama, **hub)
    for part, source, known in (
        ("vision", vision, VISION_PREFIXES),
        ("face", face, {}),
        ("motion", motion, {}),
        ("audio", audio, AUDIO_PREFIXES),
    ):
        tower_config = getattr(config, f"{part}_config")
        if source is not None and tower_config is not None:
            # MAE with its own class: transformers then renames published weights, whose names are older.
            tower = ViTMAEModel if part == "face" else type(getattr(assembly.skeleton.model, f"{part}_tower"))
            place = f"model.{part}_tower."
            taken = load_tower(tower, source, tower_config, place, known, **hub)
            assembly.take(part, *(interpolated(*taken, place, tower_config) if part == "vision" else taken))
    if text is not None:
        tensors, text_report, text_dtype = load_language_model(text, dtype, **hub)
        assembly.take("text", tensors, text_report)
        dtype = dtype or text_dtype
    if lora:
        assembly.merge(lora, trained["lora_alpha"])
    for name in ("face", "motion"):
        if getattr(config, f"{name}_config") is None and getattr(config, f"{name}_feature_size") is not None:
            assembly.report.notes.append(f"there is no {name} encoder: its projector reads zeros for every clip")

    return assembly.finish(dtype, **hub)


__all__ = ["assemble_esva", "interpolated"]
