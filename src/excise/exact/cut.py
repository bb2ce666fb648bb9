"""From a masked model to an exact plan, and from the plan to the small model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from excise.axes import Axis, Why
from excise.budget import build, rehearse
from excise.exact import mask
from excise.exact.fold import Folded, fold, write
from excise.exact.knowledge import learn
from excise.exact.live import Liveness
from excise.graph import AxisGraph, infer, trace
from excise.plan import Plan
from excise.surgery import check_finite, remove
from excise.trace import Op, Ref, skeleton

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
    if not _constants_move(graph, plan):
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
        if _constants_move(graph, build(graph, kept, removed)):
            guilty |= {axis.name for axis, _ in members}
    return guilty


def _constants_move(graph: AxisGraph, plan: Plan) -> bool:
    shapes = {cut.name: plan.shape_after(cut) for cut in plan.tensors}
    after, failure = graph.stage.rehearse(
        shapes, [(a.module, a.attribute, a.after) for a in plan.attributes]
    )
    pairs = zip(graph.trace.ops, after.ops, strict=False)
    return failure is None and any(_floats(a) != _floats(b) for a, b in pairs)


def _floats(op: Op) -> list[float]:
    return [v for v in _scalars((op.args, tuple(op.kwargs.values()))) if isinstance(v, float)]


def _scalars(tree: Any) -> list[Any]:
    if type(tree) is Ref:
        return []
    if isinstance(tree, (tuple, list)):
        return [value for item in tree for value in _scalars(item)]
    return [tree]


def carry_out(found: Exact, *, double: bool = False) -> nn.Module:
    """Build the small model; with `double`, in float64 and with constants folded in float64.

    Not touched: the plain model, the folded tensors.
    """
    model = mask.duplicate(found.model)
    if double:
        widen(model)
    write(model, found.folded)
    small = remove(model, found.plan, inplace=True)
    tensors = dict(small.named_parameters(remove_duplicate=False))
    cuts = {cut.name: cut for cut in found.plan.tensors}
    with torch.no_grad():
        for layer, value in found.folded.biases.items():
            bias = tensors[f"{layer}.bias"]
            weight = cuts.get(f"{layer}.weight")
            if weight is not None:
                value = value[torch.from_numpy(found.plan.indices(_outputs(small, layer, weight)))]  # noqa: PLW2901
            bias.copy_(value)
    for name, module in small.named_modules():
        module.training = found.training[name]
    return small


def _outputs(model: nn.Module, layer: str, cut: Any) -> str:
    module = model.get_submodule(layer)
    if getattr(module, "transposed", False):
        return (
            cut.dims[1] if getattr(module, "groups", 1) == 1 else f"({cut.dims[0]} {cut.dims[1]})"
        )
    return str(cut.dims[0])


def widen(model: nn.Module) -> None:
    """Turn every tensor of a model of our own to float64, in place; plain attributes too."""
    done: set[int] = set()
    for _, tensor in list(skeleton.named_tensors(model)):
        if tensor.is_floating_point() and id(tensor) not in done:
            tensor.data = tensor.data.double()
            done.add(id(tensor))
