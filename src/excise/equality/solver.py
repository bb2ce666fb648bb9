"""Solve what the model's own Python demands of lengths: attributes, ties, pins."""

from __future__ import annotations

from typing import NamedTuple

from excise.axes import Axis, Why, flat, leaves, pin
from excise.equality.equation import Equation
from excise.equality.expression import Known
from excise.equality.polynomial import Poly, primitive
from excise.equality.tie import Tie, Ties
from excise.rules import Demand, Scope
from excise.trace.provenance import Attribute, Expr, atoms


class Solution(NamedTuple):
    """What attributes become, as polynomials over axes, and which axes move together."""

    attributes: dict[Attribute, Poly]
    ties: list[Tie]


class Solver:
    """Solves demands one after the other; `known` holds what it knows of attributes."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.known = Known(scope)

    def solve(self, demands: list[Demand], values: dict[Attribute, int]) -> Solution:
        """Find attributes and ties; pins what cannot be followed.

        `values` are the attributes' present values; one that no demand defines stays as it is.
        """
        asked = [self._equation(demand) for demand in demands]
        direct = [e for e in asked if isinstance(e.demand.given, Attribute)]
        nested = [e for e in asked if not isinstance(e.demand.given, Attribute)]
        told = {attribute for e in direct for attribute in e.attributes}
        inside = [e for e in nested if not told.issuperset(e.attributes)]
        distinct: dict[tuple[Expr, tuple[int, ...]], Equation] = {}
        for equation in (*direct, *nested):  # layers of one block ask the same again and again
            distinct.setdefault((equation.demand.given, equation.key), equation)
        equations = list(distinct.values())
        while True:
            self.known = Known(self.scope)
            for equation in direct:
                (attribute,) = equation.attributes
                if attribute not in self.known.attributes:
                    self.known.attributes[attribute] = equation.length()
            self._define(inside)
            ties = self._constrain(equations, values)
            if ties is not None:
                return Solution(self.known.attributes, ties)
            # what holds for every length still holds for those that are pinned since
            equations = [e for e in equations if e.rest != {} or not told.issuperset(e.attributes)]

    def _equation(self, demand: Demand) -> Equation:
        term = flat(demand.term)
        axes, attributes = list(leaves(term)), list[Attribute]()
        for atom in atoms(demand.given):
            if isinstance(atom, Attribute):
                attributes.append(atom)
            elif self.scope.dims[atom.tensor] is not None:
                axes += leaves(self.scope.dims[atom.tensor][atom.dim])  # type: ignore[index]
        free = [axis for axis in dict.fromkeys(axes) if axis.pin is None]
        return Equation(demand, tuple(map(id, term)), free, attributes)

    def bound(
        self, expr: Expr, least: int, values: dict[Attribute, int]
    ) -> tuple[Axis, int] | None:
        """The axis that keeps an expression at `least` or above, with the units it takes.

        None if that is no matter of a single axis; the rehearsal sees what happens then.
        """
        found = self.known.fraction(expr, values)
        if found is None or set(found[1]) != {()}:
            return None
        above, below = dict(found[0]), found[1][()]
        fixed = above.pop((), 0)
        if len(above) != 1:
            return None
        ((monomial, factor),) = above.items()
        if len(monomial) != 1 or factor <= 0 or below <= 0:
            return None
        return monomial[0], -(-(least * below - fixed) // factor)

    def _define(self, nested: list[Equation]) -> None:
        """Attributes that only occur inside expressions: `3 * attr == length`."""
        for equation in nested:
            unknown = {a for a in equation.attributes if a not in self.known.attributes}
            if len(unknown) == 1:
                (attribute,) = unknown
                found = self.known.isolate(equation.demand.given, equation.length(), attribute)
                if found is not None:
                    self.known.attributes[attribute] = found

    def _constrain(
        self, equations: list[Equation], values: dict[Attribute, int]
    ) -> list[Tie] | None:
        """Ties from what remains; None when something was pinned, and all must be seen again.

        Linear equalities first: what they tie may already fulfil the others.
        """
        ties, later = Ties(), list[tuple[Poly, Why]]()
        for equation in equations:
            rest, why = self._rest(equation, values), equation.demand.why
            if rest is None:
                involved = self.known.involved(equation.demand)
                if any(leaf.pin is None for leaf in involved):
                    pin(involved, Why("its length goes through arithmetic that rounds", why.where))
                    return None
                continue
            if any(len(monomial) > 1 for monomial in rest):
                later.append((rest, why))
            elif rest and not ties.tie(rest) and _settle(rest, why):
                return None
        for rest, why in later:
            left = ties.reduced(rest)
            solved = not left or ties.tie(primitive(left)) or ties.match(rest)
            if not solved and _settle(rest, why):
                return None
        return ties.list()

    def _rest(self, equation: Equation, values: dict[Attribute, int]) -> Poly | None:
        """What an equation still demands; worked out again only if what it depends on changed."""
        wanted = equation.length()
        state = (len(equation.free), [self.known.attributes.get(a) for a in equation.attributes])
        if equation.state != state:
            rest = self.known.difference(equation.demand.given, wanted, values)
            equation.rest = None if rest is None else primitive(rest)
            equation.state = state
        return equation.rest


def _settle(rest: Poly, why: Why) -> bool:
    """Pin what makes a demand nonlinear; pin all of it if that is not enough. True if pinned.

    Of `heads * head_dim == width` the longest factor stays free, so that it can follow the width;
    of `(a + b) * head_dim == width` the one that all products share.
    """
    axes = {axis for monomial in rest for axis in monomial}
    if not axes:
        return False
    nonlinear = [set(m) for m in rest if len(m) > 1]
    if nonlinear and () not in rest:
        shared = set.intersection(*nonlinear) or set.union(*nonlinear)
        free = max(shared, key=lambda axis: (axis.size, -axis.number))
        fixed = set.union(*nonlinear) - {free}
        if fixed:
            pin(fixed, Why("a product of lengths has to stay equal to another axis", why.where))
            return True
    pin(axes, why)
    return True
