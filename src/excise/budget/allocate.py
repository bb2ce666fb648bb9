"""The steps of least total cost within the budget, by a price on what is kept.

Costs add up over bundles, what a budget counts does not: a layer's multiply-adds are a product of
two widths, and its milliseconds a staircase over both. With a price on each unit of the budget,
every bundle is set in turn to its cheapest number of steps while the others stand still; the price
is then found by bisection, and what is left of the budget is filled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from excise.axes import Axis
from excise.budget.bundle import Bundle
from excise.budget.meter import Floats, Meter

_SWEEPS = 12
_BISECTIONS = 40
_CHEAPEST, _DEAREST = 1e-12, 1e12
_CLOSE = 1.001  # prices that differ by less choose the same
_FILLS = 400  # steps given back, or exchanged, once the price is found
_FULL = 0.995  # a budget that is used so far needs no exchanges
_EXCHANGES = 8
_NEAR = 4  # so many numbers of steps are tried in an exchange
_SLIGHTLY = 1e-12  # below it a difference is rounding

Count = Callable[[list[int]], float]
"""Steps of each bundle -> what the budget counts."""


class State:
    """Bundles, what may be taken of each (ascending), what that costs, and what is counted."""

    def __init__(
        self, ready: Sequence[Bundle], allowed: Sequence[Sequence[int]], meter: Meter
    ) -> None:
        self.ready, self.allowed, self.meter = ready, allowed, meter
        totals = [np.concatenate([[0.0], np.cumsum(bundle.costs)]) for bundle in ready]
        self.costs: list[Floats] = [t[list(may)] for t, may in zip(totals, allowed, strict=True)]

    def kept(self, steps: Sequence[int]) -> dict[Axis, int]:
        """Lengths of all axes after some steps of each bundle."""
        found: dict[Axis, int] = {}
        for bundle, taken in zip(self.ready, steps, strict=True):
            found |= bundle.kept(taken)
        return found

    def along(self, steps: Sequence[int], place: int) -> Floats:
        """What is counted for each allowed number of steps of one bundle, the others as given."""
        kept, may = self.kept(steps), self.allowed[place]
        found = self.meter.along(kept, self.ready[place], may)
        here = self.meter.total(kept) - float(found[may.index(steps[place])])
        return np.asarray(found + here, dtype=np.float64)

    def settled(self, price: float) -> list[int]:
        """Every bundle at its cheapest, given the others, for one price."""
        steps = [0] * len(self.allowed)
        for _ in range(_SWEEPS):
            before = list(steps)
            for i, may in enumerate(self.allowed):
                if len(may) > 1:
                    pull = self.meter.pull(self.kept(steps), self.ready[i], may)
                    steps[i] = may[int(np.argmin(self.costs[i] + price * pull))]
            if steps == before:
                break
        return steps

    def filled(self, steps: Sequence[int], limit: float) -> list[int]:
        """Use what is left of a budget: take steps back, the best bargain first, then exchange."""
        steps = list(steps)
        exchanges = 0
        for _ in range(_FILLS):
            if self._give_back(steps, limit):
                continue
            idle = self.meter.total(self.kept(steps)) < _FULL * limit
            if not idle or exchanges >= _EXCHANGES or not self._exchange(steps, limit):
                break
            exchanges += 1
        return steps

    def _give_back(self, steps: list[int], limit: float) -> bool:
        """Take back the steps of one bundle that spare most for their price."""
        best = (0.0, -1, 0)
        for i, may in enumerate(self.allowed):
            place = may.index(steps[i])
            if not place:
                continue
            counted = self.along(steps, i)
            spared = self.costs[i][place] - self.costs[i][:place]
            fits = (counted[:place] <= limit) & (spared >= 0)
            if fits.any():
                price = np.maximum(counted[:place] - counted[place], _SLIGHTLY * max(1.0, limit))
                worth = np.where(fits, np.maximum(spared, _SLIGHTLY) / price, 0.0)
                chosen = int(worth.argmax())
                best = max(best, (float(worth[chosen]), i, may[chosen]))
        if best[1] < 0:
            return False
        steps[best[1]] = best[2]
        return True

    def _exchange(self, steps: list[int], limit: float) -> bool:
        """Take a little more of one bundle, so that another gets back what costs more."""
        best, change = 0.0, ((-1, 0), (-1, 0))
        for i, may in enumerate(self.allowed):
            place = may.index(steps[i])
            for more in range(place + 1, min(place + 1 + _NEAR, len(may))):
                paid = float(self.costs[i][more] - self.costs[i][place])
                trial = [*steps[:i], may[more], *steps[i + 1 :]]
                for j, others in enumerate(self.allowed):
                    here = others.index(steps[j])
                    spared = self.costs[j][here] - self.costs[j][:here] - paid
                    if j == i or not here or float(spared.max()) <= best:
                        continue
                    won = np.where(self.along(trial, j)[:here] <= limit, spared, 0.0)
                    if float(won.max()) > best + _SLIGHTLY * abs(paid):
                        best = float(won.max())
                        change = ((i, may[more]), (j, others[int(won.argmax())]))
        for i, taken in change:
            if i >= 0:
                steps[i] = taken
        return best > 0


def allocate(state: State, limit: float) -> list[int]:
    """How many steps each bundle takes.

    Args:
        state: the bundles, their costs in one unit, and what the budget counts.
        limit: what it may count. All steps together meet it.

    Source:
        Lagrangian relaxation of the multiple-choice knapsack: Everett, "Generalized Lagrange
        Multiplier Method", Operations Research 11(3), 1963. Differs: a step may change what other
        steps save, so that each price is solved by coordinate descent; and the gap that prices
        leave (they only find corners of the convex hull) is filled by exchanges.
    """
    full = max(state.meter.total({}), _SLIGHTLY)
    low, high = _CHEAPEST, _DEAREST
    best = [may[-1] for may in state.allowed]
    for _ in range(_BISECTIONS):
        price = (low * high) ** 0.5
        steps = state.settled(price / full)
        if state.meter.total(state.kept(steps)) <= limit:
            high, best = price, steps
        else:
            low = price
        if high / low < _CLOSE:
            break
    return state.filled(best, limit)
