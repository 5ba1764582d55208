"""What the starter reads on real people, whom it never saw: faces, voices, clips; time; a little fine-tuning.

    python benchmarks/starter.py --ck-plus CK+48 --emodb wav --ravdess ravdess_speech_16k --clips face_clips
    python benchmarks/starter.py --ravdess ravdess_speech_16k --fine-tune
    python benchmarks/starter.py --time CLIP

Nothing of these data takes part in teaching, and no setting was chosen by the scores; README says how often they were
looked at while the teacher was written. Each part is written to the results as soon as it is measured, so parts can be
run one by one.

--ck-plus  CK+48/<emotion>/*.png, the public 48-pixel form of CK+ (Lucey et al. 2010; last frames of each sequence), as
           in `WuJie1010/Facial-Expression-Recognition.Pytorch`. Each picture is enlarged to 224 pixels on grey.
--emodb    wav/*.wav of EmoDB (Burkhardt et al. 2005).
--ravdess  Actor_*/03-01-*.flac or .wav of RAVDESS speech (Livingstone & Russo 2018).
--clips    a folder of videos and pictures; what is said of them is printed, checked by the teacher's grammar, and
           against the frames that have a face and the sound that has a voice.

Classes are read as the pipeline's `candidate_labels` gives them. Arousal is the summed share of the aroused labels
(angry, happy, afraid, surprised) against that of the others (sad, bored, calm, neutral); disgust is left out.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import Trainer, TrainingArguments

from hf_emotion.inference import pipeline_of
from hf_emotion.starter import FOLDER, load
from hf_emotion.starter.sentences import NAME_IT, NO_FACE, NO_SIGN, NO_VOICE, is_whole
from hf_emotion.training.collator import EmotionCollator, encode

RESULTS = Path(__file__).parent / "results" / "starter.json"
CK_PLUS = {
    **{"anger": "angry", "contempt": "contemptuous", "disgust": "disgusted", "fear": "afraid"},
    **{"happy": "happy", "sadness": "sad", "surprise": "surprised"},
}
EMODB = {
    **{"W": "angry", "L": "bored", "E": "disgusted", "A": "afraid", "F": "happy", "T": "sad", "N": "neutral"},
}
RAVDESS = ("neutral", "calm", "happy", "sad", "angry", "afraid", "disgusted", "surprised")
HIGH, LOW = ("angry", "happy", "afraid", "surprised"), ("sad", "bored", "calm", "neutral")
MEDIA = (".mp4", ".mov", ".jpg", ".png", ".wav", ".flac")


def say(text):
    print(text, flush=True)


def keep(part: str, result: dict) -> None:
    """Add a part to the results' file."""
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    found[part] = result
    found["machine"] = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    found["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__}
    unfinished = RESULTS.with_name(f".{RESULTS.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, RESULTS)
    say(json.dumps({part: {name: value for name, value in result.items() if name != "clips"}}, indent=1))


def shares_of(pipe, sources, labels, batch_size=16) -> np.ndarray:
    """(clips, labels): the share of each label."""
    found = pipe(sources, candidate_labels=labels, question=NAME_IT[0], batch_size=batch_size, max_new_tokens=1)
    errors = [result["error"] for result in found if "error" in result]
    if errors:
        raise SystemExit(f"{len(errors)} of {len(found)} clips could not be read; the first: {errors[0]}")
    rows = [{label["label"]: label["score"] for label in result["labels"]} for result in found]
    return np.array([[row[label] for label in labels] for row in rows])


def recalls(truth, answered, labels) -> float:
    """Unweighted average recall, percent."""
    return round(100 * float(np.mean([np.mean(answered[truth == label] == label) for label in labels])), 2)


def calibration_error(shares, truth, labels, bins=10) -> float:
    """Expected calibration error of the first label's share, percent, in bins of equal width."""
    sure = shares.max(1)
    right = np.array(labels)[shares.argmax(1)] == truth
    which = np.minimum((sure * bins).astype(int), bins - 1)
    error = sum(abs(right[which == b].mean() - sure[which == b].mean()) * (which == b).mean() for b in set(which))
    return round(100 * float(error), 2)


def class_report(shares, truth, labels) -> dict:
    answered = np.array(labels)[shares.argmax(1)]
    confusion = [[int(((truth == a) & (answered == b)).sum()) for b in labels] for a in labels]
    report = {
        "clips": len(truth),
        "labels": list(labels),
        "uar": recalls(truth, answered, labels),
        "accuracy": round(100 * float((answered == truth).mean()), 2),
        "chance_uar": round(100 / len(labels), 2),
        "ece": calibration_error(shares, truth, labels),
        "confusion": confusion,
    }
    aroused = np.isin(truth, HIGH)
    known = aroused | np.isin(truth, LOW)
    if len(set(aroused[known])) == 2:
        high = shares[:, [i for i, label in enumerate(labels) if label in HIGH]].sum(1)
        low = shares[:, [i for i, label in enumerate(labels) if label in LOW]].sum(1)
        said = (high > low)[known]
        report["arousal_balanced"] = round(50 * float(said[aroused[known]].mean() + (~said[~aroused[known]]).mean()), 2)
    return report


def ck_plus(pipe, folder: Path) -> dict:
    pictures, truth = [], []
    for path in sorted(folder.glob("*/*.png")):
        canvas = Image.new("RGB", (352, 352), (128, 128, 128))
        canvas.paste(Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC), (64, 64))
        pictures.append(canvas)
        truth.append(CK_PLUS[path.parent.name])
    truth, labels = np.array(truth), sorted(set(CK_PLUS.values()))
    shares = shares_of(pipe, pictures, labels)
    six = [label for label in labels if label != "contemptuous"]
    known = truth != "contemptuous"
    return {
        "seven": class_report(shares, truth, labels),
        "six": class_report(shares_without(shares, labels, "contemptuous")[known], truth[known], six),
    }


def shares_without(shares, labels, name) -> np.ndarray:
    """The shares of the other labels, which again sum to 1."""
    rest = shares[:, [i for i, label in enumerate(labels) if label != name]]
    return rest / rest.sum(1, keepdims=True)


def emodb(pipe, folder: Path) -> dict:
    paths = sorted(folder.glob("*.wav"))
    truth, labels = np.array([EMODB[path.name[5]] for path in paths]), sorted(set(EMODB.values()))
    return class_report(shares_of(pipe, paths, labels), truth, labels)


def ravdess(pipe, folder: Path) -> dict:
    paths = sorted(folder.glob("Actor_*/03-01-*"))
    truth = np.array([RAVDESS[int(path.stem.split("-")[2]) - 1] for path in paths])
    shares = shares_of(pipe, paths, list(RAVDESS))
    women = np.array([int(path.stem.split("-")[6]) % 2 == 0 for path in paths])
    result = class_report(shares, truth, list(RAVDESS))
    for group, which in (("women", women), ("men", ~women)):
        part = class_report(shares[which], truth[which], list(RAVDESS))
        result[group] = {name: part[name] for name in ("clips", "uar", "arousal_balanced", "ece")}
    # Sounds without anybody in them: what is told of silence.
    result["no_clear_sign"] = no_sign(pipe)
    return result


def no_sign(pipe) -> dict:
    """The share of answers "no clear sign" for inputs that have none: silence, noise, grey pictures, still faces."""
    rng = np.random.default_rng(0)
    quiet = [np.zeros(16000 * 2, np.float32) for _ in range(5)]
    noise = [(rng.normal(size=16000 * 2) * 10 ** (-level / 20)).astype(np.float32) for level in (30, 40, 50, 60, 70)]
    sounds = [{"waveform": sound, "sampling_rate": 16000} for sound in (*quiet, *noise)]
    frames = np.full((8, 120, 160, 3), 120, np.uint8)
    sounds += [{"frames": frames, "fps": 4}]
    said = [result["description"] for result in pipe(sounds)]
    return {"inputs": len(said), "percent": round(100 * float(np.mean([NO_SIGN in text for text in said])), 2)}


def real_clips(pipe, folder: Path) -> dict:
    """What is said of every clip, checked: whole sentences, and no face or voice that is not there."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix in MEDIA]
    told = []
    for result in pipe(paths, batch_size=8, max_new_tokens=200):
        if "error" in result:
            told.append({"clip": Path(result["clip"]).name, "error": result["error"]})
            continue
        has_face = any(frame.get("face") for frame in result.get("frames", ()))
        text = result["description"]
        told.append(
            {
                "clip": Path(result["clip"]).name,
                "description": text,
                "labels": [{**label, "score": round(label["score"], 3)} for label in result["labels"]],
                "grammatical": is_whole(text),
                "face": has_face,
                "face_told": NO_FACE not in text,
                "voice_told": NO_VOICE not in text,
                "sound": "audio" in result["modalities"],
            }
        )
        say(f"{told[-1]['clip']}: {text}")
    read = [item for item in told if "error" not in item]
    return {
        "number": len(told),
        "errors": len(told) - len(read),
        "grammatical_percent": round(100 * float(np.mean([item["grammatical"] for item in read])), 2),
        "face_told_without_face": sum(item["face_told"] and not item["face"] for item in read),
        "voice_told_without_sound": sum(item["voice_told"] and not item["sound"] for item in read),
        "clips": told if len(told) <= 40 else [],
    }


def fine_tuning(folder: Path, per_class: int, epochs: int, rate: float, seed: int) -> dict:
    """A few labelled recordings of actors 1 to 16 teach the starter, and the same model from nothing; actors 17 to 20
    test both."""
    paths = sorted(folder.glob("Actor_*/03-01-*"))
    numbers = {path: [int(part) for part in path.stem.split("-")] for path in paths}
    rng = np.random.default_rng(seed)
    taught = []
    for emotion in range(1, len(RAVDESS) + 1):
        known = [path for path in paths if numbers[path][2] == emotion and numbers[path][6] <= 16]
        taught += [known[i] for i in rng.choice(len(known), per_class, replace=False)]
    test = [path for path in paths if numbers[path][6] >= 17]
    truth = np.array([RAVDESS[numbers[path][2] - 1] for path in test])
    results = {}
    for name in ("starter", "from nothing"):
        model, processor = load("cpu")
        if name == "from nothing":
            torch.manual_seed(seed)
            model = type(model)(model.config)
        rows = [
            {"id": path.stem, "video": path, "question": NAME_IT[0], "answer": RAVDESS[numbers[path][2] - 1]}
            for path in taught
        ]
        samples = [encode(processor, [row]) for row in rows]
        with tempfile.TemporaryDirectory() as work:
            trainer = Trainer(
                model=model,
                args=TrainingArguments(
                    output_dir=work,
                    num_train_epochs=epochs,
                    per_device_train_batch_size=16,
                    learning_rate=rate,
                    lr_scheduler_type="cosine",
                    warmup_steps=5,
                    remove_unused_columns=False,
                    label_names=["labels"],
                    save_strategy="no",
                    report_to=[],
                    use_cpu=True,
                    disable_tqdm=True,
                    seed=seed,
                ),
                train_dataset=samples,
                data_collator=EmotionCollator(processor),
            )
            trainer.train()
        shares = shares_of(pipeline_of(model.eval(), processor), test, list(RAVDESS))
        report = class_report(shares, truth, list(RAVDESS))
        results[name] = {key: report[key] for key in ("uar", "arousal_balanced", "ece")}
    return {"taught": len(taught), "tested": len(test), "epochs": epochs, "rate": rate, **results}


def timing(clip: Path, pipe) -> dict:
    """One clip from the shell, and many in one process."""
    command = [sys.executable, "-m", "hf_emotion.cli", "predict", str(clip)]
    shell = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        shell.append(time.perf_counter() - started)
    pipe(clip)
    started, cpu = time.perf_counter(), time.process_time()
    pipe([clip] * 64, batch_size=16)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {
        "clip": clip.name,
        "shell_seconds": [round(seconds, 2) for seconds in shell],
        "clips_a_second": round(64 / wall, 2),
        "clips_a_processor_second": round(64 / cpu, 2),
        "load_average": os.getloadavg()[0],
    }


def plot(path: Path) -> None:
    """Confusion matrices of what was measured."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    parts = [
        ("CK+ faces", found.get("ck_plus", {}).get("seven")),
        ("EmoDB voices", found.get("emodb")),
        ("RAVDESS voices", found.get("ravdess")),
    ]
    parts = [(name, part) for name, part in parts if part]
    if not parts:
        return
    figure, axes = pyplot.subplots(1, len(parts), figsize=(5.2 * len(parts), 4.6), layout="constrained", squeeze=False)
    for axis, (name, part) in zip(axes[0], parts, strict=True):
        counts = np.array(part["confusion"], float)
        percent = 100 * counts / counts.sum(1, keepdims=True)
        axis.imshow(percent, cmap="Blues", vmin=0, vmax=100)
        for (i, j), value in np.ndenumerate(percent):
            axis.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=7)
        axis.set_xticks(range(len(part["labels"])), part["labels"], rotation=45, ha="right")
        axis.set_yticks(range(len(part["labels"])), part["labels"])
        axis.set_title(f"{name}: UAR {part['uar']:.1f} % (chance {part['chance_uar']:.1f}), ECE {part['ece']:.1f} %")
        axis.set_xlabel("answered")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ck-plus", type=Path)
    parser.add_argument("--emodb", type=Path)
    parser.add_argument("--ravdess", type=Path)
    parser.add_argument("--clips", type=Path)
    parser.add_argument("--time", type=Path, help="a clip of about 5 s")
    parser.add_argument("--fine-tune", action="store_true", help="with --ravdess: teach it some recordings")
    parser.add_argument("--per-class", type=int, default=8, help="recordings of each class, for --fine-tune")
    parser.add_argument("--epochs", type=int, default=12, help="of --fine-tune")
    parser.add_argument("--rate", type=float, default=1e-3, help="of --fine-tune")
    parser.add_argument("--model", type=Path, help="another folder than the package's")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.model:
        from hf_emotion.inference import load as load_folder

        pipe = pipeline_of(*load_folder(args.model, device="cpu", dtype=torch.float32))
    else:
        pipe = pipeline_of(*load("cpu"))
    report = json.loads(((args.model or FOLDER) / "training.json").read_text(encoding="utf-8"))
    keep("training", report)
    if args.ck_plus:
        keep("ck_plus", ck_plus(pipe, args.ck_plus))
    if args.emodb:
        keep("emodb", emodb(pipe, args.emodb))
    if args.fine_tune:
        keep(f"fine_tuning, rate {args.rate:g}", fine_tuning(args.ravdess, args.per_class, args.epochs, args.rate, 0))
    elif args.ravdess:
        keep("ravdess", ravdess(pipe, args.ravdess))
    if args.clips:
        keep("real_clips", real_clips(pipe, args.clips))
    if args.time:
        keep("time", timing(args.time, pipe))
    plot(RESULTS.with_suffix(".png"))


if __name__ == "__main__":
    main()
