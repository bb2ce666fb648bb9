"""The one-liner: trace, score, plan, cut, prove, measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from excise.budget import DEFAULT_MIN_KEEP
from excise.budget import plan as make_plan
from excise.graph import trace
from excise.measure import everything
from excise.plan import Plan
from excise.report import Report
from excise.scores import Scores, by_name
from excise.surgery import check_finite, remove
from excise.verify import Verdict
from excise.verify import verify as prove


@dataclass(frozen=True)
class Pruned:
    """A smaller model with everything that is known about how it came about.

    `verdict` is None only if it was not asked for.
    """

    model: nn.Module
    plan: Plan
    report: Report
    verdict: Verdict | None


def prune(
    model: nn.Module,
    *inputs: Any,
    keep_macs: float | None = None,
    keep_params: float | None = None,
    keep_units: float | None = None,
    criterion: str | Callable[..., Scores] = "magnitude",
    round_to: int = 1,
    min_keep: float = DEFAULT_MIN_KEEP,
    protect: str | Iterable[str] = (),
    verify: bool = True,
    latency: bool = True,
    **kwargs: Any,
) -> Pruned:
    """Remove units of any model that runs, to a budget, and prove the cut.

    Args:
        model: any `nn.Module`. Not touched.
        inputs: an example input.
        keep_macs: fraction of multiply-adds to keep, in (0, 1]; give exactly one `keep_*`.
        keep_params: fraction of parameters to keep.
        keep_units: fraction of units to keep.
        criterion: a name from `excise.scores`, or a function `(model, graph) -> Scores`.
        round_to: keep a multiple of this many units.
        min_keep: least to keep of each group: units if >= 1, else a fraction.
        protect: names or patterns of modules that stay whole.
        verify: prove that removed equals silenced; costs two forward passes in float64.
        latency: measure milliseconds before and after.
        kwargs: keyword inputs of the model.

    Returns:
        The smaller model with its plan, report and verdict.

    Raises:
        TraceError: the model cannot be read.
        PlanError: the target or an option cannot be met.
        SurgeryError: a weight is NaN or infinite.
        VerificationError: the cut model computes something else; it is not returned.
    """
    graph = trace(model, *inputs, **kwargs)
    check_finite(dict(model.named_parameters()))
    score = criterion if callable(criterion) else by_name(criterion)
    made = make_plan(
        graph,
        score(model, graph),
        keep_macs=keep_macs,
        keep_params=keep_params,
        keep_units=keep_units,
        round_to=round_to,
        min_keep=min_keep,
        protect=protect,
    )
    small = remove(model, made)
    verdict = prove(model, small, made, *inputs, **kwargs) if verify else None
    if verdict is not None:
        verdict.check()
    before = everything(model, *inputs, latency=latency, **kwargs)
    after = everything(small, *inputs, latency=latency, **kwargs)
    return Pruned(small, made, Report(before, after), verdict)
