"""Refit the consumers of a cut model, one after the other, on calibration data.

The dense and the cut model run side by side on the whole calibration set. Before a consumer of the
cut model runs, it is solved: its inputs are those of the cut model with every earlier consumer
already refitted, its targets the dense model's own outputs. Then both go on, with the new weights.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from excise.axes import Term, leaves
from excise.budget import kept_indices, read_plan
from excise.calibration import (
    Batch,
    Consumer,
    Lanes,
    Moments,
    Share,
    Visit,
    by_op,
    consumers,
    share,
    thinned,
    told,
)
from excise.errors import CalibrationError, InvalidTargetError
from excise.graph import traced
from excise.plan import Plan
from excise.ranks import jointly, present
from excise.refit.admission import bytes_at, joins, needed
from excise.refit.pair import Pair, pair
from excise.refit.settle import settle
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

    Changed: weights of linear layers, convolutions and recurrent layers that read a cut model's
    activations, their biases, and the running mean of a batch norm behind a layer without bias
    (which takes the bias). At the end, running means and variances, if that brings the results on
    held-out batches nearer; then batch norms are written anew, with the statistics of what they now
    read and the same function, so that training goes on from it (`settle`).
    Not changed: anything else, any shape, `dense`. A consumer whose error on held-out rows does not
    improve keeps its weights. Both models run in eval mode and get their mode back.

    Of a recurrent layer, what reads its input is fitted to the inputs that it now gets, and what
    reads its own state to the states of the dense model, less the units that are gone. All of it
    is kept only if what the layer then gives, on states of its own, comes nearer to the dense one.

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

    Where whole branches are gone, what follows them in their stream makes up for them.

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
        work = Work(pair(before, after, plan), dense, small, plan, rows=rows, weights=weights)
        found = work.run(batches, held_bytes)
        better = weights and recalibrate_if_better(dense, small, batches)
        if weights:
            settle(small, batches)
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
    """Both models' graphs, and what is known of each consumer.

    Consumers, and the streams that they are added to, are known by the cut model's operations.
    """

    def __init__(
        self,
        graphs: Pair,
        dense: nn.Module,
        small: nn.Module,
        plan: Plan,
        *,
        rows: int,
        weights: bool,
    ) -> None:
        self.graphs, self.dense, self.small = graphs, dense, small
        before, self.after, numbers = graphs.before, graphs.after, graphs.numbers
        self.rows, self.weights = rows, weights
        self.kept, problem = read_plan(graphs.between, plan)
        if problem:
            raise CalibrationError(problem)
        self.tensors: dict[str, Tensor] = dict(small.named_parameters(remove_duplicate=False))
        self.tensors |= dict(small.named_buffers(remove_duplicate=False))
        theirs = {(c.op, c.weight): c for c in consumers(before)}
        ours = [c for c in consumers(self.after) if not c.shared]
        ours = [c for c in ours if (numbers[c.op], c.weight) in theirs]
        self.consumers = by_op(ours)
        self.streams: dict[int, tuple[Stream, Stream]] = {}  # the dense model's, and its own
        for consumer in ours:
            wide = theirs[numbers[consumer.op], consumer.weight]
            both = stream_of(before, wide), stream_of(self.after, consumer)
            if both[0] is not None and both[1] is not None:
                self.streams[consumer.op] = both[0], both[1]
        self.share = Share((), ())

    def run(
        self,
        batches: Sequence[Batch],
        held_bytes: int = DEFAULT_HELD_BYTES,
        only: Collection[int] | None = None,
    ) -> Refit:
        """Walk both models through the data, and repair each consumer when all stand before it.

        With `only`, consumers of these operations of the cut model; the walk ends at the last one.
        """
        self.share = share(batches)
        stops = sorted(op for op in self.consumers if only is None or op in only)
        wide_stops = [self.graphs.numbers[op] for op in stops]
        late = self._joins(stops, wide_stops, batches[0].samples, held_bytes) if batches else []
        repairs: list[Repair] = []
        with (
            torch.no_grad(),
            Lanes(
                self.dense,
                batches,
                self.graphs.before.trace.ops,
                wide_stops,
                keep=self._held(stops, 0),
                joins=late,
            ) as wide,
            Lanes(
                self.small,
                batches,
                self.after.trace.ops,
                stops,
                keep=self._held(stops, 1),
                joins=late,
            ) as narrow,
        ):
            both = zip(wide, narrow, strict=only is None)
            for theirs, ours in told(both, "refitting layers", len(stops)):
                number = ours[0].number
                repairs += self.repair_all(self.consumers[number], theirs, ours)
                if only is not None and number == stops[-1]:
                    break
        return Refit(tuple(repairs), self.share.samples)

    def _held(self, stops: list[int], which: int) -> dict[int, int]:
        """Of the dense (0) or the cut model (1): what a stream is made by -> its last reader."""
        keep: dict[int, int] = {}
        for op in stops:
            if op in self.streams:
                reader = op if which else self.graphs.numbers[op]
                maker = self.streams[op][which].op
                keep[maker] = max(reader, keep.get(maker, reader))
        return keep

    def _joins(self, stops: list[int], wide: list[int], samples: int, most: int) -> list[int]:
        """At which stop each batch joins; the first one, of so many samples, was traced."""
        each = bytes_at(self.graphs.before, wide) + bytes_at(self.after, stops)
        ranks = present().size
        every = [[needed(self.after, c, self.rows) for c in self.consumers[n]] for n in stops]
        least = [max(2, -(-max(some) // ranks)) for some in every]
        return joins(each / max(1, samples), least, self.share, most)

    def repair_all(
        self, readers: list[Consumer], theirs: list[Visit], ours: list[Visit]
    ) -> list[Repair]:
        """Every consumer of an operation.

        A recurrent one is fitted to states of the dense model. What it makes of its own states has
        to be nearer, too, on the batches that are held out; otherwise it keeps all of its weights.
        """
        loops = any(c.part is not None for c in readers)
        names = [name for c in readers for name in (c.weight, c.bias) if loops and name]
        old = {name: self.tensors[name].detach().clone() for name in names}
        before = self.strayed(theirs, ours) if loops else 0.0
        found = [self.repair(c, theirs, ours) for c in readers]
        if not loops or self.strayed(theirs, ours) <= before:
            return found
        for name, value in old.items():
            self.tensors[name].detach().copy_(value)
        return [repair._replace(after=repair.before, ridge=None) for repair in found]

    def strayed(self, theirs: list[Visit], ours: list[Visit]) -> float:
        """How far a recurrent operation is from the dense one, both on states of their own."""
        between = self.graphs.between
        kept = self._kept(between.scope.get(between.trace.ops[ours[0].number].outs[0])[-1])
        total, count = 0.0, 0.0
        for wide, narrow in zip(theirs, ours, strict=True):
            if not self.share.judges or self.share.places[narrow.place] in self.share.judges:
                wanted, made = wide.run()[0], narrow.func(*narrow.args, **narrow.kwargs)[0]
                wanted = wanted if kept is None else wanted.index_select(-1, kept)
                total += float((wanted - made).double().square().sum())
                count += made.numel()
        total, count = present().add(total, count)
        return total / max(1.0, count)

    def repair(self, consumer: Consumer, theirs: list[Visit], ours: list[Visit]) -> Repair:
        """Solve one consumer and write its weights, before any batch of the cut model runs it."""
        fit, held = self.moments(consumer, theirs, ours)
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
        self, consumer: Consumer, theirs: list[Visit], ours: list[Visit]
    ) -> tuple[Moments, Moments]:
        """Features of the cut model and targets of the dense one: to fit, and held out.

        Of the batches of all ranks, one of each in turn.
        """
        kept = self._kept(consumer.outputs(self.graphs.between))
        folds: list[Moments | None] = [None, None]
        for wide, narrow in zip(theirs, ours, strict=True):
            place = self.share.places[narrow.place]
            target = self._target(consumer, wide, narrow, kept)
            read = self._read(consumer, wide, narrow)
            rows = thinned(consumer.features(read), self.rows, place)
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

    def _target(
        self, consumer: Consumer, wide: Visit, narrow: Visit, kept: Tensor | None
    ) -> Tensor:
        """The dense output that is wanted, in the cut model's outputs, corrected for its stream."""
        place = -len(consumer.kernel) - 1 if consumer.kernel else -1

        def cut(tensor: Tensor) -> Tensor:
            return tensor if kept is None else tensor.index_select(tensor.dim() + place, kept)

        target = cut(consumer.output(wide))
        streams = self.streams.get(consumer.op)
        if streams is not None:
            dense, own = streams
            dense_stream = cut(dense.of(wide.kept[dense.op]))
            present = own.of(narrow.kept[own.op])
            if dense_stream.shape == present.shape == target.shape:
                lag = dense_stream - present
                if own.norm is not None:
                    lag = unscaled(self.after, own.norm, self.tensors, lag)
                target = target + lag
        return target

    def _read(self, consumer: Consumer, wide: Visit, narrow: Visit) -> Tensor:
        """What the cut consumer reads; of states that it makes itself, what the dense ones say."""
        if consumer.part is None or not consumer.part.loops:
            return consumer.read(narrow)
        names = self.graphs.between.trace.names
        kept = self._kept(self.graphs.between.scope.get(names[consumer.weight])[1])
        states = consumer.read(wide)
        return states if kept is None else states.index_select(1, kept)

    def _kept(self, term: Term) -> Tensor | None:
        """Which units of a dimension of the dense model the cut one still has; None for all."""
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
