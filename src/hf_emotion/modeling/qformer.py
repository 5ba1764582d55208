"""Q-Formers over a clip and its utterances (MicroEmo, arXiv 2407.16552, section 3.3; AcoustEmo, section 3, Eqs. 1-3).

Both papers run one Q-Former over the whole clip and one over the frames of every utterance, and hand
`[global; utt_1; ..; utt_N]` to the language model. The peers they build on (Video-LLaMA, TimeChat) loop over clips and
windows and project the frames again for each of them. Here the weights and the numbers are those of
`Blip2QFormerModel`, loadable both ways, and only the necessary work is done:

* keys and values of a frame are projected once per layer and set of weights, for every window that sees it;
* the queries of the first layer have seen no frame yet, so its self-attention runs once for all windows (with dropout,
  in training, once for each, since every window draws its own);
* everything else runs on the windows of the whole batch at once; only the attention core runs per group of windows of
  similar length.

Letters: B clips, T frames, K' tokens a frame, D width of the features, N utterances, K queries, H width of the
Q-Former, W windows (of the whole batch), F frames that at least one window sees.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerMultiHeadAttention, eager_attention_forward

# Windows can share an attention call if the shortest fills at least this part of the longest. On a CPU a call costs
# little and masked padding costs time, so only equal lengths share; on an accelerator every call is a kernel launch,
# and one half limits their number to log2(T) + 1.
LEAST_FILL = {"cpu": 1.0, "accelerator": 0.5}


class WindowError(ValueError):
    """Frames, times and spans that do not fit together."""


def utterance_windows(times: Tensor, spans: Tensor) -> Tensor:
    """The frames of every utterance: `start <= t < end`.

    An utterance that contains no frame (it falls between two, or lies beyond the last) gets the frame nearest to its
    midpoint, the earlier of two equally near, so that every utterance of a clip with frames has one (not specified in
    the paper). Windows can overlap.

    Args:
        times: (B, T) int64 ms, -1 = padded frame.
        spans: (B, N, 2) int64 ms, start and end, -1 = padded utterance.

    Returns:
        (B, N, T) bool. Rows of padded utterances, and of clips without frames, are all False.

    Raises:
        WindowError: `times` or `spans` has another shape, their batch sizes differ, or one has non-integer values.
    """
    if times.dim() != 2 or spans.dim() != 3 or spans.shape[-1] != 2 or times.shape[0] != spans.shape[0]:
        raise WindowError(
            f"times and spans must be (B, T) and (B, N, 2) with the same B; found {tuple(times.shape)} and "
            f"{tuple(spans.shape)}."
        )
    if times.is_floating_point() or spans.is_floating_point():
        raise WindowError(f"times and spans must be integer milliseconds; found {times.dtype} and {spans.dtype}.")
    start, end = spans[..., :1], spans[..., 1:]  # (B, N, 1)
    time = times[:, None]  # (B, 1, T)
    possible = (time >= 0) & (start >= 0)  # (B, N, T)
    inside = possible & (start <= time) & (time < end)
    if not times.shape[1]:
        return inside
    # Twice the distance to the midpoint, to stay in whole milliseconds.
    distance = (2 * time - (start + end)).abs().masked_fill(~possible, torch.iinfo(times.dtype).max)
    nearest = torch.zeros_like(inside).scatter_(-1, distance.argmin(-1, keepdim=True), True) & possible
    return torch.where(inside.any(-1, keepdim=True), inside, nearest)


class PositionTable(nn.Embedding):
    """Learned positions with interpolation, so that a table of 32 works for 96 frames (Video-LLaMA, TimeChat).

    A clip that fits the table reads it by index; a longer one spreads its steps evenly over the table. The table is
    read per clip, never per batch: a clip's positions do not depend on its neighbours.
    """

    def forward(self, mask: Tensor) -> Tensor:
        """mask (B, L) bool, True for real steps, which come first -> (B, L, D)."""
        count = mask.sum(-1, keepdim=True)  # (B, 1)
        last = self.num_embeddings - 1
        step = torch.where(count > self.num_embeddings, last / (count - 1).clamp(min=1), 1.0)
        position = (torch.arange(mask.shape[1], device=mask.device) * step).clamp(max=last)  # (B, L)
        low = position.floor().long()
        share = (position - low).unsqueeze(-1).to(self.weight.dtype)
        high = (low + 1).clamp(max=last)
        return super().forward(low) * (1 - share) + super().forward(high) * share


@dataclass
class WindowGroups:
    """How W windows share F frames and few attention calls; windows are ordered by length.

    Attributes:
        rows: index of the frame at each place of each window (its length padded to the longest of its group), or None
            where that is simply 0 .. F - 1.
        sizes: for each group, the number of windows and of places for frames in each.
        masks: for each group, the mask of its attention call in the form that it takes; None = all places are real.
    """

    rows: Tensor | None
    sizes: list[tuple[int, int]]
    masks: list[Tensor | None]


class FrameSharingCrossAttention(Blip2QFormerMultiHeadAttention):
    """The cross-attention of `Blip2QFormerModel`; with `windows`, many windows attend to one shared set of frames."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        windows: WindowGroups | None = None,
        **kwargs,
    ) -> tuple[Tensor, Tensor | None]:
        """With `windows`, (W, K, H) or, equal for all windows, (1, K, H) attends to (F, K', D) and gives (W, K, H)."""
        if windows is None:
            return super().forward(
                hidden_states, attention_mask, encoder_hidden_states, encoder_attention_mask, **kwargs
            )
        heads = (self.num_attention_heads, self.attention_head_size)
        query = self.query(hidden_states).unflatten(-1, heads).transpose(1, 2)  # (W or 1, heads, K, d)
        key, value = self.key(encoder_hidden_states), self.value(encoder_hidden_states)  # (F, K', H)
        if windows.rows is not None:
            # One gather for all windows: its backward is one addition per frame, where a slice per window would fill
            # a gradient of the whole set each time.
            key, value = key.index_select(0, windows.rows), value.index_select(0, windows.rows)
        counts = [count for count, _ in windows.sizes]
        places = [count * length for count, length in windows.sizes]
        queries = [query] * len(counts) if query.shape[0] == 1 else query.split(counts)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        contexts = []
        for count, q, k, v, mask in zip(
            counts, queries, key.split(places), value.split(places), windows.masks, strict=True
        ):
            context, _ = attend(
                self,
                q.expand(count, -1, -1, -1),
                k.reshape(count, -1, *heads).transpose(1, 2),
                v.reshape(count, -1, *heads).transpose(1, 2),
                mask,
                dropout=self.attention_dropout if self.training else 0.0,
                scaling=self.scaling,
                **kwargs,
            )
            contexts.append(context)
        return torch.cat(contexts).flatten(2), None


class WindowedQFormerModel(Blip2QFormerModel):
    """`Blip2QFormerModel` with the same weights under the same names, whose cross-attention accepts `windows`."""

    def __init__(self, config: Blip2QFormerConfig):
        super().__init__(config)
        for layer in self.encoder.layer:
            if layer.has_cross_attention:
                layer.crossattention.attention = FrameSharingCrossAttention(config, is_cross_attention=True)
        self.post_init()


class QFormer(nn.Module):
    """Learnable queries that read features through a query-only Q-Former (BLIP-2).

    The model that contains this block initialises `query_tokens` in its `_init_weights` with
    `init.normal_(module.query_tokens, std=config.initializer_range)`; zeros through a LayerNorm with eps 1e-12 would
    give gradients near 1e12.
    """

    def __init__(self, config: Blip2QFormerConfig, num_query_tokens: int):
        super().__init__()
        self.query_tokens = nn.Parameter(
            torch.randn(1, num_query_tokens, config.hidden_size) * config.initializer_range
        )
        self.qformer = WindowedQFormerModel(config)

    def forward(self, features: Tensor, mask: Tensor | None = None, windows: WindowGroups | None = None) -> Tensor:
        """Reads one sequence of features per row or, with `windows`, one set of frames for all windows.

        Args:
            features: (B, L, D); with `windows` (F, K', D).
            mask: (B, L) bool, True = real; every row has at least one True. Not used with `windows`.
            windows: which frames each window sees.

        Returns:
            (B, K, H); with `windows` (W, K, H) in the order of the groups.
        """
        if windows is None:
            queries = self.query_tokens.expand(features.shape[0], -1, -1)
        elif self.training and self.has_dropout:
            # Every window must draw its own dropout, as it would alone, so nothing is equal for all windows.
            queries = self.query_tokens.expand(sum(count for count, _ in windows.sizes), -1, -1)
        else:
            queries = self.query_tokens
        return self.qformer(
            query_embeds=queries, encoder_hidden_states=features, encoder_attention_mask=mask, windows=windows
        ).last_hidden_state

    @property
    def has_dropout(self) -> bool:
        """Whether training drops anything at random (the stock config does, at 0.1)."""
        return max(self.qformer.config.hidden_dropout_prob, self.qformer.config.attention_probs_dropout_prob) > 0


def group_windows(
    qformer: QFormer, rows: Tensor, lengths: Tensor, features: Tensor
) -> tuple[Tensor | None, WindowGroups, Tensor]:
    """Plans the attention calls of W windows: windows of similar length share one.

    Args:
        qformer: the Q-Former that will read the windows.
        rows: (sum of lengths,) int64, on the CPU: for each window in turn, its frames as rows of the (B * T) frames.
        lengths: (W,) int64, on the CPU: frames of each window, none of them 0.
        features: (B, T, K', D), for its shape and device.

    Returns:
        the rows that are used (F,), or None for all of them; the groups; and the windows' order in them (W,), on the
        CPU.
    """
    device = features.device
    lengths, order = lengths.sort(descending=True, stable=True)
    least = LEAST_FILL.get(device.type, LEAST_FILL["accelerator"])
    sizes: list[tuple[int, int]] = []
    for length in lengths.tolist():
        if sizes and length >= least * sizes[-1][1]:
            sizes[-1] = (sizes[-1][0] + 1, sizes[-1][1])
        else:
            sizes.append((1, length))

    counts, longest = torch.tensor(sizes).unbind(1)
    padded = longest.repeat_interleave(counts)  # (W,)
    place = torch.arange(int(padded.sum())) - (padded.cumsum(0) - padded).repeat_interleave(padded)
    starts = torch.empty_like(lengths).scatter_(0, order, lengths).cumsum(0)[order] - lengths
    # A place without a frame repeats the last one of its window, which the mask then hides.
    filled = starts.repeat_interleave(padded) + torch.minimum(place, (lengths - 1).repeat_interleave(padded))
    used, stored = rows[filled].unique(return_inverse=True)

    masks, first = [], 0
    for count, length in sizes:
        real = torch.arange(length) < lengths[first : first + count, None]  # (count, length)
        queries = qformer.query_tokens.expand(count, -1, -1)
        mask = None
        if not real.all():
            mask = create_bidirectional_mask(
                config=qformer.qformer.config,
                inputs_embeds=queries,
                attention_mask=real.repeat_interleave(features.shape[2], dim=1).to(device),
                encoder_hidden_states=queries.new_empty(count, length * features.shape[2], 0),
            )
        masks.append(mask)
        first += count
    in_store_order = torch.equal(stored, torch.arange(len(used)))
    groups = WindowGroups(None if in_store_order else stored.to(device), sizes, masks)
    return None if len(used) == features.shape[:2].numel() else used.to(device), groups, order


class UtteranceQFormer(nn.Module):
    """Utterance-aware Q-Former: tokens of the whole clip and of each utterance (MicroEmo 3.3; AcoustEmo Eqs. 2-3).

    The caller adds positions: the papers add them to the frames before this block, counted over the clip. The papers
    mention a second, "parallel" global Q-Former, so the two have separate weights unless `share_weights`.

    Args:
        config: width, layers and heads; `encoder_hidden_size` is D, `cross_attention_frequency=1` the papers' layout.
        num_query_tokens: K, tokens each window yields (both papers: 32).
        use_global: also read the whole clip. Without it a clip that has no utterance is read as one window.
        use_utterances: read the utterances. Without it they are ignored (ablation "w/o utterance-aware").
        share_weights: use one Q-Former, `utterance_qformer`, for both; frames are then projected once for both.

    `global_qformer` is None with `share_weights` or without `use_global`, `utterance_qformer` is None when only the
    global one would ever run: no parameter is left without a gradient.

    Raises:
        WindowError: neither `use_global` nor `use_utterances`.
    """

    def __init__(
        self,
        config: Blip2QFormerConfig,
        num_query_tokens: int,
        use_global: bool = True,
        use_utterances: bool = True,
        share_weights: bool = False,
    ):
        super().__init__()
        if not (use_global or use_utterances):
            raise WindowError("use_global and use_utterances are both False; at least one of them must be True.")
        self.num_query_tokens = num_query_tokens
        self.encoder_hidden_size = config.encoder_hidden_size
        self.use_global = use_global
        self.use_utterances = use_utterances
        separate = use_global and not share_weights
        self.utterance_qformer = QFormer(config, num_query_tokens) if use_utterances or not separate else None
        self.global_qformer = QFormer(config, num_query_tokens) if separate else None

    def forward(self, features: Tensor, times: Tensor, spans: Tensor | None = None) -> tuple[Tensor, list[int]]:
        """Reads all windows of all clips.

        In training every parameter gets a gradient, whatever the batch contains (zero where it was not used), so that
        data-parallel ranks with different batches wait for the same gradients.

        Args:
            features: (B, T, K', D), positions added; padded frames are ignored.
            times: (B, T) int64 ms, -1 = padded frame.
            spans: (B, N, 2) int64 ms, -1 = padded utterance; None = no utterances.

        Returns:
            tokens (sum of n_b * K, H), clip by clip `[global; utt_1; ..; utt_N]`, and n_b * K of each clip, where n_b
            is its number of windows; 0 for a clip without frames.

        Raises:
            WindowError: features, times and spans disagree in shape, or D is not `config.encoder_hidden_size`.
        """
        if features.dim() != 4 or features.shape[:2] != times.shape or features.shape[-1] != self.encoder_hidden_size:
            raise WindowError(
                f"features must be (B, T, K', {self.encoder_hidden_size}) for times (B, T); found features "
                f"{tuple(features.shape)} and times {tuple(times.shape)}."
            )
        windows = self.windows(times, spans)  # (B, 1 + N, T)
        if self.utterance_qformer is None or self.global_qformer is None:
            passes = [(self.utterance_qformer or self.global_qformer, windows, 0)]
        else:
            passes = [(self.global_qformer, windows[:, :1], 0), (self.utterance_qformer, windows[:, 1:], 1)]

        frames = features.flatten(0, 1)  # (B * T, K', D)
        read, places, idle = [], [], 0.0
        for qformer, part, first in passes:
            clip, slot, frame = part.nonzero(as_tuple=True)
            if len(frame):
                window, lengths = (clip * windows.shape[1] + slot + first).unique_consecutive(return_counts=True)
                used, groups, order = group_windows(qformer, clip * windows.shape[2] + frame, lengths, features)
                read.append(qformer(frames if used is None else frames.index_select(0, used), windows=groups))
                places.append(window[order])
            elif self.training:
                # A blank frame with zero weight gives a gradient to the unused Q-Former and to the features' source.
                blank = features.new_zeros(1, *features.shape[2:]) + features[:0].sum()
                idle = idle + 0.0 * qformer(blank).sum()
        if read:
            tokens = torch.cat(read).index_select(0, torch.cat(places).argsort().to(features.device))
        else:
            tokens = qformer.query_tokens[:0]
        counts = windows.any(-1).sum(-1) * self.num_query_tokens
        return tokens.flatten(0, 1) + idle, counts.tolist()

    def windows(self, times: Tensor, spans: Tensor | None) -> Tensor:
        """(B, 1 + N, T) bool on the CPU, where attention calls are planned: the whole clip, then its utterances.

        Rows that are not read (padded, switched off, in a clip without frames) are all False.
        """
        times = times.cpu()
        if spans is None or not self.use_utterances:
            spans = times.new_empty(times.shape[0], 0, 2)
        utterances = utterance_windows(times, spans.cpu())
        whole = (times >= 0)[:, None]
        if not self.use_global:
            whole = whole & ~utterances.flatten(1).any(-1)[:, None, None]
        return torch.cat([whole, utterances], dim=1)
