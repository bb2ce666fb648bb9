"""What one operation does to knowledge: forwards to its results, backwards to what it reads.

An `Effect` is made once for each step, with the facts of its inputs at hand. `need` tells which
elements of the inputs the wanted elements of the outputs depend on; `lose` tells which of the
elements about to go would be missed there. The default is honest and helpless: all depends on all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from excise.exact.fact import Fact, Layout
from excise.exact.program import Step
from excise.trace import Op, Ref

Marks: TypeAlias = "Tensor | None"
"""Booleans in the small shape of a tensor; None stands for all False."""


class Context:
    """One step with everything known of its inputs.

    `shares` says of each input whether its last dimension sums to 1, as after a softmax.
    """

    def __init__(
        self,
        layout: Layout,
        step: Step,
        refs: Sequence[Ref],
        facts: list[Fact],
        shares: Sequence[bool] = (),
    ) -> None:
        self.layout, self.step, self.facts = layout, step, facts
        self.shares = shares or [False] * len(facts)
        self.op: Op = step.op
        self.ins = [refs[v] for v in step.ins]
        self.outs = [refs[v] for v in step.outs]

    @property
    def name(self) -> str:
        """The operation without the underscore of its in-place form."""
        return plain_name(self.op.name)

    def unknown(self) -> list[Fact]:
        """Nothing is known of the outputs."""
        return [self.layout.unknown(ref) for ref in self.outs]

    def expanded(self, place: int, tensor: Tensor) -> Tensor:
        """A small tensor of an input under the full shape."""
        return tensor.expand(self.layout.full(self.ins[place]))

    def place(self, ref: Any) -> int | None:
        """Where an argument stands among the inputs; None if it is no tensor."""
        return self.op.inputs().index(ref) if isinstance(ref, Ref) else None

    def run(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Run the operation on other tensors; returns its tensor results in order."""
        there = iter(tensors)
        args, kwargs = refill(self.op.args, there), refill(self.op.kwargs, there)
        if "device" in kwargs:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        kwargs = {k: v for k, v in kwargs.items() if k not in {"pin_memory", "layout"}}
        name = _COPYING.get(self.name, self.name)
        args = args[:2] if name == "reshape" else args  # without strides
        out = getattr(torch.ops.aten, name)(*args, **kwargs)
        return list(_tensors(out))


_COPYING = dict.fromkeys(("view", "_unsafe_view", "_reshape_alias"), "reshape")
"""What is run instead of an operation that needs a certain memory layout."""


def plain_name(name: str) -> str:
    """`relu_` -> `relu`."""
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def refill(tree: Any, tensors: Iterator[Tensor]) -> Any:
    """Put tensors where a trace has references, in order."""
    if type(tree) is Ref:
        return next(tensors)
    if isinstance(tree, (tuple, list)):
        return [refill(v, tensors) for v in tree] if tree else list(tree)
    if isinstance(tree, dict):
        return {k: refill(v, tensors) for k, v in tree.items()}
    return tree


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)


class Effect:
    """Everything depends on everything, and nothing is known: right for any operation."""

    mixes = True
    """Whether a unit that goes is missed even where it is zero."""
    shares = False
    """Whether the last dimension of the first output sums to 1."""

    def __init__(self, c: Context, outs: list[Fact] | None = None) -> None:
        self.c = c
        self.outs = outs if outs is not None else c.unknown()

    def need(self, wanted: Sequence[Marks]) -> list[Marks]:
        """Which elements of each input the wanted elements of the outputs depend on."""
        del wanted
        return [torch.ones(self.c.layout.small(r), dtype=torch.bool) for r in self.c.ins]

    def lose(self, wanted: Sequence[Marks], gone: Sequence[Marks]) -> list[Marks]:
        """Which elements that go are missed by the wanted elements of the outputs."""
        return [_both(n, g) for n, g in zip(self.need(wanted), gone, strict=True)]


def _both(a: Marks, b: Marks) -> Marks:
    return None if a is None or b is None else a & b


def reduced(marks: Tensor, shape: Sequence[int]) -> Tensor:
    """Undo broadcasting: an element is marked if any of its copies is."""
    extra = marks.ndim - len(shape)
    if extra:
        marks = marks.any(list(range(extra)))
    for dim, n in enumerate(shape):
        if n == 1 and marks.shape[dim] > 1:
            marks = marks.any(dim, keepdim=True)
    return marks.expand(tuple(shape))


Row: TypeAlias = "Callable[[Context], Effect]"
ROWS: dict[str, Row] = {}


def row(*names: str) -> Callable[[Row], Row]:
    """Register a function as the row of the named operations (no overload, no `_` suffix)."""

    def register(function: Row) -> Row:
        for name in names:
            ROWS[name] = function
        return function

    return register
