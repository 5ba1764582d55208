"""Everything about these models that only a GPU can show, in one command.

    python benchmarks/gpu.py                                           # every part, at paper size, on the GPU
    python benchmarks/gpu.py --parts generation training               # some of them
    python benchmarks/gpu.py --size tiny --device cpu --output /tmp/g  # a rehearsal: every step, figures of no meaning

Weights are random: nothing measured here depends on their values, except answers, which are compared only between two
ways to compute them. Each part runs in a process of its own for at most `--minutes` (8 by default) and writes each row
to OUTPUT/<part>.json as soon as it is measured. A part that was stopped continues with its first missing row; a row
that cannot run here (no bitsandbytes, too little memory) has the reason in place of figures. OUTPUT/gpu.json holds all
of it, OUTPUT/gpu.png the plot.

    machine     the two ceilings: bytes/s of a device-to-device copy, FLOP/s of a bf16 matrix product on random data
    contract    logits and greedy tokens of all models, GPU against CPU in float32; float32 and bf16; eager, sdpa, flash
    generation  towers and prompt (prefill) and 64 generated tokens, batch 1, 4, 16 with 8 and 32 frames: seconds, share
                of peak FLOP/s and of memory bandwidth, peak memory; encoded media once, then each step by itself
    lifts       decoding at batch 1 with a static cache, compiled, and with the prompt padded to a multiple of 64
    training    a LoRA step at batch 1, 4, 16; checkpointing on and off; bf16, and 4 bits where bitsandbytes is; from
                pixels and from cached features; clips/s, peak memory, share of peak by necessary FLOPs
    qformer     `UtteranceQFormer` against a loop and a padded batch, and where grouping windows by length begins to pay
    feed        clips/s that one core prepares against clips/s that the GPU encodes: how many cores one GPU needs
    cache       `hf-emotion cache` of a folder of clips (--data, such as a demo corpus of 500) at the towers' full size
    grpo        one step of group-relative policy optimisation: 8 sampled answers a clip from media encoded once

FLOPs are counted by `torch.utils.flop_counter` while a step runs once, untimed. A training step's necessary FLOPs are
its forward, the backward of what leads to a trained parameter and no recomputation: they are counted in a run without
checkpointing. Bytes of a decoding step are the language model's weights and its key-value cache, each read once.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from hf_emotion.data.files import write_whole
from hf_emotion.papers import PAPERS, tiny_tokenizer
from hf_emotion.processing.media import Clip

NEW_TOKENS, ANSWER_TOKENS, GROUP = 64, 128, 8
RECIPES = {
    "microemo": "microemo_1_instruction",
    "acoustemo": "acoustemo_1_instruction",
    "omni_emotion": "omni_emotion_3_tune",
    "esva": "esva_2_reason",
}


class SkippedError(Exception):
    """A part or row that cannot be measured here; the message says why."""


# Models and batches


def clip(frames: int, seconds: float = 8.0) -> Clip:
    """A clip of noise with sound and three utterances."""
    random = np.random.default_rng(0)
    return Clip(
        source="noise",
        frames=random.integers(0, 255, (frames, 360, 640, 3), dtype=np.uint8),
        frame_times=np.linspace(0, seconds * 1000 - 1, frames).astype(np.int64),
        waveform=random.normal(0, 0.1, int(seconds * 16000)).astype(np.float32),
        sampling_rate=16000,
        duration=int(seconds * 1000),
        utterances=[
            {"start": start, "end": start + 2.0, "text": "I never said that.", "speaker": None}
            for start in (0.5, 3, 5.5)
        ],
    )


def build(name: str, args, dtype=torch.bfloat16, **fields):
    """A model with random weights, made on the device, and its processor with the small shipped tokenizer."""
    paper = PAPERS[name]
    vocabulary = {"vocab_size": len(tiny_tokenizer())} if args.size == "tiny" else {}
    config = paper.config(args.size, **vocabulary, **fields)
    tokenizers = {kind: tiny_tokenizer() for kind in paper.tokenizers}
    processor = paper.processor.from_config(config, **tokenizers)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(args.device):
            model = paper.model(config).eval()
    finally:
        torch.set_default_dtype(before)
    for kind in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(model.generation_config, kind, getattr(processor.tokenizer, kind))
    return model, processor


def batch_of(processor, frames: int, count: int, args) -> dict[str, torch.Tensor]:
    """`count` times the same clip, as the processor makes it, with a face in every frame."""
    batch = processor(videos=[clip(frames)], return_tensors="pt")
    if "video_region_masks" in batch:
        batch["video_region_masks"][..., : batch["video_region_masks"].shape[-1] // 12] = True
    if "face_found" in batch:
        batch["face_found"][:] = True
    return {name: tensor.repeat_interleave(count, dim=0).to(args.device) for name, tensor in batch.items()}


def with_answer(model, batch: dict, tokens: int = ANSWER_TOKENS) -> dict:
    """The batch with an answer of ordinary tokens, and labels on it."""
    names = [name for name in vars(model.config) if name.endswith("_token_id")]
    media = {getattr(model.config, name) for name in names}
    ids = [token for token in range(10, 10 + tokens + len(media)) if token not in media][:tokens]
    answer = torch.tensor([ids] * len(batch["input_ids"])).to(batch["input_ids"])
    ids = torch.cat([batch["input_ids"], answer], dim=1)
    labels = ids.clone()
    labels[:, :-tokens] = -100
    return {**batch, "input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


# Measuring


def synchronized(args) -> float:
    if args.device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def median_seconds(call: Callable, args, repeats: int = 5, warm: int = 2) -> float:
    seconds = []
    for _ in range(warm + repeats):
        start = synchronized(args)
        call()
        seconds.append(synchronized(args) - start)
    return statistics.median(seconds[warm:])


def flops_of(call: Callable) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def peak_gib(args) -> float | None:
    return torch.cuda.max_memory_allocated() / 2**30 if args.device.startswith("cuda") else None


def fresh_memory(args) -> None:
    gc.collect()
    if args.device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def ceilings(args) -> dict:
    """What `machine` measured, to which shares refer."""
    rows = read_rows(args.output / "machine.json")
    return {key: value for row in rows.values() for key, value in row.items() if key.endswith("_per_second")}


def share(amount: float, seconds: float, ceiling: float | None) -> float | None:
    return None if not ceiling else amount / seconds / ceiling


def difference(values: torch.Tensor, reference: torch.Tensor) -> float:
    """Norm of the difference over the norm of the reference, in float64 on the CPU."""
    values, reference = values.detach().cpu().double(), reference.detach().cpu().double()
    return float((values - reference).norm() / reference.norm())


# The parts: each gives (name of a row, function that measures it)


def machine(args) -> Iterator[tuple[str, Callable]]:
    def copy():
        source = torch.randn((2**31 if args.size == "paper" else 2**20) // 2, device=args.device).bfloat16()
        target = torch.empty_like(source)
        seconds = median_seconds(lambda: target.copy_(source), args)
        return {"bytes_per_second": 2 * source.numel() * 2 / seconds}

    def product():
        size = 8192 if args.size == "paper" else 256
        left, right = (torch.randn(size, size, device=args.device).bfloat16() for _ in range(2))
        seconds = median_seconds(lambda: left @ right, args, repeats=10, warm=3)
        return {"bf16_flop_per_second": 2 * size**3 / seconds}

    yield "copy", copy
    yield "matrix product", product


def contract(args) -> Iterator[tuple[str, Callable]]:
    def compare(name: str, dtype, attention: str):
        tiny = argparse.Namespace(**{**vars(args), "size": "tiny"})
        model, processor = build(name, argparse.Namespace(**{**vars(tiny), "device": "cpu"}), torch.float32)
        batch = batch_of(processor, 4, 2, argparse.Namespace(device="cpu"))
        with torch.inference_mode():
            reference = model(**batch).logits
            tokens = model.generate(**batch, max_new_tokens=8, do_sample=False)
            try:
                model.set_attn_implementation(attention)
            except (ImportError, ValueError) as error:
                raise SkippedError(f"{attention}: {str(error).splitlines()[0][:200]}") from error
            model = model.to(args.device, dtype)
            batch = {key: value.to(args.device) for key, value in batch.items()}
            logits = model(**batch).logits
            generated = model.generate(**batch, max_new_tokens=8, do_sample=False).cpu()
        return {"difference": difference(logits, reference), "same_tokens": bool(torch.equal(generated, tokens))}

    for name in args.models:
        for dtype in (torch.float32, torch.bfloat16):
            for attention in ("eager", "sdpa", "flash_attention_2"):
                if attention == "flash_attention_2" and dtype is torch.float32:
                    continue
                row = f"{name} {str(dtype).removeprefix('torch.')} {attention}"
                yield row, lambda name=name, dtype=dtype, attention=attention: compare(name, dtype, attention)


def generation(args) -> Iterator[tuple[str, Callable]]:
    built = {}

    def of(name):
        if name not in built:
            built.clear()
            fresh_memory(args)
            start = synchronized(args)
            built[name] = (*build(name, args), synchronized(args) - start)
            built[name][0].requires_grad_(False)
        return built[name]

    @torch.no_grad()
    def measure(name: str, frames: int, count: int):
        model, processor, build_seconds = of(name)
        fresh_memory(args)
        batch = batch_of(processor, frames, count, args)
        limits = ceilings(args)
        text = {key: batch[key] for key in ("input_ids", "attention_mask")}
        media = model.encode_media(**batch)

        def encode():
            model.encode_media(**batch)

        def prefill():
            model(**text, media=media, logits_to_keep=1)

        def answer(tokens):
            options = {"do_sample": False, "max_new_tokens": tokens, "min_new_tokens": tokens}
            return model.generate(**text, media=media, **options)

        seconds = {"encode": median_seconds(encode, args, 3), "prefill": median_seconds(prefill, args, 3)}
        first = median_seconds(lambda: answer(1), args, 2, 1)
        seconds["decode"] = median_seconds(lambda: answer(NEW_TOKENS + 1), args, 2, 1) - first
        flops = {"encode": flops_of(encode), "prefill": flops_of(prefill)}
        weights = sum(p.numel() * p.element_size() for p in model.model.language_model.parameters())
        weights += sum(p.numel() * p.element_size() for p in model.lm_head.parameters())
        table = model.get_input_embeddings().weight
        weights -= table.numel() * table.element_size()  # one row of it is read
        step = seconds["decode"] / NEW_TOKENS
        return {
            "build_seconds": build_seconds,
            "prompt_tokens": batch["input_ids"].shape[1],
            "seconds": seconds,
            "flops": flops,
            "share_of_peak": {
                part: share(flops[part], seconds[part], limits.get("bf16_flop_per_second")) for part in flops
            },
            "tokens_per_second": count / step,
            "share_of_bandwidth": share(weights, step, limits.get("bytes_per_second")),
            "clips_per_second": count / sum(seconds.values()),
            "peak_gib": peak_gib(args),
        }

    for name in args.models:
        for frames in (8, 32):
            for count in (1, 4, 16):
                row = f"{name} {frames} frames batch {count}"
                yield row, lambda name=name, frames=frames, count=count: measure(name, frames, count)


def lifts(args) -> Iterator[tuple[str, Callable]]:
    built = {}

    @torch.no_grad()
    def measure(name: str, way: str):
        if name not in built:
            built.clear()
            fresh_memory(args)
            built[name] = build(name, args)
        model, processor = built[name]
        batch = batch_of(processor, 8, 1, args)
        text = {key: batch[key] for key in ("input_ids", "attention_mask")}
        media = model.encode_media(**batch)
        if "padded" in way:
            missing = -text["input_ids"].shape[1] % 64
            text = {key: torch.nn.functional.pad(value, (missing, 0)) for key, value in text.items()}
        options = {"do_sample": False}
        if "static" in way:
            options["cache_implementation"] = "static"
        if "static" in way and "compiled" not in way:
            options["disable_compile"] = True

        def answer(tokens):
            return model.generate(**text, media=media, max_new_tokens=tokens, min_new_tokens=tokens, **options)

        generated = answer(NEW_TOKENS + 1)[:, text["input_ids"].shape[1] :]
        step = (
            median_seconds(lambda: answer(NEW_TOKENS + 1), args, 3) - median_seconds(lambda: answer(1), args, 3)
        ) / NEW_TOKENS
        return {"tokens_per_second": 1 / step, "tokens": generated[0].tolist()}

    for name in args.models:
        for way in ("dynamic cache", "static cache", "static cache, compiled", "static cache, compiled, padded"):
            yield f"{name}: {way}", lambda name=name, way=way: measure(name, way)


def training(args) -> Iterator[tuple[str, Callable]]:
    from hf_emotion.training.recipe import limited_to, read_recipe
    from hf_emotion.training.train import four_bit, select

    necessary = {}

    def trainable(name: str, bits: int):
        model, processor = build(name, args)
        if bits == 4:
            try:
                import bitsandbytes  # noqa: F401
            except ImportError as error:
                raise SkippedError("4 bits need bitsandbytes, which is not installed") from error
            folder = args.output / f".{name}"
            model.save_pretrained(folder)
            model = type(model).from_pretrained(
                folder, quantization_config=four_bit(folder), device_map={"": args.device}, dtype=torch.bfloat16
            )
        recipe = read_recipe(RECIPES[name], args.size)
        parts = [part for part, _ in model.base_model.named_children()]
        return select(model, limited_to(recipe, parts)), processor

    def measure(name: str, count: int, checkpointing: bool, bits: int, cached: bool):
        fresh_memory(args)
        model, processor = trainable(name, bits)
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        batch = with_answer(inner, batch_of(processor, 8, count, args))
        if cached:
            media = {key: batch[key] for key in inner.media_inputs if key in batch}
            batch = {key: value for key, value in batch.items() if key not in media}
            batch |= inner.base_model.tower_features(**media)
        model.train()
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-5)

        def step():
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        if (name, cached) not in necessary:
            one = {key: value[:1] for key, value in batch.items()}
            necessary[name, cached] = flops_of(lambda: model(**one).loss.backward())
            optimizer.zero_grad()
        if checkpointing:
            inner.activation_checkpointing_enable()
        seconds = median_seconds(step, args, 5)
        flops = necessary[name, cached] * count
        return {
            "seconds": seconds,
            "clips_per_second": count / seconds,
            "necessary_flops": flops,
            "share_of_peak": share(flops, seconds, ceilings(args).get("bf16_flop_per_second")),
            "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "peak_gib": peak_gib(args),
        }

    for name in args.models:
        ways = [(count, checkpointing, 16, False) for count in (1, 4, 16) for checkpointing in (True, False)]
        for count, checkpointing, bits, cached in [*ways, (4, True, 4, False), (4, True, 16, True)]:
            row = f"{name} batch {count} {'checkpointing' if checkpointing else 'no checkpointing'} {bits} bits"
            row += " cached features" if cached else ""
            values = (name, count, checkpointing, bits, cached)
            yield row, lambda values=values: measure(*values)


def qformer(args) -> Iterator[tuple[str, Callable]]:
    from transformers import Blip2QFormerConfig

    from hf_emotion.modeling.qformer import UtteranceQFormer

    sys.path.insert(0, str(Path(__file__).parent))
    from utterance_qformer import WAYS, skewed_spans, ways_of

    def measure(count: int, dtype, backward: bool):
        width = 768 if args.size == "paper" else 128
        config = Blip2QFormerConfig(
            hidden_size=width,
            encoder_hidden_size=width,
            num_attention_heads=width // 64,
            intermediate_size=4 * width,
            num_hidden_layers=2,
            cross_attention_frequency=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        torch.manual_seed(0)
        model = UtteranceQFormer(config, 32, share_weights=True)
        model = model.to(args.device, dtype)
        features = torch.randn(4, 32, 32, width, device=args.device, dtype=dtype)
        batch = (
            torch.arange(32, device=args.device).mul(1000).expand(4, -1),
            skewed_spans(4, 32, count).to(args.device),
        )
        row = {}
        for name in WAYS:
            way, forward = ways_of(model)[name]

            def call(forward=forward, way=way):
                with torch.set_grad_enabled(backward):
                    output = forward(features, *batch)
                    if backward:
                        output.float().square().sum().backward()

            try:
                row[name] = median_seconds(call, args, 5)
            except torch.OutOfMemoryError:
                row[name] = None
            fresh_memory(args)
        row["windows"] = int((batch[1][..., 0] >= 0).sum()) + 4
        return {"seconds": row}

    for count in (1, 4, 16, 64):
        for dtype in (torch.float32, torch.bfloat16):
            for backward in (False, True):
                kind = "forward+backward" if backward else "forward"
                row = f"{count} utterances {str(dtype).removeprefix('torch.')} {kind}"
                yield row, lambda count=count, dtype=dtype, backward=backward: measure(count, dtype, backward)


def feed(args) -> Iterator[tuple[str, Callable]]:
    def measure(name: str):
        if args.data is None:
            raise SkippedError("give --data, a folder of clips")
        clips = sorted(path for path in args.data.rglob("*") if path.suffix in (".mp4", ".mov", ".mkv", ".webm"))[:32]
        model, processor = build(name, args)
        torch.set_num_threads(1)
        processor(videos=[str(clips[0])], return_tensors="pt")
        start, core = time.perf_counter(), time.process_time()
        for path in clips:
            processor(videos=[str(path)], return_tensors="pt")
        wall, core = time.perf_counter() - start, time.process_time() - core
        batch = batch_of(processor, 8, 16 if args.size == "paper" else 2, args)
        with torch.inference_mode():
            seconds = median_seconds(lambda: model.encode_media(**batch), args, 3)
        encoded = len(batch["input_ids"]) / seconds
        return {
            "clips": len(clips),
            "wall_seconds_a_clip": wall / len(clips),
            "core_seconds_a_clip": core / len(clips),
            "gpu_clips_per_second": encoded,
            "cores_one_gpu_needs": encoded * core / len(clips),
        }

    for name in args.models:
        yield name, lambda name=name: measure(name)


def cache(args) -> Iterator[tuple[str, Callable]]:
    def measure(name: str):
        from hf_emotion.data.rows import read_rows
        from hf_emotion.training.cache import FeatureCache

        if args.data is None:
            raise SkippedError("give --data, what make_demo or hf-emotion build wrote")
        rows = read_rows(args.data, "all")[: 500 if args.size == "paper" else 4]
        model, processor = build(name, args)
        folder = args.output / f"features_{name}"
        start = synchronized(args)
        made = FeatureCache.build(folder, model, processor, rows, num_workers=args.workers, skip_bad_rows=True)
        seconds = synchronized(args) - start
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return {"clips": len(made), "seconds": seconds, "clips_per_second": len(made) / seconds, "bytes": size}

    for name in args.models:
        yield name, lambda name=name: measure(name)


def grpo(args) -> Iterator[tuple[str, Callable]]:
    from hf_emotion.training.recipe import limited_to, read_recipe
    from hf_emotion.training.train import select

    def measure(name: str):
        fresh_memory(args)
        model, processor = build(name, args)
        inner = model
        recipe = read_recipe(RECIPES[name], args.size)
        model = select(model, limited_to(recipe, [part for part, _ in model.base_model.named_children()]))
        batch = batch_of(processor, 8, 1, args)
        media_inputs = {key: batch[key] for key in inner.media_inputs if key in batch}
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)

        def sample():
            inner.eval()
            with torch.no_grad():
                options = {"do_sample": True, "max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
                return inner.generate(**batch, num_return_sequences=GROUP, **options)

        def update(sequences):
            prompt = batch["input_ids"].shape[1]
            # Any reward serves to time a step: the share of even ids.
            rewards = (sequences[:, prompt:] % 2 == 0).float().mean(-1)
            advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
            repeated = {key: value.repeat_interleave(GROUP, 0) for key, value in media_inputs.items()}
            inner.train()
            logits = model(
                input_ids=sequences,
                attention_mask=torch.ones_like(sequences),
                logits_to_keep=NEW_TOKENS + 1,
                **repeated,
            ).logits[:, :-1]
            chosen = logits.float().log_softmax(-1).gather(-1, sequences[:, prompt:, None])[..., 0]
            (-(advantages[:, None] * chosen).mean()).backward()
            optimizer.step()
            optimizer.zero_grad()

        inner.activation_checkpointing_enable()
        sequences = sample()
        seconds = {"sample": median_seconds(sample, args, 2, 1)}
        seconds["update"] = median_seconds(lambda: update(sequences), args, 2, 1)
        return {"group": GROUP, "seconds": seconds, "peak_gib": peak_gib(args)}

    for name in args.models:
        yield name, lambda name=name: measure(name)


PARTS = {part.__name__: part for part in (machine, contract, generation, lifts, training, qformer, feed, cache, grpo)}


# Running


def read_rows(path: Path) -> dict[str, dict]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def run_part(part: str, args) -> None:
    """The rows of a part that are not yet in its file."""
    path = args.output / f"{part}.json"
    rows = read_rows(path)
    for name, measure in PARTS[part](args):
        if name in rows and "skipped" not in rows[name]:
            continue
        try:
            rows[name] = measure()
        except SkippedError as reason:
            rows[name] = {"skipped": str(reason)}
        except torch.OutOfMemoryError as error:
            rows[name] = {"skipped": f"out of memory: {str(error).splitlines()[0][:200]}"}
        print(f"{part}: {name}: {json.dumps(rows[name])[:400]}", flush=True)
        write_whole(path, json.dumps(rows, indent=1) + "\n")


def run_all(args, argv: list[str]) -> None:
    stopped = {}
    for part in args.parts:
        command = [sys.executable, __file__, *argv, "--one", part]
        try:
            code = subprocess.run(command, timeout=args.minutes * 60, check=False).returncode
        except subprocess.TimeoutExpired:
            stopped[part] = f"stopped after {args.minutes} minutes; run again to continue with the next row"
            continue
        if code:
            stopped[part] = f"ended with exit code {code}"
    versions = {"python": platform.python_version(), "torch": torch.__version__, "cores": os.cpu_count()}
    device = torch.cuda.get_device_name() if args.device.startswith("cuda") else args.device
    results = {
        "device": device,
        "size": args.size,
        **versions,
        "stopped": stopped,
        "parts": {part: read_rows(args.output / f"{part}.json") for part in PARTS},
    }
    write_whole(args.output / "gpu.json", json.dumps(results, indent=1) + "\n")
    plot(results, args.output / "gpu.png")
    for part, reason in stopped.items():
        print(f"{part}: {reason}")
    print(f"wrote {args.output / 'gpu.json'} and its plot")


def plot(results: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(16, 8), layout="constrained")
    panels = (
        ("generation", "share of peak FLOP/s, prefill", lambda row: (row.get("share_of_peak") or {}).get("prefill")),
        ("generation", "share of memory bandwidth, decoding", lambda row: row.get("share_of_bandwidth")),
        ("training", "share of peak FLOP/s, LoRA step", lambda row: row.get("share_of_peak")),
    )
    for axis, (part, title, value) in zip(axes, panels, strict=True):
        rows = {name: value(row) for name, row in results["parts"][part].items() if value(row) is not None}
        axis.barh(list(rows), list(rows.values()))
        axis.invert_yaxis()
        axis.set_title(f"{title}\n{results['device']}", fontsize=10)
        axis.tick_params(labelsize=7)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--models", nargs="+", choices=PAPERS, default=list(RECIPES))
    parser.add_argument("--size", default="paper", choices=("paper", "tiny"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=8, help="longest run of a part (default 8)")
    parser.add_argument("--data", type=Path, help="clips for feed and cache: what make_demo wrote")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2), help="decoding processes")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "gpu")
    parser.add_argument("--one", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("no GPU is available; --size tiny --device cpu --output DIR rehearses every step without one")
    args.output.mkdir(parents=True, exist_ok=True)
    if args.one:
        run_part(args.one, args)
    else:
        run_all(args, sys.argv[1:])


if __name__ == "__main__":
    main()
