"""What data decided while a model ran, so that another run can be made to take the same path.

Control flow that asks for a value, and operations whose result is as long as the data says
(`nonzero`, boolean masks), make the path of a run depend on its numbers. A cut model has other
numbers. Rehearsals only compare shapes, so they are given the decisions of the first run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_flatten, tree_map_only

_TAGS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
_MASKED = frozenset({"index", "index_put", "index_put_", "_unsafe_index", "_unsafe_index_put"})


_OWN = frozenset({"aten", "prims", "prim"})


def _shapes(tree: Any) -> list[tuple[int, ...]]:
    return [tuple(t.shape) for t in tree_flatten(tree)[0] if isinstance(t, Tensor)]


class Replay:
    """Decisions in order: written down in a first run, read back in a later one."""

    def __init__(self, script: list[tuple[str, Any]] | None = None) -> None:
        self.script = script
        self.seen: list[tuple[str, Any]] = []

    def outcome(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation; if data decides, as it was decided before."""
        if not isinstance(func, OpOverload):
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if name in _MASKED:
            masks = [t for t in args[1] if isinstance(t, Tensor) and t.dtype is torch.bool]
            if not masks:
                return func(*args, **kwargs)
            known = iter(self.decide(name, lambda: masks))
            made = [next(known) if any(t is m for m in masks) else t for t in args[1]]
            return func(args[0], made, *args[2:], **kwargs)
        if any(tag in func.tags for tag in _TAGS):
            return self.decide(name, lambda: func(*args, **kwargs))
        if func.namespace not in _OWN:  # few of those say that their result depends on data
            return self.observe(f"{func.namespace}::{name}", func, args, kwargs)
        return func(*args, **kwargs)

    def observe(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator of someone else's; of the same shapes it makes the same shapes."""
        out = func(*args, **kwargs)
        entry = (_shapes((args, kwargs)), tree_map_only(Tensor, torch.clone, out))
        place = len(self.seen)
        if self.script is not None and place < len(self.script) and self.script[place][0] == name:
            given, before = self.script[place][1]
            if given == entry[0] and _shapes(before) != _shapes(out):
                self.seen.append((name, (given, before)))
                return tree_map_only(Tensor, torch.clone, before)
        self.seen.append((name, entry))
        return out

    def decide(self, name: str, run: Callable[[], Any]) -> Any:
        """The decision of the script at this place, if it is one of the same operation."""
        place = len(self.seen)
        if self.script is not None and place < len(self.script) and self.script[place][0] == name:
            value = self.script[place][1]
            self.seen.append((name, value))
            return tree_map_only(Tensor, torch.clone, value)
        value = run()
        self.seen.append((name, tree_map_only(Tensor, lambda t: t.detach().clone(), value)))
        return value
