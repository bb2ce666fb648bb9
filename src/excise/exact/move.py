"""Numbers that change their place and not their value: the operation itself moves the marks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from excise.exact.effect import Context, Effect, Marks, row
from excise.trace import Ref

MOVES = (
    "view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten", "permute",
    "transpose", "t", "numpy_T", "adjoint", "mT", "swapaxes", "movedim", "expand", "broadcast_to",
    "unsqueeze", "squeeze", "repeat", "tile", "cat", "concat", "concatenate", "stack", "split",
    "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk", "unsafe_chunk",
    "tensor_split", "slice", "narrow", "select", "unbind", "flip", "roll", "pixel_shuffle",
    "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "unfold", "diagonal",
    "tril", "triu", "index_select", "slice_scatter",
    "select_scatter", "im2col",
)  # fmt: skip
_FLAT = frozenset(["permute", "transpose", "t", "cat", "unsqueeze"])
"""Moves that may be made on the small shapes, because they act on whole dimensions."""


class Move(Effect):
    """The operation runs on marks forwards, and its adjoint backwards."""

    def __init__(self, c: Context, fills: float | None = None) -> None:
        super().__init__(c, [])
        self.small = c.name in _FLAT and self._fits()
        data = [f.value for f in c.facts]
        kinds = {d.dtype for d in data}
        unknown = [(~f.known).double() for f in c.facts]
        whole = all(f.full for f in c.facts)
        none = not any(bool(f.known.any()) for f in c.facts) and fills is None
        if none and c.name not in {"tril", "triu"}:
            self.outs = c.unknown()
            return
        values = self.moved(data if len(kinds) == 1 else [d.double() for d in data])
        if whole and fills is None:
            marks = [torch.zeros(v.shape, dtype=torch.float64) for v in values]
        else:
            marks = self.moved(unknown, filled=False)
        self.outs = [
            c.layout.settle(ref, value, lost == 0)
            for ref, value, lost in zip(c.outs, values, marks, strict=True)
        ]

    def _fits(self) -> bool:
        """Whether all dropped dimensions are dropped in every tensor of a `cat`."""
        c = self.c
        if c.name != "cat":
            return True
        dim = c.op.args[1] if len(c.op.args) > 1 else c.op.kwargs.get("dim", 0)
        shapes = [c.layout.small(ref) for ref in (*c.ins, c.outs[0])]
        full = [c.layout.full(ref) for ref in (*c.ins, c.outs[0])]
        rank = len(shapes[-1])
        if any(len(s) != rank for s in shapes):
            return False
        along = dim % rank
        others = {tuple(n for i, n in enumerate(s) if i != along) for s in shapes}
        return len(others) == 1 and all(
            s[along] == f[along] for s, f in zip(shapes, full, strict=True)
        )

    def moved(self, tensors: Sequence[Tensor], *, filled: bool = True) -> list[Tensor]:
        """The operation on other numbers; `filled` with what it brings along, else with 0."""
        given = list(tensors)
        if not self.small:
            given = [self.c.expanded(i, t) for i, t in enumerate(given)]
        del filled
        return self.c.run(given)

    def need(self, wanted: Sequence[Marks]) -> list[Marks]:
        """Where the wanted elements came from."""
        c = self.c
        shapes = [c.layout.small(ref) for ref in c.ins]
        sources = [torch.zeros(s, dtype=torch.float64, requires_grad=True) for s in shapes]
        with torch.enable_grad():
            outs = self.moved(sources, filled=False)
            pairs = [
                (out, marks.expand(out.shape).double())
                for out, marks in zip(outs, wanted, strict=True)
                if marks is not None and out.requires_grad
            ]
            if not pairs:
                return [None] * len(sources)
            found = torch.autograd.grad(
                [p[0] for p in pairs], sources, [p[1] for p in pairs], allow_unused=True
            )
        return [None if g is None else g > 0 for g in found]


@row(*MOVES)
def move(c: Context) -> Effect:
    """Reshapes, permutations, joins, cuts, repetitions."""
    return Move(c)


class Padding(Move):
    """A constant around the input: the added stretches are known."""

    def moved(self, tensors: Sequence[Tensor], *, filled: bool = True) -> list[Tensor]:
        """As above."""
        given = self.c.expanded(0, tensors[0])
        value = self.c.op.args[2] if len(self.c.op.args) > 2 and filled else 0.0  # noqa: PLR2004
        return [torch.constant_pad_nd(given, list(self.c.op.args[1]), value)]


@row("constant_pad_nd", "pad")
def pad(c: Context) -> Effect:
    """`F.pad` with a constant."""
    return Padding(c, 0.0)


class Picked(Effect):
    """Whole slices picked by numbers that the input may decide: any index may be any other."""

    def __init__(self, c: Context, dims: Sequence[int], numbers: Sequence[int]) -> None:
        super().__init__(c)
        self.dims, self.numbers = tuple(dims), tuple(numbers)
        fact = c.facts[0]
        value, known = fact
        for dim in self.dims:
            first = value.narrow(dim, 0, 1)
            known = (known & (value == first)).all(dim, keepdim=True)
            value = first
        if bool(known.any()):
            lost = (~known).expand(fact.known.shape).double()
            values, marks = self.moved(value.expand(fact.value.shape)), self.moved(lost)
            self.outs = [c.layout.settle(c.outs[0], values, marks == 0)]

    def moved(self, source: Tensor) -> Tensor:
        """The operation on other numbers."""
        c = self.c
        tensors = [c.expanded(0, source)]
        tensors += [torch.zeros(c.layout.full(r), dtype=torch.int64) for r in c.ins[1:]]
        return c.run(tensors)[0]

    def need(self, wanted: Sequence[Marks]) -> list[Marks]:
        """The wanted slices at every index, and the numbers that pick."""
        marks = wanted[0]
        if marks is None:
            return [None] * len(self.c.ins)
        shape = self.c.layout.small(self.c.ins[0])
        source = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            out = self.moved(source)
            (found,) = torch.autograd.grad(out, source, marks.expand(out.shape).double())
        back = found > 0
        for dim in self.dims:
            back = back.any(dim, keepdim=True).expand(back.shape)
        others = [torch.ones(self.c.layout.small(r), dtype=torch.bool) for r in self.c.ins[1:]]
        return [back, *others]


@row("embedding")
def embedding(c: Context) -> Effect:
    """Rows of a table: a column is known if all its rows agree."""
    return Picked(c, [0], [1])


@row("index", "_unsafe_index")
def index(c: Context) -> Effect:
    """`x[i, :, j]`: known index tensors move numbers, others may pick any."""
    dims = [i for i, ref in enumerate(c.op.args[1]) if isinstance(ref, Ref)]
    if all(fact.full for fact in c.facts[1:]):
        return Known(c)
    return Picked(c, dims, range(1, len(c.ins)))


@row("gather", "take_along_dim")
def gather(c: Context) -> Effect:
    """One element for each number."""
    if c.facts[1].full:
        return Known(c)
    return Picked(c, [c.op.args[1] % max(len(c.layout.small(c.ins[0])), 1)], [1])


class Known(Move):
    """A move by numbers that are known."""

    def __init__(self, c: Context) -> None:
        self.numbers = [c.expanded(i, f.value) for i, f in enumerate(c.facts) if i]
        super().__init__(c)

    def moved(self, tensors: Sequence[Tensor], *, filled: bool = True) -> list[Tensor]:
        """As above."""
        del filled
        return self.c.run([self.c.expanded(0, tensors[0].double()), *self.numbers])

    def need(self, wanted: Sequence[Marks]) -> list[Marks]:
        """Where the wanted elements came from, and the numbers."""
        first, *_ = super().need(wanted)
        others = [torch.ones(self.c.layout.small(r), dtype=torch.bool) for r in self.c.ins[1:]]
        return [first, *others]
