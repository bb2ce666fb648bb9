"""Import torchvision and timm even where torchvision's compiled ops do not fit this torch."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

_ROI_ALIGN = (
    "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, "
    "int pooled_width, int sampling_ratio, bool aligned) -> Tensor"
)
_DECLARED: list[torch.library.Library] = []


def prepare() -> None:
    """Import torchvision; if its own operators are missing, declare them and import again.

    A torchvision built for another torch (a CUDA wheel beside CPU torch, say) fails while it
    registers `nms`. Detection calls it and `roi_align`, so they are given kernels in plain torch.
    The others are declared, and no model of the benchmark calls them.
    """
    try:
        importlib.import_module("torchvision")
    except (RuntimeError, ImportError):
        for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for op in ("nms", "qnms"):
            library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define(_ROI_ALIGN)
        library.impl("nms", nms, "CPU")
        library.impl("roi_align", roi_align, "CPU")
        _DECLARED.append(library)
        importlib.import_module("torchvision")
        for room in ("boxes", "roi_align"):
            module = importlib.import_module(f"torchvision.ops.{room}")
            vars(module).update(_assert_has_ops=lambda: None, _has_ops=lambda: True)


def roi_align(features: Tensor, boxes: Tensor, *options: Any) -> Tensor:
    """Torchvision's own form in plain torch, for few boxes at a time: it takes much memory."""
    whole = vars(importlib.import_module("torchvision.ops.roi_align"))["_roi_align"]
    plain = getattr(whole, "__wrapped__", whole)  # not compiled
    parts = [plain(features, some, *options) for some in boxes.split(8)]
    return torch.cat(parts) if parts else plain(features, boxes, *options)


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
