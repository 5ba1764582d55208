"""What Omni-Emotion alone claims: an untouched base, fusions, zero input, chunks of sound, sizes, parts, prompt."""

import itertools
import re

import numpy as np
import pytest
import test_modeling_common as contract
import torch
from torch.nn import functional
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from hf_emotion.data.schema import make_row
from hf_emotion.evaluation import load as load_metric
from hf_emotion.evaluation.evaluate import LABEL_SETS
from hf_emotion.inference import load
from hf_emotion.modeling.modeling_omni_emotion import FUSIONS, OmniEmotionForConditionalGeneration, clip_concat
from hf_emotion.modeling.parts import PartsError
from hf_emotion.papers import build, omni_emotion_config
from hf_emotion.training.recipe import read_recipe
from hf_emotion.training.train import question_rows

VOCAB = 300
SUBSETS = [
    subset for n in (1, 2, 3) for subset in itertools.combinations(("video", "face", "audio"), n) if subset != ("face",)
]


def tiny(seed=0, **fields):
    torch.manual_seed(seed)
    ids = {"video_token_id": VOCAB, "audio_token_id": VOCAB + 1, "face_token_id": VOCAB + 2}
    model = OmniEmotionForConditionalGeneration(omni_emotion_config("tiny", vocab_size=VOCAB, **ids, **fields)).eval()
    with torch.no_grad():
        model.model.frame_embedding.weight.normal_(std=0.5)
    return model


@pytest.fixture(scope="module")
def shipped():
    return build("omni_emotion")


def clip(seconds=2.0, picture=True, sound=True, size=48):
    source = {}
    rng = np.random.default_rng(0)
    if picture:
        count = max(2, round(seconds * 4))
        source |= {"frames": rng.integers(0, 255, (count, size, size, 3), dtype=np.uint8), "fps": count / seconds}
    if sound:
        noise = rng.normal(size=round(16000 * seconds)).astype(np.float32) * 0.1
        source |= {"waveform": noise, "sampling_rate": 16000}
    return source


def count(ids, token):
    return (ids == token).sum(-1).tolist()


# The base


def onevision(model):
    """transformers' own LLaVA-OneVision with the same weights."""
    config = LlavaOnevisionConfig(
        vision_config=model.config.vision_config.to_dict(),
        text_config=model.config.text_config.to_dict(),
        video_token_index=VOCAB - 1,
        image_token_index=VOCAB - 2,
    )
    base = LlavaOnevisionForConditionalGeneration(config).eval()
    names = base.state_dict()
    base.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if name in names}, strict=True)
    return base


@pytest.mark.parametrize("absent", ["audio", "video"])
def test_the_zero_input_fits_towers_of_another_dtype(absent):
    case = contract.OmniEmotionCase("clip_concat")
    model = case.model()
    for tower in (model.model.vision_tower, model.model.audio_tower, model.model.face_tower):
        tower.to(torch.bfloat16)
    lacks = {absent: (True, False)}
    output = model(**case.batch(model.config, **lacks))
    assert torch.isfinite(output.logits).all()
    assert output.modalities[1, model.modality_names.index(absent)].item() is False


def test_without_face_and_sound_it_is_llava_onevision_to_the_last_logit():
    model = tiny(audio_config=None, face_config=None)
    with torch.no_grad():
        model.model.frame_embedding.weight.zero_()
    base = onevision(model)
    pixels = torch.randn(1, 3, 3, 98, 98)
    ids = torch.tensor([[5, *[VOCAB] * (3 * 16 + 1), 6, 7]])
    with torch.no_grad():
        ours = model(input_ids=ids, pixel_values_videos=pixels, video_times=torch.tensor([[0, 1, 2]])).logits
        theirs = base(input_ids=ids.masked_fill(ids == VOCAB, VOCAB - 1), pixel_values_videos=pixels).logits
    assert torch.equal(ours, theirs)


def test_the_frame_parameter_starts_at_zero_and_leaves_the_base_alone():
    torch.manual_seed(0)
    model = OmniEmotionForConditionalGeneration(omni_emotion_config("tiny", vocab_size=VOCAB))
    assert not model.model.frame_embedding.weight.any()
    assert model.model.image_newline.std().item() == pytest.approx(128**-0.5, rel=0.3)


def test_the_paper_has_qwen2_whisper_and_swin_at_their_published_sizes():
    with torch.device("meta"):
        model = OmniEmotionForConditionalGeneration(omni_emotion_config("paper"))
    sizes = {name: sum(p.numel() for p in child.parameters()) for name, child in model.model.named_children()}
    assert sizes["language_model"] + model.lm_head.weight.numel() == 7_615_616_512
    # Whisper-large-v3's encoder; the convolutions, 32 layers of width 1280 and the fixed positions.
    layer = 4 * 1280**2 + 3 * 1280 + 2 * 1280 * 5120 + 5120 + 1280 + 4 * 1280
    assert sizes["audio_tower"] == 32 * layer + 1280 * (128 * 3 + 1) + 1280 * (1280 * 3 + 1) + 1500 * 1280 + 2 * 1280
    assert sum(p.numel() for p in model.model.face_tower.backbone.parameters()) == 86_743_224
    assert model.config.tokens_per_clip(8) == {"video": 1569, "face": 392, "audio": 500}
    grids = {grid: model.config.tokens_per_clip(8, face_grid=grid)["face"] for grid in (7, 14, 28, 56)}
    assert grids == {7: 392, 14: 1568, 28: 6272, 56: 25088}
    assert model.config.tokens_per_clip(8, seconds=70)["audio"] == 500 + 500 + 167


# The branches, against plain twins


def test_sound_tokens_equal_a_plain_loop_over_chunks_in_value_and_gradient():
    model = tiny().model.double()
    mel = torch.randn(2, 2, 128, 300, dtype=torch.float64)
    mask = torch.arange(300) < torch.tensor([[300, 131], [7, 0]]).unsqueeze(-1)
    found = model.get_audio_features(mel, mask).pooler_output
    first, _, second = model.audio_projector
    plain = []
    for row, lengths in enumerate(((300, 131), (7,))):
        tokens = []
        for chunk, frames in enumerate(lengths):
            states = model.audio_tower(mel[row, chunk][None]).last_hidden_state[0]
            steps = [states[3 * i : 3 * i + 3].mean(0) for i in range(-(-frames // 6))]
            tokens += [second(functional.gelu(first(step))) for step in steps]
        plain.append(torch.stack(tokens))
    assert [len(tokens) for tokens in found] == [50 + 22, 2]
    weights = list(model.audio_projector.parameters())
    gradients = [torch.autograd.grad(sum((t**2).sum() for t in tokens), weights) for tokens in (found, plain)]
    for one, other in zip([*found, *gradients[0]], [*plain, *gradients[1]], strict=True):
        torch.testing.assert_close(one, other)


def test_keep_padding_keeps_every_token_of_a_chunk():
    model = tiny(keep_padding=True).model
    mask = torch.arange(300) < torch.tensor([[300, 131], [7, 0]]).unsqueeze(-1)
    found = model.get_audio_features(torch.randn(2, 2, 128, 300), mask).pooler_output
    assert [len(tokens) for tokens in found] == [100, 50]


@pytest.mark.parametrize("grid", [1, 2, 4, 16])
def test_face_tokens_equal_block_means_through_two_layers(grid):
    model = tiny(face_grid=grid).model
    pixels = torch.randn(1, 2, 3, 64, 64)
    with torch.no_grad():
        [found] = model.get_face_features(pixels, torch.tensor([[0, 40]])).pooler_output
        states = model.face_tower(pixels[0]).last_hidden_state.reshape(2, 16, 16, -1)
        side = 16 // grid
        first, _, second = model.face_projector
        plain = []
        for frame, row, column in itertools.product(range(2), range(grid), range(grid)):
            block = states[frame, row * side : (row + 1) * side, column * side : (column + 1) * side].mean((0, 1))
            plain.append(second(functional.gelu(first(block))) + model.frame_embedding.weight[frame])
    torch.testing.assert_close(found, torch.stack(plain), rtol=1e-4, atol=1e-5)


def test_cross_attention_looks_at_its_own_frame_only_and_equals_plain_attention():
    model = tiny(fusion="frame_cross_attention").model
    frames, faces = torch.randn(3, 16, 128), torch.randn(3, 4, 128)
    attend = model.face_attention
    with torch.no_grad():
        found = attend(faces, frames)
        for t in range(3):
            heads = []
            query, key, value = attend.query(faces[t]), attend.key(frames[t]), attend.value(frames[t])
            for head in range(8):
                part = slice(16 * head, 16 * head + 16)
                heads.append(torch.softmax(query[:, part] @ key[:, part].T / 4, -1) @ value[:, part])
            plain = attend.layernorm(faces[t] + attend.output(torch.cat(heads, -1)))
            torch.testing.assert_close(found[t], plain, rtol=1e-4, atol=1e-5)


def test_the_fusions_put_frames_and_faces_in_the_order_of_figure_6():
    frames, faces = torch.tensor([[11, 12], [21, 22]]), torch.tensor([[13], [23]])
    newline = torch.tensor([99])
    assert FUSIONS["clip_concat"](frames, newline, faces).tolist() == [11, 12, 21, 22, 99, 13, 23]
    for name in ("frame_concat", "frame_cross_attention"):
        assert FUSIONS[name](frames, newline, faces).tolist() == [11, 12, 13, 21, 22, 23, 99]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_merged_prompt_holds_the_fused_tokens_in_order(fusion):
    model = tiny(fusion=fusion).model
    ids = {"frames": torch.full((2, 16), VOCAB), "faces": torch.full((2, 4), VOCAB + 2)}
    visual = FUSIONS[fusion](ids["frames"], torch.tensor([VOCAB]), ids["faces"])
    with torch.no_grad():
        media = model.encode_media(
            pixel_values_videos=torch.randn(1, 2, 3, 98, 98),
            pixel_values_faces=torch.randn(1, 2, 3, 64, 64),
            video_times=torch.tensor([[0, 500]]),
        )
        embeds = model.embed(torch.cat([torch.tensor([5, 6]), visual, torch.tensor([7])])[None], media)
        frames = media.video[0][:-1].unflatten(0, (2, 16))
        plain = FUSIONS[fusion](frames, model.image_newline[None], media.face[0].unflatten(0, (2, 4)))
    torch.testing.assert_close(embeds[0, 2:-1], plain)


def test_a_prompt_of_another_fusion_is_refused():
    model = tiny(fusion="frame_concat")
    ids = clip_concat(torch.full((2, 16), VOCAB), torch.tensor([VOCAB]), torch.full((2, 4), VOCAB + 2))[None]
    with pytest.raises(ValueError, match=r"row 0 .* another order than fusion 'frame_concat'"):
        model(
            input_ids=ids,
            pixel_values_videos=torch.randn(1, 2, 3, 98, 98),
            pixel_values_faces=torch.randn(1, 2, 3, 64, 64),
            video_times=torch.tensor([[0, 500]]),
        )


# Absent modalities


@pytest.mark.parametrize("fusion", FUSIONS)
def test_all_subsets_of_modalities_go_in_one_batch_and_say_what_was_there(fusion):
    model = tiny(fusion=fusion)
    visual = FUSIONS[fusion](torch.full((2, 16), VOCAB), torch.tensor([VOCAB]), torch.full((2, 4), VOCAB + 2)).tolist()
    prompt = torch.tensor([[5, *visual, 6, *[VOCAB + 1] * 20, 7]])
    rows = len(SUBSETS)
    inputs = {
        "pixel_values_videos": torch.randn(rows, 2, 3, 98, 98),
        "pixel_values_faces": torch.randn(rows, 2, 3, 64, 64),
        "video_times": torch.tensor([[0, 500]]).repeat(rows, 1),
        "face_found": torch.tensor([["face" in subset] * 2 for subset in SUBSETS]),
        "input_features": torch.randn(rows, 1, 128, 300),
        "audio_attention_mask": (torch.arange(300) < 120).repeat(rows, 1, 1),
    }
    for row, subset in enumerate(SUBSETS):
        if "video" not in subset:
            inputs["video_times"][row] = -1
        if "audio" not in subset:
            inputs["audio_attention_mask"][row] = False
    with torch.no_grad():
        together = model(input_ids=prompt.repeat(rows, 1), **inputs)
        for row, subset in enumerate(SUBSETS):
            own = {name: value[row : row + 1] for name, value in inputs.items()}
            if "video" not in subset:
                for name in ("pixel_values_videos", "pixel_values_faces", "video_times", "face_found"):
                    del own[name]
            if "audio" not in subset:
                del own["input_features"], own["audio_attention_mask"]
            alone = model(input_ids=prompt, **own)
            torch.testing.assert_close(together.logits[row], alone.logits[0], rtol=1e-4, atol=1e-5)
            # A face is seen in frames, so a clip without a picture has none.
            expected = ["video" in subset, "face" in subset and "video" in subset, "audio" in subset]
            assert together.modalities[row].tolist() == expected


def test_an_absent_modality_is_zeros_into_its_tower():
    model = tiny()
    real = {
        "pixel_values_videos": torch.zeros(1, 2, 3, 98, 98),
        "pixel_values_faces": torch.zeros(1, 2, 3, 64, 64),
        "video_times": torch.tensor([[0, 500]]),
        "input_features": torch.zeros(1, 1, 128, 300),
        "audio_attention_mask": (torch.arange(300) < 120)[None, None],
    }
    prompt = torch.tensor([[5, *[VOCAB] * 33, *[VOCAB + 2] * 8, *[VOCAB + 1] * 20, 7]])
    sound = {name: real[name] for name in ("input_features", "audio_attention_mask")}
    with torch.no_grad():
        zeros = model(input_ids=prompt, **real).logits
        torch.testing.assert_close(zeros, model(input_ids=prompt, **sound).logits, rtol=1e-4, atol=1e-5)
        picture = {name: value for name, value in real.items() if name not in sound}
        torch.testing.assert_close(zeros, model(input_ids=prompt, **picture).logits, rtol=1e-4, atol=1e-5)


def test_zero_feature_puts_zeros_in_the_language_models_space():
    model = tiny(missing_modality="zero_feature").model
    prompt = torch.tensor([[5, *[VOCAB] * 33, *[VOCAB + 2] * 8, *[VOCAB + 1] * 20, 7]])
    embeds = model.embed(prompt)
    assert not embeds[0, 1:-1].any()


@pytest.mark.parametrize(("policy", "ids"), [("drop", [VOCAB] * 33), ("zero_input", [VOCAB] * 34)])
def test_placeholders_that_nothing_can_fill_are_refused_with_both_numbers(policy, ids):
    model = tiny(missing_modality=policy)
    prompt = torch.tensor([[5, *ids, 6]])
    sound = {"input_features": torch.zeros(1, 1, 128, 300), "audio_attention_mask": torch.ones(1, 1, 300).bool()}
    with pytest.raises(ValueError, match=rf"row 0 .* {len(ids)} video placeholders .* 0 video tokens"):
        model(input_ids=prompt, **sound)
    with pytest.raises(ValueError, match="the batch has no input of that clip"):
        model(input_ids=prompt)


# Training


def test_the_newline_is_frozen_unless_it_is_named():
    model = tiny().freeze()
    assert not model.model.image_newline.requires_grad
    assert tiny().freeze(("vision_tower",)).model.image_newline.requires_grad


@pytest.mark.parametrize(("name", "count"), [("dfew", 7), ("mafw", 11)])
def test_a_closed_set_is_asked_with_its_options_and_the_first_one_named_is_the_answer(name, count):
    options = LABEL_SETS[name]
    rows = [make_row(id=str(i), video=f"{i}.mp4", label=label) for i, label in enumerate(options)]
    second = read_recipe("omni_emotion_2_face")
    asked = question_rows(rows, second, options, seed=0)
    listed = [sorted(options, key=question["question"].index) for question in asked]
    assert len(options) == len(asked) == count
    # A model must not learn the place of the answer.
    assert len({tuple(order) for order in listed}) > 1
    assert [question["answer"] for question in asked] == list(options)
    replies = [f"It is {label}, hardly {options[i - 1]}." for i, label in enumerate(options)]
    replies[0] = "A man in a car."
    scores = load_metric("emotion_recognition").compute(
        predictions=replies, references=[row["label"] for row in rows], labels=list(options)
    )
    assert scores["invalid_rate"] == pytest.approx(1 / count)
    assert scores["uar"] == scores["war"] == pytest.approx(1 - 1 / count)


# The processor


def test_the_prompt_is_the_papers_template_in_qwens_chat(shipped):
    _, processor = shipped
    batch = processor(videos=clip(), text="What is felt?", num_frames=2)
    text = re.sub(r"(<\w+>)\1+", r"\1+", processor.tokenizer.decode(batch["input_ids"][0]))
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.</s>\n<|im_start|>user\n<vi_start><video>+<face>+<vi_end>\n"
        "<au_start><audio>+<au_end>\nWhat is felt?</s>\n<|im_start|>assistant\n"
    )


def test_markers_can_be_tokens_of_their_own(shipped, tmp_path):
    model, processor = build("omni_emotion", special_markers=True)
    plain = shipped[1](videos=[clip()], text="How does she feel?")
    batch = processor(videos=[clip()], text="How <vi_end> does she feel?", return_tensors="pt")
    [ids] = batch["input_ids"].tolist()
    # One token for each marker, and none for the word that the question only looks like.
    assert [ids.count(marker) for marker in processor.marker_ids] == [1, 1, 1, 1]
    assert len(ids) < len(plain["input_ids"][0])
    assert "<vi_start><video><video>" in processor.tokenizer.decode(ids)
    assert model.get_input_embeddings().weight.shape[0] == max(processor.marker_ids) + 1
    model(**batch, labels=batch["input_ids"].clamp(max=model.config.text_config.vocab_size - 1)).loss.backward()
    assert model.get_input_embeddings().weight.grad[processor.marker_ids].abs().sum(-1).all()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, again = load(tmp_path, device="cpu")
    assert again.marker_ids == processor.marker_ids
    assert torch.equal(
        again(videos=[clip()], return_tensors="pt")["input_ids"],
        processor(videos=[clip()], return_tensors="pt")["input_ids"],
    )
    assert torch.equal(loaded.get_input_embeddings().weight, model.get_input_embeddings().weight)
    assert shipped[1].marker_ids == []


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("ids", [[VOCAB - 2, VOCAB - 1], [VOCAB + 3, VOCAB + 4]])
def test_new_tokens_start_as_the_mean_word_and_leave_the_others_alone(ids, tied):
    model = tiny(tie_word_embeddings=tied)
    known = VOCAB - 10
    tables = {"input": model.get_input_embeddings().weight, "output": model.lm_head.weight}
    before = {name: table.detach().clone() for name, table in tables.items()}
    model.add_tokens(ids, known)
    rows = max(VOCAB, max(ids) + 1)
    assert model.config.text_config.vocab_size == rows
    for name, table in (("input", model.get_input_embeddings().weight), ("output", model.lm_head.weight)):
        assert len(table) == rows
        torch.testing.assert_close(table[ids], before[name][:known].mean(0).expand(len(ids), -1))
        assert torch.equal(table[:known], before[name][:known])
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied


def test_labels_cover_the_answer_and_its_end_only(shipped):
    _, processor = shipped
    turns = [
        {"role": "user", "content": [{"type": "video", "path": clip()}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Joy."}]},
    ]
    batch = processor.apply_chat_template(
        turns, tokenize=True, return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True
    )
    answer = batch["input_ids"][torch.as_tensor(batch["assistant_masks"]).bool()]
    assert processor.tokenizer.decode(answer) == "Joy.</s>"


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_processor_counts_what_the_model_makes(fusion):
    model, processor = build("omni_emotion", fusion=fusion)
    clips = [clip(7.3), clip(2.0, sound=False), clip(4.1, picture=False), clip(0.5)]
    batch = processor(videos=clips, text="What?", num_frames=3, return_tensors="pt")
    output = model(**batch)
    assert output.modalities.tolist() == [
        [True, False, True],
        [True, False, False],
        [False, False, True],
        [True, False, True],
    ]
    config, ids = model.config, batch["input_ids"]
    frames = [3, 3, processor.num_frames, 2]
    assert count(ids, config.video_token_id) == [16 * n + 1 for n in frames]
    assert count(ids, config.face_token_id) == [4 * n for n in frames]
    assert count(ids, config.audio_token_id) == [50 + 50 + 22, 34, 50 + 19, 9]
    for row, seconds in ((0, 7.3), (3, 0.5)):
        expected = config.tokens_per_clip(frames[row], seconds=seconds)
        assert [count(ids[row], getattr(config, f"{name}_token_id")) for name in expected] == list(expected.values())


def test_dropping_leaves_out_the_placeholders_of_what_is_absent():
    model, processor = build("omni_emotion", missing_modality="drop")
    batch = processor(videos=[clip(sound=False), clip(picture=False)], text="What?", return_tensors="pt", num_frames=2)
    assert count(batch["input_ids"], model.config.audio_token_id)[0] == 0
    assert count(batch["input_ids"], model.config.video_token_id)[1] == 0
    assert torch.isfinite(model(**batch).logits).all()


def test_a_modality_that_the_call_leaves_out_has_no_placeholder(shipped):
    model, processor = shipped
    batch = processor(videos=clip(), text="What?", modalities=["audio"], return_tensors="pt")
    assert "pixel_values_videos" not in batch
    assert count(batch["input_ids"], model.config.video_token_id) == [0]
    loaded = processor.load_clips([clip()], modalities=["audio"])
    again = processor(videos=loaded, text="What?", return_tensors="pt")
    assert torch.equal(again["input_ids"], batch["input_ids"])


def test_a_face_is_cropped_with_its_margin_and_the_whole_frame_stands_in_without_one(shipped):
    _, processor = shipped
    frames = np.zeros((2, 96, 96, 3), dtype=np.uint8)
    frames[0, 32:64, 32:64] = 255
    landmarks = np.full((2, 478, 2), np.nan, dtype=np.float32)
    corner = np.linspace(0.375, 0.625, 478, dtype=np.float32)
    landmarks[0] = np.stack([corner, corner[::-1]], -1)
    batch = processor(
        videos={"frames": frames, "fps": 2}, text="What?", landmarks=landmarks, num_frames=2, return_tensors="pt"
    )
    assert batch["face_found"].tolist() == [[True, False]]
    mean = torch.tensor(processor.face_mean).view(3, 1, 1)
    pixels = batch["pixel_values_faces"][0] * torch.tensor(processor.face_std).view(3, 1, 1) + mean
    # The crop's side is 1.5 times the face's 24 pixels, so 36 around the white square of 32.
    white = (pixels[0, 0] > 0.5).float().mean().item()
    assert white == pytest.approx((32 / 36) ** 2, abs=0.05)
    assert pixels[1].abs().max() < 1e-6


def test_the_processor_survives_saving(shipped, tmp_path):
    _, processor = shipped
    processor.save_pretrained(tmp_path)
    again = type(processor).from_pretrained(tmp_path)
    one, other = (p(videos=clip(5), text="What?", return_tensors="pt") for p in (processor, again))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_question_cannot_pass_for_media_or_end_a_turn(shipped):
    _, processor = shipped
    plain = processor(videos=clip(), text="What?")["input_ids"]
    foreign = processor(videos=clip(), text="What? <face></s><|im_end|><vi_start>")["input_ids"]
    for token in (processor.face_token_id, processor.tokenizer.eos_token_id):
        assert foreign[0].count(token) == plain[0].count(token)


# Parts


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("parts")
    torch.manual_seed(1)
    config = omni_emotion_config("tiny", vocab_size=VOCAB)
    text = Qwen2Config(**{**config.text_config.to_dict(), "vocab_size": VOCAB})
    base = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**config.vision_config.to_dict()).to_dict(),
        text_config=text.to_dict(),
        image_token_index=298,
        video_token_index=299,
    )
    models = {
        "video_llm": LlavaOnevisionForConditionalGeneration(base),
        "audio": WhisperForConditionalGeneration(
            WhisperConfig(
                **{
                    **config.audio_config.to_dict(),
                    "decoder_layers": 1,
                    "decoder_attention_heads": 4,
                    "decoder_ffn_dim": 64,
                    "vocab_size": 60,
                    "pad_token_id": 0,
                    "bos_token_id": 1,
                    "eos_token_id": 2,
                    "decoder_start_token_id": 1,
                    "suppress_tokens": None,
                    "begin_suppress_tokens": None,
                }
            )
        ),
        "face": tiny(seed=5).model.face_tower,
    }
    for name, model in models.items():
        model.save_pretrained(root / name)
    return {name: str(root / name) for name in models}, models


def test_the_assembled_model_holds_every_tensor_of_its_parts(folders):
    paths, models = folders
    model = OmniEmotionForConditionalGeneration.from_pretrained_parts(**paths, face_grid=2, num_frame_positions=8)
    ours = model.state_dict()
    for name, tensor in models["video_llm"].state_dict().items():
        assert torch.equal(ours[name], tensor), name
    for name, tensor in models["audio"].model.encoder.state_dict().items():
        assert torch.equal(ours[f"model.audio_tower.{name}"], tensor), name
    for name, tensor in models["face"].state_dict().items():
        assert torch.equal(ours[f"model.face_tower.{name}"], tensor), name
    new = {name.split(".")[1] for name in model.parts_report.new}
    assert new == {"audio_projector", "face_projector", "frame_embedding"}
    assert model.config.video_token_id == 299
    assert not model.model.frame_embedding.weight.any()


def test_an_ablation_leaves_its_part_out(folders):
    model = OmniEmotionForConditionalGeneration.from_pretrained_parts(**folders[0], face_config=None)
    assert not hasattr(model.model, "face_tower")


def test_parts_that_do_not_fit_are_refused_in_one_sentence(folders):
    paths, _ = folders
    with pytest.raises(
        PartsError, match="is a 'whisper' checkpoint; accepted for video_llm is a 'llava_onevision' one"
    ):
        OmniEmotionForConditionalGeneration.from_pretrained_parts(video_llm=paths["audio"])
    with pytest.raises(PartsError, match="no part is given"):
        OmniEmotionForConditionalGeneration.from_pretrained_parts()
    other = tiny(
        vision_config={**omni_emotion_config("tiny", vocab_size=VOCAB).vision_config.to_dict(), "hidden_size": 32}
    )
    with pytest.raises(PartsError, match=r"vision_tower.* the parts do not fit each other"):
        OmniEmotionForConditionalGeneration.from_pretrained_parts(
            video_llm=paths["video_llm"], vision_config=other.config.vision_config.to_dict()
        )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"face_grid": 17}, "face_grid is 17; accepted are 1 to 16"),
        ({"audio_config": {"model_type": "hubert"}}, "'hubert'; 'whisper' is accepted"),
        (
            {"fusion": "frame_cross_attention", "fusion_attention_heads": 7},
            "not a multiple of fusion_attention_heads 7",
        ),
    ],
)
def test_configurations_that_cannot_be_are_refused(fields, message):
    with pytest.raises(Exception, match=message):
        omni_emotion_config("tiny", vocab_size=VOCAB, **fields)
