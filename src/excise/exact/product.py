"""Sums of products of two activations, as in attention: a term is nothing if one side is zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from excise.axes import size
from excise.exact.effect import Context, Effect, Marks, reduced
from excise.exact.fact import Fact


def product(
    c: Context, left: int, right: int, *, transpose: bool = False, bias: int | None = None
) -> Effect:
    """`left @ right`, with the right side transposed first if asked."""
    if min(c.facts[left].value.ndim, c.facts[right].value.ndim) < 2 or left == right:  # noqa: PLR2004
        return Effect(c)
    return Product(c, left, right, transpose=transpose, bias=bias)


class Product(Effect):
    """A matrix product over the small shapes."""

    mixes = False

    def __init__(
        self, c: Context, left: int, right: int, *, transpose: bool, bias: int | None
    ) -> None:
        super().__init__(c)
        self.left, self.right, self.bias, self.transpose = left, right, bias, transpose
        x, y = c.facts[left], c.facts[right]
        self.x = x
        self.y = Fact(y.value.mT, y.known.mT) if transpose else y
        self.x, self.y = self._aligned()
        self.fixed = self._averaged()
        self.outs = [self._forward()]

    def _aligned(self) -> tuple[Fact, Fact]:
        """Both sides with the same length of the summed dimension."""
        x, y = self.x, self.y
        n = max(x.value.shape[-1], y.value.shape[-2])
        return (
            Fact(*(t.expand(*t.shape[:-1], n) for t in x)),
            Fact(*(t.expand(*t.shape[:-2], n, t.shape[-1]) for t in y)),
        )

    def _averaged(self) -> Fact:
        """An average of numbers that are all the same, with any shares: (..., 1, columns)."""
        first = self.y.value[..., :1, :].double()
        known = (self.y.known & (self.y.value == first)).all(-2, keepdim=True)
        shared = bool(self.c.shares[self.left]) and self.bias is None
        return Fact(first, known & shared)

    def _forward(self) -> Fact:
        c, ref = self.c, self.c.outs[0]
        x, y = self.x, self.y
        fixed = self.fixed
        lost = _times(~x.known, ~y.zero) | _times(~x.zero, ~y.known)
        term = c.layout.scope.get(c.ins[self.left])[-1]
        if size(term) != x.value.shape[-1]:  # a sum over positions: its length is not ours to know
            lost = lost | _times(~x.zero, ~y.zero)
        if bool((lost & ~fixed.known).all()):
            return self.outs[0]
        value = x.value.double() @ y.value.double()
        value, known = torch.where(fixed.known, fixed.value, value), ~lost | fixed.known
        if self.bias is not None:
            extra = c.facts[self.bias]
            value, known = value + extra.value.double(), known & extra.known
        return c.layout.settle(ref, value, known)

    def need(self, wanted: Sequence[Marks]) -> list[Marks]:
        """Left factors whose partner may not be zero; every right factor of a wanted output."""
        found: list[Marks] = [None] * len(self.c.ins)
        marks = wanted[0]
        if marks is None:
            return found
        found[self.left] = self._left(marks & ~self.fixed.known)
        found[self.right] = self._right(marks, torch.ones_like(self.x.known))
        if self.bias is not None:
            found[self.bias] = reduced(marks, self.c.layout.small(self.c.ins[self.bias]))
        return found

    def _left(self, marks: Tensor) -> Tensor:
        back = _times(marks, (~self.y.zero).mT)
        return reduced(back, self.c.layout.small(self.c.ins[self.left]))

    def _right(self, marks: Tensor, partner: Tensor) -> Tensor:
        back = _times(partner.mT, marks)
        shape = self.c.layout.small(self.c.ins[self.right])
        if self.transpose:
            back = back.mT
        return reduced(back, shape)

    def lose(self, wanted: Sequence[Marks], gone: Sequence[Marks]) -> list[Marks]:
        """Factors of terms that may not be zero."""
        found: list[Marks] = [None] * len(self.c.ins)
        marks, lost = wanted[0], [gone[self.left], gone[self.right]]
        if marks is None:
            return found
        if lost[0] is not None:
            there = lost[0] & ~self.c.facts[self.left].zero
            found[self.left] = self._left(marks & ~self.fixed.known) & there
        if lost[1] is not None:
            partner = self._right(marks, ~self.x.zero)
            found[self.right] = partner & lost[1] & ~self.c.facts[self.right].zero
        if self.bias is not None and gone[self.bias] is not None:
            there = reduced(marks, self.c.layout.small(self.c.ins[self.bias]))
            found[self.bias] = _left_over(there, gone[self.bias], self.c.facts[self.bias])
        return found


def _left_over(marks: Tensor, gone: Marks, fact: Fact) -> Marks:
    return None if gone is None else marks & gone & ~fact.zero


def _times(a: Tensor, b: Tensor) -> Tensor:
    """Which outputs of a matrix product have a marked term."""
    return torch.matmul(a.float(), b.float()) > 0
