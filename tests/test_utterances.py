"""Utterances from every format, and every way they can be wrong."""

import json
import warnings
from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest

from hf_emotion.processing.utterances import UtteranceError, fixed_windows, read, to_spans, transcribe

HELLO = {"start": 0.5, "end": 1.25, "text": "Hello there.", "speaker": None}
FINE = {"start": 1.5, "end": 3.0, "text": "I'm fine & well", "speaker": None}

SRT = """1
00:00:00,500 --> 00:00:01,250
Hello
there.

2
00:00:01,500 --> 00:00:03,000 X1:40 X2:600
<i>I'm fine</i> {\\an8}&amp; well

"""
VTT = """WEBVTT - made by hand
Kind: captions

STYLE
::cue { color: red }

NOTE times --> below are right

greeting
00:00.500 --> 00:01.250 align:start
Hello there.

00:00:01.500 --> 00:00:03.000
<c.yellow>I'm <00:00:02.000>fine</c> &amp; well
"""
TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 3.5
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 3.5
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 3.5
            text = "never"
    item [2]:
        class = "IntervalTier"
        name = "utterances"
        xmin = 0
        xmax = 3.5
        intervals: size = 4
        intervals [1]:
            xmin = 0
            xmax = 0.5
            text = ""
        intervals [2]:
            xmin = 0.5
            xmax = 1.25
            text = "Hello there."
        intervals [3]:
            xmin = 1.25
            xmax = 1.5
            text = ""
        intervals [4]:
            xmin = 1.5
            xmax = 3.0
            text = "I'm fine & well"
"""
SHORT_TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"

0
3.5
<exists>
2
"TextTier"
"clicks"
0
3.5
1
0.7
"click"
"IntervalTier"
"utterances"
0
3.5
3
0
0.5
""
0.5
1.25
"Hello there."
1.5
3.0
"I'm fine & well"
"""
OPENAI = {
    "text": " Hello there. I'm fine & well",
    "language": "en",
    "segments": [
        {"id": 0, "seek": 0, "start": 0.5, "end": 1.25, "text": " Hello there.", "tokens": [1], "avg_logprob": -0.2},
        {"id": 1, "seek": 0, "start": 1.5, "end": 3.0, "text": " I'm fine & well", "tokens": [2], "avg_logprob": -0.2},
    ],
}
PIPELINE = {
    "text": " Hello there. I'm fine & well",
    "chunks": [
        {"timestamp": [0.5, 1.25], "text": " Hello there."},
        {"timestamp": [1.5, 3.0], "text": " I'm fine & well"},
    ],
}
WHISPER_CPP = {
    "systeminfo": "AVX = 1",
    "result": {"language": "en"},
    "transcription": [
        {
            "timestamps": {"from": "00:00:00,500", "to": "00:00:01,250"},
            "offsets": {"from": 500, "to": 1250},
            "text": " Hello there.",
        },
        {
            "timestamps": {"from": "00:00:01,500", "to": "00:00:03,000"},
            "offsets": {"from": 1500, "to": 3000},
            "text": " I'm fine & well",
        },
    ],
}
FASTER_WHISPER_LISTS = [
    [1, 0, 0.5, 1.25, " Hello there.", [1], -0.2, 1.1, 0.0, None, 0.0],
    [2, 0, 1.5, 3.0, " I'm fine & well", [2], -0.2, 1.1, 0.0, None, 0.0],
]


def write(folder, text, name="speech.txt", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("text", [SRT, VTT, TEXTGRID, SHORT_TEXTGRID, json.dumps(OPENAI)])
def test_every_text_format_is_read_in_every_encoding_and_line_ending(tmp_path, text, encoding, ending):
    assert read(write(tmp_path, text.replace("\n", ending), encoding=encoding)) == [HELLO, FINE]


@pytest.mark.parametrize(
    "data", [OPENAI, OPENAI["segments"], PIPELINE, WHISPER_CPP, FASTER_WHISPER_LISTS, {"utterances": [HELLO, FINE]}]
)
def test_every_whisper_json_is_read_from_its_file_and_parsed(tmp_path, data):
    assert read(write(tmp_path, json.dumps(data))) == [HELLO, FINE]
    assert read(str(write(tmp_path, json.dumps(data, indent=2)))) == [HELLO, FINE]
    assert read(data) == [HELLO, FINE]


def test_rows_come_as_tuples_dicts_arrays_and_segment_objects():
    assert read([(0.5, 1.25, "Hello there."), (1.5, 3, "I'm fine & well", None)]) == [HELLO, FINE]
    assert read([HELLO, FINE]) == [HELLO, FINE]
    assert read(iter([SimpleNamespace(start=0.5, end=1.25, text=" Hello there.")])) == [HELLO]
    segment = namedtuple("Segment", "id seek start end text tokens")  # faster-whisper before 1.1
    assert read([segment(1, 0, 0.5, 1.25, " Hello there.", [])]) == [HELLO]
    assert read(np.array([[0.5, 1.25]])) == [{**HELLO, "text": None}]
    assert read([("00:00:00,500", "1.25", "Hello there.")]) == [HELLO]
    assert read([(0.5, 1.25, "Hello there.", "Ann")])[0]["speaker"] == "Ann"
    assert read(None) == []
    assert read([]) == []


def test_speakers_are_taken_from_whisperx_json_and_from_its_srt(tmp_path):
    data = {"segments": [{**HELLO, "speaker": "SPEAKER_01", "words": []}], "word_segments": []}
    expected = [{**HELLO, "speaker": "SPEAKER_01"}]
    assert read(data) == expected
    srt = "1\n00:00:00,500 --> 00:00:01,250\n[SPEAKER_01]: Hello there.\n"
    assert read(write(tmp_path, srt)) == expected


def test_voices_of_a_vtt_cue_become_one_utterance_each(tmp_path):
    vtt = "WEBVTT\n\n00:00.500 --> 00:01.250\n<v.loud Ann Lee>Hello</v> there.\n<v Bob>Hi!</v>\n"
    assert read(write(tmp_path, vtt)) == [
        {"start": 0.5, "end": 1.25, "text": "Hello there.", "speaker": "Ann Lee"},
        {"start": 0.5, "end": 1.25, "text": "Hi!", "speaker": "Bob"},
    ]


def test_a_less_than_sign_in_speech_is_no_tag(tmp_path):
    assert read([(0, 1, "2 < 3 and 4 > 3")])[0]["text"] == "2 < 3 and 4 > 3"
    srt = "1\n00:00:00,000 --> 00:00:01,000\n2 < 3 and 4 > 3\n"
    assert read(write(tmp_path, srt))[0]["text"] == "2 < 3 and 4 > 3"


def test_srt_without_numbers_hours_or_milliseconds_is_read(tmp_path):
    assert read(write(tmp_path, "00:01.5 --> 00:02\nHi\n")) == [
        {"start": 1.5, "end": 2.0, "text": "Hi", "speaker": None}
    ]


def tier(name, rows, kind="IntervalTier"):
    return f'"{kind}" "{name}" 0 9 {len(rows)} ' + " ".join(f'{a} {b} "{text}"' for a, b, text in rows)


def grid(*tiers):
    return f'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n9\n<exists>\n{len(tiers)}\n' + "\n".join(tiers)


def test_tiers_of_a_textgrid_that_are_not_words_are_speakers(tmp_path):
    text = grid(
        tier("Bob", [(2, 3, 'say ""no""')]), tier("phones", [(0, 1, "h")]), tier("Ann", [(0, 1, "[laughs] yes")])
    )
    assert read(write(tmp_path, text)) == [
        {"start": 0.0, "end": 1.0, "text": "[laughs] yes", "speaker": "Ann"},
        {"start": 2.0, "end": 3.0, "text": 'say "no"', "speaker": "Bob"},
    ]


def test_words_of_an_aligner_are_joined_between_pauses(tmp_path):
    words = [(0, 0.4, "how"), (0.4, 0.6, ""), (0.6, 1, "nice"), (1, 1.5, ""), (1.5, 2, "yes")]
    text = grid(tier("words", words), tier("phones", [(0, 0.1, "h")]))
    assert [(row["start"], row["end"], row["text"]) for row in read(write(tmp_path, text))] == [
        (0.0, 1.0, "how nice"),
        (1.5, 2.0, "yes"),
    ]


def test_a_textgrid_of_sounds_alone_is_refused_by_name(tmp_path):
    with pytest.raises(UtteranceError, match="found 'phones'"):
        read(write(tmp_path, grid(tier("phones", [(0, 0.1, "h")]))))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SRT.replace("00:00:01,500 -->", "00:00:xx -->"), r"line 7: '00:00:xx.*is not a line of times"),
        (SRT.replace("00:00:03,000", "00:00:01,000"), "line 7: end 1 s lies before start 1.5 s"),
        (SRT.replace("1\n", "1\noops\n", 1), "line 2: 'oops' is not a line of times"),
        (SRT.replace("\n\n2", "\n2"), "line 6: times inside a text"),
        (SRT + "3\n", "line 10: '3' stands where times are expected"),
        (VTT.replace("00:01.250", "00:01:x"), "line 10: .* is not a line of times"),
        (VTT.replace("captions\n", "captions\n00:01.000 --> 00:02.000\n"), "line 1: a blank line is missing"),
        (TEXTGRID.replace("xmax = 1.25", "xmax = "), "line 32: 'Hello there.' stands where a number is expected"),
        (TEXTGRID.replace("xmax = 1.25", "xmax = 0.25"), "line 30: end 0.25 s lies before start 0.5 s"),
        (TEXTGRID[:-40], "the TextGrid ends where a"),
        (TEXTGRID.replace('"TextGrid"', '"Pitch"'), "a Praat file, but not a TextGrid"),
        (json.dumps(OPENAI, indent=1)[:-30], r"line \d+: not valid json"),
        ("\n\nHello there.\n", "line 3: 'Hello there.' begins no known format"),
        ('{"text": "Hello"}', "found text"),
        ('{"segments": "Hello"}', "found str"),
        ('[{"start": 0, "text": "Hello"}]', "utterance 1: end is None"),
        ("[17]", "utterance 1: 17 is not an utterance"),
    ],
)
def test_a_malformed_file_is_named_with_the_place(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(UtteranceError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_named_with_the_line(tmp_path):
    path = tmp_path / "speech.srt"
    path.write_bytes(b"1\n00:00:00,500 --> 00:00:01,250\ncaf\xe9\n")
    with pytest.raises(UtteranceError, match="line 3: not UTF-8 text"):
        read(path)
    with pytest.raises(UtteranceError, match="no such file"):
        read(tmp_path / "missing.srt")
    with pytest.raises(UtteranceError, match="is a directory"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((float("nan"), 1), "start is nan"),
        ((0, float("inf")), "end is inf"),
        ((-1, 1), "start is -1"),
        ((2, 1), "end 1 s lies before start 2 s"),
        ((True, 1), "start is True"),
        (("soon", 1), "start is 'soon'"),
        ((1,), "is not an utterance"),
        ({"text": "no times"}, "start is None"),
    ],
)
def test_times_that_are_no_times_are_named_with_their_row(row, message):
    with pytest.raises(UtteranceError, match=f"row 2: .*{message}"):
        read([(0, 1), row])


def test_sources_of_another_type_and_bad_durations_are_refused():
    for source in (3, b"bytes"):
        with pytest.raises(UtteranceError, match="is accepted"):
            read(source)
    for duration in (float("nan"), -1):
        with pytest.raises(UtteranceError, match="duration is"):
            read([(0, 1)], duration=duration)


def test_utterances_out_of_order_are_sorted_and_overlapping_ones_kept():
    notes = []
    rows = read([(2, 3, "c"), (0, 2.5, "b"), (0, 1, "a")], notes=notes)
    assert [row["text"] for row in rows] == ["a", "b", "c"]
    assert len(notes) == 1
    assert "out of order" in notes[0]


def test_utterances_beyond_the_end_are_cut_or_left_out_and_said():
    rows = [(0, 1, "a"), (1, 2.05, "b"), (1.5, 5, "c"), (2, 3, "d"), (7, 9, "e")]
    notes = []
    kept = read(rows, duration=2.0, notes=notes)
    assert [(row["start"], row["end"], row["text"]) for row in kept] == [(0, 1, "a"), (1, 2, "b"), (1.5, 2, "c")]
    assert notes == [
        "<rows>: the clip ends at 2 s; 1 of 5 utterances are cut off there and 2 of 5 that start later are left out."
    ]
    with pytest.warns(UserWarning, match="1 of 5 utterances are cut off"):
        read(rows, duration=2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read(rows, duration=9.0)) == 5


def test_empty_text_is_none_and_an_empty_file_has_no_utterances(tmp_path):
    assert read([(0, 1, "  ")])[0]["text"] is None
    assert read([(0, 1, float("nan"))])[0]["text"] is None
    assert read(write(tmp_path, "1\n00:00:00,500 --> 00:00:01,250\n\n"))[0]["text"] is None
    for text in ("", "\ufeff\n\n", "WEBVTT\n", '{"segments": []}', grid()):
        notes = []
        assert read(write(tmp_path, text), notes=notes) == []
        assert "holds no utterances" in notes[0]


def test_an_open_end_lasts_until_the_next_utterance_or_the_end_of_the_clip():
    chunks = {"chunks": [{"timestamp": (0.0, None), "text": "a"}, {"timestamp": (2.0, None), "text": "b"}]}
    assert [(row["start"], row["end"]) for row in read(chunks, duration=3.5)] == [(0, 2), (2, 3.5)]
    with pytest.raises(UtteranceError, match=r"starts at 2 s has no end.*give duration"):
        read(chunks)


def test_fixed_windows_tile_the_clip_without_dust():
    assert [(w["start"], w["end"]) for w in fixed_windows(5.0, 2.0)] == [(0, 2), (2, 4), (4, 5)]
    assert len(fixed_windows(0.3, 0.1)) == 3  # 0.3 / 0.1 is a little less than 3
    assert len(fixed_windows(2.1 * 10, 2.1)) == 10
    assert fixed_windows(0.0, 2.0) == []
    for duration, seconds in ((5, 0), (5, -1), (-1, 2), (float("nan"), 2)):
        with pytest.raises(UtteranceError, match="positive number of seconds"):
            fixed_windows(duration, seconds)


def test_spans_are_milliseconds_padded_with_minus_one():
    spans = to_spans([[HELLO, FINE], [], [{**HELLO, "end": 1.2504}]])
    assert spans.dtype == np.int64
    assert spans.tolist() == [[[500, 1250], [1500, 3000]], [[-1, -1], [-1, -1]], [[500, 1250], [-1, -1]]]
    assert to_spans([[], []]).shape == (2, 0, 2)
    assert to_spans([]).shape == (0, 0, 2)


def test_a_recogniser_is_called_as_a_transformers_pipeline_and_its_chunks_are_clipped_to_the_sound():
    seen = {}

    def asr(inputs, return_timestamps):
        seen.update(inputs, return_timestamps=return_timestamps)
        return {
            "text": " Hi. Oh",
            "chunks": [
                {"timestamp": (0.0, 1.0), "text": " Hi."},
                {"timestamp": (1.0, 1.2), "text": " "},
                {"timestamp": (1.2, None), "text": " Oh"},
            ],
        }

    sound = np.zeros(32000, np.float32)
    assert transcribe(sound, 16000, asr) == [
        {"start": 0.0, "end": 1.0, "text": "Hi.", "speaker": None},
        {"start": 1.2, "end": 2.0, "text": "Oh", "speaker": None},
    ]
    assert seen["raw"] is sound
    assert seen["sampling_rate"] == 16000
    assert seen["return_timestamps"] is True
    assert transcribe(None, 16000, asr) == []
    with pytest.raises(UtteranceError, match="found text"):
        transcribe(sound, 16000, lambda *_, **__: {"text": "Hi"})
    with pytest.raises(UtteranceError, match="gave str"):
        transcribe(sound, 16000, lambda *_, **__: "Hi")
