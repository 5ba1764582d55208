"""From a clip, its utterances and a question to the tensors of a model, in three steps that all papers share.

    clip = processor.load("clip.mp4", "clip.srt")                           # files are opened here, and only here
    inputs = processor.measure(clip)                                        # tensors, placeholders, a report
    ids = processor.write("How does she feel?", inputs.utterances, inputs.placeholders)

`__call__`, `apply_chat_template`, the collator and the feature cache are compositions of these. A clip is decoded once,
by PyAV, for picture and sound together; its frames keep their true times; the prompt has exactly the parts that the
clip has. Texts that people or files supply (subtitles, questions, answers) are data: they never become structure.

Letters used for shapes: B batch, T frames, P patches, R regions, N utterances, C chunks of sound, W tokens of a
timestamp, S text tokens.
"""

import copy
import inspect
import os
import re
import shutil
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, get_args

import numpy as np
import torch
from transformers.processing_utils import MultiModalData, ProcessingKwargs, ProcessorMixin, VideosKwargs
from transformers.utils import cached_file

from .chat_formats import marks_in
from .faces import MODELS_FILE, TASK_VARIABLE, FaceFinder, FaceTrack, check_models_file, models_file
from .image_processing_emotion import EmotionImageProcessor
from .media import Clip, load_clip
from .sound_chunks import check_length, sound_input_names, whole_sound_extractor, whole_sound_features
from .utterances import read, to_spans

Medium = Literal["video", "audio"]
Arrays = Mapping[str, np.ndarray | torch.Tensor]

# The medium that each type of message part brings; a picture is a clip of one frame.
MEDIUM_OF_PART: dict[str, Medium] = {"video": "video", "image": "video", "image_url": "video", "audio": "audio"}
# Where a message part holds its source, in the order in which the keys are looked for.
SOURCE_KEYS = ("video", "audio", "image", "image_url", "path", "url")
ROLES = ("system", "user", "assistant")
# What a text file cannot hold.
NO_TEXT = re.compile("[\x00\ud800-\udfff]")
# What fills a batch where one sample is shorter than another; 0 (False) for every other tensor.
PADDING = {
    "labels": -100,
    **dict.fromkeys(
        (
            "emotion_ids",
            "clip_ids",
            "video_times",
            "face_times",
            "frame_times",
            "audio_times",
            "audio_ends",
            "utterance_spans",
        ),
        -1,
    ),
}
# Options of `from_pretrained` that decide where a file is taken from.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
# Padded on the left, for generation; everything else is padded on the right.
TEXT_NAMES = frozenset({"input_ids", "attention_mask", "labels"})


class LoadOptions(TypedDict, total=False):
    """Options of `EmotionProcessor.load`, where they differ from the processor's own settings.

    num_frames, sampling, fps, max_duration, max_pixels, max_decoded_pixels: see `media.load_clip`.
    modalities: the media to take, of those that the model has; `["video"]` leaves the sound out.
    sampling_rate: Hz of sound given as an array.
    """

    num_frames: int | None
    sampling: str | None
    fps: float | None
    max_duration: float | None
    max_pixels: int | None
    max_decoded_pixels: int | None
    modalities: Sequence[Medium] | None
    sampling_rate: int | None


class EmotionVideosKwargs(VideosKwargs, total=False):  # type: ignore[call-arg]
    """Options of one call that concern the picture.

    sampling, max_duration, max_pixels, max_decoded_pixels: see `LoadOptions`.
    faces, landmarks: see `EmotionProcessor.find_face`; for a list of clips, `landmarks` is a list.
    """

    sampling: str | None
    max_duration: float | int | None
    max_pixels: int | None
    max_decoded_pixels: int | None
    faces: bool | None
    landmarks: Any


class EmotionProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    """Options of one call.

    utterances: for one clip a source of `utterances.read` (path, rows), for a list of clips a list of those.
    modalities: see `LoadOptions`.
    is_prompt: the texts are finished prompts with placeholders and special tokens, used as they are. Otherwise they
        are questions: data, in which nothing has a special meaning.
    """

    videos_kwargs: EmotionVideosKwargs
    utterances: Any
    modalities: list[str] | None
    is_prompt: bool


@dataclass
class ClipInputs:
    """What `EmotionProcessor.measure` makes of a clip. It is accepted wherever a clip is, and is not measured again.

    Args:
        source: name of the clip, for messages.
        utterances: rows as in `Clip.utterances`, as the prompt lists them.
        placeholders: for `"video"` and `"audio"`, the placeholder tokens that replace each mark in the prompt, in
            order. A medium that has no place in the prompt is left out.
        tensors: the clip's inputs of the model, by name, without a batch dimension.
        report: see `EmotionProcessor.report`.
        track: the face in each frame, if the model looks at faces.
    """

    source: str
    utterances: list[dict] = field(default_factory=list)
    placeholders: dict[Medium, list[str]] = field(default_factory=dict)
    tensors: dict[str, np.ndarray | torch.Tensor] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    track: FaceTrack | None = None


class EmotionProcessor(ProcessorMixin):
    """Base of the papers' processors; makes `input_ids`, `attention_mask`, frames, sound and utterances.

    Three ways to call it, with the same batch as result:

    - `processor(videos=clips, text=questions, utterances=...)`. A question is put into the model's chat template;
      without one the default question is asked. One question may serve many clips. With `is_prompt=True` the texts are
      finished prompts.
    - `processor.apply_chat_template(messages, tokenize=True, return_dict=True, ...)`, with a part
      `{"type": "video", "path": ..., "utterances": ...}` in a message; `{"type": "audio", "path": ...}` beside it
      replaces the clip's sound, and alone it is a clip without picture; a part of type `"image"` is a clip of one
      frame.
    - the steps `load`, `measure` and `write` one by one. A `Clip` or `ClipInputs` may be passed wherever a path may.

    A clip's sound comes with its picture. A modality that a clip lacks has no placeholder in its prompt and an
    all-padded row in the tensors; tensors of a modality that no clip of the batch has are left out.

    Args:
        image_processor: an `EmotionImageProcessor`; `video_processor` is another name for it.
        feature_extractor: makes the audio tower's inputs; waveforms are read at its `sampling_rate`.
        tokenizer: the language model's. `<video>` and `<audio>` are added to it where it lacks them, as ids beyond the
            model's vocabulary if need be (the model never embeds a placeholder); so is a padding token. Texts are
            padded on the left, for generation.
        chat_template: Jinja; by default the paper's.
        modalities: the media that the model has towers for.
        num_frames, sampling, fps, max_duration: see `media.load_clip`; each call may choose otherwise.
        max_lines: shorter side of the frames that are taken from a video, or the tower's side where that is longer;
            faces that are small at this size are looked at in the decoded frame. `None` takes frames at full size.
        max_waveform_seconds: longest sound for an audio tower that attends to a whole waveform.
        default_question: asked where no text is given.
        face_config: settings of the `FaceFinder`, which is available as `face_finder`.
        components: further tokenizers and the like that a paper's processor has.
    """

    valid_processor_kwargs = EmotionProcessorKwargs
    # The chat template writes `<s>` itself, and a finished prompt is used as it is.
    text_kwargs = {
        "padding": True,
        "padding_side": "left",
        "add_special_tokens": False,
        "return_token_type_ids": False,
    }
    is_prompt = False

    video_token = "<video>"
    audio_token = "<audio>"
    # Jinja of a user's message (`chat_formats.write_template`), and the whole template in the paper's own turns.
    content: str | None = None
    default_chat_template: str | None = None
    # Inputs of the model that follow from the question, beside `input_ids`; `measure` does not make them.
    question_input_names: tuple[str, ...] = ()
    # Whether faces are searched in the frames.
    looks_at_faces = False
    # The file of face models in the folder that this was loaded from, where there is no other.
    face_models: str | None = None

    def __init__(
        self,
        image_processor=None,
        feature_extractor=None,
        tokenizer=None,
        chat_template=None,
        modalities=("video", "audio"),
        num_frames=8,
        sampling="uniform",
        fps=None,
        max_duration=1800.0,
        max_lines=540,
        max_waveform_seconds=120.0,
        default_question="Which emotions does the person show, and which cues indicate them?",
        face_config=None,
        **components,
    ):
        super().__init__(
            image_processor,
            feature_extractor,
            tokenizer,
            chat_template=chat_template or self.default_chat_template,
            **components,
        )
        self._check_modalities(modalities, ("video", "audio"))
        self.modalities = list(modalities)
        self.num_frames = num_frames
        self.sampling = sampling
        self.fps = fps
        self.max_duration = max_duration
        self.max_lines = max_lines
        self.max_waveform_seconds = max_waveform_seconds
        self.default_question = default_question
        face_config = dict(face_config or {})
        if face_config.get("regions") is not None:
            face_config["regions"] = dict(face_config["regions"])
        self.face_finder = FaceFinder(**face_config)
        missing = [token for token in self.placeholder_tokens if token not in tokenizer.get_vocab()]
        tokenizer.add_tokens(missing, special_tokens=True)
        if tokenizer.pad_token is None:
            # LLaMA has none. Padding is masked and no label, so any token serves.
            tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
        # A published tokenizer's own "right" would win over this class's default.
        tokenizer.padding_side = "left"
        for name, token_id in self.token_ids.items():
            setattr(self, name, token_id)

    def __init_subclass__(cls, **kwargs):
        """Give `__init__` a signature with the base class's settings in it: transformers saves what it names."""
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            parameters = inspect.signature(cls.__init__).parameters
            inherited = inspect.signature(super(cls, cls).__init__).parameters
            merged = {name: p.replace(kind=p.KEYWORD_ONLY) for name, p in inherited.items() if p.kind != p.VAR_KEYWORD}
            merged = {name: p for name, p in {**merged, **parameters}.items() if p.kind != p.VAR_KEYWORD}
            ordered = sorted(merged.values(), key=lambda parameter: parameter.kind)
            cls.__init__.__signature__ = inspect.Signature(ordered)

    @classmethod
    def validate_init_kwargs(cls, processor_config, valid_kwargs):
        """As transformers', which knows the settings that stand in the code of `__init__`, but not inherited ones."""
        return super().validate_init_kwargs(processor_config, inspect.signature(cls.__init__).parameters)

    @classmethod
    def from_config(cls, config, tokenizer=None, **settings) -> "EmotionProcessor":
        """The processor of a model: image size, audio tower, token counts and switches as its configuration has them.

        Args:
            config: the model's; its placeholder ids are set to the tokenizer's.
            tokenizer: the language model's.
            settings: further settings of the processor, and components (`feature_extractor=`, `image_processor=`,
                `chat_template=`) instead of those that would be made.

        Raises:
            ValueError: there is no tokenizer.
        """
        if tokenizer is None:
            raise ValueError(
                f"{cls.__name__} needs the tokenizer of its language model, which has {config.text_config.vocab_size} "
                f"tokens; pass tokenizer="
            )
        processor = cls(tokenizer=tokenizer, **{**cls.settings_of(config), **settings})
        for name, token_id in processor.token_ids.items():
            setattr(config, name, token_id)
        return processor

    @classmethod
    def settings_of(cls, config) -> dict[str, Any]:
        """The settings of a processor that follow from its model's configuration."""
        vision, audio = config.vision_config, config.audio_config
        side = getattr(vision, "image_size", 224)
        return {
            "image_processor": EmotionImageProcessor(size={"height": side, "width": side}),
            "feature_extractor": whole_sound_extractor(audio),
            "modalities": ["video"] * (vision is not None) + ["audio"] * (audio is not None),
        }

    @property
    def placeholder_tokens(self) -> tuple[str, ...]:
        return self.video_token, self.audio_token

    @property
    def token_ids(self) -> dict[str, int]:
        """Ids of the placeholders, by the name of their field in a model's configuration."""
        ids = self.tokenizer.convert_tokens_to_ids([self.video_token, self.audio_token])
        return dict(zip(("video_token_id", "audio_token_id"), ids, strict=True))

    @property
    def video_processor(self):
        """The image processor: transformers cannot build a video processor without torchvision."""
        return self.image_processor

    @property
    def sampling_rate(self) -> int:
        """Hz at which sound is read."""
        return self.feature_extractor.sampling_rate

    @property
    def frame_lines(self) -> int | None:
        """`max_lines` of `media.load_clip`: no tower gets a picture that was made smaller than its input."""
        size = getattr(self.image_processor, "size", None)
        sides = [getattr(size, name, None) or 0 for name in ("height", "width", "shortest_edge", "longest_edge")]
        return None if self.max_lines is None else max(self.max_lines, *sides)

    @property
    def model_input_names(self) -> list[str]:
        picture = ["pixel_values_videos", "video_times", "utterance_spans"]
        return ["input_ids", "attention_mask", *picture, *sound_input_names(self.feature_extractor)]

    @property
    def padding(self) -> dict[str, int]:
        """What fills each tensor of a batch where a sample is shorter than another; 0 for those not named."""
        return {**PADDING, "input_ids": self.tokenizer.pad_token_id}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs) -> "EmotionProcessor":
        """As transformers'; where hf_emotion is not installed, the face models are those in the folder.

        Raises:
            FaceError: the folder's face models are not hf_emotion's.
        """
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        finder = processor.face_finder
        if processor.looks_at_faces and not finder.task_path and TASK_VARIABLE not in os.environ and not models_file():
            options = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
            options["_raise_exceptions_for_missing_entries"] = False
            file = cached_file(pretrained_model_name_or_path, MODELS_FILE, **options)
            if file is not None:
                finder.task_path = processor.face_models = check_models_file(file)
        return processor

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        """As transformers', with the face models, which releases of MediaPipe after 0.10.21 lack."""
        written = super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
        models = models_file() or self.face_models
        if self.looks_at_faces and models is not None:
            shutil.copyfile(models, Path(save_directory) / MODELS_FILE)
        return written

    def to_dict(self) -> dict[str, Any]:
        face_config = self.face_finder.to_dict()
        # The file is written with sorted keys, and the order of the regions is that of the masks' R axis.
        face_config["regions"] = [list(pair) for pair in face_config["regions"].items()]
        return {**super().to_dict(), "face_config": face_config}

    # Step 1: load

    def load(
        self, source: Any = None, utterances: Any = None, *, audio: Any = None, **options: Unpack[LoadOptions]
    ) -> Clip:
        """Decode one clip, with the settings of this processor.

        Args:
            source: see `media.load_clip`; `None` for sound alone.
            utterances: see `utterances.read`.
            audio: sound that replaces the clip's own, or is all there is of it; a source, or an array (samples,).
            options: see `LoadOptions`.

        Raises:
            MediaError, UtteranceError: a file cannot be read.
            ValueError: there is no source, or nothing in it that the model takes.
            TypeError: an unknown option.
        """
        unknown = options.keys() - LoadOptions.__annotations__
        if unknown:
            raise TypeError(
                f"load has no option {', '.join(sorted(unknown))}; accepted are "
                f"{', '.join(LoadOptions.__annotations__)}."
            )
        if source is None and audio is None:
            raise ValueError("there is no clip; a source of picture, sound or both is needed.")
        return self._load(source, audio, utterances, self._load_settings(options))

    def load_clips(self, videos=None, audio=None, utterances=None, **options: Unpack[LoadOptions]) -> list[Clip | None]:
        """`load` for several clips.

        Args:
            videos: one source of `media.load_clip`, or a list of them; `None` in a list is a sample without picture.
            audio: the same for sound that replaces a clip's own, or is all there is of it.
            utterances: for one clip a source of `utterances.read`, for a list of clips a list of those or `None`s.

        Returns:
            a list of B `Clip`s; `None` for a sample without any source.

        Raises:
            as `load`; ValueError: lists of unlike lengths; several clips for one sample.
        """
        batched = isinstance(videos if videos is not None else audio, (list, tuple))
        if batched and not (videos or audio):
            raise ValueError("the list of clips is empty; at least one clip is needed.")
        columns = {"videos": videos, "audio": audio, "utterances": utterances}
        if batched:
            sizes = {name: len(column) for name, column in columns.items() if isinstance(column, (list, tuple))}
            single = [name for name, column in columns.items() if column is not None and name not in sizes]
            if single or len(set(sizes.values())) > 1:
                lengths = [f"{size} {name}" for name, size in sizes.items()]
                lengths += [f"{name} outside a list" for name in single]
                raise ValueError(f"{' and '.join(lengths)} came together; one entry for each clip is accepted.")
            size = next(iter(sizes.values()))
            rows = list(zip(*([None] * size if column is None else column for column in columns.values()), strict=True))
        else:
            rows = [tuple(columns.values())]
        settings = self._load_settings(options)
        clips: list[Clip | None] = []
        for video, sound, spoken in ((only(video), only(sound), spoken) for video, sound, spoken in rows):
            if video is not None or sound is not None:
                clips.append(self._load(video, sound, spoken, settings))
            elif spoken is not None:
                raise ValueError("utterances came without their clip; pass the clip in videos= or audio=.")
            else:
                clips.append(None)
        return clips

    def _load(self, video, sound, utterances, settings) -> Clip:
        # By its parts: a processor loaded from a folder has a class of its own of that name.
        if hasattr(video, "placeholders"):
            if sound is not None or utterances is not None:
                raise ValueError(f"{video.source} is already measured; its sound and utterances cannot be replaced.")
            return video
        modalities = settings["modalities"]
        if hasattr(sound, "__array__"):
            sound = {"waveform": sound, "sampling_rate": settings["sampling_rate"]}
        clip = load_clip(
            video if sound is None else {"video": video, "audio": sound},
            motion=self.face_finder.motion if settings["sampling"] == "peak" else None,
            **self._clip_arguments(settings),
        )
        changes = {}
        # A decoded clip is returned whole, whatever was asked for.
        if "video" not in modalities and clip.frames is not None:
            changes.update(frames=None, frame_times=None)
        if "audio" not in modalities and clip.waveform is not None:
            changes.update(waveform=None)
        if utterances is not None:
            notes = list(clip.notes)
            changes.update(utterances=read(utterances, duration=clip.duration / 1000, notes=notes), notes=notes)
        clip = replace(clip, **changes) if changes else clip
        if clip.frames is None and clip.waveform is None:
            raise ValueError(f"{clip.source} has nothing to use: this call takes {' and '.join(modalities)} only.")
        if clip.waveform is not None:
            if clip.sampling_rate != self.sampling_rate:
                raise ValueError(
                    f"{clip.source} was decoded at {clip.sampling_rate} Hz; this processor takes "
                    f"{self.sampling_rate} Hz."
                )
            # Here and not with the batch, so that one long clip does not stop those beside it.
            check_length(self.feature_extractor, clip.waveform, self.max_waveform_seconds, clip.source)
        return self.prepare(clip, modalities)

    def prepare(self, clip: Clip, modalities: Sequence[Medium]) -> Clip:
        """A clip as the paper takes it, given the modalities that were asked for; the end of `load`."""
        return clip

    def reading_arguments(self, **options: Unpack[LoadOptions]) -> dict[str, Any]:
        """The arguments of `media.load_clip` with which `load` reads a clip, but for `motion`."""
        return self._clip_arguments(self._load_settings(options))

    def _clip_arguments(self, settings) -> dict:
        modalities = settings["modalities"]
        return {
            **{name: value for name, value in settings.items() if name not in ("modalities", "sampling_rate")},
            "frames": "video" in modalities,
            "sound": "audio" in modalities,
            "sampling_rate": self.sampling_rate,
            "max_lines": self.frame_lines,
            "keep_full": self.looks_at_faces,
        }

    def _load_settings(self, options) -> dict:
        """The call's options, else the processor's."""
        options = {**(options.get("audio_kwargs") or {}), **(options.get("videos_kwargs") or {}), **options}
        modalities = options.get("modalities")
        modalities = self.modalities if modalities is None else list(modalities)
        self._check_modalities(modalities, self.modalities)
        names = ("num_frames", "sampling", "fps", "max_duration", "sampling_rate")
        settings = {name: getattr(self, name) if options.get(name) is None else options[name] for name in names}
        if options.get("fps") is not None and options.get("sampling") is None:
            settings["sampling"] = "fps"
        if settings["sampling"] != "fps" and options.get("fps") is None:
            settings["fps"] = None
        limits = ("max_pixels", "max_decoded_pixels")
        settings |= {name: options[name] for name in limits if options.get(name) is not None}
        return {**settings, "modalities": modalities}

    def _check_modalities(self, modalities, accepted):
        if not modalities or set(modalities) - set(accepted):
            raise ValueError(f"modalities are {list(modalities)}; accepted are one or more of {list(accepted)}.")

    # Step 2: measure

    def measure(self, clip: Clip, *, faces: bool | None = None, landmarks: Any = None) -> ClipInputs:
        """Everything that a model and its prompt need of a clip.

        Args:
            clip: from `load`.
            faces, landmarks: see `find_face`.

        Returns:
            tensors without a batch dimension, placeholders of the prompt, and the report.

        Raises:
            FaceError: see `find_face`.
        """
        track = self.find_face(clip, faces=faces, landmarks=landmarks) if self.looks_at_faces else None
        tensors = {
            **self.picture(clip, track),
            **self.sound(clip),
            "utterance_spans": to_spans([self.windows(clip)])[0],
        }
        names = self.model_input_names
        return replace(
            self.outline(clip),
            tensors={name: values for name, values in tensors.items() if name in names},
            report=self.report(clip, track),
            track=track,
        )

    def outline(self, clip: Clip) -> ClipInputs:
        """What a prompt says of a clip; nothing is computed of its frames and its sound."""
        placeholders = {kind: [text for text in texts if text] for kind, texts in self.placeholders(clip).items()}
        return ClipInputs(clip.source, clip.utterances, {kind: texts for kind, texts in placeholders.items() if texts})

    def placeholders(self, clip: Clip) -> dict[Medium, list[str]]:
        """The placeholder tokens that replace each mark of a prompt; empty texts for what has no place in it."""
        count = len(clip.utterances)
        return {
            "video": [] if clip.frames is None else [self.video_token * self.num_video_tokens(count)],
            "audio": [] if clip.waveform is None else [self.audio_token * self.num_sound_tokens(count)],
        }

    def num_video_tokens(self, num_utterances: int) -> int:
        """Tokens that the model makes of the picture of a clip with so many utterances."""
        raise NotImplementedError

    def num_sound_tokens(self, num_utterances: int) -> int:
        """Tokens that the model makes of the sound of a clip with so many utterances."""
        raise NotImplementedError

    def windows(self, clip: Clip) -> list[dict]:
        """The stretches of time that the model looks at one by one: rows as in `Clip.utterances`."""
        return clip.utterances

    def picture(self, clip: Clip, track: FaceTrack | None) -> dict[str, np.ndarray]:
        """Tensors of the frames; none for a clip without picture.

        Returns:
            `pixel_values_videos` (T, 3, h, w) float32 and `video_times` (T,) int64 ms.
        """
        if clip.frames is None:
            return {}
        pixels = self.image_processor.frames_to_pixels(clip.frames).numpy()
        return {"pixel_values_videos": pixels, "video_times": np.asarray(clip.frame_times, dtype=np.int64)}

    def sound(self, clip: Clip) -> dict[str, np.ndarray]:
        """Tensors of the sound, see `whole_sound_features`; its mask is `audio_attention_mask`. None without sound."""
        if clip.waveform is None:
            return {}
        features = self.sound_features([clip.waveform])
        return {
            "audio_attention_mask" if name == "attention_mask" else name: values[0] for name, values in features.items()
        }

    def sound_features(self, waveforms: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The audio tower's inputs for mono waveforms (samples,), one row each."""
        return whole_sound_features(self.feature_extractor, waveforms, self.max_waveform_seconds)

    def find_face(self, clip: Clip, *, faces: bool | None = None, landmarks: Any = None) -> FaceTrack | None:
        """The face in each frame of a clip.

        Args:
            faces: `True` makes a missing face backend an error, `False` skips the search, `None` uses a backend if
                there is one.
            landmarks: faces that are already known: a `FaceTrack`, or an array of `FaceFinder`.

        Returns:
            `None` for a clip without picture, and with `faces=False`.

        Raises:
            FaceError: `faces=True` and there is no face backend; landmarks that do not fit the frames.
            ValueError: a `FaceTrack` of another number of frames.
        """
        if clip.frames is None or faces is False:
            return None
        if hasattr(landmarks, "found"):
            if len(landmarks.found) != len(clip.frames):
                raise ValueError(f"{clip.source} has {len(clip.frames)} frames, its FaceTrack {len(landmarks.found)}.")
            return landmarks
        track = self.face_finder(clip.frames, landmarks, clip.full)
        if faces and track.backend == "none":
            # A backend asked for by name says why it is missing, and both ways to get one.
            strict = copy.copy(self.face_finder)
            strict.backend = "tasks"
            track = strict(clip.frames, full=clip.full)
        return track

    def face_pixels(self, clip, track, size, margin, mean, std) -> dict[str, np.ndarray]:
        """The picture of each frame's face, as a face tower reads it.

        Args:
            clip: a `Clip` with frames.
            track: its `FaceTrack`; `None` takes every frame whole.
            size: pixels of a picture's side.
            margin: a crop's side is (1 + margin) times the face's.
            mean, std: of the towers' pixels, three numbers each.

        Returns:
            `pixel_values_faces` (T, 3, size, size) float32, a crop where there is a face and else the whole frame, and
            `face_found` (T,) bool.
        """
        count = len(clip.frames)
        if track is None:
            track = FaceTrack(
                landmarks=np.full((count, 478, 2), np.nan, dtype=np.float32),
                boxes=np.full((count, 4), np.nan, dtype=np.float32),
                found=np.zeros(count, dtype=bool),
                num_faces=np.zeros(count, dtype=np.int64),
                backend="none",
            )
        crops, has_face = self.face_finder.crops(clip.frames, track, size, margin, clip.full)
        pixels = (crops.astype(np.float32) / 255 - np.float32(mean)) / np.float32(std)
        return {"pixel_values_faces": pixels.transpose(0, 3, 1, 2), "face_found": np.asarray(has_face, dtype=bool)}

    def report(self, clip: Clip, track: FaceTrack | None = None) -> dict[str, Any]:
        """What was used of a clip, for people; plain JSON values. With `return_metadata=True`: `video_metadata`.

        Args:
            clip: from `load`.
            track: its face, if the model looks at faces.

        Returns:
            `source`; `duration` s; `modalities` really used; `frames`, each with its `time` in s and, with a track,
            `face` (it has one) and `num_faces` (faces in it); `face_backend`; `utterances`, s; `notes`, sentences.
        """
        used = [name for name, medium in (("video", clip.frames), ("audio", clip.waveform)) if medium is not None]
        times = [] if clip.frame_times is None else clip.frame_times.tolist()
        frames, notes = [{"time": time / 1000} for time in times], list(clip.notes)
        if track is not None:
            for frame, has_face, seen in zip(frames, track.found.tolist(), track.num_faces.tolist(), strict=True):
                frame.update(face=has_face, num_faces=seen)
            if track.found.any():
                used.insert(1, "face")
            elif track.backend == "none":
                notes.append("No face backend is installed: the clip was used without its face.")
            else:
                notes.append(f"No face was found in its {len(frames)} frames.")
            most = int(track.num_faces.max())
            if most > 1:
                notes.append(f"Up to {most} faces are in a frame; the face used is: {self.face_finder.choose}.")
        return {
            "source": clip.source,
            "duration": clip.duration / 1000,
            "modalities": used,
            "frames": frames,
            "face_backend": None if track is None else track.backend,
            "utterances": clip.utterances,
            "notes": notes,
        }

    def pad(self, samples: Sequence[Arrays | None]) -> dict[str, torch.Tensor]:
        """`pad` with this processor's values, see `padding`."""
        return pad(samples, self.padding)

    # Step 3: write

    def write(
        self,
        question: str | None,
        utterances: Sequence[Mapping] = (),
        placeholders: Mapping[Medium, Sequence[str]] | None = None,
    ) -> list[int]:
        """The prompt of a question about a clip that was measured; no pixel and no sound is needed.

        Args:
            question: `None` asks the default question. It is data: nothing in it has a special meaning.
            utterances, placeholders: of the clip's `ClipInputs`.

        Returns:
            the token ids (S,), as `__call__` has them in `input_ids`.
        """
        clip = ClipInputs(
            "the clip", list(map(dict, utterances)), {kind: list(texts) for kind, texts in (placeholders or {}).items()}
        )
        return self(videos=clip, text=question)["input_ids"][0]

    def escape(self, text: str) -> str:
        """`text` as it may stand in a prompt: a space breaks up all that the tokenizer or the template gives a meaning.

        `<video>` becomes `< video>`, `</s>` becomes `< /s>`, `[INST]` becomes `[ INST]`: readable, and no longer a
        placeholder, a special token or the border of a turn. Characters that no file can hold (NUL, halves of
        surrogate pairs) become U+FFFD.
        """
        text = NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", text)
        special = {i: token.content for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        marks = {*special.values(), *self.tokenizer.all_special_tokens, *marks_in(self.chat_template or "")}
        longest_first = sorted((mark for mark in marks if mark.strip()), key=len, reverse=True)
        pattern = re.compile("|".join(map(re.escape, longest_first)))
        folded = unicodedata.normalize("NFKC", text)
        if pattern.search(folded):
            # Full-width brackets and the like, which some tokenizers fold into plain ones.
            text = folded
        while pattern.search(text):
            text = pattern.sub(lambda match: f"{match[0][0]} {match[0][1:]}" if len(match[0]) > 1 else " ", text)
        # What only the tokenizer itself takes for a special token, for it drops or changes characters first.
        while self.tokenizer.is_fast and (spans := self._special_spans(text, special.keys())):
            for start, _ in reversed(spans):
                text = f"{text[: start + 1]} {text[start + 1 :]}"
        return text

    def _special_spans(self, text: str, special) -> list[tuple[int, int]]:
        """Where a tokenizer finds special tokens of more than one character in a text; unknown characters are none."""
        tokens = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        pairs = zip(tokens["input_ids"], tokens["offset_mapping"], strict=True)
        unknown = self.tokenizer.unk_token_id
        return [span for i, span in pairs if i in special and i != unknown and span[1] - span[0] > 1]

    def ask(self, question: str) -> str:
        """A question as the paper words it."""
        return question

    def apply_chat_template(self, conversation, chat_template=None, *, processor_kwargs=None, tokenize=False, **kwargs):
        """As transformers' `apply_chat_template`; loads the clip that a message holds, and writes the parts it has.

        A part of type `"video"`, `"audio"` or `"image"` with a source (`"video"`, `"audio"`, `"image"`, `"path"` or
        `"url"`: any source of `media.load_clip`) and, if wanted, `"utterances"` becomes the parts that the clip really
        has, in the paper's order: video, audio, utterances. A video or audio part without a source stays as it is, so
        that a prompt can be written without a clip. All text is escaped.

        Args:
            conversation: messages, or a list of conversations; at most one clip each.
            chat_template, tokenize, kwargs: see transformers. `return_assistant_tokens_mask=True` marks the tokens of
                the answers (`assistant_masks`), from which labels are made.
            processor_kwargs: options of `__call__`.

        Returns:
            with `tokenize=True, return_dict=True` the batch, else the prompt as transformers has it.

        Raises:
            ValueError: an empty conversation; several clips in one; an unknown role or type of part.
        """
        options = {**kwargs, **(processor_kwargs or {})}
        if not conversation:
            raise ValueError("the conversation is empty; at least one message is needed.")
        if options.get("utterances") is not None:
            raise ValueError("in messages, utterances belong into the part of their clip, not into processor_kwargs.")
        batched = isinstance(conversation[0], (list, tuple))
        conversations = list(conversation) if batched else [conversation]
        settings = self._load_settings(options)
        clips = [self._clip_of(messages, settings) for messages in conversations]
        if tokenize:
            clips = self._measure_clips(clips, options)
        written = [self._with_clip(messages, clip) for messages, clip in zip(conversations, clips, strict=True)]
        return super().apply_chat_template(
            written if batched else written[0],
            chat_template,
            processor_kwargs={**(processor_kwargs or {}), "is_prompt": True},
            tokenize=tokenize,
            **kwargs,
        )

    def _clip_of(self, messages, settings) -> Clip | ClipInputs | None:
        """The clip in a conversation, loaded."""
        media = media_parts(messages)
        sources = {}
        for part in media:
            sources.setdefault(MEDIUM_OF_PART[part["type"]], []).append(source_of(part))
        for kind, entries in sources.items():
            if len(entries) > 1:
                raise ValueError(f"a conversation has {len(entries)} {kind} parts; one clip for each is accepted.")
        video, sound = (sources.get(kind, [None])[0] for kind in ("video", "audio"))
        utterances = next((part["utterances"] for part in media if part.get("utterances") is not None), None)
        if video is None and sound is None:
            return None
        return self._load(video, sound, utterances, settings)

    def _with_clip(self, messages, clip) -> list[dict]:
        """The messages with their clip as parts in the paper's order, and with escaped text."""
        media = media_parts(messages)
        shown = []
        if clip is not None:
            inputs = clip if hasattr(clip, "placeholders") else self.outline(clip)
            shown = self._clip_parts(inputs) or [{"type": "clip"}]
            shown[0]["clip"] = inputs
        written = []
        for message in messages:
            if message.get("role") not in ROLES:
                raise ValueError(f"a message has the role {message.get('role')!r}; accepted are {', '.join(ROLES)}.")
            content = message.get("content") or []
            # The paper words the question: the first text of a user's message.
            word = self.ask if message["role"] == "user" else str
            if isinstance(content, str):
                written.append({**message, "content": word(self.escape(content))})
                continue
            parts = []
            for part in content:
                if part.get("type") == "text":
                    parts.append({"type": "text", "text": word(self.escape(part.get("text") or ""))})
                    word = str
                elif any(part is medium for medium in media):
                    parts.extend(shown)
                    shown = []
                elif part.get("type") not in ("video", "audio"):
                    raise ValueError(
                        f"a message has a part of type {part.get('type')!r} without a source; accepted are text, and "
                        f"video, image or audio with a source."
                    )
                elif not (media and part["type"] == "audio"):
                    # A bare audio part beside a clip only says that its sound is wanted.
                    parts.append({"type": part["type"]})
            written.append({**message, "content": parts})
        return written

    def _clip_parts(self, clip: ClipInputs) -> list[dict]:
        """What a clip has, as message parts."""
        parts: list[dict] = [{"type": kind} for kind in get_args(Medium) if clip.placeholders.get(kind)]
        if clip.utterances:
            rows = [
                {**row, "text": self._line(row.get("text")), "speaker": self._line(row.get("speaker"))}
                for row in clip.utterances
            ]
            parts.append({"type": "utterances", "utterances": rows})
        return parts

    def _line(self, text: str | None) -> str | None:
        """Words of a subtitle on one line, so that none can pass for the next utterance."""
        return None if text is None else self.escape(" ".join(text.split()))

    def _multimodal_inputs_from_conversations(self, conversations, audio_loading_params, load_audio_from_video=False):
        """The clips that `apply_chat_template` has measured; the base class would need torchcodec to load them."""
        clips = [
            [part["clip"] for message in messages for part in message.get("content") or [] if "clip" in part]
            for messages in conversations
        ]
        return [], clips, [], {}

    # Hooks of ProcessorMixin.__call__

    def prepare_inputs_layout(self, images=None, text=None, videos=None, audio=None, **kwargs):
        """Load and measure the clips, once, and write the prompts.

        Returns:
            `(None, texts, clips, clips)`: B strings and B `ClipInputs` (or `None`s), the same for picture and sound.
        """
        if images is not None:
            raise ValueError("images= is not taken; pass a picture in videos=, as a clip of one frame.")
        texts = [text] if text is None or isinstance(text, str) else list(text)
        clips = None
        if videos is not None or audio is not None:
            names = ("utterances", "videos_kwargs", "audio_kwargs", *LoadOptions.__annotations__)
            clips = self.load_clips(
                videos, audio, **{name: kwargs[name] for name in names if kwargs.get(name) is not None}
            )
            clips = self._measure_clips(clips, kwargs)
            texts = texts * len(clips) if text is None or isinstance(text, str) else texts
            if len(texts) != len(clips):
                raise ValueError(
                    f"{len(texts)} texts came with {len(clips)} clips; one for each or one for all is accepted."
                )
        elif kwargs.get("utterances") is not None:
            raise ValueError("utterances came without their clip; pass the clip in videos= or audio=.")
        if not kwargs.get("is_prompt", self.is_prompt):
            texts = [self._prompt(*pair) for pair in zip(texts, clips or [None] * len(texts), strict=True)]
        return None, texts, clips, clips

    def _measure_clips(self, clips, options) -> list[ClipInputs | None]:
        options = {**(options.get("videos_kwargs") or {}), **options}
        landmarks = options.get("landmarks")
        known = landmarks if isinstance(landmarks, (list, tuple)) else [landmarks] * len(clips)
        if len(known) != len(clips) or (landmarks is not None and known is not landmarks and len(clips) != 1):
            count = len(landmarks) if known is landmarks else 1
            raise ValueError(f"landmarks of {count} clips came with {len(clips)} clips; one for each is accepted.")
        return [
            clip
            if clip is None or hasattr(clip, "placeholders")
            else self.measure(clip, faces=options.get("faces"), landmarks=points)
            for clip, points in zip(clips, known, strict=True)
        ]

    def _prompt(self, question, clip):
        """The prompt of one question, before its marks are replaced by placeholders."""
        if clip is None:
            return self.escape(question) if isinstance(question, str) else question
        question = {"type": "text", "text": self.default_question if question is None else question}
        messages = [{"role": "user", "content": [{"type": "video", "video": clip}, question]}]
        return super().apply_chat_template(self._with_clip(messages, clip), tokenize=False, add_generation_prompt=True)

    def validate_inputs(self, images=None, text=None, videos=None, audio=None, **kwargs):
        """Check that every prompt has a mark for each run of placeholders of its clip.

        Raises:
            ValueError: no input at all; a text that is not a string; marks and media that differ in number, with
                the sample, its clip and both numbers.
        """
        for i, sample in enumerate(text):
            clip = None if videos is None else videos[i]
            if sample is None and videos is None:
                raise ValueError(f"{type(self).__name__} needs a text or a clip.")
            if not isinstance(sample, str):
                raise ValueError(f"text {i} is {type(sample).__name__}; a string is accepted.")
            for kind, token in (("video", self.video_token), ("audio", self.audio_token)):
                count, expected = sample.count(token), 0 if clip is None else len(clip.placeholders.get(kind, []))
                if count != expected:
                    name = "no clip" if clip is None else clip.source
                    raise ValueError(
                        f"text {i} has {count} {token} placeholders, and its clip ({name}) needs {expected}; write as "
                        f"many, or leave the medium out by modalities=."
                    )

    def _process_videos(self, videos, **kwargs):
        """The tensors of all media, padded: (B, ...) each; `video_metadata`, B reports; and the video placeholders."""
        data: dict[str, Any] = {}
        for name, values in self.pad([None if clip is None else clip.tensors for clip in videos]).items():
            # Cached features may be of a type that numpy lacks.
            data[name] = values if values.dtype == torch.bfloat16 else values.numpy()
        data["video_metadata"] = [None if clip is None else dict(clip.report) for clip in videos]
        return data, replacements(videos, "video")

    def _process_audio(self, audio, **kwargs):
        return {}, replacements(audio, "audio")

    def _get_num_multimodal_tokens(self, video_sizes=None, audio_lengths=None, num_utterances=None, **kwargs):
        """Placeholders of each clip, from its utterances alone; sizes and lengths do not change them."""
        counts = {}
        for name, sizes, count in (
            ("num_video_tokens", video_sizes, self.num_video_tokens),
            ("num_audio_tokens", audio_lengths, self.num_sound_tokens),
        ):
            if sizes is not None:
                counts[name] = [count(n) for n in num_utterances or [0] * len(sizes)]
        return MultiModalData(**counts)


def only(source):
    """The one source in a sample's list, as chat templates nest them."""
    if isinstance(source, (list, tuple)):
        if len(source) > 1:
            raise ValueError(f"{len(source)} clips came for one sample; one for each is accepted.")
        return source[0] if source else None
    return source


def source_of(part: Mapping) -> Any:
    """The source of a message part's medium; `None` for other parts and for a bare placeholder."""
    if part.get("type") not in MEDIUM_OF_PART:
        return None
    source = next((part[key] for key in SOURCE_KEYS if part.get(key) is not None), None)
    return source["url"] if part["type"] == "image_url" and isinstance(source, Mapping) else source


def media_parts(messages) -> list[dict]:
    """The parts of messages that hold a source."""
    contents = [message.get("content") for message in messages]
    return [
        part
        for content in contents
        if isinstance(content, (list, tuple))
        for part in content
        if source_of(part) is not None
    ]


def replacements(clips, kind: Medium) -> list[str]:
    """What replaces the marks of a medium, over all prompts of a batch in their order."""
    return [text for clip in clips if clip is not None for text in clip.placeholders.get(kind, [])]


def pad(samples: Sequence[Arrays | None], padding: Mapping[str, int]) -> dict[str, torch.Tensor]:
    """Arrays of single samples -> one batch.

    Args:
        samples: B dicts of arrays without a batch dimension; they need not have the same names or lengths.
        padding: what fills the places that a sample leaves, by name; 0 otherwise.

    Returns:
        a tensor (B, longest, ...) for each name; text is padded on the left, all else on the right.
    """
    batch = {}
    for name in dict.fromkeys(name for sample in samples for name in sample or ()):
        rows = [torch.as_tensor(sample[name]) if sample and name in sample else None for sample in samples]
        known = [row for row in rows if row is not None]
        shape = [max(lengths) for lengths in zip(*(row.shape for row in known), strict=True)]
        batch[name] = known[0].new_full((len(rows), *shape), padding.get(name, 0))
        for place, row in zip(batch[name], rows, strict=True):
            if row is not None:
                sides = [
                    slice(size - n, size) if name in TEXT_NAMES else slice(n)
                    for n, size in zip(row.shape, shape, strict=True)
                ]
                place[tuple(sides)] = row
    return batch


EmotionProcessor.register_for_auto_class()

__all__ = ["ClipInputs", "EmotionProcessor", "EmotionProcessorKwargs", "EmotionVideosKwargs", "LoadOptions", "pad"]
