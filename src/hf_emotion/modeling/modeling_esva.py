"""ESVA (Informatica 49, 2025) on Emotion-LLaMA (arXiv 2406.11161), from raw video.

key frame -> EVA at 448 px -> class token, and patches merged by four -> linear each   -> 256 tokens, and the last one
faces     -> MAE, each     -> mean over time -> linear                                 -> 1 token
faces     -> VideoMAE, sequences of 16       -> mean over time -> linear               -> 1 token
sound     -> HuBERT -> MSFE -> moved by tau*, mean over time -> linear                 -> 1 token
prompt with all merged in -> LLaMA-2

New are the MSFE (3.3, Eq. 1), the contrast of sounds (Eq. 2) and the alignment of sound and picture (3.4), whose losses
join the language model's (3.5). With all three off this is Emotion-LLaMA, which had MAE, VideoMAE and HuBERT as files.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.vit_mae.modeling_vit_mae import ViTMAEEmbeddings, ViTMAEModel
from transformers.utils import can_return_tuple

from .alignment_esva import AlignmentOutput, AudioVideoAlignment
from .configuration_esva import ESVAConfig
from .modeling_emotion import (
    EmotionCausalLMOutputWithPast,
    EmotionForConditionalGeneration,
    EmotionModel,
    MediaTokens,
    build_tower,
    idle,
    parameters_of,
    sound_frames,
)
from .parts_esva import assemble_esva


@dataclass
class ESVAMediaTokens(MediaTokens):
    """As `MediaTokens`, and what the losses need.

    Args:
        alignment: what the alignment found; `None` where the model or the batch has none.
        voice: (B, D), the sound's frames F_A', mean over time: F_A'' of Eq. 2. Zero for a clip without sound.
    """

    alignment: AlignmentOutput | None = None
    voice: torch.Tensor | None = None


@dataclass
class ESVACausalLMOutputWithPast(EmotionCausalLMOutputWithPast):
    """The loss is L = L_align + lambda L_emo + gamma L_contrast (3.5).

    Args:
        loss_terms: name -> (), each term before its weight, without gradient: `emotion` (L_emo), `align` (L_align) with
            its parts `align_distance` and `align_correlation`, `contrast` (L_contrast), `controller`. A term that the
            batch gives no ground for is not there. `None` without labels.
        alignment: what the alignment found in each clip; `None` where there is none.
    """

    loss_terms: dict[str, torch.Tensor] | None = None
    alignment: AlignmentOutput | None = None


class MAEModel(ViTMAEModel):
    """transformers' MAE as an encoder of whole pictures: every patch, in its order; and all weights are initialised."""

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, ViTMAEEmbeddings):
            # transformers 5.23 leaves these out, because it stops where the patches' own layer is initialised already.
            fresh = ViTMAEEmbeddings(module.config)
            fresh.initialize_weights()
            init.copy_(module.position_embeddings, fresh.position_embeddings)
            init.copy_(module.cls_token, fresh.cls_token)

    def forward(self, pixel_values, **kwargs):
        # It shuffles patches by noise even where it drops none.
        patches = self.embeddings.patch_embeddings.num_patches
        order = torch.arange(patches, device=pixel_values.device, dtype=torch.float32).expand(len(pixel_values), -1)
        return super().forward(pixel_values, noise=order, **kwargs)


class MultiScaleFeatureExtraction(nn.Module):
    """MSFE (3.3): parallel convolutions over the audio tower's frames, joined by learned weights.

    F_A' = sum_i w_i phi_i(F_A) (Eq. 1), the weights by softmax. With `residual`, F_A' = F_A + gate * (Eq. 1).

    Args:
        size: D, width of the frames.
        kernel_sizes: odd numbers of frames, one convolution each.
        depthwise: a convolution of each channel and a linear layer over all, in place of a whole convolution.
        residual: see above.
    """

    def __init__(self, size, kernel_sizes, depthwise=False, residual=True):
        super().__init__()
        self.scales = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(size, size, kernel, padding=kernel // 2, groups=size if depthwise else 1),
                nn.Conv1d(size, size, 1) if depthwise else nn.Identity(),
            )
            for kernel in kernel_sizes
        )
        self.scale_logits = nn.Parameter(torch.zeros(len(kernel_sizes)))
        self.gate = nn.Parameter(torch.zeros(size)) if residual else None

    @property
    def weights(self):
        """w_i of Eq. 1 (scales,): what each scale counts; they sum to 1."""
        return self.scale_logits.softmax(-1)

    def forward(self, states, mask):
        """states (B, L, D), zero where mask (B, L) is False -> the same."""
        across = states.transpose(1, 2)
        found = sum(weight * scale(across) for weight, scale in zip(self.weights, self.scales, strict=True))
        found = found.transpose(1, 2)
        found = found if self.gate is None else states + self.gate * found
        return found * mask.unsqueeze(-1)


class ContrastHead(nn.Module):
    """Supervised contrast of sounds (3.3, Eq. 2): those of one emotion come together, those of others part.

    Eq. 2 has the same positive in its numerator and in every term of its denominator, which makes it a constant. Read
    as InfoNCE, for each positive of a clip: -log exp(s+) / (exp(s+) + sum over the negatives of exp(s-)), with s the
    cosine over a temperature, in two layers' projection of F_A''; then the mean over positives and clips. A clip
    without a positive is skipped.

    Args:
        input_size, size: width of F_A'', and of what is compared.
        temperature: see above.
        queue_size: projections of earlier clips that are kept as further positives and negatives.
    """

    def __init__(self, input_size, size, temperature, queue_size):
        super().__init__()
        self.projection = nn.Sequential(nn.Linear(input_size, input_size), nn.ReLU(), nn.Linear(input_size, size))
        self.temperature = temperature
        self.queue_size = queue_size
        self.register_buffer("queue", torch.zeros(queue_size, size), persistent=False)
        self.register_buffer("queue_ids", torch.full((queue_size,), -1), persistent=False)

    def embed(self, voice):
        """voice (B, D) -> (B, size), of length 1: the space in which emotions part."""
        return functional.normalize(self.projection(voice.to(self.projection[0].weight.dtype)).float(), dim=-1)

    def forward(self, voice, emotion_ids):
        """The loss, () or `None` if no clip has a positive.

        Args:
            voice: (B, D).
            emotion_ids: (B,) int64; -1 for a clip of unknown emotion, or without sound.
        """
        own = self.embed(voice)
        keys, ids = torch.cat([own, self.queue.to(own)]), torch.cat([emotion_ids, self.queue_ids])
        known = (emotion_ids >= 0).unsqueeze(-1) & (ids >= 0)  # (B, B + queue)
        same = emotion_ids.unsqueeze(-1) == ids
        itself = torch.eye(len(own), len(keys), dtype=torch.bool, device=own.device)
        positive, negative = known & same & ~itself, known & ~same
        if self.training and self.queue_size:
            self.push(own.detach(), emotion_ids)
        if not positive.any():
            return None
        similar = own @ keys.T / self.temperature
        # Not infinity, of which a clip without any negative would make a gradient that is no number.
        nothing = torch.finfo(similar.dtype).min / 2
        apart = similar.masked_fill(~negative, nothing).logsumexp(-1, keepdim=True)  # (B, 1)
        each = torch.logaddexp(similar, apart) - similar
        count = positive.sum(-1)
        own_loss = (each * positive).sum(-1) / count.clamp(min=1)
        return own_loss.sum() / (count > 0).sum()

    @torch.no_grad()
    def push(self, own, emotion_ids):
        """Remember this batch's projections and forget the oldest."""
        kept = emotion_ids >= 0
        self.queue = torch.cat([own[kept].to(self.queue), self.queue])[: self.queue_size]
        self.queue_ids = torch.cat([emotion_ids[kept], self.queue_ids])[: self.queue_size]


class ESVAModel(EmotionModel):
    """ESVA without the language-model head."""

    config: ESVAConfig
    processor_class = "processing_esva.ESVAProcessor"
    # "Without adjusting the audio encoder parameters" (5), "large encoders"; LoRA adapts LLaMA-2 (3.2).
    frozen_parts = ("vision_tower", "face_tower", "motion_tower", "audio_tower", "language_model")
    encoders = ("video", "face", "motion", "audio")
    modality_names = ("video", "face", "audio")
    _no_split_modules = ["MultiScaleFeatureExtraction", "AudioVideoAlignment"]

    def __init__(self, config: ESVAConfig):
        super().__init__(config)
        text_width = config.text_config.hidden_size
        if config.vision_config is not None:
            width = config.vision_config.hidden_size
            self.video_projector = nn.Linear(config.patches_per_token * width, text_width)
            self.cls_projector = nn.Linear(width, text_width)
        if config.face_config is not None:
            masked = config.face_config.model_type == MAEModel.config_class.model_type
            self.face_tower = MAEModel(config.face_config) if masked else build_tower(config.face_config)
            self.face_projector = nn.Linear(config.face_config.hidden_size, text_width)
        if config.motion_config is not None:
            self.motion_tower = build_tower(config.motion_config)
            self.motion_projector = nn.Linear(config.motion_config.hidden_size, text_width)
        if config.audio_config is not None:
            width = config.audio_config.hidden_size
            self.audio_projector = nn.Linear(width, text_width)
            if config.msfe_kernel_sizes:
                self.msfe = MultiScaleFeatureExtraction(
                    width, config.msfe_kernel_sizes, config.msfe_depthwise, config.msfe_residual
                )
            if config.contrast_weight:
                self.contrast_head = ContrastHead(
                    width, config.contrast_size, config.contrast_temperature, config.contrast_queue_size
                )
        if config.aligns:
            self.alignment = AudioVideoAlignment(
                config.audio_config.hidden_size,
                None if config.face_config is None else config.face_config.hidden_size,
                None if config.motion_config is None else config.motion_config.hidden_size,
                size=config.alignment_size,
                rate=config.alignment_rate,
                max_offset=config.alignment_max_offset,
                window=config.alignment_window,
                min_overlap=config.alignment_min_overlap,
                local_weight=config.alignment_local_weight,
                global_weight=config.alignment_global_weight,
                search=config.alignment_search,
                selection=config.alignment_selection,
                temperature=config.alignment_temperature,
                training_offset=config.alignment_training,
                controller=config.controller,
            )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, MultiScaleFeatureExtraction):
            init.zeros_(module.scale_logits)
            if module.gate is not None:
                init.zeros_(module.gate)
        elif isinstance(module, ContrastHead):
            init.zeros_(module.queue)
            init.constant_(module.queue_ids, -1)

    def idle_branches(self, media):
        """A zero tied to the branches that this batch leaves without work (see `idle`)."""
        idling = [
            getattr(self, f"{name}_tower", None)
            for name, tokens in (
                ("vision", media.video),
                ("face", media.video),
                ("motion", media.video),
                ("audio", media.audio),
            )
            if tokens is None
        ]
        projectors = (f"{name}_projector" for name in ("video", "cls", "face", "motion", "audio"))
        return idle(
            *idling,
            *(getattr(self, name, None) for name in projectors),
            getattr(self, "msfe", None),
            getattr(self, "alignment", None),
            getattr(self, "contrast_head", None),
        )

    def tower_features(self, **inputs):
        """As the trunk's, with `face_features` and `motion_features`: means of MAE's and VideoMAE's outputs."""
        inputs = super().tower_features(**inputs)
        if "pixel_values_faces" in inputs:
            seen = {name: inputs[name] for name in ("pixel_values_faces", "face_times")}
            if self.config.face_config is not None:
                inputs["face_features"] = self.get_face_features(**seen).pooler_output
            if self.config.motion_config is not None:
                inputs["motion_features"] = self.get_motion_features(**seen).pooler_output
            del inputs["pixel_values_faces"]
        return inputs

    @property
    def trained_dtype(self):
        """dtype of what stands behind the towers, which may be kept in another."""
        return self.language_model.get_input_embeddings().weight.dtype

    # What the towers see and hear

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: Tensor | None = None,
        video_times: Tensor | None = None,
        video_features: Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Tokens of the key frame (Emotion-LLaMA's global encoder): its merged patches, then its class token.

        Args:
            pixel_values_videos: (B, 1, 3, height, width), one frame of each clip.
            video_times: (B, 1) int64 ms, -1 for a clip without picture.
            video_features: (B, 1, 1 + P, D), the vision tower's cached output, in place of pixels.

        Returns:
            the vision tower's output over the real frames, with `pooler_output` a list of B tensors
            (P / patches_per_token + 1, H); (0, H) for a clip without picture.
        """
        real = video_times >= 0  # (B, 1)
        if video_features is None:
            output = self.vision_tower(
                pixel_values_videos[real].to(self.vision_tower.dtype), return_dict=True, **kwargs
            )
        else:
            output = BaseModelOutputWithPooling(last_hidden_state=video_features[real])
        tokens = self.picture_tokens(output.last_hidden_state.to(self.trained_dtype))  # (frames, n, H)
        output.pooler_output = list(tokens.flatten(0, 1).split((real.sum(-1) * tokens.shape[1]).tolist()))
        return output

    def picture_tokens(self, states):
        """The vision tower's states (N, 1 + P, D) -> (N, P / patches_per_token + 1, H).

        Patches that follow each other, row by row, become one token: four in a row, as in Emotion-LLaMA's code, and not
        two by two.
        """
        merged = states[:, 1:].unflatten(1, (-1, self.config.patches_per_token)).flatten(2)
        return torch.cat([self.video_projector(merged), self.cls_projector(states[:, :1])], dim=1)

    def get_face_features(
        self,
        pixel_values_faces: Tensor | None = None,
        face_times: Tensor | None = None,
        face_features: Tensor | None = None,
        face_found: Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """What MAE sees in each frame's face.

        Args:
            pixel_values_faces: (B, T, 3, height, width), a crop of the face of each frame, else the whole frame.
            face_times: (B, T) int64 ms, -1 for padded frames.
            face_features: (B, T, D), cached, in place of pixels.

        Returns:
            the face tower's output over all real frames, with `pooler_output` (B, T, D): for each frame the mean over
            its patches, zero where padded.
        """
        if face_features is not None:
            return BaseModelOutputWithPooling(pooler_output=face_features.to(self.trained_dtype))
        real = face_times >= 0
        pixels = pixel_values_faces[real].to(self.face_tower.dtype)
        output = self.face_tower(pixels, return_dict=True, **kwargs)
        frames = output.last_hidden_state[:, 1:].mean(1).to(self.trained_dtype)
        pooled = frames.new_zeros(*real.shape, frames.shape[-1])
        pooled[real] = frames
        return BaseModelOutputWithPooling(
            last_hidden_state=output.last_hidden_state,
            pooler_output=pooled,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def get_motion_features(
        self,
        pixel_values_faces: Tensor | None = None,
        face_times: Tensor | None = None,
        motion_features: Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """What VideoMAE sees in the face's movement: sequences of 16 frames, of which every two make a step.

        Args:
            pixel_values_faces, face_times: as for `get_face_features`. A sequence that the clip does not fill repeats
                its last frame.
            motion_features: (B, M, D), cached, in place of pixels.

        Returns:
            the motion tower's output over all sequences, with `pooler_output` (B, M, D): for each step the mean over
            its patches, M = 8 for each begun sequence. Their times: `motion_times`.
        """
        if motion_features is not None:
            return BaseModelOutputWithPooling(pooler_output=motion_features.to(self.trained_dtype))
        tower, length = self.motion_tower.config, self.motion_tower.config.num_frames
        count = (face_times >= 0).sum(-1)  # (B,)
        sequences = -(-int(count.max()) // length)
        place = torch.arange(sequences * length, device=count.device)
        place = torch.minimum(place, (count - 1).clamp(min=0).unsqueeze(-1))  # (B, sequences * length)
        rows = torch.arange(len(count), device=count.device).unsqueeze(-1)
        begun = torch.arange(sequences, device=count.device) * length < count.unsqueeze(-1)  # (B, sequences)
        pixels = pixel_values_faces[rows, place].unflatten(1, (sequences, length))[begun]
        output = self.motion_tower(pixels.to(self.motion_tower.dtype), return_dict=True, **kwargs)
        steps = length // tower.tubelet_size
        states = output.last_hidden_state.unflatten(1, (steps, -1)).mean(2).to(self.trained_dtype)
        pooled = states.new_zeros(*begun.shape, steps, states.shape[-1])
        pooled[begun] = states
        return BaseModelOutputWithPooling(
            last_hidden_state=output.last_hidden_state,
            pooler_output=pooled.flatten(1, 2),
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def motion_times(self, face_times):
        """Times of VideoMAE's steps: the mean time of a step's frames, -1 for one that only repeats the last frame.

        face_times (B, T) int64 ms, -1 where padded -> (B, M) int64 ms.
        """
        tower = self.config.motion_config
        rest = -face_times.shape[1] % tower.num_frames
        times = functional.pad(face_times, (0, rest), value=-1).unflatten(1, (-1, tower.tubelet_size))
        real = times >= 0
        mean = (times * real).sum(-1) // real.sum(-1).clamp(min=1)
        return mean.masked_fill(~real.any(-1), -1)

    def voice_frames(
        self,
        input_features=None,
        input_values=None,
        audio_features=None,
        audio_attention_mask=None,
        audio_times=None,
        **kwargs,
    ):
        """F_A' of Eq. 1 (F_A without MSFE).

        Args: see `modeling_emotion.sound_frames`.

        Returns:
            the audio tower's output, the frames (B, L, D), zero where there is no sound, and their times (B, L) int64
            ms, -1 where there is none.
        """
        output, states, times = sound_frames(
            self.audio_tower,
            self.config.audio_frame_rate,
            input_features,
            input_values,
            audio_attention_mask,
            audio_times,
            audio_features=audio_features,
            **kwargs,
        )
        states = states.to(self.trained_dtype)
        if self.config.msfe_kernel_sizes:
            states = self.msfe(states, times >= 0)
        return output, states, times

    @can_return_tuple
    def get_audio_features(
        self,
        input_features: Tensor | None = None,
        input_values: Tensor | None = None,
        audio_features: Tensor | None = None,
        audio_attention_mask: Tensor | None = None,
        audio_times: Tensor | None = None,
        *,
        offsets: Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Tokens of a batch's sound, `audio_tokens` a clip.

        Args:
            offsets: (B,) int64 ms, by which each sound is moved; `None` leaves all where they are.
            others: see `modeling_emotion.sound_frames`; `kwargs` are the audio tower's.

        Returns:
            the audio tower's output, with `pooler_output` a list of B tensors (audio_tokens, H); (0, H) for a clip
            without sound.
        """
        output, states, times = self.voice_frames(
            input_features, input_values, audio_features, audio_attention_mask, audio_times, **kwargs
        )
        heard = (times >= 0).any(-1)
        tokens = self.voice_tokens(states, times, times.amax(-1), offsets)
        return BaseModelOutputWithPooling(
            last_hidden_state=states,
            pooler_output=list(tokens.flatten(0, 1).split((heard * tokens.shape[1]).tolist())),
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def voice_tokens(self, states, times, ends, offsets=None):
        """Frames pooled into tokens: means over equal parts of the clip, after the sound was moved.

        Args:
            states: (B, L, D).
            times: (B, L) int64 ms, -1 where there is no sound.
            ends: (B,) int64 ms, the clip's last frame of sound or picture.
            offsets: (B,) int64 ms. A frame that is moved before the start or behind the end is left out.

        Returns:
            (clips with sound, audio_tokens, H); a part without any frame is projected from zeros.
        """
        heard = (times >= 0).any(-1)
        moved = times if offsets is None else times + offsets.unsqueeze(-1)
        inside = (times >= 0) & (moved >= 0) & (moved <= ends.unsqueeze(-1))
        part = moved * self.config.audio_tokens // (ends.unsqueeze(-1) + 1)
        chosen = part.unsqueeze(1) == torch.arange(self.config.audio_tokens, device=times.device).unsqueeze(-1)
        weights = (chosen & inside.unsqueeze(1)).to(states.dtype)  # (B, audio_tokens, L)
        pooled = weights @ states / weights.sum(-1, keepdim=True).clamp(min=1)
        return self.audio_projector(pooled[heard])

    # The clip

    def encode_media(self, **inputs) -> ESVAMediaTokens:
        """Tokens of what the clips of a batch really have (see the `get_*_features` for the shapes).

        What stands for an absent modality depends on the prompt and is made by `embed`. `face_found` (B, T) bool says
        where `pixel_values_faces` show a face; it decides `modalities` and nothing else.
        """
        config = self.config
        video_times, face_times, face_found = map(inputs.get, ("video_times", "face_times", "face_found"))
        seen, faces, motion = {}, None, None
        used = {}
        if config.vision_config is not None and video_times is not None and (video_times >= 0).any():
            seen["picture"] = self.encode("video", inputs).pooler_output
            used["video"] = (video_times >= 0).any(-1)
        if config.has_motion and face_times is not None and (face_times >= 0).any():
            real = face_times >= 0
            if config.face_config is not None:
                faces = self.encode("face", inputs).pooler_output
                seen["face"] = self.one_token(self.face_projector, faces, real)
            if config.motion_config is not None:
                motion = self.encode("motion", inputs).pooler_output
                seen["motion"] = self.one_token(self.motion_projector, motion, self.motion_times(face_times) >= 0)
            used["video"] = used.get("video", False) | real.any(-1)
            used["face"] = (real if face_found is None else real & face_found).any(-1)
        audio = voice = alignment = None
        if "audio" in self.present(inputs):
            sound = {p.name: inputs.get(p.name) for p in parameters_of(self.get_audio_features)}
            _, states, times = self.voice_frames(**sound)
            heard = (times >= 0).any(-1)
            used["audio"] = heard
            voice = states.sum(1) / (times >= 0).sum(-1, keepdim=True).clamp(min=1)
            ends, offsets = times.amax(-1), None
            if config.aligns and (faces is not None or motion is not None):
                moving_times = None if motion is None else self.motion_times(face_times)
                alignment = self.alignment(states, times, faces, face_times, motion, moving_times)
                ends = torch.maximum(ends, face_times.amax(-1))
                offsets = alignment.offset if config.apply_offset else None
            tokens = self.voice_tokens(states, times, ends, offsets)
            audio = list(tokens.flatten(0, 1).split((heard * tokens.shape[1]).tolist()))
        video = None
        if seen:
            clips = len(next(iter(seen.values())))
            video = [self.in_order({name: tokens[i] for name, tokens in seen.items()}) for i in range(clips)]
        return ESVAMediaTokens(
            video=video, audio=audio, modalities=self.stack_modalities(used), alignment=alignment, voice=voice
        )

    def one_token(self, projector, states, mask):
        """states (B, T, D), zero where mask (B, T) is False -> B tensors (1, H), mean over time; (0, H) without any."""
        count = mask.sum(-1)
        mean = (states * mask.unsqueeze(-1)).sum(1) / count.clamp(min=1).unsqueeze(-1)
        return list(projector(mean[count > 0]).split((count > 0).long().tolist()))

    def in_order(self, seen):
        """A clip's visual tokens in the prompt's order, Emotion-LLaMA's: merged patches, MAE, VideoMAE, class token.

        seen: `picture`, `face`, `motion` -> (n, H); one that is missing, or empty, is made from zeros if others are
        there, and no token is made for a clip without any picture.
        """
        if not any(len(tokens) for tokens in seen.values()):
            return next(iter(seen.values()))
        towers = {"picture": "vision_tower", "face": "face_tower", "motion": "motion_tower"}
        names = [name for name, tower in towers.items() if hasattr(self, tower)]
        if not all(len(seen.get(name, ())) for name in names):
            seen = {**self.zero_picture(), **{name: tokens for name, tokens in seen.items() if len(tokens)}}
        between = [seen[name] for name in names if name != "picture"]
        return torch.cat([seen["picture"][:-1], *between, seen["picture"][-1:]] if "picture" in seen else between)

    # Absent modalities

    def zero_picture(self):
        """What the model makes of zeros in place of each visual tower's output: name -> (n, H)."""
        config = self.config
        weight = self.get_input_embeddings().weight
        made = {}
        if config.vision_config is not None:
            count, width = config.num_patch_tokens * config.patches_per_token, config.vision_config.hidden_size
            made["picture"] = self.picture_tokens(weight.new_zeros(1, 1 + count, width))[0]
        if config.face_config is not None:
            made["face"] = self.face_projector(weight.new_zeros(1, config.face_config.hidden_size))
        if config.motion_config is not None:
            made["motion"] = self.motion_projector(weight.new_zeros(1, config.motion_config.hidden_size))
        return made

    def zero_tokens(self, name):
        """What stands for an absent `"video"` or `"audio"`: (n, H)."""
        weight = self.get_input_embeddings().weight
        if name == "video":
            zeros = self.zero_picture()
            return self.in_order(zeros) if zeros else weight.new_zeros(0, weight.shape[1])
        if self.config.audio_config is None:
            return weight.new_zeros(0, weight.shape[1])
        return self.audio_projector(weight.new_zeros(self.config.audio_tokens, self.config.audio_config.hidden_size))

    def embed(self, input_ids, media=None):
        """As the trunk's. A row with placeholders of a modality that its clip lacks gets the tokens of zero features:
        `missing_modality="zero_feature"`."""
        if self.config.missing_modality == "drop":
            return super().embed(input_ids, media)
        filled = {}
        for name in self.media_names:
            expected = (input_ids == getattr(self.config, f"{name}_token_id")).any(-1).tolist()
            own = None if media is None else getattr(media, name)
            if own is None:
                weight = self.get_input_embeddings().weight
                own = [weight.new_zeros(0, weight.shape[1])] * len(input_ids)
            if any(wanted and not len(tokens) for wanted, tokens in zip(expected, own, strict=True)):
                zero = self.zero_tokens(name)
                own = [
                    zero if wanted and not len(tokens) else tokens for wanted, tokens in zip(expected, own, strict=True)
                ]
            filled[name] = own
        return super().embed(input_ids, MediaTokens(**filled))


class ESVAForConditionalGeneration(EmotionForConditionalGeneration):
    """ESVA as a generating model: the class that every Auto class gives for an ESVA folder."""

    config: ESVAConfig
    model_class = ESVAModel
    output_class = ESVACausalLMOutputWithPast
    assemble = staticmethod(assemble_esva)

    def get_face_features(self, *args, **kwargs):
        return self.model.get_face_features(*args, **kwargs)

    def get_motion_features(self, *args, **kwargs):
        return self.model.get_motion_features(*args, **kwargs)

    def loss_parts(self, media, emotion_ids=None):
        """L_align, L_contrast and the controller's loss of a batch: name -> (), those that it gives ground for.

        Args:
            media: what `encode_media` returned.
            emotion_ids: (B,) int64, the emotion of each clip by number; -1 or `None` where it is not known.
        """
        terms = {}
        found = media.alignment
        if found is not None and found.aligned.any():
            count = found.aligned.sum()
            terms["align"] = found.loss.sum() / count
            terms["align_distance"] = (found.distance.sum() / count).detach()
            terms["align_correlation"] = (found.correlation.sum() / count).detach()
        if found is not None and found.controller_loss is not None:
            terms["controller"] = found.controller_loss
        head = getattr(self.model, "contrast_head", None)
        if head is not None and media.voice is not None and emotion_ids is not None:
            heard = media.modalities[:, self.modality_names.index("audio")]
            contrast = head(media.voice, emotion_ids.masked_fill(~heard, -1))
            if contrast is not None:
                terms["contrast"] = contrast
        return terms

    def losses(self, outputs, logits, labels, emotion_ids: Tensor | None = None, **kwargs) -> dict:
        """The combined loss of 3.5; `emotion_ids` (B,) int64 numbers each clip's emotion (Eq. 2), -1 where unknown."""
        found = {"alignment": None if outputs.media is None else outputs.media.alignment}
        if labels is None:
            return found
        emotion = super().losses(outputs, logits, labels, **kwargs)["loss"]
        terms = {} if outputs.media is None else self.loss_parts(outputs.media, emotion_ids)
        loss = self.config.emotion_weight * emotion
        # Trainer sums the language model's loss over the batches of a step and divides by all their tokens; what is a
        # mean over clips is counted by the same share.
        total = kwargs.get("num_items_in_batch")
        share = 1.0 if total is None else (labels != -100).sum() / total
        weights = {"align": 1.0, "contrast": self.config.contrast_weight, "controller": 1.0}
        for name, weight in weights.items():
            if name in terms:
                loss = loss + (weight * share * terms[name]).to(loss)
        detached = {name: term.detach() for name, term in {"emotion": emotion, **terms}.items()}
        return {**found, "loss": loss, "loss_terms": detached}


# Its own files travel with whatever is saved, so that a folder loads without this package.
ESVAForConditionalGeneration.register_for_auto_class("AutoModel")

__all__ = ["ESVAForConditionalGeneration", "ESVAModel"]
