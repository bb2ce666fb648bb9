"""One random cut of one random network, which every law then looks at."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

import excise
from tests.strategies import Network, networks


@dataclass(frozen=True)
class Request:
    """A network and how to choose what goes: by hand if `keep` is None, else to a budget."""

    network: Network
    seed: int
    keep: float | None = None


def requests() -> st.SearchStrategy[Request]:
    """Half of the plans choose random units, half meet a random budget."""
    keeps = st.one_of(st.none(), st.sampled_from([0.35, 0.5, 0.7, 0.9]))
    return st.builds(Request, networks(), st.integers(0, 999), keeps)


@dataclass(frozen=True)
class Cut:
    """A model before and after; `before` is its fingerprint from before anything happened."""

    request: Request
    model: nn.Module = field(repr=False)
    args: tuple[Tensor, ...] = field(repr=False)
    kwargs: dict[str, Tensor] = field(repr=False)
    before: dict[str, Any] = field(repr=False)
    graph: excise.AxisGraph = field(repr=False)
    plan: excise.Plan
    small: nn.Module = field(repr=False)
    refused: bool = False
    notes: set[str] = field(default_factory=set, repr=False)

    @cached_property
    def verdict(self) -> excise.Verdict:
        """What `excise.verify` says of it."""
        return excise.verify(self.model, self.small, self.plan, *self.args, **self.kwargs)


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """All that a library could change behind its user's back, as plain values."""
    found: dict[str, Any] = {
        "torch": torch.get_rng_state().tolist(),
        "python": random.getstate(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
        "gradients": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
    }
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        gradient = tensor.grad
        found[name] = (id(tensor), tensor.requires_grad, tensor._version, tensor.tolist())
        found[f"{name}.grad"] = None if gradient is None else gradient.tolist()
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key.endswith("_hooks"):
                found[f"{name}.{key}"] = list(value)
            elif not isinstance(value, (dict, set, list, Tensor)):
                found[f"{name}.{key}"] = (type(value), value)
    return found


def steps(graph: excise.AxisGraph, source: random.Random) -> dict[str, tuple[int, ...]]:
    """Random units of random groups; tied groups lose theirs in proportion."""
    removed: dict[str, tuple[int, ...]] = {}
    for group in graph.groups:
        members = graph.tie(group)
        most = min((axis.size - 1) // weight for axis, weight in members)
        if group.name in removed or most < 1 or source.random() < 0.3:
            continue
        taken = source.randint(1, most)
        for axis, weight in members:
            removed[axis.name] = tuple(sorted(source.sample(range(axis.size), taken * weight)))
    return removed


def planned(
    graph: excise.AxisGraph, request: Request, model: nn.Module
) -> tuple[excise.Plan, bool]:
    """A plan for a request, and whether the first one was refused by the rehearsal."""
    refused = False
    if request.keep is None:
        try:
            source = random.Random(request.seed)  # noqa: S311 - no secrets here
            return excise.plan_units(graph, steps(graph, source)), False
        except excise.errors.UnknownGroupError:
            refused = True  # the code needs a length; the budget's plan finds out which one
    scores = excise.scores.random(model, graph)
    keep = request.keep or 0.5
    try:
        return excise.plan(graph, scores, keep_macs=keep, min_keep=1), refused
    except excise.errors.UnreachableTargetError as error:
        keep = error.nearest[0] if error.nearest else min(1.0, error.reachable + 0.05)
        return excise.plan(graph, scores, keep_macs=keep, min_keep=1), refused


def cut(request: Request) -> Cut:
    """Trace, plan and cut."""
    model = request.network.build(request.seed)
    args, kwargs = request.network.inputs()
    for number, parameter in enumerate(model.parameters()):
        if number % 2:
            parameter.grad = torch.full_like(parameter, 0.25)
    model.register_forward_hook(_hook)
    before = fingerprint(model)
    graph = excise.trace(model, *args, **kwargs)
    plan, refused = planned(graph, request, model)
    small = excise.remove(model, plan)
    return Cut(request, model, args, kwargs, before, graph, plan, small, refused)


def _hook(_module: nn.Module, _args: Any, out: Any) -> Any:
    return out


def state(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name, ties included."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
    return {name: tensor.detach() for name, tensor in named}


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def outputs(model: nn.Module, args: Any, kwargs: Any) -> list[Tensor]:
    """What a model returns, flattened."""
    with torch.no_grad():
        return [t for t in torch.utils._pytree.tree_leaves(model(*args, **kwargs)) if t is not None]
