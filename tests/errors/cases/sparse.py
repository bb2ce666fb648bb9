"""Models and layers that cannot run sparse."""

from __future__ import annotations

import torch
from torch import nn

import excise
from excise.errors import SparseError
from excise.sparse import SparseConv2d
from tests.errors.bench import Act, Bench, Case


def _grouped(bench: Bench) -> Act:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 4, 3, groups=2)
    del bench
    return lambda: SparseConv2d.of(layer)


SPARSE = [
    Case("no share of zeros", lambda b: lambda: excise.sparsify(b.model, b.x, min_zeros=80),
         SparseError, "min_zeros=80"),
    Case("a sparse convolution with groups", _grouped, SparseError, "groups=2"),
    Case("an example of another width",
         lambda b: lambda: excise.sparsify(b.model, torch.zeros(1, 4, 8, 8), min_zeros=0),
         SparseError, "does not run"),
    Case("no module to run sparse", lambda b: lambda: excise.sparsify(b.model.state_dict(), b.x),
         SparseError, "OrderedDict"),
]  # fmt: skip
