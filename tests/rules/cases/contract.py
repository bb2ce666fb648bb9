"""Cases: matrix products, by parameters and between activations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from excise.trace.wide import grouped_mm
from tests.rules.oracle import Case, Given, active, buffer, index, real


def triangular(batch: int, size: int) -> Given:
    """Triangular matrices that are easy to solve."""
    eye = 3 * torch.eye(size, dtype=torch.float64)
    return Given(lambda: torch.randn(batch, size, size, dtype=torch.float64).tril() + eye)


def _gram(x: Tensor) -> Tensor:
    return x @ x.T


CASES = (
    Case("mm", "a k, k b -> a b", torch.mm, (real(3, 4), real(4, 5))),
    Case("mm by a parameter", "a k, k b -> a b", torch.mm, (active(3, 4), real(4, 5))),
    Case("mm of activations", "a k*, k* b -> a b", torch.mm, (active(3, 4), active(4, 5))),
    Case("mm by a buffer", "a k*, k* b -> a b", torch.mm, (active(3, 4), buffer(4, 5))),
    Case("addmm", "b, a k, k b -> a b", torch.addmm, (real(5), real(3, 4), real(4, 5))),
    Case(
        "addmm of activations",
        "b, a k*, k* b -> a b",
        torch.addmm,
        (real(5), active(3, 4), active(4, 5)),
    ),
    Case(
        "addmm of a matrix",
        "a b, a k, k b -> a b",
        torch.addmm,
        (real(3, 5), real(3, 4), real(4, 5)),
    ),
    Case(
        "addmm of a column",
        "a 1, a k, k b -> a b",
        torch.addmm,
        (real(3, 1), real(3, 4), real(4, 5)),
    ),
    Case("bmm", "n a k, n k b -> n a b", torch.bmm, (real(2, 3, 4), real(2, 4, 5))),
    Case(
        "bmm of activations",
        "n a k*, n k* b -> n a b",
        torch.bmm,
        (active(2, 3, 4), active(2, 4, 5)),
    ),
    Case(
        "baddbmm",
        "n a b, n a k, n k b -> n a b",
        torch.baddbmm,
        (real(2, 3, 5), real(2, 3, 4), real(2, 4, 5)),
    ),
    Case(
        "baddbmm of a row",
        "1 1 b, n a k*, n k* b -> n a b",
        torch.baddbmm,
        (real(1, 1, 5), active(2, 3, 4), active(2, 4, 5)),
    ),
    Case("mv", "a k, k -> a", torch.mv, (real(3, 4), real(4))),
    Case("mv of activations", "a k*, k* -> a", torch.mv, (active(3, 4), active(4))),
    Case("dot", "k, k -> ()", torch.dot, (real(4), real(4))),
    Case("dot of activations", "k*, k* -> ()", torch.dot, (active(4), active(4))),
    Case("vdot", "k, k -> ()", torch.vdot, (real(4), real(4))),
    Case("addmv", "a, a k, k -> a", torch.addmv, (real(3), real(3, 4), real(4))),
    Case("addr", "a b, a, b -> a b", torch.addr, (real(3, 4), real(3), real(4))),
    Case("outer", "a, b -> a b", torch.outer, (real(3), real(4))),
    Case(
        "addbmm",
        "A B, N A2 K, M K2 B2 -> C D",
        torch.addbmm,
        (real(3, 5), real(2, 3, 4), real(2, 4, 5)),
    ),
    Case("linear", "n t k, o k, o -> n t o", F.linear, (active(2, 3, 4), real(5, 4), real(5))),
    Case("linear without bias", "k, o k -> o", F.linear, (real(4), real(5, 4))),
    Case("linear by an activation", "n k*, o k* -> n o", F.linear, (active(3, 4), active(5, 4))),
    Case("linear by a buffer", "n k*, o k* -> n o", F.linear, (active(3, 4), buffer(5, 4))),
    Case("matmul of matrices", "a k, k b -> a b", torch.matmul, (real(3, 4), real(4, 5))),
    Case("matmul of vectors", "k, k -> ()", torch.matmul, (real(4), real(4))),
    Case("matmul by a vector", "a k, k -> a", torch.matmul, (real(3, 4), real(4))),
    Case("matmul of a vector", "k, k b -> b", torch.matmul, (real(4), real(4, 5))),
    Case(
        "matmul of a vector with batches", "k, n k b -> n b", torch.matmul, (real(4), real(2, 4, 5))
    ),
    Case(
        "matmul of batches", "n a k, n k b -> n a b", torch.matmul, (real(2, 3, 4), real(2, 4, 5))
    ),
    Case(
        "matmul broadcast",
        "n 1 a k, m k b -> n m a b",
        torch.matmul,
        (real(6, 1, 3, 4), real(2, 4, 5)),
    ),
    Case(
        "matmul by one matrix",
        "n m a k, k b -> n m a b",
        torch.matmul,
        (active(6, 2, 3, 4), real(4, 5)),
    ),
    Case(
        "matmul of activations",
        "n a k*, n k* b -> n a b",
        torch.matmul,
        (active(2, 3, 4), active(2, 4, 5)),
    ),
    Case("gram matrix", "a k -> a a", _gram, (real(3, 4),)),
    Case(
        "einsum linear",
        "n k, o k -> n o",
        lambda x, w: torch.einsum("nk,ok->no", x, w),
        (active(3, 4), real(5, 4)),
    ),
    Case(
        "einsum attention",
        "n h i d*, n h j d* -> n h i j",
        lambda q, k: torch.einsum("nhid,nhjd->nhij", q, k),
        (active(2, 3, 4, 5), active(2, 3, 6, 5)),
    ),
    Case(
        "einsum scale",
        "n t c, c -> n t c",
        lambda x, s: torch.einsum("ntc,c->ntc", x, s),
        (real(2, 3, 4), real(4)),
    ),
    Case(
        "einsum trace over heads",
        "n t h d, h d -> n t d",
        lambda x, w: torch.einsum("nthd,hd->ntd", x, w),
        (active(2, 3, 4, 5), real(4, 5)),
    ),
    Case(
        "tensordot",
        "n a b, a b c -> n c",
        lambda x, w: torch.tensordot(x, w, 2),
        (real(2, 3, 4), real(3, 4, 5)),
    ),
    Case(
        "chain_matmul",
        "a b, b c, c d -> a d",
        lambda x, y, z: torch.linalg.multi_dot([x, y, z]),
        (real(3, 4), real(4, 5), real(5, 6)),
    ),
    Case(
        "bilinear",
        "n a, n b, o a b -> n o",
        F.bilinear,
        (real(2, 3), real(2, 4), real(5, 3, 4)),
    ),
    Case(
        "bilinear of activations",
        "n a, n b, o a b -> n o",
        F.bilinear,
        (active(2, 3), active(2, 4), real(5, 3, 4)),
    ),
    Case(
        "grouped_mm",
        "r k, g* k n, g* -> r n",
        grouped_mm,
        (real(3, 4), real(3, 4, 5), index(3, 3)),
        written=lambda x, w, ends: ("_grouped_mm", (x, w, ends), {}),
    ),
    Case(
        "solve_triangular",
        "h N M, h N2 k -> h N2 k",
        lambda a, b: torch.linalg.solve_triangular(a, b, upper=False),
        (triangular(2, 4), real(2, 4, 3)),
    ),
    Case("cdist", "A K, B K2 -> C D", torch.cdist, (real(3, 4), real(5, 4))),
)
