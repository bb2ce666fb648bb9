"""Micro cases: each operation and idiom that has its own way of writing sizes down, in a few lines.

The cases are in `cases/`, one file for each kind; the tests run them as well.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import nn

Made: TypeAlias = "tuple[nn.Module, tuple[Any, ...], dict[str, Any]]"
FILES = ("convolution", "attention", "sequence", "idiom", "form", "extension")


class Case(NamedTuple):
    """A model and its input, and the least share of its parameters that must be cuttable."""

    make: Callable[[], Made]
    least: float


CASES: dict[str, Case] = {}


def case(least: float = 0.9) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register a function that returns a model, or a model and inputs, under its own name."""

    def register(make: Callable[[], Any]) -> Callable[[], Any]:
        CASES[make.__name__] = Case(make, least)
        return make

    return register


def load() -> dict[str, Case]:
    """Every case, by name."""
    for name in FILES:
        importlib.import_module(f"suites.cases.{name}")
    return CASES


def names() -> list[str]:
    """The names of all cases."""
    return list(load())


def build(name: str) -> Made:
    """A case, seeded, in eval mode."""
    torch.manual_seed(0)
    made: Any = load()[name].make()
    model, args, kwargs = made if len(made) == 3 else (*made, {})  # noqa: PLR2004
    return model.eval(), args, kwargs
