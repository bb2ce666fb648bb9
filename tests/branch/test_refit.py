"""What is left makes up for a branch that is gone."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import excise
from excise.calibration import Batch, batches
from excise.errors import CalibrationError
from excise.refit import refit
from tests.branch.network import IMAGE, ROWS, Residual, Transformer, cut_of, seeded


def parts(x: Tensor) -> list[Batch]:
    return batches(list(x.split(8)), (x[:2],), {})


def apart(model: nn.Module, small: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((model(x) - small(x)).square().mean())


@pytest.mark.parametrize(
    ("build", "x", "name"),
    [
        (Residual, torch.randn(48, 3, 8, 8), "blocks.1"),
        (Transformer, torch.randn(48, 5, 4), "layers.1.attn"),
        (Transformer, torch.randn(48, 5, 4), "layers.0.down"),
    ],
)
def test_a_refit_brings_the_outputs_back(build: Any, x: Tensor, name: str) -> None:
    model = seeded(build)
    plan = cut_of(model, x[:2], names=(name,))
    assert plan.branches
    small = excise.remove(model, plan)
    before = apart(model, small, x[40:])
    found = refit(model, small, plan, parts(x[:40]))
    assert apart(model, small, x[40:]) < 0.7 * before
    assert found.repairs
    assert not any(plan.gone(each.weight) for each in found.repairs)


def test_widths_and_branches_are_refitted_together() -> None:
    model, x = seeded(lambda: Residual(5)), torch.randn(48, 3, 8, 8)
    short = cut_of(model, x[:2], names=("blocks.1", "blocks.2"))
    graph = excise.trace(excise.remove(model, short), x[:2])
    widths = excise.plan_units(graph, {"blocks.0.conv1": [0, 3, 5], "stem": [2]})
    plan = dataclasses.replace(widths, shapes=short.shapes, branches=short.branches)
    small = excise.remove(model, plan)
    assert excise.verify(model, small, plan, IMAGE).passed
    before = apart(model, small, x[40:])
    refit(model, small, plan, parts(x[:40]))
    assert apart(model, small, x[40:]) < 0.7 * before


def test_another_model_is_no_counterpart() -> None:
    model = seeded(Transformer)
    one, two = (cut_of(model, ROWS, names=(n,)) for n in ("layers.0.attn", "layers.1.attn"))
    small = excise.remove(model, one)
    with pytest.raises(CalibrationError, match="another path"):
        refit(model, small, two, [Batch((ROWS,), {})])
    with pytest.raises(CalibrationError, match=r"no residual branch"):
        refit(excise.remove(model, one), small, one, [Batch((ROWS,), {})])
