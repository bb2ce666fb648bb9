"""FPGM: units near the geometric median of their group go first, for others stand in for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from excise.axes import Term, leaves
from excise.calibration import columns_of
from excise.graph import AxisGraph
from excise.scores.scores import Scores, check_traced


def fpgm(model: nn.Module, graph: AxisGraph) -> Scores:
    """Sum of a unit's distances to all other units of its group.

    Args:
        model: the model that was traced. Not touched.
        graph: its axes.

    Returns:
        Per unit `sum_v ||w_u - w_v||`, where `w_u` joins every slice that removal of the unit would
        delete. Takes memory quadratic in the units of a group.

    Raises:
        InvalidScoresError: the model is not the one that was traced.

    Source:
        He et al., "Filter Pruning via Geometric Median", CVPR 2019, eq. 6. Differs: the slices of
        the whole group, not of one filter, are compared.
    """
    check_traced(model, graph)
    wanted = {id(graph.axes[g.name]): g.name for g in graph.groups}
    apart = {g.name: torch.zeros(g.size, g.size, dtype=torch.float64) for g in graph.groups}
    for name, parameter in model.named_parameters():
        for dim, term in enumerate(graph.dims(name)):
            for axis in {id(leaf): leaf for leaf in leaves(term)}.values():
                if id(axis) not in wanted:
                    continue
                slices = _slices(parameter.detach().double().cpu().movedim(dim, 0), term, axis)
                if slices is not None:
                    apart[wanted[id(axis)]] += torch.cdist(slices, slices).square()
    return Scores({name: squared.sqrt().sum(1) for name, squared in apart.items()})


def _slices(tensor: Tensor, term: Term, axis: object) -> Tensor | None:
    """What each unit owns of a tensor whose first dimension is a term, (units, numbers)."""
    leaf = next(leaf for leaf in leaves(term) if leaf is axis)
    units = columns_of(term, leaf)
    if units is None:
        return None
    place = torch.argsort(units, stable=True)[int((units < 0).sum()) :]
    if len(place) % leaf.size:  # some units own more than others
        return None
    return tensor[place].reshape(leaf.size, -1)
