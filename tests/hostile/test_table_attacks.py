"""Tables, workbooks and archives that try to fill the memory, to take forever or to run code."""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import openpyxl
import pytest

from hf_emotion.data import files
from hf_emotion.data.files import DataError, choice, number, read_corpus, read_csv, read_json, read_text, read_xlsx
from hf_emotion.data.readers.own import read_table

SHEET = '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>{}</sheetData>'
SHEET += "</worksheet>"


def workbook(path, rows: str, shared: str | None = None):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("xl/worksheets/sheet1.xml", SHEET.format(rows))
        if shared is not None:
            book.writestr("xl/sharedStrings.xml", shared)
    return path


def archive(path, content: bytes, header: str = "{'descr': '|O', 'fortran_order': False, 'shape': (), }"):
    file = io.BytesIO()
    file.write(b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode() + content)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("train_corpus.npy", file.getvalue())
    return path


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        ("id,text\na," + "x" * 140_000 + "\n", 2, "field larger than field limit"),
        ('id,text\na,b\nc,"d\n' * 3, 3, "not readable as comma-separated values|cells where the header has"),
        ('id,text\na,"never closed\n' + "b,c\n" * 1000, 2, "unexpected end of data"),
        (",".join(f"c{i}" for i in range(20_000)) + "\n", 1, "20,000 columns; at most 16,384 are read"),
        (",".join(["a"] * 10_000) + "\n", 1, "column 'a' occurs more than once"),
        ("id\n\0\n", 2, "a zero byte"),
    ],
)
def test_a_hostile_table_is_one_sentence_with_file_and_line(tmp_path, text, line, sentence):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=sentence) as caught:
        list(read_csv(path, ()))
    assert caught.value.line == line
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        ("[\n" * 100_000, 33, "more than 32 deep"),
        ('[{"id":\n' + "1" * 5000 + "}]", 2, "a number of 5,000 digits"),
        ('{"a": 1}\n{"a"', 2, "not JSON"),
    ],
)
def test_json_that_pythons_reader_fails_on_is_one_sentence_with_its_line(tmp_path, text, line, sentence):
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(DataError, match=sentence) as caught:
        read_json(path)
    assert caught.value.line == line


def test_a_line_of_json_lines_is_named(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"id": "a"}\n' + '{"id":' * 100_000 + "\n")
    with pytest.raises(DataError, match="more than 32 deep") as caught:
        read_table(path, files.MediaFolder(None))
    assert caught.value.line == 2


def test_a_key_that_comes_ten_thousand_times_is_found_in_one_pass(tmp_path):
    path = tmp_path / "t.json"
    path.write_text('["a"' + ', "a"' * 200_000 + ', {"a": 1, "a": 2}]')
    code = "import sys; from hf_emotion.data.files import read_json; read_json(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=30)
    assert "'a' occurs more than once" in done.stderr


@pytest.mark.parametrize("way", ["sheet", "shared strings", "declared", "entities"])
def test_a_workbook_that_unpacks_to_more_than_allowed_is_refused_before_it_is_unpacked(tmp_path, monkeypatch, way):
    monkeypatch.setattr(files, "MAX_UNPACKED_BYTES", 2**20)
    path, spaces = tmp_path / "t.xlsx", " " * 2**21
    if way == "sheet":
        workbook(path, spaces)
    elif way == "shared strings":
        workbook(path, "", f"<sst>{spaces}</sst>")
    elif way == "declared":
        # A directory that lies about the size: zipfile stops at what it declares.
        data = workbook(path, spaces).read_bytes()
        size = (len(SHEET.format(spaces))).to_bytes(4, "little")
        path.write_bytes(data.replace(size, (1000).to_bytes(4, "little")))
    else:
        laughs = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 20))
        with zipfile.ZipFile(path, "w") as book:
            text = f'<!DOCTYPE x [<!ENTITY a0 "ha">{laughs}]>' + SHEET.format(
                '<row r="1"><c r="A1"><v>&a19;</v></c></row>'
            )
            book.writestr("xl/worksheets/sheet1.xml", text)
    with pytest.raises(DataError, match=r"bytes when unpacked; at most|not an xlsx workbook"):
        list(read_xlsx(path))


@pytest.mark.parametrize(
    "rows",
    [
        '<row r="1"><c r="ZZZZZZZZ1"><v>1</v></c></row>',
        '<row r="1"><c r="XFE1"><v>1</v></c></row>',
        '<row r="1"><c r="1"><v>1</v></c></row>',
        '<row r="1"><c><v>1</v></c></row>',
        '<row><c r="A1"><v>1</v></c></row>',
        '<row r="x"><c r="A1"><v>1</v></c></row>',
        '<row r="1"><c r="A1" t="s"><v>7</v></c></row>',
        '<row r="1"><c r="A1" t="s"><v>-1</v></c></row>',
        '<row r="1"><c r="A1" t="s"></c></row>',
        '<row r="1"><c r="A1">',
    ],
)
def test_a_malformed_workbook_is_one_sentence(tmp_path, rows):
    with pytest.raises(DataError, match="not an xlsx workbook"):
        list(read_xlsx(workbook(tmp_path / "t.xlsx", rows)))


def test_a_workbook_is_read_as_openpyxl_reads_it(tmp_path):
    book = openpyxl.Workbook()
    cells = [["name", "", "said"], ["00012", 1.5, "a & b"], ["x", None, "  blank "]]
    for row in cells:
        book.active.append(row)
    book.save(tmp_path / "t.xlsx")
    rows = [list(row) + [""] * (3 - len(row)) for _, row in read_xlsx(tmp_path / "t.xlsx")]
    assert rows == [["" if cell is None else str(cell) for cell in row] for row in cells]


class Shell:
    def __reduce__(self):
        return os.system, ("touch harmed",)


class Huge:
    def __reduce__(self):
        return np.ndarray((0,)).__reduce__()[0], (np.ndarray, (10**12,), b"b")


class Call:
    def __reduce__(self):
        return np.ndarray, ((10**12,),)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (pickle.dumps(Shell()), "it holds posix.system"),
        (pickle.dumps(Huge()), r"it begins an array of shape \(1000000000000,\)"),
        (pickle.dumps(Call()), "not a label archive"),
        (b"\x80\x04" + b"]" * 100_000 + b".", "not a label archive"),
        (b"", "not a label archive"),
        (pickle.dumps({"a": {"emo": 1}})[:-5], "not a label archive"),
        (b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b".", "not a label archive"),
    ],
)
def test_a_label_archive_that_is_more_than_plain_values_is_refused(tmp_path, monkeypatch, content, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=sentence):
        read_corpus(archive(tmp_path / "label.npz", content))
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|O', 'shape': (",
        "{'descr': '|O'" + " " * 20_000 + "}",
        "[" * 9000,
        "__import__('os').system('x')",
        "{}",
    ],
)
def test_a_label_archive_with_a_hostile_header_is_refused(tmp_path, header):
    with pytest.raises(DataError, match="not a label archive"):
        read_corpus(archive(tmp_path / "label.npz", b"", header))


def test_a_label_archive_that_unpacks_to_more_than_allowed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_UNPACKED_BYTES", 2**20)
    with pytest.raises(DataError, match="bytes when unpacked; at most 1,048,576"):
        read_corpus(archive(tmp_path / "label.npz", bytes(2**21)))


def test_a_label_archive_of_numpy_is_still_read(tmp_path):
    corpus = {"a": {"emo": np.int64(3), "val": np.float32(0.5)}, "b": {"emo": "happy", "val": -1}}
    np.savez(tmp_path / "label.npz", train_corpus=np.array(corpus, dtype=object))
    assert read_corpus(tmp_path / "label.npz") == {"train": corpus}


def test_a_text_file_is_not_read_beyond_the_limit_and_a_pipe_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_BYTES", 10)
    (tmp_path / "t.csv").write_text("a" * 11)
    with pytest.raises(DataError, match="the file has 11 bytes; at most"):
        read_text(tmp_path / "t.csv")
    os.mkfifo(tmp_path / "p.csv")
    with pytest.raises(DataError, match="not a file"):
        read_text(tmp_path / "p.csv")


@pytest.mark.parametrize("value", ["1_000", "nan", "1e999", 10**400, [1], {}, "x" * 10_000, "true"])
def test_what_is_not_a_number_is_shown_in_short(value):
    with pytest.raises(DataError, match="column valence is") as caught:
        number("t.csv", 3, "valence", value, -5, 5)
    assert len(str(caught.value)) < 250
    with pytest.raises(DataError, match="one of happy"):
        choice("t.csv", 3, "label", value, {"happy": 1})


def test_rows_of_mixed_types_are_named_by_their_line(tmp_path):
    for value in ([], {}, 3, None, True, 1.5):
        path = tmp_path / "t.jsonl"
        path.write_text('{"id": "a"}\n' + json.dumps({"id": value}) + "\n")
        with pytest.raises(DataError, match="a text under 'id' or 'name' is needed") as caught:
            read_table(path, files.MediaFolder(None))
        assert caught.value.line == 2
