"""The voice tower's cues: what they measure, and that level, length and silence do not pass for it."""

import numpy as np
import pytest
import torch

from hf_emotion.modeling.configuration_voice_prosody import VoiceProsodyConfig
from hf_emotion.modeling.modeling_voice_prosody import VoiceProsodyModel
from hf_emotion.processing.feature_extraction_voice import CUES, VoiceCueExtractor

RATE = 16000
NAMES = list(CUES)


def vowel(pitch=120.0, seconds=2.0, tilt=-6.0):
    """Harmonics of a pitch (Hz) that fall by `tilt` dB an octave, in syllables of 0.25 s."""
    time = np.arange(int(seconds * RATE)) / RATE
    number = np.arange(1, int(5000 / pitch) + 1)
    sound = (10 ** (tilt * np.log2(number) / 20)) @ np.sin(2 * np.pi * pitch * number[:, None] * time)
    sound = sound * np.abs(np.sin(np.pi * time / 0.25)) ** 0.5
    return (0.3 * sound / np.abs(sound).max()).astype(np.float32)


def mean_cues(sound):
    cues = VoiceCueExtractor()(sound, return_tensors="np")["input_features"][0, 0]
    cues = cues[:, cues[NAMES.index("heard")] > 0].mean(1)
    return {name: value * half + middle for (name, (middle, half)), value in zip(CUES.items(), cues, strict=True)}


@pytest.mark.parametrize("pitch", [90.0, 150.0, 300.0])
def test_pitch_is_measured_in_octaves_over_150_hz(pitch):
    assert mean_cues(vowel(pitch))["pitch"] == pytest.approx(np.log2(pitch / 150), abs=0.03)


def test_a_flatter_spectrum_has_more_tilt_cue_and_loudness_changes_nothing():
    soft, bright = mean_cues(vowel(tilt=-12.0)), mean_cues(vowel(tilt=-3.0))
    assert bright["tilt"] > soft["tilt"] + 6
    quiet = mean_cues(0.05 * vowel(tilt=-3.0))
    assert {name: round(value, 2) for name, value in quiet.items()} == pytest.approx(
        {name: round(value, 2) for name, value in bright.items()}, abs=0.02
    )


def test_rate_counts_syllables_and_not_the_silence_around_them():
    silence = np.zeros(RATE, np.float32)
    padded = mean_cues(np.concatenate([silence, vowel(), silence]))
    assert mean_cues(vowel())["rate"] == pytest.approx(4.0, abs=0.8)
    assert padded["rate"] == pytest.approx(mean_cues(vowel())["rate"], abs=0.8)


def test_what_is_relative_to_the_clip_tells_two_halves_apart():
    extractor = VoiceCueExtractor()
    sound = np.concatenate([vowel(120.0), vowel(200.0)])
    row = extractor(sound, return_tensors="np")["input_features"][0, 0, NAMES.index("pitch_to_clip")]
    assert row[25:35].mean() - row[5:15].mean() > 1.0  # in units of 0.3 octaves


@pytest.mark.parametrize(
    "sound", [np.zeros(RATE), np.full(RATE, 0.5), 1e-5 * np.random.default_rng(0).normal(size=RATE), np.zeros(3)]
)
def test_where_nobody_speaks_all_cues_are_zero(sound):
    features = VoiceCueExtractor()(sound.astype(np.float32), return_tensors="np")
    assert not features["input_features"].any()
    assert features["audio_attention_mask"].all()


def test_a_batch_is_padded_and_each_clip_is_as_it_is_alone():
    extractor, sounds = VoiceCueExtractor(), [vowel(seconds=1.0), vowel(180.0, seconds=2.0)]
    batch = extractor(sounds, return_tensors="np")
    for i, sound in enumerate(sounds):
        alone = extractor(sound, return_tensors="np")["input_features"][0]
        length = alone.shape[-1]
        np.testing.assert_array_equal(batch["input_features"][i][..., :length], alone)
        assert batch["audio_attention_mask"][i].sum() == length


def test_another_rate_and_samples_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="44100 Hz"):
        VoiceCueExtractor()(np.zeros(10), sampling_rate=44100)
    with pytest.raises(ValueError, match="waveform 1"):
        VoiceCueExtractor()([np.zeros(10), np.array([0.0, np.nan])])


def test_the_tower_gives_a_state_for_each_frame():
    model = VoiceProsodyModel(VoiceProsodyConfig()).eval()
    features = torch.randn(2, len(CUES), 7)
    assert model(features).last_hidden_state.shape == (2, 7, model.config.hidden_size)
