"""A plan for a budget."""

from __future__ import annotations

from collections.abc import Iterable

from excise.budget.choose import Options, counted
from excise.budget.depth import planned
from excise.budget.option import DEFAULT_MIN_KEEP, check_values, patterns_of, target_of
from excise.graph import AxisGraph
from excise.plan import Plan
from excise.scores.curve import Curves
from excise.scores.scores import Scores


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
    depth: bool = False,
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
        depth: whole residual branches may go as well, where that costs less than narrower ones:
            `scores` are curves with `branches`, from `excise.depth.branched`. What `min_keep` says
            does not hold inside a branch that goes.

    Returns:
        The plan with the largest model that meets the budget along the ranking, or at least
        cost: within 3 % of it, and above it only if nothing below is that near.

    Raises:
        InvalidTargetError: not exactly one budget, or an option out of range; `depth` without costs
            of branches, with `uniform`, or for `keep_peak_memory`.
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

    options = Options(round_to, min_keep, patterns_of(protect), uniform, depth=depth)
    return planned(graph, scores, counted(name, target), options)
