"""Steps that follow each other, in one call: nothing of Python runs between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from excise.sparse.engine.pattern import Layer
from excise.sparse.engine.step import Step, run
from excise.sparse.kernels.library import Stage


class Link(NamedTuple):
    """A layer of a chain, with its step.

    Attributes:
        layer: what it does.
        step: how.
        lies: strides that its input has to have; None: it lies as it should.
    """

    layer: Layer
    step: Step
    lies: tuple[int, ...] | None


class _Wire(NamedTuple):
    """A place that is filled in at each call: `name` of a structure."""

    structure: Any
    name: str
    lies: tuple[int, ...] | None


class Chain:
    """Several steps as one.

    Attributes:
        given: nodes that it reads, in the order of its arguments.
        made: nodes whose values others read, in the order of its results.
    """

    def __init__(self, links: Sequence[Link], made: Sequence[fx.Node]) -> None:
        steps = {link.layer.tail: link.step for link in links}
        self._kept = list(links)
        self._stages = (Stage * len(links))(*[link.step.stage for link in links])
        self._wires: dict[fx.Node, list[_Wire]] = {}
        for link in links:
            product, finish, place = link.step.frame
            self._joined(steps, link.layer.source, _Wire(product, "x", link.lies))
            if link.layer.residual is not None:
                wire = _Wire(finish, "residual", place.stride)
                self._joined(steps, link.layer.residual, wire)
            if link.step.out is not None:
                product.y = link.step.out.data_ptr()
        self.given = [node for node in self._wires if node not in steps]
        self.made = list(made)
        self._fresh = [node for node, step in steps.items() if step.out is None]
        self._steps = steps
        self.__name__ = self.__qualname__ = "chain"  # graphs ask what they call for its name

    def _joined(self, steps: Mapping[fx.Node, Step], read: fx.Node, wire: _Wire) -> None:
        """Fill in where a value is, if it is always there; else note that it is to be done."""
        step = steps.get(read)
        if step is None or step.out is None:
            self._wires.setdefault(read, []).append(wire)
        else:
            setattr(wire.structure, wire.name, step.out.data_ptr())

    def __call__(self, *args: Tensor) -> Any:
        """Run it: one result, or a tuple of several."""
        held: list[Tensor] = []
        for node, x in zip(self.given, args, strict=True):
            for structure, name, lies in self._wires[node]:
                if lies is not None and x.stride() != lies:
                    x = x.contiguous()  # noqa: PLW2901 - the same values
                    held.append(x)
                setattr(structure, name, x.data_ptr())
        fresh = {}
        for node in self._fresh:
            product, _, place = self._steps[node].frame
            fresh[node] = out = torch.empty(place.shape)
            product.y = out.data_ptr()
            for structure, name, _ in self._wires.get(node, ()):
                setattr(structure, name, product.y)
        run(self._stages, len(self._stages))
        results = tuple([fresh[n] if n in fresh else self._steps[n].out for n in self.made])
        return results[0] if len(results) == 1 else results
