"""Do converted weights compute what the original code computes? Run both, at random weights and small size.

    python benchmarks/compare_with_originals.py --imagebind CHECKOUT --video-llama CHECKOUT --timechat CHECKOUT \\
        --facexformer CHECKOUT --torchvision FOLDER

Each CHECKOUT is a clone that you made of facebookresearch/ImageBind, DAMO-NLP-SG/Video-LLaMA, RenShuhuai-Andy/TimeChat,
Kartik-3004/facexformer, ZebangCheng/Emotion-LLaMA (`--emotion-llama`), HumanMLLM/R1-Omni (`--humanomni`),
ooochen-30/Emotion-LLaMA-v2 (`--emotion-llama-v2`) or zeroQiaoba/MERTools (`--affectgpt
CHECKOUT/MER2025/MER2025_Track23`, `--affectgpt-2026 CHECKOUT/MER2026/MER2026_Track2`); HumanOmni, AffectGPT and
Emotion-LLaMA-v2 need `--timm FOLDER`. Whole released models are compared in `released_models.py`, beside this file.
Nothing is fetched, and none of their code is part of this package. Their modules are imported one file at a time, with
small stand-ins for packages that this package does not need (timm, einops, iopath, ftfy) and for what transformers has
since moved or dropped. FaceXFormer's network needs torchvision's own Swin, for which there is no stand-in: FOLDER is
where you unpacked a wheel of the torchvision that fits the installed torch (`pip download torchvision==0.28.0
--no-deps`, unzip); its compiled operators are not called and need not load. Random weights are filled into the
original, its state dict goes through our converter into our module, and the same input through both; largest absolute
differences are printed and written to benchmarks/results/compare_with_originals.json, where the rows of sources that
this run was not given are kept.
"""

import argparse
import contextlib
import functools
import importlib
import importlib.util
import json
import os
import platform
import sys
import types
from pathlib import Path

import torch
import transformers
from torch import nn
from transformers import BertConfig, Blip2QFormerConfig, modeling_utils, pytorch_utils
from transformers.models.instructblip.modeling_instructblip import InstructBlipQFormerModel, InstructBlipVisionModel

from hf_emotion.convert import convert_eva_vit_to_hf as eva
from hf_emotion.convert import convert_facexformer_to_hf as facexformer
from hf_emotion.convert import convert_imagebind_audio_to_hf as imagebind
from hf_emotion.convert import convert_videollama_qformer_to_hf as videollama
from hf_emotion.modeling.modeling_facexformer import FaceXFormerModel
from hf_emotion.modeling.modeling_imagebind_audio import ImageBindAudioModel
from hf_emotion.modeling.qformer import QFormer

RESULTS = Path(__file__).parent / "results" / "compare_with_originals.json"
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def module(name, path=None, **contents):
    """A stand-in module; with `path` a package whose own `__init__` is not run, but whose files can be imported."""
    made = types.ModuleType(name)
    made.__dict__.update(contents)
    if path is not None:
        made.__path__ = [str(path)]
    return made


def rearrange(tensor, pattern):
    """What the originals use einops for: to reorder dimensions."""
    before, after = (side.split() for side in pattern.split("->"))
    return tensor.permute([before.index(letter) for letter in after])


class NoDropPath(nn.Identity):
    """Stochastic depth at rate 0, or in eval mode."""

    def __init__(self, *args, **kwargs):
        super().__init__()


@contextlib.contextmanager
def originals(own, foreign):
    """Imports inside see the packages `own` of a checkout, and `foreign` ones that are not installed; then no more."""
    names = [*own, *(name for name in foreign if not installed(name.split(".")[0]))]
    sys.modules.update({name: {**own, **foreign}[name] for name in names})
    try:
        yield
    finally:
        for name in [n for n in sys.modules if n in names or n.split(".")[0] in {o.split(".")[0] for o in own}]:
            del sys.modules[name]


def installed(package):
    return importlib.util.find_spec(package) is not None


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def largest(found, expected):
    return (found - expected).abs().max().item()


def import_imagebind(checkout):
    layers = module("timm.layers", trunc_normal_=nn.init.trunc_normal_, DropPath=NoDropPath)
    own = {
        "imagebind": module("imagebind", checkout / "imagebind"),
        "imagebind.models": module("imagebind.models", checkout / "imagebind" / "models"),
    }
    foreign = {
        "einops": module("einops", rearrange=rearrange),
        "ftfy": module("ftfy"),
        "regex": module("regex"),
        "iopath": module("iopath"),
        "iopath.common": module("iopath.common"),
        "iopath.common.file_io": module("iopath.common.file_io", g_pathmgr=None),
        "timm": module("timm"),
        "timm.layers": layers,
    }
    with originals(own, foreign):
        return importlib.import_module("imagebind.models.imagebind_model")


def compare_imagebind(checkout):
    """Audio trunk and head: four blocks of width 48, the full 128 x 204 input."""
    code = import_imagebind(checkout)
    small = {"embed_dim": 16, "num_blocks": 1, "num_heads": 2}
    others = {
        f"{modality}_{name}": value
        for modality in ("vision", "text", "depth", "thermal", "imu")
        for name, value in small.items()
    }
    peer = code.ImageBindModel(
        out_embed_dim=40, audio_embed_dim=48, audio_num_blocks=4, audio_num_heads=4, audio_drop_path=0.0, **others
    )
    peer = randomise(peer, 1)
    tensors, _, config = imagebind.convert_state_dict(peer.state_dict(), num_attention_heads=4)
    model = ImageBindAudioModel(config).eval()
    model.load_state_dict(tensors, strict=True)
    for name, dtype in DTYPES.items():
        peer, model = peer.to(dtype), model.to(dtype)
        mel = noise(3, 128, 204, dtype=dtype)
        with torch.no_grad():
            inputs = peer.modality_preprocessors["audio"](audio=mel[:, None])
            tokens = peer.modality_trunks["audio"](**inputs["trunk"])
            pooled = peer({"audio": mel[:, None]})["audio"]
            for attention in ("eager", "sdpa"):
                model.set_attn_implementation(attention)
                output = model(mel)
                yield "ImageBind audio trunk", name, attention, largest(output.last_hidden_state, tokens)
                yield "ImageBind audio head (norm 20)", name, attention, largest(output.pooler_output, pooled)


def import_lavis(checkout, package, file):
    """`models/FILE.py` of Video-LLaMA or TimeChat, without running their packages' `__init__`."""
    layers = module(
        "timm.models.layers",
        drop_path=lambda x, *args: x,
        to_2tuple=lambda x: (x, x),
        trunc_normal_=nn.init.trunc_normal_,
    )
    own = {
        package: module(package, checkout / package),
        f"{package}.models": module(f"{package}.models", checkout / package / "models"),
        f"{package}.common": module(f"{package}.common", checkout / package / "common"),
        f"{package}.common.dist_utils": module(f"{package}.common.dist_utils", download_cached_file=None),
        f"{package}.common.utils": module(f"{package}.common.utils", is_url=None),
    }
    foreign = {
        "timm": module("timm"),
        "timm.models": module("timm.models"),
        "timm.models.layers": layers,
        "timm.models.registry": module("timm.models.registry", register_model=lambda function: function),
    }
    with originals(own, foreign), moved_names():
        return importlib.import_module(f"{package}.models.{file}")


@contextlib.contextmanager
def moved_names():
    """What transformers 5 has moved; head pruning it dropped, and nothing here calls it."""
    moved = {
        "apply_chunking_to_forward": pytorch_utils.apply_chunking_to_forward,
        "find_pruneable_heads_and_indices": None,
        "prune_linear_layer": None,
    }
    added = [name for name in moved if not hasattr(modeling_utils, name)]
    for name in added:
        setattr(modeling_utils, name, moved[name])
    try:
        yield
    finally:
        for name in added:
            delattr(modeling_utils, name)


def compare_eva(checkout, package):
    """Vision tower and last norm: four blocks of width 48, 28 x 28 pixels."""
    code = import_lavis(checkout, package, "eva_vit")
    peer = code.VisionTransformer(
        img_size=28,
        patch_size=14,
        use_mean_pooling=False,
        embed_dim=48,
        depth=4,
        num_heads=4,
        mlp_ratio=4.3637,
        qkv_bias=True,
        norm_layer=functools.partial(nn.LayerNorm, eps=1e-6),
    )
    peer, norm = randomise(peer, 2), randomise(nn.LayerNorm(48), 3)
    state_dict = {f"visual_encoder.{name}": tensor for name, tensor in peer.state_dict().items()}
    state_dict |= {f"ln_vision.{name}": tensor for name, tensor in norm.state_dict().items()}
    tensors, _, config = eva.convert_state_dict(state_dict, num_attention_heads=4)
    model = InstructBlipVisionModel(config).eval()
    model.load_state_dict(tensors, strict=True)
    model.post_layernorm.eps = config.post_layernorm_eps
    for name, dtype in DTYPES.items():
        peer, norm, model = peer.to(dtype), norm.to(dtype), model.to(dtype)
        pixels = noise(3, 3, 28, 28, dtype=dtype)
        with torch.no_grad():
            expected = norm(peer(pixels))
            for attention in ("eager", "sdpa"):
                model.set_attn_implementation(attention)
                yield "EVA ViT + ln_vision", name, attention, largest(model(pixels).last_hidden_state, expected)


def peer_bert(code, layers, frequency, width, queries, text):
    config = BertConfig(
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        vocab_size=60,
        max_position_embeddings=24,
        attn_implementation="eager",
    )
    config.encoder_width, config.add_cross_attention = width, True
    config.cross_attention_freq, config.query_length = frequency, queries
    restore_bert(code, config)
    bert = code.BertModel(config, add_pooling_layer=False)
    if not text:
        bert.embeddings.word_embeddings = bert.embeddings.position_embeddings = None
        for layer in bert.encoder.layer:
            layer.output = layer.intermediate = None
    return randomise(bert, 4)


def restore_bert(code, config):
    """What the originals' BERT needs of transformers 4: values on `config`, methods of its classes."""
    for name, value in (("chunk_size_feed_forward", 0), ("is_decoder", False), ("use_cache", True)):
        setattr(config, name, getattr(config, name, value))
    # Every parameter is filled afterwards; transformers 5 would want to know of tied weights.
    code.BertPreTrainedModel.init_weights = lambda self: None
    code.BertModel.get_head_mask = lambda self, mask, count: [None] * count
    code.BertModel.invert_attention_mask = lambda self, mask: (
        (1.0 - mask[:, None, None, :].to(self.dtype)) * torch.finfo(self.dtype).min
    )


def compare_query_qformers(checkout, package):
    """The query-only Q-Formers of video and of sound: two layers, both crossing, over rows of unlike length."""
    code = import_lavis(checkout, package, "Qformer")
    # Names in the file -> layers, crossing frequency, width of what they read, queries, where they go here.
    kinds = {
        "video": ("video_Qformer", "video_query_tokens", 2, 1, 32, 5, "video_qformer.global_qformer."),
        "audio": ("audio_Qformer", "audio_query_tokens", 2, 1, 40, 3, "audio_qformer."),
    }
    for kind, (prefix, queries_name, layers, frequency, width, count, target) in kinds.items():
        peer = peer_bert(code, layers, frequency, width, count, text=False)
        state_dict = {f"{prefix}.bert.{name}": tensor for name, tensor in peer.state_dict().items()}
        state_dict[queries_name] = noise(1, count, 32, seed=5)
        tensors, _, fields = videollama.convert_state_dict(state_dict, head_size=8)
        model = QFormer(Blip2QFormerConfig.from_dict(fields[f"{kind}_qformer_config"]), count).eval()
        model.load_state_dict(videollama.below(tensors, target), strict=True)
        for name, dtype in DTYPES.items():
            peer, model = peer.to(dtype), model.to(dtype)
            features = noise(3, 7, width, dtype=dtype)
            mask = torch.arange(7) < torch.tensor([[7], [4], [1]])
            with torch.no_grad():
                expected = peer(
                    query_embeds=model.query_tokens.expand(3, -1, -1),
                    encoder_hidden_states=features,
                    encoder_attention_mask=mask.to(dtype),
                    return_dict=True,
                ).last_hidden_state
                for attention in ("eager", "sdpa"):
                    model.qformer.set_attn_implementation(attention)
                    yield f"{kind} Q-Former, ragged mask", name, attention, largest(model(features, mask), expected)


def compare_text_qformer(checkout, package):
    """The timestamp-conditioned image Q-Former: four layers, every second crosses, padded text."""
    code = import_lavis(checkout, package, "Qformer")
    peer = peer_bert(code, 4, 2, 48, 5, text=True)
    state_dict = {f"Qformer.bert.{name}": tensor for name, tensor in peer.state_dict().items()}
    state_dict["query_tokens"] = noise(1, 5, 32, seed=5)
    tensors, _, fields = videollama.convert_state_dict(state_dict, head_size=8)
    config_class = InstructBlipQFormerModel.config_class
    model = InstructBlipQFormerModel(config_class.from_dict(fields["image_qformer_config"])).eval()
    model.load_state_dict(videollama.below(tensors, "image_qformer.qformer."), strict=True)
    text = torch.randint(1, 60, (3, 9), generator=torch.Generator().manual_seed(6))
    text_mask = (torch.arange(9) < torch.tensor([[9], [6], [2]])).long()
    attention_mask = torch.cat([torch.ones(3, 5, dtype=torch.long), text_mask], dim=1)
    for name, dtype in DTYPES.items():
        peer, model = peer.to(dtype), model.to(dtype)
        features = noise(3, 11, 48, dtype=dtype)
        queries = state_dict["query_tokens"].to(dtype).expand(3, -1, -1)
        with torch.no_grad():
            expected = peer(
                text,
                attention_mask=attention_mask,
                query_embeds=queries,
                encoder_hidden_states=features,
                encoder_attention_mask=torch.ones(3, 11, dtype=torch.long),
                return_dict=True,
            ).last_hidden_state
            for attention in ("eager", "sdpa"):
                model.set_attn_implementation(attention)
                found = model(
                    text, attention_mask=attention_mask, query_embeds=queries, encoder_hidden_states=features
                ).last_hidden_state
                yield "image Q-Former with text, queries", name, attention, largest(found[:, :5], expected[:, :5])


def import_facexformer(checkout, torchvision):
    """FaceXFormer's network over torchvision's own Swin-B, whose published weights are not downloaded."""
    # Not earlier: transformers looks for torchvision when it is imported, and would want it whole.
    if torchvision is not None:
        sys.path.append(str(torchvision))
    if not installed("torchvision"):
        raise ImportError("torchvision is not installed, and FaceXFormer's backbone is its swin_b; give --torchvision")
    # It registers shapes for compiled operators, which a torchvision made for another device may not have loaded.
    sys.modules.setdefault("torchvision._meta_registrations", module("torchvision._meta_registrations"))
    models = importlib.import_module("torchvision.models")
    swin_b, models.swin_b = models.swin_b, lambda weights: swin_b(weights=None)
    try:
        with originals({"network": module("network", checkout / "network")}, {}):
            code = importlib.import_module("network.models.facexformer")
            return code.FaceXFormer()
    finally:
        models.swin_b = swin_b


def compare_facexformer(checkout, torchvision):
    """The encoder at full size: Swin-B at 224 x 224, four scales, fusion; the map that its decoder is given."""
    peer = randomise(import_facexformer(checkout, torchvision), 7)
    # At a deviation of 0.2 for all, 24 blocks of width 128 to 1024 would grow beyond what float32 can tell apart.
    with torch.no_grad():
        for parameter in peer.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5 / parameter[0].numel() ** 0.5)
    tensors, _, config = facexformer.convert_state_dict(peer.state_dict())
    model = FaceXFormerModel(config).eval()
    model.load_state_dict(tensors, strict=True)
    seen = []
    peer.linear_fuse.register_forward_hook(lambda fuse, inputs, output: seen.append(output))
    tasks = torch.zeros(2)
    for name, dtype in DTYPES.items():
        peer, model = peer.to(dtype), model.to(dtype)
        pixels = noise(2, 3, 224, 224, dtype=dtype)
        with torch.no_grad():
            # The positions for the decoder are made in float32 alone; the encoder is then done.
            with contextlib.suppress(RuntimeError):
                peer(pixels, None, tasks)
            expected = seen.pop().flatten(2).transpose(1, 2)
            for attention in ("eager", "sdpa"):
                model.set_attn_implementation(attention)
                found = model(pixels).last_hidden_state
                yield f"encoder, values to {expected.abs().max():.1f}", name, attention, largest(found, expected)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--imagebind", type=Path, metavar="CHECKOUT")
    parser.add_argument("--video-llama", type=Path, metavar="CHECKOUT")
    parser.add_argument("--timechat", type=Path, metavar="CHECKOUT")
    parser.add_argument("--facexformer", type=Path, metavar="CHECKOUT")
    parser.add_argument("--torchvision", type=Path, metavar="FOLDER", help="where torchvision was unpacked")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--emotion-llama", type=Path, metavar="CHECKOUT")
    parser.add_argument("--emotion-llama-v2", type=Path, metavar="CHECKOUT")
    parser.add_argument("--humanomni", type=Path, metavar="CHECKOUT")
    parser.add_argument("--affectgpt", type=Path, metavar="FOLDER", help="MER2025/MER2025_Track23 of MERTools")
    parser.add_argument("--affectgpt-2026", type=Path, metavar="FOLDER", help="MER2026/MER2026_Track2 of MERTools")
    parser.add_argument("--timm", type=Path, metavar="FOLDER", help="where timm and einops were unpacked")
    args = parser.parse_args(arguments)
    # Here, since it takes the helpers of this file.
    import released_models as released

    runs = [
        ("ImageBind", args.imagebind, compare_imagebind),
        ("Video-LLaMA", args.video_llama, lambda path: compare_eva(path, "video_llama")),
        ("Video-LLaMA", args.video_llama, lambda path: compare_query_qformers(path, "video_llama")),
        ("TimeChat", args.timechat, lambda path: compare_eva(path, "timechat")),
        ("TimeChat", args.timechat, lambda path: compare_text_qformer(path, "timechat")),
        ("FaceXFormer", args.facexformer, lambda path: compare_facexformer(path, args.torchvision)),
        ("Emotion-LLaMA", args.emotion_llama, released.compare_emotion_llama),
        ("Emotion-LLaMA", args.emotion_llama, released.manifest_emotion_llama),
        *(
            ("Emotion-LLaMA-v2", args.emotion_llama_v2, released.with_folder(args.timm, part))
            for part in (released.compare_emotion_llama_v2, released.manifest_emotion_llama_v2)
        ),
        ("HumanOmni", args.humanomni, released.with_folder(args.timm, released.compare_humanomni)),
        ("HumanOmni", args.humanomni, released.with_folder(args.timm, released.manifest_humanomni)),
        *(
            (source, folder, released.with_folder(args.timm, part))
            for source, folder in (("AffectGPT", args.affectgpt), ("AffectGPT-2026", args.affectgpt_2026))
            for part in (released.compare_affectgpt, released.manifest_affectgpt)
        ),
    ]
    if all(path is None for _, path, _ in runs):
        parser.error("give at least one checkout; see --help")
    rows, skipped = [], []
    given = {source for source, path, _ in runs if path is not None}
    if args.output.is_file():
        rows = [
            row for row in json.loads(args.output.read_text(encoding="utf-8"))["rows"] if row["source"] not in given
        ]
    for source, path, compare in runs:
        if path is None:
            continue
        if not path.is_dir():
            parser.error(f"{path} is no folder")
        try:
            for part, dtype, attention, difference in compare(path.resolve()):
                rows.append(
                    {"source": source, "part": part, "dtype": dtype, "attention": attention, "difference": difference}
                )
                print(f"{source:14} {part:50} {dtype:8} {attention:6} {difference:.1e}", flush=True)
        except ImportError as error:
            skipped.append({"source": source, "reason": str(error)})
            print(f"{source:12} cannot be imported: {error}", file=sys.stderr)
    result = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "rows": rows,
        "skipped": skipped,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    partial = args.output.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, args.output)
    return 1 if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
