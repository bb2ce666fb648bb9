"""A dense and a cut model side by side: which operation of the one is which of the other."""

from __future__ import annotations

from typing import NamedTuple

from excise.branch import named, shorter
from excise.errors import CalibrationError
from excise.graph import AxisGraph
from excise.plan import Plan


class Pair(NamedTuple):
    """Two models that run the same operations but for branches that are gone.

    Attributes:
        before: of the dense model.
        between: of the dense model without the branches; operation by operation as `after`.
        after: of the cut model.
        numbers: for each operation of the cut model that of the dense one; -1 for zeros that stand
            where a branch was.
    """

    before: AxisGraph
    between: AxisGraph
    after: AxisGraph
    numbers: tuple[int, ...]


def pair(before: AxisGraph, after: AxisGraph, plan: Plan) -> Pair:
    """Match the operations of a dense model and of one that was cut by a plan.

    Raises:
        CalibrationError: the cut model takes another path.
    """
    between, numbers = before, tuple(range(len(before.trace.ops)))
    if plan.branches:
        try:
            chosen = named(before, (branch.modules for branch in plan.branches))
        except KeyError as error:
            name = error.args[0][-1].module
            raise CalibrationError(f"{name} is no residual branch with this data") from error
        less = shorter(before, chosen)
        if less.problem:
            raise CalibrationError(less.problem)
        between, numbers = less.graph, less.numbers
    if [op.name for op in between.trace.ops] != [op.name for op in after.trace.ops]:
        raise CalibrationError("the cut model takes another path than the dense one")
    return Pair(before, between, after, numbers)
