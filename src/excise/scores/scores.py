"""Scores: one number per unit of every group, larger = keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from excise.axes import Axis, Term, flat, leaves, size
from excise.errors import InvalidScoresError
from excise.graph import AxisGraph


@dataclass(frozen=True)
class Scores:
    """One number per unit of every group; the smallest go first.

    Attributes:
        values: group name -> float64 tensor of one number per unit, on the CPU.
        comparable: numbers of different groups are in one unit. Else each group is divided by its
            mean before groups are compared.
    """

    values: Mapping[str, Tensor]
    comparable: bool = False

    def renamed(self, graph: AxisGraph) -> Scores:
        """The same scores for a graph of the same model with more pins."""
        values = {g.name: self.values[g.name] for g in graph.groups if g.name in self.values}
        return Scores(values, self.comparable)

    def __str__(self) -> str:
        return "\n".join(
            f"{name}: {len(v)} units, {v.min():.3g} to {v.max():.3g}"
            for name, v in self.values.items()
        )


def gather(
    model: nn.Module, graph: AxisGraph, energy: Callable[[str, Tensor], Tensor | None]
) -> dict[str, Tensor]:
    """Add up an elementwise quantity over every parameter slice that a unit owns.

    Args:
        model: the model that was traced.
        graph: its axes.
        energy: `(name, parameter) ->` a non-negative tensor of the parameter's shape, or None to
            leave that parameter out.

    Returns:
        Group name -> per-unit sums, float64, on the CPU. Tied parameters count once.

    Raises:
        InvalidScoresError: the model is not the one that was traced.
    """
    check_traced(model, graph)
    totals = {g.name: torch.zeros(g.size, dtype=torch.float64) for g in graph.groups}
    wanted = {id(graph.axes[g.name]): g.name for g in graph.groups}
    for name, parameter in model.named_parameters():
        amount = energy(name, parameter.detach())
        if amount is None:
            continue
        amount = amount.double().cpu()
        for dim, term in enumerate(graph.dims(name)):
            if not _mentions(term, wanted):
                continue
            other = [i for i in range(amount.ndim) if i != dim]
            line = amount.sum(other) if other else amount
            _spread(line, term, wanted, totals)
    return totals


def check_traced(model: nn.Module, graph: AxisGraph) -> None:
    """Refuse another model than the one that was traced.

    Raises:
        InvalidScoresError: naming a parameter that differs.
    """
    for name, parameter in model.named_parameters():
        ref = graph.trace.names.get(name)
        if ref is None or tuple(parameter.shape) != tuple(graph.scope.shape(ref)):
            problem = f"the model is not the one that was traced: see its {name}"
            raise InvalidScoresError("every group", problem)


def _mentions(term: Term, wanted: Mapping[int, str]) -> bool:
    return any(id(leaf) in wanted for leaf in leaves(term))


def _spread(line: Tensor, term: Term, wanted: Mapping[int, str], totals: dict[str, Tensor]) -> None:
    """Give each unit its share of a vector over a dimension: sums over the other factors."""
    factors = flat(term)
    cube = line.reshape([axis.size for axis in factors] or [1])
    for i, axis in enumerate(factors):
        rest = [j for j in range(cube.ndim) if j != i]
        part = cube.sum(rest) if rest else cube
        name = wanted.get(id(axis))
        if name is not None:
            totals[name] += part
        elif axis.parts is not None:
            _parts(part, axis, wanted, totals)


def _parts(line: Tensor, axis: Axis, wanted: Mapping[int, str], totals: dict[str, Tensor]) -> None:
    start = 0
    for piece in axis.parts or ():
        length = size([piece])
        _spread(line[start : start + length], [piece], wanted, totals)
        start += length
