"""Recurrent layers as consumers: what each of their weights reads, step by step.

One LSTM, GRU or plain RNN call sums units away in several places: `W_ih` reads the layer's input,
`W_hh` the state one step before, and a projected LSTM's `W_hr` the cell's output. None of these is
an operation of its own. What they read is the input, the initial state and what the layers of the
call give, each run once more alone where there are several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from excise.trace import Ref

RECURRENT = frozenset({"lstm", "gru", "rnn"})
_PROJECTED = 1
"""An odd number of weights for each cell: the last one is a projection."""

Reads = Literal["input", "state", "cell"]


class Part(NamedTuple):
    """One weight of a recurrent operation.

    Attributes:
        reads: the layer's "input", its "state" one step before, or, for a projection, the "cell".
        layer: which layer of the call.
        direction: 0 forward, 1 backward in time.
        weight: the weight.
        place: its place among the weights that the call is given.
        bias: that of its bias; None without.
    """

    reads: Reads
    layer: int
    direction: int
    weight: Ref
    place: int
    bias: int | None

    @property
    def loops(self) -> bool:
        """What it reads is made by the operation itself, out of what it gave a step before."""
        return self.reads != "input"

    def rows(self, func: Callable[..., Any], args: tuple[Any, ...]) -> Tensor:
        """What the weight reads in one call: (rows, features), step after step."""
        form = Form.of(args)
        x = form.rows(form.data)
        for layer in range(self.layer):
            x = form.rows(form.run(func, x, layer))
        if self.reads == "input":
            return x
        made = form.rows(form.run(func, x, self.layer)).chunk(form.directions, 1)[self.direction]
        before = form.before(made, self.layer, self.direction)
        return before if self.reads == "state" else form.cells(x, before, self)

    def output(self, func: Callable[..., Any], args: tuple[Any, ...]) -> Tensor:
        """What the weight and its bias make of these rows: (rows, outputs)."""
        given = Form.of(args).weights
        bias = None if self.bias is None else given[self.bias]
        return torch.nn.functional.linear(self.rows(func, args), given[self.place], bias)

    def changed(self, args: tuple[Any, ...], weight: Tensor, shift: Tensor) -> tuple[Any, ...]:
        """The arguments with another weight, and something added to its bias if it has one."""
        at = Form.of(args).at
        given = list(args[at])
        given[self.place] = weight
        if self.bias is not None:
            given[self.bias] = given[self.bias] + shift
        return (*args[:at], given, *args[at + 1 :])


class Form(NamedTuple):
    """The arguments of a recurrent call by name; of tensors, or of what a trace says of them.

    Attributes:
        data: the input; (steps batch features), (batch steps features), or packed (rows features).
        sizes: how many sequences each step of packed ones has; None for plain batches.
        states: the initial state, and for an LSTM the initial cells.
        weights: of all layers and directions, those of one cell together.
        biased: whether there are biases.
        layers: how many.
        directions: 1, or 2 for both.
        batch_first: how `data` lies.
        at: which argument the weights are.
    """

    data: Any
    sizes: Any
    states: tuple[Any, ...]
    weights: tuple[Any, ...]
    biased: bool
    layers: int
    directions: int
    batch_first: bool
    at: int

    @classmethod
    def of(cls, args: tuple[Any, ...]) -> Form:
        """Read the arguments of `torch.lstm`, `torch.gru`, `torch.rnn_tanh` or `torch.rnn_relu`."""
        if isinstance(args[3], bool):
            data, hx, weights, biased, layers, _, _, both, batch_first = args
            sizes, at = None, 2
        else:
            data, sizes, hx, weights, biased, layers, _, _, both = args
            batch_first, at = False, 3
        states = (hx,) if isinstance(hx, (Tensor, Ref)) else tuple(hx)
        return cls(
            data, sizes, states, tuple(weights), biased, int(layers), 2 if both else 1,
            bool(batch_first), at,
        )  # fmt: skip

    @property
    def per(self) -> int:
        """How many weights a cell has."""
        return len(self.weights) // (self.layers * self.directions)

    def parts(self) -> Iterator[Part]:
        """Every weight that sums units away, in the order in which they are used."""
        for layer in range(self.layers):
            for direction in range(self.directions):
                start = (layer * self.directions + direction) * self.per
                names: list[tuple[Reads, int, int | None]] = [("input", 0, 2), ("state", 1, 3)]
                if self.per % 2 == _PROJECTED:
                    names.append(("cell", self.per - 1, None))
                for reads, place, bias in names:
                    other = start + bias if self.biased and bias is not None else None
                    weight = self.weights[start + place]
                    yield Part(reads, layer, direction, weight, start + place, other)

    def length(self, shape: Callable[[Any], Sequence[int]]) -> int:
        """How many steps there are, of arguments of which `shape` says the shape."""
        if self.sizes is not None:
            return shape(self.sizes)[0]
        return shape(self.data)[int(self.batch_first)]

    def rows(self, data: Tensor) -> Tensor:
        """A sequence as (rows, features), all of one step together."""
        if self.sizes is not None:
            return data
        return (data.transpose(0, 1) if self.batch_first else data).flatten(0, 1)

    def steps(self) -> list[int]:
        """How many rows each step has."""
        if self.sizes is not None:
            return [int(size) for size in self.sizes]
        batch, steps = self.data.shape[:2] if self.batch_first else self.data.shape[1::-1]
        return [batch] * steps

    def run(self, func: Callable[..., Any], rows: Tensor, layer: int) -> Tensor:
        """What one layer gives, on its own."""
        cells = slice(layer * self.directions, (layer + 1) * self.directions)
        states = [state[cells] for state in self.states]
        hx = states if len(states) > 1 else states[0]
        count = self.per * self.directions
        weights = list(self.weights[layer * count : (layer + 1) * count])
        rest = (weights, self.biased, 1, 0.0, False, self.directions > 1)
        if self.sizes is not None:
            packed: Tensor = func(rows, self.sizes, hx, *rest)[0]
            return packed
        x = rows.unflatten(0, (-1, self.steps()[0]))
        out: Tensor = func(x, hx, *rest, False)[0]  # noqa: FBT003 - torch's
        return out.transpose(0, 1) if self.batch_first else out

    def before(self, made: Tensor, layer: int, direction: int) -> Tensor:
        """The state one step before, of what a cell gives: (rows, features) both."""
        return self._shifted(made, self.states[0][layer * self.directions + direction], direction)

    def _shifted(self, made: Tensor, start: Tensor, direction: int) -> Tensor:
        steps = self.steps()
        each = list(made.split(steps))
        if not direction:
            after = zip(each[:-1], steps[1:], strict=True)
            return torch.cat([start[: steps[0]], *(m[:n] for m, n in after)])
        found = []
        for now, size in enumerate(steps):  # what ends here starts here, backward
            later = each[now + 1] if now + 1 < len(each) else start[:0]
            found += [later, start[len(later) : size]]
        return torch.cat(found)

    def cells(self, x: Tensor, before: Tensor, part: Part) -> Tensor:
        """What a projected LSTM's cell gives before the projection: `o * tanh(c)`."""
        start = (part.layer * self.directions + part.direction) * self.per
        read, loop = self.weights[start], self.weights[start + 1]
        gates = x @ read.T + before @ loop.T
        if self.biased:
            gates = gates + self.weights[start + 2] + self.weights[start + 3]
        steps = self.steps()
        first = self.states[1][part.layer * self.directions + part.direction]
        each = list(gates.split(steps))
        found: list[Tensor] = [first] * len(each)
        cell = first[: steps[-1] if part.direction else steps[0]]
        for now in reversed(range(len(each))) if part.direction else range(len(each)):
            size = steps[now]
            if len(cell) < size:
                cell = torch.cat([cell, first[len(cell) : size]])
            i, f, g, o = each[now].chunk(4, 1)
            cell = f.sigmoid() * cell[:size] + i.sigmoid() * g.tanh()
            found[now] = o.sigmoid() * cell.tanh()
        return torch.cat(found)
