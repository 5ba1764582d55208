"""The teacher's faces: the canonical face mesh, moved by facial action units, on people who never lived.

No landmark here is anybody's. An action unit (AU) is a displacement of landmarks that follows its description in the
Facial Action Coding System (Ekman, Friesen & Hager 2002, FACS manual); an emotion is one of the AU combinations of
EMFACS (Friesen & Ekman 1983) and of the FACS Investigator's Guide, table 10-1 ("prototypes" and "major variants"),
which Lucey et al. (2010, table 1) reprint for CK+. Movements have an onset, an apex and an offset (FACS manual,
chapter on intensity and timing; Ekman & Friesen 1982 put felt smiles between 0.5 and 4 s). Sizes in centimetres are
our reading, since FACS gives none; a smile follows Tarantili, Halazonetis & Spyropoulos (2005): the corners move
outward and upward by similar amounts, and the upper lip rises. The sizes were revised after a look at the mean
positions of some landmarks in each class of CK+, and the mean resting face after a look at what the mesh makes of a
few photographs (a wider nose, wider eyes, closed lips). Because they are rough, each clip bends every displacement at
random, so that nothing can be learned from their exact shape; and identities, resting faces, pose, asymmetry and noise
of the mesh vary more than people do.

Letters: N clips, T frames, A action units, P the 468 landmarks.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from ..modeling.canonical_face import canonical_face

FACE = np.array(canonical_face())
MIRROR = np.array([((FACE * [-1, 1, 1] - point) ** 2).sum(1).argmin() for point in FACE])

# Rows of the mesh that an action unit moves as a whole, from the subject's right to left or from outside to inside.
UPPER_LIP_OUTER = [61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291]
UPPER_LIP_INNER = [78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308]
LOWER_LIP_INNER = [78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308]
LOWER_LIP_OUTER = [61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291]
LIDS = (  # upper row, lower row, corners
    ([246, 161, 160, 159, 158, 157, 173], [7, 163, 144, 145, 153, 154, 155], [33, 133]),
    ([466, 388, 387, 386, 385, 384, 398], [249, 390, 373, 374, 380, 381, 382], [263, 362]),
)
BROWS = (  # upper row, lower row, from the outer to the inner end
    ([70, 63, 105, 66, 107], [46, 53, 52, 65, 55]),
    ([300, 293, 334, 296, 336], [276, 283, 282, 295, 285]),
)
HALF_MOUTH = 2.456  # cm
# How far the contour of the jaw follows the chin.
JAW = {58: 0.25, 172: 0.45, 136: 0.6, 150: 0.75, 149: 0.85, 204: 0.9, 176: 0.95, 148: 1.0, 202: 0.6}
# What no action unit moves: hairline, temples, bridge and tip of the nose, corners of the eyes.
STILL = [
    *(10, 109, 67, 103, 54, 21, 162, 127, 234, 338, 297, 332, 284, 251, 389, 356, 454),
    *(168, 6, 197, 195, 5, 4, 1, 8, 33, 133, 263, 362),
]

ACTION_UNITS = (
    *("1", "2", "4", "5", "6", "7", "9", "10", "11", "12", "14", "15", "16", "17", "18", "20", "22", "23", "24", "25"),
    *("26", "27", "43"),
)

# EMFACS and the Investigator's Guide. `?` may be absent, `L` and `R` are one-sided.
EMOTIONS = {
    "angry": (
        *("4 5? 7 23", "4 5? 7 24", "4 5? 7 17 24", "4 5? 7 17 23", "4 7 17? 23 24", "4 5? 7 10 23 25"),
        *("4 5? 7 23 25 26?", "4 7 17 24", "4 5 7 10 22 25 26?"),
    ),
    "contemptuous": ("L14", "R14", "L12 L14", "R12 R14"),
    "disgusted": (
        *("9", "9 15? 16 25 26?", "9 17", "10", "10 16 25 26?", "10 17", "6? 7 9 10 25?", "7 9 17?"),
        *("4 7 9 10? 17?", "4 6? 7 9 17"),
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


def spread(moves: dict[int, tuple[float, float]]) -> np.ndarray:
    """Displacements of some landmarks, cm, carried smoothly (biharmonic in 3-D) to all: (P, 2)."""
    moves = {**dict.fromkeys(STILL, (0.0, 0.0)), **moves}
    at = FACE[list(moves)]
    system = np.zeros((len(at) + 1, len(at) + 1))
    system[:-1, :-1] = -np.linalg.norm(at[:, None] - at, axis=-1) - 1e-6 * np.eye(len(at))
    system[-1, :-1] = system[:-1, -1] = 1
    weights = np.linalg.solve(system, np.concatenate([list(moves.values()), np.zeros((1, 2))]))
    return -np.linalg.norm(FACE[:, None] - at, axis=-1) @ weights[:-1] + weights[-1]


def side(landmark: int) -> float:
    """1 on the subject's left, -1 on the right, 0 in the middle."""
    x = FACE[landmark, 0]
    return 0.0 if abs(x) < 1e-6 else float(np.sign(x))


def lips(upper, lower, upper_inner=None, lower_inner=None):
    """Moves of the lips; each function takes 0 (middle) to 1 (corner) to (outward, up), cm."""
    moves = {}
    for row, move in (
        (UPPER_LIP_OUTER, upper),
        (UPPER_LIP_INNER, upper_inner or upper),
        (LOWER_LIP_INNER, lower_inner or lower),
        (LOWER_LIP_OUTER, lower),
    ):
        for i in row:
            outward, up = move(min(abs(FACE[i, 0]) / HALF_MOUTH, 1.0))
            moves[i] = (side(i) * outward, up)
    return moves


def resting(_):
    return 0.0, 0.0


def lids(upper=0.0, lower=0.0):
    """Moves of the eyelids' middles, cm up; the corners stay."""
    moves = {}
    for top, bottom, corners in LIDS:
        middle, half = FACE[corners, 0].mean(), np.ptp(FACE[corners, 0]) / 2
        for row, up in ((top, upper), (bottom, lower)):
            moves.update({i: (0.0, up * (1 - ((FACE[i, 0] - middle) / half) ** 2)) for i in row})
    return moves


def brows(profile, inward=0.0):
    """Moves of the brows: five values from the outer to the inner end, cm up, and how far the inner ends meet."""
    return {
        i: (-side(i) * inward * (k / 4) ** 2, profile[k]) for rows in BROWS for row in rows for k, i in enumerate(row)
    }


def mirrored(moves):
    """(outward, up) of landmarks on one side, for both sides."""
    both = {}
    for i, (outward, up) in moves.items():
        for j in (i, int(MIRROR[i])):
            both[j] = (side(j) * outward, up)
    return both


def jaw(drop, corners):
    """The lower face follows the jaw: cm down at the chin, and at the corners of the mouth."""
    return (
        lips(
            upper=lambda t: (-0.12 * drop * t**2, -corners * t**2),
            lower=lambda t: (-0.12 * drop * t**2, -(drop * (1 - t**2) + corners * t**2)),
        ),
        dict.fromkeys((152, 200, 199, 18, 175), (0.0, -drop * 1.05)),
        mirrored({57: (-0.05, -corners), 43: (0.0, -1.2 * corners), 205: (0.0, -0.1 * drop)}),
        mirrored({i: (0.0, -share * drop) for i, share in JAW.items()}),
    )


def lip_parts(corner=(0.0, 0.0), power=1, upper=0.0, lower=0.0, upper_inner=None, lower_inner=None):
    """Lips whose corners move (outward, up) and whose middles move up or down."""

    def move(middle):
        return lambda t: (corner[0] * t, corner[1] * t**power + middle * (1 - t**2))

    inner = {"upper_inner": upper_inner, "lower_inner": lower_inner}
    return lips(move(upper), move(lower), **{name: move(x) for name, x in inner.items() if x is not None})


@cache
def action_units() -> np.ndarray:
    """The displacement of each action unit at its strongest: (A, P, 2), cm."""
    rest = (
        *(lids(), brows([0.0] * 5), lips(resting, resting), {152: (0.0, 0.0), 200: (0.0, 0.0)}),
        mirrored(dict.fromkeys((50, 117, 205, 129, 98, 172), (0.0, 0.0))),
    )
    units = {
        # Inner and outer brow raiser, brow lowerer (frontalis; corrugator, procerus).
        "1": (brows([0, 0.1, 0.35, 0.7, 0.9]), {9: (0, 0.3), 151: (0, 0.3)}, lids(0.05)),
        "2": (brows([0.7, 0.8, 0.75, 0.35, 0.1]), lids(0.05)),
        "4": (brows([-0.1, -0.3, -0.55, -0.7, -0.75], inward=0.4), {9: (0, -0.35), 8: (0, -0.2)}, lids(-0.08)),
        # Upper lid raiser, cheek raiser, lid tightener.
        "5": (lids(0.32, -0.03),),
        "6": (
            lids(-0.1, 0.16),
            mirrored({50: (0.1, 0.3), 117: (0.05, 0.3), 205: (0.1, 0.25), 118: (0.05, 0.3), 101: (0.05, 0.25)}),
            mirrored({100: (0, 0.2)}),
        ),
        "7": (lids(-0.15, 0.17),),
        # Nose wrinkler, upper lip raiser, nasolabial deepener.
        "9": (
            mirrored(dict.fromkeys((129, 64, 48), (0.12, 0.3)) | dict.fromkeys((98, 49, 165), (0.05, 0.3))),
            {2: (0, 0.15), 1: (0, 0.1), 4: (0, 0.1)},
            mirrored({50: (0, 0.25), 117: (0, 0.2)}),
            lips(lambda t: (0, 0.5 * (1 - 0.3 * t)), lambda t: (0, 0.15 + 0.2 * t**2)),
            brows([-0.1, -0.25, -0.45, -0.55, -0.5], inward=0.25),
            lids(-0.25, 0.16),
        ),
        "10": (
            lips(lambda t: (0, 0.4 * (1 - t**2) + 0.25), lambda t: (0, 0.1 + 0.15 * t**2)),
            mirrored({165: (0.05, 0.35), 92: (0.05, 0.3), 129: (0.08, 0.15), 206: (0.05, 0.25), 205: (0, 0.15)}),
        ),
        "11": (lips(lambda t: (0, 0.15 * (1 - abs(2 * t - 1))), resting), mirrored({165: (0.1, 0.2), 206: (0.1, 0.2)})),
        # Lip corner puller, dimpler, lip corner depressor, lower lip depressor, chin raiser.
        "12": (
            lips(
                lambda t: (1.1 * t, 0.9 * t**2 + 0.2 * (1 - t**2)),
                lambda t: (1.1 * t, 0.9 * t**2 + 0.05 * (1 - t**2)),
                lambda t: (1.1 * t, 0.9 * t**2 + 0.4 * (1 - t**2)),
            ),
            mirrored({205: (0.15, 0.45), 50: (0.15, 0.3), 117: (0.05, 0.15), 206: (0.3, 0.35), 216: (0.5, 0.55)}),
            mirrored({212: (0.6, 0.45), 57: (1.05, 0.8), 43: (0.7, 0.4), 202: (0.55, 0.4)}),
            mirrored(dict.fromkeys((129, 64, 48), (0.2, 0.08))),
        ),
        "14": (lip_parts((0.35, 0.12), 2), mirrored({57: (0.2, 0.05), 212: (0.1, 0)})),
        "15": (lip_parts((0.08, -0.6), 3), mirrored({57: (0, -0.4), 43: (0, -0.45), 202: (0, -0.3)})),
        "16": (lips(resting, lambda t: (0, -0.4 * (1 - t**2))),),
        "17": (
            lip_parts(upper=0.16, lower=0.22, lower_inner=0.34),
            {200: (0, 0.4), 199: (0, 0.4), 18: (0, 0.35), 175: (0, 0.3), 152: (0, 0.12)},
        ),
        # Lip pucker, stretcher, funneler, tightener, pressor; lips part; jaw drop, mouth stretch; eyes close.
        "18": (lip_parts((-0.5, 0.0), upper=0.05, lower=-0.05),),
        "20": (
            lip_parts((0.75, -0.12)),
            mirrored({57: (0.6, -0.1), 212: (0.45, -0.1), 43: (0.4, -0.1)}),
        ),
        "22": (lip_parts((-0.3, 0.0), upper=0.25, lower=-0.25, upper_inner=0.15, lower_inner=-0.15),),
        "23": (lip_parts((-0.15, 0.0), upper=-0.2, lower=0.22, upper_inner=0.0, lower_inner=0.0),),
        "24": (
            lip_parts((-0.1, 0.0), upper=-0.32, lower=0.38, upper_inner=-0.05, lower_inner=0.05),
            {200: (0, 0.12), 18: (0, 0.25)},
        ),
        "25": (lip_parts(upper=0.15, lower=-0.65),),
        "26": jaw(1.1, 0.3),
        "27": jaw(2.6, 0.9),
        "43": (lids(-0.6, 0.05),),
    }
    fields = []
    for name in ACTION_UNITS:
        moves = {}
        for part in (*rest, *units[name]):
            moves.update(part)
        fields.append(spread(moves))
    return np.stack(fields)


@cache
def closed_mouth() -> np.ndarray:
    """What closes the lips of the canonical face, which are half a centimetre apart: (P, 2), cm."""
    moves, gap, rest = {}, {}, 0.12  # the corners rise with the jaw
    for i, j in zip(UPPER_LIP_INNER, LOWER_LIP_INNER, strict=True):
        gap[i] = FACE[i, 1] - FACE[j, 1]
        moves |= {i: (0.0, rest - 0.3 * gap[i]), j: (0.0, rest + 0.7 * gap[i])}
    for outer, share in ((UPPER_LIP_OUTER, -0.3), (LOWER_LIP_OUTER, 0.7)):
        rows = zip(outer, UPPER_LIP_INNER, strict=True)
        moves |= {i: (0.0, rest + share * gap[j]) for i, j in rows if i not in moves}
    widest = max(gap.values())
    moves |= dict.fromkeys((152, 200, 199, 18, 175), (0.0, 0.75 * widest))
    for i, share in JAW.items():
        moves |= mirrored({i: (0.0, 0.7 * widest * share)})
    moves |= lids() | brows([0.0] * 5) | mirrored(dict.fromkeys((50, 117, 205, 129, 98), (0.0, 0.0)))
    return spread(moves)


@cache
def smooth_basis(reach: float, size: int) -> np.ndarray:
    """Main components of a Gaussian process on the face: (P, size); unit variance, varying over `reach` cm."""
    covariance = np.exp(-(np.linalg.norm(FACE[:, None] - FACE, axis=-1) ** 2) / (2 * reach**2))
    values, vectors = np.linalg.eigh(covariance)
    first = np.argsort(-values)[:size]
    return vectors[:, first] * np.sqrt(values[first].clip(0))


@cache
def wide_nose() -> np.ndarray:
    """The wings of the nose 1 cm outward: (P, 2), cm."""
    return spread(
        lips(resting, resting)
        | lids()
        | mirrored(dict.fromkeys((50, 117, 205), (0.0, 0.0)) | dict.fromkeys((129, 64, 48, 98), (1.0, 0.0)))
        | {2: (0.0, 0.5)}
    )


# Resting faces differ along action units, too: standard deviations as shares of the strongest movement.
RESTING = {
    **{"1": 0.3, "2": 0.35, "4": 0.3, "5": 0.45, "7": 0.3, "10": 0.15, "12": 0.12, "15": 0.2, "17": 0.2},
    **{"20": 0.3, "24": 0.35, "26": 0.12},
}

# Centres (cm) and reaches of what the mesh follows least: nose, chin, cheeks.
UNSURE = (((0.0, -1.4), 1.2), ((0.0, -9.4), 1.5), ((4.0, -1.5), 1.5))
RESTING_MEANS = {"5": 0.45, "20": 0.2}


def identities(rng, count: int, spread=1.0) -> np.ndarray:
    """Neutral faces of `count` people: displacements from the canonical face (N, P, 2), cm; see `render`."""
    shapes = np.zeros((count, len(FACE), 2))
    for reach, size, deviation in ((3.0, 40, 0.22), (1.0, 150, 0.06)):
        basis = smooth_basis(reach, size)
        drawn = np.einsum("pk,nkc->npc", basis, rng.normal(0, spread * deviation, (count, size, 2)))
        symmetric = (drawn + drawn[:, MIRROR] * [-1, 1]) / np.sqrt(2)
        shapes += 0.9 * symmetric + 0.35 * (drawn - symmetric / np.sqrt(2))
    units = action_units()
    for name, deviation in RESTING.items():
        mean = RESTING_MEANS.get(name, 0.0)
        shapes += rng.normal(mean, spread * deviation, (count, 1, 1)) * units[ACTION_UNITS.index(name)]
    shapes += rng.normal(1.0, 0.2, (count, 1, 1)).clip(0, 1.05) * closed_mouth()
    shapes += rng.normal(0.5, 0.25, (count, 1, 1)) * wide_nose()
    shapes += rng.normal(0, 0.05, shapes.shape)  # what the mesh always gets wrong on this person
    return shapes + FACE[:, :2] * rng.normal(0, 0.05, (count, 1, 2))  # broader or longer


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
        spread: factor of how far people differ from the canonical face.

    Returns:
        (N, T, P, 3) float32, pixels, y downwards; the third is 0.
    """
    count, frames = moved.shape[:2]
    left = 1 / (1 + np.exp(-FACE[:, 0] / 0.6))
    halves = np.stack([left, 1 - left])  # (2, P)
    fields = np.einsum("apc,sp->aspc", action_units(), halves).reshape(-1, len(FACE) * 2)
    moves = (moved.reshape(count * frames, -1) @ fields).reshape(count, frames, len(FACE), 2)
    # A mesh that has learned plausible faces follows a movement only in part.
    moves *= rng.uniform(0.6, 1.15, (count, 1, 1, 1))
    # It follows the nose, the chin and the cheeks, where a picture has few edges, less than brows, eyes and lips.
    for centre, reach in UNSURE:
        near = np.exp(-(((FACE[:, :2] - centre) ** 2).sum(1)) / (2 * reach**2))[:, None]
        near = np.maximum(near, near[MIRROR])
        moves *= 1 - rng.uniform(0, 1, (count, 1, 1, 1)) * near
    # Nobody's smile is the teacher's: displacements are scaled and sheared by smooth random fields.
    bend = np.einsum("pk,nkc->npc", smooth_basis(3.0, 40), rng.normal(0, 0.28, (count, 40, 4)))
    bend = bend.reshape(count, 1, len(FACE), 2, 2) * [[1.0, 0.5], [0.5, 1.0]] + np.eye(2)
    faces = np.einsum("ntpc,nopcd->ntpd", moves, bend) + identities(rng, count, spread)[:, None] + FACE[:, :2]
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
    seen = np.einsum("ntij,ntpj->ntpi", rotation[:, :, :2], np.concatenate([faces, depth], -1))
    seen = seen + rng.normal(0, 0.03, seen.shape)
    pixels = np.zeros((*seen.shape[:3], 3), np.float32)
    scale = np.exp(rng.uniform(np.log(4), np.log(30), (count, 1, 1, 1)))
    pixels[..., :2] = scale * seen * [1, -1] + rng.uniform(100, 600, (count, 1, 1, 2))
    return pixels
