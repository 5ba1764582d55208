"""Clue overlap and label overlap of descriptions by a judge the user names (EMER protocol).

The definition is in hf_emotion.evaluation.judge; this is its `evaluate` module.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import evaluate

from hf_emotion.evaluation import judge, module
from hf_emotion.evaluation.statistics import result

_DESCRIPTION = """A language model scores how far a predicted description overlaps with the true one (clue overlap), and
how far the emotion words it finds in both do (label overlap), from 1 to 10. Depends on the judge, which is part of the
result.
"""

_KWARGS = """    predictions, references: one description per clip.
    chat: the judge, a function prompt -> reply (hf_emotion.evaluation.judge has ServerChat and TransformersChat); None
        = only stored replies. Nothing is contacted unless named here.
    cache (str): JSON file of stored replies; with it a score repeats to the last digit.
    kind (str): "clue", "label" or "both".
    language (str): "zh", the official prompts, or "en", our translation.
    tries (int): questions per score while the reply cannot be read.
    strict (bool): official parsing; an unreadable reply raises AttributeError or ValueError.
    bootstrap (int): draws for confidence intervals over clips, returned as `intervals` {score: (low, high)}; 0 = none.
    seed (int): of the draws.
Returns clue_overlap, label_overlap (means over clips with a readable reply), n_clue, failed_clue, n_label,
failed_label, judge, protocol. Empty descriptions are judged like any other; no clips: 0.0.
"""

_CITATION = """@article{lian2023explainable, title={Explainable Multimodal Emotion Recognition}, author={Lian, Zheng and
others}, year={2023}}
"""


class EmotionOverlap(module.ClipMetric):
    """Clue overlap and label overlap by a judge."""

    def _info(self) -> evaluate.MetricInfo:
        return module.info(_DESCRIPTION, _KWARGS, _CITATION, module.TEXTS)

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        chat: Callable[[str], str] | None = None,
        cache: str | Path | None = None,
        kind: Literal["clue", "label", "both"] = "both",
        language: str = "zh",
        tries: int = 3,
        strict: bool = False,
        bootstrap: int = 0,
        seed: int = 0,
    ) -> dict:
        clips = judge.overlap_clips(
            predictions,
            references,
            chat,
            judge.JudgeCache(cache),
            kind=kind,
            language=language,
            tries=tries,
            strict=strict,
        )
        return result(clips, bootstrap, seed)
