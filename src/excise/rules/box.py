"""Operations of torchvision on boxes: channels are carried on, boxes and positions stay."""

from __future__ import annotations

from excise.axes import cut_tail
from excise.rules.table import Scope, rule
from excise.trace import Op


@rule("torchvision::roi_align", "torchvision::roi_pool")
def roi_pool(s: Scope, op: Op) -> None:
    """`images channels h w, boxes 5 -> boxes channels ph pw`."""
    images, channels, *space = s.get(op.args[0])
    boxes, corners = s.get(op.args[1])
    s.pin(images, "boxes say which image they are in")
    for term in space:
        s.pin(term, "a window slides over it")
    s.pin(boxes, "boxes")
    s.pin(corners, "corners of a box")
    for out in op.outs:  # where the largest were, in the shape of the largest
        s.put(out, [boxes, channels, *(s.fresh(n) for n in s.shape(out)[2:])])


@rule("torchvision::ps_roi_align", "torchvision::ps_roi_pool")
def sensitive_roi_pool(s: Scope, op: Op) -> None:
    """As `roi_pool`, with channels of their own for each place: `(channels ph pw)`."""
    images, channels, *space = s.get(op.args[0])
    boxes, corners = s.get(op.args[1])
    height, width = s.shape(op.outs[0])[2:]
    carried, places = cut_tail(channels, height * width)
    for term in (images, boxes, corners, *space, places):
        s.pin(term, "each place of a box has channels of its own")
    s.put(op.outs[0], [boxes, carried, s.fresh(height), s.fresh(width)])
    for out in op.outs[1:]:
        s.put(out, [s.fresh(n) for n in s.shape(out)])
