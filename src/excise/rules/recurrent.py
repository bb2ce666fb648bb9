"""LSTM, GRU and plain RNN layers, kept whole: gates are blocks of the hidden axis."""

from __future__ import annotations

from excise.axes import Term, cut_head, joined, unify
from excise.rules.table import Scope, rule
from excise.trace import Op, Ref

_GATES = {"lstm": 4, "gru": 3, "rnn": 1}


@rule("lstm", "gru", "rnn")
def recurrent(s: Scope, op: Op) -> None:
    """`weight_ih: (gates hidden) input`, `weight_hh: (gates hidden) state`, for each layer.

    The state is the hidden axis, or the projection's own axis when `proj_size` is used. All layers
    and directions share one initial state tensor, hence one state axis.
    """
    packed = (
        isinstance(op.args[1], Ref)
        and isinstance(op.args[2], (tuple, list))
        and isinstance(op.args[3], (tuple, list))
        and bool(op.args[3])
        and isinstance(op.args[3][0], Ref)
    )
    source, states, weights, has_bias, layers, bidirectional, batch_first = _arguments(
        op, packed=packed
    )
    x = s.get(source)
    _rows(s, x, states, packed=packed, batch_first=batch_first)
    gates, directions = _GATES[op.name], 2 if bidirectional else 1
    per = len(weights) // (layers * directions)
    state_dims = [s.get(ref) for ref in states]
    ends: list[Term] = [dims[-1] for dims in state_dims]
    layer_input: Term = x[-1]
    rows: Term = [axis for term in x[:-1] for axis in term]
    for layer in range(layers):
        outs: list[Term] = []
        for direction in range(directions):
            start = (layer * directions + direction) * per
            block = weights[start : start + per]
            outs.append(_cell(s, block, layer_input, ends, gates, has_bias=has_bias, rows=rows))
        layer_input = _both(outs)
    s.put(op.outs[0], [*x[:-1], layer_input])
    for out, dims in zip(op.outs[1:], state_dims, strict=True):
        s.put(out, dims)


def _rows(s: Scope, x: list[Term], states: list[Ref], *, packed: bool, batch_first: bool) -> None:
    """Steps in time are ordered; the states have the batch of the input, and count the layers."""
    for place, term in enumerate(x[:-1]):
        if packed or place == int(batch_first):
            s.pin(term, "steps in time are ordered")
    for ref in states:
        layers, batch, _ = s.get(ref)
        s.pin(layers, "layers and directions")
        if packed:
            s.pin(batch, "a batch sorted by lengths")
        else:
            unify(batch, x[int(not batch_first)])


def _arguments(op: Op, *, packed: bool) -> tuple[Ref, list[Ref], list[Ref], bool, int, bool, bool]:
    if packed:
        data, _, hx, weights, has_bias, layers, _, _, bidirectional = op.args
        batch_first = False
    else:
        data, hx, weights, has_bias, layers, _, _, bidirectional, batch_first = op.args
    states = list(hx) if isinstance(hx, tuple) and not isinstance(hx, Ref) else [hx]
    return data, states, list(weights), has_bias, int(layers), bool(bidirectional), batch_first


def _cell(
    s: Scope,
    block: list[Ref],
    source: Term,
    ends: list[Term],
    gates: int,
    *,
    has_bias: bool,
    rows: Term,
) -> Term:
    """Relate one layer and direction; returns the axis of its output."""
    wih, whh = s.get(block[0]), s.get(block[1])
    unify(wih[1], source)
    gate, hidden = cut_head(wih[0], gates)
    s.pin(gate, "gates")
    unify(whh[0], [*gate, *hidden])
    biases = block[2:4] if has_bias else []
    for ref in biases:
        unify(s.get(ref)[0], [*gate, *hidden])
    state = hidden
    projection = block[4:] if has_bias else block[2:]
    if projection:
        whr = s.get(projection[0])
        unify(whr[1], hidden)
        state = whr[0]
        s.macs(rows, *whr)
    unify(whh[1], state)
    s.macs(rows, *wih)
    s.macs(rows, *whh)
    unify(ends[0], state)
    if len(ends) > 1:  # the cell state of an LSTM always has the hidden axis
        unify(ends[1], hidden)
    return state


def _both(outs: list[Term]) -> Term:
    return joined(outs) if len(outs) > 1 else outs[0]
