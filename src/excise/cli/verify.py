"""`excise verify`: prove a saved cut against the original."""

from __future__ import annotations

import typer

from excise import load
from excise import verify as prove
from excise.cli import input as example_input
from excise.cli.console import emit, progress, show
from excise.cli.model import resolve
from excise.cli.option import Inputs, Json, Model, Small, Weights
from excise.cli.table import verdict_data
from excise.files import read_plan

_REFUTED = 1  # the exit code when a check says no


def verify(
    model: Model,
    small: Small,
    *,
    inputs: Inputs = None,
    weights: Weights = None,
    as_json: Json = False,
) -> None:
    """Prove that a saved model equals the original with the same units silenced.

    Exits with 1 if it does not. A model that was trained or refitted after the cut (`excise prune
    --calibration`, which proves it before) does not, by design.
    """
    source = resolve(model, weights)
    plan = read_plan(small)
    with progress(f"proving {small}"):
        made = source.model()
        again = load(small, source.build)
        args, kwargs = example_input.example(made, model, inputs)
        verdict = prove(made, again, plan, *args, **kwargs)
    if as_json:
        removed = {name: len(units) for name, units in plan.removed.items()}
        emit(
            {
                "command": "verify",
                "model": model,
                "file": str(small),
                "removed_units": removed,
                "verdict": verdict_data(verdict),
            }
        )
    else:
        show(f"verdict: {verdict}")
        if not verdict.passed:
            show(
                "a model that was trained or refitted after the cut differs by design; otherwise "
                "check that --weights are the ones it was cut from"
            )
    if not verdict.passed:
        raise typer.Exit(_REFUTED)
