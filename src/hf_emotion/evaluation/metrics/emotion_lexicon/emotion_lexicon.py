"""Open-vocabulary score with the grouping of hf_emotion's own lexicon: free, offline, deterministic, and never
official.

The definition is in hf_emotion.evaluation.sets and the words in hf_emotion/evaluation/lexicon.tsv; this is their
`evaluate` module.
"""

from pathlib import Path

import evaluate

from hf_emotion.answers.lexicon import Lexicon
from hf_emotion.evaluation import module, sets
from hf_emotion.evaluation.statistics import result

_DESCRIPTION = """Labels are mapped to the groups of a lexicon with two levels, made from published emotion families
(Plutchik; Parrott after Shaver; Geneva); precision and recall over the sets of groups, F from their means. Not
comparable with any other grouping.
"""

_KWARGS = """    predictions, references: one per clip: a string in any form ("['happy', 'sad']", "happy, sad", a
sentence) or a list of labels.
    lexicon (str): a file in the format of lexicon.tsv; the shipped one by default.
    bootstrap (int): draws for confidence intervals over clips, returned as `intervals` {score: (low, high)}; 0 = none.
    seed (int): of the draws.
Returns f (mean of the two levels), level1_f, level1_precision, level1_recall, the same for level2, coverage (share of
labels the lexicon knows), predicted_labels, n, n_skipped. Unknown labels are groups of their own; a clip without
predicted labels scores
0; a clip without reference labels is skipped and counted; no clips: 0.0 with n = 0.
"""

_CITATION = """@book{plutchik1980emotion, title={Emotion: A Psychoevolutionary Synthesis}, author={Plutchik, Robert},
year={1980}} @book{parrott2001emotions, title={Emotions in Social Psychology}, author={Parrott, W. Gerrod}, year={2001}}
@article{scherer2005emotions, title={What are emotions? And how can they be measured?}, author={Scherer, Klaus R.},
year={2005}}
"""


class EmotionLexicon(module.ClipMetric):
    """Precision, recall and F over lexicon groups, two levels."""

    def _info(self) -> evaluate.MetricInfo:
        return module.info(_DESCRIPTION, _KWARGS, _CITATION, module.LABELS)

    def _compute(
        self,
        predictions: module.Cells,
        references: module.Cells,
        lexicon: str | Path | None = None,
        bootstrap: int = 0,
        seed: int = 0,
    ) -> dict:
        clips = sets.lexicon_clips(predictions, references, None if lexicon is None else Lexicon(lexicon))
        return result(clips, bootstrap, seed)
