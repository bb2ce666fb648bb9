"""A machine of known pace: what depends on a clock is tested without the weather of a real one."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

_CALL_S = 2e-6  # of any call
_FLOP_S = 1e-9
_TICK_S = 1e-7  # looking at the clock: who waits for it to go on does not wait for ever


class Hands:
    """Clocks that go on when they are told, and hardly when they are looked at."""

    def __init__(self) -> None:
        self.now = self.worked = 0.0

    def perf_counter(self) -> float:
        """Seconds by the clock on the wall."""
        self.now += _TICK_S
        return self.now

    def process_time(self) -> float:
        """Seconds of the processor."""
        self.worked += _TICK_S
        return self.worked

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def work(self, seconds: float) -> None:
        """Keep the processor busy."""
        self.now += seconds
        self.worked += seconds


def seconds(call: Callable[[], Any]) -> float:
    """What a call takes on this machine: so much for each multiplication and addition."""
    with FlopCounterMode(display=False) as counter:
        call()
    return float(_CALL_S + _FLOP_S * counter.get_total_flops())


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    """The clocks that excise looks at, stopped."""
    made = Hands()
    for name in ("latency", "speedup", "table"):
        module = sys.modules[f"excise.measure.{name}"]
        assert module.__dict__["time"] is time
        monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def paced(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hands]:
    """Passes and single operations take what `seconds` says, on these clocks."""
    table: Any = sys.modules["excise.measure.table"]

    def one(call: Callable[[], Any], device: torch.device, repeats: int) -> float:
        del device, repeats
        spent = seconds(call)
        hands.work(spent)
        return spent

    def timed(model: nn.Module, device: torch.device, inputs: Any, kwargs: Any) -> float:
        return 1e3 * one(lambda: model(*inputs, **kwargs), device, 1)

    monkeypatch.setattr(table, "_one", one)
    monkeypatch.setattr(table, "_known", {})
    for name in ("latency", "speedup"):
        monkeypatch.setattr(sys.modules[f"excise.measure.{name}"], "timed", timed)
    table.call_ms.cache_clear()
    yield hands
    table.call_ms.cache_clear()
