"""What every kernel computes, in plain torch: the definition that tests hold kernels against."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from excise.sparse.kernels import Ending, Geometry


def linear(weight: Tensor, x: Tensor, ending: Ending) -> Tensor:
    """`activation(x @ weight.T + bias + residual)` of x (n, columns)."""
    return _ended(functional.linear(x, weight, ending.bias), ending)


def conv2d(weight: Tensor, x: Tensor, geometry: Geometry, ending: Ending) -> Tensor:
    """`activation(conv(x) + residual)` of x (n, channels, y, x), without groups."""
    return _ended(
        functional.conv2d(
            x, weight, ending.bias, geometry.stride, geometry.padding, geometry.dilation
        ),
        ending,
    )


def depthwise(weight: Tensor, x: Tensor, geometry: Geometry, ending: Ending) -> Tensor:
    """`activation(conv(x) + residual)` of x (n, channels, y, x), each channel by itself."""
    _, stride, padding, dilation = geometry
    return _ended(
        functional.conv2d(x, weight, ending.bias, stride, padding, dilation, x.shape[1]), ending
    )


def largest(x: Tensor, geometry: Geometry) -> Tensor:
    """The largest of each window of x (n, channels, y, x)."""
    out: Tensor = functional.max_pool2d(x, *geometry)
    return out


def mean(x: Tensor) -> Tensor:
    """The mean of each plane of x (n, channels, y, x)."""
    return x.mean((2, 3))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda y: y,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "gelu": functional.gelu,
    "gelu_tanh": lambda y: functional.gelu(y, approximate="tanh"),
    "silu": functional.silu,
    "hardswish": functional.hardswish,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


def _ended(y: Tensor, ending: Ending) -> Tensor:
    activation = ACTIVATIONS[ending.activation]
    if ending.residual is None:
        return activation(y)
    return activation(y) + ending.residual if ending.late else activation(y + ending.residual)
