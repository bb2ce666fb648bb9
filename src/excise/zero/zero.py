"""One-shot zeros: every layer in order, on what the layers before it now give."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from excise.budget import plan_units
from excise.budget.option import matching, patterns_of
from excise.calibration import Batch, Consumer, Visit, batches
from excise.errors import InvalidTargetError
from excise.exact import plain
from excise.graph import traced
from excise.plan import Plan
from excise.ranks import jointly, present
from excise.refit.limit import DEFAULT_HELD_BYTES, DEFAULT_ROWS, check_bytes
from excise.refit.pair import pair
from excise.refit.repair import Repair
from excise.refit.solve import Solution, relative_error, solve
from excise.refit.stream import batch_norm_after
from excise.refit.work import Work
from excise.zero.allocate import allocated
from excise.zero.method import METHODS, Layer, Method
from excise.zero.pattern import Pattern


@dataclass(frozen=True)
class Zero:
    """One layer: its share of zeros, and the squared error of its outputs as a share of theirs."""

    weight: str
    zeros: float
    error: float


@dataclass(frozen=True)
class Zeroed:
    """A model with zeros.

    Attributes:
        model: a copy of the one given.
        layers: what became of each.
        zeros: share of zeros over all of these weights.
        plan: that of a model from which nothing was removed, for `excise.save`.
    """

    model: nn.Module
    layers: tuple[Zero, ...]
    zeros: float
    plan: Plan = field(repr=False)

    def __str__(self) -> str:
        lines = [f"{z.weight:<50} {z.zeros:6.1%}  error {z.error:.2g}" for z in self.layers]
        return "\n".join([*lines, f"{self.zeros:.1%} zeros"])


@jointly
def zero(
    model: nn.Module,
    *inputs: Any,
    sparsity: float | None = None,
    pattern: str = "unstructured",
    calibration: Any = None,
    samples: int = 512,
    method: str | None = None,
    allocation: str | None = None,
    protect: str | Iterable[str] = (),
    held_bytes: int = DEFAULT_HELD_BYTES,
    **kwargs: Any,
) -> Zeroed:
    """Set weights to zero in one shot, and let the others make up for them.

    Linear layers and convolutions are solved in order of execution, each on what the layers before
    it now give, so that its outputs stay as near to the dense model's as they can.

    Args:
        model: any `nn.Module`. Not touched.
        inputs: an example input.
        sparsity: share of zeros over all layers that are worked on, in (0, 1); for n:m it follows
            from the pattern.
        pattern: "unstructured"; "2:4" or any n:m, along the features of a layer; "block:4x1", rows
            by columns of the weight as a matrix.
        calibration: as for `excise.prune`. Only "magnitude" does without.
        samples: use so many of them.
        method: "magnitude", "wanda", "sparsegpt" or "admm"; by default "admm" with calibration data
            and "magnitude" without. With "admm" biases and running means change too.
        allocation: "uniform", "erk", "lamp" or "owl"; by default "lamp" where the pattern is free
            and "uniform" for n:m.
        protect: names or patterns of modules that stay dense.
        held_bytes: most bytes of activations that are held at one time, as in `excise.refit`.
        kwargs: keyword inputs of the model.

    Returns:
        A copy of the model with zeros, masks and parametrizations merged; shapes and dtypes are
        what they were. Left alone: layers that the pattern does not divide, depthwise and
        transposed convolutions, recurrent layers, weights that are used more than once, and
        everything that is no layer.

    Raises:
        InvalidTargetError: an option is out of range, or they contradict each other.
        CalibrationError: the calibration data is no input of the model.
        TraceError: the model cannot be read.
    """
    shape = Pattern.of(pattern)
    wanted = _share(sparsity, shape)
    method = method or ("magnitude" if calibration is None else "admm")
    if method not in METHODS:
        raise InvalidTargetError("method", repr(method), f"one of {', '.join(METHODS)}")
    if calibration is None and method != "magnitude":
        raise InvalidTargetError("method", f"{method!r} without data", "calibration data with it")
    check_bytes("held_bytes", held_bytes)
    patterns = patterns_of(protect)
    given = [Batch(inputs, kwargs)]
    if calibration is not None:
        given = batches(calibration, inputs, kwargs, samples=samples)
    dense, zeroed = plain(model), plain(model)  # masks multiplied in
    modes = [(module, module.training) for module in zeroed.modules()]
    try:
        dense.eval()
        zeroed.eval()
        walk = _Walk(dense, zeroed, given[0], METHODS[method], update=method == "admm")
        guarded = matching(walk.graphs.before, patterns)
        layers = {n: m for n, m in walk.matrices().items() if shape.fits(m.shape)}
        layers = {name: matrix for name, matrix in layers.items() if name not in guarded}
        if not layers:
            raise InvalidTargetError("pattern", f"{pattern!r} divides no layer", "another pattern")
        worths = {name: matrix.square().cpu() for name, matrix in layers.items()}
        how = allocation or ("uniform" if shape.m else "lamp")
        walk.pattern, walk.shares = shape, allocated(how, worths, wanted)
        walk.run(given, held_bytes)
    finally:
        for module, training in modes:
            module.training = training
    gone = sum(z.zeros * layers[z.weight].numel() for z in walk.done)
    total = sum(matrix.numel() for matrix in layers.values())
    return Zeroed(zeroed, tuple(walk.done), gone / total, walk.plan)


def _share(sparsity: float | None, pattern: Pattern) -> float:
    if pattern.zeros is not None:
        if sparsity is not None and sparsity != pattern.zeros:
            raise InvalidTargetError(
                "sparsity", repr(sparsity), f"{pattern.zeros} or none with {pattern.name}"
            )
        return pattern.zeros
    number = isinstance(sparsity, (int, float)) and not isinstance(sparsity, bool)
    if sparsity is None or not number or not 0 < sparsity < 1:
        raise InvalidTargetError("sparsity", repr(sparsity), "a share of zeros, in (0, 1)")
    return float(sparsity)


class _Walk(Work):
    """The walk of a refit, with zeros instead: both models have the same shapes."""

    def __init__(
        self, dense: nn.Module, zeroed: nn.Module, first: Batch, method: Method, *, update: bool
    ) -> None:
        before = traced(dense, first.args, first.kwargs, real=True)
        after = traced(zeroed, first.args, first.kwargs, real=True)
        self.plan = plan_units(before, {})
        both = pair(before, after, self.plan)
        super().__init__(both, dense, zeroed, self.plan, rows=DEFAULT_ROWS, weights=True)
        self.method, self.update = method, update
        self.pattern, self.shares = Pattern.of("unstructured"), dict[str, float]()
        self.done: list[Zero] = []

    def matrices(self) -> dict[str, Tensor]:
        """Weight's name -> the weight as (groups, outputs, features)."""
        every = [c for some in self.consumers.values() for c in some if c.part is None]
        return {c.weight: c.matrix(self.tensors[c.weight].detach()) for c in every}

    def repair(self, consumer: Consumer, theirs: list[Visit], ours: list[Visit]) -> Repair:
        """Set zeros in one layer, and write it before any batch runs it."""
        weight = self.tensors[consumer.weight]
        if consumer.weight not in self.shares:
            return Repair(consumer.weight, 0.0, 0.0, None, 0)
        bias = self.tensors.get(consumer.bias)
        norm = batch_norm_after(self.after, consumer) if bias is None else None
        shift = self.mean(norm) if self.update else None
        centred = self.update and (bias is not None or shift is not None)
        fit, held = self.moments(consumer, theirs, ours)
        count = round(present().add(len(ours))[0])
        matrix = consumer.matrix(weight.detach()).to(fit.xx)
        old = torch.zeros_like(matrix[:, :, 0])
        if bias is not None:
            old = bias.detach().reshape(old.shape).to(old)

        def solved() -> tuple[Solution, float]:
            found = solve(fit, held, matrix, old, centred=centred) if self.update else None
            if found is None:
                fit.add(held)
            layer = Layer(
                matrix if found is None else found.matrix,
                fit.covariance() if centred else fit.second(),
            )
            made = self.method(layer, self.pattern, self.shares[consumer.weight])
            assert fit.t is not None  # noqa: S101 - for the type checker
            new = fit.t / fit.count - (made @ fit.mean()[:, :, None])[:, :, 0] if centred else old
            return Solution(made, new, None, 0.0, 0.0), relative_error(fit, made, new)

        made, error = present().first(solved)
        self.write(consumer, weight, bias, shift, made)
        zeros = 1 - int(torch.count_nonzero(weight)) / weight.numel()
        self.done.append(Zero(consumer.weight, zeros, error))
        return Repair(consumer.weight, 0.0, 0.0, None, count)
