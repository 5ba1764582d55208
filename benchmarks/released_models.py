"""Whole released models beside ours, for `compare_with_originals.py`: the authors' classes at random weights.

What cannot be installed or was moved by transformers 5 is replaced by a stand-in, each named where it is made. Every
comparison ends in greedy generation; its row counts tokens that differ. `manifest` rows are made on the meta device at
the published size: the names and shapes that the authors' code would save go through our converter, and the row counts
the tensors of our model that are then missing, left over or of another shape.
"""

import contextlib
import functools
import importlib
import types
from importlib.resources import files

import peft
import torch
from compare_with_originals import DTYPES, largest, module, noise, originals, randomise
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_emotion.convert import convert_emotion_llama_to_hf as emotion_llama
from hf_emotion.convert import convert_eva_vit_to_hf as eva
from hf_emotion.modeling.configuration_esva import ESVAConfig
from hf_emotion.modeling.modeling_esva import ESVAForConditionalGeneration
from hf_emotion.modeling.parts import LORA, Assembly
from hf_emotion.processing.processing_esva import CHAT_TEMPLATE

NEW_TOKENS = 8


def tiny_tokenizer():
    return PreTrainedTokenizerFast(
        tokenizer_file=str(files("hf_emotion.processing") / "tiny_tokenizer.json"),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
    )


def set_dtype(dtype, *models):
    for model in models:
        model.to(dtype)


def generated(model, **inputs):
    """Greedy ids behind the prompt, not stopped by any token."""
    length = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    options = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False, "pad_token_id": 0}
    return model.generate(**inputs, **options)[:, length:]


@contextlib.contextmanager
def without_memory():
    """Modules made inside lie on the meta device; the originals read numbers off `torch.linspace`, which stays real."""
    linspace, torch.linspace = torch.linspace, functools.partial(torch.linspace, device="cpu")
    try:
        with torch.device("meta"):
            yield
    finally:
        torch.linspace = linspace


def saved_by_lavis(model):
    """What the LAVIS family's runners save: trained parameters and buffers."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


def import_emotion_llama(checkout):
    """`MiniGPTv2` of Emotion-LLaMA. Stand-ins: omegaconf, timm (drop path, initialisers), the registry, downloads, the
    Q-Former and the conversation, which its class imports and does not use, and its copy of transformers' LLaMA."""
    own = {
        "minigpt4": module("minigpt4", checkout / "minigpt4"),
        "minigpt4.models": module("minigpt4.models", checkout / "minigpt4" / "models"),
        "minigpt4.common": module("minigpt4.common"),
        "minigpt4.common.registry": module(
            "minigpt4.common.registry", registry=types.SimpleNamespace(register_model=lambda name: lambda cls: cls)
        ),
        "minigpt4.common.dist_utils": module("minigpt4.common.dist_utils", download_cached_file=None),
        "minigpt4.common.utils": module("minigpt4.common.utils", get_abs_path=None, is_url=None),
        "minigpt4.conversation": module("minigpt4.conversation"),
        "minigpt4.conversation.conversation": module("minigpt4.conversation.conversation", StoppingCriteriaSub=None),
        "minigpt4.models.modeling_llama": module("minigpt4.models.modeling_llama", LlamaForCausalLM=LlamaForCausalLM),
        "minigpt4.models.Qformer": module("minigpt4.models.Qformer", BertConfig=None, BertLMHeadModel=None),
    }
    layers = {"drop_path": None, "to_2tuple": lambda x: (x, x), "trunc_normal_": nn.init.trunc_normal_}
    foreign = {
        "omegaconf": module("omegaconf", OmegaConf=None),
        "timm": module("timm"),
        "timm.models": module("timm.models"),
        "timm.models.layers": module("timm.models.layers", **layers),
        "timm.models.registry": module("timm.models.registry", register_model=lambda function: function),
    }
    with originals(own, foreign), present(peft, prepare_model_for_int8_training=lambda model: model):
        code = importlib.import_module("minigpt4.models.minigpt_v2")
        towers = importlib.import_module("minigpt4.models.eva_vit")
    return code.MiniGPTv2, towers.VisionTransformer


@contextlib.contextmanager
def present(package, **names):
    """Names that a package has dropped."""
    added = {name: value for name, value in names.items() if not hasattr(package, name)}
    for name, value in added.items():
        setattr(package, name, value)
    try:
        yield
    finally:
        for name in added:
            delattr(package, name)


def make_emotion_llama(checkout, text_config, image_size, depth):
    """The authors' model: their constructor, with a language model and a vision tower of the sizes given."""
    base_class, tower_class = import_emotion_llama(checkout)

    class Sized(base_class):
        def init_llm(self, **options):
            language_model = LlamaForCausalLM(text_config).requires_grad_(False)
            lora = peft.LoraConfig(
                r=options["lora_r"], lora_alpha=options["lora_alpha"], lora_dropout=options["lora_dropout"],
                target_modules=options["lora_target_modules"], bias="none", task_type="CAUSAL_LM",
            )  # fmt: skip
            tokenizer = tiny_tokenizer()
            return peft.get_peft_model(language_model, lora), tokenizer

        def init_vision_encoder(self, *args):
            tower = tower_class(
                img_size=image_size, patch_size=14, use_mean_pooling=False, embed_dim=1408, depth=depth, num_heads=16,
                mlp_ratio=4.3637, qkv_bias=True, norm_layer=functools.partial(nn.LayerNorm, eps=1e-6),
            )  # fmt: skip
            # theirs casts to float32 inside, which float64 could not be compared through
            return tower.requires_grad_(False), nn.LayerNorm(1408).requires_grad_(False)

    return Sized(img_size=image_size, lora_r=64 if text_config.hidden_size > 64 else 4, lora_alpha=16)


def ours_from_emotion_llama(peer, text_config, image_size, depth):
    """Our model in assembly, with the peer's weights through the converters."""
    tensors, _, fields = emotion_llama.convert_state_dict(saved_by_lavis(peer))
    vision = {f"visual_encoder.{name}": tensor for name, tensor in peer.visual_encoder.state_dict().items()}
    vision |= {f"ln_vision.{name}": tensor for name, tensor in peer.ln_vision.state_dict().items()}
    vision_tensors, _, vision_config = eva.convert_state_dict(vision, num_attention_heads=16)
    config = ESVAConfig(
        vision_config=vision_config.to_dict(),
        audio_config={
            "model_type": "hubert",
            "hidden_size": 1024,
            "num_hidden_layers": 1,
            "num_attention_heads": 16,
            "intermediate_size": 8,
        },
        text_config=text_config.to_dict(),
        video_token_id=text_config.vocab_size,
        audio_token_id=text_config.vocab_size + 1,
        **fields,
    )
    assembly = Assembly(ESVAForConditionalGeneration, config)
    assembly.tensors.update({name: tensor for name, tensor in tensors.items() if not name.startswith(LORA)})
    assembly.tensors.update({f"model.vision_tower.{name}": tensor for name, tensor in vision_tensors.items()})
    base = peer.llama_model.get_base_model().state_dict()
    for name, tensor in base.items():
        if "lora_" not in name:
            plain = name.replace(".base_layer.", ".")
            ours = plain if plain.startswith("lm_head") else "model.language_model." + plain.removeprefix("model.")
            assembly.tensors[ours] = tensor
    assembly.merge({name: tensor for name, tensor in tensors.items() if name.startswith(LORA)}, 16)
    return assembly


def compare_emotion_llama(checkout):
    """First frame, features and prompt to logits: one EVA block of width 1,408, LLaMA of two layers of width 64."""
    text_config = LlamaConfig(
        vocab_size=2048, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        rms_norm_eps=1e-5, attn_implementation="eager",
    )  # fmt: skip
    peer = randomise(make_emotion_llama(checkout, text_config, 56, 1), 11)
    with torch.no_grad():
        for parameter in peer.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5 / parameter[0].numel() ** 0.5)
    # LoRA is added to the weights once; in float64, so that both precisions start from the same sums
    assembly = ours_from_emotion_llama(peer.double(), text_config, 56, 1)
    missing = [name for name in assembly.expected if name not in assembly.tensors and ".audio_tower." not in name]
    assert not missing, missing
    model = ESVAForConditionalGeneration(assembly.config).double().eval()
    model.load_state_dict(assembly.tensors, strict=False)
    tokenizer = peer.llama_tokenizer
    line, question = "I did not expect that.", "[reason] Why does he look away?"
    said = f"The person in video says: {line}  {question}"
    theirs = f"[INST] <video><VideoHere></video> <feature><FeatureHere></feature> {said} [/INST]"
    content = [{"type": "video"}, {"type": "audio"}, {"type": "utterances", "line": line.removesuffix(".")}]
    message = {"role": "user", "content": [*content, {"type": "text", "text": question}]}
    written = tokenizer.apply_chat_template([message], chat_template=CHAT_TEMPLATE, tokenize=False)
    assert written == tokenizer.bos_token + theirs.replace("<FeatureHere>", "<AudioHere>")
    video, audio = assembly.config.video_token_id, assembly.config.audio_token_id
    pieces = written.replace("<AudioHere>", "<VideoHere>").split("<VideoHere>")
    media = [[video] * 4, [video, video, audio, video], []]
    ids = [token for piece, tokens in zip(pieces, media, strict=True)
           for token in [*tokenizer(piece, add_special_tokens=False).input_ids, *tokens]]  # fmt: skip
    for name, dtype in reversed(DTYPES.items()):
        set_dtype(dtype, peer, model)
        pixels, voice = noise(2, 3, 56, 56, dtype=dtype), noise(2, 1, 1024, seed=1, dtype=dtype)
        features = torch.cat([voice.new_zeros(2, 2, 1024), voice], dim=1)
        with torch.no_grad():
            tokens, mask = peer.encode_img(pixels, features)
            embeds, _ = peer.prompt_wrap(tokens, mask, [theirs] * 2)
            start = peer.embed_tokens(torch.full((2, 1), tokenizer.bos_token_id))
            embeds = torch.cat([start, embeds], dim=1)
            inputs = {
                "input_ids": torch.tensor([ids] * 2),
                "attention_mask": torch.ones(2, len(ids), dtype=torch.long),
                "pixel_values_videos": pixels[:, None],
                "video_times": torch.zeros(2, 1, dtype=torch.long),
                "audio_features": voice,
                "audio_attention_mask": torch.ones(2, 1, dtype=torch.bool),
            }
            for attention in ("eager", "sdpa"):
                model.set_attn_implementation(attention)
                # transformers' eager LLaMA takes its softmax in float32 whatever the dtype, so both take the same way
                peer.llama_model.get_base_model().set_attn_implementation(attention)
                logits = peer.llama_model(inputs_embeds=embeds).logits
                written_ids = generated(peer.llama_model, inputs_embeds=embeds)
                own = model.model.embed(inputs["input_ids"], model.encode_media(**inputs))
                yield "prompt with media, embeddings", name, attention, largest(own, embeds)
                yield "logits", name, attention, largest(model(**inputs).logits, logits)
                differing = (generated(model, **inputs) != written_ids).sum().item()
                yield f"greedy tokens of {written_ids.numel()} that differ", name, attention, differing


def manifest_emotion_llama(checkout):
    """The published size: 448 pixels, 39 blocks of EVA, LLaMA-2-7B, LoRA of rank 64."""
    text_config = LlamaConfig(vocab_size=32000, rms_norm_eps=1e-5)
    with without_memory():
        peer = make_emotion_llama(checkout, text_config, 448, 39)
    # as the authors load them: the encoders in half precision are no part of what they save
    assembly = ours_from_emotion_llama(peer, text_config, 448, 39)
    yield from manifest_rows("Emotion-LLaMA", assembly, ("model.audio_tower.",))


def manifest_rows(what, assembly, others):
    """Counts of tensors that our model lacks, has no place for, or has in another shape; `others` come elsewhere."""
    expected = {name: tensor for name, tensor in assembly.expected.items() if not name.startswith(others)}
    lacking = [name for name in expected if name not in assembly.tensors]
    surplus = [name for name in assembly.tensors if name not in assembly.expected]
    shapes = [n for n, t in expected.items() if n in assembly.tensors and assembly.tensors[n].shape != t.shape]
    for label, names in (("missing", lacking), ("unexpected", surplus), ("of another shape", shapes)):
        if names:
            print(f"{what}: {label}: {names[:3]}")
        yield f"manifest of {what}, {len(expected)} tensors: {label}", "meta", "-", len(names)
