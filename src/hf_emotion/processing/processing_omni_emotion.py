"""Omni-Emotion's inputs: faces beside frames, whole sound in chunks, and its prompt (arXiv 2501.09502, section 4).

In addition to what all papers share, a frame has a picture of its face for FaceXFormer: a crop with a margin where
there is a face, else the whole frame. A modality that was asked for but is missing from the clip keeps its placeholders
in the prompt ("If one modality is absent, we use a zero tensor to replace it", 4.4); its tensors are all padding, as
for every model, and the model feeds zeros to the tower. The prompt is the paper's template inside Qwen2's chat format;
its markers `<vi_start>`, `<vi_end>`, `<au_start>`, `<au_end>` ("we use specific tokens to label them", 4.4) are plain
text, as in HumanOmni by the same team, or special tokens with `special_markers`. The paper's prompt has no transcript,
so utterances are not part of it.

Letters: B batch, T frames, V tokens of a frame, F tokens of a face, C chunks of sound.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import ceil
from typing import Any

import numpy as np
from transformers.processing_utils import MultiModalData

from .chat_formats import CHATML, write_template
from .faces import FaceTrack
from .image_processing_emotion import EmotionImageProcessor
from .media import Clip
from .processing_emotion import EmotionProcessor, Medium
from .sound_chunks import chunk_lengths

# A user's message; see `write_template`.
CONTENT = """\
{%- for part in parts -%}
    {%- if part['type'] == 'video' -%}
        {{- '<vi_start><video><vi_end>\\n' -}}
    {%- elif part['type'] == 'audio' -%}
        {{- '<au_start><audio><au_end>\\n' -}}
    {%- endif -%}
{%- endfor -%}
{{- text -}}"""
CHAT_TEMPLATE = write_template(CONTENT, CHATML)
# Qwen2's end of a turn; its base tokenizer names another token as the end of a text.
END_OF_TURN = "<|im_end|>"
MARKERS = ("<vi_start>", "<vi_end>", "<au_start>", "<au_end>")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class OmniClip(Clip):
    """A clip, and in `absent` the modalities ("video", "audio") that were asked for but are missing."""

    absent: tuple[str, ...] = ()


class OmniEmotionProcessor(EmotionProcessor):
    """Makes the inputs of `OmniEmotionForConditionalGeneration`; see `EmotionProcessor` for the ways to call it.

    One `<video>` in a prompt becomes all visual placeholders of its clip, those of frames (`<video>`) and of faces
    (`<face>`), in the order of `fusion`.

    Args:
        use_faces: the model has the face branch.
        face_size: pixels of the side of a face's picture (FaceXFormer: 224).
        face_margin: a crop's side is (1 + margin) times the face's; FaceXFormer's 50 %. `face_crop=False` takes the
            whole frame, as 4.2 literally says ("For an input video frame").
        face_mean, face_std: of a face's pixels; ImageNet's.
        tokens_per_frame, face_tokens_per_frame: V and F; 196 and 49 at full size.
        fusion: `"clip_concat"`: [v_1 .. v_T newline f_1 .. f_T]; `"frame_concat"` and `"frame_cross_attention"`:
            [v_1 f_1 .. v_T f_T newline].
        mel_frames_per_token, audio_tokens_per_chunk: 6, and 500 for 30 s.
        keep_padding: a chunk of sound that ends early keeps all its tokens.
        special_markers: the markers are four special tokens, with rows in the embedding table that `add_tokens` of the
            model creates; otherwise plain text.
        missing_modality: `"drop"` leaves out the placeholders of what a clip lacks; otherwise they stay: `num_frames`
            frames, or a sound as long as the clip, of one chunk at most.
        others: see `EmotionProcessor`.
    """

    content = CONTENT
    default_chat_template = CHAT_TEMPLATE
    face_token = "<face>"

    def __init__(
        self,
        image_processor=None,
        feature_extractor=None,
        tokenizer=None,
        chat_template=None,
        use_faces=True,
        face_size=224,
        face_crop=True,
        face_margin=0.5,
        face_mean=IMAGENET_MEAN,
        face_std=IMAGENET_STD,
        tokens_per_frame=196,
        face_tokens_per_frame=49,
        fusion="clip_concat",
        mel_frames_per_token=6,
        audio_tokens_per_chunk=500,
        keep_padding=False,
        special_markers=False,
        missing_modality="zero_input",
        default_question="Which emotions does the person show, and which cues in face, voice and scene indicate them?",
        **settings,
    ):
        if END_OF_TURN in tokenizer.get_vocab():
            tokenizer.eos_token = END_OF_TURN
        super().__init__(
            image_processor, feature_extractor, tokenizer, chat_template, default_question=default_question, **settings
        )
        if special_markers:
            tokenizer.add_tokens([name for name in MARKERS if name not in tokenizer.get_vocab()], special_tokens=True)
        self.special_markers = special_markers
        self.use_faces = use_faces
        self.face_size = face_size
        self.face_crop = face_crop
        self.face_margin = face_margin
        self.face_mean, self.face_std = list(face_mean), list(face_std)
        self.tokens_per_frame = tokens_per_frame
        self.face_tokens_per_frame = face_tokens_per_frame
        self.fusion = fusion
        self.mel_frames_per_token = mel_frames_per_token
        self.audio_tokens_per_chunk = audio_tokens_per_chunk
        self.keep_padding = keep_padding
        self.missing_modality = missing_modality

    @classmethod
    def from_config(cls, config, tokenizer=None, **settings) -> "OmniEmotionProcessor":
        """As the base class; special markers get rows in the language model's embedding table."""
        processor = super().from_config(config, tokenizer, **settings)
        config.text_config.vocab_size = max(config.text_config.vocab_size, max(processor.marker_ids, default=-1) + 1)
        return processor

    @classmethod
    def settings_of(cls, config) -> dict[str, Any]:
        side, face = config.vision_config.image_size, config.face_config
        names = ["tokens_per_frame", "face_tokens_per_frame", "fusion", "mel_frames_per_token", "keep_padding"]
        names += [
            "special_markers",
            "missing_modality",
            *["audio_tokens_per_chunk"] * (config.audio_config is not None),
        ]
        half = [0.5, 0.5, 0.5]
        return {
            **super().settings_of(config),
            **{name: getattr(config, name) for name in names},
            "image_processor": EmotionImageProcessor(
                size={"height": side, "width": side}, image_mean=half, image_std=half
            ),
            "use_faces": face is not None,
            "face_size": 224 if face is None else face.image_size,
        }

    @property
    def placeholder_tokens(self) -> tuple[str, ...]:
        return *super().placeholder_tokens, self.face_token

    @property
    def token_ids(self) -> dict[str, int]:
        return {**super().token_ids, "face_token_id": self.tokenizer.convert_tokens_to_ids(self.face_token)}

    @property
    def marker_ids(self) -> list[int]:
        """Ids of the markers if they are special tokens; none where they are plain text."""
        return self.tokenizer.convert_tokens_to_ids(list(MARKERS)) if self.special_markers else []

    @property
    def model_input_names(self) -> list[str]:
        faces = ["pixel_values_faces", "face_found"] if self.use_faces else []
        sound = ["input_features", "audio_attention_mask"]
        return ["input_ids", "attention_mask", "pixel_values_videos", "video_times", *faces, *sound]

    @property
    def looks_at_faces(self) -> bool:  # type: ignore[override]
        return self.use_faces

    # What a prompt has

    def prepare(self, clip: Clip, modalities: Sequence[Medium]) -> Clip:
        missing = [kind for kind, medium in (("video", clip.frames), ("audio", clip.waveform)) if medium is None]
        # The modalities of a clip that was loaded before are already chosen; a call may ask for fewer.
        chosen = getattr(clip, "absent", modalities)
        absent = [kind for kind in missing if kind in chosen and kind in modalities]
        if self.missing_modality == "drop":
            absent = []
        return OmniClip(**{item.name: getattr(clip, item.name) for item in fields(Clip)}, absent=tuple(absent))

    def placeholders(self, clip: Clip) -> dict[Medium, list[str]]:
        """As the base class; an absent picture has `num_frames` frames, an absent sound is as long as the clip, of one
        chunk at most."""
        absent = getattr(clip, "absent", ())
        texts: dict[Medium, list[str]] = {"video": [], "audio": []}
        if clip.frames is not None or "video" in absent:
            texts["video"] = [self.visual_placeholders(self.num_frames if clip.frames is None else len(clip.frames))]
        if clip.waveform is not None:
            texts["audio"] = [self.audio_token * self.sound_tokens_of(len(clip.waveform))]
        elif "audio" in absent:
            mel_frames = clip.duration // 10
            tokens = self.num_sound_tokens(mel_frames) if mel_frames else self.audio_tokens_per_chunk
            texts["audio"] = [self.audio_token * tokens]
        return texts

    def visual_placeholders(self, num_frames: int) -> str:
        """The placeholders of a clip's frames and faces, in the order of `fusion`."""
        frame = self.video_token * self.tokens_per_frame
        face = self.face_token * (self.face_tokens_per_frame if self.use_faces else 0)
        if self.fusion == "clip_concat":
            return frame * num_frames + self.video_token + face * num_frames
        return (frame + face) * num_frames + self.video_token

    def num_sound_tokens(self, mel_frames: int) -> int:
        """Tokens of a chunk with so many mel frames of sound."""
        if self.keep_padding:
            return self.audio_tokens_per_chunk
        return min(ceil(mel_frames / self.mel_frames_per_token), self.audio_tokens_per_chunk)

    def sound_tokens_of(self, num_samples: int) -> int:
        """Tokens of a whole sound, chunk by chunk."""
        hop = self.feature_extractor.hop_length
        lengths = chunk_lengths(self.feature_extractor, num_samples)
        return sum(self.num_sound_tokens(ceil(length / hop)) for length in lengths)

    # Tensors

    def picture(self, clip: Clip, track: FaceTrack | None) -> dict[str, np.ndarray]:
        """As the base class, and if the model looks at faces, `pixel_values_faces` (T, 3, size, size) float32 and
        `face_found` (T,) bool: the face of each frame, or the whole frame."""
        tensors = super().picture(clip, track)
        if tensors and self.use_faces:
            crop = track if self.face_crop else None
            tensors |= self.face_pixels(clip, crop, self.face_size, self.face_margin, self.face_mean, self.face_std)
            if crop is None and track is not None:
                tensors["face_found"] = np.asarray(track.found, dtype=bool)
        return tensors

    def _get_num_multimodal_tokens(self, video_sizes=None, audio_lengths=None, **kwargs):
        """Placeholders of each clip.

        Args:
            video_sizes: (frames, height, width) of each picture.
            audio_lengths: samples of each sound.
        """
        counts = {}
        if video_sizes is not None:
            tokens = (self.video_token, self.face_token)
            shown = [self.visual_placeholders(size[0]) for size in video_sizes]
            counts["num_video_tokens"] = [sum(text.count(token) for token in tokens) for text in shown]
        if audio_lengths is not None:
            counts["num_audio_tokens"] = [self.sound_tokens_of(length) for length in audio_lengths]
        return MultiModalData(**counts)


OmniEmotionProcessor.register_for_auto_class()

__all__ = ["OmniEmotionProcessor"]
