"""`hf-emotion predict`."""

import argparse
import gc
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..data import early_clips
from .arguments import (
    FAILED,
    OK,
    SOME_FAILED,
    add_answer_options,
    add_clip_options,
    add_engine_options,
    add_loading_options,
    add_url_option,
    add_worker_option,
    chosen,
    report_share,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Exit code: 0, or 1 if some clips could not be described, or 2 if none could."
    parser.add_argument("clips", nargs="+", metavar="CLIP", help="video, sound or picture files")
    parser.add_argument("--model", help="model folder or Hub id (default: the small model in the box)")
    parser.add_argument(
        "--utterances",
        nargs="+",
        metavar="FILE",
        help="subtitles of the clips, in their order: srt, vtt, whisper json or TextGrid; '-' for a clip without "
        "(default: none)",
    )
    parser.add_argument("--labels", nargs="+", metavar="LABEL", help="closed set to choose from (default: any word)")
    parser.add_argument(
        "--every", type=float, metavar="SECONDS", help="ask about windows of this length (default: about utterances)"
    )
    parser.add_argument(
        "--track",
        type=Path,
        metavar="FILE",
        help="write the course of one clip: .json, .csv, .TextGrid, .png, .svg or .pdf (default: do not)",
    )
    parser.add_argument("--whole-clip-only", action="store_true", help="do not ask about each utterance")
    add_answer_options(parser)
    add_worker_option(parser)
    add_clip_options(parser)
    parser.add_argument("--sampling", help="uniform, fps, middle, first or peak (default: the model's)")
    parser.add_argument("--fps", type=float, help="frames per second, with --sampling fps (default: the model's)")
    parser.add_argument(
        "--max-duration", type=float, metavar="SECONDS", help="refuse longer clips (default: the model's)"
    )
    add_loading_options(parser)
    add_url_option(parser)
    add_engine_options(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON list, one object per clip")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="write each result to this jsonl file as soon as it is there; run again to continue (default: print); "
        "with --engine ray also a folder on a store, such as s3://bucket/answers or answers.parquet",
    )


def run(args: argparse.Namespace) -> int:
    """Describe clips; returns 0, 1 (some failed) or 2 (all failed)."""
    # Before anything that takes long to import.
    with early_clips.beginning(args) as early:
        return describe(args, early)


def describe(args: argparse.Namespace, early: early_clips.EarlyClips | None) -> int:
    """`run`, with the clips that another process has begun to read."""
    # These imports make very many objects that stay: to look for garbage among them, here and in what follows, takes
    # much of the time of a short clip.
    collecting = gc.isenabled()
    gc.disable()
    try:
        from .. import starter
        from ..data.remote import is_url
        from ..data.shares import processes
        from ..evaluation.evaluate import described
        from ..inference import Describer, load
    finally:
        if collecting:
            gc.enable()
    gc.freeze()

    utterances = [None] * len(args.clips)
    if args.utterances is not None:
        if len(args.utterances) != len(args.clips):
            raise ValueError(
                f"--utterances names {len(args.utterances)} files for {len(args.clips)} clips; one for each is "
                f"accepted, '-' for a clip without"
            )
        utterances = [None if file == "-" else file for file in args.utterances]
    if args.track is not None and len(args.clips) > 1:
        raise ValueError(f"--track is the course of one clip, but {len(args.clips)} were named")
    names = ("num_frames", "sampling", "fps", "max_duration", "modalities", "max_new_tokens", "num_beams", "every")
    options = chosen(args, *names)
    options |= {"candidate_labels": args.labels, "per_utterance": not args.whole_clip_only}
    share = processes()
    if share.count > 1 and args.output is None:
        raise ValueError(f"{share.count} processes share the clips; --output is needed, the file for their results")
    on_store = args.output is not None and (is_url(args.output) or args.output.endswith(".parquet"))
    if on_store and args.engine != "ray":
        raise ValueError(f"--output {args.output} needs --engine ray; in one process a jsonl file is written")
    answer = engine = None
    if args.engine == "ray":
        if args.output is None:
            raise ValueError("--engine ray needs --output, the file for the results")
        if on_store:
            return write_to_store(args, utterances, options)
        engine = ray_engine(args, **options)
    else:
        if args.model is None:
            model, processor = starter.load(args.device)
        else:
            model, processor = load(args.model, device=args.device, trust_remote_code=args.trust_remote_code)
        answer = Describer(model, processor, batch_size=args.batch_size, num_workers=args.num_workers, **options)
        if early is not None and early.fits(processor, answer.reading):
            answer.early = early
    if args.output is not None:
        results = write_results(args, utterances, options, answer, engine)
    elif any(map(is_url, args.clips)):
        rows = rows_of(args.clips, utterances)
        results = [found for _, found in described(rows, answer, args.batch_size, args.question, args.allow_urls)]
    else:
        results = answer(args.clips, utterances=utterances, question=args.question, progress=sys.stderr.isatty())
    if not share.is_first:
        return OK
    failed = [result for result in results if "error" in result]
    if args.track is not None and not failed:
        from ..answers.track import write_track  # it draws, and matplotlib takes long to import

        print(write_track(next(iter(results)), args.track), file=sys.stderr)
    if args.json:
        print(json.dumps(list(results), indent=2, ensure_ascii=False))
    elif args.output is None:
        for result in results:
            if "error" not in result:
                print_result(result)
    for result in failed:
        print(f"hf-emotion: {result['error']}", file=sys.stderr)
    return OK if not failed else FAILED if len(failed) == len(results) else SOME_FAILED


def ray_engine(args: argparse.Namespace, **options) -> Callable:
    """The engine of `evaluate.predict` on the cluster that the arguments name."""
    from .. import cluster

    cluster.connect(args.address)
    loading = chosen(args, "device", "actors")
    loading |= {"trust_remote_code": args.trust_remote_code, "allow_urls": args.allow_urls}
    return cluster.describing(args.model, question=args.question, batch_size=args.batch_size, **loading, **options)


def write_to_store(args: argparse.Namespace, utterances: list, options: dict) -> int:
    """The results on a cluster, in a folder of files; rows that are there are not described again."""
    from .. import cluster
    from ..data.remote import is_url

    if is_url(args.output) and not args.allow_urls:
        raise ValueError(f"--output {args.output} is an address; add --allow-urls to write to it")
    cluster.connect(args.address)
    known = cluster.read_ids(args.output)
    rows = [row for row in rows_of(args.clips, utterances) if row["id"] not in known]
    running = chosen(args, "device", "actors", "question", "batch_size")
    running |= {"trust_remote_code": args.trust_remote_code, "allow_urls": args.allow_urls}
    failed = cluster.write(cluster.answers(rows, args.model, **running, **options), args.output) if rows else 0
    print(f"{args.output}: {len(rows) - failed} of {len(rows)} clips described, {len(known)} were there")
    return OK if not failed else FAILED if failed == len(rows) else SOME_FAILED


def write_results(args: argparse.Namespace, utterances: list, options: dict, answer, engine) -> Any:
    """The results, in the file `--output`; clips that an earlier run described are not described again."""
    from ..evaluation.evaluate import predict

    if len(set(args.clips)) < len(args.clips):
        raise ValueError("a clip is named twice; with --output each clip is accepted once")
    rows = rows_of(args.clips, utterances)
    settings = {"model": args.model, "question": args.question, **options}
    running = {"progress": sys.stderr.isatty(), "engine": engine, "allow_urls": args.allow_urls}
    results = predict(rows, answer, Path(args.output), settings, args.batch_size, args.question, **running)
    report_share(results)
    if results.processes.is_first:
        described = sum("error" not in result for result in results)
        print(f"{args.output}: {described} of {len(results)} clips described")
    return results


def rows_of(clips: Sequence[str], utterances: Sequence) -> list[dict]:
    """Data rows of clips; each is its own id."""
    return [{"id": clip, "video": clip, "utterances": file} for clip, file in zip(clips, utterances, strict=True)]


def print_result(result: dict) -> None:
    """One clip, for people."""
    frames = result["frames"]
    print(result["clip"])
    print(f"  description  {result['description']}")
    print(f"  labels       {words_of(result['labels'])}")
    print(f"  modalities   {', '.join(result['modalities'])}")
    if frames:
        faces = f", a face in {sum(frame['face'] for frame in frames)}" if "face" in frames[0] else ""
        print(f"  frames       {len(frames)} from {frames[0]['time']:.2f} s to {frames[-1]['time']:.2f} s{faces}")
    for i, utterance in enumerate(result["utterances"], 1):
        text = f"  {utterance['text']}" if utterance["text"] else ""
        labels = f"  ({words_of(utterance['labels'])})" if "labels" in utterance else ""
        print(f"  utterance {i}  {utterance['start']:.2f} - {utterance['end']:.2f} s{text}{labels}")
    for note in result["notes"]:
        print(f"  note         {note}")


def words_of(labels: list[dict]) -> str:
    """Labels with their scores, for people."""
    return ", ".join(f"{label['label']} {label['score']:.2f}" for label in labels) or "no emotion word"
