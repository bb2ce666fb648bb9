"""Residual streams: what else is added to a consumer's output.

A branch that is added to a stream can repair the stream, and not only itself: its target is the
dense stream after the addition, less what the cut model's stream holds already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from excise.calibration import Consumer
from excise.graph import AxisGraph
from excise.trace import Op, Ref

_NORMS = ("native_batch_norm", "_native_batch_norm_legit_no_training", "batch_norm")
_STEEPEST = 50.0
"""A norm that scales a channel down by more than this hides it; no correction is sent back."""


class Stream(NamedTuple):
    """The other operand of the addition that a consumer's output goes into.

    Attributes:
        op: the operation that makes the other operand, before the consumer runs.
        norm: a batch norm between the consumer and the addition; None without.
        out: which of the operation's outputs it is.
    """

    op: int
    norm: int | None
    out: int = 0

    def of(self, made: Any) -> Tensor:
        """The operand, of what the operation has made."""
        found = made[self.out] if isinstance(made, (tuple, list)) else made
        assert isinstance(found, Tensor)  # noqa: S101 - for the type checker
        return found


def follower(graph: AxisGraph, out: Ref) -> tuple[int, Op] | None:
    """The one operation that reads a tensor, with its number; None if there are more or none."""
    found = [(n, op) for n, op in enumerate(graph.trace.ops) if out in op.inputs()]
    is_output = any(ref == out for _, ref in graph.trace.outputs)
    return found[0] if len(found) == 1 and not is_output else None


def batch_norm_after(graph: AxisGraph, consumer: Consumer) -> int | None:
    """The number of the batch norm that alone reads a consumer's output; None without one."""
    if consumer.part is not None:
        return None
    found = follower(graph, graph.trace.ops[consumer.op].outs[0])
    return found[0] if found and found[1].name in _NORMS else None


def stream_of(graph: AxisGraph, consumer: Consumer) -> Stream | None:
    """The stream that a consumer's output is added to, if its present value is known by then."""
    if consumer.part is not None:  # it gives gates
        return None
    out, norm = graph.trace.ops[consumer.op].outs[0], batch_norm_after(graph, consumer)
    if norm is not None:
        out = graph.trace.ops[norm].outs[0]
    found = follower(graph, out)
    if found is None or found[1].name not in {"add", "add_"} or found[1].kwargs:
        return None
    others = [ref for ref in found[1].inputs() if ref != out]
    if len(others) != 1 or graph.scope.shape(others[0]) != graph.scope.shape(out):
        return None
    makers = [n for n, op in enumerate(graph.trace.ops) if others[0] in op.outs]
    if not makers or makers[-1] >= consumer.op:
        return None
    return Stream(makers[-1], norm, graph.trace.ops[makers[-1]].outs.index(others[0]))


def unscaled(graph: AxisGraph, norm: int, tensors: Mapping[str, Tensor], error: Tensor) -> Tensor:
    """An error after a batch norm in eval mode as one before it: `error * sqrt(var) / weight`."""
    op = graph.trace.ops[norm]
    names = {ref: name for name, ref in reversed(graph.trace.names.items())}
    weight, _, _, variance = (
        tensors[names[ref]] if isinstance(ref, Ref) and ref in names else None
        for ref in op.args[1:5]
    )
    if variance is None:
        return torch.zeros_like(error)
    slope = variance.detach().add(float(op.args[-1])).rsqrt()
    slope = slope if weight is None else slope * weight.detach()
    steep = slope.abs() < 1 / _STEEPEST
    back = torch.where(steep, torch.zeros_like(slope), 1 / torch.where(steep, 1.0, slope))
    return error * back.reshape([-1] + [1] * (error.dim() - 2))
