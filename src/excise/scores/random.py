"""Random scores: the baseline that a criterion has to beat."""

from __future__ import annotations

import torch
from torch import nn

from excise.graph import AxisGraph
from excise.scores.scores import Scores


def random(model: nn.Module, graph: AxisGraph, *, seed: int = 0) -> Scores:  # noqa: ARG001
    """Uniform numbers in [0, 1), the same for the same seed; torch's own state is not touched."""
    source = torch.Generator().manual_seed(seed)
    return Scores(
        {g.name: torch.rand(g.size, generator=source, dtype=torch.float64) for g in graph.groups}
    )
