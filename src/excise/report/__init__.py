"""Before and after, side by side: as a value, as text, as JSON."""

from excise.report.data import Report
from excise.report.row import Row

__all__ = ["Report", "Row"]
