"""Distillation: how far a cut model's outputs are from the dense model's, as a loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from excise.errors import CalibrationError
from excise.trace.output import output_leaves


def distill_loss(
    small: Any, dense: Any, *, temperature: float | None = None, dim: int = -1
) -> Tensor:
    """How far the outputs of a cut model are from those of the dense one; needs no labels.

    Args:
        small: what the cut model gives: a tensor, or anything with tensors in it.
        dense: what the dense model gives for the same inputs. No gradient flows into it.
        temperature: of the classes' probabilities, usually 1 to 4: the loss is then the
            Kullback-Leibler divergence along `dim`, times the temperature squared. Without, it is
            the squared difference as a share of the dense output's variance.
        dim: where the classes are.

    Returns:
        A scalar: the mean over all positions, summed over outputs. Outputs whose shapes differ,
        such as a cache with fewer heads, are left out.

    Raises:
        CalibrationError: no floating output has the same shape in both.

    Source:
        Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, sec. 2.
    """
    pairs = [
        (mine, theirs.detach())
        for (_, mine), (_, theirs) in zip(output_leaves(small), output_leaves(dense), strict=False)
        if mine.shape == theirs.shape and mine.is_floating_point()
    ]
    if not pairs:
        raise CalibrationError("no output of the two models has the same shape")
    return torch.stack([_apart(mine, theirs, temperature, dim) for mine, theirs in pairs]).sum()


def _apart(mine: Tensor, theirs: Tensor, temperature: float | None, dim: int) -> Tensor:
    if temperature is None:
        spread = (theirs - theirs.mean()).square().mean()
        return (mine - theirs).square().mean() / spread.clamp_min(torch.finfo(theirs.dtype).tiny)
    ours = functional.log_softmax(mine / temperature, dim)
    wanted = functional.log_softmax(theirs / temperature, dim)
    return temperature**2 * ((wanted.exp() * (wanted - ours)).sum(dim)).mean()
