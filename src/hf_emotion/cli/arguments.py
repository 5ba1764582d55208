"""What several commands share: exit codes, argument types."""

import argparse

OK, SOME_FAILED, FAILED = 0, 1, 2
INTERRUPTED, TERMINATED = 130, 143  # as shells report Ctrl-C and SIGTERM


def positive_int(text: str) -> int:
    """A positive integer from the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def count_parameters(*modules) -> int:
    """Number of parameters of `modules`; a shared parameter is counted once."""
    return sum(parameter.numel() for parameter in {id(p): p for m in modules for p in m.parameters()}.values())
