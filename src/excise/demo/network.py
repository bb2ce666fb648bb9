"""The demo's network: small, with the residual sums that make removal by hand hard."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Two convolutions around a shortcut; a projection where width or resolution changes."""

    def __init__(self, width: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(width, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Images `(n, width, h, w)` to `(n, out, h / stride, w / stride)`."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Digits(nn.Module):
    """A residual CNN for images of 8 x 8 pixels: 601,418 parameters, 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 64, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(64)
        self.blocks = nn.Sequential(Block(64, 64), Block(64, 128, stride=2), Block(128, 128))
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images `(n, 1, 8, 8)` to logits `(n, 10)`."""
        x = self.blocks(functional.relu(self.bn(self.conv(x))))
        logits: Tensor = self.head(torch.mean(x, dim=(2, 3)))
        return logits
