"""Equalities between lengths: what the model's own Python demands of a cut.

Every int that reached a size-taking call makes a *demand*: the value of its expression (over
attributes and other lengths) must equal the length of a term. As polynomials over axis lengths,
most demands cancel, many define what an attribute has to become, some tie axes together (`width ==
heads * head_dim`), and the rest pin their axes, each with its reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

from excise.axes import Axis, Why, flat, leaves, pin
from excise.rules import Demand, Scope
from excise.trace.provenance import Apply, Attribute, Expr, SizeOf, atoms

Monomial: TypeAlias = "tuple[Any, ...]"
Poly: TypeAlias = "dict[Monomial, int]"
"""Monomial (variables in a fixed order, repeats for powers) -> coefficient; no zeros."""


class Tie(NamedTuple):
    """Axes cut in step: one step removes `weight` units from each."""

    members: tuple[tuple[Axis, int], ...]


class Solution(NamedTuple):
    """What attributes become, as polynomials over axes, and which axes move together."""

    attributes: dict[Attribute, Poly]
    ties: list[Tie]


def _key(variable: Any) -> tuple[str, Any]:
    if isinstance(variable, Axis):
        return "axis", variable.number
    return "attribute", str(variable)


def constant(value: int) -> Poly:
    """A number as a polynomial."""
    return {(): value} if value else {}


def add(a: Poly, b: Poly, sign: int = 1) -> Poly:
    """Sum, or difference with `sign=-1`."""
    out = dict(a)
    for monomial, coefficient in b.items():
        out[monomial] = out.get(monomial, 0) + sign * coefficient
    return {m: c for m, c in out.items() if c}


def multiply(a: Poly, b: Poly) -> Poly:
    """Product."""
    if len(b) == 1 and () in b:  # most factors are plain numbers
        a, b = b, a
    if len(a) == 1 and () in a:
        number = a[()]
        return {m: number * c for m, c in b.items()}
    out: Poly = {}
    for m, c in a.items():
        for n, d in b.items():
            key = tuple(sorted(m + n, key=_key)) if m and n else m or n
            out[key] = out.get(key, 0) + c * d
    return {m: c for m, c in out.items() if c}


def divide(a: Poly, b: Poly) -> Poly | None:
    """Exact quotient, or None; the divisor has one monomial, or is a multiple of the dividend's."""
    if not a:
        return {}
    if len(b) != 1:
        return {(): 1} if a == b else None
    ((divisor, number),) = b.items()
    out: Poly = {}
    for monomial, coefficient in a.items():
        rest = list(monomial)
        for variable in divisor:
            if variable not in rest:
                return None
            rest.remove(variable)
        if coefficient % number:
            return None
        out[tuple(rest)] = coefficient // number
    return out


def length(term: Iterable[Axis]) -> Poly:
    """The length of a term: pinned axes are numbers, free ones variables."""
    total = constant(1)
    for axis in flat(term):
        if axis.parts is not None:
            part_sum: Poly = {}
            for part in axis.parts:
                inside = length([part]) if flat([part]) else constant(part.size)
                for monomial, number in inside.items():
                    part_sum[monomial] = part_sum.get(monomial, 0) + number
            total = multiply(total, part_sum)
        elif axis.pin is not None:
            total = multiply(total, constant(axis.size))
        else:
            total = multiply(total, {(axis,): 1})
    return total


def value(poly: Poly, kept: dict[Axis, int]) -> int:
    """Evaluate, with `kept[axis]` units left of an axis (all of them if absent)."""
    return sum(c * math.prod(kept.get(axis, axis.size) for axis in m) for m, c in poly.items())


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


class Solver:
    """Solves demands one after the other; holds what is known of attributes so far."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.attributes: dict[Attribute, Poly] = {}

    def poly(self, expr: Expr) -> Poly | None:
        """An expression as a polynomial over axes and attributes not yet known."""
        if isinstance(expr, int):
            return constant(expr)
        if isinstance(expr, Attribute):
            known = self.attributes.get(expr)
            return dict(known) if known is not None else {(expr,): 1}
        if isinstance(expr, SizeOf):
            dims = self.scope.dims[expr.tensor]
            return length(dims[expr.dim]) if dims is not None else None
        left, right = self.poly(expr.left), self.poly(expr.right)
        if left is None or right is None:
            return None
        return _apply(expr, left, right)

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
            self.attributes = {}
            for equation in direct:
                (attribute,) = equation.attributes
                if attribute not in self.attributes:
                    self.attributes[attribute] = equation.length()
            self._define(inside)
            ties = self._constrain(equations, values)
            if ties is not None:
                return Solution(self.attributes, ties)
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
        found = self._fraction(expr, values)
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
            unknown = {a for a in equation.attributes if a not in self.attributes}
            if len(unknown) == 1:
                (attribute,) = unknown
                found = self._isolate(equation.demand.given, equation.length(), attribute)
                if found is not None:
                    self.attributes[attribute] = found

    def _isolate(self, expr: Expr, wanted: Poly, attribute: Attribute) -> Poly | None:
        if expr == attribute:
            return wanted
        if not isinstance(expr, Apply):
            return None
        inside_left = attribute in set(atoms(expr.left))
        other = self.poly(expr.right if inside_left else expr.left)
        if other is None:
            return None
        inner = expr.left if inside_left else expr.right
        found: Poly | None = None
        if expr.op == "+":
            found = add(wanted, other, -1)
        elif expr.op == "*":
            found = divide(wanted, other) if other else None
        elif expr.op == "-":
            found = add(wanted, other) if inside_left else add(other, wanted, -1)
        elif expr.op == "//":
            found = (
                multiply(wanted, other)
                if inside_left
                else divide(other, wanted)
                if wanted
                else None
            )
        return None if found is None else self._isolate(inner, found, attribute)

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
                involved = self._leaves(equation.demand)
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
            solved = not left or ties.tie(_primitive(left)) or ties.match(rest)
            if not solved and _settle(rest, why):
                return None
        return ties.list()

    def _rest(self, equation: Equation, values: dict[Attribute, int]) -> Poly | None:
        """What an equation still demands; worked out again only if what it depends on changed."""
        wanted = equation.length()
        state = (len(equation.free), [self.attributes.get(a) for a in equation.attributes])
        if equation.state != state:
            rest = self._difference(equation.demand.given, wanted, values)
            equation.rest = None if rest is None else _primitive(rest)
            equation.state = state
        return equation.rest

    def _difference(self, given: Expr, wanted: Poly, values: dict[Attribute, int]) -> Poly | None:
        """`given - wanted`, which has to stay zero; exact divisions are multiplied out."""
        found = self._fraction(given, values)
        if found is None:
            return None
        above, below = found
        return add(above, multiply(wanted, below), -1)

    def _fraction(self, expr: Expr, values: dict[Attribute, int]) -> tuple[Poly, Poly] | None:
        """An expression as a fraction of polynomials over axes; None if it rounds.

        A division counts as exact if it is so now. That it stays so is the business of whoever
        uses the quotient as a length, and at last of the rehearsal.
        """
        if not isinstance(expr, Apply):
            plain = self.poly(expr)
            return None if plain is None else (_plug(plain, values), constant(1))
        left, right = self._fraction(expr.left, values), self._fraction(expr.right, values)
        if left is None or right is None:
            return None
        (a, b), (c, d) = left, right
        if expr.op in "+-":
            sign = 1 if expr.op == "+" else -1
            return _reduced(add(multiply(a, d), multiply(c, b), sign), multiply(b, d))
        if expr.op == "*":
            return _reduced(multiply(a, c), multiply(b, d))
        over, under = multiply(a, d), multiply(b, c)
        now = value(under, {})
        exact = bool(now) and value(over, {}) % now == 0
        if expr.op == "//":
            return _reduced(over, under) if exact else None
        return ({}, constant(1)) if exact else None

    def _leaves(self, demand: Demand) -> list[Axis]:
        found = list(leaves(demand.term))
        for atom in atoms(demand.given):
            if isinstance(atom, SizeOf) and self.scope.dims[atom.tensor] is not None:
                found += leaves(self.scope.dims[atom.tensor][atom.dim])  # type: ignore[index]
            elif isinstance(atom, Attribute) and atom in self.attributes:
                found += [
                    axis for m in self.attributes[atom] for axis in m if isinstance(axis, Axis)
                ]
        return found


def _apply(expr: Apply, left: Poly, right: Poly) -> Poly | None:
    if expr.op in "+-":
        return add(left, right, 1 if expr.op == "+" else -1)
    if expr.op == "*":
        return multiply(left, right)
    quotient = divide(left, right) if right else None
    if expr.op == "//":
        if quotient is None and set(left) <= {()} and set(right) == {()}:
            return constant(left.get((), 0) // right[()])
        return quotient
    if quotient is None and set(left) <= {()} and set(right) == {()}:
        return constant(left.get((), 0) % right[()])
    return None if quotient is None else {}


def _reduced(above: Poly, below: Poly) -> tuple[Poly, Poly]:
    quotient = divide(above, below)
    return (above, below) if quotient is None else (quotient, constant(1))


def _plug(poly: Poly, values: dict[Attribute, int]) -> Poly:
    """Attributes that nothing defines keep their value."""
    out: Poly = {}
    for monomial, coefficient in poly.items():
        number, axes = coefficient, []
        for variable in monomial:
            if isinstance(variable, Axis):
                axes.append(variable)
            else:
                number *= values.get(variable, 0)
        out = add(out, {tuple(axes): number})
    return out


def _primitive(rest: Poly) -> Poly:
    """An equality divided by what all its terms share: `h d == h e` says `d == e`."""
    monomials = list(rest)
    if not monomials or () in rest:
        return rest
    shared = list(monomials[0])
    for monomial in monomials[1:]:
        left = list(monomial)
        shared = [v for v in shared if v in left and not left.remove(v)]  # type: ignore[func-returns-value]
    if not shared:
        return rest
    return divide(rest, {tuple(shared): 1}) or rest


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


class Ties:
    """Axes in proportion: classes of axes that lose whole-number multiples of one step."""

    def __init__(self) -> None:
        self.classes: dict[int, dict[Axis, int]] = {}  # by identity, in the order they were made
        self.of: dict[Axis, dict[Axis, int]] = {}

    def tie(self, rest: Poly) -> bool:
        """Tie the axes of a linear equality without a constant; False if it has another form.

        `a x == b y` leaves one proportion. With more axes, as in `x + y == z`, many would do; all
        lengths are kept in the proportion that they have now.
        """
        if () in rest or any(len(m) != 1 or not isinstance(m[0], Axis) for m in rest):
            return False
        axes: list[Axis] = [m[0] for m in rest]
        common = math.gcd(*(axis.size for axis in axes))
        if len(axes) < 2 or common < 2:  # noqa: PLR2004 - nothing to tie, or no step in between
            return False
        first, *others = axes
        return all(
            self._join(first, first.size // common, other, other.size // common) for other in others
        )

    def match(self, rest: Poly) -> bool:
        """Tie the factors of `heads * dim == heads' * dim'` one to one; False if they differ."""
        if sorted(rest.values()) != [-1, 1]:
            return False
        left, right = (sorted(monomial, key=lambda axis: axis.size) for monomial in rest)
        if [axis.size for axis in left] != [axis.size for axis in right]:
            return False
        return all(x is y or self._join(x, 1, y, 1) for x, y in zip(left, right, strict=True))

    def reduced(self, rest: Poly) -> Poly:
        """A polynomial with one variable for each class, the first axis of it.

        Axes of a class stay in the proportion of their weights. What the ties fulfil comes out
        empty; all else is scaled so that coefficients stay whole.
        """
        classes = {id(c): c for m in rest for axis in m if (c := self.of.get(axis)) is not None}
        scale = math.prod(weights[next(iter(weights))] for weights in classes.values())
        degree = max((len(m) for m in rest), default=0)
        out: Poly = {}
        for monomial, coefficient in rest.items():
            factor, axes = coefficient * scale ** (degree - len(monomial)), []
            for axis in monomial:
                weights = self.of.get(axis) or {axis: 1}
                lead = next(iter(weights))
                factor *= scale * weights[axis] // weights[lead]
                axes.append(lead)
            key = tuple(sorted(axes, key=_key))
            out[key] = out.get(key, 0) + factor
        common = math.gcd(*out.values()) or 1
        return {m: c // common for m, c in out.items() if c}

    def _join(self, x: Axis, p: int, y: Axis, q: int) -> bool:
        first, second = self.of.get(x) or {x: 1}, self.of.get(y) or {y: 1}
        if first is second:
            return first[x] * q == first[y] * p
        left, right = p * second[y], q * first[x]
        merged = {axis: weight * left for axis, weight in first.items()}
        merged |= {axis: weight * right for axis, weight in second.items()}
        common = math.gcd(*merged.values())
        for old in (first, second):
            self.classes.pop(id(old), None)
        made = {axis: weight // common for axis, weight in merged.items()}
        self.classes[id(made)] = made
        self.of.update(dict.fromkeys(made, made))
        return True

    def list(self) -> list[Tie]:
        """The classes found."""
        return [Tie(tuple(c.items())) for c in self.classes.values()]
