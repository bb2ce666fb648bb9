"""Which layers of a model have a sparse form, there and back."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from excise.errors import SparseError
from excise.sparse.layer import Sparse, SparseConv2d, SparseLinear

MIN_ZEROS = 0.3
"""Below this share of zeros nothing is faster sparse."""


def candidates(model: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """Layers of exactly these classes, whose weight is a plain parameter that nobody shares."""
    uses: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():  # noqa: SLF001 - shared ones count each time
            uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    for name, module in model.named_modules():
        if type(module) in {nn.Linear, nn.Conv2d} and name:
            weight = module._parameters.get("weight")  # noqa: SLF001 - not a computed one
            plain = weight is not None and weight.dim() in {2, 4} and uses[id(weight)] == 1
            hooked = module._forward_hooks or module._forward_pre_hooks  # noqa: SLF001
            if plain and not hooked:
                yield name, module


def share_of_zeros(weight: Tensor) -> float:
    """How much of a weight is zero."""
    return 1 - int(torch.count_nonzero(weight)) / max(1, weight.numel())


def sparse_of(layer: nn.Linear | nn.Conv2d) -> Sparse | None:
    """The sparse form of a layer, which is not touched; None where it has none."""
    if isinstance(layer, nn.Linear):
        return SparseLinear.of(layer)
    try:
        return SparseConv2d.of(layer)
    except SparseError:
        return None


def sparse_with(layer: nn.Linear | nn.Conv2d, weight: Tensor) -> Sparse | None:
    """The sparse form of a layer without its bias, with another weight; neither is touched."""
    bare: Any = copy.copy(layer)
    grad = layer.weight.requires_grad
    bare._parameters = {  # noqa: SLF001 - a shallow copy with other tensors
        "weight": nn.Parameter(weight, requires_grad=grad), "bias": None,
    }  # fmt: skip
    return sparse_of(bare)


def dense_again(model: nn.Module) -> nn.Module:
    """The model with the dense layers that its sparse ones stand for, in their place."""
    for name, module in list(model.named_modules()):
        if isinstance(module, (SparseLinear, SparseConv2d)) and name:
            model.set_submodule(name, module.dense())
    return model
