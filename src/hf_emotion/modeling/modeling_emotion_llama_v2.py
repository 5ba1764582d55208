"""Emotion-LLaMA-v2 (github.com/ooochen-30/Emotion-LLaMA-v2): key frame, frames, sound, and a fusion of all three.

key frame -> EVA at 448 px -> class token; patches merged by four    -> linear   -> 256 tokens
frames    -> EVA at 224 px, each; patches averaged to 2 x 2          -> linear   -> 64 tokens
sound     -> Whisper encoder, averaged to 64 steps                   -> linear   -> 64 tokens
sound, class token and frames, step by step -> MLP each -> weighted sum, and convolutions over the steps
                                                                     -> linear   -> 64 tokens, before the others
prompt with all merged in -> LLaMA-2

What differs from the papers' models: every clip gets all tokens. Zeros replace the output of a tower whose medium a
clip lacks, in the fusion too. The authors compute a mask for such tokens and do not use it.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .configuration_emotion_llama_v2 import EmotionLLaMAV2Config
from .generation_emotion import MediaTokens
from .modeling_emotion import EmotionForConditionalGeneration, EmotionModel, idle
from .parts_emotion_llama_v2 import assemble_emotion_llama_v2
from .sound import chunk_states
from .towers import build_tower


class ConvFusion(nn.Module):
    """The authors' Conv-Attention: streams of equal length become one, by attention over streams and by convolution.

    Args:
        sizes: width of each stream.
        layer_sizes: widths of the two layers of each MLP.
        output_size: width of the result.
        num_blocks: convolutions over the steps, each with a shortcut.
        dropout: after each layer of the MLPs.
    """

    def __init__(self, sizes, layer_sizes, output_size, num_blocks, dropout):
        super().__init__()
        width, joined = layer_sizes[-1], layer_sizes[-1] * len(sizes)
        self.streams = nn.ModuleList(two_layers(size, *layer_sizes, dropout) for size in sizes)
        self.attention = two_layers(joined, *layer_sizes, dropout)
        self.weights = nn.Linear(width, len(sizes))
        self.entry = nn.Conv1d(joined, width, 1)
        self.blocks = nn.ModuleList(nn.Conv1d(width, width, 3, padding=1) for _ in range(num_blocks))
        self.output = nn.Linear(width, output_size)

    def forward(self, *features):
        """features: (B, L, D_i) each -> (B, L, D)."""
        streams = [mlp(states) for mlp, states in zip(self.streams, features, strict=True)]
        joined = torch.cat(streams, dim=-1)
        weights = self.weights(self.attention(joined))  # (B, L, streams)
        attended = (torch.stack(streams, dim=-1) @ weights.unsqueeze(-1)).squeeze(-1)
        states = self.entry(joined.transpose(1, 2))
        for block in self.blocks:
            states = functional.silu(block(states)) + states
        return self.output(attended + states.transpose(1, 2))


class EmotionLLaMAV2Model(EmotionModel):
    """Emotion-LLaMA-v2 without the language-model head."""

    config: EmotionLLaMAV2Config
    processor_class = "processing_emotion_llama_v2.EmotionLLaMAV2Processor"
    frozen_parts = ("vision_tower", "frame_tower", "audio_tower", "language_model")
    encoders = ("video", "frame", "audio")
    whole_chunks = True
    _no_split_modules = ["ConvFusion"]

    def __init__(self, config: EmotionLLaMAV2Config):
        super().__init__(config)
        text, picture = config.text_config.hidden_size, config.vision_config.hidden_size
        frame, sound = config.frame_config.hidden_size, config.audio_config.d_model
        self.frame_tower = build_tower(config.frame_config)
        self.video_projector = nn.Linear(config.patches_per_token * picture, text)
        self.frame_projector = nn.Linear(frame, text)
        self.audio_projector = nn.Linear(sound, text)
        self.fusion = ConvFusion(
            (sound, picture, frame),
            config.fusion_sizes,
            config.fusion_size,
            config.fusion_blocks,
            config.fusion_dropout,
        )
        self.fusion_projector = nn.Linear(config.fusion_size, text)
        self.post_init()

    @property
    def trained_dtype(self) -> torch.dtype:
        """dtype of the modules after the towers, which can have another dtype."""
        return self.language_model.get_input_embeddings().weight.dtype

    def idle_branches(self, media):
        """A zero connected to what this batch does not use (see `idle`)."""
        modalities = [False] * 2 if media.modalities is None else media.modalities.any(0).tolist()
        used = dict(zip(("vision_tower", "audio_tower"), modalities, strict=True))
        used["frame_tower"] = used["vision_tower"]
        parts = {name: module for name, module in self.named_children() if name != "language_model"}
        # Parts other than towers are small, and always connected.
        return idle(*(module for name, module in parts.items() if not used.get(name)))

    def tower_features(self, **inputs):
        """The trunk's, with `frame_features`: the averaged patches of the frames."""
        inputs = super().tower_features(**inputs)
        if "pixel_values_frames" in inputs:
            frames = {name: inputs.pop(name) for name in ("pixel_values_frames", "frame_times")}
            inputs["frame_features"] = self.get_frame_features(**frames).pooler_output
        return inputs

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: Tensor | None = None,  # (B, 1, 3, height, width), the key frame
        video_times: Tensor | None = None,  # (B, 1) int64 ms, -1 for a clip without picture
        video_features: Tensor | None = None,  # (B, 1, 1 + P, D), cached, instead of pixels
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """States of the key frame; `pooler_output` (B, 1 + P, D), zero for a clip without picture."""
        real = video_times >= 0
        output = self.vision_output(pixel_values_videos, real, video_features, **kwargs)
        states = output.last_hidden_state.to(self.trained_dtype)
        output.pooler_output = states.new_zeros(len(real), *states.shape[1:])
        output.pooler_output[real[:, 0]] = states
        return output

    @can_return_tuple
    def get_frame_features(
        self,
        pixel_values_frames: Tensor | None = None,  # (B, T, 3, height, width)
        frame_times: Tensor | None = None,  # (B, T) int64 ms, -1 for padded frames
        frame_features: Tensor | None = None,  # (B, N, D), cached steps, instead of pixels
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """The frames in N steps; `pooler_output` (B, N, D), zero for a clip without picture.

        The patches of each frame are averaged to `frame_grid`, and frames to `num_frames`, which repeats those of a
        clip that has fewer.
        """
        if frame_features is not None:
            return BaseModelOutputWithPooling(pooler_output=frame_features.to(self.trained_dtype))
        real, grid = frame_times >= 0, self.config.frame_grid
        pixels = pixel_values_frames[real].to(self.frame_tower.dtype)
        output = self.frame_tower(pixels, return_dict=True, **kwargs)
        states = output.last_hidden_state[:, 1:].to(self.trained_dtype)
        side = math.isqrt(states.shape[1])
        maps = functional.adaptive_avg_pool2d(states.transpose(1, 2).unflatten(2, (side, side)), grid)  # (F, D, g, g)
        places = maps.flatten(2).transpose(1, 2)  # (F, g * g, D)
        clips = places.flatten(1).split(real.sum(-1).tolist())
        pooled = torch.stack([averaged(clip, self.config.num_frames) for clip in clips])
        pooled = pooled.unflatten(2, places.shape[1:]).flatten(1, 2)
        return BaseModelOutputWithPooling(
            last_hidden_state=output.last_hidden_state,
            pooler_output=pooled,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    @can_return_tuple
    def get_audio_features(
        self,
        input_features: Tensor | None = None,  # (B, C, mel, frames), chunks of 30 s
        audio_attention_mask: Tensor | None = None,  # (B, C, frames) or (B, C), True where there is sound
        audio_features: Tensor | None = None,  # (B, C * l, D), cached states of the audio tower, instead of sound
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """The sound in N steps, averages of whole chunks; `pooler_output` (B, N, D), zero for a clip without sound."""
        output, states, chunks = chunk_states(
            self.audio_tower, input_features, audio_attention_mask, audio_features, **kwargs
        )
        states = states.to(self.trained_dtype)
        lengths = (chunks.sum(-1) * (states.shape[1] // chunks.shape[1])).tolist()
        pooled = [averaged(clip[:length], self.config.num_steps) for clip, length in zip(states, lengths, strict=True)]
        return BaseModelOutputWithPooling(
            last_hidden_state=output.last_hidden_state,
            pooler_output=torch.stack(pooled),
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def encode_media(self, **inputs) -> MediaTokens:
        """All tokens of each clip with picture or sound: `video` is fusion, key frame and frames, `audio` the sound."""
        present = self.present_modalities(inputs)
        if not present:
            return MediaTokens()
        picture, frames, sound = self.zero_states(len(next(iter(present.values()))))
        if "video" in present:
            picture = self.encode("video", inputs).pooler_output
            frames = self.encode("frame", inputs).pooler_output
        if "audio" in present:
            sound = self.encode("audio", inputs).pooler_output
        video, audio = self.tokens(picture, frames, sound)
        some = torch.stack(list(present.values())).any(0).tolist()
        return MediaTokens(
            video=[row if has else row[:0] for row, has in zip(video, some, strict=True)],
            audio=[row if has else row[:0] for row, has in zip(audio, some, strict=True)],
            modalities=self.stack_modalities(present),
        )

    def tokens(self, picture: Tensor, frames: Tensor, sound: Tensor) -> tuple[Tensor, Tensor]:
        """The towers' states (B, 1 + P, D), (B, N, D), (B, N, D') -> tokens of picture and sound, (B, n, H) each."""
        fused = self.fusion(sound, picture[:, :1].expand(-1, self.config.num_steps, -1), frames)
        # Consecutive patches, row by row, become one token, as in Emotion-LLaMA.
        merged = picture[:, 1:].unflatten(1, (-1, self.config.patches_per_token)).flatten(2)
        video = [self.fusion_projector(fused), self.video_projector(merged), self.frame_projector(frames)]
        return torch.cat(video, dim=1), self.audio_projector(sound)

    def zero_states(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """What stands for the towers' states of absent media, as `tokens` takes them."""
        config, zeros = self.config, self.get_input_embeddings().weight.new_zeros
        patches = config.num_patch_tokens * config.patches_per_token
        return (
            zeros(rows, 1 + patches, config.vision_config.hidden_size),
            zeros(rows, config.num_steps, config.frame_config.hidden_size),
            zeros(rows, config.num_steps, config.audio_config.d_model),
        )

    def zero_tokens(self, name: str) -> Tensor:
        return self.tokens(*self.zero_states(1))[self.media_names.index(name)][0]


class EmotionLLaMAV2ForConditionalGeneration(EmotionForConditionalGeneration):
    """Emotion-LLaMA-v2 as a generating model: the class that every Auto class gives for such a folder."""

    config: EmotionLLaMAV2Config
    model_class = EmotionLLaMAV2Model
    assemble = staticmethod(assemble_emotion_llama_v2)


def two_layers(size, first, second, dropout):
    """Linear, ReLU and dropout, twice."""
    return nn.Sequential(
        nn.Linear(size, first), nn.ReLU(), nn.Dropout(dropout), nn.Linear(first, second), nn.ReLU(), nn.Dropout(dropout)
    )


def averaged(states: Tensor, steps: int) -> Tensor:
    """(L, D) -> (steps, D), averages of even parts; zeros for L = 0."""
    if not len(states):
        return states.new_zeros(steps, states.shape[1])
    return functional.adaptive_avg_pool1d(states.T, steps).T


# Its own files travel with whatever is saved, so that a folder loads without this package.
EmotionLLaMAV2ForConditionalGeneration.register_for_auto_class("AutoModel")

__all__ = ["EmotionLLaMAV2ForConditionalGeneration", "EmotionLLaMAV2Model"]
