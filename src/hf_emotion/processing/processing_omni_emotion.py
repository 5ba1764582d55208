"""Omni-Emotion's inputs: faces beside frames, whole sound in chunks, and its prompt (arXiv 2501.09502, section 4).

Beside what all papers share, a frame brings the picture of its face for FaceXFormer: a crop with a margin where a face
is found, else the whole frame. What differs: a modality that was asked for and that a clip lacks keeps its placeholders
in the prompt ("If one modality is absent, we use a zero tensor to replace it", 4.4); its tensors stay all padding, as
for every model, and the model puts zeros into the tower. The prompt is the paper's template inside Qwen2's chat format;
its markers `<vi_start>`, `<vi_end>`, `<au_start>`, `<au_end>` ("we use specific tokens to label them", 4.4) are plain
text, as in HumanOmni by the same team, or with `special_markers` tokens of their own. The
paper's prompt holds no transcript, so utterances stay out of it.

Letters: B batch, T frames, V tokens of a frame, F tokens of a face, C chunks of sound.
"""

from dataclasses import dataclass, fields
from math import ceil

import numpy as np
from transformers.processing_utils import MultiModalData

from .chat_formats import CHATML, write_template
from .media import Clip
from .processing_emotion import EmotionProcessor, pad_rows
from .sound_chunks import chunked_features

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
    """A clip, and in `absent` the modalities ("video", "audio") that were asked of it and that it lacks."""

    absent: tuple[str, ...] = ()


class OmniEmotionProcessor(EmotionProcessor):
    """Makes the inputs of `OmniEmotionForConditionalGeneration`; see `EmotionProcessor` for the ways to call it.

    One `<video>` in a prompt becomes all visual placeholders of its clip, those of frames (`<video>`) and of faces
    (`<face>`), in the order of `fusion`.

    Args:
        use_faces: the model has the face branch.
        face_size: pixels of the side of a face's picture (FaceXFormer: 224).
        face_margin: a crop's side is (1 + margin) times the face's; FaceXFormer's 50 %. `face_crop=False` takes the
            whole frame, which is the letter of 4.2 ("For an input video frame").
        face_mean, face_std: of a face's pixels; ImageNet's.
        tokens_per_frame, face_tokens_per_frame: V and F; 196 and 49 at full size.
        fusion: `"clip_concat"`: [v_1 .. v_T newline f_1 .. f_T]; `"frame_concat"` and `"frame_cross_attention"`:
            [v_1 f_1 .. v_T f_T newline].
        mel_frames_per_token, audio_tokens_per_chunk: 6, and 500 for 30 s.
        keep_padding: a chunk of sound that ends early keeps all its tokens.
        special_markers: the markers are four special tokens, whose rows in the model's table `add_tokens` of the model
            makes; otherwise plain text.
        missing_modality: `"drop"` leaves out the placeholders of what a clip lacks; otherwise they stay: `num_frames`
            frames, or a sound as long as the clip, of one chunk at most.
        others: see `EmotionProcessor`.
    """

    content = CONTENT
    default_chat_template = CHAT_TEMPLATE
    prompt_markers = ("<|im_start|>", END_OF_TURN, *MARKERS)
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
        modalities=("video", "audio"),
        num_frames=8,
        sampling="uniform",
        fps=None,
        max_duration=1800.0,
        default_question="Which emotions does the person show, and which clues in face, voice and scene tell of them?",
        face_config=None,
    ):
        if END_OF_TURN in tokenizer.get_vocab():
            tokenizer.eos_token = END_OF_TURN
        super().__init__(
            image_processor,
            feature_extractor,
            tokenizer,
            chat_template,
            modalities=modalities,
            num_frames=num_frames,
            sampling=sampling,
            fps=fps,
            max_duration=max_duration,
            default_question=default_question,
            face_config=face_config,
        )
        if self.face_token not in tokenizer.get_vocab():
            tokenizer.add_tokens([self.face_token], special_tokens=True)
        self.face_token_id = tokenizer.convert_tokens_to_ids(self.face_token)
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

    @property
    def marker_ids(self) -> list[int]:
        """Ids of the markers that are tokens of their own; none where they are plain text."""
        return self.tokenizer.convert_tokens_to_ids(list(MARKERS)) if self.special_markers else []

    @property
    def model_input_names(self) -> list[str]:
        faces = ["pixel_values_faces", "face_found"] if self.use_faces else []
        sound = ["input_features", "audio_attention_mask"]
        return ["input_ids", "attention_mask", "pixel_values_videos", "video_times", *faces, *sound]

    @property
    def unused_input_names(self) -> list[str]:
        return [*super().unused_input_names, "audio_times"]

    # What a prompt has

    def _load_clip(self, video, sound, utterances, settings):
        clip = super()._load_clip(video, sound, utterances, settings)
        if clip is None:
            return None
        lacks = [kind for kind, medium in (("video", clip.frames), ("audio", clip.waveform)) if medium is None]
        # A clip that was loaded before has its modalities chosen; asking for fewer of them leaves fewer.
        chosen = clip.absent if isinstance(clip, OmniClip) else settings["modalities"]
        absent = [kind for kind in lacks if kind in chosen and kind in settings["modalities"]]
        if self.missing_modality == "drop":
            absent = []
        return OmniClip(**{item.name: getattr(clip, item.name) for item in fields(Clip)}, absent=tuple(absent))

    def has_place(self, clip) -> tuple[bool, bool]:
        return clip.frames is not None or "video" in clip.absent, clip.waveform is not None or "audio" in clip.absent

    def visual_placeholders(self, num_frames: int) -> str:
        """The placeholders of a clip's frames and faces, in the order of `fusion`."""
        frame = self.video_token * self.tokens_per_frame
        face = self.face_token * (self.face_tokens_per_frame if self.use_faces else 0)
        if self.fusion == "clip_concat":
            return frame * num_frames + self.video_token + face * num_frames
        return (frame + face) * num_frames + self.video_token

    def num_sound_tokens(self, frames: int) -> int:
        """Tokens of a chunk with so many mel frames of sound."""
        if self.keep_padding:
            return self.audio_tokens_per_chunk
        return min(ceil(frames / self.mel_frames_per_token), self.audio_tokens_per_chunk)

    def num_absent_tokens(self, clip) -> int:
        """Tokens of the zeros that stand for a clip's sound: as long as the clip, of one chunk at most."""
        frames = clip.duration // 10
        return self.num_sound_tokens(frames) if frames else self.audio_tokens_per_chunk

    # Tensors

    def _process_videos(self, videos, faces=None, landmarks=None, **kwargs):
        """Tensors of frames and faces, and what was really used.

        Returns:
            `pixel_values_videos` (B, T, 3, h, w) float32 and `video_times` (B, T) int64 ms, -1 where padded, if any
            clip has a picture; with them, if the model looks at faces, `pixel_values_faces` (B, T, 3, size, size)
            float32 and `face_found` (B, T) bool; `video_metadata`, B reports; and the placeholders of each clip with a
            place for a picture.
        """
        tracks = self.find_faces(videos, landmarks, faces) if self.use_faces else [None] * len(videos)
        rows, counts = [], []
        for clip, track in zip(videos, tracks, strict=True):
            if clip is None or clip.frames is None:
                rows.append({})
            else:
                rows.append({**self._picture(clip), **(self._faces(clip, track) if self.use_faces else {})})
            placed = clip is not None and self.has_place(clip)[0]
            counts.append((self.num_frames if not rows[-1] else len(clip.frames)) if placed else 0)
        data = {
            "video_metadata": [
                None if clip is None else self.report(clip, track) for clip, track in zip(videos, tracks, strict=True)
            ],
            "num_video_tokens": counts,
        }
        if any(rows):
            data.update(pad_rows(rows))
        return data, [self.visual_placeholders(count) for count in counts if count]

    def replace_video_token(self, video_inputs, video_idx, **kwargs) -> str:
        return self.visual_placeholders(video_inputs["num_video_tokens"][video_idx])

    def _faces(self, clip, track) -> dict:
        """The face of each frame, or the whole frame, as FaceXFormer wants it."""
        shown = track if self.face_crop else None
        faces = self.face_pixels(clip, shown, self.face_size, self.face_margin, self.face_mean, self.face_std)
        if shown is None and track is not None:
            faces["face_found"] = np.asarray(track.found, dtype=bool)
        return faces

    def _process_audio(self, audio, **kwargs):
        """Chunks of the sound, and the placeholders of each clip with a place for one.

        Returns:
            if any clip has sound, `input_features` (B, C, mel, frames) float32 and `audio_attention_mask`
            (B, C, frames) bool, True for frames that are sound.
        """
        heard = [i for i, clip in enumerate(audio) if clip is not None and clip.waveform is not None]
        counts = [
            0 if clip is None or not self.has_place(clip)[1] or i in heard else self.num_absent_tokens(clip)
            for i, clip in enumerate(audio)
        ]
        data = {"num_audio_tokens": counts}
        if heard:
            features = chunked_features(self.feature_extractor, [audio[i].waveform for i in heard])
            for name, values in features.items():
                rows = np.full((len(audio), *values.shape[1:]), -1 if name == "audio_times" else 0, dtype=values.dtype)
                rows[heard] = values
                data["audio_attention_mask" if name == "attention_mask" else name] = rows
            for i in heard:
                frames = data["audio_attention_mask"][i].sum(-1).tolist()
                counts[i] = sum(self.num_sound_tokens(count) for count in frames if count)
        return data, [self.audio_token * count for count in counts if count]

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
            chunk = self.feature_extractor.n_samples
            hop = self.feature_extractor.hop_length
            counts["num_audio_tokens"] = [
                sum(self.num_sound_tokens(min(chunk, length - start) // hop) for start in range(0, length, chunk))
                for length in audio_lengths
            ]
        return MultiModalData(**counts)


OmniEmotionProcessor.register_for_auto_class()

__all__ = ["OmniEmotionProcessor"]
