"""Indexing by tensors: the indexed dimension must keep its numbering."""

from __future__ import annotations

import math

from excise.axes import Clash, Term, size, unify
from excise.rules.table import Scope, argument, broadcast, rule
from excise.trace import Op, Ref


@rule("embedding")
def embedding(s: Scope, op: Op) -> None:
    """Rows picked by token numbers."""
    w = s.get(op.args[0])
    if s.numbered(op.args[1]) is None:
        s.pin(w[0], "a vocabulary: token numbers index it")
    else:
        _read(s, w[0], op.args[1])
    s.put(op.outs[0], [*s.get(op.args[1]), w[1]])


@rule("_embedding_bag", "_embedding_bag_forward_only", "embedding_bag")
def embedding_bag(s: Scope, op: Op) -> None:
    """Sums of rows picked by token numbers."""
    w = s.get(op.args[0])
    s.pin(w[0], "a vocabulary: token numbers index it")
    _pin_all(s, [ref for ref in op.args[1:3] if isinstance(ref, Ref)], "tokens in bags")
    shape = s.shape(op.outs[0])
    s.put(op.outs[0], [s.fresh(shape[0]), w[1]])
    for out in op.outs[1:]:
        s.put(out, [s.fresh(n) for n in s.shape(out)])


@rule("index", "_unsafe_index")
def index(s: Scope, op: Op) -> None:
    """`x[i, :, j]` with index tensors: indexed dimensions are pinned, the others carried on."""
    dims, given = s.get(op.args[0]), [r for r in op.args[1] if isinstance(r, Ref)]
    used = _indexed(s, op.args[1])
    if len(used) == len(given):
        for i, ref in zip(used, given, strict=True):
            _read(s, dims[i], ref)
    else:  # a mask stands for several dimensions
        for i in used:
            s.pin(dims[i], "numbers computed by the model index it")
    free = [d for i, d in enumerate(dims) if i not in used]
    rank = len(s.shape(op.outs[0])) - len(free)
    before = _before(used)
    made = s.shape(op.outs[0])[before : before + rank]
    if any(s.info(ref).boolean for ref in given):
        _pin_all(s, given, "a mask counts its units")
        new = [s.fresh(n, "units picked by a mask") for n in made]
    else:
        new = broadcast(s, given, made)
    s.put(op.outs[0], [*free[:before], *new, *free[before:]])


def _read(s: Scope, term: Term, by: Ref) -> None:
    """A dimension indexed by numbers: its own units' if they are known to be, else pinned."""
    numbered = s.numbered(by)
    if numbered is not None and size(numbered) == size(term):
        unify(term, numbered)
        return
    if numbered is not None:
        s.pin(numbered, "the numbers of its units index another axis")
    s.pin(term, "numbers computed by the model index it")


def _indexed(s: Scope, indices: tuple[Ref | None, ...]) -> list[int]:
    """The dimensions that index tensors stand for; a mask stands for as many as it has."""
    used, place = list[int](), 0
    for ref in indices:
        wide = len(s.shape(ref)) if isinstance(ref, Ref) and s.info(ref).boolean else 1
        used += range(place, place + wide) if isinstance(ref, Ref) else ()
        place += wide
    return used


def _before(used: list[int]) -> int:
    """How many carried dimensions stand before the indexed ones in the result."""
    return used[0] if used == list(range(used[0], used[-1] + 1)) else 0


def _pin_all(s: Scope, given: list[Ref], reason: str) -> None:
    for ref in given:
        for term in s.get(ref):
            s.pin(term, reason)


@rule("index_put", "_index_put_impl", "_unsafe_index_put")
def index_put(s: Scope, op: Op) -> None:
    """Values written at computed places; one value under a mask is pointwise."""
    dims, values = s.get(op.args[0]), s.get(op.args[2])
    given = [r for r in op.args[1] if isinstance(r, Ref)]
    used = _indexed(s, op.args[1])
    masks = [ref for ref in given if s.info(ref).boolean]
    if masks == given and len(given) == 1 and math.prod(s.shape(op.args[2])) == 1:
        for i, term in zip(used, s.get(given[0]), strict=True):
            unify(dims[i], term)
        s.put(op.outs[0], dims)
        return
    for i in used:
        s.pin(dims[i], "numbers computed by the model index it")
    _pin_all(s, given, "written at computed places")
    free = [d for i, d in enumerate(dims) if i not in used]
    ranks = [1 if s.info(ref).boolean else len(s.shape(ref)) for ref in given]
    before = _before(used)
    target = [*free[:before], *([None] * max(ranks)), *free[before:]]
    for a, b in zip(reversed(target), reversed(values), strict=False):
        if a is not None and size(a) == size(b):
            unify(a, b)
        else:
            s.pin(b, "written at computed places")
    s.put(op.outs[0], dims)


@rule("index_select")
def index_select(s: Scope, op: Op) -> None:
    """Whole slices picked by number."""
    dims = s.get(op.args[0])
    if dims:
        dim = op.args[1] % len(dims)
        _read(s, dims[dim], op.args[2])
        dims[dim] = s.get(op.args[2])[0] if s.get(op.args[2]) else []
    s.put(op.outs[0], dims)


@rule("gather")
def gather(s: Scope, op: Op) -> None:
    """One element per index: `dim` is pinned, the others are the index's own."""
    source, picked = s.get(op.args[0]), s.get(op.args[2])
    dim = op.args[1] % max(len(source), 1)
    _along(s, source, picked, dim, (op.args[0], op.args[2]))
    s.put(op.outs[0], picked)


@rule("scatter", "scatter_add", "scatter_reduce")
def scatter(s: Scope, op: Op) -> None:
    """Elements written by index."""
    base, picked = s.get(op.args[0]), s.get(op.args[2])
    dim = op.args[1] % max(len(base), 1)
    _along(s, base, picked, dim, (op.args[0], op.args[2]))
    if len(op.args) > 3 and isinstance(op.args[3], Ref):  # noqa: PLR2004
        values = s.get(op.args[3])
        for a, b in zip(values, picked, strict=True):
            if size(a) == size(b):
                unify(a, b)
            else:
                s.pin(a, "written at computed places")
    s.put(op.outs[0], base)


def _along(s: Scope, base: list[Term], picked: list[Term], dim: int, both: tuple[Ref, Ref]) -> None:
    for i, (a, b) in enumerate(zip(base, picked, strict=True)):
        if i == dim:
            _read(s, a, both[1])
            s.pin(b, "the number of picked units")
        elif s.shape(both[0])[i] == s.shape(both[1])[i]:
            unify(a, b)
        else:
            s.pin(a, "indexed in part")
            s.pin(b, "indexed in part")


@rule("index_add", "index_copy", "index_fill", "index_reduce")
def index_write(s: Scope, op: Op) -> None:
    """Slices written by number."""
    dims = s.get(op.args[0])
    dim = op.args[1] % max(len(dims), 1)
    _read(s, dims[dim], op.args[2])
    _pin_all(s, [op.args[2]], "numbers computed by the model index another axis")
    if len(op.args) > 3 and isinstance(op.args[3], Ref):  # noqa: PLR2004
        for i, (a, b) in enumerate(zip(dims, s.get(op.args[3]), strict=False)):
            if i != dim:
                unify(a, b)
            else:
                s.pin(b, "written at computed places")
    s.put(op.outs[0], dims)


@rule(
    "masked_select",
    "nonzero",
    "bincount",
    "unique_dim",
    "_unique2",
    "bucketize",
    "searchsorted",
)
def counted(s: Scope, op: Op) -> None:
    """Results whose length depends on data."""
    raise Clash(f"the result of {op.name} depends on data")


@rule("masked_scatter")
def masked_scatter(s: Scope, op: Op) -> None:
    """Values, in order, where a mask is true: axes along which it is the same are carried on.

    A mask that was expanded along the last dimensions takes whole rows of the values.
    """
    dims, mask, values = (s.get(ref) for ref in op.args[:3])
    shape, covers, given = (s.shape(ref) for ref in op.args[:3])
    whole = 0  # how many last dimensions go over as they are
    while whole < min(len(mask), len(values)):
        at = len(mask) - 1 - whole
        spread = covers[at] == 1 or (op.args[1].number, at) in s.spread
        if not spread or given[-1 - whole] != shape[-1 - whole]:
            break
        whole += 1
    for i in range(1, whole + 1):
        unify(dims[-i], values[-i])
        if covers[-i] != 1:
            unify(dims[-i], mask[-i])
    for term in (*dims[: len(dims) - whole], *values[: len(values) - whole]):
        s.pin(term, "values are laid under a mask in order")
    for term in mask[: len(mask) - whole]:
        s.pin(term, "a mask counts its units")
    s.put(op.outs[0], dims)


@rule("histc")
def histc(s: Scope, op: Op) -> None:
    """Counts; of numbers of units, one count for each unit."""
    numbered, bins = s.numbered(op.args[0]), s.shape(op.outs[0])[0]
    if numbered is not None and size(numbered) == bins == argument(op, 3, "max", 0) + 1:
        s.put(op.outs[0], [numbered])
        return
    if numbered is not None:
        s.pin(numbered, "its units are counted in other bins")
    _pin_all(s, [op.args[0]], "the result of histc depends on data")
    s.put(op.outs[0], [s.fresh(bins, "bins of a histogram")])


@rule("one_hot")
def one_hot(s: Scope, op: Op) -> None:
    """A new axis of class numbers."""
    classes = s.shape(op.outs[0])[-1]
    numbered = s.numbered(op.args[0])
    if numbered is not None and size(numbered) == classes:
        s.put(op.outs[0], [*s.get(op.args[0]), numbered])
        return
    if numbered is not None:
        s.pin(numbered, "its units are classes among others")
    s.put(op.outs[0], [*s.get(op.args[0]), s.fresh(classes, "class numbers")])


@rule("topk", "sort")
def ordered(s: Scope, op: Op) -> None:
    """Units in the order of their values."""
    dims = s.get(op.args[0])
    if op.name == "topk":
        dim = argument(op, 2, "dim", -1)
    else:
        spots = [a for a in op.args[1:] if isinstance(a, int) and not isinstance(a, bool)]
        dim = spots[0] if spots else op.kwargs.get("dim", -1)
    if dims and op.name == "topk":
        s.mix("topk", dims[dim])
        s.keep(dims[dim], s.shape(op.outs[0])[dim])
        s.number(op.outs[1], dims[dim])
    elif dims:
        s.pin(dims[dim], f"its units are ordered by {op.name}")
    if dims:
        dims[dim] = s.fresh(s.shape(op.outs[0])[dim], f"units ordered by {op.name}")
    for out in op.outs:
        s.put(out, dims)
