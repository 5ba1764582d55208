"""People's verdicts on reviewed clips, and the dataset made from a review (arXiv 2501.09502, section 3.2).

A sample of clips goes out as a sheet (CSV for spreadsheets, or tasks for Label Studio) and comes back as one sheet per
reviewer. A clip is accepted (HRE) when enough reviewers accept it and all agree on its words; otherwise a final sheet
decides. Agreement is measured by Krippendorff's alpha. Paper silent on all of this except "manual verification" of
"700 samples from each training set".
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from ..data.build import REPORT, check_output, numbers_of, save_built
from ..data.files import DataError, read_csv, read_json, write_whole
from ..data.questions import instruction_rows
from ..data.schema import FIELDS
from .stages import INTENSITIES, ReviewError, draw, read_summary, reviewed_row, write

PEOPLE = "people.json"
VERDICTS = ("accept", "edit", "reject")
COLUMNS = ("id", "source", "video", "label", "score", "labels", "intensity", "description", "verdict", "comment")
# What a reviewer may change.
EDITABLE = ("labels", "intensity", "description")
LABEL_STUDIO = """\
<View>
  <Header value="$id: labelled $label"/>
  <Video name="video" value="$video"/>
  <TextArea name="labels" toName="video" value="$labels" rows="1" maxSubmissions="1"/>
  <TextArea name="intensity" toName="video" value="$intensity" rows="1" maxSubmissions="1"/>
  <TextArea name="description" toName="video" value="$description" rows="6" maxSubmissions="1"/>
  <Choices name="verdict" toName="video" required="true">
    <Choice value="accept"/><Choice value="edit"/><Choice value="reject"/>
  </Choices>
  <TextArea name="comment" toName="video" rows="1" maxSubmissions="1"/>
</View>
"""


def _cells(folder, clip: Mapping) -> dict[str, str]:
    """A clip as a row of the sheet, all text."""
    row = reviewed_row(folder, clip)
    return {
        "id": row["id"],
        "source": row["source"] or "",
        "video": row["video"] or row["audio"],
        "label": row["label"] or "",
        "score": "" if row["score"] is None else f"{row['score']:g}",
        "labels": ", ".join(row["labels"]),
        "intensity": row["intensity"],
        "description": row["description"],
        "verdict": "",
        "comment": "",
    }


def export_sheet(
    folder: str | Path, sheet: str | Path, per_source: int = 700, seed: int = 0, from_kept: bool = False
) -> int:
    """Write the sheet that reviewers fill in, each a copy of their own.

    Args:
        folder: of a finished review. It keeps the draw: a second sheet, in another format, holds the same clips.
        sheet: `.csv`, or `.json` for Label Studio (its labelling configuration is written beside it as `.xml`).
        per_source, seed, from_kept: see `review.draw`.

    Returns:
        the number of clips in the sheet.

    Raises:
        ReviewError: another suffix; a sheet that exists; other settings than those of an earlier draw.
    """
    sheet, draw_file = Path(sheet), Path(folder) / PEOPLE
    if sheet.suffix not in (".csv", ".json"):
        raise ReviewError(f"{sheet} ends in {sheet.suffix!r}; .csv and .json (Label Studio) are accepted")
    if sheet.exists():
        raise ReviewError(f"{sheet} exists and may hold verdicts; choose a new name")
    settings = {"per_source": per_source, "seed": seed, "from_kept": from_kept}
    if draw_file.is_file():
        people = read_people(folder)
        if people["draw"] != settings:
            raise ReviewError(f"{draw_file} holds the draw {people['draw']}; remove it to draw again")
        described = {clip["id"]: clip for clip in read_summary(folder)["clips"] if clip["described"]}
        missing = [name for name in people["clips"] if name not in described]
        if missing:
            raise ReviewError(
                f"clip {missing[0]!r} was drawn and is no longer in the review; remove {draw_file} to draw again"
            )
        clips = [described[name] for name in people["clips"]]
    else:
        clips = draw(folder, per_source, seed, from_kept)
        write(draw_file, {"draw": settings, "clips": [clip["id"] for clip in clips], "verdicts": {}})
    rows = [_cells(folder, clip) for clip in clips]
    if sheet.suffix == ".csv":
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, COLUMNS)
        table.writeheader()
        table.writerows(rows)
        # Excel recognises UTF-8 by the byte-order mark.
        write_whole(sheet, text.getvalue(), "utf-8-sig")
    else:
        tasks = [{"data": {name: row[name] for name in COLUMNS if name not in ("verdict", "comment")}} for row in rows]
        write_whole(sheet, json.dumps(tasks, ensure_ascii=False, indent=1) + "\n")
        write_whole(sheet.with_suffix(".xml"), LABEL_STUDIO)
    return len(rows)


def read_people(folder: str | Path) -> dict:
    """The draw and verdicts of a review: `draw`, `clips`, `verdicts` and, once sheets are imported, the outcome.

    Raises:
        ReviewError: nothing was drawn.
    """
    path = Path(folder) / PEOPLE
    if not path.is_file():
        raise ReviewError(f"{folder} has no {PEOPLE}; write a sheet for its reviewers first (hf-emotion review export)")
    return json.loads(path.read_text(encoding="utf-8"))


def _csv_verdicts(path: Path):
    for line, cells in read_csv(path, ("id", *EDITABLE, "verdict")):
        yield line, {name: cells.get(name, "").strip() for name in ("id", *EDITABLE, "verdict", "comment")}


def _label_studio_verdicts(path: Path):
    """(number of the task, cells) of an export of Label Studio with one annotation for each task."""
    tasks = read_json(path)
    if not isinstance(tasks, list):
        raise DataError(path, None, "a list of Label Studio's tasks is expected")
    for number, task in enumerate(tasks, 1):
        try:
            cells = {name: str(task["data"][name]) for name in ("id", *EDITABLE)} | {"verdict": "", "comment": ""}
            annotations = [item for item in task.get("annotations", []) if not item.get("was_cancelled")]
            if len(annotations) > 1:
                raise DataError(
                    path, None, f"task {number} has {len(annotations)} annotations; export each reviewer's alone"
                )
            for result in annotations[0]["result"] if annotations else []:
                value = result["value"]
                cells[result["from_name"]] = "\n".join(value.get("choices") or value["text"]).strip()
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(path, None, f"task {number} is not one of the sheet's tasks ({error!r})") from None
        yield number, cells


def read_sheet(path: str | Path, drawn: Mapping[str, Mapping]) -> dict[str, dict]:
    """A reviewer's verdicts: id -> `verdict`, `labels` (list), `intensity`, `description`, `comment`.

    Args:
        path: the filled sheet.
        drawn: id -> cells of the exported sheet. Clips without a verdict are not done yet and are skipped.

    Raises:
        DataError: with file and line: a clip that was not drawn or occurs twice; an unknown verdict; a change without
            "edit", an "edit" without a change; an edit that leaves no label or no description.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(path, None, "no such file")
    verdicts, seen = {}, {}
    for line, cells in (_label_studio_verdicts if path.suffix == ".json" else _csv_verdicts)(path):
        name, verdict = cells["id"], cells["verdict"].lower()
        if name not in drawn:
            raise DataError(path, line, f"clip {name!r} is not in the draw")
        if name in seen:
            raise DataError(path, line, f"clip {name!r} is already on line {seen[name]}")
        seen[name] = line
        changed = [column for column in EDITABLE if cells[column] != drawn[name][column]]
        if not verdict:
            if changed:
                raise DataError(
                    path, line, f"clip {name!r} has a changed {changed[0]} but no verdict; 'edit' is needed"
                )
            continue
        if verdict not in VERDICTS:
            raise DataError(path, line, f"the verdict is {cells['verdict']!r}; one of {', '.join(VERDICTS)} is needed")
        if verdict == "accept" and changed:
            raise DataError(path, line, f"clip {name!r} is accepted with a changed {changed[0]}; 'edit' is needed")
        if verdict == "edit" and not changed:
            raise DataError(path, line, f"clip {name!r} is marked 'edit' but unchanged; 'accept' is needed")
        labels = list(dict.fromkeys(label.strip() for label in cells["labels"].split(",") if label.strip()))
        if verdict == "edit" and not (labels and cells["description"]):
            raise DataError(path, line, f"clip {name!r} is edited to no {'description' if labels else 'labels'}")
        if verdict == "edit" and cells["intensity"] not in INTENSITIES:
            raise DataError(
                path, line, f"the intensity is {cells['intensity']!r}; one of {', '.join(INTENSITIES)} is needed"
            )
        verdicts[name] = {
            "verdict": verdict,
            "labels": labels,
            **{column: cells[column] for column in ("intensity", "description", "comment")},
        }
    return verdicts


def alpha(answers: Sequence[Sequence]) -> float | None:
    """Krippendorff's alpha for nominal answers: 1 = full agreement, 0 = as by chance.

    Args:
        answers: for each clip the answers of those who gave one; clips with fewer than two are not compared.

    Returns:
        None where no clip has two answers, or all answers are the same (no chance agreement to compare with).
    """
    units = [list(unit) for unit in answers if len(unit) > 1]
    totals = Counter(answer for unit in units for answer in unit)
    count = sum(totals.values())
    expected = sum(n * (count - n) for n in totals.values())
    if not expected:
        return None
    # Pairs of one clip that differ, each clip weighing as many pairs as it has answers (Krippendorff 2011, eq. 1).
    observed = sum((len(unit) ** 2 - sum(n**2 for n in Counter(unit).values())) / (len(unit) - 1) for unit in units)
    return 1 - (count - 1) * observed / expected


def agreement(verdicts: Mapping[str, Mapping[str, Mapping]]) -> dict:
    """How far reviewers agree.

    Args:
        verdicts: reviewer -> clip -> what `read_sheet` gives.

    Returns:
        `clips` that two or more have judged; `same` (share of their pairs with one verdict), `alpha` of the verdicts;
        `labels`: mean share of labels that pairs who did not reject have in common (of those either gave). None where
        there is nothing to compare.
    """
    names = sorted({name for sheet in verdicts.values() for name in sheet})
    units = [[sheet[name] for sheet in verdicts.values() if name in sheet] for name in names]
    units = [unit for unit in units if len(unit) > 1]
    pairs = [pair for unit in units for pair in combinations(unit, 2)]
    both = [
        (set(one["labels"]), set(other["labels"]))
        for one, other in pairs
        if "reject" not in (one["verdict"], other["verdict"])
    ]
    same = [one["verdict"] == other["verdict"] for one, other in pairs]
    shared = [len(one & other) / len(one | other) for one, other in both]
    alpha_of_verdicts = alpha([[item["verdict"] for item in unit] for unit in units])
    return {
        "clips": len(units),
        "same": round(sum(same) / len(same), 4) if same else None,
        "alpha": None if alpha_of_verdicts is None else round(alpha_of_verdicts, 4),
        "labels": round(sum(shared) / len(shared), 4) if shared else None,
    }


def decide(verdicts: Sequence[Mapping], needed: int) -> tuple[str, Mapping | None]:
    """The outcome of the verdicts on one clip: "waiting", "rejected", "disputed", or "accepted" with its words."""
    if len(verdicts) < needed:
        return "waiting", None
    if all(item["verdict"] == "reject" for item in verdicts):
        return "rejected", None
    words = [(item["verdict"] == "reject", *(item[column] for column in EDITABLE)) for item in verdicts]
    if any(item != words[0] for item in words):
        return "disputed", None
    return "accepted", verdicts[0]


def import_sheets(
    folder: str | Path, sheets: Sequence[str | Path], final: str | Path | None = None, needed: int = 2
) -> dict:
    """Import the reviewers' sheets; the outcome of each clip is stored in the folder.

    Args:
        folder: of the review.
        sheets: one per reviewer, who is named after the file without its suffix. All of them, each time.
        final: a sheet whose verdicts override all others.
        needed: verdicts that a clip needs.

    Returns:
        `people.json`: the draw, the `verdicts`, the `agreement`, and `clips_by_outcome`: "accepted", "rejected",
        "disputed", "waiting".

    Raises:
        ReviewError, DataError: nothing was drawn, two sheets of one name, a sheet that does not fit.
    """
    if needed < 1:
        raise ReviewError(f"needed is {needed}; a whole number from 1 is accepted")
    names = [Path(sheet).stem for sheet in sheets]
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled or not sheets:
        problem = f"two sheets are named {doubled[0]!r}" if doubled else "no sheet is given"
        raise ReviewError(f"{problem}; one for each reviewer is accepted, named after them")
    people = read_people(folder)
    described = {clip["id"]: clip for clip in read_summary(folder)["clips"] if clip["described"]}
    drawn = {name: _cells(folder, described[name]) for name in people["clips"] if name in described}
    verdicts = {name: read_sheet(sheet, drawn) for name, sheet in zip(names, sheets, strict=True)}
    last = {} if final is None else read_sheet(final, drawn)
    outcomes, accepted = {}, {}
    for name in people["clips"]:
        judgements = [sheet[name] for sheet in verdicts.values() if name in sheet]
        outcomes[name], words = decide([last[name]], 1) if name in last else decide(judgements, needed)
        if words is not None:
            accepted[name] = {column: words[column] for column in EDITABLE}
    by_outcome = {
        kind: [name for name, outcome in outcomes.items() if outcome == kind]
        for kind in ("accepted", "rejected", "disputed", "waiting")
    }
    people |= {
        "verdicts": verdicts,
        "final": last,
        "needed": needed,
        "agreement": agreement(verdicts),
        "clips_by_outcome": by_outcome,
        "accepted": accepted,
    }
    write(Path(folder) / PEOPLE, people)
    return people


def make_dataset(
    folder: str | Path,
    output: str | Path | None = None,
    tasks: Sequence[str] = (),
    per_task: int = 1,
    seed: int = 0,
    media: str | Path | None = None,
):
    """The dataset of a review: the split `self_reviewed` and, once people have accepted clips, `human_reviewed`.

    Args:
        folder: of a finished review.
        output: folder to save it in, with `build.json` as `data.build` writes it, so that `build.push` publishes it
            under the same licence checks. A dataset built there before is replaced.
        tasks, per_task, seed: questions about the clips (`questions.instruction_rows`); none = the clips themselves.
        media: folder that contains the clips; published paths are relative to it.

    Returns:
        the `datasets.DatasetDict` and its report. Beside the usual fields, rows have `score` (0 to 10), `intensity`
        and `review` ("self" or "human"); each row has the `licence` of its source.

    Raises:
        ReviewError: no clip is kept or accepted.
    """
    from datasets import Dataset, DatasetDict, Value

    from ..data.schema import FEATURES

    summary = read_summary(folder)
    people = read_people(folder) if (Path(folder) / PEOPLE).is_file() else None
    set_aside = set() if people is None or people["draw"]["from_kept"] else set(people["clips"])
    accepted = {} if people is None else people.get("accepted", {})
    kept_clips = [clip for clip in summary["clips"] if clip["status"] == "kept" and clip["id"] not in set_aside]
    splits = {"self_reviewed": [reviewed_row(folder, clip) | {"review": "self"} for clip in kept_clips]}
    splits["human_reviewed"] = [
        reviewed_row(folder, clip) | accepted[clip["id"]] | {"review": "human"}
        for clip in summary["clips"]
        if clip["id"] in accepted
    ]
    splits = {name: rows for name, rows in splits.items() if rows}
    if not splits:
        raise ReviewError(f"{folder} has no clip that was kept or accepted")
    if output is not None:
        check_output(output, overwrite=True)
    classes = sorted({row["label"] for rows in splits.values() for row in rows if row["label"]})
    features = FEATURES.copy() | {"score": Value("float64"), "intensity": Value("string"), "review": Value("string")}
    clips, asked = {}, {}
    for name, rows in splits.items():
        clips[name] = numbers_of(Dataset.from_list(rows, features=type(FEATURES)(features)))
        asked[name] = [
            {**question, **{extra: row[extra] for extra in ("score", "intensity", "review")}}
            for row in rows
            for question in (
                instruction_rows({field: row[field] for field in FIELDS}, tasks, per_task, seed, options=classes)
                if tasks
                else [row]
            )
        ]
    dataset = DatasetDict(
        {name: Dataset.from_list(rows, features=type(FEATURES)(features)) for name, rows in asked.items()}
    )
    licences = sorted({row["licence"] or "not stated" for rows in splits.values() for row in rows})
    sources = sorted({row["source"] or "unnamed" for rows in splits.values() for row in rows})
    notes = [
        f"described by {', '.join(sorted(set(summary['models'].values())))}; kept with a score of "
        f"{summary['settings']['threshold']:g} or more; outcomes: "
        + ", ".join(f"{count} {status}" for status, count in summary["counts"].items())
    ]
    if len(licences) > 1:
        notes.append(f"each row has the licence of its source: {', '.join(licences)}")
    if people is not None and "agreement" in people:
        agreed = people["agreement"]
        notes.append(
            f"{len(people['verdicts'])} reviewers; on the {agreed['clips']} clips that two or more of them judged, "
            f"Krippendorff's alpha of their verdicts is {agreed['alpha']}"
        )
    report = {
        "source": "review",
        "title": f"Reviewed descriptions of {', '.join(sources)}",
        "homepage": "",
        "reference": "Yang et al., Omni-Emotion, arXiv 2501.09502 (the procedure)",
        "licence": licences[0] if len(licences) == 1 and licences != ["not stated"] else None,
        "media": None if media is None else str(Path(media).resolve()),
        "tasks": list(tasks),
        "per_task": per_task if tasks else None,
        "seed": seed,
        "classes": classes,
        "utterances": None,
        "splits": {name: {"rows": len(rows), **clips[name]} for name, rows in dataset.items()},
        "notes": notes,
    }
    if output is not None:
        save_built(dataset, report, output)
    return dataset, report


__all__ = ["REPORT", "agreement", "alpha", "export_sheet", "import_sheets", "make_dataset", "read_people", "read_sheet"]
