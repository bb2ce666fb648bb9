"""State dicts from files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from excise.errors import RequestError
from excise.exact import merged, unmerged
from excise.measure.view import View

_SHOWN = 4


def load_state(model: nn.Module, path: Path) -> None:
    """Fill a model from a file, strictly: every tensor, no more, each of its shape.

    Accepts safetensors files, and `torch.save` files of a state dict, bare or under `state_dict`,
    also of a model wrapped in (Distributed)DataParallel. A pickle that holds anything else than
    tensors and plain values is refused. A tied tensor may be stored under one of its names. Masks
    (`weight_orig` and `weight_mask`, parametrizations) are multiplied into their weights.

    Raises:
        RequestError: the file cannot be read, or does not fit.
    """
    state = read_state(path)
    lost = unmerged(state)
    if lost:
        more = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
        what = f"{path} holds {', '.join(lost[:_SHOWN])}{more} without the mask or parametrization"
        do = "call the sparsifier's `squash_mask()` (a structured pruner's `prune()`) before saving"
        raise RequestError(what, "--weights", do)
    state = merged(state)
    own = model.state_dict()
    by_view: dict[View, Tensor] = {}
    for name, tensor in own.items():
        if name in state and isinstance(tensor, Tensor):
            by_view.setdefault(View.of(tensor), state[name])
    for name, tensor in own.items():
        if name not in state and isinstance(tensor, Tensor) and View.of(tensor) in by_view:
            state[name] = by_view[View.of(tensor)]
    missing, foreign = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    wrong = [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if isinstance(own[name], Tensor) and own[name].shape != state[name].shape
    ]
    for problem, names in (("lacks", missing), ("has too many:", foreign), ("differs:", wrong)):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            what = f"{path} {problem} {', '.join(names[:_SHOWN])}{more}"
            do = "pass the weights of exactly this architecture"
            raise RequestError(what, "--weights", do)
    model.load_state_dict(state, strict=True)


def read_state(path: Path) -> dict[str, Any]:
    """The tensors of a file by name, on the CPU; no code in it is run.

    Raises:
        RequestError: the file cannot be read as weights.
    """
    do = "pass a .safetensors file, or a .pt file that holds a state dict"
    if not path.is_file():
        raise RequestError(f"there is no file {path}", "--weights", do)
    try:
        if path.suffix == ".safetensors":
            raw: Any = safetensors.torch.load_file(path)
        else:
            raw = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise RequestError.of(error, f"{path} cannot be read", "--weights", do) from error
    if isinstance(raw, Mapping) and isinstance(raw.get("state_dict"), Mapping):
        raw = raw["state_dict"]
    if not isinstance(raw, Mapping) or not all(isinstance(name, str) for name in raw):
        raise RequestError(f"{path} holds a {type(raw).__name__}", "--weights", do)
    wrapped = bool(raw) and all(name.startswith("module.") for name in raw)
    return {name.removeprefix("module.") if wrapped else name: raw[name] for name in raw}
