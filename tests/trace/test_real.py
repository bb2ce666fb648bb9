"""Traces on real tensors: as on fake ones, without keeping what the model lets go."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

from excise.trace import record
from excise.trace.record import trace_on
from excise.trace.recorder import Recorder
from excise.trace.skeleton import copied

MODULE = sys.modules["excise.trace.recorder"]


class Deep(nn.Module):
    """Thirty steps; each lets go of the one before, and the first is needed again at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(30))

    def forward(self, x: Tensor) -> Tensor:
        """With views, steps in place and a sum over a list."""
        first = self.layers[0](x).relu()
        parts = []
        x = first
        for layer in self.layers:
            x = layer(x)
            x += 1
            parts.append(x.view(2, 4, -1)[:, :2].detach())
        out: Tensor = torch.cat(parts).sum() + first.mean()
        return out


def test_what_is_let_go_changes_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Deep(), torch.randn(4, 2, 8)
    wanted, _ = record(model, (x,), {}, real=True)
    monkeypatch.setattr(MODULE, "_MOST", 0)
    found, _ = record(model, (x,), {}, real=True)
    assert found.ops == wanted.ops
    assert found.tensors == wanted.tensors


@pytest.mark.parametrize(("most", "few"), [(0, True), (1 << 40, False)])
def test_tensors_are_let_go(monkeypatch: pytest.MonkeyPatch, most: int, few: bool) -> None:  # noqa: FBT001
    monkeypatch.setattr(MODULE, "_MOST", most)
    model, recorder = copied(Deep(), {}), Recorder(None)
    trace_on(model, recorder, (torch.randn(4, 2, 8),), {})
    kept = len(recorder.alive) - len(list(model.parameters()))
    assert (kept < 45) is few  # thirty views in a list, and what a step needs
    assert len(recorder.ops) > 120


@torch.compile(backend="eager")
def _compiled(x: Tensor) -> Tensor:
    return x.relu() * 2


class Compiled(nn.Module):
    """A function that is compiled, behind one that depends on data."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        """As detectors do."""
        x = x[x.sum(1) > -100]
        out: Tensor = self.last(_compiled(self.first(x)))
        return out


def test_what_a_model_compiles_runs_as_written() -> None:
    found, _ = record(Compiled(), (torch.randn(3, 4),), {})
    names = [op.name for op in found.ops]
    assert names[-3:] == ["relu", "mul", "linear"]
