"""Law: equal numbers may be put in another order by a cut model, and nothing else may differ."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import excise
from excise.trace.choice import Choice, alike, followed

ROWS = 64


class Ranked(nn.Module):
    """Two scores of each row that are equal but for rounding; what stands beside them is ordered.

    One score is a matrix product, the other the sum of its terms.
    """

    def __init__(self, pick: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 32), nn.Linear(32, 1)
        self.pick = pick

    def forward(self, x: Tensor) -> Tensor:
        """Positions in the order of the scores, which tells which of two equals came first."""
        hidden = self.first(x).tanh()
        score = (hidden * self.last.weight).sum(1) + self.last.bias
        found = self.pick(torch.cat([score, self.last(hidden)[:, 0]]))
        return torch.arange(2 * ROWS)[found] * 1.0


def _cut(model: nn.Module, x: Tensor) -> tuple[nn.Module, excise.Plan]:
    graph = excise.trace(model, x)
    plan = excise.plan(graph, excise.scores.magnitude(model, graph), keep_macs=0.6)
    return excise.remove(model, plan), plan


PICKS: dict[str, Callable[[Tensor], Tensor]] = {
    "topk": lambda score: score.topk(ROWS).indices,
    "sort": lambda score: score.sort().indices,
    "comparison": lambda score: (score[:ROWS] > score[ROWS:]).long(),
    "extreme": lambda score: score.view(2, ROWS).argmax(0),
}


@pytest.mark.parametrize("name", PICKS)
def test_equal_numbers_are_put_in_one_order(name: str) -> None:
    torch.manual_seed(0)
    model, x = Ranked(PICKS[name]).eval(), torch.randn(ROWS, 8)
    small, plan = _cut(model, x)
    verdict = excise.verify(model, small, plan, x)
    assert verdict.passed, verdict
    assert verdict.ties
    assert "equal numbers put in one order" in str(verdict)


@pytest.mark.parametrize("name", PICKS)
def test_other_numbers_are_not(name: str) -> None:
    """Meta-test: where the cut model computes other scores, it is not followed."""
    torch.manual_seed(0)
    model, x = Ranked(PICKS[name]).eval(), torch.randn(ROWS, 8)
    small, plan = _cut(model, x)
    with torch.no_grad():
        small.get_parameter("first.weight").mul_(1.5)
    verdict = excise.verify(model, small, plan, x)
    assert not verdict.passed
    assert not verdict.ties


def test_alike_is_relative_to_the_largest() -> None:
    a = torch.tensor([1e6, 0.0, float("inf")], dtype=torch.float64)
    assert alike([a], [a + torch.tensor([0, 1e-4, 0])], 1e-9)
    assert not alike([a], [a + torch.tensor([0, 1e-2, 0])], 1e-9)
    assert not alike([a], [a[:2]], 1e-9)
    assert not alike([a], [a * float("nan")], 1e-9)
    assert not alike([torch.tensor([1])], [torch.tensor([2])], 1e-9)


def test_values_stay_and_choices_are_taken_over() -> None:
    values, places = torch.tensor([0.1, 0.2]), torch.tensor([0, 1])
    choice = Choice([], [values + 1e-12, places.flip(0)])
    out = followed("sort", [values, places], choice.made)
    assert out[0] is values
    assert out[1].tolist() == [1, 0]
    assert followed("floor", [values], [values + 1])[0].tolist() == (values + 1).tolist()
