"""Ties: axes that lose units in proportion."""

from __future__ import annotations

import math
from typing import NamedTuple

from excise.axes import Axis
from excise.equality.polynomial import Poly, order


class Tie(NamedTuple):
    """Axes cut in step: one step removes `weight` units from each."""

    members: tuple[tuple[Axis, int], ...]


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
            key = tuple(sorted(axes, key=order))
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
