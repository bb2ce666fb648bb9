"""What was proved, and how."""

from __future__ import annotations

import math
from dataclasses import dataclass

from excise.errors import VerificationError

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Verdict:
    """What was proved, and how.

    Attributes:
        kind: `exact` (removed equals silenced), `exact-with-mixing` (equal to a reference in which
            the operations in `mixing` are told which units exist) or `unproved`.
        worst: largest difference, relative to the largest value of that output, in float64.
        outputs: the same for each output tensor, by path.
        mixing: the operations that mix units of a cut axis, by name and module.
        tolerance: what `worst` had to stay below.
        reason: why nothing could be proved; empty otherwise.
        ties: operations that chose between numbers which are equal up to rounding (the order of
            two equal scores), by name and module; there the original was made to choose as the cut
            model did, and nowhere else.
    """

    kind: str
    worst: float
    outputs: tuple[tuple[str, float], ...]
    mixing: tuple[str, ...]
    tolerance: float = TOLERANCE
    reason: str = ""
    ties: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the cut is proved. NaN never passes."""
        return self.kind != "unproved" and self.worst <= self.tolerance

    def check(self) -> None:
        """Raise unless the cut is proved.

        Raises:
            VerificationError: the outputs differ, or nothing could be proved.
        """
        if not self.passed:
            output = (
                max(self.outputs, key=lambda o: o[1] if o[1] == o[1] else float("inf"))[0]
                if (self.outputs)
                else (self.reason or "none")
            )
            raise VerificationError(self.worst, self.tolerance, output, reason=self.reason)

    def __str__(self) -> str:
        if self.kind == "unproved":
            return f"not proved: {self.reason}"
        said = "proved" if self.passed else "WRONG"
        against = "the silenced original"
        if self.mixing:
            kinds = sorted({name.split(" ")[0] for name in self.mixing})
            against += f", told which units exist at {len(self.mixing)} ops ({', '.join(kinds)})"
        if self.ties:
            kinds = sorted({name.split(" ")[0] for name in self.ties})
            against += f", equal numbers put in one order at {len(self.ties)} ops"
            against += f" ({', '.join(kinds)})"
        return (
            f"{said}: equals {against}; worst relative difference {self.worst:.2g} in float64 "
            f"(allowed {self.tolerance:.0e})"
        )


def unproved(reason: str) -> Verdict:
    """The verdict where nothing could be proved."""
    return Verdict("unproved", float("nan"), (), (), reason=reason)


def largest(outputs: tuple[tuple[str, float], ...]) -> float:
    """The largest difference of all outputs; infinite if one is not a number."""
    return max((d for _, d in outputs), key=nan_last, default=0.0)


def nan_last(difference: float) -> float:
    """A difference to sort by: one that is not a number is larger than all others."""
    return float("inf") if math.isnan(difference) else difference
