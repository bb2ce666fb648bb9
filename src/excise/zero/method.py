"""Methods: zeros in the weight of one layer, by weights alone or by what the layer reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from excise.zero.pattern import Pattern

_DAMPING = 1e-2  # of the mean feature energy
_ROUNDS, _RAMP = 30, 15  # of ADMM: in all, and until the share of zeros is reached
_CONJUGATE = 12  # steps on the fixed support
_BLOCK = 128  # columns that SparseGPT works on at once


class Layer(NamedTuple):
    """One layer, as a least-squares problem.

    Attributes:
        weight: what is wanted if nothing had to be zero, (groups, rows, features).
        gram: second moment of the features, (groups, features, features), centred if there is a
            bias to take the mean.
    """

    weight: Tensor
    gram: Tensor

    def loss(self, weight: Tensor) -> Tensor:
        """Squared error of the outputs against the wanted ones, per group."""
        gap = weight - self.weight
        return (gap @ self.gram * gap).sum((1, 2))


Method = Callable[[Layer, Pattern, float], Tensor]
"""Layer, pattern and share of zeros -> the weight with zeros."""


def magnitude(layer: Layer, pattern: Pattern, zeros: float) -> Tensor:
    """The smallest weights go."""
    return layer.weight * pattern.kept(layer.weight.square(), zeros)


def wanda(layer: Layer, pattern: Pattern, zeros: float) -> Tensor:
    """The smallest products of a weight and its feature's norm go, in every row alike.

    Source:
        Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", ICLR 2024.
    """
    energy = layer.gram.diagonal(dim1=1, dim2=2)
    worth = layer.weight.square() * energy[:, None, :]
    return layer.weight * pattern.kept(worth, zeros, by_row=pattern.rows == 1)


def sparsegpt(layer: Layer, pattern: Pattern, zeros: float) -> Tensor:
    """Column by column, what goes is made up for by the columns that follow.

    Source:
        Frantar and Alistarh, "SparseGPT", ICML 2023, algorithm 1. Differs: the mask of a block of
        columns is chosen over all rows, as there, for patterns other than n:m too.
    """
    weight = layer.weight.clone()
    columns = weight.shape[2]
    upper = torch.linalg.cholesky(torch.linalg.inv(_damped(layer.gram)), upper=True)
    step = _BLOCK - _BLOCK % (pattern.m or pattern.columns)
    for first in range(0, columns, step):
        part = slice(first, min(first + step, columns))
        size = upper.diagonal(dim1=1, dim2=2)[:, None, part]
        kept = pattern.kept((weight[:, :, part] / size).square(), zeros)
        errors = torch.zeros_like(weight[:, :, part])
        for i, column in enumerate(range(part.start, part.stop)):
            gone = weight[:, :, column] * ~kept[:, :, i]
            errors[:, :, i] = gone / upper[:, column, column, None]
            weight[:, :, column : part.stop] -= (
                errors[:, :, i, None] * upper[:, None, column, column : part.stop]
            )
            weight[:, :, column] = torch.where(kept[:, :, i], weight[:, :, column], 0.0)
        weight[:, :, part.stop :] -= errors @ upper[:, part, part.stop :]
    return weight


def admm(layer: Layer, pattern: Pattern, zeros: float) -> Tensor:
    """Split into a least-squares problem and a projection, which are made to agree; then polished.

    Features are scaled to unit norm, so that the projection keeps what Wanda would; the share of
    zeros grows over the first rounds; at the end the weights on the support are solved by conjugate
    gradients.

    Source:
        Boža, "Fast and Effective Weight Update for Pruned Large Language Models", TMLR 2024
        (scaling and schedule); Meng et al., "ALPS", NeurIPS 2024 (conjugate gradients on the
        support). Differs: any pattern of this module, groups of convolutions side by side.
    """
    gram = _damped(layer.gram)
    norm = gram.diagonal(dim1=1, dim2=2).sqrt()
    unit = gram / (norm[:, :, None] * norm[:, None, :])
    wanted = layer.weight * norm[:, None, :]
    eye = torch.eye(unit.shape[-1], dtype=unit.dtype, device=unit.device)
    factor = torch.linalg.cholesky(unit + eye)
    right = wanted @ unit
    weight, dual = wanted, torch.zeros_like(wanted)
    kept = torch.ones_like(wanted, dtype=torch.bool)
    for turn in range(_ROUNDS):
        share = zeros * (1 - max(0.0, 1 - (turn + 1) / _RAMP) ** 3)
        kept = pattern.kept((weight + dual).square(), share)
        target = torch.where(kept, weight + dual, 0.0)
        dual = dual + weight - target
        weight = torch.cholesky_solve((right + target - dual).mT, factor).mT
    return _polished(wanted, unit, torch.where(kept, weight, 0.0), kept) / norm[:, None, :]


def _polished(wanted: Tensor, gram: Tensor, weight: Tensor, kept: Tensor) -> Tensor:
    """Conjugate gradients on a fixed support, every row its own problem."""
    gap = torch.where(kept, (wanted - weight) @ gram, 0.0)
    way = gap
    size = gap.square().sum(2, keepdim=True)
    for _ in range(_CONJUGATE):
        along = torch.where(kept, way @ gram, 0.0)
        rate = size / (way * along).sum(2, keepdim=True).clamp_min(torch.finfo(size.dtype).tiny)
        weight = weight + rate * way
        gap = gap - rate * along
        new = gap.square().sum(2, keepdim=True)
        way = gap + new / size.clamp_min(torch.finfo(size.dtype).tiny) * way
        size = new
    return weight


def _damped(gram: Tensor) -> Tensor:
    size = gram.diagonal(dim1=1, dim2=2)
    more = _DAMPING * size.mean(1, keepdim=True) + torch.finfo(gram.dtype).tiny
    return gram + torch.diag_embed(more.expand_as(size))


METHODS: dict[str, Method] = {
    "magnitude": magnitude,
    "wanda": wanda,
    "sparsegpt": sparsegpt,
    "admm": admm,
}
