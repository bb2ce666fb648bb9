"""`excise prune`: read, plan, cut, prove, measure, save."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional, cast

import typer

from excise import prune as cut
from excise import save
from excise.budget import DEFAULT_MIN_KEEP
from excise.cli import input as example_input
from excise.cli.console import emit, progress, show
from excise.cli.model import resolve
from excise.cli.option import Inputs, Json, Model, Timed, Weights
from excise.cli.table import report_table, verdict_data
from excise.errors import RequestError
from excise.scores import CALIBRATED

_NEEDS_GRADIENTS = frozenset({"taylor"})
Keep = Optional[float]  # noqa: UP045 - typer reads this at run time on every Python
KeepMacs = Annotated[Keep, typer.Option(help="Fraction of multiply-adds to keep, in (0, 1].")]
KeepParams = Annotated[Keep, typer.Option(help="Fraction of parameters to keep, in (0, 1].")]
KeepBytes = Annotated[Keep, typer.Option(help="Fraction of the state's bytes to keep, in (0, 1].")]
KeepPeak = Annotated[
    Keep, typer.Option(help="Fraction of the peak activation memory to keep, in (0, 1].")
]
KeepUnits = Annotated[Keep, typer.Option(help="Fraction of units to keep, in (0, 1].")]
Faster = Annotated[
    Keep, typer.Option(help="Times as fast as before, measured here on the example input.")
]
LatencyMs = Annotated[
    Keep, typer.Option(help="Milliseconds of a pass on the example input, measured here.")
]
Criterion = Annotated[
    Optional[str],  # noqa: UP045 - as below
    typer.Option(
        help="magnitude, l1, l2, random, bn_scale, fpgm or lamp; with --calibration also obs, "
        "wanda, flap or fisher. By default obs with --calibration, else magnitude.",
    ),
]
Calibration = Annotated[
    Optional[list[str]],  # noqa: UP045 - as below
    typer.Option(
        "--calibration",
        metavar="[NAME=]FILE",
        help="Inputs that the model will see, a few hundred: a .npy or .pt file for each input, "
        "the samples along its first dimension. What is left is refitted on them.",
    ),
]
Depth = Annotated[
    bool,
    typer.Option("--depth", help="Whole residual branches may go as well; needs --calibration."),
]
RoundTo = Annotated[int, typer.Option(help="Keep a multiple of this many units per group.")]
MinKeep = Annotated[
    float, typer.Option(help="Least to keep of each group: units if >= 1, else a fraction.")
]
Protect = Annotated[
    Optional[list[str]],  # noqa: UP045 - as above
    typer.Option(help="Module or pattern such as 'layer1.*' that stays whole; repeatable."),
]
Uniform = Annotated[
    bool,
    typer.Option(
        "--uniform", help="Cut repeated layers alike, within what the model's configuration says."
    ),
]
Output = Annotated[
    Optional[Path],  # noqa: UP045 - as above
    typer.Option(
        "--output", "-o",
        help="Where to save the small model, as safetensors; with --uniform also a folder that "
        "`from_pretrained` reads.",
    ),
]  # fmt: skip


def prune(
    model: Model,
    *,
    inputs: Inputs = None,
    weights: Weights = None,
    keep_macs: KeepMacs = None,
    keep_params: KeepParams = None,
    keep_bytes: KeepBytes = None,
    keep_peak_memory: KeepPeak = None,
    keep_units: KeepUnits = None,
    speedup: Faster = None,
    latency_ms: LatencyMs = None,
    calibration: Calibration = None,
    criterion: Criterion = None,
    round_to: RoundTo = 1,
    min_keep: MinKeep = DEFAULT_MIN_KEEP,
    protect: Protect = None,
    uniform: Uniform = False,
    depth: Depth = False,
    output: Output = None,
    latency: Timed = True,
    as_json: Json = False,
) -> None:
    """Remove units to a budget, prove that removed equals silenced, and save the small model."""
    _check(criterion, output, folder=uniform, calibrated=bool(calibration))
    if depth and not calibration:
        raise RequestError("depth needs calibration data", "--depth", "pass --calibration FILE")
    source = resolve(model, weights)
    with progress(f"cutting {model}"):
        made = source.model()
        if output is not None and output.is_dir() and not hasattr(made, "save_pretrained"):
            do = "name a file; only a model with `save_pretrained` fills a folder"
            raise RequestError(f"{output} is a folder", "--output", do)
        args, kwargs = example_input.example(made, model, inputs)
        pruned = cut(
            made,
            *args,
            keep_macs=keep_macs,
            keep_params=keep_params,
            keep_bytes=keep_bytes,
            keep_peak_memory=keep_peak_memory,
            keep_units=keep_units,
            speedup=speedup,
            latency_ms=latency_ms,
            calibration=example_input.calibration(calibration),
            criterion=criterion,
            round_to=round_to,
            min_keep=min_keep,
            protect=tuple(protect or ()),
            uniform=uniform,
            depth=depth,
            latency=latency,
            **kwargs,
        )
        if output is not None and output.is_dir():
            cast("Any", pruned.model).save_pretrained(output)
        elif output is not None:
            save(pruned.model, pruned.plan, output)
    names = [branch.name for branch in pruned.plan.branches]
    if as_json:
        gone = {"removed_branches": names} if depth else {}
        emit(
            {
                "command": "prune",
                "model": model,
                "removed_units": {k: len(v) for k, v in pruned.plan.removed.items()},
                **gone,
                "report": pruned.report.to_dict(),
                "verdict": verdict_data(pruned.verdict),
                "saved": None if output is None else str(output),
            }
        )
        return
    saved = "not saved: pass -o small.safetensors" if output is None else f"saved: {output}"
    faster = [] if pruned.report.speedup is None else [f"speed: {pruned.report.speedup}"]
    faster += [f"branches removed: {', '.join(names)}"] if names else []
    show(report_table(pruned.report), *faster, f"verdict: {pruned.verdict}", saved)


def _check(criterion: str | None, output: Path | None, *, folder: bool, calibrated: bool) -> None:
    """Refuse at once what would be refused after minutes of work."""
    if criterion in _NEEDS_GRADIENTS:
        do = "call excise.prune from Python, after loss.backward()"
        raise RequestError(f"{criterion} needs gradients", "--criterion", do)
    if criterion in CALIBRATED and not calibrated:
        do = "pass --calibration FILE"
        raise RequestError(f"{criterion} needs calibration data", "--criterion", do)
    if output is not None and folder and output.is_dir():
        return
    if output is not None and (output.is_dir() or not output.absolute().parent.is_dir()):
        what = f"{output} is a folder" if output.is_dir() else f"{output.parent} is no folder"
        raise RequestError(what, "--output", "name a file in a folder that exists")
