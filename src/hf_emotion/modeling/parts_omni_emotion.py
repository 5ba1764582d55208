"""Omni-Emotion from published checkpoints: a LLaVA-OneVision, a Whisper and a converted FaceXFormer (section 4.4).

Unlike in the other papers' assembly, the base is one whole video language model. It is read with its own class, which
converts any saved layout to the names that our model shares with it.
"""

import torch
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from .configuration_facexformer import FaceXFormerConfig
from .modeling_facexformer import FaceXFormerModel
from .parts import (
    AUDIO_PREFIXES,
    ELSEWHERE,
    Assembly,
    PartsError,
    PartsReport,
    audio_config_of,
    check_sources,
    check_type,
    checked,
    load_tower,
    read_config,
    safetensors_names,
)


def load_video_llm(source: str, dtype=None, **hub) -> tuple[dict[str, torch.Tensor], PartsReport, torch.dtype]:
    """Read a LLaVA-OneVision checkpoint; the names in our model are the same.

    Raises:
        PartsError: no safetensors, or tensors of LLaVA-OneVision are missing.
    """
    source = checked(source)
    safetensors_names(source, **hub)
    model, info = LlavaOnevisionForConditionalGeneration.from_pretrained(
        source, dtype=dtype or "auto", use_safetensors=True, output_loading_info=True, **hub
    )
    missing = set(info["missing_keys"]) - set(model._tied_weights_keys if model.config.tie_word_embeddings else ())
    if missing:
        raise PartsError(f"the video language model {source!r} lacks {sorted(missing)[0]}")
    tensors = model.state_dict()
    report = PartsReport(loaded=dict.fromkeys(tensors, source))
    report.ignored = {f"{name} ({source})": ELSEWHERE for name in info["unexpected_keys"]}
    report.parameters = {name: tensor.numel() for name, tensor in tensors.items()}
    return dict(tensors), report, model.dtype


def assemble_omni_emotion(
    cls,
    video_llm: str | None = None,
    audio: str | None = None,
    face: str | None = None,
    config=None,
    dtype: torch.dtype | None = None,
    cache_dir: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    **overrides,
):
    """Omni-Emotion from checkpoints of its parts, as it stands before phase 1 (4.4).

    Args:
        cls: the generating class.
        video_llm: a LLaVA-OneVision checkpoint: vision tower, projector, newline and language model.
        audio: a Whisper checkpoint; its encoder is taken.
        face: a folder of `convert_facexformer_to_hf`.
        config: the model's configuration for what no part determines; the paper's by default.
        dtype: of the whole model; by default the video language model's, or float32 without one.
        cache_dir, token, local_files_only: as everywhere in huggingface_hub.
        overrides: fields of the configuration, such as `fusion="frame_concat"` or `face_config=None`.

    Returns:
        the model, in eval mode, and its `PartsReport`. Parts not given are new.

    Raises:
        PartsError: no part given, a part cannot be read or has the wrong type, or two parts do not fit.
    """
    check_sources(cls, {"video_llm": video_llm, "audio": audio, "face": face}, overrides)
    hub = {"cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}

    fields = {} if config is None else config.to_dict()
    if video_llm is not None:
        check_type("video_llm", video_llm, LlavaOnevisionConfig.model_type, **hub)
        base = LlavaOnevisionConfig.from_pretrained(video_llm, **hub)
        fields["vision_config"], fields["text_config"] = base.vision_config.to_dict(), base.text_config.to_dict()
        for name in ("vision_feature_layer", "projector_hidden_act", "multimodal_projector_bias"):
            fields[name] = getattr(base, name)
        fields["tie_word_embeddings"] = base.tie_word_embeddings
        # Its placeholder is reused; the two new ones lie beyond the vocabulary until a tokenizer defines them.
        fields["video_token_id"] = base.video_token_index
        fields["audio_token_id"], fields["face_token_id"] = (base.text_config.vocab_size + i for i in range(2))
    if audio is not None:
        check_type("audio", audio, "whisper", **hub)
        fields["audio_config"] = audio_config_of(audio, **hub).to_dict()
    if face is not None:
        check_type("face", face, FaceXFormerConfig.model_type, **hub)
        fields["face_config"] = read_config(face, **hub)
    config = cls.config_class.from_dict({**fields, **overrides})

    assembly = Assembly(cls, config)
    if video_llm is not None:
        tensors, part_report, base_dtype = load_video_llm(video_llm, dtype, **hub)
        assembly.take("video_llm", tensors, part_report)
        dtype = dtype or base_dtype
    if audio is not None and config.audio_config is not None:
        part = load_tower(WhisperEncoder, audio, config.audio_config, "model.audio_tower.", AUDIO_PREFIXES, **hub)
        assembly.take("audio", *part)
    if face is not None and config.face_config is not None:
        # With its own class: transformers saves Swin under older names than it uses in memory.
        assembly.take("face", *load_tower(FaceXFormerModel, face, config.face_config, "model.face_tower.", {}, **hub))

    return assembly.finish(dtype, **hub)


__all__ = ["assemble_omni_emotion"]
