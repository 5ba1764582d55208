"""The emotion lexicon: which words name an emotion, and which of them belong together.

English emotion words in two levels, written for this package from published emotion families (Plutchik 1980; Parrott
2001 after Shaver et al. 1987; the Geneva Emotion Wheel and the Geneva Affect Label Coder, Scherer 2005); `lexicon.tsv`
names the source of each group. It differs from the emotion wheels of the MER challenges in every respect: other words,
other groups, one table. A score made with it is never an official score and is never comparable with one.

A word that is not listed is brought back to a listed one by suffix rules (`happily` -> `happy`), a phrase by phrase
rules (`slightly anxious` -> `anxious`, `sense of loss` is listed, `afraid of dogs` -> `afraid`).
"""

import re
import unicodedata
from functools import lru_cache
from pathlib import Path

LEXICON_FILE = Path(__file__).with_name("lexicon.tsv")


def word_set(text: str) -> frozenset[str]:
    """The words of a text parted by blanks."""
    return frozenset(text.split())


# Words that weaken, strengthen or announce an emotion without changing which emotion it is.
MODIFIERS = word_set(
    """a an the very slightly slight bit little somewhat extremely quite rather mildly deeply strongly highly
    really fairly relatively almost some mixed subtle obvious obviously clear clearly apparent apparently
    seemingly possible possibly maybe perhaps probably likely great intense profound overwhelmingly kind sort
    sense feeling feelings feel feels state states expression hint touch trace tone being be is are becoming
    getting inner inward inwardly internal internally genuine genuinely so too incredibly totally completely
    utterly absolutely pretty more most much even mood emotion emotions emotional emotionally attitude manner
    look voice moderately moderate sudden suddenly increasingly visibly still"""
)
NEGATORS = word_set("not no non never without lack lacks lacking nor neither n't absence")
# The part of a phrase before one of these carries the emotion: "afraid of dogs", "anger towards him".
PREPOSITIONS = word_set(
    """of to for about at with by towards toward from over on in into against that because due when as"""
)
_JOINTS = re.compile(r"\s*(?:,|/|&|;|\band\b|\bor\b|\bbut\b|\byet\b|\bmixed with\b|\bas well as\b)\s*")

# (suffix, replacements tried in turn); the longest suffix that leads to a listed word wins. "-less" is absent on
# purpose: fearless is not a form of fear.
SUFFIXES = (
    ("fulness", ("ful", "")),
    ("iveness", ("ive", "")),
    ("ousness", ("ous",)),
    ("edness", ("ed", "e", "")),
    ("ingness", ("ing",)),
    ("iness", ("y",)),
    ("ness", ("",)),
    ("fully", ("ful", "")),
    ("ically", ("ic", "ical")),
    ("ingly", ("ing", "ed", "e", "")),
    ("edly", ("ed", "e", "")),
    ("ally", ("al", "")),
    ("ily", ("y",)),
    ("bly", ("ble",)),
    ("ly", ("", "le")),
    ("iest", ("y",)),
    ("ier", ("y",)),
    ("ied", ("y",)),
    ("ies", ("y", "ie")),
    ("ations", ("ation", "ate", "e")),
    ("ation", ("ated", "e", "ate")),
    ("ition", ("ed", "e")),
    ("ion", ("ed", "e", "")),
    ("ments", ("ment", "")),
    ("ment", ("", "ed")),
    ("ities", ("ity",)),
    ("ity", ("", "e")),
    ("ful", ("", "e")),
    ("ous", ("", "y", "e")),
    ("ive", ("ion", "ed", "e")),
    ("ance", ("ant", "e", "")),
    ("ence", ("ent", "")),
    ("ancy", ("ant",)),
    ("ency", ("ent",)),
    ("able", ("", "e", "ed")),
    ("ings", ("ing", "", "e")),
    ("ing", ("", "e", "ed", "ation", "y")),
    ("ed", ("", "e", "ing", "ation", "ment")),
    ("en", ("", "ed")),
    ("es", ("", "e")),
    ("s", ("",)),
    ("d", ("",)),
    ("y", ("", "e")),
    ("e", ("ed", "ing", "y")),
    ("", ("ed", "ing", "ment", "ation", "ful", "ness", "y", "ity")),
)
_MIN_STEM = 3
# Rules that take one ending off and put another on, or only put one on. They bring a label to its group ("annoy" ->
# "annoyed"); in running text, though, a nose is not nosy, a car not caring, and who gives an impression not impressed.
_REBUILDING = {
    *(
        (suffix, replacement)
        for suffix, replacements in SUFFIXES
        if suffix in ("", "e")
        for replacement in replacements
    ),
    *(("ing", "ed"), ("ing", "ation"), ("ing", "y"), ("ingly", "ed"), ("ed", "ing"), ("ed", "ation"), ("ed", "ment")),
    *(("ation", "ated"), ("ations", "ate"), ("ion", "ed"), ("ition", "ed"), ("ive", "ion"), ("ive", "ed")),
    *(("able", "ed"), ("en", "ed"), ("ment", "ed")),
}


@lru_cache(maxsize=200_000)
def normalise(word: str) -> str:
    """Lower case, compatibility-normalised (full-width letters become plain ones), one blank between parts, no outer
    punctuation."""
    word = unicodedata.normalize("NFKC", str(word)).casefold().replace("’", "'").replace("-", " ").replace("_", " ")
    return re.sub(r"\s+", " ", word).strip(" \t\n.,;:!?\"'`*()[]{}<>。、，；：！？“”‘’·…~")


class Lexicon:
    """Two-level table of emotion words with suffix and phrase rules.

    Args:
        path: a file in the format of `lexicon.tsv` (level 1, level 2, source, words; a word with `*` counts as a label
            but is not read out of running text); the shipped file when None.

    Raises:
        ValueError: a row without its four columns, or one word in two groups.

    Attributes:
        groups: listed word -> (level 1, level 2).
        sources: (level 1, level 2) -> sources of that group, as written in the file.
        phrase_lengths: first part of a listed word -> parts of the longest listed phrase that begins with it.
        label_only: listed words that are not read out of running text.
        lemmas: listed words that no suffix rule derives from another listed word of the same group.
    """

    def __init__(self, path: str | Path | None = None):
        self.path = Path(path or LEXICON_FILE)
        self.groups: dict[str, tuple[str, str]] = {}
        self.sources: dict[tuple[str, str], list[str]] = {}
        self.label_only: set[str] = set()
        self.phrase_lengths: dict[str, int] = {}
        self._cache: dict[str, str | None] = {}
        for number, line in enumerate(self.path.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            columns = line.split("\t")
            if len(columns) != 4:
                raise ValueError(
                    f"{self.path.name} line {number} has {len(columns)} columns, not level 1, level 2, source, words"
                )
            group = (columns[0], columns[1])
            self.sources.setdefault(group, []).append(columns[2])
            for word in columns[3].split(","):
                key = normalise(word)
                if self.groups.setdefault(key, group) != group:
                    raise ValueError(f"{self.path.name} line {number}: {key!r} is already in group {self.groups[key]}")
                if word.strip().endswith("*"):
                    self.label_only.add(key)
        # "light hearted" and "lighthearted" are one word.
        self._joined = {key.replace(" ", ""): key for key in self.groups if " " in key}
        self.max_parts = max(key.count(" ") for key in self.groups) + 1
        for key in self.groups:
            first, *rest = key.split(" ")
            self.phrase_lengths[first] = max(self.phrase_lengths.get(first, 1), 1 + len(rest))

    @property
    def lemmas(self) -> set[str]:
        """Listed words that no suffix rule derives from another listed word of their group."""
        derived = set()
        for word, group in self.groups.items():
            for candidate in _stems(word):
                if candidate != word and self.groups.get(candidate) == group and len(candidate) < len(word):
                    derived.add(word)
                    break
        return set(self.groups) - derived

    def lemma(self, label: str) -> str | None:
        """The listed word that a label (word or phrase) stands for; None where no rule leads to one."""
        key = normalise(label)
        if key not in self._cache:
            if len(self._cache) > 200_000:  # a scorer fed with free text must not grow without bound
                self._cache.clear()
            self._cache[key] = self._phrase(key) if " " in key or "/" in key or "," in key else self._word(key)
        return self._cache[key]

    def lemma_in_prose(self, word: str) -> str | None:
        """The listed word that a word of running text is, or is a form of by its ending alone; None for all others."""
        key = normalise(word)
        if key in self.groups or key.replace(" ", "") in self.groups or key in self._joined:
            return self.lemma(key)
        if key.endswith("less"):
            return None
        for part in reversed(key.split(" ")):
            for candidate in (part, *_stems(part, rebuild=False)):
                if candidate in self.groups:
                    return candidate
        return None

    def group(self, label: str, level: int = 1) -> str | None:
        """The group of a label: level 1 = one of ten families, level 2 = the finer group. None = not an emotion word
        known here.

        Raises:
            ValueError: `level` is neither 1 nor 2.
        """
        if level not in (1, 2):
            raise ValueError(f"level is {level!r}; the lexicon has levels 1 and 2")
        lemma = self.lemma(label)
        return None if lemma is None else self.groups[lemma][level - 1]

    def _word(self, word: str) -> str | None:
        if word in self.groups:
            return word
        if word in self._joined:
            return self._joined[word]
        if word.endswith("less"):
            return None
        for candidate in _stems(word):
            if candidate in self.groups:
                return candidate
        return None

    def _phrase(self, phrase: str) -> str | None:
        if phrase in self.groups:
            return phrase
        joined = phrase.replace(" ", "")
        if joined in self.groups:
            return joined
        pieces = [piece for piece in _JOINTS.split(phrase) if piece]
        if len(pieces) > 1:
            lemmas = (self.lemma(piece) for piece in pieces)
            return next((lemma for lemma in lemmas if lemma is not None), None)
        parts = phrase.split(" ")
        if any(part in NEGATORS for part in parts):
            return None  # "not happy" names no emotion unless it is listed as a whole
        # The longest listed run of words goes first: "a sense of loss" is listed, and more than its "loss".
        for size in range(min(len(parts) - 1, self.max_parts), 1, -1):
            for start in range(len(parts) - size + 1):
                run = " ".join(parts[start : start + size])
                if run in self.groups:
                    return run
        stripped = _strip_modifiers(parts)
        if not stripped:
            return next((lemma for lemma in map(self._word, reversed(parts)) if lemma is not None), None)
        if len(stripped) < len(parts):
            return self.lemma(" ".join(stripped))
        # The head of an English phrase comes before a preposition, otherwise last.
        cut = next((i for i, part in enumerate(parts) if part in PREPOSITIONS and i > 0), len(parts))
        for part in [*reversed(parts[:cut]), *parts[cut:]]:
            lemma = self._word(part)
            if lemma is not None:
                return lemma
        return None


def _strip_modifiers(parts: list[str]) -> list[str]:
    start, stop = 0, len(parts)
    while start < stop and (parts[start] in MODIFIERS or (start and parts[start] == "of")):
        start += 1
    while stop > start and parts[stop - 1] in MODIFIERS:
        stop -= 1
    return parts[start:stop]


def _stems(word: str, rebuild: bool = True):
    for spelling in _spellings(word):
        if spelling != word:
            yield spelling
        for suffix, replacements in SUFFIXES:
            stem = spelling[: len(spelling) - len(suffix)]
            if not spelling.endswith(suffix) or len(stem) < _MIN_STEM:
                continue
            for replacement in replacements:
                if rebuild or (suffix, replacement) not in _REBUILDING:
                    yield stem + replacement
            if suffix in ("ed", "ing", "er") and len(stem) > _MIN_STEM and stem[-1] == stem[-2]:
                yield stem[:-1]


def _spellings(word: str):
    yield word
    american = word.replace("isation", "ization").replace("ising", "izing").replace("ised", "ized").replace("our", "or")
    if american != word:
        yield american


@lru_cache(maxsize=1)
def shipped() -> Lexicon:
    """The shipped lexicon, read once."""
    return Lexicon()
