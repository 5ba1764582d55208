"""HumanOmni's and R1-Omni's inputs: the prompt, and the instruction once more in BERT's tokens (HumanMLLM).

What differs from the papers: the model weighs its visual branches by the instruction, so the last question of a prompt
is handed over a second time, for BERT; media that are encoded once for several questions keep the weights of the first.
The prompt is the authors': markers around the media as plain text, inside Qwen2.5's chat format. Sound is what Whisper
reads at once, 30 s; the rest is left out, as in the authors' code, and a note says so. Utterances stay out of the
prompt, which has no place for them.

Letters: T frames, W tokens of the instruction.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from transformers.processing_utils import MultiModalData

from .chat_formats import CHATML, write_template
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
MEDIA = re.compile(r"<vi_start><video><vi_end>\n|<au_start><audio><au_end>\n")
END_OF_TURN = "<|im_end|>"
# R1-Omni's README, for all four of its models.
QUESTION = (
    "As an emotional recognition expert; throughout the video, which emotion conveyed by the characters is the most "
    "obvious to you?  Output the thinking process in <think> </think> and final emotion in <answer> </answer> tags."
)


class HumanOmniProcessor(EmotionProcessor):
    """Makes the inputs of `HumanOmniForConditionalGeneration`; see `EmotionProcessor` for the ways to call it.

    Args:
        instruction_tokenizer: BERT's, for the instruction.
        max_instruction_length: tokens of it that BERT reads.
        tokens_per_frame: of a frame at half the grid; 49 in the 0.5B models, 196 in the 7B.
        compress_frames: the 7B model's: all frames at half of that grid, and every fourth whole.
        audio_tokens_per_chunk: 500, for 30 s of which the rest may be silence.
        others: see `EmotionProcessor`.
    """

    content = CONTENT
    default_chat_template = CHAT_TEMPLATE
    question_input_names = ("video_instruction_ids", "video_instruction_mask")

    def __init__(
        self,
        image_processor=None,
        feature_extractor=None,
        tokenizer=None,
        instruction_tokenizer=None,
        chat_template=None,
        max_instruction_length=512,
        tokens_per_frame=49,
        compress_frames=False,
        audio_tokens_per_chunk=500,
        default_question=QUESTION,
        **settings,
    ):
        if END_OF_TURN in tokenizer.get_vocab():
            tokenizer.eos_token = END_OF_TURN
        super().__init__(
            image_processor,
            feature_extractor,
            tokenizer,
            chat_template,
            default_question=default_question,
            instruction_tokenizer=instruction_tokenizer,
            **settings,
        )
        self.max_instruction_length = max_instruction_length
        self.tokens_per_frame = tokens_per_frame
        self.compress_frames = compress_frames
        self.audio_tokens_per_chunk = audio_tokens_per_chunk

    @classmethod
    def settings_of(cls, config) -> dict[str, Any]:
        side, half = config.vision_config.image_size, [0.5, 0.5, 0.5]
        audio = {} if config.audio_config is None else {"audio_tokens_per_chunk": config.audio_tokens_per_chunk}
        return {
            **super().settings_of(config),
            "image_processor": EmotionImageProcessor(
                size={"height": side, "width": side}, image_mean=half, image_std=half
            ),
            "max_instruction_length": config.instruction_config.max_position_embeddings,
            "tokens_per_frame": config.tokens_per_frame,
            "compress_frames": config.compress_frames,
            **audio,
        }

    @property
    def model_input_names(self) -> list[str]:
        picture = ["pixel_values_videos", "video_times", *self.question_input_names]
        return ["input_ids", "attention_mask", *picture, "input_features", "audio_attention_mask"]

    @property
    def padding(self) -> dict[str, int]:
        return {**super().padding, "video_instruction_ids": self.instruction_tokenizer.pad_token_id}

    def prepare(self, clip: Clip, modalities: Sequence[Medium]) -> Clip:
        """Leave out the sound behind what Whisper reads at once."""
        clip = super().prepare(clip, modalities)
        longest = self.feature_extractor.n_samples
        if clip.waveform is None or len(clip.waveform) <= longest:
            return clip
        seconds = longest / self.feature_extractor.sampling_rate
        note = f"Only the first {seconds:g} s of the sound are heard."
        return replace(clip, waveform=clip.waveform[:longest], notes=[*clip.notes, note])

    def placeholders(self, clip: Clip) -> dict[Medium, list[str]]:
        frames = 0 if clip.frames is None else self.frame_tokens(len(clip.frames))
        chunks = 0 if clip.waveform is None else len(chunk_lengths(self.feature_extractor, len(clip.waveform)))
        return {
            "video": [self.video_token * frames] if frames else [],
            "audio": [self.audio_token * (chunks * self.audio_tokens_per_chunk)] if chunks else [],
        }

    def frame_tokens(self, num_frames: int) -> int:
        """Tokens of so many frames; as `HumanOmniConfig.num_video_tokens`."""
        if not self.compress_frames:
            return num_frames * self.tokens_per_frame
        halved = (round(self.tokens_per_frame**0.5) // 2) ** 2
        return num_frames * halved + max(len(range(1, num_frames, 4)), 1) * self.tokens_per_frame

    def prepare_inputs_layout(self, images=None, text=None, videos=None, audio=None, **kwargs):
        """As the base class; a clip with a picture also brings the last question of its prompt, for BERT."""
        layout = super().prepare_inputs_layout(images, text, videos, audio, **kwargs)
        _, texts, clips, _ = layout
        if clips is None:
            return layout
        clips = [
            replace(clip, tensors={**clip.tensors, **self.instruction(prompt)})
            if clip is not None and "video_times" in clip.tensors
            else clip
            for prompt, clip in zip(texts, clips, strict=True)
        ]
        return None, texts, clips, clips

    def instruction(self, prompt: str) -> dict[str, np.ndarray]:
        """The last question of a prompt in BERT's tokens.

        Returns:
            `video_instruction_ids` and `video_instruction_mask` (W,), int64.
        """
        turns = re.findall(rf"<\|im_start\|>user\n(.*?)(?={re.escape(self.tokenizer.eos_token)}|$)", prompt, re.DOTALL)
        question = MEDIA.sub("", turns[-1]) if turns else prompt
        tokens = self.instruction_tokenizer(
            [question], truncation=True, max_length=self.max_instruction_length, return_tensors="np"
        )
        return {
            "video_instruction_ids": tokens["input_ids"][0].astype(np.int64),
            "video_instruction_mask": tokens["attention_mask"][0].astype(np.int64),
        }

    def _get_num_multimodal_tokens(self, video_sizes=None, audio_lengths=None, **kwargs):
        """Placeholders of each clip, of frames and samples as for Omni-Emotion's processor."""
        counts = {}
        if video_sizes is not None:
            counts["num_video_tokens"] = [self.frame_tokens(size[0]) for size in video_sizes]
        if audio_lengths is not None:
            longest = self.feature_extractor.n_samples
            counts["num_audio_tokens"] = [
                len(chunk_lengths(self.feature_extractor, min(length, longest))) * self.audio_tokens_per_chunk
                for length in audio_lengths
            ]
        return MultiModalData(**counts)


HumanOmniProcessor.register_for_auto_class()

__all__ = ["HumanOmniProcessor"]
