"""Layers with a sparse weight: the values that are not zero, a bit for each that could be."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from excise.errors import SparseError
from excise.sparse.kernels import (
    MOST_VECTORS,
    Blocks,
    Borrowed,
    Geometry,
    Missing,
    Tile,
    available,
    bits_of,
    blocks_of,
    direct_of,
    rows_of,
)
from excise.sparse.kernels.matrix import MOST_COLUMNS
from excise.sparse.op import sparse_conv2d, sparse_linear

KINDS = (torch.float32, torch.bfloat16)
"""What the kernels take; bfloat16 is added up in float32."""


class Way(NamedTuple):
    """How a layer runs.

    Attributes:
        kind: "tiles"; "gemv" or "mask" where a linear layer reads a single row, and tiles where it
            reads more; "direct" for a convolution without unfolding; "torch" for the product that
            torch carries, where there are no kernels; "dense".
        tiles: vectors of the output that are held in registers; of each row, if direct.
        block: columns of the weight that are worked on at once; channels, if direct.
        in_place: a 1x1 convolution reads its input where it is.
        rows: of the output that are held in registers, if direct.
    """

    kind: str = "tiles"
    tiles: int = 4
    block: int = 128
    in_place: bool = False
    rows: int = 0


LENT = Way("torch", 0)


class Arrays(NamedTuple):
    """A weight as a kernel reads it."""

    value: Tensor
    column: Tensor
    pointer: Tensor
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, blocks: Blocks) -> Arrays:
        """What an operator takes of blocks."""
        return cls(blocks.value, blocks.column, blocks.pointer, blocks.sizes)


class Sparse(nn.Module):
    """What both layers share: a weight of which only the support is stored.

    Attributes:
        value: the nonzero values in row-major order, a parameter; training moves these and no
            others.
        mask: a bit for every weight, packed, the lowest first.
        bias: as in the dense layer, or None.
        shape: of the dense weight.
        way: how it runs in inference; `excise.sparsify` sets it by timing.
    """

    value: Tensor
    mask: Tensor
    bias: nn.Parameter | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.shape = tuple(weight.shape)
        flat = weight.detach().reshape(-1)
        there = flat != 0
        packed = np.packbits(there.cpu().numpy(), bitorder="little")
        self.value = nn.Parameter(flat[there].clone(), requires_grad=weight.requires_grad)
        self.register_buffer("mask", torch.from_numpy(packed).to(weight.device))
        self.bias = None
        if bias is not None:
            self.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
        self.way = Way()
        self._ready: dict[Way, tuple[Any, Arrays]] = {}

    def weight(self) -> Tensor:
        """The dense weight; gradients of it reach the values."""
        count = int(np.prod(self.shape))
        raw = np.unpackbits(self.mask.cpu().numpy(), count=count, bitorder="little")
        there = torch.from_numpy(raw.astype(bool)).to(self.value.device)
        flat = self.value.new_zeros(count).masked_scatter(there, self.value)
        return flat.view(self.shape)

    def _lend(self, made: nn.Linear | nn.Conv2d) -> None:
        """Give a dense layer without tensors a copy of this one's."""
        weight = self.weight().detach()
        made.weight = nn.Parameter(weight, requires_grad=self.value.requires_grad)
        made.bias = copy.deepcopy(self.bias)
        made.train(self.training)

    def native(self, x: Tensor) -> bool:
        """Whether the kernels take this input, and exist.

        It has to be float32 or bfloat16, as the weight is, and on the CPU, without gradients.
        """
        if self.way.kind == "dense" or x.dtype not in KINDS or not x.is_cpu:
            return False
        if self.value.dtype is not x.dtype:
            return False
        wanted = (x, self.value, self.bias)
        grads = any(t is not None and t.requires_grad for t in wanted)
        if torch.is_grad_enabled() and grads:
            return False
        if torch.compiler.is_compiling():  # which cannot ask the machine
            return bool(self._ready)
        return self._suited()

    def _suited(self) -> bool:
        """Whether anything here runs it; a way that was found on another machine gives way."""
        found = available()
        if isinstance(found, Missing):
            return False
        lent = isinstance(found, Borrowed)
        if lent != (self.way.kind == "torch"):
            self.way = LENT if lent else Way()
        return True

    def arrays(self, way: Way) -> Arrays:
        """What the kernels read; made again when the values change."""
        found = self._ready.get(way)
        if found is not None and torch.compiler.is_compiling():
            return found[1]  # a compiler cannot look into numpy; a first run has made them
        key = (self.value._version, self.mask._version, self.value.data_ptr())  # noqa: SLF001
        if found is None or found[0] != key:
            weight = self.weight().detach().reshape(self.shape[0], -1).contiguous()
            self._ready[way] = found = (key, self.made(weight, way))
        return found[1]

    def made(self, weight: Tensor, way: Way) -> Arrays:
        """The arrays of a way, from the dense weight as a matrix."""
        if way.kind == "torch":
            return Arrays(*rows_of(weight.float()))
        return Arrays.of(blocks_of(weight.float(), way.block))

    def forget(self) -> None:
        """Drop what was made for other ways than the present one."""
        self._ready = {way: made for way, made in self._ready.items() if way == self.way}

    def __deepcopy__(self, memo: dict[int, Any]) -> Sparse:
        """Without the kernels' arrays, which are made again."""
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        kept = {key: value for key, value in self.__dict__.items() if key != "_ready"}
        other.__dict__ = copy.deepcopy(kept, memo)
        other._ready = {}  # noqa: SLF001 - our own
        return other

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_ready": {}}

    @property
    def dtype(self) -> torch.dtype:
        """Of the weight."""
        return self.value.dtype

    @property
    def zeros(self) -> float:
        """Share of the weights that are zero."""
        return 1 - self.value.numel() / max(1, int(np.prod(self.shape)))

    def extra_repr(self) -> str:
        """Shape, zeros and way."""
        return f"{tuple(self.shape)}, {self.zeros:.1%} zeros, {self.way.kind}"


class SparseLinear(Sparse):
    """A linear layer with a sparse weight.

    In inference on a CPU, in float32 or bfloat16, it runs by the kernels, in any other case
    (training, other dtypes and devices) as the dense layer that it stands for.
    """

    @classmethod
    def of(cls, layer: nn.Linear) -> SparseLinear:
        """From a dense layer, which is not touched."""
        return cls(layer.weight, layer.bias)

    def dense(self) -> nn.Linear:
        """The dense layer that it stands for, with tensors of its own."""
        made = nn.Linear(self.shape[1], self.shape[0], bias=False, device="meta")
        self._lend(made)
        return made

    def made(self, weight: Tensor, way: Way) -> Arrays:
        """The arrays of a way, from the dense weight.

        Where a single row is read, values keep their type: what counts there is bytes.
        """
        wide = weight.float()
        if way.kind == "mask":
            bits = bits_of(wide)
            value = bits.value.to(weight.dtype)
            return Arrays(value, bits.mask, bits.pointer, (*bits.sizes, bits.sizes[1]))
        if way.kind == "gemv":  # in order: it reads from memory
            made = Arrays.of(blocks_of(wide, MOST_COLUMNS, span=1))
            return made._replace(value=made.value.to(weight.dtype))
        return super().made(weight, way)

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Linear`."""
        if not self.native(x) or x.numel() == 0:
            return functional.linear(x, self.weight(), self.bias)
        alone = x.numel() == self.shape[1]
        only = self.way.kind in {"gemv", "mask"} and not alone
        way = self.way._replace(kind="tiles") if only else self.way
        value, column, pointer, sizes = self.arrays(way)
        out: Tensor = sparse_linear(
            x, value, column, pointer, self.bias, sizes, way.kind, way.tiles
        )
        return out


class SparseConv2d(Sparse):
    """A 2-d convolution without groups, with a sparse weight; zeros as padding.

    In inference on a CPU, in float32 or bfloat16, it runs by the kernels, in any other case as the
    dense layer.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> None:
        super().__init__(weight, bias)
        self.geometry = geometry

    @classmethod
    def of(cls, layer: nn.Conv2d) -> SparseConv2d:
        """From a dense layer, which is not touched.

        Raises:
            SparseError: it has groups, or pads with anything but zeros.
        """
        if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            what = f"groups={layer.groups}, padding={layer.padding!r} ({layer.padding_mode})"
            raise SparseError(what, "one group, and zeros as padding")
        pairs = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        return cls(layer.weight, layer.bias, Geometry(*[(int(a), int(b)) for a, b in pairs]))

    def dense(self) -> nn.Conv2d:
        """The dense layer that it stands for, with tensors of its own."""
        rows, channels = self.shape[:2]
        made = nn.Conv2d(channels, rows, *self.geometry, bias=False, device="meta")
        self._lend(made)
        return made

    def made(self, weight: Tensor, way: Way) -> Arrays:
        """The arrays of a way, from the dense weight as a matrix.

        Raises:
            SparseError: the tile does not fit the registers, or its offsets 16 bits.
        """
        if way.kind != "direct":
            return super().made(weight, way)
        tile = Tile(way.rows, way.tiles)
        fits = 0 < tile.rows * tile.vectors <= MOST_VECTORS
        blocks = direct_of(weight.float(), way.block, self.geometry, tile) if fits else None
        if blocks is None:
            raise SparseError(f"{way} is no way of {self.geometry}", "one that `ways` lists")
        return Arrays.of(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Conv2d`."""
        _, stride, padding, dilation = self.geometry
        if not self.native(x) or x.dim() != 4 or x.numel() == 0:  # noqa: PLR2004 - n, c, y, x
            return functional.conv2d(x, self.weight(), self.bias, stride, padding, dilation)
        value, column, pointer, sizes = self.arrays(self.way)
        flat, way = [n for pair in self.geometry for n in pair], self.way
        out: Tensor = sparse_conv2d(
            x, value, column, pointer, self.bias, None, sizes, flat, 0,
            way.tiles, way.in_place, way.rows,
        )  # fmt: skip
        return out
