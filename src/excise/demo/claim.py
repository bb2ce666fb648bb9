"""A claim of the demo: a sentence that this run shows to hold, or not."""

from __future__ import annotations

from typing import NamedTuple


class Claim(NamedTuple):
    """A sentence, whether it held in this run, and the numbers that say so, with their units."""

    text: str
    holds: bool
    evidence: str

    def __str__(self) -> str:
        return f"{'holds' if self.holds else 'FAILS'}: {self.text} ({self.evidence})"
