"""AffectGPT's inputs: eight faces, eight segments of sound, the subtitle, and its prompt (zeroQiaoba).

What differs from the papers: the sound is eight segments of 2 s, spread over the clip and normalised together, as in
the authors' code; and a clip with picture and sound has a further token, their fusion, which the prompt names first. A
clip that lacks a modality gets the authors' prompt for fewer, a silent film's without a subtitle.

Letters: T frames, C segments.
"""

from typing import Any

import numpy as np
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.processing_utils import MultiModalData

from .chat_formats import Turns, write_template
from .faces import FaceTrack
from .media import Clip
from .processing_emotion import ClipInputs, EmotionProcessor, Medium

# A user's message; see `write_template`.
CONTENT = """\
{%- set kinds = parts | map(attribute='type') | list -%}
{%- if 'video' in kinds and 'audio' in kinds -%}
    {{- 'The audio and video merged info is: <Multi><video></Multi>. ' -}}
{%- endif -%}
{%- if 'audio' in kinds -%}
    {{- 'The audio content is as follows: <Audio><audio></Audio>. ' -}}
{%- endif -%}
{%- if 'video' in kinds -%}
    {{- 'Meanwhile, we uniformly sample raw frames from the video' -}}
    {{- ' and extract faces from these frames' if parts | selectattr('faces', 'defined') | list else '' -}}
    {{- ': <Video><video></Video>. ' -}}
{%- endif -%}
{%- for part in parts if part['type'] == 'utterances' and part.get('line') -%}
    {{- 'The subtitle of this video is: <Subtitle>' ~ part['line'] ~ '</Subtitle>. ' -}}
{%- endfor -%}
{{- 'Now, please answer my question based on all the provided information. ' if kinds | length > 1 else '' -}}
{{- text -}}"""
TURNS = Turns(
    first="'<|im_start|>###Human: '",
    following="'###Human: '",
    system_open="'<|im_start|>'",
    system_close="'###Human: '",
    close="' '",
    answer="' ###Assistant: '",
    earlier_answer="' ###Assistant: '",
    end="'###' ~ eos_token",
)
CHAT_TEMPLATE = write_template(CONTENT, TURNS)
SEGMENTS, SEGMENT_SECONDS = 8, 2


class AffectGPTProcessor(EmotionProcessor):
    """Makes the inputs of `AffectGPTForConditionalGeneration`; see `EmotionProcessor` for the ways to call it.

    Args:
        use_faces: the pictures are faces (the released "face" setup), and whole frames where none is found; `False`
            takes whole frames (the "frame" setup).
        bgr_faces: the order of a face's colours. The faces of the authors' data were written by OpenCV and read as if
            they were RGB, so blue and red are exchanged in what the weights know.
        face_margin: a crop's side is (1 + margin) times the face's. Not published.
        num_video_query_tokens, num_audio_query_tokens, num_fusion_query_tokens: tokens of the picture, of the sound and
            of their fusion; one each in the released setups.
        others: see `EmotionProcessor`.
    """

    content = CONTENT
    default_chat_template = CHAT_TEMPLATE

    def __init__(
        self,
        image_processor=None,
        feature_extractor=None,
        tokenizer=None,
        chat_template=None,
        use_faces=True,
        bgr_faces=True,
        face_margin=0.2,
        num_video_query_tokens=1,
        num_audio_query_tokens=1,
        num_fusion_query_tokens=1,
        default_question="Please recognize all possible emotional states of the character.",
        **settings,
    ):
        super().__init__(
            image_processor, feature_extractor, tokenizer, chat_template, default_question=default_question, **settings
        )
        self.use_faces = use_faces
        self.bgr_faces = bgr_faces
        self.face_margin = face_margin
        self.num_video_query_tokens = num_video_query_tokens
        self.num_audio_query_tokens = num_audio_query_tokens
        self.num_fusion_query_tokens = num_fusion_query_tokens

    @classmethod
    def settings_of(cls, config) -> dict[str, Any]:
        names = (f"num_{name}_query_tokens" for name in ("video", "audio", "fusion"))
        return {**super().settings_of(config), **{name: getattr(config, name) for name in names}}

    @property
    def model_input_names(self) -> list[str]:
        picture = ["pixel_values_videos", "video_times"]
        return ["input_ids", "attention_mask", *picture, "input_values", "audio_attention_mask"]

    @property
    def looks_at_faces(self) -> bool:  # type: ignore[override]
        return self.use_faces

    def placeholders(self, clip: Clip) -> dict[Medium, list[str]]:
        video = [] if clip.frames is None else [self.video_token * self.num_video_query_tokens]
        if video and clip.waveform is not None:
            video.insert(0, self.video_token * self.num_fusion_query_tokens)
        audio = [] if clip.waveform is None else [self.audio_token * self.num_audio_query_tokens]
        return {"video": video, "audio": audio}

    def _clip_parts(self, clip: ClipInputs) -> list[dict]:
        parts = super()._clip_parts(clip)
        for part in parts:
            if part["type"] == "video" and self.use_faces:
                part["faces"] = True
            elif part["type"] == "utterances":
                part["line"] = " ".join(row["text"] for row in part["utterances"] if row["text"])
        return parts

    def picture(self, clip: Clip, track: FaceTrack | None) -> dict[str, np.ndarray]:
        tensors = super().picture(clip, track)
        if tensors and self.use_faces and track is not None and track.found.any():
            size = tensors["pixel_values_videos"].shape[-1]
            crops = self.face_pixels(clip, track, size, self.face_margin, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
            pixels = crops["pixel_values_faces"]
            if self.bgr_faces:
                mean, std = (
                    np.array(values, dtype=np.float32)[:, None, None] for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
                )
                pixels = ((pixels * std + mean)[:, ::-1] - mean) / std
            tensors["pixel_values_videos"] = np.ascontiguousarray(pixels, dtype=np.float32)
        return tensors

    def sound(self, clip: Clip) -> dict[str, np.ndarray]:
        """`input_values` (C, samples) float32 and `audio_attention_mask` (C,) bool: segments that start at even
        distances, normalised together; a sound shorter than one is followed by silence."""
        if clip.waveform is None:
            return {}
        length = SEGMENT_SECONDS * self.sampling_rate
        waveform = np.pad(clip.waveform, (0, max(0, length - len(clip.waveform))))
        starts = [i * (len(waveform) - length) // SEGMENTS for i in range(SEGMENTS)]
        segments = np.stack([waveform[start : start + length] for start in starts]).astype(np.float32)
        segments = (segments - segments.mean()) / np.sqrt(segments.var() + 1e-7)
        return {"input_values": segments, "audio_attention_mask": np.ones(SEGMENTS, dtype=bool)}

    def decode(self, *args, **kwargs):
        """As the tokenizer's, without the mark that ends an answer."""
        text = super().decode(*args, **kwargs)
        return text.removesuffix("###") if isinstance(text, str) else text

    def _get_num_multimodal_tokens(self, video_sizes=None, audio_lengths=None, **kwargs):
        counts: dict[str, Any] = {}
        if video_sizes is not None:
            fused = 0 if audio_lengths is None else self.num_fusion_query_tokens
            counts["num_video_tokens"] = [fused + self.num_video_query_tokens] * len(video_sizes)
        if audio_lengths is not None:
            counts["num_audio_tokens"] = [self.num_audio_query_tokens] * len(audio_lengths)
        return MultiModalData(**counts)


AffectGPTProcessor.register_for_auto_class()

__all__ = ["AffectGPTProcessor"]
