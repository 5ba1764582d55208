"""Emotion-wheel score of MER2025 and MER2026 (also AffectGPT, OV-MER), on the user's copy of the official tables.

The definition is in hf_emotion.evaluation.wheel; this is its `evaluate` module.
"""

from pathlib import Path

import evaluate

from hf_emotion.evaluation import module, wheel
from hf_emotion.evaluation.statistics import result

_DESCRIPTION = """Labels are mapped to groups of five emotion wheels; precision = |G & P| / |P| and recall = |G & P| /
|G| are averaged over clips, F is made from the averages, and the five wheels are averaged. The two official versions
differ: `version` is required.
"""

_KWARGS = """    predictions, references: one per clip: a string in any form ("['happy', 'sad']", "happy, sad", a
sentence) or a list of labels.
    wheel_dir (str): the official emotion_wheel folder (format.csv, synonym.xlsx, wheel1..5.xlsx), not part of this
    package. version (str): "mer2025" or "mer2026"; also accepted as the configuration, evaluate.load(path, "mer2026").
    check_tables (bool): refuse tables whose fingerprint is not that of the version (default).
    strict (bool): the official parser; NaN where the MER2025 code answers NaN.
    bootstrap (int): draws for confidence intervals over clips, returned as `intervals` {score: (low, high)}; 0 = none.
    seed (int): of the draws.
Returns f, level1_f, level1_precision, level1_recall, the same for level2, m_avg, per_case, predicted_labels, n,
version, official_tables, tables_sha256. Labels without a group (neutral always) are dropped; a clip without predicted
groups scores 0; a clip without reference groups is left out of that wheel; nothing to score: 0.0 with n = 0 (strict and
mer2025: NaN).
"""

_CITATION = """@article{lian2025mer, title={MER 2025: When Affective Computing Meets Large Language Models},
author={Lian, Zheng and others}, year={2025}}
@article{lian2025affectgpt, title={AffectGPT: A New Dataset, Model, and Benchmark for Emotion Understanding with
Multimodal Large Language Models}, author={Lian, Zheng and others}, year={2025}}
"""


class EmotionWheel(module.ClipMetric):
    """Emotion-wheel precision, recall and F at both levels."""

    def _info(self) -> evaluate.MetricInfo:
        return module.info(_DESCRIPTION, _KWARGS, _CITATION, module.LABELS)

    def _compute(
        self,
        predictions: module.Cells,
        references: module.Cells,
        wheel_dir: str | Path | None = None,
        version: str | None = None,
        check_tables: bool = True,
        strict: bool = False,
        bootstrap: int = 0,
        seed: int = 0,
    ) -> dict:
        version = version or (self.config_name if self.config_name != "default" else None)
        tables = wheel.tables(wheel.folder_of(wheel_dir), version, check_tables)
        return result(wheel.wheel_clips(predictions, references, tables, strict), bootstrap, seed)
