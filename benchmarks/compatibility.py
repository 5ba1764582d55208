"""Check the table of compatibility and write it: `compatibility.json` beside this and `docs/compatibility.md`.

    pip install -e ".[dev,compatibility]"
    python benchmarks/compatibility.py [--models acoustemo esva] [--rows "PEFT|trl"]

The rows are those of `tests/compatibility_rows.py`. Each model is saved, and its cells are checked in a process that
loads the folder with remote code and cannot import `hf_emotion`; rows that need the package are checked in another. A
cell is "works" or the sentence that the user reads. Cells that are not asked for keep their last outcome. A check that
fails is printed, is left out of the table, and makes the exit code 1.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import distributions, version
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results") / "compatibility.json"
PAGE = ROOT / "docs" / "compatibility.md"
MODELS = ("microemo", "acoustemo", "omni_emotion", "esva", "humanomni", "affectgpt", "starter")
PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "torchao", "optimum-quanto")
WORKS = "works"
HEAD = """# Compatibility

What users of transformers, PEFT and trl try, on every model (tiny sizes; `starter` is the model in the box). A number
stands for the sentence below the table that the user reads instead. Rows marked \N{DAGGER} use this package's collator;
all others were checked on a model's folder alone, in a process that cannot import `hf_emotion`.

Written by `python benchmarks/compatibility.py`, with {versions}, on a CPU. `make test` checks a part of the cells
again, and that this page is what the results say.
"""


def page_of(results: dict, rows) -> str:
    """The page of the results."""
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    lines = [HEAD.format(versions=versions)]
    sentences: list[str] = []
    group = None
    for row in rows:
        if row.group != group:
            group = row.group
            lines += ["", f"## {group}", "", f"| | {' | '.join(MODELS)} |", f"| --- |{' --- |' * len(MODELS)}"]
        cells = []
        for model in MODELS:
            outcome = results["cells"].get(row.name, {}).get(model, "not checked")
            if outcome not in (WORKS, "not checked"):
                if outcome not in sentences:
                    sentences.append(outcome)
                outcome = f"({sentences.index(outcome) + 1})"
            cells.append(outcome)
        mark = " \N{DAGGER}" if row.package else ""
        lines.append(f"| {row.name.replace('|', '/')}{mark} | {' | '.join(cells)} |")
    lines += ["", "## What is said instead", ""]
    lines += [f"{number}. {sentence}" for number, sentence in enumerate(sentences, 1)]
    return "\n".join(lines) + "\n"


def outcome_of(row, cell) -> str:
    """`"works"` or the sentence that `row` gives for the cell's model; what the check raises passes through."""
    return row.check(cell) or WORKS


def save(name: str, folder: Path) -> None:
    """Write a tiny model and its processor."""
    import hf_emotion
    from hf_emotion.papers import build

    if name == "starter":
        pipe = hf_emotion.starter("cpu")
        model, processor = pipe.model, pipe.processor
    else:
        model, processor = build(name)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def check(folder: Path, models: list[str], pattern: str, package: bool) -> int:
    """Check the cells of saved models, those of the last group at the end; one line of JSON for each."""
    if not package:
        sys.modules["hf_emotion"] = None  # type: ignore[assignment]
    sys.path.insert(0, str(ROOT / "tests"))
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    from compatibility_rows import ROWS, Cell

    if package:
        import hf_emotion  # noqa: F401

    rows = [row for row in ROWS if row.package == package and re.search(pattern, f"{row.group}/{row.name}")]
    slow = [row for row in rows if row.group == ROWS[-1].group]
    cells = {name: Cell(folder / name, folder / "clip.mp4", folder / f"{name}_work", not package) for name in models}
    for part in ([row for row in rows if row not in slow], slow):
        for name, cell in cells.items():
            cell.work.mkdir(exist_ok=True)
            for row in part:
                began = time.perf_counter()
                try:
                    result = {"outcome": outcome_of(row, cell)}
                except Exception as error:
                    result = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
                seconds = round(time.perf_counter() - began, 1)
                print(
                    "\nCELL " + json.dumps({"model": name, "row": row.name, "seconds": seconds, **result}), flush=True
                )
    return 0


def write(outcomes: dict[str, dict[str, str | None]], rows) -> None:
    """Put outcomes, by model and row, into the results (`None` takes a cell out), and write the page."""
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"cells": {}}
    cells = {row.name: results["cells"].get(row.name, {}) for row in rows}
    for name, found in outcomes.items():
        for row, outcome in found.items():
            cells[row][name] = outcome
    cells = {row: {name: found[name] for name in MODELS if found.get(name)} for row, found in cells.items()}
    installed = {distribution.name for distribution in distributions()}
    versions = {package: version(package) for package in PACKAGES if package in installed}
    RESULTS.write_text(
        json.dumps({"versions": versions, "cells": cells}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page_of({"versions": versions, "cells": cells}, rows), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS, help="(default: all)")
    parser.add_argument("--rows", default="", help="regular expression of GROUP/NAME (default: all rows)")
    parser.add_argument("--check", nargs=2, metavar=("FOLDER", "KIND"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.check:
        folder, kind = args.check
        return check(Path(folder), args.models, args.rows, kind == "package")

    sys.path.insert(0, str(ROOT / "tests"))
    from compatibility_rows import ROWS
    from test_cli import write_clip

    failures = 0
    with tempfile.TemporaryDirectory() as work:
        write_clip(Path(work) / "clip.mp4")
        for name in args.models:
            save(name, Path(work) / name)
        environment = {**os.environ, "HF_MODULES_CACHE": f"{work}/modules", "HF_HUB_OFFLINE": "1"}
        for kind in ("package", "folder"):
            command = [sys.executable, __file__, "--check", work, kind, "--rows", args.rows, "--models", *args.models]
            child = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            for line in child.stdout:
                if line.startswith("CELL "):
                    cell = json.loads(line.removeprefix("CELL "))
                    found = cell.get("outcome") or f"FAILED {cell['failed']}"
                    print(f"{cell['model']:12} {cell['seconds']:6.1f} s  {cell['row']}: {found}", flush=True)
                    failures += "outcome" not in cell
                    write({cell["model"]: {cell["row"]: cell.get("outcome")}}, ROWS)
            if child.wait():
                print(f"the process of the {kind} rows ended with {child.returncode}", flush=True)
                failures += 1
    print(f"{failures} cells failed; the page is {PAGE}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
