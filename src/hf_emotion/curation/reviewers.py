"""Models that describe and judge in a review (`curation.stages`).

Each is a function from a `Request` to a reply: `Offline`, templates without a model; `Pipeline`, any transformers
pipeline; `Chat`, any chat model of transformers that sees or hears; `Server`, any server with the OpenAI chat protocol.
No server is contacted and nothing is downloaded unless
the caller names it.

    offline                          templates over measurements, and the lexicon
    hf:TASK:MODEL[@REVISION]         hf:image-text-to-text:Qwen/Qwen2-VL-7B-Instruct
    chat:MODEL[@REVISION]            chat:Qwen/Qwen2.5-Omni-7B
    server:MODEL@URL                 server:qwen2-vl@http://127.0.0.1:8000/v1
"""

import base64
import io
import json
import threading
import wave

import numpy as np
from PIL import Image

from ..answers.lexicon import shipped
from ..answers.words import emotion_words
from ..data.files import did_you_mean
from ..evaluation.classes import NEGATIVE_FAMILIES, POSITIVE_FAMILIES
from ..evaluation.judge import ServerChat
from ..processing.media import Clip
from ..processing.utterances import UtteranceError, transcribe
from .measures import MOVEMENTS
from .stages import ROLES, Model, Request, ReviewError

SAMPLING_RATE = 16000
DESCRIPTIONS = "offline, hf:TASK:MODEL[@REVISION], chat:MODEL[@REVISION] and server:MODEL@URL"
# The smallest movement worth a sentence, in distances between the outer eye corners. This and the bounds of
# `Offline.movement` were set on one seed of the demo corpus, whose movements reach 0.08, and checked on another.
NOTABLE = 0.04
# Which clue prevails where two contradict each other and the others do not decide.
FIRST = ("movement", "voice", "speech", "person", "scene")


class Offline:
    """Describes measurements by templates and judges by the lexicon. No model, no network.

    It follows the prototypes of EMFACS (Friesen & Ekman 1983) as far as `curation.measures` measures them: mouth
    corners up and apart = happiness; down = sadness; brows down = anger; brows up = surprise; otherwise neutral. It
    demonstrates and tests the procedure; it does not replace the models that the paper uses.
    """

    name = "offline 2"
    roles = ("describe", "listen", "judge")

    def __call__(self, request: Request) -> str:
        return getattr(self, request.stage)(request.facts)

    def scene(self, facts):
        picture = facts["picture"]
        light = "dark" if picture["brightness"] < 70 else "bright" if picture["brightness"] > 160 else "evenly lit"
        colour = "colourful" if picture["colour"] > 60 else "in muted colours"
        change = "hardly changes" if picture["change"] < 4 else "changes from second to second"
        return f"The picture is {light} and {colour}, and {change}."

    def movement(self, facts):
        moves = facts["movements"]
        moments = [
            (moves[name][f"{side}_at"], words)
            for name, both in MOVEMENTS.items()
            for side, words in zip(("low", "high"), both, strict=True)
            if moves[name][side] >= NOTABLE
        ]
        sentences = [f"At {at:.1f} s {words}." for at, words in sorted(moments)]
        corners = moves["mouth_corners"]
        if corners["rest"] >= NOTABLE:
            sentences.append("The corners of the mouth are up most of the time (AU12).")
        high, low = ({name: move[side] for name, move in moves.items()} for side in ("high", "low"))
        emotions = []
        # Speech also raises the corners, but does not draw them apart.
        lifted = corners["rest"] + corners["high"] >= 1.5 * NOTABLE and high["mouth_width"] >= NOTABLE
        if corners["rest"] >= NOTABLE or lifted:
            emotions.append("happiness")
        elif corners["low"] - corners["rest"] >= 0.015:
            emotions.append("sadness")
        if low["brow_height"] >= 0.03:
            emotions.append("anger")
        if high["brow_height"] >= NOTABLE:
            emotions.append("surprise")
        sentences.append(
            f"This is how {' and '.join(emotions)} look{'s' * (len(emotions) == 1)}."
            if emotions
            else "Nothing in the face stands out."
        )
        return " ".join(sentences)

    def voice(self, facts):
        voice = facts["voice"]
        phrases = [f"The voice sounds for {100 * voice['speaking']:.0f} % of {voice['seconds']:.1f} s"]
        if voice["pauses"]:
            plural = "s" if voice["pauses"] > 1 else ""
            phrases.append(f"with {voice['pauses']} pause{plural}, the longest of {voice['longest_pause']:.1f} s")
        if "pitch" in voice:
            phrases.append(f"at a pitch of about {voice['pitch']:.0f} Hz over {voice['pitch_range']:.0f} semitones")
            phrases.append(f"and a loudness over {voice['loudness_range']:.0f} dB")
        return f"{', '.join(phrases)}."

    def consistency(self, facts):
        signs = {name: sign_of(text) for name, text in facts["clues"].items()}
        dropped = {}
        if "movement" in signs and facts["share"] < 0.3:
            dropped["movement"] = f"uncertain: the face is in {100 * facts['share']:.0f} % of the frames"
        certain = {name: sign for name, sign in signs.items() if sign and name not in dropped}
        if len(set(certain.values())) > 1:
            side = sum(certain.values()) or certain[min(certain, key=FIRST.index)]
            for name, sign in certain.items():
                if sign * side < 0:
                    dropped[name] = "it contradicts the others in what is pleasant and what is not"
        consistent = [name for name in signs if name not in dropped]
        return json.dumps(
            {"kept": consistent, "dropped": [{"clue": name, "reason": why} for name, why in dropped.items()]}
        )

    def synthesis(self, facts):
        clues = facts["clues"]
        words = [word for name in FIRST if name in clues for word in emotion_words(clues[name])]
        if not words and "movement" not in clues:
            return "No clue names an emotion, and there is no clue about the face."
        groups = [shipped().group(word, 2) or word for word in words]
        visual = " ".join(clues[name] for name in ("scene", "person", "movement") if name in clues)
        intensity = "low" if not words else "high" if len(set(groups)) < len(groups) else "medium"
        return json.dumps(
            {
                "visual": visual,
                "audio": clues.get("voice", ""),
                "text": clues.get("speech", ""),
                "labels": list(dict.fromkeys(words)) or ["neutral"],
                "intensity": intensity,
            }
        )

    def score(self, facts):
        """10 for a label in the fine group of one of the explanation's, 5 for one in the same family, else 0."""
        lexicon, label = shipped(), facts["label"]
        if label.casefold() in (word.casefold() for word in facts["labels"]):
            return json.dumps({"score": 10})
        if lexicon.lemma(label) is None:
            return f"The lexicon does not know {label!r}."
        shared = [
            any(lexicon.group(word, level) == lexicon.group(label, level) for word in facts["labels"])
            for level in (1, 2)
        ]
        return json.dumps({"score": 5 * sum(shared)})


def sign_of(text: str) -> int:
    """1 for a text whose emotion words are mostly pleasant, -1 for mostly unpleasant, 0 otherwise."""
    families = [shipped().group(word) for word in emotion_words(text)]
    pleasant = sum((family in POSITIVE_FAMILIES) - (family in NEGATIVE_FAMILIES) for family in families)
    return (pleasant > 0) - (pleasant < 0)


def pictures_of(request: Request) -> list[Image.Image]:
    return [] if request.frames is None else [Image.fromarray(frame) for frame in request.frames]


class Pipeline:
    """A transformers pipeline as a model of a review.

    Args:
        pipeline: the pipeline. Tasks: "text-generation" (judges), "image-text-to-text", "any-to-any",
            "image-classification" (look), "automatic-speech-recognition", "audio-classification" (listen).
        name: identifies the model and its revision. By default the pipeline's model at its commit; a local folder is
            identified by its path alone, so a changed model in it needs another name or folder to be asked again.
        generate: arguments of `generate`, for tasks that generate text.
    """

    roles_of_task = {
        "text-generation": ("judge",),
        "image-text-to-text": ("describe", "person", "judge"),
        "any-to-any": ("describe", "person", "listen", "judge"),
        "image-classification": ("person",),
        "automatic-speech-recognition": ("transcribe",),
        "audio-classification": ("listen",),
    }

    def __init__(self, pipeline, name: str | None = None, **generate):
        if pipeline.task not in self.roles_of_task:
            raise ReviewError(f"the pipeline's task is {pipeline.task!r}; accepted are {', '.join(self.roles_of_task)}")
        self.pipeline, self.roles = pipeline, self.roles_of_task[pipeline.task]
        config = pipeline.model.config
        self.generate = {"do_sample": False, "max_new_tokens": 512, **generate}
        revision = getattr(config, "_commit_hash", None)
        settings = json.dumps(self.generate, sort_keys=True)
        self.name = name or f"{pipeline.task}:{config.name_or_path}@{revision or 'local'} {settings}"
        # Pipelines keep state between their steps, and a device may not have room for two batches.
        self.lock = threading.Lock()

    @classmethod
    def load(cls, task: str, model: str, revision: str | None = None, **options) -> "Pipeline":
        """A pipeline from a Hub id or folder, on a GPU if there is one; remote code is not run."""
        import torch
        from transformers import pipeline

        if task not in cls.roles_of_task:
            hint = did_you_mean(task, cls.roles_of_task)
            raise ReviewError(f"unknown task {task!r}{hint}; accepted are {', '.join(cls.roles_of_task)}")
        try:
            loaded = pipeline(
                task,
                model=model,
                revision=revision,
                device=0 if torch.cuda.is_available() else -1,
                dtype="auto",
                trust_remote_code=False,
            )
        except (OSError, ValueError, KeyError) as error:
            raise ReviewError(f"{model} cannot be loaded for {task}: {' '.join(str(error).split())[:300]}") from error
        return cls(loaded, **options)

    def __call__(self, request: Request) -> str:
        with self.lock:
            return getattr(self, "_" + self.pipeline.task.replace("-", "_"))(request)

    def _text_generation(self, request):
        prompt = request.prompt
        if self.pipeline.tokenizer.chat_template:
            prompt = [{"role": "user", "content": prompt}]
        [reply] = self.pipeline(prompt, return_full_text=False, **self.generate)
        return reply["generated_text"]

    def _image_text_to_text(self, request):
        content = [{"type": "image", "image": picture} for picture in pictures_of(request)]
        if request.sound is not None:
            content.append({"type": "audio", "audio": request.sound})
        turn = {"role": "user", "content": [*content, {"type": "text", "text": request.prompt}]}
        [reply] = self.pipeline(text=[turn], return_full_text=False, generate_kwargs=self.generate)
        return reply["generated_text"]

    _any_to_any = _image_text_to_text

    def _image_classification(self, request):
        return class_names(self.pipeline(pictures_of(request)[0]))

    def _audio_classification(self, request):
        # The pipeline consumes the dict.
        return class_names(self.pipeline({"raw": request.sound, "sampling_rate": SAMPLING_RATE}))

    def _automatic_speech_recognition(self, request):
        try:
            return json.dumps(transcribe(request.sound, SAMPLING_RATE, self.pipeline), ensure_ascii=False)
        except UtteranceError:
            # A recogniser without times still gives the words.
            return self.pipeline({"raw": request.sound, "sampling_rate": SAMPLING_RATE})["text"]


def class_names(classes: list[dict]) -> str:
    """A classifier's answer in words, most likely first."""
    return ", ".join(f"{item['label']} ({100 * item['score']:.0f} %)" for item in classes)


class Chat:
    """A chat model of transformers behind its own processor and chat template, as `predict` and `evaluate` use it.

    Args:
        model, processor: from `inference.load`; the processor is a `ChatProcessor`.
        name: identifies the model and its revision, as for `Pipeline`.
        generate: arguments of `generate`.

    Raises:
        ReviewError: its sound is not at the review's rate.
    """

    def __init__(self, model, processor, name: str, **generate):
        seeing, hearing = "video" in processor.modalities, "audio" in processor.modalities
        if hearing and processor.sampling_rate != SAMPLING_RATE:
            raise ReviewError(f"{name} takes sound at {processor.sampling_rate} Hz; {SAMPLING_RATE} Hz is accepted")
        self.roles = (*("describe", "person") * seeing, *("listen",) * hearing, "judge")
        self.model, self.processor = model, processor
        self.generate = {"do_sample": False, "max_new_tokens": 512, **generate}
        self.name = f"chat {name} {json.dumps(self.generate, sort_keys=True)}"
        self.lock = threading.Lock()

    @classmethod
    def load(cls, model: str, revision: str | None = None, **options) -> "Chat":
        """A chat model from a Hub id or folder, on a GPU if there is one; remote code is not run."""
        from ..chat_models import ChatProcessor
        from ..inference import ModelFolderError, load

        try:
            loaded, processor = load(model, revision=revision)
        except ModelFolderError as error:
            raise ReviewError(str(error)) from error
        if not isinstance(processor, ChatProcessor):
            raise ReviewError(f"{model} is a model of this package, which describes whole clips; name a chat model")
        commit = getattr(loaded.config, "_commit_hash", None) or revision or "local"
        return cls(loaded, processor, f"{model}@{commit}", **options)

    def __call__(self, request: Request) -> str:
        count = 0 if request.frames is None else len(request.frames)
        sound_length = 0 if request.sound is None else 1000 * len(request.sound) // SAMPLING_RATE
        # A review's frames are about a second apart.
        times = None if request.frames is None else np.arange(count, dtype=np.int64) * 1000
        duration = max(1000 * count, sound_length)
        clip = Clip(request.stage, request.frames, times, request.sound, SAMPLING_RATE, duration)
        with self.lock:
            row = {name: tensor.to(self.model.device) for name, tensor in self.processor(clip, request.prompt).items()}
            ids = self.model.generate(**row, **self.generate)[0, row["input_ids"].shape[1] :]
        return self.processor.decode(ids, skip_special_tokens=True)


class Server:
    """A model behind a server with the OpenAI chat protocol; pictures go as JPEG, sound as WAV, in the request.

    Args:
        chat: the server.
    """

    roles = ROLES

    def __init__(self, chat: ServerChat):
        self.chat = chat
        self.name = f"server {chat.url} {chat.name}"

    def __call__(self, request: Request) -> str:
        parts = [
            {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{encoded(jpeg(picture))}"}}
            for picture in pictures_of(request)
        ]
        if request.sound is not None:
            sound = {"data": encoded(wav(request.sound)), "format": "wav"}
            parts.append({"type": "input_audio", "input_audio": sound})
        if not parts:
            return self.chat(request.prompt)
        return self.chat([*parts, {"type": "text", "text": request.prompt}])


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()


def wav(waveform: np.ndarray) -> bytes:
    """(S,) float32 at 16 kHz as a 16-bit WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SAMPLING_RATE)
        out.writeframes((np.clip(waveform, -1, 1) * 32767).astype("<i2").tobytes())
    return file.getvalue()


def model_of(text: str, api_key: str | None = None) -> Model:
    """A model from its description on the command line (see the head of this file).

    Raises:
        ReviewError: a malformed description; a model that cannot be loaded.
    """
    if text == "offline":
        return Offline()
    kind, _, rest = text.partition(":")
    if kind == "hf" and ":" in rest:
        task, _, model = rest.partition(":")
        model, _, revision = model.partition("@")
        return Pipeline.load(task, model, revision or None)
    if kind == "chat" and rest:
        model, _, revision = rest.partition("@")
        return Chat.load(model, revision or None)
    if kind == "server" and "@" in rest:
        model, _, url = rest.partition("@")
        return Server(ServerChat(url, model, api_key=api_key))
    raise ReviewError(f"the model is {text!r}; {DESCRIPTIONS} are accepted")


def runs_here(text: str) -> bool:
    """Whether the model of a description has its weights in this process, so that it can use a GPU."""
    return text.partition(":")[0] in ("hf", "chat")


__all__ = ["Offline", "Pipeline", "Server", "model_of", "runs_here"]
