"""Wanda and FLAP: weights times how much, or how variably, their inputs are used."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from excise.calibration import Batch, Moments, consumers, watch
from excise.graph import AxisGraph
from excise.ranks import jointly, present
from excise.scores.magnitude import magnitude
from excise.scores.scores import Scores

_ROWS = 4096  # positions of each batch that count


@jointly
def wanda(model: nn.Module, graph: AxisGraph, batches: Sequence[Batch]) -> Scores:
    """Sum of `|W_oj| * ||x_j||` over the columns of a unit, in every consumer of its group.

    Args:
        model: the model that was traced, in the mode in which it is to run. Not touched.
        graph: its axes.
        batches: calibration data, from `excise.calibration.batches`; labels are not needed.

    Returns:
        Scores; groups that no linear layer, convolution or recurrent layer reads are scored by
        magnitude.

    Source:
        Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", ICLR 2024,
        eq. 1, summed over a unit's columns as Wanda-sp in An et al., "FLAP", AAAI 2024, sec. 4.
        Differs: root mean square for the norm, so that batches of any size compare.
    """

    def cost(weight: Tensor, seen: Moments) -> Tensor:
        size = seen.second().diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
        return weight.abs().sum(1) * size

    return Scores(_summed(model, graph, batches, cost))


@jointly
def flap(model: nn.Module, graph: AxisGraph, batches: Sequence[Batch]) -> Scores:
    """Variance of a unit's inputs times the squared norm of its columns, standardised per group.

    Args:
        model: the model that was traced, in the mode in which it is to run. Not touched.
        graph: its axes.
        batches: calibration data, from `excise.calibration.batches`; labels are not needed.

    Returns:
        Scores that compare across groups; groups that no linear layer, convolution or recurrent
        layer reads are scored by magnitude.

    Source:
        An et al., "Fluctuation-based Adaptive Structured Pruning for Large Language Models", AAAI
        2024, eq. 5 (WIFV) and 6 (standardised). Differs: summed over all consumers of a group.
        Its bias compensation is the refit's part in `excise.prune`.
    """

    def cost(weight: Tensor, seen: Moments) -> Tensor:
        spread = seen.covariance().diagonal(dim1=1, dim2=2).clamp_min(0)
        return weight.square().sum(1) * spread

    found = _summed(model, graph, batches, cost)
    return Scores({name: _standard(values) for name, values in found.items()}, comparable=True)


def _standard(values: Tensor) -> Tensor:
    spread = float(values.std(correction=0))
    return (values - values.mean()) / (spread or 1.0)


def _summed(
    model: nn.Module,
    graph: AxisGraph,
    batches: Sequence[Batch],
    cost: Callable[[Tensor, Moments], Tensor],
) -> dict[str, Tensor]:
    """A cost of each feature, (groups, features), added up over the features of each unit."""
    found = consumers(graph)
    moments = watch(model, graph.trace.ops, found, batches, rows=_ROWS)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    each = {}
    for consumer in found:
        seen = moments[consumer.reading]
        weight = consumer.matrix(parameters[consumer.weight].detach()).to(seen.xx)
        each[consumer] = cost(weight, seen).sum(0).double().cpu()
    totals = magnitude(model, graph).values
    out = {}
    for group in graph.groups:
        total, read = torch.zeros(group.size, dtype=torch.float64), False
        for consumer, values in each.items():
            units = consumer.units(graph.scope, graph.axes[group.name])
            if units is not None:
                read = True
                total.index_add_(0, units[units >= 0], values[units >= 0])
        out[group.name] = total if read else totals[group.name]
    return present().first(lambda: out)
