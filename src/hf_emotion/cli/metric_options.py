"""Options of the metrics, shared by `hf-emotion score` and `hf-emotion evaluate`."""

import argparse
import os

from ..evaluation import classes, judge, wheel
from ..evaluation.evaluate import LABEL_SETS, EvaluationError, Settings
from ..evaluation.grouping import Embeddings, LanguageModelGroups, named
from ..evaluation.score_files import read_cells


def add_metric_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("scoring").add_argument
    add("--strict", action="store_true", help="the official code bit for bit, its exceptions and NaN included")
    add("--bootstrap", type=int, default=1000, metavar="N", help="draws for confidence intervals; 0 for none")
    add("--no-baselines", action="store_true", help="leave out the constant and the shuffled answers")
    add("--seed", type=int, default=0, help="seed of draws and shuffles")
    add("--wheel-dir", metavar="FOLDER", help="official emotion_wheel folder (default: HF_EMOTION_WHEEL_DIR)")
    add("--version", choices=wheel.VERSIONS, help="version of the official wheel tables (default: the folder's)")
    add("--unchecked-tables", action="store_true", help="score with changed wheel tables, which the report says")
    add(
        "--groups",
        metavar="PATH",
        help="emotion_set: stored groups of each clip, npy folder or zip, or json (default: --grouper makes them)",
    )
    add("--grouper", help="emotion_set: exact, lexicon, lexicon2, embeddings:MODEL, or judge (default: none)")
    add(
        "--labels",
        nargs="+",
        metavar="LABEL",
        help=f"closed set of classes, or one of {', '.join(LABEL_SETS)} (default: the classes of the references)",
    )
    add("--folds", metavar="FILE", help="emotion_recognition: fold of each clip, to average over (default: one fold)")
    add(
        "--track",
        choices=classes.TRACKS,
        metavar="TRACK",
        help=f"mer_challenge: {', '.join(classes.TRACKS)} (default: none; mer_challenge needs one)",
    )
    add("--reading", choices=("class", "emotion_llama"), default="class", help="mer_challenge: how a reply is read")
    add(
        "--judge-model",
        metavar="MODEL",
        help="language model for emotion_overlap and --grouper judge; it runs here unless --judge-url is given "
        "(default: none)",
    )
    add(
        "--judge-url",
        metavar="URL",
        help="server with the OpenAI chat protocol, such as http://127.0.0.1:8000/v1 (default: none)",
    )
    add("--judge-key-env", metavar="NAME", help="environment variable that holds the server's key (default: no key)")
    add(
        "--judge-cache",
        metavar="FILE",
        help="JSON file of judge replies, which makes scores repeatable (default: none)",
    )
    add("--judge-reads", action="store_true", help="let the judge, not rules, find the emotion words of prose answers")
    add("--overlap", choices=("clue", "label", "both"), default="both", help="emotion_overlap: which overlap")
    add("--overlap-language", choices=tuple(judge.PROMPTS), default="zh", help="zh: official prompts; en: translated")


def settings_of(args: argparse.Namespace) -> Settings:
    """The options of a command as `Settings`. Raises EvaluationError for options that contradict each other."""
    chat: judge.ServerChat | judge.TransformersChat | None = None
    if args.judge_url and not args.judge_model:
        raise EvaluationError("--judge-url needs --judge-model, the name of the model on that server")
    if args.judge_url:
        key = os.environ.get(args.judge_key_env) if args.judge_key_env else None
        if args.judge_key_env and not key:
            raise EvaluationError(f"--judge-key-env names {args.judge_key_env}, which is not set")
        chat = judge.ServerChat(args.judge_url, args.judge_model, api_key=key)
    elif args.judge_model:
        chat = judge.TransformersChat(args.judge_model)
    cache = judge.JudgeCache(args.judge_cache)
    if args.judge_reads and chat is None and not args.judge_cache:
        raise EvaluationError("--judge-reads needs --judge-model (and --judge-url for a server), or --judge-cache")
    grouper = args.grouper
    if grouper and grouper.startswith("embeddings:"):
        grouper = Embeddings(grouper.partition(":")[2])
    elif grouper == "judge":
        if chat is None and not args.judge_cache:
            raise EvaluationError(
                "--grouper judge needs --judge-model (and --judge-url for a server), or --judge-cache"
            )
        grouper = LanguageModelGroups(chat, cache)
    labels = args.labels
    if labels and len(labels) == 1 and labels[0] in LABEL_SETS:
        labels = LABEL_SETS[labels[0]]
    return Settings(
        strict=args.strict,
        wheel_dir=args.wheel_dir,
        version=args.version,
        check_tables=not args.unchecked_tables,
        groups=read_cells(args.groups, ("groups", "openset", "reply")) if args.groups else None,
        grouper=named(grouper),
        labels=labels,
        folds=read_cells(args.folds, ("fold", "folds", "set")) if args.folds else None,
        track=args.track,
        reading=args.reading,
        chat=chat,
        cache=cache,
        kind=args.overlap,
        language=args.overlap_language,
        judge_reads=args.judge_reads,
    )
