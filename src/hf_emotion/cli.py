"""`hf-emotion`: make, inspect and run the models from the command line.

Exit codes: 0 all went well; 1 some clips could not be described (the others were); 2 nothing could be done.
"""

import argparse
import json
import os
import sys
from importlib import import_module
from pathlib import Path

OK, SOME_FAILED, FAILED = 0, 1, 2


# Commands whose options stand beside their code: module, function, and what `hf-emotion --help` says of them.
ELSEWHERE = {
    "build": (
        ".data.build",
        "add_build_parser",
        "read a dataset into rows, check it, make questions, save or publish it",
    ),
    "review": (
        ".evaluation.reviewers",
        "add_review_parser",
        "describe labelled clips, score the descriptions, have people check them (Omni-Emotion's data)",
    ),
    "cache": (
        ".training.cache",
        "add_cache_parser",
        "compute the frozen towers' outputs once; training then reads them",
    ),
    "train": (".training.train", "add_train_parser", "train a paper's phases one after the other, by its recipes"),
    "evaluate": (".evaluation.evaluate", "add_evaluate_parser", "run a model on a data set and score its answers"),
    "score": (
        ".evaluation.evaluate",
        "add_score_parser",
        "score a file of predictions against a file of references",
    ),
}


def parser(asked: str | None = None) -> argparse.ArgumentParser:
    """The command line; each command names its function in `func`.

    Args:
        asked: the one command that is wanted: of the others in `ELSEWHERE` only the name is given, since their options
            need modules that take a while to import. None: all.
    """
    root = argparse.ArgumentParser(prog="hf-emotion", description=__doc__.splitlines()[0])
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    init = commands.add_parser("init", help="write a complete model and processor folder, with random weights")
    init.add_argument("name", help="microemo or acoustemo")
    init.add_argument("--size", default="tiny", help="tiny (default) or paper (billions of weights)")
    init.add_argument("--output", required=True, type=Path, help="folder to write; must not exist or be empty")
    init.add_argument("--seed", type=int, default=0, help="of the weights (default 0)")
    init.add_argument("--tokenizer", help="folder or Hub id of the language model's tokenizer (paper size)")
    init.add_argument("--qformer-tokenizer", help="folder or Hub id of the image Q-Former's tokenizer (paper size)")
    init.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="a configuration field, such as an ablation"
    )
    init.set_defaults(func=run_init)

    info = commands.add_parser("info", help="parts, parameters, frozen or trained, tokens per clip")
    info.add_argument("name", help="a model name (microemo, acoustemo), a folder or a Hub id")
    info.add_argument("--size", default=None, help="tiny or paper, for a name (default tiny)")
    info.add_argument("--frames", type=int, default=8, help="frames per clip to count tokens for (default 8)")
    info.add_argument("--json", action="store_true", help="print JSON")
    info.set_defaults(func=run_info)

    predict = commands.add_parser("predict", help="describe the emotions in clips")
    predict.add_argument("clips", nargs="+", metavar="CLIP", help="video or sound files")
    predict.add_argument("--model", required=True, help="a model folder or Hub id")
    predict.add_argument(
        "--utterances",
        nargs="+",
        metavar="FILE",
        help="subtitles of the clips, in their order: srt, vtt, whisper json or TextGrid; '-' for a clip without",
    )
    predict.add_argument("--question", help="what to ask (default: the model's own question)")
    predict.add_argument("--num-frames", type=count_of, help="frames to look at (default: the model's)")
    predict.add_argument("--sampling", help="uniform, fps, middle, first or peak (default: the model's)")
    predict.add_argument("--fps", type=float, help="frames per second, with --sampling fps")
    predict.add_argument("--max-duration", type=float, metavar="SECONDS", help="longest clip taken")
    predict.add_argument("--modalities", nargs="+", metavar="NAME", help="what to use: video, audio (default: all)")
    predict.add_argument("--max-new-tokens", type=count_of, default=128, help="length limit of an answer (default 128)")
    predict.add_argument(
        "--num-beams", type=count_of, default=1, help="beam search with that many beams (default greedy)"
    )
    predict.add_argument("--batch-size", type=count_of, default=4, help="clips generated together (default 4)")
    predict.add_argument("--device", help="such as cpu or cuda (default: a GPU where there is one)")
    predict.add_argument("--trust-remote-code", action="store_true", help="run the code of the model's repository")
    predict.add_argument("--json", action="store_true", help="print a JSON list, one object per clip")
    predict.set_defaults(func=run_predict)

    quickstart = commands.add_parser(
        "quickstart", help="train a tiny model on a small corpus made here; describe a clip"
    )
    quickstart.add_argument("clips", nargs="*", metavar="CLIP", help="own clips to describe at the end")
    quickstart.add_argument("--output", type=Path, default=Path("quickstart_output"), help="folder to write")
    quickstart.add_argument("--seed", type=int, default=0)
    quickstart.set_defaults(func=run_quickstart)

    push = commands.add_parser(
        "push",
        help="publish a model or adapter: weights, processor, code, card, licence, handler, in one commit",
        description="The card is filled from the folder and the results files. Weights whose parents' licences demand "
        "it are published privately unless --public is given.",
    )
    push.add_argument("folder", type=Path, metavar="DIR", help="what save_pretrained, Trainer or PEFT wrote")
    push.add_argument("repo", metavar="REPO", help="name/model")
    push.add_argument("--results", nargs="+", default=[], metavar="FILE", help="scores.json of evaluate or quickstart")
    push.add_argument("--dataset", metavar="ID", help="Hub id of the data behind the results")
    push.add_argument("--examples", nargs="+", default=[], metavar="CLIP", help="clips that the model page can play")
    push.add_argument("--base", metavar="REPO", help="base model of an adapter, where it was trained from a folder")
    push.add_argument("--readme", metavar="FILE", help="a card of your own, in place of the one made here")
    push.add_argument("--revision", help="branch to publish to (default main)")
    push.add_argument("--create-pr", action="store_true", help="open a pull request")
    push.add_argument("--message", help="of the commit")
    seen = push.add_mutually_exclusive_group()
    seen.add_argument("--private", dest="private", action="store_const", const=True, help="whatever the licences say")
    seen.add_argument("--public", dest="private", action="store_const", const=False, help="whatever the licences say")
    push.set_defaults(func=run_push)

    space = commands.add_parser("space", help="write, or publish, a Gradio Space that shows a published model")
    space.add_argument("repo", metavar="REPO", help="of the model or adapter: name/model")
    space.add_argument("--output", type=Path, metavar="DIR", help="folder to write; new or empty")
    space.add_argument("--push", metavar="SPACE", help="publish it as name/space")
    space.add_argument("--title", help="of the page")
    space.set_defaults(func=run_space)

    for name, (module, add, summary) in ELSEWHERE.items():
        if asked in (None, name):
            getattr(import_module(module, __package__), add)(commands)
        else:
            commands.add_parser(name, help=summary)
    return root


def count_of(text: str) -> int:
    """A whole number from 1, from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} was found, a whole number from 1 is accepted")
    return int(text)


def fields_of(pairs: list[str]) -> dict:
    """`["use_regions=false"]` -> `{"use_regions": False}`; what is no JSON is text."""
    fields = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--set {pair}: found no '='; FIELD=VALUE is accepted")
        try:
            fields[name] = json.loads(value)
        except json.JSONDecodeError:
            fields[name] = value
    return fields


def run_init(args) -> int:
    from transformers import AutoTokenizer

    from .sizes import build

    if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        raise ValueError(f"--output {args.output} exists and is not empty; a new or empty folder is accepted")
    tokenizers = {
        name: AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        for name, source in (("tokenizer", args.tokenizer), ("qformer_tokenizer", args.qformer_tokenizer))
        if source is not None
    }
    model, processor = build(args.name, args.size, seed=args.seed, **tokenizers, **fields_of(args.set))
    unfinished = args.output.with_name(f".{args.output.name}.{os.getpid()}")
    model.save_pretrained(unfinished)
    processor.save_pretrained(unfinished)
    os.replace(unfinished, args.output)
    size = sum(file.stat().st_size for file in args.output.rglob("*") if file.is_file())
    print(
        f"{args.output}: {args.name} at {args.size} size with random weights, {count(model):,} parameters, "
        f"{size / 1e6:.1f} MB"
    )
    return OK


def count(*modules) -> int:
    """Parameters of modules, each counted once."""
    return sum(parameter.numel() for parameter in {id(p): p for m in modules for p in m.parameters()}.values())


def run_info(args) -> int:
    import torch
    from transformers import AutoConfig, AutoModelForMultimodalLM

    from .sizes import PAPERS, tiny_tokenizer

    if args.name in PAPERS:
        size = args.size or "tiny"
        vocabulary = {"vocab_size": len(tiny_tokenizer())} if size == "tiny" else {}
        config = PAPERS[args.name].config(size, **vocabulary)
    elif args.size is not None:
        raise ValueError(f"--size goes with a model name ({', '.join(PAPERS)}); {args.name!r} is none")
    elif not Path(args.name).exists() and "/" not in args.name:
        raise ValueError(f"{args.name!r} is no model name ({', '.join(PAPERS)}), folder or Hub id")
    else:
        size = None
        try:
            config = AutoConfig.from_pretrained(args.name, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"{args.name} cannot be read: {' '.join(str(error).split())[:300]}") from error
    # No memory is taken: only shapes are made.
    with torch.device("meta"):
        model = AutoModelForMultimodalLM.from_config(config)
    parts = [
        {**part, "training": "frozen" if part["part"] in model.frozen_parts else "trained"} for part in parts_of(model)
    ]
    tokens = [{"frames": args.frames, "utterances": n, **config.tokens_per_clip(args.frames, n)} for n in (0, 1, 3, 10)]
    result = {
        "model": config.model_type,
        "source": args.name,
        "size": size,
        "parameters": count(model),
        "parts": parts,
        "tokens_per_clip": tokens,
        "token_choices": config.token_choices(args.frames),
        "base": base_of(PAPERS[args.name], parts) if size == "paper" else None,
    }
    if args.json:
        print(json.dumps(result, indent=2))
        return OK
    print(f"{config.model_type}{f' at {size} size' if size else ''}: {result['parameters']:,} parameters")
    print(f"\n{'part':<26}{'class':<35}{'parameters':>15}  as in the paper")
    for part in parts:
        adapted = part["part"] == "language_model" and part["training"] == "frozen"
        note = f"{part['training']}{' (LoRA)' if adapted else ''}"
        print(f"{part['part']:<26}{part['class']:<35}{part['parameters']:>15,}  {note}")
    print(
        f"\ntokens per clip of {args.frames} frames: utterances" + "".join(f"{row['utterances']:>7}" for row in tokens)
    )
    for name in config.tokens_per_clip(args.frames, 0):
        print(f"{name:>44}" + "".join(f"{row[name]:>7}" for row in tokens))
    for setting, counts in result["token_choices"].items():
        kinds = ", ".join(f"{kind} {number:,}" for kind, number in counts.items())
        print(f"{setting:>44}  {sum(counts.values()):>7,}: {kinds}")
    if result["base"]:
        base = result["base"]
        print(f"\nstarts from {base['checkpoint']}: {base['parameters']:,} parameters; to the language model it adds")
        for name, added in base["adds"].items():
            print(f"{name:<54}{added:>15,}")
    return OK


def parts_of(model) -> list[dict]:
    """Parts of a generating model, its head with the language model, bare parameters last; and what is in each part."""
    parts = []
    for name, module in model.model.named_children():
        modules = [module, model.lm_head] if name == "language_model" else [module]
        inside = {child: count(part) for child, part in module.named_children()}
        parts.append({"part": name, "class": type(module).__name__, "parameters": count(*modules), "inside": inside})
    for name, parameter in model.model.named_parameters(recurse=False):
        parts.append({"part": name, "class": "Parameter", "parameters": parameter.numel(), "inside": {}})
    return parts


def base_of(paper, parts: list[dict]) -> dict | None:
    """The published checkpoint that a paper's model starts from, and what it adds to the paper's language model."""
    import torch
    from transformers import AutoModelForImageTextToText

    if paper.base is None:
        return None
    checkpoint, config = paper.base[0], paper.base[1]()
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    adds = {part["part"]: part["parameters"] for part in parts_of(model)}
    [language_model] = [part["parameters"] for part in parts if part["part"] == "language_model"]
    words = adds.pop("language_model") - language_model
    adds[f"vocabulary of {config.text_config.vocab_size:,}"] = words
    return {"checkpoint": checkpoint, "parameters": count(model), "adds": adds}


def run_predict(args) -> int:
    from .inference import describe, load

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
        load_options={name: value for name, value in options.items() if value is not None},
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
    print(f"  labels       {', '.join(result['labels']) or '(no emotion word)'}")
    print(f"  modalities   {', '.join(result['modalities'])}")
    if frames:
        seen = sum(frame.get("face", False) for frame in frames)
        faces = f", a face in {seen}" if "face" in frames[0] else ""
        print(f"  frames       {len(frames)} from {frames[0]['time']:.2f} s to {frames[-1]['time']:.2f} s{faces}")
    for i, spoken in enumerate(result["utterances"], 1):
        print(f"  utterance {i}  {spoken['start']:.2f} - {spoken['end']:.2f} s  {spoken['text'] or ''}".rstrip())
    for note in result["notes"]:
        print(f"  note         {note}")


def run_push(args) -> int:
    from .hub import push

    address = push(
        args.folder,
        args.repo,
        results=args.results,
        examples=args.examples,
        dataset=args.dataset,
        base=args.base,
        readme=args.readme,
        private=args.private,
        revision=args.revision,
        create_pr=args.create_pr,
        commit_message=args.message,
    )
    print(address)
    return OK


def run_space(args) -> int:
    from .hub import push_space, write_space

    if args.output is None and args.push is None:
        raise ValueError("nothing to do: give --output DIR, --push name/space, or both")
    if args.output is not None:
        print(write_space(args.repo, args.output, args.title))
    if args.push is not None:
        print(push_space(args.repo, args.push, title=args.title))
    return OK


def run_quickstart(args) -> int:
    from .quickstart import quickstart

    quickstart(args.output, clips=args.clips, seed=args.seed)
    return OK


def main(argv: list[str] | None = None) -> int:
    """Run a command; an error is one sentence on standard error, never a traceback."""
    if not sys.stderr.isatty():
        # Bars of loading and saving are for people; in a script, standard error holds what went wrong.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    argv = sys.argv[1:] if argv is None else argv
    args = parser(argv[0] if argv else "").parse_args(argv)
    try:
        return args.func(args)
    except KeyboardInterrupt:
        print("hf-emotion: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("HF_EMOTION_DEBUG"):
            raise
        print(f"hf-emotion: {error}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
