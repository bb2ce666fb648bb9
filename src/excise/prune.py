"""The one-liner: trace, score, plan, cut, prove, refit, measure."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from excise import measure
from excise.budget import DEFAULT_MIN_KEEP, TIMED, Asked, Attempt, timed
from excise.budget.choose import Options, counted
from excise.budget.depth import check_branches, check_depth, planned
from excise.budget.option import check_values, patterns_of, target_of
from excise.calibration import Batch, batches, share, shown
from excise.depth import branched
from excise.errors import InvalidTargetError, UnreachableTargetError
from excise.graph import AxisGraph, trace, traced
from excise.measure import Speedup
from excise.measure.latency import evaluated
from excise.measure.replay import watched
from excise.measure.table import table
from excise.plan import Plan
from excise.ranks import jointly, present
from excise.recover import Reconstruction
from excise.recover import reconstruct as rebuild
from excise.refit import DEFAULT_HELD_BYTES, Refit, check_bytes, refit
from excise.report import Report
from excise.scores import CALIBRATED, Curves, Scores, by_name, obs
from excise.scores.probe import distance, outputs, results
from excise.surgery import check_finite, remove
from excise.verify import Verdict
from excise.verify import verify as prove
from excise.zero import METHODS, Zeroed, zero

_TRIAL_S = 8.0  # of a plan's speed, and of the last word on it
_REPORT_S = 2.0


class Rival(NamedTuple):
    """A plan that was carried out and compared.

    Attributes:
        plan: the cut.
        apart: squared change of the outputs on held-out batches after the refit, as a share of
            their variance.
    """

    plan: Plan
    apart: float


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
        reconstruction: what training the blocks did; None if it was not asked for.
        attempts: the plans that were measured on the way to a speed, the last one taken; empty for
            other budgets.
        zeroed: the layers and their zeros, if `sparsity` or `pattern` was asked for; then nothing
            was removed, and there is nothing to prove.
        rivals: if whole branches could go, the best plan with and that without, both refitted; the
            one that is less apart was taken. Empty if no branch was worth it to begin with.
    """

    model: nn.Module
    plan: Plan
    report: Report
    verdict: Verdict | None
    refit: Refit | None = None
    reconstruction: Reconstruction | None = None
    attempts: tuple[Attempt, ...] = ()
    zeroed: Zeroed | None = None
    rivals: tuple[Rival, ...] = ()


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
        _check_alone(budgets, criterion, reconstruct=reconstruct, uniform=uniform, depth=depth)
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
        report = ranks.first(lambda: _report(model, zeroed.model, example, [], latency=latency))
        return Pruned(zeroed.model, zeroed.plan, report, None, zeroed=zeroed)
    budget = target_of(**budgets)
    example = Batch(inputs, kwargs)
    if budget[0] in TIMED:
        _check_timed(model, example, budget)
    options = Options(round_to, min_keep, patterns_of(protect), uniform, depth=depth)
    _check_depth(budget[0], calibration, depth=depth, uniform=uniform)
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
            scores = _with_branches(
                model, graph, scores, data if depth else None, calibration_bytes
            )
        check_values(graph, scores)
    work = _Work(model, example, graph, scores, budget, data, verify, progress, calibration_bytes)
    made, rivals = work.best(options)
    rebuilt = None
    if data is not None and reconstruct:
        with shown() if progress else contextlib.nullcontext():
            rebuilt = rebuild(model, made.small, made.plan, data, steps=reconstruct)
    report = ranks.first(
        lambda: _report(model, made.small, example, made.attempts, latency=latency)
    )
    return Pruned(
        made.small, made.plan, report, made.verdict, made.repaired, rebuilt,
        attempts=tuple(made.attempts), rivals=rivals,
    )  # fmt: skip


class _Made(NamedTuple):
    """One plan, carried out."""

    plan: Plan
    attempts: list[Attempt]
    small: nn.Module
    verdict: Verdict | None
    repaired: Refit | None


@dataclass(frozen=True)
class _Work:
    """What it takes to make a plan and to carry it out."""

    model: nn.Module
    example: Batch
    graph: AxisGraph
    scores: Scores | Curves
    budget: tuple[str, float]
    data: list[Batch] | None
    verify: bool
    progress: bool
    held_bytes: int

    def best(self, options: Options) -> tuple[_Made, tuple[Rival, ...]]:
        """A plan, carried out; of two, with branches and without, what is less apart.

        What branches cost together is more than the sum of what each does alone, and what widths
        cost together often less: so the knapsack proposes, and the outputs decide.
        """
        first = self.made(options)
        if not first.plan.branches:
            return first, ()
        try:
            second = self.made(options._replace(depth=False))
        except UnreachableTargetError:
            return first, (Rival(first.plan, self.apart(first.small)),)
        both = [(made, self.apart(made.small)) for made in (first, second)]
        rivals = tuple(Rival(made.plan, apart) for made, apart in both)
        place = present().first(lambda: int(both[1][1] <= both[0][1]))
        return both[place][0], rivals

    def made(self, options: Options) -> _Made:
        """Plan, cut, prove, refit."""
        attempts: list[Attempt] = []
        if self.budget[0] in TIMED:
            with evaluated(self.model):
                attempts = present().first(lambda: self.timed(options))
            plan = attempts[-1].plan
        else:
            asked = counted(*self.budget)
            plan = present().first(lambda: planned(self.graph, self.scores, asked, options))
        small = remove(self.model, plan)
        verdict = repaired = None
        if self.verify:
            args, kwargs = self.example
            verdict = present().first(lambda: prove(self.model, small, plan, *args, **kwargs))
            verdict.check()
        if self.data is not None:
            with shown() if self.progress else contextlib.nullcontext():
                repaired = refit(self.model, small, plan, self.data, held_bytes=self.held_bytes)
        return _Made(plan, attempts, small, verdict, repaired)

    def timed(self, options: Options) -> list[Attempt]:
        """Plans for a speed, each cut and measured."""
        args, kwargs = self.example
        dense_ms = min(measure.latency(self.model, *args, **kwargs).low_ms for _ in range(2))
        rows = table(watched(self.graph))

        def in_turns(plan: Plan) -> Speedup:
            small = remove(self.model, plan)
            return measure.speedup(self.model, small, *args, seconds=_TRIAL_S, **kwargs)

        return timed(
            self.graph, self.scores, Asked(*self.budget), options,
            rows=rows, measure=in_turns, dense_ms=dense_ms,
        )  # fmt: skip

    def apart(self, small: nn.Module) -> float:
        """How far a cut model's results are from the dense one's on batches that are held out."""
        assert self.data is not None  # noqa: S101 - branches are not weighed without
        _, judges = share(self.data).parts(self.data)
        judges = judges or self.data
        first = self.data[0]
        with evaluated(self.model), evaluated(small):
            ends = results(traced(self.model, first.args, first.kwargs, real=True))
            wanted = [outputs(self.model, batch, ends) for batch in judges]
            return distance(wanted, (outputs(small, batch, ends) for batch in judges))


def _check_depth(name: str, calibration: Any, *, depth: bool, uniform: bool) -> None:
    """Refuse what stands against removing whole branches, before anything is done."""
    if depth:
        check_depth(name, uniform=uniform)
        if calibration is None:
            raise InvalidTargetError("depth", "True without data", "calibration data with it")


def _with_branches(
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


def _check_alone(budgets: dict[str, Any], criterion: Any, **options: Any) -> None:
    """Zeros in place and units removed are two requests."""
    asked = [name for name, value in budgets.items() if value is not None]
    asked += [name for name, value in options.items() if value]
    if asked:
        raise InvalidTargetError("budget", f"{asked[0]} and zeros in place", "one of the two")
    if criterion is not None and not isinstance(criterion, str):
        names = ", ".join(METHODS)
        raise InvalidTargetError("criterion", repr(criterion), f"{names} for zeros in place")


def _check_timed(model: nn.Module, example: Batch, budget: tuple[str, float]) -> None:
    """Refuse what takes no time, before anything is done."""
    tensors = [*model.parameters(), *model.buffers(), *tree_leaves(tuple(example))]
    if any(isinstance(t, Tensor) and t.is_meta for t in tensors):
        name, target = budget
        allowed = "it with weights and inputs that are there: on the meta device nothing runs"
        raise InvalidTargetError(name, repr(target), allowed)


def _report(
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
