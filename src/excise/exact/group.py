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
        self.fixed = torch.zeros(shape, dtype=torch.bool)
        if not all(f.full for f in c.facts[1:]):
            return
        if "norm" in c.name and len(c.facts) > 1:  # a zero weight leaves the bias
            self.fixed = (self._along(c.facts[1].value) == 0).expand(shape)
        whole = groups > 1 or all(shape[d] == full[d] for d in self.dims)
        known = ~self._spread(~c.facts[0].known) if whole else self.fixed
        if bool((known | self.fixed).any()):
            value = self._value(torch.where(c.facts[0].known, c.facts[0].value.double(), 0.0))
            if len(c.facts) > 2:  # noqa: PLR2004
                bias = self._along(c.facts[2].value.double()).expand(value.shape)
                value = torch.where(self.fixed & ~known, bias, value)
            self.outs = [c.layout.settle(c.outs[0], value, known | self.fixed), *self.outs[1:]]

    def _along(self, line: Tensor) -> Tensor:
        """A parameter in the shape of the input: along the channels, or the last dimensions."""
        rank = len(self.c.layout.small(self.c.ins[0]))
        if "group_norm" in self.c.name:
            return line.reshape(-1, *([1] * (rank - 2)))
        return line

    def _value(self, x: Tensor) -> Tensor:
        """The operation on one position, in float64."""
        given = [f.value.double() for f in self.c.facts[1:]]
        if "norm" not in self.c.name:
            return self.c.run([x, *given])[0]
        eps = next((a for a in reversed(self.c.op.args) if isinstance(a, float)), 1e-5)
        given = [self._along(g) for g in given]
        grouped = "group_norm" in self.c.name
        blocks = x.unflatten(1, (self.groups, -1)) if grouped else x
        dims = list(range(2, blocks.ndim)) if grouped else self.dims
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
        free = first & ~self.fixed
        found[0] = reduced(self._spread(free), self.c.layout.small(self.c.ins[0]))
        for i, ref in enumerate(self.c.ins[1:], 1):
            shape = self.c.layout.small(ref)
            if "group_norm" in self.c.name:  # parameters lie along the channels
                found[i] = first.transpose(0, 1).flatten(1).any(1)
            else:
                found[i] = reduced(first, shape)
        return found

    def lose(self, wanted: Sequence[Marks], gone: Sequence[Marks]) -> list[Marks]:
        """Nobody misses one of several equal constants, when a norm sees nothing else."""
        found = super().lose(wanted, gone)
        if found[0] is not None and "norm" in self.c.name:
            found[0] = found[0] & ~self._equal()
        return found

    def _equal(self) -> Tensor:
        """Groups that are one and the same constant."""
        value, known = self.c.facts[0]
        odd = ~known
        shape = value.shape
        if "group_norm" in self.c.name:
            blocks = value.unflatten(1, (self.groups, -1))
            first = blocks.flatten(2)[:, :, :1].reshape(
                *blocks.shape[:2], *([1] * (blocks.ndim - 2))
            )
            odd = odd | (blocks != first).flatten(1, 2)
        else:
            for dim in self.dims:
                odd = odd | (value != value.narrow(dim, 0, 1)).expand(shape)
        marks: Tensor = ~self._spread(odd)
        return marks

    def _spread(self, marks: Tensor) -> Tensor:
        if "group_norm" not in self.c.name:
            for dim in self.dims:
                marks = marks.any(dim, keepdim=True).expand(marks.shape)
            return marks
        blocks = marks.unflatten(1, (self.groups, -1))
        inside = list(range(2, blocks.ndim))  # positions that are told apart, too
        whole: Tensor = blocks.any(inside, keepdim=True).expand(blocks.shape).flatten(1, 2)
        return whole


@row("_softmax", "_log_softmax", "softmax", "log_softmax", "_safe_softmax")
def softmax(c: Context) -> Effect:
    """Along one dimension everything depends on everything."""
    rank = len(c.layout.small(c.ins[0]))
    dim = int(argument(c.op, 1, "dim", -1)) % max(rank, 1)
    effect = Grouped(c, [dim] if rank else [])
    effect.shares = dim == rank - 1 and "log" not in c.name
    return effect


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
        """A zero is not missed in a sum, nor one of several equal constants in a mean."""
        found = super().lose(wanted, gone)
        if found[0] is None:
            return found
        value, known = self.c.facts[0]
        if not self.mixes:
            found[0] = found[0] & ~(known & (value == 0))
        elif self.c.name in {"mean", "amax", "amin"}:
            odd = ~known
            for dim in self.dims:
                odd = odd | (value != value.narrow(dim, 0, 1))
            found[0] = found[0] & odd.any(self.dims, keepdim=True)
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
