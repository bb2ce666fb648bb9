"""Sparse: zeros that stay in place run faster, on a CPU, without changing what a model computes."""

from excise.sparse.layer import SparseConv2d, SparseLinear, Way
from excise.sparse.register import register
from excise.sparse.sparsify import Sparsified, sparsify
from excise.sparse.tune import Timing

__all__ = ["SparseConv2d", "SparseLinear", "Sparsified", "Timing", "Way", "sparsify"]

register()
