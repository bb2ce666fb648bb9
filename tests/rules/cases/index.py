"""Cases: indexing by tensors, ordering and counting."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from tests.rules.oracle import Case, flags, index, real


def _put(x: Tensor, i: Tensor, y: Tensor) -> Tensor:
    x[:, i] = y
    return x


CASES = (
    Case(
        "embedding",
        "V c, n t -> n t c",
        lambda w, i: F.embedding(i, w),
        (real(7, 4), index(7, 2, 3)),
    ),
    Case(
        "embedding_bag",
        "V c, N T -> B c",
        lambda w, i: F.embedding_bag(i, w),
        (real(7, 4), index(7, 5, 3)),
    ),
    Case("index front", "N c, t -> t c", lambda x, i: x[i], (real(5, 4), index(5, 3))),
    Case("index middle", "n C h, t -> n t h", lambda x, i: x[:, i], (real(2, 5, 3), index(5, 4))),
    Case("index by a matrix", "N c, s t -> s t c", lambda x, i: x[i], (real(5, 4), index(5, 2, 3))),
    Case(
        "index pairs",
        "A B c, t, t -> t c",
        lambda x, i, j: x[i, j],
        (real(3, 4, 5), index(3, 6), index(4, 6)),
    ),
    Case(
        "index grid",
        "A B c, s 1, t -> s t c",
        lambda x, i, j: x[i, j],
        (real(3, 4, 5), index(3, 6, 1), index(4, 2)),
    ),
    Case(
        "index apart",
        "A b C, t, t -> t b",
        lambda x, i, j: x[i, :, j],
        (real(3, 4, 5), index(3, 6), index(5, 6)),
    ),
    Case("index by a mask", "n C h, M -> n T h", lambda x, m: x[:, m], (real(2, 5, 3), flags(5))),
    Case(
        "index by a mask of two dimensions",
        "A B c, M K -> T c",
        lambda x, m: x[m],
        (real(3, 4, 5), flags(3, 4)),
    ),
    Case(
        "_unsafe_index",
        "n C, t -> n t",
        lambda x, i: torch.ops.aten._unsafe_index(x, [None, i]),
        (real(2, 5), index(5, 3)),
    ),
    Case("index_put", "n C, T, n S -> n C", _put, (real(3, 6), index(6, 4), real(3, 4))),
    Case(
        "index_put rows",
        "N c, T, S c -> N c",
        lambda x, i, y: x.index_put((i,), y, accumulate=True),
        (real(3, 6), index(3, 5), real(5, 6)),
    ),
    Case(
        "index_put a row everywhere",
        "N c, T, c -> N c",
        lambda x, i, y: x.index_put((i,), y),
        (real(3, 6), index(3, 5), real(6)),
    ),
    Case(
        "_unsafe_index_put",
        "N c, T, S c -> N c",
        lambda x, i, y: torch.ops.aten._unsafe_index_put(x, [i], y),
        (real(3, 6), index(3, 5), real(5, 6)),
    ),
    Case(
        "masked assignment",
        "n c, n c -> n c",
        lambda x, m: torch.where(m, 0.0, x),
        (real(3, 6), flags(3, 6)),
    ),
    Case(
        "masked_scatter",
        "N C, M K, S -> N C",
        lambda x, m, y: x.masked_scatter(m, y),
        (real(3, 4), flags(3, 4), real(12)),
    ),
    Case(
        "index_select",
        "n C, t -> n t",
        lambda x, i: x.index_select(1, i),
        (real(3, 6), index(6, 4)),
    ),
    Case("gather", "n C, n T -> n T", lambda x, i: x.gather(1, i), (real(3, 6), index(6, 3, 4))),
    Case(
        "gather in part",
        "N C, M T -> M T",
        lambda x, i: x.gather(1, i),
        (real(5, 6), index(6, 3, 4)),
    ),
    Case(
        "take_along_dim",
        "n C, n T -> n T",
        lambda x, i: x.take_along_dim(i, 1),
        (real(3, 6), index(6, 3, 4)),
    ),
    Case(
        "scatter",
        "n C, n T, n T -> n C",
        lambda x, i, y: x.scatter(1, i, y),
        (real(3, 6), index(6, 3, 4), real(3, 4)),
    ),
    Case(
        "scatter a number",
        "n C, n T -> n C",
        lambda x, i: x.scatter(1, i, 2.0),
        (real(3, 6), index(6, 3, 4)),
    ),
    Case(
        "scatter_add",
        "n C, n T, n T -> n C",
        lambda x, i, y: x.scatter_add(1, i, y),
        (real(3, 6), index(6, 3, 4), real(3, 4)),
    ),
    Case(
        "scatter_reduce",
        "n C, n T, n T -> n C",
        lambda x, i, y: x.scatter_reduce(1, i, y, "amax"),
        (real(3, 6), index(6, 3, 4), real(3, 4)),
    ),
    Case(
        "index_add",
        "n C, T, n S -> n C",
        lambda x, i, y: x.index_add(1, i, y),
        (real(3, 6), index(6, 4), real(3, 4)),
    ),
    Case(
        "index_copy",
        "n C, T, n S -> n C",
        lambda x, i, y: x.index_copy(1, i, y),
        (real(3, 6), index(6, 4), real(3, 4)),
    ),
    Case(
        "index_fill",
        "n C, T -> n C",
        lambda x, i: x.index_fill(1, i, 2.0),
        (real(3, 6), index(6, 4)),
    ),
    Case(
        "index_reduce",
        "n C, T, n S -> n C",
        lambda x, i, y: x.index_reduce(1, i, y, "amax"),
        (real(3, 6), index(6, 4), real(3, 4)),
    ),
    Case("masked_select", "N C, M K -> T", torch.masked_select, (real(3, 4), flags(3, 4))),
    Case("nonzero", "N C -> T Rank", torch.nonzero, (flags(3, 4),)),
    Case("bincount", "N -> T", lambda x: torch.bincount(x, minlength=5), (index(5, 7),)),
    Case("unique", "N C -> T", torch.unique, (index(5, 3, 4),)),
    Case("unique rows", "N C -> T U", lambda x: torch.unique(x, dim=0), (index(2, 5, 2),)),
    Case(
        "masked_scatter of rows",
        "N T c, K c, N2 T2 1 -> N T c",
        lambda x, rows, m: x.masked_scatter(m.expand(-1, -1, x.shape[-1]), rows),
        (real(2, 3, 4), real(6, 4), flags(2, 3, 1)),
    ),
    Case("histc", "N -> T", lambda x: torch.histc(x, 4, -1, 1), (real(7),)),
    Case(
        "bucketize",
        "N C, B -> N2 C2",
        lambda x, b: torch.bucketize(x, b.sort()[0]),
        (real(3, 4), real(5)),
    ),
    Case(
        "searchsorted",
        "N B, N3 C -> N2 C2",
        lambda b, x: torch.searchsorted(b.sort()[0], x),
        (real(3, 5), real(3, 4)),
    ),
    Case("one_hot", "n t -> n t Classes", lambda x: F.one_hot(x, 6), (index(6, 2, 3),)),
    Case("topk", "n c* -> n 1, n 1", lambda x: x.topk(1, 1), (real(4, 6),)),
    Case("topk by default", "n c* -> n 1, n 1", lambda x: x.topk(1), (real(4, 6),)),
    Case("sort", "n C -> n K, n K", lambda x: x.sort(1), (real(4, 6),)),
    Case(
        "sort stable", "N c -> K c, K c", lambda x: torch.sort(x, stable=True, dim=0), (real(4, 6),)
    ),
    Case("argsort", "n C -> n K", torch.argsort, (real(4, 6),)),
    Case("argsort front", "N c -> K c", lambda x: x.argsort(0), (real(4, 6),)),
    Case("msort", "N c -> K c", torch.msort, (real(4, 6),)),
)
