"""AcoustEmo's ablations with other towers, in another language, and on questions that need the rest of a dialogue.

    python benchmarks/acoustemo_voices.py RAVDESS_FOLDER --emodb wav

Dialogues of three recordings of one person, as in `acoustemo_dialogues.py`, of people who were never trained on. What
is behind the frozen towers (`variants.py`) starts from nothing for each row.

- `RAVDESS, cues`: the voice tower of the model in the box, taught on synthetic voices alone, on RAVDESS; the same
  models answer about EmoDB (`emodb_uar`, German, never trained on, the six emotions that both have).
- `RAVDESS, random HuBERT`: a HuBERT of random weights.
- `EmoDB, cues`: trained on EmoDB (Burkhardt et al. 2005; wav/SSxxxE*.wav, E the emotion), two speakers a seed held out.
- `the rest`: an emotion relative to the rest of the dialogue. Only the middle recording is in the transcript, and the
  two others have one emotion between them. The question is whether the middle one is more excited than the rest,
  calmer, or alike; the utterance's window does not hold the rest, the global one does.

`global only, as many tokens` and `ordered reading, equal parts` are the controls of `acoustemo_dialogues.py`.
"""

import argparse
import random
from functools import cache
from pathlib import Path

import torch
from acoustemo_dialogues import (
    EMOTIONS,
    EQUAL_PARTS,
    RATE,
    ROWS,
    Recording,
    asked,
    by_actor,
    dialogues,
    equal_parts,
    joined,
    read_recordings,
    spoken_part,
    words_of,
)
from transformers import AutoModel, Blip2QFormerConfig
from variants import (
    TEMPLATE,
    add_arguments,
    answers,
    measure,
    read_then_see,
    scores,
    settings_of,
    small_llama,
    small_qformer,
    spelled,
    times_up_to,
    with_features,
    word_tokenizer,
)

from hf_emotion import starter
from hf_emotion.papers import build, esva_config
from hf_emotion.processing.media import load_clip
from hf_emotion.training.collator import encode

NAMES = (*EMOTIONS, "bored")
EMODB = {"W": "angry", "L": "bored", "E": "disgusted", "A": "fearful", "F": "happy", "T": "sad", "N": "neutral"}
SHARED = tuple(name for name in EMODB.values() if name in EMOTIONS)
AROUSED, CALM = ("angry", "happy", "fearful", "surprised"), ("neutral", "calm", "sad", "bored")
RELATIONS = ("excited", "calmer", "alike")
LONGEST = 10  # s
FEW = ("full", "w/o global", "w/o utterance-aware")
PARTS = {
    "RAVDESS, cues": (*ROWS,),
    "EmoDB, cues": FEW,
    "the rest": (*FEW, "global only, as many tokens"),
    "RAVDESS, random HuBERT": FEW,
}
LABELS = {"EmoDB, cues": tuple(EMODB.values()), "the rest": RELATIONS}


def read_emodb(folder: Path) -> list[Recording]:
    recordings = []
    for path in sorted(folder.glob("*.wav")):
        waveform = load_clip(path, frames=False, sampling_rate=RATE).waveform
        recordings.append(Recording(int(path.name[:2]), NAMES.index(EMODB[path.name[5]]), spoken_part(waveform)))
    if not recordings:
        raise SystemExit(f"{folder} holds no SSxxxE*.wav, the layout of EmoDB")
    return recordings


def new_model(tower, seed, **fields):
    """A small AcoustEmo on a frozen tower, and its processor."""
    prompts = ["Utterance 1 2 3 ( - )\n", "Emotion at, utterance", "against the rest", " ".join((*NAMES, *RELATIONS))]
    tokenizer = word_tokenizer([*prompts, *times_up_to(LONGEST)])
    model, processor = build(
        "acoustemo",
        seed=seed,
        tokenizer=tokenizer,
        vision_config=None,
        audio_config=tower.config,
        acoustic_qformer_config=small_qformer(Blip2QFormerConfig),
        num_audio_positions=256,
        text_config=small_llama(tokenizer),
        chat_template=TEMPLATE,
        max_length=None,
        **{"num_audio_query_tokens": 4, **fields},
    )
    model.model.audio_tower.load_state_dict(tower.state_dict())
    return model, processor


def relative(recordings, count, rng):
    """Dialogues whose middle recording alone is in the transcript; `words` are for the level of it and of the rest."""
    groups, rows = by_actor(recordings), []
    while len(rows) < count:
        own = groups[len(rows) % len(groups)]
        answer = RELATIONS[len(rows) // len(groups) % len(RELATIONS)]
        middle = rng.random() < 0.5 if answer == "alike" else answer == "excited"
        rest = middle if answer == "alike" else not middle
        levels = [[r for r in own if NAMES[r.emotion] in names] for names in (CALM, AROUSED)]
        first, last = rng.sample(levels[rest], 2)
        waveform, spans = joined([first, rng.choice(levels[middle]), last], rng, augment=False)
        if spans[-1][1] > LONGEST * RATE:
            continue
        start, end = (place / RATE for place in spans[1])
        row = {
            "id": f"relative {len(rows)}",
            "video": load_clip({"waveform": waveform, "sampling_rate": RATE}),
            "utterances": [{"start": start, "end": end, "text": None, "speaker": None}],
            "question": "Utterance 1 against the rest",
            "answer": answer,
            "words": ["excited" if level else "calmer" for level in (middle, rest)],
        }
        rows.append(row)
    return rows


def questions_of(rows):
    """(dialogue, question) of each utterance; a relative dialogue is its own question."""
    if "answer" in rows[0]:
        return [(row, row) for row in rows]
    return [(row, asked(row, i, NAMES)) for row in rows for i in range(3)]


def samples_of(model, processor, rows, media, parts):
    """Samples with the tower's output, which `media` keeps by dialogue; with `parts`, windows are equal parts."""
    samples = []
    for row, question in questions_of(rows):
        if row["id"] not in media:
            tensors = processor.sound(row["video"])
            media[row["id"]] = with_features(model, processor.pad([tensors]))
        outline = processor.outline(loaded(processor, row))
        sample = encode(processor, [{**question, "video": outline, "utterances": None}])
        spans = equal_parts(row) if parts else spans_of(processor, row)
        samples.append({**media[row["id"]], **sample, "utterance_spans": spans})
    return samples


def loaded(processor, row):
    return processor.load(row["video"], utterances=row["utterances"])


def spans_of(processor, row):
    """Spans (1, N, 2), ms, of the windows that the processor makes."""
    windows = processor.windows(loaded(processor, row))
    return (1000 * torch.tensor([[(w["start"], w["end"]) for w in windows]])).round().long()


def written_of(model, processor, rows, samples, seed):
    """The samples without sound: words in place of the audio tokens."""
    rng, config, written = random.Random(seed), model.config, []
    for (row, _), sample in zip(questions_of(rows), samples, strict=True):
        if "words" in row:
            own, rest = row["words"]
            windows = [[rest, rest, own]] * config.use_global + [[own]] * config.use_utterances
            words = [window for window in windows for _ in range(config.num_audio_query_tokens)]
        else:
            words = words_of(sample, row, config, NAMES)
        written.append(spelled(sample, words, config.audio_token_id, processor.tokenizer, rng))
    return written


def tower_of(part):
    if part == "RAVDESS, random HuBERT":
        config = esva_config("tiny", vocab_size=64, vision_config=None, face_config=None, motion_config=None)
        torch.manual_seed(0)
        tower = AutoModel.from_config(config.audio_config).eval()
        with torch.no_grad():
            # As in `esva_demo.py`: biases of zero would take all loudness out of a sound.
            for layer in tower.feature_extractor.conv_layers:
                layer.conv.bias.normal_(std=0.3)
                layer.layer_norm.bias.normal_(std=0.3)
        return tower
    return starter.load("cpu")[0].model.audio_tower


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="RAVDESS speech: Actor_*/03-01-*")
    parser.add_argument("--emodb", type=Path, required=True, help="folder of EmoDB's wav files")
    parser.add_argument("--held-out", nargs="+", type=int, default=[17, 18, 19, 20], help="actors never trained on")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--dialogues", type=int, default=300, help="for training")
    parser.add_argument("--test-dialogues", type=int, default=120)
    add_arguments(parser, "acoustemo_voices.json", steps=160)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ravdess, emodb = read_recordings(args.folder), read_emodb(args.emodb)
    german = sorted({recording.actor for recording in emodb})

    tower_for = cache(tower_of)

    def people(part, seed):
        """Recordings of those who are trained on, and of the others."""
        recordings, unseen = ravdess, args.held_out
        if part == "EmoDB, cues":
            recordings, unseen = emodb, german[2 * seed : 2 * seed + 2]
        return [[r for r in recordings if (r.actor in unseen) == test] for test in (False, True)]

    def made(part, recordings, count, seed):
        """Dialogues, and the dict that keeps the tower's output for them; all rows share both."""
        if part == "the rest":
            return relative(recordings, count, random.Random(seed)), {}
        return dialogues(recordings, count, random.Random(seed), augment=False), {}

    @cache
    def taught(part, seed):
        return made(part, people(part, seed)[0], args.dialogues, seed)

    @cache
    def tested(part, seed):
        """The dialogues of unseen people, and EmoDB's where it is never trained on."""
        tests = [made(part, people(part, seed)[1], args.test_dialogues, 9)]
        if part.startswith("RAVDESS"):
            shared = [r for r in emodb if NAMES[r.emotion] in SHARED]
            tests.append(made(part, shared, args.test_dialogues, 9))
        return tests

    def run(part, row, seed):
        # RAVDESS has the same test for every seed.
        sets = [taught(part, seed), *tested(part, seed if part == "EmoDB, cues" else 0)]
        fields, settings = ROWS[row]
        if part == "the rest" and "num_audio_query_tokens" in fields:
            fields = {**fields, "num_audio_query_tokens": 8}  # the clip and one utterance
        model, processor = new_model(tower_for(part), seed, **fields, **settings)
        samples = [samples_of(model, processor, rows, media, row == EQUAL_PARTS) for rows, media in sets]
        written = written_of(model, processor, sets[0][0], samples[0], seed)
        read, heard = read_then_see(model, processor, samples[0], written, args, seed)
        result = {"reading_loss": read[-1], "loss": [heard[0], heard[-1]]}
        labels = LABELS.get(part, EMOTIONS)
        # One or two tests.
        for (rows, _), own, prefix, names in zip(sets[1:], samples[1:], ("", "emodb_"), (labels, SHARED), strict=False):
            truth = [question["answer"] for _, question in questions_of(rows)]
            found = scores(truth, answers(model, processor, own, max_new_tokens=2), names)
            result |= {f"{prefix}{name}": value for name, value in found.items()}
        return result

    jobs = [
        {"part": part, "row": row, "seed": seed}
        for part in args.parts
        for seed in args.seeds
        for row in PARTS[part]
        if row in args.rows
    ]
    settings = {
        **settings_of(args),
        **{name: getattr(args, name) for name in ("dialogues", "test_dialogues", "held_out")},
    }
    chance = {part: 100 / len(LABELS.get(part, EMOTIONS)) for part in PARTS}
    what = "AcoustEmo: one utterance of a dialogue, unseen people"
    measure(args.output, what, settings, jobs, run, chance, emodb_uar="UAR on EmoDB (never trained on), %")


if __name__ == "__main__":
    main()
