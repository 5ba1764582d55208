"""Sentiment of CMU-MOSI, CMU-MOSEI, SIMS and SIMSv2 as MER-UniBench scores it.

The definition is in hf_emotion.evaluation.classes; this is its `evaluate` module.
"""

import evaluate

from hf_emotion.evaluation import classes, module
from hf_emotion.evaluation.statistics import result

_DESCRIPTION = """Clips with reference 0 are dropped; weighted F1 and accuracy of reference > 0 against prediction > 0,
so a predicted neutral counts as not positive.
"""

_KWARGS = """    predictions: "positive", "negative" or "neutral" per clip, or (not strict) emotion words or a sentence.
    references: the sentiment value of each clip.
    strict (bool): anything but exactly "positive" or "negative" counts as neutral.
    bootstrap (int): draws for confidence intervals over clips, returned as `intervals` {score: (low, high)}; 0 = none.
    seed (int): of the draws.
Returns weighted_f1, accuracy, n, n_skipped. Empty predictions are neutral; nothing to score: 0.0 with n = 0.
"""

_CITATION = """@article{lian2025affectgpt, title={AffectGPT: A New Dataset, Model, and Benchmark for Emotion
Understanding with Multimodal Large Language Models}, author={Lian, Zheng and others}, year={2025}}
"""


class EmotionSentiment(module.ClipMetric):
    """Two-class sentiment."""

    def _info(self) -> evaluate.MetricInfo:
        return module.info(_DESCRIPTION, _KWARGS, _CITATION, module.SENTIMENT)

    def _compute(
        self,
        predictions: module.Cells,
        references: module.Cells,
        strict: bool = False,
        bootstrap: int = 0,
        seed: int = 0,
    ) -> dict:
        return result(classes.sentiment_clips(predictions, references, strict), bootstrap, seed)
