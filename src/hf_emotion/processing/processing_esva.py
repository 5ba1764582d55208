"""ESVA's inputs, which are Emotion-LLaMA's: a key frame, faces, sound, and its prompt, all from one clip.

Emotion-LLaMA takes MAE, VideoMAE and HuBERT features as files, and its demo zeros for the first two. Here the clip
itself is enough: T frames spread over it give the pictures of the face that MAE and VideoMAE look at, each with its
time, and one of them is the key frame for EVA. The prompt has one length for every clip: a missing medium keeps its
placeholders, and the model puts zero features there (`missing_modality="zero_feature"`).

The prompt is Emotion-LLaMA's, in the layout it is trained with, for training and for inference:

    <s>[INST] <video>256 tokens</video> <feature>MAE, VideoMAE, HuBERT, class token</feature> The person in video says:
    {line}.  [{task}] {question} [/INST] {answer}</s>

Letters: B batch, T frames.
"""

from typing import Any, ClassVar

import numpy as np

from .chat_formats import LLAMA_2, write_template
from .faces import FaceTrack
from .media import Clip
from .processing_emotion import ClipInputs, EmotionProcessor, Medium
from .sound_chunks import sound_input_names

# A user's message; see `write_template`.
CONTENT = """\
{%- for part in parts -%}
    {%- if part['type'] == 'video' -%}
        {{- '<video><VideoHere></video> ' -}}
    {%- elif part['type'] == 'audio' -%}
        {{- '<feature><AudioHere></feature> ' -}}
    {%- elif part['type'] == 'utterances' and part.get('line') -%}
        {{- 'The person in video says: ' ~ part['line'] ~ '.  ' -}}
    {%- endif -%}
{%- endfor -%}
{{- text -}}"""
CHAT_TEMPLATE = write_template(CONTENT, LLAMA_2)
# As Emotion-LLaMA's demo writes it: all tokens where the patches stand, the other mark left over as text, two starts.
LEGACY_CHAT_TEMPLATE = (
    CHAT_TEMPLATE.replace("bos_token ~ '[INST] ", "bos_token ~ bos_token ~ '[INST] ")
    .replace("'<video><VideoHere></video> '", "'<video><VideoHere>'")
    .replace("'<feature><AudioHere></feature> '", "'<AudioHere></video> <feature><FeatureHere></feature> '")
)
# Emotion-LLaMA's question for each of its tasks.
QUESTIONS = {
    "emotion": "Please determine which emotion label in the video represents: happy, sad, neutral, angry, worried, "
    "surprise, fear, contempt, doubt.",
    "reason": "Please analyze all the clues in the video and reason out the emotional label of the person in the "
    "video.",
}
KEYFRAMES = ("peak", "middle", "first")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ESVAProcessor(EmotionProcessor):
    """Makes the inputs of `ESVAForConditionalGeneration`; see `EmotionProcessor` for the ways to call it.

    In a finished prompt `<VideoHere>` marks the key frame's patches and `<AudioHere>` the tokens of faces, sound and
    class token that follow them. A question that begins with `[emotion]` or `[reason]` belongs to that task, and such a
    mark alone asks the task's standard question; any other question gets the mark of `task`.

    Args:
        num_patch_tokens: tokens of the key frame's patches; 256 at full size, 0 for a model without EVA.
        feature_kinds: `ESVAConfig.feature_kinds`: for each token after the patches whether it is one of the picture or
            of the sound.
        face_size: pixels of the side of a face's picture (MAE, VideoMAE: 224); `None` for a model without both.
        face_margin: a crop's side is (1 + margin) times the face's. Paper silent. A frame without a face is taken
            whole.
        face_mean, face_std: of a face's pixels; ImageNet's, as both towers have them.
        keyframe: which of the T frames EVA sees. "Multi-scale convolution, linear mapping, and alignment units are used
            to extract keyframes" (3.2) says no more, so: `"peak"`, the frame of strongest facial motion, the middle one
            where none moves; `"middle"`; `"first"` is Emotion-LLaMA's.
        num_frames: T at most, spread over the clip. Paper silent; VideoMAE takes 16 at a time, and 64 show a clip of
            four seconds at 16 a second.
        task: `"emotion"` or `"reason"`, for a question without a mark.
        legacy_inference_layout: the prompt as Emotion-LLaMA's demo writes it for inference, to repeat its published
            numbers. It differs from the one that the model is trained with: all media tokens stand between `<video>`
            and `</video>`, the words `<FeatureHere>` are left in, and the start token is written twice.
        missing_modality: `"drop"` leaves out the placeholders of what a clip lacks; otherwise they all stay.
        others: see `EmotionProcessor`.
    """

    content = CONTENT
    default_chat_template = CHAT_TEMPLATE
    looks_at_faces = True
    # The words `<video>` and `</video>` are Emotion-LLaMA's marks around what they hold, in plain text.
    video_token = "<VideoHere>"
    audio_token = "<AudioHere>"
    tasks: ClassVar[tuple[str, ...]] = tuple(QUESTIONS)

    def __init__(
        self,
        image_processor=None,
        feature_extractor=None,
        tokenizer=None,
        chat_template=None,
        num_patch_tokens=256,
        feature_kinds=("video", "video", "audio", "video"),
        face_size=224,
        face_margin=0.5,
        face_mean=IMAGENET_MEAN,
        face_std=IMAGENET_STD,
        keyframe="peak",
        task="emotion",
        legacy_inference_layout=False,
        missing_modality="zero_feature",
        num_frames=64,
        default_question=None,
        **settings,
    ):
        if keyframe not in KEYFRAMES:
            raise ValueError(f"keyframe is {keyframe!r}; accepted are {', '.join(KEYFRAMES)}.")
        if task not in QUESTIONS:
            raise ValueError(f"task is {task!r}; accepted are {', '.join(QUESTIONS)}.")
        if chat_template is None and legacy_inference_layout:
            chat_template = LEGACY_CHAT_TEMPLATE
        super().__init__(
            image_processor,
            feature_extractor,
            tokenizer,
            chat_template,
            num_frames=num_frames,
            default_question=default_question or f"[{task}]",
            **settings,
        )
        self.num_patch_tokens = num_patch_tokens
        self.feature_kinds = list(feature_kinds)
        self.face_size = face_size
        self.face_margin = face_margin
        self.face_mean, self.face_std = list(face_mean), list(face_std)
        self.keyframe = keyframe
        self.task = task
        self.legacy_inference_layout = legacy_inference_layout
        self.missing_modality = missing_modality

    @classmethod
    def settings_of(cls, config) -> dict[str, Any]:
        names = ("num_patch_tokens", "feature_kinds", "face_size", "missing_modality")
        seen = config.vision_config is not None or config.has_motion
        return {
            **super().settings_of(config),
            **{name: getattr(config, name) for name in names},
            "modalities": ["video"] * seen + ["audio"] * (config.audio_config is not None),
        }

    @property
    def model_input_names(self) -> list[str]:
        picture = ["pixel_values_videos", "video_times"] if self.num_patch_tokens else []
        faces = ["pixel_values_faces", "face_times", "face_found"] if self.face_size is not None else []
        sound = sound_input_names(self.feature_extractor) if "audio" in self.feature_kinds else []
        return ["input_ids", "attention_mask", *picture, *faces, *sound]

    # The prompt

    def placeholders(self, clip: Clip) -> dict[Medium, list[str]]:
        """`<VideoHere>`: the key frame's patches; `<AudioHere>`: Emotion-LLaMA's `<FeatureHere>`, tokens of the picture
        and of the sound."""
        tokens = {"video": self.video_token, "audio": self.audio_token}
        if self.missing_modality == "drop":
            missing = {"video": clip.frames is None, "audio": clip.waveform is None}
            tokens = {kind: "" if missing[kind] else token for kind, token in tokens.items()}
        return {
            "video": [tokens["video"] * self.num_patch_tokens],
            "audio": ["".join(tokens[kind] for kind in self.feature_kinds)],
        }

    def _clip_parts(self, clip: ClipInputs) -> list[dict]:
        parts = super()._clip_parts(clip)
        said = [self._line(row.get("text")) for row in clip.utterances]
        for part in parts:
            if part["type"] == "utterances":
                # The layout itself ends the line with a full stop.
                part["line"] = " ".join(line for line in said if line).strip().removesuffix(".")
        return parts

    def ask(self, question: str) -> str:
        """A question after the mark of its task."""
        question = question.strip()
        for task, wording in QUESTIONS.items():
            if question.startswith(f"[{task}]"):
                return question if question != f"[{task}]" else f"[{task}] {wording}"
        return f"[{self.task}] {question}"

    # Tensors

    def picture(self, clip: Clip, track: FaceTrack | None) -> dict[str, np.ndarray]:
        """Tensors of the key frame and of the faces.

        Returns:
            what the model has towers for, of `pixel_values_videos` (1, 3, h, w) float32 and `video_times` (1,) int64
            ms; `pixel_values_faces` (T, 3, size, size) float32, `face_times` (T,) int64 ms and `face_found` (T,) bool.
        """
        tensors: dict[str, np.ndarray] = {}
        if clip.frames is None or clip.frame_times is None:
            return tensors
        if self.num_patch_tokens:
            key = self._key_frame(clip, track)
            rows = slice(key, key + 1)
            tensors |= super().picture(clip.take(rows), track)
        if self.face_size is not None:
            tensors |= self.face_pixels(clip, track, self.face_size, self.face_margin, self.face_mean, self.face_std)
            tensors["face_times"] = np.asarray(clip.frame_times, dtype=np.int64)
        return tensors

    def measure(self, clip: Clip, *, faces: bool | None = None, landmarks: Any = None) -> ClipInputs:
        """As the base class, with the time of the key frame, s, in the report (`key_frame`)."""
        inputs = super().measure(clip, faces=faces, landmarks=landmarks)
        if "video_times" in inputs.tensors:
            inputs.report["key_frame"] = int(inputs.tensors["video_times"][0]) / 1000
        return inputs

    def _key_frame(self, clip: Clip, track: FaceTrack | None) -> int:
        """Index of the frame that EVA sees."""
        middle = 0 if clip.frames is None else len(clip.frames) // 2
        if self.keyframe == "first":
            return 0
        if self.keyframe == "middle" or track is None or not track.found.any():
            return middle
        moved = self.face_finder.motion(clip.frames, track.landmarks)
        return int(moved.argmax()) if moved.any() else middle

    def sound(self, clip: Clip) -> dict[str, np.ndarray]:
        return super().sound(clip) if "audio" in self.feature_kinds else {}

    def num_sound_tokens(self, num_utterances: int) -> int:
        return self.feature_kinds.count("audio")

    def num_video_tokens(self, num_utterances: int) -> int:
        return self.num_patch_tokens + self.feature_kinds.count("video")


ESVAProcessor.register_for_auto_class()

__all__ = ["ESVAProcessor"]
