"""Building: missing media, splits, leaks, utterances from sound, saving, the licence gate, the card, the command."""

import argparse
import json
import wave
from pathlib import Path

import numpy as np
import pytest
import yaml
from datasets import DatasetDict, disable_progress_bars, load_dataset, load_from_disk
from test_data_readers import SAMPLES, labelled, write

from hf_emotion.cli import main
from hf_emotion.data import build as build_module
from hf_emotion.data.build import (
    REPORT,
    SOURCES,
    LicenceError,
    build,
    check_licence,
    dataset_card,
    push,
    shared_clips,
    with_media,
)
from hf_emotion.data.files import DataError, MissingMediaError
from hf_emotion.data.schema import FEATURES, make_row

disable_progress_bars()


def wav(path, voiced, seconds=2.0, rate=16000):
    """A sound file with a 200 Hz tone in the stretches `voiced` over soft noise."""
    sound = np.random.default_rng(0).normal(0, 1e-3, int(seconds * rate))
    for start, end in voiced:
        a, b = int(start * rate), int(end * rate)
        sound[a:b] += 0.3 * np.sin(2 * np.pi * 200 * np.arange(b - a) / rate)
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((sound * 32767).astype("<i2").tobytes())


@pytest.fixture
def table(tmp_path):
    """Four clips of one's own: three labels, two sentences, a train and a test split; sound only."""
    for name, voiced in (
        ("00012", [(0.5, 1.2)]),
        ("None", [(0.2, 0.6), (1.2, 1.7)]),
        ("c", [(0.2, 0.6), (1.2, 1.7)]),
        ("d", []),
    ):
        wav(tmp_path / "m" / f"{name}.wav", voiced)
    path = tmp_path / "clips.csv"
    path.write_text(
        "id,label,subtitle,split\n00012,sad,I see.,train\nNone,glad,,train\nc,sad,One. Two.,train\nd,torn,,test\n",
        encoding="utf-8",
    )
    return path


def test_a_built_dataset_has_the_schema_the_source_and_the_licence(table, tmp_path):
    dataset, report = build("table", table, tmp_path / "m", licence="cc-by-4.0")
    assert dataset["train"].features == FEATURES
    assert dataset["train"].info.license == "cc-by-4.0"
    assert list(dataset["train"]) == [
        labelled(
            name,
            label,
            audio=str(tmp_path / "m" / f"{name}.wav"),
            subtitle=subtitle,
            source="table",
            licence="cc-by-4.0",
        )
        for name, label, subtitle in (("00012", "sad", "I see."), ("None", "glad", None), ("c", "sad", "One. Two."))
    ]
    assert report["splits"]["train"]["labels"] == {"sad": 2, "glad": 1}
    assert report["classes"] == ["glad", "sad", "torn"]


def test_missing_media_are_listed_once_all_of_them(table, tmp_path):
    for name in ("None", "d"):
        (tmp_path / "m" / f"{name}.wav").unlink()
    with pytest.raises(MissingMediaError, match="2 of 4 clips") as error:
        build("table", table, tmp_path / "m", output=tmp_path / "out")
    assert error.value.missing == ["None", "d"]
    assert "None, d" in str(error.value)
    assert not (tmp_path / "out").exists()

    dropped, report = build("table", table, tmp_path / "m", missing="drop")
    assert {name: split["id"][:] for name, split in dropped.items()} == {"train": ["00012", "c"]}
    assert report["missing"] == ["None", "d"]
    assert any("2 clips have no media file and are left out" in note for note in report["notes"])

    kept, _ = build("table", table, tmp_path / "m", missing="keep")
    assert [row["audio"] for row in kept["test"]] == [None]


def test_a_clip_of_several_pairs_is_missing_once(tmp_path):
    write(tmp_path / "a", SAMPLES["mer2026_prefer"][0])
    (tmp_path / "m").mkdir()
    with pytest.raises(MissingMediaError) as error:
        build("mer2026_prefer", tmp_path / "a", tmp_path / "m")
    assert error.value.missing == ["a"]


def test_without_a_media_folder_nothing_is_missing(tmp_path):
    dataset, report = build("mer2026", write(tmp_path, SAMPLES["mer2026"][0]))
    assert report["missing"] == []
    assert dataset["train"]["video"][:] == [None]


def test_a_clip_in_two_splits_is_a_leak(tmp_path):
    files = dict(SAMPLES["dfew"][0])
    files["EmoLabel_DataSplit/test(single-labeled)/set_1.csv"] = "video_name,label\n12,1\n"
    with pytest.raises(DataError, match="'00012' is in 'train' and in 'test': a leak"):
        build("dfew", write(tmp_path, files))


def test_splits_can_be_given_as_lists_of_names(table, tmp_path):
    write(tmp_path, {"dev.txt": "c\n\nd\n", "train.txt": "00012\n"})
    dataset, report = build(
        "table", table, tmp_path / "m", splits={"dev": tmp_path / "dev.txt", "train": tmp_path / "train.txt"}
    )
    assert {name: split["id"][:] for name, split in dataset.items()} == {"dev": ["c", "d"], "train": ["00012"]}
    assert any("1 clips are in none of them" in note for note in report["notes"])


@pytest.mark.parametrize(
    ("files", "line", "words"),
    [
        ({"x.txt": "c\nnobody\n"}, 2, "'nobody' is not in the annotations"),
        ({"x.txt": "c\n", "y.txt": "d\nc\n"}, 2, "'c' is already in the split 'x'"),
    ],
)
def test_a_wrong_list_of_names_is_an_error_with_file_and_line(files, line, words, table, tmp_path):
    write(tmp_path, files)
    with pytest.raises(DataError, match=words) as error:
        build("table", table, tmp_path / "m", splits={Path(name).stem: tmp_path / name for name in files})
    assert error.value.line == line


def test_clips_shared_with_other_sets_are_reported(table, tmp_path):
    write(tmp_path, {"test_names.txt": "c\nunknown\n"})
    build(
        "table",
        table,
        tmp_path / "m",
        output=tmp_path / "other",
        splits={"eval": write(tmp_path, {"e.txt": "None\n"}) / "e.txt"},
    )
    _, report = build("table", table, tmp_path / "m", against=[tmp_path / "test_names.txt", tmp_path / "other"])
    assert any("1 clips of train are also in test_names.txt: c" in note for note in report["notes"])
    assert any("1 clips of train are also in other eval: None" in note for note in report["notes"])
    assert shared_clips(["a#clues-0", "b"], ["a", "c#tracing-1"]) == ["a"]


def test_unknown_utterances_are_found_in_the_sound(table, tmp_path):
    dataset, report = build("table", table, tmp_path / "m", utterances="voice")
    spans = {row["id"]: row["utterances"] for split in dataset.values() for row in split}
    assert len(spans["None"]) == 2
    # What is said is known as a whole only: one utterance, from the first sound to the last.
    (whole,) = spans["c"]
    assert whole["text"] == "One. Two."
    assert abs(whole["start"] - 0.15) < 0.05
    assert abs(whole["end"] - 1.75) < 0.05
    assert spans["d"] == []
    assert report["splits"]["train"]["utterances"] == 4
    (all_of_it,) = build("table", table, tmp_path / "m", utterances="whole")[0]["test"][0]["utterances"]
    assert (all_of_it["start"], all_of_it["end"]) == (0.0, 2.0)


def test_utterances_that_the_source_knows_are_left_as_they_are(tmp_path):
    files, _, expected = SAMPLES["meld"]
    wav(tmp_path / "m" / "train_dia0_utt0.wav", [(0.5, 1.0)])
    dataset, _ = build("meld", write(tmp_path / "a", files), tmp_path / "m", missing="drop", utterances="voice")
    assert dataset["train"][0]["utterances"] == expected["train"][0]["utterances"]


def test_sound_that_cannot_be_read_is_named_with_every_file(table, tmp_path):
    for name in ("None", "d"):
        (tmp_path / "m" / f"{name}.wav").write_bytes(b"not a sound")
    with pytest.raises(DataError, match="2 clips cannot be read") as error:
        build("table", table, tmp_path / "m", utterances="voice")
    assert "None.wav" in str(error.value)
    assert "d.wav" in str(error.value)
    dropped, _ = build("table", table, tmp_path / "m", utterances="voice", missing="drop")
    assert dropped["train"]["id"][:] == ["00012", "c"]


def test_two_processes_give_the_rows_of_one(table, tmp_path):
    arguments = {"utterances": "voice", "tasks": ["recognition", "tracing"], "per_task": 2}
    one, _ = build("table", table, tmp_path / "m", **arguments)
    two, _ = build("table", table, tmp_path / "m", num_proc=2, **arguments)
    assert {name: list(split) for name, split in one.items()} == {name: list(split) for name, split in two.items()}
    assert [row["id"] for row in one["test"]] == ["d#recognition-0", "d#recognition-1"]
    assert len(one["train"]) == 3 * 4


def test_questions_take_the_classes_of_the_source_as_options(tmp_path):
    dataset, report = build("mer2026", write(tmp_path, SAMPLES["mer2026"][0]), tasks=["recognition"])
    (row,) = dataset["train"]
    assert all(option in row["question"] for option in SOURCES["mer2026"].classes)
    assert row["answer"] == "angry"
    assert report["splits"]["train"] | {"rows": 0} == report["splits"]["train"] | {"rows": 0, "clips": 1}


@pytest.mark.parametrize(
    ("name", "nearest"), [("tabel", "'table'"), ("folders", "'folder'"), ("merr_corse", "'merr_coarse'")]
)
def test_an_unknown_source_is_refused_with_the_nearest_and_those_for_own_data(name, nearest, tmp_path):
    with pytest.raises(
        ValueError, match=rf"unknown source '{name}'; did you mean {nearest}\?; your own data are 'table'"
    ):
        build(name, tmp_path)


def test_a_task_that_no_clip_can_answer_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no clip of the split 'train' can answer any of the tasks clues"):
        build("mer2026", write(tmp_path, SAMPLES["mer2026"][0]), tasks=["clues"])


def test_a_saved_dataset_loads_and_streams_with_the_same_rows(table, tmp_path):
    dataset, report = build("table", table, tmp_path / "m", output=tmp_path / "out")
    loaded = load_from_disk(str(tmp_path / "out"))
    assert isinstance(loaded, DatasetDict)
    assert loaded["train"].features == FEATURES
    assert list(loaded["train"]) == list(dataset["train"])
    stream = loaded["train"].to_iterable_dataset(num_shards=2)
    assert stream.num_shards == 2
    assert list(stream) == list(dataset["train"])
    assert json.loads((tmp_path / "out" / REPORT).read_text()) == report
    # What lies on the Hub is Parquet, one file or more a split.
    loaded["train"].to_parquet(str(tmp_path / "train.parquet"))
    lazily = load_dataset("parquet", data_files=str(tmp_path / "train.parquet"), split="train", streaming=True)
    assert list(lazily) == list(dataset["train"])


def test_an_output_is_replaced_only_when_asked_and_only_when_it_was_built_here(table, tmp_path):
    build("table", table, tmp_path / "m", output=tmp_path / "out")
    with pytest.raises(ValueError, match="overwrite"):
        build("table", table, tmp_path / "m", output=tmp_path / "out")
    build("table", table, tmp_path / "m", output=tmp_path / "out", utterances="whole", overwrite=True)
    assert load_from_disk(str(tmp_path / "out"))["test"][0]["utterances"]
    write(tmp_path, {"thesis/chapter.txt": "years of work"})
    with pytest.raises(ValueError, match="never replaced"):
        build("table", table, tmp_path / "m", output=tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis/chapter.txt").read_text() == "years of work"


def test_an_interrupted_save_leaves_neither_half_a_dataset_nor_the_loss_of_the_old_one(table, tmp_path, monkeypatch):
    build("table", table, tmp_path / "m", output=tmp_path / "out")
    before = sorted(path.name for path in tmp_path.iterdir())

    def fail(self, folder):
        Path(folder).mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(DatasetDict, "save_to_disk", fail)
    with pytest.raises(KeyboardInterrupt):
        build("table", table, tmp_path / "m", output=tmp_path / "out", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert len(load_from_disk(str(tmp_path / "out"))["train"]) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"source": "imdb"}, "unknown source 'imdb'.*ravdess"),
        ({"missing": "ignore"}, "missing is 'ignore'; 'error', 'drop' or 'keep'"),
        ({"utterances": "asr"}, "utterances is 'asr'"),
        ({"fold": 2}, "table has no option fold"),
        ({"tasks": ["mood"]}, "unknown tasks mood"),
        ({"source": "dfew", "subtitles": "x"}, "dfew has no option subtitles; it has fold"),
        ({"source": "emer_v2", "language": "german"}, "'german'; 'english' or 'chinese'"),
        ({"source": "dfew", "licence": "mit"}, "licence of dfew is its own"),
        ({"source": "merr_fine", "grain": "coarse"}, "has no option grain"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_in_one_sentence(arguments, words, table):
    arguments = {"source": "table", **arguments}
    with pytest.raises(ValueError, match=words):
        build(arguments.pop("source"), table, **arguments)


# --- the demo corpus as a source ---


def test_the_demo_corpus_becomes_rows_whose_utterances_keep_their_emotion(tmp_path):
    spans = [{"start": n, "end": n + 0.5, "text": f"Word {n}.", "speaker": None} for n in range(2)]

    def line(name, label, **extra):
        row = labelled(name, label, video=f"clips/{name}.mp4", utterances=spans, licence="CC0-1.0", source="x")
        return json.dumps(row | {"split": "train", "planted": "sad", "twin": None} | extra) + "\n"

    write(
        tmp_path,
        {
            "metadata.jsonl": line("demo_00000", "sad", cue="prosody", control=False, emotional_utterance=1)
            + line("demo_00000_control", "neutral", cue="prosody", control=True, emotional_utterance=None)
            + line("demo_00001", "nervous", cue="agreement", control=False, emotional_utterance=None),
            **{f"clips/{name}.mp4": "" for name in ("demo_00000", "demo_00000_control", "demo_00001")},
        },
    )
    dataset, _ = build("demo", tmp_path, tasks=["tracing"])
    first, second = 'Utterance 1 (0.0s - 0.5s): "Word 0."', 'Utterance 2 (1.0s - 1.5s): "Word 1."'
    assert dataset["train"]["answer"][:] == [
        f"{first} neutral.\n{second} sad.\nOver the whole clip: sad.",
        f"{first} neutral.\n{second} neutral.\nOver the whole clip: neutral.",
        f"{first}\n{second}\nOver the whole clip: nervous.",
    ]
    asked = dataset["train"][0]
    assert asked["video"] == str(tmp_path / "clips/demo_00000.mp4")
    assert (asked["source"], asked["licence"]) == ("demo", "cc0-1.0")
    (tmp_path / "clips/demo_00000.mp4").unlink()
    with pytest.raises(MissingMediaError, match="demo_00000"):
        build("demo", tmp_path)


# --- publishing ---


class Hub:
    """Stands in for `HfApi` and the two calls that send; keeps what would have been sent."""

    def __init__(self, monkeypatch, private=None):
        self.sent, self.private = {}, private
        hub = self

        class Api:
            def __init__(self, token=None):
                pass

            def create_repo(self, repo_id, repo_type, private, exist_ok):
                hub.private = private if hub.private is None else hub.private
                return f"https://hub/{repo_type}s/{repo_id}"

            def repo_info(self, repo_id, repo_type):
                return argparse.Namespace(private=hub.private)

        monkeypatch.setattr("huggingface_hub.HfApi", Api)
        monkeypatch.setattr(
            "huggingface_hub.DatasetCard.push_to_hub", lambda card, *a, **k: hub.sent.update(card=str(card))
        )
        monkeypatch.setattr("datasets.DatasetDict.push_to_hub", lambda data, *a, **k: hub.sent.update(data=data, **k))


@pytest.mark.parametrize("source", sorted(set(SAMPLES) - {"meld"}))
def test_sources_that_may_not_be_passed_on_are_not_published(source, tmp_path, monkeypatch):
    files, options, _ = SAMPLES[source]
    root = write(tmp_path / "a", files)
    options = {key: root / value if key in ("labels", "subtitles") else value for key, value in options.items()}
    build(source, root, output=tmp_path / "out", **options)
    hub = Hub(monkeypatch)
    with pytest.raises(LicenceError, match=rf"must not be public: {source} \(.*private repository"):
        push(tmp_path / "out", "me/set")
    assert hub.sent == {}
    push(tmp_path / "out", "me/set", private=True)
    assert hub.sent["private"] is True


def test_a_private_push_to_a_public_repository_that_is_there_already_is_refused(tmp_path, monkeypatch):
    build("mer2026", write(tmp_path / "a", SAMPLES["mer2026"][0]), output=tmp_path / "out")
    hub = Hub(monkeypatch, private=False)
    with pytest.raises(LicenceError, match="me/set exists and is public"):
        push(tmp_path / "out", "me/set", private=True)
    assert hub.sent == {}


def test_own_data_needs_a_licence_to_be_published(table, tmp_path, monkeypatch):
    build("table", table, tmp_path / "m", output=tmp_path / "out")
    hub = Hub(monkeypatch)
    with pytest.raises(LicenceError, match=r"table \(no licence stated"):
        push(tmp_path / "out", "me/set")
    assert hub.sent == {}


def test_one_forbidden_row_among_others_is_enough(tmp_path):
    from datasets import Dataset

    rows = [make_row(id="a", source="meld", licence="gpl-3.0"), make_row(id="b", source="dfew", licence="x")]
    dataset = DatasetDict(train=Dataset.from_list(rows, features=FEATURES))
    with pytest.raises(LicenceError, match="dfew") as error:
        check_licence(dataset, private=False)
    assert "meld" not in str(error.value)
    check_licence(dataset, private=True)


def test_what_is_published_names_no_folder_of_this_machine_and_finds_its_media_again(table, tmp_path, monkeypatch):
    dataset, _ = build("table", table, tmp_path / "m", output=tmp_path / "out", licence="cc-by-4.0")
    hub, files = Hub(monkeypatch), sorted((tmp_path / "out").rglob("*"))
    push(tmp_path / "out", "me/set")
    assert sorted((tmp_path / "out").rglob("*")) == files
    assert hub.sent["data"]["train"]["audio"][:] == ["00012.wav", "None.wav", "c.wav"]
    assert str(tmp_path) not in hub.sent["card"]
    assert list(with_media(hub.sent["data"], tmp_path / "m")["train"]) == list(dataset["train"])


def test_every_number_of_the_card_comes_from_the_report(table, tmp_path):
    _, report = build("table", table, tmp_path / "m", licence="cc-by-4.0", utterances="voice", tasks=["recognition"])
    card = dataset_card(report, "me/set")
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "cc-by-4.0"
    assert "| train | 3 | 3 | 0 | 3 | 2 | 3 | 4 | 0 | 2 |" in card
    assert "Labels of train: sad 2, glad 1." in card
    assert "Questions: recognition; 1 of each task about a clip, seed 0" in card
    assert "voice activity" in card
    assert 'load_dataset("me/set")' in card
    report["splits"]["train"]["rows"] = 4711
    assert "| train | 4711 |" in dataset_card(report)


@pytest.mark.parametrize("source", SAMPLES)
def test_the_card_of_every_source_says_its_terms_and_notes(source, tmp_path):
    files, options, _ = SAMPLES[source]
    root = write(tmp_path / "a", files)
    options = {key: root / value if key in ("labels", "subtitles") else value for key, value in options.items()}
    _, report = build(source, root, **options)
    card = dataset_card(report)
    assert SOURCES[source].licence in card
    assert SOURCES[source].reference in card
    assert all(f"- {note}" in card for note in report["notes"])
    assert str(tmp_path) not in card
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] in ("other", "gpl-3.0")


# --- the command line ---


def command(*arguments):
    return main(["build", *map(str, arguments)])


def test_the_command_builds_prints_and_ends_with_zero(table, tmp_path, capsys):
    code = command(
        "table",
        "--annotations",
        table,
        "--media",
        tmp_path / "m",
        "--output",
        tmp_path / "out",
        "--tasks",
        "recognition",
    )
    assert code == 0
    assert "train: 3 clips, 3 rows" in capsys.readouterr().out
    assert len(load_from_disk(str(tmp_path / "out"))["train"]) == 3


def test_the_command_prints_its_report_as_json_without_saving(tmp_path, capsys):
    for actor in (1, 2):
        wav(tmp_path / f"Actor_{actor:02d}" / f"03-01-05-01-01-01-{actor:02d}.wav", [(0.5, 1)])
    assert command("ravdess", "--media", tmp_path, "--speakers", "train=1", "--speakers", "test=2-3", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert {name: split["clips"] for name, split in report["splits"].items()} == {"train": 1, "test": 1}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mer2026", "--annotations", "nowhere", "--json"], "none of track1_train.csv"),
        (["mer2026", "--json"], "--annotations is needed"),
        (["mer2026", "--annotations", "."], "--output is needed"),
        (["demo", "--json"], "--output is needed"),
        (["mer2026", "--annotations", ".", "--json", "--push-to-hub", "me/set"], "--push-to-hub needs --output"),
        (["meld", "--annotations", ".", "--json", "--fold", "2"], "meld has no option fold"),
    ],
)
def test_the_command_ends_with_one_sentence_and_a_failure_code(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command(*arguments) == 2
    out, err = capsys.readouterr()
    assert words in err
    assert err.startswith("hf-emotion: ")
    assert err.count("\n") == 1
    assert out == ""


def test_the_command_refuses_to_publish_and_says_why(tmp_path, capsys, monkeypatch):
    hub = Hub(monkeypatch)
    root = write(tmp_path / "a", SAMPLES["mer2026"][0])
    arguments = ("mer2026", "--annotations", root, "--output", tmp_path / "out", "--push-to-hub", "me/set")
    assert command(*arguments) == 2
    assert "must not be public" in capsys.readouterr().err
    assert hub.sent == {}
    assert command(*arguments, "--overwrite", "--private") == 0
    assert "https://hub/datasets/me/set" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["train", "train=1-", "=3", "train=a"])
def test_a_wrong_speaker_list_is_a_usage_error(text, capsys):
    with pytest.raises(SystemExit):
        command("ravdess", "--media", ".", "--speakers", text)
    assert text in capsys.readouterr().err


def test_the_command_line_of_demo_makes_the_clips_and_the_dataset(tmp_path, monkeypatch, capsys):
    called = {}

    def make_demo(output_dir, **arguments):
        called.update(arguments, output_dir=output_dir)
        row = labelled("demo_0", "sad", video="clips/demo_0.mp4", licence="CC0-1.0", source="x")
        extra = {"split": "test", "emotional_utterance": None, "control": True, "cue": "face", "utterances": []}
        write(Path(output_dir), {"metadata.jsonl": json.dumps(row | extra) + "\n", "clips/demo_0.mp4": ""})

    monkeypatch.setattr("hf_emotion.data.demo.make_demo", make_demo)
    arguments = ("demo", "--output", tmp_path / "d", "--clips", 7, "--seed", 3, "--cues", "face", "--num-proc", 1)
    assert command(*arguments) == 0
    assert called == {"output_dir": tmp_path / "d_media", "num_clips": 7, "seed": 3, "cues": ["face"], "num_workers": 1}
    assert load_from_disk(str(tmp_path / "d"))["test"]["id"][:] == ["demo_0"]
    assert command(*arguments) == 2
    assert "overwrite" in capsys.readouterr().err


# --- real data ---


def test_ravdess_builds_1200_rows_with_utterances_and_splits_that_share_no_speaker(shared_data):
    folder = shared_data / "ravdess_speech_16k"
    dataset, report = build("ravdess", folder, utterances="voice", num_proc=2)
    assert sum(len(split) for split in dataset.values()) == 1200
    speakers = {name: {row_id[-2:] for row_id in split["id"]} for name, split in dataset.items()}
    assert not speakers["train"] & speakers["test"]
    assert report["missing"] == []
    spans = [span for split in dataset.values() for (span,) in split["utterances"]]
    assert len(spans) == 1200
    lengths = np.array([span["end"] - span["start"] for span in spans])
    # A sentence of six or seven syllables in a file of 3 to 5 s that begins and ends quietly.
    assert np.percentile(lengths, 1) > 1.0
    assert np.median(lengths) < 3.0
    assert min(span["start"] for span in spans) >= 0
    assert {span["text"] for span in spans} == {"Kids are talking by the door", "Dogs are sitting by the door"}
    assert build_module.SOURCES["ravdess"].may_publish
