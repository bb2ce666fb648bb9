"""What torch lets people add: autograd functions, custom operators, with and without a rule."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import excise
from suites.micro import case


class Straight(torch.autograd.Function):
    """Rounding with a straight-through gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Round."""
        del ctx
        return torch.round(x * 4) / 4

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """As if nothing had happened."""
        del ctx
        return gradients[0]


class Swish(torch.autograd.Function):
    """An activation that keeps its input, in the newer form."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """`x sigmoid(x)`."""
        return x * torch.sigmoid(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Keep the input."""
        del output
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """The derivative."""
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return gradients[0] * s * (1 + x * (1 - s))  # type: ignore[no-any-return]


class Called(nn.Module):
    """Two layers with a function in between."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """`head(b(function(a(x))))`."""
        return self.head(torch.relu(self.b(self.function(self.a(x)))))  # type: ignore[no-any-return]


@case()
def autograd_function() -> Any:
    return Called(Straight.apply), (torch.randn(4, 6),)


@case()
def autograd_function_with_context() -> Any:
    return Called(Swish.apply), (torch.randn(4, 6),)


@torch.library.custom_op("excise_micro::soft_cap", mutates_args=())
def soft_cap(x: Tensor, cap: float) -> Tensor:
    """An operator with a rule, below."""
    return cap * torch.tanh(x / cap)


@soft_cap.register_fake
def _(x: Tensor, cap: float) -> Tensor:
    del cap
    return torch.empty_like(x)


@excise.rules.rule("excise_micro::soft_cap")
def soft_cap_rule(s: excise.rules.Scope, op: excise.rules.Op) -> None:
    """The axes of the input are those of the output."""
    s.put(op.outs[0], s.get(op.args[0]))


@torch.library.custom_op("excise_micro::opaque", mutates_args=())
def opaque(x: Tensor) -> Tensor:
    """An operator without a rule: what goes in and what comes out is pinned."""
    return x.flip(-1) * 2


@opaque.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("excise_micro::no_fake", mutates_args=())
def no_fake(x: Tensor) -> Tensor:
    """An operator that cannot be run on fake tensors either: the trace needs real ones."""
    return x.clone() * 2


@case()
def custom_op_with_a_rule() -> Any:
    return Called(lambda x: soft_cap(x, 3.0)), (torch.randn(4, 6),)


@case(0.5)
def custom_op_without_a_rule() -> Any:
    return Called(opaque), (torch.randn(4, 6),)


@case(0.5)
def custom_op_without_a_fake() -> Any:
    return Called(no_fake), (torch.randn(4, 6),)
