"""Normalisation: per channel it carries axes on, over channels it mixes them."""

from __future__ import annotations

from excise.axes import cut_head, unify
from excise.rules.table import Scope, argument, rule
from excise.trace import Op, Ref


@rule(
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm", "miopen_batch_norm", "batch_norm", "_batch_norm_with_update",
    "_batch_norm_no_update", "_native_batch_norm_legit_functional",
)  # fmt: skip
def batch_norm(s: Scope, op: Op) -> None:
    """Statistics per channel: weight, bias and running statistics carry the channel axis."""
    x = s.get(op.args[0])
    for ref in op.args[1:5]:
        if isinstance(ref, Ref):
            unify(s.get(ref)[0], x[1])
    if _training(op):
        s.mix("batch_norm", x[0], *x[2:])
    s.put(op.outs[0], x)
    channels = s.shape(op.args[0])[1]
    for out in op.outs[1:]:
        keeps = s.shape(out) == (channels,)
        s.put(out, [x[1]] if keeps else [s.fresh(n) for n in s.shape(out)])


def _training(op: Op) -> bool:
    """Whether the statistics are those of the batch at hand."""
    if op.name in {"_batch_norm_no_update", "_native_batch_norm_legit_no_training"}:
        return False
    flags = [a for a in op.args[3:6] if isinstance(a, bool)]
    return op.name == "_batch_norm_with_update" or any(flags)


@rule("native_layer_norm", "layer_norm", "_fused_rms_norm", "rms_norm")
def layer_norm(s: Scope, op: Op) -> None:
    """Statistics over the last dimensions: their units are mixed."""
    x = s.get(op.args[0])
    last = x[len(x) - len(op.args[1]) :]
    for ref in (argument(op, 2, "weight"), argument(op, 3, "bias")):
        if isinstance(ref, Ref):
            for a, b in zip(s.get(ref), last, strict=True):
                unify(a, b)
    s.mix("rms_norm" if "rms" in op.name else "layer_norm", *last)
    s.put(op.outs[0], x)
    for out in op.outs[1:]:
        s.put(out, [s.fresh(n) for n in s.shape(out)])


@rule("native_group_norm", "group_norm")
def group_norm(s: Scope, op: Op) -> None:
    """Statistics per group of channels: whole groups may go, units inside one are mixed."""
    x = s.get(op.args[0])
    groups = int(op.args[6] if op.name == "native_group_norm" else op.args[1])
    head, inner = cut_head(x[1], groups)
    s.mix("group_norm", inner, *x[2:])
    for ref in op.args[1:3] if op.name == "native_group_norm" else op.args[2:4]:
        if isinstance(ref, Ref):
            unify(s.get(ref)[0], x[1])
    s.put(op.outs[0], x)
    for out in op.outs[1:]:  # statistics, one for each group of each sample
        s.put(out, [x[0], head])


@rule("_weight_norm_interface", "_weight_norm")
def weight_norm(s: Scope, op: Op) -> None:
    """`v * g / norm(v)`, the norm over all dimensions but one."""
    v, g = s.get(op.args[0]), s.get(op.args[1])
    dim = argument(op, 2, "dim", 0) % len(v)
    for i, term in enumerate(g):
        if s.shape(op.args[1])[i] != 1:
            unify(term, v[i])
    s.mix("weight_norm", *(term for i, term in enumerate(v) if i != dim))
    s.put(op.outs[0], v)
    for out in op.outs[1:]:
        s.put(out, g)
