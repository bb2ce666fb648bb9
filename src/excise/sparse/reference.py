"""What every kernel computes, in plain torch: the definition that tests hold kernels against."""

from __future__ import annotations

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


def _ended(y: Tensor, ending: Ending) -> Tensor:
    y = y if ending.residual is None else y + ending.residual
    if ending.activation == "relu":
        return y.relu()
    return functional.relu6(y) if ending.activation == "relu6" else y
