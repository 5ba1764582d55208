"""Names and shapes of tensors, and inputs, are those of 0.1.0; `benchmarks/same_as_0_1.py` also compares its logits."""

import importlib.util
import json
from pathlib import Path

import pytest
from test_modeling_common import CASES

FOLDER = Path(__file__).parent
BEFORE = json.loads((FOLDER / "same_as_0_1.json").read_text(encoding="utf-8"))


def digest(model):
    path = FOLDER.parent / "benchmarks" / "same_as_0_1.py"
    specification = importlib.util.spec_from_file_location("same_as_0_1", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.digest(model)


@pytest.mark.parametrize("name", BEFORE)
def test_a_folder_of_0_1_finds_its_tensors_and_its_inputs(name):
    case = CASES[name]
    now = digest(case.model(**case.config().defaults_of_0_1))
    before = BEFORE[name]
    assert set(before["inputs"]) <= set(now["inputs"])
    assert now["names"] == before["names"]
    assert now["tensors"] == before["tensors"]
    assert now["sha256"] == before["sha256"]
