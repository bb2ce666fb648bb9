"""The knife for constants: what removed units added is added by what stays."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from excise.exact.affine import Affine
from excise.exact.border import Span
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
        for layer, names, chosen in live.fed():
            for name, delta in zip(names, layer.added(chosen), strict=True):
                old = changed.get(name, tensors[name].detach().double())
                changed[name] = old + delta.to(old.device)
        for _, effect, place, span in live.spans():
            name = place.weight or ""
            old = changed.get(name, tensors[name].detach().double())
            changed[name], delta = _spread(effect, old, span)
            if place.kind == "create":
                created[place.tensor] = created.get(place.tensor, torch.zeros_like(delta)) + delta
            elif span.bias:
                old = changed.get(place.tensor, tensors[place.tensor].detach().double())
                moved = delta if place.kind == "bias" else -delta
                changed[place.tensor] = old + moved.to(old.device)
    return Folded(changed, created)


def _spread(effect: Affine, weight: Tensor, span: Span) -> tuple[Tensor, Tensor]:
    """Columns of the removed profiles on those that stay, and what is left for the bias."""
    shares = span.shares()
    assert shares is not None  # noqa: S101 - the units would have stayed
    blocks = weight.clone()
    view = blocks.transpose(0, 1) if effect.shape.transposed else blocks  # (out, in, 1...)
    device = weight.device
    columns = view[:, span.lost.to(device)].flatten(1)
    added = columns @ shares.mT.to(device)  # (out, basis)
    stays = span.stays.nonzero().flatten().to(device)
    extra = added[:, 1:] if span.bias else added
    view[:, stays] += extra.reshape(*extra.shape, *([1] * (view.ndim - 2)))
    return blocks, added[:, 0].cpu() if span.bias else torch.zeros(added.shape[0])


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
