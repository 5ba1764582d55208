"""Text -> emotion words: what a model's reply, an annotator's cell or a paragraph of clues says about the emotion.

The papers score sets of emotion words, and models answer in every form: a list in brackets, a comma list, bullets,
JSON, a sentence, a page of clues that ends in a conclusion. The official parsers handle the first form only, and some
raise on the others (`evaluation/sets.py` keeps them, bit for bit). This is the one parser used everywhere else in the
package.

Words of a list are kept even when they are unknown. From prose only words of the lexicon and their inflections are
taken (there a "nose" is not nosy): those of the conclusion if there is one ("Therefore ... he is sad"), never those
that are denied ("not angry", "without fear", "neither calm nor happy"), and those that only give a reason ("because his
friend was happy") only if nothing else is left.
"""

import ast
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial

from .lexicon import Lexicon, normalise, shipped, word_set
from .replies import chosen_options, final_answer, without_refusals

# A label longer than this is a sentence that happens to be in a list.
MAX_LABEL_WORDS = 5
# Without brackets, bullets or a heading to mark the list, an unknown piece must be shorter to pass for a label.
MAX_BARE_WORDS = 3

READING_PROMPT = (
    "Below is a description of a person in a video. Which emotions does the person feel, according to the description? "
    "Name only emotions that the description states or clearly shows, not emotions that it denies. "
    "Answer with one list in square brackets, words separated by commas, and nothing else; [] if there is none.\n"
    "Description: {text}\nAnswer:"
)

_FENCE = re.compile(r"```[a-z]*\n?|```", re.IGNORECASE)
_BRACKETS = re.compile(r"\[[^\[\]]*\]")
_PLAIN_LIST = re.compile(r"""\[\s*'[^'"\[\]\\]*'(?:\s*,\s*'[^'"\[\]\\]*')*\s*\]""")
_ITEM = re.compile(r"'([^']*)'")
_ANNOUNCES = re.compile(r"(?:output|answer|labels?|emotions?|states?|输出)\W*(?:is|are|include)?\W*$", re.IGNORECASE)
_BULLET = re.compile(r"^\s*(?:[-*•·–—]|\(?\d{1,3}[.):、])\s*(.+)$")
_KEY = re.compile(
    r"^\W*(?:the\s+)?(?:final\s+)?(?:answer|output|labels?|open[- ]vocabulary\s+\w+|feelings?|情绪|情感|情感状态|输出|"
    r"emotions?(?:al)?(?:\s+(?:states?|labels?|words?|categor(?:y|ies)))?)\W*(?:is|are)?\s*[:=]\s*(.*)$",
    re.IGNORECASE,
)
_SEPARATORS = re.compile(r"[,;/|\n、，；]+|\s+(?:and|or|as well as)\s+|\s+&\s+|\s*\+\s*", re.IGNORECASE)
# Bounded, because an unbounded search for the closing quote takes quadratic time on a text full of opening ones.
_QUOTED = re.compile(r"""(?<!\w)(["'“‘])(.{1,120}?)(["'”’])(?!\w)""")
_LIST_KEYS = (
    "labels",
    "emotions",
    "emotion",
    "label",
    "openset",
    "answer",
    "final_answer",
    "prediction",
    "emotion_label",
    "predicted_emotion",
    "emotion_words",
    "emotional_state",
    "output",
)
_SENTENCE = re.compile(r"(?<=[.!?。！？\n])\s*")
_CONCLUSION = re.compile(
    r"\b(?:therefore|thus|hence|overall|in conclusion|in summary|to sum up|in short|consequently|all in all|"
    r"we can conclude|(?:be|is|are|can) (?:inferred|concluded)|infers?|suggesting that|emotional states?|"
    r"emotions? (?:is|are|include)|final answer)\b",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|[.,;:!?()\"“”。，；：！？、—–]", re.UNICODE)
_REASONS = word_set("because since due owing given caused triggered after when whenever if unless despite")
_BREAKS = word_set("but however yet although though while whereas except nevertheless still instead rather")
_NEGATION = word_set(
    """not no never without neither nor cannot isn't aren't wasn't weren't doesn't don't didn't can't couldn't
    won't wouldn't hasn't haven't hadn't lack lacks lacking hardly barely rarely absence denies deny denied
    nothing unlike"""
)
_NEGATION_PAIRS = frozenset(
    [("rather", "than"), ("instead", "of"), ("free", "of"), ("free", "from"), ("far", "from"), ("devoid", "of")]
)
# A negator before one of these denies that the emotion stays hidden, or denies nothing: "cannot hide his anger", "not
# only sad".
_NOT_DENYING = word_set(
    """only just merely simply hide conceal help contain suppress mask disguise control doubt longer hold stop
    resist"""
)
_SUBJECTS = word_set(
    """he she they it we i you this that these those his her their its the there who which and so then because
    is are was were seems seem looks look feels feel felt appears appear sounds sound has have shows show
    remains becomes in on with"""
)
_VERBS = word_set(
    """is are was were seems seem looks look feels feel felt appears appear sounds sound has have shows show
    remains becomes"""
)
_SENTENCE_ADVERBS = word_set(
    """unfortunately surprisingly interestingly hopefully regrettably thankfully fortunately honestly seriously
    frankly curiously"""
)


def emotion_words(
    text,
    *,
    chat: Callable[[str], str] | None = None,
    lexicon: Lexicon | None = None,
    unknown: bool = True,
    options: Mapping[str, str] | Sequence[str] | None = None,
) -> list[str]:
    """Emotion words named by a text, in their order, lower case, each once.

    A reply is first reduced to its final answer (`replies.final_answer`: reasoning dropped, `<answer>` opened), and
    clauses that decline to answer are left out.

    Args:
        text: a string in any form (see above), a list of labels (cleaned, never searched), or None.
        chat: a language model as a function prompt -> reply; when given, prose is read by it (`READING_PROMPT`) and its
            reply is parsed by the same rules. Lists are never sent to it. None (default): rules only.
        lexicon: the words that count in prose; the shipped lexicon by default.
        unknown: keep words of a list that the lexicon does not know (default). In prose unknown words are never kept.
        options: where the question listed options by letter: letter -> text, or texts lettered A, B, C ... An answer
            `A,B,D` then gives their words. A single letter is never an emotion word itself.

    Returns:
        list of str. Empty for None, NaN, "", "[]", and for prose without a known emotion word (also prose that is not
        English: lists of labels may be in any script). Duplicates count once (`Happy`, `happy `); a list may have any
            length.

    Raises:
        ValueError: `text` is neither a string nor a list of strings (nor None or NaN).
    """
    lexicon = lexicon or shipped()
    if text is None or (isinstance(text, float) and math.isnan(text)):
        return []
    if isinstance(text, str):
        text = final_answer(text)
        pieces = chosen_options(text, options)
        if pieces is None:
            text = without_refusals(text)
            pieces = _listed(text, lexicon)
        if pieces is None:
            if chat is not None:
                return emotion_words(chat(READING_PROMPT.format(text=text)), lexicon=lexicon, unknown=unknown)
            return _unique(_from_prose(text, lexicon))
    elif isinstance(text, Iterable) and not isinstance(text, (bytes, dict)):
        pieces = list(text)
        strange = next((piece for piece in pieces if not (piece is None or isinstance(piece, str))), None)
        if strange is not None:
            raise ValueError(
                f"a list of labels holds {strange!r} of type {type(strange).__name__}; only strings are accepted"
            )
    else:
        raise ValueError(f"emotion words are read from a string or a list of strings, not from {type(text).__name__}")
    words = [_clean(piece) for piece in pieces if piece]
    return _unique(word for word in words if word and (unknown or lexicon.lemma(word) is not None))


def _unique(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))


@lru_cache(maxsize=100_000)
def _clean(label: str) -> str:
    label = unicodedata.normalize("NFKC", label).casefold().replace("’", "'")
    label = re.sub(r"\([^()]*\)|\s+", " ", label).strip(" \t\n.,;:!?\"'`*#[](){}<>。、，；：！？“”‘’·…~-")
    if label in ("none", "nan", "null", "n/a", "na", "nil", "unknown", "etc") or re.fullmatch("[a-z]", label):
        return ""  # a letter names an option, never an emotion
    return label


def _listed(text: str, lexicon: Lexicon) -> list[str] | None:
    """The labels of a text that is, or contains, a list; None for prose."""
    text = _FENCE.sub("", text).strip()
    if not text:
        return []
    if _PLAIN_LIST.fullmatch(text):  # the usual form, read without a parser
        return _ITEM.findall(text)
    if text.isalpha():
        return [text]
    listed = _from_json(text) if '"' in text or "'" in text else None
    if listed is not None:
        return listed
    brackets = list(_BRACKETS.finditer(text))
    if not brackets and text.startswith("["):  # a reply cut off at the token limit
        pieces = _split(text[1:])
        return pieces[:-1] + [piece for piece in pieces[-1:] if lexicon.lemma(piece)]
    if len(brackets) > 1 and re.fullmatch(r"[\[\]\s,;.]*", _BRACKETS.sub("", text)):  # [[a], [b]] or [a], [b]
        return [piece for one in brackets for piece in _split(one.group()[1:-1])]
    # The last list that is announced as the answer, else the last that holds a known word, else a list that is the
    # whole text.
    for test in (_announced, partial(_holds_known_word, lexicon=lexicon), _is_all):
        for match in reversed(brackets):
            pieces = _split(match.group()[1:-1])
            if all(len(piece.split()) <= MAX_LABEL_WORDS for piece in pieces) and test(match):
                return pieces
    lines = [line for line in text.splitlines() if line.strip()]
    bullets = [bullet.group(1) for line in lines if (bullet := _BULLET.match(line))]
    if bullets and len(bullets) >= len(lines) - 2:
        heads = [re.split(r"\s*[:：]\s|[:：]$|\s+[-–—]\s+|\s*\(", bullet)[0] for bullet in bullets]
        if all(len(head.split()) <= MAX_LABEL_WORDS for head in heads):
            return [piece for head in heads for piece in _split(head)]
    for line in reversed(lines):
        key = _KEY.match(line)
        if key and key.group(1).strip():
            named = _plain_list(key.group(1), lexicon)
            if named is not None:
                return named
    if len(lines) > 1 and not all(len(line.split()) <= 3 for line in lines):
        return None
    return _plain_list(text, lexicon)


def _announced(match: re.Match) -> bool:
    return _ANNOUNCES.search(match.string[: match.start()]) is not None


def _holds_known_word(match: re.Match, lexicon: Lexicon) -> bool:
    return any(lexicon.lemma(piece) for piece in _split(match.group()[1:-1]))


def _is_all(match: re.Match) -> bool:
    return len(match.string) - len(match.group()) <= 2


def _from_json(text: str) -> list[str] | None:
    start = text.find("{")
    candidates = [text] if text[0] in "[{\"'" else []
    if start >= 0:
        candidates.append(text[start : text.rfind("}") + 1])
    for candidate in candidates:
        for read in (json.loads, ast.literal_eval):
            try:
                value = read(candidate)
            except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
                continue
            if isinstance(value, dict):
                lowered = {str(key).strip().casefold().replace(" ", "_"): item for key, item in value.items()}
                value = next((lowered[key] for key in _LIST_KEYS if key in lowered), None)
            if isinstance(value, str):
                return _split(value)
            if isinstance(value, (list, tuple, set)):
                return list(_flatten(value))
    return None


def _flatten(value):
    for item in value:
        if isinstance(item, (list, tuple, set)):
            yield from _flatten(item)
        elif isinstance(item, str):
            yield item


def _split(text: str) -> list[str]:
    quoted = _QUOTED.findall(text)
    if quoted and not re.sub(r"[\s,;，、]", "", _QUOTED.sub("", text)):
        return [piece for _, piece, _ in quoted]  # what is quoted is one label, commas and all
    return [piece.strip(" \t\n\"'“”‘’") for piece in _SEPARATORS.split(text) if piece.strip(" \t\n\"'“”‘’.")]


def _plain_list(text: str, lexicon: Lexicon) -> list[str] | None:
    """`happy, sad and angry.` -> its words; None where a piece is too long for a label or the text is a sentence."""
    if re.search(r"[.!?。！？]\s+\S", text):
        return None
    pieces = [re.sub(r"^(?:and|or)\s+", "", piece, flags=re.IGNORECASE) for piece in _split(text)]
    if not pieces:
        return None
    for piece in pieces:
        if len(piece.split()) > MAX_BARE_WORDS and (
            len(piece.split()) > MAX_LABEL_WORDS or normalise(piece) not in lexicon.groups
        ):
            return None
    if any(":" in piece and lexicon.lemma(piece.split(":")[0]) is None for piece in pieces):
        return None
    tokens = [token.casefold() for token in re.findall(r"[^\W\d_]+(?:'t)?", text.replace("’", "'"))]
    if any(
        token in _SUBJECTS - {"and", "so", "in", "on", "with"} or token in _NEGATION or token in _BREAKS
        for token in tokens
    ):
        return None if lexicon.lemma(text) is None or normalise(text) not in lexicon.groups else [text]
    return pieces


def _from_prose(text: str, lexicon: Lexicon) -> list[str]:
    text = _FENCE.sub("", text)
    sentences = [sentence for sentence in _SENTENCE.split(text) if sentence.strip()]
    concluding = [sentence for sentence in sentences if _CONCLUSION.search(sentence)]
    for candidates in (concluding, sentences):
        stated, reasons = [], []
        for sentence in candidates:
            for word, is_reason in _sentence_words(sentence, lexicon):
                (reasons if is_reason else stated).append(word)
        if stated or reasons:
            return stated or reasons
    return []


def _sentence_words(sentence: str, lexicon: Lexicon):
    """(word, gives only a reason) for each emotion word of a sentence that is not denied."""
    tokens = [token.casefold().replace("’", "'") for token in _TOKEN.findall(sentence)]
    denied = reason = False
    i = 0
    while i < len(tokens):
        token = tokens[i]
        following = tokens[i + 1] if i + 1 < len(tokens) else ""
        if token in ".;:!?。；：！？—–":
            denied, reason = False, reason and token not in ".;!?。；！？"
        elif token in ",，、":
            if following in _SUBJECTS or following in _BREAKS or following in ("just", "only", "more"):
                denied = False
            # After "Because he lost, he is sad" the main clause starts at the comma.
            if reason and following in ("he", "she", "they", "it", "the", "this", "his", "her", "i", "we"):
                reason = False
        elif (token, following) in _NEGATION_PAIRS:
            denied = True
            i += 1
        elif token in _NEGATION:
            ahead = tokens[i + 1 : i + 3]
            if "doubt" in ahead:  # "no doubt", "without a doubt" deny nothing and doubt nothing
                i += 1 + ahead.index("doubt")
            denied = denied or not any(word in _NOT_DENYING for word in ahead)
        elif token in _BREAKS:
            denied = reason = False
        elif token == "and" and following in _VERBS | {"he", "she", "they", "it"}:
            denied = False
        elif token in _REASONS or (
            token == "as" and following in ("he", "she", "they", "his", "her", "their", "the", "a")
        ):
            reason, denied = True, False
        elif token.isalpha() or "'" in token or "-" in token:
            longest = lexicon.phrase_lengths.get(token, 1)
            for size in range(min(longest, len(tokens) - i), 0, -1):
                phrase = " ".join(tokens[i : i + size])
                key = normalise(phrase)
                if size > 1 and (key not in lexicon.groups or not tokens[i + size - 1][0].isalpha()):
                    continue
                if size == 1 and (key in _SENTENCE_ADVERBS or token in _SUBJECTS):
                    continue
                lemma = lexicon.lemma_in_prose(phrase)
                if lemma is None or lemma in lexicon.label_only or key in lexicon.label_only:
                    continue
                if not denied:
                    yield phrase, reason
                i += size - 1
                break
        i += 1
