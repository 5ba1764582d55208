"""The quickstart: the model in the box describes a clip; then a tiny MicroEmo is trained on a small corpus made here,
scored, saved, loaded in a process without this package, and asked.

The training shows the machinery. Its faces are one photograph, warped; its voices are synthetic; its model is tiny, and
what it says of real people means nothing. Clips of yours are described by the model in the box.

The paper starts from published encoders and trains in two stages (3.4). So does the quickstart: first the paths of
frames and sound learn to see facial movements and to tell voices apart, in clips rendered in memory, instead of
published weights; then the towers are frozen, their outputs are computed once, and the rest learns to answer questions,
from the same rendered clips and from real video and sound files.
"""

import html
import json
import multiprocessing
import os
import random
import subprocess
import sys
import time
from base64 import b64encode
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from transformers import Trainer, TrainingArguments

from ..answers.words import emotion_words
from ..data.demo import VOICES, make_demo, movement_sizes, render_clips
from ..data.files import write_whole
from ..inference import describe
from ..papers import build
from ..starter import load as load_starter
from .collator import EmotionCollator, encode
from .inspect_clips import STYLE as VIEW_STYLE
from .inspect_clips import View, data_url, look, timeline

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
STYLE = f"""{VIEW_STYLE}
table {{ border-collapse: collapse }} td, th {{ padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: left }}
blockquote {{ background: #f2f6fa; padding: .6rem 1rem; margin: 0; overflow: hidden }}
video {{ float: right; width: 14.5rem; margin: 0 0 1rem 1rem }} h2 {{ clear: both }}
"""


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


def fit(parts, loss_of, num_samples: int, epochs: int, batch: int, seed: int, desc: str) -> None:
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


def movements_of_windows(batch) -> torch.Tensor:
    """The furthest each movement goes in the whole clip and in each utterance, in the order of the model's windows.

    An utterance between two frames has the nearest one, as in the model. (windows, M).
    """
    spans = batch.get("utterance_spans")
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
            (window_head(windows.flatten(1)), movements_of_windows(batch)),
        )

    def loss_of(which):
        return sum((guess - true).pow(2).mean() for guess, true in see(which))

    parts = [frame_head, window_head, *(part for name, part in visual.named_children() if name in FRAME_PATH)]
    learnt = int(0.9 * len(samples))
    model.train()
    fit(parts, loss_of, learnt, epochs, LOOK_BATCH, seed, "learning to look")
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
    fit(parts, loss_of, learnt, epochs, LISTEN_BATCH, seed, "learning to listen")
    model.eval()
    with torch.no_grad():
        guess, true = hear(range(learnt, len(samples)))
    return float((guess.argmax(1) == true).float().mean())


@torch.no_grad()
def with_features(model, samples) -> list[dict]:
    """The samples with the frozen towers' outputs instead of pixels and sound."""
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


def train(model, processor, samples, output: Path, seed: int, epochs: int = EPOCHS) -> list[dict]:
    """Stage 2 with `Trainer`: everything but the towers learns to answer; returns the logged losses."""
    model.requires_grad_(True)
    model.model.vision_tower.requires_grad_(False)
    model.model.audio_tower.requires_grad_(False)
    arguments = TrainingArguments(
        output_dir=str(output),
        num_train_epochs=epochs,
        per_device_train_batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        weight_decay=0.1,
        max_grad_norm=1.0,
        logging_steps=20,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        label_names=["labels"],
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=not sys.stderr.isatty(),
        seed=seed,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=samples,
        data_collator=FrameDropper(processor),
        processing_class=processor,
    )
    trainer.train()
    model.eval()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@torch.no_grad()
def answers(model, processor, samples) -> list[str]:
    """Greedy answers to the questions of samples that hold the right answers."""
    texts = []
    collate = EmotionCollator(processor)
    for first in range(0, len(samples), BATCH):
        prompts = []
        for sample in samples[first : first + BATCH]:
            end = int((sample["labels"][0] != -100).nonzero()[0])
            prompt = {name: value for name, value in sample.items() if name != "labels"}
            prompts.append(prompt | {name: sample[name][:, :end] for name in ("input_ids", "attention_mask")})
        batch = collate(prompts)
        generated = model.generate(**batch, max_new_tokens=32, do_sample=False)
        texts += processor.batch_decode(generated[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


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


# Runs where hf_emotion cannot be imported: all that is needed came with the folder.
FRESH_PROCESS = """
import json, sys
sys.modules["hf_emotion"] = None
import transformers
folder, clip, utterances, question = sys.argv[1:]
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
model = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=True)
batch = processor(videos=[clip], text=[question], utterances=[json.loads(utterances)], return_tensors="pt")
generated = model.generate(**batch, max_new_tokens=32, do_sample=False)
print(processor.batch_decode(generated[:, batch["input_ids"].shape[1]:], skip_special_tokens=True)[0])
"""


def ask_afresh(folder: Path, row: dict) -> str:
    """The saved model's answer about a clip, from a new process without this package."""
    # The child runs in the folder itself, where this process's relative paths lead nowhere.
    command = [sys.executable, "-c", FRESH_PROCESS, str(folder.resolve()), os.path.abspath(row["video"])]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    child = subprocess.run(
        [*command, json.dumps(row["utterances"]), row["question"]],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        check=False,
    )
    if child.returncode:
        raise RuntimeError(f"the saved folder {folder} does not load by itself: {child.stderr.strip()[-500:]}")
    return child.stdout.splitlines()[-1] if child.stdout.strip() else ""


def quickstart(output: Path, clips=(), seed: int = 0) -> dict:
    """Run the whole way and write `model/`, `corpus/`, `scores.json` and `report.html` under `output`.

    Args:
        output: folder; a corpus that is already there is kept.
        clips: clips of the user, described by the model in the box.
        seed: of corpus, weights and training.

    Returns:
        what `scores.json` holds.
    """
    started = time.time()
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)

    def say(step: str) -> None:
        print(f"[{time.time() - started:5.0f} s] {step}", flush=True)

    starter = load_starter()
    described = describe(clips, *starter) if clips else []
    for result in described:
        say(f"1/7 the model in the box: {result['clip']}: {result.get('description', result.get('error'))}")
    say(f"2/7 making {NUM_CLIPS} talking-face clips (mp4 with sound) in {output / 'corpus'}")
    rows = prepare(output / "corpus", seed)
    if not clips:
        [result] = describe([rows[0]["video"]], *starter, utterances=[rows[0]["utterances"]])
        say(f"1/7 the model in the box: {Path(result['clip']).name}: {result['description']}")
    model, processor = new_model(seed)
    say(f"3/7 stage 1: learning to look at {NUM_FACES} rendered faces and to listen to {NUM_VOICES} rendered voices")
    drawn = rendered(processor, seed)
    explained = learn_to_look(model, processor, drawn["face"], seed)
    say(f"    movements in unseen faces: {explained:.0%} of the variance explained")
    recognised = learn_to_listen(model, processor, drawn["prosody"], seed)
    say(f"    unseen voices: {recognised:.0%} recognised, of {len(VOICES)} kinds")
    say("4/7 encoding the clips: frames, face regions, sound, utterances, text")
    samples = with_features(model, encode_rows(processor, rows))
    pretrained = with_features(model, drawn["face"] + drawn["prosody"])
    held_out = [i for i, row in enumerate(rows) if row["split"] == "test"]
    learnt = [i for i, row in enumerate(rows) if row["split"] != "test"]
    say(f"5/7 stage 2: learning to answer with Trainer, from {len(learnt)} clips and the {len(pretrained)} of stage 1")
    losses = train(model, processor, [samples[i] for i in learnt] + pretrained, output / "training", seed)
    say(f"    loss {losses[0]['loss']:.3f} -> {losses[-1]['loss']:.3f}")
    say(f"6/7 answering about {len(held_out)} held-out clips")
    test_rows = [rows[i] for i in held_out]
    texts = answers(model, processor, [samples[i] for i in held_out])
    labels = [rows[i]["label"] for i in learnt]
    constant = max(sorted(set(labels)), key=labels.count)
    scores = score(test_rows, texts, constant)
    for name, numbers in scores.items():
        say(
            f"    {name:<8} {numbers['model']:.0%} of {numbers['clips']} clips named correctly; "
            f"always '{constant}' {numbers['constant']:.0%}, shuffled answers {numbers['shuffled']:.0%}"
        )
    say("7/7 saving, loading in a fresh process without hf_emotion, describing")
    model.save_pretrained(output / "model")
    processor.save_pretrained(output / "model")
    shown = next((i for i, row in enumerate(test_rows) if row["cue"] == "face" and not row["control"]), 0)
    fresh = ask_afresh(output / "model", test_rows[shown])
    say(f"    {Path(test_rows[shown]['video']).name}: {fresh}")
    if fresh.strip() != texts[shown].strip():
        say(f"    the model in this process, in a batch, answered differently: {texts[shown]}")
    report = {
        "seed": seed,
        "stage_1": {"explained_variance": explained, "voices_recognised": recognised},
        "losses": losses,
        "scores": scores,
        "constant": constant,
        "seconds": round(time.time() - started),
        "described": described,
    }
    write_whole(output / "scores.json", json.dumps(report, indent=2))
    write_report(output / "report.html", processor, test_rows, texts, report)
    say(f"done: {output / 'report.html'}, {output / 'scores.json'}, {output / 'model'}")
    print(
        "The model trained here shows the machinery; it never saw a real face. For clips: hf-emotion predict clip.mp4"
    )
    return report


def write_report(path: Path, processor, rows: list[dict], texts: list[str], report: dict) -> None:
    """The scores, and held-out clips as the model sees them, right and wrong answers, as a page without other files."""
    right = [i for i, row in enumerate(rows) if named(texts[i], row)]
    wrong = [i for i in range(len(rows)) if i not in right]
    views = [(i, look(processor, rows[i]["video"], rows[i]["utterances"])) for i in (*right[:2], *wrong[:2])]
    clips = "".join(clip_section(view, rows[i], texts[i], i in right) for i, view in views)
    scores = "".join(
        f"<tr><td>{name}</td><td>{numbers['clips']}</td><td>{numbers['model']:.0%}</td>"
        f"<td>{numbers['constant']:.0%}</td><td>{numbers['shuffled']:.0%}</td></tr>"
        for name, numbers in report["scores"].items()
    )
    # An error names its clip itself.
    lines = [result.get("error") or f"{result['clip']}: {result['description']}" for result in report["described"]]
    described = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    page = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>hf_emotion quickstart</title>
<style>{STYLE}</style>
<h1>Quickstart</h1>
{f"<h2>Your clips, described by the model in the box</h2><ul>{described}</ul>" if described else ""}
<h2>A model trained in {report["seconds"]} seconds</h2>
<p class="legend">It shows the machinery and was never trained on real faces: one photograph, warped, and a synthetic
voice; random weights {report["seconds"]} seconds before this page was written.</p>
<table><tr><th>label carried by</th><th>held-out clips</th><th>named correctly</th>
<th>always '{html.escape(report["constant"])}'</th><th>shuffled answers</th></tr>{scores}</table>
{clips}
</html>
"""
    write_whole(path, page)


def clip_section(view: View, row: dict, text: str, right: bool) -> str:
    """A held-out clip: the question, the answer, the planted emotion, frames with facial regions, and the sound."""
    film = f"data:video/mp4;base64,{b64encode(Path(row['video']).read_bytes()).decode()}"
    figures = "".join(
        f'<figure><img src="{data_url(picture)}" alt="frame at {frame["time"]:.2f} s with facial regions">'
        f"<figcaption>{frame['time']:.2f} s</figcaption></figure>"
        for picture, frame in zip(view.pictures, view.inputs.report["frames"], strict=True)
    )
    return f"""<h2>{html.escape(Path(row["video"]).name)}: {"correct" if right else "wrong"}</h2>
<video controls src="{film}"></video>
<p><b>Question.</b> {html.escape(row["question"])}</p><blockquote>{html.escape(text)}</blockquote>
<p>Planted in the clip: {html.escape(row["answer"])}</p>
<div class="frames">{figures}</div>{timeline(view)}"""
