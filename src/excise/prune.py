"""The one-liner: trace, score, plan, cut, prove, refit, measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from excise.budget import DEFAULT_MIN_KEEP
from excise.budget import plan as make_plan
from excise.calibration import Batch, batches
from excise.errors import InvalidTargetError
from excise.graph import AxisGraph, trace
from excise.measure import everything
from excise.plan import Plan
from excise.refit import Refit, refit
from excise.report import Report
from excise.scores import CALIBRATED, Curves, Scores, by_name
from excise.surgery import check_finite, remove
from excise.verify import Verdict
from excise.verify import verify as prove


@dataclass(frozen=True)
class Pruned:
    """A smaller model with everything that is known about how it came about.

    Attributes:
        model: smaller, of the same class.
        plan: what was removed.
        report: before and after, measured.
        verdict: the proof of the cut, as it was before weights were refitted; None only if it was
            not asked for.
        refit: what became of each consumer; None without calibration data.
    """

    model: nn.Module
    plan: Plan
    report: Report
    verdict: Verdict | None
    refit: Refit | None = None


def prune(
    model: nn.Module,
    *inputs: Any,
    keep_macs: float | None = None,
    keep_params: float | None = None,
    keep_bytes: float | None = None,
    keep_units: float | None = None,
    calibration: Any = None,
    samples: int = 512,
    criterion: str | Callable[..., Scores | Curves] | None = None,
    round_to: int = 1,
    min_keep: float = DEFAULT_MIN_KEEP,
    protect: str | Iterable[str] = (),
    uniform: bool = False,
    verify: bool = True,
    latency: bool = True,
    **kwargs: Any,
) -> Pruned:
    """Remove units of any model that runs, to a budget, and prove the cut.

    With calibration data (a few hundred unlabelled inputs) the units are chosen by what their loss
    costs once the layers that read them have been refitted, and those layers are refitted. Without,
    nothing makes up for what was removed: fine-tune the result.

    Args:
        model: any `nn.Module`. Not touched.
        inputs: an example input.
        keep_macs: fraction of multiply-adds to keep, in (0, 1]; give exactly one `keep_*`.
        keep_params: fraction of parameters to keep.
        keep_bytes: fraction of the bytes of parameters and buffers to keep.
        keep_units: fraction of units to keep.
        calibration: inputs of the kind the model will see: a tensor, a list of batches or a data
            loader; labels in it are left out.
        samples: use so many of them.
        criterion: a name from `excise.scores`, or a function `(model, graph)` that returns scores
            or cost curves. By default "obs" with calibration data and "magnitude" without.
        round_to: keep a multiple of this many units.
        min_keep: least to keep of each group: units if >= 1, else a fraction.
        protect: names or patterns of modules that stay whole.
        uniform: cut repeated layers alike, and stay within what the model's configuration can say.
        verify: prove that removed equals silenced; costs two forward passes in float64.
        latency: measure milliseconds before and after.
        kwargs: keyword inputs of the model.

    Returns:
        The smaller model with its plan, report and verdict.

    Raises:
        CalibrationError: the calibration data is no input of the model.
        TraceError: the model cannot be read.
        PlanError: the target or an option cannot be met.
        SurgeryError: a weight is NaN or infinite.
        VerificationError: the cut model computes something else; it is not returned.
    """
    graph = trace(model, *inputs, **kwargs)
    check_finite(dict(model.named_parameters()))
    data = None
    if calibration is not None:
        data = batches(calibration, inputs, kwargs, samples=samples)
    made = make_plan(
        graph,
        _scored(model, graph, criterion, data),
        keep_macs=keep_macs,
        keep_params=keep_params,
        keep_bytes=keep_bytes,
        keep_units=keep_units,
        round_to=round_to,
        min_keep=min_keep,
        protect=protect,
        uniform=uniform,
    )
    small = remove(model, made)
    verdict = prove(model, small, made, *inputs, **kwargs) if verify else None
    if verdict is not None:
        verdict.check()
    repaired = None if data is None else refit(model, small, made, data)
    before = everything(model, *inputs, latency=latency, **kwargs)
    after = everything(small, *inputs, latency=latency, **kwargs)
    return Pruned(small, made, Report(before, after), verdict, repaired)


def _scored(
    model: nn.Module,
    graph: AxisGraph,
    criterion: str | Callable[..., Scores | Curves] | None,
    data: list[Batch] | None,
) -> Scores | Curves:
    if criterion is None:
        criterion = "magnitude" if data is None else "obs"
    score = criterion if callable(criterion) else by_name(criterion)
    name = next((name for name, known in CALIBRATED.items() if score is known), None)
    if name is None:
        return score(model, graph)
    if data is None:
        raise InvalidTargetError("criterion", f"{name!r} without data", "calibration data with it")
    modes = [(module, module.training) for module in model.modules()]
    try:  # in eval mode other operations run, but axes have the same names
        model.eval()
        return score(model, trace(model, *data[0].args, **data[0].kwargs), data)
    finally:
        for module, training in modes:
            module.training = training
