"""From a source to a dataset: read, check, add utterances and questions, save, publish (`hf-emotion build`).

A built dataset is an ordinary `datasets.DatasetDict` with the features of `schema.FEATURES`:

    dataset, report = build("meld", "MELD/data/MELD", "MELD.Raw", output="meld", tasks=["recognition"], num_proc=4)
    load_from_disk("meld")["train"].to_iterable_dataset(num_shards=8)       # streaming
    load_from_disk("meld").map(function, num_proc=4)                        # many processes

`build.json` beside the saved dataset records where it came from, what is missing or left out, and its numbers. The
dataset card is filled from that file alone.
"""

import inspect
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from tqdm import tqdm

from ..processing.utterances import UNWRITABLE
from ..processing.voice_activity import voice_spans
from .files import DataError, MediaFolder, MissingMediaError, Reading, did_you_mean, read_lines, replacing
from .questions import TASKS, instruction_rows
from .readers import candidates, conversations, demo, emer, mer, own, recognition
from .schema import FIELDS
from .shares import Processes, ResultFile, processes

REPORT = "build.json"


class LicenceError(ValueError):
    """Rows whose licence does not allow publishing them."""


@dataclass(frozen=True)
class Source:
    """How a dataset is read, what its terms allow, and the classes of its labels (() = open vocabulary)."""

    read: Callable[..., Reading]
    title: str
    licence: str
    may_publish: bool
    classes: tuple[str, ...] = ()
    homepage: str = ""
    reference: str = ""
    # The names and folders of the clips are the annotation, so one folder is both.
    by_name: bool = False


_captions = partial(partial, mer.read_captions)
READERS: dict[str, Callable[..., Reading]] = {
    "emer_v1": emer.read_emer_v1,
    "emer_v2": emer.read_emer_v2,
    "merr_coarse": partial(mer.read_merr, grain="coarse"),
    "merr_fine": partial(mer.read_merr, grain="fine"),
    "mer2023": mer.read_mer2023,
    "mer2024": mer.read_mer2024,
    "mer2025": mer.read_mer2025,
    "mer2026": mer.read_mer2026,
    "mer_caption_plus": _captions(words="track2_train_mercaptionplus.csv", reasons="track3_train_mercaptionplus.csv"),
    "ov_merd": _captions(words="track2_train_ovmerd.csv", reasons="track3_train_ovmerd.csv", leak=mer.EMER_LEAK),
    "mer2026_human": _captions(words="track2_train_human.csv", reasons=None),
    "mer2026_prefer": mer.read_mer2026_prefer,
    "dfew": recognition.read_dfew,
    "mafw": recognition.read_mafw,
    "ravdess": recognition.read_ravdess,
    "meld": recognition.read_meld,
    "iemocap": recognition.read_iemocap,
    "mosi": recognition.read_mosi,
    "demo": demo.read_corpus,
    "openset": candidates.read_openset,
    "candidates": candidates.read_candidates,
    "conversations": conversations.read_conversations,
    "folder": own.read_folder,
    "table": own.read_table,
}
CLASSES = {
    **dict.fromkeys(("merr_coarse", "merr_fine"), mer.MERR_CLASSES),
    **dict.fromkeys(("mer2023", "mer2024", "mer2025", "mer2026"), mer.MER_CLASSES),
    "mer2026_prefer": ("a1", "a2", "same"),
    "dfew": recognition.DFEW_CLASSES,
    "mafw": recognition.MAFW_CLASSES,
    "ravdess": recognition.RAVDESS_CLASSES,
    "meld": recognition.MELD_CLASSES,
    "iemocap": recognition.IEMOCAP_CLASSES,
    "mosi": recognition.MOSI_CLASSES,
}
SOURCES = {
    name: Source(READERS[name], classes=CLASSES.get(name, ()), **facts)
    for name, facts in yaml.safe_load(Path(__file__).with_name("sources.yaml").read_text(encoding="utf-8")).items()
}


def build(
    source: str,
    annotations,
    media=None,
    *,
    output=None,
    missing: str = "error",
    splits: Mapping[str, object] | None = None,
    utterances: str | None = None,
    tasks: Sequence[str] = (),
    per_task: int = 1,
    seed: int = 0,
    licence: str | None = None,
    against: Sequence = (),
    overwrite: bool = False,
    num_proc: int | None = None,
    **options,
):
    """Build one source: (`datasets.DatasetDict`, report dict); both are saved if `output` is given.

    Under `torchrun`, `accelerate launch` or `srun` the processes share the reading of sound (`utterances`); the first
    one does everything else, and the others return (None, None) when it has finished.

    Args:
        source: a name of `SOURCES`, such as "table" or "folder" for data of your own.
        annotations: its file or folder, as the reader documents.
        media: folder with the clips (subfolders are searched), or None for rows without media.
        missing: clips without a file are an "error" (one message names all), are dropped ("drop") or kept ("keep").
        splits: split name -> file with one clip name per line; they replace the published splits.
        utterances: for clips without known utterances: None (leave them unknown), "voice" (voice activity) or "whole"
            (one utterance over the clip). Their subtitle becomes the text of a single utterance.
        tasks, per_task, seed: of instruction rows (`questions.instruction_rows`); no tasks = the clips themselves.
        licence: of your own data; written to every row.
        against: saved datasets (folders) or lists of clip names (files); clips they share with this one are reported.
        options: of the source's reader (`subtitles`, `labels`, `language`, `fold`, `speakers`...).

    Raises:
        DataError: with file and line. MissingMediaError: names all clips. ValueError: unsuitable arguments.
    """
    from datasets import Dataset, DatasetDict, DatasetInfo

    from .schema import FEATURES

    began = time.perf_counter()
    entry = _source(source)
    _check_options(source, entry, options)
    if missing not in ("error", "drop", "keep"):
        raise ValueError(f"missing is {missing!r}; 'error', 'drop' or 'keep' is needed")
    if utterances not in (None, "voice", "whole"):
        raise ValueError(f"utterances is {utterances!r}; 'voice', 'whole' or None is needed")
    if entry.licence and licence:
        raise ValueError(f"the licence of {source} is its own ({entry.licence}); 'licence' is for your own data")
    if output is not None:
        check_output(output, overwrite)
    if media is None and entry.by_name:
        media = annotations
    folder = MediaFolder(media)
    reading = entry.read(annotations, folder, **options)
    notes = list(reading.notes)
    rows = _resplit(reading.splits, splits, notes) if splits else reading.splits
    for split in rows.values():
        for row in split:
            row["source"], row["licence"] = source, entry.licence or licence
    _check_splits(annotations, rows)
    absent = list(dict.fromkeys(folder.missing))
    if absent and missing == "error":
        raise MissingMediaError(folder.root or annotations, absent, sum(map(len, rows.values())))
    if absent:
        notes.append(f"{len(absent)} clips have no media file and are {'left out' if missing == 'drop' else 'kept'}")
    if missing == "drop":
        rows = {
            name: [r for r in split if r["video"] or r["audio"] or folder.root is None] for name, split in rows.items()
        }
    if folder.sound_only and any(row["video"] for split in rows.values() for row in split):
        sound_only = list(dict.fromkeys(folder.sound_only))
        notes.append(f"{len(sound_only)} clips have sound but no picture: {', '.join(sound_only)}")
    share = processes()
    share.wait()  # until all have seen what is in the place of the output
    if utterances:
        problems = _fill_utterances(rows, utterances, missing, num_proc, output, share)
        notes += [f"the sound of {len(problems)} clips cannot be read: {' '.join(problems)}"] if problems else []
    rows = {name: split for name, split in rows.items() if split}
    if not rows:
        raise DataError(annotations, None, "no clips are left to build a dataset from")
    if not share.is_first:
        share.wait()
        return None, None

    info = partial(
        DatasetInfo,
        description=f"{entry.title}, read by hf_emotion",
        homepage=entry.homepage,
        citation=entry.reference,
    )
    dataset = DatasetDict(
        {
            name: Dataset.from_list(
                split, features=FEATURES, info=info(license=split[0]["licence"] or "", features=FEATURES)
            )
            for name, split in rows.items()
        }
    )
    notes += _shared_clips(dataset, against)
    clips = {name: numbers_of(split) for name, split in dataset.items()}
    classes = entry.classes or tuple(sorted({label for split in dataset.values() for label in split["label"] if label}))
    if tasks:
        dataset = _add_questions(dataset, tasks, per_task, seed, classes, reading.utterance_labels, num_proc, notes)
    report = {
        "source": source,
        "title": entry.title,
        "homepage": entry.homepage,
        "reference": entry.reference,
        "licence": entry.licence or licence,
        "annotations": str(annotations),
        "media": None if media is None else str(Path(media).resolve()),
        "options": {key: value if isinstance(value, int) else str(value) for key, value in options.items()},
        "utterances": utterances,
        "tasks": list(tasks),
        "per_task": per_task if tasks else None,
        "seed": seed,
        "classes": list(classes),
        "splits": {name: {"rows": len(split), **clips[name]} for name, split in dataset.items()},
        "missing": absent,
        "notes": notes,
        "seconds": round(time.perf_counter() - began, 2),
    }
    if output is not None:
        save_built(dataset, report, output)
    share.wait()
    return dataset, report


def _source(name: str) -> Source:
    if name not in SOURCES:
        hint = did_you_mean(name, SOURCES)
        raise ValueError(
            f"unknown source {name!r}{hint}; your own data are 'table' (csv, json, jsonl) or 'folder' (in folders "
            f"named by label); the others are {', '.join(SOURCES)}"
        )
    return SOURCES[name]


def _check_options(source: str, entry: Source, options: Mapping) -> None:
    read = entry.read
    fixed = set(read.keywords) if isinstance(read, partial) else set()
    known = [name for name in inspect.signature(read).parameters if name not in ("annotations", "media", *fixed)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"{source} has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}")
    if options.get("language") not in (None, "english", "chinese"):
        raise ValueError(f"language is {options['language']!r}; 'english' or 'chinese' is needed")


def _resplit(
    published: Mapping[str, list[dict]], lists: Mapping[str, object], notes: list[str]
) -> dict[str, list[dict]]:
    """The rows in the splits of the given lists; a name without a row or in two lists is an error."""
    by_id, split_of = {row["id"]: row for split in published.values() for row in split}, {}
    for split, path in lists.items():
        for line, name in read_lines(path):
            name = name.strip()
            if not name:
                continue
            if name not in by_id:
                raise DataError(path, line, f"the name {name!r} is not in the annotations")
            if name in split_of:
                raise DataError(path, line, f"the name {name!r} is already in the split {split_of[name]!r}")
            split_of[name] = split
    left = len(by_id) - len(split_of)
    notes.append(
        f"splits by lists of names: {', '.join(lists)}" + (f"; {left} clips are in none of them" if left else "")
    )
    return {split: [by_id[name] for name, where in split_of.items() if where == split] for split in lists}


def _check_splits(annotations, rows: Mapping[str, list[dict]]) -> None:
    split_of = {}
    for split, members in rows.items():
        for row in members:
            first = split_of.setdefault(row["id"], split)
            if first != split:
                raise DataError(annotations, None, f"the clip {row['id']!r} is in {first!r} and in {split!r}: a leak")


def _utterances_from_sound(row: Mapping, how: str) -> dict:
    """A clip's `utterances`, and the `problem` with its sound or None."""
    from hf_emotion.processing.media import MediaError, load_clip

    try:
        clip = load_clip(row["audio"] or row["video"], frames=False)
    except (MediaError, OSError) as error:
        return {"utterances": None, "problem": str(error)}
    spans = []
    if clip.waveform is not None and len(clip.waveform):
        spans = [(0.0, len(clip.waveform) / clip.sampling_rate)]
        if how == "voice":
            spans = voice_spans(clip.waveform, clip.sampling_rate)
    # The words are known, but not when each is spoken: one utterance from the first to the last sound.
    if row["subtitle"] and spans:
        spans = [(spans[0][0], spans[-1][1])]
    utterances = [
        {"start": round(start, 3), "end": round(end, 3), "text": row["subtitle"], "speaker": None}
        for start, end in spans
    ]
    return {"utterances": utterances, "problem": None}


def _fill_utterances(
    splits: dict[str, list[dict]], how: str, missing: str, num_proc: int | None, output, share: Processes
) -> list[str]:
    """Fill unknown utterances from the sound, in place; unreadable files are treated as `missing` says.

    The utterances of a clip are written beside the output as soon as they are known, where a run that was interrupted
    finds them again as long as the clip's file is the same.

    Returns:
        the problems of clips whose sound cannot be read.
    """
    unknown = [
        row
        for split in splits.values()
        for row in split
        if row["utterances"] is None and (row["audio"] or row["video"]) is not None
    ]
    # The same id in another state of the data is another piece of work.
    names = {row["id"]: json.dumps([row["id"], how, row["subtitle"], *_stamp(row)]) for row in unknown}
    with ExitStack() as stack:
        if output is None:
            # A dry run leaves nothing behind, so it has no place where processes could meet.
            folder, share = Path(stack.enter_context(TemporaryDirectory())), Processes()
            path = folder / "utterances.jsonl"
        else:
            path = Path(output).with_name(f".{Path(output).name}.utterances.jsonl")
        results = ResultFile(path, share)
        done = results.places()
        share.wait()
        mine = share.share([row for row in unknown if names[row["id"]] not in done])
        read = partial(_utterances_from_sound, how=how)
        with results.writing():
            spoken = map(read, mine)
            if (num_proc or 1) > 1:
                # Spawned: threads of a parent do not survive a fork.
                spawned = multiprocessing.get_context("spawn")
                spoken = stack.enter_context(ProcessPoolExecutor(num_proc, spawned)).map(read, mine)
            for row, result in zip(
                mine, tqdm(spoken, desc="Sound", unit="clip", total=len(mine), delay=2), strict=True
            ):
                results.add({"id": names[row["id"]], **result})
        if share.count > 1:
            print(f"process {share.rank + 1} of {share.count}: {results.written} rows", file=sys.stderr)
        share.wait()
        if not share.is_first:
            return []
        results.select(names.values())
        problems = []
        for row, result in zip(unknown, results, strict=True):
            row["utterances"] = result["utterances"]
            if result["problem"]:
                problems.append(result["problem"])
                row["unreadable"] = True
        results.clear()
    if problems and missing == "error":
        raise DataError("sound", None, f"{len(problems)} clips cannot be read: {' '.join(problems)}")
    for name, split in splits.items():
        splits[name] = [row for row in split if not (row.pop("unreadable", False) and missing == "drop")]
    return problems


def _stamp(row: Mapping) -> tuple[str, int, int]:
    path = row["audio"] or row["video"]
    status = os.stat(path)
    return path, status.st_size, status.st_mtime_ns


def _questions(batch: dict, utterance_labels: Mapping, **arguments) -> dict:
    rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
    asked = [
        question
        for row in rows
        for question in instruction_rows(row, **arguments, utterance_labels=utterance_labels.get(row["id"]))
    ]
    return {name: [row[name] for row in asked] for name in FIELDS}


def _add_questions(dataset, tasks, per_task, seed, classes, utterance_labels, num_proc, notes):
    from .schema import FEATURES

    unknown = sorted(set(tasks) - set(TASKS))
    if unknown:
        raise ValueError(f"unknown tasks {', '.join(unknown)}; the tasks are {', '.join(TASKS)}")
    arguments = {"tasks": list(tasks), "per_task": per_task, "seed": seed, "options": list(classes)}
    arguments["utterance_labels"] = utterance_labels
    asked = dataset.map(
        _questions, batched=True, fn_kwargs=arguments, features=FEATURES, num_proc=num_proc, desc="Questions"
    )
    for name, split in asked.items():
        silent = len(dataset[name]) - len({row_id.rsplit("#", 1)[0] for row_id in split["id"]})
        if silent:
            notes.append(
                f"{silent} of {len(dataset[name])} clips of {name} cannot answer any of the tasks and have no row"
            )
        if not len(split):
            raise ValueError(f"no clip of the split {name!r} can answer any of the tasks {', '.join(tasks)}")
    return asked


def numbers_of(split) -> dict:
    """The numbers of one split of clips, for the report and the card."""
    spans = [row for row in split["utterances"] if row is not None]
    lengths = [span["end"] - span["start"] for row in spans for span in row]
    valence = [value for value in split["valence"] if value is not None]
    count = {
        field: sum(value is not None for value in split[field])
        for field in ("video", "audio", "subtitle", "description")
    }
    return {
        "clips": len(split),
        **count,
        "with_utterances": len(spans),
        "utterances": len(lengths),
        "utterance_seconds": round(sum(lengths), 2),
        "labels": dict(Counter(label for label in split["label"] if label is not None).most_common()),
        "words": len({word for words in split["labels"] for word in words or ()}),
        "valence": [min(valence), max(valence)] if valence else None,
    }


def shared_clips(first, second) -> list[str]:
    """Names of the clips in both of two collections of ids; the id of a question is that of its clip and a suffix."""
    return sorted({name.rsplit("#", 1)[0] for name in first} & {name.rsplit("#", 1)[0] for name in second})


def _shared_clips(dataset, against: Sequence) -> list[str]:
    from datasets import load_from_disk

    notes = []
    for other in against:
        path = Path(other)
        if path.is_dir():
            others = {f"{path.name} {name}": split["id"] for name, split in load_from_disk(str(path)).items()}
        else:
            others = {path.name: [name.strip() for _, name in read_lines(path) if name.strip()]}
        for name, split in dataset.items():
            for title, ids in others.items():
                shared = shared_clips(split["id"], ids)
                if shared:
                    notes.append(f"{len(shared)} clips of {name} are also in {title}: {', '.join(shared)}")
    return notes


def check_output(output, overwrite: bool) -> None:
    path = Path(output)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        ours = path.is_dir() and (path / REPORT).is_file()
        if not (overwrite and ours):
            hint = (
                "it can be replaced with overwrite"
                if ours
                else "it is not a dataset built here, so it is never replaced"
            )
            raise ValueError(f"{path} exists and is not empty; {hint}")


def save_built(dataset, report: dict, output) -> None:
    """Save a dataset and its report; an interrupted build leaves what was there."""
    with replacing(output) as partial:
        dataset.save_to_disk(str(partial))
        (partial / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


# A licence identifier of the Hub; anything else goes under `license: other`.
HUB_LICENCES = (
    "apache-2.0",
    "mit",
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "gpl-3.0",
)


def check_licence(dataset, private: bool) -> None:
    """Raise `LicenceError` when rows of the dataset must not be made public, naming each source and its terms.

    A private repository is always accepted: whether its members may see the data depends on their agreement.
    """
    if private:
        return
    kinds = {pair for split in dataset.values() for pair in zip(split["source"], split["licence"], strict=True)}
    problems = []
    for source, licence in sorted(kinds, key=str):
        entry = SOURCES.get(source)
        if entry is not None and not entry.may_publish:
            problems.append(f"{source} ({entry.licence})")
        elif not licence:
            problems.append(f"{source} (no licence stated: build it with licence=...)")
    if problems:
        raise LicenceError(
            f"not pushed: these rows must not be public: {'; '.join(problems)}. A private repository is possible"
        )


def dataset_card(report: Mapping, repo_id: str | None = None) -> str:
    """The dataset card of a build: YAML head and text, every number from its report."""
    from huggingface_hub import DatasetCard, DatasetCardData

    licence = report["licence"] or "unknown"
    known = licence in HUB_LICENCES
    head = DatasetCardData(
        license=licence if known or licence == "unknown" else "other",
        pretty_name=report["title"],
        task_categories=["video-text-to-text"],
        tags=["emotion-recognition", "multimodal", "hf_emotion"],
        **({} if known or licence == "unknown" else {"license_name": "see-text"}),
    )
    template = str(card_template("dataset_card.md.jinja"))
    return str(DatasetCard.from_template(head, template_path=template, repo_id=repo_id, **plain(dict(report))))


def plain(value: Any) -> Any:
    """A value with its texts as they may stand in Markdown: a name from a file must not become a page's structure.

    A text becomes one line without HTML, that ends no table cell and no code.
    """
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{entry.name: plain(getattr(value, entry.name)) for entry in fields(value)})
    if not isinstance(value, str):
        return value
    text = UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", value).replace("`", "'")
    return " ".join(text.replace("<", "&lt;").replace("|", "&#124;").split())


def card_template(name: str) -> Path:
    """A file of `hub_cards/`: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).parents[1]
    for folder in (package / "hub_cards", package.parents[1] / "hub_cards"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{name} is neither in hf_emotion/hub_cards nor in hub_cards of the checkout")


def _relative(row: dict, root: str | None) -> dict:
    for kind in ("video", "audio"):
        if row[kind] is not None:
            path = Path(row[kind])
            inside = root is not None and path.is_relative_to(root)
            row[kind] = path.relative_to(root).as_posix() if inside else path.name
    return row


def with_media(dataset, root):
    """The dataset with its media paths joined to `root`, as needed for a dataset loaded from the Hub."""
    return dataset.map(partial(_join, root=str(root)))


def _join(row: dict, root: str) -> dict:
    return {kind: None if row[kind] is None else os.path.join(root, row[kind]) for kind in ("video", "audio")}


def push(folder, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Publish a saved build and its card as `repo_id`; returns the address. Media stay where they are.

    Paths become relative to the media folder of the build, so that no local path is published.

    Raises:
        LicenceError: before anything is sent: the terms forbid it (`check_licence`), or `private` was asked for and the
            existing repository is public.
    """
    from datasets import load_from_disk
    from huggingface_hub import DatasetCard, HfApi

    dataset = load_from_disk(str(folder))
    report = json.loads(Path(folder, REPORT).read_text(encoding="utf-8"))
    check_licence(dataset, private)
    api = HfApi(token=token)
    url = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
    if private and not api.repo_info(repo_id, repo_type="dataset").private:
        raise LicenceError(f"not pushed: {repo_id} exists and is public; make it private, or name another repository")
    # In memory, because datasets would write a cache file into the saved folder.
    dataset = dataset.map(_relative, fn_kwargs={"root": report["media"]}, keep_in_memory=True, desc="Paths")
    # The card goes first: `DatasetDict.push_to_hub` adds features and files to its head.
    DatasetCard(dataset_card(report, repo_id)).push_to_hub(repo_id, token=token)
    dataset.push_to_hub(repo_id, private=private, token=token)
    return str(url)
