"""The report as a value: two measurements, and rows made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from excise.measure import Measurement, Speedup
from excise.report import json, text
from excise.report.row import Row


@dataclass(frozen=True)
class Report:
    """What a cut won, and what it cost.

    Attributes:
        before: the model before the cut.
        after: the model after it.
        extra: further rows, such as `{"accuracy [%]": (98.2, 97.9)}`; a name ends in its unit.
        speedup: how many times faster, if both were timed in turns.
    """

    before: Measurement
    after: Measurement
    extra: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    speedup: Speedup | None = None

    def __post_init__(self) -> None:
        for title, (before, after) in self.extra.items():
            Row.named(title, before, after)  # refuses a number without a unit, before it is printed

    @property
    def rows(self) -> tuple[Row, ...]:
        """Every quantity, in the order in which it is printed."""
        a, b = self.before, self.after
        times = [None if m.latency is None else m.latency.median_ms for m in (a, b)]
        return (
            Row("parameters", "parameters", a.params, b.params),
            Row("multiply-adds", "MACs", a.macs, b.macs),
            Row("in a file", "bytes", a.file_bytes, b.file_bytes),
            Row("in memory", "bytes", a.memory_bytes, b.memory_bytes),
            Row("latency, median", "ms", times[0], times[1]),
            *(Row.named(title, *pair) for title, pair in self.extra.items()),
        )

    def kept(self) -> dict[str, float]:
        """After as a fraction of before, by row name; rows without a sensible one are left out."""
        return {row.name: row.kept for row in self.rows if row.kept is not None}

    def text(self, width: int = 100) -> str:
        """A table for people, plain text without colour."""
        found = text.render(self.rows, (self.before.latency, self.after.latency), width)
        return found if self.speedup is None else f"{found}\n{self.speedup}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; keys carry the unit where the name does not say it."""
        found = json.plain(self.before, self.after, self.extra, self.kept())
        return found if self.speedup is None else {**found, "speedup": self.speedup.to_dict()}

    def to_json(self) -> str:
        """`to_dict` as one JSON object."""
        return json.render(self.to_dict())

    def __str__(self) -> str:
        return self.text()
