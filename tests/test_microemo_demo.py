"""The pieces of `benchmarks/microemo_demo.py`: what stage 1 is shown, its targets, the frames left out, the score."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_emotion.data import demo

pytest.importorskip("skimage", reason="the demo corpus needs scikit-image: pip install 'hf_emotion[demo]'")

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("the benchmarks are in the repository, not in the package", allow_module_level=True)
# Its worker processes are spawned and import it by name.
sys.path.insert(0, str(BENCHMARKS))
import microemo_demo  # noqa: E402


@pytest.fixture(scope="module")
def small():
    model, processor = microemo_demo.new_model(0)
    return model, processor, microemo_demo.rendered(processor, 0, num_faces=10, num_voices=10)


def test_rendered_clips_are_rows_with_their_media_beside_and_controls_as_frequent_as_each_emotion():
    faces = list(demo.render_clips("face", range(12), 5, size=64))
    assert [row["label"] for row, _ in faces].count("neutral") == 2
    row, draws = faces[0]
    assert row["video"]["frames"].shape[1:] == (64, 64, 3)
    times = np.arange(len(row["video"]["frames"])) / row["video"]["fps"]
    assert demo.movement_sizes(draws, times).max() > 0.5
    row, _ = next(demo.render_clips("prosody", range(1), 5))
    assert set(row["video"]) == {"waveform", "sampling_rate"}
    with pytest.raises(demo.DemoError, match="'words'"):
        next(demo.render_clips("words", range(1), 5))


def test_a_window_has_the_furthest_movement_of_its_frames_or_of_the_nearest_frame():
    batch = {
        "video_times": torch.tensor([[0, 500, 1000, -1], [0, 400, 800, 1200]]),
        "utterance_spans": torch.tensor([[[0, 600], [620, 700]], [[900, 1300], [-1, -1]]]),
        "movements": torch.tensor([[[0.1], [0.2], [0.3], [9.0]], [[0.8], [0.1], [0.2], [0.5]]]),
    }
    found = microemo_demo.movements_of_windows(batch).flatten().tolist()
    assert found == pytest.approx([0.3, 0.2, 0.2, 0.8, 0.5])
    # A model without utterance windows has one window a clip.
    assert microemo_demo.movements_of_windows(batch, use_utterances=False).tolist() == [
        [pytest.approx(0.3)],
        [pytest.approx(0.8)],
    ]
    del batch["utterance_spans"]
    assert microemo_demo.movements_of_windows(batch).flatten().tolist() == pytest.approx([0.3, 0.8])


def test_stage_1_trains_the_ways_of_frames_and_sound_and_nothing_else(small):
    model, processor, drawn = small
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    assert microemo_demo.learn_to_look(model, processor, drawn["face"], seed=0, epochs=2) < 1
    after_looking = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert all(name.split(".")[1] in microemo_demo.FRAME_PATH for name in after_looking)
    assert {name.split(".")[1] for name in after_looking} == set(microemo_demo.FRAME_PATH) - {"local_qformer"}
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    microemo_demo.LISTEN_BATCH, batch = 4, microemo_demo.LISTEN_BATCH
    try:
        assert 0 <= microemo_demo.learn_to_listen(model, processor, drawn["prosody"], seed=0, epochs=2) <= 1
    finally:
        microemo_demo.LISTEN_BATCH = batch
    heard = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert {name.split(".")[1].split("_")[0] for name in heard} == {"audio"}


def test_cached_tower_outputs_give_the_loss_of_pixels_and_sound(small):
    model, processor, drawn = small
    collate = microemo_demo.EmotionCollator(processor)
    samples = [drawn["face"][0], drawn["prosody"][0], drawn["face"][1]]
    plain = [{k: x for k, x in sample.items() if k not in ("movements", "voice")} for sample in samples]
    with torch.no_grad():
        wanted = model(**collate(plain)).loss
        found = model(**collate(microemo_demo.with_features(model, samples))).loss
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_left_out_frames_leave_every_frame_tensor_alike(small):
    _, processor, drawn = small
    kept = microemo_demo.FrameDropper(processor).thinned(drawn["face"][0])
    lengths = {kept[name].shape[1] for name in microemo_demo.FrameDropper.frame_tensors if name in kept}
    assert lengths == {drawn["face"][0]["video_times"].shape[1] * 3 // 4}
    assert (kept["video_times"].diff() > 0).all()


def test_the_score_counts_clips_whose_emotion_alone_is_named():
    rows = [
        {"cue": "face", "labels": ["happy"]},
        {"cue": "face", "labels": ["sad"]},
        {"cue": "prosody", "labels": ["happy"]},
    ]
    texts = ["The person seems happy.", "The person seems happy.", "They seem happy and sad."]
    found = microemo_demo.score(rows, texts, "happy")
    assert found["face"]["model"] == 0.5
    assert found["prosody"]["model"] == 0.0
    assert found["all"]["constant"] == pytest.approx(2 / 3)
