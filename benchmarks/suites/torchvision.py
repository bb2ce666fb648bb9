"""torchvision, all of it: classification, segmentation, detection, video, optical flow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import vision
from torch import Tensor, nn

SIZES = (224, 299, 256, 384, 512)
_IMAGE = {"min_size": 96, "max_size": 128}  # else 800 pixels
_FEW = {"rpn_pre_nms_top_n_test": 100, "rpn_post_nms_top_n_test": 50, "box_detections_per_img": 10}
_SMALL: tuple[dict[str, Any], ...] = (
    {**_IMAGE, **_FEW, "box_score_thresh": 0.0},
    {**_IMAGE, "score_thresh": 0.0},
    {"score_thresh": 0.0},
)
"""Options of a detector's constructor, in the order in which they are tried.

The scores of a network with random weights lie below every usual threshold, and without a box
nothing after it would be compared.
"""
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
    model = next(m for m in _made(models, plain, extra, _SMALL if room == "detection" else ({},)))
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


def ready(name: str, model: nn.Module, args: tuple[Any, ...]) -> None:
    """Give a detector the batch statistics of its input, as training would have.

    With those of a new network, numbers grow from layer to layer, and all boxes lie outside of the
    image. Where a layer has one number per channel, there are no statistics; then nothing changes.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]  # noqa: SLF001
    if not name.startswith("detection/") or not layers:
        return
    before = {k: v.clone() for k, v in model.state_dict().items()}
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.train().momentum = 1.0
    try:
        with torch.no_grad():
            model(*args)
    except ValueError:
        model.load_state_dict(before)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.eval().momentum = momentum


def _made(
    models: Any, name: str, extra: dict[str, Any], options: tuple[dict[str, Any], ...]
) -> Iterator[nn.Module]:
    """The model with the first options that its constructor takes."""
    for given in options:
        with contextlib.suppress(TypeError):
            yield models.get_model(name, weights=None, **extra, **given).eval()


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
