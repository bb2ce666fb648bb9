"""Kernels: sparse weight times dense activation, in C, chosen for this machine when loaded."""

from excise.sparse.kernels.library import Library, Missing, library
from excise.sparse.kernels.matrix import Bits, Blocks, bits_of, blocks_of
from excise.sparse.kernels.product import Ending, Geometry, conv2d, gemv, linear

__all__ = [
    "Bits",
    "Blocks",
    "Ending",
    "Geometry",
    "Library",
    "Missing",
    "bits_of",
    "blocks_of",
    "conv2d",
    "gemv",
    "library",
    "linear",
]
