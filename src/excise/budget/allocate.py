"""The steps of least total cost within the budget, by a price on what is kept.

Costs add up over bundles, what a budget counts does not: a layer's multiply-adds are a product of
two widths, and its milliseconds a staircase over both. With a price on each unit of the budget,
every bundle is set in turn to its cheapest number of steps while the others stand still; the price
is then found by bisection, and what is left of the budget is filled.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from excise.axes import Axis
from excise.budget.bundle import Bundle
from excise.budget.meter import Floats, Meter

_SWEEPS = 12
_BISECTIONS = 40
_CHEAPEST, _DEAREST = 1e-12, 1e12
_CLOSE = 1.001  # prices that differ by less choose the same
_FILLS = 400  # steps given back, once the price is found
_PAIRS = 5000  # of numbers of steps that are tried together
_BUCKETS = 4000  # of the budget, in dynamic programming
_TRIES = 6
_MORE = 1.1  # of an excess is taken off the budget of the next try
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

    def cost(self, steps: Sequence[int]) -> float:
        """What some steps of each bundle cost together."""
        places = (may.index(n) for may, n in zip(self.allowed, steps, strict=True))
        return sum(float(costs[at]) for costs, at in zip(self.costs, places, strict=True))

    def filled(self, steps: Sequence[int], limit: float) -> list[int]:
        """Use what is left of a budget: choose anew around some steps, then take steps back."""
        steps = list(steps)
        for _ in range(_SWEEPS):
            found = self._chosen(steps, limit)
            if found is None:
                break
            steps = found
        for _ in range(_FILLS):
            if not self._give_back(steps, limit):
                break
        return steps

    def near(self, steps: list[int], least: float, limit: float) -> list[int]:
        """Steps of two bundles changed, so that between `least` and `limit` is used, at least cost.

        For models of which one step is much of the budget; as they are if no pair does it.
        """
        pairs = list(itertools.combinations(range(len(steps)), 2)) or [(0, 0)] * bool(steps)
        if sum(len(self.allowed[i]) for i, _ in pairs) > _PAIRS:  # steps of such a model are small
            return steps
        best, found = np.inf, steps
        for i, j in pairs:
            for n in self.allowed[i]:
                trial = [*steps[:i], n, *steps[i + 1 :]]
                counted = self.along(trial, j)
                rest = self.cost(trial) - float(self.costs[j][self.allowed[j].index(trial[j])])
                fits = (counted >= least) & (counted <= limit)
                total = np.where(fits, rest + self.costs[j], np.inf)
                if float(total.min()) < best:
                    best = float(total.min())
                    trial[j] = self.allowed[j][int(total.argmin())]
                    found = trial
        return found

    def above(self, steps: list[int], limit: float) -> float:
        """The least that is counted above a limit with steps of one bundle taken back."""
        every = (self.along(steps, i)[: may.index(steps[i])] for i, may in enumerate(self.allowed))
        return min((float(n) for counted in every for n in counted if n > limit), default=limit)

    def _chosen(self, steps: list[int], limit: float) -> list[int] | None:
        """Steps that cost less, by dynamic programming with every neighbour as it is now.

        Two neighbours that both change save another amount than each alone. So the result is
        counted, and where it is too much, the budget of the next try is smaller by that.
        """
        now = self.meter.total(self.kept(steps))
        moves = [self.along(steps, i) - now for i in range(len(steps))]
        spare, before = limit - now, self.cost(steps)
        for _ in range(_TRIES):
            places = knapsack(moves, self.costs, spare)
            if places is None:
                return None
            found = [may[at] for may, at in zip(self.allowed, places, strict=True)]
            if self.cost(found) >= before - _SLIGHTLY * abs(before):
                return None
            over = self.meter.total(self.kept(found)) - limit
            if over <= 0:
                return found
            spare -= _MORE * over
        return None

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


def knapsack(moves: Sequence[Floats], costs: Sequence[Floats], spare: float) -> list[int] | None:
    """One choice for each bundle, so that the moves add up to at most `spare`, at least cost.

    Args:
        moves: for each bundle what each choice adds to what is counted; negative = less.
        costs: what each choice costs.
        spare: what may be added in all.

    Returns:
        The number of each choice, up to rounding to one of 4000 buckets; None if nothing fits.

    Source:
        The multiple-choice knapsack by dynamic programming over the budget, as in Frantar and
        Alistarh, "SPDY", ICML 2022, sec. 3.1.
    """
    least = [float(move.min()) for move in moves]
    room = spare - sum(least)
    if room < 0:
        return None
    unit = max(room, _SLIGHTLY) / _BUCKETS
    best = np.zeros(_BUCKETS + 1)  # at least cost, by what is used at most
    chosen: list[npt.NDArray[np.int64]] = []
    for move, cost, low in zip(moves, costs, least, strict=True):
        used = np.rint((move - low) / unit).astype(np.int64)
        new = np.full(_BUCKETS + 1, np.inf)
        pick = np.zeros(_BUCKETS + 1, dtype=np.int64)
        for at in _useful(used, cost):
            here = np.full(_BUCKETS + 1, np.inf)
            here[used[at] :] = best[: _BUCKETS + 1 - used[at]] + cost[at]
            better = here < new
            new[better], pick[better] = here[better], at
        best = new
        chosen.append(pick)
    left, places = _BUCKETS, list[int]()
    for move, pick, low in zip(reversed(moves), reversed(chosen), reversed(least), strict=True):
        places.append(int(pick[left]))
        left -= int(np.rint((move[places[-1]] - low) / unit))
    return places[::-1]


def _useful(used: npt.NDArray[np.int64], cost: Floats) -> list[int]:
    """The choices that use less than every cheaper one, of those that fit at all."""
    found: list[int] = []
    least = _BUCKETS + 1
    for at in np.lexsort((used, cost)):
        if used[at] < least:
            least = int(used[at])
            found.append(int(at))
    return found


def allocate(state: State, limit: float) -> list[int]:
    """How many steps each bundle takes.

    Args:
        state: the bundles, their costs in one unit, and what the budget counts.
        limit: what it may count. All steps together meet it.

    Source:
        Lagrangian relaxation of the multiple-choice knapsack: Everett, "Generalized Lagrange
        Multiplier Method", Operations Research 11(3), 1963. Differs: a step may change what other
        steps save, so that each price is solved by coordinate descent; and the gap that prices
        leave (they only find corners of the convex hull) is filled by dynamic programming.
    """
    return state.filled(priced(state, limit), limit)


def priced(state: State, limit: float) -> list[int]:
    """The steps at the lowest price for which a budget is met; some of it may be left."""
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
    return best
