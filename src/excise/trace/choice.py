"""Choices: results that jump where numbers are equal, such as an order, an index or a comparison.

Two runs that compute the same numbers round differently, and then may order equal numbers
differently. What follows differs, although nothing is wrong. A run can be made to choose as another
one did, but only where both had the same numbers to choose from.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from excise.trace.program import Op, Ref, Trace

STEPS = frozenset(
    ["round", "floor", "ceil", "trunc", "sign", "sgn", "floor_divide", "remainder", "fmod", "frac",
     "heaviside"]
)  # fmt: skip
"""Operations whose real result jumps."""


class Choice(NamedTuple):
    """What an operation was given, and what came of it."""

    given: list[Tensor]
    made: list[Tensor]


def chooses(trace: Trace, op: Op) -> bool:
    """Whether an operation turns real numbers into a choice: whole numbers, masks, or a step."""

    def real(refs: tuple[Ref, ...] | list[Ref]) -> list[bool]:
        return [trace.tensors[ref.number].floating for ref in refs]

    return any(real(op.inputs())) and (op.name.rstrip("_") in STEPS or not all(real(op.outs)))


def alike(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> bool:
    """Whether two runs had the same numbers up to rounding, relative to the largest of each."""
    return len(ours) == len(theirs) and all(
        a.shape == b.shape and _near(a, b, tolerance) for a, b in zip(ours, theirs, strict=True)
    )


def _near(a: Tensor, b: Tensor, tolerance: float) -> bool:
    if torch.equal(a, b):
        return True
    if not a.is_floating_point() and not a.is_complex():
        return False
    apart = (a - b).abs()[a != b]  # infinities that are equal have no difference
    finite = a.abs()[a.abs().isfinite()]
    largest = finite.max() if finite.numel() else apart.new_zeros(())
    return bool((apart <= tolerance * largest).all())


def followed(name: str, own: list[Tensor], made: list[Tensor]) -> list[Tensor]:
    """What an operation returns if it chooses as another run did.

    Real numbers that come with a choice (the values beside the indices of a sort) stay its own,
    unless their number depends on it.
    """
    same = [a.shape for a in own] == [b.shape for b in made]
    if name.rstrip("_") in STEPS or not same:
        return made
    return [
        a if a.is_floating_point() or a.is_complex() else b for a, b in zip(own, made, strict=True)
    ]
