"""A large batch part by part: what one part leaves behind is still near when it is read."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from excise.sparse.engine.along import Along, Label, Labels
from excise.sparse.engine.apart import SAME
from excise.sparse.engine.batch import labelled, smaller

_NEAR = 2**21
"""Bytes: what a second-level cache holds. A layer's input and output are to fit."""
_ROUNDS = 3
Run = Callable[[Sequence[Any]], Any]


class Divided:
    """A batch that is run in parts of equal size.

    Attributes:
        module: the graph for one part.
        samples: of a part.
    """

    def __init__(self, module: fx.GraphModule, labels: Labels, count: int, samples: int) -> None:
        self.samples, self._parts = samples, count // samples
        self.module = _for_part(module, labels, count, samples)
        inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
        self._batched = [i for i, node in enumerate(inputs) if labels[node] is not None]
        (end,) = (node for node in module.graph.nodes if node.op == "output")
        self._out: list[Label] = [
            labels[n] if isinstance(n, fx.Node) else None for n in end.args[0]
        ]
        self.run: Run = lambda args: self.module(*args)

    def part(self, args: Sequence[Any], place: int) -> list[Any]:
        """What a part reads."""
        given = list(args)
        for i in self._batched:
            given[i] = given[i].narrow(0, place * self.samples, self.samples)
        return given

    def __call__(self, args: Sequence[Any]) -> Any:
        """Run all parts; None where one can not run now."""
        made = []
        for place in range(self._parts):
            out = self.run(self.part(args, place))
            if out is None:
                return None
            made.append(out)
        pieces = zip(*made, strict=True)
        return tuple(
            every[0] if label is None else torch.cat(every, label.dim)
            for label, every in zip(self._out, pieces, strict=True)
        )

    def faster(self, whole: Run, args: Sequence[Any]) -> bool:
        """Whether it takes less time than the whole batch at once, both in turns."""
        least, runs = [math.inf, math.inf], (self.__call__, whole)
        for _ in range(_ROUNDS):
            made = []
            for i, run in enumerate(runs):
                start = time.perf_counter()
                made.append(run(args))
                least[i] = min(least[i], time.perf_counter() - start)
            if not _agree(*made):
                return False
        return least[0] < least[1]


def _agree(one: Any, two: Any) -> bool:
    """Whether the proof holds here: both ran, and give the same up to rounding."""
    if one is None or two is None:
        return False
    return all(
        a.shape == b.shape and torch.allclose(a.double(), b.double(), 1e-3, 1e-4, equal_nan=True)
        for a, b in zip(one, two, strict=True)
        if isinstance(a, Tensor) and isinstance(b, Tensor)
    )


def divided(module: fx.GraphModule, args: Sequence[Any], static: set[int]) -> Divided | None:
    """A graph on parts of its batch that fit a cache; None where it is small, or mixes samples.

    Args:
        module: functional, of ATen operators, with the values of its example.
        args: inputs as they will be.
        static: which of them are parameters and buffers.
    """
    free = [a for i, a in enumerate(args) if i not in static and isinstance(a, Tensor) and a.dim()]
    count = free[0].shape[0] if free else 0
    if count < 2:  # noqa: PLR2004 - nothing to divide
        return None
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    batched = {
        node
        for i, (node, a) in enumerate(zip(inputs, args, strict=True))
        if i not in static and isinstance(a, Tensor) and a.shape[:1] == (count,)
    }
    labels = labelled(module.graph, batched, count)
    samples = count if labels is None else _fitting(labels, count)
    if labels is None or samples == count:
        return None
    (end,) = (node for node in module.graph.nodes if node.op == "output")
    if any(label.before > 1 for n in end.all_input_nodes if (label := labels[n]) is not None):
        return None  # the parts' results do not lie one behind the other
    return Divided(module, labels, count, samples)


def _fitting(labels: Labels, count: int) -> int:
    """Of how many samples the largest results fit: a divisor of all that there are, at least 1."""
    made = [n.meta.get("val") for n, label in labels.items() if label and n.op == "call_function"]
    largest = max([1, *(v.numel() * v.element_size() for v in made if isinstance(v, Tensor))])
    most = min(count, _NEAR // 2 * count // largest)
    return next(n for n in range(max(1, most), 0, -1) if count % n == 0)


def _for_part(module: fx.GraphModule, labels: Labels, count: int, samples: int) -> fx.GraphModule:
    graph, known = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in module.graph.nodes:
        label = labels.get(node)
        if node.target is SAME and label is not None:
            known[node] = known[node.args[0]]
            continue
        known[node] = graph.node_copy(node, known.__getitem__)
        if isinstance(label, Along):
            known[node].args = fx.map_arg(smaller(node, label, count, samples), known.__getitem__)
    return fx.GraphModule(module, graph)
