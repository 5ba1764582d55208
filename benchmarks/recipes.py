"""Each recipe at tiny size: its loss, and that a run killed in mid-epoch and resumed ends with the same weights.

    python benchmarks/recipes.py --output benchmarks/results/recipes.json
    python benchmarks/recipes.py --recipes     # of no phase: the sizes of adapters at paper size alone

For every shipped phase: an uninterrupted run, and one that is killed by SIGKILL as soon as it has written a checkpoint
within its second epoch, and then resumed. All three are processes of their own, on CPU, from the same cached features
and the same seed. Later phases start from what the uninterrupted run of the phase before wrote.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from hf_emotion.data.demo import make_demo
from hf_emotion.papers import PAPERS, build
from hf_emotion.training.cache import FeatureCache
from hf_emotion.training.recipe import REPORT, Recipe, limited_to, read_recipe, recipe_names
from hf_emotion.training.train import last_checkpoint, select

CLIPS, BATCH, EPOCHS, FRAMES = 6, 2, 3, 2


def command(recipe: Recipe, start: Path, demo: Path, features: Path, output: Path) -> list[str]:
    steps = -(-CLIPS // BATCH) * len(recipe.tasks)
    settings = {"use_cpu": True, "save_strategy": "steps", "save_steps": 1, "save_total_limit": EPOCHS * steps}
    settings |= {"batch_size": BATCH, "epochs": EPOCHS, "num_frames": FRAMES}
    if recipe.max_steps is not None:
        settings["max_steps"] = None
    pairs = [text for key, value in settings.items() for text in ("--set", f"{key}={json.dumps(value)}")]
    run = [sys.executable, "-m", "hf_emotion.cli", "train", recipe.name, "--size", "tiny", "--data", str(demo)]
    return [*run, "--start-from", str(start), "--features", str(features), "--output", str(output), *pairs]


def kill_in_mid_epoch(arguments: list[str], phase: Path, after: int) -> dict:
    """Run until the first checkpoint past step `after`, then SIGKILL; the state in the last whole checkpoint."""
    child = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (phase / f"checkpoint-{after + 1}" / "trainer_state.json").is_file():
        if child.poll() is not None:
            raise RuntimeError(f"{' '.join(arguments)} ended with {child.returncode} before it could be killed")
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    if (phase / REPORT).exists():
        raise RuntimeError(f"{phase} was complete before it could be killed")
    return json.loads(Path(last_checkpoint(phase), "trainer_state.json").read_text(encoding="utf-8"))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    adapter = folder / "adapter_model.safetensors"
    return load_file(adapter if adapter.is_file() else folder / "model.safetensors")


def prove(recipe: Recipe, start: Path, demo: Path, features: Path, folder: Path) -> tuple[dict, Path]:
    """The proof for one phase, and the folder that its uninterrupted run wrote."""
    phase = f"phase_{recipe.phase}"
    whole = command(recipe, start, demo, features, folder / "whole")
    subprocess.run(whole, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    report = json.loads((folder / "whole" / phase / REPORT).read_text(encoding="utf-8"))
    steps = len(report["loss"])
    arguments = command(recipe, start, demo, features, folder / "killed")
    state = kill_in_mid_epoch(arguments, folder / "killed" / phase, after=steps // EPOCHS)
    subprocess.run([*arguments, "--resume"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    expected, resumed = (weights_of(folder / kind / phase) for kind in ("whole", "killed"))
    largest = max((expected[name] - resumed[name]).abs().max().item() for name in expected)
    epoch = steps // EPOCHS
    result = {
        "steps": steps,
        "killed_at_step": state["global_step"],
        "killed_at_epoch": state["epoch"],
        "killed_in_mid_epoch": state["global_step"] % epoch != 0,
        "tensors": len(expected),
        "same_weights": all(torch.equal(expected[name], resumed[name]) for name in expected),
        "largest_difference": largest,
        "loss_of_first_epoch": sum(report["loss"][:epoch]) / epoch,
        "loss_of_last_epoch": sum(report["loss"][-epoch:]) / epoch,
        "trained_parts": sorted(report["recipe"]["trains"]),
        "lora": report["recipe"]["lora"],
    }
    return result, folder / "whole" / phase


def write(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def adapter_size(recipe: Recipe) -> dict:
    """Parameters at paper size: of the base, and of what the recipe's adapter holds; counted without weights."""
    paper = PAPERS[recipe.model]
    with torch.device("meta"):
        model = paper.model(paper.config("paper", **recipe.fields))
        base = sum(parameter.numel() for parameter in model.parameters())
        recipe = limited_to(recipe, [name for name, _ in model.base_model.named_children()])
        adapted = select(model, recipe)
    trained = [(name, parameter.numel()) for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    total = sum(count for _, count in trained)
    lora = sum(count for name, count in trained if "lora_" in name)
    return {"base_parameters": base, "adapter_parameters": total, "of_it_lora": lora, "share": total / base}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="*", default=recipe_names(), help="by name (default: all)")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/recipes.json"))
    args = parser.parse_args()
    content = json.loads(args.output.read_text(encoding="utf-8")) if args.output.is_file() else {"recipes": {}}
    with_lora = [read_recipe(name) for name in recipe_names() if read_recipe(name).lora]
    content |= {"torch": torch.__version__, "adapters": {item.name: adapter_size(item) for item in with_lora}}
    for name, size in content["adapters"].items():
        print(f"{name}: an adapter of {size['adapter_parameters']:,} parameters, {size['share']:.1%} of its base's")
    write(args.output, content)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        options = {"cues": ("prosody",), "emotions": ("angry", "sad"), "controls": 0.0, "size": 96, "fps": 4}
        rows = make_demo(folder / "demo", 2 * CLIPS, **options, num_workers=0, progress=False)
        train = [row for row in rows if row["split"] == "train"]
        ends = {}
        for name in args.recipes:
            recipe = read_recipe(name, "tiny")
            family = name.split(f"_{recipe.phase}_")[0]
            start = ends.get(family)
            if start is None:
                model, processor = build(recipe.model, **recipe.fields)
                start = folder / family / "start"
                model.save_pretrained(start)
                processor.save_pretrained(start)
            else:
                model, processor = build(recipe.model, **recipe.fields)
            modalities = [kind for kind in recipe.modalities if kind in processor.modalities]
            features = folder / name / "features"
            FeatureCache.build(features, model, processor, train, num_frames=FRAMES, modalities=modalities)
            content["recipes"][name], ends[family] = prove(recipe, start, folder / "demo", features, folder / name)
            figures = content["recipes"][name]
            print(
                f"{name}: loss {figures['loss_of_first_epoch']:.3f} -> {figures['loss_of_last_epoch']:.3f}, killed at "
                f"epoch {figures['killed_at_epoch']:.2f}, same weights: {figures['same_weights']}",
                flush=True,
            )
            write(args.output, content)


if __name__ == "__main__":
    main()
