"""The two sizes every model comes in: `tiny`, random and small enough for a CPU, and `paper`, as published.

`tiny` differs from `paper` in numbers only, never in structure: what runs at one size runs at the other.
"""

from transformers import (
    Blip2QFormerConfig,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
)

from .modeling.configuration_imagebind_audio import ImageBindAudioConfig
from .modeling.configuration_microemo import MicroEmoConfig

SIZES = ("tiny", "paper")


def microemo_config(size: str, vocab_size: int | None = None, **fields) -> MicroEmoConfig:
    """Configuration of MicroEmo at `"tiny"` or `"paper"` size.

    Args:
        vocab_size: of the tiny language model and Q-Former: the shipped tokenizer's.
        fields: further fields of `MicroEmoConfig`, such as the ablations.
    """
    if size == "paper":
        # LLaMA-2-7B: 32 layers, 4096 wide, 32,000 tokens; 6,738,415,616 parameters with its head.
        text = LlamaConfig(vocab_size=32000, max_position_embeddings=4096, rms_norm_eps=1e-5)
        return MicroEmoConfig(text_config=text, **fields)
    if size != "tiny":
        raise ValueError(f"size {size!r} is not known; accepted are {', '.join(SIZES)}")
    qformer = {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return MicroEmoConfig(
        **{
            "vision_config": InstructBlipVisionConfig(
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                image_size=112,
                patch_size=14,
                initializer_range=0.02,
            ),
            "image_qformer_config": InstructBlipQFormerConfig(vocab_size=vocab_size, **qformer),
            "num_query_tokens": 8,
            "video_qformer_config": Blip2QFormerConfig(cross_attention_frequency=1, **qformer),
            "num_video_query_tokens": 8,
            "audio_config": ImageBindAudioConfig(
                hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, projection_dim=64
            ),
            "audio_qformer_config": Blip2QFormerConfig(cross_attention_frequency=1, **qformer),
            "num_audio_query_tokens": 4,
            "text_config": LlamaConfig(
                vocab_size=vocab_size,
                hidden_size=128,
                intermediate_size=256,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=4,
                max_position_embeddings=1024,
                rms_norm_eps=1e-5,
            ),
            "region_attention_size": 32,
            "region_attention_heads": 4,
            **fields,
        }
    )
