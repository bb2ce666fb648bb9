"""Products of a sparse weight with dense activations: one function for each kernel."""

from __future__ import annotations

from ctypes import byref
from typing import Any, NamedTuple

import torch
from torch import Tensor

from excise.sparse.kernels.geometry import Geometry
from excise.sparse.kernels.library import (
    Finish,
    Library,
    Mask,
    Matrix,
    Product,
    ShortMatrix,
    Window,
    library,
)
from excise.sparse.kernels.matrix import Bits, Blocks, Tile

ACTIVATIONS = {
    name: number
    for number, name in enumerate(
        ("none", "relu", "relu6", "gelu", "gelu_tanh", "silu", "hardswish", "sigmoid", "tanh")
    )
}
"""As common.h numbers them."""


class Ending(NamedTuple):
    """What happens to each output before it is written: `activation(y + bias + residual)`.

    Attributes:
        bias: one for each row.
        residual: laid out as the output.
        activation: a name of `ACTIVATIONS`.
        late: the residual is added after the activation: `activation(y + bias) + residual`.
    """

    bias: Tensor | None = None
    residual: Tensor | None = None
    activation: str = "none"
    late: bool = False

    @property
    def wide(self) -> Ending:
        """The same in float32, as kernels take it."""
        bias = None if self.bias is None else self.bias.float()
        residual = None if self.residual is None else self.residual.float()
        return self._replace(bias=bias, residual=residual)

    def struct(self) -> Finish:
        """For the kernels; the tensors have to live as long."""
        bias = None if self.bias is None else self.bias.data_ptr()
        residual = None if self.residual is None else self.residual.data_ptr()
        return Finish(bias, residual, ACTIVATIONS[self.activation], int(self.late))


def linear(a: Blocks, x: Tensor, ending: Ending, *, tiles: int) -> Tensor:
    """`x @ weight.T` of x (n, columns): (n, rows). All tensors contiguous, float32, on the CPU."""
    y = x.new_empty(x.shape[0], a.sizes[0])
    made = Product(
        x.data_ptr(), 1, x.shape[0], 0, a.sizes[1], y.data_ptr(), 0, a.sizes[0],
        tiles, 0, torch.get_num_threads(),
    )  # fmt: skip
    _check(_code().excise_linear(byref(_matrix(a)), byref(made), byref(ending.struct())))
    return y


def conv2d(
    a: Blocks,
    x: Tensor,
    geometry: Geometry,
    ending: Ending,
    *,
    tiles: int = 4,
    in_place: bool = False,
    tile: Tile | None = None,
) -> Tensor:
    """A convolution without groups, of x (n, channels, y, x); contiguous, float32, on the CPU.

    Directly if `tile` is given, with blocks from `direct_of`; else by unfolding.
    """
    n, channels, high, wide = x.shape
    out = geometry.out((high, wide))
    y = x.new_empty(n, a.sizes[0], *out)
    places = out[0] * out[1]
    made = Product(
        x.data_ptr(), n, places, channels * high * wide, high * wide,
        y.data_ptr(), a.sizes[0] * places, places, tiles, int(in_place), torch.get_num_threads(),
    )  # fmt: skip
    finish = ending.struct()
    if tile is None and geometry.is_product:
        failed = _code().excise_spmm(byref(_matrix(a)), byref(made), byref(finish))
    else:
        window = window_of(geometry, (channels, high, wide))
        given = (byref(_matrix(a)), byref(made), byref(window), byref(finish))
        code = _code()
        failed = code.excise_conv(*given) if tile is None else code.excise_direct(*given, *tile)
    _check(failed)
    return y


def depthwise(weight: Tensor, x: Tensor, geometry: Geometry, ending: Ending) -> Tensor:
    """A dense convolution of each channel of x (n, channels, y, x) by itself.

    Args:
        weight: (channels, 1, y, x). All tensors contiguous, float32, on the CPU.
        x: the input.
        geometry: of the convolution.
        ending: of each output.
    """
    made, window, y = _planes(x, geometry)
    given = (weight.data_ptr(), byref(made), byref(window), byref(ending.struct()))
    _check(_code().excise_depthwise(*given))
    return y


def largest(x: Tensor, geometry: Geometry) -> Tensor:
    """The largest of each window of x (n, channels, y, x); nothing lies outside of it."""
    made, window, y = _planes(x, geometry)
    _check(_code().excise_largest(byref(made), byref(window)))
    return y


def mean(x: Tensor) -> Tensor:
    """The mean of each plane of x (n, channels, y, x): (n, channels)."""
    y, places = x.new_empty(x.shape[:2]), x.shape[2] * x.shape[3]
    made = Product(
        x.data_ptr(),
        y.numel(),
        places,
        0,
        places,
        y.data_ptr(),
        0,
        0,
        0,
        0,
        torch.get_num_threads(),
    )
    _check(_code().excise_mean(byref(made)))
    return y


def _planes(x: Tensor, geometry: Geometry) -> tuple[Product, Window, Tensor]:
    n, channels, high, wide = x.shape
    out = geometry.out((high, wide))
    y, places = x.new_empty(n, channels, *out), out[0] * out[1]
    made = Product(
        x.data_ptr(), n, places, channels * high * wide, high * wide,
        y.data_ptr(), channels * places, places, 0, 0, torch.get_num_threads(),
    )  # fmt: skip
    return made, window_of(geometry, (channels, high, wide)), y


def window_of(geometry: Geometry, size: tuple[int, int, int]) -> Window:
    """For the kernels: a geometry on images of (channels, y, x)."""
    pairs = (n for pair in geometry for n in pair)
    return Window(*size, *pairs, *geometry.out(size[1:]))


def gemv(a: Blocks | Bits, x: Tensor, ending: Ending) -> Tensor:
    """`weight @ x` of one x (columns): (rows), in float32. `Blocks` have to be a single block.

    Where the values are bfloat16, so is x, and each product of two is added up in float32.
    """
    y = x.new_empty(a.sizes[0], dtype=torch.float32)
    short, code = a.value.dtype is torch.bfloat16, _code()
    last = (y.data_ptr(), byref(ending.struct()), torch.get_num_threads())
    if isinstance(a, Bits):
        words = a.mask.shape[1]
        whole = x.new_zeros(words * 64)
        whole[: x.shape[0]] = x
        mask = Mask(a.value.data_ptr(), a.mask.data_ptr(), a.pointer.data_ptr(), a.sizes[0], words)
        given = (byref(mask), whole.data_ptr(), *last)
        if short:
            failed = code.excise_gemv_mask_short(*given, int(_found().dots))
        else:
            failed = code.excise_gemv_mask(*given)
    elif short:
        wide = x.float()
        pointers = (a.value.data_ptr(), a.column.data_ptr(), a.pointer.data_ptr())
        failed = code.excise_gemv_short(
            byref(ShortMatrix(*pointers, a.sizes[0])), wide.data_ptr(), *last
        )
    else:
        failed = code.excise_gemv(byref(_matrix(a)), x.data_ptr(), *last)
    _check(failed)
    return y


def _matrix(a: Blocks) -> Matrix:
    return Matrix(a.value.data_ptr(), a.column.data_ptr(), a.pointer.data_ptr(), *a.sizes)


def _found() -> Library:
    found = library()
    assert isinstance(found, Library)  # noqa: S101 - layers ask before they call
    return found


def _code() -> Any:
    return _found().code


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("no memory for the scratch space of a sparse product")
