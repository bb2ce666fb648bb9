"""Convolutions of one to three dimensions: plain, grouped, depthwise, transposed."""

from __future__ import annotations

from typing import Any

from excise.axes import Term, cut_head, unify
from excise.rules.contract import summed
from excise.rules.table import Scope, rule
from excise.trace import Op


@rule("convolution", "_convolution", "convolution_overrideable")
def convolution(s: Scope, op: Op) -> None:
    """`weight` is `(out, in / groups, kernel...)`, transposed `(in, out / groups, kernel...)`.

    With groups, channels are `(groups rest)` on both sides and the groups are one axis. Positions
    are pinned, but for those that a kernel of length 1 leaves as they are.
    """
    source, weight, bias = op.args[0], op.args[1], op.args[2]
    transposed, groups = bool(op.args[6]), int(op.args[8])
    x, w = s.get(source), s.get(weight)
    rank = len(w) - 2
    channels = x[-rank - 1]
    if transposed:
        unify(channels, w[0])
        head, rest = cut_head(w[0], groups) if groups > 1 else ([], w[0])
        summed(s, op, source, weight, rest)
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
        summed(s, op, source, weight, w[1])
        made = w[0]
    for kernel in w[2:]:
        s.pin(kernel, "kernel")
    if bias is not None:
        unify(s.get(bias)[0], made)
    space = _space(s, op, x[-rank:])
    if not transposed:
        s.macs(*x[: -rank - 1], w[0], w[1], *w[2:], *space)
    s.put(op.outs[0], [*x[: -rank - 1], made, *space])


def _space(s: Scope, op: Op, positions: list[Term]) -> list[Term]:
    """The positions of the output: new ones, unless the window is a single position."""
    rank = len(positions)
    kernel, lengths = s.shape(op.args[1])[2:], s.shape(op.outs[0])[-rank:]
    out: list[Term] = []
    for i, (term, length) in enumerate(zip(positions, lengths, strict=True)):
        stride, padding, extra = (_at(op.args[place], i) for place in (3, 4, 7))
        if (kernel[i], stride, padding, extra) == (1, 1, 0, 0):
            out.append(term)
        else:
            s.pin(term, "a window slides over it")
            out.append(s.fresh(length, "a window slides over it"))
    return out


def _at(given: Any, place: int) -> int:
    """One entry of an argument that is given per dimension, or once for all of them."""
    many = list(given) if isinstance(given, (tuple, list)) else [given]
    return int(many[place if len(many) > 1 else 0])
