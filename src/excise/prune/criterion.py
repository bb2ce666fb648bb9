"""What a criterion says of a traced model, and of its branches."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from excise.budget.depth import check_branches
from excise.calibration import Batch
from excise.depth import branched
from excise.errors import InvalidTargetError
from excise.graph import AxisGraph, traced
from excise.measure.latency import evaluated
from excise.refit import DEFAULT_HELD_BYTES
from excise.scores import CALIBRATED, Curves, Scores, by_name, obs


def scored(
    model: nn.Module,
    graph: AxisGraph,
    criterion: str | Callable[..., Scores | Curves] | None,
    data: list[Batch] | None,
    most: int = DEFAULT_HELD_BYTES,
) -> Scores | Curves:
    """What a criterion says of a traced model; by default "obs" with data, else "magnitude".

    `obs` holds at most so many bytes of second moments.

    Raises:
        InvalidTargetError: no such criterion, or one that needs data without any.
    """
    if criterion is None:
        criterion = "magnitude" if data is None else "obs"
    score = criterion if callable(criterion) else by_name(criterion)
    name = next((name for name, known in CALIBRATED.items() if score is known), None)
    if name is None:
        return score(model, graph)
    if data is None:
        raise InvalidTargetError("criterion", f"{name!r} without data", "calibration data with it")
    with evaluated(model):  # in eval mode other operations run, but axes have the same names
        seen = traced(model, data[0].args, data[0].kwargs, real=True)  # as data goes through it
        if score is obs:
            return obs(model, seen, data, gram_bytes=most)
        return score(model, seen, data)


def with_branches(
    model: nn.Module,
    graph: AxisGraph,
    scores: Scores | Curves,
    data: list[Batch] | None,
    held_bytes: int,
) -> Scores | Curves:
    """Curves with the costs of branches, if asked for, and not said by a criterion of one's own."""
    if data is None:
        return scores
    if isinstance(scores, Curves) and scores.branches is None:
        return branched(model, graph, scores, data, held_bytes=held_bytes)
    return check_branches(scores)
