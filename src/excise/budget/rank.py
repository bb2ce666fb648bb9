"""Scores: steps off one global ranking until the budget is met."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import NamedTuple

from excise.budget.bundle import Bundle

_PASSES = 12


class Step(NamedTuple):
    """One removal: the next-worst units of a bundle, `cost` in normalised score."""

    cost: float
    bundle: int


def rank(
    ready: Sequence[Bundle], allowed: Sequence[Sequence[int]], enough: Callable[[list[int]], bool]
) -> list[int]:
    """How many steps each bundle takes: the cheapest of all first, until it is enough.

    Args:
        ready: the bundles.
        allowed: for each, the numbers of steps that may be taken; others are rounded down.
        enough: whether so many steps of each meet the budget. All of them do.
    """
    steps = sorted(Step(cost, i) for i, bundle in enumerate(ready) for cost in bundle.costs)

    def taken(chosen: list[Step]) -> list[int]:
        counts = [0] * len(ready)
        for step in chosen:
            counts[step.bundle] += 1
        return [
            may[bisect.bisect_right(may, n) - 1] for may, n in zip(allowed, counts, strict=True)
        ]

    return taken(_shortest(steps, lambda chosen: enough(taken(chosen))))


def _shortest(steps: list[Step], enough: Callable[[list[Step]], bool]) -> list[Step]:
    """The fewest steps, in order, that are enough; a last step that overshoots is passed over.

    One step of a wide bundle (a residual stream) can cost as much as many of the others. Where the
    step that crosses the line can be left out, with all later ones of its bundle, and the rest
    still suffices, the result ends closer to the budget.
    """
    best: list[Step] = []
    for _ in range(_PASSES):
        low, high = 0, len(steps)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(steps[:middle]) else (middle + 1, high)
        best = steps[:low]
        if not low:
            break
        crossing = best[-1].bundle
        without = best[:-1] + [s for s in steps[low:] if s.bundle != crossing]
        if not enough(without):
            break
        steps = without
    return best
