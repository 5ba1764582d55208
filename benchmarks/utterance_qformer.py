"""Speed of `UtteranceQFormer` beside the plain ways, from the same weights, in one process.

    python benchmarks/utterance_qformer.py

Four clips of 32 frames at one frame a second, 32 tokens of width 768 a frame; a Q-Former of 2 layers, width 768 and 32
queries reads every clip as a whole and N utterances of it, whose lengths are skewed (log-normal, most of 1 to 4 s) and
which start anywhere. The ways:

* `ours`: `UtteranceQFormer`;
* `loop`: what the peers do, a loop over clips and windows through the stock `Blip2QFormerModel`;
* `padded`: all windows as one batch through the stock model, padded to the longest window and masked;
* `apart`: the same, but the whole clips in a batch of their own, so that utterances are padded to the longest of them.

Every repetition runs every way at every N in turn, so that a noisy machine disturbs all of them alike; ratios are taken
within a repetition and their median is reported. The rate counts *necessary* work only, whatever a way really computes:

    per layer   4 D H                    for each frame token that some window sees (its key and value)
                K (12 H^2 + 4 H I)       for each window (self-attention, query and output of cross-attention, FFN)
    less        (W - 1) K 10 H^2         in the first layer, whose self-attention and query are equal for all W windows

floating-point operations forward, and twice that backward. Attention scores are left out (under 3 % here).
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
import transformers
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from hf_emotion.modeling.qformer import UtteranceQFormer, utterance_windows

WAYS = ("ours", "loop", "padded", "apart")


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
    kept = {}

    def pack(tensor):
        if not isinstance(tensor, torch.nn.Parameter) and tensor.data_ptr() not in outside:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model, forward = way
    outside = {tensor.data_ptr() for tensor in [features, *model.parameters()]}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward(features.requires_grad_(), *batch)
    del output
    return sum(kept.values())


def timed(way, features, batch, backward: bool):
    """Seconds of one call, its output, and the gradients of the features and of every parameter."""
    model, forward = way
    given = features.detach().requires_grad_(backward)
    for parameter in model.parameters():
        parameter.grad = None
    with torch.set_grad_enabled(backward):
        start = time.perf_counter()
        output = forward(given, *batch)
        if backward:
            output.square().mean().backward()
        seconds = time.perf_counter() - start
    return seconds, output.detach(), [given.grad, *(parameter.grad for parameter in model.parameters())]


def difference(mine, other, names) -> dict[str, float]:
    """Largest difference of an output, and of a gradient relative to the largest entry of its tensor."""
    _, output, gradients = mine
    _, other_output, other_gradients = other
    found = {"output": float((output - other_output).abs().max())}
    if gradients[0] is not None:
        found["gradient"] = max(
            float((gradient - other_gradient).abs().max() / other_gradient.abs().max())
            for name, gradient, other_gradient in zip(names, gradients, other_gradients, strict=True)
            # Softmax does not see the bias of a key: its gradient is zero, and what is left is rounding.
            if not name.endswith("key.bias")
        )
    return found


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
    parser.add_argument("--repetitions", type=int, default=4)
    parser.add_argument("--slow-repetitions", type=int, default=1, help="of the plain ways beyond 16 utterances a clip")
    parser.add_argument("--device", default="cpu")
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
    model = UtteranceQFormer(config, arguments.queries, share_weights=True).to(arguments.device)
    plain = PlainWays(model)
    ways = {"ours": (model, lambda *batch: model(*batch)[0])}
    ways |= {name: (plain, getattr(plain, name)) for name in WAYS[1:]}
    features = torch.randn(
        arguments.clips, arguments.frames, arguments.tokens, arguments.width, device=arguments.device
    )
    times = torch.arange(arguments.frames, device=arguments.device).mul(1000).expand(arguments.clips, -1)
    batches = {
        count: (times, skewed_spans(arguments.clips, arguments.frames, count).to(arguments.device))
        for count in arguments.windows
    }

    names = ["features", *(name for name, _ in model.named_parameters())]

    results = {}
    for count, batch in batches.items():
        windows = plain.windows(*batch)
        flop = necessary_flop(config, arguments.queries, arguments.tokens, windows)
        kept = {name: kept_bytes(way, features.detach().clone(), batch) / 2**20 for name, way in ways.items()}
        for direction, times_forward in (("forward", 1), ("forward+backward", 3)):
            results[count, direction] = {
                "N": count,
                "pass": direction,
                "windows": int(windows.any(-1).sum()),
                "frames_in_windows": int(windows.sum()),
                "longest_utterance_frames": int(windows[:, 1:].sum(-1).max()),
                "gflop": times_forward * flop / 1e9,
                "difference": {},
                "kept_mb": kept,
                "all_seconds": {name: [] for name in WAYS},
            }

    for repetition in range(arguments.repetitions):
        for (count, direction), row in results.items():
            for name in WAYS:
                if name != "ours" and count > 16 and repetition >= arguments.slow_repetitions:
                    continue
                runs = [
                    timed(ways[name], features, batches[count], direction != "forward") for _ in range(1 + (count < 16))
                ]
                row["all_seconds"][name].append(statistics.mean(seconds for seconds, *_ in runs))
                if name == "ours":
                    ours = runs[0]
                elif not repetition:
                    row["difference"][name] = difference(ours, runs[0], names)
                del runs
        print(f"repetition {repetition + 1} of {arguments.repetitions}", flush=True)

    print("largest difference from ours: output, gradient relative to the largest of its tensor")
    for row in results.values():
        found = "   ".join(
            f"{name} {' '.join(f'{value:.1e}' for value in values.values())}"
            for name, values in row["difference"].items()
        )
        print(f"{row['N']:>3} {row['pass']:>17} {found}")
    print(f"{'N':>3} {'pass':>17} {'GFLOP':>6}", *(f"{name + ' s':>9}" for name in WAYS), end="")
    print(*(f"{'x ' + name:>9}" for name in WAYS[1:]), f"{'GFLOP/s':>8} {'of N=' + str(min(batches)):>8}", "  MB kept")
    for row in results.values():
        ours = row["all_seconds"]["ours"]
        first = results[min(batches), row["pass"]]
        row["seconds"] = {name: statistics.median(seconds) for name, seconds in row["all_seconds"].items()}
        row["ratio"] = {
            name: statistics.median(other / mine for mine, other in zip(ours, row["all_seconds"][name], strict=False))
            for name in WAYS[1:]
        }
        row["gflop_per_second"] = row["gflop"] / row["seconds"]["ours"]
        row["rate_of_first"] = statistics.median(
            (row["gflop"] / mine) / (first["gflop"] / base)
            for mine, base in zip(ours, first["all_seconds"]["ours"], strict=True)
        )
        print(f"{row['N']:>3} {row['pass']:>17} {row['gflop']:>6.0f}", end=" ")
        print(
            *(f"{row['seconds'][name]:>9.3f}" for name in WAYS),
            *(f"{row['ratio'][n]:>8.2f}x" for n in WAYS[1:]),
            end=" ",
        )
        print(f"{row['gflop_per_second']:>8.0f} {row['rate_of_first']:>8.2f}  ", end="")
        print(" ".join(f"{name} {kept:.0f}" for name, kept in row["kept_mb"].items()))

    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "device": arguments.device,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    setting = {name: value for name, value in vars(arguments).items() if name != "output"}
    report = {"setting": setting, "machine": machine, "results": list(results.values())}
    draft = arguments.output.with_suffix(".json.part")
    draft.write_text(json.dumps(report, indent=1) + "\n")
    draft.replace(arguments.output)
    plot(report["results"], arguments.output.with_suffix(".png"))
    print(f"wrote {arguments.output} and its plot")


if __name__ == "__main__":
    main()
