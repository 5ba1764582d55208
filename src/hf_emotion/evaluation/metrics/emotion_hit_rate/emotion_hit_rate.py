"""Hit rate of MER-UniBench (AffectGPT): do the predicted labels contain the true emotion?

The definition is in hf_emotion.evaluation.wheel; this is its `evaluate` module.
"""

from collections.abc import Sequence
from pathlib import Path

import evaluate

from hf_emotion.evaluation import module, wheel
from hf_emotion.evaluation.statistics import result

_DESCRIPTION = """Mean over the five level-1 wheels of the mean |groups(predicted) & groups(true)|. It has no penalty
for more labels, so mscore and the mean number of predicted labels are always returned with it.
"""

_KWARGS = """    predictions: one per clip: a string in any form or a list of labels.
    references: the true label of each clip, or a list of labels.
    wheel_dir (str): the official emotion_wheel folder, not part of this package.
    version (str): "mer2025" (the one MER-UniBench uses) or "mer2026"; also accepted as the configuration.
    candidates (list of str): labels of the data set; by default those that occur in references, as officially.
    check_tables (bool): refuse tables whose fingerprint is not that of the version (default).
    strict (bool): the official parser; NaN where nothing can be scored; candidates are not lower-cased.
    bootstrap (int): draws for confidence intervals over clips, returned as `intervals` {score: (low, high)}; 0 = none.
    seed (int): of the draws.
Returns hit_rate, mscore, per_wheel, predicted_labels, n, version, official_tables, tables_sha256. Clips whose true
label has no group (neutral) are left out; an empty prediction scores 0; nothing to score: 0.0 (strict: NaN).
"""

_CITATION = """@article{lian2025affectgpt, title={AffectGPT: A New Dataset, Model, and Benchmark for Emotion
Understanding with Multimodal Large Language Models}, author={Lian, Zheng and others}, year={2025}}
"""


class EmotionHitRate(module.ClipMetric):
    """Hit rate and mscore over the five level-1 wheels."""

    def _info(self) -> evaluate.MetricInfo:
        return module.info(_DESCRIPTION, _KWARGS, _CITATION, module.LABELS)

    def _compute(
        self,
        predictions: module.Cells,
        references: module.Cells,
        wheel_dir: str | Path | None = None,
        version: str | None = None,
        candidates: Sequence[str] | None = None,
        check_tables: bool = True,
        strict: bool = False,
        bootstrap: int = 0,
        seed: int = 0,
    ) -> dict:
        version = version or (self.config_name if self.config_name != "default" else None)
        tables = wheel.tables(wheel.folder_of(wheel_dir), version, check_tables)
        clips = wheel.hit_rate_clips(predictions, references, tables, candidates, strict)
        return result(clips, bootstrap, seed)
