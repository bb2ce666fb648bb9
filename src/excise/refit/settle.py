"""Batch norms written anew: with the statistics of what they read, and the same function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from excise.calibration import Batch
from excise.measure.latency import evaluated
from excise.ranks import jointly, present
from excise.refit.statistic import Norm

_EXACT = (torch.float32, torch.float64)


class _Sums:
    """What each norm reads: how many values of each channel, their sum and their squares'."""

    def __init__(self, norms: Sequence[Any]) -> None:
        self.of = {
            norm: [torch.zeros(1, dtype=torch.float64, device=norm.running_mean.device)]
            + [torch.zeros_like(norm.running_mean, dtype=torch.float64) for _ in range(2)]
            for norm in norms
        }

    def __call__(self, norm: Any, args: tuple[Tensor, ...]) -> None:
        """Add one input, as a hook before the norm runs."""
        rows = args[0].detach().transpose(0, 1).flatten(1).double()
        count, first, second = self.of[norm]
        count += rows.shape[1]
        first += rows.sum(1)
        second += rows.square().sum(1)


@jointly
@torch.no_grad()
def settle(model: nn.Module, batches: Sequence[Batch]) -> int:
    """Let batch norms hold the statistics of what they read, and compute what they did; in place.

    A refit leaves biases in running means, and statistics that are no longer those of the data:
    train mode, which takes each batch's own, would lose what the refit has won. Here weights and
    biases take that over, `weight * (x - mean) / sqrt(var)` with another mean and another variance.

    Changed: running means and variances, weights and biases of batch norms in float32 or float64
    that have all four, each its own. Not changed: what the model computes in eval mode, but for
    rounding; modes; anything else.

    Args:
        model: with its parameters as they are to be used.
        batches: calibration inputs, from `excise.calibration.batches`, of all ranks.

    Returns:
        How many norms have new statistics.
    """
    every = [m for m in model.modules() if isinstance(m, Norm)]
    owners = Counter(id(t) for m in every for t in (m.weight, m.bias, m.running_mean))
    norms = [m for m in every if _is_affine(m) and owners[id(m.weight)] == owners[id(m.bias)] == 1]
    norms = [m for m in norms if owners[id(m.running_mean)] == 1]
    sums = _Sums(norms)
    hooks = [norm.register_forward_pre_hook(sums) for norm in norms]
    try:
        with evaluated(model):
            for batch in batches if norms else ():
                model(*batch.args, **batch.kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    present().sum(*(t for norm in norms for t in sums.of[norm]))
    return sum(_restated(norm, *sums.of[norm]) for norm in norms)


def _is_affine(norm: Any) -> bool:
    tensors = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    return all(t is not None and t.dtype in _EXACT for t in tensors)


def _restated(norm: Any, count: Tensor, first: Tensor, second: Tensor) -> bool:
    """Put new statistics into one norm, and the difference into its weight and bias."""
    if float(count) < 2:  # noqa: PLR2004 - a variance needs two
        return False
    mean = first / count
    variance = (second - count * mean.square()).clamp_min(0) / (count - 1)
    slope = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    norm.bias.add_((slope * (mean - norm.running_mean)).to(norm.bias))
    norm.weight.copy_(slope * (variance + norm.eps).sqrt())
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    return True
