"""The table of measured times."""

from __future__ import annotations

import itertools
import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import excise
from excise.measure.replay import watched
from excise.measure.table import Profile, Twin, coarse, ladder, table


def test_both_sides_of_every_block_are_looked_at() -> None:
    assert ladder(16) == list(range(2, 17))
    found = ladder(64)
    assert {8, 9, 16, 17, 32, 33, 56, 57, 64} <= set(found)
    for size in (1, 7, 64, 100, 384, 1000, 4096):
        rungs = ladder(size)
        assert rungs == sorted(set(rungs))
        assert rungs[-1] == size
        assert 1 <= rungs[0] <= max(1, size // 10 + 1)
        assert len(rungs) <= 30
        assert set(coarse(size)) <= set(range(1, size + 1))
        assert size in coarse(size)


def _line(size: int, least: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.linspace(least, 1.0, size + 1)


def test_a_profile_of_two_widths_goes_through_what_was_measured() -> None:
    marks = (np.eye(5)[:, [2, 4]], np.eye(9)[:, [4, 8]])
    grid = np.array([[1.5, 1.0], [1.0, 1.0]])
    profile = Profile((4, 8), 2.0, (2 * _line(4, 0.0), 2 * _line(8, 0.0)), marks, grid)
    one = profile([np.array([2.0]), np.array([4.0])])
    assert one == pytest.approx(2.0 * 0.5 * 0.5 * 1.5)
    assert profile([np.array([4.0]), np.array([8.0])]) == pytest.approx(2.0)
    many = profile([np.array([2.0, 4.0]), np.array([8.0])])
    assert many.tolist() == pytest.approx([1.0, 2.0])


def test_equal_widths_that_a_kernel_wants_equal() -> None:
    edges = (np.full(5, 3.0), np.full(5, 3.0))
    profile = Profile((4, 4), 1.0, edges, twin=Twin(0, 1, _line(4, 0.0)))
    both = profile([np.array([2.0, 2.0]), np.array([2.0, 3.0])])
    assert both.tolist() == pytest.approx([0.5, 3.0])


def test_a_concatenation_adds_up() -> None:
    edges = (_line(4, 0.5), _line(4, 0.5))
    profile = Profile((4, 4), 1.0, edges, added=True)
    assert profile([np.array([0.0]), np.array([0.0])]) == pytest.approx(0.0)
    assert profile([np.array([2.0]), np.array([4.0])]) == pytest.approx(0.75)


@pytest.fixture(scope="module")
def graph() -> excise.AxisGraph:
    torch.manual_seed(0)
    layers = [nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 8)]
    return excise.trace(nn.Sequential(*layers).eval(), torch.randn(256, 64))


def test_a_narrow_layer_takes_less_and_is_looked_up_the_second_time(
    graph: excise.AxisGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that takes a nanosecond for each product of widths, and is asked only once."""
    asked: list[int] = []

    def timed(points: Any, deadline: float) -> list[float]:
        del deadline
        asked.append(len(points))
        return [1e-3 + 1e-6 * math.prod(lengths) for _, lengths in points]

    module = sys.modules["excise.measure.table"]
    monkeypatch.setattr(module, "_timed", timed)
    monkeypatch.setattr(module, "_known", {})
    places = watched(graph)
    rows = table(places)
    middle = next(r for r in rows if r.place.replay.widths == (512, 512))
    profile = middle.profile
    dense = float(profile([np.array([512.0]), np.array([512.0])])[0])
    narrow = float(profile([np.array([128.0]), np.array([128.0])])[0])
    assert dense == pytest.approx(1e-3 + 1e-6 * 512 * 512, rel=1e-6)
    assert 0 < narrow < 0.2 * dense
    wide = [float(profile([np.array([n]), np.array([512.0])])[0]) for n in (64.0, 256.0, 512.0)]
    assert all(a < b for a, b in itertools.pairwise(wide)), wide
    measured = sum(asked)
    again = table(places)
    assert sum(asked) == measured > 0
    assert all(a.profile is b.profile for a, b in zip(rows, again, strict=True))


def test_without_time_everything_is_proportional() -> None:
    layers = [nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 8)]
    graph = excise.trace(nn.Sequential(*layers).eval(), torch.randn(64, 64))
    rows = table(watched(graph), seconds=1e-9)
    first = next(r for r in rows if r.place.replay.widths)
    half = first.profile([np.array([48.0])])
    assert half == pytest.approx(0.5 * first.profile.dense)
