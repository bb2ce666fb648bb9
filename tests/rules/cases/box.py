"""Cases: pooling of boxes, as torchvision has it; its operations are not built everywhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.rules.oracle import Case, Given, real

BOXES = Given(
    lambda: torch.tensor([[0.0, 0, 0, 3, 3], [1, 1, 0, 5, 3], [0, 2, 1, 7, 5]]).double(), "buffer"
)
IMAGES = real(2, 4, 6, 8)


def _cropped(images: Tensor, boxes: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Upper and lower half of every box's crop."""
    out = []
    for image, left, top, right, bottom in boxes.long().tolist():
        crop = images[image, :, top : bottom + 1, left : right + 1]
        out.append((crop[:, :2], crop[:, 2:]))
    return out


def _pooled(images: Tensor, boxes: Tensor) -> Tensor:
    """`roi_align` to two places, coarsely."""
    halves = [torch.stack([a.mean((1, 2)), b.mean((1, 2))], 1) for a, b in _cropped(images, boxes)]
    return torch.stack(halves)[..., None]


def _largest(images: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """`roi_pool` to two places, coarsely, with where the largest are."""
    halves = [
        torch.stack([a.flatten(1).max(1)[0], b.flatten(1).max(1)[0]], 1)
        for a, b in _cropped(images, boxes)
    ]
    return torch.stack(halves)[..., None], torch.stack(halves)[..., None] * 2


def _sensitive(images: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """`ps_roi_align` to two places, coarsely: every other channel is for the second place."""
    halves = [
        torch.stack([a[0::2].mean((1, 2)), b[1::2].mean((1, 2))], 1)
        for a, b in _cropped(images, boxes)
    ]
    return torch.stack(halves)[..., None], torch.zeros(3, 2, 2, 1).double()


def _written(name: str) -> Any:
    return lambda images, boxes: (name, (images, boxes, 1.0, 2, 1, 2), {})


CASES = (
    Case("roi align", "N c H W, B F -> B c P 1", _pooled, (IMAGES, BOXES),
         written=_written("torchvision::roi_align")),
    Case("roi pool", "N c H W, B F -> B c P 1, B c Q 1", _largest, (IMAGES, BOXES),
         written=_written("torchvision::roi_pool")),
    Case("ps roi align", "N (c P) H W, B F -> B c Q 1, R S T 1", _sensitive, (IMAGES, BOXES),
         written=_written("torchvision::ps_roi_align")),
)  # fmt: skip
