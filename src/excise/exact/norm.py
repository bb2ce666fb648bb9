"""Normalisation: per channel it is a map of its own; over channels every unit is mixed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from excise.exact.effect import Context, Effect, Marks, reduced, row
from excise.exact.fact import Fact
from excise.exact.group import Grouped
from excise.exact.pointwise import Pointwise
from excise.trace import Ref

_UNTRAINED = frozenset(["_native_batch_norm_legit_no_training", "_batch_norm_no_update"])


@row(
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm", "miopen_batch_norm", "batch_norm", "_batch_norm_no_update",
    "_batch_norm_with_update", "_native_batch_norm_legit_functional",
)  # fmt: skip
def batch_norm(c: Context) -> Effect:
    """A zero weight leaves the bias; known statistics map a constant to a constant."""
    args = c.op.args
    channels = c.layout.full(c.ins[0])[1]
    shape = [-1 if i == 1 else 1 for i in range(len(c.layout.small(c.ins[0])))]
    found = [c.facts[c.place(r)] if isinstance(r, Ref) else None for r in args[:5]]  # type: ignore[index]
    x = found[0]
    assert x is not None  # noqa: S101 - for the type checker
    weight = _line(found[1], channels, 1.0, shape)
    bias = _line(found[2], channels, 0.0, shape)
    training = c.name not in _UNTRAINED and _training(c)
    line = None
    if training or found[3] is None:
        value = bias.value
        known = (_one_number(x) | weight.zero) & bias.known
    else:
        mean, var = _line(found[3], channels, 0.0, shape), _line(found[4], channels, 1.0, shape)
        scale = weight.value / torch.sqrt(var.value + float(args[7 if len(args) > 7 else 6]))  # noqa: PLR2004
        value = (x.value.double() - mean.value) * scale + bias.value
        value = torch.where(weight.zero, bias.value, value)
        fixed = weight.known & mean.known & var.known
        known = (x.known & fixed | weight.zero) & bias.known
        line = (scale, mean.value, bias.value) if fixed.all() and bias.full else None
    matters = [~weight.zero] + [True] * (len(c.ins) - 1)
    target = c.layout.small(c.outs[0])
    outs = [c.layout.settle(c.outs[0], value.expand(target), known.expand(target))]
    outs += [c.layout.unknown(ref) for ref in c.outs[1:]]
    made = BatchNorm(c, outs, [m if m is True else m.expand(target) for m in matters])  # type: ignore[union-attr]
    made.line, made.batch = line, training or found[3] is None
    return made


def _one_number(x: Fact) -> Tensor:
    """Channels that are the same constant everywhere: nothing is left of them once centred."""
    value, known = x
    for dim in (d for d in range(value.ndim) if d != 1):
        first = value.narrow(dim, 0, 1)
        known = (known & (value == first)).all(dim, keepdim=True)
        value = first
    return known


class BatchNorm(Pointwise):
    """Channel by channel; the saved statistics of the further outputs depend on everything.

    `line` is the scale, the mean and the bias of each channel, if its statistics are known; `batch`
    says that they are taken anew from the whole channel.
    """

    line: tuple[Tensor, Tensor, Tensor] | None = None
    batch = False

    def need(self, wanted: Sequence[Marks]) -> list[Marks]:
        """The same channel, unless its weight is zero, and the parameters of that channel."""
        if any(m is not None and bool(m.any()) for m in wanted[1:]):
            return Effect.need(self, wanted)
        first, matters = wanted[0], self.matters[0]
        if first is None:
            return [None] * len(self.c.ins)
        line = first.transpose(0, 1).flatten(1).any(1)
        there = first if isinstance(matters, bool) or matters is None else first & matters
        if self.batch:
            others = [dim for dim in range(there.ndim) if dim != 1]
            there = there.any(others, keepdim=True).expand(there.shape)
        found: list[Marks] = [reduced(there, self.c.layout.small(self.c.ins[0]))]
        for ref in self.c.ins[1:]:
            shape = self.c.layout.small(ref)
            found.append(
                line if shape == tuple(line.shape) else torch.ones(shape, dtype=torch.bool)
            )
        return found


def _training(c: Context) -> bool:
    if c.name == "_batch_norm_with_update":
        return True
    flags = [a for a in c.op.args[5:] if isinstance(a, bool)]
    return flags[0] if flags else False


def _line(fact: Fact | None, channels: int, default: float, shape: list[int]) -> Fact:
    if fact is None:
        value = torch.full((channels,), default, dtype=torch.float64)
        return Fact(value.reshape(shape), torch.ones(shape_of(shape, channels), dtype=torch.bool))
    return Fact(fact.value.double().reshape(shape), fact.known.reshape(shape))


def shape_of(shape: list[int], channels: int) -> list[int]:
    """Fill in the -1 of a shape."""
    return [channels if n == -1 else n for n in shape]


@row("native_layer_norm", "layer_norm", "_fused_rms_norm", "rms_norm")
def layer_norm(c: Context) -> Effect:
    """Statistics over the last dimensions."""
    rank = len(c.op.args[1])
    dims = list(range(len(c.layout.small(c.ins[0])) - rank, len(c.layout.small(c.ins[0]))))
    return Grouped(c, dims)


@row("native_group_norm", "group_norm")
def group_norm(c: Context) -> Effect:
    """Statistics over each group of channels."""
    groups = int(c.op.args[6] if c.name == "native_group_norm" else c.op.args[1])
    return Grouped(c, [1], groups)
