"""Cases: recurrent layers, kept whole."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from tests.rules.oracle import Case, Given, active, real

BATCH, TIME, INPUT, HIDDEN, PROJECTED = 2, 3, 4, 5, 9
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
PACKED = (True, 1, 0.0, False, False)  # biases, layers, dropout, training, both directions
CALLS = {"lstm": torch.lstm, "gru": torch.gru, "rnn": torch.rnn_tanh}


def _weights(kind: str, layers: int, directions: int, projected: int, *, bias: bool) -> list[Given]:
    made, state = list[Given](), projected or HIDDEN
    for layer in range(layers):
        wide = INPUT if layer == 0 else state * directions
        for _ in range(directions):
            rows = GATES[kind] * HIDDEN
            made += [real(rows, wide), real(rows, state)]
            made += [real(rows), real(rows)] if bias else []
            made += [real(projected, HIDDEN)] if projected else []
    return made


def _words(kind: str, layers: int, directions: int, *, bias: bool, projected: bool) -> list[str]:
    made, state = list[str](), "p" if projected else "h"
    for layer in range(layers):
        wide = (
            "i"
            if layer == 0
            else f"({' + '.join([state] * directions)})"
            if directions > 1
            else state
        )
        for d in range(directions):
            rows = "h" if kind == "rnn" else f"(G{layer}{d} h)"
            made += [f"{rows} {wide}", f"{rows} {state}"]
            made += [rows, rows] if bias else []
            made += ["p h"] if projected else []
    return made


def _case(
    name: str, kind: str, layers: int = 1, directions: int = 1, projected: int = 0,
    *, bias: bool = True, batch_first: bool = False,
) -> Case:  # fmt: skip
    state, many = projected or HIDDEN, layers * directions
    rows = (BATCH, TIME) if batch_first else (TIME, BATCH)
    states = [active(many, BATCH, state)] + (
        [active(many, BATCH, HIDDEN)] if kind == "lstm" else []
    )
    words = ["b T i" if batch_first else "T b i"]
    one, end = "L" if many > 1 else "1", "p" if projected else "h"
    words += [f"{one} b {end}"] + ([f"{'M' if many > 1 else '1'} b h"] if kind == "lstm" else [])
    ends = words[1:]
    words += _words(kind, layers, directions, bias=bias, projected=bool(projected))
    out = f"({' + '.join([end] * directions)})" if directions > 1 else end
    made = [f"{words[0][:-1]}{out}", *ends]

    def run(x: Tensor, *rest: Tensor) -> Any:
        count = 2 if kind == "lstm" else 1
        hx: Any = tuple(rest[:2]) if kind == "lstm" else rest[0]
        call: Any = CALLS[kind]
        return call(
            x,
            hx,
            list(rest[count:]),
            bias,
            layers,
            0.0,
            False,  # noqa: FBT003 - torch takes these by place only
            directions > 1,
            batch_first,
        )

    given = (
        active(*rows, INPUT),
        *states,
        *_weights(kind, layers, directions, projected, bias=bias),
    )
    claim = f"{', '.join(words)} -> {', '.join(made)}"
    return Case(name, claim, run, given, looped=True)


def _packed(x: Tensor, h: Tensor, c: Tensor, *weights: Tensor) -> Any:
    packed = pack_padded_sequence(x, torch.tensor([3, 2]))
    function: Any = torch.lstm
    return function(packed.data, packed.batch_sizes, (h, c), list(weights), *PACKED)


CASES = (
    _case("lstm", "lstm"),
    _case("lstm batch first", "lstm", batch_first=True),
    _case("lstm without bias", "lstm", bias=False),
    _case("lstm of two layers", "lstm", layers=2),
    _case("lstm bidirectional", "lstm", directions=2),
    _case("lstm of two layers, bidirectional", "lstm", layers=2, directions=2, batch_first=True),
    _case("lstm projected", "lstm", projected=PROJECTED),
    _case(
        "lstm projected, of two layers, bidirectional", "lstm", layers=2, directions=2, projected=3
    ),
    _case("lstm projected without bias", "lstm", projected=3, bias=False),
    Case(
        "lstm of packed sequences",
        "T B I, 1 N h, 1 M h, (G h) J, (G h) h, (G h), (G h) -> D h, 1 N h, 1 M h",
        _packed,
        (
            active(TIME, BATCH, INPUT),
            *[active(1, BATCH, HIDDEN)] * 2,
            *_weights("lstm", 1, 1, 0, bias=True),
        ),
        looped=True,
    ),
    _case("gru", "gru"),
    _case("gru of two layers, bidirectional", "gru", layers=2, directions=2),
    _case("gru without bias", "gru", bias=False, batch_first=True),
    _case("rnn", "rnn"),
    _case("rnn of two layers, bidirectional", "rnn", layers=2, directions=2),
)
