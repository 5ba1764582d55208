"""How long the metrics take: 332 clips (the size of EMER) and 100,000 clips, made from words of the lexicon.

    python benchmarks/metrics_speed.py [--wheel-dir MERTools/MER2025/MER2025_Track23/emotion_wheel]

Time is of scoring, after import; "module" goes through `evaluate` (which writes the cells to an Arrow file first),
"function" calls the metric itself. Words are cleared from the lexicon's memory before each run. Beside the time on the
clock stands the time on the processor: everything runs in one thread, so the two differ only by what else the machine
does, and the load average is reported. The limits are judged by the clock. The metrics that need a
judge are not here: their time is the judge's.
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

from hf_emotion import evaluation
from hf_emotion.answers.lexicon import shipped
from hf_emotion.evaluation import classes, sets, wheel
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel-dir", help="official MER2025 emotion_wheel folder; without it no wheel metrics")
    parser.add_argument("--repeat", type=int, default=3, help="runs of the small size; the median is reported")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "metrics_speed.json", metavar="FILE"
    )
    args = parser.parse_args()
    modules = {
        name: evaluation.load(name)
        for name in ("emotion_set", "emotion_lexicon", "emotion_wheel", "emotion_recognition")
    }
    tables = wheel.tables(args.wheel_dir, "mer2025") if args.wheel_dir else None

    def runs(c: dict) -> dict:
        found = {
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
            found["emotion_wheel, 12 cases, module"] = lambda: modules["emotion_wheel"].compute(
                predictions=c["predictions"], references=c["references"], wheel_dir=args.wheel_dir, version="mer2025"
            )
            found["emotion_hit_rate, function"] = lambda: wheel.hit_rate_clips(
                c["predictions"], c["classes"], tables
            ).scores()
        return found

    results, processor_results = {}, {}
    print(f"{'seconds (of them on the processor)':<42}" + "".join(f"{number:>16,} clips" for number in LIMITS))
    clips = {number: make_clips(number) for number in LIMITS}
    for name in runs(clips[332]):
        row, processor = {}, {}
        for number in LIMITS:
            times, busy = [], []
            for _ in range(args.repeat if number < 1000 else 1):
                shipped()._cache.clear()
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
