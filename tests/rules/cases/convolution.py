"""Cases: convolutions of one to three dimensions."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from tests.rules.oracle import Case, Given, active, buffer, real


def grouped(function: Any, *, transposed: bool = False) -> Any:
    """A convolution whose groups follow from the shapes of what it is given."""

    def call(x: Tensor, w: Tensor, b: Tensor | None = None) -> Any:
        if transposed:  # `b` is then always given, and says how many channels come out
            assert b is not None
            return function(x, w, b, groups=b.shape[0] // w.shape[1])
        return function(x, w, b, groups=x.shape[1] // w.shape[1])

    return call


def _case(name: str, claim: str, function: Any, *given: Given) -> Case:
    return Case(name, claim, function, given)


CASES = (
    _case("conv1d", "n i L, o i K, o -> n o M", F.conv1d, real(2, 3, 7), real(4, 3, 2), real(4)),
    _case(
        "conv2d",
        "n i H W, o i K J, o -> n o U V",
        F.conv2d,
        real(2, 3, 6, 7),
        real(4, 3, 2, 3),
        real(4),
    ),
    _case(
        "conv3d",
        "n i D h W, o i K 1 I, o -> n o T h V",
        F.conv3d,
        real(2, 3, 4, 5, 6),
        real(4, 3, 2, 1, 3),
        real(4),
    ),
    _case(
        "conv2d without bias",
        "n i H W, o i K K2 -> n o U V",
        F.conv2d,
        active(2, 3, 5, 6),
        real(4, 3, 2, 2),
    ),
    _case(
        "conv2d pointwise",
        "n i h w, o i 1 1 -> n o h w",
        F.conv2d,
        real(2, 3, 5, 6),
        real(4, 3, 1, 1),
    ),
    _case(
        "conv2d unbatched", "i H W, o i K K2 -> o U V", F.conv2d, real(3, 5, 6), real(4, 3, 2, 2)
    ),
    _case(
        "conv2d strided, padded, dilated",
        "n i H W, o i K K2 -> n o U V",
        lambda x, w: F.conv2d(x, w, stride=2, padding=2, dilation=2),
        real(2, 3, 7, 8),
        real(4, 3, 3, 3),
    ),
    _case(
        "conv1d padded to the same",
        "n i L, o i K -> n o M",
        lambda x, w: F.conv1d(x, w, padding="same"),
        real(2, 3, 7),
        real(4, 3, 3),
    ),
    _case(
        "conv2d by an activation",
        "n i* H W, o i* K K2 -> n o U V",
        F.conv2d,
        active(2, 3, 5, 6),
        active(4, 3, 2, 2),
    ),
    _case(
        "conv2d by a buffer",
        "n i* H W, o i* K K2 -> n o U V",
        F.conv2d,
        active(2, 3, 5, 6),
        buffer(4, 3, 2, 2),
    ),
    _case(
        "conv2d grouped",
        "n (g i) H W, (g o) i K K2, (g o) -> n (g o) U V",
        grouped(F.conv2d),
        active(2, 12, 4, 5),
        real(15, 4, 2, 2),
        real(15),
    ),
    _case(
        "conv2d grouped by activations",
        "n (g i*) H W, (g o) i* K K2 -> n (g o) U V",
        grouped(F.conv2d),
        active(2, 12, 4, 5),
        active(15, 4, 2, 2),
    ),
    _case(
        "conv2d depthwise",
        "n c H W, c 1 K K2, c -> n c U V",
        grouped(F.conv2d),
        active(2, 4, 5, 6),
        real(4, 1, 2, 2),
        real(4),
    ),
    _case(
        "conv2d depthwise by a buffer",
        "n c H W, c 1 K K2 -> n c U V",
        grouped(F.conv2d),
        active(2, 4, 5, 6),
        buffer(4, 1, 2, 2),
    ),
    _case(
        "conv2d depthwise, multiplied",
        "n c H W, (c m) 1 K K2 -> n (c m) U V",
        grouped(F.conv2d),
        active(2, 4, 5, 6),
        real(12, 1, 2, 2),
    ),
    _case(
        "conv1d grouped",
        "n (g i) L, (g o) i K -> n (g o) M",
        grouped(F.conv1d),
        real(2, 6, 7),
        real(12, 2, 3),
    ),
    _case(
        "conv3d depthwise",
        "n c D H W, c 1 K J I -> n c T U V",
        grouped(F.conv3d),
        real(2, 3, 4, 5, 6),
        real(3, 1, 2, 2, 2),
    ),
    _case(
        "conv_transpose1d",
        "n i L, i o K, o -> n o M",
        F.conv_transpose1d,
        active(2, 3, 7),
        real(3, 4, 2),
        real(4),
    ),
    _case(
        "conv_transpose2d",
        "n i H W, i o K K2, o -> n o U V",
        lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, padding=1, output_padding=1),
        active(2, 3, 4, 5),
        real(3, 4, 3, 3),
        real(4),
    ),
    _case(
        "conv_transpose3d",
        "n i D H W, i o K J I -> n o T U V",
        F.conv_transpose3d,
        real(2, 3, 2, 3, 4),
        real(3, 4, 2, 2, 2),
    ),
    _case(
        "conv_transpose2d by an activation",
        "n i* H W, i* o K K2 -> n o U V",
        F.conv_transpose2d,
        active(2, 3, 4, 5),
        active(3, 4, 2, 2),
    ),
    _case(
        "conv_transpose2d grouped",
        "n (g i) H W, (g i) o K K2, (g o) -> n (g o) U V",
        grouped(F.conv_transpose2d, transposed=True),
        active(2, 12, 4, 5),
        real(12, 5, 2, 2),
        real(15),
    ),
    _case(
        "conv_transpose1d grouped",
        "n (g i) L, (g i) o K, (g o) -> n (g o) M",
        grouped(F.conv_transpose1d, transposed=True),
        active(2, 6, 5),
        real(6, 4, 2),
        real(12),
    ),
    _case(
        "conv_transpose2d depthwise",
        "n c H W, c 1 K K2, c -> n c U V",
        grouped(F.conv_transpose2d, transposed=True),
        active(2, 4, 4, 5),
        real(4, 1, 2, 2),
        real(4),
    ),
)
