"""Refit: what kept units can say of removed ones is made up for, and nothing gets worse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import excise
from excise.calibration import Batch, Moments, batches
from excise.refit import refit
from excise.refit.solve import error, solve
from tests.calibration.network import Doubled, doubled


def data(seed: int = 3, size: int = 64) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(size, 3, 8, 8, dtype=torch.float64)


def cut(model: Doubled, x: Tensor) -> tuple[nn.Module, excise.Plan]:
    graph = excise.trace(model, x[:2])
    names = [g.name for g in graph.groups if g.name in {"conv1", "hidden"}]
    plan = excise.plan_units(graph, {name: range(4) for name in names})
    return excise.remove(model, plan), plan


def loss(model: nn.Module, small: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((model(x) - small(x)).norm() / model(x).std())


@pytest.mark.parametrize("bias", [True, False])
def test_a_removed_twin_is_made_up_for(bias: bool) -> None:  # noqa: FBT001
    model, x = doubled(bias=bias), data()
    small, plan = cut(model, x)
    before = loss(model, small, data(9))
    report = refit(model, small, plan, batches(x.split(16), (x,), {}))
    assert loss(model, small, data(9)) < 0.02 * before
    assert all(r.after <= r.before for r in report.repairs)
    assert [r.weight for r in report.repairs] == [
        "stem.weight", "conv1.weight", "conv2.weight", "hidden.weight", "head.weight"
    ]  # fmt: skip


def test_the_dense_model_and_modes_are_not_touched() -> None:
    model, x = doubled().train(), data()
    small, plan = cut(model, x)
    small.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    shapes = {name: tensor.shape for name, tensor in small.state_dict().items()}
    refit(model, small, plan, [Batch((x,), {})])
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert {name: tensor.shape for name, tensor in small.state_dict().items()} == shapes
    assert model.training
    assert small.training
    assert all(parameter.requires_grad for parameter in small.parameters())


def test_nothing_cut_nothing_changed() -> None:
    model, x = doubled(), data()
    graph = excise.trace(model, x[:2])
    plan = excise.plan_units(graph, {})
    small = excise.remove(model, plan)
    refit(model, small, plan, [Batch((x,), {})])
    assert loss(model, small, data(9)) < 1e-3


def test_too_little_data_for_a_fit_does_no_harm() -> None:
    model = doubled()
    x = data(size=2)[..., :2, :2]
    small, plan = cut(model, x)
    before = loss(model, small, data(9))
    refit(model, small, plan, [Batch((x,), {})])
    assert loss(model, small, data(9)) < 2 * before


def test_solving_meets_least_squares_and_refuses_to_get_worse() -> None:
    torch.manual_seed(0)
    rows = torch.randn(1, 400, 6, dtype=torch.float64)
    truth, shift = torch.randn(1, 3, 6, dtype=torch.float64), torch.randn(1, 3, dtype=torch.float64)
    wanted = rows @ truth.mT + shift[:, None]
    fit, held = (
        Moments.of(rows[:, 100:], wanted[:, 100:]),
        Moments.of(rows[:, :100], wanted[:, :100]),
    )
    found = solve(fit, held, torch.zeros(1, 3, 6), torch.zeros(1, 3), centred=True)
    assert found is not None
    assert torch.allclose(found.matrix, truth, atol=1e-3)
    assert torch.allclose(found.bias, shift, atol=1e-3)
    fit, held = (
        Moments.of(rows[:, 100:], wanted[:, 100:]),
        Moments.of(rows[:, :100], wanted[:, :100]),
    )
    assert solve(fit, held, truth, shift, centred=True) is None or error(held, truth, shift) < 1e-6


def test_the_error_of_moments_is_the_error_of_rows() -> None:
    torch.manual_seed(0)
    rows, wanted = torch.randn(1, 50, 4), torch.randn(1, 50, 2)
    matrix, bias = torch.randn(1, 2, 4), torch.randn(1, 2)
    made = rows @ matrix.mT + bias[:, None]
    direct = float((made - wanted).square().sum(2).mean())
    from_moments = error(Moments.of(rows, wanted), matrix.double(), bias.double())
    assert from_moments == pytest.approx(direct, rel=1e-5)


class Constant(nn.Module):
    """The second half of the hidden units says 1, whatever comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1, bias=False)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
        self.double().eval()
        with torch.no_grad():
            self.conv1.weight[4:] = 0
            self.conv1.bias[4:] = 1  # type: ignore[index]
            self.norm.weight.copy_(torch.tensor([0.5, -2.0, 3.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - the class says it
        out: Tensor = self.head(self.norm(self.conv2(self.conv1(x).relu())).tanh())
        return out


def test_a_layer_without_bias_shifts_the_norm_behind_it() -> None:
    torch.manual_seed(0)
    model, x = Constant(), data()
    plan = excise.plan_units(excise.trace(model, x[:2]), {"conv1": range(4, 8)})
    small = excise.remove(model, plan)
    before = loss(model, small, data(9))
    refit(model, small, plan, [Batch((x,), {})])
    assert loss(model, small, data(9)) < 1e-3 * before


class Streamed(nn.Module):
    """A stream, scaled by a parameter that no layer can repair, and a branch added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.scale = nn.Conv2d(3, 4, 1), nn.Parameter(torch.ones(4, 1, 1))
        self.up, self.down = nn.Conv2d(4, 16, 1), nn.Conv2d(16, 4, 1, bias=False)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)
        self.double().eval()
        with torch.no_grad():
            self.norm.weight.copy_(torch.tensor([0.5, -2.0, 3.0, 1.0]))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - the class says it
        x = self.stem(x) * self.scale
        x = x + self.norm(self.down(torch.nn.functional.silu(self.up(x))))
        out: Tensor = self.head(x.tanh())
        return out


def test_a_branch_repairs_the_stream_it_is_added_to() -> None:
    torch.manual_seed(0)
    model, x = Streamed(), data()
    plan = excise.plan_units(excise.trace(model, x[:2]), {})
    small = excise.remove(model, plan)
    with torch.no_grad():
        small.scale.mul_(0.7)  # type: ignore[operator]
        head = [p.clone() for p in small.head.parameters()]  # type: ignore[union-attr]
    before = loss(model, small, data(9))
    refit(model, small, plan, [Batch((x,), {})])
    with torch.no_grad():  # what the head made up for on top does not count
        for parameter, kept in zip(small.head.parameters(), head, strict=True):  # type: ignore[union-attr]
            parameter.copy_(kept)
    assert loss(model, small, data(9)) < 0.2 * before


class PostNorm(nn.Module):
    """The stream comes out of a layer norm, which gives three tensors; padding decides the path."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(3, 6), nn.LayerNorm(6)
        self.up, self.down, self.head = nn.Linear(6, 16), nn.Linear(16, 6), nn.Linear(6, 4)
        self.double().eval()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # noqa: D102 - the class says it
        x = self.norm(self.stem(x))
        if type(mask) is Tensor and not bool(mask.all()):  # only where there are values to look at
            x = x * mask[:, None]
        x = x + self.down(torch.nn.functional.silu(self.up(x)))
        out: Tensor = self.head(x)
        return out


def test_a_post_norm_model_whose_path_depends_on_data() -> None:
    torch.manual_seed(0)
    model = PostNorm()
    x, mask = torch.randn(320, 3, dtype=torch.float64), torch.ones(320, dtype=torch.float64)
    mask[::32] = 0
    given = list(zip(x.split(64), mask.split(64), strict=True))
    pruned = excise.prune(model, *given[0], keep_macs=0.7, calibration=given, latency=False)
    cut = excise.remove(model, pruned.plan)
    with torch.no_grad():
        wanted, plain, better = (m(x, mask) for m in (model, cut, pruned.model))
    assert float((wanted - better).norm()) < 0.7 * float((wanted - plain).norm())


def test_an_error_that_is_rounding_is_left_alone() -> None:
    kept = 0
    for seed in range(20):
        source = torch.Generator().manual_seed(seed)
        rows = torch.randn(1, 200, 4, dtype=torch.float64, generator=source)
        rows = torch.cat([rows, rows[..., :2]], 2)  # what two say says nothing of which it is
        matrix = torch.randn(1, 3, 6, dtype=torch.float64, generator=source)
        wanted = rows @ matrix.mT + 100.0
        fit, held = (
            Moments.of(rows[:, :160], wanted[:, :160]),
            Moments.of(rows[:, 160:], wanted[:, 160:]),
        )
        bias = torch.full((1, 3), 100.0, dtype=torch.float64)
        kept += solve(fit, held, matrix, bias, centred=True) is None
        assert solve(fit, held, matrix * 0.9, bias, centred=True) is not None
    assert kept == 20
