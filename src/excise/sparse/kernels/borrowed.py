"""The sparse product that torch itself carries, for machines on which ours were not compiled.

It is fbgemm's `SparseDenseMM` inside torch's library for x86: one thread, about half as fast as our
own on a large layer. Its name is private, but spells the types of all that it takes; what it does
with them is tried once before it is trusted.
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import c_bool, c_int, c_void_p
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from excise.sparse.kernels.geometry import Geometry
from excise.sparse.kernels.library import Library, Missing, library, wanted

NAME = "_ZN6fbgemm13SparseDenseMMEiiPKiS1_PKfS3_iPfib"
_SIZE = 24  # of the square product that it is tried with: numbers read in any order stay inside
_CLOSE = 1e-5


class Borrowed(NamedTuple):
    """Torch's own sparse product.

    Attributes:
        code: the function.
        why: it is borrowed: what is missing of our own.
    """

    code: Any
    why: str = ""


class Rows(NamedTuple):
    """A weight row by row, as torch's own product reads it.

    Attributes:
        value: float32, the nonzero values in row-major order.
        column: int32, of each.
        pointer: int32, (rows + 1).
        sizes: rows, columns.
    """

    value: Tensor
    column: Tensor
    pointer: Tensor
    sizes: tuple[int, int]


def rows_of(weight: Tensor) -> Rows:
    """Nonzero values of a (rows, columns) weight of float32 on the CPU, which is not touched."""
    row, column = weight.detach().nonzero(as_tuple=True)
    counts = torch.bincount(row, minlength=weight.shape[0])
    pointer = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    value, sizes = weight.detach()[row, column], (weight.shape[0], weight.shape[1])
    return Rows(value, column.int(), pointer.int(), sizes)


@functools.cache
def lent() -> Borrowed | Missing:
    """Torch's own sparse product, if it has one, and it is right on a small example."""
    folder = Path(torch.__file__).parent / "lib"
    path = next((p for p in sorted(folder.glob("libtorch_cpu.*")) if p.is_file()), None)
    try:
        code = getattr(ctypes.CDLL(str(path)), NAME) if path is not None else None
    except (OSError, AttributeError):
        code = None
    if code is None:
        return Missing(f"torch {torch.__version__} carries no sparse product here")
    code.argtypes = [
        c_int, c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_int, c_void_p, c_int, c_bool,
    ]  # fmt: skip
    code.restype = None
    found = Borrowed(code)
    if not _works(found):
        return Missing(f"the sparse product of torch {torch.__version__} gives wrong numbers")
    return found


def available() -> Library | Borrowed | Missing:
    """Our own kernels; else torch's own product; else what is missing of both.

    `EXCISE_KERNELS=torch` asks for torch's own, `none` for neither.
    """
    own = library()
    if isinstance(own, Library) or wanted() == "none":
        return own
    other = lent()
    if isinstance(other, Borrowed):
        return other._replace(why=own.why)
    return Missing(f"{own.why}; {other.why}")


def _works(found: Borrowed) -> bool:
    """Whether it computes a small product, over what was there before, and writes nothing else."""
    source = torch.Generator().manual_seed(0)
    weight = torch.randn(_SIZE, _SIZE, generator=source)
    weight = weight * (torch.rand(_SIZE, _SIZE, generator=source) < 0.5)  # noqa: PLR2004 - half
    x = torch.randn(_SIZE, _SIZE, generator=source)
    y = torch.full((_SIZE + 2, _SIZE), 7.0)
    _product(found, rows_of(weight), x, y[1:-1])
    inside = torch.allclose(y[1:-1], weight @ x, atol=_CLOSE)
    return inside and bool((y[0] == 7.0).all()) and bool((y[-1] == 7.0).all())  # noqa: PLR2004


def _product(found: Borrowed, a: Rows, x: Tensor, y: Tensor) -> None:
    """`y = weight @ x` of x (columns, n), contiguous."""
    n = x.shape[1]
    found.code(
        a.sizes[0], n, a.pointer.data_ptr(), a.column.data_ptr(), a.value.data_ptr(),
        x.data_ptr(), n, y.data_ptr(), n, False,  # noqa: FBT003 - overwrite, do not add
    )  # fmt: skip


def linear(a: Rows, x: Tensor, bias: Tensor | None) -> Tensor:
    """`x @ weight.T + bias` of x (n, columns): (n, rows); float32 on the CPU."""
    turned = x.t().contiguous()
    y = x.new_empty(a.sizes[0], x.shape[0])
    _product(_trusted(), a, turned, y)
    if bias is not None:
        y += bias[:, None]
    return y.t().contiguous()


def conv2d(a: Rows, x: Tensor, geometry: Geometry, bias: Tensor | None) -> Tensor:
    """A convolution without groups of x (n, channels, y, x), unfolded unless it is a product."""
    kernel, stride, padding, dilation = geometry
    out = geometry.out((x.shape[2], x.shape[3]))
    if geometry.is_product:
        wide = x.contiguous().flatten(2)
    else:
        wide = functional.unfold(x, kernel, dilation, padding, stride)
    y = x.new_empty(x.shape[0], a.sizes[0], out[0] * out[1])
    for i in range(x.shape[0]):
        _product(_trusted(), a, wide[i], y[i])
    if bias is not None:
        y += bias[:, None]
    return y.view(x.shape[0], a.sizes[0], *out)


def _trusted() -> Borrowed:
    found = lent()
    assert isinstance(found, Borrowed)  # noqa: S101 - layers ask before they call
    return found
