"""Which piece of memory a tensor looks at: two names of one tied weight are one view."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from excise.errors import MeasureError


class View(NamedTuple):
    """Identity of the numbers behind a tensor object, on real, meta and fake tensors alike."""

    storage: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> View:
        """The view of a tensor; equal for tied tensors, as long as one of them is alive."""
        shape = tuple(tensor.shape)
        if tensor.layout is not torch.strided:
            return cls(id(tensor), 0, shape, (), tensor.dtype)
        return cls(
            tensor.untyped_storage()._cdata,  # noqa: SLF001 - data_ptr() is 0 for every meta tensor
            int(tensor.storage_offset()),
            shape,
            tensor.stride(),
            tensor.dtype,
        )


def check(model: object, quantity: str) -> None:
    """Refuse what is no module.

    Raises:
        MeasureError: it is none.
    """
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise MeasureError(quantity, f"{kind!r} is no model", "pass a torch.nn.Module")
