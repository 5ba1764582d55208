"""What a model's reply answers, apart from how it is wrapped: reasoning, tags, option letters, refusals.

R1-style models reason first (`<think>...</think><answer>happy</answer>`), multiple-choice prompts are answered with a
letter, chat models decline. The metrics and the pipeline read replies through these functions, so that both see the
same answer. The official scripts of most benchmarks compare the raw reply instead; `--strict` keeps that behaviour.
"""

import math
import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase

_THINK = r"(?:think|thinking|thought|reasoning|reflection)"
_THINKING_STARTS = re.compile(rf"<{_THINK}>", re.IGNORECASE)
_THINKING_ENDS = re.compile(rf"</{_THINK}>", re.IGNORECASE)
_ANSWER = re.compile(r"<answer>((?:(?!</?answer>).)*)(?:</answer>|\Z)", re.DOTALL | re.IGNORECASE)
_BOX = re.compile(r"\\boxed\s*\{\s*(?:\\text\s*\{)?([^{}]*)\}|<\|begin_of_box\|>(.*?)<\|end_of_box\|>", re.DOTALL)
_STATED = re.compile(r"\b(?:answer|choice|prediction|answer\s+is|option\s+is)\W{0,4}[:：]\W*", re.IGNORECASE)

_DELIMITER = r"[.):、：:．]"
_OPTION = re.compile(
    rf"(?:^|(?<=[\s(（,;]))[(（]?([A-Z]){_DELIMITER}\s*(\S.*?)(?=[\s,;]*(?:[(（]?\b[A-Z]{_DELIMITER}\s*\S|\n|\Z))"
)
_LEADING = re.compile(rf"^\W*([A-Z])(?:{_DELIMITER}|\s*[-–—])", re.MULTILINE)
_NAMED = re.compile(
    r"\b(?i:answer|option|choice|choose|select|pick)s?\b(?:\s+(?:is|are|would\s+be|option|answer))*\W{0,4}"
    r"([A-Z](?:\W{0,3}(?:,|and|or|&)\W{0,3}[A-Z])*)\b"
    r"(?!['’]|(?<=[AI])\s+(?!because|since|as\b|for\b|given)[a-z])"
)
_BRACKETED = re.compile(r"[(（]([A-Z])[)）]")

_SPAN = re.compile(r"\b([Ff]rom) (\d+(?:\.\d+)?) to (\d+(?:\.\d+)?) s (\w)")
_ABOUT_UTTERANCE = re.compile(r"\s*(?P<text>\bDuring utterance (?P<number>\d+)\b.*?\.)(?=\s|$)")

_DECLINED = (
    r"(?:determine|identify|assess|infer|recogni[sz]e|tell|discern|analy[sz]e|judge|classify|evaluate|describe|"
    r"view|see|access|process|watch|hear|listen|help|assist|provide|comply|answer|fulfil|do\s+that)"
)
_REFUSAL = re.compile(
    r"(?:^\W*(?:i(?:'m|\s+am)\s+(?:very\s+|so\s+)?sorry\b|sorry[,.]|i\s+apologi[sz]e|as\s+an?\s+(?:ai\b|a\.i\.|language|"
    r"large\s+language|text-based|artificial)|i\s+(?:must|have\s+to)\s+decline|no\s+comment\b)"
    rf"|\b(?:i|we)\s+(?:really\s+|simply\s+)?(?:can(?:not|\s+not|'t)|could(?:\s+not|n't)|won't|will\s+not|"
    rf"(?:am|are)\s+(?:unable|not\s+able|not\s+comfortable)(?:\s+to)?|'m\s+(?:unable|not\s+able)\s+to|"
    rf"don't\s+have\s+the\s+ability\s+to)\s+(?:\w+\s+)?{_DECLINED}\b"
    rf"|\bit\s+is\s+(?:im|not\s+)possible\s+to\s+(?:\w+\s+)?{_DECLINED}\b"
    rf"|^\W*(?:cannot|can't|unable\s+to|not\s+able\s+to)\s+(?:\w+\s+)?{_DECLINED}\b"
    r"|^\W*(?:抱歉|对不起|很遗憾)|(?:我|本模型)?(?:无法|不能)(?:判断|识别|确定|提供|回答|查看|分析|观看|访问|看到|听到)"
    r"|^\W*作为.{0,8}(?:AI|人工智能|语言模型))",
    re.IGNORECASE,
)
# A clause after "but" answers after all: "I cannot see the face, but the voice sounds sad".
_CLAUSE = re.compile(r"(?<=[.!?。！？\n])\s*|[,;，；]?\s?\b(?=(?:but|however|nevertheless|that said)\b)", re.IGNORECASE)


def within_clip(text: str, seconds: float, utterances: int) -> str:
    """The text, with no time after the end of its clip and no utterance that the clip does not have.

    A span ("From 1.0 to 3.0 s the face shows ...") that ends after the clip is cut to the clip's length, in tenths of a
    second. One that then covers the whole clip, or nothing of it, is left out: "The face shows ...". A sentence that
    begins "During utterance 4" is left out if the clip has three, or if the same sentence came before.

    Args:
        text: what a model wrote about a clip.
        seconds: length of the clip.
        utterances: number of its utterances.
    """
    last = math.floor(seconds * 10 + 1e-6) / 10

    def cut(span: re.Match) -> str:
        word, start, end, following = span.groups()
        if float(end) <= seconds:
            return span[0]
        if 0 < float(start) < last:
            return f"{word} {start} to {last:.1f} s {following}"
        return following.upper() if word == "From" else following

    known = set()

    def drop(sentence: re.Match) -> str:
        exists = 1 <= int(sentence["number"]) <= utterances and sentence["text"] not in known
        known.add(sentence["text"])
        return sentence[0] if exists else ""

    return _ABOUT_UTTERANCE.sub(drop, _SPAN.sub(cut, text)).strip()


def final_answer(text: str) -> str:
    """The part of a reply that answers: reasoning is dropped, an `<answer>` or a box is opened.

    The last complete `<answer>` outside the reasoning is taken, one that the token limit cut off included; else the
    last box (`\\boxed{...}`); else what follows the reasoning. A reply that never stops reasoning and holds no
    `<answer>` answers nothing: "".
    """
    if "<" in text:
        ends = list(_THINKING_ENDS.finditer(text))
        rest = text[ends[-1].end() :] if ends else text
        for part in (rest, text):
            answers = [answer.strip() for answer in _ANSWER.findall(part)]
            if any(answers):
                return [answer for answer in answers if answer][-1]
        # Reasoning that was cut off answers nothing, unless the answer comes before it.
        started = _THINKING_STARTS.search(rest if rest.strip() else text)
        text = rest if rest.strip() else text
        text = text[: started.start()] if started else text
    boxes = [(first or second).strip() for first, second in _BOX.findall(text)]
    return boxes[-1] if any(boxes) else text.strip()


def stated_answer(text: str) -> str | None:
    """What follows the last "answer:" of a text; None where there is no such mark."""
    places = list(_STATED.finditer(text))
    rest = text[places[-1].end() :].strip() if places else ""
    return rest or None


def options_in(question: str | None) -> dict[str, str]:
    """Options that a question lists by letter: `A. happy B. sad`, `(A) happy`, one a line. Letter -> text.

    The letters must begin with A and follow each other; otherwise, and with one letter alone, there are no options: {}.
    """
    options: dict[str, str] = {}
    for letter, text in _OPTION.findall(question or ""):
        if letter == ascii_uppercase[len(options) % 26]:
            options[letter] = text.strip(" \t.,;")
        elif letter == "A":
            options = {"A": text.strip(" \t.,;")}
    return options if len(options) > 1 else {}


def by_letter(options: Mapping[str, str] | Sequence[str] | None) -> dict[str, str]:
    """Options as letter -> text; a sequence is lettered A, B, C ..."""
    if not options:
        return {}
    if isinstance(options, Mapping):
        return {str(letter).upper(): str(text) for letter, text in options.items()}
    return dict(zip(ascii_uppercase, map(str, options), strict=False))


def chosen_options(answer: str, options: Mapping[str, str] | Sequence[str] | None) -> list[str] | None:
    """The options that an answer names by letter, in its order; None where it names none by letter.

    Letters are read alone (`B`, `(b).`, `A,B,D`, `A and C`), at the head of a line (`B. sad`, `(B) sad`), and in a
    sentence that says so (`the answer is B`, `option (C)`). "A happy person" names no option.

    Args:
        answer: as `final_answer` gives it.
        options: letter -> text, or texts lettered A, B, C ...
    """
    lettered = by_letter(options)
    if not lettered:
        return None
    answer = re.sub(r"[*_`]+", "", answer).strip()
    words = [word for word in re.findall(r"[^\W\d_]+", answer) if word.casefold() not in ("and", "or")]
    if words and all(len(word) == 1 for word in words):
        letters = words
    elif re.fullmatch(rf"[{''.join(lettered)}]{{2,}}", answer):
        letters = list(answer)
    else:
        named = _NAMED.findall(answer)
        letters = _LEADING.findall(answer) or (re.findall(r"[A-Z]", named[-1]) if named else [])
        letters = letters or _BRACKETED.findall(answer)[-1:]
    letters = [letter.upper() for letter in letters]
    if not letters or not all(letter in lettered for letter in letters):
        return None
    return list(dict.fromkeys(lettered[letter] for letter in letters))


def without_refusals(text: str) -> str:
    """The clauses of a text that do not decline to answer."""
    if not _REFUSAL.search(text):
        return text
    return " ".join(clause.strip() for clause in _CLAUSE.split(text) if clause.strip() and not _REFUSAL.search(clause))


def declines(text: str) -> bool:
    """Whether a clause of the answer declines to answer; the rest of the reply may answer anyway."""
    return _REFUSAL.search(final_answer(text)) is not None
