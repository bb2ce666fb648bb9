"""A plan for a speed: chosen by a table of times, measured, and aimed again until it is right.

A sum of operations is a model of a model: caches, threads and Python are not in it. So the table
only chooses, and what counts is the cut network's own time, taken in turns with the dense one's.
Where the two differ, the next plan is made for a target as far off on the other side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from excise.budget.choose import TOLERANCE, Asking, Budget, Options
from excise.budget.clock import clock_of, pace_of
from excise.budget.depth import planned
from excise.budget.presence import Presence
from excise.errors import UnreachableTargetError
from excise.graph import AxisGraph
from excise.measure import Speedup
from excise.measure.replay import watched
from excise.measure.table import Row, table
from excise.plan import Plan
from excise.scores.curve import Curves
from excise.scores.scores import Scores

_ROUNDS = 10
_WILD = 1.6  # no round moves its aim by more than this factor
_SAME = 1e-3  # below the fastest that the table thinks possible, as a share
_AGAIN = 4  # aims that make a plan that was tried already
_CLOSE = 0.02  # of the target: then no further plan is tried


class Attempt(NamedTuple):
    """One plan that was tried.

    Attributes:
        aim: the speed-up for which the table chose it.
        plan: the cut.
        found: what was measured.
    """

    aim: float
    plan: Plan
    found: Speedup


class Asked(NamedTuple):
    """A speed: `speedup` times as fast, or `latency_ms` milliseconds."""

    name: str
    target: float

    def reached(self, found: Speedup) -> float:
        """How much of it was reached: 1 is all, more is too fast."""
        ratio, milliseconds = found.steady
        return ratio / self.target if self.name == "speedup" else self.target / milliseconds

    def value(self, found: Speedup) -> float:
        """What was measured, in the unit of the target."""
        return found.steady[0 if self.name == "speedup" else 1]


def timed(
    graph: AxisGraph,
    scores: Scores | Curves,
    asked: Asked,
    options: Options,
    *,
    rows: Sequence[Row],
    measure: Callable[[Plan], Speedup],
    dense_ms: float,
) -> list[Attempt]:
    """Plans, tried one after the other; the last one is as fast as was asked for.

    Args:
        graph: of the model in eval mode.
        scores: of its groups, or cost curves.
        asked: the speed.
        options: as for `plan`.
        rows: from `excise.measure.table`.
        measure: cuts the model by a plan, and times both in turns.
        dense_ms: what the dense model takes, undisturbed.

    Raises:
        InvalidTargetError, UnknownModuleError, InvalidScoresError: as `plan`.
        UnreachableTargetError: no plan that was tried is within 3 % of the target; says which
            measured speeds come nearest.
    """
    watch = _Watch(graph, rows, dense_ms)
    wanted = asked.target if asked.name == "speedup" else dense_ms / asked.target
    tried: list[Attempt] = []
    aim, fastest, same = max(1.0, wanted), math.inf, 0
    while len(tried) < _ROUNDS:
        try:
            plan = planned(graph, scores, watch.budget(asked.name, aim), options)
        except UnreachableTargetError as error:
            if tried:
                break
            if fastest < math.inf:
                raise
            aim = fastest = (1 - _SAME) / error.reachable
            continue
        if any(plan.removed == before.plan.removed for before in tried):
            same += 1
            if same > _AGAIN or aim >= fastest:
                break
            aim = min(_between(asked, tried, aim), fastest)
            continue
        tried.append(Attempt(aim, plan, measure(plan)))
        if abs(asked.reached(tried[-1].found) - 1) <= _CLOSE:
            return tried
        aim = min(_next(asked, tried), fastest)
    best = min(tried, key=lambda attempt: abs(asked.reached(attempt.found) - 1))
    if abs(asked.reached(best.found) - 1) <= TOLERANCE:
        return [*(attempt for attempt in tried if attempt is not best), best]
    raise _missed(graph, asked, tried)


class _Watch:
    """Budgets of time for a model, and for what is left of it once branches are gone."""

    def __init__(self, graph: AxisGraph, rows: Sequence[Row], dense_ms: float) -> None:
        self.dense_ms, self.pace = dense_ms, pace_of(graph, rows, dense_ms)
        self.rows = {id(graph.trace): (graph.trace, rows)}  # the trace is held: its id stays

    def budget(self, name: str, aim: float) -> Asking:
        """The budget of a speed."""

        def budget(graph: AxisGraph, presence: Presence | None = None) -> Budget:
            known = self.rows.get(id(graph.trace))
            if known is None:
                known = self.rows[id(graph.trace)] = graph.trace, table(watched(graph))
            clock = clock_of(graph, known[1], self.dense_ms, pace=self.pace, presence=presence)
            return Budget(name, 1 / aim, clock, clock.total({}) / aim)

        return budget


def _next(asked: Asked, tried: Sequence[Attempt]) -> float:
    """The next aim: between one that was too slow and one that was too fast, once there are both.

    In logarithms, where an operation that the table does not know of is a constant factor.
    """
    points = [(math.log(a.aim), math.log(asked.reached(a.found))) for a in tried]
    slow = max((p for p in points if p[1] < 0), key=lambda p: p[1], default=None)
    fast = min((p for p in points if p[1] >= 0), key=lambda p: p[1], default=None)
    if slow is not None and fast is not None and fast[0] > slow[0]:
        share = -slow[1] / (fast[1] - slow[1])
        return math.exp(slow[0] + min(0.9, max(0.1, share)) * (fast[0] - slow[0]))
    aim, reached = min(points, key=lambda p: abs(p[1]))
    step = min(math.log(_WILD), max(-math.log(_WILD), -reached))
    return max(1.0, math.exp(aim + step))


def _between(asked: Asked, tried: Sequence[Attempt], aim: float) -> float:
    """Another aim, where one made a plan that was tried already: half way to the other side."""
    slow = [a.aim for a in tried if asked.reached(a.found) < 1]
    fast = [a.aim for a in tried if asked.reached(a.found) >= 1]
    if not slow or not fast:
        return aim * (1.05 if slow else 1 / 1.05)
    here = next(
        a for a in tried if a.aim == min((t.aim for t in tried), key=lambda n: abs(n - aim))
    )
    other = min(fast) if asked.reached(here.found) < 1 else max(slow)
    return float((aim * other) ** 0.5)


def _missed(graph: AxisGraph, asked: Asked, tried: Sequence[Attempt]) -> UnreachableTargetError:
    """What to say when no plan was near enough."""
    slower = [a for a in tried if asked.reached(a.found) < 1]
    faster = [a for a in tried if asked.reached(a.found) >= 1]
    reasons = tuple(map(str, graph.pins[:5]))
    ends = (max(slower, key=_speed, default=None), min(faster, key=_speed, default=None))
    around = tuple(asked.value(a.found) for a in ends if a is not None)
    if not faster:
        return UnreachableTargetError(asked.name, asked.target, around[0], reasons)
    return UnreachableTargetError(asked.name, asked.target, around[-1], (), nearest=around)


def _speed(attempt: Attempt) -> float:
    return attempt.found.steady[0]
