"""The README's tables of the papers' ablations, written from the results of the benchmarks that measured them.

    python benchmarks/ablation_tables.py            # replace the tables in README.md
    python benchmarks/ablation_tables.py --check    # exit code 1 if README.md shows other figures

A cell is the mean over seeds, the standard deviation after ±, and the number of seeds where it is not three; a dash
stands for what was not measured.
"""

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
SEEDS = 3


def results(name):
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def cell(values, scale=1):
    """`[57.1, 58.0, 57.4]` -> "57.5 ± 0.5"."""
    values = [scale * value for value in values]
    mean = sum(values) / len(values)
    text = f"{mean:.1f}"
    if len(values) > 1:
        text += f" ± {(sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5:.1f}"
    return text if len(values) == SEEDS else f"{text} ({len(values)})"


def column(summary, measure, names=None):
    """Row -> cell, from a summary of `variants.py`; `names` are those of the README, where they differ."""
    return {
        (names or {}).get(row, row): cell(measures[measure]["values"])
        for row, measures in summary.items()
        if measure in measures
    }


def microemo():
    names = {"full (gate)": "full"}
    faces = results("real_faces")["summary"]
    demo = results("microemo_demo")["summary"]
    columns = {
        "faces of CK+, landmark tower (chance 14.3)": column(faces["landmarks"], "uar", names),
        "faces of CK+, pixel tower (14.3)": column(faces.get("pixels", {}), "uar", names),
        "demo clips, named correctly (14.6)": {row: cell(cues["all"]["runs"], 100) for row, cues in demo.items()},
        "demo clips, label in the face (15.4)": {row: cell(cues["face"]["runs"], 100) for row, cues in demo.items()},
    }
    rows = ["full", "w/o utterance-aware V-QF", "w/o global-local AVE", "w/o all proposed modules"]
    return rows, columns


def acoustemo():
    names = {"global only, as many tokens": "global only with as many tokens"}
    voices = results("acoustemo_voices")["summary"]
    columns = {
        "RAVDESS, transformer on mel frames (chance 12.5)": column(
            results("acoustemo_dialogues")["table"], "uar", names
        ),
        "RAVDESS, voice tower (12.5)": column(voices["RAVDESS, cues"], "uar", names),
        "RAVDESS, random HuBERT (12.5)": column(voices.get("RAVDESS, random HuBERT", {}), "uar", names),
        "EmoDB, voice tower (14.3)": column(voices.get("EmoDB, cues", {}), "uar", names),
        "trained on RAVDESS, asked about EmoDB (16.7)": column(voices["RAVDESS, cues"], "emodb_uar", names),
        "relative to the rest of the dialogue (33.3)": column(voices["the rest"], "uar", names),
    }
    return ["full", "w/o global", "w/o utterance-aware"], columns


def omni_emotion():
    faces = results("omni_faces")["summary"]
    voice = {row: cell(runs["seeds"], 100) for row, runs in results("omni_phases")["uar"].items()}
    voice["v+a+f, clip concat"] = voice.pop("v+a+f")
    columns = {
        "label in the face alone (chance 16.7)": column(faces["face alone"], "uar"),
        "label in face and voice (16.7)": column(faces["face and voice"], "uar"),
        "demo clips, label in the voice (50)": voice,
    }
    return ["v", "v+a"], columns


def esva():
    columns = {}
    for part, rows in results("esva_recognition")["summary"].items():
        chance = "12.5" if part.startswith("real") else "16.7"
        columns[f"{part} ({'' if columns else 'chance '}{chance})"] = column(rows, "uar")
        columns[f"{part}: offsets found"] = column(rows, "within_one_step")
    return ["full", "w/o MSFE", "w/o alignment", "Emotion-LLaMA"], columns


TABLES = {table.__name__: table for table in (microemo, acoustemo, omni_emotion, esva)}


def markdown(rows, columns):
    """A table with `rows` first, then all others that a column has; a column without figures is left out."""
    columns = {title: cells for title, cells in columns.items() if cells}
    rows = list(dict.fromkeys([*rows, *(row for cells in columns.values() for row in cells)]))
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [[row, *(cells.get(row, "–") for cells in columns.values())] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_tables(text):
    """The README's text with each table between its marks replaced.

    Raises:
        ValueError: a table has no marks.
    """
    for name, table in TABLES.items():
        marks = re.compile(rf"(<!-- table {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if len(marks.findall(text)) != 1:
            raise ValueError(f"README.md has no place for the table {name}; '<!-- table {name} -->' marks one")
        body = markdown(*table())
        text = marks.sub(rf"\g<1>\n{body}\n\n\g<2>", text)
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if a table differs")
    arguments = parser.parse_args()
    before = README.read_text(encoding="utf-8")
    after = with_tables(before)
    if arguments.check:
        return int(after != before)
    README.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
