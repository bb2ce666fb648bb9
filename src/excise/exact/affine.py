"""Sums of units times coefficients that are known: linear layers and convolutions.

Here a constant unit can be folded away: what it adds to every output is a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from excise.exact.effect import Context, Effect, Marks, row
from excise.exact.fact import Fact, wide
from excise.exact.product import product


@dataclass(frozen=True)
class Shape:
    """How a weight is read as `groups x out x in`.

    Attributes:
        groups: blocks of channels that do not see each other.
        channel: the dimension of the input and output that holds the channels, from the end.
        transposed: the weight has its inputs first.
        even: every position sees all taps, so a constant input gives a constant output.
    """

    groups: int
    channel: int
    transposed: bool
    even: bool


class Affine(Effect):
    """`out = weight x in + bias`, per group of channels."""

    mixes = False

    def __init__(
        self, c: Context, shape: Shape, source: int, weight: int, bias: int | None
    ) -> None:
        super().__init__(c)
        self.shape, self.source, self.weight, self.bias = shape, source, weight, bias
        raw = c.facts[weight].value.detach()
        self.raw = self._blocks(raw)
        zero = self.raw == 0
        self.nonzero = (~zero).any(-1) if zero.ndim == 4 else ~zero  # noqa: PLR2004
        self._last: tuple[bytes, Tensor] = (b"", self.nonzero)
        self.value, self.known = self._lines()
        self.outs = [self._forward()]

    def _blocks(self, raw: Tensor) -> Tensor:
        """The weight as (groups, out, in, taps)."""
        taps = raw.flatten(2) if raw.ndim > 2 else raw.unsqueeze(-1)  # noqa: PLR2004
        groups = self.shape.groups
        if self.shape.transposed:
            return taps.reshape(groups, -1, *taps.shape[1:]).transpose(1, 2)
        return taps.reshape(groups, -1, *taps.shape[1:])

    def _lines(self) -> tuple[Tensor, Tensor]:
        """The input as (rows, groups, in): one row, unless positions are told apart."""
        fact = self.c.facts[self.source]
        value, known = self.rows(fact.value), self.rows(fact.known)
        if self.shape.channel != -1 and value.shape[0] > 1:
            first = value[:1]
            known = (known & (value == first)).all(0, keepdim=True)
            value = first
        return value, known

    def rows(self, tensor: Tensor, *, out: bool = False) -> Tensor:
        """Channels last, everything else in rows: (rows, groups, channels)."""
        del out
        moved = tensor.movedim(self.shape.channel, -1)
        return moved.reshape(-1, self.shape.groups, moved.shape[-1] // self.shape.groups)

    def _forward(self) -> Fact:
        ref = self.c.outs[0]
        matters = ~self.known if self.shape.even else ~self.known | (self.value != 0)
        lost = self.ahead(matters)
        bias = self.c.facts[self.bias] if self.bias is not None else None
        known = ~lost
        if not bool(known.any()):
            return self.outs[0]
        made = torch.zeros(lost.shape, dtype=torch.float64)
        some = self.known & (self.value != 0)
        if self.shape.even and bool(some.any()):
            made = made + self.added(some)
        if bias is not None:
            made = made + bias.value.detach().double().reshape(1, *lost.shape[1:])
            known = known & bias.known.reshape(1, *lost.shape[1:])
        return self.c.layout.settle(ref, self.spread(made), self.spread(known))

    def ahead(self, marks: Tensor) -> Tensor:
        """Outputs that the marked inputs reach: (rows, groups, in) -> (rows, groups, out)."""
        if marks.shape[0] == 1:
            if not bool(marks.any()):
                return torch.zeros(1, *self.nonzero.shape[:2], dtype=torch.bool)
            if bool(marks.all()):
                return self.nonzero.any(-1).unsqueeze(0)
            return (self.nonzero & marks[0].unsqueeze(1)).any(-1).unsqueeze(0)
        found = torch.einsum("lgi,goi->lgo", marks.float(), self.nonzero.float())
        return found > 0

    def behind(self, marks: Tensor) -> Tensor:
        """Inputs that reach the marked outputs: (rows, groups, out) -> (rows, groups, in)."""
        if marks.shape[0] == 1:
            key = marks.numpy().tobytes()
            if self._last[0] != key:  # one sweep asks twice, and the next asks again
                found = (self.nonzero & marks[0].unsqueeze(-1)).any(1).unsqueeze(0)
                self._last = (key, found)
            return self._last[1]
        found = torch.einsum("lgo,goi->lgi", marks.float(), self.nonzero.float())
        return found > 0

    def added(self, chosen: Tensor) -> Tensor:
        """What the chosen known inputs add to every output: (rows, groups, out), in float64."""
        columns = chosen.any(0).any(0).nonzero().flatten()
        weight = wide(self.raw[:, :, columns]).sum(-1)
        value = (self.value.double() * chosen)[:, :, columns]
        return torch.einsum("lgi,goi->lgo", value, weight)

    def spread(self, lines: Tensor) -> Tensor:
        """(rows, groups, out) in the small shape of the output."""
        shape = self.c.layout.small(self.c.outs[0])
        channel = self.shape.channel % len(shape)
        flat = lines.flatten(1)
        if flat.shape[0] == 1:
            return flat.reshape([-1 if i == channel else 1 for i in range(len(shape))]).expand(
                shape
            )
        return flat.reshape(*self.c.layout.small(self.c.ins[self.source])[:-1], -1)

    def wanted_lines(self, wanted: Sequence[Marks]) -> Tensor | None:
        """Marks on the output as (rows, groups, out)."""
        marks = wanted[0]
        if marks is None:
            return None
        lines = self.rows(marks)
        many = self.value.shape[0]
        return lines if lines.shape[0] == many else lines.any(0, keepdim=True).expand(many, -1, -1)

    def back(self, lines: Tensor) -> Tensor:
        """(rows, groups, in) in the small shape of the input."""
        shape = self.c.layout.small(self.c.ins[self.source])
        channel = self.shape.channel % len(shape)
        flat = lines.flatten(1)
        if flat.shape[0] == 1:
            return flat.reshape([-1 if i == channel else 1 for i in range(len(shape))]).expand(
                shape
            )
        return flat.reshape(shape)

    def need(self, wanted: Sequence[Marks]) -> list[Marks]:
        """Inputs with a coefficient that is not zero; all coefficients of a wanted output."""
        found: list[Marks] = [None] * len(self.c.ins)
        lines = self.wanted_lines(wanted)
        if lines is None:
            return found
        found[self.source] = self.back(self.behind(lines))
        for place in {self.weight, self.bias} - {None}:
            ref = self.c.ins[place]  # type: ignore[index]
            if ref.number not in self.c.layout.named:
                found[place] = torch.ones(self.c.layout.small(ref), dtype=torch.bool)  # type: ignore[index]
        return found

    def lose(self, wanted: Sequence[Marks], gone: Sequence[Marks]) -> list[Marks]:
        """Inputs that add something: a coefficient that is not zero times what may not be zero."""
        found: list[Marks] = [None] * len(self.c.ins)
        lines, lost = self.wanted_lines(wanted), gone[self.source]
        if lines is not None and lost is not None:
            zero = self.c.facts[self.source].zero
            found[self.source] = self.back(self.behind(lines)) & lost & ~zero
        return found

    @property
    def steady(self) -> Tensor:
        """Inputs known to be one number at every position, in the small shape of the input."""
        known = self.known
        if known.shape[0] > 1:
            same = (self.value == self.value[:1]).all(0, keepdim=True)
            known = (known.all(0, keepdim=True) & same).expand(known.shape)
        return self.back(known)


@row("linear")
def linear(c: Context) -> Effect:
    """`x @ weight.T + bias`."""
    op = c.op
    weight = op.args[1] if len(op.args) > 1 else op.kwargs["weight"]
    bias = op.args[2] if len(op.args) > 2 else op.kwargs.get("bias")  # noqa: PLR2004
    place = c.place(weight)
    if place is None or not c.facts[place].full or c.facts[place].value.ndim != 2:  # noqa: PLR2004
        return product(c, 0, place or 1, transpose=True, bias=c.place(bias))
    return Affine(c, Shape(1, -1, transposed=False, even=True), 0, place, c.place(bias))


@row("mm", "matmul")
def matmul(c: Context) -> Effect:
    """`x @ y`; with a known matrix on the right it is a linear layer."""
    if c.facts[1].full and c.facts[1].value.ndim == 2 and c.facts[0].value.ndim >= 2:  # noqa: PLR2004
        return Affine(c, Shape(1, -1, transposed=True, even=True), 0, 1, None)
    return product(c, 0, 1)


@row("addmm")
def addmm(c: Context) -> Effect:
    """`bias + x @ y`."""
    if c.op.kwargs or len(c.op.args) != 3:  # noqa: PLR2004 - scaled by alpha and beta
        return Effect(c)
    if c.facts[2].full and c.facts[0].value.ndim == 1:
        return Affine(c, Shape(1, -1, transposed=True, even=True), 1, 2, 0)
    return product(c, 1, 2, bias=0)


@row("bmm", "mv", "dot")
def bmm(c: Context) -> Effect:
    """Products of activations."""
    return product(c, 0, 1)


@row("baddbmm")
def baddbmm(c: Context) -> Effect:
    """`bias +` a batch of products."""
    if c.op.kwargs or len(c.op.args) != 3:  # noqa: PLR2004 - as above
        return Effect(c)
    return product(c, 1, 2, bias=0)


@row("convolution", "_convolution")
def convolution(c: Context) -> Effect:
    """Convolutions: with padding a constant is not the same at the border, unless it is zero."""
    args = c.op.args
    transposed, groups = bool(args[6]), int(args[8])
    place = c.place(args[1])
    if place is None or not c.facts[place].full:
        return Effect(c)
    rank = len(c.layout.full(c.ins[place])) - 2
    one_tap = all(n == 1 for n in c.layout.full(c.ins[place])[2:])
    padded = any(args[4]) or (transposed and not (one_tap and not any(n > 1 for n in args[3])))
    shape = Shape(groups, -rank - 1, transposed, not padded)
    return Affine(c, shape, 0, place, c.place(args[2]))
