"""Curves: what removing the first, second, third ... unit of each group costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    """Group name -> curve. Costs of different groups are in one unit; groups without one stay.

    `branches` says what each residual branch costs as a whole, by name, in the same unit; it is
    None before `excise.depth.branched` has measured that.
    """

    values: Mapping[str, Curve]
    branches: Mapping[str, float] | None = None

    def renamed(self, graph: AxisGraph) -> Curves:
        """The same curves for a graph of the same model with more pins."""
        known = {g.name: self.values[g.name] for g in graph.groups if g.name in self.values}
        return replace(self, values=known)

    def __str__(self) -> str:
        return "\n".join(
            f"{name}: half of {len(c.order) + 1} units costs {c.cost[len(c.cost) // 2]:.3g}"
            for name, c in self.values.items()
        )
