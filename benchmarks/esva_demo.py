"""ESVA on the demo corpus and on real clips: offsets planted and found again, losses that fall, emotions that part.

    python benchmarks/esva_demo.py --folder DEMO [--real ../shared/data/face_clips]

1. Planted offsets. A tiny ESVA with random, frozen towers trains its MSFE and its alignment on talking faces that are
   in step. Then the sound of held-out clips is moved by known amounts (whole clip, by the sample, with silence where
   nothing is left), and tau* is compared with the plant: a hit is within one step of the 40-ms grid. Held out are the
   test clips of the same corpus, and the corpus "agreement", whose clips were rendered with sound or picture late.
   Beside it: Eq. 6, D alone, the controllers, and training by the letter of Eq. 9 (`alignment_training="search"`).
2. The real clips of `--real`, at 20 frames a second as the demo clips have them, moved in the same way, by the model
   that has seen drawn voices only; with the level of their loudest quarter second, since a silent clip has no offset.
3. The full loss. From several seeds, with contrast_weight 0.1 and 0: each term over the epochs, and how well five
   planted voices part in F_A'' of held-out clips: silhouette (cosine), and how often the nearest class mean of the
   training clips is a clip's own (chance 0.20).

A random HuBERT starts with biases of zero, and its normalisations then take all loudness out of a sound; the biases of
its convolutions are drawn at random here (0.3), as a trained one has them. Nothing else is done to the towers. With
`--part` only 1 and 2 (`offsets`) or 3 (`losses`) are run, and the rest keeps its last figures.
"""

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers
from matplotlib import pyplot
from safetensors.torch import load_file, save_file
from sklearn.metrics import silhouette_score
from tqdm import tqdm

from hf_emotion.data.demo import EMOTIONS, make_demo
from hf_emotion.modeling.sound import sound_frames
from hf_emotion.papers import build
from hf_emotion.processing.media import load_clip
from hf_emotion.training.collator import encode, stack

RESULTS = Path(__file__).parent / "results"
GRID = 40  # ms
PLANTS = 3  # for each held-out clip
RANGE = 600  # ms
QUESTION = "[emotion] Which emotion is in the voice?"


def tiny(seed, **fields):
    """A tiny ESVA whose towers are those of seed 0, frozen; `seed` is that of all other weights."""
    torch.manual_seed(0)
    towers, _ = build("esva", seed=0)
    with torch.no_grad():
        for layer in towers.model.audio_tower.feature_extractor.conv_layers:
            layer.conv.bias.normal_(std=0.3)
            layer.layer_norm.bias.normal_(std=0.3)
    model, processor = build("esva", seed=seed, **fields)
    for name, module in towers.model.named_children():
        if name.endswith("_tower") and hasattr(model.model, name):
            getattr(model.model, name).load_state_dict(module.state_dict())
    return model.freeze(tuple(name for name, _ in model.model.named_children() if name.endswith("_tower"))), processor


def inputs_of(row, processor, folder):
    """What the processor makes of a clip, kept in a file: an interrupted run goes on where it was."""
    path = folder / "inputs" / f"{Path(row['video']).parent.parent.name}_{row['id']}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        sample = encode(processor, [{**row, "question": QUESTION, "answer": row["label"]}])
        unfinished = path.with_name(f".{os.getpid()}.{path.name}")
        save_file({name: tensor.contiguous() for name, tensor in sample.items()}, unfinished)
        os.replace(unfinished, path)
    return load_file(path)


@torch.no_grad()
def with_features(model, sample):
    """The frozen towers' outputs in place of pixels and sound."""
    sample = dict(sample)
    faces = {name: sample[name] for name in ("pixel_values_faces", "face_times")}
    sample["face_features"] = model.get_face_features(**faces).pooler_output
    sample["motion_features"] = model.get_motion_features(**faces).pooler_output
    del sample["pixel_values_faces"]
    picture = model.model.vision_tower(sample.pop("pixel_values_videos")[0])
    sample["video_features"] = picture.last_hidden_state[None]
    return {**sample, **sound_of(model, sample.pop("input_values"), sample.pop("audio_attention_mask"))}


@torch.no_grad()
def sound_of(model, input_values, mask):
    rate = model.config.audio_frame_rate
    _, states, times = sound_frames(model.model.audio_tower, rate, None, input_values, mask)
    return {"audio_features": states, "audio_attention_mask": (times >= 0).long()}


def moved(waveform, offset, rate=16000):
    """The sound later by `offset` ms: silence comes in where nothing is left, and the length stays."""
    samples = round(abs(offset) * rate / 1000)
    silence = np.zeros(samples, dtype=np.float32)
    if offset > 0:
        return np.concatenate([silence, waveform])[: len(waveform)]
    return np.concatenate([waveform[samples:], silence])


def moved_sound(model, processor, waveform, offset):
    features = processor.sound_features([moved(waveform, offset)])
    return sound_of(model, torch.from_numpy(features["input_values"]), torch.from_numpy(features["attention_mask"]))


def media_only(batch):
    names = ("face_features", "motion_features", "face_times", "audio_features", "audio_attention_mask")
    return {name: batch[name] for name in names if name in batch}


def train_alignment(model, processor, samples, steps, bar):
    """L_align (and the neural controller's loss) on clips in step; MSFE and alignment move, nothing else."""
    inner = model.model
    optimizer = torch.optim.AdamW([*inner.alignment.parameters(), *inner.msfe.parameters()], lr=3e-3, weight_decay=0.05)
    generator = torch.Generator().manual_seed(0)
    model.train()
    losses = []
    for _ in range(steps):
        chosen = torch.randperm(len(samples), generator=generator)[:16].tolist()
        batch = stack([samples[i] for i in chosen], processor.padding)
        terms = model.loss_parts(model.encode_media(**media_only(batch)))
        loss = terms["align"] + terms.get("controller", 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(terms["align"].detach()))
        bar.update()
    model.eval()
    return losses


@torch.no_grad()
def found_offsets(model, cases):
    """tau*, ms, of each case: a clip's pictures with a moved sound."""
    return [int(model.encode_media(**media_only({**sample, **sound})).alignment.offset) for sample, sound, _ in cases]


def hits(offsets, cases):
    """A sound that is late by p goes with the picture at t - p: tau* should be -p."""
    errors = [offset + case[2] for offset, case in zip(offsets, cases, strict=True)]
    return {
        "cases": len(errors),
        "within_one_step": statistics.mean(abs(error) <= GRID for error in errors),
        "median_error_ms": statistics.median(map(abs, errors)),
        "errors_ms": errors,
    }


def planted(args, report):
    """Parts 1 and 2, into `report`."""
    model, processor = tiny(0, controller="neural")
    rows, agreement = corpora(args.folder)
    samples = {}
    for row in tqdm([*rows, *agreement], desc="Encoding", unit="clip"):
        samples[row["video"]] = with_features(model, inputs_of(row, processor, args.folder))
    train = [samples[row["video"]] for row in rows if row["split"] != "test"]
    held_out = [row for row in rows if row["split"] == "test"]
    cases = []
    for number, row in enumerate(tqdm(held_out, desc="Moving sounds", unit="clip")):
        waveform = load_clip(row["video"], frames=False).waveform
        for plant in np.random.default_rng(number).integers(-RANGE, RANGE + 1, PLANTS).tolist():
            cases.append((samples[row["video"]], moved_sound(model, processor, waveform, plant), plant))
    late = [(samples[row["video"]], {}, row["offset_ms"]) for row in agreement]

    with tqdm(total=2 * args.steps, desc="Training the alignment", unit="step") as bar:
        before = hits(found_offsets(model, cases), cases)
        start = time.perf_counter()
        losses = train_alignment(model, processor, train, args.steps, bar)
        seconds = time.perf_counter() - start
        searching, _ = tiny(0, alignment_training="search")
        searching_losses = train_alignment(searching, processor, train, args.steps, bar)
    alignment = model.model.alignment
    result = {"steps": args.steps, "training_clips": len(train), "seconds": round(seconds, 1)}
    result["loss"] = {"first": losses[0], "last_ten": statistics.mean(losses[-10:])}
    result["before_training"] = before
    gains = {}
    for name in (None, "fuzzy", "neural", "backstepping"):
        alignment.controller, control = name, alignment.control
        alignment.control = control if name == "neural" else None
        result[f"controller_{name}"] = hits(found_offsets(model, cases), cases)
        if name is not None:
            with torch.no_grad():
                out = model.encode_media(**media_only({**cases[0][0], **cases[0][1]})).alignment
            gains[name] = [[round(float(gain), 3) for gain in window] for window in out.gains[0]]
        alignment.control = control
    alignment.controller = None
    result["held_out"] = result.pop("controller_None")
    result["agreement_corpus"] = hits(found_offsets(model, late), late)
    alignment.search = "global"
    result["eq_6_correlation_alone"] = hits(found_offsets(model, cases), cases)
    alignment.search, weights = "combined", alignment.gains
    alignment.gains = (1.0, 0.0)
    result["distance_alone"] = hits(found_offsets(model, cases), cases)
    alignment.gains = weights
    searched = hits(found_offsets(searching, cases), cases)
    result["trained_by_the_letter_of_eq_9"] = {
        **searched,
        "last_ten": statistics.mean(searching_losses[-10:]),
        "median_signed_error_ms": statistics.median(searched["errors_ms"]),
    }
    result["gains_of_one_clip"] = gains
    report["planted"] = result

    clip, sound, plant = cases[0]
    report["course"] = {"held-out demo clip": course_of(model, media_only({**clip, **sound}), plant)}
    if args.real is not None:
        report["real"] = real_clips(model, processor, args.real, report["course"])


def real_clips(model, processor, folder, courses):
    """tau* of real clips as they are and moved; the error against the plant, and against the clip as it is."""
    found = {}
    paths = sorted(path for path in Path(folder).iterdir() if path.suffix in (".mp4", ".mov"))
    plants = [-600, -400, -200, 0, 200, 400, 600]
    for path in tqdm(paths, desc="Real clips", unit="clip"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            [clip] = processor.load_clips([str(path)], sampling="fps", fps=20.0)
            batch = processor(videos=[clip], return_tensors="pt", return_metadata=True)
        metadata = batch.pop("video_metadata")[0]
        if "audio" not in metadata["modalities"] or "face" not in metadata["modalities"]:
            found[path.name] = {"modalities": metadata["modalities"], "left_out": "no face or no sound to align"}
            continue
        sample = with_features(model, dict(batch))
        cases = [(sample, moved_sound(model, processor, clip.waveform, plant), plant) for plant in plants]
        offsets = found_offsets(model, cases)
        errors = [offset + plant for offset, plant in zip(offsets, plants, strict=True)]
        own = offsets[plants.index(0)]
        found[path.name] = {
            "seconds": metadata["duration"],
            "frames": len(metadata["frames"]),
            # Speech lies around -20 dB; where there is none, nothing can be aligned.
            "loudest_quarter_second_db": loudest(clip.waveform),
            "plants_ms": plants,
            "offsets_ms": offsets,
            "within_one_step": statistics.mean(abs(error) <= GRID for error in errors),
            "follow_the_plant_within_one_step": statistics.mean(
                abs(error - own) <= GRID for error, plant in zip(errors, plants, strict=True) if plant
            ),
        }
        courses[path.name] = course_of(model, media_only({**sample, **cases[4][1]}), plants[4])
    return found


def loudest(waveform):
    """Level of the loudest quarter second, dB below full scale; -180 is digital silence."""
    pieces = waveform[: len(waveform) // 4000 * 4000].reshape(-1, 4000)
    return round(float(20 * np.log10(pieces.std(-1).max() + 1e-9)), 1)


@torch.no_grad()
def course_of(model, batch, plant):
    """L_align over tau for one clip; offsets that are not searched are left out."""
    found = model.encode_media(**batch).alignment
    searched = found.losses[0].isfinite()
    return {
        "plant_ms": plant,
        "found_ms": int(found.offset),
        "offsets_ms": found.offsets[searched].tolist(),
        "losses": [round(loss, 5) for loss in found.losses[0][searched].tolist()],
    }


def full_loss(args, report):
    """Part 3, into `report`."""
    base, processor = tiny(0)
    rows, _ = corpora(args.folder)
    samples = []
    for row in tqdm(rows, desc="Encoding", unit="clip"):
        sample = with_features(base, inputs_of(row, processor, args.folder))
        samples.append({**sample, "emotion_ids": torch.tensor([EMOTIONS.index(row["label"])])})
    train = [sample for sample, row in zip(samples, rows, strict=True) if row["split"] == "train"]
    test = [sample for sample, row in zip(samples, rows, strict=True) if row["split"] != "train"]
    runs = []
    steps = len(train) // 20
    with tqdm(total=2 * args.seeds * args.epochs * steps, desc="Training whole models", unit="step") as bar:
        for seed in range(args.seeds):
            for weight in (0.1, 0.0):
                model, _ = tiny(seed, contrast_weight=weight)
                course = train_whole(model, processor, train, args.epochs, seed, bar)
                runs.append({"seed": seed, "contrast_weight": weight, "course": course, **parted(model, train, test)})
    table = {}
    for weight in (0.1, 0.0):
        chosen = [run for run in runs if run["contrast_weight"] == weight]
        table[str(weight)] = {
            name: {
                "mean": statistics.mean(run[name] for run in chosen),
                "standard_deviation": statistics.stdev(run[name] for run in chosen),
                "each": [run[name] for run in chosen],
            }
            for name in ("silhouette", "nearest_mean", "silhouette_head", "nearest_mean_head")
            if name in chosen[0]
        }
    with_contrast = [run for run in runs if run["contrast_weight"]]
    terms = {
        name: [statistics.mean(run["course"][name][epoch] for run in with_contrast) for epoch in range(args.epochs)]
        for name in with_contrast[0]["course"]
    }
    report["full"] = {
        "training_clips": len(train),
        "held_out_clips": len(test),
        "epochs": args.epochs,
        "seeds": args.seeds,
        "terms_by_epoch": terms,
        "every_run_every_term_fell": all(
            run["course"][name][-1] < run["course"][name][0]
            for run in with_contrast
            for name in ("emotion", "align", "contrast", "loss")
        ),
        "separation": table,
    }


def train_whole(model, processor, samples, epochs, seed, bar, lr=1e-3):
    """The combined loss; means of each term over each epoch."""
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=lr, weight_decay=0.05)
    generator = torch.Generator().manual_seed(seed)
    course = {}
    model.train()
    for _ in range(epochs):
        seen = {}
        order = torch.randperm(len(samples), generator=generator).tolist()
        for first in range(0, len(order) - 19, 20):
            batch = stack([samples[i] for i in order[first : first + 20]], processor.padding)
            output = model(**batch)
            optimizer.zero_grad()
            output.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            for name, term in {**output.loss_terms, "loss": output.loss.detach()}.items():
                seen.setdefault(name, []).append(float(term.detach()))
            bar.update()
        for name, values in seen.items():
            course.setdefault(name, []).append(statistics.mean(values))
    model.eval()
    return course


@torch.no_grad()
def parted(model, train, test):
    """How well emotions part in F_A'', and in the head's space where there is one."""
    spaces = {}
    for name, samples in (("train", train), ("test", test)):
        voice = torch.cat([model.encode_media(**media_only(sample)).voice for sample in samples])
        spaces[name] = [voice]
        if hasattr(model.model, "contrast_head"):
            spaces[name].append(model.model.contrast_head.embed(voice))
    labels = {
        name: torch.cat([sample["emotion_ids"] for sample in samples])
        for name, samples in (("train", train), ("test", test))
    }
    found = {}
    for suffix, known, new in zip(("", "_head"), spaces["train"], spaces["test"], strict=False):
        middle = known.mean(0)
        known, new = (torch.nn.functional.normalize(values - middle, dim=-1) for values in (known, new))
        means = torch.stack([known[labels["train"] == i].mean(0) for i in range(len(EMOTIONS))])
        nearest = (new @ torch.nn.functional.normalize(means, dim=-1).T).argmax(-1)
        found[f"silhouette{suffix}"] = float(silhouette_score(new.numpy(), labels["test"].numpy(), metric="cosine"))
        found[f"nearest_mean{suffix}"] = float((nearest == labels["test"]).float().mean())
    return found


def corpora(folder):
    """The talking faces in step, and those of which half are not."""
    common = {"controls": 0.0, "fps": 25, "num_workers": 0}
    rows = make_demo(folder / "prosody", 200, seed=11, cues=("prosody",), progress=False, **common)
    return rows, make_demo(folder / "agreement", 40, seed=12, cues=("agreement",), progress=False, **common)


def plot(report, path):
    """L_align over tau, the errors, the losses and the separation, from the figures alone."""
    figure, axes = pyplot.subplots(2, 3, figsize=(13, 7), layout="constrained")
    courses = list(report["course"].items())[:2]
    for axis, (name, course) in zip((axes[0, 0], axes[0, 2]), courses, strict=False):
        axis.plot(course["offsets_ms"], course["losses"], color="0.2")
        axis.axvline(-course["plant_ms"], color="C3", linestyle="--", label="minus the plant")
        axis.axvline(course["found_ms"], color="C0", label="tau*")
        axis.set(title=name, xlabel="tau, ms", ylabel="L_align")
        axis.legend()
    axes[0, 1].hist(report["planted"]["held_out"]["errors_ms"], bins=np.arange(-1020, 1060, GRID), color="C0")
    axes[0, 1].set(title="held-out demo clips", xlabel="tau* + plant, ms", ylabel="cases")
    terms, table = report["full"]["terms_by_epoch"], report["full"]["separation"]
    for name in ("emotion", "align", "contrast"):
        axes[1, 0].plot(range(1, len(terms[name]) + 1), terms[name], "o-", label=name)
    axes[1, 0].set(title="loss terms, mean of seeds", xlabel="epoch")
    axes[1, 0].legend()
    for axis, name in ((axes[1, 1], "silhouette"), (axes[1, 2], "nearest_mean")):
        for place, weight in enumerate(("0.0", "0.1")):
            values = table[weight][name]["each"]
            axis.plot([place] * len(values), values, "o", color=f"C{place}")
            axis.plot([place - 0.2, place + 0.2], [table[weight][name]["mean"]] * 2, color=f"C{place}")
        title = f"{name.replace('_', ' ')} of F_A'', each seed"
        axis.set(title=title, xticks=(0, 1), xticklabels=("without", "with contrast"))
    save(path, lambda unfinished: figure.savefig(unfinished, dpi=120))


def save(path, write):
    """Write a file under another name, then move it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{os.getpid()}.{path.name}")
    write(unfinished)
    os.replace(unfinished, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="for the demo clips and what is made of them")
    parser.add_argument("--real", type=Path, help="folder of real clips")
    parser.add_argument("--part", choices=("offsets", "losses"), help="run this part alone (default: both)")
    parser.add_argument("--steps", type=int, default=200, help="of the alignment's training (default 200)")
    parser.add_argument("--seeds", type=int, default=5, help="of the whole models (default 5)")
    parser.add_argument("--epochs", type=int, default=10, help="of the whole models (default 10)")
    parser.add_argument("--output", type=Path, default=RESULTS / "esva_demo.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    report = {}
    if args.part is not None:
        report = json.loads(args.output.read_text(encoding="utf-8"))
    report |= {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "processor": platform.processor() or platform.machine(),
    }
    if args.part != "losses":
        planted(args, report)
    if args.part != "offsets":
        full_loss(args, report)
    short = {name: value for name, value in report["planted"].items() if isinstance(value, dict)}
    for name, value in short.items():
        if "within_one_step" in value:
            print(f"{name}: {value['within_one_step']:.3f} of {value['cases']} within {GRID} ms of the plant")
    for name, value in report.get("real", {}).items():
        print(f"{name}: {json.dumps(value)}")
    for weight, value in report["full"]["separation"].items():
        text = ", ".join(f"{n} {v['mean']:.3f} +- {v['standard_deviation']:.3f}" for n, v in value.items())
        print(f"contrast_weight {weight}: {text}")
    for name, course in report["full"]["terms_by_epoch"].items():
        print(f"{name}: {course[0]:.3f} -> {course[-1]:.3f}")
    save(args.output, lambda path: path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8"))
    plot(report, args.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
