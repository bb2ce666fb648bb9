"""Positions and groups that no shape shows are compared in the rehearsal."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

import excise
from excise.budget import rehearsal

# ruff: noqa: D102 - each model's class says what it does


class Slice(nn.Module):
    """Writes down its positions where no Python call shows them."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.last = nn.Linear(4, 13), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(torch.ops.aten.slice(self.wide(x), 1, 2, 5))
        return out


class Groups(nn.Module):
    """A convolution in two groups, said to the operation itself."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Conv2d(3, 8, 1)
        self.weight, self.last = nn.Parameter(torch.randn(8, 4, 1, 1)), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        x = torch.ops.aten.convolution(
            x,
            self.weight,
            None,
            [1, 1],
            [0, 0],
            [1, 1],
            False,  # noqa: FBT003 - torch takes it by place
            [0, 0],
            2,
        )
        out: Tensor = self.last(x)
        return out


class Padding(nn.Module):
    """Two zeros before and none behind, whatever happens to the padded part."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 3), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(torch.ops.aten.constant_pad_nd(self.first(x), [2, 0], 1.0))
        return out


ROW, IMAGE = torch.randn(2, 4), torch.randn(2, 3, 4, 4)
CASES: dict[str, tuple[type[nn.Module], Tensor, Mapping[str, tuple[int, ...]]]] = {
    # 2 + 3 + 8 units become 1 + 2 + 1, so that the slice from 2 to 5 still has 2 units, other ones
    "slice": (Slice, ROW, {"wide": (0,), "wide/2": (0,), "wide/3": tuple(range(7))}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_position_that_would_slip_is_refused(name: str) -> None:
    kind, x, removed = CASES[name]
    graph = excise.trace(kind().eval(), x)
    with pytest.raises(excise.errors.UnknownGroupError, match="needs this length"):
        excise.plan_units(graph, removed)


@pytest.mark.parametrize("name", CASES)
def test_without_the_comparison_the_cut_is_wrong(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meta-test: the shapes alone do not tell."""
    monkeypatch.setattr(rehearsal, "_as_told", lambda *_: True)
    kind, x, removed = CASES[name]
    model = kind().eval()
    plan = excise.plan_units(excise.trace(model, x), removed)
    assert not excise.verify(model, excise.remove(model, plan), plan, x).passed


@pytest.mark.parametrize(("kind", "x"), [(Slice, ROW), (Groups, IMAGE), (Padding, ROW)])
def test_what_does_not_slip_is_cut(kind: type[nn.Module], x: Tensor) -> None:
    """Every plan that is made is proved."""
    model = kind().eval()
    graph = excise.trace(model, x)
    cut = 0
    for group in graph.groups:
        try:
            plan = excise.plan_units(graph, {group.name: (0,)})
        except excise.errors.UnknownGroupError:
            continue
        cut += 1
        assert excise.verify(model, excise.remove(model, plan), plan, x).passed
    assert cut
