"""A machine whose times are known: convolutions and linear layers in blocks of 8 channels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn

import excise
from excise.axes import Axis
from excise.budget.clock import clock_of
from excise.graph import AxisGraph
from excise.measure import Latency, Speedup
from excise.measure.replay import watched
from excise.measure.table import Profile, Row
from excise.plan import Plan

BLOCK = 8


class Tower(nn.Sequential):
    """Linear layers of widths between which there are many blocks."""

    def __init__(self) -> None:
        super().__init__()
        widths = (8, 96, 128, 200, 64, 8)
        for a, b in itertools.pairwise(widths):
            self.extend([nn.Linear(a, b), nn.ReLU()])


def stairs(size: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Time at each length, as a share: whole blocks count."""
    whole = math.ceil(size / BLOCK)
    return np.array([max(1, math.ceil(n / BLOCK)) / whole for n in range(size + 1)])


def traced() -> tuple[nn.Module, AxisGraph]:
    """A network and its graph."""
    torch.manual_seed(0)
    model = Tower().eval()
    return model, excise.trace(model, torch.randn(1, 8))


def rows(graph: AxisGraph) -> list[Row]:
    """The table of that machine."""
    found = []
    for place in watched(graph):
        name, widths = place.replay.name, place.replay.widths
        dense = 4.0 if name in {"convolution", "linear", "addmm"} else 0.01
        found.append(Row(place, Profile(widths, dense, tuple(dense * stairs(n) for n in widths))))
    return found


def timed_by(ratio: Callable[[float], float], dense: float = 100.0) -> Speedup:
    """A measurement without spread."""
    after = ratio(dense)
    first, second = (Latency(ms, ms, ms, 9, 1, "stairs") for ms in (dense, after))
    found = dense / after
    return Speedup(found, found, found, 9, first, second, found, 1.0)


def machine(
    graph: AxisGraph, overhead: float = 0.0, power: float = 1.0
) -> Callable[[Plan], Speedup]:
    """What a plan takes on it: the table's share, to a power, beside an overhead."""
    clock = clock_of(graph, rows(graph), 100.0)

    def measure(plan: Plan) -> Speedup:
        kept: Mapping[Axis, int] = {
            graph.axes[n]: graph.axes[n].size - len(u) for n, u in plan.removed.items()
        }
        share = clock.total(kept) / clock.total({})
        return timed_by(lambda dense: dense * (overhead + (1 - overhead) * share**power))

    return measure
