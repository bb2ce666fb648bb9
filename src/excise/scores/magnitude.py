"""Magnitude: units with small weights go first."""

from __future__ import annotations

from torch import nn

from excise.errors import InvalidTargetError
from excise.graph import AxisGraph
from excise.scores.scores import Scores, gather


def magnitude(model: nn.Module, graph: AxisGraph, *, p: float = 2) -> Scores:
    """Group-aware Lp norm: over every slice that removal of the unit would delete.

    Args:
        model: the model that was traced. Not touched.
        graph: its axes.
        p: the norm; 1 and 2 are usual.

    Returns:
        Per unit `(sum |w|^p)^(1/p)` over producers, consumers and per-channel parameters.

    Raises:
        InvalidTargetError: `p` is no positive number.
        InvalidScoresError: the model is not the one that was traced.

    Source:
        Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.1 (L1 of one
        filter). Differs: sums over the whole group, as Fang et al., "DepGraph", CVPR 2023,
        section 3.3, does.
    """
    number = isinstance(p, (int, float)) and not isinstance(p, bool)
    if not number or not 0 < p < float("inf"):
        raise InvalidTargetError(
            "p", repr(p), "the order of a norm: a number above 0, usually 1 or 2"
        )
    totals = gather(model, graph, lambda _, w: w.double().abs().pow(p))
    return Scores({name: total.pow(1 / p) for name, total in totals.items()})
