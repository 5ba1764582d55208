"""One training step of MicroEmo at paper size on a GPU: memory, time with and without cached features, generation.

    python benchmarks/gpu_training.py --output benchmarks/results/gpu_training.json
    python benchmarks/gpu_training.py --size tiny --device cpu --output /dev/null     # does everything, shows nothing

The weights are random and in bfloat16; what is measured does not depend on their values. As in the paper: LoRA and the
parts it tunes, batch 1, 8 frames; activation checkpointing, so that the peak can be set against the paper's card, "a
single NVIDIA A40 (49G)" (arXiv 2407.16552, section 4.1).
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import torch

from hf_emotion.papers import PAPERS, tiny_tokenizer
from hf_emotion.training.recipe import limited_to, read_recipe
from hf_emotion.training.train import select

CARD_GB = 48
FRAMES, UTTERANCES, CHUNKS, ANSWER_TOKENS = 8, 3, 8, 128


def build_on(device: str, size: str):
    """MicroEmo with random weights in bfloat16, made where it will stand, and the tiny tokenizer's processor."""
    paper = PAPERS["microemo"]
    fields = {"vocab_size": len(tiny_tokenizer())} if size == "tiny" else {}
    config = paper.config(size, **fields)
    processor = paper.processor(config)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = paper.model(config)
    finally:
        torch.set_default_dtype(before)
    for kind in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(model.generation_config, kind, getattr(processor.tokenizer, kind))
    return model, processor


def batch_of(model, count: int, device: str) -> dict[str, torch.Tensor]:
    """`count` clips of noise in the processor's shapes: 8 frames with faces, 3 utterances, 8 chunks of sound."""
    config = model.config
    size, patch = config.vision_config.image_size, config.vision_config.patch_size
    generator = torch.Generator().manual_seed(0)
    times = (torch.arange(FRAMES) * 1000).repeat(count, 1)
    regions = torch.zeros(count, FRAMES, config.num_regions, (size // patch) ** 2, dtype=torch.bool)
    regions[..., :20] = True
    spans = torch.tensor([[i * 2000, (i + 1) * 2000] for i in range(UTTERANCES)]).repeat(count, 1, 1)
    tokens = config.tokens_per_clip(FRAMES, UTTERANCES)
    prompt = [1, *[config.video_token_id] * tokens["video"], *[config.audio_token_id] * tokens["audio"]]
    prompt += words(config, 100)
    batch = {
        "input_ids": torch.tensor([prompt]).repeat(count, 1),
        "pixel_values_videos": torch.randn(count, FRAMES, 3, size, size, generator=generator),
        "video_times": times,
        "video_region_masks": regions,
        "video_timestamp_ids": torch.randint(5, 100, (count, FRAMES, 12), generator=generator),
        "video_timestamp_mask": torch.ones(count, FRAMES, 12, dtype=torch.long),
        "utterance_spans": spans,
        "input_features": torch.randn(count, CHUNKS, 128, 204, generator=generator),
        "audio_attention_mask": torch.ones(count, CHUNKS, dtype=torch.bool),
    }
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    return {name: tensor.to(device) for name, tensor in batch.items()}


def words(config, count: int) -> list[int]:
    """Ids of ordinary tokens."""
    media = (config.video_token_id, config.audio_token_id)
    return [token for token in range(10, 10 + count + len(media)) if token not in media][:count]


def with_answer(config, batch: dict) -> dict:
    """The batch with 128 tokens of answer, and labels on them."""
    answer = torch.tensor([words(config, ANSWER_TOKENS)] * len(batch["input_ids"])).to(batch["input_ids"])
    ids = torch.cat([batch["input_ids"], answer], dim=1)
    labels = ids.clone()
    labels[:, :-ANSWER_TOKENS] = -100
    return {**batch, "input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def waited(device: str) -> float:
    """The time, when the device has done its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def train_steps(model, batch, device: str, steps: int) -> dict:
    """Median seconds of a step of forward, backward and AdamW, and the peak of memory."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-5)
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(steps + 2):
        started = waited(device)
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(waited(device) - started)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.startswith("cuda") else None
    return {"seconds_per_step": statistics.median(seconds[2:]), "peak_gib": peak, "loss": loss.item()}


@torch.no_grad()
def throughput(model, count: int, device: str, new_tokens: int) -> dict:
    """Tokens a second of greedy generation for `count` clips at once, from pixels and sound on."""
    model.eval()
    batch = batch_of(model.get_base_model(), count, device)
    options = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}
    model.generate(**batch, **{**options, "max_new_tokens": 2, "min_new_tokens": 2})
    started = waited(device)
    model.generate(**batch, **options)
    seconds = waited(device) - started
    return {"batch": count, "seconds": seconds, "tokens_per_second": count * new_tokens / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="paper", choices=("paper", "tiny"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/gpu_training.json"))
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("no GPU is here; --size tiny --device cpu goes through the same steps at tiny size")
    model, _ = build_on(args.device, args.size)
    recipe = read_recipe("microemo_1_instruction", args.size)
    parameters = sum(p.numel() for p in model.parameters())
    model = select(model, limited_to(recipe, [part for part, _ in model.base_model.named_children()]))
    inner = model.get_base_model()
    inner.activation_checkpointing_enable()
    batch = with_answer(inner.config, batch_of(inner, 1, args.device))
    names = [name for name in batch if name in inner.media_inputs]
    cached = {name: tensor for name, tensor in batch.items() if name not in names}
    cached |= inner.base_model.tower_features(**{name: batch[name] for name in names})
    result = {
        "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else args.device,
        "torch": torch.__version__,
        "size": args.size,
        "parameters": parameters,
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "prompt_and_answer_tokens": batch["input_ids"].shape[1],
        "step_from_pixels": train_steps(model, batch, args.device, args.steps),
        "step_from_features": train_steps(model, cached, args.device, args.steps),
    }
    pixels, features = result["step_from_pixels"], result["step_from_features"]
    result["speed_ratio_of_features"] = pixels["seconds_per_step"] / features["seconds_per_step"]
    if pixels["peak_gib"] is not None:
        result["fits_the_papers_card"] = pixels["peak_gib"] < CARD_GB * 1e9 / 2**30
    inner.activation_checkpointing_disable()
    result["generate"] = [throughput(model, count, args.device, args.new_tokens) for count in (1, 16)]
    text = json.dumps(result, indent=2)
    print(text)
    if args.output != Path("/dev/null"):
        args.output.parent.mkdir(parents=True, exist_ok=True)
        unfinished = args.output.with_name(f".{args.output.name}.{os.getpid()}")
        unfinished.write_text(text + "\n", encoding="utf-8")
        os.replace(unfinished, args.output)


if __name__ == "__main__":
    main()
