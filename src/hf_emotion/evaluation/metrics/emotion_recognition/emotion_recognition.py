"""UAR, WAR, weighted and macro F1 of closed-set emotion recognition (DFEW, MAFW), with folds.

The definition is in hf_emotion.evaluation.classes; this is its `evaluate` module.
"""

from collections.abc import Sequence

import evaluate

from hf_emotion.evaluation import classes, module
from hf_emotion.evaluation.statistics import result

_DESCRIPTION = """UAR is the mean over classes of the share recognised, WAR the share recognised of all clips. A reply
is searched for one of the labels; a reply that names none is an error of its true class and counts in invalid_rate.
"""

_KWARGS = """    predictions: one reply or class per clip.
    references: the true class of each clip.
    labels (list of str): the closed set; None = the classes that occur, compared as they are.
    folds (list): the fold of each clip; scores are then plain means over folds.
    strict (bool): predictions compared as they are; UAR is NaN where a predicted class never occurs in the truth.
    bootstrap (int): draws for confidence intervals over clips, returned as `intervals` {score: (low, high)}; 0 = none.
    seed (int): of the draws.
Returns uar, war, weighted_f1, macro_f1, weighted_precision, invalid_rate, confusion (rows truth; last column invalid),
classes, n and, with folds, per_fold. An empty prediction is invalid; no clips: 0.0.
"""

_CITATION = """@inproceedings{jiang2020dfew, title={DFEW: A Large-Scale Database for Recognizing Dynamic Facial
Expressions in the Wild}, author={Jiang, Xingxun and others}, year={2020}}
@inproceedings{liu2022mafw, title={MAFW: A Large-scale, Multi-modal, Compound Affective Database for Dynamic Facial
Expression Recognition in the Wild}, author={Liu, Yuanyuan and others}, year={2022}}
"""


class EmotionRecognition(module.ClipMetric):
    """UAR, WAR, F1, confusion, invalid rate; five-fold means."""

    def _info(self) -> evaluate.MetricInfo:
        return module.info(_DESCRIPTION, _KWARGS, _CITATION, module.TEXTS)

    def _compute(
        self,
        predictions: module.Cells,
        references: module.Cells,
        labels: Sequence[str] | None = None,
        folds: Sequence | None = None,
        strict: bool = False,
        bootstrap: int = 0,
        seed: int = 0,
    ) -> dict:
        clips = classes.recognition_clips(predictions, references, labels, folds, strict)
        return result(clips, bootstrap, seed)
