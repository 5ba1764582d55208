"""What a model's reply answers: reasoning, tags, option letters, JSON, refusals."""

import time

import pytest

from hf_emotion.answers.choices import read_choice, read_preference
from hf_emotion.answers.replies import (
    chosen_options,
    declines,
    final_answer,
    options_in,
    within_clip,
    without_refusals,
)
from hf_emotion.answers.words import emotion_words
from hf_emotion.evaluation import classes

OPTIONS = ("happy", "sad", "angry", "fear")
RAVDESS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("<think>He smiles, so happy?</think>\n<answer>angry</answer>", "angry"),
        ("<THINK>x</THINK>\n<ANSWER> angry </ANSWER>", "angry"),
        ("He smiles.</think>sad", "sad"),
        ("<answer>first</answer> no, <answer>sad</answer>", "sad"),
        ("<think>long</think><answer>fear", "fear"),
        ("<think>never closed <answer>sad</answer>", "sad"),
        ("<think>all of it <answer>sad</answer></think>", "sad"),
        ("happy <think>and then some</think>", "happy"),
        ("<think>cut off while happy", ""),
        ("so it is \\boxed{\\text{sad}}", "sad"),
        ("angry", "angry"),
        ("", ""),
    ],
)
def test_the_answer_is_taken_without_the_reasoning(reply, answer):
    assert final_answer(reply) == answer


@pytest.mark.parametrize(
    ("answer", "chosen"),
    [
        ("B", ["sad"]),
        ("(b).", ["sad"]),
        ("**B**", ["sad"]),
        ("A,B,D", ["happy", "sad", "fear"]),
        ("ABD", ["happy", "sad", "fear"]),
        ("A and C", ["happy", "angry"]),
        ("B. sad", ["sad"]),
        ("A) happy\nC) angry", ["happy", "angry"]),
        ("The answer is B.", ["sad"]),
        ("Answer: A, C", ["happy", "angry"]),
        ("I would choose option (C), because he shouts.", ["angry"]),
        ("A happy person", None),
        ("I am sad", None),
        ("E", None),
        ("sad", None),
        ("", None),
    ],
)
def test_options_are_read_by_letter_only_where_the_answer_names_letters(answer, chosen):
    assert chosen_options(answer, OPTIONS) == chosen
    assert chosen_options(answer, None) is None


@pytest.mark.parametrize(
    "question",
    [
        "Which emotion? A. happy B. sad C. very angry",
        "Which emotion?\n(A) happy\n(B) sad\n(C) very angry",
        "Choose: A: happy, B: sad, C: very angry.",
    ],
)
def test_options_of_a_question_are_found(question):
    assert options_in(question) == {"A": "happy", "B": "sad", "C": "very angry"}


def test_a_question_without_options_has_none():
    assert options_in("What did A. Smith feel?") == {}
    assert options_in(None) == {}


@pytest.mark.parametrize(
    ("reply", "rest"),
    [
        ("I'm sorry, but I can't help with identifying emotions such as anger.", ""),
        ("As an AI, I can't tell whether he is happy or sad.", ""),
        ("It is impossible to determine the emotion.", ""),
        ("无法判断情绪", ""),
        ("I cannot see the face, but the voice sounds sad.", "but the voice sounds sad."),
    ],
)
def test_a_clause_that_declines_names_no_emotion(reply, rest):
    assert declines(reply)
    assert without_refusals(reply) == rest
    assert emotion_words(reply) == (["sad"] if rest else [])
    assert read_choice(reply, OPTIONS) == ("sad" if rest else None)


@pytest.mark.parametrize("reply", ["He cannot hide his anger.", 'She says "I\'m sorry" and is sad.', "not happy"])
def test_what_the_person_says_or_does_is_no_refusal(reply):
    assert not declines(reply)


@pytest.mark.parametrize(
    ("reply", "name"),
    [
        ("<think>happy?</think><answer>angry</answer>", "angry"),
        ("{'emotion': 'sad'}", "sad"),
        ('{"Emotion Label": "angry", "intent label": "questioning"}', "angry"),
        ("He might be happy. Final answer: sad", "sad"),
        ("not angry but sad", "sad"),
        ("fear", "fearful"),
        ("Surprise!", "surprised"),
        ("furious", "angry"),
        ("He is not happy at all.", None),
        ("no idea", None),
        (None, None),
    ],
)
def test_a_reply_is_read_as_one_class(reply, name):
    assert read_choice(reply, RAVDESS) == name


def test_letters_map_to_options_and_are_no_words_otherwise():
    assert emotion_words("A,B,D", options=OPTIONS) == ["happy", "sad", "fear"]
    assert emotion_words("A,B,D") == []
    assert read_choice("<answer>C</answer>", OPTIONS, {"A": "sad", "C": "happy"}) == "happy"
    assert read_choice("C", OPTIONS) is None


def test_a_preference_behind_reasoning_is_read_and_officially_is_not():
    assert read_preference("<think>a1 is good</think>a2") == "a1"
    scores = classes.challenge_clips(["<think>a1 is good</think>a2"], ["a2"], "mer2026_track3").scores()
    assert scores["accuracy"] == 1.0
    strict = classes.challenge_clips(["<think>a1 is good</think>a2"], ["a2"], "mer2026_track3", strict=True).scores()
    assert strict["accuracy"] == 0.0


def test_free_answers_are_scored_as_the_classes_of_the_references_and_refusals_are_counted():
    replies = ["<answer>angry</answer>", "He seems sad to me.", "I'm sorry, I can't tell.", "gibberish"]
    scores = classes.recognition_clips(replies, ["angry", "sad", "sad", "angry"]).scores()
    assert scores["classes"] == ["angry", "sad"]
    assert (scores["uar"], scores["invalid_rate"], scores["refusal_rate"]) == (0.5, 0.5, 0.25)
    assert scores["recall"] == {"angry": 0.5, "sad": 0.5}
    options = [{"A": "sad", "B": "angry"}] * 2
    assert classes.recognition_clips(["B", "A"], ["angry", "sad"], options=options).scores()["war"] == 1.0


@pytest.mark.parametrize(
    "piece", ["<think>", "<answer>", "</think>", "a, ", "A. ", "(", "I can't ", ", but", " ", "\\boxed{", "answer: "]
)
def test_a_degenerate_reply_is_read_in_time_that_grows_with_its_length(piece):
    times = []
    for length in (10_000, 40_000):
        reply = (piece * (length // len(piece) + 1))[:length]
        started = time.process_time()
        final_answer(reply), chosen_options(reply, OPTIONS), without_refusals(reply), declines(reply), options_in(reply)
        times.append(time.process_time() - started)
    assert times[1] < 12 * times[0] + 0.2


@pytest.mark.parametrize(
    ("seconds", "text", "expected"),
    [
        (2.4, "From 1.0 to 3.0 s the face shows joy.", "From 1.0 to 2.4 s the face shows joy."),
        (2.4, "From 0.0 to 3.0 s the face shows joy.", "The face shows joy."),
        (2.4, "From 2.5 to 3.0 s the face shows joy.", "The face shows joy."),
        (2.49, "I see that from 2 to 3 s she smiles.", "I see that from 2 to 2.4 s she smiles."),
        (0.0, "From 0.0 to 3.0 s the face shows joy.", "The face shows joy."),
        (3.0, "From 0.0 to 3.0 s the face shows joy.", "From 0.0 to 3.0 s the face shows joy."),
        (2.4, "Prices went from 1 to 5 dollars.", "Prices went from 1 to 5 dollars."),
    ],
)
def test_no_time_of_a_reply_lies_after_the_end_of_its_clip(seconds, text, expected):
    assert within_clip(text, seconds, 0) == expected


@pytest.mark.parametrize(
    ("utterances", "expected"),
    [
        (3, "The face is calm. During utterance 1 it rises by 1.5 tones. During utterance 3 the voice is even. Sad."),
        (2, "The face is calm. During utterance 1 it rises by 1.5 tones. Sad."),
        (0, "The face is calm. Sad."),
    ],
)
def test_a_reply_speaks_of_no_utterance_that_the_clip_lacks_and_of_none_twice_in_the_same_words(utterances, expected):
    text = (
        "The face is calm. During utterance 1 it rises by 1.5 tones. During utterance 3 the voice is even. "
        "During utterance 4 the voice is even. During utterance 4 the voice is even. "
        "During utterance 3 the voice is even. Sad."
    )
    assert within_clip(text, 9.0, utterances) == expected
