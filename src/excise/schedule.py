"""Schedules: a budget reached in several cuts, with training in between."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from excise import measure
from excise.budget import DEFAULT_MIN_KEEP, build
from excise.budget.choose import Asking, Budget, Options
from excise.budget.cost import meter_of
from excise.budget.depth import planned
from excise.budget.option import check_options, check_values, patterns_of, protected, target_of
from excise.budget.presence import Presence
from excise.calibration import Batch, batches, shown
from excise.errors import InvalidTargetError, UnreachableTargetError
from excise.graph import AxisGraph, trace
from excise.measure import Measurement
from excise.plan import Plan
from excise.prune.criterion import scored
from excise.ranks import jointly, present, together
from excise.refit import Refit, refit
from excise.report import Report
from excise.scores import Curves, Scores, magnitude
from excise.surgery import Optimizers, check_finite, check_optimizer, remove, several
from excise.trace.skeleton import named_tensors
from excise.verify import Verdict
from excise.verify import verify as prove

PACES: dict[str, Callable[[float, float], float]] = {
    "cubic": lambda keep, share: keep + (1 - keep) * (1 - share) ** 3,
    "linear": lambda keep, share: 1 - (1 - keep) * share,
    "geometric": lambda keep, share: keep**share,
}
"""What is kept after a share of the cuts, in [0, 1], given what is kept after all of them."""


@dataclass(frozen=True)
class Step:
    """One cut of a schedule; what follows until the next one is yours.

    Attributes:
        number: of this cut, from 1.
        steps: how many there are.
        keep: the budget of this cut, as a fraction of the model that the schedule began with. Where
            single units are much of the model and its pace's budget cannot be met within 3 %, the
            nearest one that can; except for the last cut, which is refused instead.
        model: the model that was given, smaller.
        cut: what this step removed from the model as it was before.
        plan: what all steps so far removed from the model that the schedule began with; this is the
            plan that `excise.save` needs.
        report: that model, and the present one. Not timed.
        verdict: the proof of this cut; None only if it was not asked for.
        refit: what became of each consumer; None without calibration data.
    """

    number: int
    steps: int
    keep: float
    model: nn.Module = field(repr=False)
    cut: Plan = field(repr=False)
    plan: Plan = field(repr=False)
    report: Report = field(repr=False)
    verdict: Verdict | None = field(repr=False)
    refit: Refit | None = field(repr=False)

    def __str__(self) -> str:
        kept = self.report.kept()
        shares = ", ".join(f"{kept[n]:.1%} of {n}" for n in ("parameters", "multiply-adds"))
        return f"step {self.number} of {self.steps}: {shares}"


@jointly
def schedule(
    model: nn.Module,
    *inputs: Any,
    keep_macs: float | None = None,
    keep_params: float | None = None,
    keep_bytes: float | None = None,
    keep_peak_memory: float | None = None,
    keep_units: float | None = None,
    steps: int = 5,
    pace: str = "cubic",
    optimizer: Optimizers = None,
    calibration: Any = None,
    samples: int = 512,
    progress: bool = False,
    criterion: str | Callable[..., Scores | Curves] | None = None,
    round_to: int = 1,
    min_keep: float = DEFAULT_MIN_KEEP,
    protect: str | Iterable[str] = (),
    uniform: bool = False,
    verify: bool = True,
    **kwargs: Any,
) -> Iterator[Step]:
    """Reach a budget in several cuts, and hand over to your own training after each.

        for step in excise.schedule(model, x, keep_macs=0.5, steps=5, optimizer=optimizer):
            train(model, optimizer, epochs=1)
        excise.save(model, step.plan, "small.safetensors")

    Each cut is made of the model as it has been trained by then: traced, scored, planned, proved
    and refitted anew. The model is changed in place: it stays the same object, and so do its
    parameters, so that optimizers, schedulers of learning rates and loops that hold them go on.
    The optimizer's state is sliced along, as if the removed units had never been there.

    An average of the weights (EMA) that you keep has a cut of its own:
    `excise.remove(average, step.cut, inplace=True)`. A wrapper that remembers sizes
    (`DistributedDataParallel`, `torch.compile`) has to be made again after each cut. On several
    ranks (`excise.ranks`) all of them iterate, each with its share of the calibration data.

    Args:
        model: any `nn.Module`. Changed in place, cut by cut; a cut that is refused changes nothing.
        inputs: an example input.
        keep_macs: fraction of multiply-adds to keep in the end, in (0, 1]; give exactly one budget.
        keep_params: fraction of parameters to keep.
        keep_bytes: fraction of the bytes of parameters and buffers to keep.
        keep_peak_memory: fraction of the peak activation memory to keep.
        keep_units: fraction of units to keep.
        steps: number of cuts.
        pace: how fast: "cubic" takes most at the beginning, while there is most to spare and most
            training to come; "linear" takes the same amount each time, "geometric" the same share
            of what is left.
        optimizer: an optimizer of the model, or several.
        calibration: as for `excise.prune`; read once, and held until the last cut.
        samples: use so many of them.
        progress: show how far calibration is, on standard error.
        criterion: as for `excise.prune`; "taylor" reads the gradients of your last step.
        round_to: keep a multiple of this many units.
        min_keep: least to keep of each group: units if >= 1, else a fraction of what it had when
            the schedule began.
        protect: names or patterns of modules that stay whole.
        uniform: cut repeated layers alike, and stay within what the model's configuration can say.
        verify: prove each cut.
        kwargs: keyword inputs of the model.

    Returns:
        An iterator; each item is one cut that has just been made, each within 3 % of its budget.

    Raises:
        InvalidTargetError: not exactly one budget, or an option out of range; also for a speed,
            which is measured and not counted: ask for the multiply-adds that
            `excise.prune(speedup=...)` left.
        UnknownModuleError: `protect` matches nothing.
        OptimizerStateError: the optimizer is of another model, or its state cannot be sliced.
        CalibrationError: the calibration data is no input of the model.
        TraceError: the model cannot be read.
        UnreachableTargetError: the budget cannot be met.
        SurgeryError: while iterating: a weight is NaN or infinite.
        VerificationError: while iterating: a cut would compute something else; it is not made.
        RanksError: another rank has failed, or has another model.

    Source:
        Cubic: Zhu and Gupta, "To prune, or not to prune", 2017, eq. 1, with units in place of
        weights.
    """
    for name in ("speedup", "latency_ms", "sparsity", "pattern"):
        if name in kwargs:
            allowed = "a budget that is counted, such as keep_macs, to a schedule"
            raise InvalidTargetError(name, repr(kwargs[name]), allowed)
    budget = target_of(
        keep_macs=keep_macs,
        keep_params=keep_params,
        keep_bytes=keep_bytes,
        keep_peak_memory=keep_peak_memory,
        keep_units=keep_units,
    )
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise InvalidTargetError("steps", repr(steps), "a whole number of cuts, at least 1")
    if not isinstance(pace, str) or pace not in PACES:
        raise InvalidTargetError("pace", repr(pace), f"one of {', '.join(PACES)}")
    check_options(round_to, min_keep)
    options = Options(round_to, min_keep, patterns_of(protect), uniform)
    graph = trace(model, *inputs, **kwargs)
    protected(graph, options.protect)
    for each in several(optimizer):
        check_optimizer(each, model)
    data = None
    if calibration is not None:
        data = batches(calibration, inputs, kwargs, samples=samples)
    work = _Work(
        model,
        graph,
        Batch(inputs, kwargs),
        budget,
        options,
        optimizers=several(optimizer),
        data=data,
        criterion=criterion,
        verify=verify,
        progress=progress and not present().rank,
    )
    work.check_reachable(graph, budget[1])
    return work.run([PACES[pace](budget[1], n / steps) for n in range(1, steps + 1)])


class _Work:
    """What a schedule has to remember between its cuts."""

    def __init__(
        self,
        model: nn.Module,
        graph: AxisGraph,
        example: Batch,
        budget: tuple[str, float],
        options: Options,
        *,
        optimizers: tuple[Any, ...],
        data: list[Batch] | None,
        criterion: str | Callable[..., Scores | Curves] | None,
        verify: bool,
        progress: bool,
    ) -> None:
        self.model, self.example, self.optimizers, self.data = model, example, optimizers, data
        self.criterion, self.verify, self.progress = criterion, verify, progress
        self.name, self.total = budget[0], meter_of(graph, budget[0]).total({})
        self.options = options._replace(whole={group.name: group.size for group in graph.groups})
        self.plan = build(graph, {}, {})
        self.before = self.measured()

    def measured(self) -> Measurement:
        """The present model, without its times."""
        args, kwargs = self.example
        return measure.everything(self.model, *args, latency=False, **kwargs)

    def budget(self, keep: float) -> Asking:
        """A budget that is a fraction of what the model had when the schedule began."""

        def budget(graph: AxisGraph, presence: Presence | None = None) -> Budget:
            meter = meter_of(graph, self.name, presence)
            return Budget(self.name, keep, meter, keep * self.total)

        return budget

    def check_reachable(self, graph: AxisGraph, keep: float) -> None:
        """Refuse a last budget below the smallest model, before the first cut.

        Raises:
            UnreachableTargetError: it is.
        """
        try:
            planned(graph, magnitude(self.model, graph), self.budget(keep), self.options)
        except UnreachableTargetError as error:
            if not error.nearest:  # else it depends on the scores, which are not known yet
                raise

    def run(self, keeps: list[float]) -> Iterator[Step]:
        """One cut after the other."""
        for number, keep in enumerate(keeps, 1):
            bars = shown() if self.progress else contextlib.nullcontext()
            with together(self.model), bars:
                found, cut, verdict, repaired = self.cut(keep, keeps[-1])
            report = Report(self.before, self.measured())
            yield Step(
                number, len(keeps), found, self.model, cut, self.plan, report, verdict, repaired
            )

    def cut(self, keep: float, last: float) -> tuple[float, Plan, Verdict | None, Refit | None]:
        """Plan, prove and refit on a copy; then do the same to the model itself."""
        args, kwargs = self.example
        graph = trace(self.model, *args, **kwargs)
        check_finite(dict(self.model.named_parameters()))
        scores = scored(self.model, graph, self.criterion, self.data)
        check_values(graph, scores)
        keep, plan = present().first(lambda: self.planned(graph, scores, keep, last))
        whole = self.plan.then(plan)
        verdict = repaired = small = None
        if self.verify or self.data is not None:
            small = remove(self.model, plan)
        if small is not None and self.verify:
            copy = small
            verdict = present().first(lambda: prove(self.model, copy, plan, *args, **kwargs))
            verdict.check()
        if small is not None and self.data is not None:
            repaired = refit(self.model, small, plan, self.data)
        present().meet("cut")  # no rank cuts if one has failed
        remove(self.model, plan, inplace=True, optimizer=self.optimizers)
        if small is not None and repaired is not None:
            _take(self.model, small)
        self.plan = whole
        return keep, plan, verdict, repaired

    def planned(
        self, graph: AxisGraph, scores: Scores | Curves, keep: float, last: float
    ) -> tuple[float, Plan]:
        """A plan for a budget; on the way to the last one, the nearest budget that there is."""
        try:
            return keep, planned(graph, scores, self.budget(keep), self.options)
        except UnreachableTargetError as error:
            between = [near for near in error.nearest if near >= last]
            if keep == last or not between:
                raise
            keep = min(between, key=lambda near: abs(near - keep))
        return keep, planned(graph, scores, self.budget(keep), self.options)


@torch.no_grad()
def _take(model: nn.Module, refitted: nn.Module) -> None:
    """Copy the values of a refitted copy."""
    found = dict(named_tensors(refitted))
    for name, tensor in named_tensors(model):
        tensor.copy_(found[name])
