"""AffectGPT from a converted checkpoint and the published encoders and language model that it was trained with."""

import torch

from .parts import (
    Assembly,
    PartsError,
    audio_config_of,
    check_sources,
    check_tower,
    load_language_model,
    load_part,
    load_tower,
    read_config,
    text_fields,
    trained_fields,
    vision_config_of,
)


def assemble_affectgpt(
    cls,
    affectgpt: str | None = None,
    vision: str | None = None,
    audio: str | None = None,
    text: str | None = None,
    config=None,
    dtype: torch.dtype | None = None,
    cache_dir: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    **overrides,
):
    """AffectGPT from its parts.

    Args:
        cls: the generating class.
        affectgpt: a folder that `hf-emotion convert affectgpt` wrote: projectors, fusion, and LoRA weights that are
            added to the language model.
        vision: a whole CLIP checkpoint (openai/clip-vit-large-patch14), for its vision tower and projection.
        audio: a HuBERT checkpoint (TencentGameMate/chinese-hubert-large).
        text: the language model (Qwen/Qwen2.5-7B-Instruct).
        config: the model's configuration for what no part determines.
        dtype: of the whole model; by default the language model's.
        cache_dir, token, local_files_only: as everywhere in huggingface_hub.
        overrides: fields of the configuration.

    Returns:
        the model, in eval mode, and its `PartsReport`. Parts not given are new.

    Raises:
        PartsError: no part given, a part cannot be read or has the wrong type, or two parts do not fit.
    """
    check_sources(cls, {"affectgpt": affectgpt, "vision": vision, "audio": audio, "text": text}, overrides)
    hub = {"cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}
    fields = {} if config is None else config.to_dict()
    trained: dict = {}
    if affectgpt is not None:
        values, trained = trained_fields("affectgpt", affectgpt, cls, **hub)
        fields.update(values)
    if vision is not None:
        whole = read_config(vision, **hub)
        if whole.get("model_type") != "clip":
            raise PartsError(
                f"{vision!r} is a {whole.get('model_type')!r} checkpoint; accepted for vision is a whole 'clip' one, "
                f"which includes the image projection"
            )
        fields["vision_config"] = vision_config_of(vision, **hub).to_dict()
        fields["projection_dim"] = whole.get("projection_dim", 512)
    if audio is not None:
        audio_config = audio_config_of(audio, **hub)
        check_tower("audio", audio, audio_config, ("hubert",))
        fields["audio_config"] = audio_config.to_dict()
    if text is not None:
        fields |= text_fields(text, **hub)
    config = cls.config_class.from_dict({**fields, **overrides})

    assembly = Assembly(cls, config)
    lora = {} if affectgpt is None else assembly.take_trained("affectgpt", affectgpt, **hub)
    if vision is not None:
        tower = type(assembly.skeleton.model.vision_tower)
        assembly.take("vision", *load_tower(tower, vision, config.vision_config, "model.vision_tower.", {}, **hub))
        assembly.take("vision", *load_part(vision, {"visual_projection.": "model.visual_projection."}, **hub))
    if audio is not None:
        tower = type(assembly.skeleton.model.audio_tower)
        assembly.take("audio", *load_tower(tower, audio, config.audio_config, "model.audio_tower.", {}, **hub))
    if text is not None:
        tensors, text_report, text_dtype = load_language_model(text, dtype, **hub)
        assembly.take("text", tensors, text_report)
        dtype = dtype or text_dtype
    if lora:
        assembly.merge(lora, trained["lora_alpha"])
    return assembly.finish(dtype, **hub)


__all__ = ["assemble_affectgpt"]
