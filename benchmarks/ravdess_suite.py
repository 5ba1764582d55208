"""`hf-emotion benchmark ravdess`, end to end: the model of acoustemo_dialogues.py, and an answer that never changes.

    python benchmarks/ravdess_suite.py RAVDESS_FOLDER --work WORK [--held-out 17 18 19 20]

The model is the row "full" of `acoustemo_dialogues.py`, trained here as there (its options are taken too) on dialogues
of three recordings by actors outside --held-out. Here it is asked about single recordings of the held-out actors, each
alone, which it was never trained on, with its own prompt. RAVDESS inherits its terms to weights (CC BY-NC-SA 4.0), so
none are shipped; the tables are, in results/ravdess_suite. What was trained is kept in --work.
"""

import random
import time
from pathlib import Path

import acoustemo_dialogues as dialogues
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from hf_emotion.evaluation.suite import constant, load_suite, run_suite
from hf_emotion.modeling.modeling_acoustemo import AcoustEmoForConditionalGeneration
from hf_emotion.processing.media import load_clip

RESULTS = Path(__file__).parent / "results" / "ravdess_suite"


def trained(recordings, seed, args):
    """The tower, the model and its processor, trained or read from --work."""
    train = [recording for recording in recordings if recording.actor not in args.held_out]
    held_out = [recording for recording in recordings if recording.actor in args.held_out]
    folder = args.work / f"seed_{seed}"
    if not dialogues.made(folder / "tower.json", dialogues.settings_of(args, dialogues.PHASE_1)):
        tower, result = dialogues.train_tower(train, held_out, seed, args)
        tower.save_pretrained(folder / "tower")
        settings = dialogues.settings_of(args, dialogues.PHASE_1)
        dialogues.write_json(folder / "tower.json", {"settings": settings, **result})
        dialogues.say(f"tower: {result['accuracy']} % of single recordings")
    tower = WhisperEncoder.from_pretrained(folder / "tower").eval().requires_grad_(False)
    tokenizer = dialogues.tokenizer_of_prompts()
    if not (folder / "full" / "config.json").is_file():
        rows = dialogues.dialogues(train, args.dialogues, random.Random(seed), augment=True)
        shared = {"sounds": {}, "train": {}, "test": {}}
        model, processor, _, heard = dialogues.train_row("full", tower, rows, seed, shared, args)
        model.save_pretrained(folder / "full")
        dialogues.say(f"model: loss {heard[0]} -> {heard[-1]}")
    model = AcoustEmoForConditionalGeneration.from_pretrained(folder / "full").eval()
    processor = dialogues.processor_of(model.config, tokenizer, {})
    return tower, model, processor


def describe_with(tower, model, processor):
    """The model as a suite calls it: each recording alone, cut to where it speaks, with the prompt of its training."""

    def describe(paths, **options):
        rows = []
        for path in paths:
            waveform = dialogues.spoken_part(load_clip(path, frames=False, sampling_rate=dialogues.RATE).waveform)
            clip = load_clip({"waveform": waveform, "sampling_rate": dialogues.RATE})
            spoken = [{"start": 0.0, "end": len(waveform) / dialogues.RATE, "text": None, "speaker": None}]
            rows.append(dialogues.asked({"id": path, "video": clip, "utterances": spoken, "emotions": [0]}, 0))
        samples = dialogues.samples_of(processor, rows, {}, tower)
        replies = dialogues.answers(model, processor, samples, max_new_tokens=3)
        return [{"clip": path, "description": reply} for path, reply in zip(paths, replies, strict=True)]

    return describe


def main():
    args = dialogues.parser().parse_args()
    if args.folder is None:
        raise SystemExit("the RAVDESS folder is needed")
    if args.threads:
        dialogues.torch.set_num_threads(args.threads)
    suite, options = load_suite("ravdess"), {"speakers": {"test": args.held_out}}
    started = time.perf_counter()
    describe = describe_with(*trained(dialogues.read_recordings(args.folder), args.seeds[0], args))
    dialogues.say(f"{time.perf_counter() - started:.0f} s until the model stands")
    actors = " ".join(map(str, args.held_out))
    for name, model, answer in (
        ("acoustemo_dialogues", f"acoustemo_dialogues.py, full, seed {args.seeds[0]}, actors {actors}", describe),
        ("constant", f"always 'calm', actors {actors}", constant("calm")),
    ):
        output = args.work / "suite" / name
        results = run_suite(suite, args.folder, output, answer, model=model, options=options, batch_size=20)
        for file in ("README.md", "results.json"):
            (RESULTS / name).mkdir(parents=True, exist_ok=True)
            text = (output / file).read_text(encoding="utf-8")
            (RESULTS / name / file).write_text(text.replace(str(args.folder), "RAVDESS_FOLDER"), encoding="utf-8")
        scores = results["tasks"]["speech"]["scores"]
        dialogues.say(f"{name}: UAR {100 * scores['uar']:.2f} %, WAR {100 * scores['war']:.2f} %, {scores['n']} clips")


if __name__ == "__main__":
    main()
