"""Rehearse a plan: does the cut model's every operation have the shape that the graph predicts?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from excise.axes import Axis, Why, leaves
from excise.budget.draft import length
from excise.configuration import in_step
from excise.graph import AxisGraph, Lengths
from excise.plan import AttributeCut, Plan
from excise.rules.told import numbers, predicted
from excise.trace import Op, Ref, Trace
from excise.trace.skeleton import PER_LAYER


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


def followed(graph: AxisGraph, made: Plan, kept: Mapping[Axis, int]) -> Plan:
    """A plan with the numbers of the model's configuration that keep in step with its cut.

    What the forward pass does stays the same: a number that it makes a shape or a factor of is left
    as it was. Numbers of single layers change together or not at all.
    """
    present = {(cut.module, cut.attribute) for cut in made.attributes}
    wanted: list[tuple[Any, ...]] = []
    for found in in_step(graph, kept):
        new = [AttributeCut(*n) for n in found if (n.module, n.path) not in present]
        wanted = wanted or _done(graph, made, [])
        if not new or not wanted:
            continue
        if _done(graph, made, new) == wanted:
            return replace(made, attributes=(*made.attributes, *new))
        if not any(PER_LAYER in cut.attribute for cut in new):
            new = [cut for cut in new if _done(graph, made, [cut]) == wanted]
            if _done(graph, made, new) == wanted:
                return replace(made, attributes=(*made.attributes, *new))
    return made


def _done(graph: AxisGraph, made: Plan, more: list[AttributeCut]) -> list[tuple[Any, ...]]:
    """What the cut model does with further attributes changed; nothing if it fails."""
    shapes = {cut.name: made.shape_after(cut) for cut in made.tensors}
    edits = [(a.module, a.attribute, a.after) for a in (*made.attributes, *more)]
    after, failure = graph.stage.rehearse(shapes, edits)
    return [] if failure else [
        (op.name, op.args, op.kwargs, [after.tensors[out.number].shape for out in op.outs])
        for op in after.ops
    ]  # fmt: skip


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
