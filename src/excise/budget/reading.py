"""Read a plan back into an axis graph, which may have been made from another run of the model.

Names of axes come from the order in which tensors are met; in another mode, or with a cache filled,
a model may meet them otherwise. What a plan removes of each tensor's dimensions does not depend on
names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from excise.axes import Axis, Term, leaves, size
from excise.calibration import columns_of
from excise.graph import AxisGraph
from excise.plan import Plan, mask


class Reading(NamedTuple):
    """What a plan removes, in the axes of a graph.

    Attributes:
        kept: axis -> which units stay, for every axis that loses some.
        problem: where the graph's axes cannot say what the plan removes; empty if they can.
    """

    kept: dict[Axis, npt.NDArray[np.bool_]]
    problem: str = ""


def read_plan(graph: AxisGraph, plan: Plan) -> Reading:
    """Find the units of a graph's axes that a plan removes.

    A unit is removed if every index that belongs to it is, in every tensor that shrinks; and all
    that is removed has to follow from removed units.
    """
    wanted = [
        (cut.name, term, mask(written, plan))
        for cut in plan.tensors
        if cut.name in graph.trace.names
        for term, written in zip(graph.dims(cut.name), cut.dims, strict=True)
    ]
    stays: dict[Axis, npt.NDArray[np.bool_]] = {}
    for _, term, keep in wanted:
        for leaf in leaves(term):
            columns = columns_of(term, leaf)
            if columns is not None:
                units = columns.numpy()
                alive = stays.setdefault(leaf, np.zeros(leaf.size, dtype=bool))
                alive[units[keep & (units >= 0)]] = True
    kept = {axis: alive for axis, alive in stays.items() if not alive.all()}
    for name, term, keep in wanted:
        if not np.array_equal(kept_indices(term, kept), keep):
            return Reading(kept, f"the axes of {name} are not those that the plan was made for")
    return Reading(kept)


def kept_indices(term: Term, kept: Mapping[Axis, npt.NDArray[np.bool_]]) -> npt.NDArray[np.bool_]:
    """Which indices of a dimension stay."""
    found = torch.ones(size(term), dtype=torch.bool)
    for leaf in leaves(term):
        alive = kept.get(leaf)
        columns = columns_of(term, leaf) if alive is not None else None
        if alive is not None and columns is not None:
            found &= (columns < 0) | torch.from_numpy(alive)[columns.clamp_min(0)]
    indices: npt.NDArray[np.bool_] = found.numpy()
    return indices
