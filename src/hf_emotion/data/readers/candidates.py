"""Test sets of benchmarks: tables of names without labels (MER2026's candidates) and of open-vocabulary labels."""

from pathlib import Path

from ..files import Ids, MediaFolder, Reading, find_file, read_csv, subtitles_of
from ..schema import make_row
from .emer import openset_of

PREFERENCE_QUESTION = (
    'Two descriptions of the person in this clip: a1: "{a1}" a2: "{a2}" '
    "Which one fits better what is seen and heard? Answer a1, a2, or same if they fit equally well."
)


def read_openset(annotations, media: MediaFolder, subtitles=None, language: str = "english") -> Reading:
    """Rows of a table `name, openset` (OV-MERD+ `ovlabel.csv`, MER2026 track 2), as the split test."""
    path = find_file(annotations, "ovlabel.csv") if Path(annotations).is_dir() else Path(annotations)
    texts = subtitles_of(subtitles, language)
    rows = [
        make_row(id=name, **media.take(name), subtitle=texts.get(name), labels=words)
        for name, words in openset_of(path).items()
    ]
    return Reading({"test": rows})


def read_candidates(annotations, media: MediaFolder, subtitles=None, language: str = "english") -> Reading:
    """Rows of a table of names to predict (MER2026: `track1_track2_candidate.csv`, `track3_candidate.csv`).

    A table with the columns `a1` and `a2` asks for a preference; a clip can then have several pairs, and the id is
    `name/pair number`.
    """
    path = Path(annotations)
    texts = subtitles_of(subtitles, language)
    rows, ids, pairs = [], Ids(path), {}
    for line, cells in read_csv(path, ("name",)):
        name = cells["name"].strip()
        fields = {"subtitle": texts.get(name)}
        if "a1" in cells and "a2" in cells:
            pairs[name] = pairs.get(name, 0) + 1
            fields["question"] = PREFERENCE_QUESTION.format(
                **{side: " ".join(cells[side].split()) for side in ("a1", "a2")}
            )
            rows.append(make_row(id=ids.add(line, f"{name}/{pairs[name]}"), **media.take(name), **fields))
        else:
            rows.append(make_row(id=ids.add(line, name), **media.take(name), **fields))
    return Reading({"candidates": rows})
