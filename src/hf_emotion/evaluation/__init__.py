"""Scoring: text to emotion words, the field's metrics as `evaluate` modules, grouping.

`emotion_words` parses text; `load` gives a metric by name.
"""

from .words import emotion_words

__all__ = ["emotion_words"]
