"""Consumers: the operations in which a parameter sums an activation's units away.

A linear layer or a convolution reads its input as rows of features, one row for each position, and
computes `rows @ matrix.T + bias`. What a unit is worth, and what a removed unit leaves to repair,
is decided here: at the consumer's input, after every activation, norm, gate and pool between. Of a
recurrent layer each weight is a consumer of its own (`excise.calibration.recurrent`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from excise.axes import Axis, Term, flat, size
from excise.calibration.call import Call
from excise.calibration.recurrent import RECURRENT, Form, Part
from excise.graph import AxisGraph
from excise.rules import Scope
from excise.trace import Op, Ref


class Consumer(NamedTuple):
    """One such operation, or one weight of a recurrent one.

    Attributes:
        op: its number in the trace.
        source: the activation that it reads.
        weight: the parameter's qualified name.
        bias: that of its bias; empty if it has none.
        late: the operation is given bias, input and weight in this order, as `addmm` is.
        turned: the weight is stored as (in, out), as `addmm` takes it.
        kernel: sizes of a convolution's kernel; empty for a linear layer.
        stride: of a convolution.
        padding: of a convolution, on both sides.
        dilation: of a convolution.
        groups: of a convolution.
        shared: other operations read the same weight, as an embedding that is tied to the last
            layer does. What its columns are worth counts; it cannot be refitted for one alone.
        part: which weight of a recurrent operation it is; None for an operation with one weight.
        times: how many steps of a loop its output goes through, one after the other.
    """

    op: int
    source: Ref
    weight: str
    bias: str = ""
    late: bool = False
    turned: bool = False
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    shared: bool = False
    part: Part | None = None
    times: int = 1

    @property
    def reading(self) -> tuple[Any, ...]:
        """What decides the rows: consumers with the same reading share their statistics."""
        if self.part is not None and (self.part.loops or self.part.layer):
            both = self.part.direction if self.part.loops else -1
            return (self.source.number, self.op, self.part.reads, self.part.layer, both)
        shape = (self.kernel, self.stride, self.padding, self.dilation, self.groups)
        return (self.source.number, *shape)

    @property
    def shifts(self) -> bool:
        """Whether something can be added to what it gives, so that means are made up for."""
        return self.part is None or self.part.bias is not None

    def read(self, call: Call) -> Tensor:
        """The activation that a call of the operation reads."""
        if self.part is not None:
            return self.part.rows(call.func, call.args)
        found = call.args[1] if self.late else call.args[0]
        assert isinstance(found, Tensor)  # noqa: S101 - for the type checker
        return found

    def output(self, call: Call) -> Tensor:
        """What it makes of that: an operation's result, or what one weight adds to the gates."""
        if self.part is not None:
            return self.part.output(call.func, call.args)
        found = call.run()
        assert isinstance(found, Tensor)  # noqa: S101 - for the type checker
        return found

    def changed(self, args: tuple[Any, ...], weight: Tensor, shift: Tensor) -> tuple[Any, ...]:
        """The operation's arguments with another weight, and a shift where a part takes it."""
        if self.part is not None:
            return self.part.changed(args, weight, shift)
        place = 2 if self.late else 1
        given = weight.T if self.late and not self.turned else weight
        return (*args[:place], given, *args[place + 1 :])

    def features(self, tensor: Tensor) -> Tensor:
        """The rows that the operation reads: (groups, rows, features), im2col for convolutions."""
        if not self.kernel:
            return tensor.reshape(1, -1, tensor.shape[-1])
        rank = len(self.kernel)
        x = tensor if tensor.dim() == rank + 2 else tensor[None]
        if math.prod(self.kernel) == 1 and not any(self.padding):
            for dim, step in enumerate(self.stride):
                x = x[(slice(None),) * (dim + 2) + (slice(None, None, step),)]
            columns = x.flatten(2)
        else:
            x = x if rank > 1 else x[..., None, :]
            ones, zeros = (1,) * (2 - rank), (0,) * (2 - rank)
            columns = functional.unfold(
                x,
                kernel_size=(*ones, *self.kernel),
                dilation=(*ones, *self.dilation),
                padding=(*zeros, *self.padding),
                stride=(*ones, *self.stride),
            )
        batch, width, places = columns.shape
        split = columns.view(batch, self.groups, width // self.groups, places)
        return split.permute(1, 0, 3, 2).reshape(self.groups, batch * places, -1)

    def targets(self, tensor: Tensor) -> Tensor:
        """An output of the operation in the same rows: (groups, rows, outputs)."""
        if not self.kernel:
            return tensor.reshape(1, -1, tensor.shape[-1])
        x = tensor if tensor.dim() == len(self.kernel) + 2 else tensor[None]
        split = x.reshape(x.shape[0], self.groups, x.shape[1] // self.groups, -1)
        return split.permute(1, 0, 3, 2).reshape(self.groups, -1, split.shape[2])

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight as (groups, outputs, features)."""
        if self.turned:
            return weight.T[None]
        return weight.reshape(self.groups, weight.shape[0] // self.groups, -1)

    def weight_of(self, matrix: Tensor, like: Tensor) -> Tensor:
        """The inverse of `matrix`, in the shape and dtype of `like`."""
        flat_matrix = matrix[0].T if self.turned else matrix
        return flat_matrix.reshape(like.shape).to(like.dtype)

    def channels(self, scope: Scope) -> Term:
        """The dimension of its input that is summed away."""
        if self.part is not None:
            return scope.get(self.part.weight)[1]
        dims = scope.get(self.source)
        return dims[-len(self.kernel) - 1] if self.kernel else dims[-1]

    def outputs(self, graph: AxisGraph) -> Term:
        """The dimension that it gives instead, in a graph of the same operations."""
        if self.part is not None:
            return graph.scope.get(graph.trace.names[self.weight])[0]
        dims = graph.scope.get(graph.trace.ops[self.op].outs[0])
        return dims[-len(self.kernel) - 1] if self.kernel else dims[-1]

    def width(self, scope: Scope) -> int:
        """How many features a row has, of one group."""
        return size(self.channels(scope)) * math.prod(self.kernel) // self.groups

    def units(self, scope: Scope, axis: Axis) -> Tensor | None:
        """Which unit of an axis each feature of a group belongs to, -1 for none; None without it.

        For a grouped convolution the features of one group, if the axis lies inside the groups.
        """
        columns = columns_of(self.channels(scope), axis)
        if columns is None:
            return None
        if self.groups > 1:
            rows = columns.view(self.groups, -1)
            if not bool((rows == rows[0]).all()):
                return None
            columns = rows[0]
        return columns.repeat_interleave(math.prod(self.kernel)) if self.kernel else columns


def columns_of(term: Term, axis: Axis) -> Tensor | None:
    """Which unit of an axis each index of a dimension belongs to: -1 for none; None without it."""
    found = _columns(term, axis)
    return found if bool((found >= 0).any()) else None


def _columns(term: Term, axis: Axis) -> Tensor:
    out = torch.full((1,), -1)
    for factor in flat(term):
        if factor is axis:
            inner = torch.arange(factor.size)
        elif factor.parts is not None:
            parts = [
                _columns([p], axis) if flat([p]) else torch.full((p.size,), -1)
                for p in factor.parts
            ]
            inner = torch.cat(parts)
        else:
            inner = torch.full((factor.size,), -1)
        out = torch.maximum(out[:, None], inner[None, :]).reshape(-1)
    return out


def consumers(graph: AxisGraph) -> list[Consumer]:
    """Every consumer of a traced model, in order of execution.

    Left out: weights that are computed (weight norm) and transposed convolutions; removal there is
    neither counted nor repaired.
    """
    found = [
        c
        for number, op in enumerate(graph.trace.ops)
        for c in (_cells if op.name in RECURRENT else _read)(graph, number, op)
    ]
    uses: dict[str, int] = {}
    stored = {ref: name for name, ref in reversed(graph.trace.names.items())}
    for op in graph.trace.ops:
        for ref in op.inputs():
            if ref in stored:
                uses[stored[ref]] = uses.get(stored[ref], 0) + 1
    return [c._replace(shared=uses[c.weight] > 1) for c in found]


def by_op(found: Iterable[Consumer]) -> dict[int, list[Consumer]]:
    """Consumers by the number of their operation; a recurrent one has several."""
    out: dict[int, list[Consumer]] = {}
    for consumer in found:
        out.setdefault(consumer.op, []).append(consumer)
    return out


def _parameters(graph: AxisGraph) -> Callable[[Any], str]:
    """What names a parameter; nothing for anything else."""
    names = {ref: name for name, ref in reversed(graph.trace.names.items())}
    info = graph.scope.info

    def parameter(ref: Any) -> str:
        known = isinstance(ref, Ref) and info(ref).role == "parameter"
        return names.get(ref, "") if known else ""

    return parameter


def _transposed(graph: AxisGraph, ref: Ref) -> Ref | None:
    """What a tensor is the transpose of; None if it is none."""
    made = (op.args[0] for op in graph.trace.ops if op.name == "t" and ref in op.outs)
    return next(made, None)


def _read(graph: AxisGraph, number: int, op: Op) -> Iterator[Consumer]:
    parameter, args = _parameters(graph), list(op.args)
    if op.name == "linear":
        weight = args[1] if len(args) > 1 else op.kwargs.get("weight")
        bias = args[2] if len(args) > 2 else op.kwargs.get("bias")  # noqa: PLR2004
        if parameter(weight):
            yield Consumer(number, args[0], parameter(weight), parameter(bias))
    elif op.name == "addmm":
        before = _transposed(graph, args[2])  # as the cells of recurrent layers do it
        weight = parameter(args[2] if before is None else before)
        if weight and parameter(args[0]):
            bias, turned = parameter(args[0]), before is None
            yield Consumer(number, args[1], weight, bias, late=True, turned=turned)
    elif op.name == "convolution":
        source, weight, bias, stride, padding, dilation, transposed, _, groups = args[:9]
        if not parameter(weight) or transposed:
            return
        shape = graph.scope.shape(weight)
        rank = len(shape) - 2
        depthwise = groups > 1 and shape[1] == 1
        if depthwise or rank > 2:  # noqa: PLR2004 - unfold knows images and sequences
            return
        wide = [tuple(v) * rank if len(v) == 1 else tuple(v) for v in (stride, padding, dilation)]
        yield Consumer(
            number, source, parameter(weight), parameter(bias), kernel=tuple(shape[2:]),
            stride=wide[0], padding=wide[1], dilation=wide[2], groups=int(groups),
        )  # fmt: skip


def _cells(graph: AxisGraph, number: int, op: Op) -> Iterator[Consumer]:
    parameter, form = _parameters(graph), Form.of(op.args)
    for part in form.parts():
        bias = "" if part.bias is None else parameter(form.weights[part.bias])
        own = part if bias else part._replace(bias=None)
        if parameter(part.weight):
            times = form.length(graph.scope.shape) if part.loops else 1
            weight = parameter(part.weight)
            yield Consumer(number, form.data, weight, bias, part=own, times=times)
