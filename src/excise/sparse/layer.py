"""Layers with a sparse weight, in the place of dense ones."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from excise.errors import SparseError
from excise.sparse.kernels import MOST_VECTORS, Geometry, Tile, bits_of, blocks_of, direct_of
from excise.sparse.kernels.matrix import MOST_COLUMNS
from excise.sparse.op import sparse_conv2d, sparse_linear
from excise.sparse.support import KINDS, LENT, Arrays, Sparse, Way

__all__ = ["KINDS", "LENT", "Sparse", "SparseConv2d", "SparseLinear", "Way"]


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
