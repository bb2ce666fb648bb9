"""`excise demo`: the main job on an embedded default."""

from __future__ import annotations

import typer
from rich.table import Table
from rich.text import Text

from excise import units
from excise.cli.console import emit, progress, show
from excise.cli.option import Json
from excise.cli.table import verdict_data
from excise.demo import Outcome, run

_FAILED = 1  # the exit code when a claim does not hold


def demo(*, as_json: Json = False) -> None:
    """Train a network, mask it (nothing changes), cut it (it shrinks), and check each claim."""
    with progress("starting") as tell:
        outcome = run(tell)
    if as_json:
        verdict = verdict_data(outcome.verdict)
        emit({"command": "demo", **outcome.to_dict(), "verdict": verdict})
    else:
        show(_table(outcome), *_notes(outcome), "", *map(str, outcome.claims))
    if not outcome.holds:
        raise typer.Exit(_FAILED)


def _table(outcome: Outcome) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for title in ("parameters", "MACs, 1 image", "file", "latency", "accuracy"):
        table.add_column(title, justify="right", no_wrap=True)
    for stage in outcome.stages:
        table.add_row(
            stage.name,
            f"{stage.params:,}",
            units.count(stage.macs, "MACs"),
            units.size(stage.file_bytes),
            units.milliseconds(stage.latency.median_ms),
            f"{stage.accuracy:.1f} %",
        )
    return table


def _notes(outcome: Outcome) -> tuple[Text, ...]:
    time = outcome.stages[0].latency
    return (
        Text(
            f"latency: {outcome.batch} images at once, median of {time.conditions}; the quietest "
            "of several rounds that take turns",
            style="dim",
        ),
        Text(
            f"masks: torch.nn.utils.prune left {outcome.zeros:.1f} % of the convolution weights "
            "zero, and every tensor its shape",
            style="dim",
        ),
    )
