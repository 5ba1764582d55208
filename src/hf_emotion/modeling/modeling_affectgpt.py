"""AffectGPT (zeroQiaoba; arXiv 2501.16566), as released with MER2025 and MER2026: three tokens a clip.

faces or frames -> CLIP, projected    -> weighted sum over frames        -> linear -> 1 token
sound, 8 x 2 s  -> HuBERT, four layers -> weighted sum over segments     -> linear -> 1 token
both            -> means over time, linear each -> weighted sum of the two ("pre-fusion") -> linear -> 1 token
all merged into the prompt -> Qwen2.5

What differs from the papers' models: the weights of the sums are linear functions without a softmax, as in the authors'
code, so they need not sum to one; and the fused token stands before the others, under the placeholder of the picture.
"""

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .configuration_affectgpt import AffectGPTConfig
from .generation_emotion import MediaTokens
from .modeling_emotion import EmotionForConditionalGeneration, EmotionModel, idle
from .parts_affectgpt import assemble_affectgpt


class AffectGPTModel(EmotionModel):
    """AffectGPT without the language-model head."""

    config: AffectGPTConfig
    processor_class = "processing_affectgpt.AffectGPTProcessor"
    frozen_parts = ("vision_tower", "visual_projection", "audio_tower", "language_model")
    # transformers names only the other of the two layers that a HuBERT encoder can have.
    _no_split_modules = ["HubertEncoderLayerStableLayerNorm"]

    def __init__(self, config: AffectGPTConfig):
        super().__init__(config)
        video, audio, text = config.projection_dim, config.audio_config.hidden_size, config.text_config.hidden_size
        fused = max(video, audio)
        self.visual_projection = nn.Linear(config.vision_config.hidden_size, video, bias=False)
        self.video_attention = nn.Linear(video, 1)
        self.video_projector = nn.Linear(video, text)
        self.audio_attention = nn.Linear(audio, 1)
        self.audio_projector = nn.Linear(audio, text)
        self.fusion_video = nn.Linear(video, fused)
        self.fusion_audio = nn.Linear(audio, fused)
        self.fusion_hidden = nn.Linear(2 * fused, fused)
        self.fusion_attention = nn.Linear(fused, 2)
        self.fusion_projector = nn.Linear(fused, text)
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
        """The token of the picture; `pooler_output` is B tensors (1, H), (0, H) without picture."""
        real = video_times >= 0
        if video_features is None:
            states = self.frame_features(pixel_values_videos[real])
            video_features = states.new_zeros(*real.shape, states.shape[-1])
            video_features[real] = states
        states = video_features.to(self.trained_dtype) * real.unsqueeze(-1)
        token = self.video_projector((states * self.video_attention(states)).sum(1))
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=where(real, token))

    @can_return_tuple
    def get_audio_features(
        self,
        input_values: Tensor | None = None,  # (B, C, samples), segments of 2 s
        audio_attention_mask: Tensor | None = None,  # (B, C) bool, real segments
        audio_features: Tensor | None = None,  # (B, C, D), cached `sound_features`, instead of sound
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """The token of the sound; `pooler_output` is B tensors (1, H), (0, H) without sound."""
        real = audio_attention_mask.bool()
        if audio_features is None:
            audio_features, _ = self.sound_features(audio_attention_mask, input_values)
        states = audio_features.to(self.trained_dtype) * real.unsqueeze(-1)
        token = self.audio_projector((states * self.audio_attention(states)).sum(1))
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=where(real, token))

    def fused_token(self, frames, frames_real, sound, sound_real):
        """Pre-fusion of picture and sound: (B, T, D), (B, T), (B, C, D'), (B, C) -> (B, H)."""
        video = self.fusion_video(frames.sum(1) / frames_real.sum(-1, keepdim=True).clamp(min=1))
        audio = self.fusion_audio(sound.sum(1) / sound_real.sum(-1, keepdim=True).clamp(min=1))
        weights = self.fusion_attention(self.fusion_hidden(torch.cat([video, audio], dim=-1)))  # (B, 2)
        return self.fusion_projector(video * weights[:, :1] + audio * weights[:, 1:])

    def encode_media(self, **inputs) -> MediaTokens:
        """As the trunk's; a clip with picture and sound has the fused token before the picture's."""
        present = self.present_modalities(inputs)
        outputs = {name: self.encode(name, inputs) for name in self.media_names if name in present}
        tokens = {name: output.pooler_output for name, output in outputs.items()}
        if len(outputs) == 2:
            frames, sound = (outputs[name].last_hidden_state for name in self.media_names)
            masks = inputs["video_times"] >= 0, inputs["audio_attention_mask"].bool()
            both = present["video"] & present["audio"]
            fused = self.fused_token(frames, masks[0], sound, masks[1]).split(1)
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


def where(real, token):
    """token (B, H) of the clips with something real (B, L) -> B tensors (1, H) or (0, H)."""
    counts = real.any(-1).long().tolist()
    return [row[:count] for row, count in zip(token.split(1), counts, strict=True)]


# Its own files travel with whatever is saved, so that a folder loads without this package.
AffectGPTForConditionalGeneration.register_for_auto_class("AutoModel")

__all__ = ["AffectGPTForConditionalGeneration", "AffectGPTModel"]
