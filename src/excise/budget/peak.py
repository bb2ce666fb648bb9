"""Peak activation memory as a budget: a maximum over operations, where others are sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from excise.axes import Axis, leaves, size
from excise.budget.bundle import Bundle
from excise.budget.meter import Floats, length_of, widths
from excise.graph import AxisGraph
from excise.measure.peak import lifetimes

_SHARP = 16.0  # exponent of the mean that stands for the maximum while prices are put on it


class Peak:
    """A meter of the most bytes of intermediate results that are held during one operation."""

    def __init__(self, graph: AxisGraph) -> None:
        """The model runs once, on fake tensors, to see what is held when."""
        lives = lifetimes(graph)
        self.count = 1 + max((life.last for life in lives), default=0)
        self.fixed = np.zeros(self.count)  # bytes of what no cut changes, by operation
        self.terms: list[tuple[Axis, ...]] = []
        self.spans: list[Floats] = []
        spans: dict[tuple[Axis, ...], Floats] = {}
        for life in lives:
            span = np.zeros(self.count)
            span[life.first : life.last + 1] = life.size
            term = (
                () if life.ref is None else tuple(a for t in graph.scope.get(life.ref) for a in t)
            )
            if any(leaf.pin is None for leaf in leaves(term)):
                shape = size(term)
                spans[term] = spans.get(term, np.zeros(self.count)) + span / shape
            else:
                self.fixed += span
        self.terms, self.spans = list(spans), list(spans.values())
        self.of: dict[Axis, list[int]] = {}
        for i, term in enumerate(self.terms):
            for leaf in {leaf for leaf in leaves(term) if leaf.pin is None}:
                self.of.setdefault(leaf, []).append(i)

    def total(self, kept: Mapping[Axis, int]) -> float:
        """See `Meter`."""
        lengths = {axis: np.full(1, float(n)) for axis, n in kept.items()}
        held = self.fixed.copy()
        for term, span in zip(self.terms, self.spans, strict=True):
            held += span * length_of(term, lengths)
        return float(held.max(initial=0.0))

    def along(self, kept: Mapping[Axis, int], bundle: Bundle, steps: Sequence[int]) -> Floats:
        """See `Meter`."""
        found: Floats = self._held(kept, bundle, steps).max(1, initial=0.0)
        return found

    def pull(self, kept: Mapping[Axis, int], bundle: Bundle, steps: Sequence[int]) -> Floats:
        """See `Meter`: operations just below the peak count as well, or none could be lowered."""
        held = self._held(kept, bundle, steps)
        most = max(float(held.max(initial=0.0)), 1.0)
        found: Floats = most * ((held / most) ** _SHARP).sum(1) ** (1 / _SHARP)
        return found

    def _held(self, kept: Mapping[Axis, int], bundle: Bundle, steps: Sequence[int]) -> Floats:
        """Bytes by number of steps and operation."""
        touched = {i for axis, _ in bundle.members for i in self.of.get(axis, ())}
        still = {axis: np.full(1, float(n)) for axis, n in kept.items()}
        moving = widths(kept, bundle, steps)
        held = np.tile(self.fixed, (len(steps), 1))
        for i, (term, span) in enumerate(zip(self.terms, self.spans, strict=True)):
            lengths = length_of(term, moving if i in touched else still)
            held += lengths[:, None] * span[None, :]
        return held
