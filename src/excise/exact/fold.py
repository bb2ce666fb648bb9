"""The knife for constants: what removed units added is added by what stays."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from excise.exact.affine import Affine
from excise.exact.live import Liveness
from excise.trace import skeleton


class Folded(NamedTuple):
    """Tensors of the uncut model with constants folded in, and biases to create, in float64."""

    tensors: dict[str, Tensor]
    biases: dict[str, Tensor]


def fold(live: Liveness) -> Folded:
    """Compute what changes before the cut. Nothing is touched."""
    tensors = dict(skeleton.named_tensors(live.k.graph.stage.model))
    changed: dict[str, Tensor] = {}
    created: dict[str, Tensor] = {}
    with torch.no_grad():
        for number, effect, place, chosen in live.folds():
            name = place.tensor
            if place.kind == "carrier":
                old = changed.get(name, tensors[name].detach().double())
                changed[name] = _carried(effect, old, chosen, live.carriers(effect, number))
                continue
            delta = effect.added(chosen)[0].reshape(-1)
            if place.kind == "create":
                created[name] = created[name] + delta if name in created else delta
                continue
            old = changed.get(name, tensors[name].detach().double())
            changed[name] = old + (delta if place.kind == "bias" else -delta).to(old.device)
    return Folded(changed, created)


def _carried(effect: Affine, weight: Tensor, chosen: Tensor, carriers: Tensor) -> Tensor:
    """Columns of the removed constants, in proportion, on one that stays: (out, in, taps...)."""
    groups = effect.shape.groups
    blocks = weight.clone()
    view = blocks.reshape(groups, -1, *blocks.shape[1:])
    if effect.shape.transposed:
        view = view.transpose(1, 2)  # (groups, out, in, taps...)
    value = effect.value[0].double().to(weight.device)
    for group in range(groups):
        gone = chosen.any(0)[group].nonzero().flatten()
        if not len(gone):
            continue
        size = value[group].abs() * carriers[group].to(weight.device)
        carrier = int(size.argmax())
        ratio = value[group, gone] / value[group, carrier]
        columns = view[group][:, gone]
        spread = ratio.reshape(1, -1, *([1] * (columns.ndim - 2)))
        view[group][:, carrier] += (columns * spread).sum(1)
    return blocks


def write(model: nn.Module, folded: Folded) -> None:
    """Write folded tensors into a model of our own, in place, in its own dtypes."""
    tensors = dict(skeleton.named_tensors(model))
    with torch.no_grad():
        for name, value in folded.tensors.items():
            tensors[name].copy_(value.to(tensors[name].dtype))
