"""The backend of `torch.compile`: `torch.compile(model, backend="excise")`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._dynamo.backends.common import aot_autograd
from torch._guards import TracingContext

from excise.sparse.engine.attention import DECOMPOSITIONS
from excise.sparse.engine.compiled import Compiled
from excise.sparse.kernels import Library, library

_ROUNDS = 5
_MOST_SHAPES = 64  # that are remembered


def excise(graph: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
    """Run a network with scattered zeros fast: `torch.compile(model, backend="excise")`.

    In inference (under `torch.no_grad()` or `torch.inference_mode()`, or with nothing that wants a
    gradient) on a CPU in float32, batch norms in eval mode are folded into the layers before them,
    bias, residual sum and activation become part of the layer, every layer is timed dense and in
    each sparse way for its shape, and results share one piece of memory. What is not known runs as
    it is. On the first inputs of each shape the whole is timed against the graph as it was, and the
    faster one stays.

    Where gradients are wanted (a model in training, or in eval mode with gradients on), and where
    there are no kernels, the graph runs as it is, with its gradients.

    Args:
        graph: as torch traces it; not touched. Its weights are not touched either, and are read
            anew when they change.
        inputs: examples.

    Returns:
        What computes the same to rounding. Outputs are new tensors.
    """
    wanted = any(isinstance(x, Tensor) and x.requires_grad for x in inputs)
    if (torch.is_grad_enabled() and wanted) or not isinstance(library(), Library):
        return graph.forward
    build = aot_autograd(
        fw_compiler=_planned, inference_compiler=_planned, decompositions=DECOMPOSITIONS
    )
    return Faster(build(graph, inputs), graph.forward, _free(inputs))


def _free(inputs: Sequence[Any]) -> list[int]:
    """Which inputs are none of the model's own: the shapes of those do not change."""
    return [i for i, x in enumerate(inputs) if not hasattr(x, "_dynamo_static_input_type")]


def _planned(graph: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
    del inputs  # fake ones; the first real ones are what is planned for
    context = TracingContext.try_get()
    known = None if context is None else context.fw_metadata
    static = set(getattr(known, "static_input_indices", None) or ())
    return Compiled(graph, static)


class Faster:
    """The faster of two that compute the same, for each shape of the inputs.

    Attributes:
        planned: the one that is tried first, and may make a plan when it is.
        plain: the other.
        free: which inputs may come in other shapes.
    """

    def __init__(
        self, planned: Callable[..., Any], plain: Callable[..., Any], free: Sequence[int]
    ) -> None:
        self.planned, self.plain, self.free = planned, plain, free
        self._chosen: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def __call__(self, *args: Any) -> Any:
        """Run the one that is faster on such inputs; on the first, both."""
        given = [args[i] for i in self.free]
        key = tuple([a.shape if isinstance(a, Tensor) else a for a in given])
        chosen = self._chosen.get(key)
        if chosen is not None:
            return chosen(*args)
        before = _versions(args)
        out = self.planned(*args)
        chosen = self.planned
        if before == _versions(args) and not self._wins(args):  # what writes is not run again
            chosen = self.plain
        if len(self._chosen) < _MOST_SHAPES:
            self._chosen[key] = chosen
        return out

    def _wins(self, args: tuple[Any, ...]) -> bool:
        least = [float("inf")] * 2
        with torch.random.fork_rng(devices=[]):
            for _ in range(_ROUNDS):
                for i, call in enumerate((self.planned, self.plain)):
                    start = time.perf_counter()
                    call(*args)
                    least[i] = min(least[i], time.perf_counter() - start)
        return least[0] <= least[1]


def _versions(args: Sequence[Any]) -> list[int]:
    tensors = (a for a in args if isinstance(a, Tensor) and not a.is_inference())
    return [t._version for t in tensors]  # noqa: SLF001 - there is no other way to ask
