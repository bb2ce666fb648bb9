"""Pooling and resizing: a constant stays what it is, channel by channel."""

from __future__ import annotations

from collections.abc import Sequence

from excise.exact.effect import Context, Effect, Marks, row
from excise.exact.fact import Fact
from excise.rules.space import _names
from excise.rules.table import argument

BLENDING = (
    "avg_pool", "max_pool", "adaptive_", "upsample_nearest", "_upsample_nearest",
    "upsample_bilinear", "upsample_linear", "upsample_trilinear", "_adaptive",
    "upsample_bicubic", "mkldnn_", "_upsample", "reflection_pad", "replication_pad",
)  # fmt: skip


class Spatial(Effect):
    """All but the last `rank` dimensions are carried on; positions are mixed among themselves."""

    def __init__(self, c: Context, rank: int) -> None:
        super().__init__(c)
        self.rank = rank
        fact = c.facts[0]
        value, known = fact
        if not c.name.startswith(BLENDING):
            return
        if c.name.startswith("avg_pool") and counts_padding(c):
            known = fact.zero
        for dim in range(value.ndim - rank, value.ndim):
            first = value.narrow(dim, 0, 1)
            known = (known & (value == first)).all(dim, keepdim=True)
            value = first
        shape = c.layout.small(c.outs[0])
        same = Fact(value.expand(shape), known.expand(shape))
        self.outs = [same, *(c.layout.unknown(ref) for ref in c.outs[1:])]

    def need(self, wanted: Sequence[Marks]) -> list[Marks]:
        """The same channels, at every position."""
        found: Marks = None
        shape = self.c.layout.small(self.c.ins[0])
        for marks in wanted:
            if marks is None:
                continue
            back = marks
            for dim in range(marks.ndim - self.rank, marks.ndim):
                back = back.any(dim, keepdim=True)
            found = back.expand(shape) if found is None else found | back.expand(shape)
        return [found, *([None] * (len(self.c.ins) - 1))]


def counts_padding(c: Context) -> bool:
    """Whether zeros around the input count in an average."""
    padding = argument(c.op, 3, "padding", 0)
    padded = any(padding) if isinstance(padding, (list, tuple)) else bool(padding)
    return padded and bool(argument(c.op, 5, "count_include_pad", True))  # noqa: FBT003


@row(*_names("1d"))
def spatial1d(c: Context) -> Effect:
    """One dimension of positions."""
    return Spatial(c, 1)


@row(*_names("2d"))
def spatial2d(c: Context) -> Effect:
    """Two dimensions of positions."""
    return Spatial(c, 2)


@row(*_names("3d"))
def spatial3d(c: Context) -> Effect:
    """Three dimensions of positions."""
    return Spatial(c, 3)
