"""MicroEmo's inputs: region masks, frame timestamps and its prompt (arXiv 2407.16552, sections 3.2 to 3.4).

In addition to what all papers share, a frame has masks of its facial regions over the vision tower's patches, and a
sentence that gives its time to the image Q-Former. The prompt has the paper's order (3.4): video tokens T_V, audio
tokens T_A, then "transcribed speech and instruction". The paper prints no prompt; ours follows the skeleton of
AffectGPT, to which it compares, in LLaMA-2's turn format, with the utterances and their times where AffectGPT has one
subtitle.
"""

import re
from typing import Any

import numpy as np

from .chat_formats import LLAMA_2, write_template
from .faces import FaceTrack
from .feature_extraction_imagebind import ImageBindFeatureExtractor
from .landmarks import landmark_tensors
from .media import Clip
from .processing_emotion import EmotionProcessor

# A user's message; see `write_template`.
CONTENT = """\
{%- for part in parts -%}
    {%- if part['type'] == 'video' -%}
        {%- set state.media = true -%}
        {{- 'The video content is as follows: <Video><video></Video>. ' -}}
    {%- elif part['type'] == 'audio' -%}
        {%- set state.media = true -%}
        {{- 'The audio content is as follows: <Audio><audio></Audio>. ' -}}
    {%- elif part['type'] == 'utterances' -%}
        {{- 'The utterances are as follows:\\n' -}}
        {%- for row in part['utterances'] -%}
            {{- 'Utterance ' ~ loop.index ~ ' (' ~ '%.1f' | format(row['start']) ~ 's - ' -}}
            {{- '%.1f' | format(row['end']) ~ 's' ~ (', ' ~ row['speaker'] if row['speaker'] else '') ~ ')' -}}
            {{- (': ' ~ row['text'] if row['text'] else '') ~ '\\n' -}}
        {%- endfor -%}
    {%- endif -%}
{%- endfor -%}
{{- ('Now answer my question based on all of this. ' if state.media else '') ~ text -}}"""
CHAT_TEMPLATE = write_template(CONTENT, LLAMA_2)

# "{time}" in s, with up to two decimals, and at most 200 characters around it.
TIMESTAMP_TEMPLATE = re.compile(r"[^{}]{0,100}\{time(:\.[0-2]f)?\}[^{}]{0,100}")


class MicroEmoProcessor(EmotionProcessor):
    """Makes the inputs of `MicroEmoForConditionalGeneration`; see `EmotionProcessor` for the ways to call it.

    Args:
        qformer_tokenizer: of the image Q-Former, for the timestamps (InstructBLIP: BERT's).
        num_video_query_tokens: K_v tokens of each window of the video Q-Former: a clip with N utterances has
            K_v * (1 + N), T_V = [T_global, T_1, ..., T_N] (3.3).
        num_audio_query_tokens: K_a tokens of the audio Q-Former, for the whole clip.
        patch_grid: rows and columns of the vision tower's patches (EVA ViT-g/14 at 224 pixels: 16 x 16).
        timestamp_template: "This frame is sampled at 0.0s." (3.2); TimeChat's weights were made with
            "This frame is sampled at {time:.1f} second.".
        use_utterances: `False` is Table 2's "w/o utterance-aware V-QF": K_v tokens for any clip. The prompt still
            holds the transcribed speech.
        frame_input: `"pixels"`, or `"landmarks"` for a landmark tower (`modeling_face_motion.py`), whose patches are
            the regions; only the face of a frame is then used.
        audio_windows: as in `MicroEmoConfig`; `"utterances"` has K_a * (1 + N) sound tokens.
        others: see `EmotionProcessor`.
    """

    content = CONTENT
    default_chat_template = CHAT_TEMPLATE
    looks_at_faces = True

    def __init__(
        self,
        image_processor=None,
        feature_extractor=None,
        tokenizer=None,
        qformer_tokenizer=None,
        chat_template=None,
        num_video_query_tokens=32,
        num_audio_query_tokens=8,
        patch_grid=(16, 16),
        timestamp_template="This frame is sampled at {time:.1f}s.",
        use_utterances=True,
        frame_input="pixels",
        audio_windows="clip",
        default_question="Please infer the person's emotional state and provide your reasoning process.",
        **settings,
    ):
        super().__init__(
            image_processor,
            feature_extractor,
            tokenizer,
            chat_template,
            default_question=default_question,
            qformer_tokenizer=qformer_tokenizer,
            **settings,
        )
        self.num_video_query_tokens = num_video_query_tokens
        self.num_audio_query_tokens = num_audio_query_tokens
        self.patch_grid = list(patch_grid)
        # The template comes from a file, and `str.format` follows any attribute that is named in it.
        if not isinstance(timestamp_template, str) or not TIMESTAMP_TEMPLATE.fullmatch(timestamp_template):
            raise ValueError(
                f"timestamp_template is {str(timestamp_template)[:80]!r}; text with one {{time}} or {{time:.1f}} and "
                "no other braces is accepted."
            )
        self.timestamp_template = timestamp_template
        self.use_utterances = use_utterances
        for name, value, accepted in (
            ("frame_input", frame_input, ("pixels", "landmarks")),
            ("audio_windows", audio_windows, ("clip", "utterances")),
        ):
            if value not in accepted:
                raise ValueError(f"{name} is {value!r}; accepted: {' or '.join(map(repr, accepted))}")
        self.frame_input = frame_input
        self.audio_windows = audio_windows

    @classmethod
    def settings_of(cls, config) -> dict[str, Any]:
        vision, audio, shared = config.vision_config, config.audio_config, super().settings_of(config)
        if audio is None or audio.model_type == "imagebind_audio":
            # Eight chunks spread over the clip (Video-LLaMA), not the whole sound.
            shared["feature_extractor"] = ImageBindFeatureExtractor()
        if vision.model_type == "face_motion":
            shared |= {"frame_input": "landmarks"}
        else:
            shared |= {"patch_grid": (vision.image_size // vision.patch_size,) * 2}
        names = ("num_video_query_tokens", "num_audio_query_tokens", "use_utterances", "audio_windows")
        return {**shared, **{name: getattr(config, name) for name in names}}

    @property
    def model_input_names(self) -> list[str]:
        names = [*super().model_input_names, "video_region_masks", "video_timestamp_ids", "video_timestamp_mask"]
        return [self.frame_name if name == "pixel_values_videos" else name for name in names]

    @property
    def frame_name(self) -> str:
        """The model's input that holds the frames."""
        return "video_landmarks" if self.frame_input == "landmarks" else "pixel_values_videos"

    @property
    def padding(self) -> dict[str, int]:
        return {**super().padding, "video_timestamp_ids": self.qformer_tokenizer.pad_token_id}

    def num_video_tokens(self, num_utterances: int) -> int:
        return self.num_video_query_tokens * (1 + num_utterances if self.use_utterances else 1)

    def num_sound_tokens(self, num_utterances: int) -> int:
        windows = 1 + num_utterances if self.use_utterances and self.audio_windows == "utterances" else 1
        return self.num_audio_query_tokens * windows

    def picture(self, clip: Clip, track: FaceTrack | None) -> dict[str, np.ndarray]:
        """As the base class, and `video_region_masks` (T, R, P) bool, all False for a frame without a face;
        `video_timestamp_ids` and `video_timestamp_mask` (T, W) int64, padded on the right."""
        if clip.frames is None or clip.frame_times is None:
            return {}
        if self.frame_input == "landmarks":
            size = clip.frames.shape[2], clip.frames.shape[1]
            tensors = landmark_tensors(track, len(clip.frames), size, len(self.face_finder.region_names))
            times = np.asarray(clip.frame_times, dtype=np.int64)
            return {**tensors, "video_times": times, **self.timestamps(times)}
        if track is None:
            shape = (len(clip.frames), len(self.face_finder.region_names), int(np.prod(self.patch_grid)))
            masks = np.zeros(shape, dtype=bool)
        else:
            masks = self.face_finder.region_masks(track, tuple(self.patch_grid))
        return {**super().picture(clip, track), "video_region_masks": masks, **self.timestamps(clip.frame_times)}

    def timestamps(self, frame_times: np.ndarray) -> dict[str, np.ndarray]:
        """The sentence that gives each frame's time, for the image Q-Former.

        Args:
            frame_times: (T,) int64 ms.

        Returns:
            `video_timestamp_ids` (T, W) and `video_timestamp_mask` (T, W), int64, 0 in the mask where padded.
        """
        sentences = [self.timestamp_template.format(time=time / 1000) for time in frame_times.tolist()]
        tokens = self.qformer_tokenizer(sentences, padding=True, padding_side="right", return_tensors="np")
        return {
            "video_timestamp_ids": tokens["input_ids"].astype(np.int64),
            "video_timestamp_mask": tokens["attention_mask"].astype(np.int64),
        }


MicroEmoProcessor.register_for_auto_class()

__all__ = ["MicroEmoProcessor"]
