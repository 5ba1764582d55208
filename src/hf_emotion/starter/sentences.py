"""What the teacher says about a clip: whole sentences that name clues, their times and, where there is one, an emotion.

The grammar is small on purpose, and `GRAMMAR` accepts exactly these sentences: a benchmark checks every answer of the
trained model with it.
"""

import math
import re
from dataclasses import dataclass, field

from .faces import EMOTIONS, Movement
from .voices import CUES as VOICES

FACE_EMOTIONS = tuple(EMOTIONS)
VOICE_EMOTIONS = tuple(name for name in VOICES if name != "neutral")
LABELS = (*FACE_EMOTIONS, *(name for name in VOICE_EMOTIONS if name not in FACE_EMOTIONS), "neutral")

# What a face shows: the action units behind each phrase, in the order in which phrases are said. Units that stand
# together are told as one.
FACE_CLUES = {
    "raised brows": ("2",),
    "raised inner brows": ("1",),
    "lowered brows": ("4",),
    "widened eyes": ("5",),
    "lifted cheeks": ("6",),
    "tightened eyelids": ("7",),
    "a wrinkled nose": ("9",),
    "a raised upper lip": ("10",),
    "raised lip corners": ("12",),
    "a tightened lip corner": ("14",),
    "lowered lip corners": ("15",),
    "a raised chin": ("17",),
    "stretched lips": ("20",),
    "pressed lips": ("23", "24"),
    "parted lips": ("25",),
    "a dropped jaw": ("26", "27"),
}
MOST_FACE_CLUES = 4
VISIBLE = 0.35  # of an action unit's strongest movement
# From here on the conclusion of a description names the emotion; below, there is "no clear sign" of one. Real people's
# neutral faces and voices differ from the teacher's as much as weak expressions do. Labels name weak expressions, too.
CLEAR_FACE = 0.62  # strongest action unit of an expression
CLEAR_VOICE = 0.75  # share of the published change of a voice

# What a voice does: a cue of the feature extractor and from where on, in the extractor's units, it is told.
VOICE_CLUES = {
    "high": (("pitch", 0.9), ("pitch_to_clip", 0.6)),
    "low": (("pitch", -1.2), ("pitch_to_clip", -0.6)),
    "bright": (("tilt", 0.6), ("tilt_to_clip", 0.8)),
    "soft": (("tilt", -1.3), ("tilt_to_clip", -0.8)),
    "varied": (("pitch_range", 0.7),),
    "even": (("pitch_range", -0.8),),
    "fast": (("rate", 0.6),),
    "slow": (("rate", -0.6),),
}
STEP = 0.5  # s, to which times are rounded
MOST_UTTERANCES = 6

NO_FACE, NO_VOICE = "No face is visible.", "No voice is heard."
PLAIN_FACE, PLAIN_VOICE = "The face shows no clear movement.", "The voice is ordinary."
NO_SIGN = "There is no clear sign of an emotion."

DESCRIBE = (
    "Which emotions does the person show, and which cues indicate them?",
    "Please infer the person's emotional state and provide your reasoning process.",
    "How does the person feel, and how can you tell?",
    "Describe the emotions in this clip.",
)
NAME_IT = (
    "Which emotion is it? Answer with one word.",
    "Name the emotion in one word.",
)


@dataclass
class Expression:
    """What the face shows for a while: phrases of `FACE_CLUES`, and times in s, `None` for the whole clip.

    `clear`: strong enough for a conclusion.
    """

    emotion: str | None
    clues: list[str]
    start: float | None = None
    end: float | None = None
    clear: bool = True


@dataclass
class Speech:
    """One utterance (or a clip's sound): words of `VOICE_CLUES` and the emotion it was spoken with.

    `clear`: strongly enough for a conclusion.
    """

    emotion: str | None
    clues: list[str]
    clear: bool = True


@dataclass
class Facts:
    """What there is to say about a clip or a part of it.

    Attributes:
        face: expressions in order; `None` where no face is visible.
        voice: one for each utterance, one for a sound without utterances; `None` where no voice is heard.
        numbered: the voices are utterances of a clip and are told by number.
    """

    face: list[Expression] | None
    voice: list[Speech] | None
    numbered: bool = False
    extra: dict = field(default_factory=dict)


def face_clues(movement: Movement) -> list[str]:
    """The phrases that a movement deserves, the strongest few of them, in the order of `FACE_CLUES`."""
    sizes = {}
    for phrase, units in FACE_CLUES.items():
        size = max((max(movement.units.get(unit, (0.0, 0.0))) for unit in units), default=0.0)
        if size >= VISIBLE:
            sizes[phrase] = size
    if "raised brows" in sizes:
        sizes.pop("raised inner brows", None)
    chosen = sorted(sizes, key=lambda phrase: -sizes[phrase])[:MOST_FACE_CLUES]
    return [phrase for phrase in FACE_CLUES if phrase in chosen]


def expression(movement: Movement, duration: float) -> Expression:
    """A movement with its times rounded outward to half seconds; without times where it fills the clip."""
    start, end = max(movement.start, 0.0), min(movement.end, duration)
    clear = max((max(sizes) for sizes in movement.units.values()), default=0.0) >= CLEAR_FACE
    if start <= 0.05 * duration and end >= 0.95 * duration:
        return Expression(movement.emotion, face_clues(movement), clear=clear)
    start, end = math.floor(start / STEP) * STEP, math.ceil(end / STEP) * STEP
    return Expression(movement.emotion, face_clues(movement), start, max(end, start + STEP), clear)


def voice_clues(cues: dict[str, float]) -> list[str]:
    """The words that the mean cues of a stretch of speech deserve."""
    clues = []
    for word, limits in VOICE_CLUES.items():
        if any(cues[name] > limit if limit > 0 else cues[name] < limit for name, limit in limits):
            clues.append(word)
    both = [pair for pair in (("high", "low"), ("bright", "soft")) if set(pair) <= set(clues)]
    return [word for word in clues if not any(word in pair for pair in both)]


def listed(parts: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def face_sentences(face: list[Expression] | None) -> list[str]:
    if face is None:
        return [NO_FACE]
    shown = [item for item in face if item.clues]
    if not shown:
        return [PLAIN_FACE]
    sentences = []
    for item in shown:
        if item.start is None:
            sentences.append(f"The face shows {listed(item.clues)}.")
        else:
            sentences.append(f"From {item.start:.1f} to {item.end:.1f} s the face shows {listed(item.clues)}.")
    return sentences


def voice_sentences(voice: list[Speech] | None, numbered: bool) -> list[str]:
    if voice is None:
        return [NO_VOICE]
    sentences = []
    for number, speech in enumerate(voice, 1):
        if speech.clues and numbered:
            sentences.append(f"During utterance {number} the voice is {listed(speech.clues)}.")
        elif speech.clues:
            sentences.append(f"The voice is {listed(speech.clues)}.")
    return sentences or [PLAIN_VOICE]


def in_order(names) -> list[str]:
    """Distinct emotions in the order of their first appearance, two at most."""
    return list(dict.fromkeys(name for name in names if name is not None))[:2]


def looks(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"first {names[0]}, then {names[1]}"


def conclusion(facts: Facts) -> str:
    seen = in_order(item.emotion if item.clues and item.clear else None for item in facts.face or [])
    voices = in_order(item.emotion if item.clear else None for item in facts.voice or [])
    if not seen and not voices:
        return NO_SIGN
    if not voices:
        return f"This looks {looks(seen)}."
    if not seen:
        return f"This sounds {looks(voices)}."
    return f"The face looks {looks(seen)} and the voice sounds {looks(voices)}."


def describe(facts: Facts) -> str:
    """The whole answer about a clip, or about one utterance of it."""
    return " ".join([*face_sentences(facts.face), *voice_sentences(facts.voice, facts.numbered), conclusion(facts)])


def label(facts: Facts, choose=0) -> str:
    """One word for the clip: the emotion seen or heard, `choose` (0 or 1) deciding between two."""
    seen = in_order(item.emotion if item.clues else None for item in facts.face or [])
    voices = in_order(item.emotion for item in facts.voice or [])
    names = list(dict.fromkeys([*seen, *voices]))
    return names[choose % len(names)] if names else "neutral"


def _any(words) -> str:
    return f"(?:{'|'.join(map(re.escape, words))})"


def _list(words, most) -> str:
    return rf"{_any(words)}(?:(?:, {_any(words)}){{0,{most - 2}}} and {_any(words)})?"


_TIME = r"\d{1,2}\.\d"  # the teacher's are half seconds; the end of a clip may be another
_FACE_LIST, _VOICE_LIST = _list(FACE_CLUES, MOST_FACE_CLUES), _list(VOICE_CLUES, len(VOICE_CLUES))
_LOOKS = rf"(?:first {_any(LABELS)}, then {_any(LABELS)}|{_any(LABELS)})"
_FACE = (
    rf"(?:{re.escape(NO_FACE)}|{re.escape(PLAIN_FACE)}"
    rf"|(?:The face shows|From {_TIME} to {_TIME} s the face shows) {_FACE_LIST}\.)"
)
_VOICE = (
    rf"(?:{re.escape(NO_VOICE)}|{re.escape(PLAIN_VOICE)}"
    rf"|(?:The voice is|During utterance \d+ the voice is) {_VOICE_LIST}\.)"
)
_END = (
    rf"(?:{re.escape(NO_SIGN)}|This (?:looks|sounds) {_LOOKS}\."
    rf"|The face looks {_LOOKS} and the voice sounds {_LOOKS}\.)"
)
# A whole answer: what is seen, what is heard, what it amounts to.
GRAMMAR = re.compile(rf"{_FACE}(?: {_FACE})?(?: {_VOICE})+ {_END}")


def is_whole(text: str) -> bool:
    """Whether a text is a whole answer: `GRAMMAR` accepts it, and no sentence lists the same thing twice."""
    if not GRAMMAR.fullmatch(text):
        return False
    for sentence in text.split(". "):
        listed_words = re.findall(rf"(?:shows |is |, | and )({_any(FACE_CLUES)}|{_any(VOICE_CLUES)})", sentence)
        if len(set(listed_words)) < len(listed_words):
            return False
    return True
