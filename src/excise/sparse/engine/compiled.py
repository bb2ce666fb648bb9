"""A graph with its programs: one for each shape of its inputs, made again when weights change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, fx

from excise.sparse.engine.divided import Divided, divided
from excise.sparse.engine.program import Choices, Program
from excise.sparse.engine.record import recordable

_MOST_PROGRAMS = 8
State = list[tuple[int, int]]


class Compiled:
    """What a graph of ATen operators computes, by the kernels where that is known to be right.

    Attributes:
        graph: functional; it runs as it is where there is no program.
        static: which of its inputs are parameters and buffers.
    """

    _boxed_call = True  # takes a list, and may empty it

    def __init__(self, graph: fx.GraphModule, static: set[int]) -> None:
        self.graph, self.static = graph, static
        self._plain: Callable[..., Any] = graph.forward
        self._watched = sorted(static)
        self._free: list[int] | None = None
        self._programs: dict[tuple[Any, ...], Program | Divided | None] = {}
        self._choices: Choices = {}
        self._state: State = []
        self._seen: State = []
        self._held: list[Tensor] = []

    def __call__(self, args: list[Any]) -> Any:
        """Run it."""
        key = self._key(args)
        program = self._programs.get(key)
        if key not in self._programs or self._state != self._now(args):
            program = self._made(key, args)
        out = None if program is None else program(args)
        if out is None:
            out = self._plain(*args)
        args.clear()
        return out

    def _key(self, args: Sequence[Any]) -> tuple[Any, ...]:
        if self._free is None:
            self._free = [i for i in range(len(args)) if i not in self.static]
        given = [args[i] for i in self._free]
        return tuple([a.shape if isinstance(a, Tensor) else a for a in given])

    def _now(self, args: Sequence[Any]) -> State:
        """Where the weights are, and how often each was written to."""
        watched = [args[i] for i in self._watched]
        try:
            return [(t.data_ptr(), t._version) for t in watched]  # noqa: SLF001
        except RuntimeError:  # made in inference mode: writes are not counted
            return [(t.data_ptr(), 0) for t in watched]

    def _made(self, key: tuple[Any, ...], args: Sequence[Any]) -> Program | Divided | None:
        """A program for these inputs, unless there are too many, or the weights do not stay."""
        now = self._now(args)
        if self._state and now != self._state:
            if now != self._seen:  # perhaps they change with every call: wait for a second one
                self._seen = now
                return None
            self._programs.clear()
        if len(self._programs) >= _MOST_PROGRAMS or not recordable(self.graph.graph):
            return None
        # the detached tensors keep the memory of the weights, so that its address tells them apart
        self._state, self._held = now, [args[i].detach() for i in self._watched]
        program = Program(self.graph, args, self.static, self._choices)
        self._programs[key] = self._divided(program, args) if program.layers else None
        return self._programs[key]

    def _divided(self, whole: Program, args: Sequence[Any]) -> Program | Divided:
        """The same in parts, if that is faster and samples have nothing to do with each other."""
        parts = divided(self.graph, args, self.static)
        if parts is None:
            return whole
        parts.run = Program(parts.module, parts.part(args, 0), self.static, self._choices)
        return parts if parts.faster(whole, args) else whole
