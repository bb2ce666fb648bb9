"""Torch-Pruning on the same models, by its documented high-level way, held to the same proof.

`tp.pruner.MetaPruner(model, example_inputs, importance=MagnitudeImportance(p=2), pruning_ratio=...,
ignored_layers=[the last layer])`, then `step()`: its README, with no other help for any model than
how to call it (`forward_fn`) and what of its output is a tensor (`output_transform`). The ratio is
the one that would halve the multiply-adds of layers whose two sides are both cut.

Which units went is read off the weights: all numbers are different, so a smaller tensor tells which
slices of the larger one it is. Where the axis graph can express that cut, `excise.verify` judges it
as it judges excise's own; where not, the plainly silenced original is the reference. What breaks in
pruning or in running the pruned model is the tool's; what breaks in the proof leaves "not proved".
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
import torch_pruning as tp
from attempt import judge, told
from torch import Tensor, nn

import excise
from excise.axes import Axis, flat
from excise.budget import build
from excise.trace.output import output_leaves
from excise.trace.skeleton import copied

RATIO = 1 - 0.5**0.5
EXACT = 1e-9
SMALL = 16_384  # numbers in a parameter; in larger ones a few equal numbers are outvoted


def cut(row: dict[str, Any], model: nn.Module, args: Any, kwargs: Any) -> None:
    """Prune a copy, and say what came of it."""
    distinct(model)
    small = copied(model, {})
    pruner = tp.pruner.MetaPruner(
        small,
        example_inputs=(args, kwargs),
        forward_fn=lambda run, given: run(*given[0], **given[1]),
        output_transform=lambda out: [tensor for _, tensor in output_leaves(out)],
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=RATIO,
        ignored_layers=_last(small, args, kwargs),
    )
    pruner.step()
    row["kept_params"] = sum(p.numel() for p in small.parameters())
    with torch.no_grad():
        small.eval()(*args, **kwargs)
    row["outcome"] = "runs, not proved"
    if row["kept_params"] >= row["params"]:
        row |= {"outcome": "removes nothing"}
        return
    kept = slices(model, small)
    if kept is None:
        row["reason"] = "its weights are no slices of the original's"
        return
    with contextlib.suppress(excise.ExciseError):  # then the plain reference is left
        plan = _plan(model, kept, args, kwargs)
        if plan is not None:
            judge(row, excise.verify(model, small, plan, *args, **kwargs))
            if row["outcome"] == "wrong" and row["worst"] == math.inf:
                row["reason"] = "an output has another shape"
    if row["outcome"] not in {"runs, not proved", "shape-checked"}:
        return
    try:
        worst = _silenced(model, small, kept, args, kwargs)
    except Exception as error:  # noqa: BLE001 - no fault of the tool: its model does run
        row["reason"] = f"the plain reference does not run in float64: {told(error)}"
        return
    if worst <= EXACT:
        row |= {"outcome": "verified-exact", "worst": worst}
        row.pop("reason", None)
    else:
        row |= {"reason": f"differs from the silenced original by {worst:.2g}", "worst": worst}


def _last(model: nn.Module, args: Any, kwargs: Any) -> list[nn.Module]:
    """The last linear layer or convolution that runs; of the copy, by name."""
    seen: list[nn.Module] = []
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.modules.conv._ConvNd))]  # noqa: SLF001
    handles = [m.register_forward_hook(lambda m, _i, _o: seen.append(m)) for m in layers]
    with torch.no_grad():
        model(*args, **kwargs)
    for handle in handles:
        handle.remove()
    return seen[-1:]


def distinct(model: nn.Module) -> None:
    """Make the numbers of small parameters all different: two equal ones could not be told apart.

    The order of the numbers stays; each moves by less than a hundredth of the largest.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if 1 < parameter.numel() <= SMALL and parameter.is_floating_point():
                values, order = parameter.reshape(-1).sort()
                step = 4 * torch.finfo(values.dtype).eps * float(values.abs().max())
                spaced = values + step * torch.arange(len(values))
                parameter.view(-1)[order] = spaced.to(values.dtype)


Kept = dict[str, list[Tensor]]


def slices(model: nn.Module, small: nn.Module) -> Kept | None:
    """Of every parameter, which indices of each dimension the smaller model still has."""
    before, found = dict(model.named_parameters()), dict(small.named_parameters())
    kept: Kept = {}
    for name, large in before.items():
        part = found.get(name)
        if part is None or part.dim() != large.dim():
            return None
        places = _places(large.detach(), part.detach())
        if places is None:
            return None
        kept[name] = places
    return kept


def _places(large: Tensor, part: Tensor) -> list[Tensor] | None:
    if large.shape == part.shape:
        return [torch.arange(n) for n in large.shape]
    values, order = large.reshape(-1).sort()
    at = torch.searchsorted(values, part.reshape(-1)).clamp(max=len(values) - 1)
    if not torch.equal(values[at], part.reshape(-1)):
        return None
    found: list[Tensor] = []
    places = torch.unravel_index(order[at].view(part.shape), large.shape)
    for dim, where in enumerate(places):
        rows = where.movedim(dim, 0).reshape(part.shape[dim], -1)
        found.append(rows.mode(1).values)  # equal numbers by chance are outvoted
    again = large
    for dim, index in enumerate(found):
        again = again.index_select(dim, index)
    return found if torch.equal(again, part) else None


def _plan(model: nn.Module, kept: Kept, args: Any, kwargs: Any) -> excise.Plan | None:
    """The same cut as a plan, if the axis graph can express it."""
    graph = excise.trace(model, *args, **kwargs)
    gone: dict[Axis, set[int]] = {}
    for name, places in kept.items():
        for term, index in zip(graph.dims(name), places, strict=True):
            inner = flat(term)
            if len(inner) == 1 and inner[0].parts is None:
                gone[inner[0]] = set(range(inner[0].size)) - set(index.tolist())
    lengths = {axis: axis.size - len(units) for axis, units in gone.items() if units}
    removed = {axis.name: tuple(sorted(units)) for axis, units in gone.items() if units}
    if not removed or any(not axis.name for axis in lengths):
        return None
    plan = build(graph, lengths, removed)
    for tensor in plan.tensors:
        if tensor.name in kept:
            for dim, index in zip(tensor.dims, kept[tensor.name], strict=True):
                if plan.indices(dim).tolist() != index.tolist():
                    return None
    changed = {t.name for t in plan.tensors}
    shrunk = {n for n, p in model.named_parameters() if [len(i) for i in kept[n]] != [*p.shape]}
    return plan if shrunk <= changed else None


def _silenced(model: nn.Module, small: nn.Module, kept: Kept, args: Any, kwargs: Any) -> float:
    """Worst relative difference from the original with the removed slices set to zero."""
    reference, narrow = (copied(m, {}).double().eval() for m in (model, small))
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            for dim, index in enumerate(kept[name]):
                mask = torch.ones(parameter.shape[dim], dtype=torch.bool)
                mask[index] = False
                parameter.index_fill_(dim, mask.nonzero()[:, 0], 0.0)
        given = torch.utils._pytree.tree_map_only(  # noqa: SLF001
            Tensor, lambda t: t.double() if t.is_floating_point() else t, (args, kwargs)
        )
        wanted, found = (output_leaves(m(*given[0], **given[1])) for m in (reference, narrow))
    worst = 0.0
    for (_, a), (_, b) in zip(wanted, found, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if a.numel():
            difference = float((a - b).abs().max() / (a.abs().max() or 1.0))
            worst = float("inf") if math.isnan(difference) else max(worst, difference)
    return worst
