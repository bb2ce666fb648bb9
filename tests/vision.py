"""Make torchvision importable beside a CPU build of torch.

The torchvision wheel of the package index is built against CUDA. Beside a CPU build of torch its
compiled part does not load, and then the python part fails, because it registers shape rules for
two ops that nobody has declared. Declaring them is enough for every model that does not call them.
"""

from __future__ import annotations

import importlib

import torch

_DECLARED: list[torch.library.Library] = []  # a Library withdraws its ops when it is collected
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def declare_ops() -> None:
    """Import torchvision, declaring `nms` and `qnms` for it if that is what it lacks.

    Call it before the first import of torchvision or timm; calling it again does nothing. Where
    torchvision works as it is, nothing is declared and it keeps its real ops.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for op in ("nms", "qnms"):
            library.define(op + _SCHEMA)
        _DECLARED.append(library)
        importlib.import_module("torchvision")
