"""`excise shrink`: a masked model becomes smaller, exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.table import Table

from excise import save, units
from excise import shrink as cut
from excise.cli import input as example_input
from excise.cli.console import emit, progress, show
from excise.cli.explain import layer_table
from excise.cli.model import resolve
from excise.cli.option import Atol, Inputs, Json, Model, Timed, Weights
from excise.cli.table import report_table
from excise.shrink import Shrinkage

Flush = Annotated[bool, typer.Option("--flush-subnormals", help="Subnormal weights become zero.")]
Output = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads this at run time on every Python
    typer.Option("--output", "-o", help="Where to save the small model, as safetensors."),
]


def shrink(  # noqa: PLR0917 - typer passes every option by place
    model: Model,
    inputs: Inputs = None,
    weights: Weights = None,
    atol: Atol = 0.0,
    flush_subnormals: Flush = False,  # noqa: FBT002 - how typer spells a flag
    output: Output = None,
    latency: Timed = True,  # noqa: FBT002 - as above
    as_json: Json = False,  # noqa: FBT002 - as above
) -> None:
    """Remove what zeros let go, exactly, and save the small model; masks may be attached."""
    source = resolve(model, weights)
    with progress(f"shrinking {model}"):
        made = source.model()
        args, kwargs = example_input.example(made, model, inputs)
        small, report = cut(
            made, *args, atol=atol, flush_subnormals=flush_subnormals, latency=latency, **kwargs
        )
        if output is not None:
            save(small, report.plan, output)
    if as_json:
        saved = None if output is None else str(output)
        emit({"command": "shrink", "model": model, **report.to_dict(), "saved": saved})
        return
    many = units.count(len(report.checks), "comparisons")
    show(
        _columns(report),
        report_table(report.bought),
        layer_table(report.diagnosis),
        f"equal: worst relative difference {report.worst:.2g} in {many}",
        "not saved: pass -o small.safetensors" if output is None else f"saved: {output}",
    )


def _columns(report: Shrinkage) -> Table:
    """What is zero, what was removed, what it bought."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("what is zero", "what was removed", "what it bought"):
        table.add_column(title)
    table.add_row(*("\n".join(column) for column in report.columns()))
    return table
