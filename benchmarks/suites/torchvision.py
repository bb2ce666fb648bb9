"""torchvision, all of it: classification, segmentation, detection, video, optical flow."""

from __future__ import annotations

from typing import Any

import torch
import vision
from torch import Tensor, nn

SIZES = (224, 299, 256, 384, 512)
ROOMS = ("segmentation", "detection", "video", "optical_flow")
"""Modules of `torchvision.models` beside classification; the quantised copies are left out."""


def names() -> list[str]:
    """Every model that torchvision lists, the quantised copies aside, as `room/name`."""
    vision.prepare()
    from torchvision import models  # noqa: PLC0415 - after vision.prepare()

    found = list(models.list_models(module=models))
    for room in ROOMS:
        found += [f"{room}/{n}" for n in models.list_models(module=getattr(models, room))]
    return found


def build(name: str) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """The model with random weights, and the first input of its kind that it takes."""
    vision.prepare()
    from torchvision import models  # noqa: PLC0415

    torch.manual_seed(0)
    room, _, plain = name.rpartition("/")
    extra = {"weights_backbone": None} if room in {"segmentation", "detection"} else {}
    small = {"min_size": 96, "max_size": 128} if room == "detection" else {}  # else 800 pixels
    try:
        model = models.get_model(plain, weights=None, **extra, **small).eval()
    except TypeError:
        model = models.get_model(plain, weights=None, **extra).eval()
    first: Exception | None = None
    for args in _inputs(room):
        try:
            with torch.no_grad():
                model(*args)
        except (RuntimeError, AssertionError, ValueError, IndexError, NotImplementedError) as error:
            first = first or error
            continue
        return model, args, {}
    raise ValueError(f"no input that is tried runs: {first}")


def _inputs(room: str) -> list[tuple[Any, ...]]:
    """Inputs to try, by the kind of model."""
    source = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.rand(shape, generator=source)

    if room == "detection":
        return [([noise(3, 96, 128)],)]
    if room == "video":
        return [(noise(1, 3, t, s, s),) for t, s in ((8, 112), (16, 112), (16, 224))]
    if room == "optical_flow":
        return [(noise(1, 3, 128, 128), noise(1, 3, 128, 128))]
    if room == "segmentation":
        return [(noise(1, 3, 128, 128),), (noise(1, 3, 224, 224),)]
    return [(noise(1, 3, s, s),) for s in SIZES]
