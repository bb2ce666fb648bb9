"""One call of a kernel, all of it made ready: what it costs beside the kernel is little."""

from __future__ import annotations

from ctypes import Structure, addressof
from typing import Any, NamedTuple

import torch
from torch import Tensor

from excise.sparse.engine.layout import Place
from excise.sparse.engine.pattern import Layer
from excise.sparse.kernels import Blocks, Library, Tile, bits_of, blocks_of, direct_of, library
from excise.sparse.kernels.library import KINDS, Finish, Mask, Matrix, Pair, Product, Stage, Window
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
    """A call of a kernel with all that it is told but where its input and output are.

    Attributes:
        stage: as the kernels take it.
        frame: of the kernel.
        out: where the result is written; None: into a new tensor at each call.
    """

    def __init__(self, kind: str, frame: Frame, weight: Any = None, **told: Any) -> None:
        self.frame, self.kept = frame, (weight, told)  # what the stage points to lives as long
        where = addressof(weight) if isinstance(weight, Structure) else weight
        if isinstance(weight, Tensor):
            where = weight.data_ptr()
        window = told.get("window")
        self.stage = Stage(
            KINDS.index(kind), where, addressof(frame.product),
            None if window is None else addressof(window), addressof(frame.finish),
            told.get("rows", 0), told.get("vectors", 0),
        )  # fmt: skip
        self.out: Tensor | None = None

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Run it alone, on tensors that lie as they should."""
        product, finish, place = self.frame
        out = torch.empty(place.shape) if self.out is None else self.out
        product.x, product.y = x.data_ptr(), out.data_ptr()
        if residual is not None:
            finish.residual = residual.data_ptr()
        run(self.stage, 1)
        return out


def run(stages: Any, count: int) -> None:
    """Run so many stages, one after the other.

    Raises:
        MemoryError: there was none for what a kernel writes down in between.
    """
    found = library()
    assert isinstance(found, Library)  # noqa: S101 - the backend asks before it plans
    if found.code.excise_run(stages, count):
        raise MemoryError("no memory for the scratch space of a sparse product")


def step_of(layer: Layer, way: Way, source: Place, place: Place) -> Step | None:
    """A layer's step in one way; None if that way does not apply to it.

    Args:
        layer: with its weight.
        way: how it runs.
        source: how its input lies.
        place: how its result is to lie.
    """
    bias, finish = _ending(layer)
    product = Product(tiles=way.tiles, threads=torch.get_num_threads())
    frame = Frame(product, finish, place)
    if layer.kind == "linear":
        return _linear(layer, way, source, frame, bias)
    if layer.parts is not None:
        return _pair(layer.parts, way, source, frame, bias)
    images, channels, high, wide = source.shape
    product.images, product.columns = images, high * wide
    product.x_image, product.x_pitch = channels * source.plane, source.plane
    product.y_image, product.y_pitch = place.stride[0], place.plane
    if layer.kind == "mean":
        product.images *= channels
        return Step("mean", frame)
    assert layer.geometry is not None  # noqa: S101 - all but means have one
    window = window_of(layer.geometry, (channels, high, wide))
    window.out_y, window.out_x = place.shape[2:]
    product.columns = window.out_y * window.out_x
    if layer.kind == "largest":
        return Step("largest", frame, window=window)
    assert layer.weight is not None  # noqa: S101 - the rest have weights
    if layer.kind == "depthwise":
        return Step("depthwise", frame, layer.weight.contiguous(), window=window, bias=bias)
    product.in_place = (_SLACK if source.ours else _WHOLE) if way.in_place else 0
    return _convolution(layer, way, window, frame, bias)


def _ending(layer: Layer) -> tuple[Tensor | None, Finish]:
    bias = None if layer.bias is None else layer.bias.contiguous()
    shift = None if bias is None else bias.data_ptr()
    return bias, Finish(shift, None, ACTIVATIONS[layer.activation], int(layer.late))


def _convolution(
    layer: Layer, way: Way, window: Window, frame: Frame, bias: Tensor | None
) -> Step | None:
    assert layer.weight is not None  # noqa: S101 - a convolution has one
    assert layer.geometry is not None  # noqa: S101 - the same
    flat = layer.weight.reshape(layer.weight.shape[0], -1).contiguous()
    if way.kind == "direct":
        direct = direct_of(flat, way.block, layer.geometry, Tile(way.rows, way.tiles))
        if direct is None:
            return None
        tile = {"rows": way.rows, "vectors": way.tiles}
        return Step("direct", frame, _matrix(direct), window=window, kept=(direct, bias), **tile)
    blocks = _blocks(layer, flat, way.block)
    kind = "spmm" if layer.geometry.is_product else "conv"
    return Step(kind, frame, _matrix(blocks), window=window, kept=(blocks, bias))


def _pair(
    parts: tuple[Layer, Layer], way: Way, source: Place, frame: Frame, bias: Tensor | None
) -> Step:
    """Two layers, `way.rows` channels of what lies between them at a time."""
    first, second = parts
    assert first.weight is not None  # noqa: S101 - both are convolutions
    assert second.weight is not None  # noqa: S101 - the same
    assert second.geometry is not None  # noqa: S101 - the same
    images, channels, high, wide = source.shape
    product, _, place = frame
    product.images, product.x_image, product.x_pitch = images, channels * source.plane, source.plane
    product.columns = place.shape[2] * place.shape[3]
    product.y_image, product.y_pitch = place.stride[0], place.plane
    product.in_place = _SLACK if source.ours else _WHOLE
    window = window_of(second.geometry, (place.shape[1], high, wide))
    window.out_y, window.out_x = place.shape[2:]
    flat = first.weight.reshape(first.weight.shape[0], -1).contiguous()
    blocks = blocks_of(flat, way.block, way.rows)
    matrix, (shift, inner) = _matrix(blocks), _ending(first)
    weight = second.weight.contiguous()
    told = (addressof(matrix), addressof(inner), high * wide, way.rows, weight.data_ptr())
    kept = (matrix, inner, blocks, shift, weight, bias)
    return Step("pair", frame, Pair(*told), window=window, kept=kept)


def _linear(layer: Layer, way: Way, source: Place, frame: Frame, bias: Tensor | None) -> Step:
    assert layer.weight is not None  # noqa: S101 - a linear layer has one
    weight = layer.weight.contiguous()
    rows, columns = weight.shape
    product = frame.product
    product.images, product.columns = 1, source.floats // columns
    product.x_pitch, product.y_pitch = columns, rows
    if way.kind == "mask":
        bits = bits_of(weight)
        pointers = (t.data_ptr() for t in (bits.value, bits.mask, bits.pointer))
        mask = Mask(*pointers, rows, bits.mask.shape[1])
        return Step("gemv_mask", frame, mask, kept=(bits, bias))
    gemv = way.kind == "gemv"
    blocks = blocks_of(weight, MOST_COLUMNS, 1) if gemv else _blocks(layer, weight, way.block)
    return Step("gemv" if gemv else "linear", frame, _matrix(blocks), kept=(blocks, bias))


def _blocks(layer: Layer, flat: Tensor, block: int) -> Blocks:
    if block not in layer.blocks:
        layer.blocks[block] = blocks_of(flat, block)
    return layer.blocks[block]


def _matrix(a: Blocks) -> Matrix:
    return Matrix(a.value.data_ptr(), a.column.data_ptr(), a.pointer.data_ptr(), *a.sizes)
