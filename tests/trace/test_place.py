"""Where an operation stands: in the model's own code, and nowhere in the code of who traced it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from excise.errors import ExampleError
from excise.trace import record

HERE = "trace/test_place.py:"


class Own(nn.Module):
    """A forward method with a line of its own around torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Through torch's code, and back."""
        out: Tensor = self.layer(x).relu()
        return out


def test_the_line_is_that_of_the_models_own_code() -> None:
    line = Own.forward.__code__.co_firstlineno + 2
    found, _ = record(Own(), (torch.zeros(1, 2),), {})
    assert [op.where for op in found.ops] == [f"{HERE}{line}"] * 2


def test_whoever_traces_is_not_the_models_code() -> None:
    """A model of torch's modules alone: their `forward`, not this file."""
    found, _ = record(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), (torch.zeros(1, 2),), {})
    assert [op.where.split(":")[0] for op in found.ops] == [
        "modules/linear.py",
        "modules/activation.py",
    ]


def test_an_error_has_the_line_that_raised_it() -> None:
    line = Own.forward.__code__.co_firstlineno + 2
    with pytest.raises(ExampleError, match=f"{HERE}{line}"):
        record(Own(), (torch.zeros(1, 5),), {})
