"""Curves: the steps of least total cost within the budget, by a price on what is kept.

Costs add up over bundles, what a budget counts does not: a layer's multiply-adds are a product of
two widths. With a price on each unit of the budget, every bundle is set in turn to its cheapest
number of steps while the others stand still; the price is then found by bisection.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from excise.budget.bundle import Bundle

_SWEEPS = 12
_BISECTIONS = 40
_CHEAPEST, _DEAREST = 1e-12, 1e12
_GIVEN_BACK = 400  # steps, one by one, once the price is found

Count = Callable[[list[int]], int]


def allocate(
    ready: Sequence[Bundle], allowed: Sequence[Sequence[int]], count: Count, limit: float
) -> list[int]:
    """How many steps each bundle takes.

    Args:
        ready: the bundles, their costs in one unit.
        allowed: for each, the numbers of steps that may be taken.
        count: what the budget counts after so many steps of each bundle; at most quadratic in the
            steps of any one of them.
        limit: what it may count. All steps together meet it.

    Source:
        Lagrangian relaxation of the multiple-choice knapsack: Everett, "Generalized Lagrange
        Multiplier Method", Operations Research 11(3), 1963. Differs: a step may change what other
        steps save, so that each price is solved by coordinate descent.
    """
    totals = [np.concatenate([[0.0], np.cumsum(bundle.costs)]) for bundle in ready]
    costs = [total[list(may)] for total, may in zip(totals, allowed, strict=True)]
    full = max(1, count([0] * len(ready)))
    low, high = _CHEAPEST, _DEAREST
    best = [may[-1] for may in allowed]
    for _ in range(_BISECTIONS):
        price = (low * high) ** 0.5
        steps = _settled(allowed, costs, count, price / full)
        if count(steps) <= limit:
            high, best = price, steps
        else:
            low = price
    return _given_back(best, allowed, totals, count, limit)


def _settled(
    allowed: Sequence[Sequence[int]],
    costs: Sequence[npt.NDArray[np.float64]],
    count: Count,
    price: float,
) -> list[int]:
    """Every bundle at its cheapest, given the others, for one price."""
    steps = [0] * len(allowed)
    for _ in range(_SWEEPS):
        before = list(steps)
        for i, may in enumerate(allowed):
            kept = _counts(steps, i, may, count)
            steps[i] = may[int(np.argmin(costs[i] + price * kept))]
        if steps == before:
            break
    return steps


def _counts(
    steps: list[int], place: int, may: Sequence[int], count: Count
) -> npt.NDArray[np.float64]:
    """What is counted for each allowed number of steps of one bundle: a quadratic through three."""
    marks = sorted({may[0], may[len(may) // 2], may[-1]})
    seen = [float(count([*steps[:place], mark, *steps[place + 1 :]])) for mark in marks]
    if len(marks) == len(may):
        return np.array([seen[marks.index(n)] for n in may])
    x = np.array(may, dtype=float)
    out = np.zeros(len(may))
    for i, mark in enumerate(marks):  # Lagrange's form
        term = np.full(len(may), seen[i])
        for other in (m for m in marks if m != mark):
            term *= (x - other) / (mark - other)
        out += term
    return out


def _given_back(
    steps: list[int],
    allowed: Sequence[Sequence[int]],
    totals: Sequence[npt.NDArray[np.float64]],
    count: Count,
    limit: float,
) -> list[int]:
    """Take steps back while the budget allows it, the one that spares most for its price first."""
    steps = list(steps)
    lower = [dict(itertools.pairwise(reversed(may))) for may in allowed]
    for _ in range(_GIVEN_BACK):
        now, best = count(steps), (0.0, -1)
        for i, n in enumerate(steps):
            if n not in lower[i]:
                continue
            less = [*steps[:i], lower[i][n], *steps[i + 1 :]]
            after = count(less)
            if after <= limit:
                spared = float(totals[i][n] - totals[i][lower[i][n]])
                best = max(best, (spared / max(1, after - now), i))
        if best[1] < 0 or best[0] <= 0.0:
            break
        steps[best[1]] = lower[best[1]][steps[best[1]]]
    return steps
