"""The teacher's clips: a face, a voice or both, in utterances, with conflicts, several emotions, or nothing at all.

A scene is never a video file: faces are landmarks as the face mesh would give them, voices are what the feature
extractor's first step makes of a synthetic recording. Facts about a scene are exact, because it was made from them;
what is told about a voice is what its cues really measure.
"""

from dataclasses import dataclass, replace

import numpy as np

from ..processing.feature_extraction_voice import CUES, HOP_MS, STEP, VoiceCueExtractor
from .faces import Movement, draw_movement, intensities
from .sentences import CLEAR_VOICE, FACE_EMOTIONS, MOST_UTTERANCES, Facts, Speech, expression, voice_clues
from .voices import CUES as PROSODY
from .voices import RATE, Speaker, background, record, speak

# Standard deviations, in the extractor's units, of what a whole recording adds to each cue: microphones, languages and
# speakers differ from the teacher's by more than it knows.
STRAY = {
    **{"pitch": 0.2, "pitch_range": 0.4, "pitch_slope": 0.3, "tilt": 0.6, "tilt_range": 0.5, "low_tilt": 0.9},
    **{"level_to_clip": 0.3, "level_spread": 0.3, "level_change": 0.3, "voiced": 0.5, "speech": 0.25, "rate": 0.3},
    **{"periodicity": 0.7, "irregularity": 0.4},
}
# Contempt is one corner of the mouth; as often as the others it would be the answer to every face that is a little odd.
FACE_SHARES = np.array([0.5 if emotion == "contemptuous" else 1.0 for emotion in FACE_EMOTIONS])
FACE_SHARES = FACE_SHARES / FACE_SHARES.sum()
# How far a scene's recording strays, as factors of `STRAY`.
LEAST_STRAY, MOST_STRAY = 0.5, 2.0
STRAY_BY_CUE = np.array([STRAY.get(name, 0.0) for name in CUES], np.float32)

PICTURE_SECONDS = 0.04


@dataclass
class Voice:
    """Some utterances of one speaker, analysed in one recording.

    Attributes:
        emotions: of each utterance.
        strengths: of each utterance, as shares of the published change.
        analysed: of each utterance, (F, 5), see `VoiceCueExtractor.analyse`.
        silence: (F, 5), between them.
    """

    emotions: list[str]
    strengths: list[float]
    analysed: list[np.ndarray]
    silence: np.ndarray


def draw_voices(rng, count: int, progress=lambda speakers: speakers) -> list[Voice]:
    """`count` speakers, each with two neutral utterances and one of most emotions."""
    extractor, voices = VoiceCueExtractor(), []
    for _ in progress(range(count)):
        speaker = Speaker.draw(rng)
        emotions = ["neutral", "neutral", *rng.permutation(list(PROSODY)[1:])[:5]]
        sounds, gap = [], np.zeros(RATE // 2, np.float32)
        strengths = rng.uniform(0.5, 1.2, len(emotions)).tolist()
        for emotion, strength in zip(emotions, strengths, strict=True):
            sound = speak(rng, speaker, str(emotion), strength, rng.uniform(0.8, 3.5))
            sounds.append(sound / np.sqrt((sound**2).mean()) * 10 ** (rng.normal(0, 2) / 20))
        edges = np.cumsum([0, *(len(sound) + len(gap) for sound in sounds)])
        whole = record(rng, speaker, np.concatenate([part for sound in sounds for part in (sound, gap)]))
        hop = RATE * HOP_MS // 1000
        rows = extractor.analyse(whole)
        parts = [rows[start // hop : (start + len(sound)) // hop] for start, sound in zip(edges, sounds, strict=False)]
        quiet = np.concatenate(
            [rows[(end - len(gap) * 3 // 4) // hop : (end - len(gap) // 4) // hop] for end in edges[1:]]
        )
        voices.append(Voice([str(emotion) for emotion in emotions], strengths, parts, quiet))
    return voices


@dataclass
class Scene:
    """A clip of the teacher's.

    Attributes:
        duration: s.
        times: (T,) int64 ms; empty without a picture.
        units: (T, A, 2), how far each action unit has gone; see `faces.intensities`.
        face: whether the frames show a face.
        movements: of the face.
        cues: (channels, F) float32; `None` without a sound.
        spans: start and end of each utterance, s; empty where the clip comes without utterances.
        facts: about the clip; `parts`: about each utterance.
    """

    duration: float
    times: np.ndarray
    units: np.ndarray
    face: bool
    movements: list[Movement]
    cues: np.ndarray | None
    spans: list[tuple[float, float]]
    facts: Facts
    parts: list[Facts]


def draw_speech(rng, voice: Voice, emotion: str | None, count: int, stray=1.0):
    """A sound of `count` utterances of a speaker, some of them with the emotion, the others neutral.

    Returns:
        cues (channels, F), spans in s, and each utterance's emotion and whether it is clear.
    """
    calm = [i for i, name in enumerate(voice.emotions) if name == "neutral"]
    moved = [i for i, name in enumerate(voice.emotions) if name == emotion]
    choices = [int(rng.choice(moved)) if moved and rng.random() < 0.65 else int(rng.choice(calm)) for _ in range(count)]
    if moved:
        choices[rng.integers(count)] = moved[0]

    def pause(low, high):
        frames = max(int(rng.uniform(low, high) * 1000 / HOP_MS), 1)
        return voice.silence[np.arange(frames) % len(voice.silence)]

    rows, spans, at = [], [], 0
    for i in choices:
        gap = pause(0.05, 1.2)
        sound = voice.analysed[i]
        rows += [gap, sound]
        start = at + len(gap)
        at = start + len(sound)
        spans.append((start * HOP_MS / 1000, at * HOP_MS / 1000))
    rows.append(pause(0.05, 1.0))
    cues = VoiceCueExtractor().cues(np.concatenate(rows))
    audible = cues[-1:] > 0
    cues = (cues + audible * (rng.normal(size=(len(cues), 1)) * stray * STRAY_BY_CUE[:, None])).astype(np.float32)
    names = [voice.emotions[i] for i in choices]
    clear = [voice.strengths[i] >= CLEAR_VOICE for i in choices]
    return cues, spans, [(None if name == "neutral" else name, sure) for name, sure in zip(names, clear, strict=True)]


def measured(cues: np.ndarray, start: float, end: float) -> dict[str, float] | None:
    """Mean cues between two times (s) where there is a voice."""
    rate = 1000 / (HOP_MS * STEP)
    part = cues[:, int(start * rate) : max(int(np.ceil(end * rate)), int(start * rate) + 1)]
    part = part[:, part[-1] > 0]
    return dict(zip(CUES, part.mean(1), strict=True)) if part.shape[1] else None


def speech_of(cues, start, end, emotion, clear) -> Speech | None:
    values = measured(cues, start, end)
    return None if values is None else Speech(emotion, voice_clues(values), clear)


def draw_picture(rng, calm=0.25) -> Scene:
    """A picture of a face."""
    emotion = None if rng.random() < calm else str(rng.choice(FACE_EMOTIONS, p=FACE_SHARES))
    times = np.zeros(1, np.int64)
    movements = [draw_movement(rng, emotion, -2.0, 2.0)]
    facts = Facts([expression(m, PICTURE_SECONDS) for m in movements], None)
    return Scene(PICTURE_SECONDS, times, intensities(movements, times / 1000), True, movements, None, [], facts, [])


def draw_scene(rng, voices: list[Voice], still=0.2, stray: float | None = None, calm=0.25) -> Scene:
    """A random scene; `still` is the share of pictures among those with a face and no sound.

    `stray` is the factor of how far recordings differ from the teacher's (`STRAY`); `None` draws it. `calm` is the
    share of faces and of voices without an emotion.
    """
    kind = rng.choice(["face", "voice", "both", "neither"], p=[0.36, 0.26, 0.34, 0.04])
    with_face, with_voice = kind in ("face", "both"), kind in ("voice", "both")
    picture = with_face or rng.random() < 0.3 or kind == "neither"
    sound = with_voice or rng.random() < 0.35
    if kind == "face" and not sound and rng.random() < still / 0.3:
        return draw_picture(rng, calm)
    face_emotion = None if rng.random() < calm else str(rng.choice(FACE_EMOTIONS, p=FACE_SHARES))
    voice = voices[rng.integers(len(voices))] if with_voice else None
    voice_emotion = None
    if voice is not None:
        moved = [name for name in voice.emotions if name != "neutral"]
        agree = face_emotion in moved and rng.random() < 0.6
        voice_emotion = face_emotion if agree else (None if rng.random() < calm else str(rng.choice(moved)))

    cues, spans, spoken = None, [], []
    duration = float(np.exp(rng.uniform(np.log(1.0), np.log(25.0))))
    if voice is not None:
        count = int(rng.choice([1, 1, 1, 2, 3, 4, 5, MOST_UTTERANCES]))
        strayed = rng.uniform(LEAST_STRAY, MOST_STRAY) if stray is None else stray
        cues, spans, spoken = draw_speech(rng, voice, voice_emotion, count, strayed)
        duration = cues.shape[1] * HOP_MS * STEP / 1000
    elif sound:
        cues = np.zeros((len(CUES), max(int(duration * 1000 / (HOP_MS * STEP)), 1)), np.float32)

    times = np.zeros(0, np.int64)
    movements: list[Movement] = []
    if picture:
        frames = int(rng.choice([4, 6, 8, 12]))
        times = ((np.arange(frames) + 0.5) * duration * 1000 / frames).astype(np.int64)
    if with_face:
        movements = draw_expressions(rng, face_emotion, duration, len(times))
    units = intensities(movements, times / 1000)
    face = [expression(m, duration) for m in movements] if with_face else None

    numbered = bool(spans) and (len(spans) > 1 or rng.random() < 0.4)
    speech = None
    if voice is not None:
        if numbered:
            speech = [speech_of(cues, *span, *how) for span, how in zip(spans, spoken, strict=True)]
            speech = [part or Speech(None, []) for part in speech]
        else:
            clear = any(sure for name, sure in spoken if name == voice_emotion)
            whole = speech_of(cues, 0.0, duration, voice_emotion, clear)
            speech = None if whole is None else [whole]
    facts = Facts(face, speech, numbered=numbered)
    parts = []
    for i, (start, end) in enumerate(spans if numbered else []):
        during = None
        if face is not None:
            shown = [m for m in movements if m.start < end and m.end > start]
            # A glimpse at the edge of an utterance is neither seen nor told.
            shown = [m for m in shown if sees(m, times / 1000, start, end)]
            during = [replace(e, start=None, end=None) for m, e in zip(movements, face, strict=True) if m in shown]
            during = during[:1]
        parts.append(Facts(during, [speech[i]] if speech else None))
    return Scene(duration, times, units, with_face, movements, cues, spans if numbered else [], facts, parts)


def sees(movement: Movement, times: np.ndarray, start: float, end: float) -> bool:
    """Whether a frame within an utterance, or the nearest to it, shows the movement at half its strength or more."""
    inside = (times >= start) & (times < end)
    if not inside.any():
        inside = np.arange(len(times)) == np.abs(times - (start + end) / 2).argmin()
    return bool((movement.strength(times[inside]) >= 0.5).any())


def draw_expressions(rng, emotion: str | None, duration: float, frames: int) -> list[Movement]:
    """One movement that fills the clip or a part of it, or two, one after the other."""
    step = duration / max(frames, 1)
    least = max(0.8, 1.6 * step)
    if frames == 1 or duration < 2 * least or rng.random() < 0.3:
        return [draw_movement(rng, emotion, -2.0, duration + 2.0)]
    if emotion is not None and duration > 4 * least and rng.random() < 0.2:
        other = str(rng.choice([name for name in FACE_EMOTIONS if name != emotion]))
        middle = rng.uniform(0.4, 0.6) * duration
        first = draw_movement(rng, emotion, rng.uniform(0, middle - 1.5 * least), middle - 0.5 * least)
        start = middle + rng.uniform(0.0, 0.3) * least
        return [first, draw_movement(rng, other, start, rng.uniform(start + least, duration + 0.2))]
    length = rng.uniform(least, duration)
    start = rng.uniform(-0.3 * length, duration - 0.8 * length)
    return [draw_movement(rng, emotion, start, start + length)]


def empty_sound(rng, seconds: float) -> np.ndarray:
    """A recording in which nobody speaks."""
    return (background(rng, int(seconds * RATE)) * 10 ** (-rng.uniform(40, 70) / 20)).astype(np.float32)
