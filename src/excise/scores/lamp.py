"""LAMP: magnitude, as a share of what would be left of the group."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from excise.graph import AxisGraph
from excise.scores.magnitude import magnitude
from excise.scores.scores import Scores


def lamp(model: nn.Module, graph: AxisGraph) -> Scores:
    """Squared group norm of a unit, divided by that of all units at least as large.

    The largest unit of every group scores 1, so that no group is emptied before the others; the
    numbers compare across groups as they are.

    Source:
        Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning", ICLR 2021, eq. 4.
        Differs: units of a group for weights of a layer. Made for single weights: as a criterion
        for channels it is known to rank behind plain norms.
    """
    norms = magnitude(model, graph).values
    return Scores({n: _shares(norm.square()) for n, norm in norms.items()}, comparable=True)


def _shares(energy: Tensor) -> Tensor:
    ranked, order = torch.sort(energy, stable=True)
    left = ranked.flip(0).cumsum(0).flip(0)
    out = torch.empty_like(energy)
    out[order] = ranked / left.clamp_min(torch.finfo(energy.dtype).tiny)
    return out
