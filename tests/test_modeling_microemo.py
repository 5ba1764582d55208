"""What MicroEmo alone claims: regions, timestamps, fusion, utterances, its published sizes and foreign backbones."""

import pytest
import torch
from test_modeling_common import VOCAB, MicroEmoCase, logits_of
from transformers import (
    CLIPVisionConfig,
    HubertConfig,
    Qwen2Config,
    SiglipVisionConfig,
    WhisperConfig,
)

from hf_emotion.modeling.modeling_microemo import LocalFusion, MicroEmoForConditionalGeneration, RegionAttention
from hf_emotion.modeling.qformer import PositionTable
from hf_emotion.papers import microemo_config

CASE = MicroEmoCase()


def loop_over_patches(block, states, regions):
    """Regional attention, token by token and head by head."""
    prefix = states.shape[1] - regions.shape[-1]
    heads, result = block.num_heads, states.clone()
    for frame in range(len(states)):
        hidden = block.layernorm(states[frame])
        query, key, value = block.query(hidden), block.key(hidden), block.value(hidden)
        union = [prefix + p for p in range(regions.shape[-1]) if regions[frame, :, p].any()]
        for token in range(states.shape[1]):
            mine = regions[frame, :, token - prefix] if token >= prefix else torch.zeros(len(regions[frame])).bool()
            seen = [q for q in union if (mine & regions[frame, :, q - prefix]).any()] if mine.any() else union
            parts = []
            for q, k, v in zip(
                query[token].chunk(heads), key[seen].chunk(heads, -1), value[seen].chunk(heads, -1), strict=True
            ):
                parts.append((k @ q * block.scaling).softmax(0) @ v)
            named = block.region_embedding[mine].sum(0)
            result[frame, token] = states[frame, token] + block.output(torch.cat(parts)) + named
    return result


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("prefix", [0, 1])
def test_region_attention_equals_a_loop_over_patches_in_outputs_and_gradients(implementation, prefix):
    torch.manual_seed(0)
    config = microemo_config("tiny", vocab_size=VOCAB)
    config._attn_implementation = implementation
    block = RegionAttention(config, 24, 16, 4, num_regions=4)
    torch.nn.init.normal_(block.region_embedding)
    states = torch.randn(3, prefix + 9, 24, requires_grad=True)
    regions = torch.rand(3, 4, 9) < 0.3
    regions[:, 0, 0] = True
    weight = torch.randn(3, prefix + 9, 24)
    fast, slow = block(states, regions), loop_over_patches(block, states, regions)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)
    of = [states, *block.parameters()]
    for one, other in zip(
        torch.autograd.grad((fast * weight).sum(), of), torch.autograd.grad((slow * weight).sum(), of), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_training_starts_from_the_model_without_the_local_branch():
    torch.manual_seed(0)
    model = MicroEmoForConditionalGeneration(CASE.config()).eval()
    plain = CASE.model(use_regions=False)
    plain.load_state_dict({n: p for n, p in model.state_dict().items() if n in plain.state_dict()})
    batch = CASE.batch(model.config)
    torch.testing.assert_close(logits_of(model, batch), logits_of(plain, batch))


def test_a_clip_without_any_face_equals_the_model_without_the_local_branch():
    model = CASE.model()
    plain = CASE.model(use_regions=False)
    plain.load_state_dict({n: p for n, p in model.state_dict().items() if n in plain.state_dict()})
    batch = CASE.batch(model.config)
    assert (logits_of(model, batch) - logits_of(plain, batch)).abs().max() > 1e-3
    batch["video_region_masks"] = torch.zeros_like(batch["video_region_masks"])
    torch.testing.assert_close(logits_of(model, batch), logits_of(plain, batch))
    output = model(**batch)
    assert output.modalities[:, model.modality_names.index("face")].tolist() == [False, False]


def test_the_timestamp_reaches_the_video_tokens():
    model = CASE.model()
    batch = CASE.batch(model.config)
    other = {**batch, "video_timestamp_ids": batch["video_timestamp_ids"].roll(1, dims=1)}
    assert (logits_of(model, batch) - logits_of(model, other)).abs().max() > 1e-4


def test_the_image_qformer_keeps_the_queries_outputs_only():
    model = CASE.model().model
    batch = CASE.batch(model.config)
    states = torch.randn(2, 65, 64)
    ids = torch.cat([batch["video_timestamp_ids"][:, 0], torch.zeros(2, 3, dtype=torch.long)], dim=1)
    mask = torch.cat([torch.ones(2, 6, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long)], dim=1)
    short, padded = model.image_qformer(states, ids[:, :6], mask[:, :6]), model.image_qformer(states, ids, mask)
    assert short.shape == (2, model.config.num_query_tokens, 64)
    torch.testing.assert_close(short, padded, rtol=1e-4, atol=1e-5)


def fuse_by_loop(block, whole, local, found):
    result = whole.clone()
    for clip in range(whole.shape[0]):
        for frame in range(whole.shape[1]):
            if not found[clip, frame]:
                continue
            if block.fusion == "gate":
                result[clip, frame] += block.gate * local[clip, frame]
            elif block.fusion == "sum":
                result[clip, frame] += local[clip, frame]
            else:
                result[clip, frame] += block.projection(torch.cat([whole[clip, frame], local[clip, frame]], -1))
            if block.dynamics_gate is not None and frame > 0 and found[clip, frame - 1]:
                result[clip, frame] += block.dynamics_gate * (local[clip, frame] - local[clip, frame - 1])
    return result


@pytest.mark.parametrize("fusion", ["gate", "sum", "concat"])
@pytest.mark.parametrize("local_dynamics", [False, True])
def test_fusion_equals_a_loop_over_frames(fusion, local_dynamics):
    torch.manual_seed(0)
    block = LocalFusion(6, fusion, 0.5, local_dynamics)
    whole, local = torch.randn(2, 5, 3, 6), torch.randn(2, 5, 3, 6)
    found = torch.tensor([[1, 1, 0, 1, 1], [0, 1, 1, 0, 0]]).bool()
    torch.testing.assert_close(block(whole, local, found), fuse_by_loop(block, whole, local, found))


@pytest.mark.parametrize(
    "fields",
    [
        {"local_fusion": "sum"},
        {"local_fusion": "concat"},
        {"local_dynamics": True},
        {"local_qformer": "separate"},
        {"share_video_qformers": True},
    ],
)
def test_every_option_trains_and_differs_from_the_default(fields):
    model = CASE.model(**fields).train()
    batch = CASE.batch(model.config)
    model(**batch, labels=batch["input_ids"].where(batch["input_ids"] < VOCAB, -100)).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    default = CASE.model()
    default.load_state_dict({n: p for n, p in model.state_dict().items() if n in default.state_dict()}, strict=False)
    assert (logits_of(default, batch) - logits_of(model.eval(), batch)).abs().max() > 1e-4


def test_positions_are_read_by_index_or_spread_over_the_table():
    table = PositionTable(4, 3)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]]).bool()
    positions = table(mask)
    torch.testing.assert_close(positions[0, :3], table.weight[:3])
    torch.testing.assert_close(positions[1, [0, 2, 4, 6]], table.weight)
    torch.testing.assert_close(positions[1, 1], (table.weight[0] + table.weight[1]) / 2)


def test_more_frames_than_positions_run_and_do_not_depend_on_the_neighbour():
    model = CASE.model(num_frame_positions=3)
    batch = CASE.batch(model.config)
    together = logits_of(model, batch)
    alone = logits_of(model, CASE.single(batch, 1))
    torch.testing.assert_close(together[1, batch["attention_mask"][1].bool()], alone[0], rtol=1e-4, atol=1e-5)


def test_missing_timestamps_or_region_masks_are_named():
    model = CASE.model()
    batch = CASE.batch(model.config)
    with pytest.raises(ValueError, match="video_timestamp_ids"):
        model(**{**batch, "video_timestamp_ids": None})
    with pytest.raises(ValueError, match="video_region_masks"):
        model(**{**batch, "video_region_masks": None})
    with pytest.raises(ValueError, match=r"5 regions; this model was made for 13"):
        model(**{**batch, "video_region_masks": batch["video_region_masks"][:, :, :5]})
    with pytest.raises(ValueError, match=r"100 patches .* 65 tokens"):
        model(**{**batch, "video_region_masks": torch.ones(2, 4, 13, 100, dtype=torch.bool)})


VISION = {
    "clip": CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, image_size=112, patch_size=14
    ),
    "siglip": SiglipVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, image_size=112, patch_size=14
    ),
}


@pytest.mark.parametrize("name", VISION)
def test_any_vision_backbone_serves(name):
    model = CASE.model(vision_config=VISION[name], vision_post_layernorm_eps=None)
    batch = CASE.batch(model.config)
    alone = logits_of(model, CASE.single(batch, 0))
    torch.testing.assert_close(
        logits_of(model, batch)[0, batch["attention_mask"][0].bool()], alone[0], rtol=1e-4, atol=1e-5
    )


def test_a_waveform_encoder_serves_as_audio_tower():
    hubert = HubertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, conv_dim=(16, 16),
        conv_kernel=(10, 3), conv_stride=(5, 2), num_feat_extract_layers=2, num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, feat_extract_norm="layer", do_stable_layer_norm=True,
    )  # fmt: skip
    model = CASE.model(audio_config=hubert, audio_feature="frames")
    batch = CASE.batch(model.config)
    generator = torch.Generator().manual_seed(3)
    del batch["input_features"], batch["audio_times"]
    mask = torch.arange(800) < torch.tensor([[800], [430]])
    batch["input_values"] = torch.randn(2, 800, generator=generator) * mask
    batch["audio_attention_mask"] = mask
    together = logits_of(model, batch)
    for clip, samples in enumerate((800, 430)):
        alone = CASE.single({**batch, "input_features": mask, "audio_attention_mask": mask}, clip)
        del alone["input_features"]
        alone["input_values"] = batch["input_values"][clip : clip + 1, :samples]
        kept = batch["attention_mask"][clip].bool()
        torch.testing.assert_close(together[clip, kept], logits_of(model, alone)[0], rtol=1e-4, atol=1e-5)
    batch["audio_attention_mask"] = mask & torch.tensor([[True], [False]])
    batch["input_ids"][1, batch["input_ids"][1] == model.config.audio_token_id] = 5
    assert model(**batch).modalities[:, 2].tolist() == [True, False]


def test_a_whisper_encoder_serves_as_audio_tower():
    whisper = WhisperConfig(
        d_model=32, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=48, num_mel_bins=8,
        max_source_positions=10,
    )  # fmt: skip
    model = CASE.model(audio_config=whisper, audio_feature="frames")
    batch = CASE.batch(model.config)
    batch["input_features"] = torch.randn(2, 3, 8, 20)
    alone = logits_of(model, CASE.single(batch, 1))
    kept = batch["attention_mask"][1].bool()
    torch.testing.assert_close(logits_of(model, batch)[1, kept], alone[0], rtol=1e-4, atol=1e-5)


def test_another_language_model_with_tied_embeddings_serves(tmp_path):
    qwen = Qwen2Config(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    model = CASE.model(text_config=qwen)
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    batch = CASE.batch(model.config)
    model.save_pretrained(tmp_path)
    loaded = MicroEmoForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.model.language_model.embed_tokens.weight
    assert torch.equal(logits_of(model, batch), logits_of(loaded, batch))


def test_a_model_without_sound_is_a_missing_sub_config(tmp_path):
    model = CASE.model(audio_config=None)
    assert not any("audio" in name for name, _ in model.named_parameters())
    batch = CASE.batch(model.config, audio=(False, False))
    model.save_pretrained(tmp_path)
    loaded = MicroEmoForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.config.audio_config is None
    assert torch.equal(logits_of(model, batch), logits_of(loaded, batch))


def test_the_paper_size_has_the_published_parameters():
    with torch.device("meta"):
        model = MicroEmoForConditionalGeneration(microemo_config("paper"))

    def count(*modules):
        return sum(parameter.numel() for module in modules for parameter in module.parameters())

    assert count(model.model.language_model, model.lm_head) == 6_738_415_616
    assert count(model.model.vision_tower) == pytest.approx(986e6, rel=0.005)
    assert model.model.vision_tower.post_layernorm.eps == 1e-5
    assert model.model.vision_tower.encoder.layers[0].layer_norm1.eps == 1e-6
