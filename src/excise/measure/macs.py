"""How much a model multiplies."""

from __future__ import annotations

from typing import Any

from torch import nn

from excise.graph import trace


def macs(model: nn.Module, *inputs: Any, **kwargs: Any) -> int:
    """Count the multiply-adds of one forward pass; 1 MAC = 1 multiply + 1 add = 2 FLOPs.

    Convolutions, matrix products, attention and recurrent layers count; additions, norms and
    activations do not. The batch of the example input counts: divide by its size for one item.

    Args:
        model: any module. Not touched; it runs on tensors without data.
        inputs: an example input.
        kwargs: keyword inputs.

    Raises:
        TraceError: the model cannot be read, or does not run on these inputs.
    """
    return trace(model, *inputs, **kwargs).macs()
