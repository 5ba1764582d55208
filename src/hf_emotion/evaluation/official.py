"""The scores of each benchmark's own code, with replies compared as that code compares them.

`hf-emotion benchmark --strict` scores by these functions; the golden cases in `tests/golden` hold the outputs of the
original code. By default the benchmarks are scored by the metrics of this package, which read the replies first.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from .classes import confusion, table_scores
from .sets import check_lengths
from .statistics import Clips, mean, size

# Tasks of MME-Emotion whose script reads `: 0/1` only; the others take any fraction.
BINARY_STEPS = ("ER-Lab", "ER-Wild", "FG-SA", "IR", "Noise-ER", "SA")
ER_WILD_NAMES = {
    "angry": "anger",
    "disgusted": "disgust",
    "happy": "happiness",
    "sad": "sadness",
    "surprised": "surprise",
}


def _compared(
    replies: Sequence[str], truths: Sequence[str], keys: tuple[str, ...], scored: Sequence[bool] | None = None
) -> Clips:
    """Clips of replies that are right where they equal the truth; the classes are those of truths and replies."""
    check_lengths(replies=replies, truths=truths)
    classes = sorted({*truths, *replies})
    number = {name: i for i, name in enumerate(classes)}
    columns = np.array(
        [(number[truth], number[reply]) for truth, reply in zip(truths, replies, strict=True)], float
    ).reshape(-1, 2)
    dropped = 0
    if scored is not None:
        dropped = len(columns) - sum(scored)
        columns = columns[np.asarray(scored, bool)]

    def score(rows: np.ndarray, counts: np.ndarray | None) -> dict:
        table = confusion(rows[:, 0], rows[:, 1], len(classes), counts)
        scores = table_scores(table)
        scores["accuracy"] = scores["war"]
        support = table.sum(1)
        recall = {name: float(table[i, i] / support[i]) for i, name in enumerate(classes) if support[i]}
        return {**{key: scores[key] for key in keys}, "recall": recall, "n": size(rows, counts)}

    return Clips(columns, score, {"n_dropped": dropped, "strict": True})


def r1_omni_clips(replies: Sequence[str], truths: Sequence[str]) -> Clips:
    """R1-Omni on RAVDESS, DFEW and MAFW: replies without leading blanks, equal to the class or wrong.

    UAR is the mean recall of the classes of the truth, WAR the recall of all clips. The script prints percent; these
    are shares. Its RAVDESS classes are "fear" and "surprise" where the data set says "fearful" and "surprised".
    """
    return _compared([reply.lstrip() for reply in replies], truths, ("uar", "war", "weighted_f1"))


def emobench_clips(replies: Sequence, truths: Sequence) -> Clips:
    """EmoBench-M, classification and joint emotion and intent: lower case, no blanks at the ends, weighted F1.

    A clip whose reply (or truth) is empty is left out of the score, as in the original; `n_dropped` says how many. For
    the joint task a truth and a reply are pairs (emotion, intent); both must be right.
    """
    pairs = [[_lowered(value) for value in pair] for pair in zip(truths, replies, strict=True)]
    scored = [all(truth) and all(reply) for truth, reply in pairs]
    truths, replies = (["_".join(pair[side]) for pair in pairs] for side in (0, 1))
    return _compared(replies, truths, ("accuracy", "weighted_f1", "weighted_precision"), scored)


def _lowered(value: str | Sequence[str]) -> list[str]:
    return [part.strip().lower() for part in ([value] if isinstance(value, str) else value)]


def mmeverse_clips(replies: Sequence[str], truths: Sequence[str]) -> Clips:
    """MMEVerse (Emotion-LLaMA-v2), closed sets: the reply in lower case and stripped, the truth as it is."""
    return _compared([reply.strip().lower() for reply in replies], truths, ("accuracy", "weighted_f1"))


def mmeverse_sentiment_clips(replies: Sequence[str], truths: Sequence[str]) -> Clips:
    """MMEVerse, sentiment: as `mmeverse_clips`, without the clips whose truth is neutral."""
    truths = [truth.strip().lower() for truth in truths]
    scored = [truth != "neutral" for truth in truths]
    return _compared([reply.strip().lower() for reply in replies], truths, ("accuracy", "weighted_f1"), scored)


def label_list_clips(replies: Sequence[str], truths: Sequence[str]) -> Clips:
    """MMEVerse, several labels for a clip, separated by `,` or `;`.

    Returns:
        Clips with scores `f1_samples`, `f1_micro`, `jaccard` (|P & T| / (|P | T| + 1e-6), mean over clips) and `map`
        (mean over the labels of the truth of the average precision of a 0/1 prediction). Labels that no truth has are
        ignored, as in the original.
    """
    check_lengths(replies=replies, truths=truths)
    cells = [[_label_list(text) for text in texts] for texts in (truths, replies)]
    labels = sorted({label for cell in cells[0] for label in cell})
    K = len(labels)
    columns = np.zeros((len(truths), 2 * K))
    for side in (0, 1):
        for i, cell in enumerate(cells[side]):
            for j, label in enumerate(labels):
                columns[i, side * K + j] = label in cell

    def score(rows: np.ndarray, counts: np.ndarray | None) -> dict:
        T, P = rows[:, :K], rows[:, K:]
        weights = np.ones(len(rows)) if counts is None else counts
        both, either, named = (T * P).sum(1), np.maximum(T, P).sum(1), T.sum(1) + P.sum(1)
        total = weights.sum()
        hits, positive, chosen = weights @ (T * P), weights @ T, weights @ P
        precision = np.divide(hits, chosen, out=np.zeros(K), where=chosen > 0)
        recall = np.divide(hits, positive, out=np.zeros(K), where=positive > 0)
        # Two thresholds: the labels named, then everything.
        average = np.where(positive > 0, recall * precision + (1 - recall) * positive / max(total, 1), 0.0)
        samples = np.divide(2 * both, named, out=np.zeros(len(rows)), where=named > 0)
        all_named = positive.sum() + chosen.sum()
        return {
            "f1_samples": mean(samples, counts),
            "f1_micro": float(2 * hits.sum() / all_named) if all_named else 0.0,
            "jaccard": mean(both / (either + 1e-6), counts),
            "map": float(average.mean()) if K else 0.0,
            "n": size(rows, counts),
        }

    return Clips(columns, score, {"labels": labels, "strict": True})


def _label_list(text: str) -> set[str]:
    return {label.strip().lower() for label in re.split("[;,]", text) if label.strip()}


def judged_steps(reply, binary: bool) -> list[float] | None:
    """Scores of the steps of an answer in a judge's reply `<score>Step 1: 1/1, Step 2: 0/1</score>`; None without one.

    Args:
        binary: only `: d/1` with one digit and one blank is a score; else any fraction is, and one over 0 is 0.
    """
    match = re.search("<score>(.*?)</score>", str(reply))
    if match is None:
        return None
    if binary:
        return [float(step) for step in re.findall(r": (\d)/1", match.group(1))]
    fractions = re.findall(r":\s*(\d+)/(\d+)", match.group(1))
    return [int(top) / int(bottom) if int(bottom) else 0.0 for top, bottom in fractions]


def mme_emotion_clips(judged: Sequence, truths: Sequence[str], task: str | None = None) -> Clips:
    """MME-Emotion: what a judge said of the steps of each answer, as its `cal_metrics.py` scores it.

    Args:
        judged: the judge's reply for each clip. A reply without a score is left out of the means, as in the original,
            and counted in `n_unjudged`.
        truths: the emotion of each clip; groups `per_class`.
        task: one of the eight tasks; None = the overall script, over the clips of all tasks.

    Returns:
        Clips with scores `recognition` (the last step: is the emotion right?), `reasoning` (mean of the steps before,
        0 for an answer without any), `cot` (their mean), `steps`, `per_class` {label: {recognition, reasoning, n}},
        `n`, `n_unjudged`.
    """
    check_lengths(judged=judged, truths=truths)
    if task == "ER-Wild":
        truths = [ER_WILD_NAMES.get(truth, truth) for truth in truths]
    labels = sorted(set(truths))
    columns = np.full((len(truths), 4), np.nan)
    for i, (reply, truth) in enumerate(zip(judged, truths, strict=True)):
        steps = judged_steps(reply, task in BINARY_STEPS)
        columns[i, 3] = labels.index(truth)
        if steps:
            before = steps[:-1]
            columns[i, :3] = steps[-1], sum(before) / len(before) if before else 0.0, len(steps)

    def score(rows: np.ndarray, counts: np.ndarray | None) -> dict:
        scored = ~np.isnan(rows[:, 0])
        per_class = {}
        for number, label in enumerate(labels):
            in_class = scored & (rows[:, 3] == number)
            class_counts = None if counts is None else counts[in_class]
            if size(in_class, counts):
                recognition, reasoning = (mean(rows[in_class, column], class_counts) for column in (0, 1))
                per_class[label] = {"recognition": recognition, "reasoning": reasoning, "n": size(in_class, counts)}
        recognition, reasoning = mean(rows[:, 0], counts), mean(rows[:, 1], counts)
        return {
            "recognition": recognition,
            "reasoning": reasoning,
            "cot": 0.5 * recognition + 0.5 * reasoning,
            "steps": mean(rows[:, 2], counts),
            "per_class": per_class,
            "n": size(scored, counts),
            "n_unjudged": size(~scored, counts),
        }

    return Clips(columns, score, {"task": task or "Overall", "strict": True})


# Name in a suite -> (replies, truths) -> Clips.
OFFICIAL: dict[str, Callable[[Sequence, Sequence], Clips]] = {
    "r1_omni": r1_omni_clips,
    "emobench_m": emobench_clips,
    "mmeverse": mmeverse_clips,
    "mmeverse_sentiment": mmeverse_sentiment_clips,
    "label_list": label_list_clips,
}
