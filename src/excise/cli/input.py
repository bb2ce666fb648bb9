"""Example inputs from the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from excise.errors import RequestError

_SPEC = re.compile(
    r"(?:(?P<name>[A-Za-z_]\w*)=)?(?:(?P<kind>float|long|bool):)?(?P<shape>\d+(?:x\d+)*)"
)
_FILE = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<path>.+\.(?:npy|pt))")
_TOKENS = 10  # ids below this exist in every vocabulary
_DO = "write --input as 1x3x224x224, long:1x16, mask=long:1x16, or a .npy or .pt file"


def example(
    model: nn.Module, name: str, specs: Sequence[str] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword inputs; values are random from a fixed seed.

    Args:
        model: asked for its input size if no spec is given; not run.
        name: MODEL as it was given.
        specs: what `--input` said.

    Raises:
        RequestError: a spec cannot be read, or none was given and the model has no usual input.
    """
    generator = torch.Generator().manual_seed(0)
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for spec in specs or (usual(model, name),):
        key, value = _tensor(spec, generator)
        if key is None:
            args.append(value)
        else:
            kwargs[key] = value
    return tuple(args), kwargs


def calibration(specs: Sequence[str] | None) -> list[tuple[Any, ...] | dict[str, Any]] | None:
    """One batch of calibration data from files; None if there are none.

    Args:
        specs: what `--calibration` said.

    Raises:
        RequestError: no file of that kind, one that cannot be read, or named inputs among others.
    """
    args: list[Tensor] = []
    kwargs: dict[str, Tensor] = {}
    do = "write --calibration images.npy or input_ids=tokens.pt, named all or not at all"
    for spec in specs or ():
        match = _FILE.fullmatch(spec)
        if not match:
            raise RequestError(f"{spec!r} is no .npy or .pt file", "--calibration", do)
        value = _stored(Path(match["path"]))
        if match["name"] is None:
            args.append(value)
        else:
            kwargs[match["name"]] = value
    if args and kwargs:
        raise RequestError("some inputs have names and some have not", "--calibration", do)
    return [kwargs or tuple(args)] if specs else None


def usual(model: nn.Module, name: str) -> str:
    """The input that a library's models take, as a spec.

    Raises:
        RequestError: nothing is known about this model's input.
    """
    size = (getattr(model, "pretrained_cfg", None) or {}).get("input_size")
    if size:
        return "x".join(map(str, (1, *size)))
    if name.startswith("torchvision:"):
        return "1x3x224x224"
    if getattr(model, "main_input_name", "") == "input_ids":
        return "input_ids=long:1x16"
    raise RequestError(f"no example input is known for {name}", "--input", _DO)


def _tensor(spec: str, generator: torch.Generator) -> tuple[str | None, Tensor]:
    match = _FILE.fullmatch(spec)
    if match:
        return match["name"], _stored(Path(match["path"]))
    match = _SPEC.fullmatch(spec)
    if not match:
        raise RequestError(f"{spec!r} is no input", "--input", _DO)
    shape = [int(n) for n in match["shape"].split("x")]
    if match["kind"] == "long":
        return match["name"], torch.randint(0, _TOKENS, shape, generator=generator)
    if match["kind"] == "bool":
        return match["name"], torch.ones(shape, dtype=torch.bool)
    return match["name"], torch.randn(shape, generator=generator)


def _stored(path: Path) -> Tensor:
    try:
        if path.suffix == ".npy":
            return torch.from_numpy(np.load(path, allow_pickle=False))
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise RequestError.of(error, f"{path} cannot be read", "--input", _DO) from error
    if not isinstance(value, Tensor):
        do = "save one tensor per file, and repeat --input"
        raise RequestError(f"{path} holds a {type(value).__name__}", "--input", do)
    return value
