"""Import torchvision and timm even where torchvision's compiled ops do not fit this torch."""

from __future__ import annotations

import importlib
import sys

import torch

_DECLARED: list[torch.library.Library] = []


def prepare() -> None:
    """Import torchvision; if its own operators are missing, declare them and import again.

    A torchvision built for another torch (a CUDA wheel beside CPU torch, say) fails while it
    registers `nms`. No classification model calls those operators, so a declaration is enough.
    """
    try:
        importlib.import_module("torchvision")
    except (RuntimeError, ImportError):
        for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for op in ("nms", "qnms"):
            library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DECLARED.append(library)
        importlib.import_module("torchvision")
