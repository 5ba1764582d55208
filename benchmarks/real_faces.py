"""MicroEmo's ablations and fusions on real faces: whose expressions, by people who were never trained on?

    python benchmarks/real_faces.py CK+48

CK+48/<emotion>/S<person>_<sequence>_<frame>.png is the public 48-pixel form of CK+ (Lucey et al. 2010; the last three
frames of each of 327 sequences, 118 people), as in `WuJie1010/Facial-Expression-Recognition.Pytorch`; each picture is
enlarged to 224 pixels on grey. A clip is two sequences of one person with different emotions, one after the other, each
an utterance of 0.6 s; the prompt gives their times and asks for the emotion of one. People are split in three; seed s
is tested on the s-th third, so that over three seeds each person is tested once.

Two towers, frozen, their outputs computed once: `landmarks` is the landmark tower of the model in the box, taught on
synthetic faces alone; `pixels` is a small ViT from nothing, which first learns the emotion of single pictures of the
training people (its settings were chosen on the first third of the people; `tower_uar` is its UAR on single pictures of
the unseen ones). What is behind them (`variants.py`) starts from nothing for each row. Chance is a UAR of 14.3 %.
"""

import argparse
import random
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import Blip2QFormerConfig, InstructBlipQFormerConfig, InstructBlipVisionConfig
from variants import (
    TEMPLATE,
    add_arguments,
    answers,
    balanced,
    learn_labels,
    measure,
    read_then_see,
    say,
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
from hf_emotion.papers import TINY_RANGE, build
from hf_emotion.processing.faces import FaceFinder
from hf_emotion.training.collator import encode

EMOTIONS = ("anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")
ROWS = {
    "full (gate)": {},
    "w/o utterance-aware V-QF": {"use_utterances": False},
    "w/o global-local AVE": {"use_regions": False},
    "w/o all proposed modules": {"use_utterances": False, "use_regions": False},
    "fusion by sum": {"local_fusion": "sum"},
    "fusion by concatenation": {"local_fusion": "concat"},
    "full + local dynamics": {"local_dynamics": True},
}
TOWERS = ("landmarks", "pixels")
FOLDS = 3
FACE, CANVAS = 224, 288
FPS, FRAMES = 10 / 3, 2  # of a sequence: its first and last picture
PIXELS, PATCH = 64, 8
QUERIES = 4
TOWER_STEPS, TOWER_BATCH, TOWER_RATE = 400, 48, 1.5e-3


def enlarged(path: Path) -> np.ndarray:
    """A picture of 48 pixels -> (CANVAS, CANVAS, 3) uint8, on grey."""
    canvas = Image.new("RGB", (CANVAS, CANVAS), (128, 128, 128))
    face = Image.open(path).convert("RGB").resize((FACE, FACE), Image.Resampling.BICUBIC)
    canvas.paste(face, ((CANVAS - FACE) // 2,) * 2)
    return np.asarray(canvas)


def read_sequences(folder: Path, work: Path | None = None) -> list[dict]:
    """Sequences with `person`, `emotion`, `frames` (2, H, W, 3) and `landmarks` (2, 478, 2)."""
    found = {}
    for path in sorted(folder.glob("*/*.png")):
        person, number, _ = path.stem.split("_")
        found.setdefault((person, number), []).append(path)
    if not found:
        raise SystemExit(
            f"{folder} holds no <emotion>/S<person>_<sequence>_<frame>.png; the layout of CK+48 is accepted"
        )
    finder = FaceFinder(threads=1)
    kept = None if work is None else work / f"landmarks_{CANVAS}_{FRAMES}.npy"
    known = np.load(kept) if kept is not None and kept.is_file() else None
    sequences = []
    for i, ((person, _), paths) in enumerate(sorted(found.items())):
        frames = np.stack([enlarged(path) for path in (paths[0], paths[-1])])
        landmarks = finder(frames).landmarks if known is None else known[i]
        sequences.append({"person": person, "emotion": paths[0].parent.name, "frames": frames, "landmarks": landmarks})
    if kept is not None and known is None:
        work.mkdir(parents=True, exist_ok=True)
        np.save(kept, np.stack([sequence["landmarks"] for sequence in sequences]))
    missing = sum(int(np.isnan(sequence["landmarks"]).any((1, 2)).sum()) for sequence in sequences)
    people = len({sequence["person"] for sequence in sequences})
    say(
        f"{len(sequences)} sequences of {people} people; {missing} of {FRAMES * len(sequences)} pictures without a face"
    )
    return sequences


def pairs(sequences) -> list[tuple[dict, dict]]:
    """Every two sequences of one person with different emotions, in both orders."""
    return [
        (first, second)
        for first in sequences
        for second in sequences
        if first["person"] == second["person"] and first["emotion"] != second["emotion"]
    ]


def people_of_fold(sequences, fold) -> set[str]:
    people = sorted({sequence["person"] for sequence in sequences})
    random.Random(0).shuffle(people)
    return set(people[fold % FOLDS :: FOLDS])


def prompts():
    return ["Utterance 1 2 ( - )\n Emotion of", *EMOTIONS, *times_up_to(2)]


def new_model(vision_config, seed, **fields):
    """A small MicroEmo without sound, and its processor."""
    tokenizer = word_tokenizer(prompts())
    if fields.get("use_regions", True):
        fields = {"local_gate_init": 1.0, **fields}  # as in microemo_demo.py: everything starts from nothing
    return build(
        "microemo",
        seed=seed,
        tokenizer=tokenizer,
        qformer_tokenizer=word_tokenizer(prompts()),
        vision_config=vision_config,
        audio_config=None,
        image_qformer_config=small_qformer(
            InstructBlipQFormerConfig, num_hidden_layers=1, vocab_size=len(tokenizer), max_position_embeddings=32
        ),
        num_query_tokens=QUERIES,
        video_qformer_config=small_qformer(Blip2QFormerConfig),
        num_video_query_tokens=QUERIES,
        text_config=small_llama(tokenizer),
        chat_template=TEMPLATE,
        timestamp_template="{time:.1f}s",
        num_frames=2 * FRAMES,
        **fields,
    )


def clip_of(processor, pair):
    """A pair of sequences as a clip with two utterances."""
    frames = np.concatenate([sequence["frames"] for sequence in pair])
    edge = FRAMES / FPS
    spoken = [{"start": i * edge, "end": (i + 1) * edge, "text": None, "speaker": None} for i in range(2)]
    return processor.load({"frames": frames, "fps": FPS}, utterances=spoken)


def media_of(model, processor, pair) -> dict:
    """The media inputs of a pair, with the frozen tower's output in place of the frames."""
    landmarks = np.concatenate([sequence["landmarks"] for sequence in pair])
    measured = processor.measure(clip_of(processor, pair), landmarks=landmarks)
    return with_features(model, processor.pad([measured.tensors]))


def questions_of(processor, pair) -> dict:
    """Prompts and answers by (utterance, emotion); they are the same for all pairs, whose times are equal."""
    outline = processor.outline(clip_of(processor, pair))
    return {
        (i, emotion): encode(
            processor, [{"video": outline, "question": f"Emotion of Utterance {i + 1}", "answer": emotion}]
        )
        for i in range(2)
        for emotion in EMOTIONS
    }


def written_of(samples, emotions, model, processor, seed):
    """The samples without pictures: a word for each token, of the two `emotions` of its clip."""
    rng, config = random.Random(seed), model.config
    written = []
    for sample, both in zip(samples, emotions, strict=True):
        windows = [both] * QUERIES  # the whole clip
        if config.use_utterances:
            windows = windows + [[emotion] for emotion in both for _ in range(QUERIES)]
        written.append(spelled(sample, windows, config.video_token_id, processor.tokenizer, rng))
    return written


def mirrored(pictures):
    """Pictures (B, 3, height, width), each mirrored with a chance of one half.

    With shifts and light as well (`jittered` of variants.py) so small a ViT learns little in as many steps, even of
    its own training pictures.
    """
    return torch.where(torch.rand(len(pictures), 1, 1, 1) < 0.5, pictures.flip(-1), pictures)


def landmark_tower():
    """The landmark tower of the model in the box and its configuration."""
    model, _ = starter.load("cpu")
    return model.model.vision_tower, model.config.vision_config


def pixel_tower(sequences, test_people, seed):
    """A small ViT that has learnt the emotion of the training people's single pictures; its UAR on the others'."""
    config = InstructBlipVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=PIXELS,
        patch_size=PATCH,
        initializer_range=TINY_RANGE,
    )
    model, processor = new_model(config, seed)
    tower = model.model.vision_tower
    pixels = torch.cat([processor.image_processor.frames_to_pixels(s["frames"]) for s in sequences])
    truth = torch.tensor([EMOTIONS.index(s["emotion"]) for s in sequences for _ in range(FRAMES)])
    unseen = torch.tensor([s["person"] in test_people for s in sequences for _ in range(FRAMES)])
    weights = balanced(truth, unseen)
    found = learn_labels(tower, pixels, truth, weights, TOWER_STEPS, TOWER_BATCH, TOWER_RATE, seed, mirrored)
    reached = scores([EMOTIONS[i] for i in truth[unseen]], [EMOTIONS[i] for i in found[unseen]], EMOTIONS)
    say(f"pixel tower, seed {seed}: UAR {reached['uar']} % of single pictures of unseen people")
    return tower, config, reached["uar"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="CK+48")
    parser.add_argument("--work", type=Path, help="folder that keeps the landmarks")
    parser.add_argument("--towers", nargs="+", choices=TOWERS, default=TOWERS)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    add_arguments(parser, "real_faces.json", steps=160)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sequences = read_sequences(args.folder, args.work)

    every = pairs(sequences)

    @cache
    def seen_by(part, seed):
        """The tower's configuration and its UAR, and the media inputs of each pair, which all rows share."""
        if part == "landmarks":
            tower, config, reached = *landmark_tower(), None
        else:
            tower, config, reached = pixel_tower(sequences, people_of_fold(sequences, seed), seed)
        model, processor = new_model(config, seed)
        model.model.vision_tower.load_state_dict(tower.state_dict())
        return config, reached, [media_of(model, processor, pair) for pair in every]

    def run(part, row, seed):
        config, reached, media = seen_by(part, seed)
        model, processor = new_model(config, seed, **ROWS[row])
        questions, test_people = questions_of(processor, every[0]), people_of_fold(sequences, seed)
        samples, emotions = {False: [], True: []}, {False: [], True: []}
        for pair, own in zip(every, media, strict=True):
            test, both = pair[0]["person"] in test_people, [sequence["emotion"] for sequence in pair]
            for i in range(2):
                samples[test].append({**own, **questions[i, both[i]]})
                emotions[test].append(both)
        written = written_of(samples[False], emotions[False], model, processor, seed)
        read, seen = read_then_see(model, processor, samples[False], written, args, seed)
        replies = answers(model, processor, samples[True], max_new_tokens=2)
        truth = [both[i % 2] for i, both in enumerate(emotions[True])]
        result = {**scores(truth, replies, EMOTIONS), "reading_loss": read[-1], "loss": [seen[0], seen[-1]]}
        return result if reached is None else {**result, "tower_uar": reached}

    jobs = [
        {"part": part, "row": row, "seed": seed} for part in args.towers for seed in args.seeds for row in args.rows
    ]
    settings = {**settings_of(args), "folds": FOLDS, "canvas": CANVAS, "tower_steps": TOWER_STEPS}
    measure(
        args.output,
        "MicroEmo on expressions of CK+ by unseen people: emotion of one of two",
        settings,
        jobs,
        run,
        chance=dict.fromkeys(TOWERS, 100 / len(EMOTIONS)),
    )


if __name__ == "__main__":
    main()
