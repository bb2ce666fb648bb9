"""Refit the consumers of a cut model, one after the other, on calibration data.

The dense and the cut model run side by side on the whole calibration set. Before a consumer of the
cut model runs, it is solved: its inputs are those of the cut model with every earlier consumer
already refitted, its targets the dense model's own outputs. Then both go on, with the new weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from excise.axes import leaves
from excise.budget import kept_indices, read_plan
from excise.calibration import (
    Batch,
    Consumer,
    Lanes,
    Moments,
    Share,
    Visit,
    consumers,
    share,
    thinned,
    told,
)
from excise.errors import CalibrationError, InvalidTargetError
from excise.graph import AxisGraph, traced
from excise.plan import Plan
from excise.ranks import jointly, present
from excise.refit.admission import bytes_at, joins, needed
from excise.refit.solve import RIDGES, Solution, relative_error, solve
from excise.refit.statistic import recalibrate_if_better
from excise.refit.stream import Stream, batch_norm_after, stream_of, unscaled

_HELD = 5
"""Of a single batch every so many rows choose the ridge and are not fitted."""
DEFAULT_ROWS = 4096
DEFAULT_HELD_BYTES = 3 * 2**29


class Repair(NamedTuple):
    """What became of one consumer.

    Attributes:
        weight: its parameter's name.
        before: mean squared error of its output against the dense model's, as a share of the dense
            output's variance, on rows that were held out; with the weights as they were cut.
        after: the same with the new weights; equal to `before` if they were kept.
        ridge: the regularisation that was chosen; None if only the bias changed, or nothing.
        batches: that were there, of all ranks.
    """

    weight: str
    before: float
    after: float
    ridge: float | None
    batches: int


@dataclass(frozen=True)
class Refit:
    """What a refit did.

    Attributes:
        repairs: consumer by consumer, in order of execution.
        samples: that it had.
        recalibrated: whether batch norms have new statistics.
    """

    repairs: tuple[Repair, ...] = field(repr=False)
    samples: int
    recalibrated: bool = False

    def __str__(self) -> str:
        return "\n".join(
            f"{r.weight}: error {r.before:.3g} -> {r.after:.3g} of the output's variance"
            for r in self.repairs
        )


@jointly
def refit(
    dense: nn.Module,
    small: nn.Module,
    plan: Plan,
    batches: Sequence[Batch],
    *,
    rows: int = DEFAULT_ROWS,
    weights: bool = True,
    held_bytes: int = DEFAULT_HELD_BYTES,
) -> Refit:
    """Let the consumers of a cut model make up for what was removed; `small` is changed in place.

    Changed: weights of linear layers and convolutions that read a cut model's activations, their
    biases, and the running mean of a batch norm behind a layer without bias (which takes the bias).
    At the end, running means and variances, if that brings the results on held-out batches nearer.
    Not changed: anything else, any shape, `dense`. A consumer whose error on held-out rows does not
    improve keeps its weights. Both models run in eval mode and get their mode back.

    Args:
        dense: the model before the cut.
        small: the model after it.
        plan: the cut between them.
        batches: calibration inputs, from `excise.calibration.batches`; labels are not needed.
        rows: most positions (pixels, tokens) of each batch that are fitted.
        weights: fit weights too; False leaves it at biases and means, as FLAP does.
        held_bytes: most bytes of activations that both models hold of all batches that are under
            way, the inputs themselves not counted. Where that is not enough for all, some join
            behind the widest layers; 16 rows for each feature of a layer are there in any case.

    Raises:
        CalibrationError: there is no batch, or the cut model does not run as the dense one does.
        InvalidTargetError: `held_bytes` is no number of bytes.
        ExampleError: a batch does not run.

    Source:
        Sequential, with the dense model's outputs as targets: He et al., "Channel Pruning", ICCV
        2017, sec. 3.2; residual-corrected targets for branches. Differs: im2col features for
        every convolution, centred, ridge from held-out rows.
    """
    check_bytes("held_bytes", held_bytes)
    if not batches:
        raise CalibrationError("it holds no batch")
    first = batches[0]
    modes = [(module, module.training) for model in (dense, small) for module in model.modules()]
    try:
        dense.eval()
        small.eval()
        before = traced(dense, first.args, first.kwargs, real=True)
        after = traced(small, first.args, first.kwargs, real=True)
        work = Work(before, after, dense, small, plan, rows=rows, weights=weights)
        found = work.run(batches, held_bytes)
        better = weights and recalibrate_if_better(dense, small, batches)
        return replace(found, recalibrated=better)
    finally:
        for module, training in modes:
            module.training = training


def check_bytes(name: str, value: Any) -> None:
    """Refuse what is no number of bytes.

    Raises:
        InvalidTargetError: naming the option.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidTargetError(name, repr(value), "a number of bytes, at least 1")


class Work:
    """Both models' graphs, and what is known of each consumer."""

    def __init__(
        self,
        before: AxisGraph,
        after: AxisGraph,
        dense: nn.Module,
        small: nn.Module,
        plan: Plan,
        *,
        rows: int,
        weights: bool,
    ) -> None:
        if [op.name for op in before.trace.ops] != [op.name for op in after.trace.ops]:
            raise CalibrationError("the cut model takes another path than the dense one")
        self.before, self.after, self.dense, self.small = before, after, dense, small
        self.rows, self.weights = rows, weights
        self.kept, problem = read_plan(before, plan)
        if problem:
            raise CalibrationError(problem)
        self.tensors: dict[str, Tensor] = dict(small.named_parameters(remove_duplicate=False))
        self.tensors |= dict(small.named_buffers(remove_duplicate=False))
        theirs = {c.op: c for c in consumers(before)}
        ours = [c for c in consumers(after) if c.op in theirs and not c.shared]
        self.pairs = {c.op: (theirs[c.op], c) for c in ours}
        found = {op: stream_of(before, pair[0]) for op, pair in self.pairs.items()}
        self.streams: dict[int, Stream] = {op: s for op, s in found.items() if s is not None}
        self.share = Share((), ())

    def run(self, batches: Sequence[Batch], held_bytes: int = DEFAULT_HELD_BYTES) -> Refit:
        """Walk both models through the data, and repair each consumer when all stand before it."""
        self.share = share(batches)
        keep: dict[int, int] = {}  # what a stream's operation made -> the last that asks for it
        for op, stream in self.streams.items():
            keep[stream.op] = max(op, keep.get(stream.op, op))
        ops, stops, repairs = self.before.trace.ops, sorted(self.pairs), []
        late = self._joins(stops, batches[0].samples, held_bytes) if batches else []
        with (
            torch.no_grad(),
            Lanes(self.dense, batches, ops, stops, keep=keep, joins=late) as wide,
            Lanes(
                self.small, batches, self.after.trace.ops, stops, keep=keep, joins=late
            ) as narrow,
        ):
            both = zip(wide, narrow, strict=True)
            for theirs, ours in told(both, "refitting layers", len(stops)):
                repairs.append(self.repair(theirs, ours))
        return Refit(tuple(repairs), self.share.samples)

    def _joins(self, stops: list[int], samples: int, most: int) -> list[int]:
        """When each batch joins; the first of this rank, of so many samples, was traced."""
        each = (bytes_at(self.before, stops) + bytes_at(self.after, stops)) / max(1, samples)
        ranks = present().size
        least = [-(-needed(self.before, self.pairs[n][0], self.rows) // ranks) for n in stops]
        return joins(each, [max(2, n) for n in least], stops, self.share, most)

    def repair(self, theirs: list[Visit], ours: list[Visit]) -> Repair:
        """Solve one consumer and write its weights, before any batch of the cut model runs it."""
        dense, consumer = self.pairs[ours[0].number]
        fit, held = self.moments(dense, consumer, theirs, ours)
        count = round(present().add(len(ours))[0])
        weight = self.tensors[consumer.weight]
        bias = self.tensors.get(consumer.bias)
        norm = batch_norm_after(self.after, consumer) if bias is None else None
        shift = self.mean(norm)
        matrix = consumer.matrix(weight.detach())
        old = torch.zeros(matrix.shape[:2]) if bias is None else bias.detach()
        old = old.reshape(matrix.shape[:2]).to(matrix.device)

        def solved() -> tuple[Solution | None, float]:
            centred, ridges = bias is not None or shift is not None, RIDGES if self.weights else ()
            found = solve(fit, held, matrix, old, centred=centred, ridges=ridges)
            return found, relative_error(held, matrix, old) if found is None else 0.0

        found, known = present().first(solved)
        if found is None:
            return Repair(consumer.weight, known, known, None, count)
        self.write(consumer, weight, bias, shift, found)
        return Repair(consumer.weight, found.before, found.after, found.ridge, count)

    def moments(
        self, dense: Consumer, consumer: Consumer, theirs: list[Visit], ours: list[Visit]
    ) -> tuple[Moments, Moments]:
        """Features of the cut model and targets of the dense one: to fit, and held out.

        Of the batches of all ranks, one of each in turn.
        """
        kept = self._kept_outputs(dense)
        folds: list[Moments | None] = [None, None]
        for wide, narrow in zip(theirs, ours, strict=True):
            place = self.share.places[narrow.place]
            target = self._target(dense, wide, narrow, kept)
            rows = thinned(consumer.features(consumer.read(narrow.args)), self.rows, place)
            wanted = thinned(consumer.targets(target), self.rows, place)
            for fold, part in _folds(place, self.share.judges):
                made = Moments.of(rows[:, part], wanted[:, part])
                known = folds[fold]
                if known is None:
                    folds[fold] = made
                else:
                    known.add(made)
        some = next(fold for fold in folds if fold is not None)
        fit, held = ((fold or some.empty()).joined() for fold in folds)
        if not fit.count or not held.count:
            raise CalibrationError("there are too few rows to hold some out")
        return fit, held

    def _target(self, dense: Consumer, wide: Visit, narrow: Visit, kept: Tensor | None) -> Tensor:
        """The dense output that is wanted, in the cut model's outputs, corrected for its stream."""
        place = -len(dense.kernel) - 1 if dense.kernel else -1

        def cut(tensor: Tensor) -> Tensor:
            return tensor if kept is None else tensor.index_select(tensor.dim() + place, kept)

        target = cut(wide.run())
        stream = self.streams.get(dense.op)
        if stream is not None:
            dense_stream = cut(stream.of(wide.kept[stream.op]))
            present = stream.of(narrow.kept[stream.op])
            if dense_stream.shape == present.shape == target.shape:
                lag = dense_stream - present
                if stream.norm is not None:
                    lag = unscaled(self.after, stream.norm, self.tensors, lag)
                target = target + lag
        return target

    def _kept_outputs(self, dense: Consumer) -> Tensor | None:
        """Which outputs of the dense consumer the cut one still has; None for all."""
        dims = self.before.scope.get(self.before.trace.ops[dense.op].outs[0])
        term = dims[-len(dense.kernel) - 1] if dense.kernel else dims[-1]
        if not any(leaf in self.kept for leaf in leaves(term)):
            return None
        return torch.from_numpy(kept_indices(term, self.kept)).nonzero().flatten()

    def mean(self, norm: int | None) -> Tensor | None:
        """The running mean of a batch norm, which can take a bias."""
        if norm is None:
            return None
        names = {ref: name for name, ref in reversed(self.after.trace.names.items())}
        return self.tensors.get(names.get(self.after.trace.ops[norm].args[3], ""))

    @torch.no_grad()
    def write(
        self,
        consumer: Consumer,
        weight: Tensor,
        bias: Tensor | None,
        shift: Tensor | None,
        found: Solution,
    ) -> None:
        """Write a solution into the small model; a norm behind a bare layer takes the shift."""
        weight.copy_(consumer.weight_of(found.matrix, weight))
        if bias is not None:
            bias.copy_(found.bias.reshape(bias.shape))
        elif shift is not None:  # the norm subtracts its mean: adding b before it is taking b off
            shift.sub_(found.bias.reshape(shift.shape).to(shift.dtype))


def _folds(place: int, judges: frozenset[int]) -> list[tuple[int, slice]]:
    """(0 to fit or 1 to hold out, rows) of one batch."""
    if judges:
        return [(int(place in judges), slice(None))]
    return [(1, slice(None, None, _HELD)), *((0, slice(i, None, _HELD)) for i in range(1, _HELD))]
