"""Recognition sets with closed classes: DFEW, MAFW, RAVDESS, MELD, IEMOCAP (4 classes), CMU-MOSI; and voice activity.

What each is read from, and its splits as published:

* dfew: `EmoLabel_DataSplit/{train,test}(single-labeled)/set_K.csv`, 5 folds; `annotation.xlsx`, no splits.
* mafw: `split/{single,compound}/no_caption/set_K/{train,test}.txt`, 5 folds; `Labels/*.xlsx`, no splits.
* ravdess: the file names, MM-VV-EE-II-SS-RR-AA; no splits, subject-wise folds (`RAVDESS_FOLDS`).
* meld: `{train,dev,test}_sent_emo.csv`; train, dev (as validation), test.
* iemocap: `Session*/dialog/EmoEvaluation/*.txt` and transcriptions, or a MERBench npz; sessions 1-4 train, 5 test
  (MER-UniBench).
* mosi: `label.csv` (MMSA) or a MERBench npz; train, valid (as validation), test.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..files import (
    DataError,
    Ids,
    MediaFolder,
    Reading,
    choice,
    find_file,
    number,
    read_corpus,
    read_csv,
    read_lines,
    read_xlsx,
)
from ..schema import make_row

DFEW_CLASSES = ("happy", "sad", "neutral", "angry", "surprise", "disgust", "fear")
MAFW_CLASSES = (
    "anger",
    "disgust",
    "fear",
    "happiness",
    "neutral",
    "sadness",
    "surprise",
    "contempt",
    "anxiety",
    "helplessness",
    "disappointment",
)
# File -> its column with the number of the class, or the numbers of the classes.
MAFW_TABLES = {"single-set.xlsx": "single_label", "multi-set.xlsx": "multi_label"}
MELD_CLASSES = ("anger", "joy", "sadness", "neutral", "disgust", "fear", "surprise")
IEMOCAP_CLASSES = ("happy", "sad", "neutral", "anger")
IEMOCAP_CODES = {"hap": "happy", "exc": "happy", "sad": "sad", "neu": "neutral", "ang": "anger"}
IEMOCAP_OTHER_CODES = ("fru", "fea", "sur", "dis", "oth", "xxx")
MOSI_CLASSES = ("negative", "neutral", "positive")
RAVDESS_CLASSES = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
RAVDESS_STATEMENTS = ("Kids are talking by the door", "Dogs are sitting by the door")
# RAVDESS publishes no split. These subject-wise folds are the ones of Luna-Jimenez et al., "A Proposal for Multimodal
# Emotion Recognition Using Aural Transformers and Action Units on RAVDESS Dataset", Applied Sciences 12(1), 2022.
RAVDESS_FOLDS = ((2, 5, 14, 15, 16), (3, 6, 7, 13, 18), (10, 11, 12, 19, 20), (8, 17, 21, 23, 24), (1, 4, 9, 22))
RAVDESS_ACTORS = range(1, 25)

MELD_NOTE = (
    "MERBench reports two broken clips in MELD, dia125_utt3 of train and dia279_utt15 of test; each clip is cut at its "
    "utterance, so the utterance starts at 0 s, and cut times are known to be rough"
)


def _fold(path, fold: int) -> int:
    if fold not in range(1, 6):
        raise DataError(path, None, f"fold is {fold!r}; 1 to 5 is needed")
    return fold


def _whole(text: str) -> str:
    """A number as spreadsheets write it, `12.0` -> `12`; any other text unchanged."""
    return re.sub(r"(?<=\d)\.0+$", "", text.strip())


def _dfew_name(path, line: int, column: str, text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,5}", text):
        raise DataError(path, line, f"column {column} is {text!r}; a number of 1 to 5 digits is needed")
    return text.zfill(5)


def read_dfew(annotations, media: MediaFolder, fold: int = 1) -> Reading:
    """Rows of one DFEW fold (Jiang et al., 2020), or of all its clips that have a single label, from `annotation.xlsx`.

    Ids have five digits, `00012`, as the clips do; the tables write 12.
    """
    root = Path(annotations)
    root = root / "EmoLabel_DataSplit" if (root / "EmoLabel_DataSplit").is_dir() else root
    table = root / "annotation.xlsx" if (root / "annotation.xlsx").is_file() else root
    if table.suffix == ".xlsx" and table.is_file():
        return _read_dfew_votes(table, media)
    splits = {}
    for split in ("train", "test"):
        # Some releases spell it with a hyphen, others with an underscore.
        folder = next(root.glob(f"{split}(single_labeled)"), root / f"{split}(single-labeled)")
        path = find_file(folder, f"set_{_fold(root, fold)}.csv")
        ids, rows = Ids(path), []
        for line, cells in read_csv(path, ("video_name", "label")):
            name = ids.add(line, _dfew_name(path, line, "video_name", cells["video_name"].strip()))
            code = choice(path, line, "label", cells["label"].strip(), [str(n) for n in range(1, 8)])
            label = DFEW_CLASSES[int(code) - 1]
            rows.append(make_row(id=name, **media.take(name), label=label, labels=[label]))
        splits[split] = rows
    return Reading(splits, [f"fold {fold} of 5; the published result is the mean over the five folds"])


def _read_dfew_votes(path: Path, media: MediaFolder) -> Reading:
    """`annotation.xlsx`: the votes for each of `DFEW_CLASSES`, the clip, its class (0: undecided)."""
    ids, rows, undecided = Ids(path), [], 0
    for line, cells in read_xlsx(path):
        if line == 1 and not cells[0].strip().isdigit():
            continue
        if len(cells) != 9:
            raise DataError(path, line, f"{len(cells)} cells; seven numbers of votes, a clip and its class are needed")
        name = ids.add(line, _dfew_name(path, line, "clip", _whole(cells[7]).removesuffix(".mp4")))
        code = choice(path, line, "class", _whole(cells[8]), [str(n) for n in range(8)])
        if code == "0":
            undecided += 1
            continue
        label = DFEW_CLASSES[int(code) - 1]
        rows.append(make_row(id=name, **media.take(name), label=label, labels=[label]))
    notes = ["annotation.xlsx has no splits: all clips are in train"]
    if undecided:
        notes.append(f"{undecided} clips are left out: their votes do not decide on a single class")
    return Reading({"train": rows}, notes)


def read_mafw(annotations, media: MediaFolder, fold: int = 1, language: str = "english") -> Reading:
    """Rows of MAFW (Liu et al., 2022), 11 classes: one fold of its single or compound labels, or its label tables.

    `annotations` decides: `split` or `split/single` (one class a clip), `split/compound` (one class or several; several
    become `labels`, and no `label`), or the folder `Labels` with `single-set.xlsx`, `multi-set.xlsx` and
    `descriptive_text.xlsx` (classes, and descriptions in `language`; no splits), or one of the first two files.
    """
    root = Path(annotations)
    if root.suffix == ".xlsx" or any((root / name).is_file() for name in MAFW_TABLES):
        return _read_mafw_tables(root, media, language)
    for below in ("split/single", "Train & Test Set/single", "single", "."):
        if (root / below / "no_caption").is_dir():
            root = root / below / "no_caption"
            break
    splits = {}
    for split in ("train", "test"):
        path = find_file(root / f"set_{_fold(root, fold)}", f"{split}.txt")
        ids, rows = Ids(path), []
        for line, text in read_lines(path):
            if not text.strip():
                continue
            words = text.split()
            if len(words) != 2:
                raise DataError(path, line, f"{text!r} is not `clip.mp4 class`")
            name = ids.add(line, words[0].rsplit(".", 1)[0])
            labels = [choice(path, line, "class", word, MAFW_CLASSES) for word in words[1].split("_")]
            rows.append(_mafw_row(name, media, labels))
        splits[split] = rows
    return Reading(splits, [f"fold {fold} of 5; the published result is the mean over the five folds"])


def _mafw_row(name: str, media: MediaFolder, labels: list[str], label: str | None = None, **fields) -> dict:
    label = label or (labels[0] if len(labels) == 1 else None)
    return make_row(id=name, **media.take(name), label=label, labels=labels, **fields)


def _read_mafw_tables(root: Path, media: MediaFolder, language: str) -> Reading:
    tables = {name: root / name for name in MAFW_TABLES if (root / name).is_file()} if root.is_dir() else {}
    if root.is_file():
        if root.name not in MAFW_TABLES:
            raise DataError(root, None, f"not a label table of MAFW; one of {', '.join(MAFW_TABLES)} is needed")
        tables = {root.name: root}
    single, several = (
        _mafw_classes(tables[name], column) if name in tables else {} for name, column in MAFW_TABLES.items()
    )
    described, notes = {}, ["the label tables have no splits: all clips are in train"]
    path = root / "descriptive_text.xlsx"
    if root.is_dir() and path.is_file():
        ids = Ids(path)
        for line, cells in read_xlsx(path):
            if len(cells) != 3:
                raise DataError(path, line, f"{len(cells)} cells; a clip, its Chinese and its English text are needed")
            name = ids.add(line, cells[0].strip().removesuffix(".mp4"))
            described[name] = cells[1 if language == "chinese" else 2].strip() or None
    rows = []
    for name in dict.fromkeys([*single, *several]):
        label = single.get(name, [None])[0]
        labels = several.get(name) or [label]
        rows.append(_mafw_row(name, media, labels, label, description=described.get(name)))
    return Reading({"train": rows}, notes)


def _mafw_classes(path: Path, column: str) -> dict[str, list[str]]:
    """Clip -> its classes, from the first column and the column `column` (numbers from 1, separated by commas)."""
    ids, classes, at = Ids(path), {}, None
    for line, cells in read_xlsx(path):
        if at is None:
            if column not in cells:
                raise DataError(path, line, f"no column {column}; the columns are {', '.join(cells)}")
            at = cells.index(column)
            continue
        name = ids.add(line, cells[0].strip().removesuffix(".mp4"))
        codes = [_whole(code) for code in re.split("[,，]", cells[at] if at < len(cells) else "")]
        numbers = [int(choice(path, line, column, code, [str(n) for n in range(12)])) for code in codes]
        if any(numbers):  # 0: the annotators did not decide
            classes[name] = [MAFW_CLASSES[number - 1] for number in numbers if number]
    return classes


def ravdess_name(path) -> dict:
    """The seven factors of a RAVDESS file name. Raises `DataError` naming the file and the invalid factor."""
    path = Path(path)
    codes = path.stem.split("-")
    if len(codes) != 7 or not all(re.fullmatch("[0-9]{2}", code) for code in codes):
        raise DataError(path, None, "not a RAVDESS name: seven numbers of two digits, MM-VV-EE-II-SS-RR-AA, are needed")
    names = ("modality", "channel", "emotion", "intensity", "statement", "repetition", "actor")
    factors = dict(zip(names, map(int, codes), strict=True))
    for factor, high in zip(names, (3, 2, 8, 2, 2, 2, 24), strict=True):
        if not 1 <= factors[factor] <= high:
            raise DataError(path, None, f"{factor} is {factors[factor]:02d}; 01 to {high:02d} is needed")
    return factors


def read_ravdess(
    annotations, media: MediaFolder, fold: int = 1, speakers: Mapping[str, Sequence[int]] | None = None
) -> Reading:
    """Rows of a RAVDESS folder (Livingstone and Russo, 2018; speech and song, with or without picture).

    The three modalities of one recording (01 picture and sound, 02 picture, 03 sound) make one row, under the name of
    the fullest. Splits never share a speaker: `speakers` = split -> actors, else fold 1..5 of `RAVDESS_FOLDS` as
    "test" and all other actors as "train". `media` is the folder with the files; `annotations` only names it.
    """
    if speakers is None:
        test = RAVDESS_FOLDS[_fold(annotations, fold) - 1]
        speakers = {"train": [a for a in RAVDESS_ACTORS if a not in test], "test": list(test)}
        notes = [
            f"subject-wise fold {fold} of 5 (Luna-Jimenez et al., 2022): test = actors {', '.join(map(str, test))}"
        ]
    else:
        chosen = "; ".join(f"{name} {', '.join(map(str, actors))}" for name, actors in speakers.items())
        notes = [f"speaker-independent splits by actor: {chosen}"]
    split_of = {}
    for split, actors in speakers.items():
        for actor in actors:
            if actor in split_of or actor not in RAVDESS_ACTORS:
                problem = f"is in {split_of[actor]} and in {split}" if actor in split_of else "does not exist (1 to 24)"
                raise DataError(
                    annotations, None, f"speakers: actor {actor} {problem}; splits must not share a speaker"
                )
            split_of[actor] = split
    takes = {}
    for kind in ("video", "audio"):
        for stem, paths in media.files[kind].items():
            takes.setdefault(ravdess_name(paths[0])["modality"], set()).add(stem)
    by_take = {}
    for modality in (1, 3, 2):
        for stem in takes.get(modality, ()):
            by_take.setdefault(stem[3:], []).append(stem)
    if not by_take:
        raise DataError(annotations, None, "no RAVDESS recordings are in this folder")
    splits, left_out = {split: [] for split in speakers}, Counter()
    for _, stems in sorted(by_take.items(), key=lambda item: (item[0][-2:], item[0])):
        factors = ravdess_name(media.files["video"].get(stems[0], media.files["audio"].get(stems[0]))[0])
        actor, label = factors["actor"], RAVDESS_CLASSES[factors["emotion"] - 1]
        if actor not in split_of:
            left_out[actor] += 1
            continue
        splits[split_of[actor]].append(
            make_row(
                id=stems[0],
                **media.take(*stems),
                subtitle=RAVDESS_STATEMENTS[factors["statement"] - 1],
                label=label,
                labels=[label],
            )
        )
    if left_out:
        notes.append(f"{sum(left_out.values())} recordings of actors {', '.join(map(str, left_out))} are in no split")
    return Reading({split: rows for split, rows in splits.items() if rows}, notes)


def clock(path, line: int, column: str, text: str) -> float:
    """`HH:MM:SS,mmm` in seconds."""
    match = re.fullmatch(r"(\d+):([0-5]\d):([0-5]\d)[,.](\d{1,3})", text.strip())
    if not match:
        raise DataError(path, line, f"column {column} is {text!r}; a time such as 00:16:16,059 is needed")
    hours, minutes, seconds, fraction = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(fraction) / 10 ** len(fraction)


def read_meld(annotations, media: MediaFolder) -> Reading:
    """Rows of MELD (Poria et al., 2019): one utterance a clip, from the CSV files or a MERBench label archive.

    Ids carry the split, `train_dia0_utt0`, since the three sets number their dialogues alike. Media are found in the
    folders of the release (train_splits, dev_splits_complete, output_repeated_splits_test) or under MERBench's names.
    """
    root, splits, notes = Path(annotations), {}, [MELD_NOTE]

    def take(name: str) -> dict:
        split, clip = name.split("_", 1)
        folders = {"train": ("train",), "dev": ("dev", "val"), "test": ("test",)}[split]
        return media.take(*[f"{f}_{clip}" for f in folders], *[f"*{f}*/{clip}" for f in folders])

    if root.suffix == ".npz":
        for split, corpus in read_corpus(root).items():
            published = {"val": "validation"}.get(split, split)
            splits[published] = []
            for name, item in corpus.items():
                label = _class_of(root, name, item["emo"], MELD_CLASSES)
                name = name.replace("val_", "dev_", 1) if name.startswith("val_") else name
                splits[published].append(make_row(id=name, **take(name), label=label, labels=[label]))
        return Reading(splits, notes)
    without_span = []
    for split, published in (("train", "train"), ("dev", "validation"), ("test", "test")):
        path = root if root.is_file() else root / f"{split}_sent_emo.csv"
        if path.name != f"{split}_sent_emo.csv" or not path.is_file():
            continue
        ids, rows = Ids(path), []
        columns = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID", "StartTime", "EndTime")
        for line, cells in read_csv(path, columns):
            for column in ("Dialogue_ID", "Utterance_ID"):
                if not re.fullmatch("[0-9]+", cells[column]):
                    raise DataError(path, line, f"column {column} is {cells[column]!r}; a number is needed")
            name = ids.add(line, f"{split}_dia{cells['Dialogue_ID']}_utt{cells['Utterance_ID']}")
            start, end = (clock(path, line, column, cells[column]) for column in ("StartTime", "EndTime"))
            texts = cells["Utterance"].strip() or None
            span = {
                "start": 0.0,
                "end": round(end - start, 3),
                "text": texts,
                "speaker": cells["Speaker"].strip() or None,
            }
            if end <= start:
                without_span.append(name)
            label = choice(path, line, "Emotion", cells["Emotion"], MELD_CLASSES)
            rows.append(
                make_row(
                    id=name,
                    **take(name),
                    utterances=[span] if end > start else None,
                    subtitle=texts,
                    label=label,
                    labels=[label],
                )
            )
        splits[published] = rows
    if not splits:
        raise DataError(root, None, "none of train_sent_emo.csv, dev_sent_emo.csv, test_sent_emo.csv is here")
    if without_span:
        notes.append(
            f"{len(without_span)} clips do not end after their start, so their utterance is unknown: "
            + ", ".join(without_span)
        )
    return Reading(splits, notes)


def _class_of(path, name: str, index, classes: Sequence[str]) -> str:
    if isinstance(index, bool) or not isinstance(index, int | np.integer) or not 0 <= index < len(classes):
        raise DataError(path, None, f"emo of {name!r} is {index!r}; 0 to {len(classes) - 1} is needed")
    return classes[int(index)]


def read_iemocap(annotations, media: MediaFolder, test_session: int = 5) -> Reading:
    """Rows of IEMOCAP with four classes (Busso et al., 2008): happy (with excited), sad, neutral, anger.

    From the release (`Session*/dialog/EmoEvaluation/*.txt` and `transcriptions`; `valence` is V, 1 to 5) or from the
    MERBench archive `label_4way.npz`. Sessions share no speaker; `test_session` (5 in MER-UniBench) is "test".
    """
    if test_session not in range(1, 6):
        raise DataError(annotations, None, f"test_session is {test_session!r}; 1 to 5 is needed")
    root, splits, others = Path(annotations), {"train": [], "test": []}, Counter()
    notes = [f"session {test_session} is test (two speakers that no other session has); 'excited' counts as happy"]
    if root.suffix == ".npz":
        for name, item in read_corpus(root).get("whole", {}).items():
            label = _class_of(root, name, item["emo"], IEMOCAP_CLASSES)
            if not re.match("Ses0[1-5][FM]_", name):
                raise DataError(root, None, f"{name!r} is not an IEMOCAP name such as Ses01F_impro01_F000")
            split = "test" if int(name[4]) == test_session else "train"
            splits[split].append(make_row(id=name, **media.take(name), label=label, labels=[label]))
        return Reading({split: rows for split, rows in splits.items() if rows}, notes)
    tables = sorted(root.glob("Session[1-5]/dialog/EmoEvaluation/*.txt"))
    if not tables:
        raise DataError(root, None, "no Session*/dialog/EmoEvaluation/*.txt is here")
    for table in tables:
        session = int(table.parts[-4][-1])
        texts, ids = _iemocap_transcript(table.parents[1] / "transcriptions" / table.name), Ids(table)
        for line, text in read_lines(table):
            if not text.startswith("["):
                continue
            match = re.fullmatch(
                r"\[\s*([\d.]+)\s*-\s*([\d.]+)\s*\]\s+(\S+)\s+(\S+)\s+\[\s*([^,]+),\s*([^,]+),\s*([^\]]+)\]\s*", text
            )
            if not match:
                raise DataError(table, line, f"{text!r} is not `[start - end] name class [V, A, D]`")
            start, end, name, code, valence = match.groups()[:5]
            start, end = (number(table, line, side, value) for side, value in (("start", start), ("end", end)))
            ids.add(line, name)
            choice(table, line, "class", code, (*IEMOCAP_CODES, *IEMOCAP_OTHER_CODES))
            if end <= start:
                raise DataError(
                    table, line, f"the utterance runs from {start} to {end}; its end must come after its start"
                )
            if code in IEMOCAP_OTHER_CODES:
                others[code] += 1
                continue
            label = IEMOCAP_CODES[code]
            span = {
                "start": 0.0,
                "end": round(end - start, 4),
                "text": texts.get(name),
                "speaker": name.rsplit("_", 1)[1][0],
            }
            splits["test" if session == test_session else "train"].append(
                make_row(
                    id=name,
                    **media.take(name),
                    utterances=[span],
                    subtitle=texts.get(name),
                    label=label,
                    labels=[label],
                    valence=number(table, line, "V", valence, 1, 5),
                )
            )
    if others:
        counts = ", ".join(f"{code} {count}" for code, count in sorted(others.items()))
        notes.append(f"utterances of other classes are left out: {counts}")
    return Reading({split: rows for split, rows in splits.items() if rows}, notes)


def _iemocap_transcript(path: Path) -> dict[str, str]:
    texts, ids = {}, Ids(path)
    for line, text in read_lines(path):
        # Remarks without a time ("M: [LAUGHTER]") do not belong to a turn.
        if not text.startswith("Ses"):
            continue
        match = re.fullmatch(r"(\S+) \[[\d.]+\s*-\s*[\d.]+\]:\s*(.*)", text.rstrip())
        if not match:
            raise DataError(path, line, f"{text!r} is not `name [start-end]: words`")
        texts[ids.add(line, match[1])] = match[2]
    return texts


def read_mosi(annotations, media: MediaFolder) -> Reading:
    """Rows of CMU-MOSI (Zadeh et al., 2016): `valence` in [-3, 3], `label` = its sign. Ids are `video_clip`.

    From `label.csv` of MMSA (`video_id, clip_id, text, label, mode`; media `video/clip.mp4`) or a MERBench label
    archive (media `video_clip.mp4`).
    """
    root, splits = Path(annotations), {}

    def row(name, paths, valence, texts):
        label = MOSI_CLASSES[(valence > 0) - (valence < 0) + 1]
        return make_row(id=name, **paths, subtitle=texts, label=label, labels=[label], valence=valence)

    if root.suffix == ".npz":
        for split, corpus in read_corpus(root).items():
            rows = splits.setdefault({"val": "validation"}.get(split, split), [])
            for name, item in corpus.items():
                rows.append(
                    row(name, media.take(name), number(root, None, f"val of {name!r}", item.get("val"), -3, 3), None)
                )
        return Reading(splits)
    path = find_file(root, "label.csv")
    ids = Ids(path)
    for line, cells in read_csv(path, ("video_id", "clip_id", "text", "label", "mode")):
        name = ids.add(line, f"{cells['video_id']}_{cells['clip_id']}")
        valence = number(path, line, "label", cells["label"], -3, 3)
        if valence is None:
            raise DataError(path, line, "column label is empty; a number between -3 and 3 is needed")
        split = choice(path, line, "mode", cells["mode"], ("train", "valid", "test"))
        paths = media.take(name, f"{cells['video_id']}/{cells['clip_id']}")
        splits.setdefault({"valid": "validation"}.get(split, split), []).append(
            row(name, paths, valence, cells["text"].strip() or None)
        )
    return Reading(splits)
