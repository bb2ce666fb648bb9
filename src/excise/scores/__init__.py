"""Criteria: one per file; scores (one number per unit, larger = keep) or cost curves."""

from __future__ import annotations

from collections.abc import Callable

from excise.errors import InvalidTargetError
from excise.scores.bn_scale import bn_scale
from excise.scores.curve import Curve, Curves
from excise.scores.fisher import fisher
from excise.scores.fpgm import fpgm
from excise.scores.lamp import lamp
from excise.scores.magnitude import magnitude
from excise.scores.obs import obs
from excise.scores.random import random
from excise.scores.scores import Scores
from excise.scores.taylor import taylor
from excise.scores.wanda import flap, wanda

CRITERIA: dict[str, Callable[..., Scores]] = {
    "magnitude": magnitude,
    "l1": lambda model, graph: magnitude(model, graph, p=1),
    "l2": lambda model, graph: magnitude(model, graph, p=2),
    "random": random,
    "bn_scale": bn_scale,
    "fpgm": fpgm,
    "lamp": lamp,
    "taylor": taylor,
}
"""Need the model and its graph; `taylor` reads the gradients that are in it."""

CALIBRATED: dict[str, Callable[..., Scores | Curves]] = {
    "obs": obs,
    "wanda": wanda,
    "flap": flap,
    "fisher": fisher,
}
"""Need calibration batches as well: `(model, graph, batches)`, in eval mode."""


def by_name(name: str) -> Callable[..., Scores | Curves]:
    """The criterion of that name.

    Returns:
        A function of `(model, graph)`, or of `(model, graph, batches)` for those in `CALIBRATED`.

    Raises:
        InvalidTargetError: no such criterion.
    """
    found = (CRITERIA | CALIBRATED).get(name) if isinstance(name, str) else None
    if found is None:
        names = f"one of {', '.join(CRITERIA)}; with calibration data also {', '.join(CALIBRATED)}"
        raise InvalidTargetError("criterion", repr(name), names)
    return found


__all__ = [
    "CALIBRATED",
    "CRITERIA",
    "Curve",
    "Curves",
    "Scores",
    "bn_scale",
    "by_name",
    "fisher",
    "flap",
    "fpgm",
    "lamp",
    "magnitude",
    "obs",
    "random",
    "taylor",
    "wanda",
]
