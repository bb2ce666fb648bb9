"""The trace of a model as plain values: operations in order, and where sizes came from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from excise.trace.provenance import Bound, Guard


class Ref(NamedTuple):
    """A traced tensor, by number."""

    number: int


class TensorInfo(NamedTuple):
    """What is known of a traced tensor without its data.

    `name` is the qualified name of a parameter, buffer or tensor attribute; `role` is one of
    `parameter`, `buffer`, `attribute`, `input`, `constant`, `activation`; `width` is the size of
    an element in bytes, `value` that of a constant of one element.
    """

    shape: tuple[int, ...]
    role: str
    name: str = ""
    floating: bool = True
    boolean: bool = False
    width: int = 4
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Op:
    """One operation: tensors in `args`, `kwargs` and `outs` are `Ref`s, in nested lists."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outs: tuple[Ref, ...]
    module: str
    where: str
    pointwise: bool = False

    def inputs(self) -> list[Ref]:
        """The tensors that go in, in order, repeats included."""
        return refs((self.args, tuple(self.kwargs.values())))

    def floats(self) -> list[float]:
        """The numbers with a point that it is given, in order, repeats included."""
        found: list[float] = []
        _gather((self.args, self.kwargs), found, float)
        return found


class Call(NamedTuple):
    """A Python-level call that takes sizes; ints in `args` keep their origin (`TracedInt`)."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outs: tuple[Ref, ...]
    module: str
    where: str


@dataclass(frozen=True)
class Trace:
    """Everything that happened while the model ran once.

    `names` maps each qualified tensor name, ties included, to its tensor. `outputs` are the
    tensors the model returned, with a readable path each (`[0]`, `['logits']`, ...).
    """

    tensors: list[TensorInfo] = field(repr=False)
    ops: list[Op] = field(repr=False)
    calls: list[Call] = field(repr=False)
    guards: list[Guard] = field(repr=False)
    names: dict[str, Ref]
    outputs: list[tuple[str, Ref]]
    bounds: list[Bound] = field(default_factory=list, repr=False)

    def __str__(self) -> str:
        return f"trace of {len(self.ops)} operations over {len(self.names)} named tensors"


def refs(tree: Any) -> list[Ref]:
    """Every tensor in nested tuples, lists and dicts, in order."""
    found: list[Ref] = []
    _gather((tree,), found, Ref)
    return found


def _gather(items: Iterable[Any], found: list[Any], kind: type) -> None:
    for item in items:
        if isinstance(item, kind):
            found.append(item)
        elif isinstance(item, (tuple, list)):
            _gather(item, found, kind)
        elif isinstance(item, dict):
            _gather(item.values(), found, kind)
