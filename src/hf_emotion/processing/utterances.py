"""Who says what when: subtitles, ASR output and annotations -> one list of utterances in seconds.

MicroEmo 3.3 and AcoustEmo 3.2 give every utterance its own tokens, from its start and end times alone; the papers are
silent on where the times come from. What differs from the peers (whisper json only, or precomputed): srt, WebVTT,
whisper json as openai-whisper, faster-whisper, WhisperX, whisper.cpp and the transformers pipeline write it, Praat
TextGrid (long and short), and rows, all told apart by their content, never by their name.

An utterance is `{"start": s, "end": s, "text": str | None, "speaker": str | None}`. Utterances are sorted; overlapping
ones are kept (two people may talk at once); what lies beyond the end of the clip is cut off. A start or end that is
missing, NaN or negative, or an end before its start, is an error that names its place.
"""

import html
import json
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

ACCEPTED = "srt, WebVTT, whisper json, Praat TextGrid, or rows (start, end, text, speaker)"
CLOCK = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})(?:[.,](\d{1,3}))?"
CUE = re.compile(rf"^\s*{CLOCK}\s*-->\s*{CLOCK}(?:\s.*)?$")
MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|<[\d:.]+>|\{\\[^{}]*\}")  # <i>, karaoke times, {\an8}
# WhisperX writes its speaker labels into the text of srt and vtt files.
LABEL = re.compile(r"^\s*\[(SPEAKER_\d+)\]:\s*")
# Names under which annotators keep whole utterances; tiers of words and sounds are told by the second list.
UTTERANCE_TIERS = {"utterance", "sentence", "segment", "phrase", "text", "transcript", "transcription", "ipu", "turn"}
PART_TIERS = {"word", "phone", "phoneme", "syllable", "segmentation", "phon", "syll", "wrd", "phn"}
WORD_PAUSE = 0.3  # s of silence that parts two utterances where only words are annotated
SLACK = 0.1  # s beyond the end that is rounding, not worth a note


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
    name, told = "<rows>", []
    if source is None:
        return []
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        found = _parse(name, _text(name))
        if not found:
            told.append(f"{name} holds no utterances.")
    elif isinstance(source, dict):
        found = _from_json(name, source)
    elif isinstance(source, Iterable) and not isinstance(source, (bytes, bytearray)):
        found = [_from_row(f"{name}, row {number}", row) for number, row in enumerate(source, 1)]
    else:
        raise UtteranceError(f"Utterances of type {type(source).__name__} cannot be read: {ACCEPTED} is accepted.")
    utterances = _tidy(name, found, duration, told)
    for sentence in told:
        if notes is None:
            warnings.warn(sentence, stacklevel=2)
        else:
            notes.append(sentence)
    return utterances


def fixed_windows(duration: float, seconds: float) -> list[dict]:
    """Windows of `seconds` s that tile [0, duration) s, the last one shorter; no text (AcoustEmo, Table 2: "2s")."""
    for name, value in (("duration", duration), ("seconds", seconds)):
        if not (math.isfinite(value) and value >= 0) or (name == "seconds" and value == 0):
            raise UtteranceError(f"{name} is {value!r}, a positive number of seconds is accepted.")
    # A remainder of floating-point dust is no window.
    count = math.ceil(duration / seconds - 1e-6)
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
    found = [row for row in _from_json("<recogniser>", answer) if row["text"]]
    return _tidy("<recogniser>", found, len(waveform) / sampling_rate, [])


def _utterance(start: float, end: float | None, text: str | None, speaker: str | None) -> dict:
    return {"start": start, "end": end, "text": text, "speaker": speaker}


def _tidy(name: str, found: list[dict], duration: float | None, told: list[str]) -> list[dict]:
    """Fill open ends, sort, cut at the clip's end."""
    starts = [row["start"] for row in found]
    if starts != sorted(starts):
        told.append(f"{name}: utterances were out of order and are sorted by their start.")
    found = sorted(found, key=lambda row: row["start"])
    for place, row in enumerate(found):
        if row["end"] is None:
            later = [other["start"] for other in found[place + 1 :] if other["start"] > row["start"]]
            if not later and duration is None:
                raise UtteranceError(
                    f"{name}: the utterance that starts at {row['start']:g} s has no end, and the length of the clip "
                    "is not known: give duration."
                )
            row["end"] = later[0] if later else max(duration, row["start"])
    kept, cut = found, []
    if duration is not None:
        kept = [row for row in found if row["start"] < duration]
        cut = [row for row in kept if row["end"] > duration + SLACK]
        kept = [{**row, "end": min(row["end"], duration)} for row in kept]
    dropped = len(found) - len(kept)
    if cut or dropped:
        parts = [f"{len(cut)} of {len(found)} utterances are cut off there"] if cut else []
        parts += [f"{dropped} of {len(found)} that start later are left out"] if dropped else []
        told.append(f"{name}: the clip ends at {duration:g} s; {' and '.join(parts)}.")
    return sorted(kept, key=lambda row: (row["start"], row["end"]))


def _clean(text: Any) -> str | None:
    """Text on one line; None when there is none."""
    if text is None or (isinstance(text, float) and math.isnan(text)):
        return None
    return " ".join(str(text).split()) or None


def _seconds(where: str, what: str, value: Any) -> float:
    if isinstance(value, str):
        clock = re.fullmatch(CLOCK, value.strip())
        if clock:
            return _clock(clock.groups())
    try:
        if isinstance(value, (bool, type(None))):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise UtteranceError(f"{where}: {what} is {value!r}, a number of seconds is accepted.") from None
    if not math.isfinite(number) or number < 0:
        raise UtteranceError(f"{where}: {what} is {value!r}, seconds from 0 on are accepted.")
    return number


def _span(where: str, start: Any, end: Any, open_end: bool = False) -> tuple[float, float | None]:
    start = _seconds(where, "start", start)
    if end is None and open_end:
        return start, None
    end = _seconds(where, "end", end)
    if end < start:
        raise UtteranceError(f"{where}: end {end:g} s lies before start {start:g} s.")
    return start, end


def _clock(groups: tuple) -> float:
    hours, minutes, seconds, fraction = groups
    return int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + int((fraction or "").ljust(3, "0")) / 1000


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise UtteranceError(f"{path}: no such file; {ACCEPTED} is accepted.") from None
    except (OSError, ValueError) as error:
        raise UtteranceError(f"{path} cannot be opened ({error}).") from None
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
        try:
            return _from_json(name, json.loads(text))
        except json.JSONDecodeError as error:
            raise UtteranceError(f"{name}, line {error.lineno}: not valid json ({error.msg}).") from None
    if "-->" in text or re.match(r"\d+\s*\n", head):
        return _from_srt(name, text)
    first = head.splitlines()[0][:40]
    line = text[: len(text) - len(head)].count("\n") + 1
    raise UtteranceError(f"{name}, line {line}: {first!r} begins no known format; {ACCEPTED} is accepted.")


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
    match = CUE.match(line)
    if match is None:
        raise UtteranceError(f"{name}, line {number}: {line[:60]!r} is no line of times ({form}).")
    start, end = _span(f"{name}, line {number}", _clock(match.groups()[:4]), _clock(match.groups()[4:]))
    lines = block[at + 1 :]
    for number, line in lines:
        if "-->" in line:
            raise UtteranceError(f"{name}, line {number}: times inside a text; a blank line is missing before it.")
    return start, end, [line for _, line in lines]


def _from_srt(name: str, text: str) -> list[dict]:
    found = []
    for block in _blocks(text):
        start, end, lines = _cue(name, block, "HH:MM:SS,mmm --> HH:MM:SS,mmm")
        found.append(_labelled(start, end, " ".join(lines), None))
    return found


def _from_vtt(name: str, text: str) -> list[dict]:
    found = []
    for place, block in enumerate(_blocks(text)):
        if place == 0:
            if any("-->" in line for _, line in block):
                raise UtteranceError(f"{name}, line {block[0][0]}: a blank line is missing after the WEBVTT header.")
            continue
        if re.match(r"(NOTE|STYLE|REGION)(\s|$)", block[0][1]):
            continue
        start, end, lines = _cue(name, block, "HH:MM:SS.mmm --> HH:MM:SS.mmm")
        # Odd parts are the names of voices, <v.loud Ann>; what stands before the first belongs to nobody.
        parts = re.split(r"<v(?:\.[^\s>]*)?(?:\s+([^>]*))?>", " ".join(lines))
        spoken = [(None, parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]
        spoken = [(speaker, said) for speaker, said in spoken if MARKUP.sub("", said).strip()] or [(None, "")]
        found += [_labelled(start, end, said, speaker) for speaker, said in spoken]
    return found


def _labelled(start: float, end: float, text: str, speaker: str | None) -> dict:
    """An utterance of a subtitle file, its markup removed."""
    text = html.unescape(MARKUP.sub("", text))
    label = LABEL.match(text)
    if label:
        text, speaker = text[label.end() :], label[1]
    return _utterance(start, end, _clean(text), _clean(speaker))


def _from_json(name: str, data: Any) -> list[dict]:
    rows = data
    if isinstance(data, dict):
        key = next((key for key in ("segments", "chunks", "transcription", "utterances") if key in data), None)
        if key is None:
            found = ", ".join(map(str, data)) or "nothing"
            raise UtteranceError(f"{name}: segments, chunks or transcription with times is needed: found {found}.")
        rows = data[key]
    if not isinstance(rows, list):
        raise UtteranceError(f"{name}: a list of utterances is needed: found {type(rows).__name__}.")
    return [_from_row(f"{name}, utterance {number}", row) for number, row in enumerate(rows, 1)]


def _from_row(where: str, row: Any) -> dict:
    """One utterance of any layout that rows and whisper json come in."""
    if isinstance(row, dict):
        text, speaker = row.get("text"), row.get("speaker")
        if isinstance(row.get("offsets"), dict):  # whisper.cpp, ms
            milliseconds = [_seconds(where, edge, row["offsets"].get(edge)) for edge in ("from", "to")]
            start, end = _span(where, milliseconds[0] / 1000, milliseconds[1] / 1000)
        elif isinstance(row.get("timestamp"), (list, tuple)) and len(row["timestamp"]) == 2:  # transformers pipeline
            start, end = _span(where, *row["timestamp"], open_end=True)
        else:
            start, end = _span(where, row.get("start"), row.get("end"))
    elif hasattr(row, "start") and hasattr(row, "end"):  # before tuples: older faster-whisper segments are both
        start, end = _span(where, row.start, row.end)
        text, speaker = getattr(row, "text", None), getattr(row, "speaker", None)
    elif isinstance(row, (list, tuple, np.ndarray)) and 2 <= len(row) <= 4:
        start, end = _span(where, row[0], row[1])
        text, speaker = (*row[2:], None, None)[:2]
    elif isinstance(row, (list, tuple)) and len(row) > 4 and isinstance(row[4], str):
        # A faster-whisper segment written as a json list: id, seek, start, end, text, ...
        start, end = _span(where, row[2], row[3])
        text, speaker = row[4], None
    else:
        raise UtteranceError(f"{where}: {str(row)[:60]!r} is no utterance; (start, end, text, speaker) is accepted.")
    return _utterance(start, end, _clean(text), _clean(speaker))


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
            raise UtteranceError(
                f"{name}: tiers of utterances or words are accepted: found {', '.join(map(repr, tiers))}."
            )
        whole = {tier: _join_words(rows) for tier, rows in words.items()}
    # One tier for each speaker is Praat's custom; a single tier is named for its content.
    found = []
    for tier, rows in whole.items():
        speaker = tier if len(whole) > 1 else None
        found += [_utterance(start, end, said, speaker) for start, end, said in rows if said]
    return sorted(found, key=lambda row: row["start"])


def _join_words(rows: list[tuple]) -> list[tuple]:
    """Words -> runs of words between pauses."""
    joined: list[list] = []
    for start, end, word in rows:
        if not word:
            continue
        if joined and start - joined[-1][1] < WORD_PAUSE:
            joined[-1][1:] = [end, f"{joined[-1][2]} {word}"]
        else:
            joined.append([start, end, word])
    return [tuple(row) for row in joined]


def _tiers(name: str, text: str) -> dict[str, list[tuple]]:
    """Interval tiers of a TextGrid: name -> [(start, end, text or None)].

    The long form is the short one with labels (`xmin = 0`): what counts in both is the sequence of numbers, flags and
    quoted strings, so both are read as that sequence.
    """
    tokens: list[tuple[int, str, Any]] = []  # line, kind, value
    # Labels of the long form, such as `intervals [3]:`, hold numbers that are no values.
    grammar = re.compile(
        r'"((?:[^"]|"")*)"|<(exists|absent)>|\[[^\]\n]*\]|(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)|[^\s"<\[\d-]+|\S'
    )
    line, at = 1, 0
    for match in grammar.finditer(text):
        line += text.count("\n", at, match.start())
        at = match.start()
        if match[1] is not None:
            tokens.append((line, "text", match[1].replace('""', '"')))
        elif match[2]:
            tokens.append((line, "flag", match[2]))
        elif match[3]:
            tokens.append((line, "number", float(match[3])))
    place = 0

    def take(kind: str) -> Any:
        nonlocal place
        if place == len(tokens):
            raise UtteranceError(f"{name}, line {line}: the TextGrid ends where a {kind} is expected.")
        number, found, value = tokens[place]
        if found != kind:
            raise UtteranceError(f"{name}, line {number}: {value!r} stands where a {kind} is expected in a TextGrid.")
        place += 1
        return value

    if (take("text"), take("text")) != ("ooTextFile", "TextGrid"):
        raise UtteranceError(f"{name}, line {tokens[0][0]}: a Praat file, but no TextGrid.")
    take("number"), take("number")
    if take("flag") == "absent":
        return {}
    tiers: dict[str, list[tuple]] = {}
    for _ in range(int(take("number"))):
        kind, tier = take("text"), take("text")
        take("number"), take("number")
        rows = []
        for _ in range(int(take("number"))):
            number = tokens[min(place, len(tokens) - 1)][0]
            start = take("number")
            end = take("number") if kind == "IntervalTier" else start
            said = take("text")
            rows.append((*_span(f"{name}, line {number}", start, end), _clean(said)))
        if kind == "IntervalTier":
            tiers[tier] = tiers.get(tier, []) + rows
    return tiers
