"""The feature cache: the same losses without towers, pixels or sound; and nothing stale is ever used."""

import json
import os
import pickle
import re
import shutil
import wave
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch

from hf_emotion.cli import main
from hf_emotion.data.demo import make_demo
from hf_emotion.data.shares import Processes
from hf_emotion.inference import load
from hf_emotion.papers import PAPERS, build
from hf_emotion.processing.processing_emotion import ClipInputs
from hf_emotion.training import cache
from hf_emotion.training.cache import (
    FeatureCache,
    FeatureCacheError,
    StaleFeaturesError,
    processor_fingerprint,
    tower_fingerprint,
)
from hf_emotion.training.collator import EmotionCollator

OPTIONS = {"num_frames": 3}
SHORT_WHISPER = {
    "model_type": "whisper",
    "d_model": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "num_mel_bins": 16,
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Three talking faces, the second as sound alone, and a question about each."""
    folder = tmp_path_factory.mktemp("demo")
    rows = make_demo(folder, 3, cues=("prosody",), controls=0.0, size=64, fps=6, num_workers=0, progress=False)
    [sound] = build("microemo")[1].load_clips([rows[1]["video"]], modalities=["audio"])
    with wave.open(str(folder / "sound.wav"), "wb") as file:
        file.setparams((1, 2, sound.sampling_rate, 0, "NONE", None))
        file.writeframes((sound.waveform.clip(-1, 1) * 32767).astype("<i2").tobytes())
    rows[1] = {**rows[1], "video": None, "audio": str(folder / "sound.wav")}
    return rows


@pytest.fixture
def rows(demo, tmp_path):
    """The rows with files of their own, to be changed or removed."""
    copies = []
    for row in demo:
        kind = "video" if row["video"] else "audio"
        copies.append({**row, kind: shutil.copy2(row[kind], tmp_path)})
    return copies


@pytest.mark.parametrize("name", PAPERS)
def test_the_loss_of_cached_clips_is_that_of_the_clips(name, rows, tmp_path):
    model, processor = build(name)
    plain = EmotionCollator(processor, **OPTIONS)(rows)
    features = FeatureCache.build(tmp_path / "features", model, processor, rows, **OPTIONS)
    assert len(features) == len(rows)
    model.freeze().train()
    with torch.no_grad():
        loss = model(**plain).loss
    # Nothing is opened, and no tower runs; but zeros that stand for what a clip lacks pass through one.
    for row in rows:
        os.remove(row["video"] or row["audio"])
    for part, tower in model.model.named_children():
        if part.endswith("_tower") and model.config.missing_modality != "zero_input":
            tower.forward = None
    batch = EmotionCollator(processor, features, **OPTIONS)(rows)
    assert not any(key.startswith(("pixel_values", "input_features", "input_values")) for key in batch)
    for key in ("input_ids", "attention_mask", "labels"):
        assert torch.equal(batch[key], plain[key]), key
    with torch.no_grad():
        assert abs(model(**batch).loss - loss) < 1e-5


@pytest.fixture
def made(rows, tmp_path):
    model, processor = build("microemo")
    return model, processor, FeatureCache.build(tmp_path / "features", model, processor, rows, **OPTIONS)


def test_another_question_about_a_cached_clip_needs_no_new_features(made, rows):
    _, processor, features = made
    asked = {**rows[0], "question": "And how does the voice sound?", "answer": "Loud."}
    [plain, cached] = [EmotionCollator(processor, kept, **OPTIONS)([asked]) for kept in (None, features)]
    assert torch.equal(plain["input_ids"], cached["input_ids"])
    assert torch.equal(plain["labels"], cached["labels"])


def test_features_of_half_precision_come_back_bit_for_bit(rows, tmp_path):
    model, processor = build("microemo")
    model.model.vision_tower.to(torch.bfloat16)
    features = FeatureCache.build(tmp_path / "features", model, processor, rows[:1], **OPTIONS)
    sample = processor.pad([cache.record(processor, rows[0], OPTIONS).tensors])
    expected = {name: tensor[0] for name, tensor in model.model.tower_features(**sample).items()}
    kept = features[rows[0]].tensors
    assert kept["video_features"].dtype == torch.bfloat16
    assert kept.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(kept[name], tensor), name


@pytest.mark.parametrize(("storage", "error", "share"), [("bfloat16", 0.003, 0.55), ("int8", 0.02, 0.35)])
def test_features_are_stored_smaller_with_an_error_that_is_measured(storage, error, share, made, rows, tmp_path):
    model, processor, whole = made
    folder = tmp_path / storage
    small = FeatureCache.build(folder, model, processor, rows, storage=storage, **OPTIONS)
    assert 0 < small.storage_error < error
    taken = 0
    for row in rows:
        plain, stored = whole[row].tensors, small[row].tensors
        assert plain.keys() == stored.keys()
        for name, tensor in plain.items():
            assert stored[name].dtype == tensor.dtype
            if name.endswith("_features"):
                apart = (stored[name] - tensor).square().mean().sqrt()
                assert apart <= 1.5 * error * tensor.square().mean().sqrt()
                taken += tensor.nbytes
            else:
                assert torch.equal(stored[name], tensor)
    bytes_of = [sum(path.stat().st_size for path in kept.folder.glob("*.arrow")) for kept in (whole, small)]
    assert bytes_of[0] - bytes_of[1] > (1 - share) * taken - 4096 * len(rows)
    loss = [model(**EmotionCollator(processor, kept, **OPTIONS)(rows)).loss.item() for kept in (whole, small)]
    assert loss[1] == pytest.approx(loss[0], rel=1e-2)
    with pytest.raises(cache.FeatureCacheError, match=f"holds features stored as {storage}; storage 'full' needs"):
        FeatureCache.build(folder, model, processor, rows, **OPTIONS)


def test_fingerprints_survive_saving_and_loading(made, tmp_path):
    model, processor, features = made
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    again = load(tmp_path / "model", device="cpu")
    assert tower_fingerprint(again[0]) == tower_fingerprint(model)
    assert processor_fingerprint(again[1], OPTIONS) == processor_fingerprint(processor, OPTIONS)
    features.check(*again, **OPTIONS)


def test_features_of_another_tower_processor_option_or_paper_are_refused(made):
    model, processor, features = made
    with pytest.raises(StaleFeaturesError, match="other settings of the processor"):
        features.check(model, processor, num_frames=4)
    processor.timestamp_template = "At {time}."
    with pytest.raises(StaleFeaturesError, match="other settings of the processor"):
        features.check(model, processor, **OPTIONS)
    other, processor = build("microemo", seed=1)
    with pytest.raises(StaleFeaturesError, match="towers with other weights"):
        features.check(other, processor, **OPTIONS)
    with pytest.raises(StaleFeaturesError, match="are microemo's and not acoustemo's"):
        features.check(*build("acoustemo"), **OPTIONS)


def test_what_is_trained_does_not_make_features_stale(made):
    model, processor, features = made
    with torch.no_grad():
        model.model.video_projector.weight.add_(1.0)
        model.lm_head.weight.add_(1.0)
    processor.default_question = "Well?"
    features.check(model, processor, **OPTIONS)


def test_a_clip_that_changed_is_refused_and_then_encoded_again(made, rows):
    model, processor, features = made
    features.verify(rows)
    os.utime(rows[0]["video"])  # another time, the same bytes
    features.verify(rows)
    shutil.copy2(rows[2]["video"], rows[0]["video"])
    with pytest.raises(StaleFeaturesError, match=f"1 clips have changed .* {re.escape(rows[0]['video'])}"):
        features.verify(rows)
    before = features[rows[0]].tensors["audio_features"]
    features = FeatureCache.build(features.folder, model, processor, rows, **OPTIONS)
    features.verify(rows)
    assert len(features) == 3
    assert not torch.equal(features[rows[0]].tensors["audio_features"], before)


def test_a_row_without_features_is_an_error_and_no_other_row_stands_for_it(made, rows):
    _, processor, features = made
    for changed in ({"video": rows[2]["video"] + "x"}, {"utterances": [{"start": 0.0, "end": 0.5, "text": "no"}]}):
        row = {**rows[0], **changed}
        with pytest.raises(FeatureCacheError, match=f"holds no features of {row['id']}"):
            features.encode(processor, row, **OPTIONS)
        with pytest.raises(FeatureCacheError, match="lacks 1 of 2 rows"):
            features.verify([rows[1], row])


def test_an_interrupted_run_keeps_what_it_wrote_and_encodes_only_the_rest(rows, tmp_path, monkeypatch):
    model, processor = build("microemo")
    monkeypatch.setattr(cache, "SHARD_BYTES", 1)
    opened = []
    record = cache.record

    def stop_at_the_third(processor, row, options):
        opened.append(row["id"])
        if len(opened) == 3:
            raise KeyboardInterrupt
        return record(processor, row, options)

    monkeypatch.setattr(cache, "record", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        FeatureCache.build(tmp_path, model, processor, rows, batch_size=1, **OPTIONS)
    assert len(FeatureCache(tmp_path)) == 2
    features = FeatureCache.build(tmp_path, model, processor, rows, batch_size=1, **OPTIONS)
    assert opened == [row["id"] for row in (*rows, rows[2])]
    assert len(features) == 3


def test_bad_clips_are_listed_or_skipped_and_counted(rows, tmp_path):
    model, processor = build("microemo")
    bad = {**rows[0], "id": "gone", "video": str(tmp_path / "gone.mp4")}
    torn = {**rows[2], "id": "torn", "video": str(tmp_path / "torn.mp4")}
    (tmp_path / "torn.mp4").write_bytes(b"no film")
    with pytest.raises(FeatureCacheError, match=r"(?s)2 of 3 clips cannot be read:.*gone: .*torn: "):
        FeatureCache.build(tmp_path / "features", model, processor, [rows[0], bad, torn], **OPTIONS)
    features = FeatureCache.build(
        tmp_path / "features", model, processor, [rows[0], bad, torn], skip_bad_rows=True, **OPTIONS
    )
    assert len(features) == 1
    assert [reason.split(":")[0] for reason in features.skipped] == ["gone", "torn"]


def test_rows_without_utterances_come_back(rows, tmp_path):
    model, processor = build("microemo")
    row = {**rows[0], "utterances": None}
    features = FeatureCache.build(tmp_path / "features", model, processor, [row], **OPTIONS)
    assert features.skipped == []
    plain, cached = (EmotionCollator(processor, kept, **OPTIONS)([row]) for kept in (None, features))
    assert cached["utterance_spans"].shape == (1, 0, 2)
    assert cached["utterance_spans"].dtype == torch.int64
    assert torch.equal(plain["input_ids"], cached["input_ids"])


def test_flipped_bytes_are_found(made, rows, tmp_path):
    _, _, features = made
    expected = [features[row].tensors for row in rows]
    [path] = features.folder.glob("features-*.arrow")
    content = path.read_bytes()
    for place in range(0, len(content), len(content) // 80):
        damaged = bytearray(content)
        damaged[place] ^= 0x41
        path.write_bytes(damaged)
        for row, tensors in zip(rows, expected, strict=True):
            found, message = tensors, f"{path.name} is damaged"
            try:
                again = FeatureCache(features.folder)
                found = again[row].tensors if row in again else tensors
            except FeatureCacheError as error:
                message = str(error)
            assert path.name in message
            assert "damaged" in message
            assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items()), place


def test_many_writers_of_one_folder_lose_no_row(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "SHARD_BYTES", 1)
    inputs = ClipInputs("a clip", tensors={"video_features": torch.zeros(2)})
    for run in range(20):
        folder = tmp_path / str(run)
        folder.mkdir()
        start = Barrier(2)

        def write(number, folder=folder, start=start):
            writer = cache._Writer(folder)
            start.wait()
            for i in range(8):
                writer.add(f"{number} {i}", {}, inputs)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(write, range(2)))
        (folder / "features.json").write_text("{}")
        assert len(FeatureCache(folder)) == 16


def test_processes_of_one_run_share_the_clips(rows, tmp_path):
    model, processor = build("microemo")
    rows = [{**row, "utterances": utterances} for row in rows for utterances in (row["utterances"], None)]
    arguments = (tmp_path / "features", model, processor, rows)
    with ThreadPoolExecutor(2) as pool:
        meeting = Barrier(2)

        class Thread(Processes):
            def wait(self):
                meeting.wait()

        first, second = pool.map(
            lambda rank: FeatureCache.build(*arguments, share=Thread(rank, 2), **OPTIONS), range(2)
        )
    assert (first.added, second.added) == (len(rows) // 2, len(rows) // 2)
    assert len(first) == len(second) == len(rows)


def test_data_that_was_moved_as_a_whole_is_found_again(made, rows, tmp_path):
    _, processor, features = made
    (tmp_path / "elsewhere").mkdir()
    moved = []
    for row in rows:
        kind = "video" if row["video"] else "audio"
        moved.append({**row, kind: shutil.move(row[kind], tmp_path / "elsewhere")})
    again = FeatureCache(shutil.move(features.folder, tmp_path / "elsewhere" / "features"))
    again.verify(moved)
    assert again.encode(processor, moved[0], **OPTIONS)["input_ids"].shape[0] == 1


@pytest.mark.parametrize("name", ["microemo", "esva"])
def test_clips_pass_the_towers_together_with_the_same_result(name, rows, tmp_path, monkeypatch):
    model, processor = build(name)
    utterances = [[{"start": 0.0, "end": 0.1 * n, "text": None, "speaker": None}] * n for n in (0, 1, 2, 3)]
    rows = [{**rows[0], "utterances": spoken} for spoken in utterances]
    sizes = []
    towers = type(model.model).tower_features

    def counted(self, **inputs):
        sizes.append(len(inputs["video_times"]))
        return towers(self, **inputs)

    monkeypatch.setattr(type(model.model), "tower_features", counted)
    alone, together = (
        FeatureCache.build(tmp_path / str(size), model, processor, rows, batch_size=size, **OPTIONS) for size in (1, 3)
    )
    assert sizes == [1, 1, 1, 1, 3, 1]
    for row in rows:
        expected, found = alone[row].tensors, together[row].tensors
        assert expected.keys() == found.keys()
        for tensor_name, tensor in expected.items():
            torch.testing.assert_close(found[tensor_name], tensor, msg=tensor_name)
    again = pickle.loads(pickle.dumps(together))  # as a loader's workers get it
    assert again[rows[0]].placeholders == together[rows[0]].placeholders


def test_sound_is_stored_as_long_as_it_is(rows, tmp_path):
    model, processor = build("omni_emotion", audio_config={**SHORT_WHISPER, "max_source_positions": 1500})
    features = FeatureCache.build(tmp_path / "features", model, processor, rows[:1], **OPTIONS)
    states = features[rows[0]].tensors["audio_features"]
    assert len(states) == 1500
    about = json.loads(features.rows[0].column("about")[0].as_py())
    frames = int(features[rows[0]].tensors["audio_attention_mask"].sum())  # 100 a second, two of which make a step
    [kept] = about["chunks"]["kept"]
    assert kept == -(-frames // 2) + 8 < 250
    assert about["tensors"]["audio_features"][1] == [kept, states.shape[1]]
    with torch.no_grad():
        losses = [model(**EmotionCollator(processor, kept, **OPTIONS)(rows[:1])).loss for kept in (None, features)]
    torch.testing.assert_close(*losses)


def test_the_command_writes_features_and_says_what_it_skipped(rows, tmp_path, capsys):
    model, processor = build("microemo")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    (tmp_path / "torn.mp4").write_bytes(b"no film")
    with open(tmp_path / "rows.jsonl", "w", encoding="utf-8") as file:
        for row in (rows[0], {**rows[2], "id": "torn", "video": str(tmp_path / "torn.mp4")}):
            file.write(json.dumps({name: row[name] for name in ("id", "video", "utterances")}) + "\n")
    command = ["cache", str(tmp_path / "model"), "--data", str(tmp_path / "rows.jsonl")]
    command += ["--output", str(tmp_path / "features"), "--num-frames", "3", "--device", "cpu"]
    assert main(command) == 2
    assert "1 of 2 clips cannot be read" in capsys.readouterr().err
    assert main([*command, "--skip-bad-rows"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("1 clips, ")
    assert "skipped torn: " in shown.err
    assert len(FeatureCache(tmp_path / "features")) == 1
    with pytest.raises(FeatureCacheError, match=r"holds no features\.json"):
        FeatureCache(tmp_path)
