"""A small network in which half of the hidden units repeat the other half."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Doubled(nn.Module):
    """Convolution, norm, a residual block and a classifier; units come in equal pairs.

    Unit `i + half` of every hidden axis is unit `i` once more, so that whoever keeps one of each
    pair can make up for the other exactly.
    """

    def __init__(self, width: int = 8, *, bias: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.conv1 = nn.Conv2d(6, width, 3, padding=1, bias=bias)
        self.conv2 = nn.Conv2d(width, 6, 3, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(6)
        self.hidden = nn.Linear(6, width)
        self.head = nn.Linear(width, 5, bias=bias)
        self.double()
        mean, var = self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert var is not None
        with torch.no_grad():
            for layer in (self.conv1, self.hidden):
                for tensor in layer.parameters():
                    tensor[width // 2 :] = tensor[: width // 2]
            mean += torch.randn(6)
            var += torch.rand(6)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - the class says it
        x = self.stem(x).relu()
        x = (x + self.norm(self.conv2(self.conv1(x).relu()))).relu()
        out: Tensor = self.head(self.hidden(x.mean((2, 3))).relu())
        return out


def doubled(*, bias: bool = True, seed: int = 0) -> Doubled:
    """The network with random weights, in eval mode."""
    torch.manual_seed(seed)
    return Doubled(bias=bias).eval()
