"""Curves: what removing the first, second, third ... unit of each group costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from excise.graph import AxisGraph


class Curve(NamedTuple):
    """One group's units in the order in which they should go, and what that costs.

    Attributes:
        order: units, the first to go first; units that are not listed stay.
        cost: `cost[i]` is the total cost of having removed `order[: i + 1]`; never falls.
    """

    order: tuple[int, ...]
    cost: tuple[float, ...]


@dataclass(frozen=True)
class Curves:
    """Group name -> curve. Costs of different groups are in one unit; groups without one stay."""

    values: Mapping[str, Curve]

    def renamed(self, graph: AxisGraph) -> Curves:
        """The same curves for a graph of the same model with more pins."""
        return Curves({g.name: self.values[g.name] for g in graph.groups if g.name in self.values})

    def __str__(self) -> str:
        return "\n".join(
            f"{name}: half of {len(c.order) + 1} units costs {c.cost[len(c.cost) // 2]:.3g}"
            for name, c in self.values.items()
        )
