"""Batch norm statistics: those of the data, and nothing else is touched."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

import excise
from excise.calibration import Batch
from excise.refit import recalibrate, refit, settle
from excise.refit.statistic import recalibrate_if_better
from tests.calibration.network import doubled


def normed() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    return model.double().eval()


X = torch.randn(40, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_statistics_become_those_of_the_data() -> None:
    model = normed()
    before = copy.deepcopy(model.state_dict())
    assert recalibrate(model, [Batch((x,), {}) for x in X.split(10)]) == 1
    with torch.no_grad():
        made = model[1](X)  # in eval mode nothing is dropped
    norm = model[2]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert torch.allclose(norm.running_mean, made.mean((0, 2, 3)))
    each: list[Tensor] = [part.var((0, 2, 3)) for part in made.split(10)]
    assert torch.allclose(norm.running_var, torch.stack(each).mean(0))
    kept = {"1.weight", "1.bias", "2.weight", "2.bias", "2.num_batches_tracked"}
    assert all(torch.equal(before[name], model.state_dict()[name]) for name in kept)
    assert norm.momentum == 0.1
    assert not any(module.training for module in model.modules())


def test_a_model_without_norms_is_left_alone() -> None:
    model = nn.Linear(3, 3)
    assert recalibrate(model, [Batch((torch.randn(2, 3),), {})]) == 0
    assert model.training


def test_biases_alone_make_up_for_means_and_leave_weights() -> None:
    model = doubled()
    x = torch.randn(64, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    graph = excise.trace(model, x[:2])
    plan = excise.plan_units(graph, {"hidden": range(4)})
    small = excise.remove(model, plan)
    old = {n: p.detach().clone() for n, p in small.named_parameters()}
    found = refit(model, small, plan, [Batch((part,), {}) for part in x.split(8)], weights=False)
    changed = {n for n, p in small.named_parameters() if not torch.equal(old[n], p)}
    assert changed
    assert all(name.endswith("bias") for name in changed)
    assert all(repair.ridge is None for repair in found.repairs)
    with torch.no_grad():
        off = (model(x) - small(x)).mean(0).abs().max()
    assert float(off) < 1e-2


def given() -> list[Batch]:
    return [Batch((x,), {}) for x in X.split(4)]


def test_new_statistics_are_kept_where_they_help() -> None:
    dense, small = normed(), normed()
    norm = small[2]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    recalibrate(dense, given())
    norm.running_mean += 3
    assert recalibrate_if_better(dense, small, given())
    with torch.no_grad():
        assert float((dense(X) - small(X)).abs().max()) < 0.5
    assert not any(module.training for module in small.modules())


def test_new_statistics_are_dropped_where_they_do_not() -> None:
    dense, small = normed(), normed()  # the same: any other statistics are further off
    before = copy.deepcopy(small.state_dict())
    assert not recalibrate_if_better(dense, small, given())
    assert all(torch.equal(before[name], t) for name, t in small.state_dict().items())
    assert not recalibrate_if_better(dense, small, given()[:1])


def test_a_refit_says_whether_norms_were_recalibrated() -> None:
    """Behind a depthwise layer, which is not refitted, a norm's statistics are all there is."""

    class Depthwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.norm = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)
            self.mix = nn.Conv2d(6, 6, 3, groups=6)
            self.double().eval()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.norm(self.mix(self.up(x).relu()))
            return out

    torch.manual_seed(0)
    model, data = Depthwise(), given()
    recalibrate(model, data)
    plan = excise.plan_units(excise.trace(model, X[:2]), {})
    small = excise.remove(model, plan)
    assert not refit(model, small, plan, data).recalibrated
    norm = small.norm
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    norm.running_var *= 25
    assert refit(model, small, plan, data).recalibrated
    assert not refit(model, small, plan, data, weights=False).recalibrated


class Two(nn.Module):
    """Two norms with weights, behind a convolution each, one without, and one that is not run."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.one, self.two = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 4, 3)
        self.norm, self.last = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.idle = nn.BatchNorm2d(4)
        self.bare = nn.BatchNorm2d(4, affine=False)
        for norm in (self.norm, self.last, self.bare):  # statistics of something else
            nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(norm.running_var, 0.5, 2.0)  # type: ignore[arg-type]
        for norm in (self.norm, self.last):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - the class says it
        out: Tensor = self.bare(self.last(self.two(self.norm(self.one(x)).relu())))
        return out


def test_settled_norms_compute_the_same_with_the_statistics_of_the_data() -> None:
    model, data = Two(), [Batch((x,), {}) for x in X.split(10)]
    before, old = model(X), copy.deepcopy(model.state_dict())
    assert settle(model, data) == 2
    assert torch.allclose(model(X), before, rtol=0, atol=1e-12)
    read = model.one(X)
    assert torch.allclose(model.norm.running_mean, read.mean((0, 2, 3)))  # type: ignore[arg-type]
    assert torch.allclose(model.norm.running_var, read.var((0, 2, 3)))  # type: ignore[arg-type]
    read = model.two(model.norm(read).relu())
    assert torch.allclose(model.last.running_var, read.var((0, 2, 3)))  # type: ignore[arg-type]
    now = model.state_dict()
    same = [n for n in old if torch.equal(old[n], now[n])]
    changed = {f"{n}.{t}" for n in ("norm", "last") for t in ("weight", "bias")}
    changed |= {f"{n}.{t}" for n in ("norm", "last") for t in ("running_mean", "running_var")}
    assert set(old) - set(same) == changed
    raw = Two()
    for norms in ((model.norm, model.last), (raw.norm, raw.last)):
        for norm in norms:
            norm.train()
    assert (model(X) - before).abs().max() < 0.05 * (raw(X) - before).abs().max()


def test_norms_that_share_a_weight_are_not_settled() -> None:
    model = Two()
    model.idle.weight = model.norm.weight
    old = copy.deepcopy(model.norm.state_dict())
    assert settle(model, [Batch((X,), {})]) == 1
    assert all(torch.equal(old[name], t) for name, t in model.norm.state_dict().items())
    assert settle(nn.Linear(3, 3), [Batch((torch.randn(2, 3),), {})]) == 0


def test_a_refit_survives_train_mode() -> None:
    model = doubled()
    x = torch.randn(64, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    plan = excise.plan_units(excise.trace(model, x[:2]), {"hidden": range(4)})
    small = excise.remove(model, plan)
    refit(model, small, plan, [Batch((part,), {}) for part in x.split(8)])
    with torch.no_grad():
        wanted = small.eval()(x)
        assert torch.allclose(small.train()(x), wanted, rtol=0, atol=1e-2 * float(wanted.std()))
