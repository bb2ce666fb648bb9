"""Boundaries: where a model's computation passes through a single tensor.

Between two of them lies a block, in the sense of the computation and not of any module: a residual
block with its addition, an attention or an MLP with its residual stream, a layer of a plain chain.
"""

from __future__ import annotations

from typing import NamedTuple

from excise.calibration import consumers
from excise.graph import AxisGraph
from excise.trace import Op, Ref


class Boundary(NamedTuple):
    """An operation after which one tensor is all that later operations read of the weights' work.

    Attributes:
        op: its number in the trace.
        ref: the tensor.
        out: which of the operation's outputs it is.
    """

    op: int
    ref: Ref
    out: int


def boundaries(graph: AxisGraph, *, least: int = 2) -> list[Boundary]:
    """Ends of blocks, in order of execution, the model's own outputs last.

    Args:
        graph: of the model.
        least: layers that a block has at least; a single matrix has a closed form.

    Returns:
        Each as late as possible: right before the next layer reads it. The last block may be
        smaller. What is changed in place later on is no boundary.
    """
    layers = [c.op for c in consumers(graph)]
    found: list[Boundary] = []
    places = _passages(graph)
    last = -1
    for i, boundary in enumerate(places):
        following = places[i + 1].op if i + 1 < len(places) else len(graph.trace.ops)
        next_layer = min((n for n in layers if n > boundary.op), default=-1)
        inside = sum(last < n <= boundary.op for n in layers)
        if inside >= least and -1 < next_layer <= following:
            found.append(boundary)
            last = boundary.op
    return found + _ends(graph, last)


def _passages(graph: AxisGraph) -> list[Boundary]:
    ops, info = graph.trace.ops, graph.scope.info
    heavy = {ref for ref in graph.trace.names.values() if info(ref).role == "parameter"}
    last = {ref: n for n, op in enumerate(ops) for ref in op.inputs()}
    rewritten = {ref: n for n, op in enumerate(ops) if op.name.endswith("_") for ref in op.outs}
    alive: set[Ref] = set()
    found = []
    for n, op in enumerate(ops):
        if any(ref in heavy for ref in op.inputs()):
            heavy.update(op.outs)
            alive.update(op.outs)
        alive = {ref for ref in alive if last.get(ref, -1) > n}
        if len(alive) == 1:
            (ref,) = alive
            if ref in op.outs and rewritten.get(ref, -1) <= n:
                found.append(Boundary(n, ref, op.outs.index(ref)))
    return found


def _ends(graph: AxisGraph, last: int) -> list[Boundary]:
    """Outputs that nothing reads; a cache that attention has read already is none."""
    read = {ref for op in graph.trace.ops for ref in op.inputs()}
    wanted = [ref for _, ref in graph.trace.outputs if ref not in read]
    makers: dict[Ref, tuple[int, Op]] = {}
    for n, op in enumerate(graph.trace.ops):
        makers |= {ref: (n, op) for ref in op.outs if graph.scope.info(ref).floating}
    ends = {ref: makers[ref] for ref in wanted if ref in makers}
    return [Boundary(n, ref, op.outs.index(ref)) for ref, (n, op) in ends.items() if n > last]
