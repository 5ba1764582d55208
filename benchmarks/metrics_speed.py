"""How long the metrics take: 332 clips (the size of EMER) and 100,000 clips, made from words of the lexicon.

    python benchmarks/metrics_speed.py [--wheel-dir MERTools/MER2025/MER2025_Track23/emotion_wheel]

Time is of scoring, after import; "module" goes through `evaluate` (which writes the cells to an Arrow file first),
"function" calls the metric itself. Words are cleared from the lexicon's memory before each run. Beside the time on the
clock stands the time on the processor: everything runs in one thread, so the two differ only by what else the machine
does, and the load average is reported. The limits are judged by the clock. The metrics that need a
judge are not here: their time is the judge's.

`hf-emotion score` (intervals from 1,000 draws, a constant and ten shuffles as baselines) is measured on 100,000 clips
beside the way of 0.1.0, which is kept here: it reads every cell again for every baseline, and scores every draw clip by
clip. Scores, intervals and baselines must be the same to 1e-12.
"""

import argparse
import json
import os
import platform
import random
import statistics
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from hf_emotion import evaluation
from hf_emotion.answers import words
from hf_emotion.answers.choices import read_choice
from hf_emotion.answers.lexicon import shipped
from hf_emotion.answers.words import emotion_words
from hf_emotion.evaluation import classes, evaluate, sets, wheel
from hf_emotion.evaluation.grouping import by_lexicon

LIMITS = {332: 2.0, 100_000: 60.0}
LABELS = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")


def make_clips(number: int, seed: int = 0) -> dict:
    """Cells as models and annotators write them: lists in brackets, comma lists, sentences."""
    rng = random.Random(seed)
    words = sorted(shipped().groups)
    forms = (
        str,
        lambda labels: "[" + ", ".join(labels) + "]",
        lambda labels: f"In the video he frowns. Therefore he feels {' and '.join(labels)}, but he is not angry.",
    )

    def cell(form):
        return form(rng.sample(words, rng.randint(1, 6)))

    references = [cell(str) for _ in range(number)]
    predictions = [cell(rng.choice(forms)) for _ in range(number)]
    groups = [str([sets.labels_of(reference)]) for reference in references]
    return {
        "references": references,
        "predictions": predictions,
        "groups": groups,
        "classes": [rng.choice(LABELS) for _ in range(number)],
        "replies": [f"The person looks {rng.choice(LABELS)}." for _ in range(number)],
        "values": [rng.uniform(-3, 3) for _ in range(number)],
    }


# `score` as 0.1.0 had it


def plain_recognition(predictions, references):
    """Columns and scorer of emotion_recognition in 0.1.0, replies read as `LABELS`."""
    number = {name: i for i, name in enumerate(LABELS)}
    read = {}
    for prediction in predictions:
        if prediction not in read:
            read[prediction] = read_choice(prediction, LABELS)
    columns = np.array(
        [
            [number[truth], number.get(read[prediction], len(LABELS)), 0]
            for prediction, truth in zip(predictions, references, strict=True)
        ],
        dtype=float,
    )

    def score(rows):
        truth, chosen, _ = rows.astype(int).T
        table = np.zeros((len(LABELS), len(LABELS) + 1), dtype=int)
        np.add.at(table, (truth, chosen), 1)
        table.tolist()
        table = np.zeros((len(LABELS), len(LABELS) + 1))
        np.add.at(table, (truth, chosen), 1)
        return classes.table_scores(table)

    return columns, score


def plain_lexicon(predictions, references):
    """Columns and scorer of emotion_lexicon in 0.1.0."""
    lexicon = shipped()
    columns = np.full((len(predictions), 7), np.nan)
    for i, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        predicted, labels = emotion_words(prediction), emotion_words(reference)
        groups = {word: lexicon.groups.get(lexicon.lemma(word)) for word in (*predicted, *labels)}
        if labels:
            for level in (0, 1):
                G, P = ({groups[w][level] if groups[w] else ("?", w) for w in words} for words in (labels, predicted))
                columns[i, 2 * level : 2 * level + 2] = sets.overlap(G, P, strict=False)
        columns[i, 4] = len(predicted)
        columns[i, 5] = sum(groups[word] is not None for word in (*predicted, *labels))
        columns[i, 6] = len(predicted) + len(labels)

    def score(rows):
        result = {}
        for level in (0, 1):
            precision, recall = (plain_mean(rows[:, 2 * level + k]) for k in (0, 1))
            result[f"level{level + 1}_f"] = sets.f_score(precision, recall)
            result[f"level{level + 1}_precision"], result[f"level{level + 1}_recall"] = precision, recall
        words = rows[:, 6].sum()
        return {
            "f": (result["level1_f"] + result["level2_f"]) / 2,
            **result,
            "coverage": float(rows[:, 5].sum() / words) if words else 0.0,
            "predicted_labels": plain_mean(rows[:, 4]),
        }

    return columns, score


def plain_mean(values):
    existing = values[~np.isnan(values)]
    return float(np.mean(existing)) if len(existing) else 0.0


def plain_score(clips, constant, predictions, references, draws, seed=0):
    """Scores, intervals and baselines, each from clips read anew."""

    def scored(cells):
        columns, score = clips(cells, references)
        return score(columns)

    columns, score = clips(predictions, references)
    rng, number = np.random.default_rng(seed), len(columns)
    values = [score(columns[rng.integers(0, number, number)]) for _ in range(draws)]
    intervals = {key: np.quantile([one[key] for one in values], [0.025, 0.975]).tolist() for key in values[0]}
    rng = np.random.default_rng(seed)
    shuffled = [scored([predictions[i] for i in rng.permutation(number)]) for _ in range(evaluate.SHUFFLES)]
    baselines = {name: scored([answer] * number) for name, answer in constant.items()}
    baselines["shuffled predictions"] = {key: float(np.mean([one[key] for one in shuffled])) for key in shuffled[0]}
    return {"scores": score(columns), "intervals": intervals, "baselines": baselines}


def differences(report, plain) -> float:
    """The largest difference between the two reports, over every number of the plain one."""
    pairs = [(report["scores"][key], value) for key, value in plain["scores"].items()]
    pairs += [
        (bound, value)
        for key, interval in plain["intervals"].items()
        for bound, value in zip(report["intervals"][key], interval, strict=True)
    ]
    pairs += [
        (report["baselines"][name][key], value)
        for name, one in plain["baselines"].items()
        for key, value in one.items()
    ]
    return max(abs(bound - value) for bound, value in pairs)


def forget() -> None:
    """What was read in an earlier run."""
    shipped()._cache.clear()
    for remembered in (
        sets._labels_of_text,
        sets._cells,
        classes._code,
        words._clean,
    ):
        remembered.cache_clear()


def measure_score(number: int, draws: int) -> dict:
    """`score` with intervals and baselines beside the way of 0.1.0, in one run."""
    c, results = make_clips(number), {}
    for name, clips, predictions, truths in (
        ("emotion_recognition", plain_recognition, c["replies"], c["classes"]),
        ("emotion_lexicon", plain_lexicon, c["predictions"], c["references"]),
    ):
        settings = evaluate.Settings(labels=LABELS if name == "emotion_recognition" else None)
        names = [str(i) for i in range(number)]
        forget()
        start, used = time.perf_counter(), time.process_time()
        report = evaluate.score(
            name,
            dict(zip(names, predictions, strict=True)),
            dict(zip(names, truths, strict=True)),
            settings,
            draws,
        )
        ours = {"seconds": time.perf_counter() - start, "processor_seconds": time.process_time() - used}
        constant = evaluate.METRICS[name].constants(truths, settings)
        forget()
        start, used = time.perf_counter(), time.process_time()
        plain = plain_score(clips, constant, predictions, truths, draws)
        theirs = {"seconds": time.perf_counter() - start, "processor_seconds": time.process_time() - used}
        ratio = theirs["processor_seconds"] / ours["processor_seconds"]
        results[name] = {
            "score": ours,
            "as_0.1.0": theirs,
            "processor_ratio": ratio,
            "largest_difference": differences(report, plain),
        }
        print(
            f"score {name}, {number:,} clips, {draws:,} draws: {ours['processor_seconds']:.1f} s on the processor, as "
            f"in 0.1.0 {theirs['processor_seconds']:.1f} s: {ratio:.1f}x; largest difference "
            f"{results[name]['largest_difference']:.1e}"
        )
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel-dir", help="official MER2025 emotion_wheel folder; without it no wheel metrics")
    parser.add_argument("--repeat", type=int, default=3, help="runs of the small size; the median is reported")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "metrics_speed.json", metavar="FILE"
    )
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap draws of `score`")
    parser.add_argument("--clips", type=int, default=100_000, help="clips of `score`")
    parser.add_argument("--only-score", action="store_true", help="leave the functions and modules out")
    args = parser.parse_args()
    if args.only_score:
        report = json.loads(args.output.read_text(encoding="utf-8")) if args.output.is_file() else {}
        report["score"] = {"clips": args.clips, "draws": args.draws, **measure_score(args.clips, args.draws)}
        args.output.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return 0
    modules = {
        name: evaluation.load(name)
        for name in ("emotion_set", "emotion_lexicon", "emotion_wheel", "emotion_recognition")
    }
    tables = wheel.tables(args.wheel_dir, "mer2025") if args.wheel_dir else None

    def runs(c: dict) -> dict:
        calls = {
            "emotion_set, stored groups, function": lambda: sets.set_clips(
                c["predictions"], c["references"], groups=c["groups"]
            ),
            "emotion_set, lexicon groups, function": lambda: sets.set_clips(
                c["predictions"], c["references"], grouper=by_lexicon(1)
            ),
            "emotion_set, stored groups, module": lambda: modules["emotion_set"].compute(
                predictions=c["predictions"], references=c["references"], groups=c["groups"]
            ),
            "emotion_lexicon, function": lambda: sets.lexicon_clips(c["predictions"], c["references"]).scores(),
            "emotion_lexicon, module": lambda: modules["emotion_lexicon"].compute(
                predictions=c["predictions"], references=c["references"]
            ),
            "emotion_recognition, module": lambda: modules["emotion_recognition"].compute(
                predictions=c["replies"], references=c["classes"], labels=list(LABELS)
            ),
            "emotion_sentiment, function": lambda: classes.sentiment_clips(c["predictions"], c["values"]).scores(),
        }
        if tables is not None:
            calls["emotion_wheel, 12 cases, module"] = lambda: modules["emotion_wheel"].compute(
                predictions=c["predictions"], references=c["references"], wheel_dir=args.wheel_dir, version="mer2025"
            )
            calls["emotion_hit_rate, function"] = lambda: wheel.hit_rate_clips(
                c["predictions"], c["classes"], tables
            ).scores()
        return calls

    results, processor_results = {}, {}
    print(f"{'seconds (of them on the processor)':<42}" + "".join(f"{number:>16,} clips" for number in LIMITS))
    clips = {number: make_clips(number) for number in LIMITS}
    for name in runs(clips[332]):
        row, processor = {}, {}
        for number in LIMITS:
            times, busy = [], []
            for _ in range(args.repeat if number < 1000 else 1):
                forget()
                start, used = time.perf_counter(), time.process_time()
                runs(clips[number])[name]()
                times.append(time.perf_counter() - start)
                busy.append(time.process_time() - used)
            row[number], processor[number] = statistics.median(times), statistics.median(busy)
        results[name], processor_results[name] = row, processor
        print(f"{name:<42}" + "".join(f"{row[n]:>11.3f} s {f'({processor[n]:.3f})':>9}" for n in LIMITS))
    load = os.getloadavg()[0]
    worst = {number: max(row[number] for row in results.values()) for number in LIMITS}
    met = {number: worst[number] < limit for number, limit in LIMITS.items()}
    for number, limit in LIMITS.items():
        verdict = "met" if met[number] else "NOT met"
        used = max(row[number] for row in processor_results.values())
        print(
            f"{number:,} clips in under {limit:g} s: {verdict} (slowest {worst[number]:.2f} s, of them {used:.2f} s on "
            f"the processor; {load:.1f} processes wanted the {os.cpu_count()} processors)"
        )
    report = {
        "score": {"clips": args.clips, "draws": args.draws, **measure_score(args.clips, args.draws)},
        "seconds": results,
        "processor_seconds": processor_results,
        "limits": LIMITS,
        "limits_met": met,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "load_average": load,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return 0 if all(met.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
