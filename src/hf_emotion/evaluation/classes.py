"""Closed sets of classes: UAR and WAR (DFEW, MAFW), the scores of the MER challenges, sentiment (MER-UniBench).

Written on numpy alone: confusion counts, then the definitions. Official scripts use scikit-learn; the results agree to
the last digits. Three things differ by default and are undone by `strict=True`: a reply is read (`read_choice`) instead
of compared with the class; a reply that names no class is an error of its true class instead of an exception or a
silent "neutral"; a predicted class that never occurs in the truth does not turn the UAR into NaN.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from ..answers.choices import read_choice, read_preference
from ..answers.lexicon import shipped
from ..answers.replies import declines, final_answer
from .sets import CELLS, check_lengths, labels_of
from .statistics import Clips, mean, size

MER_LABELS = ("neutral", "angry", "happy", "sad", "worried", "surprise")
# Tracks that rank by weighted F1 over the six labels; the second group subtracts a quarter of the valence error.
LABEL_TRACKS = ("mer2023_semi", "mer2024_semi", "mer2024_noise", "mer2025_track1", "mer2026_track1")
VALENCE_TRACKS = ("mer2023_multi", "mer2023_noise")
PREFERENCE_TRACKS = ("mer2026_track3",)
TRACKS = (*LABEL_TRACKS, *VALENCE_TRACKS, *PREFERENCE_TRACKS)
POSITIVE_FAMILIES = frozenset(["joy", "trust", "calm"])
NEGATIVE_FAMILIES = frozenset(["anger", "sadness", "fear", "disgust"])


def read_emotion_llama(reply: str) -> str:
    """Label of a reply as Emotion-LLaMA's eval_emotion.py takes it: the text after the last blank; anything but the six
    labels, "happy." and "angry " included, is neutral."""
    last = str(reply).split(" ")[-1]
    return last if last in MER_LABELS else "neutral"


def class_scores(
    truth: np.ndarray, predicted: np.ndarray, classes: int, strict: bool = False, counts: np.ndarray | None = None
) -> dict:
    """UAR, WAR, F1 from class numbers; see `table_scores`.

    Args:
        truth: (N,) int, 0 <= class < classes.
        predicted: (N,) int; `classes` itself = a reply outside the closed set.
        classes: number of classes C.
        strict: as in `table_scores`.
        counts: (N,) how often each pair counts; None = once.
    """
    return table_scores(confusion(truth, predicted, classes, counts), strict)


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int, counts: np.ndarray | None = None) -> np.ndarray:
    """(C, C + 1) float: how often class `row` was answered as `column`; the last column: outside the set."""
    cells = np.asarray(truth, int) * (classes + 1) + np.asarray(predicted, int)
    return np.bincount(cells, counts, classes * (classes + 1)).astype(float).reshape(classes, classes + 1)


def table_scores(table: np.ndarray, strict: bool = False) -> dict:
    """Scores of a confusion table (C, C + 1).

    Args:
        table: rows are the true classes; the last column counts replies outside the closed set.
        strict: UAR over the classes of truth and prediction together, NaN where a predicted class never occurs in the
            truth, as the confusion table of MAE-DFER and DFER-CLIP gives it.

    Returns:
        dict of floats: `uar` = mean over the classes of the truth of the share recognised, `war` = share recognised of
        all clips, `weighted_f1`, `macro_f1` (over the classes of truth or prediction), `weighted_precision`,
        `invalid_rate`. All 0.0 for an empty table.
    """
    classes, total = len(table), table.sum()
    hits = np.diag(table)
    support, chosen = table.sum(1), table[:, :classes].sum(0)
    present = support > 0
    occurring = present | (chosen > 0)
    recall = np.divide(hits, support, out=np.zeros(classes), where=present)
    precision = np.divide(hits, chosen, out=np.zeros(classes), where=chosen > 0)
    both = precision + recall
    f1 = np.divide(2 * precision * recall, both, out=np.zeros(classes), where=both > 0)
    weights = support / max(total, 1)
    if strict and (occurring & ~present).any():
        uar = math.nan
    else:
        uar = float(recall[present].mean()) if present.any() else 0.0
    return {
        "uar": uar,
        "war": float(hits.sum() / total) if total else 0.0,
        "weighted_f1": float((weights * f1).sum()),
        "macro_f1": float(f1[occurring].mean()) if occurring.any() else 0.0,
        "weighted_precision": float((weights * precision).sum()),
        "invalid_rate": float(table[:, classes].sum() / total) if total else 0.0,
    }


def recognition_clips(
    predictions: Sequence,
    references: Sequence,
    labels: Sequence[str] | None = None,
    folds: Sequence | None = None,
    strict: bool = False,
    options: Sequence[Mapping[str, str] | None] | None = None,
) -> Clips:
    """UAR, WAR, weighted and macro F1 of closed-set emotion recognition.

    Args:
        predictions: one reply (or class) per clip.
        references: the true class of each clip.
        labels: the closed set (the 7 classes of DFEW, the 11 of MAFW); None: the classes of the references. Each reply
            is read as one of them (`read_choice`). A reply that names none is an error of its true class, counted in
            `invalid_rate`, and in `refusal_rate` where it declines to answer.
        folds: the fold of each clip; every score is then the plain mean over folds, as DFEW and MAFW are reported, not
            pooled.
        strict: predictions are compared as they are, with `labels`, or with the classes that occur in truth and
            predictions; the UAR is NaN where a predicted class never occurs in the truth.
        options: for each clip the options that its question listed by letter, letter -> text, or None.

    Returns:
        Clips with the scores of `table_scores`, `refusal_rate`, `confusion` (rows truth, columns `classes` and, last,
        invalid; over all folds), `classes`, `recall` {class: share recognised, None without a clip}, `n`, and with
        folds `per_fold` [{uar, war, ...}].

    Raises:
        ValueError: a reference outside `labels` (the message names it).
    """
    check_lengths(predictions=predictions, references=references, folds=folds, options=options)
    # Each different cell is read once; 100,000 clips have few classes.
    written = {reference: str(reference) for reference in dict.fromkeys(references)}
    if labels is None:
        classes = sorted(set(written.values()))
        if strict:
            # An empty answer does not become a class.
            classes = sorted({*classes, *(str(prediction) for prediction in set(predictions) if prediction)})
    else:
        classes = list(labels)
        folded = {name.casefold(): name for name in classes}
        written = {reference: folded.get(text.strip().casefold(), text) for reference, text in written.items()}
        unknown = next((text for text in written.values() if text not in classes), None)
        if unknown is not None:
            raise ValueError(f"reference {unknown!r} is none of the labels {', '.join(classes)}")
    number = {name: i for i, name in enumerate(classes)}
    names = sorted(set(folds)) if folds is not None else []
    fold = {name: i for i, name in enumerate(names)}
    columns = np.zeros((len(references), 4))
    truth_codes = {reference: number[text] for reference, text in written.items()}
    columns[:, 0] = np.fromiter(map(truth_codes.__getitem__, references), float, len(references))
    if strict:
        none = len(classes)
        columns[:, 1] = [number.get("" if reply is None else str(reply), none) for reply in predictions]
    elif options is None:
        kinds = {reply: i for i, reply in enumerate(dict.fromkeys(predictions))}
        codes = np.array([_code(reply, tuple(classes), None) for reply in kinds], float).reshape(-1, 2)
        columns[:, 1:3] = codes[np.fromiter(map(kinds.__getitem__, predictions), int, len(predictions))]
    else:
        listed = [letters and tuple(letters.items()) for letters in options]
        codes = [_code(reply, tuple(classes), one) for reply, one in zip(predictions, listed, strict=True)]
        columns[:, 1:3] = np.array(codes, float).reshape(-1, 2)
    if names:
        columns[:, 3] = [fold[name] for name in folds]

    def score(rows: np.ndarray, counts: np.ndarray | None) -> dict:
        table = confusion(rows[:, 0], rows[:, 1], len(classes), counts)
        whole = table_scores(table, strict)
        rest = {"refusal_rate": mean(rows[:, 2], counts), "n": size(rows, counts)}
        if names:
            parts = [(rows[:, 3] == i) & (counts > 0 if counts is not None else True) for i in range(len(names))]
            per_fold = [
                table_scores(
                    confusion(rows[p, 0], rows[p, 1], len(classes), None if counts is None else counts[p]), strict
                )
                for p in parts
                if p.any()
            ] or [whole]
            whole = {key: float(np.mean([one[key] for one in per_fold])) for key in whole}
            rest["per_fold"] = per_fold
        support = table.sum(1)
        recall = {name: float(table[i, i] / support[i]) if support[i] else None for i, name in enumerate(classes)}
        return {**whole, **rest, "recall": recall, "confusion": table.astype(int).tolist()}

    return Clips(columns, score, {"classes": classes, "strict": strict})


@lru_cache(maxsize=CELLS)
def _code(reply: str | None, classes: tuple[str, ...], options: tuple | None) -> tuple[int, int]:
    """The number of the class that a reply names (the number of classes = none), and whether it declines to answer."""
    name = read_choice(reply, classes, dict(options) if options else None)
    if name is not None:
        return classes.index(name), 0
    return len(classes), int(reply is not None and declines(str(reply)))


def challenge_clips(
    predictions: Sequence,
    references: Sequence,
    track: str,
    predicted_valence: Sequence | None = None,
    valence: Sequence | None = None,
    reading: str = "class",
    strict: bool = False,
) -> Clips:
    """Scores of the closed tracks of MER2023 to MER2026 (the open-vocabulary tracks are `emotion_set` and
    `emotion_wheel`).

    Args:
        predictions, references: one label per clip: one of the six MER labels, or a1 / a2 / same for MER2026 Track3.
        track: one of `TRACKS`. `mer2023_multi` and `mer2023_noise` need `predicted_valence` and `valence`.
        reading: "class" searches a reply for a label; "emotion_llama" takes what Emotion-LLaMA's script takes
            (`read_emotion_llama`).
        strict: labels must be labels: KeyError for anything else, as in the official MER2023 script.

    Returns:
        Clips with scores: label tracks `weighted_f1` (the ranking score), `accuracy`, `weighted_precision`, `macro_f1`,
        `invalid_rate`; valence tracks also `valence_mse` and `combined` = weighted F1 - 0.25 * MSE (the ranking score);
        Track3 `weighted_f1` and `accuracy` of two classes (a reference "same" is dropped, a predicted "same" counts as
        a1) and `threeclass_weighted_f1`, `threeclass_accuracy`. No clip: 0.0.

    Raises:
        ValueError: an unknown track, a reference that is not a label, or valences missing for a track that needs them.
    """
    if track not in TRACKS:
        raise ValueError(f"track is {track!r}; accepted are {', '.join(TRACKS)}")
    if reading not in ("class", "emotion_llama"):
        raise ValueError(f"reading is {reading!r}; accepted are class and emotion_llama")
    if track in PREFERENCE_TRACKS:
        return _preference_clips(predictions, references, track, strict)
    needs_valence = track in VALENCE_TRACKS
    if needs_valence and (valence is None or predicted_valence is None):
        raise ValueError(
            f"track {track} is scored with valence: give valence and predicted_valence, one number per clip"
        )
    check_lengths(predictions=predictions, references=references, valence=valence, predicted_valence=predicted_valence)
    number = {name: i for i, name in enumerate(MER_LABELS)}
    if strict:
        truth = [number[label] for label in references]
        chosen = [number[label] for label in predictions]
    else:
        truth = [number.get(str(label).strip().casefold()) for label in references]
        if None in truth:
            raise ValueError(
                f"reference {references[truth.index(None)]!r} is none of the labels {', '.join(MER_LABELS)}"
            )
        if reading == "emotion_llama":
            chosen = [number[read_emotion_llama(reply)] for reply in predictions]
        else:
            read = {reply: read_choice(reply, MER_LABELS) for reply in set(predictions)}
            chosen = [number.get(read[reply], len(MER_LABELS)) for reply in predictions]
    columns = np.full((len(truth), 4), np.nan)
    columns[:, 0], columns[:, 1] = truth, chosen
    if needs_valence:
        columns[:, 2], columns[:, 3] = np.asarray(valence, float), np.asarray(predicted_valence, float)

    def score(rows: np.ndarray, counts: np.ndarray | None) -> dict:
        scores = class_scores(rows[:, 0], rows[:, 1], len(MER_LABELS), counts=counts)
        result = {"accuracy": scores["war"]}
        result |= {key: scores[key] for key in ("weighted_f1", "macro_f1", "weighted_precision", "invalid_rate")}
        if needs_valence:
            result["valence_mse"] = mean((rows[:, 2] - rows[:, 3]) ** 2, counts)
            result["combined"] = result["weighted_f1"] - 0.25 * result["valence_mse"]
        return {**result, "n": size(rows, counts)}

    return Clips(columns, score, {"track": track, "reading": reading, "strict": strict})


def _preference_clips(predictions: Sequence, references: Sequence, track: str, strict: bool) -> Clips:
    check_lengths(predictions=predictions, references=references)
    number = {"a1": 0, "a2": 1, "same": 2}
    strange = next((reference for reference in references if reference not in number), None)
    if strange is not None:
        raise ValueError(f"reference {strange!r} is none of the answers a1, a2, same")
    columns = np.array(
        [
            [number[reference], number[read_preference(prediction if strict else final_answer(str(prediction or "")))]]
            for reference, prediction in zip(references, predictions, strict=True)
        ],
        dtype=float,
    ).reshape(-1, 2)

    def score(rows: np.ndarray, counts: np.ndarray | None) -> dict:
        truth, chosen = rows.astype(int).T
        three = class_scores(truth, chosen, 3, counts=counts)
        decided_truth = truth != number["same"]
        decided = np.where(chosen == number["same"], number["a1"], chosen)
        two = class_scores(
            truth[decided_truth], decided[decided_truth], 2, counts=None if counts is None else counts[decided_truth]
        )
        return {
            "weighted_f1": two["weighted_f1"],
            "accuracy": two["war"],
            "threeclass_weighted_f1": three["weighted_f1"],
            "threeclass_accuracy": three["war"],
            "n": size(decided_truth, counts),
        }

    return Clips(columns, score, {"track": track})


def read_sentiment(reply, strict: bool = False) -> int:
    """1 positive, -1 negative, 0 anything else.

    Strict: exactly the string "positive" or "negative". By default the reply is read as one of positive, negative and
    neutral, and where it names none, its emotion words vote by family (joy, trust, calm against anger, sadness, fear,
    disgust).
    """
    exact = {"positive": 1, "negative": -1}
    if strict:
        return exact.get(reply, 0)
    if reply is None:
        return 0
    if isinstance(reply, str):
        text = final_answer(reply).strip(" \t\r\n.,'\"*[]").casefold()
        if text in exact or text == "neutral":
            return exact.get(text, 0)
    lexicon = shipped()
    families = [lexicon.group(word) for word in labels_of(reply)]
    vote = sum(family in POSITIVE_FAMILIES for family in families) - sum(
        family in NEGATIVE_FAMILIES for family in families
    )
    return (vote > 0) - (vote < 0)


def sentiment_clips(predictions: Sequence, references: Sequence, strict: bool = False) -> Clips:
    """Sentiment of CMU-MOSI, CMU-MOSEI, SIMS and SIMSv2 as MER-UniBench scores it.

    Clips whose reference is 0 are left out; then "above zero" is compared with "above zero", so that a predicted
    neutral counts as not positive.

    Args:
        predictions: "positive", "negative", "neutral" per clip, or (not strict) emotion words or a sentence.
        references: the sentiment value of each clip.

    Returns:
        Clips with scores `weighted_f1` (primary), `accuracy`, `n`, `n_skipped`. Nothing to score: 0.0 with n = 0.

    Raises:
        ValueError: a reference that is not a number.
    """
    check_lengths(predictions=predictions, references=references)
    columns = np.array(
        [
            [float(reference), read_sentiment(prediction, strict)]
            for prediction, reference in zip(predictions, references, strict=True)
        ],
        dtype=float,
    ).reshape(-1, 2)

    def score(rows: np.ndarray, counts: np.ndarray | None) -> dict:
        scored = (rows[:, 0] != 0) & ~np.isnan(rows[:, 0])
        used = rows[scored]
        scores = class_scores(used[:, 0] > 0, used[:, 1] > 0, 2, counts=None if counts is None else counts[scored])
        return {
            "weighted_f1": scores["weighted_f1"],
            "accuracy": scores["war"],
            "n": size(scored, counts),
            "n_skipped": size(~scored, counts),
        }

    return Clips(columns, score, {"strict": strict})
