"""The landmark tower: poses go, movements stay, and MicroEmo runs on it."""

import numpy as np
import pytest
import torch

from hf_emotion.modeling.canonical_face import POSE_WEIGHTS, canonical_face
from hf_emotion.modeling.configuration_face_motion import FaceMotionConfig
from hf_emotion.modeling.modeling_face_motion import FaceMotionModel, face_motion, remove_pose
from hf_emotion.processing.faces import REGIONS, FaceTrack
from hf_emotion.processing.landmarks import landmark_tensors

CANONICAL = torch.tensor(canonical_face())


def turned(face, yaw=0.0, pitch=0.0, roll=0.0, scale=20.0, shift=(160.0, 120.0)):
    """A face (468, 3) in cm as pixels (468, 3) of a picture, y downwards; angles in degrees."""
    y, p, r = np.radians([yaw, pitch, roll])
    about_y = [[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]]
    about_x = [[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]]
    about_z = [[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]]
    rotation = torch.tensor(np.array(about_z) @ np.array(about_x) @ np.array(about_y), dtype=torch.float)
    points = scale * face @ rotation.T * torch.tensor([1.0, -1.0, 0.0])
    return points + torch.tensor([*shift, 0.0])


def smiling():
    """The canonical face with the corners of its mouth 5 mm further out and up."""
    face = CANONICAL.clone()
    face[61, :2] += torch.tensor([-0.5, 0.5])
    face[291, :2] += torch.tensor([0.5, 0.5])
    return face


@pytest.mark.parametrize("pose", [{}, {"yaw": 25.0}, {"pitch": -15.0, "roll": 20.0}, {"yaw": -20.0, "scale": 3.0}])
def test_pose_size_and_place_in_the_picture_leave_nothing_of_themselves(pose):
    frontal = remove_pose(turned(smiling(), **pose)[None], CANONICAL)[0]
    torch.testing.assert_close(frontal, smiling()[:, :2], atol=2e-3, rtol=0)


def test_pose_is_the_nearest_scaled_rotation_that_singular_values_give():
    generator = torch.Generator().manual_seed(0)
    noisy = turned(CANONICAL, yaw=12.0, roll=5.0) + torch.randn(468, 3, generator=generator)
    index, weight = list(POSE_WEIGHTS), np.array(list(POSE_WEIGHTS.values()))
    weight = weight / weight.sum()
    face, points = CANONICAL.numpy().astype(float), noisy[:, :2].numpy() * [1.0, -1.0]
    centre, middle = weight @ face[index], weight @ points[index]
    root = np.sqrt(weight)[:, None]
    matrix = np.linalg.lstsq((face[index] - centre) * root, (points[index] - middle) * root, rcond=None)[0].T
    left, sizes, right = np.linalg.svd(matrix, full_matrices=False)
    rotation, scale = left @ right, sizes.mean()
    seen = (points - middle) / scale - (face - centre)[:, 2:] * rotation[:, 2]
    naive = np.linalg.solve(rotation[None, :, :2], seen[..., None])[..., 0] + centre[:2]
    np.testing.assert_allclose(remove_pose(noisy[None], CANONICAL)[0].numpy(), naive, atol=2e-3)


def test_a_smile_is_a_displacement_from_the_canonical_and_from_the_own_calm_face_and_a_speed():
    calm, smile = turned(CANONICAL), turned(smiling())
    clip = torch.stack([calm, calm, smile, torch.zeros(468, 3)])[None]
    motion, found = face_motion(clip, torch.tensor([[0, 100, 200, 300]]), CANONICAL)
    assert found.tolist() == [[True, True, True, False]]
    corner = motion[0, :, 291]
    torch.testing.assert_close(corner[2], torch.tensor([0.5, 0.5] * 3), atol=5e-3, rtol=0)
    assert corner[[0, 1, 3]].abs().max() < 5e-3


def test_speed_is_per_tenth_of_a_second_whatever_the_frame_rate():
    clip = torch.stack([turned(CANONICAL), turned(smiling())])[None]
    motion, _ = face_motion(clip, torch.tensor([[0, 400]]), CANONICAL)
    torch.testing.assert_close(motion[0, 1, 291, 4:], torch.tensor([0.125, 0.125]), atol=2e-3, rtol=0)


def test_landmarks_that_span_no_area_give_finite_tokens_and_gradients():
    model = FaceMotionModel(FaceMotionConfig(regions=list(REGIONS.values())))
    flat = torch.full((1, 2, 468, 3), 7.0)
    states = model(flat, torch.tensor([[0, 100]])).last_hidden_state
    assert states.shape == (2, len(REGIONS), model.config.hidden_size)
    states.sum().backward()
    assert states.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_each_token_reads_the_landmarks_of_its_region_alone():
    torch.manual_seed(0)
    model = FaceMotionModel(FaceMotionConfig(regions=list(REGIONS.values()))).eval()
    motion = torch.zeros(1, 468, 6)
    moved = motion.clone()
    moved[0, 152, 1] = 1.0  # the chin's lowest point, in no other region
    change = (model.tokens(moved).last_hidden_state - model.tokens(motion).last_hidden_state).abs().sum(-1)[0]
    assert [name for name, size in zip(REGIONS, change.tolist(), strict=True) if size > 1e-6] == ["chin"]


def test_a_tower_reloads_with_the_canonical_face_that_it_was_saved_with(tmp_path):
    model = FaceMotionModel(FaceMotionConfig(regions=list(REGIONS.values()))).eval()
    model.save_pretrained(tmp_path)
    again = FaceMotionModel.from_pretrained(tmp_path).eval()
    clip, times = torch.stack([turned(CANONICAL), turned(smiling(), yaw=10.0)])[None], torch.tensor([[0, 100]])
    with torch.no_grad():
        assert torch.equal(model(clip, times).last_hidden_state, again(clip, times).last_hidden_state)


def test_a_tower_without_regions_and_landmarks_of_another_mesh_are_refused_by_name():
    with pytest.raises(ValueError, match="regions is empty"):
        FaceMotionModel(FaceMotionConfig())
    model = FaceMotionModel(FaceMotionConfig(regions=list(REGIONS.values())))
    with pytest.raises(ValueError, match="68 landmarks"):
        model(torch.zeros(1, 1, 68, 3), torch.zeros(1, 1, dtype=torch.long))


def test_frames_without_a_face_or_with_a_landmark_missing_are_zero_and_masked():
    points = np.random.default_rng(0).uniform(0.2, 0.8, (3, 478, 2)).astype(np.float32)
    points[1] = np.nan
    points[2, 5] = np.nan
    track = FaceTrack(points, np.zeros((3, 4)), np.array([True, False, True]), np.ones(3, int), "given")
    rows = landmark_tensors(track, 3, (640, 480), 13)
    np.testing.assert_allclose(rows["video_landmarks"][0, :, :2], points[0, :468] * [640, 480], rtol=1e-6)
    assert not rows["video_landmarks"][1:].any()
    assert rows["video_region_masks"].sum((1, 2)).tolist() == [13, 0, 0]
