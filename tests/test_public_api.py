"""The front door: what is promised is there, is said what it does, and says what it raises."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import excise
from excise import errors, measure, recover, scores

ROOT = Path(__file__).parents[1]
NAMES = {
    "AxisGraph", "ExciseError", "Group", "Pin", "Plan", "Pruned", "Scores", "Shrinkage", "Shrunk",
    "Sparsified", "Step", "Verdict", "errors", "explain", "follow", "load", "measure", "plan",
    "plan_units", "prune", "ranks", "recover", "remove", "rules", "save", "schedule", "scores",
    "shrink", "sparsify", "trace", "verify",
}  # fmt: skip
FUNCTIONS: dict[str, Callable[..., Any]] = {
    f"{module.__name__}.{name}": value
    for module in (excise, measure, recover, scores)
    for name in module.__all__
    if inspect.isfunction(value := getattr(module, name))
}
CLASSES = {
    name: value for name in sorted(NAMES) if isinstance(value := getattr(excise, name), type)
}


def test_the_names_behind_the_front_door() -> None:
    """A change here is a change for users: add it to CHANGELOG.md."""
    assert set(excise.__all__) == NAMES
    assert list(excise.__all__) == sorted(excise.__all__)
    assert len(set(excise.__all__)) == len(excise.__all__)


@pytest.mark.parametrize("module", [excise, measure, recover, scores, excise.files, excise.report])
def test_every_name_is_there_and_documented(module: ModuleType) -> None:
    for name in module.__all__:
        value = getattr(module, name)
        if callable(value) or isinstance(value, ModuleType):
            assert (value.__doc__ or "").strip(), f"{name} has no docstring"


def _section(doc: str, title: str) -> str:
    found = re.search(rf"^{title}:\n((?:(?:[ \t].*)?\n?)*)", inspect.cleandoc(doc), re.MULTILINE)
    return found[1] if found else ""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_says_what_it_takes(name: str) -> None:
    """Where arguments are described, all of them are."""
    function = FUNCTIONS[name]
    doc = inspect.getdoc(function) or ""
    arguments = _section(doc, "Args")
    if arguments:
        for parameter in inspect.signature(function).parameters:
            assert re.search(rf"^\s*{parameter}:", arguments, re.MULTILINE), parameter


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_says_only_what_exists_that_it_raises(name: str) -> None:
    raised = re.findall(r"\b\w+Error\b", _section(inspect.getdoc(FUNCTIONS[name]) or "", "Raises"))
    for error in raised:
        assert hasattr(errors, error), error


@pytest.mark.parametrize(
    "name",
    [
        "trace",
        "plan",
        "plan_units",
        "remove",
        "verify",
        "prune",
        "save",
        "load",
        "shrink",
        "follow",
        "schedule",
    ],
)
def test_a_step_says_what_it_raises(name: str) -> None:
    assert _section(inspect.getdoc(getattr(excise, name)) or "", "Raises").strip()


@pytest.mark.parametrize("name", CLASSES)
def test_public_methods_are_documented(name: str) -> None:
    for key, value in vars(CLASSES[name]).items():
        plain = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
        if not key.startswith("_") and inspect.isfunction(plain):
            assert (plain.__doc__ or "").strip(), f"{name}.{key}"


@pytest.mark.parametrize("name", sorted(NAMES - {"errors", "rules"}))
def test_every_name_is_annotated(name: str) -> None:
    value = getattr(excise, name)
    if inspect.isfunction(value):
        signature = inspect.signature(value)
        assert signature.return_annotation is not inspect.Signature.empty
        for parameter in signature.parameters.values():
            assert parameter.annotation is not inspect.Parameter.empty, parameter.name


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "src/excise/py.typed").exists()


def test_the_version_is_that_of_the_package() -> None:
    written = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert written is not None
    assert written[1] == excise.__version__


def test_the_sections_are_found_where_there_are_some() -> None:
    """Meta-test: the check reads docstrings, and sees what is missing."""
    doc = "Add.\n\nArgs:\n    a: one.\n\nRaises:\n    NoSuchError: never.\n"
    assert _section(doc, "Args").strip() == "a: one."
    assert "NoSuchError" in _section(doc, "Raises")
    assert not re.search(r"^\s*b:", _section(doc, "Args"), re.MULTILINE)
    assert not _section(doc, "Returns")
