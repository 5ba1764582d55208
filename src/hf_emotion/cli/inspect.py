"""`hf-emotion inspect`."""

import argparse
import json
import sys
from pathlib import Path

from .arguments import OK, add_clip_options, add_url_option, chosen

TABLES = (".jsonl", ".json", ".csv", ".parquet")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description += (
        " For clips: frames, faces, voice activity, utterances, prompt and token counts. For a table of rows or a "
        "folder: counts, labels, and the rows that cannot be used."
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="clips; or one table, folder or built dataset")
    parser.add_argument(
        "--model", metavar="SOURCE", help="folder or Hub id of a processor (default: a tiny MicroEmo's)"
    )
    parser.add_argument("--utterances", metavar="FILE", help="subtitles of a single clip (default: none)")
    parser.add_argument("--question", help="question in the prompt (default: the processor's)")
    add_clip_options(parser)
    add_url_option(parser)
    parser.add_argument("--split", help="split of the rows (default: train, or the only one)")
    parser.add_argument("--output", type=Path, metavar="PAGE", help="HTML page about clips (default: only print)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Show what a processor sees; returns 0."""
    from transformers import AutoProcessor

    from ..data.remote import is_url, local_media
    from ..data.rows import read_rows
    from ..papers import build
    from ..training.inspect_clips import look, summarise, write_page

    if args.model is None:
        _, processor = build("microemo")
    else:
        processor = AutoProcessor.from_pretrained(args.model, trust_remote_code=False)
    first = Path(args.sources[0])
    if first.is_dir() or first.suffix.lower() in TABLES:
        if len(args.sources) > 1 or args.output is not None:
            raise ValueError("a table or folder is inspected alone, and printed; --output is a page about clips")
        rows = read_rows(args.sources[0], args.split, default_split="train", allow_urls=args.allow_urls)
        print_rows(summarise(rows, processor, args.allow_urls), args.json)
        return OK
    if args.utterances is not None and len(args.sources) > 1:
        raise ValueError(f"--utterances belongs to one clip, but {len(args.sources)} were named")
    options = chosen(args, "num_frames", "modalities")
    views = []
    for clip in args.sources:
        if is_url(clip) and not args.allow_urls:
            raise ValueError(f"{clip} is an address; add --allow-urls to read it")
        with local_media({"video": clip}, args.allow_urls) as local:
            views.append(look(processor, local["video"], args.utterances, args.question, **options))
        views[-1].inputs.report["source"] = clip
    if args.output is not None:
        write_page(views, args.output)
        print(args.output, file=sys.stderr)
    if args.json:
        print(json.dumps([view.summary() for view in views], indent=2, ensure_ascii=False))
        return OK
    for view in views:
        print_clip(view.summary())
    return OK


def print_clip(view: dict) -> None:
    """One clip, for people."""
    frames = view["frames"]
    print(f"{view['source']}: {view['duration']:.2f} s, {' and '.join(view['modalities'])}")
    if frames:
        faces = f", a face in {sum(frame['face'] for frame in frames)}" if "face" in frames[0] else ""
        print(f"  frames      {len(frames)} from {frames[0]['time']:.2f} s to {frames[-1]['time']:.2f} s{faces}")
    voice = ", ".join(f"{span['start']:.2f} - {span['end']:.2f} s" for span in view["voice"])
    print(f"  voice       {voice or 'none'}")
    for i, utterance in enumerate(view["utterances"], 1):
        print(
            f"  utterance {i} {utterance['start']:.2f} - {utterance['end']:.2f} s  {utterance['text'] or ''}".rstrip()
        )
    print(f"  tokens      {', '.join(f'{count} {name}' for name, count in view['tokens'].items())}")
    print(f"  prompt      {view['prompt']}")
    for note in view["notes"]:
        print(f"  note        {note}")


def print_rows(summary: dict, as_json: bool) -> None:
    """A set of rows, for people."""
    if as_json:
        print(json.dumps(summary, indent=2, ensure_ascii=False))
        return
    bad = summary.pop("bad_rows")
    labels = ", ".join(f"{label} {count}" for label, count in summary.pop("labels").items())
    print(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in summary.items()))
    print(f"labels: {labels or 'none'}")
    print(f"{len(bad)} rows cannot be used" + (":" if bad else ""))
    for name, problem in bad.items():
        print(f"  {name}: {problem}")
