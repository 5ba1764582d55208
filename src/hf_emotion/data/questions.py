"""Instruction rows: questions about a clip, in our own words, with the answer its annotation gives.

Four tasks, as the four papers ask them: `recognition` (one class of a list of options), `open_vocabulary` (all fitting
words), `clues` (the description that reasons from what is seen and heard), `tracing` (utterance by utterance). A task
that a row cannot answer is left out; no answer says more than the annotation does.
"""

import random
from collections.abc import Iterable, Mapping, Sequence

from .schema import make_row

# Task -> the column that a row must have to answer it; `open_vocabulary` and `tracing` also take `label`.
NEEDS = {"recognition": "label", "open_vocabulary": "labels", "clues": "description", "tracing": "utterances"}
TASKS = tuple(NEEDS)

TEMPLATES = {
    "recognition": (
        "Which of these emotions does the person in the clip show: {options}? Answer with one of them.",
        "Watch and listen, then choose the emotion that fits the person best. Options: {options}.",
        "Pick the one label for how this person feels: {options}.",
        "Of {options}, which describes the emotion of the speaker? Give the label only.",
        "The person in this clip feels one of the following: {options}. Which one is it?",
        "Choose from {options}: what emotion comes through in face, voice and words?",
    ),
    "open_vocabulary": (
        "Which emotions does the person show? Name every word that fits.",
        "List the feelings you can tell from the face, the voice and the words.",
        "How does this person feel? Answer with emotion words, separated by commas.",
        "Name all emotional states you recognise in this clip, weak ones too.",
        "What words describe the emotional state of the person here?",
        "Give the emotions of the person in the clip as a list, in your own words.",
    ),
    "clues": (
        "What does the person feel, and which signs in face, voice and words tell you so?",
        "Describe what can be seen and heard, and what it says about the person's emotion.",
        "Explain the emotional state of the person step by step, from the clues in the clip.",
        "Which details of expression, tone and wording point to the emotion, and to which one?",
        "Reason from the picture, the sound and the words to how the person feels.",
        "Give the evidence for the person's emotion, then name it.",
    ),
    "tracing": (
        "Go through the utterances in order: when is what said, and what emotion does it carry?",
        "Follow the person from utterance to utterance and tell what is felt.",
        "For each utterance give its time, its words and what they tell about the emotion.",
        "Trace the emotion over the utterances of this clip.",
    ),
}


def answer(row: Mapping, task: str, utterance_labels: Sequence[str | None] | None = None) -> str | None:
    """What the row's annotation answers to a question of `task`; None when it says nothing to it.

    `utterance_labels`: the emotion of each utterance, where a source knows it. Without it, only the single utterance of
    a clip takes the clip's words; several are told with their times and words, and the clip's words come at the end.
    Raises ValueError when `utterance_labels` has another length than the utterances.
    """
    words = row["labels"] or ([row["label"]] if row["label"] else [])
    if task == "recognition":
        return row["label"]
    if task == "open_vocabulary":
        return ", ".join(words) or None
    if task == "clues":
        return row["description"]
    spans = row["utterances"] or []
    if utterance_labels is not None and len(utterance_labels) != len(spans):
        counts = f"{len(utterance_labels)} utterance labels for {len(spans)} utterances"
        raise ValueError(f"row {row['id']!r}: {counts}; one each is needed")
    if not spans or not (words or utterance_labels):
        return None
    emotions = utterance_labels or ([", ".join(words)] if len(spans) == 1 else [None] * len(spans))
    lines = []
    for number, (span, emotion) in enumerate(zip(spans, emotions, strict=True), 1):
        speaker = f", {span['speaker']}" if span["speaker"] else ""
        text = f' "{span["text"]}"' if span["text"] else ""
        when = f"Utterance {number} ({span['start']:.1f}s - {span['end']:.1f}s{speaker})"
        lines.append(f"{when}:{text} {emotion}." if emotion else f"{when}:{text}" if text else f"{when}.")
    if words and len(spans) > 1:
        lines.append(f"Over the whole clip: {', '.join(words)}.")
    return "\n".join(lines)


def instruction_rows(
    row: Mapping,
    tasks: Iterable[str] = TASKS,
    per_task: int = 1,
    seed: int = 0,
    options: Sequence[str] | None = None,
    utterance_labels: Sequence[str | None] | None = None,
) -> list[dict]:
    """Up to `per_task` questions of each task about one clip, under the ids `clip#task-0`, `clip#task-1`...

    The choice depends on `seed` and the clip's id alone, so it is the same in any order and in any number of processes.
    `options` are the classes of the source, shuffled for each question (a model must not learn the position); without
    them there are no recognition questions. Questions of one task about one clip are all different, so a task gives no
    more of them than it has templates. Raises ValueError for an unknown task, or a label that is not among the options.
    """
    rows = []
    for task in tasks:
        if task not in TEMPLATES:
            raise ValueError(f"unknown task {task!r}; the tasks are {', '.join(TASKS)}")
        reply = answer(row, task, utterance_labels)
        if not reply or (task == "recognition" and not options):
            continue
        if task == "recognition" and reply not in options:
            raise ValueError(f"row {row['id']!r}: the label {reply!r} is not among the options {', '.join(options)}")
        draw = random.Random(f"{seed}/{task}/{row['id']}")
        for number, template in enumerate(draw.sample(TEMPLATES[task], min(per_task, len(TEMPLATES[task])))):
            question = template
            if task == "recognition":
                question = template.format(options=", ".join(draw.sample(list(options), len(options))))
            rows.append(
                make_row(**{**row, "id": f"{row['id']}#{task}-{number}", "question": question, "answer": reply})
            )
    return rows
