"""Indexing by tensors: the indexed dimension must keep its numbering."""

from __future__ import annotations

from excise.axes import Clash, Term, size, unify
from excise.rules.table import Scope, argument, rule
from excise.trace import Op, Ref


@rule("embedding")
def embedding(s: Scope, op: Op) -> None:
    """Rows picked by token numbers."""
    w = s.get(op.args[0])
    s.pin(w[0], "a vocabulary: token numbers index it")
    s.put(op.outs[0], [*s.get(op.args[1]), w[1]])


@rule("_embedding_bag", "_embedding_bag_forward_only", "embedding_bag")
def embedding_bag(s: Scope, op: Op) -> None:
    """Sums of rows picked by token numbers."""
    w = s.get(op.args[0])
    s.pin(w[0], "a vocabulary: token numbers index it")
    shape = s.shape(op.outs[0])
    s.put(op.outs[0], [s.fresh(shape[0]), w[1]])
    for out in op.outs[1:]:
        s.put(out, [s.fresh(n) for n in s.shape(out)])


@rule("index", "_unsafe_index")
def index(s: Scope, op: Op) -> None:
    """`x[i, :, j]` with index tensors: indexed dimensions are pinned, the others carried on."""
    dims, indices = s.get(op.args[0]), op.args[1]
    used: list[int] = []
    shapes: list[tuple[int, ...]] = []
    for i, ref in enumerate(indices):
        if isinstance(ref, Ref):
            used.append(i)
            shapes.append(s.shape(ref))
            s.pin(dims[i], "numbers computed by the model index it")
    free = [d for i, d in enumerate(dims) if i not in used]
    rank = len(s.shape(op.outs[0])) - len(free)
    adjacent = used == list(range(used[0], used[-1] + 1))
    before = used[0] if adjacent else 0
    made = s.shape(op.outs[0])[before : before + rank]
    new = _index_dims(s, [r for r in indices if isinstance(r, Ref)], made)
    s.put(op.outs[0], [*free[:before], *new, *free[before:]])


def _index_dims(s: Scope, indices: list[Ref], shape: tuple[int, ...]) -> list[Term]:
    same = len(indices) == 1 and s.shape(indices[0]) == shape
    return s.get(indices[0]) if same else [s.fresh(n) for n in shape]


@rule("index_put", "_index_put_impl", "_unsafe_index_put")
def index_put(s: Scope, op: Op) -> None:
    """Values written at computed places."""
    dims, values = s.get(op.args[0]), s.get(op.args[2])
    for i, ref in enumerate(op.args[1]):
        if isinstance(ref, Ref):
            s.pin(dims[i], "numbers computed by the model index it")
    free = [d for i, d in enumerate(dims) if i >= len(op.args[1]) or op.args[1][i] is None]
    for a, b in zip(reversed(free), reversed(values), strict=False):
        if size(a) == size(b):
            unify(a, b)
        else:
            s.pin(a, "written at computed places")
            s.pin(b, "written at computed places")
    s.put(op.outs[0], dims)


@rule("index_select")
def index_select(s: Scope, op: Op) -> None:
    """Whole slices picked by number."""
    dims = s.get(op.args[0])
    if dims:
        dim = op.args[1] % len(dims)
        s.pin(dims[dim], "numbers computed by the model index it")
        dims[dim] = s.get(op.args[2])[0] if s.get(op.args[2]) else []
    s.put(op.outs[0], dims)


@rule("gather", "take_along_dim")
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
            s.pin(a, "numbers computed by the model index it")
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
    s.pin(dims[dim], "numbers computed by the model index it")
    if len(op.args) > 3 and isinstance(op.args[3], Ref):  # noqa: PLR2004
        for i, (a, b) in enumerate(zip(dims, s.get(op.args[3]), strict=False)):
            if i != dim:
                unify(a, b)
    s.put(op.outs[0], dims)


@rule("masked_select", "bincount", "unique_dim", "_unique2", "histc", "bucketize", "searchsorted")
def counted(s: Scope, op: Op) -> None:
    """Results whose length depends on data."""
    raise Clash(f"the result of {op.name} depends on data")


@rule("one_hot")
def one_hot(s: Scope, op: Op) -> None:
    """A new axis of class numbers."""
    classes = s.shape(op.outs[0])[-1]
    s.put(op.outs[0], [*s.get(op.args[0]), s.fresh(classes, "class numbers")])


@rule("topk", "sort", "argsort", "msort")
def ordered(s: Scope, op: Op) -> None:
    """Units in the order of their values."""
    dims = s.get(op.args[0])
    if op.name == "topk":
        dim = argument(op, 2, "dim", -1)
    else:
        spots = [a for a in op.args[1:] if isinstance(a, int) and not isinstance(a, bool)]
        dim = spots[0] if spots else op.kwargs.get("dim", -1)
    if dims:
        s.pin(dims[dim], f"its units are ordered by {op.name}")
        dims[dim] = s.fresh(s.shape(op.outs[0])[dim], f"units ordered by {op.name}")
    for out in op.outs:
        s.put(out, dims)
