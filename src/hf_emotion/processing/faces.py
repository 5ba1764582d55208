"""Faces: MediaPipe's face mesh in a clip's frames -> named facial regions -> patch masks, crops, facial motion.

MicroEmo (arXiv 2407.16552, section 3.2) "use[s] the keypoint indices of the MediaPipe face mesh via extracting
landmarks of each frame to define different facial regions as micro-expression regions, which are predefined on facial
anatomy. Then, the patches are combined to create masks associated with micro-expression regions." The paper does not
specify the indices, how a region becomes patches, which of several faces to use, or what to do with frames without a
face. Here: the table `REGIONS` (editable); a patch belongs to a region when it contains one of its landmarks or when a
tenth of the patch lies in the region's convex hull; the largest, the most central or one tracked face is used; and a
frame without a face has no regions.

What this adds to a bare FaceMesh call: small faces are found too (full-range detector, crop, mesh, landmarks mapped
back), frames are spread over threads, and both MediaPipe generations work: 0.10.21 with its bundled models, later ones,
which bundle none, with the same models from `face_landmarker.task` beside this file (scripts/make_face_landmarker.py).
"""

import atexit
import contextlib
import ctypes
import hashlib
import importlib
import importlib.util
import io
import itertools
import math
import os
import sys
import tempfile
import threading
import urllib.request
import warnings
import weakref
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from huggingface_hub import constants as hub_constants
from PIL import Image, ImageDraw, ImageFont

NUM_LANDMARKS = 478  # 468 of the mesh, 10 of the irises

# Left and right are the subject's own, as in MediaPipe: `left_eye` is at the right of a frontal picture. The comments
# name the action units (FACS) that a region shows. Indices were read off MediaPipe's canonical face model; left mirrors
# right exactly.
REGIONS: dict[str, list[int]] = {
    # AU1 inner and AU2 outer brow raiser, AU4 brow lowerer
    "left_brow": [300, 293, 334, 296, 336, 276, 283, 282, 295, 285],
    "right_brow": [70, 63, 105, 66, 107, 46, 53, 52, 65, 55],
    # AU4: frown lines between the brows (corrugator, procerus); AU9 wrinkles at the root of the nose
    "glabella": [9, 8, 168, 107, 55, 193, 336, 285, 417],
    # AU5 upper lid raiser, AU7 lid tightener, AU43 closure, AU45 blink, AU6 at the lower lid
    "left_eye": [
        *(263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466),
        *(359, 255, 339, 254, 253, 252, 256, 341, 463, 414, 286, 258, 257, 259, 260, 467),
    ],
    "right_eye": [
        *(33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246),
        *(130, 25, 110, 24, 23, 22, 26, 112, 243, 190, 56, 28, 27, 29, 30, 247),
    ],
    # AU9 nose wrinkler, AU38 nostril dilator, AU39 nostril compressor
    "nose": [
        *(6, 197, 195, 5, 4, 1, 19, 94, 2),
        *(122, 188, 196, 174, 114, 217, 3, 236, 126, 198, 51, 134, 209, 131, 45, 220, 49, 115, 48, 102, 64, 98, 97),
        *(351, 412, 419, 399, 343, 437, 248, 456, 355, 420, 281, 363),
        *(429, 360, 275, 440, 279, 344, 278, 331, 294, 327, 326),
    ],
    # AU10 upper lip raiser, AU11 nasolabial deepener, AU12 lip corner puller: the fold from the wing of the nose to the
    # mouth
    "left_nasolabial": [358, 371, 266, 423, 391, 426, 322, 436, 410, 432, 287],
    "right_nasolabial": [129, 142, 36, 203, 165, 206, 92, 216, 186, 212, 57],
    # AU6 cheek raiser, AU13 sharp lip puller, AU14 dimpler
    "left_cheek": [340, 345, 346, 347, 348, 349, 329, 330, 280, 352, 366, 376, 401, 425, 411, 427, 433, 416],
    "right_cheek": [111, 116, 117, 118, 119, 120, 100, 101, 50, 123, 137, 147, 177, 205, 187, 207, 213, 192],
    # AU12, AU14, AU15 lip corner depressor, AU16, AU18, AU20 lip stretcher, AU22-28 lips part, press, funnel, suck
    "mouth": [
        *(61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409),
        *(78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415),
    ],
    # AU17 chin raiser, AU26 jaw drop, AU27 mouth stretch
    "chin": [
        *(18, 200, 199, 175, 152),
        *(83, 182, 194, 201, 32, 208, 140, 171, 176, 148, 313, 406, 418, 421, 262, 428, 369, 396, 400, 377),
    ],
    # AU1 and AU2: lines across the brow (frontalis)
    "forehead": [10, 151, 109, 67, 103, 54, 68, 104, 69, 108, 338, 297, 332, 284, 298, 333, 299, 337],
}

# Hairline, corners of the eyes, bridge and tip of the nose, temples, ears: what moves with the skull rather than with a
# muscle.
RIGID_LANDMARKS = [10, 33, 133, 263, 362, 168, 6, 197, 195, 5, 4, 127, 356, 234, 454]

# The face models of MediaPipe 0.10.21 in the form that later releases open; a model's folder carries a copy.
MODELS_FILE = "face_landmarker.task"
MODELS_SHA256 = "51be04531b1c39616598e60216468e3eceb7c2e624f24536d4487deb34bcc8f5"
FULL_RANGE_MEMBER = "face_detector_full_range.tflite"
FULL_RANGE_SINCE = (0, 10, 33)  # the first release whose Tasks API opens that detector

TASK_VARIABLE = "HF_EMOTION_FACE_LANDMARKER"
TASK_URL = (
    "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task"
)
TASK_SHA256 = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"

# Pixels of the mesh's input: a face that is smaller in a frame is taken from the frame at full size, if there is one.
MESH_SIDE = 192
# Following a face between two meshes. Lengths are shares of the distance between the outer corners of the eyes.
FOLLOWED_SIDE = 80  # pixels of the face in the pictures that optical flow compares
MAX_MOVED = 0.35  # RMS between the two meshes; flow does not bridge more
MAX_APART = 0.05  # RMS between the landmarks as followed from either side; where it is more, the mesh runs

BACKENDS = ("auto", "given", "solutions", "tasks", "none")
CHOICES = ("largest", "central", "track")


class FaceError(RuntimeError):
    """Faces were requested but cannot be found, or the landmarks, frames or settings passed are invalid."""


@dataclass
class FaceTrack:
    """One face through the frames of a clip.

    Attributes:
        landmarks: (T, 478, 2) float32, x and y as fractions of the frame's width and height; beyond [0, 1] where the
            border cuts the face; NaN where there is no face, and for landmarks that the caller did not pass.
        boxes: (T, 4) float32, x0, y0, x1, y1 in [0, 1], the bounds of the landmarks inside the frame; NaN where there
            is no face.
        found: (T,) bool, whether the chosen face is in the frame.
        num_faces: (T,) int64, faces detected in the frame, chosen or not.
        backend: the source of the landmarks: "given", "solutions", "tasks" or "none".
    """

    landmarks: np.ndarray
    boxes: np.ndarray
    found: np.ndarray
    num_faces: np.ndarray
    backend: str


class FaceFinder:
    """Finds one face in each frame of a clip and turns it into regions, crops and motion.

    Args:
        backend: "auto" takes the first one available: landmarks passed by the caller, MediaPipe's solutions (0.10.21,
            bundled models), MediaPipe's Tasks API with the same models from `face_landmarker.task`, none (with one
            warning). If a backend is named explicitly and is not available, a FaceError is raised.
        choose: which of several faces: "largest", "central" (nearest to the middle of the frame), or "track" (one face
            followed through the clip by box overlap and centre distance, the one with the largest area over the clip; a
            frame that shows only other faces then has `found` False).
        regions: {name: landmark indices}, by default `REGIONS`.
        task_path: a `face_landmarker.task` file for the Tasks API, in place of the package's own; else the environment
            variable HF_EMOTION_FACE_LANDMARKER names it.
        allow_download: download Google's `face_landmarker.task`, a newer mesh, into the Hugging Face cache folder if a
            file is needed and there is none.
        max_faces: maximum number of faces per frame that get a mesh: those with the best detection score, and the
            largest of the small ones. Further faces are counted but not chosen.
        min_confidence: minimum score, in [0, 1], of a detection and of a mesh.
        min_landmarks: a patch that contains this many landmarks of a region belongs to it.
        min_area: a patch belongs to a region if at least this fraction of the patch lies in the region's convex hull.
        search_every: interval, in frames, of the thorough search for small faces, by the full-range detector on the
            whole frame and on square tiles. If a face is found, all frames are searched; a small face that appears in
            none of the searched frames is missed. 1 searches every frame.
        mesh_every: 1 runs the mesh on every frame. With n, it runs on every n-th; on the frames between, a single face
            follows the optical flow from the meshes on either side, and the mesh runs where the two disagree. Frames
            between two without a face are taken to have none. Needs OpenCV, which MediaPipe brings. For the price and
            the agreement see `benchmarks/picture_sizes.py`.
        threads: number of threads that the frames are spread over; None: one per core, at most 4.

    Raises:
        FaceError: an unknown backend or choice, a region without landmarks, a number out of range.
    """

    def __init__(
        self,
        backend="auto",
        choose="largest",
        regions=None,
        task_path=None,
        allow_download=False,
        max_faces=4,
        min_confidence=0.5,
        min_landmarks=1,
        min_area=0.1,
        search_every=8,
        mesh_every=1,
        threads=None,
    ):
        if backend not in BACKENDS:
            raise FaceError(f"face backend {backend!r} is unknown; accepted: {', '.join(BACKENDS)}")
        if choose not in CHOICES:
            raise FaceError(f"face choice {choose!r} is unknown; accepted: {', '.join(CHOICES)}")
        for name, value, low in (
            ("max_faces", max_faces, 1),
            ("min_landmarks", min_landmarks, 1),
            ("search_every", search_every, 1),
            ("mesh_every", mesh_every, 1),
            ("threads", 1 if threads is None else threads, 1),
        ):
            if not isinstance(value, int) or value < low:
                raise FaceError(f"{name} is {value!r}; accepted: a whole number from {low}")
        if not 0 <= min_confidence <= 1:
            raise FaceError(f"min_confidence is {min_confidence!r}; accepted: a number from 0 to 1")
        if not 0 < min_area <= 1:
            raise FaceError(f"min_area is {min_area!r}; accepted: a fraction above 0 and up to 1")
        self.backend = backend
        self.choose = choose
        self.regions = _check_regions(REGIONS if regions is None else regions)
        self.task_path = None if task_path is None else str(task_path)
        self.allow_download = allow_download
        self.max_faces = max_faces
        self.min_confidence = min_confidence
        self.min_landmarks = min_landmarks
        self.min_area = min_area
        self.search_every = search_every
        self.mesh_every = mesh_every
        self.threads = threads
        self._reset()

    def _reset(self):
        self._resolved = None
        self._task = None
        self._lock = threading.Lock()

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name in _SETTINGS}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._reset()

    def to_dict(self) -> dict:
        """The settings saved in a model's JSON; FaceFinder(**settings) gives the same faces and masks.

        The file path, the download permission and the number of threads depend on the machine and are left out.
        """
        settings = {name: getattr(self, name) for name in _SETTINGS if name not in _MACHINE_SETTINGS}
        settings["regions"] = {name: list(indices) for name, indices in self.regions.items()}
        return settings

    @property
    def region_names(self) -> list[str]:
        """Names of the R regions, in the order of the masks' R axis."""
        return list(self.regions)

    def __call__(self, frames, landmarks=None, full=None) -> FaceTrack:
        """Finds the face of each frame.

        Args:
            frames: (T, H, W, 3) uint8 RGB.
            landmarks: known faces, used instead of a search: (T, K, 2 or more), or (T, F, K, 2 or more) for several
                faces, or a list of T entries (None, (K, 2) or (F, K, 2)); x and y as fractions of the frame, K up to
                478, NaN where there is none.
            full: the same frames before they were made smaller (`media.FullFrames`), for small faces.

        Returns:
            FaceTrack over the T frames.

        Raises:
            FaceError: frames or landmarks have another shape; the chosen backend is not available; MediaPipe was used
                in the process from which this one was forked.
        """
        frames = _check_frames(frames)
        size = frames.shape[2], frames.shape[1]
        if landmarks is not None:
            faces = self._check_all(landmarks, len(frames))
            return _follow(faces, [len(f) for f in faces], size, self.choose, "given")
        faces, num_faces, backend = self._find(frames, full)
        return _follow(faces, num_faces, size, self.choose, backend)

    def tracks(self, frames, landmarks=None) -> list[FaceTrack]:
        """Follows every face through the clip, as `choose="track"` follows one; the largest over the clip comes first.

        Args and errors as in `__call__`.
        """
        frames = _check_frames(frames)
        if landmarks is None:
            faces, num_faces, backend = self._find(frames)
        else:
            faces = self._check_all(landmarks, len(frames))
            num_faces, backend = [len(f) for f in faces], "given"
        scale = _scale((frames.shape[2], frames.shape[1]))
        boxes = _boxes(faces, scale)
        return [
            _chosen(faces, boxes, scale, num_faces, [chain.get(t) for t in range(len(frames))], backend)
            for chain in _chains(boxes)
        ]

    def region_masks(self, track, grid) -> np.ndarray:
        """Patches of each region (MicroEmo section 3.2; the paper does not specify the rule for a patch, this is ours).

        Args:
            track: FaceTrack over T frames.
            grid: (rows, columns) of the patch grid laid over the whole frame, or one number for both.

        Returns:
            (T, R, P) bool, P = rows * columns, row by row; all false in a frame without the face.

        Raises:
            FaceError: the grid is not two whole numbers from 1; none of a region's landmarks is known.
        """
        rows, columns = _check_grid(grid)
        masks = np.zeros((len(track.found), len(self.regions), rows * columns), bool)
        at = np.flatnonzero(track.found)
        if len(at) == 0:
            return masks
        widest = max(len(indices) for indices in self.regions.values())
        # Regions are padded to one width by repeating their first landmark, which moves no hull and is not counted.
        table = np.array([i + i[:1] * (widest - len(i)) for i in self.regions.values()])
        real = np.arange(widest) < np.array([len(i) for i in self.regions.values()])[:, None]
        for some in np.array_split(at, math.ceil(len(at) / 64)):  # so that memory does not grow with the clip
            points = track.landmarks[some][:, table].astype(np.float64)  # (T, R, K, 2)
            known = np.isfinite(points).all(-1) & real
            if not known.any(-1).all():
                lacking = self.region_names[np.flatnonzero(~known.any(-1).all(0))[0]]
                raise FaceError(
                    f"region {lacking!r} has no landmark among those passed; pass its landmarks or remove the region"
                )
            first = np.take_along_axis(points, known.argmax(-1)[..., None, None], axis=2)
            points = np.where(known[..., None], points, first) * (columns, rows)
            counts = _landmarks_per_patch(points, known, rows, columns)
            areas = _area_per_patch(_hulls(points.reshape(-1, widest, 2)), rows, columns)
            masks[some] = (counts >= self.min_landmarks) | (areas.reshape(counts.shape) >= self.min_area)
        return masks

    def crops(self, frames, track, size, margin=0.5, full=None) -> tuple[np.ndarray, np.ndarray]:
        """Square crops of the face.

        Args:
            frames: (T, H, W, 3) uint8 RGB, those of the track.
            track: FaceTrack over T frames.
            size: side of a crop in pixels.
            margin: the crop's side is (1 + margin) times the longer side of the face's box; a crop that extends beyond
                the frame is moved inside, and it is never larger than the frame's shorter side.
            full: as in `__call__`, for crops of fewer pixels than `size`.

        Returns:
            (T, size, size, 3) uint8 (where there is no face, the whole frame squeezed to a square), and (T,) bool,
            whether the crop shows a face.

        Raises:
            FaceError: frames differ in shape or number from the track's; a size below 1 or a margin below 0.
        """
        frames = _check_frames(frames)
        if len(frames) != len(track.found):
            raise FaceError(f"{len(frames)} frames were passed with the faces of {len(track.found)} frames")
        if size < 1 or margin < 0:
            raise FaceError(f"crop size is {size} and margin {margin}; accepted: a size from 1, a margin from 0")
        height, width = frames.shape[1:3]
        pictures = np.empty((len(frames), size, size, 3), np.uint8)
        for t, frame in enumerate(frames):
            box = (0, 0, width, height)
            if track.found[t]:
                x0, y0, x1, y1 = track.boxes[t] * (width, height, width, height)
                box = _square((x0 + x1) / 2, (y0 + y1) / 2, (1 + margin) * max(x1 - x0, y1 - y0), width, height)
            if full is not None and box[2] - box[0] < size:
                part, box = _full_crop(full, t, box, (width, height))
                picture = Image.fromarray(part).resize((size, size), Image.Resampling.BICUBIC, box)
            else:
                picture = Image.fromarray(frame).crop(box).resize((size, size), Image.Resampling.BICUBIC)
            pictures[t] = picture
        return pictures, track.found.copy()

    def motion(self, frames, landmarks=None) -> np.ndarray:
        """How far each frame's face has moved since the one before it, with the head's own movement removed.

        The face is tracked through the clip regardless of `choose`, since two people have two shapes. Each frame is
        shifted, rotated and scaled (2-D similarity, least squares over `RIGID_LANDMARKS`) onto the clip's mean; the
        measure is the RMS displacement of the regions' landmarks since the last frame with the face. A turn of the head
        out of the image plane is removed only if it is slow. Used to pick the peak frame, "the frame of strongest
        facial motion"; the distance from the clip's usual shape was tried, but picks the neutral frame of a clip in
        which the person smiles most of the time.

        Args:
            frames: (T, H, W, 3) uint8 RGB.
            landmarks: as in `__call__`.

        Returns:
            (T,) float32, in units of the rigid landmarks' RMS distance from their centre; 0 where there is no face and
            in the first frame with the face.
        """
        frames = _check_frames(frames)
        size = frames.shape[2], frames.shape[1]
        if landmarks is None:
            faces, num_faces, backend = self._find(frames)
        else:
            faces = self._check_all(landmarks, len(frames))
            num_faces, backend = [len(f) for f in faces], "given"
        track = _follow(faces, num_faces, size, "track", backend)
        motion = np.zeros(len(frames), np.float32)
        if track.found.any():
            moving = sorted({i for indices in self.regions.values() for i in indices} - set(RIGID_LANDMARKS))
            motion[track.found] = _displacement(track.landmarks[track.found] * np.float32(size), moving)
        return motion

    def _check_all(self, landmarks, num_frames):
        """The caller's landmarks -> list of T arrays (F, 478, 2) float32, without faces that are all NaN."""
        if len(landmarks) != num_frames:
            raise FaceError(f"landmarks cover {len(landmarks)} frames, but the clip has {num_frames}")
        return [_check_landmarks(entry, t) for t, entry in enumerate(landmarks)]

    def _find(self, frames, full=None):
        """Faces of (T, H, W, 3) frames -> list of T arrays (F, 478, 2) float32, list of T counts, backend used."""
        if self.backend != "none":
            _refuse_after_fork()
        with self._lock:
            backend = self._resolve()
            if backend == "none" or len(frames) == 0:
                return [np.empty((0, NUM_LANDMARKS, 2), np.float32)] * len(frames), [0] * len(frames), backend
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
            workers = min(self.threads or min(cores, 4), math.ceil(len(frames) / 4))
            with self._borrowed(backend, workers) as models:
                return (*self._search(frames, models, full), backend)

    @contextlib.contextmanager
    def _borrowed(self, backend, count):
        """`count` models with this finder's settings, from those that no other finder of the process uses now.

        They are returned and not dropped with the finder: MediaPipe never frees the memory of a model, 45 MB each.
        """
        key = (backend, self.max_faces, self.min_confidence, self._task)
        with _MODELS_LOCK:
            idle = _IDLE_MODELS.setdefault(key, [])
            models = [idle.pop() for _ in range(min(count, len(idle)))]
        try:
            while len(models) < count:
                with _chatter_suppressed():
                    models.append(_MODELS[backend](self))
                _OPEN_MODELS.add(models[-1])
            yield models
        finally:
            with _MODELS_LOCK:
                idle.extend(models)

    def _search(self, frames, models, full=None):
        """Runs the mesh, then the thorough search where it is likely to add a face.

        The full-range detector costs as much as the mesh, and most clips show one large face throughout. So it runs on
        every n-th frame, on all frames if it found faces there that the mesh had missed, and on frames between faces.
        """
        frames = np.ascontiguousarray(frames)
        everything = list(range(len(frames)))
        faces, more = {}, dict.fromkeys(everything, 0)

        def in_threads(work, times):
            shares = [times[k :: len(models)] for k in range(len(models))]
            shares = [(model, share) for model, share in zip(models, shares, strict=True) if share]
            with ThreadPoolExecutor(len(shares) or 1) as pool:
                done = pool.map(lambda pair: [(t, work(pair[0], t)) for t in pair[1]], shares)
                return dict(itertools.chain.from_iterable(done))

        def mesh(times):
            faces.update(in_threads(lambda model, t: _without_duplicates(model.mesh(frames[t])), times))

        def search(times, tiles):
            """Adds new faces to `faces` and `more`; returns whether there were any, and any found in a tile only."""

            def find(model, t):
                crop = None if full is None else lambda box: _full_crop(full, t, box, frames.shape[2:0:-1])
                return _search_frame(model, frames[t], faces[t], self.max_faces, tiles(t), crop)

            results = in_threads(find, times)
            for t, (new, unmeshed, _) in results.items():
                faces[t] = faces[t] + new
                more[t] = unmeshed
            return any(r[0] for r in results.values()), any(r[2] for r in results.values())

        probes = {*everything[:: self.search_every], everything[-1]}
        keys = sorted({*everything[:: self.mesh_every], *probes})
        mesh(keys)
        added, tiled = search(sorted(probes), lambda t: not faces[t])
        rest = [t for t in everything if t not in probes]
        if added:
            mesh([t for t in rest if t not in faces])
            search(rest, lambda t: tiled)
        elif any(faces.values()):
            search([t for t in keys if t not in probes and not faces[t]], lambda t: False)
        if not added and len(keys) < len(frames):
            spans = list(itertools.pairwise(keys))
            done = in_threads(lambda _, i: _between(frames, faces, *spans[i]), list(range(len(spans))))
            for i, (first, last) in enumerate(spans):
                faces.update((t, [face]) for t, face in done[i].items())
                if not faces[first] and not faces[last]:
                    faces.update((t, []) for t in range(first + 1, last))
            others = [t for t in everything if t not in faces]
            mesh(others)
            search([t for t in others if not faces[t]], lambda t: False)
        stacked = [np.stack(faces[t]) if faces[t] else np.empty((0, NUM_LANDMARKS, 2), np.float32) for t in everything]
        return stacked, [len(faces[t]) + more[t] for t in everything]

    def _resolve(self):
        """The backend used in this process, chosen on the first call."""
        if self._resolved is not None:
            return self._resolved
        if self.backend == "given":
            raise FaceError("face backend 'given' needs the landmarks of each frame; none were passed")
        ways_out = (
            "install mediapipe (0.10.21 bundles the face models; for later releases they come with hf_emotion and with "
            f"a saved model), or set task_path or {TASK_VARIABLE} to a {MODELS_FILE} file (or set allow_download=True)"
        )
        mediapipe, why = (None, "") if self.backend == "none" else _import_mediapipe()
        resolved = "none"
        if mediapipe is not None and self.backend in ("auto", "solutions"):
            if hasattr(mediapipe, "solutions"):
                resolved = "solutions"
            else:
                why = f"mediapipe {mediapipe.__version__} has no bundled face mesh"
        if mediapipe is not None and resolved == "none" and self.backend in ("auto", "tasks"):
            try:
                self._task = _task_file(self.task_path, self.allow_download)
                resolved = "tasks"
            except FileNotFoundError as error:
                why = f"{why} and {error}" if why else str(error)
        if resolved == "none" and self.backend in ("solutions", "tasks"):
            raise FaceError(f"face backend {self.backend!r} is not available ({why}): {ways_out}")
        if resolved == "none" and self.backend == "auto":
            warnings.warn(f"clips are described without faces ({why}): {ways_out}", stacklevel=4)
        if resolved != "none":
            setattr(mediapipe, _USED_BY, os.getpid())
        self._resolved = resolved
        return resolved


_MACHINE_SETTINGS = ("task_path", "allow_download", "threads")
_SETTINGS = (
    *(
        "backend",
        "choose",
        "regions",
        "max_faces",
        "min_confidence",
        "min_landmarks",
        "min_area",
        "search_every",
        "mesh_every",
    ),
    *_MACHINE_SETTINGS,
)


class _Solutions:
    """MediaPipe 0.10.21: face mesh (short-range detector inside) and full-range detector, one set for each thread."""

    tile_sides = (1.0,)  # of the frame's shorter side; the full-range detector detects faces from a 14th of the tile up

    def __init__(self, finder):
        solutions = importlib.import_module("mediapipe").solutions
        # Static: the result for a frame does not depend on other frames or on the thread.
        self._mesh = _in_callers_thread(solutions.face_mesh.FaceMesh)(
            static_image_mode=True,
            max_num_faces=finder.max_faces,
            refine_landmarks=True,
            min_detection_confidence=finder.min_confidence,
            min_tracking_confidence=finder.min_confidence,
        )
        self._range = _in_callers_thread(solutions.face_detection.FaceDetection)(
            finder.min_confidence, model_selection=1
        )
        self.mesh(_drawn_face())
        self.boxes(_drawn_face())

    def mesh(self, picture):
        """(H, W, 3) -> list of (478, 2) float32, fractions of the picture."""
        faces = self._mesh.process(picture).multi_face_landmarks or []
        return [_points_of(face) for face in faces]

    def boxes(self, picture):
        """(H, W, 3) -> list of x0, y0, x1, y1 in pixels."""
        height, width = picture.shape[:2]
        detected = [d.location_data.relative_bounding_box for d in self._range.process(picture).detections or []]
        return [
            np.array((b.xmin * width, b.ymin * height, (b.xmin + b.width) * width, (b.ymin + b.height) * height))
            for b in detected
        ]


def _in_callers_thread(solution):
    """A class of `mediapipe.solutions` whose graph runs in the thread that calls it.

    Usually it runs in threads of its own, and every frame pays for being handed from thread to thread.
    """
    base = importlib.import_module("mediapipe.python.solution_base").SolutionBase
    configuration = importlib.import_module("mediapipe.framework.calculator_pb2").CalculatorGraphConfig
    package = Path(importlib.import_module("mediapipe").__file__).parent.parent

    class InCallersThread(base):
        def __init__(self, binary_graph_path, **options):
            graph = configuration.FromString((package / binary_graph_path).read_bytes())
            if not graph.executor and not graph.num_threads:
                graph.executor.add(type="ApplicationThreadExecutor")
            super().__init__(graph_config=graph, **options)

    return type(solution.__name__, (solution, InCallersThread), {})


class _Tasks:
    """MediaPipe's Tasks API: face landmarker (short-range detector inside) and, if the file holds one and this release
    opens it, the full-range detector. Without that, small faces are sought by the landmarker on smaller tiles."""

    def __init__(self, finder):
        mediapipe = importlib.import_module("mediapipe")
        vision = mediapipe.tasks.vision
        data = Path(finder._task).read_bytes()
        # From a buffer: the C++ side cannot open paths with certain characters.
        options = vision.FaceLandmarkerOptions(
            base_options=mediapipe.tasks.BaseOptions(model_asset_buffer=data),
            num_faces=finder.max_faces,
            min_face_detection_confidence=finder.min_confidence,
            min_face_presence_confidence=finder.min_confidence,
        )
        try:
            self._landmarker = vision.FaceLandmarker.create_from_options(options)
        except (RuntimeError, ValueError, OSError) as error:
            raise FaceError(f"{finder._task} is not a face landmarker that mediapipe can open: {error}") from None
        self._range = None
        with zipfile.ZipFile(io.BytesIO(data)) as members:
            if FULL_RANGE_MEMBER in members.namelist() and _release(mediapipe) >= FULL_RANGE_SINCE:
                base = mediapipe.tasks.BaseOptions(model_asset_buffer=members.read(FULL_RANGE_MEMBER))
                options = vision.FaceDetectorOptions(base, min_detection_confidence=finder.min_confidence)
                self._range = vision.FaceDetector.create_from_options(options)
        self.tile_sides = (1.0, 0.5) if self._range is None else (1.0,)
        self._picture = lambda data: mediapipe.Image(
            image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(data)
        )
        self.mesh(_drawn_face())
        self.boxes(_drawn_face())

    def mesh(self, picture):
        """(H, W, 3) -> list of (478, 2) float32, fractions of the picture."""
        faces = self._landmarker.detect(self._picture(picture)).face_landmarks
        return [np.array([(p.x, p.y) for p in face], np.float32) for face in faces]

    def boxes(self, picture):
        """(H, W, 3) -> list of x0, y0, x1, y1 in pixels."""
        if self._range is None:
            height, width = picture.shape[:2]
            return [_bounds(face) * (width, height, width, height) for face in self.mesh(picture)]
        found = [d.bounding_box for d in self._range.detect(self._picture(picture)).detections]
        return [np.array((b.origin_x, b.origin_y, b.origin_x + b.width, b.origin_y + b.height), float) for b in found]


def _points_of(face):
    """(478, 2) float32 of a `NormalizedLandmarkList`. From its bytes, which is faster than to ask 478 objects."""
    data = np.frombuffer(face.SerializeToString(), np.uint8)
    if data.size == NUM_LANDMARKS * 17:  # each with its length and three numbers, each of them after its tag
        rows = data.reshape(NUM_LANDMARKS, 17)
        if (rows[:, (0, 1, 2, 7, 12)] == (0x0A, 0x0F, 0x0D, 0x15, 0x1D)).all():
            return np.concatenate([rows[:, 3:7], rows[:, 8:12]], axis=1).view("<f4")
    return np.array([(p.x, p.y) for p in face.landmark], np.float32)


def _release(mediapipe):
    """0.10.33 -> (0, 10, 33)."""
    return tuple(int(part) for part in mediapipe.__version__.split(".")[:3])


_MODELS = {"solutions": _Solutions, "tasks": _Tasks}

# Stored on the mediapipe module because a model loaded from a folder has its own copy of this file.
_USED_BY = "_hf_emotion_used_by_process"
_OPEN_MODELS = weakref.WeakSet()
_IDLE_MODELS: dict[tuple, list] = {}  # by backend and settings
_MODELS_LOCK = threading.Lock()


def _abandon_models():
    """Add a reference, so that no model is destroyed: in a forked child that would wait for the parent's threads, and
    when the interpreter exits the threads that MediaPipe's destructors need have ended."""
    for model in _OPEN_MODELS:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(model))


atexit.register(_abandon_models)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_models)


def _refuse_after_fork():
    used_by = getattr(sys.modules.get("mediapipe"), _USED_BY, None)
    if used_by not in (None, os.getpid()):
        raise FaceError(
            "MediaPipe was used in the process from which this one was forked, and would crash here: start workers "
            "with 'spawn' (multiprocessing_context='spawn' in a DataLoader), or find faces only in the workers or only "
            "in the main process"
        )


def _import_mediapipe():
    """mediapipe, or None and the reason. Imported here and not at the top because that takes about a second."""
    if importlib.util.find_spec("mediapipe") is None:
        return None, "mediapipe is not installed"
    try:
        return importlib.import_module("mediapipe"), ""
    except Exception as error:  # a broken binary dependency raises anything from ImportError to AttributeError
        return None, f"mediapipe cannot be imported: {error}"


def models_file():
    """Path of the package's face models: beside this file or, for a copy of it that came with a model, in an installed
    hf_emotion; None if neither is there."""
    places = [Path(__file__).parent]
    with contextlib.suppress(ImportError):
        package = importlib.util.find_spec("hf_emotion")
        if package is not None and package.origin:
            places.append(Path(package.origin).parent / "processing")
    return next((str(place / MODELS_FILE) for place in places if (place / MODELS_FILE).is_file()), None)


def check_models_file(path):
    """The path of a model folder's copy of the face models, if it is one.

    Raises:
        FaceError: the file has other content. MediaPipe's native code would read it, and folders come from strangers.
    """
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if digest != MODELS_SHA256:
        raise FaceError(
            f"{path} is not hf_emotion's file of face models (SHA-256 {digest}, expected {MODELS_SHA256}); delete it, "
            f"or set {TASK_VARIABLE} to a file that you trust"
        )
    return str(path)


def _task_file(path, allow_download):
    """Path of the face models: the argument, the environment variable, the package's own file, the cache, the
    download, in this order."""
    for name, source in ((path, "task_path"), (os.environ.get(TASK_VARIABLE), TASK_VARIABLE)):
        if name:
            if not Path(name).is_file():
                raise FaceError(f"{source} is {name}, which is not a file; accepted: a face_landmarker.task file")
            return name
    models = models_file()
    if models is not None:
        return models
    target = Path(hub_constants.HF_HOME) / "hf_emotion" / MODELS_FILE
    if not target.is_file():
        if not allow_download:
            raise FileNotFoundError(f"no {MODELS_FILE} file was found and downloads are not allowed")
        _download(target)
    return str(target)


def _download(target):
    if hub_constants.HF_HUB_OFFLINE:
        raise FileNotFoundError("face_landmarker.task cannot be downloaded because HF_HUB_OFFLINE is set")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = None
    try:
        with urllib.request.urlopen(TASK_URL, timeout=30) as answer:
            data = answer.read()
        if hashlib.sha256(data).hexdigest() != TASK_SHA256:
            raise OSError("the downloaded file is not the expected one (SHA-256 differs)")
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
            part = file.name
            file.write(data)
        os.replace(part, target)
    except OSError as error:
        if part is not None:
            Path(part).unlink(missing_ok=True)
        raise FileNotFoundError(f"face_landmarker.task could not be downloaded from {TASK_URL}: {error}") from None


_CHATTER = (
    b"absl::InitializeLog",
    b"before InitGoogle",
    b"inference_feedback_manager",
    b"landmark_projection_calculator",
    b"XNNPACK delegate",
    b"gl_context",
    b"face_landmarker_graph",
    b"accelerator_registry",
    b"compiled_model.cc",
    b"cpu_registry",
    b"environment.cc",
    b"gpu_registry",
    b"model_load.cc",
    b"inference_runner_litert",
)
_CHATTER_LOCK = threading.Lock()


@contextlib.contextmanager
def _chatter_suppressed():
    """Suppresses MediaPipe's start-up messages, and passes on every other line afterwards.

    C++ writes them to file descriptor 2 before its log library is set up, so no log level suppresses them.
    """
    with _CHATTER_LOCK, contextlib.ExitStack() as stack:
        try:
            original = os.dup(2)
        except OSError:
            original = None
        if original is None:
            yield
            return
        stack.callback(os.close, original)
        buffer = stack.enter_context(tempfile.TemporaryFile())
        os.dup2(buffer.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(original, 2)
            buffer.seek(0)
            for line in buffer:
                if not any(word in line for word in _CHATTER):
                    os.write(2, line)


def _drawn_face():
    """A drawing that the detector accepts as a face: a graph loads all of its models only once it has seen one."""
    picture = Image.new("RGB", (288, 192), (90, 90, 90))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((94, 16, 194, 156), fill=(225, 180, 150))
    for x in (124, 164):
        draw.ellipse((x - 9, 66, x + 9, 76), fill="white")
        draw.ellipse((x - 4, 66, x + 4, 76), fill=(40, 20, 10))
        draw.line((x - 14, 56, x + 14, 56), fill=(60, 30, 20), width=4)
    draw.line((144, 72, 140, 104, 150, 106), fill=(170, 120, 100), width=3)
    draw.ellipse((126, 118, 162, 130), fill=(180, 60, 60))
    return np.asarray(picture)


def _between(frames, faces, first, last):
    """The face of the frames between two that show the same one, followed from both by optical flow.

    The landmarks of either mesh are moved by the flow (DIS) from its frame; the two results are averaged by their
    distance in frames. The pictures compared move with the face, evenly from the one mesh to the other, so that the
    flow has only the rest of its movement to find.

    Returns:
        {frame: (478, 2) float32} of the frames in which the two agree; fractions of the frame, like `faces`.
    """
    if last - first < 2 or len(faces[first]) != 1 or len(faces[last]) != 1:
        return {}
    size = np.float32((frames.shape[2], frames.shape[1]))
    before, after = (faces[t][0] * size for t in (first, last))
    eyes = np.linalg.norm(before[33] - before[263])
    moved = after.mean(0) - before.mean(0)
    if _rms(before - after) > MAX_MOVED * eyes:
        return {}
    cv2 = importlib.import_module("cv2")  # with MediaPipe, which this process has imported already
    start, stop = (point(np.concatenate([before, after - moved]), 0) for point in (np.min, np.max))
    margin, scale = 0.1 * max(stop - start), min(1.0, FOLLOWED_SIDE / max(np.ptp(before, axis=0)))
    start, (width, height) = start - margin, np.ceil(stop - start + 2 * margin).astype(int)
    if min(width, height) * scale < 32:  # less than the flow's coarsest scale needs
        return {}

    def picture(t):
        """The grey picture around the face of frame t, and where it starts."""
        x, y = np.round(start + moved * ((t - first) / (last - first))).astype(int)
        part = frames[t, max(0, y) : y + height, max(0, x) : x + width]
        top, left = max(0, -y), max(0, -x)
        bottom, right = height - top - part.shape[0], width - left - part.shape[1]
        if top or left or bottom or right:
            part = cv2.copyMakeBorder(part, top, bottom, left, right, cv2.BORDER_REPLICATE)
        part = part if scale == 1 else cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        return cv2.cvtColor(part, cv2.COLOR_RGB2GRAY), np.float32((x, y))

    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    flow.setFinestScale(1)
    flow.setGradientDescentIterations(8)
    ends = []
    for t, points in ((first, before), (last, after)):
        there, corner = picture(t)
        ends.append((there, ((points - corner) * scale).astype(np.float32)))
    followed = {}
    for t in range(first + 1, last):
        (here, corner), moves = picture(t), []
        for there, points in ends:
            field = flow.calc(there, here, None)
            x, y = np.ascontiguousarray(points.T)
            moves.append(points + cv2.remap(field, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0])
        if _rms(moves[0] - moves[1]) < MAX_APART * eyes * scale:
            share = (t - first) / (last - first)
            points = (moves[0] * (1 - share) + moves[1] * share) / scale + corner
            followed[t] = (points / size).astype(np.float32)
    return followed


def _rms(steps):
    """Root of the mean square length of (K, 2) vectors."""
    return math.sqrt((steps**2).sum(-1).mean())


def _full_crop(full, t, box, size):
    """A box of frame t at full size, and where it lies in the crop.

    box: x0, y0, x1, y1 in pixels of a frame of `size` (width, height) -> (h, w, 3) uint8, the box in the crop's pixels.
    """
    width, height = size
    part, (left, top, right, bottom) = full.crop(t, np.divide(box, (width, height, width, height)))
    across, down = part.shape[1] / (right - left), part.shape[0] / (bottom - top)
    x0, y0, x1, y1 = box
    inside = (x0 / width - left) * across, (y0 / height - top) * down
    inside += (x1 / width - left) * across, (y1 / height - top) * down
    return part, tuple(np.clip(inside, 0, (part.shape[1], part.shape[0]) * 2).tolist())


def _search_frame(model, frame, known, max_faces, use_tiles, full_crop=None):
    """Faces that the mesh on the whole frame missed.

    frame (H, W, 3), known list of (478, 2), full_crop: a box -> `_full_crop` of the frame. Returns new faces (a list
    of (478, 2)), the number of faces detected beyond `max_faces` (they get no mesh), and whether a new face was
    detected in a tile only.
    """
    height, width = frame.shape[:2]
    scale = (width, height, width, height)
    taken = [_bounds(face) * scale for face in known]  # boxes of known faces
    detected = []
    for x0, y0, x1, y1 in [(0, 0, width, height), *(_tiles(height, width, model.tile_sides) if use_tiles else [])]:
        for box in model.boxes(np.ascontiguousarray(frame[y0:y1, x0:x1])):
            box = np.add(box, (x0, y0, x0, y0))
            if not any(_same_face(box, other) for other in taken):
                taken.append(box)
                detected.append((box, (x1 - x0, y1 - y0) != (width, height)))
    detected.sort(key=lambda pair: -_area(pair[0]))
    room = max(0, max_faces - len(known))
    new, tiled = [], False
    for box, in_tile in detected[:room]:
        cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        # Twice the box: the mesh's own detector needs the whole head with some space around it.
        x0, y0, x1, y1 = _square(cx, cy, 2 * max(box[2] - box[0], box[3] - box[1]), width, height)
        if full_crop is not None and x1 - x0 < 2 * MESH_SIDE:
            part, (left, top, right, bottom) = full_crop((x0, y0, x1, y1))
            part = part[round(top) : round(bottom), round(left) : round(right)]
        else:
            part = frame[y0:y1, x0:x1]
        meshes = model.mesh(np.ascontiguousarray(part))
        meshes = [(mesh * (x1 - x0, y1 - y0) + (x0, y0)) / (width, height) for mesh in meshes]
        meshes = [mesh.astype(np.float32) for mesh in meshes if _same_face(_bounds(mesh) * scale, box)]
        meshes = [m for m in meshes if not any(_same_face(_bounds(m), _bounds(other)) for other in [*known, *new])]
        if meshes:
            new.append(max(meshes, key=lambda mesh: _area(_bounds(mesh))))
            tiled = tiled or in_tile
    return new, max(0, len(detected) - room), tiled


def _tiles(height, width, sides):
    """Squares that cover the frame, with sides that are fractions of its shorter side, overlapping by 20 % or more."""
    tiles = []
    for side in {max(1, round(fraction * min(height, width))) for fraction in sides}:
        if 1.2 * side >= max(height, width) or side < 64:  # nearly the frame itself, or too small for a face
            continue
        starts = [
            np.linspace(0, length - side, 1 + math.ceil((length - side) / (0.8 * side))).round().astype(int).tolist()
            for length in (height, width)
        ]
        tiles += [(x, y, x + side, y + side) for y, x in itertools.product(*starts)]
    return tiles


def _square(cx, cy, side, width, height):
    """A square in whole pixels around a centre, moved inside the frame, no larger than its shorter side."""
    side = max(1, min(round(side), width, height))
    x0 = min(max(round(cx - side / 2), 0), width - side)
    y0 = min(max(round(cy - side / 2), 0), height - side)
    return x0, y0, x0 + side, y0 + side


def _bounds(points):
    """(K, 2) -> x0, y0, x1, y1, NaN ignored."""
    return np.concatenate([np.nanmin(points, axis=0), np.nanmax(points, axis=0)])


def _area(box):
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _overlap(a, b):
    """Intersection over union of two boxes."""
    inner = _area(np.concatenate([np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])]))
    return inner / max(_area(a) + _area(b) - inner, 1e-12)


def _same_face(a, b):
    """Whether two boxes show one face. Models draw boxes of different extent, so it is enough that one box's centre is
    in the other and its sides are at least half as long."""
    small, large = sorted((a, b), key=_area)
    x, y = (small[0] + small[2]) / 2, (small[1] + small[3]) / 2
    inside = large[0] < x < large[2] and large[1] < y < large[3]
    return _overlap(a, b) > 0.3 or (inside and 4 * _area(small) > _area(large))


def _without_duplicates(faces):
    distinct = []
    for face in faces:
        if not any(_same_face(_bounds(face), _bounds(other)) for other in distinct):
            distinct.append(face)
    return distinct


def _follow(faces, num_faces, size, choose, backend):
    """Picks one face per frame. faces: list of T arrays (F, 478, 2); size: (width, height) in pixels -> FaceTrack."""
    scale = _scale(size)
    boxes = _boxes(faces, scale)
    if choose == "track":
        chain = next(iter(_chains(boxes)), {})
        chosen = [chain.get(t) for t in range(len(boxes))]
    elif choose == "central":
        middle = scale[:2] / 2
        chosen = [min(range(len(b)), key=lambda i: np.hypot(*(_centre(b[i]) - middle)), default=None) for b in boxes]
    else:
        chosen = [max(range(len(b)), key=lambda i: _area(b[i]), default=None) for b in boxes]
    return _chosen(faces, boxes, scale, num_faces, chosen, backend)


def _scale(size):
    """(width, height) -> the factors that convert a box from fractions of the frame to pixels."""
    return np.array((*size, *size), np.float64)


def _boxes(faces, scale):
    """Bounds in pixels of the faces of each frame."""
    return [[_bounds(face) * scale for face in in_frame] for in_frame in faces]


def _chosen(faces, boxes, scale, num_faces, chosen, backend):
    """The FaceTrack of face `chosen[t]` in each frame t; None where the frame does not show it."""
    landmarks = np.full((len(faces), NUM_LANDMARKS, 2), np.nan, np.float32)
    framed = np.full((len(faces), 4), np.nan, np.float32)
    for t, i in enumerate(chosen):
        if i is not None:
            landmarks[t] = faces[t][i]
            framed[t] = (boxes[t][i] / scale).clip(0, 1)
    found = np.array([i is not None for i in chosen], bool)
    return FaceTrack(landmarks, framed, found, np.array(num_faces, np.int64).reshape(-1), backend)


def _centre(box):
    return (box[:2] + box[2:]) / 2


def _chains(boxes):
    """Links boxes from frame to frame, closest first; the chain with the largest area over the clip comes first.

    A link needs centres less than one box apart and sizes within 2.5 times. boxes: list of T lists of (4,) pixels ->
    list of {frame: index}, one for each face.
    """
    chains = []
    last = []
    for t, in_frame in enumerate(boxes):
        links = []
        for c, i in itertools.product(range(len(chains)), range(len(in_frame))):
            a, b = last[c], in_frame[i]
            side_a, side_b = math.sqrt(_area(a)), math.sqrt(_area(b))
            apart = np.hypot(*(_centre(a) - _centre(b))) / max((side_a + side_b) / 2, 1e-9)
            if apart < 1 and max(side_a, side_b) < 2.5 * min(side_a, side_b):
                links.append((apart - _overlap(a, b), c, i))
        linked = {}
        for _, c, i in sorted(links):
            if c not in linked.values() and i not in linked:
                linked[i] = c
        for i, box in enumerate(in_frame):
            if i not in linked:
                linked[i] = len(chains)
                chains.append({})
                last.append(box)
            chains[linked[i]][t] = i
            last[linked[i]] = box
    return sorted(chains, key=lambda chain: -sum(_area(boxes[t][i]) for t, i in chain.items()))


def _hulls(points):
    """Convex hulls of many point sets at once, by gift wrapping.

    points (N, K, 2) -> (N, E, 2) corners in order, clockwise on a picture; sets with fewer corners repeat their first
    one.
    """
    x, y = np.ascontiguousarray(points[..., 0]), np.ascontiguousarray(points[..., 1])
    start = np.where(y == y.min(1, keepdims=True), x, np.inf).argmin(1)
    rows = np.arange(len(points))
    on_hull = np.zeros(x.shape, bool)
    on_hull[rows, start] = True
    corners = [points[rows, start]]
    # The sets still being wrapped: which, their current corner and the direction in which it was reached.
    n, at = rows, start
    dx, dy = np.ones(len(n)), np.zeros(len(n))
    for _ in range(points.shape[1]):
        xn, yn = x[n], y[n]
        i = np.arange(len(n))
        wx, wy = xn - xn[i, at][:, None], yn - yn[i, at][:, None]
        length = np.sqrt(wx * wx + wy * wy)
        # All points lie to one side: the next corner has the largest cosine, and is the last of several on one line.
        cosine = (wx * dx[:, None] + wy * dy[:, None]) / np.maximum(length, 1e-300)
        cosine[length == 0] = -2
        ahead = cosine >= cosine.max(1, keepdims=True) - 1e-12
        following = np.where(ahead, length, -1.0).argmax(1)
        reach = length[i, following]
        # A corner met again closes the hull, even if rounding has led past the first one.
        going = (reach > 0) & ~on_hull[n, following]
        going &= (xn[i, following] != corners[0][n, 0]) | (yn[i, following] != corners[0][n, 1])
        if not going.any():
            break
        dx, dy = wx[i, following] / np.maximum(reach, 1e-300), wy[i, following] / np.maximum(reach, 1e-300)
        n, at, dx, dy = n[going], following[going], dx[going], dy[going]
        on_hull[n, at] = True
        corner = corners[0].copy()
        corner[n] = points[n, at]
        corners.append(corner)
    return np.stack(corners, axis=1)


def _area_per_patch(hulls, rows, columns):
    """Area of each convex polygon inside each unit cell of a grid, exactly.

    Green's theorem on the polygon cut to x < a and to one row of cells: up to its sign, the area is the sum over edges
    of dy * mean(max(a - x, 0)); differences over a give the cells. Only the rows that an edge crosses, and a window of
    columns around the polygon, are computed.

    hulls (N, E, 2) x, y in cells, corners in order -> (N, rows * columns) float64 in cells.
    """
    x1, y1 = hulls[..., 0], hulls[..., 1]  # (N, E)
    x2, y2 = np.roll(x1, -1, 1), np.roll(y1, -1, 1)
    lines = np.arange(rows)[None, :, None]
    crossed = (np.minimum(y1, y2)[:, None] < lines + 1) & (np.maximum(y1, y2)[:, None] > lines) & (y1 != y2)[:, None]
    n, row, edge = np.nonzero(crossed)  # sorted by polygon, then by row
    left = np.floor(x1.min(1)).clip(0, columns).astype(int)
    wide = int((np.ceil(x1.max(1)).clip(0, columns) - left).max(initial=0))
    areas = np.zeros((len(hulls), rows, columns + wide))  # room for windows that hang over the border
    if len(n) and wide:
        x1, y1, x2, y2 = (corner[n, edge] for corner in (x1, y1, x2, y2))
        ya, yb = y1.clip(row, row + 1), y2.clip(row, row + 1)
        slope = (x2 - x1) / (y2 - y1)
        bars = left[n, None] + np.arange(wide + 1)
        u, v = bars - (x1 + (ya - y1) * slope)[:, None], bars - (x1 + (yb - y1) * slope)[:, None]
        level = np.abs(u - v) < 1e-9
        right_of_u, right_of_v = np.maximum(u, 0), np.maximum(v, 0)
        mean = (right_of_u * right_of_u - right_of_v * right_of_v) / (2 * np.where(level, 1, u - v))
        mean = np.where(level, right_of_u, mean) * (yb - ya)[:, None]
        firsts = np.flatnonzero(np.diff(n * rows + row, prepend=-1))
        cells = np.abs(np.diff(np.add.reduceat(mean, firsts, axis=0), axis=1))
        areas[n[firsts, None], row[firsts, None], left[n[firsts], None] + np.arange(wide)] = cells
    return areas[..., :columns].reshape(len(hulls), -1)


def _landmarks_per_patch(points, known, rows, columns):
    """points (T, R, K, 2) x, y in cells, known (T, R, K) bool -> (T, R, rows * columns) number of landmarks."""
    frames, regions = points.shape[:2]
    inside = known & (points >= 0).all(-1) & (points[..., 0] <= columns) & (points[..., 1] <= rows)
    cells = points.clip(0, (columns, rows)).astype(int)
    cells = np.minimum(cells, (columns - 1, rows - 1))  # the far border belongs to the last patch
    which = np.arange(frames * regions).reshape(frames, regions, 1)
    flat = (which * rows + cells[..., 1]) * columns + cells[..., 0]
    return np.bincount(flat[inside], minlength=frames * regions * rows * columns).reshape(frames, regions, -1)


def _displacement(points, moving):
    """points (T, 478, 2) pixels, moving: landmark indices -> (T,) displacement since the frame before, see `motion`."""
    known = np.isfinite(points).all((0, 2))
    anchors = [i for i in RIGID_LANDMARKS if known[i]]
    if len(anchors) < 3:  # landmarks of another kind, passed by the caller
        anchors = np.flatnonzero(known).tolist()
    moving = [i for i in moving if known[i]] or anchors
    if not anchors:
        return np.zeros(len(points))
    # As complex numbers a similarity is one addition and one multiplication.
    shape = points[..., 0].astype(np.float64) + 1j * points[..., 1]
    shape = shape - shape[:, anchors].mean(1, keepdims=True)
    rigid = shape[:, anchors]
    mean = rigid[0]
    for _ in range(3):
        turn = (rigid.conj() * mean).sum(1) / np.maximum((np.abs(rigid) ** 2).sum(1), 1e-12)
        mean = (rigid * turn[:, None]).mean(0)
    aligned = shape[:, moving] * turn[:, None]
    unit = math.sqrt(max((np.abs(mean) ** 2).mean(), 1e-12))
    steps = np.abs(np.diff(aligned, axis=0)) / unit
    return np.concatenate([[0.0], np.sqrt((steps**2).mean(1))])


def _check_frames(frames):
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape[1:]:
        raise FaceError(f"frames are {frames.shape} {frames.dtype}; accepted: (T, H, W, 3) uint8 RGB")
    return frames


def _check_grid(grid):
    pair = (grid, grid) if isinstance(grid, int | np.integer) else tuple(grid)
    if len(pair) != 2 or any(not isinstance(n, int | np.integer) or n < 1 for n in pair):
        raise FaceError(f"patch grid is {grid!r}; accepted: (rows, columns), whole numbers from 1")
    return int(pair[0]), int(pair[1])


def _check_regions(regions):
    if not regions:
        raise FaceError("the table of regions is empty; accepted: {name: landmark indices}")
    checked = {}
    for name, indices in regions.items():
        wrong = [i for i in indices if not isinstance(i, int | np.integer) or not 0 <= i < NUM_LANDMARKS]
        if wrong or len(indices) == 0:
            what = f"landmark {wrong[0]!r}" if wrong else "no landmark"
            raise FaceError(f"region {name!r} has {what}; accepted: whole numbers from 0 to {NUM_LANDMARKS - 1}")
        checked[str(name)] = [int(i) for i in indices]
    return checked


def _check_landmarks(entry, t):
    """The caller's landmarks of frame t -> (F, 478, 2) float32, padded with NaN."""
    if entry is None:
        return np.empty((0, NUM_LANDMARKS, 2), np.float32)
    points = np.asarray(entry, np.float32)
    if points.ndim == 2:
        points = points[None]
    if points.ndim != 3 or points.shape[1] > NUM_LANDMARKS or points.shape[2] < 2:
        raise FaceError(
            f"landmarks of frame {t} are {np.shape(entry)}; accepted: (K, 2) or (faces, K, 2), K up to {NUM_LANDMARKS}"
        )
    points = points[..., :2]
    if np.isinf(points).any() or np.nanmax(np.abs(points), initial=0) > 4:
        reach = np.nanmax(np.abs(points))
        raise FaceError(f"landmarks of frame {t} reach {reach:g}; accepted: fractions of the frame, 0 to 1 inside it")
    points = np.pad(points, ((0, 0), (0, NUM_LANDMARKS - points.shape[1]), (0, 0)), constant_values=np.nan)
    return points[np.isfinite(points).all(-1).any(-1)]


# Okabe and Ito's palette, which colour-blind readers can distinguish, and six further colours.
_COLOURS = [
    *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)),
    *((255, 206, 107), (190, 230, 250), (120, 230, 190), (148, 138, 10), (130, 90, 200), (255, 160, 100)),
]


def draw_regions(frame, track, t, finder, grid=None) -> np.ndarray:
    """An image of the regions over a frame, for reports.

    Args:
        frame: (H, W, 3) uint8 RGB, frame t of the clip.
        track: FaceTrack over T frames.
        t: index of the frame.
        finder: the FaceFinder, for its regions and thresholds.
        grid: (rows, columns): tint the patches of each region; None: tint the regions themselves.

    Returns:
        (H', W', 3) uint8 RGB: the frame, enlarged if it is less than 640 pixels wide, with outlines and tints, and a
        legend with the regions' names below it.
    """
    frame = _check_frames(np.asarray(frame)[None])[0]
    scale = math.ceil(640 / frame.shape[1])
    width, height = frame.shape[1] * scale, frame.shape[0] * scale
    picture = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
    names = finder.region_names
    colours = [_COLOURS[i % len(_COLOURS)] for i in range(len(names))]
    if track.found[t]:
        hulls = []
        for indices in finder.regions.values():
            points = track.landmarks[t, indices].astype(np.float64)
            points = points[np.isfinite(points).all(-1)]
            hulls.append(_hulls(points[None])[0] * (width, height) if len(points) else np.empty((0, 2)))
        if grid is None:
            tint = Image.new("RGBA", picture.size)
            for hull, colour in zip(hulls, colours, strict=True):
                if len(hull) > 2:
                    shade = Image.new("RGBA", picture.size)
                    ImageDraw.Draw(shade).polygon([tuple(p) for p in hull], fill=(*colour, 110))
                    tint = Image.alpha_composite(tint, shade)
            picture = Image.alpha_composite(picture.convert("RGBA"), tint).convert("RGB")
        else:
            picture = _tint_patches(picture, finder, track, t, _check_grid(grid), colours)
        draw = ImageDraw.Draw(picture)
        for hull, colour in zip(hulls, colours, strict=True):
            corners = [tuple(p) for p in hull]
            if len(corners) > 1:
                draw.line([*corners, corners[0]], fill=colour, width=2)
    return np.asarray(_with_legend(picture, names, colours, bool(track.found[t]), int(track.num_faces[t])))


def _tint_patches(picture, finder, track, t, grid, colours):
    """Each patch in the mean colour of its regions, with the grid's lines around it."""
    one = FaceTrack(track.landmarks[[t]], track.boxes[[t]], track.found[[t]], track.num_faces[[t]], track.backend)
    mask = finder.region_masks(one, grid)[0]  # (R, P)
    tint = Image.new("RGBA", picture.size)
    draw = ImageDraw.Draw(tint)
    rows, columns = grid
    for p in np.flatnonzero(mask.any(0)):
        colour = np.array(colours)[mask[:, p]].mean(0).astype(int)
        row, column = divmod(int(p), columns)
        box = [column * picture.width / columns, row * picture.height / rows]
        box += [(column + 1) * picture.width / columns - 1, (row + 1) * picture.height / rows - 1]
        draw.rectangle(box, fill=(*colour.tolist(), 120), outline=(255, 255, 255, 160))
    return Image.alpha_composite(picture.convert("RGBA"), tint).convert("RGB")


def _with_legend(picture, names, colours, found, num_faces):
    """The picture with one line about the faces and the regions' names in their colours below it."""
    font = ImageFont.load_default(14)
    faces = f"{num_faces} face{'' if num_faces == 1 else 's'} seen"
    entries = [(f"{faces}: regions of the chosen one" if found else f"{faces}, none chosen", None)]
    if found:
        entries += list(zip(names, colours, strict=True))
    placed, x, y = [], 8, 6
    for text, colour in entries:
        wide = font.getlength(text) + (34 if colour else 20)
        if x > 8 and x + wide > picture.width:
            x, y = 8, y + 22
        placed.append((text, colour, x, y))
        x += wide
    sheet = Image.new("RGB", (picture.width, picture.height + y + 26), "white")
    sheet.paste(picture)
    draw = ImageDraw.Draw(sheet)
    for text, colour, x, y in placed:
        y += picture.height
        if colour:
            draw.rectangle((x, y + 2, x + 12, y + 14), fill=colour, outline="black")
        draw.text((x + (18 if colour else 0), y), text, fill="black", font=font)
    return sheet


__all__ = ["REGIONS", "FaceError", "FaceFinder", "FaceTrack", "check_models_file", "draw_regions", "models_file"]
