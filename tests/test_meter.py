"""Meters count what the cut model itself shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import excise
from excise.budget.bundle import bundles
from excise.budget.cost import meter_of
from tests.test_budget import Mixed

INPUT = torch.randn(1, 3, 8, 8)


class Half(Mixed):
    """Parameters of two dtypes, a buffer with an axis, a tie."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(16)
        self.down = self.down.to(torch.float64)
        self.again = self.one

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to 5 numbers."""
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.two(torch.relu(self.again(x)))
        y = torch.mean(x, dim=(2, 3))
        out: torch.Tensor = self.down((self.up(y) * torch.sigmoid(self.gate(y))).double())
        return out


def _state_bytes(model: nn.Module) -> int:
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Half().eval()


@pytest.mark.parametrize("target", [0.35, 0.6, 0.9])
def test_bytes_are_those_of_parameters_and_buffers_at_their_dtypes(
    model: nn.Module, target: float
) -> None:
    graph = excise.trace(model, INPUT)
    plan = excise.plan(graph, excise.scores.magnitude(model, graph), keep_bytes=target)
    small = excise.remove(model, plan)
    share = _state_bytes(small) / _state_bytes(model)
    assert 0.97 * target <= share <= target
    assert _state_bytes(small) == excise.measure.memory_bytes(small)
    kept = {graph.axes[n]: graph.axes[n].size - len(u) for n, u in plan.removed.items()}
    assert meter_of(graph, "keep_bytes").total(kept) == _state_bytes(small)


@pytest.mark.parametrize("name", ["keep_macs", "keep_params", "keep_bytes", "keep_units"])
def test_along_is_what_total_says(model: nn.Module, name: str) -> None:
    """All widths of one bundle at once, or each on its own: the same up to a constant."""
    graph = excise.trace(model, INPUT)
    ready = bundles(graph, excise.scores.magnitude(model, graph), 1, set())
    meter = meter_of(graph, name)
    kept: dict[Any, int] = ready[0].kept(3)
    for bundle in ready[1:]:
        steps = [0, 2, 5, len(bundle.costs)]
        fast = meter.along(kept, bundle, steps)
        slow = np.array([meter.total(kept | bundle.kept(n)) for n in steps])
        assert np.allclose(fast - fast[0], slow - slow[0])
        assert slow[0] > slow[-1]


def test_prune_takes_bytes(model: nn.Module) -> None:
    found = excise.prune(model, INPUT, keep_bytes=0.5, latency=False)
    assert 0.485 <= found.report.kept()["in memory"] <= 0.5
