"""Convolutional idioms: shuffles, groups, skips, concatenations, gates, folds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own habit

from suites.micro import case


def image(channels: int = 3, size: int = 12) -> Tensor:
    """A small image."""
    return torch.randn(2, channels, size, size)


def classifier(*body: nn.Module, width: int) -> nn.Sequential:
    """A stem of 16 channels, a body, a head."""
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), *body, *head)


class Shuffle(nn.Module):
    """Channel shuffle as ShuffleNet writes it."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """`b (g c) h w -> b (c g) h w`."""
        b, c, h, w = x.size()
        x = x.view(b, self.groups, c // self.groups, h, w)
        return x.transpose(1, 2).contiguous().view(b, c, h, w)


@case()
def channel_shuffle() -> Any:
    return classifier(
        nn.Conv2d(16, 16, 1, groups=2), Shuffle(2), nn.Conv2d(16, 16, 1, groups=2), width=16
    ), (image(),)


@case()
def channel_shuffle_twice() -> Any:
    grouped = [nn.Conv2d(16, 16, 1, groups=4) for _ in range(3)]
    body = (grouped[0], Shuffle(4), grouped[1], Shuffle(4), grouped[2])
    return classifier(*body, width=16), (image(),)


@case()
def channel_shuffle_module() -> Any:
    return classifier(nn.ChannelShuffle(4), nn.Conv2d(16, 24, 1), width=24), (image(),)


@case()
def depthwise() -> Any:
    return classifier(
        nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 24, 1), nn.BatchNorm2d(24), width=24
    ), (image(),)


@case()
def depthwise_multiplier() -> Any:
    return classifier(nn.Conv2d(16, 32, 3, groups=16), nn.Conv2d(32, 8, 1), width=8), (image(),)


@case()
def transposed() -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.ConvTranspose2d(16, 12, 4, 2), nn.Conv2d(12, 3, 1)
    ), (image(),)


@case()
def transposed_grouped() -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ConvTranspose2d(16, 16, 2, 2, groups=4), nn.Conv2d(16, 3, 1)
    ), (image(),)


@case()
def group_norm() -> Any:
    return classifier(nn.Conv2d(16, 32, 1), nn.GroupNorm(8, 32), nn.SiLU(), width=32), (image(),)


@case()
def instance_norm() -> Any:
    return classifier(nn.InstanceNorm2d(16, affine=True), nn.Conv2d(16, 8, 1), width=8), (image(),)


@case()
def local_response_norm() -> Any:
    body = (nn.LocalResponseNorm(2), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3))
    return classifier(*body, width=32), (image(),)


@case()
def prelu_channels() -> Any:
    return classifier(nn.PReLU(16), nn.Conv2d(16, 8, 1), nn.PReLU(), width=8), (image(),)


@case()
def flatten_to_linear() -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(200, 10),
    ), (image(),)  # fmt: skip


@case()
def pixel_shuffle() -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.PixelShuffle(2), nn.Conv2d(4, 8, 1), nn.PixelUnshuffle(2),
        nn.Conv2d(32, 3, 1),
    ), (image(),)  # fmt: skip


class Residual(nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(width, 24, 3, padding=1), nn.Conv2d(24, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(24)

    def forward(self, x: Tensor) -> Tensor:
        """`x + f(x)`."""
        return F.relu(x + self.b(F.relu(self.norm(self.a(x)))))


@case()
def residual() -> Any:
    return classifier(Residual(16), Residual(16), width=16), (image(),)


class PaddedShortcut(nn.Module):
    """ResNet's shortcut without parameters: strided positions, zero channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 32, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Pads channels on both sides."""
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
        return F.relu(self.conv(x) + short)


@case()
def padded_shortcut() -> Any:
    return classifier(PaddedShortcut(), width=32), (image(size=10),)


class SqueezeExcite(nn.Module):
    """A gate for each channel."""

    def __init__(self, width: int, squeeze: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, squeeze), nn.Linear(squeeze, width)

    def forward(self, x: Tensor) -> Tensor:
        """`x * gate(mean(x))`."""
        b, c, _, _ = x.shape
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3)))))).view(b, c, 1, 1)
        return x * gate.expand_as(x)


@case()
def squeeze_excite() -> Any:
    return classifier(SqueezeExcite(16, 4), nn.Conv2d(16, 8, 1), width=8), (image(),)


class EfficientChannel(nn.Module):
    """ECA: a 1-d convolution slides over the channels, which therefore must stay."""

    def __init__(self) -> None:
        super().__init__()
        self.slide = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`x * sigmoid(slide(mean(x)))`."""
        y = self.slide(x.mean((2, 3))[:, None])
        return x * y.sigmoid().transpose(1, 2).unsqueeze(-1)  # type: ignore[no-any-return]


@case()
def slides_over_channels() -> Any:
    body = (EfficientChannel(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3))
    return classifier(*body, width=32), (image(),)


class Dense(nn.Module):
    """DenseNet's growing concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(16 + 8 * i, 8, 3, padding=1) for i in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Each layer sees all before it."""
        found = [x]
        for layer in self.layers:
            found.append(F.relu(layer(torch.cat(found, 1))))
        return torch.cat(found, 1)


@case()
def dense_concat() -> Any:
    return classifier(Dense(), width=40), (image(),)


class CrossStage(nn.Module):
    """CSP: one half goes through, the other around."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`cat(conv(a), b)`."""
        a, b = x.chunk(2, dim=1)
        return self.out(torch.cat([self.conv(a), b], dim=1))  # type: ignore[no-any-return]


@case()
def chunk_halves() -> Any:
    return classifier(CrossStage(), width=16), (image(),)


class Scales(nn.Module):
    """Res2Net: stretches of channels, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 4
        self.layers = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Hierarchical sums over splits."""
        parts = torch.split(x, self.width, 1)
        out, y = [parts[0]], parts[1]
        for i, layer in enumerate(self.layers):
            y = layer(y if i == 0 else y + parts[i + 1])
            out.append(y)
        return torch.cat(out, 1)


@case()
def scales_of_channels() -> Any:
    return classifier(Scales(), width=16), (image(),)


class Skip(nn.Module):
    """A U-Net with one skip, resized to the size that it meets."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.mid = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.up = nn.Conv2d(24, 8, 3, padding=1)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`cat(skip, resized)`."""
        skip = F.relu(self.down(x))
        deep = F.relu(self.mid(F.max_pool2d(skip, 2)))
        deep = F.interpolate(deep, size=skip.shape[-2:], mode="bilinear", align_corners=False)
        return self.out(F.relu(self.up(torch.cat([skip, deep], 1))))  # type: ignore[no-any-return]


@case()
def unet_skip() -> Any:
    return Skip(), (image(),)


class Unfolded(nn.Module):
    """Convolution as a matrix product of unfolded patches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.weight = nn.Parameter(torch.randn(6, 8 * 9))

    def forward(self, x: Tensor) -> Tensor:
        """`fold(weight @ unfold(x))`."""
        patches = F.unfold(self.stem(x), 3)
        y = self.weight @ patches
        return F.fold(y, (x.shape[2] - 2, x.shape[3] - 2), 1)


@case()
def unfold_and_fold() -> Any:
    return Unfolded(), (image(),)


class Gated(nn.Module):
    """A gated linear unit over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 32, 3), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`glu`."""
        return self.out(F.glu(self.conv(x), dim=1))  # type: ignore[no-any-return]


@case()
def gated_linear_unit() -> Any:
    return Gated(), (image(),)


@case()
def softmax_over_channels() -> Any:
    return classifier(nn.Conv2d(16, 12, 1), nn.Softmax(dim=1), width=12), (image(),)


@case()
def adaptive_pool_to_grid() -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(3), nn.Flatten(1), nn.Linear(72, 16), nn.ReLU(),
        nn.Dropout(), nn.Linear(16, 4),
    ), (image(),)  # fmt: skip


@case()
def volumes() -> Any:
    return nn.Sequential(
        nn.Conv3d(1, 8, 3), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(8, 4, 1),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2),
    ), (torch.randn(1, 1, 8, 8, 8),)  # fmt: skip


@case()
def channels_last() -> Any:
    model = classifier(nn.Conv2d(16, 24, 3), nn.BatchNorm2d(24), width=24)
    return model.to(memory_format=torch.channels_last), (  # type: ignore[call-overload]
        image().to(memory_format=torch.channels_last),
    )
