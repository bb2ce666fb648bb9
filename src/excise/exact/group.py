"""Operations that mix all units of some dimensions: norms, softmax, reductions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from excise.exact.effect import Context, Effect, Marks, reduced, row
from excise.rules.table import argument, places


class Grouped(Effect):
    """Within each group of the given dimensions every element depends on every other.

    Of the further inputs, each element acts on the elements that it is broadcast to.
    """

    def __init__(self, c: Context, dims: Sequence[int], groups: int = 1) -> None:
        super().__init__(c)
        self.dims, self.groups = list(dims), groups
        shape, full = c.layout.small(c.ins[0]), c.layout.full(c.ins[0])
        whole = groups > 1 or all(shape[d] == full[d] for d in self.dims)
        known = ~self._spread(~c.facts[0].known)
        if whole and bool(known.any()) and all(f.full for f in c.facts[1:]):
            value = self._value(c.facts[0].value.double())
            self.outs = [c.layout.settle(c.outs[0], value, known), *self.outs[1:]]

    def _value(self, x: Tensor) -> Tensor:
        """The operation on one position, in float64."""
        given = [f.value.double() for f in self.c.facts[1:]]
        if "norm" not in self.c.name:
            return self.c.run([x, *given])[0]
        eps = next((a for a in reversed(self.c.op.args) if isinstance(a, float)), 1e-5)
        if self.dims == [1] and x.ndim > 2:  # noqa: PLR2004 - groups of channels
            given = [g.reshape(-1, *([1] * (x.ndim - 2))) for g in given]
        blocks = x.unflatten(1, (self.groups, -1)) if self.dims == [1] else x
        dims = [2] if self.dims == [1] else self.dims
        if "rms" in self.c.name:
            out = blocks / (blocks.square().mean(dims, keepdim=True) + eps).sqrt()
        else:
            centred = blocks - blocks.mean(dims, keepdim=True)
            out = centred / (centred.square().mean(dims, keepdim=True) + eps).sqrt()
        out = out.reshape(x.shape)
        scaled = out * given[0] if given else out
        return scaled + given[1] if len(given) > 1 else scaled

    def need(self, wanted: Sequence[Marks]) -> list[Marks]:
        """The whole group of a wanted element."""
        found: list[Marks] = [None] * len(self.c.ins)
        first = wanted[0]
        if any(m is not None and bool(m.any()) for m in wanted[1:]):
            return super().need(wanted)
        if first is None:
            return found
        found[0] = reduced(self._spread(first), self.c.layout.small(self.c.ins[0]))
        for i, ref in enumerate(self.c.ins[1:], 1):
            shape = self.c.layout.small(ref)
            if self.dims == [1] and 'group_norm' in self.c.name:  # parameters lie along the channels
                found[i] = first.transpose(0, 1).flatten(1).any(1)
            else:
                found[i] = reduced(first, shape)
        return found

    def _spread(self, marks: Tensor) -> Tensor:
        if self.dims != [1] or self.groups == 1:
            for dim in self.dims:
                marks = marks.any(dim, keepdim=True).expand(marks.shape)
            return marks
        blocks = marks.unflatten(1, (self.groups, -1))
        return blocks.any(2, keepdim=True).expand(blocks.shape).flatten(1, 2)


@row("_softmax", "_log_softmax", "softmax", "log_softmax", "_safe_softmax")
def softmax(c: Context) -> Effect:
    """Along one dimension everything depends on everything."""
    rank = len(c.layout.small(c.ins[0]))
    return Grouped(c, [int(argument(c.op, 1, "dim", -1)) % max(rank, 1)] if rank else [])


@row("cumsum", "cumprod", "logcumsumexp", "sort", "topk")
def ordered(c: Context) -> Effect:
    """Along one dimension, the order matters."""
    return Effect(c)


class Reduction(Effect):
    """Some dimensions are summed up, averaged, or searched for an extreme."""

    def __init__(self, c: Context, dims: Sequence[int]) -> None:
        super().__init__(c)
        self.dims = list(dims)
        self.mixes = c.name != "sum"
        fact = c.facts[0]
        dropped = any(c.layout.small(c.ins[0])[d] != c.layout.full(c.ins[0])[d] for d in self.dims)
        known = fact.zero if dropped and c.name in {"sum", "prod"} else fact.known
        if c.name in {"var", "std", "var_mean", "std_mean", "any", "all"} or len(c.outs) > 1:
            return
        known = known.all(self.dims, keepdim=True) if self.dims else known
        if bool(known.any()):
            value = c.run([fact.value])[0]
            self.outs = [c.layout.settle(c.outs[0], value, known.reshape(value.shape))]

    def need(self, wanted: Sequence[Marks]) -> list[Marks]:
        """All elements that were reduced to a wanted one."""
        found: Marks = None
        shape = self.c.layout.small(self.c.ins[0])
        kept = [1 if i in self.dims else n for i, n in enumerate(shape)]
        for marks in wanted:
            if marks is None:
                continue
            back = _fit(marks, kept).expand(shape)
            found = back if found is None else found | back
        return [found, *([None] * (len(self.c.ins) - 1))]

    def lose(self, wanted: Sequence[Marks], gone: Sequence[Marks]) -> list[Marks]:
        """A zero is not missed in a sum; a mean counts it."""
        found = super().lose(wanted, gone)
        if not self.mixes and found[0] is not None:
            found[0] = found[0] & ~self.c.facts[0].zero
        return found


def _fit(marks: Tensor, kept: list[int]) -> Tensor:
    """Marks on a reduced tensor with the reduced dimensions put back as 1."""
    if marks.ndim == len(kept):
        return reduced(marks, kept)
    wanted = iter(marks.shape)
    del wanted
    return marks.reshape(kept) if marks.numel() == torch.Size(kept).numel() else marks.any()


@row("mean", "sum", "amax", "amin", "logsumexp", "prod")
def reduction(c: Context) -> Effect:
    """Reductions whose second argument is `dim`."""
    rank = len(c.layout.small(c.ins[0]))
    given = argument(c.op, 1, "dim")
    if given is not None and not isinstance(given, (int, tuple, list)):
        return Effect(c)
    return Reduction(c, places(c.op, 1, "dim", rank))


@row("var", "std", "var_mean", "std_mean")
def variance(c: Context) -> Effect:
    """Variances."""
    rank = len(c.layout.small(c.ins[0]))
    given = argument(c.op, 1, "dim")
    along = places(c.op, 1, "dim", rank) if not isinstance(given, bool) else list(range(rank))
    return Reduction(c, along)


@row("linalg_vector_norm", "norm")
def vector_norm(c: Context) -> Effect:
    """Vector norms."""
    return Reduction(c, places(c.op, 2, "dim", len(c.layout.small(c.ins[0]))))


@row("max", "min")
def extreme(c: Context) -> Effect:
    """Extremes, with the number of the unit."""
    rank = len(c.layout.small(c.ins[0]))
    if len(c.ins) != 1:
        return Effect(c)
    return Reduction(c, places(c.op, 1, "dim", rank))
