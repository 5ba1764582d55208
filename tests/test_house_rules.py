"""Rules of the house that a reader cannot see by looking at one file."""

import ast
import re
from pathlib import Path

import pytest

from hf_emotion.cli import VERBS
from hf_emotion.modeling.remote_code import PIPELINE_FILES

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


def test_every_file_that_the_pipeline_imports_travels_with_a_model():
    needed, waiting = set(), ["pipeline_emotion"]
    while waiting:
        name = waiting.pop()
        needed.add(f"{name}.py")
        tree = ast.parse((PACKAGE / "answers" / f"{name}.py").read_text(encoding="utf-8"))
        siblings = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1}
        waiting += [sibling for sibling in siblings if f"{sibling}.py" not in needed]
    assert needed == {name for name in PIPELINE_FILES if name.endswith(".py")}


def test_shipped_files_have_names_of_their_own():
    names = [file.name for file in SHIPPED]
    assert len(names) == len(set(names))


def module_name(file: Path) -> str:
    return ".".join(("hf_emotion", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module_name(file): file for file in PACKAGE.rglob("*.py")}
# Rooms from top to bottom; a module imports from its own room's rank and from those below. All that is not named here
# stands between the command line and the data.
RANKS = {"cli": 4, "data": 2, "answers": 1, "modeling": 0, "processing": 0}


def imported_by(name: str) -> set[str]:
    """Modules of the package that a module imports, wherever in its file."""
    file, found = MODULES[name], set()
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *filter(None, [node.module])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found & set(MODULES) - {name, "hf_emotion"}


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_one_way(name):
    def room(module):
        return module.split(".")[1] if "." in module else ""

    for target in imported_by(name):
        assert RANKS.get(room(name), 3) >= RANKS.get(room(target), 3), f"{name} imports {target}, which is above it"
        assert room(target) == room(name) or room(name) not in ROOMS, f"{name} imports {target} of another shipped room"


def test_no_imports_go_in_a_circle():
    above: list[str] = []
    done = set()

    def visit(name):
        assert name not in above, " imports ".join([*above[above.index(name) :], name])
        if name not in done:
            above.append(name)
            for target in sorted(imported_by(name)):
                visit(target)
            done.add(above.pop())

    for name in MODULES:
        visit(name)


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith("hf_emotion.cli")])
def test_arguments_are_read_in_the_room_of_the_command_line_only(name):
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert "argparse" not in imported


def test_each_command_has_a_file_and_each_file_of_the_room_is_one_or_is_shared():
    files = {file.stem for file in (PACKAGE / "cli").glob("[!_]*.py")}
    assert files == {*VERBS, "arguments", "metric_options"}
