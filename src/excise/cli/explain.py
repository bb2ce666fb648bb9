"""`excise explain`: what kind of zeros a model has, and what they can buy."""

from __future__ import annotations

from rich.table import Table

from excise import explain as diagnose
from excise import units
from excise.cli import input as example_input
from excise.cli.console import emit, progress, show
from excise.cli.model import resolve
from excise.cli.option import Atol, Inputs, Json, Model, Weights
from excise.exact import Diagnosis


def explain(
    model: Model,
    inputs: Inputs = None,
    weights: Weights = None,
    atol: Atol = 0.0,
    as_json: Json = False,  # noqa: FBT002 - how typer spells a flag
) -> None:
    """Tell which zeros can go exactly, why the others stay, and what to do next; builds nothing."""
    source = resolve(model, weights)
    with progress(f"reading {model}"):
        made = source.model()
        args, kwargs = example_input.example(made, model, inputs)
        found = diagnose(made, *args, atol=atol, **kwargs)
    if as_json:
        emit({"command": "explain", "model": model, **found.to_dict()})
        return
    share = 100 * found.zeros / max(found.params, 1)
    show(
        f"{model}: {units.count(found.zeros, 'parameters')} of {found.params:,} are zero "
        f"({share:.1f} %); {units.count(found.removed_params, 'parameters')} can go exactly",
        layer_table(found),
        *(f"mixing: {name} holds zero units back" for name in found.mixing),
        *(f"next: {text}" for text in found.advice()),
    )


def layer_table(found: Diagnosis) -> Table:
    """Per weight: zeros, empty filters, what goes, and why the rest stays."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("weight")
    for title in ("zeros", "empty", "filters", "removed"):
        table.add_column(title, justify="right")
    table.add_column("why zeros stay")
    for layer in found.layers:
        if not layer.zeros and not layer.removed_filters and not layer.removed_values:
            continue
        table.add_row(
            layer.name,
            f"{100 * layer.zeros / layer.values:.0f} %",
            str(layer.empty),
            str(layer.filters),
            str(layer.removed_filters),
            layer.says,
        )
    return table
