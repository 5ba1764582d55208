"""Costs of a clip: the same on the meta device as computed, and as large as what is cached."""

import pytest
import torch

from hf_emotion.costs import language_cost, tower_costs
from hf_emotion.papers import PAPERS, build


@pytest.mark.parametrize("name", ["microemo", "esva", "omni_emotion"])
def test_costs_are_counted_without_weights(name):
    model, _ = build(name)
    with torch.device("meta"):
        shapes = PAPERS[name].model(model.config)
    counted = tower_costs(shapes, frames=4, seconds=3.0)
    computed = tower_costs(model.eval(), frames=4, seconds=3.0)
    # The counter does not know every attention kernel of a CPU.
    assert [(tower.name, tower.bytes) for tower in counted] == [(tower.name, tower.bytes) for tower in computed]
    assert all(one.flop >= other.flop for one, other in zip(counted, computed, strict=True))
    assert all(tower.flop > 0 and tower.bytes > 0 for tower in counted)
    doubled = {tower.name: tower for tower in tower_costs(shapes, frames=8, seconds=3.0)}
    for tower in counted:
        times = 2 if tower.name == "face_tower" or (tower.name == "vision_tower" and name != "esva") else 1
        assert doubled[tower.name].bytes in (tower.bytes * times, tower.bytes * 2)


def test_bytes_are_those_of_the_cached_states():
    model, _ = build("microemo")
    side = model.config.vision_config.image_size
    states = model.model.tower_features(
        pixel_values_videos=torch.zeros(1, 3, 3, side, side), video_times=torch.arange(3)[None]
    )
    [vision] = [tower for tower in tower_costs(model, frames=3) if tower.name == "vision_tower"]
    assert vision.bytes == 2 * states["video_features"].numel()


def test_the_language_model_is_counted_by_its_weights():
    model, _ = build("microemo")
    layers = sum(parameter.numel() for parameter in model.model.language_model.layers.parameters())
    assert 2 * layers * 10 < language_cost(model, 10) < 3 * layers * 10
