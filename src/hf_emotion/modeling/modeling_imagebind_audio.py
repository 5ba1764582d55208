"""The audio tower of ImageBind (arXiv 2305.05665), which transformers lacks.

Written from the architecture's description, not from the original code, whose licence (CC-BY-NC-SA 4.0) would extend
to this file; it also covers the released weights. A ViT-B over overlapping patches of a 2-s log-mel spectrogram, with
one extra learned key and value in each attention, and a head that maps a chunk to a sphere of radius 20.

Differences: the original's stochastic depth (training only) is omitted, since every paper here freezes the tower; the
three input projections are one matrix; the radius is a configuration field, since it is never trained; and
`frame_states` returns the trunk's time steps, which AcoustEmo needs and the original never returns.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_imagebind_audio import ImageBindAudioConfig


def eager_attention_forward(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    weights = torch.matmul(query, key.transpose(-1, -2)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class ImageBindAudioEmbeddings(nn.Module):
    """Spectrogram (N, mel, frames) -> class token, then patches row by row: frequency outer, time inner."""

    def __init__(self, config: ImageBindAudioConfig):
        super().__init__()
        rows, columns = config.grid
        self.patch_embedding = nn.Conv2d(
            1, config.hidden_size, config.patch_size, stride=config.patch_stride, bias=False
        )
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.stem_layer_norm_eps)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.position_embedding = nn.Parameter(torch.zeros(1, 1 + rows * columns, config.hidden_size))

    def forward(self, input_features):
        pixels = input_features.unsqueeze(1).to(self.patch_embedding.weight.dtype)
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)  # (N, rows * columns, D)
        cls_token = self.cls_token.expand(len(patches), -1, -1)
        return torch.cat([cls_token, self.layernorm(patches)], dim=1) + self.position_embedding


class ImageBindAudioAttention(nn.Module):
    """Self-attention over L tokens; keys and values number L + 1, the last of them learned and equal for all inputs."""

    def __init__(self, config: ImageBindAudioConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.attention_dropout = config.attention_dropout
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.projection = nn.Linear(config.hidden_size, config.hidden_size)
        self.bias_k = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if config.add_bias_kv else None
        self.bias_v = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if config.add_bias_kv else None

    def forward(self, hidden_states, **kwargs: Unpack[TransformersKwargs]):
        batch = len(hidden_states)
        query, key, value = self.qkv(hidden_states).chunk(3, dim=-1)
        if self.bias_k is not None:
            key = torch.cat([key, self.bias_k.expand(batch, -1, -1)], dim=1)
            value = torch.cat([value, self.bias_v.expand(batch, -1, -1)], dim=1)
        query, key, value = (x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for x in (query, key, value))
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attention(
            self,
            query,
            key,
            value,
            attention_mask=None,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.projection(output.reshape(hidden_states.shape)), weights


class ImageBindAudioLayer(GradientCheckpointingLayer):
    """Pre-norm transformer block."""

    def __init__(self, config: ImageBindAudioConfig):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = ImageBindAudioAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states, **kwargs: Unpack[TransformersKwargs]):
        attended, _ = self.self_attn(self.layer_norm1(hidden_states), **kwargs)
        hidden_states = hidden_states + attended
        return hidden_states + self.fc2(self.activation(self.fc1(self.layer_norm2(hidden_states))))


class ImageBindAudioPreTrainedModel(PreTrainedModel):
    config: ImageBindAudioConfig
    base_model_prefix = "imagebind_audio"
    main_input_name = "input_features"
    input_modalities = ("audio",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["ImageBindAudioEmbeddings", "ImageBindAudioLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": ImageBindAudioLayer, "attentions": ImageBindAudioAttention}

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, ImageBindAudioEmbeddings):
            init.normal_(module.cls_token, std=std)
            init.normal_(module.position_embedding, std=std)
        elif isinstance(module, ImageBindAudioAttention) and module.bias_k is not None:
            init.normal_(module.bias_k, std=std)
            init.normal_(module.bias_v, std=std)


class ImageBindAudioModel(ImageBindAudioPreTrainedModel):
    """Two-second chunks of sound -> their tokens and one vector each."""

    def __init__(self, config: ImageBindAudioConfig):
        super().__init__(config)
        self.embeddings = ImageBindAudioEmbeddings(config)
        self.layers = nn.ModuleList([ImageBindAudioLayer(config) for _ in range(config.num_hidden_layers)])
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.hidden_size, config.projection_dim, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.embeddings.patch_embedding

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self, input_features: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple | BaseModelOutputWithPooling:
        """Encode N chunks.

        Args:
            input_features: (N, num_mel_bins, num_frames), normalised log-mel spectrograms of 2 s each, as
                `ImageBindFeatureExtractor` makes them. N may be 0.

        Returns:
            `last_hidden_state` (N, 1 + rows * columns, D): the trunk's tokens, class token first, before the head's
            norm; `pooler_output` (N, projection_dim): the head's vector, of L2 norm `config.logit_scale`.

        Raises:
            ValueError: the spectrograms have another size; the learned positions fit one size only.
        """
        expected = (self.config.num_mel_bins, self.config.num_frames)
        if input_features.dim() != 3 or tuple(input_features.shape[1:]) != expected:
            raise ValueError(
                f"input_features has shape {tuple(input_features.shape)}; the ImageBind audio tower takes chunks of "
                f"(N, {expected[0]} mel bins, {expected[1]} frames)"
            )
        hidden_states = self.embeddings(input_features)
        if len(hidden_states) == 0:
            # transformers' sdpa path cannot reshape an empty batch: a batch of clips without any sound.
            pooled = hidden_states.new_zeros(0, self.config.projection_dim)
            return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled)
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        pooled = self.projection(self.layernorm(hidden_states[:, 0]))
        pooled = nn.functional.normalize(pooled, dim=-1) * self.config.logit_scale
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled)

    def frame_states(self, last_hidden_state: torch.Tensor) -> torch.Tensor:
        """The trunk's time steps: the class token dropped, the mean taken over the frequency rows.

        AcoustEmo refers to frame-level features of ImageBind (3.2), which has none: its head returns one vector per
        chunk. This is the only sequence in time in the tower.

        Args:
            last_hidden_state: (N, 1 + rows * columns, D).

        Returns:
            (N, columns, D): at full size 19 steps per chunk of 2 s.
        """
        return last_hidden_state[:, 1:].unflatten(1, self.config.grid).mean(dim=1)

    def frame_times(self, audio_times: torch.Tensor) -> torch.Tensor:
        """Time of each step of `frame_states`: the middle of the sound that the step's patches cover.

        Step k covers `patch_size` mel frames from frame `k * patch_stride` on; at full size 175 ms of sound from
        `100 * k` ms on, so its middle is 87 ms, 187 ms ... 1,887 ms after the start of its chunk.

        Args:
            audio_times: (...) int64, start of each chunk in ms, -1 for a padded chunk.

        Returns:
            (..., columns) int64 ms, -1 throughout a padded chunk.
        """
        config = self.config
        covered = (config.patch_size - 1) * config.mel_hop_ms + config.mel_window_ms
        steps = torch.arange(config.grid[1], device=audio_times.device)
        offsets = steps * config.patch_stride * config.mel_hop_ms + covered // 2  # (columns,)
        starts = audio_times.unsqueeze(-1)
        return torch.where(starts < 0, -1, starts + offsets)


__all__ = ["ImageBindAudioModel", "ImageBindAudioPreTrainedModel"]
