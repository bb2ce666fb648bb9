"""Tapes in float64: plain, without some branches, and one that remembers what was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from excise.branch import Branch
from excise.graph import AxisGraph
from excise.trace.choice import Choice, chooses
from excise.trace.run import run
from excise.trace.tape import Tape, widened
from excise.trace.wide import wider
from excise.verify.tree import flatten


class Wide(Tape):
    """Runs every operation in float64, even where the model asks for less."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = True

    def inside(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Widen the dtypes that an operation is asked for, and those that it makes unasked."""
        wide, more, named = widened(self, func, args, kwargs)
        out = wide(*more, **named)
        written = getattr(getattr(func, "overloadpacket", None), "__name__", "").endswith("_")
        if written and more[0] is not args[0]:  # a constant of less, which is written to
            return args[0].copy_(out)
        return wider(out)

    def step(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Count an operation and run it wide."""
        del name
        self.count += 1
        return self.inside(func, args, kwargs)


class Unbranched(Wide):
    """Runs the original with branches set to zero where they are added to their streams."""

    def __init__(self, before: AxisGraph, chosen: Sequence[Branch]) -> None:
        super().__init__()
        self.ops = before.trace.ops
        self.places = {branch.add: branch.place for branch in chosen}
        self.lost = ""

    def step(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation; an addition of a branch without the branch."""
        if not self.lost and (self.count >= len(self.ops) or self.ops[self.count].name != name):
            self.lost = f"with real data the original takes another path at operation {self.count}"
        place = self.places.get(self.count)
        if place is not None and not self.lost:
            with self.pause():
                args[place].zero_()  # nothing else reads it
        return super().step(name, func, args, kwargs)


class Chosen(Wide):
    """Runs the cut model, and keeps what each choice was made from and what was chosen."""

    def __init__(self, after: AxisGraph) -> None:
        super().__init__()
        self.trace = after.trace
        self.choices: dict[int, Choice] = {}

    def step(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation; copy the tensors of a choice, which may be written to later."""
        number, ops = self.count, self.trace.ops
        if number >= len(ops) or ops[number].name != name or not chooses(self.trace, ops[number]):
            return super().step(name, func, args, kwargs)
        with self.pause():
            given = [t.clone() for t in flatten((args, kwargs))]
        out = super().step(name, func, args, kwargs)
        with self.pause():
            self.choices[number] = Choice(given, [t.clone() for t in flatten(out)])
        return out


def seeded(model: nn.Module, tape: Tape, args: Any, named: Any) -> Any:
    """Run a model under a tape, each time with the same random numbers; torch's are put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return run(model, tape, args, named)
