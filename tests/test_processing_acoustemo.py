"""AcoustEmo's processor: counts and prompt written out, windows, token budget, chunks, and sounds of every kind."""

import json
import warnings
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
import torch
from transformers import AutoProcessor, HubertConfig, Wav2Vec2FeatureExtractor, WhisperConfig, WhisperFeatureExtractor

from hf_emotion.cli import main
from hf_emotion.inference import describe
from hf_emotion.modeling.configuration_voice_prosody import VoiceProsodyConfig
from hf_emotion.papers import build, tiny_tokenizer
from hf_emotion.processing.feature_extraction_imagebind import ImageBindFeatureExtractor
from hf_emotion.processing.image_processing_emotion import EmotionImageProcessor
from hf_emotion.processing.media import load_clip
from hf_emotion.processing.processing_acoustemo import AcoustEmoProcessor, merge_shortest
from hf_emotion.processing.sound_chunks import chunked_features

RATE = 16000
ROWS = [(0.2, 1.0, "I am fine."), {"start": 1.24, "end": 2.0, "text": "Why?", "speaker": "Ann"}]
LINES = "Utterance 1 (0.2s - 1.0s): I am fine.\nUtterance 2 (1.2s - 2.0s, Ann): Why?\n"
HUBERT = HubertConfig(
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=64,
    conv_dim=[16] * 7,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=2,
)
WHISPER = WhisperConfig(
    d_model=32,
    encoder_layers=1,
    encoder_attention_heads=2,
    encoder_ffn_dim=64,
    num_mel_bins=16,
    max_source_positions=500,
)


def make(**settings):
    return AcoustEmoProcessor(
        **{
            "image_processor": EmotionImageProcessor(size={"height": 28, "width": 28}),
            "feature_extractor": ImageBindFeatureExtractor(hop_seconds=2.0),
            "tokenizer": tiny_tokenizer(),
            "num_query_tokens": 3,
            "num_audio_query_tokens": 2,
            "face_config": {"backend": "none"},
            **settings,
        }
    )


def noise(seconds, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, round(RATE * seconds)).astype(np.float32)


def sound(seconds=2.5, rate=RATE):
    return {"waveform": noise(seconds), "sampling_rate": rate}


def movie(frames=4, seconds=2.5):
    return {"frames": np.zeros((frames, 32, 40, 3), np.uint8), "fps": 2, **sound(seconds)}


def prompt_of(processor, batch, row=0):
    kept = batch["input_ids"][row, batch["attention_mask"][row].bool()]
    return processor.tokenizer.decode(kept)


@pytest.mark.parametrize(
    ("settings", "order", "tokens"),
    [
        ({}, " (the whole clip, then each utterance)", 6),
        ({"use_global": False}, " (each utterance)", 4),
        ({"use_utterances": False}, "", 2),
        ({"window_seconds": 2.0}, " (the whole clip, then each 2 s)", 6),
        ({"window_seconds": 1.0}, " (the whole clip, then each 1 s)", 8),
    ],
)
def test_the_prompt_says_which_sound_its_tokens_stand_for_and_names_each_utterance(settings, order, tokens):
    processor = make(**settings)
    batch = processor(videos=movie(), text="How is she?", utterances=ROWS, return_tensors="pt")
    assert prompt_of(processor, batch) == (
        f"<s>[INST] The video content is as follows: <Video>{'<video>' * 12}</Video>. "
        f"The audio content{order} is as follows: <Audio>{'<audio>' * tokens}</Audio>. "
        f"The utterances are as follows:\n{LINES}Now answer my question based on all of this. How is she? [/INST]"
    )


def test_a_clip_without_utterances_has_the_tokens_of_the_whole_alone():
    for settings in ({}, {"use_global": False}, {"use_utterances": False}):
        processor = make(**settings)
        batch = processor(videos=sound(), return_tensors="pt")
        assert prompt_of(processor, batch).count("<audio>") == 2
        assert "The audio content is as follows" in prompt_of(processor, batch)


def test_video_tokens_follow_the_frames_that_a_clip_has():
    processor = make()
    batch = processor(videos=[movie(4), movie(2), sound()], return_tensors="pt")
    assert [prompt_of(processor, batch, row).count("<video>") for row in range(3)] == [12, 6, 0]


def test_fixed_windows_replace_the_utterances_in_the_spans_only():
    batch = make(window_seconds=2.0)(videos=sound(4.5), utterances=ROWS, return_tensors="pt", return_metadata=True)
    assert batch["utterance_spans"].tolist() == [[[0, 2000], [2000, 4000], [4000, 4500]]]
    assert [row["text"] for row in batch["video_metadata"][0]["utterances"]] == ["I am fine.", "Why?"]


def test_context_widens_what_is_heard_and_not_what_is_shown():
    processor = make(context_seconds=0.6)
    batch = processor(videos=sound(), utterances=ROWS, return_tensors="pt")
    assert batch["utterance_spans"].tolist() == [[[0, 1600], [640, 2500]]]
    assert LINES in prompt_of(processor, batch)


@pytest.mark.parametrize(
    ("use_global", "before"), [(True, "The audio content is as follows: <Audio>@@</Audio>. "), (False, "")]
)
def test_interleaved_tokens_stand_in_the_line_of_their_utterance(use_global, before):
    processor = make(interleave=True, use_global=use_global)
    batch = processor(videos=[sound(), sound()], text="How?", utterances=[ROWS, None], return_tensors="pt")
    assert prompt_of(processor, batch).replace("<audio>", "@") == (
        f"<s>[INST] {before}The utterances are as follows:\n"
        "Utterance 1 (0.2s - 1.0s): I am fine. <Audio>@@</Audio>\n"
        "Utterance 2 (1.2s - 2.0s, Ann): Why? <Audio>@@</Audio>\n"
        "Now answer my question based on all of this. How? [/INST]"
    )
    assert prompt_of(processor, batch, 1).count("<audio>") == 2
    with pytest.raises(ValueError, match="has 1 <audio> placeholders, and its clip"):
        processor(videos=sound(), text="<audio> How?", utterances=[*ROWS, (2.1, 2.4)], is_prompt=True)


def test_the_pair_that_spans_the_least_time_is_merged():
    rows = [
        {"start": s, "end": e, "text": text, "speaker": speaker}
        for s, e, text, speaker in [(0, 4, "a", "X"), (5, 6, "b", "X"), (6, 8, None, "Y"), (9, 20, "d", None)]
    ]
    assert merge_shortest(rows) == [
        rows[0],
        {"start": 5, "end": 8, "text": "b", "speaker": "X, Y"},
        rows[3],
    ]


def test_a_prompt_over_the_limit_merges_neighbours_and_says_so():
    rows = [(0.5 * i, 0.5 * i + (0.1 if i in (4, 5) else 0.4), f"word {i}") for i in range(12)]
    free = make(num_audio_query_tokens=16, max_length=None)
    whole = free(videos=sound(7), utterances=rows, return_tensors="pt")
    assert whole["utterance_spans"].shape[1] == 12
    tight = make(num_audio_query_tokens=16, max_length=400, reserved_tokens=100)
    with pytest.warns(UserWarning, match="12 utterances were merged into"):
        batch = tight(videos=sound(7), utterances=rows, return_tensors="pt", return_metadata=True)
    assert batch["input_ids"].shape[1] <= 400
    [report] = batch["video_metadata"]
    count = len(report["utterances"])
    assert 1 < count < 12
    assert batch["utterance_spans"].shape[1] == count
    assert (batch["input_ids"] == tight.audio_token_id).sum() == 16 * (1 + count)
    assert report["notes"] == [f"12 utterances were merged into {count}, so that the prompt fits 400 tokens."]
    # No word is lost, and no further merge was needed.
    assert " ".join(row["text"] for row in report["utterances"]) == " ".join(text for _, _, text in rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = tight.load_clips(*[[clip] for clip in (replace(load_clip(sound(7)), utterances=report["utterances"]),)])
    assert again[0].utterances == report["utterances"]


def test_fixed_windows_over_the_limit_are_merged_as_well():
    processor = make(num_audio_query_tokens=16, max_length=400, reserved_tokens=100, window_seconds=1.0)
    with pytest.warns(UserWarning, match="40 windows of 1 s were merged into"):
        batch = processor(videos=sound(40), return_tensors="pt")
    spans = batch["utterance_spans"][0].tolist()
    assert spans[0][0] == 0
    assert spans[-1][1] == 40000
    assert all(a[1] == b[0] for a, b in pairwise(spans))
    assert len(spans) < 20


def test_a_clip_that_no_merging_makes_fit_is_refused_with_the_numbers():
    processor = make(num_query_tokens=100, max_length=512)
    with pytest.raises(ValueError, match=r"400 video tokens and 0 tokens of utterances, which leaves -144"):
        processor(videos=movie(4), return_tensors="pt")


def test_long_sound_is_cut_into_whole_chunks_each_as_the_extractor_makes_it_alone():
    extractor = WhisperFeatureExtractor(feature_size=16, chunk_length=2)
    waves = [noise(5.0), noise(1.0, 1), noise(2.01, 2), noise(0.001, 3)]
    found = chunked_features(extractor, waves)
    assert found["input_features"].shape == (4, 3, 16, 200)
    assert found["audio_times"].tolist() == [[0, 2000, 4000], [0, -1, -1], [0, -1, -1], [0, -1, -1]]
    assert found["attention_mask"].sum(-1).tolist() == [[200, 200, 100], [100, 0, 0], [200, 0, 0], [1, 0, 0]]
    for i, start in enumerate((0, 2, 4)):
        alone = extractor(waves[0][start * RATE : (start + 2) * RATE], sampling_rate=RATE, return_tensors="np")
        np.testing.assert_allclose(found["input_features"][0, i], alone["input_features"][0], atol=1e-6)


def test_a_tiny_model_has_as_many_embeddings_as_the_tokenizer_it_is_given():
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<own>"])
    size = len(tokenizer)
    model, _ = build("acoustemo", tokenizer=tokenizer)
    assert model.get_input_embeddings().weight.shape[0] == size == len(tiny_tokenizer()) + 1


@pytest.mark.parametrize(
    "audio_config", [None, HUBERT, WHISPER, VoiceProsodyConfig()], ids=["imagebind", "hubert", "whisper", "voice cues"]
)
def test_sound_of_every_kind_gives_finite_tokens(audio_config):
    towers = {} if audio_config is None else {"audio_config": audio_config}
    model, processor = build("acoustemo", **towers)
    stereo = np.stack([noise(3 * 6), noise(3 * 6, 1)])  # 3 s at 96 kHz
    clips = {
        "silent": {"waveform": np.zeros(2 * RATE, np.float32), "sampling_rate": RATE},
        "clipped": {"waveform": np.sign(noise(2)), "sampling_rate": RATE},
        "8 kHz": {"waveform": noise(1), "sampling_rate": 8000},
        "96 kHz stereo": {"waveform": stereo, "sampling_rate": 96000},
        "0.05 s": {"waveform": noise(0.05), "sampling_rate": RATE},
        "0.01 s": {"waveform": noise(0.01), "sampling_rate": RATE},
    }
    loaded = processor.load_clips(list(clips.values()))
    assert [round(clip.duration / 1000, 2) for clip in loaded] == [2.0, 2.0, 2.0, 3.0, 0.05, 0.01]
    batch = processor(videos=loaded, utterances=[[(0.0, 0.04, "Oh.")]] * 5 + [None], return_tensors="pt")
    with torch.no_grad():
        tokens = model.get_audio_features(
            **{name: batch.get(name) for name in model.media_inputs if "audio" in name or "input_" in name},
            utterance_spans=batch["utterance_spans"],
        ).pooler_output
        logits = model(**batch).logits
    assert [len(own) for own in tokens] == [16] * 5 + [8]
    assert all(torch.isfinite(own).all() for own in tokens)
    assert torch.isfinite(logits).all()
    broken = noise(1)
    broken[4000] = np.nan
    with pytest.raises(ValueError, match=r"NaN or infinite samples, the first at 0\.25 s"):
        processor(videos={"waveform": broken, "sampling_rate": RATE}, return_tensors="pt")


def test_twenty_minutes_are_heard_to_their_end_or_refused_in_one_sentence():
    wave = np.tile(noise(10), 120)
    long = {"waveform": wave, "sampling_rate": RATE}
    rows = [(0.0, 2.0, "Hello."), (1197.0, 1199.5, "Bye.")]
    chunks = make()(videos=long, utterances=rows, return_tensors="pt")
    assert chunks["audio_attention_mask"].shape == (1, 600)
    assert chunks["utterance_spans"].tolist() == [[[0, 2000], [1197000, 1199500]]]
    waves = make(feature_extractor=Wav2Vec2FeatureExtractor(return_attention_mask=True))
    with pytest.raises(ValueError, match=r"a sound of 1200\.0 s was passed .* up to 120 s is accepted"):
        waves(videos=long, return_tensors="pt")


def test_a_sound_too_long_for_its_tower_does_not_stop_the_clips_beside_it():
    model, processor = build("acoustemo", audio_config=HUBERT)
    found = describe([sound(1), sound(121), sound(1)], model, processor, max_new_tokens=2)
    assert ["error" in result for result in found] == [False, True, False]
    assert "a sound of 121.0 s was passed" in found[1]["error"]


def test_settings_that_contradict_each_other_are_refused():
    for settings, message in (
        ({"use_global": False, "use_utterances": False}, "at least one"),
        ({"interleave": True, "window_seconds": 2.0}, "interleave needs utterances"),
        ({"feature_extractor": ImageBindFeatureExtractor()}, "hop_seconds=2.0"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**settings)


def test_a_saved_processor_makes_the_same_batch(tmp_path):
    _, processor = build("acoustemo")
    settings = {"window_seconds": 1.5, "context_seconds": 0.25, "max_length": 900, "reserved_tokens": 200}
    for name, value in settings.items():
        setattr(processor, name, value)
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert {name: getattr(again, name) for name in settings} == settings
    one, other = (p(videos=sound(), utterances=ROWS, return_tensors="pt") for p in (processor, again))
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)


def write_sound(path, samples, rate):
    """(channels, S) float32 as a wav file, whatever the samples hold."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=rate, layout="mono" if len(samples) == 1 else "stereo")
        block = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples.T.reshape(1, -1), dtype=np.float32), format="flt", layout=stream.layout
        )
        block.sample_rate, block.time_base, block.pts = rate, Fraction(1, rate), 0
        container.mux(stream.encode(block))
        container.mux(stream.encode())
    return str(path)


def test_predict_answers_sound_files_of_every_kind_and_names_the_one_it_cannot_hear(tmp_path, capsys):
    folder = str(tmp_path / "model")
    assert main(["init", "acoustemo", "--output", folder]) == 0
    broken = noise(1)
    broken[4000] = np.nan
    sounds = {
        "silent": (np.zeros(2 * RATE, np.float32)[None], RATE),
        "clipped": (np.sign(noise(2))[None], RATE),
        "nan": (broken[None], RATE),
        "8k": (noise(1)[None], 8000),
        "96k_stereo": (np.stack([noise(3 * 6), noise(3 * 6, 1)]), 96000),
        "short": (noise(0.05)[None], RATE),
        "long": (np.tile(noise(10), 120)[None], RATE),
    }
    files = [write_sound(tmp_path / f"{name}.wav", *given) for name, given in sounds.items()]
    capsys.readouterr()
    code = main(["predict", *files, "--model", folder, "--max-new-tokens", "2", "--batch-size", "1", "--json"])
    captured = capsys.readouterr()
    results = dict(zip(sounds, json.loads(captured.out), strict=True))
    assert code == 1
    assert [name for name, found in results.items() if "error" in found] == ["nan"]
    assert "nan.wav: the sound holds NaN or infinite samples, the first at 0.25 s" in captured.err
    assert "Traceback" not in captured.err
    durations = [round(found["duration"], 2) for found in results.values() if "error" not in found]
    assert durations == [2.0, 2.0, 2.0, 3.0, 0.05, 1200.0]
    assert all(found["modalities"] == ["audio"] for found in results.values() if "error" not in found)
