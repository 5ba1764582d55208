"""Omni-Emotion's branches and fusions on real faces joined with real voices, of people who were never trained on.

    python benchmarks/omni_faces.py CK+48 RAVDESS_FOLDER

A clip is a sequence of CK+ (`real_faces.py`), small and somewhere in a larger frame, with a recording of RAVDESS
(`acoustemo_dialogues.py`); the six emotions that both have. In `face alone` the voice's emotion is another, drawn
independently, and the answer is the face's: what v+a+f has over v+a is the face branch. In `face and voice` both have
the same emotion, and the answer is theirs. A third of CK+'s people and the actors in --held-out
are only tested on.

The towers (tiny SigLIP on the whole frame, tiny Swin in FaceXFormer's place on the crop, tiny Whisper encoder) first
learn the emotion of single frames, crops and recordings of the training people, with as many steps each, in place of
published weights; what they reach on the others is in the results. Then they are frozen, their outputs computed once,
and projectors, fusion and a small Qwen2 are trained together from nothing, as in phase 3. Chance is a UAR of 16.7 %.
"""

import argparse
import random
from functools import cache
from pathlib import Path

import numpy as np
import torch
from acoustemo_dialogues import EMOTIONS as VOICE_EMOTIONS
from acoustemo_dialogues import RATE, read_recordings
from real_faces import CANVAS, FPS, FRAMES, people_of_fold, read_sequences
from transformers import Qwen2Config
from variants import (
    TEMPLATE,
    add_arguments,
    answers,
    balanced,
    fit,
    jittered,
    learn_labels,
    measure,
    say,
    scores,
    settings_of,
    small_llama,
    with_features,
    word_tokenizer,
)

from hf_emotion.papers import build
from hf_emotion.training.collator import encode

# As CK+ names them, and RAVDESS.
EMOTIONS = {
    **{"anger": "angry", "disgust": "disgusted", "fear": "fearful"},
    **{"happy": "happy", "sadness": "sad", "surprise": "surprised"},
}
LABELS = tuple(EMOTIONS)
ROWS = {
    "v": {"audio_config": None, "face_config": None},
    "v+a": {"face_config": None},
    "v+a+f, clip concat": {},
    "v+a+f, frame concat": {"fusion": "frame_concat"},
    "v+a+f, cross-attention": {"fusion": "frame_cross_attention"},
}
PARTS = {"face alone": tuple(ROWS), "face and voice": tuple(ROWS)[:3]}
FRAME = 2 * CANVAS  # pixels; SigLIP sees the face 38 pixels wide
PLACES = 2  # of each sequence in its frame
VOICES = 2  # to each of these
SOUND_SECONDS = 3
TOWER_STEPS, TOWER_BATCH, TOWER_RATE = 150, 48, 1.5e-3


def new_model(seed, **fields):
    """A small Omni-Emotion with a chunk of three seconds, and its processor."""
    tokenizer = word_tokenizer(["Emotion of the face", "Emotion\n", *LABELS])
    return build(
        "omni_emotion",
        seed=seed,
        tokenizer=tokenizer,
        text_config=small_llama(tokenizer, config=Qwen2Config),
        chat_template=TEMPLATE,
        num_frames=FRAMES,
        **fields,
    )


def placed(sequence, rng):
    """A sequence somewhere in a larger frame: frames (2, FRAME, FRAME, 3) and landmarks as fractions of it."""
    left, top = (rng.randrange(FRAME - CANVAS + 1) for _ in range(2))
    frames = np.full((FRAMES, FRAME, FRAME, 3), 128, np.uint8)
    frames[:, top : top + CANVAS, left : left + CANVAS] = sequence["frames"]
    return frames, (sequence["landmarks"] * CANVAS + np.array([left, top])) / FRAME


def whole_clip(processor, frames, waveform):
    return processor.load({"frames": frames, "fps": FPS, "waveform": waveform, "sampling_rate": RATE})


def learn_towers(model, faces, sounds):
    """The three towers learn single frames, crops and recordings; their UAR, percent, on held-out people."""
    sources = {
        "vision_tower": (faces, "pixel_values_videos", jittered),
        "face_tower": (faces, "pixel_values_faces", jittered),
        "audio_tower": (sounds, "input_features", None),
    }
    reached = {}
    for name, (items, tensor, augment) in sources.items():
        inputs = torch.cat([item["tensors"][tensor] for item in items])
        each = len(inputs) // len(items)
        truth = torch.tensor([item["label"] for item in items]).repeat_interleave(each)
        unseen = torch.tensor([item["held_out"] for item in items]).repeat_interleave(each)
        tower, weights = getattr(model.model, name), balanced(truth, unseen)
        found = learn_labels(tower, inputs, truth, weights, TOWER_STEPS, TOWER_BATCH, TOWER_RATE, 0, augment)
        own = scores([LABELS[i] for i in truth[unseen]], [LABELS[i] for i in found[unseen]], LABELS)
        reached[f"{name}_uar"] = own["uar"]
    say(f"towers: {reached}")
    return reached


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("faces", type=Path, help="CK+48")
    parser.add_argument("voices", type=Path, help="RAVDESS speech: Actor_*/03-01-*")
    parser.add_argument("--held-out", nargs="+", type=int, default=[17, 18, 19, 20], help="actors never trained on")
    parser.add_argument("--work", type=Path, help="folder that keeps the landmarks")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add_arguments(parser, "omni_faces.json", steps=160)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sequences = [s for s in read_sequences(args.faces, args.work) if s["emotion"] in EMOTIONS]
    spoken = [EMOTIONS[label] for label in LABELS]
    # Every second one: the first repetition of each sentence.
    recordings = [r for r in read_recordings(args.voices)[::2] if VOICE_EMOTIONS[r.emotion] in spoken]

    @cache
    def seen():
        """The towers' outputs for every face and voice, and what the towers reached; all runs share them."""
        rng, unseen = random.Random(0), people_of_fold(sequences, 0)
        model, processor = new_model(0)
        faces, sounds = [], []
        for sequence in sequences:
            for _ in range(PLACES):
                frames, landmarks = placed(sequence, rng)
                clip = processor.load({"frames": frames, "fps": FPS})
                tensors = processor.measure(clip, landmarks=landmarks).tensors
                tensors = {name: torch.as_tensor(x) for name, x in tensors.items() if name != "utterance_spans"}
                label = LABELS.index(sequence["emotion"])
                faces.append({"tensors": tensors, "label": label, "held_out": sequence["person"] in unseen})
        for recording in recordings:
            waveform = recording.waveform[: SOUND_SECONDS * RATE]
            clip = processor.load({"waveform": waveform, "sampling_rate": RATE}, modalities=("audio",))
            tensors = {name: torch.as_tensor(x) for name, x in processor.sound(clip).items()}
            label = spoken.index(VOICE_EMOTIONS[recording.emotion])
            held_out = recording.actor in args.held_out
            sounds.append({"tensors": tensors, "label": label, "held_out": held_out, "samples": len(waveform)})
        reached = learn_towers(model, faces, sounds)
        for item in (*faces, *sounds):
            item["media"] = with_features(model, {name: x[None] for name, x in item.pop("tensors").items()})
        return faces, sounds, reached

    def run(part, row, seed):
        faces, sounds, reached = seen()
        model, processor = new_model(seed, **ROWS[row])
        rng = random.Random(seed)
        blank = np.zeros((FRAMES, 32, 32, 3), np.uint8)

        @cache
        def prompt(samples, label):
            outline = processor.outline(whole_clip(processor, blank, np.zeros(samples, np.float32)))
            question = "Emotion of the face" if part == "face alone" else "Emotion"
            return encode(processor, [{"video": outline, "question": question, "answer": LABELS[label]}])

        chosen = {False: [], True: []}
        for face in faces:
            voices = [s for s in sounds if s["held_out"] == face["held_out"]]
            if part == "face and voice":
                voices = [s for s in voices if s["label"] == face["label"]]
            for sound in rng.sample(voices, VOICES):
                media = {**face["media"], **sound["media"]}
                media = {name: x for name, x in media.items() if name in model.media_inputs}
                if row == "v":
                    media = {name: x for name, x in media.items() if not name.startswith("audio")}
                if not row.startswith("v+a+f"):
                    media = {name: x for name, x in media.items() if not name.startswith("face")}
                sample = {**media, **prompt(sound["samples"], face["label"])}
                chosen[face["held_out"]].append((sample, LABELS[face["label"]]))
        model.freeze(tuple(name for name, _ in model.model.named_children() if name.endswith("_tower")))
        losses = fit(model, processor, [sample for sample, _ in chosen[False]], args.steps, args.lr, seed, args.batch)
        replies = answers(model, processor, [sample for sample, _ in chosen[True]], max_new_tokens=2)
        result = scores([label for _, label in chosen[True]], replies, LABELS)
        return {**result, "loss": [losses[0], losses[-1]], **reached}

    jobs = [
        {"part": part, "row": row, "seed": seed} for part in args.parts for seed in args.seeds for row in PARTS[part]
    ]
    settings = {**settings_of(args), "held_out": args.held_out, "tower_steps": TOWER_STEPS, "frame": FRAME}
    what = "Omni-Emotion, faces of CK+ with voices of RAVDESS, unseen people"
    measure(args.output, what, settings, jobs, run, chance=dict.fromkeys(PARTS, 100 / len(LABELS)))


if __name__ == "__main__":
    main()
