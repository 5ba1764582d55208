"""A reply -> one class of a closed set, or one answer of a fixed list (sentiment, preference).

Official scripts mostly compare the raw reply with the class; `hf_emotion.evaluation` keeps that behaviour under
`strict`. Here the reply is read: its final answer, an option letter, the class it mentions, else the class of the same
emotion family.
"""

import re
from collections.abc import Mapping, Sequence

from .lexicon import Lexicon, shipped
from .replies import chosen_options, final_answer, stated_answer, without_refusals
from .words import emotion_words

_DENIED = re.compile(r"(?:\b(?:not|no|never|without|neither|nor|cannot)|n't)\s+(?:\w+\s+){0,2}$")


def read_choice(
    reply: str | None,
    classes: Sequence[str],
    options: Mapping[str, str] | Sequence[str] | None = None,
    lexicon: Lexicon | None = None,
) -> str | None:
    """The class that a reply names; None where it names none (an invalid reply, or a refusal).

    In this order: the final answer is a class; it names an option by letter; the text after its last "answer:" names a
    class; the class that it mentions first (whole words; not one that it denies); the class of the lexicon group of its
    first emotion word ("furious" for "angry").

    Args:
        reply: text of a model.
        classes: the closed set. Case and surrounding blanks do not matter.
        options: letter -> text where the question listed options by letter, or texts lettered A, B, C ...
        lexicon: the words that count in prose; the shipped lexicon by default.
    """
    if reply is None:
        return None
    lexicon = lexicon or shipped()
    folded = {str(name).strip().casefold(): name for name in classes}
    answer = final_answer(str(reply))
    bare = answer.casefold().strip(" \t\r\n.,;:!\"'`*[]{}()")
    if bare in folded:
        return folded[bare]
    chosen = chosen_options(answer, options)
    if chosen:
        return read_choice(chosen[0], classes, lexicon=lexicon)
    answer = without_refusals(answer)
    stated = stated_answer(answer)
    for text in (stated, answer) if stated else (answer,):
        name = _mentioned(text, folded, lexicon)
        if name is not None:
            return name
    return None


def _mentioned(text: str, folded: Mapping[str, str], lexicon: Lexicon) -> str | None:
    lowered = text.casefold()
    places = []
    for name in folded:
        match = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", lowered)
        if match:
            # Of two classes that begin at one place ("very sad" and "very sad indeed") the longer one is meant.
            places.append((match.start(), -len(name), name))
    words = emotion_words(text, lexicon=lexicon)
    mentioned = [name for _, _, name in sorted(places)]
    # A class that is only denied ("not angry but sad") is mentioned but not named: the words that are stated go first.
    stated = [name for name in mentioned if name in words]
    stated += [name for place, _, name in sorted(places) if not _DENIED.search(lowered[:place])]
    if stated:
        return folded[stated[0]]
    group_of: dict = {}
    for name in folded:
        lemma = lexicon.lemma(name)
        if lemma is not None:
            group_of.setdefault(lexicon.groups[lemma], folded[name])
            group_of.setdefault(lexicon.groups[lemma][0], folded[name])
    for word in words:
        lemma = lexicon.lemma(word)
        if lemma is not None:
            group = lexicon.groups[lemma]
            named = group_of.get(group) or group_of.get(group[0])
            if named is not None:
                return named
    return None


def read_preference(reply) -> str:
    """Answer of MER2026 Track3 in a reply: a1, a2 or same; the one it starts with, else the earliest, else same."""
    text = str(reply or "").lower()
    for answer in ("a1", "a2", "same"):
        if text.startswith(answer):
            return answer
    places = sorted((text.find(answer), answer) for answer in ("a1", "a2", "same") if answer in text)
    return places[0][1] if places else "same"
