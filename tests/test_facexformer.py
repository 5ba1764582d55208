"""FaceXFormer's encoder against plain code, and the converter of its checkpoint: key table, strict load, refusals."""

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from hf_emotion.convert import convert_facexformer_to_hf as convert
from hf_emotion.convert.checkpoints import ConversionError
from hf_emotion.modeling.configuration_facexformer import FaceXFormerConfig
from hf_emotion.modeling.modeling_facexformer import FaceXFormerFusion, FaceXFormerModel

SWIN = {
    "model_type": "swin",
    "image_size": 64,
    "embed_dim": 32,
    "depths": [1, 2, 1, 1],
    "num_heads": [1, 2, 4, 8],
    "window_size": 2,
    "drop_path_rate": 0.0,
}


def tiny(seed=0):
    torch.manual_seed(seed)
    model = FaceXFormerModel(FaceXFormerConfig(backbone_config=SWIN, hidden_size=24))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model.eval()


@pytest.mark.parametrize(
    ("peer", "ours"),
    [
        ("backbone.0.0.0.weight", "backbone.embeddings.patch_embeddings.projection.weight"),
        ("backbone.0.0.2.bias", "backbone.embeddings.norm.bias"),
        ("backbone.0.1.0.norm1.weight", "backbone.encoder.layers.0.blocks.0.layernorm_before.weight"),
        ("backbone.0.5.17.norm2.bias", "backbone.encoder.layers.2.blocks.17.layernorm_after.bias"),
        ("backbone.0.7.1.attn.qkv.weight", "backbone.encoder.layers.3.blocks.1.attention.qkv.weight"),
        ("backbone.0.3.1.attn.proj.bias", "backbone.encoder.layers.1.blocks.1.attention.o_proj.bias"),
        ("backbone.0.3.1.mlp.0.weight", "backbone.encoder.layers.1.blocks.1.mlp.fc1.weight"),
        ("backbone.0.3.1.mlp.3.weight", "backbone.encoder.layers.1.blocks.1.mlp.fc2.weight"),
        ("backbone.0.2.reduction.weight", "backbone.encoder.layers.0.downsample.reduction.weight"),
        ("backbone.0.6.norm.weight", "backbone.encoder.layers.2.downsample.norm.weight"),
        ("module.backbone.1.bias", "backbone.layernorm.bias"),
        ("linear_c.3.proj.weight", "fusion.projections.3.weight"),
        ("linear_fuse.weight", "fusion.fuse.weight"),
        ("backbone.0.1.0.attn.relative_position_index", None),
        ("backbone.0.2.0.norm1.weight", None),
        ("backbone.0.1.norm.weight", None),
        ("face_decoder.pose_token.weight", None),
        ("pe_layer.positional_encoding_gaussian_matrix", None),
    ],
)
def test_facexformer_key(peer, ours):
    assert convert.rename(peer) == ours


def original_names(model):
    """Our tensors under the checkpoint's names, q, k and v joined, with two tensors that have no place here."""
    names = {}
    for name, tensor in model.state_dict().items():
        name = name.replace("backbone.embeddings.patch_embeddings.projection", "backbone.0.0.0")
        name = name.replace("backbone.embeddings.norm", "backbone.0.0.2").replace("backbone.layernorm", "backbone.1")
        for stage in range(4):
            name = name.replace(f"backbone.encoder.layers.{stage}.blocks", f"backbone.0.{2 * stage + 1}")
            name = name.replace(f"backbone.encoder.layers.{stage}.downsample", f"backbone.0.{2 * stage + 2}")
        for ours, peers in (
            ("layernorm_before", "norm1"),
            ("layernorm_after", "norm2"),
            ("attention.relative_position_bias.", "attn."),
            ("attention.o_proj", "attn.proj"),
            ("attention.", "attn."),
            ("mlp.fc1", "mlp.0"),
            ("mlp.fc2", "mlp.3"),
            ("fusion.fuse", "linear_fuse"),
        ):
            name = name.replace(ours, peers)
        if "fusion.projections" in name:
            name = name.replace("fusion.projections", "linear_c").replace(".weight", ".proj.weight")
            name = name.replace(".bias", ".proj.bias")
        names[name] = tensor
    joined = {}
    for name in [name for name in names if ".q_proj." in name]:
        parts = [names.pop(name.replace("q_proj", part)) for part in convert.QKV]
        joined[name.replace("q_proj", "qkv")] = torch.cat(parts)
    more = {
        "face_decoder.age_token.weight": torch.zeros(1, 24),
        "backbone.0.1.0.attn.relative_position_index": torch.zeros(4),
    }
    return {**names, **joined, **more}


def test_a_converted_checkpoint_gives_the_model_it_was_made_of(tmp_path):
    model = tiny()
    save_file({name: t.clone() for name, t in original_names(model).items()}, tmp_path / "model.safetensors")
    convert.convert([tmp_path / "model.safetensors"], tmp_path / "out", image_size=64)
    loaded, report = FaceXFormerModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(pixels).last_hidden_state, model(pixels).last_hidden_state)


def test_what_has_no_place_is_reported_with_its_reason():
    _, report, _ = convert.convert_state_dict(original_names(tiny()), image_size=64)
    assert report.ignored["face_decoder.age_token.weight"] == "the decoder, which Omni-Emotion does not use"
    assert "computed again" in report.ignored["backbone.0.1.0.attn.relative_position_index"]


@pytest.mark.parametrize("lost", ["backbone.0.3.1.mlp.0.weight", "linear_c.2.proj.bias", "linear_fuse.weight"])
def test_a_checkpoint_that_is_not_whole_is_refused(lost):
    tensors = original_names(tiny())
    del tensors[lost]
    with pytest.raises(ConversionError, match="lacks"):
        convert.convert_state_dict(tensors, image_size=64)


def test_the_fusion_equals_a_plain_loop_in_value_and_gradient():
    torch.manual_seed(0)
    fusion = FaceXFormerFusion([4, 8, 16], 6).double()
    maps = [torch.randn(2, 4 * 2**i, 8 // 2**i, 8 // 2**i, dtype=torch.float64, requires_grad=True) for i in range(3)]
    plain = 0
    for i, scale in enumerate(maps):
        tokens = scale.flatten(2).transpose(1, 2) @ fusion.projections[i].weight.T + fusion.projections[i].bias
        same = tokens.transpose(1, 2).unflatten(2, scale.shape[2:])
        same = functional.interpolate(same, size=(8, 8), mode="bilinear", align_corners=False)
        kernel = fusion.fuse.weight[:, (2 - i) * 6 : (3 - i) * 6, 0, 0]
        plain = plain + torch.einsum("dc,nchw->ndhw", kernel, same)
    fused = fusion(maps)
    torch.testing.assert_close(fused, plain)
    weight = torch.randn_like(fused)
    for found, expected in zip(
        torch.autograd.grad((fused * weight).sum(), maps, retain_graph=True),
        torch.autograd.grad((plain * weight).sum(), maps),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)


def test_pictures_do_not_touch_each_other_and_an_empty_batch_is_served():
    model = tiny()
    pixels = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        together = model(pixels).last_hidden_state
        alone = torch.cat([model(picture[None]).last_hidden_state for picture in pixels])
        assert model(pixels[:0]).last_hidden_state.shape == (0, 256, 24)
    assert together.shape == (3, 256, 24)
    torch.testing.assert_close(
        together, alone, rtol=1e-4, atol=5e-5
    )  # float32, whose sums differ by the size of the batch


def test_pictures_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 3, 32, 32\); FaceXFormer takes \(N, 3, 64, 64\)"):
        tiny()(torch.zeros(1, 3, 32, 32))


def test_the_published_sizes():
    with torch.device("meta"):
        model = FaceXFormerModel(FaceXFormerConfig())
    # torchvision's swin_b has 87,768,224 parameters with its classifier of 1,025,000.
    assert sum(parameter.numel() for parameter in model.backbone.parameters()) == 87_768_224 - 1_025_000
    assert sum(parameter.numel() for parameter in model.parameters()) == 87_497_912
    assert model.config.grid == 56
