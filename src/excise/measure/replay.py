"""Operations of a trace, each ready to be run alone: with the widths that a cut would leave it.

The trace says on which axes each argument lies. A second run, on fake tensors, adds what a trace
leaves out: the function itself, dtypes, devices and memory layouts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

from excise.axes import Axis, flat, leaves
from excise.errors import MeasureError
from excise.graph import AxisGraph
from excise.rules.table import VIEWS
from excise.trace import Op, Ref, skeleton
from excise.trace.run import run
from excise.trace.tape import Tape

_FREE = VIEWS | {"empty", "empty_like", "new_empty", "as_strided", "alias", "detach"}
"""Operations that move no data."""
_FILL = 0.5
_NONE, _ANY, _NEW = -1, -2, -3  # in place of the number of a width


class Given(NamedTuple):
    """A tensor that goes in: its shape, and for each dimension the number of its width (-1: none).

    `order` lists the dimensions from the outermost in memory to the innermost.
    """

    shape: tuple[int, ...]
    widths: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    order: tuple[int, ...]

    def make(self, lengths: Sequence[int]) -> Tensor:
        """Such a tensor at other widths; of numbers that no kernel takes longer or shorter for."""
        shape = self.at(lengths)
        laid = [shape[dim] for dim in self.order]
        value = _FILL if self.dtype.is_floating_point else 0
        made = torch.full(laid, value, dtype=self.dtype, device=self.device)
        back = [self.order.index(dim) for dim in range(len(shape))]
        return made.permute(back)

    def at(self, lengths: Sequence[int]) -> tuple[int, ...]:
        """The shape at other widths."""
        return tuple(
            n if width < 0 else lengths[width]
            for n, width in zip(self.shape, self.widths, strict=True)
        )


class Slot(NamedTuple):
    """The place of a tensor among an operation's arguments."""

    place: int


class Replay(NamedTuple):
    """An operation that can be run alone.

    Attributes:
        name: as in the trace.
        func: what runs.
        args: its arguments, with a `Slot` for each tensor.
        kwargs: keyword arguments, likewise.
        tensors: what goes into the slots.
        outs: shapes of what comes out, with the numbers of their widths.
        widths: the dense lengths that the numbers above stand for.
    """

    name: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    tensors: tuple[Given, ...]
    outs: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    widths: tuple[int, ...]

    @property
    def key(self) -> tuple[Any, ...]:
        """What its time depends on."""
        return (self.name, id(self.func), repr((self.args, self.kwargs)), *self[4:])

    def call(self, lengths: Sequence[int]) -> Callable[[], Any]:
        """The operation at some widths, as a function of nothing."""
        made = [given.make(lengths) for given in self.tensors]
        args, kwargs = tree_map_only(
            Slot, lambda slot: made[slot.place], (self.args, dict(self.kwargs)), _is_slot
        )
        args = _told(self.name, list(args))
        func = self.func
        return lambda: func(*args, **kwargs)

    def fits(self, out: Any, lengths: Sequence[int]) -> bool:
        """Whether a result has the shapes that the axes predict."""
        found = [t for t in tree_flatten(out)[0] if isinstance(t, Tensor)]
        if [t.dim() for t in found] != [len(shape) for shape, _ in self.outs]:
            return False
        return all(
            width == _ANY or length == (lengths[width] if width >= 0 else dense)
            for tensor, (shape, widths) in zip(found, self.outs, strict=True)
            for length, dense, width in zip(tensor.shape, shape, widths, strict=True)
        )


class Place(NamedTuple):
    """An operation of a graph, and for each width a tensor's dimension that has it.

    `op` is its number in the trace; of a copy, which has none, that of the operation after it.
    """

    replay: Replay
    where: tuple[tuple[Ref, int], ...]
    op: int = -1


def _is_slot(value: Any) -> bool:
    return isinstance(value, Slot)


def _told(name: str, args: list[Any]) -> list[Any]:
    """The arguments with the lengths that they repeat as those of the tensors among them."""
    if name == "convolution" and args[8] > 1:
        channels, weight, transposed = args[0].shape[1 - args[1].dim()], args[1].shape, args[6]
        if not transposed:  # the weight is (out, in / groups, ...)
            args[8] = channels // weight[1]
        elif weight[1] == 1:  # (in, out / groups, ...): of a depthwise one
            args[8] = channels
    elif name in {"native_layer_norm", "layer_norm", "rms_norm", "_fused_rms_norm"}:
        rank = len(args[1])
        args[1] = list(args[0].shape[args[0].dim() - rank :])
    elif name == "native_group_norm":
        x = args[0]
        args[3:6] = [x.shape[0], x.shape[1], x[0, 0].numel()]
    return args


class _Seen(NamedTuple):
    func: Any
    layouts: tuple[tuple[torch.dtype, torch.device, tuple[int, ...]], ...]


class _Watch(Tape):
    """Notes what a trace leaves out, and copies of tensors, which a trace has not as operations."""

    def __init__(self, ops: Sequence[Op]) -> None:
        super().__init__()
        self.ops = ops
        self.seen: list[_Seen] = []
        self.copies: list[tuple[int, Ref, Tensor, Tensor]] = []
        self.refs: dict[int, tuple[Ref, Tensor]] = {}  # the tensor is held: its id stays its own

    def step(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation; note it."""
        number = len(self.seen)
        if number >= len(self.ops) or self.ops[number].name != name:
            raise MeasureError("latency", "the model takes another path each time it runs")
        given = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        layouts = tuple((t.dtype, t.device, _order(t)) for t in given)
        out = func(*args, **kwargs)
        self.seen.append(_Seen(getattr(func, "whole", func), layouts))
        found = [t for t in tree_flatten(out)[0] if isinstance(t, Tensor)]
        pairs = [*zip(self.ops[number].inputs(), given, strict=False)]
        for ref, tensor in (*pairs, *zip(self.ops[number].outs, found, strict=False)):
            self.refs[id(tensor)] = ref, tensor
        return out

    def alias(self, source: Tensor, out: Tensor) -> None:
        """Note a copy: another storage with the same units."""
        known = self.refs.get(id(source))
        if known is None:
            return
        self.refs[id(out)] = known[0], out
        if source.untyped_storage()._cdata != out.untyped_storage()._cdata:  # noqa: SLF001
            self.copies.append((len(self.seen), known[0], source, out))


def _order(tensor: Tensor) -> tuple[int, ...]:
    strides = tensor.stride()
    if 0 in strides:  # expanded: laid out like any other
        return tuple(range(tensor.dim()))
    return tuple(sorted(range(tensor.dim()), key=lambda d: (-strides[d], d)))


def watched(graph: AxisGraph) -> list[Place]:
    """Every operation of a graph that moves data, ready to be run alone.

    Args:
        graph: of a model in the mode in which it is timed. Its model runs on fake tensors, or where
            a trace has to, on a copy.

    Raises:
        MeasureError: the model does not take the path of its trace again.
    """
    stage, ops = graph.stage, graph.trace.ops
    tape = _Watch(ops)
    if stage.mode is not None:
        with stage.mode:
            run(skeleton.fake(stage.model, stage.mode), tape, stage.args, stage.kwargs)
    else:
        with torch.random.fork_rng(devices=[]):
            run(skeleton.copied(stage.model, {}), tape, stage.args, stage.kwargs)
    if len(tape.seen) != len(ops):
        raise MeasureError("latency", "the model takes another path each time it runs")
    found = [(n, _place(graph, op, tape.seen[n])) for n, op in enumerate(ops)]
    copies = [(number, _copy(graph, ref, a, b)) for number, ref, a, b in tape.copies]
    every = (*found, *copies)
    return [place._replace(op=number) for number, place in every if place is not None]


def _place(graph: AxisGraph, op: Op, seen: _Seen) -> Place | None:
    given = op.inputs()
    if op.name.rstrip("_") in _FREE or not given or len(given) != len(seen.layouts):
        return None
    numbers = _Numbers(graph)
    tensors = tuple(
        Given(graph.scope.shape(ref), numbers.of(ref), *layout)
        for ref, layout in zip(given, seen.layouts, strict=True)
    )
    outs = tuple((graph.scope.shape(ref), numbers.made(ref)) for ref in op.outs)
    if any(_NEW in marks for _, marks in outs):  # a width that nothing which goes in has
        return None
    slots = iter(range(len(given)))
    args, kwargs = (_slotted(tree, slots) for tree in (op.args, op.kwargs))
    widths = tuple(graph.scope.shape(ref)[dim] for ref, dim in numbers.where)
    made = Replay(op.name, seen.func, args, tuple(kwargs.items()), tensors, outs, widths)
    return Place(made, tuple(numbers.where))


def _copy(graph: AxisGraph, ref: Ref, source: Tensor, out: Tensor) -> Place | None:
    """A copy as an operation: to the dtype and layout of what came out."""
    if source.numel() <= 1:
        return None
    numbers = _Numbers(graph)
    shape, marks = graph.scope.shape(ref), numbers.of(ref)
    given = [Given(shape, marks, t.dtype, t.device, _order(t)) for t in (out, source)]
    widths = tuple(shape[dim] for _, dim in numbers.where)
    args = (Slot(0), Slot(1))
    func = torch.ops.aten.copy_.default
    made = Replay("copy_", func, args, (), tuple(given), ((shape, marks),), widths)
    return Place(made, tuple(numbers.where))


class _Numbers:
    """Numbers for the widths of one operation: dimensions with equal terms share one."""

    def __init__(self, graph: AxisGraph) -> None:
        self.graph = graph
        self.known: dict[tuple[Axis, ...], int] = {}
        self.where: list[tuple[Ref, int]] = []

    def made(self, ref: Ref) -> tuple[int, ...]:
        """The same of what comes out; `_ANY` for a sum or product of what goes in."""
        inside = {leaf for key in self.known for leaf in leaves(key)}
        found: list[int] = []
        for term in self.graph.scope.get(ref):
            free = [leaf for leaf in leaves(term) if leaf.pin is None]
            other = _ANY if inside.issuperset(free) else _NEW
            found.append(self.known.get(tuple(flat(term)), other) if free else _NONE)
        return tuple(found)

    def of(self, ref: Ref) -> tuple[int, ...]:
        """The number of each dimension's width; -1 where nothing can be cut."""
        found: list[int] = []
        for dim, term in enumerate(self.graph.scope.get(ref)):
            key = tuple(flat(term))
            if not any(leaf.pin is None for leaf in leaves(term)):
                found.append(_NONE)
                continue
            if key not in self.known:
                self.known[key] = len(self.where)
                self.where.append((ref, dim))
            found.append(self.known[key])
        return tuple(found)


def _slotted(tree: Any, slots: Iterator[int]) -> Any:
    if type(tree) is Ref:
        return Slot(next(slots))
    if isinstance(tree, (list, tuple)):
        return tuple(_slotted(item, slots) for item in tree)
    if isinstance(tree, dict):
        return {key: _slotted(item, slots) for key, item in tree.items()}
    if isinstance(tree, int) and not isinstance(tree, bool):
        return int(tree)
    return tree
