"""The quickstart: the model in the box describes a clip, is fine-tuned a little, and is asked again.

The fine-tuning is the ordinary one: transformers' `Trainer`, LoRA from PEFT, this package's collator. It takes a few
dozen clips made here, with an emotion planted in the face or in the voice. Before and after it, the model names the
emotion of clips that it was not trained on. The adapter is saved and loaded again in a process without this package.

It shows the machinery. The faces of these clips are one photograph, warped, and the voices are synthetic: what the
adapter learns from them says nothing about real people. Clips of the user are described by the model in the box alone.
"""

import html
import json
import os
import random
import subprocess
import sys
import time
from base64 import b64encode
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tqdm import tqdm
from transformers import Trainer, TrainingArguments

from ..answers.words import emotion_words
from ..data.demo import make_demo
from ..data.files import write_whole
from ..inference import describe
from ..starter import load as load_starter
from ..starter.sentences import NAME_IT
from .collator import EmotionCollator, encode
from .inspect_clips import STYLE as VIEW_STYLE
from .inspect_clips import View, data_url, look, timeline

NUM_CLIPS = 96
CUES = ("face", "prosody")
# As clear as they come: a few dozen clips are few.
STRENGTH, DISTRACTORS = 1.5, 0.3
EPOCHS, BATCH, LEARNING_RATE = 10, 8, 1e-3
RANK = 8
# How many held-out clips the fresh process is asked about.
NUM_AFRESH = 4
STYLE = f"""{VIEW_STYLE}
table {{ border-collapse: collapse }} td, th {{ padding: .3rem .8rem; border-bottom: 1px solid #ddd; text-align: left }}
blockquote {{ background: #f2f6fa; padding: .6rem 1rem; margin: 0; overflow: hidden }}
video {{ float: right; width: 14.5rem; margin: 0 0 1rem 1rem }} h2 {{ clear: both }}
li {{ overflow-wrap: anywhere }}
@media (max-width: 40rem) {{
  video {{ float: none; width: 100%; margin: 0 0 1rem }} table {{ display: block; overflow-x: auto }}
}}
"""


def prepare(output: Path, seed: int, num_clips: int = NUM_CLIPS, **options) -> list[dict]:
    """The corpus under `output`, made or completed.

    Args:
        output: folder.
        seed, num_clips, options: for `make_demo`.

    Returns:
        its rows, with the question and the answer that the starter knows: one word for the emotion.
    """
    planted = {"cues": CUES, "controls": 1 / 6, "strength": STRENGTH, "distractors": DISTRACTORS, **options}
    rows = make_demo(output, num_clips, seed=seed, **planted)
    return [row | {"question": NAME_IT[0], "answer": row["label"]} for row in rows]


def with_adapter(model, seed: int) -> PeftModel:
    """The model with LoRA in its language model; its Q-Formers and projectors are trained whole, the rest is frozen."""
    torch.manual_seed(seed)
    parts = [name for name, _ in model.base_model.named_children() if name not in model.frozen_parts]
    adapter = LoraConfig(
        r=RANK,
        lora_alpha=2 * RANK,
        lora_dropout=0.05,
        # By path, since Q-Formers have layers of like names.
        target_modules=r"model\.language_model\..*\.(q_proj|v_proj)",
        modules_to_save=[name for name in parts if name != "language_model"],
        # Without it, PEFT's Auto classes do not recognise the adapter.
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, adapter)


def train(
    model: PeftModel, processor, samples: list[dict], output: Path, seed: int, epochs: int = EPOCHS
) -> list[dict]:
    """Fine-tune the adapter on samples that `encode` made, one clip each; returns the logged losses."""
    arguments = TrainingArguments(
        output_dir=str(output),
        num_train_epochs=epochs,
        per_device_train_batch_size=BATCH,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        weight_decay=0.05,
        logging_steps=10,
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
        data_collator=EmotionCollator(processor),
        processing_class=processor,
    )
    trainer.train()
    model.eval()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@torch.no_grad()
def answers(model, processor, samples: list[dict]) -> list[str]:
    """Greedy answers to the questions of samples that hold the right answers."""
    texts = []
    collate = EmotionCollator(processor)
    for first in range(0, len(samples), BATCH):
        prompts = []
        for sample in samples[first : first + BATCH]:
            end = int((sample["labels"][0] != -100).nonzero()[0])
            prompt = {name: value for name, value in sample.items() if name != "labels"}
            prompts.append(prompt | {name: sample[name][:, :end] for name in ("input_ids", "attention_mask")})
        batch = {name: value.to(model.device) for name, value in collate(prompts).items()}
        generated = model.generate(**batch, max_new_tokens=32, do_sample=False)
        texts += processor.batch_decode(generated[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return [text.strip() for text in texts]


def named(text: str, row: dict) -> bool:
    """Whether the answer names the row's emotion and no other."""
    return emotion_words(text) == row["labels"]


def score(rows: list[dict], before: list[str], after: list[str], constant: str) -> dict[str, dict]:
    """Share of clips whose emotion is named, by cue: before and after training, and by one constant answer."""
    shuffled = after.copy()
    random.Random(0).shuffle(shuffled)
    result = {}
    for cue in (None, *CUES):
        chosen = [i for i, row in enumerate(rows) if cue in (None, row["cue"])]
        if chosen:
            result[cue or "all"] = {
                "clips": len(chosen),
                "before": sum(named(before[i], rows[i]) for i in chosen) / len(chosen),
                "after": sum(named(after[i], rows[i]) for i in chosen) / len(chosen),
                # As `hf-emotion push` reads a results file.
                "model": sum(named(after[i], rows[i]) for i in chosen) / len(chosen),
                "shuffled": sum(named(shuffled[i], rows[i]) for i in chosen) / len(chosen),
                "constant": sum([constant] == rows[i]["labels"] for i in chosen) / len(chosen),
            }
    return result


# Runs where hf_emotion cannot be imported: all that is needed came with the folders.
FRESH_PROCESS = """
import json, sys
sys.modules["hf_emotion"] = None
import peft, transformers
base, adapter, rows = sys.argv[1:]
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
model = transformers.AutoModel.from_pretrained(base, trust_remote_code=True)
model = peft.PeftModel.from_pretrained(model, adapter).eval()
processor = transformers.AutoProcessor.from_pretrained(base, trust_remote_code=True)
answers = []
for row in json.loads(rows):
    inputs = {"videos": [row["video"]], "text": [row["question"]], "utterances": [row["utterances"]]}
    batch = processor(**inputs, return_tensors="pt")
    generated = model.generate(**batch, max_new_tokens=32, do_sample=False)
    answers += processor.batch_decode(generated[:, batch["input_ids"].shape[1]:], skip_special_tokens=True)
print(json.dumps([answer.strip() for answer in answers]))
"""


def ask_afresh(base: Path, adapter: Path, rows: list[dict]) -> list[str]:
    """Answers of the saved model with its adapter, from a new process without this package.

    Raises:
        RuntimeError: the folders do not load by themselves.
    """
    # The child runs in another folder, where this process's relative paths lead nowhere.
    asked = [
        {"video": os.path.abspath(row["video"]), "question": row["question"], "utterances": row["utterances"]}
        for row in rows
    ]
    child = subprocess.run(
        [sys.executable, "-c", FRESH_PROCESS, str(base.resolve()), str(adapter.resolve()), json.dumps(asked)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        cwd=adapter,
        check=False,
    )
    if child.returncode:
        raise RuntimeError(f"the saved adapter {adapter} does not load by itself: {child.stderr.strip()[-500:]}")
    return json.loads(child.stdout.splitlines()[-1])


def quickstart(output: Path, clips=(), seed: int = 0) -> dict:
    """Run the whole way; write `corpus/`, `base/`, `adapter/`, `scores.json` and `report.html` under `output`.

    Args:
        output: folder; a corpus that is already there is kept.
        clips: clips of the user, described by the model in the box.
        seed: of corpus and training.

    Returns:
        what `scores.json` holds.
    """
    started = time.time()
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)

    def say(step: str) -> None:
        print(f"[{time.time() - started:5.0f} s] {step}", flush=True)

    model, processor = load_starter()
    if clips:
        say("1/6 the model in the box describes your clips")
        described = describe(clips, model, processor)
    else:
        say("1/6 the model in the box describes a clip made here (CLIP=path, or an argument, for your own)")
        [row] = prepare(output / "corpus", seed, num_clips=1, progress=False)
        described = describe([row["video"]], model, processor, utterances=[row["utterances"]])
    for result in described:
        # An error names its clip itself.
        say(f"    {result.get('error') or result['clip'] + ': ' + result['description']}")

    say(f"2/6 making {NUM_CLIPS} talking-face clips (mp4 with sound) in {output / 'corpus'}")
    rows = prepare(output / "corpus", seed)
    say("3/6 encoding them: face landmarks, voice, utterances, question and answer")
    samples = [encode(processor, [row]) for row in tqdm(rows, desc="encoding", unit="clip", delay=2)]
    train_samples = [sample for sample, row in zip(samples, rows, strict=True) if row["split"] == "train"]
    test_samples = [sample for sample, row in zip(samples, rows, strict=True) if row["split"] != "train"]
    test_rows = [row for row in rows if row["split"] != "train"]
    before = answers(model, processor, test_samples)

    say(f"4/6 fine-tuning it with Trainer and LoRA on {len(train_samples)} clips, {EPOCHS} times")
    model.save_pretrained(output / "base")
    processor.save_pretrained(output / "base")
    # The adapter names its base by this path.
    model.name_or_path = str((output / "base").resolve())
    model = with_adapter(model, seed)
    losses = train(model, processor, train_samples, output / "adapter", seed)
    say(f"    loss {losses[0]['loss']:.3f} -> {losses[-1]['loss']:.3f}")
    after = answers(model, processor, test_samples)
    labels = [row["label"] for row in test_rows]
    constant = max(sorted(set(labels)), key=labels.count)
    scores = score(test_rows, before, after, constant)
    say(f"5/6 naming the emotion of {len(test_rows)} clips that it was not trained on")
    for name, numbers in scores.items():
        say(
            f"    {name:<8} {numbers['clips']} clips, named correctly: {numbers['before']:.0%} before, "
            f"{numbers['after']:.0%} after; always {constant!r}: {numbers['constant']:.0%}"
        )
    verdict = verdict_on(scores["all"])
    say(f"    {verdict}")

    say("6/6 saving the adapter, loading it in a process without hf_emotion, asking again")
    model.save_pretrained(output / "adapter")
    processor.save_pretrained(output / "adapter")
    fresh = ask_afresh(output / "base", output / "adapter", test_rows[:NUM_AFRESH])
    agreeing = sum(first == second for first, second in zip(fresh, after, strict=False))
    say(f"    {agreeing} of {len(fresh)} answers are the same: {', '.join(fresh)}")
    report = {
        "seed": seed,
        "train_clips": len(train_samples),
        "losses": losses,
        "scores": scores,
        "constant": constant,
        "verdict": verdict,
        "fresh_process": {"asked": len(fresh), "same": agreeing},
        "seconds": round(time.time() - started),
        "described": described,
    }
    write_whole(output / "scores.json", json.dumps(report, indent=2))
    write_report(output / "report.html", processor, test_rows, before, after, report)
    say(f"done: {output / 'report.html'}, {output / 'scores.json'}, {output / 'adapter'}")
    print("The adapter shows the machinery; it never saw a real face. For clips of yours: hf-emotion predict clip.mp4")
    return report


def verdict_on(numbers: dict) -> str:
    """One sentence on what the fine-tuning did, from the scores of all held-out clips."""
    change = numbers["after"] - numbers["before"]
    if change <= 0:
        return "The fine-tuning did not help on these clips."
    if numbers["after"] <= numbers["constant"]:
        return "The fine-tuning helped, but one constant answer is at least as good."
    return (
        f"The fine-tuning helped: {change * numbers['clips']:.0f} more of {numbers['clips']} clips are named correctly."
    )


def write_report(
    path: Path, processor, rows: list[dict], before: list[str], after: list[str], report: dict, shown: int = 3
) -> None:
    """The user's clips, the scores, and up to `shown` held-out clips answered right and wrong, as one HTML file."""
    right = [i for i, row in enumerate(rows) if named(after[i], row)]
    wrong = [i for i in range(len(rows)) if i not in right]
    clips = "".join(
        clip_section(look(processor, rows[i]["video"], rows[i]["utterances"]), rows[i], before[i], after[i])
        for i in (*right[:shown], *wrong[:shown])
    )
    scores = "".join(
        f"<tr><td>{name}</td><td>{numbers['clips']}</td><td>{numbers['before']:.0%}</td>"
        f"<td>{numbers['after']:.0%}</td><td>{numbers['constant']:.0%}</td></tr>"
        for name, numbers in report["scores"].items()
    )
    lines = [result.get("error") or f"{result['clip']}: {result['description']}" for result in report["described"]]
    described = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    fresh = report["fresh_process"]
    page = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>hf_emotion quickstart</title>
<style>{STYLE}</style>
<h1>Quickstart</h1>
<h2>Described by the model in the box</h2>
<p class="legend">A small model, taught on synthetic faces and voices alone. It reads face landmarks and the sound of
the voice, no words. An expression is not a feeling, and the model is often wrong: do not judge anybody by it.</p>
<ul>{described}</ul>
<h2>Fine-tuned on {report["train_clips"]} clips, with LoRA</h2>
<p class="legend">This shows the machinery. The clips are one photograph, warped, with a synthetic voice; the adapter
says nothing about real people.</p>
<table><tr><th>label carried by</th><th>held-out clips</th><th>named correctly before</th><th>after</th>
<th>always '{html.escape(report["constant"])}'</th></tr>{scores}</table>
<p>{html.escape(report["verdict"])} Loaded in a process without hf_emotion, the adapter gave the same answer to
{fresh["same"]} of {fresh["asked"]} clips.</p>
{clips}
</html>
"""
    write_whole(path, page)


def clip_section(view: View, row: dict, before: str, after: str) -> str:
    """A held-out clip: the question, both answers, the planted emotion, frames with facial regions, and the sound."""
    film = f"data:video/mp4;base64,{b64encode(Path(row['video']).read_bytes()).decode()}"
    figures = "".join(
        f'<figure><img src="{data_url(picture)}" alt="frame at {frame["time"]:.2f} s with facial regions">'
        f"<figcaption>{frame['time']:.2f} s</figcaption></figure>"
        for picture, frame in zip(view.pictures, view.inputs.report["frames"], strict=True)
    )
    return f"""<h2>{html.escape(Path(row["video"]).name)}: {"correct" if named(after, row) else "wrong"}</h2>
<video controls src="{film}"></video>
<p><b>Question.</b> {html.escape(row["question"])}</p>
<blockquote>Before: {html.escape(before)}<br>After: {html.escape(after)}</blockquote>
<p>Planted in the clip ({html.escape(row["cue"])}): {html.escape(row["answer"])}</p>
<div class="frames">{figures}</div>{timeline(view)}"""
