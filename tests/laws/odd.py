"""Blocks on images that do to their channels what is rare, and hard to follow."""

# ruff: noqa: D102 - the class says what its forward does

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from torch.nn.utils import parametrizations


class Dense(nn.Module):
    """A concatenation that the next block reads as it is; or a part of the input."""

    def __init__(self, wide: int, out: int, *, first: bool) -> None:
        super().__init__()
        self.grow = nn.Conv2d(wide, max(out - wide, 2), 1)
        self.out, self.first, self.wider = out, first, out > wide

    def forward(self, x: Tensor) -> Tensor:
        y = self.grow(x).relu()
        if not self.wider:
            return torch.cat([y, x], 1)[:, : self.out]
        return torch.cat([x, y] if self.first else [y, x], dim=1)


class Bare(nn.Module):
    """A channel shuffle, a flip or a repetition of whatever comes in; then a convolution."""

    def __init__(self, wide: int, out: int, how: str) -> None:
        super().__init__()
        self.groups, self.how = 2, how
        self.norm = nn.BatchNorm2d(wide)
        times = 2 if how in {"repeat", "interleave", "twice"} else 1
        self.conv = nn.Conv2d(times * wide, out, 1, groups=2 if how == "grouped" else 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        if self.how in {"shuffle", "grouped"}:
            x = x.view(b, self.groups, c // self.groups, h, w).transpose(1, 2).contiguous()
            x = x.view(b, -1, h, w)
        elif self.how == "unshuffle":
            x = x.reshape(b, c // 2, 2, h, w).permute(0, 2, 1, 3, 4).reshape(b, c, h, w)
        elif self.how == "flip":
            x = x.flip(1)
        elif self.how == "roll":
            x = x.roll((1, 1), (1, 2))
        x = self.norm(x)
        if self.how == "repeat":
            x = x.repeat(1, 2, 1, 1)
        elif self.how == "interleave":
            x = x.repeat_interleave(2, dim=1)
        elif self.how == "twice":
            x = torch.cat([x, -x], 1).relu()
        out: Tensor = self.conv(x)
        return out


class Sized(nn.Module):
    """Channels split by a list of sizes, by a rounded half, or written to in part."""

    table: Tensor

    def __init__(self, wide: int, out: int, how: str) -> None:
        super().__init__()
        self.sizes, self.how = [2, out, 3], how
        self.widen = nn.Conv2d(wide, out + 5, 1)
        self.left, self.right = nn.Conv2d(2, out, 1), nn.Conv2d(3, out, 3, padding=1)
        self.some, self.last = nn.Conv2d(out + 5, 3, 1), nn.Conv2d(out + 5, out, 1)
        self.register_buffer("table", torch.linspace(-1, 1, out).view(1, out, 1, 1))
        self.plain = torch.linspace(0.5, 1, out + 5)[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        x = self.widen(x)
        if self.how == "sizes":
            a, b, c = torch.split(x, self.sizes, dim=1)
            result: Tensor = self.left(a) + b * self.table + self.right(c)
            return result
        if self.how == "half":
            k = int(x.shape[1] * 0.5)
            x = torch.cat([x[:, :k].relu(), x[:, k:].tanh()], 1)
        elif self.how == "write":
            y = self.some(x)
            x = x.clone()
            x[:, : self.sizes[2]] += y
        elif self.how == "write over":
            x[:, 2:5] = self.some(x.clone())
        else:
            x *= self.plain
        out: Tensor = self.last(x)
        return out


class Select(nn.Module):
    """Branches stacked and weighed by a softmax (SK), or gated by channel statistics (CBAM)."""

    def __init__(self, wide: int, out: int, how: str) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(wide, out, 1), nn.Conv2d(wide, out, 3, padding=1)
        self.weigh, self.space = nn.Linear(out, 2 * out), nn.Conv2d(2, 1, 3, padding=1)
        self.how, self.out = how, out

    def forward(self, x: Tensor) -> Tensor:
        one: Tensor = self.one(x)
        two: Tensor = self.two(x)
        if self.how == "stack":
            both = torch.stack([one, two], dim=1)
            weight = self.weigh(both.sum(1).mean((2, 3))).view(-1, 2, self.out).softmax(1)
            gate: Tensor = (both * weight[..., None, None]).sum(1).tanh()
        elif self.how == "space":
            seen = torch.cat([one.mean(1, keepdim=True), one.amax(1, keepdim=True)], 1)
            gate = self.space(seen).sigmoid()
        elif self.how == "softmax":
            gate = one.softmax(1) / math.sqrt(two.shape[1])
        else:
            gate = F.normalize(one, dim=1) * self.out**0.5
        return two * gate


class Tied(nn.Module):
    """Weights used twice: transposed, under two names, or normalised by a parametrization."""

    def __init__(self, wide: int, out: int, how: str) -> None:
        super().__init__()
        self.how, self.first = how, nn.Conv2d(wide, out, 1)
        self.inner, self.outer = nn.Linear(out, 7), nn.Linear(out, out)
        self.again = self.outer
        self.square = nn.Linear(out, out, bias=False)
        if how == "same":
            self.square.weight = self.outer.weight
        elif how == "weight norm":
            parametrizations.weight_norm(self.square)
        elif how == "layer":
            self.norm: nn.Module = nn.LayerNorm([out, 4, 4])

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.how == "layer":
            x = self.norm(x)
        x = x.permute(0, 2, 3, 1)
        if self.how == "transposed":
            x = F.linear(self.inner(x).relu(), self.inner.weight.t())
        elif self.how == "names":
            x = self.again(self.outer(x).relu())
        else:
            x = self.square(self.outer(x).relu())
        return x.permute(0, 3, 1, 2).contiguous()


class Configured(nn.Module):
    """Linear attention over positions, its sizes read from one object that several parts share."""

    def __init__(self, wide: int, out: int, *, loop: bool) -> None:
        super().__init__()
        self.config = SimpleNamespace(heads=2, dim=4, width=8)
        self.qkv, self.mlp = nn.Conv2d(wide, 24, 1), nn.Conv2d(8, 8, 1)
        self.last, self.loop = nn.Conv2d(8, out, 1), loop

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        c = self.config
        q, k, v = self.qkv(x).view(b, 3, c.heads, c.dim, h * w).unbind(1)
        if self.loop:
            heads = [q[:, i].softmax(1) * v[:, i] for i in range(c.heads)]
            y = torch.cat(heads, 1).view(b, c.width, h, w)
        else:
            mixed = torch.einsum("bhdn,bhen->bhde", k.softmax(-1), v)
            y = torch.einsum("bhde,bhdn->bhen", mixed, q * c.dim**-0.5).reshape(b, c.width, h, w)
        y = y + self.mlp(y).view(b, c.heads * c.dim, h, w)
        out: Tensor = self.last(y)
        return out
