"""Calls that take sizes: which int argument is the length of which dimension.

Each row turns one recorded call into `Demand`s: the int given here must stay equal to the length of
that term. An int that the code itself spells out is a demand too, and pins what it measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

from excise.axes import Clash, Term, Why, cut_head, cut_parts, size
from excise.rules.table import Scope
from excise.trace import Call, Ref
from excise.trace.provenance import Apply, Expr, Guard, SizeOf, origin


class Demand(NamedTuple):
    """An int that was given as a size, and the term whose length it has to stay."""

    given: Expr
    term: tuple[Any, ...]
    why: Why


Row: TypeAlias = "Callable[[Scope, Call], Iterator[tuple[Expr, Term]]]"
CALLS: dict[str, Row] = {}


def call(*names: str) -> Callable[[Row], Row]:
    """Register the row of the named Python calls."""

    def register(function: Row) -> Row:
        for name in names:
            CALLS[name] = function
        return function

    return register


def demands(s: Scope, record: Call) -> list[Demand]:
    """Every demand of one call; a call that its row does not understand makes none.

    What is missed here is found by the rehearsal, which compares shapes.
    """
    place = f"{record.where} in {record.module}" if record.module else record.where
    try:
        found = list(CALLS[record.name](s, record))
    except (Clash, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return []
    why = Why(f"its length is given to {record.name}", place)
    return [Demand(given, tuple(term), why) for given, term in found if term]


def compared(s: Scope, guard: Guard) -> list[Demand]:
    """A length that the model's code compared with another value, and found equal."""
    for length, other in (guard, guard[::-1]):
        dims = s.dims[length.tensor] if isinstance(length, SizeOf) else None
        if isinstance(length, SizeOf) and dims is not None and dims[length.dim]:
            return [Demand(other, tuple(dims[length.dim]), Why("the code compares its length", ""))]
    return []


def _sizes(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Sizes passed as one sequence or one by one."""
    if len(given) == 1 and isinstance(given[0], (tuple, list)):
        return tuple(given[0])
    return given


def _each(s: Scope, given: tuple[Any, ...], out: Ref) -> Iterator[tuple[Expr, Term]]:
    dims = s.get(out)
    if len(given) != len(dims):
        return
    for value, term in zip(given, dims, strict=True):
        if isinstance(value, int) and value != -1:
            yield origin(value), term


@call("view", "reshape", "expand", "broadcast_to", "new_zeros", "new_ones", "new_empty", "resize_")
def shaped(s: Scope, c: Call) -> Iterator[tuple[Expr, Term]]:
    """`x.view(*sizes)` and its like."""
    given = c.args[1:] or (c.kwargs.get("size") or c.kwargs.get("shape"),)
    yield from _each(s, _sizes(tuple(given)), c.outs[0])


@call("new_full")
def new_full(s: Scope, c: Call) -> Iterator[tuple[Expr, Term]]:
    """`x.new_full(sizes, value)`."""
    yield from _each(s, _sizes((c.args[1],)), c.outs[0])


@call("zeros", "ones", "empty", "rand", "randn")
def made(s: Scope, c: Call) -> Iterator[tuple[Expr, Term]]:
    """`torch.zeros(*sizes)`."""
    yield from _each(s, _sizes(tuple(c.args) or (c.kwargs["size"],)), c.outs[0])


@call("full")
def full(s: Scope, c: Call) -> Iterator[tuple[Expr, Term]]:
    """`torch.full(sizes, value)`."""
    yield from _each(s, _sizes((c.args[0],)), c.outs[0])


@call("arange")
def arange(s: Scope, c: Call) -> Iterator[tuple[Expr, Term]]:
    """`torch.arange(n)`."""
    if len(c.args) == 1 and isinstance(c.args[0], int):
        yield origin(c.args[0]), s.get(c.outs[0])[0]


@call("histc")
def histc(s: Scope, c: Call) -> Iterator[tuple[Expr, Term]]:
    """`torch.histc(x, bins)`."""
    bins = c.args[1] if len(c.args) > 1 else c.kwargs["bins"]
    yield origin(bins), s.get(c.outs[0])[0]


@call("one_hot")
def one_hot(s: Scope, c: Call) -> Iterator[tuple[Expr, Term]]:
    """`F.one_hot(x, num_classes)`."""
    yield origin(c.args[1] if len(c.args) > 1 else c.kwargs["num_classes"]), s.get(c.outs[0])[-1]


@call("unflatten")
def unflatten(s: Scope, c: Call) -> Iterator[tuple[Expr, Term]]:
    """`x.unflatten(dim, sizes)`."""
    dims, rank = s.get(c.outs[0]), len(s.shape(c.args[0]))
    sizes = tuple(c.args[2]) if len(c.args) == 3 else _sizes(tuple(c.args[2:]))  # noqa: PLR2004
    start = int(c.args[1]) % rank
    for value, term in zip(sizes, dims[start : start + len(sizes)], strict=True):
        if value != -1:
            yield origin(value), term


@call("repeat", "tile", "repeat_interleave")
def repeated(s: Scope, c: Call) -> Iterator[tuple[Expr, Term]]:
    """`x.repeat(*times)`: each length is a multiple of the old one."""
    out = s.get(c.outs[0])
    if c.name == "repeat_interleave":
        times = c.args[1] if len(c.args) > 1 else c.kwargs["repeats"]
        dim = c.args[2] if len(c.args) > 2 else c.kwargs.get("dim")  # noqa: PLR2004
        if isinstance(times, int) and dim is not None:
            length = SizeOf(c.args[0].number, dim % len(out))
            yield Apply("*", origin(times), length), out[dim]
        return
    reps = _sizes(tuple(c.args[1:]) or (c.kwargs.get("dims") or c.kwargs["repeats"],))
    reps = (1,) * (len(out) - len(reps)) + reps  # `tile` may name the last dimensions only
    extra = len(reps) - len(s.shape(c.args[0]))
    for i, (value, term) in enumerate(zip(reps, out, strict=True)):
        if value == 1:
            continue
        inner: Expr = SizeOf(c.args[0].number, i - extra) if i >= extra else 1
        yield Apply("*", origin(value), inner), term


@call("split", "split_with_sizes")
def split(s: Scope, c: Call) -> Iterator[tuple[Expr, Term]]:
    """`x.split(size)` or `x.split(sizes)`."""
    given = c.args[1] if len(c.args) > 1 else next(iter(c.kwargs.values()))
    dim = c.args[2] if len(c.args) > 2 else c.kwargs.get("dim", 0)  # noqa: PLR2004
    many = isinstance(given, (tuple, list))
    for i, out in enumerate(c.outs):
        term = s.get(out)[dim]
        if many:
            yield origin(given[i]), term
        elif size(term) == given:
            yield origin(given), term


@call("chunk", "tensor_split")
def chunk(s: Scope, c: Call) -> Iterator[tuple[Expr, Term]]:
    """`x.chunk(n)`: all parts stay equally long."""
    dim = c.args[2] if len(c.args) > 2 else c.kwargs.get("dim", 0)  # noqa: PLR2004
    first = c.outs[0]
    rank = len(s.shape(first))
    length = s.shape(first)[dim]
    for out in c.outs[1:]:
        if s.shape(out)[dim] == length:
            yield SizeOf(first.number, dim % rank), s.get(out)[dim]


@call("narrow")
def narrow(s: Scope, c: Call) -> Iterator[tuple[Expr, Term]]:
    """`x.narrow(dim, start, length)`."""
    dim, start, length = c.args[1:4]
    yield from _edge(s.get(c.args[0])[dim], start)
    yield origin(length), s.get(c.outs[0])[dim]


def _edge(term: Term, edge: Any) -> Iterator[tuple[Expr, Term]]:
    """A position inside a dimension: the length of what lies before it, or after it."""
    total = size(term)
    if not isinstance(edge, int):
        return
    place = edge if edge >= 0 else total + edge
    if not 0 < place < total:
        if place == total and not isinstance(origin(edge), int):
            yield origin(edge), term
        return
    before, after = cut_parts(term, [place])
    if edge >= 0:
        yield origin(edge), before
    else:
        yield Apply("-", 0, origin(edge)), after


@call("__getitem__", "__setitem__")
def getitem(s: Scope, c: Call) -> Iterator[tuple[Expr, Term]]:
    """`x[a:b]`: what lies before an edge keeps the length that the edge says."""
    source, key = c.args[0], c.args[1]
    keys = list(key) if type(key) is tuple else [key]
    dims = s.get(source)
    plain = sum(1 for k in keys if k is not None and k is not Ellipsis)
    if Ellipsis in [k for k in keys if not isinstance(k, Ref)]:
        at = next(i for i, k in enumerate(keys) if k is Ellipsis)
        keys[at : at + 1] = [slice(None)] * (len(dims) - plain)
    place = 0
    for k in keys:
        if k is None:
            continue
        if isinstance(k, slice):
            if k.step in (None, 1):
                yield from _edge(dims[place], k.start)
                yield from _edge(dims[place], k.stop)
        elif isinstance(k, Ref):
            return
        place += 1


@call("layer_norm", "rms_norm")
def normalised(s: Scope, c: Call) -> Iterator[tuple[Expr, Term]]:
    """`F.layer_norm(x, shape)`."""
    shape = c.args[1] if len(c.args) > 1 else c.kwargs["normalized_shape"]
    dims = s.get(c.args[0])[-len(shape) :]
    for value, term in zip(shape, dims, strict=True):
        yield origin(value), term


@call("group_norm")
def grouped(s: Scope, c: Call) -> Iterator[tuple[Expr, Term]]:
    """`F.group_norm(x, groups)`."""
    groups = c.args[1] if len(c.args) > 1 else c.kwargs["num_groups"]
    head, _ = cut_head(s.get(c.args[0])[1], int(groups))
    yield origin(groups), head


@call("channel_shuffle", "native_channel_shuffle")
def shuffled(s: Scope, c: Call) -> Iterator[tuple[Expr, Term]]:
    """`F.channel_shuffle(x, groups)`."""
    groups = c.args[1] if len(c.args) > 1 else c.kwargs["groups"]
    head, _ = cut_head(s.get(c.args[0])[1], int(groups))
    yield origin(groups), head


@call("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def convolved(s: Scope, c: Call) -> Iterator[tuple[Expr, Term]]:
    """The `groups` of a convolution."""
    groups = c.args[6] if len(c.args) > 6 else c.kwargs.get("groups", 1)  # noqa: PLR2004
    if groups != 1:
        rank = int(c.name[-2])
        source = c.args[0] if c.args else c.kwargs["input"]
        head, _ = cut_head(s.get(source)[-rank - 1], int(groups))
        yield origin(groups), head


@call("pad")
def padded(s: Scope, c: Call) -> Iterator[tuple[Expr, Term]]:
    """`F.pad(x, amounts)`: the added stretches at both ends."""
    amounts = c.args[1] if len(c.args) > 1 else c.kwargs["pad"]
    dims = s.get(c.outs[0])
    for j in range(len(amounts) // 2):
        term = dims[len(dims) - 1 - j]
        before, after = amounts[2 * j], amounts[2 * j + 1]
        total = size(term)
        if before > 0:
            yield origin(before), cut_parts(term, [int(before)])[0]
        if after > 0:
            yield origin(after), cut_parts(term, [total - int(after)])[-1]
