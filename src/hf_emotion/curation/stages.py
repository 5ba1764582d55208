"""Omni-Emotion's data curation (arXiv 2501.09502, section 3): labelled clips -> described, scored, reviewed rows.

    stage        paper                                                      answers
    clip         the row and its file's hash                                -
    frames       "low-density sampling at 1 FPS"                            -
    faces        "extract each facial tracklet", dense frames of the largest -
    scene        "Qwen2-VL-72B for video description"                       describe
    person       "MiVOLO is employed for age and gender"; off by default    person
    movement     "Qwen2-VL-72B ... to describe the detailed facial movement" describe
    speech       "ASR"; the row's own utterances or subtitle go first       transcribe
    voice        "captioning ... and emotion recognition" of the sound      listen
    consistency  "Inconsistent or uncertain data is discarded"              judge
    synthesis    "explainable reasoning clues ... open-vocabulary annotations" judge
    score        "alignment degree ... on a 0-10 scoring scale"             judge

A clip with a score of 5 or more is kept (SRE); human review (HRE) is exported as a sheet and imported again. The paper
gives no prompts; `PROMPTS` are ours.

Each stage of each clip writes one JSON file: the prompt, every raw reply, the value read from them, and a key that
covers all the value depends on (file, model, prompt, settings, values of earlier stages). A file with the right key is
not computed again: a killed run continues where it stopped, and a new judge repeats only the judging. The files do not
depend on when, how often or by which process they were written; times are in `log.jsonl` (of several processes, in a
file of each). An unreadable reply is asked for again; if that
fails, the clip is unscored: listed, but never kept.

The caller chooses the models: functions from a `Request` to a reply, with a `name`. Those for transformers pipelines,
servers and templates are in `curation.reviewers`.
"""

import hashlib
import json
import os
import random
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from math import ceil
from pathlib import Path
from typing import Protocol, get_args, get_origin, get_type_hints
from urllib.parse import quote

import numpy as np
from tqdm import tqdm

from ..data.files import write_whole
from ..data.remote import local_media
from ..data.schema import FIELDS, RowError, make_row
from ..data.shares import Processes, ResultFile, processes
from ..processing.faces import FaceError, FaceFinder
from ..processing.media import MediaError, load_clip
from ..processing.utterances import UtteranceError, read
from ..processing.voice_activity import voice_spans
from .measures import face_measures, movements, picture_measures, voice_measures

# Part of every key: increase it when a stage computes another value from the same inputs.
FORMAT = 1
SUMMARY, LOG, OUTCOMES, CLIPS = "review.json", "log.jsonl", "outcomes.jsonl", "clips"
INTENSITIES = ("low", "medium", "high")
# Memory for a clip's dense frames; large pictures get fewer of them.
DENSE_BYTES = 2**29

PROMPTS = {
    "scene": (
        "These are pictures of one short video, one a second, in their order. Describe in three sentences at most what "
        "can be seen: the surroundings, the people, and what they do. Do not guess what they feel."
    ),
    "person": "Estimate the age and the gender of this person. Say how sure you are.",
    "movement": (
        "These are pictures of one face from a short video, in their order. Describe in three sentences at most how "
        "the face moves: brows, eyes, nose, cheeks, mouth, chin, gaze, head. Name the movements, not feelings."
    ),
    "speech": "Write down what is said in this recording, word for word, and nothing else.",
    "voice": (
        "Describe in two sentences at most how the voice in this recording sounds: pitch, loudness, speed, pauses, "
        "breath, sobs or laughter; and which emotion is heard in it, if one is."
    ),
    "consistency": (
        "Below are clues about the person in a video, each from another source that saw or heard only a part of it. "
        "Decide which clues agree with each other. Drop a clue that contradicts the others, and one that is uncertain "
        'of itself.\nAnswer with JSON alone: {{"kept": [names], "dropped": [{{"clue": name, "reason": why}}]}}, every '
        "clue in exactly one of the two.\nClues:\n{clues}"
    ),
    "synthesis": (
        "Below are clues about the person in a video. From them alone, explain what the person feels.\nAnswer with "
        'JSON alone: {{"visual": what is seen and what it tells, "audio": what is heard in the voice and what it '
        'tells, "text": what the words tell, "labels": [every emotion word that fits, one or more], "intensity": '
        '"low", "medium" or "high"}}; an empty text where there is no clue.\nClues:\n{clues}'
    ),
    "score": (
        "A person in a video was labelled as {label}. Somebody who did not know the label wrote the explanation below. "
        "How well does the explanation agree with the label, from 0 (it says the opposite) to 10 (it says the same)?\n"
        'Answer with JSON alone: {{"score": number}}.\nExplanation: {description}\nEmotions: {labels}'
    ),
}


class ReviewError(ValueError):
    """A review that cannot be done as asked."""


class ReplyError(ValueError):
    """A reply in another form than was asked for."""


# Models


@dataclass(frozen=True)
class Request:
    """What a stage asks a model.

    Args:
        stage: its name.
        prompt: the question in words.
        frames: (T, H, W, 3) uint8 RGB, for stages that look.
        sound: (S,) float32 mono, 16 kHz, for stages that listen.
        facts: the data behind the prompt, for `Offline`.
    """

    stage: str
    prompt: str
    frames: np.ndarray | None = None
    sound: np.ndarray | None = None
    facts: Mapping = field(default_factory=dict)


class Model(Protocol):
    """A function that answers; `name` identifies it, with revision and settings, and is part of each answer's key.

    `roles`: those of `ROLES` that it can take, for models that `reviewers.model_of` makes.
    """

    name: str
    roles: tuple[str, ...]

    def __call__(self, request: Request) -> str: ...


ROLES = ("describe", "person", "transcribe", "listen", "judge")


@dataclass(frozen=True)
class Settings:
    """How a review is done.

    Args:
        scene_fps: "low-density sampling at 1 FPS for each video".
        face_fps: rate of the dense sampling of faces, Hz. Paper silent.
        max_faces_frames: limit of dense frames per clip. Paper silent.
        pictures: limit of pictures shown to a model at once. Paper silent.
        threshold: "we filter out samples with a score below 5".
        exclude: sources that are skipped: "We further remove the RAVDESS dataset".
        tries: how often an unreadable reply is asked for. Paper silent.
        max_duration: limit of a clip's length, s.
    """

    scene_fps: float = 1.0
    face_fps: float = 10.0
    max_faces_frames: int = 128
    pictures: int = 16
    threshold: float = 5.0
    exclude: tuple[str, ...] = ("ravdess",)
    tries: int = 3
    max_duration: float = 600.0

    def __post_init__(self):
        for name in ("scene_fps", "face_fps", "max_faces_frames", "pictures", "tries", "max_duration"):
            if not getattr(self, name) > 0:
                raise ReviewError(f"{name} is {getattr(self, name)!r}; a number above 0 is accepted")
        if not 0 <= self.threshold <= 10:
            raise ReviewError(f"threshold is {self.threshold!r}; a number from 0 to 10 is accepted")


# Outputs of the stages


@dataclass(frozen=True)
class Frames:
    """The frames at `scene_fps`: `times` (s), `seconds` of the clip, measures of the `picture`, `notes`."""

    times: list[float]
    width: int
    height: int
    seconds: float
    picture: dict
    notes: list[str]


@dataclass(frozen=True)
class Tracklet:
    """One face through a clip: times when it is visible (s), and its boxes as fractions of the frame."""

    times: list[float]
    boxes: list[list[float]]


@dataclass(frozen=True)
class Faces:
    """`backend` of the detector, number of `frames`, tracklets (largest first), `movements` of the largest."""

    backend: str
    frames: int
    tracklets: list[Tracklet]
    movements: dict

    @property
    def share(self) -> float:
        """Share of the frames that show the largest tracklet's face."""
        return len(self.tracklets[0].times) / self.frames if self.tracklets else 0.0


@dataclass(frozen=True)
class Text:
    """A model's words."""

    text: str


@dataclass(frozen=True)
class Speech:
    """What is said: `[{start, end, text, speaker}]` (s), and whether it was "given", "recognised" or "unknown"."""

    utterances: list[dict]
    origin: str


@dataclass(frozen=True)
class Voice:
    """How the voice sounds, in words and as `measures.voice_measures`."""

    text: str
    measures: dict


@dataclass(frozen=True)
class Dropped:
    """A dropped clue and the reason."""

    clue: str
    reason: str


@dataclass(frozen=True)
class Consistency:
    """Names of the clues that agree, and the dropped ones."""

    kept: list[str]
    dropped: list[Dropped]


@dataclass(frozen=True)
class Synthesis:
    """The explanation "from visual, auditory, and textual perspectives", open-vocabulary labels, intensity."""

    visual: str
    audio: str
    text: str
    labels: list[str]
    intensity: str

    @property
    def description(self) -> str:
        return " ".join(part for part in (self.visual, self.audio, self.text) if part)


@dataclass(frozen=True)
class Score:
    """Agreement of the explanation with the clip's label, 0 to 10."""

    score: float


# Reading replies


def read_json(reply: str):
    """The JSON in a reply, without a code fence around it or a reasoning model's thoughts before it.

    Raises:
        ReplyError: anything else, or a repeated key.
    """
    text = re.sub(r"\A\s*<think>.*?</think>", "", reply, flags=re.DOTALL).strip()
    fenced = re.fullmatch(r"```(?:json)?\s*\n(.*?)\n?```", text, flags=re.DOTALL)

    def pairs(items):
        if len({key for key, _ in items}) != len(items):
            raise ReplyError("It repeats a key.")
        return dict(items)

    try:
        return json.loads(fenced[1] if fenced else text, object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        raise ReplyError(f"It is not just JSON ({error.msg}).") from None


def read_score(reply: str) -> Score:
    """The score of a reply: `{"score": 7}` or `7`, and nothing else.

    Raises:
        ReplyError: anything else, such as "7/10", "about 7", or a number outside 0 to 10.
    """
    value = read_json(reply)
    if isinstance(value, dict):
        value = value.get("score")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 10:
        raise ReplyError(f"It holds {value!r} as its score; a number from 0 to 10 is needed.")
    return Score(float(value))


def read_consistency(reply: str, names: Collection[str]) -> Consistency:
    """Which of the clues `names` a reply keeps and which it drops.

    Raises:
        ReplyError: not the JSON asked for, or not every clue exactly once.
    """
    value = read_json(reply)
    kept, dropped = (value.get(key) for key in ("kept", "dropped")) if isinstance(value, dict) else (None, None)
    if not _texts(kept) or not isinstance(dropped, list):
        raise ReplyError('It lacks "kept", a list of names, or "dropped", a list of clues with reasons.')
    out = []
    for item in dropped:
        if not isinstance(item, dict) or not _texts([item.get("clue"), item.get("reason")]):
            raise ReplyError(f'It drops {item!r}; {{"clue": name, "reason": why}} is needed.')
        out.append(Dropped(item["clue"], item["reason"]))
    if sorted([*kept, *(item.clue for item in out)]) != sorted(names):
        raise ReplyError(f"It does not hold each of the clues {', '.join(names)} exactly once.")
    return Consistency(kept, out)


def read_synthesis(reply: str) -> Synthesis:
    """The explanation, labels and intensity of a reply.

    Raises:
        ReplyError: not the JSON asked for, no explanation, no label, or another intensity.
    """
    value = read_json(reply)
    if not isinstance(value, dict) or not _texts([value.get(key) for key in ("visual", "audio", "text")]):
        raise ReplyError('It lacks one of the texts "visual", "audio" and "text".')
    labels = value.get("labels")
    if not _texts(labels) or not labels or not all(label.strip() for label in labels):
        raise ReplyError('It lacks "labels", a list of at least one emotion word.')
    if value.get("intensity") not in INTENSITIES:
        raise ReplyError(f"Its intensity is {value.get('intensity')!r}; one of {', '.join(INTENSITIES)} is needed.")
    synthesis = Synthesis(
        *(value[key].strip() for key in ("visual", "audio", "text")),
        labels=list(dict.fromkeys(label.strip() for label in labels)),
        intensity=value["intensity"],
    )
    if not synthesis.description:
        raise ReplyError("It has no explanation.")
    return synthesis


def _texts(value) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def read_speech(reply: str) -> Speech:
    """Utterances in a recogniser's reply: JSON rows with times, or only the words.

    Raises:
        ReplyError: rows that are not utterances.
    """
    try:
        rows = json.loads(reply)
    except json.JSONDecodeError:
        words = reply.strip()
        return Speech([{"start": None, "end": None, "text": words, "speaker": None}] if words else [], "recognised")
    try:
        return Speech([dict(row) for row in read(rows)], "recognised")
    except UtteranceError as error:
        raise ReplyError(str(error)) from None


def read_text(reply: str) -> Text:
    """A reply in words, possibly empty."""
    return Text(" ".join(reply.split()))


# The stages


class Media:
    """A clip, decoded when a stage first needs it."""

    def __init__(self, row: Mapping, settings: Settings):
        self.row, self.settings = row, settings
        self._held = {}

    def _load(self, **options):
        key = json.dumps(options, sort_keys=True)
        if key not in self._held:
            source = self.row["video"] or self.row["audio"]
            if options.get("sound", True) and self.row["audio"]:
                source = self.row["audio"]
            self._held[key] = load_clip(source, max_duration=self.settings.max_duration, **options)
        return self._held[key]

    def sparse(self):
        return self._load(sampling="fps", fps=self.settings.scene_fps, sound=False)

    def dense(self, frames: Frames):
        count = min(
            ceil(frames.seconds * self.settings.face_fps),
            self.settings.max_faces_frames,
            DENSE_BYTES // (3 * frames.width * frames.height),
        )
        return self._load(sampling="uniform", num_frames=max(count, 1), sound=False)

    def sound(self):
        return self._load(frames=False)


def sample_frames(ask, media: Media) -> Frames:
    """Stage `frames`; no times for a clip without a picture."""
    clip = media.sparse()
    if clip.frames is None:
        return Frames([], 0, 0, clip.duration / 1000, {}, clip.notes)
    height, width = clip.frames.shape[1:3]
    return Frames(
        times=(clip.frame_times / 1000).tolist(),
        width=width,
        height=height,
        seconds=clip.duration / 1000,
        picture=picture_measures(clip.frames),
        notes=clip.notes,
    )


def follow_faces(ask, media: Media, frames: Frames) -> Faces:
    """Stage `faces`: detection, tracking, dense sampling (the paper's RetinaFace and DeepSORT are MediaPipe's mesh)."""
    if not frames.times:
        return Faces("none", 0, [], {})
    clip = media.dense(frames)
    finder = FaceFinder(choose="track")
    tracks = finder.tracks(clip.frames)
    times = clip.frame_times / 1000
    return Faces(
        backend=tracks[0].backend if tracks else finder.backend,
        frames=len(times),
        tracklets=[
            Tracklet(times[track.found].tolist(), track.boxes[track.found].astype(float).round(4).tolist())
            for track in tracks
        ],
        movements=movements(face_measures(tracks[0], (frames.width, frames.height)), times) if tracks else {},
    )


def _spread(count: int, most: int) -> np.ndarray:
    """At most `most` of `count` indices, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def crops(media: Media, frames: Frames, faces: Faces, most: int, size: int = 224) -> np.ndarray | None:
    """(T, size, size, 3) pictures of the largest tracklet's face, at most `most`; None without a face."""
    if not faces.tracklets:
        return None
    from PIL import Image

    clip, main = media.dense(frames), faces.tracklets[0]
    at = {round(ms / 1000, 3): place for place, ms in enumerate(clip.frame_times.tolist())}
    pictures = []
    for i in _spread(len(main.times), most):
        x0, y0, x1, y1 = np.array(main.boxes[i]) * [frames.width, frames.height, frames.width, frames.height]
        # A margin of a quarter on each side, as FaceXFormer's crops have.
        side = 0.75 * max(x1 - x0, y1 - y0)
        middle = (x0 + x1) / 2, (y0 + y1) / 2
        box = (middle[0] - side, middle[1] - side, middle[0] + side, middle[1] + side)
        picture = Image.fromarray(clip.frames[at[round(main.times[i], 3)]]).crop(tuple(map(round, box)))
        pictures.append(np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC)))
    return np.stack(pictures)


def describe_scene(ask, media: Media, frames: Frames) -> Text:
    """Stage `scene`."""
    if not frames.times:
        return Text("")
    shown = media.sparse().frames[_spread(len(frames.times), media.settings.pictures)]
    return ask(PROMPTS["scene"], read_text, frames=shown, facts={"picture": frames.picture})


def describe_person(ask, media: Media, frames: Frames, faces: Faces) -> Text:
    """Stage `person`: one picture of the face."""
    shown = crops(media, frames, faces, 1)
    return Text("") if shown is None else ask(PROMPTS["person"], read_text, frames=shown)


def describe_movement(ask, media: Media, frames: Frames, faces: Faces) -> Text:
    """Stage `movement`; empty without a face."""
    shown = crops(media, frames, faces, media.settings.pictures)
    if shown is None:
        return Text("")
    facts = {"movements": faces.movements, "share": faces.share, "frames": faces.frames}
    return ask(PROMPTS["movement"], read_text, frames=shown, facts=facts)


def transcribe_speech(ask, media: Media) -> Speech:
    """Stage `speech`: the row's utterances or subtitle, else the recogniser's words, else unknown."""
    utterances = media.row["utterances"]
    if utterances is None and media.row["subtitle"]:
        utterances = [{"start": None, "end": None, "text": media.row["subtitle"], "speaker": None}]
    if utterances is not None:
        return Speech([dict(item) for item in utterances], "given")
    waveform = media.sound().waveform
    if ask is None or waveform is None:
        return Speech([], "unknown")
    return ask(PROMPTS["speech"], read_speech, sound=waveform)


def describe_voice(ask, media: Media) -> Voice:
    """Stage `voice`; empty for silence."""
    clip = media.sound()
    if clip.waveform is None:
        return Voice("", {})
    spans = voice_spans(clip.waveform, clip.sampling_rate)
    measures = voice_measures(clip.waveform, clip.sampling_rate, spans)
    if not spans:
        return Voice("", measures)
    reply = ask(PROMPTS["voice"], read_text, sound=clip.waveform, facts={"voice": measures})
    return Voice(reply.text, measures)


def clues_of(scene, person, movement, speech, voice) -> dict[str, str]:
    """Stage name -> its clue; stages that were skipped or have nothing to say give none."""
    words = " ".join(item["text"] for item in speech.utterances if item.get("text")) if speech else ""
    texts = {"scene": scene, "person": person, "movement": movement, "voice": voice}
    clues = {name: value.text for name, value in texts.items() if value is not None and value.text}
    return clues | ({"speech": f'The person says: "{words}"'} if words else {})


def check_consistency(ask, media: Media, faces, **said) -> Consistency:
    """Stage `consistency`; a clip without clues needs no judge."""
    clues = clues_of(**said)
    if not clues:
        return Consistency([], [])
    prompt = PROMPTS["consistency"].format(clues=json.dumps(clues, ensure_ascii=False, indent=1))
    facts = {"clues": clues, "share": faces.share}
    return ask(prompt, lambda reply: read_consistency(reply, clues), facts=facts)


def synthesise(ask, media: Media, consistency: Consistency, **said) -> Synthesis | None:
    """Stage `synthesis`, from the clues that agree; None if there are none."""
    clues = {name: text for name, text in clues_of(**said).items() if name in consistency.kept}
    if not clues:
        return None
    prompt = PROMPTS["synthesis"].format(clues=json.dumps(clues, ensure_ascii=False, indent=1))
    return ask(prompt, read_synthesis, facts={"clues": clues})


def score_explanation(ask, media: Media, synthesis: Synthesis) -> Score:
    """Stage `score`."""
    facts = {"label": media.row["label"], "description": synthesis.description, "labels": synthesis.labels}
    prompt = PROMPTS["score"].format(**facts | {"labels": ", ".join(synthesis.labels)})
    return ask(prompt, read_score, facts=facts)


@dataclass(frozen=True)
class Stage:
    """One step of the curation.

    Args:
        work: `(ask, media, **needs) -> output`; `ask` is None without a model.
        output: its type.
        needs: earlier stages whose outputs it takes, None for skipped ones.
        role: of the model that answers. Without such a model the stage is skipped, unless it is `optional`.
        fields, settings: fields of the row and of `Settings` that the output depends on.
    """

    name: str
    work: Callable
    output: type
    needs: tuple[str, ...] = ()
    role: str | None = None
    optional: bool = False
    fields: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()


_SAID = ("scene", "person", "movement", "speech", "voice")
STAGES = (
    Stage("frames", sample_frames, Frames, settings=("scene_fps",)),
    Stage("faces", follow_faces, Faces, ("frames",), settings=("face_fps", "max_faces_frames")),
    Stage("scene", describe_scene, Text, ("frames",), "describe", settings=("pictures",)),
    Stage("person", describe_person, Text, ("frames", "faces"), "person"),
    Stage("movement", describe_movement, Text, ("frames", "faces"), "describe", settings=("pictures",)),
    Stage("speech", transcribe_speech, Speech, (), "transcribe", True, ("utterances", "subtitle")),
    Stage("voice", describe_voice, Voice, (), "listen"),
    Stage("consistency", check_consistency, Consistency, ("faces", *_SAID), "judge", settings=("tries",)),
    Stage("synthesis", synthesise, Synthesis, ("consistency", *_SAID), "judge", settings=("tries",)),
    Stage("score", score_explanation, Score, ("synthesis",), "judge", fields=("label",), settings=("tries",)),
)


# One file per clip and stage


def digest(value) -> str:
    """SHA-256 of a JSON value, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode("utf-8")).hexdigest()


def file_hash(row: Mapping) -> str:
    """SHA-256 over the clip's files.

    Raises:
        MediaError: a file is missing or cannot be read.
    """
    digest_of_files = hashlib.sha256()
    paths = [row[kind] for kind in ("video", "audio") if row[kind]]
    if not paths:
        raise MediaError(f"clip {row['id']!r} has neither a video nor an audio file.")
    for path in paths:
        try:
            with open(path, "rb") as file:
                while block := file.read(2**20):
                    digest_of_files.update(block)
        except OSError as error:
            raise MediaError(f"{path} cannot be read: {error.strerror}.") from error
    return digest_of_files.hexdigest()


def clip_folder(output: str | Path, name: str) -> Path:
    """The folder of a clip's files; its name is valid on every file system, whatever the id."""
    safe = quote(name, safe=" ")
    if len(safe) > 120 or safe.strip(". ") != safe:
        safe = f"{safe.strip('. ')[:100]}~{hashlib.sha256(name.encode('utf-8')).hexdigest()[:16]}"
    return Path(output) / CLIPS / safe


def write(path: Path, content) -> None:
    """Write a JSON file."""
    write_whole(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def restore(kind, value):
    """A stage's output from its JSON."""
    if value is None:
        return None
    if get_origin(kind) is list:
        [inner] = get_args(kind)
        return [restore(inner, item) for item in value]
    if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__"):
        hints = get_type_hints(kind)
        return kind(**{item.name: restore(hints[item.name], value[item.name]) for item in fields(kind)})
    return value


def read_stage(output: str | Path, name: str, stage: Stage, key: str | None = None):
    """(whether a stage's file exists and has this `key`, its value)."""
    path = clip_folder(output, name) / f"{stage.name}.json"
    if not path.is_file():
        return False, None
    record = json.loads(path.read_text(encoding="utf-8"))
    if key is not None and record["key"] != key:
        return False, None
    return True, restore(stage.output, record["value"])


def asking(model: Model, stage: str, tries: int, asked: dict) -> Callable:
    """The `ask` of a stage: it repeats a question until the reply can be read; None if none could.

    Args:
        asked: receives the `prompt` and all `replies`.
    """

    def ask(prompt, parse, **media):
        asked["prompt"], text = prompt, prompt
        for _ in range(tries):
            reply = model(Request(stage, text, **media))
            asked["replies"].append(reply)
            try:
                return parse(reply)
            except ReplyError as error:
                text = f"{prompt}\n\nYour last reply could not be used. {error} Answer again, in the form asked for."
        return None

    return ask


# Running


@dataclass(frozen=True)
class Outcome:
    """The outcome for a clip: `status` is "kept", "dropped", "unscored", "excluded" or "failed"."""

    id: str
    source: str | None
    status: str
    reason: str
    score: float | None = None
    described: bool = False


class Runner:
    """Runs the stages, one clip at a time per thread."""

    def __init__(
        self,
        output: str | Path,
        models: Mapping[str, Model],
        settings: Settings,
        retry_unread: bool = False,
        log: str = LOG,
        allow_urls: bool = False,
    ):
        self.output, self.models, self.settings = Path(output), models, settings
        self.retry_unread, self.log_file, self.allow_urls = retry_unread, self.output / log, allow_urls
        self.lock = threading.Lock()
        self.before = self.now = 0

    def log(self, **entry) -> None:
        with self.lock, self.log_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def prepare(self, row: Mapping) -> None:
        """The stages of a clip that need no model; what is wrong with it is found again by `run`."""
        if row["source"] not in self.settings.exclude:
            with suppress(MediaError, FaceError):
                self.stages(row, with_models=False)

    def run(self, row: Mapping) -> Outcome:
        """All stages of one clip."""
        name, source = row["id"], row["source"]
        if source in self.settings.exclude:
            return Outcome(name, source, "excluded", f"its source is {source}")
        try:
            values = self.stages(row)
        except (MediaError, FaceError) as error:
            return Outcome(name, source, "failed", str(error))
        return outcome(row, values, self.settings)

    def stages(self, row: Mapping, with_models: bool = True) -> dict:
        """Stage -> output, computed or read; stages that were not reached are missing."""
        with local_media(row, self.allow_urls) as local:
            return self.stages_of(row, local, with_models)

    def stages_of(self, row: Mapping, local: Mapping, with_models: bool) -> dict:
        """`stages` of a row whose clips lie on this machine, as `local` says."""
        clip = file_hash(local)
        manifest = clip_folder(self.output, row["id"]) / "clip.json"
        content = {"stage": "clip", "sha256": clip, "row": row}
        if not manifest.is_file() or json.loads(manifest.read_text(encoding="utf-8")) != content:
            write(manifest, content)
        values, media = {}, Media(local, self.settings)
        for stage in STAGES if with_models else [stage for stage in STAGES if stage.role is None]:
            model = self.models.get(stage.role) if stage.role else None
            if stage.role and model is None and not stage.optional:
                values[stage.name] = None
                continue
            # Nothing follows an unreadable answer, and without a label there is nothing to score against.
            if (stage.name == "synthesis" and values["consistency"] is None) or (
                stage.name == "score" and (values["synthesis"] is None or row["label"] is None)
            ):
                break
            needed = {need: values[need] for need in stage.needs}
            key = digest(
                {
                    "format": FORMAT,
                    "stage": stage.name,
                    "clip": clip,
                    "model": None if model is None else model.name,
                    "prompt": PROMPTS.get(stage.name),
                    "settings": {item: getattr(self.settings, item) for item in stage.settings},
                    "row": {item: row[item] for item in stage.fields},
                    "needs": {need: None if value is None else asdict(value) for need, value in needed.items()},
                }
            )
            is_stored, value = read_stage(self.output, row["id"], stage, key)
            if is_stored and not (self.retry_unread and value is None):
                self.count(before=1)
            else:
                value = self.make(stage, row["id"], key, model, media, needed)
            values[stage.name] = value
        return values

    def make(self, stage: Stage, name: str, key: str, model, media: Media, needed: dict):
        started = time.perf_counter()
        asked = {"prompt": None, "replies": []}
        ask = None if model is None else asking(model, stage.name, self.settings.tries, asked)
        value = stage.work(ask, media, **needed)
        write(
            clip_folder(self.output, name) / f"{stage.name}.json",
            {
                "stage": stage.name,
                "clip": name,
                "key": key,
                "model": None if model is None else model.name,
                **asked,
                "value": None if value is None else asdict(value),
            },
        )
        seconds = round(time.perf_counter() - started, 3)
        self.log(time=round(time.time(), 3), process=os.getpid(), clip=name, stage=stage.name, seconds=seconds)
        self.count(now=1)
        return value

    def count(self, before: int = 0, now: int = 0) -> None:
        with self.lock:
            self.before += before
            self.now += now


def outcome(row: Mapping, values: Mapping, settings: Settings) -> Outcome:
    """The outcome for a clip, from the outputs of its stages."""

    def ended(status, reason, score=None):
        return Outcome(row["id"], row["source"], status, reason, score, values.get("synthesis") is not None)

    if values.get("consistency") is None:
        return ended("unscored", "no reply of the judge about its clues could be read")
    if values.get("synthesis") is None:
        none_left = not values["consistency"].kept
        return ended("unscored", "no clue is left" if none_left else "no explanation of the judge could be read")
    if row["label"] is None:
        return ended("unscored", "it has no label to compare with")
    if values.get("score") is None:
        return ended("unscored", "no score of the judge could be read")
    score = values["score"].score
    passes = score >= settings.threshold
    return ended(
        "kept" if passes else "dropped", f"its score {'reaches' if passes else 'is below'} the threshold", score
    )


@dataclass(frozen=True)
class Report:
    """A finished run: the clips' outcomes, and how many stages were done before and in this run."""

    outcomes: list[Outcome]
    stages_before: int
    stages_now: int
    seconds: float

    @property
    def counts(self) -> dict[str, int]:
        count = Counter(item.status for item in self.outcomes)
        return {status: count[status] for status in ("kept", "dropped", "unscored", "excluded", "failed")}


def check_rows(rows: Sequence[Mapping], held_out: Collection[str] = ()) -> list[dict]:
    """Check that data rows, one per clip, may become training data.

    Raises:
        ReviewError: no rows; a row of another split than "train", a held-out clip, a repeated id.
    """
    if not rows:
        raise ReviewError("there are no clips to review")
    checked, seen, held_out = [], set(), set(held_out)
    for row in rows:
        if row.get("split") not in (None, "train"):
            raise ReviewError(f"clip {row['id']!r} is in the split {row['split']!r}; only clips of train are accepted")
        try:
            checked.append(make_row(**{name: row.get(name) for name in FIELDS}))
        except RowError as error:
            raise ReviewError(str(error)) from error
        name = checked[-1]["id"]
        if name in held_out:
            raise ReviewError(f"clip {name!r} is held out for testing; leave it out of the data to review")
        if name in seen:
            raise ReviewError(f"clip {name!r} occurs more than once; one row per clip is accepted")
        seen.add(name)
    return checked


def review(
    rows: Sequence[Mapping],
    output: str | Path,
    models: Mapping[str, Model],
    settings: Settings | None = None,
    *,
    held_out: Collection[str] = (),
    workers: int = 1,
    retry_unread: bool = False,
    progress: bool = True,
    share: Processes | None = None,
    engine: Callable[[Runner, Sequence[Mapping]], Iterable[tuple[Outcome, int, int]]] | None = None,
    allow_urls: bool = False,
) -> Report:
    """Describe and score labelled clips, or continue an interrupted review.

    Under `torchrun`, `accelerate launch` or `srun` each process reviews its share, and the first one reports on all.

    Args:
        rows: data rows with `label`, of training clips (the paper: "the training set from DFEW, MAFW, ...").
        output: folder of the review.
        models: role (`ROLES`) -> model. "judge" is needed; the stages of other roles are skipped without a model.
        settings: see `Settings`.
        held_out: ids of test clips; one of them among the rows is an error.
        workers: clips at a time, for models that answer in parallel (a server).
        retry_unread: ask again for replies that could not be read before.
        share: this process among several; default those that a launcher started.
        allow_urls: fetch clips that are addresses (`s3://bucket/clip.mp4`).
        engine: what runs the rows (`hf_emotion.cluster`); default threads of this process.

    Returns:
        the report (of processes but the first, on their share); `review.json` in the folder holds its outcomes.

    Raises:
        ReviewError: unsuitable rows, models or folder. An exception of a model ends the run; finished stages stay.
    """
    settings = settings or Settings()
    unknown = sorted(set(models) - set(ROLES))
    if unknown or "judge" not in models:
        result = f"unknown role {unknown[0]!r}" if unknown else "no judge"
        raise ReviewError(f"{result}; the roles are {', '.join(ROLES)}, and judge is needed")
    if workers < 1:
        raise ReviewError(f"workers is {workers}; a whole number from 1 is accepted")
    rows, output = check_rows(rows, held_out), Path(output)
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not (output / CLIPS).is_dir())):
        raise ReviewError(f"{output} exists and holds something else; a new folder or that of a review is accepted")
    (output / CLIPS).mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    share = processes() if share is None else share
    log = LOG if share.count == 1 else f"{Path(LOG).stem}.{share.rank + 1}-of-{share.count}{Path(LOG).suffix}"
    runner = Runner(output, models, settings, retry_unread, log, allow_urls)
    # What a process did, for the first one, which reports; the files of the stages are the results that last.
    results = ResultFile(output / OUTCOMES, share)
    if share.is_first:
        results.clear()
    share.wait()
    mine = share.share(rows)
    with (
        tqdm(total=len(mine), desc="Reviewing", unit="clip", disable=not progress) as bar,
        results.writing(),
    ):
        for result, before, now in in_threads(runner, mine, workers) if engine is None else engine(runner, mine):
            stages = {"rank": share.rank, "before": before, "now": now}
            results.add({"id": result.id, "outcome": asdict(result), "stages": stages})
            bar.update()
            bar.set_postfix(done_before=before, done_now=now)
    share.wait()
    results.select(row["id"] for row in (rows if share.is_first else mine))
    outcomes, stages_of = [], {}
    for result in results:
        outcomes.append(Outcome(**result["outcome"]))
        rank, before, now = result["stages"].values()
        stages_of[rank] = max(stages_of.get(rank, (0, 0)), (before, now))
    before, now = (sum(counts) for counts in zip((0, 0), *stages_of.values(), strict=True))
    report = Report(outcomes, before, now, round(time.perf_counter() - started, 2))
    share.wait()
    if share.is_first:
        write(
            output / SUMMARY,
            {
                "settings": asdict(settings),
                "models": {role: models[role].name for role in ROLES if role in models},
                "counts": report.counts,
                "clips": [asdict(item) for item in report.outcomes],
            },
        )
        results.clear()
    share.wait()
    return report


def in_threads(runner: Runner, rows: Sequence[Mapping], workers: int) -> Iterator[tuple[Outcome, int, int]]:
    """Outcomes as they come, each with how many stages were done before this run and in it until then."""
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(runner.run, row) for row in rows]
        try:
            for future in as_completed(futures):
                yield future.result(), runner.before, runner.now
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def read_summary(folder: str | Path) -> dict:
    """`review.json` of a finished run.

    Raises:
        ReviewError: there is no such file.
    """
    path = Path(folder) / SUMMARY
    if not path.is_file():
        raise ReviewError(f"{folder} has no {SUMMARY}; the folder of a finished review is accepted")
    return json.loads(path.read_text(encoding="utf-8"))


def reviewed_row(folder: str | Path, clip: Mapping) -> dict:
    """The data row of a described clip, with `labels`, `description`, `score` and `intensity` from its review."""
    content = json.loads((clip_folder(folder, clip["id"]) / "clip.json").read_text(encoding="utf-8"))
    stages = {stage.name: stage for stage in STAGES}
    _, synthesis = read_stage(folder, clip["id"], stages["synthesis"])
    _, speech = read_stage(folder, clip["id"], stages["speech"])
    speech_fields = {}
    if speech is not None and speech.origin == "recognised":
        timed = all(item["start"] is not None for item in speech.utterances)
        speech_fields = {"utterances": speech.utterances} if timed else {"subtitle": speech.utterances[0]["text"]}
    return {
        **content["row"],
        **speech_fields,
        "labels": synthesis.labels,
        "description": synthesis.description,
        "score": clip["score"],
        "intensity": synthesis.intensity,
    }


def draw(folder: str | Path, per_source: int = 700, seed: int = 0, from_kept: bool = False) -> list[dict]:
    """Draw clips for human review at random, up to `per_source` of each source ("700 samples from each training set").

    The paper contradicts itself: "ensuring no overlap with the SRE dataset" (3.2), but "We select partial data from SRE
    dataset" (Figure 2). By default all described clips are drawn from, and drawn clips leave the self-reviewed data;
    `from_kept` draws from the kept clips, which stay in it.
    """
    if per_source < 1:
        raise ReviewError(f"per_source is {per_source}; a whole number from 1 is accepted")
    by_source = defaultdict(list)
    for clip in read_summary(folder)["clips"]:
        if clip["described"] and (clip["status"] == "kept" or not from_kept):
            by_source[clip["source"]].append(clip)
    chosen = []
    for source, clips in sorted(by_source.items(), key=str):
        # By id, so that the order of the rows does not matter.
        clips = sorted(clips, key=lambda clip: clip["id"])
        chosen += random.Random(f"{seed}/{source}").sample(clips, min(per_source, len(clips)))
    if not chosen:
        raise ReviewError(f"{folder} has no {'kept' if from_kept else 'described'} clip to review")
    return sorted(chosen, key=lambda clip: clip["id"])


__all__ = [
    "PROMPTS",
    "ROLES",
    "STAGES",
    "Model",
    "Outcome",
    "ReplyError",
    "Report",
    "Request",
    "ReviewError",
    "Settings",
    "draw",
    "read_summary",
    "review",
    "reviewed_row",
]
