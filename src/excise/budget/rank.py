"""Scores: steps off one global ranking until the budget is met."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import NamedTuple

from excise.budget.allocate import Count
from excise.budget.bundle import Bundle

_PASSES = 12


class Step(NamedTuple):
    """One removal: the next-worst units of a bundle, `cost` in normalised score."""

    cost: float
    bundle: int


def rank(
    ready: Sequence[Bundle], allowed: Sequence[Sequence[int]], count: Count, limit: float
) -> list[int]:
    """How many steps each bundle takes: the cheapest of all first, until the budget is met.

    Args:
        ready: the bundles.
        allowed: for each, the numbers of steps that may be taken; others are rounded down.
        count: what the budget counts after so many steps of each bundle.
        limit: what it may count. All steps together meet it.
    """
    steps = sorted(Step(cost, i) for i, bundle in enumerate(ready) for cost in bundle.costs)

    def taken(chosen: list[Step]) -> list[int]:
        counts = [0] * len(ready)
        for step in chosen:
            counts[step.bundle] += 1
        return [
            may[bisect.bisect_right(may, n) - 1] for may, n in zip(allowed, counts, strict=True)
        ]

    return taken(_shortest(steps, lambda chosen: count(taken(chosen)), limit))


def _shortest(steps: list[Step], count: Callable[[list[Step]], float], limit: float) -> list[Step]:
    """The fewest steps, in order, that are enough; a last step that overshoots is passed over.

    One step of a wide bundle (a residual stream) can cost as much as many of the others. Where the
    step that crosses the line can be left out, with all later ones of its bundle, and the rest
    still suffices and ends closer to the budget, that is better.
    """
    best: list[Step] = []
    for _ in range(_PASSES):
        low, high = 0, len(steps)
        while low < high:
            middle = (low + high) // 2
            enough = count(steps[:middle]) <= limit
            low, high = (low, middle) if enough else (middle + 1, high)
        found = steps[:low]
        if best and count(found) <= count(best):
            break
        best = found
        if not low or count(best) == limit:
            break
        crossing = best[-1].bundle
        without = best[:-1] + [s for s in steps[low:] if s.bundle != crossing]
        if count(without) > limit:
            break
        steps = without
    return best
