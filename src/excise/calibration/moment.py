"""Moments: counts, means and second moments of rows, added up batch by batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from excise.ranks import present

_WIDE = 2048
"""Up to this many features sums are kept in float64; beyond, memory matters more."""
_ROWS = 256


@dataclass
class Moments:
    """Sums over rows of features `x` and, if there are any, targets `t`.

    Attributes:
        count: rows so far.
        x: sum of features, (groups, features).
        xx: sum of outer products, (groups, features, features).
        t: sum of targets, (groups, outputs); None without targets.
        xt: sum of products, (groups, features, outputs).
        tt: sum of squares, (groups, outputs).
    """

    count: int
    x: Tensor
    xx: Tensor
    t: Tensor | None = None
    xt: Tensor | None = None
    tt: Tensor | None = None

    @staticmethod
    def bytes_of(features: int) -> int:
        """What second moments of so many features take."""
        return features**2 * (8 if features <= _WIDE else 4)

    @classmethod
    def of(cls, rows: Tensor, targets: Tensor | None = None) -> Moments:
        """Moments of one batch: (groups, rows, features) and (groups, rows, outputs)."""
        dtype = torch.float64 if rows.shape[-1] <= _WIDE else torch.float32
        rows = rows.float()
        flipped = rows.mT
        first = cls(rows.shape[1], rows.sum(1).to(dtype), (flipped @ rows).to(dtype))
        if targets is not None:
            targets = targets.float()
            first.t = targets.sum(1).to(dtype)
            first.xt = (flipped @ targets).to(dtype)
            first.tt = targets.square().sum(1).to(dtype)
        return first

    def add(self, other: Moments) -> None:
        """Add another batch, in place."""
        self.count += other.count
        for name in ("x", "xx", "t", "xt", "tt"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine is not None and theirs is not None:
                mine += theirs

    def empty(self) -> Moments:
        """Moments of no rows, of the same features and targets."""
        first = Moments(0, torch.zeros_like(self.x), torch.zeros_like(self.xx))
        if self.t is not None and self.xt is not None and self.tt is not None:
            first.t, first.xt = torch.zeros_like(self.t), torch.zeros_like(self.xt)
            first.tt = torch.zeros_like(self.tt)
        return first

    def joined(self) -> Moments:
        """The same, in place, with the rows of all ranks."""
        ranks = present()
        every = (self.x, self.xx, self.t, self.xt, self.tt)
        ranks.sum(*(tensor for tensor in every if tensor is not None))
        self.count = round(ranks.add(self.count)[0])
        return self

    def mean(self) -> Tensor:
        """Mean of the features, (groups, features)."""
        return self.x / self.count

    def second(self) -> Tensor:
        """Second moment of the features, not centred."""
        return self.xx / self.count

    def covariance(self) -> Tensor:
        """Covariance of the features, (groups, features, features)."""
        mean, spread = self.mean(), self.second()
        for rows, part in zip(spread.split(_ROWS, 1), mean.split(_ROWS, 1), strict=True):
            rows.sub_(part[:, :, None] * mean[:, None, :])  # never twice in memory
        return spread

    def shrunk(self) -> Tensor:
        """Covariance, moved toward equal variances the more, the fewer rows there are.

        Of fewer rows than features the covariance has no inverse, and of little more a useless one.
        """
        spread = self.covariance()
        width = spread.shape[-1]
        mean = spread.diagonal(dim1=1, dim2=2).mean(1)
        square = spread.square().mean((1, 2))  # OAS: Chen et al., IEEE TSP 2010, eq. 23
        over = square + mean.square()
        under = (self.count + 1) * (square - mean.square() / width)
        share = torch.where(under > over, over / under, 1.0)
        flat = torch.diag_embed((share * mean)[:, None].expand(-1, width))
        return (1 - share)[:, None, None] * spread + flat


def thinned(rows: Tensor, most: int, seed: int) -> Tensor:
    """At most so many rows of (groups, rows, features), the same ones for the same seed and count.

    Neighbouring positions of one image say nearly the same, so a share of them is enough.
    """
    count = rows.shape[1]
    if count <= most:
        return rows
    source = torch.Generator().manual_seed(seed)
    return rows[:, torch.randperm(count, generator=source)[:most].to(rows.device)]
