"""From a masked model to an exact plan, and from the plan to the small model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from excise.axes import Axis, Why
from excise.budget import build, rehearse
from excise.exact import mask
from excise.exact.fold import Folded, fold, write
from excise.exact.knowledge import learn
from excise.exact.live import Liveness
from excise.graph import AxisGraph, infer, trace
from excise.plan import Plan
from excise.surgery import check_finite, remove, sliced
from excise.trace import Op, skeleton

_ROUNDS = 64


@dataclass(frozen=True)
class Exact:
    """What can go without changing a model's function.

    Attributes:
        model: the plain model (masks multiplied in), in eval mode; ours.
        graph: its axis graph.
        live: which units go, and why others stay.
        plan: the cut, rehearsed.
        folded: what the constants that go change in the tensors that stay.
        training: module name -> its mode before.
    """

    model: nn.Module
    graph: AxisGraph
    live: Liveness
    plan: Plan
    folded: Folded
    training: dict[str, bool]


def exact(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Exact:
    """Find the units that a plain model of our own does not need.

    Raises:
        TraceError: the model cannot be read.
        NonFiniteWeightError: a weight is NaN or infinite.
    """
    check_finite(dict(skeleton.named_tensors(model)))
    training = {name: module.training for name, module in model.named_modules()}
    model.eval()
    graph = trace(model, *args, **kwargs)
    extra: list[tuple[int, Why]] = []
    frozen: set[str] = set()
    for _ in range(_ROUNDS):
        live = Liveness(learn(graph), frozen)
        plan, kept = planned(graph, live)
        found = rehearse(graph, plan, kept) if kept else []
        scaling = counted(graph, live, plan) if kept and not found else set()
        if not found and not scaling:
            break
        extra, frozen = extra + found, frozen | scaling
        graph = infer(graph.trace, graph.stage, extra)
    else:  # every round holds an axis, and no model has that many that clash
        live = Liveness(learn(graph), {group.name for group in graph.groups})
        plan, _ = planned(graph, live)
    folded = fold(live)
    return Exact(model, graph, live, replace(plan, biases=tuple(folded.biases)), folded, training)


def planned(graph: AxisGraph, live: Liveness) -> tuple[Plan, dict[Axis, int]]:
    """The plan that removes what nobody misses, and the lengths that it leaves."""
    kept = {
        axis: axis.size - int(gone.sum()) for axis, gone in live.gone.items() if bool(gone.any())
    }
    return build(graph, kept, live.removed()), kept


def counted(graph: AxisGraph, live: Liveness, plan: Plan) -> set[str]:
    """Axes whose length the model's code turns into a constant, such as `head_dim ** -0.5`.

    Removing even an idle unit of such an axis changes that constant, and with it the function.
    """
    read = {
        id(step.op)
        for number, step in enumerate(live.k.program.steps)
        if any(marks is not None for marks in live.wanted(number))
    }
    if not any(_floats(op) for op in graph.trace.ops) or not _constants_move(graph, plan, read):
        return set()
    guilty: set[str] = set()
    seen: set[Axis] = set()
    for group in graph.groups:
        members = graph.tie(group)
        if members[0][0] in seen or not any(bool(live.gone[axis].any()) for axis, _ in members):
            continue
        seen |= {axis for axis, _ in members}
        kept = {axis: axis.size - weight for axis, weight in members}
        removed = {axis.name: tuple(range(weight)) for axis, weight in members}
        if _constants_move(graph, build(graph, kept, removed), read):
            guilty |= {axis.name for axis, _ in members}
    return guilty


def _constants_move(graph: AxisGraph, plan: Plan, read: set[int]) -> bool:
    """Whether a number in an operation that is read differs after a cut."""
    shapes = {cut.name: plan.shape_after(cut) for cut in plan.tensors}
    after, failure = graph.stage.rehearse(
        shapes, [(a.module, a.attribute, a.after) for a in plan.attributes]
    )
    pairs = zip(graph.trace.ops, after.ops, strict=False)
    return failure is None and any(id(a) in read and _floats(a) != _floats(b) for a, b in pairs)


def _floats(op: Op) -> list[float]:
    if "norm" in op.name:  # an epsilon and a momentum
        return []
    return op.floats()


def carry_out(found: Exact) -> nn.Module:
    """Build the small model in the precision of the plain one.

    Not touched: the plain model (its folded tensors are put back), the folded tensors.
    """
    tensors = dict(skeleton.named_tensors(found.model))
    before = {name: tensors[name].detach().clone() for name in found.folded.tensors}
    write(found.model, found.folded)
    try:
        small = remove(found.model, found.plan)
    finally:
        with torch.no_grad():
            for name, value in before.items():
                tensors[name].copy_(value)
    _fill(small, _created(small, found))
    for name, module in small.named_modules():
        module.training = found.training[name]
    return small


def widened(small: nn.Module, found: Exact) -> nn.Module:
    """The small model in float64 and eval mode, with constants folded in float64."""
    wide = mask.duplicate(small, torch.float64)
    cuts = {cut.name: cut for cut in found.plan.tensors}
    values = _created(small, found)
    for name, value in found.folded.tensors.items():
        dims = cuts[name].dims if name in cuts else ()
        values[name] = sliced(value, [torch.from_numpy(found.plan.indices(d)) for d in dims])
    _fill(wide, values)
    return wide.eval()


def _created(small: nn.Module, found: Exact) -> dict[str, Tensor]:
    """Values of the biases that were made, after the cut."""
    cuts = {cut.name: cut for cut in found.plan.tensors}
    values = {}
    for layer, value in found.folded.biases.items():
        weight = cuts.get(f"{layer}.weight")
        words = _outputs(small, layer, weight) if weight is not None else None
        kept = slice(None) if words is None else torch.from_numpy(found.plan.indices(words))
        values[f"{layer}.bias"] = value[kept]
    return values


def _fill(model: nn.Module, values: dict[str, Tensor]) -> None:
    tensors = dict(skeleton.named_tensors(model))
    with torch.no_grad():
        for name, value in values.items():
            tensors[name].copy_(value)


def _outputs(model: nn.Module, layer: str, cut: Any) -> str:
    module = model.get_submodule(layer)
    if getattr(module, "transposed", False):
        return (
            cut.dims[1] if getattr(module, "groups", 1) == 1 else f"({cut.dims[0]} {cut.dims[1]})"
        )
    return str(cut.dims[0])
