"""Groupings: which words of a clip mean the same, as functions (sorted words of one clip) -> groups.

The score of open-vocabulary labels depends on the grouping more than on most models, so a grouper carries a `name` that
goes into every result, and scores with different groupings are never comparable. Official are stored replies of
gpt-3.5-turbo (give them as
`groups`) and the wheel tables (`wheel.WheelTables.grouper`); the rest here is ours.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ..answers.lexicon import Lexicon, shipped
from .judge import Chat, JudgeCache, clean_reply, judge_name
from .sets import parse_groups

# The official prompt of EMER and MER2024, word for word (MERTools, Apache-2.0 part). There the words come in the order
# of a Python set, which changes from run to run; here they are sorted.
GROUP_PROMPT = (
    "Please assume the role of an expert in the field of emotions. We provide a set of emotions. Please group the "
    "emotions, with "
    "each group containing emotions with the same meaning. Directly output the results. The output format should be a "
    "list "
    "containing multiple lists. Input: ['Agree', 'agreement', 'Relaxed', 'acceptance', 'pleasant', 'relaxed', "
    "'Accept', "
    "'positive', 'Happy'] Output: [['Agree', 'agreement', 'Accept', 'acceptance'], ['Relaxed', 'relaxed'],['pleasant', "
    "'positive', 'Happy']] Input: {words} Output:"
)


def exact(words: Sequence[str]) -> list[list[str]]:
    """Every word is its own group."""
    return [[word] for word in words]


exact.name = "exact words"


def by_lexicon(level: int = 1, lexicon: Lexicon | None = None) -> Callable[[Sequence[str]], list[list[str]]]:
    """Words of one lexicon group (level 1 or 2) are merged; words the lexicon does not know stay alone."""
    lexicon = lexicon or shipped()
    lexicon.group("", level)  # an unknown level is refused here, not at the first clip

    def group(words: Sequence[str]) -> list[list[str]]:
        groups: dict = {}
        for word in words:
            groups.setdefault(lexicon.group(word, level) or (word,), []).append(word)
        return list(groups.values())

    group.name = f"hf_emotion lexicon, level {level}"
    return group


def named(grouper):
    """The grouper of a name: "exact", "lexicon" (level 1), "lexicon2" (level 2); a function or None is returned as it
    is.

    Raises:
        ValueError: another name.
    """
    if not isinstance(grouper, str):
        return grouper
    known = {"exact": exact, "lexicon": by_lexicon(1), "lexicon2": by_lexicon(2)}
    if grouper not in known:
        raise ValueError(f"grouper is {grouper!r}; accepted are {', '.join(known)}, or a function words -> groups")
    return known[grouper]


class Embeddings:
    """Words whose embeddings are close are merged: each word, in order, joins the group whose first word is nearest, if
    its cosine similarity is at least `threshold`.

    Args:
        encoder: Hub id or folder of a sentence-transformers model (loaded at the first call; needs that package), or a
            function list of N words -> (N, D) array.
        threshold: least cosine similarity, in (0, 1].

    Raises:
        ValueError: threshold outside (0, 1].
    """

    def __init__(self, encoder: str | Callable[[list[str]], np.ndarray], threshold: float = 0.6):
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold is {threshold}; a cosine similarity in (0, 1] is accepted")
        self.encoder, self.threshold = encoder, threshold
        name = encoder if isinstance(encoder, str) else getattr(encoder, "__name__", type(encoder).__name__)
        self.name = f"embeddings {name}, threshold {threshold:g}"
        self._vectors: dict[str, np.ndarray] = {}

    def __call__(self, words: Sequence[str]) -> list[list[str]]:
        new = [word for word in words if word not in self._vectors]
        if new:
            vectors = np.asarray(self._encode(new), dtype=np.float64)
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
            self._vectors.update(zip(new, vectors, strict=True))
        groups: list[list[str]] = []
        for word in words:
            similar = [float(self._vectors[word] @ self._vectors[group[0]]) for group in groups]
            best = int(np.argmax(similar)) if similar else -1
            if similar and similar[best] >= self.threshold:
                groups[best].append(word)
            else:
                groups.append([word])
        return groups

    def _encode(self, words: list[str]) -> np.ndarray:
        if isinstance(self.encoder, str):
            try:
                from sentence_transformers import SentenceTransformer
            except ImportError as error:
                raise ImportError(
                    f"grouping by the embeddings of {self.encoder} needs sentence-transformers (pip install "
                    f"sentence-transformers), "
                    "or give a function words -> vectors"
                ) from error
            self.encoder = SentenceTransformer(self.encoder).encode
        return self.encoder(words)


class LanguageModelGroups:
    """Words are merged as a language model says (EMER, MER2024): the official prompt, up to five tries while the reply
    is empty, then no groups.

    Args:
        chat: the language model, prompt -> reply; None = stored replies only.
        cache: where replies are stored, by the sorted words; pass one with a file to make a score repeatable.
        tries: questions per clip while the reply is empty.
    """

    def __init__(self, chat: Chat | None, cache: JudgeCache | None = None, tries: int = 5):
        self.chat, self.cache, self.tries = chat, cache or JudgeCache(), tries
        stored = f"stored replies of {', '.join(self.cache.judges)}"
        self.name = f"language model: {stored if chat is None else judge_name(chat)}"

    def __call__(self, words: Sequence[str]) -> list[list[str]]:
        words = sorted(set(words))
        if len(words) < 2:
            return [[word] for word in words]
        for attempt in range(self.tries):
            reply = clean_reply(self.cache.ask(self.chat, "groups", GROUP_PROMPT.format(words=words), words, attempt))
            if reply:
                return parse_groups(reply)
        return []

    def finish(self) -> None:
        """Save the cache; `sets.set_clips` calls it when it ends."""
        self.cache.save()
