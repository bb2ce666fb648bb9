"""What a graph does on one set of inputs: shapes, constants, and whose memory each value is."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves

_DYNAMIC = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
_RANDOM = torch.Tag.nondeterministic_seeded


@dataclass
class Facts:
    """Of every node of a graph, on one set of inputs.

    Attributes:
        shape: of nodes that are a tensor.
        stride: of the same.
        native: nodes that are a float32 tensor on the CPU, as the kernels want.
        constant: nodes whose value follows from parameters and buffers alone, with the value.
        number: nodes that are a number, with the number.
        root: node -> the node whose memory it is a view of; itself, if it has its own.
    """

    shape: dict[fx.Node, tuple[int, ...]] = field(default_factory=dict)
    stride: dict[fx.Node, tuple[int, ...]] = field(default_factory=dict)
    native: set[fx.Node] = field(default_factory=set)
    constant: dict[fx.Node, Any] = field(default_factory=dict)
    number: dict[fx.Node, Any] = field(default_factory=dict)
    root: dict[fx.Node, fx.Node] = field(default_factory=dict)


def recordable(graph: fx.Graph) -> bool:
    """Whether shapes follow from shapes, so that what was seen once holds for the next call."""
    return not any(
        tag in getattr(node.target, "tags", ()) for node in graph.nodes for tag in _DYNAMIC
    )


@torch.no_grad()
def recorded(module: fx.GraphModule, args: Sequence[Any], static: set[int]) -> Facts:
    """Run a graph of ATen operators once, and note what is seen.

    Args:
        module: functional: nothing that it reads is written to.
        args: its inputs.
        static: which of them are parameters and buffers.
    """
    facts = Facts()
    values: dict[fx.Node, Any] = {}
    places, last = iter(range(len(args))), last_readers(module.graph)
    for node in module.graph.nodes:
        if node.op == "output":
            continue
        if node.op == "placeholder":
            at = next(places)
            values[node], known = args[at], at in static
        elif node.op == "get_attr":
            values[node], known = getattr(module, str(node.target)), True
        else:
            read = node.all_input_nodes
            known = all(n in facts.constant or n in facts.number for n in read) and _pure(node)
            given = map_arg((node.args, node.kwargs), lambda n: values[n])
            values[node] = node.target(*given[0], **given[1])
        _noted(facts, node, values, known=known)
        for read in node.all_input_nodes:
            if last[read] is node and read not in facts.constant:
                del values[read]
    return facts


def _pure(node: fx.Node) -> bool:
    return node.target is operator.getitem or _RANDOM not in getattr(node.target, "tags", ())


def _noted(facts: Facts, node: fx.Node, values: dict[fx.Node, Any], *, known: bool) -> None:
    value = values[node]
    if isinstance(value, (int, float, bool)):
        facts.number[node] = value
        return
    if known:
        facts.constant[node] = value
    facts.root[node] = node
    if isinstance(value, Tensor):
        facts.shape[node], facts.stride[node] = tuple(value.shape), tuple(value.stride())
        if value.dtype is torch.float32 and value.is_cpu and value.layout is torch.strided:
            facts.native.add(node)
    for read in node.all_input_nodes:
        shared = node.target is operator.getitem or _memory(value) & _memory(values.get(read))
        if shared and read in facts.root:
            facts.root[node] = facts.root[read]


def _memory(value: Any) -> set[int]:
    """Where the storages of a value are."""
    found = (t.untyped_storage().data_ptr() for t in tree_leaves(value) if isinstance(t, Tensor))
    return {place for place in found if place}


def last_readers(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Node -> the last that reads it."""
    return {read: node for node in graph.nodes for read in node.all_input_nodes}
