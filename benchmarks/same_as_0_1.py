"""Do folders saved by 0.1.0 still give the same tensors, logits and training losses?

    python benchmarks/same_as_0_1.py

Checks out the commit of 0.1.0 beside this one, lets its code save a folder for every model and variant of its own
contract (tests/test_modeling_common.py at that commit, ablations and more), with a batch, the logits of the reloaded
folder and the losses of two training steps; then loads the folders with the present code and compares. Tensors, logits
and both losses are compared bit for bit. Writes results/same_as_0_1.json, and with --names also
tests/same_as_0_1.json, which a fast test reads.
"""

import argparse
import hashlib
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
COMMIT = "5db6b59"  # 0.1.0
RESULT = ROOT / "benchmarks" / "results" / "same_as_0_1.json"
NAMES = ROOT / "tests" / "same_as_0_1.json"

# Beside the ablations of the contract: fields of each model that change what is computed, in values other than default.
VARIANTS = {
    "microemo": [
        {"local_fusion": "sum"},
        {"local_fusion": "concat", "local_dynamics": True},
        {"local_qformer": "separate", "share_video_qformers": True},
        {"audio_config": None},
    ],
    "acoustemo": [
        {"rounding": "paper"},
        {"num_audio_positions": 0},
        {"audio_layers": [0, 1, -1], "audio_layer_reduction": "sum"},
        {"vision_config": None},
    ],
    "omni_emotion": [{"num_frame_positions": 2}, {"missing_modality": "zero_feature"}],
    "esva": [
        {"msfe_kernel_sizes": [], "use_alignment": False, "contrast_weight": 0.0},  # Emotion-LLaMA
        {"msfe_depthwise": True, "msfe_residual": False},
        {"audio_tokens": 4},
        {"alignment_training": "search"},
        {"alignment_training": "search", "alignment_selection": "softmin"},
        {"alignment_search": "global", "apply_offset": False},
        {"controller": "fuzzy"},
        {"controller": "neural"},
        {"controller": "backstepping"},
        {"contrast_queue_size": 8},
    ],
}


def contract(folder: Path):
    """The contract's test file of a checkout, as a module."""
    path = folder / "tests" / "test_modeling_common.py"
    specification = importlib.util.spec_from_file_location("contract", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def results_of(model, batch) -> dict[str, torch.Tensor]:
    """Logits of a batch (B, S, V) and the losses (2,) of two training steps on it."""
    labels = torch.full_like(batch["input_ids"], -100)
    labels[:, -4:] = batch["input_ids"][:, -4:]
    with torch.no_grad():
        logits = model.eval()(**batch).logits
    model.train()
    # Sorted by name: clipping sums the norms of the gradients in the order given, and parts are registered in another
    # order than in 0.1.0, so the sum would round otherwise and the second loss differ in its last bit.
    parameters = [parameter for _, parameter in sorted(model.named_parameters())]
    optimizer = torch.optim.SGD(parameters, lr=1e-2)
    losses = []
    torch.manual_seed(0)
    for _ in range(2):
        loss = model(**batch, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return {"logits": logits, "losses": torch.stack(losses)}


def save(checkout: Path, folder: Path) -> None:
    """With the old code: one folder for each model and variant."""
    cases = contract(checkout).CASES
    names = {}
    for name, case in cases.items():
        names[name] = digest(case.model())
        for place, fields in enumerate([{}, *case.ablations, *VARIANTS.get(name, [])]):
            case_folder = folder / f"{name}-{place}"
            model = case.model(**fields)
            batch = case.batch(model.config)
            unread = {"vision_config": ("pixel_values_videos", "video_times"), "audio_config": ("input_features",)}
            for part, inputs in unread.items():
                if part in fields:
                    batch = {input_: value for input_, value in batch.items() if input_ not in inputs}
            if name in ("microemo", "acoustemo"):
                batch["input_ids"], batch["attention_mask"] = prompts_of(case, model.config, batch, fields)
            model.save_pretrained(case_folder)
            # Weights made in memory lie on other boundaries, where products may round otherwise in the last bits.
            again = case.model_class.from_pretrained(case_folder)
            torch.save(batch, case_folder / "batch.pt")
            inputs = sorted(inspect.signature(again.forward).parameters)
            torch.save(
                {"tensors": shapes_of(again), "inputs": inputs, "fields": fields, **results_of(again, batch)},
                case_folder / "results.pt",
            )
    (folder / NAMES.name).write_text(json.dumps(names, indent=1) + "\n", encoding="utf-8")


def prompts_of(case, config, batch, fields):
    """The prompts of the contract's batch without the placeholders of a tower that the variant lacks."""
    gone = [
        getattr(config, f"{medium}_token_id")
        for medium, part in (("video", "vision_config"), ("audio", "audio_config"))
        if part in fields
    ]
    ids, mask = batch["input_ids"].clone(), batch["attention_mask"].clone()
    for token in gone:
        mask[ids == token] = 0
        ids[ids == token] = 0
    return ids, mask


def shapes_of(model) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


def digest(model) -> dict:
    """The tensors of a model in few lines: their names with numbers left out, how many, and a hash of names and
    shapes."""
    shapes = shapes_of(model)
    lines = "\n".join(f"{name} {shape}" for name, shape in sorted(shapes.items()))
    return {
        "inputs": sorted(name for name in inspect.signature(model.forward).parameters if name != "kwargs"),
        "tensors": len(shapes),
        "sha256": hashlib.sha256(lines.encode()).hexdigest(),
        "names": sorted({re.sub(r"\.\d+\.", ".*.", name) for name in shapes}),
    }


def compare(folder: Path) -> list[dict]:
    """With the present code: load each folder and compare what it gives."""
    from transformers import AutoModelForMultimodalLM

    import hf_emotion  # noqa: F401

    rows = []
    for case_folder in sorted(path for path in folder.iterdir() if path.is_dir()):
        before = torch.load(case_folder / "results.pt", weights_only=False)
        model, report = AutoModelForMultimodalLM.from_pretrained(case_folder, output_loading_info=True)
        now = results_of(model, torch.load(case_folder / "batch.pt"))
        rows.append(
            {
                "model": case_folder.name.rpartition("-")[0],
                "fields": before["fields"],
                "tensors": len(before["tensors"]),
                "tensor_names_equal": before["tensors"] == shapes_of(model) and not any(report.values()),
                "inputs_lost": sorted(set(before["inputs"]) - set(inspect.signature(model.forward).parameters)),
                "logits_equal": torch.equal(before["logits"], now["logits"]),
                "first_loss_equal": torch.equal(before["losses"][0], now["losses"][0]),
                "second_loss_difference": (before["losses"][1] - now["losses"][1]).abs().item(),
                "losses": now["losses"].tolist(),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", default=COMMIT, help="commit of the old code (default: %(default)s, 0.1.0)")
    parser.add_argument("--output", type=Path, default=RESULT, help="JSON file (default: %(default)s)")
    parser.add_argument("--names", action="store_true", help=f"also write {NAMES.relative_to(ROOT)}")
    parser.add_argument("--save", type=Path, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.save:
        save(*arguments.save)
        return
    with tempfile.TemporaryDirectory() as temporary:
        checkout, folder = Path(temporary) / "checkout", Path(temporary) / "folders"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(checkout), arguments.commit], check=True)
        try:
            environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
            command = [sys.executable, __file__, "--save", str(checkout), str(folder)]
            subprocess.run(command, check=True, env=environment, cwd=temporary)
        finally:
            subprocess.run([*git, "remove", "--force", str(checkout)], check=True)
        if arguments.names:
            NAMES.write_text((folder / NAMES.name).read_text(encoding="utf-8"), encoding="utf-8")
        rows = compare(folder)
    whole = {
        "commit": arguments.commit,
        "rows": len(rows),
        "tensor_names_equal": sum(row["tensor_names_equal"] for row in rows),
        "logits_equal": sum(row["logits_equal"] for row in rows),
        "first_loss_equal": sum(row["first_loss_equal"] for row in rows),
        "second_loss_equal": sum(row["second_loss_difference"] == 0 for row in rows),
        "largest_second_loss_difference": max(row["second_loss_difference"] for row in rows),
    }
    arguments.output.write_text(json.dumps({**whole, "variants": rows}, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(whole, indent=1))
    for row in rows:
        equal = row["tensor_names_equal"] and row["logits_equal"] and row["first_loss_equal"]
        if not equal or row["second_loss_difference"] or row["inputs_lost"]:
            print(json.dumps(row))


if __name__ == "__main__":
    main()
