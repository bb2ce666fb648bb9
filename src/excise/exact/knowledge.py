"""Forward: what every tensor of a traced model is known to be, whatever the input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from excise.exact import affine, attention, group, move, norm, pointwise, recurrent, space
from excise.exact.effect import ROWS, Context, Effect, plain_name
from excise.exact.fact import Fact, Layout
from excise.exact.program import OPAQUE, Program, Step, program
from excise.graph import AxisGraph
from excise.rules import POINTWISE
from excise.trace import skeleton

FAMILIES = (affine, attention, group, move, norm, pointwise, recurrent, space)


@dataclass(frozen=True)
class Knowledge:
    """A program with one effect for each step, and the facts of every version."""

    graph: AxisGraph
    layout: Layout
    program: Program
    effects: tuple[Effect, ...]
    facts: tuple[Fact, ...]


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
    with torch.no_grad():
        for step in steps.steps:
            c = Context(layout, step, steps.refs, [fact(v) for v in step.ins])
            effect = _effect(c)
            effects.append(effect)
            facts.update(zip(step.outs, effect.outs, strict=True))
        everything = tuple(fact(v) for v in range(len(steps.refs)))
    return Knowledge(graph, layout, steps, tuple(effects), everything)


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
