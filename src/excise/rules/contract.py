"""Matrix products: one axis is summed away, the others are carried on."""

from __future__ import annotations

from excise.axes import Clash, Term, size, unify
from excise.rules.table import Scope, argument, broadcast, rule
from excise.trace import Op, Ref


def summed(s: Scope, op: Op, left: Ref, right: Ref, term: Term) -> None:
    """A contraction: silenced units vanish from it only if one side is zero there."""
    if not s.silent(left) and not s.silent(right):
        s.mix(op.name, term)


@rule("mm")
def mm(s: Scope, op: Op) -> None:
    """`(a k) @ (k b)`."""
    x, y = s.get(op.args[0]), s.get(op.args[1])
    unify(x[1], y[0])
    summed(s, op, op.args[0], op.args[1], x[1])
    s.macs(*x, y[1])
    s.put(op.outs[0], [x[0], y[1]])


@rule("addmm")
def addmm(s: Scope, op: Op) -> None:
    """`bias + (a k) @ (k b)`."""
    x, y = s.get(op.args[1]), s.get(op.args[2])
    unify(x[1], y[0])
    summed(s, op, op.args[1], op.args[2], x[1])
    s.macs(*x, y[1])
    s.put(op.outs[0], [x[0], y[1]])
    _add(s, op, op.args[0])


@rule("bmm")
def bmm(s: Scope, op: Op) -> None:
    """A batch of products."""
    _batched(s, op, op.args[0], op.args[1])


@rule("baddbmm")
def baddbmm(s: Scope, op: Op) -> None:
    """`bias +` a batch of products."""
    _batched(s, op, op.args[1], op.args[2])
    _add(s, op, op.args[0])


def _batched(s: Scope, op: Op, left: Ref, right: Ref) -> None:
    x, y = s.get(left), s.get(right)
    unify(x[0], y[0])
    unify(x[2], y[1])
    summed(s, op, left, right, x[2])
    s.macs(*x, y[2])
    s.put(op.outs[0], [x[0], x[1], y[2]])


def _add(s: Scope, op: Op, bias: Ref) -> None:
    broadcast(s, [bias, op.outs[0]], s.shape(op.outs[0]))


@rule("mv")
def mv(s: Scope, op: Op) -> None:
    """`(a k) @ k`."""
    x, y = s.get(op.args[0]), s.get(op.args[1])
    unify(x[1], y[0])
    summed(s, op, op.args[0], op.args[1], x[1])
    s.macs(*x)
    s.put(op.outs[0], [x[0]])


@rule("addmv")
def addmv(s: Scope, op: Op) -> None:
    """`bias + (a k) @ k`."""
    x, y = s.get(op.args[1]), s.get(op.args[2])
    unify(x[1], y[0])
    summed(s, op, op.args[1], op.args[2], x[1])
    s.macs(*x)
    s.put(op.outs[0], [x[0]])
    _add(s, op, op.args[0])


@rule("addr")
def addr(s: Scope, op: Op) -> None:
    """`bias + a b`, an outer product."""
    s.put(op.outs[0], [s.get(op.args[1])[0], s.get(op.args[2])[0]])
    _add(s, op, op.args[0])


@rule("dot", "vdot")
def dot(s: Scope, op: Op) -> None:
    """`k @ k`."""
    x, y = s.get(op.args[0]), s.get(op.args[1])
    unify(x[0], y[0])
    summed(s, op, op.args[0], op.args[1], x[0])
    s.macs(*x)
    s.put(op.outs[0], [])


@rule("linear")
def linear(s: Scope, op: Op) -> None:
    """`x @ weight.T + bias` over the last dimension; kept whole while tracing."""
    source, weight = op.args[0], op.args[1] if len(op.args) > 1 else op.kwargs["weight"]
    x, w = s.get(source), s.get(weight)
    unify(x[-1], w[-1])
    summed(s, op, source, weight, x[-1])
    bias = op.args[2] if len(op.args) > 2 else op.kwargs.get("bias")  # noqa: PLR2004
    if bias is not None:
        unify(s.get(bias)[0], w[0])
    s.macs(*x, *w[:-1])
    s.put(op.outs[0], [*x[:-1], *w[:-1]])


@rule("matmul")
def matmul(s: Scope, op: Op) -> None:
    """`torch.matmul` with its broadcasting; kept whole while tracing."""
    left, right = op.args[0], op.args[1] if len(op.args) > 1 else op.kwargs["other"]
    x, y = s.get(left), s.get(right)
    rows, columns = x[-2:-1], y[-1:] if len(y) > 1 else []
    inner = y[-2] if len(y) > 1 else y[-1]
    unify(x[-1], inner)
    summed(s, op, left, right, x[-1])
    batch_shape = s.shape(op.outs[0])[: len(s.shape(op.outs[0])) - len(rows) - len(columns)]
    batch: list[Term] = []
    for i, length in enumerate(batch_shape):
        known: Term | None = None
        for dims, shape in ((x[:-2], s.shape(left)[:-2]), (y[:-2], s.shape(right)[:-2])):
            j = i - (len(batch_shape) - len(shape))
            if j >= 0 and shape[j] == length and length != 1:
                if known is not None:
                    unify(known, dims[j])
                known = dims[j]
        batch.append(known if known is not None else s.free(length))
    s.macs(*batch, *rows, x[-1], *columns)
    s.put(op.outs[0], [*batch, *rows, *columns])


@rule("_grouped_mm")
def grouped_mm(s: Scope, op: Op) -> None:
    """`(rows k) @ (groups k n)`, rows in order of their group; `offs` says where groups end."""
    left, right, offs = op.args[0], op.args[1], argument(op, 2, "offs")
    x, y = s.get(left), s.get(right)
    if (len(x), len(y)) != (2, 3) or offs is None:
        raise Clash("ragged along another dimension")
    unify(x[1], y[1])
    unify(y[0], s.get(offs)[0])
    summed(s, op, left, right, x[1])
    s.mix("grouped_mm", y[0])
    for term in (x[1], y[2]):  # its strides are multiples of 16 bytes
        s.align(term, max(1, 16 // s.info(left).width))
    s.macs(*x, y[2])
    s.put(op.outs[0], [x[0], y[2]])


@rule("_trilinear")
def trilinear(s: Scope, op: Op) -> None:
    """Three tensors, each given dimensions of length 1, multiplied and summed over some."""
    dims: list[list[Term]] = []
    for place in range(3):
        found = s.get(op.args[place])
        for at in sorted(op.args[3 + place]):
            found.insert(at, [])
        dims.append(found)
    whole: list[Term] = []
    for terms in zip(*dims, strict=True):
        known = [term for term in terms if size(term) != 1]
        for other in known[1:]:
            unify(known[0], other)
        whole.append(known[0] if known else [])
    along = [d % len(whole) for d in op.args[6]]
    if not any(map(s.silent, op.args[:3])):
        s.mix("trilinear", *(whole[d] for d in along))
    s.macs(*whole)
    s.put(op.outs[0], [term for d, term in enumerate(whole) if d not in along])


@rule("linalg_solve_triangular")
def solve_triangular(s: Scope, op: Op) -> None:
    """`x` of `(n n) @ (n k) == b`, or of `(k n) @ (n n)`; the order of the equations matters."""
    a, b = s.get(op.args[0]), s.get(op.args[1])
    inner = b[-2] if argument(op, 3, "left", default=True) else b[-1]
    for term in (a[-1], a[-2], inner):
        s.pin(term, "equations are solved one after the other")
    for x, y in zip(a[-3::-1], b[-3::-1], strict=False):
        if size(x) == size(y):
            unify(x, y)
    s.put(op.outs[0], b)


@rule("cdist", "_cdist_forward")
def untold(s: Scope, op: Op) -> None:
    """Several sums at once; kept as they are."""
    raise Clash(f"{op.name} sums over more than one pair of axes")
