"""Optimal brain surgeon for whole units: what removal costs once consumers have been refitted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from excise.axes import Axis
from excise.calibration import Batch, Consumer, Moments, Share, consumers, share, told, watch
from excise.graph import AxisGraph
from excise.ranks import jointly, present
from excise.scores.curve import Curve, Curves
from excise.scores.probe import scaled

Level = Literal["second", "variance", "conditional"]
DEFAULT_ROWS = 4096
DEFAULT_DAMPING = 1e-2
DEFAULT_PROBES = 128
DEFAULT_GRAM_BYTES = 4 * 2**30
_ROUNDS = 256
"""Units of larger groups go several at a time, so that there are no more rounds than that."""
_TOGETHER = 2.0
"""Units go at the same time if that costs at most so many times what each alone does."""
_PASSES = 3
"""All probes together run no more than so many times the calibration data."""


@jointly
def obs(
    model: nn.Module,
    graph: AxisGraph,
    batches: Sequence[Batch],
    *,
    level: Level = "conditional",
    rows: int = DEFAULT_ROWS,
    damping: float | None = None,
    probes: int = DEFAULT_PROBES,
    gram_bytes: int = DEFAULT_GRAM_BYTES,
) -> Curves:
    """Cost curves from the moments of what consumers read on calibration data.

    For a unit with columns `k` of a consumer `y = W x`, the cost is

        second       tr(W_k E[x_k x_k'] W_k')        if nothing makes up for it
        variance     tr(W_k C_kk W_k')               if the bias makes up for its mean
        conditional  tr(W_k [(C^-1)_kk]^-1 W_k')     if the consumer is refitted

    as a share of the consumer's output variance, summed over the consumers of the group. With
    `conditional`, the unit that costs least goes, `C^-1` and `W` are updated as if the consumer had
    been refitted, and so on: one run gives the whole curve. Of groups of more than 256 units
    several go at a time, unless they make up for each other.

    Args:
        model: the model that was traced, in the mode in which it is to run. Not touched.
        graph: its axes.
        batches: calibration data, from `excise.calibration.batches`; labels are not needed.
        level: which cost.
        rows: most positions of each batch that count.
        probes: most samples on which the costs of different groups are brought into one unit, by
            what each group alone moves the outputs; one forward pass for each group (four for one
            that a recurrent layer reads), and fewer samples where there are many groups. They are
            taken from batches that are held out: on those that it was fitted to, a wide layer makes
            up for anything. 0 leaves costs as shares of each consumer's output.
        gram_bytes: most bytes of second moments at one time, on the model's device. What does not
            fit is left to another pass over the data; a single group is never split.
        damping: added to every feature's variance, in units of their mean; for `conditional`. None:
            0.01, after the covariance was shrunk as the number of rows demands.

    Returns:
        A curve for each group that at least one linear layer, convolution or recurrent layer sums
        away. Heads, channels, neurons and flattened maps are blocks of columns; depthwise layers
        are passed. Of an LSTM, GRU or plain RNN each weight counts: what reads the input, what
        reads the state one step before (times the number of steps in the traced example, as if the
        loop were unrolled), and projections; in all layers and directions, packed or not.

    Source:
        Kurtic et al., "ZipLM", NeurIPS 2023, sec. 3 (blocks of one consumer, greedy). Differs: sums
        over all consumers of a group, im2col columns of convolutions, consumers of one tensor share
        one inverse (`M = sum W'W` is updated in place of each `W`), costs relative to each
        consumer's output, shrinkage: Chen et al., "Shrinkage algorithms for MMSE covariance
        estimation", IEEE TSP 2010, eq. 23. `variance` as An et al., "FLAP", AAAI 2024; `second`
        as Wanda-sp there.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    parts = list(_parts(graph, gram_bytes))
    groups, ranks = sum(len(names) for names, _ in parts), present()
    every = share(batches)
    most = max(1, min(probes, _PASSES * every.samples // max(1, groups)))
    (fit, placed), (judges, theirs) = _folds(batches, every) if probes else ((batches, every),) * 2
    few = [batch for _, start, batch in theirs.of(judges) if start < most]
    curves: dict[str, Curve] = {}
    for names, readers in parts:
        moments = watch(model, graph.trace.ops, readers, fit, rows=rows, mine=placed)
        weights = {c: c.matrix(parameters[c.weight].detach()) for c in readers}
        part: dict[str, Curve] = {}
        own = names[ranks.rank :: ranks.size]
        for name in told(own, "weighing units", len(own)):
            axis = graph.axes[name]
            readings = _readings(graph, axis, weights, moments)
            if readings and level == "conditional":
                part[name] = _greedy(readings, axis.size, damping)
            elif readings:
                part[name] = _ranked(readings, axis.size, level)
        found = {name: curve for some in ranks.each(part) for name, curve in some.items()}
        made = Curves({name: found[name] for name in names if name in found})
        if probes:
            made = scaled(model, graph, made, weights=weights, moments=moments, batches=few)
        curves |= made.values
    return Curves({g.name: curves[g.name] for g in graph.groups if g.name in curves})


def _parts(graph: AxisGraph, most: int) -> Iterator[tuple[list[str], list[Consumer]]]:
    """Groups with the consumers that read them, as many at a time as memory allows, or one."""
    every = consumers(graph)
    names, readers, held = list[str](), dict[Consumer, None](), 0
    for group in graph.groups:
        axis = graph.axes[group.name]
        mine = [c for c in every if c.units(graph.scope, axis) is not None]
        new = {c.reading: c for c in mine if c not in readers}
        more = sum(_gram_bytes(graph, c) for c in new.values())
        if names and held + more > most:
            yield names, list(readers)
            names, readers, held = [], {}, 0
            more = sum(_gram_bytes(graph, c) for c in {c.reading: c for c in mine}.values())
        if mine:
            names.append(group.name)
            readers |= dict.fromkeys(mine)
            held += more
    if names:
        yield names, list(readers)


def _gram_bytes(graph: AxisGraph, consumer: Consumer) -> int:
    """What its second moments take."""
    return Moments.bytes_of(consumer.width(graph.scope)) * consumer.groups


_Fold = tuple[Sequence[Batch], Share]


def _folds(batches: Sequence[Batch], mine: Share) -> tuple[_Fold, _Fold]:
    """Batches to weigh units by, and others to probe with; the same one if there is only one."""
    if not mine.judges:
        return (batches, mine), (batches, mine)
    fit, judges = mine.parts(batches)
    others = mine.only(set(range(mine.batches)) - mine.judges)
    return (fit, others), (judges, mine.only(mine.judges))


class _Reading(NamedTuple):
    """What one tensor says of a group's units, for all consumers that read it alike.

    Attributes:
        columns: (units, columns of a unit).
        moments: of the features.
        product: sum over consumers of `W'W / variance of W x`, (groups, features, features).
            What loops counts once for each step.
    """

    columns: Tensor
    moments: Moments
    product: Tensor


def _readings(
    graph: AxisGraph, axis: Axis, weights: dict[Consumer, Tensor], moments: dict[Any, Moments]
) -> list[_Reading]:
    found: dict[Any, _Reading] = {}
    for consumer, weight in weights.items():
        units = consumer.units(graph.scope, axis)
        if units is None:
            continue
        counts = torch.bincount(units[units >= 0], minlength=axis.size)
        if int(counts.min()) != int(counts.max()):  # not blocks of one size
            continue
        seen = moments[consumer.reading]
        matrix = weight.to(seen.xx)
        spread = float(((matrix @ seen.covariance()) * matrix).sum())
        product = matrix.mT @ matrix / max(spread, torch.finfo(torch.float32).tiny)
        product *= consumer.times  # as if the loop were unrolled
        known = found.get(consumer.reading)
        if known is None:
            place = torch.argsort(units, stable=True)[int((units < 0).sum()) :]
            found[consumer.reading] = _Reading(place.view(axis.size, -1), seen, product)
        else:
            known.product.add_(product)
    return list(found.values())


def _ranked(readings: Iterable[_Reading], size: int, level: Level) -> Curve:
    """Costs that do not depend on what went before."""
    total = torch.zeros(size, dtype=torch.float64)
    for columns, moments, product in readings:
        spread = moments.second() if level == "second" else moments.covariance()
        total += _blocks(spread, columns).mul(_blocks(product, columns)).sum((0, 2, 3)).cpu()
    cost, order = torch.sort(total, stable=True)
    return Curve(tuple(order.tolist()[:-1]), tuple(cost.cumsum(0).tolist()[:-1]))


def _greedy(readings: Iterable[_Reading], size: int, damping: float | None) -> Curve:
    """Take the cheapest units, let their consumers make up for them, and so on."""
    states = [_State(reading, damping) for reading in readings]
    alive, order, cost, total = list(range(size)), list[int](), list[float](), 0.0
    most = -(-size // _ROUNDS)
    while len(alive) > 1:
        each = torch.stack([state.costs(alive) for state in states]).sum(0).clamp_min(0)
        ranked = torch.argsort(each, stable=True)[: min(most, len(alive) - 1)]
        units, own = [alive[i] for i in ranked.tolist()], each[ranked].tolist()
        while len(units) > 1 and _together(states, units) > _TOGETHER * sum(own):
            half = len(units) // 2  # they make up for each other: not all of them at once
            units, own = units[:half], own[:half]
        joint = max(0.0, _together(states, units))
        for unit, alone in zip(units, own, strict=True):
            total += joint * (alone / sum(own) if sum(own) else 1 / len(own))
            order.append(unit)
            cost.append(total)
            alive.remove(unit)
        for state in states:
            state.eliminate(units)
            state.compact(alive)
    return Curve(tuple(order), tuple(cost))


def _together(states: Iterable[_State], units: list[int]) -> float:
    return sum(state.joint(units) for state in states)


class _State:
    """Inverse covariance and weights of one reading, as units are eliminated."""

    def __init__(self, reading: _Reading, damping: float | None) -> None:
        moments = reading.moments
        spread = moments.shrunk() if damping is None else moments.covariance()
        damping = DEFAULT_DAMPING if damping is None else damping
        size = spread.diagonal(dim1=1, dim2=2)
        more = damping * size.mean(1, keepdim=True) + torch.finfo(spread.dtype).tiny
        self.inverse = torch.linalg.inv(spread + torch.diag_embed(more.expand_as(size)))
        self.product = reading.product.clone()
        self.columns = reading.columns

    def costs(self, units: list[int]) -> Tensor:
        """What each of these units costs now, (units)."""
        columns = self.columns[units]
        inner = torch.linalg.inv(_blocks(self.inverse, columns))
        found: Tensor = inner.mul(_blocks(self.product, columns)).sum((0, 2, 3)).double().cpu()
        return found

    def joint(self, units: list[int]) -> float:
        """What these units cost together."""
        columns = self.columns[units].reshape(1, -1)
        inner = torch.linalg.inv(_blocks(self.inverse, columns))
        return float(inner.mul(_blocks(self.product, columns)).sum())

    def eliminate(self, units: list[int]) -> None:
        """Take columns out: W <- W (I - E_k K) with K = (C^-1)_kk^-1 (C^-1)_k; so does C^-1."""
        k = self.columns[units].reshape(-1)
        rows = self.inverse[:, k]
        gain = torch.linalg.solve(rows[:, :, k], rows)
        self.inverse.baddbmm_(rows.mT, gain, alpha=-1)
        ours = self.product[:, :, k]
        half = ours - gain.mT @ ours[:, k] / 2
        self.product.baddbmm_(half, gain, alpha=-1)
        self.product.baddbmm_(gain.mT, half.mT, alpha=-1)

    def compact(self, alive: list[int]) -> None:
        """Let go of the columns of units that are gone, once they are a quarter of all."""
        width = self.columns.shape[1]
        gone = torch.ones(len(self.columns), dtype=torch.bool)
        gone[alive] = False
        left = torch.ones(self.inverse.shape[-1], dtype=torch.bool)
        left[self.columns[gone & (self.columns[:, 0] >= 0)].reshape(-1)] = False
        if 4 * int(left.sum()) > 3 * len(left):
            return
        place = torch.cumsum(left, 0) - 1
        self.columns = torch.where(gone[:, None].expand(-1, width), -1, place[self.columns])
        keep = left.nonzero().flatten().to(self.inverse.device)
        self.inverse = self.inverse[:, keep][:, :, keep]
        self.product = self.product[:, keep][:, :, keep]


def _blocks(matrix: Tensor, columns: Tensor) -> Tensor:
    """The square blocks of (groups, d, d) at each unit's columns: (groups, units, k, k)."""
    return matrix[:, columns[:, :, None], columns[:, None, :]]
