"""The way in of all four papers: a clip, its utterances and a text -> one padded batch of tensors.

A paper's processor adds its own inputs and its own prompt. What differs from transformers' video processors: a clip is
decoded once, by PyAV, and its picture and its sound both come from that one reading; the frames keep their true times;
the prompt has exactly the parts that the clip really has; and what other people wrote (subtitles, questions) cannot
stand for media or end a turn.

Letters used for shapes: B batch, T frames, P patches, R regions, N utterances, C chunks of sound, W tokens of a
timestamp, S text tokens.
"""

import copy
import re
from dataclasses import replace
from typing import Any

import numpy as np
from transformers.processing_utils import MultiModalData, ProcessingKwargs, ProcessorMixin, VideosKwargs

from .chat_formats import marks_in
from .faces import FaceFinder, FaceTrack
from .media import load_clip
from .utterances import read, to_spans

# Where the source of a media part stands in a chat message, in the order in which the keys are looked for.
SOURCE_KEYS = ("video", "audio", "path", "url")
# Filled in wherever a clip of the batch has fewer rows than another.
PADDING = {"video_times": -1, "face_times": -1, "audio_times": -1, "audio_ends": -1}


class EmotionVideosKwargs(VideosKwargs, total=False):
    """Options of one call that concern the picture.

    sampling: policy by which frames are chosen, see `media.load_clip`.
    max_duration: s; a longer clip is an error.
    max_pixels, max_decoded_pixels: see `media.load_clip`.
    faces: `True` makes a missing face backend an error, `False` skips the search, `None` takes what can be had.
    landmarks: faces already known, see `EmotionProcessor.find_faces`.
    """

    sampling: str | None
    max_duration: float | int | None
    max_pixels: int | None
    max_decoded_pixels: int | None
    faces: bool | None
    landmarks: Any


class EmotionProcessorKwargs(ProcessingKwargs, total=False):
    """Options of one call.

    utterances: for one clip what `utterances.read` takes (path, rows), for a list of clips a list of those.
    modalities: what to take from the clips, of those that the model has; `["video"]` leaves the sound out.
    """

    videos_kwargs: EmotionVideosKwargs
    utterances: Any
    modalities: list[str] | None


class EmotionProcessor(ProcessorMixin):
    """Base of the papers' processors; makes `input_ids`, `attention_mask`, frames, sound and utterances.

    Three ways in, all to the same batch:

    - `processor(videos=clips, text=questions, utterances=...)`. A text without placeholders is a question and is put
      into the model's chat template; a text with placeholders is a finished prompt and is used as it is. Without a text
      the default question is asked. One text may serve many clips.
    - `processor.apply_chat_template(messages, tokenize=True, return_dict=True, ...)`, with a part
      `{"type": "video", "path": ..., "utterances": ...}` in a message; `{"type": "audio", "path": ...}` beside it
      replaces the clip's sound, and alone it is a clip without picture.
    - `processor.load_clips(...)` first, and the `Clip`s in place of paths later: nothing is decoded twice.

    A clip's sound comes along by itself. A modality that a clip lacks has no placeholder in its prompt and an
    all-padded row in the tensors; tensors of a modality that no clip of the batch has are left out.

    Args:
        image_processor: an `EmotionImageProcessor`; `video_processor` is another name for it.
        feature_extractor: makes the audio tower's inputs; waveforms are read at its `sampling_rate`. Extractors other
            than ImageBind's must return an attention mask.
        tokenizer: the language model's. `<video>` and `<audio>` are added to it where it lacks them, as ids beyond the
            model's vocabulary if need be (the model never embeds a placeholder); so is a padding token. Texts are
            padded on the left, for generation.
        chat_template: Jinja; by default the paper's.
        modalities: what the model has towers for.
        num_frames, sampling, fps, max_duration: see `media.load_clip`; each call may choose otherwise.
        default_question: asked where no text is given.
        face_config: settings of the `FaceFinder`, which is at hand as `face_finder`.
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

    video_token = "<video>"
    audio_token = "<audio>"
    # Jinja of a user's message (`chat_formats.write_template`), and the whole template in the paper's own turns.
    content: str | None = None
    default_chat_template: str | None = None
    # What the chat template writes around turns and media, beside the tokenizer's special tokens.
    prompt_markers: tuple[str, ...] = ()

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
        default_question="Which emotions does the person show, and which clues tell of them?",
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
        self.default_question = default_question
        face_config = dict(face_config or {})
        if face_config.get("regions") is not None:
            face_config["regions"] = dict(face_config["regions"])
        self.face_finder = FaceFinder(**face_config)
        missing = [token for token in (self.video_token, self.audio_token) if token not in tokenizer.get_vocab()]
        tokenizer.add_tokens(missing, special_tokens=True)
        if tokenizer.pad_token is None:
            # LLaMA has none. Padding is masked and no label, so any token serves.
            tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
        # A published tokenizer's own "right" would win over this class's default.
        tokenizer.padding_side = "left"
        self.video_token_id, self.audio_token_id = tokenizer.convert_tokens_to_ids([self.video_token, self.audio_token])

    @property
    def video_processor(self):
        """The image processor: transformers cannot build a video processor without torchvision."""
        return self.image_processor

    @property
    def sampling_rate(self) -> int:
        """Hz at which sound is read."""
        return self.feature_extractor.sampling_rate

    @property
    def model_input_names(self) -> list[str]:
        names = self.feature_extractor.model_input_names
        sound = ["audio_attention_mask" if name == "attention_mask" else name for name in names]
        picture = ["pixel_values_videos", "video_times", "utterance_spans"]
        return ["input_ids", "attention_mask", *picture, *sound]

    @property
    def unused_input_names(self) -> list[str]:
        return ["num_video_tokens", "num_audio_tokens"]

    def to_dict(self) -> dict[str, Any]:
        face_config = self.face_finder.to_dict()
        # The file is written with sorted keys, and the order of the regions is that of the masks' R axis.
        face_config["regions"] = [list(pair) for pair in face_config["regions"].items()]
        return {**super().to_dict(), "face_config": face_config}

    def num_video_tokens(self, num_utterances: int) -> int:
        """Tokens that the model makes of the picture of a clip with so many utterances."""
        raise NotImplementedError

    def num_sound_tokens(self, num_utterances: int) -> int:
        """Tokens that the model makes of the sound of a clip with so many utterances."""
        raise NotImplementedError

    # Clips

    def load_clips(self, videos=None, audio=None, utterances=None, **options) -> list:
        """Decode clips as this processor's `__call__` would; its result may be passed to it in place of the sources.

        Args:
            videos: one source of `media.load_clip`, or a list of them; `None` in a list is a sample without picture.
            audio: the same for sound that replaces a clip's own, or is all there is of it.
            utterances: for one clip a source of `utterances.read`, for a list of clips a list of those or `None`s.
            options: `modalities`, `num_frames`, `sampling`, `fps`, `max_duration` where they differ from the
                processor's; `sampling_rate`, Hz, of sound given as an array, where it is not the processor's;
                `max_pixels`, `max_decoded_pixels`, see `media.load_clip`.

        Returns:
            a list of B `Clip`s; `None` for a sample without any source.

        Raises:
            MediaError, UtteranceError: for what cannot be read.
            ValueError: lists of unlike lengths; several clips for one sample; a clip that has nothing the model takes.
        """
        batched = isinstance(videos if videos is not None else audio, (list, tuple))
        if batched and not (videos or audio):
            raise ValueError("the list of clips is empty; at least one clip is needed.")
        columns = {"videos": videos, "audio": audio, "utterances": utterances}
        if batched:
            sizes = {name: len(column) for name, column in columns.items() if isinstance(column, (list, tuple))}
            single = [name for name, column in columns.items() if column is not None and name not in sizes]
            if single or len(set(sizes.values())) > 1:
                found = [f"{size} {name}" for name, size in sizes.items()]
                found += [f"{name} outside a list" for name in single]
                raise ValueError(f"{' and '.join(found)} came together; one entry for each clip is accepted.")
            size = next(iter(sizes.values()))
            rows = zip(*([None] * size if column is None else column for column in columns.values()), strict=True)
        else:
            rows = [tuple(columns.values())]
        settings = self._clip_settings(options)
        return [self._load_clip(only(video), only(sound), spoken, settings) for video, sound, spoken in rows]

    def _load_clip(self, video, sound, utterances, settings):
        if video is None and sound is None:
            if utterances is not None:
                raise ValueError("utterances came without their clip; pass the clip in videos= or audio=.")
            return None
        settings = dict(settings)
        modalities, rate = settings.pop("modalities"), settings.pop("sampling_rate")
        if hasattr(sound, "__array__"):
            sound = {"waveform": sound, "sampling_rate": rate}
        clip = load_clip(
            video if sound is None else {"video": video, "audio": sound},
            frames="video" in modalities,
            sound="audio" in modalities,
            sampling_rate=self.sampling_rate,
            motion=self.face_finder.motion if settings["sampling"] == "peak" else None,
            **settings,
        )
        changes = {}
        # A decoded clip comes back whole, whatever was asked for.
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
        if clip.waveform is not None and clip.sampling_rate != self.sampling_rate:
            raise ValueError(
                f"{clip.source} was decoded at {clip.sampling_rate} Hz; this processor takes {self.sampling_rate} Hz."
            )
        return clip

    def _clip_settings(self, options) -> dict:
        """What `load_clip` is to be asked for: the call's options, else the processor's."""
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

    # Prompts

    def has_place(self, clip) -> tuple[bool, bool]:
        """Whether the picture and the sound of a clip have a placeholder in its prompt."""
        return clip.frames is not None, clip.waveform is not None

    def escape(self, text: str) -> str:
        """`text` as it may stand in a prompt: a space breaks up all that the tokenizer or the template gives a meaning.

        `<video>` becomes `< video>`, `</s>` becomes `< /s>`, `[INST]` becomes `[ INST]`: readable, and no longer a
        placeholder, a special token or the border of a turn.
        """
        special = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        marks = marks_in(self.chat_template or "")
        meanings = sorted({*special, *self.prompt_markers, *marks} - {""}, key=len, reverse=True)
        return re.sub("|".join(map(re.escape, meanings)), lambda found: f"{found[0][0]} {found[0][1:]}", text)

    def apply_chat_template(self, conversation, chat_template=None, *, processor_kwargs=None, **kwargs):
        """As transformers' `apply_chat_template`; loads the clip that a message holds and writes down what it has.

        A part `{"type": "video"}` or `{"type": "audio"}` with a source (`"video"`, `"audio"`, `"path"` or `"url"`: any
        source of `media.load_clip`) and, if wanted, `"utterances"` becomes the parts which the clip really has, in the
        paper's order: video, audio, utterances. A part without a source stays as it is, so a prompt can be written
        without a clip. All text, whoever wrote it, is escaped.

        Args:
            conversation: messages, or a list of conversations; at most one clip each.
            chat_template, kwargs: see transformers. `return_assistant_tokens_mask=True` marks the tokens of the answers
                (`assistant_masks`), from which labels are made.
            processor_kwargs: options of `__call__`.

        Returns:
            with `tokenize=True, return_dict=True` the batch, else the prompt as transformers has it.

        Raises:
            ValueError: an empty conversation; several clips in one.
        """
        processor_kwargs = dict(processor_kwargs or {})
        if not conversation:
            raise ValueError("the conversation is empty; at least one message is needed.")
        if processor_kwargs.get("utterances") is not None:
            raise ValueError("in messages, utterances belong into the part of their clip, not into processor_kwargs.")
        settings = self._clip_settings({**kwargs, **processor_kwargs})
        if isinstance(conversation[0], (list, tuple)):
            conversation = [self._with_clip(messages, settings) for messages in conversation]
        else:
            conversation = self._with_clip(conversation, settings)
        return super().apply_chat_template(conversation, chat_template, processor_kwargs=processor_kwargs, **kwargs)

    def _with_clip(self, messages, settings) -> list[dict]:
        """The messages with their clip loaded, as parts in the paper's order, and with escaped text."""
        media = [
            part
            for message in messages
            if isinstance(message.get("content"), (list, tuple))
            for part in message["content"]
            if source_of(part) is not None
        ]
        found = {kind: [part for part in media if part["type"] == kind] for kind in ("video", "audio")}
        for kind, parts in found.items():
            if len(parts) > 1:
                raise ValueError(f"a conversation has {len(parts)} {kind} parts; one clip for each is accepted.")
        shown = []
        if media:
            video, sound = (source_of(parts[0]) if parts else None for parts in found.values())
            utterances = next((part["utterances"] for part in media if part.get("utterances") is not None), None)
            shown = self._clip_parts(self._load_clip(video, sound, utterances, settings))
        written = []
        for message in messages:
            content = message.get("content")
            if isinstance(content, str):
                written.append({**message, "content": self.escape(content)})
                continue
            parts = []
            for part in content or []:
                if any(part is medium for medium in media):
                    parts.extend(shown)
                    shown = []
                elif part["type"] == "text":
                    parts.append({**part, "text": self.escape(part["text"])})
                elif not (media and part["type"] == "audio"):
                    # A bare audio part beside a clip only says that its sound is wanted.
                    parts.append(part)
            written.append({**message, "content": parts})
        return written

    def _clip_parts(self, clip) -> list[dict]:
        """What a clip has, as message parts; the first carries the clip itself."""
        places = zip(("video", "audio"), self.has_place(clip), strict=True)
        parts = [{"type": kind} for kind, placed in places if placed]
        parts[0]["clip"] = clip
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
        """The clips that `apply_chat_template` has loaded; the base class would need torchcodec to load them."""
        clips = [
            [
                part["clip"]
                for message in conversation
                if not isinstance(message.get("content"), str)
                for part in message.get("content") or []
                if "clip" in part
            ]
            for conversation in conversations
        ]
        return [], clips, [], {}

    def _prompt(self, text, clip) -> str:
        if clip is None or (isinstance(text, str) and (self.video_token in text or self.audio_token in text)):
            return text
        question = {"type": "text", "text": self.default_question if text is None else text}
        messages = [{"role": "user", "content": [{"type": "video", "video": clip}, question]}]
        return self.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    # Hooks of ProcessorMixin.__call__

    def prepare_inputs_layout(self, images=None, text=None, videos=None, audio=None, **kwargs):
        """Load the clips, once, and write the prompts.

        Returns:
            `(None, texts, clips, clips)`: B strings and B `Clip`s (or `None`s), the same for picture and sound; no
            clips for sound where none has any.
        """
        if images is not None:
            raise ValueError("images= is not taken; pass a picture in videos=, as a clip of one frame.")
        if videos is None and audio is None:
            if kwargs.get("utterances") is not None:
                raise ValueError("utterances came without their clip; pass the clip in videos= or audio=.")
            return None, [text] if isinstance(text, str) else text, None, None
        clips = self.load_clips(videos, audio, **{name: value for name, value in kwargs.items() if value is not None})
        if text is None or isinstance(text, str):
            text = [text] * len(clips)
        if len(text) != len(clips):
            raise ValueError(
                f"{len(text)} texts came with {len(clips)} clips; one for each or one for all is accepted."
            )
        heard = any(clip is not None and self.has_place(clip)[1] for clip in clips)
        return None, [self._prompt(*pair) for pair in zip(text, clips, strict=True)], clips, clips if heard else None

    def validate_inputs(self, images=None, text=None, videos=None, audio=None, **kwargs):
        """Check that every text has as many placeholders as its clip has media.

        Raises:
            ValueError: no input at all; a text that is no string; placeholders and media that differ in number, with
                the sample, its clip and both numbers.
        """
        if text is None:
            raise ValueError(f"{type(self).__name__} needs a text or a clip.")
        for i, sample in enumerate(text):
            if not isinstance(sample, str):
                raise ValueError(f"text {i} is {type(sample).__name__}; a string is accepted.")
            clip = None if videos is None else videos[i]
            places = (False, False) if clip is None else self.has_place(clip)
            name = "no clip" if clip is None else clip.source
            tokens, kinds = (self.video_token, self.audio_token), ("picture", "sound")
            for token, kind, placed in zip(tokens, kinds, places, strict=True):
                found, expected = sample.count(token), int(placed)
                if found != expected:
                    raise ValueError(
                        f"text {i} has {found} {token} placeholders for {expected} {kind} tracks of its clip ({name}); "
                        f"write one placeholder for each, or leave a track out by modalities=."
                    )

    def _process_videos(self, videos, **kwargs):
        """Tensors of the picture and of the utterances, and what was really used.

        Args:
            videos: B `Clip`s or `None`s.

        Returns:
            `pixel_values_videos` (B, T, 3, h, w) float32 and `video_times` (B, T) int64 ms, -1 where padded, if any
            clip has a picture; `utterance_spans` (B, N, 2) int64 ms, -1 where padded; `video_metadata`, B reports; and
            the placeholders of each clip with a picture.
        """
        data = {
            "utterance_spans": to_spans([[] if clip is None else clip.utterances for clip in videos]),
            "video_metadata": [None if clip is None else self.report(clip) for clip in videos],
            "num_video_tokens": [
                0 if clip is None or clip.frames is None else self.num_video_tokens(len(clip.utterances))
                for clip in videos
            ],
        }
        if any(data["num_video_tokens"]):
            rows = [{} if clip is None or clip.frames is None else self._picture(clip) for clip in videos]
            data.update(pad_rows(rows))
        shown = [i for i, count in enumerate(data["num_video_tokens"]) if count]
        return data, [self.replace_video_token(data, i) for i in shown]

    def _picture(self, clip) -> dict:
        pixels = self.image_processor.frames_to_pixels(clip.frames).numpy()
        return {"pixel_values_videos": pixels, "video_times": np.asarray(clip.frame_times, dtype=np.int64)}

    def _process_audio(self, audio, **kwargs):
        """Tensors of the sound, and the placeholders of each clip that has one.

        Args:
            audio: B `Clip`s or `None`s, at least one of them with sound.

        Returns:
            the feature extractor's tensors with one row per clip, zero (times: -1) where it has no sound; its mask is
            called `audio_attention_mask`.
        """
        heard = [i for i, clip in enumerate(audio) if clip is not None and clip.waveform is not None]
        features = self.sound_features([audio[i].waveform for i in heard])
        data = {}
        for name, values in features.items():
            rows = np.full((len(audio), *values.shape[1:]), PADDING.get(name, 0), dtype=values.dtype)
            rows[heard] = values
            data["audio_attention_mask" if name == "attention_mask" else name] = rows
        if "audio_attention_mask" not in data:
            raise ValueError(
                f"{type(self.feature_extractor).__name__} returned {', '.join(data)} and no attention mask; "
                f"build it with return_attention_mask=True."
            )
        data["num_audio_tokens"] = [
            self.num_sound_tokens(len(clip.utterances)) if i in heard else 0 for i, clip in enumerate(audio)
        ]
        return data, [self.replace_audio_token(data, i) for i in heard]

    def sound_features(self, waveforms) -> dict:
        """The feature extractor's arrays for mono waveforms (samples,), one row each."""
        return self.feature_extractor(waveforms, sampling_rate=self.sampling_rate, padding=True, return_tensors="np")

    def replace_video_token(self, video_inputs, video_idx, **kwargs) -> str:
        return self.video_token * video_inputs["num_video_tokens"][video_idx]

    def replace_audio_token(self, audio_inputs, audio_idx, **kwargs) -> str:
        return self.audio_token * audio_inputs["num_audio_tokens"][audio_idx]

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

    # Faces and reports

    def find_faces(self, clips, landmarks=None, faces=None) -> list:
        """The face of each clip.

        Args:
            clips: B `Clip`s or `None`s.
            landmarks: faces already known: a `FaceTrack` or an array of `FaceFinder` for one clip, or a list with one
                of those or `None` for each clip.
            faces: see `EmotionVideosKwargs`.

        Returns:
            B `FaceTrack`s; `None` for a clip without picture, and for all with `faces=False`.

        Raises:
            FaceError: `faces=True` where no face backend can be had; landmarks that do not fit the frames.
            ValueError: landmarks for another number of clips.
        """
        known = landmarks if isinstance(landmarks, (list, tuple)) else [landmarks] * len(clips)
        if len(known) != len(clips) or (landmarks is not None and known is not landmarks and len(clips) != 1):
            given = len(landmarks) if known is landmarks else 1
            raise ValueError(f"landmarks of {given} clips came with {len(clips)} clips; one for each is accepted.")
        tracks = []
        for clip, given in zip(clips, known, strict=True):
            if clip is None or clip.frames is None or faces is False:
                tracks.append(None)
            elif hasattr(given, "found"):
                if len(given.found) != len(clip.frames):
                    raise ValueError(f"{clip.source} has {len(clip.frames)} frames, its FaceTrack {len(given.found)}.")
                tracks.append(given)
            else:
                track = self.face_finder(clip.frames, given)
                if faces and track.backend == "none":
                    # A backend asked for by name says why it cannot be had, and both ways out.
                    strict = copy.copy(self.face_finder)
                    strict.backend = "tasks"
                    track = strict(clip.frames)
                tracks.append(track)
        return tracks

    def face_pixels(self, clip, track, size, margin, mean, std) -> dict[str, np.ndarray]:
        """The picture of each frame's face, as a face tower wants it.

        Args:
            clip: a `Clip` with frames.
            track: its `FaceTrack`; `None` takes every frame whole.
            size: pixels of a picture's side.
            margin: a crop's side is (1 + margin) times the face's.
            mean, std: of the towers' pixels, three numbers each.

        Returns:
            `pixel_values_faces` (T, 3, size, size) float32, a crop where there is a face and else the whole frame, and
            `face_found` (T,) bool, it is a face.
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
        crops, found = self.face_finder.crops(clip.frames, track, size, margin)
        pixels = (crops.astype(np.float32) / 255 - np.float32(mean)) / np.float32(std)
        return {"pixel_values_faces": pixels.transpose(0, 3, 1, 2), "face_found": np.asarray(found, dtype=bool)}

    def report(self, clip, track=None) -> dict:
        """What a clip gave, for people; plain JSON values. In a batch with `return_metadata=True`: `video_metadata`.

        Args:
            clip: a `Clip`.
            track: its `FaceTrack`, where the paper looks at faces.

        Returns:
            `source`; `duration` s; `modalities` really used; `frames`, each with its `time` in s and, with a track,
            `face` (it has one) and `num_faces` (seen in it); `face_backend`; `utterances`, s; `notes`, sentences.
        """
        used = [name for name, medium in (("video", clip.frames), ("audio", clip.waveform)) if medium is not None]
        times = [] if clip.frames is None else clip.frame_times.tolist()
        frames, notes = [{"time": time / 1000} for time in times], list(clip.notes)
        if track is not None:
            for frame, found, seen in zip(frames, track.found.tolist(), track.num_faces.tolist(), strict=True):
                frame.update(face=found, num_faces=seen)
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


def only(source):
    """The one source in a sample's list, as chat templates nest them."""
    if isinstance(source, (list, tuple)):
        if len(source) > 1:
            raise ValueError(f"{len(source)} clips came for one sample; one for each is accepted.")
        return source[0] if source else None
    return source


def source_of(part):
    """Where the media of a message part come from; `None` for other parts and for a bare placeholder."""
    if part["type"] not in ("video", "audio"):
        return None
    return next((part[key] for key in SOURCE_KEYS if part.get(key) is not None), None)


def pad_rows(rows) -> dict[str, np.ndarray]:
    """Arrays of unlike lengths -> one array (B, longest, ...) for each name; a row without arrays is all padding.

    Args:
        rows: B dicts of arrays with the same names, or empty ones; at least one is not empty.
    """
    padded = {}
    for name, like in next(row for row in rows if row).items():
        longest = tuple(np.max([row[name].shape for row in rows if row], axis=0))
        padded[name] = np.full((len(rows), *longest), PADDING.get(name, 0), dtype=like.dtype)
        for i, row in enumerate(rows):
            if row:
                padded[name][(i, *map(slice, row[name].shape))] = row[name]
    return padded


EmotionProcessor.register_for_auto_class()

__all__ = ["EmotionProcessor", "EmotionProcessorKwargs", "EmotionVideosKwargs"]
