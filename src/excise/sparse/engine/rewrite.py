"""The graph of a program: chains in the place of layers, constants where values are known."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from excise.sparse.engine.chain import Chain, Link
from excise.sparse.engine.choice import Dense
from excise.sparse.engine.layout import contiguous
from excise.sparse.engine.pattern import Layer
from excise.sparse.engine.record import Facts
from excise.sparse.engine.step import Step


def rewritten(
    module: fx.GraphModule,
    facts: Facts,
    layers: Sequence[Layer],
    steps: Mapping[fx.Node, Step | Dense],
) -> Callable[..., Any]:
    """The graph with one call in the place of all layers that follow each other.

    Args:
        module: a graph of ATen operators. Not touched.
        facts: of its nodes; those that are constant become constants.
        layers: in its order.
        steps: what runs each layer, by its last node.
    """
    new = _Rewriting(facts, layers, steps)
    (end,) = (node for node in module.graph.nodes if node.op == "output")
    readers = new.readers(end)
    for node in module.graph.nodes:
        if node in readers or node.op in {"placeholder", "output"}:
            new.take(node, readers)
    new.graph.eliminate_dead_code()
    return fx.GraphModule(new.root, new.graph).forward


class _Rewriting:
    """A graph that grows node by node.

    Attributes:
        graph: what there is of it.
        root: holds its constants.
    """

    def __init__(
        self, facts: Facts, layers: Sequence[Layer], steps: Mapping[fx.Node, Step | Dense]
    ) -> None:
        self.graph, self.root = fx.Graph(), torch.nn.Module()
        self._facts, self._steps = facts, steps
        self._layers = {layer.tail: layer for layer in layers}
        self._known: dict[fx.Node, Any] = {}
        self._waiting: list[Link] = []

    def readers(self, end: fx.Node) -> dict[fx.Node, list[fx.Node]]:
        """What reads each node that is read at all; layers go by their last node."""
        found: dict[fx.Node, list[fx.Node]] = {}
        todo = [end]
        while todo:
            reader = todo.pop()
            for read in self._read_by(reader):
                if read not in found:
                    todo.append(read)
                found.setdefault(read, []).append(reader)
        return found

    def _read_by(self, node: fx.Node) -> list[fx.Node]:
        if node in self._facts.number or node in self._facts.constant:
            return []
        layer = self._layers.get(node)
        if layer is None:
            return node.all_input_nodes
        return [layer.source] + ([] if layer.residual is None else [layer.residual])

    def take(self, node: fx.Node, readers: Mapping[fx.Node, Sequence[fx.Node]]) -> None:
        """The next node of the old graph."""
        step = self._steps.get(node)
        if node.op == "placeholder":
            self._known[node] = self.graph.placeholder(str(node.target))
        elif node in self._facts.number:
            self._known[node] = self._facts.number[node]
        elif node in self._facts.constant:
            self._known[node] = _Constant(node.name, self._facts.constant[node])
        elif isinstance(step, Step):
            layer = self._layers[node]
            ours = isinstance(self._steps.get(layer.source), (Step, Dense))
            lies = None if ours else contiguous(self._facts.shape[layer.source])
            self._waiting.append(Link(layer, step, lies))
        else:
            self._run_waiting(readers)
            if step is not None:
                given = tuple(self._use(n) for n in self._read_by(node))
                self._known[node] = self.graph.call_function(step, given)
            elif node.op == "output":
                self.graph.node_copy(node, self._given_away)
            else:
                self._known[node] = self.graph.node_copy(node, self._use)

    def _run_waiting(self, readers: Mapping[fx.Node, Sequence[fx.Node]]) -> None:
        """A call of the steps that were taken since the last one."""
        if not self._waiting:
            return
        inside = {link.layer.tail for link in self._waiting}
        tails = [link.layer.tail for link in self._waiting]
        chain = Chain(self._waiting, [t for t in tails if not inside.issuperset(readers[t])])
        call = self.graph.call_function(chain, tuple(self._use(n) for n in chain.given))
        for i, node in enumerate(chain.made):
            several = len(chain.made) > 1
            part = self.graph.call_function(operator.getitem, (call, i)) if several else call
            self._known[node] = part
        self._waiting = []

    def _use(self, node: fx.Node) -> Any:
        value = self._known[node]
        if not isinstance(value, _Constant):
            return value
        if not isinstance(value.value, Tensor):
            return value.value
        setattr(self.root, f"constant_{value.name}", value.value)
        self._known[node] = self.graph.get_attr(f"constant_{value.name}")
        return self._known[node]

    def _given_away(self, node: fx.Node) -> Any:
        """As `_use`; the caller may write to what it receives, so it gets a copy of a constant."""
        constant = isinstance(self._known[node], _Constant)
        value = self._use(node)
        if constant and isinstance(value, fx.Node):
            return self.graph.call_function(torch.ops.aten.clone.default, (value,))
        return value


class _Constant:
    """A value that is put into the graph where it is first read."""

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.value = name, value
