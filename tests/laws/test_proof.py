"""Law: a proof looks at what the model computes; noise, new tensors and silent units included."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

import excise

Middle = Callable[[Tensor, Tensor], Tensor]


class Model(nn.Module):
    """Two linear layers with something between them that may use a parameter of the same width."""

    def __init__(self, middle: Middle) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.rand(8) + 0.5)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        """Chain them."""
        out: Tensor = self.last(self.middle(self.first(x), self.scale))
        return out


def _filled(x: Tensor, scale: Tensor) -> Tensor:
    out = torch.zeros(x.shape)  # float32, also where the proof runs in float64
    out += x.abs()
    out.mul_(0.5)
    return out * scale


def _noise_in_place(x: Tensor, scale: Tensor) -> Tensor:
    return x + scale * torch.empty(x.shape).normal_().mul_(0.5)


def _divided_in_place(x: Tensor, scale: Tensor) -> Tensor:
    x /= x.shape[1] ** 0.5
    return x * scale


def _some_columns(x: Tensor, scale: Tensor) -> Tensor:
    x[:, :3] = x[:, :3].relu() + 1
    return x * scale


CASES: dict[str, tuple[Middle, str]] = {
    "plain": (lambda x, s: x.relu() * s, "exact"),
    "new tensor": (_filled, "exact"),
    "noise": (lambda x, s: x + s * torch.randn_like(x), "exact-with-mixing"),
    "noise of a size": (lambda x, s: x * s + torch.rand(x.shape), "exact-with-mixing"),
    "noise in place": (_noise_in_place, "exact-with-mixing"),
    "dropout": (lambda x, s: F.dropout(x * s, 0.5), "exact-with-mixing"),
    "a length as a number": (_divided_in_place, "exact-with-mixing"),
    "division by a silent unit": (lambda x, s: x / s, "exact-with-mixing"),
    "logarithm of a silent unit": (lambda x, s: x * s.log(), "exact-with-mixing"),
    "columns written to": (_some_columns, "exact"),
}


def _cut(name: str) -> tuple[Model, nn.Module, excise.Plan, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = Model(CASES[name][0]).eval(), torch.randn(2, 4)
    graph = excise.trace(model, x)
    free = max(graph.groups, key=lambda group: group.size)
    plan = excise.plan_units(graph, {free.name: (0, 2)})
    return model, excise.remove(model, plan), plan, x


@pytest.mark.parametrize("name", CASES)
def test_it_is_proved(name: str) -> None:
    model, small, plan, x = _cut(name)
    verdict = excise.verify(model, small, plan, x)
    assert verdict.passed, str(verdict)
    assert verdict.kind == CASES[name][1]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("tensor", ["first.bias", "scale", "last.weight"])
def test_the_proof_is_not_empty(name: str, tensor: str) -> None:
    """Meta-test: any tensor of the small model that is not right is seen."""
    model, small, plan, x = _cut(name)
    with torch.no_grad():
        small.get_parameter(tensor).add_(0.01)
    assert not excise.verify(model, small, plan, x).passed
