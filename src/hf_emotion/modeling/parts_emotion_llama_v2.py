"""Emotion-LLaMA-v2 from a converted checkpoint and the published encoders and language model it was trained with."""

import torch
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from .parts import (
    AUDIO_PREFIXES,
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
from .parts_esva import interpolated

EVA = ("instructblip_vision_model",)


def assemble_emotion_llama_v2(
    cls,
    emotion_llama_v2: str | None = None,
    vision: str | None = None,
    frames: str | None = None,
    audio: str | None = None,
    text: str | None = None,
    image_size: int = 448,
    config=None,
    dtype: torch.dtype | None = None,
    cache_dir: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    **overrides,
):
    """Emotion-LLaMA-v2 from its parts.

    Args:
        cls: the generating class.
        emotion_llama_v2: a folder that `hf-emotion convert emotion-llama-v2` wrote: projectors, fusion, and LoRA
            weights that are added to the language model.
        vision: EVA ViT-g of 39 blocks, for the key frame: an InstructBLIP checkpoint or a folder of `hf-emotion convert
            eva-vit`.
        frames: EVA ViT-g of 40 blocks, for the frames: a folder of `hf-emotion convert eva-vit --set all_blocks=true`.
        audio: a Whisper checkpoint; its encoder is taken.
        text: the language model (meta-llama/Llama-2-7b-chat-hf).
        image_size: pixels of the key frame's side.
        config: the model's configuration for what no part determines.
        dtype: of the whole model; by default the language model's.
        cache_dir, token, local_files_only: as everywhere in huggingface_hub.
        overrides: fields of the configuration.

    Returns:
        the model, in eval mode, and its `PartsReport`. Parts not given are new.

    Raises:
        PartsError: no part given, a part cannot be read or has the wrong type, or two parts do not fit.
    """
    sources = {"emotion_llama_v2": emotion_llama_v2, "vision": vision, "frames": frames, "audio": audio, "text": text}
    check_sources(cls, sources, overrides)
    hub = {"cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}
    fields = {} if config is None else config.to_dict()
    trained: dict = {}
    if emotion_llama_v2 is not None:
        values, trained = trained_fields("emotion_llama_v2", emotion_llama_v2, cls, **hub)
        fields.update(values)
    for name, source in (("vision", vision), ("frame", frames)):
        if source is not None:
            tower_config = vision_config_of(source, **hub)
            check_tower(name, source, tower_config, EVA)
            fields[f"{name}_config"] = tower_config.to_dict()
    if vision is not None:
        fields["vision_config"]["image_size"] = image_size
    if audio is not None:
        check_type("audio", audio, "whisper", **hub)
        fields["audio_config"] = audio_config_of(audio, **hub).to_dict()
    if text is not None:
        fields |= text_fields(text, **hub)
    config = cls.config_class.from_dict({**fields, **overrides})

    assembly = Assembly(cls, config)
    # First, because it has the last LayerNorm of the key frame's tower as the weights were trained with.
    lora = {} if emotion_llama_v2 is None else assembly.take_trained("emotion_llama_v2", emotion_llama_v2, **hub)
    for name, source in (("vision", vision), ("frame", frames)):
        if source is not None:
            place, tower = f"model.{name}_tower.", type(getattr(assembly.skeleton.model, f"{name}_tower"))
            tower_config = getattr(config, f"{name}_config")
            part = load_tower(tower, source, tower_config, place, VISION_PREFIXES, **hub)
            assembly.take(name, *interpolated(*part, place, tower_config))
    if audio is not None:
        part = load_tower(WhisperEncoder, audio, config.audio_config, "model.audio_tower.", AUDIO_PREFIXES, **hub)
        assembly.take("audio", *part)
    if text is not None:
        tensors, text_report, text_dtype = load_language_model(text, dtype, **hub)
        assembly.take("text", tensors, text_report)
        dtype = dtype or text_dtype
    if lora:
        assembly.merge(lora, trained["lora_alpha"])
    return assembly.finish(dtype, **hub)


__all__ = ["assemble_emotion_llama_v2"]
