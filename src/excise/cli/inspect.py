"""`excise inspect`: what may be cut, what may not, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.table import Table

from excise import units
from excise.branch import Branches, branches
from excise.cli import input as example_input
from excise.cli.console import emit, progress, show
from excise.cli.model import resolve
from excise.cli.option import Inputs, Json, Model, Weights
from excise.graph import AxisGraph, Pin, Slot, trace

_SLOTS = 3
Axes = Annotated[bool, typer.Option("--axes", help="Print every tensor's axes, one per line.")]


def inspect(
    model: Model,
    *,
    inputs: Inputs = None,
    weights: Weights = None,
    axes: Axes = False,
    as_json: Json = False,
) -> None:
    """List the groups that may be cut, the pins (axes that stay, and why), and whole branches."""
    source = resolve(model, weights)
    with progress(f"reading {model}"):
        made = source.model()
        args, kwargs = example_input.example(made, model, inputs)
        graph = trace(made, *args, **kwargs)
        found = branches(graph)
    if as_json:
        emit({"command": "inspect", "model": model, **plain(graph), "branches": whole(found)})
        return
    show(
        f"{model}: {units.count(graph.params(), 'parameters')}, "
        f"{units.count(graph.macs(), 'MACs')} on this input; {100 * graph.cuttable_share():.1f} % "
        "of the parameters lie on an axis that may be cut",
        *((str(graph),) if axes else ()),
        _groups(graph),
        _pins(graph.pins),
        *([_branches(found)] if found.found or found.refused else []),
    )


def plain(graph: AxisGraph) -> dict[str, Any]:
    """The graph as plain data."""
    return {
        "params": graph.params(),
        "macs": graph.macs(),
        "cuttable_share_of_params": graph.cuttable_share(),
        "groups": [
            {
                "name": g.name,
                "units": g.size,
                "tied": list(g.tied),
                "slots": [str(slot) for slot in g.slots],
            }
            for g in graph.groups
        ],
        "pins": [
            {
                "axis": p.axis,
                "units": p.size,
                "reason": p.reason,
                "where": p.where,
                "slots": [str(slot) for slot in p.slots],
            }
            for p in graph.pins
        ],
        "axes": dict(line.split(maxsplit=1) for line in str(graph).splitlines() if " " in line),
    }


def whole(found: Branches) -> dict[str, Any]:
    """Residual branches as plain data."""
    removable = [{"name": b.name, "modules": [m.module for m in b.modules]} for b in found.found]
    return {"removable": removable, "refused": [each._asdict() for each in found.refused]}


def _branches(found: Branches) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("residual branch")
    table.add_column("with --depth")
    for branch in found.found:
        table.add_row(branch.name, "may go")
    for each in found.refused:
        place = f" ({each.where})" if each.where else ""
        table.add_row(each.name, f"stays: {each.reason}{place}")
    return table


def _groups(graph: AxisGraph) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("group, may be cut")
    table.add_column("units", justify="right")
    table.add_column("carried by")
    for group in graph.groups:
        table.add_row(group.name, str(group.size), _carried(group.slots))
    return table


def _pins(pins: Sequence[Pin]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("pin, stays")
    table.add_column("units", justify="right")
    table.add_column("why")
    for pin in pins:
        place = f" ({pin.where})" if pin.where else ""
        table.add_row(pin.axis, str(pin.size), f"{pin.reason}{place}")
    return table


def _carried(slots: Sequence[Slot]) -> str:
    named = ", ".join(str(slot) for slot in slots[:_SLOTS])
    return named + (f" and {len(slots) - _SLOTS} more" if len(slots) > _SLOTS else "")
