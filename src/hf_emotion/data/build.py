"""From a source to a dataset: read, check, hear, ask, save, publish. `hf-emotion build SOURCE` is this file.

A built dataset is an ordinary `datasets.DatasetDict` with the features of `schema.FEATURES`:

    dataset, report = build("meld", "MELD/data/MELD", "MELD.Raw", output="meld", tasks=["recognition"], num_proc=4)
    load_from_disk("meld")["train"].to_iterable_dataset(num_shards=8)       # streaming
    load_from_disk("meld").map(function, num_proc=4)                        # many processes

Beside the saved dataset lies `build.json`: where it came from, what was found, missing and left out, and its numbers.
The dataset card is filled from that file and nothing else.
"""

import inspect
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..processing.utterances import UNWRITABLE
from ..processing.voice_activity import voice_spans
from .files import DataError, MediaFolder, MissingMediaError, Reading, read_lines, replacing
from .questions import TASKS, instruction_rows
from .readers import candidates, conversations, emer, mer, own, recognition
from .schema import FIELDS, make_row

MER_TERMS = "the MER EULA: academic research only, nothing may be edited, passed on or uploaded"
REPORT = "build.json"


class LicenceError(ValueError):
    """Rows whose licence forbids what was asked."""


@dataclass(frozen=True)
class Source:
    """What one dataset is: how it is read, what its terms allow, and the classes of its labels (() = open)."""

    read: Callable[..., Reading]
    title: str
    licence: str
    may_publish: bool
    classes: tuple[str, ...] = ()
    homepage: str = ""
    reference: str = ""
    # The names and places of the clips are the annotation, so one folder is both.
    by_name: bool = False


def _read_demo(annotations, media: MediaFolder) -> Reading:
    """Rows of a corpus made by `demo.make_demo`: `annotations` is its folder; each utterance's emotion is known."""
    from .demo import NEUTRAL, DemoError, read_demo

    splits, felt = {}, {}
    try:
        corpus = read_demo(annotations)
    except DemoError as error:
        raise DataError(annotations, None, str(error)) from None
    for row in corpus:
        if not Path(row["video"]).is_file():
            media.missing.append(row["id"])
            row["video"] = None
        splits.setdefault(row["split"], []).append(make_row(**{name: row[name] for name in FIELDS}))
        # A control shows nothing in any utterance; agreement between sound and picture is in none of them.
        if row["emotional_utterance"] is not None or (row["control"] and row["cue"] != "agreement"):
            felt[row["id"]] = [NEUTRAL] * len(row["utterances"])
            if row["emotional_utterance"] is not None:
                felt[row["id"]][row["emotional_utterance"]] = row["label"]
    return Reading(splits, ["every emotion is planted by a generator; nobody's feelings are in this corpus"], felt)


_mer = partial(Source, licence=MER_TERMS, may_publish=False, homepage="https://huggingface.co/MERChallenge")
_captions = partial(partial, mer.read_captions)

SOURCES = {
    "emer_v1": _mer(
        emer.read_emer_v1,
        "EMER version 1",
        homepage="https://github.com/zeroQiaoba/AffectGPT",
        reference="Lian et al., Explainable Multimodal Emotion Recognition, arXiv 2306.15401",
    ),
    "emer_v2": _mer(
        emer.read_emer_v2,
        "EMER version 2",
        homepage="https://github.com/zeroQiaoba/AffectGPT",
        reference="Lian et al., Explainable Multimodal Emotion Recognition, arXiv 2306.15401",
    ),
    "merr_coarse": _mer(
        partial(mer.read_merr, grain="coarse"),
        "MERR, coarse-grained",
        classes=mer.MERR_CLASSES,
        homepage="https://github.com/ZebangCheng/Emotion-LLaMA",
        reference="Cheng et al., Emotion-LLaMA, NeurIPS 2024",
    ),
    "merr_fine": _mer(
        partial(mer.read_merr, grain="fine"),
        "MERR, fine-grained",
        classes=mer.MERR_CLASSES,
        homepage="https://github.com/ZebangCheng/Emotion-LLaMA",
        reference="Cheng et al., Emotion-LLaMA, NeurIPS 2024",
    ),
    "mer2023": _mer(
        mer.read_mer2023,
        "MER2023",
        classes=mer.MER_CLASSES,
        reference="Lian et al., MER 2023, ACM Multimedia 2023, doi 10.1145/3581783.3612836",
    ),
    "mer2024": _mer(
        mer.read_mer2024,
        "MER2024",
        classes=mer.MER_CLASSES,
        reference="Lian et al., MER 2024, MRAC 2024, doi 10.1145/3689092.3689959",
    ),
    "mer2025": _mer(
        mer.read_mer2025,
        "MER2025 track 1",
        classes=mer.MER_CLASSES,
        reference="Lian et al., MER 2025, arXiv 2504.19423",
    ),
    "mer2026": _mer(mer.read_mer2026, "MER2026 track 1", classes=mer.MER_CLASSES),
    "mer_caption_plus": _mer(
        _captions(words="track2_train_mercaptionplus.csv", reasons="track3_train_mercaptionplus.csv"),
        "MER-Caption+",
        reference="Lian et al., AffectGPT, arXiv 2501.16566",
    ),
    "ov_merd": _mer(
        _captions(words="track2_train_ovmerd.csv", reasons="track3_train_ovmerd.csv", leak=mer.EMER_LEAK),
        "OV-MERD",
        reference="Lian et al., OV-MER, arXiv 2410.01495",
    ),
    "mer2026_human": _mer(_captions(words="track2_train_human.csv", reasons=None), "MER2026 Human-OV"),
    "mer2026_prefer": _mer(mer.read_mer2026_prefer, "MER2026 track 3, EmoPrefer", classes=("a1", "a2", "same")),
    "dfew": Source(
        recognition.read_dfew,
        "DFEW",
        "signed academic agreement: no copies for third parties",
        False,
        recognition.DFEW_CLASSES,
        "https://dfew-dataset.github.io",
        reference="Jiang et al., DFEW, ACM Multimedia 2020",
    ),
    "mafw": Source(
        recognition.read_mafw,
        "MAFW",
        "signed academic agreement: no copies for third parties",
        False,
        recognition.MAFW_CLASSES,
        "https://mafw-database.github.io/MAFW",
        reference="Liu et al., MAFW, ACM Multimedia 2022",
    ),
    "ravdess": Source(
        recognition.read_ravdess,
        "RAVDESS",
        "cc-by-nc-sa-4.0",
        True,
        recognition.RAVDESS_CLASSES,
        "https://zenodo.org/records/1188976",
        by_name=True,
        reference="Livingstone and Russo, RAVDESS, PLoS ONE 13(5): e0196391, 2018",
    ),
    "meld": Source(
        recognition.read_meld,
        "MELD",
        "gpl-3.0",
        True,
        recognition.MELD_CLASSES,
        "https://github.com/declare-lab/MELD",
        reference="Poria et al., MELD, ACL 2019, arXiv 1810.02508",
    ),
    "iemocap": Source(
        recognition.read_iemocap,
        "IEMOCAP, four classes",
        "signed release form of USC: no copies for third parties",
        False,
        recognition.IEMOCAP_CLASSES,
        "https://sail.usc.edu/iemocap",
        reference="Busso et al., IEMOCAP, Language Resources and Evaluation 42, 2008",
    ),
    "mosi": Source(
        recognition.read_mosi,
        "CMU-MOSI",
        "no public licence: ask the CMU MultiComp Lab before passing it on",
        False,
        recognition.MOSI_CLASSES,
        "https://github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK",
        reference="Zadeh et al., MOSI, arXiv 1606.06259",
    ),
    "demo": Source(_read_demo, "the demo corpus of hf_emotion", "cc0-1.0", True, by_name=True),
    "openset": Source(candidates.read_openset, "a table of open-vocabulary labels", "", True),
    "candidates": Source(candidates.read_candidates, "a table of clips to predict", "", True),
    "conversations": Source(conversations.read_conversations, "a conversation file of another trainer", "", True),
    "folder": Source(own.read_folder, "a folder of clips", "", True, by_name=True),
    "table": Source(own.read_table, "a table of clips", "", True),
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
    """Build one source. Returns (`datasets.DatasetDict`, report dict); saves both when `output` names a folder.

    Args:
        source: a name of `SOURCES`; `annotations` is its file or folder, as the reader says.
        media: folder with the clips (searched below), or None for rows without media.
        missing: a clip without any file is an "error" (all of them in one message), "drop"ped, or "keep"t.
        splits: split name -> file with one clip name a line; these replace the published splits.
        utterances: None (only those the source knows), "voice" (by voice activity) or "whole" (one over the clip), for
            clips whose utterances are not known; their subtitle becomes the text of one utterance.
        tasks, per_task, seed: make instruction rows (`questions.instruction_rows`); none = the clips themselves.
        licence: for your own data, the licence the rows carry.
        against: saved datasets (folders) or lists of clip names (files); clips that are also there are reported.
        options: what the reader of the source takes besides (`subtitles`, `labels`, `language`, `fold`, `speakers`...).
    Raises `DataError` (file, line), `MissingMediaError` (all clips), ValueError for arguments that do not fit.
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
    rows = {name: split for name, split in rows.items() if split}
    if not rows:
        raise DataError(annotations, None, "no clips are left to build a dataset from")

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
    problems = []
    if utterances:
        dataset, problems = _hear(dataset, utterances, missing, num_proc)
        notes += [f"the sound of {len(problems)} clips cannot be read: {' '.join(problems)}"] if problems else []
    notes += _shared_clips(dataset, against)
    clips = {name: numbers_of(split) for name, split in dataset.items()}
    classes = entry.classes or tuple(sorted({label for split in dataset.values() for label in split["label"] if label}))
    if tasks:
        dataset = _ask(dataset, tasks, per_task, seed, classes, reading.utterance_labels, num_proc, notes)
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
    return dataset, report


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise ValueError(f"unknown source {name!r}; the sources are {', '.join(SOURCES)}")
    return SOURCES[name]


def _check_options(source: str, entry: Source, options: Mapping) -> None:
    read = entry.read
    fixed = set(read.keywords) if isinstance(read, partial) else set()
    taken = [name for name in inspect.signature(read).parameters if name not in ("annotations", "media", *fixed)]
    unknown = sorted(set(options) - set(taken))
    if unknown:
        raise ValueError(f"{source} takes no {', '.join(unknown)}; it takes {', '.join(taken) or 'nothing besides'}")
    if options.get("language") not in (None, "english", "chinese"):
        raise ValueError(f"language is {options['language']!r}; 'english' or 'chinese' is needed")


def _resplit(
    published: Mapping[str, list[dict]], lists: Mapping[str, object], notes: list[str]
) -> dict[str, list[dict]]:
    """The published rows in the splits of the lists given; a name that no row has, or two lists have, is an error."""
    by_id, wanted = {row["id"]: row for split in published.values() for row in split}, {}
    for split, path in lists.items():
        for line, name in read_lines(path):
            name = name.strip()
            if not name:
                continue
            if name not in by_id:
                raise DataError(path, line, f"the name {name!r} is not in the annotations")
            if name in wanted:
                raise DataError(path, line, f"the name {name!r} is already in the split {wanted[name]!r}")
            wanted[name] = split
    left = len(by_id) - len(wanted)
    notes.append(
        f"splits by lists of names: {', '.join(lists)}" + (f"; {left} clips are in none of them" if left else "")
    )
    return {split: [by_id[name] for name, where in wanted.items() if where == split] for split in lists}


def _check_splits(annotations, rows: Mapping[str, list[dict]]) -> None:
    where = {}
    for split, members in rows.items():
        for row in members:
            if row["id"] in where:
                first = where[row["id"]]
                raise DataError(annotations, None, f"the clip {row['id']!r} is in {first!r} and in {split!r}: a leak")
            where[row["id"]] = split


def _listen(row: dict, how: str) -> dict:
    from hf_emotion.processing.media import MediaError, load_clip

    problem, path = None, row["audio"] or row["video"]
    if row["utterances"] is None and path is not None:
        try:
            clip = load_clip(path, frames=False)
        except (MediaError, OSError) as error:
            return {**row, "problem": str(error)}
        spans = []
        if clip.waveform is not None and len(clip.waveform):
            spans = [(0.0, len(clip.waveform) / clip.sampling_rate)]
            if how == "voice":
                spans = voice_spans(clip.waveform, clip.sampling_rate)
        # What is said is known, but not which stretch says which part of it: one utterance from first to last sound.
        if row["subtitle"] and spans:
            spans = [(spans[0][0], spans[-1][1])]
        row["utterances"] = [
            {"start": round(start, 3), "end": round(end, 3), "text": row["subtitle"], "speaker": None}
            for start, end in spans
        ]
    return {**row, "problem": problem}


def _hear(dataset, how: str, missing: str, num_proc: int | None):
    """Fill unknown utterances from the sound; a file that cannot be read is treated as `missing` says."""
    from datasets import Features, Value

    from .schema import FEATURES

    features = Features({**FEATURES, "problem": Value("string")})
    heard, problems = (
        dataset.map(_listen, fn_kwargs={"how": how}, features=features, num_proc=num_proc, desc="Sound"),
        [],
    )
    for split in heard.values():
        problems += [problem for problem in split["problem"] if problem]
    if problems and missing == "error":
        raise DataError("sound", None, f"{len(problems)} clips cannot be read: {' '.join(problems)}")
    if problems and missing == "drop":
        heard = heard.filter(lambda problem: problem is None, input_columns="problem")
    return heard.remove_columns("problem"), problems


def _questions(batch: dict, felt: Mapping, **arguments) -> dict:
    rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
    asked = [
        question
        for row in rows
        for question in instruction_rows(row, **arguments, utterance_labels=felt.get(row["id"]))
    ]
    return {name: [row[name] for row in asked] for name in FIELDS}


def _ask(dataset, tasks, per_task, seed, classes, felt, num_proc, notes):
    from .schema import FEATURES

    unknown = sorted(set(tasks) - set(TASKS))
    if unknown:
        raise ValueError(f"unknown tasks {', '.join(unknown)}; the tasks are {', '.join(TASKS)}")
    arguments = {"tasks": list(tasks), "per_task": per_task, "seed": seed, "options": list(classes), "felt": felt}
    asked = dataset.map(
        _questions, batched=True, fn_kwargs=arguments, features=FEATURES, num_proc=num_proc, desc="Questions"
    )
    for name, split in asked.items():
        silent = len(dataset[name]) - len({row_id.rsplit("#", 1)[0] for row_id in split["id"]})
        if silent:
            notes.append(f"{silent} of {len(dataset[name])} clips of {name} answer none of the tasks and have no row")
        if not len(split):
            raise ValueError(f"no clip of the split {name!r} answers any of the tasks {', '.join(tasks)}")
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
    """Names of the clips that are in both of two collections of ids (questions about a clip count as the clip)."""
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
    """Save under a temporary name beside `output`, then move it there: an interrupted build leaves no half dataset."""
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

    A private repository is refused nothing here: whether its members may see the data is for their agreement to say.
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
    """The dataset with its media paths taken from `root`: what a user does first with a dataset loaded from the Hub."""
    return dataset.map(partial(_join, root=str(root)))


def _join(row: dict, root: str) -> dict:
    return {kind: None if row[kind] is None else os.path.join(root, row[kind]) for kind in ("video", "audio")}


def push(folder, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Publish a saved build and its card as `repo_id`; returns the address. Media stay where they are.

    Paths are written relative to the media folder of the build, so no name of this machine leaves it. Raises
    `LicenceError` before anything is sent when the terms forbid it (`check_licence`), or when `private` was asked and
    the repository that is there already is public.
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
    # In memory: a cache file of datasets would land in the saved folder.
    dataset = dataset.map(_relative, fn_kwargs={"root": report["media"]}, keep_in_memory=True, desc="Paths")
    # The card goes first: `DatasetDict.push_to_hub` adds the features and files to the head it finds.
    DatasetCard(dataset_card(report, repo_id)).push_to_hub(repo_id, token=token)
    dataset.push_to_hub(repo_id, private=private, token=token)
    return str(url)
