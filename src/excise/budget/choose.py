"""The widths of a budget: which units go, rehearsed, and chosen again where that fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from excise.axes import Axis, Why
from excise.budget.allocate import State, allocate
from excise.budget.bundle import Bundle, bundles
from excise.budget.cost import meter_of
from excise.budget.draft import build
from excise.budget.meter import Meter
from excise.budget.option import (
    DEFAULT_MIN_KEEP,
    TIMED,
    check_options,
    check_scores,
    protected,
)
from excise.budget.presence import Presence
from excise.budget.rank import rank
from excise.budget.rehearsal import followed, rehearse
from excise.errors import UnreachableTargetError
from excise.graph import AxisGraph, infer
from excise.plan import Plan
from excise.scores.curve import Curves
from excise.scores.scores import Scores
from excise.trace.skeleton import PER_LAYER
from excise.uniform import reach

_ROUNDS = 64
TOLERANCE = 0.03
"""How far from its budget a result may be, as a share of it."""
_ROUNDING = 1e-12


class Budget(NamedTuple):
    """One budget: as it was asked for, what counts it, and what it may count."""

    name: str
    target: float
    meter: Meter
    limit: float


class Options(NamedTuple):
    """The options of `plan`, by its names; `protect` as patterns.

    `whole` says how long axes were before an earlier cut, for `min_keep`, by name.
    """

    round_to: int = 1
    min_keep: float = DEFAULT_MIN_KEEP
    protect: tuple[str, ...] = ()
    uniform: bool = False
    whole: Mapping[str, int] = {}
    depth: bool = False


class Asking(Protocol):
    """A budget, of whatever graph it is asked; with `presence`, branches of it can be missing."""

    def __call__(self, graph: AxisGraph, presence: Presence | None = None) -> Budget:
        """The budget of this graph."""
        ...


def counted(name: str, target: float) -> Asking:
    """The budget of that name, counted on whatever graph it is asked of."""

    def budget(graph: AxisGraph, presence: Presence | None = None) -> Budget:
        meter = meter_of(graph, name, presence)
        return Budget(name, target, meter, target * meter.total({}))

    return budget


def chosen(
    graph: AxisGraph,
    scores: Scores | Curves,
    budget: Asking,
    options: Options,
) -> Plan:
    """As `plan`, of units alone, for any budget: it is asked again once axes turn out to be pinned.

    Raises:
        InvalidTargetError, UnreachableTargetError, UnknownModuleError, InvalidScoresError: as
            `plan`.
    """
    check_options(options.round_to, options.min_keep)
    if isinstance(scores, Scores):
        check_scores(graph, scores)
    extra: list[tuple[int, Why]] = []
    fixed: list[str] = []  # numbers of the configuration whose smaller values turned out not to fit
    asked = budget(graph)
    for _ in range(_ROUNDS):
        within = reach(graph, tuple(fixed)) if options.uniform else None
        guarded = protected(graph, options.protect)
        ready = bundles(graph, scores, options.min_keep, guarded, within, whole=options.whole)
        kept, removed = _choose(graph, ready, scores, asked, options.round_to)
        unfit = [] if within is None else within.unfit(graph, kept)
        fixed += unfit
        if unfit:
            continue
        made = build(graph, kept, removed, () if within is None else within.edits(kept))
        found = rehearse(graph, made, kept)
        if not found:
            return made if options.uniform else followed(graph, made, kept)
        layered = [] if within is None else [p for p, *_ in within.edits(kept) if PER_LAYER in p]
        if layered:  # perhaps the forward pass reads one number for all layers
            fixed += layered
            continue
        extra += found
        graph = infer(graph.trace, graph.stage, extra)
        scores, asked = scores.renamed(graph), budget(graph)
    why = tuple(why.reason for _, why in extra[:5])
    raise UnreachableTargetError(asked.name, asked.target, 1.0, why)


def _choose(
    graph: AxisGraph,
    ready: list[Bundle],
    scores: Scores | Curves,
    budget: Budget,
    round_to: int,
) -> tuple[dict[Axis, int], dict[str, tuple[int, ...]]]:
    """Units kept per axis, and the removed units per group name."""
    allowed = [bundle.allowed(round_to) for bundle in ready]
    state = State(ready, allowed, budget.meter)

    def count(steps: list[int]) -> float:
        return budget.meter.total(state.kept(steps))

    smallest = count([may[-1] for may in allowed])
    if smallest > budget.limit * (1 + _ROUNDING):
        reachable = budget.target * smallest / budget.limit
        pins = tuple(map(str, graph.pins[:5]))
        raise UnreachableTargetError(budget.name, budget.target, reachable, pins)
    limit = budget.limit * (1 + _ROUNDING)
    if isinstance(scores, Curves) or budget.name in TIMED:
        steps = allocate(state, limit)
    else:
        steps = rank(ready, allowed, count, limit)
        if count(steps) < (1 - TOLERANCE) * limit:
            steps = state.filled(steps, limit)
    least = (1 - TOLERANCE) * budget.limit
    for most in (limit, (1 + TOLERANCE) * budget.limit):
        if count(steps) < least:
            steps = state.near(steps, least, most)
    found = count(steps)
    if found < least and budget.name not in TIMED:
        near = tuple(budget.target * n / budget.limit for n in (found, state.above(steps, limit)))
        raise UnreachableTargetError(budget.name, budget.target, near[0], (), nearest=near)
    removed: dict[str, tuple[int, ...]] = {}
    for bundle, taken in zip(ready, steps, strict=True):
        removed |= bundle.removed(taken)
    return state.kept(steps), removed
