"""The field's benchmarks as data: a suite is a YAML file in `suites/`, and one run makes its table.

A suite names its tasks; a task names a reader of `hf_emotion.data.build.SOURCES`, the split, the question, the metric
and the score that ranks. A run asks a model about every clip (or takes answers that exist), row by row and resumable,
scores the answers with intervals and trivial baselines, and writes

    OUTPUT/<task>/predictions.jsonl   the answers
    OUTPUT/results.json               every score
    OUTPUT/README.md                  the table
    OUTPUT/.eval_results/<suite>.yaml for suites whose data set has a page on the Hub
"""

import csv
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import yaml

from ..answers.choices import read_choice, read_preference
from ..answers.replies import declines, final_answer, options_in
from ..answers.words import emotion_words
from ..data.build import SOURCES
from ..data.files import DataError, MediaFolder, replacing, write_whole
from ..data.shares import processes
from .evaluate import METRICS, EvaluationError, Settings, predict, score, storable, write_json
from .score_files import read_cells

SUITES = Path(__file__).with_name("suites")
ANSWER_COLUMNS = ("description", "response", "answer", "prediction", "predicted_value", "label", "openset", "score")
TRUTH_COLUMNS = ("answer", "ground_truth", "expected_value", "gt", "label", "openset")


@dataclass(frozen=True)
class Task:
    """One task of a suite; the fields are those of its YAML.

    Attributes:
        name: as in the suite.
        metric: of `evaluate.METRICS`; `primary` is the score that ranks, `shown` the scores of the table.
        source: reader of `data.build.SOURCES`; None = the public code defines no rows: only answers are scored.
        folder, annotations, media: where the reader looks below the data folder.
        split: of the reader; "all" = every split. With `folds`, that split of each fold.
        ids: pattern that the ids of this task's clips match.
        options: further arguments of the reader.
        question: asked of every clip; None = the question of its row.
        labels: closed set of classes. pair: two closed sets, answered together.
        version, track: of the metric.
        official: scorer of `official.OFFICIAL` under `strict`; `official_names` are its names of our classes.
        optional: no error when its data are not there.
        candidates: table of clips without labels, for a submission. submission: {file, column} to write.
    """

    name: str
    metric: str
    primary: str
    shown: tuple[str, ...]
    source: str | None = None
    folder: str = "."
    annotations: str = "."
    media: str = "."
    split: str = "all"
    folds: tuple[int, ...] = ()
    ids: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    question: str | None = None
    labels: tuple[str, ...] | None = None
    pair: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    version: str | None = None
    track: str | None = None
    official: str | None = None
    official_names: Mapping[str, str] = field(default_factory=dict)
    optional: bool = False
    candidates: str | None = None
    submission: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Suite:
    """A benchmark: what it is, where its protocol comes from, its tasks. `summary`: the name of their mean, or None."""

    name: str
    title: str
    protocol: str
    code: str
    reference: str
    terms: str
    tasks: Mapping[str, Task]
    hub_dataset: str | None = None
    summary: str | None = None


def suites() -> list[str]:
    """Names of the shipped suites."""
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def load_suite(name: str | Path) -> Suite:
    """A shipped suite by name, or your own suite file by path.

    Raises:
        EvaluationError: no such suite, or a field that suites do not have; the message names it.
    """
    path = Path(name) if Path(name).suffix in (".yaml", ".yml") else SUITES / f"{name}.yaml"
    if not path.is_file():
        raise EvaluationError(f"suite {str(name)!r} is not one of {', '.join(suites())}, and not a YAML file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        content.pop("shared", None)
        tasks = {}
        for task, fields in content.pop("tasks").items():
            lists = {key: tuple(fields[key]) for key in ("shown", "folds", "labels") if fields.get(key)}
            if fields.get("pair"):
                lists["pair"] = tuple(map(tuple, fields["pair"]))
            tasks[task] = Task(**{"name": task, **fields, **lists})
        suite = Suite(name=path.stem, tasks=tasks, **content)
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise EvaluationError(f"{path} is not a suite: {' '.join(str(error).split())}") from error
    for task in suite.tasks.values():
        if task.metric not in METRICS or (task.source is not None and task.source not in SOURCES):
            raise EvaluationError(f"{path}: task {task.name} names the metric {task.metric}, the source {task.source}")
    return suite


# Rows


def task_rows(
    task: Task, data: str | Path, options: Mapping | None = None, candidates: bool = False
) -> tuple[list[dict], dict[str, int]]:
    """The rows of a task below a data folder, and the fold of each where the task has folds.

    Args:
        data: the suite's data folder.
        options: further arguments of the reader; `fold` chooses one fold, `split` another split.
        candidates: the clips of the candidate table, which have no labels.

    Raises:
        DataError: the data are not there, or not in the reader's format.
    """
    if task.source is None:
        raise EvaluationError(
            f"the public code of task {task.name} defines no rows; score answers with --predictions {task.name}=FILE"
        )
    options = {**task.options, **(options or {})}
    split = options.pop("split", task.split)
    root = Path(data, task.folder)
    source = "candidates" if candidates else task.source
    annotations = root / (task.candidates if candidates else task.annotations)
    if not annotations.exists():
        raise DataError(annotations, None, f"task {task.name} reads this, and it is not there")
    media = root / task.media
    media = MediaFolder(media if media.is_dir() else root)
    chosen = [options.pop("fold")] if "fold" in options and task.folds else list(task.folds)
    rows, folds = [], {}
    for fold in chosen or [None]:
        reading = SOURCES[source].read(annotations, media, **options, **({"fold": fold} if fold else {}))
        splits = reading.splits
        if split != "all" and split not in splits and not candidates:
            raise DataError(annotations, None, f"no split {split!r}; found {', '.join(splits)}")
        wanted = splits.values() if split == "all" or candidates else [splits[split]]
        for row in (row for rows_of_split in wanted for row in rows_of_split):
            if task.ids and not re.search(task.ids, row["id"]):
                continue
            rows.append({**row, "question": task.question or row["question"]})
            if fold:
                folds[row["id"]] = fold
    return rows, folds


def references(task: Task, rows: Sequence[Mapping]) -> dict[str, object]:
    """The reference of each row that has one, in the form its metric takes."""
    truths = {}
    for row in rows:
        if task.metric == "emotion_sentiment":
            value = row["valence"]
        elif task.metric in ("emotion_wheel", "emotion_set", "emotion_lexicon"):
            value = row["labels"]
        else:
            value = row["label"] if row["label"] is not None else row["answer"]
        if value is not None:
            truths[row["id"]] = read_pair(value, *task.pair) if task.pair else value
    return truths


def read_pair(reply, first: Sequence[str], second: Sequence[str]) -> str | None:
    """An emotion and an intent from one reply, as `emotion_intent`; None where one of them is not named.

    A reply `{'emotion label': ..., 'intent label': ...}` is read by its keys, any other text by the first class of each
    set that it mentions.
    """
    if reply is None:
        return None
    text = final_answer(str(reply))
    values = re.findall(r"""(?i)(emotion|intent)[^:]{0,20}:\s*["']?([^"',}\n]+)""", text)
    by_key = {key.lower(): value for key, value in values}
    chosen = [read_choice(by_key.get(key, text), names) for key, names in (("emotion", first), ("intent", second))]
    return "_".join(chosen) if all(chosen) else None


# A run


@dataclass
class Answers:
    """A task's answers: id -> text, and how they were obtained."""

    texts: dict[str, object]
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def ask(
    task: Task,
    rows: Sequence[dict],
    describe: Callable,
    output: Path,
    record: Mapping,
    batch_size: int = 4,
    shard: tuple[int, int] | None = None,
) -> Answers:
    """The answers of a model for a task's rows; see `evaluate.predict`, which resumes and takes a shard."""
    usable = [row for row in rows if row["video"] or row["audio"]]
    path, record = output / "predictions.jsonl", {**record, "task": task.name}
    answers = Answers({}, {row["id"]: "no media file" for row in rows if not (row["video"] or row["audio"])})
    for answer in predict(usable, describe, path, record, batch_size, shard=shard):
        answers.texts[answer["id"]] = answer.get("description")
        answers.seconds += answer.get("seconds", 0.0)
        if "error" in answer:
            answers.failed[answer["id"]] = answer["error"]
    return answers


def constant(text: str) -> Callable[..., list[dict]]:
    """A `describe` that gives the same answer for every clip: the baseline for every model."""

    def describe(clips, **options):
        return [{"clip": str(clip), "description": text, "labels": emotion_words(text)} for clip in clips]

    return describe


def score_task(
    task: Task,
    answers: Answers,
    truths: Mapping[str, object],
    rows: Sequence[Mapping] = (),
    folds: Mapping[str, int] | None = None,
    settings: Settings | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> dict:
    """The report of one task: `evaluate.score`, and what went wrong.

    Under `settings.strict` the benchmark's own scorer is used where the task names one; replies are then compared as
    that code compares them.
    """
    settings = replace(settings or Settings(), folds=dict(folds) if folds else None)
    settings = replace(settings, labels=task.labels, version=task.version, track=task.track, task=task.name)
    texts = {name: answers.texts.get(name) for name in truths}
    name = task.metric
    if settings.strict and task.official:
        name = task.official
        texts = {key: "" if text is None else str(text) for key, text in texts.items()}
        truths = {key: task.official_names.get(truth, truth) for key, truth in truths.items()}
        settings = replace(settings, strict=False, labels=None)
    else:
        options = {row["id"]: options_in(row["question"]) for row in rows}
        settings = replace(settings, options={key: value for key, value in options.items() if value})
    if task.pair:
        texts = {key: read_pair(text, *task.pair) for key, text in texts.items()}
        settings = replace(settings, labels=tuple(f"{a}_{b}" for a in task.pair[0] for b in task.pair[1]))
    report = score(name, texts, truths, settings, draws, seed=seed)
    refused = [
        key
        for key, text in answers.texts.items()
        if isinstance(text, str) and declines(text) and not emotion_words(text)
    ]
    return report | {
        "task": task.name,
        "primary": task.primary,
        "shown": [key for key in task.shown if key in report["scores"]],
        "n_failed": len(answers.failed),
        "n_refused": len(refused),
        "seconds": round(answers.seconds, 2),
        "failed": dict(list(answers.failed.items())[:20]),
    }


def run_suite(
    suite: Suite,
    data: str | Path | None,
    output: str | Path,
    describe: Callable | None = None,
    predictions: Mapping[str, str | Path] | None = None,
    model: str = "",
    tasks: Sequence[str] | None = None,
    options: Mapping | None = None,
    settings: Settings | None = None,
    question: str | None = None,
    batch_size: int = 4,
    limit: int | None = None,
    draws: int = 1000,
    seed: int = 0,
    shard: tuple[int, int] | None = None,
    dataset_id: str | None = None,
    record: Mapping | None = None,
    say: Callable[[str], None] = print,
) -> dict:
    """Run a benchmark and write its results; returns what `results.json` holds.

    Under `torchrun`, `accelerate launch` or `srun` the processes share the clips, and the first one scores.

    Args:
        suite: see `load_suite`.
        data: its data folder; None where `predictions` bring the references.
        output: folder of the results. An interrupted run continues.
        describe: the model, (clips, utterances=..., question=...) -> one dict per clip with `description`, as
            `hf_emotion.inference.describe`; or `constant(text)`.
        predictions: instead of a model, task -> file with answers (`score_files.read_cells`).
        model: its name in the table.
        tasks: only these.
        options: arguments of the reader (`fold`, `split`, `speakers`, `subtitles`).
        settings: what the metrics need (`wheel_dir`, `strict`, a judge).
        question: asked instead of the suite's.
        batch_size, limit: clips generated together; only the first clips of each task.
        draws, seed: bootstrap draws.
        shard: (i, n): answer every n-th clip only and score nothing; see `evaluate.predict`. A later run without it
            scores.
        record: what else the answers depend on; a run with other settings is not continued.
        dataset_id: Hub id for `.eval_results`, where the suite has none. No id is made up.

    Raises:
        EvaluationError: an unknown task, nothing to score, or a metric without what it needs.
        DataError: the data of a task that is not optional are not there.
    """
    output, settings = Path(output), settings or Settings()
    unknown = sorted({*(tasks or ()), *(predictions or ())} - set(suite.tasks))
    if unknown:
        raise EvaluationError(f"{suite.name} has no task {unknown[0]!r}; its tasks are {', '.join(suite.tasks)}")
    wanted = [task for name, task in suite.tasks.items() if not tasks or name in tasks]
    if predictions is not None:
        wanted = [task for task in wanted if task.name in predictions]
    reports, skipped, unscored = {}, {}, {}
    prepared = []
    for task in wanted:
        # What a metric needs is checked before a model runs for hours.
        try:
            checked = replace(settings, labels=task.labels, version=task.version, track=task.track, task=task.name)
            METRICS[task.metric].clips([], [], checked, [])
            rows, folds = _rows_and_folds(task, data, options, predictions, settings)
        except (DataError, EvaluationError) as error:
            if not task.optional or tasks:
                raise
            skipped[task.name] = str(error)
            continue
        if data is not None and not rows:
            if not task.optional:
                raise EvaluationError(f"{data} holds no clips of task {task.name}")
            skipped[task.name] = "no clips of this task are in the data"
            continue
        prepared.append((task, rows[:limit], folds))
    if not prepared:
        raise EvaluationError(
            f"{suite.name}: nothing to score; " + "; ".join(f"{name}: {why}" for name, why in skipped.items())
        )
    where = None if data is None else str(data)
    record = {"suite": suite.name, "model": model, "data": where, "question": question, **(record or {})}
    started, share = time.perf_counter(), processes()
    for task, rows, folds in prepared:
        if question is not None:
            rows = [{**row, "question": question} for row in rows]
        truths = references(task, rows)
        if predictions is not None:
            answers = Answers(read_cells(predictions[task.name], ANSWER_COLUMNS if data else _columns(task)))
            if data is None:
                truths = {
                    name: truth
                    for name, truth in read_cells(predictions[task.name], TRUTH_COLUMNS).items()
                    if truth is not None
                }
        else:
            say(f"{task.name}: {len(rows)} clips")
            answers = ask(task, rows, describe, output / task.name, record, batch_size, shard)
        if not share.is_first:
            continue
        if shard is not None:
            unscored[task.name] = (
                f"{len(answers.texts)} of {len(rows)} clips are answered; run without a shard to score"
            )
            say(f"{task.name}: {unscored[task.name]}")
            continue
        if task.submission and rows:
            path = output / task.submission["file"]
            unusable = write_submission(path, [row["id"] for row in rows], answers.texts, task)
            say(f"{task.name}: wrote {path}; {unusable} of {len(rows)} clips had no usable answer")
        if not truths:
            unscored[task.name] = f"no labels are in the data; {len(answers.texts)} answers are written"
            continue
        task_folds = {name: fold for name, fold in folds.items() if name in truths}
        reports[task.name] = score_task(task, answers, truths, rows, task_folds, settings, draws, seed)
    results = {
        "suite": suite.name,
        "title": suite.title,
        "protocol": " ".join(suite.protocol.split()).rstrip("."),
        "code": suite.code,
        "reference": suite.reference,
        "model": model,
        "data": record["data"],
        "options": {key: str(value) for key, value in (options or {}).items()},
        "strict": settings.strict,
        "question": question,
        "tasks": reports,
        "summary": _summary(suite, reports),
        "skipped": skipped,
        "unscored": unscored,
        "seconds": round(time.perf_counter() - started, 2),
        "software": {name: version(name) for name in ("hf_emotion", "transformers", "torch")}
        | {"python": platform.python_version()},
    }
    if not share.is_first:
        return results
    write_json(output / "results.json", storable(results))
    write_whole(output / "README.md", markdown(suite, results))
    dataset = dataset_id or suite.hub_dataset
    if dataset and reports:
        write_whole(output / ".eval_results" / f"{suite.name}.yaml", eval_results(results, dataset))
    return results


def _columns(task: Task) -> tuple[str, ...]:
    return ("score", "judged") if task.metric == "mme_emotion" else tuple(c for c in ANSWER_COLUMNS if c != "answer")


def _rows_and_folds(task, data, options, predictions, settings) -> tuple[list[dict], dict[str, int]]:
    if data is None:
        if predictions is None:
            raise EvaluationError("a model needs --data, the folder with the clips of the benchmark")
        return [], {}
    try:
        return task_rows(task, data, options)
    except DataError:
        if task.candidates and Path(data, task.folder, task.candidates).is_file():
            return task_rows(task, data, options, candidates=True)
        raise


def _summary(suite: Suite, reports: Mapping[str, dict]) -> dict:
    """The mean of the tasks' ranking scores, only where every task that is not skipped for good is there."""
    if not suite.summary or not reports:
        return {}
    values = {name: report["scores"][report["primary"]] for name, report in reports.items()}
    return {
        "name": suite.summary,
        "value": float(np.mean(list(values.values()))),
        "tasks": len(values),
        "tasks_of_suite": len(suite.tasks),
    }


# What is written


def markdown(suite: Suite, results: Mapping) -> str:
    """The table of a run as a README."""
    lines = [f"# {suite.title}", ""]
    lines += [f"Model: `{results['model']}`.", "", f"Protocol: {results['protocol']}.", ""]
    if results["options"]:
        lines += [f"Reader: {', '.join(f'{key} = {value}' for key, value in results['options'].items())}.", ""]
    if results["question"]:
        lines += [f"Question: {results['question']}", ""]
    if results["strict"]:
        lines += ["Scored as the benchmark's own code compares replies (`--strict`).", ""]
    header = ["task", "score", "value", "95 % interval"]
    rows, notes = [], []
    for name, report in results["tasks"].items():
        scores, intervals, baselines = report["scores"], report.get("intervals", {}), report.get("baselines", {})
        for key in report["shown"]:
            low, high = intervals.get(key, (None, None))
            others = [f"{label.removeprefix('constant: ')} {values[key]:.4f}" for label, values in baselines.items()
                      if key in values]  # fmt: skip
            rows.append(
                [
                    name,
                    f"**{key}**" if key == report["primary"] else key,
                    f"{scores[key]:.4f}",
                    "" if low is None else f"{low:.4f} to {high:.4f}",
                    "; ".join(others),
                ]
            )
        notes.append(
            [
                name,
                str(scores["n"]),
                str(report["n_failed"]),
                str(report["n_refused"]),
                f"{scores['invalid_rate']:.1%}" if "invalid_rate" in scores else "",
                f"{report['seconds']:.1f}" if report["seconds"] else "",
            ]
        )
    lines += _table([*header, "trivial answers (always the same; these predictions shuffled)"], rows)
    if results["summary"]:
        summary = results["summary"]
        lines += ["", f"Mean of the ranking scores of {summary['tasks']} of {summary['tasks_of_suite']} tasks: "
                  f"**{summary['value']:.4f}**"]  # fmt: skip
    for name, report in results["tasks"].items():
        recall = {label: value for label, value in report["scores"].get("recall", {}).items() if value is not None}
        if recall:
            lines += ["", f"Recall per class, {name}:", ""]
            lines += _table(list(recall), [[f"{value:.3f}" for value in recall.values()]])
    lines += ["", "What the run did:", ""]
    lines += _table(["task", "clips scored", "failed", "declined to answer", "no class named", "seconds"], notes)
    for title, reasons in (("Not run", results["skipped"]), ("Not scored", results["unscored"])):
        lines += [f"\n{title}: {name} ({' '.join(reason.split())})" for name, reason in reasons.items()]
    software = ", ".join(f"{name} {number}" for name, number in results["software"].items())
    lines += ["", f"Scoring follows {suite.code}. Data: {suite.reference}; {suite.terms}. Made with {software}.", ""]
    return "\n".join(lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in (header, *rows)]
    head, *rest = [f"| {' | '.join(row)} |" for row in cells]
    return [head, "|" + " --- |" * len(header), *rest]


def eval_results(results: Mapping, dataset: str) -> str:
    """`.eval_results/<suite>.yaml` for a model's repository on the Hub: one entry per ranking score, in percent."""
    entries = [
        {
            "dataset": {"id": dataset, "task_id": name},
            "value": round(100 * report["scores"][report["primary"]], 4),
            "notes": f"{report['primary']}, {report['scores']['n']} clips, suite {results['suite']} of hf_emotion",
        }
        for name, report in results["tasks"].items()
    ]
    return yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)


def write_submission(path: Path, names: Sequence[str], texts: Mapping[str, object], task: Task) -> int:
    """The answers in the format that the challenge's own code writes; returns how many clips had no usable answer.

    A `.csv` has the columns `name` and `column`, one class per clip (every clip needs one: an answer that names none
    becomes "neutral", or "same" for a preference); a `.npz` has `filenames` and `fileitems`, a list of words as text
    per clip, as `ovlabel_extraction.py` writes it.
    """
    unusable = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        if path.suffix == ".npz":
            words = [emotion_words(texts.get(name)) for name in names]
            with temporary.open("wb") as file:
                np.savez_compressed(file, filenames=np.array(names), fileitems=np.array(list(map(str, words))))
            return sum(not listed for listed in words)
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["name", task.submission["column"]])
            for name in names:
                text = texts.get(name)
                if task.track == "mer2026_track3":
                    answer = read_preference(final_answer(str(text or "")))
                    unusable += not text
                else:
                    answer = read_choice(text, task.labels or SOURCES[task.source].classes)
                    unusable += answer is None
                writer.writerow([name, answer or "neutral"])
    return unusable
