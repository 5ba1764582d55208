"""A fifth model, written here alone: what a new paper has to bring, and that the trunk gives it all the rest."""

from dataclasses import field

import pytest
import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMultimodalLM, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_emotion.modeling.configuration_emotion import EmotionConfig, TowerSpec
from hf_emotion.modeling.modeling_emotion import EmotionForConditionalGeneration, EmotionModel
from hf_emotion.modeling.sound import encode_sound
from hf_emotion.papers import tiny_imagebind, tiny_llama
from hf_emotion.processing.processing_emotion import EmotionProcessor
from hf_emotion.registration import register_paper


@strict
class ToneConfig(EmotionConfig):
    """Sound alone, one token a chunk."""

    model_type = "tone"
    sub_configs_defaults = {
        "audio_config": TowerSpec(config_class=AutoConfig, model_type="imagebind_audio"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }
    audio_config: dict | PreTrainedConfig | None = None
    weights: list[float] = field(default_factory=lambda: [1.0])


class ToneModel(EmotionModel):
    config: ToneConfig
    media_names = modality_names = ("audio",)

    def __init__(self, config: ToneConfig):
        super().__init__(config)
        self.audio_projector = nn.Linear(config.audio_config.projection_dim, config.text_config.hidden_size)
        self.post_init()

    def get_audio_features(
        self,
        input_features: Tensor | None = None,  # (B, C, mel, frames)
        audio_attention_mask: Tensor | None = None,  # (B, C)
        loudness: Tensor | None = None,  # (B, C), an input that no other model has
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        _, states, mask = encode_sound(self.audio_tower, "pooled", input_features, None, audio_attention_mask, **kwargs)
        tokens = self.audio_projector(states * loudness.unsqueeze(-1))
        return BaseModelOutputWithPooling(pooler_output=[row[real] for row, real in zip(tokens, mask, strict=True)])


class ToneForConditionalGeneration(EmotionForConditionalGeneration):
    config: ToneConfig
    model_class = ToneModel


register_paper(ToneConfig, ToneForConditionalGeneration, EmotionProcessor)


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = ToneConfig(
        audio_config=tiny_imagebind(), text_config=tiny_llama(300), audio_token_id=300, initializer_range=0.1
    )
    return AutoModelForMultimodalLM.from_config(config).eval()


@pytest.fixture
def batch():
    mask = torch.tensor([[True, True], [True, False]])
    return {
        "input_ids": torch.tensor([[5, 300, 300, 10, 11], [0, 5, 300, 10, 11]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]]),
        "input_features": torch.randn(2, 2, 128, 204, generator=torch.Generator().manual_seed(0)),
        "audio_attention_mask": mask,
        "loudness": torch.tensor([[1.0, 0.5], [2.0, 0.0]]),
    }


def test_its_one_line_of_registration_is_enough_for_the_auto_classes(model):
    assert type(model) is ToneForConditionalGeneration
    assert type(AutoConfig.for_model("tone")) is ToneConfig


def test_the_trunk_learns_its_inputs_from_its_one_method(model, batch):
    assert model.media_inputs == ("input_features", "audio_attention_mask", "loudness")
    loss = model.train()(**batch, labels=batch["input_ids"].clamp(max=299)).loss
    loss.backward()
    assert model.model.audio_projector.weight.grad.abs().max() > 0
    with pytest.raises(TypeError, match="no input 'loudnes'; did you mean 'loudness'"):
        model(**batch, loudnes=None)


def test_it_generates_saves_and_loads(model, batch, tmp_path):
    search = {"max_new_tokens": 4, "do_sample": False}
    expected = model.generate(**batch, **search)
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    assert torch.equal(model.generate(**text, media=model.encode_media(**batch), **search), expected)
    assert torch.equal(model.generate(**batch, **search, use_cache=False), expected)
    model.processor_class = "processing_tone.ToneProcessor"
    model.save_pretrained(tmp_path)
    again = ToneForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(again.generate(**batch, **search), expected)
