"""AcoustEmo: a video LLM that attends to the sound of each utterance.

frames -> vision tower -> image Q-Former -> linear -> video tokens T_V          (frozen but for the linear layer)
sound  -> audio tower -> F_A -> utterance-aware acoustic Q-Former -> linear -> audio tokens T_A = [global; utt_1..N]
prompt that names each utterance with its times, with both merged in -> language model

New here is only the acoustic branch: one pass of the tower over the clip, whatever the number of utterances, and the
windows of Eq. 1 as masks over its frames (with `qformer.py`).
"""

from math import ceil

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .configuration_acoustemo import AcoustEmoConfig
from .modeling_emotion import EmotionForConditionalGeneration, EmotionModel
from .parts import assemble
from .qformer import PositionTable, QFormer, UtteranceQFormer
from .sound import sound_frames


class AcoustEmoModel(EmotionModel):
    """AcoustEmo without the language-model head."""

    config: AcoustEmoConfig
    processor_class = "processing_acoustemo.AcoustEmoProcessor"
    # "The visual encoder and acoustic encoder parameters are kept completely frozen"; the image Q-Former is not among
    # the parts that are "exclusively" tuned (4.1).
    frozen_parts = ("vision_tower", "image_qformer", "audio_tower", "language_model")

    def __init__(self, config: AcoustEmoConfig):
        super().__init__(config)
        text_width = config.text_config.hidden_size
        if config.vision_config is not None:
            self.image_qformer = QFormer(config.image_qformer_config, config.num_query_tokens)
            self.video_projector = nn.Linear(config.image_qformer_config.hidden_size, text_width)
        if config.num_audio_positions:
            self.audio_position_embedding = PositionTable(config.num_audio_positions, config.audio_config.hidden_size)
        self.audio_qformer = UtteranceQFormer(
            config.acoustic_qformer_config, config.num_audio_query_tokens, config.use_global, config.use_utterances
        )
        self.audio_projector = nn.Linear(config.acoustic_qformer_config.hidden_size, text_width)
        self.post_init()

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: Tensor | None = None,  # (B, T, 3, height, width)
        video_times: Tensor | None = None,  # (B, T) int64 ms, -1 for padded frames
        video_features: Tensor | None = None,  # (B, T, tokens, D), cached, instead of pixels
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """T_V (3.1): the image Q-Former's tokens, frame by frame; `pooler_output` is B tensors (T_b * K, H)."""
        real = video_times >= 0
        output = self.vision_output(pixel_values_videos, real, video_features, **kwargs)
        tokens = self.video_projector(self.image_qformer(output.last_hidden_state))  # (frames, K, H)
        output.pooler_output = list(tokens.flatten(0, 1).split((real.sum(-1) * tokens.shape[1]).tolist()))
        return output

    @can_return_tuple
    def get_audio_features(
        self,
        input_features: Tensor | None = None,  # (B, C, mel, frames), chunks of sound, or
        input_values: Tensor | None = None,  # (B, samples), a waveform, or
        audio_features: Tensor | None = None,  # (B, L, D), cached frames of the audio tower
        audio_attention_mask: Tensor | None = None,  # (B, C), (B, C, frames) or (B, samples), True where real
        audio_times: Tensor | None = None,  # (B, C) int64 ms, start of each chunk, -1 where padded; not for a waveform
        audio_ends: Tensor | None = None,  # (B, C) int64 ms, where the sound in each chunk ends; None: the mask says it
        utterance_spans: Tensor | None = None,  # (B, N, 2) int64 ms, start and end, -1 for padded utterances
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """T_A = [T_global, T_1, ..., T_N] (3.2, 3.3, Eqs. 1-3); `pooler_output` is B tensors (n_b, H)."""
        output, states, times = self.acoustic_frames(
            input_features, input_values, audio_attention_mask, audio_times, audio_ends, audio_features, **kwargs
        )
        tokens, counts = self.audio_qformer(states.unsqueeze(2), times, self.window_spans(utterance_spans))
        output.pooler_output = list(self.audio_projector(tokens).split(counts))
        return output

    def acoustic_frames(self, *sound, **kwargs):
        """The tower's output, F_A of 3.2 with positions (B, L, D), and its times (B, L) int64 ms, -1 without sound."""
        layers = {"layers": self.config.audio_layers, "layer_reduction": self.config.audio_layer_reduction}
        rate, moment = self.config.audio_frame_rate, self.config.audio_frame_times
        output, states, times = sound_frames(self.audio_tower, rate, *sound, moment=moment, **layers, **kwargs)
        states = states.to(self.audio_projector.bias.dtype)
        if self.config.num_audio_positions:
            states = states + self.audio_position_embedding(times >= 0)
        return output, states, times

    def sound_features(self, audio_attention_mask, **sound):
        layers = {"layers": self.config.audio_layers, "layer_reduction": self.config.audio_layer_reduction}
        return super().sound_features(audio_attention_mask, **sound, **layers)

    def window_spans(self, utterance_spans):
        """Spans (B, N, 2) whose frames by `start <= t < end` are those that `rounding` asks for."""
        if utterance_spans is None or self.config.rounding == "paper":
            return utterance_spans
        # floor(start * f_s) <= i holds just where frame i, which begins at i / f_s, ends after the start.
        reach = ceil(1000 / self.config.audio_frame_rate) - 1
        start, end = utterance_spans.unbind(-1)
        return torch.stack([torch.where(start >= 0, (start - reach).clamp(min=0), start), end], dim=-1)

    @torch.no_grad()
    def attention_over_time(self, layer: int = -1, average: bool = True, **inputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Where in time each window's queries attend: the acoustic Q-Former's cross-attention (Eq. 2; Figure 2).

        Args:
            layer: which of the Q-Former's layers with cross-attention.
            average: over heads and queries.
            inputs: the processor's batch; inputs other than sound and utterances are ignored.

        Returns:
            weights (B, 1 + N, L), or (B, 1 + N, heads, K, L) if not averaged: the global window, then the utterances.
            They sum to 1 over the frames of a window; a window that the model does not read (padded, of a clip
            without sound, switched off) has zeros throughout. Then the frames' times (B, L) int64 ms, -1 where there
            is no sound.
        """
        names = ("input_features", "input_values", "audio_attention_mask", "audio_times", "audio_ends")
        sound = {name: inputs.get(name) for name in (*names, "audio_features")}
        _, states, times = self.acoustic_frames(**sound)
        reader = self.audio_qformer
        windows = reader.windows(times, self.window_spans(inputs.get("utterance_spans")))  # (B, 1 + N, L)
        config = self.config.acoustic_qformer_config
        size = (config.num_attention_heads, self.config.num_audio_query_tokens, states.shape[1])
        weights = states.new_zeros(*windows.shape[:2], *size)
        for clip, window in windows.any(-1).nonzero().tolist():
            blocks = (reader.global_qformer, reader.utterance_qformer)
            block = next(block for block in (blocks if window == 0 else blocks[::-1]) if block is not None)
            inside = windows[clip, window].to(states.device)
            weights[clip, window, ..., inside] = cross_attention(block, states[clip, inside][None], layer)[0]
        return (weights.mean((2, 3)) if average else weights), times


def cross_attention(block: QFormer, features: torch.Tensor, layer: int) -> torch.Tensor:
    """Cross-attention weights (B, heads, K, L) of one layer of a Q-Former that reads features (B, L, D)."""
    weights = []

    def keep(module, inputs, kwargs, output):
        # Written out: fused attention never holds its weights.
        hidden_states = inputs[0] if inputs else kwargs["hidden_states"]
        heads = (module.num_attention_heads, module.attention_head_size)
        query = module.query(hidden_states).unflatten(-1, heads).transpose(1, 2)
        key = module.key(features).unflatten(-1, heads).transpose(1, 2)
        weights.append((query @ key.transpose(-1, -2) * module.scaling).softmax(-1))

    layers = [layer for layer in block.qformer.encoder.layer if layer.has_cross_attention]
    hook = layers[layer].crossattention.attention.register_forward_hook(keep, with_kwargs=True)
    try:
        block(features)
    finally:
        hook.remove()
    return weights[0]


class AcoustEmoForConditionalGeneration(EmotionForConditionalGeneration):
    """AcoustEmo as a generating model: the class that every Auto class gives for an AcoustEmo folder."""

    config: AcoustEmoConfig
    model_class = AcoustEmoModel
    assemble = staticmethod(assemble)

    def attention_over_time(self, *args, **kwargs):
        return self.model.attention_over_time(*args, **kwargs)


# Its own files travel with whatever is saved, so that a folder loads without this package.
AcoustEmoForConditionalGeneration.register_for_auto_class("AutoModel")

__all__ = ["AcoustEmoForConditionalGeneration", "AcoustEmoModel"]
