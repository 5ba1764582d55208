"""Chat models of transformers that see or hear, asked about clips through the package's own verbs."""

import json

import numpy as np
import pytest
import torch
from part_folders import CHATML, LAYERS, make_tokenizer, text_part
from transformers import (
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from hf_emotion.chat_models import ChatProcessor
from hf_emotion.cli import main
from hf_emotion.curation.reviewers import model_of
from hf_emotion.curation.stages import Request, ReviewError
from hf_emotion.inference import ModelFolderError, describe, load
from hf_emotion.papers import build

TEXT = {"model_type": "qwen2", "vocab_size": 2112, "num_key_value_heads": 2, "eos_token_id": 2049, **LAYERS}
MEDIA_CHATML = (
    "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\\n' -}}{%- for part in m.content -%}"
    "{%- if part.type == 'text' -%}{{- part.text -}}{%- else -%}{{- MARKS[part.type] -}}{%- endif -%}"
    "{%- endfor -%}{{- '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def template(**marks):
    return "{%- set MARKS = " + json.dumps(marks) + " -%}" + MEDIA_CHATML


def llava(folder):
    """Sees pictures."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(None, ("<|im_start|>", "<|im_end|>", "<image>"))
    tokenizer.eos_token = "<|im_end|>"
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "image_size": 28, "patch_size": 14, **LAYERS},
        text_config=TEXT,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    LlavaProcessor(
        pictures, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=template(image="<image>"),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def qwen_audio(folder):
    """Hears."""
    torch.manual_seed(0)
    marks = ("<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
    tokenizer = make_tokenizer(None, marks)
    tokenizer.eos_token = "<|im_end|>"
    config = Qwen2AudioConfig(
        audio_config={"num_mel_bins": 80, "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 4,
                      "encoder_ffn_dim": 64, "max_source_positions": 1500},
        text_config=TEXT,
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )  # fmt: skip
    Qwen2AudioForConditionalGeneration(config).save_pretrained(folder)
    sound = template(audio="<|audio_bos|><|AUDIO|><|audio_eos|>\n")
    Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=80), tokenizer, chat_template=sound).save_pretrained(
        folder
    )
    return folder


def qwen_omni(folder):
    """Sees videos and hears; transformers' video processors need torchvision."""
    pytest.importorskip("torchvision")
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2_5OmniProcessor,
        Qwen2_5OmniThinkerConfig,
        Qwen2_5OmniThinkerForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    torch.manual_seed(0)
    own = {"image_token": "<|IMAGE|>", "audio_token": "<|AUDIO|>", "video_token": "<|VIDEO|>"}
    own |= {f"{kind}_{end}_token": f"<|{kind}_{end}|>" for kind in ("vision", "audio") for end in ("bos", "eos")}
    base = make_tokenizer(None, ("<|im_start|>", "<|im_end|>", *own.values()))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=base.backend_tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="<|im_end|>",
        pad_token="<pad>", extra_special_tokens=own,
    )  # fmt: skip
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in own.items()}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = Qwen2_5OmniThinkerConfig(
        text_config={name: value for name, value in {**TEXT, "rope_parameters": rope}.items() if name != "model_type"},
        vision_config={"depth": 1, "hidden_size": 32, "num_heads": 4, "intermediate_size": 64, "out_hidden_size": 32,
                       "fullatt_block_indexes": [0]},
        audio_config={"num_mel_bins": 80, "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 4,
                      "encoder_ffn_dim": 64, "output_dim": 32},
        image_token_index=ids["image_token"], video_token_index=ids["video_token"],
        audio_token_index=ids["audio_token"],
        vision_start_token_id=ids["vision_bos_token"], vision_end_token_id=ids["vision_eos_token"],
        audio_start_token_id=ids["audio_bos_token"], audio_end_token_id=ids["audio_eos_token"],
    )  # fmt: skip
    Qwen2_5OmniThinkerForConditionalGeneration(config).save_pretrained(folder)
    marks = {"video": "<|vision_bos|><|VIDEO|><|vision_eos|>", "audio": "<|audio_bos|><|AUDIO|><|audio_eos|>"}
    Qwen2_5OmniProcessor(
        Qwen2VLImageProcessor(), Qwen2VLVideoProcessor(), WhisperFeatureExtractor(feature_size=80), tokenizer,
        chat_template=template(**marks),
    ).save_pretrained(folder)  # fmt: skip
    return folder


MODELS = {"llava": llava, "qwen2_audio": qwen_audio, "qwen2_5_omni": qwen_omni}


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tmp_path_factory):
    return MODELS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture
def clip():
    noise = np.random.default_rng(0)
    return {
        "video": {"frames": noise.integers(0, 255, (4, 40, 40, 3), dtype=np.uint8), "fps": 2.0},
        "audio": {"waveform": noise.standard_normal(16000).astype(np.float32) * 0.1, "sampling_rate": 16000},
    }


def test_a_chat_model_describes_clips_through_the_one_engine(folder, clip):
    model, processor = load(folder)
    assert isinstance(processor, ChatProcessor)
    spoken = [{"start": 0.2, "end": 0.9, "text": "Well, well.", "speaker": "Ann"}]
    first, second = describe([clip, clip], model, processor, utterances=[spoken, None], max_new_tokens=4, num_frames=2)
    assert first["modalities"] == second["modalities"] == processor.modalities
    assert [frame["time"] for frame in first["frames"]] == ([0.5, 1.5] if "video" in processor.modalities else [])
    assert first["utterances"][0]["description"]
    assert isinstance(second["description"], str)


def test_the_prompt_holds_the_question_the_media_and_the_utterances_with_their_times(folder, clip):
    _, processor = load(folder)
    [loaded] = processor.load_clips(
        [clip], utterances=[[{"start": 0.2, "end": 0.9, "text": "Well.", "speaker": "Ann"}]]
    )
    batch = processor(loaded, "What does she feel?")
    prompt = processor.decode(batch["input_ids"][0], skip_special_tokens=True)
    said = "What is said in the clip:\n[0.2s - 0.9s] Ann: Well.\n\nWhat does she feel?"
    assert said in prompt
    media = {"video": "pixel_values", "audio": "input_features"}
    assert all(any(name.startswith(media[kind]) for name in batch) for kind in processor.modalities)


def test_the_share_of_a_label_is_its_likelihood_as_the_answer(folder, clip):
    model, processor = load(folder)
    labels = ["joy", "fear", "surprise"]
    [result] = describe([clip], model, processor, candidate_labels=labels, max_new_tokens=2)
    found = {label["label"]: label["score"] for label in result["labels"]}
    assert sum(found.values()) == pytest.approx(1)
    # written out: the answer's tokens one after the other
    [loaded] = processor.load_clips([clip])
    row = processor(loaded)
    chances = {}
    for label in labels:
        ids = [*processor.tokenizer(label, add_special_tokens=False).input_ids, processor.tokenizer.eos_token_id]
        chances[label] = 0.0
        grown = dict(row)
        for token in ids:
            with torch.no_grad():
                chances[label] += model(**grown).logits[0, -1].log_softmax(-1)[token].item()
            grown["input_ids"] = torch.cat([grown["input_ids"], torch.tensor([[token]])], dim=1)
            grown["attention_mask"] = torch.ones_like(grown["input_ids"])
    shares = torch.tensor([chances[label] for label in labels]).softmax(0)
    assert [found[label] for label in labels] == pytest.approx(shares.tolist(), abs=1e-5)


def test_the_command_line_describes_a_real_clip(folder, shared_data, capsys):
    clip = shared_data / "face_clips" / "WolfgangLanger_Pexels.mp4"
    modalities = load(folder)[1].modalities
    code = main(["predict", str(clip), "--model", str(folder), "--max-new-tokens", "3", "--num-frames", "2", "--json"])
    [result] = json.loads(capsys.readouterr().out)
    assert code == 0
    assert result["modalities"] == modalities
    assert len(result["frames"]) == (2 if "video" in modalities else 0)


def test_a_review_asks_a_chat_model_for_what_it_can_see_and_hear(folder):
    reviewer = model_of(f"chat:{folder}")
    modalities = reviewer.processor.modalities
    assert ("describe" in reviewer.roles, "listen" in reviewer.roles) == ("video" in modalities, "audio" in modalities)
    noise = np.random.default_rng(0)
    media = {}
    if "video" in modalities:
        media["frames"] = noise.integers(0, 255, (2, 40, 40, 3), dtype=np.uint8)
    if "audio" in modalities:
        media["sound"] = noise.standard_normal(16000).astype(np.float32)
    asked = []
    whole = reviewer.model.generate
    reviewer.model.generate = lambda **row: asked.append(row) or whole(**{**row, "max_new_tokens": 3})
    assert isinstance(reviewer(Request("scene", "What happens?", **media)), str)
    assert isinstance(reviewer(Request("score", "How well does this fit?")), str)
    with_media, alone = (reviewer.processor.decode(row["input_ids"][0], skip_special_tokens=True) for row in asked)
    assert "What happens?" in with_media
    assert alone.split("user")[1].strip().startswith("How well does this fit?")
    assert any("pixel_values" in name or "input_features" in name for name in asked[0])


def test_a_review_refuses_a_folder_that_is_no_chat_model_in_one_sentence(tmp_path):
    with pytest.raises(ReviewError, match="cannot be"):
        model_of(f"chat:{text_part(tmp_path / 'text', chat_template=CHATML)}")
    model, processor = build("microemo")
    model.save_pretrained(tmp_path / "own")
    processor.save_pretrained(tmp_path / "own")
    with pytest.raises(ReviewError, match="is a model of this package"):
        model_of(f"chat:{tmp_path / 'own'}")


def test_a_language_model_without_eyes_and_ears_gets_one_sentence(tmp_path):
    with pytest.raises(ModelFolderError, match="cannot be"):
        load(text_part(tmp_path / "text", chat_template=CHATML))


def test_a_processor_without_a_chat_template_gets_one_sentence(tmp_path):
    folder = llava(tmp_path)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelFolderError, match="has no chat template"):
        load(folder)


def test_a_model_that_needs_what_is_not_installed_gets_one_sentence(tmp_path, capsys):
    folder = llava(tmp_path)
    config = json.loads((folder / "processor_config.json").read_text())
    config["processor_class"] = "SmolVLMProcessor"
    (folder / "processor_config.json").write_text(json.dumps(config))
    assert main(["predict", "clip.mp4", "--model", str(folder)]) == 2
    assert capsys.readouterr().err.count("\n") <= 12
