"""An equation: what one length has to be, and what that depends on."""

from __future__ import annotations

from excise.axes import Axis
from excise.equality.polynomial import Poly, length
from excise.rules import Demand
from excise.trace.provenance import Attribute


class Equation:
    """A demand, the axes and attributes that it depends on, and what it says at present."""

    __slots__ = ("attributes", "demand", "free", "key", "rest", "state", "wanted")

    def __init__(
        self, demand: Demand, key: tuple[int, ...], free: list[Axis], attributes: list[Attribute]
    ) -> None:
        self.demand = demand
        self.key = key
        self.free = free
        self.attributes = attributes
        self.wanted: Poly | None = None
        self.rest: Poly | None = None
        self.state: tuple[int, list[Poly | None]] | None = None

    def length(self) -> Poly:
        """The length of the term; worked out again only if one of its axes was pinned."""
        free = [axis for axis in self.free if axis.pin is None]
        if self.wanted is None or len(free) < len(self.free):
            self.wanted = length(self.demand.term)
            self.free = free
        return self.wanted
