"""Expressions of the model's own Python, read as polynomials over lengths of axes."""

from __future__ import annotations

from excise.axes import Axis, leaves
from excise.equality.polynomial import Poly, add, constant, divide, length, multiply, value
from excise.rules import Demand, Scope
from excise.trace.provenance import Apply, Attribute, Expr, SizeOf, atoms


class Known:
    """What is known of attributes so far, and what expressions are worth by it."""

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

    def fraction(self, expr: Expr, values: dict[Attribute, int]) -> tuple[Poly, Poly] | None:
        """An expression as a fraction of polynomials over axes; None if it rounds.

        A division counts as exact if it is so now. That it stays so is the business of whoever
        uses the quotient as a length, and at last of the rehearsal.
        """
        if not isinstance(expr, Apply):
            plain = self.poly(expr)
            return None if plain is None else (_plug(plain, values), constant(1))
        left, right = self.fraction(expr.left, values), self.fraction(expr.right, values)
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

    def difference(self, given: Expr, wanted: Poly, values: dict[Attribute, int]) -> Poly | None:
        """`given - wanted`, which has to stay zero; exact divisions are multiplied out."""
        found = self.fraction(given, values)
        if found is None:
            return None
        above, below = found
        return add(above, multiply(wanted, below), -1)

    def isolate(self, expr: Expr, wanted: Poly, attribute: Attribute) -> Poly | None:
        """What an attribute is if an expression with it has the wanted value; None if unknown."""
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
        return None if found is None else self.isolate(inner, found, attribute)

    def involved(self, demand: Demand) -> list[Axis]:
        """The axes of a demand's term and of what it was given."""
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
