"""Reductions and softmax: the units of the reduced dimensions are mixed."""

from __future__ import annotations

from excise.axes import Term
from excise.rules.table import Scope, argument, places, rule
from excise.trace import Op


def reduced(s: Scope, op: Op, along: list[int]) -> None:
    """Drop the given dimensions (or keep them as length 1), and note what is mixed."""
    dims = s.get(op.args[0])
    s.mix(op.name.strip("_"), *(dims[i] for i in along))
    for out in op.outs:
        if len(s.shape(out)) == len(dims):
            s.put(out, [[] if i in along else d for i, d in enumerate(dims)])
        else:
            s.put(out, [d for i, d in enumerate(dims) if i not in along])


@rule(
    "mean", "sum", "amax", "amin", "logsumexp", "prod", "any", "all", "nansum", "nanmean",
    "count_nonzero", "aminmax",
)  # fmt: skip
def reduction(s: Scope, op: Op) -> None:
    """Reductions whose second argument is `dim`."""
    dims = len(s.shape(op.args[0]))
    if op.name == "aminmax":
        reduced(s, op, places(op, 9, "dim", dims))
        return
    given = argument(op, 1, "dim")
    if given is None or isinstance(given, (int, tuple, list)):
        reduced(s, op, places(op, 1, "dim", dims))


@rule("var", "std", "var_mean", "std_mean")
def variance(s: Scope, op: Op) -> None:
    """Variances; the overloads differ, so the dimensions are read from the shapes if needed."""
    given = argument(op, 1, "dim")
    rank = len(s.shape(op.args[0]))
    along = places(op, 1, "dim", rank) if not isinstance(given, bool) else list(range(rank))
    reduced(s, op, along)


@rule("linalg_vector_norm", "norm")
def vector_norm(s: Scope, op: Op) -> None:
    """Vector norms."""
    reduced(s, op, places(op, 2, "dim", len(s.shape(op.args[0]))))


@rule("max", "min", "median", "nanmedian", "mode", "argmax", "argmin", "kthvalue")
def extreme(s: Scope, op: Op) -> None:
    """Extremes that also tell the index: the numbers of the units matter, so they are pinned."""
    dims = s.get(op.args[0])
    if len(op.args) > 1 and not isinstance(op.args[1], (int, type(None))):
        raise NotImplementedError  # the two-tensor overload is tagged pointwise, never here
    place = 2 if op.name == "kthvalue" else 1
    along = places(op, place, "dim", len(dims))
    if len(op.outs) > 1 and argument(op, place, "dim") is None:  # `kthvalue`, `mode`
        along = along[-1:]
    for i in along:
        if op.name not in {"max", "min"} or len(op.outs) > 1:
            s.pin(dims[i], f"the number of a unit is read by {op.name}")
    reduced(s, op, along)


@rule("_softmax", "_log_softmax", "softmax", "log_softmax", "_safe_softmax")
def softmax(s: Scope, op: Op) -> None:
    """Every unit's value depends on all of them."""
    dims = s.get(op.args[0])
    dim = argument(op, 1, "dim", -1)
    mixed: Term = dims[dim] if dims else []
    s.mix("softmax", mixed)
    s.put(op.outs[0], dims)
