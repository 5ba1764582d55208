"""Released models, from a tiny checkpoint in the authors' names to an answer: converters, refusals, model folders."""

import json
import re

import numpy as np
import pytest
import torch
from part_folders import LAYERS, WHISPER, audio_part, make_tokenizer, text_part
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForMultimodalLM,
    AutoProcessor,
    Blip2QFormerConfig,
    Blip2QFormerModel,
    CLIPConfig,
    CLIPModel,
    InstructBlipVisionConfig,
    SiglipImageProcessor,
)
from transformers.models.instructblip.modeling_instructblip import InstructBlipVisionModel

from hf_emotion import hub
from hf_emotion.cli import main
from hf_emotion.convert import convert_affectgpt_to_hf as affectgpt
from hf_emotion.convert import convert_emotion_llama_to_hf as emotion_llama
from hf_emotion.convert.checkpoints import SIGNATURES, ConversionError, check_is, recognise, rename_all
from hf_emotion.modeling.modeling_humanomni import HumanOmniForConditionalGeneration
from hf_emotion.papers import build, humanomni_config

WIDTH = LAYERS["hidden_size"]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def linear(name, rows, columns, seed=0):
    return {f"{name}.weight": noise(rows, columns, seed=seed), f"{name}.bias": noise(rows, seed=seed + 1)}


def lora(prefix, layers, projections, rank, seed=0):
    weights = {}
    for layer in range(layers):
        for place, (name, rows, columns) in enumerate(projections):
            key = f"{prefix}.layers.{layer}.{name}"
            weights[f"{key}.lora_A.default.weight"] = noise(rank, columns, seed=seed + 10 * layer + place)
            weights[f"{key}.lora_B.default.weight"] = noise(rows, rank, seed=seed + 10 * layer + place + 5)
    return weights


def emotion_llama_checkpoint():
    """What Emotion-LLaMA's runner saves: trained parameters, and buffers, in the authors' names."""
    return {
        **linear("llama_proj", WIDTH, 4 * WIDTH, 1),
        **linear("cls_tk_llama_proj", WIDTH, WIDTH, 2),
        **linear("feats_llama_proj1", WIDTH, 16, 3),
        **linear("feats_llama_proj2", WIDTH, 16, 4),
        **linear("feats_llama_proj3", WIDTH, WIDTH, 5),
        **linear("attention.fc_att", 7, 128, 6),
        "llama_model.base_model.model.model.rotary_emb.inv_freq": noise(4),
        **lora(
            "llama_model.base_model.model.model",
            2,
            [("self_attn.q_proj", 32, WIDTH), ("self_attn.v_proj", 16, WIDTH)],
            rank=4,
        ),
    }


def emotion_llama_folder(folder):
    torch.save({"model": emotion_llama_checkpoint(), "epoch": 1}, folder / "emotion_llama.pth")
    parts = str(folder / "parts")
    assert (
        main(["convert", "emotion-llama", str(folder / "emotion_llama.pth"), "--allow-pickle", "--output", parts]) == 0
    )
    torch.manual_seed(0)
    eva = InstructBlipVisionConfig(image_size=56, patch_size=14, **LAYERS)
    InstructBlipVisionModel(eva).save_pretrained(folder / "eva")
    given = [
        f"emotion_llama={parts}",
        f"text={text_part(folder / 'text', 'llama')}",
        f"audio={audio_part(folder / 'audio', 'hubert')}",
        f"vision={folder / 'eva'}",
    ]
    image_size = ["--set", "image_size=112"]
    assert main(["init", "esva", "--parts", *given, *image_size, "--output", str(folder / "model")]) == 0
    return folder / "model"


def emotion_llama_v2_checkpoint():
    """What Emotion-LLaMA-v2's runner saves."""
    mlp = {"0": (24, None), "3": (16, 24)}
    weights = {}
    for place, size in enumerate((WIDTH, WIDTH, WIDTH, 3 * 16)):
        name = f"feats_prep.{place}" if place < 3 else "attention_mlp"
        for layer, (rows, columns) in mlp.items():
            weights |= linear(f"conv_pro_module.{name}.{layer}", rows, columns or size, place)
    for block in range(4):
        place = f"conv_pro_module.conv_module.conv_blocks.{block}.conv_block.0"
        weights |= {f"{place}.weight": noise(16, 16, 3, seed=block), f"{place}.bias": noise(16)}
    return {
        **weights,
        **linear("conv_pro_module.fc_att", 3, 16, 9),
        **linear("conv_pro_module.fc_final", 20, 16, 10),
        "conv_pro_module.conv_entry.weight": noise(16, 48, 1),
        "conv_pro_module.conv_entry.bias": noise(16),
        **linear("llama_proj", WIDTH, 4 * WIDTH, 1),
        **linear("llama_proj_video", WIDTH, WIDTH, 2),
        **linear("llama_proj_audio", WIDTH, WIDTH, 3),
        **linear("llama_proj_fusion", WIDTH, 20, 4),
        **lora(
            "llama_model.base_model.model.model",
            2,
            [("self_attn.q_proj", 32, WIDTH), ("self_attn.v_proj", 16, WIDTH)],
            rank=4,
        ),
    }


def emotion_llama_v2_folder(folder):
    torch.save({"model": emotion_llama_v2_checkpoint()}, folder / "checkpoint_9.pth")
    parts = str(folder / "parts")
    words = ["convert", "emotion-llama-v2", str(folder / "checkpoint_9.pth"), "--allow-pickle", "--output", parts]
    assert main(words) == 0
    torch.manual_seed(0)
    eva = InstructBlipVisionModel(InstructBlipVisionConfig(image_size=56, patch_size=14, **LAYERS))
    torch.nn.init.normal_(eva.post_layernorm.weight)
    eva.save_pretrained(folder / "eva")
    given = [
        f"emotion_llama_v2={parts}",
        f"text={text_part(folder / 'text', 'llama')}",
        f"audio={audio_part(folder / 'audio')}",
        f"vision={folder / 'eva'}",
        f"frames={folder / 'eva'}",
    ]
    sizes = ["--set", "image_size=112", "--set", "num_frames=4"]
    assert main(["init", "emotion_llama_v2", "--parts", *given, *sizes, "--output", str(folder / "model")]) == 0
    return folder / "model"


# Our names of a RegNet block's tensors -> the authors', which are timm's.
TIMM = {"conv{}.": "conv{}.conv.", "norm{}.": "conv{}.bn."}
TIMM = {ours.format(i): theirs.format(i) for ours, theirs in TIMM.items() for i in (1, 2, 3)}
TIMM |= {
    "squeeze.": "se.fc1.",
    "excite.": "se.fc2.",
    "shortcut.0.": "downsample.conv.",
    "shortcut.1.": "downsample.bn.",
}


def humanomni_name(name):
    """Our name of a tensor -> the authors'."""
    name = name.replace("model.language_model.", "model.").replace("model.instruction_encoder.", "model.bert_model.")
    if branch := re.fullmatch(r"model\.(video|body)_branch\.(stage([12])\.(\d+)\.(.+)|(sampler|readout)\.(.+))", name):
        kind, _, stage, block, rest, part, tail = branch.groups()
        if part:
            return f"model.mm_projector.{part}_{kind}.{'0.' * (part == 'sampler')}{tail}"
        ours = next(ours for ours in TIMM if rest.startswith(ours))
        return f"model.mm_projector.s{stage}_{kind}.b{int(block) + 1}.{TIMM[ours]}{rest.removeprefix(ours)}"
    return name.replace("model.face_branch.", "model.mm_projector.mlp_2xgelu_face.").replace(
        "model.gate.", "model.bert_gate."
    )


def humanomni_folder(folder):
    """A published folder: weights in the authors' names without towers, config.json, tokenizer."""
    config = humanomni_config("tiny", 2112)
    config.audio_config = AutoConfig.for_model("whisper", **WHISPER)
    torch.manual_seed(0)
    model = HumanOmniForConditionalGeneration(config)
    published = folder / "published"
    published.mkdir()
    weights = {humanomni_name(n): t.clone() for n, t in model.state_dict().items() if "_tower." not in n}
    weights["model.bert_model.pooler.dense.weight"] = noise(64, 64)
    save_file(weights, published / "model.safetensors")
    own = {"mm_projector_type": "all_in_one_small", "mm_vision_select_layer": -2, "num_frames": 4}
    own |= {"bert_attention_heads": 4, "model_type": "HumanOmni_qwen2"}
    (published / "config.json").write_text(json.dumps({**config.text_config.to_dict(), **own}))
    make_tokenizer().save_pretrained(published)
    parts = str(folder / "parts")
    assert main(["convert", "humanomni", str(published), "--output", parts]) == 0
    model.model.vision_tower.save_pretrained(folder / "siglip")
    SiglipImageProcessor(size={"height": 56, "width": 56}).save_pretrained(folder / "siglip")
    given = [
        f"humanomni={parts}",
        f"tokenizer={published}",
        f"instruction_tokenizer={published}",
        f"vision={folder / 'siglip'}",
        f"audio={audio_part(folder / 'audio')}",
    ]
    assert main(["init", "humanomni", "--parts", *given, "--output", str(folder / "model")]) == 0
    return folder / "model"


PROJECTIONS = {"q": (32, WIDTH), "k": (16, WIDTH), "v": (16, WIDTH), "o": (WIDTH, 32)}
PROJECTIONS = [(f"self_attn.{name}_proj", *sizes) for name, sizes in PROJECTIONS.items()]
PROJECTIONS += [("mlp.gate_proj", 64, WIDTH), ("mlp.up_proj", 64, WIDTH), ("mlp.down_proj", WIDTH, 64)]


def affectgpt_checkpoint():
    """What AffectGPT's runner saves, in its best setup."""
    return {
        **linear("affectgpt_proj", WIDTH, 24, 1),
        **linear("audio_llama_proj", WIDTH, WIDTH, 2),
        **linear("image_llama_proj", WIDTH, 24, 3),
        **linear("multi_video_embs", WIDTH, 24, 4),
        **linear("multi_audio_embs", WIDTH, WIDTH, 5),
        **linear("multi_llama_proj", WIDTH, WIDTH, 6),
        **linear("video_attention_mlp", 1, 24, 7),
        **linear("audio_attention_mlp", 1, WIDTH, 8),
        **linear("attention_mlp", WIDTH, 2 * WIDTH, 9),
        **linear("fc_att", 2, WIDTH, 10),
        **lora("llama_model.base_model.model.model", 2, PROJECTIONS, rank=4),
    }


def affectgpt_folder(folder):
    torch.save({"model": affectgpt_checkpoint()}, folder / "affectgpt.pth")
    parts = str(folder / "parts")
    assert main(["convert", "affectgpt", str(folder / "affectgpt.pth"), "--allow-pickle", "--output", parts]) == 0
    torch.manual_seed(0)
    pictures = CLIPConfig(
        vision_config={**LAYERS, "image_size": 56, "patch_size": 14}, text_config=LAYERS, projection_dim=24
    )
    CLIPModel(pictures).save_pretrained(folder / "clip")
    given = [
        f"affectgpt={parts}",
        f"text={text_part(folder / 'text', 'qwen2')}",
        f"vision={folder / 'clip'}",
        f"audio={audio_part(folder / 'audio', 'hubert')}",
    ]
    layers = ["--set", "audio_layers=[-2,-1]"]
    assert main(["init", "affectgpt", "--parts", *given, *layers, "--output", str(folder / "model")]) == 0
    return folder / "model"


FOLDERS = {
    "emotion-llama": emotion_llama_folder,
    "humanomni": humanomni_folder,
    "affectgpt": affectgpt_folder,
    "emotion-llama-v2": emotion_llama_v2_folder,
}


@pytest.fixture(scope="module", params=FOLDERS)
def converted(request, tmp_path_factory):
    """A released model's tiny checkpoint, converted and assembled: its folder, and where its parts lie."""
    folder = tmp_path_factory.mktemp(request.param)
    return FOLDERS[request.param](folder), folder


@pytest.fixture
def clips():
    generator = np.random.default_rng(0)
    return [
        {
            "video": {"frames": generator.integers(0, 255, (count, 64, 64, 3), dtype=np.uint8), "fps": 4.0},
            "audio": {"waveform": generator.normal(0, 0.1, 16000).astype(np.float32), "sampling_rate": 16000},
        }
        for count in (6, 3)
    ]


def load_model(folder):
    model, report = AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=False, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return model.eval()


def load(folder):
    return load_model(folder), AutoProcessor.from_pretrained(folder, trust_remote_code=False)


# From the converted folder to an answer


def test_a_converted_folder_answers_in_batches_as_it_does_alone(converted, clips):
    model, processor = load(converted[0])
    questions = ["What does she feel?", "And this man, what may he feel?"]
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    batch = processor(videos=clips, text=questions, return_tensors="pt")
    together = model.generate(**batch, **options)[:, -4:]
    for clip, question, answer in zip(clips, questions, together, strict=True):
        alone = processor(videos=[clip], text=[question], return_tensors="pt")
        assert torch.equal(model.generate(**alone, **options)[0, -4:], answer)


def test_beams_read_a_clip_once(converted, clips, monkeypatch):
    model, processor = load(converted[0])
    batch = processor(videos=clips, text=["What does she feel?", "And he?"], return_tensors="pt")
    calls = []
    monkeypatch.setattr(model.model.vision_tower, "forward", counted(model.model.vision_tower.forward, calls))
    beams = model.generate(**batch, max_new_tokens=3, num_beams=3, num_return_sequences=3, do_sample=False)
    assert len(beams) == 6
    assert len(calls) == 1


def counted(forward, calls):
    def call(*args, **kwargs):
        calls.append(1)
        return forward(*args, **kwargs)

    return call


def test_an_answer_can_be_streamed(converted, clips):
    class Streamer:
        def __init__(self):
            self.tokens = []

        def put(self, value):
            self.tokens.append(value)

        def end(self):
            self.ended = True

    model, processor = load(converted[0])
    streamer = Streamer()
    batch = processor(videos=clips[:1], text="What does she feel?", return_tensors="pt")
    answer = model.generate(**batch, max_new_tokens=3, min_new_tokens=3, do_sample=False, streamer=streamer)
    assert streamer.ended
    assert torch.cat([tokens.flatten() for tokens in streamer.tokens]).tolist()[-3:] == answer[0, -3:].tolist()


def test_one_step_of_lora_moves_the_adapter_and_nothing_else(converted, clips):
    from peft import LoraConfig, get_peft_model

    model, processor = load(converted[0])
    pattern = r"model\.language_model\.layers\.\d+\.self_attn\.(q|v)_proj"
    trained = get_peft_model(model, LoraConfig(r=2, target_modules=pattern, task_type="CAUSAL_LM"))
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    batch = processor(videos=clips, text=["What does she feel?", "And he?"], return_tensors="pt")
    optimizer = torch.optim.SGD([p for p in trained.parameters() if p.requires_grad], lr=1.0)
    trained.train()
    trained(**batch, labels=batch["input_ids"].clamp(max=2000)).loss.backward()
    optimizer.step()
    moved = {name for name, tensor in trained.state_dict().items() if not torch.equal(tensor, before[name])}
    # B starts at zero, so after one step A has had no gradient yet.
    assert moved == {name for name in before if "lora_B" in name}


def test_the_command_line_describes_real_clips(converted, shared_data, capsys):
    clips = [str(shared_data / "face_clips" / name) for name in ("no_face.mp4", "WolfgangLanger_Pexels.mp4")]
    code = main(["predict", *clips, "--model", str(converted[0]), "--max-new-tokens", "4", "--json"])
    results = json.loads(capsys.readouterr().out)
    assert code == 0
    assert [result["clip"] for result in results] == clips
    assert all("video" in result["modalities"] for result in results)


def test_weights_that_are_not_for_everyone_are_not_published_for_everyone(converted):
    parts = json.loads((converted[0] / "config.json").read_text())["parts"]
    origins = {(part["source"], part["license"]) for module in parts.values() for part in module}
    restricted = {("HumanMLLM/R1-Omni", "no-licence-stated"), ("ZebangCheng/Emotion-LLaMA", "research-only")}
    restricted.add(("ooochen-30/Emotion-LLaMA-v2", "research-only"))
    affectgpt = ("zeroQiaoba/AffectGPT", "non-commercial")
    assert origins & {affectgpt, *restricted}
    if affectgpt in origins:
        return  # may be passed on, under its terms; private unless the user says otherwise
    with pytest.raises(hub.HubError, match=r"may not be published for everyone: (ZebangCheng|HumanMLLM|ooochen-30)/"):
        hub.push(converted[0], "me/brain", private=False)


# Each model's own


def test_emotion_llama_reads_zeros_for_encoders_that_were_never_published(tmp_path, capsys, clips):
    folder = emotion_llama_folder(tmp_path)
    said = capsys.readouterr().out
    assert "there is no face encoder: its projector reads zeros for every clip" in said
    assert "LoRA weights of 4 layers are added to the language model's weights" in said
    assert "prompts are written in the paper's own chat format" in said
    model, processor = load(folder)
    assert processor.keyframe == "first"
    batch = processor(videos=clips[:1], text="[reason] Why?", utterances=[[(0, 1, "I see.")]], return_tensors="pt")
    media = model.encode_media(**batch)
    given = emotion_llama_checkpoint()
    # 112 pixels in patches of 14 are 64, four to a token: 16, then MAE, VideoMAE and the class token.
    assert media.video[0].shape == (19, WIDTH)
    torch.testing.assert_close(media.video[0][16], given["feats_llama_proj1.bias"])
    torch.testing.assert_close(media.video[0][17], given["feats_llama_proj2.bias"])
    prompt = processor.decode(batch["input_ids"][0])
    assert prompt.endswith("</feature> The person in video says: I see.  [reason] Why? [/INST]")


def test_evas_last_norm_is_the_one_that_minigpt_v2_leaves_untrained(tmp_path):
    """BLIP-2's, which the encoder's checkpoint has, would change every token of the key frame."""
    weights = load_file(emotion_llama_v2_folder(tmp_path) / "model.safetensors")
    published = load_file(tmp_path / "eva" / "model.safetensors")["post_layernorm.weight"]
    assert torch.equal(weights["model.vision_tower.post_layernorm.weight"], torch.ones(WIDTH))
    assert torch.equal(weights["model.frame_tower.post_layernorm.weight"], published)
    tensors, _, _ = emotion_llama.convert_state_dict(emotion_llama_checkpoint())
    assert torch.equal(tensors["model.vision_tower.post_layernorm.weight"], torch.ones(WIDTH))


def test_emotion_llama_v2_gives_every_clip_all_its_tokens(tmp_path, clips):
    model, processor = load(emotion_llama_v2_folder(tmp_path))
    spoken = [[(0, 1, "I see.")], None]
    silent = {"video": clips[1]["video"]}
    batch = processor(videos=[clips[0], silent], text=["[think] Why?", "Why?"], utterances=spoken, return_tensors="pt")
    prompts = [processor.decode(ids, skip_special_tokens=False) for ids in batch["input_ids"]]
    # 112 pixels in patches of 14 are 64, by four; 16 steps of fusion, frames and sound each
    media = f"<Vid>{'<VideoHere>' * (16 + 16 + 16)}{'<AudioHere>' * 16}</Vid> "
    assert prompts[0].endswith(media + "The person in video says: I see.  [think] Why?  [/INST]")
    assert prompts[1].endswith(media + "[emotion] Why?  [/INST]")
    tokens = model.encode_media(**batch)
    given = emotion_llama_v2_checkpoint()
    torch.testing.assert_close(tokens.audio[1], given["llama_proj_audio.bias"].expand(16, -1))
    assert not torch.equal(tokens.audio[0][0], tokens.audio[1][0])


def test_emotion_llamas_lora_is_added_to_the_language_model(tmp_path):
    folder = emotion_llama_folder(tmp_path)
    before, after = load_file(tmp_path / "text" / "model.safetensors"), load_file(folder / "model.safetensors")
    given = emotion_llama_checkpoint()
    name = "layers.1.self_attn.v_proj"
    key = f"llama_model.base_model.model.model.{name}"
    change = 16 / 4 * given[f"{key}.lora_B.default.weight"] @ given[f"{key}.lora_A.default.weight"]
    expected = before[f"model.{name}.weight"] + change
    torch.testing.assert_close(after[f"model.language_model.{name}.weight"], expected)
    untouched = "layers.1.self_attn.k_proj.weight"
    assert torch.equal(after[f"model.language_model.{untouched}"], before[f"model.{untouched}"])


def test_affectgpt_fuses_picture_and_sound_as_its_equations_say(tmp_path, clips):
    model, processor = load(affectgpt_folder(tmp_path))
    batch = processor(videos=clips[:1], text="What?", utterances=[[(0, 1, "I see.")]], return_tensors="pt")
    prompt = processor.decode(batch["input_ids"][0])
    assert prompt.startswith("<|im_start|>###Human: The audio and video merged info is: <Multi><video></Multi>. ")
    assert prompt.endswith(
        "The subtitle of this video is: <Subtitle>I see.</Subtitle>. Now, please answer my question based on all the "
        "provided information. What? ###Assistant: "
    )
    given = affectgpt_checkpoint()

    def apply(name, states):
        return states @ given[f"{name}.weight"].T + given[f"{name}.bias"]

    with torch.no_grad():
        frames = model.model.frame_features(batch["pixel_values_videos"][0])  # (T, 24)
        sound = model.model.sound_features(batch["audio_attention_mask"], batch["input_values"])[0][0]
        video, audio = apply("multi_video_embs", frames.mean(0)), apply("multi_audio_embs", sound.mean(0))
        weights = apply("fc_att", apply("attention_mlp", torch.cat([video, audio])))
        fused = apply("multi_llama_proj", weights[0] * video + weights[1] * audio)
        picture = apply("affectgpt_proj", (frames * apply("video_attention_mlp", frames)).sum(0))
        media = model.encode_media(**batch)
    torch.testing.assert_close(media.video[0], torch.stack([fused, picture]))
    assert media.video[0].abs().min() > 0
    heard = apply("audio_llama_proj", (sound * apply("audio_attention_mlp", sound)).sum(0))
    torch.testing.assert_close(media.audio[0][0], heard)


def test_affectgpts_qformers_read_a_clip_in_a_batch_as_they_do_alone(tmp_path, clips):
    settings = {"video_fusion": "qformer", "audio_fusion": "mean", "fusion": "qformer"}
    counts = {"num_video_query_tokens": 3, "num_audio_query_tokens": 2, "num_fusion_query_tokens": 4}
    model, processor = build("affectgpt", use_faces=False, **settings, **counts)
    batch = processor(videos=clips, text=["What?", "Why?"], return_tensors="pt")
    prompt = processor.decode(batch["input_ids"][0])
    assert f"<Multi>{'<video>' * 4}</Multi>" in prompt
    assert f"<Audio>{'<audio>' * 2}</Audio>" in prompt
    assert f": <Video>{'<video>' * 3}</Video>" in prompt
    together = model.encode_media(**batch)
    for row, clip in enumerate(clips):
        alone = model.encode_media(**processor(videos=[clip], text=["What?"], return_tensors="pt"))
        assert alone.video[0].shape == (7, model.config.text_config.hidden_size)
        torch.testing.assert_close(together.video[row], alone.video[0])
        torch.testing.assert_close(together.audio[row], alone.audio[0])
    model.save_pretrained(tmp_path)
    assert torch.equal(load_model(tmp_path).encode_media(**batch).video[1], together.video[1])


def test_an_affectgpt_checkpoint_says_how_it_fuses():
    block = Blip2QFormerModel(
        Blip2QFormerConfig(
            hidden_size=32, num_attention_heads=4, num_hidden_layers=2, intermediate_size=64,
            cross_attention_frequency=1, encoder_hidden_size=24,
        )
    )  # fmt: skip
    bert = {
        "video_Qformer.bert." + (f"embeddings.LayerNorm.{name[10:]}" if name.startswith("layernorm.") else
        name.replace("attention.attention.", "attention.self.")): tensor for name, tensor in block.state_dict().items()
    }  # fmt: skip
    extra = {"video_query_tokens": noise(1, 5, 32), "video_frame_position_embedding.weight": noise(16, 24)}
    checkpoint = {name: t for name, t in affectgpt_checkpoint().items() if "_attention_mlp" not in name}
    tensors, _, fields = affectgpt.convert_state_dict({**checkpoint, **bert, **extra}, head_size=8)
    assert (fields["video_fusion"], fields["audio_fusion"], fields["fusion"]) == ("qformer", "mean", "attention")
    assert (fields["num_video_query_tokens"], fields["num_frame_positions"]) == (5, 16)
    for name, tensor in block.state_dict().items():
        assert torch.equal(tensors[f"model.video_qformer.reader.qformer.{name}"], tensor)
    with pytest.raises(ConversionError, match="only some of the Q-Former of video"):
        affectgpt.convert_state_dict({**checkpoint, **bert}, head_size=8)


def test_humanomni_asks_bert_what_it_asks_the_language_model(tmp_path, clips):
    model, processor = load(humanomni_folder(tmp_path))
    assert processor.num_frames == 4
    batch = processor(videos=clips[:1], text="Is she <|im_end|> sad?", return_tensors="pt")
    prompt = processor.decode(batch["input_ids"][0])
    question = processor.instruction_tokenizer.decode(batch["video_instruction_ids"][0], skip_special_tokens=True)
    assert "".join(question.split()) == "".join(["Is", "she", "<", "|im_end|>", "sad?"])
    assert "<au_end>\nIs she < |im_end|> sad?<|im_end|>" in prompt
    # 4 frames of 4 x 4 patches, halved; one chunk of sound, three of its 100 steps to a token
    assert prompt.count("<video>") == 16
    assert prompt.count("<audio>") == 33
    other = processor(videos=clips[:1], text="Is he glad?", return_tensors="pt")
    shares = [
        model.model.branch_weights(b["video_instruction_ids"], b["video_instruction_mask"]) for b in (batch, other)
    ]
    assert not torch.equal(*shares)


def test_a_humanomni_folder_of_an_unknown_projector_is_refused(tmp_path, capsys):
    humanomni_folder(tmp_path)
    config = json.loads((tmp_path / "published" / "config.json").read_text())
    (tmp_path / "published" / "config.json").write_text(json.dumps({**config, "mm_projector_type": "pllava"}))
    capsys.readouterr()
    assert main(["convert", "humanomni", str(tmp_path / "published"), "--output", str(tmp_path / "again")]) == 2
    assert "mm_projector_type 'pllava'; accepted are 'all_in_one_small' and 'all_in_one'" in capsys.readouterr().err


# Tables and refusals


def test_a_tensor_without_a_place_or_a_reason_is_refused():
    with pytest.raises(ConversionError, match=r"contains odd\.weight, which has no place"):
        rename_all({"odd.weight": torch.zeros(1)}, {r"even\.weight": "even"}, {}, "the checkpoint")


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path, capsys):
    save_file(emotion_llama_checkpoint(), tmp_path / "file.safetensors")
    arguments = [str(tmp_path / "file.safetensors"), "--output", str(tmp_path / "out")]
    assert main(["convert", "video-llama", *arguments]) == 2
    assert "this is a checkpoint of Emotion-LLaMA" in capsys.readouterr().err
    save_file({"head.weight": noise(2, 2)}, tmp_path / "file.safetensors")
    assert main(["convert", "emotion-llama", *arguments]) == 2
    assert "not a known model (its tensors are head.weight, ...); a checkpoint of Emotion-LLaMA is accepted" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()


def test_a_pickle_needs_consent(tmp_path, capsys):
    torch.save({"model": emotion_llama_checkpoint()}, tmp_path / "file.pth")
    arguments = [str(tmp_path / "file.pth"), "--output", str(tmp_path / "out")]
    assert main(["convert", "emotion-llama", *arguments]) == 2
    assert "pass --allow-pickle" in capsys.readouterr().err


def test_lora_weights_without_their_language_model_are_refused(tmp_path, capsys):
    save_file(emotion_llama_checkpoint(), tmp_path / "file.safetensors")
    assert main(["convert", "emotion-llama", str(tmp_path / "file.safetensors"), "--output", str(tmp_path / "p")]) == 0
    text = text_part(tmp_path / "text", "llama")
    given = [f"emotion_llama={tmp_path / 'p'}", f"audio={audio_part(tmp_path / 'audio', 'hubert')}"]
    arguments = ["init", "esva", "--parts", *given, f"tokenizer={text}", "--set", "vision_config=null"]
    # the sizes of the language model, and none of its weights
    arguments += ["--set", f"text_config={(tmp_path / 'text' / 'config.json').read_text(encoding='utf-8')}"]
    assert main([*arguments, "--output", str(tmp_path / "model")]) == 2
    assert "which no part has; give the language model" in capsys.readouterr().err


def test_every_known_model_is_told_from_the_others():
    examples = {
        "Emotion-LLaMA": emotion_llama_checkpoint(),
        "TimeChat or Video-LLaMA": ["video_Qformer.bert.x", "llama_proj.weight", "llama_model.x"],
        "BLIP-2 or InstructBLIP": ["Qformer.bert.x", "visual_encoder.blocks.0.attn.q_bias"],
        "MiniGPT-v2": ["llama_proj.weight", "llama_model.base_model.x"],
        "EVA": ["blocks.0.attn.q_bias"],
        "ImageBind": ["modality_trunks.audio.x"],
        "FaceXFormer": ["backbone.0.0.0.weight", "linear_fuse.weight"],
    }
    for name, tensors in examples.items():
        assert name in SIGNATURES
        assert recognise(tensors) == name
    with pytest.raises(ConversionError, match="this is a checkpoint of EVA"):
        check_is({"blocks.0.attn.q_bias": None}, "Emotion-LLaMA")
