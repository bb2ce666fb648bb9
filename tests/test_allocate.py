"""Allocation: near the best of all ways to meet a budget, found by trying them all."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

import excise
from excise.axes import Axis, Why
from excise.budget.allocate import State, allocate, knapsack
from excise.budget.bundle import Bundle
from excise.budget.meter import Part, Sum, volume
from excise.calibration import Batch
from excise.errors import UnreachableTargetError
from excise.scores.curve import Curve, Curves
from excise.scores.obs import obs
from tests.calibration.network import doubled


def bundle(costs: list[float]) -> Bundle:
    size = len(costs) + 1
    return Bundle(((Axis(size), 1),), (tuple(range(size)),), tuple(costs), (1,))


def chain(ready: list[Bundle], ends: tuple[int, int] = (3, 4)) -> Sum:
    """Multiply-adds of a chain of layers, each between two of the widths."""
    inner = [b.members[0][0] for b in ready]
    axes = [Axis(ends[0], Why("", "")), *inner, Axis(ends[1], Why("", ""))]
    return Sum(Part(([a], [b]), volume()) for a, b in itertools.pairwise(axes))


@pytest.mark.parametrize("seed", range(24))
def test_near_the_best_of_all(seed: int) -> None:
    source = random.Random(seed)  # noqa: S311 - no secret
    ready = [bundle(sorted(source.random() ** 3 for _ in range(6))) for _ in range(3)]
    meter = chain(ready)
    allowed, limit = [b.allowed(1) for b in ready], 0.55 * meter.total({})
    state = State(ready, allowed, meter)

    def cost(steps: tuple[int, ...] | list[int]) -> float:
        return sum(sum(b.costs[:n]) for b, n in zip(ready, steps, strict=True))

    fitting = [s for s in itertools.product(*allowed) if meter.total(state.kept(s)) <= limit]
    best = min(fitting, key=cost)
    found = allocate(state, limit)
    assert meter.total(state.kept(found)) <= limit
    assert cost(found) <= 1.06 * cost(best) + 1e-9  # on average 1.001


@pytest.mark.parametrize("seed", range(12))
def test_the_knapsack_is_solved(seed: int) -> None:
    """Against every combination: moves and costs of either sign, in no order."""
    source = np.random.default_rng(seed)
    sizes = source.integers(1, 6, 5)
    moves = [np.round(source.normal(size=n), 2) for n in sizes]
    costs = [source.random(n) for n in sizes]
    every = list(itertools.product(*(range(n) for n in sizes)))

    def total(values: list[np.ndarray[Any, Any]], places: Sequence[int]) -> float:
        return sum(float(v[at]) for v, at in zip(values, places, strict=True))

    for spare in (-1.5, 0.0, 0.7):
        fitting = [p for p in every if total(moves, p) <= spare + 1e-9]
        found = knapsack(moves, costs, spare)
        if not fitting:
            assert found is None
            continue
        assert found is not None
        assert total(moves, found) <= spare + 5e-3  # to one of 4000 buckets
        assert total(costs, found) <= min(total(costs, p) for p in fitting) + 1e-12


def test_only_allowed_steps_are_taken_and_the_budget_is_filled() -> None:
    ready = [bundle([0.1 * (i + 1) for i in range(15)]), bundle([0.2 * (i + 1) for i in range(15)])]
    allowed = [b.allowed(4) for b in ready]
    assert allowed[0] == [0, 4, 8, 12]
    axes = [b.members[0][0] for b in ready]
    meter = Sum([Part(([axes[0]], [axes[1]]), volume())])
    found = allocate(State(ready, allowed, meter), 130)
    assert all(n in may for n, may in zip(found, allowed, strict=True))
    assert found in ([8, 0], [4, 4])


def test_a_plan_by_curves_meets_the_budget_closely() -> None:
    model = doubled()
    x = torch.randn(32, 3, 8, 8, dtype=torch.float64)
    graph = excise.trace(model, x[:2])
    curves = obs(model, graph, [Batch((x,), {})])
    plan = excise.plan(graph, curves, keep_macs=0.6)
    kept = {graph.axes[n]: graph.axes[n].size - len(u) for n, u in plan.removed.items()}
    assert 0.5 < graph.macs(kept) / graph.macs() <= 0.6
    small = excise.remove(model, plan)
    assert excise.verify(model, small, plan, x[:2]).passed


def test_groups_without_a_curve_stay_and_may_put_the_target_out_of_reach() -> None:
    graph = excise.trace(doubled(), torch.randn(2, 3, 8, 8, dtype=torch.float64))
    curves = Curves({"hidden": Curve(tuple(range(7)), tuple(float(i) for i in range(1, 8)))})
    assert set(excise.plan(graph, curves, keep_units=20 / 22).removed) == {"hidden"}
    with pytest.raises(UnreachableTargetError):
        excise.plan(graph, curves, keep_macs=0.5)
