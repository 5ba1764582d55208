"""Audio-video alignment of ESVA: one time grid for both streams, the offset search of Eqs. 4-9, and its controllers.

A clip's offset tau means that its sound at time t matches its picture at t + tau (Eqs. 4 and 5). For windows W_i of a
fixed length and all offsets of a range,

    D^i(tau) = ||F_A^i - F_V^i(. + tau)||                 Eq. 4, root mean square over the frames of the window
    C(tau)   = sum_t F_A(t) . F_V(t + tau)                Eq. 5, over the overlap, divided by both norms there
    L(tau)   = alpha mean_i D^i(tau) - beta C(tau)        Eq. 8
    tau*     = argmin_tau L(tau)                          Eq. 9; Eq. 6 is alpha = 0

Everything is computed from four sums over each window: of products, of each stream's squares, and of frames. The sums
of products are the expensive part; `FORMS` has two implementations that give the same numbers.

Letters: B batch, G steps of the grid, E width, N windows, O offsets.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers.utils import ModelOutput

# Bounds of the controlled gains, as multiples of alpha and beta, and how far one step can move them (natural
# logarithm). Not specified in the paper.
GAIN_RANGE = (0.1, 10.0)
GAIN_STEP = 0.5
# Added under the square root of the distance, whose slope at zero is infinite.
SMALLEST = 1e-12
# Minimum share of a stream's power that must vary in time; below it the stream counts as constant.
STILL = 1e-6


@dataclass
class AlignmentOutput(ModelOutput):
    """Result of the alignment of a batch. A clip that cannot be aligned has offset and losses of zero.

    Args:
        offset: (B,) int64 ms, tau*: the sound at t matches the picture at t + tau*. Zero while training on clips that
            are assumed to be synchronous (`training_offset="zero"`).
        aligned: (B,) bool, whether both streams are present and overlap enough at some offset.
        loss: (B,), L_align at that offset (Eq. 8), with its gradient; with `selection="softmin"` its soft minimum.
        distance, correlation: (B,), D and C at that offset.
        offsets: (O,) int64 ms, the range searched.
        losses, distances, correlations: (B, O), L, D and C over that range; infinite, infinite and minus infinite at
            offsets that are not searched because the overlap is too short.
        window_offsets: (B, N) int64 ms, the offset that fits each window best ("local optimal", Eq. 4).
        windows: (B, N) bool, the windows that have both sound and picture.
        gains: (B, N, 2), alpha and beta of each window as set by a controller; `None` without one.
        controller_loss: (), the neural controller's error in predicting the drift; `None` for others.
        fused: (B, tokens, H), what `AlignedFusion` adds to the sound's tokens; `None` without it.
    """

    offset: torch.Tensor | None = None
    aligned: torch.Tensor | None = None
    loss: torch.Tensor | None = None
    distance: torch.Tensor | None = None
    correlation: torch.Tensor | None = None
    offsets: torch.Tensor | None = None
    losses: torch.Tensor | None = None
    distances: torch.Tensor | None = None
    correlations: torch.Tensor | None = None
    window_offsets: torch.Tensor | None = None
    windows: torch.Tensor | None = None
    gains: torch.Tensor | None = None
    controller_loss: torch.Tensor | None = None
    fused: torch.Tensor | None = None


# One time grid


def resample(states, times, grid):
    """Linear interpolation in time; before the first and after the last step the nearest one is used.

    Args:
        states: (B, L, D).
        times: (B, L), ascending, -1 where padded; padding comes last.
        grid: (G,), in the same unit.

    Returns:
        (B, G, D), zero for a row without steps.
    """
    count = (times >= 0).sum(-1, keepdim=True)  # (B, 1)
    ahead = times.masked_fill(times < 0, torch.iinfo(times.dtype).max).contiguous()
    after = torch.searchsorted(ahead, grid.to(times.dtype).expand(len(times), -1).contiguous(), right=True)
    low = (after - 1).clamp(min=0)
    high = torch.minimum(after, (count - 1).clamp(min=0))
    start, end = times.gather(1, low), times.gather(1, high)
    share = ((grid - start) / (end - start).clamp(min=1)).clamp(0, 1).unsqueeze(-1).to(states.dtype)
    width = states.shape[-1]
    first, second = (states.gather(1, at.unsqueeze(-1).expand(-1, -1, width)) for at in (low, high))
    return (first * (1 - share) + second * share) * (count > 0).unsqueeze(-1)


def covers(times, grid):
    """Which steps of the grid (G,) lie between the first and last of times (B, L), -1 where padded -> (B, G)."""
    real = times >= 0
    first = times.masked_fill(~real, torch.iinfo(times.dtype).max).amin(-1, keepdim=True)
    return (grid >= first) & (grid <= times.amax(-1, keepdim=True))


def standardise(states, mask):
    """Centre over time and scale to a mean square length of 1, so that D and C cannot improve by scaling the features.

    Args:
        states: (B, G, E).
        mask: (B, G) bool.

    Returns:
        (B, G, E), zero where masked; a stream that does not change in time, apart from rounding, is zero throughout.
    """
    mask = mask.unsqueeze(-1).to(states.dtype)
    count = mask.sum(1, keepdim=True).clamp(min=1)
    whole = (states * mask).square().sum((1, 2), keepdim=True) / count
    states = (states - (states * mask).sum(1, keepdim=True) / count) * mask
    power = states.square().sum((1, 2), keepdim=True) / count
    return states * (power + SMALLEST).rsqrt() * (power > STILL * whole)


# The four sums of each window, at each offset


def banded_products(audio, video, max_offset, window):
    """Sums of products by one matrix product per window, over the band of video steps within its range of offsets.

    Args:
        audio, video: (B, G, E), zero outside the stream.
        max_offset: steps; offsets from -max_offset to max_offset are taken.
        window: steps.

    Returns:
        (B, N, O), the sum over t in window i of audio(t) . video(t + tau).
    """
    steps, band = audio.shape[1], window + 2 * max_offset
    windows = -(-steps // window)
    rest = windows * window - steps
    audio = functional.pad(audio, (0, 0, 0, rest)).unflatten(1, (windows, window))
    video = functional.pad(video, (0, 0, max_offset, max_offset + rest)).unfold(1, band, window)  # (B, N, E, band)
    return sum_diagonals((audio @ video).flatten(2), window, band)[..., : 2 * max_offset + 1]


def sum_diagonals(products, rows, columns):
    """(B, N, rows * columns) -> (B, N, columns + 1): sum over rows r of element (r, r + o), where it exists.

    With rows longer by one column, each row is shifted against the one before it, so that diagonals become columns.
    """
    return functional.pad(products, (0, rows)).unflatten(2, (rows, columns + 1)).sum(2)


def fft_products(audio, video, max_offset, window):
    """Sums of products by Fourier transforms of blocks of one window, with one matrix product of the spectra per
    frequency; see `banded_products`.

    The cost does not depend on the range. With a window longer than the streams this is the plain correlation by FFT.
    """
    steps = audio.shape[1]
    windows = -(-steps // window)
    audio = functional.pad(audio, (0, 0, 0, windows * window - steps)).unflatten(1, (windows, window))
    # Blocks of twice the window, one window apart, from one window before the start.
    video = functional.pad(video, (0, 0, window, (windows + 1) * window - steps)).unfold(1, 2 * window, window)
    sound = torch.fft.rfft(audio, 2 * window, dim=2).conj().permute(0, 2, 1, 3)  # (B, frequencies, N, E)
    picture = torch.fft.rfft(video, dim=3).permute(0, 3, 2, 1)  # (B, frequencies, E, N + 1)
    spectra = (sound @ picture).permute(0, 2, 3, 1)
    lags = torch.fft.irfft(spectra, 2 * window, dim=-1)[..., :window].flatten(2)  # (B, N, (N + 1) * window)
    # Window i and block j are at offsets from (j - 1 - i) * window on: each row starts one window before the row above,
    # so rows shorter than the range by one window, laid end to end, land in the right places.
    columns = 2 * windows * window
    rows = lags.new_zeros(len(lags), windows, columns)
    strides = (rows.stride(0), columns - window, 1)
    rows.as_strided(lags.shape, strides, (windows - 1) * window).copy_(lags)
    spare = windows * window - max_offset
    if spare > 0:
        return rows[..., spare : spare + 2 * max_offset + 1]
    return functional.pad(rows, (-spare, 1 - spare))


FORMS = {"banded": banded_products, "fft": fft_products}


def fastest_form(steps, max_offset, window):
    """The name of the form that is fastest for a range of offsets, from the number of multiplications of each.

    A band costs window + 2 max_offset products per step; a transform costs, per step, one product of complex numbers
    with every block, and a fixed cost equal to `FIXED_BLOCKS` more blocks.
    """
    blocks = math.ceil(steps / window) + FIXED_BLOCKS
    return "banded" if window + 2 * max_offset <= COMPLEX_COST * blocks else "fft"


# Number of band products that cost as much as one complex product: `benchmarks/esva_offset.py` measures both forms.
COMPLEX_COST = 6
FIXED_BLOCKS = 10


@dataclass
class WindowSums:
    """Sums over the frames of each window that have sound and, at an offset, picture. All (B, N, O).

    Args:
        products: sum of audio(t) . video(t + tau).
        audio, video: sum of the squared lengths of audio(t), and of video(t + tau).
        frames: number of frames.
    """

    products: torch.Tensor
    audio: torch.Tensor
    video: torch.Tensor
    frames: torch.Tensor

    def distances(self):
        """D^i(tau) (B, N, O): root mean square of the difference; zero where a window has no frame."""
        # In place: over a whole range most time is spent on allocating memory, not on arithmetic.
        square = (self.audio + self.video).sub_(self.products, alpha=2).div_(self.frames.clamp(min=1))
        return square.clamp_(min=SMALLEST).sqrt_().masked_fill(self.frames == 0, 0.0)

    def mean(self, values):
        """Mean over the windows with overlap, of values that are zero in the others: (B, N, O) -> (B, O)."""
        return values.sum(1) / self.frames.bool().sum(1).clamp(min=1)

    def distance(self, weight=None):
        """D_local(tau) (B, O), each window times its `weight`, (B, N, 1) or one number; `None`: equal weights."""
        return self.mean(self.distances() if weight is None else self.distances() * weight)

    def correlation(self):
        """C(tau) (B, O), in [-1, 1]."""
        return self.products.sum(1) / (self.audio.sum(1) * self.video.sum(1) + SMALLEST).sqrt()


def span(mask):
    """First step, and the step after the last one, of a contiguous mask (B, G) -> two (B, 1, 1)."""
    count = mask.sum(-1)
    first = mask.int().argmax(-1)
    return first[:, None, None], (first + count)[:, None, None]


def window_sums(audio, video, audio_mask, video_mask, max_offset, window, form=None):
    """The four sums at every offset of a range.

    Args:
        audio, video: (B, G, E), zero where masked.
        audio_mask, video_mask: (B, G) bool, contiguous.
        max_offset, window: steps.
        form: a name in `FORMS`; `None` takes the fastest for the range.
    """
    steps = audio.shape[1]
    products = FORMS[form or fastest_form(steps, max_offset, window)](audio, video, max_offset, window)
    windows = products.shape[1]
    offsets = torch.arange(-max_offset, max_offset + 1, device=audio.device)
    audio_span, video_span = span(audio_mask), span(video_mask)
    begin = torch.arange(windows, device=audio.device)[None, :, None] * window
    start = torch.maximum(begin, audio_span[0])  # (B, N, 1)
    end = torch.maximum(torch.minimum(begin + window, audio_span[1]), start)
    frames = torch.minimum(end.int(), (video_span[1] - offsets).int())
    frames = frames.sub_(torch.maximum(start.int(), (video_span[0] - offsets).int())).clamp_(min=0)
    # Running sums grow with time, so the earlier of two places has the smaller sum: no gather per offset is needed.
    power = functional.pad(audio.square().sum(-1).cumsum(-1), (1, 0))  # (B, G + 1)
    until, since = (take(power, at.squeeze(-1)).unsqueeze(-1) for at in (end, start))
    last, first = (take(power, (at - offsets).squeeze(1)).unsqueeze(1) for at in (video_span[1], video_span[0]))
    audio_power = torch.minimum(until, last).sub_(torch.maximum(since, first)).clamp_(min=0)
    # The video's squares are zero outside its stream, so its running sum needs only the window's bounds.
    power = functional.pad(video.square().sum(-1), (max_offset + 1, max_offset)).cumsum(-1)
    power = power.unfold(1, len(offsets), 1)  # (B, G + 1, O): the running sum up to a step, shifted by each offset
    rows = torch.arange(len(audio), device=audio.device)[:, None]
    video_power = power[rows, end.squeeze(-1)].sub_(power[rows, start.squeeze(-1)])
    return WindowSums(products, audio_power, video_power, frames)


def take(sums, at):
    """Running sums (B, G + 1) at places (B, n), which can lie outside."""
    return sums.gather(1, at.expand(len(sums), -1).clamp(0, sums.shape[1] - 1))


def sums_at(audio, video, audio_mask, video_mask, offset, window):
    """The four sums at one offset for each clip, `offset` (B,) in steps -> `WindowSums` with O = 1."""
    steps = audio.shape[1]
    windows = -(-steps // window)
    place = torch.arange(steps, device=audio.device) + offset.unsqueeze(-1)  # (B, G)
    inside = place.clamp(0, steps - 1)
    both = audio_mask & (place == inside) & video_mask.gather(1, inside)
    moved = video.gather(1, inside.unsqueeze(-1).expand_as(video))

    def collect(values):
        values = functional.pad(values * both.to(values.dtype), (0, windows * window - steps))
        return values.unflatten(1, (windows, window)).sum(-1).unsqueeze(-1)

    squares = (audio.square().sum(-1), moved.square().sum(-1))
    return WindowSums((collect((audio * moved).sum(-1))), *map(collect, squares), collect(both.to(audio.dtype)))


# Controllers of the gains: our reading of 4.4, which "simulates" three of them without giving equations


def fuzzy_control(drift, last_drift, gain):
    """Rules over three triangular sets: small drift, trust the windows more; medium, no change; large, trust them less.

    Args:
        drift: (B,), |tau_i - tau_{i-1}| as a share of the range.
        last_drift: (B,), the previous drift.
        gain: (B,), natural logarithm of alpha's current multiple.

    Returns:
        (B,) in [-1, 1]: the direction in which to change the gains, 1 for more alpha and less beta.
    """
    peaks = drift.new_tensor([0.0, 0.25, 0.5])
    member = (1 - (drift.clamp(max=0.5).unsqueeze(-1) - peaks).abs() / 0.25).clamp(min=0)
    return (member * member.new_tensor([1.0, 0.0, -1.0])).sum(-1) / member.sum(-1)


def backstepping_control(drift, last_drift, gain):
    """Proportional and differential feedback of the drift, with a leak that pulls the gains back to their initial
    values; arguments as for `fuzzy_control`."""
    return (0.25 - drift - 0.5 * (drift - last_drift) - 0.2 * gain).clamp(-1, 1)


class NeuralControl(nn.Module):
    """Two layers that predict the next drift from the last one, and the mean and deviation of all so far.

    "Incorporates uncertainty estimation via neural feedback" (Table 7): the expected drift is the uncertainty, and the
    gains respond to it. Trained on its own error only: a gain trained through Eq. 8 would simply make the loss small.
    """

    def __init__(self, hidden_size=8):
        super().__init__()
        self.hidden = nn.Linear(3, hidden_size)
        self.output = nn.Linear(hidden_size, 1)

    def forward(self, drifts):
        """drifts (B, n), all so far -> (B,) in (0, 1), the next one."""
        deviation = drifts.std(-1, correction=0)
        statistics = torch.stack([drifts[:, -1], drifts.mean(-1), deviation], dim=-1).to(self.hidden.bias.dtype)
        return self.output(self.hidden(statistics).tanh()).squeeze(-1).sigmoid()


CONTROLS = {"fuzzy": fuzzy_control, "backstepping": backstepping_control}


class AlignedFusion(nn.Module):
    """Tokens of sound and picture at the same time: each step of the sound is joined with the picture's at t + tau*.

    Without this, both streams reach the language model as means over time, which no offset changes. The nonlinear layer
    between the join and the mean makes the offset matter: otherwise a mean of sums is a sum of means. The fusion that
    the alignment lays "the foundation" for (3.4) is not specified in the paper.

    Args:
        size: E, width of both streams.
        text_size: H.
        tokens: number of parts of equal length into which a clip is divided.
    """

    def __init__(self, size, text_size, tokens):
        super().__init__()
        self.tokens = tokens
        self.hidden = nn.Linear(2 * size, size)
        # Without a bias, a clip in which nothing can be joined adds nothing.
        self.output = nn.Linear(size, text_size, bias=False)

    def forward(self, audio, video, audio_mask, video_mask, offset, ends):
        """audio, video (B, G, E), their masks (B, G), offset (B,) in steps, ends (B,) the last step ->
        (B, tokens, H)."""
        steps = torch.arange(audio.shape[1], device=audio.device)
        place = steps + offset.unsqueeze(-1)  # (B, G)
        inside = place.clamp(0, len(steps) - 1)
        both = audio_mask & (place == inside) & video_mask.gather(1, inside)
        moved = video.gather(1, inside.unsqueeze(-1).expand_as(video))
        # The streams have a mean square length of 1; scale that to 1 per channel.
        joined = torch.cat([audio, moved], dim=-1) * audio.shape[-1] ** 0.5
        joined = functional.gelu(self.hidden(joined.to(self.hidden.bias.dtype)))
        part = place * self.tokens // (ends.unsqueeze(-1) + 1)
        chosen = part.unsqueeze(1) == torch.arange(self.tokens, device=audio.device).unsqueeze(-1)
        weights = (chosen & both.unsqueeze(1)).to(joined.dtype)  # (B, tokens, G)
        return self.output(weights @ joined / weights.sum(-1, keepdim=True).clamp(min=1))


class AudioVideoAlignment(nn.Module):
    """The alignment of 3.4: projections of both streams to one width, and the search for their offset.

    Args:
        audio_size: width of the sound's frames.
        face_size, motion_size: widths of the two visual streams; `None` for one that the model does not have.
        size: E, the common width.
        rate: steps of the grid per second.
        max_offset: ms.
        window: ms, Delta t of 3.4.
        min_overlap: share of the shorter stream that must overlap at an offset for it to be searched.
        local_weight, global_weight: alpha and beta of Eq. 8.
        search: `"combined"` is Eq. 9, `"global"` Eq. 6.
        selection: `"argmin"`, or `"softmin"`: the loss is the mean over offsets by softmax(-L / temperature).
        temperature: of the soft minimum.
        training_offset: `"zero"`: in training, sound and picture are assumed to be synchronous and the loss is
            L_align(0); `"search"`: the loss is L_align(tau*), literally Eq. 9, which from random projections settles on
            wrong offsets.
        controller: `None`, `"fuzzy"`, `"neural"` or `"backstepping"`.
        text_size, tokens: as for `AlignedFusion`; `None` without it.
        apply_offset: join the streams at tau*; `False`: at zero offset.
    """

    def __init__(
        self,
        audio_size,
        face_size,
        motion_size,
        size=256,
        rate=25.0,
        max_offset=1000,
        window=1000,
        min_overlap=0.5,
        local_weight=1.0,
        global_weight=1.0,
        search="combined",
        selection="argmin",
        temperature=0.1,
        training_offset="zero",
        controller=None,
        text_size=None,
        tokens=1,
        apply_offset=True,
    ):
        super().__init__()
        self.rate = rate
        self.max_steps = round(max_offset * rate / 1000)
        self.window = max(1, round(window * rate / 1000))
        self.min_overlap = min_overlap
        self.gains = (float(local_weight), float(global_weight))
        self.search = search
        self.selection = selection
        self.temperature = temperature
        self.training_offset = training_offset
        self.controller = controller
        self.audio_projection = nn.Linear(audio_size, size)
        self.face_projection = None if face_size is None else nn.Linear(face_size, size)
        self.motion_projection = None if motion_size is None else nn.Linear(motion_size, size)
        self.control = NeuralControl() if controller == "neural" else None
        self.fusion = None if text_size is None else AlignedFusion(size, text_size, tokens)
        self.apply_offset = apply_offset

    def streams(self, audio, audio_times, face, face_times, motion, motion_times):
        """Both streams on the grid.

        Args:
            audio: (B, L, D) with times (B, L) int64 ms, -1 where padded; the two visual streams likewise, one of which
                can be `None`.

        Returns:
            audio (B, G, E), video (B, G, E) and their masks (B, G) bool.
        """
        video_times = face_times if face is not None else motion_times
        longest = int(torch.maximum(audio_times.max(), video_times.max()).clamp(min=0))
        grid = torch.arange(int(longest * self.rate / 1000) + 1, device=audio.device) * (1000 / self.rate)
        audio_mask, video_mask = covers(audio_times, grid), covers(video_times, grid)
        streams = [(self.audio_projection, audio, audio_times)], []
        for projection, states, times in (
            (self.face_projection, face, face_times),
            (self.motion_projection, motion, motion_times),
        ):
            if projection is not None:
                streams[1].append((projection, states, times))
        # In double precision: a distance is a small difference of large sums.
        precision = torch.float32 if audio.device.type == "mps" else torch.float64
        audio, video = (
            sum(resample(projection(states), times, grid).to(precision) for projection, states, times in stream)
            for stream in streams
        )
        return standardise(audio, audio_mask), standardise(video, video_mask), audio_mask, video_mask

    def forward(self, audio, audio_times, face=None, face_times=None, motion=None, motion_times=None, form=None):
        """Align the clips of a batch; arguments as for `streams`, and `form` as for `window_sums`."""
        audio, video, audio_mask, video_mask = self.streams(audio, audio_times, face, face_times, motion, motion_times)
        moving = audio.any(-1).any(-1) & video.any(-1).any(-1)
        synchronous = self.training and self.training_offset == "zero"
        soft, trains = self.selection == "softmin" and not synchronous, torch.is_grad_enabled()
        with torch.set_grad_enabled(soft and trains):
            sums = window_sums(audio, video, audio_mask, video_mask, self.max_steps, self.window, form)
            overlap = sums.frames.sum(1)  # (B, O)
            shorter = torch.minimum(audio_mask.sum(-1), video_mask.sum(-1)).unsqueeze(-1)
            # A single step has no change over time to compare.
            searched = (overlap >= self.min_overlap * shorter) & (overlap >= 2) & moving.unsqueeze(-1)
            aligned = searched[:, self.max_steps] if synchronous else searched.any(-1)
            distances, correlations = sums.distances(), sums.correlation()
            gains, controller_loss = None, None
            alpha, beta = self.gains
            if self.controller is not None:
                with torch.set_grad_enabled(trains):
                    gains, controller_loss = self.follow(
                        distances.detach(), correlations.detach(), sums.frames, searched
                    )
                used = (sums.frames > 0).any(-1)  # (B, N)
                alpha = gains[..., :1]
                beta = (gains[..., 1] * used).sum(-1, keepdim=True) / used.sum(-1, keepdim=True).clamp(min=1)
            losses = sums.mean(distances * alpha) - beta * correlations
            criterion = -correlations if self.search == "global" else losses
            best = criterion.detach().masked_fill(~searched, torch.inf).argmin(-1)  # (B,)
        steps = torch.arange(-self.max_steps, self.max_steps + 1, device=audio.device)
        offset = steps[best] * (aligned & (not synchronous))
        if soft:
            share = (-losses / self.temperature).masked_fill(~searched, -torch.inf)
            share = share.masked_fill(~aligned.unsqueeze(-1), 0).softmax(-1)
            distance, correlation, loss = (
                (values.masked_fill(~searched, 0) * share).sum(-1)
                for values in (sums.mean(distances), correlations, losses)
            )
        else:
            at = sums_at(audio, video, audio_mask, video_mask, offset, self.window)
            distance, correlation = at.distance().squeeze(-1), at.correlation().squeeze(-1)
            loss = (at.distance(alpha) - beta * at.correlation()).squeeze(-1)
        open_offsets = (sums.frames > 0) & searched.unsqueeze(1)  # (B, N, O)
        local = distances.detach().masked_fill(~open_offsets, torch.inf).argmin(-1)
        windows = open_offsets.any(-1)
        milliseconds = 1000 / self.rate
        fused = None
        if self.fusion is not None:
            video_times = face_times if face is not None else motion_times
            ends = (torch.maximum(audio_times.amax(-1), video_times.amax(-1)) / milliseconds).long()
            shift = offset if self.apply_offset else torch.zeros_like(offset)
            fused = self.fusion(audio, video, audio_mask & aligned.unsqueeze(-1), video_mask, shift, ends)
        return AlignmentOutput(
            offset=(offset * milliseconds).round().long(),
            aligned=aligned,
            loss=loss * aligned,
            distance=distance * aligned,
            correlation=correlation * aligned,
            offsets=(steps * milliseconds).round().long(),
            losses=losses.detach().masked_fill(~searched, torch.inf),
            distances=sums.mean(distances).detach().masked_fill(~searched, torch.inf),
            correlations=correlations.detach().masked_fill(~searched, -torch.inf),
            window_offsets=(steps[local] * milliseconds).round().long() * windows,
            windows=windows,
            gains=gains,
            controller_loss=controller_loss,
            fused=fused,
        )

    def follow(self, distances, correlations, frames, searched):
        """Go through a clip window by window and let the controller set the gains.

        A window's offset minimises alpha_i D^i(tau) - beta_i C(tau); its distance from the previous window's offset is
        the drift that the controller responds to.

        Args:
            distances, frames: (B, N, O).
            correlations: (B, O).
            searched: (B, O) bool.

        Returns:
            gains (B, N, 2), as each window used them, and the neural controller's loss; `None` where there is none.
        """
        low, high = (math.log(bound) for bound in GAIN_RANGE)
        base = distances.new_tensor(self.gains)
        gain = distances.new_zeros(len(distances))  # logarithm of alpha's gain; beta's is the negative
        drift = before = place = torch.zeros_like(gain)
        started = torch.zeros_like(gain, dtype=torch.bool)
        trajectory, drifts, errors = [], [drift], []
        expected = None
        for i in range(distances.shape[1]):
            trajectory.append(base * torch.stack([gain.exp(), (-gain).exp()], dim=-1))
            alpha, beta = trajectory[-1].split(1, dim=-1)
            open_offsets = searched & (frames[:, i] > 0)
            used = open_offsets.any(-1)
            criterion = (alpha * distances[:, i] - beta * correlations).masked_fill(~open_offsets, torch.inf)
            best = criterion.argmin(-1).to(gain)
            compared = used & started
            before = torch.where(compared, drift, before)
            drift = torch.where(compared, (best - place).abs() / max(1, 2 * self.max_steps), drift)
            place, started = torch.where(used, best, place), started | used
            if self.control is None:
                direction = CONTROLS[self.controller](drift, before, gain)
            else:
                if expected is not None:
                    errors.append((expected - drift.to(expected)).square()[compared])
                drifts.append(drift)
                expected = self.control(torch.stack(drifts, dim=-1))
                direction = 1 - 2 * expected.detach().to(gain)
            gain = torch.where(compared, (gain + GAIN_STEP * direction).clamp(low, high), gain)
        loss = None
        if self.control is not None:
            errors = torch.cat(errors) if errors else expected[:0]
            loss = errors.sum() / max(1, len(errors))
        return torch.stack(trajectory, dim=1), loss


__all__ = ["FORMS", "AlignmentOutput", "AudioVideoAlignment", "fastest_form", "window_sums"]
