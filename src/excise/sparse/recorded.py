"""A pass by the kernels whose gradients are those of the dense layer."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class Layer(Protocol):
    """What a sparse layer offers: two ways to compute the same, the second with gradients."""

    def by_kernels(self, x: Tensor) -> Tensor:
        """The layer by an operator of ours."""

    def by_weight(self, x: Tensor) -> Tensor:
        """The layer by its dense weight."""

    def changed(self) -> None:
        """Look at the values again."""


def recorded(layer: Layer, x: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """The layer by its kernels, with gradients for x, value and bias; they can be taken twice.

    The dense weight is made when gradients are asked for, and not before.
    """
    apply: Any = _Recorded.apply
    out: Tensor = apply(layer, x, value, bias)
    return out


def transformed() -> bool:
    """Whether a transform of `torch.func` is at work, which looks into tensors in its own way."""
    return torch._C._functorch.peek_interpreter_stack() is not None  # noqa: SLF001 - no other name


class _Recorded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layer: Layer, x: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x, value, bias)
        return layer.by_kernels(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, value, bias = ctx.saved_tensors
        again, needed = torch.is_grad_enabled(), ctx.needs_input_grad[1:]
        ctx.layer.changed()  # an optimizer comes next
        with torch.enable_grad():
            x = x if again else x.detach().requires_grad_(needed[0])
            out = ctx.layer.by_weight(x)
            asked = [t for t, need in zip((x, value, bias), needed, strict=True) if need]
            found = iter(torch.autograd.grad(out, asked, grads, create_graph=again))
        return None, *[next(found) if need else None for need in needed]
