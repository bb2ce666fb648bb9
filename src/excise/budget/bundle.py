"""Bundles: axes that lose units in step, with their units in order of removal."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from excise.axes import Axis
from excise.graph import AxisGraph
from excise.scores.curve import Curves
from excise.scores.scores import Scores
from excise.uniform import Reach


@dataclass(frozen=True)
class Bundle:
    """Axes that lose units in step.

    Attributes:
        members: axes, with the units that each loses per step.
        order: each axis' units, the first to go first.
        costs: of each step; what the scores or curves say.
        multiples: what each axis' kept length must be a multiple of.
    """

    members: tuple[tuple[Axis, int], ...]
    order: tuple[tuple[int, ...], ...]
    costs: tuple[float, ...]
    multiples: tuple[int, ...]

    def allowed(self, round_to: int) -> list[int]:
        """The numbers of steps that leave whole multiples, ascending from 0."""
        pairs = [
            (axis.size, weight, math.lcm(round_to, multiple))
            for (axis, weight), multiple in zip(self.members, self.multiples, strict=True)
        ]
        every = range(len(self.costs) + 1)
        return [n for n in every if not n or not any((s - n * w) % m for s, w, m in pairs)]

    def kept(self, steps: int) -> dict[Axis, int]:
        """Units left of each axis after some steps."""
        return {axis: axis.size - steps * weight for axis, weight in self.members}

    def removed(self, steps: int) -> dict[str, tuple[int, ...]]:
        """The units that some steps remove, by axis name."""
        return {
            axis.name: tuple(sorted(order[: steps * weight]))
            for (axis, weight), order in zip(self.members, self.order, strict=True)
            if steps
        }


def bundles(
    graph: AxisGraph,
    scores: Scores | Curves,
    min_keep: float,
    guarded: set[Axis],
    within: Reach | None = None,
    *,
    whole: Mapping[str, int] | None = None,
) -> list[Bundle]:
    """Groups that may be cut, tied ones together, with their units in order of removal.

    Scores of a group are divided by their mean, so that groups of different scale compare, unless
    they say that they do. Curves are taken as they are, and a bundle of which one group has none is
    left out. `within` says which groups a uniform cut takes in step, and `whole` of
    which length `min_keep` is a fraction, by name, where that is not the present one.
    """
    out: list[Bundle] = []
    ties = _ties(graph) if within is None else (tie.members for tie in within.ties)
    for members in ties:
        if any(axis in guarded or axis.pin is not None for axis, _ in members):
            continue
        least = graph.scope.least
        steps = min(
            max(0, axis.size - max(1, least.get(axis, 0), _floor(axis, min_keep, whole or {})))
            // weight
            for axis, weight in members
        )
        found = (
            _of_curves(members, scores, steps)
            if isinstance(scores, Curves)
            else _of_scores(members, scores, steps)
        )
        if found is not None:
            multiples = tuple(graph.scope.multiple.get(axis, 1) for axis, _ in members)
            out.append(Bundle(members, *found, multiples))
    return out


def _ties(graph: AxisGraph) -> Iterator[tuple[tuple[Axis, int], ...]]:
    seen: set[int] = set()
    for group in graph.groups:
        members = graph.tie(group)
        if id(members[0][0]) not in seen:
            seen.add(id(members[0][0]))
            yield members


_Found = tuple[tuple[tuple[int, ...], ...], tuple[float, ...]]


def _of_scores(members: tuple[tuple[Axis, int], ...], scores: Scores, steps: int) -> _Found:
    orders, costs = [], torch.zeros(steps, dtype=torch.float64)
    for axis, weight in members:
        values = scores.values[axis.name].double()
        mean = 1.0 if scores.comparable else float(values.abs().mean()) or 1.0
        ranked, order = torch.sort(values / mean, stable=True)
        orders.append(tuple(order.tolist()))
        costs += ranked[: steps * weight].reshape(steps, weight).mean(1)
    return tuple(orders), tuple((costs / len(members)).tolist())


def _of_curves(members: tuple[tuple[Axis, int], ...], curves: Curves, steps: int) -> _Found | None:
    known = [curves.values.get(axis.name) for axis, _ in members]
    if any(curve is None for curve in known):
        return None
    found = [curve for curve in known if curve is not None]
    pairs = list(zip(found, (weight for _, weight in members), strict=True))
    steps = min([steps, *(len(curve.cost) // weight for curve, weight in pairs)])
    totals = [
        0.0,
        *(sum(curve.cost[n * weight - 1] for curve, weight in pairs) for n in range(1, steps + 1)),
    ]
    costs = tuple(b - a for a, b in itertools.pairwise(totals))
    return tuple(curve.order for curve in found), costs


def _floor(axis: Axis, least: float, whole: Mapping[str, int]) -> int:
    return int(least) if least >= 1 else math.ceil(least * whole.get(axis.name, axis.size))
