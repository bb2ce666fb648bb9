"""What is measured: plans for a speed, and the model before and after."""

from __future__ import annotations

import dataclasses

from torch import nn

from excise import measure
from excise.budget import Asked, Attempt, timed
from excise.budget.choose import Options
from excise.calibration import Batch
from excise.graph import AxisGraph
from excise.measure import Speedup
from excise.measure.replay import watched
from excise.measure.table import table
from excise.plan import Plan
from excise.report import Report
from excise.scores import Curves, Scores
from excise.surgery import remove

_TRIAL_S = 8.0  # seconds: of a plan's speed, and of the last word on it
_REPORT_S = 2.0


def attempted(
    model: nn.Module,
    graph: AxisGraph,
    scores: Scores | Curves,
    *,
    asked: tuple[str, float],
    options: Options,
    example: Batch,
) -> list[Attempt]:
    """Plans for a speed, each cut and measured."""
    dense_ms = min(measure.latency(model, *example.args, **example.kwargs).low_ms for _ in range(2))
    rows = table(watched(graph))

    def timed_in_turns(plan: Plan) -> Speedup:
        small = remove(model, plan)
        return measure.speedup(model, small, *example.args, seconds=_TRIAL_S, **example.kwargs)

    return timed(
        graph, scores, Asked(*asked), options, rows=rows, measure=timed_in_turns, dense_ms=dense_ms
    )


def reported(
    model: nn.Module, small: nn.Module, example: Batch, attempts: list[Attempt], *, latency: bool
) -> Report:
    """Before and after; times in turns, those of the last attempt if none are to be taken."""
    before, after = (
        measure.everything(m, *example.args, latency=False, **example.kwargs)
        for m in (model, small)
    )
    found = attempts[-1].found if attempts else None
    if latency:
        seconds = _TRIAL_S if attempts else _REPORT_S
        found = measure.speedup(model, small, *example.args, seconds=seconds, **example.kwargs)
    if found is not None:
        before = dataclasses.replace(before, latency=found.before)
        after = dataclasses.replace(after, latency=found.after)
    return Report(before, after, speedup=found)
