"""Every operation and idiom in a few lines: read, halved, and proved; each kept half as it is."""

from __future__ import annotations

import importlib.util
import warnings

import pytest
import torch
from suites import micro
from suites.micro import CASES

import excise

micro.load()
NEEDS = {"einops_patterns": "einops"}
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),  # torch's advice to the cases' authors
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # the old weight norm is old
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def halved(graph: excise.AxisGraph, scores: excise.Scores) -> excise.Plan:
    """Half of the multiply-adds, or what is nearest below it in so small a network."""
    try:
        return excise.plan(graph, scores, keep_macs=0.5)
    except excise.errors.UnreachableTargetError as error:
        return excise.plan(graph, scores, keep_macs=error.nearest[0])


@pytest.mark.parametrize("name", CASES)
def test_micro_case_is_halved_and_proved(name: str) -> None:
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    model, args, kwargs = micro.build(name)
    graph = excise.trace(model, *args, **kwargs)
    assert graph.cuttable_share() >= CASES[name].least
    plan = halved(graph, excise.scores.magnitude(model, graph))
    small = excise.remove(model, plan)
    excise.verify(model, small, plan, *args, **kwargs).check()
    assert excise.trace(small, *args, **kwargs).macs() <= 1.03 * 0.5 * graph.macs()


@pytest.mark.parametrize("name", ["channel_shuffle_twice", "experts_sorted", "dense_concat"])
def test_another_cut_than_the_plan_is_not_proved(name: str) -> None:
    model, args, kwargs = micro.build(name)
    graph = excise.trace(model, *args, **kwargs)
    plan = halved(graph, excise.scores.magnitude(model, graph))
    other = halved(graph, excise.scores.random(model, graph))
    small = excise.remove(model, plan)
    with torch.no_grad():
        next(small.parameters()).mul_(1.01)
    assert not excise.verify(model, small, plan, *args, **kwargs).passed
    if other.removed != plan.removed:
        assert not excise.verify(model, excise.remove(model, plan), other, *args, **kwargs).passed


def test_whole_experts_go_with_their_router_rows() -> None:
    for name in ("experts_chosen", "experts_masked", "experts_sorted", "experts_stacked"):
        model, args, kwargs = micro.build(name)
        graph = excise.trace(model, *args, **kwargs)
        group = next(g for g in graph.groups if ("body.gate.weight", 0) in g.slots)
        assert {("body.up", 0), ("body.down", 0)} <= set(group.slots)
        plan = excise.plan_units(graph, {group.name: [0, 3]})
        small = excise.remove(model, plan)
        assert small.get_parameter("body.up").shape[0] == 4
        verdict = excise.verify(model, small, plan, *args, **kwargs)
        verdict.check()
        assert any("topk" in place or "softmax" in place for place in verdict.mixing)


def test_experts_stay_where_their_numbers_are_told_or_taken_apart() -> None:
    for name, reason in (("experts_told", "a model output"), ("experts_in_a_list", "used by eq")):
        model, args, kwargs = micro.build(name)
        pins = excise.trace(model, *args, **kwargs).pins
        pin = next(p for p in pins if ("body.gate.weight", 0) in p.slots)
        assert reason in pin.reason


def test_fewer_experts_than_are_chosen_never_stay() -> None:
    model, args, kwargs = micro.build("experts_chosen")
    graph = excise.trace(model, *args, **kwargs)
    scores = excise.scores.magnitude(model, graph)
    plan = excise.plan(graph, scores, keep_params=0.05, min_keep=1)
    assert excise.remove(model, plan).get_parameter("body.up").shape[0] >= 2


def test_a_cached_function_remembers_no_origin() -> None:
    import functools  # noqa: PLC0415

    @functools.lru_cache
    def half(n: int) -> int:
        return n // 2

    globals()["half"] = half  # a module-level function, as libraries have them

    class Halves(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.head = torch.nn.Linear(6, 16), torch.nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.up(x)
            size = globals()["half"](y.shape[-1])
            a, b = y.split([size, size], -1)
            return self.head(torch.cat([a.relu(), b.tanh()], -1))  # type: ignore[no-any-return]

    model, x = Halves(), torch.randn(2, 6)
    model(x)  # the cache knows 16 as a plain int now
    graph = excise.trace(model, x)
    plan = excise.plan(graph, excise.scores.magnitude(model, graph), keep_macs=0.5)
    excise.verify(model, excise.remove(model, plan), plan, x).check()
    assert globals()["half"] is half
    assert half.cache_info().currsize <= 2  # plain 16, and plain 8 of the cut model's proof
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert type(half(16)) is int
