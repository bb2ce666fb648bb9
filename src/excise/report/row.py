"""One line of a report: a quantity before and after, in its unit."""

from __future__ import annotations

from typing import NamedTuple

from excise import units
from excise.errors import InvalidTargetError

_PERCENT = "%"


class Row(NamedTuple):
    """A quantity of two models; None where it was not measured."""

    name: str
    unit: str
    before: float | None
    after: float | None

    @classmethod
    def named(cls, title: str, before: float, after: float) -> Row:
        """A row from a title that ends in its unit: `accuracy [%]`.

        Raises:
            InvalidTargetError: the title names no unit.
        """
        name, bracket, rest = title.partition("[")
        unit, closing, _ = rest.partition("]")
        if not (name.strip() and bracket and unit and closing):
            raise InvalidTargetError("row", repr(title), "a title with its unit: 'accuracy [%]'")
        return cls(name.strip(), unit.strip(), float(before), float(after))

    @property
    def kept(self) -> float | None:
        """After as a fraction of before; None where that says nothing."""
        if self.before is None or self.after is None or not self.before:
            return None
        return self.after / self.before

    def say(self, value: float | None) -> str:
        """A number of this row with its unit."""
        if value is None:
            return "not measured"
        if self.unit == "bytes":
            return units.size(value)
        if self.unit == "ms":
            return units.milliseconds(value)
        if self.unit in {"parameters", "MACs"}:
            return units.count(value, self.unit)
        return f"{value:.4g} {self.unit}"

    def change(self) -> str:
        """What became of it: a share that is kept, or for percentages a difference in points.

        >>> Row("latency", "ms", 8.0, 2.0).change(), Row("accuracy", "%", 98.5, 97.0).change()
        ('25.0 %', '-1.50 points')
        """
        if self.before is None or self.after is None:
            return ""
        if self.unit == _PERCENT:
            return f"{self.after - self.before:+.2f} points"
        return "" if self.kept is None else f"{100 * self.kept:.1f} %"
