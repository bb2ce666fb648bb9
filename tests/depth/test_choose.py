"""Branches and widths in one knapsack."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import excise
from excise.branch import branches, shorter
from excise.budget.choose import Options, counted
from excise.budget.clock import clock_of, pace_of
from excise.budget.cost import meter_of
from excise.budget.depth import _Search
from excise.budget.presence import Presence
from excise.errors import InvalidTargetError, UnreachableTargetError
from excise.measure.replay import watched
from excise.measure.table import Profile, Row
from excise.scores.curve import Curve, Curves
from tests.branch.network import IMAGE, ROWS, Block, Residual, Transformer, seeded

COUNTED = ("keep_macs", "keep_params", "keep_bytes", "keep_units")


def curves(graph: excise.AxisGraph, branch: dict[str, float], seed: int = 0) -> Curves:
    """Costs that grow faster and faster, another scale for each group."""
    source = random.Random(seed)  # noqa: S311 - no secret
    found = {}
    for group in graph.groups:
        scale = source.random() + 0.1
        costs = [scale * (i / group.size) ** 2 for i in range(1, group.size)]
        found[group.name] = Curve(tuple(range(group.size - 1)), tuple(costs))
    return Curves(found, branch)


def all_at(graph: excise.AxisGraph, cost: float) -> dict[str, float]:
    return {branch.name: cost for branch in branches(graph).found}


@pytest.mark.parametrize(("build", "x"), [(Residual, IMAGE), (Transformer, ROWS)])
@pytest.mark.parametrize("name", COUNTED)
def test_what_is_counted_without_branches_is_what_the_shorter_model_has(
    build: Any, x: Tensor, name: str
) -> None:
    graph = excise.trace(seeded(build), x)
    found = branches(graph).found
    presence = Presence(graph, found)
    meter = meter_of(graph, name, presence)
    assert meter.total({}) == meter_of(graph, name).total({})
    for count in range(len(found) + 1):
        gone = dict.fromkeys(presence.axes[:count], 0)
        wanted = meter_of(shorter(graph, found[:count]).graph, name).total({})
        assert meter.total(gone) == pytest.approx(wanted, rel=1e-12)


def test_time_as_well() -> None:
    graph = excise.trace(seeded(Residual), IMAGE)
    found = branches(graph).found
    presence, pace = Presence(graph, found), pace_of(graph, _rows(graph), 50.0)
    clock = clock_of(graph, _rows(graph), 50.0, presence=presence)
    assert clock.total({}) == pytest.approx(50.0)
    less = shorter(graph, found[:2]).graph
    wanted = clock_of(less, _rows(less), 50.0, pace=pace).total({})
    gone = dict.fromkeys(presence.axes[:2], 0)
    assert clock.total(gone) == pytest.approx(wanted)
    assert wanted < 40


def _rows(graph: excise.AxisGraph) -> list[Row]:
    """Every operation takes as long as it has widths, and one millisecond."""
    found = []
    for place in watched(graph):
        widths = place.replay.widths
        edges = tuple(torch.linspace(0, 1 + len(widths), n + 1).double().numpy() for n in widths)
        found.append(Row(place, Profile(widths, 1.0 + len(widths), edges)))
    return found


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("keep", [0.3, 0.6])
def test_near_the_best_of_all_sets(seed: int, keep: float) -> None:
    graph = excise.trace(seeded(lambda: Residual(5)), IMAGE)
    source = random.Random(seed)  # noqa: S311 - no secret
    costs = {branch.name: 0.5 * source.random() ** 2 for branch in branches(graph).found}
    search = _Search(
        graph, curves(graph, costs, seed), counted("keep_macs", keep), Options(depth=True)
    )
    best = next(iter(search.best()))
    found = search.known[frozenset(i for i, b in enumerate(search.found) if b in best)]
    every = (frozenset(s) for n in range(6) for s in itertools.combinations(range(5), n))
    assert found <= 1.05 * min(map(search._cost, every))


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("keep", [0.35, 0.6])
def test_the_budget_is_met(name: str, keep: float) -> None:
    model = seeded(lambda: Residual(4, 12, 16))
    graph = excise.trace(model, IMAGE)
    known = curves(graph, all_at(graph, 0.02))
    options: dict[str, Any] = {name: keep}
    plan = excise.plan(graph, known, depth=True, **options)
    small = excise.remove(model, plan)
    full, left = (meter_of(excise.trace(m, IMAGE), name).total({}) for m in (model, small))
    assert plan.branches
    assert 0.97 * keep <= left / full <= 1.03 * keep
    assert excise.verify(model, small, plan, IMAGE).passed


def test_what_costs_nothing_goes_and_what_costs_much_stays() -> None:
    graph = excise.trace(seeded(Residual), IMAGE)
    costs = all_at(graph, 100.0) | {"blocks.2": 0.0}
    plan = excise.plan(graph, curves(graph, costs), keep_macs=0.7, depth=True)
    assert [b.name for b in plan.branches] == ["blocks.2"]
    assert not any(plan.gone(cut.name) for cut in plan.tensors)
    plan = excise.plan(graph, curves(graph, all_at(graph, 100.0)), keep_macs=0.7, depth=True)
    assert not plan.branches
    assert plan == excise.plan(graph, curves(graph, {}), keep_macs=0.7)


def test_widths_are_those_of_what_is_left() -> None:
    """The units that go are the first of their curves, whatever the axes are called now."""
    model = seeded(Turned)
    graph = excise.trace(model, IMAGE)
    stream = next(g.name for g in graph.groups if len(g.slots) > 6)
    known = curves(graph, all_at(graph, 100.0) | {"blocks.0": 0.0})
    order = (3, 5, 1, 0, 2, 4, 6)
    values = {**known.values, stream: Curve(order, tuple(1e-6 * i for i in range(1, 8)))}
    plan = excise.plan(graph, Curves(values, known.branches), keep_macs=0.4, depth=True)
    assert [b.name for b in plan.branches] == ["blocks.0"]
    (units,) = (u for name, u in plan.removed.items() if len(u) > 1 and plan.sizes[name] == 8)
    assert set(units) == set(order[: len(units)])
    assert stream not in plan.removed
    assert excise.verify(model, excise.remove(model, plan), plan, IMAGE).passed


class Turned(nn.Module):
    """Its first block is registered first, so that the stream has its name."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(8, 12), Block(8, 12))
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - the class says it
        out: Tensor = self.head(self.blocks(self.stem(x).relu()).mean((2, 3)))
        return out


def test_a_budget_that_widths_cannot_meet() -> None:
    graph = excise.trace(seeded(Residual), IMAGE)
    known = curves(graph, all_at(graph, 1.0))
    with pytest.raises(UnreachableTargetError):
        excise.plan(graph, known, keep_macs=0.3, min_keep=0.7)
    plan = excise.plan(graph, known, keep_macs=0.3, min_keep=0.7, depth=True)
    assert len(plan.branches) >= 2
    with pytest.raises(UnreachableTargetError) as error:
        excise.plan(graph, known, keep_macs=0.01, min_keep=0.7, depth=True)
    assert 0.01 < error.value.reachable < 0.3


def test_protected_branches_stay() -> None:
    graph = excise.trace(seeded(Residual), IMAGE)
    known = curves(graph, all_at(graph, 1e-6))
    for protect in ("blocks.1", "blocks.1.conv2", "blocks.1.bn*"):
        plan = excise.plan(graph, known, keep_macs=0.5, depth=True, protect=protect)
        assert "blocks.1" not in [b.name for b in plan.branches]
        assert plan.branches


def test_what_stands_against_it_is_refused() -> None:
    model = seeded(Residual)
    graph = excise.trace(model, IMAGE)
    known = curves(graph, all_at(graph, 1.0))
    scores = excise.scores.magnitude(model, graph)
    refused: list[tuple[Any, dict[str, Any], str]] = [
        (scores, {"keep_macs": 0.5}, "excise.depth.branched"),
        (Curves(known.values), {"keep_macs": 0.5}, "excise.depth.branched"),
        (known, {"keep_macs": 0.5, "uniform": True}, "uniform"),
        (known, {"keep_peak_memory": 0.5}, "another budget"),
    ]
    for given, options, word in refused:
        with pytest.raises(InvalidTargetError, match=word):
            excise.plan(graph, given, depth=True, **options)


def test_a_model_without_branches_is_cut_in_its_widths() -> None:
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    graph = excise.trace(model, torch.randn(3, 4))
    known = curves(graph, {})
    plan = excise.plan(graph, known, keep_macs=0.5, depth=True)
    assert plan == excise.plan(graph, known, keep_macs=0.5)
