"""`hf-emotion`: make, inspect and run the models from the command line.

One file a verb: `add_arguments(parser)` says what it takes, `run(args)` does it and returns the exit code. What takes
seconds to import (torch, transformers) is imported in `run`, so that help and wrong arguments are answered at once.

Exit codes: 0 success; 1 some clips failed, the others succeeded; 2 the command failed; 130 interrupted (Ctrl-C);
143 terminated (SIGTERM).
"""

import argparse
import os
import signal
import sys
import threading
from importlib import import_module

from .arguments import FAILED, INTERRUPTED, TERMINATED

# Verb -> its line in `hf-emotion --help`. A verb's module is imported only when the verb is used.
VERBS = {
    "quickstart": "train a tiny model on a small corpus made here; describe a clip",
    "init": "write a complete model and processor folder, with random weights",
    "convert": "a published checkpoint in, a folder of parts for `init --parts` out",
    "info": "parts, parameters, frozen or trained, tokens per clip",
    "predict": "describe the emotions in clips",
    "build": "read a dataset into rows, check it, make questions, save or publish it",
    "review": "describe labelled clips, score the descriptions, have people check them (Omni-Emotion's data)",
    "cache": "compute the frozen towers' outputs once; training then reads them",
    "train": "train a paper's phases one after the other, by its recipes",
    "evaluate": "run a model on a data set and score its answers",
    "benchmark": "run a benchmark of the field and write its table",
    "score": "score a file of predictions against a file of references",
    "push": "publish a model or adapter: weights, processor, code, card, licence, handler, in one commit",
    "space": "write, or publish, a Gradio Space that shows a published model",
}


def parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The command line.

    Args:
        verb: the only verb whose arguments are added, since the modules of the others take seconds to import; `None`
            adds all.
    """
    root = argparse.ArgumentParser(prog="hf-emotion", description=__doc__.splitlines()[0])
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in VERBS.items():
        command = commands.add_parser(name, help=summary)
        if verb in (None, name):
            module = import_module(f".{name}", __package__)
            module.add_arguments(command)
            command.set_defaults(func=module.run)
    return root


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM); unwinds like Ctrl-C, so that unfinished files are removed."""


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code; an error is one sentence on standard error, never a traceback.

    What a command had finished when it was interrupted stays in place, and the same command goes on from there.
    """
    if not sys.stderr.isatty():
        # Bars of loading and saving are for people; in a script, standard error holds what went wrong.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    argv = sys.argv[1:] if argv is None else argv
    previous = None
    if threading.current_thread() is threading.main_thread():
        previous = signal.signal(signal.SIGTERM, terminate)
    try:
        args = parser(argv[0] if argv else "").parse_args(argv)
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
    if isinstance(error, (ValueError, OSError, RuntimeError)) and str(error):
        return str(error)
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"out of memory {text}".strip()
    return f"unexpected {type(error).__name__}: {text or 'no message'} (HF_EMOTION_DEBUG=1 shows where)"
