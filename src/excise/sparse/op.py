"""The kernels as operators of torch, which compilers, exporters and fake tensors see."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from excise.sparse.kernels import Bits, Blocks, Ending, Geometry, Rows, Tile, conv2d, gemv, linear
from excise.sparse.kernels import borrowed as lent
from excise.sparse.kernels.product import ACTIVATIONS

_NAMES = {number: name for name, number in ACTIVATIONS.items()}
LINEAR = (
    "sparse_linear(Tensor x, Tensor value, Tensor column, Tensor pointer, Tensor? bias, "
    "int[] sizes, str kind, int tiles) -> Tensor"
)
CONV = (
    "sparse_conv2d(Tensor x, Tensor value, Tensor column, Tensor pointer, Tensor? bias, "
    "Tensor? residual, int[] sizes, int[] geometry, int activation, int tiles, bool in_place, "
    "int rows) "
    "-> Tensor"
)
_library = torch.library.Library("excise", "DEF")
_library.define(LINEAR)
_library.define(CONV)


def _linear(  # noqa: PLR0917 - an operator's schema is positional
    x: Tensor,
    value: Tensor,
    column: Tensor,
    pointer: Tensor,
    bias: Tensor | None,
    sizes: Sequence[int],
    kind: str,
    tiles: int,
) -> Tensor:
    rows, columns, *rest = sizes
    flat, ending = x.contiguous().view(-1, columns), Ending(bias).wide
    if kind == "tiles":
        flat = flat.float()  # bfloat16 is multiplied in float32, and rounded once at the end
    if kind == "torch":
        y = lent.linear(Rows(value, column, pointer, (rows, columns)), flat.float(), ending.bias)
    elif kind == "mask":
        y = gemv(Bits(value, column, pointer, (rows, columns)), flat[0], ending)
    else:
        blocks = Blocks(value, column, pointer, (rows, columns, rest[0], rest[1]))
        one = kind == "gemv"
        y = gemv(blocks, flat[0], ending) if one else linear(blocks, flat, ending, tiles=tiles)
    return y.view(*x.shape[:-1], rows).to(x.dtype)


def _conv2d(  # noqa: PLR0917 - as above
    x: Tensor,
    value: Tensor,
    column: Tensor,
    pointer: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    sizes: Sequence[int],
    geometry: Sequence[int],
    activation: int,
    tiles: int,
    in_place: bool,  # noqa: FBT001 - as the operator's schema has it
    rows: int,
) -> Tensor:
    if not tiles:  # torch's own product, which has no endings
        a = Rows(value, column, pointer, (sizes[0], sizes[1]))
        y = lent.conv2d(a, x.float(), geometry_of(geometry), Ending(bias).wide.bias)
        return y.to(x.dtype)
    residual = None if residual is None else residual.contiguous()
    y = conv2d(
        Blocks(value, column, pointer, (sizes[0], sizes[1], sizes[2], sizes[3])),
        x.contiguous().float(),
        geometry_of(geometry),
        Ending(bias, residual, _NAMES[activation]).wide,
        tiles=tiles,
        in_place=in_place,
        tile=Tile(rows, tiles) if rows else None,
    )
    return y.to(x.dtype)


def geometry_of(numbers: Sequence[int]) -> Geometry:
    """Eight numbers: kernel, stride, padding and dilation, each y and x."""
    pairs = [(numbers[i], numbers[i + 1]) for i in range(0, 8, 2)]
    return Geometry(*pairs)


def _linear_shape(x: Tensor, *rest: object) -> Tensor:
    sizes = rest[4]
    assert isinstance(sizes, Sequence)  # noqa: S101 - for the type checker
    return x.new_empty(*x.shape[:-1], sizes[0])


def _conv2d_shape(x: Tensor, *rest: object) -> Tensor:
    sizes, geometry = rest[5], rest[6]
    assert isinstance(sizes, Sequence)  # noqa: S101 - for the type checker
    assert isinstance(geometry, Sequence)  # noqa: S101 - for the type checker
    out = geometry_of(geometry).out((x.shape[2], x.shape[3]))
    return x.new_empty(x.shape[0], sizes[0], *out)


_library.impl("sparse_linear", _linear, "CPU")
_library.impl("sparse_conv2d", _conv2d, "CPU")
torch.library.register_fake("excise::sparse_linear", _linear_shape, lib=_library)
torch.library.register_fake("excise::sparse_conv2d", _conv2d_shape, lib=_library)
sparse_linear = torch.ops.excise.sparse_linear.default
sparse_conv2d = torch.ops.excise.sparse_conv2d.default
