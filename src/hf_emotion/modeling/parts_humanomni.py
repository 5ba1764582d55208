"""HumanOmni and R1-Omni from a converted checkpoint and the published towers that it was trained with."""

import torch
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from .parts import (
    AUDIO_PREFIXES,
    Assembly,
    PartsError,
    audio_config_of,
    check_sources,
    check_tower,
    check_type,
    load_tower,
    trained_fields,
    vision_config_of,
)


def assemble_humanomni(
    cls,
    humanomni: str | None = None,
    vision: str | None = None,
    audio: str | None = None,
    config=None,
    dtype: torch.dtype | None = None,
    cache_dir: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    **overrides,
):
    """HumanOmni or R1-Omni from its parts.

    Args:
        cls: the generating class.
        humanomni: a folder that `hf-emotion convert humanomni` wrote: projector, gate, BERT and language model.
        vision: SigLIP: base at 224 pixels for the 0.5B models, so400m at 384 for the 7B.
        audio: a Whisper checkpoint; its encoder is taken.
        config: the model's configuration for what no part determines.
        dtype: of the whole model; by default the converted checkpoint's.
        cache_dir, token, local_files_only: as everywhere in huggingface_hub.
        overrides: fields of the configuration, such as `audio_config=None`.

    Returns:
        the model, in eval mode, and its `PartsReport`.

    Raises:
        PartsError: no converted checkpoint, a part cannot be read or has the wrong type, or two parts do not fit.
    """
    check_sources(cls, {"humanomni": humanomni, "vision": vision, "audio": audio}, overrides)
    if humanomni is None:
        raise PartsError("humanomni= is not given; accepted is a folder that `hf-emotion convert humanomni` wrote")
    hub = {"cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}
    trained, _ = trained_fields("humanomni", humanomni, cls, **hub)
    fields = {**({} if config is None else config.to_dict()), **trained}
    if vision is not None:
        vision_config = vision_config_of(vision, **hub)
        check_tower("vision", vision, vision_config, ("siglip_vision_model",))
        # The pooling head is not used.
        fields["vision_config"] = {**vision_config.to_dict(), "vision_use_head": False}
    if audio is not None:
        check_type("audio", audio, "whisper", **hub)
        fields["audio_config"] = audio_config_of(audio, **hub).to_dict()
    vocabulary = fields["text_config"]["vocab_size"]
    fields |= {"video_token_id": vocabulary, "audio_token_id": vocabulary + 1}
    config = cls.config_class.from_dict({**fields, **overrides})

    assembly = Assembly(cls, config)
    # First, because a checkpoint that contains towers was trained with them.
    assembly.take_trained("humanomni", humanomni, **hub)
    if vision is not None:
        tower = type(assembly.skeleton.model.vision_tower)
        assembly.take("vision", *load_tower(tower, vision, config.vision_config, "model.vision_tower.", {}, **hub))
    if audio is not None and config.audio_config is not None:
        part = load_tower(WhisperEncoder, audio, config.audio_config, "model.audio_tower.", AUDIO_PREFIXES, **hub)
        assembly.take("audio", *part)
    return assembly.finish(dtype or assembly.tensors["model.gate.0.weight"].dtype, **hub)


__all__ = ["assemble_humanomni"]
