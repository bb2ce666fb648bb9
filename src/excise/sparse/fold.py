"""Batch norms that do nothing but scale what a layer gives: folded into the layer."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from excise.calibration import consumers
from excise.graph import AxisGraph
from excise.refit.stream import batch_norm_after

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def norms_after(graph: AxisGraph, model: nn.Module) -> dict[str, str]:
    """Names of layers -> the batch norm that alone reads what they give, in eval mode.

    A norm counts if it is an `nn.BatchNorm` with statistics and weights of its own, used once.
    """
    names = {ref: name for name, ref in reversed(graph.trace.names.items())}
    found = {}
    for consumer in consumers(graph):
        number = batch_norm_after(graph, consumer)
        if number is None or consumer.shared:
            continue
        layer = consumer.weight.rpartition(".")[0]
        mean = names.get(graph.trace.ops[number].args[3], "")
        norm = mean.rpartition(".")[0]
        uses = sum(graph.trace.names[mean] in op.inputs() for op in graph.trace.ops) if mean else 0
        if norm and uses == 1 and type(model.get_submodule(norm)) in _NORMS:
            found[layer] = norm
    return found


@torch.no_grad()
def folded(layer: Any, norm: Any) -> Any:
    """A new layer that computes `norm(layer(x))` in eval mode; neither is touched.

    Args:
        layer: an `nn.Linear` or `nn.Conv2d`.
        norm: the `nn.BatchNorm` behind it, with running statistics.
    """
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double()
    if layer.bias is not None:
        shift = shift + layer.bias.double()
    shift = shift * scale + (0 if norm.bias is None else norm.bias.double())
    weight = layer.weight.double() * scale.reshape(-1, *[1] * (layer.weight.dim() - 1))
    made = copy.copy(layer)
    made._parameters = {  # noqa: SLF001 - a shallow copy with other tensors
        "weight": nn.Parameter(weight.to(layer.weight), requires_grad=layer.weight.requires_grad),
        "bias": nn.Parameter(shift.to(layer.weight), requires_grad=layer.weight.requires_grad),
    }
    return made
