"""Index by index: the output carries the axes of its inputs, broadcast."""

from __future__ import annotations

from excise.axes import Clash, Term, pin, unify
from excise.rules.table import POINTWISE, RANDOM, Scope, broadcast, rule
from excise.trace import Op, Ref

POINTWISE |= {
    "detach",
    "alias",
    "clone",
    "contiguous",
    "lift_fresh",
    "lift",
    "lift_fresh_copy",
    "copy",
    "dropout",
    "native_dropout",
    "bernoulli",
    "zeros_like",
    "ones_like",
    "empty_like",
    "full_like",
    "rand_like",
    "randn_like",
    "fill",
    "zero",
    "masked_fill",
    "nan_to_num",
    "hardswish",
    "hardsigmoid",
    "hardtanh",
    "leaky_relu",
    "elu",
    "gelu",
    "silu",
    "mish",
    "prelu",
    "_prelu_kernel",
    "threshold",
    "log_sigmoid_forward",
    "where",
    "clamp",
    "clamp_min",
    "clamp_max",
    "to",
    "_to_copy",
    "_fused_dropout",
    "normal",
    "uniform",
    "exponential",
    "log_normal",
    "random",
    "geometric",
    "cauchy",
    "feature_dropout",
    "alpha_dropout",
    "rrelu",
    "rrelu_with_noise",
    "rrelu_with_noise_functional",
    "addcmul",
    "addcdiv",
    "lerp",
    "_conj",
    "_conj_physical",
    "resolve_conj",
    "resolve_neg",
    "_neg_view",
    "real",
    "imag",
    "conj",
    "complex",
    "polar",
    "angle",
    "isfinite",
    "isnan",
    "isinf",
    "fake_quantize_per_tensor_affine",
    "fake_quantize_per_tensor_affine_cachemask",
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
    "_assert_async",
    "_local_scalar_dense",
    "pow",
    "square",
    "rsub",
    "remainder",
    "fmod",
    "bitwise_and",
    "bitwise_or",
    "logical_not",
    "logical_and",
    "logical_or",
    "logical_xor",
    "positive",
}


def pointwise(s: Scope, op: Op) -> None:
    """Any operation that works index by index on broadcast inputs."""
    tensors = op.inputs()
    for out in op.outs:
        shape = s.shape(out)
        if shape == (0,):  # log_sigmoid's unused buffer
            s.put(out, [s.fresh(0)])
            continue
        dims = _broadcast(s, op, [t for t in tensors if len(s.shape(t)) <= len(shape)], shape)
        if op.name.removesuffix("_") in RANDOM:
            s.mix("random", *dims)
        s.put(out, dims)


def _broadcast(s: Scope, op: Op, tensors: list[Ref], shape: tuple[int, ...]) -> list[Term]:
    """As `broadcast`; where a dimension does not line up, it alone is pinned."""
    try:
        return broadcast(s, tensors, shape)
    except Clash:
        dims: list[Term] = []
    for i, length in enumerate(shape):
        given = [(ref, i - len(shape) + len(s.shape(ref))) for ref in tensors]
        terms = [s.get(ref)[j] for ref, j in given if j >= 0 and s.shape(ref)[j] == length != 1]
        try:
            for term in terms[1:]:
                unify(terms[0], term)
            dims.append(terms[0] if terms else s.free(length))
        except Clash as clash:
            for term in terms:
                pin(term, s.why(f"inputs of {op.name} do not line up: {clash}"))
            dims.append(s.fresh(length, "inputs that do not line up"))
    return dims


@rule("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin", "flip", "roll", "tril", "triu")
def ordered(s: Scope, op: Op) -> None:
    """Pointwise in shape, but the order of the indices along some dimensions matters."""
    rank = len(s.shape(op.inputs()[0]))
    term = s.get(op.inputs()[0])
    given = op.args[2] if op.name == "roll" and len(op.args) > 2 else None  # noqa: PLR2004
    if op.name in {"tril", "triu"}:
        along = [rank - 2, rank - 1]
    elif op.name == "roll":
        along = list(given or range(rank))
    else:
        dims = op.args[1] if len(op.args) > 1 else op.kwargs.get("dim", op.kwargs.get("dims", 0))
        along = [dims] if isinstance(dims, int) else list(dims)
    for d in along:
        if rank and op.name == "cumsum":
            s.mix("cumsum", term[d % rank])
        elif rank:
            s.pin(term[d % rank], f"the order of its units matters to {op.name}")
    for out in op.outs:
        s.put(out, s.get(op.inputs()[0]))


@rule("view_as_real", "view_as_real_copy")
def view_as_real(s: Scope, op: Op) -> None:
    """A complex tensor as pairs."""
    s.put(op.outs[0], [*s.get(op.args[0]), s.fresh(2, "real and imaginary part")])


@rule("view_as_complex")
def view_as_complex(s: Scope, op: Op) -> None:
    """Pairs as a complex tensor; torch takes them from rows of an even length only."""
    *dims, pair = s.get(op.args[0])
    s.pin(pair, "real and imaginary part")
    rows = s.get(s.base(op.args[0]))
    if rows:
        s.align(rows[-1], 2)
    s.put(op.outs[0], dims)
