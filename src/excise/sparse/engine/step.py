"""One call of a kernel, all of it made ready: what it costs beside the kernel is little."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import byref
from typing import Any, NamedTuple

import torch
from torch import Tensor

from excise.sparse.engine.layout import Place
from excise.sparse.engine.pattern import Layer
from excise.sparse.kernels import Blocks, Library, Tile, bits_of, blocks_of, direct_of, library
from excise.sparse.kernels.library import Finish, Mask, Matrix, Product, Window
from excise.sparse.kernels.matrix import MOST_COLUMNS
from excise.sparse.kernels.product import ACTIVATIONS, window_of
from excise.sparse.layer import Way

_WHOLE, _SLACK = 1, 2  # of `in_place`, in common.h


class Frame(NamedTuple):
    """What every kernel is told, and how its result lies."""

    product: Product
    finish: Finish
    place: Place


class Step:
    """A kernel with all its arguments but where its input and output are.

    Attributes:
        frame: of the kernel.
        out: where the result is written; None: into a new tensor at each call.
        loose: the input may lie in any way, and is copied if it is not in one piece.
    """

    def __init__(
        self, call: Callable[..., int], arguments: Sequence[Any], frame: Frame, *kept: Any
    ) -> None:
        self.call, self.arguments, self.frame = call, tuple(arguments), frame
        self.kept = kept  # tensors and structures that the arguments point to
        self.out: Tensor | None = None
        self.loose = True
        self.__name__ = self.__qualname__ = "step"  # graphs ask what they call for its name

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Run it."""
        product, finish, place = self.frame
        out = self.out
        if self.loose and not x.is_contiguous():
            x = x.contiguous()
        if out is None:
            out = torch.empty(place.shape)
        product.x, product.y = x.data_ptr(), out.data_ptr()
        if residual is not None:
            if residual.stride() != place.stride:
                residual = residual.contiguous()
            finish.residual = residual.data_ptr()
        if self.call(*self.arguments):
            raise MemoryError("no memory for the scratch space of a sparse product")
        return out


class Row(Step):
    """The kernels for one row take the places of input and output as arguments."""

    def __init__(
        self, call: Callable[..., int], arguments: Sequence[Any], frame: Frame, *kept: Any
    ) -> None:
        super().__init__(self._called, (), frame, *kept)
        self._kernel, (self._weight,) = call, arguments

    def _called(self) -> int:
        product, finish, _ = self.frame
        given = (product.x, product.y, byref(finish), product.threads)
        return self._kernel(self._weight, *given)


def step_of(layer: Layer, way: Way, source: Place, place: Place) -> Step | None:
    """A layer's step in one way; None if that way does not apply to it.

    Args:
        layer: with its weight.
        way: how it runs.
        source: how its input lies.
        place: how its result is to lie.
    """
    found = library()
    assert isinstance(found, Library)  # noqa: S101 - the backend asks before it plans
    bias = None if layer.bias is None else layer.bias.contiguous()
    shift = None if bias is None else bias.data_ptr()
    finish = Finish(shift, None, ACTIVATIONS[layer.activation], int(layer.late))
    product = Product(tiles=way.tiles, threads=torch.get_num_threads())
    frame = Frame(product, finish, place)
    if layer.kind == "linear":
        return _linear(found.code, layer, way, source, frame, bias)
    images, channels, high, wide = source.shape
    product.images, product.columns = images, high * wide
    product.x_image, product.x_pitch = channels * source.plane, source.plane
    product.y_image, product.y_pitch = place.stride[0], place.plane
    if layer.kind == "mean":
        product.images *= channels
        return Step(found.code.excise_mean, (byref(product),), frame)
    assert layer.geometry is not None  # noqa: S101 - all but means have one
    window = window_of(layer.geometry, (channels, high, wide))
    window.out_y, window.out_x = place.shape[2:]
    product.columns = window.out_y * window.out_x
    if layer.kind == "largest":
        return Step(found.code.excise_largest, (byref(product), byref(window)), frame, window)
    assert layer.weight is not None  # noqa: S101 - the rest have weights
    if layer.kind == "depthwise":
        weight = layer.weight.contiguous()
        given = (weight.data_ptr(), byref(product), byref(window), byref(finish))
        return Step(found.code.excise_depthwise, given, frame, weight, bias, window)
    product.in_place = (_SLACK if source.ours else _WHOLE) if way.in_place else 0
    return _convolution(found.code, layer, way, window, frame, bias)


def _convolution(  # noqa: PLR0917 - private
    code: Any, layer: Layer, way: Way, window: Window, frame: Frame, bias: Tensor | None
) -> Step | None:
    assert layer.weight is not None  # noqa: S101 - a convolution has one
    assert layer.geometry is not None  # noqa: S101 - the same
    flat = layer.weight.reshape(layer.weight.shape[0], -1).contiguous()
    product, ending = byref(frame.product), byref(frame.finish)
    if way.kind == "direct":
        blocks = direct_of(flat, way.block, layer.geometry, Tile(way.rows, way.tiles))
        if blocks is None:
            return None
        matrix = _matrix(blocks)
        tile = (byref(matrix), product, byref(window), ending, way.rows, way.tiles)
        return Step(code.excise_direct, tile, frame, blocks, bias, window, matrix)
    blocks = blocks_of(flat, way.block)
    matrix = _matrix(blocks)
    if layer.geometry.is_product:
        return Step(code.excise_spmm, (byref(matrix), product, ending), frame, blocks, bias, matrix)
    given = (byref(matrix), product, byref(window), ending)
    return Step(code.excise_conv, given, frame, blocks, bias, window, matrix)


def _linear(  # noqa: PLR0917 - private
    code: Any, layer: Layer, way: Way, source: Place, frame: Frame, bias: Tensor | None
) -> Step:
    assert layer.weight is not None  # noqa: S101 - a linear layer has one
    weight = layer.weight.contiguous()
    rows, columns = weight.shape
    product = frame.product
    product.images, product.columns = 1, source.floats // columns
    product.x_pitch, product.y_pitch = columns, rows
    if way.kind == "mask":
        bits = bits_of(weight)
        words = bits.mask.shape[1]
        mask = Mask(
            bits.value.data_ptr(), bits.mask.data_ptr(), bits.pointer.data_ptr(), rows, words
        )
        return Row(code.excise_gemv_mask, (byref(mask),), frame, bits, bias, mask)
    if way.kind == "gemv":
        blocks = blocks_of(weight, MOST_COLUMNS, span=1)
        matrix = _matrix(blocks)
        return Row(code.excise_gemv, (byref(matrix),), frame, blocks, bias, matrix)
    blocks = blocks_of(weight, way.block)
    matrix = _matrix(blocks)
    given = (byref(matrix), byref(product), byref(frame.finish))
    return Step(code.excise_linear, given, frame, blocks, bias, matrix)


def _matrix(a: Blocks) -> Matrix:
    return Matrix(a.value.data_ptr(), a.column.data_ptr(), a.pointer.data_ptr(), *a.sizes)
