"""Scores of the closed tracks of the MER challenges 2023 to 2026.

The definition is in hf_emotion.evaluation.classes; this is its `evaluate` module.
"""

from collections.abc import Sequence

import evaluate

from hf_emotion.evaluation import classes, module
from hf_emotion.evaluation.statistics import result

_DESCRIPTION = """Weighted F1 over six labels (MER2023 SEMI, MER2024 SEMI and NOISE, MER2025 Track1, MER2026 Track1),
weighted F1 minus a quarter of the valence MSE (MER2023 MULTI and NOISE), two-class preference (MER2026 Track3).
"""

_KWARGS = """    predictions, references: one label per clip (Track3: a1, a2 or same).
    track (str): mer2023_multi, mer2023_noise, mer2023_semi, mer2024_semi, mer2024_noise, mer2025_track1, mer2026_track1
    or
        mer2026_track3; also accepted as the configuration, evaluate.load(path, "mer2023_multi").
    predicted_valence, valence (list of float): one per clip, for mer2023_multi and mer2023_noise.
    reading (str): "class" searches a reply for a label; "emotion_llama" takes the last word, anything unknown as
    neutral. strict (bool): KeyError for anything but a label, as officially.
    bootstrap (int): draws for confidence intervals over clips, returned as `intervals` {score: (low, high)}; 0 = none.
    seed (int): of the draws.
Returns weighted_f1, accuracy, macro_f1, weighted_precision, invalid_rate, n; with valence valence_mse and combined;
Track3 weighted_f1 and accuracy of two classes and threeclass_*. A reply without a label is an error of its true class;
no clips: 0.0.
"""

_CITATION = """@inproceedings{lian2023mer, title={MER 2023: Multi-label Learning, Modality Robustness, and
Semi-Supervised Learning}, author={Lian, Zheng and others}, year={2023}}
"""


class MerChallenge(module.ClipMetric):
    """Weighted F1, combined score and preference scores."""

    def _info(self) -> evaluate.MetricInfo:
        return module.info(_DESCRIPTION, _KWARGS, _CITATION, module.TEXTS)

    def _compute(
        self,
        predictions: module.Cells,
        references: module.Cells,
        track: str | None = None,
        predicted_valence: Sequence[float | str | None] | None = None,
        valence: Sequence[float | None] | None = None,
        reading: str = "class",
        strict: bool = False,
        bootstrap: int = 0,
        seed: int = 0,
    ) -> dict:
        track = track or self.config_name
        clips = classes.challenge_clips(predictions, references, track, predicted_valence, valence, reading, strict)
        return result(clips, bootstrap, seed)
