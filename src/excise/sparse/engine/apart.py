"""Operators that keep the samples of a batch apart: a rule for each, which proves it or refuses.

A rule reads a node and how the samples lie in what it reads, and says how they lie in its result.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch

from excise.sparse.engine.along import Along, Label, Labels, Mixed, given, only, shape

aten = torch.ops.aten
ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu.default  # noqa: SLF001
SAME = aten.as_strided.default
"""It passes only where it gives what it reads; a part leaves it out."""
VIEWS = (aten.view.default, aten._unsafe_view.default, aten.reshape.default)  # noqa: SLF001
MADE = (aten.full.default, aten.zeros.default, aten.ones.default, aten.expand.default)


def pointwise(node: Any, labels: Labels) -> Label:
    """Of operators that go entry by entry: all that have samples have them at the same place."""
    rank, found = len(shape(node)), set[Along]()
    for n in node.all_input_nodes:
        label = labels[n]
        if label is not None:
            found.add(label._replace(dim=label.dim + rank - len(shape(n))))
    if len(found) != 1:
        raise Mixed
    (label,) = found
    for n in node.all_input_nodes:
        sizes = (1,) * (rank - len(shape(n))) + shape(n)
        if labels[n] is None and sizes[label.dim] != 1:
            raise Mixed
    return label


def _same(node: Any, labels: Labels) -> Label:
    return only(node, labels)


def _viewed(node: Any, labels: Labels) -> Label:
    """As much lies before, between and behind the samples as did."""
    label, old, new = only(node, labels), shape(node.args[0]), shape(node)
    before = math.prod(old[: label.dim]) * label.before
    each = math.prod(old[label.dim + 1 :]) * label.each
    for dim, size in enumerate(new):
        outer, inner = math.prod(new[:dim]), math.prod(new[dim + 1 :])
        if outer * inner * size and not before % outer and not each % inner:
            return Along(dim, before // outer, each // inner)
    raise Mixed


def _permuted(node: Any, labels: Labels) -> Label:
    label, rank = only(node, labels), len(shape(node))
    dims = [d % rank for d in node.args[1]]
    return label._replace(dim=dims.index(label.dim))


def _swapped(node: Any, labels: Labels) -> Label:
    label, rank = only(node, labels), len(shape(node))
    one, two = (d % rank for d in node.args[1:3] or (0, 1))
    return label._replace(dim={one: two, two: one}.get(label.dim, label.dim))


def _unsqueezed(node: Any, labels: Labels) -> Label:
    label, dim = only(node, labels), node.args[1] % len(shape(node))
    return label._replace(dim=label.dim + (dim <= label.dim))


def _without(node: Any, label: Along, dims: Any, *, keep: bool = False) -> Label:
    """Dimensions go that are none of the samples'."""
    rank = len(shape(node.args[0]))
    dims = [dims] if isinstance(dims, int) else dims
    if not dims:  # of nothing, or of everything
        raise Mixed
    gone = {d % rank for d in dims}
    if label.dim in gone:
        raise Mixed
    return label if keep else label._replace(dim=label.dim - sum(d < label.dim for d in gone))


def _squeezed(node: Any, labels: Labels) -> Label:
    label, old = only(node, labels), shape(node.args[0])
    dims = [node.args[1]] if isinstance(node.args[1], int) else list(node.args[1])
    dims = [d for d in dims if old[d] == 1]
    return _without(node, label, dims) if dims else label


def _selected(node: Any, labels: Labels) -> Label:
    return _without(node, only(node, labels), given(node, 1, "dim", 0))


def _sliced(node: Any, labels: Labels) -> Label:
    return _without(node, only(node, labels), given(node, 1, "dim", 0), keep=True)


def _split(node: Any, labels: Labels) -> Label:
    return _without(node, only(node, labels), given(node, 2, "dim", 0), keep=True)


def _joined(node: Any, labels: Labels) -> Label:
    found = {labels[n] for n in node.args[0]}
    if len(found) != 1 or None in found:
        raise Mixed
    (label,) = found
    assert label is not None  # noqa: S101 - for the type checker
    if given(node, 1, "dim", 0) % len(shape(node)) == label.dim:
        raise Mixed
    return label


def _of_no_sample(node: Any, labels: Labels) -> Label:
    """It reads a type, and no value."""
    only(node, labels)
    return None


def _rolled(node: Any, labels: Labels) -> Label:
    return _without(node, only(node, labels), given(node, 2, "dims", ()), keep=True)


def _strided(node: Any, labels: Labels) -> Label:
    """Only where it says what was so: the same sizes, and the steps of one piece."""
    label, old = only(node, labels), node.args[0].meta["val"]
    sizes, steps = tuple(node.args[1]), tuple(node.args[2])
    whole = all(step == math.prod(sizes[i + 1 :]) for i, step in enumerate(steps) if sizes[i] > 1)
    if len(node.args) > 3 or sizes != tuple(old.shape) or not whole or not old.is_contiguous():  # noqa: PLR2004
        raise Mixed
    return label


def _reduced(node: Any, labels: Labels) -> Label:
    keep = bool(given(node, 2, "keepdim", default=False))
    return _without(node, only(node, labels), given(node, 1, "dim", None), keep=keep)


def _layer_norm(node: Any, labels: Labels) -> Label:
    label = only(node, labels)
    if label.dim >= len(shape(node.args[0])) - len(node.args[1]):
        raise Mixed
    return label


def _first(node: Any, labels: Labels) -> Along:
    label = only(node, labels)
    if label.dim != 0:
        raise Mixed
    return label


def _normed(node: Any, labels: Labels) -> Label:
    if len(shape(node.args[0])) < 2:  # noqa: PLR2004 - samples and channels
        raise Mixed
    return _first(node, labels)


def _convolved(node: Any, labels: Labels) -> Label:
    if len(shape(node.args[0])) != len(node.args[3]) + 2:
        raise Mixed
    return _first(node, labels)


def _by_plane(node: Any, labels: Labels) -> Label:
    if len(shape(node.args[0])) != 4:  # noqa: PLR2004 - n, c, y, x
        raise Mixed
    return _first(node, labels)


def _rows(node: Any, labels: Labels) -> Label:
    """A product whose rows are samples': `mm(a, b)`, `bmm(a, b)`, `linear(a, b)`."""
    a, b = node.args[:2]
    other = labels[b]
    if other is not None:
        if labels[a] != other or other.dim or len(shape(b)) < 3:  # noqa: PLR2004
            raise Mixed
        return other  # one matrix with another
    label = only(node, labels)
    if label.dim == len(shape(a)) - 1 or (len(shape(b)) > 2 and label.dim == 0):  # noqa: PLR2004
        raise Mixed
    return label


def _mixed() -> Label:
    raise Mixed


def _with_bias(node: Any, labels: Labels) -> Label:
    bias, a, b = node.args[:3]
    label = labels[a]
    if label is None or label.dim or labels[b] is not None:
        raise Mixed
    if labels[bias] is not None or len(shape(bias)) > 1:
        raise Mixed
    return label


def _attended(node: Any, labels: Labels) -> Label:
    query, key, value = node.args[:3]
    label, mask = labels[query], node.kwargs.get("attn_mask")
    if label is None or label.dim or not labels[key] == labels[value] == label:
        raise Mixed
    if mask is not None:
        four = len(shape(mask)) == 4  # noqa: PLR2004 - fewer begin with heads, or with tokens
        if labels[mask] is None and four and shape(mask)[0] != 1:
            raise Mixed
        if labels[mask] is not None and (labels[mask] != label or not four):
            raise Mixed
    if given(node, 3, "dropout_p", 0.0):
        raise Mixed
    return label


def _embedded(node: Any, labels: Labels) -> Label:
    weight, index = node.args[:2]
    return labels[index] if labels[weight] is None else _mixed()


def _padded(node: Any, labels: Labels) -> Label:
    label = only(node, labels)
    if label.dim >= len(shape(node)) - len(node.args[1]) // 2:
        raise Mixed
    return label


def _expanded(node: Any, labels: Labels) -> Label:
    label = only(node, labels)
    return label._replace(dim=label.dim + len(shape(node)) - len(shape(node.args[0])))


def _item(node: Any, labels: Labels) -> Label:
    source, place = node.args
    if source.target is aten._native_batch_norm_legit_no_training.default and place:  # noqa: SLF001
        raise Mixed
    return labels[source]


RULES: dict[Any, Callable[[Any, Labels], Label]] = (
    dict.fromkeys(VIEWS, _viewed)
    | dict.fromkeys(
        (
            aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default,
            aten.var.correction, aten.argmax.default,
        ),
        _reduced,
    )
    | dict.fromkeys((aten._softmax.default, aten._log_softmax.default), _sliced)  # noqa: SLF001
    | dict.fromkeys(
        (aten._to_copy.default, aten.alias.default, aten.detach.default),  # noqa: SLF001
        _same,
    )
    | dict.fromkeys(
        (aten.new_zeros.default, aten.new_ones.default, aten.new_full.default), _of_no_sample
    )
    | dict.fromkeys((aten.mm.default, aten.bmm.default, aten.linear.default), _rows)
    | dict.fromkeys(
        (
            aten.max_pool2d_with_indices.default, aten.avg_pool2d.default,
            aten._adaptive_avg_pool2d.default, aten.upsample_nearest2d.vec,  # noqa: SLF001
            aten.upsample_nearest2d.default, aten.upsample_bilinear2d.vec,
            aten.upsample_bilinear2d.default, aten.upsample_bicubic2d.vec,
            aten.upsample_bicubic2d.default,
        ),
        _by_plane,
    )
    | dict.fromkeys((aten.split.Tensor, aten.split_with_sizes.default), _split)
    | dict.fromkeys((aten.select.int, aten.unbind.int), _selected)
    | dict.fromkeys((aten.squeeze.dim, aten.squeeze.dims), _squeezed)
    | dict.fromkeys((aten.hardswish.default, aten._prelu_kernel.default), pointwise)  # noqa: SLF001
    | {
        aten.permute.default: _permuted,
        aten.transpose.int: _swapped,
        aten.t.default: _swapped,
        aten.unsqueeze.default: _unsqueezed,
        aten.slice.Tensor: _sliced,
        aten.roll.default: _rolled,
        SAME: _strided,
        aten.cat.default: _joined,
        aten.native_layer_norm.default: _layer_norm,
        aten.native_group_norm.default: _first,
        aten._native_batch_norm_legit_no_training.default: _normed,  # noqa: SLF001
        aten.convolution.default: _convolved,
        aten.addmm.default: _with_bias,
        ATTENTION: _attended,
        aten.embedding.default: _embedded,
        aten.constant_pad_nd.default: _padded,
        aten.expand.default: _expanded,
        operator.getitem: _item,
    }
)  # fmt: skip
