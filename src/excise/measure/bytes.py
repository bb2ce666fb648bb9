"""How much room a model takes: in a file, and in memory."""

from __future__ import annotations

import json

import torch
from torch import Tensor, nn

from excise.errors import MeasureError
from excise.measure.view import View, check

# The dtypes of the safetensors format; a writer puts the last of them first.
_WRITTEN = (
    ("bool", "BOOL"),
    ("uint8", "U8"),
    ("int8", "I8"),
    ("float8_e5m2", "F8_E5M2"),
    ("float8_e4m3fn", "F8_E4M3"),
    ("float8_e8m0fnu", "F8_E8M0"),
    ("int16", "I16"),
    ("uint16", "U16"),
    ("float16", "F16"),
    ("bfloat16", "BF16"),
    ("int32", "I32"),
    ("uint32", "U32"),
    ("float32", "F32"),
    ("complex64", "C64"),
    ("float64", "F64"),
    ("int64", "I64"),
    ("uint64", "U64"),
)
_DTYPES = {getattr(torch, name): (rank, code) for rank, (name, code) in enumerate(_WRITTEN)}
_ALIGNMENT = 8


def file_bytes(model: nn.Module) -> int:
    """Size of the safetensors file of the model's state dict, in bytes, without writing one.

    Exactly what `safetensors.torch.save` would write for the state dict with tied tensors stored
    once, under their first name: 8 bytes of length, a JSON header, the values. Zeros take the same
    room as any other value. State that is no tensor cannot be in such a file, and does not count.

    Args:
        model: any module. Not touched, and not run.

    Raises:
        MeasureError: the format has no code for a tensor's dtype, or the model is no module.
    """
    check(model, "file bytes")
    tensors: dict[View, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor):
            if tensor.dtype not in _DTYPES:
                raise MeasureError("file bytes", f"safetensors has no code for {tensor.dtype}")
            tensors.setdefault(View.of(tensor), (name, tensor))
    header: dict[str, object] = {}
    end = 0
    for name, tensor in sorted(tensors.values(), key=_order):
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype][1],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return 8 + -(-len(text) // _ALIGNMENT) * _ALIGNMENT + end


def memory_bytes(model: nn.Module) -> int:
    """Bytes that the parameters and buffers of a model hold; shared memory counts once.

    A view counts with all the memory that it keeps alive, so slicing alone saves nothing. Not in
    it: gradients, activations, optimizer state.

    Args:
        model: any module. Not touched, and not run.

    Raises:
        MeasureError: the model is no module.
    """
    check(model, "memory bytes")
    held: dict[int, int] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        for part in _parts(tensor):
            storage = part.untyped_storage()
            held[storage._cdata] = storage.nbytes()  # noqa: SLF001 - data_ptr() is 0 on meta
    return sum(held.values())


def _order(item: tuple[str, Tensor]) -> tuple[int, str]:
    """Widest dtype first, then by name: offsets, and so the header's digits, depend on it."""
    name, tensor = item
    return -_DTYPES[tensor.dtype][0], name


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """The strided tensors that a sparse one is made of."""
    tensor = tensor.detach()
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()  # noqa: SLF001 - indices() needs a coalesced one
    if tensor.layout in {torch.sparse_csr, torch.sparse_bsr}:
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in {torch.sparse_csc, torch.sparse_bsc}:
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return (tensor,)
