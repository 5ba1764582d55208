"""A model on a data set, then scores; files of predictions and references to scores.

Every score comes with what a paper seldom prints: an interval by bootstrap over clips, and what trivial answers get on
the same clips (a constant answer, the same predictions shuffled over the clips). Scores that need a judge or official
word tables use what the user names and nothing else.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..answers.words import emotion_words
from ..data.files import write_whole
from ..data.readers.recognition import DFEW_CLASSES, MAFW_CLASSES
from ..data.remote import is_url, local_media
from ..data.shares import Processes, ResultFile, processes
from ..processing.media import MediaError
from . import classes, judge, official, sets, wheel
from .grouping import LanguageModelGroups, named
from .statistics import Clips, bootstrap, compare

OK, SOME_FAILED = 0, 1
SHUFFLES = 10
LABEL_SETS = {"dfew": DFEW_CLASSES, "mafw": MAFW_CLASSES, "mer": classes.MER_LABELS}


class EvaluationError(ValueError):
    """A run that cannot be done as requested: missing references, settings of another run, a metric without what it
    needs."""


@dataclass(frozen=True)
class Metric:
    """How a metric is computed from files or rows.

    Attributes:
        clips: (predictions, references, settings, names) -> Clips.
        predicted: columns that hold a prediction, the best first.
        reference: columns that hold a reference, the best first.
        shown: scores of the table, the ranking one first.
        constants: (references, settings) -> {description: answer} for the trivial baseline.
    """

    clips: Callable
    predicted: tuple[str, ...]
    reference: tuple[str, ...]
    shown: tuple[str, ...]
    constants: Callable


@dataclass
class Settings:
    """What the scores depend on apart from the clips; see the options of `hf-emotion score`."""

    strict: bool = False
    wheel_dir: str | None = None
    version: str | None = None
    check_tables: bool = True
    groups: Mapping[str, object] | None = None
    grouper: object = None
    labels: Sequence[str] | None = None
    folds: Mapping[str, object] | None = None
    track: str | None = None
    reading: str = "class"
    predicted_valence: Mapping[str, object] = field(default_factory=dict)
    valence: Mapping[str, object] = field(default_factory=dict)
    chat: Callable | None = None
    cache: judge.JudgeCache | None = None
    kind: str = "both"
    language: str = "zh"
    judge_reads: bool = False
    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    task: str | None = None


def _set(predictions, references, settings: Settings, names) -> Clips:
    groups = None
    if settings.groups is not None:
        missing = [name for name in names if name not in settings.groups]
        if missing:
            raise EvaluationError(f"--groups has no reply for {len(missing)} clips, the first is {missing[0]}")
        groups = [settings.groups[name] for name in names]
    return sets.set_clips(predictions, references, groups, named(settings.grouper), settings.strict)


def _wheel(predictions, references, settings: Settings, names) -> Clips:
    return wheel.wheel_clips(predictions, references, _tables(settings), settings.strict)


def _hit_rate(predictions, references, settings: Settings, names) -> Clips:
    return wheel.hit_rate_clips(predictions, references, _tables(settings), strict=settings.strict)


def _tables(settings: Settings) -> wheel.WheelTables:
    return wheel.tables(wheel.folder_of(settings.wheel_dir), settings.version, settings.check_tables)


def _lexicon(predictions, references, settings: Settings, names) -> Clips:
    return sets.lexicon_clips(predictions, references)


def _overlap(predictions, references, settings: Settings, names) -> Clips:
    return judge.overlap_clips(
        predictions,
        references,
        settings.chat,
        settings.cache,
        kind=settings.kind,
        language=settings.language,
        strict=settings.strict,
    )


def _recognition(predictions, references, settings: Settings, names) -> Clips:
    labels = settings.labels
    if labels is not None:
        # DFEW writes its classes as 1 to 7.
        numbers = {str(i): label for i, label in enumerate(labels, 1) if str(i) not in labels}
        named = {reference: numbers.get(str(reference), reference) for reference in dict.fromkeys(references)}
        references = list(map(named.__getitem__, references))
    options = [settings.options.get(name) for name in names] if settings.options else None
    folds = None if settings.folds is None else [settings.folds.get(name) for name in names]
    if folds is not None and None in folds:
        raise EvaluationError(f"--folds names no fold for the clip {names[folds.index(None)]}")
    return classes.recognition_clips(_texts(predictions), references, labels, folds, settings.strict, options)


def _challenge(predictions, references, settings: Settings, names) -> Clips:
    if settings.track is None:
        raise EvaluationError(f"mer_challenge needs --track, one of {', '.join(classes.TRACKS)}")
    if settings.track in classes.VALENCE_TRACKS:
        missing = [
            name for name in names if settings.valence.get(name) is None or settings.predicted_valence.get(name) is None
        ]
        if missing:
            raise EvaluationError(
                f"track {settings.track} needs a valence on both sides; {len(missing)} clips lack one, "
                f"the first is {missing[0]}"
            )
    return classes.challenge_clips(
        _texts(predictions),
        references,
        settings.track,
        [settings.predicted_valence.get(name) for name in names] if settings.track in classes.VALENCE_TRACKS else None,
        [settings.valence.get(name) for name in names] if settings.track in classes.VALENCE_TRACKS else None,
        settings.reading,
        settings.strict,
    )


def _sentiment(predictions, references, settings: Settings, names) -> Clips:
    return classes.sentiment_clips(predictions, references, settings.strict)


def _official(name: str) -> Callable:
    """A benchmark's own scorer; a missing answer counts as empty."""

    def clips(predictions, references, settings: Settings, names) -> Clips:
        return official.OFFICIAL[name](["" if cell is None else cell for cell in _texts(predictions)], references)

    return clips


def _judged(predictions, references, settings: Settings, names) -> Clips:
    return official.mme_emotion_clips(predictions, [str(reference) for reference in references], settings.task)


def _no_constants(references, settings: Settings) -> dict:
    return {}


def _texts(cells: list) -> list:
    """Replies as text: a closed-set reply that came as a list of labels is read as a comma list."""
    if not {list, tuple} & set(map(type, cells)):
        return cells
    return [", ".join(map(str, cell)) if isinstance(cell, (list, tuple)) else cell for cell in cells]


def _word_constants(references, settings: Settings) -> dict:
    return {"constant: happy": "['happy']", "constant: five labels": str(list(wheel.FIVE_BASIC_LABELS))}


def _most_frequent(references, settings: Settings) -> dict:
    label = Counter(map(str, references)).most_common(1)[0][0]
    if settings.labels is not None and label.isdigit():
        label = settings.labels[int(label) - 1]
    return {f"constant: {label}": label}


def _sentiment_constants(references, settings: Settings) -> dict:
    sign = "positive" if sum(float(r) > 0 for r in references) >= sum(float(r) < 0 for r in references) else "negative"
    return {f"constant: {sign}": sign}


def _first_reference(references, settings: Settings) -> dict:
    return {"constant: first reference": references[0]}


def _by_official_code(name: str, *shown: str) -> Metric:
    return Metric(
        _official(name), ("response", *_CLASS), ("answer", "gt", "expected_value", *_CLASS), shown, _most_frequent
    )


_WORDS = ("openset", "labels", "emotions", "emotion", "label", "description", "reason", "english", "text")
_CLASS = ("label", "discrete", "emotion", "preference", "labels", "description", "text")
_TEXT = ("chi_reasons", "description", "reason", "reasons", "chinese", "english", "text")
METRICS = {
    "emotion_set": Metric(_set, _WORDS, _WORDS, ("avg", "accuracy_s", "recall_s", "predicted_labels"), _word_constants),
    "emotion_wheel": Metric(
        _wheel,
        _WORDS,
        _WORDS,
        ("level1_f", "level1_precision", "level1_recall", "level2_f", "f", "m_avg", "predicted_labels"),
        _word_constants,
    ),
    "emotion_lexicon": Metric(
        _lexicon,
        _WORDS,
        _WORDS,
        ("f", "level1_f", "level1_precision", "level1_recall", "level2_f", "coverage", "predicted_labels"),
        _word_constants,
    ),
    "emotion_hit_rate": Metric(
        _hit_rate,
        _WORDS,
        ("label", "discrete", "emotion", *_WORDS),
        ("hit_rate", "mscore", "predicted_labels"),
        _word_constants,
    ),
    "emotion_overlap": Metric(_overlap, _TEXT, _TEXT, ("clue_overlap", "label_overlap"), _first_reference),
    "emotion_recognition": Metric(
        _recognition, _CLASS, _CLASS, ("uar", "war", "weighted_f1", "macro_f1", "invalid_rate"), _most_frequent
    ),
    "mer_challenge": Metric(
        _challenge,
        _CLASS,
        _CLASS,
        ("combined", "weighted_f1", "accuracy", "valence_mse", "threeclass_weighted_f1", "invalid_rate"),
        _most_frequent,
    ),
    "emotion_sentiment": Metric(
        _sentiment,
        ("sentiment", *_WORDS),
        ("valence", "sentiment", "val", "label"),
        ("weighted_f1", "accuracy"),
        _sentiment_constants,
    ),
    "r1_omni": _by_official_code("r1_omni", "uar", "war", "weighted_f1"),
    "emobench_m": _by_official_code("emobench_m", "accuracy", "weighted_f1", "weighted_precision"),
    "mmeverse": _by_official_code("mmeverse", "weighted_f1", "accuracy"),
    "mmeverse_sentiment": _by_official_code("mmeverse_sentiment", "weighted_f1", "accuracy"),
    "label_list": _by_official_code("label_list", "f1_samples", "f1_micro", "jaccard", "map"),
    "mme_emotion": Metric(
        _judged,
        ("score", "judged"),
        ("ground_truth", "label"),
        ("cot", "recognition", "reasoning", "steps"),
        _no_constants,
    ),
}


def score(
    name: str,
    predictions: Mapping[str, object],
    references: Mapping[str, object],
    settings: Settings | None = None,
    draws: int = 1000,
    baselines: bool = True,
    against: Mapping[str, object] | None = None,
    seed: int = 0,
) -> dict:
    """Scores of one metric with intervals, trivial baselines and, if asked for, a paired comparison.

    Args:
        name: one of `METRICS`.
        predictions, references: clip name -> value. A clip without a prediction counts as an empty prediction and is
        reported
            (strict: KeyError, as officially); predictions of other clips are ignored and counted.
        settings: what the metric depends on.
        draws: bootstrap draws for intervals and comparison; 0 = none.
        baselines: also score a constant answer and the predictions shuffled over the clips (mean of 10 shuffles).
        against: predictions of a second system, compared on the same clips.
        seed: of draws and shuffles.

    Returns:
        {"metric", "scores", "intervals", "baselines" {description: scores}, "comparison", "n_missing", "n_extra"}.

    Raises:
        EvaluationError: an unknown metric, no references, or a metric without what it needs.
    """
    if name not in METRICS:
        raise EvaluationError(f"metric {name!r} is not one of {', '.join(METRICS)}")
    if not references:
        raise EvaluationError(f"no references are available to score {name} against")
    metric, settings = METRICS[name], settings or Settings()
    cells, truths, missing = wheel.by_name(predictions, references, strict=settings.strict)
    cells, names = _read(metric, cells, settings), list(references)
    clips = metric.clips(cells, truths, settings, names)
    report = {
        "metric": name,
        "scores": clips.scores(),
        "n_missing": missing,
        "n_extra": len(set(predictions) - set(references)),
    }
    if draws:
        report["intervals"] = bootstrap(clips, draws, seed=seed)
    if baselines:
        report["baselines"] = dict(_baselines(metric, cells, truths, settings, names, seed))
    if against is not None:
        others, _, report["n_missing_against"] = wheel.by_name(against, references, strict=settings.strict)
        other = metric.clips(_read(metric, others, settings), truths, settings, names)
        report["against"] = other.scores()
        report["comparison"] = compare(clips, other, max(draws, 1), seed=seed)
    return report


def _read(metric: Metric, cells: list, settings: Settings) -> list:
    """The predictions; the judge reads prose among them where that is asked for and the metric takes emotion words."""
    if not settings.judge_reads or metric.constants not in (_word_constants, _sentiment_constants):
        return cells
    cache = settings.cache or judge.JudgeCache()

    def chat(prompt: str) -> str:
        return cache.ask(settings.chat, "emotion words", prompt, (prompt,))

    return [emotion_words(cell, chat=chat) for cell in cells]


def _baselines(metric: Metric, cells, truths, settings: Settings, names, seed: int) -> Iterator[tuple[str, dict]]:
    answers = {name: [answer] * len(truths) for name, answer in metric.constants(truths, settings).items()}
    valence = {}
    if settings.track in classes.VALENCE_TRACKS:
        middle = float(np.mean([float(settings.valence[name]) for name in names]))
        valence = {"predicted_valence": dict.fromkeys(names, middle)}
    for description, constant in answers.items():
        yield description, _numbers(metric.clips(constant, truths, _changed(settings, **valence), names).scores())
    rng = np.random.default_rng(seed)
    # A judge is asked again for every pair, so its baseline is one shuffle.
    number = 1 if metric.clips is _overlap or isinstance(settings.grouper, LanguageModelGroups) else SHUFFLES
    shuffled = []
    for _ in range(number):
        order = rng.permutation(len(cells))
        moved = {}
        if valence:
            moved = {"predicted_valence": {names[i]: settings.predicted_valence[names[j]] for i, j in enumerate(order)}}
        reordered = list(map(cells.__getitem__, order.tolist()))
        scores = metric.clips(reordered, truths, _changed(settings, **moved), names).scores()
        shuffled.append(_numbers(scores))
    yield "shuffled predictions", {key: float(np.mean([one[key] for one in shuffled])) for key in shuffled[0]}


def _changed(settings: Settings, **changes) -> Settings:
    return Settings(**{**vars(settings), "strict": False, **changes})


def _numbers(scores: dict) -> dict:
    return {key: value for key, value in scores.items() if isinstance(value, float)}


def table(report: dict) -> str:
    """A report as plain text: one line per score with its interval and, beside it, what the trivial baselines get."""
    scores, metric = report["scores"], METRICS[report["metric"]]
    shown = [key for key in metric.shown if key in scores]
    baselines = report.get("baselines", {})
    header = ["score", "value", "95 % interval", *baselines]
    rows = []
    for key in shown:
        low, high = report.get("intervals", {}).get(key, (None, None))
        rows.append(
            [
                key,
                f"{scores[key]:.4f}",
                "" if low is None else f"{low:.4f} .. {high:.4f}",
                *(f"{values[key]:.4f}" if key in values else "" for values in baselines.values()),
            ]
        )
    facts = [
        f"{key} {value}"
        for key, value in scores.items()
        if isinstance(value, (int, str)) and not isinstance(value, bool)
    ]
    facts += [
        f"{key[2:]} {report[key]}" for key in ("n_missing", "n_extra", "n_failed", "n_no_reference") if report.get(key)
    ]
    lines = [f"{report['metric']}: {', '.join(facts)}", *_columns([header, *rows])]
    if "comparison" in report:
        lines += ["", "paired comparison, first minus second:"]
        rows = [["score", "second", "difference", "95 % interval", "p"]]
        for key in shown:
            if key in report["comparison"]:
                difference = report["comparison"][key]
                interval = f"{difference['low']:+.4f} .. {difference['high']:+.4f}"
                rows.append(
                    [
                        key,
                        f"{report['against'][key]:.4f}",
                        f"{difference['difference']:+.4f}",
                        interval,
                        f"{difference['p']:.3f}",
                    ]
                )
        lines += _columns(rows)
    return "\n".join(lines)


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def write_json(path: str | Path, content) -> None:
    """Write JSON with sorted keys; a half-written file is never seen."""
    write_whole(path, json.dumps(content, ensure_ascii=False, indent=2, sort_keys=True) + "\n")


def predict(
    rows: Sequence[dict],
    describe: Callable[..., list] | None,
    path: str | Path,
    settings: Mapping[str, object],
    batch_size: int = 4,
    question: str | None = None,
    progress: bool = False,
    shard: tuple[int, int] | None = None,
    share: Processes | None = None,
    engine: Callable[[Sequence[dict]], Iterable[tuple[str, dict]]] | None = None,
    allow_urls: bool = False,
) -> ResultFile:
    """Predictions of a model for data rows, written row by row as JSONL; an interrupted run continues where it
    stopped.

    Under `torchrun`, `accelerate launch` or `srun` each process answers its share into a file of its own, and the first
    one puts all into `path`, in the order of the rows.

    Args:
        rows: data rows (`hf_emotion.data.schema`) with `video` or `audio`.
        describe: (clips, utterances=..., question=...) -> one dict per clip, as `hf_emotion.inference.describe` with
            its model.
        path: the JSONL file. Beside it `<stem>.run.json` holds `settings`.
        settings: what the predictions depend on (model, question, ...).
        batch_size: rows per call.
        question: asked about every clip; None = the question of each row, or the model's default.
        progress: show a bar.
        shard: (i, n), 1 <= i <= n: answer every n-th row only, beginning with row i, into a separate file next to
            `path`. Processes with different i are independent; a later call without `shard` reads all files and answers
            the remaining rows.
        share: this process among several; default those that a launcher started.
        allow_urls: fetch clips that are addresses (`s3://bucket/clip.mp4`).
        engine: rows -> (id, answer) in any order, instead of `describe` (`hf_emotion.cluster`).

    Returns:
        one dict per row that is answered, in order, read from the file: `id`, `description`, `labels` ... or `id` and
        `error`, and `seconds`: its share of its batch's, or since the answer before it. Rows that failed in an earlier
        run are tried again.

    Raises:
        EvaluationError: the file belongs to a run with other settings; the message names the first difference.
    """
    share = processes() if share is None else share
    if shard is not None:
        number, of = shard
        if not 1 <= number <= of:
            raise EvaluationError(f"shard {number}/{of}; the first number goes from 1 to the second")
        part = Processes(number - 1 + of * share.rank, of * share.count)
        results = ResultFile(path, part, separate=True)
    else:
        results = ResultFile(path, share)
    if share.is_first:
        check_settings(results, settings)
    share.wait()
    done = results.places(only_good=True)
    # All processes know what is done before one of them writes, so they share the rest evenly. Shards wait for nobody:
    # they share the rows.
    if shard is not None:
        waiting = [row for row in part.share(rows) if row["id"] not in done]
    else:
        share.wait()
        waiting = share.share([row for row in rows if row["id"] not in done])
    before = len(done) // results.processes.count
    with results.writing(), _bar(waiting, before, progress and share.is_first) as bar:
        answers = described(waiting, describe, batch_size, question, allow_urls) if engine is None else engine(waiting)
        for name, answer in answers:
            results.add({"id": name, **answer})
            bar.update()
    share.wait()
    names = [row["id"] for row in rows]
    if shard is None and share.is_first:
        results.merge(names)
    share.wait()
    if not results.rows:
        results.select(names)
    return results


def check_settings(results: ResultFile, settings: Mapping[str, object]) -> None:
    """Write down what results depend on; results that exist must depend on the same.

    Raises:
        EvaluationError: they do not; the message names the first difference.
    """
    record = results.path.with_suffix(".run.json")
    if not results.exists():
        write_json(record, settings)
        return
    before = json.loads(record.read_text(encoding="utf-8")) if record.exists() else None
    wanted = json.loads(json.dumps(settings))
    if before != wanted:
        differing = sorted(key for key in {*(before or {}), *wanted} if (before or {}).get(key) != wanted.get(key))
        what = (
            "settings are unknown"
            if before is None
            else (f"{differing[0]} was {before.get(differing[0])!r} and is now {wanted.get(differing[0])!r}")
        )
        raise EvaluationError(
            f"{results.path} holds predictions of another run: {what}; give another --output or remove it"
        )


def described(
    rows: Sequence[dict],
    describe: Callable[..., list],
    batch_size: int,
    question: str | None,
    allow_urls: bool = False,
) -> Iterator[tuple[str, dict]]:
    """Ids with their answers, in order.

    `describe.stream`, where there is one, gets all rows and their questions, and reads clips ahead. Otherwise, and
    where clips have to be fetched, rows that are answered together are asked the same question.
    """
    stream = getattr(describe, "stream", None)
    if stream is not None and not any(is_url(row.get(kind)) for row in rows for kind in ("video", "audio")):
        clips = [row.get("video") or row.get("audio") for row in rows]
        questions = [row.get("question") if question is None else question for row in rows]
        started = time.perf_counter()
        for row, answer in zip(rows, stream(clips, [row.get("utterances") for row in rows], questions), strict=True):
            yield row["id"], {**answer, "seconds": round(time.perf_counter() - started, 4)}
            started = time.perf_counter()
        return
    for batch in _batches(rows, batch_size, question):
        asked = question if question is not None else batch[0].get("question")
        started = time.perf_counter()
        answers = dict[str, dict]()
        with ExitStack() as stack:
            clips, usable = [], []
            for row in batch:
                source = row.get("video") or row.get("audio")
                try:
                    media = stack.enter_context(local_media(row, allow_urls))
                except MediaError as error:
                    answers[row["id"]] = {"clip": source, "error": str(error)}
                else:
                    clips.append(media.get("video") or media.get("audio"))
                    usable.append((row, source))
            spoken = [row.get("utterances") for row, _ in usable]
            replies = describe(clips, utterances=spoken, question=asked) if clips else []
            for (row, source), clip, answer in zip(usable, clips, replies, strict=True):
                # A copy of a clip from elsewhere has another name.
                answers[row["id"]] = named_as(answer, clip, source)
        seconds = round((time.perf_counter() - started) / len(batch), 4)
        for row in batch:
            yield row["id"], {**answers[row["id"]], "seconds": seconds}


def named_as(answer: dict, clip, source) -> dict:
    """An answer about `clip` as one about `source`, of which it is a copy."""
    if clip == source:
        return answer
    changes = {name: str(answer[name]).replace(str(clip), source) for name in ("clip", "error") if name in answer}
    return {**answer, **changes}


def _batches(rows: Sequence[dict], size: int, question: str | None) -> Iterator[list[dict]]:
    batch: list[dict] = []
    for row in rows:
        if batch and (len(batch) == size or (question is None and row.get("question") != batch[0].get("question"))):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _bar(waiting: Sequence, done: int, progress: bool):
    from tqdm import tqdm

    return tqdm(total=len(waiting) + done, initial=done, desc="Describing", unit="clip", disable=not progress)


def references_of(name: str, rows: Iterable[dict]) -> dict[str, object]:
    """Reference of each row for a metric; rows without one are absent.

    Raises:
        EvaluationError: no row has one.
    """
    fields = {"emotion_overlap": ("description", "answer"), "emotion_sentiment": ("valence",)}
    fields |= dict.fromkeys(("emotion_recognition", "mer_challenge"), ("label",))
    wanted = fields.get(name, ("label", "labels") if name == "emotion_hit_rate" else ("labels", "label"))
    references = {}
    for row in rows:
        value = next((row[key] for key in wanted if row.get(key) is not None), None)
        if value is not None:
            references[row["id"]] = value
    if not references:
        raise EvaluationError(f"no row of the data has {' or '.join(wanted)}, which {name} needs as its reference")
    return references


def storable(value):
    """Values that JSON has: NaN becomes null."""
    if isinstance(value, dict):
        return {str(key): storable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [storable(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value
