"""What a plan is asked for: budgets, options and scores, refused before anything is done."""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

import torch

from excise.axes import Axis, leaves
from excise.errors import InvalidScoresError, InvalidTargetError, UnknownModuleError
from excise.graph import AxisGraph
from excise.scores.curve import Curves
from excise.scores.scores import Scores

DEFAULT_MIN_KEEP = 0.1
_RANGES = {
    "speedup": (1.0, math.inf, "how many times faster, 1 or above"),
    "latency_ms": (0.0, math.inf, "milliseconds of a forward pass, above 0"),
}
TIMED = frozenset(_RANGES)
"""Budgets that are measured on a machine, and not counted on a graph."""


def target_of(**budgets: Any) -> tuple[str, float]:
    """The one budget that was given: its name, and the fraction to keep, speed-up or milliseconds.

    Raises:
        InvalidTargetError: none or several, or a number that its name does not allow.
    """
    given = {k: v for k, v in budgets.items() if v is not None}
    if len(given) != 1:
        names = ", ".join(budgets)
        raise InvalidTargetError("budget", " and ".join(given) or "none", f"exactly one of {names}")
    ((name, target),) = given.items()
    wanted = math.nan if isinstance(target, bool) or not isinstance(target, Real) else float(target)
    least, most, allowed = _RANGES.get(name, (0.0, 1.0, "a fraction of what is kept, in (0, 1]"))
    if not (least <= wanted <= most and 0 < wanted < math.inf):
        raise InvalidTargetError(name, repr(target), allowed)
    return name, wanted


def patterns_of(protect: Any) -> tuple[str, ...]:
    """Patterns from one string or several.

    Raises:
        InvalidTargetError: something is no string.
    """
    given = (protect,) if isinstance(protect, str) else protect
    patterns = tuple(given) if isinstance(given, Iterable) else (None,)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise InvalidTargetError("protect", repr(protect), "a name or pattern, or several")
    return patterns


def check_values(graph: Any, scores: Any) -> None:
    """Refuse what is no graph, and what is neither scores nor curves.

    Raises:
        InvalidTargetError, InvalidScoresError: saying what was given.
    """
    if not isinstance(graph, AxisGraph):
        raise InvalidTargetError(
            "graph", f"a {type(graph).__name__}", "what `excise.trace(model, *inputs)` returned"
        )
    if not isinstance(scores, (Scores, Curves)):
        raise InvalidScoresError(
            "every group", f"a {type(scores).__name__} is neither excise.Scores nor curves"
        )


def check_options(round_to: int, min_keep: float) -> None:
    """Refuse options out of range.

    Raises:
        InvalidTargetError: naming the option.
    """
    if not isinstance(round_to, int) or isinstance(round_to, bool) or round_to < 1:
        raise InvalidTargetError("round_to", repr(round_to), "a whole number of units, at least 1")
    number = isinstance(min_keep, (int, float)) and not isinstance(min_keep, bool)
    if not number or not 0 < min_keep < math.inf or (min_keep >= 1 and min_keep != int(min_keep)):
        raise InvalidTargetError(
            "min_keep", repr(min_keep), "a fraction below 1, or a whole number of units"
        )


def check_scores(graph: AxisGraph, scores: Scores) -> None:
    """Refuse scores that do not cover every group with finite numbers.

    Raises:
        InvalidScoresError: naming the group.
    """
    for group in graph.groups:
        values = scores.values.get(group.name)
        if values is None:
            raise InvalidScoresError(group.name, "there are none")
        if not isinstance(values, torch.Tensor):
            raise InvalidScoresError(group.name, f"a {type(values).__name__} is no tensor")
        if tuple(values.shape) != (group.size,):
            raise InvalidScoresError(
                group.name,
                f"their shape is {tuple(values.shape)}, the group has {group.size} units",
            )
        if values.is_complex() or not torch.isfinite(values).all():
            raise InvalidScoresError(group.name, "some are NaN, infinite or complex")


def protected(graph: AxisGraph, patterns: Iterable[str]) -> set[Axis]:
    """The axes carried by tensors of the modules or parameters that match.

    Raises:
        UnknownModuleError: a pattern that matches nothing.
    """
    names = matching(graph, patterns)
    return {leaf for name in names for term in graph.dims(name) for leaf in leaves(term)}


def matching(graph: AxisGraph, patterns: Iterable[str]) -> set[str]:
    """The tensors that match, or lie in a module that does.

    Raises:
        UnknownModuleError: a pattern that matches nothing.
    """
    names = list(graph.trace.names)
    modules = {name for name, _ in graph.stage.model.named_modules() if name}
    found: set[str] = set()
    for pattern in patterns:
        inside = [n for n in names if _matches(n, pattern)]
        if not inside and not any(fnmatch.fnmatchcase(m, pattern) for m in modules):
            close = difflib.get_close_matches(pattern, [*modules, *names], n=3)
            raise UnknownModuleError(pattern, tuple(close))
        found.update(inside)
    return found


def _matches(tensor: str, pattern: str) -> bool:
    parts = tensor.split(".")
    return any(fnmatch.fnmatchcase(".".join(parts[:i]), pattern) for i in range(1, len(parts) + 1))
