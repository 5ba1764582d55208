"""Omni-Emotion (arXiv 2501.09502): LLaVA-OneVision with sound and a branch for the face.

frames -> SigLIP -> LLaVA-OneVision's projector, pooling and newline          -> video tokens
sound  -> Whisper encoder -> average pool, stride 3 -> linear, GELU, linear   -> audio tokens
faces  -> FaceXFormer encoder -> pooled grid -> linear, GELU, linear          -> face tokens
frames and faces fused (Figure 6), all merged into the prompt -> Qwen2

What differs from the other papers: a modality that is absent keeps its placeholders, and zeros go into its tower; and
faces have placeholders of their own. Of the base nothing is changed: with `face_config=None, audio_config=None` this is
LLaVA-OneVision on video, under the same names of tensors.
"""

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llava_onevision.modeling_llava_onevision import (
    LlavaOnevisionModel,
    LlavaOnevisionMultiModalProjector,
)
from transformers.models.siglip.modeling_siglip import eager_attention_forward
from transformers.utils import can_return_tuple

from .configuration_omni_emotion import OmniEmotionConfig
from .generation_emotion import MediaTokens
from .modeling_emotion import EmotionForConditionalGeneration, EmotionModel
from .parts_omni_emotion import assemble_omni_emotion
from .qformer import PositionTable
from .sound import chunk_states
from .towers import build_tower


class FaceAttention(nn.Module):
    """Figure 6 (b): "facial features act as the query and visual features as the keys and values" (4.3), by frame.

    Paper silent on the rest; read as one multi-head attention in the language model's width, with a residual to the
    face tokens and a LayerNorm behind it.
    """

    is_causal = False

    def __init__(self, config, hidden_size, num_heads):
        super().__init__()
        self.config = config
        self.num_heads = num_heads
        self.scaling = (hidden_size // num_heads) ** -0.5
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)
        self.layernorm = nn.LayerNorm(hidden_size)

    def forward(self, faces, frames):
        """faces (T, F, H), frames (T, V, H) -> (T, F, H)."""
        query, key, value = (
            layer(states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer, states in ((self.query, faces), (self.key, frames), (self.value, frames))
        )
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        attended, _ = attend(self, query, key, value, None, scaling=self.scaling)
        return self.layernorm(faces + self.output(attended.flatten(2)))


def clip_concat(frames, newline, faces):
    """Figure 6 (c): [v_1 ... v_T newline f_1 ... f_T], "the least effect on the original video MLLM" (4.3).

    Args:
        frames: (T, V, ...), what stands for the V visual tokens of each frame: features, or placeholder ids.
        newline: (1, ...), LLaVA-OneVision's token at the end of a video.
        faces: (T, F, ...).

    Returns:
        (T * V + 1 + T * F, ...).
    """
    return torch.cat([frames.flatten(0, 1), newline, faces.flatten(0, 1)])


def frame_concat(frames, newline, faces):
    """Figure 6 (a): [v_1 f_1 ... v_T f_T newline]; arguments as for `clip_concat`."""
    return torch.cat([torch.cat([frames, faces], dim=1).flatten(0, 1), newline])


# Where the visual tokens of a clip stand in its prompt. Figure 6 (b) has the order of (a): its face tokens attended to
# their frame, and the general visual tokens are passed on "to retain general knowledge".
FUSIONS = {"clip_concat": clip_concat, "frame_concat": frame_concat, "frame_cross_attention": frame_concat}


class FrameEmbedding(PositionTable):
    """ "For the features of each frame, we add a learnable parameter" (4.4, Phase 3). Starts at zero."""


class OmniEmotionModel(EmotionModel):
    """Omni-Emotion without the language-model head."""

    config: OmniEmotionConfig
    processor_class = "processing_omni_emotion.OmniEmotionProcessor"
    # Phase 3: "We fine-tune three projectors and the LLM decoder" (4.4), and the frame parameter with them.
    frozen_parts = ("vision_tower", "audio_tower", "face_tower", "image_newline")
    media_names = modality_names = ("video", "face", "audio")
    whole_chunks = True
    _no_split_modules = ["FaceAttention"]

    def __init__(self, config: OmniEmotionConfig):
        super().__init__(config)
        text_width = config.text_config.hidden_size
        self.multi_modal_projector = LlavaOnevisionMultiModalProjector(config)
        self.image_newline = nn.Parameter(torch.empty(text_width))
        self.frame_embedding = FrameEmbedding(config.num_frame_positions, text_width)
        if config.face_config is not None:
            self.face_tower = build_tower(config.face_config)
            self.face_projector = two_layers(config.face_config.hidden_size, text_width, config.projector_hidden_act)
            if config.fusion == "frame_cross_attention":
                self.face_attention = FaceAttention(config, text_width, config.fusion_attention_heads)
        if config.audio_config is not None:
            self.audio_projector = two_layers(config.audio_config.d_model, text_width, config.projector_hidden_act)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, OmniEmotionModel):
            init.normal_(module.image_newline, std=self.config.text_config.hidden_size**-0.5)
        elif isinstance(module, FrameEmbedding):
            init.zeros_(module.weight)

    # Towers and projectors

    def frame_tokens(self, states):
        """The vision tower's states of N frames (N, P, D) -> LLaVA-OneVision's video tokens (N, V, H)."""
        return LlavaOnevisionModel.apply_pooling(self, self.multi_modal_projector(states))

    def face_tokens(self, states):
        """The face tower's map of N faces (N, P, D), or one already pooled -> (N, F, H)."""
        return self.face_projector(self.pooled_faces(states))

    def pooled_faces(self, states):
        """Maps of N faces (N, P, D) -> (N, F, D), means over the cells of `face_grid`."""
        side = round(states.shape[1] ** 0.5)
        grid = states.transpose(1, 2).unflatten(2, (side, side))  # (N, D, side, side)
        pooled = nn.functional.adaptive_avg_pool2d(grid, self.config.face_grid)
        return pooled.flatten(2).transpose(1, 2)

    def sound_tokens(self, states):
        """The audio tower's states of N chunks (N, l, D) -> (N, l // stride, H)."""
        pooled = nn.functional.avg_pool1d(states.transpose(1, 2), self.config.audio_pool_stride)
        return self.audio_projector(pooled.transpose(1, 2))

    def frame_states(self, pixel_values, **kwargs):
        """Pictures (N, 3, height, width) -> the vision tower's output, and its states (N, P, D) that are projected."""
        kwargs["output_hidden_states"] = True
        output = self.vision_tower(pixel_values.to(self.vision_tower.dtype), return_dict=True, **kwargs)
        return output, output.hidden_states[self.config.vision_feature_layer]

    def frame_features(self, pixels):
        return self.frame_states(pixels)[1]

    def tower_features(self, **inputs):
        """As the trunk's, with `face_features`, pooled to `face_grid`: at full size a 64th of the face tower's map."""
        inputs = super().tower_features(**inputs)
        if "pixel_values_faces" in inputs:
            real = inputs["video_times"] >= 0
            pixels = inputs.pop("pixel_values_faces")[real].to(self.face_tower.dtype)
            states = self.pooled_faces(self.face_tower(pixels, return_dict=True).last_hidden_state)
            inputs["face_features"] = states.new_zeros(*real.shape, *states.shape[1:])
            inputs["face_features"][real] = states
        return inputs

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: Tensor | None = None,  # (B, T, 3, height, width)
        video_times: Tensor | None = None,  # (B, T) int64 ms, -1 for padded frames
        video_features: Tensor | None = None,  # (B, T, P, D), cached (`frame_states`), instead of pixels
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """General visual tokens (4.2, 4.4): the frames' and the newline.

        `pooler_output` is B tensors (T_b * V + 1, H), (0, H) for a clip without frames.
        """
        real = video_times >= 0  # (B, T)
        if video_features is None:
            output, states = self.frame_states(pixel_values_videos[real], **kwargs)
        else:
            output, states = BaseModelOutputWithPooling(), video_features[real]
        tokens = self.frame_tokens(states.to(self.image_newline.dtype))  # (frames, V, H)
        tokens = tokens + self.frame_embedding(real)[real].unsqueeze(1)
        newline = self.image_newline[None]
        output.pooler_output = [
            torch.cat([frames.flatten(0, 1), newline]) if len(frames) else frames.flatten(0, 1)
            for frames in tokens.split(real.sum(-1).tolist())
        ]
        return output

    @can_return_tuple
    def get_face_features(
        self,
        pixel_values_faces: Tensor | None = None,  # (B, T, 3, height, width), face crops, else the whole frame
        video_times: Tensor | None = None,  # (B, T) int64 ms, -1 for padded frames
        face_features: Tensor | None = None,  # (B, T, P, D), cached maps, whole or pooled, instead of pixels
        face_found: Tensor | None = None,  # (B, T) bool, frames that show a face; decides `modalities` alone
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Face tokens (4.2), before any fusion; `pooler_output` is B tensors (T_b * F, H).

        Cached maps may be pooled to any square grid that `face_grid` divides.
        """
        real = video_times >= 0  # (B, T)
        if face_features is None:
            output = self.face_tower(pixel_values_faces[real].to(self.face_tower.dtype), return_dict=True, **kwargs)
            states = output.last_hidden_state
        else:
            output, states = BaseModelOutput(), face_features[real]
        tokens = self.face_tokens(states.to(self.image_newline.dtype))  # (frames, F, H)
        tokens = tokens + self.frame_embedding(real)[real].unsqueeze(1)
        counts = (real.sum(-1) * tokens.shape[1]).tolist()
        return BaseModelOutputWithPooling(
            last_hidden_state=output.last_hidden_state,
            pooler_output=list(tokens.flatten(0, 1).split(counts)),
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    @can_return_tuple
    def get_audio_features(
        self,
        input_features: Tensor | None = None,  # (B, C, mel, frames), chunks of sound, 30 s each at full size
        audio_attention_mask: Tensor | None = None,  # (B, C, frames) bool, True for sound, or (B, C) for whole chunks
        audio_features: Tensor | None = None,  # (B, C * l, D), cached states of the audio tower, instead of sound
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Audio tokens (4.1), chunk after chunk; `pooler_output` is B tensors (n_b, H)."""
        mask = audio_attention_mask.bool()
        output, states, chunks = chunk_states(self.audio_tower, input_features, mask, audio_features, **kwargs)
        states = states.unflatten(1, (chunks.shape[1], -1))[chunks].to(self.image_newline.dtype)  # (chunks, l, D)
        tokens = self.sound_tokens(states)
        lengths = torch.full_like(chunks, tokens.shape[1], dtype=torch.long)
        if mask.dim() == 3 and not self.config.keep_padding:
            lengths = (mask.sum(-1) / self.config.mel_frames_per_token).ceil().long().clamp(max=tokens.shape[1])
        lengths = lengths.masked_fill(~chunks, 0)  # (B, C)
        within = torch.arange(tokens.shape[1], device=mask.device) < lengths[chunks].unsqueeze(-1)
        return BaseModelOutputWithPooling(
            last_hidden_state=output.last_hidden_state,
            pooler_output=list(tokens[within].split(lengths.sum(-1).tolist())),
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def fuse(self, video, face):
        """Face tokens of one clip as they enter the prompt: (T * V + 1, H), (T * F, H) -> (T * F, H)."""
        if self.config.fusion != "frame_cross_attention":
            return face
        frames = video[:-1].unflatten(0, (-1, self.config.tokens_per_frame))
        return self.face_attention(face.unflatten(0, (len(frames), -1)), frames).flatten(0, 1)

    def present_modalities(self, inputs):
        present = super().present_modalities(inputs)
        faces = inputs.get("pixel_values_faces") is not None or inputs.get("face_features") is not None
        if "video" in present and self.config.face_config is not None and faces:
            present["face"] = present["video"]  # a frame without a face is encoded whole
        return present

    def encode_media(self, **inputs) -> MediaTokens:
        """As the trunk's, with faces fused. What stands for an absent modality depends on the prompt: see `embed`."""
        media = super().encode_media(**inputs)
        if media.face is not None:
            pairs = zip(media.video, media.face, strict=True)
            media.face = [self.fuse(video, face) if len(face) else face for video, face in pairs]
            if inputs.get("face_found") is not None:
                with_face = (inputs["face_found"] & (inputs["video_times"] >= 0)).any(-1)
                media.modalities[:, self.modality_names.index("face")] = with_face
        return media

    # Absent modalities and the prompt

    def stand_ins(self, input_ids, media):
        """`media` with tokens for every modality that a row's prompt has placeholders for and its clip lacks.

        "If one modality is absent, we use a zero tensor to replace it" (4.4). A row without placeholders for it gets
        none; a number of placeholders that no clip could have is left for `merge` to refuse.
        """
        config = self.config
        tokens = {name: None if media is None else getattr(media, name) for name in self.media_names}
        if config.missing_modality == "drop":
            return MediaTokens(**tokens)
        expected = {
            name: (input_ids == getattr(config, f"{name}_token_id")).sum(-1).tolist() for name in self.media_names
        }
        empty = self.image_newline.new_zeros(0, len(self.image_newline))
        for name in self.media_names:
            sequences = tokens[name] or [empty] * len(input_ids)
            absent = [row for row, count in enumerate(expected[name]) if count and not len(sequences[row])]
            if absent:
                zero = self.zero_tokens(name, sequences[0])
                sequences = list(sequences)
                for row in absent:
                    sequences[row] = self.repeat_zero(name, zero, expected[name][row], tokens["video"], row)
                tokens[name] = sequences
        return MediaTokens(**tokens, modalities=None if media is None else media.modalities)

    def zero_tokens(self, name, like):
        """What the model makes of one zero frame, face or chunk of sound: (V, H), (F, H) or (l, H)."""
        config = self.config
        counts = {"video": config.tokens_per_frame, "face": config.face_tokens_per_frame}
        if getattr(config, {"video": "vision_config", "face": "face_config", "audio": "audio_config"}[name]) is None:
            return like.new_zeros(0, like.shape[-1])
        if config.missing_modality == "zero_feature":
            return like.new_zeros(counts.get(name) or config.audio_tokens_per_chunk, like.shape[-1])
        # A tower may be kept in another dtype than what stands behind it.
        if name == "audio":
            shape = (1, config.audio_config.num_mel_bins, 2 * config.audio_config.max_source_positions)
            states = self.audio_tower(like.new_zeros(shape, dtype=self.audio_tower.dtype)).last_hidden_state
            return self.sound_tokens(states.to(self.image_newline.dtype))[0]
        if name == "video":
            size = config.vision_config.image_size
            states = self.frame_states(like.new_zeros(1, 3, size, size))[1]
            return self.frame_tokens(states.to(self.image_newline.dtype))[0]
        size = config.face_config.image_size
        pixels = like.new_zeros(1, 3, size, size, dtype=self.face_tower.dtype)
        return self.face_tokens(self.face_tower(pixels).last_hidden_state.to(self.image_newline.dtype))[0]

    def repeat_zero(self, name, zero, count, video, row):
        """`count` tokens made of those of one zero input; none at all if no clip could have so many."""
        if len(zero) == 0 or (name == "audio" and count > len(zero)):
            return zero[:0]
        if name == "audio":
            return zero[:count]
        frames, rest = divmod(count - (name == "video"), len(zero))
        if rest or frames < 1:
            return zero[:0]
        if self.config.missing_modality == "zero_feature":
            tokens = zero.repeat(frames, 1)
            return tokens if name == "face" else torch.cat([tokens, tokens[:1]])
        real = torch.ones(1, frames, dtype=torch.bool, device=zero.device)
        tokens = (zero + self.frame_embedding(real)[0].unsqueeze(1)).flatten(0, 1)
        if name == "video":
            return torch.cat([tokens, self.image_newline[None]])
        seen = None if video is None else video[row]
        if seen is None or len(seen) != frames * self.config.tokens_per_frame + 1:
            return zero[:0]
        return self.fuse(seen, tokens)

    def embed(self, input_ids, media=None):
        """As the trunk's; absent modalities are filled in, and the order of visual placeholders is checked.

        Raises:
            ValueError: also where placeholders of frames and faces stand in another order than `fusion` puts them.
        """
        media = self.stand_ins(input_ids, media)
        embeds = super().embed(input_ids, media)
        if media.face is not None:
            self.check_order(input_ids, media.face)
        return embeds

    def check_order(self, input_ids, face):
        """Compare each row's visual placeholders (S,) with the order that Figure 6 gives them."""
        config = self.config
        kinds = {"video": config.video_token_id, "face": config.face_token_id}
        for row, (ids, tokens) in enumerate(zip(input_ids, face, strict=True)):
            if not len(tokens):
                continue
            visual = ids[(ids == kinds["video"]) | (ids == kinds["face"])]
            frames = len(tokens) // config.face_tokens_per_frame
            ordered = FUSIONS[config.fusion](
                visual.new_full((frames, config.tokens_per_frame), kinds["video"]),
                visual.new_full((1,), kinds["video"]),
                visual.new_full((frames, config.face_tokens_per_frame), kinds["face"]),
            )
            if not torch.equal(visual, ordered):
                raise ValueError(
                    f"row {row} of the batch has its video and face placeholders in another order than fusion "
                    f"{config.fusion!r} puts them; processor and model must agree on the fusion"
                )


class OmniEmotionForConditionalGeneration(EmotionForConditionalGeneration):
    """Omni-Emotion as a generating model: the class that every Auto class gives for an Omni-Emotion folder."""

    config: OmniEmotionConfig
    model_class = OmniEmotionModel
    assemble = staticmethod(assemble_omni_emotion)

    @torch.no_grad()
    def add_tokens(self, ids: list[int], known: int):
        """Give new tokens rows in the embedding table and the head, each the mean of the words' rows.

        A published table may be longer than its vocabulary; its spare rows were never trained and are no start.

        Args:
            ids: such as `marker_ids` of the processor.
            known: tokens of the language model's own vocabulary; the mean is over their rows.

        Returns:
            the model.
        """
        if max(ids, default=-1) >= len(self.get_input_embeddings().weight):
            self.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
        for layer in (self.get_input_embeddings(), self.lm_head):
            layer.weight[ids] = layer.weight[:known].mean(0)
        return self


def two_layers(width, text_width, activation):
    """A projector of "two linear layers" (4.1, 4.2), with an activation between them as LLaVA-OneVision's own has."""
    return nn.Sequential(nn.Linear(width, text_width), ACT2FN[activation], nn.Linear(text_width, text_width))


# Its own files travel with whatever is saved, so that a folder loads without this package.
OmniEmotionForConditionalGeneration.register_for_auto_class("AutoModel")

__all__ = ["OmniEmotionForConditionalGeneration", "OmniEmotionModel"]
