"""Tiny published parts: folders as the Hub has them, with weights, preprocessing, tokenizer and chat template."""

from importlib.resources import files

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    CLIPImageProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
    Wav2Vec2FeatureExtractor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
CONVOLUTIONS = {
    "conv_dim": (32,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "mask_time_prob": 0.0,
    "apply_spec_augment": False,
}
WHISPER = {"d_model": 32, "num_mel_bins": 80, "max_source_positions": 100}
WHISPER |= {f"{half}_layers": 2 for half in ("encoder", "decoder")}
WHISPER |= {f"{half}_attention_heads": 4 for half in ("encoder", "decoder")}
WHISPER |= {f"{half}_ffn_dim": 64 for half in ("encoder", "decoder")}
CHATML = (
    "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def make_tokenizer(chat_template=CHATML, marks=("<|im_start|>", "<|im_end|>")):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(files("hf_emotion.processing") / "tiny_tokenizer.json"),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=chat_template,
    )
    tokenizer.add_tokens(list(marks), special_tokens=True)
    return tokenizer


def vision_part(folder, model_type="siglip_vision_model", image_size=56):
    """A vision model with the preprocessing that its published checkpoints have."""
    torch.manual_seed(0)
    AutoModel.from_config(
        AutoConfig.for_model(model_type, image_size=image_size, patch_size=14, **LAYERS)
    ).save_pretrained(folder)
    size = {"height": image_size, "width": image_size}
    if model_type == "siglip_vision_model":
        SiglipImageProcessor(size=size).save_pretrained(folder)
    else:
        CLIPImageProcessor(size={"shortest_edge": image_size}, crop_size=size).save_pretrained(folder)
    return str(folder)


def audio_part(folder, model_type="whisper"):
    """An audio model with its feature extractor."""
    torch.manual_seed(1)
    if model_type == "whisper":
        config = WhisperConfig(
            vocab_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, **WHISPER
        )
        WhisperForConditionalGeneration(config).save_pretrained(folder)
        WhisperFeatureExtractor(feature_size=80, chunk_length=2).save_pretrained(folder)
    else:
        AutoModel.from_config(AutoConfig.for_model(model_type, **CONVOLUTIONS, **LAYERS)).save_pretrained(folder)
        Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=False).save_pretrained(folder)
    return str(folder)


def text_part(folder, model_type="qwen3", chat_template=CHATML):
    """A language model with its tokenizer; its vocabulary is longer than the tokenizer's, as published ones are."""
    torch.manual_seed(2)
    tokenizer = make_tokenizer(chat_template)
    config = AutoConfig.for_model(
        model_type, vocab_size=2112, num_key_value_heads=2, head_dim=8, max_position_embeddings=2048,
        initializer_range=0.1, bos_token_id=1, eos_token_id=2, pad_token_id=0, **LAYERS,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
