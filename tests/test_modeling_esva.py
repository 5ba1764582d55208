"""What ESVA alone claims: Emotion-LLaMA's layout, MSFE, the contrast of sounds, alignment, controllers, parts."""

import itertools
import math
import re
import socket
import subprocess
import sys

import pytest
import test_modeling_common as contract
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch.nn import functional
from transformers import (
    HubertConfig,
    HubertModel,
    InstructBlipVisionModel,
    LlamaForCausalLM,
    VideoMAEModel,
    ViTMAEForPreTraining,
    ViTMAEModel,
    WhisperConfig,
)

from hf_emotion.modeling.alignment_esva import (
    FORMS,
    GAIN_RANGE,
    AlignedFusion,
    AudioVideoAlignment,
    covers,
    fastest_form,
    resample,
    standardise,
    sums_at,
    window_sums,
)
from hf_emotion.modeling.configuration_esva import ESVAConfig
from hf_emotion.modeling.contrast_esva import ContrastHead
from hf_emotion.modeling.modeling_esva import (
    ESVAForConditionalGeneration,
    ESVAModel,
    MAEModel,
    MultiScaleFeatureExtraction,
)
from hf_emotion.modeling.parts import PartsError
from hf_emotion.papers import EMOTION_LLAMA, build, esva_config

VOCAB = contract.VOCAB
TOWERS = ("vision", "face", "motion", "audio")
SUBSETS = [subset for n in (1, 2, 3) for subset in itertools.combinations(TOWERS, n)]


def without(subset):
    return {f"{name}_config": None for name in TOWERS if name not in subset}


def case_of(subset):
    """The contract's case for a model with these towers only."""
    case = contract.ESVACase(**without(subset))
    case.towers = {f"{name}_tower": count for name, count in zip(TOWERS, (2, 25, 3, 2), strict=True) if name in subset}
    case.attends = (*case.towers, "language_model")
    return case


def tiny(seed=0, **fields):
    return contract.ESVACase().model(seed, **fields)


# Encoder subsets (Table 5) sign the contract


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
@pytest.mark.parametrize(
    "claim",
    [
        contract.test_the_loss_is_finite_and_every_parameter_gets_a_gradient,
        contract.test_a_batch_equals_its_clips_one_by_one,
        contract.test_generate_returns_the_prompt_with_its_placeholders,
        contract.test_greedy_search_with_a_cache_equals_without,
        contract.test_freezing_trains_exactly_the_parts_the_paper_trains,
    ],
    ids=lambda claim: claim.__name__.removeprefix("test_"),
)
def test_every_encoder_subset_keeps_the_contract(subset, claim):
    claim(case_of(subset))


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_every_encoder_subset_saves_and_loads_and_has_its_tokens_and_no_others(subset, tmp_path):
    case = case_of(subset)
    model = case.model()
    children = {name for name, _ in model.model.named_children()}
    assert {name for name in children if name.endswith("_tower")} == set(case.towers)
    aligned = "audio" in subset and ("face" in subset or "motion" in subset)
    assert ("alignment" in children) == aligned
    assert ("msfe" in children) == ("contrast_head" in children) == ("audio" in subset)
    count = 17 * ("vision" in subset) + ("face" in subset) + ("motion" in subset)
    assert model.config.tokens_per_clip(16) == {"video": count, "audio": int("audio" in subset)}
    batch = case.batch(model.config)
    output = model(**batch)
    pictures = any(name in subset for name in ("vision", "face", "motion"))
    faces = "face" in subset or "motion" in subset
    assert output.modalities.tolist() == [[pictures, faces, "audio" in subset]] * 2
    assert (output.alignment is None) != aligned
    model.save_pretrained(tmp_path)
    loaded = ESVAForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(loaded(**batch).logits, output.logits)


def test_a_model_without_any_encoder_is_refused():
    with pytest.raises(StrictDataclassClassValidationError, match="at least one is needed"):
        ESVAConfig(**without(()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"msfe_kernel_sizes": [3, 4]}, r"msfe_kernel_sizes are \[3, 4\]; odd numbers"),
        ({"audio_tokens": 0}, "audio_tokens is 0; numbers from 1"),
        ({"patches_per_token": 3}, "64 patches, which patches_per_token 3 does not divide"),
        ({"alignment_rate": 0}, "alignment_rate is 0; a positive number"),
        ({"motion_config": {"model_type": "videomae", "image_size": 48, "patch_size": 8}}, "32 pixels .* of 48"),
    ],
)
def test_numbers_that_make_no_model_are_refused(fields, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        esva_config("tiny", vocab_size=VOCAB, **fields)


# Emotion-LLaMA's layout


def test_emotion_llama_is_esva_without_its_additions_token_by_token():
    model = tiny(**EMOTION_LLAMA)
    inner = model.model
    assert not {"msfe", "alignment", "contrast_head"} & {name for name, _ in inner.named_children()}
    batch = contract.ESVACase(**EMOTION_LLAMA).batch(model.config)
    media = model.encode_media(**batch)
    patches = inner.vision_tower(batch["pixel_values_videos"][:, 0]).last_hidden_state
    for clip, frames in enumerate((20, 5)):
        states = patches[clip]
        merged = [torch.cat(list(states[1 + i : 5 + i])) for i in range(0, 64, 4)]  # four in a row, row by row
        faces = batch["pixel_values_faces"][clip, :frames]
        noise = torch.arange(16.0).expand(frames, -1)
        mae = ViTMAEModel.forward(inner.face_tower, faces, noise=noise).last_hidden_state[:, 1:].mean(1)
        steps = []
        for first in range(0, frames, 16):
            own = list(faces[first : first + 16])
            real = len(own)
            own += [own[-1]] * (16 - real)
            seen = inner.motion_tower(torch.stack(own)[None]).last_hidden_state[0].unflatten(0, (8, 16)).mean(1)
            steps.append(seen[: math.ceil(real / 2)])
        samples = contract.ESVACase.samples[clip]
        voice = inner.audio_tower(batch["input_values"][clip : clip + 1, :samples]).last_hidden_state[0]
        expected = [
            *(inner.video_projector(token) for token in merged),
            inner.face_projector(mae.mean(0)),
            inner.motion_projector(torch.cat(steps).mean(0)),
            inner.cls_projector(states[0]),
        ]
        torch.testing.assert_close(media.video[clip], torch.stack(expected), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(media.audio[clip], inner.audio_projector(voice.mean(0))[None], rtol=1e-4, atol=1e-5)


def test_the_paper_has_256_patch_tokens_and_its_parts_at_their_published_sizes():
    with torch.device("meta"):
        model = ESVAForConditionalGeneration(esva_config("paper"))
    assert model.config.tokens_per_clip(64) == {"video": 259, "audio": 1}  # 260 in Emotion-LLaMA
    sizes = {name: sum(p.numel() for p in child.parameters()) for name, child in model.model.named_children()}
    assert sizes["language_model"] + model.lm_head.weight.numel() == 6_738_415_616  # LLaMA-2-7B
    # EVA ViT-g/14 as MicroEmo has it, 985,952,256, with 1,025 positions in place of 257.
    assert sizes["vision_tower"] == 985_952_256 + (1025 - 257) * 1408
    block = 4 * 1024**2 + 4 * 1024 + 2 * 1024 * 4096 + 4096 + 1024 + 4 * 1024
    patches = 3 * 16 * 16 * 1024 + 1024
    assert sizes["face_tower"] == 24 * block + patches + 1024 + 197 * 1024 + 2 * 1024
    # VideoMAE has no bias on its keys and fixed positions; a patch is of two frames.
    assert sizes["motion_tower"] == 24 * (block - 1024) + 2 * 3 * 16 * 16 * 1024 + 1024 + 2 * 1024
    # hubert-large-ls960-ft less its head; TencentGameMate/chinese-hubert-large has the same layers.
    assert sizes["audio_tower"] == 315_438_720
    widths = {"video_projector": 4 * 1408, "cls_projector": 1408, "face_projector": 1024, "audio_projector": 1024}
    assert all(sizes[name] == (width + 1) * 4096 for name, width in widths.items())


def test_mae_sees_every_patch_in_its_order_and_the_same_every_time():
    config = esva_config("tiny", vocab_size=VOCAB, face_config={**MAE, "mask_ratio": 0.75}).face_config
    assert config.mask_ratio == 0.0
    torch.manual_seed(0)
    model = MAEModel(config).eval()
    pixels = torch.randn(2, 3, 32, 32)
    first, second = model(pixels), model(pixels)
    assert first.last_hidden_state.shape == (2, 17, 64)
    assert torch.equal(first.last_hidden_state, second.last_hidden_state)
    assert torch.equal(first.ids_restore, torch.arange(16).expand(2, -1))
    # Fixed positions and the class token are there, which transformers 5.23 leaves at zero.
    assert model.embeddings.position_embeddings.abs().max() == 1.0
    assert model.embeddings.cls_token.abs().max() > 0


MAE = {
    "model_type": "vit_mae",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}


def test_frozen_towers_stay_as_they_answer_while_the_rest_trains():
    noisy = esva_config("tiny", vocab_size=VOCAB).audio_config.to_dict() | {"hidden_dropout": 0.5}
    model = tiny(audio_config=noisy).freeze().train()
    assert model.training
    assert model.model.msfe.training
    assert not any(getattr(model.model, f"{name}_tower").training for name in TOWERS)
    batch = contract.ESVACase().batch(model.config)
    assert torch.equal(model.encode_media(**batch).voice, model.encode_media(**batch).voice)
    assert tiny(audio_config=noisy).train().model.audio_tower.training


# MSFE (Eq. 1)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_msfe_is_eq_1_in_value_and_gradient(depthwise, residual):
    torch.manual_seed(0)
    module = MultiScaleFeatureExtraction(6, [1, 3, 7], depthwise, residual).double()
    with torch.no_grad():
        module.scale_logits.normal_()
        if residual:
            module.gate.normal_()
    mask = torch.arange(9) < torch.tensor([[9], [5]])
    leaf = torch.randn(2, 9, 6, dtype=torch.float64, requires_grad=True)
    states = leaf * mask.unsqueeze(-1)
    found = module(states, mask)
    weights = module.scale_logits.exp() / module.scale_logits.exp().sum()
    torch.testing.assert_close(module.weights, weights)
    plain = []
    for clip, length in enumerate((9, 5)):
        rows = []
        for step in range(9):
            if step >= length:
                rows.append(states.new_zeros(6))
                continue
            total = states.new_zeros(6)
            for weight, scale in zip(weights, module.scales, strict=True):
                kernel, bias = scale[0].weight, scale[0].bias
                half = kernel.shape[-1] // 2
                window = [
                    states[clip, step + k] if 0 <= step + k < length else states.new_zeros(6)
                    for k in range(-half, half + 1)
                ]
                window = torch.stack(window)  # (kernel, D)
                if depthwise:
                    across = (window.T * kernel[:, 0]).sum(-1) + bias
                    phi = scale[1].weight[..., 0] @ across + scale[1].bias
                else:
                    phi = torch.einsum("kd,odk->o", window, kernel) + bias
                total = total + weight * phi
            rows.append(states[clip, step] + module.gate * total if residual else total)
        plain.append(torch.stack(rows))
    plain = torch.stack(plain)
    torch.testing.assert_close(found, plain)
    direction = torch.randn_like(found)
    given = [leaf, *module.parameters()]
    for mine, theirs in zip(
        torch.autograd.grad((found * direction).sum(), given, retain_graph=True),
        torch.autograd.grad((plain * direction).sum(), given),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_msfe_starts_from_the_audio_tower_as_it_is_and_its_weights_can_be_read():
    torch.manual_seed(0)
    model = ESVAForConditionalGeneration(esva_config("tiny", vocab_size=VOCAB)).eval()
    plain = ESVAForConditionalGeneration(esva_config("tiny", vocab_size=VOCAB, msfe_kernel_sizes=[])).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    batch = contract.ESVACase().batch(model.config)
    assert torch.equal(model.encode_media(**batch).voice, plain.encode_media(**batch).voice)
    assert model.model.msfe.weights.tolist() == pytest.approx([1 / 3] * 3)


# The contrast (Eq. 2)


@pytest.mark.parametrize("queue", [0, 4])
def test_the_contrast_is_info_nce_over_pairs_in_value_and_gradient(queue):
    torch.manual_seed(0)
    head = ContrastHead(6, 4, temperature=0.2, queue_size=queue).train()
    emotions = torch.tensor([0, 1, 0, 2, -1, 1])
    if queue:
        head(torch.randn(3, 6), torch.tensor([2, -1, 0]), torch.tensor([10, 11, 12]))
        assert head.queue_ids.tolist() == [2, 0, -1, -1]
        assert head.queue_clips.tolist() == [10, 12, -1, -1]
    voice = torch.randn(6, 6, requires_grad=True)
    keys = torch.cat([functional.normalize(head.projection(voice), dim=-1), head.queue.clone()])
    ids = [*emotions.tolist(), *head.queue_ids.tolist()]
    clips = []
    for i in range(6):
        positives = [j for j in range(len(ids)) if j != i and ids[i] >= 0 and ids[j] == ids[i]]
        negatives = [j for j in range(len(ids)) if ids[i] >= 0 and ids[j] >= 0 and ids[j] != ids[i]]
        scores = (keys[i] * keys).sum(-1) / 0.2
        apart = sum(scores[j].exp() for j in negatives)
        each = [-(scores[j].exp() / (scores[j].exp() + apart)).log() for j in positives]
        if each:
            clips.append(sum(each) / len(each))
    assert len(clips) == (5 if queue else 4)  # a clip without a positive is skipped
    plain = sum(clips) / len(clips)
    found = head(voice, emotions, torch.arange(6))
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(
        torch.autograd.grad(found, voice)[0], torch.autograd.grad(plain, voice)[0], rtol=1e-4, atol=1e-6
    )
    if queue:
        assert head.queue_ids.tolist() == [0, 1, 0, 2]  # the oldest have gone
        torch.testing.assert_close(head.queue, keys[[0, 1, 2, 3]].detach())
        before = head.queue.clone()
        head.eval()(voice, emotions)
        assert torch.equal(head.queue, before)


def test_a_contrast_without_positives_or_negatives_is_defined():
    head = ContrastHead(6, 4, 0.07, 0)
    voice = torch.randn(3, 6, requires_grad=True)
    assert head(voice, torch.tensor([0, 1, 2])) is None
    assert head(voice, torch.tensor([-1, -1, -1])) is None
    loss = head(voice, torch.tensor([1, 1, -1]))
    loss.backward()
    assert loss == 0
    assert torch.isfinite(voice.grad).all()


def test_a_clip_that_the_queue_holds_is_no_positive_of_itself_but_another_is():
    torch.manual_seed(0)
    head = ContrastHead(6, 4, 0.07, queue_size=4).train()
    voice, emotion = torch.randn(1, 6), torch.tensor([1])
    assert head(voice, emotion, torch.tensor([7])) is None
    assert head(voice, emotion, torch.tensor([7])) is None
    assert head.queue_clips.tolist() == [7, 7, -1, -1]
    other = head(voice, torch.tensor([2]), torch.tensor([8]))
    assert other is None  # negatives alone
    loss = head(voice, emotion, torch.tensor([9]))
    assert loss > 0
    # Of a clip without a number nobody knows whether the queue holds it.
    assert head.eval()(voice, emotion, torch.tensor([-1])) is None


@pytest.mark.parametrize(("queue", "clip_ids", "lacks"), [(0, [3], "queue_size is 0"), (4, None, "clip_ids are not")])
def test_training_on_single_clips_without_a_chance_of_a_positive_is_refused(queue, clip_ids, lacks):
    head = ContrastHead(6, 4, 0.07, queue).train()
    clips = None if clip_ids is None else torch.tensor(clip_ids)
    with pytest.raises(ValueError, match=f"a positive: each step trains on one clip, and .*{lacks}"):
        head(torch.randn(1, 6), torch.tensor([1]), clips)
    head(torch.randn(2, 6), torch.tensor([1, 1]))
    head(torch.randn(1, 6), torch.tensor([1]), clips)  # the short batch at the end of an epoch


TOGETHER = """
import os, sys
import torch
from torch import distributed
from hf_emotion.modeling.contrast_esva import ContrastHead

def run(rank, port, result):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.manual_seed(0)
    head = ContrastHead(6, 4, 0.2, queue_size=8).train()
    voice, emotions = torch.randn(3, 6), torch.tensor([1, 2, 1])
    mine = [slice(0, 1), slice(1, 3)][rank]  # one clip here, two there
    own = voice[mine].clone().requires_grad_()
    loss = head(own, emotions[mine], torch.arange(3)[mine])
    empty = head(own[:0], emotions[:0], None)  # nothing to give, and no process waits
    gradient = None if loss is None else torch.autograd.grad(loss, own)[0]
    torch.save([loss, gradient, empty, head.queue_clips.tolist()], f"{result}{rank}")
    distributed.destroy_process_group()

if __name__ == "__main__":
    torch.multiprocessing.start_processes(run, args=sys.argv[1:], nprocs=2, start_method="fork")
"""


def test_two_processes_contrast_each_clip_with_those_of_both(tmp_path):
    (tmp_path / "together.py").write_text(TOGETHER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, tmp_path / "together.py", str(port), str(tmp_path / "result")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    torch.manual_seed(0)
    head = ContrastHead(6, 4, 0.2, queue_size=8).train()
    voice = torch.randn(3, 6)  # of the emotions 1, 2, 1
    for rank, mine in enumerate(([0], [1, 2])):
        loss, gradient, empty, queued = torch.load(tmp_path / f"result{rank}", weights_only=False)
        own = voice[mine].clone().requires_grad_()
        keys = torch.stack([head.embed(own)[mine.index(i)] if i in mine else head.embed(voice)[i].detach()
                            for i in range(3)])  # fmt: skip
        scores = (keys @ keys.T / 0.2).exp()
        expected = [-(scores[i, j] / (scores[i, j] + scores[i, 1])).log() for i, j in ((0, 2), (2, 0)) if i in mine]
        torch.testing.assert_close(loss, sum(expected))
        torch.testing.assert_close(gradient, torch.autograd.grad(sum(expected), own)[0])
        assert empty is None
        assert queued == [0, 1, 2] + [-1] * 5  # the same on both


# The alignment (3.4)


def streams(seed=0, steps=37, width=5, dtype=torch.float64):
    """Two streams of three clips on the grid, of unlike extent."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(2, 3, steps, dtype=torch.bool)
    for mask, spans in zip(masks, (((0, 37), (4, 20), (10, 36)), ((0, 37), (0, 30), (15, 33))), strict=True):
        for row, (first, last) in zip(mask, spans, strict=True):
            row[first:last] = True
    values = torch.randn(2, 3, steps, width, generator=generator, dtype=dtype) * masks.unsqueeze(-1)
    return values[0], values[1], masks[0], masks[1]


def plain_search(audio, video, audio_mask, video_mask, max_offset, window):
    """Eqs. 4 and 5 as they stand, one clip, offset, window and step after the other: D^i, D and C, infinite or minus
    infinite where nothing overlaps."""
    clips, steps, _ = audio.shape
    windows = math.ceil(steps / window)
    columns = []
    for offset in range(-max_offset, max_offset + 1):
        for clip in range(clips):
            local, products, norms = [], [], ([], [])
            for i in range(windows):
                squares = []
                for t in range(i * window, min(steps, (i + 1) * window)):
                    if 0 <= t + offset < steps and audio_mask[clip, t] and video_mask[clip, t + offset]:
                        a, v = audio[clip, t], video[clip, t + offset]
                        squares.append((a - v).square().sum())
                        products.append((a * v).sum())
                        norms[0].append(a.square().sum())
                        norms[1].append(v.square().sum())
                local.append((sum(squares) / len(squares)).sqrt() if squares else None)
            seen = [value for value in local if value is not None]
            columns.append(
                (
                    [audio.new_zeros(()) if value is None else value for value in local],
                    sum(seen) / len(seen) if seen else audio.new_zeros(()),
                    sum(products) / (sum(norms[0]) * sum(norms[1])).sqrt() if seen else audio.new_zeros(()),
                )
            )

    def table(values):
        return torch.stack(values).unflatten(0, (2 * max_offset + 1, clips)).transpose(0, 1)

    local = table([torch.stack(column[0]) for column in columns]).transpose(1, 2)
    return local, table([column[1] for column in columns]), table([column[2] for column in columns])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("max_offset", "window"), [(0, 8), (6, 8), (6, 1), (36, 8), (36, 37), (60, 50)])
def test_every_form_of_the_search_is_the_plain_loop_in_value_and_gradient(form, max_offset, window):
    *leaves, heard, seen = streams()
    audio, video = (
        leaf.requires_grad_() * mask.unsqueeze(-1) for leaf, mask in zip(leaves, (heard, seen), strict=True)
    )
    sums = window_sums(audio, video, heard, seen, max_offset, window, form)
    found = sums.distances(), sums.distance(), sums.correlation()
    plain = plain_search(audio, video, heard, seen, max_offset, window)
    gradients = []
    for mine, theirs in zip(found, plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
        direction = torch.randn(mine.shape, dtype=mine.dtype, generator=torch.Generator().manual_seed(1))
        gradients.append(
            [torch.autograd.grad((value * direction).sum(), leaves, retain_graph=True) for value in (mine, theirs)]
        )
    for mine, theirs in gradients:
        for one, other in zip(mine, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_a_stream_laid_over_itself_has_no_distance_in_any_form(form):
    audio, _, heard, _ = streams()
    sums = window_sums(audio, audio, heard, heard, 4, 8, form)
    assert sums.distance()[:, 4].max() < 1e-5
    torch.testing.assert_close(sums.correlation()[:, 4], torch.ones(3, dtype=torch.float64))
    at = sums_at(audio, audio, heard, heard, torch.tensor([0, 2, -3]), 8)
    torch.testing.assert_close(at.distance()[:, 0], sums.distance()[[0, 1, 2], [4, 6, 1]], rtol=0, atol=1e-6)


def test_the_form_goes_by_the_range():
    assert fastest_form(100, 25, 25) == "banded"  # a clip of 4 s, +-1 s
    assert fastest_form(10_000, 25, 25) == "banded"
    assert fastest_form(1000, 999, 25) == "fft"
    assert fastest_form(10_000, 9999, 25) == "fft"


def test_resampling_is_linear_in_time_and_holds_its_ends():
    times = torch.tensor([[100, 200, 400, -1], [50, -1, -1, -1], [-1, -1, -1, -1]])
    states = torch.tensor([[[1.0], [3.0], [5.0], [99.0]], [[7.0], [99.0], [99.0], [99.0]], [[9.0]] * 4])
    grid = torch.tensor([0.0, 100.0, 150.0, 300.0, 400.0, 500.0])
    found = resample(states, times, grid)[..., 0]
    assert found.tolist() == [[1.0, 1.0, 2.0, 4.0, 5.0, 5.0], [7.0] * 6, [0.0] * 6]
    inside = [[False, True, True, True, True, False], [False] * 6, [False] * 6]
    assert covers(times, grid).tolist() == inside


def test_standardised_streams_cannot_grow_and_a_still_one_is_nothing():
    states = torch.randn(2, 30, 4, dtype=torch.float64)
    mask = torch.arange(30) < torch.tensor([[30], [12]])
    found = standardise(states, mask)
    torch.testing.assert_close(standardise(states * 1000 + 5, mask), found)
    torch.testing.assert_close((found.square().sum(-1).sum(1) / mask.sum(1)), torch.ones(2, dtype=torch.float64))
    assert not found[1, 12:].any()
    still = torch.full((1, 30, 4), 0.1) + 1e-8 * torch.randn(1, 30, 4)
    assert not standardise(still, torch.ones(1, 30, dtype=torch.bool)).any()


def aligner(**settings):
    module = AudioVideoAlignment(3, 3, None, size=3, rate=25.0, max_offset=400, window=400, **settings).eval()
    with torch.no_grad():
        for projection in (module.audio_projection, module.face_projection):
            projection.weight.copy_(torch.eye(3))
            projection.bias.zero_()
    return module


def planted(offset_ms, steps=100, noise=0.3, seed=0):
    """Sound and picture of one course, 40 ms a step; the sound is late by `offset_ms`."""
    generator = torch.Generator().manual_seed(seed)
    course = torch.randn(1, steps + 40, 3, generator=generator)
    late = round(offset_ms / 40)
    audio, video = course[:, 20 - late : 20 - late + steps], course[:, 20 : 20 + steps]
    times = torch.arange(steps)[None] * 40
    return audio + noise * torch.randn(audio.shape, generator=generator), times, video, times


@pytest.mark.parametrize("offset", [-400, -120, 0, 40, 360])
@pytest.mark.parametrize("search", ["combined", "global"])
def test_a_planted_offset_is_found_with_its_sign_by_both_searches(offset, search):
    audio, times, video, _ = planted(offset)
    found = aligner(search=search)(audio, times, video, times)
    assert found.offset.tolist() == [-offset]  # a sound that is late goes with an earlier picture
    assert found.aligned.tolist() == [True]
    # A window that hardly overlaps at the end of the range may fit another offset as well.
    assert (found.window_offsets[found.windows] == -offset).float().mean() >= 0.9
    place = found.offsets.tolist().index(-offset)
    torch.testing.assert_close(found.loss[0], found.distance[0] - found.correlation[0])
    torch.testing.assert_close(found.losses[0, place], found.loss[0], rtol=0, atol=1e-5)


def test_eq_6_is_the_combined_search_without_distance():
    audio, times, video, _ = planted(120, noise=3.0)
    one = aligner(search="global")(audio, times, video, times)
    other = aligner(local_weight=0.0)(audio, times, video, times)
    assert one.offset.tolist() == other.offset.tolist()
    assert one.offset[0] == one.offsets[one.correlations[0].argmax()]


def test_offsets_with_too_little_overlap_are_not_searched():
    audio, times, video, _ = planted(0, steps=16)
    found = aligner(min_overlap=0.75)(audio, times, video, times)
    searched = found.offsets[torch.isfinite(found.losses[0])]
    assert searched.abs().max() == 160  # a quarter of 16 steps of 40 ms
    alone = aligner()(audio[:, :1], times[:, :1], video, times)
    assert alone.aligned.tolist() == [False]
    assert alone.offset.tolist() == [0]
    assert alone.loss.tolist() == [0.0]
    still = aligner()(audio, times, torch.ones_like(video), times)
    assert still.aligned.tolist() == [False]


def test_the_loss_has_a_gradient_through_the_features_alone_and_softmin_through_all_offsets():
    for selection in ("argmin", "softmin"):
        audio, times, video, _ = planted(80)
        audio.requires_grad_()
        module = aligner(selection=selection)
        found = module(audio, times, video, times)
        found.loss.sum().backward()
        assert audio.grad.abs().sum() > 0
        step = 1e-4 * audio.grad
        with torch.no_grad():
            lower = module(audio - step, times, video, times).loss
            change = (found.loss - lower).item()
        assert change == pytest.approx(float((audio.grad * step).sum()), rel=0.05)
    hard = aligner()(*planted(80)).loss
    cold = aligner(selection="softmin", temperature=1e-3)(*planted(80)).loss
    torch.testing.assert_close(hard, cold, rtol=0, atol=1e-5)


def test_training_takes_the_clips_to_be_in_step_unless_told_to_search():
    arguments = planted(120)
    module = aligner().train()
    assert module(*arguments).offset.tolist() == [0]
    plain = sums_at_zero(module, arguments)
    torch.testing.assert_close(module(*arguments).loss, plain)
    assert aligner(training_offset="search").train()(*arguments).offset.tolist() == [-120]


def sums_at_zero(module, arguments):
    audio, video, heard, seen = module.streams(*arguments, None, None)
    sums = sums_at(audio, video, heard, seen, torch.zeros(1, dtype=torch.long), module.window)
    return (sums.distance() - sums.correlation())[:, 0]


# Controllers (4.4)


@pytest.mark.parametrize("controller", ["fuzzy", "neural", "backstepping"])
def test_a_controller_leaves_a_trajectory_of_bounded_gains_that_answers_to_drift(controller):
    torch.manual_seed(0)
    module = aligner(controller=controller)
    calm = module(*planted(0, steps=200, noise=0.05))
    wild = planted(0, steps=200)
    wild = module(torch.randn(wild[0].shape, generator=torch.Generator().manual_seed(7)), *wild[1:])
    for found in (calm, wild):
        assert found.gains.shape == (1, 20, 2)
        assert found.gains[0, 0].tolist() == [1.0, 1.0]
        assert found.gains.min() >= GAIN_RANGE[0] - 1e-9
        assert found.gains.max() <= GAIN_RANGE[1] + 1e-9
        # What one gains the other loses.
        torch.testing.assert_close(found.gains.prod(-1), torch.ones(1, 20, dtype=torch.float64))
    if controller != "neural":  # an untrained network has no opinion yet
        assert calm.gains[0, -1, 0] > 1.2  # no drift: the windows are trusted
        assert wild.gains[0, 5:, 0].mean() < calm.gains[0, 5:, 0].mean() - 0.3
    assert calm.offset.tolist() == [0]


def test_fixed_gains_and_a_controller_that_never_moves_them_give_the_same_loss():
    audio, times, video, _ = planted(80)
    module = aligner(controller="fuzzy")
    module.follow = lambda distances, *rest: (distances.new_ones(*distances.shape[:2], 2), None)
    found, fixed = module(audio, times, video, times), aligner()(audio, times, video, times)
    torch.testing.assert_close(found.losses, fixed.losses)
    torch.testing.assert_close(found.loss, fixed.loss)


def test_the_neural_controller_learns_to_expect_the_drift_and_moves_nothing_else():
    torch.manual_seed(0)
    module = aligner(controller="neural")
    arguments = planted(0, steps=200, noise=0.05)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    losses = []
    for _ in range(40):
        loss = module(*arguments).controller_loss
        optimizer.zero_grad()
        loss.backward()
        assert module.audio_projection.weight.grad is None
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]  # there is no drift, and it has learned that
    assert module(*arguments).gains[0, -1, 0] > 1.2


@pytest.mark.parametrize("controller", ["fuzzy", "neural", "backstepping"])
def test_a_controlled_batch_equals_its_clips_one_by_one(controller):
    case = contract.ESVACase(controller=controller)
    contract.test_a_batch_equals_its_clips_one_by_one(case)
    contract.test_a_training_batch_without_a_modality_still_reaches_every_parameter(case, "video")


# The offset is applied, and the loss has its terms


def test_a_moved_sound_is_pooled_over_what_stays_in_the_clip():
    model = tiny(audio_tokens=2, use_alignment=False, msfe_kernel_sizes=[])
    states = torch.randn(1, 5, 64)
    times = torch.tensor([[0, 100, 200, 300, 400]])
    ends = torch.tensor([400])

    def parts(offset):
        tokens = model.model.voice_tokens(states, times, ends, torch.tensor([offset]))[0]
        return tokens, model.model.audio_projector

    tokens, projector = parts(0)
    expected = torch.stack([states[0, :3].mean(0), states[0, 3:].mean(0)])
    torch.testing.assert_close(tokens, projector(expected))
    tokens, _ = parts(-200)  # the first two frames leave the clip
    expected = torch.stack([states[0, 2:].mean(0), torch.zeros(64)])
    torch.testing.assert_close(tokens, projector(expected))
    tokens, _ = parts(200)  # the last two do
    expected = torch.stack([states[0, 0], states[0, 1:3].mean(0)])
    torch.testing.assert_close(tokens, projector(expected))


def test_the_offset_that_is_found_is_applied_and_can_be_left_unapplied():
    model, still = tiny(fuse_aligned=False), tiny(fuse_aligned=False, apply_offset=False)
    batch = contract.ESVACase().batch(model.config)
    offsets = model.encode_media(**batch).alignment.offset
    assert offsets.any()
    tokens = model.get_audio_features(
        input_values=batch["input_values"], audio_attention_mask=batch["audio_attention_mask"], offsets=None
    ).pooler_output
    for mine, plain, at_rest in zip(
        model.encode_media(**batch).audio, tokens, still.encode_media(**batch).audio, strict=True
    ):
        torch.testing.assert_close(at_rest, plain)
        assert (mine - plain).abs().max() > 1e-4


def test_the_gradient_of_the_alignment_reaches_what_the_language_model_sees():
    model = tiny().train()
    batch = contract.ESVACase().batch(model.config)
    media = model.encode_media(**batch)
    projections = [p for name, p in model.named_parameters() if re.search(r"alignment\..*_projection\.weight", name)]
    assert len(projections) == 3
    aligned = torch.autograd.grad(media.alignment.loss.sum(), projections, retain_graph=True)
    assert all(gradient.abs().max() > 0 for gradient in aligned)
    # A step down L_align changes the tokens, through each of the projections.
    tokens = torch.cat(media.audio)
    for parameter, gradient in zip(projections, aligned, strict=True):
        with torch.no_grad():
            parameter -= gradient / gradient.norm()
            moved = torch.cat(model.encode_media(**batch).audio)
            parameter += gradient / gradient.norm()
        assert (moved - tokens).abs().max() > 1e-4
    # 0.1.0's means over time do not depend on them.
    plain = tiny(fuse_aligned=False).train()
    projection = plain.model.alignment.face_projection.weight
    tokens = torch.cat(plain.encode_media(**batch).audio)
    assert torch.autograd.grad(tokens.sum(), projection, allow_unused=True) == (None,)


def test_fused_tokens_change_with_the_order_of_the_picture_which_means_over_time_do_not():
    torch.manual_seed(0)
    batch = contract.ESVACase().batch(tiny().config)
    sound = {name: batch[name][:1] for name in ("input_values", "audio_attention_mask", "face_times")}
    faces, motion = torch.randn(1, 20, 64), torch.zeros(1, 16, 64)
    clips = [{**sound, "face_features": states, "motion_features": motion} for states in (faces, faces.flip(1))]
    for fuse in (True, False):
        model = tiny(fuse_aligned=fuse).train()
        first, second = (model.encode_media(**clip) for clip in clips)
        torch.testing.assert_close(first.video, second.video)
        changed = (first.audio[0] - second.audio[0]).abs().max() > 1e-3
        assert changed == fuse


def test_the_fusion_joins_each_step_with_the_picture_at_the_offset_written_out():
    torch.manual_seed(0)
    fusion = AlignedFusion(size=3, text_size=5, tokens=2)
    audio, video = torch.randn(2, 6, 3), torch.randn(2, 6, 3)
    heard, seen = torch.ones(2, 6, dtype=torch.bool), torch.ones(2, 6, dtype=torch.bool)
    heard[0, 4:], seen[1, :2] = False, False
    offset, ends = torch.tensor([1, -2]), torch.tensor([5, 5])
    tokens = fusion(audio, video, heard, seen, offset, ends)
    for clip in range(2):
        parts = [[], []]
        for t in range(6):
            place = t + int(offset[clip])
            if 0 <= place < 6 and heard[clip, t] and seen[clip, place]:
                joined = torch.cat([audio[clip, t], video[clip, place]]) * 3**0.5
                parts[place // 3].append(functional.gelu(fusion.hidden(joined)))
        expected = [sum(part) / len(part) if part else torch.zeros(3) for part in parts]
        torch.testing.assert_close(tokens[clip], fusion.output(torch.stack(expected)))


def test_a_clip_without_anything_to_align_has_the_tokens_of_its_sound_alone():
    model, plain = tiny(), tiny(fuse_aligned=False)
    plain.load_state_dict(model.state_dict(), strict=False)
    batch = contract.ESVACase().batch(model.config, video=(True, False))
    fused, means = (each.encode_media(**batch).audio for each in (model, plain))
    torch.testing.assert_close(fused[1], means[1])
    assert (fused[0] - means[0]).abs().max() > 1e-4


def test_folders_of_0_1_and_emotion_llama_have_means_over_time():
    written = tiny().config.to_dict()
    for name in ESVAConfig.defaults_of_0_1:
        del written[name]
    old = ESVAConfig.from_dict(written)
    assert (old.fuse_aligned, old.contrast_queue_size, old.alignment_training) == (False, 0, "zero")
    assert (ESVAConfig().fuse_aligned, ESVAConfig().contrast_queue_size) == (True, 256)
    assert not hasattr(tiny(**EMOTION_LLAMA).model, "alignment")


def test_a_soft_minimum_is_trained_by_a_search():
    assert ESVAConfig().alignment_training == "zero"
    assert ESVAConfig(alignment_selection="softmin").alignment_training == "search"
    batch = contract.ESVACase().batch(tiny().config)
    losses = [
        tiny(alignment_selection=selection).train().encode_media(**batch).alignment.loss
        for selection in ("argmin", "softmin")
    ]
    assert (losses[0] - losses[1]).abs().max() > 1e-3


def emotional_batch(model, emotions=(0, 0, 1, 1)):
    """Two batches of the contract's clips in one: four clips, so that Eq. 2 has positives and negatives."""
    case = contract.ESVACase()
    first, second = case.batch(model.config, seed=1), case.batch(model.config, seed=2)
    batch = {name: torch.cat([first[name], second[name]]) for name in first}
    return {**batch, "emotion_ids": torch.tensor(emotions)}


def test_the_loss_is_the_weighted_sum_of_its_terms_each_returned():
    model = tiny(emotion_weight=2.0, contrast_weight=0.3, controller="neural")
    batch = emotional_batch(model)
    labels = contract.labels_of(batch, model.config)
    output = model(**batch, labels=labels)
    terms = output.loss_terms
    assert set(terms) == {"emotion", "align", "align_distance", "align_correlation", "contrast", "controller"}
    assert not any(term.requires_grad for term in terms.values())
    plain = functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    torch.testing.assert_close(terms["emotion"], plain)
    torch.testing.assert_close(terms["align"], terms["align_distance"] - terms["align_correlation"])
    total = 2.0 * terms["emotion"] + terms["align"] + 0.3 * terms["contrast"] + terms["controller"]
    torch.testing.assert_close(output.loss.double(), total.double())
    silent = model(**{name: value for name, value in batch.items() if name != "emotion_ids"}, labels=labels)
    assert "contrast" not in silent.loss_terms
    assert model(**batch).loss_terms is None


def test_eq_7_is_a_contrast_weight_of_zero():
    model = tiny(contrast_weight=0.0)
    batch = contract.ESVACase(contrast_weight=0.0).batch(model.config)
    output = model(**batch, labels=contract.labels_of(batch, model.config))
    torch.testing.assert_close(output.loss.double(), output.loss_terms["align"] + output.loss_terms["emotion"].double())


def test_accumulated_batches_weigh_every_term_by_their_share_of_the_tokens():
    model = tiny()
    batch = emotional_batch(model)
    labels = contract.labels_of(batch, model.config)
    whole = model(**batch, labels=labels)
    tokens = (labels != -100).sum()
    twice = model(**batch, labels=labels, num_items_in_batch=2 * tokens)
    torch.testing.assert_close(2 * twice.loss, whole.loss, rtol=1e-5, atol=1e-6)


def test_each_term_falls_when_it_is_trained_and_only_what_trains_moves():
    # A queue that fills would give each step more negatives than the one before.
    model = tiny(contrast_queue_size=0).freeze(("vision_tower", "face_tower", "motion_tower", "audio_tower")).train()
    batch = emotional_batch(model)
    labels = contract.labels_of(batch, model.config)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=2e-3)
    course = []
    for _ in range(15):
        output = model(**batch, labels=labels)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        course.append(output.loss_terms)
    for name in ("emotion", "align", "contrast"):
        assert course[-1][name] < 0.9 * course[0][name], name
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert {name for name in moved if "_tower" in name} == set()
    assert any("alignment" in name for name in moved)
    assert any("msfe" in name for name in moved)


# Other encoders, and parts


def test_another_audio_encoder_takes_huberts_place():
    whisper = WhisperConfig(
        d_model=64,
        encoder_layers=1,
        encoder_attention_heads=4,
        encoder_ffn_dim=64,
        num_mel_bins=80,
        max_source_positions=50,
    )
    model = tiny(audio_config=whisper)
    assert model.config.audio_frame_rate == 50
    batch = contract.ESVACase(audio_config=whisper).batch(model.config)
    del batch["input_values"]
    batch["input_features"] = torch.randn(2, 2, 80, 100)
    batch["audio_attention_mask"] = torch.ones(2, 2, 100, dtype=torch.bool)
    batch["audio_attention_mask"][1, 1] = False
    batch["audio_times"] = torch.tensor([[0, 1000], [0, -1]])
    output = model(**batch, labels=contract.labels_of(batch, model.config))
    assert torch.isfinite(output.loss)
    assert output.alignment.aligned.tolist() == [True, True]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Published layouts at tiny size: EVA for 112 pixels (ours wants 224), MAE with its decoder, VideoMAE, HuBERT."""
    folder = tmp_path_factory.mktemp("parts")
    config = esva_config("tiny", vocab_size=VOCAB)
    torch.manual_seed(1)
    parts = {
        "vision": InstructBlipVisionModel(config.vision_config),
        "face": ViTMAEForPreTraining(type(config.face_config)(**{**config.face_config.to_dict(), "mask_ratio": 0.75})),
        "motion": VideoMAEModel(config.motion_config),
        "audio": HubertModel(HubertConfig(**{**config.audio_config.to_dict(), "mask_time_prob": 0.05})),
        "text": LlamaForCausalLM(config.text_config),
    }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    return parts, {name: str(folder / name) for name in parts}


def test_parts_make_the_model_and_every_tensor_is_accounted_for(checkpoints):
    parts, folders = checkpoints
    tiny_config = esva_config("tiny", vocab_size=VOCAB)
    model = ESVAForConditionalGeneration.from_pretrained_parts(
        **folders, config=tiny_config, image_size=224, msfe_kernel_sizes=[3]
    )
    report = model.parts_report
    inner = model.model
    ids = torch.arange(5)[None]
    torch.testing.assert_close(model(input_ids=ids).logits, parts["text"].eval()(ids).logits)
    sound = torch.randn(1, 8000)
    torch.testing.assert_close(
        inner.audio_tower(sound).last_hidden_state, parts["audio"].eval()(sound).last_hidden_state
    )
    clip = torch.randn(1, 16, 3, 32, 32)
    torch.testing.assert_close(
        inner.motion_tower(clip).last_hidden_state, parts["motion"].eval()(clip).last_hidden_state
    )
    assert torch.equal(inner.face_tower.embeddings.cls_token, parts["face"].vit.embeddings.cls_token)
    assert inner.face_tower.config.mask_ratio == 0.0
    # EVA's 8 x 8 positions become 16 x 16, as its own class would interpolate them.
    pixels = torch.randn(1, 3, 224, 224)
    expected = parts["vision"].eval()
    expected.post_layernorm.eps = 1e-5
    expected = expected(pixels, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(inner.vision_tower(pixels).last_hidden_state, expected, rtol=1e-4, atol=1e-4)
    named = set(report.loaded) | set(report.new)
    assert named == set(model.state_dict())
    assert {name.split(".")[1] for name in report.new} == {
        "video_projector",
        "cls_projector",
        "face_projector",
        "motion_projector",
        "audio_projector",
        "msfe",
        "contrast_head",
        "alignment",
    }
    assert any("interpolated" in note for note in report.notes)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_parts_that_do_not_fit_or_are_none_are_refused(checkpoints):
    _, folders = checkpoints
    with pytest.raises(PartsError, match="no part is given"):
        ESVAForConditionalGeneration.from_pretrained_parts()
    with pytest.raises(PartsError, match="'hubert' checkpoint; accepted for motion is a 'videomae'"):
        ESVAForConditionalGeneration.from_pretrained_parts(motion=folders["audio"])
    with pytest.raises(PartsError, match=r"'no_field' is neither a part .* nor a field of ESVAConfig"):
        ESVAForConditionalGeneration.from_pretrained_parts(text=folders["text"], no_field=1)


def test_parts_not_given_start_at_random_and_finite(checkpoints):
    _, folders = checkpoints
    config = esva_config("tiny", vocab_size=VOCAB)
    model = ESVAForConditionalGeneration.from_pretrained_parts(text=folders["text"], config=config)
    batch = contract.ESVACase().batch(model.config)
    assert torch.isfinite(model(**batch).logits).all()
    assert model.model.face_tower.embeddings.position_embeddings.abs().max() == 1.0


def test_the_package_builds_it_and_the_base_model_loads_alone(tmp_path):
    model, _ = build("esva")
    model.save_pretrained(tmp_path)
    base, report = ESVAModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    batch = contract.ESVACase().batch(model.config)
    del batch["emotion_ids"]
    ids = batch["input_ids"]
    ids[ids == VOCAB], ids[ids == VOCAB + 1] = model.config.video_token_id, model.config.audio_token_id
    torch.testing.assert_close(
        base.eval()(**batch).last_hidden_state, model.model(**batch).last_hidden_state, rtol=1e-5, atol=1e-6
    )
