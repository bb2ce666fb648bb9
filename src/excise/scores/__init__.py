"""Criteria: one per file; scores (one number per unit, larger = keep) or cost curves."""

from __future__ import annotations

from collections.abc import Callable

from excise.errors import InvalidTargetError
from excise.scores.bn_scale import bn_scale
from excise.scores.curve import Curve, Curves
from excise.scores.magnitude import magnitude
from excise.scores.obs import obs
from excise.scores.random import random
from excise.scores.scores import Scores
from excise.scores.taylor import taylor

CRITERIA: dict[str, Callable[..., Scores]] = {
    "magnitude": magnitude,
    "l1": lambda model, graph: magnitude(model, graph, p=1),
    "l2": lambda model, graph: magnitude(model, graph, p=2),
    "random": random,
    "bn_scale": bn_scale,
    "taylor": taylor,
}


def by_name(name: str) -> Callable[..., Scores]:
    """The criterion of that name; call it with `(model, graph)`.

    Raises:
        InvalidTargetError: no such criterion.
    """
    if not isinstance(name, str) or name not in CRITERIA:
        names = ", ".join((*CRITERIA, "obs"))
        raise InvalidTargetError("criterion", repr(name), f"one of {names} (with calibration data)")
    return CRITERIA[name]


__all__ = [
    "CRITERIA",
    "Curve",
    "Curves",
    "Scores",
    "bn_scale",
    "by_name",
    "magnitude",
    "obs",
    "random",
    "taylor",
]
