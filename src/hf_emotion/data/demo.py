"""The demo corpus: talking-face clips with an emotion planted in one known place, made from one photograph.

The papers are trained on collections that may not be redistributed. This generator gives each of their modules a test
that only it can pass: real mp4 files (H.264 and AAC) in which exactly one cue carries the label, each with a matched
control in which that cue is absent and everything else is the same.

    cue          carried by                                             needed to read it
    face         a local facial movement during one utterance           MicroEmo's region attention
    prosody      the voice of one utterance, against the others         AcoustEmo's utterance windows
    words        the text of one utterance                              the language model
    agreement    whether sound and picture are in step (`offset_ms`)    ESVA's alignment

Everything else is drawn at random for every clip: head motion, lighting, colour, a moving and changing background,
blinks, the resting shape of the face, its mirror image, the speaker's pitch and vocal tract, noise. A face clip and its
control have the same sound, a prosody clip and its control the same picture, a words clip and its control both.

The face is `skimage.data.astronaut()` (Eileen Collins, photographed by NASA, public domain), warped by thin-plate
splines through its face landmarks. The voice is a sum of harmonics under moving formants: it has melody, loudness and
timbre, and no intelligible words. Syllables are drawn apart from the text, or the text would leak into the sound; and
no planted voice changes their timing, or the voice would leak into the lips.

It demonstrates the machinery; no real emotion is in it.
"""

import hashlib
import json
import math
import multiprocessing
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFilter
from tqdm import tqdm

from ..processing.faces import FaceFinder
from .files import replacing, write_whole
from .readers.demo import METADATA, NEUTRAL, DemoError, read_demo
from .schema import make_row
from .shares import processes

CUES = ("face", "prosody", "words", "agreement")
EMOTIONS = ("happy", "sad", "angry", "surprised", "disgusted")
AGREEMENT_LABELS = ("confident", "nervous")
SAMPLING_RATE = 16_000
# Part of every fingerprint: increase it whenever the same draws would give another file.
FORMAT = 2


_BROWS = [70, 63, 105, 66, 107, 46, 53, 52, 65, 55, 300, 293, 334, 296, 336, 276, 283, 282, 295, 285]
_INNER_BROWS = [107, 66, 55, 65, 336, 296, 285, 295]
_OUTER_BROWS = [63, 105, 53, 52, 293, 334, 283, 282]
_UPPER_LIDS = [246, 161, 160, 159, 158, 157, 173, 466, 388, 387, 386, 385, 384, 398]
# (brow's lower edge, upper lid, lower lid) of each eye, from corner to corner.
_EYES = [
    ([46, 53, 52, 65, 55], [33, 246, 161, 160, 159, 158, 157, 173, 133], [33, 7, 163, 144, 145, 153, 154, 155, 133]),
    (
        [276, 283, 282, 295, 285],
        [263, 466, 388, 387, 386, 385, 384, 398, 362],
        [263, 249, 390, 373, 374, 380, 381, 382, 362],
    ),
]
_UPPER_LIPS = [
    *(61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 76, 184, 74, 73, 72, 11, 302, 303, 304, 408, 306),
    *(62, 183, 42, 41, 38, 12, 268, 271, 272, 407, 292, 78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308),
]
_LOWER_LIPS = [
    *(146, 91, 181, 84, 17, 314, 405, 321, 375, 77, 90, 180, 85, 16, 315, 404, 320, 307),
    *(96, 89, 179, 86, 15, 316, 403, 319, 325, 95, 88, 178, 87, 14, 317, 402, 318, 324),
]
_MOUTH_OPENING = [78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95]
_CHIN = [18, 83, 313, 200, 201, 421, 199, 208, 428, 175, 171, 396, 152, 148, 377, 176, 400]
_CHEEKS = [50, 205, 207, 36, 280, 425, 427, 266]
_FOLDS = [216, 206, 212, 57, 186, 92, 436, 426, 432, 287, 410, 322]
_NOSE_WINGS = [64, 48, 115, 131, 49, 129, 209, 198, 294, 278, 344, 360, 279, 358, 429, 420]
_NOSE_TIP = [1, 4, 5, 44, 45, 274, 275]
_PHILTRUM = [164, 167, 393, 165, 391]

# Displacement of each movement: (landmarks, outward, downward, how it fades over the landmarks), lengths in distances
# between the outer eye corners. "corner" is full at the mouth corners and zero at the middle of the mouth, "middle" the
# reverse.
MOVEMENTS: dict[str, list[tuple[list[int], float, float, str]]] = {
    "lip_corners_up": [
        (_UPPER_LIPS + _LOWER_LIPS, 0.07, -0.07, "corner"),
        (_FOLDS, 0.06, -0.05, "all"),
        (_CHEEKS, 0.02, -0.04, "all"),
    ],
    "lip_corners_down": [(_UPPER_LIPS + _LOWER_LIPS, -0.01, 0.08, "corner"), (_FOLDS, -0.01, 0.05, "all")],
    "brows_together": [
        (_INNER_BROWS, -0.05, 0.075, "all"),
        (_OUTER_BROWS, -0.02, 0.05, "all"),
        (_UPPER_LIDS, 0.0, 0.02, "all"),
    ],
    "brows_up": [(_BROWS, 0.0, -0.08, "all"), (_UPPER_LIDS, 0.0, -0.03, "all")],
    "nose_wrinkle": [
        (_NOSE_WINGS, 0.02, -0.08, "all"),
        (_NOSE_TIP, 0.0, -0.04, "all"),
        (_PHILTRUM, 0.0, -0.05, "all"),
        (_UPPER_LIPS, 0.0, -0.06, "middle"),
    ],
}


def _both(*names: str) -> list[str]:
    return [f"{side}_{name}" for name in names for side in ("left", "right")]


# Emotion -> (movement, regions of `processing.faces.REGIONS` that it moves, what a viewer sees).
FACES: dict[str, tuple[str, list[str], str]] = {
    "happy": ("lip_corners_up", ["mouth", *_both("nasolabial", "cheek")], "The lip corners rise"),
    "sad": ("lip_corners_down", ["mouth", *_both("nasolabial")], "The lip corners drop"),
    "angry": ("brows_together", ["glabella", *_both("brow", "eye")], "The brows draw together and down"),
    "surprised": ("brows_up", ["forehead", *_both("brow", "eye")], "The brows rise"),
    "disgusted": ("nose_wrinkle", ["nose", "mouth", *_both("nasolabial")], "The nostrils and the upper lip rise"),
}


@dataclass(frozen=True)
class Voice:
    """How an utterance is spoken, relative to the speaker's neutral voice.

    Args:
        pitch: semitones above the speaker's own pitch.
        slope: semitones gained from the first to the last syllable.
        swing: semitones by which neighbouring syllables differ.
        loudness: decibels.
        tilt: dB per octave, added to the -12 of the neutral glottal source; positive is a harder voice.
        jitter: deviation of single periods, as a share of the pitch.
        breath: noise, as a share of the voice.
        held: sounding share of a syllable: small is clipped, large is drawn out.
        clue: what a listener hears.
    """

    pitch: float
    slope: float
    swing: float
    loudness: float
    tilt: float
    jitter: float
    breath: float
    held: float
    clue: str


VOICES: dict[str, Voice] = {
    NEUTRAL: Voice(0.0, -2.0, 0.8, 0.0, 0.0, 0.004, 0.02, 0.80, "The voice is even"),
    "happy": Voice(4.0, 1.0, 4.0, 3.0, 2.0, 0.004, 0.02, 0.80, "The voice is high and swings"),
    "sad": Voice(-2.5, -4.0, 0.3, -7.0, -4.0, 0.004, 0.08, 0.98, "The voice is low and soft and falls"),
    "angry": Voice(1.5, -6.0, 2.0, 8.0, 6.0, 0.020, 0.02, 0.58, "The voice is loud and hard and clipped"),
    "surprised": Voice(3.0, 9.0, 0.8, 3.0, 1.0, 0.004, 0.03, 0.80, "The voice climbs to the end"),
    "disgusted": Voice(-4.0, -1.0, 0.5, 0.0, 4.0, 0.050, 0.02, 0.98, "The voice is low and creaks"),
}
# Emotion -> (openings, events, topic of the words); a line is an opening and an event.
WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "happy": (
        ("At last", "This is lovely", "What a day", "Just think"),
        ("we won the match", "the baby is healthy", "they gave me the place", "my sister is coming home"),
        "good news",
    ),
    "sad": (
        ("I cannot take it in", "There is nothing to say", "It is all over", "Since then all is silent"),
        (
            "my old dog died last night",
            "we had to leave the house",
            "she went without a word",
            "nobody came to see him",
        ),
        "a loss",
    ),
    "angry": (
        ("Enough of this", "How dare they", "Not one more time", "I told them twice"),
        ("they broke my car again", "he lied to my face", "somebody stole my work", "they laughed at my brother"),
        "harm done by others",
    ),
    "surprised": (
        ("Wait a moment", "I never saw that coming", "No way", "Look at this"),
        ("the letter came after thirty years", "a fox sits in the kitchen", "the whole street is gone", "he is alive"),
        "something unexpected",
    ),
    "disgusted": (
        ("Take it away", "I cannot look at it", "This turns my stomach", "Open the window"),
        ("there are worms in the rice", "the milk is full of mould", "the sink is thick with slime", "he spat on it"),
        "something foul",
    ),
    NEUTRAL: (
        ("As far as I know", "On most days", "By the plan", "For the record"),
        ("the bus leaves at noon", "the shop is near the bank", "the file has four pages", "the train stops here"),
        "plain facts",
    ),
}
QUESTIONS = (
    "What does this person feel, and what shows it?",
    "Name the person's emotion and the clue for it.",
    "Which emotion is there, and where does it show?",
)
# Vowel -> first three formants in Hz (means of adult speakers in any phonetics textbook) and how far the mouth opens.
_VOWELS = {
    "a": (750, 1250, 2550, 1.0),
    "e": (530, 1850, 2500, 0.6),
    "i": (300, 2250, 3000, 0.3),
    "o": (500, 900, 2450, 0.7),
    "u": (320, 800, 2250, 0.35),
}


def make_demo(
    output_dir: str | os.PathLike,
    num_clips: int = 500,
    seed: int = 0,
    cues: Sequence[str] = CUES,
    emotions: Sequence[str] = EMOTIONS,
    controls: float = 0.5,
    size: int = 160,
    fps: float = 12.5,
    strength: float = 1.0,
    distractors: float = 1.0,
    num_workers: int | None = None,
    progress: bool = True,
) -> list[dict]:
    """Make the corpus, or finish an interrupted one: `clips/<id>.mp4` and `metadata.jsonl` in `output_dir`.

    Under `torchrun`, `accelerate launch` or `srun` the processes share the clips.

    A clip depends on `seed`, its own number and the arguments below, never on `num_workers` or `num_clips`: a larger
    corpus contains the smaller one, and two runs give the same bytes. An existing clip with the same fingerprint (in
    the file's `comment` tag) is kept. Clips and labels are balanced; `split` is drawn per pair (70 % train, 10 %
    validation, 20 % test), so that a clip and its control are in the same split.

    Args:
        output_dir: made if needed; other files in it are left alone.
        num_clips: number of clips, controls included.
        seed: any non-negative integer.
        cues: of `CUES`, in turn.
        emotions: of `EMOTIONS`, in turn; "agreement" has its own two, `AGREEMENT_LABELS`.
        controls: share of controls among the clips, 0 to 0.5 (every clip has one). With E emotions, 1 / (E + 1)
            makes "neutral", the label of all controls, as frequent as each emotion.
        size: width and height of the picture in pixels, an even number of at least 64.
        fps: frames per second.
        strength: of the planted movement and voice; 1 is clearly visible, 0.5 is slight.
        distractors: strength of everything else that changes in the picture; 0 is a still head before plain colours.
        num_workers: spawned processes; None is one per core, 0 is this process, in which MediaPipe then runs and which
            must not fork afterwards.
        progress: show a progress bar.

    Returns:
        the rows of `metadata.jsonl`, see `read_demo`.

    Raises:
        DemoError: an argument out of range, or scikit-image is missing.
    """
    _check(num_clips, seed, cues, emotions, controls, size, fps, strength, distractors)
    folder = Path(output_dir)
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    plan = _plan(num_clips, seed, cues, emotions, controls, strength, distractors)
    share, jobs = processes(), []
    for row, draws in share.share(plan):
        fingerprint = _fingerprint(draws, size, fps)
        path = folder / row["video"]
        if _read_fingerprint(path) != fingerprint:
            jobs.append((draws, size, fps, str(path), fingerprint))

    bar = tqdm(total=len(jobs), desc="demo clips", unit="clip", disable=not progress)
    workers = min(len(jobs), max(1, (os.cpu_count() or 1) // share.count) if num_workers is None else num_workers)
    with bar:
        if workers == 0:
            for job in jobs:
                _make_clip(*job)
                bar.update()
        else:
            # Spawned, because a FaceMesh graph in the parent would crash forked children.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(workers, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                futures = [pool.submit(_make_clip, *job) for job in jobs]
                try:
                    for future in as_completed(futures):
                        future.result()
                        bar.update()
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise

    share.wait()
    if share.is_first:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row, _ in plan)
        write_whole(folder / METADATA, lines)
    share.wait()
    return read_demo(folder)


def _check(num_clips, seed, cues, emotions, controls, size, fps, strength, distractors):
    for name, values, known in (("cues", cues, CUES), ("emotions", emotions, EMOTIONS)):
        if isinstance(values, str) or not values or len(set(values)) != len(values) or not set(values) <= set(known):
            raise DemoError(f"{name}={values!r}: a sequence of {', '.join(known)}, each at most once, is needed")
    for name, value, accepted, good in (
        ("num_clips", num_clips, "a whole number of at least 1", int(num_clips) == num_clips and num_clips >= 1),
        ("seed", seed, "a whole number of at least 0", int(seed) == seed and seed >= 0),
        ("controls", controls, "a share between 0 and 0.5", 0 <= controls <= 0.5),
        ("size", size, "an even number of pixels, at least 64", int(size) == size and size >= 64 and size % 2 == 0),
        ("fps", fps, "a rate between 1 and 60", 1 <= fps <= 60),
        ("strength", strength, "a number between 0 and 1.5", 0 <= strength <= 1.5),
        ("distractors", distractors, "a number between 0 and 1.5", 0 <= distractors <= 1.5),
    ):
        if not good:
            raise DemoError(f"{name}={value!r}: {accepted} is needed")


def _plan(num_clips, seed, cues, emotions, controls, strength, distractors) -> list[tuple[dict, dict]]:
    """(row, draws) of every clip. A longer plan begins with the same clips."""
    rate = controls / (1 - controls)
    plan = []
    pair = 0
    while len(plan) < num_clips:
        cue = cues[pair % len(cues)]
        labels = AGREEMENT_LABELS if cue == "agreement" else tuple(emotions)
        label = labels[pair // len(cues) % len(labels)]
        turn = pair // len(cues) // len(labels)
        # Low-discrepancy sequences per cue and label, so that small corpora are balanced as well as large ones.
        cell = [seed, 1, CUES.index(cue), (*EMOTIONS, *AGREEMENT_LABELS).index(label)]
        first_split, first_control = np.random.default_rng(cell).random(2)
        place = (first_split + turn * 0.6180339887498949) % 1
        split = "test" if place < 0.2 else "validation" if place < 0.3 else "train"
        paired = math.floor((turn + 1) * rate + first_control) > math.floor(turn * rate + first_control)
        for control in (False, True) if paired else (False,):
            draws = _draw(seed, pair, cue, label, control, strength, distractors)
            row = _row(seed, pair, cue, label, control, draws)
            other = f"demo_{pair:05d}" + ("" if control else "_control")
            plan.append((row | {"twin": other if paired else None, "split": split}, draws))
        pair += 1
    if len(plan) > num_clips:
        plan.pop()
        plan[-1][0]["twin"] = None
    return plan


def _draw(seed, pair, cue, label, control, strength, distractors) -> dict:
    """All random numbers of one clip, as JSON values. Their order never depends on cue, label or control."""
    rng = np.random.default_rng([seed, 0, pair])

    def uniform(low, high, *shape):
        return np.round(rng.uniform(low, high, shape), 5).tolist()

    count = int(rng.integers(2, 4))
    lengths = uniform(0.75, 1.05, 3) if count == 2 else uniform(0.62, 0.80, 3)
    pauses = uniform(0.22, 0.36, 3)
    lead, tail, shift, pace = uniform(0.12, 0.25), uniform(0.25, 0.40), uniform(0.24, 0.48), uniform(0.17, 0.22)
    late_sound, late_picture = (bool(bit) for bit in rng.integers(0, 2, 2))
    if cue == "agreement":
        # Under either label, both times are equally likely for sound and for picture: only the two together are a cue.
        late_picture = late_sound if label == "confident" else not late_sound
    else:
        late_picture = late_sound
    emotional = int(rng.integers(0, count))

    utterances = []
    at = lead
    for n in range(count):
        syllables = max(2, round(lengths[n] / pace))
        step = lengths[n] / syllables
        utterances.append(
            {
                "start": round(at, 3),
                "end": round(at + lengths[n], 3),
                "syllables": [
                    {
                        "start": round(at + m * step, 4),
                        "length": round(step, 4),
                        "vowel": "aeiou"[int(rng.integers(0, 5))],
                        "stress": uniform(0.6, 1.0),
                        "hiss": uniform(0.0, 1.0),
                    }
                    for m in range(syllables)
                ],
                "pitch": uniform(-0.7, 0.7),
                "loudness": uniform(-1.2, 1.2),
                "texts": {
                    name: [int(rng.integers(0, len(openings))), int(rng.integers(0, len(events)))]
                    for name, (openings, events, _) in WORDS.items()
                },
            }
        )
        at += lengths[n] + pauses[n]
    duration = round(utterances[-1]["end"] + shift + tail, 3)

    d = distractors
    draws = {
        "format": FORMAT,
        "cue": cue,
        "duration": duration,
        "utterances": utterances,
        "sound_shift": shift if late_sound else 0.0,
        "picture_shift": shift if late_picture else 0.0,
        "lips_move": not (cue == "agreement" and control),
        "movement": FACES[label][0] if cue == "face" and not control else None,
        "voice": label if cue == "prosody" and not control else NEUTRAL,
        "text": label if cue == "words" and not control else NEUTRAL,
        "emotional": emotional,
        "size_of_movement": round(strength * uniform(0.9, 1.1), 5),
        "size_of_voice": round(strength * uniform(0.9, 1.1), 5),
        "mirror": bool(rng.integers(0, 2)) and d > 0,
        "shape": [d * value for value in uniform(-0.25, 0.25, len(MOVEMENTS))],
        "aspect": 1 + d * uniform(-0.05, 0.05),
        # A path is [rest, size of wave 1, its rate in Hz, its phase in turns, the same of wave 2].
        "paths": {
            name: [
                d * uniform(-rest, rest),
                *(d * uniform(0.3, 1.0) * wave, uniform(0.15, 0.45), uniform(0, 1)),
                *(d * uniform(0.1, 0.4) * wave, uniform(0.5, 1.1), uniform(0, 1)),
            ]
            for name, rest, wave in (
                ("right", 0.08, 0.05),
                ("down", 0.06, 0.04),
                ("turn", 0.08, 0.07),
                ("zoom", 0.06, 0.04),
                ("light", 0.18, 0.12),
                ("warmth", 0.08, 0.05),
                ("light_right", 0.20, 0.15),
                ("light_down", 0.15, 0.10),
                ("back_right", 0.5, 0.3),
                ("back_down", 0.5, 0.3),
            )
        },
        "blinks": sorted(uniform(0.1, duration - 0.3, int(rng.integers(1, 4)))),
        "background": {
            "seed": int(rng.integers(0, 2**31)),
            "change": uniform(0.2, 0.8),
            "contrast": d * uniform(0.5, 1.0),
        },
        "speaker": {
            "pitch": round(math.exp(math.log(105) + (math.log(205) - math.log(105)) * uniform(0, 1)), 3),
            "tract": uniform(0.92, 1.12),
            "gain": uniform(0.09, 0.14),
            "noise": uniform(0.0005, 0.002),
            "seed": int(rng.integers(0, 2**31)),
        },
        "question": int(rng.integers(0, len(QUESTIONS))),
    }
    if d == 0:
        draws["blinks"] = []
    return draws


def _row(seed, pair, cue, label, control, draws) -> dict:
    number = draws["emotional"] + 1
    shift = draws["sound_shift"]
    texts = []
    for n, spoken in enumerate(draws["utterances"]):
        name = draws["text"] if n == draws["emotional"] else NEUTRAL
        opening, event = spoken["texts"][name]
        texts.append(f"{WORDS[name][0][opening]}, {WORDS[name][1][event]}.")
    utterances = [
        {
            "start": round(spoken["start"] + shift, 3),
            "end": round(spoken["end"] + shift, 3),
            "text": text,
            "speaker": None,
        }
        for spoken, text in zip(draws["utterances"], texts, strict=True)
    ]
    offset = round(1000 * (draws["sound_shift"] - draws["picture_shift"]))
    if control:
        clue = "Nothing stands out in the face, the voice or the words"
    elif cue == "face":
        clue = f"{FACES[label][2]} during utterance {number}"
    elif cue == "prosody":
        clue = f"{VOICES[label].clue} during utterance {number}"
    elif cue == "words":
        clue = f"The words of utterance {number} are about {WORDS[label][2]}"
    elif offset == 0:
        clue = "The lips and the voice are in step"
    else:
        clue = f"The voice comes {'after' if offset > 0 else 'before'} the lips"
    shown = NEUTRAL if control else label
    name = f"demo_{pair:05d}" + ("_control" if control else "")
    row = make_row(
        id=name,
        video=f"clips/{name}.mp4",
        utterances=utterances,
        subtitle=" ".join(texts),
        question=QUESTIONS[draws["question"]],
        answer=f"{clue}; the person seems {shown}.",
        labels=[shown],
        label=shown,
        description=f"{clue}; the person seems {shown}.",
        source=f"hf_emotion demo corpus, format {FORMAT}, seed {seed}",
        licence="CC0-1.0",
    )
    return row | {
        "cue": cue,
        "control": control,
        "planted": label,
        "moved_regions": FACES[label][1] if draws["movement"] else [],
        "emotional_utterance": None if control or cue == "agreement" else draws["emotional"],
        "offset_ms": offset if draws["lips_move"] else None,
    }


def _fingerprint(draws, size, fps) -> str:
    # The text is not in the file; otherwise a words clip and its control would differ in their tag alone.
    draws = draws | {"text": None, "question": None, "cue": None}
    return hashlib.sha256(json.dumps([draws, size, fps], sort_keys=True).encode()).hexdigest()


def _read_fingerprint(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        with av.open(str(path)) as container:
            return container.metadata.get("comment")
    except av.FFmpegError:
        return None


def _make_clip(draws, size, fps, path, fingerprint):
    frames = render_picture(draws, size, fps)
    _write_mp4(path, frames, Fraction(fps).limit_denominator(1000), render_sound(draws), fingerprint)


@dataclass(frozen=True)
class _Portrait:
    """The prepared photograph; lengths in its pixels.

    texture: (1, 4, h, w) float32, RGB in 0..255 and opacity; covers `centre` +- `reach`.
    fields: (M, 2, G, G) float32, where to look for pixel (x, y) when movement m is done; covers `centre` +- `reach`.
    mouths: (V, 2, G, G) float32, the same for the mouth from closed (0) to wide open (V - 1).
    lids: (V, 2, G, G) float32, the same for the eyes from open (0) to shut (V - 1).
    """

    texture: torch.Tensor
    fields: torch.Tensor
    mouths: torch.Tensor
    lids: torch.Tensor
    centre: tuple[float, float]
    half: float
    reach: float


_LEVELS = 9
_GRID = 160


@lru_cache(maxsize=2)
def _portrait(size: int) -> _Portrait:
    try:
        from skimage import data
    except ImportError as error:
        raise DemoError(
            "the demo corpus needs scikit-image, which carries the portrait; install hf_emotion[demo]"
        ) from error
    photograph = data.astronaut()
    track = FaceFinder()(photograph[None])
    if not track.found[0]:
        raise DemoError(
            f"no face was found in the portrait (backend {track.backend!r}); a working FaceFinder backend is needed"
        )
    # Rounded, so that another build of MediaPipe gives the same corpus.
    points = np.round(track.landmarks[0].astype(np.float64) * photograph.shape[1::-1], 2)
    low, high = points[:468].min(0), points[:468].max(0)
    height = high[1] - low[1]
    centre = np.round((low + high) / 2 - [0, 0.05 * height])
    half, reach = 0.88 * height, min(1.3 * height, *centre)

    left, top, right, bottom = (int(v) for v in (*(centre - reach), *(centre + reach)))
    opacity = _opacity(photograph)
    layers = np.dstack([_paint_mouth(photograph, points), opacity])[top:bottom, left:right]
    # About 1.2 texels a pixel: fewer blur the face, more would need a filter against aliasing.
    scale = 1.2 * size / (2 * half)
    resized = [
        Image.fromarray(layers[..., c], mode="L").resize(
            (round(layers.shape[1] * scale), round(layers.shape[0] * scale)), Image.Resampling.BICUBIC
        )
        for c in range(4)
    ]
    texture = torch.from_numpy(np.stack([np.asarray(layer, dtype=np.float32) for layer in resized]))[None]
    texture[:, 3] /= 255

    middle = np.array([(left + right) / 2, (top + bottom) / 2])
    reach = (right - left) / 2
    nodes = (np.arange(_GRID) + 0.5) / _GRID * 2 - 1
    grid = np.stack(np.meshgrid(nodes * reach, nodes * reach), -1) + middle
    speech = [_mouth_targets(points, level / (_LEVELS - 1)) for level in range(_LEVELS)]
    mouths = np.stack([_field(points, moved, grid) for moved in speech])
    lids = np.stack([_lid_field(points, level / (_LEVELS - 1), grid) for level in range(_LEVELS)])
    # Movements start from the face at rest, not from the smile in the photograph.
    rested = points.copy()
    for landmark, shift in speech[1].items():
        rested[landmark] += shift
    fields = np.stack([_field(rested, _targets(rested, name), grid) for name in MOVEMENTS])
    return _Portrait(
        texture,
        torch.from_numpy(fields.astype(np.float32)),
        torch.from_numpy(mouths.astype(np.float32)),
        torch.from_numpy(lids.astype(np.float32)),
        (float(middle[0]), float(middle[1])),
        float(half),
        float(reach),
    )


def _opacity(photograph: np.ndarray) -> np.ndarray:
    """(H, W) uint8, 0 for the pale backdrop around the head: light, grey, smooth, connected to the top edge."""
    from scipy import ndimage

    colour = photograph.astype(np.float64)
    dark, light = colour.min(-1), colour.max(-1)
    smooth = ndimage.gaussian_filter(colour.mean(-1), 1)
    edge = np.hypot(ndimage.sobel(smooth, 0), ndimage.sobel(smooth, 1))
    pieces, _ = ndimage.label((dark > 125) & (light - dark < 48) & (edge < 60))
    backdrop = pieces == pieces[20, 140]
    person = ndimage.binary_fill_holes(~ndimage.binary_dilation(backdrop, iterations=2))
    person = ndimage.binary_opening(person, iterations=2)
    return np.round(255 * ndimage.gaussian_filter(person.astype(np.float64), 1.0)).astype(np.uint8)


def _paint_mouth(photograph: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The photograph with a mouth that can open: dark below the upper teeth, which are closed in the smile."""
    fine = 4
    canvas = Image.new("L", (photograph.shape[1] * fine, photograph.shape[0] * fine))
    upper, lower = np.array(_MOUTH_OPENING[:11]), np.array([78, *_MOUTH_OPENING[:10:-1], 308])
    teeth = points[upper] + 0.25 * (points[lower] - points[upper])
    outline = np.concatenate([teeth, points[lower][::-1]]) * fine
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in outline], fill=255)
    mask = canvas.filter(ImageFilter.GaussianBlur(fine * 0.7)).resize(photograph.shape[1::-1], Image.Resampling.BOX)
    share = np.asarray(mask, dtype=np.float64)[..., None] / 255
    return np.round(photograph * (1 - share) + np.array([58, 20, 22]) * share).astype(np.uint8)


def _unit(points: np.ndarray) -> float:
    return float(np.hypot(*(points[263] - points[33])))


def _from_mouth_middle(points: np.ndarray, landmarks: list[int]) -> np.ndarray:
    """0 at the middle of the mouth to 1 at its corners, squared."""
    middle = (points[61, 0] + points[291, 0]) / 2
    return np.clip(np.abs(points[landmarks, 0] - middle) / ((points[291, 0] - points[61, 0]) / 2), 0, 1) ** 2


def _targets(points: np.ndarray, name: str) -> dict[int, np.ndarray]:
    """Landmark -> its displacement (x, y) when the movement is complete."""
    unit = _unit(points)
    middle = (points[33, 0] + points[263, 0]) / 2
    moved = {}
    for landmarks, outward, downward, fade in MOVEMENTS[name]:
        corner = _from_mouth_middle(points, landmarks)
        shares = {"all": np.ones(len(landmarks)), "corner": corner, "middle": 1 - corner}[fade]
        for landmark, share in zip(landmarks, shares, strict=True):
            side = np.sign(points[landmark, 0] - middle)
            moved[landmark] = unit * share * np.array([side * outward, downward])
    return moved


def _mouth_targets(points: np.ndarray, opening: float) -> dict[int, np.ndarray]:
    """The smile of the photograph is let go at every opening; 0 is closed lips, 1 almost twice the photograph's gap."""
    unit = _unit(points)
    gap = points[14, 1] - points[13, 1]
    drop = (1.8 * opening - 0.88) * gap
    moved = {}
    corner = _from_mouth_middle(points, _UPPER_LIPS + _LOWER_LIPS)
    for landmark, share in zip(_UPPER_LIPS + _LOWER_LIPS, corner, strict=True):
        side = np.sign(points[landmark, 0] - points[13, 0])
        moved[landmark] = unit * share * np.array([-side * (0.05 + 0.03 * opening), 0.07])
        if landmark in _LOWER_LIPS:
            moved[landmark] += [0, drop * (1 - share)]
    for landmark in _FOLDS:
        side = np.sign(points[landmark, 0] - points[13, 0])
        moved[landmark] = unit * np.array([-side * 0.03, 0.04])
    # The jaw goes down with the lower lip; it hardly rises when the lips close.
    jaw = max(drop, 0.3 * drop)
    for landmark in _CHIN:
        near = 1 - np.clip(np.abs(points[landmark, 0] - points[152, 0]) / unit, 0, 1) ** 2
        moved[landmark] = np.array([0, jaw * near])
    return moved


def _field(points: np.ndarray, moved: dict[int, np.ndarray], grid: np.ndarray) -> np.ndarray:
    """(2, G, G) pixels to add to a place in the moved face to find it in the photograph: a thin-plate spline through
    the moved landmarks (Bookstein 1989, IEEE TPAMI 11(6)) that is zero at the landmarks well away from them."""
    unit = _unit(points)
    index = np.array(sorted(moved))
    shift = np.array([moved[i] for i in index])
    rest = np.setdiff1d(np.arange(468), index)
    away = np.linalg.norm(points[rest, None] - points[None, index], axis=-1).min(1) > 0.10 * unit
    still = points[rest[away]]
    # A ring outside the face holds hair, neck and background.
    low, high = points[:468].min(0), points[:468].max(0)
    angle = np.linspace(0, 2 * np.pi, 33)[:-1]
    ring = (low + high) / 2 + 0.62 * (high - low).max() * np.stack([np.cos(angle), np.sin(angle)], -1)
    knots = np.concatenate([points[index] + shift, still, ring]) / unit
    values = np.concatenate([-shift, np.zeros((len(still) + len(ring), 2))])

    def kernel(a, b):
        square = np.maximum((a**2).sum(-1)[:, None] + (b**2).sum(-1) - 2 * (a @ b.T), 0)
        return square * np.log(square + 1e-12)

    n = len(knots)
    affine = np.concatenate([np.ones((n, 1)), knots], 1)
    system = np.zeros((n + 3, n + 3))
    # A trace of smoothing: neighbouring lip landmarks lie closer than the warp should bend.
    system[:n, :n] = kernel(knots, knots) + 1e-4 * np.eye(n)
    system[:n, n:] = affine
    system[n:, :n] = affine.T
    weights = np.linalg.solve(system, np.concatenate([values, np.zeros((3, 2))]))

    places = grid.reshape(-1, 2) / unit
    inside = np.linalg.norm((places * unit - (low + high) / 2) / (0.62 * (high - low).max()), axis=-1)
    field = np.zeros_like(places)
    near = inside < 1
    field[near] = kernel(places[near], knots) @ weights[:n] + np.c_[np.ones(near.sum()), places[near]] @ weights[n:]
    field *= np.clip((1 - inside) / 0.1, 0, 1)[:, None]
    # Rounded, so that the last bits of the linear solver do not reach the file.
    return np.round(field.T.reshape(2, *grid.shape[:2]), 3)


def _lid_field(points: np.ndarray, closing: float, grid: np.ndarray) -> np.ndarray:
    """As `_field`, for the eyes alone: column by column the eye is squeezed and the lid under the brow stretched. (A
    spline folds where the lids meet.)"""
    field = np.zeros((2, *grid.shape[:2]))
    x, y = grid[..., 0], grid[..., 1]
    for rows in _EYES:
        brow, upper, lower = (
            np.interp(x, *points[sorted(row, key=lambda landmark: points[landmark, 0])].T) for row in rows
        )
        shut = upper + 0.93 * closing * (lower - upper)
        inside = (x > points[rows[1], 0].min()) & (x < points[rows[1], 0].max()) & (lower > upper)
        lid = inside & (y > brow) & (y <= shut)
        field[1][lid] = (y - brow)[lid] * ((upper - shut)[lid] / (shut - brow)[lid])
        eye = inside & (y > shut) & (y < lower)
        field[1][eye] = (lower - y)[eye] * ((upper - shut)[eye] / (lower - shut)[eye])
    return np.round(field, 3)


def _path(path: list[float], times: np.ndarray) -> torch.Tensor:
    rest, a, rate_a, phase_a, b, rate_b, phase_b = path
    value = (
        rest + a * np.sin(2 * np.pi * (rate_a * times + phase_a)) + b * np.sin(2 * np.pi * (rate_b * times + phase_b))
    )
    return torch.from_numpy(value.astype(np.float32))[:, None, None]


def _hump(times: np.ndarray, start: float, end: float, rise: float) -> np.ndarray:
    """0 outside start..end, 1 between the rise and the fall, raised cosines on both sides."""
    inside = np.minimum(times - start, end - times)
    return 0.5 - 0.5 * np.cos(np.pi * np.clip(inside / rise, 0, 1))


def lip_opening(draws: dict, times: np.ndarray) -> np.ndarray:
    """(T,) how far the mouth is open, 0 to 1, at `times` (T,) s; independent of the planted voice."""
    opening = np.zeros_like(times)
    if draws["lips_move"]:
        for spoken in draws["utterances"]:
            for syllable in spoken["syllables"]:
                start = syllable["start"] + draws["picture_shift"]
                height = _VOWELS[syllable["vowel"]][3] * syllable["stress"]
                length = syllable["length"]
                opening = np.maximum(opening, height * _hump(times, start - 0.02, start + length + 0.02, length / 2))
    return opening


def eye_closing(draws: dict, times: np.ndarray) -> np.ndarray:
    """(T,) how far the eyes are shut, 0 to 1, at `times` (T,) seconds."""
    return np.max([np.zeros_like(times), *(_hump(times, at, at + 0.26, 0.1) for at in draws["blinks"])], axis=0)


def movement_sizes(draws: dict, times: np.ndarray) -> np.ndarray:
    """(T, M) how far each movement of `MOVEMENTS` has gone at `times` (T,) seconds; 1 is complete."""
    sizes = np.tile(np.array(draws["shape"]), (len(times), 1))
    if draws["movement"]:
        spoken = draws["utterances"][draws["emotional"]]
        shift = draws["picture_shift"]
        hump = _hump(times, spoken["start"] + shift - 0.04, spoken["end"] + shift + 0.04, 0.2)
        sizes[:, list(MOVEMENTS).index(draws["movement"])] += draws["size_of_movement"] * hump
    return sizes


def _between_levels(fields: torch.Tensor, amount: np.ndarray) -> torch.Tensor:
    """(V, 2, G, G) at `amount` (T,) in 0..1 -> (T, 2, G, G)."""
    level = amount * (_LEVELS - 1)
    below = np.minimum(level.astype(np.int64), _LEVELS - 2)
    share = torch.from_numpy((level - below).astype(np.float32))[:, None, None, None]
    return (1 - share) * fields[below] + share * fields[below + 1]


def render_picture(draws: dict, size: int, fps: float) -> np.ndarray:
    """(T, size, size, 3) uint8 RGB, frame t shown at t / fps seconds."""
    portrait = _portrait(size)
    count = max(1, int(draws["duration"] * fps))
    times = np.arange(count) / fps
    paths = {name: _path(path, times) for name, path in draws["paths"].items()}

    # Sums in a fixed order instead of matrix products, whose last bits change with the number of threads.
    sizes = torch.from_numpy(movement_sizes(draws, times).astype(np.float32))[:, :, None, None, None]
    moved = sum(sizes[:, m] * portrait.fields[m] for m in range(len(MOVEMENTS)))
    moved = moved + _between_levels(portrait.lids, eye_closing(draws, times))
    speech = _between_levels(portrait.mouths, lip_opening(draws, times))
    nodes = (torch.arange(_GRID, dtype=torch.float32) + 0.5) / _GRID * 2 - 1
    y, x = torch.meshgrid(nodes, nodes, indexing="ij")
    places = torch.stack([x, y], -1) + moved.permute(0, 2, 3, 1) / portrait.reach
    warp = moved + F.grid_sample(speech, places, align_corners=False)

    nodes = (torch.arange(size, dtype=torch.float32) + 0.5) / size * 2 - 1
    y, x = torch.meshgrid(nodes, nodes, indexing="ij")
    u, v = x - paths["right"], y - paths["down"]
    cos, sin = torch.cos(paths["turn"]), torch.sin(paths["turn"])
    stretch = portrait.half / portrait.reach / (1 + paths["zoom"])
    mirror = -1.0 if draws["mirror"] else 1.0
    places = torch.stack([mirror * draws["aspect"] * stretch * (cos * u + sin * v), stretch * (cos * v - sin * u)], -1)
    places = places + F.grid_sample(warp, places, align_corners=False).permute(0, 2, 3, 1) / portrait.reach
    face = F.grid_sample(portrait.texture.expand(count, -1, -1, -1), places, padding_mode="border", align_corners=False)

    background = _background(draws, times, torch.stack([x + paths["back_right"], y + paths["back_down"]], -1))
    frames = background + face[:, 3:] * (face[:, :3] - background)
    light = (1 + paths["light"]) * (1 + paths["light_right"] * x + paths["light_down"] * y)
    warmth = paths["warmth"]
    frames *= torch.stack([light * (1 + warmth), light, light * (1 - warmth)], 1)
    return frames.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def _background(draws: dict, times: np.ndarray, places: torch.Tensor) -> torch.Tensor:
    """(T, 3, H, W): coarse and fine colour patches that drift and are replaced by others at some moment."""
    rng = np.random.default_rng(draws["background"]["seed"])
    cloths = []
    for _ in range(2):
        cloth = rng.uniform(70, 190, (1, 3, 1, 1))
        for cells, size in ((5, 60), (14, 35)):
            patches = torch.from_numpy(rng.uniform(-size, size, (1, 3, cells, cells)))
            cloth = cloth + draws["background"]["contrast"] * F.interpolate(patches, 64, mode="bicubic").numpy()
        cloths.append(torch.from_numpy(np.clip(cloth, 0, 255).astype(np.float32)))
    if draws["background"]["contrast"] == 0:
        cloths[1] = cloths[0]
    change = draws["background"]["change"] * draws["duration"]
    share = torch.from_numpy((1 / (1 + np.exp(-(times - change) / 0.05))).astype(np.float32))[:, None, None, None]
    cloth = (1 - share) * cloths[0] + share * cloths[1]
    # Drift of up to 0.8 frame widths on either side stays inside the cloth.
    return F.grid_sample(cloth, places / 2, padding_mode="reflection", align_corners=False)


def render_sound(draws: dict) -> np.ndarray:
    """(S,) float32 mono at `SAMPLING_RATE`, within -1..1: harmonics of a moving pitch, weighted by the glottal tilt and
    by three moving formants, with breath and a short hiss before some syllables (source and filter, Fant 1960)."""
    speaker = draws["speaker"]
    rng = np.random.default_rng(speaker["seed"])
    step = 160
    count = int(draws["duration"] * SAMPLING_RATE) // step * step
    frames = count // step + 1
    times = np.arange(frames) * step / SAMPLING_RATE
    # Drawn before anything that depends on the planted voice, so that a control has the same noise.
    flutter = rng.standard_normal(count)
    breath = rng.standard_normal(count)
    hiss = rng.standard_normal(count)
    room = rng.standard_normal(count)

    pitch = np.full(frames, math.log2(speaker["pitch"]))
    gain, breathing, hissing, jitter = (np.zeros(frames) for _ in range(4))
    tilt = np.full(frames, -12.0)
    formants = np.tile(np.array([500.0, 1500.0, 2500.0]), (frames, 1))
    neutral = VOICES[NEUTRAL]
    for n, spoken in enumerate(draws["utterances"]):
        size = draws["size_of_voice"] if n == draws["emotional"] else 0.0
        voice = VOICES[draws["voice"]]

        def planted(name, voice=voice, size=size):
            return getattr(neutral, name) + size * (getattr(voice, name) - getattr(neutral, name))

        start, end = (spoken[key] + draws["sound_shift"] for key in ("start", "end"))
        inside = (times >= start - 0.1) & (times <= end + 0.1)
        progress = np.clip((times - start) / (end - start), 0, 1)
        tilt[inside] = -12.0 + planted("tilt")
        jitter[inside] = max(planted("jitter"), 0)
        for m, syllable in enumerate(spoken["syllables"]):
            first, length = syllable["start"] + draws["sound_shift"], syllable["length"]
            here = (times >= first - 0.04) & (times < first + length + 0.04)
            swing = planted("swing") * (1 if m % 2 else -1) * syllable["stress"]
            semitones = spoken["pitch"] + planted("pitch") + planted("slope") * (progress[here] - 0.5) + swing / 2
            pitch[here] = math.log2(speaker["pitch"]) + semitones / 12
            *place, opening = _VOWELS[syllable["vowel"]]
            formants[here] = np.array(place) * speaker["tract"]
            held = min(max(planted("held"), 0.4), 1.0)
            level = 10 ** ((planted("loudness") + spoken["loudness"]) / 20) * syllable["stress"] * (0.5 + 0.5 * opening)
            hump = level * _hump(times, first, first + max(held * length, 0.06), 0.035)
            gain = np.maximum(gain, hump)
            breathing = np.maximum(breathing, max(planted("breath"), 0) * hump)
            if syllable["hiss"] > 0.5:
                hissing = np.maximum(hissing, 0.05 * level * _hump(times, first - 0.03, first + 0.04, 0.02))

    soft = np.hanning(9)[1:-1] / np.hanning(9)[1:-1].sum()
    pitch, tilt, *places = (
        np.convolve(np.pad(track, 3, mode="edge"), soft, mode="valid") for track in (pitch, tilt, *formants.T)
    )
    fine = np.arange(count) / step

    def stretched(track):
        return np.interp(fine, np.arange(frames), track)

    # About one value per period, smoothed by the running phase.
    stray = np.repeat(flutter[::80], 80)[:count] * stretched(jitter)
    phase = 2 * np.pi * np.cumsum(2 ** stretched(pitch) * (1 + stray)) / SAMPLING_RATE
    low = 2 ** float(pitch.min())
    harmonics = np.arange(1, int(5000 / low) + 1)[:, None]
    frequency = harmonics * 2**pitch
    response = sum(
        weight / np.sqrt(1 + ((frequency - place) / width) ** 2)
        for weight, place, width in zip((1.0, 0.6, 0.35), places, (70, 90, 130), strict=True)
    )
    # `harmonics`: radiation at the lips adds 6 dB per octave.
    tracks = harmonics * response * harmonics ** (tilt / 6.02) * np.clip((5000 - frequency) / 500, 0, 1)
    # Vowel and tilt change the timbre alone; loudness is planted separately.
    tracks *= gain / np.sqrt((tracks**2).sum(0) / 2)
    wave = np.zeros(count)
    for harmonic, track in enumerate(tracks, 1):
        wave += stretched(track) * np.sin(harmonic * phase)
    wave += stretched(breathing) * breath + stretched(hissing) * np.diff(hiss, prepend=0)
    wave = speaker["gain"] * wave + speaker["noise"] * room
    return np.tanh(wave).astype(np.float32)


def _write_mp4(path: str, frames: np.ndarray, rate: Fraction, sound: np.ndarray, fingerprint: str) -> None:
    with replacing(path) as partial, av.open(str(partial), "w", format="mp4") as container:
        container.metadata["comment"] = fingerprint
        # With more threads, x264's rate control depends on timing; with macroblock trees, on memory addresses.
        options = {"preset": "veryfast", "crf": "18", "threads": "1", "x264-params": "mbtree=0"}
        picture = container.add_stream("libx264", rate=rate, options=options)
        picture.width, picture.height, picture.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        voice = container.add_stream("aac", rate=SAMPLING_RATE, layout="mono")
        voice.bit_rate = 64_000
        for t, frame in enumerate(frames):
            image = av.VideoFrame.from_ndarray(frame, format="rgb24")
            image.pts, image.time_base = t, 1 / rate
            container.mux(picture.encode(image))
        container.mux(picture.encode(None))
        for start in range(0, len(sound), 1024):
            block = av.AudioFrame.from_ndarray(sound[None, start : start + 1024], format="fltp", layout="mono")
            block.sample_rate, block.pts, block.time_base = SAMPLING_RATE, start, Fraction(1, SAMPLING_RATE)
            container.mux(voice.encode(block))
        container.mux(voice.encode(None))


def render_clips(
    cue: str,
    numbers: Iterable[int],
    seed: int,
    size: int = 160,
    fps: float = 3.0,
    strength: float = 1.0,
    distractors: float = 1.0,
):
    """Clips like those of the corpus, in memory: silent faces, or voices without a picture, for pretraining.

    Args:
        cue: "face" or "prosody".
        numbers: of the clips. Emotions take turns; every `len(EMOTIONS) + 1`-th clip is a control, so that "neutral" is
            as frequent as each emotion.
        seed: another than the corpus's, whose clips would otherwise be seen in pretraining.
        size, fps, strength, distractors: as in `make_demo`.

    Yields:
        (row, draws): a data row whose `video` holds `frames` and `fps`, or `waveform` and `sampling_rate`, and what
        `movement_sizes` needs.

    Raises:
        DemoError: another cue.
    """
    if cue not in ("face", "prosody"):
        raise DemoError(f"cue={cue!r}: 'face' or 'prosody' is needed")
    for pair in numbers:
        label = EMOTIONS[pair % len(EMOTIONS)]
        control = pair % (len(EMOTIONS) + 1) == len(EMOTIONS)
        draws = _draw(seed, pair, cue, label, control, strength, distractors)
        if cue == "face":
            video = {"frames": render_picture(draws, size, fps), "fps": fps}
        else:
            video = {"waveform": render_sound(draws), "sampling_rate": SAMPLING_RATE}
        yield _row(seed, pair, cue, label, control, draws) | {"video": video}, draws
