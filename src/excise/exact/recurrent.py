"""LSTM, GRU and plain RNN layers: hidden units that never leave zero, and those nobody reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from excise.exact.effect import Context, Effect, Marks, reduced, row
from excise.exact.fact import Fact
from excise.trace import Ref

_GATES = {"lstm": 4, "gru": 3, "rnn": 1}
_CANDIDATE = {"lstm": 2, "gru": 2, "rnn": 0}
"""The gate whose silence keeps the state at zero: the cell's input, or the candidate state."""


class Cell(NamedTuple):
    """One layer and direction: which weights are not zero, as (gates, hidden, ...)."""

    reads: Tensor
    repeats: Tensor
    biased: Tensor


class Recurrent(Effect):
    """Layers and directions of one call; all of them share one hidden axis."""

    mixes = False

    def __init__(self, c: Context) -> None:
        super().__init__(c)
        data, hx, weights, has_bias, layers, _, _, both, _ = c.op.args
        self.states = list(hx) if not isinstance(hx, Ref) else [hx]
        self.layers, self.directions = int(layers), 2 if both else 1
        self.gates = _GATES[c.name]
        per = len(weights) // (self.layers * self.directions)
        self.cells = [
            self._cell(list(weights[i * per : (i + 1) * per]), has_bias=bool(has_bias))
            for i in range(self.layers * self.directions)
        ]
        self.source = c.place(data) or 0
        self.first = [
            self._pair(weights, i * per, has_bias=bool(has_bias)) for i in range(both + 1)
        ]
        self.steady = self._steady()
        self.hidden = self.cells[0].repeats.shape[1]
        starts = [_line(c.facts[c.place(ref)].zero) for ref in self.states]  # type: ignore[index]
        self.start = starts[0] if len(starts) == 1 else starts[0] & starts[1]
        self.silent = self._silent()
        self.outs = self._facts()

    def _pair(self, weights: Sequence[Ref], at: int, *, has_bias: bool) -> tuple[int, int | None]:
        """Where a cell's input weight and input bias stand among the inputs."""
        weight, bias = self.c.place(weights[at]), None
        if has_bias:
            bias = self.c.place(weights[at + 2])
        return weight or 0, bias

    def _steady(self) -> Fact:
        """Inputs that are one number at every step: one line."""
        value, known = (t.reshape(-1, t.shape[-1]) for t in self.c.facts[self.source])
        first = value[0].double()
        return Fact(first, (known & (value == value[:1])).all(0))

    def added(self, chosen: Tensor) -> list[Tensor]:
        """What chosen inputs add to the gates of each direction, in float64."""
        line = torch.where(chosen, self.steady.value, 0.0)
        return [self.c.facts[w].value.detach().double() @ line for w, _ in self.first]

    def _cell(self, block: list[Ref], *, has_bias: bool) -> Cell:
        raw = [self.c.facts[self.c.place(ref)].value.detach() for ref in block]  # type: ignore[index]
        split = [(w != 0).unflatten(0, (self.gates, -1)) for w in raw]
        none = torch.zeros(split[0].shape[:2], dtype=torch.bool)
        return Cell(split[0], split[1], split[2] | split[3] if has_bias else none)

    def _silent(self) -> list[Tensor]:
        """For each cell, which units are zero at every step."""
        found: list[Tensor] = []
        gate = _CANDIDATE[self.c.name]
        incoming = _line(self.c.facts[self.source].zero)
        for layer in range(self.layers):
            here = []
            for direction in range(self.directions):
                cell = self.cells[layer * self.directions + direction]
                quiet = self.start & ~cell.biased[gate]
                quiet = quiet & ~(cell.reads[gate] & ~incoming).any(1)
                while True:  # the largest set of units that only hear each other's silence
                    kept = quiet & ~(cell.repeats[gate] & ~quiet).any(1)
                    if bool((kept == quiet).all()):
                        break
                    quiet = kept
                here.append(quiet)
            found += here
            incoming = torch.cat(here)
        return found

    def _facts(self) -> list[Fact]:
        c = self.c
        last = torch.cat(self.silent[-self.directions :])
        every = torch.stack(self.silent).all(0)
        facts = []
        for i, ref in enumerate(c.outs):
            line = last if i == 0 else every
            shape = c.layout.small(ref)
            facts.append(Fact(torch.zeros(shape, dtype=torch.float64), line.expand(shape)))
        return facts

    def _sweep(self, wanted: Sequence[Marks], gone: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Needed inputs, needed hidden units of any cell, and hidden units missed if they go."""
        ends = torch.zeros(self.hidden, dtype=torch.bool)
        for marks in wanted[1:]:
            ends |= ends if marks is None else _any_line(marks)
        outer = torch.zeros(self.hidden * self.directions, dtype=torch.bool)
        if wanted[0] is not None:
            outer |= _any_line(wanted[0])
        keep = torch.ones(self.hidden, dtype=torch.bool) if gone is None else ~gone
        missed = torch.zeros(self.hidden, dtype=torch.bool)
        used = torch.zeros(self.hidden, dtype=torch.bool)
        for layer in reversed(range(self.layers)):
            below = torch.zeros(
                self.cells[layer * self.directions].reads.shape[2], dtype=torch.bool
            )
            for direction in range(self.directions):
                place = layer * self.directions + direction
                cell, quiet = self.cells[place], self.silent[place]
                live = (outer[direction * self.hidden :][: self.hidden] | ends) & keep
                while True:
                    heard = (cell.repeats.any(0) & live.unsqueeze(1)).any(0)
                    more = live | (heard & keep)
                    missed |= heard & ~keep & ~quiet
                    if bool((more == live).all()):
                        break
                    live = more
                used |= live
                below |= (cell.reads.any(0) & live.unsqueeze(1)).any(0)
            if layer:
                hushed = torch.cat(self.silent[(layer - 1) * self.directions :][: self.directions])
                away = (~keep).repeat(self.directions) & below & ~hushed
                missed |= away.reshape(self.directions, -1).any(0)
                outer = below
        return below, used, missed

    def need(self, wanted: Sequence[Marks]) -> list[Marks]:
        """Inputs and initial states of the units that the wanted ones listen to."""
        inputs, used, _ = self._sweep(wanted, None)
        return self._marks(inputs, used)

    def lose(self, wanted: Sequence[Marks], gone: Sequence[Marks]) -> list[Marks]:
        """Units that others listen to, and that do not stay at zero."""
        state = self.c.place(self.states[0])
        lost = gone[state]  # type: ignore[index]
        line = None if lost is None else _any_line(lost)
        inputs, _, missed = self._sweep(wanted, line)
        zero = _line(self.c.facts[self.source].zero)
        found = self._marks(inputs & ~zero, missed)
        return [None if f is None or g is None else f & g for f, g in zip(found, gone, strict=True)]

    def _marks(self, inputs: Tensor, hidden: Tensor) -> list[Marks]:
        found: list[Marks] = [None] * len(self.c.ins)
        found[self.source] = inputs.expand(self.c.layout.small(self.c.ins[self.source]))
        for ref in self.states:
            place = self.c.place(ref)
            found[place] = hidden.expand(self.c.layout.small(self.c.ins[place]))  # type: ignore[index]
        return found


def _line(known: Tensor) -> Tensor:
    """What holds at every position, along the last dimension."""
    return known.reshape(-1, known.shape[-1]).all(0)


def _any_line(marks: Tensor) -> Tensor:
    return reduced(marks, [1] * (marks.ndim - 1) + [marks.shape[-1]]).reshape(-1)


@row("lstm", "gru", "rnn")
def recurrent(c: Context) -> Effect:
    """Plain batches; packed sequences and projected states are left alone."""
    args = c.op.args
    if len(args) != 9 or not isinstance(args[2], (tuple, list)) or not args[2]:  # noqa: PLR2004
        return Effect(c)
    weights = args[2]
    per = len(weights) // (int(args[4]) * (2 if args[7] else 1))
    full = all(isinstance(r, Ref) and c.facts[c.place(r)].full for r in weights)  # type: ignore[index]
    packed = isinstance(args[1], Ref) and not isinstance(args[2][0], Ref)
    if packed or not full or per != (4 if args[3] else 2) or not isinstance(args[0], Ref):
        return Effect(c)
    return Recurrent(c)
