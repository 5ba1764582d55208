"""HumanOmni and R1-Omni (HumanMLLM; arXiv 2501.15111, 2503.05379): one vision tower, three branches, a gate that reads.

frames -> SigLIP -> video branch: RegNet stage, convolution over time and space, RegNet stage, two layers
                 -> body branch: the same, with weights of its own
                 -> face branch: two layers, bilinear halving of the grid
instruction -> BERT -> softmax over the three branches          -> their weighted sum: video tokens
sound  -> Whisper encoder -> average pool, stride 3 -> two layers -> audio tokens
all merged into the prompt -> Qwen2.5

What differs from the papers' models: the instruction decides how much each visual branch counts, so the processor hands
it over a second time, in BERT's tokens. The convolution over time looks at a frame and the one before it, so padded
frames, which come last, never reach a real one, and a whole batch takes one call.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.bert.modeling_bert import BertModel
from transformers.utils import can_return_tuple

from .configuration_humanomni import HumanOmniConfig
from .modeling_emotion import EmotionForConditionalGeneration, EmotionModel
from .parts_humanomni import assemble_humanomni
from .sound import chunk_states


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of maps (N, C, h, w)."""

    def forward(self, maps):
        return super().forward(maps.movedim(1, -1)).movedim(-1, 1)


class RegNetBlock(nn.Module):
    """RegNet-Y's block, with ChannelNorm and SiLU: 1x1, 3x3 by channel, squeeze and excitation, 1x1, shortcut.

    Args:
        input_size, size: channels.
    """

    def __init__(self, input_size, size):
        super().__init__()
        self.conv1 = nn.Conv2d(input_size, size, 1, bias=False)
        self.norm1 = ChannelNorm(size)
        self.conv2 = nn.Conv2d(size, size, 3, padding=1, groups=size, bias=False)
        self.norm2 = ChannelNorm(size)
        squeezed = round(input_size / 4)
        self.squeeze = nn.Conv2d(size, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, size, 1)
        self.conv3 = nn.Conv2d(size, size, 1, bias=False)
        self.norm3 = ChannelNorm(size)
        self.shortcut = None
        if input_size != size:
            self.shortcut = nn.Sequential(nn.Conv2d(input_size, size, 1, bias=False), ChannelNorm(size))

    def forward(self, maps):
        """maps (N, C, h, w) -> (N, C', h, w)."""
        states = functional.silu(self.norm1(self.conv1(maps)))
        states = functional.silu(self.norm2(self.conv2(states)))
        scale = self.excite(functional.silu(self.squeeze(states.mean((2, 3), keepdim=True))))
        states = self.norm3(self.conv3(states * scale.sigmoid()))
        return functional.silu(states + (maps if self.shortcut is None else self.shortcut(maps)))


class SpatioTemporalBranch(nn.Module):
    """Stage, sampling over time and space, stage, readout: the video branch, and the body branch.

    Args:
        input_size, size: D and H.
        depth: blocks of a stage.
        padding: of the sampling, in height and width.
    """

    def __init__(self, input_size, size, depth, padding):
        super().__init__()
        self.stage1 = nn.Sequential(*(RegNetBlock(size if i else input_size, size) for i in range(depth)))
        self.sampler = nn.Conv3d(size, size, (2, 2, 2), stride=(1, 2, 2), padding=(1, padding, padding))
        self.stage2 = nn.Sequential(*(RegNetBlock(size, size) for _ in range(depth)))
        self.readout = two_layers(size, size)

    def forward(self, maps, real):
        """maps (F, D, h, w) of the real frames, real (B, T) bool -> (F, V, H)."""
        maps = self.stage1(maps)
        clips = maps.new_zeros(*real.shape, *maps.shape[1:])  # (B, T, H, h, w)
        clips[real] = maps
        clips = functional.silu(self.sampler(clips.transpose(1, 2)))[:, :, :-1]
        maps = self.stage2(clips.transpose(1, 2)[real])
        return self.readout(maps.flatten(2).transpose(1, 2))


class HumanOmniModel(EmotionModel):
    """HumanOmni without the language-model head."""

    config: HumanOmniConfig
    processor_class = "processing_humanomni.HumanOmniProcessor"
    # The towers come with their published weights; BERT too.
    frozen_parts = ("vision_tower", "instruction_encoder", "audio_tower")
    whole_chunks = True
    _no_split_modules = ["RegNetBlock"]

    def __init__(self, config: HumanOmniConfig):
        super().__init__(config)
        width, text_width = config.vision_config.hidden_size, config.text_config.hidden_size
        self.video_branch = SpatioTemporalBranch(width, text_width, config.stage_depth, config.sampler_padding)
        self.body_branch = SpatioTemporalBranch(width, text_width, config.stage_depth, config.sampler_padding)
        self.face_branch = two_layers(width, text_width)
        self.instruction_encoder = BertModel(config.instruction_config, add_pooling_layer=False)
        self.gate = two_layers(config.instruction_config.hidden_size, 3, config.gate_size)
        if config.audio_config is not None:
            self.audio_projector = two_layers(config.audio_config.d_model, text_width)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, ChannelNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)

    @property
    def trained_dtype(self):
        """dtype of what stands behind the towers, which may be kept in another."""
        return self.language_model.get_input_embeddings().weight.dtype

    def train(self, mode: bool = True):
        """As the trunk's; a frozen BERT answers without dropout, as the frozen towers do."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.instruction_encoder.parameters()):
            self.instruction_encoder.eval()
        return self

    def frame_features(self, pixels):
        output = self.vision_tower(pixels.to(self.vision_tower.dtype), output_hidden_states=True, return_dict=True)
        return output.hidden_states[self.config.vision_feature_layer]

    def branch_weights(self, instruction_ids, instruction_mask):
        """How much each branch counts for an instruction: ids and mask (B, W) -> (B, 3), video, body and face."""
        read = self.instruction_encoder(instruction_ids, attention_mask=instruction_mask).last_hidden_state[:, 0]
        return self.gate(read.to(self.trained_dtype)).softmax(-1)

    def compress(self, frames):
        """One clip's tokens (T, V, H): every frame at half the grid, then every fourth frame whole -> (n, H)."""
        side = math.isqrt(frames.shape[1])
        maps = frames.transpose(1, 2).unflatten(2, (side, side))
        fast = functional.avg_pool2d(maps, 2).flatten(2).transpose(1, 2)
        slow = frames[1::4] if len(frames) > 1 else frames[:1]
        return torch.cat([fast.flatten(0, 1), slow.flatten(0, 1)])

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: Tensor | None = None,  # (B, T, 3, height, width)
        video_times: Tensor | None = None,  # (B, T) int64 ms, -1 for padded frames
        video_instruction_ids: Tensor | None = None,  # (B, W) the instruction in BERT's tokens
        video_instruction_mask: Tensor | None = None,  # (B, W) 1 where real
        video_features: Tensor | None = None,  # (B, T, P, D), cached `frame_features`, instead of pixels
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Video tokens; `pooler_output` is B tensors (n_b, H)."""
        real = video_times >= 0  # (B, T)
        states = self.frame_features(pixel_values_videos[real]) if video_features is None else video_features[real]
        states = states.to(self.trained_dtype)  # (F, P, D)
        side = self.config.vision_grid
        maps = states.transpose(1, 2).unflatten(2, (side, side))
        faces = self.face_branch(states).transpose(1, 2).unflatten(2, (side, side))
        faces = functional.interpolate(faces, size=(math.ceil(side / 2),) * 2, mode="bilinear")
        branches = [self.video_branch(maps, real), self.body_branch(maps, real), faces.flatten(2).transpose(1, 2)]
        weights = self.branch_weights(video_instruction_ids, video_instruction_mask)  # (B, 3)
        of_frame = weights.unsqueeze(1).expand(*real.shape, 3)[real]  # (F, 3)
        tokens = sum(
            branch * weight[:, None, None] for branch, weight in zip(branches, of_frame.unbind(-1), strict=True)
        )
        clips = tokens.split(real.sum(-1).tolist())
        if self.config.compress_frames:
            pooled = [self.compress(clip) if len(clip) else clip.flatten(0, 1) for clip in clips]
        else:
            pooled = [clip.flatten(0, 1) for clip in clips]
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=pooled)

    @can_return_tuple
    def get_audio_features(
        self,
        input_features: Tensor | None = None,  # (B, C, mel, frames), chunks of 30 s
        audio_attention_mask: Tensor | None = None,  # (B, C, frames) or (B, C), True where there is sound
        audio_features: Tensor | None = None,  # (B, C * l, D), cached states of the audio tower, instead of sound
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Audio tokens, of whole chunks; `pooler_output` is B tensors (n_b, H)."""
        output, states, chunks = chunk_states(
            self.audio_tower, input_features, audio_attention_mask, audio_features, **kwargs
        )
        states = states.unflatten(1, (chunks.shape[1], -1))[chunks].to(self.trained_dtype)
        pooled = functional.avg_pool1d(states.transpose(1, 2), self.config.audio_pool_stride).transpose(1, 2)
        tokens = self.audio_projector(pooled)  # (chunks, n, H)
        counts = (chunks.sum(-1) * tokens.shape[1]).tolist()
        return BaseModelOutputWithPooling(
            last_hidden_state=output.last_hidden_state,
            pooler_output=list(tokens.flatten(0, 1).split(counts)),
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )


class HumanOmniForConditionalGeneration(EmotionForConditionalGeneration):
    """HumanOmni as a generating model: the class that every Auto class gives for such a folder."""

    config: HumanOmniConfig
    model_class = HumanOmniModel
    assemble = staticmethod(assemble_humanomni)


def two_layers(input_size, size, hidden_size=None):
    """Linear, GELU, linear."""
    hidden_size = size if hidden_size is None else hidden_size
    return nn.Sequential(nn.Linear(input_size, hidden_size), nn.GELU(), nn.Linear(hidden_size, size))


# Its own files travel with whatever is saved, so that a folder loads without this package.
HumanOmniForConditionalGeneration.register_for_auto_class("AutoModel")

__all__ = ["HumanOmniForConditionalGeneration", "HumanOmniModel"]
