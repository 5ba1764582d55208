"""Generation that encodes a clip's media once, whatever the number of beams, returned sequences or questions.

The media become embeddings of the prompt before the search starts, so beams repeat embeddings and never pixels, and the
search sees no placeholder id, which may lie beyond the vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.generation import GenerationMixin, LogitsProcessorList, SuppressTokensLogitsProcessor
from transformers.utils import ModelOutput


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

    video: list[Tensor] | None = None
    audio: list[Tensor] | None = None
    face: list[Tensor] | None = None
    modalities: Tensor | None = None

    def repeat(self, copies: int) -> "MediaTokens":
        """The tokens of each clip `copies` times, for beams and returned sequences."""
        tokens = {name: value for name, value in self.items() if isinstance(value, list)}
        return type(self)(**{name: [clip for clip in value for _ in range(copies)] for name, value in tokens.items()})


class MediaGenerationMixin(GenerationMixin):
    """`generate` for a model whose `base_model` has `encode_media`, `embed` and `replace_placeholders`."""

    def encode_media(self, **inputs) -> MediaTokens:
        """Encode the media of a processed batch, for many questions through `generate(media=...)`.

        Args:
            inputs: the processor's output; inputs that are not media are ignored.
        """
        return self.base_model.encode_media(**{name: inputs.get(name) for name in self.media_inputs})

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        *,
        input_ids: Tensor | None = None,
        media: MediaTokens | None = None,
        labels: Tensor | None = None,
        **kwargs,
    ) -> Tensor | ModelOutput:
        """As transformers' `generate`; `media` takes what `encode_media` returned instead of pixels and sound.

        A placeholder is never generated: an id within the vocabulary would stand for media in the next step.

        Args:
            labels: (B, S), -100 outside the answers, as `Seq2SeqTrainer` passes them with `predict_with_generate`. Each
                prompt then ends before its last answer, and only the new tokens are returned.

        Raises:
            ValueError: an argument is unknown; media are given both encoded and as inputs; `assistant_model` is given.
        """
        input_ids = inputs if input_ids is None else input_ids
        if labels is not None:
            input_ids, kwargs["attention_mask"] = prompts_of(input_ids, labels, kwargs.get("attention_mask"))
            output = self.generate(input_ids=input_ids, media=media, **kwargs)
            new_tokens = (output if isinstance(output, Tensor) else output.sequences)[:, input_ids.shape[1] :]
            if isinstance(output, Tensor):
                return new_tokens
            output.sequences = new_tokens
            return output
        kwargs["logits_processor"] = self.without_placeholders(kwargs.get("logits_processor"))
        media_inputs = {name: kwargs[name] for name in self.media_inputs if kwargs.get(name) is not None}
        use_cache = kwargs.get("use_cache", getattr(kwargs.get("generation_config"), "use_cache", None))
        if use_cache is False and media is not None:
            kwargs["media"] = media
        # Without a cache the prompt is read again at each step, and transformers takes embeddings for the first only.
        if input_ids is None or use_cache is False or (media is None and not media_inputs):
            return super().generate(input_ids, **kwargs)
        if kwargs.get("assistant_model") is not None:
            raise ValueError(
                "assistant_model= is not supported with a clip, whose tokens an assistant cannot read; use "
                "prompt_lookup_num_tokens= to generate faster"
            )
        media = self.base_model.media_of(media, media_inputs)
        kwargs = {name: value for name, value in kwargs.items() if name not in self.media_inputs}
        embeds = self.base_model.embed(input_ids, media)
        prompt = self.base_model.replace_placeholders(input_ids)
        output = super().generate(inputs_embeds=embeds, input_ids=prompt, **kwargs)
        sequences = output if isinstance(output, Tensor) else output.sequences
        copies = len(sequences) // len(input_ids)
        sequences[:, : input_ids.shape[1]] = input_ids.to(sequences).repeat_interleave(copies, dim=0)
        return output

    def without_placeholders(self, processors: list | None) -> LogitsProcessorList:
        """`processors` of `generate`, and one that suppresses the placeholders within the vocabulary."""
        placeholders = [getattr(self.config, f"{name}_token_id") for name in self.media_names]
        placeholders = [token for token in placeholders if token < self.config.get_text_config().vocab_size]
        suppressor = [SuppressTokensLogitsProcessor(placeholders, device=self.device)] if placeholders else []
        return LogitsProcessorList([*(processors or []), *suppressor])

    def _expand_inputs_for_generation(self, expand_size=1, is_encoder_decoder=False, input_ids=None, **model_kwargs):
        if model_kwargs.get("media") is not None:
            model_kwargs["media"] = model_kwargs["media"].repeat(expand_size)  # transformers repeats tensors only
        return super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **model_kwargs)

    def prepare_inputs_for_generation(self, input_ids, inputs_embeds=None, is_first_iteration=False, **kwargs):
        # transformers hands a tokenizer (of `stop_strings`) on to `forward`, which takes known inputs only.
        kwargs = {name: value for name, value in kwargs.items() if name not in ("tokenizer", "assistant_tokenizer")}
        if is_first_iteration and inputs_embeds is not None and input_ids.shape[1] > inputs_embeds.shape[1]:
            # Prompt lookup proposes tokens before the prompt is read; transformers passes the embeddings of the prompt.
            proposed = self.get_input_embeddings()(input_ids[:, inputs_embeds.shape[1] :])
            inputs_embeds = torch.cat([inputs_embeds, proposed.to(inputs_embeds)], dim=1)
        model_inputs = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        if not is_first_iteration and kwargs.get("use_cache", True):
            # The cache already holds the media tokens; transformers drops only the names it knows.
            for name in (*self.media_inputs, "media"):
                model_inputs.pop(name, None)
        return model_inputs


def prompts_of(input_ids: Tensor, labels: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows (B, S) up to their last answers, the last runs of labels other than -100: ids and mask, left-padded."""
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    answers = (labels != -100).long()
    begins = answers.diff(dim=1, prepend=answers.new_zeros(len(answers), 1)) == 1
    places = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
    last = places.masked_fill(~begins, -1).amax(1, keepdim=True)
    real = mask.bool() & ((places < last) | (last < 0))
    padded = [
        pad_sequence([row[keep] for row, keep in zip(rows, real, strict=True)], batch_first=True, padding_side="left")
        for rows in (input_ids, mask)
    ]
    return padded[0], padded[1]
