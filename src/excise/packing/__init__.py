"""Packing: tensors with many zeros in few bytes, without loss, by plain numpy."""

from excise.packing.entry import LAYOUTS, size_of
from excise.packing.pack import Packed, pack, unpack

__all__ = ["LAYOUTS", "Packed", "pack", "size_of", "unpack"]
