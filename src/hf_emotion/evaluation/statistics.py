"""From clips to a score with its uncertainty: per-clip columns, bootstrap over clips, paired comparison of two systems.

Every metric of the package first becomes a table of numbers with one row per clip, and a function that turns such a
table, with a count for each row, into scores. Intervals and comparisons then need no metric of their own: they apply
the same function to other counts. Rows that are equal are merged first, because a draw of 100,000 clips differs from
another only in how often it has each kind of row. The papers of the field give no intervals; on 332 clips they are wide
enough to matter.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Clips:
    """What a metric knows about each clip.

    Attributes:
        columns: (N, C) float64, one row per clip; NaN where a value does not exist for a clip.
        score: (M, C) rows and (M,) how often each counts, or None for once each -> dict of scores. M may be 0.
        info: facts that do not depend on the selection (versions, counts, settings); merged into the result.
    """

    columns: np.ndarray
    score: Callable[[np.ndarray, np.ndarray | None], dict]
    info: dict = field(default_factory=dict)

    def scores(self) -> dict:
        """Scores over all clips, with `info`."""
        return {**self.score(self.columns, None), **self.info}


def mean(values: np.ndarray, counts: np.ndarray | None = None, strict: bool = False) -> float:
    """Mean of the values that exist, each as often as `counts` says (None = once). Of none: 0.0, or NaN where `strict`
    keeps what the official code answers."""
    present = ~np.isnan(values)
    if counts is None:
        return float(np.mean(values[present])) if present.any() else float("nan") if strict else 0.0
    total = counts[present].sum()
    if total == 0:
        return float("nan") if strict else 0.0
    return float(values[present] @ counts[present] / total)


def size(rows: np.ndarray, counts: np.ndarray | None = None) -> int:
    """How many clips a selection is: of a table its rows, of a mask (M,) bool its true entries."""
    if rows.dtype == bool:
        return int(rows.sum() if counts is None else counts[rows].sum())
    return len(rows) if counts is None else int(counts.sum())


def bootstrap(clips: Clips, samples: int = 1000, level: float = 0.95, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Percentile intervals of every number in a score, by drawing clips with replacement.

    Args:
        clips: the clips of one system.
        samples: number of draws.
        level: width of the interval, in (0, 1).
        seed: of the draws; the same seed gives the same interval.

    Returns:
        score name -> (low, high). Counts and values that are not numbers have no interval. Empty without clips.

    Raises:
        ValueError: `samples` below 1 or `level` outside (0, 1).
    """
    if samples < 1 or not 0 < level < 1:
        raise ValueError(f"bootstrap needs samples >= 1 and 0 < level < 1, found samples={samples}, level={level}")
    drawn = _draws([clips], samples, seed)
    tail = (1 - level) / 2
    return {key: tuple(np.nanquantile(values[0], [tail, 1 - tail]).tolist()) for key, values in drawn.items()}


def compare(first: Clips, second: Clips, samples: int = 1000, level: float = 0.95, seed: int = 0) -> dict[str, dict]:
    """Paired comparison of two systems on the same clips: both are scored on the same draws.

    Returns:
        score name -> {"difference": first - second on all clips, "low", "high": interval of the difference, "p":
        two-sided bootstrap p-value, 2 * the smaller share of draws on one side of zero, at least 1 / samples}.

    Raises:
        ValueError: the two systems were not scored on the same number of clips.
    """
    if len(first.columns) != len(second.columns):
        raise ValueError(
            f"a paired comparison needs the same clips on both sides, found {len(first.columns)} and "
            f"{len(second.columns)}"
        )
    whole = [clips.score(clips.columns, None) for clips in (first, second)]
    tail = (1 - level) / 2
    result = {}
    for key, values in _draws([first, second], samples, seed).items():
        difference = values[0] - values[1]
        difference = difference[~np.isnan(difference)]
        if len(difference) == 0:
            continue
        low, high = np.quantile(difference, [tail, 1 - tail]).tolist()
        one_side = min(np.mean(difference <= 0), np.mean(difference >= 0))
        result[key] = {
            "difference": whole[0][key] - whole[1][key],
            "low": low,
            "high": high,
            "p": float(min(1.0, max(2 * one_side, 1 / samples))),
        }
    return result


def _draws(systems: list[Clips], samples: int, seed: int) -> dict[str, np.ndarray]:
    """Score name -> (systems, samples) values over the draws."""
    number = len(systems[0].columns)
    if number == 0:
        return {}
    keys = [key for key, value in systems[0].score(systems[0].columns, None).items() if isinstance(value, float)]
    tables, kind = _merged([clips.columns for clips in systems])
    rng = np.random.default_rng(seed)
    values = {key: np.empty((len(systems), samples)) for key in keys}
    for draw in range(samples):
        counts = np.bincount(kind.take(rng.integers(0, number, number), mode="clip"), minlength=len(tables[0])).astype(
            float
        )
        for system, clips in enumerate(systems):
            scores = clips.score(tables[system], counts)
            for key in keys:
                values[key][system, draw] = scores[key]
    return values


def _merged(columns: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Tables of the same clips with each different row once, and for each clip (N,) the row it became."""
    joined = np.ascontiguousarray(np.hstack(columns))
    raw = joined.view(np.dtype((np.void, joined.dtype.itemsize * joined.shape[1]))).ravel()
    _, first, kind = np.unique(raw, return_index=True, return_inverse=True)
    return [table[first] for table in columns], kind


def result(clips: Clips, bootstrap_samples: int = 0, seed: int = 0) -> dict:
    """Scores of `clips`, with `intervals` when draws are asked for: what every `evaluate` module of the package
    returns."""
    scores = clips.scores()
    if bootstrap_samples:
        scores["intervals"] = bootstrap(clips, bootstrap_samples, seed=seed)
    return scores
