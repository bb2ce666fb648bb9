"""Milliseconds as a budget: the table's rows, summed over what a cut leaves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from excise.axes import Axis, Term, flat
from excise.budget.meter import Amount, Floats, Part, Sum
from excise.graph import AxisGraph
from excise.measure.table import Profile, Row, call_ms


def clock_of(graph: AxisGraph, rows: Sequence[Row], dense_ms: float) -> Sum:
    """A meter of milliseconds of one forward pass.

    Args:
        graph: of the trace that the rows were made from; with more pins, perhaps.
        rows: every operation's profile.
        dense_ms: what the whole model takes. Of it, Python's share of each operation stays,
            whatever is cut; the rest is the rows', which are scaled to it: in a model, caches are
            colder than around an operation that is run alone.
    """
    total = sum(row.profile.dense for row in rows)
    base = min(0.5 * dense_ms, len(graph.trace.ops) * call_ms())
    scale = (dense_ms - base) / total if total else 1.0
    weights: dict[tuple[int, tuple[tuple[Axis, ...], ...]], list[Profile]] = {}
    for row in rows:
        terms = tuple(tuple(flat(term)) for term in _terms(graph, row))
        weights.setdefault((id(row.profile), terms), []).append(row.profile)
    parts = [
        Part(tuple(list(term) for term in terms), _times(scale * len(alike), alike[0]))
        for (_, terms), alike in weights.items()
    ]
    return Sum(parts, base if rows else dense_ms)


def _terms(graph: AxisGraph, row: Row) -> tuple[Term, ...]:
    """The dimensions of a row in this graph, whose axes are others if it was inferred again."""
    return tuple(graph.scope.get(ref)[dim] for ref, dim in row.place.where)


def _times(weight: float, profile: Profile) -> Amount:
    def amount(lengths: Sequence[Floats]) -> Floats:
        found: Floats = np.asarray(weight * profile(lengths), dtype=np.float64)
        return found

    return amount
