"""Closed sets of classes: UAR and WAR (DFEW, MAFW), the scores of the MER challenges, sentiment (MER-UniBench).

Written on numpy alone: confusion counts, then the definitions. Official scripts use scikit-learn's; the results are the
same to the last digits. What differs by default, and is undone by `strict=True`: a reply is searched for one of the
classes instead of compared with it, a reply that names none is an error of its true class instead of an exception or a
silent "neutral", and a predicted class that never occurs in the truth does not turn the UAR into NaN.
"""

import math
import re
from collections.abc import Sequence

import numpy as np

from ..answers.lexicon import shipped
from .sets import check_lengths, labels_of
from .statistics import Clips, mean

MER_LABELS = ("neutral", "angry", "happy", "sad", "worried", "surprise")
# Tracks that rank by weighted F1 over the six labels; the second group subtracts a quarter of the valence error.
LABEL_TRACKS = ("mer2023_semi", "mer2024_semi", "mer2024_noise", "mer2025_track1", "mer2026_track1")
VALENCE_TRACKS = ("mer2023_multi", "mer2023_noise")
PREFERENCE_TRACKS = ("mer2026_track3",)
TRACKS = (*LABEL_TRACKS, *VALENCE_TRACKS, *PREFERENCE_TRACKS)
POSITIVE_FAMILIES = frozenset(["joy", "trust", "calm"])
NEGATIVE_FAMILIES = frozenset(["anger", "sadness", "fear", "disgust"])


def read_class(reply, classes: Sequence[str]) -> str | None:
    """The class a reply names: the reply itself, else the class mentioned first (whole words), else the class whose
    lexicon group is that of the first emotion word of the reply; None where there is none (an invalid reply).

    Args:
        reply: text of a model, or None.
        classes: the closed set. Case and surrounding blanks do not matter.
    """
    if reply is None:
        return None
    text = str(reply).strip().casefold()
    folded = {name.strip().casefold(): name for name in classes}
    if text in folded:
        return folded[text]
    places = []
    for name in folded:
        match = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)
        if match:
            # Of two classes that begin at one place ("very sad" and "very sad indeed") the longer one is meant.
            places.append((match.start(), -len(name), name))
    words = labels_of(str(reply))
    # A class that is only denied ("not angry but sad") is mentioned and yet not named: what the words say goes first.
    for _, _, name in sorted(places):
        if not words or name in words:
            return folded[name]
    lexicon = shipped()
    group_of = {}
    for name in folded:
        lemma = lexicon.lemma(name)
        if lemma is not None:
            group_of.setdefault(lexicon.groups[lemma], folded[name])
            group_of.setdefault(lexicon.groups[lemma][0], folded[name])
    for word in words:
        lemma = lexicon.lemma(word)
        if lemma is not None:
            group = lexicon.groups[lemma]
            found = group_of.get(group) or group_of.get(group[0])
            if found is not None:
                return found
    return None


def read_emotion_llama(reply: str) -> str:
    """Label of a reply as Emotion-LLaMA's eval_emotion.py takes it: the text after the last blank; anything but the six
    labels, "happy." and "angry " included, is neutral."""
    last = str(reply).split(" ")[-1]
    return last if last in MER_LABELS else "neutral"


def read_preference(reply) -> str:
    """Answer of MER2026 Track3 in a reply: a1, a2 or same; the one it starts with, else the earliest, else same."""
    text = str(reply or "").strip().lower()
    for answer in ("a1", "a2", "same"):
        if text.startswith(answer):
            return answer
    places = sorted((text.find(answer), answer) for answer in ("a1", "a2", "same") if answer in text)
    return places[0][1] if places else "same"


def class_scores(truth: np.ndarray, predicted: np.ndarray, classes: int, strict: bool = False) -> dict:
    """UAR, WAR, F1 and the confusion table from class numbers.

    Args:
        truth: (N,) int, 0 <= class < classes.
        predicted: (N,) int; `classes` itself = a reply outside the closed set.
        classes: number of classes C.
        strict: UAR over the classes of truth and prediction together, NaN where a predicted class never occurs in the
            truth, as the confusion table of MAE-DFER and DFER-CLIP gives it.

    Returns:
        dict of floats: `uar` = mean over the classes of the truth of the share recognised, `war` = share recognised of
        all clips,
        `weighted_f1`, `macro_f1` (over the classes of truth or prediction), `weighted_precision`, `invalid_rate`. All
        0.0 for N = 0.
    """
    total = len(truth)
    table = np.zeros((classes, classes + 1))
    np.add.at(table, (truth, predicted), 1)
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
) -> Clips:
    """UAR, WAR, weighted and macro F1 of closed-set emotion recognition.

    Args:
        predictions: one reply (or class) per clip.
        references: the true class of each clip.
        labels: the closed set (the 7 classes of DFEW, the 11 of MAFW). A reply is searched for one of them
            (`read_class`), and a reply that names none is an error of its true class, counted in `invalid_rate`. None:
            the classes that occur in truth and predictions, which are then compared as they are.
        folds: the fold of each clip; every score is then the plain mean over folds, as DFEW and MAFW are reported, not
            pooled.
        strict: predictions are compared as they are and the UAR is NaN where a predicted class never occurs in the
            truth.

    Returns:
        Clips with the scores of `class_scores`, `confusion` (rows truth, columns `classes` and, last, invalid; over all
        folds),
        `classes`, `n`, and with folds `per_fold` [{uar, war, ...}].

    Raises:
        ValueError: a reference outside `labels` (the message names it).
    """
    check_lengths(predictions=predictions, references=references, folds=folds)
    truths = [str(reference) for reference in references]
    if labels is None:
        replies = ["" if prediction is None else str(prediction) for prediction in predictions]
        # An empty answer is no class of its own.
        classes = sorted({*truths, *(reply for reply in replies if reply)})
        number = {name: i for i, name in enumerate(classes)}
        chosen = [number.get(reply, len(classes)) for reply in replies]
    else:
        classes = list(labels)
        number = {name: i for i, name in enumerate(classes)}
        folded = {name.casefold(): name for name in classes}
        truths = [folded.get(truth.strip().casefold(), truth) for truth in truths]
        strange = next((truth for truth in truths if truth not in number), None)
        if strange is not None:
            raise ValueError(f"reference {strange!r} is none of the labels {', '.join(classes)}")
        read: dict = {}
        for prediction in predictions:
            if prediction not in read:
                read[prediction] = prediction if strict else read_class(prediction, classes)
        chosen = [number.get(read[prediction], len(classes)) for prediction in predictions]
    names = sorted(set(folds)) if folds is not None else []
    fold = {name: i for i, name in enumerate(names)}
    columns = np.array(
        [
            [number[truth], choice, fold[folds[i]] if names else 0]
            for i, (truth, choice) in enumerate(zip(truths, chosen, strict=True))
        ],
        dtype=float,
    ).reshape(-1, 3)

    def score(rows: np.ndarray) -> dict:
        truth, choice, part = rows.astype(int).T
        table = np.zeros((len(classes), len(classes) + 1), dtype=int)
        np.add.at(table, (truth, choice), 1)
        rest = {"n": len(rows), "confusion": table.tolist()}
        if not names:
            return {**class_scores(truth, choice, len(classes), strict), **rest}
        per_fold = [
            class_scores(truth[part == i], choice[part == i], len(classes), strict) for i in sorted(set(part.tolist()))
        ]
        if not per_fold:
            per_fold = [class_scores(truth, choice, len(classes), strict)]
        means = {key: float(np.mean([one[key] for one in per_fold])) for key in per_fold[0]}
        return {**means, **rest, "per_fold": per_fold}

    return Clips(columns, score, {"classes": classes, "strict": strict})


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
        Track3
        `weighted_f1` and `accuracy` of two classes (a reference "same" is dropped, a predicted "same" counts as a1) and
        `threeclass_weighted_f1`, `threeclass_accuracy`. No clip: 0.0.

    Raises:
        ValueError: an unknown track, a reference that is no label, or valences missing for a track that needs them.
    """
    if track not in TRACKS:
        raise ValueError(f"track is {track!r}; accepted are {', '.join(TRACKS)}")
    if reading not in ("class", "emotion_llama"):
        raise ValueError(f"reading is {reading!r}; accepted are class and emotion_llama")
    if track in PREFERENCE_TRACKS:
        return _preference_clips(predictions, references, track)
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
            chosen = [number.get(read_class(reply, MER_LABELS), len(MER_LABELS)) for reply in predictions]
    columns = np.full((len(truth), 4), np.nan)
    columns[:, 0], columns[:, 1] = truth, chosen
    if needs_valence:
        columns[:, 2], columns[:, 3] = np.asarray(valence, float), np.asarray(predicted_valence, float)

    def score(rows: np.ndarray) -> dict:
        found = class_scores(rows[:, 0].astype(int), rows[:, 1].astype(int), len(MER_LABELS))
        result = {"accuracy": found["war"]}
        result |= {key: found[key] for key in ("weighted_f1", "macro_f1", "weighted_precision", "invalid_rate")}
        if needs_valence:
            result["valence_mse"] = mean((rows[:, 2] - rows[:, 3]) ** 2)
            result["combined"] = result["weighted_f1"] - 0.25 * result["valence_mse"]
        return {**result, "n": len(rows)}

    return Clips(columns, score, {"track": track, "reading": reading, "strict": strict})


def _preference_clips(predictions: Sequence, references: Sequence, track: str) -> Clips:
    check_lengths(predictions=predictions, references=references)
    number = {"a1": 0, "a2": 1, "same": 2}
    strange = next((reference for reference in references if reference not in number), None)
    if strange is not None:
        raise ValueError(f"reference {strange!r} is none of the answers a1, a2, same")
    columns = np.array(
        [
            [number[reference], number[read_preference(prediction)]]
            for reference, prediction in zip(references, predictions, strict=True)
        ],
        dtype=float,
    ).reshape(-1, 2)

    def score(rows: np.ndarray) -> dict:
        truth, chosen = rows.astype(int).T
        three = class_scores(truth, chosen, 3)
        kept = truth != number["same"]
        two = class_scores(truth[kept], np.where(chosen[kept] == number["same"], number["a1"], chosen[kept]), 2)
        return {
            "weighted_f1": two["weighted_f1"],
            "accuracy": two["war"],
            "threeclass_weighted_f1": three["weighted_f1"],
            "threeclass_accuracy": three["war"],
            "n": int(kept.sum()),
        }

    return Clips(columns, score, {"track": track})


def read_sentiment(reply, strict: bool = False) -> int:
    """1 positive, -1 negative, 0 anything else.

    Strict: exactly the string "positive" or "negative". By default case, blanks and a final full stop do not matter,
        and where a
    reply names neither, its emotion words vote by family (joy, trust, calm against anger, sadness, fear, disgust).
    """
    exact = {"positive": 1, "negative": -1}
    if strict:
        return exact.get(reply, 0)
    if reply is None:
        return 0
    if isinstance(reply, str):
        text = reply.strip().strip(".'\"*[]").casefold()
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

    def score(rows: np.ndarray) -> dict:
        kept = rows[(rows[:, 0] != 0) & ~np.isnan(rows[:, 0])]
        found = class_scores((kept[:, 0] > 0).astype(int), (kept[:, 1] > 0).astype(int), 2)
        return {
            "weighted_f1": found["weighted_f1"],
            "accuracy": found["war"],
            "n": len(kept),
            "n_skipped": len(rows) - len(kept),
        }

    return Clips(columns, score, {"strict": strict})
