"""How long a forward pass takes, on this machine, now."""

from __future__ import annotations

import contextlib
import platform
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from excise.errors import MeasureError
from excise.measure.view import check
from excise.units import milliseconds

_ENOUGH_S = 1.0  # a median over a second evens out what other processes do
_FEWEST, _MOST = 5, 1000
_LONGEST_S = 20.0  # a slow model is not run _FEWEST times at any price
_LEAST = 2  # quartiles of one run do not exist


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass: the median and the quartiles of many.

    A number of one machine: compare only what was measured on the same hardware and threads.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    repeats: int
    threads: int
    hardware: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; the field names carry the unit."""
        return asdict(self)

    @property
    def spread(self) -> str:
        """The quartiles with their unit: `3.1 ms to 3.4 ms`."""
        return f"{milliseconds(self.low_ms)} to {milliseconds(self.high_ms)}"

    @property
    def conditions(self) -> str:
        """What the number depends on: repeats, threads, hardware."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.repeats} runs, {threads}, {self.hardware}"

    def __str__(self) -> str:
        return f"{milliseconds(self.median_ms)} (quartiles {self.spread}; {self.conditions})"


def latency(
    model: nn.Module, *inputs: Any, repeats: int | None = None, warmup: int = 3, **kwargs: Any
) -> Latency:
    """Time forward passes in eval mode, without gradients.

    Args:
        model: any module. Runs; its mode, and torch's random state, are restored afterwards.
        inputs: an example input, on the model's device.
        repeats: number of timed passes; by default as many as fit into a second, at least 5.
        warmup: passes that are run first and not timed.
        kwargs: keyword inputs.

    Returns:
        Median and quartiles in milliseconds, with repeats, CPU threads and the hardware's name.

    Raises:
        MeasureError: the model does not run on these inputs, or fewer than 2 repeats are asked for.
    """
    if repeats is not None and repeats < _LEAST:
        raise MeasureError("latency", f"repeats={repeats} has no quartiles, 2 or more have")
    device = device_of(model, inputs, kwargs)
    with quiet(model, device):
        try:
            for _ in range(max(warmup, 0)):
                timed(model, device, inputs, kwargs)
            times = list(_times(model, device, repeats, inputs, kwargs))
        except Exception as error:
            first = (str(error).splitlines() or [""])[0]
            raise MeasureError("latency", f"{type(error).__name__}: {first}") from error
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    return Latency(median, low, high, len(times), torch.get_num_threads(), hardware(device))


def hardware(device: torch.device) -> str:
    """The name of a device as its maker writes it, as far as the system tells."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine() or "an unnamed CPU"


def device_of(model: nn.Module, inputs: Any, kwargs: Any) -> torch.device:
    """Where the pass runs: an accelerator if any input or parameter is on one."""
    check(model, "latency")
    tensors = [leaf for leaf in tree_leaves((inputs, kwargs)) if isinstance(leaf, Tensor)]
    devices = [tensor.device for tensor in (*tensors, *model.parameters())]
    return next((d for d in devices if d.type != "cpu"), torch.device("cpu"))


@contextlib.contextmanager
def quiet(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Eval mode and no gradients; every module's mode and the random state come back."""
    seeds = [device] if device.type == "cuda" else []
    with evaluated(model), torch.random.fork_rng(devices=seeds), torch.no_grad():
        yield


@contextlib.contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Eval mode; every module's mode comes back."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def _times(
    model: nn.Module, device: torch.device, repeats: int | None, inputs: Any, kwargs: Any
) -> Iterator[float]:
    """Milliseconds of pass after pass, until there are enough."""
    start = time.perf_counter()
    done = 0
    while done < (repeats or _MOST):
        yield timed(model, device, inputs, kwargs)
        done += 1
        spent = time.perf_counter() - start
        fewest = _FEWEST if spent < _LONGEST_S else _LEAST
        if repeats is None and done >= fewest and spent >= _ENOUGH_S:
            return


def timed(model: nn.Module, device: torch.device, inputs: Any, kwargs: Any) -> float:
    """One pass, in milliseconds, with the accelerator's queue empty before and after."""
    wait(device)
    start = time.perf_counter()
    model(*inputs, **kwargs)
    wait(device)
    return (time.perf_counter() - start) * 1e3


def wait(device: torch.device) -> None:
    """Let an accelerator finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
