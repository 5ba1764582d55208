"""What AcoustEmo alone claims: Eq. 1 and its roundings, one tower pass, any audio tower, attention over time, parts."""

import math

import numpy as np
import pytest
import torch
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    HubertConfig,
    LlamaConfig,
    LlamaForCausalLM,
    WhisperConfig,
)

from hf_emotion.evaluation.listening import listen, plot_listening
from hf_emotion.inference import describe
from hf_emotion.modeling.configuration_acoustemo import AcoustEmoConfig
from hf_emotion.modeling.configuration_emotion import frame_rate_of
from hf_emotion.modeling.modeling_acoustemo import AcoustEmoForConditionalGeneration, AcoustEmoModel
from hf_emotion.modeling.modeling_imagebind_audio import ImageBindAudioModel
from hf_emotion.modeling.parts import PartsError
from hf_emotion.modeling.sound import encode_sound, sound_times
from hf_emotion.papers import TINY_QFORMER, acoustemo_config, build, tiny_imagebind

VOCAB = 300
HUBERT = HubertConfig(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=64,
    conv_dim=[16] * 7,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=2,
    hidden_dropout=0.0,
    attention_dropout=0.0,
    layerdrop=0.0,
)
WHISPER = WhisperConfig(
    d_model=32,
    encoder_layers=2,
    encoder_attention_heads=2,
    encoder_ffn_dim=64,
    num_mel_bins=16,
    max_source_positions=100,
)


def model_with(audio_config=None, seed=0, **fields):
    torch.manual_seed(seed)
    towers = {} if audio_config is None else {"audio_config": audio_config}
    return AcoustEmoModel(acoustemo_config("tiny", VOCAB, vision_config=None, **towers, **fields)).eval()


def waveform_batch():
    """Two waveforms of 2 s and 1.2 s, with 3 and 1 utterances."""
    values = torch.randn(2, 32000, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 32000, dtype=torch.bool)
    mask[1, 19200:] = False
    spans = torch.tensor([[[0, 430], [431, 1210], [1500, 1999]], [[333, 777], [-1, -1], [-1, -1]]])
    return {"input_values": values * mask, "audio_attention_mask": mask, "utterance_spans": spans}


def eq_1(start, end, frame_rate, length, rounding):
    """F_A[lower : upper] of Eq. 1, times in ms; `None` where the slice is empty."""
    lower = math.floor(start * frame_rate / 1000) if rounding == "outward" else math.ceil(start * frame_rate / 1000)
    upper = min(math.ceil(end * frame_rate / 1000), length)
    return range(lower, upper) if lower < upper else None


# Tower, f_s, and frames of a chunk or a waveform.
TOWERS = {
    "imagebind": (None, 10, 19),
    "whisper": (WHISPER, 50, 100),
    "hubert": (HUBERT, 50, 99),
    "30 Hz": (HUBERT, 30, 60),
}


@pytest.mark.parametrize("rounding", ["outward", "paper"])
@pytest.mark.parametrize(("audio_config", "rate", "length"), TOWERS.values(), ids=TOWERS)
def test_windows_hold_the_frames_of_equation_1_whatever_the_tower(audio_config, rate, length, rounding):
    model = model_with(audio_config, rounding=rounding, audio_frame_rate=rate)
    rng = np.random.default_rng(0)
    starts = rng.integers(0, 1000 * length // rate - 100, 300)
    ends = starts + rng.choice([1, 7, 19, 20, 21, 40, 100, 333, 800], 300)
    starts[:4], ends[:4] = [0, 100, 100, 99], [20, 120, 200, 101]  # on the frames' own borders
    spans = torch.tensor(np.stack([starts, ends], -1))[None]
    mask = torch.ones(1, length, dtype=torch.bool)
    moment = model.config.audio_frame_times
    times = sound_times(model.audio_tower, mask, rate, torch.zeros(1, 1, dtype=torch.long), moment)
    windows = model.audio_qformer.windows(times, model.window_spans(spans))[0, 1:]
    empty = 0
    for window, start, end in zip(windows, starts.tolist(), ends.tolist(), strict=True):
        expected = eq_1(start, end, rate, length, rounding)
        frames = window.nonzero().flatten().tolist()
        if expected is None:
            empty += 1
            assert len(frames) == 1
            assert abs(1000 / rate * frames[0] - (start + end) / 2) <= 1000 / rate
        else:
            assert frames == list(expected), (start, end)
    # Only ceiling both ends can leave an utterance empty, or one that starts after the last frame.
    assert empty > 0 if rounding == "paper" else empty == 0


@pytest.mark.parametrize("rounding", ["outward", "paper"])
def test_tokens_and_gradients_equal_a_plain_loop_over_slices(rounding):
    model = model_with(HUBERT, rounding=rounding)
    batch = waveform_batch()

    def plain():
        tokens = []
        for clip in range(2):
            _, states, mask = encode_sound(
                model.audio_tower, "frames", None, batch["input_values"], batch["audio_attention_mask"]
            )
            frames = (states + model.audio_position_embedding(mask))[clip, mask[clip]]
            parts = [model.audio_qformer.global_qformer(frames[None])]
            for start, end in batch["utterance_spans"][clip].tolist():
                if start >= 0:
                    heard = eq_1(start, end, 50, len(frames), rounding)
                    parts.append(model.audio_qformer.utterance_qformer(frames[heard.start : heard.stop][None]))
            tokens.append(model.audio_projector(torch.cat(parts).flatten(0, 1)))
        return tokens

    weights = torch.randn(48, 128, generator=torch.Generator().manual_seed(1))
    results = []
    for tokens in (model.get_audio_features(**batch).pooler_output, plain()):
        model.zero_grad()
        (torch.cat(tokens) * weights).sum().backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        results.append((tokens, gradients))
    assert [len(tokens) for tokens in results[0][0]] == [32, 16]
    for ours, theirs in zip(results[0][0], results[1][0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert results[0][1].keys() == results[1][1].keys()
    for name, gradient in results[1][1].items():
        torch.testing.assert_close(results[0][1][name], gradient, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("count", [0, 1, 32])
def test_the_tower_runs_once_for_a_clip_whatever_the_number_of_utterances(count):
    model = model_with()
    calls = []
    model.audio_tower.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    edges = torch.linspace(0, 4000, count + 1).long()
    spans = torch.stack([edges[:-1], edges[1:]], -1)[None]
    found = model.get_audio_features(
        input_features=torch.randn(1, 2, 128, 204),
        audio_attention_mask=torch.ones(1, 2, dtype=torch.bool),
        audio_times=torch.tensor([[0, 2000]]),
        utterance_spans=spans,
    )
    assert calls == [2]
    assert [len(tokens) for tokens in found.pooler_output] == [8 * (1 + count)]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_chosen_layers_of_the_tower_make_the_frames(reduction):
    model = model_with(HUBERT, audio_layers=[1, -1], audio_layer_reduction=reduction, num_audio_positions=0)
    batch = waveform_batch()
    sound = {name: batch[name] for name in ("input_values", "audio_attention_mask")}
    _, states, times = model.acoustic_frames(**sound)
    tower = model.audio_tower(
        batch["input_values"], attention_mask=batch["audio_attention_mask"].long(), output_hidden_states=True
    )
    expected = tower.hidden_states[1] + tower.hidden_states[-1]
    expected = expected / 2 if reduction == "mean" else expected
    real = times >= 0
    torch.testing.assert_close(states[real], expected[real])
    last = model_with(HUBERT, num_audio_positions=0).acoustic_frames(**sound)[1]
    assert not torch.allclose(states[real], last[real])


@pytest.mark.parametrize(
    ("config", "rate"), [(tiny_imagebind(), 10), (HUBERT, 50), (WHISPER, 50)], ids=["imagebind", "hubert", "whisper"]
)
def test_the_frame_rate_is_the_towers_own_unless_given(config, rate):
    assert frame_rate_of(config) == rate
    assert acoustemo_config("tiny", VOCAB, audio_config=config).audio_frame_rate == rate
    assert acoustemo_config("tiny", VOCAB, audio_config=config, audio_frame_rate=25).audio_frame_rate == 25


def test_frames_of_whisper_chunks_follow_each_other_and_stop_with_the_sound():
    model = model_with(WHISPER)
    mask = torch.ones(1, 2, 200, dtype=torch.bool)
    mask[0, 1, 61:] = False  # 610 ms of the second chunk of 2 s
    sound = {
        "input_features": torch.randn(1, 2, 16, 200),
        "audio_attention_mask": mask,
        "audio_times": torch.tensor([[0, 2000]]),
    }
    _, _, times = model.acoustic_frames(**sound)
    assert times[0][times[0] >= 0].tolist() == [20 * i for i in range(131)]
    spans = torch.tensor([[[1900, 2300]]])
    tokens = model.get_audio_features(**sound, utterance_spans=spans).pooler_output[0]
    _, cached, _ = encode_sound(model.audio_tower, "frames", sound.pop("input_features"), None, mask)
    again = model.get_audio_features(**sound, audio_features=cached, utterance_spans=spans).pooler_output[0]
    torch.testing.assert_close(again, tokens)


def test_folders_of_0_1_keep_the_middles_of_imagebinds_patches():
    written = model_with().config.to_dict()
    assert written.pop("audio_frame_times") == "start"
    assert AcoustEmoConfig.from_dict(written).audio_frame_times == "middle"


def test_silence_after_the_end_of_a_sound_is_not_heard():
    model = model_with()
    sound = {
        "input_features": torch.randn(1, 2, 128, 204),
        "audio_attention_mask": torch.ones(1, 2, dtype=torch.bool),
        "audio_times": torch.tensor([[0, 2000]]),
        "audio_ends": torch.tensor([[2000, 2030]]),
    }
    _, _, times = model.acoustic_frames(**sound)
    # The second chunk holds 30 ms of sound, all of it in its first frame.
    assert times[0][times[0] >= 0].tolist() == [100 * i for i in range(19)] + [2000]
    _, cached, _ = encode_sound(
        model.audio_tower, "frames", sound["input_features"], None, sound["audio_attention_mask"]
    )
    changed = cached.clone()
    changed[:, 20:] += 1
    without = {name: value for name, value in sound.items() if name != "input_features"}
    one, other = (
        model.get_audio_features(**without, audio_features=states).pooler_output[0] for states in (cached, changed)
    )
    torch.testing.assert_close(one, other)
    whole = model.get_audio_features(**{**without, "audio_ends": None}, audio_features=changed).pooler_output[0]
    assert not torch.allclose(one, whole)


@pytest.mark.parametrize("count", [0, 2])
def test_without_the_global_window_a_clip_without_utterances_is_one_window(count):
    model = model_with(use_global=False)
    spans = torch.tensor([[[0, 500], [500, 900]]])[:, :count]
    [tokens] = model.get_audio_features(
        input_features=torch.randn(1, 1, 128, 204),
        audio_attention_mask=torch.ones(1, 1, dtype=torch.bool),
        audio_times=torch.zeros(1, 1, dtype=torch.long),
        utterance_spans=spans,
    ).pooler_output
    assert len(tokens) == 8 * max(count, 1)
    assert model.audio_qformer.global_qformer is None


@pytest.mark.parametrize("layer", [0, -1])
def test_attention_over_time_is_that_of_the_plain_model_and_stays_in_its_windows(layer):
    model = model_with(HUBERT)
    batch = waveform_batch()
    every, times = model.attention_over_time(layer=layer, average=False, **batch)
    mean, _ = model.attention_over_time(layer=layer, **batch)
    assert every.shape == (2, 4, 4, 8, times.shape[1])
    torch.testing.assert_close(mean, every.mean((2, 3)))
    windows = model.audio_qformer.windows(times, model.window_spans(batch["utterance_spans"]))
    torch.testing.assert_close(mean.sum(-1), windows.any(-1).float())
    assert (mean[~windows] == 0).all()

    # The plain twin: the stock eager attention, which returns its weights.
    block = model.audio_qformer.utterance_qformer.qformer
    block.set_attn_implementation("eager")
    kept = []
    attention = block.encoder.layer[layer].crossattention.attention
    attention.register_forward_hook(lambda module, inputs, output: kept.append(output[1]))
    _, frames, _ = model.acoustic_frames(
        input_values=batch["input_values"], audio_attention_mask=batch["audio_attention_mask"]
    )
    heard = windows[0, 2]
    model.audio_qformer.utterance_qformer(frames[:1, heard])
    torch.testing.assert_close(every[0, 2][..., heard], kept[0][0])


def test_listening_is_drawn_over_the_waveform(tmp_path):
    model, processor = build("acoustemo")
    sound = {"waveform": np.random.default_rng(0).normal(0, 0.1, 40000).astype(np.float32), "sampling_rate": 16000}
    found = listen(model, processor, sound, [(0.2, 1.0, "I am fine."), (1.2, 2.0)])
    assert found.weights.shape == (3, len(found.times))
    np.testing.assert_allclose(found.weights.sum(1), 1, rtol=1e-5)
    inside = found.weights[2] > 0
    assert found.times[inside].min() > 1.0
    assert found.times[inside].max() < 2.0
    plot_listening(found, tmp_path / "listening.png")
    assert [path.name for path in tmp_path.iterdir()] == ["listening.png"]
    microemo, processor = build("microemo")
    with pytest.raises(ValueError, match="has no windows of sound"):
        listen(microemo, processor, sound)


def test_a_tiny_model_describes_a_sound_from_end_to_end():
    model, processor = build("acoustemo")
    sound = {"waveform": np.random.default_rng(0).normal(0, 0.1, 40000).astype(np.float32), "sampling_rate": 16000}
    [found] = describe([sound], model, processor, utterances=[[(0.2, 1.0, "Why?")]], max_new_tokens=3)
    assert "error" not in found
    assert found["modalities"] == ["audio"]
    assert found["utterances"][0]["text"] == "Why?"


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    root = tmp_path_factory.mktemp("parts")
    torch.manual_seed(0)
    llama = LlamaConfig(vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    vision = Blip2VisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, image_size=28, patch_size=14
    )
    qformer = Blip2QFormerConfig(**TINY_QFORMER, encoder_hidden_size=32)
    blip = Blip2Config(
        vision_config=vision.to_dict(),
        qformer_config=qformer.to_dict(),
        text_config=llama.to_dict(),
        num_query_tokens=5,
    )
    Blip2ForConditionalGeneration(blip).save_pretrained(root / "blip2")
    LlamaForCausalLM(llama).save_pretrained(root / "llama")
    ImageBindAudioModel(tiny_imagebind()).save_pretrained(root / "imagebind")
    return root


def test_parts_are_assembled_and_what_the_paper_tunes_is_new(parts):
    model = AcoustEmoForConditionalGeneration.from_pretrained_parts(
        vision=parts / "blip2",
        qformer=parts / "blip2",
        audio=parts / "imagebind",
        text=parts / "llama",
        num_audio_query_tokens=8,
    )
    published = Blip2ForConditionalGeneration.from_pretrained(parts / "blip2").state_dict()
    ours = model.state_dict()
    for name, tensor in published.items():
        for theirs, mine in (
            ("model.qformer.", "model.image_qformer.qformer."),
            ("qformer.", "model.image_qformer.qformer."),
            ("vision_model.", "model.vision_tower."),
        ):
            if name.startswith(theirs):
                assert torch.equal(ours[mine + name.removeprefix(theirs)], tensor), name
    assert model.config.num_query_tokens == 5
    assert model.config.audio_frame_rate == 10
    new = {name.split(".")[1] for name in model.parts_report.new}
    assert new == {"audio_qformer", "audio_projector", "audio_position_embedding", "video_projector"}


def test_an_image_qformer_that_reads_text_is_refused(parts):
    with pytest.raises(PartsError, match="accepted are BLIP-2 checkpoints"):
        AcoustEmoForConditionalGeneration.from_pretrained_parts(qformer=parts / "llama")
