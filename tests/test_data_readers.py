"""Every reader on a small sample in its source's layout (our own sentences), and on broken copies of it."""

import io

import numpy as np
import openpyxl
import pytest

from hf_emotion.data.build import SOURCES
from hf_emotion.data.files import DataError, MediaFolder, read_corpus, read_csv, word_list
from hf_emotion.data.readers import emer, mer, recognition
from hf_emotion.data.schema import make_row
from hf_emotion.processing.voice_activity import voice_spans


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return root


def labelled(name, label, **fields):
    return make_row(id=name, label=label, labels=[label], **fields)


MELD_HEAD = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\r\n"
IEMOCAP_HEAD = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
IEMOCAP_VOTES = "C-E2:\tNeutral;\t()\nA-E3:\tval 3; act 2; dom  2;\t()\n\n"

# source -> (files, options, expected rows). The expected rows are complete: every other field must be None.
SAMPLES = {
    "emer_v1": (
        {
            "gt-eng.csv": "names,emotions,subtitles,reasons\n"
            'None,angry,"Out, now.","He shouts ""out"" and\nslams the door, so he is angry."\n'
            "sample_00000007,happy,,She laughs.\n"
        },
        {},
        {
            "test": [
                labelled(
                    "None",
                    "angry",
                    subtitle="Out, now.",
                    description='He shouts "out" and\nslams the door, so he is angry.',
                ),
                labelled("sample_00000007", "happy", description="She laughs."),
            ]
        },
    ),
    "emer_v2": (
        {
            "final-EMER-reason.csv": "name,chinese,english\n"
            "sample_00000000,他笑了。,He smiles.\nnan,她哭了。,She cries.\n",
            "check-openset.csv": "name,openset\nsample_00000000,\"['calm', 'well-meaning']\"\nother,[]\n",
            "subtitle.csv": "name,chinese,english\nsample_00000000,好。,Fine.\nnan,,\n",
        },
        {"labels": "check-openset.csv", "subtitles": "subtitle.csv"},
        {
            "test": [
                make_row(
                    id="sample_00000000", labels=["calm", "well-meaning"], subtitle="Fine.", description="He smiles."
                ),
                make_row(id="nan", description="She cries."),
            ]
        },
    ),
    "merr_coarse": (
        {
            "MERR_coarse_grained.json": '{\n"sample_00000047": {"AU_list": ["AU12"], "visual_prior_list": ["up"],\n'
            ' "audio_prior_list": "a light tone", "peak_index": "14", "peak_AU_list": ["AU12"],\n'
            ' "pseu_emotion": "happy", "caption": "Lip corners up, a light tone."},\n'
            '"sample_00000048": {"pseu_emotion": "doubt", "caption": "One brow up."},\n'
            '"sample_00000049": {"pseu_emotion": "fear", "caption": "Not in the list."}\n}\n',
            "MERR_coarse_grained.txt": "sample_00000048 77 contempt\nsample_00000047 130 happy\n",
        },
        {},
        {
            "train": [
                labelled("sample_00000048", "contempt", description="One brow up."),
                labelled("sample_00000047", "happy", description="Lip corners up, a light tone."),
            ]
        },
    ),
    "merr_fine": (
        {
            "MERR_fine_grained.json": '{"a": {"pseu_emotion": "worried", "text": "Where is she?",'
            ' "smp_reason_caption": "The voice trembles."}}',
        },
        {},
        {"train": [labelled("a", "worried", subtitle="Where is she?", description="The voice trembles.")]},
    ),
    "mer2023": (
        {
            "train-label.csv": "name,discrete,valence\nsample_00002721,neutral,-0.25\n00012,worried,-10\n",
            "test1-label.csv": "name,discrete,valence\nsample_00000001,happy,\n",
            "test3-label.csv": "name,discrete\nsample_00000002,surprise\n",
            "transcription.csv": "name,sentence\nsample_00002721,好的\n00012,\n",
        },
        {"subtitles": "transcription.csv", "language": "chinese"},
        {
            "train": [
                labelled("sample_00002721", "neutral", valence=-0.25, subtitle="好的"),
                labelled("00012", "worried"),
            ],
            "test1": [labelled("sample_00000001", "happy")],
            "test3": [labelled("sample_00000002", "surprise")],
        },
    ),
    "mer2024": (
        {
            "label-disdim.csv": "name,discrete,valence\nsample_00000005,sad,-2.5\n",
            "ov.csv": "name,openset\nsample_00000007,\"['excited', 'joyful']\"\nsample_00000008,\n",
        },
        {"labels": "ov.csv"},
        {
            "train": [labelled("sample_00000005", "sad", valence=-2.5)],
            "test_ov": [
                make_row(id="sample_00000007", labels=["excited", "joyful"]),
                make_row(id="sample_00000008", labels=[]),
            ],
        },
    ),
    "mer2025": (
        {
            "track1_train_disdim.csv": "name,discrete,valence\nsamplenew3_00000001,angry,-1\n",
            "track1_test_dis.csv": "name,discrete\nsamplenew3_00000002,happy\n",
            "subtitle_chieng.csv": "name,chinese,english\nsamplenew3_00000001,走,Go\nsamplenew3_00000002,,\n",
        },
        {},
        {
            "train": [labelled("samplenew3_00000001", "angry", valence=-1.0, subtitle="Go")],
            "test": [labelled("samplenew3_00000002", "happy")],
        },
    ),
    "mer2026": (
        {"track1_train.csv": "name,discrete\nsample_1,angry\n"},
        {},
        {"train": [labelled("sample_1", "angry")]},
    ),
    "mer_caption_plus": (
        {
            "track2_train_mercaptionplus.csv": "name,openset\na,\"['hurt', 'let down']\"\nb,[]\n",
            "track3_train_mercaptionplus.csv": "name,reason\nb,Nothing stands out.\na,The gaze drops.\n",
            "subtitle_chieng.csv": "name,chinese,english\na,,Oh.\n",
        },
        {},
        {
            "train": [
                make_row(id="a", labels=["hurt", "let down"], description="The gaze drops.", subtitle="Oh."),
                make_row(id="b", labels=[], description="Nothing stands out."),
            ]
        },
    ),
    "ov_merd": (
        {
            "track2_train_ovmerd.csv": "name,openset\na,['proud']\n",
            "track3_train_ovmerd.csv": "name,reason\na,Chin up.\n",
        },
        {},
        {"train": [make_row(id="a", labels=["proud"], description="Chin up.")]},
    ),
    "mer2026_human": (
        {"track2_train_human.csv": "name,openset\na,\"['proud', 'warm']\"\n"},
        {},
        {"train": [make_row(id="a", labels=["proud", "warm"])]},
    ),
    "mer2026_prefer": (
        {
            "track3_emoprefer.csv": 'name,a1,a2,preference\na,"He is\nglad.",He is sad.,a1\n'
            "a,He is shy.,He is sad.,same\n",
        },
        {},
        {
            "emoprefer": [
                make_row(
                    id="a/1",
                    question='Two descriptions of the person in this clip: a1: "He is glad." a2: "He is sad." '
                    "Which one fits better what is seen and heard? Answer a1, a2, or same if they fit equally well.",
                    answer="a1",
                    label="a1",
                ),
                make_row(
                    id="a/2",
                    question='Two descriptions of the person in this clip: a1: "He is shy." a2: "He is sad." '
                    "Which one fits better what is seen and heard? Answer a1, a2, or same if they fit equally well.",
                    answer="same",
                    label="same",
                ),
            ]
        },
    ),
    "dfew": (
        {
            "EmoLabel_DataSplit/train(single-labeled)/set_1.csv": "video_name,label\n12,1\n16372,7\n",
            "EmoLabel_DataSplit/test(single-labeled)/set_1.csv": "video_name,label\n3,4\n",
        },
        {},
        {"train": [labelled("00012", "happy"), labelled("16372", "fear")], "test": [labelled("00003", "angry")]},
    ),
    "mafw": (
        {
            "split/single/no_caption/set_2/train.txt": "00025.mp4 happiness\n00026.mp4 helplessness\n",
            "split/single/no_caption/set_2/test.txt": "00027.mp4 contempt\n",
        },
        {"fold": 2},
        {
            "train": [labelled("00025", "happiness"), labelled("00026", "helplessness")],
            "test": [labelled("00027", "contempt")],
        },
    ),
    "meld": (
        {
            "train_sent_emo.csv": MELD_HEAD
            + '1,"Well, it’s gone.",Ann,sadness,negative,0,0,4,7,"00:16:16,059","00:16:21,731"\r\n'
            + '2,What?,Bo,surprise,negative,0,1,4,7,"00:59:59,900","01:00:01,000"\r\n',
            "dev_sent_emo.csv": MELD_HEAD + '1,None,Cy,joy,positive,0,0,1,1,"0:00:01,5","0:00:02,25"\r\n',
            "test_sent_emo.csv": MELD_HEAD + '1,Hm.,Di,neutral,neutral,0,0,1,1,"0:12:32,632","0:12:32,632"\r\n',
        },
        {},
        {
            "train": [
                labelled(
                    "train_dia0_utt0",
                    "sadness",
                    subtitle="Well, it’s gone.",
                    utterances=[{"start": 0, "end": 5.672, "text": "Well, it’s gone.", "speaker": "Ann"}],
                ),
                labelled(
                    "train_dia0_utt1",
                    "surprise",
                    subtitle="What?",
                    utterances=[{"start": 0, "end": 1.1, "text": "What?", "speaker": "Bo"}],
                ),
            ],
            "validation": [
                labelled(
                    "dev_dia0_utt0",
                    "joy",
                    subtitle="None",
                    utterances=[{"start": 0, "end": 0.75, "text": "None", "speaker": "Cy"}],
                )
            ],
            "test": [labelled("test_dia0_utt0", "neutral", subtitle="Hm.")],
        },
    ),
    "iemocap": (
        {
            "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt": IEMOCAP_HEAD
            + "[6.2901 - 8.2357]\tSes01F_impro01_F000\texc\t[4.5000, 2.5000, 2.5000]\n"
            + IEMOCAP_VOTES
            + "[10.0100 - 11.3925]\tSes01F_impro01_F001\tfru\t[2.5000, 2.5000, 2.5000]\n"
            + IEMOCAP_VOTES,
            "Session1/dialog/transcriptions/Ses01F_impro01.txt": "Ses01F_impro01_F000 [006.2901-008.2357]: It's here.\n"
            "M: [LAUGHTER]\nSes01F_impro01_F001 [010.0100-011.3925]: Well.\n",
            "Session5/dialog/EmoEvaluation/Ses05M_script01.txt": IEMOCAP_HEAD
            + "[1.0000 - 2.5000]\tSes05M_script01_M003\tang\t[1.5000, 4.0000, 4.5000]\n"
            + IEMOCAP_VOTES,
            "Session5/dialog/transcriptions/Ses05M_script01.txt": "Ses05M_script01_M003 [001.0000-002.5000]: No!\n",
        },
        {},
        {
            "train": [
                labelled(
                    "Ses01F_impro01_F000",
                    "happy",
                    subtitle="It's here.",
                    valence=4.5,
                    utterances=[{"start": 0, "end": 1.9456, "text": "It's here.", "speaker": "F"}],
                )
            ],
            "test": [
                labelled(
                    "Ses05M_script01_M003",
                    "anger",
                    subtitle="No!",
                    valence=1.5,
                    utterances=[{"start": 0, "end": 1.5, "text": "No!", "speaker": "M"}],
                )
            ],
        },
    ),
    "mosi": (
        {
            "label.csv": "video_id,clip_id,text,label,label_T,label_A,label_V,annotation,mode\n"
            "03bSnISJMiM,1,IT WAS GOOD,2.4,,,,Positive,train\n"
            "0h-zjBukYpk,10,SO SO,0,,,,Neutral,valid\n"
            "_dI--eQ6qVU,2,,-1.8,,,,Negative,test\n"
        },
        {},
        {
            "train": [labelled("03bSnISJMiM_1", "positive", valence=2.4, subtitle="IT WAS GOOD")],
            "validation": [labelled("0h-zjBukYpk_10", "neutral", valence=0.0, subtitle="SO SO")],
            "test": [labelled("_dI--eQ6qVU_2", "negative", valence=-1.8)],
        },
    ),
}


def read(source, root, media=None, **options):
    paths = {key: root / value if key in ("labels", "subtitles") else value for key, value in options.items()}
    return SOURCES[source].read(root, MediaFolder(media), **paths)


@pytest.mark.parametrize("source", SAMPLES)
def test_a_sample_in_the_layout_of_the_source_gives_exactly_its_rows(source, tmp_path):
    files, options, expected = SAMPLES[source]
    assert read(source, write(tmp_path, files), **options).splits == expected


def workbook(*rows) -> bytes:
    book, data = openpyxl.Workbook(), io.BytesIO()
    for row in rows:
        book.active.append(row)
    book.save(data)
    return data.getvalue()


DFEW_HEAD = ("1happy", "2sad", "3neutral", "4angry", "5surprise", "6disgust", "7fear", "order", "label")


@pytest.mark.parametrize("head", [[DFEW_HEAD], []])
def test_the_votes_of_dfew_give_all_clips_with_a_single_class(head, tmp_path):
    rows = [(8, 1, 0, 1, 0, 0, 0, 12, 1), (3, 3, 0, 4, 0, 0, 0, 13, 0), (0, 0, 0, 0, 0, 1, 9, 16372, 7.0)]
    write(tmp_path, {"Annotation/annotation.xlsx": workbook(*head, *rows)})
    for annotations in (tmp_path / "Annotation", tmp_path / "Annotation" / "annotation.xlsx"):
        reading = read("dfew", annotations)
        assert reading.splits == {"train": [labelled("00012", "happy"), labelled("16372", "fear")]}
        assert any("1 clips are left out" in note for note in reading.notes)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ((1, 2, 3), ["3 cells", "votes"]),
        ((8, 1, 0, 1, 0, 0, 0, "clip", 1), ["clip is 'clip'", "5 digits"]),
        ((8, 1, 0, 1, 0, 0, 0, 12, 8), ["class is '8'"]),
        ((8, 1, 0, 1, 0, 0, 0, 11, 1), ["'00011' occurs more than once", "line 2"]),
    ],
)
def test_a_wrong_row_of_the_votes_of_dfew_is_named_by_its_number(row, words, tmp_path):
    path = write(tmp_path, {"annotation.xlsx": workbook(DFEW_HEAD, (0, 9, 0, 0, 0, 0, 1, 11, 2), row)})
    with pytest.raises(DataError) as error:
        read("dfew", path)
    assert error.value.line == 3
    assert all(word in str(error.value) for word in words), error.value


def test_compound_labels_of_mafw_become_several_labels_and_no_class(tmp_path):
    files = {
        "split/compound/no_caption/set_1/train.txt": "00025.mp4 anger_disgust\n00026.mp4 happiness\n",
        "split/compound/no_caption/set_1/test.txt": "00027.mp4 sadness_anxiety_helplessness\n",
    }
    assert read("mafw", write(tmp_path, files) / "split" / "compound").splits == {
        "train": [make_row(id="00025", labels=["anger", "disgust"]), labelled("00026", "happiness")],
        "test": [make_row(id="00027", labels=["sadness", "anxiety", "helplessness"])],
    }
    write(tmp_path, {"split/compound/no_caption/set_1/test.txt": "00027.mp4 sadness_hope\n"})
    with pytest.raises(DataError, match=r"test\.txt:1: column class is 'hope'; one of anger"):
        read("mafw", tmp_path / "split" / "compound")


def test_the_label_tables_of_mafw_are_read_together_or_alone(tmp_path):
    head = ["clip", *recognition.MAFW_CLASSES]
    votes = [0.5] * 11
    files = {
        "Labels/single-set.xlsx": workbook([*head, "single_label"], ["1.mp4", *votes, 4], ["2.mp4", *votes, 0]),
        "Labels/multi-set.xlsx": workbook([*head, "multi_label"], ["1.mp4", *votes, "4,7"], ["3.mp4", *votes, "6,10"]),
        "Labels/descriptive_text.xlsx": workbook(
            ["1.mp4", "他笑了。", "He laughs."], ["3.mp4", "她哭了。", "She cries."]
        ),
    }
    labels = write(tmp_path, files) / "Labels"
    first = {"id": "1", "label": "happiness", "labels": ["happiness", "surprise"]}
    third = {"id": "3", "labels": ["sadness", "helplessness"]}
    assert read("mafw", labels).splits == {
        "train": [make_row(**first, description="He laughs."), make_row(**third, description="She cries.")]
    }
    assert read("mafw", labels, language="chinese").splits["train"][0]["description"] == "他笑了。"
    assert read("mafw", labels / "single-set.xlsx").splits == {"train": [labelled("1", "happiness")]}
    assert read("mafw", labels / "multi-set.xlsx").splits["train"][1] == make_row(**third)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "single-set.xlsx",
            workbook(["clip", "label"], ["1.mp4", 4]),
            "1: no column single_label; the columns are clip",
        ),
        (
            "single-set.xlsx",
            workbook(["clip", "single_label"], ["1.mp4", 12]),
            "2: column single_label is '12'; one of",
        ),
        ("single-set.xlsx", workbook(["clip", "single_label"], ["1.mp4", None]), "2: column single_label is ''"),
        ("multi-set.xlsx", b"clip,multi_label\n", ": not an xlsx workbook"),
        ("annotation.xlsx", workbook(["clip"]), ": not a label table of MAFW; one of single-set.xlsx"),
    ],
)
def test_a_wrong_label_table_of_mafw_gives_one_error(name, content, message, tmp_path):
    write(tmp_path, {name: content})
    with pytest.raises(DataError) as error:
        read("mafw", tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path / name}:")
    assert message in str(error.value)


def test_every_source_of_the_field_has_a_sample():
    others = {"ravdess", "demo", "folder", "table", "openset", "candidates", "conversations"}  # tested elsewhere
    assert set(SOURCES) - set(SAMPLES) == others


# source, file to break, text to replace, by what, line of the error, words of its sentence
BROKEN = [
    ("emer_v1", "gt-eng.csv", "names,", "title,", 1, ["no column names", "title"]),
    ("emer_v1", "gt-eng.csv", "sample_00000007,", "None,", 4, ["'None'", "more than once", "line 2"]),
    ("emer_v1", "gt-eng.csv", "She laughs.", "", 4, ["reasons", "empty"]),
    ("emer_v1", "gt-eng.csv", "She laughs.\n", '"She laughs.\n', 4, ["comma-separated"]),
    ("emer_v2", "final-EMER-reason.csv", "english\n", "\n", 1, ["no column english"]),
    ("emer_v2", "final-EMER-reason.csv", "nan,", "sample_00000000,", 3, ["more than once"]),
    ("emer_v2", "final-EMER-reason.csv", "她哭了。", "她哭了。".encode("gbk"), 3, ["not UTF-8"]),
    ("emer_v2", "check-openset.csv", "'well-meaning']", "'well-meaning'", 2, ["openset", "brackets"]),
    ("merr_coarse", "MERR_coarse_grained.txt", "77", "many", 1, ["number-of-frames"]),
    ("merr_coarse", "MERR_coarse_grained.txt", "contempt", "bored", 1, ["'bored'", "contempt"]),
    ("merr_coarse", "MERR_coarse_grained.txt", "sample_00000047", "sample_00000048", 2, ["more than once", "line 1"]),
    ("merr_coarse", "MERR_coarse_grained.txt", "sample_00000047", "sample_1", 2, ["'sample_1'", "no entry"]),
    ("merr_coarse", "MERR_coarse_grained.json", '"sample_00000049"', '"sample_00000048"', 6, ["more than once"]),
    ("merr_coarse", "MERR_coarse_grained.json", '"caption": "One', '"text": "One', 5, ["caption"]),
    ("merr_coarse", "MERR_coarse_grained.json", '"doubt",', '"doubt"', 5, ["not JSON"]),
    ("merr_fine", "MERR_fine_grained.json", "worried", "bored", 1, ["'bored'"]),
    ("merr_fine", "MERR_fine_grained.json", "trembles", "trembl\u00e9".encode("latin-1"), 1, ["not UTF-8"]),
    ("mer2023", "train-label.csv", "discrete", "emotion", 1, ["no column discrete"]),
    ("mer2023", "train-label.csv", "-0.25", "low", 2, ["valence", "'low'", "number"]),
    ("mer2023", "train-label.csv", "-0.25", "nan", 2, ["valence", "'nan'"]),
    ("mer2023", "train-label.csv", "00012", "sample_00002721", 3, ["more than once"]),
    ("mer2023", "train-label.csv", "worried", "bored", 3, ["discrete", "'bored'", "worried"]),
    ("mer2023", "train-label.csv", "00012,worried,-10", "00012,worried", 3, ["2 cells", "3"]),
    ("mer2023", "transcription.csv", "好的", "好的".encode("gbk"), 2, ["not UTF-8"]),
    ("mer2024", "label-disdim.csv", "-2.5", "-2,5", 2, ["4 cells"]),
    ("mer2024", "ov.csv", "openset", "words", 1, ["no column openset"]),
    ("mer2024", "ov.csv", "sample_00000008", "sample_00000007", 3, ["more than once"]),
    ("mer2024", "label-disdim.csv", "sad", b"\xe9", 2, ["not UTF-8"]),
    ("mer2025", "track1_train_disdim.csv", "-1", "x", 2, ["valence", "'x'"]),
    ("mer2025", "track1_test_dis.csv", "name", "file", 1, ["no column name"]),
    ("mer2025", "subtitle_chieng.csv", "english", "german", 1, ["what is said", "german"]),
    ("mer2025", "subtitle_chieng.csv", "samplenew3_00000002", "samplenew3_00000001", 3, ["more than once"]),
    ("mer2025", "track1_train_disdim.csv", "angry", b"\xff", 2, ["not UTF-8"]),
    ("mer2026", "track1_train.csv", "angry", "", 2, ["discrete", "''"]),
    ("mer2026", "track1_train.csv", "sample_1", "", 2, ["empty name"]),
    ("mer2026", "track1_train.csv", "name", "id", 1, ["no column name"]),
    ("mer2026", "track1_train.csv", "angry\n", "angry\nsample_1,sad\n", 3, ["more than once"]),
    ("mer2026", "track1_train.csv", "angry", b"\xff", 2, ["not UTF-8"]),
    ("mer_caption_plus", "track2_train_mercaptionplus.csv", "openset", "ov", 1, ["no column openset"]),
    ("mer_caption_plus", "track2_train_mercaptionplus.csv", "\nb,", "\na,", 3, ["more than once"]),
    ("mer_caption_plus", "track3_train_mercaptionplus.csv", "a,The", "c,The", None, ["1 names", "no reason: a"]),
    ("mer_caption_plus", "track3_train_mercaptionplus.csv", "drops", "drop\u00e9".encode("latin-1"), 3, ["not UTF-8"]),
    ("ov_merd", "track2_train_ovmerd.csv", "name", "id", 1, ["no column name"]),
    ("ov_merd", "track2_train_ovmerd.csv", "['proud']", "['proud'", 2, ["brackets"]),
    ("ov_merd", "track3_train_ovmerd.csv", "a,", "a,\na,", 3, ["more than once"]),
    ("ov_merd", "track2_train_ovmerd.csv", "proud", b"\xff", 2, ["not UTF-8"]),
    ("mer2026_human", "track2_train_human.csv", "openset", "ov", 1, ["no column openset"]),
    ("mer2026_human", "track2_train_human.csv", "warm']\"\n", "warm']\"\na,[]\n", 3, ["more than once"]),
    ("mer2026_human", "track2_train_human.csv", "warm", b"\xff", 2, ["not UTF-8"]),
    ("mer2026_prefer", "track3_emoprefer.csv", "preference", "winner", 1, ["no column preference"]),
    ("mer2026_prefer", "track3_emoprefer.csv", "same", "tie", 4, ["'tie'", "same"]),
    ("mer2026_prefer", "track3_emoprefer.csv", "same", "same\na,He is shy.,He is sad.,a2", 5, ["line 4"]),
    ("mer2026_prefer", "track3_emoprefer.csv", "shy", b"\xff", 4, ["not UTF-8"]),
    ("dfew", "EmoLabel_DataSplit/train(single-labeled)/set_1.csv", "video_name", "clip", 1, ["no column video_name"]),
    ("dfew", "EmoLabel_DataSplit/train(single-labeled)/set_1.csv", "12,1", "12,8", 2, ["label", "'8'"]),
    ("dfew", "EmoLabel_DataSplit/train(single-labeled)/set_1.csv", "12,1", "x12,1", 2, ["video_name", "'x12'"]),
    ("dfew", "EmoLabel_DataSplit/train(single-labeled)/set_1.csv", "16372", "00012", 3, ["'00012'", "line 2"]),
    ("dfew", "EmoLabel_DataSplit/test(single-labeled)/set_1.csv", "3,4", b"3,\xff", 2, ["not UTF-8"]),
    ("mafw", "split/single/no_caption/set_2/train.txt", "helplessness", "hope", 2, ["'hope'", "helplessness"]),
    ("mafw", "split/single/no_caption/set_2/train.txt", "00026", "00025", 2, ["more than once", "line 1"]),
    ("mafw", "split/single/no_caption/set_2/train.txt", "00026.mp4 ", "00026.mp4", 2, ["clip.mp4 class"]),
    ("mafw", "split/single/no_caption/set_2/test.txt", "contempt", b"\xff", 1, ["not UTF-8"]),
    ("meld", "train_sent_emo.csv", "Speaker", "Who", 1, ["no column Speaker"]),
    ("meld", "train_sent_emo.csv", "00:16:16,059", "16 min", 2, ["StartTime", "'16 min'"]),
    ("meld", "train_sent_emo.csv", "00:16:16,059", "00:76:16,059", 2, ["StartTime"]),
    ("meld", "train_sent_emo.csv", "negative,0,1", "negative,0,x", 3, ["Utterance_ID", "'x'"]),
    ("meld", "train_sent_emo.csv", "negative,0,1", "negative,0,0", 3, ["train_dia0_utt0", "line 2"]),
    ("meld", "train_sent_emo.csv", "surprise", "shock", 3, ["'shock'", "surprise"]),
    ("meld", "train_sent_emo.csv", "’", b"\x92", 2, ["0x92", "not UTF-8"]),
    ("iemocap", "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt", "\tfru\t", "\tmad\t", 7, ["'mad'"]),
    ("iemocap", "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt", "[4.5000,", "[9.5000,", 3, ["V", "9.5"]),
    ("iemocap", "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt", "exc\t[", "exc\t", 3, ["[V, A, D]"]),
    ("iemocap", "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt", "F001", "F000", 7, ["more than once", "line 3"]),
    ("iemocap", "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt", "8.2357", "6.2", 3, ["end must come after"]),
    ("iemocap", "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt", "exc", b"\xff", 3, ["not UTF-8"]),
    ("iemocap", "Session1/dialog/transcriptions/Ses01F_impro01.txt", "]: Well", " Well", 3, ["[start-end]"]),
    ("iemocap", "Session1/dialog/transcriptions/Ses01F_impro01.txt", "_F001", "_F000", 3, ["more than once"]),
    ("mosi", "label.csv", "mode", "split", 1, ["no column mode"]),
    ("mosi", "label.csv", "2.4", "good", 2, ["label", "'good'"]),
    ("mosi", "label.csv", "2.4", "3.5", 2, ["between -3 and 3"]),
    ("mosi", "label.csv", "2.4", "", 2, ["label is empty"]),
    ("mosi", "label.csv", "valid", "dev", 3, ["mode", "'dev'"]),
    ("mosi", "label.csv", "0h-zjBukYpk,10", "03bSnISJMiM,1", 3, ["03bSnISJMiM_1", "line 2"]),
    ("mosi", "label.csv", "SO SO", b"\xff", 3, ["not UTF-8"]),
]


@pytest.mark.parametrize(("source", "name", "old", "new", "line", "words"), BROKEN)
def test_a_broken_copy_gives_one_error_with_file_and_line(source, name, old, new, line, words, tmp_path):
    files, options, _ = SAMPLES[source]
    root = write(tmp_path, files)
    content = (root / name).read_bytes()
    old, new = (text if isinstance(text, bytes) else text.encode("utf-8") for text in (old, new))
    assert old in content, "the test breaks nothing"
    (root / name).write_bytes(content.replace(old, new, 1))
    with pytest.raises(DataError) as error:
        read(source, root, **options)
    assert error.value.path == str(root / name)
    assert error.value.line == line
    assert str(error.value).startswith(f"{root / name}:{line}: " if line else f"{root / name}: ")
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("source", SAMPLES)
def test_an_empty_or_absent_annotation_is_an_error(source, tmp_path):
    with pytest.raises(DataError, match=str(tmp_path)):
        read(source, tmp_path)
    with pytest.raises(DataError):
        read(source, tmp_path / "nowhere")


def test_an_empty_file_says_which_header_it_should_have(tmp_path):
    write(tmp_path, {"train-label.csv": ""})
    with pytest.raises(DataError, match=r"empty.*name, discrete"):
        read("mer2023", tmp_path)


def test_the_line_of_a_wrong_byte_counts_past_a_byte_order_mark(tmp_path):
    write(tmp_path, {"a.csv": b"\xef\xbb\xbfname,discrete\na,sad\n\xb0,sad\n"})
    with pytest.raises(DataError) as error:
        list(read_csv(tmp_path / "a.csv", ("name",)))
    assert error.value.line == 3
    assert "0xb0" in str(error.value)


def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path):
    write(tmp_path, {"a.csv": b"\xef\xbb\xbfname\nx\n"})
    assert list(read_csv(tmp_path / "a.csv", ("name",))) == [(2, {"name": "x"})]


def test_a_utf_16_file_is_named_as_one(tmp_path):
    (tmp_path / "a.csv").write_text("name\nx\n", encoding="utf-16-le")
    with pytest.raises(DataError, match="UTF-16"):
        list(read_csv(tmp_path / "a.csv", ("name",)))


def test_a_doubled_column_is_an_error(tmp_path):
    write(tmp_path, {"a.csv": "name,name\nx,y\n"})
    with pytest.raises(DataError, match="'name' occurs more than once"):
        list(read_csv(tmp_path / "a.csv", ("name",)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("['happy', 'a bit sad']", ["happy", "a bit sad"]),
        ("[happy, sad]", ["happy", "sad"]),
        ('["it\'s", "ok"]', ["it", "s", "ok"]),
        ("happy, sad", ["happy", "sad"]),
        ("[]", []),
        ("", []),
        (" ['x'] ", ["x"]),
    ],
)
def test_word_lists_are_split_as_mer2025_splits_them(text, expected):
    assert word_list("f", 1, "openset", text) == expected


# --- media ---


def test_clips_are_found_anywhere_below_the_media_folder_and_the_missing_are_collected(tmp_path):
    media = write(tmp_path / "m", {"video/a.mp4": "", "audio/a.wav": "", "audio/b.wav": "", "video/._c.mp4": ""})
    write(tmp_path, {"track1_train.csv": "name,discrete\na,sad\nb,sad\nc,sad\nd,sad\n"})
    folder = MediaFolder(media)
    rows = mer.read_mer2026(tmp_path, folder).splits["train"]
    assert rows[0]["video"] == str(media / "video/a.mp4")
    assert rows[0]["audio"] == str(media / "audio/a.wav")
    assert (rows[1]["video"], rows[1]["audio"]) == (None, str(media / "audio/b.wav"))
    assert folder.sound_only == ["b"]
    assert folder.missing == ["c", "d"]


def test_two_files_that_answer_to_one_name_are_an_error_that_names_both(tmp_path):
    media = write(tmp_path / "m", {"original/a.mp4": "", "cropped/a.avi": ""})
    with pytest.raises(DataError, match=r"2 video files for 'a'.*cropped/a\.avi.*original/a\.mp4"):
        MediaFolder(media).take("a")


def test_meld_clips_of_one_name_are_told_apart_by_the_folder_of_their_split(tmp_path):
    files, _, _ = SAMPLES["meld"]
    folders = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
    media = write(tmp_path / "m", {f"{folder}/dia0_utt0.mp4": "" for folder in folders.values()})
    splits = read("meld", write(tmp_path / "a", files), media).splits
    for split, name in (("train", "train"), ("validation", "dev"), ("test", "test")):
        assert splits[split][0]["video"] == str(media / folders[name] / "dia0_utt0.mp4")
    assert splits["train"][1]["video"] is None


def test_meld_clips_under_the_names_of_merbench_are_found(tmp_path):
    files, _, _ = SAMPLES["meld"]
    media = write(tmp_path / "m", {"subvideo/val_dia0_utt0.mp4": "", "subvideo/test_dia0_utt0.mp4": ""})
    splits = read("meld", write(tmp_path / "a", files), media).splits
    assert splits["validation"][0]["video"].endswith("val_dia0_utt0.mp4")
    assert splits["test"][0]["video"].endswith("test_dia0_utt0.mp4")
    assert splits["train"][0]["video"] is None


def test_mosi_clips_are_found_in_both_published_trees(tmp_path):
    files, _, _ = SAMPLES["mosi"]
    media = write(tmp_path / "m", {"Raw/03bSnISJMiM/1.mp4": "", "Raw/other/10.mp4": "", "seg/0h-zjBukYpk_10.mp4": ""})
    splits = read("mosi", write(tmp_path / "a", files), media).splits
    assert splits["train"][0]["video"].endswith("Raw/03bSnISJMiM/1.mp4")
    assert splits["validation"][0]["video"].endswith("seg/0h-zjBukYpk_10.mp4")
    assert splits["test"][0]["video"] is None


# --- label archives of MERBench ---


def archive(path, **corpora):
    np.savez_compressed(path, **{f"{name}_corpus": corpus for name, corpus in corpora.items()})
    return path


def test_merbench_archives_give_the_same_rows_as_the_tables(tmp_path):
    path = archive(
        tmp_path / "label-6way.npz",
        train={"sample_1": {"emo": "happy", "val": -0.25}, "00012": {"emo": "sad", "val": "1.5"}},
        test3={"None": {"emo": "worried", "val": -10}},
    )
    assert mer.read_mer2023(path, MediaFolder(None)).splits == {
        "train": [labelled("sample_1", "happy", valence=-0.25), labelled("00012", "sad", valence=1.5)],
        "test3": [labelled("None", "worried")],
    }


def test_merbench_archives_of_meld_iemocap_and_mosi_are_read(tmp_path):
    meld = archive(tmp_path / "meld.npz", val={"val_dia3_utt1": {"emo": 1, "val": -10}})
    assert recognition.read_meld(meld, MediaFolder(None)).splits == {"validation": [labelled("dev_dia3_utt1", "joy")]}
    iemocap = archive(
        tmp_path / "iemocap.npz",
        whole={"Ses01F_impro01_F000": {"emo": 3, "val": -10}, "Ses05F_impro01_F000": {"emo": np.int64(0), "val": -10}},
    )
    assert recognition.read_iemocap(iemocap, MediaFolder(None)).splits == {
        "train": [labelled("Ses01F_impro01_F000", "anger")],
        "test": [labelled("Ses05F_impro01_F000", "happy")],
    }
    mosi = archive(tmp_path / "mosi.npz", test={"v_1": {"emo": 0, "val": np.float64(-0.2)}})
    assert recognition.read_mosi(mosi, MediaFolder(None)).splits == {
        "test": [labelled("v_1", "negative", valence=-0.2)]
    }


class Attack:
    def __reduce__(self):
        return (print, ("this code must not run",))


@pytest.mark.parametrize(
    ("corpus", "words"),
    [
        ({"a": {"emo": Attack()}}, "builtins.print"),
        ({"a": 3}, "not a dict of name"),
        (np.zeros(3), "float64"),
    ],
)
def test_an_archive_that_is_no_plain_label_archive_is_refused(corpus, words, tmp_path, capsys):
    path = archive(tmp_path / "label.npz", train=corpus)
    with pytest.raises(DataError, match=words):
        read_corpus(path)
    assert "must not run" not in capsys.readouterr().out


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "label.npz").write_text("name,discrete\n")
    with pytest.raises(DataError, match="not a label archive"):
        read_corpus(tmp_path / "label.npz")


@pytest.mark.parametrize("index", [7, -1, True, "1"])
def test_a_class_index_out_of_range_is_refused(index, tmp_path):
    path = archive(tmp_path / "meld.npz", train={"train_dia0_utt0": {"emo": index}})
    with pytest.raises(DataError, match=r"train_dia0_utt0.*0 to 6"):
        recognition.read_meld(path, MediaFolder(None))


# --- what readers must say ---


def test_leaks_between_published_sets_are_said(tmp_path):
    for source in ("emer_v1", "emer_v2"):
        files, options, _ = SAMPLES[source]
        assert emer.LEAK in read(source, write(tmp_path / source, files), **options).notes
    for source in ("mer2023", "mer2024", "mer2025", "ov_merd"):
        files, options, _ = SAMPLES[source]
        assert mer.EMER_LEAK in read(source, write(tmp_path / source, files), **options).notes


def test_what_was_changed_or_left_out_is_said(tmp_path):
    notes = {
        source: read(source, write(tmp_path / source, SAMPLES[source][0]), **SAMPLES[source][1]).notes
        for source in SAMPLES
    }
    assert any("different classes for 1 clips" in note for note in notes["merr_coarse"])
    assert any("1 clips have an empty list of words" in note for note in notes["mer_caption_plus"])
    assert any("1 of 2 clips are not in subtitle_chieng.csv" in note for note in notes["mer_caption_plus"])
    assert any("fru 1" in note for note in notes["iemocap"])
    assert any("test_dia0_utt0" in note for note in notes["meld"])
    assert any("1 of 2 clips have no words" in note and "nan" in note for note in notes["emer_v2"])


def test_a_track_2_table_without_its_track_3_table_has_no_descriptions_and_says_so(tmp_path):
    write(tmp_path, {"track2_train_ovmerd.csv": SAMPLES["ov_merd"][0]["track2_train_ovmerd.csv"]})
    reading = read("ov_merd", tmp_path)
    assert reading.splits["train"][0]["description"] is None
    assert any("no description" in note for note in reading.notes)


@pytest.mark.parametrize("source", ["dfew", "mafw", "ravdess"])
def test_a_fold_that_does_not_exist_is_refused(source, tmp_path):
    with pytest.raises(DataError, match="fold is 6; 1 to 5"):
        read(source, tmp_path, tmp_path, fold=6)


# --- RAVDESS ---


def ravdess(root, *names):
    return write(root, {f"Actor_{name.split('.')[0][-2:]}/{name}": "" for name in names})


def test_the_modalities_of_one_recording_make_one_row_under_the_fullest(tmp_path):
    media = ravdess(
        tmp_path,
        "01-01-03-02-01-01-12.mp4",
        "02-01-03-02-01-01-12.mp4",
        "03-01-03-02-01-01-12.wav",
        "02-02-08-01-02-02-01.mp4",
        "03-02-08-01-02-02-01.wav",
    )
    splits = read("ravdess", tmp_path, media).splits
    assert splits == {
        "train": [
            labelled(
                "03-02-08-01-02-02-01",
                "surprised",
                subtitle="Dogs are sitting by the door",
                video=str(media / "Actor_01/02-02-08-01-02-02-01.mp4"),
                audio=str(media / "Actor_01/03-02-08-01-02-02-01.wav"),
            ),
            labelled(
                "01-01-03-02-01-01-12",
                "happy",
                subtitle="Kids are talking by the door",
                video=str(media / "Actor_12/01-01-03-02-01-01-12.mp4"),
                audio=str(media / "Actor_12/03-01-03-02-01-01-12.wav"),
            ),
        ]
    }


def test_ravdess_folds_cover_every_actor_once_and_never_share_one(tmp_path):
    names = [f"03-01-05-01-01-01-{actor:02d}.wav" for actor in range(1, 25)]
    media, tested = ravdess(tmp_path, *names), []
    for fold in range(1, 6):
        splits = read("ravdess", tmp_path, media, fold=fold).splits
        actors = {split: {row["id"][-2:] for row in rows} for split, rows in splits.items()}
        assert not actors["train"] & actors["test"]
        assert len(actors["train"] | actors["test"]) == 24
        tested += sorted(actors["test"])
    assert sorted(tested) == [f"{actor:02d}" for actor in range(1, 25)]


def test_speakers_name_the_splits_and_what_they_leave_out_is_said(tmp_path):
    media = ravdess(tmp_path, "03-01-05-01-01-01-01.wav", "03-01-05-01-01-01-02.wav", "03-01-05-01-01-01-03.wav")
    reading = read("ravdess", tmp_path, media, speakers={"train": [1], "validation": [3]})
    assert {split: [row["id"] for row in rows] for split, rows in reading.splits.items()} == {
        "train": ["03-01-05-01-01-01-01"],
        "validation": ["03-01-05-01-01-01-03"],
    }
    assert any("1 recordings of actors 2 are in no split" in note for note in reading.notes)


@pytest.mark.parametrize("speakers", [{"train": [1, 2], "test": [2]}, {"train": [25]}, {"train": [1, 1]}])
def test_a_speaker_in_two_splits_or_in_none_of_24_is_refused(speakers, tmp_path):
    media = ravdess(tmp_path, "03-01-05-01-01-01-01.wav")
    with pytest.raises(DataError, match="must not share a speaker"):
        read("ravdess", tmp_path, media, speakers=speakers)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("03-01-09-01-01-01-01.wav", "emotion is 09; 01 to 08"),
        ("03-01-05-01-01-01-25.wav", "actor is 25"),
        ("03-01-05-01-01-01.wav", "seven numbers"),
        ("angry.wav", "seven numbers"),
        ("3-1-5-1-1-1-1.wav", "two digits"),
    ],
)
def test_a_name_that_ravdess_cannot_have_is_an_error_that_names_the_file(name, words, tmp_path):
    media = write(tmp_path, {f"Actor_01/{name}": ""})
    with pytest.raises(DataError, match=words) as error:
        read("ravdess", tmp_path, media)
    assert error.value.path == str(media / "Actor_01" / name)


# --- voice activity ---


def test_planted_sounds_are_found_within_30_ms_of_their_edges_and_margins():
    rate, noise = 16000, np.random.default_rng(0).normal(0, 1e-3, 16000 * 6)
    sound = noise.copy()
    planted = [(0.8, 1.9), (3.0, 3.6), (3.75, 5.2)]
    for start, end in planted:
        a, b = int(start * rate), int(end * rate)
        sound[a:b] += 0.2 * np.sin(2 * np.pi * 180 * np.arange(b - a) / rate)
    found = voice_spans(sound.astype(np.float32), rate, pause=0.3, margin=0.0)
    # The last two are 150 ms apart, less than a pause.
    expected = [(0.8, 1.9), (3.0, 5.2)]
    assert np.abs(np.array(found) - np.array(expected)).max() < 0.03
    assert len(voice_spans(sound.astype(np.float32), rate, pause=0.1)) == 3


def test_silence_has_no_voice_and_sound_throughout_is_one_stretch():
    rate = 16000
    assert voice_spans(np.zeros(rate, np.float32), rate) == []
    assert voice_spans(np.zeros(10, np.float32), rate) == []
    hum = 0.1 * np.sin(2 * np.pi * 200 * np.arange(rate) / rate)
    ((start, end),) = voice_spans(hum.astype(np.float32), rate)
    assert (start, end) == (0.0, 1.0)
