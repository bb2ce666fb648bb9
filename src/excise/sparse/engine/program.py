"""A graph as a program: layers are steps of the kernels, everything else is what it was."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from excise.sparse.candidate import share_of_zeros
from excise.sparse.engine.choice import Dense, chosen, made
from excise.sparse.engine.layout import Place, arena_of, place_of, places_of
from excise.sparse.engine.pattern import Layer, layers_of
from excise.sparse.engine.record import Facts, recorded
from excise.sparse.engine.step import Step
from excise.sparse.layer import Way

Choices = dict[tuple[Any, ...], Way]


class Chosen(NamedTuple):
    """One layer of a program.

    Attributes:
        name: of the node that its result has in the graph.
        kind: of the layer.
        zeros: share of its weights; 0 without weights.
        way: how it runs.
    """

    name: str
    kind: str
    zeros: float
    way: Way


class Program:
    """A graph of ATen operators on inputs of fixed shapes.

    Attributes:
        layers: what runs by the kernels, in order.
    """

    def __init__(
        self, module: fx.GraphModule, args: Sequence[Any], static: set[int], choices: Choices
    ) -> None:
        facts = recorded(module, args, static)
        graph = module.graph
        (end,) = (node for node in graph.nodes if node.op == "output")
        out = {facts.root.get(node, node) for node in end.all_input_nodes}
        layers = list(layers_of(graph, facts))
        places = places_of(layers, facts, out)
        self._lock = threading.Lock()
        self._threads = torch.get_num_threads()
        self.layers: list[Chosen] = []
        self._steps: list[Step | Dense] = []
        steps: dict[fx.Node, Step | Dense] = {}
        for layer in layers:
            source = places.get(layer.source) or place_of(layer.source, facts)
            step = self._step(layer, source, places[layer.tail], choices)
            if isinstance(step, Step):
                step.loose = layer.source not in places
            steps[layer.tail] = step
        arena = arena_of(graph, facts, places, out, layers)
        for node, step in steps.items():
            step.out = arena.get(node)
        self._run = _rewritten(module, facts, layers, steps)

    def _step(self, layer: Layer, source: Place, place: Place, choices: Choices) -> Step | Dense:
        zeros = 0.0 if layer.weight is None else share_of_zeros(layer.weight)
        shape = None if layer.weight is None else tuple(layer.weight.shape)
        key = (
            layer.kind, source, place, shape, layer.geometry, round(zeros * 50),
            layer.residual is None, layer.activation, self._threads,
        )  # fmt: skip
        if key not in choices:
            choices[key] = chosen(layer, source, place)
        step = made(layer, choices[key], source, place)
        assert step is not None  # noqa: S101 - it was timed
        self._steps.append(step)
        self.layers.append(Chosen(layer.tail.name, layer.kind, zeros, choices[key]))
        return step

    def __call__(self, args: Sequence[Any]) -> Any:
        """Run it; None while another thread does, as they would share its memory."""
        if not self._lock.acquire(blocking=False):
            return None
        try:
            if torch.get_num_threads() != self._threads:
                self._threads = torch.get_num_threads()
                for step in self._steps:
                    if isinstance(step, Step):
                        step.frame.product.threads = self._threads
            with torch.no_grad():
                return self._run(*args)
        finally:
            self._lock.release()


def _rewritten(
    module: fx.GraphModule, facts: Facts, layers: list[Layer], steps: dict[fx.Node, Step | Dense]
) -> Callable[..., Any]:
    """The graph with one call in the place of each layer, and constants for what is constant."""
    graph, made_from = fx.Graph(), dict[fx.Node, Any]()
    gone = {node for layer in layers for node in layer.nodes}
    by_tail = {layer.tail: layer for layer in layers}
    root = torch.nn.Module()
    for node in module.graph.nodes:
        if node.op == "placeholder":
            made_from[node] = graph.placeholder(str(node.target))
        elif node in facts.number:
            made_from[node] = facts.number[node]
        elif node in facts.constant:
            made_from[node] = _Constant(node.name, facts.constant[node])
        elif node in by_tail:
            layer = by_tail[node]
            read = [layer.source] + ([] if layer.residual is None else [layer.residual])
            given = tuple(_use(graph, root, made_from, n) for n in read)
            made_from[node] = graph.call_function(steps[node], given)
        elif node.op == "output":
            graph.node_copy(node, lambda n: _given_away(graph, root, made_from, n))
        elif node not in gone:
            made_from[node] = graph.node_copy(node, lambda n: _use(graph, root, made_from, n))
    graph.eliminate_dead_code()
    return fx.GraphModule(root, graph).forward


class _Constant:
    """A value that is put into the graph where it is first read."""

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.value = name, value


def _use(graph: fx.Graph, root: torch.nn.Module, known: dict[fx.Node, Any], node: fx.Node) -> Any:
    value = known[node]
    if not isinstance(value, _Constant):
        return value
    if not isinstance(value.value, Tensor):
        return value.value
    setattr(root, f"constant_{value.name}", value.value)
    known[node] = graph.get_attr(f"constant_{value.name}")
    return known[node]


def _given_away(
    graph: fx.Graph, root: torch.nn.Module, known: dict[fx.Node, Any], node: fx.Node
) -> Any:
    """As `_use`; the caller may write to what it receives, so it gets a copy of a constant."""
    constant = isinstance(known[node], _Constant)
    value = _use(graph, root, known, node)
    if constant and isinstance(value, fx.Node):
        return graph.call_function(torch.ops.aten.clone.default, (value,))
    return value
