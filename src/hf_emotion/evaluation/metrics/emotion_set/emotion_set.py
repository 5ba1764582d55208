"""Accuracy_S, Recall_S and Avg of open-vocabulary emotion labels (EMER, MER2024 MER-OV, MicroEmo, AcoustEmo, ESVA).

The definition is in hf_emotion.evaluation.sets; this is its `evaluate` module.
"""

from collections.abc import Callable, Sequence

import evaluate

from hf_emotion.evaluation import module, sets
from hf_emotion.evaluation.grouping import named
from hf_emotion.evaluation.statistics import result

_DESCRIPTION = """Words of a clip that mean the same are merged by a grouping; A = |G & P| / |P| and R = |G & P| / |G|
of the merged reference words G and predicted words P; Accuracy_S and Recall_S are their means over clips, Avg =
(Accuracy_S + Recall_S) / 2.
"""

_KWARGS = """    predictions, references: one per clip: a string in any form ("['happy', 'sad']", "happy, sad", a
sentence) or a list of labels.
    groups: one grouping per clip, a language model's stored reply ("[['happy', 'glad'], ['sad']]") or lists of lists.
    grouper: instead of groups, "exact", "lexicon", "lexicon2", or a function (sorted words of a clip) -> groups.
    strict (bool): the official MER2024 parser and its exceptions, bit for bit.
    bootstrap (int): draws for confidence intervals over clips, returned as `intervals` {score: (low, high)}; 0 = none.
    seed (int): of the draws.
Returns accuracy_s, recall_s, avg, predicted_labels, n, n_skipped, grouping. A clip without predicted labels scores 0; a
clip without reference labels but with predictions is skipped and counted (strict: ZeroDivisionError); no clips: 0.0
with n = 0. Duplicates count once; unknown words are kept; unicode and any number of labels are accepted.
"""

_CITATION = """@article{lian2023explainable, title={Explainable Multimodal Emotion Recognition}, author={Lian, Zheng and
others}, year={2023}} @article{lian2024mer, title={MER 2024: Semi-Supervised Learning, Noise Robustness, and
Open-Vocabulary Multimodal Emotion Recognition}, author={Lian, Zheng and others}, year={2024}}
"""


class EmotionSet(module.ClipMetric):
    """Accuracy_S, Recall_S, Avg with given or computed groups."""

    def _info(self) -> evaluate.MetricInfo:
        return module.info(_DESCRIPTION, _KWARGS, _CITATION, module.LABELS)

    def _compute(
        self,
        predictions: module.Cells,
        references: module.Cells,
        groups: Sequence | None = None,
        grouper: str | Callable | None = None,
        strict: bool = False,
        bootstrap: int = 0,
        seed: int = 0,
    ) -> dict:
        clips = sets.set_clips(predictions, references, groups, named(grouper), strict)
        return result(clips, bootstrap, seed)
