"""Convolutions of one to three dimensions: plain, grouped, depthwise, transposed."""

from __future__ import annotations

from excise.axes import cut_head, unify
from excise.rules.contract import summed
from excise.rules.table import Scope, rule
from excise.trace import Op


@rule("convolution", "_convolution", "convolution_overrideable", "mkldnn_convolution")
def convolution(s: Scope, op: Op) -> None:
    """`weight` is `(out, in / groups, kernel...)`, transposed `(in, out / groups, kernel...)`.

    With groups, channels are `(groups rest)` on both sides and the groups are one axis.
    """
    source, weight, bias = op.args[0], op.args[1], op.args[2]
    transposed, groups = bool(op.args[6]), int(op.args[8])
    x, w = s.get(source), s.get(weight)
    rank = len(w) - 2
    channels = x[-rank - 1]
    summed(s, op, source, weight, channels)
    if transposed:
        head, _ = cut_head(w[0], groups) if groups > 1 else ([], [])
        unify(channels, w[0])
        made, inner = [*head, *w[1]], w[0]
        s.macs(*x[: -rank - 1], inner, w[1], *w[2:], *x[-rank:])
    else:
        if groups > 1:
            group_in, inner = cut_head(channels, groups)
            group_out, _ = cut_head(w[0], groups)
            unify(group_in, group_out)
            unify(inner, w[1])
        else:
            unify(channels, w[1])
        made = w[0]
    for kernel in w[2:]:
        s.pin(kernel, "kernel")
    if bias is not None:
        unify(s.get(bias)[0], made)
    space = [s.fresh(n) for n in s.shape(op.outs[0])[-rank:]]
    if not transposed:
        s.macs(*x[: -rank - 1], w[0], w[1], *w[2:], *space)
    s.put(op.outs[0], [*x[: -rank - 1], made, *space])
