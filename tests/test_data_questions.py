"""Instruction rows: what each task asks and answers, that the draw is seeded, and that nothing is made up."""

import pytest

from hf_emotion.data.questions import TASKS, TEMPLATES, answer, instruction_rows
from hf_emotion.data.schema import make_row

OPTIONS = ["happy", "sad", "angry", "neutral"]
SPANS = [
    {"start": 0.42, "end": 1.9, "text": "I am fine.", "speaker": "Ann"},
    {"start": 2, "end": 3.26, "text": None, "speaker": None},
]
ROW = make_row(
    id="00012",
    video="v.mp4",
    utterances=SPANS,
    labels=["hurt", "let down"],
    label="sad",
    description="The gaze drops, so she is hurt.",
    source="own",
    licence="cc0-1.0",
)


def test_each_task_asks_in_its_words_and_answers_from_the_annotation():
    rows = {row["id"].split("#")[1]: row for row in instruction_rows(ROW, options=OPTIONS)}
    assert list(rows) == [f"{task}-0" for task in TASKS]
    assert rows["recognition-0"]["answer"] == "sad"
    assert rows["open_vocabulary-0"]["answer"] == "hurt, let down"
    assert rows["clues-0"]["answer"] == ROW["description"]
    assert rows["tracing-0"]["answer"] == (
        'Utterance 1 (0.4s - 1.9s, Ann): "I am fine."\nUtterance 2 (2.0s - 3.3s).\nOver the whole clip: hurt, let down.'
    )
    for name, row in rows.items():
        kept = {key: value for key, value in row.items() if key not in ("id", "question", "answer")}
        assert kept == {key: ROW[key] for key in kept}
        if name != "recognition-0":
            assert row["question"] in TEMPLATES[name[:-2]]


def test_recognition_questions_name_every_option_once_in_an_order_that_changes():
    rows = [
        row
        for n in range(40)
        for row in instruction_rows({**ROW, "id": str(n)}, ["recognition"], options=OPTIONS, per_task=2)
    ]
    orders = set()
    for row in rows:
        assert all(row["question"].count(option) == 1 for option in OPTIONS)
        assert "{" not in row["question"]
        orders.add(tuple(sorted(OPTIONS, key=row["question"].index)))
    # 24 orders are possible; a fixed or barely changing one would let a model learn the position.
    assert len(orders) >= 15
    first = [sorted(OPTIONS, key=row["question"].index)[0] for row in rows]
    assert max(first.count(option) for option in OPTIONS) < 0.5 * len(rows)


def test_the_single_utterance_of_a_clip_takes_the_words_of_the_clip():
    row = make_row(id="a", utterances=SPANS[:1], label="sad")
    assert answer(row, "tracing") == 'Utterance 1 (0.4s - 1.9s, Ann): "I am fine." sad.'


def test_known_emotions_of_utterances_are_told_for_each():
    assert answer(ROW, "tracing", ["neutral", "sad"]) == (
        'Utterance 1 (0.4s - 1.9s, Ann): "I am fine." neutral.\nUtterance 2 (2.0s - 3.3s): sad.\n'
        "Over the whole clip: hurt, let down."
    )
    with pytest.raises(ValueError, match="1 utterance labels for 2 utterances"):
        answer(ROW, "tracing", ["neutral"])


@pytest.mark.parametrize(
    ("fields", "tasks"),
    [
        ({}, []),
        ({"labels": []}, []),
        ({"description": "D."}, ["clues"]),
        ({"labels": ["torn"]}, ["open_vocabulary"]),
        ({"label": "sad"}, ["recognition", "open_vocabulary"]),
        ({"utterances": SPANS}, []),
        ({"utterances": [], "label": "sad"}, ["recognition", "open_vocabulary"]),
        ({"utterances": SPANS, "labels": ["torn"]}, ["open_vocabulary", "tracing"]),
    ],
)
def test_a_task_that_the_row_cannot_answer_is_left_out(fields, tasks):
    rows = instruction_rows(make_row(id="a", **fields), options=OPTIONS)
    assert [row["id"].split("#")[1][:-2] for row in rows] == tasks


def test_without_options_there_are_no_recognition_questions():
    assert instruction_rows(ROW, ["recognition"]) == []


def test_several_questions_of_a_task_are_all_different_and_no_more_than_there_are_templates():
    rows = instruction_rows(ROW, ["clues"], per_task=100)
    assert len(rows) == len({row["question"] for row in rows}) == len(TEMPLATES["clues"])
    assert [row["id"] for row in rows] == [f"00012#clues-{n}" for n in range(len(rows))]


def test_the_draw_depends_on_seed_and_clip_alone():
    def ask(name, seed, tasks=TASKS, per_task=2):
        return instruction_rows({**ROW, "id": name}, tasks, per_task, seed, OPTIONS)

    assert ask("a", 0) == ask("a", 0)
    assert [row["question"] for row in ask("a", 0)] != [row["question"] for row in ask("a", 1)]
    assert [row["question"] for row in ask("a", 0)] != [row["question"] for row in ask("b", 0)]
    # A task asked alone is asked as it is among others.
    assert ask("a", 0, ["clues"]) == [row for row in ask("a", 0) if "#clues" in row["id"]]


def test_every_template_is_drawn_by_some_clip():
    for task in TASKS:
        asked = {
            row["question"] if task != "recognition" else None
            for n in range(200)
            for row in instruction_rows({**ROW, "id": str(n)}, [task], options=OPTIONS)
        }
        if task != "recognition":
            assert asked == set(TEMPLATES[task])


def test_an_unknown_task_and_a_label_outside_the_options_are_refused():
    with pytest.raises(ValueError, match=r"'mood'.*recognition"):
        instruction_rows(ROW, ["mood"])
    with pytest.raises(ValueError, match="'sad' is not among the options happy"):
        instruction_rows(ROW, ["recognition"], options=["happy"])
