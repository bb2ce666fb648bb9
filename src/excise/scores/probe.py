"""Probes: what a group's local costs mean at the model's outputs.

Local costs are shares of a consumer's output. Whether a tenth of one layer's output matters as much
as a tenth of another's is asked of the model: each group alone loses some of its units, its
consumers are refitted in closed form, and the outputs tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from excise.axes import Axis
from excise.calibration import Batch, Consumer, Moments, by_op, told
from excise.graph import AxisGraph
from excise.ranks import present
from excise.scores.curve import Curve, Curves
from excise.trace.output import output_leaves
from excise.trace.run import run
from excise.trace.skeleton import copied, named_tensors
from excise.trace.tape import Tape

_SHARE = 0.3  # of a group's units are taken away in its probe
_MORE = (0.6, 0.8, 0.95)  # and in those of what recurrent layers read
_RIDGE = 1e-2  # of the mean feature variance
_MOST = 2**20  # numbers of an output that are compared, for each batch


class Change(NamedTuple):
    """A consumer as it is after a refit: another weight, and something added to its output."""

    weight: Tensor
    shift: Tensor


class _Changed(Tape):
    """Runs a model with some consumers changed; the model itself is not."""

    def __init__(self, changes: Mapping[Consumer, Change]) -> None:
        super().__init__()
        self.changes, self.changed = changes, by_op(changes)

    def step(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation, with another weight if it is one of the consumers."""
        del name
        found = self.changed.get(self.count, ())
        self.count += 1
        if not found:
            return func(*args, **kwargs)
        with self.pause():
            for consumer in found:
                args = consumer.changed(args, *self.changes[consumer])
            out = func(*args, **kwargs)
            for consumer in found:
                if consumer.part is None:
                    shift = self.changes[consumer].shift
                    out = out + shift.reshape([-1] + [1] * len(consumer.kernel))
            return out


def scaled(
    model: nn.Module,
    graph: AxisGraph,
    curves: Curves,
    *,
    weights: Mapping[Consumer, Tensor],
    moments: Mapping[Any, Moments],
    batches: Sequence[Batch],
) -> Curves:
    """The same curves in units of the outputs' variance.

    Args:
        model: in the mode in which it is to run. Not touched.
        graph: its axes.
        curves: local costs.
        weights: consumer -> its matrix.
        moments: reading -> its moments.
        batches: what to run; one forward pass for each group, and one more.

    Source:
        The probe of `alpha_g = KL / L_g` as in SPDY (Frantar and Alistarh, ICML 2022, sec. 3.2)
        weighs layers by a measured loss; here the squared change of all outputs, which needs no
        labels and no logits.
    """
    ends = results(graph)
    wanted = [outputs(model, batch, ends) for batch in batches]
    found = {}
    each = told(curves.values.items(), "probing groups", len(curves.values))
    for name, curve in each:
        most = len(curve.order)
        places = sorted({max(1, round(share * most)) for share in _shares(graph, name, weights)})
        measured = []
        for count in places:
            taken = (graph.axes[name], curve.order[:count])
            changes = {
                c: change
                for c, matrix in weights.items()
                if (change := _refitted(graph, c, taken, matrix, moments)) is not None
            }
            moved = (outputs(model, batch, ends, changes) for batch in batches)
            measured.append(distance(wanted, moved))
        found[name] = _through(curve, places, measured)
    return Curves(found)


def _shares(graph: AxisGraph, name: str, readers: Iterable[Consumer]) -> tuple[float, ...]:
    """Which shares of a group's units are taken away in its probes.

    What recurrent layers read often spans few dimensions, as an embedding of a few tokens does: the
    first units cost nothing but damping, and say nothing of those behind the knee.
    """
    axis, parts = graph.axes[name], [c for c in readers if c.part is not None]
    read = any(c.units(graph.scope, axis) is not None for c in parts)
    return (_SHARE, *_MORE) if read else (_SHARE,)


def _through(curve: Curve, places: Sequence[int], measured: Sequence[float]) -> Curve:
    """A curve that has measured costs after so many units, and its own course in between."""
    own = [curve.cost[place - 1] for place in places]
    scale = measured[0] / own[0] if own[0] > 0 else 1.0
    cost, high = [scale * c for c in curve.cost], scale * own[0]
    for i in range(1, len(places)):
        start, low, high = own[i - 1], high, max(high, measured[i])
        rise = own[i] - start
        slope = (high - low) / rise if rise > 0 else 0.0
        last = places[i] if i + 1 < len(places) else len(cost)
        for k in range(places[i - 1], last):
            cost[k] = low + slope * (curve.cost[k] - start)
    return Curve(curve.order, tuple(cost))


def _refitted(
    graph: AxisGraph,
    consumer: Consumer,
    units: tuple[Axis, Sequence[int]],
    matrix: Tensor,
    moments: Mapping[Any, Moments],
) -> Change | None:
    """A consumer that reads the axis, without some units, made up for by the others."""
    axis, removed = units
    columns = consumer.units(graph.scope, axis)
    if columns is None:
        return None
    seen = moments[consumer.reading]
    gone = torch.isin(columns, torch.tensor(removed)).to(seen.xx.device)
    spread, mean = seen.covariance(), seen.mean()
    if not consumer.shifts:
        spread, mean = seen.second(), torch.zeros_like(mean)
    old = matrix.to(spread)
    size = spread.diagonal(dim1=1, dim2=2)
    damping = _RIDGE * size.mean(1, keepdim=True) + torch.finfo(spread.dtype).tiny
    damped = (spread + torch.diag_embed(damping.expand_as(size)))[:, ~gone][:, :, ~gone]
    lost = spread[:, ~gone][:, :, gone] @ old[:, :, gone].mT
    new = old.clone()
    new[:, :, gone] = 0
    new[:, :, ~gone] += torch.linalg.solve(damped, lost).mT
    shift = ((old - new) @ mean[:, :, None]).reshape(-1)
    like = dict(graph.stage.model.named_parameters(remove_duplicate=False))[consumer.weight]
    return Change(consumer.weight_of(new, like.detach()), shift.to(like.dtype))


def results(graph: AxisGraph) -> frozenset[int]:
    """Which outputs count: what the model itself goes on to read, as a cache, is no result."""
    read = {ref for op in graph.trace.ops for ref in op.inputs()}
    every = [i for i, _ in enumerate(graph.trace.outputs)]
    return frozenset([i for i in every if graph.trace.outputs[i][1] not in read] or every)


def outputs(
    model: nn.Module,
    batch: Batch,
    ends: frozenset[int],
    changes: Mapping[Consumer, Change] | None = None,
) -> list[Tensor]:
    """What a model gives for one batch, of large outputs every so manieth number."""
    shell = copied(model, {id(t): t for _, t in named_tensors(model)})
    out = run(shell, _Changed(changes or {}), batch.args, batch.kwargs)
    leaves = [t for i, (_, t) in enumerate(output_leaves(out)) if i in ends]
    return [
        t.detach().flatten()[:: 1 + 2 * (t.numel() // (2 * _MOST))].double()  # an odd step
        for t in leaves
        if t.is_floating_point()
    ]


def distance(wanted: Sequence[list[Tensor]], moved: Iterable[list[Tensor]]) -> float:
    """Squared change as a share of the variance, summed over outputs, averaged over batches.

    Over those of all ranks; this one's may be none.
    """
    total = 0.0
    for before, after in zip(wanted, moved, strict=True):
        for a, b in zip(before, after, strict=True):
            spread = float((a - a.mean()).square().mean())
            total += float((a - b).square().mean()) / max(spread, torch.finfo(torch.float64).tiny)
    total, count = present().add(total, len(wanted))
    return total / count
