"""The ImageBind audio tower and its feature extractor, against plain twins."""

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from hf_emotion.modeling.configuration_imagebind_audio import ImageBindAudioConfig
from hf_emotion.modeling.modeling_imagebind_audio import ImageBindAudioModel
from hf_emotion.processing.feature_extraction_imagebind import ImageBindFeatureExtractor

RATE = 16000
# In log-mel units: what torchaudio's and transformers' filter banks differ by. A single bin, 80 dB under the loudest of
# its frame, may carry more of the loudest one's float32 rounding (transformers computes in float64).
LOG_MEL_TOLERANCE = 1.5e-4
LONE_BIN_TOLERANCE = 1e-3


def assert_same_spectrogram(found, twin):
    difference = np.abs(found - twin) * 9.138
    assert np.quantile(difference, 0.999) < LOG_MEL_TOLERANCE
    assert difference.max() < LONE_BIN_TOLERANCE


def tiny_config(**kwargs):
    sizes = dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, projection_dim=24, **kwargs
    )
    return ImageBindAudioConfig(**sizes)


def tiny_model(seed=0, **kwargs):
    torch.manual_seed(seed)
    model = ImageBindAudioModel(tiny_config(**kwargs)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def plain_forward(model, spectrograms):
    """The tower written once more, one chunk, one head and one patch at a time, with torch's own attention module."""
    config, weights = model.config, dict(model.named_parameters())
    rows, columns = config.grid
    tokens, pooled = [], []
    for spectrogram_ in spectrograms:
        patches = []
        for row in range(rows):
            for column in range(columns):
                top, left = row * config.patch_stride, column * config.patch_stride
                patch = spectrogram_[top : top + config.patch_size, left : left + config.patch_size]
                patches.append(weights["embeddings.patch_embedding.weight"].flatten(1) @ patch.flatten())
        x = torch.nn.functional.layer_norm(
            torch.stack(patches),
            (config.hidden_size,),
            weights["embeddings.layernorm.weight"],
            weights["embeddings.layernorm.bias"],
            1e-5,
        )
        x = torch.cat([weights["embeddings.cls_token"][0], x]) + weights["embeddings.position_embedding"][0]
        for layer in model.layers:
            attention = layer.self_attn
            normed = layer.layer_norm1(x)
            x = (
                x
                + torch.nn.functional.multi_head_attention_forward(
                    *[normed[:, None]] * 3,
                    config.hidden_size,
                    config.num_attention_heads,
                    attention.qkv.weight,
                    attention.qkv.bias,
                    attention.bias_k,
                    attention.bias_v,
                    False,
                    0.0,
                    attention.projection.weight,
                    attention.projection.bias,
                    training=False,
                )[0][:, 0]
            )
            x = x + layer.fc2(torch.nn.functional.gelu(layer.fc1(layer.layer_norm2(x))))
        vector = model.projection(model.layernorm(x[0]))
        tokens.append(x)
        pooled.append(20 * vector / vector.square().sum().sqrt())
    return torch.stack(tokens), torch.stack(pooled)


def plain_spectrogram(waveform, num_frames=204):
    """Kaldi's filter bank from transformers, one clip at a time, padded and normalised as the peers do."""
    with pytest.warns(UserWarning, match="mel filter has all zero"):
        filters = mel_filter_bank(
            257, 128, 20, 8000, RATE, norm=None, mel_scale="kaldi", triangularize_in_mel_space=True
        )
    log_mel = spectrogram(
        waveform - waveform.mean(),
        window_function(400, "hann", periodic=False),
        frame_length=400,
        hop_length=160,
        fft_length=512,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=filters,
        log_mel="log",
        mel_floor=1.192092955078125e-07,
        remove_dc_offset=True,
    )
    padded = np.pad(log_mel, ((0, 0), (0, num_frames - log_mel.shape[1])))
    return (padded + 4.268) / 9.138


def voice(seconds, seed=0, pitch=140.0):
    """A buzz with a moving pitch over a floor of noise."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.1 * np.sin(2 * np.pi * t))) / RATE
    buzz = sum(np.sin(k * phase) / k for k in range(1, 20))
    return (0.1 * buzz * (1 + np.sin(6 * t)) + 0.005 * rng.standard_normal(len(t)) + 0.02).astype(np.float32)


# The tower


def test_the_paper_size_tower_has_the_parameters_of_imagebind_huge():
    with torch.device("meta"):
        model = ImageBindAudioModel(ImageBindAudioConfig())
    # Worked out by hand from the shapes of the released tensors (12 blocks of 7,089,408 beside stem and head).
    assert model.num_parameters() == 86_235_648
    assert sum(p.numel() for p in model.layers[0].parameters()) == 7_089_408
    assert model.config.grid == (12, 19)
    assert model.embeddings.position_embedding.shape == (1, 229, 768)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_outputs_and_gradients_equal_a_plain_twin(implementation):
    model = tiny_model().double()
    model.set_attn_implementation(implementation)
    spectrograms = torch.randn(3, 128, 204, dtype=torch.float64, requires_grad=True)
    twin_input = spectrograms.detach().clone().requires_grad_()
    output = model(spectrograms)
    tokens, pooled = plain_forward(model, twin_input)
    torch.testing.assert_close(output.last_hidden_state, tokens)
    torch.testing.assert_close(output.pooler_output, pooled)

    torch.manual_seed(1)
    towards = torch.randn_like(tokens), torch.randn_like(pooled)
    parameters = list(model.parameters())
    grads = torch.autograd.grad(
        (output.last_hidden_state * towards[0]).sum() + (output.pooler_output * towards[1]).sum(),
        [spectrograms, *parameters],
    )
    twin_grads = torch.autograd.grad(
        (tokens * towards[0]).sum() + (pooled * towards[1]).sum(), [twin_input, *parameters]
    )
    for grad, twin_grad in zip(grads, twin_grads, strict=True):
        torch.testing.assert_close(grad, twin_grad)


def test_eager_equals_sdpa_in_float32_and_nearly_in_bf16():
    model, spectrograms = tiny_model(), torch.randn(4, 128, 204)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.06)):
        model.to(dtype)
        outputs = []
        for implementation in ("eager", "sdpa"):
            model.set_attn_implementation(implementation)
            outputs.append(model(spectrograms).pooler_output.float() / 20)
        assert (outputs[0] - outputs[1]).abs().max() < tolerance


def test_the_learned_key_and_value_change_the_output_and_get_one_column_of_attention():
    model, spectrograms = tiny_model(), torch.randn(2, 128, 204)
    model.set_attn_implementation("eager")
    output = model(spectrograms, output_attentions=True, output_hidden_states=True)
    assert [a.shape for a in output.attentions] == [(2, 4, 229, 230)] * 2
    assert [h.shape for h in output.hidden_states] == [(2, 229, 32)] * 3
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    with torch.no_grad():
        model.layers[0].self_attn.bias_v.add_(1.0)
    assert not torch.allclose(model(spectrograms).last_hidden_state, output.last_hidden_state)
    without = tiny_model(add_bias_kv=False)
    assert not any("bias_k" in name for name, _ in without.named_parameters())
    assert without(spectrograms).last_hidden_state.shape == (2, 229, 32)


def test_every_pooled_vector_has_norm_20():
    output = tiny_model()(torch.randn(5, 128, 204) * 7)
    torch.testing.assert_close(output.pooler_output.norm(dim=-1), torch.full((5,), 20.0))


def test_a_batch_equals_its_chunks_one_by_one_and_an_empty_batch_is_empty():
    model, spectrograms = tiny_model(), torch.randn(4, 128, 204)
    together = model(spectrograms)
    for i in range(4):
        alone = model(spectrograms[i : i + 1])
        torch.testing.assert_close(alone.last_hidden_state[0], together.last_hidden_state[i], rtol=1e-5, atol=1e-5)
    assert model(spectrograms[:0]).pooler_output.shape == (0, 24)


def test_frame_states_are_the_mean_over_frequency_rows_at_their_times():
    model, spectrograms = tiny_model(), torch.randn(2, 128, 204)
    tokens = model(spectrograms).last_hidden_state
    states = model.frame_states(tokens)
    assert states.shape == (2, 19, 32)
    for step in (0, 7, 18):
        rows = [tokens[:, 1 + row * 19 + step] for row in range(12)]
        torch.testing.assert_close(states[:, step], torch.stack(rows).mean(0))
    times = model.frame_times(torch.tensor([[0, 2000], [500, -1]]))
    assert times.shape == (2, 2, 19)
    assert times[0, 0].tolist() == list(range(87, 1888, 100))
    assert times[0, 1].tolist() == list(range(2087, 3888, 100))
    assert times[1, 1].tolist() == [-1] * 19


def test_a_sound_moves_the_patches_of_its_own_time():
    """A click at 1.05 s reaches, before attention mixes them, only the time steps whose span holds it."""
    model, extractor = tiny_model(), ImageBindFeatureExtractor()
    quiet = np.zeros(2 * RATE, dtype=np.float32)
    click = quiet.copy()
    click[round(1.05 * RATE)] = 1.0
    features = extractor([quiet, click], return_tensors="pt").input_features[:, 0]
    patches = model.embeddings(features)[:, 1:].unflatten(1, model.config.grid)
    moved = (patches[0] - patches[1]).abs().amax((0, 2)) > 1e-6
    # Step k spans 100 k to 100 k + 175 ms; the click's chunk mean is too small to show.
    assert [k for k, m in enumerate(moved.tolist()) if m] == [9, 10]


def test_the_padded_frames_of_a_full_chunk_are_never_read():
    model, spectrograms = tiny_model(), torch.randn(2, 128, 204)
    other = spectrograms.clone()
    other[..., 196:] = 100.0
    assert torch.equal(model(spectrograms).last_hidden_state, model(other).last_hidden_state)
    other[..., 195] = 100.0
    assert not torch.equal(model(spectrograms).last_hidden_state, model(other).last_hidden_state)


def test_saved_equals_loaded_in_float32_and_bf16(tmp_path):
    spectrograms = torch.randn(2, 128, 204)
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny_model().to(dtype)
        model.save_pretrained(tmp_path / str(dtype))
        loaded, info = ImageBindAudioModel.from_pretrained(tmp_path / str(dtype), output_loading_info=True)
        assert loaded.dtype == dtype
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        assert torch.equal(loaded(spectrograms).pooler_output, model(spectrograms).pooler_output)


def test_a_checkpoint_without_any_tensor_leaves_no_uninitialised_memory(tmp_path):
    """Built on the meta device, every raw parameter must be filled by `_init_weights`."""
    config = tiny_config()
    model = ImageBindAudioModel.from_pretrained(None, config=config, state_dict={})
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), name
        if name.endswith(("cls_token", "position_embedding", "bias_k", "bias_v")):
            assert 0.5 * config.initializer_range < parameter.std() < 2 * config.initializer_range, name


def test_gradient_checkpointing_changes_no_gradient():
    spectrograms = torch.randn(2, 128, 204)
    grads = []
    for checkpointing in (False, True):
        model = tiny_model().train()
        if checkpointing:
            model.activation_checkpointing_enable()
        model(spectrograms).pooler_output.square()[:, :3].sum().backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    assert all(grad is not None for grad in grads[0].values())
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name])


def test_a_spectrogram_of_another_size_is_refused_with_both_sizes():
    with pytest.raises(ValueError, match=r"\(2, 128, 100\).*128 mel bins, 204 frames"):
        tiny_model()(torch.randn(2, 128, 100))


# The feature extractor


def test_every_chunk_equals_the_filter_bank_of_transformers_computed_clip_by_clip():
    extractor = ImageBindFeatureExtractor()
    sounds = [voice(5.3), voice(2.0, seed=1), np.zeros(3 * RATE, dtype=np.float32), voice(11.7, seed=2, pitch=230.0)]
    batch = extractor(sounds, sampling_rate=RATE, return_tensors="pt")
    assert batch.input_features.shape == (4, 8, 128, 204)
    assert batch.input_features.dtype == torch.float32
    for i, sound in enumerate(sounds):
        for j, start in enumerate(extractor.chunk_starts(len(sound))):
            twin = plain_spectrogram(sound[start : start + 2 * RATE])
            assert_same_spectrogram(batch.input_features[i, j].numpy(), twin)


def test_real_speech_equals_the_filter_bank_of_transformers(shared_data):
    import av

    files = sorted(shared_data.glob("ravdess_speech_16k/Actor_0[12]/*.flac"))[:6]
    extractor = ImageBindFeatureExtractor()
    for file in files:
        with av.open(str(file)) as container:
            frames = [frame.to_ndarray().astype(np.float32) / 32768 for frame in container.decode(audio=0)]
        sound = np.concatenate(frames, axis=1)[0]
        batch = extractor([sound])
        for j, start in enumerate(extractor.chunk_starts(len(sound))):
            twin = plain_spectrogram(sound[start : start + 2 * RATE])
            assert np.abs(batch["input_features"][0, j] - twin).max() * 9.138 < LOG_MEL_TOLERANCE


def test_the_last_chunk_ends_with_the_sound_and_the_peers_does_not():
    length = round(7.77 * RATE)
    ours = ImageBindFeatureExtractor().chunk_starts(length)
    assert len(ours) == 8
    assert ours[0] == 0
    assert ours[-1] + 2 * RATE == length
    assert max(np.diff(ours)) - min(np.diff(ours)) <= 1
    theirs = ImageBindFeatureExtractor(clip_sampling="pytorchvideo015").chunk_starts(length)
    assert theirs == [int(i * (length - 2 * RATE) / 8) for i in range(8)]
    assert length - (theirs[-1] + 2 * RATE) == pytest.approx((length - 2 * RATE) / 8, abs=1)
    times = ImageBindFeatureExtractor()(voice(7.77), return_tensors="pt").audio_times
    assert times[0].tolist() == [start * 1000 // RATE for start in ours]
    assert ImageBindFeatureExtractor(num_clips=1).chunk_starts(length) == [(length - 2 * RATE) // 2]


@pytest.mark.parametrize(
    ("seconds", "hop", "starts"),
    [
        (0.5, 2.0, [0]),
        (2.0, 2.0, [0]),
        (2.02, 2.0, [0]),
        (2.03, 2.0, [0, 2000]),
        (5.0, 2.0, [0, 2000, 4000]),
        (6.0, 2.0, [0, 2000, 4000]),
        (5.0, 1.0, [0, 1000, 2000, 3000]),
        (5.5, 1.0, [0, 1000, 2000, 3000, 4000]),
    ],
)
def test_tiling_covers_the_whole_sound_with_consecutive_chunks(seconds, hop, starts):
    extractor = ImageBindFeatureExtractor(hop_seconds=hop)
    batch = extractor([voice(seconds), None], return_tensors="pt")
    assert batch.audio_times[0].tolist() == starts
    assert batch.audio_ends[0].tolist() == [min(start + 2000, round(seconds * 1000)) for start in starts]
    assert batch.audio_attention_mask.tolist() == [[True] * len(starts), [False] * len(starts)]
    assert batch.audio_times[1].tolist() == batch.audio_ends[1].tolist() == [-1] * len(starts)


def test_a_short_sound_is_one_chunk_followed_by_silence():
    extractor = ImageBindFeatureExtractor()
    sound = voice(1.0)
    batch = extractor([sound, voice(4.0)], return_tensors="pt")
    assert batch.audio_attention_mask.tolist() == [[True] + [False] * 7, [True] * 8]
    assert batch.audio_times[0].tolist() == [0] + [-1] * 7
    twin = plain_spectrogram(np.concatenate([sound - sound.mean(), np.zeros(RATE, dtype=np.float32)]))
    assert_same_spectrogram(batch.input_features[0, 0].numpy(), twin)
    silence = (np.log(np.finfo(np.float32).eps) + 4.268) / 9.138
    np.testing.assert_allclose(batch.input_features[0, 0, :, 101:198].numpy(), silence, rtol=1e-5)
    assert (batch.input_features[0, 1:] == 0).all()
    one_sample = extractor(np.ones(1, dtype=np.float32))
    assert np.isfinite(one_sample["input_features"]).all()


def test_a_clip_without_sound_is_a_masked_row():
    for extractor in (ImageBindFeatureExtractor(), ImageBindFeatureExtractor(hop_seconds=2.0)):
        batch = extractor([None, None], return_tensors="pt")
        assert not batch.audio_attention_mask.any()
        assert (batch.audio_times == -1).all()
        assert batch.input_features.shape[0] == 2
        assert batch.input_features.shape[1] >= 1
    mixed = ImageBindFeatureExtractor()([None, voice(3.0)], return_tensors="pt")
    alone = ImageBindFeatureExtractor()([voice(3.0)], return_tensors="pt")
    assert mixed.audio_attention_mask.tolist() == [[False] * 8, [True] * 8]
    torch.testing.assert_close(mixed.input_features[1], alone.input_features[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.array([0.0, np.nan, 0.1], dtype=np.float32), r"waveform 0 has 1 NaN or infinite samples of 3"),
        (np.array([0.0, 0.1, np.inf], dtype=np.float32), r"NaN or infinite.*the first at 0\.000 s"),
        (np.zeros((2, 100), dtype=np.float32), r"shape \(2, 100\); accepted is mono"),
        (np.zeros(100, dtype=np.int16), r"int16 samples; accepted are floating-point"),
        (np.zeros(0, dtype=np.float32), r"no samples; give None"),
    ],
)
def test_bad_sound_is_refused_in_one_sentence(waveform, message):
    with pytest.raises(ValueError, match=message) as error:
        ImageBindFeatureExtractor()([waveform])
    assert "\n" not in str(error.value)


def test_another_sampling_rate_is_refused_with_both_rates():
    with pytest.raises(ValueError, match=r"44100 Hz.*16000 Hz"):
        ImageBindFeatureExtractor()(voice(1.0), sampling_rate=44100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_sampling": "random"}, "'random'; accepted are"),
        ({"num_clips": 0}, "num_clips is 0"),
        ({"hop_seconds": 3.0}, "hop_seconds is 3.0; accepted"),
        ({"hop_seconds": 0.0}, "hop_seconds is 0.0; accepted"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        ImageBindFeatureExtractor(**options)


def test_a_saved_extractor_comes_back_through_the_auto_class(tmp_path):
    extractor = ImageBindFeatureExtractor(num_clips=3, hop_seconds=1.5, clip_sampling="pytorchvideo015")
    extractor.save_pretrained(tmp_path)
    assert (tmp_path / "feature_extraction_imagebind.py").exists()
    own = ImageBindFeatureExtractor.from_pretrained(tmp_path)
    auto = AutoFeatureExtractor.from_pretrained(tmp_path, trust_remote_code=True)
    assert own.to_dict() == extractor.to_dict()
    expected = extractor([voice(4.4), None])
    for loaded in (own, auto):
        found = loaded([voice(4.4), None])
        assert sorted(found) == sorted(expected)
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])
