"""The data row: what it accepts, what it keeps exactly, and the conversation derived from it."""

import subprocess
import sys

import pytest

from hf_emotion.data.schema import FEATURES, FIELDS, RowError, bad_rows, make_row, messages


def test_a_row_has_every_field_and_none_where_nothing_was_given():
    row = make_row(id="clip")
    assert list(row) == list(FIELDS) == list(FEATURES)
    assert row.pop("id") == "clip"
    assert set(row.values()) == {None}


@pytest.mark.parametrize("name", ["00012", "None", "nan", "1e5", " padded "])
def test_names_stay_the_text_they_are_through_datasets(name):
    from datasets import Dataset

    rows = Dataset.from_list([make_row(id=name)], features=FEATURES)
    assert rows[0]["id"] == name


def test_a_row_comes_back_from_arrow_as_it_went_in():
    from datasets import Dataset

    row = make_row(
        id="a",
        video="a.mp4",
        utterances=[{"start": 0.25, "end": 1.6, "text": "So.", "speaker": None}, {"start": 2, "end": 3}],
        labels=[],
        valence=-0.1,
        answer="",
    )
    back = Dataset.from_list([row, make_row(id="b")], features=FEATURES)
    assert back[0] == row
    # Not known and known to be none are two things.
    assert back[0]["labels"] == []
    assert back[1]["labels"] is None
    assert back[1]["utterances"] is None
    assert back[0]["utterances"][1] == {"start": 2.0, "end": 3.0, "text": None, "speaker": None}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"id": ""}, ["''", "non-empty"]),
        ({"id": 12}, ["12", "text"]),
        ({"id": "a", "labell": "x"}, ["labell", "label"]),
        ({"id": "a", "label": 3}, ["'label'", "3"]),
        ({"id": "a", "labels": "happy"}, ["'labels'", "'happy'", "list"]),
        ({"id": "a", "labels": [1]}, ["'labels'", "list of texts"]),
        ({"id": "a", "valence": "high"}, ["'valence'", "'high'", "number"]),
        ({"id": "a", "valence": float("nan")}, ["'valence'", "nan"]),
        ({"id": "a", "utterances": [{"start": 2, "end": 1}]}, ["2.0", "1.0", "start < end"]),
        ({"id": "a", "utterances": [{"start": -1, "end": 1}]}, ["-1.0"]),
        ({"id": "a", "utterances": [{"start": 0}]}, ["'start' and 'end'"]),
        ({"id": "a", "utterances": [{"start": 0, "end": float("inf")}]}, ["inf", "finite"]),
    ],
)
def test_a_bad_field_is_named_with_what_was_found_and_what_is_needed(fields, words):
    with pytest.raises(RowError) as error:
        make_row(**fields)
    for word in [repr(fields["id"]), *words]:
        assert word in str(error.value)


def test_bad_rows_lists_every_broken_row_and_every_repeated_id():
    good, bad = make_row(id="a"), {**make_row(id="b"), "valence": "x"}
    problems = bad_rows([good, bad, good, {**good, "id": "c"}])
    assert len(problems) == 2
    assert "'b'" in problems[0]
    assert "'a'" in problems[1]
    assert "more than once" in problems[1]


def test_messages_hold_the_media_the_question_and_the_answer():
    row = make_row(id="a", video="v.mp4", audio="a.wav", question="What?", answer="happy", subtitle="Hi.")
    assert messages(row) == [
        {
            "role": "user",
            "content": [
                {"type": "video", "path": "v.mp4"},
                {"type": "audio", "path": "a.wav"},
                {"type": "text", "text": "What?"},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "happy"}]},
    ]


def test_messages_without_an_answer_end_with_the_question_and_name_no_absent_media():
    (turn,) = messages(make_row(id="a", audio="a.wav", question="What?"))
    assert [item["type"] for item in turn["content"]] == ["audio", "text"]


def test_messages_of_a_row_without_a_question_are_refused():
    with pytest.raises(RowError, match="'a' has no question"):
        messages(make_row(id="a", video="v.mp4"))


def test_the_command_line_of_build_adds_no_heavy_import_to_the_package():
    code = (
        "import sys, argparse, hf_emotion; before = set(sys.modules);"
        "from hf_emotion.cli import parser; parser('build');"
        "print(sorted({'datasets', 'torch', 'transformers', 'av', 'skimage'} & (set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
