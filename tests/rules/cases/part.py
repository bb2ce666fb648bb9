"""Cases: dimensions laid end to end and taken apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from tests.rules.oracle import Case, Shapes, real

aten = torch.ops.aten


def _split(x: Tensor, to: Shapes) -> Any:
    return torch.split(x, [shape[1] for shape in to], 1)


def _three(x: Tensor, to: Shapes) -> Any:
    a, b = to[0][1], to[0][1] + to[1][1]
    return x[:, :a], x[:, a:b], x[:, b:]


CASES = (
    Case(
        "cat", "n a, n b -> n (a + b)", lambda x, y: torch.cat([x, y], 1), (real(4, 3), real(4, 5))
    ),
    Case(
        "cat in front",
        "a n, b n, c n -> (a + b + c) n",
        lambda *x: torch.cat(x),
        (real(3, 2), real(4, 2), real(5, 2)),
    ),
    Case(
        "cat last",
        "n c a, n c b -> n c (a + b)",
        lambda x, y: torch.cat([x, y], -1),
        (real(2, 3, 4), real(2, 3, 5)),
    ),
    Case("cat of one", "n a -> n a", lambda x: torch.cat([x], 1), (real(3, 4),)),
    Case("cat with itself", "n a -> n (a + a)", lambda x: torch.cat([x, x], 1), (real(3, 4),)),
    Case(
        "cat of lengths one",
        "n 1, n a -> n (1 + a)",
        lambda x, y: torch.cat([x, y], 1),
        (real(3, 1), real(3, 4)),
    ),
    Case(
        "cat with an empty tensor",
        "n a, 0 -> n a",
        lambda x, y: torch.cat([y, x]),
        (real(3, 4), real(0)),
    ),
    Case(
        "cat of products",
        "n g a, n h b -> n ((g a) + (h b))",
        lambda x, y: torch.cat([x.flatten(1), y.flatten(1)], 1),
        (real(2, 3, 4), real(2, 3, 2)),
    ),
    Case(
        "cat, then split",
        "n a, n b -> n a, n b",
        lambda x, y, to: torch.cat([x, y], 1).split([shape[1] for shape in to], 1),
        (real(3, 4), real(3, 5)),
        ((3, 4), (3, 5)),
    ),
    Case(
        "stack", "n c, n c -> n S c", lambda x, y: torch.stack([x, y], 1), (real(3, 4), real(3, 4))
    ),
    Case(
        "stack last",
        "n c, n c -> n c S",
        lambda x, y: torch.stack([x, y], -1),
        (real(3, 4), real(3, 4)),
    ),
    Case(
        "split", "n (a + b + c) -> n a, n b, n c", _split, (real(3, 9),), ((3, 2), (3, 3), (3, 4))
    ),
    Case(
        "split in step",
        "n (a + b) -> n a, n b",
        lambda x: x.split(4, 1),
        (real(3, 8),),
        ((3, 4), (3, 4)),
        smaller=_split,
    ),
    Case(
        "split of a product",
        "n (g + h) c -> n (g c), n (h c)",
        lambda x, to: x.flatten(1).split([to[0][1], to[1][1]], 1),
        (real(2, 7, 3),),
        ((2, 9), (2, 12)),
    ),
    Case(
        "split across a product",
        "n G C -> n A, n B",
        lambda x: x.flatten(1).split([4, 8], 1),
        (real(2, 4, 3),),
    ),
    Case("glu", "n (c + c) -> n c", F.glu, (real(3, 8),)),
    Case("chunk", "n (a + b) -> n a, n b", lambda x: x.chunk(2, 1), (real(3, 8),), smaller=_split),
    Case(
        "tensor_split",
        "n (a + b + c) -> n a, n b, n c",
        lambda x: x.tensor_split(3, 1),
        (real(3, 8),),
        smaller=_split,
    ),
    Case(
        "unsafe_split",
        "n (a + b) -> n a, n b",
        lambda x: torch.unsafe_split(x, 4, 1),
        (real(3, 8),),
        smaller=_split,
    ),
    Case(
        "unsafe_split_with_sizes",
        "n (a + b) -> n a, n b",
        lambda x: torch.unsafe_split_with_sizes(x, [3, 5], 1),
        (real(3, 8),),
        smaller=_split,
    ),
    Case(
        "unsafe_chunk",
        "n (a + b) -> n a, n b",
        lambda x: torch.unsafe_chunk(x, 2, 1),
        (real(3, 8),),
        smaller=_split,
    ),
    Case(
        "split_copy",
        "n (a + b) -> n a, n b",
        lambda x: torch.split_copy(x, 4, 1),
        (real(3, 8),),
        smaller=_split,
    ),
    Case(
        "split_with_sizes_copy",
        "n (a + b) -> n a, n b",
        lambda x: torch.split_with_sizes_copy(x, [3, 5], 1),
        (real(3, 8),),
        smaller=_split,
    ),
    Case(
        "split along the first dimension",
        "(a + b) n -> a n, b n",
        lambda x, to: x.split([to[0][0], to[1][0]]),
        (real(7, 2),),
        ((3, 2), (4, 2)),
    ),
    Case(
        "slices", "n (a + b + c) -> n a, n b, n c", _three, (real(3, 9),), ((3, 2), (3, 3), (3, 4))
    ),
    Case(
        "slices that overlap",
        "n (a + b + c) -> n (a + b), n (b + c)",
        lambda x: (x[:, :5], x[:, 2:]),
        (real(3, 9),),
        smaller=lambda x, to: (x[:, : to[0][1]], x[:, x.shape[1] - to[1][1] :]),
    ),
    Case(
        "slice by negative numbers",
        "n (a + b) -> n b",
        lambda x: x[:, -4:],
        (real(3, 9),),
        smaller=lambda x, to: x[:, x.shape[1] - to[0][1] :],
    ),
    Case("slice of everything", "n c -> n c", lambda x: x[:, 0:99], (real(3, 4),)),
    Case("slice of nothing", "n c -> n 0", lambda x: x[:, 2:2], (real(3, 4),)),
    Case("slice with a stride", "n (a S) -> n a", lambda x: x[:, 1::2], (real(3, 8),)),
    Case(
        "slices with a stride",
        "n (a S) -> n a, n a",
        lambda x: (x[:, ::2], x[:, 1::2]),
        (real(3, 8),),
    ),
    Case("slice with an uneven stride", "n A -> n B", lambda x: x[:, ::2], (real(3, 7),)),
    Case("slice with a stride from the middle", "n A -> n B", lambda x: x[:, 3:7:2], (real(3, 8),)),
    Case(
        "slice_copy",
        "n (a + b) -> n a",
        lambda x: torch.slice_copy(x, 1, 0, 3),
        (real(3, 8),),
        smaller=lambda x, to: x[:, : to[0][1]],
    ),
    Case(
        "narrow",
        "n (a + b + c) -> n a, n b",
        lambda x: (x[:, :2], x.narrow(1, 2, 3)),
        (real(3, 9),),
        smaller=lambda x, to: x[:, : to[0][1] + to[1][1]].split([to[0][1], to[1][1]], 1),
    ),
    Case(
        "narrow as written",
        "n (a + b + c) -> n b",
        lambda x: x.narrow(1, 2, 3),
        (real(3, 9),),
        noisy=True,
        smaller=lambda x, to: x[:, : to[0][1]],
        written=lambda x: ("narrow", (x, 1, 2, 3), {}),
    ),
    Case(
        "slice_scatter",
        "n C, n D -> n C",
        lambda x, y: torch.slice_scatter(x, y, 1, 2, 5),
        (real(4, 8), real(4, 3)),
    ),
    Case(
        "slice_scatter along a dimension as long as another",
        "n C, n D -> n C",
        lambda x, y: torch.slice_scatter(x, y, 1, 2, 6),
        (real(4, 8), real(4, 4)),
    ),
    Case(
        "slice_scatter of everything by stride",
        "n C, n D -> n C",
        lambda x, y: torch.slice_scatter(x, y, 1, 0, 8, 2),
        (real(3, 8), real(3, 4)),
    ),
    Case(
        "select_scatter",
        "n C h, n h -> n C h",
        lambda x, y: torch.select_scatter(x, y, 1, 2),
        (real(3, 4, 5), real(3, 5)),
    ),
    Case(
        "select_scatter of alike dimensions",
        "N c h, c h -> N c h",
        lambda x, y: torch.select_scatter(x, y, 0, 2),
        (real(4, 4, 4), real(4, 4)),
    ),
    Case("select", "n C h -> n h", lambda x: x[:, 1], (real(2, 3, 4),)),
    Case("select last", "n C -> n", lambda x: x.select(-1, 2), (real(3, 4),)),
    Case("select_copy", "N c -> c", lambda x: torch.select_copy(x, 0, 1), (real(3, 4),)),
    Case("unbind", "N c -> c, c, c", lambda x: x.unbind(), (real(3, 4),)),
    Case("unbind last", "n C -> n, n, n", lambda x: x.unbind(-1), (real(4, 3),)),
    Case("unbind_copy", "n C -> n, n, n", lambda x: torch.unbind_copy(x, 1), (real(4, 3),)),
    Case(
        "pad after",
        "n c -> n (c + p)",
        lambda x, to: F.pad(x, (0, to[0][1] - x.shape[1])),
        (real(3, 4),),
        ((3, 6),),
    ),
    Case(
        "pad before",
        "n c -> n (p + c)",
        lambda x, to: F.pad(x, (to[0][1] - x.shape[1], 0)),
        (real(3, 4),),
        ((3, 6),),
    ),
    Case("pad by one", "n c -> n (1 + c + 1)", lambda x: F.pad(x, (1, 1)), (real(3, 4),)),
    Case(
        "pad two dimensions",
        "n c -> (1 + n) (c + p)",
        lambda x, to: F.pad(x, (0, to[0][1] - x.shape[1], 1, 0), value=2.0),
        (real(3, 4),),
        ((4, 6),),
    ),
    Case("pad cropping", "n C -> n D", lambda x: F.pad(x, (-1, 0)), (real(3, 4),)),
    Case(
        "pad reflecting", "n c W -> n c V", lambda x: F.pad(x, (1, 2), "reflect"), (real(2, 3, 4),)
    ),
    Case(
        "pad circular",
        "n c ((w + 1) + 1) -> n c (1 + w + 1 + 1 + w)",
        lambda x: F.pad(x, (1, 2), "circular"),
        (real(2, 3, 4),),
        smaller=lambda x, to: F.pad(x, (1, to[0][2] - x.shape[2] - 1), "circular"),
    ),
    Case(
        "pad replicating",
        "n c H W -> n c U V",
        lambda x: F.pad(x, (1, 2, 0, 1), "replicate"),
        (real(2, 3, 4, 5),),
    ),
    Case(
        "pad reflecting volumes",
        "n c D H W -> n c T U V",
        lambda x: F.pad(x, (1, 1, 1, 1, 1, 1), "reflect"),
        (real(2, 3, 2, 4, 5),),
    ),
)
