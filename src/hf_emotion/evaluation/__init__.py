"""Scoring: text to emotion words, the field's metrics as `evaluate` modules, groupings, judges, evaluation of a model
on a dataset.

`load("emotion_wheel")` gives a metric; `evaluate.load(path("emotion_wheel"))` is the same.
"""

from pathlib import Path

from ..answers.words import emotion_words

METRICS_FOLDER = Path(__file__).with_name("metrics")

__all__ = ["emotion_words", "load", "metrics", "path"]


def metrics() -> list[str]:
    """Names of the shipped metrics."""
    return sorted(folder.name for folder in METRICS_FOLDER.iterdir() if (folder / f"{folder.name}.py").is_file())


def path(name: str) -> str:
    """Folder of a shipped metric, for `evaluate.load`.

    Raises:
        ValueError: no such metric.
    """
    if name not in metrics():
        raise ValueError(f"metric {name!r} is not one of {', '.join(metrics())}")
    return str(METRICS_FOLDER / name)


def load(name: str, config_name: str | None = None, **kwargs):
    """A shipped metric as an `evaluate.Metric`, offline.

    Args:
        name: one of `metrics()`.
        config_name: version or track, where the metric has one ("mer2026", "mer2023_multi").
        kwargs: passed to `evaluate.load`.

    Raises:
        ValueError: no such metric.
    """
    import evaluate

    return evaluate.load(path(name), config_name, **kwargs)
