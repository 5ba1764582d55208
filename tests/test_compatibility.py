"""The table of compatibility: the quick cells are checked again, and the page is what the results say.

`python benchmarks/compatibility.py` checks every cell and writes both.
"""

import json
import sys
from pathlib import Path

import pytest
from compatibility_rows import ROWS, Cell
from test_cli import write_clip

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
from compatibility import MODELS, PAGE, RESULTS, WORKS, outcome_of, page_of, save  # noqa: E402

TABLE = json.loads(RESULTS.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """One `Cell` a model, made when it is first asked for."""
    work = tmp_path_factory.mktemp("compatibility")
    clip = write_clip(work / "clip.mp4")
    made = {}

    def cell_of(name):
        if name not in made:
            save(name, work / name)
            made[name] = Cell(work / name, clip, work)
        return made[name]

    return cell_of


@pytest.mark.parametrize("row", [row for row in ROWS if row.fast], ids=lambda row: row.check.__name__)
@pytest.mark.parametrize("name", MODELS)
def test_a_quick_cell_has_the_outcome_of_the_table(cells, name, row):
    expected = TABLE["cells"][row.name].get(name)
    if expected is None:
        pytest.skip("this cell is not in the table yet; python benchmarks/compatibility.py checks it")
    assert outcome_of(row, cells(name)) == expected


def test_every_cell_is_works_or_a_sentence():
    assert len(ROWS) >= 40
    assert list(TABLE["cells"]) == [row.name for row in ROWS]
    outcomes = [outcome for row in TABLE["cells"].values() for outcome in row.values()]
    assert all(outcome == WORKS or len(outcome.split()) > 4 for outcome in outcomes)


def test_the_table_has_a_cell_for_every_row_and_model():
    missing = sum(len(set(MODELS) - set(row)) for row in TABLE["cells"].values())
    if missing:
        pytest.skip(f"{missing} cells are not checked yet; python benchmarks/compatibility.py checks them")
    assert all(set(row) == set(MODELS) for row in TABLE["cells"].values())


def test_the_page_is_what_the_results_say():
    assert PAGE.read_text(encoding="utf-8") == page_of(TABLE, ROWS)
