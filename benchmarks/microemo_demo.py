"""MicroEmo and its ablations (Table 2), tiny and from nothing, on the demo corpus, once per row and seed.

The paper starts from published encoders and trains in two stages (3.4). Here the paths of frames and sound first learn
to see facial movements and to tell voices apart, in clips rendered in memory, in place of published weights. Then the
towers are frozen, their outputs are computed once, and the rest learns to answer questions, from the same rendered
clips and from real video and sound files.

All rows see the same clips in both stages and take the same number of steps. Results are written after each run, and a
run that is already in the file is not repeated.

    python benchmarks/microemo_demo.py --seeds 0 1 2 --rows full "w/o global-local AVE"
"""

import argparse
import json
import math
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from variants import answers, fit

from hf_emotion.answers.words import emotion_words
from hf_emotion.data.demo import VOICES, make_demo, movement_sizes, render_clips
from hf_emotion.papers import build
from hf_emotion.training.collator import EmotionCollator, encode

matplotlib.use("Agg")
ROWS = {
    "full": {},
    "w/o utterance-aware V-QF": {"use_utterances": False},
    "w/o global-local AVE": {"use_regions": False},
    "w/o all proposed modules": {"use_utterances": False, "use_regions": False},
    "full + local dynamics": {"local_dynamics": True},
}
RESULTS = Path(__file__).parent / "results" / "microemo_demo.json"
NUM_CLIPS = 240
CUES = ("face", "prosody")
STRENGTH, DISTRACTORS = 1.5, 0.3
NUM_FACES, LOOK_EPOCHS, LOOK_BATCH = 400, 6, 4
NUM_VOICES, LISTEN_EPOCHS, LISTEN_BATCH = 640, 6, 16
RENDERED_AT_ONCE = 16
STAGE_1_RATE = 1.5e-3
# What a frame passes through on its way to the language model; not every ablation has them all.
FRAME_PATH = (
    *("vision_tower", "image_qformer", "region_attention", "local_fusion", "local_qformer"),
    *("frame_position_embedding", "video_qformer", "video_projector"),
)
EPOCHS, BATCH, LEARNING_RATE = 4, 16, 2e-3
# The paper's towers are published ones and its global path works from the start; here all start from nothing, so the
# local path is open from the start, too.
GATE = 1.0


def prepare(output: Path, seed: int, num_clips: int = NUM_CLIPS) -> list[dict]:
    """The corpus under `output`, made or completed; its rows."""
    return make_demo(
        output, num_clips, seed=seed, cues=CUES, controls=1 / 6, strength=STRENGTH, distractors=DISTRACTORS
    )


def new_model(seed: int, **fields):
    """A tiny MicroEmo and its processor, which hears a clip of up to four seconds in two chunks."""
    if fields.get("use_regions", True):
        fields = {"local_gate_init": GATE, **fields}
    model, processor = build("microemo", seed=seed, **fields)
    processor.feature_extractor.num_clips = 2
    return model, processor


def rendered(processor, seed: int, num_faces: int = NUM_FACES, num_voices: int = NUM_VOICES) -> dict[str, list[dict]]:
    """What stage 1 learns from, by cue: silent faces and voices without a picture, rendered in memory and encoded.

    Beside the model's inputs a face has `movements` (1, T, M), how far each movement has gone in each frame, and a
    voice has `voice` (1,), which of `VOICES` it is.
    """
    jobs = [
        (cue, num_clips, seed + 10_000, first)
        for cue, num_clips in (("face", num_faces), ("prosody", num_voices))
        for first in range(0, num_clips, RENDERED_AT_ONCE)
    ]
    samples = {"face": [], "prosody": []}
    for (cue, *_), made in zip(jobs, in_workers(_render, jobs, processor, "rendering"), strict=True):
        samples[cue] += made
    return samples


def encode_rows(processor, rows) -> list[dict]:
    """Each row as the model takes it, made once; the processor decodes, finds faces and tokenises."""
    return in_workers(_encode, rows, processor, "encoding clips")


def in_workers(function, jobs, processor, desc: str) -> list:
    """`function` of each job, in a process a core; they are spawned, since MediaPipe's graphs do not survive a fork."""
    context = multiprocessing.get_context("spawn")
    cores = min(os.cpu_count() or 1, len(jobs))
    with ProcessPoolExecutor(cores, context, initializer=_start_worker, initargs=(processor,)) as pool:
        results = pool.map(function, jobs, chunksize=max(1, min(8, len(jobs) // cores)))
        return [_tensors(made) for made in tqdm(results, total=len(jobs), desc=desc, delay=2)]


def _start_worker(processor) -> None:
    global _processor
    _processor = processor
    torch.set_num_threads(1)


def _encode(row) -> dict[str, np.ndarray]:
    return {name: x.numpy() for name, x in encode(_processor, [row]).items()}


def _render(job) -> list[dict[str, np.ndarray]]:
    cue, num_clips, seed, first = job
    last = min(first + RENDERED_AT_ONCE, num_clips)
    samples = []
    for row, draws in render_clips(cue, range(first, last), seed, strength=STRENGTH, distractors=DISTRACTORS):
        sample = _encode(row)
        if cue == "face":
            times = sample["video_times"][0] / 1000
            sample["movements"] = movement_sizes(draws, times)[None].astype(np.float32)
        else:
            sample["voice"] = np.array([list(VOICES).index(row["label"])])
        samples.append(sample)
    return samples


def _tensors(made):
    """Arrays travel between processes as bytes; tensors would each hold an open file."""
    if isinstance(made, list):
        return [_tensors(sample) for sample in made]
    return {name: torch.from_numpy(x) for name, x in made.items()}


def fit_parts(parts, loss_of, num_samples: int, epochs: int, batch: int, seed: int, desc: str) -> None:
    """Plain one-cycle training of some parts of a model; `loss_of` takes indices of samples."""
    torch.manual_seed(seed)
    parameters = [parameter for part in parts for parameter in part.parameters()]
    steps = num_samples // batch
    optimizer = torch.optim.AdamW(parameters, lr=STAGE_1_RATE, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, STAGE_1_RATE, total_steps=epochs * steps, pct_start=0.2)
    with tqdm(total=epochs * steps, desc=desc, unit="step", delay=2) as bar:
        for _ in range(epochs):
            for which in torch.randperm(num_samples).split(batch)[:steps]:
                loss = loss_of(which.tolist())
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                schedule.step()
                bar.update()


def movements_of_windows(batch, use_utterances: bool = True) -> torch.Tensor:
    """The furthest each movement goes in the whole clip and in each utterance, in the order of the model's windows.

    An utterance between two frames has the nearest one, as in the model. (windows, M).
    """
    spans = batch.get("utterance_spans") if use_utterances else None
    furthest = []
    for i, times in enumerate(batch["video_times"]):
        real = times >= 0
        furthest.append(batch["movements"][i][real].amax(0))
        for start, end in [] if spans is None else spans[i][spans[i, :, 0] >= 0].tolist():
            inside = real & (times >= start) & (times < end)
            if not inside.any():
                distance = (2 * times - start - end).abs().masked_fill(~real, torch.iinfo(torch.int64).max)
                inside[distance.argmin()] = True
            furthest.append(batch["movements"][i][inside].amax(0))
    return torch.stack(furthest)


def learn_to_look(model, processor, samples, seed: int, epochs: int = LOOK_EPOCHS) -> float:
    """Stage 1, seeing: every part on the way of the frames learns how far a face has moved.

    Two linear heads, thrown away afterwards, read it from the results of each frame and from the tokens of each window.

    Returns:
        the share of the variance explained in the windows of the last tenth of the samples, which is not trained on.
    """
    torch.manual_seed(seed)
    visual, config = model.model, model.config
    collate = EmotionCollator(processor)
    num_movements = samples[0]["movements"].shape[-1]
    frame_head = nn.Linear(visual.image_qformer.query_tokens[0].numel(), num_movements)
    window_head = nn.Linear(config.num_video_query_tokens * config.text_config.hidden_size, num_movements)

    def see(which):
        batch = collate([samples[i] for i in which])
        real = batch["video_times"] >= 0
        states = visual.vision_tower(batch["pixel_values_videos"][real]).last_hidden_state
        stamps = (batch[f"video_timestamp_{name}"][real] for name in ("ids", "mask"))
        frames = visual.frame_results(states, *stamps, batch["video_region_masks"][real], real)
        tokens = visual.window_tokens(frames, batch["video_times"], batch.get("utterance_spans"))
        windows = torch.cat(tokens).unflatten(0, (-1, config.num_video_query_tokens))
        return (
            (frame_head(frames.flatten(2))[real], batch["movements"][real]),
            (window_head(windows.flatten(1)), movements_of_windows(batch, config.use_utterances)),
        )

    def loss_of(which):
        return sum((guess - true).pow(2).mean() for guess, true in see(which))

    parts = [frame_head, window_head, *(part for name, part in visual.named_children() if name in FRAME_PATH)]
    learnt = int(0.9 * len(samples))
    model.train()
    fit_parts(parts, loss_of, learnt, epochs, LOOK_BATCH, seed, "learning to look")
    model.eval()
    with torch.no_grad():
        _, (guess, true) = see(range(learnt, len(samples)))
    return float((1 - (guess - true).pow(2).mean(0) / true.var(0)).mean())


def learn_to_listen(model, processor, samples, seed: int, epochs: int = LISTEN_EPOCHS) -> float:
    """Stage 1, hearing: the audio tower, its Q-Former and projector learn which voice speaks, through a linear head.

    Returns:
        the share of the voices named correctly in the last tenth of the samples, which is not trained on.
    """
    torch.manual_seed(seed)
    heard, config = model.model, model.config
    collate = EmotionCollator(processor)
    head = nn.Linear(config.num_audio_query_tokens * config.text_config.hidden_size, len(VOICES))

    def hear(which):
        batch = collate([samples[i] for i in which])
        output = heard.get_audio_features(
            input_features=batch["input_features"], audio_attention_mask=batch["audio_attention_mask"]
        )
        return head(torch.stack(output.pooler_output).flatten(1)), batch["voice"]

    def loss_of(which):
        return nn.functional.cross_entropy(*hear(which), label_smoothing=0.05)

    learnt = int(0.9 * len(samples))
    parts = [head, *(part for name, part in heard.named_children() if name.startswith("audio_"))]
    model.train()
    fit_parts(parts, loss_of, learnt, epochs, LISTEN_BATCH, seed, "learning to listen")
    model.eval()
    with torch.no_grad():
        guess, true = hear(range(learnt, len(samples)))
    return float((guess.argmax(1) == true).float().mean())


@torch.no_grad()
def with_features(model, samples) -> list[dict]:
    """The samples with the frozen towers' outputs in place of pixels and sound."""
    cached = []
    for sample in tqdm(samples, desc="towers", unit="clip", delay=2):
        text = {name: sample[name] for name in ("input_ids", "attention_mask", "labels")}
        media = {name: x for name, x in sample.items() if name in model.media_inputs}
        cached.append(text | model.model.tower_features(**media))
    return cached


class FrameDropper(EmotionCollator):
    """A collator that leaves out a quarter of the frames at random: a small corpus goes further."""

    frame_tensors = (
        "video_features",
        "video_times",
        "video_region_masks",
        "video_timestamp_ids",
        "video_timestamp_mask",
    )

    def __call__(self, rows):
        return super().__call__([self.thinned(row) if "video_times" in row else row for row in rows])

    def thinned(self, row):
        frames = row["video_times"].shape[1]
        chosen = torch.randperm(frames)[: max(1, frames * 3 // 4)].sort().values
        return {name: x[:, chosen] if name in self.frame_tensors else x for name, x in row.items()}


def train(model, processor, samples, seed: int, epochs: int = EPOCHS) -> list[float]:
    """Stage 2 with `Trainer`: everything but the towers learns to answer; returns the logged losses."""
    model.requires_grad_(True)
    model.model.vision_tower.requires_grad_(False)
    model.model.audio_tower.requires_grad_(False)
    return fit(
        model,
        processor,
        samples,
        epochs * math.ceil(len(samples) / BATCH),
        LEARNING_RATE,
        seed,
        BATCH,
        collator=FrameDropper(processor),
        warmup_steps=0.1,
        weight_decay=0.1,
        logging_steps=20,
    )


def named(text: str, row: dict) -> bool:
    """Whether the answer names the row's emotion and no other."""
    return emotion_words(text) == row["labels"]


def score(rows, texts, constant: str) -> dict:
    """Share of clips whose emotion is named, by cue, with the constant answer and the answers in shuffled order."""
    shuffled = texts.copy()
    random.Random(0).shuffle(shuffled)
    result = {}
    for cue in (None, *CUES):
        chosen = [i for i, row in enumerate(rows) if cue in (None, row["cue"])]
        result[cue or "all"] = {
            "clips": len(chosen),
            "model": sum(named(texts[i], rows[i]) for i in chosen) / len(chosen),
            "constant": sum([constant] == rows[i]["labels"] for i in chosen) / len(chosen),
            "shuffled": sum(named(shuffled[i], rows[i]) for i in chosen) / len(chosen),
        }
    return result


def write(path: Path, found: dict) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def plot(summary: dict, path: Path) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    names = ["all", *CUES]
    for i, (row, found) in enumerate(summary.items()):
        places = [x + 0.8 * (i + 0.5) / len(summary) - 0.4 for x in range(len(names))]
        axes.bar(places, [found[name]["mean"] for name in names], 0.8 / len(summary), label=row)
        for place, name in zip(places, names, strict=True):
            axes.plot([place] * len(found[name]["runs"]), found[name]["runs"], "k.", markersize=4)
    constant = next(iter(summary.values()))
    for x, name in enumerate(names):
        axes.hlines(constant[name]["constant"], x - 0.42, x + 0.42, "k", "dashed")
    axes.set_xticks(range(len(names)), [f"label carried by {name}" if name != "all" else "all clips" for name in names])
    axes.set_ylabel("held-out clips named rightly")
    axes.set_title("MicroEmo, tiny, on the demo corpus (dots: seeds; dashed: best constant answer)")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=["full", "w/o global-local AVE"])
    parser.add_argument("--corpus", type=Path, help="folder of a corpus made before (default: a temporary one)")
    parser.add_argument("--corpus-seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    setting = {
        "clips": NUM_CLIPS,
        "cues": list(CUES),
        "strength": STRENGTH,
        "distractors": DISTRACTORS,
        "faces": NUM_FACES,
        "look_epochs": LOOK_EPOCHS,
        "voices": NUM_VOICES,
        "listen_epochs": LISTEN_EPOCHS,
        "epochs": EPOCHS,
        "gate": GATE,
        "corpus_seed": arguments.corpus_seed,
    }
    found = {"setting": setting, "torch": torch.__version__, "runs": []}
    if arguments.output.is_file():
        before = json.loads(arguments.output.read_text(encoding="utf-8"))
        if before["setting"] == setting:
            found = before

    with tempfile.TemporaryDirectory() as scratch:
        rows = prepare(arguments.corpus or Path(scratch) / "corpus", arguments.corpus_seed)
        learnt = [i for i, row in enumerate(rows) if row["split"] != "test"]
        held_out = [i for i, row in enumerate(rows) if row["split"] == "test"]
        labels = [rows[i]["label"] for i in learnt]
        constant = max(sorted(set(labels)), key=labels.count)
        encoded = {}  # by whether the processor makes a window of each utterance
        for seed in arguments.seeds:
            for name in arguments.rows:
                if any(run["row"] == name and run["seed"] == seed for run in found["runs"]):
                    continue
                model, processor = new_model(seed, **ROWS[name])
                windows = processor.use_utterances
                if windows not in encoded:
                    encoded[windows] = encode_rows(processor, rows), rendered(processor, arguments.corpus_seed)
                samples, drawn = encoded[windows]
                started = time.process_time()
                explained = learn_to_look(model, processor, drawn["face"], seed)
                recognised = learn_to_listen(model, processor, drawn["prosody"], seed)
                samples = with_features(model, samples)
                learning = [samples[i] for i in learnt] + with_features(model, drawn["face"] + drawn["prosody"])
                losses = train(model, processor, learning, seed)
                texts = answers(model, processor, [samples[i] for i in held_out], max_new_tokens=32, batch=BATCH)
                scores = score([rows[i] for i in held_out], texts, constant)
                run = {
                    "row": name,
                    "seed": seed,
                    "explained_variance": explained,
                    "voices_recognised": recognised,
                    "last_loss": losses[-1],
                    "scores": scores,
                    "core_seconds": round(time.process_time() - started),
                }
                found["runs"].append(run)
                write(arguments.output, found)
                print(
                    name, seed, f"{explained:.2f}", {cue: round(s["model"], 3) for cue, s in scores.items()}, flush=True
                )

    summary = {}
    for name in ROWS:
        runs = [run for run in found["runs"] if run["row"] == name]
        if runs:
            summary[name] = {}
            for cue in ("all", *CUES):
                values = [run["scores"][cue]["model"] for run in runs]
                summary[name][cue] = {
                    "runs": values,
                    "mean": statistics.mean(values),
                    "spread": max(values) - min(values),
                    "constant": runs[0]["scores"][cue]["constant"],
                    "clips": runs[0]["scores"][cue]["clips"],
                }
    found["summary"] = summary
    write(arguments.output, found)
    plot(summary, arguments.output.with_suffix(".png"))
    for name, scores in summary.items():
        print(
            f"{name:<28}" + "  ".join(f"{cue} {s['mean']:.2f} (spread {s['spread']:.2f})" for cue, s in scores.items())
        )


if __name__ == "__main__":
    main()
