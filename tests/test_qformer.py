"""UtteranceQFormer against its slow plain twin: a loop over clips and windows through the stock Blip2QFormerModel."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel, PreTrainedModel
from transformers import initialization as init

from hf_emotion.modeling import qformer as qformer_module
from hf_emotion.modeling.qformer import QFormer, UtteranceQFormer, WindowError, utterance_windows

K, TOKENS, WIDTH, HIDDEN = 5, 3, 24, 32


def small_config(**changes) -> Blip2QFormerConfig:
    values = {
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "encoder_hidden_size": WIDTH,
        "cross_attention_frequency": 1,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        # The stock 0.02 leaves tiny models nearly linear, and wrong windows nearly right.
        "initializer_range": 0.3,
    }
    return Blip2QFormerConfig(**{**values, **changes})


def build(**arguments) -> UtteranceQFormer:
    config = small_config(**arguments.pop("config", {}))
    torch.manual_seed(0)
    return UtteranceQFormer(config, K, **arguments).eval()


def ragged_batch(seed: int, clips: int = 4, frames: int = 9, utterances: int = 6):
    """Clips of unlike length, padded anywhere, one without frames; utterances overlap, or miss all frames."""
    random = torch.Generator().manual_seed(seed)
    times = torch.randint(1, 900, (clips, frames), generator=random).cumsum(1)
    times[torch.rand(clips, frames, generator=random) < 0.3] = -1
    times[seed % clips] = -1
    start = torch.randint(0, 5000, (clips, utterances), generator=random)
    length = torch.rand(clips, utterances, generator=random).pow(3).mul(4000).long()
    spans = torch.stack([start, start + length], -1)
    spans[torch.rand(clips, utterances, generator=random) < 0.3] = -1
    spans[(seed + 1) % clips] = -1
    features = torch.randn(clips, frames, TOKENS, WIDTH, generator=random)
    return features, times, spans


def stock(qformer: QFormer) -> tuple[Blip2QFormerModel, nn.Parameter]:
    model = Blip2QFormerModel(qformer.qformer.config).to(qformer.query_tokens.dtype)
    model.load_state_dict(qformer.qformer.state_dict())
    return model.eval(), nn.Parameter(qformer.query_tokens.detach().clone())


class PlainTwin:
    """One clip and one window at a time, on the sliced frames, in Python integers."""

    def __init__(self, model: UtteranceQFormer):
        self.model = model
        self.utterance = stock(model.utterance_qformer) if model.utterance_qformer is not None else None
        self.whole = stock(model.global_qformer) if model.global_qformer is not None else self.utterance
        self.utterance = self.utterance or self.whole

    @staticmethod
    def read(part, frames):
        qformer, queries = part
        return qformer(query_embeds=queries, encoder_hidden_states=frames.reshape(1, -1, WIDTH)).last_hidden_state[0]

    def __call__(self, features, times, spans):
        tokens, counts = [], []
        for clip, clip_times in enumerate(times.tolist()):
            real = [t for t, time in enumerate(clip_times) if time >= 0]
            windows = []
            for start, end in spans[clip].tolist() if self.model.use_utterances and spans is not None else []:
                if start < 0 or not real:
                    continue
                inside = [t for t in real if start <= clip_times[t] < end]
                windows.append(inside or [min(real, key=lambda t: (abs(clip_times[t] - (start + end) / 2), t))])
            read = [self.read(self.utterance, features[clip, window]) for window in windows]
            if real and (self.model.use_global or not windows):
                read.insert(0, self.read(self.whole, features[clip, real]))
            tokens += read
            counts.append(len(read) * K)
        return torch.cat(tokens) if tokens else features.new_zeros(0, HIDDEN), counts

    def gradients(self) -> dict[str, torch.Tensor]:
        gradients = {}
        for name, (qformer, queries) in {"utterance_qformer": self.utterance, "global_qformer": self.whole}.items():
            gradients[f"{name}.query_tokens"] = queries.grad
            gradients |= {f"{name}.qformer.{key}": value.grad for key, value in qformer.named_parameters()}
        return gradients


def scalar(tokens: torch.Tensor) -> torch.Tensor:
    """A loss with a gradient everywhere; the sum of squares is constant behind the last layer norm."""
    return (tokens * torch.randn(tokens.shape, generator=torch.Generator().manual_seed(1)).to(tokens.dtype)).sum()


def assert_equals_twin(model, features, times, spans, dtype=torch.float64):
    """In float64, where the order of sums leaves 1e-9 and nothing else can hide; in float32 to the rounding there."""
    close = {"atol": 1e-9, "rtol": 1e-7} if dtype == torch.float64 else {"atol": 1e-5, "rtol": 1e-5}
    model = model.to(dtype)
    model.zero_grad()
    twin = PlainTwin(model)
    ours, theirs = (features.to(dtype, copy=True).requires_grad_() for _ in range(2))
    tokens, counts = model(ours, times, spans)
    expected, expected_counts = twin(theirs, times, spans)
    assert counts == expected_counts
    assert tokens.shape == (sum(counts), HIDDEN)
    torch.testing.assert_close(tokens, expected, **close)

    scalar(tokens).backward()
    scalar(expected).backward()
    gradients = {"features": (ours.grad, theirs.grad)}
    for name, gradient in twin.gradients().items():
        if name in (named := dict(model.named_parameters())):
            gradients[name] = (named[name].grad, gradient)
    assert len(gradients) == 1 + len(list(model.parameters()))
    for name, (gradient, theirs) in gradients.items():
        assert (gradient is None) == (theirs is None), name
        if theirs is not None:
            # Sums over many windows: what float32 rounds away grows with the largest entry; a key's bias, whose exact
            # gradient is zero, shows nothing but that rounding, and it depends on the number of threads.
            scale = max(1.0, theirs.abs().max().item()) * (1.0 if dtype == torch.float64 else 5.0)
            torch.testing.assert_close(gradient / scale, theirs / scale, **close, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("seed", range(8))
def test_all_windows_in_one_call_equal_the_loop_in_outputs_and_gradients(seed):
    assert_equals_twin(build(), *ragged_batch(seed))


@pytest.mark.parametrize("seed", range(3))
def test_all_windows_in_one_call_equal_the_loop_in_float32(seed):
    assert_equals_twin(build(share_weights=seed == 1), *ragged_batch(seed), dtype=torch.float32)


@pytest.mark.parametrize(
    "arguments",
    [
        {"share_weights": True},
        {"use_global": False},
        {"use_global": False, "share_weights": True},
        {"use_utterances": False},
        {"use_utterances": False, "share_weights": True},
        {"config": {"num_hidden_layers": 3, "cross_attention_frequency": 2}},
        {"config": {"num_hidden_layers": 1}},
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [2, 5])
def test_every_option_equals_the_loop(arguments, seed):
    assert_equals_twin(build(**arguments), *ragged_batch(seed))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("seed", range(4))
def test_windows_padded_to_share_a_call_equal_the_loop(monkeypatch, attention, seed):
    """The accelerator's rule, run here: masks inside a group."""
    monkeypatch.setitem(qformer_module.LEAST_FILL, "cpu", qformer_module.LEAST_FILL["accelerator"])
    model = build(share_weights=True)
    model.utterance_qformer.qformer.set_attn_implementation(attention)
    assert_equals_twin(model, *ragged_batch(seed, clips=5, frames=17))


def test_an_accelerator_needs_few_attention_calls_and_a_cpu_pads_nothing(monkeypatch):
    model, lengths = build(), torch.randint(1, 500, (200,))
    rows = torch.cat([torch.arange(length) for length in lengths.tolist()])
    features = torch.zeros(1, 500, 1, WIDTH)
    _, groups, order = qformer_module.group_windows(model.utterance_qformer, rows, lengths, features)
    assert [mask for mask in groups.masks if mask is not None] == []
    assert torch.cat([torch.full((count,), length) for count, length in groups.sizes]).equal(lengths[order])

    monkeypatch.setitem(qformer_module.LEAST_FILL, "cpu", qformer_module.LEAST_FILL["accelerator"])
    _, groups, _ = qformer_module.group_windows(model.utterance_qformer, rows, lengths, features)
    assert len(groups.sizes) <= 9
    assert sum(count for count, _ in groups.sizes) == 200
    assert sum(count * length for count, length in groups.sizes) <= 2 * lengths.sum()
    assert all(later[1] < 0.5 * earlier[1] for earlier, later in pairwise(groups.sizes))


def test_eager_equals_sdpa():
    tokens = {}
    for attention in ("eager", "sdpa"):
        model = build()
        for part in (model.utterance_qformer, model.global_qformer):
            part.qformer.set_attn_implementation(attention)
            assert part.qformer.config._attn_implementation == attention
        tokens[attention] = model(*ragged_batch(3))[0]
    torch.testing.assert_close(tokens["eager"], tokens["sdpa"], atol=1e-5, rtol=1e-5)


def test_the_attention_named_by_the_config_is_the_one_that_runs(monkeypatch):
    model, calls = build(), []
    for part in (model.utterance_qformer, model.global_qformer):
        part.qformer.set_attn_implementation("eager")
    plain = qformer_module.eager_attention_forward
    monkeypatch.setattr(qformer_module, "eager_attention_forward", lambda *a, **k: calls.append(a) or plain(*a, **k))
    model(*ragged_batch(3))
    assert calls


def test_keys_and_values_of_a_frame_are_projected_once_and_the_first_self_attention_runs_once():
    model = build(share_weights=True)
    features, times, spans = ragged_batch(4)
    windows = int(utterance_windows(times, spans).any(-1).sum()) + int((times >= 0).any(-1).sum())
    sizes = {}
    layers = model.utterance_qformer.qformer.encoder.layer
    for number, layer in enumerate(layers):
        cross = layer.crossattention.attention
        for name, part in {
            "self": layer.attention,
            "query": cross.query,
            "key": cross.key,
            "value": cross.value,
        }.items():
            part.register_forward_hook(
                lambda _, args, kwargs, __, at=(number, name): sizes.setdefault(at, []).append(
                    (*args, *kwargs.values())[0].shape[0]
                ),
                with_kwargs=True,
            )
    model(features, times, spans)
    frames = int((times >= 0).sum())
    for number in range(len(layers)):
        assert sizes[number, "key"] == sizes[number, "value"] == [frames]
        assert sizes[number, "self"] == sizes[number, "query"] == [1 if number == 0 else windows]


def test_only_frames_that_an_utterance_sees_are_projected_for_utterances():
    model, rows = build(use_global=False), []
    model.utterance_qformer.qformer.encoder.layer[0].crossattention.attention.key.register_forward_hook(
        lambda _, args, __: rows.append(args[0].shape[0])
    )
    times = torch.arange(8)[None] * 1000
    model(torch.randn(1, 8, TOKENS, WIDTH), times, torch.tensor([[[1000, 3000], [2000, 4000]]]))
    assert rows == [3]


@pytest.mark.parametrize("arguments", [{}, {"share_weights": True}, {"use_global": False}], ids=str)
def test_a_batch_without_utterances_reads_each_whole_clip(arguments):
    model = build(**arguments)
    features, times, _ = ragged_batch(0)
    none = torch.full((4, 2, 2), -1)
    tokens, counts = model(features, times)
    assert counts == [0, K, K, K]
    torch.testing.assert_close(tokens, model(features, times, none[:, :0])[0])
    torch.testing.assert_close(tokens, model(features, times, none)[0])
    assert_equals_twin(model, features, times, none)
    assert_equals_twin(model, features, times, none[:, :0])


def test_a_batch_without_frames_gives_no_tokens():
    features, times, spans = ragged_batch(0)
    for model in (build(), build(share_weights=True), build(use_global=False)):
        tokens, counts = model(features, torch.full_like(times, -1), spans)
        assert tokens.shape == (0, HIDDEN)
        assert counts == [0, 0, 0, 0]
        tokens, counts = model(features[:, :0], times[:, :0], spans)
        assert tokens.shape == (0, HIDDEN)
        assert counts == [0, 0, 0, 0]


@pytest.mark.parametrize("with_frames", [True, False])
@pytest.mark.parametrize(
    "arguments", [{}, {"share_weights": True}, {"use_global": False}, {"use_utterances": False}], ids=str
)
def test_in_training_every_parameter_gets_a_gradient_whatever_the_batch_holds(arguments, with_frames):
    model = build(**arguments).train()
    features, times, _ = ragged_batch(0)
    features.requires_grad_()
    times = times if with_frames else torch.full_like(times, -1)
    expected, _ = model.eval()(features, times)
    tokens, _ = model.train()(features, times)
    torch.testing.assert_close(tokens, expected)
    scalar(tokens).backward()
    assert features.grad is not None
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        idle = not with_frames or (not arguments and name.startswith("utterance_qformer."))
        # A key's bias shifts all scores of a query alike, and softmax does not see it.
        if idle or not name.endswith("key.bias"):
            assert (float(parameter.grad.abs().max()) > 1e-3) is not idle, name


def test_an_utterance_takes_the_frames_from_its_start_up_to_before_its_end():
    times = torch.tensor([[0, 1000, 2000, 3000]])
    assert utterance_windows(times, torch.tensor([[[1000, 3000]]])).tolist() == [[[False, True, True, False]]]


@pytest.mark.parametrize(
    ("span", "frame"),
    [((1100, 1300), 1), ((1600, 1900), 2), ((1000, 1000), 1), ((1400, 1600), 1), ((3100, 9000), 3), ((9000, 9500), 3)],
)
def test_an_utterance_between_two_frames_keeps_its_nearest_frame(span, frame):
    times = torch.tensor([[0, 1000, 2000, 3000, -1]])
    window = utterance_windows(times, torch.tensor([[span]]))[0, 0]
    assert window.nonzero().flatten().tolist() == [frame]


def test_padded_frames_padded_utterances_and_clips_without_frames_have_no_window():
    times = torch.tensor([[-1, 0, 500], [-1, -1, -1]])
    spans = torch.tensor([[[0, 900], [-1, -1]], [[0, 900], [-1, -1]]])
    expected = [[[False, True, True], [False] * 3], [[False] * 3, [False] * 3]]
    assert utterance_windows(times, spans).tolist() == expected


def test_padding_changes_nothing():
    model = build()
    features, times, spans = ragged_batch(1)
    expected, counts = model(features, times, spans)
    wide_features = torch.full((4, 13, TOKENS, WIDTH), torch.nan)
    wide_features[:, 2:11] = features.masked_fill((times < 0)[..., None, None], torch.nan)
    wide_times = nn.functional.pad(times, (2, 2), value=-1)
    wide_spans = nn.functional.pad(spans, (0, 0, 1, 2), value=-1)
    tokens, wide_counts = model(wide_features, wide_times, wide_spans)
    assert wide_counts == counts
    torch.testing.assert_close(tokens, expected)


def test_a_batch_equals_its_clips_one_by_one():
    model = build()
    features, times, spans = ragged_batch(6)
    tokens, counts = model(features, times, spans)
    singles = [model(features[b : b + 1], times[b : b + 1], spans[b : b + 1]) for b in range(4)]
    assert counts == [single[1][0] for single in singles]
    torch.testing.assert_close(tokens, torch.cat([single[0] for single in singles]), atol=1e-5, rtol=1e-5)


def test_bfloat16_stays_near_float32_and_takes_features_of_another_type():
    features, times, spans = ragged_batch(1)
    expected, counts = build()(features, times, spans)
    model = build().bfloat16()
    for given in (features, features.bfloat16()):
        tokens, half_counts = model(given, times, spans)
        assert tokens.dtype == torch.bfloat16
        assert half_counts == counts
        assert (tokens.float() - expected).abs().mean() < 0.03
    scalar(tokens.float()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_weights_load_both_ways_from_and_to_the_stock_model():
    model = build()
    source = Blip2QFormerModel(small_config())
    for part in (model.utterance_qformer, model.global_qformer):
        assert isinstance(part.qformer, Blip2QFormerModel)
        part.qformer.load_state_dict(source.state_dict(), strict=True)
        back = Blip2QFormerModel(small_config())
        back.load_state_dict(part.qformer.state_dict(), strict=True)
        for (name, ours), (other, theirs) in zip(back.state_dict().items(), source.state_dict().items(), strict=True):
            assert name == other
            assert torch.equal(ours, theirs)


def test_a_plain_qformer_equals_the_stock_model_with_and_without_a_mask():
    torch.manual_seed(0)
    qformer = QFormer(small_config(), K).eval()
    model, queries = stock(qformer)
    features = torch.randn(2, 7, WIDTH)
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    expected = [
        model(query_embeds=queries, encoder_hidden_states=features[row : row + 1, :length]).last_hidden_state
        for row, length in enumerate([7, 4])
    ]
    torch.testing.assert_close(qformer(features, mask), torch.cat(expected), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(qformer(features[:1]), expected[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(reentrant):
    features, times, spans = ragged_batch(2)
    gradients = []
    for checkpointing in (False, True):
        model = build().train()
        if checkpointing:
            for part in (model.utterance_qformer.qformer, model.global_qformer.qformer):
                part.activation_checkpointing_enable({"use_reentrant": reentrant})
                assert part.encoder.layer[0].gradient_checkpointing
        given = features.clone().requires_grad_()
        scalar(model(given, times, spans)[0]).backward()
        gradients.append([given.grad, *(p.grad for p in model.parameters())])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


@pytest.mark.parametrize("kind", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_every_window_draws_its_own_dropout_in_training_and_none_in_evaluation(kind):
    model = build(use_global=False, config={kind: 0.5})
    features, times = torch.randn(1, 4, TOKENS, WIDTH), torch.arange(4)[None] * 1000
    same = torch.tensor([[[0, 3000], [0, 3000]]])
    first, second = model(features, times, same)[0].split(K)
    torch.testing.assert_close(first, second)
    first, second = model.train()(features, times, same)[0].split(K)
    assert not torch.isclose(first, second).any(-1).all()

    # The mean of what dropout leaves before any layer norm is the input; here only the first self-attention's draw.
    rows = []
    layer = model.utterance_qformer.qformer.encoder.layer[0]
    layer.attention.register_forward_hook(lambda _, __, output: rows.append(output))
    model(features, times, same)
    assert rows[0].shape[0] == 2
    assert not torch.equal(rows[0][0], rows[0][1])


class Holder(PreTrainedModel):
    """The least model that owns the block, as the trunk does."""

    config: Blip2QFormerConfig
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config):
        super().__init__(config)
        self.video_qformer = UtteranceQFormer(config, K)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, QFormer):
            init.normal_(module.query_tokens, std=self.config.initializer_range)


def test_a_model_that_owns_the_block_saves_loads_and_fills_what_is_missing(tmp_path):
    model = Holder(small_config()).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            assert 0.2 < parameter.std() < 0.4, name
    model.save_pretrained(tmp_path)
    loaded, info = Holder.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    batch = ragged_batch(1)
    assert torch.equal(loaded.video_qformer(*batch)[0], model.video_qformer(*batch)[0])

    empty = Holder.from_pretrained(None, config=small_config(), state_dict={})
    assert all(p.isfinite().all() for p in empty.parameters())
    assert 0.2 < empty.video_qformer.utterance_qformer.query_tokens.std() < 0.4
    with torch.device("meta"):
        assert UtteranceQFormer(small_config(), K).utterance_qformer.query_tokens.is_meta


def test_a_model_that_owns_the_block_switches_its_attention_and_its_checkpointing():
    model = Holder(small_config())
    model.set_attn_implementation("eager")
    assert model.video_qformer.utterance_qformer.qformer.config._attn_implementation == "eager"
    model.set_attn_implementation("sdpa")
    assert model.video_qformer.global_qformer.qformer.config._attn_implementation == "sdpa"
    model.activation_checkpointing_enable()
    assert all(layer.gradient_checkpointing for layer in model.video_qformer.global_qformer.qformer.encoder.layer)


def test_no_parameter_is_built_that_no_clip_could_use():
    assert build().global_qformer is not None
    assert build(share_weights=True).global_qformer is None
    assert build(use_global=False).global_qformer is None
    assert build(use_utterances=False).utterance_qformer is None
    assert build(use_utterances=False, share_weights=True).utterance_qformer is not None


def test_wrong_shapes_and_options_are_named_with_what_was_found():
    model = build()
    features, times, spans = ragged_batch(0)
    with pytest.raises(WindowError, match=r"\(B, T, K', 24\).*found features \(4, 9, 3, 12\) and times \(4, 9\)"):
        model(features[..., :12], times, spans)
    with pytest.raises(WindowError, match=r"times \(4, 5\)"):
        model(features, times[:, :5], spans)
    with pytest.raises(WindowError, match=r"\(B, N, 2\).*\(4, 9\) and \(3, 6, 2\)"):
        model(features, times, spans[:3])
    with pytest.raises(WindowError, match=r"integer milliseconds; found torch.float32 and torch.int64"):
        model(features, times / 1000, spans)
    with pytest.raises(WindowError, match="both False"):
        build(use_global=False, use_utterances=False)
