"""MERR (Emotion-LLaMA) and the MER challenges of 2023 to 2026, MER-Caption+ and OV-MERD.

    source            tables                                                        columns
    merr_coarse       MERR_coarse_grained.json (.txt: name, frames, class)          pseu_emotion, caption
    merr_fine         MERR_fine_grained.json (.txt likewise)                        pseu_emotion, smp_reason_caption
    mer2023           train-label.csv, test1-, test2-, test3-label.csv              name, discrete, valence
    mer2024           label-disdim.csv; words of MER-OV                             name, discrete; name, openset
    mer2025           track1_train_disdim.csv, track1_test_dis.csv                  name, discrete
    mer_caption_plus  track2_train_mercaptionplus.csv, track3_train_mercaptionplus  name, openset; name, reason
    ov_merd           track2_train_ovmerd.csv, track3_train_ovmerd.csv              name, openset; name, reason
    mer2026           track1_train.csv, track1_test.csv                             name, discrete
    mer2026_human     track2_train_human.csv                                        name, openset
    mer2026_prefer    track3_emoprefer.csv, track3_emopreferv2.csv                  name, a1, a2, preference

MER2023 to MER2026 can also be read from the label archives of MERBench (`label-6way.npz`, `track1_label_6way.npz`). The
clips of all of them come from one pool, so names can repeat between sources; `build` compares them.
"""

from pathlib import Path

from ..files import (
    DataError,
    Ids,
    MediaFolder,
    Reading,
    choice,
    find_file,
    json_line,
    number,
    read_corpus,
    read_csv,
    read_json,
    read_lines,
    subtitles_of,
)
from ..schema import make_row
from .emer import openset_of

MER_CLASSES = ("neutral", "angry", "happy", "sad", "worried", "surprise")
MERR_CLASSES = (*MER_CLASSES, "fear", "contempt", "doubt")
# MERBench writes -10 for a clip without valence.
NO_VALENCE = -10

EMER_LEAK = (
    "EMER (332 clips) and the words of MER2024-OV are drawn from the MER2023 train set: leave these names out of "
    "training before testing there"
)
POOL = (
    "the clips come from the pool of the MER challenges: compare the names with every set you test on (build --against)"
)


def _subtitle_note(rows: list[dict], texts: dict, subtitles) -> list[str]:
    absent = [row["id"] for row in rows if row["id"] not in texts]
    if subtitles is None or not absent:
        return []
    return [f"{len(absent)} of {len(rows)} clips are not in {Path(subtitles).name}: their subtitle is not known"]


def read_merr(
    annotations, media: MediaFolder, grain: str = "fine", subtitles=None, language: str = "english"
) -> Reading:
    """Rows of MERR: `label` = the pseudo label, `description` = the caption of that grain ("coarse" or "fine").

    `annotations`: the JSON, or its folder. If the `.txt` list of the same stem is next to it, its names and classes are
    used, since Emotion-LLaMA trains on them; a name without an entry in the JSON is an error.
    """
    path = find_file(annotations, f"MERR_{grain}_grained.json")
    entries, texts, notes = read_json(path), subtitles_of(subtitles, language), [POOL]
    if not isinstance(entries, dict):
        raise DataError(path, 1, "a dict of name -> entry is needed")
    listing_of, where = dict.fromkeys(entries), path
    if path.with_suffix(".txt").is_file():
        where = path.with_suffix(".txt")
        listing_of = _merr_list(where)
        different = [
            name for name, (_, label) in listing_of.items() if entries.get(name, {}).get("pseu_emotion") != label
        ]
        if different:
            notes.append(
                f"{where.name} and {path.name} have different classes for {len(different)} clips; the former is used"
            )
    caption, rows = {"coarse": "caption", "fine": "smp_reason_caption"}[grain], []
    for name, listing in listing_of.items():
        if name not in entries:
            raise DataError(where, listing[0], f"the name {name!r} has no entry in {path.name}")
        entry = entries[name]
        missing = [
            key
            for key in ("pseu_emotion", caption)
            if not isinstance(entry, dict) or not isinstance(entry.get(key), str)
        ]
        if missing or not name.strip():
            raise DataError(path, json_line(path, name), f"the entry {name!r} has no text under {', '.join(missing)}")
        label = listing[1] if listing else entry["pseu_emotion"]
        line = listing[0] if listing else json_line(path, name)
        rows.append(
            make_row(
                id=name,
                **media.take(name),
                subtitle=texts.get(name) or (entry.get("text") or None),
                label=choice(where, line, "pseu_emotion", label, MERR_CLASSES),
                labels=[label],
                description=entry[caption].strip(),
            )
        )
    return Reading({"train": rows}, notes)


def _merr_list(path: Path) -> dict[str, tuple[int, str]]:
    ids, listing_of = Ids(path), {}
    for line, text in read_lines(path):
        if not text.strip():
            continue
        words = text.split()
        if len(words) != 3 or not words[1].isdigit():
            raise DataError(path, line, f"{text!r} is not `name number-of-frames class`")
        listing_of[ids.add(line, words[0])] = (line, choice(path, line, "class", words[2], MERR_CLASSES))
    return listing_of


def _classified(path, media, texts, classes=MER_CLASSES) -> list[dict]:
    """Rows of a table `name, discrete` and, if present, `valence`."""
    ids, rows = Ids(path), []
    for line, cells in read_csv(path, ("name", "discrete")):
        name = ids.add(line, cells["name"])
        label = choice(path, line, "discrete", cells["discrete"], classes)
        valence = number(path, line, "valence", cells.get("valence"))
        rows.append(
            make_row(
                id=name,
                **media.take(name),
                subtitle=texts.get(name),
                label=label,
                labels=[label],
                valence=None if valence == NO_VALENCE else valence,
            )
        )
    return rows


def _archive(path, media, texts) -> dict[str, list[dict]]:
    """Rows of a MERBench label archive whose `emo` is a class name."""
    return {
        split: [
            make_row(
                id=name,
                **media.take(name),
                subtitle=texts.get(name),
                label=choice(path, None, f"emo of {name!r}", item["emo"], MER_CLASSES),
                labels=[item["emo"]],
                valence=None if item.get("val", NO_VALENCE) == NO_VALENCE else number(path, None, "val", item["val"]),
            )
            for name, item in corpus.items()
        ]
        for split, corpus in read_corpus(path).items()
        if corpus
    }


def _challenge(annotations, media, tables: dict[str, str], subtitles, language, notes) -> Reading:
    """A challenge set: split -> table name; an archive, one table, or a folder with some of them."""
    path, texts = Path(annotations), subtitles_of(subtitles, language)
    if path.suffix == ".npz":
        splits = _archive(path, media, texts)
    else:
        splits = {}
        for split, name in tables.items():
            if path.is_file() and path.name != name:
                continue
            table = path if path.is_file() else path / name
            if table.is_file():
                splits[split] = _classified(table, media, texts)
        if not splits:
            raise DataError(path, None, f"none of {', '.join(tables.values())} is here")
    rows = [row for split in splits.values() for row in split]
    return Reading(splits, [*notes, *_subtitle_note(rows, texts, subtitles)])


def read_mer2023(annotations, media: MediaFolder, subtitles=None, language: str = "english") -> Reading:
    """Rows of MER2023: train, test1 (MER-MULTI), test2 (MER-NOISE), test3 (MER-SEMI, no valence)."""
    tables = {split: f"{split}-label.csv" for split in ("train", "test1", "test2", "test3")}
    return _challenge(annotations, media, tables, subtitles, language, [EMER_LEAK])


def read_mer2024(annotations, media: MediaFolder, subtitles=None, language: str = "english", labels=None) -> Reading:
    """Rows of MER2024: train (`label-disdim.csv`) and, from the table `labels` (`name, openset`), the split test_ov."""
    reading = _challenge(annotations, media, {"train": "label-disdim.csv"}, subtitles, language, [EMER_LEAK])
    if labels is not None:
        texts = subtitles_of(subtitles, language)
        reading.splits["test_ov"] = [
            make_row(id=name, **media.take(name), subtitle=texts.get(name), labels=words)
            for name, words in openset_of(labels).items()
        ]
    return reading


def read_mer2025(annotations, media: MediaFolder, subtitles=None, language: str = "english") -> Reading:
    """Rows of MER2025 track 1: train and, if its labels have been released to you, test."""
    tables = {"train": "track1_train_disdim.csv", "test": "track1_test_dis.csv"}
    return _challenge(annotations, media, tables, _beside(annotations, subtitles), language, [EMER_LEAK, POOL])


def read_mer2026(annotations, media: MediaFolder, subtitles=None, language: str = "english") -> Reading:
    """Rows of MER2026 track 1: train and, if its labels have been released to you, test."""
    tables = {"train": "track1_train.csv", "test": "track1_test.csv"}
    return _challenge(annotations, media, tables, _beside(annotations, subtitles), language, [EMER_LEAK, POOL])


def _beside(annotations, subtitles):
    """The transcripts of the release, `subtitle_chieng.csv`, unless another table was named."""
    path = Path(annotations, "subtitle_chieng.csv")
    return path if subtitles is None and path.is_file() else subtitles


def read_captions(
    annotations,
    media: MediaFolder,
    words: str,
    reasons: str | None,
    subtitles=None,
    language: str = "english",
    leak=POOL,
) -> Reading:
    """Rows of one MER2025/2026 track 2 table (`words`: `name, openset`), with the descriptions of track 3 (`reasons`:
    `name, reason`) if that table is next to it; then a name without a description is an error.

    An empty list stays empty; the official loader writes "neutral" there, which its own metric then drops.
    """
    path = find_file(annotations, words)
    subtitles = _beside(path.parent, subtitles)
    texts, described, notes = subtitles_of(subtitles, language), None, [leak]
    if reasons and (path.parent / reasons).is_file():
        table, ids = path.parent / reasons, Ids(path.parent / reasons)
        described = {
            ids.add(n, cells["name"]): cells["reason"].strip() for n, cells in read_csv(table, ("name", "reason"))
        }
    elif reasons:
        notes.append(f"{reasons} is not next to {path.name}: the rows have no description")
    labels = openset_of(path)
    absent = [name for name in labels if described is not None and not described.get(name)]
    if absent:
        raise DataError(
            path.parent / reasons, None, f"{len(absent)} names of {path.name} have no reason: {', '.join(absent)}"
        )
    rows = [
        make_row(
            id=name,
            **media.take(name),
            subtitle=texts.get(name),
            labels=words,
            description=described[name] if described else None,
        )
        for name, words in labels.items()
    ]
    empty = sum(not row["labels"] for row in rows)
    if empty:
        notes.append(f"{empty} clips have an empty list of words; it is kept empty (MER2025 trains on 'neutral' there)")
    return Reading({"train": rows}, [*notes, *_subtitle_note(rows, texts, subtitles)])


def read_mer2026_prefer(annotations, media: MediaFolder, subtitles=None, language: str = "english") -> Reading:
    """Rows of MER2026 track 3 (MER-Prefer): two descriptions as the question, `a1`, `a2` or `same` as answer and label.

    A clip can have several pairs, so the id is `name/pair number`; a repeated pair is an error. Splits: emoprefer
    (majority of three annotators) and emopreferv2 (one annotator), depending on which tables are present.
    """
    path = Path(annotations)
    tables = [path] if path.is_file() else sorted(path.glob("track3_emoprefer*.csv"))
    if not tables:
        raise DataError(path, None, "no track3_emoprefer*.csv is here")
    texts = subtitles_of(_beside(path if path.is_dir() else path.parent, subtitles), language)
    splits = {}
    for table in tables:
        lines, count, rows = {}, {}, []
        for line, cells in read_csv(table, ("name", "a1", "a2", "preference")):
            pair = (cells["name"], cells["a1"], cells["a2"])
            if pair in lines:
                raise DataError(table, line, f"this pair of {pair[0]!r} is already on line {lines[pair]}")
            lines[pair] = line
            name = cells["name"]
            count[name] = count.get(name, 0) + 1
            first, second = (" ".join(cells[side].split()) for side in ("a1", "a2"))
            answer = choice(table, line, "preference", cells["preference"], ("a1", "a2", "same"))
            rows.append(
                make_row(
                    id=f"{name}/{count[name]}",
                    **media.take(name),
                    subtitle=texts.get(name),
                    question=f'Two descriptions of the person in this clip: a1: "{first}" a2: "{second}" '
                    "Which one fits better what is seen and heard? Answer a1, a2, or same if they fit equally well.",
                    answer=answer,
                    label=answer,
                )
            )
        splits[table.stem.removeprefix("track3_")] = rows
    return Reading(splits, [POOL])
