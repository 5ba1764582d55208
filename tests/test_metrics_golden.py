"""Every golden case computed with the official code, to 1e-12, exceptions and NaN included.

The cases lie beside the checkout (shared/golden) or in the folder named by HF_EMOTION_GOLDEN. Those that need the
official word tables or labels also need a copy of github.com/zeroQiaoba/MERTools, named by HF_EMOTION_MERTOOLS; without
them a test skips and says so.
"""

import json
import math
import os
from pathlib import Path

import pytest

from hf_emotion.answers.choices import read_preference
from hf_emotion.evaluation import classes, evaluate, judge, sets, wheel
from hf_emotion.evaluation.score_files import read_cells

TOLERANCE = 1e-12


def golden(name: str) -> dict:
    folder = Path(os.environ.get("HF_EMOTION_GOLDEN", Path(__file__).parents[2] / "shared" / "golden"))
    if not (folder / f"{name}.json").is_file():
        pytest.skip(f"no golden cases at {folder}; set HF_EMOTION_GOLDEN to their folder")
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def mertools(*parts: str) -> Path:
    root = os.environ.get("HF_EMOTION_MERTOOLS")
    if not root:
        pytest.skip(
            "needs official tables or labels, which are not shipped; set HF_EMOTION_MERTOOLS to a copy of MERTools"
        )
    path = Path(root, *parts)
    assert path.exists(), f"HF_EMOTION_MERTOOLS has no {path}"
    return path


@pytest.fixture
def tables() -> dict[str, wheel.WheelTables]:
    return {
        "mer2025": wheel.tables(mertools("MER2025", "MER2025_Track23", "emotion_wheel"), "mer2025"),
        "mer2026": wheel.tables(mertools("MER2026", "MER2026_Track2", "emotion_wheel"), "mer2026"),
    }


def same(found, expected) -> bool:
    if expected == "NaN":
        return math.isnan(found)
    return abs(found - expected) <= TOLERANCE


def outcome(function, *args):
    """What a function returns, or the name of what it raises, as the golden files write it."""
    try:
        return function(*args)
    except Exception as error:
        return {"error": type(error).__name__}


def test_label_lists_are_parsed_as_the_official_parsers_do():
    cases = golden("list_parsing")
    for case in cases["string_to_list"]:
        assert outcome(sets.parse_mer2024, case["input"]) == case["mer2024"], case
        assert outcome(sets.parse_mer2025, case["input"]) == case["mer2025"], case
    for case in cases["listlist_to_list"]:
        assert sets.parse_groups(case["input"]) == case["output"], case


def test_set_scores_with_given_groups_are_the_official_ones():
    for case in golden("set_metric_given_groups")["cases"]:
        samples = case["samples"]
        columns = [[sample[key] for sample in samples] for key in ("pred", "gt", "groups")]
        scores = sets.set_clips(columns[0], columns[1], columns[2], strict=True).scores()
        for key, ours in (("accuracy", "accuracy_s"), ("recall", "recall_s"), ("avg", "avg")):
            assert same(scores[ours], case["expected"][key]), (case["id"], key)


def test_wheel_scores_are_the_official_ones_in_both_versions(tables):
    for case in golden("wheel_metric")["cases"]:
        for version, expected in case["expected"].items():
            try:
                predictions, references, _ = wheel.by_name(case["name2pred"], case["name2gt"], strict=True)
                scores = wheel.wheel_clips(predictions, references, tables[version], strict=True).scores()
            except KeyError:
                assert set(map(str, expected.values())) == {"{'error': 'KeyError'}"}, case["id"]
                continue
            for name, values in expected.items():
                if name.startswith("avg_"):
                    level = name.removeprefix("avg_")
                    found = {"fscore": scores[f"{level}_f"]}
                    found |= {key: scores[f"{level}_{key}"] for key in ("precision", "recall")}
                else:
                    found = scores["per_case"][name]
                for key, value in values.items():
                    assert same(found[key], value), (case["id"], version, name, key)


def test_hit_rates_are_the_official_ones_in_both_versions(tables):
    for case in golden("hit_rate")["cases"]:
        for version, expected in case["expected"].items():
            predictions, references, _ = wheel.by_name(case["name2pred"], case["name2gt"], strict=True)
            scores = wheel.hit_rate_clips(predictions, references, tables[version], strict=True).scores()
            assert same(scores["hit_rate"], expected["hit_rate"]), (case["id"], version)
            assert same(scores["mscore"], expected["mscore"]), (case["id"], version)
            for name, values in expected["per_wheel"].items():
                for key, value in values.items():
                    assert same(scores["per_wheel"][name][key], value), (case["id"], version, name, key)


def test_hit_or_not_is_the_official_filter(tables):
    for case in golden("hit_or_not")["cases"]:
        assert wheel.hit_or_not(case["pred"], case["gt"], tables["mer2025"]) == case["hit"], case


def test_uar_and_war_are_the_official_ones_and_scikit_learns():
    cases = golden("uar_war")
    for case in cases["cases"]:
        for labels in (None, case["labels"]):
            expected = case["expected"]
            clips = (case["predictions"], case["references"], labels)
            scores = classes.recognition_clips(*clips, strict=True).scores()
            for key, theirs in (
                ("uar", "uar"),
                ("war", "war"),
                ("war", "micro_f1"),
                ("war", "recall_weighted"),
                ("weighted_f1", "weighted_f1"),
                ("macro_f1", "macro_f1"),
                ("weighted_precision", "weighted_precision"),
            ):
                assert same(scores[key], expected[theirs]), (case["id"], key)
            safe = classes.recognition_clips(*clips).scores()
            assert same(safe["uar"], expected["sklearn_balanced_accuracy"]), case["id"]
    folds = cases["five_fold"]["folds"]
    predictions, references = (
        [value for fold in folds for value in fold[key]] for key in ("predictions", "references")
    )
    numbers = [i for i, fold in enumerate(folds) for _ in fold["predictions"]]
    scores = classes.recognition_clips(predictions, references, folds=numbers, strict=True).scores()
    assert same(scores["uar"], cases["five_fold"]["mean_uar"])
    assert same(scores["war"], cases["five_fold"]["mean_war"])
    for found, expected in zip(scores["per_fold"], folds, strict=True):
        assert same(found["uar"], expected["uar"])
        assert same(found["war"], expected["war"])
    pooled = classes.recognition_clips(predictions, references, strict=True).scores()
    assert same(pooled["uar"], cases["five_fold"]["pooled"]["uar"])
    assert same(pooled["war"], cases["five_fold"]["pooled"]["war"])


def test_mer2023_scores_are_the_official_ones():
    cases = golden("mer2023")
    for case in cases["multi_noise"]:
        names = list(case["labels"])
        (predicted, valences), (labels, truths) = (
            zip(*(case[side][name] for name in names), strict=True) for side in ("preds", "labels")
        )
        for track in classes.VALENCE_TRACKS:
            scores = classes.challenge_clips(predicted, labels, track, valences, truths, strict=True).scores()
            for key, value in case["expected"].items():
                assert same(scores[key], value), (case["id"], key)
    for case in cases["semi"]:
        predictions, references, _ = wheel.by_name(case["preds"], case["labels"], strict=True)
        for track in classes.LABEL_TRACKS:
            scores = classes.challenge_clips(predictions, references, track, strict=True).scores()
            assert same(scores["weighted_f1"], case["expected"]["weighted_f1"]), case["id"]


def test_preference_scores_and_replies_are_the_official_ones():
    cases = golden("mer_prefer")
    for case in cases["parsing"]:
        assert read_preference(case["response"]) == case["label"], case
    for case in cases["cases"]:
        scores = classes.challenge_clips(case["predictions"], case["references"], "mer2026_track3").scores()
        for key in ("weighted_f1", "accuracy"):
            assert same(scores[key], case["twoclass"][key]), (case["id"], key)
            assert same(scores[f"threeclass_{key}"], case["threeclass"][key]), (case["id"], key)


def test_sentiment_scores_are_the_official_ones():
    for case in golden("sentiment")["cases"]:
        predictions, references, _ = wheel.by_name(case["name2sentiment"], case["name2gt"], strict=True)
        scores = classes.sentiment_clips(predictions, references, strict=True).scores()
        for key, value in case["expected"].items():
            assert same(scores[key], value), (case["id"], key)


def test_judge_replies_are_read_as_officially():
    for case in golden("judge_parsing")["cases"]:
        assert outcome(judge.parse_score, case["response"], True) == case["score"], case


def test_emotion_llama_labels_are_read_as_its_script_does():
    for case in golden("emotion_llama_labels")["cases"]:
        assert classes.read_emotion_llama(case["response"]) == case["label"], case


def test_the_published_mer2024_scores_come_out_to_the_last_digit():
    store = mertools("MER2024", "ov_store")
    references, predictions = (read_cells(store / f"{name}-openset.csv", ("openset",)) for name in ("check", "predict"))
    stored = store / "openset-synonym"
    settings = evaluate.Settings(
        strict=True, groups=read_cells(stored if stored.is_dir() else store / "openset-synonym.zip", ())
    )
    scores = evaluate.score("emotion_set", predictions, references, settings, draws=0, baselines=False)["scores"]
    assert scores["n"] == 332
    assert scores["accuracy_s"] == 0.581777108433735
    assert scores["recall_s"] == 0.4977911646586345
    assert scores["avg"] == 0.5397841365461847


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("mer2025", (0.5537059069585599, 0.559395213821158, 0.5485155879797873, 0.4244863488795757)),
        ("mer2026", (0.5546077966514373, 0.5605239492818354, 0.5491872520358774, 0.42458260487565785)),
    ],
)
def test_the_wheel_scores_of_the_mer2024_sample_come_out(tables, version, expected):
    store = mertools("MER2024", "ov_store")
    references, predictions = (read_cells(store / f"{name}-openset.csv", ("openset",)) for name in ("check", "predict"))
    cells, truths, _ = wheel.by_name(predictions, references)
    scores = wheel.wheel_clips(cells, truths, tables[version], strict=True).scores()
    for key, value in zip(("level1_f", "level1_precision", "level1_recall", "level2_f"), expected, strict=True):
        assert same(scores[key], value), key
    assert [scores["per_case"][f"case3_{name}_level1"]["n"] for name in wheel.WHEELS] == [327, 328, 324, 327, 316]


def test_tables_of_one_version_are_refused_as_the_other():
    folder = mertools("MER2025", "MER2025_Track23", "emotion_wheel")
    with pytest.raises(wheel.WheelError, match="they are those of mer2025"):
        wheel.WheelTables(folder, "mer2026")
    changed = wheel.WheelTables(folder, "mer2026", check=False)
    assert not changed.official
