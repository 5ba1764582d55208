"""The trunk of all four papers: towers, merge of media tokens into the prompt, and generation that encodes media once.

Letters used for shapes throughout the package: B batch, T frames, P patches, R regions, L audio frames, N utterances,
K queries, D tower width, H language-model width, S text tokens.
"""

import inspect
from dataclasses import dataclass
from functools import wraps

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from transformers import AutoModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin, LogitsProcessorList, SuppressTokensLogitsProcessor
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel, slice_logits_to_keep
from transformers.models.instructblip.modeling_instructblip import InstructBlipVisionModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults

from .configuration_emotion import EmotionConfig
from .modeling_facexformer import FaceXFormerModel
from .modeling_imagebind_audio import ImageBindAudioModel
from .qformer import QFormer
from .remote_code import SharingMixin

# Towers that AutoModel cannot build: transformers lacks FaceXFormer and ImageBind, does not list EVA ViT-g
# (InstructBLIP) by itself, and means encoder and decoder together by "whisper".
OWN_TOWERS = {
    "facexformer": FaceXFormerModel,
    "imagebind_audio": ImageBindAudioModel,
    "instructblip_vision_model": InstructBlipVisionModel,
    "whisper": WhisperEncoder,
}


# A headless model is of no use to the users of a remote-code video LLM, so every Auto class gives the generating one.
GENERATING_AUTO_CLASSES = (
    "AutoModel",
    "AutoModelForMultimodalLM",
    "AutoModelForImageTextToText",
    "AutoModelForCausalLM",
)


def build_tower(config):
    """The encoder that `config` describes, with random weights."""
    own = OWN_TOWERS.get(config.model_type)
    return AutoModel.from_config(config) if own is None else own(config)


@dataclass
class MediaTokens(ModelOutput):
    """What a clip becomes: tokens in the language model's space, one entry per clip of the batch.

    Args:
        video: B tensors of shape (n_b, H); an empty one for a clip without picture. `None` where the model has no such
            branch or the batch no such input.
        audio: as `video`, for sound.
        face: as `video`, for a branch of faces whose tokens stand in the prompt themselves.
        modalities: (B, M) bool, which of the model's `modality_names` were really used for each clip.
    """

    video: list[torch.Tensor] | None = None
    audio: list[torch.Tensor] | None = None
    face: list[torch.Tensor] | None = None
    modalities: torch.Tensor | None = None


@dataclass
class EmotionModelOutputWithPast(BaseModelOutputWithPast):
    """`modalities` (B, M) bool: which of `modality_names` each clip really had; `None` after the prompt was read."""

    modalities: torch.Tensor | None = None
    media: MediaTokens | None = None


@dataclass
class EmotionCausalLMOutputWithPast(CausalLMOutputWithPast):
    """`modalities` (B, M) bool: which of `modality_names` each clip really had; `None` after the prompt was read."""

    modalities: torch.Tensor | None = None


class EmotionPreTrainedModel(SharingMixin, PreTrainedModel):
    """Weights, flags and media inputs that the papers' models share."""

    config: EmotionConfig
    base_model_prefix = "model"
    input_modalities = ("video", "audio", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    processor_class: str | None = None
    frozen_parts: tuple[str, ...] = ("vision_tower", "audio_tower", "language_model")
    media_inputs: tuple[str, ...] = ()
    media_names: tuple[str, ...] = ("video", "audio")
    modality_names: tuple[str, ...] = ("video", "audio")

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, QFormer):
            init.normal_(module.query_tokens, std=self.config.initializer_range)

    @torch.no_grad()
    def initialize_weights(self):
        super().initialize_weights()
        # transformers 5.23 fills the product of a normalised weight and leaves its factors (HuBERT's positions, and
        # wav2vec 2.0's and WavLM's) as they are: without a checkpoint for them, memory that nobody wrote.
        for module in self.modules():
            if is_parametrized(module, "weight"):
                length, direction = (getattr(module.parametrizations.weight, f"original{i}") for i in (0, 1))
                init.normal_(direction, std=2 * direction[0].numel() ** -0.5)
                across = [axis for axis, size in enumerate(length.shape) if size == 1]
                init.copy_(length, direction.norm(dim=across, keepdim=True))

    def freeze(self, parts: tuple[str, ...] | None = None):
        """Stop training of `parts` (default: those the paper freezes) and of nothing else; returns the model."""
        parts = self.frozen_parts if parts is None else parts
        bare = self.base_model.named_parameters(recurse=False)
        for name, part in (*self.base_model.named_children(), *bare):
            part.requires_grad_(name not in parts)
        if "language_model" in parts and self.get_output_embeddings() is not None:
            self.get_output_embeddings().requires_grad_(False)
        return self

    def train(self, mode: bool = True):
        """As usual, but a frozen tower stays as it answers: no dropout and no masking in what is not trained."""
        super().train(mode)
        for name, module in self.named_children():
            if name.endswith("_tower") and not any(parameter.requires_grad for parameter in module.parameters()):
                module.eval()
        return self

    def frame_features(self, pixels):
        """What is kept of the vision tower's output in place of frames (F, 3, height, width): (F, ...)."""
        return self.vision_tower(pixels.to(self.vision_tower.dtype), return_dict=True).last_hidden_state

    def sound_features(self, audio_attention_mask, **sound):
        """What is kept of the audio tower's output in place of sound, and the mask that goes with it.

        Args:
            audio_attention_mask: as for `encode_sound`.
            sound: `input_features` or `input_values`.

        Returns:
            (B, L, D); the mask of chunks as it is, since it says how long each is, and (B, L) for a waveform.
        """
        _, states, heard = encode_sound(self.audio_tower, "frames", audio_attention_mask=audio_attention_mask, **sound)
        return states, heard if "input_values" in sound else audio_attention_mask

    @torch.no_grad()
    def tower_features(self, **inputs) -> dict[str, torch.Tensor]:
        """The towers' outputs in place of what the towers read.

        Args:
            inputs: media inputs of `forward`, of one padded batch.

        Returns:
            media inputs of `forward` that give the same result while the towers do not change: `video_features` and
            `audio_features` (and what else a paper has) for pixels and sound, the others as they were.
        """
        inputs = {name: tensor for name, tensor in inputs.items() if tensor is not None}
        if "pixel_values_videos" in inputs:
            real = inputs["video_times"] >= 0
            states = self.frame_features(inputs.pop("pixel_values_videos")[real])
            inputs["video_features"] = states.new_zeros(*real.shape, *states.shape[1:])
            inputs["video_features"][real] = states
        sound = {name: inputs.pop(name) for name in ("input_features", "input_values") if name in inputs}
        if sound:
            features = self.sound_features(inputs["audio_attention_mask"], **sound)
            inputs["audio_features"], inputs["audio_attention_mask"] = features
        return inputs

    def stack_modalities(self, used):
        """Which clip used which modality, dict of (B,) bool -> (B, M) bool in the order of `modality_names`."""
        if not used:
            return None
        absent = torch.zeros_like(next(iter(used.values())))
        return torch.stack([used.get(name, absent) for name in self.modality_names], dim=-1)

    def idle_branches(self, media):
        """A zero tied to the branches that this batch leaves without work (see `idle`)."""
        idling = []
        for name, module in self.named_children():
            medium = next((medium for medium in self.media_names if name.startswith(medium)), "video")
            if name != "language_model" and getattr(media, medium) is None:
                idling.append(module)
        return idle(*idling)

    def save_pretrained(self, save_directory, **kwargs):
        if self.can_generate():
            model = f"{type(self).__module__.rsplit('.', 1)[-1]}.{type(self).__name__}"
            config = f"{type(self.config).__module__.rsplit('.', 1)[-1]}.{type(self.config).__name__}"
            self.config.auto_map = {
                "AutoConfig": config,
                "AutoProcessor": self.processor_class,
                **dict.fromkeys(GENERATING_AUTO_CLASSES, model),
            }
        super().save_pretrained(save_directory, **kwargs)

    def replace_placeholders(self, input_ids):
        """`input_ids` (B, S) with id 0 for every placeholder: ids that the embedding table surely has."""
        placeholders = torch.zeros_like(input_ids, dtype=torch.bool)
        for name in self.media_names:
            placeholders |= input_ids == getattr(self.config, f"{name}_token_id")
        return input_ids.masked_fill(placeholders, 0)

    def embed(self, input_ids, media=None):
        """Embeddings of the prompt with the media merged in.

        Args:
            input_ids: (B, S).
            media: the clips' `MediaTokens`, or `None` for text alone.

        Returns:
            (B, S, H).

        Raises:
            ValueError: if placeholders and media tokens differ in number for any clip; both numbers are named.
        """
        embeds = self.get_input_embeddings()(self.replace_placeholders(input_ids))
        for name in self.media_names:
            features = None if media is None else getattr(media, name)
            if features is None:
                features = [embeds.new_zeros(0, embeds.shape[-1])] * len(input_ids)
            embeds = merge(embeds, input_ids, getattr(self.config, f"{name}_token_id"), features, name)
        return embeds


def merge(inputs_embeds, input_ids, token_id, features, name):
    """Write media tokens over their placeholders.

    Args:
        inputs_embeds: (B, S, H).
        input_ids: (B, S), holding `token_id` wherever a token of this medium belongs.
        features: B tensors of shape (n_b, H), in prompt order.
        name: the medium, for the message.

    Returns:
        (B, S, H).

    Raises:
        ValueError: if a row has another number of placeholders than its clip has tokens; both numbers are named.
    """
    placeholders = input_ids == token_id  # (B, S)
    expected = placeholders.sum(-1).tolist()
    found = [len(tokens) for tokens in features]
    if expected != found:
        row = next(i for i, pair in enumerate(zip(expected, found, strict=True)) if pair[0] != pair[1])
        raise ValueError(
            f"row {row} of the batch has {expected[row]} {name} placeholders in its prompt for {found[row]} {name} "
            f"tokens of its clip; processor and model must agree on queries, frames and utterances"
        )
    tokens = torch.cat(list(features)).to(inputs_embeds)
    return inputs_embeds.masked_scatter(placeholders.unsqueeze(-1), tokens)


def idle(*modules):
    """A zero that depends on every trained parameter of `modules`.

    Added where a batch gives a branch nothing to do, so that each process has a gradient for the same parameters and
    distributed training does not wait for one that never comes.
    """
    parameters = [p for module in modules if module is not None for p in module.parameters() if p.requires_grad]
    return sum((p.sum() * 0.0 for p in parameters), torch.zeros(()))


class PositionTable(nn.Embedding):
    """Learned positions with interpolation, so that a table of 32 serves a clip of 96 frames (Video-LLaMA, TimeChat).

    A clip that fits the table reads it by index; a longer one spreads its steps evenly over the table. The table is
    read per clip, never per batch: a clip's positions do not depend on its neighbours.
    """

    def forward(self, mask):
        """mask (B, L) bool, True for real steps, which come first -> (B, L, D)."""
        count = mask.sum(-1, keepdim=True)  # (B, 1)
        last = self.num_embeddings - 1
        step = torch.where(count > self.num_embeddings, last / (count - 1).clamp(min=1), 1.0)
        position = (torch.arange(mask.shape[1], device=mask.device) * step).clamp(max=last)  # (B, L)
        low = position.floor().long()
        share = (position - low).unsqueeze(-1).to(self.weight.dtype)
        high = (low + 1).clamp(max=last)
        return super().forward(low) * (1 - share) + super().forward(high) * share


def encode_sound(
    tower,
    feature,
    input_features=None,
    input_values=None,
    audio_attention_mask=None,
    layers=None,
    layer_reduction="mean",
    **kwargs,
):
    """Run an audio tower over a padded batch.

    Args:
        tower: an audio encoder; it is fed chunks (ImageBind, Whisper) or a waveform (HuBERT, wav2vec 2.0, WavLM).
        feature: `"pooled"` for one vector per chunk, `"frames"` for every time step.
        input_features: (B, C, mel, frames), C chunks a clip.
        input_values: (B, samples), a waveform.
        audio_attention_mask: (B, C) for chunks that are real throughout, (B, C, frames) for chunks whose end may be
            padding, or (B, samples); True where real. Rows may be all False: a clip without sound.
        layers: indices into the tower's hidden states (0 is the embedding, -1 the last layer) that make the frames;
            `None` takes the tower's output.
        layer_reduction: `"mean"` or `"sum"` over `layers`.
        kwargs: of the tower, such as `output_attentions`.

    Returns:
        the tower's own output over the real chunks or clips, the states (B, L, D), zero where padded, and their mask
        (B, L) bool.
    """
    audio_attention_mask = audio_attention_mask.bool()
    more = kwargs if layers is None else {**kwargs, "output_hidden_states": True}
    real = audio_attention_mask if input_features is not None else audio_attention_mask.any(-1)
    real = real.any(-1) if real.dim() == 3 else real  # (B, C) chunks or (B,) clips
    if input_features is not None:
        output = tower(input_features[real].to(tower.dtype), **more)
    else:
        heard = audio_attention_mask[real].long()
        output = tower(input_values[real].to(tower.dtype), attention_mask=heard, **more)
    if feature == "pooled":
        states = output.pooler_output[:, None]
    else:
        states = output.last_hidden_state
        if layers is not None:
            states = torch.stack([output.hidden_states[layer] for layer in layers])
            states = states.mean(0) if layer_reduction == "mean" else states.sum(0)
        if isinstance(tower, ImageBindAudioModel):
            states = tower.frame_states(states)
    steps = states.new_ones(states.shape[:2], dtype=torch.bool)  # (chunks or clips, l)
    if input_features is None:
        steps = tower._get_feature_vector_attention_mask(states.shape[1], heard).bool()
    elif audio_attention_mask.dim() == 3 and feature == "frames":
        steps = audio_attention_mask[real].unflatten(-1, (states.shape[1], -1)).any(-1)
    mask = steps.new_zeros(*real.shape, states.shape[1])
    mask[real] = steps
    padded = states.new_zeros(*mask.shape, states.shape[-1])
    padded[real] = states * steps.unsqueeze(-1)
    return output, padded.flatten(1, -2), mask.flatten(1)


def sound_times(tower, mask, frame_rate, audio_times=None):
    """Times of the states that `encode_sound` gave as frames.

    Args:
        tower: the audio tower; ImageBind knows the times of its steps, others have `frame_rate` steps a second.
        mask: (B, L) bool, the states' mask.
        frame_rate: steps per second (f_s of AcoustEmo's Eq. 1), Hz.
        audio_times: (B, C) int64 ms, start of each chunk, -1 where padded; `None` for a waveform.

    Returns:
        (B, L) int64 ms, -1 where padded.
    """
    if audio_times is None:
        audio_times = torch.zeros_like(mask[:, :1], dtype=torch.long)
    if isinstance(tower, ImageBindAudioModel):
        times = tower.frame_times(audio_times)
    else:
        steps = torch.arange(mask.shape[1] // audio_times.shape[1], device=mask.device)
        times = audio_times.unsqueeze(-1) + (steps * 1000 / frame_rate).round().long()
    return torch.where(mask, times.flatten(1), -1)


def sound_frames(
    tower,
    frame_rate,
    input_features=None,
    input_values=None,
    audio_attention_mask=None,
    audio_times=None,
    audio_ends=None,
    audio_features=None,
    layers=None,
    layer_reduction="mean",
    **kwargs,
):
    """Every frame of a batch's sound with its time, from one pass of an audio tower or from its cached output.

    Args:
        tower: as for `encode_sound`, as are `layers`, `layer_reduction` and `kwargs`.
        frame_rate: as for `sound_times`.
        input_features: (B, C, mel, frames), chunks of sound, or
        input_values: (B, samples), a waveform.
        audio_attention_mask: (B, C), (B, C, frames) or (B, samples), True where real.
        audio_times: (B, C) int64 ms, start of each chunk, -1 where padded; not needed for a waveform.
        audio_ends: (B, C) int64 ms, where the sound in each chunk ends; `None` where the mask says it.
        audio_features: (B, L, D), cached frames of the tower, in place of sound; their mask may also be (B, L).

    Returns:
        the tower's output, the frames (B, L, D), and their times (B, L) int64 ms, -1 where there is no sound.
    """
    if audio_features is None:
        output, states, mask = encode_sound(
            tower, "frames", input_features, input_values, audio_attention_mask, layers, layer_reduction, **kwargs
        )
    else:
        output, states = BaseModelOutputWithPooling(), audio_features
        mask = audio_attention_mask.bool()
        if mask.dim() == 3:
            mask = mask.unflatten(-1, (states.shape[1] // mask.shape[1], -1)).any(-1).flatten(1)
        elif mask.shape[1] > states.shape[1]:  # of a waveform
            heard = mask.any(-1, keepdim=True)
            mask = tower._get_feature_vector_attention_mask(states.shape[1], mask.long()).bool() & heard
        mask = mask.repeat_interleave(states.shape[1] // mask.shape[1], dim=1)
    times = sound_times(tower, mask, frame_rate, audio_times)
    if audio_ends is not None:
        # A chunk may run over the end of its sound, into silence; its first frame always hears some of the sound.
        steps = mask.shape[1] // audio_ends.shape[1]
        heard = times < audio_ends.repeat_interleave(steps, dim=1)
        heard[:, ::steps] = True
        times = times.masked_fill(~(mask & heard), -1)
    return output, states, times


class MediaGenerationMixin(GenerationMixin):
    """`generate` that encodes a clip once, whatever the number of beams, returned sequences or questions.

    The media are turned into embeddings of the prompt before the search starts, so beams repeat embeddings and never
    pixels, and the search sees no placeholder id, which may lie beyond the vocabulary.
    """

    def encode_media(self, **inputs) -> MediaTokens:
        """Encode the media of a processed batch, to be asked many questions through `generate(media=...)`.

        Args:
            inputs: the processor's output; everything that is no medium is ignored.
        """
        return self.base_model.encode_media(**{name: inputs.get(name) for name in self.media_inputs})

    def generate(self, inputs=None, *, input_ids=None, media=None, **kwargs):
        """As transformers' `generate`; `media` takes what `encode_media` returned in place of pixels and sound.

        A placeholder is never written: one whose id lies within the vocabulary stands for media in the next step.
        """
        input_ids = inputs if input_ids is None else input_ids
        rows = self.config.get_text_config().vocab_size
        placeholders = [getattr(self.config, f"{name}_token_id") for name in self.base_model.media_names]
        placeholders = [token_id for token_id in placeholders if token_id < rows]
        if placeholders:
            suppressor = SuppressTokensLogitsProcessor(placeholders, device=self.device)
            own = kwargs.get("logits_processor") or []
            kwargs["logits_processor"] = LogitsProcessorList([*own, suppressor])
        given = {name: kwargs[name] for name in self.media_inputs if kwargs.get(name) is not None}
        use_cache = kwargs.get("use_cache", getattr(kwargs.get("generation_config"), "use_cache", None))
        # Without a cache the prompt is read again at each step, and transformers takes embeddings for the first only.
        if input_ids is None or (media is None and (not given or use_cache is False)):
            return super().generate(input_ids, **kwargs)
        if media is None:
            media = self.encode_media(**given)
        kwargs = {name: value for name, value in kwargs.items() if name not in self.media_inputs}
        embeds = self.base_model.embed(input_ids, media)
        prompt = self.base_model.replace_placeholders(input_ids)
        output = super().generate(inputs_embeds=embeds, input_ids=prompt, **kwargs)
        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        copies = len(sequences) // len(input_ids)
        sequences[:, : input_ids.shape[1]] = input_ids.to(sequences).repeat_interleave(copies, dim=0)
        return output

    def prepare_inputs_for_generation(
        self,
        input_ids,
        next_sequence_length=None,
        past_key_values=None,
        attention_mask=None,
        inputs_embeds=None,
        is_first_iteration=False,
        **kwargs,
    ):
        model_inputs = super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        if not is_first_iteration and kwargs.get("use_cache", True):
            # The cache already holds the media tokens; transformers drops only the names it knows.
            for name in self.media_inputs:
                model_inputs.pop(name, None)
        return model_inputs


def parameters_of(method) -> list[inspect.Parameter]:
    """The inputs that a method takes from a batch: its parameters but `self`, and none behind `*`."""
    parameters = inspect.signature(method).parameters.values()
    return [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]


def naming(forward, media):
    """`forward`, which takes its media inputs as `**kwargs`, under a signature that names them.

    `Trainer` and `generate` learn from the signature which inputs a model takes.
    """
    signature = inspect.signature(forward)
    *named, rest = signature.parameters.values()
    media = [inspect.Parameter(p.name, p.KEYWORD_ONLY, default=None, annotation=p.annotation) for p in media]

    @wraps(forward)
    def named_forward(self, *args, **kwargs):
        return forward(self, *args, **kwargs)

    named_forward.__signature__ = signature.replace(parameters=[*named, *media, rest])
    return named_forward


class EmotionModel(EmotionPreTrainedModel):
    """A paper's model without the language-model head.

    A paper adds its parts in `__init__` and says in `get_video_features`, `get_audio_features`, ... what a batch
    becomes. The media inputs of the whole model are the parameters of these methods; they are named nowhere else.
    """

    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]
    # Where more is encoded than has placeholders of its own.
    encoders: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        encoders = [getattr(cls, f"get_{name}_features", None) for name in cls.encoders or cls.media_names]
        media = {p.name: p for encoder in encoders if encoder is not None for p in parameters_of(encoder)}
        cls.media_inputs = tuple(media)
        cls.forward = naming(EmotionModel.forward, media.values())

    def __init__(self, config: EmotionConfig):
        super().__init__(config)
        if getattr(config, "vision_config", None) is not None:
            self.vision_tower = build_tower(config.vision_config)
            eps = getattr(config, "vision_post_layernorm_eps", None)
            if eps is not None and hasattr(self.vision_tower, "post_layernorm"):
                self.vision_tower.post_layernorm.eps = eps
        if config.audio_config is not None:
            self.audio_tower = build_tower(config.audio_config)
        self.language_model = AutoModel.from_config(config.text_config)

    def watch(self, pixels, real, features=None, **kwargs):
        """The vision tower's output over the real frames of pixels (B, T, ...), real (B, T), or its cached states."""
        if features is not None:
            return BaseModelOutputWithPooling(last_hidden_state=features[real])
        return self.vision_tower(pixels[real].to(self.vision_tower.dtype), return_dict=True, **kwargs)

    def present(self, inputs) -> dict[str, torch.Tensor]:
        """Modality -> (B,) bool, the clips that have it; only modalities that the model and some clip have."""
        found = {}
        times, heard = inputs.get("video_times"), inputs.get("audio_attention_mask")
        if times is not None and hasattr(self, "vision_tower"):
            found["video"] = (times >= 0).any(-1)
        if heard is not None and hasattr(self, "audio_tower"):
            found["audio"] = heard.bool().flatten(1).any(-1)
        return {name: clips for name, clips in found.items() if clips.any()}

    def encode_media(self, **inputs) -> MediaTokens:
        """Media tokens of a batch; for the inputs and their shapes see `get_video_features`, `get_audio_features`."""
        used, tokens = self.present(inputs), {}
        # In one order on every process: a set's differs, and sharded branches would wait for each other.
        for name in self.media_names:
            if name in used:
                tokens[name] = self.encode(name, inputs).pooler_output
        return MediaTokens(**tokens, modalities=self.stack_modalities(used))

    def encode(self, name, inputs) -> BaseModelOutputWithPooling:
        """`get_<name>_features` of what it takes from a batch."""
        method = getattr(self, f"get_{name}_features")
        return method(**{p.name: inputs.get(p.name) for p in parameters_of(method)})

    @merge_with_config_defaults
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | EmotionModelOutputWithPast:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        inputs = {name: kwargs.pop(name, None) for name in self.media_inputs}
        media = None
        if inputs_embeds is None:
            media = self.encode_media(**inputs)
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
            **outputs, modalities=None if media is None else media.modalities, media=media
        )


class EmotionForConditionalGeneration(EmotionPreTrainedModel, MediaGenerationMixin):
    """A paper's generating model: it gives `model_class`, `assemble` and, where its loss has more terms, `losses`."""

    model_class: type[EmotionModel]
    output_class = EmotionCausalLMOutputWithPast
    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        model = cls.model_class
        for name in ("media_inputs", "media_names", "modality_names", "frozen_parts", "processor_class"):
            setattr(cls, name, getattr(model, name))
        own = inspect.signature(cls.forward).parameters
        inner = inspect.signature(model.forward).parameters.values()
        named = [p for p in (*inner, *parameters_of(cls.losses)) if p.kind is not p.VAR_KEYWORD and p.name not in own]
        cls.model_inputs = {p.name for p in inner}
        cls.loss_inputs = {p.name for p in parameters_of(cls.losses)} - {"outputs", "logits", "labels"}
        cls.forward = naming(cls.forward, [p for p in named if p.name not in ("outputs", "logits")])

    def __init__(self, config: EmotionConfig):
        super().__init__(config)
        self.model = self.model_class(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def from_pretrained_parts(cls, **parts):
        """The model from published checkpoints of its parts; see `assemble` of the paper for what each accepts.

        Its `parts_report` says what was loaded, what is new and what was ignored, and why; print it.
        """
        model, model.parts_report = cls.assemble(cls, **parts)
        return model

    def get_output_embeddings(self):
        return self.lm_head

    def get_video_features(self, *args, **kwargs):
        return self.model.get_video_features(*args, **kwargs)

    def get_audio_features(self, *args, **kwargs):
        return self.model.get_audio_features(*args, **kwargs)

    def losses(self, outputs, logits, labels, **kwargs) -> dict:
        """Fields of the output that the loss gives; `kwargs` are inputs of `forward` that the model did not take."""
        if labels is None:
            return {}
        vocab_size = self.config.text_config.vocab_size
        return {"loss": self.loss_function(logits=logits, labels=labels, vocab_size=vocab_size, **kwargs)}

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | EmotionCausalLMOutputWithPast:
        """Loss and logits.

        Args:
            input_ids, attention_mask: (B, S).
            labels: (B, S), -100 outside the answer.
            the media: see `get_video_features` and `get_audio_features` of the model.
        """
        own = {name: kwargs.pop(name) for name in sorted(self.loss_inputs) if name in kwargs}
        outputs = self.model(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))
        rest = {name: value for name, value in kwargs.items() if name not in self.model_inputs}
        return self.output_class(
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            modalities=outputs.modalities,
            **self.losses(outputs, logits, labels, **own, **rest),
        )


__all__ = [
    "EmotionCausalLMOutputWithPast",
    "EmotionForConditionalGeneration",
    "EmotionModel",
    "EmotionModelOutputWithPast",
    "EmotionPreTrainedModel",
    "MediaGenerationMixin",
    "MediaTokens",
    "PositionTable",
    "build_tower",
    "encode_sound",
    "idle",
    "merge",
    "sound_frames",
    "sound_times",
]
