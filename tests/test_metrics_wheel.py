"""Emotion-wheel and hit-rate scores on small tables made here, against slow plain ones."""

import csv
import math
import zipfile
from xml.sax.saxutils import escape

import pytest

from hf_emotion.evaluation import wheel

FORMS = {
    "happy": "happy,happiness",
    "glad": "glad,gladness,happiness",
    "sad": "sad,sadness",
    "blue": "blue",
    "angry": "angry,anger",
    "mad": "mad",
}
WHEEL = [
    ("Joy", "Cheer", "Happy"),
    ("", "", "Pleased "),
    ("Sorrow", "Grief", "Sad"),
    ("", "Woe", "Tearful"),
    ("Rage", "Ire", "Mad"),
]
SYNONYMS = {"happy": "['glad', 'happy']", "sad": "['blue']", "mad": "[angry]", "tearful": "[]", "pleased": "['glad']"}


def write_xlsx(path, rows):
    """A workbook with one sheet: the first half of its texts shared, the rest inline, as different programs write
    them."""
    shared, body = [], []
    for r, row in enumerate(rows, 1):
        cells = []
        for c, text in enumerate(row):
            place = f"{chr(65 + c)}{r}"
            if not text:
                cells.append(f'<c r="{place}" s="1"/>')
            elif len(shared) < 8:
                cells.append(f'<c r="{place}" t="s"><v>{len(shared)}</v></c>')
                shared.append(f'<si><t xml:space="preserve">{escape(text)}</t></si>')
            else:
                cells.append(f'<c r="{place}" t="inlineStr"><is><t>{escape(text)}</t></is></c>')
        body.append(f'<row r="{r}">{"".join(cells)}</row>')
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("xl/sharedStrings.xml", f"<sst {space}>{''.join(shared)}</sst>")
        book.writestr(
            "xl/worksheets/sheet1.xml", f"<worksheet {space}><sheetData>{''.join(body)}</sheetData></worksheet>"
        )


@pytest.fixture
def folder(tmp_path):
    with (tmp_path / "format.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("name", "format"), *FORMS.items()])
    header = [f"{kind}_run{k}" for k in range(1, 9) for kind in ("word", "synonym")]
    write_xlsx(tmp_path / "synonym.xlsx", [header, *([word, reply] * 8 for word, reply in SYNONYMS.items())])
    for k in range(1, 6):
        rows = WHEEL if k < 5 else WHEEL[:2]
        write_xlsx(tmp_path / f"wheel{k}.xlsx", [("level1", "level2", "level3"), *rows])
    return tmp_path


@pytest.fixture
def tables(folder):
    return wheel.WheelTables(folder, "mer2025", check=False)


def test_tables_that_are_not_the_official_ones_are_refused_and_reported(folder, tables):
    assert not tables.official
    with pytest.raises(wheel.WheelError, match="not the official ones of mer2025: forms, synonyms"):
        wheel.WheelTables(folder, "mer2025")
    with pytest.raises(wheel.WheelError, match="choose one of mer2025, mer2026"):
        wheel.WheelTables(folder, None)
    with (folder / "format.csv").open("a", encoding="utf-8") as file:
        file.write("lone,lone\r\n")
    with pytest.raises(wheel.WheelError, match=r"base words that synonym\.xlsx does not know: lone"):
        wheel.WheelTables(folder, "mer2025", check=False)
    (folder / "wheel3.xlsx").unlink()
    with pytest.raises(wheel.WheelError, match=r"holds no wheel3\.xlsx"):
        wheel.WheelTables(folder, "mer2025", check=False)


def test_without_a_folder_the_message_says_where_the_tables_come_from(monkeypatch):
    monkeypatch.delenv("HF_EMOTION_WHEEL_DIR", raising=False)
    with pytest.raises(wheel.WheelError, match="zeroQiaoba/MERTools"):
        wheel.folder_of(None)


def test_a_word_goes_to_its_base_its_wheel_word_and_its_group(tables):
    assert tables.cases["case1"]["happiness"] == "glad"  # of two bases the alphabetically first
    assert tables.cases["case2"]["happiness"] == "happy"
    assert tables.cases["case3_wheel1_level1"]["happiness"] == "joy"
    assert tables.cases["case3_wheel1_level2"]["anger"] == "ire"
    assert "anger" not in tables.cases["case3_wheel5_level1"]
    assert "neutral" not in tables.cases["case1"]


PREDICTIONS = ["['happiness', 'anger']", "[]", "['blorft']", "[sad, blue, blue]", "['mad']"]
REFERENCES = ["['glad']", "['sad']", "['happy']", "['blue', 'anger']", "['neutral']"]


def naive(tables, case):
    """Mean precision and recall of one case, clip by clip."""
    precisions, recalls = [], []
    for prediction, reference in zip(PREDICTIONS, REFERENCES, strict=True):
        P, G = (
            {tables.cases[case][w] for w in cell.strip("[]").replace("'", "").split(", ") if w in tables.cases[case]}
            for cell in (prediction, reference)
        )
        if not G:
            continue
        precisions.append(len(G & P) / len(P) if P else 0)
        recalls.append(len(G & P) / len(G) if P else 0)
    return sum(precisions) / len(precisions), sum(recalls) / len(recalls), len(precisions)


@pytest.mark.parametrize("strict", [False, True])
def test_every_case_equals_a_slow_plain_one(tables, strict):
    scores = wheel.wheel_clips(PREDICTIONS, REFERENCES, tables, strict=strict).scores()
    for case in tables.cases:
        precision, recall, number = naive(tables, case)
        found = scores["per_case"][case]
        assert (found["precision"], found["recall"], found["n"]) == (
            pytest.approx(precision),
            pytest.approx(recall),
            number,
        )
        assert found["f"] == pytest.approx(2 * precision * recall / (precision + recall))
    level1 = [scores["per_case"][f"case3_{name}_level1"]["f"] for name in wheel.WHEELS]
    assert scores["level1_f"] == pytest.approx(sum(level1) / 5)
    assert scores["version"] == "mer2025"
    assert not scores["official_tables"]


def test_nothing_to_score_is_zero_and_officially_nan_in_mer2025(folder, tables):
    assert wheel.wheel_clips(["[sad]"], ["[neutral]"], tables).scores()["level1_f"] == 0.0
    assert math.isnan(wheel.wheel_clips(["[sad]"], ["[neutral]"], tables, strict=True).scores()["level1_f"])
    corrected = wheel.WheelTables(folder, "mer2026", check=False)
    assert wheel.wheel_clips(["[sad]"], ["[neutral]"], corrected, strict=True).scores()["level1_f"] == 0.0
    assert wheel.wheel_clips([], [], tables).scores()["n"] == 0


def test_a_hit_is_a_count_and_mscore_divides_by_the_groups_named(tables):
    scores = wheel.hit_rate_clips(["[happy, sad, mad]", "[happy]"], ["happy", "sad"], tables).scores()
    # Wheels 1 to 4 know joy, sorrow and rage, but rage is no label here: 1 hit of 2 groups named, then none of 1.
    assert scores["per_wheel"]["wheel1"] == {"hit_rate": 0.5, "mscore": 0.25, "n": 2}
    # Wheel 5 knows joy alone, so the clip "sad" is left out of it.
    assert scores["per_wheel"]["wheel5"] == {"hit_rate": 1.0, "mscore": 1.0, "n": 1}
    assert scores["predicted_labels"] == 2.0
    assert (
        wheel.hit_rate_clips(["[happy, sad]"], [["happy", "sad"]], tables).scores()["per_wheel"]["wheel1"]["hit_rate"]
        == 2.0
    )


def test_neutral_hits_neutral_only_in_the_caption_filter(tables):
    assert wheel.hit_or_not("[]", "['neutral']", tables)
    assert wheel.hit_or_not("[happiness]", "[glad]", tables)
    assert not wheel.hit_or_not("[neutral]", "[sad]", tables)


def test_a_clip_without_a_prediction_is_empty_and_officially_an_error():
    assert wheel.by_name({"a": "x", "c": "y"}, {"a": "1", "b": "2"}) == (["x", None], ["1", "2"], 1)
    with pytest.raises(KeyError, match="b"):
        wheel.by_name({"a": "x"}, {"a": "1", "b": "2"}, strict=True)


def test_the_tables_group_words_for_the_set_score(tables):
    group = tables.grouper("case3_wheel1_level1")
    assert group(["anger", "blorft", "glad", "happy"]) == [["anger"], ["blorft"], ["glad", "happy"]]
    assert group.name == "mer2025 case3_wheel1_level1"
