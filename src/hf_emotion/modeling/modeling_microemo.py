"""MicroEmo (arXiv 2407.16552): a video LLM that attends to facial regions and to each utterance.

frames -> vision tower -> global: image Q-Former that reads the frame's timestamp
                       -> local: regional attention -> the same image Q-Former
       -> gate -> utterance-aware video Q-Former -> linear -> video tokens
sound  -> audio tower -> audio Q-Former -> linear -> audio tokens
prompt with both merged in -> language model

The towers and Q-Formers are transformers' own. New here are the regional attention, the fusion of global and local
results and the way frames meet utterances (with `qformer.py`).
"""

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.instructblip.modeling_instructblip import InstructBlipQFormerModel
from transformers.models.siglip.modeling_siglip import eager_attention_forward
from transformers.utils import can_return_tuple

from .configuration_emotion import frame_rate_of
from .configuration_microemo import MicroEmoConfig
from .modeling_emotion import EmotionForConditionalGeneration, EmotionModel, idle
from .parts import assemble
from .qformer import PositionTable, QFormer, UtteranceQFormer
from .sound import encode_sound, sound_frames


class RegionAttention(nn.Module):
    """Attention that "allows each patch to selectively attend to pertinent micro-expression regions" (3.2).

    The paper gives no formula. Read as one residual, pre-norm, multi-head attention over the vision tower's tokens: a
    patch inside a region attends to the patches of its regions; every other token, the class token among them, attends
    to the union of the regions. A learned vector per region is added to its patches: without it the Q-Former could not
    tell a brow from a mouth once the head has moved. The output projection starts at zero and, by default, so does the
    gate behind it: training starts from the plain encoder.
    """

    is_causal = False

    def __init__(self, config, hidden_size, attention_size, num_heads, num_regions):
        super().__init__()
        self.config = config
        self.region_embedding = nn.Parameter(torch.zeros(num_regions, hidden_size))
        self.num_heads = num_heads
        self.scaling = (attention_size // num_heads) ** -0.5
        self.layernorm = nn.LayerNorm(hidden_size)
        self.query = nn.Linear(hidden_size, attention_size)
        self.key = nn.Linear(hidden_size, attention_size)
        self.value = nn.Linear(hidden_size, attention_size)
        self.output = nn.Linear(attention_size, hidden_size)

    def forward(self, states, regions):
        """states (F, prefix + P, D), regions (F, R, P) bool with at least one patch a frame -> (F, prefix + P, D)."""
        regions = nn.functional.pad(regions, (states.shape[1] - regions.shape[-1], 0))  # (F, R, prefix + P)
        visible = self.visible(regions)
        mask = torch.zeros_like(visible, dtype=states.dtype).masked_fill(~visible, torch.finfo(states.dtype).min)
        hidden = self.layernorm(states)
        query, key, value = (
            layer(hidden).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        # Flash and flex attention take no arbitrary mask.
        implementation = "eager" if self.config._attn_implementation == "eager" else "sdpa"
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        attended, _ = attend(self, query, key, value, mask[:, None], scaling=self.scaling)
        named = torch.einsum("frp,rd->fpd", regions.to(states.dtype), self.region_embedding)
        return states + self.output(attended.flatten(2)) + named

    @staticmethod
    def visible(regions):
        """Which token sees which: regions (F, R, P') bool -> (F, P', P') bool, without an empty row."""
        member = regions.float()
        same_region = torch.einsum("frp,frq->fpq", member, member) > 0
        anywhere = regions.any(1)  # (F, P')
        return torch.where(anywhere.unsqueeze(-1), same_region, anywhere.unsqueeze(1))


class TimestampQFormer(nn.Module):
    """The image Q-Former: queries that read a frame's patches and the sentence that states its time (3.2).

    "we add the frame-level timestamp, e.g., 'This frame is sampled at 0.0s.', as a condition to the Q-Former". Only
    the queries' outputs are kept: the text outputs, which TimeChat also forwards, hold padding.
    """

    def __init__(self, config, num_query_tokens):
        super().__init__()
        self.query_tokens = nn.Parameter(torch.zeros(1, num_query_tokens, config.hidden_size))
        self.qformer = InstructBlipQFormerModel(config)

    def forward(self, states, timestamp_ids, timestamp_mask):
        """states (F, P, D), timestamp_ids and timestamp_mask (F, W) -> (F, K, width of the Q-Former)."""
        queries = self.query_tokens.expand(len(states), -1, -1)
        attention_mask = torch.cat([timestamp_mask.new_ones(queries.shape[:2]), timestamp_mask], dim=1)
        output = self.qformer(
            timestamp_ids,
            attention_mask=attention_mask,
            query_embeds=queries,
            encoder_hidden_states=states.to(queries.dtype),
        )
        return output.last_hidden_state[:, : queries.shape[1]]


class LocalFusion(nn.Module):
    """ "The global and local results are fused" (3.2): a weight per channel, a sum, or a projection of both.

    With `local_dynamics` the change of the local result since the frame before is added through a gate of its own.
    """

    def __init__(self, hidden_size, fusion, gate_init, local_dynamics):
        super().__init__()
        self.fusion = fusion
        self.gate_init = gate_init
        self.gate = nn.Parameter(torch.full((hidden_size,), float(gate_init))) if fusion == "gate" else None
        self.projection = nn.Linear(2 * hidden_size, hidden_size) if fusion == "concat" else None
        self.dynamics_gate = nn.Parameter(torch.full((hidden_size,), float(gate_init))) if local_dynamics else None

    def forward(self, whole, local, has_face):
        """whole, local (B, T, K, width), has_face (B, T) bool: frames with a face -> (B, T, K, width)."""
        shown = has_face[..., None, None].to(whole.dtype)  # (B, T, 1, 1)
        if self.fusion == "gate":
            fused = whole + self.gate * local * shown
        elif self.fusion == "sum":
            fused = whole + local * shown
        else:
            fused = whole + self.projection(torch.cat([whole, local], dim=-1)) * shown
        if self.dynamics_gate is not None:
            steady = nn.functional.pad(has_face[:, 1:] & has_face[:, :-1], (1, 0))[..., None, None].to(whole.dtype)
            change = nn.functional.pad(local[:, 1:] - local[:, :-1], (0, 0, 0, 0, 1, 0))
            fused = fused + self.dynamics_gate * change * steady
        return fused


class MicroEmoModel(EmotionModel):
    """MicroEmo without the language-model head."""

    config: MicroEmoConfig
    processor_class = "processing_microemo.MicroEmoProcessor"
    modality_names = ("video", "face", "audio")
    _no_split_modules = ["RegionAttention", "TimestampQFormer"]

    def __init__(self, config: MicroEmoConfig):
        super().__init__(config)
        frame_width = config.image_qformer_config.hidden_size
        text_width = config.text_config.hidden_size
        self.image_qformer = TimestampQFormer(config.image_qformer_config, config.num_query_tokens)
        if config.use_regions:
            sizes = (config.region_attention_size, config.region_attention_heads, config.num_regions)
            self.region_attention = RegionAttention(config, config.vision_config.hidden_size, *sizes)
            self.local_fusion = LocalFusion(
                frame_width, config.local_fusion, config.local_gate_init, config.local_dynamics
            )
            if config.local_qformer == "separate":
                self.local_qformer = TimestampQFormer(config.image_qformer_config, config.num_query_tokens)
        self.frame_position_embedding = PositionTable(config.num_frame_positions, frame_width)
        windows = {"use_utterances": config.use_utterances, "share_weights": config.share_video_qformers}
        self.video_qformer = UtteranceQFormer(config.video_qformer_config, config.num_video_query_tokens, **windows)
        self.video_projector = nn.Linear(config.video_qformer_config.hidden_size, text_width)
        if config.audio_config is not None:
            self.audio_position_embedding = PositionTable(config.num_audio_positions, config.audio_width)
            queries = (config.audio_qformer_config, config.num_audio_query_tokens)
            by_utterance = config.audio_windows == "utterances"
            self.audio_qformer = UtteranceQFormer(*queries, **windows) if by_utterance else QFormer(*queries)
            self.audio_projector = nn.Linear(config.audio_qformer_config.hidden_size, text_width)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, TimestampQFormer):
            # Zero queries under a LayerNorm would give gradients near 1e12.
            init.normal_(module.query_tokens, std=self.config.initializer_range)
        elif isinstance(module, RegionAttention):
            # As large as the normalised tokens they mark; the fusion's gate keeps the start plain.
            init.normal_(module.region_embedding, std=1.0)
            init.zeros_(module.output.weight)
            init.zeros_(module.output.bias)
        elif isinstance(module, LocalFusion):
            for gate in (module.gate, module.dynamics_gate):
                if gate is not None:
                    init.constant_(gate, module.gate_init)

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: Tensor | None = None,  # (B, T, 3, height, width)
        video_landmarks: Tensor | None = None,  # (B, T, 468, 3) pixels, for a landmark tower
        video_features: Tensor | None = None,  # (B, T, tokens, D), cached, instead of pixels or landmarks
        video_times: Tensor | None = None,  # (B, T) int64 ms, -1 for padded frames
        video_timestamp_ids: Tensor | None = None,  # (B, T, W), the sentence that states each frame's time
        video_timestamp_mask: Tensor | None = None,  # (B, T, W)
        video_region_masks: Tensor | None = None,  # (B, T, R, P) bool; a frame without any True has no face
        utterance_spans: Tensor | None = None,  # (B, N, 2) int64 ms, start and end, -1 for padded utterances
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """T_V = [T_global, T_1, ..., T_N] (3.2, 3.3); `pooler_output` is B tensors (n_b, H)."""
        if video_times is None or video_timestamp_ids is None or video_timestamp_mask is None:
            raise ValueError("MicroEmo needs video_times, video_timestamp_ids and video_timestamp_mask beside frames")
        real = video_times >= 0
        if video_landmarks is not None and video_features is None:
            # Speed and the person's calm frames are of the clip, so this tower reads whole clips.
            output = self.vision_tower(video_landmarks, video_times)
        else:
            output = self.vision_output(pixel_values_videos, real, video_features, **kwargs)
        ids, mask = video_timestamp_ids[real], video_timestamp_mask[real]
        regions = None if video_region_masks is None else video_region_masks[real]
        frames = self.frame_results(output.last_hidden_state, ids, mask, regions, real)
        output.pooler_output = self.window_tokens(frames, video_times, utterance_spans)
        return output

    def window_tokens(self, frames, video_times, utterance_spans=None):
        """The utterance-aware video Q-Former (3.3) and the projector.

        frames (B, T, K, width of the image Q-Former), video_times (B, T), utterance_spans (B, N, 2) -> a list of B
        tensors (K_v * (1 + N_b), H), [T_global, T_1, ..., T_N] of each clip.
        """
        positions = self.frame_position_embedding(video_times >= 0)  # (B, T, width)
        tokens, counts = self.video_qformer(frames + positions.unsqueeze(2), video_times, utterance_spans)
        return list(self.video_projector(tokens).split(counts))

    def frame_results(self, states, timestamp_ids, timestamp_mask, regions=None, real=None):
        """The global-local attention visual encoder (3.2): global and local results of each frame, fused.

        Args:
            states: (F, tokens, D), the vision tower's output for F real frames.
            timestamp_ids, timestamp_mask: (F, W).
            regions: (F, R, P) bool; needed unless `use_regions=False`.
            real: (B, T) bool, where the F frames stand in their clips; `None` makes each frame a clip of its own.

        Returns:
            (B, T, K, width of the image Q-Former), zero for padded frames.
        """
        if real is None:
            real = torch.ones(len(states), 1, dtype=torch.bool, device=states.device)
        whole = per_clip(self.image_qformer(states, timestamp_ids, timestamp_mask), real)
        if not self.config.use_regions:
            return whole
        if regions is None:
            raise ValueError("MicroEmo with use_regions=True needs video_region_masks beside frames")
        local, has_face = self.local_results(states, timestamp_ids, timestamp_mask, regions)
        return self.local_fusion(whole, per_clip(local, real), per_clip(has_face, real))

    def local_results(self, states, timestamp_ids, timestamp_mask, regions):
        """The image Q-Former's results on facial regions, for frames with a face; zero for the others.

        states (F, tokens, D), timestamp_ids and timestamp_mask (F, W), regions (F, R, P) -> (F, K, width), (F,) bool.
        """
        if regions.shape[1] != self.config.num_regions:
            raise ValueError(
                f"video_region_masks hold {regions.shape[1]} regions; this model was made for {self.config.num_regions}"
            )
        if not 0 <= states.shape[1] - regions.shape[-1] <= 8:
            raise ValueError(
                f"video_region_masks cover {regions.shape[-1]} patches but the vision tower gives {states.shape[1]} "
                f"tokens a frame; the processor's patch_grid must be the tower's"
            )
        has_face = regions.flatten(1).any(-1)  # (F,)
        qformer = self.image_qformer if self.config.local_qformer == "shared" else self.local_qformer
        width = qformer.query_tokens.shape[-1]
        local = states.new_zeros(len(states), qformer.query_tokens.shape[1], width, dtype=qformer.query_tokens.dtype)
        if has_face.any():
            focused = self.region_attention(
                states[has_face].to(self.region_attention.layernorm.weight.dtype), regions[has_face]
            )
            local[has_face] = qformer(focused, timestamp_ids[has_face], timestamp_mask[has_face])
        elif self.training:
            local = local + idle(self.region_attention, qformer).to(local)
        return local, has_face

    @can_return_tuple
    def get_audio_features(
        self,
        input_features: Tensor | None = None,  # (B, C, mel, frames), chunks of sound, or
        input_values: Tensor | None = None,  # (B, samples), a waveform, or
        audio_features: Tensor | None = None,  # (B, L, D), cached states of the audio tower
        audio_attention_mask: Tensor | None = None,  # (B, C), (B, samples) or (B, L), True where real
        audio_times: Tensor | None = None,  # (B, C) int64 ms, start of each chunk; used for windows of utterances
        utterance_spans: Tensor | None = None,  # (B, N, 2) int64 ms; used for windows of utterances
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """T_A (3.1: "a pre-trained encoder and whole audio Q-Former"); `pooler_output` is B tensors (K or 0, H).

        With `audio_windows="utterances"`, AcoustEmo's T_A = [T_global, T_1, ..., T_N] over the same utterances.
        """
        if self.config.audio_windows == "utterances":
            sound = (input_features, input_values, audio_attention_mask, audio_times, None, audio_features)
            output, states, times = sound_frames(self.audio_tower, frame_rate_of(self.config.audio_config), *sound)
            states = states.to(self.audio_projector.bias.dtype) + self.audio_position_embedding(times >= 0)
            tokens, counts = self.audio_qformer(states.unsqueeze(2), times, utterance_spans)
            output.pooler_output = list(self.audio_projector(tokens).split(counts))
            return output
        if audio_features is None:
            output, states, mask = encode_sound(
                self.audio_tower,
                self.config.audio_feature,
                input_features,
                input_values,
                audio_attention_mask,
                **kwargs,
            )
        else:
            output, states, mask = BaseModelOutputWithPooling(), audio_features, audio_attention_mask.bool()
        with_sound = mask.any(-1)  # (B,)
        states = states.to(self.audio_projector.bias.dtype) + self.audio_position_embedding(mask)
        tokens = self.audio_projector(self.audio_qformer(states[with_sound], mask[with_sound]))  # (clips, K, H)
        output.pooler_output = list(tokens.flatten(0, 1).split((with_sound.long() * tokens.shape[1]).tolist()))
        return output

    def sound_features(self, audio_attention_mask, **sound):
        feature = self.config.audio_feature
        return encode_sound(self.audio_tower, feature, audio_attention_mask=audio_attention_mask, **sound)[1:]

    def present_modalities(self, inputs):
        present = super().present_modalities(inputs)
        masks = inputs.get("video_region_masks")
        if "video" in present and self.config.use_regions and masks is not None:
            present["face"] = masks.flatten(1).any(-1)
        return present


class MicroEmoForConditionalGeneration(EmotionForConditionalGeneration):
    """MicroEmo as a generating model: the class that every Auto class gives for a MicroEmo folder."""

    config: MicroEmoConfig
    model_class = MicroEmoModel
    assemble = staticmethod(assemble)


def per_clip(values, real):
    """Values of the real frames (F, ...) back in their places: (B, T, ...), zero for padded frames."""
    placed = values.new_zeros(*real.shape, *values.shape[1:])
    placed[real] = values
    return placed


# Its own files travel with whatever is saved, so that a folder loads without this package.
MicroEmoForConditionalGeneration.register_for_auto_class("AutoModel")

__all__ = ["MicroEmoForConditionalGeneration", "MicroEmoModel"]
