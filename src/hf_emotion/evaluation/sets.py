"""Sets of emotion words against sets of emotion words: Accuracy_S, Recall_S, Avg (EMER, MER2024 MER-OV, MicroEmo,
AcoustEmo, ESVA).

Words of a clip that mean the same are first merged into one by a grouping; then, with G and P the sets of merged
reference and predicted words of a clip, A = |G & P| / |P| and R = |G & P| / |G|; Accuracy_S and Recall_S are their
means over clips and Avg = (Accuracy_S + Recall_S) / 2. The official grouping is a reply of gpt-3.5-turbo for each clip;
here it is stored replies, or any grouper of `grouping.py`. With `strict=True` everything, exceptions included, is what
the official code does (MERTools, MER2024 and MER2025); by default cells in other forms are read by
`words.emotion_words`, and a clip that cannot be scored is left out and counted.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..answers.lexicon import Lexicon, shipped
from ..answers.words import emotion_words
from .statistics import Clips, mean, size

# Cells whose words are remembered.
CELLS = 2**18
Grouper = Callable[[list[str]], list[list[str]]]


def parse_mer2024(cell) -> list[str]:
    """`string_to_list` of MER2024, bit for bit: quotes are the only separators and a `[` is required.

    Raises:
        IndexError: a non-empty string without `[`.
        ValueError: a list or array (the official code compares it with a string).
    """
    if isinstance(cell, (list, tuple, np.ndarray)):
        raise ValueError("the MER2024 parser takes a string; the truth value of a list of labels is ambiguous")
    if _missing(cell) or cell == "":
        return []
    return _between_quotes(cell.split("[")[1].split("]")[0])


def parse_mer2025(cell) -> list[str]:
    """`string_to_list` of MER2025, MER2026 and AffectGPT, bit for bit: quotes and commas separate; brackets at the very
    ends go.

    Raises:
        IndexError: the string is `[` alone.
    """
    if isinstance(cell, (list, tuple, np.ndarray)):
        return list(cell)
    if _missing(cell) or cell == "":
        return []
    if cell[0] == "[":
        cell = cell[1:]
    if cell[-1] == "]":
        cell = cell[:-1]
    return [piece for piece in (piece.strip() for piece in re.split(r"""['",]""", cell)) if piece]


def parse_groups(reply) -> list[list[str]]:
    """`listlist_to_list`: the groups in a language model's reply, bit for bit. Lists of lists pass through; None gives
    none."""
    if _missing(reply):
        return []
    if not isinstance(reply, str):
        return [[str(word) for word in group] for group in reply]
    groups = (_between_quotes(piece) for piece in re.split(r"[\[\]]", reply))
    return [group for group in groups if group]


def _between_quotes(text: str) -> list[str]:
    return [piece for piece in re.split(r"""['"]""", text) if piece.strip() not in ("", ",")]


def _missing(cell) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def labels_of(cell, strict: str | None = None) -> list[str]:
    """Labels of one cell, lower case, each once and in order.

    Args:
        cell: a string, a list of labels, None or NaN.
        strict: "mer2024" or "mer2025" for the official parsers and their normalisation (MER2024 lowers only, MER2025
            also strips); None reads any form with `emotion_words`.
    """
    return list(_labels_of_text(cell, strict) if isinstance(cell, str) else _labels_of_cell(cell, strict))


# Baselines and bootstrap see each cell many times; it is read once. As many texts are remembered as a large set has.
@lru_cache(maxsize=CELLS)
def _labels_of_text(text: str, strict: str | None) -> tuple[str, ...]:
    return tuple(_labels_of_cell(text, strict))


def _labels_of_cell(cell, strict: str | None) -> Iterable[str]:
    if strict == "mer2024":
        return dict.fromkeys(word.lower() for word in parse_mer2024(cell))
    if strict == "mer2025":
        return dict.fromkeys(word.lower().strip() for word in parse_mer2025(cell))
    return emotion_words(cell.tolist() if isinstance(cell, np.ndarray) else cell)


def merge_map(groups: Sequence[Sequence[str]]) -> dict[str, str]:
    """Word -> first word of its group. The last group wins where a word is in two; words are not lower-cased (as in
    MER2024)."""
    return {word: group[0] for group in groups for word in group}


def set_clips(
    predictions: Sequence, references: Sequence, groups: Sequence | None = None, grouper=None, strict: bool = False
) -> Clips:
    """Accuracy_S, Recall_S and Avg of open-vocabulary labels.

    Args:
        predictions, references: one cell per clip (a string in any form, a list of labels, None).
        groups: one grouping per clip: stored replies of a language model, or lists of lists. Words in no group stay
            themselves.
        grouper: instead of `groups`, a function (sorted words of one clip) -> groups; its `name` is reported, its
            `finish`, if it has one, called at the end.
        strict: the official MER2024 behaviour bit for bit. Raises IndexError for a cell without `[`, ZeroDivisionError
            for a clip with predictions and no reference, ValueError for a list.

    Returns:
        Clips with scores `accuracy_s`, `recall_s`, `avg`, `predicted_labels` (mean number per clip), `n` (clips
        scored), `n_skipped`. A clip without a predicted label scores 0 and 0. A clip without a reference label but with
        predictions cannot be scored: it is skipped and counted (strict: ZeroDivisionError). No clip at all: scores 0.0
        with n = 0.

    Raises:
        ValueError: not exactly one of `groups` and `grouper`, or sequences of different length.
    """
    if (groups is None) == (grouper is None):
        raise ValueError(
            "the score depends on the grouping: give either groups (one per clip: stored replies or lists of lists) "
            "or grouper "
            "(a function words -> groups; hf_emotion.evaluation.grouping has exact, by_lexicon, Embeddings and "
            "LanguageModelGroups)"
        )
    check_lengths(predictions=predictions, references=references, groups=groups)
    rule = "mer2024" if strict else None
    columns = np.full((len(predictions), 3), np.nan)
    try:
        for i, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
            predicted, labels = labels_of(prediction, rule), labels_of(reference, rule)
            words = sorted({*predicted, *labels})
            merged = merge_map(parse_groups(groups[i]) if grouper is None else grouper(words))
            columns[i, :2] = overlap({merged.get(w, w) for w in labels}, {merged.get(w, w) for w in predicted}, strict)
            columns[i, 2] = len(predicted)
    finally:
        # A grouper that asks a language model saves the replies that it has, even if it fails half-way.
        getattr(grouper, "finish", lambda: None)()
    grouping = (
        "given" if grouper is None else getattr(grouper, "name", getattr(grouper, "__name__", type(grouper).__name__))
    )
    return Clips(columns, _set_scores, {"grouping": grouping, "strict": strict})


def overlap(labels: set, predicted: set, strict: bool = True) -> tuple[float, float]:
    """(|G & P| / |P|, |G & P| / |G|); (0, 0) without a prediction; without a reference (NaN, NaN), or ZeroDivisionError
    if strict."""
    if not predicted:
        return 0.0, 0.0
    if not labels and not strict:
        return math.nan, math.nan
    common = len(labels & predicted)
    return common / len(predicted), common / len(labels)


def _set_scores(columns: np.ndarray, counts: np.ndarray | None) -> dict:
    accuracy, recall = mean(columns[:, 0], counts), mean(columns[:, 1], counts)
    skipped = size(np.isnan(columns[:, 0]), counts)
    return {
        "accuracy_s": accuracy,
        "recall_s": recall,
        "avg": (accuracy + recall) / 2,
        "predicted_labels": mean(columns[:, 2], counts),
        "n": size(columns, counts) - skipped,
        "n_skipped": skipped,
    }


def lexicon_clips(predictions: Sequence, references: Sequence, lexicon: Lexicon | None = None) -> Clips:
    """Set scores with the package's own lexicon as the grouping, at both of its levels. Never an official score.

    Words that are not in the lexicon form separate groups (the wheels of MER2025 drop them).

    Returns:
        Clips with scores `level1_f`, `level1_precision`, `level1_recall`, the same for level2, `f` (mean of the two F),
        `coverage` (share of predicted and reference labels the lexicon knows), `predicted_labels`, `n`, `n_skipped`.
        Precision and recall are means over clips, F is made from these means (as the emotion-wheel metric does). A clip
        without a prediction scores 0; a clip without a reference is skipped and counted; no clip: 0.0 with n = 0.
    """
    check_lengths(predictions=predictions, references=references)
    lexicon = lexicon or shipped()
    known = _cells(lexicon)
    predicted = known.side(_keys(predictions))
    references = _keys(references)
    labels = known.side(references)
    known.last = references, labels
    columns = np.full((len(predictions), 7), np.nan)
    # Unknown words form separate groups; few clips have one on both sides.
    shared = np.zeros(len(predictions))
    for i in np.flatnonzero((predicted.counts[:, 2] > 0) & (labels.counts[:, 2] > 0)):
        shared[i] = len(predicted.unknown[i] & labels.unknown[i])
    for level in (0, 1):
        P, G = predicted.bits[level], labels.bits[level]
        of_p, of_g = _bit_count(P) + predicted.counts[:, 2], _bit_count(G) + labels.counts[:, 2]
        common, scored = _bit_count(P & G) + shared, of_g > 0
        columns[scored, 2 * level] = (common / np.maximum(of_p, 1))[scored]
        columns[scored, 2 * level + 1] = (common / np.maximum(of_g, 1))[scored]
    columns[:, 4] = predicted.counts[:, 0]
    columns[:, 5] = predicted.counts[:, 1] + labels.counts[:, 1]
    columns[:, 6] = predicted.counts[:, 0] + labels.counts[:, 0]
    info = {"grouping": "hf_emotion lexicon", "lexicon_words": len(lexicon.groups)}
    return Clips(columns, _lexicon_scores, info)


class _Side(NamedTuple):
    """Cells at the two levels of the lexicon: a bit for each group, the words that are unknown, and three counts."""

    bits: tuple[np.ndarray, np.ndarray]  # (N,) each
    unknown: dict[int, frozenset[str]]
    counts: np.ndarray  # (N, 3): words, known words, unknown words


class _Cells:
    """Every cell that was seen, in the order it came: baselines score the same cells in other orders."""

    def __init__(self, lexicon: Lexicon):
        self.lexicon = lexicon
        self.place: dict = {}
        self.read: list[tuple] = []
        self.last: tuple[list, _Side] | None = None

    def side(self, cells: list) -> _Side:
        # The references stay the same from one baseline to the next.
        if self.last is not None and self.last[0] == cells:
            return self.last[1]
        try:
            places = np.fromiter(map(self.place.__getitem__, cells), int, len(cells))
        except KeyError:
            self._read(cells)
            places = np.fromiter(map(self.place.__getitem__, cells), int, len(cells))
        if not len(places):
            return _Side((np.zeros(0, np.uint64), np.zeros(0, np.uint64)), {}, np.zeros((0, 3)))
        counts = self.counts[places]
        unknown = {i: self.read[places[i]][2] for i in np.flatnonzero(counts[:, 2])}
        return _Side((self.bits[0][places], self.bits[1][places]), unknown, counts)

    def _read(self, cells: list) -> None:
        new = [cell for cell in dict.fromkeys(cells) if cell not in self.place]
        if len(self.place) + len(new) > CELLS:
            self.place, self.read, self.last, new = {}, [], None, list(dict.fromkeys(cells))
        for cell in new:
            self.place[cell] = len(self.read)
            self.read.append(_lexicon_groups(cell, self.lexicon))
        # Python's own integers where 64 bits do not hold the groups.
        kind = object if len(_group_numbers(self.lexicon)[1]) > 64 else np.uint64
        self.bits = [np.array([cell[level] for cell in self.read], kind) for level in (0, 1)]
        self.counts = np.array([(cell[3], cell[3] - cell[4], cell[4]) for cell in self.read], float).reshape(-1, 3)


@lru_cache(maxsize=4)
def _cells(lexicon: Lexicon) -> _Cells:
    return _Cells(lexicon)


def _lexicon_groups(cell: str | tuple | None, lexicon: Lexicon) -> tuple[int, int, frozenset[str], int, int]:
    """Bits of the groups at both levels, the unknown words, the number of words and of unknown ones."""
    words = labels_of(cell)
    bits, unknown = [0, 0], set()
    for word in words:
        group = lexicon.groups.get(lexicon.lemma(word))
        if group is None:
            unknown.add(word)
            continue
        for level in (0, 1):
            bits[level] |= 1 << _group_numbers(lexicon)[level][group[level]]
    return bits[0], bits[1], frozenset(unknown), len(words), len(unknown)


@lru_cache(maxsize=8)
def _group_numbers(lexicon: Lexicon) -> tuple[dict, dict]:
    """Group -> its bit, for both levels."""
    levels = ({group[level] for group in lexicon.groups.values()} for level in (0, 1))
    first, second = ({name: i for i, name in enumerate(sorted(names, key=str))} for names in levels)
    return first, second


_BITS_OF_16 = np.array([number.bit_count() for number in range(2**16)], float)


def _bit_count(values: np.ndarray) -> np.ndarray:
    if values.dtype == object:
        return np.array([value.bit_count() for value in values], float)
    return _BITS_OF_16.take(values.view(np.uint16).reshape(-1, 4)).sum(1)


def _keys(cells: Sequence) -> list:
    """Cells that can be looked up; a list as a tuple."""
    if set(map(type, cells)) <= {str}:
        return list(cells)
    return [tuple(cell) if isinstance(cell, (list, np.ndarray)) else None if _missing(cell) else cell for cell in cells]


def _lexicon_scores(columns: np.ndarray, counts: np.ndarray | None) -> dict:
    result = {}
    for level in (0, 1):
        precision, recall = mean(columns[:, 2 * level], counts), mean(columns[:, 2 * level + 1], counts)
        result[f"level{level + 1}_f"] = f_score(precision, recall)
        result[f"level{level + 1}_precision"] = precision
        result[f"level{level + 1}_recall"] = recall
    skipped = size(np.isnan(columns[:, 0]), counts)
    known, words = mean(columns[:, 5], counts), mean(columns[:, 6], counts)
    return {
        "f": (result["level1_f"] + result["level2_f"]) / 2,
        **result,
        "coverage": known / words if words else 0.0,
        "predicted_labels": mean(columns[:, 4], counts),
        "n": size(columns, counts) - skipped,
        "n_skipped": skipped,
    }


def f_score(precision: float, recall: float, strict: bool = False) -> float:
    """2PR / (P + R); 0.0 where both are 0, or NaN where `strict` keeps what the MER2025 code answers."""
    if precision + recall == 0:
        return math.nan if strict else 0.0
    return 2 * precision * recall / (precision + recall)


def check_lengths(**sequences) -> None:
    """Raises ValueError unless all sequences that are not None have the same length."""
    lengths = {name: len(sequence) for name, sequence in sequences.items() if sequence is not None}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"one value per clip is needed everywhere, found {lengths}")
