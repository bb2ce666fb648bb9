"""A plan for a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

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
    check_values,
    patterns_of,
    protected,
    target_of,
)
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


def plan(
    graph: AxisGraph,
    scores: Scores | Curves,
    *,
    keep_macs: float | None = None,
    keep_params: float | None = None,
    keep_bytes: float | None = None,
    keep_peak_memory: float | None = None,
    keep_units: float | None = None,
    round_to: int = 1,
    min_keep: float = DEFAULT_MIN_KEEP,
    protect: str | Iterable[str] = (),
    uniform: bool = False,
) -> Plan:
    """Choose the units to remove, over all groups, within one budget.

    With scores the lowest go first, off one ranking of all groups. With cost curves the steps of
    least total cost are taken; groups without a curve stay whole.

    The plan is rehearsed on fake tensors before it is returned. Where the model's own code turns
    out to need a length that the axis graph did not know of, the axes of that operation are pinned,
    with the line, and the plan is made again.

    Args:
        graph: from `trace`.
        scores: one number per unit of every group, larger = keep; or cost curves, as
            `excise.scores.obs` finds them on calibration data.
        keep_macs: fraction of multiply-adds to keep, in (0, 1]. Exact: computed from the graph.
        keep_params: fraction of parameters to keep, in (0, 1].
        keep_bytes: fraction of the bytes of the state to keep: parameters and buffers at their
            dtypes, tied ones once, in (0, 1].
        keep_peak_memory: fraction of the peak activation memory to keep, in (0, 1]: the most bytes
            that intermediate results and outputs hold at one time on the example input. Parameters,
            buffers and inputs are not in it, nor what a kernel needs for itself while it runs.
        keep_units: fraction of units (over all groups) to keep, in (0, 1].
        round_to: keep a multiple of this many units in each group that is cut.
        min_keep: least to keep of each group: units if >= 1, else a fraction of the group.
        protect: names or patterns (`layer1.*`) of modules or parameters whose axes stay whole.
        uniform: cut repeated layers alike; of a model with a configuration (`model.config`) only
            as far as its constructor can build from smaller numbers, which then change too, so
            that the result saves and loads without excise. Without it, those numbers change that
            keep in step with the cut by themselves.

    Returns:
        The plan with the largest model that meets the budget along the ranking, or at least
        cost: within 3 % of it, and above it only if nothing below is that near.

    Raises:
        InvalidTargetError: not exactly one budget, or an option out of range.
        UnreachableTargetError: even the smallest allowed model is larger, or none is within 3 % of
            the budget; says what is reachable.
        UnknownModuleError: `protect` matches nothing.
        InvalidScoresError: scores are missing, not finite, or of the wrong length.
    """
    check_values(graph, scores)
    name, target = target_of(
        keep_macs=keep_macs,
        keep_params=keep_params,
        keep_bytes=keep_bytes,
        keep_peak_memory=keep_peak_memory,
        keep_units=keep_units,
    )

    options = Options(round_to, min_keep, patterns_of(protect), uniform)
    return planned(graph, scores, counted(name, target), options)


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


def counted(name: str, target: float) -> Callable[[AxisGraph], Budget]:
    """The budget of that name, counted on whatever graph it is asked of."""

    def budget(graph: AxisGraph) -> Budget:
        meter = meter_of(graph, name)
        return Budget(name, target, meter, target * meter.total({}))

    return budget


def planned(
    graph: AxisGraph,
    scores: Scores | Curves,
    budget: Callable[[AxisGraph], Budget],
    options: Options,
) -> Plan:
    """As `plan`, for any budget of a graph: it is asked again once axes turn out to be pinned.

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
