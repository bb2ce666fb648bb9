"""A plan read back into a graph that names its axes otherwise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import excise
from excise.budget import read_plan
from excise.calibration import Batch
from excise.refit import refit


class Caching(nn.Module):
    """Keeps a bias that it has computed, and forgets it when its mode is set, as some networks do.

    With the cache filled, nothing reads the parameter: the axis that it named first has another
    name.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a_gain = nn.Parameter(torch.randn(2, 1) + 2)
        self.one, self.two = nn.Linear(3, 6), nn.Linear(6, 2)
        self.cache: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> Caching:  # noqa: D102, FBT001, FBT002 - as nn.Module's
        super().train(mode)
        self.cache = {}
        return self

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - the class says it
        gain: Tensor = self.a_gain
        if not self.training:
            if "gain" not in self.cache:
                self.cache["gain"] = self.a_gain.detach()
            gain = self.cache["gain"]
        heads = self.one(x).view(len(x), 2, -1) * gain
        out: Tensor = self.two(heads.relu().flatten(1))
        return out


def test_names_do_not_matter_but_places_do() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)), torch.randn(4, 3)
    graph = excise.trace(model, x)
    (group,) = graph.groups
    plan = excise.plan_units(graph, {group.name: [1, 4]})
    other = excise.trace(model, x)
    axis = other.axes[group.name]
    axis.name = "renamed"
    reading = read_plan(other, plan)
    assert not reading.problem
    assert [a.name for a in reading.kept] == ["renamed"]
    assert reading.kept[axis].tolist() == [True, False, True, True, False, True]


def test_axes_that_cannot_say_it_are_a_problem() -> None:
    """A graph that takes a product apart otherwise, as heads and their dimensions."""
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Linear(3, 6), nn.Unflatten(1, (2, 3)), nn.Linear(3, 2)),
        torch.randn(4, 3),
    )
    graph = excise.trace(model, x)
    flat = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 2))
    whole = excise.trace(flat, x)
    (group,) = whole.groups
    odd = excise.plan_units(whole, {group.name: [0, 5]})  # no rectangle of 2 x 3
    reading = read_plan(graph, odd)
    assert "0.weight" in reading.problem or "0.bias" in reading.problem
    even = read_plan(graph, excise.plan_units(whole, {group.name: [1, 4]}))
    assert not even.problem
    assert [alive.tolist() for alive in even.kept.values()] == [[True, False, True]]


@pytest.mark.parametrize("mode", [True, False])
def test_a_model_with_a_cache_is_cut_proved_and_refitted(mode: bool) -> None:  # noqa: FBT001
    model, x = Caching().train(mode), torch.randn(64, 3)
    model(x)
    graph = excise.trace(model, x)
    group = next(group for group in graph.groups if group.size == 3)
    fresh = excise.trace(Caching().eval(), x)
    assert mode or group.name not in fresh.axes or fresh.axes[group.name].size != 3
    plan = excise.plan_units(graph, {group.name: [1]})
    small = excise.remove(model, plan)
    assert excise.verify(model, small, plan, x).passed
    refit(model, small, plan, [Batch((x,), {})])
    assert np.isfinite(small(x).detach().numpy()).all()
