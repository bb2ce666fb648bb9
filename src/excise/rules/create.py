"""New tensors: what is uniform may shrink, what counts may not."""

from __future__ import annotations

from excise.rules.table import RANDOM, Scope, rule
from excise.trace import Op


@rule(
    "zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_empty", "new_full", "rand",
    "randn", "scalar_tensor", "empty_strided", "new_empty_strided", "randint", "empty_permuted",
)  # fmt: skip
def uniform(s: Scope, op: Op) -> None:
    """The same value, or noise, everywhere: any index may go."""
    for out in op.outs:
        dims = [s.free(n) for n in s.shape(out)]
        if op.name in RANDOM:
            s.mix("random", *dims)
        s.put(out, dims)


@rule(
    "arange", "eye", "linspace", "logspace", "hann_window", "hamming_window", "tril_indices",
    "triu_indices", "randperm", "bartlett_window", "blackman_window",
)  # fmt: skip
def positions(s: Scope, op: Op) -> None:
    """Each index has a value of its own that is computed, not stored."""
    for out in op.outs:
        s.put(out, [s.fresh(n, f"its values are computed by {op.name}") for n in s.shape(out)])
