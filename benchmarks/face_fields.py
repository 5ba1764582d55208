"""What the face mesh makes of facial action units: measured on rendered synthetic heads, for the starter's teacher.

    python benchmarks/face_fields.py FaceXModel

FaceXModel is the folder of that name in https://github.com/ICT-VGL/ICT-FaceKit (Li et al. 2020; MIT licence): a head in
26,719 vertices, 100 directions of identity from scans and 55 of movement. Each picture shows another person of that
model, moved by random action units or by an emotion of `hf_emotion.starter.faces`, with random skin, brows, eyes,
light, pose, size, noise and crop. The face mesh reads the pictures, and a linear model is fitted to its landmarks,
freed from pose: mean, identity, action units, and the main directions of what is left over. It is written to
src/hf_emotion/starter/face_fields.safetensors, from which `hf-emotion starter` draws its faces; figures and some of the
pictures go to benchmarks/results. No photograph takes part. 11,000 pictures take 12 minutes on 2 cores.

ICT-FaceKit has no colours: skin, lips and brows are painted on the polygons. It names movements as ARKit does; which of
them stand for an action unit is `SHAPES`.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.numpy import save_file
from tqdm import tqdm

from hf_emotion.modeling.canonical_face import NUM_MESH_LANDMARKS
from hf_emotion.modeling.modeling_face_motion import remove_pose
from hf_emotion.processing.faces import FaceFinder
from hf_emotion.starter.faces import ACTION_UNITS, EMOTIONS, FACE, FIELDS, MIRROR, PARTING, draw_movement

RESULTS = Path(__file__).parent / "results" / "face_fields.json"
IDENTITIES, REST = 60, 60
SIZE = 256  # pixels of a picture
BATCH = 50  # pictures that share a random generator

# Movements of the model behind each action unit; names without a side have a left and a right form.
SHAPES = {
    "1": {"browInnerUp": 1.0},
    "2": {"browOuterUp": 1.0},
    "4": {"browDown": 1.0},
    "5": {"eyeWide": 1.0},
    "6": {"cheekRaiser": 1.0, "cheekSquint": 0.3},
    "7": {"eyeSquint": 1.0},
    "9": {"noseSneer": 1.0},
    "10": {"mouthUpperUp": 1.0},
    "11": {"mouthUpperUp": 0.35, "noseSneer": 0.25},
    "12": {"mouthSmile": 1.0},
    "14": {"mouthDimple": 1.0},
    "15": {"mouthFrown": 1.0},
    "16": {"mouthLowerDown": 1.0},
    "17": {"mouthShrugLower": 1.0, "mouthShrugUpper": 0.9},
    "18": {"mouthPucker": 1.0},
    "20": {"mouthStretch": 1.0},
    "22": {"mouthFunnel": 1.0},
    "23": {"mouthPress": 0.6, "mouthRollLower": 0.35, "mouthRollUpper": 0.35, "mouthPucker": 0.15},
    "24": {"mouthPress": 1.0, "mouthRollLower": 0.3, "mouthRollUpper": 0.3},
    "25": {"mouthLowerDown": 0.4, "mouthUpperUp": 0.15, "jawOpen": 0.08},
    "26": {"jawOpen": 0.3},
    "27": {"jawOpen": 0.8},
    "43": {"eyeBlink": 1.0},
}
# A gap of 1 cm between the lips is closed by half of each: the jaw's follower and the chin.
CLOSING = {"mouthClose": 0.5 / 3.9, "mouthShrugLower": 0.5 / 0.69}
GAZES = (("eyeLookDown_L", "eyeLookDown_R"), ("eyeLookUp_L", "eyeLookUp_R"))
GAZES += (("eyeLookIn_L", "eyeLookOut_R"), ("eyeLookOut_L", "eyeLookIn_R"))

# First vertex of each part of the head, as the model's README lists them.
PARTS = {
    **{"face": 0, "head": 9409, "mouth": 11248, "sockets": 13294, "gums": 14062, "teeth": 17039, "eyes": 21451},
    **{"films": 24591, "lashes": 25351},
}
EYE = 1570  # vertices of an eyeball
UPPER_LIP, LOWER_LIP = 62, 66  # inner middles, of the model's 68 landmarks
IRISES = np.array([(0.3, 0.2, 0.1), (0.35, 0.45, 0.55), (0.3, 0.35, 0.2), (0.15, 0.09, 0.06)])


def vertices(path: Path) -> np.ndarray:
    """(V, 3) float32, cm: x to the subject's left, y up, z forward."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return np.loadtxt([line[2:] for line in lines if line.startswith("v ")], dtype=np.float32)


def polygons(path: Path) -> np.ndarray:
    """(Q, 4) vertex numbers; triangles repeat their last corner."""
    corners = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("f "):
            numbers = [int(word.split("/")[0]) - 1 for word in line.split()[1:]]
            corners.append((numbers + numbers[-1:])[:4])
    return np.array(corners)


def distance_to(line: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Distance of points (N, 2) from a line through some others."""
    nearest = np.full(len(points), np.inf)
    for start, end in itertools.pairwise(line):
        along = ((points - start) @ (end - start) / ((end - start) ** 2).sum()).clip(0, 1)
        nearest = np.minimum(nearest, np.linalg.norm(points - start - along[:, None] * (end - start), axis=1))
    return nearest


class Head:
    """The synthetic head: its shapes, and where its parts are.

    Attributes:
        neutral: (V, 3), cm.
        shapes: movement -> (V, 3), displacement.
        identities: (modes, V, 3), displacements, one standard deviation each.
        corners: (Q, 4), vertex numbers of the polygons that are drawn; `part` (Q,), of `PARTS`.
    """

    def __init__(self, folder: Path):
        self.neutral = vertices(folder / "generic_neutral_mesh.obj")
        landmarks = json.loads((folder / "vertex_indices.json").read_text(encoding="utf-8"))["idx_to_landmark_verts"]
        names = [path.stem for path in sorted(folder.glob("*.obj"))]
        moving = [name for name in names if not name.startswith(("identity", "generic", "Pupil"))]
        self.shapes = {name: vertices(folder / f"{name}.obj") - self.neutral for name in moving}
        modes = [vertices(folder / f"identity{i:03d}.obj") - self.neutral for i in range(IDENTITIES)]
        self.identities = np.stack(modes)
        self.lips = landmarks[UPPER_LIP], landmarks[LOWER_LIP]

        corners = polygons(folder / "generic_neutral_mesh.obj")
        part = np.searchsorted(list(PARTS.values()), corners.min(1), side="right") - 1
        seen = part != list(PARTS).index("films")
        self.corners, self.part = corners[seen], np.array(list(PARTS))[part[seen]]
        self._find_what_is_painted(self.neutral[landmarks])

    def _find_what_is_painted(self, landmarks):
        """Where lips, brows, nostrils and irises are, by polygon; `landmarks` (68, 3), as of Multi-PIE."""
        centres = self.neutral[self.corners].mean(1)
        self.centres = centres
        front = np.flatnonzero((self.part == "face") & (centres[:, 2] > 5))
        outline = landmarks[48:60, :2].astype(np.float32)
        self.inside_lips = np.full(len(centres), -9.0)  # cm from their outline, positive inside
        self.inside_lips[front] = [cv2.pointPolygonTest(outline, point, True) for point in centres[front, :2].tolist()]
        self.from_brows = []  # cm; brows sit lower or higher, and slant
        for height in (-1.1, -0.95, -0.8, -0.65, -0.5):
            for slant in (-0.06, 0.0, 0.06):
                distance = np.full(len(centres), 9.0)
                for line in (landmarks[17:22, :2], landmarks[22:27, :2]):
                    moved = line + np.stack([np.zeros(5), height + slant * (np.abs(line[:, 0]) - 3)], 1)
                    distance[front] = np.minimum(distance[front], distance_to(moved, centres[front, :2]))
                self.from_brows.append(distance)
        downward = normals(self.neutral, self.corners)[:, 1] < 0.2
        self.nostrils = np.zeros(len(centres), bool)
        for wing in (31, 35):
            middle = (landmarks[wing] + landmarks[33]) / 2
            near = np.linalg.norm((centres - middle)[:, :2] * [1, 1.6], axis=1) < 0.42
            self.nostrils |= (self.part == "face") & near & downward
        self.from_pupils = np.full(len(centres), 9.0)
        first = self.corners.min(1)
        for start in (PARTS["eyes"], PARTS["eyes"] + EYE):
            ball = self.neutral[start : start + EYE]
            middle = ball.sum(0) / max(len(ball), 1)
            there = (first >= start) & (first < start + EYE) & (centres[:, 2] > middle[2])
            self.from_pupils[there] = np.linalg.norm(centres[there, :2] - middle[:2], axis=1)

    def displacement(self, shapes: dict[str, float], left=1.0, right=1.0) -> np.ndarray:
        """(V, 3), cm, of movements named without their side."""
        moved = np.zeros_like(self.neutral)
        for name, size in shapes.items():
            if name in self.shapes:
                moved += size * (left + right) / 2 * self.shapes[name]
            else:
                moved += size * (left * self.shapes[f"{name}_L"] + right * self.shapes[f"{name}_R"])
        return moved

    def gap(self, moved: np.ndarray) -> float:
        """cm by which a displacement (V, 3) opens the lips."""
        upper, lower = self.lips
        return float(moved[upper, 1] - moved[lower, 1])


def normals(points, corners):
    """(Q, 3), of unit length."""
    across = np.cross(points[corners[:, 2]] - points[corners[:, 0]], points[corners[:, 3]] - points[corners[:, 1]])
    return across / (np.linalg.norm(across, axis=1, keepdims=True) + 1e-9)


def paint(rng, head: Head) -> np.ndarray:
    """Colours of the polygons, (Q, 3) in [0, 1]; NaN where one is not drawn."""
    dark = rng.random()
    skin = (np.array([0.95, 0.76, 0.66]) * (1 - dark) + np.array([0.36, 0.22, 0.15]) * dark) * rng.uniform(0.9, 1.1, 3)
    colours = skin * (1 + rng.normal(0, 0.015, (len(head.part), 1)))
    face, x, y, z = head.part == "face", *head.centres.T
    hair = np.array([0.12, 0.09, 0.07]) * rng.uniform(0.4, 4)
    behind = (z < rng.uniform(-2, 1)) & (y > rng.uniform(-12, 0))
    if rng.random() < 0.9:
        colours[(head.part == "head") & ((y > rng.uniform(5.5, 8)) | behind)] = hair
        colours[face & (y > rng.uniform(8.2, 9.5))] = hair

    def blend(share, colour):
        return colours * (1 - share[:, None]) + share[:, None] * colour

    distance = head.from_brows[rng.integers(len(head.from_brows))]
    colours = blend(((rng.uniform(0.2, 0.42) - distance) / 0.1).clip(0, 1) * rng.uniform(0.5, 0.95), hair)
    lips = skin * [0.85, 0.55, 0.55] * rng.uniform(0.8, 1.1)
    colours = blend((head.inside_lips / 0.12 + 0.5).clip(0, 1) * rng.uniform(0.3, 0.95), lips)
    colours[head.nostrils] *= rng.uniform(0.35, 0.7)
    red = np.exp(-((np.abs(x) - 4) ** 2 + (y + 2) ** 2) / 6) * face
    colours *= 1 - red[:, None] * [0, 0.1, 0.1] * rng.random()
    if rng.random() < 0.25:
        colours[face & (y < -4.2) & (head.inside_lips < -0.1)] *= rng.uniform(0.6, 0.95)  # a shaved beard
    for part, colour in (("mouth", (0.2, 0.07, 0.06)), ("gums", (0.45, 0.2, 0.2)), ("teeth", (0.85, 0.82, 0.75))):
        colours[head.part == part] = colour
    colours[head.part == "sockets"] = skin * 0.5
    colours[head.part == "eyes"] = (0.85, 0.82, 0.8)
    colours[head.from_pupils < rng.uniform(0.54, 0.62)] = IRISES[rng.integers(len(IRISES))]
    colours[head.from_pupils < rng.uniform(0.16, 0.3)] = 0.03
    colours[head.part == "lashes"] = 0.1 if rng.random() < 0.3 else np.nan
    return colours


def turned(rng) -> np.ndarray:
    """A random rotation of the head, (3, 3)."""
    yaw, pitch, roll = np.radians(rng.normal((0, -2, 0), (9, 8, 5)))
    (cy, cx, cz), (sy, sx, sz) = np.cos((yaw, pitch, roll)), np.sin((yaw, pitch, roll))
    around_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    around_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    return around_z @ around_x @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])


def picture(rng, head: Head, points: np.ndarray) -> np.ndarray:
    """A head whose vertices are at `points`, lit by two lamps and the sky: (SIZE, SIZE, 3) uint8."""
    colours = paint(rng, head)
    points = points @ turned(rng).T.astype(np.float32)
    across, centres = normals(points, head.corners), points[head.corners].mean(1)
    camera = rng.uniform(35, 120)  # cm from the middle of the head
    seen = ((across * (np.array([0, 0, camera]) - centres)).sum(1) > 0) | (head.part == "lashes")
    seen = np.flatnonzero(seen & ~np.isnan(colours[:, 0]))
    seen = seen[np.argsort(centres[seen, 2], kind="stable")]  # the nearest are drawn last

    lamps = rng.normal(0, 1, (2, 3)) * [[0.7, 0.6, 0.2], [1, 1, 1]] + [[0, 0.4, 1.2], [0, 0.4, 0.8]]
    lamps /= np.linalg.norm(lamps, axis=1, keepdims=True)
    ambient = rng.uniform(0.3, 0.65)
    light = ambient * (0.85 + 0.15 * across[:, 1]) + (1 - ambient) * ((across @ lamps.T).clip(0) @ [1.0, 0.4])
    light = np.select([head.part == "mouth", np.isin(head.part, ("gums", "teeth"))], [0.35, light * 0.8], light)
    half = lamps[0] + [0, 0, 1]
    gloss = rng.uniform(0, 0.15) * (across @ (half / np.linalg.norm(half))).clip(0) ** 20
    gloss *= np.isin(head.part, ("face", "head"))
    shown = (np.nan_to_num(colours).clip(0, 1) * light[:, None] + gloss[:, None]).clip(0, 1) ** rng.uniform(0.7, 1.2)
    shown = (255 * shown).astype(np.uint8)

    # Drawn at twice its size, then made smaller, so that edges are smooth; 4 binary places for OpenCV.
    scale = 2 * SIZE / rng.uniform(24, 30)
    at = points[:, :2] * (camera / (camera - points[:, 2:])) * scale * [1, -1] + [SIZE, SIZE - scale]
    at = np.round(at * 16).astype(np.int32)
    canvas = np.empty((2 * SIZE, 2 * SIZE, 3), np.uint8)
    canvas[:] = rng.integers(20, 236, 3)
    for i in seen.tolist():
        cv2.fillConvexPoly(canvas, at[head.corners[i]], shown[i].tolist(), lineType=cv2.LINE_8, shift=4)
    canvas = cv2.resize(canvas, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.3:  # a picture that was cut out around the face, on a plain ground
        face = at[: PARTS["head"]] / 32
        (left, top), (right, bottom) = np.percentile(face, (4, 96), axis=0) + rng.normal(0, 8, (2, 2))
        cut = np.full_like(canvas, rng.integers(60, 200))
        rows, columns = slice(max(int(top), 0), int(bottom)), slice(max(int(left), 0), int(right))
        cut[rows, columns] = canvas[rows, columns]
        canvas = cut
    return canvas


def recorded(rng, image: np.ndarray) -> np.ndarray:
    """The picture as a camera and a file pass it on, coarser, noisier or grey."""
    if rng.random() < 0.5:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    side = int(SIZE * np.exp(rng.uniform(np.log(0.28), np.log(1.3))))
    if side < SIZE:
        image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    if rng.random() < 0.7:
        image = (image + rng.normal(0, rng.uniform(0, 8), image.shape)).clip(0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 95))]
        image = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)
    return cv2.resize(image, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) if side < SIZE else image


def random_units(rng) -> dict[str, tuple[float, float]]:
    """Action units that stand together by chance, (left, right) each."""
    units = {}
    for name in ACTION_UNITS:
        if rng.random() < (0.03 if name in ("27", "43") else 0.13):
            strong = rng.uniform(0.1, 1.1)
            weak = strong * (1.0 if rng.random() < 0.6 else rng.random())
            units[name] = (strong, weak) if rng.random() < 0.5 else (weak, strong)
    return units if rng.random() < 0.9 else {}


def posed(rng, head: Head, units) -> tuple[np.ndarray, np.ndarray, float]:
    """Vertices of a random person with some action units; the person's identity; the gap that was closed, cm."""
    identity = rng.normal(size=IDENTITIES)
    moved = np.zeros_like(head.neutral)
    for name, (left, right) in units.items():
        moved += head.displacement(SHAPES[name], left, right)
    closed = max(head.gap(moved), 0.0) * rng.choice([0.0, 1.0, 1.0, rng.random()]) * (not set(units) & set(PARTING))
    moved += head.displacement({name: size * closed for name, size in CLOSING.items()})
    # What a resting face does besides: lids hang, eyes look about.
    moved += head.displacement({"eyeBlink": rng.uniform(0, 0.25)})
    for pair in GAZES:
        if rng.random() < 0.2:
            moved += rng.uniform(0, 0.5) * (head.shapes[pair[0]] + head.shapes[pair[1]])
    return head.neutral + np.tensordot(identity, head.identities, 1).astype(np.float32) + moved, identity, closed


def drawn(rng, head: Head, with_emotion: bool):
    """A random picture and what it was made from."""
    emotion = -1
    if with_emotion:
        emotion = int(rng.integers(len(EMOTIONS) + 1))
        name = [*EMOTIONS, None][emotion]
        units = draw_movement(rng, name, -2.0, 2.0).units
    else:
        units = random_units(rng)
    points, identity, closed = posed(rng, head, units)
    image = recorded(rng, picture(rng, head, points))
    return image, {
        "identity": identity,
        "units": np.array([units.get(name, (0.0, 0.0)) for name in ACTION_UNITS]),
        "closed": closed,
        "emotion": emotion,
    }


def prepare(head: Head) -> None:
    """In each worker: its head and its face mesh."""
    global HEAD, FINDER
    HEAD, FINDER = head, FaceFinder(threads=1)


def measured(task: tuple[int, bool]) -> list[dict]:
    """The samples of one batch in which the mesh finds the face."""
    number, with_emotion = task
    rng, samples = np.random.default_rng([number, with_emotion]), []
    for _ in range(BATCH):
        image, sample = drawn(rng, HEAD, with_emotion)
        track = FINDER(image[None])
        if track.found[0]:
            samples.append({**sample, "landmarks": track.landmarks[0, :NUM_MESH_LANDMARKS] * SIZE})
    return samples


def displacements(landmarks: np.ndarray) -> np.ndarray:
    """(N, 468, 2) pixels -> displacements from the canonical face without pose, (N, 468, 2) cm."""
    frontal = remove_pose(torch.from_numpy(landmarks.astype(np.float32)), torch.tensor(FACE))
    return frontal.numpy() - FACE[:, :2]


def mirrored(values):
    """Displacements (..., 468, 2) of the mirror image."""
    return values[..., MIRROR, :] * [-1, 1]


def design(samples) -> np.ndarray:
    """(N, 1 + identities + 2 A + 1), what the linear model is linear in."""
    count = len(samples["closed"])
    units = samples["units"].reshape(count, -1)
    return np.concatenate([np.ones((count, 1)), samples["identity"], units, samples["closed"][:, None]], 1)


def least_squares(inputs, outputs, ridge=3.0):
    """(inputs, 468, 2), slightly shrunk but for the mean."""
    penalty = ridge * np.eye(inputs.shape[1])
    penalty[0, 0] = 0
    flat = outputs.reshape(len(outputs), -1)
    return np.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ flat).reshape(-1, *outputs.shape[1:])


def fitted(head: Head, samples) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The tensors of `hf_emotion.starter.faces.fields`, and the weights of the linear model, of `least_squares`."""
    inputs, outputs = design(samples), displacements(samples["landmarks"])
    weights = least_squares(inputs, outputs)
    left_over = outputs - np.tensordot(inputs, weights, 1)
    both = np.concatenate([left_over, mirrored(left_over)]).reshape(2 * len(left_over), -1)
    _, sizes, directions = np.linalg.svd(both, full_matrices=False)
    rest = directions[:REST] * sizes[:REST, None] / np.sqrt(len(both))
    identity, units, closing = np.split(weights[1:], [IDENTITIES, len(weights) - 2])
    units = units.reshape(len(ACTION_UNITS), 2, NUM_MESH_LANDMARKS, 2)
    sides = ((1.0, 0.0), (0.0, 1.0))
    gap = [[head.gap(head.displacement(SHAPES[name], *side)) for side in sides] for name in ACTION_UNITS]
    tensors = {
        "mean": (weights[0] + mirrored(weights[0])) / 2,
        "identity": identity,
        "units": (units + mirrored(units[:, ::-1])) / 2,
        "gap": np.array(gap),
        "closing": (closing[0] + mirrored(closing[0])) / 2,
        "rest": rest.reshape(REST, NUM_MESH_LANDMARKS, 2),
    }
    return tensors, weights


def rms(values) -> float:
    return round(float(np.sqrt((values**2).mean())), 4)


def check(weights, held_out) -> dict:
    """How much of landmarks that the fit has not seen it explains, cm."""
    outputs, inputs = displacements(held_out["landmarks"]), design(held_out)
    unmoved = inputs.copy()
    unmoved[:, 1 + IDENTITIES :] = 0
    return {
        "held_out_pictures": len(outputs),
        "rms_from_mean_cm": rms(outputs - weights[0]),
        "rms_left_by_identity_cm": rms(outputs - np.tensordot(unmoved, weights, 1)),
        "rms_left_by_identity_and_units_cm": rms(outputs - np.tensordot(inputs, weights, 1)),
    }


def montage(head: Head, path: Path) -> None:
    """Six pictures of each emotion and of none, with the landmarks that the mesh finds on every second."""
    rng, finder, rows = np.random.default_rng(0), FaceFinder(threads=1), []
    for name in (*EMOTIONS, None):
        row = []
        for number in range(6):
            units = draw_movement(rng, name, -2.0, 2.0, weakest=0.7).units
            image = recorded(rng, picture(rng, head, posed(rng, head, units)[0]))
            track = finder(image[None])
            if number % 2 and track.found[0]:
                image = np.ascontiguousarray(image)
                for x, y in (track.landmarks[0, :NUM_MESH_LANDMARKS] * SIZE).round().astype(int).tolist():
                    cv2.circle(image, (x, y), 1, (0, 255, 0), -1)
            row.append(image)
        strip = np.concatenate(row, 1)
        cv2.putText(strip, str(name or "none"), (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1, cv2.LINE_AA)
        rows.append(strip)
    whole = cv2.resize(np.concatenate(rows), None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(path), cv2.cvtColor(whole, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="FaceXModel of ICT-FaceKit")
    parser.add_argument("--units", type=int, default=6000, help="pictures with random action units")
    parser.add_argument("--emotions", type=int, default=4000, help="pictures with an emotion's action units")
    parser.add_argument("--held-out", type=int, default=1000, help="further pictures with an emotion, not fitted to")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--samples", type=Path, help="also keep what was measured, as .npz")
    parser.add_argument("--output", type=Path, default=FIELDS)
    args = parser.parse_args()
    started = time.time()
    head = Head(args.folder)
    montage(head, RESULTS.with_suffix(".jpg"))
    batches = [-(-count // BATCH) for count in (args.units, args.emotions + args.held_out)]
    tasks = [(number, False) for number in range(batches[0])] + [(number, True) for number in range(batches[1])]
    with multiprocessing.get_context("spawn").Pool(args.processes, prepare, (head,)) as pool:
        parts = list(tqdm(pool.imap(measured, tasks), total=len(tasks), desc="pictures", unit=f"x{BATCH}"))
    found = sum(map(len, parts))
    last = -(-args.held_out // BATCH)

    def stacked(lists):
        rows = [sample for samples in lists for sample in samples]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    samples, held_out = stacked(parts[: len(parts) - last]), stacked(parts[len(parts) - last :])
    if args.samples:
        np.savez_compressed(args.samples, **samples, **{f"held_out_{name}": v for name, v in held_out.items()})
    tensors, weights = fitted(head, samples)
    tensors = {name: np.ascontiguousarray(values, np.float16) for name, values in tensors.items()}
    notice = (args.folder.parent / "LICENSE").read_text(encoding="utf-8")
    unfinished = args.output.with_name(f".{args.output.name}.{os.getpid()}")
    save_file(tensors, unfinished, metadata={"derived_from": "ICT-FaceKit", "license": notice})
    os.replace(unfinished, args.output)
    result = {
        "pictures": len(tasks) * BATCH,
        "faces_found": found,
        "fitted_to": len(samples["closed"]),
        **check(weights, held_out),
        "seconds": round(time.time() - started, 1),
        "processes": args.processes,
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
