"""AcoustEmo: a video LLM that listens to each utterance.

frames -> vision tower -> image Q-Former -> linear -> video tokens T_V          (frozen but for the linear layer)
sound  -> audio tower -> F_A -> utterance-aware acoustic Q-Former -> linear -> audio tokens T_A = [global; utt_1..N]
prompt that names each utterance with its times, with both merged in -> language model

New here is only the acoustic branch: one pass of the tower over the clip, whatever the number of utterances, and the
windows of Eq. 1 as masks over its frames (with `qformer.py`).
"""

import torch
from torch import nn
from transformers import AutoModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import slice_logits_to_keep
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults

from .configuration_acoustemo import AcoustEmoConfig
from .modeling_emotion import (
    EmotionCausalLMOutputWithPast,
    EmotionModelOutputWithPast,
    EmotionPreTrainedModel,
    MediaGenerationMixin,
    MediaTokens,
    PositionTable,
    build_tower,
    sound_frames,
)
from .parts import assemble
from .qformer import QFormer, UtteranceQFormer


class AcoustEmoPreTrainedModel(EmotionPreTrainedModel):
    """Flags and media inputs of AcoustEmo."""

    config: AcoustEmoConfig
    processor_class = "processing_acoustemo.AcoustEmoProcessor"
    # "The visual encoder and acoustic encoder parameters are kept completely frozen"; the image Q-Former is not among
    # the parts that are "exclusively" tuned (4.1).
    frozen_parts = ("vision_tower", "image_qformer", "audio_tower", "language_model")
    media_inputs = (
        "pixel_values_videos",
        "video_features",
        "video_times",
        "utterance_spans",
        "input_features",
        "input_values",
        "audio_features",
        "audio_attention_mask",
        "audio_times",
        "audio_ends",
    )


class AcoustEmoModel(AcoustEmoPreTrainedModel):
    """AcoustEmo without the language-model head."""

    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]

    def __init__(self, config: AcoustEmoConfig):
        super().__init__(config)
        text_width = config.text_config.hidden_size
        if config.vision_config is not None:
            self.vision_tower = build_tower(config.vision_config)
            if config.vision_post_layernorm_eps is not None and hasattr(self.vision_tower, "post_layernorm"):
                self.vision_tower.post_layernorm.eps = config.vision_post_layernorm_eps
            self.image_qformer = QFormer(config.image_qformer_config, config.num_query_tokens)
            self.video_projector = nn.Linear(config.image_qformer_config.hidden_size, text_width)
        self.audio_tower = build_tower(config.audio_config)
        if config.num_audio_positions:
            self.audio_position_embedding = PositionTable(config.num_audio_positions, config.audio_config.hidden_size)
        self.audio_qformer = UtteranceQFormer(
            config.acoustic_qformer_config,
            config.num_audio_query_tokens,
            use_global=config.use_global,
            use_utterances=config.use_utterances,
        )
        self.audio_projector = nn.Linear(config.acoustic_qformer_config.hidden_size, text_width)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        video_times: torch.Tensor | None = None,
        video_features: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        """Video tokens T_V of a padded batch (3.1): the image Q-Former's tokens of each frame, frame by frame.

        Args:
            pixel_values_videos: (B, T, 3, height, width).
            video_times: (B, T) int64 ms, -1 for padded frames.
            video_features: (B, T, tokens, D), the vision tower's cached output, in place of pixels.

        Returns:
            the vision tower's output over all real frames, with `pooler_output` a list of B tensors (T_b * K, H).
        """
        real = video_times >= 0  # (B, T)
        if video_features is None:
            output = self.vision_tower(
                pixel_values_videos[real].to(self.vision_tower.dtype), return_dict=True, **kwargs
            )
        else:
            output = BaseModelOutputWithPooling(last_hidden_state=video_features[real])
        tokens = self.video_projector(self.image_qformer(output.last_hidden_state))  # (frames, K, H)
        counts = (real.sum(-1) * tokens.shape[1]).tolist()
        output.pooler_output = list(tokens.flatten(0, 1).split(counts))
        return output

    def acoustic_frames(
        self,
        input_features=None,
        input_values=None,
        audio_attention_mask=None,
        audio_times=None,
        audio_ends=None,
        audio_features=None,
        **kwargs,
    ):
        """F_A of 3.2, from one pass of the tower over the clips.

        Args: see `get_audio_features`.

        Returns:
            the tower's output, the frames (B, L, D) with their positions added, and their times (B, L) int64 ms, -1
            where there is no sound.
        """
        output, states, times = sound_frames(
            self.audio_tower,
            self.config.audio_frame_rate,
            input_features,
            input_values,
            audio_attention_mask,
            audio_times,
            audio_ends,
            audio_features,
            self.config.audio_layers,
            self.config.audio_layer_reduction,
            **kwargs,
        )
        states = states.to(self.audio_projector.weight.dtype)
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
        reach = round(1000 / self.config.audio_frame_rate) - 1
        start, end = utterance_spans.unbind(-1)
        return torch.stack([torch.where(start >= 0, (start - reach).clamp(min=0), start), end], dim=-1)

    @can_return_tuple
    def get_audio_features(
        self,
        input_features: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        audio_attention_mask: torch.Tensor | None = None,
        audio_times: torch.Tensor | None = None,
        audio_ends: torch.Tensor | None = None,
        utterance_spans: torch.Tensor | None = None,
        audio_features: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        """Audio tokens T_A = [T_global, T_1, ..., T_N] of a padded batch (3.2, 3.3, Eqs. 1-3).

        Args:
            input_features: (B, C, mel, frames), chunks of sound, or
            input_values: (B, samples), a waveform.
            audio_attention_mask: (B, C), (B, C, frames) or (B, samples), True where real.
            audio_times: (B, C) int64 ms, start of each chunk, -1 where padded; not needed for a waveform.
            audio_ends: (B, C) int64 ms, where the sound in each chunk ends; `None` where the mask says it.
            utterance_spans: (B, N, 2) int64 ms, start and end, -1 for padded utterances.
            audio_features: (B, L, D), cached frames of the audio tower, in place of sound.

        Returns:
            the audio tower's output, with `pooler_output` a list of B tensors (n_b, H); (0, H) for a clip that has
            no sound.
        """
        output, states, times = self.acoustic_frames(
            input_features, input_values, audio_attention_mask, audio_times, audio_ends, audio_features, **kwargs
        )
        tokens, counts = self.audio_qformer(states.unsqueeze(2), times, self.window_spans(utterance_spans))
        output.pooler_output = list(self.audio_projector(tokens).split(counts))
        return output

    @torch.no_grad()
    def attention_over_time(self, layer: int = -1, average: bool = True, **inputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Where in time each window's queries listen: the acoustic Q-Former's cross-attention (Eq. 2; Figure 2).

        Args:
            layer: which of the Q-Former's layers with cross-attention.
            average: over heads and queries.
            inputs: the processor's batch; everything that is no sound or utterance is ignored.

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
            heard = windows[clip, window].to(states.device)
            weights[clip, window, ..., heard] = cross_attention(block, states[clip, heard][None], layer)[0]
        return (weights.mean((2, 3)) if average else weights), times

    def encode_media(
        self,
        pixel_values_videos=None,
        video_features=None,
        video_times=None,
        utterance_spans=None,
        input_features=None,
        input_values=None,
        audio_features=None,
        audio_attention_mask=None,
        audio_times=None,
        audio_ends=None,
    ) -> MediaTokens:
        """Video and audio tokens of a batch (see `get_video_features`, `get_audio_features` for the shapes)."""
        video = audio = None
        used = {}
        if self.config.vision_config is not None and video_times is not None and (video_times >= 0).any():
            video = self.get_video_features(pixel_values_videos, video_times, video_features).pooler_output
            used["video"] = (video_times >= 0).any(-1)
        if audio_attention_mask is not None and audio_attention_mask.any():
            audio = self.get_audio_features(
                input_features=input_features,
                input_values=input_values,
                audio_attention_mask=audio_attention_mask,
                audio_times=audio_times,
                audio_ends=audio_ends,
                utterance_spans=utterance_spans,
                audio_features=audio_features,
            ).pooler_output
            used["audio"] = audio_attention_mask.bool().flatten(1).any(-1)
        return MediaTokens(video=video, audio=audio, modalities=self.stack_modalities(used))

    @merge_with_config_defaults
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_features: torch.Tensor | None = None,
        video_times: torch.Tensor | None = None,
        utterance_spans: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        audio_features: torch.Tensor | None = None,
        audio_attention_mask: torch.Tensor | None = None,
        audio_times: torch.Tensor | None = None,
        audio_ends: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | EmotionModelOutputWithPast:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        modalities = None
        if inputs_embeds is None:
            media = self.encode_media(
                pixel_values_videos=pixel_values_videos,
                video_features=video_features,
                video_times=video_times,
                utterance_spans=utterance_spans,
                input_features=input_features,
                input_values=input_values,
                audio_features=audio_features,
                audio_attention_mask=audio_attention_mask,
                audio_times=audio_times,
                audio_ends=audio_ends,
            )
            modalities = media.modalities
            inputs_embeds = self.embed(input_ids, media)
            if self.training:
                inputs_embeds = inputs_embeds + self.idle_branches(media).to(inputs_embeds)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        return EmotionModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            modalities=modalities,
        )


def cross_attention(block: QFormer, features: torch.Tensor, layer: int) -> torch.Tensor:
    """Cross-attention weights (B, heads, K, L) of one layer of a Q-Former that reads features (B, L, D)."""
    found = []

    def keep(module, inputs, kwargs, output):
        # Written out: fused attention never holds its weights.
        hidden_states = inputs[0] if inputs else kwargs["hidden_states"]
        heads = (module.num_attention_heads, module.attention_head_size)
        query = module.query(hidden_states).unflatten(-1, heads).transpose(1, 2)
        key = module.key(features).unflatten(-1, heads).transpose(1, 2)
        found.append((query @ key.transpose(-1, -2) * module.scaling).softmax(-1))

    layers = [layer for layer in block.qformer.encoder.layer if layer.has_cross_attention]
    hook = layers[layer].crossattention.attention.register_forward_hook(keep, with_kwargs=True)
    try:
        block(features)
    finally:
        hook.remove()
    return found[0]


class AcoustEmoForConditionalGeneration(AcoustEmoPreTrainedModel, MediaGenerationMixin):
    """AcoustEmo as a generating model: the class that every Auto class gives for an AcoustEmo folder."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: AcoustEmoConfig):
        super().__init__(config)
        self.model = AcoustEmoModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def from_pretrained_parts(
        cls, vision=None, qformer=None, audio=None, text=None, **options
    ) -> "AcoustEmoForConditionalGeneration":
        """AcoustEmo from published checkpoints of its parts; what it "exclusively" tunes (4.1) is new.

        Args:
            vision, qformer, audio, text: Hub ids or local folders; see `parts.assemble` for what each accepts. Parts
                not given are new.
            options: `config`, `dtype`, `cache_dir`, `token`, `local_files_only`, and fields of the configuration.

        Returns:
            the model, in eval mode. Its `parts_report` says what was loaded, what is new and what was ignored, and
            why; print it.

        Raises:
            PartsError: no part given, a part cannot be read, or two parts do not fit.
        """
        model, report = assemble(cls, vision=vision, qformer=qformer, audio=audio, text=text, **options)
        model.parts_report = report
        return model

    def get_output_embeddings(self):
        return self.lm_head

    def get_video_features(self, *args, **kwargs):
        return self.model.get_video_features(*args, **kwargs)

    def get_audio_features(self, *args, **kwargs):
        return self.model.get_audio_features(*args, **kwargs)

    def attention_over_time(self, *args, **kwargs):
        return self.model.attention_over_time(*args, **kwargs)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_features: torch.Tensor | None = None,
        video_times: torch.Tensor | None = None,
        utterance_spans: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        audio_features: torch.Tensor | None = None,
        audio_attention_mask: torch.Tensor | None = None,
        audio_times: torch.Tensor | None = None,
        audio_ends: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | EmotionCausalLMOutputWithPast:
        """The language-modelling loss of Eq. 4 and logits.

        Args:
            input_ids, attention_mask: (B, S).
            labels: (B, S), -100 outside the answer.
            the media: see `AcoustEmoModel.get_video_features` and `get_audio_features`.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            pixel_values_videos=pixel_values_videos,
            video_features=video_features,
            video_times=video_times,
            utterance_spans=utterance_spans,
            input_features=input_features,
            input_values=input_values,
            audio_features=audio_features,
            audio_attention_mask=audio_attention_mask,
            audio_times=audio_times,
            audio_ends=audio_ends,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size, **kwargs
            )
        return EmotionCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            modalities=outputs.modalities,
        )


# Its own files travel with whatever is saved, so that a folder loads without this package.
AcoustEmoForConditionalGeneration.register_for_auto_class("AutoModel")

__all__ = ["AcoustEmoForConditionalGeneration", "AcoustEmoModel", "AcoustEmoPreTrainedModel"]
