"""Scores, against sums written out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import excise
from tests.errors.bench import Net


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, 8, 8)


@pytest.fixture
def model(x: Tensor) -> Any:
    torch.manual_seed(0)
    made: Any = Net().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    made(x).square().mean().backward()
    return made


def _by_hand(model: Any, energy: Any) -> dict[str, list[float]]:
    """Per unit, over every slice that goes with it: producer, norm, consumers."""
    e = {name: energy(name, p).double() for name, p in model.named_parameters()}
    first = [
        e["0.weight"][i].sum()
        + e["0.bias"][i]
        + e["1.weight"][i]
        + e["1.bias"][i]
        + e["3.weight"][:, i].sum()
        for i in range(8)
    ]
    second = [
        e["3.weight"][i].sum() + e["3.bias"][i] + e["7.weight"][:, 4 * i : 4 * i + 4].sum()
        for i in range(12)
    ]
    return {"0.weight": [float(v) for v in first], "3.weight": [float(v) for v in second]}


@pytest.mark.parametrize("p", [1, 2, 3])
def test_magnitude_is_the_norm_of_all_that_goes(model: Any, x: Tensor, p: int) -> None:
    scores = excise.scores.magnitude(model, excise.trace(model, x), p=p)
    wanted = _by_hand(model, lambda _, w: w.detach().double().abs() ** p)
    assert scores.values.keys() == wanted.keys()
    for name, values in wanted.items():
        found = scores.values[name]
        assert found.dtype == torch.float64
        assert found.tolist() == pytest.approx([v ** (1 / p) for v in values], rel=1e-12)


def test_the_names_of_the_criteria(model: Any, x: Tensor) -> None:
    graph = excise.trace(model, x)
    for name, p in (("magnitude", 2), ("l1", 1), ("l2", 2)):
        found: Any = excise.scores.by_name(name)(model, graph).values
        wanted = excise.scores.magnitude(model, graph, p=p).values
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_taylor_is_the_sum_of_weight_times_gradient(model: Any, x: Tensor) -> None:
    scores = excise.scores.taylor(model, excise.trace(model, x))
    wanted = _by_hand(model, lambda _, w: (w.detach().double() * w.grad.double()).abs())
    for name, values in wanted.items():
        assert scores.values[name].tolist() == pytest.approx(values, rel=1e-5)


def test_a_parameter_without_a_gradient_adds_nothing(model: Any, x: Tensor) -> None:
    model[7].weight.grad = None
    scores = excise.scores.taylor(model, excise.trace(model, x))
    wanted = _by_hand(
        model, lambda n, w: w.new_zeros(w.shape) if n == "7.weight" else (w * w.grad).detach().abs()
    )
    assert scores.values["3.weight"].tolist() == pytest.approx(wanted["3.weight"], rel=1e-5)


def test_taylor_predicts_what_silencing_costs(model: Any, x: Tensor) -> None:
    """To first order: a step along `-w` of one unit changes the loss by about its signed sum."""
    model = model.double()
    x = x.double()
    model.zero_grad()
    loss = model(x).square().mean()
    loss.backward()
    weight = model[0].weight
    step = 1e-6
    signed = float((weight.detach()[2] * weight.grad[2]).sum())
    with torch.no_grad():
        weight[2] -= step * weight[2]
        change = float(model(x).square().mean()) - float(loss.detach())
    assert change == pytest.approx(-step * signed, rel=1e-3)


def test_bn_scale_is_gamma_where_there_is_a_norm(model: Any, x: Tensor) -> None:
    graph = excise.trace(model, x)
    scores = excise.scores.bn_scale(model, graph)
    gamma = model[1].weight.detach().abs().double()
    assert torch.equal(scores.values["0.weight"], gamma)
    plain = excise.scores.magnitude(model, graph)
    assert torch.equal(scores.values["3.weight"], plain.values["3.weight"])


def test_bn_scale_adds_the_norms_of_a_residual_sum() -> None:
    class Residual(nn.Module):
        """Two branches, two norms, one sum."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
            self.na, self.nb = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
            self.head = nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            """Images to maps."""
            out: Tensor = self.head(self.na(self.a(x)) + self.nb(self.b(x)))
            return out

    model: Any = Residual().eval()
    with torch.no_grad():
        model.na.weight.copy_(torch.tensor([1.0, -2.0, 3.0, 0.0]))
        model.nb.weight.copy_(torch.tensor([0.5, 0.25, 0.0, -4.0]))
    graph = excise.trace(model, torch.randn(1, 3, 4, 4))
    (group,) = graph.groups
    scores = excise.scores.bn_scale(model, graph)
    assert scores.values[group.name].tolist() == [1.5, 2.25, 3.0, 4.0]


def test_random_is_the_same_for_the_same_seed(model: Any, x: Tensor) -> None:
    graph = excise.trace(model, x)
    before = torch.get_rng_state()
    one, two = excise.scores.random(model, graph), excise.scores.random(model, graph)
    other = excise.scores.random(model, graph, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    for name, values in one.values.items():
        assert torch.equal(values, two.values[name])
        assert not torch.equal(values, other.values[name])
        assert bool(((values >= 0) & (values < 1)).all())


def test_scores_do_not_touch_the_model(model: Any, x: Tensor) -> None:
    graph = excise.trace(model, x)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    versions = [p._version for p in model.parameters()]
    for name in ("magnitude", "l1", "random", "bn_scale", "taylor"):
        excise.scores.by_name(name)(model, graph)
    assert [p._version for p in model.parameters()] == versions
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_the_units_with_the_lowest_scores_go_first(model: Any, x: Tensor) -> None:
    graph = excise.trace(model, x)
    values = {"0.weight": torch.arange(8.0), "3.weight": torch.full((12,), 1e6)}
    values["3.weight"][:6] = 2e6
    plan = excise.plan(graph, excise.Scores(values), keep_units=0.9)
    for name, units in plan.removed.items():
        kept = [u for u in range(len(values[name])) if u not in units]
        assert max(values[name][list(units)]) <= min(values[name][kept])


def test_scores_print_their_ranges() -> None:
    values = {"a": torch.tensor([1.0, 0.25])}
    assert str(excise.Scores(values)) == "a: 2 units, 0.25 to 1"
