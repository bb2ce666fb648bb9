"""Budgets are met, options are respected, and what is said to be reachable is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import excise
from excise.errors import UnreachableTargetError

BUDGETS = ["keep_macs", "keep_params", "keep_units"]


class Mixed(nn.Module):
    """A stem, a residual block, a gated head: groups of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.one, self.two = nn.Conv2d(16, 24, 3, padding=1), nn.Conv2d(24, 16, 3, padding=1)
        self.up, self.gate = nn.Linear(16, 40), nn.Linear(16, 40)
        self.down = nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Images to 5 numbers."""
        x = torch.relu(self.stem(x))
        x = x + self.two(torch.relu(self.one(x)))
        y = torch.mean(x, dim=(2, 3))
        out: Tensor = self.down(self.up(y) * torch.sigmoid(self.gate(y)))
        return out


SIZES = {"stem": 16, "one": 24, "up": 40}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Mixed().eval()


@pytest.fixture
def graph(model: nn.Module) -> excise.AxisGraph:
    return excise.trace(model, torch.randn(1, 3, 8, 8))


@pytest.fixture
def scores(model: nn.Module, graph: excise.AxisGraph) -> excise.Scores:
    return excise.scores.magnitude(model, graph)


def _costs(model: nn.Module) -> dict[str, int]:
    """Counted on the model itself, not taken from the graph."""
    x = torch.randn(1, 3, 8, 8)
    return {
        "keep_macs": excise.measure.macs(model, x),
        "keep_params": sum(p.numel() for p in model.parameters()),
    }


def _state(model: nn.Module, budget: str) -> int:
    if budget == "keep_bytes":
        return excise.measure.memory_bytes(model)
    return _costs(model)[budget]


def _kept(plan: excise.Plan) -> dict[str, int]:
    return {name: size - len(plan.removed.get(name, ())) for name, size in SIZES.items()}


def test_the_groups_are_as_written(graph: excise.AxisGraph) -> None:
    assert {group.name: group.size for group in graph.groups} == SIZES


@pytest.mark.parametrize("target", [0.3, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("budget", ["keep_macs", "keep_params"])
def test_the_budget_is_met_and_nearly_used(
    model: nn.Module, graph: excise.AxisGraph, scores: excise.Scores, budget: str, target: float
) -> None:
    plan = excise.plan(graph, scores, **{budget: target})  # type: ignore[arg-type]
    before, after = _costs(model)[budget], _costs(excise.remove(model, plan))[budget]
    assert 0.97 * target * before <= after <= target * before


@pytest.mark.parametrize("target", [0.3, 0.5, 0.9])
def test_a_budget_of_units_is_met(
    graph: excise.AxisGraph, scores: excise.Scores, target: float
) -> None:
    plan = excise.plan(graph, scores, keep_units=target)
    assert target * 80 - 1 <= sum(_kept(plan).values()) <= target * 80


@pytest.mark.parametrize("budget", ["keep_macs", "keep_params", "keep_bytes"])
def test_steps_that_pass_over_the_budget_are_refused_with_what_lies_around_it(
    model: nn.Module, graph: excise.AxisGraph, scores: excise.Scores, budget: str
) -> None:
    """Multiples of 8 of so few units leave few sizes; the next above and below are named."""
    missed = 0
    for target in (0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8):
        options: dict[str, Any] = {"round_to": 8, budget: target}
        try:
            plan = excise.plan(graph, scores, **options)
        except UnreachableTargetError as error:
            below, above = error.nearest
            missed += 1
        else:
            small = excise.remove(model, plan)
            share = _state(small, budget) / _state(model, budget)
            assert 0.97 * target <= share <= 1.03 * target
            continue
        assert below < 0.97 * target < 1.03 * target < above
        for near in (below, above):
            excise.plan(graph, scores, **options | {budget: near})
    assert missed


@pytest.mark.parametrize("budget", BUDGETS)
def test_to_keep_all_is_to_remove_nothing(
    model: nn.Module, graph: excise.AxisGraph, scores: excise.Scores, budget: str
) -> None:
    plan = excise.plan(graph, scores, **{budget: 1.0})  # type: ignore[arg-type]
    assert plan.removed == {}
    assert str(excise.remove(model, plan)) == str(model)


@pytest.mark.parametrize(("multiple", "target"), [(2, 0.5), (4, 0.5), (8, 0.5)])
def test_round_to(
    graph: excise.AxisGraph, scores: excise.Scores, multiple: int, target: float
) -> None:
    plan = excise.plan(graph, scores, keep_macs=target, round_to=multiple)
    assert plan.removed
    assert all(_kept(plan)[name] % multiple == 0 for name in plan.removed)


@pytest.mark.parametrize(("least", "floor"), [(0.5, (8, 12, 20)), (7, (7, 7, 7)), (1, (1, 1, 1))])
def test_min_keep(
    graph: excise.AxisGraph, scores: excise.Scores, least: float, floor: tuple[int, ...]
) -> None:
    floors = dict(zip(SIZES, floor, strict=True))
    with pytest.raises(UnreachableTargetError) as caught:
        excise.plan(graph, scores, keep_macs=1e-9, min_keep=least)
    plan = excise.plan(graph, scores, keep_macs=caught.value.reachable, min_keep=least)
    assert _kept(plan) == floors


@pytest.mark.parametrize(
    ("protect", "whole"),
    [
        ("stem", {"stem"}),
        (["one", "up"], {"stem", "one", "up"}),
        ("one.weight", {"stem", "one"}),
        ("one.bias", {"one"}),
        ("[ou]*", {"stem", "one", "up"}),
        ("gate.bias", {"up"}),
    ],
)
def test_protect_keeps_every_axis_of_what_matches(
    graph: excise.AxisGraph, scores: excise.Scores, protect: Any, whole: set[str]
) -> None:
    """An axis that a protected tensor carries stays, wherever else it goes."""
    with pytest.raises(UnreachableTargetError) as caught:
        excise.plan(graph, scores, keep_units=1e-9, protect=protect)
    if caught.value.reachable == 1:
        assert whole == set(SIZES)
        return
    plan = excise.plan(graph, scores, keep_units=caught.value.reachable, protect=protect)
    assert set(SIZES) - set(plan.removed) == whole


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize(
    "options",
    [{}, {"protect": "stem"}, {"min_keep": 0.4}, {"round_to": 8}, {"min_keep": 3, "round_to": 4}],
)
def test_what_is_said_to_be_reachable_is_reached(
    graph: excise.AxisGraph, scores: excise.Scores, budget: str, options: dict[str, Any]
) -> None:
    with pytest.raises(UnreachableTargetError) as caught:
        excise.plan(graph, scores, **{budget: 1e-9}, **options)  # type: ignore[arg-type]
    error = caught.value
    assert (error.option, error.target) == (budget, 1e-9)
    assert 0 < error.reachable < 1
    said = float(str(error).partition(f"ask for {budget}>=")[2].partition(",")[0])
    for target in (error.reachable, said):  # and the number in the message, as it is printed
        wanted: dict[str, Any] = {budget: target, **options}
        excise.plan(graph, scores, **wanted)
    wanted = {budget: 0.98 * error.reachable, **options}
    with pytest.raises(UnreachableTargetError):
        excise.plan(graph, scores, **wanted)


def test_a_smaller_budget_removes_what_a_larger_one_does(
    graph: excise.AxisGraph, scores: excise.Scores
) -> None:
    """One ranking: until a step is passed over, plans are nested."""
    large = excise.plan(graph, scores, keep_units=0.9)
    small = excise.plan(graph, scores, keep_units=0.6)
    for name, units in large.removed.items():
        assert set(units) <= set(small.removed[name])


def test_the_same_input_gives_the_same_plan(graph: excise.AxisGraph, scores: excise.Scores) -> None:
    assert excise.plan(graph, scores, keep_macs=0.5) == excise.plan(graph, scores, keep_macs=0.5)


def test_units_by_hand(model: nn.Module, graph: excise.AxisGraph) -> None:
    plan = excise.plan_units(graph, {"one": [3, 1], "up": torch.tensor([0])})
    assert plan.removed == {"one": (1, 3), "up": (0,)}
    small: Any = excise.remove(model, plan)
    assert (small.one.out_channels, small.two.in_channels) == (22, 22)
    assert (small.up.out_features, small.gate.out_features, small.down.in_features) == (39, 39, 39)
    assert excise.plan_units(graph, {}).removed == {}
    assert excise.plan_units(graph, {"one": []}).removed == {}
