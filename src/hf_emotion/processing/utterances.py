"""Who says what when: subtitles, ASR output and annotations -> one list of utterances in seconds.

MicroEmo 3.3 and AcoustEmo 3.2 give every utterance its own tokens, from its start and end times alone; the papers are
silent on where the times come from. What differs from the peers (whisper json only, or precomputed): srt, WebVTT,
whisper json as openai-whisper, faster-whisper, WhisperX, whisper.cpp and the transformers pipeline write it, Praat
TextGrid (long and short), and rows, all told apart by their content, never by their name.

An utterance is `{"start": s, "end": s, "text": str | None, "speaker": str | None}`. Utterances are sorted; overlapping
ones are kept (two people may talk at once); what lies beyond the end of the clip is cut off. A start or end that is
missing, NaN or negative, or an end before its start, is an error that names its place.

Files come from strangers: every reader takes a time that grows with the length of the file and no faster, and the
limits below keep that length within reason.
"""

import html
import json
import math
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

ACCEPTED = "srt, WebVTT, whisper json, Praat TextGrid, or rows (start, end, text, speaker)"
CLOCK = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,3}))?"
CUE = re.compile(rf"^\s*{CLOCK}\s*-->\s*{CLOCK}(?:\s.*)?$")
MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|<[\d:.]+>|\{\\[^{}]*\}")  # <i>, karaoke times, {\an8}
# WhisperX writes its speaker labels into the text of srt and vtt files.
LABEL = re.compile(r"^\s*\[(SPEAKER_\d+)\]:\s*")
# Names under which annotators keep whole utterances; tiers of words and sounds are told by the second list.
UTTERANCE_TIERS = {"utterance", "sentence", "segment", "phrase", "text", "transcript", "transcription", "ipu", "turn"}
PART_TIERS = {"word", "phone", "phoneme", "syllable", "segmentation", "phon", "syll", "wrd", "phn"}
WORD_PAUSE = 0.3  # s of silence that parts two utterances where only words are annotated
SLACK = 0.1  # s beyond the end that is rounding, not worth a note
MAX_BYTES = 2**23  # of a file; two hours of whisper json with the times of every word
MAX_UTTERANCES = 10_000  # of a clip; five and a half a second for half an hour
MAX_CHARACTERS = 2**15  # of one utterance; everything that is said in half an hour
MAX_SECONDS = 1e7
MAX_DEPTH = 32  # of objects and lists inside each other in a json file
MAX_DIGITS = 300  # of one number in a json file
# What no speech contains and no tokenizer takes: control characters (blanks are left to `split`), half characters.
UNWRITABLE = re.compile("[\x00-\x08\x0e-\x1b\x7f\ud800-\udfff]")
# No branch of it can match the same text twice, so a search is over after one pass. Odd parts of a split are names.
VOICE = re.compile(r"<v(?:\.[^\s<>]*)?(?:\s([^<>]*))?>")  # <v Ann>, <v.loud Ann>
JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"?|\n|[\[{]|[\]}]|\d+', re.DOTALL)
# Labels of the long form, such as `intervals [3]:`, hold numbers that are no values.
TEXTGRID_TOKEN = re.compile(
    r'"((?:[^"]|"")*)"|<(exists|absent)>|\[[^\[\]\n]*\]|(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)|[^\s"<\[\d-]+|\S'
)


class UtteranceError(ValueError):
    """Utterances that cannot be used: one sentence with the source, the place, what was found, what is accepted."""


def read(source: Any, duration: float | None = None, notes: list[str] | None = None) -> list[dict]:
    """Read utterances from a file, or from rows.

    Args:
        source: a path to srt, vtt, whisper json or TextGrid (UTF-8, or UTF-16 with its byte order mark); a parsed
            whisper json; rows: `(start, end)`, `(start, end, text)`, `(start, end, text, speaker)`, dicts with `start`
            and `end` or `timestamp`, or objects with `.start` and `.end` (faster-whisper's segments), in seconds.
            None gives no utterances.
        duration: s, length of the clip; utterances are cut off there, and left out when they start there or later.
            An utterance without an end (the last chunk of a whisper pipeline) lasts until the next, or until here.
        notes: list that takes one sentence for each thing the user should know; without it, one `UserWarning` each.

    Returns:
        `[{"start", "end", "text", "speaker"}]`, seconds, sorted by start, then end. Empty text is None.

    Raises:
        UtteranceError: a file that cannot be read (with the line where one is known), times that are no times.
    """
    if duration is not None and not (math.isfinite(duration) and duration >= 0):
        raise UtteranceError(f"duration is {duration!r}, seconds from 0 are accepted.")
    name, sentences = "<rows>", []
    if source is None:
        return []
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        rows = _parse(name, _text(name))
        if not rows:
            sentences.append(f"{name} holds no utterances.")
    elif isinstance(source, dict):
        rows = _from_json(name, source)
    elif isinstance(source, Iterable) and not isinstance(source, (bytes, bytearray)):
        rows = islice(source, MAX_UTTERANCES + 1)  # which may have no end
        rows = [_from_row(f"{name}, row {number}", row) for number, row in enumerate(rows, 1)]
    else:
        raise UtteranceError(f"Utterances of type {type(source).__name__} cannot be read: {ACCEPTED} is accepted.")
    _check_count(name, len(rows))
    utterances = _tidy(name, rows, duration, sentences)
    for sentence in sentences:
        if notes is None:
            warnings.warn(sentence, stacklevel=2)
        else:
            notes.append(sentence)
    return utterances


def _check_count(place: str, count: int) -> None:
    if count > MAX_UTTERANCES:
        raise UtteranceError(f"{place}: more than the {MAX_UTTERANCES:,} utterances of one clip that are accepted.")


def fixed_windows(duration: float, seconds: float) -> list[dict]:
    """Windows of `seconds` s that tile [0, duration) s, the last one shorter; no text (AcoustEmo, Table 2: "2s")."""
    for name, value in (("duration", duration), ("seconds", seconds)):
        if not (math.isfinite(value) and value >= 0) or (name == "seconds" and value == 0):
            raise UtteranceError(f"{name} is {value!r}, a positive number of seconds is accepted.")
    # A remainder of floating-point dust is no window.
    count = math.ceil(duration / seconds - 1e-6)
    _check_count(f"windows of {seconds:g} s in {duration:g} s", count)
    return [_utterance(i * seconds, min((i + 1) * seconds, duration), None, None) for i in range(count)]


def to_spans(utterances: list[list[dict]]) -> np.ndarray:
    """Utterances of B clips -> (B, N, 2) int64 ms, [start, end), -1 padded; N of the clip with most, or 0."""
    spans = np.full((len(utterances), max(map(len, utterances), default=0), 2), -1, dtype=np.int64)
    for row, clip in zip(spans, utterances, strict=True):
        for place, utterance in enumerate(clip):
            row[place] = round(utterance["start"] * 1000), round(utterance["end"] * 1000)
    return spans


def transcribe(waveform: np.ndarray | None, sampling_rate: int, asr: Callable) -> list[dict]:
    """Utterances of a sound by speech recognition.

    Args:
        waveform: (S,) float32 mono, or None = no sound, no utterances.
        sampling_rate: Hz; give the recogniser's own (16,000 for Whisper).
        asr: called as a transformers ASR pipeline is: `asr({"raw": waveform, "sampling_rate": Hz},
            return_timestamps=True)`; must give a dict with `chunks` (or another layout that `read` knows).

    Raises:
        UtteranceError: the answer holds no times.
    """
    if waveform is None or len(waveform) == 0:
        return []
    answer = asr({"raw": waveform, "sampling_rate": sampling_rate}, return_timestamps=True)
    if not isinstance(answer, dict):
        raise UtteranceError(f"The recogniser gave {type(answer).__name__}, a dict with chunks and times is accepted.")
    rows = [row for row in _from_json("<recogniser>", answer) if row["text"]]
    return _tidy("<recogniser>", rows, len(waveform) / sampling_rate, [])


def _utterance(start: float, end: float | None, text: str | None, speaker: str | None) -> dict:
    return {"start": start, "end": end, "text": text, "speaker": speaker}


def _tidy(name: str, rows: list[dict], duration: float | None, sentences: list[str]) -> list[dict]:
    """Fill open ends, sort, cut at the clip's end; `sentences` takes what the user should know."""
    starts = [row["start"] for row in rows]
    if starts != sorted(starts):
        sentences.append(f"{name}: utterances were out of order and are sorted by their start.")
    rows = sorted(rows, key=lambda row: row["start"])
    later, upcoming = None, None  # start of the first utterance that starts later than this one; of the next one
    for row in reversed(rows):
        if upcoming is not None and upcoming > row["start"]:
            later = upcoming
        upcoming = row["start"]
        if row["end"] is None:
            if later is None and duration is None:
                raise UtteranceError(
                    f"{name}: the utterance that starts at {row['start']:g} s has no end, and the length of the clip "
                    "is not known: give duration."
                )
            row["end"] = max(duration, row["start"]) if later is None else later
    inside, cut = rows, []
    if duration is not None:
        inside = [row for row in rows if row["start"] < duration]
        cut = [row for row in inside if row["end"] > duration + SLACK]
        inside = [{**row, "end": min(row["end"], duration)} for row in inside]
    dropped = len(rows) - len(inside)
    if cut or dropped:
        parts = [f"{len(cut)} of {len(rows)} utterances are cut off there"] if cut else []
        parts += [f"{dropped} of {len(rows)} that start later are left out"] if dropped else []
        sentences.append(f"{name}: the clip ends at {duration:g} s; {' and '.join(parts)}.")
    return sorted(inside, key=lambda row: (row["start"], row["end"]))


def _short(value: Any) -> str:
    """A value as a message may show it."""
    # A list or an object may be as long as the file; its first entries say enough.
    if isinstance(value, (list, tuple, dict, np.ndarray)) and len(value) > 8:
        return f"{type(value).__name__} of {len(value)} entries"
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of more than 60 digits"
    text = repr(value[:60] if isinstance(value, str) else value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _clean(place: str, text: Any) -> str | None:
    """Text on one line; None when there is none."""
    if text is None or (isinstance(text, float) and math.isnan(text)):
        return None
    if not isinstance(text, (str, int, float, np.number)):
        raise UtteranceError(f"{place}: {_short(text)} stands where text is expected.")
    text = str(text)
    if len(text) > MAX_CHARACTERS:
        raise UtteranceError(
            f"{place}: a text of {len(text):,} characters, at most {MAX_CHARACTERS:,} are accepted in one utterance."
        )
    return " ".join(UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", text).split()) or None


def _seconds(place: str, edge: str, value: Any) -> float:
    if isinstance(value, str):
        clock = re.fullmatch(CLOCK, value[:100].strip())
        if clock:
            return _clock(clock.groups())
    try:
        if isinstance(value, (bool, type(None))):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise UtteranceError(f"{place}: {edge} is {_short(value)}, a number of seconds is accepted.") from None
    if not 0 <= number <= MAX_SECONDS:
        raise UtteranceError(f"{place}: {edge} is {_short(value)}, seconds from 0 to {MAX_SECONDS:,.0f} are accepted.")
    return number


def _span(place: str, start: Any, end: Any, open_end: bool = False) -> tuple[float, float | None]:
    start = _seconds(place, "start", start)
    if end is None and open_end:
        return start, None
    end = _seconds(place, "end", end)
    if end < start:
        raise UtteranceError(f"{place}: end {end:g} s lies before start {start:g} s.")
    return start, end


def _clock(groups: tuple) -> float:
    hours, minutes, seconds, fraction = groups
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + int((fraction or "").ljust(3, "0")) / 1000


def _text(path: str) -> str:
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise UtteranceError(f"{path} is a directory: a file of {ACCEPTED} is accepted.")
        # Opening a pipe waits for its other end, and a device may have none.
        if not stat.S_ISREG(mode):
            raise UtteranceError(f"{path} is a pipe or a device: a file of {ACCEPTED} is accepted.")
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UtteranceError(f"{path}: no such file; {ACCEPTED} is accepted.") from None
    except UtteranceError:
        raise
    except (OSError, ValueError) as error:
        raise UtteranceError(f"{path} cannot be opened ({error}).") from None
    if len(data) > MAX_BYTES:
        raise UtteranceError(f"{path} has more than the {MAX_BYTES:,} bytes of utterances that are accepted.")
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UtteranceError(
            f"{path}, line {line}: not {encoding.removesuffix('-sig').upper()} text; save it as UTF-8."
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _parse(name: str, text: str) -> list[dict]:
    head = text.lstrip()
    if not head:
        return []
    if head.startswith("WEBVTT"):
        return _from_vtt(name, text)
    if head.startswith("File type"):
        return _from_textgrid(name, text)
    if head[0] in "{[":
        problem = json_problem(text)
        if problem is not None:
            raise UtteranceError(f"{name}, line {problem[0]}: {problem[1]}.")
        try:
            return _from_json(name, json.loads(text))
        except json.JSONDecodeError as error:
            raise UtteranceError(f"{name}, line {error.lineno}: not valid json ({error.msg}).") from None
    if "-->" in text or re.match(r"\d+\s*\n", head):
        return _from_srt(name, text)
    line = text[: len(text) - len(head)].count("\n") + 1
    first = _short(head.partition("\n")[0][:40])
    raise UtteranceError(f"{name}, line {line}: {first} begins no known format; {ACCEPTED} is accepted.")


def json_problem(text: str) -> tuple[int, str] | None:
    """What Python's json module can only fail on, deep nesting and endless numbers: the line, and what is there."""
    line, depth = 1, 0
    for match in JSON_TOKEN.finditer(text):
        token = match[0]
        if token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth -= 1
        if depth > MAX_DEPTH:
            return line, f"lists and objects more than {MAX_DEPTH} deep in each other"
        if token[0].isdigit() and len(token) > MAX_DIGITS:
            return line, f"a number of {len(token):,} digits"
        line += token.count("\n")
    return None


def _blocks(text: str) -> Iterable[list[tuple[int, str]]]:
    """Runs of lines between blank lines, each line with its number."""
    block: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            block.append((number, line.strip()))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _cue(name: str, block: list[tuple[int, str]], form: str) -> tuple[float, float, list[str]]:
    """Start, end and text lines of a block: an optional cue name, a line of times, text."""
    at = 0 if "-->" in block[0][1] else 1
    if at == len(block):
        number, line = block[0]
        raise UtteranceError(f"{name}, line {number}: {line[:40]!r} stands where times are expected ({form}).")
    number, line = block[at]
    match = CUE.match(line[:1000])
    if match is None:
        raise UtteranceError(f"{name}, line {number}: {line[:60]!r} is not a line of times ({form}).")
    start, end = _span(f"{name}, line {number}", _clock(match.groups()[:4]), _clock(match.groups()[4:]))
    lines = block[at + 1 :]
    for number, line in lines:
        if "-->" in line:
            raise UtteranceError(f"{name}, line {number}: times inside a text; a blank line is missing before it.")
    return start, end, [line for _, line in lines]


def _from_srt(name: str, text: str) -> list[dict]:
    rows = []
    for block in _blocks(text):
        place = f"{name}, line {block[0][0]}"
        start, end, lines = _cue(name, block, "HH:MM:SS,mmm --> HH:MM:SS,mmm")
        rows.append(_labelled(place, start, end, " ".join(lines), None))
        _check_count(place, len(rows))
    return rows


def _from_vtt(name: str, text: str) -> list[dict]:
    rows = []
    for index, block in enumerate(_blocks(text)):
        place = f"{name}, line {block[0][0]}"
        if index == 0:
            if any("-->" in line for _, line in block):
                raise UtteranceError(f"{place}: a blank line is missing after the WEBVTT header.")
            continue
        if re.match(r"(NOTE|STYLE|REGION)(\s|$)", block[0][1]):
            continue
        start, end, lines = _cue(name, block, "HH:MM:SS.mmm --> HH:MM:SS.mmm")
        # What stands before the first name of a voice belongs to nobody.
        parts = VOICE.split(" ".join(lines))
        spoken = [(None, parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]
        spoken = [(speaker, said) for speaker, said in spoken if MARKUP.sub("", said).strip()] or [(None, "")]
        rows += [_labelled(place, start, end, said, speaker) for speaker, said in spoken]
        _check_count(place, len(rows))
    return rows


def _labelled(place: str, start: float, end: float, text: str, speaker: str | None) -> dict:
    """An utterance of a subtitle file, its markup removed."""
    # The names of characters have at most 33 letters, their numbers 7 digits; longer ones are not for `unescape`.
    text = html.unescape(re.sub(r"&#([xX]?\d{8,})", r"&amp;#\1", MARKUP.sub("", text)))
    label = LABEL.match(text)
    if label:
        text, speaker = text[label.end() :], label[1]
    return _utterance(start, end, _clean(place, text), _clean(place, speaker))


def _from_json(name: str, data: Any) -> list[dict]:
    rows = data
    if isinstance(data, dict):
        key = next((key for key in ("segments", "chunks", "transcription", "utterances") if key in data), None)
        if key is None:
            keys = ", ".join(str(key)[:40] for key in islice(data, 8)) or "nothing"
            raise UtteranceError(f"{name}: segments, chunks or transcription with times is needed: found {keys}.")
        rows = data[key]
    if not isinstance(rows, list):
        raise UtteranceError(f"{name}: a list of utterances is needed: found {type(rows).__name__}.")
    _check_count(name, len(rows))
    return [_from_row(f"{name}, utterance {number}", row) for number, row in enumerate(rows, 1)]


def _from_row(place: str, row: Any) -> dict:
    """One utterance of any layout that rows and whisper json come in."""
    if isinstance(row, dict):
        text, speaker = row.get("text"), row.get("speaker")
        if isinstance(row.get("offsets"), dict):  # whisper.cpp, ms
            milliseconds = [_seconds(place, edge, row["offsets"].get(edge)) for edge in ("from", "to")]
            start, end = _span(place, milliseconds[0] / 1000, milliseconds[1] / 1000)
        elif isinstance(row.get("timestamp"), (list, tuple)) and len(row["timestamp"]) == 2:  # transformers pipeline
            start, end = _span(place, *row["timestamp"], open_end=True)
        else:
            start, end = _span(place, row.get("start"), row.get("end"))
    elif hasattr(row, "start") and hasattr(row, "end"):  # before tuples: older faster-whisper segments are both
        start, end = _span(place, row.start, row.end)
        text, speaker = getattr(row, "text", None), getattr(row, "speaker", None)
    elif isinstance(row, (list, tuple, np.ndarray)) and 2 <= len(row) <= 4:
        start, end = _span(place, row[0], row[1])
        text, speaker = (*row[2:], None, None)[:2]
    elif isinstance(row, (list, tuple)) and len(row) > 4 and isinstance(row[4], str):
        # A faster-whisper segment written as a json list: id, seek, start, end, text, ...
        start, end = _span(place, row[2], row[3])
        text, speaker = row[4], None
    else:
        raise UtteranceError(f"{place}: {_short(row)} is not an utterance; (start, end, text, speaker) is accepted.")
    return _utterance(start, end, _clean(place, text), _clean(place, speaker))


def _from_textgrid(name: str, text: str) -> list[dict]:
    tiers = _tiers(name, text)
    if not tiers:
        return []

    def kind(tier: str, names: set[str]) -> bool:
        return any(word.rstrip("s") in names for word in re.split(r"[^a-z]+", tier.lower()))

    whole = {tier: rows for tier, rows in tiers.items() if kind(tier, UTTERANCE_TIERS)}
    whole = whole or {tier: rows for tier, rows in tiers.items() if not kind(tier, PART_TIERS)}
    if not whole:
        words = {tier: rows for tier, rows in tiers.items() if kind(tier, {"word", "wrd"})}
        if not words:
            names = ", ".join(_short(tier) for tier in islice(tiers, 8))
            raise UtteranceError(f"{name}: tiers of utterances or words are accepted: found {names}.")
        whole = {tier: _join_words(rows) for tier, rows in words.items()}
    # One tier for each speaker is Praat's custom; a single tier is named for its content.
    utterances = []
    for tier, rows in whole.items():
        speaker = _clean(name, tier) if len(whole) > 1 else None
        utterances += [_utterance(start, end, _clean(name, said), speaker) for start, end, said in rows if said]
    return sorted(utterances, key=lambda row: row["start"])


def _join_words(rows: list[tuple[float, float, str | None]]) -> list[tuple[float, float, str]]:
    """Words -> runs of words between pauses."""
    runs: list[tuple[float, list[float], list[str]]] = []  # start, ends and words
    for start, end, word in rows:
        if not word:
            continue
        if runs and start - runs[-1][1][-1] < WORD_PAUSE:
            runs[-1][1].append(end)
            runs[-1][2].append(word)
        else:
            runs.append((start, [end], [word]))
    return [(start, ends[-1], " ".join(words)) for start, ends, words in runs]


def _tiers(name: str, text: str) -> dict[str, list[tuple[float, float, str | None]]]:
    """Interval tiers of a TextGrid: name -> [(start, end, text or None)].

    The long form is the short one with labels (`xmin = 0`): what counts in both is the sequence of numbers, flags and
    quoted strings, so both are read as that sequence.
    """
    line = 1

    def tokens() -> Iterator[tuple[str, Any]]:
        nonlocal line
        at = 0
        for match in TEXTGRID_TOKEN.finditer(text):
            line += text.count("\n", at, match.start())
            at = match.start()
            if match[1] is not None:
                yield "text", match[1].replace('""', '"')
            elif match[2]:
                yield "flag", match[2]
            elif match[3]:
                yield "number", float(match[3])

    stream = tokens()

    def take(kind: str) -> Any:
        found_kind, value = next(stream, (None, None))
        if found_kind is None:
            raise UtteranceError(f"{name}, line {line}: the TextGrid ends where a {kind} is expected.")
        if found_kind != kind:
            raise UtteranceError(
                f"{name}, line {line}: {_short(value)} stands where a {kind} is expected in a TextGrid."
            )
        return value

    def count() -> range:
        number = take("number")
        if not 0 <= number <= len(text) or number != int(number):
            raise UtteranceError(f"{name}, line {line}: {number:g} stands where the TextGrid counts its parts.")
        return range(int(number))

    if (take("text"), take("text")) != ("ooTextFile", "TextGrid"):
        raise UtteranceError(f"{name}, line {line}: a Praat file, but not a TextGrid.")
    take("number"), take("number")
    if take("flag") == "absent":
        return {}
    tiers: dict[str, list[tuple[float, float, str | None]]] = {}
    for _ in count():
        kind, tier = take("text"), take("text")
        take("number"), take("number")
        rows = []
        for _ in count():
            start = take("number")
            place = f"{name}, line {line}"
            end = take("number") if kind == "IntervalTier" else start
            said = take("text")
            rows.append((*_span(place, start, end), _clean(place, said)))
        if kind == "IntervalTier":
            tiers.setdefault(tier, []).extend(rows)
    return tiers
