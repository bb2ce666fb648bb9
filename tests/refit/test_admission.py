"""Admission: batches join a refit as memory allows, and none is lost where it suffices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import excise
from excise.calibration import Share, batches, consumers
from excise.refit import refit
from excise.refit.admission import bytes_at, joins, needed

STOPS = range(3)


class Funnel(nn.Module):
    """Wide maps first, narrow ones behind, as in every classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.three, self.head = nn.Conv2d(8, 16, 1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - the class says it
        x = nn.functional.max_pool2d(self.two(self.one(x).relu()).relu(), 4)
        out: Tensor = self.head(self.three(x).relu().mean((2, 3)))
        return out


def share(count: int, samples: int = 2) -> Share:
    return Share(tuple(range(count)), (samples,) * count)


def there(found: list[int]) -> list[int]:
    """How many batches have joined at each stop."""
    return [sum(join <= stop for join in found) for stop in STOPS]


def test_all_start_together_where_there_is_room() -> None:
    assert joins(np.array([8.0, 4.0, 1.0]), [2, 2, 2], share(10), 160) == [0] * 10


def test_no_more_join_than_what_lies_ahead_can_hold() -> None:
    assert there(joins(np.array([8.0, 4.0, 1.0]), [2, 2, 2], share(10), 80)) == [5, 10, 10]
    assert there(joins(np.array([1.0, 8.0, 1.0]), [2, 2, 2], share(10), 80)) == [5, 5, 10]


def test_rows_come_before_memory() -> None:
    found = joins(np.array([8.0, 8.0, 8.0]), [2, 4, 2], share(10), 1)
    assert there(found) == [2, 4, 4]
    assert max(found) == 3  # the others never join


def test_a_batch_that_judges_is_there_from_the_start() -> None:
    for count in (2, 3, 7, 12):
        found = joins(np.array([8.0, 4.0, 1.0]), [2, 2, 2], share(count), 1)
        first = {i for i, join in enumerate(found) if join == 0}
        assert first & share(count).judges
        assert first - share(count).judges


def test_what_an_example_holds_and_needs() -> None:
    model, x = Funnel().eval(), torch.randn(2, 3, 8, 8)
    graph = excise.trace(model, x)
    readers = consumers(graph)
    stops = [reader.op for reader in readers]
    first, second, third, head = bytes_at(graph, stops).tolist()
    assert first == 4 * 2 * 8 * 64  # what it makes; the input is not counted
    assert second == 2 * first  # what it reads and what it makes
    assert third < second
    assert head < third
    assert needed(graph, readers[1], 4096) == -(-16 * 72 // 128)
    assert needed(graph, readers[1], 64) == 16 * 72 // 64
    assert needed(graph, readers[0], 10**6) == 16 * 27 // 128 + 1


@pytest.mark.parametrize("held_bytes", [1, 400_000, 10**9])
def test_a_refit_in_little_memory_is_a_refit(held_bytes: int) -> None:
    torch.manual_seed(0)
    model, x = Funnel().eval(), torch.randn(320, 3, 8, 8)
    graph = excise.trace(model, x[:2])
    plan = excise.plan_units(graph, {"two": range(3)})
    small = excise.remove(model, plan)
    fresh = torch.randn(64, 3, 8, 8)
    with torch.no_grad():
        before = float((model(fresh) - small(fresh)).norm())
        found = refit(model, small, plan, batches(x.split(8), (x[:2],), {}), held_bytes=held_bytes)
        after = float((model(fresh) - small(fresh)).norm())
    assert after < 0.8 * before
    counts = [repair.batches for repair in found.repairs]
    assert counts == sorted(counts)
    assert (counts[0] < 40) == (held_bytes < 10**9)
    assert (counts[-1] == 40) == (held_bytes > 1)
