"""What the feature cache saves: time of training steps at tiny size, arithmetic of a step at paper size.

    python benchmarks/feature_cache.py --output benchmarks/results/feature_cache.json

Time is measured side by side in one run, as ratios: a step from clips (decoded, processed, through the towers), a step
from samples processed before (through the towers), a step from cached features. Arithmetic is counted, not run: towers
and language model of the paper size stand on the meta device, where they have shapes and no weights. The Q-Formers and
projectors between them run either way and are small beside them; they are left out of the count, and named in the
result.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from hf_emotion.data.demo import make_demo
from hf_emotion.papers import PAPERS, build
from hf_emotion.training.cache import FeatureCache
from hf_emotion.training.collator import EmotionCollator, encode
from hf_emotion.training.recipe import limited_to, read_recipe
from hf_emotion.training.train import select

RECIPES = {
    "microemo": "microemo_1_instruction",
    "acoustemo": "acoustemo_1_instruction",
    "omni_emotion": "omni_emotion_3_tune",
    "esva": "esva_1_emotion",
}
FRAMES, SECONDS, UTTERANCES, TEXT_TOKENS = 8, 10, 3, 256


def step_times(name: str, rows: list[dict], folder: Path, repeats: int) -> dict:
    """Median seconds of a training step over `rows` in the three ways, and of making the cache, per clip."""
    model, processor = build(name)
    options = {"num_frames": FRAMES}
    started = time.perf_counter()
    features = FeatureCache.build(folder, model, processor, rows, **options)
    making = time.perf_counter() - started
    recipe = read_recipe(RECIPES[name], "tiny")
    model = select(model, limited_to(recipe, [part for part, _ in model.base_model.named_children()])).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    made = [encode(processor, [row], **options) for row in rows]
    ways = {
        "clips": (EmotionCollator(processor, **options), rows),
        "processed": (EmotionCollator(processor), made),
        "features": (EmotionCollator(processor, features, **options), rows),
    }
    seconds = {way: [] for way in ways}
    losses = {}
    for repeat in range(repeats + 1):
        for way, (collate, source) in ways.items():
            started = time.perf_counter()
            loss = model(**collate(source)).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if repeat:  # the first of each warms up
                seconds[way].append(time.perf_counter() - started)
            losses[way] = loss.item()
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    return {
        "seconds_per_step": medians,
        "seconds_to_make_per_clip": making / len(rows),
        "speed_ratio_from_clips": medians["clips"] / medians["features"],
        "speed_ratio_from_processed_samples": medians["processed"] / medians["features"],
        "clips_per_step": len(rows),
        "bytes_per_clip": sum(path.stat().st_size for path in folder.glob("*.arrow")) / len(rows),
    }


def flops_of(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def tower_inputs(name: str, config) -> dict[str, tuple]:
    """What each tower reads of a clip of ten seconds at paper size."""
    chunk = (128, 204)  # mel bins and frames of two seconds
    if name == "microemo":
        return {"vision_tower": (FRAMES, 3, 224, 224), "audio_tower": (8, *chunk)}
    if name == "acoustemo":
        return {"vision_tower": (FRAMES, 3, 224, 224), "audio_tower": (SECONDS // 2, *chunk)}
    if name == "omni_emotion":
        size = config.vision_config.image_size
        return {
            "vision_tower": (FRAMES, 3, size, size),
            "face_tower": (FRAMES, 3, 224, 224),
            "audio_tower": (1, 128, 3000),
        }
    return {
        "vision_tower": (1, 3, 448, 448),
        "face_tower": (64, 3, 224, 224),
        "motion_tower": (4, 16, 3, 224, 224),
        "audio_tower": (1, 16000 * SECONDS),
    }


def step_flops(name: str) -> dict:
    """Floating-point operations of one training step of one clip at paper size, in the towers and behind them."""
    paper = PAPERS[name]
    with torch.device("meta"):
        config = paper.config("paper")
        model = paper.model(config).to(torch.bfloat16)
    base = model.base_model
    towers = {}
    for part, shape in tower_inputs(name, config).items():
        tower = getattr(base, part)
        with torch.no_grad():
            towers[part] = flops_of(
                lambda tower=tower, shape=shape: tower(torch.empty(shape, dtype=torch.bfloat16, device="meta"))
            )
    lora = read_recipe(RECIPES[name]).lora is not None
    base.language_model.requires_grad_(not lora)
    model.lm_head.requires_grad_(not lora)
    media = config.tokens_per_clip(FRAMES, UTTERANCES)
    length = sum(media.values()) + TEXT_TOKENS

    def language_model():
        shape = (1, length, config.text_config.hidden_size)
        embeds = torch.empty(shape, dtype=torch.bfloat16, device="meta", requires_grad=True)
        # A mask that is there already: one is otherwise made by looking at values, which meta tensors lack.
        mask = torch.empty(1, 1, length, length, dtype=torch.bfloat16, device="meta")
        output = base.language_model(inputs_embeds=embeds, attention_mask=mask, use_cache=False)
        model.lm_head(output.last_hidden_state).sum().backward()

    behind = {"language_model": flops_of(language_model)}
    counted = set(towers) | set(behind)
    before, after = sum(towers.values()), sum(behind.values())
    return {
        "towers": towers,
        "behind": behind,
        "prompt_tokens": length,
        "not_counted": sorted(part for part, _ in base.named_children() if part not in counted),
        "flop_ratio": (before + after) / after,
        "towers_share": before / (before + after),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--papers", nargs="+", default=list(PAPERS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/feature_cache.json"))
    args = parser.parse_args()
    result = {"torch": torch.__version__, "threads": torch.get_num_threads(), "machine": platform.processor()}
    with tempfile.TemporaryDirectory() as folder:
        rows = make_demo(Path(folder, "demo"), 4, cues=("face",), size=160, num_workers=0, progress=False)
        result["tiny"] = {name: step_times(name, rows, Path(folder, name), args.repeats) for name in args.papers}
    result["paper"] = {name: step_flops(name) for name in args.papers}
    for name in args.papers:
        tiny, paper = result["tiny"][name], result["paper"][name]
        print(
            f"{name}: tiny, a step is {tiny['speed_ratio_from_clips']:.1f}x as fast as from clips, "
            f"{tiny['speed_ratio_from_processed_samples']:.2f}x as from processed samples; paper size, "
            f"{paper['flop_ratio']:.2f}x fewer operations (towers {paper['towers_share']:.0%})"
        )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = args.output.with_name(f".{args.output.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, args.output)


if __name__ == "__main__":
    main()
