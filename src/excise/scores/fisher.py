"""Fisher: how much a gate on each unit would move the outputs, to second order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from excise.calibration import Batch, Consumer, consumers, share
from excise.errors import CalibrationError
from excise.graph import AxisGraph
from excise.ranks import jointly, present
from excise.scores.scores import Scores, gather
from excise.trace.output import output_leaves
from excise.trace.skeleton import copied, named_tensors

Loss = Callable[[Any], Tensor]
_APART = 1_000_003  # seeds of neighbouring samples, so that those of two calls do not meet


@jointly
def fisher(
    model: nn.Module,
    graph: AxisGraph,
    batches: Sequence[Batch],
    *,
    loss: Loss | None = None,
    samples: int = 128,
    seed: int = 0,
) -> Scores:
    """Mean over samples of the squared derivative by a gate on the unit.

    The derivative is the sum of `w * grad` over the unit's columns in every consumer, with its sign
    and sample by sample; where no linear layer, convolution or recurrent layer reads a group, over
    all its slices.

    Args:
        model: the model that was traced, in the mode in which it is to run. Neither weights nor
            `.grad` are touched.
        graph: its axes.
        batches: calibration data, from `excise.calibration.batches`; labels are not needed.
        loss: output of one sample -> scalar. By default a random projection of all outputs, whose
            mean square is the Gauss-Newton curvature of the squared error.
        samples: of the data; one forward and one backward pass for each.
        seed: of the projections, one for each sample.

    Raises:
        CalibrationError: the loss is no scalar, or no output depends on the parameters.

    Source:
        Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018, eq. 5,
        and Kwon et al., NeurIPS 2022, sec. 4. Differs: gates at the consumers' columns, summed
        over a whole group, and a label-free default.
    """
    gates = {g.name: torch.zeros(g.size, dtype=torch.float64) for g in graph.groups}
    readers = {g.name: _readers(graph, g.name) for g in graph.groups}
    count = 0
    for place, batch in _singles(batches, samples):
        source = torch.Generator().manual_seed(seed + _APART * place)
        slopes = _slopes(model, batch, loss or (lambda out: _projected(out, source)))  # noqa: B023
        whole: dict[str, Tensor] | None = None
        for name, total in gates.items():
            change = torch.zeros_like(total)
            for consumer, units in readers[name]:
                if consumer.weight in slopes:
                    columns = consumer.matrix(slopes[consumer.weight]).sum((0, 1)).double().cpu()
                    change.index_add_(0, units[units >= 0], columns[units >= 0])
            if not readers[name]:
                whole = whole or gather(model, graph, lambda n, _: slopes.get(n))  # noqa: B023
                change = whole[name]
            total.add_(change.square())
        count += 1
    present().sum(*gates.values())
    count = round(present().add(count)[0])
    found = {name: total / max(1, count) for name, total in gates.items()}
    return Scores(present().first(lambda: found))


def _readers(graph: AxisGraph, name: str) -> list[tuple[Consumer, Tensor]]:
    alone = [c for c in consumers(graph) if not c.shared]  # of others the slope is a sum of uses
    pairs = [(c, c.units(graph.scope, graph.axes[name])) for c in alone]
    return [(consumer, units) for consumer, units in pairs if units is not None]


def _singles(batches: Sequence[Batch], samples: int) -> Iterator[tuple[int, Batch]]:
    """One sample at a time, with its number; inputs without a dimension of samples are repeated."""
    for _, start, batch in share(batches).of(batches):
        for i in range(min(batch.samples, max(0, samples - start))):

            def one(value: Any, size: int = batch.samples, i: int = i) -> Any:
                sliced = isinstance(value, Tensor) and value.dim() and len(value) == size
                return value[i : i + 1] if sliced else value

            single = Batch(
                tuple(map(one, batch.args)), {name: one(v) for name, v in batch.kwargs.items()}
            )
            yield start + i, single


def _slopes(model: nn.Module, batch: Batch, loss: Loss) -> dict[str, Tensor]:
    """`w * grad` of every parameter that the loss of one sample depends on."""
    leaf = {id(p): p.detach().requires_grad_() for p in model.parameters() if p.is_floating_point()}
    shell = copied(model, {id(t): leaf.get(id(t), t) for _, t in named_tensors(model)})
    with torch.enable_grad():
        made = loss(shell(*batch.args, **batch.kwargs))
        if not isinstance(made, Tensor) or made.dim() or not made.requires_grad:
            raise CalibrationError("the loss is no scalar that depends on the parameters")
        found = torch.autograd.grad(made, list(leaf.values()), allow_unused=True)
    known = dict(zip(leaf, found, strict=True))
    return {
        name: p.detach() * slope
        for name, p in model.named_parameters()
        if (slope := known.get(id(p))) is not None
    }


def _projected(out: Any, source: torch.Generator) -> Tensor:
    """Outputs times random signs, summed."""
    total = torch.zeros(())
    for _, value in output_leaves(out):
        if value.is_floating_point():
            signs = torch.randint(2, value.shape, generator=source).to(value) * 2 - 1
            total = total.to(value.device) + (value * signs).sum()
    return total
