"""Copies in double precision: as they are, with a little noise, or with units silenced."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from excise.plan import Plan, mask
from excise.trace.skeleton import copied, named_tensors
from excise.trace.wide import wider


def double(tree: Any) -> Any:
    """Arguments with their tensors in double precision, without gradients."""
    return tree_map_only(Tensor, lambda t: wider(t.detach()), tree)


def eval64(model: nn.Module) -> nn.Module:
    """A copy in float64 and eval mode, made tensor by tensor."""
    memo: dict[int, Any] = {}
    for _, t in named_tensors(model):
        if id(t) not in memo:
            data = t.detach()
            wide = data.clone() if wider(data) is data else wider(data)
            memo[id(t)] = (
                nn.Parameter(wide, requires_grad=False) if isinstance(t, nn.Parameter) else wide
            )
    return copied(model, memo).eval()


def with_noise(model: nn.Module) -> nn.Module:
    """A copy whose parameters all carry a little noise, so that outputs depend on every unit."""
    copy = eval64(model)
    source = torch.Generator().manual_seed(0)
    for parameter in copy.parameters():
        noise = torch.randn(parameter.shape, generator=source, dtype=torch.float64)
        parameter.data += 0.02 * noise.to(parameter.device) if parameter.is_floating_point() else 0
    return copy


def silence(model: nn.Module, plan: Plan) -> nn.Module:
    """Set every removed slice of every parameter to zero, in place."""
    tensors = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for cut in plan.tensors:
            tensor = tensors.get(cut.name)
            if tensor is None:
                continue
            for dim, written in enumerate(cut.dims):
                gone = torch.from_numpy((~mask(written, plan)).nonzero()[0])
                if len(gone):
                    tensor.index_fill_(dim, gone, 0.0)
    return model
