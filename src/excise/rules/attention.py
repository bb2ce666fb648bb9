"""Scaled dot product attention, in every form it has in aten."""

from __future__ import annotations

from excise.axes import Term, cut_head, size, unify
from excise.rules.table import Scope, argument, rule
from excise.trace import Op, Ref


@rule(
    "scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_attention_math",
    "_scaled_dot_product_fused_attention_overrideable",
)  # fmt: skip
def attention(s: Scope, op: Op) -> None:
    """`q: ... l e`, `k: ... s e`, `v: ... s f` -> `... l f`; heads of k and v may be fewer (GQA).

    With the default scale `1 / sqrt(e)` the result depends on how many units `e` has.
    """
    names = ("query", "key", "value")
    given = [op.args[i] if len(op.args) > i else op.kwargs[n] for i, n in enumerate(names)]
    q, k, v = (s.get(t) for t in given)
    unify(q[-1], k[-1])
    unify(k[-2], v[-2])
    if "flash" in op.name or "cudnn" in op.name:
        unify(q[-1], v[-1])
    if _causal(op):
        s.pin(q[-2], "the order of its units matters to a causal mask")
        s.pin(k[-2], "the order of its units matters to a causal mask")
    for i in range(len(q) - 2):
        _same_heads(q[i], k[i])
        _same_heads(q[i], v[i])
    s.mix("attention", q[-1])
    s.mix("attention", k[-2])
    rows: Term = [axis for term in q[:-1] for axis in term]
    s.macs(rows, k[-2], q[-1])
    s.macs(rows, k[-2], v[-1])
    s.put(op.outs[0], [*q[:-1], v[-1]])
    _mask(s, op, [*q[:-1], k[-2]])
    for out in op.outs[1:]:
        s.put(out, [s.fresh(n) for n in s.shape(out)])


def _causal(op: Op) -> bool:
    """Whether a causal mask is asked for; its place differs from form to form."""
    place = {
        "scaled_dot_product_attention": 5,
        "_scaled_dot_product_attention_math": 5,
        "_scaled_dot_product_fused_attention_overrideable": 5,
        "_scaled_dot_product_efficient_attention": 6,
        "_scaled_dot_product_cudnn_attention": 6,
    }.get(op.name, 4)
    return bool(argument(op, place, "is_causal", default=False))


def _same_heads(query: Term, other: Term) -> None:
    if size(query) == size(other):
        unify(query, other)
    elif size(other) > 1:  # each key head serves a block of query heads
        head, _ = cut_head(query, size(other))
        unify(head, other)


def _mask(s: Scope, op: Op, dims: list[Term]) -> None:
    plain = op.name in {"scaled_dot_product_attention", "_scaled_dot_product_attention_math"}
    mask = op.kwargs.get("attn_mask", op.kwargs.get("attn_bias"))
    if mask is None and len(op.args) > 3 and (plain or isinstance(op.args[3], Ref)):  # noqa: PLR2004
        mask = op.args[3]
    if not isinstance(mask, Ref):
        return
    for term, known in zip(reversed(s.get(mask)), reversed(dims), strict=False):
        if size(term) != 1:
            unify(term, known)
