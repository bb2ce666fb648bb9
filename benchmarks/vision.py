"""Import torchvision and timm even where torchvision's compiled ops do not fit this torch."""

from __future__ import annotations

import importlib
import sys

import numpy as np
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
    order = scores.argsort(descending=True)
    low, high = dets[order, :2], dets[order, 2:]
    area = (high - low).clamp(min=0).prod(1)
    both = torch.minimum(high[:, None], high) - torch.maximum(low[:, None], low)
    inner = both.clamp(min=0).prod(2)
    over = (inner / (area[:, None] + area - inner) > iou_threshold).numpy()
    gone, kept = np.zeros(len(over), dtype=bool), list[int]()
    for i, covered in enumerate(over):
        if not gone[i]:
            kept.append(i)
            gone |= covered
    return order[torch.tensor(kept, dtype=torch.long)]
