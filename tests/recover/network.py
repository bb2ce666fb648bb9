"""Small networks with blocks: a residual one with a cut stream, and a decoder with a cache."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Two layers beside a stream."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - the class says it
        out: Tensor = x + self.down(functional.silu(self.up(x)))
        return out


class Residual(nn.Module):
    """A stem, two blocks, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.one, self.two = Block(8, 16), Block(8, 16)
        self.head = nn.Linear(8, 4)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - the class says it
        out: Tensor = self.head(self.two(self.one(self.stem(x))).tanh())
        return out


class Cached(nn.Module):
    """A layer, and a branch whose values are handed out as well, as a decoder's cache is."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.value = nn.Linear(6, 8), nn.Linear(8, 8)
        self.mix, self.head = nn.Linear(8, 8), nn.Linear(8, 4)
        self.double().eval()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102 - the class says it
        x = self.stem(x).tanh()
        value = self.value(x)
        out: Tensor = self.head(x + self.mix(value.tanh()))
        return out, value


def residual() -> Residual:
    torch.manual_seed(0)
    return Residual()


def data(seed: int = 1, size: int = 160) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(size, 6, dtype=torch.float64, generator=source)
