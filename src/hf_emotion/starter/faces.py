"""The teacher's faces: what the face mesh makes of a synthetic head that is moved by facial action units.

No landmark here is anybody's. An emotion is one of the action unit (AU) combinations of EMFACS (Friesen & Ekman 1983)
and of the FACS Investigator's Guide, table 10-1 ("prototypes" and "major variants"), which Lucey et al. (2010, table 1)
reprint for CK+, or one of the sets that Du, Tao & Martinez (2014, table 1) found in most people who posed disgust.
Movements have an onset, an apex and an offset (FACS manual, chapter on intensity and timing; Ekman & Friesen 1982 put
felt smiles between 0.5 and 4 s).

How an action unit moves landmarks was not drawn by hand. `benchmarks/face_fields.py` renders thousands of heads of
ICT-FaceKit (Li et al. 2020, "Learning formation of physically-based face attributes"; MIT licence), a model whose
people and movements come from scans, with random people, action units, skins, lights, poses and resolutions, runs the
face mesh on the pictures, and fits a linear model to what the mesh returns. `face_fields.safetensors` holds that model:
the mean face, what each direction of identity and each action unit adds, and the main directions of what is left over
(light, paint, resolution, errors of the mesh). So a face of the teacher's differs from the canonical one as the mesh
sees it, not as the head is.

Letters: N clips, T frames, A action units, P the 468 landmarks.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from ..modeling.canonical_face import canonical_face

FACE = np.array(canonical_face())
MIRROR = np.array([((FACE * [-1, 1, 1] - point) ** 2).sum(1).argmin() for point in FACE])
FIELDS = Path(__file__).parent / "face_fields.safetensors"

ACTION_UNITS = (
    *("1", "2", "4", "5", "6", "7", "9", "10", "11", "12", "14", "15", "16", "17", "18", "20", "22", "23", "24", "25"),
    *("26", "27", "43"),
)

# EMFACS and the Investigator's Guide; the last line of disgust: Du, Tao & Martinez. `?` may be absent,
# `L` and `R` are one-sided.
EMOTIONS = {
    "angry": (
        *("4 5? 7 23", "4 5? 7 24", "4 5? 7 17 24", "4 5? 7 17 23", "4 7 17? 23 24", "4 5? 7 10 23 25"),
        *("4 5? 7 23 25 26?", "4 7 17 24", "4 5 7 10 22 25 26?"),
    ),
    "contemptuous": ("L14", "R14", "L12 L14", "R12 R14"),
    "disgusted": (
        *("9", "9 15? 16 25 26?", "9 17", "10", "10 16 25 26?", "10 17", "6? 7 9 10 25?", "7 9 17?"),
        *("4 7 9 10? 17?", "4 6? 7 9 17"),
        *("9 10 17", "4? 9 10 17 24?"),
    ),
    "afraid": (
        *("1 2 4 5 20 25", "1 2 4 5 20 25 26", "1 2 4 5 25", "1 2 4 5 25 26", "1 2 4 5", "1 2 5 20? 25 26"),
        *("5 20 25 26?", "1 4 5? 7? 20 25", "1 2 4 20 25"),
    ),
    "happy": ("12", "6 12", "6 12 25", "6 12 25 26", "6 7? 12 25", "12 25", "12 25 26?"),
    "sad": (
        *("1 4 11 15", "1 4 15", "1 4 15 17", "6 15 17?", "1 4 11", "11 15 17", "1 4? 15 17"),
        "1 4 15 17 24?",
    ),
    "surprised": (
        *("1 2 5 25 26", "1 2 5 25 27", "1 2 5 25 27", "1 2 5", "1 2 25 26", "1 2 25 27", "5 25 26"),
        "5 25 27",
    ),
}


# What opens the lips by itself: where none of these is there, lips that another unit lifts stay together.
PARTING = ("16", "18", "22", "25", "26", "27")


@cache
def fields() -> dict[str, np.ndarray]:
    """What the face mesh makes of the synthetic head: displacements from the canonical face, cm, y upwards.

    Returns:
        `mean` (P, 2), the average person; `identity` (modes, P, 2), standard deviations of people; `units`
        (A, 2, P, 2), each action unit at its strongest on the left and on the right side; `gap` (A, 2), cm by which a
        unit opens the lips; `closing` (P, 2), what closes a gap of 1 cm; `rest` (modes, P, 2), standard deviations of
        everything else.
    """
    return {name: values.astype(np.float64) for name, values in load_file(FIELDS).items()}


@cache
def smooth_basis(reach: float, size: int) -> np.ndarray:
    """Main components of a Gaussian process on the face: (P, size); unit variance, varying over `reach` cm."""
    covariance = np.exp(-(np.linalg.norm(FACE[:, None] - FACE, axis=-1) ** 2) / (2 * reach**2))
    values, vectors = np.linalg.eigh(covariance)
    first = np.argsort(-values)[:size]
    return vectors[:, first] * np.sqrt(values[first].clip(0))


# People do not move as the fitted model says: standard deviation, as a share of a displacement, of what bends it.
BEND = 0.2
# Resting faces differ along action units, too: standard deviations as shares of the strongest movement.
RESTING = {
    **{"1": 0.2, "2": 0.2, "4": 0.2, "5": 0.25, "7": 0.25, "10": 0.12, "12": 0.1, "15": 0.15, "17": 0.15},
    **{"20": 0.15, "24": 0.25, "25": 0.1},
}


def people(rng, count: int, spread=1.0) -> np.ndarray:
    """Neutral faces of `count` people as the mesh sees them: displacements from the canonical face (N, P, 2), cm.

    Args:
        spread: factor of how far they differ from the average person.
    """
    model = fields()
    shapes = np.repeat(model["mean"][None], count, 0)
    for part in ("identity", "rest"):
        modes = model[part]
        size = np.exp(rng.normal(0, 0.3, (count, 1, 1)))
        drawn = rng.normal(0, spread, (count, len(modes))) @ modes.reshape(len(modes), -1)
        shapes = shapes + size * drawn.reshape(shapes.shape)
    shapes = np.where(rng.random((count, 1, 1)) < 0.5, shapes, shapes[:, MIRROR] * [-1, 1])
    for name, deviation in RESTING.items():
        unit = model["units"][ACTION_UNITS.index(name)].sum(0)
        shapes = shapes + rng.normal(0, spread * deviation, (count, 1, 1)) * unit
    return shapes


@dataclass
class Movement:
    """One expression of a clip: its emotion, how strongly each action unit moves, and when.

    Attributes:
        emotion: a key of `EMOTIONS`; `None` for movements without one.
        units: action unit -> (left, right), 0 to about 1.2.
        start, end: s, where the movement is half of its apex.
        rise: s, from the start of the onset to the apex.
    """

    emotion: str | None
    units: dict[str, tuple[float, float]]
    start: float
    end: float
    rise: float

    def strength(self, times: np.ndarray) -> np.ndarray:
        """Share of the apex at each time (s): onset, apex and offset as half cosines."""
        inside = np.minimum((times - self.start) / self.rise + 0.5, (self.end - times) / (1.3 * self.rise) + 0.5)
        return 0.5 - 0.5 * np.cos(np.pi * inside.clip(0, 1))


def draw_movement(rng, emotion: str | None, start: float, end: float, weakest=0.35) -> Movement:
    """A random expression of an emotion, with further weak movements that mean nothing."""
    units: dict[str, tuple[float, float]] = {}
    if emotion is not None:
        sets = EMOTIONS[emotion]
        strength = rng.uniform(weakest, 1.15)
        for unit in sets[rng.integers(len(sets))].split():
            if unit.endswith("?") and rng.random() < 0.5:
                continue
            size = float(np.clip(strength * rng.uniform(0.6, 1.3), 0.15, 1.2))
            uneven = rng.normal(0, 0.12)
            name = unit.strip("?LR")
            if unit[0] in "LR":
                strong, weak = size, size * rng.uniform(0, 0.25)
                units[name] = (strong, weak) if unit[0] == "L" else (weak, strong)
            else:
                units[name] = (size * (1 + uneven), size * (1 - uneven))
    for name in ACTION_UNITS:
        if name not in units and name not in ("27", "43") and rng.random() < 0.06:
            units[name] = (rng.uniform(0.05, 0.3),) * 2
    return Movement(emotion, units, start, end, float(rng.uniform(0.2, 0.6)))


def intensities(movements: list[Movement], times: np.ndarray) -> np.ndarray:
    """How far each action unit has gone at each time (s): (T, A, 2), left and right; the stronger of movements."""
    strengths = np.zeros((len(times), len(ACTION_UNITS), 2))
    for movement in movements:
        course = movement.strength(times)[:, None]
        for name, sizes in movement.units.items():
            unit = ACTION_UNITS.index(name)
            strengths[:, unit] = np.maximum(strengths[:, unit], course * np.array(sizes))
    return strengths


def render(rng, moved: np.ndarray, spread=1.0) -> np.ndarray:
    """Landmarks of clips as a face mesh would give them.

    Args:
        moved: (N, T, A, 2), what `intensities` gives for N clips of T frames.
        spread: factor of how far people differ from the average one.

    Returns:
        (N, T, P, 3) float32, pixels, y downwards; the third is 0.
    """
    count, frames = moved.shape[:2]
    model = fields()
    units = model["units"].reshape(-1, len(FACE) * 2)
    moves = (moved.reshape(count * frames, -1) @ units).reshape(count, frames, len(FACE), 2)
    # Lips that one unit lifts stay together, more or less, unless another parts them.
    gap = np.einsum("ntas,as->nt", moved, model["gap"]).clip(0)
    parted = moved[:, :, [ACTION_UNITS.index(name) for name in PARTING]].max((2, 3))
    gap *= rng.choice([0.0, 1.0, 1.0, 0.5], (count, 1)) * (1 - parted / 0.15).clip(0)
    moves += gap[..., None, None] * model["closing"]
    # People move as the model's scans do only on average: displacements are scaled and sheared by smooth fields.
    moves *= rng.uniform(0.8, 1.2, (count, 1, 1, 1))
    bend = smooth_basis(3.0, 40) @ rng.normal(0, BEND, (count, 40, 4))
    bend = bend.reshape(count, 1, len(FACE), 2, 2) * [[1.0, 0.5], [0.5, 1.0]] + np.eye(2)
    faces = (moves[..., None] * bend).sum(-2) + people(rng, count, spread)[:, None] + FACE[:, :2]
    depth = FACE[:, 2] + 0.25 * np.einsum("pk,nk->np", smooth_basis(3.0, 40), rng.normal(size=(count, 40)))
    depth = np.broadcast_to(depth[:, None, :, None], (*faces.shape[:3], 1))
    # Head pose, degrees: where the person looks, and a slow sway.
    sway = rng.normal(0, 1.5, (count, frames, 3)).cumsum(1)
    sway = sway - sway.mean(1, keepdims=True)
    angle = np.radians(rng.normal(0, (10, 8, 6), (count, 1, 3)) + sway.clip(-12, 12))
    (cy, cx, cz), (sy, sx, sz) = np.moveaxis(np.cos(angle), -1, 0), np.moveaxis(np.sin(angle), -1, 0)
    zero, one = np.zeros_like(cy), np.ones_like(cy)

    def matrix(*entries):
        return np.stack(entries, -1).reshape(count, frames, 3, 3)

    rotation = (
        matrix(cz, -sz, zero, sz, cz, zero, zero, zero, one)
        @ matrix(one, zero, zero, zero, cx, -sx, zero, sx, cx)
        @ matrix(cy, zero, sy, zero, one, zero, -sy, zero, cy)
    )
    seen = np.concatenate([faces, depth], -1) @ rotation[:, :, :2].swapaxes(-1, -2)
    seen = seen + rng.normal(0, 0.03, seen.shape)
    pixels = np.zeros((*seen.shape[:3], 3), np.float32)
    scale = np.exp(rng.uniform(np.log(4), np.log(30), (count, 1, 1, 1)))
    pixels[..., :2] = scale * seen * [1, -1] + rng.uniform(100, 600, (count, 1, 1, 2))
    return pixels
