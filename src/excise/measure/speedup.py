"""How much faster one model is than another: both timed in turns."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from excise import units
from excise.errors import MeasureError
from excise.measure.latency import Latency, device_of, hardware, quiet, timed
from excise.measure.view import check

_TURN_S = 0.05  # one model's turn: long enough for the clock, short enough for the same weather
_FEWEST, _MOST = 9, 400
_LEAST = 3  # rounds of which quartiles say something
_SURE = 0.004  # standard error of the median at which more rounds tell nothing new, as a share
_QUIET = 0.01  # standard error of the median ratio, as a share
_ERROR = 1.2533 / 1.349  # of a median, in interquartile ranges over the root of the count


@dataclass(frozen=True)
class Speedup:
    """Two models timed in turns: how many times faster the second one is.

    Attributes:
        ratio: median over the rounds of the first model's time by the second's, by the clock on the
            wall.
        low: lower quartile of the rounds.
        high: upper quartile of the rounds.
        rounds: how many; in each, both models ran side by side for equally long.
        before: the first model's times.
        after: the second's.
        computed: the same ratio of processor time, which leaves out what other programs took of
            the processor; the ratio itself on an accelerator.
        share: of the wall clock's time that the processor worked on the models, in processors.
    """

    ratio: float
    low: float
    high: float
    rounds: int
    before: Latency
    after: Latency
    computed: float
    share: float

    @property
    def steady(self) -> tuple[float, float]:
        """Ratio and milliseconds of the second model, as sure as this machine lets them be.

        By the wall clock; if that leaves them unsure by more than 1 %, by processor time.
        """
        if self.error <= _QUIET:
            return self.ratio, self.after.median_ms
        return self.computed, self.before.median_ms / self.computed

    @property
    def error(self) -> float:
        """Standard error of the median ratio, as a share of it."""
        return float(_ERROR * (self.high - self.low) / self.rounds**0.5 / self.ratio)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.ratio:.2f} times as fast (quartiles {self.low:.2f} to {self.high:.2f} of "
            f"{self.rounds} rounds in turns; {self.computed:.2f} by processor time): "
            f"{units.milliseconds(self.before.median_ms)} to "
            f"{units.milliseconds(self.after.median_ms)}"
        )


class _Turn(NamedTuple):
    """One model's passes, one after the other: seconds each, and of the processor in all."""

    passes: list[float]
    processor: float


def speedup(
    before: nn.Module,
    after: nn.Module,
    *inputs: Any,
    seconds: float = 2.0,
    **kwargs: Any,
) -> Speedup:
    """Time two models in turns, so that whatever slows the machine down slows both.

    Eval mode, no gradients; both models' modes and torch's random state are restored.

    Args:
        before: one model.
        after: another that takes the same inputs.
        inputs: an example input, on the models' device.
        seconds: stop after so long, or once the ratio's standard error is below 0.4 %; at least
            3 rounds, and 9 where these fit into ten times as long.
        kwargs: keyword inputs.

    Raises:
        MeasureError: a model does not run on these inputs, or `seconds` is no duration.
    """
    if not 0 < seconds < float("inf"):
        raise MeasureError("speedup", f"seconds={seconds!r} is no duration")
    check(after, "speedup")
    device = device_of(before, inputs, kwargs)
    pair = (before, after)
    turns: tuple[list[_Turn], list[_Turn]] = ([], [])
    with quiet(before, device), quiet(after, device):
        try:
            repeats = [_repeats(model, device, inputs, kwargs) for model in pair]
            start = time.perf_counter()
            while not _enough(_ratios(turns), time.perf_counter() - start, seconds):
                for i in (0, 1) if len(turns[0]) % 2 else (1, 0):  # neither always goes first
                    worked = time.process_time()
                    found = [timed(pair[i], device, inputs, kwargs) for _ in range(repeats[i])]
                    turns[i].append(_Turn(found, 1e3 * (time.process_time() - worked)))
        except Exception as error:
            first = (str(error).splitlines() or [""])[0]
            raise MeasureError("speedup", f"{type(error).__name__}: {first}") from error
    ratios = _ratios(turns)
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    worked_each = [[turn.processor / len(turn.passes) for turn in side] for side in turns]
    computed = statistics.median(a / b for a, b in zip(*worked_each, strict=True))
    every = [turn for side in turns for turn in side]
    share = sum(turn.processor for turn in every) / sum(sum(turn.passes) for turn in every)
    return Speedup(
        median, low, high, len(ratios), _latency(turns[0], device), _latency(turns[1], device),
        computed if device.type == "cpu" else median, share,
    )  # fmt: skip


def _ratios(turns: tuple[list[_Turn], list[_Turn]]) -> list[float]:
    """Of each round. Means, not medians: a short pass is more often undisturbed than a long one."""
    means = ([statistics.fmean(turn.passes) for turn in side] for side in turns)
    return [first / second for first, second in zip(*means, strict=True)]


def _repeats(model: nn.Module, device: torch.device, inputs: Any, kwargs: Any) -> int:
    """How many passes make a turn; the first passes warm up."""
    timed(model, device, inputs, kwargs)
    one = min(timed(model, device, inputs, kwargs) for _ in range(2)) / 1e3
    return max(1, min(_MOST, round(_TURN_S / max(one, 1e-6))))


def _enough(ratios: list[float], spent: float, seconds: float) -> bool:
    if len(ratios) < _LEAST or (len(ratios) < _FEWEST and spent < 10 * seconds):
        return False
    if spent >= seconds or len(ratios) >= _MOST:
        return True
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return float(_ERROR * (high - low) / len(ratios) ** 0.5) < _SURE * median


def _latency(turns: list[_Turn], device: torch.device) -> Latency:
    times = [one for turn in turns for one in turn.passes]
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return Latency(median, low, high, len(times), torch.get_num_threads(), hardware(device))
