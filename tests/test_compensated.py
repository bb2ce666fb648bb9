"""The one-liner with calibration data: chosen by cost, refitted, and everything else as before."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import excise
from excise.errors import CalibrationError, InvalidTargetError
from tests.calibration.network import doubled

X = torch.randn(64, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
FRESH = torch.randn(64, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def gap(model: nn.Module, small: nn.Module) -> float:
    with torch.no_grad():
        wanted = model.eval()(FRESH)
        return float((wanted - small.eval()(FRESH)).norm() / wanted.std())


def test_calibration_data_finds_what_can_go_and_makes_up_for_it() -> None:
    model = doubled()
    plain = excise.prune(model, X[:2], keep_macs=0.6, latency=False)
    better = excise.prune(model, X[:2], keep_macs=0.6, calibration=X.split(16), latency=False)
    assert plain.refit is None
    assert better.refit is not None
    assert better.refit.samples == 64
    assert better.verdict is not None
    assert better.verdict.passed
    assert better.report.kept()["multiply-adds"] <= 0.6
    assert gap(model, better.model) < 0.2 * gap(model, plain.model)


def test_the_model_and_its_mode_are_not_touched() -> None:
    model = doubled().train()
    before = copy.deepcopy(model.state_dict())
    excise.prune(model, X[:2], keep_macs=0.6, calibration=X, latency=False)
    assert model.training
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_it_is_saved_and_loaded_like_any_cut(tmp_path: pytest.TempPathFactory) -> None:
    model = doubled()
    pruned = excise.prune(model, X[:2], keep_macs=0.6, calibration=X, latency=False)
    path = f"{tmp_path}/small.safetensors"
    excise.save(pruned.model, pruned.plan, path)
    again = excise.load(path, build=doubled)
    assert torch.equal(again(FRESH), pruned.model(FRESH))


def test_samples_and_criterion_are_the_callers_choice() -> None:
    model = doubled()
    pruned = excise.prune(
        model,
        X[:2],
        keep_macs=0.6,
        calibration=X.split(16),
        samples=20,
        criterion="l1",
        latency=False,
    )
    assert pruned.refit is not None
    assert pruned.refit.samples == 32


def test_bad_calibration_is_refused() -> None:
    with pytest.raises(InvalidTargetError, match="calibration"):
        excise.prune(doubled(), X[:2], keep_macs=0.6, criterion="obs")
    with pytest.raises(CalibrationError):
        excise.prune(doubled(), X[:2], keep_macs=0.6, calibration=[])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_are_refitted_from_wide_statistics(dtype: torch.dtype) -> None:
    model, x, fresh = doubled().to(dtype), X.to(dtype), FRESH.to(dtype)
    wide = excise.prune(doubled(), X[:2], keep_macs=0.6, calibration=X.split(16), latency=False)
    half = excise.prune(model, x[:2], keep_macs=0.6, calibration=x.split(16), latency=False)
    cut = excise.remove(model, half.plan)
    assert {p.dtype for p in half.model.parameters()} == {dtype}
    assert half.plan.removed == wide.plan.removed
    with torch.no_grad():
        wanted, plain, better = (m.eval()(fresh).double() for m in (model, cut, half.model))
    assert float((wanted - better).norm()) < 0.2 * float((wanted - plain).norm())
