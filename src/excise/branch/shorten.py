"""Shorter models: the axis graph of a model without some branches, rehearsed as it is made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from excise.branch.find import Branch, Branches, Refused, branches
from excise.errors import ExampleError
from excise.graph import AxisGraph, infer
from excise.layers import Bypassed, stand_ins
from excise.trace import Trace, skeleton, uncollected
from excise.trace.record import trace_on
from excise.trace.recorder import Recorder
from excise.trace.rehearsal import Stage
from excise.trace.replay import Replay

_MADE = "zeros_like"


class Shorter(NamedTuple):
    """A model without some branches.

    Attributes:
        graph: its axes; the model in it shares the tensors of the whole one.
        numbers: for each of its operations that of the same one in the whole model; -1 for the
            zeros that stand where a branch was.
        problem: why it does not run as the whole one does; empty if it does.
        op: the first operation of the whole model that it does otherwise; -1 if there is none.
    """

    graph: AxisGraph
    numbers: tuple[int, ...]
    problem: str = ""
    op: int = -1


def shorter(graph: AxisGraph, chosen: Sequence[Branch]) -> Shorter:
    """Trace a model without some of its branches, and compare every operation that is left.

    Args:
        graph: of the whole model. Not touched, nor its model.
        chosen: from `branches(graph)`.
    """
    stage = graph.stage
    every = {id(t): t for _, t in skeleton.named_tensors(stage.model)}
    instead = stand_ins(stage.model, (m for branch in chosen for m in branch.modules))
    shell = skeleton.copied(stage.model, {**every, **instead})
    recorder = Recorder(stage.mode, replay=Replay(stage.script))
    fork = contextlib.nullcontext() if stage.mode else torch.random.fork_rng(devices=[])
    failure = ""
    with uncollected(), fork:
        bones = skeleton.fake(shell, stage.mode) if stage.mode else skeleton.copied(shell, {})
        try:
            found = trace_on(bones, recorder, stage.args, stage.kwargs)
        except ExampleError as error:
            found, failure = recorder.partial(), error.reason
        made = infer(found, Stage(shell, stage.mode, stage.args, stage.kwargs, stage.script))
    numbers = _numbers(len(graph.trace.ops), chosen)
    problem, place = _compared(graph.trace, found, numbers, chosen)
    if failure:
        problem = f"without it the model fails: {failure}"
    return Shorter(made, numbers, problem, place)


def _numbers(count: int, chosen: Sequence[Branch]) -> tuple[int, ...]:
    """The operations that are left, with -1 where zeros are made instead."""
    gone = {n for branch in chosen for n in branch.gone}
    zeros = {
        call.first
        for branch in chosen
        for call, module in zip(branch.calls, branch.modules, strict=True)
        if module.makes == "zeros"
    }
    found: list[int] = []
    for number in range(count):
        found += [-1] * (number in zeros)
        found += [number] * (number not in gone)
    return tuple(found)


def _compared(
    before: Trace, after: Trace, numbers: Sequence[int], chosen: Sequence[Branch]
) -> tuple[str, int]:
    """What is done otherwise, and by which operation of the whole model; ("", -1) if nothing is."""
    free = {n for branch in chosen for n in branch.inside}  # of what is thrown away no shape counts
    for place, number in enumerate(numbers):
        if place >= len(after.ops):
            return "without it the model ends early", number
        op = after.ops[place]
        wanted = _MADE if number < 0 else before.ops[number].name
        if op.name != wanted:
            return f"without it the model does {op.name} in place of {wanted}", number
        if number >= 0 and number not in free:
            old = [before.tensors[ref.number].shape for ref in before.ops[number].outs]
            if old != [after.tensors[ref.number].shape for ref in op.outs]:
                return f"without it {wanted} makes another shape", number
    if len(after.ops) > len(numbers):
        return f"without it the model does {after.ops[len(numbers)].name} at the end", -1
    same = [path for path, _ in before.outputs] == [path for path, _ in after.outputs]
    return ("", -1) if same else ("without it the model returns something else", -1)


def named(
    graph: AxisGraph, wanted: Iterable[tuple[Bypassed, ...]], *, wide: bool = False
) -> list[Branch]:
    """The branches of a graph whose modules are replaced like this; `wide` as in `branches`.

    Raises:
        KeyError: with the modules that are those of no branch of this graph.
    """
    modules = list(wanted)
    there = {b.modules: b for b in branches(graph, wide=wide).found} if modules else {}
    return [there[each] for each in modules]


def removable(graph: AxisGraph) -> Branches:
    """`branches`, each rehearsed: those without which the model does not run as before stay.

    Raises:
        ExampleError: the model takes another path each time it runs.
    """
    known = branches(graph)
    if not shorter(graph, known.found).problem:
        return known
    alone = {branch: shorter(graph, [branch]) for branch in known.found}
    refused = [
        Refused(b.name, one.problem, graph.trace.ops[one.op].where if one.op >= 0 else "")
        for b, one in alone.items()
        if one.problem
    ]
    found = tuple(b for b, one in alone.items() if not one.problem)
    return Branches(found, (*known.refused, *refused))
