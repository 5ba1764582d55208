"""Variants of a small model, trained side by side on real recordings: what the benchmarks of ablations share.

A variant is configuration: fields of a paper's model and settings of its processor. All variants of a table see the
same samples in the same order for the same number of steps. The towers are frozen and their outputs are computed once.
The language model starts from nothing, and the papers' can read before they see: so ours first learns to, alone, on the
same prompts with words for emotions in place of the media tokens (`spelled`), then everything behind the towers learns
to answer. Each run is written to the results as soon as it is there, so a benchmark that was stopped continues.
"""

import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.trainers import WordLevelTrainer
from torch import nn
from transformers import LlamaConfig, PreTrainedTokenizerFast, Trainer, TrainingArguments

from hf_emotion.evaluation.classes import class_scores
from hf_emotion.papers import TINY_RANGE
from hf_emotion.training.collator import EmotionCollator, stack

RESULTS = Path(__file__).parent / "results"
# Half as long as the package's own: a language model that starts from nothing must learn to skip each word that says
# nothing.
TEMPLATE = """\
{%- for message in messages -%}
    {%- if message['role'] == 'user' -%}
        {{- bos_token -}}
        {%- for part in message['content'] -%}
            {%- if part['type'] in ('video', 'audio') -%}
                {{- '<' ~ part['type'] ~ '>\\n' -}}
            {%- elif part['type'] == 'utterances' -%}
                {%- for row in part['utterances'] -%}
                    {{- 'Utterance ' ~ loop.index ~ ' (' ~ '%.1f' | format(row['start']) ~ 's - ' -}}
                    {{- '%.1f' | format(row['end']) ~ 's)\\n' -}}
                {%- endfor -%}
            {%- elif part['type'] == 'text' -%}
                {{- part['text'] -}}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {%- generation -%}
            {{- ' ' ~ message['content'][0]['text'] ~ eos_token -}}
        {%- endgeneration -%}
    {%- endif -%}
{%- endfor -%}
"""


def say(text):
    print(text, flush=True)


def word_tokenizer(texts) -> PreTrainedTokenizerFast:
    """Every word, time and mark of `texts` as one token; words that they do not hold would be `<unk>`."""
    tokenizer = Tokenizer(WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split(Regex(r"\d+\.\d+s|\w+|[^\w\s]|\n"), "removed", invert=True)
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(texts, WordLevelTrainer(special_tokens=special))
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def times_up_to(seconds):
    """Every time of a prompt, to be a word of its own."""
    return [f"{tenths / 10:.1f}s" for tenths in range(10 * seconds + 1)]


def small_llama(tokenizer, width=64, config=LlamaConfig):
    return config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        # Prompts of 50 tokens: with the usual 10,000 most rotations hardly move over them.
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        initializer_range=TINY_RANGE,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def small_qformer(config, width=64, **fields):
    return config(
        **{
            "hidden_size": width,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 2 * width,
            "cross_attention_frequency": 1,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "initializer_range": TINY_RANGE,
            **fields,
        }
    )


# Training


def learn_labels(tower, inputs, labels, weights, steps, batch, rate, seed, augment=None):
    """A tower from nothing, in place of a published one: it learns the class of single inputs by a linear head.

    Args:
        tower: called with a batch of inputs; its `last_hidden_state` (B, tokens, D) is averaged for the head.
        inputs, labels: (N, ...), (N,).
        weights: (N,) chance of being drawn; 0 for what is held out.
        augment: of a batch of inputs.

    Returns:
        the classes (N,) that it gives all inputs; the tower is frozen then.
    """
    torch.manual_seed(seed)
    tower.requires_grad_(True).train()
    head = nn.Linear(tower.config.hidden_size, int(labels.max()) + 1)
    parameters = [*(p for p in tower.parameters() if p.requires_grad), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
    for _ in range(steps):
        chosen = torch.multinomial(weights, batch, replacement=True)
        shown = inputs[chosen] if augment is None else augment(inputs[chosen])
        loss = nn.functional.cross_entropy(head(tower(shown).last_hidden_state.mean(1)), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    tower.requires_grad_(False).eval()
    with torch.no_grad():
        return torch.cat([head(tower(part).last_hidden_state.mean(1)).argmax(-1) for part in inputs.split(64)])


def balanced(labels, held_out):
    """Weights for `learn_labels`: rare classes as often as frequent ones, nothing of what is held out."""
    counts = labels[~held_out].bincount(minlength=int(labels.max()) + 1).clamp(min=1)
    return (1.0 / counts[labels]).masked_fill(held_out, 0.0)


def jittered(pictures):
    """Pictures (B, 3, height, width) mirrored, shifted and in another light."""
    mirrored = torch.rand(len(pictures), 1, 1, 1) < 0.5
    pictures = torch.where(mirrored, pictures.flip(-1), pictures)
    reach = pictures.shape[-1] // 20
    pictures = pictures.roll(torch.randint(-reach, reach + 1, (2,)).tolist(), (-2, -1))
    return pictures * (0.8 + 0.4 * torch.rand(len(pictures), 1, 1, 1))


def spelled(sample, windows, placeholder, tokenizer, rng):
    """The sample without media: in place of each media token a word.

    Args:
        windows: for each placeholder, in order, the words that it can stand for; of several, one is drawn.
        placeholder: token id.
    """
    said = [words[0] if len(words) == 1 else rng.choice(words) for words in windows]
    ids = sample["input_ids"].clone()
    ids[ids == placeholder] = torch.tensor(tokenizer.convert_tokens_to_ids(said))
    return {"input_ids": ids, "attention_mask": sample["attention_mask"], "labels": sample["labels"]}


def fit(model, processor, samples, steps, lr, seed, batch, collator=None, **settings):
    """Train what is not frozen, by transformers' `Trainer`; returns its losses on the way.

    Args:
        collator: instead of an `EmotionCollator`.
        settings: further `TrainingArguments`.
    """
    settings = {
        "weight_decay": 0.05,
        "warmup_steps": round(0.05 * steps),
        "logging_steps": max(1, steps // 8),
        **settings,
    }
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                max_steps=steps,
                per_device_train_batch_size=batch,
                learning_rate=lr,
                adam_beta2=0.999,
                lr_scheduler_type="cosine",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                remove_unused_columns=False,
                label_names=["labels"],
                use_cpu=not torch.cuda.is_available(),
                dataloader_pin_memory=False,
                seed=seed,
                **settings,
            ),
            train_dataset=samples,
            data_collator=EmotionCollator(processor) if collator is None else collator,
            processing_class=processor,
        )
        trainer.train()
    model.cpu().eval()
    return [round(entry["loss"], 4) for entry in trainer.state.log_history if "loss" in entry]


def read_then_see(model, processor, samples, written, args, seed):
    """The language model alone on `written`, then all but the towers on `samples`; the losses of both."""
    parts = [part for part, _ in model.model.named_children()]
    model.freeze(tuple(part for part in parts if part != "language_model"))
    read = fit(model, processor, written, args.reading_steps, args.reading_lr, seed, args.batch)
    model.freeze(tuple(part for part in parts if part.endswith("_tower")))
    seen = fit(model, processor, samples, args.steps, args.lr, seed, args.batch)
    return read, seen


def answers(model, processor, samples, max_new_tokens, batch=40):
    """Greedy replies to samples, whose answers are cut off first."""
    replies = []
    for first in range(0, len(samples), batch):
        prompts = []
        for sample in samples[first : first + batch]:
            kept = sample["labels"][0] == -100
            text = {name: sample[name][:, kept] for name in ("input_ids", "attention_mask")}
            prompts.append({**{name: value for name, value in sample.items() if name != "labels"}, **text})
        inputs = stack(prompts, processor.padding)
        with torch.inference_mode():
            generated = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        replies += processor.batch_decode(generated[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [reply.strip() for reply in replies]


@torch.no_grad()
def with_features(model, sample):
    """The sample with the frozen towers' outputs in place of pixels, landmarks and sound."""
    media = {name: x for name, x in sample.items() if name in model.media_inputs}
    return {name: x for name, x in sample.items() if name not in media} | model.model.tower_features(**media)


def scores(truth, replies, labels) -> dict:
    """Accuracy, UAR and confusion (true rows, answered columns, the last one for none of them), in percent."""
    known = list(labels)
    truth = np.array([known.index(label) for label in truth])
    found = np.array([known.index(reply) if reply in known else len(known) for reply in replies])
    result = class_scores(truth, found, len(known))
    table = np.zeros((len(known), len(known) + 1), dtype=int)
    np.add.at(table, (truth, found), 1)
    return {
        "accuracy": round(100 * result["war"], 2),
        "uar": round(100 * result["uar"], 2),
        "answers": len(truth),
        "confusion": table.tolist(),
    }


# Tables


def add_arguments(parser, results, steps, batch=24):
    """The options that these benchmarks share."""
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=RESULTS / results)
    parser.add_argument("--reading-steps", type=int, default=40, help="of the language model alone, on words")
    parser.add_argument("--reading-lr", type=float, default=4e-3)
    parser.add_argument("--steps", type=int, default=steps, help="of what is behind the towers")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--threads", type=int, default=1, help="of torch")


def settings_of(args) -> dict:
    names = ("reading_steps", "reading_lr", "steps", "batch", "lr")
    return {name: getattr(args, name) for name in names}


def write_json(path: Path, data):
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def spread(values):
    return {
        "mean": round(statistics.mean(values), 2),
        "sd": round(statistics.stdev(values), 2) if len(values) > 1 else None,
        "values": values,
    }


def measure(output: Path, what: str, settings: dict, jobs, run, chance=None, **others) -> dict:
    """Run what is missing of a table; its JSON, its plot and a line for each row.

    Args:
        jobs: dicts of `part`, `row` and `seed`.
        run: of a job's values -> a dict with `uar`, in percent.
        chance: of it, percent, by part; for the plot.
        others: further metrics of a run for the plot, in percent, with their titles; not every run needs to have them.
    """
    metrics = {"uar": "UAR, %", **others}
    found = {"what": what, "settings": settings, "runs": []}
    if output.is_file():
        before = json.loads(output.read_text(encoding="utf-8"))
        if before["settings"] == json.loads(json.dumps(settings)):
            found["runs"] = before["runs"]
    done = {(item["part"], item["row"], item["seed"]) for item in found["runs"]}
    for job in jobs:
        if (job["part"], job["row"], job["seed"]) not in done:
            started = time.process_time()
            result = {**job, **run(**job), "cpu_seconds": round(time.process_time() - started, 1)}
            found["runs"].append(result)
            say(f"{job['part']}, {job['row']}, seed {job['seed']}: UAR {result['uar']}, {result['cpu_seconds']} s")
            finish(output, found, metrics, chance or {})
    finish(output, found, metrics, chance or {})
    for part, rows in found["summary"].items():
        for row, values in rows.items():
            say(f"{part:<34}{row:<32}{values['uar']['mean']:6.1f} (sd {values['uar']['sd']})")
    return found


def finish(output, found, metrics, chance):
    summary = {}
    for item in found["runs"]:
        summary.setdefault(item["part"], {}).setdefault(item["row"], []).append(item)
    found["summary"] = {
        part: {
            row: {
                name: spread([item[name] for item in items])
                for name, value in items[0].items()
                if isinstance(value, int | float) and name not in ("seed", "cpu_seconds", "answers")
            }
            for row, items in rows.items()
        }
        for part, rows in summary.items()
    }
    found["machine"] = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    found["versions"] = {"torch": torch.__version__, "transformers": transformers.__version__}
    write_json(output, found)
    if found["summary"]:
        plot(found["summary"], metrics, chance, output.with_suffix(".png"), found["what"])


def plot(summary, metrics, chance, path, what):
    """A panel for each part and metric, a bar for each row, a dot for each seed."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    counts = [len(rows) for rows in summary.values()]
    figure, axes = pyplot.subplots(
        len(counts),
        len(metrics),
        figsize=(4.5 + 4 * len(metrics), 1 + 0.3 * sum(counts) + 0.7 * len(counts)),
        layout="constrained",
        squeeze=False,
        height_ratios=[1 + count for count in counts],
    )
    for panels, (part, rows) in zip(axes, summary.items(), strict=True):
        for axis, metric in zip(panels, metrics, strict=True):
            axis.set_visible(any(metric in values for values in rows.values()))
            for place, values in enumerate(rows.values()):
                if metric not in values:
                    continue
                own = values[metric]
                axis.barh(place, own["mean"], xerr=own["sd"] or 0, color="tab:blue", alpha=0.5, capsize=3)
                axis.plot(own["values"], [place] * len(own["values"]), "k.", markersize=5)
                axis.text(101, place, f"{own['mean']:.1f}", va="center", fontsize=8)
            if part in chance and metric == "uar":
                axis.axvline(chance[part], color="gray", linestyle=":")
            axis.set_yticks(range(len(rows)), list(rows) if axis is panels[0] else [""] * len(rows), fontsize=8)
            axis.set_ylim(len(rows) - 0.4, -0.6)
            axis.set_xlim(0, 100)
            axis.set_title(f"{part}: {metrics[metric]}", fontsize=9)
    figure.suptitle(f"{what}\n(bar: mean, dots: seeds, whisker: sd, dotted: chance)", fontsize=9)
    unfinished = path.with_name(f".{os.getpid()}.{path.name}")
    figure.savefig(unfinished, dpi=100)
    pyplot.close(figure)
    os.replace(unfinished, path)
