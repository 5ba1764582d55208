"""Inputs that did harm once, and a few hundred new ones of a fixed seed."""

from pathlib import Path

import fuzz
import pytest


def harmless(cases) -> dict:
    lines = []
    result = fuzz.run(cases, workers=1, keep=None, say=lines.append)
    assert not lines, "\n".join(lines)
    return result


def test_inputs_that_did_harm_and_a_few_hundred_of_a_fixed_seed_do_none():
    kept = [{"kind": path.name.partition("-")[0], "path": str(path)} for path in sorted(fuzz.KEPT.glob("*-*"))]
    result = harmless([*kept, *({"seed": 0, "index": index} for index in range(240))])
    assert sum(result["totals"].values()) == len(kept) + 240
    assert set(result["totals"]) == {"accepted", "refused"}
    assert {kind for kind, _ in result["kinds"]} == {"clip", "media", "utterances", "table", "folder", "request"}
    assert result["peak"] < fuzz.PEAK


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("raise KeyError('x')", "traceback"),
        ("assert False", "wrong result"),
        ("import os; os._exit(9)", "crash"),
        ("import time; time.sleep(60)", "hang"),
        ("bytearray(7 * 2**30)", "memory"),
    ],
)
def test_each_kind_of_harm_is_found_and_its_input_kept(tmp_path, monkeypatch, code, outcome):
    (tmp_path / "cases.py").write_text(
        "def warm_up(folder): pass\n"
        "def make_case(seed, index, folder): return 'clip', b'input'\n"
        f"def check_case(kind, data, folder):\n    {code}\n    return 'accepted'\n"
    )
    (tmp_path / "fuzz.py").write_text(Path(fuzz.__file__).read_text())
    monkeypatch.setattr(fuzz, "HERE", tmp_path)
    monkeypatch.setattr(fuzz, "CASE_SECONDS", 5.0)
    lines = []
    result = fuzz.run([{"seed": 0, "index": 0}], keep=tmp_path / "kept", say=lines.append)
    assert result["totals"][outcome] == 1
    assert lines[0].startswith(f"{outcome}: clip")
    assert [file.read_bytes() for file in (tmp_path / "kept").iterdir()] == [b"input"]
