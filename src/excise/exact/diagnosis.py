"""What is zero in a model, what of it can go exactly, and why the rest stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from excise import units
from excise.axes import flat, size
from excise.exact.cut import Exact
from excise.exact.mask import subnormals

_MATRIX = 2
_SCATTERED = 0.01  # of a layer's values; fewer zeros are no pruning
_SHOWN = 3
_HEADS = (
    "nn.MultiheadAttention takes its head size from embed_dim // num_heads and its projections "
    "from embed_dim, so no head can leave it while embed_dim stays; write the attention with "
    "projections and sizes of its own (as timm does), load the same weights, and its heads go"
)
_DO = "store sparse, or prune filters instead"


@dataclass(frozen=True)
class Layer:
    """One weight: values and filters (slices of its first dimension), and what becomes of them.

    Attributes:
        name: the parameter.
        values: how many there are.
        zeros: how many of them are zero.
        filters: slices of the first dimension.
        empty: filters that hold nothing but zeros.
        removed_filters: filters that go, empty or not.
        removed_values: values that go.
        left_zeros: zeros among the values that stay.
        why: reasons why empty filters stay, most frequent first.
    """

    name: str
    values: int
    zeros: int
    filters: int
    empty: int
    removed_filters: int
    removed_values: int
    left_zeros: int
    why: tuple[str, ...] = ()

    @property
    def says(self) -> str:
        """One sentence on the zeros that stay; empty if there are none to speak of."""
        left = self.values - self.removed_values
        if not left or self.left_zeros <= _SCATTERED * left:
            return ""
        share = f"{100 * self.left_zeros / left:.0f} % zeros"
        if self.why:
            return "; ".join(self.why)
        if not self.empty:
            return (
                f"scattered: {share} but no filter is empty; store sparse, or prune filters instead"
            )
        return f"scattered: {share} in filters that are not empty; store them sparse"


@dataclass(frozen=True)
class Diagnosis:
    """What kind of zeros a model has, and what they can buy.

    Attributes:
        layers: one row for each weight with at least two dimensions.
        params: parameters of the plain model.
        zeros: parameters that are zero, vectors included.
        subnormal: parameters that are not zero but below the smallest normal number.
        removed_units: group -> units that go, of how many.
        removed_params: parameters that go.
        created_params: new bias values that take up folded constants.
        macs: multiply-adds on the example, before and after.
        folded: tensors that take up constants of units that go.
        carriers: constant units that stay for others, so that borders are right at any resolution.
        mixing: operations that keep zero units because they mix them, by name and module.
    """

    layers: tuple[Layer, ...]
    params: int
    zeros: int
    subnormal: int
    removed_units: Mapping[str, tuple[int, int]]
    removed_params: int
    created_params: int
    macs: tuple[int, int]
    folded: tuple[str, ...]
    carriers: int
    mixing: tuple[str, ...]

    def advice(self) -> tuple[str, ...]:
        """What the user can do next, most useful first."""
        out: list[str] = []
        if self.removed_params:
            out.append("call excise.shrink (or `excise shrink`): the removal is exact")
        left = sum(layer.left_zeros for layer in self.layers)
        kept = sum(layer.values - layer.removed_values for layer in self.layers)
        if kept and left > _SCATTERED * kept:
            share = f"{100 * left / kept:.0f} % of what is left"
            what = f"{units.count(left, 'zeros')} stay scattered ({share})"
            out.append(f"{what}: store them sparse, or prune whole filters with excise.prune")
        if self.subnormal:
            many = units.count(self.subnormal, "subnormal values")
            out.append(f"flush_subnormals=True sets {many} to zero")
        if not self.zeros:
            out.append("nothing is zero: excise.prune chooses what to remove")
        return tuple(out)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {**asdict(self), "advice": list(self.advice())}

    def __str__(self) -> str:
        share = 100 * self.zeros / self.params if self.params else 0.0
        many = "in " + units.count(sum(n for n, _ in self.removed_units.values()), "units")
        lines = [
            f"zero: {units.count(self.zeros, 'parameters')} of {self.params:,} ({share:.1f} %)",
            f"removable exactly: {units.count(self.removed_params, 'parameters')} {many}",
        ]
        lines += [f"{layer.name}: {layer.says}" for layer in self.layers if layer.says]
        lines += [f"mixing: {name}" for name in self.mixing]
        return "\n".join([*lines, *(f"next: {text}" for text in self.advice())])


def diagnose(found: Exact) -> Diagnosis:
    """Describe what `exact` found. Not touched: anything."""
    graph, live = found.graph, found.live
    tensors = dict(found.model.named_parameters(remove_duplicate=False))
    seen: set[int] = set()
    layers: list[Layer] = []
    zeros = 0
    for name, tensor in tensors.items():
        if id(tensor) in seen or not tensor.is_floating_point():
            continue
        seen.add(id(tensor))
        if tensor.ndim >= _MATRIX:
            layers.append(_layer(found, name, tensor.detach()))
            zeros += layers[-1].zeros
        else:
            zeros += tensor.numel() - int(torch.count_nonzero(tensor.detach()))
    kept = {axis: axis.size - int(gone.sum()) for axis, gone in live.gone.items()}
    removed = graph.params() - graph.params(kept)
    removed_units = {n: (len(u), found.plan.sizes[n]) for n, u in found.plan.removed.items()}
    kinds = Counter(stays.kind for stays in live.reasons.values())
    return Diagnosis(
        layers=tuple(layers),
        params=graph.params(),
        zeros=zeros,
        subnormal=subnormals(found.model),
        removed_units=removed_units,
        removed_params=removed,
        created_params=_created(found),
        macs=(graph.macs(), graph.macs(kept)),
        folded=(*found.folded.tensors, *(f"{name}.bias" for name in found.folded.biases)),
        carriers=kinds["carrier"] + kinds["border"],
        mixing=_mixing(found),
    )


def _created(found: Exact) -> int:
    count = 0
    cuts = {cut.name: cut for cut in found.plan.tensors}
    for name, value in found.folded.biases.items():
        cut = cuts.get(f"{name}.weight")
        lost = cut.shape[0] - found.plan.shape_after(cut)[0] if cut is not None else 0
        count += value.numel() - lost
    return count


def _layer(found: Exact, name: str, tensor: Tensor) -> Layer:
    cut = next((c for c in found.plan.tensors if c.name == name), None)
    left = tensor != 0
    zeros = tensor.numel() - int(torch.count_nonzero(left))
    empty = ~left.flatten(1).any(1).cpu()
    stays = torch.ones(tensor.shape[0], dtype=torch.bool)
    if cut is not None:
        for dim, words in enumerate(cut.dims):
            index = torch.from_numpy(found.plan.indices(words))
            if len(index) < left.shape[dim]:
                left = left.index_select(dim, index.to(left.device))
            if dim == 0:
                stays[:] = False
                stays[index] = True
    return Layer(
        name=name,
        values=tensor.numel(),
        zeros=zeros,
        filters=tensor.shape[0],
        empty=int(empty.sum()),
        removed_filters=int((~stays).sum()),
        removed_values=tensor.numel() - left.numel(),
        left_zeros=left.numel() - int(torch.count_nonzero(left)),
        why=_why(found, name, (empty & stays).numpy().nonzero()[0]),
    )


def _why(found: Exact, name: str, filters: np.ndarray[Any, Any]) -> tuple[str, ...]:
    """Why empty filters of a weight stay."""
    if not len(filters):
        return ()
    if _torch_attention(found, name):
        many = units.count(len(filters), "empty filters")
        return (f"{many} stay{'s' if len(filters) == 1 else ''}: {_HEADS}",)
    term = found.graph.dims(name)[0]
    reasons: Counter[str] = Counter()
    places = found.live.k.layout.places(term) if size(term) > 1 and flat(term) else []
    for index in filters.tolist():
        texts = []
        for leaf, of in places:
            unit = int(of[index])
            if unit < 0:
                continue
            stays = found.live.reasons.get((leaf.name, unit))
            if stays is not None:
                texts.append(str(stays))
            elif leaf.pin is not None:
                texts.append(leaf.pin.reason)
        reasons[texts[0] if texts else "its axis has a single unit"] += 1
    return tuple(
        f"{count} empty filter{'s' if count > 1 else ''} stay{'' if count > 1 else 's'}: {text}"
        for text, count in reasons.most_common(_SHOWN)
    )


def _torch_attention(found: Exact, name: str) -> bool:
    """Whether a weight holds the heads of torch's own attention, packed or apart."""
    module = found.model.get_submodule(name.rpartition(".")[0])
    return isinstance(module, nn.MultiheadAttention)


def _mixing(found: Exact) -> tuple[str, ...]:
    """Operations that hold units back because they mix them."""
    held: Counter[str] = Counter()
    for stays in found.live.reasons.values():
        if stays.kind == "mixed":
            held[f"{stays.op} in {stays.module}" if stays.module else stays.op] += 1
    return tuple(name for name, _ in held.most_common())
