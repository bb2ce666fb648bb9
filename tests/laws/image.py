"""Blocks on images, `batch channels height width`, written as users write them."""

# ruff: noqa: D102 - the class says what its forward does

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name


class ChannelNorm(nn.Module):
    """LayerNorm over channels of an image, by moving them last (ConvNeXt's)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return out


def norm(kind: str, width: int) -> nn.Module:
    """A normalisation layer of the given kind."""
    made: dict[str, Any] = {
        "batch": lambda: nn.BatchNorm2d(width),
        "layer": lambda: ChannelNorm(width),
        "group": lambda: nn.GroupNorm(2, width),
        "one group": lambda: nn.GroupNorm(1, width),
        "instance": lambda: nn.InstanceNorm2d(width, affine=True),
        "none": nn.Identity,
    }
    module: nn.Module = made[kind]()
    return module


class Conv(nn.Module):
    """Convolution, norm, activation."""

    def __init__(self, wide: int, out: int, kind: str, *, groups: int = 1, size: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            wide, out, size, padding=size // 2, groups=groups, bias=kind == "none"
        )
        self.norm = norm(kind, out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)))


class Residual(nn.Module):
    """Two convolutions beside the identity, or beside a projection."""

    def __init__(self, wide: int, out: int, kind: str) -> None:
        super().__init__()
        self.first = Conv(wide, out + 2, kind)
        self.second = nn.Conv2d(out + 2, out, 1)
        self.short = nn.Conv2d(wide, out, 1) if wide != out else None
        self.scale = nn.Parameter(torch.ones(out, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x)) * self.scale
        y += x if self.short is None else self.short(x)
        return F.silu(y)


class Padded(nn.Module):
    """A residual sum whose shortcut is padded with zero channels (ResNet's option A)."""

    def __init__(self, wide: int, out: int, kind: str) -> None:
        super().__init__()
        self.conv = Conv(wide, out, kind)
        self.extra = out - wide

    def forward(self, x: Tensor) -> Tensor:
        short = F.pad(x, (0, 0, 0, 0, 0, self.extra)) if self.extra > 0 else x[:, : x.shape[1]]
        y: Tensor = self.conv(x)
        return y + short if self.extra >= 0 else y


class Concat(nn.Module):
    """Dense connection: the input and new channels, side by side."""

    def __init__(self, wide: int, out: int, kind: str) -> None:
        super().__init__()
        self.grow = Conv(wide, 4, kind)
        self.mix = nn.Conv2d(wide + 4, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mix(torch.cat([x, self.grow(x)], 1))
        return out


class Split(nn.Module):
    """Channels taken apart, treated differently, and put together the other way round."""

    def __init__(self, wide: int, out: int, how: str) -> None:
        super().__init__()
        self.widen, self.part, self.how = nn.Conv2d(wide, 2 * out, 1), out, how
        self.left = nn.Conv2d(out, out, 3, padding=1)
        self.right = nn.Conv2d(out, out, 3, padding=1, groups=out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.widen(x)
        if self.how == "chunk":
            a, b = x.chunk(2, 1)
        elif self.how == "split":
            a, b = x.split([self.part, self.part], dim=1)
        elif self.how == "slice":
            a, b = x[:, : self.part], x[:, self.part :]
        else:
            a, b = x[:, : x.shape[1] // 2], x[:, -self.part :]
        if self.how == "split":
            return torch.cat([self.right(b), self.left(a)], 1)[:, : self.part].sigmoid() * a
        out: Tensor = torch.sigmoid(self.left(a)) * self.right(b)
        return out


class Shuffle(nn.Module):
    """Grouped convolution, channel shuffle, grouped convolution (ShuffleNet)."""

    def __init__(self, wide: int, out: int, groups: int, *, literal: bool) -> None:
        super().__init__()
        inner = 4 * groups
        self.groups, self.literal = groups, literal
        self.first = nn.Conv2d(wide, inner, 1)
        self.grouped = nn.Conv2d(inner, inner, 3, padding=1, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(inner)
        self.last = nn.Conv2d(inner, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.grouped(self.first(x))))
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w) if self.literal else x.view(b, self.groups, -1, h, w)
        x = x.transpose(1, 2).reshape(b, c, h, w)
        out: Tensor = self.last(x)
        return out


class Depthwise(nn.Module):
    """Inverted residual with a depthwise convolution and squeeze-excite (MobileNet)."""

    def __init__(self, wide: int, out: int, times: int, *, squeeze: str) -> None:
        super().__init__()
        inner = 2 * wide
        self.expand, self.squeeze, self.inner = Conv(wide, inner, "batch", size=1), squeeze, inner
        self.deep = nn.Conv2d(inner, times * inner, 3, padding=1, groups=inner, bias=False)
        self.norm = nn.BatchNorm2d(times * inner)
        self.down, self.up = nn.Linear(times * inner, 4), nn.Linear(4, times * inner)
        self.last = nn.Conv2d(times * inner, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.norm(self.deep(self.expand(x))))
        if self.squeeze != "none":
            pooled = (
                F.adaptive_avg_pool2d(x, 1).flatten(1) if self.squeeze == "pool" else x.mean((2, 3))
            )
            gate = self.up(F.relu(self.down(pooled))).sigmoid()
            x = (
                x * gate.view(x.size(0), x.size(1), 1, 1)
                if self.squeeze == "pool"
                else x * gate[:, :, None, None]
            )
        out: Tensor = self.last(x)
        return out


class Transposed(nn.Module):
    """Up by a transposed convolution, down by pooling."""

    def __init__(self, wide: int, out: int, groups: int, pool: str) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(wide * groups, out * groups, 2, stride=2, groups=groups)
        self.lift = nn.Conv2d(wide, wide * groups, 1)
        self.last = nn.Conv2d(out * groups, out, 1)
        self.pool = {"max": nn.MaxPool2d(2), "avg": nn.AvgPool2d(2), "grid": nn.PixelUnshuffle(2)}[
            pool
        ]
        self.thin = nn.Conv2d(4 * out, out, 1) if pool == "grid" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.thin(self.pool(self.last(F.gelu(self.up(self.lift(x))))))
        return out


class Shared(nn.Module):
    """One convolution called twice, and a maximum over pairs of channels."""

    def __init__(self, wide: int, out: int, *, pairs: bool) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(wide, wide, 3, padding=1), nn.Conv2d(wide, 2 * out, 1)
        self.prelu, self.pairs, self.thin = nn.PReLU(wide), pairs, nn.Conv2d(2 * out, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.prelu(self.conv(self.prelu(self.conv(x)))))
        if self.pairs:
            b, c, h, w = x.shape
            return x.view(b, c // 2, 2, h, w).amax(2)
        out: Tensor = self.thin(x)
        return out
