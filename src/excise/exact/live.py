"""Backward: the largest set of units that nobody would miss.

Every unit of every axis that may be cut starts as gone. One sweep from the outputs to the inputs
asks each operation which of the elements that go would be missed by a result that is needed and
stays; whoever is missed stays, with all that its unit owns, and the sweep is repeated until nothing
changes. What remains is the greatest fixed point: units that are dead (nobody who stays reads
them), or constant where they are read (and folded into the reader).
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from excise.axes import Axis
from excise.exact.affine import Affine
from excise.exact.border import Span
from excise.exact.effect import Marks
from excise.exact.group import Grouped
from excise.exact.knowledge import Knowledge
from excise.exact.place import Place, inlets, places
from excise.exact.recurrent import Recurrent
from excise.trace import Op


class Stays(NamedTuple):
    """Why a unit that is zero or constant somewhere stays."""

    kind: str
    op: str
    module: str

    def __str__(self) -> str:
        place = f" in {self.module}" if self.module else ""
        return {
            "read": f"its value changes and {self.op}{place} reads it",
            "mixed": f"{self.op}{place} mixes it with other units, so removing it is not exact",
            "constant": f"it is a constant that {self.op}{place} cannot fold away",
            "carrier": f"it carries the constants that the padded {self.op}{place} needs",
            "border": f"it carries what removed constants are at the border, for {self.op}{place}",
            "counted": "the code computes a constant from the length of its axis",
            "tied": "the model's code ties its axis to another, which keeps its unit",
            "last": "one unit has to stay",
        }[self.kind]


class Liveness:
    """Units that go, and why the others stay."""

    def __init__(self, knowledge: Knowledge, frozen: Container[str] = ()) -> None:
        self.k = knowledge
        graph = knowledge.graph
        self.axes: list[Axis] = [graph.axes[group.name] for group in graph.groups]
        self.gone: dict[Axis, Tensor] = {
            axis: torch.ones(axis.size, dtype=torch.bool) for axis in self.axes
        }
        self.places: dict[int, Place] = places(knowledge)
        self.inlets = inlets(knowledge)
        self.reasons: dict[tuple[str, int], Stays] = {}
        self.needed: dict[int, Tensor] = {}
        for axis in self.axes:
            if axis.name in frozen:
                self._put_back(axis, axis.size, "counted")
        self._solve()

    def _solve(self) -> None:
        while True:
            while self._sweep():
                pass
            if not (self._carry() or self._border() or self._last() or self._tie()):
                self._name_mixers()
                return

    def _name_mixers(self) -> None:
        """Where a constant turned into something else because a norm mixed it, say so."""
        for step, effect in zip(self.k.program.steps, self.k.effects, strict=True):
            if not isinstance(effect, Grouped):
                continue
            lost = effect.c.facts[0].known & ~effect.outs[0].known
            for axis, units in self.k.layout.units(self.k.program.refs[step.ins[0]], lost):
                for unit in units.nonzero().flatten().tolist():
                    before = self.reasons.get((axis.name, unit))
                    if before is not None and before.kind == "read":
                        made = Stays("mixed", step.op.name, step.op.module)
                        self.reasons[axis.name, unit] = made

    def marks(self, version: int) -> Marks:
        """Elements of a version that go."""
        return self.k.layout.gone(self.k.program.refs[version], self.gone)

    def wanted(self, number: int) -> list[Marks]:
        """Elements of a step's outputs that are needed, stay, and are not settled."""
        found: list[Marks] = []
        for version in self.k.program.steps[number].outs:
            need, lost = self.needed.get(version), self.marks(version)
            stay = need if need is None or lost is None else need & ~lost
            settled = self.k.settled.get(version)
            stay = stay if stay is None or settled is None else stay & ~settled
            found.append(None if stay is None or not bool(stay.any()) else stay)
        return found

    def _sweep(self) -> bool:
        """One pass from the outputs to the inputs; True if a unit turned out to be missed."""
        changed = False
        program = self.k.program
        self.needed = {
            v: torch.ones(self.k.layout.small(program.refs[v]), dtype=torch.bool)
            for v in program.outputs
        }
        for number in reversed(range(len(program.steps))):
            step, effect = program.steps[number], self.k.effects[number]
            wanted = self.wanted(number)
            if all(m is None for m in wanted):
                continue
            gone = [self.marks(v) for v in step.ins]
            if any(g is not None for g in gone):
                for place, missed in enumerate(effect.lose(wanted, gone)):
                    if missed is not None and bool(missed.any()):
                        changed |= self._keep(number, place, missed)
            for version, marks in zip(step.ins, effect.need(wanted), strict=True):
                if marks is not None:
                    before = self.needed.get(version)
                    self.needed[version] = marks if before is None else before | marks
        return changed

    def _keep(self, number: int, place: int, missed: Tensor) -> bool:
        step, effect = self.k.program.steps[number], self.k.effects[number]
        kind = "mixed" if effect.mixes else "read"
        if isinstance(effect, Affine) and place == effect.source:
            if self.places[number].kind != "none":
                missed = missed & ~effect.steady
            if self._spans(number):
                version = self.k.program.steps[number].ins[place]
                known = self.k.profiles[version].known
                missed = missed & ~known.reshape(1, -1, *([1] * (missed.ndim - 2)))
            known = self.k.facts[step.ins[place]].known
            kind = "constant" if bool((missed & known).any()) else "read"
        if isinstance(effect, Recurrent) and place == effect.source:
            if number in self.inlets:
                missed = missed & ~effect.steady.known
            constant = bool((missed & effect.steady.known).any())
            kind = "constant" if constant else kind
        return self._restore(step.ins[place], missed, kind, step.op)

    def _restore(self, version: int, marks: Tensor, kind: str, op: Op) -> bool:
        """Let the owners of the marked elements stay."""
        changed = False
        for axis, units in self.k.layout.units(self.k.program.refs[version], marks):
            lost = self.gone.get(axis)
            if lost is None:
                continue
            back = lost & units
            for unit in back.nonzero().flatten().tolist():
                self.reasons[axis.name, unit] = Stays(kind, op.name, op.module)
                changed = True
            self.gone[axis] = lost & ~back
        return changed

    def folds(self) -> Iterator[tuple[int, Affine, Place, Tensor]]:
        """Every step that loses constants: which inputs, as (rows, groups, in)."""
        for number, effect in enumerate(self.k.effects):
            if not isinstance(effect, Affine):
                continue
            wanted = self.wanted(number)
            lost = self.marks(self.k.program.steps[number].ins[effect.source])
            lines = effect.wanted_lines(wanted)
            if lines is None or lost is None:
                continue
            chosen = effect.rows(lost)
            chosen = chosen.any(0, keepdim=True) if effect.value.shape[0] == 1 else chosen
            chosen = chosen & effect.known & (effect.value != 0) & effect.behind(lines)
            if bool(chosen.any()):
                yield number, effect, self.places[number], chosen

    def fed(self) -> Iterator[tuple[Recurrent, tuple[str, ...], Tensor]]:
        """Recurrent layers that lose constant inputs: the biases that take them up, and which."""
        for number, names in self.inlets.items():
            effect = self.k.effects[number]
            assert isinstance(effect, Recurrent)  # noqa: S101 - for the type checker
            lost = self.marks(self.k.program.steps[number].ins[effect.source])
            if lost is None or all(m is None for m in self.wanted(number)):
                continue
            steady = effect.steady
            chosen = lost.reshape(-1, lost.shape[-1]).any(0) & steady.known & (steady.value != 0)
            if bool(chosen.any()):
                yield effect, names, chosen

    def carriers(self, effect: Affine, number: int) -> Tensor:
        """Constants that stay and are not zero, as (groups, in)."""
        lost = self.marks(self.k.program.steps[number].ins[effect.source])
        known = effect.known.all(0) & (effect.value[0] != 0)
        if lost is not None:
            known = known & ~effect.rows(lost).any(0)
        return known

    def _carry(self) -> bool:
        """Let one constant unit stay for each group of channels that needs a carrier."""
        changed = False
        for number, effect, place, chosen in list(self.folds()):
            if place.kind != "carrier":
                continue
            have = self.carriers(effect, number).any(-1)
            lacking = chosen.any(0) & ~have.unsqueeze(-1)
            if not bool(lacking.any()):
                continue
            size = (effect.value[0].double().abs() * lacking).max(-1)
            pick = torch.zeros_like(lacking)
            pick[size.values > 0, size.indices[size.values > 0]] = True
            step = self.k.program.steps[number]
            marks = effect.back(pick.unsqueeze(0).expand(effect.value.shape))
            changed |= self._restore(step.ins[effect.source], marks, "carrier", step.op)
        return changed

    def _spans(self, number: int) -> bool:
        """Whether a step reads profiles, position by position, and its weight may change."""
        effect = self.k.effects[number]
        return (
            isinstance(effect, Affine)
            and self.k.program.steps[number].ins[effect.source] in self.k.profiles
            and effect.shape.even
            and effect.raw.shape[0] == effect.raw.shape[3] == 1
            and self.places[number].weight is not None
        )

    def spans(self) -> Iterator[tuple[int, Affine, Place, Span]]:
        """Every step that loses constants which are not the same at the border."""
        for number, effect in enumerate(self.k.effects):
            if not isinstance(effect, Affine) or not self._spans(number):
                continue
            version = self.k.program.steps[number].ins[effect.source]
            lines, marks = effect.wanted_lines(self.wanted(number)), self.marks(version)
            if lines is None or marks is None:
                continue
            profile, place = self.k.profiles[version], self.places[number]
            gone = effect.rows(marks).any(0)[0]
            lost = gone & profile.known & ~effect.known[0, 0] & effect.behind(lines)[0, 0]
            if bool(lost.any()):
                slot = place.kind in {"bias", "mean", "create"}
                yield number, effect, place, Span(profile, lost, ~gone & profile.known, slot)

    def _border(self) -> bool:
        """Let as many profiles stay as it takes to make the others."""
        changed = False
        for number, effect, _, span in list(self.spans()):
            pick = torch.zeros_like(span.lost)
            pick[span.lacking()] = True
            kind = "border"
            if not bool(pick.any()):
                if span.shares() is not None:
                    continue
                pick, kind = span.lost, "constant"
            step = self.k.program.steps[number]
            marks = effect.back(pick.reshape(1, 1, -1))
            changed |= self._restore(step.ins[effect.source], marks, kind, step.op)
        return changed

    def _last(self) -> bool:
        """No axis loses its last unit."""
        changed = False
        for axis in self.axes:
            if bool(self.gone[axis].all()):
                self._put_back(axis, 1, "last")
                changed = True
        return changed

    def _tie(self) -> bool:
        """Tied axes lose units in step: as many steps as the one that can spare the fewest."""
        changed = False
        for group in self.k.graph.groups:
            members = self.k.graph.tie(group)
            steps = min(int(self.gone[axis].sum()) // weight for axis, weight in members)
            for axis, weight in members:
                surplus = int(self.gone[axis].sum()) - steps * weight
                if surplus:
                    self._put_back(axis, surplus, "tied")
                    changed = True
        return changed

    def _put_back(self, axis: Axis, count: int, kind: str) -> None:
        lost = self.gone[axis].clone()
        for unit in lost.nonzero().flatten().tolist()[:count]:
            lost[unit] = False
            self.reasons[axis.name, unit] = Stays(kind, "", "")
        self.gone[axis] = lost

    def removed(self) -> dict[str, tuple[int, ...]]:
        """Group name -> units that go."""
        return {
            axis.name: tuple(lost.nonzero().flatten().tolist())
            for axis, lost in self.gone.items()
            if bool(lost.any())
        }
