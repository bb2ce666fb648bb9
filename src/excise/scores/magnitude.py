"""Magnitude: units with small weights go first."""

from __future__ import annotations

from torch import nn

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

    Source:
        Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, section 3.1 (L1 of one
        filter). Differs: sums over the whole group, as Fang et al., "DepGraph", CVPR 2023,
        section 3.3, does.
    """
    totals = gather(model, graph, lambda _, w: w.double().abs().pow(p))
    return Scores({name: total.pow(1 / p) for name, total in totals.items()})
