"""What the starter reads on real people, whom it never saw: faces, voices, clips; time; a little fine-tuning.

    python benchmarks/starter.py --ck-plus CK+48 --emodb wav --ravdess ravdess_speech_16k --clips face_clips
    python benchmarks/starter.py --photographs facial_expressions
    python benchmarks/starter.py --ravdess ravdess_speech_16k --fine-tune
    python benchmarks/starter.py --synthetic
    python benchmarks/starter.py --time CLIP

Nothing of these data takes part in teaching; the card says what was looked at while the teacher was written. Each part
is written to the results as soon as it is measured, so parts can be run one by one.

--ck-plus  CK+48/<emotion>/*.png, the public 48-pixel form of CK+ (Lucey et al. 2010; last frames of each sequence), as
           in `WuJie1010/Facial-Expression-Recognition.Pytorch`. Each picture is enlarged to 224 pixels on grey.
--emodb    wav/*.wav of EmoDB (Burkhardt et al. 2005).
--ravdess  Actor_*/03-01-*.flac or .wav of RAVDESS speech (Livingstone & Russo 2018).
--photographs  data/legend.csv and images/*.jpg of `muxspace/facial_expressions`, photographs labelled by students: what
           is said of 300 neutral faces and of 60 of each other label, drawn at random.
--clips    a folder of videos and pictures; what is said of them is printed, checked by the teacher's grammar, and
           against the frames that have a face and the sound that has a voice.

--synthetic  scenes of the teacher's that the starter was not taught: emotions, clues and times in its sentences.
--fine-tune  with --ravdess: `hf-emotion train starter` on a few recordings of actors 1 to 16, from the starter and from
           random weights, tested on actors 17 to 20 (`--validate`: taught on 1 to 12, tested on 13 to 16).

"rules" in a result is what hand-written rules reach without any training, on the same landmarks or cues, compared with
the teacher's neutral faces or voices.

Classes are read as the pipeline's `candidate_labels` gives them. Arousal is the summed share of the aroused labels
(angry, happy, afraid, surprised) against that of the others (sad, bored, calm, neutral); disgust is left out.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image

from hf_emotion.cli import main as main_of_cli
from hf_emotion.inference import load as load_folder
from hf_emotion.inference import pipeline_of
from hf_emotion.modeling.generation_emotion import MediaTokens
from hf_emotion.modeling.modeling_face_motion import remove_pose
from hf_emotion.processing.feature_extraction_voice import CUES, VoiceCueExtractor
from hf_emotion.starter import FOLDER, load
from hf_emotion.starter.faces import ACTION_UNITS, FACE, render
from hf_emotion.starter.scenes import draw_scene, draw_voices
from hf_emotion.starter.sentences import (
    DESCRIBE,
    FACE_CLUES,
    NAME_IT,
    NO_FACE,
    NO_SIGN,
    NO_VOICE,
    describe,
    is_whole,
)
from hf_emotion.starter.train import media_of, prompt_ids

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
        "rules": face_rules(pipe.processor, pictures, truth, labels),
        "seven": class_report(shares, truth, labels),
        "six": class_report(shares_without(shares, labels, "contemptuous")[known], truth[known], six),
    }


# Distances between landmarks, in the head's frame, and the sign and weight with which they speak for an emotion.
DISTANCES = {
    "mouth_width": lambda p: p(291)[..., 0] - p(61)[..., 0],
    "mouth_open": lambda p: p(13)[..., 1] - p(14)[..., 1],
    "corners": lambda p: (p(61) + p(291) - p(13) - p(14))[..., 1] / 2,
    "brows": lambda p: (p(105) + p(334) - p(159) - p(386))[..., 1] / 2,
    "inner_brows": lambda p: (p(107) + p(336) - p(159) - p(386))[..., 1] / 2,
    "brow_gap": lambda p: p(336)[..., 0] - p(107)[..., 0],
    "eyes": lambda p: (p(159) + p(386) - p(145) - p(374))[..., 1] / 2,
    "nose_to_lip": lambda p: (p(2) - p(0))[..., 1],
}
FACE_RULES = {
    "happy": {"mouth_width": 1.2, "corners": 1.2},
    "surprised": {"mouth_open": 1.2, "brows": 0.8, "eyes": 0.6},
    "angry": {"inner_brows": -0.8, "brow_gap": -0.6, "mouth_open": -0.4, "mouth_width": -0.3},
    "sad": {"corners": -0.8, "mouth_width": -0.5, "inner_brows": 0.3, "brow_gap": -0.3, "mouth_open": -0.3},
    "disgusted": {"nose_to_lip": -0.9, "eyes": -0.6, "inner_brows": -0.5},
    "afraid": {
        "mouth_open": 0.4,
        "mouth_width": 0.6,
        "inner_brows": 0.5,
        "brow_gap": -0.3,
        "eyes": 0.4,
        "corners": -0.2,
    },
}
WEAK = 0.8  # no rule speaks louder: contempt


def distances(landmarks) -> np.ndarray:
    """(N, 468, 3) pixels -> (N, distances), cm."""
    frontal = remove_pose(torch.as_tensor(landmarks), torch.tensor(FACE)).numpy()
    return np.stack([measure(lambda i: frontal[:, i]) for measure in DISTANCES.values()], 1)


def face_rules(processor, pictures, truth, labels) -> dict:
    """Unweighted recalls of rules on distances, standardised by the teacher's resting faces."""
    resting = distances(render(np.random.default_rng(0), np.zeros((500, 1, len(ACTION_UNITS), 2)))[:, 0])
    found = np.concatenate(
        [np.asarray(processor.measure(processor.load(picture)).tensors["video_landmarks"])[:1] for picture in pictures]
    )
    middle = np.median(resting, 0)
    scale = 1.4826 * np.median(np.abs(resting - middle), 0)
    standard = ((distances(found) - middle) / scale).clip(-4, 4)
    names = list(FACE_RULES)
    weights = np.array([[FACE_RULES[name].get(distance, 0.0) for distance in DISTANCES] for name in names])
    scores = standard @ (weights / np.linalg.norm(weights, axis=1, keepdims=True)).T
    answered = np.array(names)[scores.argmax(1)]
    known = truth != "contemptuous"
    seven = np.where(scores.max(1) < WEAK, "contemptuous", answered)
    return {
        "six_uar": recalls(truth[known], answered[known], names),
        "seven_uar": recalls(truth, seven, labels),
    }


def voice_rules(pipe, paths, truth) -> dict:
    """Balanced accuracy of one rule for arousal: pitch and spectral tilt above the teacher's neutral voices."""
    extractor, rng = VoiceCueExtractor(), np.random.default_rng(0)
    columns = [list(CUES).index(name) for name in ("pitch", "tilt")]

    def mean(cues):
        return cues[columns][:, cues[-1] > 0].mean(1) if (cues[-1] > 0).any() else np.zeros(2)

    neutral = [
        mean(extractor.cues(rows))
        for voice in draw_voices(rng, 20)
        for name, rows in zip(voice.emotions, voice.analysed, strict=True)
        if name == "neutral"
    ]
    middle, scale = np.median(neutral, 0), np.std(neutral, 0)
    cues = [np.asarray(pipe.processor.measure(pipe.processor.load(path)).tensors["input_features"]) for path in paths]
    scores = np.array([((mean(row.reshape(len(CUES), -1)) - middle) / scale).sum() for row in cues])
    high, low = np.isin(truth, HIGH), np.isin(truth, LOW)
    return {"arousal_balanced": round(50 * float((scores[high] > 0).mean() + (scores[low] <= 0).mean()), 2)}


def shares_without(shares, labels, name) -> np.ndarray:
    """The shares of the other labels, which again sum to 1."""
    rest = shares[:, [i for i, label in enumerate(labels) if label != name]]
    return rest / rest.sum(1, keepdims=True)


def emodb(pipe, folder: Path) -> dict:
    paths = sorted(folder.glob("*.wav"))
    truth, labels = np.array([EMODB[path.name[5]] for path in paths]), sorted(set(EMODB.values()))
    shares = shares_of(pipe, paths, labels)
    men = np.isin([path.name[:2] for path in paths], ("03", "10", "11", "12", "15"))
    return {
        **class_report(shares, truth, labels),
        **by_group(shares, truth, labels, women=~men, men=men),
        "rules": voice_rules(pipe, paths, truth),
        "described": described(pipe, paths, truth),
    }


def by_group(shares, truth, labels, **groups) -> dict:
    result = {}
    for group, which in groups.items():
        part = class_report(shares[which], truth[which], labels)
        result[group] = {name: part[name] for name in ("clips", "uar", "arousal_balanced", "ece")}
    return result


def described(pipe, sources, truth, kind="voice") -> dict:
    """Whether descriptions of sounds or pictures are whole, speak of what is there alone, and find a clear sign."""
    results = [
        result
        for first in range(0, len(sources), 16)
        for result in pipe(sources[first : first + 16], batch_size=16, max_new_tokens=200)
    ]
    texts = np.array([result["description"] for result in results])
    seen = [any(frame.get("face") for frame in result.get("frames", ())) for result in results]
    plain = np.array([NO_SIGN in text for text in texts])
    report = {
        "number": len(texts),
        "grammatical_percent": round(100 * float(np.mean([is_whole(text) for text in texts])), 2),
        "face_told_without_face": sum(NO_FACE not in text and not face for text, face in zip(texts, seen, strict=True)),
        "no_clear_sign_percent": {
            str(label): round(100 * float(plain[truth == label].mean()), 2) for label in sorted(set(truth))
        },
    }
    if kind == "face":
        report["faces_found"] = sum(seen)
        report["voice_told_without_sound"] = sum(NO_VOICE not in text for text in texts)
    return report


def photographs(pipe, folder: Path, neutral=300, others=60) -> dict:
    """See `--photographs` in the head of this file."""
    rng = np.random.default_rng(0)
    names: dict[str, list[str]] = {}
    for row in (folder / "data" / "legend.csv").read_text(encoding="utf-8").splitlines()[1:]:
        _, name, emotion = row.split(",")
        names.setdefault(emotion.strip().lower(), []).append(name)
    chosen = []
    for emotion in ("anger", "disgust", "happiness", "neutral", "sadness", "surprise"):
        listed = sorted({name for name in names[emotion] if (folder / "images" / name).is_file()})
        count = min(neutral if emotion == "neutral" else others, len(listed))
        chosen += [(listed[i], emotion) for i in rng.choice(len(listed), count, replace=False)]
    paths, truth = [folder / "images" / name for name, _ in chosen], np.array([emotion for _, emotion in chosen])
    return described(pipe, paths, truth, kind="face")


def ravdess(pipe, folder: Path) -> dict:
    paths = sorted(folder.glob("Actor_*/03-01-*"))
    truth = np.array([RAVDESS[int(path.stem.split("-")[2]) - 1] for path in paths])
    shares = shares_of(pipe, paths, list(RAVDESS))
    women = np.array([int(path.stem.split("-")[6]) % 2 == 0 for path in paths])
    result = class_report(shares, truth, list(RAVDESS)) | by_group(
        shares, truth, list(RAVDESS), women=women, men=~women
    )
    result["rules"] = voice_rules(pipe, paths, truth)
    result["described"] = described(pipe, paths, truth)
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


def fine_tuning(folder: Path, per_class: int, seeds, validate=False, settings=()) -> dict:
    """`hf-emotion train starter` on a few recordings, from the starter and from random weights of the same shape."""
    last_taught, tested = (12, range(13, 17)) if validate else (16, range(17, 21))
    paths = sorted(folder.glob("Actor_*/03-01-*"))
    numbers = {path: [int(part) for part in path.stem.split("-")] for path in paths}
    test = [path for path in paths if numbers[path][6] in tested]
    truth = np.array([RAVDESS[numbers[path][2] - 1] for path in test])
    results: dict = {"starter untouched": [], "from the starter": [], "from nothing": []}

    def uar(model, processor):
        report = class_report(shares_of(pipeline_of(model, processor), test, list(RAVDESS)), truth, list(RAVDESS))
        return report["uar"]

    for seed in seeds:
        rng = np.random.default_rng(seed)
        taught = []
        for emotion in range(1, len(RAVDESS) + 1):
            known = [path for path in paths if numbers[path][2] == emotion and numbers[path][6] <= last_taught]
            taught += [known[i] for i in rng.choice(len(known), per_class, replace=False)]
        with tempfile.TemporaryDirectory() as work:
            work = Path(work)
            rows = [
                {"id": path.stem, "audio": str(path.resolve()), "label": RAVDESS[numbers[path][2] - 1]}
                for path in taught
            ]
            (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            model, processor = load("cpu")
            if not results["starter untouched"]:
                results["starter untouched"].append(uar(model, processor))
            torch.manual_seed(seed)
            type(model)(model.config).save_pretrained(work / "nothing")
            processor.save_pretrained(work / "nothing")
            for name, start in (("from the starter", FOLDER), ("from nothing", work / "nothing")):
                output = work / name.replace(" ", "_")
                command = ["train", "starter", "--data", str(work / "rows.jsonl"), "--output", str(output)]
                command += ["--start-from", str(start), "--seed", str(seed), "--set", "use_cpu=true", *settings]
                if main_of_cli(command):
                    raise SystemExit(f"hf-emotion {' '.join(command)} failed")
                results[name].append(uar(*load_folder(output / "phase_1", device="cpu", dtype=torch.float32)))
        say(json.dumps(results))
    return {
        **{"taught": per_class * len(RAVDESS), "tested": len(test), "tested_actors": list(tested)},
        **{"seeds": list(seeds), "settings": list(settings), "uar": results},
        "gain": round(float(np.mean(results["from the starter"]) - np.mean(results["from nothing"])), 2),
    }


def synthetic(pipe, count=240, batch=40) -> dict:
    """What the sentences say about new scenes, against what was drawn."""
    rng = np.random.default_rng(20)
    voices, processor, model = draw_voices(rng, 12), pipe.processor, pipe.model
    whole, right, errors, overlaps, missed, clues = [], [], [], [], [], []
    for first in range(0, count, batch):
        scenes = [draw_scene(rng, voices) for _ in range(min(batch, count - first))]
        media = model.encode_media(**media_of(scenes, processor, rng))
        for i, scene in enumerate(scenes):
            tokens = {name: [rows[i]] for name, rows in media.items() if isinstance(rows, list) and len(rows[i])}
            lengths = [len(tokens[name][0]) if name in tokens else 0 for name in ("video", "audio")]
            ids, answered = prompt_ids(processor, scene, DESCRIBE[0], "", *lengths)
            ids = torch.tensor([ids[:-answered]])
            written = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                media=MediaTokens(**tokens),
                max_new_tokens=160,
                do_sample=False,
            )
            text, truth = processor.decode(written[0, ids.shape[1] :], skip_special_tokens=True), describe(scene.facts)
            whole.append(is_whole(text))
            right.append(text.split(". ")[-1] == truth.split(". ")[-1])
            found, known = face_parts(text), face_parts(truth)
            if len(found) == len(known):
                for (mine, words), (its, its_words) in zip(found, known, strict=True):
                    clues.append(2 * len(words & its_words) / max(len(words) + len(its_words), 1))
                    if its and mine:
                        errors += [abs(a - b) for a, b in zip(mine, its, strict=True)]
                        overlaps.append(
                            max(min(mine[1], its[1]) - max(mine[0], its[0]), 0.0)
                            / (max(mine[1], its[1]) - min(mine[0], its[0]))
                        )
                    missed.append(bool(its) != bool(mine))
            else:
                missed.append(True)
    return {
        "scenes": count,
        "whole_sentences_percent": round(100 * float(np.mean(whole)), 2),
        "same_conclusion_percent": round(100 * float(np.mean(right)), 2),
        "clues_f": round(100 * float(np.mean(clues)), 2),
        "times_compared": len(errors),
        "median_error_s": round(float(np.median(errors)), 2),
        "mean_error_s": round(float(np.mean(errors)), 2),
        "within_one_second_percent": round(100 * float(np.mean(np.array(errors) <= 1.0)), 2),
        "mean_overlap_percent": round(100 * float(np.mean(overlaps)), 2),
        "times_missing_or_added_percent": round(100 * float(np.mean(missed)), 2),
    }


def face_parts(text: str) -> list[tuple[tuple[float, float] | None, set[str]]]:
    """Times (s) and clues of each sentence about a face."""
    parts = []
    for times, clues in re.findall(r"((?:From [0-9.]+ to [0-9.]+ s t|T)he face shows )([^.]+)\.", text):
        span = re.findall(r"\d+\.\d", times)
        words = set(re.split(r", | and ", clues)) & set(FACE_CLUES)
        parts.append(((float(span[0]), float(span[1])) if span else None, words))
    return parts


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
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--clips", type=Path)
    parser.add_argument("--time", type=Path, help="a clip of about 5 s")
    parser.add_argument("--fine-tune", action="store_true", help="with --ravdess: teach it some recordings")
    parser.add_argument("--per-class", type=int, default=5, help="recordings of each class, for --fine-tune")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of --fine-tune")
    parser.add_argument("--validate", action="store_true", help="with --fine-tune: other actors, to choose settings")
    parser.add_argument("--set", action="append", default=[], help="with --fine-tune: as for hf-emotion train")
    parser.add_argument("--synthetic", action="store_true", help="held-out scenes of the teacher's")
    parser.add_argument("--model", type=Path, help="another folder than the package's")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.model:
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
        settings = [part for value in args.set for part in ("--set", value)]
        name = "fine_tuning, validation" if args.validate else "fine_tuning"
        keep(name, fine_tuning(args.ravdess, args.per_class, args.seeds, args.validate, settings))
    elif args.ravdess:
        keep("ravdess", ravdess(pipe, args.ravdess))
    if args.synthetic:
        keep("synthetic", synthetic(pipe))
    if args.photographs:
        keep("photographs", photographs(pipe, args.photographs))
    if args.clips:
        keep("real_clips", real_clips(pipe, args.clips))
    if args.time:
        keep("time", timing(args.time, pipe))
    plot(RESULTS.with_suffix(".png"))


if __name__ == "__main__":
    main()
