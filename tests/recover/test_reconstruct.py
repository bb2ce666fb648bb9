"""Recovery: losses say what they say, train what they should, and do no harm."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import excise
from excise.calibration import Batch, batches
from excise.errors import CalibrationError, ExampleError, InvalidTargetError
from excise.recover import Blocks, distill_loss, reconstruct
from excise.refit import refit
from tests.recover.network import Residual, data, residual

CUT = {"one.up": range(6), "two.up": range(6)}


def cut(units: dict[str, range] | None = None) -> tuple[Residual, nn.Module, excise.Plan]:
    model = residual()
    plan = excise.plan_units(excise.trace(model, data(size=2)), CUT if units is None else units)
    return model, excise.remove(model, plan), plan


def loss(model: nn.Module, small: nn.Module) -> float:
    with torch.no_grad():
        return float((model(data(9)) - small(data(9))).square().mean())


def test_blocks_agree_with_the_models_themselves() -> None:
    model, small, plan = cut()
    x = data(4)
    found = Blocks(model, small, plan, x[:2]).losses(x)
    with torch.no_grad():
        wanted = model.one(model.stem(x))
        have = small.one(small.stem(x))  # type: ignore[operator]
        first = (wanted - have).square().mean() / wanted.var(correction=0)
        last = (model(x) - small(x)).square().mean() / model(x).var(correction=0)
    assert len(found) == 3
    assert found[0].item() == pytest.approx(float(first))
    assert found[-1].item() == pytest.approx(float(last))


def test_a_cut_stream_is_compared_with_what_is_left_of_it() -> None:
    model = residual()
    names = [g.name for g in excise.trace(model, data(size=2)).groups if g.size == 8]
    model, small, plan = cut({names[0]: range(2)})
    with torch.no_grad():
        for layer in (model.one.down, model.two.down):  # nothing but the stream is left
            layer.weight.zero_()
            layer.bias.zero_()
        small = excise.remove(model, plan)
    found = Blocks(model, small, plan, data(size=2)).losses(data(4))
    assert found[0].item() < 1e-20
    assert found[-1].item() > 1e-3  # the head has lost inputs


def grads(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_a_local_loss_trains_a_block_by_its_own_end_alone() -> None:
    model, small, plan = cut()
    blocks, x = Blocks(model, small, plan, data(size=2)), data(4)
    each = blocks.losses(x, local=False)
    first = torch.autograd.grad(each[0], small.one.up.weight, retain_graph=True)[0]  # type: ignore[union-attr,arg-type]
    every = torch.autograd.grad(sum(each), small.one.up.weight)[0]  # type: ignore[union-attr,arg-type]
    (3 * blocks.loss(x)).backward()
    local = grads(small)["one.up.weight"]
    assert torch.allclose(local, 3 * first)
    assert not torch.allclose(first, every)
    assert not grads(model)


@pytest.mark.parametrize("local", [True, False])
def test_reconstruction_comes_nearer_than_a_refit(local: bool) -> None:  # noqa: FBT001
    model, small, plan = cut()
    given = batches(data(2, 1600).split(160), (data(size=2),), {})
    refit(model, small, plan, given)
    before, shapes = loss(model, small), [p.shape for p in small.parameters()]
    report = reconstruct(model, small, plan, given, steps=300, rate=3e-3, local=local)
    assert report.kept
    assert report.after[-1] < 0.7 * report.before[-1]
    assert loss(model, small) < 0.7 * before
    assert [p.shape for p in small.parameters()] == shapes


def test_what_does_not_help_is_put_back() -> None:
    model, small, plan = cut()
    old = copy.deepcopy(small.state_dict())
    given = [Batch((x,), {}) for x in data(2).split(32)]
    report = reconstruct(model, small, plan, given, steps=3, rate=10.0)
    assert not report.kept
    assert "put back" in str(report)
    assert all(torch.equal(old[name], t) for name, t in small.state_dict().items())


def test_only_the_weights_of_the_cut_model_change() -> None:
    model, small, plan = cut()
    model.train()
    small.train()
    weight = small.one.up.weight  # type: ignore[union-attr]
    assert isinstance(weight, nn.Parameter)
    weight.requires_grad = False
    old, frozen = copy.deepcopy(model.state_dict()), weight.detach().clone()
    state = torch.random.get_rng_state()
    reconstruct(model, small, plan, [Batch((x,), {}) for x in data(2).split(32)], steps=5)
    assert all(torch.equal(old[name], t) for name, t in model.state_dict().items())
    assert torch.equal(weight, frozen)
    assert model.training
    assert small.training
    assert not grads(small)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_augmented_batches_reach_both_models() -> None:
    model, small, plan = cut()
    seen: list[int] = []

    def augment(batch: Batch) -> Batch:
        seen.append(batch.samples)
        return Batch((batch.args[0].flip(0)[:7],), {})

    given = [Batch((x,), {}) for x in data(2).split(32)]
    reconstruct(model, small, plan, given, steps=4, augment=augment)
    assert seen == [32] * 4


class Normed(nn.Module):
    """Blocks with a batch norm and dropout, as a module and as a function."""

    def __init__(self, *, deep: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.deep = deep
        self.stem, self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.norm, self.drop, self.head = nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(8, 4)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - the class says it
        x = self.stem(x)
        inner = self.norm(self.up(x)).relu()
        inner = functional.dropout(inner, 0.5, training=self.training) * 2
        inner = self.drop(self.down(inner))
        if self.deep and self.training:
            inner = inner * torch.rand(())
        out: Tensor = self.head((x + inner).tanh())
        return out


def test_in_train_mode_norms_gather_and_dropout_drops() -> None:
    model, x = Normed(), data(4)
    plan = excise.plan_units(excise.trace(model, x[:2]), {"up": range(6)})
    small = excise.remove(model, plan)
    blocks = Blocks(model, small, plan, x[:2])
    still = [blocks.loss(x).item() for _ in range(2)]
    assert still[0] == still[1]
    small.train()
    state = copy.deepcopy(small.norm.state_dict())  # type: ignore[union-attr]
    torch.manual_seed(3)
    found = blocks.losses(x, local=False)
    after = small.norm.state_dict()  # type: ignore[union-attr]
    assert after["num_batches_tracked"] == 1
    assert not torch.equal(after["running_mean"], state["running_mean"])
    torch.manual_seed(3)
    with torch.no_grad():
        wanted = model(x)
        last = (small(x) - wanted).square().mean() / wanted.var(correction=0)
    assert found[-1].item() == pytest.approx(float(last))
    assert not any(torch.equal(a, b) for a, b in zip(found, blocks.losses(x), strict=True))
    assert not model.training


def test_another_path_in_train_mode_is_refused_by_name() -> None:
    model, x = Normed(deep=True), data(4)
    plan = excise.plan_units(excise.trace(model, x[:2]), {"up": range(6)})
    small = excise.remove(model, plan)
    blocks = Blocks(model, small, plan, x[:2])
    small.train()
    with pytest.raises(ExampleError, match="eval mode"):
        blocks.loss(x)
    small.eval()
    assert blocks.loss(x).isfinite()


def test_it_refuses_what_it_cannot_judge_or_train() -> None:
    model, small, plan = cut()
    with pytest.raises(CalibrationError, match="held out"):
        reconstruct(model, small, plan, [Batch((data(),), {})])
    small.requires_grad_(requires_grad=False)
    with pytest.raises(CalibrationError, match="gradient"):
        reconstruct(model, small, plan, [Batch((x,), {}) for x in data(2).split(32)])
    other = nn.Sequential(nn.Linear(6, 4)).double()
    with pytest.raises(CalibrationError, match="path"):
        Blocks(model, other, plan, data(size=2))


def test_a_prune_that_reconstructs() -> None:
    model, x = residual(), data(2, 1600)
    how = {"keep_macs": 0.6, "calibration": x.split(160), "latency": False}
    plain = excise.prune(model, x[:2], **how)
    better = excise.prune(model, x[:2], reconstruct=200, **how)
    assert plain.reconstruction is None
    assert better.reconstruction is not None
    assert better.reconstruction.steps == 200
    assert loss(model, better.model) < loss(model, plain.model)
    with pytest.raises(InvalidTargetError, match="reconstruct"):
        excise.prune(model, x[:2], keep_macs=0.6, reconstruct=10)


def test_distillation_is_zero_at_home_and_a_divergence_elsewhere() -> None:
    wanted, found = torch.randn(5, 3), torch.randn(5, 3)
    for temperature in (None, 1.0, 4.0):
        assert float(distill_loss(wanted, wanted, temperature=temperature)) == pytest.approx(0)
    one = torch.distributions.Categorical(logits=wanted / 2)
    two = torch.distributions.Categorical(logits=found / 2)
    kl = torch.distributions.kl_divergence(one, two).mean()
    got = distill_loss({"out": found}, {"out": wanted}, temperature=2.0)
    assert float(got) == pytest.approx(4 * float(kl), rel=1e-5)
    share = (found - wanted).square().mean() / wanted.var(correction=0)
    assert float(distill_loss(found, wanted)) == pytest.approx(float(share), rel=1e-5)


def test_distillation_trains_the_small_model_alone() -> None:
    wanted = torch.randn(5, 3, requires_grad=True)
    found = torch.randn(5, 3, requires_grad=True)
    distill_loss((found, found[:2]), (wanted, wanted)).backward()
    assert wanted.grad is None
    assert found.grad is not None
    with pytest.raises(CalibrationError):
        distill_loss(found, wanted[:2])


def test_batch_norms_gather_while_blocks_are_trained_together() -> None:
    model, x = Normed(), data(2, 1280)
    plan = excise.plan_units(excise.trace(model, x[:2]), {"up": range(6)})
    start = excise.remove(model, plan)
    refit(model, start, plan, [Batch((part,), {}) for part in x.split(128)])

    def trained(
        size: int = 128, *, rate: float = 3e-3, frozen: bool = False, local: bool = False
    ) -> tuple[nn.Module, int]:
        small = copy.deepcopy(start).train()
        small.norm.requires_grad_(not frozen)
        given = [Batch((part,), {}) for part in x.split(size)]
        found = reconstruct(model, small, plan, given, steps=40, rate=rate, local=local)
        assert small.training
        assert found.kept == (rate < 1)
        return small, int(small.get_buffer("norm.num_batches_tracked"))

    small, seen = trained()
    assert seen == 40
    assert loss(model, small.eval()) < loss(model, start)
    assert trained(local=True)[1] == 0
    assert trained(frozen=True)[1] == 0
    back, seen = trained(rate=30.0)
    assert seen == 0
    assert all(torch.equal(t, start.state_dict()[n]) for n, t in back.state_dict().items())
    again = copy.deepcopy(start)  # in eval mode before
    given = [Batch((part,), {}) for part in x.split(128)]
    reconstruct(model, again, plan, given, steps=40, rate=3e-3, local=False)
    assert all(torch.equal(t, small.state_dict()[n]) for n, t in again.state_dict().items())
    few = [Batch((part,), {}) for part in x.split(8)]  # too few to stand for the data
    reconstruct(model, again, plan, few, steps=5, local=False)
    assert int(again.get_buffer("norm.num_batches_tracked")) == 40
