"""Functions made of others: which of them a trace keeps whole, and one that it looks into."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_nn = torch._C._nn  # noqa: SLF001 - where torch keeps the functions that F re-exports
WHOLE: dict[Any, str] = {
    _nn.linear: "linear",
    torch.matmul: "matmul",
    Tensor.matmul: "matmul",
    Tensor.__matmul__: "matmul",
    torch.lstm: "lstm",
    torch.gru: "gru",
    torch.rnn_tanh: "rnn",
    torch.rnn_relu: "rnn",
    torch.nn.functional.scaled_dot_product_attention: "scaled_dot_product_attention",
    _nn.one_hot: "one_hot",  # its parts differ between fake and real data
}


def _unwrapped(function: Any) -> Callable[..., Any]:
    """A copy of a torch.nn.functional function that runs under a function mode, not beside it.

    The original hands itself over to the mode as one opaque call; this copy believes that there is
    no mode, so that its inner calls are seen.
    """
    scope = dict(function.__globals__)
    scope["has_torch_function"] = lambda *_: False
    code, defaults = function.__code__, function.__defaults__
    made = types.FunctionType(code, scope, function.__name__, defaults, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


attention_forward = _unwrapped(torch.nn.functional.multi_head_attention_forward)
