"""Imports only go down: a room may open rooms on lower floors, or to its left on its own floor.

A room is a module or a folder directly under `src/excise`. Left to right is the reading order of
FLOORS; it makes one line of all rooms, so that no two can import each other. Imports that are local
to a function or kept for type checkers count like any other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

FLOORS = (  # bottom first, see docs/decisions/0004-rooms.md and what adds to it
    ("units", "errors", "ranks"),
    ("axes",),
    ("trace", "rules", "layers", "packing"),
    ("equality", "graph", "branch", "configuration"),
    ("uniform", "plan", "calibration", "scores", "measure"),
    ("budget", "surgery", "exact", "refit", "depth", "zero", "recover"),
    ("verify",),
    ("sparse", "files", "report", "prune", "schedule", "shrink"),
    ("testing", "demo", "cli", "__main__"),
)
LINE = [room for floor in FLOORS for room in floor]
PACKAGE = "excise"
SOURCE = Path(__file__).parents[1] / "src"


def module_of(path: Path) -> str:
    """`src/excise/trace/record.py` -> `excise.trace.record`; a folder's own file is the folder."""
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_of(path): path for path in sorted((SOURCE / PACKAGE).rglob("*.py"))}


def named(node: ast.AST, importer: str, *, folder: bool) -> Iterator[str]:
    """Every dotted name that one import statement may load, longest form."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = importer.split(".") if folder else importer.split(".")[:-1]
        start = package[: len(package) - node.level + 1] if node.level else []
        base = ".".join([*start, *([node.module] if node.module else [])])
        yield from (f"{base}.{alias.name}" for alias in node.names)


def imported(text: str, importer: str, modules: set[str], *, folder: bool = False) -> set[str]:
    """The modules of this package that a file's text imports: `{'excise.axes', ...}`."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        for name in named(node, importer, folder=folder):
            if name.split(".")[0] == PACKAGE:
                found.add(name if name in modules else name.rpartition(".")[0] or name)
    return found


def imports_of(module: str) -> set[str]:
    path = FILES[module]
    folder = path.name == "__init__.py"
    return imported(path.read_text("utf-8"), module, set(FILES), folder=folder)


def complaint(importer: str, target: str) -> str | None:
    """What is wrong with one import, or None."""
    here = importer.split(".")[1]
    if target == PACKAGE:  # the front door opens every room, so only the top floor may use it
        return None if here in FLOORS[-1] else f"{importer} imports the front door"
    there = target.split(".")[1]
    if there not in LINE:
        return f"{importer} imports {target}, which has no floor"
    if there == here or LINE.index(there) < LINE.index(here):
        return None
    return f"{importer} imports {target}, which is on a higher floor or to its right"


@pytest.mark.parametrize("module", [m for m in FILES if m != PACKAGE])
def test_imports_go_down(module: str) -> None:
    assert module.split(".")[1] in LINE, f"give {module} a floor in FLOORS"
    wrong = [complaint(module, target) for target in sorted(imports_of(module))]
    assert not [text for text in wrong if text]


def test_no_import_cycle_within_a_room() -> None:
    order = {m: imports_of(m) - {m, PACKAGE} for m in FILES if m != PACKAGE}
    TopologicalSorter(order).prepare()  # raises CycleError


@pytest.mark.parametrize(
    ("importer", "text"),
    [
        ("excise.axes", "from excise.graph import AxisGraph"),
        ("excise.axes", "import excise.graph"),
        ("excise.axes", "from excise import graph"),
        ("excise.axes", "from . import graph"),
        ("excise.trace.record", "from ..graph import AxisGraph"),
        ("excise.axes", "def f():\n    from excise.graph import AxisGraph"),
        ("excise.axes", "if TYPE_CHECKING:\n    from excise.graph import AxisGraph"),
        ("excise.axes", "from excise import prune_everything"),
        ("excise.trace", "from excise.rules import table"),
    ],
)
def test_the_check_can_fail(importer: str, text: str) -> None:
    """Meta-test: every way to write an upward import is seen."""
    modules = {"excise.axes", "excise.graph", "excise.rules", "excise.rules.table"}
    (target,) = imported(text, importer, modules)
    assert complaint(importer, target)


@pytest.mark.parametrize(
    ("importer", "text"),
    [
        ("excise.graph", "from excise.axes import Axis"),
        ("excise.graph", "from torch import nn"),
        ("excise.rules.linear", "from excise.rules.table import rule"),
        ("excise.rules.linear", "from excise.trace import Op"),
        ("excise.cli.main", "import excise"),
    ],
)
def test_the_check_can_pass(importer: str, text: str) -> None:
    modules = {"excise.axes", "excise.rules.table", "excise.trace"}
    assert not any(complaint(importer, t) for t in imported(text, importer, modules))
