"""Two models in turns, and prune asked for a speed."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import excise
from excise.errors import ExampleError, InvalidTargetError, MeasureError, UnreachableTargetError
from tests.pace import Hands


class Slow(nn.Module):
    """Takes as long as it is told, by a clock of its own."""

    def __init__(self, milliseconds: float, hands: Hands) -> None:
        super().__init__()
        self.milliseconds = milliseconds
        self.hands = hands
        self.passes: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        """Let time pass."""
        self.passes.append(self.hands.now)
        self.hands.sleep(self.milliseconds / 1000)
        return x


def test_in_turns(hands: Hands) -> None:
    a, b = Slow(6, hands), Slow(2, hands)
    a.train()
    found = excise.measure.speedup(a, b, torch.zeros(1), seconds=1.0)
    assert found.ratio == pytest.approx(3.0, rel=1e-3)
    assert found.low <= found.ratio <= found.high
    assert found.rounds >= 9
    assert a.training
    assert found.before.median_ms == pytest.approx(6, rel=1e-3)
    assert found.after.median_ms == pytest.approx(2, rel=1e-3)
    first, last = a.passes[-1], b.passes[-1]  # neither ran to its end before the other began
    assert a.passes[3] < last
    assert b.passes[3] < first
    assert found.share < 0.01  # who sleeps does not work
    json.dumps(found.to_dict())
    assert "times as fast" in str(found)


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_no_duration(seconds: float) -> None:
    model = nn.Identity()
    with pytest.raises(MeasureError):
        excise.measure.speedup(model, model, torch.zeros(1), seconds=seconds)


def test_on_a_real_clock() -> None:
    """Where nothing can be foretold but what is always so."""
    model = nn.Linear(8, 8)
    found = excise.measure.speedup(model, model, torch.zeros(1, 8), seconds=0.2)
    assert 0 < found.low <= found.ratio <= found.high
    assert found.before.median_ms > 0
    assert found.computed > 0
    assert found.share > 0


def test_a_model_that_does_not_run() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(MeasureError):
        excise.measure.speedup(model, model, torch.zeros(1, 4))


def _network() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


INPUT = torch.randn(2, 3, 32, 32)


@pytest.mark.usefixtures("paced")
def test_prune_to_a_speed_measured_anew() -> None:
    model = _network().train()
    found = excise.prune(model, INPUT, speedup=2.0)
    assert found.verdict is not None
    assert found.verdict.passed
    assert all(module.training for module in model.modules())
    speed = found.attempts[-1].found
    assert abs(speed.steady[0] / 2.0 - 1) <= 0.03
    assert found.report.speedup is not None
    assert found.report.speedup is not speed  # the last word is a measurement of its own
    assert found.report.before.latency == found.report.speedup.before
    assert found.report.to_dict()["speedup"]["rounds"] == found.report.speedup.rounds
    assert str(found.report.speedup) in str(found.report)
    again = excise.measure.speedup(model, found.model, INPUT, seconds=3.0)
    assert again.steady[0] == pytest.approx(2.0, rel=0.03)


@pytest.mark.usefixtures("paced")
def test_without_a_last_measurement_that_of_the_search_is_told() -> None:
    found = excise.prune(_network(), INPUT, speedup=1.3, latency=False, verify=False)
    assert found.report.speedup is found.attempts[-1].found


@pytest.mark.parametrize(
    "wanted",
    [
        {"speedup": 0.9}, {"speedup": float("nan")}, {"speedup": float("inf")}, {"speedup": True},
        {"speedup": "2"}, {"latency_ms": 0}, {"latency_ms": -3.0}, {"latency_ms": float("inf")},
        {"speedup": 2.0, "latency_ms": 3.0}, {"speedup": 2.0, "keep_macs": 0.5},
    ],
)  # fmt: skip
def test_refused_before_anything_runs(wanted: dict[str, Any]) -> None:
    class Never(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError(x)

    with pytest.raises(InvalidTargetError) as caught:
        excise.prune(Never(), INPUT, **wanted)
    assert caught.value.option in {"budget", *wanted}


def test_nothing_takes_time_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = _network()
    with pytest.raises(InvalidTargetError, match="meta"):
        excise.prune(model, INPUT.to("meta"), speedup=2.0)
    with pytest.raises(InvalidTargetError, match="meta"):
        excise.prune(_network(), INPUT.to("meta"), latency_ms=2.0)


def test_without_an_input_that_runs() -> None:
    with pytest.raises(ExampleError):
        excise.prune(_network(), speedup=2.0)
    with pytest.raises(ExampleError):
        excise.prune(_network(), torch.randn(1, 4, 8, 8), speedup=2.0)


@pytest.mark.usefixtures("paced")
def test_out_of_reach_leaves_the_model_alone() -> None:
    model = _network().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(UnreachableTargetError):
        excise.prune(model, INPUT, speedup=1e6)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(module.training for module in model.modules())
