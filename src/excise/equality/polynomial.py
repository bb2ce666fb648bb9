"""Polynomials with whole coefficients, over lengths of axes and over attributes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeAlias

from excise.axes import Axis, flat

Monomial: TypeAlias = "tuple[Any, ...]"
Poly: TypeAlias = "dict[Monomial, int]"
"""Monomial (variables in a fixed order, repeats for powers) -> coefficient; no zeros."""


def order(variable: Any) -> tuple[str, Any]:
    """By what the variables of a monomial are sorted."""
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
            key = tuple(sorted(m + n, key=order)) if m and n else m or n
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


def primitive(rest: Poly) -> Poly:
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
