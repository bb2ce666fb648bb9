"""Calibration data that is no input, and models that do not belong together."""

from __future__ import annotations

import torch
from torch import nn

from excise.calibration import Batch, batches
from excise.errors import CalibrationError, ExampleError
from excise.refit import refit
from tests.errors.bench import Act, Bench, Case


def _refit(b: Bench, small: nn.Module, data: list[Batch]) -> Act:
    plan = b.plan
    return lambda: refit(b.model, small, plan, data)


CALIBRATION = [
    Case("calibration that is a number", lambda b: lambda: batches(3, (b.x,), {}),
         CalibrationError, "int"),
    Case("calibration without a batch", lambda b: lambda: batches([], (b.x,), {}),
         CalibrationError, "no batch"),
    Case("a refit without a batch", lambda b: _refit(b, b.model, []),
         CalibrationError, "no batch"),
    Case("a refit of another model",
         lambda b: _refit(b, nn.Sequential(nn.Conv2d(3, 4, 3)), [Batch((b.x,), {})]),
         CalibrationError, "another path"),
    Case("a refit on batches of another width",
         lambda b: _refit(b, b.model, [Batch((b.x,), {}), Batch((torch.zeros(1, 4, 8, 8),), {})]),
         ExampleError, "channels"),
]  # fmt: skip
