"""Files that are written whole or not at all, and lines that end where a text editor ends them."""

import errno
import json
from contextlib import suppress

import pytest

from hf_emotion.data.build import build
from hf_emotion.data.files import MediaFolder, read_lines, replacing, write_whole
from hf_emotion.data.readers.own import read_table


def test_a_file_is_replaced_by_the_new_one_and_no_temporary_file_is_left(tmp_path):
    write_whole(tmp_path / "new" / "a.txt", "one")
    write_whole(tmp_path / "new" / "a.txt", "two")
    assert (tmp_path / "new" / "a.txt").read_text() == "two"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path, files_limited_to):
    path = tmp_path / "a.txt"
    write_whole(path, "old")
    with pytest.raises(OSError, match=r"a\.txt") as error, files_limited_to(1000):
        write_whole(path, "new" * 10_000)
    assert error.value.errno == errno.EFBIG
    assert error.value.filename == str(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_at_once_or_stays_as_it_was(tmp_path):
    folder = tmp_path / "folder"
    for content in ("one", "two"):
        with replacing(folder) as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
        assert [path.name for path in folder.iterdir()] == [content]
    with suppress(KeyboardInterrupt), replacing(folder) as temporary:
        temporary.mkdir()
        (temporary / "three").write_text("three")
        raise KeyboardInterrupt
    with pytest.raises(OSError, match="folder"), replacing(folder, overwrite=False) as temporary:
        temporary.mkdir()
    assert [path.name for path in folder.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_build_on_a_full_disk_leaves_the_dataset_that_was_there(tmp_path, files_limited_to):
    table = tmp_path / "rows.jsonl"
    write_whole(table, "".join(json.dumps({"id": str(n), "description": "x" * 2000}) + "\n" for n in range(50)))
    build("table", table, output=tmp_path / "out")
    before = sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "out").rglob("*"))
    with pytest.raises(OSError, match=r"File too large|not be written"), files_limited_to(5000):
        build("table", table, output=tmp_path / "out", overwrite=True)
    assert sorted((path.name, path.stat().st_mtime_ns) for path in (tmp_path / "out").rglob("*")) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "rows.jsonl"]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085", "\x0b", "\x0c", "\x1c"])
def test_a_row_may_hold_any_character_that_ends_a_line_elsewhere(mark, tmp_path):
    path = tmp_path / "rows.jsonl"
    row = {"id": f"a{mark}b", "label": "sad", "description": f"one{mark}two"}
    write_whole(path, json.dumps(row, ensure_ascii=False) + "\n" + json.dumps({"id": "c", "label": "sad"}) + "\r\n")
    [first, second] = read_table(path, MediaFolder(None)).splits["train"]
    assert (first["id"], first["description"], second["id"]) == (row["id"], row["description"], "c")
    assert [number for number, _ in read_lines(path)] == [1, 2]
