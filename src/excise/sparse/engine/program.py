"""A graph as a program: layers are steps of the kernels, everything else is what it was."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import fx

from excise.sparse.candidate import share_of_zeros
from excise.sparse.engine.choice import Dense, chosen, made
from excise.sparse.engine.layout import Place, arena_of, place_of, places_of
from excise.sparse.engine.pair import joined, pairs_of, paying
from excise.sparse.engine.pattern import Layer, layers_of
from excise.sparse.engine.record import Facts, recorded
from excise.sparse.engine.rewrite import rewritten
from excise.sparse.engine.step import Step
from excise.sparse.layer import Way

Choices = dict[tuple[Any, ...], Way | None]
"""What decides how a layer runs -> how it does; None: a pair does not."""


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
        self._lock = threading.Lock()
        self._threads = torch.get_num_threads()
        layers = list(layers_of(graph, facts))
        places = places_of(layers, facts, out)
        pairs = [
            pair
            for pair in pairs_of(layers, facts, out)
            if self._pays(pair, places, facts, choices)
        ]
        layers = joined(layers, pairs)
        places = places_of(layers, facts, out)
        self.layers: list[Chosen] = []
        self._steps: list[Step | Dense] = []
        steps: dict[fx.Node, Step | Dense] = {}
        for layer in layers:
            source = places.get(layer.source) or place_of(layer.source, facts)
            steps[layer.tail] = self._step(layer, source, places[layer.tail], choices)
        arena = arena_of(graph, facts, places, out, layers)
        for node, step in steps.items():
            step.out = arena.get(node)
        self._run = rewritten(module, facts, layers, steps)

    def _pays(
        self, pair: Layer, places: Mapping[fx.Node, Place], facts: Facts, choices: Choices
    ) -> bool:
        assert pair.parts is not None  # noqa: S101 - it is a pair
        source = places.get(pair.source) or place_of(pair.source, facts)
        place = places[pair.tail]
        key = self._key(pair, source, place)
        if key not in choices:
            choices[key] = paying(pair, source, places[pair.parts[0].tail], place)
        return choices[key] is not None

    def _step(self, layer: Layer, source: Place, place: Place, choices: Choices) -> Step | Dense:
        key = self._key(layer, source, place)
        way = choices.get(key)
        if way is None:
            choices[key] = way = chosen(layer, source, place)
        step = made(layer, way, source, place)
        assert step is not None  # noqa: S101 - it was timed
        self._steps.append(step)
        self.layers.append(Chosen(layer.tail.name, layer.kind, _zeros(layer), way))
        return step

    def _key(self, layer: Layer, source: Place, place: Place) -> tuple[Any, ...]:
        """What decides how a layer runs."""
        own = [
            (
                None if part.weight is None else tuple(part.weight.shape), part.geometry,
                round(_zeros(part) * 50), part.residual is None, part.activation,
            )
            for part in layer.parts or (layer,)
        ]  # fmt: skip
        return (layer.kind, source, place, self._threads, *own)

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


def _zeros(layer: Layer) -> float:
    return 0.0 if layer.weight is None else share_of_zeros(layer.weight)
