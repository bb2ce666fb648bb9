"""One consumer, solved: ridge regression toward the weights it has, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from excise.calibration import Moments

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
"""Regularisation that is tried, in units of the mean feature variance."""
_NOTHING = torch.finfo(torch.float32).eps
"""An error of no more than this share of the targets' squares is rounding of their moments."""


class Solution(NamedTuple):
    """New weights of a consumer.

    Attributes:
        matrix: (groups, outputs, features).
        bias: (groups, outputs).
        ridge: what the held-out rows chose; None where only the bias changed.
        before: mean squared error on the held-out rows with the weights as they were, in units of
            the targets' variance.
        after: the same with the new ones.
    """

    matrix: Tensor
    bias: Tensor
    ridge: float | None
    before: float
    after: float


def solve(
    fit: Moments,
    held: Moments,
    matrix: Tensor,
    bias: Tensor,
    *,
    centred: bool,
    ridges: Sequence[float] = RIDGES,
) -> Solution | None:
    """Fit `targets = matrix @ features + bias`; None if no candidate beats the present weights.

    Args:
        fit: moments of the rows to fit; `held` is added to it once the ridge is chosen.
        held: moments of the rows to choose by.
        matrix: present weights, (groups, outputs, features).
        bias: present bias, (groups, outputs); zeros without one.
        centred: whether the bias may change.
        ridges: which regularisations to try; with none, the bias alone is fitted.

    Source:
        ALGORITHMS: ridge toward the original weights as in OSSCAR (arXiv 2403.12983, layer-wise
        least squares) and ThiNet (arXiv 1707.06342, sec. 3.3); centred, with the ridge from
        held-out rows, which they do not do.
    """
    matrix, bias = matrix.to(fit.xx), bias.to(fit.xx)
    spread = _variance(held)
    before = error(held, matrix, bias)
    if before <= _NOTHING * _size(held):
        return None
    best: tuple[float, float | None] = (before, -1.0)
    for ridge in (None, *ridges) if centred else ridges:
        candidate = _fitted(fit, matrix, ridge, centred=centred)
        if candidate is not None:
            best = min(best, (error(held, *candidate), ridge), key=lambda found: found[0])
    if best[1] == -1.0:
        return None
    fit.add(held)
    final = _fitted(fit, matrix, best[1], centred=centred)
    if final is None:
        return None
    return Solution(*final, best[1], before / spread, best[0] / spread)


def _fitted(
    m: Moments, matrix: Tensor, ridge: float | None, *, centred: bool
) -> tuple[Tensor, Tensor] | None:
    assert m.t is not None  # noqa: S101 - for the type checker
    assert m.xt is not None  # noqa: S101 - for the type checker
    mean, target = m.mean(), m.t / m.count
    spread = m.covariance() if centred else m.second()
    new = matrix
    if ridge is not None:
        cross = m.xt / m.count
        if centred:
            cross = cross - mean[:, :, None] * target[:, None, :]
        wanted = cross - spread @ matrix.mT
        damp = ridge * spread.diagonal(dim1=1, dim2=2).mean(1) + torch.finfo(spread.dtype).tiny
        spread.diagonal(dim1=1, dim2=2).add_(damp[:, None])  # in place: it may be 85 MB
        lower, failed = torch.linalg.cholesky_ex(spread)
        del spread
        if bool(failed.any()):
            return None
        new = matrix + torch.cholesky_solve(wanted, lower).mT
    if not bool(torch.isfinite(new).all()):
        return None
    bias = target - (new @ mean[:, :, None])[:, :, 0] if centred else torch.zeros_like(target)
    return new, bias


def error(m: Moments, matrix: Tensor, bias: Tensor) -> float:
    """Mean squared error of a linear map over the rows behind the moments, summed over outputs."""
    assert m.t is not None  # noqa: S101 - for the type checker
    assert m.xt is not None  # noqa: S101 - for the type checker
    assert m.tt is not None  # noqa: S101 - for the type checker
    made = (matrix @ m.xx * matrix).sum() + 2 * (bias * (matrix @ m.x[:, :, None])[:, :, 0]).sum()
    cross = (matrix.mT * m.xt).sum() + (bias * m.t).sum()
    return float((m.tt.sum() - 2 * cross + made) / m.count + bias.square().sum())


def _size(m: Moments) -> float:
    assert m.tt is not None  # noqa: S101 - for the type checker
    return float(m.tt.sum()) / m.count


def _variance(m: Moments) -> float:
    assert m.t is not None  # noqa: S101 - for the type checker
    assert m.tt is not None  # noqa: S101 - for the type checker
    total = m.tt / m.count - (m.t / m.count).square()
    return max(float(total.sum()), torch.finfo(torch.float64).tiny)


def relative_error(m: Moments, matrix: Tensor, bias: Tensor) -> float:
    """`error` as a share of the targets' variance."""
    return error(m, matrix.to(m.xx), bias.to(m.xx)) / _variance(m)
