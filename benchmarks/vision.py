"""Import torchvision and timm even where torchvision's compiled ops do not fit this torch."""

from __future__ import annotations

import importlib
import sys

import torch
from torch import Tensor

_DECLARED: list[torch.library.Library] = []


def prepare() -> None:
    """Import torchvision; if its own operators are missing, declare them and import again.

    A torchvision built for another torch (a CUDA wheel beside CPU torch, say) fails while it
    registers `nms`. Detection calls it, so it is given a kernel; `roi_align` has a form in plain
    torch of its own. The others are declared, and no model of the benchmark calls them.
    """
    try:
        importlib.import_module("torchvision")
    except (RuntimeError, ImportError):
        for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for op in ("nms", "qnms"):
            library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.impl("nms", nms, "CPU")
        _DECLARED.append(library)
        importlib.import_module("torchvision")
        boxes = importlib.import_module("torchvision.ops.boxes")
        vars(boxes)["_assert_has_ops"] = lambda: None


def nms(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression: the numbers of the boxes that stay, best first."""
    low, high = dets[:, :2], dets[:, 2:]
    area = (high - low).clamp(min=0).prod(1)
    order, kept = scores.argsort(descending=True).tolist(), list[int]()
    gone: set[int] = set()
    for i in order:
        if i in gone:
            continue
        kept.append(i)
        inner = (torch.minimum(high[i], high) - torch.maximum(low[i], low)).clamp(min=0).prod(1)
        over = inner / (area[i] + area - inner) > iou_threshold
        gone.update(over.nonzero()[:, 0].tolist())
    return torch.tensor(kept, dtype=torch.long)
