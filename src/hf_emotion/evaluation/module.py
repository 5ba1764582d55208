"""What the package's `evaluate` modules share: cells that are lists, strings or missing, mixed as they come, and empty
input.

`evaluate` infers the form of a column from its first row alone and fails on none; a column of replies has any of them.
"""

import json
from collections.abc import Sequence

import datasets
import evaluate

# A column of labels: lists of labels, or replies as text; None = no reply.
Cells = Sequence[Sequence[str] | str | None]

# What the columns of a metric hold: text; lists of labels or text; lists of labels or text against numbers.
_TEXT, _NUMBER = datasets.Value("string"), datasets.Value("float64")
_CELLS = (datasets.List(_TEXT), _TEXT)
TEXTS = datasets.Features({"predictions": _TEXT, "references": _TEXT})
LABELS = [datasets.Features({"predictions": one, "references": other}) for one in _CELLS for other in _CELLS]
SENTIMENT = [datasets.Features({"predictions": one, "references": _NUMBER}) for one in _CELLS]


def info(description: str, inputs: str, citation: str, features) -> evaluate.MetricInfo:
    """What a metric says of itself: what it measures, its arguments, whom to cite, and `features`, one of the above."""
    return evaluate.MetricInfo(description=description, inputs_description=inputs, citation=citation, features=features)


class ClipMetric(evaluate.Metric):
    """An `evaluate.Metric` whose columns may mix lists of labels, strings and None, and may be empty."""

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Add rows; see `evaluate.Metric.add_batch`. A column that mixes strings and lists is stored as strings (lists
        as JSON)."""
        return super().add_batch(predictions=_one_form(predictions), references=_one_form(references), **kwargs)

    def add(self, *, prediction=None, reference=None, **kwargs):
        """Add one row; see `evaluate.Metric.add`."""
        return self.add_batch(predictions=[prediction], references=[reference], **kwargs)

    def _infer_feature_from_batch(self, batch):
        if not isinstance(self.features, list):
            return self.features
        example = {key: next((value for value in column if value is not None), None) for key, column in batch.items()}
        for features in self.features:
            if all(
                value is None or (type(features[key]).__name__ == "List") == isinstance(value, list)
                for key, value in example.items()
            ):
                return features
        return self.features[-1]


def _one_form(column):
    if column is None:
        return None
    column = [
        list(cell) if isinstance(cell, tuple) or (hasattr(cell, "tolist") and getattr(cell, "ndim", 0)) else cell
        for cell in column
    ]
    if any(isinstance(cell, list) for cell in column) and any(isinstance(cell, str) for cell in column):
        return [json.dumps(cell, ensure_ascii=False) if isinstance(cell, list) else cell for cell in column]
    return column
