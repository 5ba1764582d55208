"""Models from nothing, in two sizes: `tiny`, random and small enough for a CPU, and `paper`, as published.

`tiny` differs from `paper` in numbers only, never in structure: what runs at one size runs at the other.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from math import ceil

import torch
from transformers import (
    Blip2QFormerConfig,
    HubertConfig,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
    LlavaOnevisionConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
    VideoMAEConfig,
    ViTMAEConfig,
)

from .data.files import did_you_mean
from .modeling.configuration_acoustemo import AcoustEmoConfig
from .modeling.configuration_affectgpt import AffectGPTConfig
from .modeling.configuration_emotion import EmotionConfig
from .modeling.configuration_emotion_llama_v2 import EmotionLLaMAV2Config
from .modeling.configuration_esva import ESVAConfig
from .modeling.configuration_humanomni import HumanOmniConfig
from .modeling.configuration_imagebind_audio import ImageBindAudioConfig
from .modeling.configuration_microemo import MicroEmoConfig
from .modeling.configuration_omni_emotion import OmniEmotionConfig
from .modeling.modeling_acoustemo import AcoustEmoForConditionalGeneration
from .modeling.modeling_affectgpt import AffectGPTForConditionalGeneration
from .modeling.modeling_emotion import EmotionPreTrainedModel
from .modeling.modeling_emotion_llama_v2 import EmotionLLaMAV2ForConditionalGeneration
from .modeling.modeling_esva import ESVAForConditionalGeneration
from .modeling.modeling_humanomni import HumanOmniForConditionalGeneration
from .modeling.modeling_microemo import MicroEmoForConditionalGeneration
from .modeling.modeling_omni_emotion import OmniEmotionForConditionalGeneration
from .processing.processing_acoustemo import AcoustEmoProcessor
from .processing.processing_affectgpt import AffectGPTProcessor
from .processing.processing_emotion import EmotionProcessor
from .processing.processing_emotion_llama_v2 import EmotionLLaMAV2Processor
from .processing.processing_esva import ESVAProcessor
from .processing.processing_humanomni import HumanOmniProcessor
from .processing.processing_microemo import MicroEmoProcessor
from .processing.processing_omni_emotion import OmniEmotionProcessor

SIZES = ("tiny", "paper")


# Initial weights of tiny parts. The usual 0.02 keeps the variance of layers about 768 wide; at 64 it would leave hardly
# anything of a clip in the tokens, and training from nothing would not start.
TINY_RANGE = 0.1

# Every part at tiny size; `**TINY_QFORMER` also serves the papers' two-layer Q-Formers.
TINY_QFORMER = {
    "initializer_range": TINY_RANGE,
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
        initializer_range=TINY_RANGE,
    )


def tiny_imagebind() -> ImageBindAudioConfig:
    return ImageBindAudioConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        projection_dim=64,
        initializer_range=TINY_RANGE,
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
        initializer_range=TINY_RANGE,
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
            "initializer_range": TINY_RANGE,
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
            "initializer_range": TINY_RANGE,
            **fields,
        }
    )


def llava_onevision_7b() -> LlavaOnevisionConfig:
    """`llava-hf/llava-onevision-qwen2-7b-ov-hf`, as transformers' conversion script makes it from Qwen2-7B.

    The script adds SigLIP so400m without its pooling head and last layer (397,747,744 parameters), a projector of two
    layers (16,980,992), one newline vector (3,584), and to the vocabulary `<image>` and `<video>`, whose table it pads
    to the next multiple of 64 rows: 152,128 for 152,064, 458,752 parameters more with the head.
    """
    paper = OmniEmotionConfig()
    text_config = paper.text_config.to_dict()
    added = ("<image>", "<video>")
    text_config["vocab_size"] = 64 * ceil((text_config["vocab_size"] + len(added)) / 64)
    return LlavaOnevisionConfig(vision_config=paper.vision_config.to_dict(), text_config=text_config)


def omni_emotion_config(size: str, vocab_size: int | None = None, **fields) -> OmniEmotionConfig:
    """Configuration of Omni-Emotion at `"tiny"` or `"paper"` size; arguments as for `microemo_config`.

    At paper size the language model is Qwen2-7B as published, with its own vocabulary of 152,064: 7,615,616,512
    parameters with its head. What the base checkpoint adds to it says `llava_onevision_7b`; `from_pretrained_parts`
    takes the base's sizes. Whisper-large-v3 gives its encoder (636,968,960), FaceXFormer its Swin-B (86,743,224) and
    fusion (754,688).
    """
    check_size(size)
    if size == "paper":
        return OmniEmotionConfig(**fields)
    return OmniEmotionConfig(
        **{
            "vision_config": SiglipVisionConfig(
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                image_size=98,
                patch_size=14,
                vision_use_head=False,
            ),
            "initializer_range": TINY_RANGE,
            "audio_config": {
                "model_type": "whisper",
                "d_model": 64,
                "encoder_layers": 2,
                "encoder_attention_heads": 4,
                "encoder_ffn_dim": 128,
                "num_mel_bins": 128,
                "max_source_positions": 150,
                "init_std": TINY_RANGE,
            },
            "face_config": {
                "model_type": "facexformer",
                "backbone_config": {
                    "model_type": "swin",
                    "image_size": 64,
                    "embed_dim": 16,
                    "depths": [1, 1, 1, 1],
                    "num_heads": [1, 2, 4, 8],
                    "window_size": 2,
                    "drop_path_rate": 0.0,
                    "initializer_range": TINY_RANGE,
                },
                "hidden_size": 32,
            },
            "face_grid": 2,
            "text_config": Qwen2Config(
                vocab_size=vocab_size,
                hidden_size=128,
                intermediate_size=256,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=2048,
                initializer_range=TINY_RANGE,
            ),
            **fields,
        }
    )


# Table 6's "Emotion-LLaMA (Baseline)": ESVA without what it adds.
EMOTION_LLAMA = {"msfe_kernel_sizes": [], "use_alignment": False, "contrast_weight": 0.0}


def esva_config(size: str, vocab_size: int | None = None, **fields) -> ESVAConfig:
    """Configuration of ESVA at `"tiny"` or `"paper"` size; arguments as for `microemo_config`.

    `**EMOTION_LLAMA` among the fields makes it Emotion-LLaMA.
    """
    check_size(size)
    if size == "paper":
        return ESVAConfig(**{"text_config": llama_2_7b(), **fields})
    layers = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "initializer_range": TINY_RANGE,
    }
    return ESVAConfig(
        **{
            "vision_config": tiny_vision(),
            "face_config": ViTMAEConfig(image_size=32, patch_size=8, mask_ratio=0.0, **layers),
            "motion_config": VideoMAEConfig(
                image_size=32, patch_size=8, num_frames=16, use_mean_pooling=False, **layers
            ),
            "audio_config": HubertConfig(
                conv_dim=(32,) * 7,
                num_conv_pos_embeddings=16,
                num_conv_pos_embedding_groups=4,
                feat_extract_norm="layer",
                conv_bias=True,
                do_stable_layer_norm=True,
                hidden_dropout=0.0,
                attention_dropout=0.0,
                activation_dropout=0.0,
                feat_proj_dropout=0.0,
                layerdrop=0.0,
                apply_spec_augment=False,
                mask_time_prob=0.0,
                **layers,
            ),
            "alignment_size": 32,
            "contrast_size": 32,
            "text_config": tiny_llama(vocab_size),
            "initializer_range": TINY_RANGE,
            **fields,
        }
    )


def affectgpt_config(size: str, vocab_size: int | None = None, **fields) -> AffectGPTConfig:
    """Configuration of AffectGPT at `"tiny"` or `"paper"` size; arguments as for `microemo_config`."""
    check_size(size)
    if size == "paper":
        return AffectGPTConfig(**fields)
    layers = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = omni_emotion_config("tiny", vocab_size).text_config
    return AffectGPTConfig(
        **{
            "vision_config": {"model_type": "clip_vision_model", "image_size": 56, "patch_size": 14, **layers},
            "projection_dim": 48,
            "audio_config": esva_config("tiny", vocab_size).audio_config,
            "audio_layers": [-2, -1],
            "text_config": text,
            "initializer_range": TINY_RANGE,
            **fields,
        }
    )


def humanomni_config(size: str, vocab_size: int | None = None, **fields) -> HumanOmniConfig:
    """Configuration of HumanOmni at `"tiny"` or `"paper"` size (the 0.5B model); arguments as for `microemo_config`."""
    check_size(size)
    if size == "paper":
        return HumanOmniConfig(vision_config={"model_type": "siglip_vision_model", "vision_use_head": False}, **fields)
    omni = omni_emotion_config("tiny", vocab_size, face_config=None)
    return HumanOmniConfig(
        **{
            "vision_config": {**omni.vision_config.to_dict(), "image_size": 56, "num_hidden_layers": 3},
            "instruction_config": {
                "model_type": "bert",
                "vocab_size": vocab_size,
                "hidden_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "intermediate_size": 128,
                "max_position_embeddings": 64,
            },
            "gate_size": 32,
            "audio_config": omni.audio_config.to_dict(),
            "text_config": omni.text_config.to_dict(),
            "initializer_range": TINY_RANGE,
            **fields,
        }
    )


def emotion_llama_v2_config(size: str, vocab_size: int | None = None, **fields) -> EmotionLLaMAV2Config:
    """Configuration of Emotion-LLaMA-v2 at `"tiny"` or `"paper"` size; arguments as for `microemo_config`."""
    check_size(size)
    if size == "paper":
        return EmotionLLaMAV2Config(**{"text_config": llama_2_7b(), **fields})
    return EmotionLLaMAV2Config(
        **{
            "vision_config": tiny_vision(),
            "frame_config": {**tiny_vision().to_dict(), "image_size": 56},
            "audio_config": omni_emotion_config("tiny", vocab_size, face_config=None).audio_config,
            "num_frames": 4,
            "fusion_sizes": [48, 32],
            "fusion_size": 40,
            "fusion_dropout": 0.0,
            "text_config": tiny_llama(vocab_size),
            "initializer_range": TINY_RANGE,
            **fields,
        }
    )


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """The small tokenizer shipped with the package: 2,048 tokens, every byte among them."""
    return PreTrainedTokenizerFast(
        tokenizer_file=str(files("hf_emotion.processing") / "tiny_tokenizer.json"),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
    )


@dataclass(frozen=True)
class Paper:
    """What the command line needs to know of a paper: its configuration, its processor and its model.

    `tokenizers`: those that its processor takes, and that the paper size needs. `base`: name and configuration of the
    published checkpoint that the whole model starts from, where there is one.
    """

    config: Callable[..., EmotionConfig]
    processor: type[EmotionProcessor]
    model: type[EmotionPreTrainedModel]
    tokenizers: tuple[str, ...] = ("tokenizer",)
    base: tuple[str, Callable[[], PreTrainedConfig]] | None = None


PAPERS = {
    "microemo": Paper(
        microemo_config, MicroEmoProcessor, MicroEmoForConditionalGeneration, ("tokenizer", "qformer_tokenizer")
    ),
    "acoustemo": Paper(acoustemo_config, AcoustEmoProcessor, AcoustEmoForConditionalGeneration),
    "omni_emotion": Paper(
        omni_emotion_config,
        OmniEmotionProcessor,
        OmniEmotionForConditionalGeneration,
        base=("llava-hf/llava-onevision-qwen2-7b-ov-hf", llava_onevision_7b),
    ),
    "esva": Paper(esva_config, ESVAProcessor, ESVAForConditionalGeneration),
    "humanomni": Paper(
        humanomni_config,
        HumanOmniProcessor,
        HumanOmniForConditionalGeneration,
        ("tokenizer", "instruction_tokenizer"),
    ),
    "affectgpt": Paper(affectgpt_config, AffectGPTProcessor, AffectGPTForConditionalGeneration),
    "emotion_llama_v2": Paper(emotion_llama_v2_config, EmotionLLaMAV2Processor, EmotionLLaMAV2ForConditionalGeneration),
}


def split_fields(name: str, fields: Mapping) -> tuple[dict, dict]:
    """Split `fields` into those of a paper's configuration and settings of its processor, such as `window_seconds`.

    A name that both have goes to the configuration, from which the processor takes it.

    Raises:
        ValueError: the paper or a name is not known; it names the most similar one.
    """
    if name not in PAPERS:
        raise ValueError(f"model {name!r} is not known; accepted are {', '.join(PAPERS)}{did_you_mean(name, PAPERS)}")
    paper = PAPERS[name]
    components = {"self", "image_processor", "feature_extractor", "components"}
    settings = set(inspect.signature(paper.processor.__init__).parameters) - {*components, *paper.tokenizers}
    config_fields = {field.name for field in dataclasses.fields(paper.model.config_class)}
    for field in fields:
        if field not in config_fields | settings:
            own_fields = config_fields - {field.name for field in dataclasses.fields(PreTrainedConfig)} | settings
            hint = did_you_mean(field, own_fields) or f"; accepted are {', '.join(sorted(own_fields))}"
            raise ValueError(f"{name} has no field {field!r} in its configuration or processor{hint}")
    split = {True: {}, False: {}}
    for field, value in fields.items():
        split[field in config_fields][field] = value
    return split[True], split[False]


def build(name: str, size: str = "tiny", *, seed: int = 0, **options):
    """A model with random weights and its processor.

    Args:
        name: a paper: a key of `PAPERS`.
        size: `"tiny"` or `"paper"`. The paper size needs the paper's tokenizers; it holds billions of weights.
        seed: of the weights.
        options: `tokenizer` and the model's further tokenizers, such as `qformer_tokenizer`, at tiny size the shipped
            one by default; fields of the configuration, such as the ablations; and settings of the processor.

    Returns:
        the model, in eval mode, and its processor.

    Raises:
        ValueError: the name, the size or a field is not known, or the paper size comes without its tokenizers.
    """
    # Tokenizers that the model has no use for are left alone.
    fields = {field: value for field, value in options.items() if not field.endswith("tokenizer")}
    config_fields, settings = split_fields(name, fields)
    check_size(size)
    paper = PAPERS[name]
    tokenizers = {kind: options.get(kind) for kind in paper.tokenizers}
    if size == "paper" and None in tokenizers.values():
        raise ValueError(
            f"{name} at paper size needs its tokenizers: give {' and '.join(tokenizers)} (the language model's, and "
            f"BERT's for a Q-Former or an instruction), or assemble it from published checkpoints with "
            f"from_pretrained_parts"
        )
    vocab_size = len(tokenizers["tokenizer"] or tiny_tokenizer()) if size == "tiny" else None
    config = paper.config(size, **({} if vocab_size is None else {"vocab_size": vocab_size}), **config_fields)
    tokenizers = {kind: tokenizer or tiny_tokenizer() for kind, tokenizer in tokenizers.items()}
    processor = paper.processor.from_config(config, **tokenizers, **settings)
    torch.manual_seed(seed)
    model = paper.model(config).eval()
    set_special_tokens(model, processor)
    return model, processor


def set_special_tokens(model, processor, endings: Sequence[int] = ()) -> None:
    """Let a model generate with its processor's special tokens; it also stops at the ids `endings`."""
    for kind in ("pad_token_id", "bos_token_id", "eos_token_id"):
        token = getattr(processor.tokenizer, kind)
        setattr(model.generation_config, kind, token)
        # `Trainer` compares these too. A padding token beyond the embedding table would not load again.
        if token is not None and token < model.config.text_config.vocab_size:
            setattr(model.config.text_config, kind, token)
    others = [token for token in endings if token != processor.tokenizer.eos_token_id]
    if others:
        model.generation_config.eos_token_id = [processor.tokenizer.eos_token_id, *others]
