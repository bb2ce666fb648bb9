"""Which dimension of each value counts the samples of a batch: proved, operator by operator.

What is proved is that a graph on a part of the samples gives that part of its results. An operator
that no rule knows, or that could mix samples, ends the proof.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx

from excise.sparse.engine.along import Along, Label, Labels, Mixed, shape
from excise.sparse.engine.apart import ATTENTION, MADE, RULES, VIEWS, pointwise

aten = torch.ops.aten
_SIZES: dict[Any, int] = (
    dict.fromkeys(VIEWS, 1)
    | dict.fromkeys(MADE, 0)
    | {aten.expand.default: 1, aten.native_group_norm.default: 3}
)
"""Operators that are told the number of samples, and in which argument."""


def labelled(graph: fx.Graph, batched: Collection[fx.Node], count: int) -> Labels | None:
    """How the samples lie in every value; None where that is not certain.

    Args:
        graph: functional, of ATen operators, with the values of an example (`meta["val"]`).
        batched: its inputs that hold a sample for each index of their first dimension.
        count: of samples, at least 2.
    """
    labels: Labels = {}
    try:
        for node in graph.nodes:
            if node.op == "placeholder":
                labels[node] = Along(0) if node in batched else None
            elif node.op == "get_attr":
                labels[node] = None
            elif node.op == "call_function":
                labels[node] = _of(node, labels, count)
            elif node.op != "output":
                return None
    except Mixed:
        return None
    return labels


def smaller(node: fx.Node, label: Label, count: int, part: int) -> tuple[Any, ...]:
    """A node's arguments, for so many of the samples."""
    args = list(node.args)
    place = _SIZES.get(node.target)
    if place is None or label is None:
        return tuple(args)
    sizes: Any = args[place]
    if isinstance(sizes, int):  # of a group norm: how many samples there are
        args[place] = sizes // count * part
        return tuple(args)
    sizes = list(sizes)
    if sizes[label.dim] != -1:
        sizes[label.dim] = sizes[label.dim] // count * part
    args[place] = sizes
    return tuple(args)


def _of(node: Any, labels: Labels, count: int) -> Label:
    tags = getattr(node.target, "tags", ())
    random = torch.Tag.nondeterministic_seeded in tags and node.target is not ATTENTION
    if random or _writes(node) or _has_symbols(node):
        raise Mixed
    if all(labels[n] is None for n in node.all_input_nodes):
        return Along(0) if _repeats(node, count) else None
    rule = RULES.get(node.target)
    if rule is None and torch.Tag.pointwise in tags:
        rule = pointwise
    if rule is None:
        raise Mixed
    label = rule(node, labels)
    if label is not None and isinstance(node.meta["val"], Tensor):
        sizes = shape(node)
        if label.dim >= len(sizes) or sizes[label.dim] != label.before * count * label.each:
            raise Mixed
    return label


def _writes(node: Any) -> bool:
    """Whether it changes what it reads: on parts it would do so several times."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _has_symbols(node: Any) -> bool:
    """Whether a size is a number that only the call knows."""
    return any(
        not isinstance(n.meta.get("val"), Tensor | list | tuple) for n in node.all_input_nodes
    )


def _repeats(node: Any, count: int) -> bool:
    """Whether it makes the same for each sample, of nothing that depends on them."""
    if node.target not in MADE or shape(node)[:1] != (count,):
        return False
    if node.target is not aten.expand.default:
        return True
    old = shape(node.args[0])
    return len(old) < len(shape(node)) or old[0] == 1
