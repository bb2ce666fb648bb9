"""Float64 where a model asks for less: dtypes widened, and kernels that have no float64 form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

NARROW = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.complex32, torch.complex64})
_COMPLEX = frozenset({torch.complex32, torch.complex64})


def wider(tree: Any) -> Any:
    """Tensors and dtypes of an argument list in double precision; what is no float stays."""
    if isinstance(tree, torch.dtype):
        return _wide(tree)
    if isinstance(tree, Tensor) and tree.dtype in NARROW:
        return tree.to(_wide(tree.dtype))
    if type(tree) in (tuple, list):
        return type(tree)(wider(v) for v in tree)
    if isinstance(tree, dict):
        return {k: wider(v) for k, v in tree.items()}
    return tree


def _wide(dtype: torch.dtype) -> torch.dtype:
    if dtype not in NARROW:
        return dtype
    return torch.complex128 if dtype in _COMPLEX else torch.float64


def grouped_mm(
    x: Tensor,
    weights: Tensor,
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: Any = None,
) -> Tensor:
    """Rows `offs[i - 1]` to `offs[i]` of `x` times `weights[i]`; without `offs` a plain batch.

    `x` is `(rows k)`, `weights` `(groups k n)`, as `torch._grouped_mm` takes them for experts.

    Raises:
        NotImplementedError: the ragged dimension is another one, as in a backward pass.
    """
    del out_dtype
    if bias is not None:
        raise NotImplementedError("bias")
    if offs is None:
        return x @ weights
    if x.dim() != 2 or weights.dim() != 3:  # noqa: PLR2004 - see above
        raise NotImplementedError("ragged along another dimension")
    row = torch.arange(x.shape[0], device=x.device)
    group = (row[:, None] >= offs[None]).sum(1)  # rows beyond the last offset belong to none
    out = x.new_zeros(x.shape[0], weights.shape[-1])
    for i in range(weights.shape[0]):
        out = torch.where((group == i)[:, None], x @ weights[i], out)
    return out


KERNELS: dict[Any, Callable[..., Any]] = {}
if hasattr(torch.ops.aten, "_grouped_mm"):
    KERNELS[torch.ops.aten._grouped_mm.default] = grouped_mm  # noqa: SLF001 - has no public name
"""Operations without a float64 kernel -> the same in operations that have one."""
