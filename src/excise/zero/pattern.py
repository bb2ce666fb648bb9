"""Patterns: which weights of a matrix may stay, given how much each is worth."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from excise.errors import InvalidTargetError

_KNOWN = "unstructured, n:m such as 2:4, or block such as block:4x1"


@dataclass(frozen=True)
class Pattern:
    """Where zeros may stand.

    Attributes:
        name: as it was asked for.
        n: of every `m` neighbours in a row so many stay; 0 for other patterns.
        m: the number of neighbours.
        rows: of a block; 1 if single weights go.
        columns: of a block.
    """

    name: str
    n: int = 0
    m: int = 0
    rows: int = 1
    columns: int = 1

    @classmethod
    def of(cls, name: str) -> Pattern:
        """Read a pattern's name.

        Raises:
            InvalidTargetError: it is none.

        >>> Pattern.of("2:4").zeros
        0.5
        """
        if name == "unstructured":
            return cls(name)
        text = name if isinstance(name, str) else ""
        if found := re.fullmatch(r"(\d+):(\d+)", text):
            n, m = int(found[1]), int(found[2])
            if 0 < n < m:
                return cls(name, n=n, m=m)
        if found := re.fullmatch(r"block(?::(\d+)x(\d+))?", text):
            rows, columns = int(found[1] or 4), int(found[2] or 1)
            if rows and columns:
                return cls(name, rows=rows, columns=columns)
        raise InvalidTargetError("pattern", repr(name), f"one of {_KNOWN}")

    @property
    def zeros(self) -> float | None:
        """The share of zeros that the pattern itself demands; None where it is free."""
        return 1 - self.n / self.m if self.m else None

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a matrix (..., rows, columns) divides into it; others are left alone."""
        rows, columns = shape[-2:]
        if self.m:
            return columns % self.m == 0
        return rows % self.rows == 0 and columns % self.columns == 0

    def kept(self, worth: Tensor, zeros: float, *, by_row: bool = False) -> Tensor:
        """Which weights stay.

        Args:
            worth: (groups, rows, columns), not negative; blocks and groups add theirs up.
            zeros: share of the weights, or blocks, that go; what n:m demands overrides it.
            by_row: the same share of every row, not of the whole matrix.

        Returns:
            Booleans of the same shape; of equal worth the later ones go first.
        """
        if self.m:
            return _most(worth.reshape(-1, self.m), self.n).reshape(worth.shape)
        groups, rows, columns = worth.shape
        high, wide = rows // self.rows, columns // self.columns
        grid = worth.reshape(groups, high, self.rows, wide, self.columns).sum((2, 4))
        flat = grid.reshape(groups * high, wide) if by_row else grid.reshape(1, -1)
        there = _most(flat, flat.shape[1] - round(zeros * flat.shape[1]))
        whole = there.reshape(groups, high, 1, wide, 1)
        whole = whole.expand(groups, high, self.rows, wide, self.columns)
        return whole.reshape(worth.shape)


def _most(worth: Tensor, count: int) -> Tensor:
    """The `count` largest of every row."""
    order = torch.sort(worth, dim=1, descending=True, stable=True).indices[:, :count]
    out = torch.zeros_like(worth, dtype=torch.bool)
    return out.scatter_(1, order, value=True)
