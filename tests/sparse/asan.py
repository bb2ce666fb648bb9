"""Run every kernel of a library that was compiled with the address sanitizer; called by a test."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from excise.sparse.engine import step
from excise.sparse.kernels import library as libraries
from excise.sparse.kernels import product
from excise.sparse.kernels.library import Library, _loaded
from tests.sparse.case import (
    CONVS,
    LINEARS,
    PAIRS,
    PLANES,
    check_conv,
    check_gemv,
    check_linear,
    check_pair,
    check_planes,
)
from tests.sparse.test_bfloat import check as check_short


def main(path: str) -> None:
    """Check every case with the library at a path."""
    known = libraries()
    assert isinstance(known, Library)

    def runs(_: int) -> bool:
        return True

    found: Any = _loaded(sys.argv[2], Path(path), runs)
    for asking in (product, step):  # they ask it which to run
        setattr(asking, "library", lambda: found)  # noqa: B010
    torch.manual_seed(0)
    for case in LINEARS:
        check_linear(*case)
        check_gemv(case[0], case[1])
        check_short(case[0], case[1])
    for conv in CONVS:
        check_conv(*conv)
    for planes in PLANES:
        check_planes(*planes)
    for pair in PAIRS:
        check_pair(*pair)
    sys.stdout.write("clean\n")


if __name__ == "__main__":
    main(sys.argv[1])
