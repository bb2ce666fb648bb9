"""A factory that the command line finds as `tests.cli.factory:net`, or by this file's path."""

from __future__ import annotations

from typing import Any

from torch import nn

from tests.errors.bench import Net


def net() -> nn.Module:
    """A small network for images `(n, 3, 8, 8)`."""
    return Net()


def needy(width: int) -> nn.Module:
    """A factory that cannot be called without an argument."""
    return Net(width)


def number() -> Any:
    """A factory of no module."""
    return 3


MODEL = Net()
