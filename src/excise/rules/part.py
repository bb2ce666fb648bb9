"""Dimensions laid end to end and taken apart: cat, split, slice, pad, stack, select."""

from __future__ import annotations

from excise.axes import Axis, Clash, Term, cut_parts, cut_tail, flat, joined, size, unify
from excise.rules.table import Scope, argument, rule
from excise.trace import Op, Ref


@rule("cat", "concat", "concatenate")
def cat(s: Scope, op: Op) -> None:
    """Parts keep their identity along `dim`; all other dimensions are the same axes."""
    tensors = [t for t in op.args[0] if s.shape(t) != (0,)]
    rank = len(s.shape(op.outs[0]))
    dim = argument(op, 1, "dim", 0) % max(rank, 1)
    dims: list[Term] = []
    for i in range(rank):
        terms = [s.get(t)[i] for t in tensors]
        if i == dim:
            dims.append(joined(term or _unit(s) for term in terms) if terms else [])
        else:
            for other in terms[1:]:
                unify(terms[0], other)
            dims.append(terms[0])
    s.put(op.outs[0], dims)


def _unit(s: Scope) -> Term:
    """A part of length 1, which still takes a place in a sum."""
    return [Axis(1, s.why("a part of length 1"))]


@rule("stack")
def stack(s: Scope, op: Op) -> None:
    """A new dimension that counts the tensors."""
    tensors = op.args[0]
    dims = s.get(tensors[0])
    for other in tensors[1:]:
        for a, b in zip(dims, s.get(other), strict=True):
            unify(a, b)
    dim = argument(op, 1, "dim", 0) % (len(dims) + 1)
    dims.insert(dim, s.fresh(len(tensors), "the number of stacked tensors"))
    s.put(op.outs[0], dims)


@rule(
    "split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk", "unsafe_chunk",
    "tensor_split", "split_copy", "split_with_sizes_copy",
)  # fmt: skip
def split(s: Scope, op: Op) -> None:
    """One dimension taken apart into consecutive stretches."""
    source: Ref = op.args[0]
    dims = s.get(source)
    dim = argument(op, 2, "dim", 0) % len(dims)
    lengths = [s.shape(out)[dim] for out in op.outs]
    edges = [sum(lengths[:i]) for i in range(1, len(lengths))]
    try:
        parts = cut_parts(dims[dim], edges)
    except Clash as clash:
        s.pin(dims[dim], f"a split crosses it: {clash}")
        parts = [s.fresh(n, "a split that crosses axes") for n in lengths]
    filled = iter(parts)
    for out, length in zip(op.outs, lengths, strict=True):
        part = next(filled) if length else s.fresh(0)
        s.put(out, [flat(part) if i == dim else d for i, d in enumerate(dims)])


@rule("glu")
def glu(s: Scope, op: Op) -> None:
    """One half, gated by the other: `(c + c) -> c`."""
    dims = s.get(op.args[0])
    dim = argument(op, 1, "dim", -1) % len(dims)
    half, gate = cut_parts(dims[dim], [s.shape(op.args[0])[dim] // 2])
    unify(half, gate)
    s.put(op.outs[0], [flat(half) if i == dim else d for i, d in enumerate(dims)])


@rule("slice", "slice_copy", "narrow")
def slice_(s: Scope, op: Op) -> None:
    """A stretch of one dimension; a stride keeps the first of every `step`."""
    source: Ref = op.args[0]
    dims, dim = s.get(source), argument(op, 1, "dim", 0)
    dim %= len(dims)
    total, length = s.shape(source)[dim], s.shape(op.outs[0])[dim]
    if op.name == "narrow":
        start, stop, step = op.args[2] % max(total, 1), op.args[2] % max(total, 1) + op.args[3], 1
    else:
        start, stop = argument(op, 2, "start"), argument(op, 3, "end")
        step = argument(op, 4, "step", 1)
        start, stop, step = slice(start, stop, step).indices(total)
    if length == total:
        pass
    elif length == 0:
        dims[dim] = s.fresh(0)
    elif step != 1:
        dims[dim] = _strided(s, dims[dim], start=start, step=step, length=length)
    else:
        dims[dim] = _stretch(s, dims[dim], start, stop, total)
    s.put(op.outs[0], dims)


def _stretch(s: Scope, term: Term, start: int, stop: int, total: int) -> Term:
    try:
        parts = cut_parts(term, [edge for edge in (start, stop) if 0 < edge < total])
    except Clash as clash:
        s.pin(term, f"a slice crosses it: {clash}")
        return s.fresh(stop - start, "a slice that crosses axes")
    return flat(parts[1 if start > 0 else 0])


def _strided(s: Scope, term: Term, *, start: int, step: int, length: int) -> Term:
    total = size(term)
    if total % step == 0 and start < step and length == total // step:
        try:
            outer, inner = cut_tail(term, step)
        except Clash:
            pass
        else:
            s.pin(inner, "a slice with a stride picks every so many units")
            return outer
    s.pin(term, "a slice with a stride")
    return s.fresh(length, "a slice with a stride")


@rule("slice_scatter", "select_scatter")
def slice_scatter(s: Scope, op: Op) -> None:
    """A copy with one stretch replaced: nothing is known of the stretch's identity."""
    dims, inner = s.get(op.args[0]), s.get(op.args[1])
    dim = argument(op, 2, "dim", 0) % len(dims)
    s.pin(dims[dim], "part of it is overwritten")
    if op.name == "slice_scatter":
        s.pin(inner.pop(dim), "it overwrites part of another axis")
    for a, b in zip([d for i, d in enumerate(dims) if i != dim], inner, strict=True):
        unify(a, b)
    s.put(op.outs[0], dims)


@rule("select", "select_copy")
def select(s: Scope, op: Op) -> None:
    """One index of a dimension is picked."""
    dims = s.get(op.args[0])
    s.pin(dims.pop(op.args[1] % len(dims)), "one unit of it is picked by its number")
    s.put(op.outs[0], dims)


@rule("unbind", "unbind_copy")
def unbind(s: Scope, op: Op) -> None:
    """Every index of a dimension becomes a tensor."""
    dims = s.get(op.args[0])
    s.pin(dims.pop(argument(op, 1, "dim", 0) % len(dims)), "its units are unpacked one by one")
    for out in op.outs:
        s.put(out, dims)


@rule("constant_pad_nd", "pad")
def pad(s: Scope, op: Op) -> None:
    """Constants before and after: a sum with parts of their own."""
    dims, amounts = s.get(op.args[0]), op.args[1]
    for j in range(len(amounts) // 2):
        i = len(dims) - 1 - j
        before, after = amounts[2 * j], amounts[2 * j + 1]
        length = s.shape(op.args[0])[i] + before + after
        if before < 0 or after < 0:
            s.pin(dims[i], "it is cropped by a negative pad")
            dims[i] = s.fresh(length, "a negative pad")
        elif before or after:
            whole = dims[i] or _unit(s)
            ends = [s.free(n) or _unit(s) if n else [] for n in (before, after)]
            dims[i] = joined(part for part in (ends[0], whole, ends[1]) if part)
    s.put(op.outs[0], dims)
