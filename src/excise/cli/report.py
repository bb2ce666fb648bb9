"""`excise report`: the original and a saved cut, side by side."""

from __future__ import annotations

from excise import load
from excise.cli import input as example_input
from excise.cli.console import emit, progress, show
from excise.cli.model import resolve
from excise.cli.option import Inputs, Json, Model, Small, Timed, Weights
from excise.cli.table import report_table
from excise.files import read_plan
from excise.measure import everything
from excise.report import Report


def report(
    model: Model,
    small: Small,
    *,
    inputs: Inputs = None,
    weights: Weights = None,
    latency: Timed = True,
    as_json: Json = False,
) -> None:
    """Measure the original and a saved model: parameters, MACs, bytes, milliseconds."""
    source = resolve(model, weights)
    plan = read_plan(small)
    with progress(f"measuring {model} and {small}"):
        made = source.model()
        again = load(small, source.build).eval()
        args, kwargs = example_input.example(made, model, inputs)
        before = everything(made, *args, latency=latency, **kwargs)
        found = Report(before, everything(again, *args, latency=latency, **kwargs))
    if as_json:
        removed = {name: len(units) for name, units in plan.removed.items()}
        emit(
            {
                "command": "report",
                "model": model,
                "file": str(small),
                "removed_units": removed,
                "report": found.to_dict(),
            }
        )
        return
    cut = sum(map(len, plan.removed.values()))
    gone = f", {len(plan.branches)} branches" if plan.branches else ""
    said = f"{small}: {cut} units removed from {len(plan.removed)} groups{gone}"
    show(said, report_table(found))
