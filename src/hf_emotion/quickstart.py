"""The main job, small: a corpus made here, a tiny MicroEmo trained on it, scored, saved, loaded afresh, and asked.

It shows the machinery. The faces are one photograph, warped; the voices are synthetic; the model is tiny. It is no
emotion expert, and what it says of other clips means nothing.

The paper starts from published encoders and trains in two stages (3.4). Here, too: first the visual encoder learns to
see facial movements in rendered pictures, which stands in for EVA and InstructBLIP; then its tower is frozen, the
tower's outputs are computed once, and the rest learns to answer questions about real video and sound files.
"""

import html
import json
import os
import random
import subprocess
import sys
import time
from base64 import b64encode
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm
from transformers import Trainer, TrainingArguments

from .data.demo import make_demo, render_faces
from .evaluation.words import emotion_words
from .inference import describe
from .processing.faces import draw_regions
from .sizes import build
from .training.collator import EmotionCollator, encode

NUM_CLIPS = 240
CUES = ("face", "prosody")
STRENGTH, DISTRACTORS = 1.5, 0.3
PICTURES, PICTURE_EPOCHS = 300, 6
EPOCHS, BATCH, LEARNING_RATE = 20, 16, 2e-3


def prepare(output: Path, seed: int, num_clips: int = NUM_CLIPS) -> list[dict]:
    """The corpus under `output`, made or completed; its rows."""
    return make_demo(
        output, num_clips, seed=seed, cues=CUES, controls=1 / 6, strength=STRENGTH, distractors=DISTRACTORS
    )


def new_model(seed: int, **fields):
    """A tiny MicroEmo and its processor, which hears a clip of up to four seconds in two chunks."""
    model, processor = build("microemo", seed=seed, **fields)
    processor.feature_extractor.num_clips = 2
    return model, processor


def rendered_pictures(processor, seed: int, num_draws: int = PICTURES) -> dict[str, torch.Tensor]:
    """Pictures of moving faces as the model takes them, and how far each movement has gone, (F, M)."""
    pixels, regions, sizes = [], [], []
    draws = render_faces(num_draws, seed + 10_000, strength=STRENGTH, distractors=DISTRACTORS)
    for frames, moved in tqdm(draws, total=num_draws, desc="pictures", unit="face", delay=2):
        pixels.append(processor.image_processor.frames_to_pixels(frames))
        track = processor.face_finder(frames)
        regions.append(torch.from_numpy(processor.face_finder.region_masks(track, tuple(processor.patch_grid))))
        sizes.append(torch.from_numpy(moved))
    return {"pixels": torch.cat(pixels), "regions": torch.cat(regions), "sizes": torch.cat(sizes)}


def learn_to_look(model, processor, pictures, seed: int, epochs: int = PICTURE_EPOCHS) -> float:
    """Stage 1: the visual encoder learns to see facial movements; returns the explained variance on unseen pictures.

    Trained are the vision tower, the image Q-Former and, where the model has them, the regional attention and the
    fusion: the path of a frame, with a linear head that is thrown away.
    """
    torch.manual_seed(seed)
    visual = model.model
    told = processor.timestamps(np.zeros((1, 1), dtype=np.int64))
    ids, mask = (torch.from_numpy(told[f"video_timestamp_{name}"][0]) for name in ("ids", "mask"))
    head = nn.Linear(visual.image_qformer.query_tokens[0].numel(), pictures["sizes"].shape[1])
    names = ("vision_tower", "image_qformer", "region_attention", "local_fusion", "local_qformer")
    parts = [head, *(part for name, part in visual.named_children() if name in names)]
    parameters = [parameter for part in parts for parameter in part.parameters()]

    def see(which):
        states = visual.vision_tower(pictures["pixels"][which]).last_hidden_state
        told_ids, told_mask = ids.expand(len(which), -1), mask.expand(len(which), -1)
        tokens = visual.frame_results(states, told_ids, told_mask, pictures["regions"][which])
        return head(tokens.flatten(1))

    count = len(pictures["sizes"])
    unseen = torch.arange(int(0.9 * count), count)
    steps = epochs * (int(0.9 * count) // 32)
    optimizer = torch.optim.AdamW(parameters, lr=1.5e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, total_steps=steps, pct_start=0.2)
    model.train()
    with tqdm(total=steps, desc="learning to look", unit="step", delay=2) as bar:
        for _ in range(epochs):
            for which in torch.randperm(int(0.9 * count)).split(32)[: steps // epochs]:
                loss = (see(which) - pictures["sizes"][which]).pow(2).mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                schedule.step()
                bar.update()
    model.eval()
    with torch.no_grad():
        error = torch.cat([see(which) for which in unseen.split(64)]) - pictures["sizes"][unseen]
    return float((1 - error.pow(2).mean(0) / pictures["sizes"][unseen].var(0)).mean())


def encode_rows(processor, rows) -> list[dict]:
    """Each row as the model takes it, made once; the processor decodes, finds faces and tokenises."""
    return [encode(processor, [row]) for row in tqdm(rows, desc="encoding clips", unit="clip", delay=2)]


@torch.no_grad()
def with_features(model, samples) -> list[dict]:
    """The samples with the frozen vision tower's output in place of pixels."""
    cached = []
    for sample in samples:
        sample = dict(sample)
        states = model.model.vision_tower(sample.pop("pixel_values_videos")[0]).last_hidden_state
        cached.append({**sample, "video_features": states[None]})
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
        kept = []
        for row in rows:
            frames = row["video_times"].shape[1]
            chosen = torch.randperm(frames)[: max(1, frames * 3 // 4)].sort().values
            kept.append({name: x[:, chosen] if name in self.frame_tensors else x for name, x in row.items()})
        return super().__call__(kept)


def train(model, processor, samples, output: Path, seed: int, epochs: int = EPOCHS) -> list[dict]:
    """Stage 2 with `Trainer`: everything but the vision tower learns to answer; returns the logged losses."""
    model.requires_grad_(True)
    model.model.vision_tower.requires_grad_(False)
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
    """Greedy answers to the questions of samples that hold their own answers."""
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
    """Share of clips whose emotion is named, by cue, beside the constant answer and the answers in shuffled order."""
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
    command = [sys.executable, "-c", FRESH_PROCESS, str(folder.resolve()), row["video"]]
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
        clips: the user's own clips, described at the end.
        seed: of corpus, weights and training.

    Returns:
        what `scores.json` holds.
    """
    started = time.time()
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)

    def say(step: str) -> None:
        print(f"[{time.time() - started:5.0f} s] {step}", flush=True)

    say(f"1/6 making {NUM_CLIPS} talking-face clips (mp4 with sound) in {output / 'corpus'}")
    rows = prepare(output / "corpus", seed)
    model, processor = new_model(seed)
    say("2/6 stage 1: the visual encoder learns to see facial movements in rendered pictures")
    pictures = rendered_pictures(processor, seed)
    explained = learn_to_look(model, processor, pictures, seed)
    say(f"    explained variance of the movements in unseen pictures: {explained:.2f}")
    say("3/6 encoding the clips: frames, face regions, sound, utterances, text")
    samples = with_features(model, encode_rows(processor, rows))
    held_out = [i for i, row in enumerate(rows) if row["split"] == "test"]
    learnt = [i for i, row in enumerate(rows) if row["split"] != "test"]
    say(f"4/6 stage 2: training on {len(learnt)} clips with Trainer")
    losses = train(model, processor, [samples[i] for i in learnt], output / "training", seed)
    say(f"    loss {losses[0]['loss']:.3f} -> {losses[-1]['loss']:.3f}")
    say(f"5/6 answering about {len(held_out)} held-out clips")
    test_rows = [rows[i] for i in held_out]
    texts = answers(model, processor, [samples[i] for i in held_out])
    labels = [rows[i]["label"] for i in learnt]
    constant = max(sorted(set(labels)), key=labels.count)
    scores = score(test_rows, texts, constant)
    for name, found in scores.items():
        say(
            f"    {name:<8} {found['model']:.0%} of {found['clips']} clips named rightly; "
            f"always '{constant}' {found['constant']:.0%}, shuffled answers {found['shuffled']:.0%}"
        )
    say("6/6 saving, loading in a fresh process without hf_emotion, describing")
    model.save_pretrained(output / "model")
    processor.save_pretrained(output / "model")
    shown = next((i for i, row in enumerate(test_rows) if row["cue"] == "face" and not row["control"]), 0)
    fresh = ask_afresh(output / "model", test_rows[shown])
    say(f"    {Path(test_rows[shown]['video']).name}: {fresh}")
    if fresh.strip() != texts[shown].strip():
        say(f"    the model in this process, in a batch, had answered otherwise: {texts[shown]}")
    own = describe(clips, model, processor) if clips else []
    for result in own:
        say(f"    {result['clip']}: {result.get('description', result.get('error'))}")
    result = {
        "seed": seed,
        "explained_variance": explained,
        "losses": losses,
        "scores": scores,
        "constant": constant,
        "seconds": round(time.time() - started),
        "own_clips": own,
    }
    (output / "scores.json").write_text(json.dumps(result, indent=2), encoding="utf-8")
    write_report(output / "report.html", processor, test_rows[shown], fresh, result)
    say(f"done: {output / 'report.html'}, {output / 'scores.json'}, {output / 'model'}")
    print("This small model shows the machinery and is no emotion expert.")
    return result


def picture(array: np.ndarray) -> str:
    """(H, W, 3) uint8 as a data URL."""
    buffer = BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"


def write_report(path: Path, processor, row: dict, text: str, result: dict) -> None:
    """One clip as the model sees it, and the scores, as a page without outside files."""
    [clip] = processor.load_clips([row["video"]], utterances=[row["utterances"]])
    [track] = processor.find_faces([clip])
    frames = "".join(
        f'<figure><img src="{picture(draw_regions(clip.frames[t], track, t, processor.face_finder))}">'
        f"<figcaption>{clip.frame_times[t] / 1000:.2f} s</figcaption></figure>"
        for t in range(len(clip.frames))
    )
    wave = np.abs(clip.waveform).reshape(-1)
    bars = [float(part.max()) for part in np.array_split(wave, 300)]
    top = max(max(bars), 1e-6)
    sound = "".join(
        f'<rect x="{2 * i}" y="{40 - 38 * bar / top:.1f}" width="1.5" height="{76 * bar / top:.1f}"/>'
        for i, bar in enumerate(bars)
    )
    seconds = clip.duration / 1000
    places = [(600 * u["start"] / seconds, 600 * u["end"] / seconds) for u in clip.utterances]
    spoken = "".join(
        f'<rect class="spoken" x="{start:.1f}" y="84" height="22" width="{end - start:.1f}"/>'
        f'<text x="{start + 4:.1f}" y="100">{i}</text>'
        for i, (start, end) in enumerate(places, 1)
    )
    marks = "".join(
        f'<line x1="{0.6 * t / seconds:.1f}" x2="{0.6 * t / seconds:.1f}" y1="0" y2="82"/>'
        for t in clip.frame_times.tolist()
    )
    lines = "".join(
        f"<li>{u['start']:.2f}&ndash;{u['end']:.2f} s: {html.escape(u['text'] or '')}</li>" for u in clip.utterances
    )
    scores = "".join(
        f"<tr><td>{name}</td><td>{found['clips']}</td><td>{found['model']:.0%}</td><td>{found['constant']:.0%}</td>"
        f"<td>{found['shuffled']:.0%}</td></tr>"
        for name, found in result["scores"].items()
    )
    own = "".join(
        f"<li>{html.escape(str(clip['clip']))}: {html.escape(clip.get('description', clip.get('error', '')))}</li>"
        for clip in result["own_clips"]
    )
    page = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>hf_emotion quickstart</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
figure {{ display: inline-block; margin: 0 .5rem .5rem 0; width: 14.5rem }} figure img {{ width: 100% }}
figcaption {{ color: #666; font-size: .85rem }} table {{ border-collapse: collapse }}
td, th {{ padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: left }}
svg {{ width: 100%; background: #fafafa }} svg rect {{ fill: #56718a }} svg .spoken {{ fill: #e69f00 }}
svg line {{ stroke: #c33; stroke-width: 1 }} blockquote {{ background: #f2f6fa; padding: .6rem 1rem; margin: 0 }}
.note {{ color: #666 }}
</style>
<h1>A clip the model never saw</h1>
<p class="note">This small model shows the machinery and is no emotion expert. One photograph, warped, and a synthetic
voice; random weights {result["seconds"]} seconds before this page was written.</p>
<p><b>Question.</b> {html.escape(row["question"])}</p><blockquote>{html.escape(text)}</blockquote>
<p>Planted in the clip: {html.escape(row["answer"])}</p>
<h2>Frames and facial regions</h2>{frames}
<h2>Sound, frames (red) and utterances (orange)</h2>
<svg viewBox="0 0 600 110">{sound}{marks}{spoken}</svg><ol>{lines}</ol>
<h2>Held-out clips whose emotion was named</h2>
<table><tr><th>label carried by</th><th>clips</th><th>model</th><th>always '{html.escape(result["constant"])}'</th>
<th>shuffled answers</th></tr>{scores}</table>
{f"<h2>Your clips</h2><ul>{own}</ul>" if own else ""}
</html>
"""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(page, encoding="utf-8")
    os.replace(unfinished, path)
