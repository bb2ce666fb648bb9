"""timm: the smallest model of every source file, and further ones drawn by a seed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
import vision
from torch import nn

DATA = Path(__file__).parents[1] / "data" / "timm_families.json"
DRAWN = 100
LARGEST = 120_000_000  # parameters of a drawn model: two copies in float64 fit an ordinary machine


def names() -> list[str]:
    """The smallest model of every source file."""
    return [f["model"] for f in json.loads(DATA.read_text())["families"]]


def prepare() -> None:
    """Import what building takes."""
    vision.prepare()
    import timm  # noqa: F401, PLC0415


def family(name: str) -> str:
    """The source file of a timm model in the list."""
    rows = json.loads(DATA.read_text())["families"]
    return next((str(f["family"]) for f in rows if f["model"] == name), name)


def drawn(seed: int) -> list[str]:
    """A hundred further models: all of timm shuffled by the seed, those too large passed over."""
    vision.prepare()
    import timm  # noqa: PLC0415 - after vision.prepare()

    known = set(names())
    rest = [name for name in sorted(timm.list_models()) if name not in known]
    random.Random(seed).shuffle(rest)  # noqa: S311 - a draw that anyone can repeat
    found: list[str] = []
    for name in rest:
        with torch.device("meta"):
            try:
                model = timm.create_model(name, pretrained=False)
            except (NotImplementedError, RuntimeError):  # no meta build: too odd to be counted
                continue
        if sum(p.numel() for p in model.parameters()) <= LARGEST:
            found.append(name)
        if len(found) == DRAWN:
            break
    return found


def build(name: str) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """The model with random weights, and an image of the size in its configuration."""
    vision.prepare()
    import timm  # noqa: PLC0415

    torch.manual_seed(0)
    model: Any = timm.create_model(name, pretrained=False).eval()
    return model, (torch.randn(1, *model.default_cfg["input_size"]),), {}
