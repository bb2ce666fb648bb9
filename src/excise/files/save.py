"""Save a cut model: its tensors, and the plan that leads from the original to it."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from excise.errors import ForeignFileError, InvalidTargetError, StalePlanError
from excise.files.format import PACKED_KEY, PLAN_KEY, TIES_KEY, VERSION, VERSION_KEY
from excise.packing import LAYOUTS, pack, text_of
from excise.plan import Plan, checked
from excise.trace import skeleton

_FORMATS = ("auto", "dense", *LAYOUTS)
_ENTRY = 96  # bytes of the header that an entry takes
_SMALLEST = 64  # elements; below, an entry takes more than packing saves


def save(
    model: nn.Module,
    plan: Plan,
    path: str | Path,
    *,
    format: str = "auto",  # noqa: A002 - what every writer of files calls it
) -> None:
    """Write a cut model and its plan into one safetensors file, zeros packed.

    The file is written beside its place and moved there when it is complete, so that a failure
    leaves what was there. Tied tensors are stored once. Nothing is pickled. The model is not
    touched. Tensors that are not in the state dict (non-persistent buffers, plain attributes) are
    not stored: `load` slices them from the freshly built original.

    Args:
        model: the *smaller* model, as `remove` returned it, perhaps trained since.
        plan: the plan that made it.
        path: where to write; the folder must exist.
        format: how tensors are stored. "auto" packs those of which at least an eighth are zeros,
            each in the layout that makes it smallest, and leaves the others for any reader of
            safetensors. "dense" packs none. "planes", "bitmask", "csr16", "nm" and "block" pack
            every tensor to which that layout applies. Bit for bit, but -0.0 becomes 0.0. See
            docs/formats/packed.md.

    Raises:
        InvalidTargetError: no such format.
        UnsupportedModelError: compiled, scripted or wrapped models.
        PlanFormatError: no plan, or one that contradicts itself.
        StalePlanError: the model is not what the plan leads to.
        ForeignFileError: the model keeps extra state that is no tensor, or the place cannot be
            written.
    """
    where = str(path)
    skeleton.check(model)
    state = model.state_dict()
    odd = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if odd:
        raise ForeignFileError(where, f"{odd[0]} of the model is extra state, not a tensor")
    _check(state, checked(plan))
    stored, ties = distinct(state)
    packed = _pack(stored, format)
    metadata = {
        "format": "pt",
        VERSION_KEY: str(VERSION if packed else 1),
        PLAN_KEY: plan.to_json(),
        TIES_KEY: json.dumps(ties),
    }
    if packed:
        metadata[PACKED_KEY] = json.dumps(packed, separators=(",", ":"))
    target = Path(path)
    draft = target.parent / f".{target.name}.{secrets.token_hex(8)}"
    try:
        draft.touch(exist_ok=False)
        usual = draft.stat().st_mode
        save_file(stored, draft, metadata)
        draft.chmod(usual)  # safetensors keeps what it writes to its owner
        draft.replace(target)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ForeignFileError(where, f"it cannot be written ({reason})") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def _pack(stored: dict[str, Tensor], layout: str) -> dict[str, str]:
    """Replace tensors by their packed bytes, one at a time; names -> entries."""
    if layout not in _FORMATS:
        raise InvalidTargetError("format", repr(layout), f"one of {', '.join(_FORMATS)}")
    entries = {}
    for name, tensor in stored.items() if layout != "dense" else ():
        zeros = tensor.numel() - int(torch.count_nonzero(tensor)) if layout == "auto" else 0
        if tensor.numel() < _SMALLEST or (layout == "auto" and 8 * zeros < tensor.numel()):
            continue
        packed = pack(tensor, layout)
        small = packed is not None and len(packed.data) + _ENTRY < tensor.nbytes
        if packed is not None and (small or layout != "auto"):
            stored[name] = torch.frombuffer(bytearray(packed.data), dtype=torch.uint8)
            entries[name] = text_of(packed.entry)
    return entries


def _check(state: Mapping[str, Tensor], plan: Plan) -> None:
    cuts = {cut.name: plan.shape_after(cut) for cut in plan.tensors}
    for name, shape in plan.shapes.items():
        found = state.get(name)
        wanted = cuts.get(name, shape)
        if found is not None and tuple(found.shape) != wanted:
            raise StalePlanError(name, f"to become {wanted}", f"{tuple(found.shape)}")
    known = plan.shapes.keys() | {f"{layer}.bias" if layer else "bias" for layer in plan.biases}
    for name in state if plan.shapes else ():
        if plan.gone(name):
            raise StalePlanError(name, "in a branch that is gone", "still there")
        if name not in known:
            raise StalePlanError(name, "not in the model", f"{tuple(state[name].shape)}")


def distinct(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors to store, contiguous, each memory once; and tied names -> the name stored."""
    seen: dict[tuple[Any, ...], str] = {}
    stored: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    for name, tensor in state.items():
        data = tensor.detach()
        key = (data.device, data.data_ptr(), tuple(data.shape), data.stride(), data.dtype)
        if data.numel() and key in seen:
            ties[name] = seen[key]
            continue
        seen[key] = name
        stored[name] = data.contiguous().clone()
    return stored, ties
