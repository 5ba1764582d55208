"""The pieces of `benchmarks/face_fields.py`, on a head of a few polygons."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from hf_emotion.starter.faces import ACTION_UNITS, FACE

pytest.importorskip("cv2", reason="the pictures need OpenCV, which MediaPipe brings")

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("the benchmarks are in the repository, not in the package", allow_module_level=True)
# Its worker processes are spawned and import it by name.
sys.path.insert(0, str(BENCHMARKS))
import face_fields  # noqa: E402


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A grid of polygons in the place of ICT-FaceKit's head, each shape a random displacement."""
    folder, rng = tmp_path_factory.mktemp("model"), np.random.default_rng(0)
    side = 12
    across, up = np.meshgrid(np.linspace(-9, 9, side), np.linspace(-10, 10, side))
    points = np.stack([across, up, 9 - 0.05 * (across**2 + up**2)], -1).reshape(-1, 3)
    first = [row * side + column for row in range(side - 1) for column in range(side - 1)]
    corners = [(i, i + 1, i + side + 1, i + side) for i in first]
    text = "".join(f"f {' '.join(f'{i + 1}/1' for i in row)}\n" for row in corners)
    text += "f 1/1 2/1 14/1\n"  # a triangle

    def write(name, moved=0.0):
        lines = "".join("v {:.5f} {:.5f} {:.5f}\n".format(*point) for point in points + moved)
        (folder / f"{name}.obj").write_text(lines + text, encoding="utf-8")

    write("generic_neutral_mesh")
    names = {name for shapes in (*face_fields.SHAPES.values(), face_fields.CLOSING) for name in shapes}
    whole = ("mouthClose", "mouthShrugLower", "mouthShrugUpper", "mouthPucker", "mouthFunnel", "jawOpen")
    whole += ("mouthRollLower", "mouthRollUpper")
    for name in names:
        for each in (name,) if name in whole else (f"{name}_L", f"{name}_R"):
            write(each, rng.normal(0, 0.1, points.shape))
    for name in {name for pair in face_fields.GAZES for name in pair}:
        write(name, 0.01)
    for number in range(face_fields.IDENTITIES):
        write(f"identity{number:03d}", rng.normal(0, 0.01, points.shape))
    landmarks = [int(i) for i in rng.choice(len(points), 68, replace=False)]
    (folder / "vertex_indices.json").write_text(json.dumps({"idx_to_landmark_verts": landmarks}), encoding="utf-8")
    return face_fields.Head(folder)


def test_every_action_unit_has_shapes():
    assert set(face_fields.SHAPES) == set(ACTION_UNITS)


def test_a_head_reads_quads_and_triangles_and_moves_one_side_at_a_time(head):
    assert head.corners.shape == (122, 4)
    assert head.corners[-1].tolist() == [0, 1, 13, 13]
    left, right = head.displacement({"mouthSmile": 1.0}, 1.0, 0.0), head.displacement({"mouthSmile": 1.0}, 0.0, 1.0)
    np.testing.assert_allclose(left, head.shapes["mouthSmile_L"], atol=1e-6)
    np.testing.assert_allclose(left + right, head.displacement({"mouthSmile": 1.0}), atol=1e-6)
    # A shape without sides moves as a whole, by the mean of both.
    np.testing.assert_allclose(head.displacement({"jawOpen": 0.5}, 1.0, 0.0), 0.25 * head.shapes["jawOpen"], atol=1e-6)


def test_the_same_seed_draws_the_same_picture_and_facts(head):
    first, facts = face_fields.drawn(np.random.default_rng(3), head, True)
    second, again = face_fields.drawn(np.random.default_rng(3), head, True)
    np.testing.assert_array_equal(first, second)
    assert first.shape == (face_fields.SIZE, face_fields.SIZE, 3)
    assert first.std() > 5  # something is drawn
    np.testing.assert_array_equal(facts["units"], again["units"])


def test_the_fit_finds_the_fields_that_made_the_landmarks(head):
    rng, count = np.random.default_rng(0), 1500
    samples = {
        "identity": rng.normal(size=(count, face_fields.IDENTITIES)),
        "units": rng.uniform(0, 1, (count, len(ACTION_UNITS), 2)),
        "closed": rng.uniform(0, 1, count),
    }
    inputs = face_fields.design(samples)
    truth = rng.normal(0, 0.05, (inputs.shape[1], len(FACE), 2))
    outputs = np.tensordot(inputs, truth, 1)
    np.testing.assert_allclose(face_fields.least_squares(inputs, outputs, ridge=1e-6), truth, atol=1e-5)
    # What has no pose comes back as it is; a picture's scale and place do not matter.
    frontal = np.concatenate([FACE[None, :, :2]] * 2) * [7.0, -7.0] + 130.0
    np.testing.assert_allclose(face_fields.displacements(frontal), 0.0, atol=1e-3)
    samples["landmarks"] = (FACE[:, :2] + 0 * outputs) * [7.0, -7.0] + 130.0
    model, _ = face_fields.fitted(head, samples)
    assert model["units"].shape == (len(ACTION_UNITS), 2, len(FACE), 2)
    np.testing.assert_allclose(model["mean"], 0.0, atol=1e-3)
    np.testing.assert_allclose(model["units"][:, 0], face_fields.mirrored(model["units"][:, 1]), atol=1e-6)
