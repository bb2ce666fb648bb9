"""What the commonest operations return, as shapes, without asking torch.

torch works a batch norm's or a layer norm's shape out by running its decomposition into a dozen
operations on fake tensors, 2 ms each time, and a network of many widths asks for every one of them.
A row here says the same of contiguous float tensors of one type, and nothing of anything else; the
tests hold each against torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

Shapes: TypeAlias = "list[tuple[int, ...]] | None"
Row: TypeAlias = "Callable[..., Shapes]"
ROWS: dict[Any, Row] = {}
_WIDE = frozenset({torch.float32, torch.float64})  # narrower ones keep statistics in another type
aten = torch.ops.aten


def outline(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Shapes:
    """Shapes of the contiguous tensors that an operation returns; None if no row says.

    They have the dtype and device of the first tensor that goes in.
    """
    row = ROWS.get(getattr(func, "whole", func))
    if row is None or kwargs:
        return None
    tensors = [
        t for a in args for t in (a if isinstance(a, list) else [a]) if isinstance(t, Tensor)
    ]
    kinds = {(t.dtype, t.device) for t in tensors}
    if len(kinds) != 1 or tensors[0].dtype not in _WIDE:
        return None
    if any(t.stride() != contiguous(t.shape) or 0 in t.shape for t in tensors):
        return None
    return row(*args)


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a dense tensor in row-major order."""
    strides, step = list[int](), 1
    for length in reversed(shape):
        strides.append(step)
        step *= length
    return tuple(reversed(strides))


def row(*functions: Any) -> Callable[[Row], Row]:
    """Register a function as the row of these operations."""

    def register(function: Row) -> Row:
        ROWS.update(dict.fromkeys(functions, function))
        return function

    return register


@row(
    aten.relu.default, aten.silu.default, aten.gelu.default, aten.sigmoid.default,
    aten.tanh.default, aten.hardswish.default, aten.hardsigmoid.default,
)  # fmt: skip
def unary(x: Tensor, *_: Any) -> Shapes:
    """Each value on its own."""
    return [tuple(x.shape)]


@row(aten._softmax.default, aten._safe_softmax.default)  # noqa: SLF001 - what softmax is called
def softmax(x: Tensor, *given: Any) -> Shapes:
    """A row at a time; `given` is the dimension, and whether or in which type it widens."""
    return None if given[1:] not in ((), (False,), (None,)) else [tuple(x.shape)]


@row(aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)
def binary(x: Any, y: Any) -> Shapes:
    """Two tensors of one shape; others are torch's business."""
    same = isinstance(x, Tensor) and isinstance(y, Tensor) and x.shape == y.shape
    return [tuple(x.shape)] if same else None


@row(aten.native_batch_norm.default)
def batch_norm(x: Tensor, *given: Any) -> Shapes:
    """With running statistics (`given[4]` says training); those of the batch stay empty."""
    return None if given[4] else [tuple(x.shape), (0,), (0,)]


@row(aten.native_layer_norm.default)
def layer_norm(x: Tensor, over: Sequence[int], *_: Any) -> Shapes:
    """Over the last dimensions; a mean and a deviation for each of the others."""
    outer = x.shape[: x.dim() - len(over)]
    each = (*outer, *(1 for _ in over))
    return [tuple(x.shape), each, each]


@row(aten.view.default, aten._unsafe_view.default)  # noqa: SLF001 - what a view is called
def view(x: Tensor, shape: Sequence[int]) -> Shapes:
    """The same numbers in another shape."""
    known = math.prod(n for n in shape if n != -1)
    full = tuple(int(x.numel() // known if n == -1 else n) for n in shape)
    return [full] if math.prod(full) == x.numel() and list(shape).count(-1) < 2 else None  # noqa: PLR2004


@row(aten.cat.default)
def cat(tensors: list[Tensor], dim: int = 0) -> Shapes:
    """One after the other."""
    first = tensors[0].shape
    if any(t.dim() != len(first) for t in tensors):
        return None
    place = dim % len(first)
    others = {(*t.shape[:place], *t.shape[place + 1 :]) for t in tensors}
    total = sum(t.shape[place] for t in tensors)
    return [(*first[:place], total, *first[place + 1 :])] if len(others) == 1 else None


@row(torch._C._nn.linear)  # noqa: SLF001 - `F.linear`
def linear(x: Tensor, weight: Tensor, *_: Any) -> Shapes:
    """The last dimension exchanged for the rows of the weight."""
    fits = x.dim() > 0 and weight.dim() == 2 and x.shape[-1] == weight.shape[1]  # noqa: PLR2004
    return [(*x.shape[:-1], weight.shape[0])] if fits else None
