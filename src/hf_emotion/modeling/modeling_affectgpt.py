"""AffectGPT (zeroQiaoba; arXiv 2501.16566), as released with MER2025 and MER2026: three tokens per clip.

faces or frames -> CLIP, projected    -> weighted sum over frames        -> linear -> 1 token
sound, 8 x 2 s  -> HuBERT, four layers -> weighted sum over segments     -> linear -> 1 token
both            -> means over time, linear each -> weighted sum of the two ("pre-fusion") -> linear -> 1 token
all merged into the prompt -> Qwen2.5

What differs from the papers' models: the weights of the sums are linear functions without a softmax, as in the authors'
code, so they need not sum to one; and the fused token stands before the others, under the placeholder of the picture.
As in the authors' code, each sum can be a mean or a Q-Former instead (`AffectGPTConfig.video_fusion`), and there can be
more tokens.
"""

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .configuration_affectgpt import AffectGPTConfig
from .generation_emotion import MediaTokens
from .modeling_emotion import EmotionForConditionalGeneration, EmotionModel, idle
from .parts_affectgpt import assemble_affectgpt
from .qformer import PositionTable, QFormer


class PositionedQFormer(nn.Module):
    """A Q-Former over features with learned positions.

    Args:
        config: of the Q-Former.
        num_query_tokens: K.
        num_positions: a longer sequence spreads over this many positions.
    """

    def __init__(self, config, num_query_tokens, num_positions):
        super().__init__()
        self.positions = PositionTable(num_positions, config.encoder_hidden_size)
        self.reader = QFormer(config, num_query_tokens)

    def forward(self, states, real):
        """states (B, L, D), real (B, L) bool, in any order -> (B, K, H); zeros for a row without a real step."""
        # Real steps first, so that positions count them alone.
        order = (~real).to(torch.int8).argsort(dim=1, stable=True)
        states, real = states.gather(1, order.unsqueeze(-1).expand_as(states)), real.gather(1, order)
        states = states + self.positions(real)
        present = real.any(-1)
        tokens = self.reader(states[present], real[present])
        placed = tokens.new_zeros(len(states), *tokens.shape[1:])
        placed[present] = tokens
        return placed


class AffectGPTModel(EmotionModel):
    """AffectGPT without the language-model head."""

    config: AffectGPTConfig
    processor_class = "processing_affectgpt.AffectGPTProcessor"
    frozen_parts = ("vision_tower", "visual_projection", "audio_tower", "language_model")
    # transformers names only the other of the two layers that a HuBERT encoder can have.
    _no_split_modules = ["HubertEncoderLayerStableLayerNorm"]

    def __init__(self, config: AffectGPTConfig):
        super().__init__(config)
        sizes = config.fusion_sizes
        text_width = config.text_config.hidden_size
        self.visual_projection = nn.Linear(config.vision_config.hidden_size, sizes["video"], bias=False)
        self.fusion_video = nn.Linear(sizes["video"], sizes["fusion"])
        self.fusion_audio = nn.Linear(sizes["audio"], sizes["fusion"])
        positions = (config.num_frame_positions, config.num_audio_positions, config.num_fusion_positions)
        for (name, size), (how, count), length in zip(sizes.items(), config.fusions.values(), positions, strict=True):
            if how == "qformer":
                qformer = getattr(config, f"{name}_qformer_config")
                setattr(self, f"{name}_qformer", PositionedQFormer(qformer, count, length))
                size = qformer.hidden_size
            setattr(self, f"{name}_projector", nn.Linear(size, text_width))
        if config.video_fusion == "attention":
            self.video_attention = nn.Linear(sizes["video"], 1)
        if config.audio_fusion == "attention":
            self.audio_attention = nn.Linear(sizes["audio"], 1)
        if config.fusion == "attention":
            self.fusion_hidden = nn.Linear(2 * sizes["fusion"], sizes["fusion"])
            self.fusion_attention = nn.Linear(sizes["fusion"], 2)
        self.post_init()

    @property
    def trained_dtype(self):
        """dtype of what stands behind the towers, which may be kept in another."""
        return self.language_model.get_input_embeddings().weight.dtype

    def frame_features(self, pixels):
        pooled = self.vision_tower(pixels.to(self.vision_tower.dtype), return_dict=True).pooler_output
        return self.visual_projection(pooled.to(self.trained_dtype))

    def sound_features(self, audio_attention_mask, input_values):
        real = audio_attention_mask.bool()  # (B, C)
        output = self.audio_tower(input_values[real].to(self.audio_tower.dtype), output_hidden_states=True)
        layers = torch.stack([output.hidden_states[layer] for layer in self.config.audio_layers])
        states = layers.mean(0).mean(1).to(self.trained_dtype)
        placed = states.new_zeros(*real.shape, states.shape[-1])
        placed[real] = states
        return placed, real

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: Tensor | None = None,  # (B, T, 3, height, width), faces or frames
        video_times: Tensor | None = None,  # (B, T) int64 ms, -1 for padded frames
        video_features: Tensor | None = None,  # (B, T, D), cached `frame_features`, instead of pixels
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Tokens of the picture; `pooler_output` is B tensors (n, H), (0, H) without picture; one token by default."""
        real = video_times >= 0
        if video_features is None:
            states = self.frame_features(pixel_values_videos[real])
            video_features = states.new_zeros(*real.shape, states.shape[-1])
            video_features[real] = states
        states = video_features.to(self.trained_dtype) * real.unsqueeze(-1)
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=self.tokens("video", states, real))

    @can_return_tuple
    def get_audio_features(
        self,
        input_values: Tensor | None = None,  # (B, C, samples), segments of 2 s
        audio_attention_mask: Tensor | None = None,  # (B, C) bool, real segments
        audio_features: Tensor | None = None,  # (B, C, D), cached `sound_features`, instead of sound
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Tokens of the sound; `pooler_output` is B tensors (n, H), (0, H) without sound; one token by default."""
        real = audio_attention_mask.bool()
        if audio_features is None:
            audio_features, _ = self.sound_features(audio_attention_mask, input_values)
        states = audio_features.to(self.trained_dtype) * real.unsqueeze(-1)
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=self.tokens("audio", states, real))

    def tokens(self, name: str, states: Tensor, real: Tensor) -> list[Tensor]:
        """Frames or segments (B, L, D), zero where `real` (B, L) is False -> B tensors (n, H), (0, H) without any."""
        how, count = self.config.fusions[name]
        projector = getattr(self, f"{name}_projector")
        if how == "qformer":
            tokens = projector(getattr(self, f"{name}_qformer")(states, real))
        else:
            if how == "attention":
                pooled = (states * getattr(self, f"{name}_attention")(states)).sum(1)
            else:
                pooled = mean(states, real)
            tokens = projector(pooled).unsqueeze(1).expand(-1, count, -1)
        present = real.any(-1).tolist()
        return [row if has else row[:0] for row, has in zip(tokens, present, strict=True)]

    def fused_tokens(self, frames: Tensor, frames_real: Tensor, sound: Tensor, sound_real: Tensor) -> Tensor:
        """Pre-fusion of picture and sound: (B, T, D), (B, T), (B, C, D'), (B, C) -> (B, n, H)."""
        how, count = self.config.fusions["fusion"]
        if how == "qformer":
            states = torch.cat([self.fusion_video(frames), self.fusion_audio(sound)], dim=1)
            return self.fusion_projector(self.fusion_qformer(states, torch.cat([frames_real, sound_real], dim=1)))
        video, audio = self.fusion_video(mean(frames, frames_real)), self.fusion_audio(mean(sound, sound_real))
        weights = self.fusion_attention(self.fusion_hidden(torch.cat([video, audio], dim=-1)))  # (B, 2)
        token = self.fusion_projector(video * weights[:, :1] + audio * weights[:, 1:])
        return token.unsqueeze(1).expand(-1, count, -1)

    def encode_media(self, **inputs) -> MediaTokens:
        """As the trunk's; a clip with picture and sound has the fused tokens before the picture's."""
        present = self.present_modalities(inputs)
        outputs = {name: self.encode(name, inputs) for name in self.media_names if name in present}
        tokens = {name: output.pooler_output for name, output in outputs.items()}
        if len(outputs) == 2:
            frames, sound = (outputs[name].last_hidden_state for name in self.media_names)
            masks = inputs["video_times"] >= 0, inputs["audio_attention_mask"].bool()
            both = present["video"] & present["audio"]
            fused = self.fused_tokens(frames, masks[0], sound, masks[1])
            tokens["video"] = [
                torch.cat([fused[row], token]) if both[row] else token for row, token in enumerate(tokens["video"])
            ]
        return MediaTokens(**tokens, modalities=self.stack_modalities(present))

    def idle_branches(self, media):
        """As the trunk's; the fusion idles where no clip has picture and sound, and costs nothing to tie in always."""
        fusion = [module for name, module in self.named_children() if name.startswith("fusion_")]
        return super().idle_branches(media) + idle(*fusion)


class AffectGPTForConditionalGeneration(EmotionForConditionalGeneration):
    """AffectGPT as a generating model: the class that every Auto class gives for such a folder."""

    config: AffectGPTConfig
    model_class = AffectGPTModel
    assemble = staticmethod(assemble_affectgpt)


def mean(states, real):
    """Mean over the real steps: (B, L, D), zero where `real` (B, L) is False -> (B, D)."""
    return states.sum(1) / real.sum(-1, keepdim=True).clamp(min=1)


# Its own files travel with whatever is saved, so that a folder loads without this package.
AffectGPTForConditionalGeneration.register_for_auto_class("AutoModel")

__all__ = ["AffectGPTForConditionalGeneration", "AffectGPTModel"]
