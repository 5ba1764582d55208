"""The lexicon: size, sources, suffix and phrase rules, and agreement with the official grouping where that is at
hand."""

import importlib.util
import os
from pathlib import Path

import pytest

from hf_emotion.answers.lexicon import Lexicon, normalise, shipped
from hf_emotion.evaluation import sets
from hf_emotion.evaluation.grouping import by_lexicon, exact, named


def test_it_holds_over_twelve_hundred_lemmas_in_two_levels():
    lexicon = shipped()
    assert len(lexicon.lemmas) >= 1200
    assert {first for first, _ in lexicon.sources} == {
        "joy", "trust", "fear", "surprise", "sadness", "disgust", "anger", "anticipation", "calm", "neutral"
    }  # fmt: skip
    assert len(lexicon.sources) >= 41


def test_every_group_names_its_source():
    for group, sources in shipped().sources.items():
        assert all(source.startswith(("Parrott:", "Plutchik:", "GEW:", "GALC:", "own:")) for source in sources), group
        assert any(source[:18] != "own: near-synonyms" for source in sources), group


def test_a_word_stands_in_one_group_only(tmp_path):
    file = tmp_path / "lexicon.tsv"
    file.write_text("joy\thappiness\town: test\thappy\nsadness\tsorrow\town: test\tHappy\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 2.*'happy' is already in group"):
        Lexicon(file)
    file.write_text("joy\thappiness\thappy\n", encoding="utf-8")
    with pytest.raises(ValueError, match="3 columns"):
        Lexicon(file)


@pytest.mark.parametrize(
    ("word", "lemma"),
    [
        ("Happy", "happy"),
        ("happily", "happy"),
        ("wistfulness", "wistful"),
        ("frustratingly", "frustrating"),
        ("angrily", "angry"),
        ("gloomier", "gloomy"),
        ("agonising", "agonised"),
        ("light-hearted", "lighthearted"),
        ("ｓａｄ", "sad"),
        ("at-a-loss", "at a loss"),
    ],
)
def test_a_form_of_a_word_leads_to_the_word(word, lemma):
    assert shipped().lemma(word) == lemma


@pytest.mark.parametrize("word", ["joyless", "emotionless", "fearless"])
def test_less_never_means_the_word_without_it(word):
    lexicon = shipped()
    assert lexicon.group(word) != lexicon.group(word.removesuffix("less"))
    assert lexicon.lemma("blorftless") is None


@pytest.mark.parametrize(
    ("phrase", "group"),
    [
        ("slightly anxious", "anxiety"),
        ("a sense of loss", "disappointment"),
        ("feeling of happiness", "happiness"),
        ("afraid of dogs", "fear"),
        ("happy and satisfied", "happiness"),
        ("looking forward to", "expectation"),
        ("not satisfied", "dissatisfaction"),
        ("deeply moved", "affection"),
    ],
)
def test_a_phrase_is_grouped_by_its_emotion(phrase, group):
    assert shipped().group(phrase, 2) == group


@pytest.mark.parametrize("label", ["", "   ", "blorft", "not fearful", "without joy", "开心", "!!!", "table"])
def test_what_names_no_listed_emotion_has_no_group(label):
    assert shipped().group(label) is None


def test_there_are_only_two_levels():
    with pytest.raises(ValueError, match="levels 1 and 2"):
        shipped().group("happy", 3)


def test_groupers_merge_by_group_and_leave_unknown_words_alone():
    words = ["blorft", "furious", "glad", "happy", "zork"]
    assert by_lexicon(1)(words) == [["blorft"], ["furious"], ["glad", "happy"], ["zork"]]
    assert exact(words) == [[word] for word in words]
    assert named("lexicon2").name == "hf_emotion lexicon, level 2"
    with pytest.raises(ValueError, match="exact, lexicon, lexicon2"):
        named("wheel")


def naive_scores(predictions, references, level):
    """The lexicon score written out slowly, clip by clip."""
    precisions, recalls = [], []
    for predicted, labels in zip(predictions, references, strict=True):
        if not labels:
            continue
        hits_p = P = {shipped().group(word, level) or f"?{word}" for word in predicted}
        G = {shipped().group(word, level) or f"?{word}" for word in labels}
        hits_p = [group for group in P if group in G]
        precisions.append(len(hits_p) / len(P) if P else 0)
        recalls.append(len(hits_p) / len(G) if P else 0)
    p, r = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return p, r, 2 * p * r / (p + r)


def test_the_lexicon_score_equals_a_slow_plain_one():
    predictions = [["happy", "blorft"], ["angry"], [], ["sad", "gloomy", "calm"], ["joy"]]
    references = [["glad"], ["furious", "sad"], ["sad"], ["unhappy", "worried"], []]
    scores = sets.lexicon_clips(predictions, references).scores()
    for level in (1, 2):
        p, r, f = naive_scores(predictions, references, level)
        assert scores[f"level{level}_precision"] == pytest.approx(p, abs=1e-12)
        assert scores[f"level{level}_recall"] == pytest.approx(r, abs=1e-12)
        assert scores[f"level{level}_f"] == pytest.approx(f, abs=1e-12)
    assert (scores["n"], scores["n_skipped"]) == (4, 1)
    assert scores["coverage"] == pytest.approx(12 / 13)


def test_normalising_twice_changes_nothing():
    for word in shipped().groups:
        assert normalise(word) == word


def test_it_agrees_with_the_official_grouping_as_far_as_promised():
    root = os.environ.get("HF_EMOTION_MERTOOLS")
    if not root:
        pytest.skip("needs the MER2024 labels, which are not shipped; set HF_EMOTION_MERTOOLS to a copy of MERTools")
    script = Path(__file__).parents[1] / "benchmarks" / "lexicon_agreement.py"
    spec = importlib.util.spec_from_file_location("lexicon_agreement", script)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    found = benchmark.agreement(benchmark.Labels(Path(root, "MER2024", "ov_store")).clips, level=1)
    for key, target in benchmark.TARGETS.items():
        assert found[key] >= target, (key, found[key])
