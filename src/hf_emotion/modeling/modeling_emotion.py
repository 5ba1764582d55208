"""The trunk of all papers: towers, media tokens merged into the prompt, the language model and its loss.

A paper writes a subclass of `EmotionModel` with its parts and `get_video_features`, `get_audio_features`, ..., and one
of `EmotionForConditionalGeneration` that names it; see `EmotionModel`.

Letters used for shapes throughout the package: B batch, T frames, P patches, R regions, L audio frames, N utterances,
K queries, D tower width, H language-model width, S text tokens.
"""

import inspect
from dataclasses import dataclass
from difflib import get_close_matches
from functools import wraps

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from transformers import AutoModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel, slice_logits_to_keep
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults

from .configuration_emotion import EmotionConfig
from .generation_emotion import MediaGenerationMixin, MediaTokens
from .qformer import QFormer
from .remote_code import SharingMixin
from .sound import chunks_with_sound, encode_sound
from .towers import build_tower

# A headless model is of no use to the users of a remote-code video LLM, so every Auto class gives the generating one.
AUTO_CLASSES = ("AutoModel", "AutoModelForMultimodalLM", "AutoModelForImageTextToText", "AutoModelForCausalLM")

# The inputs that say which frames, and which sound, are real; and what cannot be read without them.
MASKS = {
    "video_times": ("pixel_values_videos", "video_landmarks", "video_features"),
    "audio_attention_mask": ("input_features", "input_values", "audio_features"),
}

# Inputs of the loss function of transformers, beside logits and labels.
LOSS_OPTIONS = ("num_items_in_batch", "ignore_index", "shift_labels")


@dataclass
class EmotionModelOutputWithPast(BaseModelOutputWithPast):
    """`modalities` (B, M) bool: which of `modality_names` each clip really had; `None` without media in the input."""

    modalities: Tensor | None = None
    media: MediaTokens | None = None


@dataclass
class EmotionCausalLMOutputWithPast(CausalLMOutputWithPast):
    """`modalities` (B, M) bool: which of `modality_names` each clip really had; `None` without media in the input."""

    modalities: Tensor | None = None


class EmotionPreTrainedModel(SharingMixin, PreTrainedModel):
    """Weights and flags that the papers' models share."""

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
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, QFormer):
            init.normal_(module.query_tokens, std=self.config.initializer_range)

    @torch.no_grad()
    def initialize_weights(self):
        super().initialize_weights()
        # transformers 5.23 fills the product of a normalised weight and leaves its factors (HuBERT's positions, and
        # wav2vec 2.0's and WavLM's) as they are: without a checkpoint for them, uninitialised memory.
        for module in self.modules():
            if is_parametrized(module, "weight"):
                length, direction = (getattr(module.parametrizations.weight, f"original{i}") for i in (0, 1))
                init.normal_(direction, std=2 * direction[0].numel() ** -0.5)
                across = [axis for axis, size in enumerate(length.shape) if size == 1]
                init.copy_(length, direction.norm(dim=across, keepdim=True))

    def freeze(self, parts: tuple[str, ...] | None = None) -> "EmotionPreTrainedModel":
        """Stop training of `parts` (default: those the paper freezes) and of nothing else; returns the model."""
        parts = self.frozen_parts if parts is None else parts
        bare = self.base_model.named_parameters(recurse=False)
        for name, part in (*self.base_model.named_children(), *bare):
            part.requires_grad_(name not in parts)
        if "language_model" in parts and self.get_output_embeddings() is not None:
            self.get_output_embeddings().requires_grad_(False)
        return self

    def train(self, mode: bool = True) -> "EmotionPreTrainedModel":
        """As usual, but a frozen tower stays in eval mode: no dropout and no masking in what is not trained."""
        super().train(mode)
        for name, module in self.named_children():
            if name.endswith("_tower") and not any(parameter.requires_grad for parameter in module.parameters()):
                module.eval()
        return self

    def save_pretrained(self, save_directory, **kwargs):
        if self.can_generate():
            types = type(self), type(self.config)
            model, config = (f"{cls.__module__.rsplit('.', 1)[-1]}.{cls.__name__}" for cls in types)
            self.config.auto_map = {
                "AutoConfig": config,
                "AutoProcessor": self.processor_class,
                **dict.fromkeys(AUTO_CLASSES, model),
            }
        super().save_pretrained(save_directory, **kwargs)


def merge(inputs_embeds: Tensor, input_ids: Tensor, token_id: int, features: list[Tensor], name: str) -> Tensor:
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
    counts = [len(tokens) for tokens in features]
    if expected != counts:
        row = next(i for i, pair in enumerate(zip(expected, counts, strict=True)) if pair[0] != pair[1])
        raise ValueError(
            f"row {row} of the batch has {expected[row]} {name} placeholders in its prompt for {counts[row]} {name} "
            f"tokens of its clip; processor and model must agree on queries, frames and utterances"
        )
    tokens = torch.cat(list(features)).to(inputs_embeds)
    return inputs_embeds.masked_scatter(placeholders.unsqueeze(-1), tokens)


def next_tokens(labels: Tensor) -> Tensor:
    """The token that each position predicts: `labels` (B, S) one place to the left, and -100 at the end."""
    return nn.functional.pad(labels, (0, 1), value=-100)[..., 1:]


def answer_positions(labels: Tensor) -> Tensor:
    """The positions that predict a token of an answer: (B, S) bool, for `logits_to_keep`."""
    return next_tokens(labels) != -100


def idle(*modules: nn.Module | None) -> Tensor:
    """A zero that depends on every trained parameter of `modules`.

    Added where a batch gives a branch nothing to do, so that each process has a gradient for the same parameters and
    distributed training does not wait for one that never comes.
    """
    parameters = [p for module in modules if module is not None for p in module.parameters() if p.requires_grad]
    return sum((p.sum() * 0.0 for p in parameters), torch.zeros(()))


def parameters_of(method) -> list[inspect.Parameter]:
    """The inputs that a method takes from a batch: its parameters but `self`, and none behind `*`."""
    parameters = inspect.signature(method).parameters.values()
    return [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]


def named_inputs(forward, inputs: list[inspect.Parameter]):
    """`forward`, which takes `inputs` among its `**kwargs`, under a signature that names them, and no other name.

    `Trainer` and `generate` learn from the signature which inputs a model takes.
    """
    signature = inspect.signature(forward)
    *explicit, rest = signature.parameters.values()
    inputs = [inspect.Parameter(p.name, p.KEYWORD_ONLY, default=None, annotation=p.annotation) for p in inputs]
    signature = signature.replace(parameters=[*explicit, *inputs, rest])
    accepted = {*signature.parameters, *TransformersKwargs.__optional_keys__, *LOSS_OPTIONS, "return_dict"}

    @wraps(forward)
    def forward_with_named_inputs(self, *args, **kwargs):
        for name in kwargs.keys() - accepted:
            near = get_close_matches(name, accepted, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"forward() of {type(self).__name__} has no input {name!r}{hint}")
        return forward(self, *args, **kwargs)

    forward_with_named_inputs.__signature__ = signature  # type: ignore[attr-defined]
    return forward_with_named_inputs


class EmotionModel(EmotionPreTrainedModel):
    """A paper's model without the language-model head.

    A paper adds its parts in `__init__`, and `get_video_features`, `get_audio_features`, ... turn a batch into tokens
    (`pooler_output`: B tensors (n_b, H)). The parameters of these methods are the media inputs of the model.
    """

    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]
    encoders: tuple[str, ...] = ()  # names of the `get_<name>_features`; by default `media_names`
    whole_chunks = False  # states of sound are those of whole chunks, what pads their end included

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        encoders = [getattr(cls, f"get_{name}_features", None) for name in cls.encoders or cls.media_names]
        media = {p.name: p for encoder in encoders if encoder is not None for p in parameters_of(encoder)}
        cls.media_inputs = tuple(media)
        cls.forward = named_inputs(EmotionModel.forward, list(media.values()))

    def __init__(self, config: EmotionConfig):
        super().__init__(config)
        if getattr(config, "vision_config", None) is not None:
            self.vision_tower = build_tower(config.vision_config)
            eps = getattr(config, "vision_post_layernorm_eps", None)
            if eps is not None and hasattr(self.vision_tower, "post_layernorm"):
                self.vision_tower.post_layernorm.eps = eps
        if getattr(config, "audio_config", None) is not None:
            self.audio_tower = build_tower(config.audio_config)
        self.language_model = AutoModel.from_config(config.text_config)

    # The towers' outputs, which may be cached

    def vision_output(self, pixels: Tensor, real: Tensor, features: Tensor | None = None, **kwargs):
        """The vision tower's output over the real frames, from pixels or from cached states.

        Args:
            pixels: (B, T, 3, height, width).
            real: (B, T) bool, which frames are real.
            features: (B, T, ...), the tower's cached states (`frame_features`), instead of pixels.

        Returns:
            the tower's output, with `last_hidden_state` (F, ...) for the F real frames of the batch.
        """
        if features is not None:
            return BaseModelOutputWithPooling(last_hidden_state=features[real])
        return self.vision_tower(pixels[real].to(self.vision_tower.dtype), return_dict=True, **kwargs)

    def frame_features(self, pixels: Tensor) -> Tensor:
        """What is cached of the vision tower's output instead of frames (F, 3, height, width): (F, ...)."""
        return self.vision_tower(pixels.to(self.vision_tower.dtype), return_dict=True).last_hidden_state

    def sound_features(self, audio_attention_mask: Tensor, **sound) -> tuple[Tensor, Tensor]:
        """What is cached of the audio tower's output instead of sound, and the mask that goes with it.

        Args:
            audio_attention_mask: as for `encode_sound`.
            sound: `input_features` or `input_values`.

        Returns:
            (B, L, D); the mask of chunks as it is, since it holds the length of each, and (B, L) for a waveform.
        """
        real = chunks_with_sound(audio_attention_mask) if self.whole_chunks else audio_attention_mask
        _, states, mask = encode_sound(self.audio_tower, "frames", audio_attention_mask=real, **sound)
        return states, mask if "input_values" in sound else audio_attention_mask

    @torch.no_grad()
    def tower_features(self, **inputs: Tensor | None) -> dict[str, Tensor]:
        """The towers' outputs instead of what the towers read.

        Args:
            inputs: media inputs of `forward`, of one padded batch.

        Returns:
            media inputs of `forward` that give the same result while the towers do not change: `video_features` and
            `audio_features` (and what else a paper has) for pixels and sound, the others as they were.
        """
        inputs = {name: tensor for name, tensor in inputs.items() if tensor is not None}
        frames = next((name for name in ("pixel_values_videos", "video_landmarks") if name in inputs), None)
        if frames is not None:
            real = inputs["video_times"] >= 0
            if frames == "video_landmarks":
                states = self.vision_tower(inputs.pop(frames), inputs["video_times"]).last_hidden_state
            else:
                states = self.frame_features(inputs.pop(frames)[real])
            inputs["video_features"] = states.new_zeros(*real.shape, *states.shape[1:])
            inputs["video_features"][real] = states
        sound = {name: inputs.pop(name) for name in ("input_features", "input_values") if name in inputs}
        if sound:
            features = self.sound_features(inputs["audio_attention_mask"], **sound)
            inputs["audio_features"], inputs["audio_attention_mask"] = features
        return inputs

    # Media tokens

    def present_modalities(self, inputs: dict[str, Tensor | None]) -> dict[str, Tensor]:
        """Which clips have which modality: name -> (B,) bool, only for modalities that the model and some clip have.

        Raises:
            ValueError: an input of frames or sound comes without the input that says which of it is real.
        """
        for mask, names in MASKS.items():
            for name in names if inputs.get(mask) is None else ():
                if inputs.get(name) is not None:
                    raise ValueError(f"{name} is given without {mask}, which says what is real and what is padding")
        present = {}
        times, mask = inputs.get("video_times"), inputs.get("audio_attention_mask")
        if times is not None and hasattr(self, "vision_tower"):
            present["video"] = (times >= 0).any(-1)
        if mask is not None and hasattr(self, "audio_tower"):
            present["audio"] = mask.bool().flatten(1).any(-1)
        return {name: clips for name, clips in present.items() if clips.any()}

    def media_of(self, media: MediaTokens | None, inputs: dict[str, Tensor | None]) -> MediaTokens:
        """`media`, or what `inputs` become; a ValueError where both are given."""
        names = [name for name, value in inputs.items() if value is not None]
        if media is not None and names:
            raise ValueError(f"both media and {', '.join(names)} are given; give the media once")
        return self.encode_media(**inputs) if media is None else media

    def encode_media(self, **inputs: Tensor | None) -> MediaTokens:
        """Media tokens of a batch; for the inputs and their shapes see the `get_<name>_features`."""
        present, tokens = self.present_modalities(inputs), {}
        # In one order on every process: a set's differs, and sharded branches would wait for each other.
        for name in self.media_names:
            if name in present:
                tokens[name] = self.encode(name, inputs).pooler_output
        return MediaTokens(**tokens, modalities=self.stack_modalities(present))

    def encode(self, name: str, inputs: dict[str, Tensor | None]) -> BaseModelOutputWithPooling:
        """`get_<name>_features` of what it takes from a batch."""
        method = getattr(self, f"get_{name}_features")
        return method(**{p.name: inputs.get(p.name) for p in parameters_of(method)})

    def stack_modalities(self, present: dict[str, Tensor]) -> Tensor | None:
        """Which clips have which modality, as dict of (B,) bool -> (B, M) bool in the order of `modality_names`."""
        if not present:
            return None
        absent = torch.zeros_like(next(iter(present.values())))
        return torch.stack([present.get(name, absent) for name in self.modality_names], dim=-1)

    def idle_branches(self, media: MediaTokens) -> Tensor:
        """A zero tied to the branches that this batch leaves without work (see `idle`)."""
        idling = []
        for name, module in self.named_children():
            medium = next((medium for medium in self.media_names if name.startswith(medium)), "video")
            if name != "language_model" and getattr(media, medium) is None:
                idling.append(module)
        return idle(*idling)

    # The prompt

    def zero_tokens(self, name: str) -> Tensor:
        """The tokens (n, H) of an absent `"video"` or `"audio"`, for `missing_modality="zero_feature"`."""
        raise NotImplementedError

    def replace_placeholders(self, input_ids: Tensor) -> Tensor:
        """`input_ids` (B, S) with id 0 for every placeholder: ids that the embedding table surely has."""
        placeholders = torch.zeros_like(input_ids, dtype=torch.bool)
        for name in self.media_names:
            placeholders |= input_ids == getattr(self.config, f"{name}_token_id")
        return input_ids.masked_fill(placeholders, 0)

    def check_without_clip(self, input_ids: Tensor) -> None:
        """Refuse a prompt (B, S) with placeholders in a batch without media: a trainer dropped the clip's inputs."""
        if not torch.equal(self.replace_placeholders(input_ids), input_ids):
            raise ValueError(
                "the prompt has placeholders of a clip, and the batch has no input of that clip; pass on everything "
                "that the processor returns (with trl, give every row `images=[]`; see the README)"
            )

    def embed(self, input_ids: Tensor, media: MediaTokens | None = None) -> Tensor:
        """Embeddings of the prompt with the media merged in.

        With `missing_modality="zero_feature"` a row with placeholders of a modality that its clip lacks gets
        `zero_tokens`.

        Args:
            input_ids: (B, S).
            media: the clips' tokens, or `None` for text alone.

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
            if self.config.missing_modality == "zero_feature":
                wanted = (input_ids == getattr(self.config, f"{name}_token_id")).any(-1).tolist()
                absent = [want and not len(tokens) for want, tokens in zip(wanted, features, strict=True)]
                zeros = self.zero_tokens(name) if any(absent) else None
                features = [zeros if lacks else tokens for lacks, tokens in zip(absent, features, strict=True)]
            embeds = merge(embeds, input_ids, getattr(self.config, f"{name}_token_id"), features, name)
        return embeds

    @merge_with_config_defaults
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        media: MediaTokens | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | EmotionModelOutputWithPast:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        inputs = {name: kwargs.pop(name, None) for name in self.media_inputs}
        if inputs_embeds is None:
            # A step of generation, which reads one token, has none.
            if media is None and input_ids.shape[1] > 1 and all(value is None for value in inputs.values()):
                self.check_without_clip(input_ids)
            media = self.media_of(media, inputs)
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
        modalities = None if media is None else media.modalities
        return EmotionModelOutputWithPast(**outputs, modalities=modalities, media=media)


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
        explicit = inspect.signature(cls.forward).parameters
        inner = [p for p in inspect.signature(model.forward).parameters.values() if p.kind is not p.VAR_KEYWORD]
        loss = [p for p in parameters_of(cls.losses) if p.name not in ("outputs", "logits", "labels")]
        cls.loss_inputs = tuple(p.name for p in loss)
        cls.forward = named_inputs(cls.forward, [p for p in (*inner, *loss) if p.name not in explicit])

    def __init__(self, config: EmotionConfig):
        super().__init__(config)
        self.model = self.model_class(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def __getattr__(self, name: str):
        # `get_video_features` and its kin, of which each paper has its own.
        if name.startswith("get_") and name.endswith("_features"):
            return getattr(self.model, name)
        return super().__getattr__(name)

    @classmethod
    def from_pretrained_parts(cls, **parts) -> "EmotionForConditionalGeneration":
        """The model from published checkpoints of its parts; see `assemble` of the paper for what each accepts.

        Its `parts_report` says what was loaded, what is new and what was ignored, and why; print it.
        """
        model, model.parts_report = cls.assemble(cls, **parts)
        return model

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def losses(self, outputs: EmotionModelOutputWithPast, logits: Tensor, labels: Tensor | None, **options) -> dict:
        """Fields of the output that hold the loss; `options` are `LOSS_OPTIONS`. A paper's further parameters, by
        name, are inputs of `forward`."""
        if labels is None:
            return {}
        vocab_size = self.config.text_config.vocab_size
        return {"loss": self.loss_function(logits=logits, labels=labels, vocab_size=vocab_size, **options)}

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: Tensor | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | EmotionCausalLMOutputWithPast:
        """Loss and logits.

        Args:
            input_ids, attention_mask: (B, S).
            labels: (B, S), -100 outside the answer.
            logits_to_keep: positions whose logits are computed: the last ones, by number; 0 for all; indices; or a mask
                (B, S), whose logits come as (positions, V). With labels, the loss is over these positions: with
                `answer_positions(labels)` the whole loss, and thousands of media tokens take no memory for logits.
            media: what `encode_media` returned, instead of the media inputs.
            others: the media inputs, see the `get_<name>_features` of the model; an unknown name is refused.

        Raises:
            TypeError: an input is unknown; the nearest known name is given.
            ValueError: inputs do not fit together; the message names them.
        """
        options = {name: kwargs.pop(name) for name in (*self.loss_inputs, *LOSS_OPTIONS) if name in kwargs}
        if labels is not None and (isinstance(logits_to_keep, Tensor) or logits_to_keep):
            shifted = next_tokens(labels) if options.get("shift_labels") is None else options["shift_labels"]
            options["shift_labels"] = slice_logits_to_keep(shifted[..., None], logits_to_keep)[..., 0]
        outputs = self.model(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))
        return self.output_class(
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            modalities=outputs.modalities,
            **self.losses(outputs, logits, labels, **options),
        )
