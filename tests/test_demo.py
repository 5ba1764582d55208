"""The demo corpus: the same files twice, one planted cue, controls that differ in nothing else.

The clips are made in spawned processes only: a FaceMesh of the test process would crash the forked children of others.
"""

import hashlib
import itertools
import json
import shutil
import sys
from collections import Counter

import av
import numpy as np
import pytest

from hf_emotion.answers.words import emotion_words
from hf_emotion.data import demo
from hf_emotion.data.schema import FIELDS, make_row
from hf_emotion.processing.media import load_clip

SMALL = {"size": 96, "fps": 10, "progress": False}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, demo.make_demo(folder, 8, num_workers=2, **SMALL)


def pair(rows, cue):
    clip, control = sorted((row for row in rows if row["cue"] == cue), key=lambda row: row["control"])
    assert clip["twin"] == control["id"]
    assert control["twin"] == clip["id"]
    return clip, control


def frames_of(row):
    with av.open(row["video"]) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def changed(a, b):
    """(T, H, W) pixels of two clips that differ by more than the encoder's own noise."""
    return np.abs(frames_of(a).astype(int) - frames_of(b)).max(-1) > 40


def sound_of(row):
    return load_clip(row["video"], frames=False).waveform


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (folder / "clips").iterdir()}


def draws_of(cue, label, control=False, pair_number=3, strength=1.0, distractors=1.0):
    return demo._draw(0, pair_number, cue, label, control, strength, distractors)


def plan(clips, **changes):
    given = {"seed": 0, "cues": demo.CUES, "emotions": demo.EMOTIONS, "controls": 0.5, "strength": 1, "distractors": 1}
    return demo._plan(clips, **given | changes)


def test_an_interrupted_corpus_is_finished_by_another_number_of_workers_with_the_same_bytes(corpus, tmp_path):
    folder, _ = corpus
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    names = sorted(path.name for path in (copy / "clips").iterdir())
    (copy / "clips" / names[0]).unlink()
    cut = copy / "clips" / names[1]
    cut.write_bytes(cut.read_bytes()[:5000])
    (copy / "clips" / f"{names[2]}.part").write_bytes(b"left by a run that was killed")
    (copy / "metadata.jsonl").unlink()
    before = {name: (copy / "clips" / name).stat().st_mtime_ns for name in names[2:]}

    demo.make_demo(copy, 8, num_workers=1, **SMALL)

    (copy / "clips" / f"{names[2]}.part").unlink()
    assert hashes(copy) == hashes(folder)
    assert {name: (copy / "clips" / name).stat().st_mtime_ns for name in names[2:]} == before
    assert (copy / "metadata.jsonl").read_bytes() == (folder / "metadata.jsonl").read_bytes()


def test_other_arguments_make_every_clip_anew():
    draws = draws_of("face", "happy")
    prints = {
        demo._fingerprint(draws, 96, 10),
        demo._fingerprint(draws, 98, 10),
        demo._fingerprint(draws, 96, 12.5),
        demo._fingerprint(draws_of("face", "happy", strength=0.5), 96, 10),
        demo._fingerprint(draws_of("face", "happy", distractors=0.5), 96, 10),
        demo._fingerprint(demo._draw(1, 3, "face", "happy", False, 1.0, 1.0), 96, 10),
    }
    assert len(prints) == 6


def test_the_fingerprint_is_in_the_file(corpus):
    _, rows = corpus
    for (row, draws), written in zip(plan(8), rows, strict=True):
        assert row["id"] == written["id"]
        with av.open(written["video"]) as container:
            assert container.metadata["comment"] == demo._fingerprint(draws, 96, 10)


def test_a_larger_corpus_contains_the_smaller_one():
    for clips in (1, 7, 12):
        short, long = plan(clips), plan(60)
        assert [draws for _, draws in short] == [draws for _, draws in long[:clips]]
        for (row, _), (same, _) in zip(short[:-1], long, strict=False):
            assert row == same
    assert plan(7)[-1][0]["twin"] is None


def test_a_face_clip_and_its_control_sound_the_same_and_look_different_in_one_utterance(corpus):
    clip, control = pair(corpus[1], "face")
    np.testing.assert_array_equal(sound_of(clip), sound_of(control))
    change = changed(clip, control).sum((1, 2))
    utterance = clip["utterances"][clip["emotional_utterance"]]
    times = np.arange(len(change)) / 10
    inside = (times > utterance["start"]) & (times < utterance["end"])
    outside = (times < utterance["start"] - 0.25) | (times > utterance["end"] + 0.25)
    assert change[inside].max() > 10
    assert change[outside].max() == 0


def test_a_prosody_clip_and_its_control_look_the_same_and_sound_different_in_one_utterance(corpus):
    clip, control = pair(corpus[1], "prosody")
    np.testing.assert_array_equal(frames_of(clip), frames_of(control))
    change = np.abs(sound_of(clip) - sound_of(control))
    utterance = clip["utterances"][clip["emotional_utterance"]]
    times = np.arange(len(change)) / 16_000
    near = (times > utterance["start"] - 0.15) & (times < utterance["end"] + 0.15)
    assert change[near].max() > 0.02
    assert change[~near].max() < 0.1 * change[near].max()


def test_a_words_clip_and_its_control_are_the_same_file_with_another_text(corpus):
    clip, control = pair(corpus[1], "words")
    with open(clip["video"], "rb") as a, open(control["video"], "rb") as b:
        assert a.read() == b.read()
    differing = [a["text"] != b["text"] for a, b in zip(clip["utterances"], control["utterances"], strict=True)]
    assert differing == [n == clip["emotional_utterance"] for n in range(len(differing))]
    assert clip["subtitle"] != control["subtitle"]


def test_an_agreement_clip_and_its_control_differ_in_the_moving_lips_alone(corpus):
    clip, control = pair(corpus[1], "agreement")
    np.testing.assert_array_equal(sound_of(clip), sound_of(control))
    assert clip["offset_ms"] is not None
    assert control["offset_ms"] is None
    rows = changed(clip, control).sum((0, 2))
    assert rows.sum() > 100
    assert rows[len(rows) // 2 :].sum() > 0.95 * rows.sum()


def test_sound_alone_and_picture_alone_tell_nothing_about_agreement():
    counts = Counter()
    for row, draws in plan(1600, cues=["agreement"], controls=0):
        assert (row["offset_ms"] == 0) == (row["label"] == "confident")
        assert row["offset_ms"] == round(1000 * (draws["sound_shift"] - draws["picture_shift"]))
        assert row["offset_ms"] == 0 or 240 <= abs(row["offset_ms"]) <= 480
        counts[row["label"], draws["sound_shift"] > 0, draws["picture_shift"] > 0] += 1
    assert set(counts) == {
        *(("confident", late, late) for late in (False, True)),
        *(("nervous", late, not late) for late in (False, True)),
    }
    # 400 expected in each of the four; 3.3 standard deviations are 57.
    assert all(343 < count < 457 for count in counts.values())


def test_the_text_has_no_part_in_the_sound():
    np.testing.assert_array_equal(
        demo.render_sound(draws_of("words", "sad")), demo.render_sound(draws_of("words", "sad", control=True))
    )


def test_the_planted_voice_has_no_part_in_the_lips():
    times = np.linspace(0, 3, 200)
    expected = demo.lip_opening(draws_of("prosody", "angry", control=True), times)
    assert expected.max() > 0.3
    for emotion in demo.EMOTIONS:
        np.testing.assert_array_equal(demo.lip_opening(draws_of("prosody", emotion), times), expected)


@pytest.mark.parametrize("label", demo.AGREEMENT_LABELS)
def test_the_sound_follows_the_lips_by_the_recorded_offset(label):
    for number in range(4):
        draws = draws_of("agreement", label, pair_number=number)
        sound = demo.render_sound(draws)
        level = np.sqrt(np.convolve(sound**2, np.ones(800) / 800, mode="same"))[::160]
        lips = demo.lip_opening(draws, np.arange(len(level)) / 100)
        scores = {
            shift: np.corrcoef(
                lips[max(0, -shift) : len(lips) - max(0, shift)], level[max(0, shift) :][: len(lips) - abs(shift)]
            )[0, 1]
            for shift in range(-60, 61)
        }
        offset = 10 * max(scores, key=scores.get)
        assert abs(offset - 1000 * (draws["sound_shift"] - draws["picture_shift"])) <= 40


def heard(emotion, **kinds):
    """Level in dB and median pitch in Hz of the planted utterance; `emotion` None is the control."""
    draws = draws_of("prosody", emotion or "happy", control=emotion is None, **kinds)
    spoken = draws["utterances"][draws["emotional"]]
    start, end = (int(16_000 * (spoken[key] + draws["sound_shift"])) for key in ("start", "end"))
    sound = demo.render_sound(draws)[start:end]
    windows = np.lib.stride_tricks.sliding_window_view(sound, 640)[::160]
    windows = windows[windows.std(1) > 0.3 * windows.std(1).max()]
    spectrum = np.abs(np.fft.rfft(windows * np.hanning(640), 1280)) ** 2
    shape = np.fft.irfft(spectrum)[:, 32:260]
    return 20 * np.log10(windows.std()), float(np.median(16_000 / (32 + shape.argmax(1))))


def test_planted_voices_are_as_loud_and_as_high_as_they_say():
    level, pitch = heard(None)
    for emotion in ("happy", "sad", "angry"):
        louder, higher = heard(emotion)
        voice, neutral = demo.VOICES[emotion], demo.VOICES[demo.NEUTRAL]
        assert louder - level == pytest.approx(voice.loudness - neutral.loudness, abs=2.0)
        assert 12 * np.log2(higher / pitch) == pytest.approx(voice.pitch - neutral.pitch, abs=1.6)


def test_without_strength_the_planted_cue_is_gone():
    planted, control = (draws_of("prosody", "angry", control=c, strength=0.0) for c in (False, True))
    np.testing.assert_array_equal(demo.render_sound(planted), demo.render_sound(control))
    times = np.linspace(0, 3, 50)
    planted, control = (draws_of("face", "angry", control=c, strength=0.0) for c in (False, True))
    np.testing.assert_array_equal(demo.movement_sizes(planted, times), demo.movement_sizes(control, times))


@pytest.mark.parametrize("cue", demo.CUES)
def test_a_control_is_the_same_whatever_label_was_planted_in_its_pair(cue):
    first, *others = (
        draws_of(cue, label, control=True) for label in (demo.AGREEMENT_LABELS if cue == "agreement" else demo.EMOTIONS)
    )
    times = np.linspace(0, first["duration"], 60)
    for draws in others:
        # Lips that do not move have no time of their own.
        assert draws | {"picture_shift": 0} == first | {"picture_shift": 0}
        np.testing.assert_array_equal(demo.lip_opening(draws, times), demo.lip_opening(first, times))
        np.testing.assert_array_equal(demo.movement_sizes(draws, times), demo.movement_sizes(first, times))


def test_labels_are_balanced_and_a_pair_stays_in_one_split():
    rows = [row for row, _ in plan(800)]
    cells = Counter((row["cue"], row["planted"]) for row in rows if not row["control"])
    for cue in demo.CUES:
        of_cue = [count for (name, _), count in cells.items() if name == cue]
        assert max(of_cue) - min(of_cue) <= 1
    by_id = {row["id"]: row for row in rows}
    for row in rows:
        twin = by_id[row["twin"]]
        assert (twin["split"], twin["cue"], twin["planted"]) == (row["split"], row["cue"], row["planted"])
        assert twin["control"] != row["control"]
    splits = Counter(row["split"] for row in rows)
    assert abs(splits["test"] / 800 - 0.2) < 0.03
    assert abs(splits["validation"] / 800 - 0.1) < 0.03


def test_controls_can_be_as_frequent_as_each_emotion():
    rows = [row for row, _ in plan(600, cues=["face", "prosody"], controls=1 / 6)]
    counts = Counter(row["label"] for row in rows)
    assert set(counts) == {*demo.EMOTIONS, demo.NEUTRAL}
    assert all(90 <= count <= 110 for count in counts.values())


def test_rows_follow_the_schema_and_the_answer_names_one_emotion(corpus):
    folder, rows = corpus
    assert demo.read_demo(folder) == rows
    assert len(demo.read_demo(folder, split="train")) == sum(row["split"] == "train" for row in rows)
    for row, _ in plan(200):
        assert make_row(**{name: row[name] for name in FIELDS})
        assert emotion_words(row["answer"]) == row["labels"] == [row["label"]]
        assert row["label"] == (demo.NEUTRAL if row["control"] else row["planted"])
        spans = [(u["start"], u["end"]) for u in row["utterances"]]
        assert len(spans) in (2, 3)
        assert all(a[1] < b[0] for a, b in itertools.pairwise(spans))


def test_the_package_reads_its_own_clips(corpus):
    _, rows = corpus
    for row in rows[:2]:
        clip = load_clip(row["video"], num_frames=8)
        assert clip.frames.shape == (8, 96, 96, 3)
        assert clip.frames.std() > 20
        assert abs(len(clip.waveform) / clip.sampling_rate - clip.duration / 1000) < 0.15
        assert row["utterances"][-1]["end"] < clip.duration / 1000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"cues": ["face", "smell"]}, "smell.*face, prosody, words, agreement"),
        ({"cues": "face"}, "sequence"),
        ({"cues": []}, "cues"),
        ({"emotions": ["happy", "happy"]}, "at most once"),
        ({"num_clips": 0}, "num_clips=0"),
        ({"seed": -1}, "seed=-1"),
        ({"size": 97}, "even number"),
        ({"fps": 0}, "fps=0"),
        ({"controls": 0.7}, "between 0 and 0.5"),
        ({"strength": float("nan")}, "strength=nan"),
    ],
)
def test_an_argument_out_of_range_is_named_with_what_is_accepted(tmp_path, arguments, words):
    with pytest.raises(demo.DemoError, match=words):
        demo.make_demo(tmp_path / "corpus", **arguments)
    assert not (tmp_path / "corpus").exists()


def test_a_folder_without_a_corpus_is_named(tmp_path):
    with pytest.raises(demo.DemoError, match=r"no metadata\.jsonl"):
        demo.read_demo(tmp_path)


def test_without_scikit_image_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(demo.DemoError, match=r"hf_emotion\[demo\]"):
        demo._portrait.__wrapped__(96)


def test_draws_survive_json():
    draws = draws_of("face", "happy")
    assert json.loads(json.dumps(draws)) == draws
