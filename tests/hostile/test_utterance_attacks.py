"""Subtitles, transcripts and annotations that try to take forever, to crash a reader or to say what it cannot hold."""

import json
import os
import re
import subprocess
import sys
from itertools import count

import pytest

from hf_emotion.processing import utterances
from hf_emotion.processing.utterances import UtteranceError, fixed_windows, read

SRT = "1\n00:00:00,000 --> 00:00:01,000\n{}\n"
VTT = "WEBVTT\n\n00:00.000 --> 00:01.000\n{}\n"
TEXTGRID = 'File type = "ooTextFile"\nObject class = "TextGrid"\n0 10 <exists> {}\n'
N = 100_000

# A file of at most 8 MiB -> the sentence, or the number of utterances it holds. On 0.1.0 the first eight take from a
# minute to days.
LONG_FILES = {
    "cues without an end": (json.dumps([{"timestamp": [1, None], "text": "a"}] * 10_000), 10_000),
    "one voice tag that never closes": (VTT.format("<v " * (N // 10)), 1),
    "many of them": (VTT.format("<v " * N), "at most 32,768 are accepted"),
    "a voice tag of blanks": (VTT.format("<v" + " " * N), 1),
    "a TextGrid of brackets": (TEXTGRID.format("[" * N), "the TextGrid ends where a number is expected"),
    "a TextGrid of tiers of one name": (
        TEXTGRID.format(f"{N // 6} " + '"IntervalTier" "a" 0 1 1 0 1 "b" ' * (N // 6)),
        "more than the 10,000 utterances",
    ),
    "words without a pause": (
        TEXTGRID.format(f'1 "IntervalTier" "words" 0 9 {N} ' + '0 1 "word" ' * N),
        "at most 32,768 are accepted",
    ),
    "a json text of escaped quotes": ('{"segments": [' + '"\\' * N, "not valid json"),
    "escaped quotes outside of a text": ("[" + '\\"' * N, "not valid json"),
    "more cues than a clip has": (SRT.format("a\n") * 12_000, "more than the 10,000 utterances"),
    "more rows than a clip has": (json.dumps([[0, 1]] * 20_000), "more than the 10,000 utterances"),
    "more voices than a clip has": (VTT.format("<v a>b" * N), "more than the 10,000 utterances"),
    "more bytes than allowed": ("1\n" * 5 * 10**6, "more than the 8,388,608 bytes"),
    "one long text": (SRT.format("a" * N), "line 1: a text of 100,000 characters"),
    "one long line of times": (
        "1\n" + "0" * N + ":00:00,000 --> 00:00:01,000\na\n",
        "line 2: '0+' is not a line of times",
    ),
    "tags in tags": (SRT.format("<i" * N), "a text of 200,000 characters"),
    "ampersands": (SRT.format("&" * 30_000), 1),
    "a line of digits": ("1" * N, "begins no known format"),
    "blank lines": ("1\n" + " \n" * N + "a", "stands where times are expected"),
    "a TextGrid of quotes": (TEXTGRID.format('"' * (2 * N + 1)), "stands where a number is expected"),
    "a TextGrid of digits": (TEXTGRID.format("9" * N), "counts its parts"),
    "a TextGrid that counts to the moon": (TEXTGRID.format("1e300"), "line 3: 1e\\+300 stands where"),
    "a TextGrid of minus one": (TEXTGRID.format("-1"), "line 3: -1 stands where"),
    "a TextGrid of a half tier": (TEXTGRID.format("0.5"), "line 3: 0.5 stands where"),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What a process of its own makes of the long files, which can be stopped in the middle of a regular expression."""
    folder = tmp_path_factory.mktemp("long")
    for place, (text, _) in enumerate(LONG_FILES.values()):
        (folder / str(place)).write_text(text)
    code = """if True:
        import sys
        from hf_emotion.processing.utterances import UtteranceError, read
        for place in range(int(sys.argv[1])):
            try:
                print(len(read(f"{place}", duration=10.0, notes=[])), flush=True)
            except UtteranceError as error:
                print(error, flush=True)
    """
    command = [sys.executable, "-c", code, str(len(LONG_FILES))]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
        output = done.stdout + done.stderr
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode()
    return dict(zip(LONG_FILES, output.splitlines(), strict=False))


@pytest.mark.parametrize("name", LONG_FILES)
def test_a_long_file_is_read_or_refused_in_seconds(outcomes, name):
    assert name in outcomes, "not done when the process was stopped"
    expected = LONG_FILES[name][1]
    assert re.search(f"^{expected}$" if isinstance(expected, int) else expected, outcomes[name])
    assert len(outcomes[name]) < 400


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("\n[" * 100_000, "line 34: lists and objects more than 32 deep"),
        ('{"a":' * 100_000, "line 1: lists and objects more than 32 deep"),
        ('{"segments": [\n{"start": ' + "1" * 5000 + "}]}", "line 2: a number of 5,000 digits"),
        ('[{"start": ' + "1" * 299 + ', "end": 1}]', "start is a number of more than 60 digits, seconds from 0"),
        ('[{"start": 1e400, "end": 1}]', "start is inf, seconds from 0 to 10,000,000"),
        ('[{"start": 1e300, "end": 1e301}]', r"start is 1e\+300, seconds from 0"),
        ('[{"start": NaN, "end": 1}]', "start is nan"),
        ('[{"start": 0, "end": 1, "text": {"a": 1}}]', r"utterance 1: {'a': 1} stands where text is expected"),
        ('[{"start": "' + "9" * 400 + '", "end": 1}]', "start is '9+'"),
        ('[{"start": [[[[]]]], "end": 1}]', r"start is \[\[\[\[\]\]\]\], a number of seconds"),
        ('{"' + "k" * 10_000 + '": 1}', "found k{40}"),
        ('{"segments": {"a": 1}}', "a list of utterances is needed: found dict"),
    ],
)
def test_a_json_file_that_pythons_reader_fails_on_is_one_sentence(tmp_path, text, sentence):
    path = tmp_path / "speech.json"
    path.write_text(text)
    with pytest.raises(UtteranceError, match=sentence) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 400


def test_half_characters_and_zeros_become_a_sign_that_every_tokenizer_takes(tmp_path):
    path = tmp_path / "speech.json"
    path.write_text('[{"start": 0, "end": 1, "text": "a\\ud800b\\u0000c\\u2028d\\u0085e", "speaker": "\\udfffAnn"}]')
    [row] = read(path)
    assert row == {"start": 0.0, "end": 1.0, "text": "a\ufffdb\ufffdc d e", "speaker": "\ufffdAnn"}
    row["text"].encode()
    path.write_text(SRT.format(f"&#0;&#55296;&#x110000;&#{'9' * 5000};"))
    [row] = read(path)
    assert row["text"].startswith("\ufffd\ufffd\ufffd&#999")


def test_rows_without_an_end_are_read_up_to_the_limit_only():
    rows = ((number, number + 1) for number in count())
    with pytest.raises(UtteranceError, match="more than the 10,000 utterances"):
        read(rows)
    assert next(rows)[0] == utterances.MAX_UTTERANCES + 1


def test_windows_of_no_length_are_refused():
    with pytest.raises(UtteranceError, match="more than the 10,000 utterances"):
        fixed_windows(1800.0, 1e-9)


def test_a_pipe_and_a_device_are_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "speech.srt")
    for path in (tmp_path / "speech.srt", "/dev/zero"):
        with pytest.raises(UtteranceError, match="is a pipe or a device"):
            read(path)
