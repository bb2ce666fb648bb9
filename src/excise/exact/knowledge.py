"""Forward: what every tensor of a traced model is known to be, whatever the input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from excise.exact import (
    affine,
    attention,
    group,
    hull,
    move,
    norm,
    pointwise,
    recurrent,
    space,
    span,
)
from excise.exact.border import Borders, Profile
from excise.exact.bound import BOUNDS, Bound, Given, of
from excise.exact.effect import ROWS, Context, Effect, plain_name
from excise.exact.fact import Fact, Layout
from excise.exact.program import OPAQUE, Program, Step, program
from excise.graph import AxisGraph
from excise.rules import POINTWISE
from excise.trace import skeleton

FAMILIES = (affine, attention, group, hull, move, norm, pointwise, recurrent, space, span)


@dataclass(frozen=True)
class Knowledge:
    """A program with one effect for each step, and the facts of every version.

    Attributes:
        graph: the axes.
        layout: which dimensions are kept.
        program: steps over versions.
        effects: one for each step.
        facts: one for each version.
        bounds: version -> between which numbers its elements lie, for those that have bounds.
        settled: version -> elements that stay the constant they are, whatever else is taken away.
        profiles: version -> what its channels are inside and at the border, where that is known.
    """

    graph: AxisGraph
    layout: Layout
    program: Program
    effects: tuple[Effect, ...]
    facts: tuple[Fact, ...]
    bounds: dict[int, Bound]
    settled: dict[int, Tensor]
    profiles: dict[int, Profile]


def learn(graph: AxisGraph) -> Knowledge:
    """Propagate constants through a trace, in float64.

    Args:
        graph: of a plain model in eval mode; the model's tensors are read from `graph.stage`.
    """
    layout, steps = Layout(graph), program(graph.trace)
    facts: dict[int, Fact] = {}
    tensors = dict(skeleton.named_tensors(graph.stage.model))
    first: dict[int, str] = {}
    for name, ref in graph.trace.names.items():
        first.setdefault(ref.number, name)

    def fact(version: int) -> Fact:
        if version not in facts:
            ref = steps.refs[version]
            name = first.get(ref.number)
            stored = name is not None and ref.number not in steps.written
            facts[version] = _stored(tensors[name]) if stored and name else layout.unknown(ref)
        return facts[version]

    effects: list[Effect] = []
    shares: set[int] = set()
    borders = Borders(facts)
    reach = _Reach(steps, facts, _eps(graph))
    with torch.no_grad():
        for step in steps.steps:
            shared = [v in shares for v in step.ins]
            c = Context(layout, step, steps.refs, [fact(v) for v in step.ins], shared)
            effect = _effect(c)
            effects.append(effect)
            shares |= {step.outs[0]} if effect.shares else set()
            facts.update(zip(step.outs, effect.outs, strict=True))
            borders.add(c, effect)
            reach.add(c, effect)
        everything = tuple(fact(v) for v in range(len(steps.refs)))
        settled = reach.settled(effects)
    return Knowledge(
        graph, layout, steps, tuple(effects), everything, reach.bounds, settled, borders.profiles
    )


class _Reach:
    """Bounds, step by step; where they meet, a fact is found."""

    def __init__(self, steps: Program, facts: dict[int, Fact], eps: float) -> None:
        self.facts, self.eps = facts, eps
        self.made = {version for step in steps.steps for version in step.outs}
        self.bounds: dict[int, Bound] = {}
        self.found: set[int] = set()

    def add(self, c: Context, effect: Effect) -> None:
        """Bounds of one step's results, and the facts that follow."""
        self.bounds.update(self._step(c, effect, self._bound, loose=False))
        for place, version in enumerate(c.step.outs):
            bound = self.bounds.get(version)
            if bound is None:
                continue
            value, known = self.facts[version]
            new = bound.met & ~known
            if bool(new.any()):
                fact = Fact(torch.where(new, bound.low, value.double()), known | new)
                self.facts[version] = effect.outs[place] = fact
                self.found.add(version)

    def settled(self, effects: list[Effect]) -> dict[int, Tensor]:
        """Where bounds meet although any term may be gone."""
        if not self.found:
            return {}
        loose: dict[int, Bound] = {}

        def bound(version: int) -> Bound | None:
            if version in self.made:
                return loose.get(version)
            return of(self.facts[version], stored=True) if version in self.facts else None

        for effect in effects:
            loose.update(self._step(effect.c, effect, bound, loose=True))
        return {v: loose[v].met for v in self.found if v in loose and bool(loose[v].met.any())}

    def _bound(self, version: int) -> Bound | None:
        """What is known either way."""
        found = self.bounds.get(version)
        known = of(self.facts[version], stored=version not in self.made)
        if found is None or known is None:
            return found or known
        return Bound(torch.maximum(found.low, known.low), torch.minimum(found.high, known.high))

    def _step(
        self, c: Context, effect: Effect, bound: Callable[[int], Bound | None], *, loose: bool
    ) -> dict[int, Bound]:
        row = BOUNDS.get(c.name)
        if row is None:
            return {}
        weighed = {effect.weight} if isinstance(effect, affine.Affine) else set()
        ins = [None if i in weighed else bound(v) for i, v in enumerate(c.step.ins)]
        try:
            made = row(Given(c, effect, ins, self.eps, loose))
        except Exception:  # noqa: BLE001 - as in `_effect`
            return {}
        many = made if isinstance(made, list) else [made]
        return {v: b for v, b in zip(c.step.outs, many, strict=False) if b is not None}


def _eps(graph: AxisGraph) -> float:
    """The coarsest rounding of the model's tensors, and at least that of float32."""
    tensors = skeleton.named_tensors(graph.stage.model)
    kinds = {t.dtype for _, t in tensors if t.is_floating_point()} | {torch.float32}
    return max(torch.finfo(kind).eps for kind in kinds)


def _stored(tensor: Tensor) -> Fact:
    data = tensor.detach().cpu()
    return Fact(data, torch.ones((), dtype=torch.bool).expand(data.shape))


def _effect(c: Context) -> Effect:
    step: Step = c.step
    if step.op is OPAQUE:
        return Effect(c)
    found = ROWS.get(plain_name(step.op.name)) or ROWS.get(step.op.name)
    if found is None and (step.op.pointwise or plain_name(step.op.name) in POINTWISE):
        found = pointwise.pointwise
    if found is None:
        return Effect(c)
    try:
        return found(c)
    except Exception:  # noqa: BLE001 - an unforeseen form of a call: nothing is known, all matters
        return Effect(c)
