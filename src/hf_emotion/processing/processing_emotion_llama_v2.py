"""Emotion-LLaMA-v2's inputs: a key frame, sixteen frames, sound, the subtitle, and its prompt.

What differs from the authors' code: their frames are sixteen consecutive ones at a random place, here they are spread
over the clip; their sound ends after 30 s, here later chunks are averaged in; their key frame was chosen by hand-made
lists in training and is the first frame in their demo, here it is the middle one by default.

The prompt is the one of their second stage and of their evaluation:

    <s>[INST] <Vid>fusion, key frame, frames, sound</Vid> ... says: {line}.  [{task}] {question}  [/INST]
"""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from transformers.image_utils import PILImageResampling

from .chat_formats import LLAMA_2, write_template
from .faces import FaceTrack
from .image_processing_emotion import EmotionImageProcessor
from .media import Clip
from .processing_emotion import ClipInputs, EmotionProcessor, Medium

# A user's message; see `write_template`.
CONTENT = """\
{%- if parts | selectattr('type', 'in', ['video', 'audio']) | list -%}
    {{- '<Vid><VideoHere><AudioHere></Vid> ' -}}
{%- endif -%}
{%- for part in parts if part['type'] == 'utterances' and part.get('line') -%}
    {{- 'The person in video says: ' ~ part['line'] ~ '.  ' -}}
{%- endfor -%}
{{- text ~ ' ' -}}"""
CHAT_TEMPLATE = write_template(CONTENT, LLAMA_2)
QUESTION = (
    "[emotion] Based on the visual and audio content of the video, identify the emotion expressed by the person. "
    "Choose one label from: happy, anger, neutral, surprise, fear, sad, disgust."
)
TASKS = ("emotion", "reason", "think")
KEYFRAMES = ("middle", "first")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@cache
def frame_images(size: int) -> EmotionImageProcessor:
    """The preprocessing of the frames; that of the key frame is the processor's own."""
    return EmotionImageProcessor(
        size={"height": size, "width": size},
        resample=PILImageResampling.BILINEAR,
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
    )


class EmotionLLaMAV2Processor(EmotionProcessor):
    """Makes the inputs of `EmotionLLaMAV2ForConditionalGeneration`; see `EmotionProcessor` for the ways to call it.

    A question that begins with `[emotion]`, `[reason]` or `[think]` belongs to that task; any other gets the mark of
    `task`. Answers to `[think]` have the form `<think>...</think><answer>...</answer>`.

    Args:
        num_patch_tokens: tokens of the key frame's patches.
        num_steps: tokens of the frames, of the sound and of the fusion, each.
        frame_size: pixels of a frame's side; frames are resized bilinearly and normalised with ImageNet's mean.
        keyframe: `"middle"` or `"first"` of the frames.
        task: of a question without a mark.
        others: see `EmotionProcessor`.
    """

    content = CONTENT
    default_chat_template = CHAT_TEMPLATE
    # `<Vid>` and `</Vid>` are plain text.
    video_token = "<VideoHere>"
    audio_token = "<AudioHere>"

    def __init__(
        self,
        image_processor=None,
        feature_extractor=None,
        tokenizer=None,
        chat_template=None,
        num_patch_tokens=256,
        num_steps=64,
        frame_size=224,
        keyframe="middle",
        task="emotion",
        num_frames=16,
        default_question=QUESTION,
        **settings,
    ):
        for name, value, accepted in (("keyframe", keyframe, KEYFRAMES), ("task", task, TASKS)):
            if value not in accepted:
                raise ValueError(f"{name} is {value!r}; accepted are {', '.join(accepted)}.")
        super().__init__(
            image_processor,
            feature_extractor,
            tokenizer,
            chat_template,
            num_frames=num_frames,
            default_question=default_question,
            **settings,
        )
        self.num_patch_tokens = num_patch_tokens
        self.num_steps = num_steps
        self.frame_size = frame_size
        self.keyframe = keyframe
        self.task = task

    @classmethod
    def settings_of(cls, config) -> dict[str, Any]:
        return {
            **super().settings_of(config),
            **{name: getattr(config, name) for name in ("num_patch_tokens", "num_steps", "num_frames")},
            "frame_size": config.frame_config.image_size,
        }

    @property
    def model_input_names(self) -> list[str]:
        picture = ["pixel_values_videos", "video_times", "pixel_values_frames", "frame_times"]
        return ["input_ids", "attention_mask", *picture, "input_features", "audio_attention_mask"]

    def placeholders(self, clip: Clip) -> dict[Medium, list[str]]:
        """All tokens for every clip: those of an absent medium are made of zeros."""
        return {
            "video": [self.video_token * self.num_video_tokens(0)],
            "audio": [self.audio_token * self.num_sound_tokens(0)],
        }

    def num_video_tokens(self, num_utterances: int) -> int:
        return self.num_patch_tokens + 2 * self.num_steps

    def num_sound_tokens(self, num_utterances: int) -> int:
        return self.num_steps

    def _clip_parts(self, clip: ClipInputs) -> list[dict]:
        parts = super()._clip_parts(clip)
        for part in parts:
            if part["type"] == "utterances":
                # The layout itself ends the line with a full stop.
                said = " ".join(row["text"] for row in part["utterances"] if row["text"])
                part["line"] = said.strip().removesuffix(".")
        return parts

    def ask(self, question: str) -> str:
        """A question after the mark of its task."""
        question = question.strip()
        marked = any(question.startswith(f"[{task}]") for task in TASKS)
        return question if marked else f"[{self.task}] {question}"

    def picture(self, clip: Clip, track: FaceTrack | None) -> dict[str, np.ndarray]:
        """Tensors of the key frame and of the frames.

        Returns:
            `pixel_values_videos` (1, 3, h, w) float32 and `video_times` (1,) int64 ms; `pixel_values_frames`
            (T, 3, size, size) float32 and `frame_times` (T,) int64 ms.
        """
        if clip.frames is None:
            return {}
        key = 0 if self.keyframe == "first" else len(clip.frames) // 2
        rows = slice(key, key + 1)
        return {
            **super().picture(replace(clip, frames=clip.frames[rows], frame_times=clip.frame_times[rows]), track),
            "pixel_values_frames": frame_images(self.frame_size).frames_to_pixels(clip.frames).numpy(),
            "frame_times": np.asarray(clip.frame_times, dtype=np.int64),
        }


EmotionLLaMAV2Processor.register_for_auto_class()

__all__ = ["EmotionLLaMAV2Processor"]
