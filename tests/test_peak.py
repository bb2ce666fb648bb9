"""Peak activation memory: counted, measured, and seen by torch's own profiler."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import excise
from excise.budget.bundle import bundles
from excise.budget.peak import Peak
from excise.measure.peak import Life, lifetimes, peak

INPUT = torch.randn(2, 3, 16, 16)
FLOAT = 4


class Net(nn.Module):
    """A residual block whose skip is held while the wide middle is computed, and a view."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.wide, self.back = nn.Conv2d(16, 64, 1), nn.Conv2d(64, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Images to 5 numbers."""
        x = self.stem(x)
        x = x + self.back(torch.relu(self.wide(x)))
        x = x.flatten(2).mean(2)
        out: Tensor = self.head(x)
        return out


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def _seen_by_the_profiler(model: nn.Module, x: Tensor) -> int:
    """The most bytes that the allocator gave out at one time."""
    model(x)
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        model(x)
    kineto: Any = found.profiler
    events = [e for e in kineto.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda e: e.start_ns())
    return int(max(itertools.accumulate(e.nbytes() for e in events)))


def test_by_hand(model: nn.Module) -> None:
    """The skip, the wide map, and its ReLU."""
    pixels = 2 * 16 * 16
    graph = excise.trace(model, INPUT)
    wanted = FLOAT * pixels * (16 + 64 + 64)
    assert peak(lifetimes(graph)) == wanted
    assert excise.measure.peak_memory(model, INPUT) == wanted
    assert Peak(graph).total({}) == wanted


def test_the_profiler_agrees(model: nn.Module) -> None:
    counted = excise.measure.peak_memory(model, INPUT)
    assert _seen_by_the_profiler(model, INPUT) == pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize("target", [0.9, 0.6, 0.4])
def test_the_budget_is_met_when_the_cut_model_runs(model: nn.Module, target: float) -> None:
    graph = excise.trace(model, INPUT)
    plan = excise.plan(graph, excise.scores.magnitude(model, graph), keep_peak_memory=target)
    small = excise.remove(model, plan)
    measured = excise.measure.peak_memory(small, INPUT) / excise.measure.peak_memory(model, INPUT)
    assert 0.97 * target <= measured <= target
    share = _seen_by_the_profiler(small, INPUT) / _seen_by_the_profiler(model, INPUT)
    assert share == pytest.approx(measured, rel=0.03)


def test_two_equal_peaks_are_both_lowered() -> None:
    """Lowering either alone wins nothing."""
    torch.manual_seed(0)
    layers = [nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2), nn.Linear(2, 64), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(64, 4)).eval()
    x = torch.randn(8, 4)
    graph = excise.trace(model, x)
    plan = excise.plan(graph, excise.scores.magnitude(model, graph), keep_peak_memory=0.5)
    small: Any = excise.remove(model, plan)
    assert small[0].out_features <= 32
    assert small[3].out_features <= 32
    share = excise.measure.peak_memory(small, x) / excise.measure.peak_memory(model, x)
    assert 0.48 <= share <= 0.5


def test_all_widths_at_once_or_each_alone(model: nn.Module) -> None:
    graph = excise.trace(model, INPUT)
    meter = Peak(graph)
    for bundle in bundles(graph, excise.scores.magnitude(model, graph), 1, set()):
        steps = [0, 1, 5, len(bundle.costs)]
        alone = [meter.total(bundle.kept(n)) for n in steps]
        assert meter.along({}, bundle, steps).tolist() == pytest.approx(alone)
        pull = meter.pull({}, bundle, steps)
        assert all(a > b for a, b in itertools.pairwise(pull))


def test_lives_that_overlap() -> None:
    lives = [Life(None, 10, 0, 2), Life(None, 20, 2, 3), Life(None, 25, 3, 5)]
    assert peak(lives) == 45
    assert peak([]) == 0


class Held(nn.Module):
    """Keeps a name for what it no longer needs, or not."""

    def __init__(self, *, keep: bool) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 32), nn.Linear(32, 32)
        self.keep = keep

    def forward(self, x: Tensor) -> Tensor:
        """Twice through a layer."""
        a = self.one(x)
        b = self.two(a)
        if not self.keep:
            del a
        out: Tensor = self.two(b)
        return out


def test_what_python_holds_is_held() -> None:
    x = torch.randn(4, 8)
    found = [excise.measure.peak_memory(Held(keep=keep), x) for keep in (False, True)]
    assert found == [FLOAT * 4 * 64, FLOAT * 4 * 96]
    graph = excise.trace(Held(keep=True), x)
    assert peak(lifetimes(graph)) == found[1]


def test_prune_and_the_model_stays_as_it_was(model: nn.Module) -> None:
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = excise.prune(model, INPUT, keep_peak_memory=0.5, latency=False)
    assert found.verdict is not None
    assert found.verdict.passed
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(module.training for module in model.modules())
