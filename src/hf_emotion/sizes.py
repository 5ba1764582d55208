"""The two sizes every model comes in: `tiny`, random and small enough for a CPU, and `paper`, as published.

`tiny` differs from `paper` in numbers only, never in structure: what runs at one size runs at the other.
"""

from transformers import (
    Blip2QFormerConfig,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
)

from .modeling.configuration_acoustemo import AcoustEmoConfig
from .modeling.configuration_imagebind_audio import ImageBindAudioConfig
from .modeling.configuration_microemo import MicroEmoConfig

SIZES = ("tiny", "paper")


# Every part at tiny size; `**TINY_QFORMER` also serves the papers' two-layer Q-Formers.
TINY_QFORMER = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def tiny_vision() -> InstructBlipVisionConfig:
    return InstructBlipVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=112,
        patch_size=14,
        initializer_range=0.02,
    )


def tiny_imagebind() -> ImageBindAudioConfig:
    return ImageBindAudioConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, projection_dim=64
    )


def tiny_llama(vocab_size: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        rms_norm_eps=1e-5,
    )


def llama_2_7b() -> LlamaConfig:
    """32 layers, 4096 wide, 32,000 tokens: 6,738,415,616 parameters with its head."""
    return LlamaConfig(vocab_size=32000, max_position_embeddings=4096, rms_norm_eps=1e-5)


def check_size(size: str) -> None:
    if size not in SIZES:
        raise ValueError(f"size {size!r} is not known; accepted are {', '.join(SIZES)}")


def microemo_config(size: str, vocab_size: int | None = None, **fields) -> MicroEmoConfig:
    """Configuration of MicroEmo at `"tiny"` or `"paper"` size.

    Args:
        vocab_size: of the tiny language model and Q-Former: the shipped tokenizer's.
        fields: further fields of `MicroEmoConfig`, such as the ablations.
    """
    check_size(size)
    if size == "paper":
        return MicroEmoConfig(**{"text_config": llama_2_7b(), **fields})
    return MicroEmoConfig(
        **{
            "vision_config": tiny_vision(),
            "image_qformer_config": InstructBlipQFormerConfig(vocab_size=vocab_size, **TINY_QFORMER),
            "num_query_tokens": 8,
            "video_qformer_config": Blip2QFormerConfig(cross_attention_frequency=1, **TINY_QFORMER),
            "num_video_query_tokens": 8,
            "audio_config": tiny_imagebind(),
            "audio_qformer_config": Blip2QFormerConfig(cross_attention_frequency=1, **TINY_QFORMER),
            "num_audio_query_tokens": 4,
            "text_config": tiny_llama(vocab_size),
            "region_attention_size": 32,
            "region_attention_heads": 4,
            **fields,
        }
    )


def acoustemo_config(size: str, vocab_size: int | None = None, **fields) -> AcoustEmoConfig:
    """Configuration of AcoustEmo at `"tiny"` or `"paper"` size; arguments as for `microemo_config`."""
    check_size(size)
    if size == "paper":
        return AcoustEmoConfig(**{"text_config": llama_2_7b(), **fields})
    return AcoustEmoConfig(
        **{
            "vision_config": tiny_vision(),
            "image_qformer_config": Blip2QFormerConfig(**TINY_QFORMER),
            "num_query_tokens": 4,
            "audio_config": tiny_imagebind(),
            "num_audio_positions": 64,
            "acoustic_qformer_config": Blip2QFormerConfig(cross_attention_frequency=1, **TINY_QFORMER),
            "num_audio_query_tokens": 8,
            "text_config": tiny_llama(vocab_size),
            **fields,
        }
    )
