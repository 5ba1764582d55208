"""ESVA (Informatica 49, 2025) on Emotion-LLaMA (arXiv 2406.11161), from raw video.

key frame -> EVA at 448 px -> class token, and patches merged by four -> linear each   -> 256 tokens, and the last one
faces     -> MAE, each     -> mean over time -> linear                                 -> 1 token
faces     -> VideoMAE, sequences of 16       -> mean over time -> linear               -> 1 token
sound     -> HuBERT -> MSFE -> shifted by tau*, mean over time -> linear               -> 1 token
prompt with all merged in -> LLaMA-2

New are the MSFE (3.3, Eq. 1), the contrast of sounds (Eq. 2) and the alignment of sound and picture (3.4), whose losses
are added to the language model's (3.5). With all three off this is Emotion-LLaMA, which read the features of MAE,
VideoMAE and HuBERT from files.
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
from .contrast_esva import ContrastHead
from .generation_emotion import MediaTokens
from .modeling_emotion import (
    EmotionCausalLMOutputWithPast,
    EmotionForConditionalGeneration,
    EmotionModel,
    idle,
    parameters_of,
)
from .parts_esva import assemble_esva
from .sound import sound_frames
from .towers import build_tower


@dataclass
class ESVAMediaTokens(MediaTokens):
    """`MediaTokens` and the inputs of the losses.

    Args:
        alignment: result of the alignment; `None` if the model or the batch has none.
        voice: (B, D), mean over time of the sound's frames F_A': F_A'' of Eq. 2. Zero for a clip without sound.
    """

    alignment: AlignmentOutput | None = None
    voice: torch.Tensor | None = None


@dataclass
class ESVACausalLMOutputWithPast(EmotionCausalLMOutputWithPast):
    """The loss is L = L_align + lambda L_emo + gamma L_contrast (3.5).

    Args:
        loss_terms: name -> (), each term as it enters the loss, before its weight, without gradient: `emotion` (L_emo),
            `align` (L_align) with its parts `align_distance` and `align_correlation`, `contrast` (L_contrast),
            `controller`. A term that cannot be computed from the batch is absent. `None` without labels.
        alignment: result of the alignment of each clip; `None` where there is none.
    """

    loss_terms: dict[str, torch.Tensor] | None = None
    alignment: AlignmentOutput | None = None


class MAEModel(ViTMAEModel):
    """transformers' MAE as an encoder of whole images: every patch, in order; and all weights are initialised."""

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, ViTMAEEmbeddings):
            # transformers 5.23 skips these if the patch layer is already initialised.
            fresh = ViTMAEEmbeddings(module.config)
            fresh.initialize_weights()
            init.copy_(module.position_embeddings, fresh.position_embeddings)
            init.copy_(module.cls_token, fresh.cls_token)

    def forward(self, pixel_values, **kwargs):
        # MAE shuffles patches by noise even if it drops none.
        patches = self.embeddings.patch_embeddings.num_patches
        order = torch.arange(patches, device=pixel_values.device, dtype=torch.float32).expand(len(pixel_values), -1)
        return super().forward(pixel_values, noise=order, **kwargs)


class MultiScaleFeatureExtraction(nn.Module):
    """MSFE (3.3): parallel convolutions over the audio tower's frames, summed with learned weights.

    F_A' = sum_i w_i phi_i(F_A) (Eq. 1), the weights by softmax. With `residual`, F_A' = F_A + gate * (Eq. 1).

    Args:
        size: D, width of the frames.
        kernel_sizes: odd numbers of frames, one convolution each.
        depthwise: a convolution per channel and a linear layer over all, instead of a full convolution.
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
        """w_i of Eq. 1 (scales,): the weight of each scale; they sum to 1."""
        return self.scale_logits.softmax(-1)

    def forward(self, states, mask):
        """states (B, L, D), zero where mask (B, L) is False -> the same."""
        across = states.transpose(1, 2)
        mixed = sum(weight * scale(across) for weight, scale in zip(self.weights, self.scales, strict=True))
        mixed = mixed.transpose(1, 2)
        mixed = mixed if self.gate is None else states + self.gate * mixed
        return mixed * mask.unsqueeze(-1)


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
        if config.face_width is not None:
            self.face_projector = nn.Linear(config.face_width, text_width)
        if config.motion_config is not None:
            self.motion_tower = build_tower(config.motion_config)
        if config.motion_width is not None:
            self.motion_projector = nn.Linear(config.motion_width, text_width)
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
                text_size=text_width if config.fuse_aligned else None,
                tokens=config.audio_tokens,
                apply_offset=config.apply_offset,
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
            init.constant_(module.queue_clips, -1)

    def idle_branches(self, media):
        """A zero connected to the branches that this batch does not use (see `idle`)."""
        video, audio = media.video, media.audio
        towers = {"vision_tower": video, "face_tower": video, "motion_tower": video, "audio_tower": audio}
        parts = {name: module for name, module in self.named_children() if name != "language_model"}
        # Parts other than towers are small, and always connected.
        return idle(*(module for name, module in parts.items() if towers.get(name) is None))

    def tower_features(self, **inputs):
        """The trunk's, with `face_features` and `motion_features`: means of MAE's and VideoMAE's outputs."""
        inputs = super().tower_features(**inputs)
        if "pixel_values_faces" in inputs:
            faces = {name: inputs[name] for name in ("pixel_values_faces", "face_times")}
            if self.config.face_config is not None:
                inputs["face_features"] = self.get_face_features(**faces).pooler_output
            if self.config.motion_config is not None:
                inputs["motion_features"] = self.get_motion_features(**faces).pooler_output
            del inputs["pixel_values_faces"]
        return inputs

    @property
    def trained_dtype(self) -> torch.dtype:
        """dtype of the modules after the towers, which can have another dtype."""
        return self.language_model.get_input_embeddings().weight.dtype

    # Features of picture and sound

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: Tensor | None = None,  # (B, 1, 3, height, width), one frame of each clip
        video_times: Tensor | None = None,  # (B, 1) int64 ms, -1 for a clip without picture
        video_features: Tensor | None = None,  # (B, 1, 1 + P, D), cached, instead of pixels
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Tokens of the key frame (Emotion-LLaMA's global encoder): its merged patches, then its class token.

        `pooler_output` is B tensors (P / patches_per_token + 1, H), (0, H) for a clip without picture.
        """
        real = video_times >= 0  # (B, 1)
        output = self.vision_output(pixel_values_videos, real, video_features, **kwargs)
        tokens = self.picture_tokens(output.last_hidden_state.to(self.trained_dtype))  # (frames, n, H)
        output.pooler_output = list(tokens.flatten(0, 1).split((real.sum(-1) * tokens.shape[1]).tolist()))
        return output

    def picture_tokens(self, states: Tensor) -> Tensor:
        """The vision tower's states (N, 1 + P, D) -> (N, P / patches_per_token + 1, H).

        Consecutive patches, row by row, become one token: four in a row, as in Emotion-LLaMA's code, not two by two.
        """
        merged = states[:, 1:].unflatten(1, (-1, self.config.patches_per_token)).flatten(2)
        return torch.cat([self.video_projector(merged), self.cls_projector(states[:, :1])], dim=1)

    def get_face_features(
        self,
        pixel_values_faces: Tensor | None = None,  # (B, T, 3, height, width), face crops, else the whole frame
        face_times: Tensor | None = None,  # (B, T) int64 ms, -1 for padded frames
        face_features: Tensor | None = None,  # (B, T, D), cached, instead of pixels
        face_found: Tensor | None = None,  # (B, T) bool, frames that show a face; used only for `modalities`
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """MAE's output for each frame's face; `pooler_output` (B, T, D) is its mean over patches, zero where padded."""
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
        pixel_values_faces: Tensor | None = None,  # (B, T, 3, height, width), as for `get_face_features`
        face_times: Tensor | None = None,  # (B, T) int64 ms, -1 for padded frames
        motion_features: Tensor | None = None,  # (B, M, D), cached, instead of pixels
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """VideoMAE's output for the face's motion: sequences of 16 frames, two frames per step.

        A sequence that the clip does not fill repeats its last frame. `pooler_output` (B, M, D) is the mean over the
        patches of each step, with 8 steps for each sequence started. Their times: `motion_times`.
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

    def motion_times(self, face_times: Tensor) -> Tensor:
        """Times of VideoMAE's steps: the mean time of a step's frames, -1 for a step that only repeats the last frame.

        face_times (B, T) int64 ms, -1 where padded -> (B, M) int64 ms.
        """
        tower = self.config.motion_config
        rest = -face_times.shape[1] % tower.num_frames
        times = functional.pad(face_times, (0, rest), value=-1).unflatten(1, (-1, tower.tubelet_size))
        real = times >= 0
        mean = (times * real).sum(-1) // real.sum(-1).clamp(min=1)
        return mean.masked_fill(~real.any(-1), -1)

    def voice_frames(self, **sound) -> tuple[BaseModelOutputWithPooling, Tensor, Tensor]:
        """F_A' of Eq. 1 (F_A without MSFE).

        Args:
            sound: inputs of `get_audio_features`, and options of the audio tower.

        Returns:
            the audio tower's output, the frames (B, L, D), zero where there is no sound, and their times (B, L) int64
            ms, -1 where there is none.
        """
        output, states, times = sound_frames(self.audio_tower, self.config.audio_frame_rate, **sound)
        states = states.to(self.trained_dtype)
        if self.config.msfe_kernel_sizes:
            states = self.msfe(states, times >= 0)
        return output, states, times

    @can_return_tuple
    def get_audio_features(
        self,
        input_features: Tensor | None = None,  # (B, C, mel, frames), chunks of sound, or
        input_values: Tensor | None = None,  # (B, samples), a waveform, or
        audio_features: Tensor | None = None,  # (B, L, D), cached frames of the audio tower
        audio_attention_mask: Tensor | None = None,  # (B, C), (B, C, frames) or (B, samples), True where real
        audio_times: Tensor | None = None,  # (B, C) int64 ms, start of each chunk, -1 where padded; not for a waveform
        *,
        offsets: Tensor | None = None,  # (B,) int64 ms, by which each sound is shifted; None: not at all
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Tokens of a batch's sound; `pooler_output` is B tensors (audio_tokens, H), (0, H) for a clip without."""
        output, states, times = self.voice_frames(
            input_features=input_features,
            input_values=input_values,
            audio_features=audio_features,
            audio_attention_mask=audio_attention_mask,
            audio_times=audio_times,
            **kwargs,
        )
        return BaseModelOutputWithPooling(
            last_hidden_state=states,
            pooler_output=self.voice_tokens(states, times, times.amax(-1), offsets),
            hidden_states=output.hidden_states,
            attentions=output.attentions,
        )

    def voice_tokens(self, states: Tensor, times: Tensor, ends: Tensor, offsets: Tensor | None = None) -> list[Tensor]:
        """Frames pooled into tokens: means over equal parts of the clip, after the sound was shifted.

        Args:
            states: (B, L, D).
            times: (B, L) int64 ms, -1 where there is no sound.
            ends: (B,) int64 ms, the clip's last frame of sound or picture.
            offsets: (B,) int64 ms. A frame that is shifted before the start or past the end is left out.

        Returns:
            B tensors (audio_tokens, H), (0, H) for a clip without sound; a part without any frame is projected from
            zeros.
        """
        with_sound = (times >= 0).any(-1)
        moved = times if offsets is None else times + offsets.unsqueeze(-1)
        inside = (times >= 0) & (moved >= 0) & (moved <= ends.unsqueeze(-1))
        part = moved * self.config.audio_tokens // (ends.unsqueeze(-1) + 1)
        chosen = part.unsqueeze(1) == torch.arange(self.config.audio_tokens, device=times.device).unsqueeze(-1)
        weights = (chosen & inside.unsqueeze(1)).to(states.dtype)  # (B, audio_tokens, L)
        pooled = weights @ states / weights.sum(-1, keepdim=True).clamp(min=1)
        tokens = self.audio_projector(pooled[with_sound])  # (clips with sound, audio_tokens, H)
        return list(tokens.flatten(0, 1).split((with_sound * tokens.shape[1]).tolist()))

    # The clip

    def encode_media(self, **inputs) -> ESVAMediaTokens:
        """The trunk's, with sound and picture aligned before the sound becomes tokens."""
        present = self.present_modalities(inputs)
        faces, motion, visual = self.visual_tokens(inputs, present)
        audio = voice = alignment = None
        if "audio" in present:
            names = [p.name for p in parameters_of(self.get_audio_features)]
            _, states, times = self.voice_frames(**{name: inputs.get(name) for name in names})
            present["audio"] = (times >= 0).any(-1)
            voice = states.sum(1) / (times >= 0).sum(-1, keepdim=True).clamp(min=1)
            ends, offsets = times.amax(-1), None
            if self.config.aligns and (faces is not None or motion is not None):
                face_times = inputs["face_times"]
                motion_times = None if motion is None else self.motion_times(face_times)
                alignment = self.alignment(states, times, faces, face_times, motion, motion_times)
                ends = torch.maximum(ends, face_times.amax(-1))
                offsets = alignment.offset if self.config.apply_offset else None
            audio = self.voice_tokens(states, times, ends, offsets)
            if alignment is not None and alignment.fused is not None:
                pairs = zip(audio, alignment.fused, strict=True)
                audio = [tokens + fused.to(tokens) if len(tokens) else tokens for tokens, fused in pairs]
        modalities = self.stack_modalities(present)
        return ESVAMediaTokens(video=visual, audio=audio, modalities=modalities, alignment=alignment, voice=voice)

    def present_modalities(self, inputs):
        present = super().present_modalities(inputs)
        times, face_found = inputs.get("face_times"), inputs.get("face_found")
        if times is not None and self.config.has_motion and (times >= 0).any():
            real = times >= 0
            present["face"] = (real if face_found is None else real & face_found).any(-1)
            present["video"] = present.get("video", False) | real.any(-1)
        return present

    def visual_tokens(self, inputs, present) -> tuple[Tensor | None, Tensor | None, list[Tensor] | None]:
        """Frames of MAE (B, T, D) and of VideoMAE (B, M, D), and the visual tokens of each clip (n_b, H)."""
        faces, motion, parts = None, None, {}
        times = inputs.get("video_times")
        if hasattr(self, "vision_tower") and times is not None and (times >= 0).any():
            parts["picture"] = self.encode("video", inputs).pooler_output
        if "face" in present:
            real = inputs["face_times"] >= 0
            if self.config.face_config is not None:
                faces = self.encode("face", inputs).pooler_output
                parts["face"] = self.one_token(self.face_projector, faces, real)
            if self.config.motion_config is not None:
                motion = self.encode("motion", inputs).pooler_output
                steps = self.motion_times(inputs["face_times"]) >= 0
                parts["motion"] = self.one_token(self.motion_projector, motion, steps)
        clips = [dict(zip(parts, tokens, strict=True)) for tokens in zip(*parts.values(), strict=True)]
        return faces, motion, [self.in_order(clip) for clip in clips] or None

    def one_token(self, projector: nn.Linear, states: Tensor, mask: Tensor) -> list[Tensor]:
        """states (B, T, D), zero where mask (B, T) is False -> B tensors (1, H), mean over time; (0, H) without any."""
        count = mask.sum(-1)
        mean = (states * mask.unsqueeze(-1)).sum(1) / count.clamp(min=1).unsqueeze(-1)
        return list(projector(mean[count > 0]).split((count > 0).long().tolist()))

    def in_order(self, parts: dict[str, Tensor]) -> Tensor:
        """A clip's visual tokens in the prompt's order, Emotion-LLaMA's: merged patches, MAE, VideoMAE, class token.

        parts: `picture`, `face`, `motion` -> (n, H); one that is missing, or empty, is made from zeros if others are
        there, and no token is made for a clip without any picture.
        """
        if not any(len(tokens) for tokens in parts.values()):
            return next(iter(parts.values()))
        projectors = {"picture": "video_projector", "face": "face_projector", "motion": "motion_projector"}
        names = [name for name, projector in projectors.items() if hasattr(self, projector)]
        if not all(len(parts.get(name, ())) for name in names):
            parts = {**self.zero_picture(), **{name: tokens for name, tokens in parts.items() if len(tokens)}}
        between = [parts[name] for name in names if name != "picture"]
        return torch.cat([parts["picture"][:-1], *between, parts["picture"][-1:]] if "picture" in parts else between)

    # Absent modalities

    def zero_picture(self) -> dict[str, Tensor]:
        """The tokens for zeros instead of each visual tower's output: name -> (n, H)."""
        config = self.config
        weight = self.get_input_embeddings().weight
        tokens = {}
        if config.vision_config is not None:
            count, width = config.num_patch_tokens * config.patches_per_token, config.vision_config.hidden_size
            tokens["picture"] = self.picture_tokens(weight.new_zeros(1, 1 + count, width))[0]
        if config.face_width is not None:
            tokens["face"] = self.face_projector(weight.new_zeros(1, config.face_width))
        if config.motion_width is not None:
            tokens["motion"] = self.motion_projector(weight.new_zeros(1, config.motion_width))
        return tokens

    def zero_tokens(self, name: str) -> Tensor:
        """The tokens used for an absent `"video"` or `"audio"`: (n, H)."""
        weight = self.get_input_embeddings().weight
        if name == "video":
            zeros = self.zero_picture()
            return self.in_order(zeros) if zeros else weight.new_zeros(0, weight.shape[1])
        if self.config.audio_config is None:
            return weight.new_zeros(0, weight.shape[1])
        return self.audio_projector(weight.new_zeros(self.config.audio_tokens, self.config.audio_config.hidden_size))


class ESVAForConditionalGeneration(EmotionForConditionalGeneration):
    """ESVA as a generating model: the class that every Auto class returns for an ESVA folder."""

    config: ESVAConfig
    model_class = ESVAModel
    output_class = ESVACausalLMOutputWithPast
    assemble = staticmethod(assemble_esva)

    def loss_parts(
        self, media: ESVAMediaTokens, emotion_ids: Tensor | None = None, clip_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """L_align, L_contrast and the controller's loss of a batch: name -> (), those that can be computed.

        Args:
            media: what `encode_media` returned.
            emotion_ids: (B,) int64, the number of each clip's emotion; -1 or `None` where it is not known.
            clip_ids: (B,) int64, the number of each clip; -1 or `None` where it is not known.
        """
        terms = {}
        alignment = media.alignment
        if alignment is not None and alignment.aligned.any():
            count = alignment.aligned.sum()
            terms["align"] = alignment.loss.sum() / count
            terms["align_distance"] = (alignment.distance.sum() / count).detach()
            terms["align_correlation"] = (alignment.correlation.sum() / count).detach()
        if alignment is not None and alignment.controller_loss is not None:
            terms["controller"] = alignment.controller_loss
        head = getattr(self.model, "contrast_head", None)
        if head is not None and (emotion_ids is not None or head.gathers):
            voice = media.voice
            if voice is None or emotion_ids is None:  # this process has no rows, but others wait for it
                weight = self.get_input_embeddings().weight
                voice = weight.new_zeros(0, self.config.audio_config.hidden_size)
                emotion_ids = clip_ids = torch.zeros(0, dtype=torch.long, device=weight.device)
            else:
                with_sound = media.modalities[:, self.modality_names.index("audio")]
                emotion_ids = emotion_ids.masked_fill(~with_sound, -1)
            contrast = head(voice, emotion_ids, clip_ids)
            if contrast is not None:
                terms["contrast"] = contrast
        return terms

    def losses(
        self,
        outputs,
        logits,
        labels,
        emotion_ids: Tensor | None = None,  # (B,) int64, number of each clip's emotion (Eq. 2), -1 where unknown
        clip_ids: Tensor | None = None,  # (B,) int64, number of each clip, so that it is not a positive of itself
        **kwargs,
    ) -> dict:
        """The combined loss of 3.5."""
        fields = {"alignment": None if outputs.media is None else outputs.media.alignment}
        if labels is None:
            return fields
        emotion = super().losses(outputs, logits, labels, **kwargs)["loss"]
        terms = {} if outputs.media is None else self.loss_parts(outputs.media, emotion_ids, clip_ids)
        loss = self.config.emotion_weight * emotion
        # Trainer sums the language model's loss over the batches of a step and divides by all their tokens; means over
        # clips are weighted by the same share.
        total = kwargs.get("num_items_in_batch")
        share = 1.0 if total is None else (labels != -100).sum() / total
        weights = {"align": 1.0, "contrast": self.config.contrast_weight, "controller": 1.0}
        terms = {name: share * term for name, term in terms.items()}
        for name, weight in weights.items():
            if name in terms:
                loss = loss + (weight * terms[name]).to(loss)
        detached = {name: term.detach() for name, term in {"emotion": emotion, **terms}.items()}
        return {**fields, "loss": loss, "loss_terms": detached}


# The source files are saved with the model, so that a folder loads without this package.
ESVAForConditionalGeneration.register_for_auto_class("AutoModel")

__all__ = ["ESVAForConditionalGeneration", "ESVAModel"]
