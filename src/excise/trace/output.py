"""The tensors in what a model returns."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path


def output_leaves(out: Any) -> list[tuple[Any, Tensor]]:
    """The tensors in a model's output with their paths; dataclasses and plain objects included."""
    found: list[tuple[Any, Tensor]] = []
    for path, value in tree_flatten_with_path(out)[0]:
        if isinstance(value, Tensor):
            found.append((path, value))
        elif hasattr(value, "__dict__") and not isinstance(value, (nn.Module, type)):
            inner = {k: v for k, v in vars(value).items() if not k.startswith("_")}
            found += [(path + deeper, t) for deeper, t in output_leaves(inner)] if inner else []
    return found
