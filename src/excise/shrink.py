"""Masked models become really smaller, exactly: unpack masks, find what can go, cut, compare."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from excise import units
from excise.errors import InvalidTargetError, NotExactError
from excise.exact import Diagnosis, Exact, carry_out, diagnose, exact, flush, plain, widened
from excise.exact.blame import parting
from excise.exact.equal import Trial, differences, outputs, resized, runs, trials
from excise.exact.mask import borrowed, duplicate
from excise.graph import trace
from excise.measure import Measurement, file_bytes, memory_bytes, params
from excise.measure import latency as time_passes
from excise.plan import Plan
from excise.report import Report
from excise.verify.tape import Wide

TOLERANCE64 = 1e-12
TOLERANCE = 1e-5
_OWN = 10.0
"""How many times the original's own rounding error counts as equal where that exceeds the bound."""
_CHEAP_MACS = 300_000_000


class Example(NamedTuple):
    """The input that the caller gave."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Sides(NamedTuple):
    """What is compared: both models in their own precision, and both in float64."""

    original: nn.Module
    small: nn.Module
    original64: nn.Module
    wide: nn.Module


class Gap(NamedTuple):
    """A difference, what was allowed, and the output."""

    worst: float
    allowed: float
    output: str


class Check(NamedTuple):
    """One comparison: on what, in which precision, and the worst relative difference."""

    trial: str
    dtype: str
    worst: float
    allowed: float


@dataclass(frozen=True)
class Shrinkage:
    """The report of `shrink`: what is zero, what was removed, what it bought.

    Attributes:
        diagnosis: zeros, what went, and why the rest stays.
        bought: parameters, MACs, bytes and milliseconds before (as the model came) and after.
        plan: the cut; `excise.save(small, report.plan, path)` stores it with the model.
        checks: what was compared before the model was returned.
        flushed: near-zero and subnormal values that were set to zero on request.
        change: largest output change by flushing, relative, as measured; 0 without flushing.
    """

    diagnosis: Diagnosis
    bought: Report
    plan: Plan
    checks: tuple[Check, ...]
    flushed: int = 0
    change: float = 0.0

    @property
    def worst(self) -> float:
        """The worst relative difference of all comparisons."""
        return max((check.worst for check in self.checks), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "diagnosis": self.diagnosis.to_dict(),
            "bought": self.bought.to_dict(),
            "checks": [check._asdict() for check in self.checks],
            "flushed": self.flushed,
            "measured_output_change": self.change,
        }

    def columns(self) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """The three columns: what is zero, what was removed, what it bought."""
        d = self.diagnosis
        empty = sum(layer.empty for layer in d.layers)
        left = sum(layer.left_zeros for layer in d.layers)
        zero = (
            f"{units.count(d.zeros, 'parameters')} ({100 * d.zeros / max(d.params, 1):.1f} %)",
            units.count(empty, "empty filters"),
            f"{units.count(left, 'zeros')} stay{'' if left != 1 else 's'}",
        )
        count = sum(n for n, _ in d.removed_units.values())
        removed = (
            units.count(d.removed_params, "parameters"),
            f"{units.count(count, 'units')} of {units.count(len(d.removed_units), 'axes')}",
            f"{units.count(len(d.folded), 'tensors')} took up constants"
            if d.folded
            else "no constant to fold",
        )
        kept = self.bought.kept()
        bought = tuple(f"{name}: {100 * share:.1f} % left" for name, share in kept.items())
        return zero, removed, bought

    def __str__(self) -> str:
        zero, removed, bought = self.columns()
        many = units.count(len(self.checks), "comparisons")
        lines = [
            f"zero:    {'; '.join(zero)}",
            f"removed: {'; '.join(removed)}",
            f"bought:  {'; '.join(bought)}",
            f"equal:   worst relative difference {self.worst:.2g}, {many}",
        ]
        if self.flushed:
            moved = f"outputs moved by up to {self.change:.2g}, measured"
            lines.append(f"flushed: {units.count(self.flushed, 'values')}; {moved}")
        lines += [f"{layer.name}: {layer.says}" for layer in self.diagnosis.layers if layer.says]
        return "\n".join(lines)


class Shrunk(NamedTuple):
    """The small model and its report: `small, report = excise.shrink(model, *inputs)`."""

    model: nn.Module
    report: Shrinkage


def shrink(
    model: nn.Module,
    *inputs: Any,
    atol: float = 0.0,
    flush_subnormals: bool = False,
    latency: bool = True,
    **kwargs: Any,
) -> Shrunk:
    """Remove what zeros let go, without changing what the model computes in eval mode.

    Masks of `torch.nn.utils.prune`, `torch.nn.utils.parametrize` and `torch.ao.pruning` are taken
    as they are, and so are plain zeros. A unit goes if nobody who stays reads it, or if it is a
    constant where it is read: then the constant is added to the reader's bias (or a following batch
    norm's mean; or a bias is made). Where a padded convolution reads constants, one constant unit
    stays and takes over the others, so that the result is exact at any resolution.

    Args:
        model: any `nn.Module` that runs, masked or with zeros. Not touched.
        inputs: an example input.
        atol: weights of at most this size count as zero. The default, 0, changes nothing; with any
            other value the output changes, and the report says by how much.
        flush_subnormals: count subnormal weights as zero.
        latency: measure milliseconds before and after; takes about two seconds.
        kwargs: keyword inputs of the model.

    Returns:
        The small model, of the same class, in the same mode, without masks; and the report.

    Raises:
        TraceError: the model cannot be read.
        InvalidTargetError: `atol` is negative or no number.
        NonFiniteWeightError: a weight is NaN or infinite.
        NotExactError: the small model computes something else; nothing is returned.
    """
    own, flushed = _prepared(model, atol, flush_subnormals=flush_subnormals)
    found = exact(own, inputs, kwargs)
    small = carry_out(found)
    example = Example(inputs, kwargs)
    checks = tuple(_compare(None if flushed else model, small, found, example))
    change = _change(model, own, inputs, kwargs) if flushed else 0.0
    bought = _bought((model, small), found, example, latency=latency)
    return Shrunk(small, Shrinkage(diagnose(found), bought, found.plan, checks, flushed, change))


def explain(model: nn.Module, *inputs: Any, atol: float = 0.0, **kwargs: Any) -> Diagnosis:
    """Tell which zeros a model has, which of them `shrink` would remove, and why the rest stay.

    Args:
        model: as for `shrink`. Not touched, and nothing is built.
        inputs: an example input.
        atol: weights of at most this size count as zero.
        kwargs: keyword inputs.

    Raises:
        TraceError, InvalidTargetError, NonFiniteWeightError: as `shrink`.
    """
    own, _ = _prepared(model, atol, flush_subnormals=False)
    return diagnose(exact(own, inputs, kwargs))


def _prepared(model: nn.Module, atol: float, *, flush_subnormals: bool) -> tuple[nn.Module, int]:
    number = isinstance(atol, (int, float)) and not isinstance(atol, bool)
    if not number or not 0 <= atol < math.inf:
        raise InvalidTargetError("atol", repr(atol), "a size of weights, 0 or above")
    own = plain(model)
    wanted = atol > 0 or flush_subnormals
    return own, flush(own, atol, subnormal=flush_subnormals) if wanted else 0


def _compare(
    model: nn.Module | None, small: nn.Module, found: Exact, example: Example
) -> Iterator[Check]:
    """Compare at the example's resolution, and at another one if the original takes it.

    On the example itself the model runs as it came, masks and all; everywhere else it is the plain
    model, which has the same weights.

    Raises:
        NotExactError: naming the output, the input and the first operation that differs.
    """
    wide, plain64 = widened(small, found), duplicate(found.model, torch.float64)
    training = [(m, m.training) for m in small.modules()]
    small.eval()
    try:
        for number, (trial, alone) in enumerate(_trials(found.model, found, *example)):
            original = borrowed(model) if model is not None and not number else found.model
            sides = Sides(original, small, plain64, wide)
            yield from _checked(sides, found, trial, alone=alone)
    finally:
        for module, mode in training:
            module.training = mode


def _trials(
    original: nn.Module, found: Exact, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[tuple[Trial, bool]]:
    """Inputs, and whether only the model's own precision is compared on them."""
    cheap = found.graph.macs() <= _CHEAP_MACS
    second: list[Trial] = []
    for a, k, place in resized(args, kwargs):
        candidates = list(trials(a, k, place))
        same = _shapes(a, k) == _shapes(args, kwargs)
        if not same and runs(original, candidates[0], None):
            second = candidates
            break
    for number, trial in enumerate(trials(args, kwargs, "")):
        if cheap or not second or number == 0:
            yield trial, not (cheap or not second)
    for trial in second:
        yield trial, False


def _shapes(args: Any, kwargs: Any) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    tree_map_only(Tensor, lambda t: found.append(tuple(t.shape)), (args, kwargs))
    return found


def _checked(sides: Sides, found: Exact, trial: Trial, *, alone: bool) -> Iterator[Check]:
    """One input, in the model's own precision and (unless `alone`) in float64."""
    native = outputs(sides.original, trial, None)
    worst, name = _worst(native, outputs(sides.small, trial, None))
    dtype = _dtype(sides.original)
    allowed = TOLERANCE64 if dtype == torch.float64 else TOLERANCE
    double = Trial(trial.kind, *tree_map_only(Tensor, _wide, trial[1:]))
    exactly = None
    if worst > allowed or not alone:
        exactly = outputs(sides.original64, double, Wide)
        own = _worst(exactly, tree_map_only(Tensor, _wide, native))[0]
        allowed = max(allowed, _OWN * own)
    if worst > allowed:
        if not _same_axes(found, trial):
            return
        _fail(found, (sides.original, sides.small), trial, Gap(worst, allowed, name))
    yield Check(trial.kind, str(dtype).removeprefix("torch."), worst, allowed)
    if exactly is not None and dtype != torch.float64:
        worst, name = _worst(exactly, outputs(sides.wide, double, Wide))
        if worst > TOLERANCE64:
            if not _same_axes(found, trial):
                return
            gap = Gap(worst, TOLERANCE64, name)
            _fail(found, (sides.original64, sides.wide), double, gap)
        yield Check(trial.kind, "float64", worst, TOLERANCE64)


def _same_axes(found: Exact, trial: Trial) -> bool:
    """Whether dimensions mean at this input what they mean at the example.

    `x.view(-1, 1024)` takes any resolution, but at another one it makes samples of pieces of
    channels: another function, about which nothing was said.
    """
    graph = trace(found.model, *trial.args, **trial.kwargs)
    before = {(g.name, g.size, g.slots) for g in found.graph.groups}
    return before <= {(g.name, g.size, g.slots) for g in graph.groups}


def _fail(found: Exact, pair: tuple[nn.Module, nn.Module], trial: Trial, gap: Gap) -> None:
    op = parting(found.live, *pair, trial, max(gap.allowed, TOLERANCE64))
    where = f"{op.where} in {op.module}" if op is not None else ""
    raise NotExactError(*gap, trial.kind, op.name if op is not None else "", where)


def _worst(wanted: Any, found: Any) -> tuple[float, str]:
    gaps = differences(wanted, found)
    return max(((gap, name) for name, gap in gaps), default=(0.0, "none"))


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _change(
    model: nn.Module, flushed: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> float:
    """How far flushing alone moved the outputs, on all inputs that are compared."""
    before = borrowed(model)
    return max(
        _worst(outputs(before, trial, None), outputs(flushed, trial, None))[0]
        for trial in trials(args, kwargs, "")
    )


def _bought(
    models: tuple[nn.Module, nn.Module], found: Exact, example: Example, *, latency: bool
) -> Report:
    kept = {axis: axis.size - int(gone.sum()) for axis, gone in found.live.gone.items()}
    macs = found.graph.macs(), found.graph.macs(kept)
    before, after = (
        Measurement(
            params(model), count, file_bytes(model), memory_bytes(model),
            time_passes(model, *example.args, **example.kwargs) if latency else None,
        )
        for model, count in zip(models, macs, strict=True)
    )  # fmt: skip
    return Report(before, after)
