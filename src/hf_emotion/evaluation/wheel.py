"""Emotion-wheel metrics of MER2025, MER2026, AffectGPT and MER-UniBench, on the user's own copy of the official word
tables.

A word is brought to its base forms, these to words of five emotion wheels, and these to a group of each wheel; clips
are then compared as sets of groups, once per wheel, and the five results averaged. There are two official, different
versions: MER2026 removed 30 forms and re-mapped 34 of the MER2025 tables (in which the noun "fear" falls into a
    positive group of four wheels, because it is listed as a
form of "fearless"), and it answers 0 where MER2025 answers NaN. `version` is therefore always asked for and always
reported.

The tables are third-party material and not part of this package. `WheelTables(folder, version)` reads the official
folder (`wheel1..5.xlsx`, `synonym.xlsx`, `format.csv`) and checks what it read against the fingerprints of
`wheel_fingerprints.json`.
"""

import csv
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..data.files import read_xlsx
from .sets import CELLS, check_lengths, f_score, labels_of, overlap, parse_mer2025
from .statistics import Clips, mean, size

VERSIONS = ("mer2025", "mer2026")
WHEELS = tuple(f"wheel{k}" for k in range(1, 6))
LEVELS = ("level1", "level2")
FIVE_BASIC_LABELS = ("angry", "happy", "sad", "worried", "surprised")
_SYNONYM_RUNS = 8


class WheelError(ValueError):
    """The wheel folder is missing, incomplete, or not the official one of the version asked for."""


class WheelTables:
    """The official word tables of one version: label -> group, for every case of the metric.

    Args:
        folder: the official `emotion_wheel` folder of the user.
        version: "mer2025" or "mer2026".
        check: compare the tables with the fingerprints of that version (default). False accepts changed tables and says
            so in
            `official`.

    Raises:
        WheelError: no such folder or file, an unknown version, or tables that are not those of `version` (the message
            says which official version they are, if any).

    Attributes:
        cases: "case1" (base form), "case2" (wheel word), "case3_wheelK_levelJ" (group of wheel K) -> {label: group}. A
            label that is in no table, or that no table leads to a group of that wheel, is absent: the metric drops it.
        official: True when all tables have the fingerprints of `version`.
        fingerprint: sha256 over the fingerprints of all tables, for reports.
    """

    def __init__(self, folder: str | Path, version: str, check: bool = True):
        if version not in VERSIONS:
            raise WheelError(
                f"version is {version!r}; the two official versions differ, choose one of {', '.join(VERSIONS)}"
            )
        self.folder, self.version = Path(folder), version
        missing = [
            name
            for name in ("format.csv", "synonym.xlsx", *(f"{wheel}.xlsx" for wheel in WHEELS))
            if not (self.folder / name).is_file()
        ]
        if missing:
            raise WheelError(
                f"{self.folder} holds no {', '.join(missing)}; wheel_dir is the official emotion_wheel folder of "
                f"MER2025_Track23 or "
                "MER2026_Track2 (github.com/zeroQiaoba/MERTools), which this package does not ship"
            )
        forms = _read_forms(self.folder / "format.csv")
        wheels = {wheel: _read_wheel(self.folder / f"{wheel}.xlsx") for wheel in WHEELS}
        synonyms = _read_synonyms(self.folder / "synonym.xlsx")
        maps = {f"{wheel}_{level}": _group_map(tree, level) for wheel, tree in wheels.items() for level in LEVELS}
        tables = {
            "forms": {form: sorted(bases) for form, bases in forms.items()},
            "synonyms": {base: sorted(words) for base, words in synonyms.items()},
            **maps,
        }
        digests = {name: _sha256(table) for name, table in tables.items()}
        self.fingerprint = _sha256(digests)
        self.official = digests == fingerprints()[version]
        if check and not self.official:
            other = next((name for name in VERSIONS if digests == fingerprints()[name]), None)
            wrong = [name for name, value in fingerprints()[version].items() if digests.get(name) != value]
            raise WheelError(
                f"the tables in {self.folder} are not the official ones of {version}: "
                + (f"they are those of {other}" if other else f"{', '.join(wrong)} differ")
                + "; check=False (check_tables=False) scores with them anyway"
            )
        unknown = sorted({base for bases in forms.values() for base in bases} - set(synonyms))
        if unknown:
            raise WheelError(f"format.csv has base words that synonym.xlsx does not know: {', '.join(unknown[:5])}")
        self._groups_of: dict = {}
        self.cases: dict[str, dict[str, str]] = {"case1": {}, "case2": {}}
        for form, bases in forms.items():
            base = min(bases)
            self.cases["case1"][form] = base
            self.cases["case2"][form] = min(synonyms[base])
        for name, groups in maps.items():
            self.cases[f"case3_{name}"] = case = {}
            for form, bases in forms.items():
                words = sorted({word for base in bases for word in synonyms[base]})
                group = next((groups[word] for word in words if word in groups), None)
                if group is not None:
                    case[form] = group

    @property
    def info(self) -> dict:
        """What a report must say about the tables."""
        return {"version": self.version, "official_tables": self.official, "tables_sha256": self.fingerprint}

    def groups_of(self, cell, rule: str | None) -> tuple[int, list[frozenset[str]]]:
        """Number of labels of a cell, and their groups in each of `cases`; text is read once.

        Args:
            cell: see `sets.labels_of`. rule: its `strict`.
        """
        if not isinstance(cell, str):
            return self._grouped(cell, rule)
        if (cell, rule) not in self._groups_of:
            if len(self._groups_of) >= CELLS:
                self._groups_of.clear()
            self._groups_of[cell, rule] = self._grouped(cell, rule)
        return self._groups_of[cell, rule]

    def _grouped(self, cell, rule: str | None) -> tuple[int, list[frozenset[str]]]:
        words = labels_of(cell, rule)
        return len(words), [frozenset(case[w] for w in words if w in case) for case in self.cases.values()]

    def grouper(self, case: str):
        """The tables as a grouper for `sets.set_clips`: words of one group of `case` are merged, unmapped words stay
        alone."""
        mapping = self.cases[case]

        def group(words: Sequence[str]) -> list[list[str]]:
            groups: dict[str, list[str]] = {}
            for word in words:
                groups.setdefault(mapping.get(word, f"\0{word}"), []).append(word)
            return list(groups.values())

        group.name = f"{self.version} {case}"
        return group


def folder_of(wheel_dir: str | Path | None) -> str | Path:
    """`wheel_dir`, or the folder named by the environment variable HF_EMOTION_WHEEL_DIR. Raises WheelError where there
    is neither."""
    folder = wheel_dir or os.environ.get("HF_EMOTION_WHEEL_DIR")
    if not folder:
        raise WheelError(
            "this score needs the official word tables, which are not part of the package: give wheel_dir (or set "
            "HF_EMOTION_WHEEL_DIR), the emotion_wheel folder of MER2025_Track23 or MER2026_Track2 "
            "(github.com/zeroQiaoba/MERTools)"
        )
    return folder


@lru_cache(maxsize=4)
def tables(folder: str | Path, version: str, check: bool = True) -> WheelTables:
    """`WheelTables`, read once per process (reading takes about 0.1 s, the official code reads them at every call)."""
    return WheelTables(folder, version, check)


@lru_cache(maxsize=1)
def fingerprints() -> dict[str, dict[str, str]]:
    """version -> table -> sha256 of the official tables."""
    return json.loads(Path(__file__).with_name("wheel_fingerprints.json").read_text(encoding="utf-8"))


def wheel_clips(predictions: Sequence, references: Sequence, tables: WheelTables, strict: bool = False) -> Clips:
    """Emotion-wheel precision, recall and F of open-vocabulary labels.

    Per clip and wheel: precision = |G & P| / |P|, recall = |G & P| / |G| over the groups of reference and predicted
    labels; 0 and 0 where no predicted label has a group; the clip is left out of that wheel where no reference label
    has one (so `n` differs from wheel to wheel, and "neutral" is in no wheel). Per wheel F is made from the mean
    precision and recall; the result of a level is the mean over its five wheels.

    Args:
        predictions, references: one cell per clip (a string in any form, a list of labels, None).
        tables: the official tables.
        strict: read cells with the official parser, and answer what the official code of the version answers where
            nothing can be
            scored: NaN in MER2025, 0 in MER2026. Raises IndexError for the cell `[`. By default cells are read by
                `emotion_words`
            and nothing to score gives 0.0 with n = 0.

    Returns:
        Clips with scores `level1_f`, `level1_precision`, `level1_recall` (the ranking score of MER2026 Track2 and
        MER-UniBench OV-MERD+ is `level1_f`), the same for level2, `f` = mean of the two F (MER2025 Track2), `m_avg`
        (mean F of all 12 cases, as OV-MER), `per_case` {case: {f, precision, recall, n}}, `predicted_labels`, `n`.
    """
    check_lengths(predictions=predictions, references=references)
    names = list(tables.cases)
    rule = "mer2025" if strict else None
    missing, rows = (math.nan, math.nan), []
    for prediction, reference in zip(predictions, references, strict=True):
        number, predicted = tables.groups_of(prediction, rule)
        _, labels = tables.groups_of(reference, rule)
        row = [value for G, P in zip(labels, predicted, strict=True) for value in (overlap(G, P) if G else missing)]
        rows.append([*row, number])
    columns = np.array(rows, float).reshape(-1, 2 * len(names) + 1)
    nan = strict and tables.version == "mer2025"

    def score(rows: np.ndarray, counts: np.ndarray | None) -> dict:
        per_case = {}
        for j, name in enumerate(names):
            precision, recall = mean(rows[:, 2 * j], counts, nan), mean(rows[:, 2 * j + 1], counts, nan)
            per_case[name] = {
                "f": f_score(precision, recall, nan),
                "precision": precision,
                "recall": recall,
                "n": size(~np.isnan(rows[:, 2 * j]), counts),
            }
        result = {}
        for level in LEVELS:
            for key in ("f", "precision", "recall"):
                result[f"{level}_{key}"] = float(np.mean([per_case[f"case3_{wheel}_{level}"][key] for wheel in WHEELS]))
        return {
            "f": (result["level1_f"] + result["level2_f"]) / 2,
            **result,
            "m_avg": float(np.mean([case["f"] for case in per_case.values()])),
            "predicted_labels": mean(rows[:, -1], counts),
            "n": size(rows, counts),
            "per_case": per_case,
        }

    return Clips(columns, score, {**tables.info, "strict": strict})


def hit_rate_clips(
    predictions: Sequence,
    references: Sequence,
    tables: WheelTables,
    candidates: Sequence[str] | None = None,
    strict: bool = False,
) -> Clips:
    """Hit rate of MER-UniBench: do the predicted labels contain the one true emotion?

    Per clip and level-1 wheel: hit = |groups(predicted) & groups(true)|, a count that two true labels can bring to 2;
    clips whose true label has no group (neutral; disgust in wheels 3 and 5, surprise in wheel 5) are left out. It
    punishes nothing: the constant answer "angry, happy, sad, worried, surprised" scores above 0.95 on the official test
    sets. So `mscore` is returned with it always, the hits divided by the number of groups of the data set's own labels
    that the prediction names, and the mean number of labels.

    Args:
        predictions: one cell per clip, as in `wheel_clips`.
        references: the true label of each clip (or a list of labels).
        tables: the official tables. MER-UniBench uses version "mer2025"; with "mer2026" the score is not an official
            one.
        candidates: the labels of the data set; by default all labels that occur in `references`, as officially.
        strict: official parsing and NaN where nothing can be scored. Also as officially, the candidate labels are
            then the reference cells as they are, so that "Happy" and "happy, sad" are in no table and give an mscore of
            0. By default they are read, and nothing to score gives 0.0.

    Returns:
        Clips with scores `hit_rate`, `mscore`, `per_wheel` {wheel: {hit_rate, mscore, n}}, `predicted_labels`, `n`.
    """
    check_lengths(predictions=predictions, references=references)
    rule = "mer2025" if strict else None
    cases = [tables.cases[f"case3_{wheel}_level1"] for wheel in WHEELS]
    places = [list(tables.cases).index(f"case3_{wheel}_level1") for wheel in WHEELS]
    if candidates is None:
        # The official candidates are the reference cells as they are: "happy, sad" is one label, and in no table.
        raw = ([cell] if strict and isinstance(cell, str) else labels_of(cell, rule) for cell in references)
        candidates = sorted({label for labels in raw for label in labels})
    elif not strict:
        candidates = [label.lower().strip() for label in candidates]
    known = [{case[label] for label in candidates if label in case} for case in cases]
    columns = np.full((len(predictions), 2 * len(cases) + 1), np.nan)
    for i, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        columns[i, -1], predicted = tables.groups_of(prediction, rule)
        _, labels = tables.groups_of(reference, rule)
        for j, place in enumerate(places):
            G, P = labels[place], predicted[place]
            if not G:
                continue
            hits, named = len(G & P), len(P & known[j])
            columns[i, 2 * j : 2 * j + 2] = hits, hits / named if named else 0.0

    def score(rows: np.ndarray, counts: np.ndarray | None) -> dict:
        per_wheel = {
            wheel: {
                "hit_rate": mean(rows[:, 2 * j], counts, strict),
                "mscore": mean(rows[:, 2 * j + 1], counts, strict),
                "n": size(~np.isnan(rows[:, 2 * j]), counts),
            }
            for j, wheel in enumerate(WHEELS)
        }
        return {
            "hit_rate": float(np.mean([wheel["hit_rate"] for wheel in per_wheel.values()])),
            "mscore": float(np.mean([wheel["mscore"] for wheel in per_wheel.values()])),
            "predicted_labels": mean(rows[:, -1], counts),
            "n": size(rows, counts),
            "per_wheel": per_wheel,
        }

    return Clips(columns, score, {**tables.info, "strict": strict})


def hit_or_not(prediction, reference, tables: WheelTables) -> bool:
    """The low-level filter of MER-Caption+ (AffectGPT): does any of the five level-1 wheels have a common group?

    An empty list counts as ["neutral"], and "neutral", which is in no wheel, agrees with "neutral".
    """
    predicted, labels = (
        [word.lower().strip() for word in parse_mer2025(cell)] or ["neutral"] for cell in (prediction, reference)
    )
    for wheel in WHEELS:
        case = {**tables.cases[f"case3_{wheel}_level1"], "neutral": "neutral"}
        if {case[word] for word in predicted if word in case} & {case[word] for word in labels if word in case}:
            return True
    return False


def by_name(
    predictions: Mapping, references: Mapping, names: Sequence[str] | None = None, strict: bool = False
) -> tuple[list, list, int]:
    """Two mappings clip name -> cell as two lists in the order of the references.

    A reference without a prediction counts as an empty prediction (strict: KeyError, as in the official code); extra
    predictions are ignored.

    Returns:
        predictions, references, number of clips without a prediction.
    """
    names = list(references if names is None else names)
    missing = [name for name in names if name not in predictions]
    if missing and strict:
        raise KeyError(missing[0])
    return [predictions.get(name) for name in names], [references[name] for name in names], len(missing)


def _sha256(table) -> str:
    text = json.dumps(table, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _read_forms(path: Path) -> dict[str, set[str]]:
    """Surface form -> base words that list it (a base word is a form of itself)."""
    forms: dict[str, set[str]] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            for form in (*parse_mer2025(row["format"]), row["name"]):
                forms.setdefault(form, set()).add(row["name"])
    return forms


def _read_synonyms(path: Path) -> dict[str, set[str]]:
    """Base word -> wheel words it is, or is a synonym of in any of the eight runs."""
    synonyms: dict[str, set[str]] = {}
    for row in _rows(path):
        for run in range(1, _SYNONYM_RUNS + 1):
            raw = row[f"word_run{run}"].strip().lower()
            for word in (raw, *parse_mer2025(row[f"synonym_run{run}"])):
                synonyms.setdefault(word.strip().lower(), set()).add(raw)
    return synonyms


def _read_wheel(path: Path) -> dict[str, dict[str, list[str]]]:
    """Level 1 -> level 2 -> level 3 words, in the order of the sheet; a blank cell continues the one above."""
    tree: dict[str, dict[str, list[str]]] = {}
    current = ["", "", ""]
    for row in _rows(path):
        for depth in range(3):
            current[depth] = (row[f"level{depth + 1}"] or current[depth]).lower().strip()
        tree.setdefault(current[0], {}).setdefault(current[1], []).append(current[2])
    return tree


def _group_map(tree: dict[str, dict[str, list[str]]], level: str) -> dict[str, str]:
    """Wheel word -> group. Words occur twice in wheel 2, and the last place wins, so the order of writing is part of
    the metric."""
    groups: dict[str, str] = {}
    for first, seconds in tree.items():
        groups[first] = first if level == "level1" else min(seconds)
        for second, thirds in seconds.items():
            groups[second] = first if level == "level1" else second
            for third in thirds:
                groups[third] = groups[second]
    return groups


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """Rows of the first sheet of an xlsx file as header -> text ("" = empty cell)."""
    header = None
    for _, cells in read_xlsx(path):
        if header is None:
            header = cells
        else:
            yield dict(zip(header, cells + [""] * (len(header) - len(cells)), strict=False))
