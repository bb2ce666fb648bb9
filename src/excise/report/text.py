"""The report as a table for people."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from excise.measure import Latency
from excise.report.row import Row


def table(rows: Sequence[Row], times: Sequence[Latency | None]) -> Group:
    """A rich table (before, after, what is kept) and the conditions that the times depend on."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    grid.add_column("")
    for title in ("before", "after", "kept"):
        grid.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        if row.before is None and row.after is None:
            continue
        grid.add_row(row.name, row.say(row.before), row.say(row.after), row.change())
        if row.unit == "ms" and any(times):
            spreads = ["" if time is None else time.spread for time in times]
            grid.add_row("latency, quartiles", *spreads, "", style="dim")
    return Group(grid, *(Text(line, style="dim") for line in conditions(times)))


def conditions(times: Sequence[Latency | None]) -> list[str]:
    """One line that says on what the times were measured, or one for each side if they differ."""
    found = [time for time in times if time is not None]
    if not found:
        return []
    where = {(time.threads, time.hardware) for time in found}
    if len(where) > 1:
        return [f"measured over {time.conditions}" for time in found]
    runs = " and ".join(f"{time.repeats}" for time in found)
    return [f"measured over {runs} runs{found[0].conditions.partition(' runs')[2]}"]


def render(rows: Sequence[Row], times: Sequence[Latency | None], width: int) -> str:
    """The table as plain text, without colour, at most `width` characters wide."""
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, highlight=False)
    console.print(table(rows, times))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
