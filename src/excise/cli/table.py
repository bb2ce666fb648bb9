"""What several commands print in the same way."""

from __future__ import annotations

from typing import Any

from rich.console import Group

from excise.report import Report
from excise.report.text import table
from excise.verify import Verdict


def report_table(report: Report) -> Group:
    """A report as a table with its conditions."""
    return table(report.rows, (report.before.latency, report.after.latency))


def verdict_data(verdict: Verdict | None) -> dict[str, Any] | None:
    """A verdict as plain data."""
    if verdict is None:
        return None
    return {
        "passed": verdict.passed,
        "kind": verdict.kind,
        "worst_relative_difference": verdict.worst,
        "tolerance": verdict.tolerance,
        "outputs": dict(verdict.outputs),
        "mixing": list(verdict.mixing),
        "ties": list(verdict.ties),
        "reason": verdict.reason,
    }
