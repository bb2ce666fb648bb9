"""The one-liner: trace, score, plan, cut, prove, refit, measure."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, cast

from torch import nn

from excise.budget import DEFAULT_MIN_KEEP, TIMED
from excise.budget.choose import Options
from excise.budget.option import check_values, patterns_of, target_of
from excise.calibration import Batch, batches, shown
from excise.errors import InvalidTargetError
from excise.graph import trace
from excise.measure.latency import evaluated
from excise.prune.check import check_alone, check_timed, check_whole_branches
from excise.prune.criterion import scored, with_branches
from excise.prune.measured import reported
from excise.prune.pruned import Pruned
from excise.prune.work import Work
from excise.ranks import jointly, present
from excise.recover import reconstruct as rebuild
from excise.refit import DEFAULT_HELD_BYTES, check_bytes
from excise.scores import Curves, Scores
from excise.surgery import check_finite
from excise.zero import zero


@jointly
def prune(
    model: nn.Module,
    *inputs: Any,
    keep_macs: float | None = None,
    keep_params: float | None = None,
    keep_bytes: float | None = None,
    keep_peak_memory: float | None = None,
    keep_units: float | None = None,
    speedup: float | None = None,
    latency_ms: float | None = None,
    sparsity: float | None = None,
    pattern: str | None = None,
    calibration: Any = None,
    samples: int = 512,
    calibration_bytes: int = DEFAULT_HELD_BYTES,
    reconstruct: int = 0,
    progress: bool = False,
    criterion: str | Callable[..., Scores | Curves] | None = None,
    round_to: int = 1,
    min_keep: float = DEFAULT_MIN_KEEP,
    protect: str | Iterable[str] = (),
    uniform: bool = False,
    depth: bool = False,
    verify: bool = True,
    latency: bool = True,
    **kwargs: Any,
) -> Pruned:
    """Remove units of any model that runs, to a budget, and prove the cut.

    With calibration data (a few hundred unlabelled inputs) the units are chosen by what their loss
    costs once the layers that read them have been refitted, and those layers are refitted. Without,
    nothing makes up for what was removed: fine-tune the result.

    A speed is measured on this machine, with its threads, in eval mode, on the example input: its
    shapes decide. A table of each operation's times over its widths chooses the plan; the cut model
    is then timed in turns with the dense one, and the plan made again, until it is within 3 %.

    Where `torch.distributed` has been initialised with several ranks, call it on all of them with
    the same model, each with its own share of the calibration data: statistics are added up, rank 0
    decides and measures, and all get the same result. For one rank alone see `excise.ranks`.

    Args:
        model: any `nn.Module`. Not touched.
        inputs: an example input.
        keep_macs: fraction of multiply-adds to keep, in (0, 1]; give exactly one budget.
        keep_params: fraction of parameters to keep.
        keep_bytes: fraction of the bytes of parameters and buffers to keep.
        keep_peak_memory: fraction of the peak activation memory to keep: of the most bytes that
            intermediate results hold at one time, parameters and inputs not counted.
        keep_units: fraction of units to keep.
        speedup: how many times faster, measured, 1 or above.
        latency_ms: milliseconds of one forward pass on the example input, measured.
        sparsity: instead of a budget: share of weights to set to zero, in place, in (0, 1). Shapes
            stay; `excise.save` makes the file smaller and `excise.sparsify` the model faster.
        pattern: where zeros may stand: "unstructured" (by default), "2:4" or any n:m, "block:4x1";
            see `excise.zero`. `criterion` is then a method: "magnitude", "wanda", "sparsegpt" or
            "admm", and options of a cut do not apply.
        calibration: inputs of the kind the model will see: a tensor, a list of batches or a data
            loader; labels in it are left out.
        samples: use so many of them, over all ranks.
        calibration_bytes: most bytes that calibration holds at one time beside models and data: of
            second moments while units are weighed, of activations while layers are refitted. What
            does not fit is left to another pass, or to batches that join behind wide layers.
        reconstruct: after the refit, train the blocks toward the dense model's for so many steps of
            one batch each (`excise.recover.reconstruct`); no labels, and put back if it does not
            help on batches that were held out. Minutes where the refit takes seconds.
        progress: show how far calibration is and how long it will take, on standard error.
        criterion: a name from `excise.scores`, or a function `(model, graph)` that returns scores
            or cost curves. By default "obs" with calibration data and "magnitude" without.
        round_to: keep a multiple of this many units.
        min_keep: least to keep of each group: units if >= 1, else a fraction.
        protect: names or patterns of modules that stay whole.
        uniform: cut repeated layers alike, and stay within what the model's configuration can say.
        depth: whole residual branches may go as well (calibration data wanted), where that costs
            less than narrower ones; `excise.branch.branches(graph)` says which can, and why the
            others can not. `min_keep` does not hold inside a branch that goes.
        verify: prove that removed equals silenced; costs two forward passes in float64.
        latency: measure milliseconds before and after, in turns.
        kwargs: keyword inputs of the model.

    Returns:
        The smaller model with its plan, report and verdict.

    Raises:
        CalibrationError: the calibration data is no input of the model.
        TraceError: the model cannot be read.
        PlanError: the target or an option cannot be met; for a speed, not within 3 %.
        MeasureError: a speed is asked of a model that cannot be timed.
        SurgeryError: a weight is NaN or infinite.
        VerificationError: the cut model computes something else; it is not returned.
        RanksError: another rank has failed, or has another model.
    """
    ranks = present()
    progress = progress and not ranks.rank
    budgets = {
        "keep_macs": keep_macs,
        "keep_params": keep_params,
        "keep_bytes": keep_bytes,
        "keep_peak_memory": keep_peak_memory,
        "keep_units": keep_units,
        "speedup": speedup,
        "latency_ms": latency_ms,
    }
    check_bytes("calibration_bytes", calibration_bytes)
    if sparsity is not None or pattern is not None:
        check_alone(budgets, criterion, reconstruct=reconstruct, uniform=uniform, depth=depth)
        with shown() if progress else contextlib.nullcontext():
            zeroed = zero(
                model,
                *inputs,
                sparsity=sparsity,
                pattern=pattern or "unstructured",
                calibration=calibration,
                samples=samples,
                held_bytes=calibration_bytes,
                method=cast("str | None", criterion),
                protect=protect,
                **kwargs,
            )
        example = Batch(inputs, kwargs)
        report = ranks.first(lambda: reported(model, zeroed.model, example, [], latency=latency))
        return Pruned(zeroed.model, zeroed.plan, report, None, zeroed=zeroed)
    budget = target_of(**budgets)
    example = Batch(inputs, kwargs)
    if budget[0] in TIMED:
        check_timed(model, example, budget)
    options = Options(round_to, min_keep, patterns_of(protect), uniform, depth=depth)
    check_whole_branches(budget[0], calibration, depth=depth, uniform=uniform)
    with evaluated(model) if budget[0] in TIMED else contextlib.nullcontext():
        graph = trace(model, *inputs, **kwargs)
        check_finite(dict(model.named_parameters()))
        data = None
        if reconstruct and calibration is None:
            raise InvalidTargetError("reconstruct", repr(reconstruct), "calibration data with it")
        if calibration is not None:
            data = batches(calibration, inputs, kwargs, samples=samples)
        with shown() if progress else contextlib.nullcontext():
            scores = scored(model, graph, criterion, data, calibration_bytes)
            scores = with_branches(model, graph, scores, data if depth else None, calibration_bytes)
        check_values(graph, scores)
    work = Work(model, example, graph, scores, budget, data, verify, progress, calibration_bytes)
    made, rivals = work.best(options)
    rebuilt = None
    if data is not None and reconstruct:
        with shown() if progress else contextlib.nullcontext():
            rebuilt = rebuild(model, made.small, made.plan, data, steps=reconstruct)
    report = ranks.first(
        lambda: reported(model, made.small, example, made.attempts, latency=latency)
    )
    return Pruned(
        made.small, made.plan, report, made.verdict, made.repaired, rebuilt,
        attempts=tuple(made.attempts), rivals=rivals,
    )  # fmt: skip
