"""A plan for a budget."""

from __future__ import annotations

from collections.abc import Iterable

from excise.axes import Axis, Why
from excise.budget.allocate import allocate
from excise.budget.bundle import Bundle, bundles
from excise.budget.cost import measure_of
from excise.budget.draft import build
from excise.budget.option import (
    DEFAULT_MIN_KEEP,
    check_options,
    check_scores,
    check_values,
    patterns_of,
    protected,
    target_of,
)
from excise.budget.rank import rank
from excise.budget.rehearsal import rehearse
from excise.errors import UnreachableTargetError
from excise.graph import AxisGraph, infer
from excise.plan import Plan
from excise.scores.curve import Curves
from excise.scores.scores import Scores
from excise.uniform import reach

_ROUNDS = 64


def plan(
    graph: AxisGraph,
    scores: Scores | Curves,
    *,
    keep_macs: float | None = None,
    keep_params: float | None = None,
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
        keep_units: fraction of units (over all groups) to keep, in (0, 1].
        round_to: keep a multiple of this many units in each group that is cut.
        min_keep: least to keep of each group: units if >= 1, else a fraction of the group.
        protect: names or patterns (`layer1.*`) of modules or parameters whose axes stay whole.
        uniform: cut repeated layers alike; of a model with a configuration (`model.config`) only
            as far as its constructor can build from smaller numbers, which then change too, so
            that the result saves and loads without excise.

    Returns:
        The plan with the largest model that meets the budget along the ranking, or at least
        cost.

    Raises:
        InvalidTargetError: not exactly one budget, or an option out of range.
        UnreachableTargetError: even the smallest allowed model is larger; says what is reachable.
        UnknownModuleError: `protect` matches nothing.
        InvalidScoresError: scores are missing, not finite, or of the wrong length.
    """
    check_values(graph, scores)
    name, target = target_of(keep_macs=keep_macs, keep_params=keep_params, keep_units=keep_units)
    check_options(round_to, min_keep)
    patterns = patterns_of(protect)
    if isinstance(scores, Scores):
        check_scores(graph, scores)
    extra: list[tuple[int, Why]] = []
    fixed: list[str] = []  # numbers of the configuration whose smaller values turned out not to fit
    for _ in range(_ROUNDS):
        within = reach(graph, tuple(fixed)) if uniform else None
        ready = bundles(graph, scores, min_keep, protected(graph, patterns), within)
        kept, removed = _choose(graph, ready, scores, (name, target), round_to)
        unfit = [] if within is None else within.unfit(graph, kept)
        fixed += unfit
        if unfit:
            continue
        made = build(graph, kept, removed, () if within is None else within.edits(kept))
        found = rehearse(graph, made, kept)
        if not found:
            return made
        extra += found
        graph = infer(graph.trace, graph.stage, extra)
        scores = scores.renamed(graph)
    raise UnreachableTargetError(name, target, 1.0, tuple(why.reason for _, why in extra[:5]))


def _choose(
    graph: AxisGraph,
    ready: list[Bundle],
    scores: Scores | Curves,
    budget: tuple[str, float],
    round_to: int,
) -> tuple[dict[Axis, int], dict[str, tuple[int, ...]]]:
    """Units kept per axis, and the removed units per group name."""
    name, target = budget
    measure, allowed = measure_of(graph, name), [bundle.allowed(round_to) for bundle in ready]
    full = measure({})

    def count(steps: list[int]) -> int:
        kept: dict[Axis, int] = {}
        for bundle, taken in zip(ready, steps, strict=True):
            kept |= bundle.kept(taken)
        return measure(kept)

    smallest = count([may[-1] for may in allowed]) / full if full else 1.0
    if smallest > target:
        raise UnreachableTargetError(name, target, smallest, tuple(map(str, graph.pins[:5])))
    limit = target * full
    chosen = allocate if isinstance(scores, Curves) else rank
    steps = chosen(ready, allowed, count, limit)
    kept: dict[Axis, int] = {}
    removed: dict[str, tuple[int, ...]] = {}
    for bundle, taken in zip(ready, steps, strict=True):
        kept |= bundle.kept(taken)
        removed |= bundle.removed(taken)
    return kept, removed
