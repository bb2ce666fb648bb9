"""Kernels: sparse weight times dense activation, in C, chosen for this machine when loaded."""

from excise.sparse.kernels.borrowed import Borrowed, Rows, available, rows_of
from excise.sparse.kernels.geometry import Geometry
from excise.sparse.kernels.library import Library, Missing, library
from excise.sparse.kernels.matrix import (
    MOST_VECTORS,
    Bits,
    Blocks,
    Tile,
    bits_of,
    blocks_of,
    direct_of,
)
from excise.sparse.kernels.product import Ending, conv2d, depthwise, gemv, largest, linear, mean

__all__ = [
    "MOST_VECTORS",
    "Bits",
    "Blocks",
    "Borrowed",
    "Ending",
    "Geometry",
    "Library",
    "Missing",
    "Rows",
    "Tile",
    "available",
    "bits_of",
    "blocks_of",
    "conv2d",
    "depthwise",
    "direct_of",
    "gemv",
    "largest",
    "library",
    "linear",
    "mean",
    "rows_of",
]
