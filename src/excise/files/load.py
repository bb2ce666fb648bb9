"""Load a cut model: build the original, replay the plan, load strictly."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from excise.errors import (
    CorruptFileError,
    ExciseError,
    ForeignFileError,
    InvalidTargetError,
    PackedDataError,
)
from excise.files.format import Header, read_header
from excise.packing import unpack
from excise.plan import Plan
from excise.sparse.candidate import MIN_ZEROS, candidates, share_of_zeros, sparse_with
from excise.sparse.kernels import Missing, available
from excise.sparse.layer import KINDS, Sparse
from excise.surgery import reshape

Stored = Tensor | Sparse
"""What a file gives under a name: a tensor, or the sparse form of the layer whose weight it is."""


def load(path: str | Path, build: Callable[[], nn.Module], *, sparse: bool = False) -> nn.Module:
    """Read a model that `save` wrote.

    Args:
        path: the file.
        build: any callable that returns the original, uncut architecture: a fresh object (its
            weights do not matter, a meta-device build will do), or an existing model, which is
            copied and not touched.
        sparse: make layers sparse ones, which run with their zeros, if at least 30 % of the weight
            are zeros. Their weights are read one by one, and never more than one of them is dense
            at a time (what `build` makes has to be on the meta device, if that is to count). This
            goes for `nn.Linear` and `nn.Conv2d` without groups, in float32 and bfloat16;
            `excise.sparsify` times the result for an input, and sets how each layer runs. Where
            nothing runs them here, a warning says what is missing, and layers are dense.

    Returns:
        A model of the class that `build` returns, in its mode, with the file's tensors and dtypes,
        ties restored.

    Raises:
        CorruptFileError: missing, truncated or damaged file.
        ForeignFileError: no file of excise's, or `build` returns another architecture.
        NewerFileError: written by a later version.
        InvalidTargetError: `sparse` is neither True nor False.
    """
    where = str(path)
    if not isinstance(sparse, bool):
        raise InvalidTargetError("sparse", repr(sparse), "True or False")
    header = read_header(path)
    model = _built(where, header, build)
    layers = dict(candidates(model)) if sparse and _runs_sparse(where) else {}
    _fill(where, model, _read(where, header, layers))
    return model


def _built(where: str, header: Header, build: Callable[[], nn.Module]) -> nn.Module:
    """The cut architecture."""
    if isinstance(build, nn.Module):
        raise ForeignFileError(where, "`build` is a module, not a callable that returns one")
    try:
        with torch.random.fork_rng(devices=[]):  # its weights are replaced: drawing them is no use
            built = build()
    except Exception as error:
        raise ForeignFileError(
            where, f"`build` failed ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(built, nn.Module):
        raise ForeignFileError(where, f"`build` returned a {type(built).__name__}, not a module")
    try:
        return reshape(built, header.plan)
    except ExciseError as error:
        raise ForeignFileError(where, str(error).splitlines()[0].rstrip(".")) from error


def _runs_sparse(where: str) -> bool:
    """Whether sparse layers run here; says so if not."""
    found = available()
    if isinstance(found, Missing):
        told = f"{where} is loaded dense, nothing runs sparse layers here: {found.why}"
        warnings.warn(told, stacklevel=3)
    return not isinstance(found, Missing)


def _read(where: str, header: Header, layers: Mapping[str, Any]) -> dict[str, Stored]:
    """All tensors, ties by their other names too; packed ones are read one after the other.

    Args:
        where: the file.
        header: of it.
        layers: by name; weights of these are kept in the layers' sparse forms.
    """
    tensors: dict[str, Stored] = {}
    tied = {*header.ties, *header.ties.values()}
    try:
        with safe_open(where, framework="pt") as file:
            names = list(file.keys())
            for name in header.packed.keys() - set(names):
                raise CorruptFileError(where, f"{name} is packed, and not there")
            _check_shapes(where, header)
            for name in names:
                layer = layers.get(name.removesuffix(".weight")) if name not in tied else None
                tensors[name] = _kept(_unpacked(name, file.get_tensor(name), header), layer)
    except PackedDataError as error:
        raise CorruptFileError(where, error.problem) from error
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CorruptFileError(where, f"its tensors cannot be read ({error})") from error
    for name, source in header.ties.items():
        if source not in tensors:
            raise CorruptFileError(where, f"{name} is tied to {source}, which is not there")
        tensors[name] = tensors[source]
    return tensors


def _kept(tensor: Tensor, layer: Any) -> Stored:
    """A weight in the sparse form of its layer, if that has one and it has enough zeros."""
    if layer is None or tensor.shape != layer.weight.shape or tensor.dtype not in KINDS:
        return tensor
    if share_of_zeros(tensor) < MIN_ZEROS:
        return tensor
    return sparse_with(layer, tensor) or tensor


def _check_shapes(where: str, header: Header) -> None:
    """What packed tensors say of their size, against the plan, before room is made for them."""
    cuts = {cut.name: header.plan.shape_after(cut) for cut in header.plan.tensors}
    for name, entry in header.packed.items():
        wanted = cuts.get(name, header.plan.shapes.get(name))
        if wanted is not None and tuple(entry["shape"]) != tuple(wanted):
            found = tuple(entry["shape"])
            raise CorruptFileError(where, f"{name} is packed as {found}, its plan says {wanted}")


def _unpacked(name: str, stored: Tensor, header: Header) -> Tensor:
    entry = header.packed.get(name)
    if entry is None:
        return stored
    if stored.dtype is not torch.uint8 or stored.dim() != 1:
        raise PackedDataError(f"{name} is packed, but not stored as bytes")
    try:
        return unpack(entry, stored.numpy().data)
    except PackedDataError as error:
        raise PackedDataError(f"{name}: {error.problem}") from error


def read_plan(path: str | Path) -> Plan:
    """The plan in a file, without reading a tensor.

    Raises:
        FileError: as `load` does.
    """
    return read_header(path).plan


def _fill(where: str, model: nn.Module, tensors: Mapping[str, Stored]) -> None:
    """Load strictly, with the file's dtypes; tied tensors of the model stay tied."""
    state = model.state_dict()
    missing, extra = state.keys() - tensors.keys(), tensors.keys() - state.keys()
    if missing or extra:
        name = min(missing or extra)
        what = "is missing from it" if missing else "is not in the model"
        raise ForeignFileError(where, f"{name} {what}")
    for name, tensor in state.items():
        if tensor.shape != tensors[name].shape:
            found, wanted = tuple(tensors[name].shape), tuple(tensor.shape)
            raise ForeignFileError(where, f"{name} is {found} in it, the model needs {wanted}")
        if _kind(tensor.dtype) != _kind(tensors[name].dtype):
            dtypes = f"{tensors[name].dtype} in it, the model needs {tensor.dtype}"
            raise ForeignFileError(where, f"{name} is {dtypes}")
    with torch.no_grad():
        _assign(model, {k: v for k, v in tensors.items() if isinstance(v, Tensor)})
        for name, layer in tensors.items():
            if isinstance(layer, Sparse):
                _put(model, name.removesuffix(".weight"), layer)


def _put(model: nn.Module, name: str, layer: Sparse) -> None:
    """A sparse layer in the place of a dense one, with its bias, on its device and in its mode."""
    old: Any = model.get_submodule(name)
    layer.bias = old.bias
    if not old.weight.is_meta:
        layer.to(old.weight.device)
    model.set_submodule(name, layer.train(old.training))


def _kind(dtype: torch.dtype) -> tuple[bool, bool]:
    """What cannot stand for each other; widths can, so that a file may be in half precision."""
    return dtype.is_floating_point, dtype.is_complex


def _assign(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    made: dict[int, Tensor] = {}
    for prefix, module in model.named_modules():
        lead = f"{prefix}." if prefix else ""
        for table in (module._parameters, module._buffers):  # noqa: SLF001 - ties are kept by identity
            for key, old in table.items():
                new = tensors.get(lead + key)
                if old is None or new is None:
                    continue
                if id(old) not in made:
                    data = new.to(old.device) if not old.is_meta else new
                    if isinstance(old, nn.Parameter):
                        made[id(old)] = nn.Parameter(data, requires_grad=old.requires_grad)
                    else:
                        made[id(old)] = data
                table[key] = made[id(old)]
