"""What a refit did, consumer by consumer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Repair(NamedTuple):
    """What became of one consumer.

    Attributes:
        weight: its parameter's name.
        before: mean squared error of its output against the dense model's, as a share of the dense
            output's variance, on rows that were held out; with the weights as they were cut.
        after: the same with the new weights; equal to `before` if they were kept.
        ridge: the regularisation that was chosen; None if only the bias changed, or nothing.
        batches: that were there, of all ranks.
    """

    weight: str
    before: float
    after: float
    ridge: float | None
    batches: int


@dataclass(frozen=True)
class Refit:
    """What a refit did.

    Attributes:
        repairs: consumer by consumer, in order of execution.
        samples: that it had.
        recalibrated: whether batch norms have new statistics.
    """

    repairs: tuple[Repair, ...] = field(repr=False)
    samples: int
    recalibrated: bool = False

    def __str__(self) -> str:
        return "\n".join(
            f"{r.weight}: error {r.before:.3g} -> {r.after:.3g} of the output's variance"
            for r in self.repairs
        )
