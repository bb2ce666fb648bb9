"""Axes: every dimension of every tensor as an expression, and the unification that relates them.

A dimension is a *term*: a product of axes, outermost first (`[c, h, w]` is einops' `(c h w)`; the
empty term is a dimension of length 1). An axis is one of

    leaf       an index set of its own; what a unit is
    alias      another axis, found to be the same one
    product    a term: the axis was seen split into factors
    sum        parts laid one after the other, as `cat` makes and `split` undoes

`unify` makes two terms equal, splitting axes into factors and parts where it must. What cannot be
made equal raises `Clash`; the caller pins what is concerned. Nothing is guessed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Why(NamedTuple):
    """Why an axis must stay as it is, and where that was found."""

    reason: str
    where: str


class Clash(Exception):  # noqa: N818 - a signal between rules, never shown to users
    """Two terms cannot be made equal."""


_numbers = itertools.count()
"""Gives axes an order that is the same in each run, as their places in memory are not."""


class Axis:
    """One node of the union-find: a leaf until it is bound to an alias, a product or a sum."""

    __slots__ = ("alias", "factors", "name", "number", "parts", "pin", "size")

    def __init__(self, size: int, pin: Why | None = None) -> None:
        self.number = next(_numbers)
        self.size = int(size)
        self.pin = pin
        self.alias: Axis | None = None
        self.factors: Term | None = None
        self.parts: Term | None = None
        self.name = ""

    def __repr__(self) -> str:
        return f"<{notation([self])}:{self.size}>"


Term = list[Axis]


def find(axis: Axis) -> Axis:
    """Follow aliases to the axis that stands for all of them."""
    root = axis
    while root.alias is not None:
        root = root.alias
    while axis.alias is not None:  # path compression
        axis.alias, axis = root, axis.alias
    return root


def flat(term: Iterable[Axis]) -> Term:
    """Resolve aliases and products: leaves and sums of size above 1, outermost first."""
    out: Term = []
    for axis in term:
        root = axis if axis.alias is None else find(axis)
        if root.factors is not None:
            out += flat(root.factors)
        elif root.size != 1:
            out.append(root)
    return out


def leaves(term: Iterable[Axis]) -> Iterator[Axis]:
    """Every leaf under a term, in order, repeats included; leaves of size 1 are left out."""
    for axis in flat(term):
        if axis.parts is None:
            yield axis
        else:
            yield from leaves(axis.parts)


def size(term: Iterable[Axis]) -> int:
    """Length of the dimension that a term describes."""
    return math.prod([axis.size for axis in term])


def one(term: Term) -> Axis:
    """Wrap a term into a single axis."""
    fewer = flat(term)
    if len(fewer) == 1:
        return fewer[0]
    axis = Axis(size(fewer))
    if fewer:
        axis.factors = fewer
    return axis


def joined(parts: Iterable[Term]) -> Term:
    """The sum of terms: `cat` along one dimension."""
    filled = [one(part) for part in parts if size(part)]
    if len(filled) < 2:  # noqa: PLR2004 - a sum needs two parts
        return filled
    axis = Axis(sum(part.size for part in filled))
    axis.parts = filled
    return [axis]


def pin(term: Iterable[Axis], why: Why) -> None:
    """Forbid cutting any leaf of a term. The first reason stays."""
    for leaf in leaves(term):
        if leaf.pin is None:
            leaf.pin = why


def cut_tail(term: Term, length: int) -> tuple[Term, Term]:
    """Split a term so that its inner part has `length` indices: `(outer, inner)`."""
    outer, inner, need = flat(term), list[Axis](), length
    while need > 1:
        if not outer:
            raise Clash(f"no inner part of {length} in {notation(term)}")
        axis = outer.pop()
        if axis.size and need % axis.size == 0:
            inner.insert(0, axis)
            need //= axis.size
        elif axis.size % need == 0:
            head, tail = _factor(axis, axis.size // need, need)
            outer += flat([head])
            inner = flat([tail]) + inner
            need = 1
        else:
            raise Clash(f"no inner part of {length} in {notation(term)}")
    return outer, inner


def cut_head(term: Term, length: int) -> tuple[Term, Term]:
    """Split a term so that its outer part has `length` indices: `(outer, inner)`."""
    total = size(term)
    if length == 0 or total % length:
        raise Clash(f"no outer part of {length} in {notation(term)}")
    return cut_tail(term, total // length)


def _factor(axis: Axis, outer: int, inner: int) -> tuple[Axis, Axis]:
    """Bind a leaf or a sum to a product of two factors of the given sizes."""
    if axis.parts is None:
        head, tail = Axis(outer, axis.pin), Axis(inner, axis.pin)
    else:  # every part must be made of whole blocks of `inner`, and all blocks are the same axis
        if any(part.size % inner for part in axis.parts):
            raise Clash(f"blocks of {inner} cross the parts of {notation([axis])}")
        heads, tail_term = list[Term](), None
        for part in axis.parts:
            rest, block = cut_tail([part], inner)
            if tail_term is None:
                tail_term = block
            else:
                unify(tail_term, block)
            heads.append(rest)
        if axis.factors is not None:  # unifying the blocks may have factored this very axis
            return (one(found) for found in cut_tail([axis], inner))  # type: ignore[return-value]
        head = Axis(outer)
        head.parts = [one(h) if flat(h) else Axis(1) for h in heads]
        tail = one(tail_term or [])
        axis.parts = None
    axis.factors = [head, tail]
    return head, tail


def cut_parts(axis_or_term: Axis | Term, edges: Iterable[int]) -> list[Term]:
    """Cut a dimension at the given positions, and return one term for each stretch."""
    term = [axis_or_term] if isinstance(axis_or_term, Axis) else axis_or_term
    total = size(term)
    bounds = sorted({0, total, *edges})
    if len(bounds) == 2:  # noqa: PLR2004 - nothing to cut
        return [term]
    fewer = flat(term)
    head, inner = fewer[0], fewer[1:]
    block = size(inner)
    if any(edge % block for edge in bounds):
        raise Clash(f"cuts at {bounds[1:-1]} cross the blocks of {notation(term)}")
    stretches = _cut_axis(head, [edge // block for edge in bounds])
    return [flat([*stretch, *inner]) for stretch in stretches]


def _cut_axis(axis: Axis, bounds: list[int]) -> list[Term]:
    lengths = [end - start for start, end in itertools.pairwise(bounds)]
    if axis.parts is None:
        axis.parts = [Axis(length, axis.pin) for length in lengths]
        return [[part] for part in axis.parts]
    inside = sorted(set(_ends(axis.parts)) | set(bounds[1:]))
    axis.parts = _refine(axis.parts, inside)
    out, rest = list[Term](), list(axis.parts)
    for length in lengths:
        group, seen = list[Axis](), 0
        while seen < length:
            part = rest.pop(0)
            group.append(part)
            seen += part.size
        out.append([group[0]] if len(group) == 1 else joined([[part] for part in group]))
    return out


def _ends(parts: Term) -> list[int]:
    ends, total = list[int](), 0
    for part in parts:
        total += part.size
        ends.append(total)
    return ends


def _refine(parts: Term, ends: list[int]) -> Term:
    out, start = list[Axis](), 0
    for part in parts:
        inside = [end - start for end in ends if start < end < start + part.size]
        for piece in cut_parts(part, inside):
            out.append(one(piece) if flat(piece) else Axis(1))
        start += part.size
    flattened = list[Axis]()
    for part in out:  # a part that is itself a sum is spliced in, so that sums stay one level deep
        root = flat([part])
        if len(root) == 1 and root[0].parts is not None:
            flattened += root[0].parts
        else:
            flattened.append(part)
    return flattened


def unify(left: Term, right: Term) -> None:
    """Make two terms equal.

    Raises:
        Clash: their sizes or blocks do not fit. What was related before stays related.
    """
    xs, ys = flat(left), flat(right)
    if xs == ys:  # the same axes, as in every layer but the first
        return
    if size(left) != size(right):
        raise Clash(f"{notation(left)} has {size(left)} indices, {notation(right)} {size(right)}")
    while xs and ys:
        xs, ys = flat(xs), flat(ys)
        a, b = xs[0], ys[0]
        if a is b or a.size == b.size:
            _same(a, b)
            xs, ys = xs[1:], ys[1:]
        elif b.size and a.size and b.size % a.size == 0:
            ys = [*_factor(b, a.size, b.size // a.size), *ys[1:]]
        elif a.size and b.size and a.size % b.size == 0:
            xs = [*_factor(a, b.size, a.size // b.size), *xs[1:]]
        else:
            common = math.gcd(a.size, b.size)
            if common <= 1:
                raise Clash(f"{notation(left)} and {notation(right)} have no common blocks")
            xs = [*_factor(a, common, a.size // common), *xs[1:]]
            ys = [*_factor(b, common, b.size // common), *ys[1:]]


def _same(a: Axis, b: Axis) -> None:
    if a is b:
        return
    if a.parts is None:
        if a.pin is not None:
            pin([b], a.pin)
        a.alias = b
    elif b.parts is None:
        _same(b, a)
    else:
        ends = sorted(set(_ends(a.parts)) | set(_ends(b.parts)))
        for _ in range(8):  # refining one side can split axes of the other
            a.parts, b.parts = _refine(a.parts, ends), _refine(b.parts, ends)
            merged = sorted(set(_ends(a.parts)) | set(_ends(b.parts)))
            if merged == ends and len(a.parts) == len(b.parts) == len(ends):
                break
            ends = merged
        else:
            raise Clash(f"{notation([a])} and {notation([b])} do not settle")
        pairs = list(zip(list(a.parts), list(b.parts), strict=True))
        a.alias = b
        for x, y in pairs:
            unify([x], [y])


def notation(term: Iterable[Axis]) -> str:
    """Render a term in einops notation: `c`, `(c h w)`, `(a + b)`, `1`."""
    words = [_word(axis) for axis in flat(term)]
    if not words:
        return "1"
    return words[0] if len(words) == 1 else f"({' '.join(words)})"


def _word(axis: Axis) -> str:
    if axis.parts is None:
        return axis.name or f"_{axis.size}"
    return f"({' + '.join(notation([part]) for part in axis.parts)})"
