"""Packing: tensors with many zeros in few bytes, without loss, by plain numpy."""

from excise.packing.entry import LAYOUTS, parsed, size_of, text_of
from excise.packing.pack import Packed, pack, unpack

__all__ = ["LAYOUTS", "Packed", "pack", "parsed", "size_of", "text_of", "unpack"]
