"""The tree of errors: as the docstring draws it, each a record, each a small lesson."""

from __future__ import annotations

import dataclasses
import pickle
import re

import pytest

from excise import errors
from excise.errors import ExciseError, RequestError


def _drawn() -> dict[str, str]:
    """Class -> parent, as drawn in the docstring."""
    parents: dict[str, str] = {}
    above = ["ExciseError"]
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"([│ ]*)[├└]── (\w+)", line)
        if found:
            depth = len(found[1]) // 4 + 1
            above[depth:] = [found[2]]
            parents[found[2]] = above[depth - 1]
    return parents


def _real(kind: type[ExciseError] = ExciseError) -> dict[str, str]:
    found = {below.__name__: kind.__name__ for below in kind.__subclasses__()}
    for below in kind.__subclasses__():
        found |= _real(below)
    return found


LEAVES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, ExciseError) and dataclasses.is_dataclass(kind)
]


def test_the_docstring_draws_the_real_tree() -> None:
    assert _drawn() == _real()


def test_there_is_a_tree() -> None:
    assert len(_drawn()) >= 20
    assert _drawn()["StalePlanError"] == "SurgeryError"


def _made(kind: type[ExciseError]) -> ExciseError:
    values = {
        "int": 7,
        "float": 0.5,
        "tuple[str, ...]": ("a", "b"),
        "tuple[float, ...]": (0.25, 0.75),
    }
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    return kind(**{field.name: values.get(str(field.type), field.name) for field in fields})


@pytest.mark.parametrize("kind", LEAVES)
def test_an_error_says_what_and_what_to_do(kind: type[ExciseError]) -> None:
    what, do, *rest = str(_made(kind)).rsplit("\n", maxsplit=1)
    assert len(what) > 10
    assert do.startswith("  do: ")
    assert do.endswith(".")
    assert not rest
    assert (kind.__doc__ or "").endswith(".")


@pytest.mark.parametrize("kind", LEAVES)
def test_an_error_pickles_with_its_fields(kind: type[ExciseError]) -> None:
    error = _made(kind)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(again) is kind
    assert vars(again) == vars(error)
    assert str(again) == str(error)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.TraceError, RuntimeError),
        (errors.PlanError, ValueError),
        (errors.FileError, OSError),
        (errors.VerificationError, AssertionError),
    ],
)
def test_an_error_is_caught_as_what_python_calls_it(
    kind: type[ExciseError], builtin: type[Exception]
) -> None:
    assert issubclass(kind, builtin)


def test_what_others_raised_is_told_in_one_line() -> None:
    error = RequestError.of(ValueError("first line.\nsecond line"), "it failed", "here", "try")
    assert str(error) == "it failed: ValueError: first line (here).\n  do: try."
