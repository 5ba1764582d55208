"""Scores of synthetic prediction files equal those of each benchmark's public scoring code, to 1e-12.

Each file in `golden/` names the code that made it and holds at least 200 cases, hostile replies among them: truths,
replies, and what the original code returned (`NaN` and exceptions by name).
"""

import csv
import json
import math
from pathlib import Path

import pytest
from openpyxl import Workbook

from hf_emotion.answers.choices import read_preference
from hf_emotion.evaluation import classes, official, wheel

GOLDEN = Path(__file__).parent / "golden"
LEVELS = ("level1", "level2")


def cases(name: str, kind: str | None = None) -> list[dict]:
    content = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    assert len(content["cases"]) >= 200
    return [case for case in content["cases"] if kind is None or case["kind"] == kind]


@pytest.fixture(scope="module")
def word_tables(tmp_path_factory) -> Path:
    """The small word tables of the golden cases, as an emotion_wheel folder."""
    folder = tmp_path_factory.mktemp("emotion_wheel")
    tables = json.loads((GOLDEN / "mer_unibench.json").read_text(encoding="utf-8"))["tables"]
    with (folder / "format.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("name", "format"), *tables["forms"].items()])
    header = [f"{kind}_run{k}" for k in range(1, 9) for kind in ("word", "synonym")]
    synonyms = [[word, str(found)] * 8 for word, found in tables["synonyms"].items()]
    sheets = {"synonym": [header, *synonyms]}
    sheets |= {name: [["level1", "level2", "level3"], *rows] for name, rows in tables["wheels"].items()}
    for name, rows in sheets.items():
        book = Workbook()
        for row in rows:
            book.active.append([cell or None for cell in row])
        book.save(folder / f"{name}.xlsx")
    return folder


def agree(found, expected) -> bool:
    if expected == "NaN":
        return math.isnan(found)
    return abs(found - expected) <= 1e-12


def check(case, scores, expected):
    for key, value in expected.items():
        assert agree(scores[key], value), (case, key, scores[key])


def test_recognition_equals_r1_omni():
    for case in cases("r1_omni"):
        scores = official.r1_omni_clips(case["replies"], case["truth"]).scores()
        check(case, scores, {"uar": case["uar"] / 100, "war": case["war"] / 100})
        assert agree(scores["war"], case["acc"])


def test_judged_answers_equal_mme_emotion():
    for case in cases("mme_emotion"):
        task = None if case["task"] == "Overall" else case["task"]
        scores = official.mme_emotion_clips(case["judged"], case["truth"], task).scores()
        expected = dict(case["expected"])
        groups = expected.pop("categories", None)
        check(case, scores, expected)
        if groups is not None:
            found = {label: [*one.values()] for label, one in scores["per_class"].items()}
            assert found.keys() == groups.keys(), case
            for label, values in groups.items():
                assert all(agree(a, b) for a, b in zip(found[label], values, strict=True)), (case, label)


def test_classes_and_pairs_equal_emobench_m():
    for case in [*cases("emobench_m", "classification"), *cases("emobench_m", "joint")]:
        joint = case["kind"] == "joint"
        truths, replies = (
            list(zip(*side, strict=True)) if joint else side for side in (case["truth"], case["replies"])
        )
        scores = official.emobench_clips(replies, truths).scores()
        expected = case["expected"]
        if expected is None:
            assert scores["n"] == 0
            continue
        names = ("accuracy", "precision", "recall", "f1") if joint else ("accuracy", "precision", "recall", "f1_score")
        ours = ("accuracy", "weighted_precision", "accuracy", "weighted_f1")
        prefix = "joint_" if joint else ""
        check(case, scores, {key: expected[prefix + name] for key, name in zip(ours, names, strict=True)})
        assert not joint or scores["n"] == expected["total"]


@pytest.mark.parametrize(
    ("kind", "clips"),
    [
        ("closed", official.mmeverse_clips),
        ("sentiment", official.mmeverse_sentiment_clips),
        ("multilabel", official.label_list_clips),
    ],
)
def test_labels_equal_mmeverse(kind, clips):
    for case in cases("mmeverse", kind):
        scores = clips(case["replies"], case["truth"]).scores()
        if case["expected"] is None:
            assert scores["n"] == 0
        elif "error" in case["expected"]:
            assert kind == "multilabel"
            assert len(scores["labels"]) < 2, case
        else:
            check(case, scores, case["expected"])


def test_hit_rates_equal_mer_unibench(word_tables):
    tables = wheel.WheelTables(word_tables, "mer2025", check=False)
    for case in cases("mer_unibench", "hit"):
        if "error" in case["expected"]:
            with pytest.raises(IndexError):
                wheel.hit_rate_clips(case["replies"], case["truth"], tables, strict=True)
            continue
        check(
            case, wheel.hit_rate_clips(case["replies"], case["truth"], tables, strict=True).scores(), case["expected"]
        )


def test_sentiment_equals_mer_unibench():
    for case in cases("mer_unibench", "sentiment"):
        check(case, classes.sentiment_clips(case["replies"], case["truth"], strict=True).scores(), case["expected"])


@pytest.mark.parametrize(
    ("suite", "version", "kind"), [("mer_unibench", "mer2025", "wheel"), ("mer2026", "mer2026", "track2")]
)
def test_wheel_scores_equal_the_original_code(word_tables, suite, version, kind):
    tables = wheel.WheelTables(word_tables, version, check=False)
    for case in cases(suite, kind):
        if "error" in case["expected"]:
            with pytest.raises(IndexError):
                wheel.wheel_clips(case["replies"], case["truth"], tables, strict=True)
            continue
        scores = wheel.wheel_clips(case["replies"], case["truth"], tables, strict=True).scores()
        for level in LEVELS:
            for key, value in zip(("f", "precision", "recall"), case["expected"][level], strict=True):
                assert agree(scores[f"{level}_{key}"], value), (case, level, key)


def test_labels_equal_mer2026_track1():
    for case in cases("mer2026", "track1"):
        replies, truths = ([cell or "" for cell in side] for side in (case["replies"], case["truth"]))
        if "error" in case["expected"]:
            with pytest.raises(KeyError):
                classes.challenge_clips(replies, truths, "mer2026_track1", strict=True)
            continue
        scores = classes.challenge_clips(replies, truths, "mer2026_track1", strict=True).scores()
        check(case, scores, case["expected"])


def test_preferences_equal_mer2026_track3():
    for case in cases("mer2026", "track3"):
        if "error" in case["expected"]:
            continue  # every reference is "same": nothing is left to score
        assert [read_preference(reply) for reply in case["replies"]] == case["expected"]["labels"]
        scores = classes.challenge_clips(case["replies"], case["truth"], "mer2026_track3", strict=True).scores()
        for prefix, name in (("", "twoclass"), ("threeclass_", "threeclass")):
            f1, accuracy = case["expected"][name]
            check(case, scores, {f"{prefix}weighted_f1": f1, f"{prefix}accuracy": accuracy})
