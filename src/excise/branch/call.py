"""Calls of modules: which operations of a trace each one runs, what goes in and what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from excise.errors import ExampleError
from excise.graph import AxisGraph
from excise.trace import Op, Ref, skeleton
from excise.trace.run import run
from excise.trace.tape import Tape, widened
from excise.trace.wide import wider


class Value(NamedTuple):
    """A tensor as one operation left it: in-place operations make another value of it.

    Attributes:
        number: of the tensor in the trace.
        maker: the operation that wrote it last; -1 for what was there before any.
    """

    number: int
    maker: int


class Call(NamedTuple):
    """One call of a module.

    Attributes:
        module: its qualified name.
        first: the first operation that it runs.
        last: the operation after its last one.
        given: tensors among its arguments, by position or keyword.
        alone: it is called with one positional argument.
        outs: tensors that it returns.
        outputs: length of the tuple that it returns; 0 for a tensor alone, -1 for anything else.
        place: of the first tensor in that tuple.
    """

    module: str
    first: int
    last: int
    given: tuple[tuple[int | str, Value], ...]
    alone: bool
    outs: tuple[Value, ...]
    outputs: int
    place: int

    @property
    def ops(self) -> range:
        """The operations that it runs."""
        return range(self.first, self.last)


class _Follower(Tape):
    """Knows the number of every tensor of a traced model that runs again."""

    def __init__(self, ops: Sequence[Op], *, wide: bool) -> None:
        super().__init__()
        self.ops, self.wide = ops, wide
        self.refs: dict[int, tuple[int, Tensor]] = {}  # the tensor is held: its id stays its own
        self.makers: dict[int, int] = {}
        self.open: list[tuple[int, Any]] = []
        self.calls: list[Call] = []

    def step(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation; note what its tensors are called."""
        number = self.count
        self.count += 1
        if number >= len(self.ops) or self.ops[number].name != name:
            raise ExampleError(self.module, "", "the model takes another path each time it runs")
        op, out = self.ops[number], self.inside(func, args, kwargs)
        self.note(tree_flatten((args, kwargs))[0], op.inputs())
        self.note(tree_flatten(out)[0], op.outs)
        self.makers |= dict.fromkeys((ref.number for ref in op.outs), number)
        return out

    def inside(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation, in float64 if the model was traced so."""
        if not self.wide:
            return func(*args, **kwargs)
        func, args, kwargs = widened(self, func, args, kwargs)
        return wider(func(*args, **kwargs))

    def note(self, leaves: Sequence[Any], refs: Sequence[Ref]) -> None:
        """Tensors, and what the trace calls them."""
        tensors = (leaf for leaf in leaves if isinstance(leaf, Tensor))
        self.refs |= {id(t): (ref.number, t) for t, ref in zip(tensors, refs, strict=False)}

    def alias(self, source: Tensor, out: Tensor) -> None:
        """The same tensor as another object."""
        known = self.refs.get(id(source))
        if known is not None:
            self.refs[id(out)] = known[0], out

    def value(self, tensor: Any) -> Value | None:
        """What an object is in the trace at this moment; None for what is no traced tensor."""
        known = self.refs.get(id(tensor)) if isinstance(tensor, Tensor) else None
        return None if known is None else Value(known[0], self.makers.get(known[0], -1))

    def enter(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        """A module is called."""
        named = [*enumerate(args), *kwargs.items()]
        given = tuple((k, v) for k, x in named if (v := self.value(x)) is not None)
        self.open.append((self.count, (given, len(args) == 1 and not kwargs)))

    def leave(self, name: str, out: Any) -> None:
        """It returns."""
        first, (given, alone) = self.open.pop()
        row = list(out) if isinstance(out, (tuple, list)) else [out]
        there = [i for i, item in enumerate(row) if isinstance(item, Tensor)]
        known = all(item is None or isinstance(item, Tensor) for item in row)
        outputs = -1 if not known or type(out) not in (tuple, list) else len(row)
        outputs = 0 if isinstance(out, Tensor) else outputs
        outs = tuple(v for i in there if (v := self.value(row[i])) is not None)
        place = there[0] if there else 0
        self.calls.append(Call(name, first, self.count, given, alone, outs, outputs, place))


def calls(graph: AxisGraph, *, wide: bool = False) -> list[Call]:
    """Every call of a module, in the order in which they end. The model runs once more, as traced.

    `wide` says that it was traced in float64.

    Raises:
        ExampleError: it takes another path each time it runs.
    """
    stage, tape = graph.stage, _Follower(graph.trace.ops, wide=wide)
    if stage.mode is not None:
        bones = skeleton.fake(stage.model, stage.mode)
    else:
        bones = skeleton.copied(stage.model, {})
    for name, tensor in skeleton.named_tensors(bones):
        tape.refs[id(tensor)] = graph.trace.names[name].number, tensor
    entered = [i for i, info in enumerate(graph.trace.tensors) if info.role == "input"]
    leaves = [t for t in tree_flatten((stage.args, stage.kwargs))[0] if isinstance(t, Tensor)]
    tape.note(list({id(t): t for t in leaves}.values()), [Ref(i) for i in entered])
    for name, module in bones.named_modules():
        module.register_forward_pre_hook(tape.enter, with_kwargs=True)

        def leave(_module: Any, _given: Any, out: Any, name: str = name) -> None:
            tape.leave(name, out)

        module.register_forward_hook(leave)
    with stage.mode if stage.mode is not None else torch.random.fork_rng(devices=[]):
        run(bones, tape, stage.args, stage.kwargs)
    return tape.calls
