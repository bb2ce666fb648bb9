"""Products of random sparse weights, held against plain torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from excise.sparse import reference
from excise.sparse.engine.choice import _space
from excise.sparse.engine.layout import Place
from excise.sparse.engine.pattern import Layer
from excise.sparse.engine.step import step_of
from excise.sparse.kernels import (
    Ending,
    Geometry,
    Tile,
    bits_of,
    blocks_of,
    conv2d,
    depthwise,
    direct_of,
    gemv,
    largest,
    linear,
    mean,
)
from excise.sparse.layer import Way

LINEARS = [  # rows, columns, tokens, block, tiles
    (1, 1, 1, 1, 1), (5, 7, 3, 4, 1), (33, 130, 17, 64, 2), (64, 300, 129, 128, 3),
    (17, 31, 64, 999, 4), (40, 65, 5, 16, 7), (96, 96, 200, 32, 8),
]  # fmt: skip
CONVS = [  # images, channels, high, wide, rows, kernel, stride, padding, dilation
    (1, 3, 9, 9, 5, 3, 1, 1, 1), (2, 16, 14, 14, 33, 3, 2, 1, 1), (1, 8, 20, 13, 17, 5, 1, 2, 2),
    (2, 32, 7, 7, 40, 1, 1, 0, 1), (1, 6, 16, 16, 7, 1, 1, 0, 1), (1, 16, 9, 9, 8, 1, 2, 0, 1),
    (1, 4, 8, 8, 3, 3, 1, 0, 1), (1, 3, 11, 40, 4, 7, 2, 3, 1), (3, 2, 5, 6, 3, 2, 1, 1, 1),
]  # fmt: skip
TILES = (Tile(1, 1), Tile(1, 8), Tile(2, 4), Tile(3, 2), Tile(8, 1))
PLANES = [  # images, channels, high, wide, kernel, stride, padding, dilation
    (1, 3, 9, 9, 3, 1, 1, 1), (2, 5, 14, 15, 3, 2, 1, 1), (1, 2, 40, 37, 5, 1, 2, 1),
    (1, 4, 23, 20, 5, 2, 2, 1), (1, 3, 17, 33, 7, 1, 3, 1), (2, 3, 12, 9, 3, 1, 2, 2),
    (1, 2, 10, 50, 2, 3, 0, 1), (3, 4, 7, 7, 3, 1, 1, 1), (1, 1, 1, 1, 1, 1, 0, 1),
]  # fmt: skip
PAIRS = [  # images, channels, high, wide, rows, kernel, stride, tiles, block, channels at a time
    (1, 6, 9, 9, 20, 3, 1, 2, 4, 8), (2, 16, 14, 15, 33, 3, 2, 8, 64, 16),
    (1, 5, 7, 7, 3, 5, 1, 4, 9, 8), (1, 9, 20, 23, 12, 5, 2, 3, 16, 4),
    (2, 4, 8, 8, 10, 2, 1, 4, 8, 32), (1, 8, 13, 30, 9, 7, 1, 6, 8, 2),
]  # fmt: skip
_CLOSE = 1e-5  # of the sum of magnitudes that went into an output


def sparse(rows: int, columns: int, zeros: float = 0.7) -> Tensor:
    """A weight with zeros, with an empty row and an empty column where there is room."""
    weight = torch.randn(rows, columns) * (torch.rand(rows, columns) >= zeros)
    if rows > 2 and columns > 2:
        weight[rows // 2] = 0
        weight[:, columns // 3] = 0
    return weight


def endings(like: Tensor, rows: int) -> list[Ending]:
    """With and without bias, residual and activations."""
    bias, residual = torch.randn(rows), torch.randn_like(like)
    return [
        Ending(), Ending(bias), Ending(bias, residual), Ending(None, residual, "relu"),
        Ending(bias, None, "relu6"), Ending(bias, residual, "relu6"),
        Ending(bias, residual, "relu", late=True), Ending(bias, None, "gelu"),
        Ending(bias, residual, "silu"), Ending(None, residual, "gelu_tanh", late=True),
    ]  # fmt: skip


def agree(found: Tensor, wanted: Tensor, size: float) -> None:
    """To rounding, in units of what was added up."""
    assert found.shape == wanted.shape
    assert bool(((found - wanted).abs() <= _CLOSE * max(1.0, size)).all())


def check_linear(rows: int, columns: int, tokens: int, block: int, tiles: int) -> None:
    """One product with every ending."""
    weight, x = sparse(rows, columns), torch.randn(tokens, columns)
    size = float((x.abs() @ weight.abs().T).max())
    for ending in endings(torch.empty(tokens, rows), rows):
        found = linear(blocks_of(weight, block), x, ending, tiles=tiles)
        agree(found, reference.linear(weight, x, ending), size)
    full = torch.randn(rows, columns)  # rows without zeros are worked on by fours
    wanted = reference.linear(full, x, Ending(activation="relu"))
    found = linear(blocks_of(full, block), x, Ending(activation="relu"), tiles=tiles)
    agree(found, wanted, float((x.abs() @ full.abs().T).max()))


def check_gemv(rows: int, columns: int) -> None:
    """One row, both ways, with every ending."""
    weight, x = sparse(rows, columns), torch.randn(columns)
    for ending in endings(torch.empty(rows), rows):
        wanted = reference.linear(weight, x[None], ending)[0]
        for a in (blocks_of(weight, 1 << 16), bits_of(weight)):
            agree(gemv(a, x, ending), wanted, float((weight.abs() @ x.abs()).max()))


def check_conv(  # noqa: PLR0917 - a row of the table above
    images: int, channels: int, high: int, wide: int, rows: int,
    kernel: int, stride: int, padding: int, dilation: int,
) -> None:  # fmt: skip
    """One convolution with every ending, for few and many tiles, packed and in place."""
    geometry = Geometry(*[(n, n) for n in (kernel, stride, padding, dilation)])
    weight = sparse(rows, channels * kernel * kernel)
    x = torch.randn(images, channels, high, wide)
    shaped = weight.view(rows, channels, kernel, kernel)
    plain = reference.conv2d(shaped, x, geometry, Ending())
    size = float(reference.conv2d(shaped.abs(), x.abs(), geometry, Ending()).max())
    for ending in endings(plain, rows):
        wanted = reference.conv2d(shaped, x, geometry, ending)
        for tiles, block, in_place in ((1, 16, False), (4, 64, True), (7, 999, False)):
            blocks = blocks_of(weight, block)
            found = conv2d(blocks, x, geometry, ending, tiles=tiles, in_place=in_place)
            agree(found, wanted, size)
        for tile in TILES:
            direct = direct_of(weight, 2, geometry, tile)
            assert direct is not None
            agree(conv2d(direct, x, geometry, ending, tile=tile), wanted, size)


def check_planes(  # noqa: PLR0917 - a row of the table above
    images: int, channels: int, high: int, wide: int,
    kernel: int, stride: int, padding: int, dilation: int,
) -> None:  # fmt: skip
    """One geometry: depthwise with every ending, the largest of each window, the mean."""
    geometry = Geometry(*[(n, n) for n in (kernel, stride, padding, dilation)])
    weight, x = torch.randn(channels, 1, kernel, kernel), torch.randn(images, channels, high, wide)
    plain = reference.depthwise(weight, x, geometry, Ending())
    size = float(reference.depthwise(weight.abs(), x.abs(), geometry, Ending()).max())
    for ending in endings(plain, channels):
        wanted = reference.depthwise(weight, x, geometry, ending)
        agree(depthwise(weight, x, geometry, ending), wanted, size)
    agree(mean(x), reference.mean(x), float(x.abs().max()))
    if 2 * padding <= kernel:
        x[0, 0, 0, 0] = float("nan")
        found, wanted = largest(x, geometry), reference.largest(x, geometry)
        assert torch.equal(found.nan_to_num(7), wanted.nan_to_num(7))


def check_pair(  # noqa: PLR0917 - a row of the table above
    images: int, channels: int, high: int, wide: int, rows: int,
    kernel: int, stride: int, tiles: int, block: int, each: int,
) -> None:  # fmt: skip
    """A 1x1 convolution and a depthwise one in one call, with planes in one piece and apart."""
    one = Geometry((1, 1), (1, 1), (0, 0), (1, 1))
    two = Geometry(*[(n, n) for n in (kernel, stride, kernel // 2, 1)])
    weight, deep = sparse(rows, channels), torch.randn(rows, 1, kernel, kernel)
    bias, shift, x = torch.randn(rows), torch.randn(rows), torch.randn(images, channels, high, wide)
    shaped = weight.view(rows, channels, 1, 1)
    between = reference.conv2d(shaped, x, one, Ending(bias, activation="relu6"))
    size = float(reference.depthwise(deep.abs(), between.abs(), two, Ending()).max()) + 1
    for ending in endings(reference.depthwise(deep, between, two, Ending(shift)), rows):
        wanted = reference.depthwise(deep, between, two, ending)
        node: Any = None
        first = Layer("conv", node, node, one, shaped, bias, activation="relu6")
        second = Layer("depthwise", node, node, two, deep, ending.bias)
        pair = Layer(
            "pair", node, node, two, shaped, ending.bias, node, ending.activation, ending.late,
            parts=(first, second),
        )  # fmt: skip
        for apart in (False, True):
            source, place = _lying(x.shape, apart=apart), _lying(wanted.shape, apart=apart)
            step = step_of(pair, Way("pair", tiles, block, rows=each), source, place)
            assert step is not None
            step.out = _space(place)
            given = [t for t in (x, ending.residual) if t is not None]
            spaces = [_space(p).copy_(t) for p, t in zip((source, place), given, strict=False)]
            agree(step(*spaces), wanted, size)


def _lying(shape: tuple[int, ...], *, apart: bool) -> Place:
    floats = shape[2] * shape[3]
    return Place(tuple(shape), -(-floats // 16) * 16 if apart else floats, apart)
