"""Text -> emotion words: lists of every form, negation, reasons, conclusions, and the texts that name nothing."""

import math

import pytest

from hf_emotion.answers.words import READING_PROMPT, emotion_words


@pytest.mark.parametrize(
    "text",
    [
        "['happy', 'sad']",
        "[happy, sad].",
        "  [ Happy ;  SAD ]",
        "happy, sad",
        "Happy and sad.",
        "happy，sad",
        "happy、sad。",
        "happy\nsad",
        "- Happy: he smiles broadly\n- Sad: his voice drops",
        "1. **Happy** - he smiles\n2. **Sad** (voice)",
        "The emotions are:\n* happy\n* sad",
        '{"labels": ["Happy", "SAD"]}',
        '```json\n{"emotions": "happy, sad"}\n```',
        "Input: His emotional state is happy; Output: [happy, sad]",
        "The answer is [happy, sad] because [he smiles]",
        "[[happy], [sad]]",
        "['happy'],['sad']",
        "<think>Perhaps he is angry?</think>Emotion: happy / sad",
        ["Happy ", "happy", "sad", None, ""],
    ],
)
def test_a_list_in_any_form_gives_the_same_words(text):
    assert emotion_words(text) == ["happy", "sad"]


@pytest.mark.parametrize(
    "text", [None, math.nan, "", "  ", "[]", "[,]", "[", "None", "emotions: none", "[ ]", '"', "{}", "!!!"]
)
def test_a_text_without_words_gives_the_empty_list(text):
    assert emotion_words(text) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The person is not angry, but sad.", ["sad"]),
        ("He isn't angry, sad, or fearful, but calm.", ["calm"]),
        ("She is neither happy nor sad.", []),
        ("There is no sign of fear; he is calm.", ["calm"]),
        ("The tone is cheerful, without a trace of sadness.", ["cheerful"]),
        ("He is frustrated rather than angry.", ["frustrated"]),
        ("He doesn't look angry and seems happy.", ["happy"]),
        ("It doesn’t seem that he’s worried.", []),
    ],
)
def test_a_denied_emotion_is_not_taken(text, words):
    assert emotion_words(text) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("He cannot hide his anger.", ["anger"]),
        ("She is not only happy but also excited.", ["happy", "excited"]),
        ("There is no doubt that he is angry.", ["angry"]),
        ("She can't help feeling sad.", ["sad"]),
    ],
)
def test_a_negation_that_denies_nothing_keeps_the_emotion(text, words):
    assert emotion_words(text) == words


def test_words_that_only_give_the_reason_are_left_out_unless_nothing_else_is_there():
    assert emotion_words("He is sad because his friend was happy to leave.") == ["sad"]
    assert emotion_words("Because he lost, he is sad.") == ["sad"]
    assert emotion_words("This is due to his anger.") == ["anger"]


def test_the_conclusion_of_a_page_of_clues_decides():
    clues = (
        "In the video, the man smiles happily at first. In the audio, his voice is excited. "
        "In the text, he says that he lost. Therefore, it is inferred that his emotional state is anger."
    )
    assert emotion_words(clues) == ["anger"]
    assert emotion_words(clues.rsplit(" Therefore", 1)[0]) == ["happily", "excited"]


def test_phrases_of_the_lexicon_stay_whole():
    assert emotion_words("He feels at a loss and looks forward to nothing else.") == ["at a loss"]
    assert emotion_words("slightly anxious, looking forward to") == ["slightly anxious", "looking forward to"]


def test_unknown_words_stay_in_lists_and_never_come_from_prose():
    assert emotion_words("[blorft, sad]") == ["blorft", "sad"]
    assert emotion_words("[blorft, sad]", unknown=False) == ["sad"]
    assert emotion_words("The blorft man walks to the table and opens a window.") == []


def test_everyday_words_of_the_lexicon_count_as_labels_but_not_in_prose():
    assert emotion_words("[good, hard]") == ["good", "hard"]
    assert emotion_words("It is a good and hard table.") == []


@pytest.mark.parametrize(
    "text",
    [
        "His nose, cheeks and brow are lit by the car behind the window.",
        "A play about a hospital gives the impression of a tight schedule.",
        "He wears a hat and a fur, presses a green button and watches the edge of the pit.",
        "The composition of the picture is observed, calculated and attractive.",
        "The nose-bridge is wrinkled and the tear-shaped mark moves.",
    ],
)
def test_a_word_of_prose_from_which_an_emotion_word_could_be_built_is_none_itself(text):
    assert emotion_words(text) == []


def test_inflections_of_emotion_words_are_read_from_prose():
    assert emotion_words("She laughs happily and worries that her hopes and fears seem sillier.") == [
        "happily",
        "worries",
        "hopes",
        "fears",
    ]
    assert emotion_words("He grieved aggressively in his half-angry loneliness.") == [
        "grieved",
        "aggressively",
        "half-angry",
        "loneliness",
    ]


def test_labels_are_still_brought_to_their_group_by_rebuilding_them():
    assert emotion_words("[annoyance, nose]", unknown=False) == ["annoyance", "nose"]


def test_labels_in_any_script_are_kept():
    assert emotion_words("['开心', '难过', 'café']") == ["开心", "难过", "café"]
    assert emotion_words("ＨＡＰＰＹ，ｓａｄ") == ["happy", "sad"]


def test_ten_thousand_labels_are_read_whole_and_in_order():
    labels = [f"label{i}" for i in range(10_000)]
    assert emotion_words(str(labels)) == labels
    assert emotion_words(labels * 2) == labels


def test_a_quoted_label_keeps_its_comma():
    assert emotion_words("['happy, in a way', \"don't care\"]") == ["happy, in a way", "don't care"]


def test_a_reply_cut_off_at_the_token_limit_loses_only_the_unfinished_word():
    assert emotion_words("['happy', 'sad', 'fru") == ["happy", "sad"]


def test_a_language_model_reads_prose_but_is_never_sent_a_list():
    asked = []

    def chat(prompt):
        asked.append(prompt)
        return "[Melancholic, blorft]"

    assert emotion_words("He stares at the rain for a long while.", chat=chat) == ["melancholic", "blorft"]
    assert emotion_words("[happy]", chat=chat) == ["happy"]
    assert asked == [READING_PROMPT.format(text="He stares at the rain for a long while.")]


@pytest.mark.parametrize("text", [3, {"a": 1}, b"happy", [["happy"]], ["happy", 3]])
def test_anything_but_text_is_refused_by_name(text):
    with pytest.raises(ValueError, match=r"(strings|labels holds)"):
        emotion_words(text)


@pytest.mark.parametrize(
    "piece", ['"a ', "'a'a", "[", "(", "not ", "a,", "- ", "happy ", "{", "<think>", "[happy ", "emotions "]
)
def test_a_long_degenerate_reply_is_read_in_time_that_grows_with_its_length(piece):
    # Quadratic reading of 30,000 repetitions would take minutes; the test would not end.
    assert isinstance(emotion_words(piece * 30_000), list)
