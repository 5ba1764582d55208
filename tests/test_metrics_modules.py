"""The `evaluate` modules: loaded offline by path and by name, and a defined result for every odd input."""

import math
import subprocess
import sys
from pathlib import Path

import evaluate
import pytest
from fake_hub import environment, problems_of, start

from hf_emotion import evaluation
from hf_emotion.evaluation import classes, sets
from hf_emotion.evaluation.statistics import bootstrap, compare

NAMES = [
    "emotion_hit_rate",
    "emotion_lexicon",
    "emotion_overlap",
    "emotion_recognition",
    "emotion_sentiment",
    "emotion_set",
    "emotion_wheel",
    "mer_challenge",
]


def test_all_eight_metrics_are_shipped():
    assert evaluation.metrics() == NAMES
    with pytest.raises(ValueError, match="'accuracy' is not one of emotion_hit_rate"):
        evaluation.load("accuracy")


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_loads_offline_by_path_and_says_how_it_is_used(name):
    metric = evaluate.load(evaluation.path(name))
    assert metric.name == name
    assert "predictions" in metric.inputs_description
    assert metric.description.strip()
    assert metric.citation.strip()


def test_a_metric_loads_from_a_folder_elsewhere_without_the_network(tmp_path):
    code = (
        "import evaluate, sys\n"
        "m = evaluate.load(sys.argv[1])\n"
        "print(m.compute(predictions=['[happy]'], references=['[glad]'])['level1_f'])\n"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, evaluation.path("emotion_lexicon")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "1.0"


PUBLISH = """
import evaluate
from hf_emotion import hub
from hf_emotion.cli import main

assert main(["push", "emotion_lexicon", "me/emotion_lexicon"]) == 0
try:
    hub.push_metric("emotion_lexicon", "me/lexicon")
except hub.HubError as error:
    assert "published as user/emotion_lexicon" in str(error), error
else:
    raise AssertionError("a repository of another name was accepted")
metric = evaluate.load("me/emotion_lexicon")
print(metric.compute(predictions=["[happy]"], references=["[glad]"])["level1_f"])
"""


def test_a_published_metric_loads_by_its_hub_id(tmp_path):
    server, store, url = start()
    package = str(Path(evaluation.__file__).parents[2])
    there = environment(url, tmp_path, PYTHONPATH=package, OMP_NUM_THREADS="1")
    done = subprocess.run([sys.executable, "-c", PUBLISH], cwd=tmp_path, env=there, capture_output=True, text=True)
    server.shutdown()
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().splitlines()[-1] == "1.0"
    files = store.head(("space", "me/emotion_lexicon"))[1]
    assert set(files) >= {"emotion_lexicon.py", "README.md"}
    assert problems_of(files["README.md"].decode(), "space") == []


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("emotion_set", {"grouper": "exact"}),
        ("emotion_lexicon", {}),
        ("emotion_recognition", {"labels": ["happy", "sad"]}),
        ("emotion_recognition", {}),
        ("emotion_sentiment", {}),
        ("mer_challenge", {"track": "mer2024_semi"}),
        ("mer_challenge", {"track": "mer2026_track3"}),
        ("mer_challenge", {"track": "mer2023_multi", "valence": [], "predicted_valence": []}),
        ("emotion_overlap", {"chat": str}),
    ],
)
def test_no_clips_give_zero_scores_and_a_count_of_zero(name, kwargs):
    scores = evaluation.load(name).compute(predictions=[], references=[], bootstrap=5, **kwargs)
    numbers = [value for value in scores.values() if isinstance(value, float)]
    assert numbers
    assert set(numbers) == {0.0}
    assert scores.get("n", scores.get("n_clue")) == 0
    assert scores["intervals"] == {}


CELLS = ["['Happy', 'happy', 'blorft']", ["happy", "blorft"], None, "", "He is happy and 开心.", "[]"]


def test_a_column_may_mix_strings_lists_and_nothing():
    metric = evaluation.load("emotion_set")
    scores = metric.compute(predictions=CELLS, references=["happy"] * len(CELLS), grouper="exact")
    # blorft halves the accuracy of the first two; from prose only the known word comes; empty answers score 0.
    assert scores["accuracy_s"] == pytest.approx((0.5 + 0.5 + 0 + 0 + 1 + 0) / 6, abs=1e-12)
    assert scores["recall_s"] == pytest.approx(3 / 6, abs=1e-12)
    assert scores["predicted_labels"] == pytest.approx((2 + 2 + 0 + 0 + 1 + 0) / 6, abs=1e-12)


def test_rows_may_be_added_in_batches():
    metric = evaluation.load("emotion_lexicon")
    metric.add_batch(predictions=["[happy]", None], references=["[glad]", "[sad]"])
    metric.add_batch(predictions=["[angry]"], references=["[furious]"])
    whole = evaluation.load("emotion_lexicon").compute(
        predictions=["[happy]", None, "[angry]"], references=["[glad]", "[sad]", "[furious]"]
    )
    assert metric.compute() == whole


def test_a_grouping_must_be_named():
    with pytest.raises(ValueError, match="depends on the grouping"):
        sets.set_clips(["happy"], ["sad"])
    with pytest.raises(ValueError, match="depends on the grouping"):
        sets.set_clips(["happy"], ["sad"], groups=[None], grouper=str)


def test_a_clip_without_references_is_skipped_and_counted_and_officially_an_error():
    predictions, references = ["['happy']", "['sad']", "[]"], ["[]", "['sad']", "[]"]
    scores = sets.set_clips(predictions, references, groups=["[]"] * 3).scores()
    # Both empty: the official code looks at the prediction first and counts the clip as 0.
    assert (scores["n"], scores["n_skipped"], scores["accuracy_s"]) == (2, 1, 0.5)
    with pytest.raises(ZeroDivisionError):
        sets.set_clips(predictions, references, groups=["[]"] * 3, strict=True)


def test_ten_thousand_labels_and_unicode_are_scored():
    labels = [f"étiquette {i} 开心" for i in range(10_000)]
    scores = sets.set_clips([labels], [labels[:5000]], grouper=sets_exact).scores()
    assert (scores["accuracy_s"], scores["recall_s"]) == (0.5, 1.0)


def sets_exact(words):
    return [[word] for word in words]


def naive_class_scores(truth, predicted, labels):
    """UAR, WAR and the F1 scores from their definitions, one class at a time."""
    recalls, f1, weights = [], [], []
    for label in labels:
        hits = sum(t == p == label for t, p in zip(truth, predicted, strict=True))
        support, chosen = truth.count(label), predicted.count(label)
        if support:
            recalls.append(hits / support)
        if support or chosen:
            f1.append(2 * hits / (support + chosen))
            weights.append(support / len(truth))
    return {
        "uar": sum(recalls) / len(recalls),
        "war": sum(t == p for t, p in zip(truth, predicted, strict=True)) / len(truth),
        "macro_f1": sum(f1) / len(f1),
        "weighted_f1": sum(w * f for w, f in zip(weights, f1, strict=True)),
    }


def test_recognition_equals_a_slow_plain_one_and_counts_invalid_replies():
    labels = ["happy", "sad", "angry", "fear"]
    truth = ["happy", "happy", "sad", "angry", "sad", "happy"]
    replies = ["He is happy.", "sad", "Sad", "no idea", "not angry but sad", "terrified"]
    read = ["happy", "sad", "sad", None, "sad", "fear"]
    scores = classes.recognition_clips(replies, truth, labels).scores()
    for key, value in naive_class_scores(truth, read, labels).items():
        assert scores[key] == pytest.approx(value, abs=1e-12), key
    assert scores["invalid_rate"] == pytest.approx(1 / 6)
    assert [row[-1] for row in scores["confusion"]] == [0, 0, 1, 0]


def test_a_reference_outside_the_labels_is_named():
    with pytest.raises(ValueError, match="'joy' is none of the labels happy, sad"):
        classes.recognition_clips(["happy"], ["joy"], ["happy", "sad"])
    with pytest.raises(ValueError, match="accepted are mer2023_semi"):
        classes.challenge_clips(["happy"], ["happy"], "mer2022")
    with pytest.raises(ValueError, match="give valence and predicted_valence"):
        classes.challenge_clips(["happy"], ["happy"], "mer2023_multi")
    with pytest.raises(KeyError):
        classes.challenge_clips(["glad"], ["happy"], "mer2023_semi", strict=True)


def test_scores_over_folds_are_plain_means_and_not_pooled():
    truth, replies, folds = ["a", "a", "b", "a"], ["a", "b", "b", "b"], [1, 1, 1, 2]
    scores = classes.recognition_clips(replies, truth, ["a", "b"], folds).scores()
    assert scores["war"] == pytest.approx((2 / 3 + 0) / 2)
    assert scores["uar"] == pytest.approx((0.75 + 0) / 2)


def test_sentiment_reads_words_and_counts_a_predicted_neutral_as_not_positive():
    scores = classes.sentiment_clips(["positive", ["angry", "sad"], "neutral", "Positive."], [1.5, -2, 0.5, 0]).scores()
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert (scores["n"], scores["n_skipped"]) == (3, 1)
    strict = classes.sentiment_clips(["Positive"], [1.0], strict=True).scores()
    assert strict["accuracy"] == 0.0


def test_an_interval_repeats_holds_the_score_and_narrows_with_clips():
    few, many = ["[happy]", "[sad]", "[calm]", "[angry]"], ["[happy]", "[sad]", "[calm]", "[angry]"] * 50
    clips = sets.lexicon_clips(few, ["[glad]", "[sad]", "[sad]", "[furious]"])
    more = sets.lexicon_clips(many, ["[glad]", "[sad]", "[sad]", "[furious]"] * 50)
    first, again, narrow = bootstrap(clips, 300), bootstrap(clips, 300), bootstrap(more, 300)
    assert first == again
    low, high = narrow["level1_f"]
    assert low <= more.scores()["level1_f"] <= high
    assert high - low < first["level1_f"][1] - first["level1_f"][0]
    with pytest.raises(ValueError, match="samples >= 1"):
        bootstrap(clips, 0)


def test_a_paired_comparison_sees_a_small_steady_difference():
    labels = ["[happy]", "[sad]", "[angry]", "[afraid]"] * 25
    better = [reference if i % 10 else "[bored]" for i, reference in enumerate(labels)]
    worse = [reference if i % 10 and i % 7 else "[bored]" for i, reference in enumerate(labels)]
    found = compare(sets.lexicon_clips(better, labels), sets.lexicon_clips(worse, labels), 500)["level1_f"]
    assert found["difference"] > 0
    assert found["low"] > 0
    assert found["p"] < 0.05
    same = compare(sets.lexicon_clips(better, labels), sets.lexicon_clips(better, labels), 100)["level1_f"]
    assert (same["difference"], same["p"]) == (0.0, 1.0)
    with pytest.raises(ValueError, match="same clips on both sides, found 100 and 1"):
        compare(sets.lexicon_clips(better, labels), sets.lexicon_clips(["x"], ["y"]))


def test_nothing_to_score_is_nan_only_where_the_official_code_says_so():
    scores = classes.recognition_clips(["c", "a"], ["a", "a"], strict=True).scores()
    assert math.isnan(scores["uar"])
    assert classes.recognition_clips(["c", "a"], ["a", "a"]).scores()["uar"] == 0.5
