"""Tiny checkpoints in the authors' names, converted and used in every way: predict, batch, beams, stream, LoRA, Hub.

    python benchmarks/converted_models.py /path/to/face_clips

For each released model that the package converts, a checkpoint of random weights is written with the names, files and
wrappers of the authors' own. `hf-emotion convert` and `hf-emotion init --parts` make a model folder of it, which

- goes through `hf-emotion predict` on every video and picture of the folder given,
- answers two clips in one batch as it does each alone, and reads a clip once for three beams,
- streams the answer that it gives at once,
- takes one step of LoRA that moves the adapter's second matrices and nothing else,
- is refused by `hf-emotion push --public` where its licence forbids that, and published privately to a loopback Hub,
- is loaded by its id in a process where `hf_emotion` cannot be imported: the logits are compared bit by bit.

The result is written to benchmarks/results/converted_models.json.
"""

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import peft
import torch
from transformers import AutoModelForMultimodalLM, InstructBlipConfig, InstructBlipForConditionalGeneration, logging

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import test_convert
import test_convert_released
from fake_hub import environment, start
from part_folders import text_part

from hf_emotion.answers.pipeline_emotion import EmotionRecognitionPipeline
from hf_emotion.cli import main as command
from hf_emotion.inference import load

RESULTS = Path(__file__).with_name("results") / "converted_models.json"
SUFFIXES = (".mp4", ".mov", ".jpg", ".png", ".webm", ".mkv", ".avi")
QUESTION = "Which emotions does the person show?"
GREEDY = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}

RELOAD = """
import sys
sys.modules["hf_emotion"] = None  # any import of it now fails
import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor
repository, stored, result = sys.argv[1:]
torch.set_num_threads(1)
AutoProcessor.from_pretrained(repository, trust_remote_code=True)
model = AutoModelForMultimodalLM.from_pretrained(repository, trust_remote_code=True).eval()
batch = torch.load(stored)
with torch.no_grad():
    logits = model(**batch).logits
assert type(model).__module__.startswith("transformers_modules")
torch.save({"logits": logits}, result)
"""


def video_llama_folder(folder):
    """MicroEmo from Video-LLaMA's Q-Formers, ImageBind and EVA in the authors' names."""
    text = text_part(folder / "text", "llama")
    composite = InstructBlipConfig(
        vision_config={"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
                       "image_size": 16, "patch_size": 4},
        qformer_config={**test_convert.SIZES, "num_hidden_layers": 2, "vocab_size": 2112, "encoder_hidden_size": 32},
        text_config=test_convert.llama_config().to_dict(),
        num_query_tokens=5,
    )  # fmt: skip
    torch.manual_seed(0)
    InstructBlipForConditionalGeneration(composite).save_pretrained(folder / "instructblip")
    torch.save(test_convert.PeerImageBind().state_dict_of_file(), folder / "imagebind.pth")
    torch.save({"model": test_convert.videollama_state_dict(text_qformer=False)}, folder / "video_llama.pth")
    for name, file, size in (
        ("imagebind-audio", "imagebind", "num_attention_heads=3"),
        ("video-llama", "video_llama", "head_size=8"),
    ):
        words = [name, str(folder / f"{file}.pth"), "--allow-pickle", "--set", size, "--output", str(folder / file)]
        assert command(["convert", *words]) == 0
    parts = {"vision": "instructblip", "qformer": "instructblip", "audio": "imagebind", "video_llama": "video_llama"}
    given = [f"{part}={folder / source}" for part, source in parts.items()]
    sizes = ["--set", "region_attention_size=16", "--set", "region_attention_heads=2"]
    words = ["microemo", "--parts", *given, f"text={text}", f"qformer_tokenizer={text}", *sizes]
    assert command(["init", *words, "--output", str(folder / "model")]) == 0
    return folder / "model"


FOLDERS = {**test_convert_released.FOLDERS, "video-llama": video_llama_folder}


def quietly(words) -> tuple[int, str, str]:
    """Exit code, output and errors of a command."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = command(words)
    return code, out.getvalue(), errors.getvalue()


def predicted(folder, clips) -> dict:
    code, out, _ = quietly(["predict", *map(str, clips), "--model", str(folder), "--max-new-tokens", "8", "--json"])
    answers = json.loads(out)
    return {
        "exit_code": code,
        "clips": {
            Path(answer["clip"]).name: {
                "modalities": answer["modalities"],
                "characters": len(answer["description"]),
            }
            for answer in answers
        },
    }


def asked(model, processor, clips) -> dict:
    """Batch, beams and stream."""
    together = processor(videos=clips, text=[QUESTION] * len(clips), return_tensors="pt")
    answers = model.generate(**together, **GREEDY)[:, -8:]
    alike = 0
    for clip, answer in zip(clips, answers, strict=True):
        alone = processor(videos=[clip], text=[QUESTION], return_tensors="pt")
        alike += torch.equal(model.generate(**alone, **GREEDY)[0, -8:], answer)
    calls = []
    hook = model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    beams = model.generate(**alone, num_beams=3, num_return_sequences=3, max_new_tokens=8, do_sample=False)
    hook.remove()
    pipe = EmotionRecognitionPipeline(model=model, processor=processor)
    streamed = "".join(pipe.stream(clips[0], max_new_tokens=8))
    whole = pipe(clips[0], max_new_tokens=8)["description"]
    return {
        "clips_answered_in_a_batch_as_alone": f"{alike} of {len(clips)}",
        "beams": len(beams),
        "passes_of_the_vision_tower_for_all_beams": len(calls),
        "streamed_answer_is_the_answer": streamed.strip() == whole.strip(),
    }


def adapted(folder, batch) -> dict:
    """One step of LoRA."""
    model = AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=False)
    pattern = r"model\.language_model\.layers\.\d+\.self_attn\.(q|v)_proj"
    lora = peft.LoraConfig(r=2, target_modules=pattern, task_type="CAUSAL_LM")
    trained = peft.get_peft_model(model, lora).train()
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    limit = model.config.text_config.vocab_size - 1
    labels = batch["input_ids"].clamp(max=limit)
    optimizer = torch.optim.SGD([p for p in trained.parameters() if p.requires_grad], lr=0.1)
    first = trained(**batch, labels=labels).loss
    first.backward()
    optimizer.step()
    moved = {name for name, tensor in trained.state_dict().items() if not torch.equal(tensor, before[name])}
    trained.eval()
    with torch.no_grad():
        second = trained(**batch, labels=labels).loss
    expected = {name for name in before if "lora_B" in name}
    return {
        "tensors_moved": len(moved),
        "only_the_second_matrices_of_the_adapter": moved == expected,
        "loss_before": first.item(),
        "loss_after": second.item(),
    }


def published(name, folder, batch, work, url) -> dict:
    """Pushed to the loopback Hub, and loaded from it without the package."""
    there = environment(url, work / "home", HF_MODULES_CACHE=str(work / "modules"), OMP_NUM_THREADS="1")
    package = str(Path(__file__).parents[1] / "src")
    push = [sys.executable, "-m", "hf_emotion.cli", "push", str(folder)]
    options = {"env": {**there, "PYTHONPATH": package}, "capture_output": True, "text": True, "check": False}
    public = subprocess.run([*push, f"me/{name}-public", "--public"], **options)
    private = subprocess.run([*push, f"me/{name}", "--private"], **options)
    if private.returncode:
        raise RuntimeError(private.stderr)
    torch.save(dict(batch), work / f"{name}.batch")
    reloaded = [sys.executable, "-c", RELOAD, f"me/{name}", str(work / f"{name}.batch"), str(work / f"{name}.logits")]
    child = subprocess.run(reloaded, env=there, cwd=work, capture_output=True, text=True, check=False)
    if child.returncode:
        raise RuntimeError(child.stderr[-2000:])
    model = AutoModelForMultimodalLM.from_pretrained(folder, trust_remote_code=False).eval()
    with torch.no_grad():
        expected = model(**batch).logits
    found = torch.load(work / f"{name}.logits")["logits"]
    return {
        "public_push": "published" if public.returncode == 0 else public.stderr.strip().splitlines()[-1],
        "reloaded_without_the_package_logits_equal_bit_for_bit": torch.equal(found, expected),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, help="folder of videos and pictures")
    parser.add_argument("--only", nargs="+", choices=FOLDERS, default=list(FOLDERS))
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    clips = sorted(path for path in args.clips.iterdir() if path.suffix.lower() in SUFFIXES)
    videos = [path for path in clips if path.suffix.lower() not in (".jpg", ".png")][:2]
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    server, _, url = start()
    rows = json.loads(args.output.read_text())["models"] if args.output.is_file() else {}
    for name in args.only:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as work:
            work = Path(work)
            with contextlib.redirect_stdout(io.StringIO()):
                folder = FOLDERS[name](work)
            model, processor = load(folder, device="cpu")
            batch = processor(videos=list(map(str, videos)), text=[QUESTION] * 2, return_tensors="pt")
            rows[name] = {
                "parts": json.loads((folder / "config.json").read_text())["parts"],
                "predict": predicted(folder, clips),
                **asked(model, processor, list(map(str, videos))),
                "lora": adapted(folder, batch),
                **published(name, folder, batch, work, url),
            }
        print(f"{name}: {json.dumps({k: v for k, v in rows[name].items() if k not in ('parts', 'predict')})}")
        print(f"  {time.perf_counter() - began:.0f} s", flush=True)
        args.output.write_text(json.dumps({"models": rows}, indent=2) + "\n", encoding="utf-8")
    server.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
