"""Batch-norm scale: channels that their norm scales down go first."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from excise.graph import AxisGraph
from excise.scores.magnitude import magnitude
from excise.scores.scores import Scores, gather


def bn_scale(model: nn.Module, graph: AxisGraph) -> Scores:
    """Sum of `|gamma|` over the batch norms that carry the unit.

    Groups without a batch norm are scored by magnitude (L2); each group is compared with its own
    mean when ranked, so the two mix.

    Source:
        Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017,
        section 3. Differs: no sparsity training here, and residual groups sum their norms.
    """
    norms = {
        f"{name}.weight" if name else "weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine  # noqa: SLF001
    }

    def scale(name: str, weight: Tensor) -> Tensor | None:
        return weight.abs() if name in norms else None

    totals = gather(model, graph, scale)
    plain = magnitude(model, graph).values
    return Scores({n: t if bool(torch.any(t > 0)) else plain[n] for n, t in totals.items()})
