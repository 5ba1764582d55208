"""Faces: regions lie where their names say, masks equal a plain twin, no face and many faces are defined states."""

import copy
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from hf_emotion.processing import faces
from hf_emotion.processing.faces import REGIONS, FaceError, FaceFinder, FaceTrack, draw_regions
from hf_emotion.processing.media import FullFrames, load_clip


def plain_hull(points):
    """Monotone chain over (K, 2) points."""
    points = sorted({(float(x), float(y)) for x, y in points})
    if len(points) < 3:
        return points
    halves = []
    for run in (points, points[::-1]):
        half = []
        for p in run:
            while len(half) > 1:
                (ax, ay), (bx, by) = half[-2:]
                if (bx - ax) * (p[1] - ay) - (by - ay) * (p[0] - ax) > 0:
                    break
                half.pop()
            half.append(p)
        halves += half[:-1]
    return halves


def plain_area(polygon):
    pairs = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    return abs(sum(ax * by - ay * bx for (ax, ay), (bx, by) in pairs)) / 2


def plain_cut(polygon, axis, limit, sign):
    """The part of a polygon with sign * (coordinate - limit) >= 0 (Sutherland-Hodgman)."""
    kept = []
    for a, b in zip(polygon[-1:] + polygon[:-1], polygon, strict=True):
        inside_a, inside_b = sign * (a[axis] - limit) >= 0, sign * (b[axis] - limit) >= 0
        if inside_a != inside_b:
            s = (limit - a[axis]) / (b[axis] - a[axis])
            kept.append((a[0] + s * (b[0] - a[0]), a[1] + s * (b[1] - a[1])))
        if inside_b:
            kept.append(b)
    return kept


def plain_masks(track, regions, rows, columns, min_landmarks, min_area):
    """Patch by patch: landmarks counted one by one, the hull cut to the patch."""
    masks = np.zeros((len(track.found), len(regions), rows * columns), bool)
    for t in np.flatnonzero(track.found):
        for r, indices in enumerate(regions.values()):
            points = track.landmarks[t, indices].astype(np.float64) * (columns, rows)
            points = points[np.isfinite(points).all(-1)]
            hull = plain_hull(points)
            for row in range(rows):
                for column in range(columns):
                    last_row, last_column = row == rows - 1, column == columns - 1
                    inside = sum(
                        column <= x
                        and (x < column + 1 or (last_column and x == columns))
                        and row <= y
                        and (y < row + 1 or (last_row and y == rows))
                        for x, y in points
                    )
                    piece = hull
                    for axis, limit, sign in ((0, column, 1), (0, column + 1, -1), (1, row, 1), (1, row + 1, -1)):
                        piece = plain_cut(piece, axis, limit, sign) if piece else piece
                    masks[t, r, row * columns + column] = inside >= min_landmarks or plain_area(piece) >= min_area
    return masks


@pytest.fixture(scope="module")
def finder():
    """With the models that this MediaPipe bundles, or else with those in the package."""
    mediapipe = pytest.importorskip("mediapipe", reason="mediapipe is not installed")
    return FaceFinder("solutions" if hasattr(mediapipe, "solutions") else "tasks")


@pytest.fixture(scope="module")
def astronaut():
    return pytest.importorskip("skimage.data", reason="scikit-image is not installed").astronaut()


@pytest.fixture(scope="module")
def portrait(finder, astronaut):
    """(1, 478, 2) landmarks of the astronaut, as fractions of her picture."""
    track = finder(astronaut[None])
    assert track.found.all()
    return track.landmarks


def background(height, width):
    return np.random.default_rng(0).integers(90, 110, (height, width, 3)).astype(np.uint8)


def paste(frame, picture, side, x, y):
    frame[y : y + side, x : x + side] = np.asarray(Image.fromarray(picture).resize((side, side), Image.BICUBIC))
    return frame


def oval(x, y, width, height=None):
    """(478, 2) points in an oval around (x, y): a face as far as boxes go."""
    angle, radius = np.random.default_rng(0).random((2, 478))
    spread = np.sqrt(radius)[:, None] * np.stack([np.cos(2 * np.pi * angle), np.sin(2 * np.pi * angle)], axis=-1)
    return ((x, y) + spread * (width / 2, (height or width) / 2)).astype(np.float32)


def blank(num_frames, height=90, width=160):
    return np.zeros((num_frames, height, width, 3), np.uint8)


def test_regions_lie_in_anatomical_order_on_a_real_face(portrait):
    centre = {name: portrait[0, indices].mean(0) for name, indices in REGIONS.items()}
    order = ["forehead", "glabella", "left_eye", "nose", "left_nasolabial", "mouth", "chin"]
    assert [centre[name][1] for name in order] == sorted(centre[name][1] for name in order)
    for name in ("brow", "eye", "cheek", "nasolabial"):
        left, right = centre[f"left_{name}"][0], centre[f"right_{name}"][0]
        assert right < centre["nose"][0] < left, f"the subject's left {name} is at the right of the picture"
    assert centre["left_brow"][1] < centre["left_eye"][1] < centre["left_cheek"][1] < centre["mouth"][1]
    assert centre["right_brow"][0] < centre["glabella"][0] < centre["left_brow"][0]


def test_left_regions_are_the_right_regions_of_the_mirror_image(finder, astronaut, portrait):
    mirrored = finder(np.ascontiguousarray(astronaut[None, :, ::-1])).landmarks
    height = np.ptp(portrait[0, :, 1])
    for name, indices in REGIONS.items():
        twin = name.replace("left", "LEFT").replace("right", "left").replace("LEFT", "right")
        x, y = mirrored[0, REGIONS[twin]].mean(0)
        assert np.abs(portrait[0, indices].mean(0) - (1 - x, y)).max() < 0.02 * height, name


@pytest.mark.parametrize(("min_landmarks", "min_area"), [(1, 0.1), (2, 0.5), (1000, 0.02)])
@pytest.mark.parametrize("grid", [(16, 16), (5, 9), (1, 1)])
def test_masks_equal_a_plain_twin_patch_by_patch(grid, min_landmarks, min_area):
    rng = np.random.default_rng(3)
    regions = {"brow": [3, 1, 4, 15, 92], "mouth": list(range(100, 140)), "mole": [7], "line": [8, 9]}
    landmarks = (rng.random((5, 478, 2)) * 0.4 + rng.random((5, 1, 2)) * 1.2 - 0.3).astype(np.float32)
    landmarks[1, 15] = np.nan
    landmarks[2] = np.round(landmarks[2] * 16) / 16  # corners on the patches' borders
    found = np.array([True, True, True, False, True])
    landmarks[3] = np.nan
    track = FaceTrack(landmarks, np.zeros((5, 4), np.float32), found, found.astype(np.int64), "given")
    finder = FaceFinder("given", regions=regions, min_landmarks=min_landmarks, min_area=min_area)
    masks = finder.region_masks(track, grid)
    assert masks.shape == (5, 4, grid[0] * grid[1])
    assert masks.dtype == bool
    assert np.array_equal(masks, plain_masks(track, regions, *grid, min_landmarks, min_area))
    assert masks.any()
    assert not masks.all()


def test_area_in_each_patch_is_exact_and_sums_to_the_hull():
    rng = np.random.default_rng(1)
    points = np.round(rng.normal(size=(200, 9, 2)) * 2, 1)  # rounded: many points coincide or lie in line
    points[0] = points[0, 0]
    points[1] = points[1, 0] + np.outer(np.arange(9), (0.1, 0.2))
    points[2] = (0.5, 1)
    points[2, :3] = [(0, 1e-13), (0.5, 0), (1, 1e-13)]  # rounding leads past the corner where the hull began
    areas = faces._area_per_patch(faces._hulls(points) + 10, 20, 20)
    expected = [plain_area(plain_hull(p)) for p in points]
    np.testing.assert_allclose(areas.sum(1), expected, atol=1e-9)
    hull = plain_hull(points[5] + 10)
    for p in np.flatnonzero(areas[5]):
        row, column = divmod(int(p), 20)
        piece = hull
        for axis, limit, sign in ((0, column, 1), (0, column + 1, -1), (1, row, 1), (1, row + 1, -1)):
            piece = plain_cut(piece, axis, limit, sign)
        assert abs(areas[5, p] - plain_area(piece)) < 1e-9


def test_masks_of_a_long_clip_equal_those_of_its_frames(finder, portrait):
    shifts = np.random.default_rng(0).uniform(-0.4, 0.4, (150, 1, 2)).astype(np.float32)
    track = finder(blank(150), landmarks=portrait + shifts)
    masks = finder.region_masks(track, (14, 14))
    for t in (0, 63, 64, 149):
        one = finder(blank(1), landmarks=portrait + shifts[t])
        assert np.array_equal(masks[t], finder.region_masks(one, (14, 14))[0])


def test_a_custom_table_of_regions_makes_its_own_masks_in_its_own_order(portrait):
    finder = FaceFinder(regions={"tip": [4], "chin": REGIONS["chin"]})
    masks = finder.region_masks(finder(blank(1), landmarks=portrait), 8)
    assert finder.region_names == ["tip", "chin"]
    x, y = portrait[0, 4] * 8
    assert np.flatnonzero(masks[0, 0]).tolist() == [int(y) * 8 + int(x)]


def test_landmarks_of_another_mesh_serve_with_a_table_of_their_own_and_name_the_region_they_lack():
    points = np.random.default_rng(0).random((2, 68, 2)) * 0.5 + 0.25
    own = FaceFinder(regions={"mouth": list(range(48, 68))})
    assert own.region_masks(own(blank(2), landmarks=points), 4).any((1, 2)).all()
    default = FaceFinder()
    with pytest.raises(FaceError, match=r"left_brow.*no landmark among those passed"):
        default.region_masks(default(blank(2), landmarks=points), 4)


def test_frames_without_a_face_are_a_defined_state(finder):
    frames = np.stack([background(120, 160), np.zeros((120, 160, 3), np.uint8)])
    track = finder(frames)
    assert track.backend == finder.backend
    assert track.found.tolist() == [False, False]
    assert track.num_faces.tolist() == [0, 0]
    assert np.isnan(track.landmarks).all()
    assert np.isnan(track.boxes).all()
    assert not finder.region_masks(track, (16, 16)).any()
    assert finder.motion(frames).tolist() == [0, 0]


@pytest.mark.parametrize("shape", [(0, 40, 40, 3), (2, 1, 1, 3), (1, 2, 300, 3)])
def test_no_frames_and_tiny_frames_hold_no_face(finder, shape):
    track = finder(np.zeros(shape, np.uint8))
    assert track.landmarks.shape == (shape[0], 478, 2)
    assert not track.found.any()
    assert finder.region_masks(track, (2, 3)).shape == (shape[0], 13, 6)
    assert finder.crops(np.zeros(shape, np.uint8), track, 8)[0].shape == (shape[0], 8, 8, 3)


def test_a_small_face_that_the_mesh_alone_misses_is_found_where_it_is(finder, astronaut, portrait):
    side, x, y = 360, 700, 200  # her face is then 75 pixels high in a frame of 720
    frame = paste(background(720, 1280), astronaut, side, x, y)
    finder(blank(1))
    with finder._borrowed(finder.backend, 1) as [model]:
        assert model.mesh(frame) == []
    track = finder(frame[None])
    assert track.found.all()
    assert track.num_faces.tolist() == [1]
    expected = portrait[0] * side + (x, y)
    height = np.ptp(expected[:, 1])
    assert 70 < height < 80
    assert np.abs(track.landmarks[0] * (1280, 720) - expected).mean() < 0.02 * height


def test_a_small_face_found_in_one_searched_frame_is_followed_up_in_all(finder, astronaut):
    frames = np.stack([background(360, 640)] * 10)
    for t in range(1, 10):
        paste(frames[t], astronaut, 190, 60 + 30 * t, 100)  # frame 0 is empty; 8 and 9 are searched
    assert finder(frames).found.tolist() == [False] + [True] * 9


def test_of_two_faces_the_largest_or_the_most_central_is_chosen(finder, astronaut):
    frame = background(512, 1000)
    paste(frame, astronaut, 500, 0, 0)
    paste(frame, astronaut, 350, 400, 100)
    centres = {}
    for choose in ("largest", "central"):
        track = FaceFinder(finder.backend, choose=choose)(frame[None])
        assert track.num_faces.tolist() == [2]
        centres[choose] = (track.boxes[0, 0] + track.boxes[0, 2]) / 2 * 1000
    assert abs(centres["largest"] - 0.44 * 500) < 20
    assert abs(centres["central"] - (400 + 0.44 * 350)) < 20


def test_more_faces_than_get_a_mesh_are_still_counted(finder, astronaut):
    frame = background(300, 1200)
    for k in range(3):
        paste(frame, astronaut, 300, 400 * k, 0)
    track = FaceFinder(finder.backend, max_faces=2)(frame[None])
    assert track.num_faces.tolist() == [3]
    assert track.found.all()


def test_the_number_of_threads_changes_nothing(finder, astronaut):
    frames = np.stack([np.roll(astronaut, 10 * t, axis=1) for t in range(9)])
    one, three = (FaceFinder(finder.backend, threads=n)(frames) for n in (1, 3))
    assert one.found.all()
    assert np.array_equal(one.landmarks, three.landmarks)
    assert np.array_equal(one.num_faces, three.num_faces)


def test_a_graph_in_the_callers_thread_gives_what_mediapipes_own_threads_give(finder, astronaut):
    if finder.backend == "tasks":
        pytest.skip("this MediaPipe has no solutions")
    running = Path("/proc/self/task")
    before = len(list(running.iterdir())) if running.is_dir() else 0
    model = faces._Solutions(finder)
    assert (len(list(running.iterdir())) if running.is_dir() else 0) <= before
    found = model.mesh(astronaut)
    options = {"max_num_faces": finder.max_faces, "refine_landmarks": True, "static_image_mode": True}
    with importlib.import_module("mediapipe").solutions.face_mesh.FaceMesh(**options) as plain:
        [face] = plain.process(astronaut).multi_face_landmarks
    assert [(np.float32(p.x), np.float32(p.y)) for p in face.landmark] == [tuple(point) for point in found[0]]


def test_real_clips_hold_the_faces_that_they_show(finder, shared_data):
    av = pytest.importorskip("av")
    clips = {"WolfgangLanger_Pexels.mp4": 1.0, "single_face.mp4": 1.0, "face_noface.mov": 72 / 169, "no_face.mp4": 0.0}
    for name, share in clips.items():
        with av.open(shared_data / "face_clips" / name) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        at = np.linspace(0, len(frames) - 1, 12).round().astype(int)
        track = finder(np.stack([frames[t] for t in at]))
        expected = at < round(share * len(frames))  # the face leaves by a cut and does not come back
        assert track.found.tolist() == expected.tolist(), name
        assert track.num_faces.tolist() == expected.astype(int).tolist(), name
        assert finder.region_masks(track, (16, 16)).any(-1).all(-1).tolist() == expected.tolist(), name
    group = np.asarray(Image.open(shared_data / "face_clips" / "multi_face.jpg").convert("RGB"))
    assert finder(group[None]).num_faces.tolist() == [5]


def test_the_models_in_the_package_give_the_masks_of_the_bundled_ones(finder, astronaut):
    if finder.backend == "tasks":
        pytest.skip("this MediaPipe bundles no models to compare with (0.10.21 does)")
    frames = np.stack([astronaut, astronaut[:, ::-1]])
    bundled, ours = finder(frames), FaceFinder("tasks")(frames)
    assert (ours.backend, ours.found.tolist()) == ("tasks", [True, True])
    # Two runs of one network, not two networks: a twentieth of a pixel.
    assert np.abs(ours.landmarks - bundled.landmarks).max() < 0.05 / 512
    masks = [finder.region_masks(track, (16, 16)) for track in (bundled, ours)]
    assert (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum() > 0.99


def test_a_later_mediapipe_finds_the_same_faces_with_the_models_in_the_package(finder, astronaut, tmp_path):
    later = Path(sys.prefix) / "mediapipe-later"
    if finder.backend == "tasks" or not later.is_dir():
        pytest.skip("needs two releases: 0.10.21 installed, and a later one where `make test` puts it")
    frames = np.stack([astronaut, astronaut[:, ::-1], paste(background(512, 512), astronaut, 200, 150, 40)])
    np.save(tmp_path / "frames.npy", frames)
    code = (
        "import sys, faces, mediapipe, numpy\n"
        "track = faces.FaceFinder('tasks')(numpy.load(sys.argv[1]))\n"
        "numpy.savez(sys.argv[2], landmarks=track.landmarks, found=track.found, num_faces=track.num_faces)\n"
        "print(mediapipe.__version__)\n"
    )
    path = os.pathsep.join([str(later), os.path.dirname(faces.__file__)])
    command = [sys.executable, "-W", "ignore", "-c", code, tmp_path / "frames.npy", tmp_path / "track.npz"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() != [importlib.metadata.version("mediapipe")]
    bundled = finder(frames)
    with np.load(tmp_path / "track.npz") as other:
        assert other["found"].tolist() == bundled.found.tolist() == [True] * 3
        assert other["num_faces"].tolist() == bundled.num_faces.tolist()
        tracks = bundled, dataclasses.replace(bundled, landmarks=other["landmarks"])
    masks = [finder.region_masks(track, (16, 16)) for track in tracks]
    assert (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum() > 0.99


def test_a_face_landmarker_without_the_second_detector_finds_small_faces_on_tiles(finder, astronaut, tmp_path):
    with zipfile.ZipFile(faces.models_file()) as own, zipfile.ZipFile(tmp_path / "google.task", "w") as other:
        for name in ("face_detector.tflite", "face_landmarks_detector.tflite"):
            other.writestr(name, own.read(name))
    frame = paste(background(720, 1280), astronaut, 360, 700, 200)
    track = FaceFinder("tasks", task_path=tmp_path / "google.task")(frame[None])
    assert track.found.tolist() == [True]
    assert np.abs(track.landmarks[0] - finder(frame[None]).landmarks[0]).max() < 0.01


def test_the_face_models_are_those_that_the_code_expects_with_their_licence(tmp_path):
    assert faces.check_models_file(faces.models_file()) == faces.models_file()
    with zipfile.ZipFile(faces.models_file()) as members:
        notice = members.read("NOTICE.txt").decode()
        assert members.testzip() is None
    assert "Apache License, Version 2.0" in notice
    assert "changed by hf_emotion" in notice
    (tmp_path / "other.task").write_bytes(b"another model")
    with pytest.raises(FaceError, match=r"other\.task is not hf_emotion's file of face models \(SHA-256"):
        faces.check_models_file(tmp_path / "other.task")


def test_tracking_keeps_one_face_while_the_largest_changes():
    """A moves right and shrinks a little, B stays and is larger in two frames, and A is missing in one."""
    a = [oval(0.2 + 0.05 * t, 0.5, 0.3 - 0.01 * t) for t in range(6)]
    b = [oval(0.8, 0.3, 0.35 if t in (1, 2) else 0.1) for t in range(6)]
    in_frames = [np.stack([b[t], a[t]] if t % 2 else [a[t], b[t]]) for t in range(6)]
    in_frames[4] = b[4][None]
    tracked = FaceFinder(choose="track")(blank(6, 100, 100), landmarks=in_frames)
    assert tracked.found.tolist() == [True, True, True, True, False, True]
    assert tracked.num_faces.tolist() == [2, 2, 2, 2, 1, 2]
    for t in (0, 1, 2, 3, 5):
        assert np.array_equal(tracked.landmarks[t], a[t])
    largest = FaceFinder(choose="largest")(blank(6, 100, 100), landmarks=in_frames)
    assert np.array_equal(largest.landmarks[1], b[1])
    assert np.array_equal(largest.landmarks[4], b[4])


def test_tracking_does_not_jump_to_a_face_elsewhere_or_of_another_size():
    here, elsewhere, huge = oval(0.2, 0.5, 0.2), oval(0.8, 0.5, 0.19), oval(0.2, 0.5, 0.9)
    track = FaceFinder(choose="track")(
        blank(4, 100, 100), landmarks=[here[None], here[None], elsewhere[None], here[None]]
    )
    assert track.found.tolist() == [True, True, False, True]
    boxes = [[faces._bounds(face)] for face in (here, huge)]
    assert faces._chains(boxes) == [{1: 0}, {0: 0}]


def test_every_face_is_followed_and_the_largest_over_the_clip_comes_first():
    small, large = oval(0.2, 0.5, 0.1), oval(0.7, 0.5, 0.3)
    tracks = FaceFinder().tracks(blank(3, 100, 100), landmarks=[np.stack([small, large]), small[None], large[None]])
    assert [track.found.tolist() for track in tracks] == [[True, False, True], [True, True, False]]
    assert np.array_equal(tracks[0].landmarks[2], large)
    assert np.array_equal(tracks[1].landmarks[1], small)
    assert tracks[0].num_faces.tolist() == [2, 1, 1]
    assert FaceFinder(backend="none").tracks(blank(3, 100, 100)) == []


def test_the_most_central_face_is_measured_in_pixels_of_a_wide_frame():
    beside, below = oval(0.3, 0.5, 0.1), oval(0.5, 0.9, 0.1)  # 80 and 40 pixels from the middle
    track = FaceFinder(choose="central")(blank(1, 100, 400), landmarks=np.stack([beside, below])[None])
    assert np.array_equal(track.landmarks[0], below)


def test_given_landmarks_are_taken_as_they_are_and_the_backend_says_so(portrait):
    holes = np.concatenate([portrait, np.full_like(portrait, np.nan), portrait])
    track = FaceFinder("none")(blank(3), landmarks=holes)
    assert track.backend == "given"
    assert track.found.tolist() == [True, False, True]
    assert track.num_faces.tolist() == [1, 0, 1]
    assert np.array_equal(track.landmarks, holes, equal_nan=True)
    as_list = FaceFinder("given")(blank(3), landmarks=[portrait[0], None, portrait])
    assert np.array_equal(as_list.landmarks, holes, equal_nan=True)
    with_depth = FaceFinder("given")(blank(1), landmarks=np.concatenate([portrait, portrait[..., :1]], axis=-1))
    assert np.array_equal(with_depth.landmarks, portrait)


def test_a_box_ends_at_the_border_and_landmarks_do_not(portrait):
    track = FaceFinder()(blank(1), landmarks=portrait - (0.45, 0))
    assert track.boxes[0, 0] == 0
    assert np.nanmin(track.landmarks[..., 0]) < 0


@pytest.mark.parametrize(
    ("landmarks", "sentence"),
    [
        (np.zeros((3, 478, 2)), "cover 3 frames, but the clip has 2"),
        (np.zeros((2, 500, 2)), r"landmarks of frame 0 are \(500, 2\)"),
        (np.zeros((2, 478)), r"landmarks of frame 0 are \(478,\)"),
        ([None, np.full((478, 2), 250.0)], "landmarks of frame 1 reach 250; accepted: fractions"),
        ([None, np.full((478, 2), np.inf)], "landmarks of frame 1 reach inf"),
    ],
)
def test_landmarks_that_do_not_fit_are_refused_by_name(landmarks, sentence):
    with pytest.raises(FaceError, match=sentence):
        FaceFinder()(blank(2), landmarks=landmarks)


@pytest.mark.parametrize(
    "frames", [np.zeros((4, 4, 3), np.uint8), np.zeros((1, 4, 4, 3), np.float32), np.zeros((1, 0, 4, 3), np.uint8)]
)
def test_frames_of_another_kind_are_refused(frames):
    with pytest.raises(FaceError, match=r"accepted: \(T, H, W, 3\) uint8 RGB"):
        FaceFinder()(frames)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"backend": "dlib"}, "'dlib' is unknown; accepted: auto, given"),
        ({"choose": "loudest"}, "accepted: largest, central, track"),
        ({"regions": {}}, "table of regions is empty"),
        ({"regions": {"ear": []}}, "'ear' has no landmark"),
        ({"regions": {"ear": [478]}}, "'ear' has landmark 478; accepted: whole numbers from 0 to 477"),
        ({"max_faces": 0}, "max_faces is 0"),
        ({"min_area": 0}, "min_area is 0"),
        ({"min_confidence": 2}, "min_confidence is 2"),
        ({"search_every": 1.5}, "search_every is 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(settings, sentence):
    with pytest.raises(FaceError, match=sentence):
        FaceFinder(**settings)


@pytest.mark.parametrize("grid", [(0, 4), (4,), (2.5, 4)])
def test_a_patch_grid_that_is_none_is_refused(grid, portrait):
    finder = FaceFinder()
    with pytest.raises(FaceError, match="patch grid is"):
        finder.region_masks(finder(blank(1), landmarks=portrait), grid)


@pytest.fixture
def without_mediapipe(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def test_without_mediapipe_the_clip_goes_without_its_face_and_this_is_said_once(without_mediapipe):
    finder = FaceFinder()
    with pytest.warns(UserWarning, match="without faces.*mediapipe is not installed.*install mediapipe.*face_landmark"):
        track = finder(blank(3))
    assert track.backend == "none"
    assert not track.found.any()
    assert not finder.region_masks(track, 4).any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert finder(blank(1)).backend == "none"
        assert FaceFinder("none")(blank(1)).backend == "none"


@pytest.mark.parametrize("backend", ["solutions", "tasks"])
def test_asking_for_a_backend_that_is_not_there_names_both_ways_out(without_mediapipe, backend):
    with pytest.raises(FaceError, match=r"install mediapipe.*face_landmarker\.task"):
        FaceFinder(backend)(blank(1))


def test_asking_for_given_landmarks_without_giving_any_is_an_error():
    with pytest.raises(FaceError, match="needs the landmarks"):
        FaceFinder("given")(blank(1))


@pytest.fixture
def task_world(monkeypatch, tmp_path):
    """No task file in package or environment, an empty cache, and a file to download that is not the real one."""
    monkeypatch.setattr(faces, "models_file", lambda: None)
    monkeypatch.delenv(faces.TASK_VARIABLE, raising=False)
    monkeypatch.setattr(faces.hub_constants, "HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(faces.hub_constants, "HF_HUB_OFFLINE", False)
    (tmp_path / "served.task").write_bytes(b"a model")
    monkeypatch.setattr(faces, "TASK_URL", (tmp_path / "served.task").as_uri())
    monkeypatch.setattr(faces, "TASK_SHA256", hashlib.sha256(b"a model").hexdigest())
    return tmp_path


def test_the_task_file_is_sought_in_argument_environment_package_cache_and_download(task_world, monkeypatch):
    own, other = task_world / "own.task", task_world / "other.task"
    own.write_bytes(b"x")
    other.write_bytes(b"y")
    with pytest.raises(FileNotFoundError, match="downloads are not allowed"):
        faces._task_file(None, allow_download=False)
    fetched = faces._task_file(None, allow_download=True)
    assert Path(fetched).read_bytes() == b"a model"
    (task_world / "served.task").unlink()
    assert faces._task_file(None, allow_download=False) == fetched
    monkeypatch.setenv(faces.TASK_VARIABLE, str(other))
    assert faces._task_file(None, allow_download=False) == str(other)
    assert faces._task_file(str(own), allow_download=False) == str(own)
    monkeypatch.delenv(faces.TASK_VARIABLE)
    monkeypatch.setattr(faces, "models_file", lambda: "models in the package")
    assert faces._task_file(None, allow_download=True) == "models in the package"


def test_a_download_that_fails_says_so_and_leaves_nothing_behind(task_world, monkeypatch):
    monkeypatch.setattr(faces, "TASK_SHA256", "0" * 64)
    with pytest.raises(FileNotFoundError, match="SHA-256 differs"):
        faces._task_file(None, allow_download=True)
    monkeypatch.setattr(faces, "TASK_URL", "http://127.0.0.1:9/face_landmarker.task")
    with pytest.raises(FileNotFoundError, match=r"could not be downloaded from http://127\.0\.0\.1:9"):
        faces._task_file(None, allow_download=True)
    monkeypatch.setattr(faces.hub_constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="HF_HUB_OFFLINE is set"):
        faces._task_file(None, allow_download=True)
    assert [p for p in (task_world / "cache").rglob("*") if p.is_file()] == []


def test_a_task_file_that_is_missing_or_is_none_is_named(task_world):
    pytest.importorskip("mediapipe")
    with pytest.raises(FaceError, match=r"task_path is .*gone\.task, which is not a file"):
        FaceFinder("tasks", task_path=task_world / "gone.task")(blank(1))
    with pytest.raises(FaceError, match=r"served\.task is not a face landmarker"):
        FaceFinder("tasks", task_path=task_world / "served.task")(blank(1))


def _find_in_child(finder, frames, pipe):
    try:
        pipe.send(finder(frames).backend)
    except FaceError as error:
        pipe.send(str(error))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
def test_a_forked_child_is_refused_clearly_and_given_landmarks_still_serve_it(finder, portrait):
    finder(blank(1))
    fork = multiprocessing.get_context("fork")
    answers = []
    for target, arguments in ((finder, blank(1)), (FaceFinder(), blank(1))):
        here, there = fork.Pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of fork beside threads: our subject
            child = fork.Process(target=_find_in_child, args=(target, arguments, there), daemon=True)
            child.start()
        assert here.poll(30), "the child died or hangs"
        answers.append(here.recv())
        child.join(30)
        assert child.exitcode == 0
    assert all("forked" in answer and "spawn" in answer for answer in answers)
    assert finder(blank(1)).backend == finder.backend


def test_a_finder_travels_by_pickle_copy_and_json_without_its_models(finder, astronaut):
    custom = FaceFinder(
        finder.backend, choose="central", regions={"tip": [4]}, min_area=0.3, threads=1, task_path=faces.models_file()
    )
    custom(astronaut[None])
    for twin in (pickle.loads(pickle.dumps(custom)), copy.deepcopy(custom)):
        assert twin.to_dict() == custom.to_dict()
        assert twin.task_path == faces.models_file()
        assert np.array_equal(twin(astronaut[None]).landmarks, custom(astronaut[None]).landmarks)
    kept = json.loads(json.dumps(custom.to_dict()))
    assert FaceFinder(**kept).to_dict() == custom.to_dict()
    assert not {"task_path", "allow_download", "threads"} & set(kept), "these belong to a machine, not to a model"
    assert FaceFinder(**kept).region_names == ["tip"]


def test_finders_share_the_models_of_a_process(finder, astronaut, monkeypatch):
    made = []
    monkeypatch.setattr(faces, "_IDLE_MODELS", {})
    kind = faces._MODELS[finder.backend]
    monkeypatch.setitem(faces._MODELS, finder.backend, lambda owner: made.append(owner) or kind(owner))
    for choose in ("largest", "central", "track"):
        assert FaceFinder(finder.backend, choose=choose, threads=1)(astronaut[None]).found.all()
    assert len(made) == 1, "MediaPipe never frees the memory of a model"
    assert FaceFinder(finder.backend, max_faces=2, threads=1)(astronaut[None]).found.all()
    assert len(made) == 2, "another setting is another model"


def test_importing_is_cheap_and_finding_is_quiet_and_keeps_the_users_own_lines(finder):
    code = (
        "import os, sys\n"
        f"sys.path.insert(0, {os.path.dirname(faces.__file__)!r})\n"  # alone, as it lies in a model's folder
        "import faces\n"
        "assert not {'mediapipe', 'torch', 'transformers'} & set(sys.modules)\n"
        "with faces._chatter_suppressed():\n"
        "    os.write(2, b'mine\\n')\n"
        f"finder = faces.FaceFinder({finder.backend!r})\n"
        "print(finder(faces._drawn_face()[None]).found.tolist())\n"  # and nothing is written when it exits
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[True]\n"
    assert done.stderr == "mine\n"


def test_a_crop_is_the_square_around_the_face_and_the_whole_frame_where_there_is_none():
    frames = np.random.default_rng(0).integers(0, 256, (3, 100, 200, 3)).astype(np.uint8)
    corners = np.full((478, 2), 0.5)
    corners[:2] = [(0.45, 0.4), (0.55, 0.6)]  # 20 x 20 pixels around (100, 50)
    at_border = corners + np.array([0.44, 0])
    finder = FaceFinder()
    track = finder(frames, landmarks=[corners, None, at_border])
    pictures, is_face = finder.crops(frames, track, 30, margin=0.5)
    assert is_face.tolist() == [True, False, True]
    assert np.array_equal(pictures[0], frames[0, 35:65, 85:115])
    assert np.array_equal(pictures[1], np.asarray(Image.fromarray(frames[1]).resize((30, 30), Image.BICUBIC)))
    assert np.array_equal(pictures[2], frames[2, 35:65, 170:200]), "moved inside the frame, not padded"
    large, _ = finder.crops(frames, track, 100, margin=20)
    assert np.array_equal(large[0], frames[0, :, 50:150]), "no larger than the frame's shorter side"
    with pytest.raises(FaceError, match="2 frames were passed with the faces of 3"):
        finder.crops(frames[:2], track, 30)
    with pytest.raises(FaceError, match="crop size is 0"):
        finder.crops(frames, track, 0)


def turned(points, angle, scale, shift):
    """Similarity in the pixels of a 160 x 90 frame, on fractions of it."""
    centre = points.mean(0)
    pixels = (points - centre) * (160, 90)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (pixels @ rotation.T * scale / (160, 90) + centre + shift).astype(np.float32)


def test_motion_ignores_the_head_and_peaks_where_the_mouth_moves(portrait):
    finder = FaceFinder()
    rng = np.random.default_rng(0)
    heads = [
        turned(portrait[0], rng.uniform(-0.5, 0.5), rng.uniform(0.7, 1.4), rng.uniform(-0.1, 0.1, 2)) for _ in range(7)
    ]
    still = finder.motion(blank(7), landmarks=heads)
    assert still.max() < 1e-5
    moved = portrait[0].copy()
    moved[REGIONS["mouth"]] += (0, 0.02)
    heads[4] = turned(moved, 0.3, 1.2, (0.05, 0.05))
    heads[2] = None
    motion = finder.motion(blank(7), landmarks=heads)
    assert motion.dtype == np.float32
    assert motion[[0, 1, 2, 3, 6]].max() < 1e-5
    assert motion[4] > 0.01
    assert motion[4] == pytest.approx(motion[5], rel=1e-3), "the way there is as long as the way back"


def test_motion_follows_one_of_two_faces(portrait):
    finder = FaceFinder()
    other = (portrait[0] - portrait[0].mean(0)) * (1.4, 0.8) + (0.2, 0.7)
    growing = [np.stack([portrait[0], other]), np.stack([portrait[0], turned(other, 0, 1.6, 0)])] * 2
    assert finder.motion(blank(4), landmarks=growing).max() < 1e-5


def test_the_overlay_shows_regions_on_the_face_and_a_legend_beneath(finder, astronaut, portrait):
    track = finder(astronaut[None], landmarks=portrait)
    for grid in (None, (16, 16)):
        picture = draw_regions(astronaut, track, 0, finder, grid)
        assert picture.dtype == np.uint8
        assert picture.shape[1] == 1024, "enlarged to more than 640 pixels"
        assert picture.shape[0] > 1024, "the legend"
        plain = np.asarray(Image.fromarray(astronaut).resize((1024, 1024), Image.BICUBIC))
        changed = (picture[:1024] != plain).any(-1)
        x0, y0, x1, y1 = (track.boxes[0] * 1024).astype(int)
        patch = 0 if grid is None else 64
        assert changed[y0:y1, x0:x1].mean() > 0.3
        changed[max(0, y0 - patch - 2) : y1 + patch + 2, max(0, x0 - patch - 2) : x1 + patch + 2] = False
        assert not changed.any(), "nothing is drawn away from the face"
    legend = picture[1024:].reshape(-1, 3)
    for colour in faces._COLOURS:
        assert (legend == colour).all(-1).any()
    none = finder(blank(1, 700, 700))
    assert np.array_equal(draw_regions(blank(1, 700, 700)[0], none, 0, finder)[:700], blank(1, 700, 700)[0])


def test_a_followed_face_agrees_with_the_mesh_and_costs_fewer_of_them(finder, shared_data, monkeypatch):
    frames = load_clip(shared_data / "face_clips" / "single_face.mp4", num_frames=16, sound=False).frames
    followed = FaceFinder(finder.backend, mesh_every=4, threads=1)
    every = finder(frames)
    followed(frames[:1])
    kind = faces._MODELS[finder.backend]
    meshed, mesh = [], kind.mesh
    monkeypatch.setattr(kind, "mesh", lambda model, picture: meshed.append(1) or mesh(model, picture))
    track = followed(frames)
    assert len(meshed) < 12
    np.testing.assert_array_equal(track.found, every.found)
    np.testing.assert_array_equal(track.num_faces, every.num_faces)
    size = frames.shape[2], frames.shape[1]
    eyes = np.linalg.norm((every.landmarks[:, 33] - every.landmarks[:, 263]) * size, axis=-1)
    apart = np.linalg.norm((track.landmarks - every.landmarks) * size, axis=-1) / eyes[:, None]
    assert (apart == 0).all(1).sum() == len(meshed)
    assert apart.mean() < 0.01
    assert apart.mean(1).max() < 0.03
    assert FaceFinder(**followed.to_dict()).mesh_every == 4


def test_frames_between_two_without_a_face_are_taken_to_have_none_and_threads_change_nothing(finder, astronaut):
    frames = np.repeat(background(500, 640)[None], 13, axis=0)
    for t in (0, 1, 2, 3, 4, 10):  # meshes run on 0, 4, 8 and 12; 10 is between two of them
        paste(frames[t], astronaut, 500, 10 * t, 0)
    one, three = (FaceFinder(finder.backend, mesh_every=4, threads=threads)(frames) for threads in (1, 3))
    assert one.found.tolist() == [True] * 5 + [False] * 8
    assert finder(frames).found.tolist() == [True] * 5 + [False] * 5 + [True] + [False] * 2
    assert np.array_equal(one.landmarks, three.landmarks, equal_nan=True)
    steps = np.diff(one.landmarks[:5].mean(1), axis=0) * (640, 500)
    np.testing.assert_allclose(steps, [[10, 0]] * 4, atol=2)


def test_a_face_that_jumps_is_not_followed(finder, astronaut):
    frames = np.repeat(background(360, 640)[None], 9, axis=0)
    places = [0, 0, 300, 300, 300, 0, 0, 300, 0]
    for frame, x in zip(frames, places, strict=True):
        paste(frame, astronaut, 320, x, 20)
    track = FaceFinder(finder.backend, mesh_every=4)(frames)
    np.testing.assert_array_equal(track.landmarks, finder(frames).landmarks)


def test_a_small_face_is_looked_at_in_the_decoded_frame(finder, astronaut):
    large = background(1080, 1920)
    paste(large, astronaut, 320, 900, 300)  # a face of about 130 pixels; 32 in the smaller frame
    large = np.ascontiguousarray(large)
    small = np.asarray(Image.fromarray(large).resize((480, 270), Image.Resampling.BOX))
    full = FullFrames([av.VideoFrame.from_ndarray(large, format="rgb24")], None, 1.0)
    truth, bare, detailed = finder(large[None]), finder(small[None]), finder(small[None], full=full)
    assert truth.found.all()
    assert detailed.found.all()
    size = np.array((1920, 1080))

    def error(track):
        return np.abs((track.landmarks - truth.landmarks) * size).mean()

    assert error(detailed) < error(bare)
    with_details, without = (finder.crops(small[None], detailed, 224, full=frames)[0] for frames in (full, None))
    edges, blurred = (np.abs(np.diff(crop.astype(int), axis=2)).mean() for crop in (with_details, without))
    assert edges > 1.3 * blurred
