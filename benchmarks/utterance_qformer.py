"""Speed of `UtteranceQFormer` beside the plain ways, from the same weights, in one process.

    python benchmarks/utterance_qformer.py

Four clips of 32 frames at one frame a second, 32 tokens of width 768 a frame; a Q-Former of 2 layers, width 768 and 32
queries reads every clip as a whole and N utterances of it, whose lengths are skewed (log-normal, most of 1 to 4 s) and
which start anywhere. The ways:

* `ours`: `UtteranceQFormer`;
* `loop`: what the peers do, a loop over clips and windows through the stock `Blip2QFormerModel`;
* `padded`: all windows as one batch through the stock model, padded to the longest window and masked;
* `apart`: the same, but the whole clips in a batch of their own, so that utterances are padded to the longest of them;
* `bucketed`: the strongest that the stock model allows, windows of like length (up to the next power of two) in a call.

Every repetition runs every way at every N in turn, so that a noisy machine disturbs all of them alike; ratios are taken
within a repetition and their median is reported, by wall time and by processor time, which other programs disturb
less. One repetition, the default, takes 3 to 7 minutes on 2 cores. The rate counts *necessary* work only, whatever a
way really computes:

    per layer   4 D H                    for each frame token that some window sees (its key and value)
                K (12 H^2 + 4 H I)       for each window (self-attention, query and output of cross-attention, FFN)
    less        (W - 1) K 10 H^2         in the first layer, whose self-attention and query are equal for all W windows

floating-point operations forward, and twice that backward. Attention scores are left out (under 3 % here).

Differences are stated twice: in the float32 of the timed runs, where the order in which hundreds of windows are summed
into one gradient shows, and in float64, where nothing but a mistake would. The loss is the output times a fixed
direction: the sum of squares behind a layer norm is constant, and its gradient nothing but rounding.
"""

import argparse
import copy
import json
import platform
import statistics
import time
from pathlib import Path

import torch
import transformers
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from hf_emotion.modeling.qformer import UtteranceQFormer, utterance_windows

WAYS = ("ours", "loop", "padded", "apart", "bucketed")


class PlainWays:
    """The stock model on the weights of an `UtteranceQFormer` with shared weights, in three ways."""

    def __init__(self, model: UtteranceQFormer):
        shared = model.utterance_qformer
        self.queries = torch.nn.Parameter(shared.query_tokens.detach())
        self.qformer = Blip2QFormerModel(shared.qformer.config)
        self.qformer.load_state_dict(shared.qformer.state_dict(), assign=True)
        self.qformer.train(model.training)

    def parameters(self):
        return [self.queries, *self.qformer.parameters()]

    def read(self, features, mask=None):
        return self.qformer(
            query_embeds=self.queries.expand(len(features), -1, -1),
            encoder_hidden_states=features,
            encoder_attention_mask=mask,
        ).last_hidden_state

    @staticmethod
    def windows(times, spans):
        whole = (times >= 0)[:, None]
        return torch.cat([whole, utterance_windows(times, spans)], dim=1)  # (B, 1 + N, T)

    def loop(self, features, times, spans):
        tokens = []
        for frames, windows in zip(features, self.windows(times, spans), strict=True):
            tokens += [self.read(frames[window].flatten(0, 1)[None]) for window in windows]
        return torch.cat(tokens).flatten(0, 1)

    def pad(self, features, windows):
        clips = torch.arange(len(features)).repeat_interleave(windows.shape[1])
        windows = windows.flatten(0, 1)  # (W, T)
        longest = int(windows.sum(-1).max())
        frames = windows.int().argsort(dim=-1, descending=True, stable=True)[:, :longest]
        mask = windows.gather(1, frames).repeat_interleave(features.shape[2], dim=1)
        return self.read(features[clips[:, None], frames].flatten(1, 2), mask)

    def padded(self, features, times, spans):
        return self.pad(features, self.windows(times, spans)).flatten(0, 1)

    def bucketed(self, features, times, spans):
        windows = self.windows(times, spans)
        clips = torch.arange(len(features)).repeat_interleave(windows.shape[1])
        flat = windows.flatten(0, 1)
        frames = flat.int().argsort(dim=-1, descending=True, stable=True)
        lengths = flat.sum(-1)
        bucket = lengths.float().log2().ceil()
        tokens, order = [], []
        for size in bucket.unique():
            some = (bucket == size).nonzero()[:, 0]
            chosen = frames[some, : int(lengths[some].max())]
            mask = flat[some].gather(1, chosen).repeat_interleave(features.shape[2], dim=1)
            tokens.append(self.read(features[clips[some][:, None], chosen].flatten(1, 2), mask))
            order.append(some)
        return torch.cat(tokens)[torch.cat(order).argsort()].flatten(0, 1)

    def apart(self, features, times, spans):
        windows = self.windows(times, spans)
        parts = [
            self.pad(features, part).unflatten(0, (len(features), -1)) for part in (windows[:, :1], windows[:, 1:])
        ]
        return torch.cat(parts, dim=1).flatten(0, 2)


def skewed_spans(clips: int, seconds: int, utterances: int) -> torch.Tensor:
    """(B, N, 2) ms."""
    random = torch.Generator().manual_seed(utterances)
    length = torch.randn(clips, utterances, generator=random).mul(0.8).add(0.7).exp().clamp(0.2, seconds)
    start = torch.rand(clips, utterances, generator=random) * (seconds - length)
    return torch.stack([start, start + length], -1).mul(1000).long()


def necessary_flop(config, queries: int, tokens_a_frame: int, windows: torch.Tensor) -> int:
    width, inner = config.hidden_size, config.intermediate_size
    read = int(windows.any(-1).sum())
    tokens = int(windows.any(1).sum()) * tokens_a_frame
    layer = 4 * config.encoder_hidden_size * width * tokens + read * queries * (12 * width**2 + 4 * width * inner)
    return config.num_hidden_layers * layer - (read - 1) * queries * 10 * width**2


def kept_bytes(way, features, batch) -> int:
    """Bytes of the distinct buffers that the forward pass keeps for the backward pass, weights and input left out."""
    sizes = {}

    def pack(tensor):
        if not isinstance(tensor, torch.nn.Parameter) and tensor.data_ptr() not in outside:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model, forward = way
    outside = {tensor.data_ptr() for tensor in [features, *model.parameters()]}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward(features.requires_grad_(), *batch)
    del output
    return sum(sizes.values())


def timed(way, features, batch, backward: bool):
    """Wall and processor seconds of one call, its output, and the gradients of features and parameters."""
    model, forward = way
    inputs = features.detach().requires_grad_(backward)
    direction = torch.randn(features.shape[-1], generator=torch.Generator().manual_seed(1)).to(features.dtype)
    for parameter in model.parameters():
        parameter.grad = None
    with torch.set_grad_enabled(backward):
        start = time.perf_counter(), time.process_time()
        output = forward(inputs, *batch)
        if backward:
            (output * direction).sum().backward()
        seconds = time.perf_counter() - start[0], time.process_time() - start[1]
    return seconds, output.detach(), [inputs.grad, *(parameter.grad for parameter in model.parameters())]


def difference(mine, other, names) -> dict[str, float]:
    """Largest difference of an output, and of a gradient relative to the largest entry of its tensor."""
    _, output, gradients = mine
    _, other_output, other_gradients = other
    largest = {"output": float((output - other_output).abs().max())}
    if gradients[0] is not None:
        largest["gradient"] = max(
            float((gradient - other_gradient).abs().max() / other_gradient.abs().max())
            for name, gradient, other_gradient in zip(names, gradients, other_gradients, strict=True)
            # Softmax does not see the bias of a key: its gradient is zero, and what is left is rounding.
            if not name.endswith("key.bias")
        )
    return largest


def ways_of(model: UtteranceQFormer) -> dict:
    plain = PlainWays(model)
    return {
        "ours": (model, lambda *batch: model(*batch)[0]),
        **{name: (plain, getattr(plain, name)) for name in WAYS[1:]},
    }


def parameter_names(model) -> list[str]:
    """Names of what `timed` returns the gradients of."""
    return ["features", *(name for name, _ in model.named_parameters())]


def difference_in_double(model, features, batch, ways) -> dict[str, dict[str, float]]:
    """As `difference`, from the same weights in float64, of `ways` against ours."""
    model = copy.deepcopy(model).double()
    features = features.double()
    runs = ways_of(model)
    ours = timed(runs["ours"], features, batch, backward=True)
    names = parameter_names(model)
    return {name: difference(ours, timed(runs[name], features, batch, backward=True), names) for name in ways}


def measure(arguments, ways, features, batches, save) -> list[dict]:
    """Measures every way at every N, and hands the results to `save` after each repetition."""
    names = parameter_names(ways["ours"][0])
    results = []
    for count, batch in batches.items():
        windows = PlainWays.windows(*batch)
        config = ways["ours"][0].utterance_qformer.qformer.config
        flop = necessary_flop(config, arguments.queries, arguments.tokens, windows)
        kept_mb = {
            name: kept_bytes(way, features.detach().clone(), batch) / 2**20
            for name, way in ways.items()
            if count <= arguments.padded_backward or name in ("ours", "loop", "bucketed")
        }
        for backward in (False, True):
            row = {
                "N": count,
                "pass": "forward+backward" if backward else "forward",
                "windows": int(windows.any(-1).sum()),
                "frames_in_windows": int(windows.sum()),
                "longest_utterance_frames": int(windows[:, 1:].sum(-1).max()),
                "gflop": flop * (3 if backward else 1) / 1e9,
                "difference": {},
                "kept_mb": kept_mb,
                "wall": {},
                "processor": {},
            }
            if backward and count <= arguments.padded_backward:
                row["difference_float64"] = difference_in_double(ways["ours"][0], features, batch, WAYS[1:])
            results.append(row)

    for repetition in range(arguments.repetitions):
        for row in results:
            count, backward = row["N"], row["pass"] != "forward"
            for name in WAYS:
                if name != "ours" and count > 16 and repetition >= arguments.slow_repetitions:
                    continue
                if name in ("padded", "apart") and count > arguments.padded_backward and (backward or name == "apart"):
                    continue
                # Short calls are repeated, so that one interruption weighs less.
                runs = [timed(ways[name], features, batches[count], backward) for _ in range(2 if count < 16 else 1)]
                for clock, key in enumerate(("wall", "processor")):
                    row[key].setdefault(name, []).append(statistics.mean(seconds[clock] for seconds, *_ in runs))
                if name == "ours":
                    ours = runs[0]
                elif not repetition:
                    row["difference"][name] = difference(ours, runs[0], names)
                del runs
        summarise(results)
        save(results, repetition + 1)
        print(f"repetition {repetition + 1} of {arguments.repetitions}", flush=True)
    return results


def summarise(results: list[dict]) -> None:
    """Adds to each row medians over repetitions; ratios and relative rates within one, by wall and processor time."""
    for row in results:
        first = next(other for other in results if other["pass"] == row["pass"])
        row["seconds"] = {name: statistics.median(seconds) for name, seconds in row["wall"].items()}
        row["gflop_per_second"] = row["gflop"] / row["seconds"]["ours"]
        for clock in ("wall", "processor"):
            ours = row[clock]["ours"]
            row[f"{clock}_ratio"] = {
                name: statistics.median(other / mine for mine, other in zip(ours, seconds, strict=False))
                for name, seconds in row[clock].items()
                if name != "ours"
            }
            rival = min(row[f"{clock}_ratio"], key=row[f"{clock}_ratio"].get)
            row[f"{clock}_strongest_rival"] = {"name": rival, "times_slower": row[f"{clock}_ratio"][rival]}
            row[f"{clock}_rate_of_first"] = statistics.median(
                (row["gflop"] / mine) / (first["gflop"] / base)
                for mine, base in zip(ours, first[clock]["ours"], strict=True)
            )


def print_tables(results: list[dict]) -> None:
    def cells(values, form):
        return " ".join(form.format(values[name]) if name in values else f"{'-':>8}" for name in WAYS if name in shown)

    shown = WAYS
    print("\nwall seconds (median), necessary GFLOP/s, its rate as a part of the first N's by wall | processor time")
    print(f"{'N':>3} {'pass':>17} {'GFLOP':>6} " + " ".join(f"{name:>8}" for name in shown) + "  GFLOP/s")
    for row in results:
        rates = (
            f"{row['gflop_per_second']:8.0f} {row['wall_rate_of_first']:8.2f} |{row['processor_rate_of_first']:5.2f}"
        )
        print(f"{row['N']:>3} {row['pass']:>17} {row['gflop']:>6.0f} {cells(row['seconds'], '{:8.3f}')} {rates}")
    print("\nMB kept for the backward pass")
    for row in results[1::2]:
        print(f"{row['N']:>3} {'':>24} {cells(row['kept_mb'], '{:8.0f}')}")
    shown = WAYS[1:]
    print("\ntimes faster than each, by wall | processor time; largest difference of an output, and of a gradient")
    print("relative to the largest of its tensor")
    for row in results:
        figures = "  ".join(
            f"{name} {' '.join(f'{value:.0e}' for value in values.values())}"
            for name, values in row["difference"].items()
        )
        ratios = f"{cells(row['wall_ratio'], '{:7.2f}x')} |{cells(row['processor_ratio'], '{:7.2f}x')}"
        rival = row["processor_strongest_rival"]
        print(f"{row['N']:>3} {row['pass']:>17} {ratios}   {figures}")
        print(f"{'':>21} strongest rival: {rival['name']}, {rival['times_slower']:.2f}x by processor time")
    print("\nlargest difference in float64")
    for row in results:
        for name, values in row.get("difference_float64", {}).items():
            print(f"{row['N']:>3} {name:>8} " + "  ".join(f"{what} {value:.0e}" for what, value in values.items()))


def plot(results: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4))
    for name in WAYS:
        for axis, key, style in ((axes[0], "forward", "-"), (axes[0], "forward+backward", "--")):
            rows = [row for row in results if row["pass"] == key and name in row["seconds"]]
            label = name if style == "-" else None
            axis.plot([row["N"] for row in rows], [row["seconds"][name] for row in rows], style + "o", label=label,
                      color=f"C{WAYS.index(name)}")  # fmt: skip
        rows = [row for row in results if row["pass"] == "forward" and name in row["seconds"]]
        axes[1].plot([r["N"] for r in rows], [r["gflop"] / r["seconds"][name] for r in rows], "-o")
        rows = [row for row in results if row["pass"] == "forward+backward" and name in row["kept_mb"]]
        axes[2].plot([r["N"] for r in rows], [r["kept_mb"][name] for r in rows], "-o")
    titles = ("seconds (dashed: with backward)", "necessary GFLOP/s, forward", "MB kept for backward")
    for axis, title in zip(axes, titles, strict=True):
        axis.set(xscale="log", xlabel="utterances a clip", title=title, xticks=sorted({row["N"] for row in results}))
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_yscale("log")
    axes[2].set_yscale("log")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, nargs="+", default=[1, 4, 16, 64], help="utterances a clip")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32, help="tokens a frame")
    parser.add_argument("--queries", type=int, default=32)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--slow-repetitions", type=int, default=1, help="of the plain ways beyond 16 utterances a clip")
    parser.add_argument(
        "--padded-backward", type=int, default=16, help="largest N at which the padded ways run backward (64: 16 GB)"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "utterance_qformer.json")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    config = Blip2QFormerConfig(
        hidden_size=arguments.width,
        encoder_hidden_size=arguments.width,
        num_attention_heads=arguments.width // 64,
        intermediate_size=4 * arguments.width,
        num_hidden_layers=arguments.layers,
        cross_attention_frequency=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = UtteranceQFormer(config, arguments.queries, share_weights=True)
    ways = ways_of(model)
    features = torch.randn(arguments.clips, arguments.frames, arguments.tokens, arguments.width)
    times = torch.arange(arguments.frames).mul(1000).expand(arguments.clips, -1)
    batches = {count: (times, skewed_spans(arguments.clips, arguments.frames, count)) for count in arguments.windows}

    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    setting = {name: value for name, value in vars(arguments).items() if name != "output"}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)

    def save(results, repetitions):
        draft = arguments.output.with_suffix(".json.part")
        content = {"setting": setting, "machine": machine, "repetitions_done": repetitions, "results": results}
        draft.write_text(json.dumps(content, indent=1) + "\n")
        draft.replace(arguments.output)

    results = measure(arguments, ways, features, batches, save)
    print_tables(results)
    plot(results, arguments.output.with_suffix(".png"))
    print(f"wrote {arguments.output} and its plot")


if __name__ == "__main__":
    main()
