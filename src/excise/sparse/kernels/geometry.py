"""Geometry of a convolution."""

from __future__ import annotations

from typing import NamedTuple


class Geometry(NamedTuple):
    """Of a convolution: kernel, stride, padding, dilation, each (y, x)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def out(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the output."""
        y, x = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(size, *self, strict=True)
        )
        return y, x

    @property
    def is_product(self) -> bool:
        """Whether it is a plain product at every position."""
        return self == ((1, 1), (1, 1), (0, 0), self.dilation)
