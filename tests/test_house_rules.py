"""Rules of the house that a reader cannot see by looking at one file."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "hf_emotion"
ROOMS = ("modeling", "processing", "answers")
SHIPPED = sorted(file for room in ROOMS for file in (PACKAGE / room).glob("[!_]*.py"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_a_shipped_file_imports_only_siblings_and_packages_and_only_at_the_top(file):
    source = file.read_text(encoding="utf-8")
    tree = ast.parse(source)
    inside = [node for function in ast.walk(tree) if isinstance(function, (ast.FunctionDef, ast.ClassDef))
              for node in ast.walk(function) if isinstance(node, (ast.Import, ast.ImportFrom))]  # fmt: skip
    assert inside == [], "an import inside a function is a hard requirement for a Hub folder"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not any(alias.name.split(".")[0] == "hf_emotion" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "'from . import x' is not copied with the file"
            assert node.module != "__future__", "postponed annotations hide the config class"
            assert node.level <= 1
            if node.level == 1:
                assert "." not in node.module
                assert (file.parent / f"{node.module}.py").is_file()
            else:
                assert node.module.split(".")[0] != "hf_emotion"
    # transformers finds files to copy by a regular expression that reads comments and docstrings too.
    found = set(re.findall(r"^\s*(?:from|import)\s+\.(\S+)", source, flags=re.MULTILINE))
    assert found == {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1}


def test_shipped_files_have_names_of_their_own():
    names = [file.name for file in SHIPPED]
    assert len(names) == len(set(names))


def test_modeling_and_processing_lean_on_nobody_above_them():
    for folder in ROOMS:
        for file in (PACKAGE / folder).glob("*.py"):
            assert not re.search(r"^\s*from \.\.", file.read_text(encoding="utf-8"), flags=re.MULTILINE), file
