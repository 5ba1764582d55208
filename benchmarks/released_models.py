"""Whole released models beside ours, for `compare_with_originals.py`: the authors' classes at random weights.

What cannot be installed or was moved by transformers 5 is replaced by a stand-in, each named where it is made. Every
comparison ends in greedy generation; its row counts tokens that differ. `manifest` rows are made on the meta device at
the published size: the names and shapes that the authors' code would save go through our converter, and the row counts
the tensors of our model that are then missing, left over or of another shape.
"""

import contextlib
import functools
import importlib
import sys
import tempfile
import types
from copy import deepcopy
from importlib.resources import files
from pathlib import Path

import peft
import torch
import transformers
from compare_with_originals import DTYPES, largest, module, moved_names, noise, originals, randomise, restore_bert
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    HubertConfig,
    HubertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
    WhisperConfig,
    WhisperForAudioClassification,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from hf_emotion.convert import convert_affectgpt_to_hf as affectgpt
from hf_emotion.convert import convert_emotion_llama_to_hf as emotion_llama
from hf_emotion.convert import convert_emotion_llama_v2_to_hf as emotion_llama_v2
from hf_emotion.convert import convert_eva_vit_to_hf as eva
from hf_emotion.convert import convert_humanomni_to_hf as humanomni
from hf_emotion.modeling.configuration_affectgpt import AffectGPTConfig
from hf_emotion.modeling.configuration_emotion_llama_v2 import EmotionLLaMAV2Config
from hf_emotion.modeling.configuration_esva import ESVAConfig
from hf_emotion.modeling.configuration_humanomni import HumanOmniConfig
from hf_emotion.modeling.modeling_affectgpt import AffectGPTForConditionalGeneration
from hf_emotion.modeling.modeling_emotion_llama_v2 import EmotionLLaMAV2ForConditionalGeneration
from hf_emotion.modeling.modeling_esva import ESVAForConditionalGeneration
from hf_emotion.modeling.modeling_humanomni import HumanOmniForConditionalGeneration
from hf_emotion.modeling.parts import LORA, Assembly
from hf_emotion.processing.processing_affectgpt import CHAT_TEMPLATE as AFFECTGPT_TEMPLATE
from hf_emotion.processing.processing_emotion_llama_v2 import CHAT_TEMPLATE as EMOTION_LLAMA_V2_TEMPLATE
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


def with_folder(folder, compare):
    """`compare` with a folder of unpacked packages on the path, for its run alone."""

    def run(checkout):
        if folder is not None:
            sys.path.append(str(folder))
        try:
            yield from compare(checkout)
        finally:
            if folder is not None:
                sys.path.remove(str(folder))

    return run


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


def make_emotion_llama(checkout, text_config, image_size, depth, classes=None):
    """The authors' model: their constructor, with a language model and a vision tower of the sizes given."""
    base_class, tower_class = classes or import_emotion_llama(checkout)

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
    take_language_model(assembly, peer)
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


# Emotion-LLaMA-v2, on the same base as Emotion-LLaMA.


def import_emotion_llama_v2(checkout):
    """`EmotionLLaMAv2`, its EVA, the two functions that shorten its features, and timm's EVA. Stand-ins: as for
    Emotion-LLaMA, and what the file of those functions imports for files and video (cv2, moviepy, ...); timm is its
    own, without its data and torchvision imports."""
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
        "my_utils": module("my_utils", checkout / "my_utils"),
        "my_utils.config": module("my_utils.config"),
    }
    timm = importlib.util.find_spec("timm")
    if timm is None:
        raise ImportError("timm is not installed; Emotion-LLaMA-v2 looks at frames through timm's EVA")
    folder = Path(timm.origin).parent
    means = {
        f"{name}_{what}": None
        for name in ("IMAGENET_DEFAULT", "IMAGENET_INCEPTION", "OPENAI_CLIP")
        for what in ("MEAN", "STD")
    }
    own |= {"timm": module("timm", folder, __version__=""), "timm.data": module("timm.data", **means)}
    own["timm.models"] = module("timm.models", folder / "models", create_model=None)
    own["timm.models.hub"] = module("timm.models.hub")
    absent = ("omegaconf", "cv2", "moviepy", "moviepy.editor", "torchaudio", "torchvision", "torchvision.ops",
              "torchvision.ops.misc", "soundfile", "av", "pandas", "tqdm")  # fmt: skip
    names = {"OmegaConf": None, "transforms": None, "VideoFileClip": None, "tqdm": None, "FrozenBatchNorm2d": type}
    foreign = {name: module(name, **names) for name in absent}
    with originals(own, foreign), present(peft, prepare_model_for_int8_training=lambda model: model):
        code = importlib.import_module("minigpt4.models.emotion_llama_v2")
        towers = importlib.import_module("minigpt4.models.eva_vit")
        features = importlib.import_module("my_utils.extract_features")
        return code.EmotionLLaMAv2, towers.VisionTransformer, features, importlib.import_module("timm.models.eva").Eva


def compare_emotion_llama_v2(checkout):
    """Key frame, 16 frames, sound and prompt to logits: EVA of one and of two blocks (width 1,408), a Whisper encoder
    of two layers (width 1,280), LLaMA of two layers of width 64."""
    model_class, tower_class, features, frame_class = import_emotion_llama_v2(checkout)
    text_config = LlamaConfig(
        vocab_size=2064, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        rms_norm_eps=1e-5, attn_implementation="eager",
    )  # fmt: skip
    whisper = WhisperConfig(d_model=1280, num_mel_bins=80, encoder_layers=2, encoder_attention_heads=4,
                            encoder_ffn_dim=64, max_source_positions=100)  # fmt: skip
    peer = make_emotion_llama(checkout, text_config, 56, 1, classes=(model_class, tower_class))
    frames = frame_class(img_size=56, patch_size=14, embed_dim=1408, depth=2, num_heads=16, mlp_ratio=6144 / 1408,
                         num_classes=0, global_pool="")  # fmt: skip
    sound = WhisperEncoder(whisper)
    for part, seed in ((peer, 18), (frames, 19), (sound, 20)):
        randomise(part, seed)
        with torch.no_grad():
            for parameter in part.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(5 / max(parameter[0].numel(), 9) ** 0.5)
    for part in (peer, frames, sound):
        part.double()
    assembly = ours_from_emotion_llama_v2(peer, frames, sound, whisper, text_config, 56, 1)
    model = EmotionLLaMAV2ForConditionalGeneration(assembly.config).double().eval()
    model.load_state_dict(assembly.tensors, strict=True)
    tokenizer = peer.llama_tokenizer
    line, question = "I did not expect that.", "Why does he look away?"
    # The datasets' line, task and question, in the frame of the second stage (`chat_template`).
    said = "The person in video says: {}. ".format(line.removesuffix("."))
    theirs = peer.prompt_template.format(f"<Vid><VideoHere></Vid> {said} [reason] {question} ")
    content = [{"type": "video"}, {"type": "audio"}, {"type": "utterances", "line": line.removesuffix(".")}]
    message = {"role": "user", "content": [*content, {"type": "text", "text": f"[reason] {question}"}]}
    written = tokenizer.apply_chat_template([message], chat_template=EMOTION_LLAMA_V2_TEMPLATE, tokenize=False)
    assert written == tokenizer.bos_token + theirs.replace("<VideoHere>", "<VideoHere><AudioHere>")
    before, after = written.split("<VideoHere><AudioHere>")
    counts = assembly.config.tokens_per_clip(16)
    ids = tokenizer(before, add_special_tokens=False).input_ids
    ids += [text_config.vocab_size] * counts["video"] + [text_config.vocab_size + 1] * counts["audio"]
    ids += tokenizer(after, add_special_tokens=False).input_ids
    for name, dtype in reversed(DTYPES.items()):
        set_dtype(dtype, peer, model, frames, sound)
        key, pixels = noise(2, 3, 56, 56, dtype=dtype), noise(2, 16, 3, 56, 56, seed=1, dtype=dtype)
        mel = noise(2, 80, 200, seed=2, dtype=dtype)
        inputs = {
            "input_ids": torch.tensor([ids] * 2),
            "attention_mask": torch.ones(2, len(ids), dtype=torch.long),
            "pixel_values_videos": key[:, None],
            "video_times": torch.zeros(2, 1, dtype=torch.long),
            "pixel_values_frames": pixels,
            "frame_times": torch.arange(16).repeat(2, 1) * 100,
            "input_features": mel[:, None],
            "audio_attention_mask": torch.ones(2, 1, dtype=torch.bool),
        }
        for attention in ("eager", "sdpa"):
            model.set_attn_implementation(attention)
            peer.llama_model.get_base_model().set_attn_implementation(attention)
            sound.set_attn_implementation(attention)
            with torch.no_grad():
                seen = frames.forward_features(pixels.flatten(0, 1))[:, 1:].reshape(2, 16, 4, 4, -1)
                seen = features.spatiotemporal_downsample(seen, 2, 2, 16)
                heard = features.adaptive_downsample_with_padding(sound(mel).last_hidden_state, target_len=64)
                media, mask = peer.encode_img(key, seen, heard)
                embeds, _ = peer.prompt_wrap(media, mask, [theirs] * 2)
                start = peer.embed_tokens(torch.full((2, 1), tokenizer.bos_token_id))
                embeds = torch.cat([start, embeds], dim=1)
                logits = peer.llama_model(inputs_embeds=embeds).logits
                written_ids = generated(peer.llama_model, inputs_embeds=embeds)
                own = model.model.embed(inputs["input_ids"], model.encode_media(**inputs))
                yield "prompt with media, embeddings", name, attention, largest(own, embeds)
                yield "logits", name, attention, largest(model(**inputs).logits, logits)
                differing = (generated(model, **inputs) != written_ids).sum().item()
                yield f"greedy tokens of {written_ids.numel()} that differ", name, attention, differing
                media, mask = peer.encode_img(key, seen, torch.zeros_like(heard))
                silent = {
                    n: tensor for n, tensor in inputs.items() if n not in ("input_features", "audio_attention_mask")
                }
                own = model.encode_media(**silent)
                own = torch.cat([torch.stack(own.video), torch.stack(own.audio)], dim=1)
                yield "media of silent clips, embeddings", name, attention, largest(own, media)


def ours_from_emotion_llama_v2(peer, frames, sound, whisper, text_config, image_size, depth):
    """Our model in assembly, with the peer's weights through the converters."""
    tensors, _, fields = emotion_llama_v2.convert_state_dict(saved_by_lavis(peer))
    vision = {f"visual_encoder.{name}": tensor for name, tensor in peer.visual_encoder.state_dict().items()}
    vision |= {f"ln_vision.{name}": tensor for name, tensor in peer.ln_vision.state_dict().items()}
    vision_tensors, _, vision_config = eva.convert_state_dict(vision, num_attention_heads=16)
    frame_tensors, _, frame_config = eva.convert_state_dict(frames.state_dict(), 16, all_blocks=True)
    words = text_config.vocab_size
    config = EmotionLLaMAV2Config(
        vision_config=vision_config.to_dict(), frame_config=frame_config.to_dict(), audio_config=whisper.to_dict(),
        text_config=text_config.to_dict(), video_token_id=words, audio_token_id=words + 1, **fields,
    )  # fmt: skip
    assembly = Assembly(EmotionLLaMAV2ForConditionalGeneration, config)
    assembly.tensors.update({name: tensor for name, tensor in tensors.items() if not name.startswith(LORA)})
    parts = {"vision_tower": vision_tensors, "frame_tower": frame_tensors, "audio_tower": sound.state_dict()}
    for place, part in parts.items():
        assembly.tensors.update({f"model.{place}.{name}": tensor for name, tensor in part.items()})
    take_language_model(assembly, peer)
    assembly.merge({name: tensor for name, tensor in tensors.items() if name.startswith(LORA)}, 16)
    return assembly


def take_language_model(assembly, peer):
    """The peer's language model under LoRA, in our names and without it."""
    for name, tensor in peer.llama_model.get_base_model().state_dict().items():
        if "lora_" not in name:
            plain = name.replace(".base_layer.", ".")
            ours = plain if plain.startswith("lm_head") else "model.language_model." + plain.removeprefix("model.")
            assembly.tensors[ours] = tensor


def manifest_emotion_llama_v2(checkout):
    """The published size: EVA of 39 blocks at 448 and of 40 at 224 pixels, Whisper-large-v3's encoder, LLaMA-2-7B."""
    model_class, tower_class, _, frame_class = import_emotion_llama_v2(checkout)
    text_config = LlamaConfig(vocab_size=32000, rms_norm_eps=1e-5)
    whisper = EmotionLLaMAV2Config().audio_config
    with without_memory():
        peer = make_emotion_llama(checkout, text_config, 448, 39, classes=(model_class, tower_class))
        frames = frame_class(img_size=224, patch_size=14, embed_dim=1408, depth=40, num_heads=16,
                             mlp_ratio=6144 / 1408, num_classes=0, global_pool="")  # fmt: skip
        sound = WhisperEncoder(whisper)
    assembly = ours_from_emotion_llama_v2(peer, frames, sound, whisper, text_config, 448, 39)
    yield from manifest_rows("Emotion-LLaMA-v2", assembly, ())


# HumanOmni and R1-Omni. Name -> its projector, whether it compresses frames, its SigLIP and its Qwen2.
SIGLIP_BASE = {"image_size": 224, "patch_size": 16, "hidden_size": 768, "intermediate_size": 3072,
               "num_hidden_layers": 12, "num_attention_heads": 12}  # fmt: skip
SIGLIP_SO400M = {"image_size": 384, "patch_size": 14, "hidden_size": 1152, "intermediate_size": 4304,
                 "num_hidden_layers": 27, "num_attention_heads": 16}  # fmt: skip
QWEN_HALF = {"vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
             "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True}  # fmt: skip
QWEN_7B = {"vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
           "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False}  # fmt: skip
HUMANOMNI = {
    "R1-Omni-0.5B": ("all_in_one_small", False, SIGLIP_BASE, QWEN_HALF),
    "HumanOmni-7B": ("all_in_one", True, SIGLIP_SO400M, QWEN_7B),
}
SMALL_SIGLIP = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
SMALL_QWEN = {"vocab_size": 2048, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False}  # fmt: skip
SMALL_BERT = {"vocab_size": 99, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1,
              "intermediate_size": 64, "max_position_embeddings": 32}  # fmt: skip


def import_humanomni(checkout, compressed):
    """The authors' `HumanOmniQwen2ForCausalLM`, over timm's own RegNet stage and einops, which must be importable.

    Stand-ins: h5py and ipdb, which are imported and not used, their media loading, and the data and torchvision
    imports of timm. Their one file serves two releases by comments: for the 7B model the three lines of its frame
    compressor are switched on, as a comment there asks.
    """
    package = checkout / "humanomni"
    source = (package / "model" / "humanomni_arch.py").read_text(encoding="utf-8")
    if compressed:
        for line, blanks in (
            ("image_feature = einops.rearrange(image_feature, '(t n) h -> t n h', t = num_frames)", 16),
            ("image_feature = self.get_model().feature_compressor(image_feature)", 16),
            ("self.feature_compressor = SFDynamicCompressor(config, self.vision_tower)", 8),
        ):
            at = next(row for row in source.splitlines() if line in row and row.strip().startswith(("#", line[:4])))
            source = source.replace(at, " " * blanks + line)
    own = {
        "humanomni": module("humanomni", package),
        "humanomni.model": module("humanomni.model", package / "model"),
        "humanomni.mm_utils": module("humanomni.mm_utils", frame_sample=None),
        "humanomni.model.humanomni_arch": module("humanomni.model.humanomni_arch"),
    }
    timm = importlib.util.find_spec("timm")
    if timm is None or importlib.util.find_spec("einops") is None:
        raise ImportError("timm and einops are not installed; HumanOmni's projector is made of timm's RegNet stages")
    means = {f"IMAGENET_{kind}_{what}": None for kind in ("DEFAULT", "INCEPTION") for what in ("MEAN", "STD")}
    own |= {"timm": module("timm", Path(timm.origin).parent, __version__=""), "timm.data": module("timm.data", **means)}
    own["timm.models"] = module("timm.models", Path(timm.origin).parent / "models")
    foreign = {name: module(name) for name in ("h5py", "ipdb", "torchvision", "torchvision.ops")}
    foreign["torchvision.ops.misc"] = module("torchvision.ops.misc", FrozenBatchNorm2d=type("Frozen", (), {}))
    CONFIG_MAPPING._extra_content.pop("HumanOmni_qwen2", None)
    with originals(own, foreign), present(transformers, TRANSFORMERS_CACHE=None):
        arch = sys.modules["humanomni.model.humanomni_arch"]
        arch.__package__ = "humanomni.model"
        exec(compile(source, "humanomni_arch.py", "exec"), arch.__dict__)
        return importlib.import_module("humanomni.model.humanomni_model"), arch


def make_humanomni(checkout, kind, compressed, siglip, whisper, bert, text, frames):
    """The authors' model of the sizes given, with towers whose weights it would load separately."""
    code, arch = import_humanomni(checkout, compressed)
    encoder = arch.build_vision_tower.__globals__
    no_processor = types.SimpleNamespace(from_pretrained=lambda path: None)
    encoder |= {"SiglipImageProcessor": no_processor, "WhisperFeatureExtractor": no_processor}
    arch.BertModel = types.SimpleNamespace(from_pretrained=lambda path: BertModel(bert))
    arch.BertTokenizer = types.SimpleNamespace(from_pretrained=lambda path: None)
    with tempfile.TemporaryDirectory() as folder:
        paths = {"siglip": siglip, "whisper": whisper}
        for name, config in paths.items():
            config.save_pretrained(f"{folder}/{name}")
        published = {
            **text, "mm_hidden_size": siglip.hidden_size, "mm_projector_type": kind, "num_frames": frames,
            "mm_vision_tower": f"{folder}/siglip", "mm_vision_select_layer": -2, "mm_audio_tower": f"{folder}/whisper",
            "mm_audio_projector_type": "mlp2x_gelu", "audio_hidden_size": whisper.d_model, "mm_use_x_start_end": True,
        }  # fmt: skip
        peer = code.HumanOmniQwen2ForCausalLM(code.HumanOmniQwen2Config(**published))
    return peer, published


def compare_humanomni(checkout):
    """Frames, sound, instruction and prompt to logits, both releases: towers, BERT and Qwen2 of two or three layers."""
    torch.cuda.current_device = lambda: 0  # asked by their code, and not used
    for name, (kind, compressed, _, _) in HUMANOMNI.items():
        side = 5 if compressed else 4
        siglip = SiglipVisionConfig(image_size=14 * side, patch_size=14, vision_use_head=False, **SMALL_SIGLIP)
        layers = {"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_layers": 1}
        whisper = WhisperConfig(d_model=32, num_mel_bins=80, max_source_positions=30, **layers)
        bert = BertConfig(**SMALL_BERT)
        peer, published = make_humanomni(checkout, kind, compressed, siglip, whisper, bert, SMALL_QWEN, 6)
        peer.model.vision_tower.vision_tower = SiglipVisionModel(siglip)
        peer.model.audio_tower.audio_tower = WhisperForAudioClassification(whisper)
        peer.model.vision_tower.is_loaded = peer.model.audio_tower.is_loaded = True
        randomise(peer, 13)
        with torch.no_grad():
            for parameter in peer.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(5 / max(parameter[0].numel(), 9) ** 0.5)
        tensors, _, fields = humanomni.convert_state_dict(peer.state_dict(), published)
        words = SMALL_QWEN["vocab_size"]
        config = HumanOmniConfig(
            vision_config=siglip.to_dict(), audio_config=whisper.to_dict(), video_token_id=words,
            audio_token_id=words + 1, **fields,
        )  # fmt: skip
        model = HumanOmniForConditionalGeneration(config).eval()
        model.load_state_dict(tensors, strict=True)
        frames = config.num_video_tokens(6)
        texts = torch.randint(3, words, (2, 9), generator=torch.Generator().manual_seed(3))
        before, between, after = texts[:, :3], texts[:, 3:5], texts[:, 5:]
        theirs = torch.cat([before, torch.full((2, 1), -201), between, torch.full((2, 1), -202), after], dim=1)
        media = [torch.full((2, frames), words), torch.full((2, 10), words + 1)]
        ours = torch.cat([before, media[0], between, media[1], after], dim=1)
        asked = torch.randint(1, 99, (2, 7), generator=torch.Generator().manual_seed(4))
        asked_mask = (torch.arange(7) < torch.tensor([[7], [5]])).long()
        for precision, dtype in reversed(DTYPES.items()):
            set_dtype(dtype, peer, model)
            pixels = noise(2, 6, 3, 14 * side, 14 * side, dtype=dtype)
            mel = noise(2, 80, 60, seed=1, dtype=dtype)
            media_inputs = {
                "images": [(clip, "video") for clip in pixels],
                "audios": mel,
                "prompts": {"input_ids": asked, "attention_mask": asked_mask},
            }
            inputs = {
                "input_ids": ours,
                "attention_mask": torch.ones_like(ours),
                "pixel_values_videos": pixels,
                "video_times": torch.arange(6).repeat(2, 1) * 500,
                "video_instruction_ids": asked,
                "video_instruction_mask": asked_mask,
                "input_features": mel[:, None],
                "audio_attention_mask": torch.ones(2, 1, dtype=torch.bool),
            }
            with torch.no_grad():
                for attention in ("eager", "sdpa"):
                    model.set_attn_implementation(attention)
                    for part in (peer, peer.model.bert_model, peer.model.vision_tower.vision_tower,
                                 peer.model.audio_tower.audio_tower):  # fmt: skip
                        # not by set_attn_implementation, which refuses classes of other files than transformers'
                        part.config._attn_implementation = attention
                    mask = torch.ones_like(theirs)
                    embeds = peer.prepare_inputs_labels_for_multimodal(theirs, mask, None, None, **media_inputs)[3]
                    own = model.model.embed(ours, model.encode_media(**inputs))
                    yield f"{name}: prompt with media, embeddings", precision, attention, largest(own, embeds)
                    logits = peer(input_ids=theirs, attention_mask=mask, **media_inputs).logits
                    yield f"{name}: logits", precision, attention, largest(model(**inputs).logits, logits)
                    options = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
                    written = peer.generate(theirs, attention_mask=mask, **media_inputs, pad_token_id=0, **options)
                    differing = (generated(model, **inputs) != written).sum().item()
                    yield f"{name}: greedy tokens of {written.numel()} that differ", precision, attention, differing


def manifest_humanomni(checkout):
    """Both releases at their published sizes: SigLIP and Whisper come from their own checkpoints."""
    whisper = WhisperConfig(d_model=1280, num_mel_bins=128, encoder_layers=32, encoder_attention_heads=20,
                            encoder_ffn_dim=5120)  # fmt: skip
    for name, (kind, compressed, vision, text) in HUMANOMNI.items():
        siglip = SiglipVisionConfig(vision_use_head=False, **vision)
        with without_memory():
            peer, published = make_humanomni(checkout, kind, compressed, siglip, whisper, BertConfig(), text, 8)
        tensors, _, fields = humanomni.convert_state_dict(peer.state_dict(), published)
        words = text["vocab_size"]
        config = HumanOmniConfig(
            vision_config=siglip.to_dict(), audio_config=whisper.to_dict(), video_token_id=words,
            audio_token_id=words + 1, **fields,
        )  # fmt: skip
        assembly = Assembly(HumanOmniForConditionalGeneration, config)
        assembly.tensors.update(tensors)
        yield from manifest_rows(name, assembly, ("model.vision_tower.", "model.audio_tower."))


# AffectGPT, whose code is the same for MER2025 and MER2026.


def import_affectgpt(checkout):
    """`AffectGPT` of MERTools, with its Q-Former. Stand-ins: its paths, registry, base class (only mixed precision),
    tokenizer table, and its encoders' file, whose preprocessing goes through PIL: the encoders are given below."""
    package = checkout / "my_affectgpt"
    base = type("Blip2Base", (nn.Module,), {"maybe_autocast": lambda self, **kwargs: contextlib.nullcontext()})
    tokens = {f"DEFAULT_{kind}_PATCH_TOKEN": f"<{kind.title()}Here>" for kind in AFFECTGPT_TOKENS}
    register = types.SimpleNamespace(register_model=lambda name: lambda cls: cls)
    own = {
        "config": module("config", PATH_TO_LLM={"Qwen25": None}, **tokens),
        "my_affectgpt": module("my_affectgpt", package),
        "my_affectgpt.common": module("my_affectgpt.common"),
        "my_affectgpt.common.registry": module("my_affectgpt.common.registry", registry=register),
        "my_affectgpt.models": module("my_affectgpt.models", package / "models"),
        "my_affectgpt.models.blip2": module("my_affectgpt.models.blip2", Blip2Base=base, disabled_train=None),
        "my_affectgpt.models.tokenizer": module("my_affectgpt.models.tokenizer", load_tokenizer_from_LLM=None),
        "my_affectgpt.models.encoder": module("my_affectgpt.models.encoder"),
    }
    if importlib.util.find_spec("einops") is None:
        raise ImportError("einops is not installed; AffectGPT reorders dimensions by it")
    with originals(own, {}), moved_names():
        code = importlib.import_module("my_affectgpt.models.affectgpt")
        return code, importlib.import_module("my_affectgpt.models.Qformer")


AFFECTGPT_KINDS = ("video", "audio", "multi")
AFFECTGPT_TOKENS = ("IMAGE", "AUDIO", "FRAME", "FACE", "MULTI")


class PictureEncoder(nn.Module):
    """`CLIP_VIT_LARGE` of their encoder.py behind its preprocessing: (B, 3, T, h, w) -> (B, T, D)."""

    def __init__(self, config):
        super().__init__()
        self.model = CLIPModel(config).requires_grad_(False)
        self.hidden_size = config.projection_dim

    def forward(self, pixels, _):
        batch, frames = pixels.shape[0], pixels.shape[2]
        features = self.model.get_image_features(pixels.transpose(1, 2).flatten(0, 1))
        features = getattr(features, "pooler_output", features)
        return features.unflatten(0, (batch, frames))


class SoundEncoder(nn.Module):
    """`HUBERT_LARGE` of their encoder.py behind its preprocessing: (B, C, samples) -> (B, C, D)."""

    def __init__(self, config):
        super().__init__()
        self.model = HubertModel(config).requires_grad_(False)
        self.hidden_size = config.hidden_size

    def forward(self, sound, _):
        states = self.model(sound.flatten(0, 1), output_hidden_states=True).hidden_states
        states = torch.stack(states)[[-4, -3, -2, -1]].mean(0)
        return states.mean(1).unflatten(0, sound.shape[:2])


# How frames, segments and both together become tokens, how many of each, and whether pictures are faces: the two
# released setups (all six of their training files; the code of both years is equal), and other options of the code.
AFFECTGPT = {
    "best setup, faces": (("attention",) * 3, (1, 1, 1), True),
    "best setup, frames": (("attention",) * 3, (1, 1, 1), False),
    "Q-Formers, faces": (("qformer",) * 3, (4, 3, 2), True),
    "Q-Former of frames, mean of sound": (("qformer", "mean", "attention"), (3, 2, 2), False),
    "mean of frames, Q-Former of both": (("mean", "attention", "qformer"), (2, 1, 5), True),
}


def make_affectgpt(checkout, clip, hubert, text, bert, fusions, counts):
    code, qformers = import_affectgpt(checkout)
    restore_bert(qformers, bert)
    code.BertConfig = types.SimpleNamespace(from_pretrained=lambda name: deepcopy(bert))
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"<{kind.title()}Here>" for kind in AFFECTGPT_TOKENS], special_tokens=True)
    code.load_tokenizer_from_LLM = lambda name: tokenizer
    code.AutoModelForCausalLM = types.SimpleNamespace(from_pretrained=lambda *args, **kwargs: Qwen2ForCausalLM(text))
    code.registry = types.SimpleNamespace(
        get_visual_encoder_class=lambda name: lambda: PictureEncoder(clip),
        get_acoustic_encoder_class=lambda name: lambda: SoundEncoder(hubert),
    )
    frozen = ("video_proj", "video_Qformer", "audio_Qformer", "audio_proj", "llm", "multi_Qformer", "multi_llama_proj")
    return code.AffectGPT(
        "CLIP_VIT_LARGE", "HUBERT_LARGE", "Qwen25", lora_r=16, image_fusion_type="mean", num_image_query_token=1,
        **{f"frozen_{part}": False for part in frozen},
        **{f"{kind}_fusion_type": how for kind, how in zip(AFFECTGPT_KINDS, fusions, strict=True)},
        **{f"num_{kind}_query_token": count for kind, count in zip(AFFECTGPT_KINDS, counts, strict=True)},
    ), tokenizer  # fmt: skip


def ours_from_affectgpt(peer, clip, hubert, text, counts, head_size=64):
    """Our model in assembly, with the peer's weights through the converter."""
    tokens = {f"num_{name}_query_tokens": n for name, n in zip(("video", "audio", "fusion"), counts, strict=True)}
    tensors, _, fields = affectgpt.convert_state_dict(saved_by_lavis(peer), head_size, **tokens)
    config = AffectGPTConfig(
        vision_config=clip.vision_config.to_dict(), audio_config=hubert.to_dict(), text_config=text.to_dict(),
        video_token_id=text.vocab_size, audio_token_id=text.vocab_size + 1, **fields,
    )  # fmt: skip
    assembly = Assembly(AffectGPTForConditionalGeneration, config)
    assembly.tensors.update({name: tensor for name, tensor in tensors.items() if not name.startswith(LORA)})
    towers = {"vision_tower": peer.visual_encoder.model.vision_model, "audio_tower": peer.acoustic_encoder.model}
    for place, tower in towers.items():
        own = {name.removeprefix(f"model.{place}.") for name in assembly.expected if name.startswith(f"model.{place}.")}
        inside = "vision_model." if any(name.startswith("vision_model.") for name in own) else ""
        assembly.tensors.update({f"model.{place}.{inside}{name}": t for name, t in tower.state_dict().items()})
    assembly.tensors["model.visual_projection.weight"] = peer.visual_encoder.model.visual_projection.weight.detach()
    take_language_model(assembly, peer)
    assembly.merge({name: tensor for name, tensor in tensors.items() if name.startswith(LORA)}, 32)
    return assembly


def compare_affectgpt(checkout):
    """Pictures, sound and prompt to logits: CLIP, HuBERT and Qwen2 of two to five layers, BERT of width 32."""
    clip = CLIPConfig(
        vision_config={"image_size": 28, "patch_size": 14, "hidden_size": 32, "intermediate_size": 64,
                       "num_hidden_layers": 2, "num_attention_heads": 4},
        text_config={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4},
        projection_dim=24,
    )  # fmt: skip
    hubert = HubertConfig(
        hidden_size=32, num_hidden_layers=5, num_attention_heads=4, intermediate_size=64, conv_dim=(32,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, feat_extract_norm="layer", conv_bias=True,
        do_stable_layer_norm=True, apply_spec_augment=False,
    )  # fmt: skip
    text = Qwen2Config(**{**SMALL_QWEN, "vocab_size": 2064})
    for setup, (fusions, counts, faces) in AFFECTGPT.items():
        for row in compare_affectgpt_setup(checkout, clip, hubert, text, fusions, counts, faces):
            yield f"{setup}: {row[0]}", *row[1:]


def compare_affectgpt_setup(checkout, clip, hubert, text, fusions, counts, faces):
    bert = BertConfig(hidden_size=32, num_attention_heads=4, intermediate_size=64, vocab_size=60,
                      attn_implementation="eager")  # fmt: skip
    peer, tokenizer = make_affectgpt(checkout, clip, hubert, text, bert, fusions, counts)
    randomise(peer, 17)
    with torch.no_grad():
        for parameter in peer.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5 / max(parameter[0].numel(), 9) ** 0.5)
    assembly = ours_from_affectgpt(peer.double(), clip, hubert, text, counts, head_size=8)
    model = AffectGPTForConditionalGeneration(assembly.config).double().eval()
    model.load_state_dict(assembly.tensors, strict=True)
    video = {"type": "video", "faces": True} if faces else {"type": "video"}
    content = [video, {"type": "audio"}, {"type": "utterances", "line": "Well, well."}]
    question = "Please recognize all possible emotional states of the character."
    message = {"role": "user", "content": [*content, {"type": "text", "text": question}]}
    written = tokenizer.apply_chat_template(
        [message], chat_template=AFFECTGPT_TEMPLATE, tokenize=False, add_generation_prompt=True
    )
    # The authors' `get_prompt_for_multimodal`, "multiface_audio_face_text" or "multiframe_audio_frame_text".
    kind, extracted = ("Face", " and extract faces from these frames") if faces else ("Frame", "")
    prompt = (
        "###Human: The audio and video merged info is: <Multi><MultiHere></Multi>. "
        "The audio content is as follows: <Audio><AudioHere></Audio>. Meanwhile, we uniformly sample raw frames from "
        f"the video{extracted}: <Video><{kind}Here></Video>. The subtitle of this video is: "
        "<Subtitle>Well, well.</Subtitle>. Now, please answer my question based on all the provided information. "
        f"{question} ###Assistant: "
    )
    plain = written.removeprefix("<|im_start|>").replace("<video>", f"<{kind}Here>").replace("<audio>", "<AudioHere>")
    assert plain.replace(f"<{kind}Here>", "<MultiHere>", 1) == prompt
    # Their `replace_token_for_multimodal`.
    for name, count in zip((kind, "Audio", "Multi"), counts, strict=True):
        prompt = prompt.replace(f"<{name}Here>", f"<{name}Here>" * count)
    theirs = torch.tensor([[1, *tokenizer(prompt, add_special_tokens=False).input_ids]] * 2)
    ours = theirs.clone()
    for name, token in (("Multi", 2064), (kind, 2064), ("Audio", 2065)):
        ours[theirs == tokenizer.convert_tokens_to_ids(f"<{name}Here>")] = token
    for name, dtype in reversed(DTYPES.items()):
        set_dtype(dtype, peer, model)
        pixels, sound = noise(2, 4, 3, 28, 28, dtype=dtype), noise(2, 8, 4000, seed=1, dtype=dtype)
        pictures, place = pixels.transpose(1, 2), f"{kind.lower()}s"
        samples = {
            "face_or_frame": f"multi{kind.lower()}_audio_{kind.lower()}_text", place: pictures,
            f"raw_{place}": pictures, "audios": sound, "raw_audios": sound, "input_ids": theirs, "labels": theirs,
            "attention_masks": torch.ones_like(theirs),
        }  # fmt: skip
        inputs = {
            "input_ids": ours,
            "attention_mask": torch.ones_like(ours),
            "pixel_values_videos": pixels,
            "video_times": torch.arange(4).repeat(2, 1) * 500,
            "input_values": sound,
            "audio_attention_mask": torch.ones(2, 8, dtype=torch.bool),
        }
        base = peer.llama_model.get_base_model()
        for attention in ("eager", "sdpa"):
            for part in (model, base, peer.visual_encoder.model, peer.acoustic_encoder.model):
                part.set_attn_implementation(attention)
            seen = []
            hook = base.register_forward_hook(
                lambda _, args, kwargs, output, seen=seen: seen.append((kwargs["inputs_embeds"], output.logits)),
                with_kwargs=True,
            )
            with torch.no_grad():
                peer(samples)
                hook.remove()
                [(embeds, logits)] = seen
                own = model.model.embed(ours, model.encode_media(**inputs))
                yield "prompt with media, embeddings", name, attention, largest(own, embeds)
                yield "logits", name, attention, largest(model(**inputs).logits, logits)
                written_ids = generated(peer.llama_model, inputs_embeds=embeds)
                differing = (generated(model, **inputs) != written_ids).sum().item()
                yield f"greedy tokens of {written_ids.numel()} that differ", name, attention, differing


def manifest_affectgpt(checkout):
    """The published size, with BERT-base's where there are Q-Formers: CLIP ViT-L/14, HuBERT-large, Qwen2.5-7B, LoRA of
    rank 16 on seven projections."""
    default = AffectGPTConfig()
    clip = CLIPConfig(vision_config=default.vision_config.to_dict(), projection_dim=768)
    for setup, counts in (("best setup, faces", (1, 1, 1)), ("Q-Formers, faces", (32, 8, 16))):
        sizes = (clip, default.audio_config, default.text_config)
        with without_memory():
            peer, _ = make_affectgpt(checkout, *sizes, BertConfig(), AFFECTGPT[setup][0], counts)
        yield from manifest_rows(f"AffectGPT, {setup}", ours_from_affectgpt(peer, *sizes, counts), ())
