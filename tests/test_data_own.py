"""Data of one's own: a folder of clips and tables of rows, good and broken."""

import json

import pytest

from hf_emotion.data.files import DataError, MediaFolder
from hf_emotion.data.readers.own import read_folder, read_table
from hf_emotion.data.schema import make_row

SRT = "1\n00:00:00,500 --> 00:00:01,250\nAnn: Hello.\n\n"


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return root


def test_a_folder_gives_labels_splits_subtitles_and_utterances_from_places_and_names(tmp_path):
    root = write(
        tmp_path,
        {
            "train/happy/00012.mp4": "",
            "train/happy/00012.wav": "",
            "train/happy/00012.srt": SRT,
            "val/happy/None.mov": "",
            "val/happy/None.txt": " It works. ",
            "test/loose.flac": "",
            "test/.hidden.mp4": "",
            "notes.md": "not a clip",
        },
    )
    assert read_folder(root).splits == {
        "train": [
            make_row(
                id="00012",
                video=str(root / "train/happy/00012.mp4"),
                audio=str(root / "train/happy/00012.wav"),
                utterances=[{"start": 0.5, "end": 1.25, "text": "Ann: Hello.", "speaker": None}],
                label="happy",
                labels=["happy"],
            )
        ],
        "validation": [
            make_row(
                id="None",
                video=str(root / "val/happy/None.mov"),
                subtitle="It works.",
                label="happy",
                labels=["happy"],
            )
        ],
        "test": [make_row(id="loose", audio=str(root / "test/loose.flac"))],
    }


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"readme.md": ""}, "no clips in this folder"),
        ({"happy/a.mp4": "", "sad/a.mp4": ""}, "'a' occurs more than once"),
        ({"a.mp4": "", "a.avi": ""}, "second video file"),
        ({"a.mp4": "", "a.srt": SRT, "a.vtt": "WEBVTT\n"}, "second file with utterances"),
        ({"a.mp4": "", "a.srt": "1\n00:00:02,000 --> 00:00:01,000\nBack.\n"}, "a.srt"),
        ({"a.mp4": "", "a.txt": b"\xff"}, r"a\.txt:1: .*not UTF-8"),
    ],
)
def test_a_folder_that_cannot_be_read_says_which_file(files, words, tmp_path):
    with pytest.raises(DataError, match=words):
        read_folder(write(tmp_path, files))


ROWS = [
    {"id": "00012", "video": "clips/x.mp4", "label": "sad", "valence": -0.5, "split": "dev", "mood": "grey"},
    {
        "id": "None",
        "audio": "clips/y.wav",
        "labels": ["torn", "glad"],
        "question": "How?",
        "answer": "Torn.",
        "utterances": [{"start": 0, "end": 2.5, "text": "Hm."}],
    },
]


def as_jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


CSV = (
    "name,video,audio,label,labels,valence,split,question,answer,utterances,mood\n"
    "00012,clips/x.mp4,,sad,,-0.5,dev,,,,grey\n"
    'None,,clips/y.wav,,"[\'torn\', \'glad\']",,,How?,Torn.,"[{""start"": 0, ""end"": 2.5, ""text"": ""Hm.""}]",\n'
)


@pytest.mark.parametrize(
    ("name", "content"), [("t.csv", CSV), ("t.jsonl", as_jsonl(ROWS)), ("t.json", json.dumps(ROWS))]
)
def test_the_three_forms_of_a_table_give_the_same_rows(name, content, tmp_path):
    write(tmp_path, {name: content, "clips/x.mp4": "", "clips/y.wav": ""})
    reading = read_table(tmp_path / name, MediaFolder(None))
    assert reading.splits == {
        "validation": [
            make_row(id="00012", video=str(tmp_path / "clips/x.mp4"), label="sad", labels=["sad"], valence=-0.5)
        ],
        "train": [
            make_row(
                id="None",
                audio=str(tmp_path / "clips/y.wav"),
                labels=["torn", "glad"],
                question="How?",
                answer="Torn.",
                utterances=[{"start": 0, "end": 2.5, "text": "Hm."}],
            )
        ],
    }
    assert any("mood" in note for note in reading.notes)


def test_paths_are_taken_from_the_media_folder_and_clips_without_paths_are_found_by_their_id(tmp_path):
    write(tmp_path, {"m/deep/a.mp4": "", "m/b.mp4": "", "t.csv": "id,video\na,\nb,b.mp4\nc,c.mp4\nd,\n"})
    media = MediaFolder(tmp_path / "m")
    rows = read_table(tmp_path / "t.csv", media).splits["train"]
    assert [row["video"] for row in rows] == [str(tmp_path / "m/deep/a.mp4"), str(tmp_path / "m/b.mp4"), None, None]
    assert media.missing == ["c (c.mp4)", "d"]


def test_utterances_may_be_a_subtitle_file(tmp_path):
    write(tmp_path, {"t.csv": "id,utterances\na,a.srt\n", "a.srt": SRT})
    (row,) = read_table(tmp_path / "t.csv", MediaFolder(None)).splits["train"]
    assert [(u["start"], u["end"], u["text"]) for u in row["utterances"]] == [(0.5, 1.25, "Ann: Hello.")]


@pytest.mark.parametrize(
    ("name", "content", "line", "words"),
    [
        ("t.csv", "video\na.mp4\n", 2, ["'id' or 'name'"]),
        ("t.csv", "id,valence\na,1\nb,much\n", 3, ["valence", "'much'"]),
        ("t.csv", "id,label\na,x\na,y\n", 3, ["'a'", "line 2"]),
        ("t.csv", b"id,label\na,x\nb,\xe9\n", 3, ["not UTF-8"]),
        ("t.csv", "id,labels\na,['x'\n", 2, ["brackets"]),
        ("t.csv", "id,utterances\na,[{]\n", 2, ["utterances is not JSON"]),
        ("t.csv", "id,utterances\na,gone.srt\n", 2, ["gone.srt", "does not exist"]),
        ("t.csv", 'id,utterances\na,"[{""start"": 2, ""end"": 1}]"\n', 2, ["start < end"]),
        ("t.csv", "id\n", 1, ["no rows"]),
        ("t.jsonl", '{"id": "a"}\n{"id": 12}\n', 2, ["12", "text"]),
        ("t.jsonl", '{"id": "a"}\n{"id": "b",}\n', 2, ["not JSON"]),
        ("t.jsonl", '{"id": "a"}\n["b"]\n', 2, ["not an object"]),
        ("t.jsonl", '{"id": "a", "labels": "x"}\n', 1, ["'labels'"]),
        ("t.jsonl", '{"id": "a", "label": 3}\n', 1, ["'label'"]),
        ("t.jsonl", '{"id": "a", "video": 3}\n', 1, ["video is 3"]),
        ("t.jsonl", '{"id": "a", "utterances": 3}\n', 1, ["utterances is 3"]),
        ("t.json", '{"id": "a"}', 1, ["list of objects"]),
        ("t.json", '[{"id": "a"}\n{"id": "b"}]', 2, ["not JSON"]),
        ("t.xml", "<a/>", None, [".csv, .jsonl, .json or .parquet"]),
    ],
)
def test_a_broken_table_gives_one_error_with_file_and_line(name, content, line, words, tmp_path):
    write(tmp_path, {name: content})
    with pytest.raises(DataError) as error:
        read_table(tmp_path / name, MediaFolder(None))
    assert error.value.path == str(tmp_path / name)
    assert error.value.line == line
    for word in words:
        assert word in str(error.value)
