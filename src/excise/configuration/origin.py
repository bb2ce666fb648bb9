"""How a constructor came to the lengths of a model: each as an expression of the configuration."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from excise.axes import Axis
from excise.configuration.constructor import Holder, quiet, reread
from excise.graph import AxisGraph, Lengths
from excise.trace.provenance import Attribute, Expr, TracedInt
from excise.trace.skeleton import named_tensors, plant_record, read


class Origin(NamedTuple):
    """One length after a cut, and what the constructor computed it from.

    `place` names the tensor or the attribute; `expr` is over numbers of the configuration.
    """

    place: str
    expr: Expr
    after: int


class Origins(NamedTuple):
    """The lengths of a cut model, and the copies of the configuration that submodules keep.

    `copies` are places that hold the same number: path in the model's configuration -> module,
    path below it.
    """

    lengths: tuple[Origin, ...]
    copies: tuple[tuple[str, Attribute], ...]


class _Sizes(TorchFunctionMode):
    """Remembers with which sizes each tensor was made, by its storage."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[int, tuple[int, ...]] = {}
        self.alive: list[Tensor] = []  # a storage that is gone may leave its number to another

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call the function; if it makes a tensor, keep what it was given."""
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            first = (kwargs or {}).get("size", args[0] if args else ())
            sizes = tuple(first) if isinstance(first, (tuple, list)) else args[: out.dim()]
            if any(isinstance(n, TracedInt) for n in sizes) and sizes == tuple(out.shape):
                self.of[_storage(out)] = sizes
                self.alive.append(out)
        return out

    def sizes(self, tensor: Tensor) -> tuple[int, ...]:
        """The sizes that a tensor was made with; its shape if that is not known."""
        found = self.of.get(_storage(tensor), ())
        return found if found == tuple(tensor.shape) else tuple(tensor.shape)


def _storage(tensor: Tensor) -> int:
    """A number for the memory of a tensor; on the meta device addresses are all the same."""
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001 - the only identity there is


def origins(graph: AxisGraph, kept: Mapping[Axis, int]) -> Origins:
    """Build the model once on the meta device, from numbers that remember where they are written.

    Not touched: the model, its configuration, torch's random state. Nothing is known of a model
    whose constructor refuses, or makes other shapes than the model has.
    """
    model, watch = graph.stage.model, _Sizes()
    try:
        with quiet(), torch.device("meta"), watch:
            config = reread(copy.deepcopy(model.config))
            plant_record(Holder(config), "")
            made: nn.Module = type(model)(config)
    except Exception:  # noqa: BLE001 - a constructor refuses in its own words
        return Origins((), ())
    lengths, found = Lengths(kept), list[Origin]()
    for name, tensor in named_tensors(made):
        ref = graph.trace.names.get(name)
        if ref is None:
            continue
        if tuple(tensor.shape) != graph.scope.shape(ref):
            return Origins((), ())
        for size, term in zip(watch.sizes(tensor), graph.scope.get(ref), strict=True):
            if isinstance(size, TracedInt):
                found.append(Origin(name, size.origin, math.prod(lengths[a] for a in term)))
    for attribute, value in graph.attributes(kept):
        with contextlib.suppress(AttributeError, IndexError, KeyError, TypeError):
            now = read(made.get_submodule(attribute.module), attribute.path)
            if isinstance(now, TracedInt):
                found.append(Origin(str(attribute), now.origin, value))
    return Origins(tuple(found), _copies(made))


def _copies(made: nn.Module) -> tuple[tuple[str, Attribute], ...]:
    """Numbers in configurations that submodules made copies of."""
    found: list[tuple[str, Attribute]] = []
    seen = set(_configurations(made.config))
    for name, module in made.named_modules():
        config = vars(module).get("config")
        if not hasattr(config, "to_dict") or id(config) in seen:
            continue
        seen.add(id(config))
        for key, value in vars(config).items():
            if isinstance(value, TracedInt) and isinstance(value.origin, Attribute):
                found.append((value.origin.path, Attribute(name, f"config.{key}")))
    return tuple(found)


def _configurations(config: Any) -> Iterator[int]:
    """A configuration and those in it, by identity."""
    yield id(config)
    for value in vars(config).values():
        if hasattr(value, "to_dict"):
            yield from _configurations(value)
