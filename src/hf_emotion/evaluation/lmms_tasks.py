"""Our suites as tasks of lmms-eval (github.com/EvolvingLMMs-Lab/lmms-eval), for any model that it knows.

lmms-eval finds tasks of others by `--include_path`: `write_tasks` makes such a folder from a suite and its data, one
YAML and one JSON-lines file of rows per task, and a `utils.py` whose functions are made here. Models of this package
join by the entry point `lmms_eval.models` (`lmms_plugin.py`).

    hf-emotion benchmark ravdess --data RAVDESS --output RUN --lmms-eval TASKS
    lmms-eval --model hf_emotion --model_args pretrained=MODEL --tasks hf_emotion_ravdess --include_path TASKS
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from ..data.files import write_whole
from ..processing.media import load_clip
from .suite import Answers, Suite, Task, load_suite, references, score_task, task_rows

SAMPLING_RATE = 16_000


def write_tasks(
    suite: Suite, data: str | Path, output: str | Path, options: Mapping | None = None, tasks: Sequence[str] = ()
) -> list[str]:
    """Write a suite's tasks as a folder for `--include_path`; returns the names of the tasks of lmms-eval.

    Args:
        suite, data, options: as for `suite.run_suite`. A task whose data are not there is left out.
        output: the folder; its rows name the clips by absolute path.
        tasks: only these.

    Raises:
        ValueError: no task has clips with labels in the data.
    """
    output, names = Path(output), []
    for task in suite.tasks.values():
        if task.source is None or (tasks and task.name not in tasks):
            continue
        try:
            rows, folds = task_rows(task, data, options)
        except (ValueError, OSError):
            if not task.optional or tasks:
                raise
            continue
        truths = references(task, rows)
        docs = [
            {
                "id": row["id"],
                "video": _absolute(row["video"]),
                "audio": _absolute(row["audio"]),
                "question": row["question"],
                "truth": json.dumps(truths[row["id"]]),
                "fold": folds.get(row["id"], 0),
            }
            for row in rows
            if row["id"] in truths and (row["video"] or row["audio"])
        ]
        if not docs:
            continue
        name = f"hf_emotion_{suite.name}_{task.name}".replace("-", "_")
        names.append(name)
        write_whole(output / f"{name}.jsonl", "".join(json.dumps(doc, ensure_ascii=False) + "\n" for doc in docs))
        write_whole(output / f"{name}.yaml", _task_yaml(name, task, output))
        write_whole(output / f"{name}_utils.py", _utils(suite, task))
    if not names:
        raise ValueError(f"{data} has no clips with labels for {suite.name}")
    group = {"group": f"hf_emotion_{suite.name}".replace("-", "_"), "task": names}
    write_whole(output / f"{group['group']}.yaml", yaml.safe_dump(group, sort_keys=False))
    return names


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).resolve())


def _task_yaml(name: str, task: Task, output: Path) -> str:
    metrics = "".join(
        f"  - metric: {key}\n    aggregation: !function {name}_utils.{key}\n    higher_is_better: true\n"
        for key in task.shown
    )
    return (
        f"task: {name}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
        f"    test: {json.dumps(str((output / f'{name}.jsonl').resolve()))}\ntest_split: test\n"
        f"output_type: generate_until\ndoc_to_visual: !function {name}_utils.doc_to_visual\n"
        f"doc_to_text: !function {name}_utils.doc_to_text\ndoc_to_target: truth\n"
        f"generation_kwargs:\n  max_new_tokens: 128\n  do_sample: false\n"
        f"process_results: !function {name}_utils.process_results\nmetric_list:\n{metrics}"
        "metadata:\n  version: 1.0\n"
    )


def _utils(suite: Suite, task: Task) -> str:
    lines = [
        f'"""Functions of the task {task.name} of {suite.name}, made by hf_emotion."""',
        "",
        "from hf_emotion.evaluation.lmms_tasks import aggregation, answers_of, doc_to_text, doc_to_visual",
        "",
        f"process_results = answers_of({task.shown!r})",
    ]
    lines += [f"{key} = aggregation({suite.name!r}, {task.name!r}, {key!r})" for key in task.shown]
    lines += ["", f"__all__ = {sorted(['doc_to_text', 'doc_to_visual', 'process_results', *task.shown])!r}", ""]
    return "\n".join(lines)


def doc_to_text(doc: Mapping, lmms_eval_specific_kwargs: Mapping | None = None) -> str:
    """The question, between the prompts that lmms-eval has for a model."""
    around = lmms_eval_specific_kwargs or {}
    return f"{around.get('pre_prompt', '')}{doc['question'] or ''}{around.get('post_prompt', '')}"


def doc_to_visual(doc: Mapping) -> list:
    """The clip as lmms-eval's models take it: the path of a video, or sound as `array` and `sampling_rate`."""
    if doc["video"]:
        return [doc["video"]]
    clip = load_clip(doc["audio"], frames=False, sampling_rate=SAMPLING_RATE)
    return [{"array": clip.waveform, "sampling_rate": SAMPLING_RATE, "path": doc["audio"]}]


def answers_of(keys: Sequence[str]) -> Callable:
    """`process_results` of a task: every score gets the whole answer, since UAR and F1 are not means over clips."""

    def process_results(doc: Mapping, results: Sequence[str]) -> dict:
        answer = {"id": doc["id"], "truth": doc["truth"], "fold": doc["fold"], "question": doc["question"]}
        return {key: {**answer, "reply": results[0]} for key in keys}

    return process_results


def aggregation(suite: str, task: str, key: str) -> Callable[[list[dict]], float]:
    """The function that makes one score from all answers of a task, as `hf-emotion benchmark` scores them."""

    def score(answers: list[dict]) -> float:
        truths = {answer["id"]: json.loads(answer["truth"]) for answer in answers}
        replies = Answers({answer["id"]: answer["reply"] for answer in answers})
        folds = {answer["id"]: answer["fold"] for answer in answers if answer["fold"]}
        rows = [{"id": answer["id"], "question": answer["question"]} for answer in answers]
        report = score_task(load_suite(suite).tasks[task], replies, truths, rows, folds, draws=0)
        return float(report["scores"][key])

    return score
