"""Scaled dot product attention: an average of values, which leaves a constant value alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from excise.exact.effect import Context, Effect, Marks, reduced, row
from excise.exact.fact import Fact


class Attention(Effect):
    """`q: ... l e`, `k: ... s e`, `v: ... s f` -> `... l f`; further inputs are masks."""

    def __init__(self, c: Context) -> None:
        super().__init__(c)
        names = ("query", "key", "value")
        given = [
            c.op.args[i] if len(c.op.args) > i else c.op.kwargs[n] for i, n in enumerate(names)
        ]
        self.q, self.k, self.v = (c.place(ref) for ref in given)
        fact = c.facts[self.v]  # type: ignore[index]
        first = fact.value[..., :1, :]
        known = (fact.known & (fact.value == first)).all(-2, keepdim=True)
        if len(c.ins) > 3 or drops(c):  # noqa: PLR2004 - a mask may leave a row without any value
            known = known & (first == 0)
        shape = c.layout.small(c.outs[0])
        self.fixed = self.heads(Fact(first, known), shape)
        self.outs = [
            Fact(*(t.expand(shape) for t in self.fixed)),
            *(c.layout.unknown(ref) for ref in c.outs[1:]),
        ]

    def heads(self, fact: Fact, shape: Sequence[int]) -> Fact:
        """Values of fewer heads than queries serve blocks of queries."""
        value, known = fact
        for dim in range(value.ndim - 2):
            n, wanted = value.shape[dim], shape[dim]
            if n not in {1, wanted}:
                value = value.repeat_interleave(wanted // n, dim)
                known = known.repeat_interleave(wanted // n, dim)
        return Fact(value, known)

    def need(self, wanted: Sequence[Marks]) -> list[Marks]:
        """All values of a wanted head; its queries and keys unless every value is the same."""
        c = self.c
        found: list[Marks] = [None] * len(c.ins)
        marks = wanted[0]
        if any(m is not None and bool(m.any()) for m in wanted[1:]):
            return super().need(wanted)
        if marks is None:
            return found
        self._mark(found, self.v, marks.any(-2, keepdim=True))
        scores = (marks & ~self.fixed.known).any(-1, keepdim=True)
        q, k = self._zero(self.q), self._zero(self.k)
        self._mark(found, self.q, scores & (q | ~k))  # where both are zero, one has to stay so
        self._mark(found, self.k, (scores & ~q).any(-2, keepdim=True))
        for i, ref in enumerate(c.ins):
            if i not in {self.q, self.k, self.v} and bool(scores.any()):
                found[i] = torch.ones(c.layout.small(ref), dtype=torch.bool)
        return found

    def lose(self, wanted: Sequence[Marks], gone: Sequence[Marks]) -> list[Marks]:
        """Where every term of the scores is zero, keys weigh alike, with however many units."""
        marks = wanted[0]
        found = super().lose(wanted, gone)
        if marks is None or (found[self.q] is None and found[self.k] is None):  # type: ignore[index]
            return found
        scores = (marks & ~self.fixed.known).any(-1, keepdim=True)
        scores &= ~(self._zero(self.q) | self._zero(self.k)).all(-1, keepdim=True)
        missed: list[Marks] = [None] * len(self.c.ins)
        self._mark(missed, self.q, scores)
        self._mark(missed, self.k, scores.any(-2, keepdim=True))
        for place in (self.q, self.k):
            lost, here = gone[place], missed[place]  # type: ignore[index]
            if place != self.v:
                found[place] = None if lost is None or here is None else lost & here  # type: ignore[index]
        return found

    def _zero(self, place: int | None) -> Tensor:
        """Units of queries, or keys, that are zero at every position, per head of the result."""
        fact = self.c.facts[place]  # type: ignore[index]
        zero = fact.zero.all(-2, keepdim=True)
        return self.heads(Fact(zero, zero), self.c.layout.small(self.c.outs[0])).known

    def _mark(self, found: list[Marks], place: int | None, marks: Tensor) -> None:
        assert place is not None  # noqa: S101 - for the type checker
        shape = self.c.layout.small(self.c.ins[place])
        for dim in range(marks.ndim - 2):
            n, wide = shape[dim], marks.shape[dim]
            if n not in {1, wide} and wide != 1:
                marks = marks.unflatten(dim, (n, wide // n)).any(dim + 1)
        target = [max(a, b) for a, b in zip(marks.shape, shape, strict=True)]
        back = reduced(marks.expand(target), shape)
        found[place] = back if found[place] is None else found[place] | back  # type: ignore[operator]


def drops(c: Context) -> bool:
    """Whether some of the weights are dropped."""
    given = c.op.kwargs.get("dropout_p", c.op.args[4] if len(c.op.args) > 4 else 0.0)  # noqa: PLR2004
    return isinstance(given, float) and given > 0


@row(
    "scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_attention_math",
    "_scaled_dot_product_fused_attention_overrideable",
)  # fmt: skip
def attention(c: Context) -> Effect:
    """Every form of it in aten."""
    return Attention(c)
