"""Between which numbers an element lies, whatever the input: rows of bounds, and their rounding.

Bounds start at activations (`relu`, `sigmoid`, `clamp`) and at stored tensors; inputs of the model
have none. A unit whose bounds meet is a constant: `relu` of a sum whose every term is at most 0.

What is said holds for rounded numbers too. Rounding is monotone, so a sum whose every term is at
most 0 is at most 0 in floating point; every other sum is given `n * eps` of its terms' sizes more
than it needs. (A convolution by way of a transform, as Winograd's, may leave rounding noise above
a bound, as it leaves it everywhere.) Inputs are taken to be finite, and so are results.

`loose` bounds hold for the model after any cut, too: there a term may also be 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from excise.exact.effect import Context, Effect
from excise.exact.fact import Fact
from excise.trace import Ref

_SPARE = 8.0
"""How many units in the last place an elementary function may be off."""
_OFF = 1e-6
"""How far, relatively, a constant computed in float64 may be from the model's own."""


class Bound(NamedTuple):
    """Every element lies between `low` and `high`, in float64; both have the small shape."""

    low: Tensor
    high: Tensor

    @property
    def met(self) -> Tensor:
        """Where there is only one number left."""
        return (self.low == self.high) & torch.isfinite(self.low)


@dataclass(frozen=True)
class Given:
    """One step with the bounds of what it reads.

    Attributes:
        c: the step.
        effect: what is known of it.
        ins: the bounds of its inputs; None where there are none.
        eps: the distance of 1 to the next number of the model's widest rounding.
        loose: whether a term may also be gone.
    """

    c: Context
    effect: Effect
    ins: Sequence[Bound | None]
    eps: float
    loose: bool

    def open(self, place: int) -> Bound:
        """The bounds of an input, infinite if there are none."""
        found = self.ins[place]
        return found if found is not None else unbounded(self.c.layout.small(self.c.ins[place]))

    def operand(self, value: object) -> Bound | None:
        """The bounds of an argument, tensor or number."""
        if isinstance(value, Ref):
            return self.ins[self.c.place(value) or 0]
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            number = torch.tensor(float(value), dtype=torch.float64)
            return Bound(number, number)
        return None

    def fit(self, bound: Bound) -> Bound:
        """Bring bounds to the small shape of the first output."""
        shape = self.c.layout.small(self.c.outs[0])
        low, high = bound
        for dim, n in enumerate(shape):
            at = dim - len(shape)
            if n == 1 and low.ndim >= -at and low.shape[at] > 1:
                low, high = low.amin(at, keepdim=True), high.amax(at, keepdim=True)
        return Bound(low.expand(shape), high.expand(shape))


BoundRow: TypeAlias = "Callable[[Given], Bound | list[Bound | None] | None]"
BOUNDS: dict[str, BoundRow] = {}


def bounded(*names: str) -> Callable[[BoundRow], BoundRow]:
    """Register the bounds of the named operations' first output."""

    def register(function: BoundRow) -> BoundRow:
        for name in names:
            BOUNDS[name] = function
        return function

    return register


def unbounded(shape: Sequence[int]) -> Bound:
    """Nothing is known."""
    high = torch.tensor(float("inf"), dtype=torch.float64).expand(tuple(shape))
    return Bound(-high, high)


def of(fact: Fact, *, stored: bool) -> Bound | None:
    """Bounds of what is known; a computed constant may be a little off."""
    if fact.value.dtype.is_complex or not bool(fact.known.any()):
        return None
    value = fact.value.double()
    low = high = value
    if not stored:
        low, high = widened(Bound(value, value), _OFF)
    whole = torch.tensor(float("inf"), dtype=torch.float64)
    return Bound(torch.where(fact.known, low, -whole), torch.where(fact.known, high, whole))


def widened(bound: Bound, share: float) -> Bound:
    """Give way by a share of each bound; a bound of 0 stays, and no sign changes."""
    if not share:
        return bound
    low, high = bound
    return Bound(low - share * low.abs(), high + share * high.abs())


def rounded(given: Given, bound: Bound, ulps: float = _SPARE) -> Bound:
    """Give way by what an elementary function may be off."""
    return finite(widened(bound, ulps * given.eps))


def finite(bound: Bound) -> Bound:
    """What came out as no number is unknown."""
    low = torch.where(bound.low.isnan(), -float("inf"), bound.low)
    return Bound(low, torch.where(bound.high.isnan(), float("inf"), bound.high))


def total(lows: Sequence[Tensor], highs: Sequence[Tensor], share: float) -> Bound:
    """Bounds of a sum; `share` of the terms' sizes is what rounding may do, but no change of sign.

    Where all terms are at most 0, so is their sum.
    """
    return finite(Bound(-_high([-t for t in lows], share), _high(highs, share)))


def _high(terms: Sequence[Tensor], share: float) -> Tensor:
    whole, sizes = sum(terms), share * sum(t.abs() for t in terms)
    assert isinstance(whole, Tensor)  # noqa: S101 - for the type checker
    positive = torch.stack(torch.broadcast_tensors(*[t > 0 for t in terms])).any(0)
    found = whole + sizes
    return torch.where(positive, found, found.clamp(max=0.0))


def times(number: Tensor, bound: Tensor) -> Tensor:
    """A product in which 0 times anything is 0."""
    return torch.where(number == 0, 0.0, number * bound)
