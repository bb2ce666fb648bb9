"""Rehearse a plan: does the cut model's every operation have the shape that the graph predicts?"""

from __future__ import annotations

from collections.abc import Mapping

from excise.axes import Axis, Why, leaves
from excise.budget.draft import length
from excise.graph import AxisGraph, Lengths
from excise.plan import Plan
from excise.rules.told import numbers, predicted
from excise.trace import Op, Ref, Trace


def _as_told(graph: AxisGraph, old: Op, new: Op, after: Trace, lengths: Lengths) -> bool:
    """Whether positions and groups, which no shape shows, are what the graph predicts."""
    if not old.outs or not new.args or not isinstance(new.args[0], Ref):
        return True
    given = numbers(new, after.tensors[new.args[0].number].shape)
    return given == predicted(graph.scope, old, lengths.__getitem__)


def rehearse(graph: AxisGraph, made: Plan, kept: Mapping[Axis, int]) -> list[tuple[int, Why]]:
    """Run the cut skeleton and compare every shape with the graph's prediction.

    Returns:
        Nothing if all is well; else the operations whose axes must stay, with the reason.
    """
    shapes = {cut.name: made.shape_after(cut) for cut in made.tensors}
    after, failure = graph.stage.rehearse(
        shapes, [(a.module, a.attribute, a.after) for a in made.attributes]
    )
    lengths = Lengths(kept)
    first = None
    for number, (old, new) in enumerate(zip(graph.trace.ops, after.ops, strict=False)):
        same = old.name == new.name and len(old.outs) == len(new.outs)
        if same:
            for a, b in zip(old.outs, new.outs, strict=True):
                wanted = tuple(length(lengths, term) for term in graph.scope.get(a))
                same = same and wanted == after.tensors[b.number].shape
            same = same and _as_told(graph, old, new, after, lengths)
        if not same:
            first = number
            break
    if first is None and failure is None and len(after.ops) == len(graph.trace.ops):
        return []
    if first is None:
        first = min(len(after.ops), len(graph.trace.ops) - 1)
    op = graph.trace.ops[first]
    reason = (
        f"the cut model fails here: {failure.reason}" if failure else "the code needs this length"
    )
    why = Why(reason, f"{op.where} in {op.module}")
    alike = [
        i
        for i, o in enumerate(graph.trace.ops)
        if o.name == op.name and o.where == op.where and o.where
    ]
    found = {first, *alike}
    while found and not any(_free(graph, i) for i in found):  # pinned already: look before them
        found = _before(graph, found)
    return [(i, why) for i in sorted(found)] or [(first, why)]


def _free(graph: AxisGraph, number: int) -> bool:
    """Whether an operation has any axis left that may be cut."""
    op = graph.trace.ops[number]
    terms = [term for ref in (*op.inputs(), *op.outs) for term in graph.scope.get(ref)]
    return any(leaf.pin is None for term in terms for leaf in leaves(term))


def _before(graph: AxisGraph, numbers: set[int]) -> set[int]:
    """The operations that made what these take."""
    taken = {ref for number in numbers for ref in graph.trace.ops[number].inputs()}
    first = min(numbers)
    return {i for i, op in enumerate(graph.trace.ops[:first]) if taken.intersection(op.outs)}
