"""A tape that writes down what it sees."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from excise.trace import provenance
from excise.trace.fake import Fakes
from excise.trace.place import where
from excise.trace.program import Call, Op, Ref, TensorInfo, Trace
from excise.trace.provenance import TracedInt
from excise.trace.replay import Replay
from excise.trace.tape import Tape, widened
from excise.trace.wide import wider

_OURS = 3
"""References to a tensor that is in a list only, as a loop over the list counts them."""

_MOST = 1 << 25
"""Bytes of real tensors, after which a recorder looks which of them it may let go."""


class Recorder(Tape):
    """Writes operations down; every tensor gets a number the first time it is seen.

    On real tensors (`fakes` is None), `replay` holds what their data decided; `wide` runs every
    operation in float64, as a proof does.
    """

    def __init__(
        self, fakes: Fakes | None, *, wide: bool = False, replay: Replay | None = None
    ) -> None:
        super().__init__()
        self.fakes = fakes
        self.wide = wide
        self.replay = replay or Replay()
        self.numbers: dict[int, int] = {}
        self.alive: list[Tensor] = []
        self.fresh = 0  # bytes of real tensors seen since the last look
        self.tensors: list[TensorInfo] = []
        self.ops: list[Op] = []
        self.calls: list[Call] = []
        self.names: dict[str, Ref] = {}
        self.outputs: list[tuple[str, Ref]] = []

    def see(self, tensor: Tensor, role: str, name: str = "") -> Ref:
        """The number of a tensor; a new one is entered with the given role."""
        number = self.numbers.get(id(tensor))
        if number is None:
            number = len(self.tensors)
            self.numbers[id(tensor)] = number
            self.alive.append(tensor)
            self.fresh += tensor.nbytes if self.fakes is None else 0
            shape = tuple(map(int, tensor.size()))
            floating, boolean = tensor.is_floating_point(), tensor.dtype is torch.bool
            width, value = tensor.element_size(), None
            if role == "constant" and tensor.numel() == 1:
                value = _number(tensor)
            self.tensors.append(TensorInfo(shape, role, name, floating, boolean, width, value))
        return Ref(number)

    def alias(self, source: Tensor, out: Tensor) -> None:
        """Give both the same number."""
        number = self.see(source, "constant").number
        if id(out) not in self.numbers:
            self.numbers[id(out)] = number
            self.alive.append(out)

    def forget(self) -> None:
        """Let go of real tensors that nobody else has: they can not come back under their id."""
        self.fresh, kept = 0, list[Tensor]()
        for tensor in self.alive:
            if sys.getrefcount(tensor) > _OURS or tensor._use_count() > 1:  # type: ignore[attr-defined]  # noqa: SLF001
                kept.append(tensor)
            else:
                self.numbers.pop(id(tensor), None)
        self.alive = kept

    def freeze(self, value: Any, role: str = "constant") -> Any:
        """Replace tensors by their numbers, in nested tuples, lists and dicts."""
        if isinstance(value, Tensor):
            return self.see(value, role)
        if isinstance(value, (list, tuple)):
            return tuple(self.freeze(item, role) for item in value)
        if isinstance(value, dict):
            return {key: self.freeze(item, role) for key, item in value.items()}
        if type(value) is TracedInt and not provenance.now(value):
            return int(value)  # kept by the code from an earlier trace
        return value

    def inside(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation, or remember what comes out of it."""
        if self.wide:
            func, args, kwargs = widened(self, func, args, kwargs)
        found = self.replay if self.fakes is None else self.fakes
        out = found.outcome(func, args, kwargs)
        return wider(out) if self.wide else out

    def step(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation and write it down."""
        if self.fresh > _MOST:
            self.forget()
        frozen, kept = self.freeze(args), self.freeze(kwargs) if kwargs else {}
        if name == "as_strided":
            kept["layout"] = (*args[0].stride(), args[0].storage_offset())
        out = self.inside(func, args, kwargs)
        if name.endswith("_"):
            self.forget_reshaped(out)
        outs = tuple(self.see(t, "activation") for t in _tensors(out))
        pointwise = torch.Tag.pointwise in getattr(func, "tags", ())
        self.ops.append(Op(name, frozen, kept, outs, self.module, where(), pointwise))
        return out

    def forget_reshaped(self, out: Any) -> None:
        """A tensor that was given another shape in place is a new one."""
        for tensor in _tensors(out):
            number = self.numbers.get(id(tensor))
            if number is not None and tuple(tensor.size()) != self.tensors[number].shape:
                del self.numbers[id(tensor)]

    def partial(self) -> Trace:
        """Everything seen so far."""
        found, least = list(provenance.guards), list(provenance.bounds)
        return Trace(self.tensors, self.ops, self.calls, found, self.names, self.outputs, least)

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Write down a call that takes sizes."""
        outs = tuple(self.see(t, "activation") for t in _tensors(out))
        self.calls.append(
            Call(name, self.freeze(args), self.freeze(kwargs), outs, self.module, where())
        )


def _number(tensor: Tensor) -> float | None:
    """The value of a tensor that was made of a number; None if it is not known."""
    known = tensor.constant if isinstance(tensor, FakeTensor) else tensor
    if known is None or known.is_complex() or known.is_meta:
        return None
    with torch._C._DisableTorchDispatch():  # noqa: SLF001 - else a mode would see it
        return float(known)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [t for item in value for t in _tensors(item)]
    return []
