"""EMER: explainable multimodal emotion reasoning (Lian et al., arXiv 2306.15401), versions 1 and 2.

Version 1 (`gt-eng.csv`, `gt-chi.csv`; 100 clips): `names, emotions, subtitles, reasons`. Version 2
(`final-EMER-reason.csv`; 332 clips): `name, chinese, english`; the words of MER2024-OV (`check-openset.csv`: `name,
openset`) belong to the same 332 clips and can be joined. No split is published: all clips are in "test", which is how
Omni-Emotion and ESVA use them. MicroEmo and AcoustEmo train on a part that they do not specify; `hf-emotion build
--split NAME=FILE` takes a list of names.
"""

from ..files import DataError, Ids, MediaFolder, Reading, find_file, read_csv, subtitles_of, word_list
from ..schema import make_row

LEAK = (
    "all EMER clips are drawn from the MER2023 train set: a model trained on MER2023, MER2024, MER2025 or OV-MERD "
    "labels has seen them, and its EMER score is not a held-out score"
)


def read_emer_v1(annotations, media: MediaFolder, language: str = "english") -> Reading:
    """Rows of EMER version 1: `label` = the MER2023 class, `description` = the reasons, in `language` (the file
    decides)."""
    path = find_file(annotations, {"english": "gt-eng.csv", "chinese": "gt-chi.csv"}[language])
    ids, rows = Ids(path), []
    for line, cells in read_csv(path, ("names", "emotions", "subtitles", "reasons")):
        name = ids.add(line, cells["names"])
        for column in ("emotions", "reasons"):
            if not cells[column].strip():
                raise DataError(path, line, f"column {column} is empty; every clip of EMER has one")
        rows.append(
            make_row(
                id=name,
                **media.take(name),
                subtitle=cells["subtitles"].strip() or None,
                label=cells["emotions"].strip(),
                labels=[cells["emotions"].strip()],
                description=cells["reasons"].strip(),
            )
        )
    return Reading({"test": rows}, [LEAK])


def read_emer_v2(annotations, media: MediaFolder, language: str = "english", subtitles=None, labels=None) -> Reading:
    """Rows of EMER version 2: `description` in `language`; `labels` and `subtitle` from their tables, if passed.

    Args: `subtitles` = transcript table (`subtitles_of`); `labels` = table `name, openset`.
    """
    path = find_file(annotations, "final-EMER-reason.csv")
    texts, words = subtitles_of(subtitles, language), openset_of(labels)
    ids, rows = Ids(path), []
    for line, cells in read_csv(path, ("name", "chinese", "english")):
        name = ids.add(line, cells["name"])
        if not cells[language].strip():
            raise DataError(path, line, f"column {language} is empty; every clip of EMER has a description")
        rows.append(
            make_row(
                id=name,
                **media.take(name),
                subtitle=texts.get(name),
                labels=words.get(name),
                description=cells[language].strip(),
            )
        )
    notes = [LEAK]
    for what, table in (("subtitle", texts if subtitles else None), ("words", words if labels else None)):
        absent = [row["id"] for row in rows if table is not None and row["id"] not in table]
        if absent:
            notes.append(f"{len(absent)} of {len(rows)} clips have no {what} in its table: {', '.join(absent)}")
    return Reading({"test": rows}, notes)


def openset_of(path) -> dict[str, list[str]]:
    """name -> open-vocabulary words, from a table `name, openset`."""
    if path is None:
        return {}
    ids = Ids(path)
    return {
        ids.add(line, cells["name"]): word_list(path, line, "openset", cells["openset"])
        for line, cells in read_csv(path, ("name", "openset"))
    }
