"""`hf-emotion predict`."""

import argparse
import json
import sys

from .arguments import FAILED, OK, SOME_FAILED, positive_int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("clips", nargs="+", metavar="CLIP", help="video or sound files")
    parser.add_argument("--model", required=True, help="a model folder or Hub id")
    parser.add_argument(
        "--utterances",
        nargs="+",
        metavar="FILE",
        help="subtitles of the clips, in their order: srt, vtt, whisper json or TextGrid; '-' for a clip without",
    )
    parser.add_argument("--question", help="what to ask (default: the model's own question)")
    parser.add_argument("--num-frames", type=positive_int, help="frames to look at (default: the model's)")
    parser.add_argument("--sampling", help="uniform, fps, middle, first or peak (default: the model's)")
    parser.add_argument("--fps", type=float, help="frames per second, with --sampling fps")
    parser.add_argument("--max-duration", type=float, metavar="SECONDS", help="longest clip taken")
    parser.add_argument("--modalities", nargs="+", metavar="NAME", help="what to use: video, audio (default: all)")
    parser.add_argument(
        "--max-new-tokens", type=positive_int, default=128, help="length limit of an answer (default 128)"
    )
    parser.add_argument(
        "--num-beams", type=positive_int, default=1, help="beam search with that many beams (default greedy)"
    )
    parser.add_argument("--batch-size", type=positive_int, default=4, help="clips generated together (default 4)")
    parser.add_argument("--device", help="such as cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the code of the model's repository")
    parser.add_argument("--json", action="store_true", help="print a JSON list, one object per clip")


def run(args) -> int:
    from ..inference import describe, load

    utterances = args.utterances
    if utterances is not None:
        if len(utterances) != len(args.clips):
            raise ValueError(
                f"--utterances names {len(utterances)} files for {len(args.clips)} clips; one for each is accepted, "
                f"'-' for a clip without"
            )
        utterances = [None if file == "-" else file for file in utterances]
    options = {"num_frames": args.num_frames, "sampling": args.sampling, "fps": args.fps}
    options |= {"max_duration": args.max_duration, "modalities": args.modalities}
    model, processor = load(args.model, device=args.device, trust_remote_code=args.trust_remote_code)
    results = describe(
        args.clips,
        model,
        processor,
        utterances=utterances,
        question=args.question,
        batch_size=args.batch_size,
        progress=sys.stderr.isatty(),
        **{name: value for name, value in options.items() if value is not None},
        max_new_tokens=args.max_new_tokens,
        num_beams=args.num_beams,
    )
    failed = [result for result in results if "error" in result]
    if args.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
    else:
        for result in results:
            if "error" not in result:
                print_result(result)
    for result in failed:
        print(f"hf-emotion: {result['error']}", file=sys.stderr)
    return OK if not failed else FAILED if len(failed) == len(results) else SOME_FAILED


def print_result(result: dict) -> None:
    """One clip, for people."""
    frames = result["frames"]
    print(result["clip"])
    print(f"  description  {result['description']}")
    print(f"  labels       {words_of(result['labels'])}")
    print(f"  modalities   {', '.join(result['modalities'])}")
    if frames:
        seen = sum(frame.get("face", False) for frame in frames)
        faces = f", a face in {seen}" if "face" in frames[0] else ""
        print(f"  frames       {len(frames)} from {frames[0]['time']:.2f} s to {frames[-1]['time']:.2f} s{faces}")
    for i, spoken in enumerate(result["utterances"], 1):
        words = f"  {spoken['text']}" if spoken["text"] else ""
        print(f"  utterance {i}  {spoken['start']:.2f} - {spoken['end']:.2f} s{words}: {words_of(spoken['labels'])}")
    for note in result["notes"]:
        print(f"  note         {note}")


def words_of(labels) -> str:
    return ", ".join(f"{label['label']} {label['score']:.2f}" for label in labels) or "no emotion word"
