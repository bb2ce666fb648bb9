"""A factory that the command line finds as `tests.cli.factory:net`, or by this file's path."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.branch.network import Residual
from tests.errors.bench import Net


def net() -> nn.Module:
    """A small network for images `(n, 3, 8, 8)`."""
    return Net()


def residual() -> nn.Module:
    """A small network of residual blocks, of which two do nothing."""
    torch.manual_seed(0)
    model = Residual(4, 8, 12)
    for name in ("1", "2"):
        nn.init.zeros_(getattr(model.blocks, name).bn2.weight)
    return model


def needy(width: int) -> nn.Module:
    """A factory that cannot be called without an argument."""
    return Net(width)


def number() -> Any:
    """A factory of no module."""
    return 3


MODEL = Net()
