"""Converters of the peers' checkpoints, and the assembly of MicroEmo from parts: key tables, strict loads, refusals."""

import json
import math
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    Blip2QFormerConfig,
    Blip2QFormerModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    HubertConfig,
    HubertModel,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.models.instructblip.modeling_instructblip import InstructBlipQFormerModel, InstructBlipVisionModel

from hf_emotion.cli import main
from hf_emotion.cli.convert import CHECKPOINTS
from hf_emotion.convert import convert_eva_vit_to_hf as eva
from hf_emotion.convert import convert_imagebind_audio_to_hf as imagebind
from hf_emotion.convert import convert_videollama_qformer_to_hf as videollama
from hf_emotion.convert.checkpoints import ConversionError, read_checkpoint, write_folder
from hf_emotion.modeling import parts
from hf_emotion.modeling.configuration_imagebind_audio import ImageBindAudioConfig
from hf_emotion.modeling.modeling_imagebind_audio import ImageBindAudioModel
from hf_emotion.modeling.modeling_microemo import MicroEmoForConditionalGeneration
from hf_emotion.modeling.parts import PartsError, PartsReport, load_part
from hf_emotion.modeling.parts import assemble as assemble_parts


def randomise(module, seed=0, std=0.2):
    """Fill every tensor with noise, so that no two parts agree by chance and no norm is an identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return module.eval()


# Key tables


@pytest.mark.parametrize(
    ("peer", "ours"),
    [
        ("modality_preprocessors.audio.cls_token", "embeddings.cls_token"),
        ("modality_preprocessors.audio.rgbt_stem.proj.weight", "embeddings.patch_embedding.weight"),
        ("modality_preprocessors.audio.rgbt_stem.norm_layer.bias", "embeddings.layernorm.bias"),
        ("modality_preprocessors.audio.pos_embedding_helper.pos_embed", "embeddings.position_embedding"),
        ("modality_trunks.audio.blocks.11.attn.in_proj_weight", "layers.11.self_attn.qkv.weight"),
        ("modality_trunks.audio.blocks.0.attn.in_proj_bias", "layers.0.self_attn.qkv.bias"),
        ("modality_trunks.audio.blocks.3.attn.bias_k", "layers.3.self_attn.bias_k"),
        ("modality_trunks.audio.blocks.3.attn.out_proj.weight", "layers.3.self_attn.projection.weight"),
        ("modality_trunks.audio.blocks.3.norm_2.weight", "layers.3.layer_norm2.weight"),
        ("modality_trunks.audio.blocks.3.mlp.fc2.bias", "layers.3.fc2.bias"),
        ("modality_heads.audio.0.weight", "layernorm.weight"),
        ("modality_heads.audio.2.weight", "projection.weight"),
        ("audio_encoder.modality_heads.audio.2.weight", "projection.weight"),
        ("modality_heads.vision.2.weight", None),
        ("modality_postprocessors.audio.1.log_logit_scale", None),
        ("modality_trunks.audio.blocks.3.attn.in_proj_weight_extra", None),
    ],
)
def test_imagebind_key(peer, ours):
    assert imagebind.rename(peer) == ours


@pytest.mark.parametrize(
    ("peer", "ours"),
    [
        ("cls_token", "embeddings.class_embedding"),
        ("visual_encoder.pos_embed", "embeddings.position_embedding"),
        ("patch_embed.proj.bias", "embeddings.patch_embedding.bias"),
        ("visual_encoder.blocks.38.norm1.weight", "encoder.layers.38.layer_norm1.weight"),
        ("blocks.0.attn.qkv.weight", "encoder.layers.0.self_attn.qkv.weight"),
        ("blocks.0.attn.q_bias", "encoder.layers.0.self_attn.qkv.bias"),
        ("blocks.0.attn.v_bias", "encoder.layers.0.self_attn.qkv.bias"),
        ("blocks.7.attn.proj.weight", "encoder.layers.7.self_attn.projection.weight"),
        ("blocks.7.mlp.fc1.bias", "encoder.layers.7.mlp.fc1.bias"),
        ("ln_vision.weight", "post_layernorm.weight"),
        ("head.weight", None),
        ("fc_norm.bias", None),
        ("Qformer.bert.encoder.layer.0.output.dense.weight", None),
    ],
)
def test_eva_key(peer, ours):
    assert eva.rename(peer) == ours


@pytest.mark.parametrize(
    ("peer", "ours"),
    [
        ("query_tokens", "image_qformer.query_tokens"),
        ("Qformer.bert.embeddings.LayerNorm.weight", "image_qformer.qformer.embeddings.layernorm.weight"),
        ("Qformer.bert.embeddings.word_embeddings.weight", "image_qformer.qformer.embeddings.word_embeddings.weight"),
        (
            "Qformer.bert.encoder.layer.2.crossattention.self.key.bias",
            "image_qformer.qformer.encoder.layer.2.crossattention.attention.key.bias",
        ),
        (
            "Qformer.bert.encoder.layer.1.attention.output.LayerNorm.bias",
            "image_qformer.qformer.encoder.layer.1.attention.output.LayerNorm.bias",
        ),
        ("Qformer.bert.embeddings.position_ids", None),
        ("Qformer.cls.predictions.bias", None),
        ("video_query_tokens", "video_qformer.global_qformer.query_tokens"),
        ("video_Qformer.bert.embeddings.LayerNorm.bias", "video_qformer.global_qformer.qformer.layernorm.bias"),
        (
            "video_Qformer.bert.encoder.layer.1.attention.self.query.weight",
            "video_qformer.global_qformer.qformer.encoder.layer.1.attention.attention.query.weight",
        ),
        (
            "audio_Qformer.bert.encoder.layer.0.output_query.dense.weight",
            "audio_qformer.qformer.encoder.layer.0.output_query.dense.weight",
        ),
        ("video_frame_position_embedding.weight", "frame_position_embedding.weight"),
        ("audio_position_embedding.weight", "audio_position_embedding.weight"),
        ("llama_proj.bias", "video_projector.bias"),
        ("audio_llama_proj.weight", "audio_projector.weight"),
        (
            "llama_model.base_model.model.model.layers.31.self_attn.q_proj.lora_A.default.weight",
            "base_model.model.model.language_model.layers.31.self_attn.q_proj.lora_A.weight",
        ),
        (
            "llama_model.base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight",
            "base_model.model.model.language_model.layers.0.self_attn.v_proj.lora_B.weight",
        ),
        ("llama_model.base_model.model.model.embed_tokens.weight", None),
        ("audio_encoder.modality_heads.audio.2.weight", None),
        ("ln_vision.weight", None),
    ],
)
def test_videollama_key(peer, ours):
    assert videollama.rename(peer) == ours


# The peers' modules, under their own names, plainly written


class PeerImageBind(nn.Module):
    """The audio branch of ImageBind: torch's attention module with bias_k and bias_v."""

    def __init__(self, width=24, layers=2, heads=3, out=20):
        super().__init__()
        audio = nn.Module()
        audio.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        audio.rgbt_stem = nn.Module()
        audio.rgbt_stem.proj = nn.Conv2d(1, width, 16, stride=10, bias=False)
        audio.rgbt_stem.norm_layer = nn.LayerNorm(width)
        audio.pos_embedding_helper = nn.Module()
        audio.pos_embedding_helper.pos_embed = nn.Parameter(torch.zeros(1, 229, width))
        self.modality_preprocessors = nn.ModuleDict({"audio": audio, "vision": nn.Linear(3, 3)})
        blocks = nn.ModuleList()
        for _ in range(layers):
            block = nn.Module()
            block.attn = nn.MultiheadAttention(width, heads, bias=True, add_bias_kv=True, batch_first=True)
            block.norm_1, block.norm_2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
            block.mlp = nn.Module()
            block.mlp.fc1, block.mlp.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
            blocks.append(block)
        trunk = nn.Module()
        trunk.blocks = blocks
        self.modality_trunks = nn.ModuleDict({"audio": trunk, "vision": nn.Linear(3, 3)})
        head = nn.Sequential(nn.LayerNorm(width, eps=1e-6), nn.Identity(), nn.Linear(width, out, bias=False))
        self.modality_heads = nn.ModuleDict({"audio": head})

    def state_dict_of_file(self):
        scale = {"modality_postprocessors.audio.1.log_logit_scale": torch.tensor(math.log(20.0))}
        return {**self.state_dict(), **scale}

    def forward(self, mel):
        stem = self.modality_preprocessors["audio"]
        x = stem.rgbt_stem.norm_layer(stem.rgbt_stem.proj(mel[:, None]).flatten(2).transpose(1, 2))
        x = torch.cat([stem.cls_token.expand(len(x), -1, -1), x], 1) + stem.pos_embedding_helper.pos_embed
        for block in self.modality_trunks["audio"].blocks:
            y = block.norm_1(x)
            x = x + block.attn(y, y, y, need_weights=False)[0]
            x = x + block.mlp.fc2(nn.functional.gelu(block.mlp.fc1(block.norm_2(x))))
        vector = self.modality_heads["audio"](x[:, 0])
        return x, 20 * vector / vector.norm(dim=-1, keepdim=True)


class PeerEva(nn.Module):
    """EVA ViT with separate query and value biases and no last norm, then LAVIS' ln_vision."""

    def __init__(self, width=32, layers=3, heads=4, side=2, patch=4):
        super().__init__()
        self.heads = heads
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side * side, width))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, stride=patch)
        self.blocks = nn.ModuleList()
        for _ in range(layers):
            block = nn.Module()
            block.norm1, block.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
            block.attn = nn.Module()
            block.attn.qkv = nn.Linear(width, 3 * width, bias=False)
            block.attn.q_bias, block.attn.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
            block.attn.proj = nn.Linear(width, width)
            block.mlp = nn.Module()
            block.mlp.fc1, block.mlp.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
            self.blocks.append(block)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)
        self.ln_vision = nn.LayerNorm(width, eps=1e-5)

    def forward(self, pixels):
        x = self.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            y = block.norm1(x)
            q, k, v = block.attn.qkv(y).chunk(3, -1)
            q, v = q + block.attn.q_bias, v + block.attn.v_bias
            q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
            weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
            x = x + block.attn.proj((weights @ v).transpose(1, 2).flatten(2))
            x = x + block.mlp.fc2(nn.functional.gelu(block.mlp.fc1(block.norm2(x))))
        return self.ln_vision(x)


def peer_bert(model, prefix, has_text):
    """A Q-Former's tensors under the names the peers' BERT gives them: the key table of their files, inverted."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        name = name.replace("embeddings.layernorm.", "embeddings.LayerNorm.")
        if not has_text:
            name = name.replace("layernorm.", "embeddings.LayerNorm.")
        name = name.replace("attention.attention.", "attention.self.")
        tensors[f"{prefix}.bert.{name}"] = tensor.clone()
    tensors[f"{prefix}.bert.embeddings.position_ids"] = torch.arange(8)[None]
    return tensors


SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
TEXT_WIDTH = 32


def videollama_state_dict(text_qformer=True):
    """A tiny `checkpoint_best.pth`: video and audio Q-Formers, positions, projectors, LoRA, and some buffers."""
    plain = {**SIZES, "num_hidden_layers": 2, "cross_attention_frequency": 1}
    video = randomise(Blip2QFormerModel(Blip2QFormerConfig(**plain, encoder_hidden_size=16)), 1)
    audio = randomise(Blip2QFormerModel(Blip2QFormerConfig(**plain, encoder_hidden_size=20)), 2)
    generator = torch.Generator().manual_seed(5)

    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    tensors = {
        **peer_bert(video, "video_Qformer", False),
        **peer_bert(audio, "audio_Qformer", False),
        "video_query_tokens": noise(1, 4, 16),
        "audio_query_tokens": noise(1, 3, 16),
        "video_frame_position_embedding.weight": noise(6, 16),
        "audio_position_embedding.weight": noise(8, 20),
        "llama_proj.weight": noise(TEXT_WIDTH, 16),
        "llama_proj.bias": noise(TEXT_WIDTH),
        "audio_llama_proj.weight": noise(TEXT_WIDTH, 16),
        "audio_llama_proj.bias": noise(TEXT_WIDTH),
        "audio_encoder.modality_postprocessors.audio.1.log_logit_scale": torch.tensor(math.log(20.0)),
    }
    for projection in ("0.self_attn.q_proj", "0.self_attn.v_proj", "1.self_attn.q_proj", "1.self_attn.v_proj"):
        base = f"llama_model.base_model.model.model.layers.{projection}.lora"
        tensors[f"{base}_A.default.weight"] = noise(2, TEXT_WIDTH)
        tensors[f"{base}_B.default.weight"] = noise(TEXT_WIDTH, 2)
    if text_qformer:
        config = InstructBlipQFormerConfig(
            **SIZES, num_hidden_layers=4, vocab_size=40, max_position_embeddings=8, encoder_hidden_size=32
        )
        tensors.update(peer_bert(randomise(InstructBlipQFormerModel(config), 3), "Qformer", True))
        tensors["query_tokens"] = noise(1, 5, 16)
    else:
        config = Blip2QFormerConfig(**SIZES, num_hidden_layers=4, encoder_hidden_size=32)
        tensors.update(peer_bert(randomise(Blip2QFormerModel(config), 3), "Qformer", False))
        tensors["query_tokens"] = noise(1, 5, 16)
    return tensors


# Converted weights compute what the peers' modules compute


def test_converted_imagebind_equals_the_peer():
    peer = randomise(PeerImageBind())
    tensors, report, config = imagebind.convert_state_dict(peer.state_dict_of_file(), num_attention_heads=3)
    model = ImageBindAudioModel(config).eval()
    model.load_state_dict(tensors, strict=True)
    mel = torch.randn(2, 128, 204)
    tokens, pooled = peer(mel)
    output = model(mel)
    torch.testing.assert_close(output.last_hidden_state, tokens, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output.pooler_output, pooled, rtol=1e-4, atol=1e-4)
    assert config.logit_scale == 20.0
    assert report.ignored["modality_trunks.vision.weight"] == "another modality (vision)"
    assert set(report.loaded) == set(tensors)


def test_converted_eva_equals_the_peer_only_with_the_right_eps():
    """States of small spread, as behind a real tower, show the eps of the last norm."""
    peer = randomise(PeerEva(), std=0.02)
    tensors, report, config = eva.convert_state_dict(peer.state_dict(), num_attention_heads=4)
    model = InstructBlipVisionModel(config).eval()
    model.load_state_dict(tensors, strict=True)
    pixels = torch.randn(2, 3, 8, 8)
    trapped = (model(pixels).last_hidden_state - peer(pixels)).abs().max()
    model.post_layernorm.eps = config.post_layernorm_eps
    correct = (model(pixels).last_hidden_state - peer(pixels)).abs().max()
    assert correct < 1e-6 < trapped
    assert model.config.layer_norm_eps == 1e-6
    assert any("eps 1e-05" in note for note in report.notes)
    assert report.ignored["head.weight"].startswith("EVA's own last norm")


def test_the_fortieth_block_of_eva_is_left_out():
    peer = randomise(PeerEva(layers=40))
    tensors, report, config = eva.convert_state_dict(peer.state_dict(), num_attention_heads=4)
    assert config.num_hidden_layers == 39
    assert "39th of 40" in report.ignored["blocks.39.mlp.fc1.weight"]
    assert not any(".39." in name for name in tensors)


def test_converted_qformers_fill_transformers_classes_exactly():
    peers = videollama_state_dict()
    tensors, report, fields = videollama.convert_state_dict(peers, head_size=8)
    for prefix, config_class, model_class, name in (
        ("image_qformer.", InstructBlipQFormerConfig, InstructBlipQFormerModel, "image_qformer_config"),
        ("video_qformer.global_qformer.", Blip2QFormerConfig, Blip2QFormerModel, "video_qformer_config"),
        ("video_qformer.utterance_qformer.", Blip2QFormerConfig, Blip2QFormerModel, "video_qformer_config"),
        ("audio_qformer.", Blip2QFormerConfig, Blip2QFormerModel, "audio_qformer_config"),
    ):
        model = model_class(config_class.from_dict(fields[name]))
        model.load_state_dict(videollama.below(tensors, prefix + "qformer."), strict=True)
    assert fields["image_qformer_config"]["cross_attention_frequency"] == 2
    assert fields["video_qformer_config"]["cross_attention_frequency"] == 1
    assert fields["audio_qformer_config"]["encoder_hidden_size"] == 20
    counts = {name: value for name, value in fields.items() if name.startswith("num_")}
    assert counts == {
        "num_query_tokens": 5,
        "num_video_query_tokens": 4,
        "num_audio_query_tokens": 3,
        "num_frame_positions": 6,
        "num_audio_positions": 8,
    }
    key = "encoder.layer.1.crossattention.attention.value.weight"
    assert torch.equal(
        tensors["video_qformer.global_qformer.qformer." + key],
        peers["video_Qformer.bert.encoder.layer.1.crossattention.self.value.weight"],
    )
    assert report.ignored["video_Qformer.bert.embeddings.position_ids"].startswith("a table of consecutive numbers")


def test_an_image_qformer_without_text_is_left_out_with_its_reason():
    tensors, report, fields = videollama.convert_state_dict(videollama_state_dict(text_qformer=False), head_size=8)
    assert not any(name.startswith("image_qformer.") for name in tensors)
    assert "image_qformer_config" not in fields
    assert "cannot read timestamps" in report.ignored["query_tokens"]
    assert "cannot read timestamps" in report.ignored["Qformer.bert.encoder.layer.0.attention.self.key.weight"]


@pytest.mark.parametrize(
    ("convert", "state_dict", "drop", "message"),
    [
        (imagebind, lambda: PeerImageBind().state_dict_of_file(), "blocks.1.norm_2.bias", "lacks 1 tensors"),
        (imagebind, lambda: PeerImageBind().state_dict_of_file(), "rgbt_stem.proj", "not an ImageBind audio tower"),
        (eva, lambda: PeerEva().state_dict(), "blocks.0.attn.v_bias", "no blocks.0.attn.v_bias"),
        (eva, lambda: PeerEva().state_dict(), "ln_vision", "do not contain ln_vision"),
        (videollama, videollama_state_dict, "video_query_tokens", "only one of the Q-Former and the queries"),
        (videollama, videollama_state_dict, "video_Qformer.bert.encoder.layer.1.output_query", "lacks 4 tensors"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_refused(convert, state_dict, drop, message):
    tensors = {name: tensor for name, tensor in state_dict().items() if drop not in name}
    with pytest.raises(ConversionError, match=message):
        convert.convert_state_dict(tensors, *([8] if convert is videollama else [3 if convert is imagebind else 4]))


# Files


def test_a_pickle_is_read_only_with_consent_and_never_runs_code(tmp_path):
    class Runs:
        def __reduce__(self):
            return (open, (str(tmp_path / "it_ran"), "w"))

    good, bad, wrapped = tmp_path / "good.pth", tmp_path / "bad.pth", tmp_path / "wrapped.pth"
    torch.save({"a": torch.ones(2)}, good)
    torch.save({"model": {"a": torch.ones(2)}, "optimizer": {"lr": 1.0}, "epoch": 3}, wrapped)
    bad.write_bytes(pickle.dumps({"model": Runs()}))
    with pytest.raises(ConversionError, match="--allow-pickle"):
        read_checkpoint(good)
    assert torch.equal(read_checkpoint(good, allow_pickle=True)["a"], torch.ones(2))
    assert list(read_checkpoint(wrapped, allow_pickle=True)) == ["a"]
    with pytest.raises(ConversionError, match="cannot be read as tensors and plain containers") as error:
        read_checkpoint(bad, allow_pickle=True)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "it_ran").exists()


def test_a_conversion_writes_all_or_nothing(tmp_path, monkeypatch):
    tensor = torch.arange(4.0)
    shared = {"a": tensor, "b": tensor, "c": tensor.view(2, 2).T}
    write_folder(tmp_path / "out", shared, {"model_type": "x"}, PartsReport())
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(written[name], shared[name]) for name in shared)
    with pytest.raises(ConversionError, match="not an empty folder"):
        write_folder(tmp_path / "out", shared, {}, PartsReport())

    def fail(path, content):
        raise OSError("disk full")

    monkeypatch.setattr("hf_emotion.convert.checkpoints.write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        write_folder(tmp_path / "other", shared, {}, PartsReport())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_the_command_says_what_is_wrong_in_one_line_and_exits_with_two(tmp_path, capsys):
    torch.save({"a": torch.ones(1)}, tmp_path / "x.pth")
    for name in CHECKPOINTS:
        for extra in ([], ["--allow-pickle"], ["--set", "no_such_size=3"]):
            assert main(["convert", name, str(tmp_path / "x.pth"), "--output", str(tmp_path / "out"), *extra]) == 2
            said = capsys.readouterr()
            assert said.out == ""
            assert len(said.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny published checkpoints of all parts, made by the scripts or by transformers."""
    root = tmp_path_factory.mktemp("parts")
    instructblip = InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=16,
            patch_size=4,
        ).to_dict(),
        qformer_config=InstructBlipQFormerConfig(
            **SIZES, num_hidden_layers=2, vocab_size=40, max_position_embeddings=16, encoder_hidden_size=32
        ).to_dict(),
        text_config=llama_config().to_dict(),
        num_query_tokens=5,
    )
    composite = randomise(InstructBlipForConditionalGeneration(instructblip), 7)
    composite.save_pretrained(root / "instructblip", max_shard_size="40KB")
    randomise(LlamaForCausalLM(llama_config()), 8).save_pretrained(root / "llama")

    sources = {"imagebind": PeerImageBind().state_dict_of_file(), "eva": {"model": randomise(PeerEva()).state_dict()}}
    for checkpoint, name, heads in (("imagebind-audio", "imagebind", 3), ("eva-vit", "eva", 4)):
        torch.save(sources[name], root / f"{name}.pth")
        options = ["--allow-pickle", "--set", f"num_attention_heads={heads}", "--output", str(root / name)]
        assert main(["convert", checkpoint, str(root / f"{name}.pth"), *options]) == 0
    save_file({k: v.contiguous() for k, v in videollama_state_dict().items()}, root / "timechat.safetensors")
    videollama.convert([root / "timechat.safetensors"], root / "timechat", head_size=8)
    return root


def llama_config():
    return LlamaConfig(
        hidden_size=TEXT_WIDTH,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=50,
    )


def assemble(folders, **kwargs):
    sources = {
        "vision": folders / "instructblip",
        "qformer": folders / "instructblip",
        "audio": folders / "imagebind",
        "text": folders / "llama",
        "video_llama": folders / "timechat",
    }
    sources.update(kwargs)
    return assemble_parts(MicroEmoForConditionalGeneration, **sources)


# Assembly


def test_the_assembled_model_holds_every_tensor_of_its_parts(folders):
    model, report = assemble(folders, region_attention_size=16, region_attention_heads=2)
    state = model.state_dict()
    composite = InstructBlipForConditionalGeneration.from_pretrained(folders / "instructblip").state_dict()
    composite = {name.removeprefix("model."): tensor for name, tensor in composite.items()}
    llama = LlamaForCausalLM.from_pretrained(folders / "llama").state_dict()
    audio = load_file(folders / "imagebind" / "model.safetensors")
    timechat = load_file(folders / "timechat" / "model.safetensors")
    expected = {
        **{f"model.vision_tower.{n}": t for n, t in videollama.below(composite, "vision_model.").items()},
        **{f"model.image_qformer.qformer.{n}": t for n, t in videollama.below(composite, "qformer.").items()},
        "model.image_qformer.query_tokens": composite["query_tokens"],
        **{f"model.audio_tower.{n}": t for n, t in audio.items()},
        **{f"model.language_model.{n}": t for n, t in videollama.below(llama, "model.").items()},
        "lm_head.weight": llama["lm_head.weight"],
        **{f"model.{n}": t for n, t in timechat.items() if not n.startswith("image_qformer.")},
    }
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name
    assert set(report.loaded) == set(expected)
    assert set(report.new) == set(state) - set(expected)
    assert {parts.module_of(name) for name in report.new} == {"region_attention", "local_fusion"}
    assert model.model.vision_tower.post_layernorm.eps == 1e-5
    assert model.config.video_token_id == 50
    assert not model.training

    text = str(report)
    assert "loaded   vision_tower: " in text
    assert "new      region_attention: " in text
    assert "image_qformer comes from" in text
    assert "eps 1e-05" in text


def test_the_assembled_model_saves_reloads_and_answers(folders, tmp_path):
    model, _ = assemble(folders, region_attention_size=16, region_attention_heads=2)
    model.save_pretrained(tmp_path)
    again = MicroEmoForConditionalGeneration.from_pretrained(tmp_path)
    for (name, tensor), (_, other) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(tensor, other), name
    tokens = torch.tensor([[1, 5, 7]])
    assert torch.equal(model(input_ids=tokens).logits, again(input_ids=tokens).logits)


def test_a_converted_folder_serves_as_vision_tower_and_as_image_qformer(folders):
    model, report = assemble(folders, vision=folders / "eva", qformer=folders / "timechat", video_llama=None)
    timechat = load_file(folders / "timechat" / "model.safetensors")
    state = model.state_dict()
    for name, tensor in timechat.items():
        if name.startswith("image_qformer."):
            assert torch.equal(state[f"model.{name}"], tensor)
    assert "video_qformer" in {parts.module_of(name) for name in report.new}
    peer, pixels = randomise(PeerEva()), torch.randn(2, 3, 8, 8)
    found = model.model.vision_tower(pixels).last_hidden_state
    torch.testing.assert_close(found, peer(pixels), rtol=1e-4, atol=1e-5)


def test_foreign_towers_and_language_models_are_read_by_their_own_classes(folders, tmp_path):
    vision = randomise(
        CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                image_size=16,
                patch_size=4,
            )
        )
    )
    audio = randomise(
        HubertModel(
            HubertConfig(
                hidden_size=16,
                intermediate_size=24,
                num_hidden_layers=1,
                num_attention_heads=2,
                conv_dim=(8, 8),
                conv_kernel=(10, 3),
                conv_stride=(5, 2),
                num_conv_pos_embeddings=4,
                num_conv_pos_embedding_groups=2,
            )
        )
    )
    text = randomise(
        Qwen2ForCausalLM(
            Qwen2Config(
                hidden_size=TEXT_WIDTH,
                intermediate_size=48,
                num_hidden_layers=1,
                num_attention_heads=4,
                num_key_value_heads=2,
                vocab_size=60,
                tie_word_embeddings=True,
            )
        )
    )
    for name, model in (("clip", vision), ("hubert", audio), ("qwen", text)):
        model.save_pretrained(tmp_path / name)
    model, report = assemble(
        folders,
        vision=tmp_path / "clip",
        qformer=None,
        audio=tmp_path / "hubert",
        text=tmp_path / "qwen",
        video_llama=None,
        image_qformer_config={**SIZES, "num_hidden_layers": 2, "vocab_size": 40},
        video_qformer_config={**SIZES, "num_hidden_layers": 2},
        audio_qformer_config={**SIZES, "num_hidden_layers": 2},
        region_attention_size=16,
        region_attention_heads=2,
    )
    pixels, sound = torch.randn(1, 3, 16, 16), torch.randn(1, 400)
    inner = model.model
    assert torch.equal(inner.vision_tower(pixels).last_hidden_state, vision(pixels).last_hidden_state)
    assert torch.equal(inner.audio_tower(sound).last_hidden_state, audio(sound).last_hidden_state)
    tokens = torch.tensor([[3, 9, 2]])
    assert torch.equal(model(input_ids=tokens).logits, text(tokens).logits)
    assert model.lm_head.weight is inner.language_model.embed_tokens.weight
    assert inner.vision_tower.post_layernorm.eps == vision.post_layernorm.eps
    assert model.config.audio_feature == "frames"
    new = {parts.module_of(name) for name in report.new}
    assert not new & {"vision_tower", "audio_tower", "language_model", "lm_head"}


def test_shared_or_switched_off_qformers_leave_their_tensors_in_the_report(folders):
    model, report = assemble(folders, use_utterances=False, use_regions=False)
    assert model.model.video_qformer.utterance_qformer is None
    reasons = {n: why for n, why in report.ignored.items() if "utterance_qformer" in n}
    assert reasons
    assert set(reasons.values()) == {"the assembled configuration has no place for it"}
    assert report.new == []


def test_lora_becomes_an_adapter_of_the_assembled_model(folders):
    from peft import PeftModel

    model, _ = assemble(folders, use_regions=False)
    tokens = torch.tensor([[1, 5, 7]])
    with torch.no_grad():
        before = model(input_ids=tokens).logits
        adapted = PeftModel.from_pretrained(model, folders / "timechat" / "adapter")
        after = adapted(input_ids=tokens).logits
    assert not torch.allclose(before, after)
    tensors, _, _ = videollama.convert_state_dict(videollama_state_dict(), head_size=8)
    loaded = {name: p for name, p in adapted.named_parameters() if "lora_" in name}
    given = {name: t for name, t in tensors.items() if "lora_" in name}
    assert len(loaded) == len(given) == 8
    for name, tensor in given.items():
        assert torch.equal(loaded[name.replace(".weight", ".default.weight")], tensor)


def test_only_the_shards_that_hold_wanted_tensors_are_fetched(folders, monkeypatch):
    source, fetched = folders / "instructblip", []
    index = json.loads((source / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 3

    def download(repository, name, **kwargs):
        assert repository == "someone/instructblip"
        fetched.append(name)
        path = source / name
        if not path.is_file():
            raise parts.EntryNotFoundError("no such file")
        return str(path)

    monkeypatch.setattr(parts, "hf_hub_download", download)
    tensors, report = load_part("someone/instructblip", {"qformer.": "q.", "query_tokens": "queries"})
    wanted = {name for name in index if name.startswith(("qformer.", "query_tokens"))}
    assert {name for name in fetched if name.startswith("model-")} == {index[name] for name in wanted}
    assert len(tensors) == len(wanted) == len(report.loaded)
    assert len(report.ignored) == len(index) - len(wanted)


def test_bad_parts_are_refused_in_one_sentence(folders, tmp_path):
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text(json.dumps({"model_type": "instructblip"}))
    torch.save({}, tmp_path / "pickled" / "pytorch_model.bin")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    (tmp_path / "escape").mkdir()
    (tmp_path / "escape" / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "../imagebind/model.safetensors"}})
    )
    cases = [
        (lambda: assemble_parts(MicroEmoForConditionalGeneration), "no part is given"),
        (lambda: assemble(folders, vision=tmp_path / "pickled"), "pickle form.*hf-emotion convert"),
        (lambda: assemble(folders, audio="imagebind_huge.pth"), "pickle form.*hf-emotion convert"),
        (lambda: assemble(folders, vision=tmp_path / "broken"), "config.json of .* is not JSON"),
        (lambda: assemble(folders, text="someone/never-cached"), "has no config.json.*offline"),
        (lambda: assemble(folders, text="no/such/name/at all"), "neither a folder nor the name"),
        (lambda: assemble(folders, qformer=folders / "llama"), "must read each frame's timestamp"),
        (lambda: assemble(folders, video_llama=folders / "llama"), "accepted for video_llama"),
        (lambda: assemble(folders, use_utterance=False), "'use_utterance' is neither a part"),
        (lambda: assemble(folders, num_frame_positions=7), r"\(6, 16\).*\(7, 16\)"),
        (lambda: load_part(tmp_path / "escape", {"": ""}), "outside its folder"),
        (
            lambda: load_part(folders / "llama", {"vision.": "v."}),
            r"no tensor named 'vision\.\*'; it has lm_head, model",
        ),
    ]
    for attempt, message in cases:
        with pytest.raises(PartsError, match=message) as error:
            attempt()
        assert "\n" not in str(error.value)


def test_the_converted_imagebind_folder_is_the_tower_itself(folders):
    model, info = ImageBindAudioModel.from_pretrained(folders / "imagebind", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert isinstance(model.config, ImageBindAudioConfig)
    assert model.config.num_attention_heads == 3
