"""`hf-emotion`: make, inspect and run the models from the command line.

One file a verb: `add_arguments(parser)` declares its arguments, `run(args)` does the work and returns the exit code.
Modules that take seconds to import (torch, transformers) are imported in `run`, so that help and wrong arguments are
answered at once.

Exit codes: 0 success; 1 some clips failed, the others succeeded; 2 the command failed; 130 interrupted (Ctrl-C);
143 terminated (SIGTERM).
"""

import argparse
import os
import signal
import sys
import threading
from importlib import import_module
from pathlib import Path

from .. import __version__
from .arguments import FAILED, INTERRUPTED, OK, TERMINATED, Parser

try:
    import shtab
except ImportError:
    shtab = None

SHELLS = ("bash", "zsh", "tcsh")

# Verb -> its line in `hf-emotion --help`. A verb's module is imported only when the verb is used.
VERBS = {
    "predict": "describe the emotions in clips",
    "quickstart": "describe a clip, fine-tune a little on a small corpus made here, compare, save and load",
    "inspect": "show what a processor sees in clips or rows, without any model",
    "init": "write a model and its processor to a folder, with random weights or from published parts",
    "convert": "convert a published checkpoint to a folder of parts for `init --parts`",
    "info": "list a model's parts, parameters and tokens per clip",
    "build": "read a dataset into rows, check it, make questions, save or publish it",
    "export": "write rows for another trainer: LLaMA-Factory or ms-swift",
    "review": "describe labelled clips, score the descriptions, have people check them (Omni-Emotion's data)",
    "cache": "compute the outputs of the frozen towers once, for training",
    "train": "train a model by the recipes of its paper",
    "evaluate": "run a model on a dataset and score its answers",
    "benchmark": "run a benchmark of the field and write its table",
    "starter": "train the model in the box from nothing, on synthetic faces and voices (hours)",
    "score": "score a file of predictions against a file of references",
    "push": "publish a model or adapter with its processor, code, card and licence",
    "space": "write or publish a Gradio Space for a published model, or for the one in the box",
}

FIRST_COMMANDS = """\
Emotions in clips and the cues for them. Start with

  hf-emotion predict clip.mp4    describe a clip with the small model in the box
  hf-emotion quickstart          describe a clip made here, train a little, compare, save and load the model

`hf-emotion --help` lists all commands, `hf-emotion COMMAND --help` the options of one."""


def parser(verb: str | None = None) -> Parser:
    """The command line.

    Args:
        verb: the only verb whose arguments are added, since the modules of the others take time to import; `None` adds
            all.
    """
    root = Parser(prog="hf-emotion", description="Make, inspect and run multimodal emotion models.")
    root.add_argument("--version", action="version", version=f"hf-emotion {__version__}", help="print the version")
    root.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=SHELLS,
        help="print a script that completes commands, options and files in this shell (default: none)",
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in VERBS.items():
        command = commands.add_parser(name, help=summary)
        if verb in (None, name):
            module = import_module(f".{name}", __package__)
            command.description = f"{summary[0].upper()}{summary[1:]}."
            module.add_arguments(command)
            command.set_defaults(func=module.run)
    return root


class PrintCompletion(argparse.Action):
    """Writes the script of a shell, as shtab generates it from the parser, and exits."""

    def __call__(self, root, namespace, shell, option_string=None):
        if shtab is None:
            root.error("--print-completion needs shtab; install it by: pip install 'hf_emotion[completion]'")
        whole = parser()
        prepare_completion(whole)
        print(shtab.complete(whole, shell))
        root.exit()


def prepare_completion(command: argparse.ArgumentParser) -> None:
    """Let shells offer files where an argument is a file or may be one: paths and positional arguments."""
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            for step in dict.fromkeys(action.choices.values()):
                prepare_completion(step)
        elif action.choices is not None:
            action.choices = list(action.choices)  # shtab takes a dict for commands
        elif action.nargs != 0 and (action.type is Path or not action.option_strings):
            action.complete = shtab.FILE  # type: ignore[attr-defined]


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM); unwinds like Ctrl-C, so that unfinished files are removed."""


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code; an error is one sentence on standard error, never a traceback.

    What a command had finished when it was interrupted stays in place, and the same command continues from there.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv:
        print(FIRST_COMMANDS)
        return OK
    if not sys.stderr.isatty():
        # Progress bars of loading and saving are for people; in a script, standard error holds what went wrong.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    previous = None
    if threading.current_thread() is threading.main_thread():
        previous = signal.signal(signal.SIGTERM, terminate)
    try:
        args = parser(argv[0]).parse_args(argv)
        return args.func(args)
    except Terminated:
        print("hf-emotion: terminated", file=sys.stderr)
        return TERMINATED
    except KeyboardInterrupt:
        print("hf-emotion: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if os.environ.get("HF_EMOTION_DEBUG"):
            raise
        print(f"hf-emotion: {sentence_of(error)}", file=sys.stderr)
        return FAILED
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def terminate(number: int, frame: object) -> None:
    raise Terminated


def sentence_of(error: Exception) -> str:
    """What went wrong; an error that no command expects is named as one, on one line."""
    if isinstance(error, (ValueError, OSError, RuntimeError, ImportError)) and str(error):
        return str(error)
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"out of memory {text}".strip()
    return f"unexpected {type(error).__name__}: {text or 'no message'} (HF_EMOTION_DEBUG=1 shows where)"
