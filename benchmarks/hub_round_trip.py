"""Publish every model, and an adapter of each, to a loopback Hub; load them where this package was never installed.

    python benchmarks/hub_round_trip.py --clip clip.mp4

A second virtual environment is made with torch, transformers, Pillow (transformers' image processors need it),
safetensors, PyAV and PEFT, and nothing else. There each repository is loaded by its id with remote code; the logits of
a stored batch are compared bit by bit with those of this environment, and the pipeline's answers to a real clip letter
by letter, scores included. Then mediapipe and soxr are added, and all is done again. Where the second environment lacks
them, they are hidden in this one, too: without faces, or with another resampler, a clip gives other tensors.

Both sides load their weights from safetensors: what is compared is publishing, not how a file is mapped into memory.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fake_hub import environment, start

RESULTS = Path(__file__).with_name("results") / "hub_round_trip.json"

PUBLISH = """
import sys
from pathlib import Path
import torch
from peft import LoraConfig, get_peft_model
from hf_emotion import hub
from hf_emotion.papers import PAPERS, build

folder = Path(sys.argv[1])
for name in PAPERS:
    model, processor = build(name)
    hub.push(model, f"me/{name}", processor=processor)
for name in PAPERS:
    model, _ = build(name)
    torch.manual_seed(1)
    lora = LoraConfig(
        r=4,
        target_modules=r"model\\.language_model\\.layers\\.\\d+\\.self_attn\\.(q|v)_proj",
        task_type="CAUSAL_LM",
        init_lora_weights=False,
    )
    adapted = get_peft_model(model, lora)
    adapted.save_pretrained(folder / f"{name}_adapter")
    hub.push(folder / f"{name}_adapter", f"me/{name}-lora", base=f"me/{name}")
"""

ASK = """
import importlib.util, json, sys, time
from pathlib import Path
import torch
from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM, AutoProcessor, AutoTokenizer, pipeline
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()
torch.set_num_threads(1)
folder, clip, batches, hidden, *repositories = sys.argv[1:]
for name in filter(None, hidden.split(",")):
    sys.modules[name] = None
if batches == "make":
    import hf_emotion
remote = {"trust_remote_code": "hf_emotion" not in sys.modules}
found = {"package": importlib.util.find_spec("hf_emotion") is not None, "answers": {}}
for repository in repositories:
    base = repository.removesuffix("-lora")
    began = time.perf_counter()
    config = AutoConfig.from_pretrained(base, **remote)
    processor = AutoProcessor.from_pretrained(base, **remote)
    tokenizer = AutoTokenizer.from_pretrained(base, **remote)
    model = AutoModelForMultimodalLM.from_pretrained(repository, **remote).eval()
    assert tokenizer.convert_tokens_to_ids(processor.video_token) == config.video_token_id
    assert type(AutoModel.from_pretrained(base, **remote)) is type(model)
    stored = Path(folder) / f"{base.split('/')[1]}.pt"
    utterances = [(0.1, 0.9, "well"), (1.0, 1.8, "I did not expect that")]
    if batches == "make" and not stored.exists():
        batch = processor(videos=[clip], utterances=[utterances], return_tensors="pt")
        torch.save(dict(batch), stored)
    with torch.no_grad():
        logits = model(**torch.load(stored)).logits
    torch.save(logits, Path(folder) / f"{repository.split('/')[1]}.{batches}.pt")
    pipe = pipeline("emotion-recognition", model=repository, device=-1, **remote)
    answer = pipe({"video": clip, "utterances": utterances}, max_new_tokens=16)
    answer["streamed"] = "".join(pipe.stream(clip, max_new_tokens=16))
    answer["closed"] = pipe(clip, candidate_labels=["happy", "sad", "angry"], max_new_tokens=1)["labels"]
    found["answers"][repository] = answer
    found[repository] = {"class": type(model).__module__, "seconds": round(time.perf_counter() - began, 1)}
Path(folder, f"{batches}.json").write_text(json.dumps(found))
"""


def make_environment(folder: Path, packages: list[str]) -> Path:
    """A virtual environment with these packages; its python."""
    python = folder / "bin" / "python"
    if not python.is_file():
        venv.create(folder, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def compare(work: Path, repositories, here: dict, there: dict, store) -> dict:
    """What came out alike, for each repository."""
    rows = {}
    for repository in repositories:
        name = repository.split("/")[1]
        ours, theirs = (torch.load(work / f"{name}.{side}.pt") for side in ("make", "there"))
        answers = [side["answers"][repository] for side in (here, there)]
        rows[repository] = {
            "commits": len(store.branches["model", repository]["main"]) - 1,
            "files": len(store.head(("model", repository))[1]),
            "bytes": sum(map(len, store.head(("model", repository))[1].values())),
            "code": there[repository]["class"].split(".")[0],
            "logits_equal_bit_for_bit": torch.equal(ours, theirs),
            "largest_difference": float((ours - theirs).abs().max()),
            "pipeline_answers_equal": answers[0] == answers[1],
            "labels": [label["label"] for label in answers[1]["labels"]],
            "modalities": answers[1]["modalities"],
            "notes": answers[1]["notes"],
            "seconds": there[repository]["seconds"],
        }
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clip", type=Path, required=True, help="a video with a face and sound")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    from hf_emotion.papers import PAPERS

    server, store, url = start()
    repositories = [f"me/{name}{kind}" for name in PAPERS for kind in ("", "-lora")]
    packages = [f"torch=={torch.__version__}", f"transformers=={transformers.__version__}", "numpy==1.26.4"]
    packages += ["pillow", "safetensors", "av", "peft"]
    result = {"clip": args.clip.name, "stages": {}}
    whole = True
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)

        def run(interpreter, program, *arguments, home):
            there = environment(url, work / home, HF_MODULES_CACHE=str(work / home / "modules"), OMP_NUM_THREADS="1")
            subprocess.run([interpreter, "-c", program, *map(str, arguments)], env=there, cwd=work, check=True)

        run(sys.executable, PUBLISH, work, home="here")
        for stage, extra, hidden in (
            ("without mediapipe and soxr", [], "mediapipe,soxr"),
            ("with them", ["mediapipe==0.10.21", "soxr"], ""),
        ):
            python = make_environment(work / "venv", packages + extra)
            listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], capture_output=True, check=True)
            for stored in work.glob("*.pt"):
                stored.unlink()
            run(sys.executable, ASK, work, args.clip.resolve(), "make", hidden, *repositories, home="here")
            run(python, ASK, work, args.clip.resolve(), "there", "", *repositories, home="there")
            here, there = (json.loads((work / f"{name}.json").read_text()) for name in ("make", "there"))
            rows = compare(work, repositories, here, there, store)
            result["stages"][stage] = {
                "hf_emotion_installed": there["package"],
                "environment": {entry["name"]: entry["version"] for entry in json.loads(listed.stdout)},
                "repositories": rows,
            }
            for repository, row in rows.items():
                alike = row["logits_equal_bit_for_bit"] and row["pipeline_answers_equal"]
                whole &= alike and row["code"] == "transformers_modules" and not there["package"]
                print(f"{stage}: {repository}: {'alike' if alike else 'NOT ALIKE'}, {row['seconds']} s")
    server.shutdown()
    partial = args.output.with_name(f".{args.output.name}.{os.getpid()}")
    partial.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(partial, args.output)
    print(f"written to {args.output}")
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
