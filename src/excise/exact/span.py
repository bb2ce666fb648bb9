"""Bounds of what works index by index: activations, sums, products."""

from __future__ import annotations

import torch
from torch import Tensor

from excise.exact.bound import Bound, Given, bounded, finite, rounded, total

_INF = float("inf")
_RANGE = {
    "sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "exp": (0.0, _INF), "softplus": (0.0, _INF),
    "hardsigmoid": (0.0, 1.0), "erf": (-1.0, 1.0), "sqrt": (0.0, _INF), "log_sigmoid": (-_INF, 0.0),
    "log_sigmoid_forward": (-_INF, 0.0),
}  # fmt: skip
_DIPS = {"silu": -0.27847, "gelu": -0.17005, "hardswish": -0.37501, "mish": -0.30885}
"""Slightly below the least value; each is at most 0 left of 0, and grows right of it."""
_DEAD = {"hardswish": -3.0}
"""Left of this number all is 0."""


def _mapped(given: Given, bound: Bound) -> Bound:
    """A function that never falls, on both bounds."""
    c = given.c
    low, high = (c.run([t.contiguous()])[0].double() for t in bound)
    return finite(Bound(low, high))


@bounded("relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "sign", "floor", "ceil",
         "round", "trunc")  # fmt: skip
def exact(given: Given) -> Bound | None:
    """Functions that never fall and round nothing."""
    if len(given.c.ins) != 1:
        return None
    return given.fit(_mapped(given, given.open(0)))


@bounded("sigmoid", "tanh", "exp", "softplus", "hardsigmoid", "erf", "sqrt", "log_sigmoid",
         "log_sigmoid_forward", "leaky_relu", "elu", "selu", "celu", "atan", "asinh", "sinh",
         "expm1", "threshold")  # fmt: skip
def rising(given: Given) -> Bound | None:
    """Functions that never fall, for the parameters that people give them."""
    c = given.c
    numbers = [a for a in c.op.args[1:] if isinstance(a, (int, float))]
    if len(c.ins) != 1 or any(n < 0 for n in numbers) or c.op.kwargs:
        return None
    if c.name == "threshold" and numbers[1] > numbers[0]:
        return None
    if given.ins[0] is None and c.name not in _RANGE and c.name not in {"elu", "selu", "celu"}:
        return None
    low, high = rounded(given, _mapped(given, given.open(0)))
    if c.name in _RANGE:
        least, most = _RANGE[c.name]
        low, high = low.clamp(least, most), high.clamp(least, most)
    return given.fit(Bound(low, high))


@bounded(*_DIPS)
def dipping(given: Given) -> Bound | None:
    """`x` times a gate between 0 and 1."""
    c = given.c
    low, high = given.open(0)
    f_low, f_high = rounded(given, _mapped(given, Bound(low, high)))
    high = torch.where(high <= 0, 0.0, torch.where(high == _INF, _INF, f_high))
    dead = given.open(0).high <= _DEAD.get(c.name, -_INF)
    low = torch.where(low >= 0, f_low.clamp(min=0.0), torch.where(dead, 0.0, _DIPS[c.name]))
    return given.fit(Bound(low, high))


@bounded("abs")
def absolute(given: Given) -> Bound | None:
    """Sizes."""
    return given.fit(_size(given.open(0)))


def _size(bound: Bound) -> Bound:
    low, high = bound
    least = torch.maximum(low, -high).clamp(min=0.0)
    return Bound(least, torch.maximum(low.abs(), high.abs()))


def _square(given: Given) -> Bound:
    low, high = _size(given.open(0))
    return given.fit(rounded(given, Bound(low * low, high * high)))


@bounded("pow", "square")
def power(given: Given) -> Bound | None:
    """Squares."""
    if given.c.name == "pow" and given.c.op.args[1] != 2:  # noqa: PLR2004
        return None
    return _square(given)


@bounded("neg")
def negative(given: Given) -> Bound | None:
    """The other sign."""
    low, high = given.open(0)
    return given.fit(Bound(-high, -low))


@bounded("clone", "alias", "detach", "contiguous", "lift_fresh", "dropout")
def same(given: Given) -> Bound | None:
    """Nothing happens (dropout is one only in eval mode)."""
    if given.c.name == "dropout" and given.c.op.args[2] is not False:
        return None
    return given.ins[0]


@bounded("copy")
def copied(given: Given) -> Bound | None:
    """The second input replaces the first."""
    return None if given.ins[1] is None else given.fit(given.ins[1])


@bounded("add", "sub")
def added(given: Given) -> Bound | None:
    """`x + alpha * y`, `x - alpha * y`."""
    op = given.c.op
    alpha = op.kwargs.get("alpha", op.args[2] if len(op.args) > 2 else 1)  # noqa: PLR2004
    x, y = given.operand(op.args[0]), given.operand(op.args[1])
    if x is None or y is None or not isinstance(alpha, (int, float)):
        return None
    scale = float(alpha) * (-1 if given.c.name == "sub" else 1)
    ends = [scale * y.low, scale * y.high] if scale >= 0 else [scale * y.high, scale * y.low]
    return given.fit(total([x.low, ends[0]], [x.high, ends[1]], 2 * given.eps))


@bounded("mul", "multiply")
def multiplied(given: Given) -> Bound | None:
    """Products; a known 0 settles them."""
    op = given.c.op
    if op.args[0] == op.args[1]:
        return _square(given)
    x, y = given.operand(op.args[0]), given.operand(op.args[1])
    if x is None or y is None:
        return None
    ends = [_product(a, b) for a in x for b in y]
    low, high = ends[0], ends[0]
    for end in ends[1:]:
        low, high = torch.minimum(low, end), torch.maximum(high, end)
    return given.fit(rounded(given, Bound(low, high)))


def _product(a: Tensor, b: Tensor) -> Tensor:
    return torch.where((a == 0) | (b == 0), 0.0, a * b)


@bounded("div", "true_divide")
def divided(given: Given) -> Bound | None:
    """Quotients by what is above 0."""
    op = given.c.op
    x, y = given.operand(op.args[0]), given.operand(op.args[1])
    if x is None or y is None or op.kwargs or not bool((y.low > 0).all()):
        return None
    low = torch.minimum(x.low / y.low, x.low / y.high)
    high = torch.maximum(x.high / y.low, x.high / y.high)
    return given.fit(rounded(given, finite(Bound(low, high))))


@bounded("maximum", "minimum")
def extreme(given: Given) -> Bound | None:
    """Never falls in either input."""
    x, y = given.open(0), given.open(1 if len(given.ins) > 1 else 0)
    pick = torch.maximum if given.c.name == "maximum" else torch.minimum
    return given.fit(Bound(pick(x.low, y.low), pick(x.high, y.high)))


@bounded("where")
def chosen(given: Given) -> Bound | None:
    """One of the two."""
    x, y = (given.operand(a) for a in given.c.op.args[1:3])
    if x is None or y is None:
        return None
    return given.fit(Bound(torch.minimum(x.low, y.low), torch.maximum(x.high, y.high)))
